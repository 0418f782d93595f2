"""The metrics as slow loops over Python numbers, written from their definitions."""

import itertools
import math

import numpy as np


def _known(point) -> bool:
    return not any(math.isnan(c) for c in point)


def nme(predicted, points, normaliser, visible=None) -> float:
    """Mean over images of the mean over points of distance / normaliser."""
    errors = []
    for n in range(len(points)):
        if not normaliser[n] > 0:
            continue
        own = []
        for p in range(len(points[n])):
            if visible is not None and not visible[n][p]:
                continue
            if _known(points[n][p]) and _known(predicted[n][p]):
                own.append(math.dist(points[n][p], predicted[n][p]) / normaliser[n])
        if own:
            errors.append(sum(own) / len(own))
    return sum(errors) / len(errors)


def spread(landmarks) -> list[float]:
    """√(var x + var y) of each landmark over images."""
    found = []
    for k in range(len(landmarks[0])):
        own = [image[k] for image in landmarks if _known(image[k])]
        mean = [sum(p[axis] for p in own) / len(own) for axis in (0, 1)]
        found.append(math.sqrt(sum(math.dist(p, mean) ** 2 for p in own) / len(own)))
    return found


def r_squared(predicted, landmarks) -> list[float]:
    """1 - residual variance / variance of each landmark."""
    found = []
    for k in range(len(landmarks[0])):
        pairs = [(a[k], b[k]) for a, b in zip(predicted, landmarks, strict=True) if _known(b[k])]
        mean = [sum(b[axis] for _, b in pairs) / len(pairs) for axis in (0, 1)]
        residual = sum(math.dist(a, b) ** 2 for a, b in pairs)
        found.append(1 - residual / sum(math.dist(b, mean) ** 2 for _, b in pairs))
    return found


def criterion(landmarks, warped, expected) -> float:
    """Mean over landmarks of e / (e + min(spread, distance to the nearest other landmark))."""
    spreads = spread(landmarks)
    count = len(landmarks[0])
    total = 0.0
    for k in range(count):
        errors = [
            math.dist(w[k], e[k])
            for w, e in zip(warped, expected, strict=True)
            if _known(w[k]) and _known(e[k]) and max(abs(c) for c in e[k]) <= 1
        ]
        error = sum(errors) / len(errors)
        nearest = math.inf
        for other in range(count):
            gaps = [
                math.dist(image[k], image[other])
                for image in landmarks
                if _known(image[k]) and _known(image[other])
            ]
            if other != k and gaps:
                nearest = min(nearest, sum(gaps) / len(gaps))
        total += error / (error + min(spreads[k], nearest))
    return total / count


def linear_map(inputs, targets, penalty: float, bias: bool):
    """Weights and bias of (ridge) regression by the normal equations, the bias not penalised."""
    rows, width = inputs.shape
    design = np.hstack([inputs, np.ones((rows, 1))]) if bias else inputs
    regulariser = penalty * np.eye(design.shape[1])
    if bias:
        regulariser[-1, -1] = 0
    solution = np.linalg.solve(design.T @ design + regulariser, design.T @ targets)
    return (solution[:width], solution[width]) if bias else (solution, np.zeros(targets.shape[1]))


def resampled_means(values, draws) -> list[float]:
    """Mean of the known values among the images of each draw."""
    means = []
    for draw in draws:
        own = [values[n] for n in draw if not math.isnan(values[n])]
        means.append(sum(own) / len(own))
    return means


def at_centroid(shape, points, scale=None):
    """The shape placed at each image's centroid, optionally resized."""
    placed = np.full(np.shape(points), np.nan)
    for n in range(len(points)):
        known = [p for p in range(len(shape)) if _known(points[n][p])]
        factor = 1.0 if scale is None else scale[n]
        for axis in (0, 1):
            centre = sum(points[n][p][axis] for p in known) / len(known)
            own = sum(shape[p][axis] for p in known) / len(known)
            for p in range(len(shape)):
                placed[n, p, axis] = centre + factor * (shape[p][axis] - own)
    return placed


def share_at_most(errors, threshold) -> float:
    """Share of the known errors that are at most a threshold."""
    known = [e for e in errors if not math.isnan(e)]
    return sum(e <= threshold for e in known) / len(known)


def area_under_curve(errors, threshold, steps=20_000) -> float:
    """The cumulative error curve, summed up in small steps."""
    width = threshold / steps
    heights = (share_at_most(errors, (i + 0.5) * width) for i in range(steps))
    return sum(heights) * width / threshold


