"""Factorized landmarks: the objective against the oracles, gradients, limits, a short training."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from landmark_lab.data.batch import Pair, Sample
from landmark_lab.errors import ConfigError
from landmark_lab.geometry import AffineWarp, IdentityWarp, Warp
from landmark_lab.geometry.heatmap import gaussian, soft_argmax
from landmark_lab.geometry.points import pixel_grid
from landmark_lab.methods.factorized import Factorized, _mass_near
from landmark_lab.metrics.collapse import collapse
from landmark_lab.metrics.equivariance import equivariance_criterion, equivariance_errors
from landmark_lab.plugin import build, check
from landmark_lab.roles import Landmarks, Method
from landmark_lab.seeding import BatchDraw
from landmark_lab_plugins.pairings.synthetic import Synthetic
from landmark_lab_plugins.warps.affine import AffinePair
from tests.oracles import losses as oracle

QUICK = {"name": "hourglass", "width": 16, "depth": 2, "blocks": 1, "block": "basic"}


def method(**settings: Any) -> Factorized:
    """A small one; group norm, so that images do not depend on their batch."""
    torch.manual_seed(0)
    backbone = {**QUICK, "norm": "group", "groups": 4}
    built = build(Method, {"name": "factorized", "backbone": backbone, **settings})
    assert isinstance(built, Factorized)
    return built


def sample(images: Tensor) -> Sample:
    """Images as a sample."""
    return Sample(images, torch.arange(len(images)))


def random_pair(count: int = 2, size: int = 16) -> Pair:
    """Unrelated noise with a known warp, in float64."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, count, 3, size, size, generator=generator, dtype=torch.float64)
    matrix = torch.tensor([[[0.9, -0.3, 0.1], [0.2, 1.1, -0.2]]], dtype=torch.float64)
    return Pair(sample(images[0]), sample(images[1]), AffineWarp(matrix.repeat(count, 1, 1)))


@pytest.mark.parametrize("alignment", ["probability", "coordinates"])
@pytest.mark.parametrize("diversity", ["max", "overlap"])
def test_the_terms_are_the_printed_equations(alignment: str, diversity: str) -> None:
    model = method(landmarks=3, alignment=alignment, diversity=diversity, pooling=3).double()
    batch = random_pair()
    assert batch.warp is not None
    terms = model.losses(batch)

    source, target = (model.probabilities(s.image) for s in (batch.source, batch.target))
    # The oracles see numbers only. Pixels of the 8×8 score map: four to the half-width.
    grid = pixel_grid(8, 8, dtype=torch.float64).expand(2, -1, -1)
    if alignment == "probability":
        expected = 4**2 * oracle.map_alignment(
            source.flatten(2).detach().numpy(),
            target.flatten(2).detach().numpy(),
            grid.numpy(),
            batch.warp.to_source(grid).numpy(),
        )
    else:
        points = soft_argmax(source), batch.warp.to_source(soft_argmax(target))
        expected = 4**2 * oracle.point_alignment(*(p.detach().numpy() for p in points))
    assert terms["alignment"].item() == pytest.approx(expected, rel=1e-9)

    of_map = getattr(oracle, f"{diversity}_diversity")
    expected = sum(of_map(oracle.sum_pool(p.detach().numpy(), 3)) for p in (source, target))
    assert terms["diversity"].item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("alignment", ["probability", "coordinates"])
