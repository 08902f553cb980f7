"""The data, the committed notebook, the report, the README and the environment."""

import ast
import base64
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from matplotlib.image import imread

NUMBER = re.compile(r"-?\d+(?:\.(\d+))?")
# What the data are known to be, wherever the prose says it.
MNIST = {"60000", "10000", "70000", "28", "784", "255"}
# Numbers that a cell's prose quotes from a source it names, or derives.
SOURCED = {
    "cost-after": "50 0.1 999",
    "confusion-after": "15.76 12.11 9.46 7.78 6.45 6.33 32",
    "online-after": "24",  # images for each of 500 clusters in a batch of 12,000
    "power": "235",  # MB: 300,000 images of 784 bytes
    "published": "-168.95 -142.63 -137.64 4.1 6.2",
    "published-after": "-134.99 -133.70 -85.10 -79.20 128 1024",
}


@pytest.fixture(scope="module")
def notebook(root):
    """The notebook as committed."""
    return nbformat.read(root / "bernoulli_em.ipynb", as_version=4)


def outputs_as_text(cell):
    """What a cell shows, without its pictures: their alternative texts instead."""
    lines = []
    for output in cell.outputs:
        picture = output.get("metadata", {}).get("image/png", {})
        plain = output.get("data", {}).get("text/plain")
        lines.append(output.get("text") or picture.get("alt") or plain)
    return "\n".join(lines)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_data_are_mnist(mnist, em, root):
    (_, train_labels), (_, test_labels) = mnist
    damaged = "data/ is damaged: delete it and TFDS downloads it again"
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(train_labels).tolist() == counts, damaged
    assert len(test_labels) == 10_000, damaged
    ds = em.tfds.load("mnist", split="train", data_dir=root / "data", batch_size=-1)
    grey = em.tfds.as_numpy(ds)["image"] / np.float32(255)
    assert grey.mean(dtype=float) == pytest.approx(0.13066, abs=1e-5), damaged
    assert grey.std(dtype=float) == pytest.approx(0.30811, abs=1e-5), damaged
    assert mnist[0][0].mean() == pytest.approx(0.13226, abs=1e-5), damaged
    assert mnist[0][0].dtype == bool and mnist[0][0].shape == (60_000, 28, 28)


def test_the_data_reader_refuses_what_it_would_misread(em, root):
    options = {"split": "test", "data_dir": root / "data"}
    load = em.tfds.load
    with pytest.raises(TypeError, match="as_supervised=False"):
        em.tfds_to_numpy(load("mnist", as_supervised=True, **options))
    ds = load("mnist", **options)
    scaled = ds.map(lambda row: row | {"image": row["image"] / 255})
    coloured = ds.map(
        lambda row: (
            row
            | {
                "image": em.tfds.core.utils.lazy_imports_utils.tensorflow.repeat(
                    row["image"], 3, -1
                )
            }
        )
    )
    for other in (ds.batch(10), scaled, coloured, ds.repeat()):
        with pytest.raises(TypeError, match="unbatched, unscaled, with one channel"):
            em.tfds_to_numpy(other)
        with pytest.raises(TypeError, match="no repeat"):
            next(em.stream_images(other))


def test_half_of_the_greys_are_on(em, mnist, root):
    ds = em.tfds.load("mnist", split="train[:500]", data_dir=root / "data", batch_size=-1)
    grey = em.tfds.as_numpy(ds)["image"].squeeze(-1)
    assert {127, 128} <= set(grey.flat)
    np.testing.assert_array_equal(mnist[0][0][:500], grey > 127)
    single = em.tfds.load("mnist", split="train[:500]", data_dir=root / "data")
    np.testing.assert_array_equal(np.concatenate(list(em.stream_images(single, 99))), grey > 127)


@pytest.fixture(scope="module")
def report(root, tmp_path_factory):
    """A folder with the report that `make report` writes, and the notebook as it executed it."""
    folder = tmp_path_factory.mktemp("report")
    proxies = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
    subprocess.run(
        ["make", "report", f"REPORT={folder}", f"BIN={Path(sys.executable).parent}"]
        + ["-o", ".venv/.made-from-the-lock"],  # this environment will do
        cwd=root,
        env=os.environ | dict.fromkeys(proxies, "http://127.0.0.1:9"),  # nothing listens there
        check=True,
    )
    return folder


