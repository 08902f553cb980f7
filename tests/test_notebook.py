"""The committed notebook, its report, its prose, the exercise and its marks, the README."""

import ast
import base64
import io
import os
import re
import subprocess
import sys

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
    "restarts-after": "-157.68 -157.48",  # measured on a CPU, outside the notebook
    "published-after": "128 1024 1000 16000",  # so was that with 16,000 images
    "keep-text": "12.0 5.0",
    "fit-after": "0.21",
}


@pytest.fixture(scope="module")
def notebook(root):
    """The notebook as committed."""
    return nbformat.read(root / "bernoulli_em.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs_as_text(cell):
    """What a cell shows, without its pictures: their alternative texts instead."""
    lines = []
    for output in cell.outputs:
        alt = output.get("metadata", {}).get("image/png", {}).get("alt")
        lines.append(output.get("text") or alt or output.get("data", {}).get("text/plain"))
    return re.sub(r"\[.*it/s\]|█.*\|", "", "\n".join(lines))


def pngs(cell):
    """The pictures of a cell, as bytes."""
    data = (output.get("data", {}).get("image/png") for output in cell.outputs)
    return [base64.b64decode(png) for png in data if png]


def is_like(old, new):
    """Whether two outputs' texts are the same but for two units of each number's last digit."""
    pairs = zip(NUMBER.finditer(old), NUMBER.finditer(new))
    return NUMBER.sub("#", old) == NUMBER.sub("#", new) and all(
        abs(float(a[0]) - float(b[0])) <= 2.01 * 10 ** -len(a[1] or "") for a, b in pairs
    )


def test_the_committed_outputs_are_what_the_code_prints(notebook, report):
    fresh = nbformat.read(report / "bernoulli_em.ipynb", as_version=4)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for old, new in zip(cells, code_cells(fresh), strict=True):
        assert all(output.get("name") != "stderr" for output in new.outputs), new.id
        stale = f"stale outputs in cell {old.id}: make execute"
        assert is_like(outputs_as_text(old), outputs_as_text(new)), stale
        for a, b in zip(pngs(old), pngs(new), strict=True):
            a, b = (imread(io.BytesIO(png)) for png in (a, b))
            assert a.shape == b.shape and (np.abs(a - b).max(axis=-1) > 0.1).mean() < 0.01, stale


def test_the_pictures_of_the_readme_are_the_notebook_s(notebook, root):
    cells, readme = (
        {cell.id: cell for cell in notebook.cells},
        (root / "README.md").read_text("utf-8"),
    )
    for cell_id, path in {"forming": "prototypes.png", "holes-figure": "holes.png"}.items():
        (picture,) = pngs(cells[cell_id])
        assert picture == (root / "figures" / path).read_bytes(), "make execute renews it"
        assert f"](figures/{path})" in readme and len(picture) < 600_000
    assert pngs(cells["forming"])[0].count(b"fcTL") >= 21, "it doesn't move"
    assert "](figures/prototypes.png)" in notebook.cells[0].source


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
        for cell in (cell for cell in section if cell.cell_type == "markdown"):
            known = printed | set(SOURCED.get(cell.id, "").split())
            prose = re.sub(r"(?s)\$\$.*?\$\$|\$.*?\$|`.*?`|\]\(.*?\)", "", cell.source)
            for number in numbers_in(prose):
                small = "." not in number and abs(int(number)) <= 21
                if not small and not re.fullmatch("(19|20)..", number):
                    assert is_printed(number, known), f"cell {cell.id} quotes {number}"


def drawn_by(em, notebook, cell_id, **names):
    """The figure that a cell of the notebook shows if it finds these names."""
    (source,) = (cell.source for cell in notebook.cells if cell.id == cell_id)
    shown = []
    exec(source, vars(em) | names | {"show": lambda figure, alt: shown.append(figure)})  # noqa: S102
    return shown[0]


def test_figures_show_what_they_name(em, notebook):
    curves = {"train_curve": np.array([0.0, 1, 2]), "test_curve": np.array([5.0, 6, 8])}
    (axis,) = drawn_by(em, notebook, "curve", n_iterations=2, **curves).axes
    assert [line.get_ydata().tolist() for line in axis.lines] == [[1.0, 2.0], [6.0, 8.0]]
    assert [text.get_text() for text in axis.get_legend().texts] == ["train", "test"]

    counts = np.arange(60).reshape(2, 3, 10) % 7
    names = {"train_counts": counts[0], "test_counts": counts[1], "n_clusters": 3}
    figure = drawn_by(em, notebook, "histograms", final_means=np.zeros((3, 4, 4)), **names)
    for k, axis in enumerate(figure.axes):
        for bars, own in zip(axis.collections, counts, strict=True):
            tops = [segment[1, 1] for segment in bars.get_segments()]
            np.testing.assert_allclose(tops, own[k] / own[k].sum())
    assert [text.get_text() for text in figure.legends[0].texts] == ["train", "test"]

    names = {"guesses": np.array([7, 7, 2]), "test_labels": [3, 3, 2]}
    (axis,) = drawn_by(em, notebook, "confusion", **names).axes
    texts = {text.get_position(): text.get_text() for text in axis.texts}
    assert texts[7, 3] == "2" and texts[2, 2] == "1" and texts[3, 7] == ""


def test_images_are_shown_in_rows_under_their_labels(em, monkeypatch):
    displayed, images = [], np.arange(1, 8)[:, None, None] / 8 * np.ones((7, 2, 3))
    names = {"h": 2, "w": 3, "display": lambda *a, **k: displayed.append((*a, k))}
    for name, value in names.items():
        monkeypatch.setattr(em, name, value, raising=False)
    em.plt.close("all")
    em.show_images(images, "title", range(7), n_columns=5)
    em.show_images(images.reshape(7, 6), "other", ["a", "b", "c"], ["row"], n_columns=3)
    em.show_images(images, "title")
    em.show_images(np.zeros((11, 2, 3)), "rows of ten")
    shape = displayed[-1][0].axes[0].images[0].get_array().shape
    assert shape == (2 * 5, 10 * 6) and em.tile(images, 5).shape == (2 * 5, 5 * 6)
    assert not em.plt.get_fignums()
    for (figure, metadata), gap, n_columns in zip(displayed, (9, 9, 3), (5, 3, 7)):
        (axis,) = figure.axes
        assert metadata == {"metadata": {"image/png": {"alt": axis.get_title()}}}
        assert not axis.axison and axis.images[0].get_clim() == (0, 1)
        assert axis.images[0].get_cmap().name == "gray_r"
        picture = np.asarray(axis.images[0].get_array())
        assert picture.shape == (-(-7 // n_columns) * (2 + gap), n_columns * 6)
        size = np.array(picture.shape[::-1]) / 33 + (0.9, 0.6)  # room for the texts
        np.testing.assert_allclose(figure.get_size_inches(), size)
        expected = np.zeros_like(picture)
        for i in range(7):
            top, left = i // n_columns * (2 + gap) + gap, i % n_columns * 6 + 3
            expected[top : top + 2, left : left + 3] = (i + 1) / 8
        np.testing.assert_array_equal(picture, expected)
    labels = displayed[0][0].axes[0].texts
    for i, text in zip(range(7), labels, strict=True):  # above their images, inside the picture
        assert text.get_position() == pytest.approx((i % 5 * 6 + 3.3, i // 5 * 11 + 7.5))
        assert text.get_text() == str(i)
        assert (text.get_ha(), text.get_va()) == ("center", "bottom")
    *above, row = displayed[1][0].axes[0].texts
    assert [text.get_text() for text in above] == ["a", "b", "c"] and row.get_text() == "row"
    assert row.get_position() == pytest.approx((1, 0.55 * 11))
    assert (row.get_ha(), row.get_va()) == ("right", "center")


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
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", example]
    env = os.environ | {"XLA_FLAGS": ""}
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_the_lock_is_made_from_the_environment(root):
    environment = (root / "environment.yml").read_text(encoding="utf-8")
    wanted = {name.replace("_", "-") for name in re.findall(r"(?m)^      - (\w\S*)", environment)}
    lock = (root / "requirements.txt").read_text(encoding="utf-8")
    entries = re.findall(r"(?m)^(\S+)==.*\n((?:    #.*\n)*)", lock)
    assert wanted == {name for name, via in entries if "-r .venv/environment.in" in via}


FUNCTIONS = ["init_mixture_params", "log_joint_prob", "log_likelihood", "em_step"]
FUNCTIONS += ["make_cluster_labels"]
UNDERFLOW = """
    mu = jnp.where(x > 0, params.cluster_means, 1 - params.cluster_means)
    return jnp.log(params.cluster_weights * mu.prod(axis=-1))
"""
# What is wrong, where, and how to get there from the solution.
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


def hand_in(root, tmp_path, *changes, more=()):
    """The solution, with changes and more cells: its path."""
    notebook = nbformat.read(root / "tests" / "solution.ipynb", as_version=4)
    for old, new in changes:
        assert sum(cell.source.count(old) for cell in notebook.cells) == 1
        for cell in notebook.cells:
            cell.source = cell.source.replace(old, new)
    notebook.cells += [nbformat.v4.new_code_cell(source) for source in more]
    nbformat.write(notebook, tmp_path / "handed_in.ipynb")
    return tmp_path / "handed_in.ipynb"


def test_the_exercise_gives_no_answer_away(root, tmp_path):
    exercise = make_exercise(nbformat.read(root / "bernoulli_em.ipynb", as_version=4))
    nbformat.validate(exercise)
    nbformat.write(exercise, tmp_path / "exercise.ipynb")
    text = "\n".join(cell.source for cell in exercise.cells)
    assert text.count("    raise NotImplementedError") == 7
    for secret in ("jnp.log1p", "softmax(log_joint /", "np.bincount(cells", "−158.17", "66.4"):
        assert secret not in text
        assert secret in (root / "bernoulli_em.ipynb").read_text(encoding="utf-8")
    assert not any(cell.get("outputs") for cell in exercise.cells)
    assert "def fit" not in text and "](#part" not in text
    assert "class BernoulliMixture" in text and "log p(x_n, z = k) in nats" in text
    marks = {name: mark.mark(tmp_path / "exercise.ipynb", name) for name in mark.checks.CHECKS}
    assert set(marks.values()) == {"not written"}


def test_right_solutions_are_right(tmp_path, root):
    path = hand_in(root, tmp_path, more=HARMLESS)
    assert {name: mark.mark(path, name) for name in FUNCTIONS} == dict.fromkeys(FUNCTIONS, "right")
    mark.import_notebook(path, skipped := [])
    for says in HARMLESS.values():
        assert any(says in reason for reason in skipped)
    assert {mark.mark(root / "bernoulli_em.ipynb", name) for name in mark.OPTIONAL} == {"right"}


@pytest.mark.parametrize(("where", "right", "wrong"), MISTAKES)
def test_a_usual_mistake_is_wrong_where_it_was_made(root, tmp_path, where, right, wrong):
    path = hand_in(root, tmp_path, (right, wrong))
    assert re.match("wrong: .*(expected .*, found|falls|Error)", mark.mark(path, where))
    other = "log_joint_prob" if where == "em_step" else "em_step"  # gets a correct one instead
    assert mark.mark(path, other) == "right"


def test_what_breaks_or_is_missing_is_named(root, tmp_path, monkeypatch, capsys):
    changes = [("    counts = shares", "    import os; os._exit(7)\n    counts = shares")]
    changes += [("bound = 1e-6", "n = train_images[0].size")]
    changes += [("    means = params", "    n\n    means = params")]
    with pytest.raises(SystemExit) as ended:
        mark.main(hand_in(root, tmp_path, *changes))
    lines = capsys.readouterr().out.splitlines()
    assert ended.value.code and lines[-1] == "3 of 5 right"
    assert "train_images" in lines[0] and "top to bottom" in lines[0]
    assert "'n' is not defined (the marker reads definitions" in lines[2]
    assert "wrong: ended the process with status 7" in lines[4]
    for_ever = ("    counts = [{", "    while True:\n        pass\n    counts = [{")
    monkeypatch.setattr(mark, "SECONDS", 5)
    says = mark.mark_apart(hand_in(root, tmp_path, for_ever), "make_cluster_labels")
    assert says == "wrong: not done after 5 seconds"
    (tmp_path / "text.ipynb").write_text('{"cells": [')
    (tmp_path / "empty.ipynb").write_text("")
    bad = ["", tmp_path, tmp_path / "some.py", tmp_path / "text.ipynb", tmp_path / "empty.ipynb"]
    for path in [*bad, hand_in(root, tmp_path, ("class BernoulliMixture", "class Other"))]:
        with pytest.raises(SystemExit, match="can't be marked: [^\n]*$"):
            mark.main(path)
