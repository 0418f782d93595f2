"""Left-right permutations."""

import pytest
import torch

from landmark_lab.errors import DataError
from landmark_lab.geometry.symmetry import check_flip, flip_points


def test_an_involution_is_returned_as_plain_numbers() -> None:
    assert check_flip((1, 0, 2), 3) == [1, 0, 2]
    assert check_flip([], 0) == []


@pytest.mark.parametrize(
    ("permutation", "message"),
    [
        ([1, 0], "2 entries for 3 points"),
        ([1, 0, 3], "contains 3, which is no point from 0 to 2"),
        ([-1, 0, 2], "contains -1"),
        ([1, 1, 2], "contains 1 more than once"),
        ([1, 2, 0], "takes point 0 to 1 but point 1 to 2"),
    ],
)
def test_anything_else_is_an_error_that_says_what_is_wrong(
    permutation: list[int], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        check_flip(permutation, 3, where="faces.json")
    assert "faces.json" in str(caught.value)


def test_mirroring_points_moves_and_renames_them() -> None:
    nan = float("nan")
    points = torch.tensor([[[-0.5, 0.1], [0.4, 0.2], [0.1, 0.9]], [[nan, nan], [0.5, 0], [0, 1]]])
    flipped = flip_points(points, [1, 0, 2])
    torch.testing.assert_close(flipped[0], torch.tensor([[-0.4, 0.2], [0.5, 0.1], [-0.1, 0.9]]))
    assert flipped[1, 1].isnan().all()
    torch.testing.assert_close(flipped[1, 0], torch.tensor([-0.5, 0.0]))
    torch.testing.assert_close(flip_points(flipped, [1, 0, 2]), points, equal_nan=True)
