"""What the clusters leave unexplained: pair_residuals."""

import jax
import numpy as np
import pytest
from textbook import make_mixture, make_table

NAN = float("nan")


def residuals(em, params, data):
    return np.asarray(em.pair_residuals(params, data), dtype=float)


def residual_of_a_pair(params, on, row_weights):
    """Of rows (n, 2) that are all seen, less the mixture's of two pixels; NaN if none."""
    pi = np.asarray(params.cluster_weights, dtype=float)
    mu = np.asarray(params.cluster_means, dtype=float)
    mean = pi @ mu
    covariance = pi @ ((mu[:, 0] - mean[0]) * (mu[:, 1] - mean[1]))
    in_model = covariance / np.sqrt(np.prod(mean * (1 - mean)))
    if row_weights.sum() == 0:
        return NAN
    mean = np.average(on, axis=0, weights=row_weights)
    deviations = on - mean
    variances = np.average(deviations**2, axis=0, weights=row_weights)
    if variances.min() < 1e-12:
        return NAN
    covariance = np.average(deviations.prod(axis=1), weights=row_weights)
    return covariance / np.sqrt(variances.prod()) - in_model


@pytest.mark.parametrize("whole", [False, True], ids=["holes and weights", "neither"])
def test_a_residual_is_the_correlation_of_rows_that_show_both_less_the_models(
    em, params, whole
):
    data = make_table(em, has_holes=not whole, has_weights=not whole)
    seen = np.ones((40, 7), dtype=bool) if whole else data.seen.copy()
    row_weights = np.ones(40) if whole else data.weights * (np.arange(40) % 2 + 1)
    if not whole:
        seen[seen[:, 5], 6] = False  # nobody shows both
        data = data.replace(seen=seen, repeats=np.arange(40) % 2 + 1)

    expected = np.full((7, 7), NAN)
    for i in range(7):
        for j in range(7):
            pair = np.array([i, j])
            both = seen[:, pair].all(axis=1)
            if i != j:
                expected[i, j] = residual_of_a_pair(
                    params.replace(cluster_means=params.cluster_means[:, pair]),
                    np.asarray(data.on, dtype=float)[both][:, pair],
                    np.asarray(row_weights, dtype=float)[both],
                )
    assert np.isfinite(expected).any()
    assert np.isnan(expected[0]).all()  # never on
    np.testing.assert_allclose(residuals(em, params, data), expected, atol=1e-5)


def test_of_rows_drawn_from_the_mixture_nothing_is_left(em):
    params = make_mixture(em, 3, 7, seed=2)
    rng = np.random.default_rng(0)
    weights = np.asarray(params.cluster_weights, dtype=float)
    clusters = rng.choice(3, size=200_000, p=weights / weights.sum())
    on = rng.random((200_000, 7)) < np.asarray(params.cluster_means)[clusters]
    left = residuals(em, params, em.BinaryData(on=on))
    alone = em.as_mixture([1.0], on.mean(axis=0)[None])
    assert np.nanmax(np.abs(left)) < 0.01
    assert np.nanmax(np.abs(residuals(em, alone, em.BinaryData(on=on)))) > 0.1


def test_a_copied_column_is_left_whole(em):
    on = np.random.default_rng(0).random((100, 1)) < 0.5
    alone = em.as_mixture([1.0], [[0.5, 0.5, 0.5]])
    left = residuals(em, alone, em.BinaryData(on=np.hstack([on, on, ~on])))
    expected = [[NAN, 1, -1], [1, NAN, -1], [-1, -1, NAN]]
    np.testing.assert_allclose(left, expected, atol=1e-5)


def test_residuals_of_rows_that_stand_for_billions_are_numbers(em, params, data):
    """The squares of such counts are numbers in float32, their product is none."""
    rows = em.BinaryData(on=data.on[:, 2:])
    mixture = params.replace(cluster_means=params.cluster_means[:, 2:])
    many = rows.replace(repeats=np.full(40, 4e9, dtype=np.float32))
    expected = em.pair_residuals(mixture, rows)
    np.testing.assert_allclose(em.pair_residuals(mixture, many), expected, atol=1e-5)


def test_jax_need_not_promote_types_or_ranks(em, params, data):
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        residuals(em, params, data.replace(weights=data.weights.astype(int)))
