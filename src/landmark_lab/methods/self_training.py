"""Landmarks by self-training on keypoints, with correspondence by clustering.

D. Mallis, E. Sanchez, M. Bell, G. Tzimiropoulos, "From keypoints to object landmarks via
self-training correspondence", TPAMI 2023; D. Mallis, PhD thesis, chapter 6, algorithm 2. This is
the first stage. A network Φ has a detector head, one map H of where keypoints are, and a head of
descriptors f. It starts from the keypoints p of a generic detector, whose descriptors serve only
to leave out isolated ones (§6.2.1).

- Warm-up (§6.1.5): the descriptors of a keypoint in two augmented views of its image become
  alike, those of different keypoints of an image, and of its background, different.
- Then, every so many steps (``rounds.py``), the frozen network finds keypoints in all training
  images (threshold, non-maximum suppression, quarter-cell refinement), and their descriptors are
  clustered twice (§6.1.2, 6.1.3; ``clustering/double.py``): into K clusters, of which an image
  keeps the keypoint closest to each centroid, then what is left into M ≫ K clusters, y.
- Until the next round: L = w_c L_c + w_d L_d. L_c is eq. 6.3 (``losses/contrastive.py``):
  descriptors of one cluster are alike, in different images too; negative pairs are of one image,
  because a landmark is there once, however many clusters it has. L_d is the mean squared error of H
  and Gaussians at p (eq. 5.1).
- Flipping (§6.1.8): descriptors are taken in the mirror image too, at the mirrored keypoint, and
  clustered with the others; in mirror images a keypoint has the label that it got there. An image
  and its mirror image are two images: no negative pair is made of both.

As landmarks it offers, for each of the K clusters, the keypoint nearest to its centroid; none if no
keypoint has it as its nearest one. ``landmark_detector`` is the second stage.

Deviations and what the text leaves open. The first clustering is of the initial keypoints, with
the descriptors that were warmed up (algorithm 2, line 1), so nothing is lost to a detector that is
hardly trained; the detector is trained from the first step on. The mirrored descriptors of a
keypoint are clustered as if they were of another image. In the warm-up, and without clusters, a
pair is mirrored whole: a descriptor that is the same in the mirror image could not tell left from
right. Centroids are carried over from round to round.

Convention: points are (x, y) in [-1, 1], ±1 being the outer edges of the border pixels.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from landmark_lab.clustered_keypoints import ClusteredKeypoints, known
from landmark_lab.clustering.double import double_clustering
from landmark_lab.clustering.modified_kmeans import modified_kmeans
from landmark_lab.clustering.outliers import isolated
from landmark_lab.data.batch import Pair, Sample
from landmark_lab.data.keypoints import KeypointTable
from landmark_lab.data.rounds import Labelled
from landmark_lab.keypoint_network import KeypointMaps
from landmark_lab.losses.contrastive import Contrastive, Described, background_points
from landmark_lab.losses.heatmap import keypoint_regression
from landmark_lab.plugin import part, settings
from landmark_lab.roles import Backbone, KeypointDetector, Optimiser, Schedule
from landmark_lab.rounds import Found, Views
from landmark_lab.seeding import seed_of

Correspondence = Literal["clusters", "equivariance"]
Negatives = Literal["same_image", "other_cluster"]


class SelfTraining(ClusteredKeypoints, name="self_training"):
    """Keypoints that cluster into landmarks, in rounds of self-training (Mallis et al., 2023).

    Args:
        landmarks: at most so many keypoints of an image are learned from, the paper's K.
        clusters: M, for learning descriptors; at least K.
        keypoints: finds the initial keypoints.
        backbone: its finest map is the resolution of both heads.
        dimension: of a descriptor.
        warm_up: steps before the first clustering, at least 1.
        every: steps of a round after it.
        correspondence: ``clusters``, or ``equivariance``: the views of one image for the whole
            training, while the keypoints are renewed and filtered as ever (§5.4.5).
        negatives: pairs of ``same_image``, eq. 6.3, or of any ``other_cluster``, eq. 6.2.
        mirror: whether mirror images are clustered too; needed for mirrored pairs, and for the
            second stage to know left from right.
        margin: of the contrastive loss.
        pairs: at most so many positive and negative pairs of a process's batch, rounded up to as
            many for each image.
        background: locations in the background of an image, tried at random.
        threshold: of the detector's map, in [0, 1].
        radius: of the non-maximum suppression, in cells.
        sigma: of the Gaussians at the keypoints, in cells.
        isolated: share of the initial keypoints that is left out.
        restarts: random starts of the first clustering, of which the best is taken.
        weights: of the two loss terms, w_c and w_d.
        optimiser: the paper's by default.
        schedule: the paper's by default, for 200,000 steps.
    """

    cure: ClassVar[str] = (
        "a longer warm-up, a larger weight of the detection, a lower threshold, more initial "
        "keypoints, a smaller learning rate"
    )

    def __init__(
        self,
        landmarks: int = 10,
        clusters: int = 100,
        keypoints: KeypointDetector = part("superpoint"),
        backbone: Backbone = part(
            "hourglass", blocks=1, block="parallel", norm="group", groups=32, stride=4
        ),
        dimension: int = 256,
        warm_up: int = 30_000,
        every: int = 5_000,
        correspondence: Correspondence = "clusters",
        negatives: Negatives = "same_image",
        mirror: bool = True,
        margin: float = 0.8,
        pairs: int = 5_000,
        background: int = 20,
        threshold: float = 0.15,
        radius: int = 2,
        sigma: float = 1.0,
        isolated: float = 0.4,
        restarts: int = 10,
        weights: Mapping[str, float] = settings(contrastive=10.0, detection=1.0),
        optimiser: Optimiser = part("rmsprop", lr=2e-4, weight_decay=1e-5),
        schedule: Schedule = part("drops", steps=(150_000, 180_000)),
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
        if not 1 <= landmarks <= clusters:
            raise ValueError(
                f"landmarks {landmarks}, clusters {clusters}; allowed: 1 <= landmarks <= clusters"
            )
        if min(pairs, background, restarts - 1, warm_up - 1) < 0 or not 0 <= isolated < 1:
            raise ValueError(
                f"pairs {pairs}, background {background}, restarts {restarts}, warm_up {warm_up}, "
                f"isolated {isolated}; allowed: at least 0, restarts and warm_up 1, isolated below "
                "1"
            )
        self.contrastive = {
            "warm_up": Contrastive(margin, positives="keypoint"),
            "clusters": Contrastive(
                margin,
                positives="cluster" if correspondence == "clusters" else "keypoint",
                negatives="image" if negatives == "same_image" else "cluster",
            ),
        }
        self.correspondence, self.mirror = correspondence, mirror
        self.pairs, self.background = pairs, background
        self.isolated, self.restarts = isolated, restarts
        self.reads_descriptors = isolated > 0
        self.centroids_k: Tensor
        self.centroids_m: Tensor
        self.register_buffer("centroids_k", torch.full((landmarks, dimension), torch.nan))
        self.register_buffer("centroids_m", torch.full((clusters, dimension), torch.nan))

    # --- learning --------------------------------------------------------------------------------

    def losses(self, batch: Pair) -> dict[str, Tensor]:
        """The contrastive loss of the descriptors, and the squared error of the detector's map."""
        (points, labels, lost), images = self._views(batch)
        places = self._background(torch.cat([points, lost], 1))
        maps: KeypointMaps = self.network(images, torch.cat([points, places], 1))
        numbers = self._image_numbers(batch)
        return {
            "contrastive": self._contrastive(maps.descriptors, points, places, labels, numbers),
            "detection": keypoint_regression(maps.score, points, self.mark),
        }

    def _views(self, batch: Pair) -> tuple[Views, Tensor]:
        """Keypoints (2B, M, 2) and images (2B, 3, H, W): the sources, then the targets."""
        (points, labels, lost), target = self.in_views(batch), batch.target.image
        if batch.mirrored is not None and not self._clustered:
            target = torch.where(batch.mirrored[:, None, None, None], target.flip(-1), target)
            sources = torch.zeros_like(batch.mirrored)
            flipped = torch.stack([sources, batch.mirrored])[..., None]
            points = torch.where(flipped[..., None], _mirrored(points), points)
            lost = torch.where(flipped[..., None], _mirrored(lost), lost)
            labels = torch.where(flipped, labels[:1], labels)
        return Views(points, labels, lost).joined(), torch.cat([batch.source.image, target])

    def _image_numbers(self, batch: Pair) -> Tensor:
        """(2B,) numbers of the images that the views show, sources first.

        A mirror image counts as another one once there are clusters: the left eye of a source is
        the right eye of its target, one landmark at two keypoints, and no negative pair.
        """
        count = len(batch.target)
        target = torch.arange(count, device=batch.target.image.device)
        source = target
        if batch.mirrored is not None and self._clustered:
            source = target + count * batch.mirrored
        return torch.cat([source, target])

    def _background(self, points: Tensor) -> Tensor:
        """Locations (2B, R, 2) of the background of two views, away from points (2B, M, 2)."""
        draw = self.draw.child("background").uniform(2, self.background, 2)
        return background_points(points, draw.transpose(0, 1).flatten(0, 1))

    def _contrastive(
        self, vectors: Tensor, points: Tensor, places: Tensor, labels: Tensor, numbers: Tensor
    ) -> Tensor:
        """L_c of two views of each image, over pairs that ``self.draw`` chooses.

        Args:
            vectors: (2B, M + R, D), descriptors of keypoints and background.
            points: (2B, M, 2).
            places: (2B, R, 2).
            labels: (2B, M).
            numbers: (2B,), see ``_image_numbers``.
        """
        draw, half, count = self.draw.child("contrastive"), len(points) // 2, points.shape[1]
        rows = []
        for view in (slice(0, half), slice(half, None)):
            own, other = vectors[view, :count], vectors[view, count:]
            rows.append(Described.keypoints(own, points[view], labels[view], numbers[view]))
            rows.append(Described.background(other, places[view], numbers[view]))
        uniform = draw.uniform(2, -(-self.pairs // half)).transpose(0, 1).flatten(1)
        loss = self.contrastive["clusters" if self.labelled else "warm_up"]
        return loss(Described.joined(rows), uniform)

    @property
    def _clustered(self) -> bool:
        """Whether labels say what is alike; otherwise the views of an image do."""
        return self.labelled and self.correspondence == "clusters"

    # --- rounds ----------------------------------------------------------------------------------

    def find(self, sample: Sample) -> Found:
        """Keypoints and their descriptors (B, N, D), or (B, N, 2D) with those of the mirror image.

        Of the initial keypoints while there are no others, else of those that the detector finds.
        """
        if self.labelled or self._table is None:
            found = self._peaks(self.network(sample.image))
        else:
            points = self.table.padded(sample.index)[0]
            vectors = self.network(sample.image, points).descriptors
            found = Found(points, torch.ones_like(points[..., 0]), vectors)
        if not self.mirror:
            return found
        there: KeypointMaps = self.network(sample.image.flip(-1), _mirrored(found.points))
        assert found.descriptors is not None
        return found._replace(descriptors=torch.cat([found.descriptors, there.descriptors], -1))

    def relabel(self, found: KeypointTable, number: int) -> Labelled:
        """The double clustering of the descriptors; in round 0 what is not isolated."""
        if number == 0:
            if found.descriptors is None:
                return Labelled(found)
            alone = isolated(self.to_cluster(found.descriptors), self.isolated)
            return Labelled(found.select(~alone.cpu()))
        descriptors, image = self._own_and_mirrored(found)
        result = double_clustering(
            descriptors,
            image,
            len(self.centroids_k),
            len(self.centroids_m),
            seed=seed_of(self._data.draw_seed, "clusters", number),
            initial_k=known(self.centroids_k),
            initial_m=known(self.centroids_m),
            restarts=self.restarts,
        )
        kept = {"centroids_k": result.centroids_k, "centroids_m": result.centroids_m}
        return Labelled(self._labelled(found, result.labels), kept, result.fine.worker)

    @property
    def concluded(self) -> int:
        """K, the landmarks."""
        return len(self.centroids_k)

    def conclude(self, found: KeypointTable) -> Labelled:
        """For the second stage: the keypoints in K clusters (§6.1.7)."""
        descriptors, image = self._own_and_mirrored(found)
        initial = known(self.centroids_k)
        result = modified_kmeans(descriptors, image, len(self.centroids_k), seed=0, initial=initial)
        kept = {"centroids_k": result.centroids}
        return Labelled(self._labelled(found, result.labels), kept, result.worker)

    def _own_and_mirrored(self, found: KeypointTable) -> tuple[Tensor, Tensor]:
        """Descriptors (T, D) and their images; of the mirror images (2T, D), which are others."""
        assert found.descriptors is not None
        descriptors = self.to_cluster(found.descriptors)
        if not self.mirror:
            return descriptors, found.image
        both = torch.cat([found.image, found.image + found.images])
        return torch.cat(descriptors.chunk(2, 1)), both

    def _labelled(self, found: KeypointTable, labels: Tensor) -> KeypointTable:
        """The keypoints that have a label, with it and with that of the mirror image."""
        assert found.descriptors is not None
        labels = labels.to(found.image.device)
        own, mirrored = labels.chunk(2) if self.mirror else (labels, torch.full_like(labels, -1))
        descriptors = found.descriptors[:, : self.centroids_k.shape[1]]
        labelled = replace(found, labels=own, mirrored=mirrored, descriptors=descriptors)
        return labelled.select(own >= 0)

    @property
    def settled(self) -> bool:
        """Whether there are clusters, and so landmarks."""
        return self.labelled

    # --- what is found ---------------------------------------------------------------------------

    @property
    def named_by(self) -> Tensor:
        """The K centroids."""
        return self.centroids_k

    def landmarks(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Landmarks (B, K, 2) and scores (B, K), those of the detector's map.

        Before the first clustering there are none.
        """
        points, scores, cluster, distance = self._named(images)
        every = torch.arange(len(self.centroids_k), device=images.device)[:, None]
        apart = torch.where(cluster[:, None] == every, distance[:, None], torch.inf)
        best = apart.min(-1)
        lost = best.values == torch.inf
        chosen = points.gather(1, best.indices[..., None].expand(-1, -1, 2))
        score = scores.gather(1, best.indices)
        return chosen.masked_fill(lost[..., None], torch.nan), score.masked_fill(lost, 0)


def _mirrored(points: Tensor) -> Tensor:
    x, y = points.unbind(-1)
    return torch.stack([-x, y], -1)
