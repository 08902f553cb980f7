"""EM to its end: how a fit stops, what it refuses, how it starts, what it finds."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import textbook
from nbimport import ROOT
from textbook import (
    assert_agree,
    every_image,
    make_seen,
    make_survey,
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


# --- What is left to gain ---


@pytest.mark.parametrize("ratio", [0.5, 0.99])
def test_what_is_left_of_gains_that_shrink_by_a_ratio_is_their_sum(em, ratio):
    curve = [-(ratio**step) for step in range(23)]
    assert em.left_to_gain(curve) == pytest.approx(-curve[-1], rel=1e-3)


def test_what_is_left_goes_by_the_last_quarter_beside_the_one_before(em):
    """Of twelve values the last gain 1 in three steps, and those before 2 in three."""
    curve = [-900.0, -99.0, -98.0, -90.0, -9.0, 0.0, 1.9, 1.95, 2.0, 2.1, 2.2, 3.0]
    assert em.left_to_gain(curve) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        pytest.param([-5.0, -4.0, -3.99], INF, id="too short"),
        pytest.param([-5.0, -2.0, -1.0, 0.0], INF, id="as quick as before"),
        pytest.param([-5.0, -2.0, -3.0, -2.5], INF, id="a gain after a fall"),
        pytest.param([-5.0, -3.0, -3.0, -3.0], 0.0, id="flat"),
        pytest.param([-5.0, -3.0, -3.0, -3.5], 0.5, id="a fall"),
        pytest.param([-5.0, -2.0, -3.0, -3.0], 1.0, id="flat after a fall"),
    ],
)
def test_what_is_left_of_other_curves(em, curve, expected):
    assert em.left_to_gain(curve) == expected


def test_gains_that_rounding_may_hide_shrink_more_slowly(em):
    """Of -1000 it may hide 1e-4: gains of 5e-4 and 2e-4 may be 5e-4 and 3e-4."""
    curve = [-1001.0, -1000.0007, -1000.0002, -1000.0]
    assert em.left_to_gain(curve) == pytest.approx(2e-4 * 0.6 / 0.4, rel=1e-3)


# --- How a fit ends ---


def test_a_fit_ends_when_what_is_left_is_a_millionth_of_the_objective(em, params, data):
    found = em.fit(params, data)
    assert found.converged
    shares_left = []
    for end in range(1, len(found.curve) + 1):
        curve = found.curve[:end]
        shares_left.append(em.left_to_gain(curve) / abs(curve[-1]))
    assert shares_left[-1] <= 1e-6
    assert min(shares_left[:-1]) > 1e-6


def test_a_fit_ends_after_a_thousand_steps(em, params, data):
    found = em.fit(params, data, tolerance=-1.0)
    assert len(found.curve) == 1_001
    assert not found.converged


def test_a_fit_ends_at_its_limit(em, params, data):
    found = em.fit(params, data, max_steps=2)
    assert not found.converged
    *_, expected = textbook_steps(params, data, 2)
    assert_agree("mixture", expected, found.params)


def test_the_curve_holds_the_objective_of_the_start_and_after_each_step(
    em, params, data
):
    found = em.fit(params, data, pseudo_count=0.5, max_steps=4)
    expected = []
    for mixture in textbook_steps(params, data, 4, pseudo_count=0.5):
        expected.append(objective(mixture, data, pseudo_count=0.5))
    assert_agree("curve", expected, found.curve)


@pytest.mark.parametrize(
    ("pseudo_count", "how"),
    [
        pytest.param(0.0, {"tolerance": 0.01}, id="tolerance"),
        pytest.param(0.0, {"max_steps": 3}, id="limit"),
        pytest.param(0.0, {"max_steps": 0}, id="no steps"),
        pytest.param(0.5, {"tolerance": 0.01}, id="smoothed"),
    ],
)
def test_the_last_value_of_the_curve_is_that_of_the_parameters(
    em, params, data, pseudo_count, how
):
    found = em.fit(params, data, pseudo_count=pseudo_count, **how)
    expected = objective(found.params, data, pseudo_count)
    assert found.curve[-1] == pytest.approx(expected, abs=1e-4)


def test_a_fit_that_creeps_goes_on(em):
    """Of groups that overlap; EM in float64 ends at a share of 0.194."""
    data = em.observe(*make_survey(20_000))
    start = em.init_from_images(KEY, 2, data)
    share = em.fit(start, data).params.cluster_weights.min()
    assert share == pytest.approx(0.194, abs=0.02)


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

    A fall within that doesn't end a fit: it says nothing of what is left.
    """
    n_priors = pseudo_count * 3 / data.weights.sum()
    allowed = 1e-4 * 7 * (1 + n_priors)
    within = pretend([-900.0, -6.0, -5.0, -5.0 - 0.95 * allowed])
    beyond = pretend([-900.0, -6.0, -5.0, -5.0 - 1.05 * allowed])
    options = {"pseudo_count": pseudo_count, "max_steps": 3}
    assert not em.fit(params, data, e_step=within, **options).converged
    with pytest.raises(FloatingPointError, match="the objective fell by 0.00"):
        em.fit(params, data, e_step=beyond, **options)


