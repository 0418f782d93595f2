"""Files are written whole or not at all, and checkpoints execute nothing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from landmark_lab.errors import CheckpointError, DataError, RunError
from landmark_lab.files import (
    atomic,
    load_checkpoint,
    read_image,
    read_json,
    save_checkpoint,
    sha256,
    write_json,
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    content = {"a": [1, 2.5, None, "x"], "b": {"c": True}}
    write_json(tmp_path / "deep" / "x.json", content)
    assert read_json(tmp_path / "deep" / "x.json") == content
    save_checkpoint({"t": torch.arange(3), "n": 1}, tmp_path / "x.ckpt")
    assert load_checkpoint(tmp_path / "x.ckpt")["t"].tolist() == [0, 1, 2]
    assert len(sha256(tmp_path / "x.ckpt")) == 64
    # Readable by others, as a file that was simply opened would be.
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "x.ckpt").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "x.txt"
    file.write_text("old")

    def interrupted() -> None:
        with atomic(file) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_full_disk_is_said_and_the_old_checkpoint_stays(tmp_path: Path) -> None:
    file = tmp_path / "x.ckpt"
    save_checkpoint({"t": torch.zeros(4)}, file)
    before = file.read_bytes()
    # A process that may not write more than 64 KiB into a file is as badly off as on a full disk.
    code = (
        "import resource, signal, sys, torch\n"
        "from landmark_lab.errors import RunError\n"
        "from landmark_lab.files import save_checkpoint\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))\n"
        "try:\n"
        "    save_checkpoint({'t': torch.zeros(1 << 20)}, sys.argv[1])\n"
        "except RunError as error:\n"
        "    print(error)\n"
    )
    assert signal.SIGXFSZ
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert str(file) in done.stdout
    assert "could not be written" in done.stdout
    assert "unchanged" in done.stdout
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="could not be written"):
        write_json(tmp_path / "file" / "x.json", {})


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch executed",)


def test_bad_checkpoints_are_named_and_executed_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint("missing.ckpt")
    torch.save({"x": Hostile()}, "hostile.ckpt")
    with pytest.raises(CheckpointError, match=r"refused .*system"):
        load_checkpoint("hostile.ckpt")
    assert not Path("executed").exists()
    torch.save({"x": torch.zeros(1000)}, "whole.ckpt")
    content = Path("whole.ckpt").read_bytes()
    for share in (0.0, 0.3, 0.9):
        Path("part.ckpt").write_bytes(content[: int(share * len(content))])
        with pytest.raises(CheckpointError, match="damaged"):
            load_checkpoint("part.ckpt")
    Path("text.ckpt").write_text("hello")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_checkpoint("text.ckpt")
    torch.save([1], "list.ckpt")
    with pytest.raises(CheckpointError, match="not a checkpoint of this laboratory"):
        load_checkpoint("list.ckpt")


def test_bad_files_are_named(tmp_path: Path) -> None:
    bad = tmp_path / "x.png"
    for content in (b"", b"no picture", np.arange(50, dtype=np.uint8).tobytes()):
        bad.write_bytes(content)
        with pytest.raises(DataError, match=r"x\.png: is not a readable image"):
            read_image(bad)
    with pytest.raises(DataError, match="cannot be read"):
        read_image(tmp_path / "missing.png")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(DataError, match="line 1"):
        read_json(tmp_path / "x.json")
