"""Virtual points and the losses of probes as they are written down: one loop for every sum."""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def virtual_points(embedding: Array, filters: Array, sharpness: float) -> Array:
    """Σ_u u softmax_u(s ⟨w_m, Φ_u⟩) for embeddings (B, C, H, W) and filters (M, C): (B, M, 2)."""
    images, channels, height, width = embedding.shape
    points = np.zeros((images, len(filters), 2))
    for b in range(images):
        for m in range(len(filters)):
            scores = np.zeros((height, width))
            for row in range(height):
                for column in range(width):
                    for c in range(channels):
                        scores[row, column] += filters[m, c] * embedding[b, c, row, column]
            weights = np.exp(sharpness * (scores - scores.max()))
            for row in range(height):
                for column in range(width):
                    share = weights[row, column] / weights.sum()
                    points[b, m, 0] += share * ((2 * column + 1) / width - 1)
                    points[b, m, 1] += share * ((2 * row + 1) / height - 1)
    return points


def linear(sources: Array, weights: Array, bias: Array) -> Array:
    """Points (B, P, 2) from sources (B, M, 2), weights (2·P, 2·M) and bias (2·P,)."""
    points = np.zeros((len(sources), len(bias) // 2, 2))
    for b in range(len(sources)):
        for out in range(len(bias)):
            total = bias[out]
            for m in range(sources.shape[1]):
                for axis in range(2):
                    total += weights[out, 2 * m + axis] * sources[b, m, axis]
            points[b, out // 2, out % 2] = total
    return points


def smooth_l1(predicted: Array, points: Array, counted: Array, transition: float) -> float:
    """Mean over the counted points and both axes, for points (B, P, 2)."""
    total, number = 0.0, 0
    for b in range(len(points)):
        for p in range(points.shape[1]):
            if not counted[b, p]:
                continue
            for axis in range(2):
                distance = abs(predicted[b, p, axis] - points[b, p, axis])
                small = distance < transition
                total += distance**2 / (2 * transition) if small else distance - transition / 2
                number += 1
    return total / number


def point_likelihood(scores: Array, points: Array, counted: Array) -> float:
    """Mean of −log p of the counted points (B, P, 2) under maps (B, P, H, W), bilinearly."""
    height, width = scores.shape[2:]
    total, number = 0.0, 0
    for b in range(len(points)):
        for p in range(points.shape[1]):
            if not counted[b, p] or np.abs(points[b, p]).max() > 1:
                continue
            normaliser = math.log(np.exp(scores[b, p]).sum())
            x = min(max((points[b, p, 0] + 1) * width / 2 - 0.5, 0.0), width - 1.0)
            y = min(max((points[b, p, 1] + 1) * height / 2 - 0.5, 0.0), height - 1.0)
            for row in range(height):
                for column in range(width):
                    share = max(0.0, 1 - abs(x - column)) * max(0.0, 1 - abs(y - row))
                    total -= share * (scores[b, p, row, column] - normaliser)
            number += 1
    return total / number
