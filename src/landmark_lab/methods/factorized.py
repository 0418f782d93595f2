"""Landmarks by factorized spatial embeddings.

J. Thewlis, H. Bilen, A. Vedaldi, "Unsupervised learning of object landmarks by factorized spatial
embeddings", ICCV 2017. A network gives each of K landmarks a score map Ψ(x)_r, its spatial softmax
p(u|x, r), and the landmark Φ(x)_r = Σ_u u p(u|x, r) (eq. 4). For a source image x and a target
image x' that shows at v what the source shows at g(v), the objective (eq. 9) is

    λ R(Ψ) + alignment + γ (diversity(x) + diversity(x'))

- alignment "probability" (eq. 6): (1/K) Σ_r Σ_uv |u − g(v)|² p(u|x, r) p(v|x', r);
  "coordinates" (eq. 5): (1/K) Σ_r |Φ(x)_r − g(Φ(x')_r)|², the direction of g corrected.
- diversity "max" (eq. 8 and its pooled form): K − Σ_u max_r p(u|r) over blocks of m×m cells;
  "overlap" (eq. 7): (1/K²) Σ_r Σ_{r'≠r} Σ_u p(u|r) p(u|r') over the same blocks.
- R is Adam's weight decay λ; γ is ``weights.diversity``. Distances are in pixels of the source's
  score map, where the paper's γ = 500 has its meaning: for maps W pixels wide an alignment in
  half-widths of the image is (2/W)² times the one here.

Deviations: the last convolution has neither normalisation nor ReLU (as printed every one has; a
ReLU would cap how unlikely a cell can be). The diagonal of eq. 7 is left out
(``losses/diversity.py``). The paper does not give m; the default, 5, is ours. Its "until
convergence, then reduce by one tenth until no further improvement" is a ``plateau`` schedule on
the validation loss; data without a validation split needs another one. Both images of a pair go
through the network as one batch, so batch normalisation sees them together.

Convention: points are (x, y) in [-1, 1], ±1 being the outer edges of the border pixels.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from landmark_lab.errors import ConfigError
from landmark_lab.geometry.heatmap import soft_argmax, spatial_softmax
from landmark_lab.geometry.points import to_pixels
from landmark_lab.losses.alignment import (
    cells_in_one_image,
    map_alignment,
    point_alignment,
    points_in_one_image,
)
from landmark_lab.losses.diversity import max_diversity, overlap_diversity, sum_pool
from landmark_lab.plugin import part, settings
from landmark_lab.roles import Backbone, Method, Optimiser, Pair, Schedule

# The share of the score map that K blocks of m×m cells may take. Of 32×32 cells, 10 blocks of 5×5
# (24 %) and 30 of 2×2 (12 %) train; 30 of 5×5 (73 %) leave the landmarks no room, and they freeze.
_ROOM = 0.5


class Factorized(Method, name="factorized"):
    """Landmarks that follow known warps and keep apart (Thewlis et al., ICCV 2017).

    Args:
        landmarks: how many, the paper's K.
        backbone: its finest map is the one that the score maps are made from.
        alignment: what must follow the warp, the whole probability maps or their mean points.
        diversity: what keeps the landmarks apart.
        pooling: side m of the blocks of score-map cells in which no two landmarks should be.
        temperature: the scores are divided by it before the softmax (the paper: 1). Below 1 the
            maps become sharp sooner, before all landmarks have merged in one place.
        weights: of the two loss terms; ``diversity`` is the paper's γ.
        optimiser: the paper's by default, λ as its weight decay.
        schedule: the paper's by default; it needs a validation split.
    """

    needs_warp: ClassVar[bool] = True
    cure: ClassVar[str] = (
        "stronger warps of both images, a temperature below 1, a backbone that sees less of the "
        "image, a smaller pooling for many landmarks, another balance of the weights"
    )

    def __init__(
        self,
        landmarks: int = 10,
        backbone: Backbone = part("simple"),
        alignment: Literal["probability", "coordinates"] = "probability",
        diversity: Literal["max", "overlap"] = "max",
        pooling: int = 5,
        temperature: float = 1.0,
        weights: Mapping[str, float] = settings(alignment=1.0, diversity=500.0),
        optimiser: Optimiser = part("adam", lr=1e-4, weight_decay=5e-4),
        schedule: Schedule = part("plateau"),
    ) -> None:
        super().__init__(weights, optimiser, schedule)
        if landmarks < 1 or pooling < 1:
            raise ValueError(f"landmarks {landmarks}, pooling {pooling}; allowed: at least 1")
        if temperature <= 0:
            raise ValueError(f"temperature {temperature}; allowed: above 0")
        self.backbone = backbone
        self.head = nn.Conv2d(backbone.channels[0], landmarks, 1)
        self.alignment = alignment
        self.diversity = max_diversity if diversity == "max" else overlap_diversity
        self.pooling = pooling
        self.temperature = temperature

    def probabilities(self, images: Tensor) -> Tensor:
        """Probability maps p(u|x, r) of images (B, 3, H, W), (B, K, h, w), at least float32."""
        scores = self.head(self.backbone(images)[0])
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        return spatial_softmax(scores / self.temperature)

    def losses(self, batch: Pair) -> dict[str, Tensor]:
        """Alignment in squared score-map pixels, and the diversity of both images added up."""
        images = torch.cat([batch.source.image, batch.target.image])
        source, target = self.probabilities(images).chunk(2)
        crowding = [self.diversity(sum_pool(maps, self.pooling)) for maps in (source, target)]
        return {
            "alignment": self._alignment(batch, source, target),
            "diversity": crowding[0] + crowding[1],
        }

    def _alignment(self, batch: Pair, source: Tensor, target: Tensor) -> Tensor:
        if batch.warp is None:
            raise ConfigError("needs pairs with a known warp, e.g. 'synthetic'", where="pairing")
        size = (source.shape[2], source.shape[3])
        if self.alignment == "coordinates":
            points = points_in_one_image(batch.warp, soft_argmax(source), soft_argmax(target))
            return point_alignment(*(to_pixels(p, *size) for p in points))
        cells = cells_in_one_image(batch.warp, size, (target.shape[2], target.shape[3]))
        return map_alignment(source, target, *(to_pixels(c, *size) for c in cells))

    def landmarks(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Landmarks (B, K, 2) and scores (B, K) in [0, 1].

        The score is the probability within (m + 1)/2 cells of the landmark along both axes: near 1
        for a sharp map, near 0 for a flat one, or one with two peaks and the landmark in between.
        All landmarks are found in every image.
        """
        maps = self.probabilities(images)
        points = soft_argmax(maps)
        return points, _mass_near(maps, points, (self.pooling + 1) / 2)

    def check_size(self, size: int) -> None:
        """Check that the landmarks fit on the score maps of images of that size.

        Raises:
            ConfigError: the backbone's stride does not divide the size, or there are more landmarks
                than blocks that they could be alone in.
        """
        stride, count = self.backbone.strides[0], self.head.out_channels
        if size % stride:
            raise ConfigError(
                f"images of {size} pixels do not suit the backbone",
                where="data.size",
                allowed=f"multiples of {stride}",
            )
        side = size // stride
        blocks = -(-side // self.pooling)
        if count > blocks**2:
            raise ConfigError(
                f"{count} landmarks cannot keep apart in the {blocks}×{blocks} blocks of "
                f"{self.pooling}×{self.pooling} cells of a {side}×{side} score map",
                where="method.landmarks",
                allowed=f"at most {blocks**2}",
                hint="or take a smaller method.pooling, or larger images",
            )
        share = count * self.pooling**2 / side**2
        if share > _ROOM:
            rank_zero_warn(
                f"{count} landmarks, each alone in {self.pooling}×{self.pooling} cells, claim "
                f"{share:.0%} of the score map and may freeze; take a smaller method.pooling"
            )


def _mass_near(maps: Tensor, points: Tensor, distance: float) -> Tensor:
    """Probability within a distance in cells of the points along both axes, (B, K)."""
    height, width = maps.shape[-2:]
    x, y = to_pixels(points, height, width).unsqueeze(-1).unbind(-2)
    column, row = (torch.arange(side, device=maps.device) for side in (width, height))
    near_x, near_y = (column - x).abs() <= distance, (row - y).abs() <= distance
    return ((maps * near_x.unsqueeze(-2)).sum(-1) * near_y).sum(-1).clamp(max=1)
