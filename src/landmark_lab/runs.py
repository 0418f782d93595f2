"""Run folders: numbered, never overwritten, with everything needed to understand and repeat a run.

``ROOT/EXPERIMENT[/ROW]/NNN`` holds from the start the resolved configuration (``config.yaml``), the
command (``command.txt``) and the versions of everything (``environment.json``).
"""

import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from landmark_lab import __version__
from landmark_lab.config import Experiment, differences, read, save
from landmark_lab.errors import RunError
from landmark_lab.files import write_json, write_text

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
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
    write_text(folder / "command.txt", shlex.join(command) + "\n")
    # Written last: the other processes wait for it.
    write_json(folder / ENVIRONMENT, {**environment(), "launch": launch})
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
    """The number of this process among those of a distributed run, as its launcher says."""
    for key in ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK"):
        if key in os.environ and (rank := int(os.environ[key])):
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
