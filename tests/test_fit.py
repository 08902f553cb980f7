"""EM to its end: how a fit stops, what it refuses, how it starts, what it finds."""

import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import textbook
from nbimport import ROOT
from scipy.special import expit, logit, softmax
from textbook import (
    assert_agree,
    every_image,
    make_seen,
    survey,
)

KEY = jax.random.PRNGKey(0)
NAN = np.nan
INF = np.inf


def objective(params, data, pseudo_count=0.0):
    """What EM raises, divided by the sum of the weights, in float64."""
    counts = textbook.expected_counts(params, data.on, data.seen, data.weights)
    prior = textbook.log_prior(params, pseudo_count)
    return (counts.log_likelihood + prior) / counts.cluster_counts.sum()


def textbook_steps(params, data, n_steps, pseudo_count=0.0):
    """The mixture of the start and after each step."""
    mixtures = [textbook.Mixture(**params)]
    for _ in range(n_steps):
        last = mixtures[-1]
        step = textbook.step(last, data.on, data.seen, data.weights, pseudo_count)
        mixtures.append(step)
    return mixtures


# --- When a curve has settled ---


def curve_of_41_values(second_half_gain):
    """A steep rise in the first half, and this gain from the middle to the last value."""
    rise = np.linspace(-900.0, -100.0 - second_half_gain, 21)
    rest = np.linspace(-100.0 - second_half_gain, -100.0, 21)
    return [*rise, *rest[1:]]


def test_a_curve_settles_when_its_last_half_gains_no_more_than_the_tolerance(em):
    """Of 100 nats a tolerance of 0.01 is one nat."""
    assert em.has_settled(curve_of_41_values(0.99), 41, 0.01)
    assert not em.has_settled(curve_of_41_values(1.01), 41, 0.01)


def test_only_the_values_so_far_count(em):
    """A compiled loop has room for more."""
    curve = jnp.array([*curve_of_41_values(0.99), 0.0, 0.0])
    assert em.has_settled(curve, 41, 0.01)


def test_no_curve_settles_within_twenty_values(em):
    assert not em.has_settled([-1.0] * 20, 20, 0.0)
    assert em.has_settled([-1.0] * 21, 21, 0.0)


class CountedCalls:
    """A function that knows how often it has been called."""

    def __init__(self, function):
        self.function = function
        self.n_calls = 0

    def __call__(self, *arguments):
        self.n_calls += 1
        return self.function(*arguments)


