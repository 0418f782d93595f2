"""The plane in which embedding vectors are mirrored, estimated from annotated points.

J. Thewlis, H. Bilen, A. Vedaldi, "Modelling and unsupervised learning of symmetric deformable
object categories", NeurIPS 2018, section 6.1, compares a learned symmetry with a plane fitted
afterwards to an embedding that knows of none. The paper lays it through the mean vectors of three
midpoints of the face. Here it is the plane in which the vectors of left points are mirrored to
those of their right partners with the smallest squared error, for any number of points; points on
the plane are their own partners.

The reflection in the plane ⟨n, z⟩ = c with ‖n‖ = 1 is z − 2 (⟨n, z⟩ − c) n, and for a pair (a, b)

    ‖reflection(a) − b‖² = ‖a − b‖² + 4 (⟨n, a⟩ − c)(⟨n, b⟩ − c).

The best c is that of the mean m of all vectors of both sides, and n the eigenvector of the smallest
eigenvalue of Σ (a − m)(b − m)ᵀ + (b − m)(a − m)ᵀ.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class MirrorPlane:
    """The points z with ⟨normal, z⟩ = offset.

    Attributes:
        normal: (C,), of length 1.
        offset: ().
    """

    normal: Tensor
    offset: Tensor

    def reflect(self, vectors: Tensor) -> Tensor:
        """The mirror images of vectors (..., C), in their data type and on their device."""
        normal, offset = self.normal.to(vectors), self.offset.to(vectors)
        # Sums of products: autocast would round a matrix product.
        across = (vectors * normal).sum(-1, keepdim=True) - offset
        return vectors - 2 * across * normal


def fit_mirror_plane(vectors: Tensor, partners: Tensor) -> MirrorPlane:
    """The plane in which vectors are mirrored to their partners with the least squared error.

    Args:
        vectors: (N, C).
        partners: (N, C), of the same points on the other side.

    Returns:
        The plane, in float64.

    Raises:
        ValueError: no pairs, or two shapes.
    """
    if vectors.shape != partners.shape or vectors.ndim != 2 or len(vectors) == 0:
        raise ValueError(
            f"vectors {tuple(vectors.shape)} and partners {tuple(partners.shape)} make no pairs"
        )
    first, second = vectors.double(), partners.double()
    middle = (first.mean(0) + second.mean(0)) / 2
    product = (first - middle).mT @ (second - middle)
    normal = torch.linalg.eigh(product + product.mT).eigenvectors[:, 0]
    return MirrorPlane(normal, normal @ middle)
