"""Are unordered keypoints where the annotated points are? Precision, recall and F-measure.

D. Mallis, PhD thesis, Nottingham 2023: of a generic detector and of every round of a self-training,
within 8 px (section 4.4, with 13 of the points of a face) or 10 px (section 5.4.2, with 15) in
images of 256. What is a true positive is said in ``metrics/detection.py``: nothing is matched one
to one. The text does not say whether images or keypoints are averaged; both are given here.

Convention: see ``evaluation/keypoint_scores.py``.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from landmark_lab.data.results import Predictions, Score, Value
from landmark_lab.evaluation.common import Floats, mean_value, nan_mean, reference_shapes
from landmark_lab.evaluation.keypoint_scores import Found, KeypointProtocol
from landmark_lab.evaluation.predictions import check_same_images
from landmark_lab.metrics.bootstrap import bootstrap_interval
from landmark_lab.metrics.detection import detection_counts, precision_recall_f
from landmark_lab.metrics.distances import nearest_points
from landmark_lab.seeding import rng

_NAMES = ("precision", "recall", "f")


@dataclass(frozen=True, kw_only=True)
class KeypointDetection(KeypointProtocol, name="keypoint_detection"):
    """F-measure of unordered keypoints: which are at annotated points, and which points have one.

    The headline is the mean over images of the F of each; beside it stand the means of precision
    and recall, the ``pooled`` numbers of all keypoints and points together, and how many
    ``keypoints`` an image has. References: as many keypoints at ``random`` places, and the mean
    shape of the points (of the training images, where they were exported), also at the true
    ``centroid`` and with the true ``centroid_scale``. The other choices are explained in
    ``evaluation/keypoint_scores.py``.
    """

    of_rounds: ClassVar[tuple[str, ...]] = ("precision", "recall", "keypoints")

    def score(self, predictions: Predictions, untrained: Predictions | None = None) -> Score:
        """See :class:`~landmark_lab.roles.Protocol`."""
        found = self.found(predictions)
        counts = self._counts(found.keypoints, found.points)
        each = 100 * precision_recall_f(torch.from_numpy(counts)).numpy()
        references = self._references(predictions, found) | {"untrained": None}
        if untrained is not None:
            check_same_images(predictions, untrained)
            references["untrained"] = self._f(self.found(untrained).keypoints, found.points)
        precision, recall, f = each.T
        return Score(
            protocol=self.plugin_name,
            version=self.version,
            value=self._mean(f),
            unit=f"% (F within {self.distance:g} px at {self.pixels}×{self.pixels})",
            references=references,
            settings=self.settings(),
            values={
                "precision": self._mean(precision),
                "recall": self._mean(recall),
                **self._pooled(counts),
                "keypoints": self._mean(counts[:, 1]),
            },
            per_landmark=self._per_point(found),
            images=int((~np.isnan(f)).sum()),
            notes=_notes(counts),
            index=found.index,
            per_image=f,
            higher_is_better=True,
        )

    def _counts(self, keypoints: Floats, points: Floats) -> Floats:
        found, truth = (torch.from_numpy(np.array(one)) for one in (keypoints, points))
        return detection_counts(found, truth, self.reach).numpy()

    def _f(self, keypoints: Floats, points: Floats) -> float:
        """The headline of some keypoints."""
        counts = torch.from_numpy(self._counts(keypoints, points))
        return nan_mean(100 * precision_recall_f(counts)[:, 2].numpy())

    def _mean(self, per_image: Floats) -> Value:
        return mean_value(per_image, self.resamples, self.seed)

    def _pooled(self, counts: Floats) -> dict[str, Value]:
        """Precision, recall and F of all keypoints and points together."""
        values = {}
        sums = torch.from_numpy(np.nansum(counts, axis=0))
        for column, name in enumerate(_NAMES):

            def of_means(means: Floats, column: int = column) -> Floats:
                return 100 * precision_recall_f(torch.from_numpy(means))[:, column].numpy()

            low, high = bootstrap_interval(
                counts, of_means, resamples=self.resamples, seed=self.seed
            )
            value = float(100 * precision_recall_f(sums)[column])
            values[f"pooled_{name}"] = Value(value, low, high)
        return values

    def _references(self, predictions: Predictions, found: Found) -> dict[str, float | None]:
        shape = found.keypoints.shape
        anywhere = rng(self.seed, "keypoints anywhere", *shape[:2]).uniform(-1, 1, shape)
        anywhere[np.isnan(found.keypoints)] = np.nan
        references: dict[str, float | None] = {"random": self._f(anywhere, found.points)}
        train = predictions.splits.get("train")
        if train is not None and train.points is not None:
            own = self.counted(train, self.columns(predictions.provenance.point_names))
            shapes = reference_shapes(own, found.points)
            references |= {name: self._f(one, found.points) for name, one in shapes.items()}
        return references

    def _per_point(self, found: Found) -> tuple[dict[str, object], ...]:
        """The share of the images in which each point is recovered, in per cent."""
        _, apart = nearest_points(torch.from_numpy(found.points), torch.from_numpy(found.keypoints))
        recovered = np.where(np.isnan(found.points).any(-1), np.nan, 100.0 * (apart <= self.reach))
        return tuple(
            {"name": name, "recall": nan_mean(column)}
            for name, column in zip(found.names, recovered.T, strict=True)
        )


def _notes(counts: Floats) -> tuple[str, ...]:
    empty = int((counts[:, 1] == 0).sum())
    if not empty:
        return ()
    return (f"{empty} images without a keypoint have no precision, and an F of 0",)
