"""EM in float64, term by term, in NumPy; and the data that several tests share.

Images are boolean, (n, h, w) or (n, n_pixels). Where `seen` is given, a pixel counts
only where it is seen. Where `weights` are given, each image counts that often.
"""

import itertools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

MIN_MEAN = 1e-6


class Mixture(NamedTuple):
    """Parameters of a mixture of Bernoullis."""

    cluster_weights: np.ndarray  # (n_clusters,)
    cluster_means: np.ndarray  # (n_clusters, n_pixels)


class Counts(NamedTuple):
    """The expected counts of the E-step."""

    cluster_counts: np.ndarray  # (n_clusters,)
    on_counts: np.ndarray  # (n_clusters, n_pixels)
    off_counts: np.ndarray  # (n_clusters, n_pixels)
    log_likelihood: float


def log_joint(params, on, seen=None):
    """log p(x, z = k) of what is seen: (n, n_clusters)."""
    is_on, is_off = seen_pixels(on, seen)
    weights = np.asarray(params.cluster_weights, dtype=np.float64)
    means = np.asarray(params.cluster_means, dtype=np.float64)
    with np.errstate(divide="ignore"):  # log 0 is -inf
        log_weights = np.log(weights)
        log_on = np.log(means)
        log_off = np.log1p(-means)
    # A term for each image, cluster and pixel.
    terms_on = np.where(is_on[:, None, :], log_on, 0)
    terms_off = np.where(is_off[:, None, :], log_off, 0)
    return log_weights + terms_on.sum(axis=2) + terms_off.sum(axis=2)


def log_likelihood(params, on, seen=None):
    """log p(x) of what is seen: (n,)."""
    return np.logaddexp.reduce(log_joint(params, on, seen), axis=1)


def responsibilities(params, on, seen=None, temperature=1.0):
    """p(z = k | x), or what a temperature makes of it: (n, n_clusters)."""
    scaled = log_joint(params, on, seen) / temperature
    return np.exp(scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True))


def expected_counts(params, on, seen=None, weights=None, temperature=1.0):
    """The E-step: shares of the images, added up."""
    is_on, is_off = seen_pixels(on, seen)
    if weights is None:
        weights = np.ones(len(is_on))
    weights = np.asarray(weights, dtype=np.float64)
    shares = responsibilities(params, on, seen, temperature) * weights[:, None]
    return Counts(
        cluster_counts=shares.sum(axis=0),
        on_counts=shares.T @ is_on,
        off_counts=shares.T @ is_off,
        log_likelihood=np.sum(weights * log_likelihood(params, on, seen)),
    )


def maximise(counts, pseudo_count=0.0):
    """The M-step: the parameters that the counts make most likely."""
    cluster_counts = np.asarray(counts.cluster_counts, dtype=np.float64)
    on = np.asarray(counts.on_counts, dtype=np.float64) + pseudo_count
    off = np.asarray(counts.off_counts, dtype=np.float64) + pseudo_count
    share_on = np.full(on.shape, 0.5)  # stays where nothing was counted
    np.divide(on, on + off, out=share_on, where=on + off > 0)
    return Mixture(
        cluster_weights=cluster_counts / cluster_counts.sum(),
        cluster_means=np.clip(share_on, MIN_MEAN, 1 - MIN_MEAN),
    )


def step(params, on, seen=None, weights=None, pseudo_count=0.0):
    """The parameters after one step of EM."""
    return maximise(expected_counts(params, on, seen, weights), pseudo_count)


def log_prior(params, pseudo_count):
    """The log density of the means under Beta(1 + a, 1 + a), but for a constant."""
    means = np.asarray(params.cluster_means, dtype=np.float64)
    return pseudo_count * np.sum(np.log(means) + np.log1p(-means))


def seen_pixels(on, seen=None):
    """Which pixels are seen to be on, and which off, in rows; all, if seen is None."""
    is_on = to_rows(on)
    is_seen = np.ones_like(is_on) if seen is None else to_rows(seen)
    return is_on & is_seen, ~is_on & is_seen


def to_rows(images):
    """Images as rows: (n, n_pixels)."""
    images = np.asarray(images)
    return images.reshape(len(images), -1)


