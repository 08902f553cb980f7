"""Part 1's functions: EM is exact, never falls, and refuses what it can't take. Read this first."""

import re

import checks
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import agree, make_cases, make_images, make_mixture, textbook
from nbimport import ROOT

ALL = [*checks.SMALL, (50, 3, 3, 1), *checks.LARGE]
KEY = jax.random.PRNGKey(0)


@pytest.mark.parametrize("name", [name for name in checks.CHECKS if name != "em_step"])
def test_what_the_exercise_asks(em, name):
    """Agreement with the textbook in float64, term by term, and sums to one."""
    sizes = () if name in ("init_mixture_params", "make_cluster_labels") else (ALL,)
    checks.CHECKS[name](em, *sizes)


@pytest.mark.parametrize("pseudo_count", [0.0, 0.5, 3.0])
def test_steps_are_the_textbook_s_and_the_objective_never_falls(em, pseudo_count):
    """The likelihood for pseudo-count 0, the log posterior otherwise."""
    checks.em_step(em, ALL, pseudo_count, atol=1e-6)


def test_agrees_with_float64_on_mnist(em, mnist):
    images = mnist[1][0][:1_000]
    params = em.init_mixture_params(KEY, 15, 784)
    low, high = params.cluster_means.min(), params.cluster_means.max()
    assert 0.25 <= low < 0.2501 and 0.7499 < high < 0.75
    params = em.em_step(em.em_step(params, images), images)
    expected = np.logaddexp.reduce(textbook(params, images)[0], axis=1)
    error = np.abs(em.log_likelihood(params, images) - expected)
    assert error.mean() < 1e-4 and error.max() < 1e-3  # nats, of about 160


@pytest.mark.parametrize("pseudo_count", [0.0, 0.5])
def test_an_empty_cluster_stays_empty_and_nothing_else_notices(em, pseudo_count):
    params, images = make_mixture(em, 6, 30), make_images(4_100, 5, 6)
    weights = params.cluster_weights.at[-1].set(0.0)
    params = params.replace(cluster_weights=weights / weights.sum())
    alone = jax.tree.map(lambda leaf: leaf[:-1], params)
    for _ in range(3):
        alone = em.em_step(alone, images, pseudo_count)
        params = em.em_step(params, images, pseudo_count)
    assert params.cluster_weights[-1] == 0 and np.all(params.cluster_means[-1] == 0.5)
    chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[:-1], params), alone, rtol=1e-5)
    assert np.isfinite(em.log_likelihood(params, images)).all()


def test_the_e_step_is_a_gradient_of_the_log_likelihood(em):
    """Of log weights, log means and log(1 - means) as if free; holes and weights come with it."""
    params, images = make_mixture(em, 3, 9), make_images(50, 3, 3).reshape(50, 9)
    hard = params.replace(cluster_means=params.cluster_means.at[:, 0].set(1.0).at[:, 1].set(0.0))
    weights, seen = np.arange(50) % 3, np.arange(9) < 5
    agree("no holes", em.e_step(hard, images), em.e_step_by_gradient(hard, images, ~images))
    weighted = em.e_step_by_gradient(hard, images, ~images, weights)
    agree("weights", em.e_step(hard, np.repeat(images, weights, axis=0)), weighted)
    counts = em.e_step_by_gradient(params, images & seen, ~images & seen)
    first = counts.replace(on_counts=counts.on_counts[:, :5], off_counts=counts.off_counts[:, :5])
    agree("holes", em.e_step(em.marginal(params, seen), images[:, seen]), first)
    assert not counts.on_counts[:, 5:].any() and not counts.off_counts[:, 5:].any()
    assert (em.m_step(counts).cluster_means[:, 5:] == 0.5).all()


def test_temperature_divides_the_log_joint(em):
    for case, params, images in make_cases(em, checks.SMALL[:-1]):
        _, counts, step = textbook(params, images, 0.2, 7.0)
        agree(case, counts, em.e_step(params, images.tolist(), 7.0))
        agree(case, step, em.em_step(params, images.reshape(len(images), -1), 0.2, 7.0))


def test_means_stay_inside_0_and_1(em):
    step = em.em_step(make_mixture(em, 20, 9), make_images(6, 3, 3))  # a pixel never on, one always
    bounds = np.float32([1e-6, 1 - 1e-6])
    np.testing.assert_array_equal([step.cluster_means.min(), step.cluster_means.max()], bounds)
    hard = em.BernoulliMixture(cluster_weights=jnp.full(2, 0.5), cluster_means=jnp.eye(2))
    log_p = em.log_likelihood(hard, np.array([[True, False], [True, True]]))
    np.testing.assert_allclose(log_p, [np.log(0.5), np.log(1e-6)], rtol=1e-3)
    agree("log_prior", 4 * (np.log(1e-6) + np.log1p(-1e-6)), em.log_prior(hard, 1.0), 1e-3)


