"""SuperPoint, as implemented in Hugging Face transformers.

D. DeTone, T. Malisiewicz, A. Rabinovich, "SuperPoint: self-supervised interest point detection and
description", CVPR workshops 2018. Its published weights may be used for research, not commercially.

Deviations from the implementation that is used: its image processor is not, because images are
square and of a known size here; and its own removal of keypoints at the border is switched off,
because it works at the upper and the left border only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch

from landmark_lab.errors import DataError, require
from landmark_lab.files import checksum, sha256
from landmark_lab_plugins.keypoints.interest import Found, Grey, InterestPoints

_CELL = 8  # pixels: the network looks at whole cells only
_GET = (
    "download them on a machine with a network (hf download {name} --local-dir FOLDER) and set "
    "'weights' to that folder; 'sift' and 'orb' need no weights"
)


@dataclass(frozen=True, kw_only=True)
class SuperPoint(InterestPoints, name="superpoint"):
    """SuperPoint corners with its descriptors (256), the papers' initial detector.

    It runs on the GPU where there is one. The other settings are explained in
    ``keypoints/interest.py``; by default nothing is thinned out but close neighbours.

    Args:
        weights: a model of the Hugging Face hub, or a folder with its files.
        revision: of the model on the hub: a tag, branch or commit.
        threshold: least probability of a keypoint, 0 to 1.
        suppression: a keypoint is the best one within so many pixels, to each side, at its scale.
        border: no keypoints closer to the border than this, in pixels of their scale.
    """

    cure: ClassVar[str] = "a lower 'threshold' finds more"

    scales: tuple[float, ...] = (1.0, 1.3, 1.6)
    apart: float = 8.0
    count: int | None = None
    weights: str = "magic-leap-community/superpoint"
    revision: str = "main"
    threshold: float = 0.15
    suppression: int = 8
    border: int = 4
    _loaded: list[Any] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be between 0 and 1, not {self.threshold}")
        if min(self.suppression, self.border) < 0:
            raise ValueError(
                "suppression and border must not be negative, not "
                f"{self.suppression} and {self.border}"
            )

    @property
    def content(self) -> str:
        """The releases of the libraries, and a checksum of the files of a local folder.

        A model of the hub is known by its name.
        """
        libraries = f"{super().content}, transformers {_release()}"
        folder = self._folder()
        if folder is None:
            return libraries
        files = [*folder.glob("*.json"), *folder.glob("*.safetensors"), *folder.glob("*.bin")]
        return checksum(
            [libraries, *(part for path in sorted(files) for part in (path.name, sha256(path)))]
        )

    def prepare(self) -> None:
        """Load the network.

        Raises:
            MissingDependencyError: transformers is not installed.
            DataError: there are no such weights, or they cannot be downloaded.
        """
        if not self._loaded:
            self._loaded.append(self._load())

    def find(self, grey: Grey) -> Found:
        """See :class:`InterestPoints`; the score is the probability."""
        self.prepare()
        height, width = grey.shape
        padded = cv2.copyMakeBorder(
            grey, 0, -height % _CELL, 0, -width % _CELL, cv2.BORDER_REPLICATE
        )
        model = self._loaded[0]
        image = torch.from_numpy(padded).to(model.device).float().div_(255)
        with torch.inference_mode():
            found = model(image.expand(1, 3, *padded.shape))
        kept = found.mask[0].bool()
        relative = found.keypoints[0, kept].cpu().numpy()
        pixels = relative * np.array(padded.shape[::-1], np.float32)
        last = np.array([width, height]) - 1 - self.border
        within = ((pixels >= self.border) & (pixels <= last)).all(1)
        scores, descriptors = (part[0, kept].cpu().numpy() for part in found[1:3])
        return pixels[within], scores[within], descriptors[within]

    def _folder(self) -> Path | None:
        """The folder of the weights, or None of a model of the hub."""
        path = Path(self.weights).expanduser()
        if path.is_dir():
            return path
        if path.is_absolute() or self.weights.startswith((".", "~")):
            raise DataError("there is no such folder", where=f"superpoint.weights: {self.weights}")
        return None

    def _load(self) -> Any:
        folder = self._folder()
        library = require(
            "transformers",
            purpose="the keypoint detector 'superpoint'",
            install="transformers>=5",
        )
        try:
            model, report = library.SuperPointForKeypointDetection.from_pretrained(
                self.weights if folder is None else folder,
                revision=self.revision,
                keypoint_threshold=self.threshold,
                nms_radius=self.suppression,
                max_keypoints=-1,
                border_removal_distance=0,
                output_loading_info=True,
            )
        except (OSError, ValueError) as error:
            raise DataError(
                f"the weights cannot be had ({str(error).splitlines()[0]})",
                where=f"superpoint.weights: {self.weights}",
                hint=_GET.format(name=self.weights) if folder is None else None,
            ) from error
        if report["missing_keys"]:
            raise DataError(
                f"the files lack {len(report['missing_keys'])} of SuperPoint's parameters, such as "
                f"{min(report['missing_keys'])}",
                where=f"superpoint.weights: {self.weights}",
            )
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return model.to(device).eval()


def _release() -> str:
    try:
        return version("transformers")
    except PackageNotFoundError:
        return "missing"  # what is kept on disk can be read without it
