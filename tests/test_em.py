"""Part 1's functions: EM is exact, never falls, and refuses what it can't take. Read this first."""

import checks
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import agree, make_cases, make_images, make_mixture, textbook

ALL = [*checks.SMALL, (50, 3, 3, 1), *checks.LARGE]
IMAGES = np.ones((4, 3, 3), dtype=bool)


@pytest.mark.parametrize("name", checks.CHECKS)
def test_what_the_exercise_asks(em, name):
    """Agreement with the textbook in float64, term by term, and sums to one."""
    sizes = () if name in ("init_mixture_params", "make_cluster_labels") else (ALL,)
    checks.CHECKS[name](em, *sizes)


@pytest.mark.parametrize("pseudo_count", [0.0, 0.5, 3.0])
def test_the_objective_never_falls_and_steps_are_the_textbook_s(em, pseudo_count):
    """The likelihood for pseudo-count 0, the log posterior otherwise."""
    for case, params, images in make_cases(em, ALL):
        *_, weights, means = textbook(params, images, pseudo_count)
        step = em.em_step(params, images, pseudo_count)
        agree(case, weights, step.cluster_weights, 1e-4, 1e-6)
        agree(case, means, step.cluster_means, 1e-4, 2e-6)
        objective = []
        for _ in range(20):
            params = em.em_step(params, images, pseudo_count)
            means = np.asarray(params.cluster_means, dtype=np.float64)
            log_prior = pseudo_count * (np.log(means) + np.log1p(-means)).sum()
            agree(case, log_prior, em.log_prior(params, pseudo_count))
            objective.append(np.logaddexp.reduce(textbook(params, images)[0], axis=1).sum())
            objective[-1] += log_prior
        assert np.diff(objective).min() > -1e-5 * (len(images) + abs(objective[-1]))


def test_agrees_with_float64_on_mnist(em, mnist):
    images = mnist[1][0][:1_000]
    params = em.init_mixture_params(jax.random.key(0), 15, 784)
    assert (
        0.25 <= params.cluster_means.min() < 0.2501 and 0.7499 < params.cluster_means.max() < 0.75
    )
    params = em.em_step(em.em_step(params, images), images)
    expected = np.logaddexp.reduce(textbook(params, images)[0], axis=1)
    error = np.abs(em.log_likelihood(params, images) - expected)
    assert error.mean() < 1e-4 and error.max() < 1e-3  # nats, of about 160


@pytest.mark.parametrize("pseudo_count", [0.0, 0.5])
def test_an_empty_cluster_stays_empty_and_nothing_else_notices(em, pseudo_count):
    alone, images = make_mixture(em, 5, 30), make_images(4_100, 5, 6)
    params = em.BernoulliMixture(
        cluster_weights=jnp.append(alone.cluster_weights, 0.0),
        cluster_means=jnp.vstack([alone.cluster_means, jnp.full(30, 0.5)]),
    )
    for _ in range(3):
        alone = em.em_step(alone, images, pseudo_count)
        params = em.em_step(params, images, pseudo_count)
    assert params.cluster_weights[-1] == 0 and np.all(params.cluster_means[-1] == 0.5)
    chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[:-1], params), alone, rtol=1e-5)
    assert np.isfinite(em.log_likelihood(params, images)).all()


def test_the_e_step_is_a_gradient_of_the_log_likelihood(em):
    """Of log weights, log means and log(1 - means) as if free; holes and weights come with it."""
    params, images = make_mixture(em, 3, 9), make_images(50, 3, 3)
    params = params.replace(cluster_means=params.cluster_means.at[:, 0].set(1.0).at[:, 1].set(0.0))
    by_gradient = em.e_step_by_gradient(params, images, ~images)
    chex.assert_trees_all_close(by_gradient, em.e_step(params, images), rtol=1e-4, atol=1e-4)
    weights = np.arange(50) % 3
    repeated = em.e_step(params, np.repeat(images, weights, axis=0))
    weighted = em.e_step_by_gradient(params, images, ~images, weights)
    chex.assert_trees_all_close(weighted, repeated, rtol=1e-4, atol=1e-4)


def test_a_hidden_pixel_drops_out(em):
    params, images = make_mixture(em, 3, 9), make_images(50, 3, 3).reshape(50, 9)
    seen = np.arange(9) < 5
    counts = em.e_step_by_gradient(params, images & seen, ~images & seen)
    alone = em.e_step(em.marginal(params, seen), images[:, seen])
    first = counts.replace(on_counts=counts.on_counts[:, :5], off_counts=counts.off_counts[:, :5])
    chex.assert_trees_all_close(first, alone, rtol=1e-4, atol=1e-4)
    assert not counts.on_counts[:, 5:].any() and not counts.off_counts[:, 5:].any()
    assert (em.m_step(counts).cluster_means[:, 5:] == 0.5).all()


def test_temperature_divides_the_log_joint(em):
    params, images = make_mixture(em, 3, 9), make_images(50, 3, 3)
    r = jax.nn.softmax(em.log_joint_prob(params, images) / 7.0, axis=-1)
    counts = em.e_step(params, images, 7.0)
    agree("cluster_counts", r.sum(axis=0), counts.cluster_counts)
    agree("on_counts", r.T @ images.reshape(50, 9), counts.on_counts)
    agree("log_likelihood", em.e_step(params, images).log_likelihood, counts.log_likelihood)
    chex.assert_trees_all_close(em.em_step(params, images, 0.2, 7.0), em.m_step(counts, 0.2))


