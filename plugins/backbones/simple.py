"""The network of the factorized-landmarks paper."""

from landmark_lab_plugins.backbones.layers import Norm, PlainBackbone


class Simple(PlainBackbone, name="simple"):
    """Five plain convolutions at half the image's size (Thewlis et al. 2017, section 4.1).

    5×5 20, max-pool 2, 5×5 48, 3×3 64, 3×3 80, 3×3 256, each with normalisation and ReLU; the
    paper's sixth, 1×1, is the method's head. Every output sees 26×26 input pixels. Images are
    shifted and scaled inside, (image − 0.5) / 0.25; sides must be even.

    Args:
        norm: after each convolution.
        groups: groups of a group normalisation; must divide 20, 48, 64, 80 and 256.
        leak: slope of the activation below zero (the paper 0; later work 0.2).
        weight_std: standard deviation of the Gaussian that the weights are drawn from; the paper
            names none. None: √(2 / inputs of a unit).
    """

    def __init__(
        self,
        norm: Norm = "batch",
        groups: int = 4,
        leak: float = 0.0,
        weight_std: float | None = None,
    ) -> None:
        super().__init__(3, (1, 1, 1), norm, groups, leak, weight_std)
