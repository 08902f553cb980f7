"""The exercise: what is handed out, and how what comes back is marked."""

import ast
import math
import re
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import nbformat
import pytest
import test_em
import textbook
from conftest import function_asked_by, what_to_fix
from exercise import FUNCTIONS, NEUTRAL_TITLES, PACKAGES, without_bodies
from nbimport import ROOT, import_notebook
from textbook import assert_agree


def save(path, sources):
    """Write a notebook of code cells, and return its path."""
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


# Handing out


@pytest.fixture(scope="module")
def notebook(pytestconfig):
    """The notebook with the answers."""
    return nbformat.read(pytestconfig.getoption("--notebook"), as_version=4)


@pytest.fixture(scope="module")
def exercise_path(pytestconfig, tmp_path_factory):
    """The exercise that tests/exercise.py makes of it."""
    source = pytestconfig.getoption("--notebook")
    folder = tmp_path_factory.mktemp("exercise")
    program = ROOT / "tests" / "exercise.py"
    subprocess.run([sys.executable, program, source, folder], check=True)
    return folder / "bernoulli_em.ipynb"


@pytest.fixture(scope="module")
def exercise(exercise_path):
    return nbformat.read(exercise_path, as_version=4)


@pytest.fixture(scope="module")
def handed_out(exercise):
    """The source of each code cell of the exercise, by the cell's id."""
    cells = {}
    for cell in exercise.cells:
        if cell.cell_type == "code":
            cells[cell.id] = cell.source
    return cells


def has_tag(cell, tag):
    return tag in cell.metadata.get("tags", [])


def text_of(cells):
    """The source of all cells."""
    return "\n".join(cell.source for cell in cells)


def test_of_each_function_the_exercise_keeps_only_its_head(exercise):
    found = set()
    for cell in exercise.cells:
        if has_tag(cell, "answer"):
            for node in ast.parse(cell.source).body:
                found.add(node.name)
                assert ast.get_docstring(node), f"{node.name} tells nothing"
                _, last = node.body
                expected = f'raise NotImplementedError("{node.name} isn\'t written")'
                assert ast.unparse(last) == ast.unparse(ast.parse(expected))
    assert found == FUNCTIONS


def test_an_answer_without_a_function_of_the_exercise_goes_whole():
    assert not without_bodies("shares = 3\n\ndef helper():\n    return shares")


def test_the_exercise_keeps_decorators_and_what_answers_may_use(handed_out):
    code = "\n".join(handed_out.values())
    assert "@jax.jit\ndef em_step(" in code
    assert code.count("@jax.jit") == 1 + code.count("@jax.jit\ndef between")
    assert "@chex.dataclass(frozen=True)\nclass BernoulliMixture" in code
    assert "class ExpectedCounts" in code
    assert "def as_floats" in code
    assert "def dot" in code
    assert "MIN_MEAN =" in code


