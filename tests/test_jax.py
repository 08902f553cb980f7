"""JAX's own wants: compiled, stacked and differentiated; types, precision and memory.

In this whole file JAX refuses to promote types or ranks by itself.
"""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from textbook import assert_agree, expected_counts, make_mixture, make_table

KEY = jax.random.PRNGKey(0)
HALF = np.float64(0.5)  # a number that isn't float32


@pytest.fixture(scope="module", autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(scope="module")
def other(em):
    return make_mixture(em, 3, 7, seed=1)


@pytest.fixture(scope="module")
def rows(data):
    """With holes and weights, which are integers."""
    return data.replace(weights=data.weights.astype(int))


def stack(*trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def assert_close(found, expected, message=None):
    """In values and in types."""
    found = jax.tree.map(np.asarray, found)
    expected = jax.tree.map(np.asarray, expected)
    chex.assert_trees_all_close(
        found, expected, rtol=1e-4, atol=1e-5, custom_message=message
    )
    chex.assert_trees_all_equal_dtypes(found, expected, custom_message=message)


# What can be compiled, as functions of a mixture and data.
COMPILED = {
    "log_joint_prob": lambda em, p, x: em.log_joint_prob(p, x),
    "log_likelihood": lambda em, p, x: em.log_likelihood(p, x),
    "responsibilities": lambda em, p, x: em.responsibilities(p, x),
    "complete_images": lambda em, p, x: em.complete_images(p, x),
    "class_log_joint": lambda em, p, x: em.class_log_joint([p, p], [HALF, HALF], x),
    "e_step": lambda em, p, x: em.e_step(p, x, HALF),
    "m_step": lambda em, p, x: em.m_step(em.smooth(em.e_step(p, x), HALF)),
    "run_em": lambda em, p, x: em.run_em(p, x, 3, HALF),
    "log_prior": lambda em, p, x: em.log_prior(p, HALF),
}
# What loops in Python.
IN_PYTHON = {
    "init_mixture_params": lambda em, p, x: em.init_mixture_params(KEY, 3, 7),
    "init_from_images": lambda em, p, x: em.init_from_images(KEY, 3, x),
    "fit": lambda em, p, x: em.fit(p, x, pseudo_count=0.5).curve[:5],
    "best_fit": lambda em, p, x: em.best_fit(KEY, 3, x, n_starts=2)[1].values,
    "bootstrap": lambda em, p, x: em.bootstrap(KEY, p, x, n_replicas=3).params,
    "mean_log_likelihood": lambda em, p, x: em.mean_log_likelihood(p, x),
}


# --- Compiled, stacked and differentiated ---


@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_stack_of_mixtures_gives_what_each_gives(
    em, params, other, rows, name
):
    call = COMPILED[name]
    compiled = jax.jit(jax.vmap(lambda p: call(em, p, rows)))
    expected = stack(call(em, params, rows), call(em, other, rows))
    assert_close(compiled(stack(params, other)), expected)


def test_a_compiled_stack_of_keys_gives_what_each_gives(em, params):
    compiled = jax.jit(jax.vmap(lambda key: em.sample_images(key, params, 5)))
    keys = jax.random.split(KEY, 2)
    expected = [em.sample_images(key, params, 5) for key in keys]
    assert_close(compiled(keys), stack(*expected))


def test_a_stack_of_weights_may_be_an_axis_of_the_data(em, params, rows):
    """As for a bootstrap."""
    weights = np.random.default_rng(3).integers(3, size=(2, 40))
    axes = em.BinaryData(on=None, seen=None, weights=0)
    both = jax.vmap(em.e_step, in_axes=(None, axes))
    expected = []
    for row_weights in weights:
        expected.append(em.e_step(params, rows.replace(weights=row_weights)))
    assert_close(both(params, rows.replace(weights=weights)), stack(*expected))


def test_run_em_can_be_compiled_for_any_pseudo_count_and_temperatures(em, params, rows):
    temperatures = jnp.float32([3.0, 2.0, 1.0])

    def run(pseudo_count, temperatures):
        return em.run_em(params, rows, 3, pseudo_count, temperatures)

    found = jax.jit(run)(jnp.float32(0.5), temperatures)
    assert_close(found, run(jnp.float32(0.5), temperatures))


def test_the_e_step_is_the_gradient_of_the_log_likelihood(em, params, rows):
    """Fisher's identity."""
    row_weights = jnp.asarray(rows.weights, dtype=jnp.float32)

    def total(params):
        return jnp.sum(row_weights * em.log_likelihood(params, rows))

    found = jax.grad(total)(params)
    counts = expected_counts(params, rows.on, rows.seen, rows.weights)
    means = np.asarray(params.cluster_means, dtype=float)
    by_means = counts.on_counts / means - counts.off_counts / (1 - means)
    assert_agree("by means", by_means, found.cluster_means, atol=1e-3)
    by_weights = counts.cluster_counts / np.asarray(params.cluster_weights)
    assert_agree("by weights", by_weights, found.cluster_weights, atol=1e-3)


def test_gradients_are_finite_at_means_of_0_and_1(em, rows):
    hard = em.as_mixture([0.25, 0.75], np.eye(2, 7))
    gradient = jax.grad(lambda p: em.log_likelihood(p, rows).sum())(hard)
    chex.assert_tree_all_finite(gradient)


# --- Switches ---


def test_results_are_float32_where_float64_is_enabled(em, params, rows):
    """Their types alone: nothing is compiled."""
    with jax.enable_x64(True):
        doubled = rows.replace(weights=rows.weights.astype(float))
        for name, call in COMPILED.items():
            function = functools.partial(call, em)
            result = jax.eval_shape(function, params, doubled)
            types = {leaf.dtype for leaf in jax.tree.leaves(result)}
            assert types == {jnp.dtype("float32")}, name


@pytest.mark.parametrize("name", IN_PYTHON)
def test_float64_changes_no_number(em, params, rows, name):
    call = IN_PYTHON[name]
    expected = call(em, params, rows)
    with jax.enable_x64(True):
        found = call(em, params, rows)
    assert_close(found, expected)


def test_nothing_needs_to_be_compiled(em, params, rows):
    for name, call in COMPILED.items():
        expected = call(em, params, rows)
        with jax.disable_jit():
            found = call(em, params, rows)
        assert_close(found, expected, name)


def test_nothing_is_nan_on_the_way(em, rows):
    """With a pixel that nobody has seen, an empty cluster, and means of 0 and 1."""
    seen = rows.seen.copy()
    seen[:, 3] = False
    start = em.as_mixture([0.0, 0.5, 0.5], np.eye(3, 7))
    with_unseen = rows.replace(seen=seen)
    with jax.debug_nans(True):
        found = em.fit(start, with_unseen).params
        em.complete_images(found, with_unseen)
    chex.assert_tree_all_finite(found)


# --- Records ---


def test_a_field_cannot_be_set(em, params, rows):
    """What is compiled with it wouldn't notice."""
    for record in (params, rows, em.e_step(params, rows)):
        first_field = dataclasses.fields(record)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, first_field, None)


def test_data_cannot_be_looped_over(rows):
    """Or its fields could be taken for batches."""
    with pytest.raises(TypeError):
        iter(rows)


# --- Compiled code ---


def equations(jaxpr):
    """All steps of a program, those of its loops and calls included."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(equation.params):
            if hasattr(value, "jaxpr"):
                yield from equations(value.jaxpr)


@pytest.mark.parametrize("name", ["log_joint_prob", "e_step", "complete_images"])
def test_products_are_in_full_precision(em, params, name):
    precisions = set()
    for has_holes in (True, False):
        data = make_table(em, has_holes)
        program = jax.make_jaxpr(getattr(em, name))(params, data)
        for equation in equations(program.jaxpr):
            if equation.primitive.name == "dot_general":
                precisions.update(equation.params["precision"])
    assert precisions == {jax.lax.Precision.HIGHEST}


def shapes_of(em, n_clusters, n, n_pixels, has_holes):
    """A mixture and data that have shapes and types, but no values."""
    mixture = em.BernoulliMixture(
        cluster_weights=jax.ShapeDtypeStruct((n_clusters,), jnp.float32),
        cluster_means=jax.ShapeDtypeStruct((n_clusters, n_pixels), jnp.float32),
    )
    pixels = jax.ShapeDtypeStruct((n, n_pixels), bool)
    return mixture, em.BinaryData(on=pixels, seen=pixels if has_holes else None)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        pytest.param("e_step", (15, 60_100, 784, True), id="a remainder and holes"),
        pytest.param("e_step", (3, 2_000, 100_000, True), id="long rows"),
        pytest.param("log_joint_prob", (15, 60_000, 784, False), id="log_joint_prob"),
    ],
)
def test_rows_become_floats_a_batch_at_a_time(em, name, shape):
    """All at once would need 190 MB and more."""
    compiled = getattr(em, name).lower(*shapes_of(em, *shape)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 64e6


def test_rows_may_be_as_long_as_you_like(em):
    mixture, data = shapes_of(em, 2, 3, 3_000_000, False)
    counts = jax.eval_shape(em.e_step, mixture, data)
    assert counts.on_counts.shape == (2, 3_000_000)
