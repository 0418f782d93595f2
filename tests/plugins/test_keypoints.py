"""Where the detectors put their keypoints, and how they describe them."""

import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from landmark_lab.data.keypoints import Detections
from landmark_lab.errors import ConfigError, DataError, MissingDependencyError
from landmark_lab.plugin import build
from landmark_lab.roles import KeypointDetector
from tests.plugins.superpoint import save_tiny

Floats = NDArray[np.float32]
SIDE = 128


def detector(name: str, **settings: Any) -> KeypointDetector:
    return build(KeypointDetector, {"name": name, **settings})


def detect(
    one: KeypointDetector, image: Any, annotated: Any = None, box: Any = None, seed: int = 0
) -> Detections:
    known = None if annotated is None else np.array(annotated, np.float32)
    limits = None if box is None else np.array(box, np.float32)
    return one.detect(np.asarray(image, np.uint8), np.random.default_rng(seed), known, limits)


def blobs(places: Any, sigma: float = 3.0, side: int = SIDE) -> NDArray[np.uint8]:
    """Bright Gaussian blobs at (x, y) pixels, which need not be whole."""
    y, x = np.mgrid[:side, :side]
    grey = sum(np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * sigma**2)) for px, py in places)
    return np.repeat((40 + 180 * np.clip(grey, 0, 1))[..., None], 3, axis=2).astype(np.uint8)


def pixels(points: Floats, side: int = SIDE) -> Floats:
    return (points + 1) * side / 2 - 0.5


def offsets(found: Floats, places: Any) -> Floats:
    """From each place to the nearest point found."""
    apart = found[None] - np.array(places, np.float32)[:, None]
    nearest = np.linalg.norm(apart, axis=-1).argmin(1)
    return np.take_along_axis(apart, nearest[:, None, None], 1)[:, 0]


def clutter(seed: int = 0, side: int = SIDE) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).integers(0, 256, (side // 4, side // 4, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC))


# --- places --------------------------------------------------------------------------------------

PLACES = [(30.25, 40.6), (90.8, 35.1), (64.4, 92.7), (25.9, 100.3)]


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.6])
def test_sift_finds_the_middle_of_a_blob(scale: float) -> None:
    found = detect(detector("sift", resolution=SIDE, scales=[scale]), blobs(PLACES))
    assert np.abs(offsets(pixels(found.points), PLACES)).max() < 0.25
    assert np.abs(offsets(pixels(found.points), PLACES).mean(0)).max() < 0.1


def test_orb_puts_corners_of_all_levels_where_they_are() -> None:
    """An image that is turned by 180 degrees has the same corners, at the negative places."""
    image = clutter(side=SIDE)
    one = detector("orb", resolution=SIDE, apart=0.0, count=None)
    found, turned = (detect(one, picture).points for picture in (image, image[::-1, ::-1]))
    found, turned = pixels(found), pixels(-turned)
    assert len(found) == len(turned) > 600
    # Of the two images' corners nothing but the place was mirrored, so a shift would show twice.
    assert np.abs(offsets(turned, found)).max() < 0.05


def test_points_do_not_depend_on_the_size_of_the_image() -> None:
    """The same scene at two resolutions; settings in pixels mean the same."""
    large = clutter(side=512)
    small = cv2.resize(large, (256, 256), interpolation=cv2.INTER_AREA)
    one, other = (detect(detector("sift"), image).points for image in (large, small))
    apart = np.linalg.norm(one[:, None] - other[None], axis=-1).min(1)
    assert (apart < 0.01).mean() > 0.9


def test_scales_are_joined_without_duplicates() -> None:
    one = detector("sift", count=None, apart=8.0)
    several = detector("sift", count=None, apart=8.0, scales=[1.0, 1.3, 1.6])
    some, more = detect(one, clutter()), detect(several, clutter())
    assert len(more) >= len(some)
    apart = torch.pdist(torch.from_numpy(pixels(more.points, 256)))
    assert apart.min() >= 8
    alone = detect(detector("sift", count=None, apart=8.0, scales=[1.6]), clutter())
    both = np.concatenate([some.points, alone.points])
    joined = {tuple(point) for point in more.points.tolist()}
    assert len(joined & {tuple(point) for point in both.tolist()}) > 0.5 * len(joined)


