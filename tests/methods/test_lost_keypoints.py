"""Pairs by flow: a keypoint that a flow does not lead to is none of the target's."""

from typing import Any

import pytest
import torch
from torch import Tensor

from landmark_lab.data.batch import Pair, Sample
from landmark_lab.data.keypoints import KeypointTable
from landmark_lab.geometry.flow import FlowWarp
from landmark_lab.methods import self_training
from landmark_lab.plugin import build
from landmark_lab.roles import Method
from landmark_lab.seeding import BatchDraw

BACKBONE = {"name": "hourglass", "width": 16, "depth": 1, "blocks": 1, "stem": 0, "groups": 4}
BACKBONE["norm"] = "group"
METHODS = ["keypoint_self_training", "self_training_correspondence", "self_training"]
SIZE, CELLS = 32, 16
# Of the keypoints at these x the first one is followed, by a quarter of the image to the right.
FOLLOWED, HIDDEN, MOTION = -0.5, 0.25, 0.5


def learning(name: str, visible: float = 0.0, **settings: Any) -> tuple[Any, Pair]:
    """A method with two keypoints, and a pair whose flow is known left of ``visible``."""
    torch.manual_seed(0)
    given = {"name": name, "keypoints": "grid", "backbone": BACKBONE}
    model: Any = build(Method, {**given, **settings})
    points = torch.tensor([[FOLLOWED, 0.0], [HIDDEN, 0.0]])
    model.table = KeypointTable.of(1, torch.zeros(2, dtype=torch.int64), points, torch.ones(2))
    model.draw = BatchDraw.single(3, 1)
    generator = torch.Generator().manual_seed(1)
    first, second = (
        Sample(torch.rand(1, 3, SIZE, SIZE, generator=generator), torch.zeros(1, dtype=torch.int64))
        for _ in range(2)
    )
    flow = torch.zeros(1, 2, SIZE, SIZE)
    flow[:, 0] = MOTION
    columns = (torch.arange(SIZE) + 0.5) * 2 / SIZE - 1
    return model, Pair(first, second, FlowWarp(flow, (columns < visible).expand(1, SIZE, SIZE)))


def mark(x: float) -> Tensor:
    """The Gaussian at (x, 0) in a map, cell by cell."""
    column, row = (x + 1) * CELLS / 2 - 0.5, CELLS / 2 - 0.5
    values = torch.zeros(CELLS, CELLS)
    for i in range(CELLS):
        for j in range(CELLS):
            if abs(i - round(row)) <= 3 and abs(j - round(column)) <= 3:
                values[i, j] = torch.tensor(-((i - row) ** 2 + (j - column) ** 2) / 2).exp()
    return values


@pytest.mark.parametrize("name", METHODS)
def test_the_detector_learns_that_a_lost_keypoint_is_none(name: str) -> None:
    model, pair = learning(name)
    found = model.losses(pair)["detection"]
    maps = model.network(torch.cat([pair.source.image, pair.target.image]))
    source, target = (maps if isinstance(maps, Tensor) else maps.score)[:, 0]
    in_source = (source - torch.maximum(mark(FOLLOWED), mark(HIDDEN))).square()
    in_target = (target - mark(FOLLOWED + MOTION)).square()
    expected = torch.cat([in_source, in_target]).mean()
    torch.testing.assert_close(found, expected)


def test_no_descriptor_of_the_background_is_drawn_there(monkeypatch: pytest.MonkeyPatch) -> None:
    model, pair = learning("self_training", visible=-1.0, background=2000)
    places: list[Tensor] = []

    def kept(points: Tensor, uniform: Tensor) -> Tensor:
        places.append(draw(points, uniform))
        return places[0]

    draw = self_training.background_points
    monkeypatch.setattr(self_training, "background_points", kept)
    model.losses(pair)
    (found,) = places
    for view, shift in enumerate((0.0, MOTION)):
        keypoints = torch.tensor([[FOLLOWED + shift, 0.0], [HIDDEN + shift, 0.0]])
        seen = found[view][~found[view].isnan().any(1)]
        assert len(seen) > 1000
        assert torch.cdist(seen, keypoints).min() >= 6 * 2 / 64
