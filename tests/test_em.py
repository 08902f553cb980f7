"""The functions of Part 1, on plain boolean images: read this first.

`em` holds the functions of a notebook: of ours, or of a student's (`make mark`). Each
test asks one function, in the order in which they are written, from the smallest case on.
Where it fails, its message is the first case that is wrong, the place in it, and what was
expected and found there. What EM promises, that the likelihood never falls, comes last: it
depends on all of them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import textbook
from textbook import MIN_MEAN, assert_agree, make_images, make_mixture


def make_cases(em):
    """Yields (case, params, images), where case tells the other two in words."""
    for params, images in [
        # Small enough to do by hand.
        (make_mixture(em, 3, 2), make_images(1, 1, 2)),
        # Rows; some repeat, one pixel is never on, one always is.
        (make_mixture(em, 3, 7), make_images(40, 1, 7).reshape(40, 7)),
        # No pixel is on in all images of a cluster, and some means are near 0 and 1.
        (textbook.make_sharp_mixture(em, 3, 5), textbook.make_coins(31, 5)),
        # Hundreds of nats apart; so small a probability is 0, also in float64.
        textbook.make_far_apart(em, 31, 28, 28),
    ]:
        case = f"images of shape {images.shape}, {len(params.cluster_means)} clusters"
        if images.size < 5:
            case += f", images {images.astype(int).tolist()}"
            case += f", cluster_weights {rounded(params.cluster_weights)}"
            case += f", cluster_means {rounded(params.cluster_means)}"
        yield case, params, jnp.asarray(images)


def rounded(values):
    """Values as a list that is short enough to read."""
    return np.asarray(values, dtype=float).round(3).tolist()


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
    """Clusters that are equal would get equal updates, and a start is no grey patch."""
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
    different = np.unique(means, axis=1)
    assert_agree(f"{case}: how many pixels differ", 7, different.shape[1])


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


def call_or_skip(em, name, *arguments, **fields):
    """Call what may be left out if em_step does without it: its own tests ask it then."""
    if hasattr(em, name):
        try:
            return getattr(em, name)(*arguments, **fields)
        except NotImplementedError as error:
            missing = error
    else:
        missing = NotImplementedError(f"no {name}")
    if not em_step_is_written(em):
        raise missing
    pytest.skip(f"{missing}; em_step is asked instead")


def em_step_is_written(em):
    """Whether em_step is there and misses none of the functions that it calls."""
    _, params, images = next(make_cases(em))
    try:
        em.em_step(params, images)
    except (NotImplementedError, AttributeError, NameError):
        return False
    except Exception:  # noqa: BLE001, S110 (of which its own tests tell)
        pass
    return True


def test_responsibilities_agree_with_the_textbook(em):
    for case, params, images in make_cases(em):
        expected = textbook.responsibilities(params, images)
        found = call_or_skip(em, "responsibilities", params, images)
        assert_agree(f"{case}, [image, cluster]", expected, found, atol=1e-3)


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


def assert_clipped(case, params):
    """Raise AssertionError unless all means are in [MIN_MEAN, 1 - MIN_MEAN]."""
    means = np.asarray(params.cluster_means, dtype=np.float64)
    rounding = MIN_MEAN / 10
    for found in (means.min(), means.max()):
        is_inside = MIN_MEAN - rounding <= found <= 1 - MIN_MEAN + rounding
        assert is_inside, (
            f"{case}, cluster_means: expected all clipped to"
            f" [{MIN_MEAN:g}, {1 - MIN_MEAN:g}], found {found:.6g}"
        )


def test_m_step_clips_its_means(em):
    for case, params, images in make_cases(em):
        counts = make_counts(em, params, images)
        assert_clipped(case, call_or_skip(em, "m_step", counts))


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


def test_em_step_clips_its_means(em):
    for case, params, images in make_cases(em):
        assert_clipped(case, em.em_step(params, images))


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
        ([1] * 300, [3] * 300, 2),  # more than a byte can count
    ]:
        expected = np.zeros((n_clusters, 10))
        for cluster, digit in zip(assignments, labels, strict=True):
            expected[cluster, digit] += 1
        found = em.make_cluster_labels(
            np.asarray(assignments), np.asarray(labels), n_clusters
        )
        case = f"assignments {in_short(assignments)}, labels {in_short(labels)}"
        case += f", {n_clusters} clusters, [cluster, digit]"
        assert_agree(case, expected, as_table(found))


def in_short(values):
    """A list as text; if it is long, by its length and its first element."""
    return f"[{values[0]}] * {len(values)}" if len(values) > 4 else str(values)


def as_table(counts):
    """Counts of digits as [cluster, digit]; each cluster's may be a dictionary."""
    rows = []
    for row in counts:
        if hasattr(row, "get"):
            row = [row.get(digit, 0) for digit in range(10)]
        rows.append(row)
    return np.array(rows)


def test_make_cluster_labels_refuses_all_but_a_digit_for_each_assignment(em):
    for assignments, labels in [([0, 1], [3]), ([0], [10]), ([0], [-1])]:
        found = exception_of(
            em.make_cluster_labels, np.asarray(assignments), np.asarray(labels), 2
        )
        assert found == "ValueError", (
            f"assignments {assignments}, labels {labels}, 2 clusters:"
            f" expected a ValueError, found {found}"
        )


def exception_of(function, *arguments):
    """The name of the exception that a call raises."""
    try:
        function(*arguments)
    except NotImplementedError:
        raise
    except Exception as error:  # noqa: BLE001 (the caller tells which is right)
        return type(error).__name__
    return "none"


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
