"""The committed notebook, its report, its prose, the exercise and its marks, the README."""

import ast
import base64
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import mark
import nbformat
import numpy as np
import pytest
from make_exercise import make_exercise
from matplotlib.image import imread

NUMBER = re.compile(r"-?\d+(?:\.(\d+))?")
# What the data are known to be, wherever the prose says it.
KNOWN = {"60000", "10000", "70000", "28", "784", "255", "2000"}
# Numbers that a cell's prose derives, or quotes from a source it names.
SOURCED = {
    "start-after": "-0.738 -0.693 -579 -543.4",  # 2 * the integral of log; log(1/2)
    "underflow": "-103 -158",  # the log of the smallest float32; section 6
    "vote-after": "0.01 0.1 -206.04 -195.05",  # measured on a CPU, outside the notebook
    "published-before": "-168.95 -142.63 -137.64 4.1 1000",
    "published-after": "128 1024 1000",
    "keep-text": "12.0 5.0",
    "fit-after": "0.21",
}


@pytest.fixture(scope="module")
def notebook(root):
    """The notebook as committed."""
    return nbformat.read(root / "bernoulli_em.ipynb", as_version=4)


@pytest.fixture(scope="module")
def report(root, tmp_path_factory):
    """A folder with the report that `make report` writes, and the notebook as it executed it."""
    folder = tmp_path_factory.mktemp("report")
    nowhere = dict.fromkeys(
        ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9"
    )
    command = ["make", "report", f"REPORT={folder}", f"BIN={Path(sys.executable).parent}"]
    command += ["-o", ".venv/.made-from-the-lock"]  # this environment will do
    subprocess.run(command, cwd=root, env=os.environ | nowhere | {"XLA_FLAGS": ""}, check=True)
    return folder


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs_as_text(cell):
    """What a cell shows, without its pictures: their alternative texts instead."""
    lines = []
    for output in cell.outputs:
        picture = output.get("metadata", {}).get("image/png", {})
        plain = output.get("data", {}).get("text/plain")
        lines.append(output.get("text") or picture.get("alt") or plain)
    return "\n".join(lines)


def pngs(cell):
    """The pictures of a cell, as bytes."""
    data = (output.get("data", {}).get("image/png") for output in cell.outputs)
    return [base64.b64decode(png) for png in data if png]


def is_like(old, new):
    """Whether two outputs' texts are the same but for two units of each number's last digit."""
    if NUMBER.sub("#", old) != NUMBER.sub("#", new):
        return False
    return all(
        abs(float(a[0]) - float(b[0])) <= 2.01 * 10 ** -len(a[1] or "")
        for a, b in zip(NUMBER.finditer(old), NUMBER.finditer(new), strict=True)
    )


def test_the_committed_outputs_are_what_the_code_prints(notebook, report):
    fresh = nbformat.read(report / "bernoulli_em.ipynb", as_version=4)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for old, new in zip(cells, code_cells(fresh), strict=True):
        assert all(output.get("name") != "stderr" for output in new.outputs), new.id
        texts = [re.sub(r"\[.*it/s\]|█.*\|", "", outputs_as_text(cell)) for cell in (old, new)]
        assert is_like(*texts), f"stale outputs in cell {old.id}: make execute"
        for a, b in zip(pngs(old), pngs(new), strict=True):
            a, b = (imread(io.BytesIO(png)) for png in (a, b))
            alike = a.shape == b.shape and (np.abs(a - b).max(axis=-1) > 0.1).mean() < 0.01
            assert alike, f"a stale figure in cell {old.id}"


def test_the_head_is_the_moving_picture(notebook, root):
    (cell,) = (cell for cell in notebook.cells if cell.id == "forming")
    head = (root / "figures" / "prototypes.png").read_bytes()
    assert pngs(cell) == [head], "make execute renews it"
    assert head.count(b"fcTL") >= 21 and len(head) < 600_000
    for text in (notebook.cells[0].source, (root / "README.md").read_text(encoding="utf-8")):
        assert "](figures/prototypes.png)" in text


