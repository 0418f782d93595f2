"""Embedding volume compression: the exchange against the oracle, which images serve, a training."""

from typing import Any

import pytest
import torch
from torch import Tensor

from landmark_lab.data.batch import Pair
from landmark_lab.data.sampling import LoaderSettings
from landmark_lab.errors import ConfigError
from landmark_lab.geometry import FlowWarp, IdentityWarp
from landmark_lab.geometry.points import pixel_grid, to_pixels
from landmark_lab.methods.evc import Evc
from landmark_lab.metrics.embedding import error_across
from landmark_lab.plugin import build
from landmark_lab.roles import Correspondence, ImageData, Pairing
from tests.methods.embeddings import method, pairs, random_pair, sample, train
from tests.oracles import matching as oracle


def evc(**settings: Any) -> Evc:
    built = method("evc", **{"dimension": 6, **settings})
    assert isinstance(built, Evc)
    return built


def test_the_loss_is_equations_3_and_4_with_the_next_image() -> None:
    model, batch = evc().double(), random_pair()
    assert batch.warp is not None
    source, target = (model.embedding(s.image) for s in (batch.source, batch.target))
    grid = pixel_grid(8, 8, dtype=torch.float64)
    truth = batch.warp.to_source(grid.expand(4, -1, -1))
    inside = (truth.abs() <= 1).all(-1)
    expected = oracle.expected_distance(
        oracle.exchange(target.flatten(2).mT, target[[1, 2, 3, 0]][:, None]),
        source.flatten(2).mT,
        to_pixels(truth, 16, 16),
        to_pixels(grid, 16, 16),
        inside / inside.sum(),
        0.5,
    )
    found = model.losses(batch)["matching"]
    assert found.item() == pytest.approx(expected.sum().item(), rel=1e-9)


def numbered(count: int) -> Tensor:
    """Maps that hold the number of their image."""
    return torch.arange(float(count)).view(-1, 1, 1, 1)


@pytest.mark.parametrize(
    ("auxiliary", "pool", "count", "expected"),
    [
        (1, 0, 4, [[1], [2], [3], [0]]),
        (2, 0, 4, [[1, 2], [2, 3], [3, 0], [0, 1]]),
        (2, 3, 5, [[2, 3], [3, 4]]),
        (5, 16, 32, None),
        (2, 3, 3, [[1, 2]]),  # a last validation batch smaller than the pool
        (1, 0, 1, [[0]]),
    ],
)
def test_which_images_serve(
    auxiliary: int, pool: int, count: int, expected: list[list[int]] | None
) -> None:
    model = evc(auxiliary=auxiliary, pool=pool)
    pairs = count - min(pool, count - 1)
    found = model._auxiliary(numbered(count), pairs).flatten(1)
    assert found.shape == (pairs, auxiliary)
    if expected is not None:
        assert found.tolist() == expected
    else:
        assert all(len(set(row)) == 5 and min(row) >= 16 for row in found.tolist())


def test_a_pool_makes_no_pairs_and_its_keys_are_not_needed() -> None:
    model, batch = evc(auxiliary=2, pool=2).double().eval(), random_pair()
    assert batch.warp is not None
    loss = model.losses(batch)["matching"]
    batch.source.image[2:] = torch.nan  # the keys' images of the pool
    torch.testing.assert_close(model.losses(batch)["matching"], loss)
    batch.target.image[3] = 0.5
    assert model.losses(batch)["matching"].item() != pytest.approx(loss.item(), rel=1e-6)


def test_without_exchange_it_is_dense_labelling_of_that_dimension() -> None:
    batch = random_pair()
    torch.testing.assert_close(
        evc(auxiliary=0).double().losses(batch),
        method("dense", dimension=6).double().losses(batch),
    )
    with pytest.raises(AssertionError):
        torch.testing.assert_close(
            evc(auxiliary=1).double().losses(batch), evc(auxiliary=0).double().losses(batch)
        )


def test_identical_images_are_a_task_only_with_the_exchange() -> None:
    """Learning with g = 1: vectors that are all different solve it alone, not exchanged."""
    images = sample(torch.rand(3, 3, 16, 16))
    batch = Pair(images, images, IdentityWarp(3))
    apart = 20 * torch.eye(3 * 64).view(3, 64, 3 * 64).mT.reshape(3, 3 * 64, 8, 8)
    for auxiliary, low in ((0, True), (1, False)):
        model = evc(dimension=3 * 64, auxiliary=auxiliary)
        model.embedding = lambda images, layer=None: apart.repeat(2, 1, 1, 1)  # type: ignore[method-assign]
        assert (model.losses(batch)["matching"] < 0.01) == low


def test_every_weight_gets_a_gradient_and_a_flow_is_followed() -> None:
    model, batch = evc().double(), random_pair()
    flow = 0.05 * torch.randn(4, 2, 16, 16, dtype=torch.float64)
    for pair in (batch, Pair(batch.source, batch.target, FlowWarp(flow))):
        model.zero_grad()
        model.losses(pair)["matching"].backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("settings", "batch", "message"),
    [
        ({}, 1, "a batch of 1 has no 1 auxiliary .* 2 or more"),
        ({"auxiliary": 3}, 3, "4 or more"),
        ({"auxiliary": 5, "pool": 16}, 16, "17 or more"),
    ],
)
def test_too_small_batches_are_refused_before_training(
    settings: dict[str, int], batch: int, message: str
) -> None:
    pairing = build(Pairing, "synthetic")
    with pytest.raises(ConfigError, match=rf"loader\.batch_size: .*{message}"):
        evc(**settings).check_pairs(pairing, LoaderSettings(batch_size=batch))
    evc(**settings).check_pairs(pairing, LoaderSettings(batch_size=32))
    evc(auxiliary=0).check_pairs(pairing, LoaderSettings(batch_size=1))


@pytest.mark.parametrize("wrong", [{"auxiliary": -1}, {"pool": -1}, {"auxiliary": 5, "pool": 4}])
def test_bad_numbers_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="allowed"):
        evc(**wrong)
    with pytest.raises(ConfigError, match="1 to the pool's size"):
        evc(auxiliary=0, pool=3)


def test_a_short_training_learns_vectors_that_other_faces_have() -> None:
    data = build(ImageData, {"name": "toy_faces", "size": 32, "train": 96, "val": 24, "test": 1})

    def images(split: str, count: int) -> Tensor:
        found = data.images(split)  # type: ignore[arg-type]
        stacked = torch.stack([torch.from_numpy(found[i]["image"]) for i in range(count)])
        return stacked.permute(0, 3, 1, 2).float() / 255

    views = pairs(images("val", 24), 10**6)
    assert views.warp is not None

    @torch.no_grad()
    def across(model: Evc) -> float:
        queries = model.loss.queries(views.warp, (16, 16), (32, 32))  # type: ignore[arg-type]
        source, target = (model.eval().embedding(s.image) for s in (views.source, views.target))
        vectors, counted = queries.vectors(target), queries.weight > 0
        truth = (queries.targets, counted, model.similarity, (32, 32))
        return error_across(vectors, target.roll(-1, 0), source, *truth).mean().item()

    start = evc(dimension=8, auxiliary=0)
    untrained = across(start)
    train(start, images("train", 96), steps=60, lr=1e-2)
    model = evc(dimension=8)
    model.load_state_dict(start.state_dict())
    losses = train(model, images("train", 96), steps=60, lr=1e-2)
    assert isinstance(model, Correspondence)
    assert sum(losses[-10:]) < 0.95 * sum(losses[:10])
    assert across(model) < 0.75 * untrained