def test_gradients(alignment: str) -> None:
    model = method(landmarks=3, alignment=alignment, pooling=2).double()
    batch = random_pair(count=1, size=8)

    def weighted(weight: Tensor, bias: Tensor) -> Tensor:
        model.head = nn.Conv2d(16, 3, 1)
        del model.head.weight, model.head.bias
        model.head.weight, model.head.bias = weight, bias  # type: ignore[assignment]
        return torch.stack(list(model.losses(batch).values()))

    weight = torch.randn(3, 16, 1, 1, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(weighted, (weight, bias))


@pytest.mark.parametrize("alignment", ["probability", "coordinates"])
def test_every_landmark_and_every_weight_of_the_network_gets_a_gradient(alignment: str) -> None:
    model = method(alignment=alignment, pooling=2).double()
    terms = model.losses(random_pair())
    assert terms.keys() == model.weights.keys()
    torch.stack(list(terms.values())).sum().backward()
    assert (_rows(model.head.weight) > 0).all()
    for name, parameter in model.named_parameters():
        # A softmax does not see what is added to all its scores.
        assert parameter.grad is not None, name
        assert name == "head.bias" or parameter.grad.abs().max() > 0, name


def _rows(weight: nn.Parameter) -> Tensor:
    assert weight.grad is not None
    return weight.grad.flatten(1).abs().amax(1)


def test_the_same_image_under_the_identity_is_aligned_by_coordinates() -> None:
    model = method(landmarks=4, alignment="coordinates")
    images = sample(torch.rand(2, 3, 16, 16))
    terms = model.losses(Pair(images, images, IdentityWarp(2)))
    assert terms["alignment"].item() == pytest.approx(0, abs=1e-8)
    # Flat maps are not aligned by probability: they are not concentrated.
    model = method(landmarks=4, alignment="probability")
    assert model.losses(Pair(images, images, IdentityWarp(2)))["alignment"].item() > 1


def test_either_half_of_the_batch_and_its_order_count_alike() -> None:
    model, batch = method(pooling=2).double(), random_pair(count=3)
    assert batch.warp is not None
    terms = model.losses(batch)
    swapped = model.losses(Pair(batch.target, batch.source, batch.warp.inverse()))
    torch.testing.assert_close(swapped["diversity"], terms["diversity"])
    reverse = [2, 1, 0]
    images = [sample(s.image[reverse]) for s in (batch.source, batch.target)]
    again = model.losses(Pair(images[0], images[1], batch.warp))  # three times the same warp
    torch.testing.assert_close(again, terms)


def test_the_defaults_are_the_papers() -> None:
    spec = check(Method, "factorized")
    assert spec["landmarks"] == 10
    assert spec["backbone"]["name"] == "simple"
    assert spec["alignment"] == "probability"
    assert spec["diversity"] == "max"
    assert spec["temperature"] == 1
    assert spec["weights"] == {"alignment": 1.0, "diversity": 500.0}
    assert spec["optimiser"]["name"] == "adam"
    assert spec["optimiser"]["lr"] == 1e-4
    assert spec["optimiser"]["weight_decay"] == 5e-4
    assert spec["schedule"]["name"] == "plateau"
    assert spec["schedule"]["factor"] == 0.1


def test_landmarks_and_scores() -> None:
    model = method(landmarks=7).eval()
    assert isinstance(model, Landmarks)
    points, score = model.landmarks(torch.rand(3, 3, 32, 32))
    assert points.shape == (3, 7, 2)
    assert score.shape == (3, 7)
    assert points.abs().max() < 1
    assert ((score > 0) & (score <= 1)).all()


def test_the_score_is_high_for_a_sharp_map_and_zero_between_two_peaks() -> None:
    sharp, split, flat = torch.zeros(3, 16, 16)
    sharp[3, 5] = 1
    split[2, 2] = split[12, 12] = 0.5
    flat += 1 / 256
    maps = torch.stack([sharp, split, flat])[None]
    score = _mass_near(maps, soft_argmax(maps), 2.5)[0].tolist()
    assert score[:2] == [1, 0]
    assert score[2] == pytest.approx(36 / 256)  # six cells along each axis


@pytest.mark.filterwarnings("ignore:.*claim")
def test_more_landmarks_than_blocks_are_refused_before_anything_is_loaded() -> None:
    method(landmarks=49, pooling=5).check_size(64)  # 7×7 blocks of a 32×32 map
    with pytest.raises(ConfigError, match=r"50 landmarks .* 7×7 blocks .* at most 49"):
        method(landmarks=50, pooling=5).check_size(64)
    with pytest.raises(ConfigError, match="multiples of 2"):
        method().check_size(63)


def test_landmarks_that_claim_most_of_the_map_are_warned_about() -> None:
    with pytest.warns(UserWarning, match="claim 73% of the score map"):
        method(landmarks=30, pooling=5).check_size(64)


@pytest.mark.filterwarnings("error")
def test_landmarks_with_room_are_not_warned_about() -> None:
    method(landmarks=10, pooling=5).check_size(64)
    method(landmarks=30, pooling=2).check_size(64)


def test_unrelated_pairs_and_bad_numbers_are_refused() -> None:
    images = sample(torch.rand(1, 3, 16, 16))
    with pytest.raises(ConfigError, match="known warp"):
        method().losses(Pair(images, images))
    for wrong in ({"landmarks": 0}, {"pooling": 0}):
        with pytest.raises(ConfigError, match="at least 1"):
            method(**wrong)
    with pytest.raises(ConfigError, match=r"temperature 0\.0; allowed: above 0"):
        method(temperature=0.0)
    with pytest.raises(ConfigError, match="did you mean 'diversity'"):
        method(weights={"diversty": 1.0})
    with pytest.raises(ConfigError, match="did you mean 'coordinates'"):
        method(alignment="coordinate")


@pytest.mark.parametrize("alignment", ["probability", "coordinates"])
def test_half_precision_changes_the_scores_but_not_the_sums(alignment: str) -> None:
    model = method(alignment=alignment).eval()
    batch = random_pair()
    assert batch.warp is not None
    images = [sample(s.image.float()) for s in (batch.source, batch.target)]
    batch = Pair(images[0], images[1], AffineWarp(torch.eye(3)[:2].repeat(2, 1, 1)))
    with torch.no_grad():
        expected = model.losses(batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            terms = model.losses(batch)
            assert model.landmarks(images[0].image)[0].dtype == torch.float32
    for name, term in terms.items():
        assert term.dtype == torch.float32
        torch.testing.assert_close(term, expected[name], rtol=0.03, atol=0.003)


@pytest.mark.parametrize("alignment", ["probability", "coordinates"])
def test_no_step_waits_for_the_device(alignment: str) -> None:
    """A meta tensor has no values, so anything that would read one on the host fails."""
    model = method(alignment=alignment).to("meta")
    images = sample(torch.rand(2, 3, 32, 32, device="meta"))
    warp = AffineWarp(torch.eye(3)[:2].repeat(2, 1, 1).to("meta"))
    torch.stack(list(model.losses(Pair(images, images, warp)).values())).sum().backward()
    model.landmarks(images.image)


def blobs(count: int, size: int, seed: int) -> Tensor:
    """Four coloured blobs that move together and each a little by itself, on noise."""
    generator = torch.Generator().manual_seed(seed)
    corners = 0.35 * torch.tensor([[-1.0, -1], [1, -1], [-1, 1], [1, 1]])
    together = 0.12 * torch.randn(count, 1, 2, generator=generator)
    alone = 0.06 * torch.randn(count, 4, 2, generator=generator)
    colours = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9], [0.9, 0.9, 0.1]])
    maps = gaussian(corners + together + alone, (size, size), 0.14)
    behind = 0.5 + 0.06 * torch.randn(count, 3, size, size, generator=generator)
    behind = behind * (1 - maps.sum(1, keepdim=True)).clamp(min=0)
    return (behind + torch.einsum("nkhw,kc->nchw", maps, colours)).clamp(0, 1)