def fit_steps(em, params, data, n_steps, **options):
    """A fit of so many steps; that they aren't enough is no news."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return em.fit(params, data, max_steps=n_steps, **options)


def fields(data):
    return data.on, data.seen, data.weights


def reach_beyond(first, second, reach):
    """A mixture on the line from the first to the second and beyond, in float64."""

    def along(old, new):
        return (1 - reach) * old + reach * new

    log_weights = along(np.log(first.cluster_weights), np.log(second.cluster_weights))
    log_odds = along(logit(first.cluster_means), logit(second.cluster_means))
    return textbook.Mixture(
        cluster_weights=softmax(log_weights),
        cluster_means=expit(log_odds).clip(textbook.MIN_MEAN, 1 - textbook.MIN_MEAN),
    )


def textbook_reaching(params, data, n_steps, pseudo_count=0.0):
    """The mixture of the start and after each step of 1, 1.5, 2.25, ... M-steps."""
    mixtures = [textbook.Mixture(**params)]
    for number in range(n_steps):
        plain = textbook.step(mixtures[-1], *fields(data), pseudo_count)
        mixtures.append(reach_beyond(mixtures[-1], plain, 1.5**number))
    return mixtures


# --- How a fit ends ---


def test_a_fit_ends_as_soon_as_its_curve_has_settled_at_a_millionth(em, params, data):
    found = em.fit(params, data)
    assert found.converged
    settled = []
    for n_values in range(1, len(found.curve) + 1):
        settled.append(bool(em.has_settled(found.curve, n_values, 1e-6)))
    assert settled == [False] * (len(settled) - 1) + [True]


def test_a_fit_that_max_steps_ends_says_so(em, params, data):
    """Steps that were tried and taken back are steps, too."""
    count = CountedCalls(em.e_step)
    with pytest.warns(UserWarning, match="hadn't settled after max_steps=30") as warned:
        found = em.fit(params, data, tolerance=-1.0, max_steps=30, e_step=count)
    assert warned[0].filename == __file__  # the line that called fit
    assert count.n_calls == 31
    assert not found.converged


def test_the_curve_holds_the_objective_of_the_start_and_after_each_step(
    em, params, data
):
    """The first step is plain, and each one reaches half as far again as the one before."""
    found = fit_steps(em, params, data, 4, pseudo_count=0.5)
    mixtures = textbook_reaching(params, data, 4, pseudo_count=0.5)
    expected = [objective(mixture, data, 0.5) for mixture in mixtures]
    assert_agree("curve", expected, found.curve)
    assert_agree("mixture", mixtures[-1], found.params)


def test_where_a_reach_is_too_long_the_plain_step_is_taken(em, params, data):
    """The second step's first try is spoilt; so a plain step follows, and one of 1.5."""
    spoilt = iter([False, False, True, False, False])

    def e_step(params, rows):
        counts = em.e_step(params, rows)
        fall = 100.0 if next(spoilt) else 0.0
        return counts.replace(log_likelihood=counts.log_likelihood - fall)

    found = fit_steps(em, params, data, 4, e_step=e_step)
    two_plain = textbook_steps(params, data, 2)[-1]
    expected = reach_beyond(two_plain, textbook.step(two_plain, *fields(data)), 1.5)
    assert_agree("mixture", expected, found.params)


def test_a_try_is_taken_back_when_it_falls_by_more_than_rounding(em, params, data):
    """Float32 has seven digits."""
    counts = em.e_step(params, data)
    weight = counts.cluster_counts.sum()
    walk = em.begin(params)._replace(value=jnp.float32(-8), reach=jnp.float32(2))
    rounded = counts.replace(log_likelihood=-8.000001 * weight)
    lower = counts.replace(log_likelihood=-8.00002 * weight)
    assert not em.walk_on(walk, rounded, 0.0).went_back
    assert em.walk_on(walk, lower, 0.0).went_back


def test_means_stay_inside_their_bounds_however_far_a_line_reaches(em, params):
    other = em.as_mixture(params.cluster_weights, 1 - params.cluster_means)
    means = em.between(params, other, 100.0).cluster_means
    assert means.min() == np.float32(1e-6)
    assert means.max() == np.float32(1 - 1e-6)


def test_a_walk_may_stand_at_a_fixed_point_for_long(em):
    """No try falls there, so each would reach further, until float32 has no number."""
    half = em.as_mixture([1.0], [[0.5, 0.5]])
    found = fit_steps(em, half, np.eye(2, dtype=bool), 400, tolerance=-1.0)
    assert found.curve == pytest.approx([2 * np.log(0.5)] * 401)


def test_going_further_takes_fewer_steps_to_the_same_end(em):
    """Where groups overlap, and EM creeps."""
    data = em.observe(*survey(2_000))
    start = em.init_from_images(KEY, 2, data)
    count = CountedCalls(em.e_step)
    found = em.fit(start, data, e_step=count)
    _, plain_curve = em.run_em(start, data, 2_000)
    n_plain = int(np.argmax(np.asarray(plain_curve) > found.curve[-1] - 1e-5))
    assert count.n_calls < n_plain


@pytest.mark.parametrize(
    ("pseudo_count", "n_steps"),
    [
        pytest.param(0.0, 0, id="no steps"),
        pytest.param(0.0, 100, id="settled"),
        pytest.param(0.5, 100, id="smoothed"),
    ],
)
def test_the_last_value_of_the_curve_is_that_of_the_parameters(
    em, params, data, pseudo_count, n_steps
):
    found = fit_steps(em, params, data, n_steps, pseudo_count=pseudo_count)
    expected = objective(found.params, data, pseudo_count)
    assert found.curve[-1] == pytest.approx(expected, abs=1e-4)


