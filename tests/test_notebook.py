"""The committed notebook, the README and nbconvert_config.py, without the run."""

import ast
import base64
import io
import os
import re
import subprocess
import sys
from decimal import Decimal

import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter, NotebookExporter
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from nbimport import ROOT, names_in_order
from outputs import CODE_CELLS, NOTEBOOK, pictures_of, text_of
from PIL import Image
from traitlets.config import PyFileConfigLoader

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ziamath")

README = (ROOT / "README.md").read_text(encoding="utf-8")

# The notebook


def test_the_notebook_was_run_once_from_top_to_bottom():
    counts = [cell.execution_count for cell in CODE_CELLS]
    assert counts == list(range(1, len(CODE_CELLS) + 1))


def test_the_notebook_is_below_6_megabytes():
    assert (ROOT / "bernoulli_em.ipynb").stat().st_size < 6_000_000


def rebound_by(source):
    """The names that a cell reads, at its top level, before it binds them itself."""
    read = set()
    bound = set()
    for name, is_bound in names_in_order(ast.parse(source)):
        if is_bound:
            bound.add(name)
        elif name not in bound:
            read.add(name)
    return read & bound


def test_a_cell_can_be_run_twice():
    """It binds no name that it reads from an earlier cell."""
    for cell in CODE_CELLS:
        rebound = rebound_by(cell.source)
        assert not rebound, f"cell {cell.id} rebinds {rebound}"


# Its prose: a decimal is printed in its section, or in one that its paragraph links to

SOURCE = re.compile(r"\*[^*]+\*,?\s\(?(?:19|20)\d\d\)")  # *A title* (2009)
HEADING = re.compile(r'(?m)^(?:<a id="(.*?)"></a>\n+)?##+ ')
FORMULA = re.compile(r"(?s)```.*?```|`.*?`|\$\$.*?\$\$|\$.*?\$")
ADDRESS = re.compile(r"\]\(.*?\)|<[^<>\n]*>")


def decimals_in(text):
    return re.findall(r"\d+\.\d+", text.replace(",", ""))


def numbers_in(text):
    found = re.findall(r"\d+(?:\.\d+)?", re.sub("[_,]", "", text))
    return np.array(found, dtype=float)


def not_among(numbers, decimals):
    """Those decimals that no number, rounded, is; signs aside."""
    unknown = []
    for decimal in decimals:
        half_a_digit = 0.501 * 10.0 ** Decimal(decimal).as_tuple().exponent
        if np.all(np.abs(numbers - float(decimal)) > half_a_digit):
            unknown.append(decimal)
    return unknown


def read_sections(cells):
    """The prose from heading to heading, and beside it what numbers may come from."""
    sections = [{"anchor": "", "prose": "", "shown": ""}]
    for cell in cells:
        if cell.cell_type == "code":
            sections[-1]["shown"] += f"\n{cell.source}\n{text_of(cell)}"
            continue
        before, *headed = HEADING.split(cell.source)
        sections[-1]["prose"] += f"\n\n{before}"
        for anchor, prose in zip(headed[::2], headed[1::2]):
            sections.append({"anchor": anchor, "prose": prose, "shown": ""})
    for section in sections:
        section["shown"] += "\n".join(FORMULA.findall(section["prose"]))
    return sections


def unfounded_decimals(cells):
    """The decimals in the prose that are neither shown nor have a source, by paragraph."""
    sections = read_sections(cells)
    shown = {section["anchor"]: section["shown"] for section in sections}
    unfounded = []
    for section in sections:
        for paragraph in section["prose"].split("\n\n"):
            if SOURCE.search(paragraph):
                continue
            linked = re.findall(r"\]\(#(.*?)\)", paragraph)
            near = [section["shown"], *(shown.get(anchor, "") for anchor in linked)]
            prose = ADDRESS.sub("", FORMULA.sub("", paragraph))
            unknown = not_among(numbers_in("\n".join(near)), decimals_in(prose))
            if unknown:
                unfounded.append((section["anchor"], unknown))
    return unfounded


