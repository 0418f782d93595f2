"""Run folders: numbered, never overwritten, with everything needed to understand and repeat a run.

``ROOT/EXPERIMENT[/ROW]/NNN`` holds from the start the resolved configuration (``config.yaml``), the
command (``command.txt``) and the versions of everything (``environment.json``). While a process
works in it, it is locked and ``running.json`` says by whom.
"""

import importlib.metadata
import json
import os
import platform
import shlex
import socket
import subprocess
import time
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from landmark_lab import __version__
from landmark_lab.config import Experiment, differences, read, save
from landmark_lab.errors import LandmarkLabError, RunError
from landmark_lab.files import read_json, write_json, write_text

CONFIG = "config.yaml"
COMMAND = "command.txt"
ENVIRONMENT = "environment.json"
_HOLDER = "running.json"
# Loading processes outlive one that is killed for a few seconds, and hold what it held.
_ORPHANS = 30.0
_LIBRARIES = (
    "torch",
    "pytorch-lightning",
    "torchmetrics",
    "numpy",
    "scipy",
    "scikit-learn",
    "opencv-python-headless",
    "albumentations",
    "faiss-cpu",
    "faiss-gpu",
    "timm",
    "torchvision",
)
# Set by the first process; the processes that Lightning starts from it inherit it.
_LAUNCH_VARIABLE = "LANDMARK_LAB_LAUNCH"
_started = 0


def new_run(root: Path, experiment: Experiment, command: Sequence[str] = ()) -> Path:
    """Make the folder of a new run; in the processes of one run it is the same folder.

    Args:
        root: where the runs lie.
        experiment: what will run.
        command: the command line.

    Raises:
        RunError: the folder cannot be made or written.
    """
    parent = root / experiment.name / (experiment.row or "")
    launch = _launch()
    if process_rank():
        return _made_by_rank_zero(parent, launch)
    folder = _numbered(parent)
    save(experiment, folder / CONFIG)
    write_text(folder / COMMAND, shlex.join(command) + "\n")
    # Written last: the other processes wait for it.
    started = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(folder / ENVIRONMENT, {**environment(), "started": started, "launch": launch})
    return folder


def open_run(path: Path, experiment: Experiment | None = None) -> Path:
    """Check that a folder is a run that can be continued.

    Args:
        path: the folder.
        experiment: what is about to run in it, complete. What may differ from what the folder was
            made for: the trainer's settings, the loader's workers, how often it saves, the
            evaluation.

    Raises:
        RunError: it is no run folder, or one of another configuration.
    """
    if not (path / CONFIG).is_file():
        runs = sorted(file.parent for file in path.glob(f"**/{CONFIG}"))
        raise RunError(
            "is not a run folder" if path.is_dir() else "there is no such run folder",
            where=str(path),
            allowed=f"a folder that holds {CONFIG}",
            hint=f"did you mean {runs[-1]}?" if runs else None,
        )
    if experiment is not None:
        changed = differences(_fixed(recorded(path)), _fixed(experiment))
        if changed:
            raise RunError(
                "the run was made with another configuration: " + ", ".join(changed[:5]),
                where=str(path),
                hint="start a new run instead",
            )
    return path


