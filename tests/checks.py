"""What each function of the exercise must do: for the tests, and for `make mark`.

A check takes a module and raises AssertionError with the smallest case that shows a mistake.
"""

import inspect
import itertools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

# Images, height, width, clusters; from small to large. At 28 x 28 pixels probabilities underflow.
SMALL = [(1, 1, 2, 1), (1, 1, 3, 2), (2, 1, 2, 2), (3, 2, 2, 3), (6, 3, 3, 20), (2, 28, 28, 2)]
LARGE = [(4_100, 5, 6, 5), (2_001, 3, 4, 4), (2_000, 3, 4, 2)]
EVERY_IMAGE = np.array(list(itertools.product([False, True], repeat=8)))  # of 8 pixels


def make_images(n, h, w, seed=0):
    """Images in three groups, with duplicates, a pixel never on and one always on."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(size=(n, h * w)) < rng.uniform(size=(3, h * w))[rng.integers(3, size=n)]
    images[:, 0], images[:, 1] = False, True
    images[: n // 4] = images[0]
    return images.reshape(n, h, w)


def make_mixture(em, n_clusters, n_pixels):
    rng = np.random.default_rng(100)
    w = rng.uniform(1, 3, n_clusters)
    means = jnp.float32(rng.uniform(0.1, 0.9, (n_clusters, n_pixels)).round(2))
    return em.BernoulliMixture(cluster_weights=jnp.float32(w / w.sum()), cluster_means=means)


def make_cases(em, sizes):
    """Cases (text, params, images); the text of a small one says how to reproduce it."""
    for n, h, w, n_clusters in sizes:
        images, params = make_images(n, h, w), make_mixture(em, n_clusters, h * w)
        case = f"{n} image(s) of {h} x {w} pixels, {n_clusters} cluster(s)"
        if n * h * w <= 4:
            weights, means = (np.asarray(x).round(4).tolist() for x in params.values())
            case += f" (images {images.tolist()}, weights {weights}, means {means})"
        yield case, params, images


@np.errstate(divide="ignore", invalid="ignore")  # a cluster may be empty
def textbook(params, images, pseudo_count=0.0, temperature=1.0):
    """EM in float64, term by term: (log joint, expected counts, parameters after the step)."""
    weights, means = (np.asarray(field, dtype=np.float64) for field in params.values())
    x = np.asarray(images).reshape(len(images), 1, -1)
    log_joint = np.log(weights) + np.log(np.where(x, means, 1 - means)).sum(axis=2)
    log_p = np.logaddexp.reduce(log_joint, axis=1)
    shares = np.exp((log_joint - log_p[:, None]) / temperature)
    shares /= shares.sum(axis=1, keepdims=True)
    n_k, s_kd = shares.sum(axis=0), (shares[:, :, None] * x).sum(axis=0)
    counts = {"cluster_counts": n_k, "on_counts": s_kd, "off_counts": n_k[:, None] - s_kd}
    means = (s_kd + pseudo_count) / (n_k + 2 * pseudo_count)[:, None]
    step = {"cluster_weights": n_k / len(x), "cluster_means": np.clip(means, 1e-6, 1 - 1e-6)}
    return log_joint, counts | {"log_likelihood": log_p.sum()}, step


def agree(case, expected, found, rtol=1e-4, atol=1e-4):
    """Assert that found, or each field of it, is like expected, in shape and value."""
    if isinstance(expected, Mapping):
        for name, value in expected.items():
            agree(f"{case}: {name}", value, getattr(found, name), rtol, atol)
        return
    expected, found = np.asarray(expected), np.asarray(found)
    if expected.shape != found.shape:
        raise AssertionError(f"{case}: expected shape {expected.shape}, found {found.shape}")
    if not np.allclose(found, expected, rtol, atol):
        worst = np.unravel_index(np.argmax(~np.isclose(found, expected, rtol, atol)), found.shape)
        case = f"{case}, at {list(map(int, worst))}" if worst else case
        pair = [x[worst] if x.dtype == bool else f"{x[worst]:.6g}" for x in (expected, found)]
        raise AssertionError("{}: expected {}, found {}".format(case, *pair))


def init_mixture_params(em):
    params, again, other = (em.init_mixture_params(jax.random.PRNGKey(k), 3, 8) for k in (0, 0, 1))
    agree("3 clusters, 8 pixels: cluster_weights", np.full(3, 1 / 3), params.cluster_weights)
    means = np.asarray(params.cluster_means)
    agree("3 clusters, 8 pixels: shape of cluster_means", (3, 8), means.shape)
    agree("3 clusters: means inside (0, 1)", True, bool(((means > 0) & (means < 1)).all()))
    agree("3 clusters: all means differ", 3, len(np.unique(means, axis=0)))
    agree("the same key again", means, again.cluster_means, 0, 0)
    agree("another key gives the same means", False, np.allclose(means, other.cluster_means))


def log_joint_prob(em, sizes=SMALL):
    for case, params, images in make_cases(em, sizes):
        agree(case, textbook(params, images)[0], em.log_joint_prob(params, images), atol=1e-3)


def log_likelihood(em, sizes=SMALL):
    for case, params, images in make_cases(em, sizes):
        expected = np.logaddexp.reduce(textbook(params, images)[0], axis=1)
        agree(case, expected, em.log_likelihood(params, images))
    total = np.exp(em.log_likelihood(make_mixture(em, 5, 8), EVERY_IMAGE.reshape(-1, 2, 4))).sum()
    agree("the probabilities of all images of 2 x 4 pixels sum to", 1.0, total)


def e_step(em, sizes=SMALL):
    for case, params, images in make_cases(em, sizes):
        expected, found = textbook(params, images)[1], em.e_step(params, images)
        agree(f"{case}: off_counts", expected.pop("off_counts"), found.off_counts, atol=1e-3)
        agree(case, expected, found)


def m_step(em, sizes=SMALL):
    for case, params, images in make_cases(em, sizes):
        _, counts, step = textbook(params, images)
        counts = {name: jnp.asarray(sums, dtype=jnp.float32) for name, sums in counts.items()}
        agree(case, step, em.m_step(em.ExpectedCounts(**counts)), atol=1e-6)


def em_step(em, sizes=SMALL, pseudo_count=0.0, atol=1e-4):
    """A step is the textbook's, and the likelihood (or the log posterior) never falls."""
    prior = (pseudo_count,) if pseudo_count else ()  # a solution's em_step may take none
    for case, params, images in make_cases(em, sizes):
        found = em.em_step(params, images, *prior)
        agree(case, textbook(params, images, pseudo_count)[2], found, atol=atol)
        before = -np.inf
        for step in range(16):
            means = np.clip(np.asarray(params.cluster_means, dtype=np.float64), 1e-6, 1 - 1e-6)
            total = textbook(params.replace(cluster_means=means), images)[1]["log_likelihood"]
            total += pseudo_count * (np.log(means) + np.log1p(-means)).sum()
            text = f"{case}, step {step}: the objective falls from {before:.4f} to {total:.4f}"
            assert total > before - 1e-5 * (len(images) + abs(total)), text
            before, params = total, em.em_step(params, images, *prior)


def a_pixel_never_on_makes_no_nan(em):
    """With the module's own functions throughout: where it clips is its own affair."""
    params, images = make_mixture(em, 2, 10), make_images(7, 2, 5)
    for step in (1, 2, 3):
        params = em.em_step(params, images)
        finite = all(np.isfinite(field).all() for field in params.values())
        agree(f"step {step}, a pixel never on: all parameters finite", True, bool(finite))


def make_cluster_labels(em):
    em.n_clusters = 15  # also of a version with a global, and with a list of dicts
    for assignments, labels in (([0], [0]), ([1], [0]), ([0, 2, 2, 2], [7, 1, 1, 9])):
        expected = np.zeros((15, 10), dtype=int)
        np.add.at(expected, (assignments, labels), 1)
        n_arguments = len(inspect.signature(em.make_cluster_labels).parameters)
        arguments = (np.array(assignments), np.array(labels), 15)[:n_arguments]
        counts = em.make_cluster_labels(*arguments)
        if len(counts) and all(hasattr(row, "get") for row in counts):
            counts = [[row.get(digit, 0) for digit in range(10)] for row in counts]
        case = f"15 clusters, assignments {assignments}, labels {labels}, at [cluster, digit]"
        agree(case, expected, np.asarray(counts))


FUNCTIONS = (init_mixture_params, log_joint_prob, log_likelihood, e_step, m_step, em_step)
CHECKS = {check.__name__: check for check in (*FUNCTIONS, make_cluster_labels)}
