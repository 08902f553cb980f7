"""What happens to notebooks: they are imported, handed out without answers, and marked."""

import ast
import re
import subprocess
import sys
import traceback
import warnings
from pathlib import Path

import nbformat
import numpy as np
import pytest
import test_em
from exercise import FUNCTIONS, without_bodies
from nbimport import ROOT, import_notebook


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


# Importing


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
    )
    assert not hasattr(import_quietly(path), "images")


def test_an_import_that_no_function_needs_is_not_made(tmp_path):
    """It may be slow, or not be installed."""
    path = save(tmp_path / "theirs.ipynb", "import not_installed", "def f():\n    pass")
    assert not hasattr(import_quietly(path), "not_installed")


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
    with pytest.warns(UserWarning, match=says):
        em = import_notebook(path)
    assert em.before == 1
    assert em.after == 2


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


# Handing out


@pytest.fixture(scope="module")
def notebook():
    """The notebook as committed."""
    return nbformat.read(ROOT / "bernoulli_em.ipynb", as_version=4)


@pytest.fixture(scope="module")
def exercise_path(tmp_path_factory):
    """The exercise that tests/exercise.py makes of the notebook."""
    path = tmp_path_factory.mktemp("exercise") / "exercise.ipynb"
    program = ROOT / "tests" / "exercise.py"
    command = [sys.executable, program, ROOT / "bernoulli_em.ipynb", path]
    subprocess.run(command, check=True)
    return path


@pytest.fixture
def exercise(exercise_path):
    return nbformat.read(exercise_path, as_version=4)


def is_answer(cell):
    """Whether functions in a cell lose their bodies."""
    return "answer" in cell.metadata.get("tags", [])


def is_solution(cell):
    """Whether a cell goes whole."""
    return "solution" in cell.metadata.get("tags", [])


def code_of(cells):
    """The source of all code cells."""
    return "\n".join(cell.source for cell in cells if cell.cell_type == "code")


def text_of(cells):
    """The source of all cells."""
    return "\n".join(cell.source for cell in cells)


def test_of_each_function_the_exercise_keeps_only_its_head(exercise):
    found = set()
    for cell in filter(is_answer, exercise.cells):
        for node in ast.parse(cell.source).body:
            found.add(node.name)
            assert ast.get_docstring(node), f"{node.name} tells nothing"
            _, last = node.body
            expected = f'raise NotImplementedError("{node.name} isn\'t written")'
            assert ast.unparse(last) == ast.unparse(ast.parse(expected))
    assert found == FUNCTIONS


def test_the_exercise_s_code_names_no_helper_of_an_answer(notebook, exercise):
    helpers = set()
    for cell in notebook.cells:
        if is_answer(cell) or is_solution(cell):
            for node in ast.parse(cell.source).body:
                if isinstance(node, ast.FunctionDef):
                    helpers.add(node.name)
    helpers -= FUNCTIONS
    assert helpers
    words = set(re.findall(r"(?<![\w.])\w+", code_of(exercise.cells)))  # no jnp.dot
    assert not helpers & words


def test_the_exercise_has_no_cell_that_is_a_solution(exercise):
    assert not any(is_solution(cell) for cell in exercise.cells)


def test_an_answer_without_a_function_of_the_exercise_goes_whole():
    assert not without_bodies("shares = 3\n\ndef helper():\n    return shares")


def test_the_exercise_keeps_decorators(exercise):
    assert "@jax.jit\ndef em_step(" in code_of(exercise.cells)


def test_the_exercise_keeps_the_classes(exercise):
    code = code_of(exercise.cells)
    assert "class BernoulliMixture" in code
    assert "class ExpectedCounts" in code


def test_prose_that_answers_is_gone_and_the_rest_is_there(notebook, exercise):
    text = text_of(exercise.cells)
    n_answers = 0
    for cell in notebook.cells:
        if cell.id == "part-2":
            break
        if cell.cell_type == "markdown":
            parts = re.split("<!-- answer -->|<!-- end -->", cell.source)
            for question in parts[::2]:
                assert question.strip() in text
            for answer in parts[1::2]:
                n_answers += 1
                assert answer.strip() not in text
    assert n_answers > 3
    assert "<!--" not in text