@pytest.mark.parametrize("name", ["sift", "orb"])
def test_at_most_so_many_are_kept_and_they_are_spread(name: str) -> None:
    image = clutter()
    image[:, : SIDE // 2] = (image[:, : SIDE // 2] * 0.3 + 90).astype(np.uint8)  # a dull half
    everything = detect(detector(name, count=None), image)
    few = detect(detector(name, count=20), image)
    assert len(everything) > 60
    assert len(few) == 20
    assert (np.diff(few.scores) <= 0).all()
    strongest = everything.points[:20]
    assert (few.points[:, 0] < 0).mean() > (strongest[:, 0] < 0).mean() + 0.1
    assert {tuple(p) for p in few.points.tolist()} <= {tuple(p) for p in everything.points.tolist()}


def test_the_whole_budget_goes_into_the_box() -> None:
    box = [-0.5, -0.5, 0.5, 0.5]
    assert len(detect(detector("sift", count=20), clutter(), box=box)) == 20
    outside = detect(detector("sift", count=20, within_box=False), clutter(), box=box).points
    assert (np.abs(outside) > 0.5).any()


# --- descriptors ---------------------------------------------------------------------------------


def test_sift_describes_by_the_root_of_normalised_histograms() -> None:
    found = detect(detector("sift", scales=[1.0, 1.3]), clutter())
    assert found.descriptors is not None
    assert found.descriptors.shape == (len(found), 128)
    assert (found.descriptors >= 0).all()
    assert np.linalg.norm(found.descriptors, axis=1) == pytest.approx(1, abs=1e-5)


def test_orb_describes_by_bits() -> None:
    found = detect(detector("orb", scales=[1.0, 1.3]), clutter())
    assert found.descriptors is not None
    assert found.descriptors.shape == (len(found), 256)
    assert set(np.unique(found.descriptors)) == {0, 1}


@pytest.mark.parametrize("name", ["sift", "orb"])
def test_descriptors_find_a_turned_patch_again(name: str) -> None:
    image = clutter(side=256)
    turned = np.ascontiguousarray(np.rot90(image))  # (x, y) goes to (y, -x)
    one, other = detect(detector(name), image), detect(detector(name), turned)
    assert one.descriptors is not None
    assert other.descriptors is not None
    nearest = ((one.descriptors[:, None] - other.descriptors[None]) ** 2).sum(-1).argmin(1)
    expected = np.stack([one.points[:, 1], -one.points[:, 0]], axis=1)
    right = np.linalg.norm(other.points[nearest] - expected, axis=1) < 0.05
    exists = np.linalg.norm(other.points[None] - expected[:, None], axis=-1).min(1) < 0.05
    assert exists.sum() > 10
    assert right[exists].mean() > 0.8


# --- superpoint ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("superpoint")))


def test_superpoint_puts_its_points_into_the_cells_with_structure(weights: str) -> None:
    image = np.full((SIDE, SIDE, 3), 90, np.uint8)
    image[50:52, 99:101] = 250  # in the cell of row 6 and column 12
    found = detect(
        detector("superpoint", weights=weights, resolution=SIDE, scales=[1.0], border=8), image
    )
    assert len(found) >= 1
    assert found.descriptors is not None
    assert found.descriptors.shape == (len(found), 16)
    assert np.linalg.norm(found.descriptors, axis=1) == pytest.approx(1, abs=1e-5)
    x, y = pixels(found.points).T
    assert ((x >= 96) & (x < 104)).all()
    assert ((y >= 48) & (y < 56)).all()


@pytest.mark.parametrize("resolution", [120, 125])  # whole cells, and not
def test_superpoint_takes_what_the_library_finds(weights: str, resolution: int) -> None:
    from transformers import SuperPointForKeypointDetection

    image = clutter(side=resolution)
    found = detect(
        detector(
            "superpoint", weights=weights, resolution=resolution, scales=[1.0], apart=0.0, border=0
        ),
        image,
    )
    model = SuperPointForKeypointDetection.from_pretrained(
        weights, keypoint_threshold=0.15, nms_radius=8, border_removal_distance=0
    ).eval()
    edge = -resolution % 8
    grey = np.pad(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), ((0, edge), (0, edge)), mode="edge")
    with torch.no_grad():
        raw = model(torch.from_numpy(grey / np.float32(255)).expand(1, 3, *grey.shape))
    expected = raw.keypoints[0].numpy() * len(grey)
    expected = expected[(expected <= resolution - 1).all(1)]
    assert len(expected) > 20
    assert sorted(np.rint(pixels(found.points, resolution)).tolist()) == sorted(
        np.rint(expected).tolist()
    )


