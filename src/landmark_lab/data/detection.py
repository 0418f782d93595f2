"""Running a keypoint detector over all images of a split, once: the result stays on the disk.

The images are the preprocessed squares, without augmentation. What is kept depends on the
detector's settings and version, on the seed where it draws, and on the images: of files their
names, sizes and times, of drawn images the pixels (``Images.fingerprint``). Whoever changes one of
these gets a new file; nothing is ever out of date, and what is not needed any more can be deleted.

Convention: points are (x, y) in [-1, 1] of the preprocessed square image.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from landmark_lab.data.kept import shown, turn
from landmark_lab.data.keypoints import Detections, KeypointTable
from landmark_lab.data.sampling import Images, Row
from landmark_lab.errors import ConfigError, DataError, RunError
from landmark_lab.files import cache_folder, checksum
from landmark_lab.roles import ImageData, KeypointDetector, Split
from landmark_lab.seeding import rng

_FORMAT = 1
_PORTION = 64  # images that are held at once
_THREADS = 16  # more would load no faster than they are fed
_NAMED = 5  # images without keypoints that a warning names

_log = logging.getLogger(__name__)


def detect_keypoints(
    data: ImageData,
    split: Split,
    detector: KeypointDetector,
    seed: int,
    *,
    descriptors: bool = True,
    progress: bool = True,
) -> KeypointTable:
    """The keypoints of all images of a split.

    Several processes may ask at once, those of a distributed training or of several runs: one of
    them detects, the others wait for it and read. Images without keypoints are counted in a
    warning.

    Args:
        data: where the images come from; they are taken as they are, without augmentation.
        split: ``train``, ``val`` or ``test``.
        detector: what finds the keypoints.
        seed: of its random numbers, if it draws any.
        descriptors: keep them; the memory for them is what limits the number of images.
        progress: show a bar, on the terminal only.

    Raises:
        ConfigError: the detector needs something that the data does not have.
        DataError: the split is empty, an image cannot be used, or no image has a keypoint.
        MissingDependencyError: the detector needs a library that is not installed.
    """
    where = f"keypoints.{detector.plugin_name}"
    missing = detector.needs - data.provides
    if missing:
        raise ConfigError(
            f"the keypoint detector '{detector.plugin_name}' needs {', '.join(sorted(missing))}, "
            f"which the data '{data.plugin_name}' does not have",
            where=where,
        )
    images = data.images(split)
    if len(images) == 0:
        raise DataError(f"the data '{data.plugin_name}' has no images in the split '{split}'")
    drawn = seed if detector.draws else None
    key = checksum(
        (
            *(_FORMAT, split if detector.draws else None, drawn, descriptors),
            *(detector.spec, detector.version, detector.content, images.fingerprint()),
        )
    )
    path = cache_folder() / "keypoints" / f"{detector.plugin_name}-{key}.npz"
    with turn(path, "keypoints"):
        table = _read(path)
        if table is None:
            detector.prepare()
            found: Iterable[Detections] = _detect(images, detector, seed, f"keypoints {split}")
            if progress:
                found = shown(found, len(images), f"looking for keypoints ({split})")
            table = KeypointTable.from_detections(
                [one if descriptors else Detections(one.points, one.scores) for one in found]
            )
            _check(table, images, detector, where)
            _write(table, path)
    _warn_of_empty(table, images, where)
    return table


# --- detecting -----------------------------------------------------------------------------------


def _detect(
    images: Images, detector: KeypointDetector, seed: int, purpose: str
) -> Iterator[Detections]:
    """Detect in several threads, which OpenCV and torch leave Python for."""

    def detect(index: int, row: Row) -> Detections:
        generator = rng(seed, purpose, index)
        return detector.detect(row["image"], generator, _array(row, "points"), _array(row, "box"))

    waiting: Iterable[Detections] = ()
    with ThreadPoolExecutor(min(os.cpu_count() or 1, _THREADS)) as pool:
        for first in range(0, len(images), _PORTION):
            portion = range(first, min(first + _PORTION, len(images)))
            # Loaded while the portion before is being searched: not every reader bears threads.
            rows = [images[index] for index in portion]
            yield from waiting
            waiting = pool.map(detect, portion, rows)
        yield from waiting


def _array(row: Row, name: str) -> NDArray[np.float32] | None:
    value = row.get(name)
    return None if value is None else np.asarray(value, dtype=np.float32)


def _check(table: KeypointTable, images: Images, detector: KeypointDetector, where: str) -> None:
    if len(table) == 0:
        raise DataError(
            f"no keypoint was found in any of the {len(images)} images",
            where=where,
            hint=detector.cure or None,
        )
    _log.info(
        "%s: %d keypoints in %d images, %.1f in each",
        *(where, len(table), len(images), len(table) / len(images)),
    )


def _warn_of_empty(table: KeypointTable, images: Images, where: str) -> None:
    empty = (table.counts() == 0).nonzero()[:, 0].tolist()
    if empty:
        named = [images.where(index) for index in empty[:_NAMED]]
        more = ["..."] if len(empty) > _NAMED else []
        _log.warning(
            "%s: no keypoint was found in %d of %d images: %s",
            *(where, len(empty), len(images), ", ".join(named + more)),
        )


# --- the disk ------------------------------------------------------------------------------------


def _read(path: Path) -> KeypointTable | None:
    if not path.is_file():
        return None
    try:
        return KeypointTable.load(path)
    except DataError as error:
        _log.warning("%s; it is made again", error)
        return None


def _write(table: KeypointTable, path: Path) -> None:
    try:
        table.save(path)
    except RunError as error:
        _log.warning("keypoints are not kept: %s", error)
