"""Finding the matches that protocols ask for.

The published evaluations (J. Thewlis, "Objects from Motion", DPhil thesis, Oxford 2018): chapter 7,
sections 4.1 and 4.3, matches annotated points between two warps of one image and between images of
two individuals; chapter 6, section 6.1, reflects the vectors of left points and looks for their
right partners in the same image. A point's nearest cell gives its vector, the most similar cell of
the target image is the match. The methods are asked for what they can do, never who they are.

Convention: points are (x, y) in [-1, 1] on the square images that the method sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landmark_lab.data.batch import LoadedBatch, Sample
from landmark_lab.data.exports import MatchRequest, PairRequest, PartnerRequest
from landmark_lab.data.results import Matches
from landmark_lab.data.sampling import Images, LoaderSettings, Row, fixed_loader
from landmark_lab.errors import DataError
from landmark_lab.evaluation.pairs import some_images, strangers
from landmark_lab.geometry.mirror_plane import fit_mirror_plane
from landmark_lab.geometry.points import inside, pixel_grid
from landmark_lab.geometry.symmetry import reflection
from landmark_lab.losses.correspondence import best_matches, vectors_at
from landmark_lab.plugin import build
from landmark_lab.roles import (
    Correspondence,
    Embedding,
    ImageData,
    Method,
    Pairing,
    Reflection,
    Split,
)
from landmark_lab.seeding import BatchDraw

MATCHING_WARPS: dict[str, Any] = {
    "name": "tps_pair",
    "bend": [0.0005, 0.0005],
    "bend_half": [0.005, 0.005],
    "rotation": [2.5, 2.5],
    "scale": [0.05, 0.05],
    "translation": [0.05, 0.05],
}
"""The published warps of two images to be matched: half as strong as in training."""

_GRID = 8  # points a side where none are annotated
_GRID_REACH = 0.8

Reflect = Callable[[Tensor], Tensor]
SplitImages = Callable[[Split], Images]


def obstacle(
    method: Method, data: ImageData, images: SplitImages, request: MatchRequest
) -> str | None:
    """Why a method's matches on some data cannot be had, or None if they can.

    Args:
        method: that would match.
        data: that it would match in.
        images: of a split.
        request: what is asked for.
    """
    if isinstance(request, PairRequest):
        return _no_pairs(method, data, images, request)
    return _no_partners(method, data, images, request)


def _no_pairs(
    method: Method, data: ImageData, images: SplitImages, request: PairRequest
) -> str | None:
    if not isinstance(method, Correspondence):
        return f"the method '{method.plugin_name}' offers no correspondence of points"
    if not len(images(request.split)):
        return f"the data '{data.plugin_name}' has no images in the split '{request.split}'"
    if request.kind == "same":
        return None
    if "points" not in data.provides:
        return (
            f"the data '{data.plugin_name}' has no annotated points, without which nothing is "
            "known about images of two individuals"
        )
    try:
        strangers(images(request.split), request.pairs, request.split, request.seed)
    except DataError as error:
        return str(error)
    return None


def _no_partners(
    method: Method, data: ImageData, images: SplitImages, request: PartnerRequest
) -> str | None:
    if not isinstance(method, Embedding):
        return f"the method '{method.plugin_name}' offers no embedding"
    if request.reflection == "learned" and not _knows_reflection(method):
        return (
            f"the method '{method.plugin_name}' offers no reflection of its vectors, as it is set; "
            "'reflection: estimated' fits one to annotated points"
        )
    if "points" not in data.provides or data.flip is None:
        return (
            f"the data '{data.plugin_name}' says of no annotated points which are left-right "
            "partners (its permutation 'flip')"
        )
    if not len(some_images(images(request.split), 1, request.split, request.seed, True)):
        return f"the split '{request.split}' has no annotated images"
    if request.annotated and not len(some_images(images("train"), 1, "train", 0, True)):
        return "no training image is annotated, so no plane of symmetry can be estimated"
    return None


def _knows_reflection(method: Method) -> bool:
    return isinstance(method, Reflection) and method.mirror


def find_matches(
    method: Method,
    data: ImageData,
    images: SplitImages,
    request: MatchRequest,
    loader: LoaderSettings,
) -> Matches:
    """The matches that are asked for.

    Args:
        method: in evaluation mode, where it is to run.
        data: that the images are of.
        images: of a split.
        request: see :func:`obstacle` for what it needs.
        loader: how images are loaded; the result does not depend on it.

    Raises:
        DataError: there is nothing to fit a plane of symmetry to.
    """
    if isinstance(request, PartnerRequest):
        return _partners(method, data, images, request, loader)
    if request.kind == "same":
        return _same(method, data, images(request.split), request, loader)
    return _different(method, images(request.split), request, loader)


class _Groups(Images):
    """Some images, in groups of one or two that are matched with each other.

    Attributes:
        rows: (M, members) their positions.
    """

    def __init__(self, images: Images, rows: NDArray[np.int64]) -> None:
        self.images = images
        self.rows = rows.reshape(len(rows), -1)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.images[index]

    def members(self, images: Images, group: int, generator: np.random.Generator) -> Sequence[int]:
        """The positions of a group."""
        return [int(position) for position in self.rows[group]]

    def load(self, loader: LoaderSettings, method: Method) -> Iterator[LoadedBatch]:
        """The groups in batches, on the method's device, images in [0, 1]."""
        for loaded in fixed_loader(self, self.members, loader, seed=0):
            moved = loaded.to(method.device)
            yield replace(moved, members=tuple(m.with_float_image() for m in moved.members))


