"""Collapse is noticed and said, and a collapsed run cannot win the label-free criterion."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from landmark_lab.callbacks.health import Health
from landmark_lab.callbacks.watch import CRITERION
from landmark_lab.data.batch import Pair, Sample
from landmark_lab.geometry.affine import AffineWarp
from tests.running.watched import Idle, watched

COUNT, LANDMARKS = 32, 5


class Fixed(Idle):
    """Finds what its images say: the first pixels of an image are its landmarks."""

    def landmarks(self, images: Tensor) -> tuple[Tensor, Tensor]:
        points = images[:, 0, 0, : 2 * LANDMARKS].unflatten(1, (LANDMARKS, 2))
        return points, torch.ones(points.shape[:2])


def image_of(points: Tensor) -> Tensor:
    images = torch.zeros(len(points), 3, 1, 2 * LANDMARKS)
    images[:, 0, 0] = points.flatten(1)
    return images


def look(found: Tensor, noise: float) -> tuple[dict[str, float], list[str]]:
    """What Health logs and says about landmarks that follow a shift but for some noise."""
    shift = torch.tensor([[1.0, 0, 0.1], [0, 1.0, -0.05]]).expand(COUNT, 2, 3)
    warp = AffineWarp(shift)
    generator = torch.Generator().manual_seed(1)
    error = noise * torch.randn(found.shape, generator=generator)
    index = torch.arange(COUNT)
    pair = Pair(
        Sample(image_of(found), index),
        Sample(image_of(warp.to_target(found) + error), index),
        warp,
    )
    return watched(Fixed(), pair, Health())


def scattered(seed: int = 0) -> Tensor:
    """K different points that move together and a little on their own."""
    generator = torch.Generator().manual_seed(seed)
    shape = torch.rand(1, LANDMARKS, 2, generator=generator) - 0.5
    together = 0.15 * torch.randn(COUNT, 1, 2, generator=generator)
    return shape + together + 0.02 * torch.randn(COUNT, LANDMARKS, 2, generator=generator)


def test_healthy_landmarks_are_left_in_peace() -> None:
    values, said = look(scattered(), noise=0.02)
    assert said == []
    assert values["val/distinct"] == LANDMARKS
    assert values["val/spread"] > 0.1
    assert values[CRITERION] < 0.4


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (scattered()[:1].expand(COUNT, -1, -1), "do not move over images"),
        (scattered()[:, :1].expand(-1, LANDMARKS, -1), "repeat another one"),
        (torch.zeros(COUNT, LANDMARKS, 2), "sit in the middle"),
        (torch.full((COUNT, LANDMARKS, 2), torch.nan), "are never found"),
    ],
)
def test_a_collapse_is_said_once_and_cannot_win(found: Tensor, message: str) -> None:
    healthy, _ = look(scattered(), noise=0.02)
    # Ten times as equivariant as the healthy ones.
    values, said = look(found, noise=0.002)
    assert sum(message in text for text in said) == 1
    assert values[CRITERION] > healthy[CRITERION] + 0.2


@pytest.mark.slow
def test_the_known_failure_is_noticed(tmp_path: Path) -> None:
    """With weak warps every landmark freezes while loss and equivariance error look fine."""
    from landmark_lab.config import read
    from landmark_lab.experiment import run

    weak = {"rotation": "[2.0, 2.0]", "translation": "[0.02, 0.02]", "scale": "[0.02, 0.02]"}
    demo = Path(__file__).parents[2] / "experiments" / "demo.yaml"
    changes = [f"pairing.warps.{name}={value}" for name, value in weak.items()]
    with pytest.warns(UserWarning, match="collapse: .* do not move over images"):
        folder = run(read(demo, changes), tmp_path)
    rows = (folder / "metrics" / "train.csv").read_text().splitlines()
    header = rows[0].split(",")
    last = dict(zip(header, rows[-1].split(","), strict=True))
    first = dict(zip(header, rows[1].split(","), strict=True))
    assert float(last["val/equivariance"]) < 0.05
    assert float(last["val/loss"]) < 0.3 * float(first["train/loss"])
