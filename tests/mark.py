"""Mark a solution of the exercise: `make mark NOTEBOOK=path/to/theirs.ipynb`.

Each function is checked in a process of its own, with a time limit, on the notebook's
definitions; where it calls another function of the exercise it gets a correct one.
"""

import contextlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import checks
import jax
import jax.numpy as jnp
from nbimport import import_notebook

SECONDS = 100
OPTIONAL = ("e_step", "m_step")  # em_step alone will do
HINT = "the marker reads definitions and doesn't run the notebook"


def correct_functions(em):
    """Plain correct versions of what the exercise's functions call; images may be floats."""

    def log_joint_prob(params, images):
        x = jnp.asarray(images).reshape(len(images), -1).astype(jnp.float32)
        means = jnp.clip(params.cluster_means, 1e-6, 1 - 1e-6)
        log_joint = x @ jnp.log(means).T + (1 - x) @ jnp.log1p(-means).T
        return log_joint + jnp.log(params.cluster_weights)

    def log_likelihood(params, images):
        return jax.nn.logsumexp(log_joint_prob(params, images), axis=1)

    def e_step(params, images, temperature=1.0):
        x = jnp.asarray(images).reshape(len(images), -1).astype(jnp.float32)
        shares = jax.nn.softmax(log_joint_prob(params, images), axis=1)
        sums = {"cluster_counts": shares.sum(axis=0), "on_counts": shares.T @ x}
        total = log_likelihood(params, images).sum()
        return em.ExpectedCounts(**sums, off_counts=shares.T @ (1 - x), log_likelihood=total)

    def m_step(counts, pseudo_count=0.0):
        means = counts.on_counts / (counts.on_counts + counts.off_counts)
        weights = counts.cluster_counts / counts.cluster_counts.sum()
        means = jnp.clip(means, 1e-6, 1 - 1e-6)
        return em.BernoulliMixture(cluster_weights=weights, cluster_means=means)

    plain = (log_joint_prob, log_likelihood, e_step, m_step)
    return {function.__name__: function for function in plain if function.__name__ in wanted(em)}


def wanted(em):
    """What to mark: e_step and m_step only where they are those of the exercise."""
    with_counts = all(hasattr(em, name) for name in ("ExpectedCounts", *OPTIONAL))
    return [name for name in checks.CHECKS if name not in OPTIONAL or with_counts]


def mark(path, name):
    """Check one function: "right", "not written" or "wrong: ..."."""
    em = import_notebook(path, skipped=[])
    if not hasattr(em, name):
        return f"not written ({HINT})"
    own = dict(vars(em))
    try:
        vars(em).update({k: f for k, f in correct_functions(em).items() if k != name})
        checks.CHECKS[name](em)
        if name == "em_step":
            vars(em).update(own)
            with contextlib.suppress(NotImplementedError):  # of another function
                checks.a_pixel_never_on_makes_no_nan(em)
    except NotImplementedError:
        return "not written"
    except AssertionError as error:
        return f"wrong: {error}"
    except NameError as error:
        return f"wrong: NameError: {error} ({HINT}: define it by a constant, or in the function)"
    except Exception as error:  # noqa: BLE001 (theirs, whatever it is)
        return f"wrong: {type(error).__name__}: {error}".splitlines()[0]
    return "right"


def mark_apart(path, name):
    """Mark one function in a process of its own."""
    try:
        command = [sys.executable, __file__, path, name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"wrong: not done after {SECONDS} seconds"
    lines = done.stdout.splitlines()
    return lines[-1] if lines else f"wrong: ended the process with status {done.returncode}"


def main(path):
    if not str(path).endswith(".ipynb") or not Path(path).is_file():
        sys.exit(f"'{path}' can't be marked: name one notebook, a file that ends in .ipynb")
    skipped = []
    try:
        em = import_notebook(path, skipped)
    except (ValueError, LookupError, TypeError):
        sys.exit(f"{path} can't be marked: it is no whole notebook (empty, or cut off?)")
    for reason in skipped:
        print(f"left out: {reason}; is a name missing? Run it from top to bottom")
    if not hasattr(em, "BernoulliMixture"):
        sys.exit(f"{path} can't be marked: it defines no BernoulliMixture")
    names, marks = wanted(em), []
    with ThreadPoolExecutor(2) as pool:
        for name, result in zip(names, pool.map(lambda name: mark_apart(path, name), names)):
            print(f"{name:20} {result}", flush=True)
            marks.append(result)
    print(f"{marks.count('right')} of {len(marks)} right")
    sys.exit(marks.count("right") < len(marks))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(mark(*sys.argv[1:]))
    else:
        main(sys.argv[1] if len(sys.argv) == 2 else "")
