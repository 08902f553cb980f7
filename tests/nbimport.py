"""Import what a notebook defines (imports, functions, classes), not what it runs."""

import ast
import json
import linecache
import re
import sys
import types
from pathlib import Path

DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
# Calls that make a function of another one.
WRAPPERS = {"jit", "partial", "vmap"}


def is_constant(node):
    """Whether node binds names to something cheap: no calls, or only jax.jit and the like."""
    calls = [call.func for call in ast.walk(node) if isinstance(call, ast.Call)]
    names = {getattr(call, "attr", getattr(call, "id", None)) for call in calls}
    return isinstance(node, (ast.Assign, ast.AnnAssign)) and names <= WRAPPERS


def import_notebook(path, constants=False):
    """Return the notebook at path as a module; tracebacks show the notebook's lines.

    With constants, assignments that can be evaluated cheaply are made, too: a stranger's
    functions may read them.
    """
    path = Path(path)
    module = types.ModuleType(path.stem)
    sys.modules[path.stem] = module
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] == "code":
            source, name = "".join(cell["source"]), f"{path}, cell {cell.get('id', number)}"
            source = re.sub(r"(?m)^\s*[%!].*$", "pass", source)
            lines = source.splitlines(keepends=True)
            linecache.cache[name] = (len(source), None, lines, name)
            for node in ast.parse(source, name).body:
                constant = constants and is_constant(node)
                if isinstance(node, DEFINITIONS) or constant:
                    code = compile(ast.Module([node], []), name, "exec")
                    try:
                        exec(code, module.__dict__)  # noqa: S102
                    except NameError:
                        if not constant:  # one that needs what the notebook runs
                            raise
    return module
