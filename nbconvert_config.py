"""How nbconvert runs the notebook and writes its report: one file, no network.

`make report` says `python -m nbconvert --config nbconvert_config.py --to html --execute`.
In the report equations are drawings, labelled with their source; figures keep their
alternative text and their size; code that only draws is a click away; and the notebook
as it was executed lies beside it.

`make execute` runs the notebook in place, and renews the pictures of the README, too.
"""

import base64
import html
from xml.etree import ElementTree

import nbformat
import ziamath
from jinja2 import pass_context
from nbconvert.filters import clean_html
from nbconvert.filters.highlight import Highlight2HTML
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import CoalesceStreamsPreprocessor, Preprocessor
from traitlets import Unicode

# Lines that are short enough to read, numbers that don't break where a screen ends, and
# room for a cell's number of three digits.
STYLE = """
  body .jp-RenderedMarkdown > :is(p, ul, ol, details) { max-width: 800px; }
  body .jp-RenderedText pre { white-space: pre; overflow-x: auto; word-break: normal; }
  body .jp-Cell { --jp-cell-prompt-width: 76px; }
"""

README_PICTURES = {"forming": "prototypes.png", "holes-figure": "holes.png"}


def draw_equation(tex, inline):
    """An equation as an SVG, which looks the same in every browser."""
    equation = ziamath.Latex(tex, size=16, inline=inline)
    svg = equation.svgxml()
    svg.set("role", "img")
    svg.set("aria-label", " ".join(tex.split()))
    if inline:
        svg.set("style", f"vertical-align:{equation.getyofst():.1f}px")
    else:
        svg.set("style", "min-width:max-content")
    return ElementTree.tostring(svg, encoding="unicode")


class EquationRenderer(IPythonRenderer):
    """nbconvert's Markdown, with equations as drawings."""

    def block_math(self, body):
        equation = draw_equation(body, inline=False)
        return f'<span style="display:block;overflow-x:auto">{equation}</span>'

    def inline_math(self, body):
        return draw_equation(body, inline=True)

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
    renderer = EquationRenderer(escape=False, embed_images=True, path=folder)
    return MarkdownWithMath(renderer=renderer).render(source)


def highlight_code(source, language=None, metadata=None):
    """A cell's code; a click away if the notebook hides it."""
    code = Highlight2HTML(pygments_lexer="ipython3")(source, language, metadata)
    if not (metadata or {}).get("jupyter", {}).get("source_hidden"):
        return code
    summary = "code that draws"
    first_line = source.partition("\n")[0]
    if first_line.startswith("# draws: "):
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


class Style(Preprocessor):
    """Puts our style into the page's first cell."""

    def preprocess(self, nb, resources):
        first = nb.cells[0]
        first.source = f"<style>{STYLE}</style>\n\n{first.source}"
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
    return ElementTree.tostring(image, encoding="unicode", method="html")


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
    Style,
]
c.NotebookExporter.preprocessors = [CoalesceStreamsPreprocessor, ReadmePictures]
c.HTMLExporter.mathjax_url = "data:,"  # nothing to fetch
c.HTMLExporter.require_js_url = "data:,"
c.NotebookClient.record_timing = False
c.KernelManager.transport_encryption = "auto"  # unencrypted TCP, its default, warns
