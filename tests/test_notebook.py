"""The notebook's outputs, its prose and its report; the README and its example."""

import ast
import base64
import io
import os
import re
import subprocess
import sys
from decimal import Decimal
from urllib.parse import unquote

import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup
from matplotlib.image import imread
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from nbimport import ROOT

NOTEBOOK = nbformat.read(ROOT / "bernoulli_em.ipynb", as_version=4)
README = (ROOT / "README.md").read_text(encoding="utf-8")

CODE_CELLS = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]
TEXT_CELLS = [cell for cell in NOTEBOOK.cells if cell.cell_type == "markdown"]


# What a cell shows


def text_of(cell):
    """What a cell prints, and of what else it shows the kinds and the texts."""
    lines = []
    for output in cell.outputs:
        if output.output_type == "stream":
            lines.append(output.text)
        else:
            lines.extend(sorted(output.data))
            lines.append(output.data.get("text/plain", ""))
            lines.append(output.metadata.get("image/png", {}).get("alt", ""))
    return "\n".join(lines)


def without_speed(text):
    """A text in which progress bars don't say how fast they were, nor show it."""
    return re.sub(r"\|[^|\n]*\| (\d+/\d+) \[.*\]", r"\1", text)


def pictures_of(cell):
    """The PNGs that a cell shows."""
    pictures = []
    for output in cell.outputs:
        png = output.get("data", {}).get("image/png")
        if png:
            pictures.append(base64.b64decode(png))
    return pictures


def each(cells):
    """Runs a test once for each of these cells."""
    return pytest.mark.parametrize("cell", cells, ids=lambda cell: cell.id)


each_code_cell = each(CODE_CELLS)
each_text_cell = each(TEXT_CELLS)
each_drawing_cell = each([cell for cell in CODE_CELLS if pictures_of(cell)])


# The committed outputs


@pytest.fixture(scope="module")
def executed(report):
    """The cells as `make report` has just executed them, by their ids."""
    notebook = nbformat.read(report / "bernoulli_em.ipynb", as_version=4)
    return {cell.id: cell for cell in notebook.cells}


NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


@each_code_cell
def test_a_cell_prints_what_is_committed(cell, executed):
    committed = without_speed(text_of(cell))
    printed = without_speed(text_of(executed[cell.id]))
    stale = f"cell {cell.id} is stale (make execute): {committed!r}, now {printed!r}"
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", committed), stale
    pairs = zip(NUMBER.findall(committed), NUMBER.findall(printed), strict=True)
    for old, new in pairs:
        last_digit = 10.0 ** Decimal(old).as_tuple().exponent
        stale = f"cell {cell.id} is stale (make execute): {old}, now {new}"
        assert float(new) == pytest.approx(float(old), abs=2.01 * last_digit), stale


@each_drawing_cell
def test_a_cell_draws_what_is_committed(cell, executed):
    committed = pictures_of(cell)
    drawn = pictures_of(executed[cell.id])
    for old, new in zip(committed, drawn, strict=True):
        old_pixels = imread(io.BytesIO(old))
        new_pixels = imread(io.BytesIO(new))
        assert new_pixels.shape == old_pixels.shape, f"cell {cell.id}: make execute"
        difference = np.abs(new_pixels - old_pixels).max(axis=-1)
        changed = (difference > 0.1).mean()
        assert changed < 0.01, f"cell {cell.id}: {changed:.1%} changed: make execute"


def test_the_committed_notebook_was_run_once_from_top_to_bottom():
    counts = [cell.execution_count for cell in CODE_CELLS]
    assert counts == list(range(1, len(CODE_CELLS) + 1))


def test_no_cell_writes_to_stderr(executed):
    for cell in CODE_CELLS:
        for output in executed[cell.id].outputs:
            assert output.get("name") != "stderr", f"cell {cell.id}: {output.text}"


def test_a_progress_bar_leaves_one_line(executed):
    for cell in CODE_CELLS:
        text = text_of(executed[cell.id])
        assert text.count("\r") == 0, f"cell {cell.id}"
        assert text.count("%|") <= 1, f"cell {cell.id}"


@each_drawing_cell
def test_a_picture_is_shown_once_with_its_text(cell, executed):
    """A figure that a cell leaves open is shown again at its end, without a text."""
    pictures = pictures_of(executed[cell.id])
    assert len(set(pictures)) == len(pictures)
    for output in executed[cell.id].outputs:
        if "image/png" in output.get("data", {}):
            assert output.metadata["image/png"]["alt"].strip()


def test_the_notebook_is_below_6_megabytes():
    assert (ROOT / "bernoulli_em.ipynb").stat().st_size < 6_000_000


