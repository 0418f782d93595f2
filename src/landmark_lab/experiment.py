"""Running an experiment: every stage is built and trained, then predictions are made and scored.

Lightning does the running; this file puts the parts together and says which file is which::

    RUN/config.yaml                 the experiment, resolved
    RUN/checkpoints/STAGE/last.ckpt from which the run continues
    RUN/checkpoints/STAGE/best.ckpt by the label-free criterion, where that counts
    RUN/checkpoints/STAGE/done.ckpt the finished stage
    RUN/metrics/STAGE.csv           what was logged
    RUN/rounds/STAGE/*.npz          pseudo-labels of each round, see rounds.py
    RUN/predictions/*.npz           landmarks and matches, see evaluation/predictions.py
    RUN/results.json                scores
    RUN/figures/*.png               pictures
    RUN/report.html                 all of this on one page, see report/
    RUN/figures/training/*.png      the landmarks in the course of the training
"""

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from rich.console import Console

from landmark_lab import checkpoint
from landmark_lab.callbacks.csv_log import CsvLog, column
from landmark_lab.callbacks.early_stop import EarlyStop, EarlyStopSettings
from landmark_lab.callbacks.embedding_health import EmbeddingHealth
from landmark_lab.callbacks.estimate import Estimate
from landmark_lab.callbacks.finite import Finite
from landmark_lab.callbacks.health import Health
from landmark_lab.callbacks.pictures import Pictures
from landmark_lab.callbacks.plain_progress import PlainProgress
from landmark_lab.callbacks.saving import SaveLast, WriteCard
from landmark_lab.callbacks.schedule_check import ScheduleCheck
from landmark_lab.callbacks.watch import CRITERION
from landmark_lab.completion import complete
from landmark_lab.config import Experiment, Stage
from landmark_lab.data.exports import Exports
from landmark_lab.data.sampling import EpochSampler, LoaderSettings
from landmark_lab.errors import CheckpointError, ConfigError, DataError, LandmarkLabError
from landmark_lab.evaluation import evaluate, export, labels, table
from landmark_lab.evaluation.augmentation import REGRESSOR_WARPS
from landmark_lab.evaluation.predictions import unmet
from landmark_lab.figures import contact_sheet
from landmark_lab.files import write_json
from landmark_lab.geometry.points import to_pixels
from landmark_lab.loggers import RunLog, flat
from landmark_lab.plugin import build, build_settings
from landmark_lab.report import try_report
from landmark_lab.roles import (
    Embedding,
    ImageData,
    Landmarks,
    Method,
    Pairing,
    Protocol,
    Split,
    WarpGenerator,
    limited,
)
from landmark_lab.rounds import Labels, RoundsMethod
from landmark_lab.runs import in_use, new_run, note_command, open_run, process_rank, recorded
from landmark_lab.seeding import seed_of

