"""Holes and weights, against float64, every completion, and repeated rows."""

import itertools

import chex
import jax
import numpy as np
import pytest
import textbook
from textbook import (
    assert_agree,
    every_image,
    make_seen,
    make_table,
    make_weights,
)

KEY = jax.random.PRNGKey(0)


KINDS = [
    pytest.param({}, id="holes and weights"),
    pytest.param({"has_weights": False}, id="holes"),
    pytest.param({"has_holes": False}, id="weights"),
    pytest.param({"has_holes": False, "has_weights": False}, id="complete"),
]


def assert_close(found, expected):
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-5)


# --- Agreement with float64 ---


@pytest.mark.parametrize("has_holes", [True, False], ids=["holes", "complete"])
def test_log_joint_prob_agrees_with_float64(em, params, has_holes):
    data = make_table(em, has_holes)
    expected = textbook.log_joint(params, data.on, data.seen)
    assert_agree("log joint", expected, em.log_joint_prob(params, data))


@pytest.mark.parametrize("kind", KINDS)
def test_counts_agree_with_float64(em, params, kind):
    data = make_table(em, **kind)
    expected = textbook.expected_counts(params, data.on, data.seen, data.weights)
    assert_agree("counts", expected, em.e_step(params, data))


def test_log_likelihood_responsibilities_and_a_step_agree_with_float64(
    em, params, data
):
    """They are those of Part 1, which call what was written again."""
    expected = textbook.log_likelihood(params, data.on, data.seen)
    assert_agree("log p", expected, em.log_likelihood(params, data))
    expected = textbook.responsibilities(params, data.on, data.seen)
    assert_agree("shares", expected, em.responsibilities(params, data))
    expected = textbook.step(params, data.on, data.seen, data.weights)
    assert_agree("step", expected, em.em_step(params, data))


@pytest.mark.parametrize("temperature", [7.0, 0.5])
def test_counts_at_a_temperature_agree_with_float64(em, params, data, temperature):
    expected = textbook.expected_counts(
        params, data.on, data.seen, data.weights, temperature
    )
    assert_agree("counts", expected, em.e_step(params, data, temperature))


def test_a_negative_temperature_gives_no_number(em, params, data):
    counts = em.e_step(params, data, -1.0)
    assert np.isnan(counts.on_counts).all()


def test_temperatures_for_several_steps_are_refused(em, params, data):
    with pytest.raises(ValueError, match="shape"):
        em.e_step(params, data, np.ones(3))


def test_several_batches_and_a_remainder_agree_with_float64(em, params):
    """2,000 rows make a batch."""
    on = textbook.make_images(4_100, 1, 7).reshape(4_100, 7)
    weights = make_weights(4_100)
    data = em.BinaryData(on=on, seen=make_seen(on.shape), weights=weights)
    expected = textbook.expected_counts(params, on, data.seen, weights)
    assert_agree("counts", expected, em.e_step(params, data))
    expected = textbook.log_joint(params, on, data.seen)
    assert_agree("log joint", expected, em.log_joint_prob(params, data))


def test_a_temperature_near_0_leaves_each_row_to_its_best_cluster(em, params):
    """Dividing by so small a number could overflow."""
    images = make_table(em, has_holes=False, has_weights=False)
    counts = em.e_step(params, images, 1e-37)
    best = textbook.log_joint(params, images.on).argmax(axis=1)
    expected = np.bincount(best, minlength=3)
    assert_agree("images of each cluster", expected, counts.cluster_counts)


@pytest.mark.parametrize("name", ["e_step", "em_step", "mean_log_likelihood"])
def test_no_rows_are_refused(em, params, name):
    with pytest.raises(ValueError, match="no rows"):
        getattr(em, name)(params, np.zeros((0, 7), dtype=bool))


@pytest.mark.parametrize("n_pixels", [5_000, 50_000])
@pytest.mark.parametrize("share_on", [0.001, 0.5, 0.999])
def test_long_rows_agree_with_float64_however_common_ones_are(em, n_pixels, share_on):
    rng = np.random.default_rng(0)
    images = rng.random((20, n_pixels)) < share_on
    means = np.clip(rng.normal(share_on, 2e-4, (2, n_pixels)), 2e-4, 1 - 2e-4)
    mixture = em.as_mixture([0.4, 0.6], means)
    expected = textbook.log_likelihood(mixture, images)
    np.testing.assert_allclose(em.log_likelihood(mixture, images), expected, rtol=1e-5)


