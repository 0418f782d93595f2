"""Ridge regression for many ridge parameters at once.

One singular value decomposition serves all parameters, so that choosing one by leaving images out
stays cheap. Missing values are treated as in ``metrics/regression.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from landmark_lab.metrics.regression import LinearMap

Floats = NDArray[np.float64]


def ridge_path(inputs: Floats, targets: Floats, alphas: Sequence[float]) -> list[LinearMap]:
    """Ridge regression with a bias, once for each ridge parameter.

    Args:
        inputs: (N, D), NaN where missing.
        targets: (N, T), NaN where missing.
        alphas: A ridge parameters, above 0.

    Returns:
        A maps from inputs (., D) to targets (., T), each as ``fit_linear`` finds it.
    """
    from sklearn.linear_model import Ridge

    count, width = len(alphas), targets.shape[1]
    missing = np.isnan(inputs)
    fill = np.where(missing, 0.0, inputs).sum(0) / np.maximum((~missing).sum(0), 1)
    filled = np.where(missing, fill, inputs)
    weights = np.full((count, inputs.shape[1], width), np.nan)
    bias = np.full((count, width), np.nan)
    patterns, group = np.unique(~np.isnan(targets), axis=1, return_inverse=True)
    for pattern in range(patterns.shape[1]):
        rows, columns = patterns[:, pattern], np.flatnonzero(group.ravel() == pattern)
        if not rows.any():
            continue
        # scikit-learn takes one parameter a target, and decomposes the inputs once.
        model = Ridge(alpha=np.repeat(alphas, len(columns)), solver="svd")
        model.fit(filled[rows], np.tile(targets[rows][:, columns], count))
        found = model.coef_.reshape(count, len(columns), -1).transpose(0, 2, 1)
        weights[:, :, columns] = found
        bias[:, columns] = model.intercept_.reshape(count, -1)
    return [LinearMap(w, b, fill) for w, b in zip(weights, bias, strict=True)]
