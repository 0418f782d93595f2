"""What methods share that find keypoints, describe them, and name them by clusters.

A method adds its losses and its rounds. Keypoints, their descriptors, and the embedding that these
come from are found here, so that training and every evaluation use the same.

Convention: points are (x, y) in [-1, 1], ±1 being the outer edges of the border pixels.
"""

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import normalize

from landmark_lab.geometry.peaks import peaks
from landmark_lab.keypoint_network import KeypointMaps, KeypointNetwork
from landmark_lab.losses.heatmap import Gaussian
from landmark_lab.roles import Backbone, KeypointDetector, Optimiser, Schedule
from landmark_lab.rounds import Found, RoundsMethod

# Keypoints of an image, at most.
_MOST = 200


class ClusteredKeypoints(RoundsMethod):
    """A method with rounds whose keypoints have descriptors; offers Keypoints and Embedding.

    Args:
        keypoints: finds the initial keypoints.
        backbone: its finest map is the resolution of detector and descriptors.
        dimension: of a descriptor.
        first, every: see ``RoundsMethod``.
        threshold: of the detector's map, in [0, 1).
        radius: of the non-maximum suppression, in cells.
        sigma: of the Gaussians at the keypoints, in cells.
        weights, optimiser, schedule: see ``Method``.

    Attributes:
        layers: what ``embedding`` can give.
    """

    closes = True
    layers: tuple[str, ...] = ("descriptors",)
    network: KeypointNetwork

    def __init__(
        self,
        keypoints: KeypointDetector,
        backbone: Backbone,
        dimension: int,
        first: int,
        every: int,
        threshold: float,
        radius: int,
        sigma: float,
        weights: Mapping[str, float],
        optimiser: Optimiser,
        schedule: Schedule,
    ) -> None:
        super().__init__(keypoints, first, every, weights, optimiser, schedule)
        if radius < 0 or not 0 <= threshold < 1:
            raise ValueError(
                f"radius {radius}, threshold {threshold}; allowed: at least 0, below 1"
            )
        self.network = KeypointNetwork(backbone, dimension)
        self.threshold, self.radius = threshold, radius
        self.mark = Gaussian(sigma)

    @property
    @abstractmethod
    def named_by(self) -> Tensor:
        """The centroids (k, D) by which keypoints are named, NaN where there is no cluster."""

    def keypoints(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Points (B, N, 2), NaN where there is none, scores, and the nearest clusters, −1: none."""
        points, scores, label, _ = self._named(images)
        return points, scores, label

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

    def _peaks(self, maps: KeypointMaps) -> Found:
        """The keypoints of the detector's map with their descriptors (B, N, D)."""
        points, scores = peaks(maps.score[:, 0], self.radius, self.threshold, _MOST)
        return Found(points, scores, self.network.sample(maps.descriptors, points))

    def _named(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Points (B, N, 2), scores, nearest clusters, −1 for none, and how far these are."""
        points, scores, vectors, _ = self._peaks(self.network(images))
        assert vectors is not None
        apart = torch.cdist(vectors, self.named_by.to(vectors)).nan_to_num(nan=torch.inf)
        nearest = apart.min(-1)
        distance = nearest.values.masked_fill(scores == 0, torch.inf)
        return points, scores, nearest.indices.masked_fill(distance.isinf(), -1), distance


def known(centroids: Tensor) -> Tensor | None:
    """The rows of centroids (k, D) that are not NaN, on the CPU; None if there are none."""
    found = centroids[~centroids.isnan().any(1)].cpu()
    return found if len(found) else None
