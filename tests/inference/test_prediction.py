"""From files to files."""

import csv
from pathlib import Path

import numpy as np
import pytest

from landmark_lab.data.annotations import read
from landmark_lab.errors import ConfigError, DataError, RunError
from landmark_lab.inference import Predictor
from landmark_lab.inference.inputs import find_sources
from landmark_lab.inference.prediction import predict_files
from tests.inference.world import dots, save_image, save_video


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images, the second of which is damaged, and a film of five frames."""
    for number in range(3):
        save_image(tmp_path / "in" / f"{number}.png", dots(number)[0])
    (tmp_path / "in" / "1.png").write_bytes(b"no image")
    save_video(tmp_path / "in" / "film.mp4", [dots(number)[0] for number in range(5)])
    return tmp_path / "in"


def test_everything_but_what_is_damaged(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    out, done = tmp_path / "out", []
    predictor = Predictor(checkpoint, batch_size=2)
    sources = find_sources([str(folder)])
    outcome = predict_files(predictor, sources, out, every=2, on_progress=done.append)
    assert outcome.frames == 2 + 3
    assert done == [2, 4, 5]
    assert not outcome.interrupted
    (problem,) = outcome.problems
    assert "1.png: is not a readable image" in problem
    truth = [dots(number)[1] for number in (0, 2, 0, 2, 4)]
    for name in ("coco.json", "deeplabcut.csv"):
        back = read(out / name)
        np.testing.assert_allclose(back.points[:2], truth[:2], atol=0.3)
        np.testing.assert_allclose(back.points[2:], truth[2:], atol=4)  # the film is compressed
    with (out / "points.csv").open(newline="") as file:
        assert len(list(csv.reader(file))) == 1 + 5 * 3
    made = sorted(file.relative_to(out).as_posix() for file in out.rglob("*.*"))
    drawn = ["drawn/0.png", "drawn/2.png", "drawn/film.mp4"]
    assert made == sorted(
        ["coco.json", "deeplabcut.csv", "deeplabcut/film.csv", "points.csv", *drawn]
    )


def test_only_what_is_asked_for(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    sources = find_sources([str(folder / "0.png")])
    predict_files(Predictor(checkpoint), sources, tmp_path / "out", ["coco"], draw=False)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["coco.json"]


def test_an_interruption_keeps_what_was_computed(
    folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    def stop(done: int) -> None:
        if done >= 4:
            raise KeyboardInterrupt

    predictor = Predictor(checkpoint, batch_size=2)
    sources = find_sources([str(folder)])
    outcome = predict_files(predictor, sources, tmp_path / "out", on_progress=stop)
    assert outcome.interrupted
    assert outcome.frames == 4
    assert len(read(tmp_path / "out" / "coco.json")) == 4
    assert (tmp_path / "out" / "drawn" / "film.mp4").is_file()


def test_earlier_results_are_not_replaced(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    predictor, sources = Predictor(checkpoint), find_sources([str(folder / "0.png")])
    predict_files(predictor, sources, tmp_path / "out")
    with pytest.raises(RunError, match="out: holds files already; choose another folder"):
        predict_files(predictor, sources, tmp_path / "out")
    predict_files(predictor, sources, tmp_path / "out", overwrite=True)


def test_a_folder_that_cannot_be_written_is_known_before_the_work(
    folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=r"points\.csv: could not be written"):
        predict_files(
            Predictor(checkpoint),
            find_sources([str(folder)]),
            tmp_path / "file" / "out",
            on_progress=lambda done: pytest.fail("worked already"),
        )


def test_nothing_readable_is_an_error(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    (folder / "film.mp4").write_bytes(b"no film")
    given = [str(folder / "1.png"), str(folder / "film.mp4")]
    with pytest.raises(DataError, match=r"none of the 2 files can be read, the first: .*1\.png"):
        predict_files(Predictor(checkpoint), find_sources(given), tmp_path / "out")
    assert [file for file in (tmp_path / "out").rglob("*") if file.is_file()] == []


def test_unknown_formats_and_steps(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    predictor, sources = Predictor(checkpoint), find_sources([str(folder)])
    with pytest.raises(ConfigError, match=r"no format 'coc'.*did you mean 'coco'"):
        predict_files(predictor, sources, tmp_path / "out", ["coc"])
    with pytest.raises(ConfigError, match="every"):
        predict_files(predictor, sources, tmp_path / "out", every=0)
