"""What protocols about unordered keypoints share: keypoints, the annotated points, distances.

They score what a method finds, and just as well what a generic detector or one round of a
self-training found; see ``evaluation/keypoint_tables.py``.

Convention: a distance is in pixels of square images of a stated size, which need not be that of the
images that the method sees: 1 pixel is 2 / pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from landmark_lab.data.exports import Exports
from landmark_lab.data.results import RUN_EXPORTS, Predictions, SplitPredictions
from landmark_lab.errors import ConfigError, DataError
from landmark_lab.evaluation.choices import at_least_one, position, positive
from landmark_lab.evaluation.common import Counted, Floats
from landmark_lab.roles import ImageData, Protocol, Split
from landmark_lab.schema import plain

Subset = tuple[int | str, ...] | None


@dataclass(frozen=True, eq=False)
class Found:
    """The keypoints and the annotated points of the scored images, in float64.

    Attributes:
        index: (N,) position of each image in its split.
        keypoints: (N, M, 2), NaN where there is none.
        label: (N, M) cluster of each, -1 for none.
        points: (N, P, 2), of the chosen points, NaN where one does not count.
        names: of these points.
    """

    index: NDArray[np.int64]
    keypoints: Floats
    label: NDArray[np.int64]
    points: Floats
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class KeypointProtocol(Protocol):
    """A protocol about unordered keypoints.

    The keypoints are those of a method that offers them; of any other method they are its
    landmarks, each a cluster of its own.

    Args:
        distance: in pixels, within which a keypoint is at a point.
        pixels: side of the images whose pixels these are.
        subset: the annotated points that the score is about, by number or name; all by default.
        points: count the ``visible`` ones of these, or all ``annotated`` ones.
        split: the images that are scored; nothing is fitted, so they may be those of the training.
        resamples: of the bootstrap over these images.
        seed: of the bootstrap and of all other draws.
    """

    version: ClassVar[int] = 1
    needs_clusters: ClassVar[bool] = False
    """Whether it is about the keypoints' labels."""
    of_rounds: ClassVar[tuple[str, ...]] = ()
    """The values that a table of rounds shows beside the headline."""

    distance: float = 10.0
    pixels: int = 256
    subset: Subset = None
    points: Counted = "visible"
    split: Split = "test"
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        at_least_one(resamples=self.resamples, pixels=self.pixels)
        positive(distance=self.distance)
        if self.subset is not None and not self.subset:
            raise ValueError("subset is empty; leave it out for all points")

    @property
    def exports(self) -> Exports:
        """The keypoints."""
        return Exports(keypoints=True)

    @property
    def reach(self) -> float:
        """The distance in the units of points."""
        return 2 * self.distance / self.pixels

    def check_data(self, data: ImageData) -> None:
        """Refuse data without annotated points, or without some of the chosen ones.

        Raises:
            ConfigError: what to change.
        """
        if "points" not in data.provides:
            raise ConfigError(
                f"'{self.plugin_name}' compares keypoints with annotated points, which the data "
                f"'{data.plugin_name}' does not have",
                where="evaluate",
            )
        self.columns(data.point_names)

    def columns(self, names: Sequence[str]) -> list[int]:
        """The chosen points, by number.

        Raises:
            ConfigError: there is no such point, or one is chosen twice.
        """
        if self.subset is None:
            return list(range(len(names)))
        where = f"{self.plugin_name}.subset"
        chosen = [position(point, names, where) for point in self.subset]
        if len(set(chosen)) < len(chosen):
            raise ConfigError("names a point twice", where=where, got=list(self.subset))
        return chosen

    def found(self, predictions: Predictions) -> Found:
        """The keypoints and the points that count of the split.

        Raises:
            DataError: the split was not exported, or has no keypoints or no such points.
        """
        split = predictions.split(self.split)
        if split.points is None:
            raise DataError(
                f"the split '{self.split}' has no annotated points, which this protocol needs",
                where=predictions.source,
            )
        keypoints, label = _keypoints(split, predictions.source)
        names = predictions.provenance.point_names
        columns = self.columns(names)
        points = self.counted(split, columns)
        if np.isnan(points).all():
            raise DataError(
                f"none of the chosen points is {self.points} in any of the {len(split)} images of "
                f"the split '{self.split}'",
                where=predictions.source,
            )
        chosen = tuple(names[column] for column in columns)
        return Found(split.index, keypoints.astype(np.float64), label, points, chosen)

    def counted(self, split: SplitPredictions, columns: Sequence[int]) -> Floats:
        """(N, P, 2) the annotated points in some columns, NaN where one does not count."""
        assert split.points is not None
        points = split.points[:, columns].astype(np.float64)
        if self.points == "visible" and split.visible is not None:
            points = np.where(split.visible[:, columns, None], points, np.nan)
        return points

    def settings(self) -> dict[str, Any]:
        """Every choice."""
        names = [field.name for field in fields(self)]
        return {name: plain(getattr(self, name), name) for name in names}


def _keypoints(
    split: SplitPredictions, source: str
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The keypoints (N, M, 2) and their labels (N, M) that a split holds."""
    if split.keypoints is not None:
        assert split.keypoint_label is not None
        return split.keypoints, split.keypoint_label
    landmarks = split.landmarks
    if landmarks.shape[1] == 0:
        raise DataError(
            "holds neither keypoints nor landmarks, one of which this protocol needs",
            where=source,
            hint=RUN_EXPORTS,
        )
    found = ~np.isnan(landmarks).any(-1)
    return landmarks, np.where(found, np.arange(landmarks.shape[1]), -1)


__all__ = ["Found", "KeypointProtocol", "Subset"]
