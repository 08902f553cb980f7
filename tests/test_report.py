"""What the notebook shows when it is run, and its report."""

import base64
import io
import re
from decimal import Decimal
from itertools import pairwise
from urllib.parse import unquote

import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup
from outputs import CODE_CELLS, TEXT_CELLS, pictures_of, text_of
from PIL import Image, ImageFilter


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
    """A text that doesn't say how fast things were, nor shows it in a progress bar."""
    text = re.sub(r"about \d+ seconds", "some seconds", text)
    return re.sub(r"\|[^|\n]*\| (\d+/\d+) \[.*\]", r"\1", text)


def test_the_cells_print_what_is_committed(executed):
    stale = []
    for cell, cell_now in zip(CODE_CELLS, executed, strict=True):
        committed = without_speed(text_of(cell))
        printed = without_speed(text_of(cell_now))
        stale += [f"{cell.id}: {moved}" for moved in what_moved(committed, printed)]
    assert not stale, "\n".join(["make execute, for these cells are stale:", *stale])


def seen_small(png):
    """A picture in grey, 300 pixels wide."""
    picture = Image.open(io.BytesIO(png)).convert("L")
    height = round(300 * picture.height / picture.width)
    return picture.resize((300, height), Image.Resampling.BOX)


def share_of_new(new, old):
    """The share of a picture's pixels that are unlike all of the other's around there."""
    darkest = np.asarray(old.filter(ImageFilter.MinFilter(5)), dtype=float)
    lightest = np.asarray(old.filter(ImageFilter.MaxFilter(5)), dtype=float)
    greys = np.asarray(new, dtype=float)
    return float(((greys < darkest - 64) | (greys > lightest + 64)).mean())


def look_alike(png, other_png):
    """If each line of either picture is in the other one, too, or a hair beside."""
    one = seen_small(png)
    other = seen_small(other_png).resize(one.size)
    return share_of_new(one, other) < 0.005 and share_of_new(other, one) < 0.005


def test_the_cells_draw_what_is_committed(executed):
    stale = []
    for cell, cell_now in zip(CODE_CELLS, executed, strict=True):
        for old, new in zip(pictures_of(cell), pictures_of(cell_now), strict=True):
            if not look_alike(old, new):
                stale.append(cell.id)
    assert not stale, (
        f"make execute, for the pictures of these cells are stale: {stale}"
    )


def test_a_picture_does_not_look_like_the_next():
    """Else the test above would see too little."""
    pictures = [picture for cell in CODE_CELLS for picture in pictures_of(cell)]
    for one, other in pairwise(pictures):
        assert not look_alike(one, other)


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
    images = page.select(".jp-RenderedHTML > img, .jp-RenderedHTML > picture > img")
    shown = [image["alt"] for image in images]
    assert shown == expected


def test_what_the_notebook_hides_is_folded_in_the_report(page):
    hidden = []
    for cell in CODE_CELLS:
        if cell.metadata.get("jupyter", {}).get("source_hidden"):
            hidden.append(f"cell-id={cell.id}")
    folded = []
    for cell in page.select(".jp-CodeCell"):
        if cell.select(".jp-InputArea details"):
            folded.append(cell["id"])
    assert folded == hidden


def test_each_link_inside_the_report_leads_somewhere(page):
    places = {unquote(element["id"]) for element in page.select("[id]")}
    links = {unquote(link["href"][1:]) for link in page.select("a[href^='#']")}
    assert links - places == set()


# The report in a browser: on screens, on paper, and for all readers

A4 = {"width": 697, "height": 1026}  # in points, less margins of half an inch


def open_report(browser, report, size, media="screen", motion="no-preference"):
    """The report in a window of this size, or as it is printed."""
    page = browser.new_page(viewport=size, reduced_motion=motion)
    page.emulate_media(media=media)
    page.goto((report / "bernoulli_em.html").as_uri())
    return page


@pytest.fixture(scope="module", params=[1100, 400])
def screen(request, browser, report):
    """The report on a screen that is so many points wide."""
    page = open_report(browser, report, {"width": request.param, "height": 900})
    yield page
    page.close()


@pytest.fixture(scope="module")
def paper(browser, report):
    """The report as it is laid out on A4."""
    page = open_report(browser, report, A4, media="print")
    yield page
    page.close()


# Text in a line needn't be asked: the block that it overflows is.
BOXES = """
  const boxes = [...document.querySelectorAll("body, body :not(svg *)")].filter(
    (box) =>
      box.matches("img, svg") ||
      (box.clientWidth > 0 && getComputedStyle(box).display !== "inline")
  );
  const isTooNarrow = (box) => box.scrollWidth > box.clientWidth + 1;
  const overflow = (box) => getComputedStyle(box).overflowX;
  const tell = (box) => `${box.tagName} ${box.className} ${box.textContent}`.slice(0, 120);
"""


