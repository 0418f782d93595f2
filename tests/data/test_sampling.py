"""What is loaded is a function of (seed, epoch, position): see ``data/sampling.py``."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from landmark_lab.data.augmentation import ColourAugmentation
from landmark_lab.data.batch import LoadedBatch
from landmark_lab.data.sampling import (
    EpochSampler,
    FixedSampler,
    Images,
    Items,
    Key,
    LoaderSettings,
    Row,
    collate,
    fixed_loader,
    training_loader,
    training_rows,
)
from landmark_lab.errors import DataError
from landmark_lab_plugins.data.toy_faces import ToyFaces

COLOURS = ColourAugmentation(noise=0.1, probability=1.0)


class Noise(Images):
    """Images of noise; module level, so that workers can be started by spawning."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.loaded: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Row:
        self.loaded.append(index)
        image = np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        return {"image": image, "points": np.full((2, 2), index, np.float32)}


def alone(images: Images, index: int, generator: np.random.Generator) -> Sequence[int]:
    return (index,)


def twice(images: Images, index: int, generator: np.random.Generator) -> Sequence[int]:
    return (index, index)


def with_another(images: Images, index: int, generator: np.random.Generator) -> Sequence[int]:
    return (index, int(generator.integers(len(images))))


def load(
    count: int = 23,
    settings: LoaderSettings | None = None,
    members: Any = with_another,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
    start: tuple[int, int] = (0, 0),
    spawn: bool = False,
) -> list[LoadedBatch]:
    settings = settings or LoaderSettings(batch_size=4)
    loader = training_loader(Noise(count), members, settings, seed, rank, world, lambda _: start)
    if spawn:
        loader.multiprocessing_context = "spawn"
    return list(loader)


def tensors(batches: Sequence[LoadedBatch]) -> list[Tensor]:
    found = []
    for batch in batches:
        for member in batch.members:
            found += [v for v in vars(member).values() if v is not None]
        found.append(torch.tensor([batch.epoch, batch.batch, batch.total, batch.first]))
    return found


def same(one: Sequence[LoadedBatch], other: Sequence[LoadedBatch]) -> bool:
    a, b = tensors(one), tensors(other)
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def positions(sampler: Any) -> list[list[int]]:
    return [[key.position for key in batch] for batch in sampler]


def flat(parts: Iterable[list[Any]]) -> list[Any]:
    return [item for part in parts for item in part]


def global_state() -> list[object]:
    numpy_state = np.random.get_state()[1]  # noqa: NPY002
    return [random.getstate(), numpy_state.tolist(), torch.get_rng_state().tolist()]


# --- the order of an epoch -----------------------------------------------------------------------


def test_an_epoch_is_a_permutation_of_the_images() -> None:
    sampler = EpochSampler(24, 4, seed=3)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 6
    assert sorted(key.image for batch in batches for key in batch) == list(range(24))
    assert flat(positions(sampler)) == list(range(24))
    assert {key.epoch for batch in batches for key in batch} == {0}


def test_the_rest_of_an_epoch_is_left_out_and_differs_between_epochs() -> None:
    seen = []
    for epoch in range(2):
        batches = list(EpochSampler(23, 4, seed=0, progress=lambda _, epoch=epoch: (epoch, 0)))
        images = [key.image for batch in batches for key in batch]
        assert len(batches) == 5
        assert len(set(images)) == 20
        seen.append(images)
    assert seen[0] != seen[1]