def make_images(n, h, w, seed=0):
    """Images in three groups, with duplicates, a pixel never on and one always on."""
    rng = np.random.default_rng(seed)
    shares_on = rng.uniform(size=(3, h * w))
    groups = rng.integers(3, size=n)
    images = rng.uniform(size=(n, h * w)) < shares_on[groups]
    images[:, 0] = False
    images[:, 1] = True
    images[: n // 4] = images[0]
    return images.reshape(n, h, w)


def make_coins(n, n_pixels, seed=0):
    """Images whose pixels are all tossed by a fair coin: (n, n_pixels)."""
    return np.random.default_rng(seed).uniform(size=(n, n_pixels)) < 0.5


def make_seen(shape, share_hidden=0.5, seed=0):
    """Which pixels are seen after a share of them was hidden: (n, n_pixels)."""
    rng = np.random.default_rng(seed)
    return rng.uniform(size=shape) >= share_hidden


def make_weights(n):
    """A weight for each of n rows, in float32."""
    rng = np.random.default_rng(2)
    return rng.uniform(0, 3, size=n).astype(np.float32)


def make_table(em, has_holes=True, has_weights=True):
    """The problem of most tests: 40 rows of 7 pixels, a BinaryData of em's own class.

    Half of the pixels aren't seen, nor is the first row. Weights are 0, 1, 2 or 3.
    """
    on = make_images(40, 1, 7).reshape(40, 7)
    seen = make_seen(on.shape)
    seen[0] = False
    weights = np.random.default_rng(1).integers(4, size=40).astype(np.float32)
    return em.BinaryData(
        on=on,
        seen=seen if has_holes else None,
        weights=weights if has_weights else None,
    )


def survey(n):
    """n people, 20 : 80, and six questions on which the groups differ little.

    What they answer, no weights, and how many answer so: what observe takes.
    """
    rng = np.random.default_rng(0)
    in_first = rng.random(n) < 0.2
    first = [0.4, 0.3, 0.45, 0.3, 0.4, 0.35]
    second = [0.7, 0.65, 0.7, 0.6, 0.75, 0.7]
    p = np.where(in_first[:, None], first, second)
    answers = rng.random((n, 6)) < p
    different, repeats = np.unique(answers, axis=0, return_counts=True)
    return different, None, repeats


def make_mixture(em, n_clusters, n_pixels, seed=0):
    """A mixture in float32, of em's own class."""
    rng = np.random.default_rng(seed)
    weights = rng.uniform(1, 3, size=n_clusters)
    means = rng.uniform(0.1, 0.9, size=(n_clusters, n_pixels)).round(2)
    return em.BernoulliMixture(
        cluster_weights=jnp.asarray(weights / weights.sum(), dtype=jnp.float32),
        cluster_means=jnp.asarray(means, dtype=jnp.float32),
    )


def make_sharp_mixture(em, n_clusters, n_pixels):
    """The same, but in all clusters pixel 0 is hardly ever on, and pixel 1 hardly off."""
    params = make_mixture(em, n_clusters, n_pixels)
    means = params.cluster_means.at[:, 0].set(0.001).at[:, 1].set(0.999)
    return em.BernoulliMixture(
        cluster_weights=params.cluster_weights, cluster_means=means
    )


def make_far_apart(em, n, h, w):
    """(params, images), hundreds of nats apart.

    One cluster is nearly blank, one nearly full. So is each third of the images; of the
    last third each pixel is tossed by a fair coin, which is improbable in either cluster.
    """
    rng = np.random.default_rng(0)
    blank = rng.uniform(0.02, 0.08, size=h * w)
    means = np.stack([blank, 1 - blank])
    shares_on = np.stack([*means, np.full(h * w, 0.5)])
    images = rng.uniform(size=(n, h * w)) < shares_on[np.arange(n) % 3]
    params = em.BernoulliMixture(
        cluster_weights=jnp.array([0.4, 0.6], dtype=jnp.float32),
        cluster_means=jnp.asarray(means, dtype=jnp.float32),
    )
    return params, images.reshape(n, h, w)


def every_image(n_pixels):
    """All images of so many pixels: (2 ** n_pixels, n_pixels)."""
    return np.array(list(itertools.product([False, True], repeat=n_pixels)))


def assert_agree(case, expected, found, rtol=1e-4, atol=1e-4):
    """Raise AssertionError unless found is like expected, in shape and values.

    A Mixture or Counts is compared field by field. The error tells the case, the shape,
    the first place that differs, and what was expected and found there.
    """
    if hasattr(expected, "_fields"):
        for name in expected._fields:
            field = f"{case}: {name}"
            assert_agree(
                field, getattr(expected, name), getattr(found, name), rtol, atol
            )
        return
    expected = np.asarray(expected)
    found = np.asarray(found)
    if found.shape != expected.shape:
        raise AssertionError(
            f"{case}: expected shape {expected.shape}, found {found.shape}"
        )
    is_close = np.isclose(found, expected, rtol=rtol, atol=atol)
    if is_close.all():
        return
    where = np.unravel_index(is_close.argmin(), expected.shape)
    if where:
        place = [int(index) for index in where]
        case = f"{case}, shape {expected.shape}, at {place}"
    raise AssertionError(
        f"{case}: expected {expected[where]:.6g}, found {found[where]:.6g}"
    )
