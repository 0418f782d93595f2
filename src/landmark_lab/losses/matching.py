"""Dense matching: every query pixel must find its counterpart among all pixels of another image.

J. Thewlis, H. Bilen, A. Vedaldi, "Unsupervised learning of object frames by dense equivariant image
labelling", NeurIPS 2017. The similarities of a query u with all cells v of the other image make a
distribution p(v|u) (equation 3); the loss is its expected distance to where u really lies, gu,

    L_dist = Σ_u Σ_v ‖v − gu‖^γ p(v|u)    (equation 5),

or the negative log-likelihood L_log = −Σ_u log p(gu|u) (equation 4). gu lies between cells, so
log p(gu|u) is taken bilinearly from the four around it.

Nothing of size N × M (queries times cells) is kept. The sum is made tile by tile, and each tile's
share of the gradient at once with it: for L_dist and one query

    ∂L/∂s_v = p_v (d_v − Σ_w p_w d_w),    s_v = ⟨query, key_v⟩,  d_v = ‖v − gu‖^γ,

two matrix products away from the gradients of queries and keys. So the backward pass only scales
what the forward pass left, and cannot be differentiated again.

The inner products take the data type of the vectors; softmax, distances and sums are float32 at
least, float64 for float64. Similarities other than the inner product: ``Similarity.vectors``.

Units: pixels of the input images, to the power γ.

Convention: points are (x, y) in [-1, 1], ±1 being the outer edges of the border pixels; the cells
of a map are pixels of a small image.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from landmark_lab.geometry.points import Size, pixel_grid, to_pixels
from landmark_lab.losses.precision import precise, without_autocast

# Entries of a tile: on a CPU 512 queries against 64×64 cells, 8 MiB, stay near the cache; a GPU
# wants larger products.
_TILE = {"cpu": 2**21, "other": 2**24}


def expected_distance(
    queries: Tensor,
    keys: Tensor,
    targets: Tensor,
    weight: Tensor,
    image_size: Size,
    power: float = 1.0,
) -> Tensor:
    """Equation 5, the weighted sum over the queries of each image.

    Args:
        queries: vectors (B, N, C).
        keys: vectors of all cells (B, C, h, w), of the same data type.
        targets: where each query really lies in the keys' image, (B, N, 2), finite; no gradient.
        weight: of each query, (B, N), 0 or more; no gradient.
        image_size: height and width of the input images, whose pixels are the unit of distance.
        power: γ, above 0.

    Returns:
        (B,), at least float32; differentiable once, by queries and keys.

    Raises:
        ValueError: the power is not positive.
    """
    if not power > 0:
        raise ValueError(f"the distance's power is {power}; allowed: above 0")
    pixels = to_pixels(precise(targets), *image_size)
    total: Tensor = _tiled(queries, keys, weight, (pixels, image_size), power)
    return total


def negative_log_likelihood(
    queries: Tensor, keys: Tensor, targets: Tensor, weight: Tensor
) -> Tensor:
    """Equation 4, the weighted sum over the queries of each image.

    The logarithm of p is interpolated between the four cells around the target, which for logits
    ⟨query, key⟩ is the query's product with the interpolated key; beyond the outermost centres the
    border cell counts.

    Args:
        queries: vectors (B, N, C).
        keys: vectors of all cells (B, C, h, w), of the same data type.
        targets: where each query really lies in the keys' image, (B, N, 2), finite; no gradient.
        weight: of each query, (B, N), 0 or more; no gradient.

    Returns:
        (B,), at least float32; differentiable once, by queries and keys.
    """
    total: Tensor = _tiled(queries, keys, weight, None, 0.0)
    with without_autocast(queries):
        grid = targets[:, None].to(precise(keys).dtype)
        aimed = F.grid_sample(precise(keys), grid, padding_mode="border", align_corners=False)
        aimed_at = (precise(queries) * aimed[:, :, 0].mT).sum(-1)
        return total - (aimed_at * weight).sum(-1)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _tiled(
    queries: Tensor,
    keys: Tensor,
    weight: Tensor,
    targets: tuple[Tensor, Size] | None,
    power: float,
) -> Tensor:
    with without_autocast(queries):
        result: Tensor = _Matching.apply(queries, keys, weight, targets, power)
        return result


class _Matching(torch.autograd.Function):
    """Σ_u w_u f(s_u) for each image, f being Σ_v p_v d_v, or log Σ_v exp s_v without targets."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        weight: Tensor,
        targets: tuple[Tensor, Size] | None,
        power: float,
    ) -> Tensor:
        dtype = torch.promote_types(queries.dtype, keys.dtype)
        if queries.device.type == "cpu":  # half precision is slow there, and less precise
            dtype = torch.promote_types(dtype, torch.float32)
        queries, keys = queries.to(dtype), keys.to(dtype)
        images, count = queries.shape[:2]
        flat = keys.flatten(2)
        weight = weight.to(precise(queries).dtype)
        # Weights near one, so that nothing is lost when a half-precision product takes them in.
        largest = weight.amax().clamp_min(torch.finfo(weight.dtype).tiny)
        weight = weight / largest
        total = weight.new_zeros(images)
        by_queries = weight.new_empty(queries.shape) if ctx.needs_input_grad[0] else None
        by_keys = weight.new_zeros(flat.shape) if ctx.needs_input_grad[1] else None
        if targets is not None:
            points, image_size = targets
            across, down = _centres(keys, image_size)
            x, y = (axis.unsqueeze(-1) for axis in points.unbind(-1))
        for some, part in _tiles(images, count, flat.shape[2], queries.device):
            query, key, share = queries[some, part], flat[some], weight[some, part]
            scores = _product(query, key)
            if targets is None:
                value = scores.logsumexp(-1)
                slope = scores.sub_(value.unsqueeze(-1)).exp_()
            else:
                square_x = (x[some, part] - across).square_()
                square_y = (y[some, part] - down).square_()
                square = square_y.unsqueeze(-1) + square_x.unsqueeze(-2)
                value, slope = _expected(scores, _powered(square.flatten(2), power))
            total[some] += (value * share).sum(-1)
            if by_queries is None and by_keys is None:
                continue
            slope = slope.mul_(share.unsqueeze(-1)).to(query.dtype)
            if by_queries is not None:
                by_queries[some, part] = _product(slope, key.mT)
            if by_keys is not None:
                by_keys[some] += _product(query.mT, slope)
        ctx.save_for_backward(largest, by_queries, by_keys)
        ctx.map_shape = keys.shape
        return total * largest

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # The engine casts the gradients to the inputs' data types.
        largest, by_queries, by_keys = ctx.saved_tensors
        scale = (grad * largest)[:, None, None]
        if by_queries is not None:
            by_queries = by_queries * scale
        if by_keys is not None:
            by_keys = (by_keys * scale).view(ctx.map_shape)
        return by_queries, by_keys, None, None, None


