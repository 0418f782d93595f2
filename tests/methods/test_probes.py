"""Probes: their points against loops, gradients, planted points found again, a base that stays."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from landmark_lab.data.batch import Pair, Sample
from landmark_lab.errors import ConfigError
from landmark_lab.geometry.heatmap import gaussian
from landmark_lab.methods.nearest import Nearest
from landmark_lab.methods.virtual_points import VirtualPoints
from landmark_lab.probe import Probe
from landmark_lab.roles import Landmarks, Method
from tests.methods.doubles import Colours, Found, Middles
from tests.oracles import probes as oracle


def virtual(base: Method | None = None, points: int = 2, **settings: Any) -> VirtualPoints:
    """One whose regressor does not start at zero."""
    torch.manual_seed(0)
    probe = VirtualPoints(base or Colours(), points, **settings)
    for parameter in probe.regressor.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return probe


def nearest(base: Method | None = None, points: int = 3, **settings: Any) -> Nearest:
    torch.manual_seed(0)
    return Nearest(base or Colours(), points, **settings)


def pair(images: Tensor, points: Tensor | None, visible: Tensor | None = None) -> Pair:
    sample = Sample(images, torch.arange(len(images)), points, visible)
    return Pair(sample, Sample(images.flip(-1), sample.index))


def noise(count: int = 2, size: int = 12, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.rand(count, 3, size, size, generator=generator, dtype=dtype)


def dots(count: int, seed: int, size: int = 32) -> tuple[Tensor, Tensor]:
    """Images with a red, a green and a blue dot, and where these are, (count, 3, 2)."""
    generator = torch.Generator().manual_seed(seed)
    points = 1.4 * torch.rand(count, 3, 2, generator=generator) - 0.7
    return gaussian(points, (size, size), 0.12), points


# --- virtual points ------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_virtual_points_and_their_regressor_are_the_printed_sums(own: bool, bias: bool) -> None:
    probe = virtual(virtual=4, own=own, bias=bias, sharpness=7.0).double()
    images = noise()
    assert probe.filters is not None
    embedding = probe.base.embedding(images)  # type: ignore[operator]
    filters = probe.filters.weight.detach().flatten(1).numpy()
    sources = oracle.virtual_points(embedding.detach().numpy(), filters, 7.0)
    assert sources.shape[1] == (8 if own else 4)
    torch.testing.assert_close(probe.sources(images).detach(), torch.from_numpy(sources))

    weights = probe.regressor.weight.detach().squeeze(-1).numpy()
    offset = torch.zeros(4).double() if probe.regressor.bias is None else probe.regressor.bias
    offset = offset.detach()
    if own:  # each point from its own four
        halves = [
            oracle.linear(sources[:, 4 * p : 4 * p + 4], weights[rows], offset[rows].numpy())
            for p, rows in enumerate((slice(0, 2), slice(2, 4)))
        ]
        expected = torch.cat([torch.from_numpy(half) for half in halves], 1)
    else:
        expected = torch.from_numpy(oracle.linear(sources, weights, offset.numpy()))
    points, score = probe.landmarks(images)
    torch.testing.assert_close(points.detach(), expected)
    assert torch.equal(score, torch.ones(2, 2).double())


def test_the_published_number_of_filters_is_the_default() -> None:
    probe = virtual(points=5)
    assert probe.filters is not None
    assert (probe.filters.out_channels, probe.filters.bias, probe.sharpness) == (50, None, 100)


def test_landmarks_take_the_place_of_virtual_points() -> None:
    images = noise(3)
    images[1, 2] = 0  # no blue: not found
    probe = virtual(Middles()).double()
    found, score = probe.base.landmarks(images)  # type: ignore[operator]
    assert score[1, 2] == 0
    found[1, 2] = 0  # the centre of the image
    torch.testing.assert_close(probe.sources(images), found)
    weights = probe.regressor.weight.detach().squeeze(-1)
    assert probe.regressor.bias is not None
    expected = oracle.linear(
        found.numpy(), weights.numpy(), probe.regressor.bias.detach().double().numpy()
    )
    torch.testing.assert_close(probe.predict(images).detach(), torch.from_numpy(expected))


def test_the_loss_is_smooth_l1_of_the_points_that_count() -> None:
    images = noise()
    points = torch.tensor([[[0.1, 0.2], [1.5, 0.0]], [[-0.4, 0.3], [torch.nan, 0.1]]]).double()
    visible = torch.tensor([[True, False], [True, True]])
    for counted, mask in (("visible", [[1, 0], [1, 0]]), ("annotated", [[1, 1], [1, 0]])):
        probe = virtual(counted=counted, transition=0.2).double()
        expected = oracle.smooth_l1(
            probe.predict(images).detach().numpy(),
            points.numpy(),
            torch.tensor(mask).bool().numpy(),
            0.2,
        )
        terms = probe.losses(pair(images, points, visible))
        assert terms.keys() == probe.weights.keys()
        assert terms["regression"].item() == pytest.approx(expected, rel=1e-12)


def test_gradients() -> None:
    probe = virtual(virtual=3, sharpness=2.0).double()
    batch = pair(noise(1, 8), 0.3 * torch.randn(1, 2, 2).double())
    assert probe.filters is not None
    parameters = (probe.filters.weight, probe.regressor.weight, probe.regressor.bias)
    assert torch.autograd.gradcheck(lambda *_: probe.losses(batch)["regression"], parameters)


# --- the nearest vector --------------------------------------------------------------------------


def test_the_score_is_the_base_s_own_similarity() -> None:
    class Reversed(Colours):
        def similarity(self, source: Tensor, target: Tensor) -> Tensor:
            return -(source @ target.mT)

    images = noise(dtype=torch.float32)
    plain, turned = nearest().scores(images), nearest(Reversed()).scores(images)
    assert plain.shape == (2, 3, 6, 6)
    assert torch.equal(turned, -plain)


def test_the_nearest_point_is_the_most_similar_cell() -> None:
    probe, images = nearest().double(), noise(size=12)
    scores = probe.scores(images).detach().numpy()
    points, probability = probe.landmarks(images)
    for b in range(2):
        for p in range(3):
            row, column = divmod(int(scores[b, p].argmax()), 6)
            expected = [(2 * column + 1) / 6 - 1, (2 * row + 1) / 6 - 1]
            assert points[b, p].tolist() == pytest.approx(expected)
    assert ((probability > 1 / 36) & (probability <= 1)).all()


def test_gradients_of_the_likelihood() -> None:
    probe = nearest().double()
    points = torch.rand(1, 3, 2).double() - 0.5
    points[0, 1] = 2.0  # outside: does not count
    batch = pair(noise(1, 8), points)
    assert torch.autograd.gradcheck(lambda _: probe.losses(batch)["likelihood"], (probe.vectors,))
    probe.losses(batch)["likelihood"].backward()
    assert probe.vectors.grad is not None
    assert (probe.vectors.grad.abs().sum(1) > 0).tolist() == [True, False, True]


# --- both ----------------------------------------------------------------------------------------

EITHER = pytest.mark.parametrize("make", [virtual, nearest])
Make = Callable[..., Any]


def train(probe: Probe, targets: Callable[[Tensor], Tensor], steps: int, lr: float) -> None:
    """A short training on dots; ``targets`` makes the annotated points from the dots."""
    probe.train()
    optimiser = torch.optim.Adam([p for p in probe.parameters() if p.requires_grad], lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    images, points = dots(256, seed=0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randint(len(images), (16,), generator=generator)
        (loss,) = probe.losses(pair(images[rows], targets(points[rows]))).values()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


@torch.no_grad()
def error(probe: Probe, targets: Callable[[Tensor], Tensor]) -> float:
    """Mean distance in half-widths on other images; these are 32 pixels wide."""
    images, points = dots(64, seed=1)
    assert isinstance(probe, Landmarks)
    found, _ = probe.eval().landmarks(images)
    return float(torch.linalg.vector_norm(found - targets(points), dim=-1).mean())


def between(points: Tensor) -> Tensor:
    """The point between red and green, and one beside blue."""
    return torch.stack([points[:, :2].mean(1), points[:, 2] + torch.tensor([0.3, -0.1])], 1)


@pytest.mark.parametrize("own", [False, True])
def test_virtual_points_find_points_between_and_beside_what_the_embedding_shows(own: bool) -> None:
    torch.manual_seed(0)
    probe = VirtualPoints(Colours(), 2, virtual=8, own=own)  # its regressor starts at zero
    before = error(probe, between)
    train(probe, between, steps=300, lr=0.02)
    assert error(probe, between) < 0.04 < 0.3 < before


def test_nearest_vectors_find_planted_points_to_half_a_cell() -> None:
    probe = nearest()
    before = error(probe, lambda points: points)
    train(probe, lambda points: points, steps=150, lr=0.3)
    # A cell is 2/16 half-widths wide, so the middle of the nearest one is 0.048 away on average.
    assert error(probe, lambda points: points) < 0.06 < 0.3 < before


@EITHER
def test_the_base_stays_as_it_is(make: Make) -> None:
    probe = make()
    before = {name: value.clone() for name, value in probe.base.state_dict().items()}
    train(probe, lambda points: points[:, : probe.points], steps=3, lr=0.1)
    assert probe.training
    assert not any(module.training for module in probe.base.modules())
    after = probe.base.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(p.grad is None and not p.requires_grad for p in probe.base.parameters())
    # Nor does a stage that freezes something else set it free.
    probe.freeze_parts([])
    assert not probe.train().base.training


@EITHER
def test_half_precision_changes_the_base_and_not_the_probe(make: Make) -> None:
    probe, (images, points) = make(points=3).eval(), dots(4, seed=2)
    expected = probe.losses(pair(images, points))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        terms = probe.losses(pair(images, points))
        assert probe.landmarks(images)[0].dtype == torch.float32
    for name, term in terms.items():
        assert term.dtype == torch.float32
        torch.testing.assert_close(term, expected[name], rtol=0.02, atol=0.002)


@EITHER
def test_no_step_waits_for_the_device(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A meta tensor has no values, so anything that would read one on the host fails."""
    monkeypatch.setattr(torch, "autocast", lambda *a, **k: nullcontext())  # it knows no meta
    probe = make(points=3).to("meta")
    images, points = (value.to("meta") for value in dots(2, seed=0))
    (loss,) = probe.losses(pair(images, points)).values()
    loss.backward()
    probe.landmarks(images)


@EITHER
def test_a_base_without_the_capability_is_refused(make: Make) -> None:
    with pytest.raises(ValueError, match="the method 'found' offers n"):
        make(Found())


def test_nearest_needs_an_embedding() -> None:
    with pytest.raises(ValueError, match="offers no embedding"):
        nearest(Middles())


@EITHER
def test_another_number_of_points_is_refused(make: Make) -> None:
    probe = make(points=3)
    probe.check_points(["a", "b", "c"])
    with pytest.raises(ConfigError, match=r"predicts 3 points, the data has 2; allowed: 2"):
        probe.check_points(["a", "b"])
    with pytest.raises(ValueError, match="points 0"):
        make(points=0)


@EITHER
def test_pairs_without_points_are_refused(make: Make) -> None:
    with pytest.raises(ConfigError, match="no annotated points"):
        make().losses(pair(noise(dtype=torch.float32), None))


@pytest.mark.parametrize("wrong", [{"virtual": 0}, {"sharpness": 0.0}, {"transition": -1.0}])
def test_values_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        virtual(**wrong)
