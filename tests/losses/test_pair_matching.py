"""Queries of a pair: the exact direction, what counts, strides; and the loss of perfect vectors."""

import pytest
import torch

from landmark_lab.geometry import AffineWarp, FlowWarp, IdentityWarp
from landmark_lab.geometry.points import pixel_grid
from landmark_lab.losses.pair_matching import MatchingLoss
from landmark_lab.seeding import BatchDraw
from landmark_lab_plugins.warps.tps_pair import TpsPair

IMAGE, SIZE = (32, 32), (16, 16)


def shift(pixels: float, seen: torch.Tensor | None = None) -> FlowWarp:
    flow = torch.zeros(2, 2, 32, 32)
    flow[:, 0] = pixels * 2 / 32
    return FlowWarp(flow, seen)


def test_the_target_is_looked_for_in_the_source_of_a_spline() -> None:
    warp = TpsPair().draw(BatchDraw.single(0, 2), IMAGE)[1]
    queries = MatchingLoss().queries(warp, SIZE, IMAGE)
    assert queries.in_target
    counted = queries.weight > 0
    expected = warp.to_source(pixel_grid(*SIZE).expand(2, -1, -1))
    torch.testing.assert_close(queries.targets[counted], expected[counted])
    torch.testing.assert_close(counted, warp.valid(SIZE).flatten(1))


def test_the_source_is_looked_for_in_the_target_of_a_flow() -> None:
    seen = torch.ones(2, 32, 32, dtype=torch.bool)
    seen[0, :16] = False
    queries = MatchingLoss().queries(shift(4, seen), SIZE, IMAGE)
    assert not queries.in_target
    cells = (queries.weight > 0).view(2, *SIZE)
    assert not cells[0, :8].any()  # hidden
    assert not cells[:, :, -2:].any()  # gone
    assert cells[0, 8:, :-2].all()
    assert cells[1, :, :-2].all()
    expected = pixel_grid(*SIZE) + torch.tensor([8 / 32, 0])
    torch.testing.assert_close(queries.targets[1][cells[1].flatten()], expected[cells[1].flatten()])


def test_weights_sum_to_one_over_the_batch_or_to_nothing() -> None:
    queries = MatchingLoss().queries(shift(4), SIZE, IMAGE)
    assert queries.weight.sum().item() == pytest.approx(1)
    assert queries.weight.unique().numel() == 2
    away = MatchingLoss().queries(shift(100), SIZE, IMAGE)
    assert away.weight.sum() == 0
    assert away.targets.isfinite().all()


@pytest.mark.parametrize(("stride", "first"), [(1, 0), (2, 0), (3, 1)])
def test_a_stride_takes_the_same_cells_of_vectors_and_targets(stride: int, first: int) -> None:
    queries = MatchingLoss(stride=stride).queries(IdentityWarp(2), SIZE, IMAGE)
    grid = pixel_grid(*SIZE).T.reshape(1, 2, *SIZE).expand(2, -1, -1, -1)
    torch.testing.assert_close(queries.vectors(grid), queries.targets)
    assert queries.targets.shape[1] == len(range(first, 16, stride)) ** 2


@pytest.mark.parametrize("kind", ["distance", "likelihood"])
def test_vectors_that_tell_all_pixels_apart_cost_nothing(kind: str) -> None:
    loss = MatchingLoss(kind)  # type: ignore[arg-type]
    queries = loss.queries(IdentityWarp(2), SIZE, IMAGE)
    apart = 50 * torch.eye(16 * 16).view(1, 16 * 16, *SIZE).expand(2, -1, -1, -1)
    value = loss(queries, queries.vectors(apart), apart)
    assert value.shape == (2,)
    assert value.sum().item() == pytest.approx(0, abs=1e-4)
    same = torch.ones_like(apart)
    assert loss(queries, queries.vectors(same), same).sum() > 1


def test_the_loss_does_not_depend_on_which_image_is_the_source() -> None:
    matrix = torch.tensor([[[0.9, -0.3, 0.1], [0.2, 1.1, -0.2]]]).repeat(2, 1, 1)
    warp, loss = AffineWarp(matrix), MatchingLoss()
    there, back = (loss.queries(w, SIZE, IMAGE) for w in (warp, warp.inverse()))
    assert there.in_target
    assert back.in_target
    cells = pixel_grid(*SIZE)
    torch.testing.assert_close(
        warp.to_target(there.targets)[there.weight > 0],
        cells.expand(2, -1, -1)[there.weight > 0],
    )


@pytest.mark.parametrize("wrong", [{"power": 0.0}, {"power": -1.0}, {"stride": 0}])
def test_bad_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="allowed"):
        MatchingLoss(**wrong)  # type: ignore[arg-type]
