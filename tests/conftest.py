import os
import subprocess
import sys
from pathlib import Path

import pytest

# Before JAX starts: eight simulated devices, for the tests of many devices.
os.environ.update(XLA_FLAGS="--xla_force_host_platform_device_count=8", JAX_PLATFORMS="cpu")
from nbimport import ROOT, import_notebook


@pytest.fixture(scope="session", autouse=True)
def report_process(request, tmp_path_factory):
    """Starts `make report`, without a network, beside the first tests if a later one needs it."""
    needed = any("report" in item.fixturenames for item in request.session.items)
    folder, proxy = tmp_path_factory.mktemp("report"), "http://127.0.0.1:9"
    env = os.environ | {"http_proxy": proxy, "https_proxy": proxy, "XLA_FLAGS": ""}
    command = ["make", "report", f"REPORT={folder}", f"BIN={Path(sys.executable).parent}"]
    command += ["-o", ".venv/.made-from-the-lock"]  # this environment will do
    with subprocess.Popen(command if needed else "true", cwd=ROOT, env=env) as process:
        yield folder, process


@pytest.fixture(scope="session")
def report(report_process):
    """A folder with the report that `make report` writes, and the notebook as it executed it."""
    folder, process = report_process
    assert process.wait() == 0
    return folder


@pytest.fixture(scope="session")
def em():
    """The notebook's functions."""
    return import_notebook()


@pytest.fixture(scope="session")
def mnist(em):
    """MNIST as the notebook reads it: ((images, labels) of train, of test)."""
    splits = em.tfds.load("mnist", split=["train", "test"], data_dir=ROOT / "data")
    return [em.tfds_to_numpy(ds) for ds in splits]
