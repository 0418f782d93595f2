"""Exported models against the predictor, and without the laboratory."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

import landmark_lab.cli as command_line
from landmark_lab import errors, export as exporting
from landmark_lab.checkpoint import KEY, Card
from landmark_lab.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    LandmarkLabError,
    MissingDependencyError,
    RunError,
)
from landmark_lab.export import Exported, export
from landmark_lab.files import read_image, save_checkpoint, sha256, write_json
from landmark_lab.inference import Predictor
from landmark_lab.inference.named_points import NamedPoints, PointsCard, load_points
from landmark_lab.inference.points_graph import NamedPointsGraph
from landmark_lab.methods.factorized import Factorized
from landmark_lab.plugin import build
from landmark_lab.roles import Method
from landmark_lab.seeding import rng

BACKBONES = {
    "hourglass": {"name": "hourglass", "width": 16, "depth": 2, "blocks": 1, "stem": 0},
    "local": {"name": "local", "width": 8, "blocks": 1, "norm": "group", "groups": 4},
    "simple": {"name": "simple"},
    "dilations": {"name": "dilations"},
}
SIZE = 32
# A sharp softmax: an unsteady network, in which one wrong grey level shows.
METHOD = {"name": "shy-test", "landmarks": 5, "temperature": 0.05}


class Shy(Factorized, name="shy-test"):
    """Does not find the first landmark in dark images."""

    def landmarks(self, images: Tensor) -> tuple[Tensor, Tensor]:
        points, score = super().landmarks(images)
        bright = images.mean((1, 2, 3)) > 0.4
        return points, torch.cat([score[:, :1] * bright[:, None], score[:, 1:]], 1)


Model = Callable[[Any], Any]
ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
NEEDS = pytest.mark.skipif(not ONNX, reason="the extra 'export' is not installed")


def checkpoint(
    path: Path, backbone: str = "hourglass", preprocess: dict[str, Any] | None = None
) -> Path:
    """A checkpoint of an untrained method."""
    spec = {**METHOD, "backbone": BACKBONES[backbone]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        method = build(Method, spec, "method")
    settings = {"size": SIZE, "fit": "letterbox", "window": 0.8, "fill": 128} | (preprocess or {})
    card = Card(method.spec, {"name": "folder"}, SIZE, settings, [], 7, "train")
    save_checkpoint({KEY: asdict(card), "state_dict": method.state_dict()}, path)
    return path


def named_points(path: Path, of: Path) -> Path:
    """Three named points of the five landmarks, the last of which was never annotated."""
    draw = rng(0, "named points")
    weights = draw.normal(0, 0.4, (4, 10, 6))
    weights[1:] = weights[0] + draw.normal(0, 0.02, (3, 10, 6))
    weights[:, :, 4:] = np.nan
    card = PointsCard(
        names=["nose", "ear", "tail"],
        skeleton=[[0, 1]],
        flip=None,
        normaliser=None,
        divisor="the box",
        checkpoint=sha256(of),
        method="factorized",
        images=["a.png", "b.png", "c.png"],
        settings={},
        left_out={},
        version="0",
        date="",
    )
    NamedPoints(
        card,
        weights,
        bias=draw.normal(0, 0.1, (4, 6)),
        fill=draw.normal(0, 0.1, (4, 10)),
        usual_error=np.array([0.1, 0.2, 0.3]),
        usual_score=np.array([0.5, 0.0, 0.9, 0.2, 1.0]),
        tolerance=0.2,
    ).save(path)
    return path


def torch_model(folder: Path) -> Model:
    model = torch.export.load(folder / "model.pt2").module()
    return lambda images: tuple(found.numpy() for found in model(torch.from_numpy(images)))


def onnx_model(folder: Path) -> Model:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return lambda images: session.run(["points", "scores"], {"images": images})


LOADERS = {"torch": torch_model, "onnx": onnx_model}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with scores and its export, in all formats for which there are libraries."""
    folder = tmp_path_factory.mktemp("export") / "run"
    stage = folder / "checkpoints" / "train"
    stage.mkdir(parents=True)
    checkpoint(stage / "done.ckpt")
    (folder / "config.yaml").write_text(
        "name: x\nsummary: x\nseed: 0\nstages: {train: {data: toy_faces, method: "
        f"{json.dumps(METHOD)}, pairing: synthetic}}}}\n"
    )
    score = {"version": 1, "value": 4.5, "low": 4.0, "high": 5.0, "per_landmark": [1, 2]}
    write_json(folder / "results.json", {"protocols": {"forward_nme": score}})
    export(folder, formats=["torch", "onnx"] if ONNX else ["torch"])
    return folder


