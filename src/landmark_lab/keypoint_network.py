"""The networks of self-training on keypoints: heads on a backbone, and starting them afresh.

D. Mallis, PhD thesis, sections 4.3, 5.2.1, 5.3.1 and 6.1.1. Stage
one: a shared backbone, a detector head with one channel for all keypoints of an image, and a head
that gives every cell a descriptor. Stage two: the same backbone, and one channel a landmark or
cluster. All heads are 1×1 convolutions of the backbone's finest map.

Convention: points are (x, y) in [-1, 1], ±1 being the outer edges of the border pixels; the cells
of a map are pixels of a small image.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landmark_lab.geometry.points import inside
from landmark_lab.losses.correspondence import vectors_at
from landmark_lab.plugin import build
from landmark_lab.roles import Backbone

# Standard deviation of the weights of a last layer that starts close to zero.
_QUIET = 1e-3


class KeypointMaps(NamedTuple):
    """What a keypoint network says of B images.

    Attributes:
        score: (B, 1, h, w) in [0, 1], whether there is a keypoint.
        descriptors: (B, D, h, w), not normalised; of a network that was given points (B, M, D), see
            ``KeypointNetwork.sample``.
    """

    score: Tensor
    descriptors: Tensor


class KeypointNetwork(nn.Module):
    """Stage one: where keypoints are, and what they look like.

    Args:
        backbone: its finest map is the resolution: 64×64 cells of images of 256 pixels as
            published.
        dimension: channels D of a descriptor.

    Raises:
        ValueError: a dimension below 1.
    """

    def __init__(self, backbone: Backbone, dimension: int = 256) -> None:
        super().__init__()
        if dimension < 1:
            raise ValueError(f"dimension {dimension}; allowed: at least 1")
        self.backbone = backbone
        self.detector = nn.Conv2d(backbone.channels[0], 1, 1)
        self.descriptor = nn.Conv2d(backbone.channels[0], dimension, 1)

    def forward(self, images: Tensor, points: Tensor | None = None) -> KeypointMaps:
        """Scores, a cell for ``stride`` pixels, and descriptors of each cell or of points.

        Who knows the points beforehand, as training does, should give them: interpolation and a 1×1
        convolution can be exchanged, so that the map of descriptors, the largest of a step, and its
        gradient, which is zero nearly everywhere, need not exist. The result is the same.

        Args:
            images: (B, 3, H, W) in [0, 1].
            points: (B, M, 2), or None for whole maps.
        """
        features = self.backbone(images)[0]
        score = self.detector(features).sigmoid()
        if points is None:
            return KeypointMaps(score, self.descriptor(features))
        return KeypointMaps(score, self.describe(features, points))

    def describe(self, features: Tensor, points: Tensor) -> Tensor:
        """Features (B, C, h, w) of the backbone to descriptors (B, M, D) at points (B, M, 2)."""
        there = vectors_at(features, points, interpolate=True)
        # As a map of M rows and one column.
        return normalised(self.descriptor(there.mT[..., None])[..., 0].mT, points)

    def sample(self, descriptors: Tensor, points: Tensor) -> Tensor:
        """The descriptors at points, between the cells bilinearly, then of length 1.

        Args:
            descriptors: (B, D, h, w), of ``forward``.
            points: (B, M, 2).

        Returns:
            (B, M, D), at least float32; zero vectors for points that are NaN or outside the image.
        """
        return sample_descriptors(descriptors, points)

    def reinitialise(self, seed: int) -> None:
        """Start afresh, in place; see :func:`reinitialise`."""
        dimension = self.descriptor.out_channels
        reinitialise(self, lambda: KeypointNetwork(_another(self.backbone), dimension), seed)


class LandmarkNetwork(nn.Module):
    """Stage two: one map a landmark, linear as in heat-map regression with annotations.

    It starts from the first stage's backbone, ``start_from: {parts: [network.backbone]}``, with a
    last layer of its own. That one starts close to zero, as nearly all of a target is: under maps
    of the usual start, the first steps do nothing but flatten the features that were learned.

    Args:
        backbone: see ``KeypointNetwork``.
        landmarks: K, or M where clusters are merged later.

    Raises:
        ValueError: no landmarks.
    """

    def __init__(self, backbone: Backbone, landmarks: int) -> None:
        super().__init__()
        if landmarks < 1:
            raise ValueError(f"landmarks {landmarks}; allowed: at least 1")
        self.backbone = backbone
        self.head = _quiet(backbone.channels[0], landmarks)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] to maps (B, K, h, w); about 1 at a landmark, else 0."""
        maps: Tensor = self.head(self.backbone(images)[0])
        return maps

    def reinitialise(self, seed: int) -> None:
        """Start afresh, in place; see :func:`reinitialise`."""
        count = self.head.out_channels
        reinitialise(self, lambda: LandmarkNetwork(_another(self.backbone), count), seed)


def sample_descriptors(descriptors: Tensor, points: Tensor) -> Tensor:
    """See ``KeypointNetwork.sample``."""
    return normalised(vectors_at(descriptors, points, interpolate=True), points)


def normalised(vectors: Tensor, points: Tensor) -> Tensor:
    """Vectors (B, M, D) of points (B, M, 2) at length 1, see ``KeypointNetwork.sample``."""
    vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    # Left out before the division, so that no gradient comes from where there is no point.
    seen = torch.where(inside(points)[..., None], vectors, 0)
    return F.normalize(seen, dim=-1, eps=1e-6)


def reinitialise(module: nn.Module, make: Callable[[], nn.Module], seed: int) -> None:
    """Give a module the values that a newly constructed one has, in place.

    Parameters and buffers keep their identity, shape, device and ``requires_grad``, so optimisers
    and DDP need not know. Whatever the constructor does beside torch's own ``reset_parameters`` (a
    Gaussian start, weights that were trained before) happens again. The state of an optimiser is
    the caller's business.

    Args:
        module: what starts afresh.
        make: constructs an equal module; its draws from torch's CPU generator are a function of the
            seed, and the generator is put back.
        seed: see ``seeding.seed_of``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs, too
        fresh = make()
    module.load_state_dict(fresh.state_dict())


def _quiet(inputs: int, outputs: int) -> nn.Conv2d:
    """A last layer whose maps start close to zero; not at zero, so that no two are alike."""
    head = nn.Conv2d(inputs, outputs, 1)
    nn.init.normal_(head.weight, std=_QUIET)
    assert head.bias is not None
    nn.init.zeros_(head.bias)
    return head


def _another(backbone: Backbone) -> Backbone:
    return build(Backbone, backbone.spec)
