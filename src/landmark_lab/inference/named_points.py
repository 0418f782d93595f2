"""The user's own named points, regressed from the landmarks that a method discovered.

A linear map takes the landmarks of an image to the named points (``metrics/regression.py``); it is
fitted on a handful of annotated images (``inference/fitting.py``) and kept in a file beside the
checkpoint: a NumPy archive of plain numbers with a JSON text, read without executing anything.

**The score** of a named point estimates the probability that it lies within the *tolerance* (a
tenth of the normaliser, e.g. of the distance of the eyes) of where the annotator would have put it.
The error is taken as Gaussian with the mean square e², so the probability is 1 − exp(−tolerance² /
e²). e is the larger of two distances: the point's error when annotated images are left out, which
is the same for all images; and the jackknife standard error of this image's point, which is how
much the maps that were fitted without one of the annotated images disagree about it, and which
grows when an image is unlike all annotated ones. The probability is multiplied by the landmarks'
own scores, averaged with the regressor's weights, each relative to its mean over the annotated
images and at most 1. A point that cannot be given has the score 0 and is NaN.

Convention: points are (x, y) in [-1, 1] of the square images that the method sees.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark_lab.errors import DataError
from landmark_lab.files import atomic, sha256
from landmark_lab.metrics.regression import LinearMap

KIND = "landmark-lab named points"
FORMAT = 1
SUFFIX = ".points.npz"
"""How files of named points end."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PointsCard:
    """What a file of named points says about itself, in plain containers.

    Attributes:
        names: of the P points.
        skeleton: pairs of points to join in drawings.
        flip: the permutation that mirroring an image applies to the points, or None.
        normaliser: the pair of points whose distance normalises an error, or None.
        divisor: what errors are divided by, in words.
        checkpoint: SHA-256 of the checkpoint whose landmarks the points are regressed from.
        method: name of its method.
        images: names of the annotated images that the points were fitted on.
        settings: how they were fitted.
        left_out: errors in images left out, of each point by its name and of ``all``: ``pixels`` of
            the original image, ``percent`` of the normaliser, and the same of the mean shape, the
            guess that does not look at the image; None where unknown.
        version: of the laboratory.
        date: when, in UTC, ISO 8601.
        format: of the file.
    """

    names: list[str]
    skeleton: list[list[int]]
    flip: list[int] | None
    normaliser: list[int] | None
    divisor: str
    checkpoint: str
    method: str
    images: list[str]
    settings: dict[str, Any]
    left_out: dict[str, dict[str, float | None]]
    version: str
    date: str
    format: int = FORMAT


@dataclass(frozen=True, eq=False)
class NamedPoints:
    """P named points as a linear function of K landmarks.

    Attributes:
        card: names, origin and settings.
        weights: (F + 1, 2·K, 2·P): of the map fitted on all annotated images, then of the F maps
            that were fitted without some of them; NaN columns for a point that is never annotated.
        bias: (F + 1, 2·P).
        fill: (F + 1, 2·K), what the coordinates of a landmark that was not found are replaced by.
        usual_error: (P,) root mean square error of each point in images left out.
        usual_score: (K,) mean score of each landmark over the annotated images.
        tolerance: see the module's text.
        source: the file, for messages.
    """

    card: PointsCard
    weights: Floats
    bias: Floats
    fill: Floats
    usual_error: Floats
    usual_score: Floats
    tolerance: float
    source: str = field(default="named points", compare=False)

    def __call__(self, landmarks: Floats, score: Floats) -> tuple[Floats, Floats]:
        """The named points of images.

        Args:
            landmarks: (N, K, 2), NaN where not found.
            score: (N, K), 0 where not found.

        Returns:
            Points (N, P, 2), NaN where none can be given; scores (N, P) in [0, 1], see the module's
            text.
        """
        rows = landmarks.reshape(len(landmarks), -1)
        maps = (
            LinearMap(*numbers) for numbers in zip(self.weights, self.bias, self.fill, strict=True)
        )
        guesses = np.stack([own(rows) for own in maps])
        guesses = guesses.reshape(len(guesses), len(rows), -1, 2)
        points, without = guesses[0], guesses[1:]
        spread = ((without - without.mean(0)) ** 2).sum((0, 3)) * (1 - 1 / len(without))
        error = np.maximum(self.usual_error**2, spread)
        with np.errstate(divide="ignore"):
            certain = 1 - np.exp(-(self.tolerance**2) / error)
        certain = certain * self._found(score)
        lost = np.isnan(points).any(-1) | (score == 0).all(1)[:, None]
        return np.where(lost[..., None], np.nan, points), np.where(lost, 0.0, certain)

    def _found(self, score: Floats) -> Floats:
        """How well the landmarks were found that each point hangs on, (N, P) in [0, 1]."""
        usual = np.where(self.usual_score > 0, self.usual_score, np.inf)
        relative = np.minimum(score / usual, 1)
        landmarks, points = self.weights.shape[1] // 2, self.weights.shape[2] // 2
        share = np.abs(self.weights[0]).reshape(landmarks, 2, points, 2).sum((1, 3))
        total = share.sum(0)
        # A point that hangs on no landmark, because it never moved, is found anyway.
        with np.errstate(invalid="ignore"):
            return np.where(total > 0, relative @ (share / total), 1.0)

    def save(self, path: str | Path) -> None:
        """Write the file, atomically.

        Raises:
            RunError: it cannot be written.
        """
        text = json.dumps({"kind": KIND, **asdict(self.card)})
        arrays: dict[str, Any] = {name: getattr(self, name) for name in _SHAPES}
        with atomic(path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, card=np.array(text), **arrays)


