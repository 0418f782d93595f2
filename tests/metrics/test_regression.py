"""Linear regression against scikit-learn and the normal equations."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Ridge

from landmark_lab.metrics.regression import fit_linear
from tests.oracles import metrics as oracle


def draw(seed, rows=40, inputs=6, targets=4):
    generator = np.random.default_rng(seed)
    x = generator.normal(0.3, 1, (rows, inputs))
    y = x @ generator.normal(size=(inputs, targets)) + 2
    y += 0.1 * generator.normal(size=y.shape)
    return x, y, generator.normal(0.3, 1, (11, inputs))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [40, 3])
def test_least_squares_agrees_with_scikit_learn(bias, rows):
    x, y, asked = draw(0, rows)
    theirs = LinearRegression(fit_intercept=bias).fit(x, y).predict(asked)
    np.testing.assert_allclose(fit_linear(x, y, "least_squares", bias)(asked), theirs, atol=1e-10)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [40, 3])
@pytest.mark.parametrize("alpha", [1e-3, 0.1, 100])
def test_ridge_agrees_with_scikit_learn(bias, rows, alpha):
    x, y, asked = draw(1, rows)
    theirs = Ridge(alpha=alpha, fit_intercept=bias).fit(x, y).predict(asked)
    np.testing.assert_allclose(fit_linear(x, y, "ridge", bias, alpha)(asked), theirs, atol=1e-8)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("regressor", "penalty"), [("least_squares", 0), ("ridge", 0.7)])
def test_it_solves_the_normal_equations(bias, regressor, penalty):
    x, y, _ = draw(2)
    found = fit_linear(x, y, regressor, bias, 0.7)
    weights, intercept = oracle.linear_map(x, y, penalty, bias)
    np.testing.assert_allclose(found.weights, weights, atol=1e-9)
    np.testing.assert_allclose(found.bias, intercept, atol=1e-9)


@pytest.mark.parametrize("bias", [True, False])
def test_a_relative_alpha_is_a_share_of_the_largest_entry(bias):
    x, y, asked = draw(3)
    centred = x - x.mean(0) if bias else x
    alpha = 0.05 * (centred.T @ centred).max()
    ours = fit_linear(x, y, "ridge", bias, 0.05, relative=True)
    np.testing.assert_allclose(ours(asked), fit_linear(x, y, "ridge", bias, alpha)(asked))
    # So the unit of the inputs no longer matters, as it does for a fixed one.
    scaled = fit_linear(64 * x, y, "ridge", bias, 0.05, relative=True)
    np.testing.assert_allclose(scaled(64 * asked), ours(asked))


def test_a_bias_is_the_same_as_centred_data():
    x, y, asked = draw(4)
    with_bias = fit_linear(x, y, "ridge", True, 0.1)(asked)
    centred = fit_linear(x - x.mean(0), y - y.mean(0), "ridge", False, 0.1)
    np.testing.assert_allclose(centred(asked - x.mean(0)) + y.mean(0), with_bias)


def test_without_a_bias_the_origin_matters():
    x, y, asked = draw(5)
    here = fit_linear(x, y, "least_squares", False)(asked)
    there = fit_linear(x + 1, y + 1, "least_squares", False)(asked + 1) - 1
    assert np.abs(here - there).max() > 1e-3


def test_one_image_is_enough():
    x, y, asked = draw(6, rows=1)
    for regressor in ("least_squares", "ridge"):
        np.testing.assert_allclose(fit_linear(x, y, regressor)(asked), np.repeat(y, 11, 0))


def test_duplicated_inputs_do_no_harm():
    x, y, asked = draw(7)
    once = fit_linear(x, y, "ridge", alpha=1e-8)(asked)
    twice = fit_linear(np.hstack([x, x]), y, "ridge", alpha=2e-8)(np.hstack([asked, asked]))
    np.testing.assert_allclose(once, twice, atol=1e-6)


class TestMissing:
    def test_a_target_is_fitted_where_it_is_known(self):
        x, y, asked = draw(8)
        partly = y.copy()
        partly[:10, 1] = np.nan
        partly[5:30, 2] = np.nan
        found = fit_linear(x, partly, "ridge")(asked)
        np.testing.assert_allclose(found[:, [0, 3]], fit_linear(x, y, "ridge")(asked)[:, [0, 3]])
        np.testing.assert_allclose(found[:, 1], fit_linear(x[10:], y[10:], "ridge")(asked)[:, 1])

    def test_one_that_is_never_known_is_predicted_as_unknown(self):
        x, y, asked = draw(9)
        y[:, 2] = np.nan
        found = fit_linear(x, y)(asked)
        assert np.isnan(found[:, 2]).all()
        assert not np.isnan(found[:, [0, 1, 3]]).any()

    def test_an_input_takes_its_mean(self):
        x, y, asked = draw(10)
        partly = x.copy()
        partly[:4, 0] = np.nan
        filled = partly.copy()
        filled[:4, 0] = x[4:, 0].mean()
        asked[0, 0] = np.nan
        found = fit_linear(partly, y)(asked)
        asked[0, 0] = x[4:, 0].mean()
        np.testing.assert_allclose(found, fit_linear(filled, y)(asked))

    def test_an_input_that_is_never_known_is_ignored(self):
        x, y, asked = draw(11)
        x[:, 3] = asked[:, 3] = np.nan
        found = fit_linear(x, y)(asked)
        others = [0, 1, 2, 4, 5]
        np.testing.assert_allclose(found, fit_linear(x[:, others], y)(asked[:, others]))
