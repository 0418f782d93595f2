"""The user's own points: fitting, scores, and the file."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from landmark_lab.data.annotations import Annotations
from landmark_lab.errors import ConfigError, DataError
from landmark_lab.inference import Predictor, fitting
from landmark_lab.inference.annotated import (
    AnnotatedImages,
    draw_images,
    find_images,
    load_annotated,
    reordered,
)
from landmark_lab.inference.fitting import fit_points, measure_points
from landmark_lab.inference.named_points import NamedPoints, load_points
from landmark_lab.metrics.regression import fit_linear
from tests.inference.world import NAMES, annotated_images, dots, named, save_image, save_method


def load(folder: Path, annotations: Annotations, predictor: Predictor) -> AnnotatedImages:
    files = [folder / name for name in annotations.images]
    return load_annotated(annotations, files, predictor.preprocess)


@pytest.fixture
def predictor(checkpoint: Path) -> Predictor:
    return Predictor(checkpoint)


@pytest.fixture
def fitted(tmp_path: Path, predictor: Predictor) -> NamedPoints:
    images = load(tmp_path, annotated_images(tmp_path, 4), predictor)
    return fit_points(predictor, images, copies=2)[0]


def test_points_that_follow_the_landmarks_are_found(tmp_path: Path, predictor: Predictor) -> None:
    images = load(tmp_path, annotated_images(tmp_path, 9, missing={2: [0], 5: [1]}), predictor)
    points, errors = fit_points(predictor, images, copies=2)
    assert np.nanmean(errors.pixels) < 0.5
    assert np.nanmean(errors.mean_shape_pixels) > 5
    assert np.isnan(errors.pixels[2, 0])
    # In other images, through the file, in pixels of the original.
    points.save(tmp_path / "own.points.npz")
    named_predictor = Predictor(predictor.checkpoint, tmp_path / "own.points.npz")
    assert named_predictor.names == NAMES
    others = [dots(number) for number in range(100, 106)]
    found, score = named_predictor([image for image, _ in others])
    np.testing.assert_allclose(found, [named(places) for _, places in others], atol=0.6)
    assert score.min() > 0.5
    test = load(tmp_path, annotated_images(tmp_path, 6, first=100), predictor)
    measured, same = measure_points(predictor, points, images, test)
    np.testing.assert_allclose(measured.predicted, found, atol=1e-6)
    np.testing.assert_allclose(same, score, atol=1e-6)


def test_where_the_landmarks_do_not_help_it_is_the_mean_shape(
    tmp_path: Path, predictor: Predictor
) -> None:
    given = annotated_images(tmp_path, 6)
    generator = np.random.default_rng(0)
    loose = replace(given, points=generator.uniform(10, 80, given.points.shape))
    points, errors = fit_points(predictor, load(tmp_path, loose, predictor), copies=2)
    # The error in images left out says so, though the choice was made on the same images.
    assert np.nanmean(errors.pixels) > 0.9 * np.nanmean(errors.mean_shape_pixels)
    assert points.card.left_out["pixels"]["all"] == pytest.approx(
        np.nanmean(np.nanmean(errors.pixels, 1))
    )


def test_the_same_seed_gives_the_same_points(tmp_path: Path, predictor: Predictor) -> None:
    images = load(tmp_path, annotated_images(tmp_path, 4), predictor)
    first, again, other = (fit_points(predictor, images, 2, seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.weights, again.weights)
    assert (first.weights != other.weights).any()


def test_the_choice_leaves_the_image_out_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nested leave-one-out of ``_choose`` as loops over single fits."""
    monkeypatch.setattr(fitting, "_ALPHAS", (0.01, 1.0, 100.0))
    generator = np.random.default_rng(1)
    count, rows = 5, 3
    families = []
    for noise in (0.1, 0.5):
        landmarks = generator.normal(size=(count, rows, 4))
        points = landmarks @ generator.normal(size=(4, 4)) + noise * generator.normal(
            size=(count, rows, 4)
        )
        families.append((landmarks, points))
    truth = families[0][1][:, 0].reshape(count, 2, 2).copy()
    truth[1, 0] = np.nan
    for _, points in families:
        points[1, :, :2] = np.nan
    found, left_out = fitting._choose(
        [fitting._Rows(*family) for family in families], truth, np.arange(count)
    )

    def guess(family: int, alpha: float, image: int, without: set[int]) -> np.ndarray:
        landmarks, points = families[family]
        kept = [n for n in range(count) if n not in without]
        one = fit_linear(
            landmarks[kept].reshape(-1, 4), points[kept].reshape(-1, 4), alpha=alpha * rows
        )
        return one(landmarks[image, :1]).reshape(2, 2)

    def best(images: list[int], without: set[int]) -> tuple[int, list[float]]:
        """The family, and each point's parameter, of the smallest mean errors."""
        totals = []
        for family in (0, 1):
            errors = {
                alpha: np.nanmean(
                    [
                        np.linalg.norm(guess(family, alpha, n, {n, *without}) - truth[n], axis=-1)
                        for n in images
                    ],
                    axis=0,
                )
                for alpha in (0.01, 1.0, 100.0)
            }
            own = [min(errors, key=lambda alpha: errors[alpha][point]) for point in (0, 1)]
            totals.append((sum(errors[alpha][p] for p, alpha in enumerate(own)), family, own))
        return min(totals)[1:]

    everyone = list(range(count))
    assert (found[0], [fitting._ALPHAS[alpha] for alpha in found[1]]) == best(everyone, set())
    for image in everyone:
        family, alphas = best([n for n in everyone if n != image], {image})
        expected = [guess(family, alpha, image, {image})[p] for p, alpha in enumerate(alphas)]
        np.testing.assert_allclose(left_out[image], expected, atol=1e-9)


