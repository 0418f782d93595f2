"""Vector exchange: a vector is rebuilt from the vectors of other images before it is matched.

J. Thewlis, S. Albanie, H. Bilen, A. Vedaldi's embedding volume compression, chapter 7 of
J. Thewlis, "Objects from Motion", DPhil thesis, Oxford 2018. Equation 3 replaces the vector of a
query pixel u by the mean of an auxiliary image's vectors,

    Φ̂_u(x|x_α) = Σ_v Φ_v(x_α) p(v|u; x, x_α),

each weighted by how probably it corresponds to u; section 3.3 lets v run over all pixels of a set
of auxiliary images. Matching goes on with Φ̂ (equation 4), which works only if images of different
objects have the same vectors. No correspondence with the auxiliary image is needed.
"""

import torch.nn.functional as F
from torch import Tensor


def exchange(queries: Tensor, auxiliary: Tensor) -> Tensor:
    """Equation 3, by the attention kernel: nothing of size N × A·h·w is kept.

    Args:
        queries: vectors (B, N, C), see ``Similarity.vectors``.
        auxiliary: vectors (B, A, C, h, w) of the A auxiliary images of each image.

    Returns:
        The rebuilt vectors (B, N, C), differentiable by both. They are not normalised again: a
        vector that finds no counterpart comes out short, which says so.
    """
    # One head: (B, 1, N, C) against (B, 1, A·h·w, C). The kernels that keep no N × A·h·w matrix
    # take only vectors that are contiguous; for others torch falls back to one that does, silently.
    values = auxiliary.flatten(3).transpose(2, 3).flatten(1, 2).unsqueeze(1).contiguous()
    wanted = queries.unsqueeze(1).contiguous()
    return F.scaled_dot_product_attention(wanted, values, values, scale=1.0).squeeze(1)
