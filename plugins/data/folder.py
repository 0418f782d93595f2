"""Anybody's images and videos, with or without annotations.

Splits come from files (one annotation file a split) or are drawn, so that no individual is in two
of them. What is drawn depends on the seed and the individual's name only, not on the order of
files.

Convention: annotation files hold pixels, which their readers convert to (0, 0) being the centre of
the top-left pixel; samples hold points (x, y) in [-1, 1] of the square image.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from landmark_lab.data.annotations import Annotations, read
from landmark_lab.data.annotations.common import concatenate, frame_number
from landmark_lab.data.annotations.locate import locate
from landmark_lab.data.flow import FrameTable
from landmark_lab.data.images import ImageTable, SplitTable, check_annotation
from landmark_lab.data.preprocess import Preprocess
from landmark_lab.data.sampling import LoaderSettings, successors
from landmark_lab.data.splits import draw_splits
from landmark_lab.data.video import frame_count
from landmark_lab.errors import ConfigError, DataError
from landmark_lab.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from landmark_lab.geometry.symmetry import check_flip
from landmark_lab.plugin import available
from landmark_lab.roles import ImageData, Method, OpticalFlow, Pairing, Split

SPLITS: tuple[Split, ...] = ("train", "val", "test")

_WHOLE_IMAGE = Preprocess()
_FLOW = frozenset({"flow", "flow_visible"})
_PARTS = 20  # of all frames, where splits are drawn by parts of clips

_log = logging.getLogger(__name__)


class Folder(ImageData, name="folder"):
    """A folder of images or videos, with annotations in COCO, DeepLabCut, .pts, CAT, CSV, or none.

    Args:
        root: the folder.
        annotations: relative to ``root`` or absolute. One file (or folder, for formats with a file
            an image): its images are the data. Or a file for each of ``train``, ``val``, ``test``;
            without one for ``train``, all other images are trained on. None: all images.
        pattern: which files below ``root`` are images or videos, where no annotation names them.
        every: take every n-th frame of a video; with ``flow``, frames that are n apart follow one
            another, also those that are image files.
        flow: estimates the optical flow to the next frame, computed when a training needs it. Then
            image files without annotated clip and frame are frames of videos if their names end in
            numbers: those of equal names up to the last number, in one folder, are one video. None:
            there is no flow.
        val_fraction: part of the images drawn for validation, if the splits are drawn: by
            individual, where one is named, and those of nobody by clip; else by clip, if there are
            enough; else by image, or with ``flow`` by parts of clips, so that frames keep their
            neighbours.
        test_fraction: part of the images drawn for testing, if the splits are drawn.
        split_seed: for another draw.
        flip: left-right permutation of the points, if the annotations do not say.
        normaliser: the two points, by name or number, whose distance normalises errors, likewise.
        preprocess: how images become squares.
        cache_mb: memory for decoded images, in megabytes for each split.
        on_corrupt: what to do about unreadable or tiny images: ``raise`` an error when one is met,
            or ``skip`` them, which decodes every image before the start.

    Raises:
        DataError: a file or folder is missing, empty, of the wrong kind, or contradicts another.
        ConfigError: the parameters contradict each other or the annotations.
    """

    preprocess: Preprocess

    def __init__(
        self,
        root: str,
        annotations: str | dict[Literal["train", "val", "test"], str] | None = None,
        pattern: str = "**/*",
        every: int = 1,
        flow: OpticalFlow | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        split_seed: int = 0,
        flip: tuple[int, ...] | None = None,
        normaliser: tuple[int | str, int | str] | None = None,
        preprocess: Preprocess = _WHOLE_IMAGE,
        cache_mb: int = 1024,
        on_corrupt: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__()
        if every < 1:
            raise ConfigError(f"every must be at least 1, not {every}", where="data.every")
        if min(val_fraction, test_fraction) < 0 or val_fraction + test_fraction >= 1:
            raise ConfigError(
                f"val_fraction {val_fraction} and test_fraction {test_fraction} leave nothing",
                where="data",
                allowed="fractions from 0 whose sum is below 1",
            )
        self.root = Path(root).expanduser()
        if not self.root.is_dir():
            raise DataError(
                "there is no such folder", where=str(root), hint="set data.root to your images"
            )
        self.pattern = pattern
        self.every = every
        self.flow = flow
        self.fractions = {"val": val_fraction, "test": test_fraction}
        self.split_seed = split_seed
        self.preprocess = preprocess
        self.cache_mb = cache_mb
        self.on_corrupt = on_corrupt

        self._images: dict[Split, ImageTable] = {}
        if isinstance(annotations, str):
            self._take_annotations({"all": annotations})
        else:
            given = (annotations or {}).items()
            self._take_annotations({str(split): file for split, file in given})
        if flip is not None:
            self.flip = tuple(check_flip(flip, len(self.point_names), "data.flip"))
        if normaliser is not None:
            first, second = (self._point(point) for point in normaliser)
            self.normaliser = (first, second)
        if preprocess.box_margin is not None and self._table.box is None:
            raise ConfigError(
                "the annotations have no boxes to crop",
                where="data.preprocess.box_margin",
                hint="remove it, or add boxes to the annotations (COCO 'bbox')",
            )

    @property
    def provides(self) -> frozenset[str]:
        """The fields of a Sample, besides image and index, that the files give."""
        names = ("points", "visible", "box", "identity", "frame", "label")
        known = frozenset(name for name in names if getattr(self._table, name) is not None)
        return known if self.flow is None else known | _FLOW

    @property
    def size(self) -> int:
        """Side of the square images in pixels."""
        return self.preprocess.size

    @property
    def skipped(self) -> dict[str, list[tuple[str, str]]]:
        """Images left out because of ``on_corrupt: skip``, and why, of each split used so far."""
        return {split: list(images.skipped) for split, images in self._images.items()}

    def images(self, split: Split) -> ImageTable:
        """The images of a split; an empty table if there is none. Checked at the first call.

        Raises:
            DataError: an image is missing, corrupt, or does not fit its annotation.
        """
        if split not in self._images:
            chosen = self._table.take(self._rows[split])
            memory, first = self.cache_mb * 1_000_000, split == "train"
            if self.flow is None:
                table = ImageTable(chosen, self.preprocess, memory, self.on_corrupt, first)
            else:
                table = FrameTable(
                    *(chosen, self.preprocess, self.flow, self.every),
                    *(memory, self.on_corrupt, first),
                )
            check_annotation(table.table)
            self._images[split] = table
        return self._images[split]

    def prepare_training(
        self,
        pairing: Pairing,
        loader: LoaderSettings,
        seed: int,
        method: Method | None = None,
    ) -> None:
        """Say how the images are loaded and paired, and who learns from them; see the base class.

        Raises:
            ConfigError: something is needed that the files do not give, or that was not asked for.
        """
        if "flow" in pairing.needs and self.flow is None:
            raise ConfigError(
                f"the pairing '{pairing.plugin_name}' needs the optical flow of videos",
                where="data.flow",
                allowed=available(OpticalFlow),
            )
        super().prepare_training(pairing, loader, seed, method)

    def train_dataloader(self) -> DataLoader[Any]:
        """Items of the training split, with their flow if the pairs are made of it."""
        self._prepare_flow()
        return super().train_dataloader()

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Items of the validation split, with their flow if the pairs are made of it."""
        self._prepare_flow()
        return super().val_dataloader()

    def _prepare_flow(self) -> None:
        """Compute the flow of all pairs at once: neither while training goes on, nor in workers."""
        if "flow" in self._paired.needs:
            for split in ("train", "val"):
                images = self.images(split)
                assert isinstance(images, FrameTable)  # checked when the pairing was chosen
                if len(images):
                    images.prepare_flow()

    # --- building the table ----------------------------------------------------------------------

    def _take_annotations(self, files: dict[str, str]) -> None:
        """Make one table of all images; ``files`` has the key "all" or names of splits."""
        parts: list[Annotations] = []
        paths: list[Path] = []
        for given in files.values():
            path = self.root / Path(given).expanduser()
            part = read(path)
            if len(part) == 0:
                raise DataError("names no images", where=str(path))
            parts.append(part)
            bases = (self.root, path if path.is_dir() else path.parent)
            places = [place for base in bases for place in (base, base / "images")]
            paths += locate(part.images, list(dict.fromkeys(places)), str(path))
        frames = np.full(len(paths), -1, dtype=np.int64)
        splits = [name for name, part in zip(files, parts, strict=True) for _ in range(len(part))]

        if "all" not in files and "train" not in files:
            named = {path.resolve() for path in paths}
            free = [(p, f) for p, f in self._find() if p.resolve() not in named]
            if not free:
                raise DataError(
                    f"no image matches '{self.pattern}'"
                    + (" that the annotations do not name" if files else ""),
                    where=str(self.root),
                    allowed="files ending in " + ", ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES)),
                )
            paths += [path for path, _ in free]
            frames = np.append(frames, np.array([f for _, f in free], dtype=np.int64))
            splits += ["train" if files else "all"] * len(free)
            if parts:
                parts.append(parts[0].blank([str(path) for path, _ in free]))
        self._make_table(tuple(paths), frames, parts)
        drawn = "all" in splits
        chosen = np.array(self._draw_splits() if drawn else splits)
        self._rows = {split: np.flatnonzero(chosen == split) for split in SPLITS}
        if not drawn:
            self._warn_of_shared()

    def _make_table(
        self, paths: tuple[Path, ...], frames: NDArray[np.int64], parts: list[Annotations]
    ) -> None:
        """Join the images with what the annotations, row by row, say about them."""
        names: Sequence[str] = [""] * len(paths)
        clips = [str(path) if frame >= 0 else "" for path, frame in zip(paths, frames, strict=True)]
        numbers = frames
        table = SplitTable(paths, frames, np.zeros((len(paths), 2), dtype=np.int64))
        if parts:
            known = concatenate(parts, str(self.root))
            table = replace(
                table,
                points=known.points,
                visible=known.visible,
                box=known.box,
                annotated_size=known.size,
                label=known.label,
            )
            self.point_names, self.flip = known.names, known.flip
            self.normaliser = known.normalise_by
            names = known.identity or names
            if known.clip is not None:
                clips = [mine or film for mine, film in zip(known.clip, clips, strict=True)]
            if known.frame is not None:
                numbers = np.where(frames >= 0, frames, known.frame)
        if self.flow is not None:
            clips, numbers = _from_names(paths, clips, numbers)
        self._names, self._clips = names, clips
        self._table = replace(
            table,
            identity=_codes(names) if any(names) else _codes(clips),
            frame=numbers if (numbers >= 0).any() else None,
        )
        if self.flow is not None:
            self._add_clips(numbers)

    def _add_clips(self, numbers: NDArray[np.int64]) -> None:
        """Say in the table which rows are frames of which video.

        Raises:
            DataError: no two of them are neighbours.
        """
        # Of two individuals in one video each follows itself.
        films = [f"{c}\n{n}" if c else "" for c, n in zip(self._clips, self._names, strict=True)]
        clip = _codes(films)
        if clip is None or not (numbers >= 0).any():
            raise DataError(
                "no image is known to be a frame of a video",
                where="data.flow",
                allowed="videos; image files whose names end in the frame's number; annotations "
                "with clip and frame",
            )
        clip[[not film for film in films]] = -1
        self._table = replace(self._table, clip=clip)
        if (successors(clip, numbers, self.every) >= 0).any():
            return
        nearest = _smallest_step(clip, numbers)
        raise DataError(
            f"no two frames of a video are {self.every} apart"
            + (f"; the closest are {nearest}" if nearest else ""),
            where="data.flow",
            hint=f"'every: {nearest}' would make them pairs" if nearest else "add frames",
        )

    def _find(self) -> list[tuple[Path, int]]:
        """All images (with -1) and frames of videos (with their number) that match the pattern."""
        found: list[tuple[Path, int]] = []
        for path in sorted(self.root.glob(self.pattern)):
            hidden = any(part.startswith(".") for part in path.relative_to(self.root).parts)
            if hidden or not path.is_file():
                continue
            if path.suffix.lower() in IMAGE_SUFFIXES:
                found.append((path, -1))
            elif path.suffix.lower() in VIDEO_SUFFIXES:
                found += [(path, frame) for frame in range(0, frame_count(path), self.every)]
        return found

    def _draw_splits(self) -> list[str]:
        """Draw the splits by individual; else by clip, if there are enough; else see the class."""
        splits = 1 + sum(fraction > 0 for fraction in self.fractions.values())
        # Relative to the root, so that moving the data changes nothing.
        images = [self._table.where(row) for row in range(len(self._table))]
        images, clips = (
            [name.removeprefix(f"{self.root}/") for name in names]
            for names in (images, self._clips)
        )
        if any(self._names):
            named = zip(self._names, clips, strict=True)
            kind, groups = "individuals", [name or clip for name, clip in named]
        elif len(set(clips)) >= splits:
            kind, groups = "clips", clips
        elif self.flow is not None:
            kind, groups = "parts of clips", self._parts()
        else:
            kind, groups = "images", images
        groups = [group or image for group, image in zip(groups, images, strict=True)]
        try:
            drawn = draw_splits(groups, self.fractions, self.split_seed)
        except DataError as error:
            raise DataError(
                f"drawing splits by {kind}: {error}",
                where=str(self.root),
                hint="set val_fraction or test_fraction to 0, or give annotations for each split",
            ) from error
        counts = ", ".join(f"{split} {drawn.count(split)}" for split in SPLITS)
        _log.info("drew splits by %s: %s", kind, counts)
        return drawn

    def _parts(self) -> list[str]:
        """The part of its clip that each image is in: successive frames, the same number in all."""
        groups = [""] * len(self._table)
        numbers = self._table.frame
        assert numbers is not None  # checked when the clips were added
        # Long enough for pairs some frames apart, unless that leaves fewer parts than splits.
        few = len(groups) // (2 * len(SPLITS))
        length = max(2, -(-len(groups) // _PARTS), min(max(10, 2 * self.every), few))
        for name in dict.fromkeys(filter(None, self._clips)):
            rows = np.array([row for row, clip in enumerate(self._clips) if clip == name])
            order = rows[np.argsort(numbers[rows], kind="stable")]
            for place, row in enumerate(order.tolist()):
                groups[row] = f"{name.removeprefix(f'{self.root}/')} part {place // length}"
        return groups

    def _warn_of_shared(self) -> None:
        """Say so if the given splits share images or individuals."""
        images = [self._table.where(row) for row in range(len(self._table))]
        for first, second in combinations(SPLITS, 2):
            shared, names = (
                {values[row] for row in self._rows[first].tolist()}
                & {values[row] for row in self._rows[second].tolist()} - {""}
                for values in (images, self._names)
            )
            if shared or names:
                _log.warning(
                    "the splits '%s' and '%s' share %d images and %d individuals",
                    *(first, second, len(shared), len(names)),
                )

    def _point(self, point: int | str) -> int:
        if isinstance(point, str):
            if point not in self.point_names:
                raise ConfigError(
                    f"there is no point called '{point}'",
                    where="data.normaliser",
                    got=point,
                    allowed=self.point_names,
                )
            return self.point_names.index(point)
        if not 0 <= point < len(self.point_names):
            raise ConfigError(
                f"there is no point {point}",
                where="data.normaliser",
                allowed=f"0 to {len(self.point_names) - 1}",
            )
        return point


def _from_names(
    paths: Sequence[Path], clips: Sequence[str], numbers: NDArray[np.int64]
) -> tuple[list[str], NDArray[np.int64]]:
    """Clips and numbers of frames; what is not known is taken from the names of the files."""
    clips, numbers = list(clips), numbers.copy()
    for row in np.flatnonzero(numbers < 0).tolist():
        path = paths[row]
        numbers[row] = frame_number(path.name)
        if numbers[row] >= 0:
            name = re.sub(r"\d+(\D*)$", r"#\1", path.stem)
            clips[row] = clips[row] or str(path.parent / name)
    return clips, numbers


def _smallest_step(clip: NDArray[np.int64], numbers: NDArray[np.int64]) -> int:
    """The smallest distance of two different frames of a video, 0 if no video has two."""
    known = (clip >= 0) & (numbers >= 0)
    order = np.lexsort((numbers[known], clip[known]))
    same = np.diff(clip[known][order]) == 0
    steps = np.diff(numbers[known][order])[same]
    return int(steps[steps > 0].min(initial=np.iinfo(np.int64).max)) if (steps > 0).any() else 0


def _codes(names: Sequence[str]) -> NDArray[np.int64] | None:
    """A number for each name, the same for equal names, another for every unnamed one."""
    if not any(names):
        return None
    known = {name: code for code, name in enumerate(sorted(set(names) - {""}))}
    unnamed = iter(range(len(known), len(known) + len(names)))
    return np.array([known[n] if n else next(unnamed) for n in names], dtype=np.int64)
