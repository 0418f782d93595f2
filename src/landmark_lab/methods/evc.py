"""Embedding volume compression: vectors of many dimensions that all objects of a kind share.

J. Thewlis, S. Albanie, H. Bilen, A. Vedaldi; chapter 7 of J. Thewlis, "Objects from Motion", DPhil
thesis, Oxford 2018 (later known as descriptor vector exchange). Dense labelling generalises over
objects because its labels have few dimensions, and matches imprecisely for the same reason. Here
the dimension is free, and instead a vector must be exchangeable: that of a query pixel u of x is
rebuilt from the vectors of an auxiliary image x_α of another object,

    Φ̂_u(x|x_α) = Σ_v Φ_v(x_α) p(v|u; x, x_α)                                     (eq. 3),

and has to find its counterpart in x' = g x all the same,

    L = Σ_u Σ_v ‖v − gu‖^γ p(v|u),    p(v|u) ∝ exp⟨Φ̂_u(x|x_α), Φ_v(x')⟩            (eqs. 2 and 4).

With several auxiliary images the sum of equation 3 runs over the pixels of all of them (§3.3):
for categories so mixed that a single other image may have no counterpart.

The auxiliary images are those of the next pairs of the batch, warped as they are, so they cost no
further pass through the network. Or the last ``pool`` items of a batch make no pairs and serve as
auxiliary images only (the paper's mixed animals: 16 pairs and a pool of 16, i.e. batches of 32,
and 5 images for each pair). Which images these are is the sampler's draw.
``auxiliary: 0`` switches the exchange off and leaves dense labelling of that dimension. With
warps ``identity`` g is 1, which only the exchange makes a task.

Deviations: x is the image from which the warp is closed-form; pixels whose counterpart lies outside
are left out; both as in ``dense``, with γ = 0.5 as there (this chapter leaves the distance open).
Which 5 of the pool a pair takes is not drawn again: neighbours in the pool, which is drawn itself.

Under DDP the auxiliary images are *local*: those of the same process's share of the batch. A last
validation batch with too few images takes some twice, or goes through the pair's own image.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from landmark_lab.data.sampling import LoaderSettings
from landmark_lab.embedding import EmbeddingMethod, size_of
from landmark_lab.errors import ConfigError
from landmark_lab.losses.exchange import exchange
from landmark_lab.losses.pair_matching import MatchingLoss, queries_in_target
from landmark_lab.losses.similarity import Similarity
from landmark_lab.plugin import part, settings
from landmark_lab.roles import Backbone, Optimiser, Pair, Pairing, Schedule


class Evc(EmbeddingMethod, name="evc"):
    """Gives every pixel a vector that other objects have, too (Thewlis et al., 2018).

    Args:
        dimension: of the vectors (3, 16, 20, 32, 64).
        auxiliary: images that each pair's vectors are exchanged through; 0 for no exchange.
        pool: items at the end of a batch that are auxiliary images only; 0: the pairs serve each
            other.
        backbone: the paper's is ``dilations``.
        similarity: of two vectors; the paper's is the inner product.
        loss: its γ and how many pixels it looks for.
        weights: of the one loss term.
        optimiser: as in ``dense``.
        schedule: as in ``dense``.
    """

    cure: ClassVar[str] = (
        "a smaller learning rate, more auxiliary images, a few epochs with 'auxiliary: 0' first"
    )

    def __init__(
        self,
        dimension: int = 64,
        auxiliary: int = 1,
        pool: int = 0,
        backbone: Backbone = part("dilations"),
        similarity: Similarity = Similarity(),  # noqa: B008 - frozen
        loss: MatchingLoss = MatchingLoss(),  # noqa: B008 - frozen
        weights: Mapping[str, float] = settings(matching=1.0),
        optimiser: Optimiser = part("adam", lr=1e-3, amsgrad=True),
        schedule: Schedule = part("constant"),
    ) -> None:
        super().__init__(dimension, backbone, similarity, weights, optimiser, schedule)
        if auxiliary < 0 or pool < 0:
            raise ValueError(f"auxiliary {auxiliary}, pool {pool}; allowed: 0 or more")
        if pool and not 1 <= auxiliary <= pool:
            raise ValueError(
                f"{auxiliary} auxiliary images from a pool of {pool}; allowed: 1 to the pool's size"
            )
        self.loss = loss
        self.auxiliary = auxiliary
        self.pool = pool

    def losses(self, batch: Pair) -> dict[str, Tensor]:
        """Equation 2 with the exchanged vectors, in input pixels to the power γ."""
        warp = self._warp(batch)
        queried, keys = batch.source.image, batch.target.image
        if queries_in_target(warp):
            queried, keys = keys, queried
        pairs = len(queried) - min(self.pool, len(queried) - 1)
        vectors, key_vectors = self._vectors(torch.cat([queried, keys[:pairs]])).tensor_split(
            [len(queried)]
        )
        queries = self.loss.queries(warp[:pairs], size_of(key_vectors), size_of(keys))
        rebuilt = queries.vectors(vectors[:pairs])
        if self.auxiliary:
            rebuilt = exchange(rebuilt, self._auxiliary(vectors, pairs))
        return {"matching": self.loss(queries, rebuilt, key_vectors).sum()}

    def _auxiliary(self, vectors: Tensor, pairs: int) -> Tensor:
        """The auxiliary maps (pairs, A, C, h, w) of each pair, among all queried maps."""
        first, count = (pairs, len(vectors) - pairs) if pairs < len(vectors) else (0, pairs)
        own = torch.arange(pairs, device=vectors.device)[:, None]
        step = torch.arange(self.auxiliary, device=vectors.device)
        # Without a pool the first step must leave the pair itself.
        return vectors[first + (own + step + (first == 0)) % count]

    def check_pairs(self, pairing: Pairing, loader: LoaderSettings) -> None:
        """Check that the batches hold enough auxiliary images.

        Raises:
            ConfigError: too small batches.
        """
        # All others of the batch, or a pool that leaves at least one pair.
        least = (self.pool or self.auxiliary) + 1
        if self.auxiliary and loader.batch_size < least:
            raise ConfigError(
                f"a batch of {loader.batch_size} has no {self.pool or self.auxiliary} auxiliary "
                "images besides the pair itself",
                where="loader.batch_size",
                allowed=f"{least} or more",
            )
