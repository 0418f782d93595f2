"""What flows from the data to the methods: samples, pairs of them, and loaded batches.

Convention: points are (x, y) in [-1, 1], see ``geometry/points.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from landmark_lab.geometry.warp import Warp


@dataclass
class Sample:
    """A batch of B images of one data set with whatever is known about them.

    Attributes:
        image: (B, 3, H, W), float in [0, 1] (uint8 in [0, 255] on its way from the loader).
        index: (B,) int64, the position in the split: the key of a method's own tables.
        points: (B, P, 2) annotated points, NaN where unknown.
        visible: (B, P) bool.
        mask: (B, 1, H, W) in [0, 1], the object.
        label: (B,) int64, the category.
        box: (B, 4), x0, y0, x1, y1 of the object.
        identity: (B,) int64, the individual; images of one individual share it.
        frame: (B,) int64, position in a video.
        flow: (B, 2, H, W) how far the point at each pixel's centre moves until the next frame of
            the video, in the units of points; finite also where it is meaningless.
        flow_visible: (B, H, W) bool, the pixels whose flow is known and that are seen in the next
            frame; None if only the flow itself tells.
        surroundings: (B, 3, H', W') the images once more, with what surrounds them on all sides at
            the same scale: warped views can show it instead of an edge.
    """

    image: Tensor
    index: Tensor
    points: Tensor | None = None
    visible: Tensor | None = None
    mask: Tensor | None = None
    label: Tensor | None = None
    box: Tensor | None = None
    identity: Tensor | None = None
    frame: Tensor | None = None
    flow: Tensor | None = None
    flow_visible: Tensor | None = None
    surroundings: Tensor | None = None

    def __len__(self) -> int:
        return len(self.image)

    def to(self, device: Any, non_blocking: bool = False) -> Sample:
        """The same on another device."""
        return self._map(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Sample:
        """The same in page-locked memory."""
        return self._map(Tensor.pin_memory)

    def with_float_image(self) -> Sample:
        """The same with the images as float in [0, 1]."""
        if self.image.dtype != torch.uint8:
            return self
        around = self.surroundings
        return replace(
            self,
            image=self.image.float().div_(255),
            surroundings=around if around is None else around.float().div_(255),
        )

    def _map(self, change: Callable[[Tensor], Tensor]) -> Sample:
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: change(v) for k, v in values.items() if v is not None})


@dataclass
class Pair:
    """Two batches of images, and the warp between them where it is known.

    Attributes:
        source: B images.
        target: B images.
        warp: B maps from the source to the target images, or None for unrelated images.
        view: B maps from the images of the data to the source images, or None where these are the
            images themselves. A point that a method found in an image lies at ``view.to_target(p)``
            in the source, and at ``warp.to_target(view.to_target(p))`` in the target.
        mirrored: (B,) bool, which sources are mirror images, ``view`` and ``warp`` with them; the
            targets never are. None: none is.
    """

    source: Sample
    target: Sample
    warp: Warp | None = None
    view: Warp | None = None
    mirrored: Tensor | None = None


@dataclass
class LoadedBatch:
    """What a loader yields: the images of a batch of items, before they are paired.

    Attributes:
        members: the images of an item's first, second, ... member.
        epoch: epoch of the batch; with ``batch`` it is the key of all random draws.
        batch: number of the global batch in its epoch.
        total: rows of the global batch.
        first: this process's first row in the global batch.
    """

    members: tuple[Sample, ...]
    epoch: int
    batch: int
    total: int
    first: int

    def to(self, device: Any, non_blocking: bool = False) -> LoadedBatch:
        """The same on another device."""
        return replace(self, members=tuple(m.to(device, non_blocking) for m in self.members))

    def pin_memory(self) -> LoadedBatch:
        """The same in page-locked memory."""
        return replace(self, members=tuple(m.pin_memory() for m in self.members))
