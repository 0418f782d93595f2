"""Fitting named points to the landmarks of a handful of annotated images.

Ten images do not determine a linear map of thirty landmarks, so:

- every annotated image is joined by warped copies, whose points are moved likewise: the family of
  warps that the papers use for few-shot regressors (``warps/tps_pair.py``), at one to five times
  its strength. They teach the map that the points move as the landmarks do.
- the map is a ridge regression with a bias: a large ridge parameter falls back to the mean shape.
- a parameter for each point, and the strength, are chosen by leaving images out, together with
  their copies. Points differ: one that hardly moves, or that no landmark follows, is best left at
  its mean, and must not hold back the others.
- the error that is reported makes this choice anew without each image: the error by which the
  choice was made is too good, most of all where the landmarks hardly help.

Convention: points are (x, y) in [-1, 1] of the square images that the method sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from landmark_lab import __version__
from landmark_lab.errors import ConfigError, DataError
from landmark_lab.files import sha256
from landmark_lab.inference.annotated import AnnotatedImages, Normaliser
from landmark_lab.inference.named_points import NamedPoints, PointsCard
from landmark_lab.inference.point_errors import PointErrors, summary
from landmark_lab.inference.predictor import Predictor
from landmark_lab.metrics.references import mean_shape
from landmark_lab.metrics.regression import LinearMap
from landmark_lab.metrics.ridge_path import ridge_path
from landmark_lab.plugin import build
from landmark_lab.roles import WarpGenerator
from landmark_lab.seeding import BatchDraw, rng, seed_of

Floats = NDArray[np.float64]

TOLERANCE = 0.1
"""Share of the normaliser within which a named point is taken for right; see ``NamedPoints``."""

# Ridge parameters for each row of an image and its copies; the largest gives the mean shape.
_ALPHAS = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0, 1e4)
_STRENGTHS = (1.0, 2.5, 5.0)
_COPIES, _ROWS = 20, 2000
# More images than this are left out in so many groups: each map then still has 90 % of them.
_GROUPS = 10


@dataclass(frozen=True, eq=False)
class _Rows:
    """Landmarks and points of N images and of their C copies, for one strength of the warps.

    Attributes:
        landmarks: (N, C + 1, 2·K), NaN where not found.
        points: (N, C + 1, 2·P), NaN where unknown.
    """

    landmarks: Floats
    points: Floats

    def path(self, images: NDArray[np.bool_], alphas: Sequence[float]) -> list[LinearMap]:
        """The maps fitted on some of the images, one for each ridge parameter."""
        rows = self.landmarks.shape[1]
        inputs = self.landmarks[images].reshape(-1, self.landmarks.shape[2])
        targets = self.points[images].reshape(-1, self.points.shape[2])
        return ridge_path(inputs, targets, [alpha * rows for alpha in alphas])


def fit_points(
    predictor: Predictor, images: AnnotatedImages, copies: int | None = None, seed: int = 0
) -> tuple[NamedPoints, PointErrors]:
    """Fit named points to a predictor's landmarks; see the module's text.

    Args:
        predictor: finds the landmarks.
        images: three or more.
        copies: warped copies of each image, for each strength of the warps; by default 20, and
            fewer for more than 100 images.
        seed: of the warps, and of the groups in which more than ten images are left out.

    Returns:
        The points, and their errors in the images when these are left out.

    Raises:
        DataError: there are too few images.
        ConfigError: there is no such number of copies.
    """
    count = len(images)
    if count < 3:
        raise DataError(
            f"has {count} images with annotated points",
            where=images.annotations.source,
            allowed="3 or more, so that the error can be measured on images left out; take ten",
        )
    copies = min(_COPIES, max(_ROWS // count, 1)) if copies is None else copies
    if copies < 1:
        raise ConfigError(f"{copies} warped copies", where="copies", allowed="1 or more")
    landmarks, score = landmarks_of(predictor, images)
    rows = [_rows(predictor, images, landmarks, s, copies, seed) for s in _STRENGTHS]
    group = _groups(count, seed)
    (strength, alphas), left_out = _choose(rows, images.points, group)
    chosen = rows[strength]
    without = [group != number for number in range(group.max() + 1)]
    maps = [
        _mixed(chosen.path(kept, _ALPHAS), alphas)
        for kept in (np.ones(count, dtype=bool), *without)
    ]
    normaliser = images.normaliser()
    shapes = np.stack([mean_shape(images.points[kept]) for kept in without])[group]
    errors = errors_of(images, left_out, shapes, normaliser)
    settings = {
        "alpha": [_ALPHAS[alpha] for alpha in alphas],
        "strength": _STRENGTHS[strength],
        "warps": _warps(_STRENGTHS[strength]),
        "copies": copies,
        "groups": len(without),
        "seed": seed,
    }
    points = NamedPoints(
        card=_card(predictor, images, errors, settings),
        weights=_whole([own.weights for own in maps]),
        bias=_whole([own.bias for own in maps]),
        fill=np.stack([own.fill for own in maps]),
        usual_error=_usual_error(left_out, images.points),
        usual_score=score.mean(0),
        tolerance=_tolerance(images, normaliser),
    )
    return points, errors


def measure_points(
    predictor: Predictor, points: NamedPoints, fitted: AnnotatedImages, test: AnnotatedImages
) -> tuple[PointErrors, Floats]:
    """Errors of named points in other annotated images.

    Args:
        predictor: finds the landmarks.
        points: what was fitted.
        fitted: the images that it was fitted on; their mean shape is the comparison.
        test: N other images with the same points.

    Returns:
        The errors, and the scores (N, P) of the points.
    """
    found, score = points(*landmarks_of(predictor, test))
    shapes = np.repeat(mean_shape(fitted.points)[None], len(test), axis=0)
    return errors_of(test, found, shapes, fitted.normaliser()), score


def landmarks_of(predictor: Predictor, images: AnnotatedImages) -> tuple[Floats, Floats]:
    """Landmarks (N, K, 2) on the squares and scores (N, K)."""
    found: list[Floats] = []
    scores: list[Floats] = []
    for first in range(0, len(images), predictor.batch_size):
        batch = images.whole[first : first + predictor.batch_size]
        squares = np.stack([predictor.preprocess.inner(whole) for whole in batch])
        points, score = predictor.on_squares(_pixels(squares))
        found.append(points.cpu().double().numpy())
        scores.append(score.cpu().double().numpy())
    return np.concatenate(found), np.concatenate(scores)


def errors_of(
    images: AnnotatedImages, points: Floats, shapes: Floats, normaliser: Normaliser
) -> PointErrors:
    """Errors of points (N, P, 2) on the squares, beside those of mean shapes (N, P, 2)."""
    return PointErrors(
        names=images.annotations.names,
        predicted=images.in_pixels(points),
        truth=images.annotations.points,
        mean_shape=images.in_pixels(shapes),
        sides=images.sides(normaliser),
        divisor=images.in_words(normaliser),
    )


def _warps(strength: float) -> dict[str, Any]:
    """The few-shot family of warps, so many times as strong as published; the view is used."""
    return {
        "name": "tps_pair",
        "bend": [0.0005 * strength, 0.0],
        "bend_half": [0.0005 * strength, 0.0],
        "rotation": [2.0 * strength, 0.0],
        "scale": [0.02 * strength, 0.0],
        "translation": [0.02 * strength, 0.0],
    }


def _rows(
    predictor: Predictor,
    images: AnnotatedImages,
    landmarks: Floats,
    strength: float,
    copies: int,
    seed: int,
) -> _Rows:
    """The images and their warped copies."""
    generator = build(WarpGenerator, _warps(strength), "warps")
    size = (predictor.preprocess.size,) * 2
    found: list[Floats] = []
    moved: list[Floats] = []
    for number, whole in enumerate(images.whole):
        draw = BatchDraw.single(seed_of(seed, "copies", number), copies)
        view, _ = generator.draw(draw, size)
        pixels = _pixels(whole[None]).expand(copies, -1, -1, -1)
        points, _ = predictor.on_squares(view.apply(pixels, "reflection", size=size))
        found.append(points.cpu().double().numpy())
        truth = torch.from_numpy(images.points[number]).expand(copies, -1, -1)
        moved.append(view.to_target(truth).double().numpy())
    return _Rows(
        *(
            np.concatenate([original[:, None], np.stack(own)], 1).reshape(
                len(images), copies + 1, -1
            )
            for original, own in ((landmarks, found), (images.points, moved))
        )
    )


def _pixels(images: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255)


def _groups(count: int, seed: int) -> NDArray[np.int64]:
    """The group (N,) in which each image is left out: its own, or one of ten."""
    if count <= _GROUPS:
        return np.arange(count)
    return rng(seed, "groups of images").permutation(np.arange(count) % _GROUPS)


def _choose(
    rows: Sequence[_Rows], points: Floats, group: NDArray[np.int64]
) -> tuple[tuple[int, NDArray[np.int64]], Floats]:
    """The best strength and ridge parameters, and every image's points without its group.

    Args:
        rows: of each strength.
        points: (N, P, 2) on the squares.
        group: (N,) the group in which each image is left out.

    Returns:
        Positions of the strength and of each point's parameter (P,); points (N, P, 2), for which
        strength and parameters were chosen without the image's group as well.
    """
    groups, (count, width) = int(group.max()) + 1, points.shape[:2]
    shape = (len(rows), len(_ALPHAS))
    # error[s, a, g, n]: of image n by a map that was fitted without its group and without group g.
    error = np.full((*shape, groups, count, width), np.nan)
    guess = np.full((*shape, *points.shape), np.nan)
    for strength, own in enumerate(rows):
        for first, second in combinations_with_replacement(range(groups), 2):
            asked = (group == first) | (group == second)
            if asked.all():
                continue
            originals = own.landmarks[asked, 0]
            for alpha, fitted in enumerate(own.path(~asked, _ALPHAS)):
                found = fitted(originals).reshape(-1, *points.shape[1:])
                off = np.linalg.norm(found - points[asked], axis=-1)
                within = group[asked]
                error[strength, alpha, first, asked & (group == second)] = off[within == second]
                error[strength, alpha, second, asked & (group == first)] = off[within == first]
                if first == second:
                    guess[strength, alpha, asked] = found
    left_out = np.empty_like(points)
    for number in range(groups):
        strength, alphas = _best(error[:, :, number, group != number])
        left_out[group == number] = guess[strength, alphas, :, range(width)].swapaxes(0, 1)[
            group == number
        ]
    own_group = error[:, :, group, np.arange(count)]
    return _best(own_group), left_out


def _best(error: Floats) -> tuple[int, NDArray[np.int64]]:
    """The strength, and for each point the parameter (P,), of the smallest errors (S, A, N, P)."""
    known = ~np.isnan(error)
    mean = np.where(known, error, 0).sum(2) / np.maximum(known.sum(2), 1)
    strength = int(mean.min(1).sum(-1).argmin())
    return strength, mean[strength].argmin(0)


def _mixed(maps: Sequence[LinearMap], chosen: NDArray[np.int64]) -> LinearMap:
    """One map of several, whose points' columns come from the chosen (P,) ones."""
    columns = np.repeat(chosen, 2)
    across = np.arange(len(columns))
    # In the order in which a file gives it back: a product's last bit depends on the layout.
    weights = np.ascontiguousarray(np.stack([own.weights for own in maps], 1)[:, columns, across])
    bias = np.stack([own.bias for own in maps])[columns, across]
    return LinearMap(weights, bias, maps[0].fill)


