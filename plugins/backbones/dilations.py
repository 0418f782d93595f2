"""The plain network with dilated convolutions that later work of the same authors uses."""

from landmark_lab_plugins.backbones.layers import Norm, PlainBackbone


class Dilations(PlainBackbone, name="dilations"):
    """The plain network with dilated convolutions, so that it sees more of the image.

    5×5 20, max-pool 2, 5×5 48, 5×5 64 dilation 2, 3×3 80 dilation 4, 3×3 256 dilation 2 (Thewlis
    et al., "Unsupervised learning of object frames by dense equivariant image labelling", 2017).
    Every output sees 54×54 input pixels. Images are shifted and scaled inside,
    (image − 0.5) / 0.25; sides must be even.

    Args:
        norm: after each convolution.
        groups: groups of a group normalisation; must divide 20, 48, 64, 80 and 256.
        leak: slope of the activation below zero (later work 0.2).
        weight_std: standard deviation of the Gaussian that the weights are drawn from. None:
            √(2 / inputs of a unit).
    """

    def __init__(
        self,
        norm: Norm = "batch",
        groups: int = 4,
        leak: float = 0.0,
        weight_std: float | None = None,
    ) -> None:
        super().__init__(5, (2, 4, 2), norm, groups, leak, weight_std)
