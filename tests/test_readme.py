"""The commands and snippets that the README prints work as printed."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from landmark_lab_plugins.data.toy_faces import ToyFaces

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Two steps instead of thousands; everything else is as printed.
QUICK = ["trainer.max_steps=2", "loader.batch_size=4", "trainer.accelerator=cpu"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands(program: str) -> list[list[str]]:
    lines = [line for block in blocks("") for line in block.splitlines()]
    split = [shlex.split(line, comments=True) for line in lines]
    return [words for words in split if words and words[0] == program]


def call(words: list[str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "landmark_lab.cli", *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the experiments and with pictures in subfolders."""
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    images = ToyFaces(size=48, train=40).images("train")
    for i in range(40):
        file = tmp_path / "pictures" / f"part{i % 2}" / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), images[i]["image"])
    return tmp_path


def test_the_own_folder_in_five_lines(place: Path) -> None:
    printed = [words[1:] for words in commands("landmark-lab")]
    assert [words[0] for words in printed] == ["config", "train", "train", "train", "list"]
    for words in printed:
        new = words[0] == "train" and "--resume" not in words
        output = call(words + QUICK * new, place)
        assert output
    runs = sorted((place / "runs" / "own_folder").iterdir())
    assert len(runs) == 2
    for run in runs:
        assert (run / "figures" / "landmarks.png").stat().st_size > 1000


def test_the_plugin_of_the_readme(place: Path) -> None:
    (snippet,) = blocks("python")
    (place / "shift.py").write_text(snippet)
    shown = re.search(r"`landmark-lab train \.\.\. (.*?)`", README)
    assert shown is not None
    base = ["train", "experiments/own_folder.yaml", "data.root=pictures", *QUICK]
    call([*base, *shlex.split(shown[1])], place)


def test_the_two_commands_exist() -> None:
    targets = [words[1] for words in commands("make")]
    assert targets == ["demo", "test"]
    makefile = (ROOT / "Makefile").read_text()
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    for path in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / path).exists(), path
