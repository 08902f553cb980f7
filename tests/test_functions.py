"""The notebook's functions against textbook versions, exact cases and bad input."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

SIZES = {
    "remainder first": (4_100, 30, 5),
    "one batch and one image": (2_001, 12, 4),
    "whole batches": (4_000, 12, 3),
    "one cluster": (50, 9, 1),
    "one image": (1, 9, 3),
    "more clusters than images": (6, 9, 20),
}


def make_images(n, n_pixels, seed=0):
    """Images in three groups, with duplicates, a pixel never on and one always on."""
    rng = np.random.default_rng(seed)
    probabilities = rng.uniform(size=(3, n_pixels))[rng.integers(3, size=n)]
    images = rng.uniform(size=(n, n_pixels)) < probabilities
    images[:, 0], images[:, 1] = False, True
    images[: n // 4] = images[0]
    return images


def make_case(em, size, seed=0):
    n, n_pixels, n_clusters = SIZES[size]
    params = em.init_mixture_params(jax.random.key(seed), n_clusters, n_pixels)
    return params, make_images(n, n_pixels, seed)


def textbook_em_step(params, images, pseudo_count=0.0):
    """EM in float64, term by term: (log joint, N, S, weights, means)."""
    weights = np.asarray(params.cluster_weights, dtype=np.float64)
    means = np.asarray(params.cluster_means, dtype=np.float64)
    log_joint = np.empty((len(images), len(weights)))
    for k in range(len(weights)):
        bernoulli = np.where(images, means[k], 1 - means[k])
        log_joint[:, k] = np.log(weights[k]) + np.log(bernoulli).sum(axis=1)
    joint = np.exp(log_joint)
    shares = joint / joint.sum(axis=1, keepdims=True)
    n_k = shares.sum(axis=0)
    s_kd = np.stack([(share[:, None] * images).sum(axis=0) for share in shares.T])
    new_means = (s_kd + pseudo_count) / (n_k + 2 * pseudo_count)[:, None]
    return log_joint, n_k, s_kd, n_k / len(images), np.clip(new_means, 1e-6, 1 - 1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("pseudo_count", [0.0, 0.5])
def test_agrees_with_the_textbook_in_float64(em, size, pseudo_count):
    params, images = make_case(em, size)
    log_joint, n_k, s_kd, weights, means = textbook_em_step(
        params, images, pseudo_count
    )

    np.testing.assert_allclose(em.log_joint_prob(params, images), log_joint, atol=1e-4)
    log_likelihood = np.log(np.exp(log_joint).sum(axis=1))
    np.testing.assert_allclose(
        em.log_likelihood(params, images), log_likelihood, atol=1e-4
    )
    counts = em.e_step(params, images)
    np.testing.assert_allclose(counts.cluster_counts, n_k, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(counts.pixel_counts, s_kd, rtol=1e-4, atol=1e-5)
    assert counts.log_likelihood == pytest.approx(log_likelihood.sum(), rel=1e-6)
    step = em.em_step(params, images, pseudo_count)
    np.testing.assert_allclose(step.cluster_weights, weights, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(step.cluster_means, means, rtol=1e-4, atol=2e-6)


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


def test_probabilities_of_all_images_sum_to_1(em):
    images = np.array(list(itertools.product([False, True], repeat=10)))
    params = em.init_mixture_params(jax.random.key(3), 7, 10)
    assert np.exp(em.log_likelihood(params, images)).sum() == pytest.approx(1, abs=1e-5)


def test_one_cluster_learns_the_pixel_means(em):
    params, images = make_case(em, "one cluster")
    step = em.em_step(params, images)
    expected = np.clip(images.mean(axis=0), 1e-6, 1 - 1e-6)
    np.testing.assert_allclose(step.cluster_means[0], expected, rtol=1e-5)


def test_a_planted_mixture_is_recovered(em):
    rng = np.random.default_rng(1)
    weights = np.array([0.2, 0.3, 0.5])
    means = rng.choice([0.1, 0.9], size=(3, 40))
    images = rng.uniform(size=(6_000, 40)) < means[rng.choice(3, size=6_000, p=weights)]
    params = em.init_mixture_params(jax.random.key(0), 3, 40)
    for _ in range(30):
        params = em.em_step(params, images)
    order = np.argsort(params.cluster_weights)
    np.testing.assert_allclose(params.cluster_weights[order], weights, atol=0.02)
    np.testing.assert_allclose(params.cluster_means[order], means, atol=0.05)


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
    shuffled = np.random.default_rng(0).permutation(images).reshape(-1, 5, 6)
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


def test_make_cluster_labels_counts(em):
    counts = em.make_cluster_labels([0, 2, 2, 2], [7, 1, 1, 9], 4)
    assert counts.shape == (4, 10) and counts.sum() == 4
    assert counts[0, 7] == 1 and counts[2, 1] == 2 and counts[2, 9] == 1


IMAGES = np.ones((4, 3, 3), dtype=bool)


@pytest.mark.parametrize(
    ("error", "says", "call"),
    [
        (TypeError, "pass images >= 0.5", lambda em, p: em.em_step(p, IMAGES * 1.0)),
        (TypeError, "uint8", lambda em, p: em.e_step(p, IMAGES.astype("uint8"))),
        (TypeError, "not list", lambda em, p: em.log_likelihood(p, IMAGES.tolist())),
        (ValueError, "2 pixels .* 9", lambda em, p: em.em_step(p, IMAGES[:, :2, :1])),
        (ValueError, "n of 1 or more", lambda em, p: em.log_joint_prob(p, IMAGES[:0])),
        (ValueError, "n of 1 or more", lambda em, p: em.e_step(p, IMAGES[0, 0])),
        (ValueError, "pseudo_count", lambda em, p: em.em_step(p, IMAGES, -0.1)),
        (ValueError, "pseudo_count", lambda em, p: em.em_step(p, IMAGES, np.nan)),
        (ValueError, "pseudo_count", lambda em, p: em.em_step(p, IMAGES, 1e39)),
        (TypeError, "BernoulliMixture", lambda em, p: em.em_step({}, IMAGES)),
        (
            ValueError,
            "must lie in .0, 1.",
            lambda em, p: em.check_mixture(
                p.replace(cluster_means=jnp.full((2, 9), 9))
            ),
        ),
        (
            ValueError,
            "must lie in .0, 1.",
            lambda em, p: em.check_mixture(p.replace(cluster_means=jnp.eye(2) / 0)),
        ),
        (
            ValueError,
            "sum to 1",
            lambda em, p: em.check_mixture(p.replace(cluster_weights=jnp.ones(2))),
        ),
        (
            ValueError,
            "jax.vmap for a stack",
            lambda em, p: em.e_step(jax.tree.map(lambda leaf: leaf[None], p), IMAGES),
        ),
        (
            TypeError,
            "assignments must be integers",
            lambda em, p: em.make_cluster_labels([0.0, 1.0], [1, 2], 3),
        ),
        (
            ValueError,
            "cluster_weights",
            lambda em, p: em.em_step(p.replace(cluster_weights=jnp.ones(1)), IMAGES),
        ),
        (
            ValueError,
            "at least one cluster",
            lambda em, p: em.init_mixture_params(jax.random.key(0), 0, 9),
        ),
        (
            ValueError,
            "assignments must lie",
            lambda em, p: em.make_cluster_labels([0, 3], [1, 2], 3),
        ),
        (
            ValueError,
            "labels must lie",
            lambda em, p: em.make_cluster_labels([0, 1], [-1, 2], 3),
        ),
        (
            ValueError,
            "one length",
            lambda em, p: em.make_cluster_labels([0, 1], [1], 3),
        ),
    ],
)
def test_bad_input_raises_and_names_the_fix(em, error, says, call):
    params = em.init_mixture_params(jax.random.key(0), 2, 9)
    with pytest.raises(error, match=says):
        call(em, params)


def test_temporary_memory_does_not_grow_with_the_images(em):
    params = em.init_mixture_params(jax.random.key(0), 15, 784)

    def temporary_bytes(n):
        images = jax.ShapeDtypeStruct((n, 28, 28), bool)
        compiled = em.em_step.lower(params, images).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    small, large = temporary_bytes(6_000), temporary_bytes(60_000)
    assert abs(large - small) < 1_000 and large < 64e6
