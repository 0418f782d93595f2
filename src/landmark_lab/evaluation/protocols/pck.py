"""Percentage of correct keypoints: how many regressed points are near enough?

A point is correct if its error is at most ``threshold`` times the normaliser; see
``metrics/pck.py``. The threshold, the normaliser and the average belong to the number.

Convention: distances in the square images that the method sees (see ``data/preprocess.py``).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from landmark_lab.data.results import Predictions, Value
from landmark_lab.evaluation.choices import ForwardProtocol, at_least_one, positive
from landmark_lab.evaluation.common import Floats, image_means
from landmark_lab.evaluation.normalisers import Normaliser
from landmark_lab.evaluation.point_scores import Guesses
from landmark_lab.metrics.bootstrap import bootstrap_interval
from landmark_lab.metrics.pck import Average, at_most


@dataclass(frozen=True, kw_only=True)
class Pck(ForwardProtocol, name="pck"):
    """Percentage of points, regressed from the landmarks, within a threshold of the annotation.

    Higher is better. The references are those of ``forward_nme``. The other choices are explained
    in ``evaluation/choices.py``.

    Args:
        normaliser: what the threshold is a share of: by default the longer side of the object's
            box.
        threshold: the largest error of a correct point, as a share of the normaliser (α).
        average: ``image``: the mean over images of each image's share of correct points;
            ``point``: the share of all points.
        annotated: number of annotated training images; all of them by default.
    """

    higher_is_better: ClassVar[bool] = True
    per_point: ClassVar[str] = "correct"

    normaliser: Normaliser = "longer_side"
    threshold: float = 0.1
    average: Average = "image"
    annotated: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(annotated=self.annotated)
        positive(threshold=self.threshold)

    def run(self, predictions: Predictions) -> Guesses:
        """See :class:`~landmark_lab.evaluation.choices.PointScore`."""
        return self.regressed(predictions, self.annotated)

    def measure(self, errors: Floats) -> Floats:
        """Per cent of correct points of each image.

        For the share of all points: divided by the mean number of points of an image and not by the
        image's own, so that the mean over images is that share.
        """
        correct = self._correct(errors)
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
        correct = self._correct(guesses.errors)
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
        counted = "points of an image" if self.average == "image" else "all points"
        return f"% of {counted} within {self.threshold:g} of {divisor}"

    def _correct(self, errors: Floats) -> Floats:
        """100 for each correct point, else 0, NaN where it does not count."""
        return 100 * at_most(torch.from_numpy(errors), 100 * self.threshold).numpy()