class _Found:
    """The matches of successive batches."""

    def __init__(self) -> None:
        self.columns: dict[str, list[NDArray[Any]]] = {}

    def add(self, source: Sample, target: Sample, **found: Tensor) -> None:
        for name, values in {"source": source.index, "target": target.index, **found}.items():
            kept = values.float() if values.is_floating_point() else values
            self.columns.setdefault(name, []).append(kept.cpu().numpy())

    def matches(self) -> Matches:
        return Matches(**{name: np.concatenate(parts) for name, parts in self.columns.items()})


@torch.no_grad()
def _same(
    method: Method, data: ImageData, images: Images, request: PairRequest, loader: LoaderSettings
) -> Matches:
    """Between two warps of one image; of a grid of points where none are annotated."""
    annotated = "points" in data.provides
    chosen = some_images(images, request.pairs, request.split, request.seed, annotated)
    spec = {"name": "synthetic", "warps": MATCHING_WARPS, "independent_colours": False}
    pairing = build(Pairing, spec, "evaluate")
    found = _Found()
    for loaded in _Groups(images, chosen).load(loader, method):
        (sample,) = loaded.members
        if not annotated:
            sample = replace(sample, points=_grid(sample.image), visible=None)
        first = loaded.batch * loaded.total + loaded.first
        rows = (first, 1, len(sample))
        draw = BatchDraw(
            request.seed, "matching warps", 0, 0, len(chosen), rows, sample.image.device
        )
        pair = pairing.pair((sample,), draw)
        found.add(sample, sample, **_matched(method, pair.source, pair.target))
    return found.matches()


@torch.no_grad()
def _different(
    method: Method, images: Images, request: PairRequest, loader: LoaderSettings
) -> Matches:
    """Between images of two individuals."""
    pairs = strangers(images, request.pairs, request.split, request.seed)
    found = _Found()
    for loaded in _Groups(images, pairs).load(loader, method):
        source, target = loaded.members
        found.add(source, target, **_matched(method, source, target))
    return found.matches()