def test_a_fit_that_creeps_goes_on(em):
    """Of groups that overlap; EM in float64 ends at a share of 0.194."""
    data = em.observe(*survey(20_000))
    start = em.init_from_images(KEY, 2, data)
    weight = em.fit(start, data).params.cluster_weights.min()
    assert weight == pytest.approx(0.194, abs=0.01)


def test_means_at_the_clip_have_time_to_grow_back(em):
    """The curve is flat for dozens of steps; float64 EM ends at -1104.63 nats in all."""
    rng = np.random.default_rng(2)
    is_sick = rng.random(2_000) < 0.06
    p = np.where(is_sick[:, None], [0.75, 0.65, 0.75], [0.01, 0.03, 0.01])
    table = rng.random((2_000, 3)) < p
    found, _ = em.best_fit(KEY, 2, table)
    assert found.curve[-1] * 2_000 == pytest.approx(-1104.63, abs=0.02)
    assert found.params.cluster_weights.min() == pytest.approx(0.060, abs=0.001)


def test_rounding_is_no_fall(em):
    """Rows are all alike: the sum is small, and its terms, which round, are many."""
    images = np.ones((20, 3_000), dtype=bool)
    for key in jax.random.split(KEY, 5):
        start = em.init_mixture_params(key, 2, 3_000)
        assert em.fit(start, images).converged


@pytest.fixture(scope="module")
def pretend(em, params, data):
    """Makes an e_step of the same counts at each step, and these log-likelihoods."""
    counts = em.e_step(params, data)
    weight = counts.cluster_counts.sum()

    def make_e_step(values):
        rest = iter(values)
        return lambda params, data: counts.replace(log_likelihood=next(rest) * weight)

    return make_e_step


@pytest.mark.parametrize("pseudo_count", [0.0, 20.0])
def test_a_fall_of_more_than_rounding_raises(em, params, data, pretend, pseudo_count):
    """Rounding may take 1e-4 nats for each pixel; of a prior's terms, in proportion.

    After a fall the plain step is tried; it is the second fall that counts.
    """
    n_priors = pseudo_count * 3 / data.weights.sum()
    allowed = 1e-4 * 7 * (1 + n_priors)
    within = pretend([-900.0, -6.0, -5.0, *[-5.0 - 0.95 * allowed] * 2])
    beyond = pretend([-900.0, -6.0, -5.0, *[-5.0 - 1.05 * allowed] * 2])
    options = {"pseudo_count": pseudo_count}
    fit_steps(em, params, data, 3, e_step=within, **options)
    with pytest.raises(FloatingPointError, match="the objective fell by 0.00"):
        em.fit(params, data, e_step=beyond, **options)


def test_a_fit_that_stands_still_ends_even_without_a_tolerance(
    em, params, data, pretend
):
    e_step = pretend([-9.0, *[-5.0] * 20])
    assert em.fit(params, data, tolerance=0.0, e_step=e_step).converged


@pytest.mark.parametrize("value", [NAN, INF])
def test_an_objective_that_is_not_finite_raises(em, params, data, pretend, value):
    with pytest.raises(FloatingPointError, match=f"the objective is {value}"):
        em.fit(params, data, e_step=pretend([-9.0, value]))


def test_a_fit_takes_any_e_step(em, params, data):
    """Whatever the data are, they are the e_step's own affair."""

    def e_step_of_name(params, name):
        assert name == "forty rows"
        return em.e_step(params, data)

    found = em.fit(params, "forty rows", e_step=e_step_of_name)
    chex.assert_trees_all_close(found, em.fit(params, data))


def test_a_fit_tells_of_each_step(em, params, data):
    """With a copy of the curve: nobody can change it from outside."""
    values = []
    curves = []

    def tell(params, curve):
        values.append(objective(params, data))
        curves.append(curve)

    found = fit_steps(em, params, data, 2, on_step=tell)
    assert curves == [found.curve[:2], found.curve]
    assert values == pytest.approx(found.curve[1:], abs=1e-4)


