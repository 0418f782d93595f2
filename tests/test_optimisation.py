"""Schedules change the learning rate as they say."""

import math
from typing import Any

import pytest
import torch

from landmark_lab.errors import ConfigError
from landmark_lab.plugin import build
from landmark_lab.roles import Optimiser, Schedule

NAMES = ("adam", "adamw", "sgd", "rmsprop")


def rates(spec: dict[str, Any], steps: int, epochs: int) -> list[float]:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = build(Optimiser, {"name": "sgd", "lr": 1.0}).configure(iter([parameter]))
    config = build(Schedule, spec).configure(optimiser, steps, epochs)
    assert config is not None
    found = []
    for _ in range(steps if config["interval"] == "step" else epochs):
        found.append(float(optimiser.param_groups[0]["lr"]))
        optimiser.step()
        config["scheduler"].step()
    return found


def test_cosine_warms_up_and_falls_to_its_floor() -> None:
    found = rates({"name": "cosine", "warmup": 4, "floor": 0.1}, steps=24, epochs=1)
    assert found[:4] == [0.25, 0.5, 0.75, 1.0]
    for i in range(4, 24):
        share = 0.5 * (1 + math.cos(math.pi * (i - 4) / 20))
        assert found[i] == pytest.approx(0.1 + 0.9 * share)


def test_cosine_needs_to_know_its_end() -> None:
    with pytest.raises(ConfigError, match="how long"):
        rates({"name": "cosine"}, steps=0, epochs=0)


def test_steps_multiplies_after_the_given_epochs() -> None:
    found = rates({"name": "steps", "epochs": [2, 3], "factor": 0.1}, steps=40, epochs=4)
    assert found == pytest.approx([1, 1, 0.1, 0.01])


def test_drops_multiplies_after_the_given_steps() -> None:
    found = rates({"name": "drops", "steps": [2, 3, 99], "factor": 0.1}, steps=5, epochs=1)
    assert found == pytest.approx([1, 1, 0.1, 0.01, 0.01])


def test_constant_is_no_schedule() -> None:
    optimiser = build(Optimiser, "adam").configure(iter([torch.nn.Parameter(torch.zeros(1))]))
    assert build(Schedule, "constant").configure(optimiser, 10, 1) is None


@pytest.mark.parametrize("name", NAMES)
def test_optimisers_go_downhill(name: str) -> None:
    parameter = torch.nn.Parameter(torch.tensor([3.0]))
    optimiser = build(Optimiser, {"name": name, "lr": 0.05}).configure(iter([parameter]))
    for _ in range(200):
        optimiser.zero_grad()
        parameter.square().sum().backward()
        optimiser.step()
    assert abs(parameter.item()) < 0.3
