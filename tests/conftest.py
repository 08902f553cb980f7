"""Fixtures for all tests, and the option --notebook."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from nbimport import ROOT, code_cells, import_notebook

# Before JAX starts: the CPU, as eight simulated devices.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_TRACEBACK_FILTERING"] = "tracebackhide"  # which pytest reads


def pytest_addoption(parser):
    parser.addoption(
        "--notebook",
        default=ROOT / "bernoulli_em.ipynb",
        help="the notebook whose functions are tested (a student's, say)",
    )


def pytest_configure(config):
    """Refuse a --notebook that isn't one, in a single line."""
    try:
        code_cells(config.getoption("--notebook"))
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


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
def report(tmp_path_factory):
    """A folder with the report that `make report` writes, and the notebook it ran."""
    folder = tmp_path_factory.mktemp("report")
    command = [
        "make",
        "report",
        f"REPORT={folder}",
        f"BIN={Path(sys.executable).parent}",
        "--assume-old=.venv/.made-from-the-lock",  # this environment will do
    ]
    env = dict(os.environ)
    del env["XLA_FLAGS"]
    env["http_proxy"] = "http://127.0.0.1:9"  # leads nowhere: nothing may be fetched
    env["https_proxy"] = "http://127.0.0.1:9"
    subprocess.run(command, cwd=ROOT, env=env, check=True)
    return folder
