"""What flows from the methods to the protocols and on to the reader: predictions and scores.

Convention: points are (x, y) in [-1, 1], see ``geometry/points.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark_lab.errors import DataError


@dataclass(frozen=True, eq=False)
class SplitPredictions:
    """What a method found in N images of one split, beside what is known about them.

    Attributes:
        index: (N,) int64, position of each image in the split, increasing.
        landmarks: (N, K, 2) float32, NaN where not found.
        score: (N, K) float32, 0 where not found.
        points: (N, P, 2) float32 annotated points, NaN where unknown; or None.
        visible: (N, P) bool; or None.
        box: (N, 4) float32, x0, y0, x1, y1 of the object; or None.
        identity: (N,) int64, the individual; or None.
        warped: (N, K, 2) float32, the landmarks found in a warped copy of each image; or None.
        expected: (N, K, 2) float32, where the warp carries ``landmarks``; or None.
    """

    index: NDArray[np.int64]
    landmarks: NDArray[np.float32]
    score: NDArray[np.float32]
    points: NDArray[np.float32] | None = None
    visible: NDArray[np.bool_] | None = None
    box: NDArray[np.float32] | None = None
    identity: NDArray[np.int64] | None = None
    warped: NDArray[np.float32] | None = None
    expected: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class Provenance:
    """Where predictions come from, in plain containers.

    Attributes:
        method: the method's spec.
        data: the data's spec.
        checkpoint: SHA-256 of the checkpoint file, or None for a network without training.
        seed: of the warps.
        size: side of the square images in pixels.
        point_names: names of the annotated points.
        flip: the permutation that mirroring applies to them, or None.
        normaliser: the pair of points whose distance normalises an error, or None for the box.
        warps: spec of the generator of the warped copies, or None.
        limits: splits of which only the first so many images were taken.
        version: of the laboratory.
        date: when, in UTC, ISO 8601.
        format: of the file.
    """

    method: dict[str, Any]
    data: dict[str, Any]
    checkpoint: str | None
    seed: int
    size: int
    point_names: list[str]
    flip: list[int] | None
    normaliser: list[int] | None
    warps: dict[str, Any] | None
    limits: dict[str, int]
    version: str
    date: str
    format: int


@dataclass(frozen=True, eq=False)
class Predictions:
    """The predictions of one method on one data set.

    Attributes:
        splits: predictions by split.
        provenance: where they come from.
        source: the file, for messages.
    """

    splits: Mapping[str, SplitPredictions]
    provenance: Provenance
    source: str = "predictions"

    def split(self, name: str) -> SplitPredictions:
        """The predictions of a split.

        Raises:
            DataError: there are none.
        """
        if name not in self.splits:
            raise DataError(
                f"holds no predictions of the split '{name}'",
                where=self.source,
                got=name,
                allowed=self.splits,
                hint="export them with this split",
            )
        return self.splits[name]


@dataclass(frozen=True)
class Value:
    """A number with its bootstrap interval over test images; NaN where it could not be measured."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | None]:
        """Plain containers for JSON, which has no NaN."""
        return {"value": finite(self.value), "low": finite(self.low), "high": finite(self.high)}


@dataclass(frozen=True, eq=False)
class Score:
    """What a protocol says about predictions.

    Attributes:
        protocol: its name.
        version: its version.
        value: the headline, lower is better.
        unit: of the headline and of the references.
        references: the same number for predictors that keep one honest; None where it could not
            be had (no predictions of an untrained network were given).
        settings: every choice that the number depends on.
        values: further numbers, by name; the protocol says their units. Without an interval, its
            ends are NaN.
        per_landmark: a mapping of names and numbers for every annotated point or landmark.
        images: number of test images that count.
        notes: what a reader must know before quoting the number.
        index: (N,) the test images.
        per_image: (N,) the headline of each image, in the same unit, NaN where it does not count;
            two scores of the same images can be compared in pairs.
    """

    protocol: str
    version: int
    value: Value
    unit: str
    references: Mapping[str, float | None]
    settings: Mapping[str, Any]
    values: Mapping[str, Value] = field(default_factory=dict)
    per_landmark: tuple[Mapping[str, Any], ...] = ()
    images: int = 0
    notes: tuple[str, ...] = ()
    index: NDArray[np.int64] | None = None
    per_image: NDArray[np.float64] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain containers for ``results.json``, without the values of single images."""
        return {
            "version": self.version,
            **self.value.to_dict(),
            "unit": self.unit,
            "references": {name: finite(value) for name, value in self.references.items()},
            "values": {name: value.to_dict() for name, value in self.values.items()},
            "settings": dict(self.settings),
            "images": self.images,
            "notes": list(self.notes),
            "per_landmark": [
                {key: finite(entry) for key, entry in row.items()} for row in self.per_landmark
            ],
        }


def finite(value: Any) -> Any:
    """A value as it is, or None for a number that JSON cannot hold (NaN, infinity)."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


__all__ = ["Predictions", "Provenance", "Score", "SplitPredictions", "Value"]
