import os
from pathlib import Path

import pytest

# Before JAX starts: eight simulated devices, for the tests of many devices.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
from nbimport import import_notebook


@pytest.fixture(scope="session")
def root():
    """The repository."""
    return Path(__file__).parent.parent


@pytest.fixture(scope="session")
def em(root):
    """The notebook's functions."""
    return import_notebook(root / "bernoulli_em.ipynb")


@pytest.fixture(scope="session")
def mnist(em, root):
    """MNIST as the notebook reads it: ((images, labels) of train, of test)."""
    load = em.tfds.load
    return [
        em.tfds_to_numpy(load("mnist", split=split, data_dir=root / "data"))
        for split in ("train", "test")
    ]
