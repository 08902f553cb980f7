"""Tables become data: what observe takes, and what each function refuses."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

KEY = jax.random.PRNGKey(0)
NAN = np.nan


class NAType:
    """As pandas' NA: no number, and no comparison is true or false."""

    def __ne__(self, other):
        return self

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")


class NaTType:
    """As pandas' NaT, an unknown time; nothing is known of it but its name."""


class Frame:
    """As much of a data frame, of pandas or polars, as observe needs."""

    def __init__(self, rows):
        self.rows = rows

    def to_numpy(self):
        return np.array(self.rows)


# --- observe: the tables that it takes ---

MASK = np.array([[False, False, True], [False, True, False]])


class NullableFrame:
    """As pandas' frame of nullable numbers: quick as floats, slow as objects."""

    def to_numpy(self, dtype=None, na_value=None):
        assert dtype is float
        return np.array([[1, 0, na_value], [0, na_value, 1]])


TABLES_WITH_HOLES = [
    pytest.param(NullableFrame(), id="a frame of nullable numbers"),
    pytest.param(jnp.array([[1, 0, NAN], [0, NAN, 1]], jnp.bfloat16), id="bfloat16"),
    pytest.param([[1, 0, None], [0, None, 1]], id="lists with None"),
    pytest.param(jnp.array([[1, 0, NAN], [0, NAN, 1]]), id="jax"),
    pytest.param(
        np.array([[1, 0, NAType()], [0, NaTType(), 1]], dtype=object),
        id="NA and NaT among objects",
    ),
    pytest.param(Frame([[True, False, None], [0, None, 1]]), id="data frame with null"),
    pytest.param(
        np.ma.array(np.uint8([[1, 0, 255], [0, 255, 1]]), mask=MASK),
        id="masked integers",
    ),
    pytest.param(
        np.ma.array([[1, 0, "?"], [0, None, 1]], mask=[[0, 0, 1], [0, 0, 0]]),
        id="masked objects",
    ),
    pytest.param([[1, 0, np.ma.masked], [0, None, 1]], id="the masked constant"),
]


@pytest.mark.parametrize("table", TABLES_WITH_HOLES)
def test_observe_takes_0_1_and_missing(em, table):
    data = em.observe(table)
    seen = np.asarray(data.seen)
    assert seen.tolist() == [[True, True, False], [True, False, True]]
    assert np.asarray(data.on)[seen].tolist() == [True, False, False, True]
    assert data.weights is None


def test_observe_says_nothing_of_seen_where_nothing_is_missing(em):
    data = em.observe(Frame([[True, False], [False, True]]))
    assert data.on.tolist() == [[True, False], [False, True]]
    assert data.seen is None


def test_observe_makes_rows_of_images(em):
    data = em.observe([[[1, 0], [NAN, 1]], [[0, 0], [0, NAN]]])
    assert data.on.tolist() == [[True, False, False, True], [False] * 4]
    assert data.seen.tolist() == [[True, True, False, True], [True, True, True, False]]


# --- observe: the tables that it refuses ---

AS_TEXT = "map yes to 1 and no to 0 first, and leave what is missing missing"

REFUSED_TABLES = [
    pytest.param([[0, 1], [2, 1]], ValueError, "row 1, column 0 is 2", id="a two"),
    pytest.param([0, 1, NAN], ValueError, "rows and columns", id="one dimension"),
    pytest.param(np.ones((0, 3)), ValueError, "rows and columns", id="no rows"),
    pytest.param([["yes", "no"]], TypeError, AS_TEXT, id="text"),
    pytest.param([["1", None]], TypeError, AS_TEXT, id="text with gaps"),
    pytest.param(
        scipy.sparse.csr_array(np.eye(2)), TypeError, r"table\.toarray\(\)", id="sparse"
    ),
    pytest.param([[np.str_("1"), None]], TypeError, AS_TEXT, id="text of NumPy"),
    pytest.param([[1 + 0j, 0]], TypeError, AS_TEXT, id="complex numbers"),
    pytest.param({"a": [1, 0]}, TypeError, "a dict: pass rows", id="a dict"),
    pytest.param(iter([[0, 1]]), TypeError, "pass rows", id="a generator"),
    pytest.param(
        np.array([(1, 0)], dtype=[("a", int), ("b", int)]),
        TypeError,
        "named columns",
        id="a record array",
    ),
]


