"""The data, the committed notebook, the report, the README and the environment."""

import copy
import os
import re
import subprocess
import sys

import nbformat
import numpy as np
import pytest
import yaml
from nbclient import NotebookClient
from nbconvert.preprocessors import CoalesceStreamsPreprocessor

NUMBER = re.compile(r"-?\d+(?:\.(\d+))?")
# Numbers that the prose quotes from a source it names.
SOURCED = {"15.76", "6.33"}


@pytest.fixture(scope="module")
def notebook(root):
    """The notebook as committed."""
    return nbformat.read(root / "bernoulli_em.ipynb", as_version=4)


def outputs_as_text(cell):
    """What a cell shows, without its pictures: their alternative texts instead."""
    lines = []
    for output in cell.outputs:
        picture = output.get("metadata", {}).get("image/png", {})
        lines.append(output.get("text") or picture.get("alt") or str(output.data))
    return "\n".join(lines)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def all_outputs(notebook):
    return "\n".join(map(outputs_as_text, code_cells(notebook)))


def differences(old, new):
    """The numbers in which two texts differ by over 1 % and over one last digit."""
    if NUMBER.sub("#", old) != NUMBER.sub("#", new):
        return [(old, new)]
    return [
        (a[0], b[0])
        for a, b in zip(NUMBER.finditer(old), NUMBER.finditer(new), strict=True)
        if abs(float(a[0]) - float(b[0]))
        > max(0.01 * abs(float(a[0])), 1.01 * 10 ** -len(a[1] or ""))
    ]


def test_the_data_are_mnist(mnist, em, root):
    (_, train_labels), (_, test_labels) = mnist
    damaged = "data/ is damaged: delete it and TFDS downloads it again"
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(train_labels).tolist() == counts, damaged
    assert len(test_labels) == 10_000, damaged
    ds = em.tfds.load("mnist", split="train", data_dir=root / "data", batch_size=-1)
    grey = em.tfds.as_numpy(ds)["image"] / np.float32(255)
    assert grey.mean(dtype=float) == pytest.approx(0.13066, abs=1e-5), damaged
    assert grey.std(dtype=float) == pytest.approx(0.30811, abs=1e-5), damaged
    assert mnist[0][0].mean() == pytest.approx(0.13226, abs=1e-5), damaged
    assert mnist[0][0].dtype == bool and mnist[0][0].shape == (60_000, 28, 28)


def test_the_data_reader_refuses_what_it_would_misread(em, root):
    options = {"split": "test", "data_dir": root / "data"}
    load = em.tfds.load
    with pytest.raises(TypeError, match="as_supervised=False"):
        em.tfds_to_numpy(load("mnist", as_supervised=True, **options))
    ds = load("mnist", **options)
    scaled = ds.map(lambda row: row | {"image": row["image"] / 255})
    for other in (ds.batch(10), scaled):
        with pytest.raises(TypeError, match="unbatched and unscaled"):
            em.tfds_to_numpy(other)
        with pytest.raises(TypeError, match="unbatched and unscaled"):
            next(em.stream_images(other))


def test_the_committed_outputs_are_what_the_code_prints(notebook, root, monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    fresh = copy.deepcopy(notebook)
    resources = {"metadata": {"path": str(root)}}
    NotebookClient(fresh, timeout=600, resources=resources).execute()
    coalesce = CoalesceStreamsPreprocessor(enabled=True)
    fresh, _ = coalesce.preprocess(fresh, {})
    for old, new in zip(code_cells(notebook), code_cells(fresh), strict=True):
        assert all(output.get("name") != "stderr" for output in new.outputs), new.id
        kinds = [[output.output_type for output in cell.outputs] for cell in (old, new)]
        assert kinds[0] == kinds[1], f"stale outputs in cell {old.id}: make execute"
        if "timing" not in old.metadata.get("tags", []):
            assert not differences(outputs_as_text(old), outputs_as_text(new)), old.id


def test_figures_have_alternative_texts(notebook):
    pictures = [
        output
        for cell in code_cells(notebook)
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) >= 12
    assert all(picture.metadata["image/png"]["alt"] for picture in pictures)


def test_the_report_needs_no_network(root, tmp_path):
    subprocess.run(
        [sys.executable, "-m", "jupyter", "nbconvert", "--to", "html"]
        + ["--config", "nbconvert_config.py", "--output-dir", tmp_path]
        + ["bernoulli_em.ipynb"],
        cwd=root,
        check=True,
    )
    report = (tmp_path / "bernoulli_em.html").read_text(encoding="utf-8")
    assert not re.search(r"<(script|img|link|iframe)[^>]*(src|href)=.https?:", report)
    assert report.count("<math") > 20
    assert "$$" not in re.sub(r"(?s)<script.*?</script>", "", report)
    assert "No description has been provided" not in report


def test_quoted_numbers_are_the_committed_run_s(notebook, root):
    """Every decimal number in the notebook's prose and the README's results table."""
    readme = (root / "README.md").read_text(encoding="utf-8")
    results = re.search(r"(?s)## Results\n(.*?)\n## ", readme)[1]
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    # Equations and code are no measurements.
    text = re.sub(r"(?s)\$\$.*?\$\$|\$.*?\$|`.*?`", "", "\n".join([*prose, results]))
    quoted = re.findall(r"-?\d+\.\d+", text.replace("−", "-"))
    printed = NUMBER.finditer(all_outputs(notebook).replace("%", " "))
    assert len(quoted) >= 8
    assert set(quoted) <= SOURCED | {match[0] for match in printed}


def test_the_readme_example_runs(root):
    readme = (root / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"(?s)```python\n(.*?)```", readme)
    done = subprocess.run(
        [sys.executable, "-c", example],
        cwd=root,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "nats" in done.stdout and done.stderr == ""


def test_the_lock_is_made_from_the_environment(root):
    environment = yaml.safe_load((root / "environment.yml").read_text(encoding="utf-8"))
    *_, pip = environment["dependencies"]
    constraint, *wanted = pip["pip"]
    assert constraint == "-c requirements.txt"
    lock = (root / "requirements.txt").read_text(encoding="utf-8")
    entries = re.findall(r"(?m)^(\S+)==.*\n((?:    #.*\n)*)", lock)
    direct = {name for name, via in entries if "-r .venv/environment.in" in via}
    names = [name.split()[0].replace("_", "-") for name in wanted]
    assert sorted(names) == sorted(direct)
