"""The nearest-vector probe: a vector for every annotated point, and the pixel closest to it.

J. Thewlis, "Objects from Motion", DPhil thesis, Oxford 2018, chapter 5, sections 4.1 (the capsule
centres) and 4.3 ("Error Nearest"); published as J. Thewlis, H. Bilen, A. Vedaldi, "Unsupervised
learning of object frames by dense equivariant image labelling", NeurIPS 2017. If a frozen embedding
Φ is a coordinate system of the object, there is a vector z_k of it that stands for each annotated
point. It is learned as the one that makes the annotated pixels u likely (equation 4),

    −log p(u|z_k),    p(u|z_k) = softmax_u ⟨z_k, Φ_u(x)⟩,

and in a new image the point is the centre of the cell whose vector is the most similar one. So it
is never better than the embedding's resolution.

The similarity is that of the method below, which for some is not the inner product. log p is
interpolated between the cells around an annotated point. Learning rate and starting vectors are
ours; the texts do not give them.

Convention: points are (x, y) in [-1, 1], ±1 being the outer edges of the border pixels.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from landmark_lab.geometry.heatmap import peak, spatial_softmax
from landmark_lab.geometry.points import pixel_grid
from landmark_lab.losses.likelihood import point_likelihood
from landmark_lab.plugin import part, settings
from landmark_lab.probe import Counted, Probe
from landmark_lab.roles import Embedding, Method, Optimiser, Pair, Schedule


class Nearest(Probe, name="nearest"):
    """A probe: a vector for every annotated point, found again as the closest pixel.

    Args:
        base: a method that offers an embedding: ``{stage: NAME}`` or ``{checkpoint: PATH}``.
        points: how many annotated points the data has.
        counted: learn from the ``visible`` points, or from all ``annotated`` ones in the image.
        weights: of the loss.
        optimiser: of the vectors.
        schedule: of the learning rate.
    """

    def __init__(
        self,
        base: Method,
        points: int,
        counted: Counted = "visible",
        weights: Mapping[str, float] = settings(likelihood=1.0),
        optimiser: Optimiser = part("adam", lr=1e-2),
        schedule: Schedule = part("constant"),
    ) -> None:
        super().__init__(base, points, counted, weights, optimiser, schedule)
        if not isinstance(base, Embedding):
            raise ValueError(f"the method '{base.plugin_name}' offers no embedding")
        channels = self._embedding_channels()
        self.vectors = nn.Parameter(torch.randn(points, channels) / channels**0.5)

    def scores(self, images: Tensor) -> Tensor:
        """Similarities (B, P, h, w) of the vectors with the cells of images (B, 3, H, W)."""
        assert isinstance(self.base, Embedding)
        cells = self._embedding(images)
        vectors = self.vectors.expand(len(cells), -1, -1)
        with torch.autocast(images.device.type, enabled=False):
            found = self.base.similarity(vectors, cells.flatten(2).mT)
        return found.reshape(*found.shape[:2], *cells.shape[2:])

    def losses(self, batch: Pair) -> dict[str, Tensor]:
        """Negative log-likelihood in nats of the points that count."""
        points, counted = self.annotation(batch)
        return {"likelihood": point_likelihood(self.scores(batch.source.image), points, counted)}

    def landmarks(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The centres of the most similar cells (B, P, 2), and their probabilities (B, P)."""
        scores = self.scores(images)
        height, width = scores.shape[2:]
        grid = pixel_grid(height, width, device=scores.device, dtype=scores.dtype)
        return grid[scores.flatten(2).argmax(-1)], peak(spatial_softmax(scores))
