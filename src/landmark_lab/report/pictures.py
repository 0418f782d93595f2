"""The pictures of a report: images of the data set, as sharp as their files allow."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from landmark_lab.errors import LandmarkLabError
from landmark_lab.plugin import build
from landmark_lab.roles import ImageData, Split

SPLITS: tuple[Split, ...] = ("test", "val", "train")
"""In the order in which pictures are taken from them."""

_SHOWN = 160  # pixels of a picture's side, at least
_QUALITY = 82
# Mean difference, of 255, up to which an enlarged image shows the same as the original.
_ALIKE = 12.0


def data_uri(image: NDArray[np.uint8]) -> str:
    """An image (H, W, 3) as a JPEG within the text of a page."""
    _, encoded = cv2.imencode(
        ".jpg", np.ascontiguousarray(image[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    )
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")


@dataclass(frozen=True, eq=False)
class Sharp:
    """Data whose images are larger than the method's, if it can make such; points are the same.

    Attributes:
        data: the data with larger images, or as it is.
        size: side in pixels of the images that the method sees.
    """

    data: ImageData
    size: int


def sharp(spec: Mapping[str, Any]) -> Sharp:
    """The data of a spec for pictures.

    Methods look at small images; people would rather see the files as they are. Whether the larger
    images show the same is looked at, not assumed.

    Raises:
        LandmarkLabError: the data cannot be built or read: its files are not there any more.
    """
    with _no_repeated_warnings():
        data = build(ImageData, spec, "data")
        larger = _larger(spec, data.size)
        first = _first(data)
        if larger is None or first is None:
            return Sharp(data, data.size)
        try:
            better = build(ImageData, larger, "data")
            same = _alike(first, _first(better))
        except LandmarkLabError:
            same = False
        return Sharp(better if same else data, data.size)


def _larger(spec: Mapping[str, Any], size: int) -> dict[str, Any] | None:
    """The spec for images of a multiple of the size, so that shrinking gives the small ones."""
    side = size * -(-_SHOWN // size)
    if side == size:
        return None
    preprocess = spec.get("preprocess")
    if isinstance(preprocess, Mapping) and preprocess.get("size") == size:
        return {**spec, "preprocess": {**preprocess, "size": side}}
    return {**spec, "size": side} if spec.get("size") == size else None


def _first(data: ImageData) -> NDArray[np.uint8] | None:
    """The first image of the data."""
    for split in SPLITS:
        images = data.images(split)
        if len(images):
            image: NDArray[np.uint8] = images[0]["image"]
            return image
    return None


def _alike(small: NDArray[np.uint8], large: NDArray[np.uint8] | None) -> bool:
    if large is None:
        return False
    difference = shrink(large, len(small)).astype(np.float32) - small
    return float(np.abs(difference).mean()) < _ALIKE


def shrink(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A square image in the size that the method sees."""
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA).astype(np.uint8)


def sharpness(image: NDArray[np.uint8]) -> float:
    """How much fine detail an image has."""
    return float(cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.CV_32F).std())


@contextmanager
def _no_repeated_warnings() -> Iterator[None]:
    """What there is to say about the data was said when the run read it."""
    loggers = [logging.getLogger(name) for name in ("landmark_lab", "landmark_lab_plugins")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
