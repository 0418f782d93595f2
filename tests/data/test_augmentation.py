"""Colour augmentation: seeded by sample, harmless to everything else."""

import random
import sys

import cv2
import numpy as np
import pytest
import torch

from landmark_lab.data.augmentation import ColourAugmentation
from landmark_lab.errors import MissingDependencyError

EVERYTHING = ColourAugmentation(gamma=0.5, blur=1.0, noise=0.05, to_grey=0.3)


def picture(seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.ascontiguousarray(cv2.resize(small, (64, 64), interpolation=cv2.INTER_CUBIC))


def test_the_result_is_a_function_of_the_seed():
    image = picture()
    once = [EVERYTHING(image, seed) for seed in range(30)]
    again = [EVERYTHING(image, seed) for seed in reversed(range(30))][::-1]
    for first, second in zip(once, again, strict=True):
        np.testing.assert_array_equal(first, second)
    assert len({image.tobytes() for image in once}) >= 25
    assert all(image.dtype == np.uint8 and image.shape == (64, 64, 3) for image in once)


def test_the_global_generators_are_left_alone():
    def opencv():
        drawn = np.zeros(4)
        cv2.randu(drawn, 0, 1)  # OpenCV shows its generator only by drawing from it
        return drawn.tolist()

    def others():
        legacy = np.random.get_state()[1].tolist()  # noqa: NPY002 - it is what must not change
        return random.getstate(), legacy, torch.get_rng_state().tolist()

    cv2.setRNGSeed(5)
    expected, before = opencv(), others()
    cv2.setRNGSeed(5)
    for seed in range(20):
        EVERYTHING(picture(), seed)
    assert opencv() == expected
    assert others() == before


def test_the_operations_are_drawn_independently():
    """With one stream for each, brightness and noise would be strong or weak together."""
    grey = np.full((32, 32, 3), 100, np.uint8)
    both = ColourAugmentation(0.5, 0, 0, 0, to_grey=0, noise=0.1, probability=1)
    drawn = [both(grey, seed).astype(float) for seed in range(300)]
    level, spread = [d.mean() for d in drawn], [d.std() / d.mean() for d in drawn]
    assert abs(np.corrcoef(level, np.array(spread) * level)[0, 1]) < 0.2
    assert np.std(level) > 10
    assert np.std(spread) > 0.01


def test_each_change_does_what_it_says():
    image = picture()
    off = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0, "to_grey": 0}
    strengths = {"gamma": 1.0, "hue": 0.2, "blur": 2.0, "noise": 0.1, "to_grey": 1.0}
    strengths |= dict.fromkeys(("brightness", "contrast", "saturation"), 0.5)
    for name, value in strengths.items():
        only = ColourAugmentation(**{**off, name: value}, probability=1)
        assert any((only(image, seed) != image).any() for seed in range(5)), name
    grey = ColourAugmentation(**{**off, "to_grey": 1.0})(image, 0)
    assert (grey == grey[:, :, :1]).all()
    nothing = ColourAugmentation(**off)(image, 0)
    np.testing.assert_array_equal(nothing, image)
    assert nothing is not image


def test_the_input_is_not_modified_and_may_be_read_only():
    image = picture()
    image.flags.writeable = False
    before = image.copy()
    for seed in range(10):
        EVERYTHING(image, seed)
    np.testing.assert_array_equal(image, before)


def test_pixels_do_not_move():
    image = np.zeros((65, 65, 3), np.uint8)
    image[32, 20] = 255
    strong = ColourAugmentation(0.5, 0.5, 0.5, 0.1, gamma=1, blur=2, probability=1)
    for seed in range(20):
        weight = strong(image, seed)[:, :, 0].astype(float)
        y, x = np.unravel_index(weight.argmax(), weight.shape)
        assert (x, y) == (20, 32)


@pytest.mark.parametrize("bad", [{"hue": 0.6}, {"brightness": -0.1}, {"probability": 1.5}])
def test_bad_strengths_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        ColourAugmentation(**bad)


def test_without_albumentations_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "albumentations", None)
    settings = ColourAugmentation(brightness=0.123)  # not made before
    with pytest.raises(MissingDependencyError, match=r"pip install 'albumentations>=2.0.8,<2.1'"):
        settings(picture(), 0)
