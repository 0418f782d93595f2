"""Percentage of correct keypoints: how many regressed points are near enough?

A point is correct if its error is at most ``threshold`` times the normaliser; see
``metrics/pck.py``. The threshold, the normaliser and the average belong to the number.

Convention: distances in the square images that the method sees (see ``data/preprocess.py``).
"""

from dataclasses import dataclass

from landmark_lab.data.results import Predictions
from landmark_lab.evaluation.choices import ForwardProtocol, at_least_one
from landmark_lab.evaluation.correct_points import CorrectPoints
from landmark_lab.evaluation.point_scores import Guesses


@dataclass(frozen=True, kw_only=True)
class Pck(CorrectPoints, ForwardProtocol, name="pck"):
    """Percentage of points, regressed from the landmarks, within a threshold of the annotation.

    Higher is better. The references are those of ``forward_nme``. The other choices are explained
    in ``evaluation/correct_points.py`` and ``evaluation/choices.py``.

    Args:
        annotated: number of annotated training images; all of them by default.
    """

    annotated: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(annotated=self.annotated)

    def run(self, predictions: Predictions) -> Guesses:
        """See :class:`~landmark_lab.evaluation.choices.PointScore`."""
        return self.regressed(predictions, self.annotated)