def test_more_images_are_left_out_in_ten_groups() -> None:
    group = fitting._groups(37, seed=0)
    sizes = np.bincount(group)
    assert len(sizes) == 10
    assert set(sizes) == {3, 4}
    assert fitting._groups(7, seed=0).tolist() == list(range(7))


# --- scores --------------------------------------------------------------------------------------


def test_the_score_as_loops(fitted: NamedPoints) -> None:
    generator = np.random.default_rng(0)
    landmarks = generator.uniform(-0.5, 0.5, (4, 3, 2))
    score = generator.uniform(0.2, 1.0, (4, 3))
    points, found = fitted(landmarks, score)
    maps = range(len(fitted.weights))
    guesses = np.array(
        [
            (landmarks[n].ravel() @ fitted.weights[m] + fitted.bias[m]).reshape(-1, 2)
            for m in maps
            for n in range(4)
        ]
    ).reshape(len(maps), 4, -1, 2)
    np.testing.assert_allclose(points, guesses[0])
    for n, p in product(range(4), range(2)):
        without = guesses[1:, n, p]
        spread = sum(np.sum((g - without.mean(0)) ** 2) for g in without)
        spread *= (len(without) - 1) / len(without)
        error = max(fitted.usual_error[p] ** 2, spread)
        share = [
            np.abs(fitted.weights[0][2 * k : 2 * k + 2, 2 * p : 2 * p + 2]).sum() for k in range(3)
        ]
        sure = [min(score[n, k] / fitted.usual_score[k], 1) for k in range(3)]
        expected = (1 - np.exp(-(fitted.tolerance**2) / error)) * np.average(sure, weights=share)
        assert found[n, p] == pytest.approx(expected)


_FAR = 400 * np.array([[1.0, -2.0], [-1.5, 0.5], [0.7, 1.1]])