def pairs(images: Tensor, seed: int) -> Pair:
    """Two warped views of each image, the warps strong enough for landmarks not to freeze."""
    warps = AffinePair(
        rotation=(9.0, 20.0),
        rotation_law="uniform",
        scale=(0.15, 0.25),
        scale_law="loguniform",
        translation=(0.15, 0.3),
        translation_law="uniform",
    )
    pairing = Synthetic(warps, independent_colours=False, annotation=False)
    return pairing.pair((sample(images),), BatchDraw.single(seed, len(images)))


@torch.no_grad()
def lostness(model: Factorized, images: Tensor) -> float:
    """How lost the landmarks are: equivariance error against spread and separation."""
    views = pairs(images, 10**6)
    assert isinstance(views.warp, Warp)
    source, target = (model.eval().landmarks(s.image)[0] for s in (views.source, views.target))
    errors = equivariance_errors(target, views.warp.to_target(source))
    return float(equivariance_criterion(source, errors))


def test_a_short_training_finds_landmarks() -> None:
    train, val, steps = blobs(256, 32, seed=0), blobs(96, 32, seed=1), 200
    model = method(
        landmarks=4,
        pooling=3,
        temperature=0.2,
        weights={"alignment": 1.0, "diversity": 10.0},
        backbone={**QUICK, "depth": 1, "stem": 0},
    )
    untrained = lostness(model, val)
    optimiser = torch.optim.Adam(model.train().parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for step in range(steps):
        rows = torch.randint(len(train), (16,), generator=generator)
        terms = model.losses(pairs(train[rows], step))
        loss = torch.stack([model.weights[name] * term for name, term in terms.items()]).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.1 * sum(losses[:10])
    assert lostness(model, val) < 0.6 * untrained
    with torch.no_grad():
        found = collapse(model.landmarks(val)[0])
    assert found.distinct == 4
    assert not (found.constant | found.at_centre).any()