@pytest.fixture(scope="module")
def predictor(run: Path) -> Predictor:
    return Predictor(run, device="cpu")


@pytest.fixture(scope="module", params=[pytest.param("torch"), pytest.param("onnx", marks=NEEDS)])
def model(request: pytest.FixtureRequest, run: Path) -> Model:
    return LOADERS[request.param](run / "export")


# --- parity --------------------------------------------------------------------------------------


def assert_like_the_predictor(model: Model, predictor: Predictor, images: Any) -> Any:
    """Points within 1e-4 of the image's longer side, scores within 1e-4."""
    points, score = model(images)
    expected, certain = predictor(list(images))
    side = max(images.shape[1:3])
    np.testing.assert_allclose(points / side, expected / side, atol=1e-4, rtol=0)
    np.testing.assert_allclose(score, certain, atol=1e-4, rtol=0)
    return points, score


@pytest.mark.parametrize("size", [(64, 64), (128, 90), (20, 31), (8, 8), (300, 500), (16, 200)])
@pytest.mark.parametrize("count", [1, 3])
def test_any_number_of_images_of_any_size(
    size: tuple[int, int], count: int, model: Model, predictor: Predictor
) -> None:
    images = rng(0, "noise", *size).integers(0, 256, (count, *size, 3), dtype=np.uint8)
    assert_like_the_predictor(model, predictor, images)


