"""The committed notebook, its report, its prose, the exercise and its marks, the README."""

import base64
import dis
import io
import os
import re
import subprocess
import sys

import coursework
import nbformat
import numpy as np
import pytest
from coursework import CHECKS, OPTIONAL, SOLUTION, make_exercise, mark, mark_all
from matplotlib.image import imread
from nbimport import ROOT, import_notebook

NUMBER = re.compile(r"-?\d+(?:\.(\d+))?")
KNOWN = "60,000 10,000 70,000 28 784 255 2,000"  # of the data, wherever quoted
# Numbers that a cell's prose derives, or quotes from a source it names.
SOURCED = {
    "start-after": "-0.738 -0.693 -579 -543.4",  # 2 * the integral of log; log(1/2)
    "underflow": "-103 -158",  # the log of the smallest float32; section 6
    "vote-after": "0.01 0.1 -206.04 -195.05",  # measured on a CPU, outside the notebook
    "published-before": "-168.95 -142.63 -137.64 4.1 1000 20000",  # len(fit_images)
    "online-before": "20000",  # the same
    "restarts-after": "-157.68 -157.48",  # measured on a CPU, outside the notebook
    "published-after": "128 1024 1000 16000",  # so was that with 16,000 images
    "keep-text": "12.0 5.0",
    "fit-after": "0.21",
}


@pytest.fixture
def notebook():
    """The notebook as committed."""
    return nbformat.read(ROOT / "bernoulli_em.ipynb", as_version=4)


def outputs_as_text(cell):
    """What a cell shows, without its pictures: their alternative texts instead."""
    lines = []
    for output in cell.get("outputs", []):
        alt = output.get("metadata", {}).get("image/png", {}).get("alt")
        lines.append(output.get("text") or alt or output.get("data", {}).get("text/plain"))
    return re.sub(r"\[.*it/s\]|█.*\|", "", "\n".join(lines))


def pngs(cell):
    """The pictures of a cell, as bytes."""
    data = (output.get("data", {}).get("image/png") for output in cell.get("outputs", []))
    return [base64.b64decode(png) for png in data if png]


def test_the_committed_outputs_are_what_the_code_prints(notebook, report):
    fresh = nbformat.read(report / "bernoulli_em.ipynb", as_version=4)
    numbers = [cell.execution_count for cell in notebook.cells if "outputs" in cell]
    assert numbers == list(range(1, len(numbers) + 1))
    for old, new in zip(notebook.cells, fresh.cells, strict=True):
        assert all(output.get("name") != "stderr" for output in new.get("outputs", [])), new.id
        stale = f"stale outputs in cell {old.id}: make execute"
        old_text, new_text = outputs_as_text(old), outputs_as_text(new)
        assert NUMBER.sub("#", old_text) == NUMBER.sub("#", new_text), stale
        for a, b in zip(NUMBER.finditer(old_text), NUMBER.finditer(new_text)):
            assert abs(float(a[0]) - float(b[0])) < 2.01 * 0.1 ** len(a[1] or ""), stale
        for a, b in zip(pngs(old), pngs(new), strict=True):
            a, b = (imread(io.BytesIO(png)) for png in (a, b))
            assert a.shape == b.shape and (np.abs(a - b).max(axis=-1) > 0.1).mean() < 0.01, stale


def test_the_report_is_whole(notebook, report):
    text = (report / "bernoulli_em.html").read_text(encoding="utf-8")
    assert not re.search(r"<(script|img|link|iframe)[^>]*(src|href)=.https?:", text)
    assert len(re.findall(r'<svg[^>]*aria-label="[^"]', text)) > 40
    assert "$$" not in re.sub(r"(?s)<script.*?</script>", "", text) and "Traceback" not in text
    shown = 1 + sum(len(pngs(cell)) for cell in notebook.cells)  # 1: at the head
    assert len(re.findall(r'<img alt="[^"]+" src="data:image/png', text)) == shown >= 18
    folded = sum("jupyter" in cell.metadata for cell in notebook.cells)
    assert text.count("<details><summary>code that draws") == folded >= 15
    assert text.count("20/20") == 1


def numbers_in(text):
    """The numbers of a text as strings, without signs of thousands; ASCII minus."""
    text = re.sub(r"(?<=\d),(?=\d{3})|(?<=\d)_(?=\d{3})", "", text.replace("−", "-"))
    return {found[0] for found in re.finditer(r"(?<![\w.])-?\d+(?:\.\d+)?", text)}


def test_the_prose_quotes_what_its_section_prints(notebook):
    """Each number but digits, sections and years is printed there, in the code, or SOURCED."""
    sections = [[]]
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and "\n##" in "\n" + cell.source:
            sections.append([])
        sections[-1].append(cell)
    for before, section in zip([notebook.cells, *sections], sections):
        cells = [cell for cell in before + section if "outputs" in cell]
        shown = [cell.source for cell in cells] + [outputs_as_text(cell) for cell in cells]
        printed = set().union(*map(numbers_in, [KNOWN, *shown]))
        for cell in (cell for cell in section if cell.cell_type == "markdown"):
            known = printed | set(SOURCED.get(cell.id, "").split())
            prose = re.sub(r"(?s)\$\$.*?\$\$|\$.*?\$|`.*?`|\]\(.*?\)", "", cell.source)
            for number in numbers_in(prose):
                digits, year = len(number.partition(".")[2]), re.fullmatch("(19|20)..", number)
                if digits or not (year or abs(int(number)) <= 21):
                    rounded = {f"{float(other):.{digits}f}" for other in known}
                    assert number in rounded, f"cell {cell.id} quotes {number}"


