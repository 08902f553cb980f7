"""Make the exercise: python tests/exercise.py bernoulli_em.ipynb exercise.ipynb.

It is Part 1 without its outputs and answers. Of a cell tagged `answer`, the functions
of the exercise stay, without their bodies; a cell tagged `solution` goes whole, and so
does prose from `<!-- answer -->` to `<!-- end -->`.
"""

import ast
import re
import sys

import nbformat

FUNCTIONS = {
    "log_joint_prob",
    "init_mixture_params",
    "log_likelihood",
    "responsibilities",
    "e_step",
    "m_step",
    "em_step",
    "make_cluster_labels",
}
TASK = """\
**The exercise.** Write every body that says `raise NotImplementedError`, in the order
in which they come, and run the cell after each to see whether its numbers make sense.
`as_floats`, `dot` and `MIN_MEAN` are there to be used, and each answer is a few lines
long. If you write `em_step` whole, you may leave out `e_step`, `m_step` and
`ExpectedCounts`, and skip the cells that use them. All data are in this folder. To
install: `pip install -r requirements.txt` (Python 3.11 to 3.13), then
`jupyter lab bernoulli_em.ipynb`.

Keep the names and the arguments, because your functions will be imported and tested.
Your cells won't be run for that: a function must not need a variable that only a run
computes.
"""


def make_exercise(notebook):
    """Turn the notebook, as nbformat reads it, into the exercise."""
    ids = [cell.id for cell in notebook.cells]
    part_1 = notebook.cells[: ids.index("part-2")]
    for cell in part_1:
        if cell.cell_type == "code":
            cell.outputs = []
            cell.execution_count = None
        tags = cell.metadata.get("tags", [])
        if "answer" in tags:
            cell.source = without_bodies(cell.source)
        if "solution" in tags:
            cell.source = ""
        cell.source = re.sub(r"(?s)<!-- answer -->.*?<!-- end -->", "", cell.source)
    task = nbformat.v4.new_markdown_cell(TASK, id="task")
    with_text = [cell for cell in part_1 if cell.source.strip()]
    notebook.cells = [with_text[0], task, *with_text[1:]]


def without_bodies(source):
    """The functions of the exercise in a cell, each up to the end of its docstring."""
    lines = source.splitlines()
    kept = []
    for node in ast.parse(source).body:
        if getattr(node, "name", None) in FUNCTIONS:
            first = min([node, *node.decorator_list], key=lambda part: part.lineno)
            docstring = node.body[0]
            kept += lines[first.lineno - 1 : docstring.end_lineno]
            kept.append(f'    raise NotImplementedError("{node.name} isn\'t written")')
    return "\n".join(kept)


if __name__ == "__main__":
    source, target = sys.argv[1:]
    exercise = nbformat.read(source, as_version=4)
    make_exercise(exercise)
    nbformat.write(exercise, target)
