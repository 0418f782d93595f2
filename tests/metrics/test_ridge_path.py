"""Ridge regression for many parameters at once against one at a time."""

import numpy as np
import pytest

from landmark_lab.metrics.regression import fit_linear
from landmark_lab.metrics.ridge_path import ridge_path
from tests.oracles import metrics as oracle

ALPHAS = (1e-6, 0.1, 30.0, 1e6)


def draw(seed: int, rows: int = 30, inputs: int = 5, targets: int = 4):
    generator = np.random.default_rng(seed)
    x = generator.normal(0.3, 1, (rows, inputs))
    y = x @ generator.normal(size=(inputs, targets)) + generator.normal(size=(rows, targets))
    return x, y


@pytest.mark.parametrize("rows", [30, 3])
def test_every_map_solves_its_normal_equations(rows: int) -> None:
    x, y = draw(0, rows)
    for alpha, found in zip(ALPHAS[1:], ridge_path(x, y, ALPHAS[1:]), strict=True):
        weights, bias = oracle.linear_map(x, y, alpha, True)
        np.testing.assert_allclose(found.weights, weights, atol=1e-8)
        np.testing.assert_allclose(found.bias, bias, atol=1e-8)


def test_missing_values_are_treated_as_by_one_fit() -> None:
    x, y = draw(1)
    generator = np.random.default_rng(2)
    x[generator.random(x.shape) < 0.2] = np.nan
    y[generator.random(y.shape) < 0.3] = np.nan
    y[:, 2] = np.nan  # never known
    asked = np.where(generator.random((9, 5)) < 0.3, np.nan, generator.normal(size=(9, 5)))
    for alpha, found in zip(ALPHAS, ridge_path(x, y, ALPHAS), strict=True):
        np.testing.assert_allclose(found(asked), fit_linear(x, y, alpha=alpha)(asked), atol=1e-8)
    assert np.isnan(found(asked)[:, 2]).all()


def test_a_large_parameter_gives_the_mean() -> None:
    x, y = draw(3)
    np.testing.assert_allclose(ridge_path(x, y, [1e12])[0](x), np.tile(y.mean(0), (30, 1)))
