"""Vectors for the eye: places and colours, images on the label space, one image from another."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from landmark_lab.geometry.points import pixel_grid
from landmark_lab.losses.similarity import Similarity
from landmark_lab.report.frames import Frames, certainty, colours, farthest
from landmark_lab.report.sections.exchange import patched, rebuild
from landmark_lab.report.sections.matches import matched
from landmark_lab.report.sections.symmetry import axis, partners, plane
from landmark_lab.report.sections.unfolded import project

SIDE = 12
SHARP = 36


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def orthogonal(dimension: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(random(dimension, dimension, seed=seed))[0]


def hemisphere(shift: float = 0.0) -> Tensor:
    """Directions (3, h, w) that say where a cell lies: right, up, towards the viewer."""
    x, y = pixel_grid(SIDE, SIDE).T
    return F.normalize(torch.stack([x - shift, -y, torch.ones_like(x)]), dim=0).view(3, SIDE, SIDE)


def frames(vectors: Tensor, **others: object) -> Frames:
    count = len(vectors)
    images = np.random.default_rng(0).integers(0, 256, (count, SHARP, SHARP, 3)).astype(np.uint8)
    made = Frames(
        "test",
        np.arange(count),
        images,
        vectors,
        torch.ones(count, *vectors.shape[-2:]),
        np.empty((count, 0, 2)),
        Similarity(),
        None,
    )
    return replace(made, **others)


@pytest.mark.parametrize("dimension", [1, 2, 3, 8])
def test_a_frame_that_was_turned_looks_the_same(dimension: int) -> None:
    vectors = random(3, dimension, SIDE, SIDE) + 1
    vectors[:, :1] += 2 * pixel_grid(SIDE, SIDE)[:, 0].view(SIDE, SIDE)
    turned = torch.einsum("ij,bjhw->bihw", orthogonal(dimension), vectors)
    places = frames(vectors).places
    torch.testing.assert_close(frames(turned).places, places, atol=1e-3, rtol=0)
    assert places.shape == (3, 3, SIDE, SIDE)
    assert places.norm(dim=1).max() < 1 + 1e-5


def test_places_on_the_right_are_on_the_right_and_upper_ones_above() -> None:
    turned = torch.einsum("ij,jhw->ihw", orthogonal(3, seed=1), hemisphere())
    torch.testing.assert_close(frames(turned[None]).places[0], hemisphere(), atol=1e-4, rtol=0)


def test_the_reflected_axis_stays_the_axis_of_left_and_right() -> None:
    turn = orthogonal(3, seed=2)
    reflection = turn @ torch.diag(torch.tensor([-1.0, 1, 1])) @ turn.T
    vectors = torch.einsum("ij,bjhw->bihw", turn, random(4, 3, SIDE, SIDE))
    shown = frames(vectors, mirrored=reflection)
    mirrored = torch.einsum("ij,bjhw->bihw", reflection, vectors)
    there = F.normalize(torch.cat([vectors, mirrored]), dim=1).movedim(1, -1)
    turned = there @ shown._turn(there.flatten(0, 2)[: 4 * SIDE**2], torch.ones(4 * SIDE**2))
    here, other = turned.chunk(2)
    torch.testing.assert_close(other, here * torch.tensor([-1.0, 1, 1]), atol=1e-4, rtol=0)


def test_colours_tell_sides_apart_and_say_what_is_not_certain() -> None:
    axes = torch.cat([torch.eye(3), -torch.eye(3), torch.zeros(1, 3)])
    right, up, near, left, down, _, middle = colours(axes).astype(int)
    assert np.ptp(middle) <= 1  # grey
    assert right[2] < right[0]  # yellow
    assert left[2] > left[0]  # blue
    assert up.min() > down.max()  # light and dark
    assert near[0] > near[1]  # red
    unsure = colours(axes, torch.zeros(7)).astype(int)
    assert unsure.max() < 40
    every = colours(torch.nn.functional.normalize(random(500, 3), dim=-1)).astype(int)
    assert len(np.unique(every, axis=0)) > 450


def test_length_is_certainty_where_it_counts() -> None:
    vectors = random(2, 4, SIDE, SIDE)
    vectors[0, :, 0, 0] = 0
    sure = certainty(vectors, Similarity(), None)
    length = vectors.norm(dim=1)
    torch.testing.assert_close(sure, (length / length.quantile(0.95)).clamp(max=1))
    assert certainty(vectors, Similarity("cosine", 0.1), None).eq(1).all()
    mask = torch.zeros(2, SIDE, SIDE)
    assert certainty(vectors, Similarity("cosine"), mask).eq(0).all()


def test_points_are_chosen_far_from_each_other() -> None:
    points = np.random.default_rng(0).normal(size=(40, 2))
    chosen = farthest(points, 6).tolist()
    order = [max(range(40), key=lambda i: np.linalg.norm(points[i] - points.mean(0)))]
    while len(order) < 6:
        order.append(
            max(range(40), key=lambda i: min(np.linalg.norm(points[i] - points[order], axis=1)))
        )
    assert chosen == sorted(order)
    assert farthest(points[:3], 6).tolist() == [0, 1, 2]


@pytest.mark.parametrize(("dimension", "width"), [(2, SHARP), (3, 2 * SHARP)])
def test_every_pixel_is_put_on_the_label_space_once(dimension: int, width: int) -> None:
    vectors = F.normalize(random(1, dimension, SIDE, SIDE), dim=1) * 0.9
    sure = torch.rand(1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    shown = frames(vectors, certainty=sure)
    colour, weight = project(shown, 0)
    assert weight.shape == (SHARP, width)
    weights = shown.large(0)[1].square().double() + 1e-6
    assert weight.sum() == pytest.approx(weights.sum().item(), rel=1e-5)
    total = (shown.images[0] * weights[..., None].numpy()).sum((0, 1))
    np.testing.assert_allclose(colour.sum((0, 1)), total, rtol=1e-5)


def test_what_points_to_the_viewer_is_in_the_middle_of_the_sphere() -> None:
    _, weight = project(frames(hemisphere()[None]), 0)
    rows, columns = np.indices(weight.shape) + 0.5
    assert (weight * columns).sum() / weight.sum() == pytest.approx(SHARP, abs=0.3)
    assert (weight * rows).sum() / weight.sum() == pytest.approx(SHARP / 2, abs=0.3)
    assert weight[:, : SHARP // 2].sum() == 0  # nothing points away


def shuffled() -> tuple[Frames, np.ndarray, Tensor]:
    """An image, and another one of the same cells in another order, with unlike vectors."""
    vectors = 40 * F.normalize(random(1, 64, SIDE, SIDE), dim=1)
    shown = frames(vectors)
    order = torch.randperm(SIDE**2, generator=torch.Generator().manual_seed(0))
    other = vectors.flatten(2)[..., order].view_as(vectors)
    cells = F.pixel_unshuffle(torch.from_numpy(shown.images).movedim(-1, 1).float(), 3)
    moved = cells.flatten(2)[..., order].view_as(cells)
    image = F.pixel_shuffle(moved, 3).movedim(1, -1).byte().numpy()
    return shown, image, other


def test_an_image_is_rebuilt_from_the_pixels_of_another() -> None:
    shown, image, vectors = shuffled()
    made = rebuild(shown, 0, image, vectors)
    np.testing.assert_allclose(made[0], shown.images[0], atol=0.1)
    # The image itself: what comes along with a cell is what lies there.
    whole = rebuild(shown, 0, shown.images, shown.vectors, reach=1)
    np.testing.assert_allclose(whole[0], shown.images[0], atol=0.1)


def test_vectors_that_are_all_alike_rebuild_the_mean_colour() -> None:
    shown = frames(torch.ones(2, 4, SIDE, SIDE))
    made = rebuild(shown, 0, shown.images, shown.vectors)
    cells = shown.images.reshape(2, SIDE, 3, SIDE, 3, 3).mean((1, 3))
    np.testing.assert_allclose(made[:, :3, :3], cells, atol=0.01)


def test_patches_come_from_where_the_vectors_fit() -> None:
    vectors = 40 * F.normalize(random(1, 64, SIDE, SIDE), dim=1)
    smooth = np.stack(
        [*np.meshgrid(*([np.linspace(40, 200, SHARP)] * 2)), np.full((SHARP, SHARP), 9.0)], -1
    )
    shown = frames(vectors, images=smooth[None].astype(np.uint8))
    canvas = smooth + np.random.default_rng(0).normal(size=smooth.shape)
    made = patched(shown, 0, canvas, shown.images, vectors, seed=0)
    # A patch of a ramp is the ramp again; a border of half a patch repeats the edge's pixels.
    np.testing.assert_allclose(made[4:28, 4:28], smooth[4:28, 4:28], atol=6)
    unsure = replace(shown, certainty=torch.zeros(1, SIDE, SIDE))
    np.testing.assert_array_equal(
        patched(unsure, 0, canvas, shown.images, vectors, 0)[:32, :32], canvas[:32, :32]
    )


def test_the_plane_of_symmetry_is_where_the_sides_meet() -> None:
    reflection = torch.diag(torch.tensor([-1.0, 1, 1]))
    shown = frames(hemisphere(0.3)[None], mirrored=reflection)
    (line,) = plane(shown, 0)
    x, y = np.array(line.points).T
    np.testing.assert_allclose(x, 0.3, atol=0.02)
    assert y.min() < -0.85
    assert y.max() > 0.85
    noise = frames(0.01 * random(1, 3, SIDE, SIDE) + hemisphere(5)[None], mirrored=reflection)
    assert plane(noise, 0) == []


def test_the_axis_is_where_the_turns_meet_and_only_on_the_object() -> None:
    x, y = pixel_grid(SIDE, SIDE).T
    distance = torch.hypot(x - 0.25, y + 0.25).clamp(max=1).view(SIDE, SIDE)
    sure = torch.ones(SIDE, SIDE)
    found = axis(distance, sure)
    assert found is not None
    assert (found.x, found.y) == pytest.approx((0.25, -0.25), abs=1e-6)
    assert axis(distance, 0 * sure) is None
    assert axis(distance.clamp(min=0.5), sure) is None
    chance = sure.clone()
    chance[0, 0] = 0  # a single cell far from the object's axis
    other = axis(torch.minimum(distance, chance), sure)
    assert other is not None
    assert (other.x, other.y) == (found.x, found.y)


def test_partners_lie_on_the_other_side() -> None:
    shown = frames(200 * hemisphere()[None], mirrored=torch.diag(torch.tensor([-1.0, 1, 1])))
    drawn = partners(shown, 0, first=3)
    lines = [mark for mark in drawn if mark.shape == "line"]
    assert len(lines) == 14
    for line in lines:
        assert line.end == pytest.approx((-line.x, line.y), abs=0.02)
    assert {mark.landmark for mark in drawn} == set(range(3, 17))


def test_matches_join_the_same_annotated_points() -> None:
    points = np.array([[[-0.5, 0.25], [0.5, -0.25]], [[-0.3, 0.25], [np.nan, np.nan]]])
    vectors = 200 * torch.stack([hemisphere(), hemisphere(0.2)])
    drawn = matched(frames(vectors, points=points), 0, 1, first=0)
    ends = [mark.end for mark in drawn if mark.shape == "line"]
    np.testing.assert_allclose(ends, [(0.7, 0.25), (1.7, -0.25)], atol=1 / SIDE)
    rings = [(mark.x, mark.y) for mark in drawn if mark.shape == "ring" and mark.drawable]
    np.testing.assert_allclose(rings, [(0.7, 0.25)])


def test_labels_of_one_dimension_have_a_scale_of_colours() -> None:
    ramp = torch.linspace(-0.9, 0.9, SIDE).expand(2, 1, SIDE, SIDE)
    shown = frames(ramp)
    across = shown.places[0, 0, 0]
    assert (across.diff() > 0).all()  # not only their signs
    assert shown.places[:, 1:].abs().max() == 0
    assert shown.places.norm(dim=1).max() < 1 + 1e-5
    painted = shown.painted(0)
    assert len(np.unique(painted[SHARP // 2], axis=0)) > SIDE // 2
    assert frames(torch.zeros(2, 1, SIDE, SIDE)).places.isfinite().all()
