"""Matrix completion by singular value thresholding: guesses for landmarks that were not found.

A method that finds only some of its landmarks in an image leaves holes in the matrix X (an image a
row, a coordinate a column) that a regressor is fitted on. Landmarks of one kind of object move
together, so the matrix is nearly of low rank about its mean, and the holes are filled by the matrix
Z that agrees with the known entries Ω and has small singular values::

    minimise  ½ ‖P_Ω(X − Z)‖² + λ ‖Z‖_*

The iteration Z ← D_λ(P_Ω(X) + P_Ω⊥(Z)) fills the holes with the current guess and lowers every
singular value by λ, but not below zero (D_λ); it descends from any start and converges to the
minimum. λ is lowered in steps, each starting from the last result.

Singular value thresholding: J.-F. Cai, E. J. Candès, Z. Shen, SIAM Journal on Optimization 2010,
which D. Mallis, PhD thesis, Nottingham 2023, section 6.2.2, uses for incomplete landmarks. The
iteration with a penalty is that of R. Mazumder, T. Hastie, R. Tibshirani, "Spectral Regularization
Algorithms for Learning Large Incomplete Matrices", JMLR 2010; it allows for noise in the entries.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Steps in which the penalty falls from the largest useful one to the one asked for.
_STEPS = 10


def complete(
    matrix: Floats, penalty: float = 0.01, tolerance: float = 1e-5, iterations: int = 500
) -> Floats:
    """Fill the unknown entries of a matrix; the known ones stay as they are.

    Args:
        matrix: (N, D), NaN where unknown. Every column is taken about the mean of its known
            entries, so that an image in which nothing is known gets the means.
        penalty: λ as a share of the largest singular value of the known entries (about their
            means, zero where unknown): the noise that is not worth another dimension.
        tolerance: a step of the penalty ends when the relative change of Z is below it.
        iterations: at most so many for each step.

    Returns:
        (N, D); a column without any known entry stays unknown.
    """
    known = ~np.isnan(matrix)
    if known.all():
        return matrix.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of an empty slice
        mean: Floats = np.nanmean(matrix, axis=0)
    centred = np.where(known, matrix - mean, 0.0)
    found = soft_impute(centred, known, penalty, tolerance, iterations)
    return np.where(known, matrix, found + mean)


def soft_impute(
    matrix: Floats, known: NDArray[np.bool_], penalty: float, tolerance: float, iterations: int
) -> Floats:
    """The minimum Z of the module's objective.

    Args:
        matrix: (N, D), zero where unknown.
        known: (N, D), which entries are.
        penalty, tolerance, iterations: see :func:`complete`.

    Returns:
        (N, D).
    """
    largest = float(np.linalg.norm(matrix, 2))
    guess = np.zeros_like(matrix)
    for level in np.geomspace(1.0, penalty, _STEPS)[1:] * largest:
        for _ in range(iterations):
            before = guess
            guess = shrink(np.where(known, matrix, before), float(level))
            change = np.linalg.norm(guess - before)
            if change <= tolerance * max(np.linalg.norm(before), np.finfo(np.float64).tiny):
                break
    return guess


def shrink(matrix: Floats, threshold: float) -> Floats:
    """Lower every singular value of a matrix (N, D) by a threshold, but not below zero."""
    # By the eigenvectors of the small Gram matrix: there are many more images than coordinates.
    squares, vectors = np.linalg.eigh(matrix.T @ matrix)
    values = np.sqrt(squares.clip(min=0))
    kept = values > threshold
    vectors = vectors[:, kept]
    return np.asarray(((matrix @ vectors) * (1 - threshold / values[kept])) @ vectors.T)
