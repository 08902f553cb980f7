"""How nbconvert runs the notebook and writes its report: one file, no network.

Use it with `jupyter nbconvert --config nbconvert_config.py ...`. Equations become MathML,
which every browser draws by itself, in place of MathJax from the network. Figures get
the alternative text of their output's metadata, which nbconvert's own template drops, and
the notebook as executed lies beside the report. `--to notebook` also renews the picture at
the notebook's head, from the figure of the cluster means.
"""

import base64
import html
import os
import re

import nbformat
from latex2mathml.converter import convert
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import CoalesceStreamsPreprocessor, Preprocessor

ROOT = os.path.dirname(os.path.abspath(__file__))


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
    renderer = MathMLRenderer(escape=False, embed_images=True, path=ROOT)
    return MarkdownWithMath(renderer=renderer).render(source)


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


class HeadPicture(Preprocessor):
    """Writes figures/prototypes.png, the figure of the cell `means`."""

    def preprocess(self, nb, resources):
        for cell in nb.cells:
            if cell.id == "means":
                png = base64.b64decode(cell.outputs[0].data["image/png"])
                resources.setdefault("outputs", {})["figures/prototypes.png"] = png
        return nb, resources


c = get_config()  # noqa: F821 (nbconvert defines it)
c.HTMLExporter.filters = {"markdown2html": markdown_to_html}
# Preprocessors named here run after the notebook's execution, the default ones before it.
c.HTMLExporter.preprocessors = [CoalesceStreamsPreprocessor, KeepNotebook, AltText]
c.HTMLExporter.mathjax_url = c.HTMLExporter.require_js_url = "data:,"
c.NotebookExporter.preprocessors = [CoalesceStreamsPreprocessor, HeadPicture]
c.CoalesceStreamsPreprocessor.enabled = True
c.NotebookClient.record_timing = False
if os.name == "posix":
    c.KernelManager.transport = "ipc"  # its default, TCP, warns
