"""Keypoints by self-training, with correspondence by clustering: the first of its kind.

D. Mallis, E. Sanchez, M. Bell, G. Tzimiropoulos, "Unsupervised learning of object landmarks via
self-training correspondence", NeurIPS 2020; D. Mallis, PhD thesis, chapter 5. This is the first
stage; ``merging_detector`` is the second. A network Φ has a detector head, one map H of where
keypoints are, and a head of descriptors f.

- Warm-up (§5.3.2): the keypoints of a generic detector, without the isolated ones, are clustered
  by the descriptors that came with them. Φ is trained on these for 20,000 steps.
- Then, every 10,000 steps (``rounds.py``), Φ finds keypoints in all training images, and its own
  descriptors are clustered into M clusters, y: K-means, then a linear assignment, so that a cluster
  has one keypoint of an image at most (eq. 5.2). Keypoints far from their centroid are removed.
- Until the next round: L = w_c L_c + w_d L_d. L_c is eq. 5.3 (``losses/contrastive.py``):
  descriptors of one cluster are alike, those of different clusters differ, in any image. L_d is the
  mean squared error of H and Gaussians (eq. 5.1) at the keypoints of the last *two* rounds, so that
  one which is missed once is not lost.

M is much larger than the number of landmarks: a landmark looks different from different sides and
has several clusters, which the second stage merges. Centroids are carried over from round to round.

Deviations and what the text leaves open. The network's descriptors are no generic ones, so at the
first clustering of its own a centroid is carried over as the mean of the descriptors, now, of the
keypoints that were in its cluster. Of a keypoint that both of the last two rounds have found the
later one counts; one that the last round has not found has no cluster and plays no part in L_c.
"Much larger than the average distance" is ``far``, twice. The hinge is the published code's, see
``losses/contrastive.py``. Images are not mirrored: nothing here knows left from right (§6.1.8).

Convention: points are (x, y) in [-1, 1], ±1 being the outer edges of the border pixels.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from landmark_lab.clustering.modified_kmeans import modified_kmeans
from landmark_lab.clustering.outliers import isolated
from landmark_lab.data.batch import Pair, Sample
from landmark_lab.data.keypoints import KeypointTable
from landmark_lab.data.rounds import Labelled, same_place
from landmark_lab.errors import DataError
from landmark_lab.geometry.peaks import peaks
from landmark_lab.keypoint_network import KeypointMaps, KeypointNetwork
from landmark_lab.losses.contrastive import Contrastive, Described
from landmark_lab.losses.heatmap import Gaussian, gaussian_target, heatmap_regression
from landmark_lab.plugin import part, settings
from landmark_lab.roles import Backbone, KeypointDetector, Optimiser, Schedule
from landmark_lab.rounds import Found, RoundsMethod
from landmark_lab.seeding import seed_of

# Keypoints of an image, at most.
_MOST = 200


class SelfTrainingCorrespondence(RoundsMethod, name="self_training_correspondence"):
    """Keypoints in clusters, by training and clustering in turns (Mallis et al., NeurIPS 2020).

    Args:
        clusters: the paper's M: 100 for faces, 250 for bodies.
        keypoints: finds and describes the initial keypoints; the paper's at three scales.
        backbone: its finest map is the resolution of both heads.
        dimension: of a descriptor.
        warm_up: steps before the first clustering of the network's own descriptors.
        every: steps of a round after it.
        margin: of the contrastive loss.
        pairs: at most so many positive and negative pairs of a batch.
        threshold: of the detector's map, in [0, 1).
        radius: of the non-maximum suppression, in cells.
        sigma: of the Gaussians at the keypoints, in cells.
        isolated: share of the initial keypoints that is left out, in [0, 1).
        far: a keypoint is removed if its distance exceeds this multiple of its cluster's mean
            distance, at least 1.
        weights: of the two loss terms, w_c and w_d.
        optimiser: the paper's by default.
        schedule: of the learning rate.
    """

    cure: ClassVar[str] = (
        "a lower threshold, more initial keypoints, fewer clusters, a smaller learning rate"
    )
    layers: tuple[str, ...] = ("descriptors",)
    network: KeypointNetwork

    def __init__(
        self,
        clusters: int = 100,
        keypoints: KeypointDetector = part("superpoint", scales=(1.0, 1.3, 1.6)),
        backbone: Backbone = part(
            "hourglass", stride=4, block="parallel", blocks=1, norm="group", groups=32
        ),
        dimension: int = 256,
        warm_up: int = 20_000,
        every: int = 10_000,
        margin: float = 0.8,
        pairs: int = 5_000,
        threshold: float = 0.15,
        radius: int = 2,
        sigma: float = 1.0,
        isolated: float = 0.4,
        far: float = 2.0,
        weights: Mapping[str, float] = settings(contrastive=10.0, detection=1.0),
        optimiser: Optimiser = part("rmsprop", lr=5e-4, weight_decay=1e-5),
        schedule: Schedule = part("constant"),
    ) -> None:
        super().__init__(keypoints, warm_up, every, weights, optimiser, schedule)
        if min(clusters, pairs, warm_up) < 1 or radius < 0 or far < 1:
            raise ValueError(
                f"clusters {clusters}, pairs {pairs}, warm_up {warm_up}, radius {radius}, "
                f"far {far}; allowed: at least 1, the radius 0"
            )
        if not (0 <= threshold < 1 and 0 <= isolated < 1):
            raise ValueError(f"threshold {threshold}, isolated {isolated}; allowed: 0 to below 1")
        self.network = KeypointNetwork(backbone, dimension)
        self.cluster_count, self.far, self.isolated = clusters, far, isolated
        self.contrastive = Contrastive(margin, negatives="cluster")
        self.pairs, self.mark = pairs, Gaussian(sigma)
        self.threshold, self.radius = threshold, radius
        self.centroids: Tensor
        self.register_buffer("centroids", torch.full((clusters, dimension), torch.nan))

    # --- learning --------------------------------------------------------------------------------

    def losses(self, batch: Pair) -> dict[str, Tensor]:
        """Equation 5.3 of the descriptors, and equation 5.1 of the detector's map."""
        points, labels = self.in_source(batch)
        moved, theirs = self.in_target(batch, points)
        maps: KeypointMaps = self.network(torch.cat([batch.source.image, batch.target.image]))
        places = torch.cat([points, moved])
        size = (maps.score.shape[-2], maps.score.shape[-1])
        return {
            "contrastive": self._contrastive(maps.descriptors, places, torch.cat([labels, theirs])),
            "detection": heatmap_regression(maps.score, gaussian_target(places, size, self.mark)),
        }

    def _contrastive(self, descriptors: Tensor, points: Tensor, labels: Tensor) -> Tensor:
        """L_c of two views (2B, ...) of each image, over pairs that ``self.draw`` chooses."""
        half = len(points) // 2
        clustered = points.masked_fill((labels < 0)[..., None], torch.nan)
        vectors = self.network.sample(descriptors, clustered)
        views = [
            Described.keypoints(vectors[view], clustered[view], labels[view])
            for view in (slice(0, half), slice(half, None))
        ]
        draw = self.draw.child("contrastive").uniform(2, -(-self.pairs // half))
        return self.contrastive(Described.joined(views), draw.transpose(0, 1).flatten(1))

    # --- rounds ----------------------------------------------------------------------------------

    def find(self, sample: Sample) -> Found:
        """The peaks of the detector's map, and their descriptors (B, N, D)."""
        return self._described_peaks(sample.image)

    def relabel(self, found: KeypointTable, number: int) -> Labelled:
        """Clusters of what was found, and the keypoints of the round before without any.

        Raises:
            DataError: the initial keypoints have no descriptors.
        """
        if number:
            labelled = self._clustered(found, self._carried(found), self._seed(number))
            table = labelled.table
            lost = self.table.select(self.table.labels >= 0).to("cpu")
            lost = lost.select(same_place(lost, table) < 0)
            unnamed = replace(lost, labels=torch.full_like(lost.labels, -1))
            joined = KeypointTable.concat([table.without_descriptors(), unnamed])
            return Labelled(joined, labelled.kept)
        if found.descriptors is None:
            raise DataError(
                f"the keypoints of '{self.spec['keypoints']['name']}' have no descriptors to begin "
                "with",
                where=f"method.{self.plugin_name}.keypoints",
                allowed="a detector that describes them, for example sift; or the method "
                "'self_training', which needs none",
            )
        if self.isolated:
            found = found.select(~isolated(found.descriptors, self.isolated))
        # These descriptors are not the network's; their centroids are of no use later.
        return Labelled(self._clustered(found, None, self._seed(0)).table)

    @property
    def concluded(self) -> int:
        """M, the clusters."""
        return self.cluster_count

    def conclude(self, found: KeypointTable) -> Labelled:
        """For the second stage: the clusters of what was found."""
        return self._clustered(found, self._known(), seed=0)

    def _clustered(self, found: KeypointTable, initial: Tensor | None, seed: int) -> Labelled:
        """The keypoints that are assigned to a cluster and near it."""
        assert found.descriptors is not None
        result = modified_kmeans(
            found.descriptors,
            found.image,
            self.cluster_count,
            seed=seed,
            assignment="hungarian",
            far=self.far,
            initial=initial,
        )
        labelled = replace(found, labels=result.labels).select(result.labels >= 0)
        return Labelled(labelled, {"centroids": result.centroids})

    def _carried(self, found: KeypointTable) -> Tensor | None:
        """The centroids to start from: the last ones, or where the generic clusters are now."""
        known = self._known()
        if known is not None:
            return known
        assert found.descriptors is not None
        before = self.table.to("cpu")
        row = same_place(found, before)
        label = torch.where(row >= 0, before.labels[row.clamp(min=0)], -1)
        vectors, label = found.descriptors[label >= 0], label[label >= 0]
        sums = torch.zeros(self.cluster_count, vectors.shape[1]).index_add_(0, label, vectors)
        counts = label.bincount(minlength=self.cluster_count)
        return sums[counts > 0] / counts[counts > 0, None] if len(label) else None

    def _seed(self, number: int) -> int:
        return seed_of(self._data.draw_seed, "clusters", number)

    def _known(self) -> Tensor | None:
        known = self.centroids[~self.centroids.isnan().any(1)].cpu()
        return known if len(known) else None

    # --- what is found ---------------------------------------------------------------------------

    def keypoints(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keypoints (B, N, 2), NaN where there is none, scores, and the nearest clusters.

        Labels are −1 before the first clustering of the network's own descriptors.
        """
        points, scores, vectors, _ = self._described_peaks(images)
        assert vectors is not None
        apart = torch.cdist(vectors, self.centroids.to(vectors)).nan_to_num(nan=torch.inf)
        nearest = apart.min(-1)
        nobody = (scores == 0) | nearest.values.isinf()
        return points, scores, nearest.indices.masked_fill(nobody, -1)

    def embedding(self, images: Tensor, layer: str | None = None) -> Tensor:
        """Descriptors (B, D, h, w) of length 1.

        Raises:
            ValueError: there is no such layer.
        """
        if layer not in (None, *self.layers):
            raise ValueError(f"there is no layer {layer!r}; allowed: {', '.join(self.layers)}")
        maps: KeypointMaps = self.network(images)
        return normalize(maps.descriptors, dim=1)

    def similarity(self, source: Tensor, target: Tensor) -> Tensor:
        """The cosine (B, N, M) of descriptors (B, N, D) and (B, M, D)."""
        return normalize(source, dim=-1) @ normalize(target, dim=-1).mT

    def _described_peaks(self, images: Tensor) -> Found:
        maps: KeypointMaps = self.network(images)
        points, scores = peaks(maps.score[:, 0], self.radius, self.threshold, _MOST)
        return Found(points, scores, self.network.sample(maps.descriptors, points))
