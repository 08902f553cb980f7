"""What Part 1 can do without: holes, weights, tables, fits, starts, and the model at work.

Tables are small here. Seven pixels have 128 images, few enough to try every completion.
"""

import dataclasses
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
import textbook
from nbimport import ROOT
from textbook import (
    assert_agree,
    every_image,
    make_holes,
    make_images,
    make_mixture,
)

N_ROWS = 40
N_PIXELS = 7
N_CLUSTERS = 3
KEY = jax.random.PRNGKey(0)
NAN = np.nan


# --- What the tests share ---


@pytest.fixture(scope="module")
def params(em):
    return make_mixture(em, N_CLUSTERS, N_PIXELS)


@pytest.fixture(scope="module")
def images():
    """Rows in three groups, ten of them equal, a pixel never on and one always on."""
    return make_images(N_ROWS, 1, N_PIXELS).reshape(N_ROWS, N_PIXELS)


@pytest.fixture(scope="module")
def weights():
    """A few of them are 0."""
    rng = np.random.default_rng(1)
    return rng.integers(4, size=N_ROWS).astype(np.float32)


@pytest.fixture(scope="module")
def holes(em, images):
    """The same rows with holes, in other pixels in each; of the first row nothing is seen."""
    on, off = make_holes(images)
    on[0] = False
    off[0] = False
    return em.BinaryData(on=on, off=off)


@pytest.fixture(scope="module")
def weighted_holes(holes, weights):
    return holes.replace(weights=weights)


@pytest.fixture(params=["complete", "weights", "holes", "holes and weights"])
def data(request, em, images, weights, holes, weighted_holes):
    """Each kind of data in turn."""
    kinds = {
        "complete": em.BinaryData(on=images),
        "weights": em.BinaryData(on=images, weights=weights),
        "holes": holes,
        "holes and weights": weighted_holes,
    }
    return kinds[request.param]


def parts(data):
    """What the textbook's functions take of a BinaryData."""
    return data.on, data.off, data.weights


def take_rows(data, rows):
    return jax.tree.map(lambda leaf: leaf[rows], data)


def stack(*trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def assert_close(found, expected, rtol=1e-4, atol=1e-5):
    chex.assert_trees_all_close(found, expected, rtol=rtol, atol=atol)


# Functions that give each row a result of its own.
BY_ROW = [
    pytest.param(lambda em, p, x: em.log_joint_prob(p, x), id="log_joint_prob"),
    pytest.param(lambda em, p, x: em.log_likelihood(p, x), id="log_likelihood"),
    pytest.param(lambda em, p, x: em.complete_images(p, x), id="complete_images"),
    pytest.param(
        lambda em, p, x: em.class_log_joint([p, p], [0.4, 0.6], x),
        id="class_log_joint",
    ),
]
# Functions that learn from all rows together, and can be compiled into another function.
BY_SUM = [
    pytest.param(lambda em, p, x: em.e_step(p, x), id="e_step"),
    pytest.param(lambda em, p, x: em.em_step(p, x, 0.5), id="em_step"),
    pytest.param(lambda em, p, x: em.run_em(p, x, np.ones(3), 0.5), id="run_em"),
]
# Functions that learn from all rows together, in a loop of Python.
IN_A_LOOP = [
    pytest.param(
        lambda em, p, x: em.fit(p, x, pseudo_count=0.5, tolerance=-1.0, max_steps=5),
        id="fit",
    ),
    pytest.param(
        lambda em, p, x: list(em.online_em(p, [x, x], 100, 0.5)), id="online_em"
    ),
]


# --- Holes ---


def test_the_marginal_of_a_row_is_the_sum_over_all_its_completions(em, params):
    table, is_completion = every_row_with_holes()
    p = np.exp(textbook.log_likelihood(params, every_image(N_PIXELS)))
    found = np.exp(em.log_likelihood(params, em.observe(table)))
    np.testing.assert_allclose(found, is_completion @ p, rtol=1e-4)


def test_a_completion_is_the_average_over_all_completions(em, params):
    table, is_completion = every_row_with_holes()
    every = every_image(N_PIXELS)
    p = np.exp(textbook.log_likelihood(params, every))
    expected = is_completion @ (p[:, None] * every) / (is_completion @ p)[:, None]
    found = em.complete_images(params, em.observe(table))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def every_row_with_holes():
    """All rows of 0, 1 and NaN, and which of every_image completes which (rows, images)."""
    values = [0.0, 1.0, NAN]
    columns = np.meshgrid(*[values] * N_PIXELS, indexing="ij")
    table = np.stack([column.ravel() for column in columns], axis=1)
    every = every_image(N_PIXELS)
    same = table[:, None, :] == every
    is_completion = (same | np.isnan(table)[:, None, :]).all(axis=2)
    return table, is_completion


def test_what_is_seen_is_completed_as_it_is(em, params, holes):
    completed = np.asarray(em.complete_images(params, holes))
    assert (completed[holes.on] == 1).all()
    assert (completed[holes.off] == 0).all()


def test_complete_images_are_their_own_completion(em, params, images):
    completed = em.complete_images(params, images)
    np.testing.assert_array_equal(completed, images)


@pytest.mark.parametrize("call", BY_ROW + BY_SUM + IN_A_LOOP)
def test_data_hidden_nowhere_equal_complete_data(em, params, images, call):
    hidden_nowhere = em.BinaryData(on=images, off=~images)
    assert_close(call(em, params, hidden_nowhere), call(em, params, images))


@pytest.mark.parametrize("call", BY_ROW + BY_SUM + IN_A_LOOP)
def test_images_with_holes_may_have_height_and_width(em, params, holes, call):
    upright = jax.tree.map(lambda leaf: leaf.reshape(N_ROWS, 1, N_PIXELS), holes)
    assert_close(call(em, params, upright), call(em, params, holes))


def test_a_row_without_anything_seen_has_probability_1(em, params):
    nothing = em.observe(np.full((1, N_PIXELS), NAN))
    assert_agree("log p", [0.0], em.log_likelihood(params, nothing), atol=1e-6)
    log_weights = np.log(params.cluster_weights)[None, :]
    assert_agree("log joint", log_weights, em.log_joint_prob(params, nothing))


def test_a_pixel_that_is_never_seen_gets_means_of_one_half(em, params, holes):
    is_first = np.arange(N_PIXELS) == 0
    unseen = em.BinaryData(on=holes.on & ~is_first, off=holes.off & ~is_first)
    step = em.em_step(params, unseen)
    assert (step.cluster_means[:, 0] == 0.5).all()
    assert (step.cluster_means[:, 1:] != 0.5).all()


# --- Agreement with float64, on each kind of data ---


def test_log_joint_agrees_with_float64(em, params, data):
    expected = textbook.log_joint(params, data.on, data.off)
    assert_agree("log joint", expected, em.log_joint_prob(params, data))


def test_log_likelihood_agrees_with_float64(em, params, data):
    expected = textbook.log_likelihood(params, data.on, data.off)
    assert_agree("log p", expected, em.log_likelihood(params, data))


@pytest.mark.parametrize("temperature", [1.0, 7.0, 0.5])
def test_counts_agree_with_float64(em, params, data, temperature):
    expected = textbook.expected_counts(params, *parts(data), temperature)
    assert_agree("counts", expected, em.e_step(params, data, temperature))


@pytest.mark.parametrize("pseudo_count", [0.0, 0.5])
def test_a_step_agrees_with_float64(em, params, data, pseudo_count):
    expected = textbook.step(params, *parts(data), pseudo_count)
    assert_agree("step", expected, em.em_step(params, data, pseudo_count))


@pytest.mark.parametrize("n", [2_000, 2_001, 4_100])
def test_counts_of_several_batches_agree_with_float64(em, params, n):
    on, off = make_holes(make_images(n, 1, N_PIXELS))
    weights = np.random.default_rng(2).uniform(0, 3, size=n).astype(np.float32)
    data = em.BinaryData(on=on.reshape(n, -1), off=off.reshape(n, -1), weights=weights)
    expected = textbook.expected_counts(params, *parts(data))
    assert_agree(f"{n} rows", expected, em.e_step(params, data))
    expected = textbook.log_likelihood(params, data.on, data.off)
    assert_agree(f"{n} rows", expected, em.log_likelihood(params, data))


def test_mnist_with_holes_and_weights_agrees_with_float64(em, mnist):
    (train_images, _), _ = mnist
    on, off = make_holes(np.asarray(train_images[:1_000]).reshape(1_000, 784))
    weights = np.random.default_rng(2).uniform(0, 3, size=1_000).astype(np.float32)
    data = em.BinaryData(on=on, off=off, weights=weights)
    params = em.init_mixture_params(KEY, 15, 784)
    params = em.em_step(em.em_step(params, data), data)
    expected = textbook.log_likelihood(params, on, off)
    error = np.abs(em.log_likelihood(params, data) - expected)
    assert error.mean() < 1e-4  # nats, of about 80
    total = em.e_step(params, data).log_likelihood / weights.sum()
    assert total == pytest.approx(np.average(expected, weights=weights), abs=1e-4)


# --- Weights ---


@pytest.mark.parametrize("call", BY_SUM + IN_A_LOOP)
def test_integer_weights_equal_repeated_rows(em, params, weighted_holes, call):
    n_times = weighted_holes.weights.astype(int)
    repeated = em.BinaryData(
        on=np.repeat(weighted_holes.on, n_times, axis=0),
        off=np.repeat(weighted_holes.off, n_times, axis=0),
    )
    assert_close(call(em, params, weighted_holes), call(em, params, repeated))


@pytest.mark.parametrize("call", BY_SUM + IN_A_LOOP)
def test_a_row_of_weight_0_counts_as_absent(em, params, weighted_holes, call):
    present = take_rows(weighted_holes, weighted_holes.weights > 0)
    assert len(present.on) < N_ROWS
    assert_close(call(em, params, weighted_holes), call(em, params, present))


@pytest.mark.parametrize("call", BY_ROW)
def test_weights_leave_the_results_of_rows_alone(
    em, params, holes, weighted_holes, call
):
    assert_close(call(em, params, weighted_holes), call(em, params, holes))


def test_fit_divides_by_the_sum_of_the_weights(em, params, holes, weights):
    found = em.fit(params, holes.replace(weights=weights), max_steps=3)
    log_p = textbook.log_likelihood(params, holes.on, holes.off)
    assert found.curve[0] == pytest.approx(np.average(log_p, weights=weights), abs=1e-4)
    tenfold = em.fit(params, holes.replace(weights=10 * weights), max_steps=3)
    assert_close(tenfold, found)


def test_weights_may_be_integers(em, params, holes, weights):
    integers = holes.replace(weights=weights.astype(int))
    expected = em.e_step(params, holes.replace(weights=weights))
    assert_close(em.e_step(params, integers), expected)


# --- observe, the door for tables ---


class Frame:
    """As much of a data frame of pandas as observe needs; None is a missing value."""

    def __init__(self, rows):
        self.rows = rows

    def isna(self):
        raise NotImplementedError

    def to_numpy(self, dtype, na_value):
        rows = []
        for row in self.rows:
            rows.append([na_value if value is None else value for value in row])
        return np.array(rows, dtype=dtype)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.rows, dtype=object)  # as pandas gives nullable columns


