"""How nbconvert runs the notebook and writes its report: one file, no network.

Use it with `jupyter nbconvert --config nbconvert_config.py ...`. Equations become MathML,
which every browser draws by itself, in place of MathJax from the network. Figures get
the alternative text of their output's metadata, which nbconvert's own template drops.
"""

import html
import re

from latex2mathml.converter import convert
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import CoalesceStreamsPreprocessor, Preprocessor


def mathml(tex, **options):
    # TeX puts a thin space after these by itself, MathML doesn't.
    return convert(re.sub(r"\\(log|exp)\b", r"\\\1\\,", tex), **options)


class MathMLRenderer(IPythonRenderer):
    """Renders Markdown with its equations as MathML."""

    def block_math(self, body):
        return mathml(body, display="block")

    def inline_math(self, body):
        return mathml(body)


def markdown_to_html(source):
    return MarkdownWithMath(renderer=MathMLRenderer(escape=False)).render(source)


class AltText(Preprocessor):
    """Turns each PNG output into an <img> that carries its alternative text."""

    def preprocess_cell(self, cell, resources, index):
        for output in cell.get("outputs", []):
            png = output.get("data", {}).get("image/png")
            if png:
                alt = html.escape(output.metadata["image/png"]["alt"])
                output.data["text/html"] = (
                    f'<img alt="{alt}" src="data:image/png;base64,{png.strip()}">'
                )
        return cell, resources


c = get_config()  # noqa: F821 (nbconvert defines it)
c.HTMLExporter.filters = {"markdown2html": markdown_to_html}
c.HTMLExporter.preprocessors = [AltText]
c.HTMLExporter.mathjax_url = c.HTMLExporter.require_js_url = "data:,"
c.NotebookExporter.preprocessors = [CoalesceStreamsPreprocessor]
c.CoalesceStreamsPreprocessor.enabled = True
c.NotebookClient.record_timing = False
