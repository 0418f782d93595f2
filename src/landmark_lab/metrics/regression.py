"""Linear regression of points from points, the yardstick of unsupervised landmarks.

A linear map y = xW (+ b) from the 2K coordinates of discovered landmarks to the 2P coordinates of
annotated points, or the reverse, is fitted on annotated images. Published numbers differ in the
regulariser, in whether there is a bias b, and in the coordinates: without a bias the error depends
on the origin, and a fixed ridge parameter depends on the unit. scikit-learn does the solving.

Missing values: a target column is fitted on the rows where it is known; one that is never known is
predicted as NaN. A missing input takes its column's mean over the training rows, there and in
prediction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Regressor = Literal["least_squares", "ridge"]


@dataclass(frozen=True, eq=False)
class LinearMap:
    """A fitted regressor.

    Attributes:
        weights: (D, T), NaN columns for targets that were never known.
        bias: (T,), zero for a regressor without bias.
        fill: (D,) what a missing input is replaced by.
    """

    weights: Floats
    bias: Floats
    fill: Floats

    def __call__(self, inputs: Floats) -> Floats:
        """Predict targets (N, T) from inputs (N, D), NaN where missing."""
        return np.where(np.isnan(inputs), self.fill, inputs) @ self.weights + self.bias


def fit_linear(
    inputs: Floats,
    targets: Floats,
    regressor: Regressor = "ridge",
    bias: bool = True,
    alpha: float = 0.1,
    relative: bool = False,
) -> LinearMap:
    """Fit targets as a linear function of inputs.

    Args:
        inputs: (N, D), NaN where missing.
        targets: (N, T), NaN where missing. With fewer rows than inputs, least squares takes the
            solution with the smallest weights.
        regressor: ``least_squares``, or ``ridge``: least squares plus alpha times the squared
            weights.
        bias: whether there is an intercept, which is never regularised: the same as fitting
            centred inputs and targets.
        alpha: ridge parameter.
        relative: multiply alpha by the largest entry of XᵀX, X being the inputs, centred if there
            is a bias.

    Returns:
        The map from inputs (., D) to targets (., T).
    """
    known = ~np.isnan(targets)
    missing = np.isnan(inputs)
    counts = (~missing).sum(0)
    fill = np.where(missing, 0.0, inputs).sum(0) / np.maximum(counts, 1)
    filled = np.where(missing, fill, inputs)

    weights = np.full((inputs.shape[1], targets.shape[1]), np.nan)
    intercept = np.full(targets.shape[1], np.nan)
    # Columns that are known in the same rows are solved together: nearly always one group.
    patterns, group = np.unique(known, axis=1, return_inverse=True)
    for pattern in range(patterns.shape[1]):
        rows, columns = patterns[:, pattern], np.flatnonzero(group == pattern)
        if not rows.any():
            continue
        solved = _solve(filled[rows], targets[rows][:, columns], regressor, bias, alpha, relative)
        weights[:, columns], intercept[columns] = solved
    return LinearMap(weights, intercept, fill)


def _solve(
    inputs: Floats, targets: Floats, regressor: Regressor, bias: bool, alpha: float, relative: bool
) -> tuple[Floats, Floats]:
    from sklearn.linear_model import LinearRegression, Ridge

    if regressor == "least_squares":
        model = LinearRegression(fit_intercept=bias)
    else:
        if relative:
            centred = inputs - inputs.mean(0) if bias else inputs
            alpha = alpha * float((centred.T @ centred).max())
        # Not the default solver, which squares the condition number: a small alpha beside
        # duplicated landmarks would be lost in rounding.
        model = Ridge(alpha=alpha, fit_intercept=bias, solver="svd")
    model.fit(inputs, targets)
    return np.reshape(model.coef_, (targets.shape[1], -1)).T, np.broadcast_to(
        np.asarray(model.intercept_, dtype=np.float64), (targets.shape[1],)
    )
