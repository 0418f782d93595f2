"""Tables of images: rows, corrupt files, the check of the annotation."""

import logging
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from landmark_lab.data.images import ImageTable, SplitTable, check_annotation, image_size
from landmark_lab.data.preprocess import Preprocess
from landmark_lab.errors import DataError


def save(path, width=40, height=30, level=100):
    image = np.full((height, width, 3), level, np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)
    return path


def table(*paths, **known):
    count = len(paths)
    return SplitTable(
        tuple(Path(path) for path in paths),
        np.full(count, -1, dtype=np.int64),
        np.zeros((count, 2), dtype=np.int64),
        **known,
    )


@pytest.fixture
def five(tmp_path):
    """Three good images, a truncated and a tiny one."""
    paths = [save(tmp_path / f"{i}.png", level=10 * i + 10) for i in range(5)]
    paths[1].write_bytes(paths[1].read_bytes()[:60])
    save(paths[3], width=7)
    return paths


def test_rows_hold_what_the_table_knows(tmp_path):
    path = save(tmp_path / "a.png")
    images = ImageTable(
        table(
            path,
            points=np.array([[[-0.5, -0.5], [19.5, 14.5], [np.nan, np.nan]]]),
            visible=np.array([[True, False, False]]),
            box=np.array([[-0.5, 14.5, 39.5, 29.5]]),
            identity=np.array([4]),
            label=np.array([2]),
        ),
        Preprocess(40, "squash"),
    )
    row = images[0]
    assert row["image"].shape == (40, 40, 3)
    assert row["image"].dtype == np.uint8
    assert row["points"].dtype == np.float32
    np.testing.assert_allclose(row["points"], [[-1, -1], [0, 0], [np.nan, np.nan]], atol=1e-6)
    assert row["visible"].tolist() == [True, False, False]
    np.testing.assert_allclose(row["box"], [-1, 0, 1, 1], atol=1e-6)
    assert (row["identity"], row["label"]) == (4, 2)
    assert "frame" not in row
    assert images.identity.tolist() == [4]
    np.testing.assert_allclose(
        images.placement(0).to_original(row["points"][:2]), [[-0.5, -0.5], [19.5, 14.5]], atol=1e-5
    )


def test_points_that_a_crop_cuts_off_are_not_visible(tmp_path):
    path = save(tmp_path / "a.png", 60, 20)
    points = np.array([[[30.0, 10], [2, 10], [-3, 10]]])
    known = {"points": points, "visible": np.ones((1, 3), dtype=bool)}
    images = ImageTable(table(path, **known), Preprocess(20, "crop"))
    # The third was outside the image already: that is the annotator's decision.
    assert images[0]["visible"].tolist() == [True, False, True]


def test_a_corrupt_image_is_named(five):
    images = ImageTable(table(*five), Preprocess(16))
    assert images[0]["image"].max() == 10
    with pytest.raises(DataError, match=r"1\.png.*not a readable image.*on_corrupt: skip"):
        images[1]
    with pytest.raises(DataError, match=r"3\.png.*too small \(7 x 30 pixels\)"):
        images[3]


@pytest.mark.parametrize("cache_bytes", [0, 1000, 10**6])
def test_corrupt_images_are_skipped_named_and_counted(five, cache_bytes, caplog):
    names = np.array([5, 6, 7, 8, 9])
    images = ImageTable(table(*five, identity=names), Preprocess(16, "squash"), cache_bytes, "skip")
    assert len(images) == 3
    assert [Path(skipped.image).name for skipped in images.skipped] == ["1.png", "3.png"]
    assert "too small" in images.skipped[1].reason
    assert images.identity.tolist() == [5, 7, 9]
    for _ in range(2):  # from the file, then perhaps from the memory
        assert [images[i]["image"].max() for i in range(3)] == [10, 30, 50]
    assert caplog.text.count("skipped:") == 2


def test_if_all_are_corrupt_nothing_is_left(five):
    with pytest.raises(DataError, match="all 2 images are unusable"):
        ImageTable(table(five[1], five[3]), Preprocess(16), on_corrupt="skip")