def pck(predicted, points, boxes, alpha, average) -> float:
    """Share of points within alpha times the longer side of the box."""
    shares, correct, total = [], 0, 0
    for n in range(len(points)):
        x0, y0, x1, y1 = boxes[n]
        side = max(x1 - x0, y1 - y0)
        own = [
            math.dist(predicted[n][p], points[n][p]) <= alpha * side
            for p in range(len(points[n]))
            if _known(points[n][p]) and _known(predicted[n][p])
        ]
        if own and side > 0:
            shares.append(sum(own) / len(own))
            correct, total = correct + sum(own), total + len(own)
    return sum(shares) / len(shares) if average == "image" else correct / total


def completed(matrix, penalty, rounds=3000):
    """Matrix completion: full singular value decompositions at one penalty, from zero."""
    known = ~np.isnan(matrix)
    mean = np.nanmean(matrix, axis=0)
    filled = np.where(known, matrix - mean, 0.0)
    level = penalty * np.linalg.svd(filled)[1][0]
    guess = np.zeros_like(filled)
    for _ in range(rounds):
        left, values, right = np.linalg.svd(np.where(known, filled, guess), full_matrices=False)
        guess = left @ np.diag(np.maximum(values - level, 0)) @ right
    return np.where(known, matrix, guess + mean)


def mean_distances(landmarks):
    """Mean distance of every two landmarks over the images in which both are known."""
    count = len(landmarks[0])
    found = np.full((count, count), np.nan)
    for a in range(count):
        for b in range(count):
            own = [
                math.dist(image[a], image[b])
                for image in landmarks
                if _known(image[a]) and _known(image[b])
            ]
            if own:
                found[a, b] = sum(own) / len(own)
    return found


def detection(keypoints, points, distance):
    """(precision, recall, F) of each image, and of all together; None for an image without points.

    A precision without keypoints is NaN.
    """
    totals, each = [0, 0, 0, 0], []
    for own, truth in zip(keypoints, points, strict=True):
        own, truth = [k for k in own if _known(k)], [p for p in truth if _known(p)]
        if not truth:
            each.append(None)
            continue
        true = sum(any(math.dist(k, p) <= distance for p in truth) for k in own)
        recovered = sum(any(math.dist(k, p) <= distance for k in own) for p in truth)
        counts = [true, len(own), recovered, len(truth)]
        totals = [a + b for a, b in zip(totals, counts, strict=True)]
        each.append(_of_counts(*counts))
    return each, _of_counts(*totals)


def _of_counts(true, keypoints, recovered, points):
    precision = true / keypoints if keypoints else math.nan
    recall = recovered / points
    if not true:
        return precision, recall, 0.0
    return precision, recall, 2 * precision * recall / (precision + recall)


def nearest(keypoints, points):
    """The number of the nearest known point of each keypoint, -1 without any, and how far it is."""
    found = []
    for own, truth in zip(keypoints, points, strict=True):
        row = []
        for k in own:
            best = (-1, math.inf)
            for p, point in enumerate(truth):
                if _known(k) and _known(point) and math.dist(k, point) < best[1]:
                    best = (p, math.dist(k, point))
            row.append(best)
        found.append(row)
    return found


def assignment(landmarks, points):
    """The landmark of each point by trying every one-to-one assignment; as many points as fit."""
    count, wanted = len(landmarks[0]), len(points[0])
    means = [
        [
            sum(c) / len(c)
            for c in zip(*(image[k] for image in landmarks if _known(image[k])), strict=True)
        ]
        for k in range(count)
    ]

    def cost(k, p):
        own = [
            math.dist(image[k] if _known(image[k]) else means[k], truth[p])
            for image, truth in zip(landmarks, points, strict=True)
            if _known(truth[p])
        ]
        return sum(own) / len(own)

    table = [[cost(k, p) for p in range(wanted)] for k in range(count)]
    choices = itertools.permutations(range(max(count, wanted)), wanted)
    real = [chosen for chosen in choices if sum(k < count for k in chosen) == min(count, wanted)]
    best = min(real, key=lambda chosen: sum(table[k][p] for p, k in enumerate(chosen) if k < count))
    return [k if k < count else -1 for k in best]


def keypoint_similarity(predicted, points, area, sigmas):
    """The OKS of one object."""
    terms = []
    for guess, truth, sigma in zip(predicted, points, sigmas, strict=True):
        if _known(truth):
            far = math.dist(guess, truth) if _known(guess) else math.inf
            terms.append(math.exp(-(far**2) / (2 * area * (2 * sigma) ** 2)))
    return sum(terms) / len(terms)
