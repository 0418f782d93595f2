"""Targets and losses of self-training on keypoints: one loop for every sum. Slow and obvious."""

import math
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Integers = NDArray[np.int64]


def gaussian_map(points: Array, size: tuple[int, int], sigma: float, side: int) -> Array:
    """Points (M, 2) to a map (h, w): the largest of their Gaussians, each side × side cells."""
    height, width = size
    drawn = np.zeros(size)
    for point in points:
        if not (np.abs(point) <= 1).all():
            continue
        x = (point[0] + 1) / 2 * width - 0.5
        y = (point[1] + 1) / 2 * height - 0.5
        for v in range(height):
            for u in range(width):
                if abs(u - round(x)) <= side // 2 and abs(v - round(y)) <= side // 2:
                    value = math.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * sigma**2))
                    drawn[v, u] = max(drawn[v, u], value)
    return drawn


def masked_squares(predicted: Array, target: Array, mask: NDArray[np.bool_]) -> float:
    """Mean over cells and over the maps (B, K, h, w) that count."""
    means = [
        float(((predicted[b, k] - target[b, k]) ** 2).mean())
        for b, k in np.ndindex(mask.shape)
        if mask[b, k]
    ]
    return sum(means) / len(means) if means else 0.0


def contrastive(
    vectors: Array,
    image: Integers,
    keypoint: Integers,
    label: Integers,
    found: NDArray[np.bool_],
    margin: float,
    hinge: str,
    positives: str,
    negatives: str,
) -> float:
    """Half the mean over all positive pairs and half that over all negative ones."""
    near, apart = [], []
    for i, j in combinations(range(len(vectors)), 2):
        if not found[i] or not found[j]:
            continue
        background = int(keypoint[i] < 0) + int(keypoint[j] < 0)
        if background == 2:
            continue
        square = float(((vectors[i] - vectors[j]) ** 2).sum())
        hinged = (
            max(0.0, margin - square)
            if hinge == "printed"
            else max(0.0, margin - math.sqrt(square)) ** 2
        )
        same_image = image[i] == image[j]
        same_keypoint = keypoint[i] == keypoint[j]
        clustered = label[i] >= 0 and label[j] >= 0
        if background == 1:
            if same_image:
                apart.append(hinged)
            continue
        same_cluster = (
            label[i] == label[j]
            if clustered
            else same_keypoint and not (label[i] >= 0 or label[j] >= 0)
        )
        if same_keypoint if positives == "keypoint" else same_cluster:
            near.append(square)
        if same_cluster or same_keypoint:
            continue
        if same_image or (negatives == "cluster" and clustered):
            apart.append(hinged)
    return sum(_mean(values) for values in (near, apart)) / 2


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
