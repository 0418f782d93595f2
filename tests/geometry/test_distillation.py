"""Averages over views: of networks that move with the image they change nothing."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from landmark_lab.geometry import AffineWarp, IdentityWarp, Warp
from landmark_lab.geometry.distillation import distil, distillation_warps, flip_average
from landmark_lab.geometry.peaks import channel_peaks
from landmark_lab.seeding import BatchDraw
from landmark_lab_plugins.warps.tps_pair import TpsPair

SIZE = (32, 32)


def pictures(count: int = 2) -> Tensor:
    """Smooth pictures, so that resampling loses little."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    return F.interpolate(coarse, SIZE, mode="bicubic", align_corners=False).clamp(0, 1)


def pooled(images: Tensor) -> Tensor:
    """A network that moves with its image: red and the sum of the others, at half the size."""
    small = F.avg_pool2d(images, 2)
    return torch.cat([small[:, :1], small[:, 1:].sum(1, keepdim=True)], 1)


def turned(degrees: float, count: int = 2) -> Warp:
    return distillation_warps(count, SIZE, [degrees], [1.0], mirror=False)[0]


def test_the_identity_alone_is_the_network() -> None:
    torch.testing.assert_close(distil(pooled, pictures(), [IdentityWarp(2)]), pooled(pictures()))


def test_views_of_a_network_that_moves_with_the_image_agree() -> None:
    images = pictures()
    spline = TpsPair().draw(BatchDraw.single(3, 2), SIZE)[1]
    warps = [*distillation_warps(2, SIZE), spline]
    assert len(warps) == 13
    found, expected = distil(pooled, images, warps), pooled(images)
    assert (found - expected).abs().max() < 0.1
    assert (found - expected).abs().mean() < 0.01
    assert expected.std() > 0.1


def test_what_is_found_in_one_view_alone_is_divided_by_their_number() -> None:
    images = pictures()
    seen = []

    def once(views: Tensor) -> Tensor:
        seen.append(len(views))
        return torch.full((len(views), 1, 16, 16), float(len(seen) == 1))

    found = distil(once, images, [IdentityWarp(2)] * 4)
    assert seen == [2] * 4
    torch.testing.assert_close(found, torch.full_like(found, 0.25))


def test_cells_that_a_view_does_not_show_are_averaged_over_the_others() -> None:
    zoom = distillation_warps(1, SIZE, [0], [2.0], mirror=False)  # shows the middle half
    calls = iter([torch.ones(1, 1, 16, 16), torch.full((1, 1, 16, 16), 3.0)])
    found = distil(lambda views: next(calls), pictures(1), [IdentityWarp(1), *zoom])[0, 0]
    torch.testing.assert_close(found[4:12, 4:12], torch.full((8, 8), 2.0))
    found[4:12, 4:12] = 1
    torch.testing.assert_close(found, torch.ones(16, 16))
    nothing = distil(lambda views: torch.ones(1, 1, 16, 16), pictures(1), zoom)[0, 0]
    assert nothing.sum() == 8 * 8


def test_a_peak_comes_back_to_its_place() -> None:
    images = torch.zeros(1, 3, *SIZE)
    images[0, :, 9:11, 21:23] = 1
    place = channel_peaks(pooled(images)[:, :1])[0]
    for warp in distillation_warps(1, SIZE):
        back = channel_peaks(distil(pooled, images, [warp])[:, :1])[0]
        assert (back - place).abs().max() < 1.1 * 2 / 16


def test_warps_are_rotations_crops_and_mirrors() -> None:
    corner = torch.tensor([[[0.5, 0.25]]])
    mirrored = distillation_warps(1, SIZE, [90], [2.0])
    assert len(mirrored) == 2
    torch.testing.assert_close(mirrored[0].to_target(corner), torch.tensor([[[-0.5, 1.0]]]))
    torch.testing.assert_close(mirrored[1].to_target(corner), torch.tensor([[[0.5, 1.0]]]))
    wide = distillation_warps(1, (16, 32), [90], [1.0], mirror=False)[0]
    # Isotropic: half the height is a quarter of the width.
    torch.testing.assert_close(
        wide.to_target(torch.tensor([[[0.0, 1.0]]])), torch.tensor([[[-0.5, 0.0]]])
    )


def test_flip_averaging_exchanges_partners() -> None:
    images = pictures()
    partners = torch.tensor([0, 2, 1])

    def network(views: Tensor) -> Tensor:
        # Landmark 1 lies left and 2 right of the middle, whatever the picture.
        sides = torch.stack([torch.zeros(16), torch.zeros(16), torch.zeros(16)])
        sides[1, 3], sides[2, 12], sides[0, 5] = 0.5, 0.5, 1
        return sides[None, :, None].expand(len(views), 3, 16, 16) * F.avg_pool2d(views, 2)[:, :1]

    found = flip_average(network, images, partners)
    direct, mirror = network(images), network(images.flip(-1))
    for k, partner in enumerate(partners.tolist()):
        for x in range(16):
            expected = (direct[:, k, :, x] + mirror[:, partner, :, 15 - x]) / 2
            torch.testing.assert_close(found[:, k, :, x], expected)
    # Of a mirrored picture it says the mirrored, renamed maps.
    again = flip_average(network, images.flip(-1), partners)
    torch.testing.assert_close(again.flip(-1)[:, partners], found)


def test_nothing_is_learned_through_it() -> None:
    images = pictures().requires_grad_()
    assert not distil(pooled, images, [turned(10)]).requires_grad
    assert not flip_average(pooled, images, torch.arange(2)).requires_grad


def test_half_precision_maps_are_averaged_in_float32() -> None:
    found = distil(lambda views: pooled(views).bfloat16(), pictures(), [turned(10), turned(-10)])
    assert found.dtype == torch.float32


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        distil(pooled, pictures(), [])
    with pytest.raises(ValueError, match="above 0"):
        distillation_warps(1, SIZE, scales=[0.0])


def test_other_warps_serve_as_well() -> None:
    shift = AffineWarp(torch.tensor([[[1.0, 0, 0.25], [0, 1, 0]]]).repeat(2, 1, 1))
    images = pictures()
    found, expected = distil(pooled, images, [shift]), pooled(images)
    # Two cells left the view at the right; the view's maps shift by whole cells.
    torch.testing.assert_close(found[..., :14], expected[..., :14], atol=1e-5, rtol=0)
    assert (found[..., 14:] == 0).all()