def test_a_decimal_is_shown_nearby_or_has_a_source_beside_it():
    """Nearby: in its section, or in one that its paragraph links to."""
    unfounded = unfounded_decimals(NOTEBOOK.cells)
    assert not unfounded, f"by section: {unfounded}"


@pytest.mark.parametrize(
    ("paragraph", "unfounded"),
    [
        pytest.param("It is 0.25.", [], id="printed in its section, rounded"),
        pytest.param("By $1.5$ it is 1.5.", [], id="in an equation of its section"),
        pytest.param("It is 9.75.", [("here", ["9.75"])], id="printed elsewhere"),
        pytest.param("It is 9.75 in [a](#there).", [], id="printed where it links to"),
        pytest.param("It is 7.5.", [("here", ["7.5"])], id="not printed"),
        pytest.param("It is 7.5 (*A title*, 2009).", [], id="of a source"),
    ],
)
def test_a_decimal_is_found_where_it_may_come_from(paragraph, unfounded):
    prints = [
        new_output("stream", name="stdout", text=text) for text in ("0.2496", "9.75")
    ]
    cells = [
        new_markdown_cell(f'<a id="here"></a>\n## Here\n\n{paragraph}'),
        new_code_cell(outputs=prints[:1]),
        new_markdown_cell('<a id="there"></a>\n### There'),
        new_code_cell(outputs=prints[1:]),
    ]
    assert unfounded_decimals(cells) == unfounded


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
TABLE = """| | plain | cooled |
|---|---|---|
| noise | 48 | 8 |"""


def moving_picture(*greys):
    """A PNG of one pixel that takes these greys; where it can't move, the last."""
    frames = [Image.new("L", (1, 1), grey) for grey in greys]
    moving = io.BytesIO()
    frames[-1].save(
        moving, format="PNG", default_image=True, save_all=True, append_images=frames
    )
    return base64.b64encode(moving.getvalue()).decode()


MOVING = moving_picture(250, 130, 10)


def shows(data, **about):
    """An output of a cell, with metadata about its picture."""
    return new_output("display_data", data, metadata={"image/png": about})


def small_notebook():
    figure = shows({"image/png": DOT}, alt='A "dot" <b>.', width=300, height=150)
    widget = f"<canvas></canvas><script>{SCRIPT}</script>"
    canvas = shows({"text/html": widget, "image/png": DOT}, alt="A canvas.")
    moving = shows({"image/png": MOVING}, alt="It moves.")
    cells = [
        new_markdown_cell(ANSWER),
        new_code_cell("figure", id="forming", outputs=[figure]),
        new_code_cell("canvas", id="canvas", outputs=[canvas]),
        new_code_cell("moving", id="moving", outputs=[moving]),
        new_markdown_cell(f"{TABLE}\n\n![It moves.](moving.png)", id="table"),
        new_code_cell("axis.plot(x)", id="plain"),
        new_code_cell("# draws: who shares our 3\naxis.bar(x)", id="draws"),
        new_code_cell("# checks: a < b\nassert a < b", id="checks"),
    ]
    for cell in cells[-3:]:
        cell.metadata["jupyter"] = {"source_hidden": True}
    return new_notebook(cells=cells)


@pytest.fixture(scope="module")
def small_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    nbformat.write(small_notebook(), folder / "small.ipynb")
    (folder / "dot.png").write_bytes(base64.b64decode(DOT))
    (folder / "moving.png").write_bytes(base64.b64decode(MOVING))
    return folder / "small.ipynb"


def read_config():
    return PyFileConfigLoader("nbconvert_config.py", path=str(ROOT)).load_config()


@pytest.fixture(scope="module")
def small_page(small_path):
    text, _ = HTMLExporter(config=read_config()).from_filename(small_path)
    return BeautifulSoup(text, "html.parser")


def the_cell(page, cell_id):
    return page.find(id=f"cell-id={cell_id}")


def test_a_figure_keeps_its_text_and_its_size_but_is_never_too_wide(small_page):
    image = the_cell(small_page, "forming").img
    assert image["alt"] == 'A "dot" <b>.'
    assert (image["width"], image["height"]) == ("300", "150")
    assert image["style"] == "max-width:100%;height:auto"


