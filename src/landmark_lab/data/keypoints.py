"""Unordered keypoints: those of one image, and those of all images of a split in one table.

A table is what the rounds of self-training pass on: detectors fill it, clustering labels it, a
network is trained on it and fills the next one.

Convention: points are (x, y) in [-1, 1], see ``geometry/points.py``.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landmark_lab.errors import DataError
from landmark_lab.files import atomic

NO_CLUSTER = -1
"""The label of a keypoint in no cluster, and of one whose mirror image is not known."""


@dataclass(frozen=True, eq=False)
class Detections:
    """What a detector found in one image.

    Attributes:
        points: (N, 2) float32, x, y in [-1, 1].
        scores: (N,) float32, larger is better; comparable within one detector only.
        descriptors: (N, D) float32, or None of a detector that describes nothing.

    Raises:
        DataError: the shapes do not belong together.
    """

    points: NDArray[np.float32]
    scores: NDArray[np.float32]
    descriptors: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        count = len(self.points)
        _expect("detections", "points", self.points.shape, (count, 2))
        _expect("detections", "scores", self.scores.shape, (count,))
        if self.descriptors is not None:
            _expect("detections", "descriptors", self.descriptors.shape, (count, None))

    def __len__(self) -> int:
        return len(self.points)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Detections:
        """The given rows, in the given order, or those of a mask."""
        found = self.descriptors
        return Detections(
            self.points[rows], self.scores[rows], None if found is None else found[rows]
        )


@dataclass(frozen=True, eq=False)
class KeypointTable:
    """All keypoints of the N images of a split, T rows sorted by image.

    An image without keypoints has no row. Use :meth:`of` for rows that are not sorted yet or have
    no labels, and ``dataclasses.replace`` for other labels of the same rows.

    Attributes:
        images: N.
        image: (T,) int64, position of the row's image in the split, rising.
        points: (T, 2) float32, x, y in [-1, 1] of the preprocessed square image.
        scores: (T,) float32.
        labels: (T,) int64, cluster; -1 for none.
        mirrored: (T,) int64, cluster of the same keypoint in the mirrored image; -1 if unknown.
        descriptors: (T, D) float32, or None.

    Raises:
        DataError: shapes or types are wrong, an image does not exist, the rows are not sorted, or a
            coordinate or score is not finite.
    """

    images: int
    image: Tensor
    points: Tensor
    scores: Tensor
    labels: Tensor
    mirrored: Tensor
    descriptors: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        count = len(self.image)
        shapes = {"image": (count,), "points": (count, 2)}
        shapes |= dict.fromkeys(("scores", "labels", "mirrored"), (count,))
        for name, shape in shapes.items():
            value = getattr(self, name)
            _expect("keypoint table", name, value.shape, shape)
            expected = torch.float32 if name in ("points", "scores") else torch.int64
            if value.dtype != expected:
                raise DataError(
                    f"'{name}' is {value.dtype}", where="keypoint table", allowed=str(expected)
                )
        if self.descriptors is not None:
            _expect("keypoint table", "descriptors", self.descriptors.shape, (count, None))
        if count and (self.image.diff() < 0).any():
            raise DataError("the rows are not sorted by image", where="keypoint table")
        if count and not 0 <= int(self.image[0]) <= int(self.image[-1]) < self.images:
            raise DataError(
                f"holds keypoints of image {int(self.image[-1])}",
                where="keypoint table",
                allowed=f"0 to {self.images - 1}",
            )
        if not (self.points.isfinite().all() and self.scores.isfinite().all()):
            raise DataError("a point or score is not finite", where="keypoint table")

    def __len__(self) -> int:
        return len(self.image)

    @classmethod
    def of(
        cls,
        images: int,
        image: Tensor,
        points: Tensor,
        scores: Tensor,
        labels: Tensor | None = None,
        mirrored: Tensor | None = None,
        descriptors: Tensor | None = None,
    ) -> Self:
        """A table of rows in any order, which is kept within an image; labels are -1 by default."""
        order = image.argsort(stable=True)
        none = torch.full_like(image, NO_CLUSTER)
        return cls(
            images,
            image[order],
            points[order],
            scores[order],
            (none if labels is None else labels)[order],
            (none if mirrored is None else mirrored)[order],
            None if descriptors is None else descriptors[order],
        )

    @classmethod
    def from_detections(cls, found: Sequence[Detections]) -> Self:
        """The table of what a detector found in each of N images.

        Raises:
            DataError: some have descriptors and some none, or of another length.
        """
        counts = torch.tensor([len(one) for one in found], dtype=torch.int64)
        image = torch.arange(len(found)).repeat_interleave(counts)
        return cls.of(
            len(found),
            image,
            _stacked([one.points for one in found], (0, 2)),
            _stacked([one.scores for one in found], (0,)),
            descriptors=_descriptors(
                [
                    one.descriptors
                    if one.descriptors is None
                    else torch.from_numpy(one.descriptors)
                    for one in found
                    if len(one)
                ]
            ),
        )

    @staticmethod
    def concat(tables: Sequence[KeypointTable]) -> KeypointTable:
        """All rows of tables of the same images, e.g. of several processes or rounds.

        Within an image, the rows of an earlier table come first.

        Raises:
            DataError: there is no table, they are of different numbers of images, or some of those
                with rows have descriptors and some none.
        """
        numbers = {table.images for table in tables}
        if len(numbers) != 1:
            raise DataError(
                f"tables of {sorted(numbers)} images cannot be joined", where="keypoint table"
            )
        names = ("image", "points", "scores", "labels", "mirrored")
        columns = {name: torch.cat([getattr(table, name) for table in tables]) for name in names}
        found = _descriptors([table.descriptors for table in tables if len(table)])
        return KeypointTable.of(numbers.pop(), descriptors=found, **columns)

    def select(self, keep: Tensor) -> Self:
        """The rows of a mask (T,) bool; the number of images stays."""
        _expect("keypoint table", "keep", keep.shape, (len(self),))
        if keep.dtype != torch.bool:
            raise DataError(
                f"'keep' is {keep.dtype}", where="keypoint table", allowed=str(torch.bool)
            )
        return self._map(lambda column: column[keep])

    def counts(self) -> Tensor:
        """Number of keypoints in each image, (N,) int64."""
        return self._starts.diff()

    @property
    def most(self) -> int:
        """M, the largest number of keypoints in one image."""
        return self._most

    def padded(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The keypoints of B images, padded to the table's largest number M in any image.

        The shape is the same for all batches, and nothing waits for the device once the first batch
        was looked up.

        Args:
            index: (B,) int64 positions of images, on the table's device.

        Returns:
            Points (B, M, 2), NaN where there is none; labels and mirrored labels (B, M), -1 there;
            and which are found, (B, M) bool.
        """
        first, end = self._starts[index], self._starts[index + 1]
        rows = first[:, None] + torch.arange(self._most, device=index.device)
        found = rows < end[:, None]
        rows = torch.where(found, rows, 0)
        return (
            torch.where(found[..., None], self.points[rows], torch.nan),
            torch.where(found, self.labels[rows], NO_CLUSTER),
            torch.where(found, self.mirrored[rows], NO_CLUSTER),
            found,
        )

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        return self._map(lambda column: column.to(device))

    def without_descriptors(self) -> Self:
        """The same rows without what describes them."""
        return replace(self, descriptors=None)

    def state(self) -> dict[str, Any]:
        """Plain containers and tensors on the CPU for a checkpoint; without the descriptors."""
        columns = {name: value.cpu() for name, value in self._columns().items()}
        columns.pop("descriptors", None)
        return {"images": self.images, **columns}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The table that :meth:`state` came from.

        Raises:
            DataError: something is missing or wrong.
        """
        names = {f.name for f in fields(cls)}
        missing = names - {"descriptors"} - state.keys()
        if missing or state.keys() - names:
            raise DataError(
                f"holds {', '.join(sorted(state))}", where="keypoint table", allowed=sorted(names)
            )
        return cls(**state)

    def save(self, path: str | Path) -> None:
        """Write a NumPy archive (``.npz``), atomically, descriptors included.

        Raises:
            RunError: the file could not be written.
        """
        columns: dict[str, Any] = {n: value.cpu().numpy() for n, value in self._columns().items()}
        with atomic(path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, images=np.int64(self.images), **columns)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote, onto the CPU.

        Raises:
            DataError: the file is missing, damaged, or something else.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                columns = {name: torch.from_numpy(archive[name]) for name in archive.files}
            return cls.from_state({**columns, "images": int(columns["images"])})
        # A DataError is a ValueError; a TypeError is an array that is no number.
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"is no keypoint table ({error})", where=str(path)) from error

    @cached_property
    def _starts(self) -> Tensor:
        """(N + 1,) the first row of each image, and T."""
        positions = torch.arange(self.images + 1, device=self.image.device)
        return torch.searchsorted(self.image, positions)

    @cached_property
    def _most(self) -> int:
        return int(self.counts().max()) if self.images else 0

    def _columns(self) -> dict[str, Tensor]:
        columns = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "images"}
        return {name: column for name, column in columns.items() if column is not None}

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        changed: dict[str, Any] = {n: change(value) for n, value in self._columns().items()}
        return replace(self, **changed)


def _expect(where: str, name: str, shape: Sequence[int], expected: tuple[int | None, ...]) -> None:
    fits = len(shape) == len(expected) and all(
        want is None or have == want for have, want in zip(shape, expected, strict=True)
    )
    if not fits:
        wanted = ", ".join("D" if want is None else str(want) for want in expected)
        raise DataError(
            f"'{name}' has the shape {tuple(shape)}", where=where, allowed=f"({wanted})"
        )


def _stacked(parts: Sequence[NDArray[np.float32]], empty: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.concatenate([np.empty(empty, np.float32), *parts]))


def _descriptors(parts: Sequence[Tensor | None]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or len({part.shape[1] for part in known}) > 1:
        if not known:
            return None
        raise DataError(
            "some keypoints have descriptors of one kind and some of another or none",
            where="keypoint table",
        )
    return torch.cat(known) if known else None
