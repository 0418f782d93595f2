"""A detector of many clusters, which merges those that are one landmark.

D. Mallis, E. Sanchez, M. Bell, G. Tzimiropoulos, "Unsupervised learning of object landmarks via
self-training correspondence", NeurIPS 2020; D. Mallis, PhD thesis, §5.2.2: the second stage of
``self_training_correspondence``, whose keypoints in M clusters it learns as ``landmark_maps.py``
says, starting from that stage's weights. Every so many steps Ψ looks at all training images.
Clusters whose detectors fire in the same places are merged (``clustering/merging.py``), and the
training goes on with their keypoints in one map. What is left is the number of landmarks, K: it is
discovered and not set.

No channel is removed or resized. ``landmark[m]`` is the channel that cluster m is learned by, m
itself if it was not merged, -1 if it never had a keypoint. The landmarks are the channels that
stand for themselves, in order. ``merges`` is the history: the absorbed channel, the one that it
went into, the share of its points that overlapped, the round.

What the text leaves open: how often is merged; the score above which a detector fires. If an image
has keypoints of two clusters that become one, that of the remaining channel's own cluster counts.

Convention: points are (x, y) in [-1, 1], ±1 being the outer edges of the border pixels.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from landmark_lab.clustering.merging import Merge, merge
from landmark_lab.data.batch import Sample
from landmark_lab.data.keypoints import KeypointTable
from landmark_lab.data.rounds import Labelled
from landmark_lab.geometry.peaks import channel_peaks
from landmark_lab.landmark_maps import LandmarkMaps
from landmark_lab.plugin import part, settings
from landmark_lab.roles import Backbone, Optimiser, Schedule
from landmark_lab.rounds import Found, Labels


class MergingDetector(LandmarkMaps, name="merging_detector"):
    """One map a cluster, merged until one map a landmark is left (Mallis et al., NeurIPS 2020).

    Args:
        labels: whose keypoints are learned from: ``{stage: NAME}`` or ``{checkpoint: PATH}``.
        clusters: M, as many as the first stage has.
        backbone: the first stage's.
        every: steps between two mergings, at least 1.
        share: of the points of the smaller cluster that must overlap, above 0, to 1.
        cells: how close points overlap, in cells of the maps.
        fires: the score above which a cluster's detector has found something, for the merging.
        threshold: a landmark whose map stays below is not found.
        weights: of the loss.
        optimiser: the paper's by default.
        schedule: of the learning rate.
    """

    counted: ClassVar[str] = "clusters"
    cure: ClassVar[str] = "a larger share, or fewer cells, keeps clusters apart"

    def __init__(
        self,
        labels: Labels,
        clusters: int = 100,
        backbone: Backbone = part(
            "hourglass", stride=4, block="parallel", blocks=1, norm="group", groups=32
        ),
        every: int = 5_000,
        share: float = 0.7,
        cells: float = 1.0,
        fires: float = 0.15,
        threshold: float = 0.0,
        weights: Mapping[str, float] = settings(detection=1.0),
        optimiser: Optimiser = part("rmsprop", lr=5e-4, weight_decay=1e-5),
        schedule: Schedule = part("constant"),
    ) -> None:
        super().__init__(labels, clusters, backbone, every, threshold, weights, optimiser, schedule)
        if not (every >= 1 and 0 < share <= 1 and cells >= 0 and 0 <= fires < 1):
            raise ValueError(
                f"every {every}, share {share}, cells {cells}, fires {fires}; allowed: at least 1, "
                "above 0 to 1, at least 0, 0 to below 1"
            )
        self.share, self.cells, self.fires = share, cells, fires
        self.landmark: Tensor
        self.merges: Tensor
        self.register_buffer("landmark", torch.arange(clusters))
        self.register_buffer("merges", torch.full((clusters, 4), torch.nan))

    # --- rounds ----------------------------------------------------------------------------------

    def find(self, sample: Sample) -> Found:
        """Where the channels fire that stand for themselves."""
        points, scores = channel_peaks(self.network(sample.image), self.fires)
        channels = torch.arange(self.count, device=points.device)
        merged = (self.landmark != channels)[None, :, None]
        return Found(
            points.masked_fill(merged, torch.nan), scores, labels=channels.expand_as(scores)
        )

    def relabel(self, found: KeypointTable, number: int) -> Labelled:
        """The keypoints of the first stage, those of merged clusters under one label."""
        count = self.count
        if number == 0:
            found = found.select(found.labels >= 0)
            used = found.labels.bincount(minlength=count) > 0
            return Labelled(found, {"landmark": torch.where(used, torch.arange(count), -1)})
        points = torch.full((found.images, count, 2), torch.nan)
        points[found.image, found.labels] = found.points
        cell = 2 * self.network.backbone.strides[0] / self._data.size
        into, steps = merge(points, ~points.isnan().any(-1), self.share, self.cells * cell)
        before = self.landmark.cpu()
        landmark = torch.where(before >= 0, into[before], -1)
        rank_zero_info(
            f"round {number}: {len(steps)} of {len(_standing(before))} clusters merged, "
            f"{len(_standing(landmark))} landmarks are left"
        )
        history = torch.cat([self.merges.cpu(), _rows(steps, number)])
        kept = {"landmark": landmark, "merges": history[~history.isnan().any(1)]}
        return Labelled(_relabelled(self.table.to("cpu"), into), kept)

    def landmarks(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The K landmarks discovered so far: points (B, K, 2) and scores (B, K), clamped to 1."""
        maps: Tensor = self.network(images)
        points, scores = channel_peaks(maps[:, _standing(self.landmark)], self.threshold)
        return points, scores.clamp(max=1)


def _standing(landmark: Tensor) -> Tensor:
    """The channels (K,) that stand for themselves."""
    return (landmark == torch.arange(len(landmark), device=landmark.device)).nonzero()[:, 0]


def _rows(steps: list[Merge], number: int) -> Tensor:
    rows = [[step.absorbed, step.into, step.share, number] for step in steps]
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def _relabelled(table: KeypointTable, into: Tensor) -> KeypointTable:
    """The table with the labels that clusters went into; in each image one keypoint of each."""
    labels = into[table.labels]
    # Lexicographic, stable sorts from the last key to the first: own cluster, then the surer one.
    order = table.scores.argsort(descending=True, stable=True)
    for key in ((labels != table.labels).long(), labels, table.image):
        order = order[key[order].argsort(stable=True)]
    first = torch.ones(len(order), dtype=torch.bool)
    first[1:] = (labels[order].diff() != 0) | (table.image[order].diff() != 0)
    keep = torch.empty_like(first)
    keep[order] = first
    return replace(table, labels=labels).select(keep)
