"""Symmetries: the left-right mirror image, and finite groups that act on embedding vectors.

J. Thewlis, H. Bilen, A. Vedaldi, "Modelling and unsupervised learning of symmetric deformable
object categories", NeurIPS 2018: the symmetries of an object are made to act on its embedding as
fixed orthogonal matrices h (z becomes h z). A point on the plane of symmetry, or on the axis of a
rotation, is one whose vector they all leave in place (equation 5).

Convention: points are (x, y) in [-1, 1]; mirroring takes x to −x.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from landmark_lab.errors import ConfigError, DataError
from landmark_lab.geometry.points import pixel_grid
from landmark_lab.geometry.warp import TO_SOURCE, Warp

# How far a group may be from closed and orthogonal: matrices in a file have rounded entries.
_TOLERANCE = 1e-3
# Points a side at which a warp is asked for its orientation, and the step of its derivative.
_SAMPLES, _STEP = 5, 1e-3


def check_flip(permutation: Sequence[int], count: int, where: str | None = None) -> list[int]:
    """A left-right permutation of points, or an error that names what is wrong with it.

    In the mirror image of an object, point i stands where point ``permutation[i]`` stood; mirroring
    twice changes nothing, so the permutation is its own inverse.

    Args:
        permutation: for each point, the point on the other side, or itself.
        count: number of points.
        where: where the permutation comes from, for the message.

    Raises:
        DataError: not ``count`` numbers, not a permutation, or not its own inverse.
    """
    flip = [int(i) for i in permutation]
    if len(flip) != count:
        raise DataError(
            f"the left-right permutation has {len(flip)} entries for {count} points", where=where
        )
    if sorted(flip) != list(range(count)):
        wrong = [i for i in flip if not 0 <= i < count]
        what = (
            f"contains {wrong[0]}, which is no point from 0 to {count - 1}"
            if wrong
            else f"contains {Counter(flip).most_common(1)[0][0]} more than once"
        )
        raise DataError(f"the left-right permutation {what}", where=where)
    for i, j in enumerate(flip):
        if flip[j] != i:
            raise DataError(
                f"the left-right permutation takes point {i} to {j} but point {j} to {flip[j]}",
                where=where,
                allowed="an involution: if left takes to right, right takes to left",
            )
    return flip


def flip_points(points: Tensor, permutation: Sequence[int]) -> Tensor:
    """The points of mirrored images, in their own order: ``(B, P, 2)`` -> ``(B, P, 2)``.

    Args:
        points: points of the images; NaN stays NaN, in the other side's place.
        permutation: as :func:`check_flip` returns it.
    """
    x, y = points.unbind(-1)
    order = torch.tensor(list(permutation)).to(points.device, non_blocking=True)
    return torch.stack([-x, y], -1).index_select(1, order)


def reverses_orientation(warp: Warp) -> Tensor:
    """Which warps of a batch turn left into right, ``(B,)`` boolean.

    The sign of the determinant of the map's Jacobian matrix at most of 5×5 points; for a one-to-one
    map it is the same everywhere.
    """
    grid = pixel_grid(_SAMPLES, _SAMPLES, device=warp.device, dtype=warp.dtype) * 0.8
    steps = torch.tensor([[0.0, 0.0], [_STEP, 0.0], [0.0, _STEP]], dtype=warp.dtype)
    points = grid + steps.to(warp.device, non_blocking=True)[:, None]
    moves = warp.to_source if TO_SOURCE in warp.exact or not warp.exact else warp.to_target
    here, right, below = moves(points.flatten(0, 1).expand(len(warp), -1, -1)).chunk(3, 1)
    (a, c), (b, d) = (right - here).unbind(-1), (below - here).unbind(-1)
    return torch.sign(a * d - b * c).nan_to_num(0.0).sum(-1) < 0


def reflection(dimension: int) -> Tensor:
    """The matrix that changes the sign of the first axis (equation 2), ``(L, L)`` float64."""
    matrix = torch.eye(dimension, dtype=torch.float64)
    matrix[0, 0] = -1
    return matrix


def rotations(count: int, dimension: int) -> Tensor:
    """The turns by 2πk/count in the plane of the first two axes, ``(count, L, L)`` float64.

    In three dimensions the axis of rotation is the third one.

    Raises:
        ConfigError: fewer than one turn, or fewer than two axes to turn.
    """
    if count < 1 or dimension < 2:
        raise ConfigError(
            f"{count} rotations of {dimension}-dimensional vectors",
            allowed="at least 1 rotation, at least 2 dimensions",
        )
    group = torch.eye(dimension, dtype=torch.float64).repeat(count, 1, 1)
    angle = torch.arange(count, dtype=torch.float64) * (2 * math.pi / count)
    group[:, 0, 0] = group[:, 1, 1] = angle.cos()
    group[:, 1, 0], group[:, 0, 1] = angle.sin(), -angle.sin()
    return group


def check_group(
    matrices: Sequence[Sequence[Sequence[float]]], dimension: int, where: str | None = None
) -> Tensor:
    """A finite group of orthogonal matrices, or an error that names what is wrong with it.

    Args:
        matrices: its members, each ``dimension`` rows of as many numbers, rounded to about 1e-4.
        dimension: L, of the vectors that they act on.
        where: where the group comes from, for the message.

    Returns:
        ``(H, L, L)`` float64.

    Raises:
        ConfigError: wrong dimension, not orthogonal, twice the same, no identity, not closed.
    """
    if not matrices:
        raise ConfigError("a group needs at least the identity", where=where)
    for index, matrix in enumerate(matrices):
        if len(matrix) != dimension or any(len(row) != dimension for row in matrix):
            columns = sorted({len(row) for row in matrix})
            raise ConfigError(
                f"matrix {index} of the group has {len(matrix)} rows of "
                f"{' or '.join(map(str, columns)) or 'no'} numbers",
                where=where,
                allowed=f"{dimension}×{dimension}, the dimension of the embedding",
            )
    group = torch.tensor([[list(row) for row in matrix] for matrix in matrices]).double()
    identity = torch.eye(dimension, dtype=torch.float64)
    for index, matrix in enumerate(group):
        if not _same(matrix @ matrix.T, identity):
            raise ConfigError(
                f"matrix {index} of the group is not orthogonal: it changes the length of vectors",
                where=where,
            )
        if any(_same(matrix, earlier) for earlier in group[:index]):
            raise ConfigError(f"matrix {index} is twice in the group", where=where)
    if not any(_same(matrix, identity) for matrix in group):
        raise ConfigError("the group lacks the identity", where=where)
    for i, first in enumerate(group):
        for j, second in enumerate(group):
            if not any(_same(first @ second, matrix) for matrix in group):
                raise ConfigError(
                    f"the group is not closed: matrix {i} times matrix {j} is not in it",
                    where=where,
                )
    return group


def normalises(matrix: Tensor, group: Tensor) -> bool:
    """Whether an orthogonal matrix m ``(L, L)`` maps a group ``(H, L, L)`` to itself, m h mᵀ."""
    conjugated = matrix @ group @ matrix.T
    return all(any(_same(one, member) for member in group) for one in conjugated)


def distance_from_fixed(vectors: Tensor, group: Tensor) -> Tensor:
    """How far vectors are from those that all members of a group leave in place, in [0, 1].

    The sine of the angle between a vector and the fixed subspace: 0 on the plane of a reflection
    or the axis of a rotation, 1 at right angles to it. The projection onto the subspace is the mean
    of the group's members.

    Args:
        vectors: ``(..., L)``. A zero vector is as far as can be.
        group: ``(H, L, L)``.
    """
    vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    projection = group.mean(0).to(vectors)
    # Sums of products: autocast would round a matrix product.
    across = vectors - (vectors[..., None, :] * projection).sum(-1)
    length = torch.linalg.vector_norm(vectors, dim=-1)
    distance = torch.linalg.vector_norm(across, dim=-1) / length.clamp_min(1e-30)
    return torch.where(length > 0, distance, 1).clamp(max=1)


def _same(first: Tensor, second: Tensor) -> bool:
    return bool((first - second).abs().max() < _TOLERANCE)
