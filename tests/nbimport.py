"""Import what a notebook defines, without running what it computes.

Taken are imports, functions, classes, and assignments of plain values, lambdas and jitted
functions. Whatever fails, in somebody else's notebook, is left out with a warning.
"""

import ast
import json
import linecache
import sys
import types
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

IMPORTS = (ast.Import, ast.ImportFrom)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
ASSIGNMENTS = (ast.Assign, ast.AnnAssign)
PLAIN = (
    ast.Constant,
    ast.Tuple,
    ast.List,
    ast.Set,
    ast.Dict,
    ast.UnaryOp,
    ast.BinOp,
    ast.Name,
    ast.Attribute,
    ast.unaryop,
    ast.operator,
    ast.expr_context,
)
WRAPPERS = {"jit", "vmap", "partial"}  # calls that only make a function of another


def import_notebook(path=ROOT / "bernoulli_em.ipynb"):
    """The notebook at path as a module; its tracebacks show the notebook's lines.

    Raises ValueError if path isn't a whole notebook.
    """
    # No name that an import statement could ask for: a notebook may be called jax.ipynb.
    module = types.ModuleType(Path(path).name)
    sys.modules[module.__name__] = module
    nodes = []  # (cell number, file name, statement)
    for number, source in code_cells(path):
        file_name = f"{path}, cell {number}"
        with_numbers = source.splitlines(keepends=True)
        linecache.cache[file_name] = (len(source), None, with_numbers, file_name)
        try:
            tree = parse_cell(source, file_name)
        except SyntaxError as error:
            leave_out(number, error)
            continue
        nodes += [(number, file_name, node) for node in tree.body]

    read = names_that_definitions_read([node for _, _, node in nodes])
    for number, file_name, node in nodes:
        if isinstance(node, IMPORTS):
            node = needed_part(node, read)
        if node is None or not is_wanted(node):
            continue
        try:
            code = compile(ast.Module([node], []), file_name, "exec")
            exec(code, vars(module))  # noqa: S102 (importing a notebook is running its definitions)
        except Exception as error:  # noqa: BLE001 (somebody else's, whatever it is)
            computed = isinstance(node, ASSIGNMENTS) and isinstance(error, NameError)
            if (
                not computed
            ):  # an assignment that needs what only a run computes isn't plain
                leave_out(number, error)
    return module


def code_cells(path):
    """The (number, source) of each code cell, numbered from 1 among all cells."""
    try:
        notebook = json.loads(Path(path).read_text(encoding="utf-8"))
        cells = notebook["cells"]
        sources = ["".join(cell["source"]) for cell in cells]
    except (OSError, ValueError, LookupError, TypeError):
        raise ValueError(
            f"'{path}' is not a whole notebook: name an .ipynb file"
        ) from None
    for number, (cell, source) in enumerate(zip(cells, sources), start=1):
        if cell["cell_type"] == "code":
            yield number, source


def parse_cell(source, file_name):
    """The syntax tree of a cell, in which IPython's magics have become calls."""
    if source.lstrip().startswith("%%"):  # %%capture or %%time; what follows is Python
        _, _, source = source.lstrip().partition("\n")
    try:
        return ast.parse(source, file_name)
    except SyntaxError:
        from IPython.core.inputtransformer2 import (
            TransformerManager,  # slow, seldom needed
        )

        return ast.parse(TransformerManager().transform_cell(source), file_name)


def leave_out(number, error):
    """Warn that a cell, or a statement of it, isn't imported."""
    warnings.warn(
        f"cell {number} left out: {type(error).__name__}: {error}", stacklevel=3
    )


def names_that_definitions_read(nodes):
    """The names in all statements that are wanted."""
    names = set()
    for definition in nodes:
        if is_wanted(definition):
            names |= {
                node.id for node in ast.walk(definition) if isinstance(node, ast.Name)
            }
    return names


def needed_part(statement, read):
    """An import statement without the names that no definition reads, or None."""
    needed = []
    for alias in statement.names:
        bound = alias.asname or alias.name.partition(".")[0]
        if bound in read or bound == "*":
            needed.append(alias)
    if not needed:
        return None
    statement.names = needed
    return statement


def is_wanted(node):
    """Whether a statement imports or defines something without computing anything."""
    if isinstance(node, IMPORTS + DEFINITIONS):
        return True
    if not isinstance(node, ASSIGNMENTS) or not is_plain(node.value):
        return False
    targets = getattr(node, "targets", None) or [node.target]
    return all(isinstance(target, ast.Name) for target in targets)


def is_plain(value):
    """Whether an expression holds nothing but values and names, or makes a function."""
    if isinstance(value, ast.Lambda):
        return True
    if isinstance(value, ast.Call):
        called = getattr(value.func, "attr", getattr(value.func, "id", None))
        arguments = value.args + [keyword.value for keyword in value.keywords]
        return called in WRAPPERS and all(is_plain(argument) for argument in arguments)
    return value is not None and all(
        isinstance(node, PLAIN) for node in ast.walk(value)
    )