SPARSE = scipy.sparse.csr_array(np.eye(2))
MASK = [[False, False, True], [False, True, False]]

TABLES = [
    pytest.param([[1, 0, NAN], [0, NAN, 1]], id="lists"),
    pytest.param(((1, 0, NAN), (0, NAN, 1)), id="tuples"),
    pytest.param([[True, False, NAN], [False, NAN, True]], id="booleans and NaN"),
    pytest.param(np.array([[1, 0, NAN], [0, NAN, 1]]), id="float64"),
    pytest.param(np.float32([[1, 0, NAN], [0, NAN, 1]]), id="float32"),
    pytest.param(np.float16([[1, 0, NAN], [0, NAN, 1]]), id="float16"),
    pytest.param(np.ma.array([[1, 0, 1], [0, 1, 1]], mask=MASK), id="masked integers"),
    pytest.param(
        np.ma.array([[True, False, True], [False, True, True]], mask=MASK),
        id="masked booleans",
    ),
    pytest.param(
        np.ma.array([[1, 0, 7.0], [0, NAN, 1]], mask=np.array(MASK)), id="masked floats"
    ),
    pytest.param(
        np.ma.array([[1, 0, NAN], [0, 1, 1]], mask=[[0, 0, 0], [0, 1, 0]]),
        id="masked and NaN",
    ),
    pytest.param(
        [
            np.ma.array([1, 0, 1], mask=MASK[0]),
            np.ma.array([0, 1, 1], mask=MASK[1]),
        ],
        id="list of masked rows",
    ),
    pytest.param(
        (
            np.ma.array([1, 0, 1], mask=MASK[0]),
            np.ma.array([0, 1, 1], mask=MASK[1]),
        ),
        id="tuple of masked rows",
    ),
    pytest.param(Frame([[True, False, None], [0, None, 1]]), id="data frame"),
]


@pytest.mark.parametrize("table", TABLES)
def test_observe_takes_0_1_and_missing(em, table):
    assert_observed(em.observe(table))


def test_observe_takes_arrays_of_jax(em):
    assert_observed(em.observe(jnp.array([[1, 0, NAN], [0, NAN, 1]])))


def assert_observed(data):
    assert data.on.tolist() == [[True, False, False], [False, False, True]]
    assert data.off.tolist() == [[False, True, False], [True, False, False]]
    assert data.weights is None


COMPLETE_TABLES = [
    pytest.param([[1, 0], [0, 1]], id="lists"),
    pytest.param(np.eye(2), id="floats"),
    pytest.param(np.eye(2, dtype=bool), id="booleans"),
    pytest.param(np.eye(2, dtype=np.uint8), id="bytes"),
    pytest.param(np.eye(2, dtype=np.int64), id="integers"),
    pytest.param(jnp.eye(2, dtype=bool), id="jax booleans"),
    pytest.param(np.ma.array(np.eye(2, dtype=int)), id="nothing is masked"),
    pytest.param([[1.0, -0.0], [0.0, 1.0]], id="minus zero"),
    pytest.param(np.eye(2).reshape(2, 1, 2), id="images"),
    pytest.param(np.eye(2).reshape(2, 1, 1, 2), id="images with channels"),
    pytest.param(Frame([[True, False], [False, True]]), id="data frame"),
    pytest.param(SPARSE.toarray(), id="sparse, made dense"),
]


@pytest.mark.parametrize("table", COMPLETE_TABLES)
def test_observe_leaves_off_out_where_nothing_is_hidden(em, table):
    data = em.observe(table)
    assert data.on.tolist() == [[True, False], [False, True]]
    assert data.off is None


def test_observe_makes_rows_of_images_with_holes(em):
    images = np.array([[[1, 0], [NAN, 1]], [[0, 0], [0, NAN]]])
    data = em.observe(images)
    assert data.on.tolist() == [[True, False, False, True], [False] * 4]
    assert data.off.tolist() == [[False, True, False, False], [True, True, True, False]]


@pytest.mark.parametrize(
    "weights",
    [
        pytest.param([2, 0], id="list of integers"),
        pytest.param((2.0, 0.0), id="tuple of floats"),
        pytest.param(np.array([2, 0]), id="integers"),
        pytest.param(np.array([2.0, 0.0]), id="float64"),
        pytest.param(jnp.array([2.0, 0.0]), id="jax"),
    ],
)
def test_observe_takes_a_weight_for_each_row(em, weights):
    data = em.observe([[1, 0], [NAN, 1]], weights)
    assert data.weights.tolist() == [2.0, 0.0]
    assert data.weights.dtype == jnp.float32


def test_observe_takes_booleans_as_weights(em):
    data = em.observe([[1, 0], [0, 1]], [True, False])
    assert data.weights.tolist() == [1.0, 0.0]


def test_observe_gives_arrays_of_jax(em):
    data = em.observe([[1, 0], [NAN, 1]], [1, 2])
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(data))
    assert data.on.dtype == bool
    assert data.off.dtype == bool