def is_like(old, new):
    """Whether two outputs' texts are the same but for two units of each number's last digit."""
    texts = ["\n".join(line.rstrip() for line in text.splitlines()) for text in (old, new)]
    if NUMBER.sub("#", texts[0]) != NUMBER.sub("#", texts[1]):
        return False
    return all(
        abs(float(a[0]) - float(b[0])) <= 2.01 * 10 ** -len(a[1] or "")
        for a, b in zip(*(NUMBER.finditer(text) for text in texts), strict=True)
    )


def figures(cell):
    """The outputs of a cell that are pictures."""
    return [output for output in cell.outputs if "image/png" in output.get("data", {})]


def pictures(cell):
    """The decoded pictures of a cell."""
    pngs = (output.data["image/png"] for output in figures(cell))
    return [imread(io.BytesIO(base64.b64decode(png))) for png in pngs]


def look_alike(old, new):
    """Whether two pictures differ in less than 1 % of their pixels."""
    return old.shape == new.shape and (np.abs(old - new).max(axis=-1) > 0.1).mean() < 0.01


def test_the_committed_outputs_are_what_the_code_prints(notebook, report):
    fresh = nbformat.read(report / "bernoulli_em.ipynb", as_version=4)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for old, new in zip(cells, code_cells(fresh), strict=True):
        assert all(output.get("name") != "stderr" for output in new.outputs), new.id
        old_text, new_text = outputs_as_text(old), outputs_as_text(new)
        if "timing" in old.metadata.get("tags", []):
            old_text, new_text = (NUMBER.sub("0", text) for text in (old_text, new_text))
        assert is_like(old_text, new_text), f"stale outputs in cell {old.id}: make execute"
        drawn = zip(pictures(old), pictures(new), strict=True)
        assert all(look_alike(*pair) for pair in drawn), f"a stale figure in cell {old.id}"


def test_the_picture_at_the_head_is_the_figure_of_the_means(notebook, root):
    (cell,) = (cell for cell in notebook.cells if cell.id == "means")
    (figure,) = pictures(cell)
    head = imread(root / "figures" / "prototypes.png")
    np.testing.assert_array_equal(figure, head, "make execute renews it")
    for text in (notebook.cells[0].source, (root / "README.md").read_text(encoding="utf-8")):
        assert "](figures/prototypes.png)" in text


def test_figures_have_alternative_texts(notebook):
    shown = [figure for cell in code_cells(notebook) for figure in figures(cell)]
    assert len(shown) >= 15
    assert all(figure.metadata["image/png"]["alt"] for figure in shown)


def test_the_report_needs_no_network_and_has_no_debris(report):
    text = (report / "bernoulli_em.html").read_text(encoding="utf-8")
    assert not re.search(r"<(script|img|link|iframe)[^>]*(src|href)=.https?:", text)
    assert text.count("<math") > 20
    assert "$$" not in re.sub(r"(?s)<script.*?</script>", "", text)
    assert len(re.findall(r"<img [^>]*src=.data:", text)) == text.count("<img ")
    assert not re.search(r"<img(?![^>]*alt=.[^\"])", text)
    assert text.count("EM steps █") == 1 and text.count("36 fits █") == 1
    assert "Traceback" not in text


def test_a_figure_without_alternative_text_is_no_error(root, tmp_path):
    output = nbformat.v4.new_output("display_data", {"image/png": "AAAA", "text/plain": "<Figure>"})
    cell = nbformat.v4.new_code_cell("plt.plot()", outputs=[output])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "own.ipynb")
    command = [
        "nbconvert",
        "--to",
        "html",
        "--config",
        "nbconvert_config.py",
        tmp_path / "own.ipynb",
    ]
    subprocess.run([sys.executable, "-m", "jupyter", *command], cwd=root, check=True)
    assert 'alt="&lt;Figure&gt;"' in (tmp_path / "own.html").read_text(encoding="utf-8")


