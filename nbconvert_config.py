"""How nbconvert runs the notebook and writes its report: one file, no network.

`make report` says `python -m nbconvert --config nbconvert_config.py --to html --execute`.
In the report equations are drawings, labelled with their source; figures keep their
alternative text and their size, and what moves has a still picture beside it; code that
only draws or checks is a click away; on paper everything fits the page; and the notebook
as it was executed lies beside it.

`make execute` runs the notebook in place, and renews the pictures of the README, too.
"""

import base64
import html
import io
import re
from xml.etree import ElementTree

import nbformat
import ziamath
from jinja2 import pass_context
from mistune.plugins.table import render_table_cell
from nbconvert.filters import clean_html
from nbconvert.filters.highlight import Highlight2HTML
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import CoalesceStreamsPreprocessor, Preprocessor
from PIL import Image
from traitlets import Unicode

# On a screen: lines that are short enough to read, room for a cell's number of three
# digits, colours that stand out from their ground, and links that colour alone doesn't
# tell. What is too wide for its column scrolls within it.
SCREEN = """
  body .jp-RenderedMarkdown > :is(p, ul, ol, details) { max-width: 800px; }
  body .jp-RenderedHTMLCommon a:any-link { text-decoration: underline; }
  body .jp-Cell { --jp-cell-prompt-width: 76px; --jp-cell-prompt-not-active-opacity: 1; }
  body .highlight {
    --jp-mirror-editor-comment-color: #356b6b;
    --jp-mirror-editor-number-color: #007700;
    --jp-mirror-editor-operator-color: #9900ee;
  }
  body .jp-RenderedHTMLCommon :not(pre) > code { white-space: normal; }
  body .jp-RenderedText pre { white-space: pre; word-break: normal; }
  body :is(.jp-RenderedText pre, .highlight pre, .equation) { overflow-x: auto; }
  .equation { display: block; }
  .equation svg { min-width: max-content; }
"""

# On paper: the page's whole width, and no cell's number beside it; code so small that a line
# of A4 holds 105 characters, and wrapped where that isn't enough; equations and figures as
# wide as the page at most, and none of them on two pages.
PAPER = """
  @media print {
    body.jp-Notebook { margin: 0; padding: 0; overflow: visible; }
    body .jp-Cell { padding: 4px 0; --jp-code-font-size: 8pt; }
    body :is(.jp-InputPrompt, .jp-OutputPrompt) { display: none; }
    body :is(.jp-InputArea, .jp-InputArea-editor, .jp-MarkdownOutput, .jp-OutputArea,
      .jp-OutputArea-child, .jp-OutputArea-output) {
      display: block;
      width: auto;
      margin: 0;
      padding-right: 0;
      overflow: visible;
    }
    body .jp-RenderedText { padding-left: 5px; }
    body :is(.jp-RenderedText pre, .highlight pre) {
      white-space: pre-wrap;
      overflow-wrap: anywhere;
    }
    body :is(.jp-RenderedText pre, .highlight pre, .equation) { overflow: visible; }
    body :is(img, svg) { max-width: 100%; height: auto; }
    .equation svg { min-width: 0; }
    p, li, pre { orphans: 3; widows: 3; }
    h1, h2, h3, h4, summary { break-after: avoid; }
    .equation, tr, picture, img, .jp-OutputArea-child { break-inside: avoid; }
    .jp-CodeCell:has(.jp-InputArea details) { break-inside: avoid; }
  }
"""

# Elsewhere than in Chromium and Firefox, the keyboard scrolls only what it can go to.
SCRIPT = """
  function letTheKeyboardScroll() {
    for (const box of document.querySelectorAll("pre, .equation")) {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  }
  window.addEventListener("load", letTheKeyboardScroll);
  window.addEventListener("resize", letTheKeyboardScroll);
  window.addEventListener("toggle", letTheKeyboardScroll, true);
"""

# How the first line of a folded cell says what its code does.
WHAT_IT_DOES = ("# draws: ", "# checks: ")

STANDS_STILL = "print, (prefers-reduced-motion: reduce)"

README_PICTURES = {"forming": "prototypes.png", "sample-tree-figure": "trees.png"}


def draw_equation(tex, inline):
    """An equation as an SVG, which looks the same in every browser."""
    equation = ziamath.Latex(tex, size=16, inline=inline)
    svg = equation.svgxml()
    svg.set("role", "img")
    svg.set("aria-label", " ".join(tex.split()))
    if inline:
        svg.set("style", f"vertical-align:{equation.getyofst():.1f}px")
    return ElementTree.tostring(svg, encoding="unicode")


def without_motion(png):
    """The picture that a moving PNG shows where it can't move; None if it doesn't move."""
    picture = Image.open(io.BytesIO(png))
    if not picture.is_animated:
        return None
    still = io.BytesIO()
    picture.save(still, format="PNG")
    return still.getvalue()


