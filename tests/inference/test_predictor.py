"""Landmarks from a checkpoint alone, in pixels of the original images."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from landmark_lab.config import read
from landmark_lab.data.preprocess import Preprocess
from landmark_lab.errors import CheckpointError, ConfigError, DataError, RunError
from landmark_lab.inference import Predictor, find_checkpoint
from landmark_lab.runs import new_run
from tests.inference.world import dots, save_method


@pytest.mark.parametrize("fit", ["letterbox", "squash", "crop"])
@pytest.mark.parametrize("window", [1.0, 0.8])
@pytest.mark.parametrize("size", [(120, 90), (50, 77)])
def test_landmarks_come_in_pixels_of_the_original(
    tmp_path: Path, fit: str, window: float, size: tuple[int, int]
) -> None:
    preprocess = Preprocess(size=64, fit=fit, window=window)  # type: ignore[arg-type]
    predictor = Predictor(save_method(tmp_path / "a.ckpt", preprocess))
    image, places = dots(3, size)
    points, score = predictor([image])
    assert predictor.names == ("landmark_0", "landmark_1", "landmark_2")
    np.testing.assert_allclose(points[0], places, atol=0.15)
    np.testing.assert_allclose(score, 0.8, atol=1e-6)


def test_batches_and_sizes_may_be_mixed(checkpoint: Path) -> None:
    images = [dots(seed, (60 + 9 * seed, 80))[0] for seed in range(5)]
    whole, _ = Predictor(checkpoint)(images)
    parts, _ = Predictor(checkpoint, batch_size=2)(images)
    np.testing.assert_array_equal(whole, parts)
    nothing, score = Predictor(checkpoint)([])
    assert nothing.shape == (0, 3, 2)
    assert score.shape == (0, 3)


def test_what_is_not_found_is_nan_with_score_zero(checkpoint: Path) -> None:
    points, score = Predictor(checkpoint)([dots(0, lost=[1])[0]])
    assert np.isnan(points[0, 1]).all()
    assert score[0, 1] == 0
    assert not np.isnan(points[0, [0, 2]]).any()


def test_boxes_are_used_where_the_training_used_them(tmp_path: Path) -> None:
    image, places = dots(1)
    wide = np.pad(image, ((0, 0), (200, 0), (0, 0)))
    box = np.array([200.0, 0, 319, 89])
    predictor = Predictor(save_method(tmp_path / "a.ckpt", Preprocess(size=64, box_margin=0.1)))
    squares, _ = predictor.squares([wide], [box])
    whole, _ = predictor.squares([wide])
    assert squares.sum() > 3 * whole.sum()  # the object is larger in them
    points, _ = predictor([wide], [box])
    np.testing.assert_allclose(points[0], places + np.array([200, 0]), atol=0.2)


def test_data_that_draws_itself_has_no_preprocess(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    predictor = Predictor(save_method(tmp_path / "a.ckpt", preprocess=None))
    assert predictor.preprocess == Preprocess(size=64)
    assert "the data 'dots' draws itself; new ones are letterboxed to 64 pixels" in caplog.text


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((20, 20), np.uint8), r"image 1: is an array \(20, 20\) of uint8"),
        (np.zeros((20, 20, 3)), "of float64"),
        (np.zeros((20, 5, 3), np.uint8), r"too small \(5 x 20 pixels\)"),
    ],
)
def test_an_unusable_image_is_named(checkpoint: Path, image: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Predictor(checkpoint)([dots(0)[0], image])


def test_a_method_without_landmarks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the method 'blind' finds no landmarks"):
        Predictor(save_method(tmp_path / "a.ckpt", method="blind"))


def test_no_such_device_or_batch(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="device 'gpu': cannot be used"):
        Predictor(checkpoint, device="gpu")
    with pytest.raises(ConfigError, match="a batch of 0 images"):
        Predictor(checkpoint, batch_size=0)


# --- find_checkpoint -----------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run with two stages."""
    file = tmp_path / "two.yaml"
    stages = {"second": {}, "a_third": {"start_from": {"stage": "second"}}}
    common = {"data": "dots", "method": "dot_finder", "pairing": "synthetic"}
    file.write_text(yaml.safe_dump({**common, "stages": stages}, sort_keys=False))
    return new_run(tmp_path / "runs", read(file))


def test_a_run_means_the_best_checkpoint_of_its_last_stage(run: Path) -> None:
    for stage in ("second", "a_third"):
        for name in ("last", "done"):
            save_method(run / "checkpoints" / stage / f"{name}.ckpt")
    assert find_checkpoint(run) == run / "checkpoints" / "a_third" / "done.ckpt"
    best = save_method(run / "checkpoints" / "a_third" / "best.ckpt")
    assert find_checkpoint(run) == best
    assert find_checkpoint(best) == best


def test_an_unfinished_run_names_what_it_has(run: Path) -> None:
    with pytest.raises(CheckpointError, match=r"not finished its last stage 'a_third'.*no check"):
        find_checkpoint(run)
    save_method(run / "checkpoints" / "second" / "done.ckpt")
    save_method(run / "checkpoints" / "a_third" / "best.ckpt")
    with pytest.raises(CheckpointError, match=r"not finished its last stage.*second/done\.ckpt"):
        find_checkpoint(run)


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such checkpoint or run folder"):
        find_checkpoint(tmp_path / "nothing")
    with pytest.raises(RunError, match="is not a run folder"):
        find_checkpoint(tmp_path)
    (tmp_path / "text.ckpt").write_text("hello")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        Predictor(tmp_path / "text.ckpt")
