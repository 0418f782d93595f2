"""The networks of self-training: shapes, sampling, and starting afresh in place."""

import pytest
import torch
from torch import nn

from landmark_lab.geometry import AffineWarp
from landmark_lab.geometry.affine import similarity
from landmark_lab.geometry.peaks import peaks
from landmark_lab.keypoint_network import (
    KeypointNetwork,
    LandmarkNetwork,
    reinitialise,
    sample_descriptors,
)
from landmark_lab.losses.contrastive import Contrastive, Described
from landmark_lab.losses.heatmap import Gaussian, gaussian_target, heatmap_regression
from landmark_lab.plugin import build
from landmark_lab.roles import Backbone
from landmark_lab_plugins.backbones.hourglass import Hourglass
from landmark_lab_plugins.backbones.simple import Simple
from landmark_lab_plugins.data.toy_faces import ToyFaces

QUICK = {"name": "hourglass", "width": 16, "blocks": 1, "block": "basic", "depth": 2}
GROUPED = {**QUICK, "norm": "group", "groups": 4}


def quick() -> Backbone:
    return build(Backbone, GROUPED)


def size(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_maps_have_the_promised_shapes_and_all_parameters_learn() -> None:
    network = KeypointNetwork(quick(), dimension=8)
    maps = network(torch.rand(2, 3, 32, 48))
    assert maps.score.shape == (2, 1, 16, 24)
    assert maps.descriptors.shape == (2, 8, 16, 24)
    assert ((maps.score > 0) & (maps.score < 1)).all()
    (maps.score.mean() + maps.descriptors.square().mean()).backward()
    assert all(p.grad is not None for p in network.parameters())
    landmarks = LandmarkNetwork(quick(), 5)
    assert landmarks(torch.rand(2, 3, 32, 48)).shape == (2, 5, 16, 24)


def test_size_of_the_published_networks() -> None:
    backbone = Hourglass(norm="group", groups=32, stride=4)
    one, two = KeypointNetwork(backbone, 256), LandmarkNetwork(backbone, 30)
    # A 1×1 convolution of 256 channels has 257 parameters an output.
    assert size(one) == size(backbone) + 257 * (1 + 256)
    assert size(two) == size(backbone) + 257 * 30
    assert 12.5e6 < size(one) < 12.75e6


def test_descriptors_are_sampled_between_the_cells_and_normalised() -> None:
    maps = torch.zeros(1, 2, 4, 4)
    maps[0, 0] = torch.arange(4.0)  # grows to the right by one a cell
    maps[0, 1] = 2.0
    points = torch.tensor([[[0.0, 0.0], [-0.75, 0.3], [0.5, 0.0], [torch.nan, 0.0], [1.2, 0.0]]])
    found = sample_descriptors(maps, points)
    raw = torch.tensor([[1.5, 2.0], [0.0, 2.0], [2.5, 2.0]])
    torch.testing.assert_close(found[0, :3], raw / raw.norm(dim=-1, keepdim=True))
    assert (found[0, 3:] == 0).all()


def test_zero_descriptors_and_missing_points_have_finite_gradients() -> None:
    maps = torch.zeros(1, 3, 4, 4, requires_grad=True)
    points = torch.tensor([[[0.1, 0.2], [torch.nan, torch.nan]]])
    network = KeypointNetwork(quick(), 3)
    network.sample(maps, points).sum().backward()
    assert maps.grad is not None
    assert maps.grad.isfinite().all()
    assert network.sample(maps.bfloat16(), points).dtype == torch.float32


def test_gradients_of_the_sampled_descriptors() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(1, 3, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    points = torch.rand(1, 6, 2, generator=generator, dtype=torch.float64) * 2.2 - 1.1
    assert torch.autograd.gradcheck(lambda m: sample_descriptors(m, points), (maps,))


def test_descriptors_of_given_points_are_those_of_the_map() -> None:
    torch.manual_seed(0)
    network = KeypointNetwork(quick(), dimension=8)
    images, points = torch.rand(2, 3, 32, 48), torch.rand(2, 9, 2) * 2.4 - 1.2
    points[0, 3] = torch.nan
    given = torch.randn(2, 9, 8)
    whole, at = network(images), network(images, points)
    sampled = network.sample(whole.descriptors, points)
    assert torch.equal(whole.score, at.score)
    torch.testing.assert_close(at.descriptors, sampled)
    assert (at.descriptors[0, 3] == 0).all()
    parameters = list(network.parameters())
    found, expected = (
        torch.autograd.grad((vectors * given).sum(), parameters, materialize_grads=True)
        for vectors in (at.descriptors, sampled)
    )
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert network(images, points).descriptors.dtype == torch.float32


def trained(network: nn.Module) -> nn.Module:
    """The network after its values have changed."""
    for value in network.state_dict().values():
        value.copy_(torch.full_like(value, 0.37 if value.is_floating_point() else 5))
    return network


def constructed(seed: int, spec: dict[str, object]) -> KeypointNetwork:
    torch.manual_seed(seed)
    return KeypointNetwork(build(Backbone, spec), 4)


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("spec", [GROUPED, QUICK, {"name": "simple", "weight_std": 0.02}])
def test_starting_afresh_is_constructing_anew_in_place(spec: dict[str, object]) -> None:
    network = constructed(1, spec)
    network.detector.requires_grad_(False)
    before = {name: (id(p), p.data_ptr()) for name, p in network.named_parameters()}
    trained(network)
    network.reinitialise(7)
    assert same(network, constructed(7, spec))  # statistics of batches included
    assert not same(network, constructed(8, spec))
    assert {n: (id(p), p.data_ptr()) for n, p in network.named_parameters()} == before
    assert not network.detector.weight.requires_grad
    assert network.descriptor.weight.requires_grad


def test_starting_afresh_leaves_the_generators_as_they_were() -> None:
    network = KeypointNetwork(quick(), 4)
    torch.manual_seed(3)
    expected = torch.rand(5)
    torch.manual_seed(3)
    network.reinitialise(7)
    assert torch.equal(torch.rand(5), expected)


def test_landmark_networks_start_afresh() -> None:
    network = LandmarkNetwork(quick(), 5)
    trained(network)
    network.reinitialise(3)
    torch.manual_seed(3)
    assert same(network, LandmarkNetwork(quick(), 5))


def test_maps_of_landmarks_start_close_to_zero_and_unlike() -> None:
    maps = LandmarkNetwork(quick(), 5)(torch.rand(2, 3, 32, 32))
    assert maps.abs().max() < 0.05
    assert maps.std((2, 3)).min() > 0
    assert (maps[:, 1:] != maps[:, :-1]).any(3).any(2).all()


def test_an_optimiser_goes_on_with_a_network_that_started_afresh() -> None:
    network = nn.Linear(3, 1)
    optimiser = torch.optim.SGD(network.parameters(), 0.1)
    reinitialise(network, lambda: nn.Linear(3, 1), 5)
    before = network.weight.detach().clone()
    network(torch.ones(2, 3)).sum().backward()
    optimiser.step()
    assert not torch.equal(network.weight, before)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="dimension 0; allowed: at least 1"):
        KeypointNetwork(Simple(), 0)
    with pytest.raises(ValueError, match="landmarks 0; allowed: at least 1"):
        LandmarkNetwork(Simple(), 0)


# Annotated points that are some cells of a 32×32 map apart from one another in every image.
FAR_APART = [0, 1, 3, 8, 13, 15, 17]
HALF, REST = slice(0, 8), slice(8, None)


def test_on_a_few_drawn_faces_keypoints_are_found_and_told_apart() -> None:
    drawn = ToyFaces(size=64, train=8).images("train")
    rows = [drawn[i] for i in range(8)]
    images = torch.stack([torch.as_tensor(row["image"]) for row in rows]).movedim(-1, 1) / 255
    points = torch.stack([torch.as_tensor(row["points"]) for row in rows])[:, FAR_APART]
    labels = torch.arange(len(FAR_APART)).expand(8, -1)
    generator = torch.Generator().manual_seed(1)
    angle, scale = torch.rand(2, 8, generator=generator) * 0.6 - 0.3
    warp = AffineWarp(similarity(angle, 1 + scale / 2, torch.zeros(8, 2), (64, 64)))
    images = torch.cat([images, warp.apply(images, "reflection")])
    both = torch.cat([points, warp.to_target(points)])
    target = gaussian_target(both, (32, 32), Gaussian(0.75, 3))

    torch.manual_seed(0)
    spec = {**QUICK, "width": 32, "stem": 0}
    network = KeypointNetwork(build(Backbone, spec), dimension=16)
    optimiser = torch.optim.Adam(network.parameters(), 5e-3)
    regression = []
    for _ in range(100):
        maps = network(images)
        vectors = network.sample(maps.descriptors, both)
        views = [Described.keypoints(vectors[v], both[v], labels) for v in (HALF, REST)]
        uniform = torch.rand(2, 2000, generator=generator)
        regression.append(heatmap_regression(maps.score, target))
        loss = 100 * regression[-1] + Contrastive()(Described.joined(views), uniform)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert regression[-1] < regression[0] / 20

    with torch.no_grad():
        maps = network(images[HALF])
        vectors = network.sample(maps.descriptors, points).flatten(0, 1)
    found, _ = peaks(maps.score[:, 0], 1, 0.15, most=40)
    cells = (points[:, :, None] - found[:, None]).norm(dim=-1).nan_to_num(torch.inf) * 16
    assert (cells.amin(-1) <= 1).float().mean() > 0.9
    apart = torch.cdist(vectors, vectors)
    same = labels.reshape(-1, 1) == labels.reshape(-1)
    off_diagonal = ~torch.eye(len(apart), dtype=torch.bool)
    assert apart[same & off_diagonal].mean() < 0.4 * apart[~same].mean()
