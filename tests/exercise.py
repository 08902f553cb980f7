"""Make the exercise: python tests/exercise.py bernoulli_em.ipynb exercise.

The folder `exercise` gets Part 1 of the notebook, without its outputs and answers, and
everything that it needs. A cell tagged `answer` keeps only its functions of the exercise,
without their bodies. A cell tagged `solution` is left out, and so is prose between
`<!-- answer -->` and `<!-- end -->`. Titles that say what our own fit found become
neutral, because another start that is just as right finds other clusters.
"""

import ast
import re
import shutil
import sys
from pathlib import Path

import nbformat
from nbimport import ROOT

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
NEUTRAL_TITLES = {
    "No prototype looks like our 3, or like anything at all": "Our 3, and the start",
    "After one step: some digits, some blobs": "The prototypes after one step",
    "Most are digits after two steps, and some change their minds later": (
        "Five prototypes, step by step"
    ),
    "Five steps do most of it; train and test rise together": (
        "The log-likelihood after each step"
    ),
    "Six digits have two prototypes each; 4, 7 and 9 share three; 5 has none": (
        "The prototypes in the end"
    ),
    "Our 3 is divided among three prototypes": "Who has our 3 in the end",
    "Some clusters hold one digit, others mix look-alikes": "The digits of each cluster",
}
PACKAGES = {
    "chex",
    "importlib-resources",
    "jax",
    "jupyterlab",
    "matplotlib",
    "numpy",
    "tensorflow",
    "tensorflow-cpu",
    "tensorflow-datasets",
    "tqdm",
}
TASK = """\
**The exercise.** Some functions say only `raise NotImplementedError`. Write them, in the
order in which they come, and after each one run its cell and the next, to see whether
the numbers make sense. Each answer is a few lines long, and `as_floats`, `dot` and
`MIN_MEAN` are there for you to use. If you write `em_step` as a single function, you may
leave out `e_step`, `m_step` and `ExpectedCounts`, and skip the cells that use them. All
data are in this folder. With Python 3.11 to 3.13, install by
`pip install -r requirements.txt`, then start `jupyter lab bernoulli_em.ipynb`.

**When you fix a function, run its cell again, and all cells below it.** Only `em_step`
is compiled here, and a compiled function remembers the functions that it called. Until
its own cell has run again, `em_step` goes on calling the old ones.

Some numbers to expect: the start has −568.47 nats per image, the images of all clusters
add up to 60,000, and one step leads to −183.45 nats per image.

Keep the names and the arguments, because your functions will be imported and tested.
Your cells won't be run for that, so a function must not need a variable that only a run
computes.
"""


def make_exercise(notebook):
    """Turn the notebook, as nbformat reads it, into the exercise."""
    ids = [cell.id for cell in notebook.cells]
    part_1 = notebook.cells[: ids.index("part-2")]
    for cell in part_1:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "code":
            cell.outputs = []
            cell.execution_count = None
            cell.source = with_neutral_titles(cell.source)
        if "answer" in tags:
            cell.source = without_bodies(cell.source)
        if "solution" in tags:
            cell.source = ""
        if cell.cell_type == "markdown":
            cell.source = without_answers(cell.source)
    task = nbformat.v4.new_markdown_cell(TASK, id="task")
    with_text = [cell for cell in part_1 if cell.source.strip()]
    notebook.cells = [with_text[0], task, *with_text[1:]]


def with_neutral_titles(source):
    """A cell whose figure titles don't say what our fit found."""
    for finding, neutral in NEUTRAL_TITLES.items():
        source = source.replace(f'"{finding}', f'"{neutral}')
    return source


def without_answers(source):
    """Prose without what is between the marks, and without a gap in its place."""
    kept = re.sub(r"(?s)<!-- answer -->.*?<!-- end -->", "", source)
    return re.sub(r"\n{3,}", "\n\n", kept).strip()


def without_bodies(source):
    """The functions of the exercise in a cell, each up to the end of its docstring.

    Only em_step stays compiled: a compiled function would go on calling other functions
    as they were before a student fixed them.
    """
    lines = source.splitlines()
    kept = []
    for node in ast.parse(source).body:
        if getattr(node, "name", None) in FUNCTIONS:
            first = node
            if node.name == "em_step":
                first = node.decorator_list[0]
            docstring = node.body[0]
            kept += lines[first.lineno - 1 : docstring.end_lineno]
            kept.append(f'    raise NotImplementedError("{node.name} isn\'t written")')
    return "\n".join(kept)


def requirements(lock):
    """The lines of the lock for the packages that the exercise imports or runs in."""
    lines = []
    for name, rest in re.findall(r"(?m)^([\w-]+)(==.*)$", lock):
        if name in PACKAGES:
            lines.append(f"{name}{rest}\n")
    return "".join(lines)


def main(source, folder):
    exercise = nbformat.read(source, as_version=4)
    make_exercise(exercise)
    folder = Path(folder)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    nbformat.write(exercise, folder / "bernoulli_em.ipynb")
    shutil.copy(ROOT / "figures" / "prototypes.png", folder / "figures")
    shutil.copytree(ROOT / "data/mnist", folder / "data/mnist", dirs_exist_ok=True)
    lock = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    (folder / "requirements.txt").write_text(requirements(lock), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
