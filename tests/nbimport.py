"""Import what a notebook defines (imports, functions, classes), not what it runs."""

import ast
import json
import linecache
import re
import sys
import types
from pathlib import Path

DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
# Calls that are cheap and change nothing: with `skipped`, assignments may make them.
CHEAP = {"jit", "partial", "vmap", "len", "range", "log", "float", "int", "tuple"}


def is_cheap(node):
    """Whether node binds names without a call, or with cheap ones; a lambda's body runs later."""
    if not isinstance(node, (ast.Assign, ast.AnnAssign)) or node.value is None:
        return False
    if isinstance(node.value, ast.Lambda):
        return True
    calls = [call.func for call in ast.walk(node.value) if isinstance(call, ast.Call)]
    return {getattr(call, "attr", getattr(call, "id", None)) for call in calls} <= CHEAP


def import_notebook(path, skipped=None):
    """Return the notebook at path as a module; tracebacks show the notebook's lines.

    With a list `skipped`, for a stranger's notebook, cheap assignments are made, too, as their
    functions may read them; what fails is left out and noted there, in place of an error.
    """
    path = Path(path)
    module = types.ModuleType(path.stem)
    sys.modules[path.stem] = module
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"], 1):
        source, name = "".join(cell["source"]), f"{path}, cell {number}"
        if cell["cell_type"] != "code" or source.startswith("%%"):
            continue
        source = re.sub(r"(?m)^([ \t]*)(?:[%!?].*|[\w.]+\?+[ \t]*)$", r"\1pass", source)
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        try:
            nodes = ast.parse(source, name).body
        except SyntaxError as error:
            if skipped is None:
                raise
            skipped.append(f"cell {number}: {type(error).__name__}: {error.msg}")
            continue
        for node in nodes:
            if isinstance(node, DEFINITIONS) or (skipped is not None and is_cheap(node)):
                try:
                    exec(compile(ast.Module([node], []), name, "exec"), module.__dict__)  # noqa: S102
                except Exception as error:
                    if skipped is None:
                        raise
                    skipped.append(f"cell {number}: {type(error).__name__}: {error}")
    return module