REFUSED_TABLES = [
    pytest.param([[0, 1], [2, 1]], ValueError, "row 1, column 0 is 2", id="a two"),
    pytest.param([[0, 0.5]], ValueError, "table >= 0.5", id="grey"),
    pytest.param([[0, -1]], ValueError, "column 1 is -1", id="minus one"),
    pytest.param([[np.inf, 1]], ValueError, "column 0 is inf", id="infinite"),
    pytest.param(
        np.uint8([[0, 255]]), ValueError, "column 1 is 255", id="black is 255"
    ),
    pytest.param([[1e-40, 1]], ValueError, "need 0, 1 or NaN", id="nearly 0"),
    pytest.param(
        [[np.nextafter(1, 2), 1]], ValueError, "need 0, 1 or NaN", id="nearly 1"
    ),
    pytest.param([0, 1, NAN], ValueError, "rows and columns", id="one dimension"),
    pytest.param(1, ValueError, "rows and columns", id="a number"),
    pytest.param([], ValueError, "rows and columns", id="nothing"),
    pytest.param([[]], ValueError, "rows and columns", id="no columns"),
    pytest.param(np.ones((0, 3)), ValueError, "rows and columns", id="no rows"),
    pytest.param(np.ones((2, 0, 3)), ValueError, "rows and columns", id="no height"),
    pytest.param([["0", "1"]], TypeError, "numbers or booleans", id="text"),
    pytest.param([[0, None]], TypeError, "na_value=np.nan", id="None"),
    pytest.param(
        np.array([[0, 1]], dtype=object), TypeError, "na_value=np.nan", id="objects"
    ),
    pytest.param([[0, 1j]], TypeError, "numbers or booleans", id="complex"),
    pytest.param(SPARSE, TypeError, r"table\.toarray\(\)", id="sparse"),
    pytest.param(
        scipy.sparse.coo_matrix(np.eye(2)),
        TypeError,
        r"table\.toarray\(\)",
        id="sparse matrix",
    ),
]


@pytest.mark.parametrize(("table", "error", "words"), REFUSED_TABLES)
def test_observe_refuses_other_tables(em, table, error, words):
    with pytest.raises(error, match=words):
        em.observe(table)


REFUSED_WEIGHTS = [
    pytest.param([1, -1], "0 or more", id="negative"),
    pytest.param([1, NAN], "finite", id="NaN"),
    pytest.param([1, np.inf], "finite", id="infinite"),
    pytest.param([0, 0], "not all 0", id="all 0"),
    pytest.param(2.0, r"^weights has shape .*: need \(2,\)", id="a number"),
    pytest.param([1], r"need \(2,\)", id="too few"),
    pytest.param([1, 1, 1], r"need \(2,\)", id="too many"),
    pytest.param([[1], [1]], r"need \(2,\)", id="a column"),
    pytest.param([[1, 1]], r"need \(2,\)", id="a row"),
    pytest.param(
        np.ma.array([1.0, 5.0], mask=[False, True]),
        "finite",
        id="missing",
    ),
]


@pytest.mark.parametrize(("weights", "words"), REFUSED_WEIGHTS)
def test_observe_refuses_other_weights(em, weights, words):
    with pytest.raises(ValueError, match=words):
        em.observe([[1, 0], [NAN, 1]], weights)


# --- What the functions refuse ---


REFUSED_DATA = [
    pytest.param(
        lambda em, x: em.BinaryData(on=x[:1], off=np.zeros_like(x)),
        ValueError,
        r"off has shape \(40, 7\): need \(1, 7\)",
        id="one row of on beside many of off",
    ),
    pytest.param(
        lambda em, x: em.BinaryData(on=x, off=np.zeros_like(x[:1])),
        ValueError,
        r"off has shape \(1, 7\): need \(40, 7\)",
        id="one row of off beside many of on",
    ),
    pytest.param(
        lambda em, x: em.BinaryData(on=x, off=x),
        ValueError,
        "both on and off",
        id="a pixel on and off",
    ),
    pytest.param(
        lambda em, x: em.BinaryData(on=x, off=~x).replace(off=x),
        ValueError,
        "both on and off",
        id="a pixel on and off, replaced",
    ),
    pytest.param(
        lambda em, x: em.BinaryData(on=x, weights=np.ones((N_ROWS, 1))),
        ValueError,
        r"weights has shape \(40, 1\): need \(40,\)",
        id="weights in a column",
    ),
    pytest.param(
        lambda em, x: em.BinaryData(on=x, weights=np.ones(N_PIXELS)),
        ValueError,
        r"weights has shape \(7,\): need \(40,\)",
        id="a weight for each pixel",
    ),
    pytest.param(
        lambda em, x: em.BinaryData(on=x, weights=np.float32(2)),
        ValueError,
        r"weights has shape \(\): need \(40,\)",
        id="a number for weights",
    ),
    pytest.param(
        lambda em, x: em.BinaryData(on=x, weights=np.ones(1)),
        ValueError,
        r"weights has shape \(1,\): need \(40,\)",
        id="one weight",
    ),
    pytest.param(
        lambda em, x: em.BinaryData(on=x, off=np.zeros_like(x[:, :6])),
        ValueError,
        r"off has shape \(40, 6\): need \(40, 7\)",
        id="off of another width",
    ),
    pytest.param(
        lambda em, x: em.BinaryData(on=x * 1.0, off=1.0 - x),
        TypeError,
        r"observe\(table\)",
        id="floats of on and off",
    ),
    pytest.param(
        lambda em, x: em.BinaryData(on=x, weights=[1.0] * N_ROWS),
        ValueError,
        r"weights has shape .*: need \(40,\)",
        id="a list of weights",
    ),
    pytest.param(
        lambda em, x: x[:, :6], ValueError, "the mixture has 7", id="too few columns"
    ),
    pytest.param(
        lambda em, x: x[:, :1], ValueError, "the mixture has 7", id="one column"
    ),
    pytest.param(
        lambda em, x: x.T,
        ValueError,
        "the mixture has 7",
        id="rows and columns swapped",
    ),
    pytest.param(lambda em, x: x[0], ValueError, "n_pixels", id="one dimension"),
    pytest.param(lambda em, x: x[:0], ValueError, "n_pixels", id="no rows"),
    pytest.param(lambda em, x: x * 1.0, TypeError, r"observe\(table\)", id="floats"),
    pytest.param(lambda em, x: x * 1, TypeError, r"observe\(table\)", id="integers"),
    pytest.param(lambda em, x: x.tolist(), TypeError, r"observe\(table\)", id="lists"),
    pytest.param(
        lambda em, x: em.BinaryData(on=x.tolist()),
        TypeError,
        r"observe\(table\)",
        id="lists of on",
    ),
    pytest.param(
        lambda em, x: em.BinaryData(on=x, off=(~x).tolist()),
        TypeError,
        r"observe\(table\)",
        id="lists of off",
    ),
    pytest.param(
        lambda em, x: em.BinaryData(on=x * 1, off=1 - x),
        TypeError,
        r"observe\(table\)",
        id="integers of on and off",
    ),
]


@pytest.mark.parametrize("call", BY_ROW + BY_SUM + IN_A_LOOP)
@pytest.mark.parametrize(("make", "error", "words"), REFUSED_DATA)
def test_nothing_broadcasts_into_a_wrong_number(
    em, params, images, make, error, words, call
):
    with pytest.raises(error, match=words):
        call(em, params, make(em, images))


OTHER_CLUSTER_WEIGHTS = [
    pytest.param(np.float32(1), id="number"),
    pytest.param(np.ones(1, dtype=np.float32), id="one"),
    pytest.param(np.full(N_CLUSTERS + 1, 0.25, dtype=np.float32), id="one too many"),
    pytest.param(np.full((1, N_CLUSTERS), 1 / 3, dtype=np.float32), id="row"),
    pytest.param(np.full((N_CLUSTERS, 1), 1 / 3, dtype=np.float32), id="column"),
]


@pytest.mark.parametrize("call", BY_ROW + BY_SUM + IN_A_LOOP)
@pytest.mark.parametrize("cluster_weights", OTHER_CLUSTER_WEIGHTS)
def test_each_cluster_needs_a_weight(em, params, images, cluster_weights, call):
    mixture = params.replace(cluster_weights=cluster_weights)
    with pytest.raises(ValueError, match=r"cluster_weights has shape .*: need \(3,\)"):
        call(em, mixture, images)


@pytest.mark.parametrize("cluster_weights", OTHER_CLUSTER_WEIGHTS[1:4])
def test_each_cluster_needs_a_weight_to_draw_from_it(em, params, cluster_weights):
    mixture = params.replace(cluster_weights=cluster_weights)
    with pytest.raises(ValueError, match=r"cluster_weights has shape .*: need \(3,\)"):
        em.sample_images(KEY, mixture, 5)


