"""A mixture at work: samples, a classifier, the bootstrap; and MNIST as it is read.

Completions are in test_holes_and_weights.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import textbook
from nbimport import ROOT
from textbook import (
    assert_agree,
    every_image,
    make_mixture,
    survey,
)

KEY = jax.random.PRNGKey(0)
NAN = np.nan


# --- Samples ---

N_SAMPLES = 40_000


@pytest.fixture(scope="module")
def samples(em, params):
    return em.sample_images(KEY, params, N_SAMPLES)


def test_samples_are_boolean_rows_and_numbers_of_clusters(samples):
    images, clusters = samples
    assert images.dtype == bool
    assert images.shape == (N_SAMPLES, 7)
    assert clusters.dtype == jnp.int32
    assert clusters.shape == (N_SAMPLES,)


def test_clusters_are_drawn_by_their_weights_and_pixels_by_their_means(params, samples):
    images, clusters = map(np.asarray, samples)
    shares = np.bincount(clusters) / N_SAMPLES
    np.testing.assert_allclose(shares, params.cluster_weights, atol=0.012)
    for k in range(3):
        rows = images[clusters == k]
        np.testing.assert_allclose(
            rows.mean(axis=0), params.cluster_means[k], atol=0.03
        )


def test_an_image_has_its_probability_as_its_share_of_the_samples(params, samples):
    images, _ = samples
    codes = np.asarray(images) @ (2 ** np.arange(7)[::-1])
    shares = np.bincount(codes, minlength=128) / N_SAMPLES
    p = np.exp(textbook.log_likelihood(params, every_image(7)))
    np.testing.assert_allclose(shares, p, atol=0.005)


def test_pixels_are_drawn_apart_from_the_cluster(em):
    """Seven equal clusters of fair coins: one key for both draws would tie them."""
    fair = em.as_mixture(np.full(7, 1 / 7), np.full((7, 7), 0.5))
    images, clusters = em.sample_images(jax.random.key(0), fair, N_SAMPLES)
    own = np.asarray(images)[np.arange(N_SAMPLES), clusters]
    assert own.mean() == pytest.approx(0.5, abs=0.02)


def test_a_cluster_of_weight_0_is_never_drawn(em, params):
    without = params.replace(cluster_weights=jnp.float32([0.0, 0.5, 0.5]))
    _, clusters = em.sample_images(KEY, without, N_SAMPLES)
    assert set(clusters.tolist()) == {1, 2}


# --- The classifier ---


def test_a_class_counts_with_its_share(em, params, data):
    """Shares may be rounded; mixtures may differ in their number of clusters."""
    other = make_mixture(em, 5, 7, seed=1)
    first = textbook.log_likelihood(params, data.on, data.seen) + np.log(0.908 / 1.008)
    second = textbook.log_likelihood(other, data.on, data.seen) + np.log(0.1 / 1.008)
    third = np.full(40, -np.inf)
    expected = np.stack([first, second, third], axis=1)
    found = em.class_log_joint([params, other, params], [0.908, 0.1, 0.0], data)
    assert_agree("log joint", expected, found)


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        pytest.param([1.0], "one weight for each class", id="too few"),
        pytest.param([0.6, 0.43], "sum to 1", id="more than 1"),
        pytest.param([0.6, 0.37], "sum to 1", id="less than 1"),
        pytest.param([1.5, -0.5], "0 or more", id="negative"),
    ],
)
def test_other_shares_of_classes_are_refused(em, params, data, shares, words):
    with pytest.raises(ValueError, match=words):
        em.class_log_joint([params, params], shares, data)


# --- The bootstrap ---


@pytest.fixture
def draws(em, data, params, monkeypatch):
    """How often bootstrap draws each row, (200, 40), of a table with these counters."""

    def draw_rows(weights=None, repeats=None, key=KEY):
        def only_drawn(params, data, drawn, *options):
            return jnp.asarray(drawn), jnp.ones(len(drawn), dtype=bool)

        monkeypatch.setattr(em, "refit", only_drawn)
        rows = em.BinaryData(on=data.on, weights=weights, repeats=repeats)
        return np.asarray(em.bootstrap(key, params, rows).params)

    return draw_rows


def test_as_many_rows_are_drawn_as_there_are(draws):
    times = draws()
    assert times.shape == (200, 40)
    assert (times.sum(axis=1) == 40).all()
    np.testing.assert_allclose(times.mean(axis=0), 1, atol=0.3)
    assert times.var(axis=0).mean() == pytest.approx(39 / 40, abs=0.1)


def test_as_many_rows_are_drawn_as_they_repeat(draws):
    repeats = np.float32([9] * 10 + [1] * 20 + [0] * 10)
    times = draws(repeats=repeats)
    assert (times.sum(axis=1) == 110).all()
    np.testing.assert_allclose(times.mean(axis=0), repeats, atol=1)


@pytest.mark.parametrize("scale", [1.0, 1.0001])
def test_weights_do_not_say_how_many_rows_are_drawn(draws, scale):
    """Not even whole ones; and a row of weight 0 is never drawn."""
    weights = scale * np.float32([9] * 10 + [1] * 20 + [0] * 10)
    times = draws(weights=weights)
    assert (times.sum(axis=1) == 30).all()
    assert not times[:, 30:].any()
    np.testing.assert_allclose(times[:, :30].mean(axis=0), 1, atol=0.3)


def test_the_key_says_what_is_drawn(draws):
    first = draws()
    assert (first == draws(key=jax.random.key(0))).all()
    assert (first != draws(key=jax.random.key(1))).any()


def test_a_replicate_is_a_fit_of_the_rows_as_often_as_they_were_drawn(em, params, data):
    """Each keeps its weight."""
    times = np.random.default_rng(0).integers(3, size=(10, 40)).astype(np.float32)
    found, converged = em.refit(params, data, times, 0.5, 1e-6, 5_000)
    assert converged.all()
    for i in range(10):
        drawn = data.replace(weights=data.weights * times[i])
        expected, _ = em.run_em(params, drawn, 2_000, 0.5)
        case = f"replicate {i}"
        assert_agree(case, expected.cluster_means, found.cluster_means[i], atol=0.02)


def test_the_errors_of_groups_that_overlap_are_as_large_as_runs_to_the_end_find(em):
    """Fits that end after 200 steps would find a third of that."""
    data = em.observe(*survey(2_000))
    start = em.init_from_images(KEY, 2, data)
    fitted, _ = em.run_em(start, data, 3_000)

    def error(**how):
        replicates = em.bootstrap(KEY, fitted, data, n_replicas=100, **how)
        return np.asarray(replicates.params.cluster_weights[:, 0]).std(ddof=1)

    assert error() == pytest.approx(error(tolerance=1e-8), rel=0.2)


def test_a_bootstrap_says_how_many_replicates_settled(em, params, data):
    with pytest.warns(UserWarning, match="12 of 12 replicates hadn't settled"):
        replicates = em.bootstrap(KEY, params, data, n_replicas=12, max_steps=3)
    assert replicates.converged.tolist() == [False] * 12
    assert replicates.params.cluster_weights.shape == (12, 3)


def test_the_tolerance_of_a_bootstrap_is_that_of_its_replicates(em, params, data):
    """With the default of a millionth none of them settles so soon."""
    options = {"n_replicas": 2, "max_steps": 40}
    rough = em.bootstrap(KEY, params, data, tolerance=1.0, **options)
    assert rough.converged.all()
    with pytest.warns(UserWarning, match="2 of 2 replicates hadn't settled"):
        em.bootstrap(KEY, params, data, tolerance=0.0, **options)


def test_a_bootstrap_smooths_its_replicates(em, params, data):
    """So many rows leave nothing but a half."""
    replicates = em.bootstrap(KEY, params, data, n_replicas=2, pseudo_count=1e6)
    np.testing.assert_allclose(replicates.params.cluster_means, 0.5, atol=1e-3)


def test_a_replicate_settles_after_as_many_tries_as_a_fit(em, params, data):
    """Those that were taken back are tries, and no values of its curve."""
    tried = []

    def e_step(params, rows):
        tried.append(params)
        return em.e_step(params, rows)

    found = em.fit(params, data, tolerance=1.0, e_step=e_step)
    n_steps = len(tried) - 1  # the first is the start itself
    assert n_steps > len(found.curve) - 1
    once = np.ones((1, 40), dtype=np.float32)
    _, in_time = em.refit(params, data, once, 0.0, 1.0, n_steps)
    _, too_soon = em.refit(params, data, once, 0.0, 1.0, n_steps - 1)
    assert in_time.all()
    assert not too_soon.any()


def test_what_a_replicate_has_not_seen_has_no_mean_in_it(em, params, data):
    """Pixel 0 nobody has seen, pixel 1 a row of weight 0 has, and pixel 2 one row."""
    seen = data.seen.copy()
    seen[:, :3] = False
    seen[data.weights == 0, 1] = True
    last = np.flatnonzero(data.weights)[-1]
    seen[last, 2] = True
    rows = data.replace(seen=seen)
    means = em.bootstrap(KEY, params, rows, n_replicas=20).params.cluster_means
    is_missing = np.isnan(means).all(axis=1)  # (20, 7)
    assert is_missing[:, :2].all()
    assert 0 < is_missing[:, 2].sum() < 20
    assert not np.isnan(means[:, :, 3:]).any()


def test_a_bootstrap_refuses_what_a_fit_refuses(em, params, data):
    with pytest.raises(ValueError, match="pseudo_count"):
        em.bootstrap(KEY, params, data, pseudo_count=NAN)
    with pytest.raises(TypeError, match="found.params"):
        em.bootstrap(KEY, em.Fit(params, [], converged=True), data)


# --- MNIST as it is read ---


def test_mnist_is_whole(mnist):
    (train_images, train_labels), (test_images, test_labels) = mnist
    n_each = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(train_labels).tolist() == n_each
    assert train_images.shape == (60_000, 28, 28)
    assert test_images.shape == (10_000, 28, 28)
    assert len(test_labels) == 10_000


@pytest.fixture(scope="module")
def some_mnist():
    """The first 500 test images as TFDS yields them."""
    import tensorflow_datasets as tfds  # takes seconds, and few tests need it

    return tfds.load("mnist", split="test[:500]", data_dir=ROOT / "data")


def test_a_pixel_is_on_at_half_of_the_full_brightness(em, some_mnist):
    rows = list(some_mnist.as_numpy_iterator())
    grey = np.stack([row["image"].squeeze(-1) for row in rows])
    assert {127, 128} < set(grey.flat)
    images, labels = em.tfds_to_numpy(some_mnist)
    assert images.dtype == bool
    np.testing.assert_array_equal(images, grey > 127)
    assert labels.dtype == np.int64
    assert labels.tolist() == [row["label"] for row in rows]
    black, _ = em.tfds_to_numpy(some_mnist, lambda share: share >= 1)
    np.testing.assert_array_equal(black, grey == 255)


def test_images_that_are_no_bytes_are_refused(em, some_mnist):
    floats = some_mnist.map(lambda row: row | {"image": row["image"] / 255})
    with pytest.raises(TypeError, match="unbatched"):
        em.tfds_to_numpy(floats)


def test_batches_are_refused(em, some_mnist):
    with pytest.raises(TypeError, match="unbatched"):
        em.tfds_to_numpy(some_mnist.batch(10))
