"""Loop 1 of an evaluation: what a method finds is written to one file, with its provenance.

Loop 2 (``protocols/``) scores the file in seconds, any number of times, without the method. The
file is a NumPy archive: ``SPLIT/FIELD`` for the arrays of ``SplitPredictions``,
``matches/KEY/FIELD`` for those of ``Matches``, ``provenance`` for a JSON text.

Convention: points are (x, y) in [-1, 1] on the square images that the method sees, see
``geometry/points.py``.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landmark_lab import __version__
from landmark_lab.data.batch import Sample
from landmark_lab.data.exports import Exports, MatchRequest, PairRequest
from landmark_lab.data.results import Matches, Predictions, Provenance, SplitPredictions
from landmark_lab.data.sampling import Images, LoaderSettings, Row, fixed_loader
from landmark_lab.errors import DataError, LandmarkLabError, RunError
from landmark_lab.evaluation.augmentation import Copies
from landmark_lab.evaluation.matching import MATCHING_WARPS, find_matches, obstacle
from landmark_lab.files import atomic, sha256
from landmark_lab.geometry.warp import Warp
from landmark_lab.plugin import check
from landmark_lab.roles import ImageData, Keypoints, Landmarks, Method, Split, WarpGenerator
from landmark_lab.seeding import BatchDraw

KIND = "landmark-lab predictions"
FORMAT = 1

Arrays = dict[str, NDArray[Any]]

_MATCHES = "matches"

_ARCHIVE = b"PK\x03\x04"  # how a NumPy archive begins

_ANNOTATION = ("points", "visible", "box", "identity")

# Of an image with fewer keypoints than another one.
_PADDING: dict[str, float] = {"keypoints": np.nan, "keypoint_score": 0, "keypoint_label": -1}


def export(
    method: Method,
    data: ImageData,
    path: str | Path,
    *,
    splits: Sequence[Split] = get_args(Split),
    checkpoint: str | Path | None = None,
    warps: WarpGenerator | None = None,
    augmentation: WarpGenerator | None = None,
    copies: int = 0,
    matches: Sequence[MatchRequest] = (),
    keypoints: bool = False,
    seed: int = 0,
    limits: Mapping[Split, int] | None = None,
    loader: LoaderSettings | None = None,
    device: torch.device | str | None = None,
    rank: int = 0,
    world: int = 1,
) -> Path:
    """Write what a method finds in the images of some splits to a file.

    Args:
        method: a method, trained or as it was built. If it offers ``Landmarks``, those of every
            image are written.
        data: where the images come from.
        path: the file, ``*.npz``; written atomically.
        splits: which splits; those without images are left out.
        checkpoint: the file that the method was loaded from; None for a network without training.
        warps: also finds the landmarks in one warped copy of every image of the splits other than
            ``train``, made by the generator's second warp. The warps are a function of the seed and
            the image's position, whatever the batch size.
        augmentation: also finds the landmarks in warped copies of every image of the split
            ``train``, made by the generator's first warp, on which a regressor may be fitted too;
            see ``evaluation/augmentation.py``.
        copies: how many copies of each image.
        matches: of fixed pairs of images, see ``evaluation/matching.py``; each request has a seed
            of its own.
        keypoints: also writes the unordered keypoints of every image, if the method offers
            ``Keypoints``.
        seed: of all other warps.
        limits: at most so many images of a split, the first ones, e.g. ``{"train": 1000}`` for data
            without end.
        loader: how images are loaded; the result does not depend on it.
        device: where the method runs (it is moved there); by default where it is.
        rank, world: this process's share, if several share the work: all of them must call, and the
            first one writes.

    Returns:
        The path.

    Raises:
        RunError: the method finds neither landmarks nor what is asked for, or the file cannot be
            written.
        DataError: no split has images, a limit is not a number of images, or images without
            annotated points are to be copied for a regressor.
    """
    asked_for = [Exports(matches=(one,)) for one in matches]
    if keypoints:
        asked_for.append(Exports(keypoints=True))
    for asked in asked_for or [Exports(landmarks=True)]:
        problem = unmet(method, data, asked, limits)
        if problem is not None:
            raise RunError(problem, where="predictions")
    if not isinstance(method, Landmarks):
        warps = augmentation = None  # whatever is found in warped copies is landmarks
    path = Path(path)
    if path.suffix != ".npz":
        raise RunError("predictions are written to a file *.npz", where=str(path))
    loader = LoaderSettings() if loader is None else loader
    found: dict[str, SplitPredictions] = {}
    matched: dict[str, Matches] = {}
    limited: dict[str, int] = {}
    was_training = method.training
    method.eval()
    if device is not None:
        method.to(device)
    try:
        for split in splits:
            images = _images(data, split, limits)
            if len(images) == 0:
                continue
            if isinstance(images, _First):
                limited[split] = len(images)
            drawn = None if warps is None or split == "train" else _draw(warps, images, data, seed)
            own = None
            if augmentation is not None and copies and split == "train":
                own = _draw_copies(augmentation, copies, images, data, seed)
            share = _predict(method, images, drawn, own, keypoints, loader, rank, world)
            if world > 1:
                share = _gather(share, world)
            found[split] = SplitPredictions(**share)
        if rank == 0:  # few pairs: not worth sharing
            for request in matches:
                matched[request.key] = find_matches(
                    method, data, lambda split: _images(data, split, limits), request, loader
                )
    finally:
        method.train(was_training)
    if not found:
        raise DataError(f"the data '{data.plugin_name}' has no images in {', '.join(splits)}")
    provenance = replace(
        provenance_of(method.spec, data, seed),
        checkpoint=None if checkpoint is None else sha256(checkpoint),
        warps=None if warps is None else warps.spec,
        limits=limited,
        augmentation=None if augmentation is None or not copies else augmentation.spec,
        matches={request.key: _described(request) for request in matches},
    )
    if rank == 0:
        save_predictions(Predictions(found, provenance, str(path), matched), path)
    if world > 1:
        torch.distributed.barrier()
    return path


def annotation_of(
    data: ImageData, split: Split, limit: int | None = None, loader: LoaderSettings | None = None
) -> SplitPredictions:
    """What is known about the images of a split, with no landmarks.

    Args:
        data: where the images come from; all of them are loaded.
        split: which.
        limit: at most so many images, the first ones.
        loader: how images are loaded.

    Raises:
        DataError: there are no images.
    """
    images = _images(data, split, None if limit is None else {split: limit})
    if len(images) == 0:
        raise DataError(f"the data '{data.plugin_name}' has no images in {split}")
    columns: dict[str, list[NDArray[Any]]] = {}
    for loaded in fixed_loader(images, _alone, loader or LoaderSettings(), seed=0):
        sample = loaded.members[0]
        none = torch.empty(len(sample), 0, 2)
        for name in ("index", *_ANNOTATION):
            if (value := getattr(sample, name)) is not None:
                columns.setdefault(name, []).append(value.numpy())
        columns.setdefault("landmarks", []).append(none.numpy())
        columns.setdefault("score", []).append(none[..., 0].numpy())
    return SplitPredictions(**{name: np.concatenate(parts) for name, parts in columns.items()})


def provenance_of(method: Mapping[str, Any], data: ImageData, seed: int) -> Provenance:
    """The provenance of what was found now, without warps or a checkpoint.

    Args:
        method: spec of what found it: a method or a keypoint detector.
        data: where the images come from.
        seed: of all draws.
    """
    return Provenance(
        method=dict(method),
        data=data.spec,
        checkpoint=None,
        seed=seed,
        size=data.size,
        point_names=list(data.point_names),
        flip=None if data.flip is None else list(data.flip),
        normaliser=None if data.normaliser is None else list(data.normaliser),
        warps=None,
        limits={},
        version=__version__,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        format=FORMAT,
    )


def unmet(
    method: Method,
    data: ImageData,
    exports: Exports,
    limits: Mapping[Split, int] | None = None,
) -> str | None:
    """What keeps a method from finding what is asked for, or None; nothing is computed.

    Args:
        method: that is to find it.
        data: in which.
        exports: what is asked for.
        limits: of the images, as :func:`export` takes them.
    """
    if exports.landmarks and not isinstance(method, Landmarks):
        return f"the method '{method.plugin_name}' offers no landmarks"
    if exports.keypoints and not isinstance(method, Keypoints | Landmarks):
        return f"the method '{method.plugin_name}' offers neither keypoints nor landmarks"
    for request in exports.matches:
        problem = obstacle(method, data, lambda split: _images(data, split, limits), request)
        if problem is not None:
            return problem
    return None


def _described(request: MatchRequest) -> dict[str, Any]:
    """A request in plain containers, with the warps that it takes."""
    warped = isinstance(request, PairRequest) and request.kind == "same"
    return asdict(request) | ({"warps": MATCHING_WARPS} if warped else {})


def _images(data: ImageData, split: Split, limits: Mapping[Split, int] | None) -> Images:
    """The images of a split, or the first ones."""
    images = data.images(split)
    limit = (limits or {}).get(split)
    if limit is not None and limit < 1:
        raise DataError(f"a limit of {limit} images", where=f"limits.{split}")
    return images if limit is None or limit >= len(images) else _First(images, limit)


class _First(Images):
    """The first images of a split."""

    def __init__(self, images: Images, count: int) -> None:
        self.images = images
        self.count = count
        self.identity = None if images.identity is None else images.identity[:count]
        self.annotated = None if images.annotated is None else images.annotated[:count]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Row:
        return self.images[index]


def _alone(images: Images, index: int, generator: np.random.Generator) -> Sequence[int]:
    return (index,)


def _draw(warps: WarpGenerator, images: Images, data: ImageData, seed: int) -> Warp:
    """One warp for every image, drawn at once so that batches do not matter."""
    draw = BatchDraw.single(seed, len(images), purpose="equivariance")
    return warps.draw(draw, (data.size, data.size))[1]


def _draw_copies(
    augmentation: WarpGenerator, copies: int, images: Images, data: ImageData, seed: int
) -> Copies:
    if "points" not in data.provides:
        raise DataError(
            f"the data '{data.plugin_name}' has no annotated points, so no regressor can be fitted "
            "on warped copies of its images"
        )
    return Copies.draw(augmentation, copies, len(images), (data.size, data.size), seed)


@torch.no_grad()
def _predict(
    method: Method,
    images: Images,
    warps: Warp | None,
    copies: Copies | None,
    keypoints: bool,
    loader: LoaderSettings,
    rank: int,
    world: int,
) -> Arrays:
    """The rows of this process, as the fields of ``SplitPredictions``."""
    columns: dict[str, list[NDArray[Any]]] = {}

    def keep(**batch: Tensor | None) -> None:
        for name, value in batch.items():
            if value is not None:
                columns.setdefault(name, []).append(value.cpu().numpy())

    for loaded in fixed_loader(images, _alone, loader, seed=0, rank=rank, world=world):
        sample = loaded.members[0]
        keep(index=sample.index, **{name: getattr(sample, name) for name in _ANNOTATION})
        sample = sample.to(method.device).with_float_image()
        if keypoints and isinstance(method, Keypoints):
            keep(**_keypoints(method, sample.image))
        if not isinstance(method, Landmarks):
            none = torch.empty(len(sample), 0, 2)
            keep(landmarks=none, score=none[..., 0])
            continue
        landmarks, score = _found(method, sample.image)
        keep(landmarks=landmarks, score=score)
        first = int(loaded.members[0].index[0])
        if copies is not None:
            keep(**_in_copies(method, copies, sample, first))
        if warps is not None:
            warp = warps[first : first + len(sample)].to(method.device)
            warped, _ = _found(method, warp.apply(sample.image))
            # Through the numerical direction of a spline: landmarks of the image are needed, and
            # its error is far below a landmark's.
            keep(warped=warped, expected=warp.to_target(landmarks))
    return {name: _joined(name, parts) for name, parts in columns.items()}


def _in_copies(
    method: Landmarks, copies: Copies, sample: Sample, first: int
) -> dict[str, Tensor | None]:
    """The landmarks and points in the warped copies of consecutive images."""
    landmarks, points, visible = [], [], []
    for images, moved, seen in copies.of(sample, first):
        landmarks.append(_found(method, images)[0])
        points.append(moved)
        visible.append(seen)
    return {
        "copies": torch.stack(landmarks, 1),
        "copied_points": torch.stack(points, 1),
        "copied_visible": torch.stack(visible, 1),
    }


def _found(method: Landmarks, images: Tensor) -> tuple[Tensor, Tensor]:
    """Landmarks and scores in float32, NaN where not found."""
    points, score = method.landmarks(images)
    points, score = points.float(), score.float()
    return points.masked_fill((score == 0)[..., None], torch.nan), score


def _keypoints(method: Keypoints, images: Tensor) -> dict[str, Tensor]:
    """The keypoints, in float32, those of an image before what pads it."""
    points, score, label = method.keypoints(images)
    found = ~points.isnan().any(-1) & (score > 0)
    order = (~found).byte().argsort(dim=1, stable=True)[:, : int(found.sum(1).max())]
    found = found.gather(1, order)
    return {
        "keypoints": points.gather(1, order[..., None].expand(-1, -1, 2))
        .float()
        .masked_fill(~found[..., None], torch.nan),
        "keypoint_score": score.gather(1, order).float() * found,
        "keypoint_label": label.gather(1, order).masked_fill(~found, -1),
    }


def _joined(name: str, parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """The rows of several batches; of keypoints, each batch has the width of its fullest image."""
    if name not in _PADDING:
        return np.concatenate(parts)
    most = max(part.shape[1] for part in parts)
    padded = [
        np.pad(
            part,
            [(0, 0), (0, most - part.shape[1]), *[(0, 0)] * (part.ndim - 2)],
            constant_values=_PADDING[name],
        )
        for part in parts
    ]
    return np.concatenate(padded)


def _gather(share: Arrays, world: int) -> Arrays:
    """The rows of all processes in the order of the images, each image once."""
    shares: list[Any] = [None] * world
    torch.distributed.all_gather_object(shares, share)
    shares = [share for share in shares if share]
    whole = {name: _joined(name, [part[name] for part in shares]) for name in shares[0]}
    _, once = np.unique(whole["index"], return_index=True)
    return {name: values[once] for name, values in whole.items()}


# --- the file ------------------------------------------------------------------------------------


def save_predictions(predictions: Predictions, path: str | Path) -> None:
    """Write predictions to a file, atomically.

    Raises:
        RunError: the file cannot be written.
    """
    arrays: dict[str, Any] = {
        f"{name}/{field.name}": value
        for name, split in predictions.splits.items()
        for field in fields(split)
        if (value := getattr(split, field.name)) is not None
    }
    arrays |= {
        f"{_MATCHES}/{key}/{field.name}": getattr(matches, field.name)
        for key, matches in predictions.matches.items()
        for field in fields(matches)
    }
    text = json.dumps({"kind": KIND, **asdict(predictions.provenance)})
    with atomic(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, provenance=np.array(text), **arrays)


def load_predictions(
    path: str | Path,
    *,
    checkpoint: str | Path | None = None,
    data: Mapping[str, Any] | None = None,
) -> Predictions:
    """Read predictions, executing nothing in the file.

    Args:
        path: what :func:`export` wrote.
        checkpoint: refuse predictions of another checkpoint than this file.
        data: refuse predictions of other data than this spec.

    Raises:
        DataError: the file is missing, damaged, something else, of another format, or stale.
    """
    where = str(path)
    arrays = _read(path)
    try:
        raw = json.loads(str(arrays.pop("provenance")))
        kind = raw.pop("kind")
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError):
        kind = None
    if kind != KIND:
        raise DataError("is not a file of predictions", where=where)
    if raw.get("format") != FORMAT:
        raise DataError(
            f"has format {raw.get('format')!r}",
            where=where,
            allowed=f"format {FORMAT}",
            hint=f"it was written by version {raw.get('version')}; export the predictions again",
        )
    try:
        provenance = Provenance(**raw)
    except TypeError as error:
        raise DataError(f"has an incomplete provenance ({error})", where=where) from error
    matches = _matches(arrays, where)
    predictions = Predictions(_splits(arrays, provenance, where), provenance, where, matches)
    if checkpoint is not None and provenance.checkpoint != sha256(checkpoint):
        raise DataError(
            f"is stale: these are predictions of another checkpoint than {checkpoint}",
            where=where,
            hint="export the predictions again",
        )
    changed = "" if data is None else _difference(provenance.data, data)
    if changed:
        raise DataError(
            f"is stale: these are predictions on other data ({changed})",
            where=where,
            hint="export the predictions again",
        )
    return predictions


def check_same_images(predictions: Predictions, other: Predictions) -> None:
    """Refuse to compare predictions on different images.

    Raises:
        DataError: the data or the images differ.
    """
    mine, theirs = predictions.provenance, other.provenance
    changed = _difference(theirs.data, mine.data)
    if changed or mine.size != theirs.size:
        raise DataError(
            f"was made on other data than {predictions.source} ({changed or 'another image size'})",
            where=other.source,
        )
    for name in predictions.splits.keys() & other.splits.keys():
        if not np.array_equal(predictions.splits[name].index, other.splits[name].index):
            raise DataError(
                f"holds other images of the split '{name}' than {predictions.source}",
                where=other.source,
            )


def _read(path: str | Path) -> Arrays:
    if not Path(path).is_file():
        raise DataError("there is no such file of predictions", where=str(path))
    try:
        with Path(path).open("rb") as stream:
            archived = _ARCHIVE.startswith(stream.read(len(_ARCHIVE)))
        # NumPy takes any other file for an array or a pickle, and advises to allow pickles.
        if archived:
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
    # A damaged archive fails in any of these ways.
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"is damaged, truncated or not a file of predictions ({reason})", where=str(path)
        ) from error
    raise DataError("is not a file of predictions", where=str(path))


def _matches(arrays: Arrays, where: str) -> dict[str, Matches]:
    """The matches, taken out of the arrays of a file."""
    columns: dict[str, Arrays] = {}
    for name in [name for name in arrays if name.startswith(f"{_MATCHES}/")]:
        _, key, column = name.split("/", 2)
        columns.setdefault(key, {})[column] = arrays.pop(name)
    names = {field.name for field in fields(Matches)}
    for key, own in columns.items():
        if own.keys() != names:
            wrong = ", ".join(sorted(own.keys() ^ names))
            raise DataError(f"'{_MATCHES}/{key}' lacks or has unknown: {wrong}", where=where)
        pairs = own["score"].shape
        for column, values in own.items():
            tail = {"source": (), "target": (), "visible": pairs[1:], "score": pairs[1:]}
            shape = (*pairs[:1], *tail.get(column, (*pairs[1:], 2)))
            if values.shape != shape or len(pairs) != 2:
                raise DataError(
                    f"'{_MATCHES}/{key}/{column}' has the shape {values.shape}",
                    where=where,
                    allowed=f"{shape}",
                )
    return {key: Matches(**own) for key, own in columns.items()}


def _splits(arrays: Arrays, provenance: Provenance, where: str) -> dict[str, SplitPredictions]:
    columns: dict[str, Arrays] = {}
    for name, values in arrays.items():
        split, _, column = name.partition("/")
        columns.setdefault(split, {})[column] = values
    landmarks = {
        split: own.get("landmarks", np.empty(())).shape[1:2] for split, own in columns.items()
    }
    if len(set(landmarks.values())) != 1:
        raise DataError(f"has different landmarks in its splits ({landmarks})", where=where)
    count = next(iter(landmarks.values()))
    points = (len(provenance.point_names),)
    copies = next((own["copies"].shape[1:2] for own in columns.values() if "copies" in own), ())
    shapes = {
        "index": (),
        "landmarks": (*count, 2),
        "score": count,
        "points": (*points, 2),
        "visible": points,
        "box": (4,),
        "identity": (),
        "warped": (*count, 2),
        "expected": (*count, 2),
        "copies": (*copies, *count, 2),
        "copied_points": (*copies, *points, 2),
        "copied_visible": (*copies, *points),
    }
    for split, own in columns.items():
        most = np.shape(own.get("keypoints", np.empty((0, 0))))[1:2]
        shapes |= {"keypoints": (*most, 2), "keypoint_score": most, "keypoint_label": most}
        incomplete = own.keys() & _PADDING.keys()
        if incomplete and incomplete != _PADDING.keys():
            lacking = ", ".join(sorted(_PADDING.keys() - incomplete))
            raise DataError(f"lacks '{split}/{lacking}'", where=where)
        rows = np.shape(own.get("index", 0))
        for column in ("index", "landmarks", "score", *own):
            if column not in own or column not in shapes:
                problem = "lacks" if column in shapes else "has an unknown array"
                raise DataError(f"{problem} '{split}/{column}'", where=where)
            if own[column].shape != (*rows, *shapes[column]) or len(rows) != 1:
                raise DataError(
                    f"'{split}/{column}' has the shape {own[column].shape}",
                    where=where,
                    allowed=f"{(*rows, *shapes[column])}",
                )
    return {split: SplitPredictions(**own) for split, own in columns.items()}


def _difference(mine: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The keys in which two specs of data differ, in words; empty if they say the same."""
    mine, other = _spelled_out(mine), _spelled_out(other)
    keys: Iterable[str] = sorted(mine.keys() | other.keys())
    return ", ".join(
        f"{key}: {mine.get(key)!r} instead of {other.get(key)!r}"
        for key in keys
        if mine.get(key) != other.get(key)
    )


def _spelled_out(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """A spec with the settings that are newer than itself, at their defaults."""
    try:
        return check(ImageData, spec, "data")
    except LandmarkLabError:  # of a plugin that is not there any more
        return spec
