"""Matrix completion."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from landmark_lab.metrics.completion import complete, shrink, soft_impute
from tests.oracles import metrics as oracle


def low_rank(seed, rows=60, columns=14, rank=3, noise=0.0):
    generator = np.random.default_rng(seed)
    matrix = generator.normal(size=(rows, rank)) @ generator.normal(size=(rank, columns))
    return matrix + generator.normal(size=columns) + noise * generator.normal(size=matrix.shape)


def with_holes(matrix, share, seed):
    return np.where(np.random.default_rng(seed).random(matrix.shape) < share, np.nan, matrix)


def test_it_is_what_full_decompositions_say():
    holed = with_holes(low_rank(0, rows=25, columns=8, noise=0.1), 0.25, 1)
    found = complete(holed, penalty=0.05, tolerance=1e-9, iterations=3000)
    np.testing.assert_allclose(found, oracle.completed(holed, 0.05), atol=1e-5)


def test_it_is_the_minimum():
    """The optimality conditions: P_Ω(X − Z) = λ (U Vᵀ + W), with W outside Z's space, |W| ≤ 1."""
    holed = with_holes(low_rank(2, rows=30, columns=8, noise=0.2), 0.3, 3)
    known = ~np.isnan(holed)
    matrix = np.where(known, holed, 0.0)
    found = soft_impute(matrix, known, 0.2, 1e-10, 5000)
    level = 0.2 * np.linalg.norm(matrix, 2)
    left, values, right = np.linalg.svd(found, full_matrices=False)
    rank = int((values > 1e-8).sum())
    assert 0 < rank < 8
    left, right = left[:, :rank], right[:rank]
    slope = np.where(known, matrix - found, 0.0) / level
    np.testing.assert_allclose(left.T @ slope, right, atol=1e-4)
    np.testing.assert_allclose(slope @ right.T, left, atol=1e-4)
    assert np.linalg.norm(slope - left @ right, 2) <= 1 + 1e-4


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rank=st.integers(1, 3),
    share=st.floats(0.02, 0.3),
    scale=st.floats(0.01, 100),
)
def test_data_of_low_rank_are_recovered(seed, rank, share, scale):
    matrix = scale * low_rank(seed, rows=80, columns=16, rank=rank)
    holed = with_holes(matrix, share, seed + 1)
    found = complete(holed, penalty=1e-3)
    missing = np.isnan(holed)
    by_mean = np.broadcast_to(np.nanmean(holed, 0), matrix.shape)

    def error(guess):
        return np.sqrt(np.mean((guess - matrix)[missing] ** 2)) if missing.any() else 0.0

    assert error(found) <= 0.2 * error(by_mean)
    np.testing.assert_array_equal(found[~missing], matrix[~missing])


def test_shrinking():
    matrix = low_rank(4, rows=20, columns=6, noise=0.3)
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    threshold = float(values[2] + values[3]) / 2
    expected = left @ np.diag(np.maximum(values - threshold, 0)) @ right
    np.testing.assert_allclose(shrink(matrix, threshold), expected, atol=1e-10)
    assert (shrink(matrix, float(values[0]) * 1.01) == 0).all()


def test_what_cannot_be_completed():
    matrix = low_rank(5)
    np.testing.assert_array_equal(complete(matrix), matrix)
    matrix[:, 3] = np.nan  # never known
    matrix[7] = np.nan  # an image in which nothing is known
    found = complete(matrix)
    assert np.isnan(found[:, 3]).all()
    kept = np.arange(14) != 3
    np.testing.assert_allclose(found[7, kept], np.nanmean(matrix[:, kept], 0), atol=1e-6)


def test_moving_a_column_moves_its_guesses():
    holed = with_holes(low_rank(6, noise=0.1), 0.2, 7)
    shift = np.linspace(-5, 5, holed.shape[1])
    np.testing.assert_allclose(complete(holed + shift), complete(holed) + shift, atol=1e-6)


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_it_beats_the_mean_on_noisy_data(share):
    matrix = low_rank(8, noise=0.3)
    holed = with_holes(matrix, share, 9)
    missing = np.isnan(holed)
    found = np.abs(complete(holed, penalty=0.05) - matrix)[missing].mean()
    mean = np.abs(np.nanmean(holed, 0) - matrix)[missing].mean()
    assert found < 0.5 * mean
