"""What flows from the methods to the protocols and on to the reader: predictions and scores.

Convention: points are (x, y) in [-1, 1], see ``geometry/points.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark_lab.data.exports import MatchRequest
from landmark_lab.errors import DataError
from landmark_lab.files import read_json

RUN_EXPORTS = (
    "a run exports them for the protocols in its 'evaluate', a finished one when it is continued: "
    "landmark-lab train --resume RUN 'evaluate=[...]'"
)
"""What to do about predictions that lack something a protocol needs."""


@dataclass(frozen=True, eq=False)
class SplitPredictions:
    """What a method found in N images of one split, beside what is known about them.

    Attributes:
        index: (N,) int64, position of each image in the split, increasing.
        landmarks: (N, K, 2) float32, NaN where not found; K is 0 of a method that finds none.
        score: (N, K) float32, 0 where not found.
        points: (N, P, 2) float32 annotated points, NaN where unknown; or None.
        visible: (N, P) bool; or None.
        box: (N, 4) float32, x0, y0, x1, y1 of the object; or None.
        identity: (N,) int64, the individual; or None.
        warped: (N, K, 2) float32, the landmarks found in a warped copy of each image; or None.
        expected: (N, K, 2) float32, where the warp carries ``landmarks``; or None.
        copies: (N, C, K, 2) float32, the landmarks found in C other warped copies of each image,
            which a regressor may be fitted on too; or None.
        copied_points: (N, C, P, 2) float32, the annotated points in these copies; or None.
        copied_visible: (N, C, P) bool; or None.
        keypoints: (N, M, 2) float32, unordered, NaN behind an image's last one; or None.
        keypoint_score: (N, M) float32, 0 there; or None.
        keypoint_label: (N, M) int64, the cluster of each, -1 for none; or None.
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
    copies: NDArray[np.float32] | None = None
    copied_points: NDArray[np.float32] | None = None
    copied_visible: NDArray[np.bool_] | None = None
    keypoints: NDArray[np.float32] | None = None
    keypoint_score: NDArray[np.float32] | None = None
    keypoint_label: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True, eq=False)
class Matches:
    """Where Q points of one image were found in another one, for M pairs of images.

    Attributes:
        source: (M,) int64, position of the image that the points are of, increasing.
        target: (M,) int64, position of the image in which they were looked for; may be the same.
        points: (M, Q, 2) float32 in the source, NaN where unknown or not in the target.
        expected: (M, Q, 2) float32, where they lie in the target; NaN as ``points``.
        visible: (M, Q) bool, whether a point is seen in both.
        found: (M, Q, 2) float32, where the method found them; NaN where it did not.
        score: (M, Q) float32, 0 where not found.
    """

    source: NDArray[np.int64]
    target: NDArray[np.int64]
    points: NDArray[np.float32]
    expected: NDArray[np.float32]
    visible: NDArray[np.bool_]
    found: NDArray[np.float32]
    score: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.source)


@dataclass(frozen=True)
class Provenance:
    """Where predictions come from, in plain containers.

    Attributes:
        method: the method's spec.
        data: the data's spec.
        checkpoint: SHA-256 of the checkpoint file, or None for a network without training.
        seed: of all warps.
        size: side of the square images in pixels.
        point_names: names of the annotated points.
        flip: the permutation that mirroring applies to them, or None.
        normaliser: the pair of points whose distance normalises an error, or None for the box.
        warps: spec of the generator of the warped copies, or None.
        limits: splits of which only the first so many images were taken.
        version: of the laboratory.
        date: when, in UTC, ISO 8601.
        format: of the file.
        augmentation: spec of the generator of the regressor's warped copies, or None.
        matches: the request of all matches, by their keys, with the spec of the warps if there are
            any.
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
    augmentation: dict[str, Any] | None = None
    matches: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Predictions:
    """The predictions of one method on one data set.

    Attributes:
        splits: predictions by split.
        provenance: where they come from.
        source: the file, for messages.
        matches: what was asked for by requests, by their keys.
    """

    splits: Mapping[str, SplitPredictions]
    provenance: Provenance
    source: str = "predictions"
    matches: Mapping[str, Matches] = field(default_factory=dict)

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

    def matched(self, request: MatchRequest) -> Matches:
        """The matches that a request asks for.

        Raises:
            DataError: they were not exported.
        """
        if request.key not in self.matches:
            raise DataError(
                f"holds no matches '{request.key}'",
                where=self.source,
                got=request.key,
                allowed=self.matches,
                hint=RUN_EXPORTS,
            )
        return self.matches[request.key]


@dataclass(frozen=True)
class Value:
    """A number with its bootstrap interval over test images; NaN where it could not be measured.

    Attributes:
        value: the number.
        low, high: its interval.
        deviation: its standard deviation over repeats, e.g. over choices of the annotated images;
            None where nothing was repeated.
    """

    value: float
    low: float
    high: float
    deviation: float | None = None

    def to_dict(self) -> dict[str, float | None]:
        """Plain containers for JSON, which has no NaN."""
        numbers = {"value": finite(self.value), "low": finite(self.low), "high": finite(self.high)}
        if self.deviation is not None:
            numbers["deviation"] = finite(self.deviation)
        return numbers


@dataclass(frozen=True, eq=False)
class Score:
    """What a protocol says about predictions.

    Attributes:
        protocol: its name.
        version: its version.
        value: the headline.
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
            their mean is the headline, and two scores of the same images can be compared in pairs.
        higher_is_better: whether a larger headline is the better one.
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
    higher_is_better: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain containers for ``results.json``, without the values of single images."""
        return {
            "version": self.version,
            **self.value.to_dict(),
            "unit": self.unit,
            "higher_is_better": self.higher_is_better,
            "references": {name: finite(value) for name, value in self.references.items()},
            "values": {name: value.to_dict() for name, value in self.values.items()},
            "settings": dict(self.settings),
            "images": self.images,
            "notes": list(self.notes),
            "per_landmark": [
                {key: finite(entry) for key, entry in row.items()} for row in self.per_landmark
            ],
        }


def read_results(path: str | Path) -> dict[str, Any]:
    """Read a file of scores, such as a run's ``results.json``: ``{"protocols": {name: score}}``.

    Raises:
        DataError: it is missing, damaged, or something else.
    """
    content: Any = read_json(path)
    scores = content.get("protocols") if isinstance(content, dict) else None
    if not isinstance(scores, dict) or not all(
        isinstance(score, dict) and "value" in score for score in scores.values()
    ):
        raise DataError(
            "is no file of scores, or a damaged one",
            where=str(path),
            hint="for a run: landmark-lab train --resume RUN scores it again",
        )
    return dict(content)


def finite(value: Any) -> Any:
    """A value as it is, or None for a number that JSON cannot hold (NaN, infinity)."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


__all__ = [
    "RUN_EXPORTS",
    "Matches",
    "Predictions",
    "Provenance",
    "Score",
    "SplitPredictions",
    "Value",
    "read_results",
]