def test_the_exercise_ends_before_part_2(exercise):
    ids = [cell.id for cell in exercise.cells]
    assert "part-1" in ids
    assert "part-2" not in ids
    assert "def fit" not in code_of(exercise.cells)


def test_the_exercise_tells_its_task_after_the_title(exercise):
    assert exercise.cells[1].id == "task"
    assert "raise NotImplementedError" in exercise.cells[1].source


def test_the_exercise_has_no_outputs(exercise):
    for cell in exercise.cells:
        assert not cell.get("outputs")
        assert not cell.get("execution_count")


def test_the_exercise_has_no_empty_cells(exercise):
    """A cell of which nothing but an answer was left is gone."""
    for cell in exercise.cells:
        assert cell.source.strip()


def test_the_exercise_is_a_valid_notebook(exercise):
    nbformat.validate(exercise)


# Marking

# A student's notebook, cell by cell.
SOLUTION = [
    """\
import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

bound = 1e-6
""",
    """\
@chex.dataclass
class BernoulliMixture:
    cluster_weights: jax.Array
    cluster_means: jax.Array
""",
    """\
def init_mixture_params(key, n_clusters, n_pixels):
    means = jax.random.uniform(key, (n_clusters, n_pixels), minval=0.3, maxval=0.7)
    weights = jnp.ones(n_clusters) / n_clusters
    return BernoulliMixture(cluster_weights=weights, cluster_means=means)
""",
    """\
def flat(binary_images):
    return jnp.array(binary_images, dtype=float).reshape(len(binary_images), -1)


def log_joint_prob(params, binary_images):
    x = flat(binary_images)[:, None, :]
    means = jnp.clip(params.cluster_means, bound, 1 - bound)
    log_p = x * jnp.log(means) + (1 - x) * jnp.log(1 - means)
    return log_p.sum(axis=-1) + jnp.log(params.cluster_weights)
""",
    """\
def log_likelihood(params, binary_images):
    return logsumexp(log_joint_prob(params, binary_images), axis=1)
""",
    """\
def em_step(params, binary_images):
    shares = jax.nn.softmax(log_joint_prob(params, binary_images), axis=1)
    n_k = shares.sum(axis=0)
    means = (shares.T @ flat(binary_images)) / jnp.maximum(n_k, 1e-30)[:, None]
    return BernoulliMixture(cluster_weights=n_k / n_k.sum(), cluster_means=means)
""",
    """\
def make_cluster_labels(assignments, labels, n_clusters):
    counts = [[0] * 10 for _ in range(n_clusters)]
    for cluster, digit in zip(assignments, labels):
        counts[cluster][digit] += 1
    return counts
""",
]
# The same step in two halves, which a student may leave out.
HALVES = [
    """\
@chex.dataclass
class ExpectedCounts:
    cluster_counts: jax.Array
    on_counts: jax.Array
    off_counts: jax.Array
    log_likelihood: jax.Array
""",
    """\
def e_step(params, binary_images):
    x = flat(binary_images)
    log_joint = log_joint_prob(params, binary_images)
    r = jax.nn.softmax(log_joint, axis=1)
    return ExpectedCounts(
        cluster_counts=r.sum(axis=0),
        on_counts=r.T @ x,
        off_counts=r.T @ (1 - x),
        log_likelihood=logsumexp(log_joint, axis=1).sum(),
    )
""",
    """\
def m_step(counts):
    weights = counts.cluster_counts / counts.cluster_counts.sum()
    share = counts.on_counts / (counts.on_counts + counts.off_counts)
    means = jnp.where(counts.cluster_counts[:, None] > 0, share, 0.5)
    return BernoulliMixture(cluster_weights=weights, cluster_means=means)
""",
]


def hand_in(folder, cells, old="", new=""):
    """Save a student's notebook, in which one place is changed."""
    if old:
        assert sum(cell.count(old) for cell in cells) == 1
    return save(folder / "theirs.ipynb", *[cell.replace(old, new) for cell in cells])


def run_make_mark(*variables):
    """The finished process of `make mark`, with these variables of the Makefile."""
    command = [
        "make",
        "mark",
        "--no-print-directory",
        f"BIN={Path(sys.executable).parent}",
        "--assume-old=.venv/.made-from-the-lock",  # this environment will do
        *variables,
    ]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )


def mark(path, *variables):
    """Mark a notebook: the exit status, and for each test "PASSED", or why it isn't."""
    done = run_make_mark(f"NOTEBOOK={path}", *variables)
    results = dict(re.findall(r"(?m)^\S+::(\w+) (PASSED|SKIPPED)", done.stdout))
    failures = dict(re.findall(r"(?m)^FAILED \S+::(\w+) - (.*)$", done.stdout))
    return done.returncode, results | failures


def test_the_exercise_handed_in_as_it_is_is_not_written(exercise_path):
    status, results = mark(exercise_path)
    assert status != 0
    for name, result in results.items():
        assert result.endswith("isn't written"), name
    for function in FUNCTIONS:
        says = f"NotImplementedError: {function} isn't written"
        assert says in results.values()


def test_the_exercise_with_its_answers_put_back_is_right(notebook, exercise, tmp_path):
    handed_out = {cell.id: cell for cell in exercise.cells}
    exercise.cells = []
    for cell in notebook.cells:
        if is_answer(cell) or is_solution(cell):
            exercise.cells.append(cell)
        elif cell.id in handed_out:
            exercise.cells.append(handed_out[cell.id])
    nbformat.write(exercise, tmp_path / "theirs.ipynb")
    status, results = mark(tmp_path / "theirs.ipynb")
    assert set(results.values()) == {"PASSED"}
    assert status == 0


def test_a_whole_em_step_does_without_its_halves(tmp_path):
    status, results = mark(hand_in(tmp_path, SOLUTION))
    assert results.pop("test_e_step_agrees_with_the_textbook") == "SKIPPED"
    assert results.pop("test_m_step_agrees_with_the_textbook") == "SKIPPED"
    assert set(results.values()) == {"PASSED"}
    assert status == 0


def test_what_breaks_or_is_missing_or_takes_too_long_is_named(tmp_path):
    cells = [
        *SOLUTION[:3],
        "log_joint_prob = lambda params, binary_images: n_images",
        *SOLUTION[5:-1],
        "def make_cluster_labels(*arguments):\n    while True:\n        pass",
    ]
    status, results = mark(hand_in(tmp_path, cells), "SECONDS=5")
    right = results["test_init_mixture_params_follows_its_key"]
    breaks = results["test_log_joint_prob_agrees_with_the_textbook"]
    missing = results["test_log_likelihood_agrees_with_the_textbook"]
    endless = results["test_make_cluster_labels_counts_the_digits_of_each_cluster"]
    assert right == "PASSED"
    assert breaks == "NameError: name 'n_images' is not defined"
    assert missing.endswith("has no attribute 'log_likelihood'")
    assert endless.startswith("Failed: Timeout")
    assert status != 0


@pytest.mark.parametrize(
    ("variable", "says"),
    [
        pytest.param("NOTEBOOK=", "make mark NOTEBOOK=path/to/theirs.ipynb", id="none"),
        pytest.param("NOTEBOOK=tests", "can't be read as a notebook", id="a folder"),
    ],
)
def test_marking_what_is_no_notebook_says_so_in_one_line(variable, says):
    done = run_make_mark(variable)
    assert done.returncode != 0
    assert not done.stdout.strip()
    lines = [line for line in done.stderr.splitlines() if line]
    assert says in lines[0]
    assert all(line.startswith("make") for line in lines[1:])