@pytest.mark.parametrize(("table", "error", "words"), REFUSED_TABLES)
def test_observe_refuses_other_tables(em, table, error, words):
    with pytest.raises(error, match=words):
        em.observe(table)


def test_observe_refuses_what_it_has_made(em):
    with pytest.raises(TypeError, match="observed already"):
        em.observe(em.observe([[1, 0]]))


def test_the_remedy_that_observe_names_for_grey_images_keeps_their_gaps(em):
    table = np.array([[0.2, NAN, 0.7], [0.0, 0.1, 0.2]])
    remedy = "np.where(np.isnan(table), np.nan, table >= 0.5)"
    with pytest.raises(ValueError, match=re.escape(remedy)):
        em.observe(table)
    data = em.observe(np.where(np.isnan(table), np.nan, table >= 0.5))
    assert data.seen.tolist() == [[True, False, True], [True, True, True]]
    assert data.on.tolist() == [[False, False, True], [False, False, False]]


# --- observe: weights and repeats ---


def test_observe_takes_what_each_row_counts_and_gives_arrays_of_jax(em):
    data = em.observe([[1, 0], [NAN, 1]], [0.5, 1.5], repeats=[2, 0])
    assert data.weights.tolist() == [0.5, 1.5]
    assert data.repeats.tolist() == [2.0, 0.0]
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(data))
    assert data.on.dtype == bool
    assert data.seen.dtype == bool
    assert data.weights.dtype == jnp.float32
    assert data.repeats.dtype == jnp.float32


REFUSED_COUNTERS = [
    pytest.param([1, -1], ValueError, "0 or more", id="negative"),
    pytest.param([1, np.inf], ValueError, "finite", id="infinite"),
    pytest.param([0, 0], ValueError, "not be all 0", id="all 0"),
    pytest.param(np.ma.array([1, 5], mask=[0, 1]), TypeError, "masked", id="masked"),
    pytest.param([1], ValueError, r"of shape \(1,\): need \(2,\)", id="too few"),
    pytest.param(["1", "two"], TypeError, "must be numbers", id="text"),
]


@pytest.mark.parametrize("name", ["weights", "repeats"])
@pytest.mark.parametrize(("counters", "error", "words"), REFUSED_COUNTERS)
def test_observe_refuses_other_weights_and_repeats(em, name, counters, error, words):
    with pytest.raises(error, match=words):
        em.observe([[1, 0], [NAN, 1]], **{name: counters})


def test_repeats_are_whole_numbers(em):
    with pytest.raises(ValueError, match="repeats must be whole numbers"):
        em.observe([[1, 0], [NAN, 1]], repeats=[1.0, 2.5])


@pytest.mark.parametrize("name", ["weights", "repeats"])
def test_data_cannot_be_made_with_rows_that_count_less_than_nothing(em, name):
    """Wherever they come from, a stream or a sum: there is no such BinaryData."""
    rows = np.ones((2, 3), dtype=bool)
    with pytest.raises(ValueError, match=f"{name} must be finite, and 0 or more"):
        em.BinaryData(on=rows, **{name: np.array([1.0, -1.0])})


