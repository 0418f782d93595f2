"""Do the clusters of keypoints stand for annotated points? Normalised mutual information.

D. Mallis, PhD thesis, Nottingham 2023, section 5.4.2: between the cluster of each detected keypoint
and its landmark label, the annotated point that it is nearest to. The text limits the keypoints by
no distance, so neither does the headline: noise takes the label of whatever point is nearest, and
lowers it. ``near`` is the same number of the true positives alone, and so of the clustering alone.

Convention: see ``evaluation/keypoint_scores.py``.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from landmark_lab.data.results import Predictions, Score, Value
from landmark_lab.errors import DataError
from landmark_lab.evaluation.keypoint_scores import Found, KeypointProtocol
from landmark_lab.evaluation.predictions import check_same_images
from landmark_lab.metrics.bootstrap import percentile_interval, resampled_images
from landmark_lab.metrics.distances import nearest_points
from landmark_lab.metrics.mutual_information import contingency, normalised_mutual_information
from landmark_lab.seeding import rng

Labels = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class KeypointClusters(KeypointProtocol, name="keypoint_clusters"):
    """Normalised mutual information between keypoints' clusters and the points they are nearest to.

    Of all keypoints that are in a cluster, in all images together. Beside it stands ``near``, that
    of the keypoints within ``distance`` of their point, and the number of ``clusters`` in use. The
    reference ``shuffled`` gives every keypoint the cluster of another one: many small clusters
    reach a number above 0 by chance. The other choices are explained in
    ``evaluation/keypoint_scores.py``.
    """

    needs_clusters: ClassVar[bool] = True
    of_rounds: ClassVar[tuple[str, ...]] = ("near", "clusters")

    def score(self, predictions: Predictions, untrained: Predictions | None = None) -> Score:
        """See :class:`~landmark_lab.roles.Protocol`."""
        found = self.found(predictions)
        pairs = self._pairs(found)
        if not len(pairs.image):
            raise DataError(
                f"no keypoint of the split '{self.split}' is in a cluster",
                where=predictions.source,
                hint="'keypoint_detection' scores keypoints without clusters",
            )
        shuffled = rng(self.seed, "shuffled clusters").permutation(pairs.cluster)
        references: dict[str, float | None] = {
            "shuffled": _nmi(shuffled, pairs.point),
            "untrained": None,
        }
        if untrained is not None:
            check_same_images(predictions, untrained)
            theirs = self._pairs(self.found(untrained))
            references["untrained"] = _nmi(theirs.cluster, theirs.point)
        return Score(
            protocol=self.plugin_name,
            version=self.version,
            value=self._value(pairs, len(found.index)),
            unit="of 1 (normalised mutual information)",
            references=references,
            settings=self.settings(),
            values={
                "near": self._value(pairs.of(pairs.near), len(found.index)),
                "clusters": Value(float(len(np.unique(pairs.cluster))), np.nan, np.nan),
            },
            per_landmark=_per_point(found, pairs),
            images=len(np.unique(pairs.image)),
            notes=_notes(found, pairs),
            index=found.index,
            higher_is_better=True,
        )

    def _pairs(self, found: Found) -> "_Pairs":
        """The clusters and points of all keypoints that have both."""
        point, apart = nearest_points(
            torch.from_numpy(found.keypoints), torch.from_numpy(found.points)
        )
        both = (found.label >= 0) & (point.numpy() >= 0)
        image = np.broadcast_to(np.arange(len(both))[:, None], both.shape)
        near = apart.numpy() <= self.reach
        return _Pairs(image[both], found.label[both], point.numpy()[both], near[both])

    def _value(self, pairs: "_Pairs", images: int) -> Value:
        """The NMI with its bootstrap interval over images.

        Resampled images come several times, which makes labels look more predictable: the draws
        are moved by the difference between their mean and the value.
        """
        if not len(pairs.image):
            return Value(np.nan, np.nan, np.nan)
        _, cluster = np.unique(pairs.cluster, return_inverse=True)
        _, point = np.unique(pairs.point, return_inverse=True)
        rows, columns = cluster.max() + 1, point.max() + 1
        cell = cluster * columns + point
        draws = []
        for drawn in resampled_images(images, self.resamples, self.seed):
            times = np.bincount(drawn, minlength=images)[pairs.image]
            table = np.bincount(cell, times, rows * columns).reshape(rows, columns)
            draws.append(float(normalised_mutual_information(torch.from_numpy(table))))
        value = _nmi(pairs.cluster, pairs.point)
        low, high = percentile_interval(np.array(draws) - np.nanmean(draws) + value)
        return Value(value, max(low, 0.0), min(high, 1.0))


@dataclass(frozen=True, eq=False)
class _Pairs:
    """The labels of T keypoints.

    Attributes:
        image: (T,) row of the image.
        cluster: (T,) from 0.
        point: (T,) the nearest annotated point.
        near: (T,) bool, whether it is within the distance.
    """

    image: Labels
    cluster: Labels
    point: Labels
    near: NDArray[np.bool_]

    def of(self, rows: NDArray[np.bool_]) -> "_Pairs":
        return _Pairs(self.image[rows], self.cluster[rows], self.point[rows], self.near[rows])


def _nmi(cluster: Labels, point: Labels) -> float:
    table = contingency(torch.from_numpy(cluster), torch.from_numpy(point))
    return float(normalised_mutual_information(table))


def _per_point(found: Found, pairs: _Pairs) -> tuple[dict[str, object], ...]:
    """For each point its keypoints an image, their most frequent cluster and its share of them."""
    rows = []
    for p, name in enumerate(found.names):
        clusters, counts = np.unique(pairs.cluster[pairs.point == p], return_counts=True)
        largest = int(counts.argmax()) if len(counts) else None
        rows.append(
            {
                "name": name,
                "keypoints": float(counts.sum() / len(found.index)),
                "cluster": None if largest is None else int(clusters[largest]),
                "share": None if largest is None else float(100 * counts[largest] / counts.sum()),
            }
        )
    return tuple(rows)


def _notes(found: Found, pairs: _Pairs) -> tuple[str, ...]:
    keypoints = ~np.isnan(found.keypoints).any(-1)
    without = (keypoints & (found.label < 0)).sum() / max(1, keypoints.sum())
    far = 1 - pairs.near.mean()
    notes = [f"{100 * far:.1f} % of the keypoints in a cluster are near no annotated point"]
    if without:
        notes.append(f"{100 * without:.1f} % of the keypoints are in no cluster and left out")
    return tuple(notes)