# A cell can be run twice


class Names(ast.NodeVisitor):
    """Names that a cell reads before it binds them, at its top level, and then binds."""

    def __init__(self):
        self.own = set()
        self.read = set()
        self.rebound = set()

    def visit_Name(self, node):
        if isinstance(node.ctx, ast.Store):
            self.bind(node.id)
        elif node.id not in self.own:
            self.read.add(node.id)

    def bind(self, name):
        if name in self.read:
            self.rebound.add(name)
        self.own.add(name)

    def visit_Assign(self, node):
        self.visit(node.value)  # the right side comes first
        for target in node.targets:
            self.visit(target)

    def visit_AugAssign(self, node):
        for name in ast.walk(node.target):
            if isinstance(name, ast.Name) and name.id not in self.own:
                self.read.add(name.id)  # x += 1 reads x
        self.generic_visit(node)

    def visit_For(self, node):
        self.visit(node.iter)
        self.visit(node.target)
        for statement in node.body + node.orelse:
            self.visit(statement)

    def visit_FunctionDef(self, node):
        self.bind(node.name)  # its body has names of its own

    visit_ClassDef = visit_FunctionDef

    def visit_ListComp(self, node):
        names = [name for name in ast.walk(node) if isinstance(name, ast.Name)]
        inner = {name.id for name in names if isinstance(name.ctx, ast.Store)}
        self.read |= {name.id for name in names} - inner - self.own

    visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_ListComp

    def visit_Lambda(self, node):
        """Its body is run later."""


def rebound_by(source):
    names = Names()
    names.visit(ast.parse(source))
    return names.rebound


@each_code_cell
def test_a_cell_can_be_run_twice(cell):
    """It binds no name that it reads from an earlier cell."""
    assert rebound_by(cell.source) == set()


@pytest.mark.parametrize(
    ("source", "rebound"),
    [
        pytest.param("x = x + 1", {"x"}, id="a name of its own right side"),
        pytest.param("x += 1", {"x"}, id="a name in place"),
        pytest.param("for i in y:\n    x = f(x)", {"x"}, id="a name in a loop"),
        pytest.param("y = [x for _ in z]\nx = 1", {"x"}, id="a comprehension's name"),
        pytest.param("x = 1\nx = x + 1", set(), id="nothing: its own name"),
        pytest.param("y = [x for x in z]\nx = 1", set(), id="nothing: an inner name"),
        pytest.param("def f():\n    return x\nx = 1", set(), id="nothing: a body's"),
    ],
)
def test_a_cell_that_changes_what_it_reads_rebinds(source, rebound):
    assert rebound_by(source) == rebound


# The prose

SOURCE = re.compile(r"\*[^*]+\*,?\s\(?(?:19|20)\d\d\)")  # *A title* (2009)
QUOTED = re.compile(r"(?s)```.*?```|`.*?`|\$\$.*?\$\$|\$.*?\$|\]\(.*?\)|<[^<>\n]*>")


def decimals_in(text):
    return re.findall(r"\d+\.\d+", text.replace(",", ""))


def numbers_of_the_run():
    """All numbers that a cell prints, or has in its code."""
    texts = [text_of(cell) + cell.source.replace("_", "") for cell in CODE_CELLS]
    found = re.findall(r"\d+(?:\.\d+)?", "\n".join(texts).replace(",", ""))
    return np.array(found, dtype=float)


def not_printed(decimals):
    """Those decimals that no number of the run, rounded, is; signs aside."""
    numbers = numbers_of_the_run()
    unknown = []
    for decimal in decimals:
        half_a_digit = 0.501 * 10.0 ** Decimal(decimal).as_tuple().exponent
        if np.all(np.abs(numbers - float(decimal)) > half_a_digit):
            unknown.append(decimal)
    return unknown


@each_text_cell
def test_a_decimal_is_printed_by_the_run_or_has_a_source_beside_it(cell):
    """Beside it: in the same paragraph, as an italic title with a year."""
    quoted = []
    for paragraph in QUOTED.sub("", cell.source).split("\n\n"):
        if not SOURCE.search(paragraph):
            quoted += decimals_in(paragraph)
    assert not_printed(quoted) == []


def test_the_results_of_the_readme_are_printed_by_the_run():
    _, _, results = README.partition("## Results")
    results, _, _ = results.partition("\n## ")
    assert not_printed(decimals_in(results)) == []


# The report


@pytest.fixture(scope="module")
def page(report):
    """The report, parsed."""
    text = (report / "bernoulli_em.html").read_text(encoding="utf-8")
    return BeautifulSoup(text, "html.parser")