def test_the_exercise_reads_no_name_that_only_an_answer_binds(exercise_path):
    options = ["--isolated", "--no-cache", "--select=F821"]  # undefined names
    command = [sys.executable, "-m", "ruff", "check", *options, exercise_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_exercise_has_no_cell_that_is_a_solution(exercise):
    assert not any(has_tag(cell, "solution") for cell in exercise.cells)


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


def test_no_title_tells_what_our_own_fit_found(notebook, exercise):
    """A right start that uses its key in another way finds other clusters."""
    ours = text_of(notebook.cells)
    theirs = text_of(exercise.cells)
    for finding, neutral in NEUTRAL_TITLES.items():
        assert ours.count(f'"{finding}') == 1, finding
        assert f'"{finding}' not in theirs
        assert theirs.count(f'"{neutral}') == 1


def test_no_gap_is_left_where_text_was_taken_out(exercise):
    for cell in exercise.cells:
        if cell.cell_type == "markdown":
            assert "\n\n\n" not in cell.source
            assert cell.source == cell.source.strip() or cell.id == "task"


def test_the_exercise_names_no_section_that_it_has_not(exercise):
    headings = re.findall(r"(?m)^### (\d+)\. ", text_of(exercise.cells))
    named = re.findall(r"[Ss]ection (\d+)", text_of(exercise.cells))
    assert set(named) <= set(headings)


def test_the_exercise_has_what_it_needs_and_no_more(exercise_path):
    folder = exercise_path.parent
    files = {path.relative_to(folder).parts[0] for path in folder.rglob("*")}
    assert files == {"bernoulli_em.ipynb", "data", "figures", "requirements.txt"}
    assert [path.name for path in (folder / "data").iterdir()] == ["mnist"]
    assert [path.name for path in (folder / "figures").iterdir()] == ["prototypes.png"]
    lines = (folder / "requirements.txt").read_text().splitlines()
    names = {line.partition("==")[0] for line in lines}
    assert names == PACKAGES


def test_the_exercise_s_links_lead_to_places_in_it(exercise):
    text = text_of(exercise.cells)
    links = set(re.findall(r"\]\(#([^)]+)\)", text))
    places = set(re.findall(r'<a id="([^"]+)">', text))
    assert "part-1" in links
    dead = links - places
    assert not dead


def test_the_exercise_ends_before_part_2(exercise):
    ids = [cell.id for cell in exercise.cells]
    assert "exercises-1" in ids
    assert "part-2" not in ids


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

# A student's answers, written after the exercise's own cells; em_step does without
# e_step and m_step.
ANSWERS = [
    """\
def log_joint_prob(params, binary_images):
    x = as_floats(binary_images)
    means = jnp.clip(params.cluster_means, MIN_MEAN, 1 - MIN_MEAN)
    log_p = dot(x, jnp.log(means).T) + dot(1 - x, jnp.log(1 - means).T)
    return log_p + jnp.log(params.cluster_weights)
""",
    """\
def init_mixture_params(key, n_clusters, n_pixels):
    means = jax.random.uniform(key, (n_clusters, n_pixels), minval=0.25, maxval=0.75)
    weights = jnp.ones(n_clusters) / n_clusters
    return BernoulliMixture(cluster_weights=weights, cluster_means=means)
""",
    """\
def log_likelihood(params, binary_images):
    return jax.nn.logsumexp(log_joint_prob(params, binary_images), axis=1)
""",
    """\
def responsibilities(params, binary_images):
    return jax.nn.softmax(log_joint_prob(params, binary_images), axis=1)
""",
    """\
def em_step(params, binary_images):
    r = responsibilities(params, binary_images)
    n_k = r.sum(axis=0)
    means = dot(r.T, as_floats(binary_images)) / jnp.maximum(n_k, 1e-30)[:, None]
    means = jnp.clip(means, MIN_MEAN, 1 - MIN_MEAN)
    return BernoulliMixture(cluster_weights=n_k / n_k.sum(), cluster_means=means)
""",
    """\
def make_cluster_labels(assignments, labels, n_clusters):
    if len(assignments) != len(labels):
        raise ValueError("one label for each assignment")
    if min(labels) < 0 or max(labels) > 9:
        raise ValueError("labels are digits")
    counts = np.zeros((n_clusters, 10), dtype=int)
    for cluster, digit in zip(assignments, labels):
        counts[cluster][digit] += 1
    return counts
""",
]
# The same step in two halves.
HALVES = [
    """\
def e_step(params, binary_images):
    x = as_floats(binary_images)
    r = responsibilities(params, binary_images)
    return ExpectedCounts(
        cluster_counts=r.sum(axis=0),
        on_counts=dot(r.T, x),
        off_counts=dot(r.T, 1 - x),
        log_likelihood=log_likelihood(params, binary_images).sum(),
    )
""",
    """\
def m_step(counts):
    share_on = counts.on_counts / (counts.on_counts + counts.off_counts)
    share_on = jnp.where(jnp.isnan(share_on), 0.5, share_on)
    return BernoulliMixture(
        cluster_weights=counts.cluster_counts / counts.cluster_counts.sum(),
        cluster_means=jnp.clip(share_on, MIN_MEAN, 1 - MIN_MEAN),
    )
""",
]
# test_em.py's tests, by their names.
TESTS = {name: test for name, test in vars(test_em).items() if name.startswith("test_")}


@pytest.fixture(scope="module")
def part_1_path(notebook, handed_out, tmp_path_factory):
    """The exercise with the notebook's answers put back."""
    sources = []
    for cell in notebook.cells:
        if has_tag(cell, "answer") or has_tag(cell, "solution"):
            sources.append(cell.source)
        elif cell.id in handed_out:
            sources.append(handed_out[cell.id])
    return save(tmp_path_factory.mktemp("part 1") / "ours.ipynb", sources)


@pytest.fixture
def hand_in(handed_out, tmp_path):
    """Writes answers after the exercise's own cells; returns the notebook's path."""
    path = tmp_path / "theirs.ipynb"
    return lambda answers: save(path, [*handed_out.values(), *answers])


def change(answers, right, other):
    """The answers with one place in them changed."""
    assert "\n".join(answers).count(right) == 1
    return [answer.replace(right, other) for answer in answers]


def mark(path):
    """What test_em.py's tests say of a notebook, by name: nothing where it's right."""
    em = import_notebook(path)
    says = {}
    for name, test in TESTS.items():
        try:
            test(em)
        except (Exception, pytest.skip.Exception) as reason:  # noqa: BLE001
            says[name] = str(reason)
    return says


def test_the_exercise_handed_in_as_it_is_is_not_written(exercise_path):
    says = mark(exercise_path)
    assert set(says) == set(TESTS)
    assert set(says.values()) == {f"{name} isn't written" for name in FUNCTIONS}


def test_the_answers_put_back_are_right(part_1_path):
    assert not mark(part_1_path)


def test_part_1_alone_takes_means_of_exactly_0_and_1(part_1_path):
    """The whole notebook's other tests ask log_joint_prob as Part 2 writes it again."""
    em = import_notebook(part_1_path)
    params = em.BernoulliMixture(
        cluster_weights=jnp.ones(1), cluster_means=jnp.array([[0.0, 1.0]])
    )
    images = jnp.array([[False, True], [True, False]])
    found = em.log_joint_prob(params, images)
    expected = [[0], [2 * math.log(textbook.MIN_MEAN)]]
    assert_agree("[image, cluster]", expected, found, atol=0.05)


def test_a_whole_em_step_does_without_its_halves(hand_in):
    e_step_is_missing = "e_step isn't written; em_step is asked instead"
    m_step_is_missing = "m_step isn't written; em_step is asked instead"
    assert mark(hand_in(ANSWERS)) == {
        "test_e_step_agrees_with_the_textbook": e_step_is_missing,
        "test_m_step_agrees_with_the_textbook": m_step_is_missing,
        "test_m_step_clips_its_means": m_step_is_missing,
        "test_m_step_makes_a_mean_without_counts_one_half": m_step_is_missing,
    }


def test_an_em_step_of_two_halves_needs_both(hand_in):
    em_step = (
        "def em_step(params, binary_images):\n"
        "    return m_step(e_step(params, binary_images))"
    )
    says = mark(hand_in([*ANSWERS, HALVES[0], em_step]))
    assert says["test_m_step_clips_its_means"] == "m_step isn't written"
    assert "test_e_step_agrees_with_the_textbook" not in says


@pytest.mark.parametrize(
    ("left_out", "says"),
    [
        pytest.param("no cell", "responsibilities isn't written", id="not written"),
        pytest.param("responsibilities-code", "no responsibilities", id="deleted"),
    ],
)
def test_an_em_step_may_compute_the_responsibilities_itself(
    handed_out, tmp_path, left_out, says
):
    cells = [source for cell_id, source in handed_out.items() if cell_id != left_out]
    softmax = "jax.nn.softmax(log_joint_prob(params, binary_images), axis=1)"
    answers = [answer for answer in ANSWERS if "def responsibilities" not in answer]
    answers = change(answers, "responsibilities(params, binary_images)", softmax)
    em = import_notebook(save(tmp_path / "theirs.ipynb", [*cells, *answers]))
    test_em.test_em_step_agrees_with_the_textbook(em)
    with pytest.raises(pytest.skip.Exception, match=f"^{says}; em_step is asked"):
        test_em.test_responsibilities_agree_with_the_textbook(em)


@pytest.mark.parametrize(
    ("right", "other"),
    [
        pytest.param(
            "clip(params.cluster_means, MIN_MEAN, 1 - MIN_MEAN)",
            "clip(params.cluster_means, 1e-4, 1 - 1e-4)",
            id="another clip",
        ),
        pytest.param(
            "n_k / n_k.sum(), cluster_means=means",
            "np.asarray(n_k) / n_k.sum(), cluster_means=np.clip(means, 1e-4, 1 - 1e-4)",
            id="a clip after the step, in NumPy",
        ),
        pytest.param(
            "jnp.clip(share_on, MIN_MEAN, 1 - MIN_MEAN)",
            "jnp.clip(share_on, 1e-4, 1 - 1e-4)",
            id="another clip in the M-step",
        ),
        pytest.param(
            "clip(params.cluster_means, MIN_MEAN, 1 - MIN_MEAN)",
            "asarray(params.cluster_means)",
            id="a clip in the steps alone",
        ),
        pytest.param(
            "dot(r.T, as_floats(binary_images)) /",
            "jnp.stack([dot(r_k, as_floats(binary_images)) for r_k in r.T]) /",
            id="a loop",
        ),
        pytest.param(
            "    counts = np.zeros((n_clusters, 10), dtype=int)",
            "    import collections\n"
            "    counts = [collections.Counter() for _ in range(n_clusters)]",
            id="dictionaries",
        ),
    ],
)
def test_a_right_answer_may_be_written_another_way(hand_in, right, other):
    assert not mark(hand_in(change(ANSWERS + HALVES, right, other)))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, about theirs
@pytest.mark.parametrize(
    ("right", "wrong", "finds_it"),
    [
        pytest.param(
            "dot(x, jnp.log(means).T) + dot(1 - x, jnp.log(1 - means).T)",
            "jnp.log(jnp.where(x[:, None] == 1, means, 1 - means).prod(axis=2))",
            test_em.test_log_joint_prob_agrees_with_the_textbook,
            id="log_joint_prob, a product that underflows",
        ),
        pytest.param(
            " + dot(1 - x, jnp.log(1 - means).T)",
            "",
            test_em.test_log_joint_prob_agrees_with_the_textbook,
            id="log_joint_prob, nothing for pixels that are off",
        ),
        pytest.param(
            " + jnp.log(params.cluster_weights)",
            "",
            test_em.test_log_joint_prob_agrees_with_the_textbook,
            id="log_joint_prob, no weights",
        ),
        pytest.param(
            "clip(params.cluster_means, MIN_MEAN, 1 - MIN_MEAN)",
            "clip(params.cluster_means, 0.01, 0.99)",
            test_em.test_log_joint_prob_agrees_with_the_textbook,
            id="log_joint_prob, a clip that is too wide",
        ),
        pytest.param(
            "jnp.ones(n_clusters) / n_clusters",
            "jnp.ones(n_clusters)",
            test_em.test_init_mixture_params_has_equal_weights,
            id="init_mixture_params, weights that don't sum to 1",
        ),
        pytest.param(
            "minval=0.25",
            "minval=-0.25",
            test_em.test_init_mixture_params_has_means_between_0_and_1_that_differ,
            id="init_mixture_params, means below 0",
        ),
        pytest.param(
            "maxval=0.75",
            "maxval=75",
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
            "means = jax.random.uniform(key, (n_clusters, n_pixels)",
            "means = jnp.ones((1, n_pixels)) * jax.random.uniform(key, (n_clusters, 1)",
            test_em.test_init_mixture_params_has_means_between_0_and_1_that_differ,
            id="init_mixture_params, equal pixels",
        ),
        pytest.param(
            "uniform(key, (n_clusters, n_pixels)",
            "uniform(key, (n_pixels, n_clusters)",
            test_em.test_init_mixture_params_has_means_between_0_and_1_that_differ,
            id="init_mixture_params, pixels by clusters",
        ),
        pytest.param(
            "uniform(key, ",
            "uniform(jax.random.PRNGKey(0), ",
            test_em.test_init_mixture_params_follows_its_key,
            id="init_mixture_params, a key of its own",
        ),
        pytest.param(
            "jax.random.uniform(key, (n_clusters, n_pixels), minval=0.25, maxval=0.75)",
            "np.random.uniform(0.25, 0.75, (n_clusters, n_pixels))",
            test_em.test_init_mixture_params_follows_its_key,
            id="init_mixture_params, NumPy's generator",
        ),
        pytest.param(
            "logsumexp(log_joint_prob(params, binary_images), axis=1)",
            "logsumexp(log_joint_prob(params, binary_images), axis=0)",
            test_em.test_log_likelihood_agrees_with_the_textbook,
            id="log_likelihood, a sum over images",
        ),
        pytest.param(
            "jax.nn.logsumexp(log_joint_prob(params, binary_images), axis=1)",
            "log_joint_prob(params, binary_images).sum(axis=1)",
            test_em.test_log_likelihood_agrees_with_the_textbook,
            id="log_likelihood, a sum of logarithms",
        ),
        pytest.param(
            "jax.nn.logsumexp(log_joint_prob(params, binary_images), axis=1)",
            "np.log(np.exp(np.float64(log_joint_prob(params, binary_images))).sum(axis=1))",
            test_em.test_log_likelihood_agrees_with_the_textbook,
            id="log_likelihood, a sum that underflows in float64",
        ),
        pytest.param(
            "    return jax.nn.logsumexp(log_joint_prob(params, binary_images), axis=1)",
            "    log_joint = log_joint_prob(params, binary_images)\n"
            "    largest = log_joint.max()\n"
            "    return largest + jnp.log(jnp.exp(log_joint - largest).sum(axis=1))",
            test_em.test_log_likelihood_agrees_with_the_textbook,
            id="log_likelihood, relative to the largest of all images",
        ),
        pytest.param(
            "    return jax.nn.logsumexp(log_joint_prob(params, binary_images), axis=1)",
            "    log_joint = log_joint_prob(params, binary_images)\n"
            "    first = log_joint[:, :1]\n"
            "    return first[:, 0] + jnp.log(jnp.exp(log_joint - first).sum(axis=1))",
            test_em.test_log_likelihood_agrees_with_the_textbook,
            id="log_likelihood, relative to the first cluster",
        ),
        pytest.param(
            "softmax(log_joint_prob(params, binary_images), axis=1)",
            "softmax(log_joint_prob(params, binary_images), axis=0)",
            test_em.test_responsibilities_agree_with_the_textbook,
            id="responsibilities, shares that sum to 1 over images",
        ),
        pytest.param(
            "jax.nn.softmax(log_joint_prob(params, binary_images), axis=1)",
            "log_joint_prob(params, binary_images)",
            test_em.test_responsibilities_agree_with_the_textbook,
            id="responsibilities, logarithms",
        ),
        pytest.param(
            "    return jax.nn.softmax(log_joint_prob(params, binary_images), axis=1)",
            "    joint = jnp.exp(log_joint_prob(params, binary_images))\n"
            "    return joint / joint.sum(axis=1, keepdims=True)",
            test_em.test_responsibilities_agree_with_the_textbook,
            id="responsibilities, a sum that underflows",
        ),
        pytest.param(
            "off_counts=dot(r.T, 1 - x)",
            "off_counts=1 - dot(r.T, x)",
            test_em.test_e_step_agrees_with_the_textbook,
            id="e_step, off is 1 - on",
        ),
        pytest.param(
            "log_likelihood(params, binary_images).sum()",
            "log_likelihood(params, binary_images).mean()",
            test_em.test_e_step_agrees_with_the_textbook,
            id="e_step, a mean over images",
        ),
        pytest.param(
            "def e_step(params, binary_images):",
            "def e_step(params, binary_images):\n"
            "    if len(binary_images) > 10:\n"
            "        n_batches = len(binary_images) // 10\n"
            "        binary_images = binary_images[: 10 * n_batches]",
            test_em.test_e_step_agrees_with_the_textbook,
            id="e_step, batches that drop the rest",
        ),
        pytest.param(
            "counts.on_counts / (counts.on_counts + counts.off_counts)",
            "counts.on_counts",
            test_em.test_m_step_agrees_with_the_textbook,
            id="m_step, no division",
        ),
        pytest.param(
            "counts.on_counts / (counts.on_counts + counts.off_counts)",
            "counts.on_counts / counts.on_counts.max(axis=1, keepdims=True)",
            test_em.test_m_step_agrees_with_the_textbook,
            id="m_step, divided by the largest on-count",
        ),
        pytest.param(
            "counts.cluster_counts / counts.cluster_counts.sum()",
            "counts.cluster_counts",
            test_em.test_m_step_agrees_with_the_textbook,
            id="m_step, counts as weights",
        ),
        pytest.param(
            "jnp.clip(share_on, MIN_MEAN, 1 - MIN_MEAN)",
            "jnp.maximum(share_on, MIN_MEAN)",
            test_em.test_m_step_clips_its_means,
            id="m_step, no clip below 1",
        ),
        pytest.param(
            "jnp.clip(share_on, MIN_MEAN, 1 - MIN_MEAN)",
            "jnp.minimum(share_on, 1 - MIN_MEAN)",
            test_em.test_m_step_clips_its_means,
            id="m_step, no clip above 0",
        ),
        pytest.param(
            "    share_on = jnp.where(jnp.isnan(share_on), 0.5, share_on)\n",
            "",
            test_em.test_m_step_makes_a_mean_without_counts_one_half,
            id="m_step, an empty cluster divides by zero",
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
            "n_k / n_k.sum(), cluster_means=means",
            "n_k / n_k.sum(), cluster_means=1 - means",
            test_em.test_the_likelihood_never_falls,
            id="em_step, on and off exchanged",
        ),
        pytest.param(
            "cluster_weights=n_k / n_k.sum()",
            "cluster_weights=params.cluster_weights",
            test_em.test_em_step_agrees_with_the_textbook,
            id="em_step, the weights stay",
        ),
        pytest.param(
            "cluster_weights=n_k / n_k.sum()",
            "cluster_weights=n_k",
            test_em.test_em_step_agrees_with_the_textbook,
            id="em_step, counts as weights",
        ),
        pytest.param(
            "    means = jnp.clip(means, MIN_MEAN, 1 - MIN_MEAN)\n",
            "",
            test_em.test_em_step_clips_its_means,
            id="em_step, no clip",
        ),
        pytest.param(
            "jnp.maximum(n_k, 1e-30)",
            "n_k",
            test_em.test_em_step_keeps_an_empty_cluster_empty_and_no_other_notices,
            id="em_step, an empty cluster divides by zero",
        ),
        pytest.param(
            "counts[cluster][digit]",
            "counts[digit][cluster]",
            test_em.test_make_cluster_labels_counts_the_digits_of_each_cluster,
            id="make_cluster_labels, transposed",
        ),
        pytest.param(
            "np.zeros((n_clusters, 10), dtype=int)",
            "np.zeros((max(assignments) + 1, 10), dtype=int)",
            test_em.test_make_cluster_labels_counts_the_digits_of_each_cluster,
            id="make_cluster_labels, no row for a cluster without images",
        ),
        pytest.param(
            "    for cluster, digit in zip(assignments, labels):\n"
            "        counts[cluster][digit] += 1\n",
            "    counts[assignments, labels] += 1\n",
            test_em.test_make_cluster_labels_counts_the_digits_of_each_cluster,
            id="make_cluster_labels, one of each digit",
        ),
        pytest.param(
            "dtype=int",
            "dtype=np.uint8",
            test_em.test_make_cluster_labels_counts_the_digits_of_each_cluster,
            id="make_cluster_labels, counts in bytes",
        ),
        pytest.param(
            "len(assignments) != len(labels)",
            "False",
            test_em.test_make_cluster_labels_refuses_all_but_a_digit_for_each_assignment,
            id="make_cluster_labels, takes too few labels",
        ),
        pytest.param(
            "max(labels) > 9",
            "False",
            test_em.test_make_cluster_labels_refuses_all_but_a_digit_for_each_assignment,
            id="make_cluster_labels, takes a label above 9",
        ),
        pytest.param(
            "min(labels) < 0",
            "False",
            test_em.test_make_cluster_labels_refuses_all_but_a_digit_for_each_assignment,
            id="make_cluster_labels, takes a label below 0",
        ),
    ],
)
def test_a_usual_mistake_is_found_where_it_was_made(hand_in, right, wrong, finds_it):
    em = import_notebook(hand_in(change(ANSWERS + HALVES, right, wrong)))
    with pytest.raises(AssertionError, match="expected .*, found"):
        finds_it(em)


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


def test_marking_says_of_each_test_whether_it_passes_or_why_not(handed_out, tmp_path):
    cells = dict(handed_out)
    del cells["log-likelihood"]
    del cells["expected-counts"]
    answers = [
        "log_joint_prob = lambda params, binary_images: n_train",
        "def responsibilities(*arguments):\n    while True:\n        pass",
        "em_step = lambda params, binary_images: params",
        ANSWERS[-1],
    ]
    path = save(tmp_path / "it's $HOME, theirs.ipynb", [*cells.values(), *answers])
    done = run_make_mark(f"NOTEBOOK={path}", "SECONDS=5")
    says = dict(re.findall(r"(?m)^\S+::(\w+) (PASSED|SKIPPED)", done.stdout))
    says |= re.findall(r"(?m)^FAILED \S+::(\w+) - (.*)$", done.stdout)
    assert set(says) == set(TESTS)
    right = says["test_make_cluster_labels_counts_the_digits_of_each_cluster"]
    breaks = says["test_log_joint_prob_agrees_with_the_textbook"]
    missing = says["test_log_likelihood_agrees_with_the_textbook"]
    not_written = says["test_init_mixture_params_has_equal_weights"]
    may_be_missing = says["test_m_step_agrees_with_the_textbook"]
    endless = says["test_responsibilities_agree_with_the_textbook"]
    assert right == "PASSED"
    assert breaks.startswith("NameError: name 'n_train' is not defined: cell [4] def")
    assert "has no attribute 'log_likelihood'" in missing
    assert not_written == "NotImplementedError: init_mixture_params isn't written"
    assert may_be_missing == "SKIPPED"
    reasons = re.findall(r"(?m)^SKIPPED \S+ \S+: (.*)$", done.stdout)
    assert "no ExpectedCounts; em_step is asked instead" in reasons
    assert endless.startswith("Failed: Timeout")
    *_, last_line = done.stdout.splitlines()
    first = "Fix log_joint_prob first; the later failures may follow from it."
    assert last_line == first
    assert done.returncode != 0


def test_marks_come_in_the_order_in_which_the_functions_are_written(exercise):
    """The last of all is what depends on all."""
    written = []
    for cell in exercise.cells:
        if has_tag(cell, "answer"):
            written += [node.name for node in ast.parse(cell.source).body]
    asked = [function_asked_by(f"tests/test_em.py::{name}") for name in TESTS]
    assert list(dict.fromkeys(asked)) == written
    assert list(TESTS)[-1] == "test_the_likelihood_never_falls"


def test_a_single_failure_is_what_to_fix():
    assert what_to_fix(["m_step"]) == "Fix m_step first."


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
