"""A batch of maps between two images: what every warp offers, and the kinds made of others.

Convention: points are (x, y) in [-1, 1], ±1 being the outer edges of the border pixels. A warp
goes from a *source* to a *target* image. An image moves by sampling, so the target image at p is
the source image at ``to_source(p)``; a point of the source moves to ``to_target(point)``.

``exact`` names the direction that is closed-form. The other one is solved numerically: for points
to a residual of about 1e-5 wherever the warp is one-to-one, for whole images through a bilinear
lattice, to about 1e-3 (a few hundredths of a pixel at 128 pixels). Losses take query coordinates
and their images in the exact direction.

Everything runs batched on the warp's device, in float32 or float64 whatever the autocast setting,
without a loop over images and without waiting for the GPU.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from landmark_lab.geometry.points import Size, inside, pixel_grid

TO_SOURCE, TO_TARGET = "to_source", "to_target"
Padding = Literal["zeros", "border", "reflection"]
Mode = Literal["bilinear", "nearest"]
Side = Literal["source", "target"]

# Where points went, (B, N, 2), and which of them really have a counterpart, (B, N).
Mapped = tuple[Tensor, Tensor]


class Warp(ABC):
    """B maps from a source image to a target image; see the module's text for the convention."""

    @property
    @abstractmethod
    def exact(self) -> frozenset[str]:
        """The closed-form directions: a subset of {"to_source", "to_target"}."""

    @abstractmethod
    def to_target(self, points: Tensor) -> Tensor:
        """Where points ``(B, N, 2)`` of the source lie in the target.

        Differentiable with respect to the points and the warp's own tensors. In a direction that
        is not exact, a point without a counterpart (none was found) becomes NaN.
        """

    @abstractmethod
    def to_source(self, points: Tensor) -> Tensor:
        """Where points ``(B, N, 2)`` of the target lie in the source; see :meth:`to_target`."""

    @abstractmethod
    def _tensor(self) -> Tensor:
        """A tensor of the warp: its length, device and dtype are the warp's."""

    @abstractmethod
    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same warp with every tensor (first dimension B) changed."""

    # Many points at once, e.g. those of all pixels: a warp whose evaluation at a point is dear
    # overrides these with an interpolation.
    def _dense_to_source(self, points: Tensor) -> Mapped:
        return self.to_source(points), _everywhere(points)

    def _dense_to_target(self, points: Tensor) -> Mapped:
        return self.to_target(points), _everywhere(points)

    # The same for all pixels of an image; a warp overrides them if it can reuse work over batches.
    def _pixels_to_source(self, size: Size) -> Mapped:
        return self._dense_to_source(self._pixels(size))

    def _pixels_to_target(self, size: Size) -> Mapped:
        return self._dense_to_target(self._pixels(size))

    def _precise(self, points: Tensor) -> Tensor:
        """Points in the warp's data type, or in their own if that is more precise."""
        return points.to(torch.promote_types(points.dtype, self.dtype))

    def _pixels(self, size: Size) -> Tensor:
        grid = pixel_grid(*size, device=self.device, dtype=self.dtype)
        return grid.expand(len(self), -1, -1)

    @property
    def device(self) -> torch.device:
        """Where the warp lives and computes."""
        return self._tensor().device

    @property
    def dtype(self) -> torch.dtype:
        """The data type that the warp computes in."""
        return self._tensor().dtype

    def __len__(self) -> int:
        """The number of images B."""
        return self._tensor().shape[0]

    def __getitem__(self, rows: slice) -> Self:
        """The warps of some images of the batch."""
        return self._each(lambda tensor: tensor[rows])

    def to(self, device: torch.device | str) -> Self:
        """The same warp on another device."""
        return self._each(lambda tensor: tensor.to(device))

    def source_grid(self, size: Size) -> Tensor:
        """Where each pixel centre of a target of that size lies in the source, (B, H, W, 2).

        Accurate as the module's text says; pixels without a counterpart hold a finite guess (see
        :meth:`valid`). This is what ``apply`` samples at. In memory it is either contiguous or, as
        splines make it, one plane of x and one of y: other layouts halve ``grid_sample``'s speed.
        """
        return self._pixels_to_source(size)[0].reshape(len(self), *size, 2)

    def target_grid(self, size: Size) -> Tensor:
        """Where each pixel centre of a source of that size lies in the target, (B, H, W, 2)."""
        return self._pixels_to_target(size)[0].reshape(len(self), *size, 2)

    def apply(
        self,
        images: Tensor,
        padding: Padding = "zeros",
        mode: Mode = "bilinear",
        size: Size | None = None,
    ) -> Tensor:
        """The target images: at p, what the source image shows at ``to_source(p)``.

        Args:
            images: source images or masks ``(B, C, H, W)``; the result has their type. Integers
                and booleans need ``mode="nearest"``.
            padding: what lies beyond the source's edges: black, its border pixels, its reflection.
            mode: interpolation between pixels.
            size: height and width of the square [-1, 1]² in pixels, if the source images show more
                than it: its surroundings on all sides, at the same scale. The target images have
                this size. By default the images show just the square.

        Raises:
            ValueError: for another number of images than warps, or integers with ``bilinear``.
        """
        if images.ndim != 4 or images.shape[0] != len(self):
            raise ValueError(
                f"{len(self)} warps need images ({len(self)}, C, H, W), not {tuple(images.shape)}"
            )
        if not images.is_floating_point() and mode != "nearest":
            raise ValueError(f"images of type {images.dtype} need mode='nearest', not '{mode}'")
        shown = (images.shape[2], images.shape[3])
        grid = self.source_grid(size or shown)
        if size is not None and size != shown:
            grid = grid * grid.new_tensor([size[1] / shown[1], size[0] / shown[0]])
        dtype = torch.promote_types(images.dtype, grid.dtype)
        warped = F.grid_sample(
            images.to(dtype), grid.to(dtype), mode=mode, padding_mode=padding, align_corners=False
        )
        return warped.to(images.dtype)

    def valid(self, size: Size, at: Side = "target") -> Tensor:
        """Which pixels have a counterpart in the other image, ``(B, H, W)`` boolean.

        Args:
            size: height and width of both images.
            at: ``"target"``: the target pixels whose centre p has ``to_source(p)`` inside the
                source; ``"source"``: the source pixels whose ``to_target(p)`` lies inside the
                target. Inside means within [-1, 1] along both axes. A counterpart that the solver
                does not find is none; flows also leave out folded, torn and occluded pixels (see
                ``FlowWarp``); of a composition every image on the way must hold the point.
        """
        if at not in ("source", "target"):
            raise ValueError(f"at is '{at}'; allowed: source, target")
        points, known = (
            self._pixels_to_source(size) if at == "target" else self._pixels_to_target(size)
        )
        return (known & inside(points)).reshape(len(self), *size)

    def inverse(self) -> Warp:
        """The same maps read from target to source."""
        return InverseWarp(self)

    def then(self, other: Warp) -> Warp:
        """This warp, then ``other``, whose source is this one's target; B must agree."""
        if len(other) != len(self):
            raise ValueError(f"a batch of {len(self)} warps cannot go on with {len(other)}")
        if isinstance(other, IdentityWarp):
            return self
        return ComposedWarp(self, other)


