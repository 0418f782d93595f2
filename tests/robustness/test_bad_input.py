"""Input that contradicts itself, or what is there, is refused with a clear error.

Elsewhere: predictions of other data, of another checkpoint or of another format
(tests/evaluation/test_predictions.py), scores of another version of a protocol
(tests/evaluation/test_comparison.py), points that a file lacks (tests/inference/test_cli.py), films
that cannot be decoded (test_damaged_files.py), two processes in one folder (tests/test_runs.py).
"""

from pathlib import Path

import cv2
import numpy as np
import pytest

from landmark_lab.completion import complete
from landmark_lab.config import read
from landmark_lab.data.annotations import Annotations
from landmark_lab.data.annotations.table import write_table
from landmark_lab.errors import ConfigError, DataError, RunError
from landmark_lab.experiment import run
from landmark_lab.runs import in_use, new_run
from landmark_lab_plugins.data.folder import Folder

SMALL = """
data: {name: toy_faces, size: 32, train: 8, val: 2, test: 4}
pairing: synthetic
loader: {batch_size: 4}
method: {name: factorized, landmarks: 4}
trainer: {max_steps: 1, accelerator: cpu}
"""


def annotate(folder: Path, name: str, points: tuple[str, ...], images: int = 2) -> None:
    """Draw images and write their points into ``NAME.csv``."""
    files = tuple(f"{name}{number}.png" for number in range(images))
    for file in files:
        cv2.imwrite(str(folder / file), np.full((32, 32, 3), 99, dtype=np.uint8))
    places = np.random.default_rng(0).uniform(5, 25, (images, len(points), 2))
    visible = np.ones((images, len(points)), dtype=bool)
    write_table(Annotations(files, places, visible, points), folder / f"{name}.csv")


@pytest.mark.parametrize("other", [("nose",), ("tail", "nose"), ("nose", "ear")])
def test_the_splits_of_a_folder_must_have_the_same_points(
    other: tuple[str, ...], tmp_path: Path
) -> None:
    annotate(tmp_path, "train", ("nose", "tail"))
    annotate(tmp_path, "test", other)
    with pytest.raises(DataError, match=r"test\.csv: has other names than .*train\.csv"):
        Folder(str(tmp_path), {"train": "train.csv", "test": "test.csv"})


def test_a_normaliser_that_the_points_do_not_have_is_named(tmp_path: Path) -> None:
    annotate(tmp_path, "train", ("nose", "tail"))
    with pytest.raises(ConfigError, match=r"no point called 'tial'.*did you mean 'tail'"):
        Folder(str(tmp_path), {"train": "train.csv"}, normaliser=("nose", "tial"))


def test_a_run_in_use_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    experiment = complete(read(path))
    folder = new_run(tmp_path / "runs", experiment, ["train"])
    before = sorted(folder.rglob("*"))
    with in_use(folder), pytest.raises(RunError, match="is in use by process"):
        run(experiment, tmp_path / "runs", resume=folder)
    assert [file for file in sorted(folder.rglob("*")) if file.suffix == ".ckpt"] == []
    assert set(before) <= set(folder.rglob("*"))


def test_a_trainer_that_this_machine_cannot_give_is_an_error_of_the_configuration(
    tmp_path: Path,
) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    with pytest.raises(ConfigError, match=r"^trainer: .*steam"):
        run(read(path, ["trainer.accelerator=steam"]), tmp_path / "runs")