@pytest.mark.parametrize(
    "weights",
    [
        pytest.param([0.3, 0.7], id="a sum of 1"),
        pytest.param([2.5, 1.52], id="a mean of 2.01"),
        pytest.param([700, 1_500], id="whole numbers, of a census"),
    ],
)
def test_weights_on_another_scale_than_rows_are_told_the_remedy(em, weights):
    with pytest.warns(UserWarning, match=r"weights / weights\.mean\(\)") as warned:
        em.observe([[1, 0], [0, 1]], weights)
    assert len(warned) == 1
    assert warned[0].filename == __file__  # the line that called observe
    mean = np.mean(weights)
    assert f"the mean weight is {mean:.3g}:" in str(warned[0].message)


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"repeats": [1_000, 0]}, id="repeats"),
        pytest.param({"weights": [0.4, 0.62]}, id="a mean of 0.51"),
        pytest.param({"weights": [2.5, 1.48]}, id="a mean of 1.99"),
        pytest.param({"weights": [1, 0]}, id="a row held out"),
        pytest.param({"weights": [0.9, 1.1], "repeats": [900, 100]}, id="both"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_repeats_and_weights_of_a_mean_near_1_are_taken_quietly(em, how):
    em.observe([[1, 0], [0, 1]], **how)


# --- observe: columns and tables without answers ---


def test_a_column_that_nobody_answered_is_worth_a_warning(em):
    with pytest.warns(UserWarning, match="nobody answered column 1, 3,") as warned:
        em.observe([[1, NAN, 0, NAN], [0, NAN, 1, NAN]])
    assert warned[0].filename == __file__


@pytest.mark.filterwarnings("error")
def test_a_column_that_somebody_answered_is_taken_quietly(em):
    em.observe([[1, NAN], [0, 1]])


def test_a_table_of_nothing_but_missing_values_is_refused(em):
    """As of text that was read as floats."""
    with pytest.raises(ValueError, match="nothing but missing values"):
        em.observe([[NAN, NAN], [NAN, NAN]])


# --- as_data: rows that fit the mixture ---


@pytest.fixture(scope="module")
def images(data):
    return data.on


OBSERVE = r"^pass boolean images, or a table through observe\(table\)$"

REFUSED_DATA = [
    pytest.param({"on": np.ones((40, 6), dtype=bool)}, "has 7 pixels", id="6 columns"),
    pytest.param({"on": np.ones(40, dtype=bool)}, "has 7 pixels", id="one dimension"),
    pytest.param({"seen": np.ones((1, 7), dtype=bool)}, "seen", id="one row of seen"),
    pytest.param({"weights": np.ones(7)}, "weights or repeats", id="weights of pixels"),
    pytest.param({"repeats": np.ones(7)}, "weights or repeats", id="repeats of pixels"),
]


@pytest.mark.parametrize(("change", "words"), REFUSED_DATA)
def test_rows_that_do_not_fit_the_mixture_are_refused(em, params, data, change, words):
    with pytest.raises(ValueError, match=words):
        em.as_data(data.replace(**change), params)


def test_a_single_row_starts_no_clusters(em):
    """It would be taken for many rows of one pixel."""
    with pytest.raises(ValueError, match="need rows of pixels"):
        em.init_from_images(KEY, 1, np.ones(40, dtype=bool))


def test_what_is_seen_is_boolean(em, params, images):
    with pytest.raises(TypeError, match=OBSERVE):
        em.as_data(em.BinaryData(on=images, seen=images * 1.0), params)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(
            {"cluster_weights": np.full(4, 0.25)}, "weights", id="a weight too many"
        ),
        pytest.param(
            {"cluster_means": np.full((2, 3, 7), 0.5)}, "mixture", id="two mixtures"
        ),
    ],
)
def test_a_mixture_of_another_shape_is_refused(em, params, images, change, words):
    with pytest.raises(ValueError, match=words):
        em.as_data(images, params.replace(**change))


COMPILED = {
    "log_joint_prob": lambda em, p, x: em.log_joint_prob(p, x),
    "log_likelihood": lambda em, p, x: em.log_likelihood(p, x),
    "responsibilities": lambda em, p, x: em.responsibilities(p, x),
    "e_step": lambda em, p, x: em.e_step(p, x),
    "em_step": lambda em, p, x: em.em_step(p, x),
    "run_em": lambda em, p, x: em.run_em(p, x, 3),
    "mean_log_likelihood": lambda em, p, x: em.mean_log_likelihood(p, x),
    "complete_images": lambda em, p, x: em.complete_images(p, x),
    "class_log_joint": lambda em, p, x: em.class_log_joint([p], [1], x),
}


@pytest.mark.parametrize("name", COMPILED)
def test_a_forgotten_observe_is_one_clear_line(em, params, images, name):
    with pytest.raises(TypeError, match=OBSERVE):
        COMPILED[name](em, params, images * 1.0)


IN_PYTHON = {
    "fit": lambda em, p, x: em.fit(p, x),
    "e_step_stream": lambda em, p, x: em.e_step_stream(p, lambda: [x]),
    "online_em": lambda em, p, x: next(em.online_em(p, [x], n_images=40)),
    "shard": lambda em, p, x: em.shard(jax.make_mesh((1,), ("data",)), x),
    "init_from_images": lambda em, p, x: em.init_from_images(KEY, 2, x),
    "best_fit": lambda em, p, x: em.best_fit(KEY, 2, x),
    "bootstrap": lambda em, p, x: em.bootstrap(KEY, p, x),
}