def test_a_table_may_be_empty():
    assert len(ImageTable(table(), Preprocess(16), 10**6, "skip")) == 0


def test_rows_from_the_memory_may_be_changed_by_their_owner(five):
    images = ImageTable(table(five[0]), Preprocess(16, "squash"), 10**6)
    images[0]["image"][:] = 0
    assert images[0]["image"].max() == 10
    five[0].unlink()
    assert images[0]["image"].max() == 10


def test_a_table_may_be_sent_to_another_process(five):
    images = ImageTable(table(*five), Preprocess(16, "squash"), 10**6, "skip")
    other = pickle.loads(pickle.dumps(images))
    assert [other[i]["image"].max() for i in range(3)] == [10, 30, 50]
    assert other.skipped == images.skipped


def test_corrupt_video_frames_are_skipped(tmp_path):
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (32, 32))
    for i in range(5):
        writer.write(np.full((32, 32, 3), 40 * i, np.uint8))
    writer.release()
    frames = np.array([4, 0, 9, 2])  # there is no frame 9
    rows = SplitTable((path,) * 4, frames, np.zeros((4, 2), dtype=np.int64))
    images = ImageTable(rows, Preprocess(16), 10**6, "skip")
    assert [round(images[i]["image"].mean() / 40) for i in range(3)] == [4, 0, 2]
    assert images.skipped[0].image == f"{path}, frame 9"
    preloaded = ImageTable(rows.take([0, 1, 3]), Preprocess(16), 10**6, preload=True)
    path.unlink()
    assert [round(preloaded[i]["image"].mean() / 40) for i in range(3)] == [4, 0, 2]


# --- the check of the annotation -----------------------------------------------------------------


def annotated(path, point, **known):
    points = np.array([[point, [5, 5], [np.nan, np.nan]]], dtype=float)
    return table(path, points=points, visible=~np.isnan(points).any(axis=2), **known)


def test_points_a_little_outside_are_kept_and_counted(tmp_path, caplog):
    path = save(tmp_path / "a.png")
    with caplog.at_level(logging.WARNING):
        check_annotation(annotated(path, [39, 29]))
        assert not caplog.text
        check_annotation(annotated(path, [45, -3]))
    assert "1 annotated points in 1 images lie outside their image, by up to 5.5" in caplog.text


@pytest.mark.parametrize("point", [[70, 5], [5, -20], [5, 60]])
def test_points_far_outside_are_an_error_that_names_the_image(tmp_path, point):
    path = save(tmp_path / "a.png")
    with pytest.raises(
        DataError, match=r"a\.png: an annotated point .* lies far outside"
    ) as caught:
        check_annotation(annotated(path, point))
    assert "40 x 30 pixels" in str(caught.value)
    assert "swapped" in str(caught.value)


def test_an_image_of_another_size_than_the_annotated_one_is_an_error(tmp_path):
    path = save(tmp_path / "a.png")
    check_annotation(annotated(path, [1, 1], annotated_size=np.array([[40, 30]])))
    check_annotation(annotated(path, [1, 1], annotated_size=np.array([[0, 0]])))
    with pytest.raises(DataError, match=r"a\.png: is 40 x 30 .* annotated at 80 x 60"):
        check_annotation(annotated(path, [1, 1], annotated_size=np.array([[80, 60]])))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp"])
def test_image_size_from_the_header(tmp_path, suffix):
    assert image_size(save(tmp_path / f"a{suffix}", 123, 45)) == (123, 45)


def test_image_size_of_a_jpeg_with_long_headers(tmp_path):
    content = save(tmp_path / "a.jpg", 123, 45).read_bytes()
    profile = b"\xff\xe2" + (60000).to_bytes(2, "big") + bytes(59998)
    (tmp_path / "b.jpg").write_bytes(content[:2] + 3 * profile + content[2:])
    assert image_size(tmp_path / "b.jpg") == (123, 45)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xd8\xff", b"\xff\xd8\xff\xc0\x00\x11\x08", b"\x89PNG"]
)
def test_image_size_of_something_else(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.jpg"):
        image_size(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="cannot be read"):
        image_size(tmp_path / "none.jpg")
