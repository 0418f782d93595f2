"""Colour augmentation; the only file that imports albumentations.

Nothing here moves a pixel: whatever does is a ``Warp``, which moves points and masks too.
"""

from __future__ import annotations

import functools
import os
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark_lab.errors import require


@dataclass(frozen=True)
class ColourAugmentation:
    """Random changes of an image's colours; 0 switches one of them off.

    Args:
        brightness: factor between 1 - b and 1 + b.
        contrast: factor between 1 - c and 1 + c.
        saturation: factor between 1 - s and 1 + s.
        hue: shift by up to this part of the colour circle, at most 0.5.
        gamma: exponent between 1 / (1 + g) and 1 + g.
        to_grey: probability of losing all colour.
        blur: standard deviation of a Gaussian blur, up to this many pixels.
        noise: standard deviation of Gaussian noise, up to this part of the range.
        probability: of each of: the first four together, gamma, blur, noise.
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.05
    gamma: float = 0.0
    to_grey: float = 0.1
    blur: float = 0.0
    noise: float = 0.0
    probability: float = 0.8

    def __post_init__(self) -> None:
        limits = {"hue": 0.5, "gamma": 4.0, "blur": 16.0}
        for name, value in vars(self).items():
            if not 0 <= value <= limits.get(name, 1.0):
                raise ValueError(f"{name} must be between 0 and {limits.get(name, 1.0)}: {value}")

    def __call__(self, image: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        """Change the colours of one image.

        Args:
            image: (H, W, 3) uint8; it is not modified.
            seed: the result is a function of the image and this number.

        Returns:
            A new image, (H, W, 3) uint8.

        Raises:
            MissingDependencyError: albumentations is not installed.
        """
        compose, generator = _compose(self), np.random.default_rng(seed)
        # set_random_seed would give every operation the same stream: they would be drawn together,
        # all strong or all weak. One shared stream keeps them independent, and is faster.
        compose.set_random_state(generator, random.Random(seed))
        changed: NDArray[np.uint8] = compose(image=image)["image"]
        # The library's noise sets the seed of OpenCV's global generator, to one of 65,536.
        if self.noise and generator.random() < self.probability:
            deviation = np.float32(255 * generator.uniform(0, self.noise))
            drawn = generator.standard_normal(image.shape, dtype=np.float32)
            changed = np.rint(np.clip(changed + deviation * drawn, 0, 255)).astype(np.uint8)
        return changed.copy() if changed is image else changed


@functools.lru_cache(maxsize=8)
def _compose(settings: ColourAugmentation) -> Any:
    """The chain of operations, made once in each process."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it asks the network for its newest version
    library = require(
        "albumentations", purpose="colour augmentation", install="albumentations>=2.0.8,<2.1"
    )
    p = settings.probability
    chain: list[Any] = []
    jitter = {
        name: getattr(settings, name) for name in ("brightness", "contrast", "saturation", "hue")
    }
    if any(jitter.values()):
        hue = jitter.pop("hue")
        ranges = {name: (1 - value, 1 + value) for name, value in jitter.items()}
        chain.append(library.ColorJitter(**ranges, hue=(-hue, hue), p=p))
    if settings.gamma:
        high = 1 + settings.gamma  # the library counts in per cent
        chain.append(library.RandomGamma(gamma_limit=(100 / high, 100 * high), p=p))
    if settings.to_grey:
        chain.append(library.ToGray(p=settings.to_grey))
    if settings.blur:
        sigma = (0.0, settings.blur)
        chain.append(library.GaussianBlur(blur_limit=0, sigma_limit=sigma, p=p))
    return library.Compose(chain)