def test_the_report_is_whole(notebook, report):
    text = (report / "bernoulli_em.html").read_text(encoding="utf-8")
    assert not re.search(r"<(script|img|link|iframe)[^>]*(src|href)=.https?:", text)
    assert len(re.findall(r'<svg[^>]*aria-label="[^"]', text)) > 40
    assert "$$" not in re.sub(r"(?s)<script.*?</script>", "", text) and "Traceback" not in text
    shown = 1 + sum(len(pngs(cell)) for cell in code_cells(notebook))  # 1: at the head
    assert len(re.findall(r'<img alt="[^"]+" src="data:image/png', text)) == shown >= 18
    folded = sum("jupyter" in cell.metadata for cell in code_cells(notebook))
    assert text.count("<details><summary>code that draws") == folded >= 15
    assert text.count("20/20") == 1


def numbers_in(text):
    """The numbers of a text as strings, without signs of thousands; ASCII minus."""
    text = re.sub(r"(?<=\d),(?=\d{3})|(?<=\d)_(?=\d{3})", "", text.replace("−", "-"))
    return {found[0] for found in re.finditer(r"(?<![\w.])-?\d+(?:\.\d+)?", text)}


def is_printed(number, printed):
    """Whether a quoted number is a printed one, rounded to the digits that it is quoted with."""
    digits = len(number.partition(".")[2])
    return any(f"{float(other):.{digits}f}" == number for other in printed)


def test_the_prose_quotes_what_its_section_prints(notebook):
    """Each number but digits, sections and years is printed there, in the code, or SOURCED."""
    sections = [[]]
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and re.search("(?m)^##", cell.source):
            sections.append([])
        sections[-1].append(cell)
    for before, section in zip([[], *sections], sections):
        cells = notebook.cells if section is sections[0] else before + section
        shown = [cell.source + "\n" + outputs_as_text(cell) for cell in cells if "outputs" in cell]
        printed = set().union(KNOWN, *map(numbers_in, shown))
        for cell in section:
            if cell.cell_type == "markdown":
                known = printed | set(SOURCED.get(cell.id, "").split())
                prose = re.sub(r"(?s)\$\$.*?\$\$|\$.*?\$|`.*?`|\]\(.*?\)", "", cell.source)
                for number in numbers_in(prose):
                    small = "." not in number and abs(int(number)) <= 21
                    if not small and not re.fullmatch("(19|20)..", number):
                        assert is_printed(number, known), f"cell {cell.id} quotes {number}"


def drawn_by(em, notebook, cell_id, **names):
    """The figures that a cell of the notebook shows if it finds these names."""
    (source,) = (cell.source for cell in notebook.cells if cell.id == cell_id)
    shown = []
    scope = vars(em) | names | {"show": lambda figure, alt: shown.append(figure)}
    exec(source, scope)  # noqa: S102
    return shown


def test_figures_show_what_they_name(em, notebook, monkeypatch):
    curves = {"train_curve": np.array([0.0, 1, 2]), "test_curve": np.array([5.0, 6, 8])}
    (figure,) = drawn_by(em, notebook, "curve", n_iterations=2, **curves)
    lines = [line.get_ydata().tolist() for line in figure.axes[0].lines]
    assert lines == [[1.0, 2.0], [6.0, 8.0]]
    assert [text.get_text() for text in figure.axes[0].get_legend().texts] == ["train", "test"]

    counts = np.arange(60).reshape(2, 3, 10) % 7
    names = {"train_counts": counts[0], "test_counts": counts[1], "n_clusters": 3}
    (figure,) = drawn_by(em, notebook, "histograms", final_means=np.zeros((3, 4, 4)), **names)
    for k, axis in enumerate(figure.axes):
        for bars, own in zip(axis.containers, counts, strict=True):
            np.testing.assert_allclose([bar.get_height() for bar in bars], own[k] / own[k].sum())
    assert [text.get_text() for text in figure.legends[0].texts] == ["train", "test"]

    names = {"guesses": np.r_[np.zeros(10_000, int), [7, 7, 2]], "test_labels": [3, 3, 2]}
    (figure,) = drawn_by(em, notebook, "confusion", **names)
    texts = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    assert texts[7, 3] == "2" and texts[2, 2] == "1" and texts[3, 7] == ""

    shown = []
    monkeypatch.setattr(em, "show", lambda figure, alt: shown.append(figure))
    monkeypatch.setattr(em, "h", 2, raising=False)
    monkeypatch.setattr(em, "w", 3, raising=False)
    images = np.arange(1, 8)[:, None, None] / 7 * np.ones((7, 2, 3))
    em.show_images(images, "title", range(7), n_columns=5)
    em.show_images(images.reshape(7, 6), "title", ["a", "b", "c"], ["row"], n_columns=3)
    for figure, gap, n_columns in zip(shown, (9, 3), (5, 3)):
        (axis,) = figure.axes
        picture = np.asarray(axis.images[0].get_array())
        for i in range(7):
            top, left = i // n_columns * (2 + gap) + gap, i % n_columns * 6 + 3
            assert (picture[top : top + 2, left : left + 3] == (i + 1) / 7).all()
            assert picture[top - 1, left] == 0 and picture[top, left - 1] == 0
    x, y = shown[0].axes[0].texts[6].get_position()
    assert 6 < x < 12 and 11 < y < 20 and shown[0].axes[0].texts[6].get_text() == "6"
    assert [text.get_text() for text in shown[1].axes[0].texts] == ["a", "b", "c", "row"]
    displayed = []
    em.display = lambda figure, metadata: displayed.append((figure, metadata))
    monkeypatch.undo()
    em.show(figure, "a text")
    assert displayed == [(figure, {"image/png": {"alt": "a text"}})]
    assert not em.plt.fignum_exists(figure.number)


