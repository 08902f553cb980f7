"""Fixtures for all tests, the option --notebook, and the run of the notebook.

What looks at the report needs `make report`, which takes minutes where the report isn't up
to date. So it starts before the first test, and the tests that need it come last.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from nbimport import ROOT, code_cells, import_notebook

# Before JAX starts: the CPU, as three simulated devices.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=3"
os.environ["JAX_TRACEBACK_FILTERING"] = "tracebackhide"  # which pytest reads

TIME_LIMIT = 900  # seconds for a test; the first that needs the report waits for it


def pytest_addoption(parser):
    parser.addoption(
        "--notebook",
        default=ROOT / "bernoulli_em.ipynb",
        help="the notebook whose functions are tested (a student's, say)",
    )


def pytest_configure(config):
    """Refuse a --notebook that isn't one, in a single line; limit the time of a test."""
    try:
        code_cells(config.getoption("--notebook"))
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    if config.option.timeout is None:
        config.option.timeout = TIME_LIMIT


# Fixtures


@pytest.fixture(scope="session")
def em(request):
    """The notebook's functions."""
    return import_notebook(request.config.getoption("--notebook"))


@pytest.fixture(scope="session")
def mnist(em):
    """MNIST as the notebook reads it: (images, labels) to train on, and to test on."""
    import tensorflow_datasets as tfds  # takes seconds, and few tests need it

    splits = tfds.load("mnist", split=["train", "test"], data_dir=ROOT / "data")
    return [em.tfds_to_numpy(split) for split in splits]


@pytest.fixture(scope="session")
def params(em):
    """The mixture that most tests ask: 3 clusters of 7 pixels."""
    import textbook  # it starts JAX, which wants its settings from above

    return textbook.make_mixture(em, 3, 7)


@pytest.fixture(scope="session")
def data(em):
    """40 rows with holes and weights; some are 0, and of the first row nothing is seen."""
    import textbook

    return textbook.make_table(em)


@pytest.fixture(scope="session")
def browser():
    """Chromium, without a window. Where there is none, tests are skipped, or fail in CI."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None and os.environ.get("CI") == "true":
        pytest.fail("no browser here: install chromium", pytrace=False)
    if path is None:
        pytest.skip("no browser here")
    from playwright.sync_api import sync_playwright  # few tests need it

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"]
        )
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def report(request):
    """The folder of `make report`: the report, and the notebook as it was run."""
    stash = request.config.stash
    stash[SAID], _ = stash[MAKING].communicate()  # waits for its end
    if stash[MAKING].returncode != 0:
        pytest.fail("make report failed: its last lines are below", pytrace=False)
    return ROOT / "report"


# The run of the notebook

MAKING = pytest.StashKey[subprocess.Popen]()  # `make report`, in the background
SAID = pytest.StashKey[str]()


def needs_report(test):
    return "report" in test.fixturenames


def pytest_collection_modifyitems(items):
    items.sort(key=needs_report)  # which leaves the order as it is otherwise


def pytest_collection_finish(session):
    is_needed = any(needs_report(test) for test in session.items)
    if is_needed and not session.config.option.collectonly:
        session.config.stash[MAKING] = make_report()


def make_report():
    """The process that makes the report, with nothing that it could fetch."""
    command = [
        "make",
        "report",
        f"BIN={Path(sys.executable).parent}",
        "--assume-old=.venv/.made-from-the-lock",  # this environment will do
    ]
    nowhere = "http://127.0.0.1:9"
    env = os.environ | {"http_proxy": nowhere, "https_proxy": nowhere}
    for name in ("XLA_FLAGS", "MAKEFLAGS", "MAKELEVEL"):
        env.pop(name, None)
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a group of processes, which can be stopped as one
    )


# The end


def pytest_terminal_summary(terminalreporter, config):
    """Say once why the report failed."""
    if SAID in config.stash and config.stash[MAKING].returncode != 0:
        terminalreporter.section("make report")
        for line in config.stash[SAID].splitlines()[-25:]:
            terminalreporter.write_line(line)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session):
    """Stop a run that nobody waited for; say last what had no browser, what to fix."""
    making = session.config.stash.get(MAKING, None)
    if making and making.poll() is None:
        os.killpg(making.pid, signal.SIGTERM)
        making.communicate()
    result = yield  # here pytest prints its summary
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = terminal.stats.get("skipped", [])
    n_without_browser = sum("no browser" in str(test.longrepr) for test in skipped)
    if n_without_browser:
        terminal.write_line(
            f"No browser here: {n_without_browser} tests in a browser were skipped. "
            "They need Chromium (on Debian: apt install chromium)."
        )
    failed = [test.nodeid for test in terminal.stats.get("failed", [])]
    marks = [function_asked_by(name) for name in failed if "test_em.py::" in name]
    if marks:
        terminal.write_line(what_to_fix(marks))
    return result


def function_asked_by(test):
    """The function of Part 1 that a test of test_em.py asks, which its name tells."""
    from exercise import FUNCTIONS  # it needs nbformat, which only this needs

    _, _, name = test.partition("::test_")
    for function in FUNCTIONS:
        if name.startswith(f"{function}_"):
            return function
    return "em_step"  # the likelihood may fall though each function seems right


def what_to_fix(functions):
    """Where to begin, with functions that failed in the order of the notebook."""
    others = "; the later failures may follow from it" if len(functions) > 1 else ""
    return f"Fix {functions[0]} first{others}."