@pytest.mark.parametrize(
    ("last", "tolerance"),
    [
        pytest.param(-5.000003, 1e-6, id="a fall below the tolerance"),
        pytest.param(-5.0, 0.0, id="no tolerance, but nothing left"),
    ],
)
def test_a_fit_that_stands_still_ends(em, params, data, pretend, last, tolerance):
    e_step = pretend([-9.0, -5.0, -5.0, last])
    assert em.fit(params, data, tolerance=tolerance, e_step=e_step).converged


@pytest.mark.parametrize("value", [NAN, INF])
def test_an_objective_that_is_not_finite_raises(em, params, data, pretend, value):
    with pytest.raises(FloatingPointError, match=f"the objective is {value}"):
        em.fit(params, data, e_step=pretend([-9.0, value]))


def test_a_fit_takes_any_e_step(em, params, data):
    """Whatever the data are, they are the e_step's own affair."""

    def e_step_of_name(params, name):
        assert name == "forty rows"
        return em.e_step(params, data)

    found = em.fit(params, "forty rows", max_steps=3, e_step=e_step_of_name)
    chex.assert_trees_all_close(found, em.fit(params, data, max_steps=3))


def test_a_fit_takes_the_e_step_of_the_notebook_as_it_is_now(
    em, params, data, pretend, monkeypatch
):
    """A cell of it may have been run again."""
    monkeypatch.setattr(em, "e_step", pretend([-9.0, -5.0]))
    curve = em.fit(params, data, max_steps=1).curve
    assert curve == pytest.approx([-9.0, -5.0])


def test_a_fit_tells_of_each_step(em, params, data):
    told = []

    def tell(params, curve):
        told.append((objective(params, data), curve[-1], len(curve)))

    found = em.fit(params, data, max_steps=2, on_step=tell)
    values, ends, lengths = zip(*told)
    assert lengths == (2, 3)
    assert ends == tuple(found.curve[1:])
    assert values == pytest.approx(ends, abs=1e-4)


# --- What is refused ---


def spread(rows):
    """Rows on two devices, as shard puts them."""
    mesh = jax.make_mesh((2,), ("rows",), devices=jax.devices()[:2])
    halves = jax.sharding.PartitionSpec("rows")
    return jax.device_put(rows, jax.sharding.NamedSharding(mesh, halves))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        pytest.param(
            lambda data: lambda: iter([data]), TypeError, "stream", id="stream"
        ),
        pytest.param(lambda data: spread(data.on), ValueError, "shard", id="spread"),
        pytest.param(
            lambda data: data.replace(weights=-data.weights),
            ValueError,
            "weights must be finite, 0 or more",
            id="negative weights",
        ),
        pytest.param(
            lambda data: data.on[:0], FloatingPointError, "are there any", id="no rows"
        ),
    ],
)
def test_a_fit_refuses_data_that_it_cannot_count(
    em, params, data, change, error, words
):
    with pytest.raises(error, match=words):
        em.fit(params, change(data))


def test_a_fit_refuses_what_is_no_mixture(em, params, data):
    """More of these in test_data.py."""
    counts = params.replace(cluster_weights=params.cluster_weights * 600)
    with pytest.raises(ValueError, match="cluster weights must be"):
        em.fit(counts, data)


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


def test_a_cluster_starts_near_the_average_row_a_tenth_of_the_way_to_another(em, data):
    """The average is one by weights; what a row hides is taken from it."""
    weights = data.weights[:, None]
    n_seen = (weights * data.seen).sum(axis=0)
    average = (weights * (data.on & data.seen)).sum(axis=0) / n_seen
    rows = np.where(data.seen, data.on, average)
    possible = 0.9 * average + 0.1 * rows
    start = em.init_from_images(KEY, 3, data)
    assert n_different(start.cluster_means) == 3
    for means in start.cluster_means:
        assert np.isclose(means, possible, atol=1e-5).all(axis=1).any()
    np.testing.assert_allclose(start.cluster_weights, 1 / 3, rtol=1e-6)


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
        n_on += int(start.cluster_means[0, 0] > 0.15)
    assert 8 <= n_on <= 35  # of 200, a tenth expected


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
    best, values = em.best_fit(
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
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    assert best.curve[-1] == max(values)
    assert objective(best.params, data, 0.5) == pytest.approx(max(values), rel=1e-5)


@pytest.mark.parametrize(
    ("n_clusters", "expected"), [(3, -2959.44), (4, -2892.40), (5, -2830.44)]
)
def test_the_best_fit_of_the_votes_of_1984_is_found(em, n_clusters, expected):
    path = ROOT / "data" / "votes" / "house-votes-84.csv"
    table = np.genfromtxt(path, dtype=str, delimiter=",", skip_header=1)
    votes = table[:, 1:]
    data = em.observe(np.where(votes == "", np.nan, votes == "y"))
    best, values = em.best_fit(KEY, n_clusters, data)
    assert best.curve[-1] * len(votes) == pytest.approx(expected, abs=0.05)
    assert len(values) == 20


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
