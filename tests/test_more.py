"""Parts 2 to 4: starts, fit, the model at work, streams, devices and processes."""

import contextlib
import os
import re
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from subprocess import run

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import EVERY_IMAGE, agree, make_mixture
from jax.flatten_util import ravel_pytree
from nbimport import ROOT


@pytest.fixture(scope="module")
def images(mnist):
    return mnist[0][0][:3_000]


@pytest.fixture(scope="module")
def start(em, images):
    return em.init_from_images(jax.random.key(0), 5, images)


def test_image_starts_are_halfway_between_a_coin_and_an_image(em, images):
    params = em.init_from_images(jax.random.key(0), 300, images)
    chosen = {row.tobytes() for row in np.asarray(params.cluster_means) > 0.5}
    assert set(np.unique(params.cluster_means)) == {0.25, 0.75}
    assert len(chosen) == 300  # no image is chosen twice
    assert chosen <= {image.tobytes() for image in images.reshape(len(images), -1)}
    np.testing.assert_allclose(params.cluster_weights, 1 / 300)
    other = em.init_from_images(jax.random.key(1), 300, images)
    assert not np.array_equal(other.cluster_means, params.cluster_means)


@pytest.mark.parametrize("pseudo_count", [0.0, 2.0])
def test_fit_ends_for_each_of_its_reasons(em, images, start, pseudo_count):
    """The last value of a curve that the tolerance ended is that of the params."""
    found = em.fit(start, images, pseudo_count, tolerance=0.3)
    rises = np.diff(found.curve)
    assert found.converged and rises[-1] < 0.3 <= rises[:-1].min()
    path = [start]
    for _ in rises:
        path.append(em.em_step(path[-1], images, pseudo_count))
    chex.assert_trees_all_close(found.params, path[-1], rtol=1e-4, atol=1e-6)
    for params, value in zip(path, found.curve, strict=True):
        means = np.asarray(params.cluster_means, dtype=float)
        log_prior = pseudo_count * (np.log(means) + np.log1p(-means)).sum()
        agree("log_prior", log_prior, em.log_prior(params, pseudo_count))
        agree("curve", em.log_likelihood(params, images).mean() + log_prior / 3_000, value, 0, 1e-3)
    limited = em.fit(start, images, pseudo_count, max_steps=3)
    assert not limited.converged and len(limited.curve) == 3
    chex.assert_trees_all_close(limited.curve, found.curve[:3], rtol=1e-6)
    chex.assert_trees_all_close(limited.params, path[3], rtol=1e-4, atol=1e-6)
    by_default = np.diff(em.fit(start, images[:200], pseudo_count).curve)
    assert 0 <= by_default[-1] < 0.001 <= by_default[:-1].min()
    assert len(em.fit(start, images[:20], pseudo_count, tolerance=-1.0).curve) == 500
    nearly = start.replace(cluster_weights=jnp.array([0.2] * 4 + [0.2003]))  # in sum nearly 1
    assert em.fit(nearly, images[:200], pseudo_count, max_steps=4)


def test_fit_says_when_its_objective_falls_or_is_nan(em, images, start, monkeypatch):
    top = em.fit(start, images, tolerance=0.01).params
    counts, refused = em.e_step(top, images), pytest.raises(FloatingPointError)
    with pytest.raises(FloatingPointError, match="is nan.*no mixture"):
        em.fit(top.replace(cluster_means=top.cluster_means * jnp.nan), images)
    with pytest.raises(FloatingPointError, match="no mixture"):
        em.fit(top.replace(cluster_weights=top.cluster_weights * 1e30), images)
    # A fall of 5e-5 of the objective is one, a fall of 5e-6 may be rounding.
    for fall, error in ((5e-5, refused), (5e-6, contextlib.nullcontext())):
        totals = (counts.replace(log_likelihood=-1e6 * (1 + x)) for x in (0, fall, 0, 0))
        monkeypatch.setattr(em, "e_step", lambda *_, totals=totals: next(totals))
        with error:
            assert em.fit(top, images, tolerance=-1.0, max_steps=3)


def test_run_em_takes_one_step_at_each_temperature(em, images, start):
    temperatures, expected = np.array([3.0, 2.0, 1.0]), start
    found, curve = em.run_em(start, images, temperatures, 0.1)
    for temperature, value in zip(temperatures, curve, strict=True):
        agree("curve", em.log_likelihood(expected, images).mean(), value)
        expected = em.em_step(expected, images, 0.1, temperature)
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-6)
    stack = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), start)  # side by side, as alone
    both = jax.vmap(em.run_em, in_axes=(0, None, None))(stack, images, np.ones(2))
    second, alone = jax.tree.map(lambda leaf: leaf[1], both), em.run_em(start, images, np.ones(2))
    chex.assert_trees_all_close(second, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(8,), (2, 4)])
def test_the_marginal_and_the_completion_equal_brute_force(em, shape):
    params, images = make_mixture(em, 4, 8), EVERY_IMAGE
    observed = np.array([1, 0, 1, 1, 0, 0, 1, 0], dtype=bool)
    p, seen = np.exp(em.log_likelihood(params, images)), images[:, observed]
    marginal_p = np.exp(em.log_likelihood(em.marginal(params, observed.reshape(shape)), seen))
    completed = em.complete_images(params, images.reshape(-1, *shape), observed.reshape(shape))
    assert completed.shape == (256, *shape)
    for image, p_seen, row in zip(seen, marginal_p, completed.reshape(256, 8), strict=True):
        same = (seen == image).all(axis=1)
        assert p_seen == pytest.approx(p[same].sum(), rel=1e-4)
        expected = (p[same, None] * images[same]).sum(axis=0) / p[same].sum()
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-6)


