"""The stacked-hourglass network with one stack."""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
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

Blocks = Literal["bottleneck", "basic", "plain", "parallel"]


class Hourglass(Backbone, name="hourglass"):
    """One hourglass at a half or quarter of the image's size, with a skip at every scale.

    A. Newell, K. Yang, J. Deng, "Stacked hourglass networks for human pose estimation", 2016, as
    the landmark papers use it: one stack, and no pooling after the stem, so that 96 pixels become
    48×48. The defaults are that network, 12.6 M parameters. ``width: 32, blocks: 1, block: basic,
    stem: 0`` is a quick one for small images; ``depth`` says how much of the image each output
    sees (``depth: 1`` with these settings 65 pixels, ``depth: 4`` far more than small images have).
    Self-training on keypoints makes 64×64 of 256 pixels: ``stride: 4, norm: group, groups: 32``.
    Images are shifted and scaled inside, (image − 0.5) / 0.25; the stride must divide their sides.
    Where a map's side is odd the next coarser one is rounded up, so its cells are shifted by part
    of one.
    Weights start as torch draws them, smaller than elsewhere here: behind a normalisation a smaller
    start means faster learning.

    Args:
        width: channels of the output and of every scale; a multiple of 4, of 8 for ``parallel``.
        depth: number of halvings after the stem.
        blocks: residual blocks at every place of the hourglass.
        block: ``bottleneck``: 1×1, 3×3, 1×1 with half the channels between; ``basic``: two 3×3;
            ``plain``: one 3×3 with normalisation and ReLU behind it, and no shortcut; ``parallel``:
            three 3×3 with a half, a quarter and a quarter of the channels, each on the last one's
            output, side by side (A. Bulat, G. Tzimiropoulos, "Binarized convolutional landmark
            localizers for human pose estimation and face alignment with limited resources", 2017;
            with ``blocks: 1`` the network of self-training on keypoints, 6.5 M parameters).
        stem: residual blocks between the first convolution, which has stride 2, and the
            hourglass; with 3, the first convolution has a quarter of the width.
        norm: before each convolution of a block.
        groups: groups of a group normalisation; must divide all numbers of channels.
        stride: input pixels per cell of the output; 4 pools behind the stem's first block.
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
        stride: Literal[2, 4] = 2,
    ) -> None:
        super().__init__()
        unit = _BLOCKS[block]
        step = 8 if block == "parallel" else 4
        if width < step or width % step or depth < 1 or blocks < 1 or not 0 <= stem <= 3:
            raise ValueError(
                f"width {width}, depth {depth}, blocks {blocks}, stem {stem}; "
                f"allowed: a multiple of {step}, at least 1, at least 1, 0 to 3"
            )
        self.channels = (width,)
        self.strides = (stride,)

        def residuals(inputs: int = width, outputs: int = width, count: int = 1) -> nn.Sequential:
            rest = [unit(outputs, outputs, norm, groups) for _ in range(count - 1)]
            return nn.Sequential(unit(inputs, outputs, norm, groups), *rest)

        growth = [width // 4, width // 2, width, width][3 - stem :]
        stages: list[nn.Module] = [residuals(fewer, more) for fewer, more in pairwise(growth)]
        if stride == 4:
            stages.insert(1, nn.MaxPool2d(2))
        self.stem = nn.Sequential(
            convolution(3, growth[0], 7, norm, stride=2),
            normalisation(norm, growth[0], groups),
            nn.ReLU(inplace=True),
            *stages,
        )
        self.scales = _Scale(depth, lambda: residuals(count=blocks))
        self.output = nn.Sequential(
            residuals(count=blocks),
            convolution(width, width, 1, norm),
            normalisation(norm, width, groups),
            nn.ReLU(inplace=True),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) in [0, 1] to a map (B, width, H/stride, W/stride)."""
        check_size(images, self.strides[0])
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


class _Parallel(nn.Module):
    """x + the outputs of three convolutions, each on the last one's, side by side."""

    def __init__(self, inputs: int, outputs: int, norm: Norm, groups: int) -> None:
        super().__init__()
        quarter = outputs // 4
        widths = (inputs, 2 * quarter, quarter, quarter)
        self.layers = nn.ModuleList(
            nn.Sequential(*_before(few, norm, groups), convolution(few, own, 3, norm))
            for few, own in pairwise(widths)
        )
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        shortcut: Tensor = self.shortcut(x)
        last, outputs = x, []
        for layer in self.layers:
            last = layer(last)
            outputs.append(last)
        return shortcut + torch.cat(outputs, 1)


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
    "parallel": _Parallel,
}


def _before(channels: int, norm: Norm, groups: int) -> tuple[nn.Module, nn.Module]:
    # Not in place without a normalisation: the shortcut still needs what comes in.
    return normalisation(norm, channels, groups), nn.ReLU(inplace=norm != "none")
