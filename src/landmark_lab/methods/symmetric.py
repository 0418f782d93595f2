"""Symmetric object frames: dense labelling whose frame has the symmetries of the object.

J. Thewlis, H. Bilen, A. Vedaldi, "Modelling and unsupervised learning of symmetric deformable
object categories", NeurIPS 2018. A network gives pixel u of image x the vector ψ_u(x), and the
object's symmetries are fixed orthogonal matrices on these vectors.

Bilateral (eqs. 3 and 4): with m the mirror image, and the change of sign of the first coordinate on
vectors (eq. 2), m ψ_u(x) = ψ_mu(m x). For images x and x' = m t x, m the identity in half of the
pairs,

    L = Σ_u Σ_v ‖v − mtu‖^γ p(v|u),    p(v|u) ∝ exp⟨m ψ_u(x), ψ_v(x')⟩.

Left and right can be told apart in an image, so this is unambiguous. A rotation of an object that
may stand in any direction is not: then the vectors need only be right up to one member of the group
H for the whole pair (eq. 6),

    L_H = min_{h ∈ H} Σ_u Σ_v ‖v − tu‖^γ p_h(v|u),    p_h(v|u) ∝ exp⟨h ψ_u(x), ψ_v(x')⟩.

Both can be had at once: an object with n rotations and a mirror image has them all.

The pairing ``mirrored`` makes the mirrored pairs of any other pairing; which they are is read off
the warp, which reverses their orientation. The plane of symmetry and the axis of rotation in an
image are where the vectors are fixed by the group (eq. 5): :meth:`Symmetric.symmetry`.

Deviations: equation 4 is printed with the power 2, the paper uses γ = 0.5. x is the image from
which the warp is closed-form, and the mirrored image of a pair may be either (m is its own
inverse). The minimum is found without gradients, and only the best h is learned from, which has the
gradient of the minimum. Training as in ``dense``.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from landmark_lab.data.sampling import LoaderSettings
from landmark_lab.embedding import EmbeddingMethod, size_of
from landmark_lab.errors import ConfigError
from landmark_lab.geometry.symmetry import (
    check_group,
    distance_from_fixed,
    normalises,
    reflection,
    reverses_orientation,
    rotations,
)
from landmark_lab.losses.pair_matching import MatchingLoss, Queries
from landmark_lab.losses.similarity import Similarity
from landmark_lab.plugin import part, settings
from landmark_lab.roles import Backbone, Optimiser, Pair, Pairing, Schedule

Matrices = tuple[tuple[tuple[float, ...], ...], ...]


class Symmetric(EmbeddingMethod, name="symmetric"):
    """Labels every pixel in a frame with the object's symmetries (Thewlis et al., NeurIPS 2018).

    Args:
        dimension: of the vectors.
        mirror: whether the object has a left and a right side that the mirror image exchanges; the
            vectors' first coordinate then changes its sign. Needs the pairing ``mirrored``.
        ambiguous: symmetries that images leave open. A number n: the n turns in the plane of the
            first two coordinates; 1 for none. Or the matrices of any finite group.
        backbone: the paper's are ``simple`` and ``dilations``.
        similarity: of two vectors; the paper's is the inner product.
        loss: its γ and how many pixels it looks for.
        weights: of the one loss term.
        optimiser: as in ``dense``.
        schedule: as in ``dense``.
    """

    cure: ClassVar[str] = (
        "a smaller learning rate, weaker warps, no symmetry that the object does not have"
    )

    def __init__(
        self,
        dimension: int = 3,
        mirror: bool = True,
        ambiguous: int | Matrices = 1,
        backbone: Backbone = part("dilations"),
        similarity: Similarity = Similarity(),  # noqa: B008 - frozen
        loss: MatchingLoss = MatchingLoss(),  # noqa: B008 - frozen
        weights: Mapping[str, float] = settings(matching=1.0),
        optimiser: Optimiser = part("adam", lr=1e-3, amsgrad=True),
        schedule: Schedule = part("constant"),
    ) -> None:
        super().__init__(dimension, backbone, similarity, weights, optimiser, schedule)
        self.loss = loss
        self.mirror = mirror
        if isinstance(ambiguous, int):
            group = rotations(ambiguous, dimension)
        else:
            group = check_group(ambiguous, dimension, where="ambiguous")
        flip = reflection(dimension)
        if mirror and not normalises(flip, group):
            raise ConfigError(
                "the mirror image of the group (m h m for each h) is another group",
                where="ambiguous",
                allowed="groups that the change of sign of the first coordinate maps to themselves",
            )
        # Functions of the settings: not in the checkpoint, which holds the settings.
        self.register_buffer("group", group.float(), persistent=False)
        self.register_buffer("flip", flip.float(), persistent=False)
        self.group: Tensor
        self.flip: Tensor

    def losses(self, batch: Pair) -> dict[str, Tensor]:
        """Equations 4 and 6, in input pixels to the power γ."""
        images = torch.cat([batch.source.image, batch.target.image])
        source, target = self._vectors(images).chunk(2)
        warp = self._warp(batch)
        queries = self.loss.queries(warp, size_of(source), size_of(images))
        queried, keys = (target, source) if queries.in_target else (source, target)
        vectors = queries.vectors(queried)
        if self.mirror:
            mirrored = reverses_orientation(warp)[:, None, None]
            vectors = torch.where(mirrored, self.reflect(vectors), vectors)
        if len(self.group) > 1:
            vectors = vectors @ self._best_member(queries, vectors, keys).mT
        return {"matching": self.loss(queries, vectors, keys).sum()}

    @torch.no_grad()
    def _best_member(self, queries: Queries, vectors: Tensor, keys: Tensor) -> Tensor:
        """The h of each pair that makes its loss smallest, (B, L, L)."""
        group = self.group.to(vectors.dtype)
        losses = [self.loss(queries, vectors @ member.mT, keys) for member in group]
        return group.index_select(0, torch.stack(losses).argmin(0))

    @torch.no_grad()
    def reflect(self, vectors: Tensor) -> Tensor:
        """Vectors (..., L) of points to those of their left-right partners (eq. 2)."""
        return vectors @ self.flip.to(vectors.dtype).mT

    @property
    def turns(self) -> int:
        """The number of symmetries that images leave open; 1 for none."""
        return len(self.group)

    def symmetry(self, images: Tensor) -> Tensor:
        """How far each cell is from the plane of symmetry, or from the axis of the rotations.

        The locus is where this is small, e.g. below 0.1, and the vectors are long (the object).

        Args:
            images: (B, 3, H, W).

        Returns:
            (B, h, w) in [0, 1], the sine of the angle between vector and fixed subspace.

        Raises:
            ValueError: the object has no symmetry.
        """
        if len(self.group) == 1 and not self.mirror:
            raise ValueError("an object without mirror and rotations has no symmetry to show")
        group = self.group
        if len(group) == 1:
            group = torch.stack([group[0], self.flip])
        return distance_from_fixed(self.embedding(images).movedim(1, -1), group)

    def check_pairs(self, pairing: Pairing, loader: LoaderSettings) -> None:
        """Check that left and right can be learned from the pairs.

        Raises:
            ConfigError: a mirror symmetry, and no mirrored pairs.
        """
        if self.mirror and not pairing.mirrors:
            raise ConfigError(
                "the method 'symmetric' learns left and right from mirrored pairs",
                where="pairing",
                got=pairing.plugin_name,
                allowed="mirrored",
                hint="for example 'pairing: {name: mirrored, pairing: {name: synthetic}}', or "
                "'method.mirror: false' for an object without sides",
            )
