"""Make the exercise, and mark what comes back: `make exercise`, `make mark NOTEBOOK=...`.

The exercise is Part 1, where functions in cells tagged `answer` lose their bodies, and prose
between `<!-- answer -->` and `<!-- end -->` goes. Each function of a solution is checked in its
own process, with a time limit; the others that it calls are lent by `solution.ipynb`.
"""

import ast
import contextlib
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import nbformat
from checks import CHECKS, a_pixel_never_on_makes_no_nan
from nbimport import ROOT, import_notebook

TASK = """**The exercise.** Write every body that says `raise NotImplementedError`, in the order in which they come; run the
cell after each to see whether its numbers make sense. If you write `em_step` whole, you may leave out `e_step`, `m_step` and
`ExpectedCounts`, and skip the cells that use them. All data are in this folder. To install: `pip install -r requirements.txt`
(Python 3.11 to 3.13), then `jupyter lab bernoulli_em.ipynb`. Keep the names and the arguments: a marker imports your functions.
It reads definitions, not what the cells run, so a function must not need a variable that only a run would set."""
SOLUTION = ROOT / "tests" / "solution.ipynb"
OPTIONAL = {"e_step", "m_step"}  # em_step alone will do
SECONDS = 100
HINT = "the marker reads definitions and doesn't run the notebook"


def without_body(source):
    """The exercise's function of a cell, up to the end of its docstring."""
    (function,) = (node for node in ast.parse(source).body if node.name in CHECKS)
    first = min([function, *function.decorator_list], key=lambda node: node.lineno).lineno
    kept = source.splitlines()[first - 1 : function.body[0].end_lineno]
    return "\n".join([*kept, "    raise NotImplementedError"])


def make_exercise(notebook):
    """Turn the notebook into the exercise."""
    del notebook.cells[[cell.id for cell in notebook.cells].index("part-2") :]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
        if "answer" in cell.metadata.get("tags", []):
            cell.source = without_body(cell.source)
        cell.source = re.sub(r"(?s)<!-- answer -->.*?<!-- end -->", "", cell.source).strip()
    notebook.cells = [cell for cell in notebook.cells if cell.source]
    notebook.cells.insert(1, nbformat.v4.new_markdown_cell(TASK, id="task"))
    return notebook


def wanted(em):
    """What to mark: e_step and m_step only where they are those of the exercise."""
    with_counts = all(hasattr(em, name) for name in ("ExpectedCounts", *OPTIONAL))
    return [name for name in CHECKS if name not in OPTIONAL or with_counts]


def mark(path, name):
    """Check one function: "right", "not written" or "wrong: ..."."""
    em, solution = (import_notebook(p, skipped=[]) for p in (path, SOLUTION))
    if not hasattr(em, name):
        return f"not written ({HINT})"
    vars(solution).update((k, v) for k, v in vars(em).items() if isinstance(v, type))  # theirs
    vars(em).update({other: getattr(solution, other) for other in wanted(em) if other != name})
    try:
        CHECKS[name](em)
        if name == "em_step":
            with contextlib.suppress(NotImplementedError):  # of another function
                a_pixel_never_on_makes_no_nan(import_notebook(path, skipped=[]))
    except NotImplementedError:
        return "not written"
    except AssertionError as error:
        return " ".join(f"wrong: {error}".split())
    except NameError as error:
        return f"wrong: NameError: {error} ({HINT}: define it by a constant, or in the function)"
    except Exception as error:  # noqa: BLE001 (theirs, whatever it is)
        return f"wrong: {type(error).__name__}: {error}".splitlines()[0]
    return "right"


def mark_apart(path, name):
    """Mark one function in a process of its own."""
    command = [sys.executable, __file__, "mark", path, name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"wrong: not done after {SECONDS} seconds"
    lines = done.stdout.splitlines()
    return lines[-1] if lines else f"wrong: ended the process with status {done.returncode}"


def mark_all(path):
    """Print a line for each function; exits with status 1 unless all are right."""
    skipped, marks = [], []
    try:
        em = import_notebook(path, skipped)
    except (OSError, ValueError, LookupError, TypeError):
        sys.exit(f"'{path}' can't be marked: is it a whole .ipynb file?")
    if not hasattr(em, "BernoulliMixture"):
        sys.exit(f"'{path}' can't be marked: it defines no BernoulliMixture; left out: {skipped}")
    with ThreadPoolExecutor(2) as pool:
        results = pool.map(lambda name: mark_apart(path, name), wanted(em))
        for name, result in zip(wanted(em), results):
            print(f"{name:20} {result}", flush=True)
            marks.append(result)
    right = marks.count("right")
    print(f"{right} of {len(marks)} right")
    if skipped and right < len(marks):
        print("Left out (does it run from top to bottom?):", *skipped, sep="\n")
    sys.exit(right < len(marks))


if __name__ == "__main__":
    match sys.argv[1:]:
        case "make", source, target:
            nbformat.write(make_exercise(nbformat.read(source, as_version=4)), target)
        case "mark", path, name:
            print(mark(path, name))
        case "mark", path:
            mark_all(path)
        case _:
            sys.exit(__doc__)
