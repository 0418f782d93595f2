"""Running an experiment: every stage is built and trained, then predictions are made and scored.

Lightning does the running; this file puts the parts together and says which file is which::

    RUN/config.yaml                 the experiment, resolved
    RUN/checkpoints/STAGE/last.ckpt from which the run continues
    RUN/checkpoints/STAGE/best.ckpt by the label-free criterion, where there is one
    RUN/checkpoints/STAGE/done.ckpt the finished stage
    RUN/metrics/STAGE.csv           what was logged
    RUN/predictions/*.npz           landmarks and matches, see evaluation/predictions.py
    RUN/results.json                scores
    RUN/figures/*.png               pictures
"""

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_info
from rich.console import Console

from landmark_lab import checkpoint
from landmark_lab.callbacks.csv_log import CsvLog
from landmark_lab.callbacks.health import CRITERION, Health
from landmark_lab.callbacks.plain_progress import PlainProgress
from landmark_lab.callbacks.saving import SaveLast, WriteCard
from landmark_lab.completion import complete
from landmark_lab.config import Experiment, Stage
from landmark_lab.data.sampling import LoaderSettings
from landmark_lab.errors import CheckpointError, ConfigError, DataError, LandmarkLabError
from landmark_lab.evaluation import evaluate, export, labels, table
from landmark_lab.figures import contact_sheet
from landmark_lab.files import write_json
from landmark_lab.geometry.points import to_pixels
from landmark_lab.plugin import build, build_settings
from landmark_lab.roles import ImageData, Landmarks, Method, Pairing, Protocol
from landmark_lab.runs import new_run, open_run, process_rank
from landmark_lab.seeding import seed_of


def run(
    experiment: Experiment,
    root: Path,
    resume: Path | None = None,
    command: Sequence[str] = (),
    callbacks: Sequence[Callback] = (),
) -> Path:
    """Run an experiment, or continue a run that was interrupted.

    Args:
        experiment: what to run; checked before anything is loaded.
        root: where run folders are made.
        resume: the run folder to continue; finished stages are not repeated.
        command: the command line, to be written down.
        callbacks: further Lightning callbacks, for use from Python.

    Returns:
        The run folder.

    Raises:
        LandmarkLabError: any bad input; nothing already computed is lost.
    """
    experiment = complete(experiment)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_no_advertisement)
    stages: dict[str, _Stage] = {}
    for name, stage in experiment.stages.items():
        stages[name] = _Stage(stage, experiment.seed)
        stages[name].check(stages)
    _check_evaluation(experiment, list(stages.values())[-1].method)
    folder = open_run(resume, experiment) if resume else new_run(root, experiment, command)
    for one in stages.values():
        if not one.done(folder).is_file():
            one.fit(folder, callbacks)
    if process_rank() == 0:
        _evaluate(list(stages.values())[-1], experiment, folder)
    if torch.distributed.is_initialized():
        # Nobody starts the next run, or ends, while the first process still evaluates.
        torch.distributed.barrier()
    return folder


def _check_evaluation(experiment: Experiment, method: Method) -> None:
    if experiment.evaluate and not isinstance(method, Landmarks):
        raise ConfigError(
            f"the method '{method.plugin_name}' finds no landmarks to evaluate", where="evaluate"
        )


def _no_advertisement(record: logging.LogRecord) -> bool:
    """Lightning recommends its own logging service at every start."""
    return "litlogger" not in record.getMessage()