def drawn_by(em, notebook, cell_id, **names):
    """The figure that a cell of the notebook shows if it finds these names."""
    (source,) = (cell.source for cell in notebook.cells if cell.id == cell_id)
    shown = []
    exec(source, vars(em) | names | {"show": lambda figure, alt: shown.append(figure)})  # noqa: S102
    return shown[0]


def test_figures_show_what_they_name(em, notebook):
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


def test_images_are_shown_in_rows_under_their_labels():
    shown, em = [], import_notebook()
    vars(em).update(h=2, w=3, display=lambda figure, metadata: shown.append((figure, metadata)))
    cases = [(7, 5, 9, range(7), ""), (7, 3, 9, "abc", "r"), (7, 7, 3, "", ""), (11, 10, 3, "", "")]
    for n, n_columns, gap, labels, rows in cases:
        images = np.arange(1, n + 1)[:, None, None] / 20 * np.ones((n, 2, 3))
        how = (labels, rows, n_columns) if labels else ()
        em.show_images(images.reshape(n, 6) if rows else images, "title", *how)
        figure, metadata = shown.pop()
        (axis,), (image,) = figure.axes, figure.axes[0].images
        assert metadata == {"image/png": {"alt": "title"}} and axis.get_title() == "title"
        assert not axis.axison and not em.plt.fignum_exists(figure.number) and not shown
        assert (image.get_cmap().name, image.get_clim()) == ("gray_r", (0, 1))
        expected = np.zeros((-(-n // n_columns) * (2 + gap), n_columns * 6))
        for i in range(n):
            top, left = i // n_columns * (2 + gap) + gap, i % n_columns * 6 + 3
            expected[top : top + 2, left : left + 3] = (i + 1) / 20
        np.testing.assert_array_equal(image.get_array(), expected)
        size = np.flip(expected.shape) / 33 + (0.9, 0.6)  # room for texts
        np.testing.assert_allclose(figure.get_size_inches(), size)
        places = [(i % n_columns * 6 + 3.3, i // n_columns * 11 + 7.5) for i in range(len(labels))]
        wanted = [(str(a), "center", "bottom", xy) for a, xy in zip(labels, places)]
        wanted += [(row, "right", "center", (1, 0.55 * 11)) for row in rows]
        for text, (*words, xy) in zip(axis.texts, wanted, strict=True):
            assert [text.get_text(), text.get_ha(), text.get_va()] == words
            assert text.get_position() == pytest.approx(xy)
    assert em.tile(images, 4).shape == (3 * 5, 4 * 6)


def steps_of(code):
    """The steps of a program, those of its comprehensions and lambdas among them."""
    for step in dis.get_instructions(code):
        inner = "<" in getattr(step.argval, "co_name", "")
        yield from steps_of(step.argval) if inner else [step]


def test_every_cell_can_run_twice(notebook):
    """No cell binds, at its top level, a name that it reads from an earlier cell."""
    for cell in (cell for cell in notebook.cells if "outputs" in cell):
        read, bound = set(), set()
        for step in steps_of(compile(cell.source, cell.id, "exec")):
            if step.opname == "STORE_NAME":
                assert step.argval not in read, f"{cell.id} rebinds {step.argval}"
                bound.add(step.argval)
            elif step.opname in ("LOAD_NAME", "LOAD_GLOBAL"):
                read |= {step.argval} - bound


def test_the_readme_s_pictures_results_and_example(notebook):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    cells = {cell.id: cell for cell in notebook.cells}
    for cell_id, path in {"forming": "prototypes.png", "holes-figure": "holes.png"}.items():
        (picture,) = pngs(cells[cell_id])
        assert picture == (ROOT / "figures" / path).read_bytes(), "make execute renews it"
        assert f"](figures/{path})" in readme and len(picture) < 600_000
    assert pngs(cells["forming"])[0].count(b"fcTL") >= 21, "it doesn't move"
    assert "](figures/prototypes.png)" in cells["title"].source
    results = re.search(r"(?s)## Results\n(.*?)\n## ", readme)[1]
    printed = numbers_in("\n".join(map(outputs_as_text, notebook.cells)))
    quoted = {number for number in numbers_in(results) if "." in number}
    assert len(quoted) >= 8 and quoted <= printed
    (example,) = re.findall(r"(?s)```python\n(.*?)```", readme)
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", example]
    env = os.environ | {"XLA_FLAGS": ""}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_the_lock_is_made_from_the_environment():
    environment = (ROOT / "environment.yml").read_text(encoding="utf-8")
    wanted = {name.replace("_", "-") for name in re.findall(r"(?m)^      - (\w\S*)", environment)}
    lock = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    entries = re.findall(r"(?m)^(\S+)==.*\n((?:    #.*\n)*)", lock)
    assert wanted == {name for name, via in entries if "-r .venv/environment.in" in via}


# Which function is then wrong, and how to get there from the solution (its log joint may clip).
MISTAKES = [
    ("log_likelihood", "binary_images), axis=1)", "binary_images), axis=0)"),
    ("log_joint_prob", "log_p.sum(axis=-1)", "jnp.log(jnp.exp(log_p).prod(axis=-1))"),
    ("log_joint_prob", " + jnp.log(params.cluster_weights)", ""),
    ("log_joint_prob", " + jnp.log(1 - means)", ""),
    ("em_step", "(joint, axis=1, keepdims", "(joint, axis=0, keepdims"),
    ("em_step", " / counts[:, None]", ""),
    ("em_step", "jnp.clip(params.cluster_means, bound, 1 - bound)", "params.cluster_means"),
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


def hand_in(folder, *changes, more=()):
    """The solution without e_step and m_step, its last cell, with changes and more cells."""
    solution = nbformat.read(SOLUTION, as_version=4)
    sources = [cell.source for cell in solution.cells[:-1]]
    for old, new in changes:
        assert sum(source.count(old) for source in sources) == 1
        sources = [source.replace(old, new) for source in sources]
    solution.cells = [nbformat.v4.new_code_cell(source) for source in (*sources, *more)]
    nbformat.write(solution, folder / "handed_in.ipynb")
    return folder / "handed_in.ipynb"


def test_the_exercise_gives_no_answer_away(notebook, tmp_path):
    whole = "\n".join(cell.source for cell in notebook.cells)
    make_exercise(notebook)
    nbformat.validate(notebook)
    nbformat.write(notebook, tmp_path / "exercise.ipynb")
    text = "\n".join(cell.source for cell in notebook.cells)
    assert text.count("    raise NotImplementedError") == 7
    for secret in ("jnp.log1p", "softmax(log_joint /", "np.bincount(cells", "−158.17", "66.4"):
        assert secret not in text and secret in whole
    assert not any(cell.get("outputs") for cell in notebook.cells)
    assert "def fit" not in text and "](#part" not in text
    assert "class BernoulliMixture" in text and "log p(x_n, z = k) in nats" in text
    assert {mark(tmp_path / "exercise.ipynb", name) for name in CHECKS} == {"not written"}


def test_right_solutions_are_right(tmp_path):
    import_notebook(own := hand_in(tmp_path, more=HARMLESS), skipped := [])
    assert len(skipped) == 9 and all(says in str(skipped) for says in HARMLESS.values())
    for path, names in ((own, {*CHECKS} - OPTIONAL), (SOLUTION, {*OPTIONAL, "em_step"})):
        assert {name: mark(path, name) for name in names} == dict.fromkeys(names, "right")


@pytest.mark.parametrize(("where", "right", "wrong"), MISTAKES)
def test_a_usual_mistake_is_wrong_where_it_was_made(tmp_path, where, right, wrong):
    path = hand_in(tmp_path, (right, wrong))
    assert re.match("wrong: .*(expected .*, found|falls|Error)", mark(path, where))
    other = "log_joint_prob" if where == "em_step" else "em_step"  # gets a correct one instead
    assert mark(path, other) == "right"


def test_what_breaks_or_is_missing_is_named(tmp_path, monkeypatch, capsys):
    changes = [("    counts = shares", "    import os; os._exit(7)\n    counts = shares")]
    changes += [("bound = 1e-6", "n = train_images[0].size")]
    changes += [("    means = jnp.clip", "    n\n    means = jnp.clip")]
    with pytest.raises(SystemExit) as ended:
        mark_all(hand_in(tmp_path, *changes))
    lines = capsys.readouterr().out.splitlines()
    assert "'n' is not defined (the marker reads definitions" in lines[1]
    assert "wrong: ended the process with status 7" in lines[3]
    assert ended.value.code and lines[5] == "3 of 5 right" and "top to bottom" in lines[6]
    assert re.match(r"cell 1: .*'train_images'", lines[7]) and len(lines) == 8
    for_ever = ("    counts = [{", "    while True:\n        pass\n    counts = [{")
    monkeypatch.setattr("coursework.SECONDS", 2)
    says = coursework.mark_apart(hand_in(tmp_path, for_ever), "make_cluster_labels")
    assert says == "wrong: not done after 2 seconds"
    (tmp_path / "text.ipynb").write_text('{"cells": [')
    (tmp_path / "empty.ipynb").write_text("")
    bad = ["", tmp_path, tmp_path / "some.py", tmp_path / "text.ipynb", tmp_path / "empty.ipynb"]
    for path in [*bad, hand_in(tmp_path, ("class BernoulliMixture", "class Other"))]:
        with pytest.raises(SystemExit, match="can't be marked: [^\n]*$"):
            mark_all(path)