def test_the_report_is_written_beside_the_notebook_as_executed(report):
    names = sorted(path.name for path in report.iterdir())
    assert names == ["bernoulli_em.html", "bernoulli_em.ipynb"]


def test_the_report_fetches_nothing(page):
    for element in page.select("[src], link[href]"):
        address = element.get("src") or element.get("href")
        assert address.startswith("data:"), address[:80]
    for style in page.select("style"):
        assert not re.search(r"@import|url\(.?https?:", style.string)


def test_each_equation_is_a_drawing_labelled_with_its_source(page):
    drawn = {svg["aria-label"] for svg in page.select("svg[role=img]")}
    written = set()
    for cell in TEXT_CELLS:
        for equation in re.findall(r"(?s)\$\$(.*?)\$\$", cell.source):
            written.add(" ".join(equation.split()))
    assert written <= drawn


def test_no_equation_shows_as_its_source(page):
    for text in page.select(".jp-RenderedMarkdown"):
        assert not re.search(r"\$|\\(frac|sum|log|mu)\b", text.get_text())


def test_each_picture_has_a_text(page):
    for image in page.select("img"):
        assert image["alt"].strip()
        assert not image["alt"].startswith("No description")


def test_the_report_shows_each_picture_of_the_notebook_once(page, executed):
    expected = []
    for cell in CODE_CELLS:
        for output in executed[cell.id].outputs:
            data = output.get("data", {})
            if "image/png" in data and "text/html" not in data:
                expected.append(output.metadata["image/png"]["alt"])
    shown = [image["alt"] for image in page.select(".jp-RenderedHTML > img")]
    assert shown == expected


def test_what_the_notebook_hides_is_folded_in_the_report(page):
    hidden = []
    for cell in CODE_CELLS:
        if cell.metadata.get("jupyter", {}).get("source_hidden"):
            hidden.append(f"cell-id={cell.id}")
    folded = page.select(".jp-CodeCell:has(.jp-InputArea details)")
    assert [cell["id"] for cell in folded] == hidden


def test_each_link_inside_the_report_leads_somewhere(page):
    places = {unquote(element["id"]) for element in page.select("[id]")}
    links = {unquote(link["href"][1:]) for link in page.select("a[href^='#']")}
    assert links <= places


# What nbconvert_config.py does, on a small notebook that need not be executed

DOT = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJ"
    "RU5ErkJggg=="
)
SCRIPT = '\nif (1 < 2 && "$x$") { console.log(`<b>`); }\n'
ANSWER = """![A dot.](dot.png)

<details>
<summary>What to expect</summary>

The mean $\\mu$.

</details>

After the answer."""


def shows(data, **about):
    """An output of a cell, with metadata about its picture."""
    return new_output("display_data", data, metadata={"image/png": about})


def small_notebook():
    figure = shows({"image/png": DOT}, alt='A "dot" <b>.', width=300, height=150)
    widget = f"<canvas></canvas><script>{SCRIPT}</script>"
    canvas = shows({"text/html": widget, "image/png": DOT}, alt="A canvas.")
    cells = [
        new_markdown_cell(ANSWER),
        new_code_cell("figure", id="forming", outputs=[figure]),
        new_code_cell("canvas", id="canvas", outputs=[canvas]),
        new_code_cell("axis.plot(x)", id="plain"),
        new_code_cell("# draws: who shares our 3\naxis.bar(x)", id="named"),
    ]
    for cell in cells[-2:]:
        cell.metadata["jupyter"] = {"source_hidden": True}
    return new_notebook(cells=cells)


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    nbformat.write(small_notebook(), folder / "small.ipynb")
    (folder / "dot.png").write_bytes(base64.b64decode(DOT))
    return folder


def nbconvert(path, *arguments):
    """The command that converts a notebook, as the Makefile does."""
    config = f"--config={ROOT / 'nbconvert_config.py'}"
    return [sys.executable, "-m", "nbconvert", config, *arguments, path]


def convert(folder, *arguments):
    command = nbconvert("small.ipynb", *arguments)
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def small_page(small_folder):
    convert(small_folder, "--to=html", "--output-dir=report")
    text = (small_folder / "report" / "small.html").read_text(encoding="utf-8")
    return BeautifulSoup(text, "html.parser")


def the_cell(page, cell_id):
    return page.find(id=f"cell-id={cell_id}")


def test_a_figure_keeps_its_text_and_its_size(small_page):
    image = the_cell(small_page, "forming").img
    assert image["alt"] == 'A "dot" <b>.'
    assert (image["width"], image["height"]) == ("300", "150")


