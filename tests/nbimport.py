"""Import what a notebook defines, without running what it computes.

Taken are functions and classes, the imports that they need, and assignments of plain
values, lambdas and jitted functions, also where they stand under `if`, `try` or `with`.
What fails is left out, with a warning that names its cell: the notebook may be somebody
else's. Where a name is missing later, the error tells which cell would have defined it.
"""

import __future__

import ast
import builtins
import dis
import functools
import json
import linecache
import os
import re
import sys
import types
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

IMPORTS = (ast.Import, ast.ImportFrom)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
ASSIGNMENTS = (ast.Assign, ast.AnnAssign)
BLOCKS = (ast.Module, ast.If, ast.Try, ast.ExceptHandler, ast.With)
NAMES = (ast.Name, ast.Tuple, ast.List, ast.expr_context)
PLAIN = (
    *NAMES,
    ast.Constant,
    ast.Set,
    ast.Dict,
    ast.UnaryOp,
    ast.BinOp,
    ast.BoolOp,
    ast.Compare,
    ast.IfExp,
    ast.Attribute,
    ast.unaryop,
    ast.operator,
    ast.boolop,
    ast.cmpop,
)
# Calls that only make a function of another, or a value:
WRAPPERS = {"jit", "vmap", "partial"}
BUILT_IN = {"bool", "complex", "float", "int", "str"}
BUILT_IN |= {"dict", "frozenset", "list", "range", "set", "tuple"}
DTYPES = re.compile(r"(float|bfloat|int|uint)\d+|bool_|dtype|finfo|iinfo")
PYTHON_CELLS = {"%%capture", "%%time", "%%prun"}  # magics of a cell that is Python


def import_notebook(path=ROOT / "bernoulli_em.ipynb"):
    """The notebook at path as a module; its tracebacks show the notebook's lines.

    As long as its code is the same, so is the module. Raises ValueError if path isn't a
    whole notebook.
    """
    cells = code_cells(path)
    return module_of(os.path.realpath(os.path.expanduser(path)), tuple(cells))


@functools.cache  # made twice, a class would refuse its twin's instances
def module_of(path, cells):
    """What the (number, source) of a notebook's cells define, as a module."""
    cell_of = {}  # where each name would be defined first
    statements = []  # (cell number, file name, syntax tree)
    flags = 0  # whether there is a from __future__ import annotations
    for number, source in cells:
        file_name = f"{path}, cell {number}"
        lines = source.splitlines(keepends=True)
        linecache.cache[file_name] = (len(source), None, lines, file_name)
        try:
            tree = parse_cell(source, file_name)
            whole = compile(tree, file_name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        except SyntaxError as error:
            leave_out(number, error.lineno, error)
            continue
        flags |= whole.co_flags & __future__.annotations.compiler_flag
        for name in bound_names(whole):
            cell_of.setdefault(name, number)
        for node in Wanted().visit(tree).body:
            statements.append((number, file_name, node))

    # No name that an import statement could ask for: a notebook may be called jax.ipynb.
    module = Notebook(os.path.basename(path), cell_of)
    sys.modules[module.__name__] = module  # dataclasses look there
    names = names_in(node for _, _, node in statements)
    for number, file_name, node in statements:
        if isinstance(node, IMPORTS):
            keep_needed(node, names)
            if not node.names:
                continue
        try:
            code = compile(ast.Module([node], []), file_name, "exec", flags)
            exec(code, vars(module))  # noqa: S102 (that is what importing is)
        except Exception as error:  # noqa: BLE001 (theirs, whatever it is)
            if isinstance(error, NameError) and not isinstance(node, DEFINITIONS):
                continue  # it needs what only a run computes
            leave_out(number, node.lineno, error)
    return module


class Notebook(types.ModuleType):
    """A module whose errors tell which cell would have defined a name that is missing."""

    def __init__(self, name, cell_of):
        super().__init__(name)
        self.__builtins__ = Builtins(cell_of)

    def __getattr__(self, name):
        hint = self.__builtins__.hint(name)
        says = f"module '{self.__name__}' has no attribute '{name}'"
        raise AttributeError(says + hint)


class Builtins(dict):
    """Python's builtins, where a function looks last for a name; it finds our error."""

    def __init__(self, cell_of):
        super().__init__(vars(builtins))
        self.cell_of = cell_of

    def hint(self, name):
        """Where the name would have been defined, to be added to an error's message."""
        if name not in self.cell_of:
            return ""
        return f": cell {self.cell_of[name]} defines it, but cells aren't run"

    def __missing__(self, name):
        hint = self.hint(name)
        if hint:
            raise NameError(f"name '{name}' is not defined{hint}")
        raise KeyError(name)  # of which Python makes its own NameError


def code_cells(path):
    """The (number, source) of each code cell; numbers count all cells, from 1."""
    found = []
    try:
        text = Path(os.path.expanduser(path)).read_text(encoding="utf-8")
        notebook = json.loads(text)
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
        stacklevel=4,
    )


def bound_names(code):
    """The names that compiled code defines or assigns at its top level."""
    names = []
    for instruction in dis.get_instructions(code):
        if instruction.opname == "STORE_NAME":
            names.append(instruction.argval)
    return names


class Wanted(ast.NodeTransformer):
    """Puts `pass` in place of each statement that isn't wanted."""

    def visit(self, node):
        if isinstance(node, ast.stmt) and not is_wanted(node):
            return ast.copy_location(ast.Pass(), node)
        if isinstance(node, BLOCKS):
            self.generic_visit(node)
        # What stands under a `with` is defined without it, too.
        return node.body if isinstance(node, ast.With) else node


def is_wanted(node):
    """Whether a statement imports or defines something without computing anything."""
    if isinstance(node, (*IMPORTS, *DEFINITIONS, ast.Try, ast.With)):
        return True
    if isinstance(node, ast.If):
        return is_plain(node.test)
    if not isinstance(node, ASSIGNMENTS):
        return False
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return is_plain(node.value) and all(holds_only(NAMES, target) for target in targets)


def is_plain(expression):
    """Whether an expression holds nothing but values and names, or makes a function.

    None isn't plain: the value of an annotation alone, x: int.
    """
    if isinstance(expression, ast.Lambda):
        return True
    if isinstance(expression, ast.Call):
        values = [keyword.value for keyword in expression.keywords]
        parts = [expression.func, *expression.args, *values]
        return is_harmless(expression.func) and all(is_plain(part) for part in parts)
    children = ast.iter_child_nodes(expression)
    return isinstance(expression, PLAIN) and all(is_plain(child) for child in children)


def is_harmless(called):
    """Whether a call of this only makes a function of another, or a value."""
    if isinstance(called, ast.Name) and called.id in BUILT_IN:
        return True
    name = getattr(called, "attr", getattr(called, "id", ""))
    return name in WRAPPERS or bool(DTYPES.fullmatch(name))


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
