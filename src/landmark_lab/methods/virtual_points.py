"""The virtual-points probe: annotated points as a linear function of points of an embedding.

J. Thewlis, "Objects from Motion", DPhil thesis, Oxford 2018: chapter 5 (NeurIPS 2017), section 4.3,
"Error Regress", and chapter 7, section 4.1. A filter w of size 1×1×C makes a score map of a frozen
embedding Φ, whose soft-argmax is a virtual point,

    q_m = Σ_u u softmax_u(s ⟨w_m, Φ_u(x)⟩),

and a linear regressor makes the annotated points from M = 50 of these. Filters and regressor are
trained together with the smooth L1 loss; the sharpness s = 100, the loss and the filters without
bias are what public implementations have and the text leaves out.

- Which points a regressor takes: in chapter 7 it is the same M for all annotated points; public
  implementations have M for each of them, and chapter 5 can be read both ways (``own``).
- Ours: the learning rate, and that the regressor starts at zero, so that a weight about which a few
  images say nothing stays small.
- On a method that offers landmarks and no embedding, its landmarks take the place of the virtual
  points. What is left is the linear regressor of J. Thewlis, H. Bilen, A. Vedaldi, "Unsupervised
  learning of object landmarks by factorized spatial embeddings", ICCV 2017, section 4.1, trained by
  gradient descent on warped images as it is there, but with this loss and, by default, a bias.

Convention: points are (x, y) in [-1, 1], ±1 being the outer edges of the border pixels.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from landmark_lab.geometry.heatmap import soft_argmax, spatial_softmax
from landmark_lab.losses.smooth_l1 import smooth_l1
from landmark_lab.plugin import part, settings
from landmark_lab.probe import Counted, Probe
from landmark_lab.roles import Embedding, Landmarks, Method, Optimiser, Pair, Schedule


class VirtualPoints(Probe, name="virtual_points"):
    """A probe: annotated points, linearly from points of a frozen embedding, or its landmarks.

    Args:
        base: a method that offers an embedding, or landmarks: ``{stage: NAME}`` or
            ``{checkpoint: PATH}``.
        points: how many annotated points the data has.
        virtual: number of virtual points M, on an embedding.
        own: whether every annotated point has M virtual points of its own.
        sharpness: factor of the scores before the softmax, on an embedding.
        bias: whether the regressor has an intercept.
        transition: where the loss turns from squares to distances, in half-widths of the image.
        counted: learn from the ``visible`` points, or from all ``annotated`` ones.
        weights: of the loss.
        optimiser: of the filters and the regressor.
        schedule: of the learning rate.
    """

    def __init__(
        self,
        base: Method,
        points: int,
        virtual: int = 50,
        own: bool = False,
        sharpness: float = 100.0,
        bias: bool = True,
        transition: float = 1.0,
        counted: Counted = "visible",
        weights: Mapping[str, float] = settings(regression=1.0),
        optimiser: Optimiser = part("adam", lr=1e-2, amsgrad=True),
        schedule: Schedule = part("constant"),
    ) -> None:
        super().__init__(base, points, counted, weights, optimiser, schedule)
        if virtual < 1:
            raise ValueError(f"virtual {virtual}; allowed: at least 1")
        if sharpness <= 0 or transition <= 0:
            raise ValueError(f"sharpness {sharpness}, transition {transition}; allowed: above 0")
        self.sharpness, self.transition = sharpness, transition
        self.filters: nn.Conv2d | None = None
        groups = 1
        if isinstance(base, Embedding):
            groups = points if own else 1
            count = groups * virtual
            self.filters = nn.Conv2d(self._embedding_channels(), count, 1, bias=False)
        elif isinstance(base, Landmarks):
            count = self._landmark_count()
        else:
            raise ValueError(
                f"the method '{base.plugin_name}' offers neither an embedding nor landmarks"
            )
        # A linear layer; with groups, one for each annotated point on virtual points of its own.
        self.regressor = nn.Conv1d(2 * count, 2 * points, 1, groups=groups, bias=bias)
        for parameter in self.regressor.parameters():
            nn.init.zeros_(parameter)

    def sources(self, images: Tensor) -> Tensor:
        """What the regressor takes: virtual points, or the landmarks of the method below.

        Args:
            images: (B, 3, H, W).

        Returns:
            (B, M, 2); (B, P · M, 2) if every annotated point has its own.
        """
        if self.filters is None:
            return self._landmarks(images)
        embedding = self._embedding(images)
        # In half precision, scores times 100 would be off by whole units.
        with torch.autocast(images.device.type, enabled=False):
            return soft_argmax(spatial_softmax(self.sharpness * self.filters(embedding)))

    def predict(self, images: Tensor) -> Tensor:
        """The annotated points (B, P, 2) of images (B, 3, H, W)."""
        sources = self.sources(images).flatten(1).unsqueeze(-1)
        with torch.autocast(images.device.type, enabled=False):
            found: Tensor = self.regressor(sources)
        return found.reshape(-1, self.points, 2)

    def losses(self, batch: Pair) -> dict[str, Tensor]:
        """Smooth L1 of the points that count, in half-widths of the image."""
        points, counted = self.annotation(batch)
        predicted = self.predict(batch.source.image)
        return {"regression": smooth_l1(predicted, points, counted, self.transition)}

    def landmarks(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The annotated points (B, P, 2), and scores of 1: a linear layer answers always."""
        points = self.predict(images)
        return points, points.new_ones(points.shape[:2])
