"""The notebook's functions against textbook versions, exact cases and bad input."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import (
    CHECKS,
    LARGE,
    SMALL,
    a_pixel_never_on_makes_no_nan,
    agree,
    make_images,
    make_mixture,
    textbook,
)
from nbimport import import_notebook

SIZES = LARGE | {
    "one cluster": (50, 3, 3, 1),
    "one image": (1, 3, 3, 3),
    "more clusters than images": (6, 3, 3, 20),
}


def make_case(em, size, seed=0):
    n, h, w, n_clusters = SIZES[size]
    params = em.init_mixture_params(jax.random.key(seed), n_clusters, h * w)
    return params, make_images(n, h, w, seed)


@pytest.mark.parametrize("name", CHECKS)
def test_what_the_exercise_asks(em, name):
    if name in ("log_joint_prob", "log_likelihood", "e_step", "m_step", "em_step"):
        CHECKS[name](em, [*SMALL, *LARGE.values()])
    else:
        CHECKS[name](em)


def test_a_pixel_never_on_makes_no_nan(em):
    a_pixel_never_on_makes_no_nan(em)


@pytest.mark.parametrize("size", SIZES)
def test_a_pseudo_count_agrees_with_the_textbook(em, size):
    params, images = make_case(em, size)
    *_, weights, means = textbook(params, images, 0.5)
    step = em.em_step(params, images, 0.5)
    agree(size, weights, step.cluster_weights, 1e-4, 1e-6)
    agree(size, means, step.cluster_means, 1e-4, 2e-6)


def test_agrees_with_float64_on_mnist(em, mnist):
    images = mnist[1][0][:1_000]
    params = em.init_mixture_params(jax.random.key(0), 15, 784)
    params = em.em_step(em.em_step(params, images), images)
    means = np.asarray(params.cluster_means, dtype=np.float64)
    x = images.reshape(len(images), -1).astype(np.float64)
    joint = x @ np.log(means).T + (1 - x) @ np.log1p(-means).T
    joint += np.log(np.asarray(params.cluster_weights, dtype=np.float64))
    expected = np.logaddexp.reduce(joint, axis=1)
    error = np.abs(em.log_likelihood(params, images) - expected)
    assert error.mean() < 1e-4 and error.max() < 1e-3  # nats, of about 160


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("pseudo_count", [0.0, 0.3])
def test_the_objective_never_falls(em, size, seed, pseudo_count):
    """The likelihood for pseudo-count 0, the log posterior otherwise."""
    params, images = make_case(em, size, seed)
    objective = []
    for _ in range(40):
        params = em.em_step(params, images, pseudo_count)
        means = np.asarray(params.cluster_means, dtype=np.float64)
        log_prior = pseudo_count * (np.log(means) + np.log1p(-means)).sum()
        log_likelihood = np.asarray(em.log_likelihood(params, images), dtype=np.float64)
        objective.append(log_likelihood.sum() + log_prior)
    assert np.diff(objective).min() > -1e-5 * len(images) - 1e-5 * abs(objective[-1])


@pytest.mark.parametrize("pseudo_count", [0.0, 0.5])
def test_an_empty_cluster_stays_empty_and_nothing_else_notices(em, pseudo_count):
    alone, images = make_case(em, "remainder first")
    params = em.BernoulliMixture(
        cluster_weights=jnp.append(alone.cluster_weights, 0.0),
        cluster_means=jnp.vstack([alone.cluster_means, jnp.full(30, 0.5)]),
    )
    for _ in range(5):
        alone = em.em_step(alone, images, pseudo_count)
        params = em.em_step(params, images, pseudo_count)
    assert params.cluster_weights[-1] == 0 and np.all(params.cluster_means[-1] == 0.5)
    others = jax.tree.map(lambda leaf: leaf[:-1], params)
    chex.assert_trees_all_close(others, alone, rtol=1e-5)
    assert np.isfinite(em.log_likelihood(params, images)).all()


def test_500_steps_leave_everything_finite(em):
    params, images = make_case(em, "more clusters than images")
    for _ in range(500):
        params = em.em_step(params, images)
    chex.assert_tree_all_finite(params)
    assert params.cluster_means.min() >= 9e-7 and params.cluster_means.max() < 1
    assert np.isfinite(em.log_likelihood(params, ~images)).all()


def test_the_order_and_the_shape_of_the_images_do_not_matter(em):
    params, images = make_case(em, "remainder first")
    images = images.reshape(-1, 5, 6)
    shuffled = np.random.default_rng(0).permutation(images).reshape(-1, 30)
    chex.assert_trees_all_close(
        em.em_step(params, shuffled), em.em_step(params, images), rtol=1e-4, atol=2e-6
    )


def test_the_same_key_gives_the_same_bits(em):
    results = []
    for _ in range(2):
        params, images = make_case(em, "remainder first", seed=5)
        results.append(em.em_step(em.em_step(params, images), images))
    chex.assert_trees_all_equal(*results)
    other, _ = make_case(em, "remainder first", seed=6)
    assert not np.allclose(other.cluster_means, results[0].cluster_means)


def test_a_growing_pseudo_count_pulls_the_means_to_one_half(em):
    params, images = make_case(em, "remainder first")
    distances = [
        np.abs(em.em_step(params, images, a).cluster_means - 0.5).max()
        for a in (0.0, 10.0, 1e3, 1e7)
    ]
    assert distances == sorted(distances, reverse=True) and distances[-1] < 1e-3


def test_hand_made_means_of_0_and_1_stay_finite(em):
    params = em.BernoulliMixture(
        cluster_weights=jnp.array([0.5, 0.5]),
        cluster_means=jnp.array([[0.0, 1.0], [1.0, 0.0]]),
    )
    images = np.array([[False, True], [True, True]])
    log_p = em.log_likelihood(params, images)
    np.testing.assert_allclose(log_p, [np.log(0.5), np.log(1e-6)], rtol=0.01)


IMAGES = np.ones((4, 3, 3), dtype=bool)
REFUSED = [
    (TypeError, "pass boolean images", lambda em, p: em.em_step(p, IMAGES * 1.0)),
    (TypeError, "uint8", lambda em, p: em.e_step(p, IMAGES.astype("uint8"))),
    (TypeError, "pass boolean images", lambda em, p: em.em_step(p, [[0, 1, 0] * 3])),
    (ValueError, "the mixture's 9 pixels", lambda em, p: em.em_step(p, IMAGES[:, :2, :1])),
    (ValueError, "at least one image", lambda em, p: em.log_joint_prob(p, IMAGES[:0])),
    (ValueError, "at least one image", lambda em, p: em.e_step(p, IMAGES[0, 0])),
    (ValueError, "pseudo_count", lambda em, p: em.em_step(p, IMAGES, -0.1)),
    (ValueError, "pseudo_count", lambda em, p: em.em_step(p, IMAGES, np.nan)),
    (ValueError, "pseudo_count", lambda em, p: em.em_step(p, IMAGES, 1e39)),
    (
        ValueError,
        "lie in .0, 1.",
        lambda em, p: em.check_mixture(p.replace(cluster_means=jnp.full((2, 9), 9))),
    ),
    (
        ValueError,
        "lie in .0, 1.",
        lambda em, p: em.check_mixture(p.replace(cluster_means=jnp.full((2, 9), -0.1))),
    ),
    (
        ValueError,
        "lie in .0, 1.",
        lambda em, p: em.check_mixture(p.replace(cluster_means=jnp.eye(2) / 0)),
    ),
    (
        ValueError,
        "n_clusters, n_pixels",
        lambda em, p: em.check_mixture(p.replace(cluster_means=jnp.ones(2))),
    ),
    (
        ValueError,
        "sum to 1",
        lambda em, p: em.check_mixture(p.replace(cluster_weights=jnp.ones(2))),
    ),
    (
        ValueError,
        "0 or more",
        lambda em, p: em.check_mixture(p.replace(cluster_weights=jnp.array([2.0, -1.0]))),
    ),
    (
        ValueError,
        "2 numbers",
        lambda em, p: em.check_mixture(p.replace(cluster_weights=jnp.ones(1))),
    ),
    (
        ValueError,
        "a stack to jax.vmap",
        lambda em, p: em.e_step(jax.tree.map(lambda leaf: leaf[None], p), IMAGES),
    ),
    (
        ValueError,
        "a weight .* for each",
        lambda em, p: em.em_step(p.replace(cluster_weights=jnp.ones(1)), IMAGES),
    ),
    (ZeroDivisionError, "zero", lambda em, p: em.init_mixture_params(jax.random.key(0), 0, 9)),
    (TypeError, "int", lambda em, p: em.make_cluster_labels([0.0, 1.0], [1, 2], 3)),
    (ValueError, "assignments must lie", lambda em, p: em.make_cluster_labels([0, 3], [1, 2], 3)),
    (ValueError, "labels must lie", lambda em, p: em.make_cluster_labels([0, 1], [-1, 2], 3)),
    (ValueError, "labels must lie", lambda em, p: em.make_cluster_labels([0, 1], [10, 2], 3)),
    (ValueError, "different shapes", lambda em, p: em.make_cluster_labels([0, 1], [1], 3)),
]


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_bad_input_raises_and_names_the_fix(em, case):
    error, says, call = REFUSED[case]
    params = em.init_mixture_params(jax.random.key(0), 2, 9)
    with pytest.raises(error, match=says):
        call(em, params)


def test_lists_are_images_too(em):
    params, images = make_mixture(em, 2, 9), make_images(4, 3, 3)
    for function in (em.log_joint_prob, em.log_likelihood, em.e_step, em.em_step):
        chex.assert_trees_all_equal(function(params, images.tolist()), function(params, images))


def test_parameters_outlive_their_class_s_cell(em, root):
    params, images = make_mixture(em, 2, 9), make_images(4, 3, 3)
    again = import_notebook(root / "bernoulli_em.ipynb")
    expected = em.em_step(params, images)
    for step in (again.em_step(params, images), again.fit(params, images, max_steps=1).params):
        chex.assert_trees_all_close(dict(step), dict(expected))
    stack = jax.tree.map(lambda leaf: leaf[None], params)
    found, _ = again.run_restarts(stack, images, 1)
    np.testing.assert_allclose(found.cluster_means[0], expected.cluster_means, rtol=1e-5)


def test_products_are_in_full_precision(em):
    params, images = make_mixture(em, 2, 9), make_images(4_100, 3, 3)
    program = str(jax.make_jaxpr(em.e_step)(params, images))
    products = program.count("dot_general[")
    assert products >= 4 and program.count("Precision.HIGHEST") == 2 * products


def test_temporary_memory_does_not_grow_with_the_images(em):
    params = em.init_mixture_params(jax.random.key(0), 15, 784)

    def temporary_bytes(n):
        images = jax.ShapeDtypeStruct((n, 28, 28), bool)
        compiled = jax.jit(em.em_step).lower(params, images).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    small, large = temporary_bytes(6_000), temporary_bytes(60_000)
    assert abs(large - small) < 1_000 and large < 64e6
