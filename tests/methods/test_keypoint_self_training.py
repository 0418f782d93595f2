"""Self-training without correspondence: its loss, its rounds, and what the template is given."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pytorch_lightning import Callback
from torch import Tensor

from landmark_lab import checkpoint
from landmark_lab.config import read
from landmark_lab.data.batch import Pair, Sample
from landmark_lab.data.keypoints import KeypointTable
from landmark_lab.data.rounds import read_round
from landmark_lab.errors import ConfigError, DataError, LandmarkLabError
from landmark_lab.experiment import run
from landmark_lab.losses.heatmap import Gaussian, gaussian_target
from landmark_lab.methods.keypoint_self_training import KeypointSelfTraining
from landmark_lab.methods.landmark_detector import LandmarkDetector
from landmark_lab.plugin import build
from landmark_lab.roles import Keypoints, Landmarks, Method, Pairing
from landmark_lab.rounds import Found, UnusableRound
from landmark_lab.seeding import BatchDraw
from tests.clustering.test_template import FACE

BACKBONE = {"name": "hourglass", "width": 16, "depth": 1, "blocks": 1, "stem": 0, "groups": 4}
BACKBONE["norm"] = "group"
SIZE = 32
FACE_POINTS = {"points": FACE.tolist()}


def method(**changes: Any) -> KeypointSelfTraining:
    torch.manual_seed(0)
    small = {"keypoints": "grid", "backbone": BACKBONE, "threshold": 0.0}
    built = build(Method, {"name": "keypoint_self_training", **small, **changes})
    assert isinstance(built, KeypointSelfTraining)
    return built


def keypoints(images: int = 4, each: int = 5) -> KeypointTable:
    generator = torch.Generator().manual_seed(1)
    points = torch.rand(images * each, 2, generator=generator) * 1.6 - 0.8
    scores = torch.rand(images * each, generator=generator)
    return KeypointTable.of(images, torch.arange(images).repeat_interleave(each), points, scores)


def pair(images: int = 4, pairing: str = "mirrored") -> Pair:
    generator = torch.Generator().manual_seed(2)
    sample = Sample(torch.rand(images, 3, SIZE, SIZE, generator=generator), torch.arange(images))
    made: Pair = build(Pairing, pairing).pair((sample, sample), BatchDraw.single(2, images))
    return made


def test_the_loss_is_the_mean_squared_error_of_both_views() -> None:
    model, batch = method(), pair()
    model.table = keypoints()
    found = model.losses(batch)["detection"]
    assert batch.view is not None
    assert batch.warp is not None
    points = model.table.padded(batch.source.index)[0]
    source = batch.view.to_target(points)
    images = (batch.source.image, batch.target.image)
    errors = [
        (model.network(image) - gaussian_target(places, (16, 16), Gaussian())).square().mean()
        for image, places in zip(images, (source, batch.warp.to_target(source)), strict=True)
    ]
    assert torch.allclose(found, sum(errors) / 2)


def test_an_image_without_keypoints_teaches_that_there_are_none() -> None:
    model, batch = method(), pair()
    some = keypoints()
    model.table = some.select(some.image != 2)
    loss = model.losses(batch)["detection"]
    loss.backward()
    assert torch.isfinite(loss)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)


class _Stub(torch.nn.Module):
    """A map with one peak; it counts how often it is asked."""

    calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        maps = torch.zeros(len(images), 1, 16, 16)
        maps[..., 8, 8] = 0.7
        return maps


@pytest.mark.parametrize(("last", "distilled"), [(0, False), (1, False), (2, True), (5, True)])
def test_keypoints_are_distilled_from_a_round_on(last: int, distilled: bool) -> None:
    model = method(distil=3)
    stub = _Stub()
    model.network = stub  # type: ignore[assignment]
    model.last_round.fill_(last)
    points, scores, labels = model.keypoints(torch.rand(2, 3, SIZE, SIZE))
    assert stub.calls == (12 if distilled else 1)
    assert (labels == -1).all()
    assert (scores > 0).sum() >= 2
    assert points.shape[:2] == scores.shape


def test_a_round_that_found_nothing_does_not_put_the_distillation_off() -> None:
    model = method(distil=3)
    stub = _Stub()
    model.network = stub  # type: ignore[assignment]
    model.last_round.fill_(1)
    model.number = 2  # of which nothing was left
    model.keypoints(torch.rand(1, 3, SIZE, SIZE))
    assert stub.calls == 12


def test_it_finds_unordered_keypoints_and_no_landmarks() -> None:
    assert isinstance(method(), Keypoints)
    assert not isinstance(method(), Landmarks)


def test_the_next_stage_gets_the_template_order() -> None:
    model = method(template=FACE_POINTS)
    order = torch.randperm(13, generator=torch.Generator().manual_seed(0))
    image = torch.arange(2).repeat_interleave(13)
    found = KeypointTable.of(2, image, torch.cat([FACE[order]] * 2), torch.ones(26))
    table = model.conclude(found).table
    assert torch.equal(table.points, torch.cat([FACE] * 2))
    assert table.labels.tolist() == list(range(13)) * 2
    with pytest.raises(UnusableRound, match="no image has keypoints for 6"):
        model.conclude(found.select(torch.arange(26) < 2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"landmarks": 5, "template": FACE_POINTS}, "a template of 13 points for 5 landmarks"),
        ({"landmarks": 2}, "landmarks 2"),
        ({"every": 0}, "every 0"),
        ({"threshold": 1.0}, "threshold 1.0"),
        ({"template": {"points": [[0, 0], [1, 1]]}}, "a template of 2 points"),
        ({"template": {"imag": 3}}, "imag"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LandmarkLabError, match=message):
        method(**changes)


def test_mirrored_pairs_need_mirrored_alignment() -> None:
    pairing = build(Pairing, "mirrored")
    method().check_pairs(pairing, None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="mirror"):
        method(mirror=False).check_pairs(pairing, None)  # type: ignore[arg-type]


# --- experiments ---------------------------------------------------------------------------------

DATA = {"name": "toy_faces", "size": 32, "train": 16, "val": 4, "test": 4}
STAGES: dict[str, Any] = {
    "name": "template",
    "data": DATA,
    "pairing": {"name": "mirrored"},
    "loader": {"batch_size": 4, "workers": 0, "colours": {}},
    "stages": {
        "keypoints": {
            "method": {
                "name": "keypoint_self_training",
                "landmarks": 4,
                "template": {"image": 1, "least": 0.25, "reach": 0.5},
                "keypoints": {"name": "mixture", "share": 1.0},
                "backbone": BACKBONE,
                "every": 2,
                "distil": 3,
                "threshold": 0.0,
            },
            "trainer": {"max_steps": 5, "max_epochs": -1, "accelerator": "cpu"},
        },
        "landmarks": {
            "method": {
                "name": "landmark_detector",
                "labels": {"stage": "keypoints"},
                "landmarks": 4,
                "backbone": BACKBONE,
                "every": 2,
                "afresh": True,
            },
            "trainer": {"max_steps": 5, "max_epochs": -1, "accelerator": "cpu"},
        },
    },
}


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("LANDMARK_LAB_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def experiment(folder: Path, settings: dict[str, Any] | None = None) -> Path:
    path = folder / "template.yaml"
    path.write_text(yaml.safe_dump(settings or STAGES))
    return path


def test_both_stages_run_in_rounds_from_scratch(tmp_path: Path) -> None:
    weights: dict[tuple[str, int], Tensor] = {}

    class Weights(Callback):
        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            head = module.network.head.weight.detach().clone()
            weights[type(module).__name__, trainer.global_step] = head
            if trainer.global_step in (2, 4):
                # The state of the optimiser goes with the weights that it belonged to.
                assert not optimizer.state

    folder = run(read(experiment(tmp_path)), tmp_path / "runs", callbacks=[Weights()])
    names = [file.name for file in sorted((folder / "rounds" / "keypoints").iterdir())]
    assert names == ["000.npz", "001.npz", "002.npz"]
    for kind in ("KeypointSelfTraining", "LandmarkDetector"):
        within = (weights[kind, 1] - weights[kind, 0]).abs().max()
        between = (weights[kind, 2] - weights[kind, 1]).abs().max()
        assert between > 5 * within
    records = [read_round(file) for file in sorted((folder / "rounds" / "landmarks").iterdir())]
    assert len(records) == 3
    # The template's landmarks first; then those that the detector finds itself, all in all images.
    assert records[0].table.labels.max() == 3
    assert records[1].table.counts().tolist() == [4] * 16
    assert records[1].table.labels.tolist() == list(range(4)) * 16
    # What round 0 found out stays: the template's image, and which landmark is which when mirrored.
    first = checkpoint.load(folder / "checkpoints" / "keypoints" / "done.ckpt")
    assert isinstance(first, KeypointSelfTraining)
    assert int(first.template_image) == 1
    loaded = checkpoint.load(folder / "checkpoints" / "landmarks" / "done.ckpt")
    assert isinstance(loaded, LandmarkDetector)
    assert torch.equal(loaded.partner, records[0].kept["partner"])
    assert loaded.partner[loaded.partner].tolist() == list(range(4))
    assert isinstance(loaded, Landmarks)
    points, _ = loaded.landmarks(torch.rand(2, 3, 32, 32))
    assert points.shape == (2, 4, 2)


def test_a_template_image_that_does_not_exist_is_named_at_once(tmp_path: Path) -> None:
    settings = yaml.safe_load(yaml.safe_dump(STAGES))
    settings["stages"]["keypoints"]["method"]["template"]["image"] = 99
    with pytest.raises(DataError, match=r"template\.image: there is no image 99; allowed: 0 to 15"):
        run(read(experiment(tmp_path, settings)), tmp_path / "runs")


def test_a_round_in_which_nothing_survives_keeps_the_last_keypoints(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(self: KeypointSelfTraining, sample: Sample) -> Found:
        return Found(torch.full((len(sample), 5, 2), torch.nan), torch.zeros(len(sample), 5))

    monkeypatch.setattr(KeypointSelfTraining, "find", nothing)
    settings = yaml.safe_load(yaml.safe_dump(STAGES))
    del settings["stages"]["landmarks"]
    folder = run(read(experiment(tmp_path, settings)), tmp_path / "runs")
    assert [f.name for f in (folder / "rounds" / "keypoints").iterdir()] == ["000.npz"]
    said = [str(one.message) for one in recwarn]
    assert any("no keypoint was found" in one and "are kept" in one for one in said)