def test_a_canvas_is_shown_with_its_script_and_without_its_still_picture(small_page):
    canvas = the_cell(small_page, "canvas")
    assert canvas.script.string == SCRIPT
    assert canvas.select("img") == []


def test_hidden_code_is_folded_under_what_its_first_line_says(small_page):
    assert the_cell(small_page, "plain").summary.string == "folded code"
    assert the_cell(small_page, "draws").summary.string == "draws: who shares our 3"
    assert the_cell(small_page, "checks").summary.string == "checks: a < b"


def test_an_answer_is_folded_to_its_end(small_page):
    answer = small_page.select_one(".jp-MarkdownCell details")
    assert "The mean" in answer.get_text()
    assert "After the answer" not in answer.get_text()


def test_an_image_of_the_text_is_part_of_the_page(small_page):
    image = small_page.select_one(".jp-MarkdownCell img")
    assert image["src"] == f"data:image/png;base64,{DOT}"


@pytest.mark.parametrize("cell_id", ["moving", "table"])  # an output, and in the text
def test_a_moving_picture_is_still_on_paper_and_for_who_wants_less_motion(
    small_page, cell_id
):
    picture = the_cell(small_page, cell_id).picture
    assert picture.img["src"] == f"data:image/png;base64,{MOVING}"
    assert picture.img["alt"] == "It moves."
    assert picture.source["media"] == "print, (prefers-reduced-motion: reduce)"
    _, _, still_png = picture.source["srcset"].partition("base64,")
    still = Image.open(io.BytesIO(base64.b64decode(still_png)))
    assert not still.is_animated
    assert still.getpixel((0, 0)) == 10  # the last


def test_a_picture_that_stands_still_is_there_once(small_page):
    assert the_cell(small_page, "forming").select("picture, source") == []


def test_an_empty_cell_is_nobodys_head_in_a_table(small_page):
    table = the_cell(small_page, "table")
    assert [head.string for head in table.select("th")] == ["plain", "cooled"]
    assert len(table.select("td")) == 4


@pytest.mark.parametrize(
    ("folder", "written"),
    [
        pytest.param("", [], id="unasked: none"),
        pytest.param("here", ["here/prototypes.png"], id="asked, as make execute does"),
    ],
)
def test_pictures_are_written_where_one_asks_for_them(small_path, folder, written):
    config = read_config()
    config.ReadmePictures.folder = folder
    _, resources = NotebookExporter(config=config).from_filename(small_path)
    assert list(resources.get("outputs", [])) == written


def test_a_notebook_is_run_from_elsewhere_without_a_warning(tmp_path):
    (tmp_path / "here").mkdir()
    notebook = new_notebook(cells=[new_code_cell("print('It runs.')")])
    nbformat.write(notebook, tmp_path / "here" / "small.ipynb")
    command = [sys.executable, "-m", "nbconvert", "--to=html", "--execute"]
    command += [f"--config={ROOT / 'nbconvert_config.py'}", "--output-dir=report"]
    run = subprocess.run(
        [*command, "here/small.ipynb"], cwd=tmp_path, capture_output=True, check=True
    )
    assert b"WARNING" not in run.stderr
    assert os.listdir(tmp_path / "here") == ["small.ipynb"]
    assert "It runs." in (tmp_path / "report" / "small.html").read_text()


# The README


@pytest.mark.parametrize(
    ("cell_id", "name"),
    [("forming", "prototypes.png"), ("sample-tree-figure", "trees.png")],
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


def test_the_results_of_the_readme_are_printed_by_the_run():
    _, _, results = README.partition("## Results")
    results, _, _ = results.partition("\n## ")
    printed = "\n".join(text_of(cell) for cell in CODE_CELLS)
    assert not_among(numbers_in(printed), decimals_in(results)) == []


def test_the_example_of_the_readme_runs_without_a_warning(tmp_path):
    """Beside our data, in a project that has a package `tests` of its own."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "__init__.py").touch()
    (tmp_path / "data").symlink_to(ROOT / "data")
    program = "\n".join(re.findall(r"(?s)```python\n(.*?)```", README))
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests"), "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stderr == ""
    assert run.returncode == 0


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
