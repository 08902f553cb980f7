"""The functions of Part 1, on plain boolean images: read this first.

`em` holds the functions of a notebook: of ours, or of a student's (`make mark`). Each
test asks one function, from the smallest case on. Where it fails, its message is the
first case that is wrong, the place in it, and what was expected and found there.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import textbook
from textbook import assert_agree, make_images, make_mixture

# The images' shape, and how many clusters.
SIZES = [
    ((1, 1, 2), 3),  # small enough to do by hand
    ((40, 7), 3),  # rows; some repeat, one pixel is never on, one always is
    ((60, 28, 28), 2),  # a product of so many probabilities underflows to 0
]


def make_cases(em):
    """Yields (case, params, images), where case tells the other two in words."""
    for shape, n_clusters in SIZES:
        n_images, *sides = shape
        n_pixels = math.prod(sides)
        images = make_images(n_images, 1, n_pixels).reshape(shape)
        params = make_mixture(em, n_clusters, n_pixels)
        case = f"images of shape {shape}, {n_clusters} clusters"
        if images.size < 5:
            case += f", images {images.astype(int).tolist()}"
            case += f", cluster_weights {rounded(params.cluster_weights)}"
            case += f", cluster_means {rounded(params.cluster_means)}"
        yield case, params, jnp.asarray(images)


def rounded(values):
    """Values as a list that is short enough to read."""
    return np.asarray(values, dtype=float).round(3).tolist()


def total_log_likelihood(params, images):
    """The textbook's, in nats; means that round to more than 1, say, are clipped."""
    means = np.asarray(params.cluster_means, dtype=np.float64)
    clipped = textbook.Mixture(
        cluster_weights=params.cluster_weights,
        cluster_means=means.clip(textbook.MIN_MEAN, 1 - textbook.MIN_MEAN),
    )
    with np.errstate(invalid="ignore"):  # the test finds what is no number
        return textbook.log_likelihood(clipped, images).sum()


def test_the_likelihood_never_falls(em):
    for case, params, images in make_cases(em):
        before = total_log_likelihood(params, images)
        for step in range(1, 16):
            params = em.em_step(params, images)
            after = total_log_likelihood(params, images)
            rounding = 1e-5 * (len(images) + abs(before))
            assert after >= before - rounding, (
                f"{case}, step {step}: expected a log-likelihood"
                f" of at least {before:.6g}, found {after:.6g}"
            )
            before = after


def test_log_joint_prob_agrees_with_the_textbook(em):
    for case, params, images in make_cases(em):
        expected = textbook.log_joint(params, images)
        found = em.log_joint_prob(params, images)
        assert_agree(f"{case}, [image, cluster]", expected, found, atol=1e-3)


def test_init_mixture_params_has_equal_weights(em):
    params = em.init_mixture_params(jax.random.PRNGKey(0), 3, 7)
    expected = [1 / 3, 1 / 3, 1 / 3]
    assert_agree("3 clusters, cluster_weights", expected, params.cluster_weights)


def test_init_mixture_params_has_means_between_0_and_1_that_differ(em):
    """Clusters that are equal would get equal updates."""
    params = em.init_mixture_params(jax.random.PRNGKey(0), 3, 7)
    means = np.asarray(params.cluster_means)
    case = "3 clusters of 7 pixels, cluster_means"
    assert_agree(f"{case}, their shape", (3, 7), means.shape)
    low = means.min()
    high = means.max()
    assert low > 0, f"{case}: expected all above 0, found {low:.6g}"
    assert high < 1, f"{case}: expected all below 1, found {high:.6g}"
    different = np.unique(means, axis=0)
    assert_agree(f"{case}: how many clusters differ", 3, len(different))


def test_init_mixture_params_follows_its_key(em):
    first = em.init_mixture_params(jax.random.PRNGKey(0), 3, 7)
    again = em.init_mixture_params(jax.random.PRNGKey(0), 3, 7)
    other = em.init_mixture_params(jax.random.PRNGKey(1), 3, 7)
    case = "the same key again, cluster_means"
    assert_agree(case, first.cluster_means, again.cluster_means, rtol=0, atol=0)
    is_same = np.allclose(first.cluster_means, other.cluster_means)
    assert not is_same, "another key: expected other cluster_means, found the same"