# Of the trainer's arguments, those that say how long it trains; and its epochs without any.
_LENGTH = ("max_epochs", "max_steps", "max_time")
_EPOCHS = 1000


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
        LandmarkLabError: any bad input, or another process uses the run folder; nothing already
            computed is lost.
    """
    experiment = complete(experiment)
    log = RunLog(experiment)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_no_advertisement)
    stages: dict[str, _Stage] = {}
    for name, stage in experiment.stages.items():
        with _errors_of(stage):
            stages[name] = _Stage(stage, experiment.seed)
            stages[name].check(stages)
    _check_evaluation(experiment, list(stages.values())[-1])
    folder = open_run(resume, experiment) if resume else new_run(root, experiment, command)
    with in_use(folder), log.open(folder):
        if resume:
            note_command(folder, command)
        _train(list(stages.values()), folder, callbacks, log)
        if process_rank() == 0:
            try:
                _evaluate(list(stages.values())[-1], experiment, folder, log)
            finally:
                try_report(folder)
    if torch.distributed.is_initialized():
        # Nobody starts the next run, or ends, while the first process still evaluates.
        torch.distributed.barrier()
    return folder


def _train(
    stages: Sequence["_Stage"], folder: Path, callbacks: Sequence[Callback], log: RunLog
) -> None:
    """Train the stages that are not finished."""
    steps = 0
    for number, stage in enumerate(stages):
        later = stages[number + 1 :]
        if not stage.finished(folder, last=not later):
            stage.fit(folder, callbacks, log, steps, later)
        steps += int(checkpoint.read(stage.done(folder))[1]["global_step"])
    if process_rank() == 0:
        log.results(stages[-1].criterion(folder))


def _check_evaluation(experiment: Experiment, stage: "_Stage") -> None:
    """Find out now what a protocol will lack of the last stage's method and data."""
    for i, spec in enumerate(experiment.evaluate):
        where = f"evaluate[{i}]"
        protocol = build(Protocol, spec, where)
        problem = unmet(stage.method, stage.data, protocol.exports, _LIMITS)
        if problem is not None:
            raise ConfigError(f"'{protocol.plugin_name}' cannot be scored: {problem}", where=where)
        protocol.check_data(stage.data)
    if experiment.evaluate:
        stage.data.images("test").check_readable(_LIMITS["test"])


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
        self.data.prepare_training(self.pairing, self.loader, seed, self.method)

    def check(self, stages: Mapping[str, "_Stage"]) -> None:
        """Find out now, and not after hours of an earlier stage, what cannot work.

        Args:
            stages: this one and the earlier ones.
        """
        self.method.check_size(self.data.size)
        self.method.check_pairs(self.pairing, self.loader)
        self.method.check_points(self.data.point_names)
        self.method.freeze_parts(self.stage.freeze)
        if not len(self.data.images("train")):
            raise DataError("there are no images to train on", where=self.stage.where("data"))
        self.data.training_rows()
        self.data.validation_rows()
        monitor = getattr(self.method.schedule, "monitor", "")
        if monitor.startswith("val/") and not len(self.data.images("val")):
            raise ConfigError(
                f"the schedule follows '{monitor}', but the data has no validation split",
                where=f"{self.stage.where('method')}.schedule",
                hint="choose another schedule, or give the data a validation split",
            )
        self._check_early_stop()
        # Images to train on are met in the first epoch; these only after it.
        self.data.images("val").check_readable()
        if self._labels is not None:
            assert isinstance(self.method, RoundsMethod)
            self.method.check_teacher(self._teacher(self._labels, stages))
        start = self.stage.start_from or {}
        if "stage" in start:
            self._load(stages[start["stage"]].method.state_dict(), self.stage.where("start_from"))
        elif "checkpoint" in start:
            self._load(checkpoint.read(start["checkpoint"])[1]["state_dict"], start["checkpoint"])
        elif self._bases():
            rank_zero_warn(
                f"{self.stage.where('method')}: the part '{next(iter(self._bases()))}' has random "
                "weights; give it as {stage: NAME} or {checkpoint: PATH} if it was trained"
            )

    def _check_early_stop(self) -> None:
        if self.stage.early_stop is None:
            return
        where, monitor = self.stage.where("early_stop"), self.stage.early_stop["monitor"]
        if not len(self.data.images("val")):
            raise ConfigError("there are no validation images to stop by", where=where)
        if isinstance(self.method, RoundsMethod) and not (self._judged() and monitor == CRITERION):
            raise ConfigError(
                f"the method '{self.method.plugin_name}' logs no '{monitor}': validation images "
                "have no pseudo-labels",
                where=f"{where}.monitor",
                allowed=[CRITERION] if self._judged() else [],
                hint="trainer.max_steps says how long it trains",
            )
        if monitor == CRITERION and not self._judged():
            raise ConfigError(
                f"the method '{self.method.plugin_name}' has no label-free criterion",
                where=f"{where}.monitor",
                hint="for example monitor: val/loss",
            )

    def _judged(self) -> bool:
        """Whether checkpoints are judged by the label-free criterion."""
        validates = len(self.data.images("val")) > 0
        known = isinstance(self.method, Landmarks | Embedding)
        return validates and known and "points" not in self.method.needs

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
        return _best(self.checkpoints(folder))

    def finished(self, folder: Path, last: bool) -> bool:
        """Whether nothing is left to train.

        A finished run is trained on where it is resumed with another length; but not a stage on
        which a later one was built.
        """
        if not self.done(folder).is_file():
            return False
        before = recorded(folder).stages[self.stage.name]
        same = before.early_stop == self.stage.early_stop and all(
            before.trainer.get(key) == self.stage.trainer.get(key) for key in _LENGTH
        )
        if not same and not last:
            rank_zero_warn(
                f"{self.stage.where('trainer')}: the stage '{self.stage.name}' has finished and "
                "stays as it is, because a later stage stands on it"
            )
        return same or not last

    def planned_steps(self, processes: int) -> int | None:
        """Steps of the whole stage on so many processes, or None where it has no limit."""
        trainer = self.stage.trainer
        images, size = len(self.data.images("train")), self.loader.batch_size
        batches = limited(
            len(EpochSampler(images, size, 0, 0, processes)), trainer.get("limit_train_batches")
        )
        per_epoch = max(1, -(-batches // trainer.get("accumulate_grad_batches", 1)))
        epochs, most = trainer.get("max_epochs"), trainer.get("max_steps", -1)
        if epochs is None and most < 0:
            epochs = _EPOCHS
        limits = [per_epoch * epochs] if epochs is not None and epochs >= 0 else []
        return min([*limits, most] if most >= 0 else limits, default=None)

    def criterion(self, folder: Path) -> dict[str, float]:
        """The label-free criterion of the checkpoint that counts, where there is one."""
        values = column(self.log_file(folder), CRITERION) if self._judged() else []
        if not values:
            return {}
        return {CRITERION: min(values) if self.method.keeps_best else values[-1]}

    def log_file(self, folder: Path) -> Path:
        return folder / "metrics" / f"{self.stage.name}.csv"

    def fit(
        self,
        folder: Path,
        callbacks: Sequence[Callback],
        log: RunLog,
        first_step: int,
        later: Sequence["_Stage"],
    ) -> None:
        """Train the stage, from where an earlier attempt stopped.

        Args:
            folder: the run folder.
            callbacks: besides the laboratory's own.
            log: the loggers besides the CSV table.
            first_step: steps of the stages before.
            later: the stages that follow.
        """
        last = self.checkpoints(folder) / "last.ckpt"
        resume = last if last.is_file() else None
        until = None
        if resume is None:
            start = self.stage.start_from or {}
            if "stage" in start:
                checkpoints = self.checkpoints(folder).parent / start["stage"]
                # What stands on another method looks at what an evaluation would look at.
                earlier = _best(checkpoints) if "into" in start else checkpoints / "done.ckpt"
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
        if isinstance(self.method, RoundsMethod):
            self.method.folder = folder / "rounds" / self.stage.name
            if self._labels is not None:
                earlier = self.checkpoints(folder).parent / (self._labels.stage or "")
                source = self._labels.checkpoint or earlier / "done.ckpt"
                self.method.teacher = lambda: checkpoint.load(source)
        trainer = _new_trainer(
            self.stage.where("trainer"),
            **{"log_every_n_steps": 10, **self.stage.trainer},
            default_root_dir=folder,
            logger=[
                CsvLog(self.log_file(folder), until),
                *log.stage(self.stage.name, first_step, until),
            ],
            plugins=[checkpoint.SafeCheckpointIO()],
            callbacks=[*self._callbacks(folder, log, later, resumed=until is not None), *callbacks],
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            enable_progress_bar=sys.stderr.isatty(),
            enable_model_summary=False,
        )
        trainer.fit(self.method, datamodule=self.data, ckpt_path=resume)
        if trainer.interrupted:
            raise KeyboardInterrupt
        trainer.save_checkpoint(self.done(folder), weights_only=False)

    def _callbacks(
        self, folder: Path, log: RunLog, later: Sequence["_Stage"], resumed: bool
    ) -> Iterator[Callback]:
        yield WriteCard(checkpoint.card(self.method, self.data, self.seed, self.stage.name))
        if not sys.stderr.isatty():
            yield PlainProgress()
        yield Finite()
        if resumed:
            yield ScheduleCheck(f"{self.stage.where('method')}.schedule")
        if self._judged():
            yield Health() if isinstance(self.method, Landmarks) else EmbeddingHealth()
            if self.method.keeps_best:
                yield ModelCheckpoint(
                    dirpath=self.checkpoints(folder),
                    filename="best",
                    monitor=CRITERION,
                    enable_version_counter=False,
                )
        if self.stage.early_stop is not None:
            where = self.stage.where("early_stop")
            stop = build_settings(EarlyStopSettings, self.stage.early_stop, where)
            yield EarlyStop(stop, where)
        pictures, shown = log.settings.pictures, self.data.images("val")
        if pictures is not None and len(shown) and isinstance(self.method, Landmarks):
            yield Pictures(shown, pictures, folder / "figures" / "training", self.stage.name)
        exported = sum(min(n, len(self.data.images(s))) for s, n in _LIMITS.items())
        yield Estimate(
            folder,
            self.stage.name,
            {stage.stage.name: stage.planned_steps for stage in later},
            picture=0 if pictures is None else pictures.bytes,
            results=2 * exported * _EXPORTED_BYTES,
        )
        yield SaveLast(self.checkpoints(folder) / "last.ckpt", self.stage.save_every)

    def _load(self, state: Mapping[str, Any], path: str | Path) -> None:
        """Copy the parts of another method that ``start_from`` names."""
        start = self.stage.start_from or {}
        parts, without = tuple(start.get("parts", ())), tuple(start.get("except", ()))
        method = self.method
        if "into" in start:
            bases = self._bases()
            if start["into"] not in bases:
                raise ConfigError(
                    f"the method '{method.plugin_name}' stands on no method '{start['into']}'",
                    where=f"{self.stage.where('start_from')}.into",
                    got=start["into"],
                    allowed=bases,
                )
            method = bases[start["into"]]
        checkpoint.load_weights(method, state, path, parts, without)

    @property
    def _labels(self) -> Labels | None:
        """Where the method takes its first pseudo-labels from, if from another method."""
        start = self.method.start if isinstance(self.method, RoundsMethod) else None
        return start if isinstance(start, Labels) else None

    def _teacher(self, labels: Labels, stages: Mapping[str, "_Stage"]) -> Method:
        """That other method, as it is built; nothing is trained or loaded."""
        if labels.stage is not None:
            return stages[labels.stage].method
        assert labels.checkpoint is not None  # one of the two is given
        spec = checkpoint.read(labels.checkpoint)[0].method
        return build(Method, spec, f"{labels.checkpoint}: method")

    def _bases(self) -> dict[str, Method]:
        """The parts of the method that are methods themselves."""
        parts = self.method.named_children()
        return {name: part for name, part in parts if isinstance(part, Method)}


@contextmanager
def _errors_of(stage: Stage) -> Iterator[None]:
    """Name the stage in errors of its parts, which know their section of the file only."""
    try:
        yield
    except (ConfigError, DataError) as error:
        section, dot, rest = (error.where or "").partition(".")
        if section in stage.own:
            error.where = stage.where(section) + dot + rest
        raise


def _new_trainer(where: str, **arguments: Any) -> Trainer:
    """Lightning's trainer; what it refuses on this machine is a mistake of the configuration."""
    try:
        return Trainer(**arguments)
    except (ImportError, TypeError, ValueError, MisconfigurationException) as error:
        raise ConfigError(f"Lightning's Trainer refuses it: {error}", where=where) from error


def _best(checkpoints: Path) -> Path:
    """The best checkpoint of a stage, or the last where there is no best one."""
    best = checkpoints / "best.ckpt"
    return best if best.is_file() else checkpoints / "done.ckpt"


# Enough for a regressor and an interval; data that draws itself has no end.
_LIMITS: dict[Split, int] = {"train": 4000, "test": 2000}
_EXPORTED_BYTES = 1000  # of an image, about
_SHOWN = 24


def _evaluate(stage: _Stage, experiment: Experiment, folder: Path, log: RunLog) -> None:
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
    protocols = [build(Protocol, spec, "evaluate") for spec in experiment.evaluate]
    exports = Exports.union(protocol.exports for protocol in protocols)
    shared |= {"matches": exports.matches, "keypoints": exports.keypoints}
    if exports.copies:
        augmentation = build(WarpGenerator, REGRESSOR_WARPS, "evaluate")
        shared |= {"augmentation": augmentation, "copies": exports.copies}
    predictions = folder / "predictions"
    found = export(method, stage.data, predictions / "best.npz", checkpoint=best, **shared)
    untrained = export(stage.new_method(), stage.data, predictions / "untrained.npz", **shared)
    if isinstance(method, Landmarks):
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
    log.results(flat(scores))
    Console().print(table(results))
    if failed:
        raise failed[0]


@torch.no_grad()
def _draw(method: Method, data: ImageData, path: Path) -> None:
    """The landmarks found on some images that were not trained on."""
    assert isinstance(method, Landmarks)
    images = data.images("test")
    step = max(1, len(images) // _SHOWN)
    shown = [images[i]["image"] for i in range(0, len(images), step)][:_SHOWN]
    pixels = torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2).float() / 255
    points, _ = method.landmarks(pixels.to(method.device))
    drawn = to_pixels(points.cpu(), data.size, data.size).numpy()
    contact_sheet(path, shown, list(drawn), columns=8)
