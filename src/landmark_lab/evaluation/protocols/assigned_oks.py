"""Average precision and recall of landmarks as the parts of an object, over the OKS.

D. Mallis, PhD thesis, Nottingham 2023, table 6.11: what COCO measures of supervised poses,
for discovered landmarks, each annotated point having one (``protocols/assigned.py``); also at a
relaxed threshold of 0.4. See ``metrics/oks.py``.

Convention: the square images that the method sees (see ``data/preprocess.py``).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from landmark_lab.data.results import Predictions, Score, Value
from landmark_lab.errors import DataError
from landmark_lab.evaluation.assigned import (
    Assignment,
    assignment,
    assignment_notes,
    at_points,
)
from landmark_lab.evaluation.choices import PointProtocol, positive
from landmark_lab.evaluation.common import Annotated, Floats, nan_mean, reference_shapes
from landmark_lab.evaluation.normalisers import Normaliser
from landmark_lab.evaluation.predictions import check_same_images
from landmark_lab.metrics.bootstrap import percentile_interval, resampled_images
from landmark_lab.metrics.oks import THRESHOLDS, KeypointDetections, keypoint_similarity

_RELAXED = 0.4
_ALL = (_RELAXED, *THRESHOLDS)
# The mean of those of COCO's 17 points.
_SIGMA = 0.067


@dataclass(frozen=True, kw_only=True)
class AssignedOks(PointProtocol, name="assigned_oks"):
    """Average precision over the object keypoint similarity, one landmark for each point.

    AP is the mean over the thresholds 0.50 to 0.95; beside it stand the recall ``ar``, both at 0.5
    and at the relaxed 0.4, and ``oks``, the mean similarity itself. All in per cent. An object is
    as sure as its landmarks' mean score. Needs pycocotools.

    Args:
        normaliser: √ of the object's area: by default √(w·h) of the box around its known points.
        sigmas: σ of each annotated point, or one for all.
        resamples: of the bootstrap over test images; each takes some milliseconds.
    """

    version: ClassVar[int] = 1

    normaliser: Normaliser = "points_box"
    sigmas: float | tuple[float, ...] = _SIGMA
    resamples: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        for sigma in self.sigmas if isinstance(self.sigmas, tuple) else (self.sigmas,):
            positive(sigmas=sigma)

    def score(self, predictions: Predictions, untrained: Predictions | None = None) -> Score:
        """See :class:`~landmark_lab.roles.Protocol`."""
        train = self.images(predictions, "train")
        test = self.images(predictions, self.split)
        landmark = assignment(train)
        guesses = at_points(test, landmark)
        sure = self._sureness(predictions, landmark)
        detections = self._detections(guesses, test, sure)
        if not len(detections):
            raise DataError(
                f"no image of the split '{self.split}' has an object with an area ({test.divisor})",
                where=predictions.source,
            )
        shapes = reference_shapes(train.points, test.points)
        references: dict[str, float | None] = {
            name: _ap(self._detections(shape, test, np.ones(len(sure))))
            for name, shape in shapes.items()
        }
        references["untrained"] = None
        if untrained is not None:
            check_same_images(predictions, untrained)
            own = assignment(self.images(untrained, "train"))
            theirs = at_points(self.images(untrained, self.split), own)
            references["untrained"] = _ap(
                self._detections(theirs, test, self._sureness(untrained, own))
            )
        names = predictions.provenance.point_names
        similarity = 100 * keypoint_similarity(*self._objects(guesses, test)).numpy()
        values = self._values(detections)
        return Score(
            protocol=self.plugin_name,
            version=self.version,
            value=values.pop("ap"),
            unit="% (average precision over the OKS)",
            references=references,
            settings=self.settings(normaliser=test.divisor),
            values={**values, "oks": self.mean_value(similarity)},
            per_landmark=tuple(
                {"name": name, "landmark": None if k < 0 else k}
                for name, k in zip(names, landmark.tolist(), strict=True)
            ),
            images=len(detections),
            notes=assignment_notes(train, test, landmark),
            index=test.index,
            higher_is_better=True,
        )

    def _sureness(self, predictions: Predictions, landmark: Assignment) -> Floats:
        """(N,) the mean score of the landmarks that have a point, 0 for those not found."""
        scores = predictions.split(self.split).score[:, landmark[landmark >= 0]]
        return np.asarray(scores.sum(1, dtype=np.float64) / max(1, scores.shape[1]))

    def _objects(self, guesses: Floats, test: Annotated) -> tuple[torch.Tensor, ...]:
        """Guesses, points, areas and sigmas as :func:`keypoint_similarity` takes them.

        Raises:
            DataError: there are not as many sigmas as points.
        """
        points = test.points.shape[1]
        sigmas = self.sigmas if isinstance(self.sigmas, tuple) else (self.sigmas,) * points
        if len(sigmas) != points:
            raise DataError(
                f"{len(sigmas)} sigmas for {points} annotated points",
                where=f"{self.plugin_name}.sigmas",
            )
        arrays = (guesses, test.points, test.normaliser**2, np.array(sigmas))
        return tuple(torch.from_numpy(np.array(array)) for array in arrays)

    def _detections(self, guesses: Floats, test: Annotated, sure: Floats) -> KeypointDetections:
        predicted, points, area, sigmas = self._objects(guesses, test)
        return KeypointDetections(predicted, points, area, sigmas, torch.from_numpy(sure), _ALL)

    def _values(self, detections: KeypointDetections) -> dict[str, Value]:
        """AP and AR, their means over COCO's thresholds, at 0.5 and at 0.4."""
        draws = [
            detections.precision_recall(rows).numpy()
            for rows in resampled_images(len(detections), self.resamples, self.seed)
        ]
        found = {}
        measured = [detections.precision_recall().numpy(), *draws]
        for column, name in enumerate(("ap", "ar")):
            each = 100 * np.stack([one[:, column] for one in measured])
            parts = {name: each[:, 1:].mean(1), f"{name}_50": each[:, 1], f"{name}_40": each[:, 0]}
            for key, (value, *resampled) in parts.items():
                found[key] = Value(float(value), *percentile_interval(np.array(resampled)))
        return found


def _ap(detections: KeypointDetections) -> float:
    """AP of detections in per cent."""
    return nan_mean(100 * detections.precision_recall().numpy()[1:, 0])
