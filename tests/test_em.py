"""The functions of the lesson, on plain boolean images: read this first.

`em` holds the functions of a notebook: of ours, or of a student's (`make mark`). Each test
asks one function, from the smallest case on. Where it fails, its message is the first case
that is wrong, the place in it, and what was expected and found there.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import textbook
from textbook import assert_agree, every_image, make_images, make_mixture

# Images, their height and width, clusters. Images repeat; one pixel is never on, one always.
SIZES = [
    (1, 1, 2, 1),
    (2, 1, 2, 2),
    (3, 2, 2, 3),
    (6, 3, 3, 20),  # more clusters than images
    (4_100, 5, 6, 5),
    (60, 28, 28, 3),  # a product of so many probabilities underflows to 0
]


def make_cases(em):
    """Yields (case, params, images), where case tells the other two in words."""
    for n, h, w, n_clusters in SIZES:
        for seed in range(3):
            images = make_images(n, h, w, seed)
            params = make_mixture(em, n_clusters, h * w, seed)
            case = f"{n} image(s) of {h} x {w} pixels, {n_clusters} cluster(s)"
            if images.size < 5:
                case += f", images {images.astype(int).tolist()}"
                case += f", cluster_weights {rounded(params.cluster_weights)}"
                case += f", cluster_means {rounded(params.cluster_means)}"
            else:
                case += f", seed {seed}"
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


def test_init_mixture_params_has_equal_weights(em):
    params = em.init_mixture_params(jax.random.PRNGKey(0), 3, 8)
    expected = [1 / 3, 1 / 3, 1 / 3]
    assert_agree("3 clusters, cluster_weights", expected, params.cluster_weights)


def test_init_mixture_params_has_means_between_0_and_1_that_differ(em):
    """Clusters that are equal would get equal updates."""
    params = em.init_mixture_params(jax.random.PRNGKey(0), 3, 8)
    means = np.asarray(params.cluster_means)
    case = "3 clusters of 8 pixels, cluster_means"
    assert_agree(f"{case}, their shape", (3, 8), means.shape)
    low = means.min()
    high = means.max()
    assert low > 0, f"{case}: expected all above 0, found {low:.6g}"
    assert high < 1, f"{case}: expected all below 1, found {high:.6g}"
    different = np.unique(means, axis=0)
    assert_agree(f"{case}: how many clusters differ", 3, len(different))


def test_init_mixture_params_follows_its_key(em):
    first = em.init_mixture_params(jax.random.PRNGKey(0), 3, 8)
    again = em.init_mixture_params(jax.random.PRNGKey(0), 3, 8)
    other = em.init_mixture_params(jax.random.PRNGKey(1), 3, 8)
    case = "the same key again, cluster_means"
    assert_agree(case, first.cluster_means, again.cluster_means, rtol=0, atol=0)
    is_same = np.allclose(first.cluster_means, other.cluster_means)
    assert not is_same, "another key: expected other cluster_means, found the same"


def test_log_joint_prob_agrees_with_the_textbook(em):
    for case, params, images in make_cases(em):
        expected = textbook.log_joint(params, images)
        found = em.log_joint_prob(params, images)
        assert_agree(f"{case}, [image, cluster]", expected, found, atol=1e-3)


def test_log_likelihood_agrees_with_the_textbook(em):
    for case, params, images in make_cases(em):
        expected = textbook.log_likelihood(params, images)
        found = em.log_likelihood(params, images)
        assert_agree(f"{case}, [image]", expected, found, atol=1e-3)


def test_log_likelihood_is_finite_where_the_probability_underflows(em):
    params = make_mixture(em, n_clusters=2, n_pixels=28 * 28)
    images = jnp.asarray(make_images(1, 28, 28))
    (log_p,) = np.asarray(em.log_likelihood(params, images))
    p = np.exp(log_p)
    assert p == 0, f"1 image: expected p(x) to be 0 in float32, found {p:.6g}"
    assert np.isfinite(log_p), f"1 image: expected a number, found {log_p}"


def test_log_likelihood_gives_all_images_together_a_probability_of_1(em):
    params = make_mixture(em, n_clusters=5, n_pixels=8)
    images = jnp.asarray(every_image(8).reshape(256, 2, 4))
    total = np.exp(em.log_likelihood(params, images)).sum()
    assert_agree("the sum over all 256 images of 2 x 4 pixels", 1.0, total)


def test_log_joint_prob_and_log_likelihood_give_shares_that_sum_to_1(em):
    """The responsibilities of each image, p(z = k | x) = p(x, z = k) / p(x)."""
    for case, params, images in make_cases(em):
        log_joint = np.asarray(em.log_joint_prob(params, images))
        log_p = np.asarray(em.log_likelihood(params, images))
        shares = np.exp(log_joint - log_p[:, None])
        expected = np.ones(len(images))
        assert_agree(f"{case}, [image]", expected, shares.sum(axis=1), atol=1e-3)


@pytest.fixture
def skip_if_em_step_is_whole(em):
    """Where em_step does without e_step or m_step, these may be missing."""
    _, params, images = next(make_cases(em))
    if not is_written(em, "em_step", params, images):
        return
    if hasattr(em, "ExpectedCounts"):
        counts = make_counts(em, params, images)
        has_e_step = is_written(em, "e_step", params, images)
        has_m_step = is_written(em, "m_step", counts)
        if has_e_step and has_m_step:
            return
    pytest.skip("optional")


def is_written(em, name, *arguments):
    """Whether em has a function of this name that doesn't raise NotImplementedError."""
    if not hasattr(em, name):
        return False
    try:
        getattr(em, name)(*arguments)
    except NotImplementedError:
        return False
    except Exception:  # noqa: BLE001 (it is written, and wrong)
        return True
    return True


