"""A small network that sees a part of the image only."""

import torch.nn.functional as F
from torch import Tensor, nn

from landmark_lab.roles import Backbone
from landmark_lab_plugins.backbones.layers import (
    Norm,
    centred,
    check_size,
    convolution,
    initialise,
    normalisation,
)


class Local(Backbone, name="local"):
    """Residual blocks at a quarter of the image's size, and up again; it sees no farther.

    A network that sees the whole image can satisfy equivariance without looking at the object: it
    estimates how the image was warped, and all its landmarks move as one rigid constellation. With
    a receptive field below the size of the object a landmark must look like something. With two
    blocks an output sees 57×57 input pixels, with one 41×41. Images are shifted and scaled inside,
    (image − 0.5) / 0.25; sides must be multiples of 4.

    Args:
        width: channels at half the image's size; half as many again at a quarter. Even.
        blocks: residual blocks at a quarter of the image's size; each widens the view by 16 pixels.
        norm: after each convolution.
        groups: groups of a group normalisation; must divide ``width`` and ``width * 3 / 2``.
    """

    def __init__(
        self, width: int = 32, blocks: int = 2, norm: Norm = "batch", groups: int = 8
    ) -> None:
        super().__init__()
        if width < 2 or width % 2 or blocks < 1:
            raise ValueError(f"width {width}, blocks {blocks}; allowed: even, at least 1")
        inner = width * 3 // 2
        self.channels = (width,)
        self.strides = (2,)
        self.stem = nn.Sequential(
            convolution(3, width, 5, norm, stride=2),
            normalisation(norm, width, groups),
            nn.ReLU(inplace=True),
        )
        self.inner = nn.Sequential(
            _Residual(width, inner, 2, norm, groups),
            *(_Residual(inner, inner, 1, norm, groups) for _ in range(blocks)),
            nn.Conv2d(inner, width, 1),
        )
        self.skip = nn.Conv2d(width, width, 1)
        self.output = nn.Sequential(
            normalisation(norm, width, groups),
            nn.ReLU(inplace=True),
            convolution(width, width, 3, norm),
            normalisation(norm, width, groups),
            nn.ReLU(inplace=True),
        )
        initialise(self)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) in [0, 1], H and W multiples of 4, to (B, width, H/2, W/2)."""
        check_size(images, 4)
        fine = self.stem(centred(images))
        coarse = self.inner(fine)
        up = F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        return (self.output(up + self.skip(fine)),)


class _Residual(nn.Module):
    """ReLU(shortcut(x) + f(x)), f being two 3×3 convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm, groups: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            convolution(inputs, outputs, 3, norm, stride=stride),
            normalisation(norm, outputs, groups),
            nn.ReLU(inplace=True),
            convolution(outputs, outputs, 3, norm),
            normalisation(norm, outputs, groups),
        )
        self.shortcut = (
            nn.Identity()
            if inputs == outputs and stride == 1
            else nn.Sequential(
                convolution(inputs, outputs, 1, norm, stride=stride),
                normalisation(norm, outputs, groups),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.shortcut(x) + self.body(x)
        return F.relu(total, inplace=True)