def test_means_stay_inside_0_and_1(em):
    images, params = make_images(6, 3, 3), make_mixture(em, 20, 9)
    for _ in range(100):
        params = em.em_step(params, images)
    bounds = np.float32([1e-6, 1 - 1e-6])
    np.testing.assert_array_equal([params.cluster_means.min(), params.cluster_means.max()], bounds)
    hard = em.BernoulliMixture(
        cluster_weights=jnp.array([0.5, 0.5]), cluster_means=jnp.array([[0.0, 1.0], [1.0, 0.0]])
    )
    log_p = em.log_likelihood(hard, np.array([[False, True], [True, True]]))
    np.testing.assert_allclose(log_p, [np.log(0.5), np.log(1e-6)], rtol=1e-3)
    log_prior = 2 * 2 * (np.log(1e-6) + np.log1p(-1e-6))
    assert em.log_prior(hard, 1.0) == pytest.approx(log_prior, rel=1e-3)


def test_any_form_of_boolean_images_will_do(em):
    params, images = make_mixture(em, 2, 9), make_images(4, 3, 3)
    for function in (em.log_likelihood, em.e_step):
        expected = function(params, images)
        chex.assert_trees_all_equal(function(params, images.tolist()), expected)
        chex.assert_trees_all_equal(function(params, images.reshape(4, 9)), expected)
    stack = jax.tree.map(lambda leaf: leaf[None], params)
    stacked = jax.vmap(em.em_step, in_axes=(0, None))(stack, images)
    one = em.em_step(params, images)
    chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[0], stacked), one, rtol=1e-5)


def test_products_are_in_full_precision_and_by_batches(em):
    params, images = make_mixture(em, 2, 9), make_images(4_100, 3, 3)
    for program in (em.e_step, lambda p, x: em.e_step_by_gradient(p, x, ~x)):
        text = str(jax.make_jaxpr(program)(params, images))
        products = text.count("dot_general[")
        assert products >= 4 and text.count("Precision.HIGHEST") == 2 * products
    wide = em.init_mixture_params(jax.random.key(0), 15, 784)
    sizes = {em.em_step: 60_100, em.log_likelihood: 60_000, em.log_joint_prob: 60_000}
    for function, n in sizes.items():
        rows = jax.ShapeDtypeStruct((n, 784), bool)
        memory = jax.jit(function).lower(wide, rows).compile().memory_analysis()
        assert memory.temp_size_in_bytes < 8e6, "what a step needs grows with the images"


REFUSED = [
    (TypeError, "pass booleans", lambda em, p: em.em_step(p, IMAGES * 1.0)),
    (TypeError, "missing values", lambda em, p: em.e_step(p, np.where(IMAGES, np.nan, 1.0))),
    (TypeError, "pass booleans", lambda em, p: em.log_likelihood(p, [[0, 1, 0] * 3])),
    (ValueError, "4 images .2, 1.: need 9 pixels", lambda em, p: em.e_step(p, IMAGES[:, :2, :1])),
    (ValueError, "no images", lambda em, p: em.log_joint_prob(p, IMAGES[:0])),
    (ValueError, "no images", lambda em, p: em.e_step(p, [])),
    (ValueError, "need 9 pixels", lambda em, p: em.e_step(p, IMAGES[0].ravel())),
    (ZeroDivisionError, "zero", lambda em, p: em.init_mixture_params(jax.random.key(0), 0, 9)),
    (ValueError, "invalid entry", lambda em, p: em.make_cluster_labels([0, 3], [1, 2], 3)),
    (ValueError, "invalid entry", lambda em, p: em.make_cluster_labels([0, 1], [10, 2], 3)),
    (ValueError, "broadcast", lambda em, p: em.make_cluster_labels([0, 1, 1], [1, 2], 3)),
]


@pytest.mark.parametrize(("error", "says", "call"), REFUSED)
def test_bad_input_raises_and_names_the_fix(em, error, says, call):
    with pytest.raises(error, match=says):
        call(em, em.init_mixture_params(jax.random.key(0), 2, 9))


def test_the_data_reader(em, mnist, root):
    (train_images, train_labels), (test_images, test_labels) = mnist
    damaged = "data/ is damaged: delete it and TFDS downloads it again"
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(train_labels).tolist() == counts and len(test_labels) == 10_000, damaged
    assert train_images.dtype == bool and train_images.shape == (60_000, 28, 28)
    ds = em.tfds.load("mnist", split="test[:500]", data_dir=root / "data")
    grey = np.stack([row["image"].squeeze(-1) for row in em.tfds.as_numpy(ds)])
    assert {127, 128} <= set(grey.flat)
    np.testing.assert_array_equal(test_images[:500], grey > 127)
    full, _ = em.tfds_to_numpy(ds, lambda grey: grey >= 1)
    np.testing.assert_array_equal(full, grey == 255)
    scaled = ds.map(lambda row: row | {"image": row["image"] / 255})
    for other in (ds.batch(10), scaled):
        with pytest.raises(TypeError, match="unbatched"):
            em.tfds_to_numpy(other)
