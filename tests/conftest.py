import os
import subprocess
import sys
from pathlib import Path

import pytest

# Before JAX starts: eight simulated devices, for the tests of many devices.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
from nbimport import import_notebook

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session", autouse=True)
def run(request, tmp_path_factory):
    """Starts `make report`, without a network, beside the first tests if a later one needs it."""
    if any("report" in item.fixturenames for item in request.session.items):
        folder = tmp_path_factory.mktemp("report")
        proxies = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
        env = os.environ | dict.fromkeys(proxies, "http://127.0.0.1:9") | {"XLA_FLAGS": ""}
        command = ["make", "report", f"REPORT={folder}", f"BIN={Path(sys.executable).parent}"]
        command += ["-o", ".venv/.made-from-the-lock"]  # this environment will do
        with subprocess.Popen(command, cwd=ROOT, env=env) as process:
            yield folder, process
    else:
        yield None, None


@pytest.fixture(scope="session")
def report(run):
    """A folder with the report that `make report` writes, and the notebook as it executed it."""
    folder, process = run
    assert process.wait() == 0
    return folder


@pytest.fixture(scope="session")
def root():
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def em():
    """The notebook's functions."""
    return import_notebook(ROOT / "bernoulli_em.ipynb")


@pytest.fixture(scope="session")
def mnist(em):
    """MNIST as the notebook reads it: ((images, labels) of train, of test)."""
    splits = em.tfds.load("mnist", split=["train", "test"], data_dir=ROOT / "data")
    return [em.tfds_to_numpy(ds) for ds in splits]