def _tiles(
    images: int, queries: int, keys: int, device: torch.device
) -> Iterator[tuple[slice, slice]]:
    """Slices of images and of queries: several whole images, or some queries of one."""
    most = max(1, _TILE.get(device.type, _TILE["other"]) // keys)
    together, rows = max(1, most // queries), min(most, queries)
    for first in range(0, images, together):
        for start in range(0, queries, rows):
            yield slice(first, first + together), slice(start, start + rows)


def _product(first: Tensor, second: Tensor) -> Tensor:
    """A batched matrix product, in float32 at least: of half-precision factors on a GPU, too."""
    if first.dtype in (torch.float16, torch.bfloat16):
        return torch.bmm(first, second, out_dtype=torch.float32)
    return torch.bmm(first, second)


def _centres(keys: Tensor, image_size: Size) -> tuple[Tensor, Tensor]:
    """The x of the columns and the y of the rows of a map, in pixels of the input image."""
    height, width = keys.shape[-2:]
    dtype = precise(keys).dtype
    columns = pixel_grid(1, width, device=keys.device, dtype=dtype)
    rows = pixel_grid(height, 1, device=keys.device, dtype=dtype)
    return to_pixels(columns, *image_size)[:, 0], to_pixels(rows, *image_size)[:, 1]


def _powered(square: Tensor, power: float) -> Tensor:
    """Squared distances to the power γ/2, in place. Roots are several times faster than powers."""
    if power == 2:
        return square
    if power == 1:
        return square.sqrt_()
    return square.sqrt_().sqrt_() if power == 0.5 else square.pow_(power / 2)


def _expected(scores: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_v p_v d_v, and its derivative by the scores in the memory of the distances."""
    probability = scores.softmax(-1)
    weighted = distance.mul_(probability)
    value = weighted.sum(-1)
    return value, weighted.addcmul_(probability, value.unsqueeze(-1), value=-1)
