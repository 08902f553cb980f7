"""Part 4 of the notebook: a stream, many devices, many processes."""

import os
import re
import socket
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

PROGRAM = "tests/many_machines.py"


@pytest.fixture(scope="module")
def images(mnist):
    return mnist[0][0][:5_000]


@pytest.fixture(scope="module")
def params(em, images):
    return em.init_from_images(jax.random.key(0), 7, images)


def test_a_stream_equals_the_whole(em, mnist, params, root):
    ds = em.tfds.load("mnist", split="train[:5000]", data_dir=root / "data")
    batches = list(em.stream_images(ds, 999))
    assert [len(batch) for batch in batches] == [999] * 5 + [5]
    whole = em.e_step(params, np.concatenate(batches))
    chex.assert_trees_all_close(
        em.e_step_stream(params, iter(batches)), whole, rtol=1e-4, atol=1e-3
    )


def test_online_em_blends_the_counts_of_the_batches(em, images, params):
    batches = [images[:1_000], images[1_000:3_000], images[3_000:3_500]]
    found = list(em.online_em(params, batches, 5_000, pseudo_count=0.2))
    running, expected = None, params
    for t, batch in enumerate(batches):
        counts = em.e_step(expected, batch)
        leaves = [
            np.asarray(leaf, dtype=np.float64) * 5_000 / len(batch)
            for leaf in (counts.cluster_counts, counts.pixel_counts)
        ]
        gamma = 1 if t == 0 else (t + 2) ** -0.6
        running = running or leaves
        running = [(1 - gamma) * s + gamma * n for s, n in zip(running, leaves)]
        weights = running[0] / running[0].sum()
        means = (running[1] + 0.2) / (running[0][:, None] + 0.4)
        expected = em.BernoulliMixture(
            cluster_weights=jnp.asarray(weights, dtype=jnp.float32),
            cluster_means=jnp.asarray(np.clip(means, 1e-6, 1 - 1e-6), jnp.float32),
        )
        chex.assert_trees_all_close(found[t], expected, rtol=1e-3, atol=1e-5)


def test_an_empty_stream_says_so(em, params):
    with pytest.raises(ValueError, match="stream is empty"):
        em.e_step_stream(params, iter([]))


def test_online_em_refuses_a_bad_number_of_images(em, images, params):
    with pytest.raises(ValueError, match="n_images"):
        next(em.online_em(params, [images], 0))


def run(root, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=root,
        env=os.environ | {"PYTHONPATH": "tests", "JAX_PLATFORMS": "cpu"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


DEVICES = """
import sys
import chex, jax, numpy as np
from nbimport import import_notebook

em = import_notebook("bernoulli_em.ipynb")
n = int(sys.argv[1])
mesh = jax.make_mesh((n,), ("data",))
images = np.random.default_rng(0).uniform(size=(4_200 * n, 6, 6)) < 0.4
params = em.init_from_images(jax.random.key(0), 5, images)
step = em.sharded_em_step(mesh, pseudo_count=0.3)
sharded = em.shard_images(mesh, images)
assert len(sharded.sharding.device_set) == n
chex.assert_trees_all_close(step(params, images), step(params, sharded))  # it shards by itself
one, many = params, params
for _ in range(5):
    one, many = em.em_step(one, images, 0.3), step(many, sharded)
chex.assert_trees_all_close(one, many, rtol=1e-4, atol=1e-6)
for refuse in (lambda x: em.shard_images(mesh, x), lambda x: step(params, x)):
    try:
        refuse(images[:-1])
    except ValueError as error:
        assert f"such as the first {4_200 * n - n}" in str(error), error
    else:
        raise AssertionError("an uneven number of images was accepted")
print(step.lower(params, sharded).compile().as_text())
"""


@pytest.mark.parametrize("n_devices", [4, 8])
def test_many_devices_equal_one(root, n_devices):
    flags = f"--xla_force_host_platform_device_count={n_devices}"
    process = run(root, "-c", DEVICES, str(n_devices), XLA_FLAGS=flags)
    program, _ = process.communicate(timeout=120)
    assert process.returncode == 0, program
    # What is sent: the counts, (5,) and (5, 36), and nothing else.
    sent = re.findall(r"= (\S+|\(.*?\)) all-reduce(?:-start)?\(", program)
    shapes = re.findall(r"f32\[([\d,]*)\]", " ".join(sent))
    assert sorted(shapes) == ["5", "5,36"], sent
    for other in ("all-gather", "all-to-all", "collective-permute", "reduce-scatter"):
        assert f" {other}" not in program


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def launch(root, port, process, *arguments):
    where = ["--coordinator", f"127.0.0.1:{port}", "--processes", "2"]
    return run(root, PROGRAM, *where, "--process", str(process), *arguments)


def test_two_processes_equal_one(em, mnist, root, tmp_path):
    options = ["--split", "train[:6000]", "--clusters", "8", "--steps", "5"]
    options += ["--save", str(tmp_path / "mixture.npz")]
    port = free_port()
    processes = [launch(root, port, i, *options) for i in range(2)]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    assert "6000 images on 2 devices" in outputs[0]

    load = em.tfds.load
    ds = load("mnist", split="train[:6000]", data_dir=root / "data")
    images, _ = em.tfds_to_numpy(ds)
    expected = em.init_mixture_params(jax.random.key(0), 8, 784)
    for _ in range(5):
        expected = em.em_step(expected, images)
    found, facts = em.load_mixture(tmp_path / "mixture.npz")
    chex.assert_trees_all_close(found, expected, rtol=1e-2, atol=1e-4)
    assert facts == {"split": "train[:6000]", "steps": 5}


def test_a_failing_process_ends_the_others_with_its_message(root):
    port = free_port()
    good = launch(root, port, 0, "--split", "train[:6000]", "--deadline", "3")
    bad = launch(root, port, 1, "--split", "no_such_split", "--deadline", "3")
    try:
        message, _ = bad.communicate(timeout=120)
        output, _ = good.communicate(timeout=120)
    finally:
        for process in (good, bad):
            process.kill()
    assert bad.returncode != 0 and "no_such_split" in message
    assert good.returncode != 0, output