def numbers_in(text):
    """The numbers of a text as strings, without signs of thousands; ASCII minus."""
    text = re.sub(r"(?<=\d),(?=\d{3})|(?<=\d)_(?=\d{3})", "", text.replace("−", "-"))
    return {found[0] for found in re.finditer(r"(?<![\w.])-?\d+(?:\.\d+)?", text)}


def is_quoted(number):
    """Whether a number in prose needs a source: not a digit, a section or a year."""
    return "." in number or (abs(int(number)) > 21 and not re.fullmatch("(19|20)..", number))


def test_the_prose_quotes_what_its_section_prints(notebook):
    """Each number stands in the code or the outputs of its section, or in SOURCED."""
    sections = [[]]
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and re.search("(?m)^##", cell.source):
            sections.append([])
        sections[-1].append(cell)
    for section in sections:
        cells = notebook.cells if section is sections[0] else section  # the summary
        shown = [cell.source + "\n" + outputs_as_text(cell) for cell in cells if "outputs" in cell]
        printed = set().union(MNIST, *map(numbers_in, shown))
        for cell in section:
            if cell.cell_type == "markdown":
                prose = re.sub(r"(?s)\$\$.*?\$\$|\$.*?\$|`.*?`|\]\(.*?\)", "", cell.source)
                quoted = set(filter(is_quoted, numbers_in(prose)))
                known = printed | set(SOURCED.get(cell.id, "").split())
                assert quoted <= known, f"cell {cell.id} quotes {quoted - known}"


def test_the_readme_s_results_are_printed_by_the_notebook(notebook, root):
    readme = (root / "README.md").read_text(encoding="utf-8")
    results = re.search(r"(?s)## Results\n(.*?)\n## ", readme)[1]
    printed = numbers_in("\n".join(map(outputs_as_text, code_cells(notebook))).replace("%", " "))
    quoted = {number for number in numbers_in(results) if "." in number}
    assert len(quoted) >= 8 and quoted <= printed


def drawn_by(em, notebook, cell_id, **names):
    """What a cell of the notebook hands to `show` if it finds these names."""
    (source,) = (cell.source for cell in notebook.cells if cell.id == cell_id)
    shown = []
    exec(source, vars(em) | names | {"show": lambda figure, alt: shown.append((figure, alt))})  # noqa: S102
    return shown


def test_the_curve_shows_train_and_test_as_named(em, notebook):
    curves = {"train_curve": [0.0, 1.0, 2.0], "test_curve": [5.0, 6.0, 8.0]}
    ((figure, alt),) = drawn_by(em, notebook, "curve", n_iterations=2, n_clusters=3, **curves)
    lines = {line.get_label(): list(line.get_ydata()) for line in figure.axes[0].lines}
    assert lines == {"train": [1.0, 2.0], "test": [6.0, 8.0]}
    assert "1.0 after" in alt and "2.0 and 8.0" in alt


def test_digits_carry_their_own_labels(em, notebook, mnist):
    (train_images, train_labels), (test_images, test_labels) = mnist
    names = {"train_images": train_images, "train_labels": train_labels}
    names |= {"test_images": test_images, "test_labels": test_labels}
    ((figure, _),) = drawn_by(em, notebook, "digits", **names)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == [str(label) for label in train_labels[:20]]
    picture = np.asarray(figure.axes[0].images[0].get_array())
    np.testing.assert_array_equal(picture[8:36, 1:29], train_images[0])
    np.testing.assert_array_equal(picture[8:36, 32:60], train_images[1])
    np.testing.assert_array_equal(picture[45:73, 1:29], train_images[10])


def test_the_digits_of_the_clusters_are_train_beside_test(em, notebook):
    counts = np.arange(60).reshape(2, 3, 10) % 7
    names = {"train_counts": counts[0], "test_counts": counts[1], "n_clusters": 3}
    ((figure, _),) = drawn_by(em, notebook, "histograms", **names)
    for k, axis in enumerate(figure.axes):
        for bars, name, own in zip(axis.containers, ("train", "test"), counts, strict=True):
            assert bars.get_label() == name
            heights = [bar.get_height() for bar in bars]
            np.testing.assert_allclose(heights, own[k] / own[k].sum())