REFUSED_CALLS = [
    pytest.param(
        lambda em, p, x: em.init_mixture_params(KEY, 0, N_PIXELS),
        ValueError,
        "at least one cluster",
        id="a random start of no clusters",
    ),
    pytest.param(
        lambda em, p, x: em.init_mixture_params(KEY, N_CLUSTERS, 0),
        ValueError,
        "one pixel",
        id="a random start of no pixels",
    ),
    pytest.param(
        lambda em, p, x: em.init_from_images(KEY, 0, x),
        ValueError,
        "at least one cluster",
        id="a start of no clusters",
    ),
    pytest.param(
        lambda em, p, x: em.init_from_images(KEY, 2, x.tolist()),
        TypeError,
        r"observe\(table\)",
        id="a start from lists",
    ),
    pytest.param(
        lambda em, p, x: em.init_from_images(KEY, 2, x * 1.0),
        TypeError,
        r"observe\(table\)",
        id="a start from floats",
    ),
    pytest.param(
        lambda em, p, x: em.init_from_images(KEY, 2, x[0]),
        ValueError,
        "n_pixels",
        id="a start from one dimension",
    ),
    pytest.param(
        lambda em, p, x: em.class_log_joint([p, p], [1.0], x),
        ValueError,
        r"class_weights has shape \(1,\): need \(2,\)",
        id="one share for two classes",
    ),
    pytest.param(
        lambda em, p, x: em.class_log_joint([p], [0.5, 0.5], x),
        ValueError,
        r"class_weights has shape \(2,\): need \(1,\)",
        id="two shares for one class",
    ),
    pytest.param(
        lambda em, p, x: em.class_log_joint([p, p], 1.0, x),
        ValueError,
        r"class_weights has shape \(\): need \(2,\)",
        id="a number for shares",
    ),
    pytest.param(
        lambda em, p, x: em.class_log_joint([p, p], [0.6, 0.413], x),
        ValueError,
        "sum to 1",
        id="shares of more than 1",
    ),
    pytest.param(
        lambda em, p, x: em.class_log_joint([p, p], [0.6, 0.387], x),
        ValueError,
        "sum to 1",
        id="shares of less than 1",
    ),
    pytest.param(
        lambda em, p, x: em.class_log_joint([p, p], [1.5, -0.5], x),
        ValueError,
        "0 or more",
        id="a negative share",
    ),
    pytest.param(
        lambda em, p, x: em.class_log_joint([p, p], [NAN, 1.0], x),
        ValueError,
        "sum to 1",
        id="a share of NaN",
    ),
    pytest.param(
        lambda em, p, x: em.class_log_joint([], [], x),
        ValueError,
        "sum to 1",
        id="no classes",
    ),
    pytest.param(
        lambda em, p, x: em.run_em(p, x, np.ones((2, N_CLUSTERS))),
        ValueError,
        "temperature",
        id="a temperature for each cluster",
    ),
    pytest.param(
        lambda em, p, x: em.e_step(p, x, np.ones(N_CLUSTERS)),
        ValueError,
        "temperature",
        id="temperatures for one step",
    ),
]


@pytest.mark.parametrize(("call", "error", "words"), REFUSED_CALLS)
def test_other_arguments_are_refused(em, params, images, call, error, words):
    with pytest.raises(error, match=words):
        call(em, params, images)


def test_a_long_list_is_refused_in_one_line(em):
    params = make_mixture(em, N_CLUSTERS, 40)
    rows = np.ones((1_000, 40), dtype=bool).tolist()
    with pytest.raises(TypeError, match=r"observe\(table\)") as raised:
        em.e_step(params, rows)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("assignments", "labels"),
    [
        pytest.param([0, 1, 1], [1, 2], id="a label missing"),
        pytest.param([0], [1, 2], id="one assignment for all"),
        pytest.param([0, 1], 1, id="one label for all"),
    ],
)
def test_each_assignment_needs_a_label(em, assignments, labels):
    with pytest.raises(ValueError, match="one label for each assignment"):
        em.make_cluster_labels(assignments, labels, 2)


@pytest.mark.parametrize(
    ("assignments", "labels"),
    [
        pytest.param([2], [0], id="no such cluster"),
        pytest.param([-1], [0], id="a negative cluster"),
        pytest.param([0], [10], id="no such digit"),
    ],
)
def test_clusters_and_digits_that_do_not_exist_are_refused(em, assignments, labels):
    with pytest.raises(ValueError):
        em.make_cluster_labels(assignments, labels, 2)


# --- fit: how it ends ---


def test_fit_ends_when_a_step_gains_less_than_the_tolerance(em, params, data):
    found = em.fit(params, data, tolerance=0.01)
    gains = np.diff(found.curve)
    assert found.converged
    assert gains[-1] < 0.01
    assert gains[:-1].min() >= 0.01


def test_fit_ends_at_its_limit(em, params, data):
    found = em.fit(params, data, max_steps=2)
    assert not found.converged
    assert len(found.curve) == 3
    expected = em.em_step(em.em_step(params, data), data)
    assert_close(found.params, expected)


def test_a_fit_of_no_steps_returns_its_start(em, params, images):
    found = em.fit(params, images, max_steps=0)
    assert found.params is params
    assert not found.converged
    assert len(found.curve) == 1


def test_the_tolerance_is_a_thousandth_of_a_nat_by_default(em, params, images):
    gains = np.diff(em.fit(params, images).curve)
    assert gains[-1] < 1e-3 <= gains[:-1].min()


def test_the_limit_is_500_steps_by_default(em, params, images):
    found = em.fit(params, images, tolerance=-1.0)
    assert len(found.curve) == 501


@pytest.mark.parametrize("pseudo_count", [0.0, 0.5])
def test_the_curve_holds_the_objective_of_the_start_and_after_each_step(
    em, params, data, pseudo_count
):
    found = em.fit(params, data, pseudo_count=pseudo_count, max_steps=4, tolerance=0)
    expected = params
    for value in found.curve:
        assert value == pytest.approx(objective(expected, data, pseudo_count), abs=1e-4)
        expected = textbook.step(expected, *parts(data), pseudo_count)


@pytest.mark.parametrize("pseudo_count", [0.0, 0.5])
@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"tolerance": 0.01}, id="tolerance"),
        pytest.param({"max_steps": 3}, id="limit"),
        pytest.param({"max_steps": 0}, id="no steps"),
        pytest.param({"tolerance": np.inf}, id="the first step"),
    ],
)
def test_the_last_value_of_the_curve_is_that_of_the_parameters(
    em, params, data, pseudo_count, how
):
    found = em.fit(params, data, pseudo_count=pseudo_count, **how)
    expected = objective(found.params, data, pseudo_count)
    assert found.curve[-1] == pytest.approx(expected, abs=1e-4)


def objective(params, data, pseudo_count):
    """What EM raises, divided by the sum of the weights, in float64."""
    counts = textbook.expected_counts(params, *parts(data))
    total = counts.log_likelihood + textbook.log_prior(params, pseudo_count)
    return total / counts.cluster_counts.sum()


@pytest.mark.parametrize("value", [False, True], ids=["all off", "all on"])
@pytest.mark.parametrize("n_pixels", [5, 784, 3_000])
def test_rounding_is_no_fall(em, n_pixels, value):
    """Rows that are all alike: the sum is small, and its terms, which round, are many."""
    images = np.full((20, n_pixels), value)
    for seed in range(20):
        start = em.init_mixture_params(jax.random.PRNGKey(seed), 2, n_pixels)
        assert em.fit(start, images).converged


# Rounding may take 1e-4 nats for each pixel; of a prior's terms, in proportion.
PSEUDO_COUNTS_AND_ALLOWED_FALLS = [
    pytest.param(0.0, 1e-4 * N_PIXELS, id="no prior"),
    pytest.param(20.0, 1e-4 * N_PIXELS * (1 + 20 * N_CLUSTERS / N_ROWS), id="prior"),
]


@pytest.mark.parametrize(("pseudo_count", "allowed"), PSEUDO_COUNTS_AND_ALLOWED_FALLS)
def test_a_fall_within_rounding_ends_a_fit_as_converged(
    em, params, images, pseudo_count, allowed
):
    e_step = pretend_log_likelihoods(em, [-900.0, -5.0, -5.0 - 0.9 * allowed])
    found = em.fit(
        params, images, pseudo_count=pseudo_count, tolerance=0.0, e_step=e_step
    )
    assert found.converged
    assert len(found.curve) == 3


@pytest.mark.parametrize(("pseudo_count", "allowed"), PSEUDO_COUNTS_AND_ALLOWED_FALLS)
def test_a_fall_of_more_than_rounding_raises(em, params, images, pseudo_count, allowed):
    e_step = pretend_log_likelihoods(em, [-900.0, -5.0, -5.0 - 1.1 * allowed])
    with pytest.raises(FloatingPointError, match="objective fell by 0.00"):
        em.fit(params, images, pseudo_count=pseudo_count, e_step=e_step)


