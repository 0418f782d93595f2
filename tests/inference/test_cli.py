"""The commands predict and fit-points."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from landmark_lab.data.annotations import read
from landmark_lab.data.annotations.coco import write_coco
from landmark_lab.data.annotations.deeplabcut import write_deeplabcut
from landmark_lab.data.preprocess import Preprocess
from tests.command_line import Cli
from tests.inference.world import NAMES, annotated_images, dots, named, save_image, save_method


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Ten annotated images and their file."""
    given = annotated_images(tmp_path / "labels", 10)
    write_deeplabcut(given, tmp_path / "labels" / "CollectedData.csv")
    return tmp_path / "labels" / "CollectedData.csv"


@pytest.mark.parametrize("command", ["predict", "fit-points"])
def test_help_has_examples_and_does_not_wait_for_torch(command: str) -> None:
    program = (
        f"import sys; sys.argv = ['landmark-lab', '{command}', '--help']\n"
        "from landmark_lab.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    *text, modules = done.stdout.splitlines()
    assert {"torch", "numpy", "cv2"} & set(modules.split()) == set()
    assert f"Example: landmark-lab {command} " in " ".join(text)


def test_from_ten_images_to_points_in_new_ones(
    cli: Cli, checkpoint: Path, labels: Path, tmp_path: Path
) -> None:
    result = cli(
        "fit-points", checkpoint, labels, "--annotated", 8, "--test", "rest", "--copies", 2
    )
    assert result.code == 0, result.err
    assert "Errors in the 8 images, each when it is left out" in result.out
    assert "Errors in 2 other images" in result.out
    assert "better than the mean shape by" in result.out
    file = checkpoint.with_name("best.points.npz")
    assert file.is_file()
    assert checkpoint.with_name("best.points.png").is_file()
    image, places = dots(50)
    save_image(tmp_path / "new" / "a.png", image)
    result = cli("predict", checkpoint, "new", "--points", file, "--format", "coco")
    assert result.code == 0, result.err
    assert result.out == "2 points in 1 images and frames: predictions\n"
    back = read(tmp_path / "predictions" / "coco.json")
    assert back.names == NAMES
    np.testing.assert_allclose(back.points[0], named(places), atol=1)


def test_what_is_left_out_is_named_and_the_exit_status_says_so(
    cli: Cli, checkpoint: Path, tmp_path: Path
) -> None:
    save_image(tmp_path / "new" / "a.png", dots(0)[0])
    (tmp_path / "new" / "b.png").write_bytes(b"")
    result = cli("predict", checkpoint, "new", "--no-draw", "--out", "out")
    assert result.code == 1
    assert result.out == "3 points in 1 images and frames, 1 left out: out\n"
    assert result.err == "left out: new/b.png: is not a readable image\n"
    assert not (tmp_path / "out" / "drawn").exists()


def test_an_interruption_says_so(
    cli: Cli, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from landmark_lab.inference import Predictor

    def stop(*given: object) -> None:
        raise KeyboardInterrupt

    save_image(tmp_path / "a.png", dots(0)[0])
    monkeypatch.setattr(Predictor, "__call__", stop)
    result = cli("predict", checkpoint, "a.png")
    assert result.code == 130
    assert "interrupted: the rest is missing" in result.err


def test_a_warning_where_the_landmarks_do_not_help(
    cli: Cli, checkpoint: Path, tmp_path: Path
) -> None:
    given = annotated_images(tmp_path, 5)
    loose = np.random.default_rng(0).uniform(10, 80, given.points.shape)
    write_coco(replace(given, points=loose), tmp_path / "loose.json")
    result = cli("fit-points", checkpoint, "loose.json", "--copies", 1, "--out", "own.points.npz")
    assert result.code == 0
    assert "warning: not clearly better than the mean shape" in result.out
    assert (tmp_path / "own.points.npz").is_file()


def test_earlier_points_are_replaced_only_when_told(
    cli: Cli, checkpoint: Path, labels: Path, tmp_path: Path
) -> None:
    arguments = ("fit-points", checkpoint, labels, "--copies", 1, "--out", "own.points.npz")
    assert cli(*arguments).code == 0
    before = (tmp_path / "own.points.npz").read_bytes()
    result = cli(*arguments)
    assert result.code == 2
    assert "own.points.npz: exists already" in result.err
    assert (tmp_path / "own.points.npz").read_bytes() == before
    assert cli(*arguments, "--overwrite").code == 0


def test_images_that_it_is_fitted_on_test_nothing(cli: Cli, checkpoint: Path, labels: Path) -> None:
    result = cli(
        "fit-points", checkpoint, labels, "--annotated", 7, "--copies", 1, "--test", labels
    )
    assert result.code == 0, result.err
    assert "--test: 7 images that it is fitted on left out" in result.out
    assert "Errors in 3 other images" in result.out


def test_its_own_drawings_are_not_predicted_again(
    cli: Cli, checkpoint: Path, tmp_path: Path
) -> None:
    save_image(tmp_path / "a.png", dots(0)[0])
    arguments = ("predict", checkpoint, ".", "--out", "found")
    assert cli(*arguments).out == "3 points in 1 images and frames: found\n"
    assert cli(*arguments, "--overwrite").out == "3 points in 1 images and frames: found\n"
    result = cli("predict", checkpoint, "found", "--out", "found", "--overwrite")
    assert result.code == 2
    assert "nothing but earlier predictions" in result.err


def test_another_file_tests_the_points_by_name(
    cli: Cli, checkpoint: Path, labels: Path, tmp_path: Path
) -> None:
    other = annotated_images(tmp_path / "more", 3, first=30)
    turned = replace(other, names=NAMES[::-1], points=other.points[:, ::-1])
    write_coco(turned, tmp_path / "more" / "turned.json")
    arguments = ("fit-points", checkpoint, labels, "--annotated", 7, "--copies", 1, "--test")
    result = cli(*arguments, tmp_path / "more" / "turned.json")
    assert result.code == 0, result.err
    assert "Errors in 3 other images" in result.out
    assert result.out.count("better than the mean shape") == 2
    write_coco(replace(other, names=("middle", "tail")), tmp_path / "more" / "tail.json")
    result = cli(*arguments, tmp_path / "more" / "tail.json")
    assert result.code == 2
    assert "tail.json: has no point 'tip'; allowed: middle, tail" in result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "nothing.ckpt", "a.png"], "there is no such checkpoint or run folder"),
        (["predict", "CKPT", "nothing"], "nothing: there is no such file or folder"),
        (["predict", "CKPT", "a.png", "--points", "no.npz"], "no such file of named points"),
        (["predict", "CKPT", "a.png", "--format", "xml"], "there is no format 'xml'"),
        (["predict", "CKPT", "a.png", "--every", "0"], "every"),
        (["predict", "BLIND", "a.png"], "the method 'blind' finds no landmarks"),
        (["predict", "CKPT", "a.png", "--out", "a.png/out"], "could not be written"),
        (["fit-points", "CKPT", "no.csv"], "annotation file cannot be read"),
        (["fit-points", "CKPT", "a.png"], "it looks like a PNG image"),
        (["fit-points", "CKPT", "LABELS", "--images", "none"], "no such folder of images"),
        (["fit-points", "CKPT", "LABELS", "--annotated", "11"], "allowed: 1 to 10"),
        (["fit-points", "CKPT", "LABELS", "--test", "rest"], "set --annotated N"),
        (
            ["fit-points", "CKPT", "LABELS", "--test", "LABELS"],
            "no image but those that the points",
        ),
        (["fit-points", "CKPT", "LABELS", "--out", "LABELS"], "is no name for points"),
        (["predict", "CKPT", "a.png", "--device", "meta"], "device 'meta': cannot be used"),
        (
            ["fit-points", "CKPT", "LABELS", "--annotated", "10", "--test", "rest"],
            "no annotated image is left",
        ),
        (["fit-points", "CKPT", "LABELS", "--annotated", "2"], "allowed: 3 or more"),
    ],
)
def test_mistakes(
    cli: Cli, checkpoint: Path, labels: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    save_image(tmp_path / "a.png", dots(0)[0])
    blind = save_method(tmp_path / "blind.ckpt", method="blind")
    names = {"CKPT": checkpoint, "LABELS": labels, "BLIND": blind}
    result = cli(*(names.get(text, text) for text in arguments))
    assert result.code == 2
    assert result.err.startswith("error: ")
    assert message in result.err
    assert len(result.err.splitlines()) == 1


def test_crops_around_boxes_are_missed(
    cli: Cli, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    boxed = save_method(tmp_path / "boxed.ckpt", Preprocess(size=64, box_margin=0.2))
    save_image(tmp_path / "a.png", dots(0)[0])
    result = cli("predict", boxed, "a.png", "--no-draw")
    assert result.code == 0
    assert "trained on the annotated boxes of its objects" in caplog.text
