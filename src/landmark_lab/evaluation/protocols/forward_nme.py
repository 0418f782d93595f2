"""Forward error: how well do the landmarks predict the annotated points?

A linear map from the landmarks' coordinates to those of the annotated points is fitted on annotated
training images; its normalised mean error on test images is the headline of most papers.

Convention: NME in the square images that the method sees (see ``data/preprocess.py``): the same as
in the original images unless these were squashed.
"""

from dataclasses import dataclass

import numpy as np

from landmark_lab.data.results import Predictions, Value
from landmark_lab.evaluation.choices import ForwardProtocol, at_least_one, positive
from landmark_lab.evaluation.common import PointMap
from landmark_lab.evaluation.point_scores import Guesses, distribution


@dataclass(frozen=True, kw_only=True)
class ForwardNme(ForwardProtocol, name="forward_nme"):
    """Error of the annotated points when regressed linearly from the landmarks.

    A landmark that was not found takes its mean position over the training images. The references
    are the mean shape of all annotated training images, the same at the true centroid, and at the
    true centroid and scale, and the untrained network with the same regressor. Beside the error
    stand ``auc``, the area under the cumulative error curve, and ``failure_rate``, both in per
    cent, and ``landmarks_per_image``, the mean number of landmarks found. The other choices are
    explained in ``evaluation/choices.py``.

    Args:
        annotated: number of annotated training images; all of them by default.
        failure: an image with a larger error, in per cent, is a failure; the area under the curve
            ends there.
    """

    annotated: int | None = None
    failure: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(annotated=self.annotated)
        positive(failure=self.failure)

    def regressor_of(self, predictions: Predictions) -> PointMap:
        """The regressor from the landmarks to the annotated points that the score is about.

        With ``annotated``, that of the first choice of images.

        Raises:
            DataError: the predictions lack something that the protocol needs.
        """
        return self.regressors(predictions, self.annotated)[0]

    def run(self, predictions: Predictions) -> Guesses:
        """See :class:`~landmark_lab.evaluation.choices.PointScore`."""
        return self.regressed(predictions, self.annotated)

    def values(self, predictions: Predictions, guesses: Guesses) -> dict[str, Value]:
        """``auc`` and ``failure_rate``, and how many landmarks were found in an image."""
        found = (~np.isnan(guesses.test.landmarks).any(-1)).sum(-1).astype(np.float64)
        return {
            **self.means(guesses, distribution(self.failure)),
            "landmarks_per_image": self.mean_value(found),
        }