def pretend_log_likelihoods(em, values):
    """An e_step of the same counts each time, which claims these mean log-likelihoods."""
    rest = iter(values)
    start = make_mixture(em, N_CLUSTERS, N_PIXELS)

    def e_step(params, images):
        total = jnp.float32(next(rest) * len(images))
        return em.e_step(start, images).replace(log_likelihood=total)

    return e_step


@pytest.mark.parametrize("n_pixels", [N_PIXELS, 784])
def test_on_counts_exchanged_with_off_counts_raise(em, n_pixels):
    images = make_images(N_ROWS, 1, n_pixels)
    start = em.init_from_images(KEY, N_CLUSTERS, images)

    def exchanged(params, images):
        counts = em.e_step(params, images)
        return counts.replace(on_counts=counts.off_counts, off_counts=counts.on_counts)

    with pytest.raises(FloatingPointError, match="no mixture"):
        em.fit(start, images, e_step=exchanged)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(
            lambda p: p.replace(cluster_means=p.cluster_means * NAN), id="means"
        ),
        pytest.param(
            lambda p: p.replace(cluster_weights=p.cluster_weights * NAN), id="weights"
        ),
        pytest.param(
            lambda p: p.replace(cluster_weights=p.cluster_weights * -1), id="negative"
        ),
        pytest.param(
            lambda p: p.replace(cluster_weights=p.cluster_weights * 0), id="all 0"
        ),
    ],
)
def test_an_objective_of_nan_raises(em, params, images, make):
    with pytest.raises(FloatingPointError, match="NaN: are the parameters a mixture"):
        em.fit(make(params), images)


def test_data_of_weight_0_throughout_raise(em, params, images):
    nothing = em.BinaryData(on=images, weights=np.zeros(N_ROWS, dtype=np.float32))
    with pytest.raises(FloatingPointError, match="NaN"):
        em.fit(params, nothing)


@pytest.mark.parametrize("pseudo_count", [-0.1, NAN, np.inf])
def test_a_fit_refuses_other_pseudo_counts(em, params, images, pseudo_count):
    with pytest.raises(ValueError, match="0 or more, and finite"):
        em.fit(params, images, pseudo_count=pseudo_count)


def test_a_fit_takes_any_e_step(em, params, images):
    """Whatever the data are, they are the e_step's own affair."""

    def e_step_of_name(params, name):
        assert name == "forty rows"
        return em.e_step(params, images)

    found = em.fit(params, "forty rows", max_steps=3, e_step=e_step_of_name)
    assert_close(found, em.fit(params, images, max_steps=3))


def test_the_rounding_of_a_large_prior_is_no_fall(em):
    """Weights that sum to 1 beside a prior of 100,000 terms, each counted ten times."""
    images = make_images(N_ROWS, 10, 10)
    data = em.observe(images, np.full(N_ROWS, 1 / N_ROWS))
    start = em.init_mixture_params(KEY, 1_000, 100)
    em.fit(start, data, pseudo_count=10.0, tolerance=-1.0, max_steps=15)


# --- Starts ---


def answers_of_three_groups(seed=0):
    """500 answers to five yes/no questions: few patterns, often repeated."""
    rng = np.random.default_rng(seed)
    shares_of_yes = rng.uniform(0.1, 0.9, size=(3, 5))
    groups = rng.integers(3, size=500)
    return rng.uniform(size=(500, 5)) < shares_of_yes[groups]


def n_different(rows):
    return len(np.unique(np.asarray(rows), axis=0))


def test_a_random_start_has_means_between_a_quarter_and_three_quarters(em):
    means = em.init_mixture_params(KEY, 15, 784).cluster_means
    assert 0.25 <= means.min() < 0.2505
    assert 0.7495 < means.max() < 0.75
    assert means.mean() == pytest.approx(0.5, abs=0.01)


def test_one_cluster_and_one_pixel_are_enough_to_start(em):
    start = em.init_mixture_params(KEY, 1, 1)
    assert start.cluster_weights.tolist() == [1.0]
    assert start.cluster_means.shape == (1, 1)
    start = em.init_from_images(KEY, 1, np.array([[True]]))
    assert start.cluster_weights.tolist() == [1.0]
    assert start.cluster_means.tolist() == [[0.75]]


@pytest.mark.parametrize("n_clusters", [3, 8])
def test_clusters_never_start_equal(em, n_clusters):
    answers = answers_of_three_groups()
    for seed in range(30):
        key = jax.random.PRNGKey(seed)
        start = em.init_from_images(key, n_clusters, answers)
        assert n_different(start.cluster_means) == n_clusters


def test_clusters_never_start_equal_with_holes(em):
    on, off = make_holes(answers_of_three_groups()[:, :2])
    data = em.BinaryData(on=on, off=off)
    for seed in range(30):
        start = em.init_from_images(jax.random.PRNGKey(seed), 8, data)
        assert n_different(start.cluster_means) == 8


def test_there_can_be_as_many_clusters_as_different_rows(em):
    images = np.repeat(every_image(2), 10, axis=0)
    start = em.init_from_images(KEY, 4, images)
    assert n_different(start.cluster_means) == 4


def test_too_few_different_rows_are_counted_in_the_error(em):
    images = np.repeat(every_image(2), 10, axis=0)
    with pytest.raises(ValueError, match="4 different rows can't start 5 clusters"):
        em.init_from_images(KEY, 5, images)


def test_a_cluster_starts_halfway_between_a_coin_and_a_row(em, images):
    start = em.init_from_images(KEY, N_CLUSTERS, images)
    halfway = 0.25 + 0.5 * images
    for means in np.asarray(start.cluster_means):
        assert (means == halfway).all(axis=1).any()
    np.testing.assert_allclose(start.cluster_weights, 1 / N_CLUSTERS)


def test_a_hidden_pixel_starts_at_one_half(em):
    table = np.array([[1.0, 0.0, NAN]])
    start = em.init_from_images(KEY, 1, em.observe(table))
    np.testing.assert_array_equal(start.cluster_means, [[0.75, 0.25, 0.5]])


def test_a_row_of_weight_0_starts_no_cluster(em):
    images = every_image(3)
    weights = np.float32([0, 0.1, 0, 0, 0, 5, 0, 0])
    data = em.BinaryData(on=images, weights=weights)
    start = em.init_from_images(KEY, 2, data)
    chosen = np.unique(np.asarray(start.cluster_means) > 0.5, axis=0)
    np.testing.assert_array_equal(chosen, images[weights > 0])
    with pytest.raises(ValueError, match="2 different rows"):
        em.init_from_images(KEY, 3, data)


def test_the_same_key_gives_the_same_start(em, images):
    start = em.init_from_images(KEY, N_CLUSTERS, images)
    again = em.init_from_images(jax.random.PRNGKey(0), N_CLUSTERS, images)
    new_style = em.init_from_images(jax.random.key(0), N_CLUSTERS, images)
    chex.assert_trees_all_equal(start, again, new_style)


def test_rows_are_chosen_as_often_as_they_occur(em):
    images = np.array([[False]] * 9 + [[True]])
    n_on = 0
    for seed in range(200):
        start = em.init_from_images(jax.random.PRNGKey(seed), 1, images)
        n_on += int(start.cluster_means[0, 0] > 0.5)
    assert 8 <= n_on <= 35  # of 200, a tenth expected


def test_starts_are_arrays_of_jax_in_float32(em, images):
    start = em.init_from_images(KEY, N_CLUSTERS, images)
    for leaf in jax.tree.leaves(start):
        assert isinstance(leaf, jax.Array)
        assert leaf.dtype == jnp.float32


def test_a_start_from_data_hidden_nowhere_equals_that_from_complete_data(em, images):
    hidden_nowhere = em.BinaryData(on=images, off=~images)
    start = em.init_from_images(KEY, N_CLUSTERS, hidden_nowhere)
    expected = em.init_from_images(KEY, N_CLUSTERS, images)
    chex.assert_trees_all_equal(start, expected)


def test_a_start_may_come_from_images_with_height_and_width(em, images):
    upright = images.reshape(N_ROWS, 1, N_PIXELS)
    start = em.init_from_images(KEY, N_CLUSTERS, upright)
    expected = em.init_from_images(KEY, N_CLUSTERS, images)
    chex.assert_trees_all_equal(start, expected)


# --- Temperatures ---


