"""The double clustering: at most K keypoints an image, in M clusters, M ≫ K.

D. Mallis, thesis, §6.1.3, fig. 6.1. A landmark looks different from different sides, so that
descriptors are learned from many clusters, M. But an image has K landmarks at most. So keypoints
are clustered twice: into K clusters, which removes all but K of an image, and what is left into M.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from landmark_lab.clustering.assignment import Rule, assign_nearest
from landmark_lab.clustering.faiss_engine import Engine
from landmark_lab.clustering.modified_kmeans import Correspondence, modified_kmeans
from landmark_lab.seeding import seed_of


@dataclass(frozen=True)
class DoubleCorrespondence:
    """The result of both clusterings, about all T keypoints that were given.

    Attributes:
        coarse: into K clusters.
        fine: of what was left into M clusters; -1 for what either of the two removed.
    """

    coarse: Correspondence
    fine: Correspondence

    @property
    def keep(self) -> Tensor:
        """(T,) bool, the keypoints that neither clustering removed."""
        return self.fine.keep

    @property
    def labels(self) -> Tensor:
        """(T,) int64, the M clusters; -1 for a keypoint that was removed."""
        return self.fine.labels

    @property
    def centroids_k(self) -> Tensor:
        """(K, D) float32, to be carried over to the next round."""
        return self.coarse.centroids

    @property
    def centroids_m(self) -> Tensor:
        """(M, D) float32, to be carried over to the next round."""
        return self.fine.centroids

    @property
    def counts(self) -> Tensor:
        """(M,) int64, keypoints in each of the M clusters."""
        return self.fine.counts


def double_clustering(
    descriptors: Tensor,
    image: Tensor,
    k: int,
    m: int,
    *,
    seed: int,
    initial_k: Tensor | None = None,
    initial_m: Tensor | None = None,
    assignment: Rule = "drop",
    far: float | None = None,
    iterations: int = 100,
    restarts: int = 10,
    engine: Engine | None = None,
) -> DoubleCorrespondence:
    """Cluster keypoints into K clusters, remove duplicates, and cluster the others into M.

    Args:
        descriptors: (T, D) floating point, T at least 1.
        image: (T,) int64, the image that each keypoint lies in, in any order.
        k: landmarks that an image may have at most.
        m: clusters for learning, at least k.
        seed: of the random starts.
        initial_k, initial_m: centroids of the round before.
        assignment, far, iterations, restarts, engine: of both clusterings, as in
            :func:`~landmark_lab.clustering.modified_kmeans.modified_kmeans`.

    Raises:
        ValueError: m below k, no keypoint, values that are not finite, shapes that do not fit.
    """
    if m < k:
        raise ValueError(f"m {m} with k {k}; allowed: m at least k")

    def cluster(
        vectors: Tensor, image: Tensor, count: int, initial: Tensor | None, purpose: str
    ) -> Correspondence:
        return modified_kmeans(
            vectors,
            image,
            count,
            seed=seed_of(seed, purpose),
            assignment=assignment,
            far=far,
            initial=initial,
            iterations=iterations,
            restarts=restarts,
            engine=engine,
        )

    image = image.to(descriptors.device)
    coarse = cluster(descriptors, image, k, initial_k, "coarse")
    left = coarse.keep.nonzero()[:, 0]
    fine = cluster(descriptors[left], image[left], m, initial_m, "fine")
    labels = torch.full_like(coarse.labels, -1)
    labels[left] = fine.labels
    distances = assign_nearest(descriptors, fine.centroids).distances
    distances[left] = fine.distances
    return DoubleCorrespondence(coarse, replace(fine, labels=labels, distances=distances))
