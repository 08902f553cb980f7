"""What each function of the exercise must do: for the tests, and for `make mark`.

A check takes a module and raises AssertionError with the smallest case that shows a mistake.
"""

import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np

# Images, height, width, clusters; from small to large. At 28 x 28 pixels probabilities underflow.
SMALL = [(1, 1, 2, 1), (1, 1, 3, 2), (2, 1, 2, 2), (3, 2, 2, 3), (6, 3, 3, 20), (2, 28, 28, 2)]
LARGE = [(4_100, 5, 6, 5), (2_001, 3, 4, 4), (2_000, 3, 4, 2)]


def make_images(n, h, w, seed=0):
    """Images in three groups, with duplicates, a pixel never on and one always on."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(size=(n, h * w)) < rng.uniform(size=(3, h * w))[rng.integers(3, size=n)]
    images[:, 0], images[:, 1] = False, True
    images[: n // 4] = images[0]
    return images.reshape(n, h, w)


def make_mixture(em, n_clusters, n_pixels):
    rng = np.random.default_rng(100)
    weights = rng.uniform(1, 3, n_clusters)
    means = rng.uniform(0.1, 0.9, (n_clusters, n_pixels)).round(2)
    return em.BernoulliMixture(
        cluster_weights=jnp.asarray(weights / weights.sum(), dtype=jnp.float32),
        cluster_means=jnp.asarray(means, dtype=jnp.float32),
    )


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
def textbook(params, images, pseudo_count=0.0):
    """EM in float64, term by term: (log joint, N, S, weights, means)."""
    weights, means = (np.asarray(field, dtype=np.float64) for field in params.values())
    x = np.asarray(images).reshape(len(images), 1, -1)
    log_joint = np.log(weights) + np.log(np.where(x, means, 1 - means)).sum(axis=2)
    joint = np.exp(log_joint - log_joint.max(axis=1, keepdims=True))
    shares = joint / joint.sum(axis=1, keepdims=True)
    n_k, s_kd = shares.sum(axis=0), (shares[:, :, None] * x).sum(axis=0)
    new_means = (s_kd + pseudo_count) / (n_k + 2 * pseudo_count)[:, None]
    return log_joint, n_k, s_kd, n_k / len(x), np.clip(new_means, 1e-6, 1 - 1e-6)


def agree(case, expected, found, rtol=1e-4, atol=1e-4):
    """Assert that found is like expected, in shape and value."""
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
    same = np.allclose(means, other.cluster_means)
    agree("another key gives the same means", False, same)


def log_joint_prob(em, sizes=SMALL):
    for case, params, images in make_cases(em, sizes):
        agree(case, textbook(params, images)[0], em.log_joint_prob(params, images), atol=1e-3)


def log_likelihood(em, sizes=SMALL):
    for case, params, images in make_cases(em, sizes):
        expected = np.logaddexp.reduce(textbook(params, images)[0], axis=1)
        agree(case, expected, em.log_likelihood(params, images))
    images = np.array(list(itertools.product([False, True], repeat=8))).reshape(-1, 2, 4)
    total = np.exp(em.log_likelihood(make_mixture(em, 5, 8), images)).sum()
    agree("the probabilities of all images of 2 x 4 pixels sum to", 1.0, total)


def e_step(em, sizes=SMALL):
    for case, params, images in make_cases(em, sizes):
        log_joint, n_k, s_kd, *_ = textbook(params, images)
        counts = em.e_step(params, images)
        agree(f"{case}: cluster_counts", n_k, counts.cluster_counts)
        agree(f"{case}: on_counts", s_kd, counts.on_counts)
        agree(f"{case}: off_counts", n_k[:, None] - s_kd, counts.off_counts, atol=1e-3)
        total = np.logaddexp.reduce(log_joint, axis=1).sum()
        agree(f"{case}: log_likelihood", total, counts.log_likelihood)


def m_step(em, sizes=SMALL):
    for case, params, images in make_cases(em, sizes):
        _, n_k, s_kd, weights, means = textbook(params, images)
        sums = {"cluster_counts": n_k, "on_counts": s_kd, "off_counts": n_k[:, None] - s_kd}
        sums = {name: jnp.asarray(sum_, dtype=jnp.float32) for name, sum_ in sums.items()}
        step = em.m_step(em.ExpectedCounts(log_likelihood=jnp.float32(0), **sums))
        agree(f"{case}: cluster_weights", weights, step.cluster_weights)
        agree(f"{case}: cluster_means", means, step.cluster_means, atol=1e-6)


def em_step(em, sizes=SMALL):
    for case, params, images in make_cases(em, sizes):
        *_, weights, means = textbook(params, images)
        step = em.em_step(params, images)
        agree(f"{case}: cluster_weights", weights, step.cluster_weights)
        agree(f"{case}: cluster_means", means, step.cluster_means)
    the_likelihood_never_falls(em)


def the_likelihood_never_falls(em):
    for case, params, images in make_cases(em, SMALL):
        previous = -np.inf
        for step in range(15):
            clipped = params.replace(cluster_means=np.clip(params.cluster_means, 1e-6, 1 - 1e-6))
            total = np.logaddexp.reduce(textbook(clipped, images)[0], axis=1).sum()
            assert total > previous - 1e-3 * len(images), (
                f"{case}, step {step}: the log-likelihood falls from {previous:.4f} to {total:.4f}"
            )
            previous, params = total, em.em_step(params, images)


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
