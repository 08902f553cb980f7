"""Import what a notebook defines, without running what it computes.

Taken are functions and classes, the imports that they need, and assignments of plain
values, lambdas and jitted functions. What fails is left out, with a warning that names its
cell: the notebook may be somebody else's.
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
NAMES = (ast.Name, ast.Tuple, ast.List, ast.expr_context)
PLAIN = (
    *NAMES,
    ast.Constant,
    ast.Set,
    ast.Dict,
    ast.UnaryOp,
    ast.BinOp,
    ast.Attribute,
    ast.unaryop,
    ast.operator,
)
WRAPPERS = {"jit", "vmap", "partial"}  # calls that only make a function of another
PYTHON_CELLS = {"%%capture", "%%time", "%%prun"}  # magics of a cell that is Python


def import_notebook(path=ROOT / "bernoulli_em.ipynb"):
    """The notebook at path as a module; its tracebacks show the notebook's lines.

    Raises ValueError if path isn't a whole notebook.
    """
    statements = []  # (cell number, file name, syntax tree)
    for number, source in code_cells(path):
        file_name = f"{path}, cell {number}"
        lines = source.splitlines(keepends=True)
        linecache.cache[file_name] = (len(source), None, lines, file_name)
        try:
            tree = parse_cell(source, file_name)
        except SyntaxError as error:
            leave_out(number, error.lineno, error)
            continue
        for node in tree.body:
            if is_wanted(node):
                statements.append((number, file_name, node))

    # No name that an import statement could ask for: a notebook may be called jax.ipynb.
    module = types.ModuleType(Path(path).name)
    sys.modules[module.__name__] = module  # dataclasses look there
    names = names_in(node for _, _, node in statements)
    for number, file_name, node in statements:
        if isinstance(node, IMPORTS):
            keep_needed(node, names)
            if not node.names:
                continue
        try:
            code = compile(ast.Module([node], []), file_name, "exec")
            exec(code, vars(module))  # noqa: S102 (that is what importing is)
        except Exception as error:  # noqa: BLE001 (theirs, whatever it is)
            if isinstance(node, ASSIGNMENTS) and isinstance(error, NameError):
                continue  # of a name that only a run binds
            leave_out(number, node.lineno, error)
    return module


def code_cells(path):
    """The (number, source) of each code cell; numbers count all cells, from 1."""
    found = []
    try:
        notebook = json.loads(Path(path).read_text(encoding="utf-8"))
        for number, cell in enumerate(notebook["cells"], start=1):
            source = "".join(cell["source"])
            if cell["cell_type"] == "code":
                found.append((number, source))
    except (OSError, ValueError, LookupError, TypeError):
        raise ValueError(
            f"'{path}' can't be read as a notebook: name a whole .ipynb file"
        ) from None
    return found


def parse_cell(source, file_name):
    """The syntax tree of a cell, in which IPython's magics have become calls."""
    first_line, _, rest = source.partition("\n")
    if first_line.startswith("%%"):
        magic = first_line.split()[0]
        # An empty first line, so that line numbers stay.
        source = "\n" + rest if magic in PYTHON_CELLS else ""
    try:
        return ast.parse(source, file_name)
    except SyntaxError:
        # Slow to import, and seldom needed.
        from IPython.core.inputtransformer2 import TransformerManager

        return ast.parse(TransformerManager().transform_cell(source), file_name)


def leave_out(number, line, error):
    """Warn that a cell, or a statement of it, isn't imported."""
    warnings.warn(
        f"cell {number}, line {line} left out: {type(error).__name__}: {error}",
        stacklevel=3,
    )


def is_wanted(node):
    """Whether a statement imports or defines something without computing anything."""
    if isinstance(node, IMPORTS + DEFINITIONS):
        return True
    if not isinstance(node, ASSIGNMENTS):
        return False
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return is_plain(node.value) and all(holds_only(NAMES, target) for target in targets)


def is_plain(value):
    """Whether an expression holds nothing but values and names, or makes a function."""
    if value is None:  # an annotation alone, x: int
        return False
    if isinstance(value, ast.Lambda):
        return True
    if isinstance(value, ast.Call):
        called = getattr(value.func, "attr", getattr(value.func, "id", None))
        arguments = value.args + [keyword.value for keyword in value.keywords]
        return called in WRAPPERS and all(is_plain(argument) for argument in arguments)
    return holds_only(PLAIN, value)


def holds_only(kinds, expression):
    """Whether all of an expression's nodes are of these kinds."""
    return all(isinstance(node, kinds) for node in ast.walk(expression))


def names_in(statements):
    """All names that occur in statements, but for those that they import."""
    names = set()
    for statement in statements:
        for node in ast.walk(statement):
            if isinstance(node, ast.Name):
                names.add(node.id)
    return names


def keep_needed(statement, names):
    """Take from an import statement what binds none of these names: it may be slow."""
    needed = []
    for alias in statement.names:
        bound = alias.asname or alias.name.partition(".")[0]
        if bound in names or bound == "*":
            needed.append(alias)
    statement.names = needed
