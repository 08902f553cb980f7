"""What the notebook shows when it is run, and its report."""

import io
import re
from decimal import Decimal
from urllib.parse import unquote

import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup
from matplotlib.image import imread
from outputs import CODE_CELLS, TEXT_CELLS, pictures_of, text_of


@pytest.fixture(scope="module")
def executed(report):
    """The code cells as `make report` has executed them."""
    notebook = nbformat.read(report / "bernoulli_em.ipynb", as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def page(report):
    """The report, parsed."""
    text = (report / "bernoulli_em.html").read_text(encoding="utf-8")
    return BeautifulSoup(text, "html.parser")


# The run


NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


def what_moved(committed, printed):
    """Numbers that moved by more than two units of their last digit; or all, if words did."""
    if NUMBER.sub("#", printed) != NUMBER.sub("#", committed):
        return [f"{committed!r}, now {printed!r}"]
    moved = []
    for old, new in zip(NUMBER.findall(committed), NUMBER.findall(printed)):
        last_digit = Decimal(1).scaleb(Decimal(old).as_tuple().exponent)
        if abs(Decimal(new) - Decimal(old)) > 2 * last_digit:
            moved.append(f"{old}, now {new}")
    return moved


def without_speed(text):
    """A text in which progress bars don't say how fast they were, nor show it."""
    return re.sub(r"\|[^|\n]*\| (\d+/\d+) \[.*\]", r"\1", text)


def test_the_cells_print_what_is_committed(executed):
    stale = []
    for cell, cell_now in zip(CODE_CELLS, executed, strict=True):
        committed = without_speed(text_of(cell))
        printed = without_speed(text_of(cell_now))
        stale += [f"{cell.id}: {moved}" for moved in what_moved(committed, printed)]
    assert not stale, "\n".join(["make execute, for these cells are stale:", *stale])


def share_that_changed(old_png, new_png):
    """The share of a picture's pixels that look different."""
    old = imread(io.BytesIO(old_png))
    new = imread(io.BytesIO(new_png))
    if new.shape != old.shape:
        return 1.0
    return float((np.abs(new - old).max(axis=-1) > 0.1).mean())


def test_the_cells_draw_what_is_committed(executed):
    stale = []
    for cell, cell_now in zip(CODE_CELLS, executed, strict=True):
        for old, new in zip(pictures_of(cell), pictures_of(cell_now)):
            share = share_that_changed(old, new)
            if share > 0.01:
                stale.append(f"{cell.id}: {share:.0%} of a picture")
    assert not stale, "\n".join(["make execute, for these cells are stale:", *stale])


def test_no_cell_writes_to_stderr(executed):
    for cell in executed:
        for output in cell.outputs:
            assert output.get("name") != "stderr", f"cell {cell.id}: {output.text}"


def test_a_progress_bar_leaves_one_line(executed):
    for cell in executed:
        text = text_of(cell)
        assert text.count("\r") == 0, f"cell {cell.id}"
        assert text.count("%|") <= 1, f"cell {cell.id}"


def test_a_picture_is_shown_once_with_its_text(executed):
    """A figure that a cell leaves open is shown again at its end, without a text."""
    for cell in executed:
        pictures = pictures_of(cell)
        assert len(set(pictures)) == len(pictures), f"cell {cell.id}"
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                assert output.metadata["image/png"]["alt"].strip(), f"cell {cell.id}"


# The report


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
    assert written - drawn == set()


def test_no_equation_shows_as_its_source(page):
    for text in page.select(".jp-RenderedMarkdown"):
        assert not re.search(r"\$|\\(frac|sum|log|mu)\b", text.get_text())


def test_each_picture_has_a_text(page):
    for image in page.select("img"):
        assert image["alt"].strip()
        assert not image["alt"].startswith("No description")


def test_the_report_shows_each_picture_of_the_notebook_once(page, executed):
    expected = []
    for cell in executed:
        for output in cell.outputs:
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
    assert links - places == set()
