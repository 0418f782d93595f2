"""The log of a run in Weights & Biases: one W&B run a run folder, over all stages and resumes.

The only file that imports wandb. Nothing but what is logged goes there: no code, no console output,
no machine statistics, unless ``settings`` asks for it.
"""

import netrc
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

import numpy as np
from numpy.typing import NDArray
from pytorch_lightning.loggers import Logger

from landmark_lab.errors import ConfigError, RunError, require
from landmark_lab.files import read_json, write_json

PURPOSE = "logging to Weights & Biases (log.wandb)"
_ID = "wandb.json"
_QUIET: dict[str, Any] = {
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "quiet": True,
    "save_code": False,
    "x_disable_meta": True,
    "x_disable_stats": True,
}


@dataclass(frozen=True)
class WandbSettings:
    """Where and how a run is logged to W&B.

    Args:
        project: the W&B project; None: ``WANDB_PROJECT``, or landmark-lab.
        entity: the user or team; None: W&B's own choice.
        mode: None: ``WANDB_MODE``; without it online if there is a login, offline otherwise.
        tags: besides the row and the seed.
        settings: further arguments of ``wandb.Settings``, e.g. ``{console: wrap}``.
    """

    project: str | None = None
    entity: str | None = None
    mode: Literal["online", "offline", "disabled"] | None = None
    tags: tuple[str, ...] = ()
    settings: dict[str, Any] | None = None


@dataclass(frozen=True)
class About:
    """What W&B shows of a run.

    Attributes:
        name: of the run.
        group: of the runs that differ in nothing but the seed.
        tags: what to find the run by.
        config: the experiment, resolved.
    """

    name: str
    group: str
    tags: Sequence[str]
    config: Mapping[str, Any]


def mode_of(settings: WandbSettings) -> Literal["online", "offline", "disabled"]:
    """Whether to use the network: what is asked for, or what there is a login for.

    Raises:
        ConfigError: ``WANDB_MODE`` holds something else.
    """
    # W&B's older switch; it knew no other value than these.
    if os.environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes", "on"):
        return "disabled"
    mode = settings.mode or os.environ.get("WANDB_MODE", "")
    names = {"run": "online", "dryrun": "offline"}  # as W&B called them once
    mode = names.get(mode, mode) or ("online" if _login() else "offline")
    if mode not in ("online", "offline", "disabled"):
        raise ConfigError(
            f"'{mode}' is no mode of W&B",
            where="the environment variable WANDB_MODE",
            got=mode,
            allowed=("online", "offline", "disabled"),
        )
    return mode  # type: ignore[return-value]


def _login() -> bool:
    """Whether there is a key for W&B's server, in the environment or in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    server = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    named = os.environ.get("NETRC")
    for path in [Path(named)] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            # Not `authenticators`, which answers with the default entry of another server.
            if server in netrc.netrc(path).hosts:
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def check_wandb(settings: WandbSettings) -> None:
    """Find out before any work whether W&B can be used as asked.

    Raises:
        MissingDependencyError: wandb is not installed.
        ConfigError: wandb refuses a setting.
    """
    if mode_of(settings) == "disabled":
        return
    wandb = require("wandb", purpose=PURPOSE)
    try:
        wandb.Settings(**_library_settings(settings))
    except (TypeError, ValueError) as error:
        problem = " ".join(str(error).split())
        raise ConfigError(f"wandb refuses them ({problem})", where="log.wandb.settings") from error


class WandbLog(Logger):
    """Sends rows to W&B, the steps of a stage following those of the stage before.

    The id of the W&B run is kept in the run folder, so that a resumed run continues the curves.
    They never go backwards: offline, rows wait until the checkpoint that covers them is saved;
    online, rows that the server has are not sent again.

    Args:
        folder: the run folder; W&B's files go there too.
        settings: where and how to log; its mode is not "disabled".
        about: what W&B shows of the run.

    Attributes:
        offset: steps of the stages before.

    Raises:
        RunError: W&B cannot start, e.g. because the login is wrong.
    """

    def __init__(self, folder: Path, settings: WandbSettings, about: About) -> None:
        super().__init__()
        wandb = require("wandb", purpose=PURPOSE)
        self.offset = 0
        self._image = wandb.Image
        self._online = mode_of(settings) == "online"
        self._waiting: list[tuple[int, dict[str, Any]]] = []
        self._latest = 0
        self._results: dict[str, float] = {}
        self._id = _run_id(folder / _ID)
        try:
            self._run = wandb.init(
                id=self._id,
                resume="allow",
                dir=str(folder),
                mode=mode_of(settings),
                project=settings.project or os.environ.get("WANDB_PROJECT", "landmark-lab"),
                entity=settings.entity,
                name=about.name,
                group=about.group,
                tags=[*about.tags, *settings.tags],
                config=dict(about.config),
                settings=wandb.Settings(**_library_settings(settings)),
            )
        except wandb.errors.Error as error:
            raise RunError(
                f"W&B cannot start ({' '.join(str(error).split())})",
                where="log.wandb",
                hint="log.wandb.mode=offline logs without the network",
            ) from error

    @property
    def name(self) -> str:
        """Lightning asks for one."""
        return "wandb"

    @property
    def version(self) -> str:
        """The id of the W&B run."""
        return self._id

    @property
    def place(self) -> str:
        """Where the run is to be seen, or how to upload it."""
        if self._online and self._run.url:
            return str(self._run.url)
        return f"offline; to upload: wandb sync {Path(self._run.dir).parent}"

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send a row, or keep it for :meth:`save`."""
        self._latest = self.offset + (step or 0)
        self._add({name: float(value) for name, value in metrics.items()})

    def log_picture(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """Send a picture (H, W, 3) uint8 with the latest row: W&B's steps only go up."""
        self._add({name: self._image(picture)})

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: W&B has the whole configuration."""

    def log_results(self, results: Mapping[str, float]) -> None:
        """Show final values in the summary, see :meth:`close`."""
        self._results |= results

    def save(self) -> None:
        """Send what waits, because the checkpoint that is saved now covers it."""
        for step, row in self._waiting:
            # Lower steps are those that the server has from before the resume.
            if step >= self._run.step:
                self._run.log(row, step=step)
        self._waiting = []

    def finalize(self, status: str) -> None:
        """At the end of a stage; after an error, what the resumed run will log again is dropped."""
        if status == "success":
            self.save()
        self._waiting = []

    def close(self, failed: bool) -> None:
        """End the W&B run; its summary are the results and otherwise what was logged last."""
        if self._results:
            # The last row is still open, and closing it would overwrite them.
            self._run.log({}, commit=True)
            self._run.summary.update(self._results)
        self._run.finish(exit_code=int(failed))

    def _add(self, row: dict[str, Any]) -> None:
        self._waiting.append((self._latest, row))
        if self._online:
            self.save()


def _library_settings(settings: WandbSettings) -> dict[str, Any]:
    """Arguments of ``wandb.Settings``; offline there is nothing that wandb would have to say."""
    silent = mode_of(settings) != "online"
    return {**_QUIET, "silent": silent, **(settings.settings or {})}


def _run_id(file: Path) -> str:
    """The id of the W&B run of a run folder: a sweep agent's choice, or a new one."""
    if not file.is_file():
        write_json(file, {"id": os.environ.get("WANDB_RUN_ID") or uuid.uuid4().hex[:8]})
    return str(read_json(file)["id"])