def test_mnist_with_holes_and_weights_agrees_with_float64(em, mnist):
    (train_images, _), _ = mnist
    on = train_images[:500].reshape(500, 784)
    weights = make_weights(500)
    data = em.BinaryData(on=on, seen=make_seen(on.shape), weights=weights)
    params = em.init_mixture_params(KEY, 15, 784)
    params = em.em_step(em.em_step(params, data), data)
    expected = textbook.log_likelihood(params, on, data.seen)
    error = np.abs(em.log_likelihood(params, data) - expected)
    assert error.mean() < 1e-4  # nats, of about 80
    mean = em.e_step(params, data).log_likelihood / weights.sum()
    assert mean == pytest.approx(np.average(expected, weights=weights), abs=1e-4)


# --- Holes ---


@pytest.fixture(scope="module")
def every_row_with_holes():
    """All rows of 0, 1 and NaN, and which images complete them: (rows, images)."""
    values = [0.0, 1.0, np.nan]
    table = np.array(list(itertools.product(values, repeat=7)))
    is_same = table[:, None, :] == every_image(7)
    is_hidden = np.isnan(table)[:, None, :]
    return table, (is_same | is_hidden).all(axis=2)


def test_the_marginal_of_a_row_is_the_sum_over_all_its_completions(
    em, params, every_row_with_holes
):
    table, is_completion = every_row_with_holes
    p = np.exp(textbook.log_likelihood(params, every_image(7)))
    found = np.exp(em.log_likelihood(params, em.observe(table)))
    np.testing.assert_allclose(found, is_completion @ p, rtol=1e-4)


def test_no_completion_is_more_than_1(em):
    """Float32 shares of clusters may sum to more."""
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(500))
    certain = em.as_mixture(weights, np.ones((500, 7)))
    hidden = em.BinaryData(on=np.ones((9, 7), bool), seen=np.zeros((9, 7), bool))
    assert em.complete_images(certain, hidden).max() <= 1


def test_a_completion_is_the_average_over_all_completions(
    em, params, every_row_with_holes
):
    table, is_completion = every_row_with_holes
    every = every_image(7)
    p = np.exp(textbook.log_likelihood(params, every))
    marginals = is_completion @ p
    expected = is_completion @ (p[:, None] * every) / marginals[:, None]
    found = em.complete_images(params, em.observe(table))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_complete_images_are_their_own_completion(em, params):
    images = make_table(em).on.reshape(40, 1, 7)
    completed = em.complete_images(params, images)
    np.testing.assert_array_equal(completed, images.reshape(40, 7))


def test_where_a_pixel_is_not_seen_it_does_not_matter_what_on_says(em, params, data):
    changed = data.replace(on=data.on ^ ~data.seen)
    for call in (em.log_joint_prob, em.e_step, em.complete_images):
        assert_close(call(params, changed), call(params, data))


def test_a_pixel_that_is_never_seen_gets_means_of_one_half(em, params, data):
    seen = data.seen.copy()
    seen[:, 0] = False
    means = em.em_step(params, data.replace(seen=seen)).cluster_means
    assert (means[:, 0] == 0.5).all()
    assert (means[:, 1:] != 0.5).all()


# --- Weights ---


@pytest.mark.parametrize(
    "learn",
    [
        pytest.param(lambda em, p, x: em.e_step(p, x), id="e_step"),
        pytest.param(lambda em, p, x: em.run_em(p, x, 3, 0.5), id="run_em"),
        pytest.param(lambda em, p, x: em.fit(p, x).params, id="fit"),
    ],
)
def test_integer_weights_equal_repeated_rows(em, params, data, learn):
    """A row of weight 0 is as absent. (40 rows make 40: no new shape to compile.)"""
    n_times = np.repeat([0, 1, 2, 3], [12, 18, 8, 2])
    n_times = np.random.default_rng(3).permutation(n_times)
    repeated = em.BinaryData(
        on=np.repeat(data.on, n_times, axis=0),
        seen=np.repeat(data.seen, n_times, axis=0),
    )
    n_times = n_times.astype(np.float32)
    weighted = data.replace(weights=n_times)
    with_repeats = data.replace(weights=None, repeats=n_times)
    expected = learn(em, params, repeated)
    assert_close(learn(em, params, weighted), expected)
    assert_close(learn(em, params, with_repeats), expected)


def test_a_row_counts_its_weight_times_its_repeats(em, params, data):
    repeats = np.resize(np.float32([1, 2, 3]), 40)
    both = data.replace(repeats=repeats)
    product = data.replace(weights=data.weights * repeats)
    assert_close(em.e_step(params, both), em.e_step(params, product))


def test_the_mean_log_likelihood_goes_by_the_weights(em, params, data):
    log_p = textbook.log_likelihood(params, data.on, data.seen)
    expected = np.average(log_p, weights=data.weights)
    assert em.mean_log_likelihood(params, data) == pytest.approx(expected, rel=1e-5)
    log_p = textbook.log_likelihood(params, data.on)
    mean = em.mean_log_likelihood(params, data.on)
    assert mean == pytest.approx(log_p.mean(), rel=1e-5)
    assert isinstance(mean, float)