@pytest.mark.parametrize(
    "pattern",
    [
        "faces/images/*.jpg",
        "fly/images/*.png",
        "wings/images/*.jpg",
        "mouse/**/*.png",
        "openfield/**/*.jpg",
        "cats/**/*.jpg",
    ],
)
def test_real_images(pattern: str, model: Model, predictor: Predictor, shared_data: Path) -> None:
    files = sorted(shared_data.glob(pattern))
    assert files
    for path in files[:: max(1, len(files) // 6)]:
        assert_like_the_predictor(model, predictor, read_image(path)[None])


def test_what_is_not_found_is_nan(model: Model, predictor: Predictor) -> None:
    images = np.stack([np.full((40, 40, 3), grey, np.uint8) for grey in (10, 250)])
    points, score = assert_like_the_predictor(model, predictor, images)
    assert np.isnan(points[0, 0]).all()
    assert score[0, 0] == 0
    assert np.isfinite(points[1]).all()
    assert np.isfinite(points[0, 1:]).all()


def test_named_points_in_the_graph_are_those_of_the_file(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a.ckpt")
    points = load_points(named_points(tmp_path / "a.points.npz", path), path)
    draw = rng(0, "landmarks")
    landmarks, score = draw.uniform(-1, 1, (20, 5, 2)), draw.uniform(0, 1, (20, 5))
    lost = draw.random((20, 5)) < 0.3
    lost[0] = True
    landmarks[lost], score[lost] = np.nan, 0
    expected, certain = points(landmarks, score)
    found, sure = NamedPointsGraph(points)(torch.from_numpy(landmarks), torch.from_numpy(score))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(sure, certain, atol=1e-12)
    assert np.isnan(expected[0]).all()
    assert np.isnan(expected[:, 2]).all()
    assert np.isfinite(expected[1:, :2]).all()


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("fit", ["squash", "crop"])
@NEEDS
def test_every_backbone(backbone: str, fit: str, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a.ckpt", backbone, {"fit": fit})
    folder = export(path, tmp_path / "out").folder
    images = rng(0, "noise").integers(0, 256, (2, 50, 70, 3), dtype=np.uint8)
    for load in LOADERS.values():
        assert_like_the_predictor(load(folder), Predictor(path, device="cpu"), images)


@pytest.mark.slow
@NEEDS
def test_named_points(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a.ckpt", "local", {"fit": "squash"})
    points = named_points(tmp_path / "a.points.npz", path)
    folder = export(path, tmp_path / "out", points=points).folder
    card = json.loads((folder / "card.json").read_text())
    assert card["names"] == ["nose", "ear", "tail"]
    assert card["skeleton"] == [[0, 1]]
    assert card["named_points"]["images"] == 3
    images = rng(0, "noise").integers(0, 256, (2, 50, 70, 3), dtype=np.uint8)
    for load in LOADERS.values():
        expected = Predictor(path, points, device="cpu")
        found, score = assert_like_the_predictor(load(folder), expected, images)
        assert np.isfinite(found[:, :2]).all()
        assert np.isnan(found[:, 2]).all()
        assert (score[:, 2] == 0).all()


# --- the folder ----------------------------------------------------------------------------------


def test_folder_and_card(run: Path) -> None:
    folder = run / "export"
    names = {"model.pt2", "card.json", "example_torch.py"}
    names |= {"model.onnx", "example_onnx.py"} if ONNX else set()
    assert {path.name for path in folder.iterdir()} == names
    card = json.loads((folder / "card.json").read_text())
    assert card["checkpoint"]["sha256"] == sha256(run / "checkpoints" / "train" / "done.ckpt")
    assert card["names"] == [f"landmark_{k}" for k in range(5)]
    assert card["method"]["name"] == "shy-test"
    expected = {"version": 1, "value": 4.5, "low": 4.0, "high": 5.0}
    assert card["results"] == {"forward_nme": expected}
    assert card["outputs"][0]["shape"] == ["N", 5, 2]
    assert card["largest_difference_from_predict"]["torch"] <= exporting.TOLERANCE
    assert "terms" in card["licence"]


@NEEDS
def test_axes_of_the_onnx_model_have_names(run: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    path = run / "export" / "model.onnx"
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (images,) = session.get_inputs()
    assert (images.name, images.shape) == ("images", ["images", "height", "width", 3])
    points, scores = session.get_outputs()
    assert (points.name, points.shape) == ("points", ["images", 5, 2])
    assert (scores.name, scores.shape) == ("scores", ["images", 5])


# Runs a script where the laboratory cannot be imported.
ALONE = (
    "import runpy, sys\n"
    "sys.modules['landmark_lab'] = sys.modules['landmark_lab_plugins'] = None\n"
    "sys.argv = sys.argv[1:]\n"
    "runpy.run_path(sys.argv[0], run_name='__main__')\n"
)


@pytest.mark.parametrize("name", ["torch", pytest.param("onnx", marks=NEEDS)])
def test_example_runs_without_the_laboratory(
    name: str, run: Path, predictor: Predictor, tmp_path: Path
) -> None:
    image = rng(0, "noise").integers(0, 256, (60, 80, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image[:, :, ::-1])
    script = run / "export" / f"example_{name}.py"
    done = subprocess.run(
        [sys.executable, "-c", ALONE, script, tmp_path / "a.png"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    expected, certain = predictor([image])
    found = re.findall(r"^landmark_\d x=(\S+) y=(\S+) score=(\S+)$", done.stdout, re.MULTILINE)
    rows = np.array(found, float)
    np.testing.assert_allclose(rows[:, :2], expected[0], atol=0.02)
    np.testing.assert_allclose(rows[:, 2], certain[0], atol=0.002)
    assert len(script.read_text().splitlines()) <= 12


# --- bad input -----------------------------------------------------------------------------------


def refused(kind: type[LandmarkLabError], match: str, *arguments: Any) -> None:
    with pytest.raises(kind, match=match):
        export(*arguments)


def test_bad_input_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a.ckpt")
    refused(ConfigError, "did you mean 'onnx'", path, None, ["onx"])
    (tmp_path / "there").mkdir()
    refused(RunError, "exists already", path, tmp_path / "there")
    torch_only = (tmp_path / "out", ["torch"])
    refused(CheckpointError, "no such checkpoint", tmp_path / "b.ckpt", *torch_only)
    (tmp_path / "cut.ckpt").write_bytes(path.read_bytes()[:2000])
    refused(CheckpointError, "damaged", tmp_path / "cut.ckpt", *torch_only)
    (tmp_path / "bad.points.npz").write_text("no")
    refused(DataError, "named points", path, *torch_only, tmp_path / "bad.points.npz")
    blocked = tmp_path / "a.ckpt" / "out"
    refused(RunError, "could not be written", path, blocked, ["torch"])
    kept = {"a.ckpt", "there", "cut.ckpt", "bad.points.npz"}
    assert {found.name for found in tmp_path.iterdir()} == kept


def test_missing_library_is_named_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(errors.importlib, "import_module", missing)
    with pytest.raises(MissingDependencyError, match=r"landmark-lab\[export\]"):
        export(tmp_path / "nothing.ckpt", tmp_path / "out")


class Deciding(Factorized, name="deciding-test"):
    """Decides in Python by a tensor's value, which no graph can hold."""

    def landmarks(self, images: Tensor) -> tuple[Tensor, Tensor]:
        points, score = super().landmarks(images)
        return (points, score) if images.mean() > 0.5 else (-points, score)


class Wandering(Factorized, name="wandering-test"):
    """Finds something else every time it is asked."""

    def landmarks(self, images: Tensor) -> tuple[Tensor, Tensor]:
        points, score = super().landmarks(images)
        return points + 0.01 * torch.rand_like(points), score


class Blind(Factorized, name="blind-test"):
    """Finds no landmarks."""

    landmarks = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("name", "kind", "match"),
    [
        ("deciding-test", RunError, "'deciding-test' cannot be traced"),
        pytest.param(
            "wandering-test", RunError, "differ from those of 'predict'", marks=pytest.mark.slow
        ),
        ("blind-test", CheckpointError, "finds no landmarks"),
    ],
)
def test_methods_that_cannot_be_exported(
    name: str,
    kind: type[LandmarkLabError],
    match: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(METHOD, "name", name)
    path = checkpoint(tmp_path / "a.ckpt")
    refused(kind, match, path, tmp_path / "out", ["torch"])
    assert [found.name for found in tmp_path.iterdir()] == ["a.ckpt"]


def test_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    given: list[Any] = []

    def write(*arguments: Any) -> Exported:
        given.extend(arguments)
        return Exported(Path("out"), {"torch": 2e-7, "onnx": 3e-6})

    monkeypatch.setattr(exporting, "export", write)
    options = ["--out", "out", "--format", "torch, onnx", "--points", "a.points.npz"]
    monkeypatch.setattr(sys, "argv", ["landmark-lab", "export", "runs/a", *options])
    with pytest.raises(SystemExit) as end:
        command_line.main()
    assert end.value.code in (0, None)
    assert given == [Path("runs/a"), Path("out"), ["torch", "onnx"], Path("a.points.npz")]
    assert capsys.readouterr().out.splitlines() == [
        "torch: differs from 'predict' by at most 2.0e-07 of an image's side",
        "onnx: differs from 'predict' by at most 3.0e-06 of an image's side",
        "export: out",
    ]
