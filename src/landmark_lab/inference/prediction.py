"""Predicting files: images and videos in, tables and pictures out.

Nothing is kept but one batch of frames. What cannot be read is named and left out; an interruption
ends the work early, and what was computed until then is written.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from landmark_lab.errors import ConfigError, DataError, RunError
from landmark_lab.inference.inputs import Frame, Source, frames
from landmark_lab.inference.pictures import Pictures
from landmark_lab.inference.predictor import Predictor
from landmark_lab.inference.tables import TABLES, Add

_log = logging.getLogger(__name__)

# Named points have probabilities as scores; below one half they are drawn as rings.
_SURE = 0.5


@dataclass
class Outcome:
    """What came of a prediction.

    Attributes:
        frames: how many images and frames were predicted.
        problems: what was left out, and why.
        interrupted: whether the user stopped it.
    """

    frames: int = 0
    problems: list[str] = field(default_factory=list)
    interrupted: bool = False


def predict_files(
    predictor: Predictor,
    sources: Sequence[Source],
    out: Path,
    formats: Sequence[str] = tuple(TABLES),
    draw: bool = True,
    every: int = 1,
    overwrite: bool = False,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Outcome:
    """Predict the points of images and videos and write them to a folder.

    Args:
        predictor: finds landmarks or named points.
        sources: the files.
        out: the folder.
        formats: keys of ``tables.TABLES``.
        draw: whether drawn images and videos are written to ``out/drawn``.
        every: take every n-th frame of a video.
        overwrite: whether the folder may hold something already; files of the same name are
            replaced.
        on_progress: called with the number of frames done so far.

    Raises:
        ConfigError: an unknown format, or no such step.
        DataError: nothing could be read.
        RunError: the folder holds something, or cannot be written.
    """
    for name in formats:
        if name not in TABLES:
            raise ConfigError(
                f"there is no format '{name}'", where="format", got=name, allowed=TABLES
            )
    if every < 1:
        raise ConfigError(f"every {every}th frame", where="every", allowed="1 or more")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise RunError(
            "holds files already",
            where=str(out),
            hint="choose another folder with --out, or replace them with --overwrite",
        )
    if predictor.preprocess.box_margin is not None:
        _log.warning(
            "the method was trained on the annotated boxes of its objects; here it sees whole "
            "images, so crop them first if the objects are small in them"
        )
    outcome = Outcome()
    with ExitStack() as files:
        writers: list[Add] = [
            files.enter_context(TABLES[name](out, predictor.names, predictor.skeleton))
            for name in dict.fromkeys(formats)
        ]
        if draw:
            sure = 0.0 if predictor.points is None else _SURE
            pictures = Pictures(out / "drawn", sources, predictor.skeleton, every, sure)
            writers.append(files.enter_context(pictures).add)
        stream = frames(sources, every, outcome.problems.append)
        try:
            for batch in _batches(stream, predictor.batch_size):
                points, score = predictor([frame.image for frame in batch])
                for row, frame in enumerate(batch):
                    for add in writers:
                        add(frame, points[row], score[row])
                outcome.frames += len(batch)
                on_progress(outcome.frames)
        except KeyboardInterrupt:
            outcome.interrupted = True
        if not outcome.frames and not outcome.interrupted:
            raise DataError(
                f"none of the {len(sources)} files can be read, the first: {outcome.problems[0]}"
            )
    return outcome


def _batches(stream: Iterator[Frame], size: int) -> Iterator[list[Frame]]:
    while batch := list(islice(stream, size)):
        yield batch
