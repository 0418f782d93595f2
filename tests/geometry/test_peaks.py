"""Peaks of maps against loops over cells; ties, borders, limits, and what greedy NMS keeps more."""

import numpy as np
import pytest
import torch
from torch import Tensor

from landmark_lab.geometry.peaks import channel_peaks, peaks
from landmark_lab.geometry.points import from_pixels, pixel_grid, to_pixels
from tests.oracles import peaks as oracle


def noise(*shape: int, levels: int = 0) -> Tensor:
    """Uniform numbers in [0, 1), rounded to so many levels if there are to be ties."""
    values = torch.rand(shape, generator=torch.Generator().manual_seed(5))
    return (values * levels).floor() / levels if levels else values


def smooth(*shape: int) -> Tensor:
    """Noise after an average over 5×5 cells, in [0, 1]."""
    values = torch.nn.functional.avg_pool2d(noise(*shape[:-2], shape[-2] + 4, shape[-1] + 4), 5, 1)
    return (values - values.amin()) / (values.amax() - values.amin())


def cells(points: Tensor, size: tuple[int, int]) -> list[tuple[int, int]]:
    """The (row, column) of the points that were found."""
    found = to_pixels(points[~points.isnan().any(-1)], *size).round().long()
    return [(int(y), int(x)) for x, y in found]


@pytest.mark.parametrize("radius", [0, 1, 2, 4])
@pytest.mark.parametrize("maps", [noise(2, 2, 9, 13), noise(2, 2, 9, 13, levels=3)])
def test_peaks_are_those_of_a_loop_over_cells(maps: Tensor, radius: int) -> None:
    points, scores = peaks(maps, radius, 0.4, most=200)
    assert points.shape == (2, 2, 200, 2)
    assert scores.shape == (2, 2, 200)
    for b in range(2):
        for k in range(2):
            values = maps[b, k].double().numpy()
            expected = oracle.window_maxima(values, radius, 0.4)
            count = len(expected)
            assert 0 < count < 200
            where = torch.tensor([oracle.refined(values, cell) for cell in expected]).float()
            torch.testing.assert_close(points[b, k, :count], where, atol=1e-6, rtol=0)
            torch.testing.assert_close(
                scores[b, k, :count], torch.tensor([values[c] for c in expected]).float()
            )
            assert points[b, k, count:].isnan().all()
            assert (scores[b, k, count:] == 0).all()


def test_greedy_suppression_keeps_these_peaks_and_slopes_beside_them() -> None:
    more = 0
    for values in smooth(6, 24, 24):
        for radius in (1, 2, 4):
            own = cells(peaks(values, radius, 0.3, most=100)[0], (24, 24))
            greedy = oracle.greedy(values.double().numpy(), radius, 0.3)
            assert set(own) <= set(greedy)
            more += len(greedy) - len(own)
            # What it keeps more is exceeded by a cell of its neighbourhood.
            for y, x in set(greedy) - set(own):
                around = values[max(0, y - radius) :, max(0, x - radius) :]
                around = around[: min(y, radius) + radius + 1, : min(x, radius) + radius + 1]
                assert around.max() > values[y, x]
    assert more > 0


def test_of_peaks_that_stand_apart_greedy_suppression_keeps_the_same() -> None:
    values = torch.zeros(20, 20)
    values[3, 4], values[3, 5], values[2, 4] = 0.9, 0.7, 0.5
    values[3, 12], values[15, 16], values[19, 0] = 0.8, 0.95, 0.3
    own = cells(peaks(values, 2, 0.2, most=9)[0], (20, 20))
    assert own == oracle.greedy(values.double().numpy(), 2, 0.2)
    assert own == [(15, 16), (3, 4), (3, 12), (19, 0)]


@pytest.mark.parametrize("radius", [1, 3])
def test_peaks_are_further_apart_than_the_radius(radius: int) -> None:
    for values in noise(4, 16, 16, levels=4):
        found = np.array(cells(peaks(values, radius, 0, most=256)[0], (16, 16)))
        apart = np.abs(found[:, None] - found).max(-1)
        assert (apart[~np.eye(len(found), dtype=bool)] > radius).all()
        assert values[tuple(found[0])] == values.max()


def test_the_first_cell_of_a_plateau_is_the_peak() -> None:
    values = torch.zeros(8, 8)
    values[2:5, 3:6] = 0.7
    assert cells(peaks(values, 3, 0.1, most=5)[0], (8, 8)) == [(2, 3)]
    assert cells(peaks(torch.full((8, 8), 0.5), 1, 0.1, most=5)[0], (8, 8)) == [(0, 0)]


