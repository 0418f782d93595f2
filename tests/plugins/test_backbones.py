"""Backbones: shapes, sizes of the papers' networks, normalisations, what they refuse."""

from typing import Any

import pytest
import torch
from torch import nn

from landmark_lab.errors import ConfigError
from landmark_lab.plugin import build
from landmark_lab.roles import Backbone
from landmark_lab_plugins.backbones.dilations import Dilations
from landmark_lab_plugins.backbones.hourglass import Hourglass
from landmark_lab_plugins.backbones.simple import Simple

QUICK: dict[str, Any] = {"name": "hourglass", "width": 16, "blocks": 1, "block": "basic"}
SPECS: list[dict[str, Any]] = [
    {"name": "simple"},
    {"name": "simple", "norm": "none"},
    {"name": "simple", "norm": "group"},
    {"name": "dilations", "leak": 0.2, "weight_std": 0.05},
    QUICK,
    {**QUICK, "norm": "group", "groups": 4},
    {**QUICK, "norm": "none", "depth": 2},
    {**QUICK, "block": "bottleneck", "blocks": 2},
    {**QUICK, "depth": 1, "stem": 0},
    {**QUICK, "block": "parallel", "norm": "group", "groups": 2},
    {**QUICK, "block": "parallel", "stem": 1, "stride": 4},
    {**QUICK, "norm": "none", "stem": 0, "stride": 4},
]
ALONE = [spec for spec in SPECS if spec.get("norm", "batch") != "batch"]


def each(specs: list[dict[str, Any]]) -> pytest.MarkDecorator:
    """One test for every network."""
    return pytest.mark.parametrize("spec", specs, ids=lambda s: "-".join(map(str, s.values())))


EACH = each(SPECS)


def size(network: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in network.parameters())


@EACH
@pytest.mark.parametrize(("height", "width"), [(32, 32), (48, 36)])
def test_maps_have_the_promised_shape_and_every_parameter_learns(
    spec: dict[str, Any], height: int, width: int
) -> None:
    torch.manual_seed(0)
    backbone = build(Backbone, spec)
    maps = backbone(torch.rand(2, 3, height, width))
    assert len(maps) == len(backbone.channels) == len(backbone.strides)
    for feature, channels, stride in zip(maps, backbone.channels, backbone.strides, strict=True):
        assert feature.shape == (2, channels, height // stride, width // stride)
        assert feature.isfinite().all()
    sum(feature.square().mean() for feature in maps).backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@EACH
def test_either_memory_format_gives_the_same(spec: dict[str, Any]) -> None:
    torch.manual_seed(0)
    backbone = build(Backbone, spec).eval()
    images = torch.rand(2, 3, 32, 32)
    one = backbone(images)[0]
    backbone.to(memory_format=torch.channels_last)
    two = backbone(images.contiguous(memory_format=torch.channels_last))[0]
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


@EACH
def test_rebuilt_from_its_spec_it_takes_the_state(spec: dict[str, Any]) -> None:
    backbone = build(Backbone, spec)
    again = build(Backbone, backbone.spec)
    again.load_state_dict(backbone.state_dict())
    images = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(again.eval()(images)[0], backbone.eval()(images)[0])


def test_sizes_of_the_networks_in_the_papers() -> None:
    # 1,500 + 24,000 + 27,648 + 46,080 + 184,320 weights, and two for each of 468 channels.
    assert size(Simple()) == 284_484
    # With a head for 64 channels the papers count 335-351 thousand, biases and head included.
    assert size(Dilations()) == 333_636
    hourglass = Hourglass()
    assert hourglass.channels == (256,)
    assert 12.5e6 < size(hourglass) < 12.7e6
    assert 0.25e6 < size(Hourglass(width=32, blocks=1, block="basic")) < 0.35e6


def test_group_norm_of_the_paper_sized_hourglass() -> None:
    grouped = Hourglass(norm="group", groups=32)
    assert size(grouped) == size(Hourglass())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in grouped.modules())


def test_the_hourglass_of_self_training_has_a_cell_for_four_pixels() -> None:
    network = Hourglass(block="parallel", blocks=1, norm="group", groups=32, stride=4)
    assert 6.4e6 < size(network) < 6.6e6
    assert network.strides == (4,)
    with torch.no_grad():
        assert network(torch.rand(1, 3, 64, 64))[0].shape == (1, 256, 16, 16)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"name": "simple"}, 26),
        ({"name": "dilations"}, 54),
        ({**QUICK, "depth": 1, "stem": 0}, 65),
    ],
)
def test_how_many_pixels_an_output_sees(spec: dict[str, Any], field: int) -> None:
    network = build(Backbone, {**spec, "norm": "none"}).double()
    images = torch.rand(1, 3, 96, 96, dtype=torch.float64, requires_grad=True)
    network(images)[0][0, :, 24, 24].sum().backward()
    assert images.grad is not None
    columns = images.grad.abs().sum((0, 1, 2)).nonzero()[:, 0]
    # Max-pooling hides pixels at the edges, and at a coarser scale two cells share them.
    assert field - 4 <= int(columns[-1] - columns[0]) + 1 <= field + 2


@each(ALONE)
def test_group_norm_and_no_norm_treat_images_alone(spec: dict[str, Any]) -> None:
    torch.manual_seed(0)
    backbone = build(Backbone, spec)
    images = torch.rand(3, 3, 32, 32)
    together, alone = backbone(images)[0][:1], backbone(images[:1])[0]
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4 * alone.abs().max().item())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "simple", "norm": "group", "groups": 3}, "3 groups do not divide .* 20 channels"),
        ({**QUICK, "norm": "group", "groups": 32}, "32 groups do not divide"),
        ({**QUICK, "width": 30}, "multiple of 4"),
        ({**QUICK, "depth": 0}, "at least 1"),
        ({**QUICK, "stem": 4}, "0 to 3"),
        ({**QUICK, "stride": 3}, "stride"),
        ({**QUICK, "width": 12, "block": "parallel"}, "multiple of 8"),
        ({**QUICK, "norm": "layer"}, "batch"),
    ],
)
def test_bad_settings_are_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(Backbone, spec)


@EACH
def test_odd_images_are_refused(spec: dict[str, Any]) -> None:
    backbone = build(Backbone, spec)
    stride = backbone.strides[0]
    with pytest.raises(ValueError, match=f"33x32 pixels; allowed: multiples of {stride}"):
        backbone(torch.rand(1, 3, 33, 32))


def test_gaussian_start() -> None:
    torch.manual_seed(0)
    weights = [m.weight for m in Simple(weight_std=0.02).modules() if isinstance(m, nn.Conv2d)]
    for weight in weights:
        assert weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert weight.mean().item() == pytest.approx(0, abs=0.002)