@pytest.mark.parametrize("name", IN_PYTHON)
def test_a_data_frame_is_refused_before_anything_is_compiled(em, params, images, name):
    with pytest.raises(TypeError, match=OBSERVE):
        IN_PYTHON[name](em, params, Frame(images.tolist()))


@pytest.mark.parametrize("name", [*IN_PYTHON, "run_em", "mean_log_likelihood"])
def test_a_masked_array_is_refused_whatever_ran_before(em, params, images, name):
    """JAX would drop its mask."""
    call = (COMPILED | IN_PYTHON)[name]
    with pytest.raises(TypeError, match="observe"):
        call(em, params, np.ma.array(images, mask=~images))


def test_no_data_hold_a_masked_array(em, images):
    masked = np.ma.array(images, mask=~images)
    counters = np.ma.array(np.ones(40), mask=np.arange(40) < 2)
    for fields in (
        {"on": masked},
        {"on": images, "seen": masked},
        {"on": images, "weights": counters},
        {"on": images, "repeats": counters},
    ):
        with pytest.raises(TypeError, match="masked"):
            em.BinaryData(**fields)


# --- as_mixture: parameters from outside ---


@pytest.mark.parametrize("weights", [[0.25, 0.75], [0.249, 0.747], [0.2502, 0.7506]])
def test_as_mixture_takes_lists_and_arrays(em, weights):
    """Weights may be rounded: they are divided by their sum."""
    means = np.array([[0.0, 0.5, 1.0], [0.1, 0.2, 0.3]])
    mixture = em.as_mixture(weights, means)
    assert isinstance(mixture, em.BernoulliMixture)
    for leaf in jax.tree.leaves(mixture):
        assert isinstance(leaf, jax.Array)
        assert leaf.dtype == jnp.float32
    np.testing.assert_allclose(mixture.cluster_weights, [0.25, 0.75])
    np.testing.assert_allclose(mixture.cluster_means, means)


HALVES = [[0.5, 0.5], [0.5, 0.5]]
ABOVE_1 = [[0.5, 0.5], [0.5, 1.01]]
BELOW_0 = [[0.5, -0.01], [0.5, 0.5]]

REFUSED_MIXTURES = [
    pytest.param([0.5, 0.5], [0.5, 0.5], r"means \(2,\): need", id="means of one row"),
    pytest.param([1.0], HALVES, "one cluster weight for each", id="a weight too few"),
    pytest.param([0.6, 0.43], HALVES, "sum to 1", id="a sum of 1.03"),
    pytest.param([0.6, 0.37], HALVES, "sum to 1", id="a sum of 0.97"),
    pytest.param([1.5, -0.5], HALVES, "0 or more", id="a negative weight"),
    pytest.param([0.5, 0.5], ABOVE_1, "probabilities", id="a mean above 1"),
    pytest.param([0.5, 0.5], BELOW_0, "probabilities", id="a mean below 0"),
    pytest.param(
        [0.5, 0.5], [[0.5, NAN], [0.5, 0.5]], "probabilities", id="a mean that is NaN"
    ),
]


@pytest.mark.parametrize(("weights", "means", "words"), REFUSED_MIXTURES)
def test_what_is_no_mixture_is_refused(em, weights, means, words):
    with pytest.raises(ValueError, match=words):
        em.as_mixture(weights, means)


# --- make_cluster_labels (what it counts, in test_em.py) ---


@pytest.mark.parametrize(
    ("assignments", "labels", "words"),
    [
        pytest.param([0, 1, 1], [1, 2], "each assignment", id="a label missing"),
        pytest.param([0, 1], [3, 10], "0 to 9", id="no such digit"),
        pytest.param([0, 1], ["3", "1"], "0 to 9", id="text"),
    ],
)
def test_each_assignment_needs_a_cluster_and_a_digit(em, assignments, labels, words):
    with pytest.raises(ValueError, match=words):
        em.make_cluster_labels(assignments, labels, 2)
