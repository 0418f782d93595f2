"""Which image is loaded when: a function of (seed, epoch, position) and of nothing else.

The number of workers and processes does not matter, and a loader can start anywhere in an epoch,
so that a resumed run sees what the uninterrupted one would have seen.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from landmark_lab.data.augmentation import ColourAugmentation
from landmark_lab.data.batch import LoadedBatch, Sample
from landmark_lab.errors import DataError
from landmark_lab.files import checksum
from landmark_lab.seeding import rng, seed_of

Row = dict[str, Any]
"""One image: ``image`` (H, W, 3) uint8 and any other field of a Sample, without the batch axis, as
NumPy arrays or numbers; ``index`` is added by the loader."""


_PICTURES = frozenset({"image", "surroundings"})


class Images(ABC, Dataset[Row]):
    """The images of one split, by position.

    Attributes:
        identity: (N,) the individual in each image, or None; known without loading an image.
        frame: (N,) the image's position in its video, or None; images of one video share their
            identity.
        annotated: (N,) whether an image has an annotated point; None: all have, or none has.
    """

    identity: NDArray[np.int64] | None = None
    frame: NDArray[np.int64] | None = None
    annotated: NDArray[np.bool_] | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def __getitem__(self, index: int) -> Row:
        """Load one image."""

    @cached_property
    def following(self) -> NDArray[np.int64] | None:
        """(N,) the image that is the next frame of each one's video, to which its flow leads.

        −1 where this split has none; None if the images are no frames of videos.
        """
        if self.identity is None or self.frame is None:
            return None
        return successors(self.identity, self.frame)

    def where(self, index: int) -> str:
        """The image of an index, for messages."""
        return f"image {index}"

    def fingerprint(self) -> str:
        """A checksum of the images and of what is known about them.

        What was computed from images is kept on disk under it. Here every image is loaded; data
        that lies in files need only look at these.
        """
        rows = (self[index] for index in range(len(self)))
        return checksum(part for row in rows for item in sorted(row.items()) for part in item)

    def check_readable(self, first: int | None = None) -> None:
        """Find out now whether images can be loaded; drawn ones always can.

        Args:
            first: look at so many images only.

        Raises:
            DataError: one cannot; the message names it.
        """


def successors(
    video: NDArray[np.int64], frame: NDArray[np.int64], apart: int = 1
) -> NDArray[np.int64]:
    """(N,) the image that shows the same video ``apart`` frames later, −1 where there is none.

    Args:
        video: (N,) the video of each image, −1 if it is of none.
        frame: (N,) number of the frame, −1 if unknown; of two images of a frame the first counts.
        apart: frames of the video between an image and the next.
    """
    numbers = list(zip(video.tolist(), frame.tolist(), strict=True))
    place: dict[tuple[int, int], int] = {}
    for index, number in enumerate(numbers):
        place.setdefault(number, index)
    return np.array(
        [-1 if min(v, f) < 0 else place.get((v, f + apart), -1) for v, f in numbers],
        dtype=np.int64,
    )


class Key(NamedTuple):
    """What a sampler asks a data set for."""

    epoch: int
    position: int  # in the epoch's order, over all processes
    image: int  # its index in the split


Members = Callable[[Images, int, np.random.Generator], Sequence[int]]
"""(images, index, generator) -> the indices of the images that make one item."""


@dataclass(frozen=True)
class LoaderSettings:
    """How images are loaded.

    Args:
        batch_size: items of a batch in each process.
        workers: loading processes; 0 loads in the main process. The result does not depend on it.
        colours: colour augmentation of the training images, or None.
        images: train on so many images only, drawn by the seed; those of fewer are among those of
            more. They are annotated ones where the method learns from annotated points, and sources
            of pairs. An epoch keeps its length, and a pairing finds an image's partner among all
            images.
    """

    batch_size: int = 32
    workers: int = 0
    colours: ColourAugmentation | None = None
    images: int | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}")
        if self.workers < 0:
            raise ValueError(f"workers must be at least 0, not {self.workers}")
        if self.images is not None and self.images < 1:
            raise ValueError(f"images must be at least 1, not {self.images}")


class Items(Dataset[tuple[Key, list[Row]]]):
    """Items of one or more images, looked up by :class:`Key`."""

    def __init__(
        self, images: Images, members: Members, seed: int, colours: ColourAugmentation | None
    ) -> None:
        self.images = images
        self.members = members
        self.seed = seed
        self.colours = colours

    def __getitem__(self, key: Key) -> tuple[Key, list[Row]]:
        # Keyed by the position, not the index, because a small data set repeats images in an epoch.
        generator = rng(self.seed, "members", key.epoch, key.position)
        indices = self.members(self.images, key.image, generator)
        loaded = {index: self.images[index] for index in set(indices)}  # a repeated one once
        rows = []
        for member, index in enumerate(indices):
            row = {**loaded[index], "index": index}
            if self.colours is not None:
                draw = seed_of(self.seed, "colours", key.epoch, key.position, member)
                _colour(row, self.colours, draw)
            rows.append(row)
        return key, rows


def _colour(row: Row, colours: ColourAugmentation, draw: int) -> None:
    """Change the colours of an image and of its surroundings alike."""
    if "surroundings" not in row:
        row["image"] = colours(row["image"], draw)
        return
    size = len(row["image"])
    whole = row["surroundings"] = colours(row["surroundings"], draw)
    edge = (len(whole) - size) // 2
    row["image"] = whole[edge : edge + size, edge : edge + size]


class EpochSampler(Sampler[list[Key]]):
    """Batches of keys in an order that is a function of (seed, epoch).

    Each epoch is a new permutation of the images, cut into full global batches (the rest is left
    out); a data set smaller than a global batch is repeated in new permutations to fill one, and
    some of the images to fill as many batches as all of them would. Process r of W takes the r-th
    share of every global batch.

    Args:
        size: number of images.
        batch_size: keys of a batch in this process.
        seed: the experiment's seed.
        rank, world: this process, and the number of processes.
        progress: where to start: batches of an epoch -> (epoch, batches of it that are done); read
            at every ``iter``, so that the trainer's own progress decides.
        rows: the indices of some of these images, which alone are taken; all by default.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        progress: Callable[[int], tuple[int, int]] = lambda batches: (0, 0),
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world = world
        self.progress = progress
        self.rows = np.arange(size) if rows is None else rows

    @property
    def total(self) -> int:
        """Items of a global batch."""
        return self.batch_size * self.world

    def __len__(self) -> int:
        return max(1, self.size // self.total)

    def __iter__(self) -> Iterator[list[Key]]:
        # Read now and not at the first ``next``, which comes later without workers than with them.
        return self._batches(*self.progress(len(self)))

    def _batches(self, epoch: int, done: int) -> Iterator[list[Key]]:
        order = self._order(epoch)
        for batch in range(done, len(self)):
            first = batch * self.total + self.rank * self.batch_size
            positions = range(first, first + self.batch_size)
            yield [Key(epoch, p, int(order[p])) for p in positions]

    def _order(self, epoch: int) -> NDArray[np.int64]:
        needed = len(self) * self.total
        laps = [
            rng(self.seed, "order", epoch, lap).permutation(self.rows)
            for lap in range(-(-needed // len(self.rows)))
        ]
        return np.concatenate(laps)[:needed]


class FixedSampler(Sampler[list[Key]]):
    """All images once, in order, in global batches of which the last may be smaller.

    Process r of W takes the r-th share of every global batch, so that all processes take the same
    number of steps (validation exchanges data at each of them). Where the last batch has fewer
    rows than there are processes, those without a row take a neighbour's.

    Args:
        size: number of images.
        batch_size: keys of a batch in this process.
        rank, world: this process, and the number of processes.
        rows: the indices of the images, rising, where these are some of many; else all.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        self.size = size if rows is None else len(rows)
        self.batch_size = batch_size
        self.rank = rank
        self.world = world
        self.rows = np.arange(size) if rows is None else rows

    @property
    def total(self) -> int:
        """Items of a full global batch."""
        return self.batch_size * self.world

    def __len__(self) -> int:
        return -(-self.size // self.total)

    def __iter__(self) -> Iterator[list[Key]]:
        for first in range(0, self.size, self.total):
            rows = min(self.total, self.size - first)
            start = first + self.rank * rows // self.world
            end = max(first + (self.rank + 1) * rows // self.world, start + 1)
            yield [Key(0, p, int(self.rows[p])) for p in range(start, end)]


class ResumableLoader(DataLoader[Any]):
    """A loader whose position lives in its sampler.

    Lightning asks loaders that can resume in mid-epoch for their state; the sampler reads the
    trainer's progress instead, so there is none to keep.
    """

    def state_dict(self) -> dict[str, Any]:
        """Nothing: see the class."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing: see the class."""


def collate(rows: Sequence[Row]) -> Sample:
    """Stack rows into a Sample; images become (B, 3, H, W) uint8, doubles float32."""
    columns: dict[str, Any] = {}
    for name in rows[0]:
        column = np.stack([np.asarray(row[name]) for row in rows])
        if column.dtype == np.float64:
            column = column.astype(np.float32)
        columns[name] = torch.from_numpy(column)
    for name in _PICTURES & columns.keys():
        columns[name] = columns[name].permute(0, 3, 1, 2).contiguous()
    return Sample(**columns)


@dataclass(frozen=True)
class CollateItems:
    """Stack items into a LoadedBatch (a class, so that workers can be started by spawning)."""

    total: int

    def __call__(self, items: Sequence[tuple[Key, list[Row]]]) -> LoadedBatch:
        keys = [key for key, _ in items]
        members = zip(*(rows for _, rows in items), strict=True)
        batch, first = divmod(keys[0].position, self.total)
        return LoadedBatch(
            tuple(collate(rows) for rows in members), keys[0].epoch, batch, self.total, first
        )


def training_rows(
    images: Images,
    count: int | None,
    seed: int,
    annotated: bool,
    paired: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Which images of the training split are trained on; a function of the seed.

    Args:
        images: the training split.
        count: how many; all by default.
        seed: of the draw.
        annotated: whether only images with annotated points will do.
        paired: those of which pairs can be made, rising; all by default.

    Raises:
        DataError: there are fewer.
    """
    rows = np.arange(len(images)) if paired is None else paired
    if annotated and images.annotated is not None:
        rows = rows[images.annotated[rows]]
    if count is not None:
        rows = rng(seed, "training images").permutation(rows)[:count]
    if len(rows) < (count or 1):
        kind = "annotated images" if annotated else "images"
        raise DataError(
            f"there are {len(rows)} {kind} to train on, not {count or 'one'}", where="loader.images"
        )
    return rows


def training_loader(
    images: Images,
    members: Members,
    settings: LoaderSettings,
    seed: int,
    rank: int,
    world: int,
    progress: Callable[[int], tuple[int, int]],
    rows: NDArray[np.int64] | None = None,
) -> DataLoader[Any]:
    """Items in random order, augmented, endless in epochs, resumable anywhere.

    ``rows`` are the images that are taken, see :func:`training_rows`; all by default.
    """
    sampler = EpochSampler(len(images), settings.batch_size, seed, rank, world, progress, rows)
    return _loader(Items(images, members, seed, settings.colours), sampler, settings, sampler.total)


def fixed_loader(
    images: Images,
    members: Members,
    settings: LoaderSettings,
    seed: int,
    rank: int = 0,
    world: int = 1,
    rows: NDArray[np.int64] | None = None,
) -> DataLoader[Any]:
    """Items in order, once, without augmentation: the same images and draws at every pass.

    ``rows`` are the images that are taken, rising; all by default.
    """
    sampler = FixedSampler(len(images), settings.batch_size, rank, world, rows)
    return _loader(Items(images, members, seed, None), sampler, settings, sampler.total)


def _loader(
    items: Items, sampler: Sampler[list[Key]], settings: LoaderSettings, total: int
) -> DataLoader[Any]:
    return ResumableLoader(
        items,
        batch_sampler=sampler,
        collate_fn=CollateItems(total),
        num_workers=settings.workers,
        persistent_workers=settings.workers > 0,
        pin_memory=torch.cuda.is_available(),
        # Otherwise the loader draws its workers' base seed from torch's global generator.
        generator=torch.Generator(),
    )