def _matched(method: Method, source: Sample, target: Sample) -> dict[str, Tensor]:
    assert isinstance(method, Correspondence)
    assert source.points is not None
    assert target.points is not None
    # A point outside one of the images has no match there.
    known = inside(source.points) & inside(target.points)
    points = source.points.masked_fill(~known[..., None], torch.nan)
    found, score = method.correspond(source.image, target.image, points.nan_to_num(0.0))
    return {
        "points": points,
        "expected": target.points.masked_fill(~known[..., None], torch.nan),
        "visible": known & _visible(source) & _visible(target),
        **_not_found(found, score, known),
    }


@torch.no_grad()
def _partners(
    method: Method,
    data: ImageData,
    images: SplitImages,
    request: PartnerRequest,
    loader: LoaderSettings,
) -> Matches:
    """Of every point's reflected vector, in the image itself."""
    assert isinstance(method, Embedding)
    assert data.flip is not None
    chosen = some_images(images(request.split), request.images, request.split, request.seed, True)
    reflect = _reflection(method, data, images, request, loader)
    found = _Found()
    for loaded in _Groups(images(request.split), chosen).load(loader, method):
        (sample,) = loaded.members
        points, partners = _with_partners(sample, data.flip)
        known = inside(points) & inside(partners)
        visible = _visible(sample)
        cells = method.embedding(sample.image)
        vectors = reflect(vectors_at(cells, points))
        match, score = best_matches(vectors, cells, method.similarity)
        found.add(
            sample,
            sample,
            points=points.masked_fill(~known[..., None], torch.nan),
            expected=partners.masked_fill(~known[..., None], torch.nan),
            visible=known & visible & visible[:, list(data.flip)],
            **_not_found(match, score, known),
        )
    return found.matches()


def _reflection(
    method: Method,
    data: ImageData,
    images: SplitImages,
    request: PartnerRequest,
    loader: LoaderSettings,
) -> Reflect:
    match request.reflection:
        case "learned":
            assert isinstance(method, Reflection)
            return method.reflect
        case "estimated":
            return _estimated(method, data, images("train"), request, loader)
        case "first_axis":
            return lambda vectors: vectors @ reflection(vectors.shape[-1]).to(vectors).mT
        case "none":
            return lambda vectors: vectors


def _estimated(
    method: Method,
    data: ImageData,
    images: Images,
    request: PartnerRequest,
    loader: LoaderSettings,
) -> Reflect:
    """The reflection that takes the vectors of annotated training points to their partners'."""
    assert isinstance(method, Embedding)
    assert data.flip is not None
    chosen = some_images(images, request.annotated, "train", request.seed, True)
    vectors, others = [], []
    for loaded in _Groups(images, chosen).load(loader, method):
        (sample,) = loaded.members
        points, partners = _with_partners(sample, data.flip)
        known = inside(points) & inside(partners)
        cells = method.embedding(sample.image)
        vectors.append(vectors_at(cells, points)[known])
        others.append(vectors_at(cells, partners)[known])
    if not vectors or not any(len(part) for part in vectors):
        raise DataError(
            "no training image has a point and its partner, so no plane of symmetry can be "
            "estimated",
            where=f"data.{data.plugin_name}",
        )
    return fit_mirror_plane(torch.cat(vectors), torch.cat(others)).reflect


def _with_partners(sample: Sample, flip: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The points of images (B, P, 2), and where the partner of each lies."""
    assert sample.points is not None
    return sample.points, sample.points[:, list(flip)]


def _visible(sample: Sample) -> Tensor:
    """Which points are seen (B, P): all whose place is known, if nothing is said about it."""
    assert sample.points is not None
    known = ~sample.points.isnan().any(-1)
    return known if sample.visible is None else known & sample.visible


def _not_found(found: Tensor, score: Tensor, known: Tensor) -> dict[str, Tensor]:
    """Matches and scores, NaN and 0 where there is no match or nothing to match."""
    score = score.float() * known
    return {"found": found.masked_fill((score == 0)[..., None], torch.nan), "score": score}


def _grid(images: Tensor) -> Tensor:
    grid = pixel_grid(_GRID, _GRID, images.device) * _GRID_REACH
    return grid.expand(len(images), -1, -1)