def test_log_likelihood_agrees_with_the_textbook(em):
    for case, params, images in make_cases(em):
        expected = textbook.log_likelihood(params, images)
        found = em.log_likelihood(params, images)
        assert_agree(f"{case}, [image]", expected, found, atol=1e-3)


def test_responsibilities_agree_with_the_textbook(em):
    for case, params, images in make_cases(em):
        expected = textbook.responsibilities(params, images)
        found = em.responsibilities(params, images)
        assert_agree(f"{case}, [image, cluster]", expected, found, atol=1e-3)


def call_or_skip(em, name, *arguments, **fields):
    """Call what may be left out; whether em_step needs it, its own tests tell."""
    if not hasattr(em, name):
        pytest.skip(f"no {name}")
    try:
        return getattr(em, name)(*arguments, **fields)
    except NotImplementedError as error:
        pytest.skip(str(error))


def make_counts(em, params, images):
    """The textbook's expected counts, in float32 and of em's own class."""
    counts = textbook.expected_counts(params, images)
    fields = {}
    for name, values in counts._asdict().items():
        fields[name] = jnp.asarray(values, dtype=jnp.float32)
    return call_or_skip(em, "ExpectedCounts", **fields)


def test_e_step_agrees_with_the_textbook(em):
    for case, params, images in make_cases(em):
        expected = textbook.expected_counts(params, images)
        found = call_or_skip(em, "e_step", params, images)
        assert_agree(case, expected, found, atol=0.01)


def test_m_step_agrees_with_the_textbook(em):
    for case, params, images in make_cases(em):
        counts = make_counts(em, params, images)
        expected = textbook.maximise(counts)
        found = call_or_skip(em, "m_step", counts)
        assert_agree(case, expected, found, atol=2e-4)  # 1e-4: a clip there will do


def make_case_with_an_empty_cluster(em):
    """(params, images), where the last of three clusters has weight 0."""
    params = em.BernoulliMixture(
        cluster_weights=jnp.array([0.4, 0.6, 0.0], dtype=jnp.float32),
        cluster_means=make_mixture(em, n_clusters=3, n_pixels=7).cluster_means,
    )
    return params, jnp.asarray(make_images(40, 1, 7).reshape(40, 7))


def test_m_step_makes_a_mean_without_counts_one_half(em):
    params, images = make_case_with_an_empty_cluster(em)
    counts = make_counts(em, params, images)
    means = np.asarray(call_or_skip(em, "m_step", counts).cluster_means)
    expected = np.full(7, 0.5)
    assert_agree("cluster 2 has no counts, cluster_means[2]", expected, means[2])


def test_em_step_agrees_with_the_textbook(em):
    for case, params, images in make_cases(em):
        expected = textbook.step(params, images)
        found = em.em_step(params, images)
        assert_agree(case, expected, found, atol=2e-4)


def test_em_step_keeps_an_empty_cluster_empty_and_no_other_notices(em):
    params, images = make_case_with_an_empty_cluster(em)
    expected = params
    for step in (1, 2):
        expected = textbook.step(expected, images)
        params = em.em_step(params, images)
        case = f"40 images, cluster 2 has weight 0, step {step}"
        weights = params.cluster_weights
        assert_agree(f"{case}, cluster_weights", expected.cluster_weights, weights)
        means = np.asarray(params.cluster_means)
        others = expected.cluster_means[:2]
        assert_agree(f"{case}, cluster_means", others, means[:2], atol=2e-4)
        is_finite = np.isfinite(means[2]).all()
        assert is_finite, f"{case}: expected numbers as its means, found {means[2]}"


def test_make_cluster_labels_counts_the_digits_of_each_cluster(em):
    for assignments, labels, n_clusters in [
        ([1], [0], 2),
        ([0, 2, 2, 2], [7, 1, 1, 9], 4),
    ]:
        expected = np.zeros((n_clusters, 10))
        for cluster, digit in zip(assignments, labels, strict=True):
            expected[cluster, digit] += 1
        found = em.make_cluster_labels(
            np.asarray(assignments), np.asarray(labels), n_clusters
        )
        case = f"assignments {assignments}, labels {labels}, {n_clusters} clusters"
        assert_agree(f"{case}, [cluster, digit]", expected, as_table(found))


def as_table(counts):
    """Counts of digits as [cluster, digit]; each cluster's may be a dictionary."""
    rows = []
    for row in counts:
        if hasattr(row, "get"):
            row = [row.get(digit, 0) for digit in range(10)]
        rows.append(row)
    return np.array(rows)