# --- What is refused ---


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        pytest.param(
            lambda data: lambda: iter([data]), TypeError, "stream", id="stream"
        ),
        pytest.param(lambda data: data.on[:0], ValueError, "no rows", id="no rows"),
        pytest.param(
            lambda data: data.replace(weights=0 * data.weights),
            ValueError,
            "the weights of all rows are 0",
            id="weights of 0",
        ),
        pytest.param(
            lambda data: data.replace(repeats=np.zeros(40)),
            ValueError,
            "the weights of all rows are 0",
            id="repeats of 0",
        ),
    ],
)
@pytest.mark.parametrize("name", ["fit", "run_em", "best_fit", "bootstrap"])
def test_data_that_cannot_be_counted_are_refused(
    em, params, data, change, error, words, name
):
    calls = {
        "fit": lambda rows: em.fit(params, rows),
        "run_em": lambda rows: em.run_em(params, rows, 3),
        "best_fit": lambda rows: em.best_fit(KEY, 3, rows),
        "bootstrap": lambda rows: em.bootstrap(KEY, params, rows),
    }
    with pytest.raises(error, match=words):
        calls[name](change(data))


def test_a_fit_refuses_what_is_no_mixture(em, params, data):
    """More of these in test_data.py."""
    counts = params.replace(cluster_weights=params.cluster_weights * 600)
    with pytest.raises(ValueError, match="cluster weights must be"):
        em.fit(counts, data)
    found = em.Fit(params, [-1.0], converged=True)
    with pytest.raises(TypeError, match="found.params"):
        em.fit(found, data)


@pytest.mark.parametrize("pseudo_count", [-0.1, NAN, INF])
def test_other_pseudo_counts_are_refused(em, params, data, pseudo_count):
    with pytest.raises(ValueError, match="pseudo_count must be 0 or more, and finite"):
        em.fit(params, data, pseudo_count=pseudo_count)


def test_run_em_refuses_other_pseudo_counts(em, params, data):
    with pytest.raises(ValueError, match="pseudo_count"):
        em.run_em(params, data, 3, NAN)


@pytest.mark.parametrize("temperatures", [[3.0, 1.0], [3.0, 0.0, 1.0]])
def test_run_em_refuses_other_temperatures(em, params, data, temperatures):
    with pytest.raises(ValueError, match="temperatures"):
        em.run_em(params, data, 3, temperatures=temperatures)


# --- run_em ---


def test_run_em_takes_one_step_at_each_temperature(em, params, data):
    temperatures = [3, 2, 1]
    found, curve = em.run_em(params, data, 3, 0.1, temperatures)
    expected = [params]
    for temperature in temperatures:
        counts = textbook.expected_counts(
            expected[-1], data.on, data.seen, data.weights, temperature
        )
        expected.append(textbook.maximise(counts, 0.1))
    values = [objective(mixture, data, 0.1) for mixture in expected]
    assert_agree("curve", values, curve)
    assert_agree("mixture", expected[-1], found)


def test_run_em_neither_smooths_nor_warms_unasked(em, params, data):
    found, curve = em.run_em(params, data, 2)
    expected = textbook_steps(params, data, 2)
    assert_agree("curve", [objective(mixture, data) for mixture in expected], curve)
    assert_agree("mixture", expected[-1], found)


# --- The M-step, smoothing and the prior ---


def make_counts(em, on, off):
    """Counts of two clusters, the second of which is empty."""
    return em.ExpectedCounts(
        cluster_counts=jnp.float32([4.0, 0.0]),
        on_counts=jnp.float32([on, [0.0] * 3]),
        off_counts=jnp.float32([off, [0.0] * 3]),
        log_likelihood=jnp.float32(-1.0),
    )