def test_run_em_takes_one_step_at_each_temperature(em, params, data):
    temperatures = np.array([3.0, 2.0, 1.0])
    found, curve = em.run_em(params, data, temperatures, 0.1)
    expected = params
    values = []
    for temperature in temperatures:
        counts = textbook.expected_counts(expected, *parts(data), temperature)
        values.append(counts.log_likelihood / counts.cluster_counts.sum())
        expected = textbook.maximise(counts, 0.1)
    assert_agree("curve before each step", values, curve)
    assert_agree("mixture", expected, found)


def test_run_em_does_not_smooth_unasked(em, params, holes):
    found, _ = em.run_em(params, holes, np.ones(2))
    expected = textbook.step(params, holes.on, holes.off)
    expected = textbook.step(expected, holes.on, holes.off)
    assert_agree("mixture", expected, found)


def test_at_a_great_temperature_all_clusters_share_alike(em, params, images):
    counts = em.e_step(params, images, 1e9)
    shares = np.full(N_CLUSTERS, N_ROWS / N_CLUSTERS)
    assert_agree("cluster counts", shares, counts.cluster_counts)


def test_a_run_of_no_steps_returns_its_start(em, params, images):
    found, curve = em.run_em(params, images, np.ones(0))
    chex.assert_trees_all_equal(found, params)
    assert curve.shape == (0,)


def test_temperatures_may_be_integers(em, params, images):
    found = em.run_em(params, images, np.array([3, 2, 1]), 1)
    expected = em.run_em(params, images, np.array([3.0, 2.0, 1.0]), 1.0)
    assert_close(found, expected)


# --- Online EM (more in test_scale.py) ---


def test_online_em_passes_over_a_batch_of_weight_0(em, params, images):
    nothing = em.BinaryData(on=images, weights=np.zeros(N_ROWS, dtype=np.float32))
    something = em.BinaryData(on=images, weights=np.ones(N_ROWS, dtype=np.float32))
    *_, last = em.online_em(params, [something, nothing, something], N_ROWS)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(last))


# --- Samples ---


@pytest.fixture(scope="module")
def samples(em, params):
    return em.sample_images(jax.random.key(0), params, 40_000)


def test_clusters_are_drawn_by_their_weights(params, samples):
    _, clusters = samples
    shares = np.bincount(clusters, minlength=N_CLUSTERS) / 40_000
    np.testing.assert_allclose(shares, params.cluster_weights, atol=0.012)


def test_pixels_are_drawn_by_the_means_of_their_cluster(params, samples):
    images, clusters = samples
    for k in range(N_CLUSTERS):
        means = np.asarray(images)[np.asarray(clusters) == k].mean(axis=0)
        np.testing.assert_allclose(means, params.cluster_means[k], atol=0.03)


def test_samples_are_boolean_rows_and_numbers_of_clusters(samples):
    images, clusters = samples
    assert images.dtype == bool
    assert images.shape == (40_000, N_PIXELS)
    assert clusters.dtype == jnp.int32
    assert clusters.shape == (40_000,)


def test_pixels_are_drawn_apart_from_the_cluster(em):
    """Seven equal clusters of fair coins: one key for both draws would tie them."""
    fair = em.BernoulliMixture(
        cluster_weights=jnp.full(7, 1 / 7), cluster_means=jnp.full((7, 7), 0.5)
    )
    images, clusters = em.sample_images(jax.random.key(0), fair, 40_000)
    own = np.asarray(images)[np.arange(40_000), clusters]
    assert own.mean() == pytest.approx(0.5, abs=0.02)


def test_an_image_has_its_probability_as_its_share_of_the_samples(em, params, samples):
    images, _ = samples
    codes = np.asarray(images) @ (2 ** np.arange(N_PIXELS)[::-1])
    shares = np.bincount(codes, minlength=128) / 40_000
    p = np.exp(em.log_likelihood(params, every_image(N_PIXELS)))
    np.testing.assert_allclose(shares, p, atol=0.005)


def test_a_cluster_of_weight_0_is_never_drawn(em, params):
    without = params.replace(cluster_weights=jnp.float32([0.0, 0.5, 0.5]))
    _, clusters = em.sample_images(KEY, without, 40_000)
    assert set(np.asarray(clusters)) == {1, 2}


# --- The classifier ---


@pytest.mark.parametrize(
    "shares",
    [
        pytest.param([0.9, 0.1], id="shares"),
        pytest.param([0.908, 0.1], id="nearly 1 in sum"),
        pytest.param([1.0, 0.0], id="a class without a share"),
        pytest.param(np.array([0.25, 0.75]), id="array"),
    ],
)
def test_a_class_counts_with_its_share(em, params, holes, shares):
    other = params.replace(cluster_means=1 - params.cluster_means)
    with np.errstate(divide="ignore"):
        log_shares = np.log(shares)
    columns = [
        textbook.log_likelihood(params, holes.on, holes.off) + log_shares[0],
        textbook.log_likelihood(other, holes.on, holes.off) + log_shares[1],
    ]
    found = em.class_log_joint([params, other], shares, holes)
    assert_agree("log joint of classes", np.stack(columns, axis=1), found)


def test_mixtures_of_classes_may_differ_in_their_number_of_clusters(em, params, images):
    large = make_mixture(em, 5, N_PIXELS)
    found = em.class_log_joint([params, large], [0.5, 0.5], images)
    assert found.shape == (N_ROWS, 2)
    expected = textbook.log_likelihood(large, images) + np.log(0.5)
    assert_agree("second class", expected, found[:, 1])


# --- Numbers: bounds, priors, precision, batches ---


def test_means_stay_inside_their_bounds(em):
    """More clusters than images, a pixel never on and one always on."""
    step = em.em_step(make_mixture(em, 20, 9), make_images(6, 3, 3))
    assert step.cluster_means.min() == np.float32(1e-6)
    assert step.cluster_means.max() == np.float32(1 - 1e-6)


def test_means_of_0_and_1_are_taken_for_the_bounds(em):
    hard = em.BernoulliMixture(
        cluster_weights=jnp.full(2, 0.5), cluster_means=jnp.eye(2)
    )
    images = np.array([[True, False], [True, True]])
    expected = [np.log(0.5), np.log(1e-6)]
    np.testing.assert_allclose(em.log_likelihood(hard, images), expected, rtol=1e-3)


def test_the_log_prior_agrees_with_float64(em, params):
    expected = textbook.log_prior(params, 0.3)
    assert_agree("log prior", expected, em.log_prior(params, 0.3))


def test_the_log_prior_of_means_of_0_and_1_is_that_of_the_bounds(em):
    hard = em.BernoulliMixture(
        cluster_weights=jnp.full(2, 0.5), cluster_means=jnp.eye(2)
    )
    expected = 4 * (np.log(1e-6) + np.log1p(-1e-6))
    assert_agree("log prior", expected, em.log_prior(hard, 1.0), rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("log_joint_prob", "complete"),
        ("log_likelihood", "complete"),
        ("e_step", "complete"),
        ("em_step", "complete"),
        ("log_joint_prob", "holes"),
        ("log_likelihood", "holes"),
        ("e_step", "holes"),
        ("em_step", "holes"),
        ("complete_images", "holes"),
    ],
)
def test_products_are_in_full_precision(em, params, images, holes, name, kind):
    data = images if kind == "complete" else holes
    program = str(jax.make_jaxpr(getattr(em, name))(params, data))
    n_products = program.count("dot_general[")
    assert n_products >= 1
    assert program.count("Precision.HIGHEST") == 2 * n_products


@pytest.mark.parametrize("name", ["log_joint_prob", "log_likelihood", "e_step"])
def test_images_are_worked_on_2000_at_a_time(em, params, name):
    images = make_images(4_000, 1, N_PIXELS)
    program = str(jax.make_jaxpr(getattr(em, name))(params, images))
    assert re.findall(r"\blength=(\d+)", program) == ["2"]


# --- The E-step is a gradient ---


def test_the_e_step_is_the_gradient_of_the_log_likelihood(em, params, weighted_holes):
    """In free tables in place of log weights, log means and log(1 - means)."""
    on = jnp.asarray(weighted_holes.on, dtype=jnp.float32)
    off = jnp.asarray(weighted_holes.off, dtype=jnp.float32)

    def total(log_weights, log_on, log_off):
        log_joint = log_weights + on @ log_on.T + off @ log_off.T
        log_p = jax.nn.logsumexp(log_joint, axis=1)
        return jnp.sum(weighted_holes.weights * log_p)

    log_weights = jnp.log(params.cluster_weights)
    log_on = jnp.log(params.cluster_means)
    log_off = jnp.log1p(-params.cluster_means)
    value, gradients = jax.value_and_grad(total, argnums=(0, 1, 2))(
        log_weights, log_on, log_off
    )
    counts = em.e_step(params, weighted_holes)
    assert_agree("cluster counts", gradients[0], counts.cluster_counts)
    assert_agree("on counts", gradients[1], counts.on_counts)
    assert_agree("off counts", gradients[2], counts.off_counts)
    assert_agree("log-likelihood", value, counts.log_likelihood)


