"""The left-right mirror image, and which points change places in it.

Convention: points are (x, y) in [-1, 1]; mirroring takes x to −x.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from landmark_lab.errors import DataError


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