def test_samples_follow_the_parameters(em):
    params, n = make_mixture(em, 4, 8), 40_000
    images, clusters = em.sample_images(jax.random.key(0), params, n)
    assert images.dtype == bool and images.shape == (n, 8)
    np.testing.assert_allclose(np.bincount(clusters) / n, params.cluster_weights, atol=0.012)
    means = np.stack([images[clusters == k].mean(axis=0) for k in range(4)])
    np.testing.assert_allclose(means, params.cluster_means, atol=0.04)
    # Eight equal clusters of fair coins: one key for both draws would tie them.
    fair = params.replace(cluster_weights=jnp.full(8, 1 / 8), cluster_means=jnp.full((8, 8), 0.5))
    images, clusters = em.sample_images(jax.random.key(0), fair, n)
    assert np.asarray(images)[np.arange(n), clusters].mean() == pytest.approx(0.5, abs=0.02)


@np.errstate(divide="ignore")
def test_a_class_s_prior_counts(em):
    params, images = make_mixture(em, 4, 8), EVERY_IMAGE
    other = params.replace(cluster_means=1 - params.cluster_means)
    for shares in ([0.9, 0.1], [0.908, 0.1], [1.0, 0.0]):  # nearly 1 in sum will do, 0 as well
        log_joint = em.class_log_joint([params, other], shares, images)
        columns = [em.log_likelihood(p, images) for p in (params, other)]
        np.testing.assert_allclose(log_joint, np.stack(columns, 1) + np.log(shares), rtol=1e-5)


def test_a_stream_equals_the_whole_and_online_em_blends_its_batches(em, images, start):
    batches, running, expected = [images[:500], images[500:2_000], images[2_000:2_100]], 0, start
    streamed = em.e_step_stream(start, iter(batches))
    agree("stream", em.e_step(start, images[:2_100]), streamed, atol=1e-3)
    found = em.online_em(start, batches, 5_000, pseudo_count=0.2)
    for batch, one, gamma in zip(batches, found, (1.0, 3**-0.6, 4**-0.6), strict=True):
        new, unravel = ravel_pytree(em.e_step(expected, batch))
        running = gamma * new * 5_000 / len(batch) + (1 - gamma) * running
        expected = em.m_step(unravel(running), 0.2)
        chex.assert_trees_all_close(one, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("n_devices", [4, 8])
def test_many_devices_equal_one(em, images, start, n_devices):
    mesh = jax.sharding.Mesh(jax.devices()[:n_devices], ("data",))
    sharded = em.shard_images(mesh, images[:2_400])
    assert len(sharded.sharding.device_set) == n_devices
    step, one, many = em.sharded_em_step(mesh, 0.3), start, start
    for _ in range(3):
        one, many = em.em_step(one, images[:2_400], 0.3), step(many, sharded)
    chex.assert_trees_all_close(jax.device_get(one), jax.device_get(many), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="pass 2392"):
        em.shard_images(mesh, images[:2_399] if n_devices == 8 else images[:2_395])
    # What is sent: the counts, and nothing else.
    program = step.lower(start, sharded).compile().as_text()
    sent = re.findall(r"= (\S+|\(.*?\)) all-reduce(?:-start)?\(", program)
    shapes = set(re.findall(r"f32\[([\d,]*)\]", " ".join(sent)))
    assert shapes <= {"", "5", "5,784"} and "5,784" in shapes
    assert not re.search(" (all-gather|all-to-all|collective-permute|reduce-scatter)", program)


@pytest.mark.parametrize("fails", [False, True])
def test_two_processes_equal_one_and_end_together(em, mnist, tmp_path, fails):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        coordinator = "--coordinator={}:{}".format(*server.getsockname())
    command = [sys.executable, "tests/many_machines.py", "--deadline=3", "--processes=2"]
    command += ["--clusters=8", "--steps=5", coordinator, f"--save={tmp_path}/mixture.npz"]
    how = {"cwd": ROOT, "env": os.environ | {"XLA_FLAGS": ""}, "capture_output": True}
    splits = ["train[:6000]", "no_such_split" if fails else "train[:6000]"]
    own = ([*command, f"--process={i}", f"--split={split}"] for i, split in enumerate(splits))
    with ThreadPoolExecutor(2) as pool:
        zero, one = pool.map(lambda line: run(line, timeout=120, check=False, **how), own)
    if fails:
        assert zero.returncode and one.returncode and splits[1] in str(one.stderr)
        return
    assert not zero.returncode and not one.returncode, (zero.stderr, one.stderr)
    assert b"6000 images on 2 devices" in zero.stdout
    expected = em.init_mixture_params(jax.random.key(0), 8, 784)
    for _ in range(5):
        expected = em.em_step(expected, mnist[0][0][:6_000])
    found = em.BernoulliMixture(**np.load(tmp_path / "mixture.npz"))
    chex.assert_trees_all_close(found, expected, rtol=1e-2, atol=1e-4)