def test_means_stay_inside_their_bounds_and_are_one_half_without_counts(em):
    step = em.m_step(make_counts(em, [3.0, 0.0, 0.5], [0.0, 2.0, 1.5]))
    expected = [[1 - 1e-6, 1e-6, 0.25], [0.5, 0.5, 0.5]]
    np.testing.assert_array_equal(step.cluster_means, np.float32(expected))
    assert step.cluster_weights.tolist() == [1.0, 0.0]


def test_counts_of_nan_give_means_of_nan(em):
    """Not of one half."""
    step = em.m_step(make_counts(em, [NAN, 1.0, NAN], [1.0, NAN, NAN]))
    assert np.isnan(step.cluster_means[0]).all()


def test_the_log_prior_agrees_with_float64(em, params):
    expected = textbook.log_prior(params, 0.3)
    assert_agree("log prior", expected, em.log_prior(params, 0.3))


def test_means_of_0_and_1_are_taken_for_the_bounds(em):
    hard = em.as_mixture([0.5, 0.5], np.eye(2))
    expected = 4 * (np.log(1e-6) + np.log1p(-1e-6))
    assert_agree("log prior", expected, em.log_prior(hard, 1), rtol=1e-3)
    rows = em.observe([[1, 0], [1, 1], [1, np.nan]])
    expected = np.log([0.5, 1e-6, 0.5])
    np.testing.assert_allclose(em.log_likelihood(hard, rows), expected, rtol=1e-3)


# --- Starts ---


def n_different(rows):
    return len(np.unique(rows, axis=0))


def test_a_random_start_has_means_between_a_quarter_and_three_quarters(em):
    start = em.init_mixture_params(KEY, 15, 784)
    means = start.cluster_means
    assert 0.25 <= means.min() < 0.2505
    assert 0.7495 < means.max() < 0.75
    assert means.mean() == pytest.approx(0.5, abs=0.01)
    np.testing.assert_allclose(start.cluster_weights, 1 / 15, rtol=1e-6)


def test_a_cluster_starts_between_the_average_row_and_another(em, data):
    """With 7 pixels at 3/4; the average is by weights, and fills what a row hides."""
    weights = data.weights[:, None]
    n_seen = (weights * data.seen).sum(axis=0)
    average = (weights * (data.on & data.seen)).sum(axis=0) / n_seen
    rows = np.where(data.seen, data.on, average)
    possible = 0.25 * average + 0.75 * rows
    start = em.init_from_images(KEY, 3, data)
    assert n_different(start.cluster_means) == 3
    for means in start.cluster_means:
        assert np.isclose(means, possible, atol=1e-5).all(axis=1).any()
    np.testing.assert_allclose(start.cluster_weights, 1 / 3, rtol=1e-6)


def test_with_more_pixels_clusters_start_closer_to_the_average(em):
    """At 784 a tenth of the way to a row."""
    images = np.zeros((2, 784), dtype=bool)
    images[1] = True
    means = em.init_from_images(KEY, 2, images).cluster_means
    np.testing.assert_allclose(np.ptp(means, axis=0), 0.1, rtol=1e-4)


def test_clusters_never_start_equal(em):
    """Two questions are answered yes, no or not at all: nine kinds of rows."""
    rng = np.random.default_rng(1)
    yes = rng.uniform(size=(500, 2)) < 0.2
    data = em.BinaryData(on=yes, seen=make_seen(yes.shape))
    for seed in range(10):
        start = em.init_from_images(jax.random.PRNGKey(seed), 8, data)
        assert n_different(start.cluster_means) == 8


def test_there_can_be_as_many_clusters_as_different_rows_and_no_more(em):
    """Without a look at each of 200,000 rows one by one."""
    images = np.repeat(every_image(2), 50_000, axis=0)
    start = em.init_from_images(KEY, 4, images)
    assert n_different(start.cluster_means) == 4
    with pytest.raises(ValueError, match="4 different rows can't start 5 clusters"):
        em.init_from_images(KEY, 5, images)


def test_a_start_needs_a_cluster(em, data):
    with pytest.raises(ValueError, match="at least one cluster"):
        em.init_from_images(KEY, 0, data)