def make_counts(em, params, images):
    """The textbook's expected counts, in float32 and of em's own class."""
    counts = textbook.expected_counts(params, images)
    fields = {}
    for name, values in counts._asdict().items():
        fields[name] = jnp.asarray(values, dtype=jnp.float32)
    return em.ExpectedCounts(**fields)


@pytest.mark.usefixtures("skip_if_em_step_is_whole")
def test_e_step_agrees_with_the_textbook(em):
    for case, params, images in make_cases(em):
        expected = textbook.expected_counts(params, images)
        found = em.e_step(params, images)
        assert_agree(case, expected, found, atol=0.01)


@pytest.mark.usefixtures("skip_if_em_step_is_whole")
def test_m_step_agrees_with_the_textbook(em):
    for case, params, images in make_cases(em):
        counts = make_counts(em, params, images)
        expected = textbook.maximise(counts)
        found = em.m_step(counts)
        assert_agree(case, expected, found, atol=2e-4)  # 1e-4: a clip there will do


def test_em_step_agrees_with_the_textbook(em):
    for case, params, images in make_cases(em):
        expected = textbook.step(params, images)
        found = em.em_step(params, images)
        assert_agree(case, expected, found, atol=2e-4)


def test_em_step_gives_weights_that_sum_to_1(em):
    for case, params, images in make_cases(em):
        weights = np.asarray(em.em_step(params, images).cluster_weights)
        assert_agree(f"{case}, the sum of cluster_weights", 1.0, weights.sum())


def test_em_step_keeps_an_empty_cluster_empty_and_no_other_notices(em):
    images = jnp.asarray(make_images(6, 2, 2))
    params = em.BernoulliMixture(
        cluster_weights=jnp.asarray([0.4, 0.6, 0.0], dtype=jnp.float32),
        cluster_means=make_mixture(em, n_clusters=3, n_pixels=4).cluster_means,
    )
    expected = params
    for step in (1, 2):
        expected = textbook.step(expected, images)
        params = em.em_step(params, images)
        case = f"6 images, cluster 2 has weight 0, step {step}"
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
        ([0, 2, 2, 2], [7, 1, 1, 9], 3),
        ([0, 2, 2, 2], [7, 1, 1, 9], 15),
    ]:
        expected = np.zeros((n_clusters, 10))
        for cluster, digit in zip(assignments, labels, strict=True):
            expected[cluster, digit] += 1
        found = em.make_cluster_labels(
            np.asarray(assignments), np.asarray(labels), n_clusters
        )
        case = f"assignments {assignments}, labels {labels}, {n_clusters} clusters"
        assert_agree(f"{case}, [cluster, digit]", expected, found)