def test_equal_peaks_come_in_row_major_order_and_the_highest_remain() -> None:
    values = torch.zeros(9, 9)
    for y, x, score in [(1, 7, 0.5), (1, 1, 0.5), (7, 4, 0.5), (4, 4, 0.9), (7, 1, 0.2)]:
        values[y, x] = score
    points, scores = peaks(values, 1, 0, most=3)
    assert cells(points, (9, 9)) == [(4, 4), (1, 1), (1, 7)]
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.5, 0.5]))


def test_a_peak_must_exceed_the_threshold() -> None:
    values = torch.zeros(5, 5)
    values[2, 2] = 0.25
    assert peaks(values, 1, 0.25, most=2)[1].sum() == 0
    assert peaks(values, 1, 0.2, most=2)[1].sum() == 0.25
    assert channel_peaks(values, 0.25)[1] == 0
    assert channel_peaks(values, 0.2)[1] == 0.25


def test_refinement_is_within_a_quarter_of_a_cell_and_leaves_the_border_alone() -> None:
    truth = torch.tensor([[10.4, 5.3], [4.6, 11.7], [8.0, 8.0]])  # x, y in cells
    grid = to_pixels(pixel_grid(16, 16), 16, 16)
    square = (grid - truth[:, None]).square().sum(-1)
    maps = torch.exp(-square / 2).view(3, 16, 16)
    found = to_pixels(channel_peaks(maps)[0], 16, 16)
    torch.testing.assert_close(found[:2], torch.tensor([[10.25, 5.25], [4.75, 11.75]]))
    assert (found[2] - 8).abs().max() <= 0.25
    corner = torch.zeros(4, 4)
    corner[0, 2], corner[0, 3], corner[1, 2] = 0.9, 0.5, 0.5
    # Along y there is one neighbour only, along x the larger one lies to the right.
    torch.testing.assert_close(
        channel_peaks(corner)[0], from_pixels(torch.tensor([2.25, 0.0]), 4, 4)
    )


@pytest.mark.parametrize("shape", [(1, 7), (7, 1), (1, 1)])
def test_maps_of_a_single_row_or_column(shape: tuple[int, int]) -> None:
    values = torch.full(shape, 0.1)
    values[-1, -1] = 0.6
    points, scores = peaks(values, 2, 0.2, most=9)
    assert points.shape == (9, 2)
    assert cells(points, shape) == [(shape[0] - 1, shape[1] - 1)]
    assert scores[0].item() == pytest.approx(0.6)
    torch.testing.assert_close(channel_peaks(values)[0], points[0])


def test_each_channel_has_its_largest_cell() -> None:
    maps = smooth(2, 3, 12, 10)
    points, scores = channel_peaks(maps)
    assert points.shape == (2, 3, 2)
    torch.testing.assert_close(scores, maps.flatten(2).amax(-1))
    best, highest = peaks(maps, 3, 0, most=1)
    torch.testing.assert_close(points, best[..., 0, :])
    torch.testing.assert_close(scores, highest[..., 0])


def test_maps_without_peaks_and_maps_that_are_nan_have_none() -> None:
    maps = torch.stack([torch.zeros(6, 6), torch.full((6, 6), torch.nan), -torch.ones(6, 6)])
    for points, scores in (peaks(maps, 1, 0, most=4), channel_peaks(maps)):
        assert points.isnan().all()
        assert (scores == 0).all()
    maps[1, 0, 0] = torch.inf
    assert peaks(maps, 1, 0, most=4)[1][:2].isfinite().all()


def test_half_precision_maps_have_float32_points() -> None:
    maps = smooth(1, 1, 16, 16)
    points, scores = peaks(maps.bfloat16(), 2, 0.3, most=8)
    assert points.dtype == scores.dtype == torch.float32
    expected = peaks(maps.bfloat16().float(), 2, 0.3, most=8)
    torch.testing.assert_close(points, expected[0], equal_nan=True)


@pytest.mark.parametrize(
    "wrong", [{"radius": -1}, {"most": 0}, {"threshold": -0.1}, {"threshold": float("nan")}]
)
def test_bad_settings_are_refused(wrong: dict[str, float]) -> None:
    given = {"radius": 1, "threshold": 0.1, "most": 4, **wrong}
    with pytest.raises(ValueError, match="allowed"):
        peaks(torch.zeros(1, 1, 4, 4), **given)  # type: ignore[arg-type]


def test_a_negative_threshold_of_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="allowed"):
        channel_peaks(torch.zeros(1, 1, 4, 4), -0.5)
