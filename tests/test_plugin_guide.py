"""What plugins/README.md shows works: its very snippets are run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from landmark_lab.cli import main

GUIDE = Path(__file__).resolve().parents[1] / "plugins" / "README.md"
PLUGINS = ("shear", "patches", "discs")
LONGEST = 36  # lines of a snippet; about 20 of them are the plugin, the rest imports and text


def snippets(kind: str) -> list[str]:
    """The fenced blocks of the guide in one language."""
    return re.findall(rf"^```{kind}\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files of the guide."""
    for kind, target in (("python", tmp_path / "my_plugins"), ("yaml", tmp_path)):
        target.mkdir(exist_ok=True)
        for text in snippets(kind):
            name = text.splitlines()[0].removeprefix("# ")
            (target / name).write_text(text, encoding="utf-8")
    return tmp_path


def run(command: str, folder: Path) -> str:
    """Run a command of the guide in a folder."""
    program, *arguments = command.split()
    assert program == "landmark-lab"
    done = subprocess.run(
        [sys.executable, "-m", "landmark_lab.cli", *arguments],
        cwd=folder,
        env={**os.environ, "LANDMARK_LAB_PLUGINS": "", "CUDA_VISIBLE_DEVICES": ""},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_snippets_are_short_and_named() -> None:
    found = snippets("python")
    assert [text.splitlines()[0] for text in found] == [f"# {name}.py" for name in PLUGINS]
    assert all(len(text.splitlines()) <= LONGEST for text in found)
    (experiment,) = snippets("yaml")
    assert all(name in experiment for name in PLUGINS)


def test_the_commands_of_the_guide_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listing, training = (line for text in snippets("sh") for line in text.splitlines())
    # In this process, because a new one needs ten seconds to import torch.
    monkeypatch.setenv("LANDMARK_LAB_PLUGINS", "")
    monkeypatch.setattr(sys, "argv", listing.split())
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit):
        main()
    assert "strength: float = 0.3" in capsys.readouterr().out
    last = run(training, folder).splitlines()[-1]
    assert (folder / last.removeprefix("run: ") / "checkpoints").is_dir()


def test_the_entry_point_is_that_of_the_example_package() -> None:
    (shown,) = snippets("ini")
    example = (Path(__file__).parent / "example_plugin" / "setup.cfg").read_text(encoding="utf-8")
    assert all(line in example for line in shown.splitlines()[:2])
