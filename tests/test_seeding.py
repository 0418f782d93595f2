"""Draws are functions of their key, and processes share them."""

import random

import numpy as np
import pytest
import torch

from landmark_lab.seeding import BatchDraw, rng, seed_of


def test_seeds_depend_on_every_part_of_the_key_and_on_nothing_else() -> None:
    keys = [(0, "a"), (1, "a"), (0, "b"), (0, "a", 0), (0, "a", 1), (0, "a", 0, 1), (0, "a", 1, 0)]
    seeds = [seed_of(*key) for key in keys]
    assert len(set(seeds)) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)
    # Stable over processes and versions: a run of today can be continued tomorrow.
    assert seed_of(0, "order", 3) == 5486038029339273987


def test_generators_are_seeded_by_the_key() -> None:
    assert rng(0, "a", 1).random() == rng(0, "a", 1).random()
    assert rng(0, "a", 1).random() != rng(0, "a", 2).random()


def test_the_global_generators_are_left_alone() -> None:
    states = random.getstate(), str(np.random.get_state()), torch.get_rng_state()  # noqa: NPY002
    draw = BatchDraw.single(0, 4)
    draw.normal(2), draw.uniform(3), rng(0, "a").random()
    assert random.getstate() == states[0]
    assert str(np.random.get_state()) == states[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_draws_of_the_global_batch(world: int) -> None:
    whole = BatchDraw(1, "x", 2, 3, total=6, rows=(0, 1, 6))
    count = 6 // world
    shares = [
        BatchDraw(1, "x", 2, 3, total=6, rows=(rank * count, 1, count)) for rank in range(world)
    ]
    for shape in ((), (5,), (2, 3)):
        torch.testing.assert_close(
            torch.cat([share.uniform(*shape) for share in shares]), whole.uniform(*shape)
        )
    child = torch.cat([share.child("y").normal() for share in shares])
    torch.testing.assert_close(child, whole.child("y").normal())
    assert not torch.equal(child, whole.child("z").normal())
    assert whole.count == 6
