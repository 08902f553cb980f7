"""Make the exercise from the notebook: `make exercise`.

Part 1, where cells tagged `answer` lose their function's body, or, if prose, are left out.
"""

import ast
import sys

import nbformat

TASK = "**The exercise:** write every body that says `raise NotImplementedError`."


def without_body(source):
    """The function of a cell, up to the end of its docstring."""
    (function,) = ast.parse(source).body
    kept = source.splitlines()[: function.body[0].end_lineno]
    return "\n".join([*kept, "    raise NotImplementedError"])


def make_exercise(notebook):
    ends = [cell.id for cell in notebook.cells].index("part-2")
    cells = []
    for cell in notebook.cells[:ends]:
        answer = "answer" in cell.metadata.get("tags", [])
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
            cell.source = without_body(cell.source) if answer else cell.source
        if cell.cell_type == "code" or not answer:
            cells.append(cell)
    notebook.cells = [cells[0], nbformat.v4.new_markdown_cell(TASK, id="task"), *cells[1:]]
    return notebook


if __name__ == "__main__":
    source, target = sys.argv[1:]
    exercise = make_exercise(nbformat.read(source, as_version=4))
    nbformat.validate(exercise)
    nbformat.write(exercise, target)
