"""Keypoints to clusters, with at most one keypoint of an image in each cluster.

A landmark occurs once in an image, so that a cluster must not hold two keypoints of one image.
K-means knows nothing of images. Its centroids are kept and the constraint is met afterwards
(D. Mallis, thesis, eq. 5.2 and 6.1), in one of two ways:

- ``"drop"`` (§6.1.2): every keypoint belongs to the nearest centroid; of several in one image the
  closest stays, the others are removed as noise.
- ``"hungarian"`` (§5.2.1): the keypoints of an image are matched to different centroids with the
  smallest sum of squared distances. A keypoint is removed only if the image has more keypoints than
  there are clusters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from landmark_lab.clustering.distances import checked, nearest, squared_distances, squares_to_own

Rule = Literal["drop", "hungarian"]

# Images whose costs are computed at a time.
_IMAGES = 256


@dataclass(frozen=True)
class Assignment:
    """Which cluster each keypoint belongs to.

    Attributes:
        labels: (T,) int64, the cluster; -1 for a keypoint that was removed.
        distances: (T,) float32, Euclidean, to the centroid of that cluster; of a removed keypoint
            to the nearest centroid. Always finite.
    """

    labels: Tensor
    distances: Tensor

    @property
    def keep(self) -> Tensor:
        """(T,) bool, the keypoints that were not removed."""
        return self.labels >= 0


def assign(
    descriptors: Tensor, centroids: Tensor, image: Tensor, rule: Rule = "drop"
) -> Assignment:
    """Assign keypoints to clusters, at most one of an image to each.

    Args:
        descriptors: (T, D) floating point.
        centroids: (k, D).
        image: (T,) int64, the image that each keypoint lies in, in any order.
        rule: what happens to a second keypoint; see the module.

    Raises:
        ValueError: shapes that do not fit, values that are not finite.
    """
    if rule == "hungarian":
        return hungarian(descriptors, centroids, image)
    return drop_duplicates(assign_nearest(descriptors, centroids), image)


def assign_nearest(descriptors: Tensor, centroids: Tensor) -> Assignment:
    """Assign each keypoint to the nearest centroid, whatever else lies in its image.

    Args:
        descriptors: (T, D) floating point.
        centroids: (k, D).

    Raises:
        ValueError: shapes that do not fit, values that are not finite.
    """
    descriptors, centroids = _checked(descriptors, centroids)
    labels = nearest(descriptors, centroids)
    return Assignment(labels, squares_to_own(descriptors, centroids, labels).sqrt())


def drop_duplicates(assignment: Assignment, image: Tensor) -> Assignment:
    """Remove all keypoints of an image and cluster but the one closest to the centroid (§6.1.2).

    Of equally close ones the first stays. A cluster that has a keypoint keeps one.

    Args:
        assignment: T keypoints, several of an image may be in one cluster.
        image: (T,) int64, in any order.

    Raises:
        ValueError: ``image`` is not (T,).
    """
    labels, distances = assignment.labels, assignment.distances
    _check_image(image, len(labels))
    image = image.to(labels.device)
    # Lexicographic: stable sorts from the last key to the first.
    order = distances.argsort(stable=True)
    for key in (labels, image):
        order = order[key[order].argsort(stable=True)]
    first = torch.ones_like(order, dtype=torch.bool)
    first[1:] = (labels[order].diff() != 0) | (image[order].diff() != 0)
    keep = torch.empty_like(first)
    keep[order] = first
    return Assignment(labels.masked_fill(~keep, -1), distances)


def hungarian(descriptors: Tensor, centroids: Tensor, image: Tensor) -> Assignment:
    """Match the keypoints of each image to different centroids, with the smallest sum (§5.2.1).

    Only images in which two keypoints have the same nearest centroid are solved. In all others
    every keypoint has its own minimum, whose sum no matching can be below.

    Args:
        descriptors: (T, D) floating point.
        centroids: (k, D).
        image: (T,) int64, in any order.

    Raises:
        ValueError: shapes that do not fit, values that are not finite.
    """
    closest = assign_nearest(descriptors, centroids)
    conflict = ~drop_duplicates(closest, image).keep
    if not conflict.any():
        return closest
    descriptors, centroids = _checked(descriptors, centroids)
    image = image.to(descriptors.device)
    rows = torch.isin(image, image[conflict]).nonzero()[:, 0]
    rows = rows[image[rows].argsort(stable=True)]
    counts = torch.unique_consecutive(image[rows], return_counts=True)[1].tolist()
    labels = closest.labels.clone()
    for first in range(0, len(counts), _IMAGES):
        sizes = counts[first : first + _IMAGES]
        part, rows = rows[: sum(sizes)], rows[sum(sizes) :]
        costs = squared_distances(descriptors[part], centroids).cpu()
        matched = torch.cat([_match(cost) for cost in torch.split(costs, sizes)])
        labels[part] = matched.to(labels.device)
    own_or_nearest = torch.where(labels < 0, closest.labels, labels)
    return Assignment(labels, squares_to_own(descriptors, centroids, own_or_nearest).sqrt())


def _match(costs: Tensor) -> Tensor:
    """The column of each row (n,), -1 for none, so that the sum of the costs (n, k) is smallest."""
    matched = torch.full((len(costs),), -1)
    rows, columns = linear_sum_assignment(costs.numpy())
    matched[torch.from_numpy(rows)] = torch.from_numpy(columns)
    return matched


def _checked(descriptors: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    descriptors, centroids = checked(descriptors, "descriptors"), checked(centroids, "centroids")
    if centroids.shape[1] != descriptors.shape[1] or len(centroids) == 0:
        raise ValueError(
            f"descriptors {tuple(descriptors.shape)} and centroids {tuple(centroids.shape)}; "
            "allowed: (T, D) and (k, D), k at least 1"
        )
    return descriptors, centroids.to(descriptors.device)


def _check_image(image: Tensor, count: int) -> None:
    if image.shape != (count,) or image.is_floating_point():
        raise ValueError(
            f"image {tuple(image.shape)}, {image.dtype}, for {count} keypoints; "
            f"allowed: ({count},), int64"
        )