def test_scores_fall_far_from_the_annotated_images(fitted: NamedPoints) -> None:
    fitted = replace(fitted, usual_error=fitted.usual_error + fitted.tolerance)
    inside = np.zeros((1, 3, 2))
    _, usual = fitted(inside, np.full((1, 3), 0.8))
    _, far = fitted(inside + _FAR, np.full((1, 3), 0.8))
    assert (far < usual - 0.1).all()
    _, weak = fitted(inside, np.full((1, 3), 0.4))
    np.testing.assert_allclose(weak, usual / 2)


def test_missing_landmarks_and_points(tmp_path: Path, predictor: Predictor) -> None:
    missing = {n: [1] for n in range(6)}
    images = load(tmp_path, annotated_images(tmp_path, 6, missing=missing), predictor)
    points, _ = fit_points(predictor, images, copies=2)
    score = np.full((2, 3), 0.8)
    landmarks = np.zeros((2, 3, 2))
    landmarks[1, 0], score[1, 0] = np.nan, 0
    found, certain = points(landmarks, score)
    assert np.isnan(found[:, 1]).all()  # a point that nobody annotated
    assert (certain[:, 1] == 0).all()
    assert np.isfinite(found[1, 0]).all()  # one landmark of three is guessed
    assert 0 < certain[1, 0] < certain[0, 0]
    found, certain = points(np.full((1, 3, 2), np.nan), np.zeros((1, 3)))
    assert np.isnan(found).all()
    assert (certain == 0).all()


def test_a_point_of_a_single_image_is_as_bad_as_the_worst(
    tmp_path: Path, predictor: Predictor
) -> None:
    missing = {n: [1] for n in range(5)}  # only image 5 shows it
    images = load(tmp_path, annotated_images(tmp_path, 6, missing=missing), predictor)
    points, errors = fit_points(predictor, images, copies=2)
    assert np.isnan(errors.pixels[:, 1]).all()
    assert points.usual_error[1] == points.usual_error[0]
    found, certain = points(np.zeros((1, 3, 2)), np.full((1, 3), 0.8))
    assert np.isfinite(found).all()
    assert np.isfinite(certain).all()


# --- the file ------------------------------------------------------------------------------------