@pytest.mark.parametrize(
    ("right", "wrong", "finds_it"),
    [
        pytest.param(
            "jnp.ones(n_clusters) / n_clusters",
            "jnp.ones(n_clusters)",
            test_em.test_init_mixture_params_has_equal_weights,
            id="init_mixture_params, weights that don't sum to 1",
        ),
        pytest.param(
            "jax.random.uniform(key, (n_clusters, n_pixels), minval=0.3, maxval=0.7)",
            "jax.random.normal(key, (n_clusters, n_pixels))",
            test_em.test_init_mixture_params_has_means_between_0_and_1_that_differ,
            id="init_mixture_params, means below 0",
        ),
        pytest.param(
            "maxval=0.7",
            "maxval=7",
            test_em.test_init_mixture_params_has_means_between_0_and_1_that_differ,
            id="init_mixture_params, means above 1",
        ),
        pytest.param(
            "means = jax.random.uniform(key, (n_clusters, n_pixels)",
            "means = jnp.ones((n_clusters, 1)) * jax.random.uniform(key, (1, n_pixels)",
            test_em.test_init_mixture_params_has_means_between_0_and_1_that_differ,
            id="init_mixture_params, equal clusters",
        ),
        pytest.param(
            "uniform(key, ",
            "uniform(jax.random.PRNGKey(0), ",
            test_em.test_init_mixture_params_follows_its_key,
            id="init_mixture_params, a key of its own",
        ),
        pytest.param(
            "jax.random.uniform(key, (n_clusters, n_pixels), minval=0.3, maxval=0.7)",
            "np.random.uniform(0.3, 0.7, (n_clusters, n_pixels))",
            test_em.test_init_mixture_params_follows_its_key,
            id="init_mixture_params, NumPy's generator",
        ),
        pytest.param(
            "log_p.sum(axis=-1)",
            "log_p.sum(axis=1)",
            test_em.test_log_joint_prob_agrees_with_the_textbook,
            id="log_joint_prob, a sum over clusters",
        ),
        pytest.param(
            "log_p.sum(axis=-1)",
            "jnp.log(jnp.exp(log_p).prod(axis=-1))",
            test_em.test_log_joint_prob_agrees_with_the_textbook,
            id="log_joint_prob, a product that underflows",
        ),
        pytest.param(
            " + jnp.log(params.cluster_weights)",
            "",
            test_em.test_log_joint_prob_agrees_with_the_textbook,
            id="log_joint_prob, no weights",
        ),
        pytest.param(
            "jnp.log(params.cluster_weights)",
            "params.cluster_weights",
            test_em.test_log_joint_prob_agrees_with_the_textbook,
            id="log_joint_prob, no logarithm of the weights",
        ),
        pytest.param(
            " + (1 - x) * jnp.log(1 - means)",
            "",
            test_em.test_log_joint_prob_agrees_with_the_textbook,
            id="log_joint_prob, nothing for pixels that are off",
        ),
        pytest.param(
            "logsumexp(log_joint_prob(params, binary_images), axis=1)",
            "logsumexp(log_joint_prob(params, binary_images), axis=0)",
            test_em.test_log_likelihood_agrees_with_the_textbook,
            id="log_likelihood, a sum over images",
        ),
        pytest.param(
            "logsumexp(log_joint_prob(params, binary_images), axis=1)",
            "log_joint_prob(params, binary_images).sum(axis=1)",
            test_em.test_log_likelihood_agrees_with_the_textbook,
            id="log_likelihood, a sum of logarithms",
        ),
        pytest.param(
            "logsumexp(log_joint_prob(params, binary_images), axis=1)",
            "jnp.log(jnp.exp(log_joint_prob(params, binary_images)).sum(axis=1))",
            test_em.test_log_likelihood_is_finite_where_the_probability_underflows,
            id="log_likelihood, a sum that underflows",
        ),
        pytest.param(
            "logsumexp(log_joint_prob(params, binary_images), axis=1)",
            "logsumexp(log_joint_prob(params, binary_images), axis=1).mean()",
            test_em.test_log_likelihood_agrees_with_the_textbook,
            id="log_likelihood, a mean over images",
        ),
        pytest.param(
            "r = jax.nn.softmax(log_joint, axis=1)",
            "r = jax.nn.softmax(log_joint, axis=0)",
            test_em.test_e_step_agrees_with_the_textbook,
            id="e_step, shares that sum to 1 over images",
        ),
        pytest.param(
            "off_counts=r.T @ (1 - x)",
            "off_counts=1 - r.T @ x",
            test_em.test_e_step_agrees_with_the_textbook,
            id="e_step, off is 1 - on",
        ),
        pytest.param(
            "logsumexp(log_joint, axis=1).sum()",
            "logsumexp(log_joint, axis=1).mean()",
            test_em.test_e_step_agrees_with_the_textbook,
            id="e_step, a mean over images",
        ),
        pytest.param(
            "counts.on_counts / (counts.on_counts + counts.off_counts)",
            "counts.on_counts",
            test_em.test_m_step_agrees_with_the_textbook,
            id="m_step, no division",
        ),
        pytest.param(
            "counts.cluster_counts / counts.cluster_counts.sum()",
            "counts.cluster_counts",
            test_em.test_m_step_agrees_with_the_textbook,
            id="m_step, counts as weights",
        ),
        pytest.param(
            "shares = jax.nn.softmax(log_joint_prob(params, binary_images), axis=1)",
            "shares = jax.nn.softmax(log_joint_prob(params, binary_images), axis=0)",
            test_em.test_em_step_agrees_with_the_textbook,
            id="em_step, shares that sum to 1 over images",
        ),
        pytest.param(
            " / jnp.maximum(n_k, 1e-30)[:, None]",
            "",
            test_em.test_em_step_agrees_with_the_textbook,
            id="em_step, no division",
        ),
        pytest.param(
            "jnp.maximum(n_k, 1e-30)[:, None]",
            "len(binary_images)",
            test_em.test_em_step_agrees_with_the_textbook,
            id="em_step, divided by the number of images",
        ),
        pytest.param(
            "BernoulliMixture(cluster_weights=n_k / n_k.sum(), ",
            "BernoulliMixture(cluster_weights=params.cluster_weights, ",
            test_em.test_em_step_agrees_with_the_textbook,
            id="em_step, the weights stay",
        ),
        pytest.param(
            "BernoulliMixture(cluster_weights=n_k / n_k.sum(), ",
            "BernoulliMixture(cluster_weights=n_k, ",
            test_em.test_em_step_gives_weights_that_sum_to_1,
            id="em_step, counts as weights",
        ),
        pytest.param(
            "jnp.maximum(n_k, 1e-30)",
            "n_k",
            test_em.test_em_step_keeps_an_empty_cluster_empty_and_no_other_notices,
            id="em_step, an empty cluster divides by zero",
        ),
        pytest.param(
            "jnp.clip(params.cluster_means, bound, 1 - bound)",
            "params.cluster_means",
            test_em.test_the_likelihood_never_falls,
            id="no clip",
        ),
        pytest.param(
            "bound = 1e-6",
            "bound = 1e-9",
            test_em.test_the_likelihood_never_falls,
            id="a clip at 1 in float32",
        ),
        pytest.param(
            "counts[cluster][digit]",
            "counts[digit][cluster]",
            test_em.test_make_cluster_labels_counts_the_digits_of_each_cluster,
            id="make_cluster_labels, transposed",
        ),
        pytest.param(
            "range(n_clusters)",
            "range(max(assignments) + 1)",
            test_em.test_make_cluster_labels_counts_the_digits_of_each_cluster,
            id="make_cluster_labels, no row for a cluster without images",
        ),
    ],
)
def test_a_usual_mistake_is_found_where_it_was_made(tmp_path, right, wrong, finds_it):
    em = import_quietly(hand_in(tmp_path, SOLUTION + HALVES, right, wrong))
    with pytest.raises(AssertionError, match="expected .*, found"):
        finds_it(em)


@pytest.mark.parametrize(
    ("right", "other"),
    [
        pytest.param("bound = 1e-6", "bound = 1e-4", id="a clip at 1e-4"),
        pytest.param("bound = 1e-6", "bound = 1e-7", id="a clip at 1e-7"),
        pytest.param(
            "BernoulliMixture(cluster_weights=n_k / n_k.sum(), cluster_means=means)",
            "BernoulliMixture(cluster_weights=np.asarray(n_k) / len(binary_images),"
            " cluster_means=np.clip(means, 1e-4, 1 - 1e-4))",
            id="a clip after the step, in NumPy",
        ),
    ],
)
def test_a_solution_may_clip_elsewhere(tmp_path, right, other):
    em = import_quietly(hand_in(tmp_path, SOLUTION, right, other))
    test_em.test_the_likelihood_never_falls(em)
    test_em.test_em_step_agrees_with_the_textbook(em)
    test_em.test_em_step_keeps_an_empty_cluster_empty_and_no_other_notices(em)
