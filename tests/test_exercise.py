"""The exercise made from the notebook, and the marks of right and wrong solutions."""

import re

import mark
import nbformat
import pytest
from make_exercise import make_exercise

PLAIN = """
import chex
import jax
import jax.numpy as jnp
import numpy as np

n_clusters = 15
bound = 1e-6

@chex.dataclass
class BernoulliMixture:
    cluster_weights: chex.Array
    cluster_means: chex.Array

def init_mixture_params(key, n_clusters, n_pixels):
    means = jax.random.uniform(key, (n_clusters, n_pixels), minval=0.3, maxval=0.7)
    return BernoulliMixture(cluster_weights=jnp.ones(n_clusters) / n_clusters, cluster_means=means)

def log_joint_prob(params, binary_images):
    x = jnp.array(binary_images, dtype=float).reshape(len(binary_images), 1, -1)
    means = params.cluster_means
    log_p = x * jnp.log(means) + (1 - x) * jnp.log(1 - means)
    return log_p.sum(axis=-1) + jnp.log(params.cluster_weights)

def log_likelihood(params, binary_images):
    return jax.scipy.special.logsumexp(log_joint_prob(params, binary_images), axis=1)

def em_step(params, binary_images):
    x = jnp.array(binary_images, dtype=float).reshape(len(binary_images), -1)
    joint = log_joint_prob(params, binary_images)
    shares = jnp.exp(joint - jax.scipy.special.logsumexp(joint, axis=1, keepdims=True))
    counts = shares.sum(axis=0)
    means = (shares.T @ x) / counts[:, None]
    means = jnp.clip(means, bound, 1 - bound)
    return BernoulliMixture(cluster_weights=counts / counts.sum(), cluster_means=means)

def make_cluster_labels(assignments, labels):
    counts = [{digit: 0 for digit in range(10)} for _ in range(n_clusters)]
    for cluster, label in zip(assignments, labels):
        counts[int(cluster)][int(label)] += 1
    return counts
"""
FUNCTIONS = re.findall(r"def (\w+)", PLAIN)

# What is wrong, where, and how to get there from PLAIN.
MISTAKES = {
    "a sum over the wrong axis": (
        "log_likelihood",
        "(params, binary_images), axis=1)",
        "(params, binary_images), axis=0)",
    ),
    "underflow": (
        "log_likelihood",
        "jax.scipy.special.logsumexp(log_joint_prob(params, binary_images), axis=1)",
        "jnp.log(jnp.exp(log_joint_prob(params, binary_images)).sum(axis=1))",
    ),
    "weights left out": ("log_joint_prob", " + jnp.log(params.cluster_weights)", ""),
    "1 - x left out": ("log_joint_prob", " + (1 - x) * jnp.log(1 - means)", ""),
    "normalised over the images": (
        "em_step",
        "(joint, axis=1, keepdims",
        "(joint, axis=0, keepdims",
    ),
    "means not divided by the counts": ("em_step", " / counts[:, None]", ""),
    "0/0 for pixels never on": ("em_step", "jnp.clip(means, bound, 1 - bound)", "means"),
    "counts transposed": (
        "make_cluster_labels",
        "counts[int(cluster)][int(label)]",
        "counts[int(label)][int(cluster)]",
    ),
}


def save(path, *cells):
    cells = [nbformat.v4.new_code_cell(source) for source in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


@pytest.fixture(scope="module")
def exercise(root, tmp_path_factory):
    """The exercise made from today's notebook."""
    notebook = make_exercise(nbformat.read(root / "bernoulli_em.ipynb", as_version=4))
    nbformat.validate(notebook)
    path = tmp_path_factory.mktemp("exercise") / "exercise.ipynb"
    nbformat.write(notebook, path)
    return path


def test_the_exercise_gives_no_answer_away(exercise, root):
    notebook = nbformat.read(exercise, as_version=4)
    text = "\n".join(cell.source for cell in notebook.cells)
    assert text.count("    raise NotImplementedError") == 7
    for secret in ("jnp.log1p", "softmax(log_joint,", "np.bincount(cells", "−158.17", "66.4"):
        assert secret not in text
        assert secret in (root / "bernoulli_em.ipynb").read_text(encoding="utf-8")
    assert not any(cell.get("outputs") for cell in notebook.cells)
    assert "def fit" not in text and "](#part" not in text
    assert "class BernoulliMixture" in text and "log p(x_n, z = k) in nats" in text


def test_the_exercise_runs_to_the_first_body_to_write(exercise, root, monkeypatch):
    """That is the cell that runs EM: the data are read and drawn before it."""
    monkeypatch.chdir(root)
    scope, ran = {}, []
    cells = nbformat.read(exercise, as_version=4).cells
    with pytest.raises(NotImplementedError):
        for cell in cells:
            if cell.cell_type == "code":
                ran.append(cell.id)
                few = cell.source.replace('["train", "test"]', '["test[:50]", "test[:50]"]')
                exec(few, scope)  # noqa: S102
    assert ran[-1] == "run-em" and {"load", "digits", "em-step-code"} <= set(ran)


def test_the_exercise_itself_is_not_written(exercise):
    marks = {name: mark.mark(exercise, name) for name in mark.checks.CHECKS}
    assert set(marks.values()) == {"not written"}


def test_a_plain_solution_is_right(tmp_path):
    path = save(tmp_path / "plain.ipynb", "%matplotlib inline\n!pip list", PLAIN)
    assert {name: mark.mark(path, name) for name in FUNCTIONS} == dict.fromkeys(FUNCTIONS, "right")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_usual_mistake_is_wrong_where_it_was_made(tmp_path, mistake):
    where, right, wrong = MISTAKES[mistake]
    assert PLAIN.count(right) == 1
    path = save(tmp_path / "wrong.ipynb", PLAIN.replace(right, wrong))
    marks = {name: mark.mark(path, name) for name in FUNCTIONS}
    assert re.match("wrong: .*(expected .*, found|falls|Error)", marks.pop(where))
    assert set(marks.values()) == {"right"}


def test_the_notebook_s_own_functions_are_all_right(root):
    marks = {name: mark.mark(root / "bernoulli_em.ipynb", name) for name in mark.checks.CHECKS}
    assert set(marks.values()) == {"right"}


def test_one_function_that_breaks_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(mark, "SECONDS", 15)
    source = PLAIN.replace("    counts = shares", "    import os; os._exit(7)\n    counts = shares")
    source = source.replace("    counts = [{", "    while True:\n        pass\n    counts = [{")
    path = save(tmp_path / "breaks.ipynb", source)
    with pytest.raises(SystemExit) as ended:
        mark.main(path)
    lines = capsys.readouterr().out.splitlines()
    assert ended.value.code and lines[-1] == "3 of 5 right"
    assert "wrong: ended the process with status 7" in lines[3]
    assert "wrong: not done after 15 seconds" in lines[4]


def test_what_cannot_be_marked_gets_one_clear_line(tmp_path):
    for source, says in (
        ("def f(:", "SyntaxError"),
        ("x = 1", "BernoulliMixture"),
        ("import no_such", "no_such"),
    ):
        with pytest.raises(SystemExit, match=f"can't be marked: .*{says}") as ended:
            mark.main(save(tmp_path / "other.ipynb", source))
        assert "\n" not in str(ended.value)
    (tmp_path / "text.ipynb").write_text("no notebook")
    with pytest.raises(SystemExit, match="can't be marked"):
        mark.main(tmp_path / "text.ipynb")