def names_of(nodes, context):
    """The names that pieces of code load, or store."""
    names = (name for node in nodes for name in ast.walk(node) if isinstance(name, ast.Name))
    return {name.id for name in names if isinstance(name.ctx, context)}


def test_every_cell_can_run_twice(notebook):
    """No cell assigns, at the top level, to a name that it reads from an earlier cell."""
    for cell in code_cells(notebook):
        read, bound = set(), set()
        for node in ast.parse(cell.source).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                bound.add(node.name)
                continue
            stored = names_of(getattr(node, "targets", [node]), ast.Store)
            within = names_of([node], ast.Store) - (stored if hasattr(node, "targets") else set())
            read |= names_of([node], ast.Load) - within - bound
            assert not stored & read, f"{cell.id} rebinds {stored & read}"
            bound |= stored


def test_the_readme(root, notebook):
    readme = (root / "README.md").read_text(encoding="utf-8")
    results = re.search(r"(?s)## Results\n(.*?)\n## ", readme)[1]
    printed = numbers_in("\n".join(map(outputs_as_text, code_cells(notebook))).replace("%", " "))
    quoted = {number for number in numbers_in(results) if "." in number}
    assert len(quoted) >= 8 and quoted <= printed
    (example,) = re.findall(r"(?s)```python\n(.*?)```", readme)
    command, env = [sys.executable, "-W", "error::RuntimeWarning", "-c", example], {"XLA_FLAGS": ""}
    done = subprocess.run(
        command, cwd=root, env=os.environ | env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_the_lock_is_made_from_the_environment(root):
    environment = (root / "environment.yml").read_text(encoding="utf-8")
    wanted = {name.replace("_", "-") for name in re.findall(r"(?m)^      - (\w\S*)", environment)}
    lock = (root / "requirements.txt").read_text(encoding="utf-8")
    entries = re.findall(r"(?m)^(\S+)==.*\n((?:    #.*\n)*)", lock)
    assert wanted == {name for name, via in entries if "-r .venv/environment.in" in via}


PLAIN = """
import chex
import jax
import jax.numpy as jnp
import numpy as np

n_clusters = 15
bound = 1e-6
logit = lambda m: jnp.log(m) - jnp.log(1 - m)

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
    log_p = x * logit(means) + jnp.log(1 - means)
    return log_p.sum(axis=-1) + jnp.log(params.cluster_weights)

def log_likelihood(params, binary_images):
    return jax.scipy.special.logsumexp(log_joint_prob(params, binary_images), axis=1)

def em_step(params, binary_images):
    x = jnp.array(binary_images, dtype=float).reshape(len(binary_images), -1)
    joint = log_joint_prob(params, binary_images)
    # what does this sum to?
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
UNDERFLOW = """
    mu = jnp.where(x > 0, params.cluster_means, 1 - params.cluster_means)
    return jnp.log(params.cluster_weights * mu.prod(axis=-1))
"""
# What is wrong, where, and how to get there from PLAIN.
MISTAKES = [
    ("log_likelihood", "binary_images), axis=1)", "binary_images), axis=0)"),
    ("log_joint_prob", "    means = params.cluster_means\n", UNDERFLOW),
    ("log_joint_prob", " + jnp.log(params.cluster_weights)", ""),
    ("log_joint_prob", " + jnp.log(1 - means)", ""),
    ("em_step", "(joint, axis=1, keepdims", "(joint, axis=0, keepdims"),
    ("em_step", " / counts[:, None]", ""),
    ("em_step", "jnp.clip(means, bound, 1 - bound)", "means"),
    ("make_cluster_labels", "[int(cluster)][int(label)]", "[int(label)][int(cluster)]"),
]
# Cells that harm nothing, and what is said of them.
HARMLESS = {
    "history = [1]\nparams = history[-1][0]\nlls = {}\nfirst = lls['a']\ny = 1 / 0": "ZeroDivision",
    "import seaborn_or_so\nfrom google.colab import drive": "seaborn_or_so",
    "jax.nn.softmax?\n%matplotlib inline\n!pip list": "",
    "%%bash\nls": "",
    "def unfinished(:": "SyntaxError",
    "def show(images=train_images):\n    pass": "train_images",
    "n_pixels = train_images[0].size\nN = len(train_images)": "train_images",
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
    for secret in ("jnp.log1p", "softmax(log_joint /", "np.bincount(cells", "−158.17", "66.4"):
        assert secret not in text
        assert secret in (root / "bernoulli_em.ipynb").read_text(encoding="utf-8")
    assert not any(cell.get("outputs") for cell in notebook.cells)
    assert "def fit" not in text and "](#part" not in text
    assert "class BernoulliMixture" in text and "log p(x_n, z = k) in nats" in text
    marks = {name: mark.mark(exercise, name) for name in mark.checks.CHECKS}
    assert set(marks.values()) == {"not written"}


def test_right_solutions_are_right(tmp_path, root, capsys):
    path = save(tmp_path / "plain.ipynb", PLAIN, *HARMLESS)
    assert {name: mark.mark(path, name) for name in FUNCTIONS} == dict.fromkeys(FUNCTIONS, "right")
    skipped = []
    mark.import_notebook(path, skipped)
    for says in HARMLESS.values():
        assert any(says in reason for reason in skipped)
    own = {name: mark.mark(root / "bernoulli_em.ipynb", name) for name in mark.checks.CHECKS}
    assert set(own.values()) == {"right"}


@pytest.mark.parametrize("case", range(len(MISTAKES)))
def test_a_usual_mistake_is_wrong_where_it_was_made(tmp_path, case):
    where, right, wrong = MISTAKES[case]
    assert PLAIN.count(right) == 1
    path = save(tmp_path / "wrong.ipynb", PLAIN.replace(right, wrong))
    marks = {name: mark.mark(path, name) for name in FUNCTIONS}
    assert re.match("wrong: .*(expected .*, found|falls|Error)", marks.pop(where))
    assert set(marks.values()) == {"right"}


def test_what_breaks_or_is_missing_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(mark, "SECONDS", 30)
    source = PLAIN.replace("    counts = shares", "    import os; os._exit(7)\n    counts = shares")
    source = source.replace("    counts = [{", "    while True:\n        pass\n    counts = [{")
    source = source.replace("bound = 1e-6", "n = train_images[0].size")
    source = source.replace(
        "x = jnp.array(binary_images, dtype=float).reshape(len(binary_images), 1,",
        "n\n    x = jnp.array(binary_images, dtype=float).reshape(len(binary_images), 1,",
    )
    with pytest.raises(SystemExit) as ended:
        mark.main(save(tmp_path / "breaks.ipynb", source))
    lines = capsys.readouterr().out.splitlines()
    assert ended.value.code and lines[-1] == "2 of 5 right"
    assert "train_images" in lines[0] and "top to bottom" in lines[0]
    assert "'n' is not defined (the marker reads definitions" in lines[2]
    assert "wrong: ended the process with status 7" in lines[4]
    assert "wrong: not done after 30 seconds" in lines[5]
    (tmp_path / "text.ipynb").write_text('{"cells": [')
    (tmp_path / "empty.ipynb").write_text("")
    bad = ["", tmp_path, tmp_path / "some.py", tmp_path / "text.ipynb", tmp_path / "empty.ipynb"]
    for path in [*bad, save(tmp_path / "x.ipynb", "x = 1")]:
        with pytest.raises(SystemExit, match="can't be marked: .*") as ended:
            mark.main(path)
        assert "\n" not in str(ended.value)
