"""Rounds: when they begin, what is learned from and written down, and that resuming is exact."""

import csv
import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import yaml
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from landmark_lab import checkpoint
from landmark_lab.config import read
from landmark_lab.data import rounds
from landmark_lab.data.batch import Pair, Sample
from landmark_lab.data.keypoints import KeypointTable
from landmark_lab.data.rounds import (
    Labelled,
    compare,
    looked_at,
    read_round,
    same_place,
    write_round,
)
from landmark_lab.data.sampling import LoaderSettings
from landmark_lab.errors import ConfigError, DataError, LandmarkLabError
from landmark_lab.experiment import run
from landmark_lab.files import load_checkpoint
from landmark_lab.geometry.flow import FlowWarp
from landmark_lab.plugin import build
from landmark_lab.roles import ImageData, Method, Pairing
from landmark_lab.rounds import Labels, RoundsMethod, UnusableRound, evaluating
from landmark_lab.seeding import BatchDraw
from tests.clustering.pretended import PretendedCuda
from tests.running.test_resume import KeepEvery, differences, outcome

BACKBONE = {"name": "hourglass", "width": 16, "depth": 1, "blocks": 1, "stem": 0, "groups": 4}
SMALL: dict[str, Any] = {
    "name": "self_training",
    "landmarks": 3,
    "clusters": 5,
    "keypoints": {"name": "grid"},
    "backbone": {**BACKBONE, "norm": "group"},
    "dimension": 8,
    "warm_up": 2,
    "every": 3,
    "threshold": 0.0,
    "isolated": 0.0,
    "schedule": "constant",
}
SETTINGS: dict[str, Any] = {
    "name": "rounds",
    "data": {"name": "toy_faces", "size": 32, "train": 12, "val": 8, "test": 4},
    "pairing": {"name": "mirrored"},
    "loader": {"batch_size": 4, "workers": 0, "colours": {}},
    "method": SMALL,
    "trainer": {"max_epochs": 3, "log_every_n_steps": 1, "accelerator": "cpu"},
    "save_every": 1,
}
STAGE = "train"


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("LANDMARK_LAB_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def experiment(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "rounds.yaml"
    path.write_text(yaml.safe_dump({**SETTINGS, **changes}))
    return path


def method(**changes: Any) -> RoundsMethod:
    built = build(Method, {**SMALL, **changes})
    assert isinstance(built, RoundsMethod)
    return built


def table(counts: list[int], seed: int = 0, labels: int = 0) -> KeypointTable:
    """Random keypoints, so many in each image."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    points = torch.rand(len(image), 2, generator=generator) * 2 - 1
    own = torch.randint(labels, (len(image),), generator=generator) if labels else None
    scores = torch.rand(len(image), generator=generator)
    descriptors = torch.rand(len(image), 6, generator=generator)
    return KeypointTable.of(len(counts), image, points, scores, own, own, descriptors)


# --- when, and resuming --------------------------------------------------------------------------


def test_rounds_begin_after_the_first_and_every_so_many_steps() -> None:
    found = [method(warm_up=2, every=3).round_at(step) for step in range(9)]
    assert found == [0, 0, 1, 1, 1, 2, 2, 2, 3]
    assert [method(warm_up=2, every=0).round_at(step) for step in (1, 2, 99)] == [0, 1, 1]
    with pytest.raises(ConfigError, match="warm_up 0"):
        method(warm_up=0)


def test_resuming_inside_any_round_equals_the_uninterrupted_run(tmp_path: Path) -> None:
    path, kept = experiment(tmp_path), tmp_path / "kept"
    kept.mkdir()
    folder = run(read(path), tmp_path / "runs", callbacks=[KeepEvery(kept)])
    whole, log = outcome(folder)
    done = folder / "checkpoints" / STAGE / "done.ckpt"
    tables = load_checkpoint(done)["rounds"]
    assert tables["number"] == 3
    records = {p.name: p.read_bytes() for p in (folder / "rounds" / STAGE).iterdir()}
    assert sorted(records) == ["000.npz", "001.npz", "002.npz", "003.npz"]
    saved = sorted(kept.glob("*.ckpt"))
    assert len(saved) == 9
    for file in saved[1::2]:  # within rounds, and at their beginnings
        done.unlink()
        shutil.copy(file, done.parent / "last.ckpt")
        run(read(path), tmp_path / "runs", resume=folder)
        again, its_log = outcome(folder)
        assert differences(whole, again, "") == [], file.stem
        assert differences(tables, load_checkpoint(done)["rounds"], "") == [], file.stem
        assert its_log == log, file.stem
    for name, content in records.items():
        assert (folder / "rounds" / STAGE / name).read_bytes() == content


def trained(
    folder: Path,
    steps: int,
    resume: Path | None = None,
    method: dict[str, Any] = SMALL,
    **more: Any,
) -> Path:
    """A run of so many steps; rounds begin after 2, 5 and 8."""
    trainer = {**SETTINGS["trainer"], "max_epochs": -1, "max_steps": steps}
    path = experiment(folder, trainer=trainer, method=method)
    return run(read(path), folder / f"runs{steps}", resume=resume, **more)


def last_checkpoint(folder: Path) -> dict[str, Any]:
    return load_checkpoint(folder / "checkpoints" / STAGE / "done.ckpt")


def logged_rounds(folder: Path) -> list[str]:
    with (folder / "metrics" / f"{STAGE}.csv").open() as stream:
        return [row["round/number"] for row in csv.DictReader(stream) if row["round/number"]]


def test_the_end_of_a_training_begins_the_next_round(tmp_path: Path) -> None:
    short, long = trained(tmp_path, 8), trained(tmp_path, 9)
    last = short / "rounds" / STAGE / "003.npz"
    assert last.read_bytes() == (long / "rounds" / STAGE / "003.npz").read_bytes()
    done = last_checkpoint(short)
    assert done["rounds"]["number"] == 3
    for name, value in read_round(last).kept.items():
        assert torch.equal(done["state_dict"][name][: len(value)], value), name
    assert logged_rounds(short) == ["0.0", "1.0", "2.0", "3.0"]
    prolonged = trained(tmp_path, 9, resume=short)
    assert differences(outcome(long)[0], outcome(prolonged)[0], "") == []
    assert logged_rounds(prolonged) == ["0.0", "1.0", "2.0", "3.0"]


def test_whoever_is_killed_at_the_end_has_the_last_round_when_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = last_checkpoint(trained(tmp_path / "whole", 8))

    def killed(*_: object, **more: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(RoundsMethod, "_begin_round_if_due", begin_until(8, killed))
        with pytest.raises(RuntimeError, match="killed"):
            trained(tmp_path, 8)
    (folder,) = (tmp_path / "runs8" / "rounds").iterdir()
    resumed = last_checkpoint(trained(tmp_path, 8, resume=folder))
    assert resumed["rounds"]["number"] == 3
    assert differences(whole["state_dict"], resumed["state_dict"], "") == []


def begin_until(step: int, then: Callable[..., None]) -> Callable[..., None]:
    """How rounds begin before a step; from then on something else happens."""
    begin = RoundsMethod._begin_round_if_due

    def instead(self: RoundsMethod, *arguments: Any, **more: Any) -> None:
        (then if self.trainer.global_step >= step else begin)(self, *arguments, **more)

    return instead


def test_a_training_that_is_stopped_ends_with_a_round_as_well(tmp_path: Path) -> None:
    class Stop(Callback):
        def on_train_batch_end(self, trainer: Any, *_: object) -> None:
            trainer.should_stop = trainer.global_step == 5

    folder = trained(tmp_path, 100, callbacks=[Stop()])
    assert last_checkpoint(folder)["rounds"]["number"] == 2
    assert logged_rounds(folder) == ["0.0", "1.0", "2.0"]


def test_a_training_that_ends_before_the_first_clustering_says_so(tmp_path: Path) -> None:
    path = experiment(tmp_path, trainer={**SETTINGS["trainer"], "max_epochs": -1, "max_steps": 1})
    with pytest.warns(UserWarning, match="ends after 1 steps, before its descriptors"):
        folder = run(read(path), tmp_path)
    assert len(list((folder / "rounds" / STAGE).iterdir())) == 1


def test_a_training_that_is_stopped_before_the_first_clustering_says_so(tmp_path: Path) -> None:
    class Stop(Callback):
        def on_train_batch_end(self, trainer: Any, *_: object) -> None:
            trainer.should_stop = True

    with pytest.warns(UserWarning, match="ends after 1 steps, before its descriptors"):
        folder = trained(tmp_path, 100, callbacks=[Stop()])
    assert last_checkpoint(folder)["rounds"]["number"] == 0


TEMPLATE: dict[str, Any] = {
    "name": "keypoint_self_training",
    "keypoints": "grid",
    "backbone": SMALL["backbone"],
    "every": 4,
    "threshold": 0.0,
}


def test_a_last_round_that_is_cut_short_is_said(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    trained(tmp_path / "whole", 8, method=TEMPLATE)
    assert not [w for w in recwarn if "its last round" in str(w.message)]
    trained(tmp_path / "cut", 5, method=TEMPLATE)
    (said,) = [str(w.message) for w in recwarn if "its last round" in str(w.message)]
    assert "ends after 5 steps: its last round, which starts with new weights, has 1 of 4" in said


def test_parts_that_would_start_afresh_cannot_be_frozen(tmp_path: Path) -> None:
    frozen = {"method": TEMPLATE, "freeze": ["network.backbone"]}
    with pytest.raises(ConfigError, match="freeze: 'keypoint_self_training' starts with new wei"):
        run(read(experiment(tmp_path, stages={STAGE: frozen})), tmp_path)
    assert not (tmp_path / "rounds").exists()


def test_a_schedule_that_follows_what_is_not_logged_is_refused(tmp_path: Path) -> None:
    method = {**SMALL, "schedule": {"name": "plateau"}}
    with pytest.raises(ConfigError, match="the schedule follows 'val/loss', which was not logged"):
        run(read(experiment(tmp_path, method=method)), tmp_path)


def test_a_training_that_diverges_says_so(tmp_path: Path) -> None:
    class Diverge(Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *_: object) -> None:
            if trainer.global_step == 3:
                torch.nn.init.constant_(module.network.detector.weight, torch.nan)

    with pytest.warns(UserWarning, match="collapse: the loss is nan at step 4"):
        trained(tmp_path, 6, callbacks=[Diverge()])


def test_a_trained_method_is_loaded_without_its_table(tmp_path: Path) -> None:
    folder = run(read(experiment(tmp_path, trainer={"max_steps": 3, "max_epochs": -1})), tmp_path)
    done = folder / "checkpoints" / STAGE / "done.ckpt"
    loaded = checkpoint.load(done)
    assert isinstance(loaded, RoundsMethod)
    with pytest.raises(DataError, match="no pseudo-labels"):
        _ = loaded.table
    # Tables of other sizes do not keep weights from another method of the same kind.
    checkpoint.load_weights(method(), load_checkpoint(done)["state_dict"], done)


# --- the records ---------------------------------------------------------------------------------


def test_a_round_is_written_down_and_read_back(tmp_path: Path) -> None:
    found = table([3, 0, 2], labels=4)
    kept = {"centroids_k": torch.rand(4, 6)}
    labelled = Labelled(found, kept, "torch on cuda:1")
    write_round(tmp_path / "007.npz", labelled, 40, 7, np.array([2, 0, 1]))
    record = read_round(tmp_path / "007.npz")
    assert (record.number, record.step, record.clustered) == (7, 40, "torch on cuda:1")
    assert record.looked_at.tolist() == [0, 1, 2]
    assert differences(found.state(), record.table.state(), "") == []
    assert torch.equal(record.kept["centroids_k"], kept["centroids_k"])
    assert torch.equal(record.counts, found.labels.bincount())
    assert found.descriptors is not None
    assert record.descriptors is not None
    torch.testing.assert_close(
        record.descriptors, found.descriptors[record.sample], atol=1e-3, rtol=0
    )


def test_the_images_that_rounds_are_about(tmp_path: Path) -> None:
    for number, counts in enumerate(([3, 0, 2, 0], [0, 0, 2, 0])):
        used = np.array([0, 1, 2])
        write_round(tmp_path / f"{number}.npz", Labelled(table(counts)), 0, number, used)
    records = [read_round(tmp_path / f"{number}.npz") for number in range(2)]
    assert looked_at(records).tolist() == [0, 1, 2]
    assert looked_at([]).tolist() == []
    for number in range(2):  # as they were written once
        with np.load(tmp_path / f"{number}.npz") as archive:
            old = {n: archive[n] for n in archive.files if n not in ("looked_at", "clustered")}
        np.savez(tmp_path / f"{number}.npz", **old)
    records = [read_round(tmp_path / f"{number}.npz") for number in range(2)]
    assert [record.looked_at.tolist() for record in records] == [[0, 2], [2]]
    assert looked_at(records).tolist() == [0, 2]
    assert records[0].clustered == ""


def test_what_is_no_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"nothing")
    np.savez(tmp_path / "b.npz", number=1)
    for name in ("a.npz", "b.npz", "none.npz"):
        with pytest.raises(DataError, match="no record of a round"):
            read_round(tmp_path / name)


def nearest_oracle(one: KeypointTable, other: KeypointTable, distance: float) -> list[int]:
    found = []
    for image, point in zip(one.image, one.points, strict=True):
        best, row = distance, -1
        for j in range(len(other)):
            apart = float((other.points[j] - point).norm())
            if other.image[j] == image and apart <= best:
                best, row = apart, j
        found.append(row)
    return found


@pytest.mark.parametrize("counts", [[4, 0, 7], [0, 3, 0], [0, 0, 0]])
def test_where_keypoints_were_before(counts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "_PAIRS", 80)  # two images at a time, where there are any
    one, other = table([5, 2, 6]), table(counts, seed=1)
    assert same_place(one, other, 0.6).tolist() == nearest_oracle(one, other, 0.6)
    assert same_place(other, one, 0.6).tolist() == nearest_oracle(other, one, 0.6)


def test_what_changed() -> None:
    before = table([3, 2, 0, 3], labels=3)
    same = compare(before, before, 1, 4)
    assert (same.stayed, same.agreement, same.keypoints) == (1.0, pytest.approx(1.0), 2.0)
    assert same.without == 0.25
    assert same.clusters == len(before.labels.unique())
    assert same.largest == pytest.approx(before.labels.bincount().max().item() / 8)
    other = compare(table([3, 2, 0, 3], seed=5, labels=3), before, 2, 4)
    assert other.stayed < 1
    first = compare(table([1, 0]), None, 0, 2)
    assert np.isnan(first.stayed)
    assert np.isnan(first.agreement)
    assert first.clusters == 0
    assert "0 clusters" not in str(first)


# --- keypoints in the images of a pair -----------------------------------------------------------


def toy_pair(name: str, count: int = 6) -> tuple[Pair, Tensor]:
    """A pair of random images, whose annotated points are the keypoints."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(count, 4, 2, generator=generator) - 0.5
    sample = Sample(torch.rand(count, 3, 32, 32), torch.arange(count), points=points)
    pairing = build(Pairing, name)
    return pairing.pair((sample, sample), BatchDraw.single(2, count)), points


@pytest.mark.parametrize("name", ["synthetic", "mirrored"])
def test_keypoints_move_with_the_images_of_a_pair(name: str) -> None:
    pair, points = toy_pair(name)
    labels, mirrored = torch.arange(4).repeat(6), torch.arange(4).flip(0).repeat(6)
    model = method()
    image = torch.arange(6).repeat_interleave(4)
    model.table = KeypointTable.of(6, image, points.flatten(0, 1), torch.ones(24), labels, mirrored)
    (found, moved), (own, theirs), lost = model.in_views(pair)
    assert lost.shape == (2, 6, 0, 2)
    torch.testing.assert_close(found, pair.source.points, atol=1e-4, rtol=0)
    torch.testing.assert_close(moved, pair.target.points, atol=1e-3, rtol=0)
    assert torch.equal(theirs, labels.view(6, 4))
    flipped = torch.zeros(6, dtype=torch.bool) if pair.mirrored is None else pair.mirrored
    assert torch.equal(own, torch.where(flipped[:, None], mirrored.view(6, 4), theirs))
    assert (pair.mirrored is not None) == (name == "mirrored")
    if pair.mirrored is not None:
        assert 0 < flipped.sum() < 6


def test_keypoints_that_a_flow_hides_are_not_in_the_target() -> None:
    model = method()
    points = torch.tensor([[-0.5, 0.0], [0.5, 0.0]])
    model.table = KeypointTable.of(1, torch.zeros(2, dtype=torch.int64), points, torch.ones(2))
    images = Sample(torch.rand(1, 3, 16, 16), torch.zeros(1, dtype=torch.int64))
    flow = torch.zeros(1, 2, 16, 16)
    flow[:, 0] = 0.25
    visible = torch.ones(1, 16, 16, dtype=torch.bool)
    visible[:, :, 8:] = False
    pair = Pair(images, images, FlowWarp(flow, visible))
    (found, moved), _, (none, lost) = model.in_views(pair)
    assert torch.equal(found[0], points)
    torch.testing.assert_close(moved[0, 0], torch.tensor([-0.25, 0.0]))
    assert moved[0, 1].isnan().all()
    assert none.isnan().all()
    assert lost[0, 0].isnan().all()
    torch.testing.assert_close(lost[0, 1], torch.tensor([0.75, 0.0]))


# --- what can go wrong ---------------------------------------------------------------------------


def test_a_round_without_keypoints_keeps_the_labels_of_the_last(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    changes = {**SMALL, "threshold": 0.999}
    path = experiment(tmp_path, method=changes, trainer={"max_steps": 9, "max_epochs": -1})
    folder = run(read(path), tmp_path / "runs")
    said = [
        str(w.message) for w in recwarn if "pseudo-labels of the round before" in str(w.message)
    ]
    assert [s.partition(":")[0] for s in said] == ["round 2", "round 3"]
    content = load_checkpoint(folder / "checkpoints" / STAGE / "done.ckpt")
    assert content["rounds"]["number"] == 3
    kept = read_round(folder / "rounds" / STAGE / "001.npz").table.state()
    assert differences(content["rounds"]["table"], kept, "") == []
    weights = {k: v for k, v in content["state_dict"].items() if "centroids" not in k}
    assert all(v.isfinite().all() for v in weights.values())


def test_a_first_clustering_of_nothing_leaves_the_initial_keypoints(tmp_path: Path) -> None:
    model = method(every=0)
    model.trainer = Running(0, 1)  # type: ignore[assignment]
    model.folder = tmp_path
    model.on_train_start()
    assert not model.labelled
    before = model.table.state()

    def nothing(found: KeypointTable) -> Labelled:
        raise UnusableRound("nothing is left")

    with pytest.warns(UserWarning, match="round 1: nothing is left; the pseudo-labels of the"):
        model._renew(model._survey(model), nothing, 1)
    assert model.number == 1
    assert not model.labelled
    assert differences(before, model.table.state(), "") == []
    assert [file.name for file in tmp_path.iterdir()] == ["000.npz"]
    # The next round describes the initial keypoints still, and not what the detector would find.
    found = model._survey(model)
    assert torch.equal(found.points, before["points"])
    assert found.descriptors is not None
    model._renew(found, lambda table: model.relabel(table, 2), 2)
    assert model.labelled


def test_nothing_to_begin_with_is_an_error(tmp_path: Path) -> None:
    nothing = {**SMALL, "keypoints": {"name": "sift", "contrast": 1.0}}
    with pytest.raises(LandmarkLabError, match="no keypoint"):
        run(read(experiment(tmp_path, method=nothing)), tmp_path / "runs")


def test_a_collapse_is_said(recwarn: pytest.WarningsRecorder) -> None:
    model = method()
    model._table = table([1, 0, 0, 0, 0])
    change = compare(table([1, 0, 0, 0, 0], labels=1), None, 4, 5)
    assert change.largest == 1
    model.trainer = type(  # type: ignore[assignment]
        "T", (), {"datamodule": type("D", (), {"training_rows": lambda self: range(5)})(),
                  "loggers": [], "global_step": 0, "current_epoch": 0},
    )()  # fmt: skip
    model._say(change, table([8, 8, 8, 8, 8]), 0)
    said = [str(w.message) for w in recwarn]
    assert any("only 0.20 keypoints" in s and "after 8.00" in s for s in said)
    assert any("100% of the keypoints are in one cluster in round 4" in s for s in said)


def test_pairs_must_be_related_and_mirrored_ones_labelled() -> None:
    with pytest.raises(ConfigError, match="from image to image"):
        method().check_pairs(build(Pairing, "random"), None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="mirror images"):
        method(mirror=False).check_pairs(build(Pairing, "mirrored"), None)  # type: ignore[arg-type]
    method().check_pairs(build(Pairing, "mirrored"), None)  # type: ignore[arg-type]


def test_labels_name_one_source() -> None:
    for given in ({}, {"stage": "a", "checkpoint": "b"}):
        with pytest.raises(ValueError, match="either a stage or a checkpoint"):
            Labels(**given)


def test_looking_leaves_every_part_in_its_mode() -> None:
    model = method()
    model.freeze_parts(["network.backbone"])
    before = {name: part.training for name, part in model.named_modules()}
    with evaluating(model):
        assert not any(part.training for part in model.modules())
    assert {name: part.training for name, part in model.named_modules()} == before
    assert len(set(before.values())) == 2


# --- where ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        {**SMALL, "isolated": 0.3},
        {
            "name": "self_training_correspondence",
            "clusters": 5,
            "keypoints": "sift",
            "backbone": SMALL["backbone"],
            "dimension": 16,
            "isolated": 0.3,
        },
    ],
    ids=lambda spec: spec["name"],
)
def test_what_was_found_is_clustered_on_the_methods_gpu(
    spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    found = table([4, 0, 5, 6, 3])
    wide = torch.rand(len(found), 16, generator=torch.Generator().manual_seed(0))
    found = replace(found, descriptors=wide)
    tables = []
    for device in ("cpu", "cuda"):
        model = build(Method, spec)
        assert isinstance(model, RoundsMethod)
        model.trainer = Running(0, 1)  # type: ignore[assignment]
        model.folder = tmp_path / device
        with PretendedCuda():
            model._device = torch.device(device, 0)
            for number in range(2):
                model._renew(found, partial(model.relabel, number=number), number)
            assert model.table.points.is_cuda == (device == "cuda")
        tables.append(model.table.state())
    assert differences(*tables, "") == []
    clustered = [read_round(tmp_path / name / "001.npz").clustered for name in ("cpu", "cuda")]
    assert clustered == ["torch on cpu", "torch on cuda:0"]


def test_a_device_without_double_precision_is_not_clustered_on() -> None:
    model, vectors = method(), torch.rand(2, 3)
    model._device = torch.device("mps")
    assert model.to_cluster(vectors) is vectors


# --- two processes -------------------------------------------------------------------------------


class Running:
    """What a method needs of a trainer, in one of several processes."""

    def __init__(self, rank: int, world: int) -> None:
        self.global_rank, self.world_size = rank, world
        self.is_global_zero = rank == 0
        self.predicting = self.testing = self.training = False
        self.global_step = self.current_epoch = 0
        self.estimated_stepping_batches = 99
        self.loggers: list[Any] = []
        self.precision_plugin = self
        self.datamodule = build(ImageData, {**SETTINGS["data"], "train": 13})
        loader = LoaderSettings(batch_size=4 // world)
        self.datamodule.prepare_training(build(Pairing, "synthetic"), loader, 0)
        self.datamodule.trainer = self

    def val_step_context(self) -> Any:
        return nullcontext()


def two_rounds(rank: int, world: int, folder: str) -> dict[str, Any]:
    """The tables and centroids of the first rounds."""
    if world > 1:
        store = f"file://{folder}/store"
        patience = timedelta(minutes=5)
        dist.init_process_group("gloo", store, patience, rank=rank, world_size=world)
    torch.manual_seed(0)
    model = method()
    model.trainer = Running(rank, world)  # type: ignore[assignment]
    if rank == 0:
        model.folder = Path(folder) / f"of{world}"
    model.on_train_start()
    found = model._survey(model)
    model._renew(found, lambda table: model.relabel(table, 1), 1)
    once = model.table.state()
    found = model._survey(model)
    model._renew(found, lambda table: model.relabel(table, 2), 2)
    buffers = {name: value for name, value in model.named_buffers() if "centroids" in name}
    if world > 1:
        dist.destroy_process_group()
    return {"once": once, "again": model.table.state(), **buffers}


def second(_: int, folder: str) -> None:
    """The other process."""
    torch.set_num_threads(1)
    torch.save(two_rounds(1, 2, folder), Path(folder) / "second.pt")


@pytest.mark.slow
@pytest.mark.timeout(1200)  # two processes that import everything, perhaps on a busy machine
def test_two_processes_learn_from_the_clusters_of_one(tmp_path: Path) -> None:
    other = mp.spawn(second, (str(tmp_path),), nprocs=1, join=False)
    first = two_rounds(0, 2, str(tmp_path))
    assert other.join()
    theirs = torch.load(tmp_path / "second.pt", weights_only=True)
    assert differences(first, theirs, "") == []
    alone = two_rounds(0, 1, str(tmp_path))
    for name in ("once", "again"):
        assert alone[name].keys() == first[name].keys()
        for column in ("image", "labels", "mirrored"):
            assert torch.equal(alone[name][column], first[name][column]), (name, column)
        torch.testing.assert_close(alone[name]["points"], first[name]["points"])
    for name in ("centroids_k", "centroids_m"):
        torch.testing.assert_close(alone[name], first[name], atol=1e-5, rtol=0)
    assert sorted(p.name for p in (tmp_path / "of2").iterdir()) == ["000.npz", "001.npz", "002.npz"]
