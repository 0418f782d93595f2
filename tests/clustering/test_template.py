"""Alignment with a template recovers known transformations, and says what it does not know."""

import math
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from landmark_lab.clustering.template import MISSING, align, align_all, check_template, match
from landmark_lab.errors import DataError, MissingDependencyError
from tests.oracles import correspondence as oracle

# Thirteen points like those of a face: brows, eyes, nose, mouth.
FACE = torch.tensor(
    [
        [-0.50, -0.42], [-0.14, -0.40], [0.14, -0.40], [0.50, -0.42],
        [-0.44, -0.20], [-0.20, -0.18], [0.20, -0.18], [0.44, -0.20],
        [-0.10, 0.14], [0.10, 0.14],
        [-0.26, 0.42], [0.00, 0.38], [0.26, 0.42],
    ]
)  # fmt: skip


def moved(
    points: Tensor,
    degrees: float = 0.0,
    scale: float = 1.0,
    shift: tuple[float, float] = (0.0, 0.0),
    shear: float = 0.0,
) -> Tensor:
    angle = math.radians(degrees)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    linear = scale * turn @ torch.tensor([[1.0, shear], [0.0, 1.0]])
    return points @ linear.T + torch.tensor(shift)


def random(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"shift": (0.3, -0.25)},
        {"scale": 1.4},
        {"scale": 0.6},
        {"degrees": 40.0},
        {"degrees": -25.0, "scale": 1.2, "shift": (0.1, 0.15)},
        {"degrees": 15.0, "scale": 0.8, "shift": (-0.1, 0.1), "shear": 0.25},
    ],
)
def test_a_known_transformation_is_recovered_whatever_the_order(change: dict[str, float]) -> None:
    truth = moved(FACE, **change)  # type: ignore[arg-type]
    order = torch.from_numpy(random(0).permutation(13))
    found = align(truth[order], FACE)
    assert torch.equal(order[found.rows], torch.arange(13))
    assert torch.equal(found.points, truth)
    assert found.matched == 13


def test_missing_points_are_filled_where_the_others_say_they_are() -> None:
    truth = moved(FACE, 12.0, 1.15, (0.12, -0.08), 0.1)
    noisy = truth + torch.from_numpy(random(1).normal(0, 0.004, (13, 2))).float()
    missing = [1, 9]
    kept = torch.tensor([k for k in range(13) if k not in missing])
    found = align(noisy[kept], FACE)
    assert (found.rows == MISSING).nonzero()[:, 0].tolist() == missing
    assert torch.equal(found.points[kept], noisy[kept])
    filled = (found.points - truth)[missing].norm(dim=-1)
    # In its own place the template would be off by far more.
    assert filled.max() < 0.02 < (FACE - truth)[missing].norm(dim=-1).min()


def test_outliers_are_left_out() -> None:
    right, wrong = 0, 0
    for seed in range(20):
        draw = random(seed)
        truth = moved(FACE, draw.uniform(-20, 20), draw.uniform(0.85, 1.2), (0.1, -0.05))
        noisy = truth + torch.from_numpy(draw.normal(0, 0.01, (13, 2))).float()
        outliers = torch.from_numpy(draw.uniform(-1, 1, (6, 2))).float()
        kept = torch.from_numpy(draw.permutation(13)[:11])
        found = align(torch.cat([noisy[kept], outliers]), FACE)
        mine = torch.full((13,), MISSING)
        mine[kept] = torch.arange(11)
        right += int((found.rows == mine)[kept].sum())
        wrong += int(((found.rows != mine) & (found.rows != MISSING)).sum())
    assert right >= 0.94 * 20 * 11
    assert wrong <= 0.05 * 20 * 13


def test_a_transformed_image_has_the_transformed_alignment() -> None:
    # Where both are found, moving the keypoints moves the points and not what they are called.
    keypoints = torch.cat([moved(FACE, 5.0)[:10], torch.tensor([[0.8, 0.7]])])
    one = align(keypoints, FACE)
    other = align(moved(keypoints, 10.0, 0.9, (0.1, 0.0)), FACE)
    assert torch.equal(one.rows, other.rows)
    assert torch.allclose(moved(one.points, 10.0, 0.9, (0.1, 0.0)), other.points, atol=2e-3)


