"""The committed notebook, and what its cells show."""

import base64

import nbformat
from nbimport import ROOT

NOTEBOOK = nbformat.read(ROOT / "bernoulli_em.ipynb", as_version=4)
CODE_CELLS = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]
TEXT_CELLS = [cell for cell in NOTEBOOK.cells if cell.cell_type == "markdown"]


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


def pictures_of(cell):
    """The PNGs that a cell shows."""
    pictures = []
    for output in cell.outputs:
        png = output.get("data", {}).get("image/png")
        if png:
            pictures.append(base64.b64decode(png))
    return pictures
