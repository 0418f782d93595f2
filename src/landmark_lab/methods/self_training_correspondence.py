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
Two keypoints are one if they are nearer to each other than two peaks of one map can be.
"Much larger than the average distance" is ``far``, twice. The hinge is the published code's, see
``losses/contrastive.py``. Images are not mirrored: nothing here knows left from right (§6.1.8).

Convention: points are (x, y) in [-1, 1], ±1 being the outer edges of the border pixels.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from landmark_lab.clustered_keypoints import ClusteredKeypoints, known
from landmark_lab.clustering.modified_kmeans import modified_kmeans
from landmark_lab.clustering.outliers import isolated
from landmark_lab.data.batch import Pair, Sample
from landmark_lab.data.keypoints import KeypointTable
from landmark_lab.data.rounds import Labelled, same_place
from landmark_lab.errors import DataError
from landmark_lab.keypoint_network import KeypointMaps
from landmark_lab.losses.contrastive import Contrastive, Described
from landmark_lab.losses.heatmap import keypoint_regression
from landmark_lab.plugin import part, settings
from landmark_lab.roles import Backbone, KeypointDetector, Optimiser, Schedule
from landmark_lab.rounds import Found
from landmark_lab.seeding import seed_of


class SelfTrainingCorrespondence(ClusteredKeypoints, name="self_training_correspondence"):
    """Keypoints in clusters, by training and clustering in turns (Mallis et al., NeurIPS 2020).

    Args:
        clusters: the paper's M: 100 for faces, 250 for bodies.
        keypoints: finds and describes the initial keypoints; the paper's at three scales.
        backbone: its finest map is the resolution of both heads.
        dimension: of a descriptor.
        warm_up: steps before the first clustering of the network's own descriptors.
        every: steps of a round after it.
        margin: of the contrastive loss.
        pairs: at most so many positive and negative pairs of a process's batch, rounded up to as
            many for each image.
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
        super().__init__(
            keypoints,
            backbone,
            dimension,
            warm_up,
            every,
            threshold,
            radius,
            sigma,
            weights,
            optimiser,
            schedule,
        )
        if min(clusters, pairs, warm_up) < 1 or far < 1 or not 0 <= isolated < 1:
            raise ValueError(
                f"clusters {clusters}, pairs {pairs}, warm_up {warm_up}, far {far}, "
                f"isolated {isolated}; allowed: at least 1, isolated 0 to below 1"
            )
        self.cluster_count, self.far, self.isolated = clusters, far, isolated
        self.contrastive = Contrastive(margin, negatives="cluster")
        self.pairs = pairs
        self.centroids: Tensor
        self.register_buffer("centroids", torch.full((clusters, dimension), torch.nan))

    # --- learning --------------------------------------------------------------------------------

    def losses(self, batch: Pair) -> dict[str, Tensor]:
        """Equation 5.3 of the descriptors, and equation 5.1 of the detector's map."""
        points, labels, _ = self.in_views(batch).joined()
        clustered = points.masked_fill((labels < 0)[..., None], torch.nan)
        images = torch.cat([batch.source.image, batch.target.image])
        maps: KeypointMaps = self.network(images, clustered)
        return {
            "contrastive": self._contrastive(maps.descriptors, clustered, labels),
            "detection": keypoint_regression(maps.score, points, self.mark),
        }

    def _contrastive(self, vectors: Tensor, points: Tensor, labels: Tensor) -> Tensor:
        """L_c of two views of each image, over pairs that ``self.draw`` chooses.

        Args:
            vectors: (2B, M, D).
            points: (2B, M, 2), NaN where there is no keypoint with a cluster.
            labels: (2B, M).
        """
        half = len(points) // 2
        views = [
            Described.keypoints(vectors[view], points[view], labels[view])
            for view in (slice(0, half), slice(half, None))
        ]
        draw = self.draw.child("contrastive").uniform(2, -(-self.pairs // half))
        return self.contrastive(Described.joined(views), draw.transpose(0, 1).flatten(1))

    # --- rounds ----------------------------------------------------------------------------------

    def find(self, sample: Sample) -> Found:
        """The peaks of the detector's map, and their descriptors (B, N, D)."""
        return self._peaks(self.network(sample.image))

    def relabel(self, found: KeypointTable, number: int) -> Labelled:
        """Clusters of what was found, and the keypoints of the round before without any.

        Raises:
            DataError: the initial keypoints have no descriptors.
        """
        if number:
            labelled = self._clustered(found, self._carried(found), self._seed(number))
            table = labelled.table
            lost = self.table.select(self.table.labels >= 0).to("cpu")
            lost = lost.select(same_place(lost, table, self._apart) < 0)
            assert table.descriptors is not None
            none = table.descriptors.new_full((len(lost), table.descriptors.shape[1]), torch.nan)
            unnamed = replace(lost, labels=torch.full_like(lost.labels, -1), descriptors=none)
            return replace(labelled, table=KeypointTable.concat([table, unnamed]))
        if found.descriptors is None:
            raise DataError(
                f"the keypoints of '{self.spec['keypoints']['name']}' have no descriptors to begin "
                "with",
                where="method.keypoints",
                allowed="a detector that describes them, for example sift; or the method "
                "'self_training', which needs none",
            )
        if self.isolated:
            alone = isolated(self.to_cluster(found.descriptors), self.isolated)
            found = found.select(~alone.cpu())
        # These descriptors are not the network's; their centroids are of no use later.
        return replace(self._clustered(found, None, self._seed(0)), kept={})

    @property
    def concluded(self) -> int:
        """M, the clusters."""
        return self.cluster_count

    def conclude(self, found: KeypointTable) -> Labelled:
        """For the second stage: the clusters of what was found."""
        return self._clustered(found, known(self.centroids), seed=0)

    def _clustered(self, found: KeypointTable, initial: Tensor | None, seed: int) -> Labelled:
        """The keypoints that are assigned to a cluster and near it."""
        assert found.descriptors is not None
        result = modified_kmeans(
            self.to_cluster(found.descriptors),
            found.image,
            self.cluster_count,
            seed=seed,
            assignment="hungarian",
            far=self.far,
            initial=initial,
        )
        labels = result.labels.to(found.image.device)
        labelled = replace(found, labels=labels).select(labels >= 0)
        return Labelled(labelled, {"centroids": result.centroids}, result.worker)

    def _carried(self, found: KeypointTable) -> Tensor | None:
        """The centroids to start from: the last ones, or where the generic clusters are now."""
        last = known(self.centroids)
        if last is not None:
            return last
        assert found.descriptors is not None
        before = self.table.to("cpu")
        row = same_place(found, before, self._apart)
        label = torch.where(row >= 0, before.labels[row.clamp(min=0)], -1)
        vectors, label = found.descriptors[label >= 0], label[label >= 0]
        sums = torch.zeros(self.cluster_count, vectors.shape[1]).index_add_(0, label, vectors)
        counts = label.bincount(minlength=self.cluster_count)
        return sums[counts > 0] / counts[counts > 0, None] if len(label) else None

    @property
    def _apart(self) -> float:
        """How far apart two peaks of one map are at least, in half sides of the image."""
        cell = 2 * self.network.backbone.strides[0] / self._data.size
        return (self.radius + 0.5) * cell  # whole cells, each peak refined by a quarter

    def _seed(self, number: int) -> int:
        return seed_of(self._data.draw_seed, "clusters", number)

    @property
    def named_by(self) -> Tensor:
        """The M centroids, NaN before the first clustering of the network's own descriptors."""
        return self.centroids
