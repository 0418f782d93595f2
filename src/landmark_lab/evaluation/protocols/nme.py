"""Error of points that the method finds itself, without a regressor.

For methods whose landmarks *are* the annotated points: supervised ones, and probes that were
trained on annotated images, such as the one with virtual points.

Convention: NME in the square images that the method sees (see ``data/preprocess.py``).
"""

from dataclasses import dataclass

import numpy as np

from landmark_lab.data.results import Predictions, Value
from landmark_lab.errors import DataError
from landmark_lab.evaluation.choices import PointScore, positive
from landmark_lab.evaluation.common import percent_errors
from landmark_lab.evaluation.point_scores import Guesses, distribution
from landmark_lab.metrics.references import mean_shape


@dataclass(frozen=True, kw_only=True)
class Nme(PointScore, name="nme"):
    """Error of landmarks that are the annotated points themselves, without a regressor.

    A landmark that was not found takes its mean position over the training images. References and
    further values are those of ``forward_nme``.

    Args:
        failure: an image with a larger error, in per cent, is a failure; the area under the curve
            ends there.
    """

    failure: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(failure=self.failure)

    def run(self, predictions: Predictions) -> Guesses:
        """See :class:`~landmark_lab.evaluation.choices.PointScore`."""
        train = self.images(predictions, "train")
        test = self.images(predictions, self.split)
        found, points = test.landmarks.shape[1], test.points.shape[1]
        if found != points:
            raise DataError(
                f"holds {found} landmarks for {points} annotated points, so they are not the "
                "points themselves",
                where=predictions.source,
                hint="'forward_nme' regresses the points from the landmarks",
            )
        lost = np.isnan(test.landmarks)
        guessed = np.where(lost, mean_shape(train.landmarks), test.landmarks)
        errors = percent_errors(guessed, test.points, test.normaliser)
        return Guesses(train, test, errors[None], {})

    def values(self, predictions: Predictions, guesses: Guesses) -> dict[str, Value]:
        """``auc`` and ``failure_rate``."""
        return self.means(guesses, distribution(self.failure))
