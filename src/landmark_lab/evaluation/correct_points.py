"""What percentages of correct keypoints (PCK) share: threshold, average, unit.

Convention: distances in the square images that the method sees (see ``data/preprocess.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from landmark_lab.data.results import Value
from landmark_lab.evaluation.choices import PointScore, positive
from landmark_lab.evaluation.common import Floats, image_means
from landmark_lab.evaluation.normalisers import Normaliser
from landmark_lab.evaluation.point_scores import Guesses
from landmark_lab.metrics.bootstrap import bootstrap_interval
from landmark_lab.metrics.pck import Average, at_most


@dataclass(frozen=True, kw_only=True)
class CorrectPoints(PointScore):
    """A protocol that counts the guesses within a threshold of the annotated points.

    Args:
        normaliser: what the threshold is a share of: by default the longer side of the object's
            box.
        threshold: the largest error of a correct point, as a share of the normaliser (α).
        average: ``image``: the mean over images of each image's share of correct points;
            ``point``: the share of all points.
    """

    higher_is_better: ClassVar[bool] = True
    per_point: ClassVar[str] = "correct"

    normaliser: Normaliser = "longer_side"
    threshold: float = 0.1
    average: Average = "image"

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(threshold=self.threshold)

    def measure(self, errors: Floats) -> Floats:
        """Per cent of correct points of each image.

        For the share of all points: divided by the mean number of points of an image and not by the
        image's own, so that the mean over images is that share.
        """
        correct = self.correct(errors)
        if self.average == "image":
            return image_means(correct)
        known = (~np.isnan(correct)).sum(-1).astype(np.float64)
        known[known == 0] = np.nan
        return np.asarray(np.nansum(correct, -1) / np.nanmean(known, -1, keepdims=True) + 0 * known)

    def headline(self, guesses: Guesses) -> Value:
        """The percentage; for all points its interval is that of a ratio of two means."""
        value = super().headline(guesses)
        if self.average == "image":
            return value
        correct = self.correct(guesses.errors)
        columns = [np.nansum(correct, -1).mean(0), (~np.isnan(correct)).sum(-1).mean(0)]
        low, high = bootstrap_interval(
            np.stack(columns, -1),
            lambda means: means[:, 0] / means[:, 1],
            resamples=self.resamples,
            seed=self.seed,
        )
        return Value(value.value, low, high, value.deviation)

    def unit(self, divisor: str) -> str:
        """The threshold and the average, which belong to the number."""
        return f"% of {self.counted} within {self.threshold:g} of {divisor}"

    @property
    def counted(self) -> str:
        """What the percentage is of, in words."""
        return "points of an image" if self.average == "image" else "all points"

    def correct(self, errors: Floats) -> Floats:
        """100 for each correct point, else 0, NaN where it does not count."""
        return 100 * at_most(torch.from_numpy(errors), 100 * self.threshold).numpy()
