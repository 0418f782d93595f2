"""The soft rotor: an exact inverse, no folds, and n-fold symmetry."""

from __future__ import annotations

import numpy as np
import pytest

from landmark_lab.errors import ConfigError
from landmark_lab.plugin import build
from landmark_lab.roles import ImageData
from landmark_lab_plugins.data.rotor import (
    LARGEST_SAG,
    Body,
    Moment,
    Rotor,
    _to_body,
    _to_image,
)


def moments(fold: int = 3, clips: int = 6) -> list[Moment]:
    body = Body(64, fold, 120, 0)
    return [moment for clip in range(clips) for moment in body.motion(0, clip)[::20]]


def test_the_deformation_has_an_exact_inverse() -> None:
    generator = np.random.default_rng(0)
    r, theta = generator.uniform(0.01, 1, 500), generator.uniform(-np.pi, np.pi, 500)
    for moment in moments():
        found = _to_body(moment, _to_image(moment, r, theta))
        assert np.allclose(found[0], r, atol=1e-5)
        assert np.allclose(np.cos(found[1] - theta), 1, atol=1e-8)


def test_an_undeformed_body_is_inverted_too() -> None:
    moment = moments()[0]._replace(twist=0.0, sag=np.zeros(2, np.float32))
    r, theta = np.array([0.0, 0.5, 1.0]), np.array([0.0, 1.0, -2.0])
    found = _to_body(moment, _to_image(moment, r, theta))
    assert np.allclose(found[0], r, atol=1e-6)
    assert np.allclose(np.cos(found[1] - theta)[1:], 1)  # at the centre there is no angle


def test_the_body_never_folds() -> None:
    # The Jacobian determinant of q -> q + sag |q|² (the twist keeps areas): 1 + 2 sag·q > 0.
    found = moments(clips=40)
    sags = np.array([np.hypot(*moment.sag) for moment in found])
    assert sags.max() < LARGEST_SAG < 0.5
    assert sags.mean() > 0.08


@pytest.mark.parametrize("fold", [2, 3, 5])
def test_turning_it_by_a_leg_changes_nothing_but_the_names(fold: int) -> None:
    body = Body(64, fold, 10, 0)
    now, after = body.motion(0, 1)[:2]
    turn = 2 * np.pi / fold
    drawing = body.draw(now, after)
    turned = body.draw(
        now._replace(angle=now.angle + turn), after._replace(angle=after.angle + turn)
    )
    assert np.abs(drawing.image.astype(int) - turned.image).max() <= 1
    assert np.allclose(drawing.flow, turned.flow, atol=1e-5)
    legs = np.arange(fold)
    order = [0, *(1 + (legs + 1) % fold), *(1 + fold + (legs + 1) % fold)]
    assert np.allclose(turned.points, drawing.points[order], atol=1e-5)
    half = body.draw(now._replace(angle=now.angle + turn / 2), after)
    assert np.abs(drawing.image.astype(int) - half.image).mean() > 2


def test_it_is_held_at_its_centre_and_differs_between_clips() -> None:
    images = Rotor(size=32, frames=20, train=3).images("train")
    centres = np.stack([images[index]["points"][0] for index in range(60)]).reshape(3, 20, 2)
    assert np.ptp(centres, axis=1).max() < 1e-6
    assert np.abs(np.diff(centres[:, 0], axis=0)).min() > 1e-3
    backgrounds = {tuple(images[20 * clip]["image"][0, 0]) for clip in range(3)}
    assert len(backgrounds) == 3


@pytest.mark.parametrize("fold", [1, 13])
def test_impossible_symmetries_are_refused(fold: int) -> None:
    with pytest.raises(ConfigError, match="fold"):
        build(ImageData, {"name": "rotor", "fold": fold})
