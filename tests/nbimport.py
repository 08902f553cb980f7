"""Import what a notebook defines (imports, functions, classes), not what it runs."""

import ast
import contextlib
import json
import linecache
import re
import sys
import types
from pathlib import Path

ROOT = Path(__file__).parent.parent
DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
# Calls that are cheap and change nothing: with `skipped`, assignments may make them.
CHEAP = {"jit", "partial", "vmap", "len", "range", "log", "float", "int", "tuple"}


def is_cheap(node):
    """Whether node binds names without a call, or with cheap ones; a lambda's body runs later."""
    later = isinstance(getattr(node, "value", None), ast.Lambda)
    calls = [] if later else [n.func for n in ast.walk(node) if isinstance(n, ast.Call)]
    names = {getattr(call, "attr", getattr(call, "id", None)) for call in calls}
    return isinstance(node, (ast.Assign, ast.AnnAssign)) and names <= CHEAP


def import_notebook(path=ROOT / "bernoulli_em.ipynb", skipped=None):
    """Return the notebook at path as a module; tracebacks show the notebook's lines.

    With a list `skipped`, for a stranger's notebook, cheap assignments are made, too, as their
    functions may read them; what fails is left out and noted there, in place of an error.
    """
    module = types.ModuleType(Path(path).stem)
    sys.modules[module.__name__] = module

    @contextlib.contextmanager
    def noted(number):
        try:
            yield
        except Exception as error:
            if skipped is None:
                raise
            skipped.append(f"cell {number}: {type(error).__name__}: {error}")

    for number, cell in enumerate(json.loads(Path(path).read_text("utf-8"))["cells"], 1):
        source, name = "".join(cell["source"]), f"{path}, cell {number}"
        if cell["cell_type"] == "code" and not source.startswith("%%"):
            source = re.sub(r"(?m)^([ \t]*)(?:[%!?].*|[\w.]+\?+[ \t]*)$", r"\1pass", source)
            linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
            with noted(number):
                for node in ast.parse(source, name).body:
                    if isinstance(node, DEFINITIONS) or (skipped is not None and is_cheap(node)):
                        with noted(number):
                            exec(compile(ast.Module([node], []), name, "exec"), vars(module))  # noqa: S102
    return module