def test_the_rows_of_the_confusion_matrix_are_the_true_digits(em, notebook):
    names = {"guess_digits": lambda mixtures, images: [7, 7, 2], "test_labels": [3, 3, 2]}
    names |= {"classifiers": [None], "best_classifier": 0, "test_images": None}
    ((figure, _),) = drawn_by(em, notebook, "confusion", **names)
    (axis,) = figure.axes
    assert axis.get_xlabel() == "guess" and axis.get_ylabel() == "true digit"
    texts = {text.get_position(): text.get_text() for text in axis.texts}
    assert texts[7, 3] == "2" and texts[2, 2] == "1" and texts[3, 7] == ""
    assert np.asarray(axis.images[0].get_array())[3, 7] == 2


def test_the_score_of_a_completion_is_for_each_hidden_pixel(em, notebook):
    (source,) = (cell.source for cell in notebook.cells if cell.id == "complete-score-code")
    scope = dict(vars(em))
    exec(source[: source.index("one_cluster =")], scope)  # noqa: S102
    params = em.BernoulliMixture(
        cluster_weights=np.ones(1, dtype=np.float32),
        cluster_means=np.full((1, 12), 0.25, np.float32),
    )
    observed = np.arange(12).reshape(3, 4) < 9
    score = scope["hidden_log_prob"](params, np.zeros((5, 3, 4), dtype=bool), observed)
    assert score == pytest.approx(np.log(0.75), rel=1e-4)


@pytest.mark.parametrize("n", [1, 4, 7])
def test_a_grid_holds_any_number_of_images(em, n):
    images = np.arange(1, n + 1)[:, None, None] / n * np.ones((n, 2, 3))
    figure = em.plot_images(images, range(n), "title", n_columns=5)
    picture = np.asarray(figure.axes[0].images[0].get_array())
    assert picture.shape == (-(-n // 5) * 11, min(n, 5) * 6)
    np.testing.assert_allclose(np.unique(picture)[-n:], np.arange(1, n + 1) / n)
    em.plt.close(figure)


def names_of(node, context):
    """The names that a piece of code loads, or stores."""
    names = (name for name in ast.walk(node) if isinstance(name, ast.Name))
    return {name.id for name in names if isinstance(name.ctx, context)}


def test_every_cell_can_run_twice(notebook):
    """No cell assigns, at the top level, to a name that it reads from an earlier cell."""
    for cell in code_cells(notebook):
        read, bound = set(), set()
        for node in ast.parse(cell.source).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                bound.add(node.name)
                continue
            targets = node.targets if isinstance(node, ast.Assign) else [node]
            stored = {name for target in targets for name in names_of(target, ast.Store)}
            within = names_of(node, ast.Store) - (stored if isinstance(node, ast.Assign) else set())
            read |= names_of(node, ast.Load) - within - bound
            assert not stored & read, f"{cell.id} rebinds {stored & read}"
            bound |= stored


def test_the_readme_example_runs(root):
    readme = (root / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"(?s)```python\n(.*?)```", readme)
    done = subprocess.run(
        [sys.executable, "-c", example],
        cwd=root,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "nats" in done.stdout
    assert {line[:3] for line in done.stderr.splitlines()} <= {"", "EM "}  # the bar


def test_the_lock_is_made_from_the_environment(root):
    environment = yaml.safe_load((root / "environment.yml").read_text(encoding="utf-8"))
    *_, pip = environment["dependencies"]
    constraint, *wanted = pip["pip"]
    assert constraint == "-c requirements.txt"
    lock = (root / "requirements.txt").read_text(encoding="utf-8")
    entries = re.findall(r"(?m)^(\S+)==.*\n((?:    #.*\n)*)", lock)
    direct = {name for name, via in entries if "-r .venv/environment.in" in via}
    names = [name.split()[0].replace("_", "-") for name in wanted]
    assert sorted(names) == sorted(direct)