_SHAPES = {"weights": 3, "bias": 2, "fill": 2, "usual_error": 1, "usual_score": 1, "tolerance": 0}


def load_points(path: str | Path, checkpoint: str | Path) -> NamedPoints:
    """Read a file of named points, executing nothing in it.

    Args:
        path: what :meth:`NamedPoints.save` wrote.
        checkpoint: whose landmarks are at hand.

    Raises:
        DataError: the file is missing, damaged, something else, of another format, or was fitted
            on the landmarks of another checkpoint.
    """
    where = str(path)
    arrays = _read(path)
    try:
        raw: Mapping[str, Any] = json.loads(str(arrays.pop("card")))
        is_ours = raw.get("kind") == KIND
    except (KeyError, AttributeError, json.JSONDecodeError):
        is_ours = False
    if not is_ours:
        raise DataError(
            "is not a file of named points",
            where=where,
            allowed="what 'landmark-lab fit-points' writes",
        )
    if raw.get("format") != FORMAT:
        raise DataError(
            f"has format {raw.get('format')!r}",
            where=where,
            allowed=f"format {FORMAT}",
            hint="fit the points again",
        )
    try:
        card = PointsCard(**{key: value for key, value in raw.items() if key != "kind"})
        numbers: dict[str, Any] = {name: np.asarray(arrays[name], float) for name in _SHAPES}
    except (TypeError, KeyError, ValueError) as error:
        raise DataError(f"is incomplete ({error})", where=where) from error
    if any(numbers[name].ndim != dimensions for name, dimensions in _SHAPES.items()):
        raise DataError("holds arrays of other shapes than named points have", where=where)
    maps, inputs, outputs = numbers["weights"].shape
    shapes = ((maps, outputs), (maps, inputs), (len(card.names),), (inputs // 2,))
    found = tuple(numbers[name].shape for name in ("bias", "fill", "usual_error", "usual_score"))
    if found != shapes or outputs != 2 * len(card.names) or maps < 2:
        raise DataError("holds arrays that do not fit one another", where=where)
    if card.checkpoint != sha256(checkpoint):
        raise DataError(
            f"was fitted on the landmarks of another checkpoint than {checkpoint}",
            where=where,
            hint="give that checkpoint, or fit the points again with 'landmark-lab fit-points'",
        )
    numbers["tolerance"] = float(numbers["tolerance"])
    return NamedPoints(card, **numbers, source=where)


def _read(path: str | Path) -> dict[str, NDArray[Any]]:
    if not Path(path).is_file():
        raise DataError("there is no such file of named points", where=str(path))
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    # A plain array is no context manager; a damaged archive fails in any of the other ways.
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, TypeError) as error:
        # NumPy's own words advise to load it unsafely.
        raise DataError("is damaged or not a file of named points", where=str(path)) from error