@pytest.mark.parametrize("seed", range(12))
def test_the_matching_is_the_cheapest_of_all(seed: int) -> None:
    draw = random(seed)
    first, second = draw.uniform(-1, 1, (4, 2)), draw.uniform(-1, 1, (int(draw.integers(1, 6)), 2))
    reach = 0.7
    rows, columns = match(first, second, reach)
    distances = np.linalg.norm(first[rows] - second[columns], axis=-1)
    assert len(set(rows)) == len(rows)
    assert len(set(columns)) == len(columns)
    assert (distances <= reach).all()
    cost = distances.sum() + reach * (min(len(first), len(second)) - len(rows))
    assert cost == pytest.approx(oracle.cheapest_matching(first, second, reach))


def test_a_pair_beyond_the_reach_does_not_push_aside_one_within() -> None:
    # By plain distances the cheapest is a-B and b-A, 1.4 in all, of which nothing is near.
    first = np.array([[0.0, 0.0], [0.75, 0.0]])
    second = np.array([[0.02, 0.0], [-0.75, 0.0]])
    rows, columns = match(first, second, 0.1)
    assert (rows.tolist(), columns.tolist()) == ([0], [0])


def test_an_affine_map_follows_what_a_similarity_cannot() -> None:
    truth = moved(FACE, shear=0.35)
    kept = torch.tensor([k for k in range(13) if k != 12])
    filled = [align(truth[kept], FACE, affine=affine).points[12] for affine in (True, False)]
    errors = [float((point - truth[12]).norm()) for point in filled]
    assert errors[0] < 0.01 < 0.05 < errors[1]


@pytest.mark.parametrize(
    "points",
    [
        torch.empty(0, 2),
        FACE[:2],
        torch.zeros(5, 2),
        torch.stack([torch.linspace(-0.9, 0.9, 6), torch.zeros(6)], -1) * 1e-9,
    ],
    ids=["none", "two", "one place", "one place nearly"],
)
def test_too_little_to_align_is_said_and_not_guessed(points: Tensor) -> None:
    found = align(points, FACE)
    assert (found.rows == MISSING).all()
    assert found.matched == 0
    assert found.points.isnan().all()


def test_a_template_is_not_shrunk_onto_a_crowd() -> None:
    crowd = torch.from_numpy(random(3).normal(0, 0.03, (20, 2))).float()
    found = align(crowd, FACE)
    if found.matched:
        spread = found.points.std(0) / FACE.std(0)
        assert spread.min() >= 0.45
    assert found.matched <= 3


def test_all_images_at_once_are_each_by_itself() -> None:
    truths = [moved(FACE, 10.0)[:9], FACE[:0], moved(FACE, shift=(0.2, 0.1))]
    points = torch.cat(truths)
    image = torch.tensor([1] * 9 + [3] * 13)
    found = align_all(points, image, 5, FACE, reach=0.08)
    assert found.points.shape == (5, 13, 2)
    assert found.rows.shape == (5, 13)
    assert found.matched.tolist() == [0, 9, 0, 13, 0]
    assert found.rows[3].tolist() == list(range(9, 22))
    single = align(truths[0], FACE, reach=0.08)
    assert torch.equal(found.points[1], single.points)
    assert torch.equal(found.rows[1], single.rows)
    none = align_all(points[:0], image[:0], 0, FACE)
    assert none.points.shape == (0, 13, 2)
    assert none.rows.shape == (0, 13)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (FACE[:2], "a template of 2 points"),
        (FACE[None], r"shape \(1, 13, 2\)"),
        (FACE * 3, r"point 0 of the template, \[-1.5, .*\], lies outside"),
        (torch.full((4, 2), torch.nan), "outside"),
        (FACE[[0, 1, 2, 1]], "points 1 and 3 of the template are the same"),
    ],
)
def test_an_unusable_template_is_named(template: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=f"method.template: .*{message}"):
        check_template(template, "method.template")


def test_usable_templates_pass() -> None:
    check_template(FACE)
    check_template(torch.tensor([[-1.0, -1.0], [1.0, -1.0], [0.0, 1.0]]))


@pytest.mark.parametrize(
    "settings", [{"reach": 0.0}, {"outliers": 1.0}, {"start": 0.0}, {"stretch": 0.9}]
)
def test_wrong_settings(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        align(FACE, FACE, **settings)  # type: ignore[arg-type]


def test_the_library_is_named_where_it_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycpd", None)
    with pytest.raises(MissingDependencyError, match=r"alignment with a template .* 'pycpd'"):
        align(FACE, FACE)


def test_the_library_is_imported_without_remarks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "pycpd"]:
        monkeypatch.delitem(sys.modules, name)
    # An empty cache folder: the library is compiled, as after an installation.
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path))
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always")
        align(FACE, FACE)
    assert "pycpd" in sys.modules
    assert not remarks
