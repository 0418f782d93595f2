"""Dense equivariant labelling: every pixel of an object gets its place in an object frame.

J. Thewlis, H. Bilen, A. Vedaldi, "Unsupervised learning of object frames by dense equivariant image
labelling", NeurIPS 2017. A network gives pixel u of image x the label vector Φ_u(x) of dimension L.
For images x and x' = g x, and p(v|u) ∝ exp⟨Φ_u(x), Φ_v(x')⟩ (eq. 3), the objective is one of

    L_dist = (1/HW) Σ_u Σ_v ‖v − gu‖^γ p(v|u)    (eq. 5),
    L_log = −(1/HW) Σ_u log p(gu|u)              (eq. 4).

A constant labelling, which would be equivariant, cannot tell the pixels apart and is punished.
With L = 3 the labels are points of a sphere, and their length says how sure the network is: a
short vector makes a flat p(v|u). g is a synthetic warp (pairing ``synthetic``) or the known motion
of a video (``frames``, which can leave out pixels at rest).

Deviations: x is the image from which the warp is closed-form, of two synthetic views the second
one (``losses/pair_matching.py``). Pixels whose counterpart lies outside or is hidden are left out.
gu between cells: ``losses/matching.py``. The paper gives no learning rate: 1e-3 with amsgrad, a
tenth of it after 70 and again after 90 of 100 epochs, is public practice on CelebA (schedule
``steps``); the default is constant, because it suits a training of any length.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from landmark_lab.embedding import EmbeddingMethod, size_of
from landmark_lab.losses.pair_matching import MatchingLoss
from landmark_lab.losses.similarity import Similarity
from landmark_lab.plugin import part, settings
from landmark_lab.roles import Backbone, Optimiser, Pair, Schedule


class Dense(EmbeddingMethod, name="dense"):
    """Labels every pixel with its place on the object (Thewlis et al., NeurIPS 2017).

    Args:
        dimension: of the labels, the paper's L (2, 3, 5, 20).
        backbone: the paper's are ``simple`` and ``dilations``.
        similarity: of two labels; the paper's is the inner product.
        loss: which of the two, its γ (the paper 0.5 and 1), and how many pixels it looks for.
        weights: of the one loss term.
        optimiser: see the module's text.
        schedule: see the module's text.
    """

    cure: ClassVar[str] = (
        "a smaller learning rate, the loss 'distance' instead of 'likelihood', a backbone that "
        "sees more of the image"
    )

    def __init__(
        self,
        dimension: int = 3,
        backbone: Backbone = part("dilations"),
        similarity: Similarity = Similarity(),  # noqa: B008 - frozen
        loss: MatchingLoss = MatchingLoss(),  # noqa: B008 - frozen
        weights: Mapping[str, float] = settings(matching=1.0),
        optimiser: Optimiser = part("adam", lr=1e-3, amsgrad=True),
        schedule: Schedule = part("constant"),
    ) -> None:
        super().__init__(dimension, backbone, similarity, weights, optimiser, schedule)
        self.loss = loss

    def losses(self, batch: Pair) -> dict[str, Tensor]:
        """Equation 5 in input pixels to the power γ, or equation 4."""
        images = torch.cat([batch.source.image, batch.target.image])
        source, target = self._vectors(images).chunk(2)
        queries = self.loss.queries(self._warp(batch), size_of(source), size_of(images))
        queried, keys = (target, source) if queries.in_target else (source, target)
        return {"matching": self.loss(queries, queries.vectors(queried), keys).sum()}