def _whole(maps: Sequence[Floats]) -> Floats:
    """Arrays in one; what is NaN because a point's only images were left out is as in the first."""
    return np.stack([np.where(np.isnan(own), maps[0], own) for own in maps])


def _usual_error(left_out: Floats, points: Floats) -> Floats:
    """Root mean square distance of each point (P,) in images left out."""
    squares = ((left_out - points) ** 2).sum(-1)
    known = ~np.isnan(squares)
    mean = np.where(known, squares, 0).sum(0) / np.maximum(known.sum(0), 1)
    # A point that only one image shows cannot be left out: as bad as the worst of the others.
    error: Floats = np.sqrt(np.where(known.any(0), mean, mean.max(initial=0.0)))
    return error


def _tolerance(images: AnnotatedImages, normaliser: Normaliser) -> float:
    """The tolerance of the scores, as a distance on the square."""
    scale = np.array([np.sqrt(place.scale[0] * place.scale[1]) for place in images.places])
    on_square = images.sides(normaliser) * scale * 2 / images.places[0].size
    return TOLERANCE * float(np.nanmean(on_square))


def _card(
    predictor: Predictor, images: AnnotatedImages, errors: PointErrors, settings: Mapping[str, Any]
) -> PointsCard:
    annotations = images.annotations
    measured = {
        "pixels": errors.pixels,
        "percent": errors.percent(errors.pixels),
        "mean_shape_pixels": errors.mean_shape_pixels,
        "mean_shape_percent": errors.percent(errors.mean_shape_pixels),
    }
    pair = annotations.normalise_by
    return PointsCard(
        names=list(annotations.names),
        skeleton=[list(joined) for joined in annotations.skeleton],
        flip=None if annotations.flip is None else list(annotations.flip),
        normaliser=None if pair is None else list(pair),
        divisor=errors.divisor,
        checkpoint=sha256(predictor.checkpoint),
        method=str(predictor.card.method["name"]),
        images=list(annotations.images),
        settings=dict(settings),
        left_out={name: summary(values, errors.names) for name, values in measured.items()},
        version=__version__,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )
