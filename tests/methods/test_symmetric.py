"""Symmetric frames: reflections, the minimum over a group, where the symmetry lies, a training."""

from typing import Any

import pytest
import torch
from torch import Tensor

from landmark_lab.data.batch import Pair
from landmark_lab.data.sampling import LoaderSettings
from landmark_lab.errors import ConfigError
from landmark_lab.geometry import AffineWarp, IdentityWarp
from landmark_lab.geometry.heatmap import gaussian
from landmark_lab.geometry.points import pixel_grid
from landmark_lab.geometry.symmetry import rotations
from landmark_lab.methods.symmetric import Symmetric
from landmark_lab.plugin import build
from landmark_lab.roles import Pairing, Reflection
from tests.methods.embeddings import WARPS, method, pairs, random_pair, sample, train


def symmetric(**settings: Any) -> Symmetric:
    built = method("symmetric", **settings)
    assert isinstance(built, Symmetric)
    return built


def fixed(model: Symmetric, source: Tensor, target: Tensor) -> Symmetric:
    """The model with these vectors in place of its network."""
    both = torch.cat([source, target])
    model.embedding = lambda images, layer=None: both  # type: ignore[method-assign]
    return model


def sphere(count: int, scale: float = 30.0) -> Tensor:
    """Long vectors on a half sphere, one for each cell, the same for each image: (B, 3, 8, 8)."""
    grid = 0.9 * pixel_grid(8, 8)
    height = (2 - grid.square().sum(-1, keepdim=True)).sqrt()
    vectors = scale * torch.nn.functional.normalize(torch.cat([grid, height], -1), dim=-1)
    return vectors.T.reshape(1, 3, 8, 8).expand(count, -1, -1, -1)


def test_a_mirrored_image_has_reflected_vectors() -> None:
    images = sample(torch.rand(2, 3, 16, 16))
    mirror = AffineWarp(torch.tensor([[[-1.0, 0, 0], [0, 1, 0]], [[1.0, 0, 0], [0, 1, 0]]]))
    batch = Pair(images, images, mirror)
    target = sphere(2)
    flip = torch.tensor([-1.0, 1, 1]).view(3, 1, 1)
    # What the first image shows at (x, y), its mirror image shows at (-x, y).
    source = torch.stack([flip * target[0].flip(-1), target[1]])
    right = fixed(symmetric(), source, target).losses(batch)["matching"]
    wrong = fixed(symmetric(mirror=False), source, target).losses(batch)["matching"]
    assert right < 0.5
    assert wrong > right + 0.5


def test_the_minimum_over_the_group_is_taken_for_each_pair() -> None:
    batch = Pair(
        sample(torch.rand(3, 3, 16, 16)), sample(torch.rand(3, 3, 16, 16)), IdentityWarp(3)
    )
    group = rotations(3, 3).float()
    source = sphere(3, 3.0)
    # Each target's frame is turned by another member.
    target = torch.einsum("bij,bjhw->bihw", group, source)
    relaxed = fixed(symmetric(mirror=False, ambiguous=3), source, target)
    strict = fixed(symmetric(mirror=False), source, target)
    aligned = fixed(symmetric(mirror=False), source, source)
    best = aligned.losses(batch)["matching"]
    torch.testing.assert_close(relaxed.losses(batch)["matching"], best)
    assert strict.losses(batch)["matching"] > best + 0.1


def test_the_relaxed_loss_is_never_above_the_strict_one_and_has_its_gradient() -> None:
    batch = random_pair()
    losses, gradients = [], []
    for ambiguous in (1, 5):
        model = symmetric(mirror=False, ambiguous=ambiguous).double()
        loss = model.losses(batch)["matching"]
        loss.backward()
        losses.append(loss.item())
        gradients.append(model.head.weight.grad)
    assert losses[1] <= losses[0]
    model = symmetric(mirror=False, ambiguous=5).double()
    step = 1e-6 * gradients[1]
    with torch.no_grad():
        model.head.weight += step
    moved = model.losses(batch)["matching"].item() - losses[1]
    assert moved == pytest.approx((gradients[1] * step).sum().item(), rel=1e-3)


def test_any_group_of_matrices_does_what_the_built_in_one_does() -> None:
    batch = random_pair(mirrored=True)
    matrices = rotations(4, 3).round(decimals=5).tolist()
    torch.testing.assert_close(
        symmetric(ambiguous=matrices).double().losses(batch),
        symmetric(ambiguous=4).double().losses(batch),
        rtol=1e-4,
        atol=0,
    )


def test_the_plane_and_the_axis_are_where_vectors_are_fixed() -> None:
    images = torch.rand(1, 3, 16, 16)
    vectors = sphere(1)
    plane = fixed(symmetric(), vectors[:0], vectors).symmetry(images)[0]
    assert plane.shape == (8, 8)
    x = pixel_grid(8, 8)[:, 0].view(8, 8)
    torch.testing.assert_close(plane, 0.9 * x.abs() / 2**0.5)
    axis = fixed(symmetric(ambiguous=3), vectors[:0], vectors).symmetry(images)[0]
    radius = pixel_grid(8, 8).norm(dim=-1).view(8, 8)
    torch.testing.assert_close(axis, 0.9 * radius / 2**0.5, rtol=0, atol=1e-5)


def test_an_asymmetric_object_has_no_locus() -> None:
    with pytest.raises(ValueError, match="no symmetry"):
        symmetric(mirror=False).symmetry(torch.rand(1, 3, 16, 16))


def test_mirrored_pairs_are_asked_for_before_training() -> None:
    loader = LoaderSettings()
    with pytest.raises(ConfigError, match=r"learns left and right .* mirrored"):
        symmetric().check_pairs(build(Pairing, "synthetic"), loader)
    symmetric().check_pairs(build(Pairing, "mirrored"), loader)
    symmetric(mirror=False, ambiguous=3).check_pairs(build(Pairing, "synthetic"), loader)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ambiguous": 0}, "0 rotations"),
        ({"ambiguous": [[[1.0, 0], [0, 1]]]}, "allowed: 3×3"),
        ({"ambiguous": rotations(3, 3)[:2].tolist()}, "not closed"),
        (
            {
                "ambiguous": [
                    [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]],
                    [[0.0, 0, 1], [0, 1, 0], [1, 0, 0]],
                ]
            },
            "is another group",
        ),
        ({"dimension": 1, "ambiguous": 3}, "at least 2 dimensions"),
    ],
)
def test_groups_that_are_none_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        symmetric(**settings)


def test_every_weight_gets_a_gradient_and_the_group_is_not_in_the_checkpoint() -> None:
    model = symmetric(ambiguous=3).double()
    model.losses(random_pair(mirrored=True))["matching"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert not {"group", "flip"} & model.state_dict().keys()


def creatures(count: int, seed: int) -> Tensor:
    """A body, two like eyes at its sides and a tail below, at random places, (B, 3, 32, 32)."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.tensor([[0.0, 0], [-0.35, -0.25], [0.35, -0.25], [0, 0.45]])
    together = 0.12 * torch.randn(count, 1, 2, generator=generator)
    colours = torch.tensor([[0.2, 0.7, 0.2], [0.9, 0.1, 0.1], [0.9, 0.1, 0.1], [0.1, 0.1, 0.9]])
    maps = gaussian(corners + together, (32, 32), 0.16)
    behind = 0.5 + 0.05 * torch.randn(count, 3, 32, 32, generator=generator)
    behind = behind * (1 - maps.sum(1, keepdim=True)).clamp(min=0)
    return (behind + torch.einsum("nkhw,kc->nchw", maps, colours)).clamp(0, 1)


def test_a_reflection_is_offered_and_undoes_itself() -> None:
    model = symmetric(dimension=5)
    assert isinstance(model, Reflection)
    vectors = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(model.reflect(vectors), vectors)
    torch.testing.assert_close(model.reflect(model.reflect(vectors)), vectors)


def test_a_short_training_finds_the_partner_of_an_eye() -> None:
    model = symmetric()
    inner = {"name": "synthetic", "warps": WARPS, "annotation": False, "independent_colours": False}
    pairing = {"name": "mirrored", "pairing": inner}
    images = creatures(96, seed=0)

    @torch.no_grad()
    def transfer() -> float:
        """Mean error in pixels of finding the right eye by the left one's reflected vector."""
        from landmark_lab.losses.correspondence import best_matches, vectors_at

        maps = model.eval().embedding(shown.image)
        left = model.reflect(vectors_at(maps, shown.points[:, :1]))  # type: ignore[index]
        found, _ = best_matches(left, maps, model.similarity)
        return (found - shown.points[:, 1:]).norm(dim=-1).mean().item() * 16  # type: ignore[index]

    # The same draws as in `creatures`: where the eyes are.
    generator = torch.Generator().manual_seed(1)
    together = 0.12 * torch.randn(32, 1, 2, generator=generator)
    shown = sample(creatures(32, seed=1))
    shown.points = torch.tensor([[-0.35, -0.25], [0.35, -0.25]]) + together
    untrained = transfer()
    losses = train(model, images, steps=120, lr=4e-3, pairing=pairing)
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert transfer() < 0.4 * untrained
    assert pairs(images[:2], 0, pairing).warp is not None
