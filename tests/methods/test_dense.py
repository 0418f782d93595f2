"""Dense labelling: its equations against the oracle, capabilities, limits, a short training."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from landmark_lab.data.batch import Pair, Sample
from landmark_lab.data.sampling import LoaderSettings
from landmark_lab.errors import ConfigError
from landmark_lab.geometry import AffineWarp, FlowWarp, IdentityWarp
from landmark_lab.geometry.points import pixel_grid, to_pixels
from landmark_lab.plugin import build, check
from landmark_lab.roles import Correspondence, Embedding, ImageData, Method, Pairing
from tests.methods.embeddings import error, method, pairs, random_pair, sample, train
from tests.oracles import matching as oracle


@pytest.fixture(scope="module")
def faces() -> Callable[[str, int], Tensor]:
    data = build(ImageData, {"name": "toy_faces", "size": 32, "train": 96, "val": 16, "test": 16})

    def images(split: str, count: int) -> Tensor:
        found = data.images(split)  # type: ignore[arg-type]
        stacked = torch.stack([torch.from_numpy(found[i]["image"]) for i in range(count)])
        return stacked.permute(0, 3, 1, 2).float() / 255

    return images


def test_the_loss_is_equation_5_with_the_target_looked_for_in_the_source() -> None:
    model = method("dense", loss={"power": 0.5}).double()
    batch = random_pair()
    assert batch.warp is not None
    source, target = (model.embedding(s.image) for s in (batch.source, batch.target))
    grid = pixel_grid(8, 8, dtype=torch.float64)
    truth = batch.warp.to_source(grid.expand(4, -1, -1))
    inside = (truth.abs() <= 1).all(-1)
    expected = oracle.expected_distance(
        target.flatten(2).mT,
        source.flatten(2).mT,
        to_pixels(truth, 16, 16),
        to_pixels(grid, 16, 16),
        inside / inside.sum(),
        0.5,
    )
    found = model.losses(batch)["matching"]
    assert found.item() == pytest.approx(expected.sum().item(), rel=1e-9)


@pytest.mark.parametrize("kind", ["distance", "likelihood"])
@pytest.mark.parametrize("similarity", [{}, {"kind": "cosine", "temperature": 0.05}])
def test_every_weight_gets_a_gradient(kind: str, similarity: dict[str, object]) -> None:
    model = method("dense", loss={"kind": kind}, similarity=similarity).double()
    terms = model.losses(random_pair())
    assert terms.keys() == model.weights.keys()
    terms["matching"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_a_flow_is_followed_like_the_same_map_in_closed_form() -> None:
    model = method("dense").double()
    batch = random_pair()
    flow = torch.zeros(4, 2, 16, 16, dtype=torch.float64)
    flow[:, 0] = 4 * 2 / 16
    shift = torch.tensor([[1.0, 0, 0.5], [0, 1, 0]], dtype=torch.float64).repeat(4, 1, 1)
    # Pixels of the source are looked for in the target, so the affine pair is the other way round.
    torch.testing.assert_close(
        model.losses(Pair(batch.source, batch.target, FlowWarp(flow))),
        model.losses(Pair(batch.target, batch.source, AffineWarp(shift).inverse())),
    )


def test_the_papers_settings_are_the_defaults() -> None:
    spec = check(Method, "dense")
    assert spec["dimension"] == 3
    assert spec["backbone"]["name"] == "dilations"
    assert spec["similarity"] == {"kind": "inner", "temperature": 1.0}
    assert spec["loss"] == {"kind": "distance", "power": 0.5, "stride": 1}


def test_it_offers_an_embedding_and_correspondence() -> None:
    model = method("dense", dimension=5).eval()
    assert isinstance(model, Embedding)
    assert isinstance(model, Correspondence)
    images = torch.rand(2, 3, 32, 32)
    assert model.embedding(images).shape == (2, 5, 16, 16)
    assert model.embedding(images, "features").shape == (2, 16, 16, 16)
    with pytest.raises(ValueError, match="allowed: embedding, features"):
        model.embedding(images, "label")


def test_an_image_corresponds_to_itself_and_nothing_to_an_unknown_point() -> None:
    model = method("dense", similarity={"kind": "cosine", "temperature": 0.001}).eval()
    images = torch.rand(2, 3, 32, 32)
    points = pixel_grid(16, 16)[:50].expand(2, -1, -1).clone()
    points[0, 3] = torch.nan
    found, score = model.correspond(images, images, points)
    torch.testing.assert_close(found, points, equal_nan=True)
    assert score[0, 3] == 0
    assert ((score >= 0) & (score <= 1)).all()
    between, _ = model.correspond(images, images, points, refine=True)
    torch.testing.assert_close(between, points, equal_nan=True, rtol=0, atol=0.13)  # a cell


def test_the_similarity_of_training_is_that_of_matching() -> None:
    settings = {"kind": "cosine", "temperature": 0.05}
    model = method("dense", similarity=settings)
    first, second = torch.randn(2, 1, 4, 3)
    cosine = torch.nn.functional.cosine_similarity(first[:, :, None], second[:, None], dim=-1)
    torch.testing.assert_close(model.similarity(first, second), cosine / 0.05)
    assert model.spec["similarity"] == settings


def test_bad_settings_and_pairs_without_a_warp_are_refused() -> None:
    images = sample(torch.rand(1, 3, 16, 16))
    with pytest.raises(ConfigError, match="known warp"):
        method("dense").losses(Pair(images, images))
    with pytest.raises(ConfigError, match="dimension 0; allowed: at least 1"):
        method("dense", dimension=0)
    with pytest.raises(ConfigError, match=r"loss: power 0\.0"):
        method("dense", loss={"power": 0.0})
    with pytest.raises(ConfigError, match="multiples of 2"):
        method("dense").check_size(63)


def test_half_precision_changes_the_vectors_but_not_the_sums() -> None:
    model, batch = method("dense").eval(), random_pair()
    images = [sample(s.image.float()) for s in (batch.source, batch.target)]
    batch = Pair(images[0], images[1], IdentityWarp(4))
    with torch.no_grad():
        expected = model.losses(batch)["matching"]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model.losses(batch)["matching"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.03, atol=0)


def test_no_step_waits_for_the_device() -> None:
    """A meta tensor has no values, so anything that would read one on the host fails."""
    model = method("dense").to("meta")
    images = Sample(torch.rand(2, 3, 32, 32, device="meta"), torch.arange(2))
    warp = AffineWarp(torch.eye(3)[:2].repeat(2, 1, 1).to("meta"))
    model.losses(Pair(images, images, warp))["matching"].backward()


def test_a_short_training_learns_to_match(faces: Callable[[str, int], Tensor]) -> None:
    model = method("dense", dimension=3)
    views = pairs(faces("val", 16), 10**6)
    untrained, guessing = error(model, views)
    losses = train(model, faces("train", 96), steps=60, lr=1e-2)
    trained, _ = error(model, views)
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    assert trained < 0.75 * untrained < guessing


def test_a_pairing_of_frames_on_data_without_flow_is_refused() -> None:
    data = build(ImageData, {"name": "toy_faces", "size": 32})
    with pytest.raises(ConfigError, match=r"'frames' needs .*flow"):
        data.prepare_training(build(Pairing, "frames"), LoaderSettings(), 0, method("dense"))
