"""EM in float64, term by term, in NumPy; and the data that several tests share.

Images are boolean, (n, h, w) or (n, n_pixels). Where `off` is given, a pixel that is neither
on nor off is hidden. Where `weights` are given, each image counts that often.
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


def log_joint(params, on, off=None):
    """log p(x, z = k) of what is seen: (n, n_clusters)."""
    is_on, is_off = seen_pixels(on, off)
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


def log_likelihood(params, on, off=None):
    """log p(x) of what is seen: (n,)."""
    return np.logaddexp.reduce(log_joint(params, on, off), axis=1)


def responsibilities(params, on, off=None, temperature=1.0):
    """p(z = k | x), or what a temperature makes of it: (n, n_clusters)."""
    scaled = log_joint(params, on, off) / temperature
    return np.exp(scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True))


def expected_counts(params, on, off=None, weights=None, temperature=1.0):
    """The E-step: shares of the images, added up."""
    is_on, is_off = seen_pixels(on, off)
    if weights is None:
        weights = np.ones(len(is_on))
    weights = np.asarray(weights, dtype=np.float64)
    shares = responsibilities(params, on, off, temperature) * weights[:, None]
    return Counts(
        cluster_counts=shares.sum(axis=0),
        on_counts=shares.T @ is_on,
        off_counts=shares.T @ is_off,
        log_likelihood=np.sum(weights * log_likelihood(params, on, off)),
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


def step(params, on, off=None, weights=None, pseudo_count=0.0):
    """The parameters after one step of EM."""
    return maximise(expected_counts(params, on, off, weights), pseudo_count)


def log_prior(params, pseudo_count):
    """The log density of the means under Beta(1 + a, 1 + a), but for a constant."""
    means = np.asarray(params.cluster_means, dtype=np.float64)
    return pseudo_count * np.sum(np.log(means) + np.log1p(-means))


def seen_pixels(on, off=None):
    """Which pixels are on, and which off, in rows: whatever isn't on, if off is None."""
    is_on = to_rows(on)
    is_off = ~is_on if off is None else to_rows(off)
    return is_on, is_off


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


def make_holes(images, share_hidden=0.5, seed=0):
    """The pixels of images that are on, and off, after a share of them was hidden."""
    rng = np.random.default_rng(seed)
    is_seen = rng.uniform(size=images.shape) >= share_hidden
    return images & is_seen, ~images & is_seen


def make_mixture(em, n_clusters, n_pixels, seed=0):
    """A mixture in float32, of em's own class."""
    rng = np.random.default_rng(seed)
    weights = rng.uniform(1, 3, size=n_clusters)
    means = rng.uniform(0.1, 0.9, size=(n_clusters, n_pixels)).round(2)
    return em.BernoulliMixture(
        cluster_weights=jnp.asarray(weights / weights.sum(), dtype=jnp.float32),
        cluster_means=jnp.asarray(means, dtype=jnp.float32),
    )


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
