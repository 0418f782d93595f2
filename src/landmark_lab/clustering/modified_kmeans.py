"""Correspondence of keypoints over images: K-means, at most one keypoint of an image in a cluster.

D. Mallis, thesis, eq. 5.2 and 6.1: K-means finds the centroids, :mod:`~.assignment` meets the
constraint, and what lies far from its centroid may be removed (§5.3.2).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from torch import Tensor

from landmark_lab.clustering.assignment import Assignment, Rule, assign
from landmark_lab.clustering.faiss_engine import Engine
from landmark_lab.clustering.kmeans import kmeans
from landmark_lab.clustering.outliers import far_from_centroid


@dataclass(frozen=True)
class Correspondence(Assignment):
    """Clusters of the keypoints of all images.

    Attributes:
        labels: (T,) int64, the cluster; -1 for a keypoint that was removed.
        distances: (T,) float32, Euclidean, to the centroid of that cluster; of a removed keypoint
            to the centroid it was closest to. Always finite.
        centroids: (k, D) float32, to be carried over to the next round. k is smaller than asked
            for where there were fewer keypoints.
        engine: what did the work, ``"faiss"`` or ``"torch"``.
        device: where it was done, e.g. ``"cpu"``.
    """

    centroids: Tensor
    engine: Engine
    device: str

    @property
    def counts(self) -> Tensor:
        """(k,) int64, keypoints of each cluster; K-means may leave one empty."""
        return self.labels[self.keep].bincount(minlength=len(self.centroids))

    @property
    def worker(self) -> str:
        """What did the work and where, e.g. ``"faiss on cpu"``, for people to read."""
        return f"{self.engine} on {self.device}"


def modified_kmeans(
    descriptors: Tensor,
    image: Tensor,
    k: int,
    *,
    seed: int,
    assignment: Rule = "drop",
    far: float | None = None,
    initial: Tensor | None = None,
    iterations: int = 100,
    restarts: int = 10,
    engine: Engine | None = None,
) -> Correspondence:
    """Cluster keypoints over images; at most one keypoint of an image stays in a cluster.

    Every cluster that K-means gave a keypoint keeps one. With fewer keypoints than clusters there
    are as many clusters as keypoints, and a warning says so.

    Args:
        descriptors: (T, D) floating point, T at least 1.
        image: (T,) int64, the image that each keypoint lies in, in any order.
        k: number of clusters.
        seed: of the random starts.
        assignment: what becomes of a second keypoint of an image in a cluster: ``"drop"`` removes
            it, ``"hungarian"`` gives it the next best cluster.
        far: a keypoint is removed if its distance exceeds this multiple of its cluster's mean
            distance, at least 1; None removes none.
        initial: (n, D) centroids of the round before; fewer than k are completed by k-means++,
            more than there can be clusters now are not used.
        iterations, restarts, engine: of :func:`~landmark_lab.clustering.kmeans.kmeans`.

    Raises:
        ValueError: no keypoint, values that are not finite, shapes that do not fit.
    """
    if len(descriptors) == 0:
        raise ValueError(f"no keypoint to make {k} clusters of")
    if len(descriptors) < k:
        warnings.warn(
            f"{len(descriptors)} keypoints cannot make {k} clusters: each is its own cluster now",
            stacklevel=2,
        )
        k = len(descriptors)
    if initial is not None and len(initial) > k:
        initial = None
    found = kmeans(
        descriptors,
        k,
        seed=seed,
        iterations=iterations,
        restarts=restarts,
        initial=initial,
        engine=engine,
    )
    given = assign(descriptors, found.centroids, image, assignment)
    labels = given.labels
    if far is not None:
        labels = labels.masked_fill(far_from_centroid(labels, given.distances, far), -1)
    return Correspondence(labels, given.distances, found.centroids, found.engine, found.device)