def note_command(folder: Path, command: Sequence[str]) -> None:
    """Add the command line that continues a run to those that made it."""
    file = folder / COMMAND
    before = file.read_text(encoding="utf-8") if file.is_file() else ""
    if command and process_rank() == 0:
        write_text(file, f"{before}{shlex.join(command)}\n")


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Keep a run folder to this process and the others of its launch.

    The operating system holds the lock, so a process that dies, however it dies, gives it back.

    Args:
        folder: the run folder.

    Raises:
        RunError: another process works in it; the message names it.
    """
    if process_rank():
        yield  # the first process holds the lock for all
        return
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0 if _holder_lives(folder) else _ORPHANS)
    except Timeout as error:
        raise RunError(
            f"is in use by {_holder(folder)}",
            where=str(folder),
            hint="wait until it ends, stop it, or start a new run",
        ) from error
    except (OSError, NotImplementedError) as error:
        warnings.warn(
            f"{folder}: this file system cannot lock ({error}); let only one process use the run",
            stacklevel=2,
        )
        yield
        return
    try:
        me = {"host": socket.gethostname(), "process": os.getpid(), "since": time.ctime()}
        write_json(folder / _HOLDER, me)
        yield
    finally:
        (folder / _HOLDER).unlink(missing_ok=True)
        lock.release()


def _holder_lives(folder: Path) -> bool:
    """Whether the process that ``running.json`` names may still be running."""
    if not (folder / _HOLDER).is_file():
        return True  # it has just started, or just ended
    try:
        holder = read_json(folder / _HOLDER)
        if holder["host"] == socket.gethostname():
            os.kill(int(holder["process"]), 0)
    except ProcessLookupError:
        return False
    except (OSError, LandmarkLabError, KeyError, TypeError, ValueError):
        pass  # of another user, or ended in between
    return True


def _holder(folder: Path) -> str:
    try:
        holder = read_json(folder / _HOLDER)
        return f"process {holder['process']} on {holder['host']} since {holder['since']}"
    except (LandmarkLabError, KeyError, TypeError):
        return "another process"


def recorded(path: Path) -> Experiment:
    """The experiment that a run folder was made for.

    Raises:
        RunError: it is no run folder.
        ConfigError: its configuration is damaged.
    """
    return read(open_run(path) / CONFIG)


def environment() -> dict[str, Any]:
    """Versions, devices and the state of the source code, as plain containers."""
    import torch

    return {
        "landmark_lab": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "cuda": torch.version.cuda,
        "cuda_devices": cuda_devices(),
        "libraries": {name: version for name in _LIBRARIES if (version := installed(name))},
        "git": _git(),
    }


def installed(distribution: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _fixed(experiment: Experiment) -> dict[str, Any]:
    """What may not change when a run is continued."""
    stages = {}
    for name, stage in experiment.stages.items():
        loader = {key: value for key, value in stage.loader.items() if key != "workers"}
        sections = ("data", "pairing", "method", "start_from", "freeze")
        stages[name] = {key: getattr(stage, key) for key in sections} | {"loader": loader}
    return {"seed": experiment.seed, "stages": stages}


def _numbered(parent: Path) -> Path:
    """Make the next numbered folder; two processes never get the same one."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        while True:
            numbers = [int(p.name) for p in parent.iterdir() if p.name.isdecimal()]
            folder = parent / f"{max(numbers, default=0) + 1:03d}"
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return folder
    except OSError as error:
        raise RunError(f"cannot be made ({error.strerror})", where=str(parent)) from error


def process_rank() -> int:
    """The number of this process among those of a distributed run, as its launcher says.

    Raises:
        RunError: a launcher's environment variable holds no number.
    """
    for key in ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK"):
        value = os.environ.get(key, "0")
        if not value.strip().isdecimal():
            raise RunError(
                f"'{value}' is not the number of a process",
                where=f"the environment variable {key}",
                allowed="a whole number from 0, as torchrun, SLURM or Lightning set it",
                hint=f"if you use none of them: unset {key}",
            )
        if rank := int(value):
            return rank
    return 0


def _launch() -> str:
    """What all processes of this run, and no other run of these processes, have in common."""
    global _started
    _started += 1
    keys = ("SLURM_JOB_ID", "SLURM_STEP_ID", "TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")
    if _LAUNCH_VARIABLE not in os.environ:
        job = [os.environ[key] for key in keys if key in os.environ]
        os.environ[_LAUNCH_VARIABLE] = "/".join(job) or uuid.uuid4().hex
    return f"{os.environ[_LAUNCH_VARIABLE]}/{_started}"


def _made_by_rank_zero(parent: Path, launch: str, patience: float = 120.0) -> Path:
    """Wait for the folder that the first process makes at about the same time."""
    started = time.time()
    while time.time() < started + patience:
        for file in parent.glob(f"*/{ENVIRONMENT}"):
            # An older run may have had the same address and port.
            if file.stat().st_mtime < started - patience:
                continue
            if json.loads(file.read_text(encoding="utf-8")).get("launch") == launch:
                return file.parent
        time.sleep(0.2)
    raise RunError("the first process has made no run folder", where=str(parent))


def cuda_devices() -> list[str]:
    """The names of the CUDA devices.

    The driver's program is asked, because torch would initialise CUDA in this process, which could
    then no longer start others by forking.
    """
    query = ("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return (_output(*query) or "").splitlines()


def _git() -> dict[str, Any] | None:
    """Commit and state of the repository around the current folder, if there is one."""
    commit = _output("git", "rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "dirty": bool(_output("git", "status", "--porcelain"))}


def _output(*command: str) -> str | None:
    """What a program prints, or None if it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