class _Stage:
    """One stage, its parts built and checked against each other."""

    def __init__(self, stage: Stage, seed: int) -> None:
        self.stage = stage
        self.seed = seed
        self.data = build(ImageData, stage.data, stage.where("data"))
        self.method = self.new_method()
        self.pairing = build(Pairing, stage.pairing, stage.where("pairing"))
        self.loader = build_settings(LoaderSettings, stage.loader, stage.where("loader"))
        self.data.prepare_training(self.pairing, self.loader, seed)

    def check(self, stages: Mapping[str, "_Stage"]) -> None:
        """Find out now, and not after hours of an earlier stage, what cannot work.

        Args:
            stages: this one and the earlier ones.
        """
        self.method.check_size(self.data.size)
        self.method.freeze_parts(self.stage.freeze)
        if not len(self.data.images("train")):
            raise DataError("there are no images to train on", where=self.stage.where("data"))
        monitor = getattr(self.method.schedule, "monitor", "")
        if monitor.startswith("val/") and not len(self.data.images("val")):
            raise ConfigError(
                f"the schedule follows '{monitor}', but the data has no validation split",
                where=f"{self.stage.where('method')}.schedule",
                hint="choose another schedule, or give the data a validation split",
            )
        start = self.stage.start_from or {}
        if "stage" in start:
            self._load(stages[start["stage"]].method.state_dict(), self.stage.where("start_from"))
        elif "checkpoint" in start:
            self._load(checkpoint.read(start["checkpoint"])[1]["state_dict"], start["checkpoint"])

    def new_method(self) -> Method:
        """The untrained method: its weights are a function of the seed and the stage."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self.seed, f"weights of {self.stage.name}"))
            return build(Method, self.stage.method, self.stage.where("method"))

    def checkpoints(self, folder: Path) -> Path:
        return folder / "checkpoints" / self.stage.name

    def done(self, folder: Path) -> Path:
        """The checkpoint of the finished stage."""
        return self.checkpoints(folder) / "done.ckpt"

    def best(self, folder: Path) -> Path:
        """The best checkpoint by the label-free criterion, or the last where there is none."""
        best = self.checkpoints(folder) / "best.ckpt"
        return best if best.is_file() else self.done(folder)

    def fit(self, folder: Path, callbacks: Sequence[Callback]) -> None:
        """Train the stage, from where an earlier attempt stopped."""
        last = self.checkpoints(folder) / "last.ckpt"
        resume = last if last.is_file() else None
        until = None
        if resume is None:
            start = self.stage.start_from or {}
            if "stage" in start:
                earlier = self.checkpoints(folder).parent / start["stage"] / "done.ckpt"
                self._load(checkpoint.read(earlier)[1]["state_dict"], earlier)
        else:
            card, content = checkpoint.read(resume)
            if card.method != self.method.spec:
                raise CheckpointError(
                    f"holds the method {card.method}, the run trains {self.method.spec}",
                    where=str(resume),
                )
            until = int(content["global_step"])
            rank_zero_info(f"continuing stage '{self.stage.name}' from step {until}")
        trainer = Trainer(
            **{"log_every_n_steps": 10, **self.stage.trainer},
            default_root_dir=folder,
            logger=CsvLog(folder / "metrics" / f"{self.stage.name}.csv", until),
            plugins=[checkpoint.SafeCheckpointIO()],
            callbacks=[*self._callbacks(folder), *callbacks],
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            enable_progress_bar=sys.stderr.isatty(),
            enable_model_summary=False,
        )
        trainer.fit(self.method, datamodule=self.data, ckpt_path=resume)
        if trainer.interrupted:
            raise KeyboardInterrupt
        trainer.save_checkpoint(self.done(folder), weights_only=False)

    def _callbacks(self, folder: Path) -> Iterator[Callback]:
        yield WriteCard(checkpoint.card(self.method, self.data, self.seed, self.stage.name))
        if not sys.stderr.isatty():
            yield PlainProgress()
        validates = len(self.data.images("val")) > 0
        if validates and isinstance(self.method, Landmarks):
            yield Health()
            yield ModelCheckpoint(
                dirpath=self.checkpoints(folder),
                filename="best",
                monitor=CRITERION,
                enable_version_counter=False,
            )
        yield SaveLast(self.checkpoints(folder) / "last.ckpt", self.stage.save_every)

    def _load(self, state: Mapping[str, Any], path: str | Path) -> None:
        """Copy the parts of another method that ``start_from`` names."""
        start = self.stage.start_from or {}
        parts, without = tuple(start.get("parts", ())), tuple(start.get("except", ()))
        checkpoint.load_weights(self.method, state, path, parts, without)


# Enough for a regressor and an interval; data that draws itself has no end.
_LIMITS = {"train": 4000, "test": 2000}
_SHOWN = 24


def _evaluate(stage: _Stage, experiment: Experiment, folder: Path) -> None:
    """Export the predictions of the last stage's best checkpoint, score them, draw them."""
    if not experiment.evaluate:
        return
    best = stage.best(folder)
    method = checkpoint.load(best)
    on_cpu = stage.stage.trainer.get("accelerator") == "cpu" or not torch.cuda.is_available()
    device = "cpu" if on_cpu else "cuda"
    shared: dict[str, Any] = {
        "splits": ("train", "test"),
        "limits": _LIMITS,
        "seed": experiment.seed,
        "loader": stage.loader,
        "device": device,
        "warps": getattr(stage.pairing, "warps", None),
    }
    predictions = folder / "predictions"
    found = export(method, stage.data, predictions / "best.npz", checkpoint=best, **shared)
    untrained = export(stage.new_method(), stage.data, predictions / "untrained.npz", **shared)
    protocols = [build(Protocol, spec, "evaluate") for spec in experiment.evaluate]
    _draw(method, stage.data, folder / "figures" / "landmarks.png")
    scores: dict[str, Any] = {}
    failed: list[LandmarkLabError] = []
    for label, protocol in zip(labels(protocols), protocols, strict=True):
        try:
            (scores[label],) = evaluate(found, [protocol], untrained, checkpoint=best)[
                "protocols"
            ].values()
        except LandmarkLabError as error:  # one that cannot be scored must not cost the others
            failed.append(error)
    results = {"protocols": scores, "reported": experiment.reported}
    write_json(folder / "results.json", results)
    Console().print(table(results))
    if failed:
        raise failed[0]


@torch.no_grad()
def _draw(method: Method, data: ImageData, path: Path) -> None:
    """The landmarks found on some images that were not trained on."""
    assert isinstance(method, Landmarks)  # checked before the training
    images = data.images("test")
    step = max(1, len(images) // _SHOWN)
    shown = [images[i]["image"] for i in range(0, len(images), step)][:_SHOWN]
    pixels = torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2).float() / 255
    points, _ = method.landmarks(pixels.to(method.device))
    drawn = to_pixels(points.cpu(), data.size, data.size).numpy()
    contact_sheet(path, shown, list(drawn), columns=8)
