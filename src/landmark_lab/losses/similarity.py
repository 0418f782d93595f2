"""How alike two embedding vectors are: the one measure that training and evaluation share.

Public code of this family uses either raw inner products (J. Thewlis, H. Bilen, A. Vedaldi,
"Unsupervised learning of object frames by dense equivariant image labelling", 2017, equation 3) or
normalises both vectors and multiplies each by 20. A network trained one way and matched the other
way looks much worse than it is, so the measure is a setting of the method, stands in its
checkpoint, and is asked for by whoever matches.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from landmark_lab.losses.precision import precise, without_autocast


@dataclass(frozen=True)
class Similarity:
    """The similarity of embedding vectors, as the logit of a correspondence.

    Args:
        kind: ``inner``: the inner product, to which the vectors' length counts as certainty;
            ``cosine``: that of the normalised vectors.
        temperature: divides it; above 0. The factor 20 on both normalised vectors is 0.0025.
    """

    kind: Literal["inner", "cosine"] = "inner"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature {self.temperature}; allowed: finite, above 0")

    def vectors(self, embedding: Tensor, dim: int = -1) -> Tensor:
        """The vectors whose plain inner products are the similarities; differentiable.

        Losses take these. An orthogonal map of the embedding and this one can change places.

        Args:
            embedding: any shape, with the vectors along ``dim``. A zero vector stays zero.
            dim: the axis of the vectors.

        Returns:
            The same shape and data type.
        """
        vectors = embedding
        if self.kind == "cosine":
            vectors = F.normalize(precise(embedding), dim=dim)
        if self.temperature != 1:
            vectors = vectors * self.temperature**-0.5
        return vectors.to(embedding.dtype)

    def __call__(self, source: Tensor, target: Tensor) -> Tensor:
        """The similarity (B, N, M) of vectors (B, N, C) and (B, M, C), at least float32."""
        with without_autocast(source):
            return precise(self.vectors(source)) @ precise(self.vectors(target)).mT