class IdentityWarp(Warp):
    """The map that moves nothing.

    Args:
        count: number of images B.
        device: where it lives.
        dtype: what it computes in.
    """

    def __init__(
        self,
        count: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._empty = torch.empty(count, 0, device=device, dtype=dtype)

    @property
    def exact(self) -> frozenset[str]:
        """Both directions."""
        return frozenset({TO_SOURCE, TO_TARGET})

    def to_target(self, points: Tensor) -> Tensor:
        """The same points."""
        return points

    def to_source(self, points: Tensor) -> Tensor:
        """The same points."""
        return points

    def apply(
        self,
        images: Tensor,
        padding: Padding = "zeros",
        mode: Mode = "bilinear",
        size: Size | None = None,
    ) -> Tensor:
        """The same images, not resampled; without their surroundings if they have some."""
        if size is None or size == (images.shape[2], images.shape[3]):
            return images
        return super().apply(images, padding, mode, size)

    def inverse(self) -> Warp:
        """Itself."""
        return self

    def then(self, other: Warp) -> Warp:
        """The other warp."""
        if len(other) != len(self):
            raise ValueError(f"a batch of {len(self)} warps cannot go on with {len(other)}")
        return other

    def _tensor(self) -> Tensor:
        return self._empty

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        empty = change(self._empty)
        return type(self)(empty.shape[0], empty.device, empty.dtype)


class InverseWarp(Warp):
    """A warp read backwards: its source is the other's target.

    Args:
        warp: the warp to read backwards.
    """

    def __init__(self, warp: Warp) -> None:
        self.warp = warp

    @property
    def exact(self) -> frozenset[str]:
        """The opposite directions of the warp's."""
        opposite = {TO_SOURCE: TO_TARGET, TO_TARGET: TO_SOURCE}
        return frozenset(opposite[direction] for direction in self.warp.exact)

    def to_target(self, points: Tensor) -> Tensor:
        """``to_source`` of the warp."""
        return self.warp.to_source(points)

    def to_source(self, points: Tensor) -> Tensor:
        """``to_target`` of the warp."""
        return self.warp.to_target(points)

    def inverse(self) -> Warp:
        """The warp itself."""
        return self.warp

    def _dense_to_source(self, points: Tensor) -> Mapped:
        return self.warp._dense_to_target(points)

    def _dense_to_target(self, points: Tensor) -> Mapped:
        return self.warp._dense_to_source(points)

    def _pixels_to_source(self, size: Size) -> Mapped:
        return self.warp._pixels_to_target(size)

    def _pixels_to_target(self, size: Size) -> Mapped:
        return self.warp._pixels_to_source(size)

    def _tensor(self) -> Tensor:
        return self.warp._tensor()

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        return type(self)(self.warp._each(change))


class ComposedWarp(Warp):
    """Two warps, one after the other: source -> middle -> target.

    ``apply`` samples the source image once, at the composed coordinates, so the image is smoothed
    once and not twice; the middle image need not exist. Its coordinates in the first warp come
    from that warp's dense map (exact for affine warps, interpolated for splines and flows).

    Args:
        first: the warp from the source to the middle image.
        second: the warp from the middle to the target image.
    """

    def __init__(self, first: Warp, second: Warp) -> None:
        self.first = first
        self.second = second

    @property
    def exact(self) -> frozenset[str]:
        """The directions that both warps have in closed form."""
        return self.first.exact & self.second.exact

    def to_target(self, points: Tensor) -> Tensor:
        """The first warp's ``to_target``, then the second's."""
        return self.second.to_target(self.first.to_target(points))

    def to_source(self, points: Tensor) -> Tensor:
        """The second warp's ``to_source``, then the first's."""
        return self.first.to_source(self.second.to_source(points))

    def inverse(self) -> Warp:
        """The inverses in the opposite order."""
        return self.second.inverse().then(self.first.inverse())

    def _dense_to_source(self, points: Tensor) -> Mapped:
        return _go_on(self.second._dense_to_source(points), self.first._dense_to_source)

    def _dense_to_target(self, points: Tensor) -> Mapped:
        return _go_on(self.first._dense_to_target(points), self.second._dense_to_target)

    def _pixels_to_source(self, size: Size) -> Mapped:
        return _go_on(self.second._pixels_to_source(size), self.first._dense_to_source)

    def _pixels_to_target(self, size: Size) -> Mapped:
        return _go_on(self.first._pixels_to_target(size), self.second._dense_to_target)

    def _tensor(self) -> Tensor:
        return self.first._tensor()

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        return type(self)(self.first._each(change), self.second._each(change))


def _everywhere(points: Tensor) -> Tensor:
    return torch.ones(points.shape[:-1], dtype=torch.bool, device=points.device)


def _go_on(middle: Mapped, further: Callable[[Tensor], Mapped]) -> Mapped:
    points, known = middle
    end, end_known = further(points)
    return end, known & end_known & inside(points)
