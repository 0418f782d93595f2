"""What the rotor's embeddings are measured by, and beside what."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from landmark_lab import checkpoint
from landmark_lab.config import read
from landmark_lab.experiment import run
from landmark_lab_plugins.worlds import rotor_symmetry


def renumbered(shapes: Tensor, seed: int) -> Tensor:
    """Shapes (B, 3, 2, 2) whose legs are counted from any of the three on."""
    turns = torch.randint(3, (len(shapes),), generator=torch.Generator().manual_seed(seed))
    return torch.stack([s.roll(int(t), 0) for s, t in zip(shapes, turns, strict=True)])


def test_the_mean_shape_does_not_mix_up_the_legs() -> None:
    generator = torch.Generator().manual_seed(0)
    shape = torch.rand(3, 2, 2, generator=generator) * 2 - 1
    noise = 0.02 * torch.randn(50, 3, 2, 2, generator=generator)
    found = rotor_symmetry.mean_shape(renumbered(shape + noise, 1))
    apart = [float((found - shape.roll(turn, 0)).norm(dim=-1).max()) for turn in range(3)]
    assert min(apart) < 0.02
    error = rotor_symmetry.up_to_a_turn(found.expand(50, 3, 2, 2), renumbered(shape + noise, 2))
    assert error.max() < 0.1 * rotor_symmetry.SIZE / 2


def test_errors_do_not_depend_on_the_numbering() -> None:
    marks = torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(3))
    assert rotor_symmetry.up_to_a_turn(marks, renumbered(marks, 4)).max() == 0
    off = marks + torch.tensor([3.0, 4.0]) / rotor_symmetry.SIZE * 2
    found = rotor_symmetry.up_to_a_turn(off, renumbered(marks, 5))
    assert (found <= 5.0001).all()
    assert found.max() == pytest.approx(5, abs=1e-3)


def test_figures_and_what_needs_no_training_are_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rotor.yaml").write_text(
        """
        data: {name: rotor, size: 32, frames: 4, train: 2, val: 1, test: 1}
        pairing: {name: frames, step: 1}
        loader: {batch_size: 2}
        method: {name: symmetric, dimension: 3, mirror: false, backbone: {name: local, width: 4}}
        trainer: {max_steps: 1, max_epochs: -1, accelerator: cpu, limit_val_batches: 0}
        evaluate: []
        """
    )
    folder = run(read(tmp_path / "rotor.yaml"), tmp_path / "runs")
    done = folder / "checkpoints" / "train" / "done.ckpt"
    for name, value in (("CLIPS", 2), ("FRAMES", 3), ("SIZE", 32)):
        monkeypatch.setattr(rotor_symmetry, name, value)
    out = tmp_path / "out" / "figures.json"
    monkeypatch.setattr(sys, "argv", ["rotor_symmetry", f"one={done}", "--out", str(out)])
    rotor_symmetry.main()
    written = json.loads(out.read_text())
    assert written["references"].keys() == {"mean_shape", "centroid"}
    row = written["rows"]["one"]
    assert row["values"].keys() == row["untrained"].keys() == {"turned", "not_turned", "matching"}
    assert row["method"]["name"] == "symmetric"
    assert str(tmp_path) not in out.read_text()
    assert f"{row['untrained']['matching']['value']:.2f}" in capsys.readouterr().out

    card, content = checkpoint.read(done)
    trained = content["state_dict"]
    start = dict(rotor_symmetry.untrained(card).named_parameters())
    moved = [float((value - trained[name]).detach().abs().max()) for name, value in start.items()]
    assert 0 < max(moved) < 0.1  # one step away

    monkeypatch.setattr(sys, "argv", ["rotor_symmetry", str(done), str(done)])
    with pytest.raises(SystemExit):
        rotor_symmetry.main()
    assert "give them names" in capsys.readouterr().err
