"""What the documents on training, logging and sweeps print works as printed."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from landmark_lab.completion import complete
from landmark_lab.config import read
from landmark_lab.sweep.file import read_sweep
from landmark_lab.sweep.plan import plan

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("training", "logging", "sweeps")
# Few and small images; everything else is as printed.
QUICK = ["data.size=32", "data.train=8", "data.val=8", "data.test=8", "loader.batch_size=4"]
QUICK += ["evaluate=[]", "trainer.accelerator=cpu", "method.landmarks=3", "loader.workers=0"]
QUICK += ["method.backbone.width=8", "method.backbone.depth=1", "log.wandb=null"]


def text(document: str) -> str:
    return (ROOT / "docs" / f"{document}.md").read_text(encoding="utf-8")


def commands(document: str) -> list[list[str]]:
    """The lines of the blocks that are marked as complete commands, as words."""
    blocks = re.findall(r"<!-- run -->\n```\n(.*?)^```", text(document), re.DOTALL | re.MULTILINE)
    assert blocks
    return [shlex.split(line, comments=True)[1:] for block in blocks for line in block.splitlines()]


def sections(document: str) -> list[dict[str, Any]]:
    blocks = re.findall(r"^```yaml\n(.*?)^```", text(document), re.DOTALL | re.MULTILINE)
    return [yaml.safe_load(block) for block in blocks]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_printed_command_is_a_valid_one(
    document: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    for verb, *words in commands(document):
        overrides = [word for word in words if "=" in word]
        if verb == "sweep":
            assert plan(read_sweep(Path(words[0])), 1)
        else:
            assert verb == "train"
            file = "experiments/demo.yaml" if "--resume" in words else words[0]
            assert complete(read(file, overrides))


def test_every_printed_section_is_a_valid_one(tmp_path: Path) -> None:
    demo = yaml.safe_load((ROOT / "experiments" / "demo.yaml").read_text())
    for section in [*sections("training"), *sections("logging")]:
        path = tmp_path / "changed.yaml"
        path.write_text(yaml.safe_dump({**demo, **section}))
        found = complete(read(path))
        for key in section:
            assert getattr(found, key, None) or getattr(found.stages["train"], key)
    (own,) = sections("sweeps")
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    assert read_sweep(tmp_path / "own.yaml").overrides == ("data.root=pictures",)


def test_the_printed_defaults_are_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (section,) = sections("training")
    found = complete(read("experiments/demo.yaml", ["early_stop={}"]))
    assert found.stages["train"].early_stop == section["early_stop"]


@pytest.mark.slow
def test_the_commands_run_as_printed(tmp_path: Path) -> None:
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    for document in DOCUMENTS[:2]:
        for words in commands(document):
            # 1000 steps become 1, 500 become 5: the order of the lengths is kept.
            short = [re.sub(r"(max_steps=\d)\d+", r"\1", word) for word in words]
            short = [word for word in short if "tensorboard" not in word]
            resumed = "--resume" in words
            done = subprocess.run(
                [sys.executable, "-m", "landmark_lab.cli", *short, *([] if resumed else QUICK)],
                cwd=tmp_path,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{short}\n{done.stdout}\n{done.stderr}"
    assert len(list((tmp_path / "runs" / "demo").iterdir())) == 6
