"""Import what a notebook defines (imports, functions, classes), not what it runs."""

import ast
import json
import linecache
import sys
import types
from pathlib import Path

DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)


def import_notebook(path):
    """Return the notebook at path as a module; tracebacks show the notebook's lines."""
    path = Path(path)
    module = types.ModuleType(path.stem)
    sys.modules[path.stem] = module
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            source, name = "".join(cell["source"]), f"{path}, cell {cell['id']}"
            lines = source.splitlines(keepends=True)
            linecache.cache[name] = (len(source), None, lines, name)
            tree = ast.parse(source, name)
            tree.body = [node for node in tree.body if isinstance(node, DEFINITIONS)]
            exec(compile(tree, name, "exec"), module.__dict__)  # noqa: S102
    return module