def beside_still(image):
    """An <img>; if it moves, with what is shown on paper and to who wants less motion."""
    png = re.search(r'src="data:image/png;base64,(.*?)"', image)
    still = without_motion(base64.b64decode(png[1])) if png else None
    if still is None:
        return image
    address = f"data:image/png;base64,{base64.b64encode(still).decode()}"
    source = f'<source media="{STANDS_STILL}" srcset="{address}">'
    return f"<picture>{source}{image}</picture>"


class ReportRenderer(IPythonRenderer):
    """nbconvert's Markdown, with equations as drawings, and motion only where wanted."""

    def block_math(self, body):
        equation = draw_equation(body, inline=False)
        return f'<span class="equation">{equation}</span>'

    def inline_math(self, body):
        return draw_equation(body, inline=True)

    def image(self, text, url, title=None):
        return beside_still(super().image(text, url, title))

    def table_cell(self, text, align=None, head=False):
        """A cell of a table; one without a text is nobody's head."""
        return render_table_cell(self, text, align, head and text != "")

    # To embed images nbconvert parses each piece of HTML by itself, and so closes, say,
    # a <details> where its first paragraph ends. Only pieces with an image need that.

    def block_html(self, source):
        return super().block_html(source) if "<img" in source else source

    def inline_html(self, source):
        return super().inline_html(source) if "<img" in source else source


@pass_context
def markdown_to_html(context, source):
    """Markdown as HTML, with the images of the notebook's folder in it."""
    folder = context["resources"]["metadata"]["path"]
    renderer = ReportRenderer(escape=False, embed_images=True, path=folder)
    return MarkdownWithMath(renderer=renderer).render(source)


def highlight_code(source, language=None, metadata=None):
    """A cell's code; a click away if the notebook hides it."""
    code = Highlight2HTML(pygments_lexer="ipython3")(source, language, metadata)
    if not (metadata or {}).get("jupyter", {}).get("source_hidden"):
        return code
    summary = "folded code"
    first_line = source.partition("\n")[0]
    if first_line.startswith(WHAT_IT_DOES):
        summary = first_line.removeprefix("# ")
    return f"<details><summary>{html.escape(summary)}</summary>{code}</details>"


def clean_unless_folded(element):
    """nbconvert's own cleaning of code, which would spell out what we fold."""
    return element if str(element).startswith("<details>") else clean_html(element)


class KeepNotebook(Preprocessor):
    """Writes the notebook as it was executed beside the report."""

    def preprocess(self, nb, resources):
        name = resources["metadata"]["name"] + ".ipynb"
        resources.setdefault("outputs", {})[name] = nbformat.writes(nb).encode()
        return nb, resources


class StyleAndScript(Preprocessor):
    """Puts our style and our script into the page's first cell."""

    def preprocess(self, nb, resources):
        first = nb.cells[0]
        ours = f"<style>{SCREEN}{PAPER}</style>\n\n<script>{SCRIPT}</script>"
        first.source = f"{ours}\n\n{first.source}"
        return nb, resources


class DescribedFigures(Preprocessor):
    """Makes a PNG an <img> with its alternative text, which nbconvert drops.

    A PNG beside HTML is only shown where no HTML can be: it stays as it is.
    """

    def preprocess_cell(self, cell, resources, index):
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            about = output.get("metadata", {}).get("image/png", {})
            if "image/png" in data and "text/html" not in data and "alt" in about:
                data["text/html"] = figure_to_html(data["image/png"], about)
        return cell, resources


def figure_to_html(png, about):
    """An <img> as its output's metadata describe it, never wider than its column."""
    image = ElementTree.Element("img", alt=about["alt"])
    for side in ("width", "height"):
        if side in about:
            image.set(side, str(about[side]))
    image.set("style", "max-width:100%;height:auto")
    image.set("src", f"data:image/png;base64,{png.strip()}")
    return beside_still(ElementTree.tostring(image, encoding="unicode", method="html"))


class ReadmePictures(Preprocessor):
    """Writes the pictures that the README shows, from the cells that draw them."""

    folder = Unicode(
        help="Where to write them, as seen from the notebook; empty: don't."
    ).tag(config=True)

    def preprocess_cell(self, cell, resources, index):
        if self.folder and cell.id in README_PICTURES:
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    path = f"{self.folder}/{README_PICTURES[cell.id]}"
                    png = base64.b64decode(output.data["image/png"])
                    resources.setdefault("outputs", {})[path] = png
        return cell, resources


c = get_config()  # noqa: F821 (nbconvert defines it)
c.HTMLExporter.filters = {
    "markdown2html": markdown_to_html,
    "highlight_code": highlight_code,
    "clean_html": clean_unless_folded,
}
# Those named here run after the notebook; nbconvert's own ones run before it.
c.HTMLExporter.preprocessors = [
    CoalesceStreamsPreprocessor,
    KeepNotebook,
    DescribedFigures,
    StyleAndScript,
]
c.NotebookExporter.preprocessors = [CoalesceStreamsPreprocessor, ReadmePictures]
c.HTMLExporter.mathjax_url = "data:,"  # nothing to fetch
c.HTMLExporter.require_js_url = "data:,"
c.NotebookClient.record_timing = False
c.KernelManager.transport_encryption = "auto"  # unencrypted TCP, its default, warns
