"""Make the exercise from the notebook: `make exercise`.

Part 1, where functions in cells tagged `answer` lose their bodies, and prose between
`<!-- answer -->` and `<!-- end -->` is left out.
"""

import ast
import re
import sys

import nbformat
from checks import CHECKS

TASK = """**The exercise.** Write every body that says `raise NotImplementedError`, in the order in which they come; run the
cell after each to see whether its numbers make sense. If you write `em_step` whole, you may leave out `e_step`, `m_step` and
`ExpectedCounts`, and skip the cells that use them. All data are in this folder. To install: `pip install -r requirements.txt`
(Python 3.11 to 3.13), then `jupyter lab bernoulli_em.ipynb`. Keep the names and the arguments: a marker imports your functions.
It reads definitions, not what the cells run, so a function must not need a variable that only a run would set."""


def without_body(source):
    """The exercise's function of a cell, up to the end of its docstring."""
    (function,) = (node for node in ast.parse(source).body if node.name in CHECKS)
    first = min([function, *function.decorator_list], key=lambda node: node.lineno).lineno
    kept = source.splitlines()[first - 1 : function.body[0].end_lineno]
    return "\n".join([*kept, "    raise NotImplementedError"])


def make_exercise(notebook):
    ends = [cell.id for cell in notebook.cells].index("part-2")
    cells = [nbformat.v4.new_markdown_cell(TASK, id="task")]
    for cell in notebook.cells[:ends]:
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
            if "answer" in cell.metadata.get("tags", []):
                cell.source = without_body(cell.source)
        else:
            cell.source = re.sub(r"(?s)<!-- answer -->.*?<!-- end -->", "", cell.source).strip()
        if cell.source:
            cells.append(cell)
    notebook.cells = [cells[1], cells[0], *cells[2:]]
    return notebook


if __name__ == "__main__":
    source, target = sys.argv[1:]
    exercise = make_exercise(nbformat.read(source, as_version=4))
    nbformat.validate(exercise)
    nbformat.write(exercise, target)
