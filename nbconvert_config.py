"""How nbconvert runs the notebook and writes its report: one file, no network.

Use it with `jupyter nbconvert --config nbconvert_config.py ...`. Equations become drawings,
labelled with their source; figures get the alternative text of their output's metadata, which
nbconvert's own template drops; code that only draws is a click away; and the notebook as executed
lies beside the report. `--to notebook` also renews the pictures in figures/.
"""

import base64
import html
import os

import nbformat
import ziamath
from markupsafe import Markup
from nbconvert.filters import clean_html
from nbconvert.filters.highlight import Highlight2HTML
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import CoalesceStreamsPreprocessor, Preprocessor

ROOT = os.path.dirname(os.path.abspath(__file__))
PICTURES = {"forming": "figures/prototypes.png", "holes-figure": "figures/holes.png"}


def draw_equation(tex, inline, size=16):
    """An equation as an SVG, which looks the same in every browser."""
    equation = ziamath.Latex(tex, size=size, inline=inline)
    label = html.escape(" ".join(tex.split()))
    style = f"vertical-align:{equation.getyofst():.1f}px" if inline else "min-width:max-content"
    return equation.svg().replace(
        "<svg", f'<svg role="img" aria-label="{label}" style="{style}"', 1
    )


class EquationRenderer(IPythonRenderer):
    """Renders Markdown with its equations as drawings."""

    def block_math(self, body):
        return f'<div style="overflow-x:auto">{draw_equation(body, inline=False)}</div>'

    def inline_math(self, body):
        return draw_equation(body, inline=True)

    def block_html(self, html):
        """As it stands: nbconvert would close each tag in the paragraph that opens it."""
        return html


def markdown_to_html(source):
    renderer = EquationRenderer(escape=False, embed_images=True, path=ROOT)
    return MarkdownWithMath(renderer=renderer).render(source)


def highlight_code(source, language=None, metadata=None):
    """A cell's code; folded if the notebook hides it."""
    code = Highlight2HTML(pygments_lexer="ipython3")(source, language, metadata)
    if (metadata or {}).get("jupyter", {}).get("source_hidden"):
        return Markup(f"<details><summary>code that draws</summary>{code}</details>")
    return code


def clean_unless_folded(element):
    """nbconvert's own cleaning, which would spell out what highlight_code folds."""
    return element if str(element).startswith("<details>") else clean_html(element)


class KeepNotebook(Preprocessor):
    """Writes the notebook as executed beside the report."""

    def preprocess(self, nb, resources):
        name = resources["metadata"]["name"] + ".ipynb"
        resources.setdefault("outputs", {})[name] = nbformat.writes(nb).encode()
        return nb, resources


class AltText(Preprocessor):
    """Turns each PNG output into an <img> that carries its alternative text."""

    def preprocess_cell(self, cell, resources, index):
        for output in cell.get("outputs", []):
            png = output.get("data", {}).get("image/png")
            if png:
                fallback = output.data.get("text/plain", "A figure")
                alt = output.metadata.get("image/png", {}).get("alt", fallback)
                output.data["text/html"] = (
                    f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{png.strip()}">'
                )
        return cell, resources


class ReadmePictures(Preprocessor):
    """Writes the pictures that the README shows, from the cells that draw them."""

    def preprocess(self, nb, resources):
        for cell in nb.cells:
            if cell.id in PICTURES:
                png = base64.b64decode(cell.outputs[0].data["image/png"])
                resources.setdefault("outputs", {})[PICTURES[cell.id]] = png
        return nb, resources


c = get_config()  # noqa: F821 (nbconvert defines it)
c.HTMLExporter.filters = {
    "markdown2html": markdown_to_html,
    "highlight_code": highlight_code,
    "clean_html": clean_unless_folded,
}
# Preprocessors named here run after the notebook's execution, the default ones before it.
c.HTMLExporter.preprocessors = [CoalesceStreamsPreprocessor, KeepNotebook, AltText]
c.HTMLExporter.mathjax_url = c.HTMLExporter.require_js_url = "data:,"
c.NotebookExporter.preprocessors = [CoalesceStreamsPreprocessor, ReadmePictures]
c.CoalesceStreamsPreprocessor.enabled = True
c.NotebookClient.record_timing = False
if os.name == "posix":
    c.KernelManager.transport = "ipc"  # its default, TCP, warns