def test_a_figure_is_never_wider_than_its_column(small_page):
    image = the_cell(small_page, "forming").img
    assert image["style"] == "max-width:100%;height:auto"


def test_a_script_passes_through_as_it_is(small_page):
    assert the_cell(small_page, "canvas").script.string == SCRIPT


def test_a_canvas_is_shown_without_its_still_picture(small_page):
    assert the_cell(small_page, "canvas").select("img") == []


def test_hidden_code_is_folded_as_code_that_draws(small_page):
    assert the_cell(small_page, "plain").summary.string == "code that draws"


def test_hidden_code_is_folded_under_what_its_first_line_says(small_page):
    assert the_cell(small_page, "named").summary.string == "draws: who shares our 3"


def test_an_answer_is_folded_to_its_end(small_page):
    answer = small_page.select_one(".jp-MarkdownCell details")
    assert "The mean" in answer.get_text()
    assert "After the answer" not in answer.get_text()


def test_an_image_of_the_text_is_part_of_the_page(small_page):
    image = small_page.select_one(".jp-MarkdownCell img")
    assert image["src"] == f"data:image/png;base64,{DOT}"


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        pytest.param([], [], id="unasked: none"),
        pytest.param(
            ["--ReadmePictures.folder=figures"],
            ["prototypes.png"],
            id="asked, as make execute does",
        ),
    ],
)
def test_pictures_are_written_where_one_asks_for_them(small_folder, arguments, written):
    convert(small_folder, "--to=notebook", "--output=again.ipynb", *arguments)
    names = [path.name for path in small_folder.glob("figures/*")]
    assert names == written


def test_two_reports_run_at_once_from_elsewhere_in_a_read_only_folder(tmp_path):
    folder = tmp_path / "read-only"
    folder.mkdir()
    cells = [new_code_cell("print('It runs.')")]
    nbformat.write(new_notebook(cells=cells), folder / "small.ipynb")
    folder.chmod(0o555)
    running = []
    for out in (tmp_path / "one", tmp_path / "two"):
        arguments = ["--to=html", "--execute", f"--output-dir={out}"]
        command = nbconvert(folder / "small.ipynb", *arguments)
        running.append(subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE))
    for process in running:
        _, says = process.communicate()
        assert process.returncode == 0
        assert b"WARNING" not in says
    assert os.listdir(folder) == ["small.ipynb"]


# The README


@pytest.mark.parametrize(
    ("cell_id", "name"), [("forming", "prototypes.png"), ("holes-figure", "holes.png")]
)
def test_a_picture_of_the_readme_is_the_committed_output(cell_id, name):
    (cell,) = [cell for cell in CODE_CELLS if cell.id == cell_id]
    (picture,) = pictures_of(cell)
    assert picture == (ROOT / "figures" / name).read_bytes(), "make execute"


def test_the_picture_at_the_head_moves():
    picture = (ROOT / "figures" / "prototypes.png").read_bytes()
    assert picture.count(b"fcTL") > 1  # one for each frame


def test_each_file_that_the_readme_links_to_exists():
    for link in re.findall(r"\]\((?!https?:|#)(.*?)\)", README):
        assert (ROOT / link).exists(), link


def test_each_heading_that_the_readme_links_to_is_there():
    headings = re.findall(r"(?m)^#+ (.*)$", README)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    linked = re.findall(r"\]\(#(.*?)\)", README)
    assert set(linked) <= anchors


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """The README's example, run in a project that has a package `tests` of its own."""
    project = tmp_path_factory.mktemp("project")
    (project / "tests").mkdir()
    (project / "tests" / "__init__.py").touch()
    program = "\n".join(re.findall(r"(?s)```python\n(.*?)```", README))
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests"), "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_example_runs_without_a_warning(example):
    assert example.stderr == ""
    assert example.returncode == 0


def test_the_example_finds_the_three_kinds(example):
    scores = re.findall(r"(\d+) clusters: (-[\d.]+) nats per row", example.stdout)
    best, _ = max(scores, key=lambda row: float(row[1]))
    assert best == "3"


# The lock


def test_the_lock_is_made_from_the_environment():
    environment = (ROOT / "environment.yml").read_text(encoding="utf-8")
    lock = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    wanted = set()
    for name in re.findall(r"(?m)^      - (\w\S*)", environment):
        wanted.add(name.replace("_", "-"))
    direct = set()
    for name, reasons in re.findall(r"(?m)^(\S+)==.*\n((?:    #.*\n)*)", lock):
        if "-r .venv/environment.in" in reasons:
            direct.add(name)
    assert direct == wanted