def test_products_are_in_full_precision_and_by_batches(em):
    params, images = make_mixture(em, 2, 9), make_images(4_100, 3, 3)
    for program in (em.e_step, lambda p, x: em.e_step_by_gradient(p, x, ~x)):
        text = str(jax.make_jaxpr(program)(params, images))
        products = text.count("dot_general[")
        assert products >= 4 and text.count("Precision.HIGHEST") == 2 * products
    wide = em.init_mixture_params(KEY, 15, 784)
    sizes = {em.em_step: 60_100, em.log_likelihood: 60_000, em.log_joint_prob: 60_000}
    for function, n in sizes.items():
        rows = jax.ShapeDtypeStruct((n, 784), bool)
        memory = jax.jit(function).lower(wide, rows).compile().memory_analysis()
        assert memory.temp_size_in_bytes < 8e6, "what a step needs grows with the images"


# What an error says | calls that raise it, for p of 2 clusters and 9 pixels, and 4 images x.
REFUSED = r"""
TypeError: pass booleans | em_step(p, x * 1.0) | log_likelihood(p, [[0, 1, 0] * 3])
TypeError: .* missing values use e_step_by_gradient | e_step(p, np.where(x, np.nan, 1.0))
TypeError: pass booleans | init_from_images(key, 2, x * 1.0) | e_step_by_gradient(p, x, 1.0 - x)
ValueError: 4 images \(2, 1\): need 9 pixels | e_step(p, x[:, :2, :1])
ValueError: .* need 9 pixels | e_step(p, x[0].ravel())
ValueError: no images | log_joint_prob(p, x[:0]) | e_step(p, [])
ZeroDivisionError: .* zero | init_mixture_params(key, 0, 9)
ValueError: invalid entry | make_cluster_labels([3], [1], 3) | make_cluster_labels([0], [10], 3)
ValueError: .* broadcast | make_cluster_labels([0, 1, 1], [1, 2], 3)
ValueError: .* larger sample | init_from_images(key, 5, x)
ValueError: call fit\(params, images | fit(x, p)
ValueError: .*pseudo-count of 0 or more | fit(p, x, -0.1) | fit(p, x, np.nan) | fit(p, x, np.inf)
ValueError: .* must be 2 shares | class_log_joint([p, p], [1], x)
ValueError: .* sum to 1 | class_log_joint([p, p], [0.6, 0.413], x)
ValueError: .* sum to 1 | class_log_joint([p, p], [0.6, 0.387], x)
ValueError: .* sum to 1 | class_log_joint([p, p], [1.5, -0.5], x)
ValueError: .* transposed | complete_images(p, x.reshape(4, 1, 9), np.ones((9, 1), dtype=bool))
ValueError: .*boolean mask of 9 | marginal(p, np.ones(9)) | complete_images(p, x, x[0, 0])
TypeError: .* empty | e_step_stream(p, iter([]))
"""


@pytest.mark.parametrize("line", REFUSED.strip().splitlines())
def test_bad_input_raises_and_names_the_fix(em, line):
    says, *calls = line.split(" | ")
    p, x = em.init_mixture_params(KEY, 2, 9), np.ones((4, 3, 3), dtype=bool)
    for call in calls:
        with pytest.raises((TypeError, ValueError, ZeroDivisionError)) as raised:
            eval(call, vars(em) | {"key": KEY, "p": p, "x": x})
        assert re.match(says, f"{raised.typename}: {raised.value}")


def test_the_data_reader(em, mnist):
    (train_images, train_labels), (test_images, test_labels) = mnist
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    damaged = "data/ is damaged: delete it and TFDS downloads it again"
    assert np.bincount(train_labels).tolist() == counts and len(test_labels) == 10_000, damaged
    assert train_images.dtype == bool and train_images.shape == (60_000, 28, 28)
    ds = em.tfds.load("mnist", split="test[:500]", data_dir=ROOT / "data")
    grey = np.stack([row["image"].squeeze(-1) for row in em.tfds.as_numpy(ds)])
    assert {127, 128} <= set(grey.flat)
    np.testing.assert_array_equal(test_images[:500], grey > 127)
    full, _ = em.tfds_to_numpy(ds, lambda grey: grey >= 1)
    np.testing.assert_array_equal(full, grey == 255)
    scaled = ds.map(lambda row: row | {"image": row["image"] / 255})
    for other in (ds.batch(10), scaled):
        with pytest.raises(TypeError, match="unbatched"):
            em.tfds_to_numpy(other)
