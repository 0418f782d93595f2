"""The stacked-hourglass network with one stack."""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from landmark_lab.roles import Backbone
from landmark_lab_plugins.backbones.layers import (
    Norm,
    centred,
    check_size,
    convolution,
    normalisation,
)

Blocks = Literal["bottleneck", "basic", "plain"]


class Hourglass(Backbone, name="hourglass"):
    """One hourglass at half the image's size: down and up again, with a skip at every scale.

    A. Newell, K. Yang, J. Deng, "Stacked hourglass networks for human pose estimation", 2016, as
    the landmark papers use it: one stack, and no pooling after the stem, so that 96 pixels become
    48×48. The defaults are that network, 12.6 M parameters. ``width: 32, blocks: 1, block: basic,
    stem: 0`` is a quick one for small images; ``depth`` says how much of the image each output
    sees (``depth: 1`` with these settings 65 pixels, ``depth: 4`` far more than small images have).
    Images are shifted and scaled inside, (image − 0.5) / 0.25; sides must be even. Where a map's
    side is odd the next coarser one is rounded up, so its cells are shifted by part of one.
    Weights start as torch draws them, smaller than elsewhere here: behind a normalisation a smaller
    start means faster learning.

    Args:
        width: channels of the output and of every scale; a multiple of 4.
        depth: number of halvings after the stem.
        blocks: residual blocks at every place of the hourglass.
        block: ``bottleneck``: 1×1, 3×3, 1×1 with half the channels between; ``basic``: two 3×3;
            ``plain``: one 3×3 with normalisation and ReLU behind it, and no shortcut.
        stem: residual blocks between the first convolution, which has stride 2, and the
            hourglass; with 3, the first convolution has a quarter of the width.
        norm: before each convolution of a block.
        groups: groups of a group normalisation; must divide all numbers of channels.
    """

    def __init__(
        self,
        width: int = 256,
        depth: int = 4,
        blocks: int = 4,
        block: Blocks = "bottleneck",
        stem: int = 3,
        norm: Norm = "batch",
        groups: int = 8,
    ) -> None:
        super().__init__()
        if width < 4 or width % 4 or depth < 1 or blocks < 1 or not 0 <= stem <= 3:
            raise ValueError(
                f"width {width}, depth {depth}, blocks {blocks}, stem {stem}; "
                "allowed: a multiple of 4, at least 1, at least 1, 0 to 3"
            )
        self.channels = (width,)
        self.strides = (2,)
        unit = _BLOCKS[block]

        def residuals(inputs: int = width, outputs: int = width, count: int = 1) -> nn.Sequential:
            rest = [unit(outputs, outputs, norm, groups) for _ in range(count - 1)]
            return nn.Sequential(unit(inputs, outputs, norm, groups), *rest)

        growth = [width // 4, width // 2, width, width][3 - stem :]
        self.stem = nn.Sequential(
            convolution(3, growth[0], 7, norm, stride=2),
            normalisation(norm, growth[0], groups),
            nn.ReLU(inplace=True),
            *(residuals(fewer, more) for fewer, more in pairwise(growth)),
        )
        self.scales = _Scale(depth, lambda: residuals(count=blocks))
        self.output = nn.Sequential(
            residuals(count=blocks),
            convolution(width, width, 1, norm),
            normalisation(norm, width, groups),
            nn.ReLU(inplace=True),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) in [0, 1], H and W even, to a map (B, width, H/2, W/2)."""
        check_size(images, 2)
        return (self.output(self.scales(self.stem(centred(images)))),)


class _Scale(nn.Module):
    """One scale of the hourglass, and below it the next coarser one."""

    def __init__(self, depth: int, residuals: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.skip = residuals()
        self.down = residuals()
        self.inner = _Scale(depth - 1, residuals) if depth > 1 else residuals()
        self.up = residuals()

    def forward(self, x: Tensor) -> Tensor:
        # ceil_mode: the last row and column of an odd map are not lost.
        coarse = self.up(self.inner(self.down(F.max_pool2d(x, 2, ceil_mode=True))))
        skip: Tensor = self.skip(x)
        return skip + F.interpolate(coarse, size=x.shape[-2:], mode="nearest")


class _Residual(nn.Module):
    """x + f(x), with a 1×1 convolution of x where the number of channels changes."""

    def __init__(self, inputs: int, outputs: int, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        shortcut: Tensor = self.shortcut(x)
        change: Tensor = self.body(x)
        return shortcut + change


class _Bottleneck(_Residual):
    def __init__(self, inputs: int, outputs: int, norm: Norm, groups: int) -> None:
        half = outputs // 2
        body = nn.Sequential(
            *_before(inputs, norm, groups),
            convolution(inputs, half, 1, norm),
            *_before(half, norm, groups),
            convolution(half, half, 3, norm),
            *_before(half, norm, groups),
            nn.Conv2d(half, outputs, 1),
        )
        super().__init__(inputs, outputs, body)


class _Basic(_Residual):
    def __init__(self, inputs: int, outputs: int, norm: Norm, groups: int) -> None:
        body = nn.Sequential(
            *_before(inputs, norm, groups),
            convolution(inputs, outputs, 3, norm),
            *_before(outputs, norm, groups),
            nn.Conv2d(outputs, outputs, 3, padding=1),
        )
        super().__init__(inputs, outputs, body)


class _Plain(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, norm: Norm, groups: int) -> None:
        super().__init__(
            convolution(inputs, outputs, 3, norm),
            normalisation(norm, outputs, groups),
            nn.ReLU(inplace=True),
        )


_BLOCKS: dict[Blocks, Callable[[int, int, Norm, int], nn.Module]] = {
    "bottleneck": _Bottleneck,
    "basic": _Basic,
    "plain": _Plain,
}


def _before(channels: int, norm: Norm, groups: int) -> tuple[nn.Module, nn.Module]:
    # Not in place without a normalisation: the shortcut still needs what comes in.
    return normalisation(norm, channels, groups), nn.ReLU(inplace=norm != "none")
