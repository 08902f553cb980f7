"""What is imported from a notebook, what is left out, and what is said about it."""

import ast
import multiprocessing
import pickle
import threading
import traceback
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import jax
import nbformat
import numpy as np
import pytest
from nbimport import import_notebook, names_in_order


def save(path, *sources):
    """Write a notebook of code cells, and return its path."""
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def import_quietly(path):
    """Import a notebook of which nothing may be left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return import_notebook(path)


def test_a_notebook_s_functions_find_its_plain_values(tmp_path):
    path = save(
        tmp_path / "theirs.ipynb",
        "import numpy as np",
        "n_clusters = 15",
        "height, width = 28, 28",
        "n_pixels: int = height * width",
        "def shape():\n    return np.empty((n_clusters, n_pixels)).shape",
    )
    assert import_quietly(path).shape() == (15, 784)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        pytest.param("np.float32(3)", 3, id="a number of NumPy's"),
        pytest.param("uint8(3)", 3, id="of its own name"),
        pytest.param("2 * np.finfo(np.float32).bits", 64, id="part of an expression"),
        pytest.param("int('3')", 3, id="a number of Python's"),
        pytest.param("dict(a=3)", {"a": 3}, id="a dictionary"),
        pytest.param("list(range(3))", [0, 1, 2], id="a list of a range"),
        pytest.param("3 if np.pi > 3 and True else 4", 3, id="a choice"),
    ],
)
def test_a_call_that_only_makes_a_value_is_made(tmp_path, expression, value):
    source = f"import numpy as np\nfrom numpy import uint8\nfound = {expression}"
    assert import_quietly(save(tmp_path / "theirs.ipynb", source)).found == value


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("if n > 2:\n    print(n)\n    n = 3\nelse:\n    n = 4", id="if"),
        pytest.param(
            "try:\n    open('absent.txt')\n    import not_installed\n    n = 4\n"
            "except ImportError:\n    open('absent.txt')\n    n = 3",
            id="try, an import that no function needs",
        ),
        pytest.param(
            "if n:\n    with open('absent.txt'):\n        open('absent.txt')\n        n = 3",
            id="with, under an if",
        ),
    ],
)
def test_what_stands_in_a_block_is_imported(tmp_path, source):
    assert import_quietly(save(tmp_path / "theirs.ipynb", "n = 5", source)).n == 3


def test_lambdas_and_jitted_functions_are_imported(tmp_path):
    path = save(
        tmp_path / "theirs.ipynb",
        "import jax",
        "half = lambda x: x / 2",
        "fast_half = jax.jit(half)",
        "quarters = jax.vmap(lambda x: half(half(x)))",
    )
    em = import_quietly(path)
    assert em.fast_half(3) == 1.5
    assert em.quarters(np.array([4.0, 8.0])).tolist() == [1, 2]


def test_a_class_is_imported_with_its_decorator(tmp_path):
    source = "import dataclasses\n@dataclasses.dataclass\nclass Pair:\n    x: 'int'"
    em = import_quietly(save(tmp_path / "theirs.ipynb", source))
    assert em.Pair(x=3) == em.Pair(3)


REGISTERS = {
    "register_dataclass": "jax.tree_util.register_dataclass(Pair, ['x'], [])",
    "register_pytree_node": (
        "jax.tree_util.register_pytree_node("
        "Pair, lambda pair: ((pair.x,), None), lambda _, parts: Pair(*parts))"
    ),
    "of chex": "chex.register_dataclass_type_with_jax_tree_util(Pair)",
    "assigned": "Pair = jax.tree_util.register_dataclass(Pair, ['x'], [])",
    "computed": "register_dataclass(Pair, [f.name for f in fields(Pair)], [])",
}


@pytest.mark.parametrize("source", REGISTERS.values(), ids=REGISTERS)
def test_a_class_is_registered_with_jax(tmp_path, source):
    path = save(
        tmp_path / "theirs.ipynb",
        "import chex\nimport jax\nfrom jax.tree_util import register_dataclass",
        "from dataclasses import dataclass, fields\n@dataclass\nclass Pair:\n    x: int",
        source,
    )
    em = import_quietly(path)
    assert jax.tree.leaves(em.Pair(3)) == [3]


def test_a_function_gets_its_own_derivative(tmp_path):
    path = save(
        tmp_path / "theirs.ipynb",
        "import jax\n@jax.custom_jvp\ndef half(x):\n    return x / 2",
        "half.defjvp(lambda x, t: (half(*x), 3 * t[0]))",
    )
    assert jax.grad(import_quietly(path).half)(1.0) == 3


def test_the_last_definition_counts(tmp_path):
    path = save(tmp_path / "theirs.ipynb", "def f():\n    return 1", "f = lambda: 2")
    assert import_quietly(path).f() == 2


def test_nothing_is_computed(tmp_path):
    path = save(
        tmp_path / "theirs.ipynb",
        "raise SystemExit",
        "images = open('absent.txt').read()",
        "n_images = len(images)",
        "first = images",
        "n_left: int",
        "images.shape = 3",
        "if n_images > 3:\n    def show(images=images):\n        pass",
        "if open('absent.txt'):\n    pass",
        "import sys\nlines = dict(a=open('absent.txt'))",
        "first = [open('absent.txt')][0].float32(1)",
        "size = sys.set(3)",
        "sys.register(open('absent.txt'))",
    )
    assert not hasattr(import_quietly(path), "images")


def test_an_import_that_no_function_needs_is_not_made(tmp_path):
    """It may be slow, or not be installed."""
    path = save(tmp_path / "theirs.ipynb", "import not_installed", "def f():\n    pass")
    assert not hasattr(import_quietly(path), "not_installed")


def test_annotations_may_name_what_is_not_there(tmp_path):
    path = save(
        tmp_path / "theirs.ipynb",
        "from __future__ import annotations\nfrom typing import TYPE_CHECKING",
        "if TYPE_CHECKING:\n    from not_installed import Images",
        "def count(images: Images):\n    return len(images)",
    )
    assert import_quietly(path).count("abc") == 3


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("%%capture\nn = 3", id="a captured cell"),
        pytest.param("%%capture\n%matplotlib inline\nn = 3", id="with another magic"),
        pytest.param("%%time\nn = 3", id="a timed cell"),
        pytest.param("files = !ls\nn = 3", id="what a command prints"),
        pytest.param("!pip list\nn = 3", id="a command"),
        pytest.param("print?\nn = 3", id="a question"),
        pytest.param("?print\nn = 3", id="a question before"),
        pytest.param("n = 3\n%matplotlib inline", id="a magic"),
        pytest.param("text = '''\n%d images\n'''\nn = 3", id="%d begins a line"),
        pytest.param("text = '''\n%d images\n'''\n!ls\nn = 3", id="%d and a command"),
        pytest.param("history = []\nlast = history[-1]\nn = 3", id="an empty list"),
        pytest.param("images = await load()\nn = 3", id="await"),
    ],
)
def test_a_cell_that_only_a_notebook_can_run_loses_nothing(tmp_path, source):
    assert import_quietly(save(tmp_path / "theirs.ipynb", source)).n == 3


@pytest.mark.parametrize("magic", ["%%bash", "%%html", "%%writefile notes.py"])
def test_a_cell_that_holds_something_else_is_passed_over(tmp_path, magic):
    em = import_quietly(save(tmp_path / "theirs.ipynb", f"{magic}\nn = 3\n<b>"))
    assert not hasattr(em, "n")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        pytest.param(
            "n = 3\ndef unfinished(:",
            r"cell \[2\], line 2: the cell is left out: SyntaxError",
            id="an unfinished cell",
        ),
        pytest.param(
            "n = 3\nreturn n",
            r"cell \[2\], line 2: the cell is left out: SyntaxError",
            id="a return outside a function",
        ),
        pytest.param(
            "import not_installed\ndef f():\n    not_installed.g()",
            r"cell \[2\], line 1: not_installed is left out: ModuleNotFoundError: .*not_",
            id="an import that isn't installed",
        ),
        pytest.param(
            "n = 3\n\ndef show(images=train_images):\n    pass",
            r"cell \[2\], line 3: show is left out: NameError: .*train_images",
            id="a default that is computed",
        ),
        pytest.param(
            "%%capture\nn = 1 / 0",
            r"cell \[2\], line 2: n is left out: ZeroDivisionError",
            id="a division by zero",
        ),
        pytest.param(
            "import jax\njax.tree_util.register_static()",
            r"cell \[2\], line 2: jax.tree_util.register_static is left out: ",
            id="a registration",
        ),
        pytest.param(
            "n = 3\nif 1 / 0:\n    print(n)",
            r"cell \[2\], line 2: a statement is left out: ZeroDivisionError",
            id="a block",
        ),
    ],
)
def test_what_fails_is_left_out_with_a_warning_that_names_its_cell(
    tmp_path, source, says
):
    path = save(tmp_path / "theirs.ipynb", "before = 1", source, "after = 2")
    with pytest.warns(UserWarning, match=says) as warned:
        em = import_notebook(path)
    assert warned[0].filename == __file__
    assert em.before == 1
    assert em.after == 2


@pytest.mark.parametrize(
    ("name", "says"),
    [
        pytest.param(
            "n_images",
            "name 'n_images' is not defined: cell [2] defines it, but cells aren't run",
            id="which a cell computes",
        ),
        pytest.param("n", "name 'n' is not defined", id="of another function"),
        pytest.param("load", "name 'load' is not defined", id="which no cell defines"),
    ],
)
def test_a_function_that_misses_a_name_says_where_it_is(tmp_path, name, says):
    path = save(
        tmp_path / "theirs.ipynb",
        "def count(images):\n    n = len(images)\n    return n",
        "n_images = count(load())",
        "n_images = n_images + 1",
        f"def double():\n    return 2 * {name}",
    )
    with pytest.raises(NameError) as caught:
        import_quietly(path).double()
    assert str(caught.value) == says


@pytest.mark.parametrize(
    ("name", "says"),
    [
        pytest.param(
            "model", r"'model': cell \[1\] defines it", id="which a cell computes"
        ),
        pytest.param("absent", "'absent'$", id="which nobody defines"),
    ],
)
def test_a_missing_attribute_says_where_it_is(tmp_path, name, says):
    em = import_quietly(save(tmp_path / "theirs.ipynb", "model = fit()"))
    with pytest.raises(AttributeError, match=f"'theirs.ipynb' has no attribute {says}"):
        getattr(em, name)


@pytest.mark.parametrize(
    ("imports", "says"),
    [
        pytest.param(
            "from not_installed import Float",
            "name 'Float' is not defined: "
            "cell [1] imports it, but not_installed isn't installed",
            id="a module that isn't installed",
        ),
        pytest.param(
            "from os import not_there as Float",
            "name 'Float' is not defined: "
            "cell [1] defines it, but ImportError: cannot import name 'not_there'",
            id="a module that lacks the name",
        ),
    ],
)
def test_who_misses_an_import_says_why(tmp_path, imports, says):
    """And so does who misses the function whose signature names it."""
    path = save(
        tmp_path / "theirs.ipynb",
        imports,
        "def half(x: Float):\n    return x",
        "def quarter(x):\n    return Float(x)",
    )
    with pytest.warns(UserWarning, match="left out"):
        em = import_notebook(path)
    with pytest.raises(NameError) as caught:
        em.quarter(3)
    assert str(caught.value).startswith(says)
    with pytest.raises(AttributeError) as caught:
        _ = em.half
    assert f"'half': cell [2] defines it, but NameError: {says}" in str(caught.value)


def test_cells_are_numbered_as_a_run_of_all_would_do(tmp_path):
    """Jupyter counts neither text nor a cell without code."""
    cells = [
        nbformat.v4.new_markdown_cell("# Ours"),
        nbformat.v4.new_code_cell("n = 3"),
        nbformat.v4.new_code_cell("\n"),
        nbformat.v4.new_code_cell("model = fit()"),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "ours.ipynb")
    em = import_quietly(tmp_path / "ours.ipynb")
    with pytest.raises(AttributeError, match=r"cell \[2\] defines it"):
        _ = em.model


@pytest.mark.parametrize(
    ("source", "reads", "binds"),
    [
        pytest.param("n = m = n + k", ["n", "k"], ["n", "m"], id="an assignment"),
        pytest.param("n: int = k", ["k", "int"], ["n"], id="with a type"),
        pytest.param("n += k", ["n", "k"], ["n"], id="in place"),
        pytest.param("a[i] = b.c", ["b", "a", "i"], [], id="of an element"),
        pytest.param("f(n := k)", ["f", "k"], ["n"], id="in a call"),
        pytest.param("for n, k in m:\n    l", ["m", "l"], ["n", "k"], id="a loop"),
        pytest.param("with f as n:\n    k", ["f", "k"], ["n"], id="with"),
        pytest.param("import a.b, c as d", [], ["a", "d"], id="imports"),
        pytest.param("from a import b as c, d", [], ["c", "d"], id="from a module"),
        pytest.param("@f\ndef n(k=m):\n    l = o", ["m", "f"], ["n"], id="a function"),
        pytest.param("class N(M):\n    l = o", ["M"], ["N"], id="a class"),
        pytest.param("lambda n=k: m", ["k"], [], id="a lambda"),
        pytest.param("[n + k for n in m]", ["k", "m"], [], id="a comprehension"),
    ],
)
def test_of_the_top_level_the_names_are_known(source, reads, binds):
    names = list(names_in_order(ast.parse(source)))
    assert sorted(name for name, is_bound in names if not is_bound) == sorted(reads)
    assert [name for name, is_bound in names if is_bound] == binds


def test_a_name_is_read_before_it_is_bound_anew():
    for source in ("n = f(n)", "n += 1", "for n in n:\n    pass", "f(n := n)"):
        names = list(names_in_order(ast.parse(source)))
        assert names.index(("n", False)) < names.index(("n", True)), source


def test_a_notebook_is_imported_once_unless_it_changes(tmp_path, monkeypatch):
    """A class that is made anew would refuse what the old one made."""
    path = save(tmp_path / "theirs.ipynb", "class Images:\n    pass")
    em = import_quietly(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert import_quietly("theirs.ipynb") is em
    assert import_quietly("~/theirs.ipynb") is em
    save(path, "class Images:\n    n = 3")
    assert import_quietly(path).Images.n == 3


def test_threads_that_import_together_get_one_module(tmp_path):
    path = save(
        tmp_path / "theirs.ipynb",
        "import time\ndef slow(kind):\n    time.sleep(0.1)\n    return kind",
        "@slow\nclass Images:\n    pass",
    )
    together = threading.Barrier(6)

    def import_together(_):
        together.wait()
        return import_notebook(path)

    with ThreadPoolExecutor(6) as pool:
        modules = list(pool.map(import_together, range(6)))
    assert all(module is modules[0] for module in modules)


def test_what_our_classes_hold_can_be_pickled(em, params, data):
    """The mixture, the table, and the fit."""
    fit = em.Fit(params, [-3.0, -2.0], converged=True)
    for value in (params, data, fit):
        again = pickle.loads(pickle.dumps(value))
        assert type(again) is type(value)
        same = jax.tree.map(np.array_equal, again, value)
        assert jax.tree.all(same)


PAIR = "from typing import NamedTuple\nclass Pair(NamedTuple):\n    x: int\n    y: int"


def test_a_process_that_starts_anew_gets_what_is_pickled(tmp_path):
    """It imports the notebook, wherever that is, as soon as it needs it."""
    swap = "def swap(pair):\n    return Pair(pair.y, pair.x)"
    em = import_quietly(save(tmp_path / "jax.v2%20copy.ipynb", PAIR, swap))
    anew = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=anew) as pool:
        found = pool.submit(em.swap, em.Pair(3, 4)).result()
    assert isinstance(found, em.Pair)
    assert found == em.Pair(4, 3)


def test_notebooks_of_one_name_stay_apart(tmp_path):
    """What each made is its own after a pickle, too."""
    pairs = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        pairs.append(import_quietly(save(folder / "jax.ipynb", PAIR)).Pair)
    for pair in pairs:
        assert type(pickle.loads(pickle.dumps(pair(3, 4)))) is pair


def test_a_notebook_that_is_as_before_unpickles_as_before(tmp_path):
    path = save(tmp_path / "theirs.ipynb", PAIR)
    pair = import_quietly(path).Pair(3, 4)
    import_quietly(save(path, PAIR, "n = 3"))
    import_quietly(save(path, PAIR))
    assert type(pickle.loads(pickle.dumps(pair))) is type(pair)


def test_a_name_that_neither_nbimport_nor_a_notebook_has_is_refused_as_usual():
    with pytest.raises(ImportError, match="cannot import name 'absent'"):
        from nbimport import absent  # noqa: F401


def test_a_traceback_shows_the_line_of_the_notebook(tmp_path):
    source = "%%time\ndef wrong():\n    return 1 / 0  # here"
    path = save(tmp_path / "theirs.ipynb", source)
    try:
        import_quietly(path).wrong()
    except ZeroDivisionError:
        text = traceback.format_exc()
    assert "theirs.ipynb, cell [1]" in text
    assert "line 3, in wrong" in text
    assert "return 1 / 0  # here" in text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("empty.ipynb", "", id="an empty file"),
        pytest.param("cut.ipynb", '{"cells": [{"cell_type": "co', id="a cut file"),
        pytest.param("other.ipynb", '{"answer": 42}', id="no notebook"),
        pytest.param("old.ipynb", '{"cells": [{"source": "x"}]}', id="no cell types"),
        pytest.param("list.ipynb", "[1, 2]", id="a list"),
        pytest.param("theirs.py", "n = 3\n", id="a program"),
    ],
)
def test_what_is_no_whole_notebook_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=f"{name}' .* name a whole .ipynb file"):
        import_notebook(path)


@pytest.mark.parametrize("name", [".", "absent.ipynb"])
def test_a_folder_or_an_absent_file_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="name a whole .ipynb file"):
        import_notebook(tmp_path / name)