# --- Transformed by JAX ---


@pytest.mark.parametrize("call", BY_ROW + BY_SUM)
def test_can_be_compiled_into_another_function(em, params, weighted_holes, call):
    compiled = jax.jit(lambda p, x: call(em, p, x))
    assert_close(compiled(params, weighted_holes), call(em, params, weighted_holes))


def test_log_prior_can_be_compiled_into_another_function(em, params):
    compiled = jax.jit(lambda p, a: em.log_prior(p, a))
    assert_close(compiled(params, 0.3), em.log_prior(params, 0.3))


def test_m_step_can_be_compiled_into_another_function(em, params, holes):
    counts = em.e_step(params, holes)
    compiled = jax.jit(lambda c, a: em.m_step(c, a))
    assert_close(compiled(counts, 0.3), em.m_step(counts, 0.3))


def test_draws_can_be_compiled_into_another_function(em, params):
    compiled = jax.jit(lambda key, p: em.sample_images(key, p, 5))
    chex.assert_trees_all_equal(compiled(KEY, params), em.sample_images(KEY, params, 5))


@pytest.mark.parametrize("call", BY_ROW + BY_SUM)
def test_a_stack_of_mixtures_equals_one_by_one(em, params, weighted_holes, call):
    other = make_mixture(em, N_CLUSTERS, N_PIXELS, seed=1)
    both = jax.vmap(lambda p: call(em, p, weighted_holes))(stack(params, other))
    expected = stack(
        call(em, params, weighted_holes),
        call(em, other, weighted_holes),
    )
    assert_close(both, expected)


def test_a_stack_of_weights_equals_one_by_one(em, params, holes):
    """As for a bootstrap."""
    rng = np.random.default_rng(3)
    n_times = rng.multinomial(N_ROWS, np.full(N_ROWS, 1 / N_ROWS), size=2)
    weights = n_times.astype(np.float32)

    def run(weights):
        return em.run_em(params, holes.replace(weights=weights), np.ones(3), 0.5)

    expected = stack(run(weights[0]), run(weights[1]))
    assert_close(jax.vmap(run)(weights), expected)


def test_a_stack_of_weights_may_be_an_axis_of_the_data(em, params, holes):
    weights = np.ones((2, N_ROWS), dtype=np.float32)
    axes = em.BinaryData(on=None, off=None, weights=0)
    both = jax.vmap(em.run_em, in_axes=(None, axes, None))(
        params, holes.replace(weights=weights), np.ones(3)
    )
    alone = em.run_em(params, holes, np.ones(3))
    assert_close(both, stack(alone, alone))


def test_a_stack_of_counts_equals_one_by_one(em, params, holes):
    counts = em.e_step(params, holes)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, counts)
    both = jax.vmap(em.m_step)(stack(counts, doubled))
    assert_close(both, stack(em.m_step(counts), em.m_step(doubled)))


def test_a_stack_of_priors_equals_one_by_one(em, params):
    other = make_mixture(em, N_CLUSTERS, N_PIXELS, seed=1)
    both = jax.vmap(em.log_prior, in_axes=(0, None))(stack(params, other), 0.3)
    expected = stack(em.log_prior(params, 0.3), em.log_prior(other, 0.3))
    assert_close(both, expected)


def test_a_stack_of_keys_equals_one_by_one(em, params):
    keys = jax.random.split(KEY, 2)
    both = jax.vmap(lambda key: em.sample_images(key, params, 5))(keys)
    expected = stack(
        em.sample_images(keys[0], params, 5), em.sample_images(keys[1], params, 5)
    )
    chex.assert_trees_all_equal(both, expected)


def test_the_gradient_of_the_log_likelihood_agrees_with_float64(
    em, params, weighted_holes
):
    """By Fisher's identity it is made of the counts."""

    def total(params):
        log_p = em.log_likelihood(params, weighted_holes)
        return jnp.sum(weighted_holes.weights * log_p)

    found = jax.grad(total)(params)
    counts = textbook.expected_counts(params, *parts(weighted_holes))
    means = np.asarray(params.cluster_means, dtype=np.float64)
    by_means = counts.on_counts / means - counts.off_counts / (1 - means)
    assert_agree("by means", by_means, found.cluster_means, atol=1e-3)
    by_weights = counts.cluster_counts / np.asarray(params.cluster_weights)
    assert_agree("by weights", by_weights, found.cluster_weights, atol=1e-3)


@pytest.mark.parametrize("call", BY_ROW + BY_SUM[:1])
def test_gradients_are_finite(em, images, weighted_holes, call):
    """At means on their bounds, too, where a fit ends."""
    params = em.fit(make_mixture(em, N_CLUSTERS, N_PIXELS), images).params
    assert params.cluster_means.min() == np.float32(1e-6)

    def total(params):
        leaves = jax.tree.leaves(call(em, params, weighted_holes))
        return sum(leaf.sum() for leaf in leaves)

    gradient = jax.grad(total)(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_the_gradient_of_the_log_prior_agrees_with_float64(em, params):
    found = jax.grad(em.log_prior)(params, 0.3)
    means = np.asarray(params.cluster_means, dtype=np.float64)
    assert_agree("by means", 0.3 * (1 / means - 1 / (1 - means)), found.cluster_means)


@pytest.mark.parametrize("call", BY_ROW + BY_SUM)
def test_results_are_arrays_of_jax_in_float32(em, params, data, call):
    for leaf in jax.tree.leaves(call(em, params, data)):
        assert isinstance(leaf, jax.Array)
        assert leaf.dtype == jnp.float32


@pytest.mark.parametrize(
    "name",
    [
        "log_joint_prob",
        "log_likelihood",
        "e_step",
        "m_step",
        "em_step",
        "log_prior",
        "run_em",
        "sample_images",
        "complete_images",
    ],
)
def test_is_compiled(em, name):
    assert hasattr(getattr(em, name), "lower")


@pytest.mark.parametrize(
    ("make", "name"),
    [
        pytest.param(lambda em, p, x: p, "cluster_means", id="BernoulliMixture"),
        pytest.param(lambda em, p, x: x, "on", id="BinaryData"),
        pytest.param(
            lambda em, p, x: em.e_step(p, x), "on_counts", id="ExpectedCounts"
        ),
    ],
)
def test_a_field_cannot_be_set(em, params, holes, make, name):
    """What is compiled with it wouldn't notice."""
    record = make(em, params, holes)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, name, None)


def test_data_cannot_be_looped_over(holes):
    """Or its fields could be taken for batches."""
    with pytest.raises(TypeError):
        iter(holes)


def test_data_with_holes_can_be_mapped_over(em, holes):
    n_each = jax.tree.map(lambda leaf: leaf.sum(axis=0), holes)
    np.testing.assert_array_equal(n_each.on, np.asarray(holes.on).sum(axis=0))
    floats = jax.tree.map(lambda leaf: leaf.astype(np.float32), holes)
    np.testing.assert_array_equal(floats.off, holes.off)


# --- Invariance ---


ORDER = np.array([2, 0, 1])


def renumbered(tree):
    """With the clusters, which are the first axis of all leaves but scalars, in ORDER."""
    return jax.tree.map(lambda leaf: leaf[ORDER] if leaf.ndim else leaf, tree)


@pytest.mark.parametrize(
    "learn",
    [
        pytest.param(lambda em, p, x: em.e_step(p, x), id="e_step"),
        pytest.param(lambda em, p, x: em.em_step(p, x, 0.5), id="em_step"),
        pytest.param(lambda em, p, x: em.run_em(p, x, np.ones(3))[0], id="run_em"),
        pytest.param(lambda em, p, x: em.fit(p, x).params, id="fit"),
    ],
)
def test_renumbered_clusters_are_learned_as_well(em, params, weighted_holes, learn):
    found = learn(em, renumbered(params), weighted_holes)
    assert_close(found, renumbered(learn(em, params, weighted_holes)), atol=1e-4)


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda em, p, x: em.log_likelihood(p, x), id="log_likelihood"),
        pytest.param(lambda em, p, x: em.complete_images(p, x), id="complete_images"),
        pytest.param(lambda em, p, x: em.log_prior(p, 0.3), id="log_prior"),
        pytest.param(lambda em, p, x: em.run_em(p, x, np.ones(3))[1], id="run_em"),
        pytest.param(lambda em, p, x: em.fit(p, x).curve, id="fit"),
    ],
)
def test_renumbered_clusters_are_the_same_model(em, params, weighted_holes, ask):
    found = ask(em, renumbered(params), weighted_holes)
    assert_close(found, ask(em, params, weighted_holes))


