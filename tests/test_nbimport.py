"""What is imported from a notebook, what is left out, and what is said about it."""

import traceback
import warnings

import nbformat
import numpy as np
import pytest
from nbimport import import_notebook


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
            "cell 2, line 2 left out: SyntaxError",
            id="an unfinished cell",
        ),
        pytest.param(
            "n = 3\nreturn n",
            "cell 2, line 2 left out: SyntaxError",
            id="a return outside a function",
        ),
        pytest.param(
            "import not_installed\ndef f():\n    not_installed.g()",
            "cell 2, line 1 left out: ModuleNotFoundError: .*not_installed",
            id="an import that isn't installed",
        ),
        pytest.param(
            "n = 3\n\ndef show(images=train_images):\n    pass",
            "cell 2, line 3 left out: NameError: .*train_images",
            id="a default that is computed",
        ),
        pytest.param(
            "%%capture\nn = 1 / 0",
            "cell 2, line 2 left out: ZeroDivisionError",
            id="a division by zero",
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
            "name 'n_images' is not defined: cell 2 defines it, but cells aren't run",
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
        pytest.param("model", "'model': cell 1 defines it", id="which a cell computes"),
        pytest.param("absent", "'absent'$", id="which nobody defines"),
    ],
)
def test_a_missing_attribute_says_where_it_is(tmp_path, name, says):
    em = import_quietly(save(tmp_path / "theirs.ipynb", "model = fit()"))
    with pytest.raises(AttributeError, match=f"'theirs.ipynb' has no attribute {says}"):
        getattr(em, name)


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


def test_a_traceback_shows_the_line_of_the_notebook(tmp_path):
    source = "%%time\ndef wrong():\n    return 1 / 0  # here"
    path = save(tmp_path / "theirs.ipynb", source)
    try:
        import_quietly(path).wrong()
    except ZeroDivisionError:
        text = traceback.format_exc()
    assert "theirs.ipynb, cell 1" in text
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
