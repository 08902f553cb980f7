"""Trees, and EM for a mixture of them, beside the same in float64, edge by edge."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from textbook import every_image, make_images

# A tree of six pixels, whose order isn't that of their numbers.
PARENTS = [3, 3, 0, 3, 1, 0]
ORDER = [3, 0, 1, 5, 2, 4]
IF_ON = [0.9, 0.2, 0.95, 0.4, 0.85, 0.1]
IF_OFF = [0.2, 0.9, 0.1, 0.4, 0.05, 0.7]


@pytest.fixture(scope="module")
def six_pixels(em):
    return em.Tree(
        parents=jnp.array(PARENTS),
        order=jnp.array(ORDER),
        if_on=jnp.array(IF_ON, dtype=jnp.float32),
        if_off=jnp.array(IF_OFF, dtype=jnp.float32),
    )


def log_p_of(parents, if_on, if_off, images):
    """log p(x_n) in float64, pixel by pixel: (n,)."""
    log_p = np.zeros(len(images))
    for pixel, parent in enumerate(parents):
        p_on = np.where(images[:, parent], if_on[pixel], if_off[pixel])
        p_seen = np.where(images[:, pixel], p_on, 1 - p_on)
        log_p += np.log(p_seen.astype(np.float64))
    return log_p


def log_p_of_tree(tree, images):
    """log p(x_n) in float64 under a tree of the notebook: (n,)."""
    parents = np.asarray(tree.parents)
    if_on = np.asarray(tree.if_on)
    if_off = np.asarray(tree.if_off)
    return log_p_of(parents, if_on, if_off, images)


def edges_of(parents):
    """The edges, without a direction; the root's to itself is none."""
    edges = {frozenset(edge) for edge in enumerate(np.asarray(parents).tolist())}
    return {edge for edge in edges if len(edge) == 2}


def coins(n_pixels, a):
    """4 a images of fair coins: all images that there are, and the weight of each."""
    images = every_image(n_pixels)
    weights = np.full(len(images), 4 * a / len(images))
    return images, weights


def all_trees(n_pixels):
    """The parents of each tree there is, with pixel 0 as the root (and its own parent)."""
    for others in itertools.product(range(n_pixels), repeat=n_pixels - 1):
        parents = [0, *others]
        ancestors = range(n_pixels)
        for _ in range(n_pixels):
            ancestors = [parents[pixel] for pixel in ancestors]
        if not any(ancestors):  # all lead to the root: there is no circle
            yield parents


def best_log_p_of(parents, images, weights):
    """The largest weighted log-likelihood of a tree with these parents, by counting."""
    if_on = np.zeros(len(parents))
    if_off = np.zeros(len(parents))
    for pixel, parent in enumerate(parents):
        parent_on = images[:, parent]
        parent_off = ~parent_on
        if parent == pixel:  # the root, which has no parent
            parent_on = parent_off = np.ones(len(images))
        if_on[pixel] = np.average(images[:, pixel], weights=weights * parent_on)
        if_off[pixel] = np.average(images[:, pixel], weights=weights * parent_off)
    return weights @ log_p_of(parents, if_on, if_off, images)


# A tree


def test_the_probabilities_of_all_images_sum_to_one(em, six_pixels):
    total = np.exp(em.tree_log_p(six_pixels, every_image(6))).sum()
    assert total == pytest.approx(1, abs=1e-5)


def test_a_tree_fitted_to_draws_of_a_tree_finds_its_edges(em, six_pixels):
    images = em.sample_tree(jax.random.PRNGKey(0), six_pixels, 10_000)
    found = em.fit_tree(np.ones(len(images)), images, 0.3)
    assert edges_of(found.parents) == edges_of(PARENTS)
    # Its probabilities, of which the standard errors are below 0.01:
    expected_p = np.exp(em.tree_log_p(six_pixels, every_image(6)))
    found_p = np.exp(em.tree_log_p(found, every_image(6)))
    np.testing.assert_allclose(found_p, expected_p, atol=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_no_tree_of_five_pixels_is_better_for_images_and_coins(em, seed):
    images = make_images(12, 1, 5, seed).reshape(12, 5)
    images[:, 4] = images[:, 3]
    shares = np.random.default_rng(seed).uniform(size=12)
    a = 0.5
    tree = em.fit_tree(shares, images, a)

    coin_images, coin_weights = coins(5, a)
    seen = np.concatenate([images, coin_images])
    weights = np.concatenate([shares, coin_weights])
    trees = list(all_trees(5))
    assert len(trees) == 125  # Cayley's formula
    expected = max(best_log_p_of(parents, seen, weights) for parents in trees)
    assert weights @ log_p_of_tree(tree, seen) == pytest.approx(expected, abs=1e-4)


def test_a_tree_without_images_tosses_fair_coins(em):
    images = make_images(12, 1, 5)
    tree = em.fit_tree(np.zeros(12), images, 0.3)
    np.testing.assert_allclose(tree.if_on, 0.5)
    np.testing.assert_allclose(tree.if_off, 0.5)


def test_no_pixel_is_certain(em):
    images = make_images(12, 1, 5)  # pixel 0 is never on, pixel 1 always
    tree = em.fit_tree(np.ones(12), images, 1e-9)
    assert np.isfinite(em.tree_log_p(tree, every_image(5))).all()


def test_fit_tree_needs_made_up_images(em):
    with pytest.raises(ValueError, match="above 0"):
        em.fit_tree(np.ones(12), make_images(12, 1, 5), 0)


# A mixture of trees


def test_a_trees_weight_is_its_average_share(em):
    shares = jnp.array([[0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    mixture = em.trees_m_step(shares, make_images(3, 1, 5), 0.3)
    np.testing.assert_allclose(mixture.tree_weights, [0.7, 0.3], rtol=1e-6)


def test_the_objective_is_that_of_images_and_coins_and_never_falls(em):
    images = make_images(60, 1, 6).reshape(60, 6)
    start = np.random.default_rng(0).dirichlet([1, 1], size=60)
    mixture, curve = em.fit_trees(jnp.asarray(start, jnp.float32), images, 0.3, 20)
    assert np.diff(curve).min() > -1e-5
    assert curve[-1] > curve[0] + 0.01  # it did rise

    coin_images, coin_weights = coins(6, 0.3)
    log_joint = np.zeros((60, 2))
    expected = 0
    for k, tree in enumerate(mixture.trees):
        log_weight = np.log(np.float64(mixture.tree_weights[k]))
        log_joint[:, k] = log_weight + log_p_of_tree(tree, images)
        expected += coin_weights @ log_p_of_tree(tree, coin_images)
    expected += np.logaddexp.reduce(log_joint, axis=1).sum()
    assert curve[-1] == pytest.approx(expected / 60, abs=1e-4)
