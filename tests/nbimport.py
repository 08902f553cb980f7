"""Import what a notebook defines, without running what it computes.

Taken are functions and classes, the imports that they need, assignments of plain values,
lambdas and jitted functions, and registrations of classes with JAX, also where they stand
under `if`, `try` or `with`. What fails is left out, with a warning that names its cell: the
notebook may be somebody else's. Where a name is missing later, the error tells which cell
would have defined it. Cells are numbered as Jupyter does when it runs all: code cells
from [1].

What the notebook's classes make can be pickled. Who unpickles it, another process say,
needs nbimport on its path, and imports the notebook by way of it.
"""

import __future__

import ast
import builtins
import functools
import json
import linecache
import os
import re
import sys
import threading
import types
import warnings
from importlib.machinery import ModuleSpec
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent
LOCK = threading.RLock()  # threads that import one notebook get one module
__path__ = []  # so that notebooks can be imported as if this were their package

IMPORTS = (ast.Import, ast.ImportFrom)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
ASSIGNMENTS = (ast.Assign, ast.AnnAssign)
BLOCKS = (ast.Module, ast.If, ast.Try, ast.ExceptHandler, ast.With)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
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
# Calls that tell JAX of a class, or of a function's derivative:
REGISTRATIONS = re.compile(r"register_(dataclass|pytree|static)\w*|def(jvp|jvps|vjp)")
PYTHON_CELLS = {"%%capture", "%%time", "%%prun"}  # magics of a cell that is Python


def import_notebook(path=ROOT / "bernoulli_em.ipynb"):
    """The notebook at path as a module; its tracebacks show the notebook's lines.

    As long as its code is the same, so is the module. Raises ValueError if path isn't a
    whole notebook.
    """
    cells = code_cells(path)
    path = os.path.realpath(os.path.expanduser(path))
    with LOCK:
        module = module_of(path, tuple(cells))
        # Again: the notebook may have been another meanwhile, of the same name.
        sys.modules[module.__name__] = module
    return module


