"""Layers that the built-in backbones share."""

from typing import Literal

import torch
from torch import Tensor, nn

from landmark_lab.roles import Backbone

Norm = Literal["batch", "group", "none"]


def centred(images: Tensor) -> Tensor:
    """Images in [0, 1] with mid-grey at 0 and black and white at ∓2, for any kind of picture.

    In channels-last order, in which convolutions are up to 1.2 times faster; what follows keeps it.
    """
    return ((images - 0.5) / 0.25).contiguous(memory_format=torch.channels_last)


def check_size(images: Tensor, stride: int) -> None:
    """Refuse images that the stride does not divide: their maps would cover only a part of them.

    Raises:
        ValueError: the height or the width is not a multiple of the stride.
    """
    height, width = images.shape[-2:]
    if height % stride or width % stride:
        raise ValueError(
            f"images of {height}x{width} pixels; allowed: multiples of {stride}, the stride"
        )


def normalisation(norm: Norm, channels: int, groups: int) -> nn.Module:
    """Batch normalisation, group normalisation with this many groups, or nothing.

    Raises:
        ValueError: the groups do not divide the channels.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "none":
        return nn.Identity()
    if groups < 1 or channels % groups:
        raise ValueError(f"{groups} groups do not divide a layer's {channels} channels")
    return nn.GroupNorm(groups, channels)


def convolution(
    inputs: int, outputs: int, side: int, norm: Norm, stride: int = 1, dilation: int = 1
) -> nn.Conv2d:
    """A convolution that keeps the size (divided by the stride).

    Its bias is left out where a batch or group normalisation beside it has one.
    """
    padding = dilation * (side // 2)
    return nn.Conv2d(inputs, outputs, side, stride, padding, dilation, bias=norm == "none")


def initialise(network: nn.Module, leak: float = 0.0, std: float | None = None) -> None:
    """Draw all convolution weights from a Gaussian, biases zero.

    Args:
        network: whose convolutions are drawn.
        leak: slope of the activation below zero.
        std: standard deviation; None: that which keeps the activations' scale (He et al. 2015).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            if std is None:
                nn.init.kaiming_normal_(module.weight, a=leak)
            else:
                nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class PlainBackbone(Backbone):
    """Five convolutions, one halving of the size, no skips: ``simple`` and ``dilations``.

    Args:
        third_side: side of the third convolution's kernel.
        dilations: dilation of the last three convolutions.
        norm: see the plugins.
        groups: see the plugins.
        leak: see the plugins.
        weight_std: see the plugins.
    """

    channels = (256,)
    strides = (2,)

    def __init__(
        self,
        third_side: int,
        dilations: tuple[int, int, int],
        norm: Norm,
        groups: int,
        leak: float,
        weight_std: float | None,
    ) -> None:
        super().__init__()

        def layer(inputs: int, outputs: int, side: int, dilation: int = 1) -> nn.Sequential:
            return nn.Sequential(
                convolution(inputs, outputs, side, norm, dilation=dilation),
                normalisation(norm, outputs, groups),
                nn.LeakyReLU(leak, inplace=True) if leak else nn.ReLU(inplace=True),
            )

        self.layers = nn.Sequential(
            layer(3, 20, 5),
            nn.MaxPool2d(2),
            layer(20, 48, 5),
            layer(48, 64, third_side, dilations[0]),
            layer(64, 80, 3, dilations[1]),
            layer(80, 256, 3, dilations[2]),
        )
        initialise(self.layers, leak, weight_std)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) in [0, 1], H and W even, to a map (B, 256, H/2, W/2)."""
        check_size(images, 2)
        return (self.layers(centred(images)),)
