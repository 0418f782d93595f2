"""The contrastive loss against a double loop; which pairs are drawn; what it does not depend on."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from landmark_lab.losses.contrastive import (
    BACKGROUND,
    Contrastive,
    Described,
    background_points,
)
from tests.oracles import keypoints as oracle

IMAGES, KEYPOINTS, PLACES, DIMENSION = 4, 5, 3, 6
SETTINGS = [
    Contrastive(hinge=hinge, positives=positives, negatives=negatives)  # type: ignore[arg-type]
    for hinge in ("squared", "printed")
    for positives in ("cluster", "keypoint")
    for negatives in ("image", "cluster")
]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Uniform numbers in [0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def unit(*shape: int, seed: int = 0) -> Tensor:
    """Vectors of length about 0.5, so that most pairs are within the margin."""
    return torch.nn.functional.normalize(numbers(*shape, seed=seed) - 0.3, dim=-1) * 0.5


def views(clusters: bool = True) -> Described:
    """Two views of four images: five keypoints, of which some are lost, and three other places."""
    count = (IMAGES, KEYPOINTS)
    labels = (numbers(*count, seed=9) * 4).long() - 1
    if not clusters:
        labels = torch.full_like(labels, -1)
    parts = []
    for view in range(2):
        points = numbers(*count, 2, seed=view) * 2.2 - 1.1
        points[0, view] = torch.nan
        parts.append(Described.keypoints(unit(*count, DIMENSION, seed=10 + view), points, labels))
        places = numbers(IMAGES, PLACES, 2, seed=20 + view) * 2 - 1
        places[1, view] = torch.nan
        vectors = unit(IMAGES, PLACES, DIMENSION, seed=30 + view)
        parts.append(Described.background(vectors, places))
    return Described.joined(parts)


def by_loop(rows: Described, loss: Contrastive) -> float:
    return oracle.contrastive(
        rows.vectors.detach().numpy(),
        rows.image.numpy(),
        rows.keypoint.numpy(),
        rows.label.numpy(),
        rows.found.numpy(),
        loss.margin,
        loss.hinge,
        loss.positives,
        loss.negatives,
    )


@pytest.mark.parametrize("clusters", [True, False])
@pytest.mark.parametrize("loss", SETTINGS)
def test_all_pairs_give_the_double_loop(loss: Contrastive, clusters: bool) -> None:
    rows = views(clusters)
    expected = by_loop(rows, loss)
    assert expected > 0.01
    assert loss(rows, numbers(2, 5000)).item() == pytest.approx(expected)


@pytest.mark.parametrize("loss", SETTINGS)
def test_gradients(loss: Contrastive) -> None:
    rows = views()
    uniform = numbers(2, 2000)
    vectors = rows.vectors.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v: loss(replace(rows, vectors=v), uniform), (vectors,), fast_mode=True
    )


def test_fewer_pairs_are_different_and_their_mean_is_unbiased() -> None:
    rows, loss = views(), Contrastive(negatives="cluster")
    complete = loss(rows, numbers(2, 5000)).item()
    values = []
    for seed in range(200):
        uniform = numbers(2, 25, seed=seed)
        values.append(loss(rows, uniform).item())
        for kind in loss.pairs(rows, uniform):
            pairs = {(int(a), int(b)) for a, b in zip(kind.first, kind.second, strict=True)}
            assert len(pairs) == 25
    spread = torch.tensor(values).std().item()
    assert abs(sum(values) / 200 - complete) < 4 * spread / 200**0.5
    assert spread > 0


def test_every_pair_can_be_drawn() -> None:
    rows, loss = views(), Contrastive()

    def drawn(count: int, seed: int) -> list[set[tuple[int, int]]]:
        return [
            {(int(a), int(b)) for a, b, weight in zip(*pairs, strict=True) if weight > 0}
            for pairs in loss.pairs(rows, numbers(2, count, seed=seed))
        ]

    complete = drawn(5000, 0)
    few = [set.union(*kinds) for kinds in zip(*(drawn(40, s) for s in range(100)), strict=True)]
    assert few == complete


def test_the_draw_is_a_function_of_the_numbers_alone() -> None:
    rows, loss = views(), Contrastive()
    uniform = numbers(2, 12)
    torch.manual_seed(0)
    one = loss(rows, uniform)
    torch.manual_seed(1)
    assert loss(rows, uniform) == one
    assert loss(rows, numbers(2, 12, seed=1)) != one


@pytest.mark.parametrize("loss", SETTINGS)
def test_neither_the_order_of_keypoints_nor_that_of_images_matters(loss: Contrastive) -> None:
    rows = views()
    order = numbers(len(rows.image)).argsort()
    shuffled = Described(*(getattr(rows, name)[order] for name in rows.__dataclass_fields__))
    renamed = torch.tensor([2, 0, 3, 1])
    shuffled = replace(shuffled, image=renamed[shuffled.image])
    uniform = numbers(2, 5000)
    torch.testing.assert_close(loss(shuffled, uniform), loss(rows, uniform))


def test_names_of_clusters_do_not_matter() -> None:
    rows, uniform = views(), numbers(2, 5000)
    names = torch.tensor([7, 0, 42, -1])  # the last one for -1
    for loss in SETTINGS:
        renamed = replace(rows, label=names[rows.label])
        torch.testing.assert_close(loss(renamed, uniform), loss(rows, uniform))


def small(labels: list[list[int]], vectors: list[list[float]] | None = None) -> Described:
    """One view with keypoints all over; by default of equal descriptors."""
    label = torch.tensor(labels)
    given = torch.tensor(vectors) if vectors else torch.zeros(label.numel(), 2)
    return Described.keypoints(given.view(*label.shape, -1), torch.zeros(*label.shape, 2), label)


def test_the_printed_margin_and_the_squared_one() -> None:
    rows = small([[0, 1]], [[0.0, 0.0], [0.3, 0.4]])
    uniform = torch.rand(2, 5)
    assert Contrastive()(rows, uniform).item() == pytest.approx((0.8 - 0.5) ** 2 / 2)
    assert Contrastive(hinge="printed")(rows, uniform).item() == pytest.approx((0.8 - 0.25) / 2)


def test_negatives_of_other_images_only_where_clusters_tell_them_apart() -> None:
    rows = small([[0], [1], [-1]], [[0.0, 0.0], [0.3, 0.4], [0.1, 0.1]])
    uniform = torch.rand(2, 9)
    assert Contrastive()(rows, uniform) == 0
    one = Contrastive(negatives="cluster").pairs(rows, uniform)[1]
    assert one.weight.sum() == 1
    assert {int(one.first[one.weight > 0]), int(one.second[one.weight > 0])} == {0, 1}


def test_background_is_a_negative_of_the_keypoints_of_its_image_alone() -> None:
    keypoints = small([[0, -1], [0, 2]])
    places = Described.background(torch.zeros(2, 3, 2), torch.zeros(2, 3, 2))
    rows = Described.joined([keypoints, places])
    for negatives in ("image", "cluster"):
        loss = Contrastive(negatives=negatives)  # type: ignore[arg-type]
        pairs = loss.pairs(rows, torch.rand(2, 100))[1]
        found = [(int(a), int(b)) for a, b, weight in zip(*pairs, strict=True) if weight > 0]
        backgrounds = [p for p in found if BACKGROUND in rows.keypoint[list(p)]]
        assert len(backgrounds) == 2 * 2 * 3
        assert all(rows.image[a] == rows.image[b] for a, b in backgrounds)
        assert all((rows.keypoint[list(p)] == BACKGROUND).sum() == 1 for p in backgrounds)


def test_a_mirror_image_is_another_image() -> None:
    # Two keypoints, left and right. In the mirror image the left one is a right one.
    points = torch.tensor([[[-0.4, 0.0], [0.4, 0.0]]])
    mirrored, plain = torch.tensor([[2, 3]]), torch.tensor([[0, 1]])

    def negatives(image: int) -> set[tuple[int, ...]]:
        numbers = torch.tensor([image])
        views = [
            Described.keypoints(unit(1, 2, 8), points, mirrored, numbers),
            Described.background(unit(1, 1, 8), torch.zeros(1, 1, 2), numbers),
            Described.keypoints(unit(1, 2, 8), points, plain),
        ]
        _, pairs = Contrastive().pairs(Described.joined(views), torch.rand(2, 50))
        pairs = pairs._replace(weight=pairs.weight > 0)
        return {tuple(sorted((int(a), int(b)))) for a, b, used in zip(*pairs, strict=True) if used}

    assert negatives(1) == {(0, 1), (0, 2), (1, 2), (3, 4)}
    assert negatives(0) >= {(0, 4), (1, 3), (2, 3), (2, 4)}


def test_views_of_a_keypoint_with_two_clusters_are_neither_kind() -> None:
    # A mirrored view: the keypoint has its partner's cluster there.
    rows = Described.joined([small([[0]]), small([[1]])])
    for negatives in ("image", "cluster"):
        loss = Contrastive(negatives=negatives)  # type: ignore[arg-type]
        assert all(p.weight.sum() == 0 for p in loss.pairs(rows, torch.rand(2, 9)))


@pytest.mark.parametrize("loss", SETTINGS)
def test_equal_and_zero_descriptors_give_finite_gradients(loss: Contrastive) -> None:
    rows = small([[0, 1, -1], [0, 0, 2]])
    vectors = rows.vectors.requires_grad_()
    value = loss(rows, torch.rand(2, 50))
    value.backward()
    assert value.isfinite()
    assert value > 0
    assert vectors.grad is not None
    assert vectors.grad.isfinite().all()


@pytest.mark.parametrize("rows", [small([[0, 1]]), small([[0], [0]]), small([[0]])])
def test_what_has_no_pair_contributes_nothing(rows: Described) -> None:
    for loss in SETTINGS:
        vectors = rows.vectors.clone().requires_grad_()
        value = loss(replace(rows, vectors=vectors), torch.rand(2, 50))
        value.backward()
        assert value.isfinite()
        assert vectors.grad is not None
        assert vectors.grad.isfinite().all()


def test_without_keypoints_the_loss_is_zero() -> None:
    none = torch.zeros(2, 0).long()
    nothing = Described.keypoints(torch.zeros(2, 0, 4), torch.zeros(2, 0, 2), none)
    lost = Described.keypoints(
        torch.zeros(2, 3, 4), torch.full((2, 3, 2), torch.nan), torch.zeros(2, 3).long()
    )
    for rows in (nothing, lost):
        for loss in SETTINGS:
            assert loss(rows, torch.rand(2, 50)) == 0
            assert loss(rows, torch.rand(2, 0)) == 0


def test_many_descriptors_need_no_matrix_of_their_pairs() -> None:
    count = 20_000  # all pairs: 1.6 GB a matrix
    labels = torch.arange(count).view(20, -1) % 100
    vectors = numbers(20, count // 20, 16).float().requires_grad_()
    rows = Described.keypoints(vectors, torch.zeros(20, count // 20, 2), labels)
    for loss in (Contrastive(), Contrastive(negatives="cluster")):
        positive, negative = loss.pairs(rows, numbers(2, 5000).float())
        assert len(set(zip(negative.first.tolist(), negative.second.tolist(), strict=True))) == 5000
        assert (rows.label[positive.first] == rows.label[positive.second]).all()
        assert (rows.keypoint[positive.first] != rows.keypoint[positive.second]).all()
        assert loss(rows, numbers(2, 5000).float()).isfinite()


def test_background_keeps_its_distance() -> None:
    points = numbers(3, 6, 2).float() * 2 - 1
    points[0] = torch.nan
    points[1, 2:] = torch.nan
    places = background_points(points, numbers(3, 40, 2, seed=1).float(), 0.4)
    kept = ~places.isnan().any(-1)
    assert kept[0].all()
    assert 0 < kept[2].sum() < 40
    for b, r in itertools.product(range(3), range(40)):
        place = numbers(3, 40, 2, seed=1).float()[b, r] * 2 - 1
        close = any((place - p).norm() < 0.4 for p in points[b] if not p.isnan().any())
        assert close != bool(kept[b, r])
        if kept[b, r]:
            torch.testing.assert_close(places[b, r], place)


def test_bfloat16_descriptors_are_compared_in_float32() -> None:
    rows = views()
    half = replace(rows, vectors=rows.vectors.bfloat16())
    assert Contrastive()(half, torch.rand(2, 50)).dtype == torch.float32


@pytest.mark.parametrize("margin", [0.0, -1.0, float("inf")])
def test_bad_margins_are_refused(margin: float) -> None:
    with pytest.raises(ValueError, match="allowed"):
        Contrastive(margin)