def test_the_order_is_a_function_of_the_seed() -> None:
    first, again, other = (list(EpochSampler(50, 5, seed)) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("world", [2, 3])
def test_the_shares_of_the_processes_make_up_the_batch_of_one_process(world: int) -> None:
    whole = list(EpochSampler(50, 4 * world, seed=0))
    shares = [list(EpochSampler(50, 4, seed=0, rank=r, world=world)) for r in range(world)]
    assert [flat(batch) for batch in zip(*shares, strict=True)] == whole


def test_fewer_images_than_a_batch_are_repeated_in_new_orders() -> None:
    (batch,) = EpochSampler(3, 8, seed=0)
    images = [key.image for key in batch]
    assert sorted(images[:3]) == sorted(images[3:6]) == [0, 1, 2]
    assert len(set(images[6:])) == 2
    laps = {tuple(images[k : k + 3]) for epoch in range(4) for k in (0, 3)}
    assert len(laps) == 2


def test_repeated_images_get_their_own_colours_and_partners() -> None:
    (batch,) = load(2, LoaderSettings(batch_size=8, colours=COLOURS))
    image, index = batch.members[0].image, batch.members[0].index
    of_first = image[index == 0]
    assert len(of_first) == 4
    assert len({bytes(row.numpy()) for row in of_first}) == 4


def test_some_images_fill_an_epoch_of_full_length() -> None:
    rows = np.array([3, 17, 5])
    keys = flat(EpochSampler(24, 4, seed=3, rows=rows))
    images = [key.image for key in keys]
    assert len(images) == 24
    assert all(sorted(images[first : first + 3]) == [3, 5, 17] for first in range(0, 24, 3))
    assert len({tuple(images[first : first + 3]) for first in range(0, 24, 3)}) > 1


def test_the_images_trained_on_are_a_function_of_the_seed_and_nested() -> None:
    images = Noise(50)
    chosen = {count: training_rows(images, count, 1, False).tolist() for count in (1, 5, 20, 50)}
    assert chosen[50][:20] == chosen[20]
    assert chosen[20][:5] == chosen[5]
    assert chosen[5][:1] == chosen[1]
    assert sorted(chosen[50]) == training_rows(images, None, 1, True).tolist() == list(range(50))
    assert training_rows(images, 20, 2, False).tolist() != chosen[20]


def test_of_partly_annotated_images_the_annotated_ones_are_taken() -> None:
    images = Noise(6)
    images.annotated = np.array([False, True, True, False, False, True])
    assert training_rows(images, None, 0, True).tolist() == [1, 2, 5]
    assert set(training_rows(images, 2, 0, True)) < {1, 2, 5}
    assert training_rows(images, None, 0, False).tolist() == list(range(6))
    with pytest.raises(DataError, match="there are 3 annotated images to train on, not 4"):
        training_rows(images, 4, 0, True)
    images.annotated[:] = False
    with pytest.raises(DataError, match="there are 0 annotated images to train on, not one"):
        training_rows(images, None, 0, True)
    with pytest.raises(ValueError, match="images must be at least 1"):
        LoaderSettings(images=0)


@pytest.mark.parametrize("done", [0, 1, 4])
def test_starting_in_mid_epoch_gives_the_tail(done: int) -> None:
    whole = list(EpochSampler(23, 4, seed=0, progress=lambda _: (2, 0)))
    assert list(EpochSampler(23, 4, seed=0, progress=lambda _: (2, done))) == whole[done:]
    settings = LoaderSettings(batch_size=4, colours=COLOURS)
    assert same(
        load(settings=settings, start=(2, done)), load(settings=settings, start=(2, 0))[done:]
    )


@pytest.mark.parametrize(
    ("limit", "done", "expected"),
    [
        (1.0, 3, (2, 3)),
        (1.0, 5, (3, 0)),
        (2, 2, (3, 0)),
        (9, 4, (2, 4)),
        (0.5, 2, (3, 0)),
        (None, 5, (3, 0)),
    ],
)
def test_a_full_epoch_goes_over_into_the_next(
    limit: float | None, done: int, expected: tuple[int, int]
) -> None:
    loop = SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(ready=done)))
    trainer = SimpleNamespace(
        current_epoch=2, limit_train_batches=limit, fit_loop=SimpleNamespace(epoch_loop=loop)
    )
    data = ToyFaces()
    data.trainer = trainer  # type: ignore[assignment]
    assert data._progress(batches=5) == expected


def test_the_progress_is_read_when_iteration_starts() -> None:
    progress = [(0, 0)]
    sampler = EpochSampler(20, 4, seed=0, progress=lambda _: progress[0])
    started = iter(sampler)
    progress[0] = (1, 2)
    assert next(started)[0].epoch == 0
    assert (
        next(iter(sampler))[0] == next(iter(EpochSampler(20, 4, 0, progress=lambda _: (1, 2))))[0]
    )