def boxes_where(page, condition):
    """What a reader finds in the boxes for which a condition in JavaScript holds."""
    return page.evaluate(
        f"() => {{ {BOXES} return boxes.filter((box) => {condition}).map(tell); }}"
    )


def test_on_paper_everything_fits_the_page(paper):
    right = "box.getBoundingClientRect().right"
    assert boxes_where(paper, f"{right} > innerWidth + 1 || isTooNarrow(box)") == []


def test_on_paper_each_picture_and_its_summary_fit_one_page(paper):
    height = "box.getBoundingClientRect().height"
    is_kept = "box.matches('img, .jp-CodeCell:has(.jp-InputArea details)')"
    assert boxes_where(paper, f"{is_kept} && {height} > innerHeight") == []


def test_on_paper_what_is_folded_stays_folded(paper):
    assert paper.locator("details").count() > 0
    assert paper.locator("details[open]").count() == 0


def test_a_screen_scrolls_down_only(screen):
    width, *widths = screen.evaluate(
        """() => [
            innerWidth, document.documentElement.scrollWidth, document.body.scrollWidth,
        ]"""
    )
    assert max(widths) <= width


def test_on_a_screen_what_is_too_wide_is_scrolled_not_cut(screen):
    cut = "isTooNarrow(box) && ['hidden', 'clip'].includes(overflow(box))"
    assert boxes_where(screen, cut) == []


def test_the_keyboard_scrolls_what_is_too_wide_for_a_screen(screen):
    scrolls = "isTooNarrow(box) && overflow(box) === 'auto'"
    assert boxes_where(screen, f"{scrolls} && box.tabIndex < 0") == []


@pytest.mark.parametrize(
    ("media", "motion", "n_moving"),
    [
        pytest.param("screen", "no-preference", 2, id="on a screen it moves"),
        pytest.param("screen", "reduce", 0, id="less motion"),
        pytest.param("print", "no-preference", 0, id="on paper"),
    ],
)
def test_a_moving_picture_moves_only_where_it_should(
    browser, report, media, motion, n_moving
):
    page = open_report(browser, report, A4, media, motion)
    addresses = page.eval_on_selector_all("img", "all => all.map((i) => i.currentSrc)")
    page.close()
    pictures = [base64.b64decode(address.partition(",")[2]) for address in addresses]
    assert sum(b"acTL" in picture for picture in pictures) == n_moving


COLOURS = """() => {
  const colours = {};
  for (const box of document.querySelectorAll("body :not(svg *)")) {
    const hasText = [...box.childNodes].some(
      (node) => node.nodeType === Node.TEXT_NODE && node.data.trim()
    );
    if (!hasText || !box.checkVisibility()) continue;
    let ground = box;
    let opacity = 1;
    for (let around = box; around; around = around.parentElement) {
      opacity *= getComputedStyle(around).opacity;
    }
    while (ground && getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") {
      ground = ground.parentElement;
    }
    const behind = ground ? getComputedStyle(ground).backgroundColor : "rgb(255, 255, 255)";
    const pair = [getComputedStyle(box).color, behind, opacity];
    colours[pair] = [...pair, box.textContent.slice(0, 60)];
  }
  return Object.values(colours);
}"""


def luminance(rgb):
    """How bright a colour is, as WCAG 2 measures it."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(colour, ground, opacity):
    """From 1 to 21; WCAG 2 asks for 4.5."""
    rgb = np.array(re.findall(r"[\d.]+", colour)[:3], dtype=float) / 255
    behind = np.array(re.findall(r"[\d.]+", ground)[:3], dtype=float) / 255
    rgb = opacity * rgb + (1 - opacity) * behind
    darker, lighter = sorted([luminance(rgb), luminance(behind)])
    return (lighter + 0.05) / (darker + 0.05)


def test_each_text_stands_out_from_its_ground(screen):
    faint = []
    for colour, ground, opacity, text in screen.evaluate(COLOURS):
        if contrast(colour, ground, opacity) < 4.5:
            faint.append(f"{colour} on {ground}, opacity {opacity}: {text}")
    assert not faint, "\n".join(faint)


def test_a_link_is_told_by_its_line_too(screen):
    is_plain = "getComputedStyle(box).textDecorationLine !== 'underline'"
    plain = screen.eval_on_selector_all(
        ".jp-RenderedMarkdown a[href]:not(.anchor-link)",
        f"all => all.filter((box) => {is_plain}).map((box) => box.textContent)",
    )
    assert plain == []