@functools.cache  # made twice, a class would refuse its twin's instances
def module_of(path, cells):
    """What the (number, source) of a notebook's cells define, as a module."""
    reasons = {}  # why each name that a cell binds may be missing
    statements = []  # (cell number, file name, syntax tree)
    flags = 0  # whether there is a from __future__ import annotations
    for number, source in cells:
        file_name = f"{path}, cell [{number}]"
        lines = source.splitlines(keepends=True)
        linecache.cache[file_name] = (len(source), None, lines, file_name)
        try:
            tree = parse_cell(source, file_name)
            whole = compile(tree, file_name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        except SyntaxError as error:
            leave_out(number, error.lineno, "the cell", error)
            continue
        flags |= whole.co_flags & __future__.annotations.compiler_flag
        for name in bound_names(tree):
            not_run = f"cell [{number}] defines it, but cells aren't run"
            reasons.setdefault(name, not_run)
        for node in Wanted().visit(tree).body:
            statements.append((number, file_name, node))

    module = Notebook(path, reasons)
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
            for name in bound_names(node):
                reasons[name] = f"cell [{number}] {why_not(error)}"
            leave_out(number, node.lineno, title_of(node), error)
    return module


def why_not(error):
    """Why a cell's name is missing where its statement raised an error."""
    if isinstance(error, ModuleNotFoundError):
        return f"imports it, but {error.name} isn't installed"
    return f"defines it, but {type(error).__name__}: {error}"


class Notebook(types.ModuleType):
    """A module whose errors tell which cell would have defined a name that is missing."""

    def __init__(self, path, reasons):
        super().__init__(name_of(path))
        self.__builtins__ = Builtins(reasons)

    def __getattr__(self, name):
        file_name = os.path.basename(path_of(self.__name__))
        hint = self.__builtins__.hint(name)
        raise AttributeError(f"module '{file_name}' has no attribute '{name}'{hint}")


class Builtins(dict):
    """Python's builtins, where a function looks last for a name; it finds our error."""

    def __init__(self, reasons):
        super().__init__(vars(builtins))
        self.reasons = reasons

    def hint(self, name):
        """Why the name is missing, to be added to an error's message."""
        return f": {self.reasons[name]}" if name in self.reasons else ""

    def __missing__(self, name):
        hint = self.hint(name)
        if hint:
            raise NameError(f"name '{name}' is not defined{hint}")
        raise KeyError(name)  # of which Python makes its own NameError


# Modules by their names, of which pickle writes down no more


def name_of(path):
    """The name of a notebook's module: its path from ROOT, as if it stood in a package.

    No import statement asks for such a name: a notebook may be called jax.ipynb. And who
    moves the whole repository can still unpickle.
    """
    relative = os.path.relpath(path, ROOT)
    return f"{__name__}." + relative.replace("%", "%25").replace(".", "%2E")


def path_of(name):
    """The path of the notebook whose module has this name."""
    return os.path.join(ROOT, unquote(name.removeprefix(f"{__name__}.")))


class NotebookFinder:
    """Python asks it for the module of what is unpickled, if that isn't imported yet."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        """How to import the module of this name; None if it isn't a notebook's."""
        if name.startswith(f"{__name__}.") and os.path.isfile(path_of(name)):
            return ModuleSpec(name, NotebookFinder)
        return None

    @staticmethod
    def create_module(spec):
        """The notebook as a module, with all that it defines."""
        return import_notebook(path_of(spec.name))

    @staticmethod
    def exec_module(module):
        """Python wants such a function; there is nothing left to do."""


sys.meta_path.append(NotebookFinder)


# Cells


def code_cells(path):
    """The (number, source) of each code cell, numbered as by a run of them all."""
    sources = []
    try:
        text = Path(os.path.expanduser(path)).read_text(encoding="utf-8")
        notebook = json.loads(text)
        for cell in notebook["cells"]:
            source = "".join(cell["source"])
            # Jupyter doesn't run, nor count, a cell that is empty.
            if cell["cell_type"] == "code" and source.strip():
                sources.append(source)
    except (OSError, ValueError, LookupError, TypeError):
        raise ValueError(
            f"'{path}' can't be read as a notebook: name a whole .ipynb file"
        ) from None
    return list(enumerate(sources, start=1))


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


def title_of(statement):
    """What a statement is about: the first name that it binds, or what it calls."""
    bound = bound_names(statement)
    if bound:
        return bound[0]
    if isinstance(statement, ast.Expr):
        return ast.unparse(statement.value.func)
    return "a statement"


def leave_out(number, line, what, error):
    """Warn that a cell, or a statement of it, isn't imported."""
    warnings.warn(
        f"cell [{number}], line {line}: {what} is left out: "
        f"{type(error).__name__}: {error}",
        stacklevel=4,
    )


# Syntax trees


def bound_names(tree):
    """The names that code defines, imports or assigns at its top level, first to last."""
    return [name for name, is_bound in names_in_order(tree) if is_bound]


def names_in_order(node):
    """Yields (name, is_bound) of each use of a name at the top level, in order of time.

    A name that isn't bound is read. The bodies of functions and classes and the variables
    of comprehensions aren't at the top level.
    """
    if isinstance(node, ast.Name):
        yield node.id, is_stored(node)
    elif isinstance(node, ast.alias):
        yield name_of_import(node), True
    elif isinstance(node, COMPREHENSIONS):
        stored = [part for part in ast.walk(node) if is_stored(part)]
        for name in names_in([node]) - names_in(stored):
            yield name, False
    else:
        if isinstance(node, ast.AugAssign) and is_stored(node.target):
            yield node.target.id, False
        for part in parts_in_order(node):
            yield from names_in_order(part)
        if isinstance(node, DEFINITIONS):
            yield node.name, True


def parts_in_order(node):
    """The children of a node as Python computes them: what is assigned, before its name."""
    fields = sorted(node._fields, key=lambda field: field not in ("value", "iter"))
    if isinstance(node, (*DEFINITIONS, ast.Lambda)):
        fields.remove("body")
    parts = []
    for field in fields:
        value = getattr(node, field)
        parts += value if isinstance(value, list) else [value]
    return [part for part in parts if isinstance(part, ast.AST)]


def is_stored(node):
    """Whether a node is a name that is bound there."""
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def name_of_import(alias):
    """The name that a part of an import statement binds."""
    return alias.asname or alias.name.partition(".")[0]


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
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return bool(REGISTRATIONS.fullmatch(last_name(node.value.func)))
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
    name = last_name(called)
    is_registration = bool(REGISTRATIONS.fullmatch(name))
    return name in WRAPPERS or is_registration or bool(DTYPES.fullmatch(name))


def last_name(called):
    """The name of what is called, without the module that it is from."""
    return getattr(called, "attr", getattr(called, "id", ""))


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
        bound = name_of_import(alias)
        if bound in names or bound == "*":
            needed.append(alias)
    statement.names = needed