# --- every image once ----------------------------------------------------------------------------


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 7, 12, 13, 25])
def test_a_fixed_order_shows_every_image_in_equally_many_batches(size: int, world: int) -> None:
    samplers = [FixedSampler(size, 4, rank, world) for rank in range(world)]
    shares = [positions(sampler) for sampler in samplers]
    assert (
        {len(share) for share in shares} == {len(s) for s in samplers} == {-(-size // (4 * world))}
    )
    seen = flat(batch for share in shares for batch in share)
    assert all(batch for share in shares for batch in share)
    assert set(seen) == set(range(size))
    repeated = len(seen) - size
    rest = size % (4 * world)
    assert repeated == (max(0, world - rest) if rest else 0)
    assert all(len(batch) <= 4 for share in shares for batch in share)


def test_a_fixed_order_over_processes_is_that_of_one_process() -> None:
    whole = positions(FixedSampler(22, 8))
    shares = [positions(FixedSampler(22, 4, rank, 2)) for rank in range(2)]
    assert [flat(batch) for batch in zip(*shares, strict=True)] == whole


def test_fixed_batches_know_their_rows_of_the_global_batch() -> None:
    loaded = [list(fixed_loader(Noise(22), alone, LoaderSettings(4), 0, r, 2)) for r in range(2)]
    assert [(b.batch, b.first, b.total) for b in loaded[1]] == [(0, 4, 8), (1, 4, 8), (2, 3, 8)]
    assert [b.members[0].index.tolist() for b in loaded[0]][-1] == [16, 17, 18]
    settings = LoaderSettings(4, colours=COLOURS)
    plain = list(fixed_loader(Noise(22), alone, LoaderSettings(4), 0))
    assert same(list(fixed_loader(Noise(22), alone, settings, 0)), plain)


# --- items ---------------------------------------------------------------------------------------


def test_the_shares_of_two_processes_hold_what_one_process_loads() -> None:
    whole = load(settings=LoaderSettings(batch_size=8, colours=COLOURS))
    halves = [
        load(settings=LoaderSettings(batch_size=4, colours=COLOURS), rank=r, world=2)
        for r in range(2)
    ]
    for batch, left, right in zip(whole, *halves, strict=True):
        assert (left.first, right.first) == (0, 4)
        assert batch.total == left.total == right.total == 8
        assert batch.batch == left.batch == right.batch
        for member, one, other in zip(batch.members, left.members, right.members, strict=True):
            assert torch.equal(member.image, torch.cat([one.image, other.image]))
            assert torch.equal(member.index, torch.cat([one.index, other.index]))


@pytest.mark.parametrize("colours", [None, COLOURS], ids=["plain", "colours"])
def test_the_number_of_workers_changes_nothing(colours: ColourAugmentation | None) -> None:
    alone_loaded = load(settings=LoaderSettings(4, 0, colours))
    assert same(alone_loaded, load(settings=LoaderSettings(4, 2, colours)))


def test_workers_that_are_spawned_load_the_same() -> None:
    spawned = load(settings=LoaderSettings(4, 1, COLOURS), spawn=True)
    assert same(spawned, load(settings=LoaderSettings(4, 0, COLOURS)))


def test_another_epoch_or_seed_gives_other_colours_and_partners() -> None:
    settings = LoaderSettings(batch_size=23, colours=COLOURS)
    drawn = [load(settings=settings, seed=s, start=(e, 0))[0] for s, e in ((0, 0), (0, 1), (1, 0))]
    images, partners = [], []
    for batch in drawn:
        rows = batch.members[0].index.argsort()
        images.append(batch.members[0].image[rows])
        partners.append(batch.members[1].index[rows])
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (images[one] != images[other]).flatten(1).any(1).all()
        assert not torch.equal(partners[one], partners[other])


def test_an_image_that_is_its_own_partner_is_loaded_once_and_coloured_twice() -> None:
    images = Noise(5)
    _, rows = Items(images, twice, 0, COLOURS)[Key(0, 0, 3)]
    assert images.loaded == [3]
    assert [row["index"] for row in rows] == [3, 3]
    assert not np.array_equal(rows[0]["image"], rows[1]["image"])
    assert np.array_equal(
        Items(images, twice, 0, None)[Key(0, 0, 3)][1][1]["image"], images[3]["image"]
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_the_global_generators_are_not_touched(workers: int) -> None:
    settings = LoaderSettings(4, workers, COLOURS)
    load(settings=settings)  # the first use imports libraries
    before = global_state()
    load(settings=settings)
    list(fixed_loader(Noise(9), with_another, settings, 0))
    assert global_state() == before


def test_collating_makes_channels_first_bytes_and_single_precision() -> None:
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    rows = [{"image": image, "index": k, "points": np.zeros((1, 2)), "label": 3} for k in range(2)]
    sample = collate(rows)
    assert sample.image.shape == (2, 3, 2, 3)
    assert sample.image.dtype == torch.uint8
    assert sample.image[0, 1, 1, 2] == image[1, 2, 1]
    assert sample.points is not None
    assert sample.points.dtype == torch.float32
    assert sample.label is not None
    assert sample.label.dtype == sample.index.dtype == torch.int64
    assert sample.with_float_image().image.max() == pytest.approx(17 / 255)


@pytest.mark.parametrize("settings", [{"batch_size": 0}, {"workers": -1}])
def test_impossible_settings_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        LoaderSettings(**settings)
