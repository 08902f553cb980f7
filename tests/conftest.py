from pathlib import Path

import pytest
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