def turned(em, params, data):
    """On for off, in the mixture and in the data."""
    mixture = params.replace(cluster_means=1 - params.cluster_means)
    on, off = textbook.seen_pixels(data.on, data.off)
    return mixture, em.BinaryData(on=off, off=on, weights=data.weights)


def test_the_probabilities_of_images_turned_around_are_the_same(em, params, data):
    found = em.log_joint_prob(*turned(em, params, data))
    assert_close(found, em.log_joint_prob(params, data))


def test_the_counts_of_images_turned_around_are_exchanged(em, params, data):
    found = em.e_step(*turned(em, params, data))
    counts = em.e_step(params, data)
    assert_close(found.on_counts, counts.off_counts, atol=1e-4)
    assert_close(found.off_counts, counts.on_counts, atol=1e-4)


def test_a_fit_to_images_turned_around_is_turned_around(em, params, data):
    found = em.fit(*turned(em, params, data), pseudo_count=0.5)
    fitted = em.fit(params, data, pseudo_count=0.5)
    assert_close(found.curve, fitted.curve)
    assert_close(found.params.cluster_means, 1 - fitted.params.cluster_means, atol=1e-4)


def test_completions_of_images_turned_around_are_turned_around(em, params, holes):
    found = em.complete_images(*turned(em, params, holes))
    assert_close(found, 1 - em.complete_images(params, holes))


# --- Planted parameters ---


@pytest.mark.parametrize("share_hidden", [0.0, 0.5])
def test_a_fit_finds_the_parameters_that_made_the_data(em, share_hidden):
    rng = np.random.default_rng(0)
    planted = em.BernoulliMixture(
        cluster_weights=jnp.float32([0.5, 0.3, 0.2]),
        cluster_means=jnp.asarray(rng.choice([0.1, 0.5, 0.9], size=(3, 20))),
    )
    images, _ = em.sample_images(KEY, planted, 6_000)
    on, off = make_holes(np.asarray(images), share_hidden)
    data = em.BinaryData(on=on, off=off)
    found = em.fit(em.init_from_images(KEY, 3, data), data, tolerance=1e-4).params

    difference = found.cluster_means[:, None, :] - planted.cluster_means
    match = np.abs(difference).max(axis=2).argmin(axis=1)
    assert sorted(match) == [0, 1, 2]
    weights = planted.cluster_weights[match]
    np.testing.assert_allclose(found.cluster_weights, weights, atol=0.03)
    means = planted.cluster_means[match]
    np.testing.assert_allclose(found.cluster_means, means, atol=0.06)


# --- JAX's switches ---


SWITCHES = [
    pytest.param(lambda: jax.enable_x64(True), id="JAX_ENABLE_X64"),
    pytest.param(
        lambda: jax.numpy_dtype_promotion("strict"), id="JAX_NUMPY_DTYPE_PROMOTION"
    ),
    pytest.param(
        lambda: jax.numpy_rank_promotion("raise"), id="JAX_NUMPY_RANK_PROMOTION"
    ),
    pytest.param(lambda: jax.debug_nans(True), id="JAX_DEBUG_NANS"),
    pytest.param(lambda: jax.disable_jit(), id="JAX_DISABLE_JIT"),
]
OTHERS = [
    pytest.param(
        lambda em, p, x: em.init_mixture_params(KEY, 2, 3), id="init_mixture_params"
    ),
    pytest.param(
        lambda em, p, x: em.init_from_images(KEY, 2, x), id="init_from_images"
    ),
    pytest.param(lambda em, p, x: em.m_step(em.e_step(p, x), 1), id="m_step"),
    pytest.param(lambda em, p, x: em.log_prior(p, 1), id="log_prior"),
    pytest.param(lambda em, p, x: em.sample_images(KEY, p, 5)[0], id="sample_images"),
    pytest.param(
        lambda em, p, x: jax.grad(lambda p: em.log_likelihood(p, x).sum())(p),
        id="gradient",
    ),
]


@pytest.mark.parametrize("call", BY_ROW + BY_SUM + IN_A_LOOP + OTHERS)
@pytest.mark.parametrize("switch", SWITCHES)
def test_no_switch_of_jax_changes_a_number(em, params, weighted_holes, switch, call):
    table = np.where(weighted_holes.on | weighted_holes.off, weighted_holes.on, NAN)
    expected = call(em, params, weighted_holes)
    with switch():
        data = em.observe(table, weighted_holes.weights.tolist())
        found = call(em, params, data)
    assert_close(found, expected)
    assert dtypes(found) == dtypes(expected)


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(
            lambda em, p, x, number: em.e_step(p, x, number).log_likelihood,
            id="temperature",
        ),
        pytest.param(
            lambda em, p, x, number: em.em_step(p, x, number).cluster_means,
            id="pseudo-count",
        ),
        pytest.param(
            lambda em, p, x, number: em.log_prior(p, number), id="pseudo-count of prior"
        ),
    ],
)
def test_a_float64_argument_leaves_the_results_float32(em, params, images, call):
    with jax.enable_x64(True):
        assert call(em, params, images, np.float64(0.5)).dtype == jnp.float32


def dtypes(tree):
    return [np.asarray(leaf).dtype for leaf in jax.tree.leaves(tree)]


# --- MNIST ---


@pytest.fixture(scope="module")
def part_1(em, mnist):
    """The mixture after the twenty steps of Part 1."""
    (train_images, _), _ = mnist
    images = jax.device_put(train_images)
    params = em.init_mixture_params(jax.random.PRNGKey(83832), 15, 784)
    for _ in range(20):
        params = em.em_step(params, images)
    return params


@pytest.mark.parametrize(
    ("split", "expected"),
    [pytest.param(0, -158.17, id="train"), pytest.param(1, -157.71, id="test")],
)
def test_twenty_steps_of_part_1_end_where_it_says(em, mnist, part_1, split, expected):
    images, _ = mnist[split]
    log_p = em.log_likelihood(part_1, images)
    assert np.mean(log_p) == pytest.approx(expected, abs=0.005)


def test_mnist_is_whole(mnist):
    (train_images, train_labels), (test_images, test_labels) = mnist
    n_each = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(train_labels).tolist() == n_each
    assert train_images.shape == (60_000, 28, 28)
    assert test_images.shape == (10_000, 28, 28)
    assert len(test_labels) == 10_000


@pytest.fixture(scope="module")
def some_mnist():
    """The first 500 test images as TFDS yields them."""
    import tensorflow_datasets as tfds  # slow, and only this needs it

    return tfds.load("mnist", split="test[:500]", data_dir=ROOT / "data")


@pytest.fixture(scope="module")
def grey(some_mnist):
    images = [row["image"].squeeze(-1) for row in some_mnist.as_numpy_iterator()]
    return np.stack(images)


def test_a_pixel_is_on_at_half_of_the_full_brightness(em, some_mnist, grey):
    assert 127 in grey
    assert 128 in grey
    images, _ = em.tfds_to_numpy(some_mnist)
    assert images.dtype == bool
    np.testing.assert_array_equal(images, grey > 127)


def test_binarise_gets_shares_of_the_full_brightness(em, some_mnist, grey):
    images, _ = em.tfds_to_numpy(some_mnist, lambda grey: grey >= 1)
    np.testing.assert_array_equal(images, grey == 255)


def test_labels_come_with_their_images(em, some_mnist):
    _, labels = em.tfds_to_numpy(some_mnist)
    expected = [row["label"] for row in some_mnist.as_numpy_iterator()]
    assert labels.tolist() == expected
    assert labels.dtype == np.int64


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda ds: ds.batch(10), id="batches"),
        pytest.param(
            lambda ds: ds.map(lambda row: row | {"image": row["image"] / 255}),
            id="floats",
        ),
        pytest.param(
            lambda ds: ds.map(lambda row: row | {"image": row["image"][..., 0]}),
            id="no channel",
        ),
    ],
)
def test_other_data_sets_are_refused(em, some_mnist, change):
    with pytest.raises(TypeError, match="unbatched"):
        em.tfds_to_numpy(change(some_mnist))