def test_superpoint_says_that_transformers_is_missing(
    weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match="'superpoint' needs the library 'transform"):
        detector("superpoint", weights=weights).prepare()


def test_superpoint_says_that_a_folder_is_missing(tmp_path: Path) -> None:
    missing = detector("superpoint", weights=str(tmp_path / "none"))
    for use in (missing.prepare, lambda: missing.content):
        with pytest.raises(DataError, match="none: there is no such folder"):
            use()


def test_superpoint_says_that_a_folder_holds_no_weights(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(DataError, match="the weights cannot be had"):
        detector("superpoint", weights=str(tmp_path)).prepare()


def test_superpoint_says_how_to_get_weights_without_a_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    library = pytest.importorskip("transformers")

    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("We couldn't connect to the hub\nmore")

    monkeypatch.setattr(library.SuperPointForKeypointDetection, "from_pretrained", offline)
    with pytest.raises(DataError, match=r"couldn't connect to the hub\); download them on a mach"):
        detector("superpoint").prepare()


def test_superpoint_refuses_weights_of_something_else(weights: str, tmp_path: Path) -> None:
    torch_file = pytest.importorskip("safetensors.torch")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((Path(weights) / name).read_bytes())
    tensors = torch_file.load_file(tmp_path / "model.safetensors")
    gone = "keypoint_decoder.conv_score_b.weight"
    torch_file.save_file(
        {k: v for k, v in tensors.items() if k != gone},
        tmp_path / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(DataError, match="lack 1 of SuperPoint's parameters, such as keypoint_de"):
        detector("superpoint", weights=str(tmp_path)).prepare()


def test_superpoints_weights_are_part_of_what_its_results_depend_on(
    weights: str, tmp_path: Path
) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((Path(weights) / name).read_bytes())
    copied = detector("superpoint", weights=str(tmp_path))
    before = copied.content
    assert before == detector("superpoint", weights=weights).content
    (tmp_path / "model.safetensors").write_bytes(b"others")
    assert copied.content != before
    assert detector("superpoint").content not in ("", before)


# --- without looking -----------------------------------------------------------------------------

BLANK = np.zeros((32, 32, 3), np.uint8)


def test_the_grid_lies_at_the_centres_of_cells() -> None:
    points = detect(detector("grid", across=2), BLANK).points
    assert points.tolist() == [[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]]
    points = detect(detector("grid", across=2), BLANK, box=[0, -1, 1, 0]).points
    assert points.tolist() == [[0.25, -0.75], [0.75, -0.75], [0.25, -0.25], [0.75, -0.25]]
    whole = detect(detector("grid", within_box=False), BLANK, box=[0, -1, 1, 0]).points
    assert np.array_equal(whole, detect(detector("grid"), BLANK).points)


def test_random_points_are_uniform_in_the_box() -> None:
    points = detect(detector("random", count=20_000), BLANK, box=[-0.5, 0, 2, 1]).points
    assert points.min(0) == pytest.approx([-0.5, 0], abs=1e-3)
    assert points.max(0) == pytest.approx([1, 1], abs=1e-3)  # the box ends outside the image
    assert points.mean(0) == pytest.approx([0.25, 0.5], abs=0.02)
    assert points.var(0) == pytest.approx([1.5**2 / 12, 1 / 12], rel=0.03)


ANNOTATED = np.random.default_rng(7).uniform(-0.6, 0.6, (20, 2)).astype(np.float32)


def real(found: Detections, radius: float = 3 * 2 / 256 + 1e-6) -> NDArray[np.bool_]:
    apart = np.linalg.norm(found.points[:, None] - ANNOTATED[None], axis=-1)
    return np.asarray(apart.min(1) <= radius)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
def test_the_mixture_holds_the_share(share: float) -> None:
    """Random points lie in a corner here, so that none is near an annotated one."""
    one = detector("mixture", share=share)
    images = [detect(one, BLANK, ANNOTATED, box=[0.8, 0.8, 1, 1], seed=seed) for seed in range(200)]
    counts = np.array([len(found) for found in images])
    found = np.array([real(found).sum() for found in images])
    assert counts.min() == 12
    assert counts.max() == min(24, round(len(ANNOTATED) / share) if share else 24)
    assert found.sum() / counts.sum() == pytest.approx(share, abs=0.01)
    assert np.abs(found - share * counts).max() <= 0.5 + 1e-9


def test_an_annotated_point_is_taken_once_and_displaced_in_a_disc() -> None:
    one = detector("mixture", share=1.0, points=[0], fewest=1, most=1, displacement=4.0)
    away = np.array(
        [detect(one, BLANK, ANNOTATED, seed=seed).points[0] - ANNOTATED[0] for seed in range(2000)]
    )
    radius = np.linalg.norm(away, axis=1) * 256 / 2
    assert 3.9 < radius.max() <= 4 + 1e-4
    assert (radius**2).mean() == pytest.approx(4.0**2 / 2, rel=0.05)  # uniform in area
    assert np.abs(away.mean(0)).max() < 0.1 * 4 * 2 / 256
    many = detect(detector("mixture", share=1.0, displacement=0.0), BLANK, ANNOTATED)
    assert len({tuple(point) for point in many.points.tolist()}) == len(many)


def test_the_mixture_takes_the_points_it_is_told_that_are_in_the_image() -> None:
    known = ANNOTATED.copy()
    known[0], known[1] = np.nan, (1.2, 0)
    one = detector("mixture", share=0.5, points=[0, 1, 2, 3], displacement=0.0)
    counts = set()
    for seed in range(50):
        found = detect(one, BLANK, known, box=[0.8, 0.8, 1, 1], seed=seed)
        chosen = found.points[real(found)]
        assert {tuple(p) for p in chosen.tolist()} == {tuple(p) for p in known[2:4].tolist()}
        counts.add(len(found))
    assert counts == {4}  # fewer, so that the share holds


def test_the_mixture_without_a_box_stays_near_the_object() -> None:
    found = detect(detector("mixture", share=0.0, fewest=24), BLANK, ANNOTATED).points
    assert (found >= ANNOTATED.min(0)).all()
    assert (found <= ANNOTATED.max(0)).all()
    unknown = np.full((20, 2), np.nan, np.float32)
    assert len(detect(detector("mixture"), BLANK, unknown)) >= 12  # noise all over the image


def test_the_mixture_says_what_is_missing() -> None:
    with pytest.raises(DataError, match="needs annotated points"):
        detect(detector("mixture"), BLANK)
    with pytest.raises(ConfigError, match="there is no point 20; allowed: 0 to 19"):
        detect(detector("mixture", points=[3, 20]), BLANK, ANNOTATED)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("sift", {"contrast": 2.0}, "contrast must be"),
        ("sift", {"edge": 0.5}, "edge must be"),
        ("sift", {"scales": []}, "scales must be"),
        ("sift", {"scales": [0.0]}, "scales must be"),
        ("sift", {"resolution": 8}, "resolution must be"),
        ("sift", {"apart": -1.0}, "apart must not be"),
        ("sift", {"count": 0}, "count must be"),
        ("sift", {"robustness": 0.0}, "robustness must be"),
        ("orb", {"brightness": 0}, "brightness must be"),
        ("orb", {"border": -1}, "border must not be"),
        ("orb", {"levels": 0}, "levels must be"),
        ("superpoint", {"threshold": 2.0}, "threshold must be"),
        ("superpoint", {"suppression": -1}, "must not be negative"),
        ("grid", {"across": 0}, "across must be"),
        ("random", {"count": 0}, "count must be"),
        ("mixture", {"share": 1.2}, "share must be"),
        ("mixture", {"points": []}, "points must be"),
        ("mixture", {"points": [1, 1]}, "points must be"),
        ("mixture", {"fewest": 30}, "fewest and most"),
        ("mixture", {"displacement": -1.0}, "displacement must"),
    ],
)
def test_settings_out_of_range_are_refused(
    name: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        detector(name, **settings)