def test_a_row_of_weight_0_starts_no_cluster(em):
    images = every_image(3)
    weights = np.float32([0, 0.1, 0, 0, 0, 5, 0, 0])
    data = em.BinaryData(on=images, weights=weights)
    start = em.init_from_images(KEY, 2, data)
    average = start.cluster_means.mean(axis=0)
    chosen = np.unique(start.cluster_means > average + 0.01, axis=0)
    assert chosen.tolist() == [[False, False, False], [True, False, False]]
    with pytest.raises(ValueError, match="2 different rows"):
        em.init_from_images(KEY, 3, data)


TEN_ROWS = np.array([[False]] * 9 + [[True]])


@pytest.mark.parametrize(
    ("images", "weights"),
    [
        pytest.param(TEN_ROWS, None, id="repeats"),
        pytest.param(TEN_ROWS[8:], np.float32([9, 1]), id="weights"),
    ],
)
def test_a_row_starts_a_cluster_in_proportion_to_its_weight(em, images, weights):
    data = em.BinaryData(on=images, weights=weights)
    n_on = 0
    for seed in range(200):
        start = em.init_from_images(jax.random.PRNGKey(seed), 1, data)
        n_on += int(start.cluster_means[0, 0] > 0.5)
    assert 8 <= n_on <= 35  # of 200, a tenth expected


def test_a_row_starts_a_cluster_in_proportion_to_its_repeats(em):
    rows = np.array([[False], [True]])
    data = em.BinaryData(on=rows, repeats=np.float32([99, 1]))
    n_on = 0
    for key in jax.random.split(KEY, 50):
        start = em.init_from_images(key, 1, data)
        n_on += int(start.cluster_means[0, 0] > 0.5)
    assert n_on <= 5  # of 50, half a one expected


def test_the_average_of_a_start_counts_repeats(em):
    """One row is on, and stands for 3; with 1 pixel a start is 3/4 of the way to it."""
    rows = np.array([[False], [True]])
    data = em.BinaryData(on=rows, repeats=np.float32([1, 3]))
    means = np.sort(em.init_from_images(KEY, 2, data).cluster_means[:, 0])
    np.testing.assert_allclose(means, [0.1875, 0.9375], rtol=1e-5)


def test_the_same_key_gives_the_same_start(em, data):
    start = em.init_from_images(KEY, 3, data)
    new_style = em.init_from_images(jax.random.key(0), 3, data)
    chex.assert_trees_all_close(start, new_style)


def test_a_start_may_come_from_images_with_height_and_width(em, data):
    upright = data.replace(
        on=data.on.reshape(40, 1, 7), seen=data.seen.reshape(40, 1, 7)
    )
    start = em.init_from_images(KEY, 3, upright)
    chex.assert_trees_all_close(start, em.init_from_images(KEY, 3, data))


# --- The best of many fits ---


def test_the_best_of_many_fits_are_those_that_began_best(em, data):
    best, starts = em.best_fit(
        KEY, 3, data, n_starts=5, n_first_steps=3, n_to_end=2, pseudo_count=0.5
    )
    moved = []
    expected = []
    for key in jax.random.split(KEY, 5):
        start = em.init_from_images(key, 3, data)
        mixture, curve = em.run_em(start, data, 3, pseudo_count=0.5)
        moved.append(mixture)
        expected.append(float(curve[-1]))
    to_end = np.argsort(expected)[-2:]
    for i in to_end:
        expected[i] = em.fit(moved[i], data, pseudo_count=0.5).curve[-1]
    np.testing.assert_allclose(starts.values, expected, rtol=1e-5)
    assert np.flatnonzero(starts.converged).tolist() == sorted(to_end)
    assert best.curve[-1] == max(starts.values)
    value = objective(best.params, data, 0.5)
    assert value == pytest.approx(best.curve[-1], rel=1e-5)