def test_the_file_holds_everything(
    fitted: NamedPoints, predictor: Predictor, tmp_path: Path
) -> None:
    fitted.save(tmp_path / "a.points.npz")
    back = load_points(tmp_path / "a.points.npz", predictor.checkpoint)
    assert back.card == fitted.card
    assert back.card.images == [f"{number:03d}.png" for number in range(4)]
    landmarks = np.random.default_rng(0).uniform(-1, 1, (3, 3, 2))
    for mine, theirs in zip(
        back(landmarks, np.ones((3, 3))), fitted(landmarks, np.ones((3, 3))), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


def test_points_of_another_checkpoint_are_refused(
    fitted: NamedPoints, predictor: Predictor, tmp_path: Path
) -> None:
    fitted.save(tmp_path / "a.points.npz")
    other = save_method(tmp_path / "other.ckpt", replace(predictor.preprocess, size=48))
    with pytest.raises(DataError, match=r"another checkpoint than .*other\.ckpt; give that"):
        Predictor(other, tmp_path / "a.points.npz")


def test_damaged_and_other_files(fitted: NamedPoints, checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.points.npz"
    fitted.save(file)
    content = file.read_bytes()
    with pytest.raises(DataError, match="there is no such file of named points"):
        load_points(tmp_path / "b.points.npz", checkpoint)
    for damaged in (b"", b"text", content[: len(content) // 2]):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match="is damaged or not a file of named points"):
            load_points(file, checkpoint)
    np.savez(file, x=np.zeros(3))
    with pytest.raises(DataError, match="is not a file of named points; allowed: what 'landmark"):
        load_points(file, checkpoint)
    replace(fitted, card=replace(fitted.card, format=99)).save(file)
    with pytest.raises(DataError, match="has format 99; allowed: format 1"):
        load_points(file, checkpoint)
    replace(fitted, bias=fitted.bias[:, :3]).save(file)
    with pytest.raises(DataError, match="arrays that do not fit one another"):
        load_points(file, checkpoint)


# --- annotations that do not fit -----------------------------------------------------------------


def test_too_few_images_and_copies(tmp_path: Path, predictor: Predictor) -> None:
    two = load(tmp_path, annotated_images(tmp_path, 2), predictor)
    with pytest.raises(DataError, match="has 2 images with annotated points; allowed: 3 or more"):
        fit_points(predictor, two)
    three = load(tmp_path, annotated_images(tmp_path, 3), predictor)
    with pytest.raises(ConfigError, match="0 warped copies"):
        fit_points(predictor, three, copies=0)


def test_images_without_points_are_left_out(tmp_path: Path, predictor: Predictor) -> None:
    given = annotated_images(tmp_path, 4, missing={1: [0, 1]})
    assert load(tmp_path, given, predictor).annotations.images == ("000.png", "002.png", "003.png")
    nothing = given.blank(given.images)
    with pytest.raises(DataError, match="no point is annotated in any image"):
        load(tmp_path, nothing, predictor)


def test_annotations_of_other_images(tmp_path: Path, predictor: Predictor) -> None:
    given = annotated_images(tmp_path, 3)
    larger = replace(given, size=np.array([[120, 90], [240, 180], [120, 90]]))
    with pytest.raises(DataError, match=r"001\.png: is 120 x 90 pixels, but was annotated at 240"):
        load(tmp_path, larger, predictor)
    far = replace(given, points=given.points + 500)
    with pytest.raises(DataError, match="lies far outside the image"):
        load(tmp_path, far, predictor)
    twice = given.take([0, 1, 1])
    with pytest.raises(DataError, match=r"annotates .*001\.png several times"):
        load(tmp_path, twice, predictor)
    (tmp_path / "002.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"002\.png: is not a readable image"):
        load(tmp_path, given, predictor)


def test_images_are_found_beside_or_in_a_folder(tmp_path: Path) -> None:
    given = annotated_images(tmp_path / "elsewhere", 2)
    save_image(tmp_path / "images" / "000.png", dots(0)[0])
    save_image(tmp_path / "images" / "001.png", dots(1)[0])
    file = tmp_path / "labels.csv"
    assert find_images(given, file)[0] == tmp_path / "images" / "000.png"
    other = find_images(given, file, tmp_path / "elsewhere")
    assert other[1] == tmp_path / "elsewhere" / "001.png"
    with pytest.raises(DataError, match="no such folder of images"):
        find_images(given, file, tmp_path / "nowhere")
    (tmp_path / "images" / "001.png").unlink()
    with pytest.raises(DataError, match=r"1 of 2 images that do not exist, the first: '001\.png'"):
        find_images(given, file)


def test_a_seeded_choice_of_images(tmp_path: Path) -> None:
    given = annotated_images(tmp_path, 9, missing={4: [0, 1]})
    chosen, rest = draw_images(given, 3, seed=0)
    assert sorted([*chosen, *rest]) == [0, 1, 2, 3, 5, 6, 7, 8]
    assert set(chosen) < set(draw_images(given, 5, seed=0)[0])
    assert draw_images(given, 3, seed=0) == (chosen, rest)
    assert draw_images(given, 3, seed=1)[0] != chosen
    for count in (0, 9):
        with pytest.raises(DataError, match="allowed: 1 to 8"):
            draw_images(given, count, seed=0)


def test_points_of_another_file_are_found_by_name(tmp_path: Path) -> None:
    given = annotated_images(tmp_path, 3)
    turned = replace(given, names=NAMES[::-1], points=given.points[:, ::-1])
    np.testing.assert_array_equal(reordered(turned, NAMES).points, given.points)
    with pytest.raises(DataError, match=r"has no point 'tpi'.*did you mean 'tip'"):
        reordered(given, ("middle", "tpi"))
