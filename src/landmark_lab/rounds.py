"""Rounds: methods that learn from keypoints which they find themselves, again and again.

D. Mallis, PhD thesis, algorithms 1 and 2. A training is cut into
rounds. At the start of each one the network, as it is then, looks at all training images; what it
finds is filtered and clustered, and is what it learns from until the next round. The first round
starts from a generic keypoint detector, or from what an earlier stage of the experiment found.

There is one loop, Lightning's. A round begins in the hook before a training step, whenever
``round_at(step)`` grows. The pseudo-labels are a table that the method owns, looked up by
``batch.index``; it travels in the checkpoints from which a run continues, beside the weights, so
that a method can be loaded without it. The pass over the images draws nothing and leaves the
network in the mode it was in. A run that was killed therefore goes on inside a round with the same
table, and bit for bit on the CPU.

A method whose findings are named by clusters clusters a last time at the end of the training, if a
round ends there: algorithm 2, lines 9 to 11. It is what a longer training would do before its next
step, so that one which is prolonged has the weights and pseudo-labels of one that was longer from
the start.

In a run folder every round is written down::

    RUN/rounds/STAGE/003.npz   the pseudo-labels of round 3 and what goes with them
    RUN/metrics/STAGE.csv      round/..., what changed

See ``data/rounds.py`` for both.

Convention: points are (x, y) in [-1, 1], ±1 being the outer edges of the border pixels.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.nn.functional import grid_sample
from torch.optim import Optimizer

from landmark_lab.clustering.gathered import once_for_all
from landmark_lab.data.batch import LoadedBatch, Pair, Sample
from landmark_lab.data.detection import detect_keypoints
from landmark_lab.data.kept import shown
from landmark_lab.data.keypoints import KeypointTable
from landmark_lab.data.rounds import Change, Labelled, by_prefix, compare, write_round
from landmark_lab.data.sampling import LoaderSettings
from landmark_lab.errors import ConfigError, DataError
from landmark_lab.geometry.points import inside
from landmark_lab.geometry.warp import TO_SOURCE
from landmark_lab.keypoint_network import KeypointNetwork, LandmarkNetwork
from landmark_lab.roles import ImageData, KeypointDetector, Method, Optimiser, Pairing, Schedule
from landmark_lab.seeding import BatchDraw, seed_of

KEY = "rounds"
"""Where a checkpoint keeps the table."""

# A round in which one cluster holds more of the labelled keypoints has collapsed.
_MOST = 0.9


class Found(NamedTuple):
    """What a method finds in B images.

    Attributes:
        points: (B, N, 2), NaN where there is none.
        scores: (B, N).
        descriptors: (B, N, D), or None.
        labels: (B, N) int64, which landmark each one is; None of a method that does not know.
    """

    points: Tensor
    scores: Tensor
    descriptors: Tensor | None = None
    labels: Tensor | None = None


class Views(NamedTuple):
    """The keypoints of both images of B pairs, sources before targets.

    M is the same for all batches of a round.

    Attributes:
        points: (2, B, M, 2). They may lie outside the image. NaN where there is no keypoint, and in
            a target where a flow does not lead to it.
        labels: (2, B, M). In a mirror image, as only sources are, those of the mirrored keypoints.
        lost: (2, B, L, 2), where the keypoints that a flow does not lead to would be, NaN for all
            others; without a flow L is 0. They may be hidden there or not. The detectors learn that
            there is none: what cannot be followed is a poor landmark.
    """

    points: Tensor
    labels: Tensor
    lost: Tensor

    def joined(self) -> "Views":
        """The same with 2B rows instead of (2, B)."""
        return Views(*(views.flatten(0, 1) for views in self))


class UnusableRound(DataError):
    """Nothing can be learned from what was found in a round; the last pseudo-labels are kept."""


@dataclass(frozen=True)
class Labels:
    """Whose findings a method learns from: ``{stage: NAME}`` or ``{checkpoint: PATH}``.

    Args:
        stage: an earlier stage of the experiment, whose method learned in rounds.
        checkpoint: or a checkpoint of such a method.
    """

    stage: str | None = None
    checkpoint: str | None = None

    def __post_init__(self) -> None:
        if (self.stage is None) == (self.checkpoint is None):
            raise ValueError("labels need either a stage or a checkpoint")


class RoundsMethod(Method):
    """A method whose pseudo-labels are a table, renewed in rounds; see the module's text.

    A subclass makes its ``network``, and says what it finds in images (``find``) and what is
    learned from that (``relabel``). In ``losses`` it looks keypoints up by :meth:`in_views`, and
    draws by ``self.draw``.

    Args:
        start: what the first round is made from.
        first: steps before the first renewal; 0: there is none.
        every: steps between two renewals; 0: there is one at most.
        weights, optimiser, schedule: see ``Method``.

    Attributes:
        network: what learns.
        mirror: whether the table has labels of mirror images; needed for mirrored pairs.
        folder: where the rounds are written down; None: nowhere. Set by whoever runs the training.
        teacher: gives the method that ``start`` refers to if it is ``Labels``. Set likewise; called
            only where the training begins.
        draw: random numbers for the rows of the batch at hand.
        labelled: whether some keypoint of the table has a label.
        afresh: whether every renewal starts the network and the optimiser's state afresh.
        closes: whether the end of the training begins another round, see the module's text.
        reads_descriptors: whether ``relabel`` reads those of a detector in round 0.
    """

    # The criterion prefers the weights of early rounds: what few sure keypoints a network finds
    # then follows a warp well, and later rounds add to them.
    keeps_best = False
    closes: ClassVar[bool] = False
    reads_descriptors: bool = True
    network: KeypointNetwork | LandmarkNetwork
    mirror: bool = False

    def __init__(
        self,
        start: KeypointDetector | Labels,
        first: int,
        every: int,
        weights: Mapping[str, float],
        optimiser: Optimiser,
        schedule: Schedule,
    ) -> None:
        super().__init__(weights, optimiser, schedule)
        if first < 0 or every < 0:
            raise ValueError(f"rounds of {first} and {every} steps; allowed: at least 0")
        self.start, self.first, self.every = start, first, every
        self.folder: Path | None = None
        self.teacher: Callable[[], Method] | None = None
        self.draw = BatchDraw.single(0, 0)
        self.afresh = False
        self.number = 0
        self.labelled = False
        self._table: KeypointTable | None = None
        self._last_step: float = -1
        self._shown: dict[str, Tensor] = {}

    # --- what a method says ----------------------------------------------------------------------

    @abstractmethod
    def find(self, sample: Sample) -> Found:
        """Keypoints of B un-augmented images, in evaluation mode and without gradients."""

    @abstractmethod
    def relabel(self, found: KeypointTable, number: int) -> Labelled:
        """The pseudo-labels of a round; called in the first process only.

        Args:
            found: the keypoints of all training images, with descriptors where there are any: what
                ``find`` found, or in round 0 what ``start`` gives.
            number: of the round.

        Raises:
            UnusableRound: nothing can be learned from them.
        """

    @property
    def concluded(self) -> int | None:
        """How many labels ``conclude`` gives; None: no stage can follow this method."""
        return None

    def conclude(self, found: KeypointTable) -> Labelled:
        """The pseudo-labels for a stage that follows, if ``concluded`` says that one can.

        Called without a trainer. ``found`` is what the method, as it is, finds in all training
        images.

        Raises:
            UnusableRound: nothing can be learned from them.
        """
        raise NotImplementedError(f"no stage can follow '{self.plugin_name}'")

    def check_teacher(self, teacher: Method) -> None:
        """Refuse a method whose findings cannot be learned from, before anything is loaded.

        Raises:
            ConfigError: it labels no keypoints.
        """
        if not isinstance(teacher, RoundsMethod) or teacher.concluded is None:
            raise ConfigError(
                f"the method '{teacher.plugin_name}' labels no keypoints to learn from",
                where="method.labels",
                hint="name a stage of one of the methods that are called ...self_training...",
            )

    # --- what a method uses ----------------------------------------------------------------------

    def to_cluster(self, descriptors: Tensor) -> Tensor:
        """Descriptors where they are to be clustered: on the method's GPU if that is CUDA's.

        Keypoints of all images are kept on the CPU, and the clusters found belong there again.
        Other devices lack the double precision that the sums need.
        """
        return descriptors.to(self.device) if self.device.type == "cuda" else descriptors

    @property
    def table(self) -> KeypointTable:
        """The pseudo-labels of this round, on the method's device."""
        if self._table is None:
            raise DataError("there are no pseudo-labels yet; a training makes them")
        return self._table

    @table.setter
    def table(self, table: KeypointTable) -> None:
        self._table = table.without_descriptors().to(self.device)
        self.labelled = bool((table.labels >= 0).any())

    def in_views(self, batch: Pair) -> Views:
        """The keypoints of both images of each pair.

        Raises:
            ConfigError: nobody knows how the target follows from the source.
        """
        warp = batch.warp
        if warp is None:
            raise ConfigError("needs pairs with a known warp, e.g. 'synthetic'", where="pairing")
        points, labels, mirrored, _ = self.table.padded(batch.source.index)
        if batch.view is not None:
            points = batch.view.to_target(points)
        moved = warp.to_target(points)
        lost = moved.new_empty(2, len(moved), 0, 2)
        if TO_SOURCE not in warp.exact:  # a flow
            height, width = batch.source.image.shape[-2:]
            shown = _at(warp.valid((height, width), at="source"), points)[..., None]
            hidden = moved.masked_fill(shown, torch.nan)
            lost = torch.stack([torch.full_like(hidden, torch.nan), hidden])
            moved = moved.masked_fill(~shown, torch.nan)
        in_source = labels
        if batch.mirrored is not None:
            in_source = torch.where(batch.mirrored[:, None], mirrored, labels)
        return Views(torch.stack([points, moved]), torch.stack([in_source, labels]), lost)

    # --- the rounds ------------------------------------------------------------------------------

    def round_at(self, step: int) -> int:
        """The number of the round that a step belongs to, from 0 on."""
        if not self.first or step < self.first:
            return 0
        return 1 + ((step - self.first) // self.every if self.every else 0)

    def on_train_start(self) -> None:
        """Make the pseudo-labels of the first round, unless the run continues."""
        self._last_step = self.trainer.estimated_stepping_batches
        self._warn_of_end(self._last_step)
        if self._table is None:
            self._begin()
        else:
            self.table = self.table
            keypoints = len(self.table) / len(self._data.training_rows())
            self._show(round=self.number, keypoints=keypoints)

    def on_train_batch_start(self, batch: Pair, batch_idx: int) -> None:
        """Begin a new round if it is time; before a step, so that a resumed run does the same."""
        self._begin_round_if_due()
        trainer, count = self.trainer, len(batch.source)
        rows = (trainer.global_rank * count, 1, count)
        self.draw = BatchDraw(
            self._data.draw_seed,
            "losses",
            trainer.current_epoch,
            batch_idx,
            count * trainer.world_size,
            rows,
            self.device,
        )
        self.log_dict(self._shown, prog_bar=True, logger=False, batch_size=count)

    def on_train_epoch_end(self) -> None:
        """Begin the round after the last step; the checkpoint that ends the training follows."""
        super().on_train_epoch_end()
        step = self._step()
        if self.trainer.should_stop:
            self._warn_of_end(step)
        if self.closes and (self.trainer.should_stop or step == self._last_step):
            # Metrics of the last step, whose number is one less, are still to be logged.
            self._begin_round_if_due(logged=step - 1)

    def validation_step(self, batch: Pair, batch_idx: int) -> None:
        """Nothing: there are no pseudo-labels of validation images. Callbacks look at landmarks."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the table beside the weights."""
        if self._table is not None:
            checkpoint[KEY] = {"number": self.number, "table": self._table.state()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on inside a round."""
        if KEY in checkpoint:
            self.number = int(checkpoint[KEY]["number"])
            self.table = KeypointTable.from_state(checkpoint[KEY]["table"])

    def freeze_parts(self, parts: Sequence[str]) -> None:
        """Keep parts as they are, unless all weights are made anew in every round.

        Raises:
            ConfigError: there is no such part, or it would be made anew and never be trained.
        """
        super().freeze_parts(parts)
        if parts and self.afresh:
            raise ConfigError(
                f"'{self.plugin_name}' starts with new weights in every round, frozen ones too",
                where="freeze",
                allowed="nothing where rounds start afresh",
            )

    def check_size(self, size: int) -> None:
        """Check that the backbone's map covers images of that size.

        Raises:
            ConfigError: its stride does not divide the size.
        """
        stride = self.network.backbone.strides[0]
        if size % stride:
            raise ConfigError(
                f"images of {size} pixels do not suit the backbone",
                where="data.size",
                allowed=f"multiples of {stride}",
            )

    def check_points(self, names: Sequence[str]) -> None:
        """Refuse data without annotated points where the keypoint detector needs some.

        Raises:
            ConfigError: says so.
        """
        if isinstance(self.start, KeypointDetector) and "points" in self.start.needs and not names:
            raise ConfigError(
                f"'{self.start.plugin_name}' needs annotated points, and the data has none",
                where="method.keypoints",
            )

    def check_pairs(self, pairing: Pairing, loader: LoaderSettings) -> None:
        """Refuse pairs without a known warp, and mirrored ones without labels for them.

        Raises:
            ConfigError: what to change.
        """
        if pairing.mirrors and not self.mirror:
            raise ConfigError(
                "mirrored pairs need the labels of mirror images",
                where="method.mirror",
                allowed="mirror: true, or another pairing",
            )
        if not pairing.provides_warp:
            raise ConfigError(
                f"'{self.plugin_name}' carries keypoints from image to image and needs to know how",
                where="pairing",
                hint="for example 'pairing: synthetic'",
            )

    def _warn_of_end(self, steps: float) -> None:
        """Say so if a training of so many steps ends without clusters, or with a cut round."""
        if self.closes and steps < self.first:
            rank_zero_warn(
                f"the training ends after {steps} steps, before its descriptors are clustered for "
                f"the first time after {self.first}: keypoints will have no names"
            )
        if not self.afresh or steps <= self.first or not math.isfinite(steps):
            return
        last = (steps - self.first) % self.every if self.every else 0
        if last:
            rank_zero_warn(
                f"the training ends after {steps} steps: its last round, which starts with new "
                f"weights, has {last} of {self.every}"
            )

    def _begin_round_if_due(self, logged: int | None = None) -> None:
        number = self.round_at(self._step())
        if number <= self.number:
            return
        rank_zero_info(f"round {number}: looking at the training images")
        found = self._survey(self)
        self._renew(found, lambda table: self.relabel(table, number), number, logged)
        if self.afresh:
            seed = seed_of(self._data.draw_seed, "weights of a round", number)
            self.network.reinitialise(seed)
            cast("Optimizer", self.optimizers(use_pl_optimizer=False)).state.clear()

    @property
    def _data(self) -> ImageData:
        return cast("ImageData", self.trainer.datamodule)  # type: ignore[attr-defined]

    def _begin(self) -> None:
        """The first round's pseudo-labels."""
        if isinstance(self.start, Labels):
            if self.teacher is None:
                raise ConfigError("nobody to learn from was given", where="method.labels")
            teacher = self.teacher()
            self.check_teacher(teacher)
            assert isinstance(teacher, RoundsMethod)
            rank_zero_info(f"round 0: looking at the training images with '{teacher.plugin_name}'")

            def taught(table: KeypointTable) -> Labelled:
                concluded = teacher.conclude(table)
                own = self.relabel(concluded.table, 0)
                return replace(own, clustered=own.clustered or concluded.clustered)

            self._renew(self._survey(teacher.to(self.device)), taught, 0)
        else:
            self._renew(self._detected(self.start), lambda table: self.relabel(table, 0), 0)

    def _detected(self, detector: KeypointDetector) -> KeypointTable:
        """What a detector finds in the training images; in the first process."""
        data = self._data
        found = detect_keypoints(
            data, "train", detector, data.draw_seed, descriptors=self.reads_descriptors
        )
        used = torch.zeros(found.images, dtype=torch.bool)
        # All processes have the same ones: the first need not be sent them.
        used[torch.from_numpy(data.training_rows())] = self.trainer.is_global_zero
        return found.select(used[found.image])

    def _survey(self, method: "RoundsMethod") -> KeypointTable:
        """What a method finds in this process's share of the training images."""
        data = self._data
        loader = data.samples("train", np.sort(data.training_rows()))
        batches: Iterable[Any] = loader
        if self.trainer.is_global_zero:
            batches = shown(loader, len(loader), "looking at images")
        parts: list[dict[str, Tensor]] = []
        with torch.no_grad(), evaluating(method), self.trainer.precision_plugin.val_step_context():
            for loaded in batches:
                sample = cast("LoadedBatch", loaded).members[0]
                sample = sample.to(self.device).with_float_image()
                found = method.find(sample)
                seen = ~found.points.isnan().any(-1)
                columns = {"image": sample.index[:, None].expand_as(seen), **found._asdict()}
                known = {name: column for name, column in columns.items() if column is not None}
                parts.append({name: column[seen].cpu() for name, column in known.items()})
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        precise = {n: c.float() if c.is_floating_point() else c for n, c in joined.items()}
        return KeypointTable.of(len(data.images("train")), **precise)

    def _renew(
        self,
        found: KeypointTable,
        label: Callable[[KeypointTable], Labelled],
        number: int,
        logged: int | None = None,
    ) -> None:
        """Label in the first process what all of them found, and learn from it from now on.

        Args:
            found: by this process.
            label: makes the pseudo-labels of what all processes found.
            number: of the round.
            logged: step by which loggers get to know; None: the next one.
        """
        before = self._table
        images = found.images

        def work(rows: Mapping[str, Tensor]) -> dict[str, Any]:
            table = KeypointTable(images, **rows)
            if rows["descriptors"].shape[1] == 0:
                table = table.without_descriptors()
            try:
                if not len(table):
                    raise UnusableRound("no keypoint was found in any training image")
                labelled = label(table)
                if not len(labelled.table):
                    raise UnusableRound(f"none of the {len(table)} keypoints found is left")
            except UnusableRound as problem:
                return {"problem": str(problem)}
            if labelled.clustered:
                rank_zero_info(f"round {number}: clustered by {labelled.clustered}")
            used = self._data.training_rows()
            change = compare(labelled.table, before, number, len(used))
            if self.folder is not None:
                file = self.folder / f"{number:03d}.npz"
                write_round(file, labelled, self._step(), number, used)
            kept = {f"kept/{name}": value.cpu() for name, value in labelled.kept.items()}
            state = labelled.table.state()
            state.pop("images")
            return {**state, **kept, **{f"change/{k}": v for k, v in asdict(change).items()}}

        none = found.points.new_zeros(len(found), 0)
        described = none if found.descriptors is None else found.descriptors
        outcome = once_for_all(
            work,
            found.image,
            points=found.points,
            scores=found.scores,
            labels=found.labels,
            mirrored=found.mirrored,
            descriptors=described,
        )
        self.number = number
        if "problem" in outcome:
            self._keep_labels(str(outcome["problem"]))
            return
        part = by_prefix(outcome)
        self.table = KeypointTable(images, **part[""])
        for name, value in part.get("kept", {}).items():
            _fill(getattr(self, name), value)
        self._say(Change(**part["change"]), before, self._step() if logged is None else logged)

    def _keep_labels(self, problem: str) -> None:
        if self._table is None:
            raise DataError(
                f"{problem}, so there is nothing to begin with",
                where="method",
                hint="another keypoint detector, lower thresholds, or larger images",
            )
        rank_zero_warn(
            f"round {self.number}: {problem}; the pseudo-labels of the round before are kept"
        )
        self._show(round=self.number, keypoints=len(self._table) / len(self._data.training_rows()))

    def _say(self, change: Change, before: KeypointTable | None, step: int) -> None:
        rank_zero_info(str(change))
        cure = f"; the usual cure: {self.cure}" if self.cure else ""
        was = len(before or ()) / len(self._data.training_rows())
        # The first clustering drops most of the initial keypoints, as it should.
        if change.keypoints < 1 or (change.number > 1 and change.keypoints < was / 4):
            rank_zero_warn(
                f"collapse: only {change.keypoints:.2f} keypoints in an image are left in round "
                f"{change.number}, after {was:.2f}{cure}"
            )
        if change.clusters and change.largest > _MOST:
            rank_zero_warn(
                f"collapse: {change.largest:.0%} of the keypoints are in one cluster in round "
                f"{change.number}{cure}"
            )
        self._show(round=change.number, keypoints=change.keypoints, stayed=change.stayed)
        values = {f"round/{k}": float(v) for k, v in asdict(change).items() if not np.isnan(v)}
        for logger in self.loggers:
            logger.log_metrics({**values, "epoch": self.current_epoch}, step=step)

    def _show(self, **values: float) -> None:
        """What the progress bar says until the next round."""
        self._shown = {
            name: torch.tensor(float(value), device=self.device)
            for name, value in values.items()
            if not np.isnan(value)
        }

    def _step(self) -> int:
        return self.trainer.global_step


def by_label(points: Tensor, labels: Tensor, count: int) -> Tensor:
    """Keypoints in the order of their labels.

    Args:
        points: (B, M, 2).
        labels: (B, M) int64, at most one of each in an image; -1 for none.
        count: labels that there are, K.

    Returns:
        (B, K, 2), NaN where no keypoint has the label.
    """
    # What has no label goes to a place behind the last one.
    place = torch.where(labels >= 0, labels, count)[..., None].expand_as(points)
    ordered = points.new_full((len(points), count + 1, 2), torch.nan)
    return ordered.scatter(1, place, points)[:, :count]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, and then each part in the mode that it was in."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


def _at(mask: Tensor, points: Tensor) -> Tensor:
    """Whether a mask (B, H, W) holds at all pixels between which points (B, N, 2) lie.

    A flow there is mixed from all of them. False outside the image.
    """
    marks, places = mask[:, None].to(points), points.nan_to_num()[:, :, None]
    held = grid_sample(marks, places, padding_mode="border", align_corners=False)
    return (held[:, 0, :, 0] > 1 - 1e-3) & inside(points)


def _fill(buffer: Tensor, value: Tensor) -> None:
    """Copy a value with as many rows as the buffer, or fewer, into it."""
    value = value.clone()  # it may be the buffer itself: what a method keeps as it was
    buffer.fill_(torch.nan if buffer.is_floating_point() else -1)
    if buffer.ndim:
        buffer = buffer[: len(value)]
    buffer.copy_(value)