def test_the_limits_of_a_best_fit_are_those_of_its_fits(em, data):
    with pytest.warns(UserWarning, match="max_steps=2"):
        best, starts = em.best_fit(KEY, 3, data, tolerance=-1.0, max_steps=2)
    assert len(best.curve) == 3
    assert not starts.converged.any()
    rough, _ = em.best_fit(KEY, 3, data, n_first_steps=1, tolerance=1.0)
    assert len(rough.curve) == 21


@pytest.mark.parametrize("option", ["n_starts", "n_to_end"])
def test_a_best_fit_needs_a_start_and_one_to_run_on(em, data, option):
    with pytest.raises(ValueError, match="need a start"):
        em.best_fit(KEY, 3, data, **{option: 0})


@pytest.mark.parametrize(("seed", "expected"), [(7, -1031.99), (8, -1084.91)])
def test_the_best_of_three_groups_in_six_questions_is_found(em, seed, expected):
    """Starts that are too alike all end elsewhere, and agree."""
    rng = np.random.default_rng(seed)
    shares = rng.random((3, 6))
    groups = rng.choice(3, 300, p=[0.5, 0.4, 0.1])
    table = rng.random((300, 6)) < shares[groups]
    best, _ = em.best_fit(KEY, 3, table)
    assert best.curve[-1] * 300 == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(
    ("n_clusters", "expected"), [(3, -2959.44), (4, -2892.40), (5, -2830.44)]
)
def test_the_best_fit_of_the_votes_of_1984_is_found(em, n_clusters, expected):
    path = ROOT / "data" / "votes" / "house-votes-84.csv"
    table = np.genfromtxt(path, dtype=str, delimiter=",", skip_header=1)
    votes = table[:, 1:]
    data = em.observe(np.where(votes == "", np.nan, votes == "y"))
    best, starts = em.best_fit(KEY, n_clusters, data)
    assert best.curve[-1] * len(votes) == pytest.approx(expected, abs=0.05)
    assert starts.values.shape == (20,)


def test_three_groups_of_a_wide_and_sparse_table_are_found(em):
    rng = np.random.default_rng(1)
    taste = np.exp(rng.normal(size=(3, 2_000)))
    rate = 30 * taste / taste.sum(axis=1, keepdims=True)
    group = rng.integers(3, size=1_000)
    how_active = rng.lognormal(0, 0.5, size=(1_000, 1))
    p = np.minimum(rate[group] * how_active, 0.95)
    table = rng.random((1_000, 2_000)) < p
    best, _ = em.best_fit(KEY, 3, table, n_starts=4, n_to_end=2)
    found = np.argmax(em.responsibilities(best.params, table), axis=1)
    pairs = np.bincount(3 * found + group, minlength=9).reshape(3, 3)
    assert pairs.max(axis=1).sum() > 950


def test_a_fit_finds_the_parameters_that_made_the_data(em):
    """With half of the answers missing."""
    rng = np.random.default_rng(0)
    weights = [0.5, 0.3, 0.2]
    means = rng.choice([0.1, 0.5, 0.9], size=(3, 20))
    groups = rng.choice(3, p=weights, size=6_000)
    images = rng.random((6_000, 20)) < means[groups]
    data = em.BinaryData(on=images, seen=make_seen(images.shape, seed=1))
    found = em.fit(em.init_from_images(KEY, 3, data), data).params
    order = np.argsort(-found.cluster_weights)
    np.testing.assert_allclose(found.cluster_weights[order], weights, atol=0.03)
    np.testing.assert_allclose(found.cluster_means[order], means, atol=0.06)


def test_twenty_steps_of_part_1_end_where_it_says(em, mnist):
    (train_images, _), (test_images, _) = mnist
    train_images = jax.device_put(train_images)
    params = em.init_mixture_params(jax.random.PRNGKey(83832), 15, 784)
    for _ in range(20):
        params = em.em_step(params, train_images)
    train_mean = em.mean_log_likelihood(params, train_images)
    test_mean = em.mean_log_likelihood(params, test_images)
    assert train_mean == pytest.approx(-158.17, abs=0.005)
    assert test_mean == pytest.approx(-157.71, abs=0.005)
