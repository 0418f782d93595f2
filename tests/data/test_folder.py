"""The data set ``folder``: anybody's images and videos."""

import json
import logging
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from landmark_lab.data.annotations import Annotations
from landmark_lab.data.annotations.cat import CAT_NAMES, write_cat
from landmark_lab.data.annotations.coco import write_coco
from landmark_lab.data.annotations.deeplabcut import write_deeplabcut
from landmark_lab.data.annotations.pts import write_pts
from landmark_lab.data.annotations.table import write_table
from landmark_lab.data.augmentation import ColourAugmentation
from landmark_lab.data.preprocess import Preprocess
from landmark_lab.data.sampling import LoaderSettings, training_loader
from landmark_lab.errors import ConfigError, DataError
from landmark_lab.plugin import build
from landmark_lab.roles import ImageData
from landmark_lab_plugins.data.folder import Folder

SMALL = Preprocess(16, "squash")


def save(path, level=100, width=40, height=30):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), level, np.uint8))


def annotate(images, **changes):
    """Two points on each image, at places that tell the image."""
    rows = np.arange(len(images))
    points = np.stack([np.stack([rows, rows + 1], -1), np.stack([rows + 2, rows + 3], -1)], 1)
    values = {"visible": np.ones((len(images), 2), dtype=bool), "names": ("a", "b"), **changes}
    return Annotations(tuple(images), points.astype(float), **values)


@pytest.fixture
def root(tmp_path):
    """Twelve images of four people in a folder of their own."""
    for i in range(12):
        save(tmp_path / "images" / f"{i:02d}.png", level=10 * i + 5)
    return tmp_path


NAMES = [f"{i:02d}.png" for i in range(12)]
PEOPLE = tuple(f"person {i % 4}" for i in range(12))


def levels(images):
    """What was written into the images, to see which they are."""
    return [round((images[i]["image"].mean() - 5) / 10) for i in range(len(images))]


# --- reading -------------------------------------------------------------------------------------


def test_images_without_annotation(root):
    data = Folder(str(root), preprocess=SMALL)
    parts = [levels(data.images(split)) for split in ("train", "val", "test")]
    assert sorted(level for part in parts for level in part) == list(range(12))
    assert [len(part) for part in parts] == [10, 1, 1]
    assert data.provides == frozenset()
    assert data.point_names == ()
    assert set(data.images("train")[0]) == {"image"}


def test_a_pattern_and_no_drawn_splits(root):
    data = Folder(
        str(root), pattern="images/0*.png", val_fraction=0, test_fraction=0, preprocess=SMALL
    )
    assert levels(data.images("train")) == list(range(10))
    assert len(data.images("val")) == 0


def write_any(kind, root, annotations):
    """Write annotations in one of the formats; returns what the configuration says."""
    if kind == "coco":
        write_coco(annotations, root / "points.json")
        return "points.json"
    if kind == "deeplabcut":
        write_deeplabcut(annotations, root / "points.csv")
        return "points.csv"
    if kind == "table":
        write_table(annotations, root / "points.csv")
        return "points.csv"
    write_pts(annotations, root / "images")
    return "images"


@pytest.mark.parametrize("kind", ["coco", "deeplabcut", "table", "pts"])
def test_every_format(root, kind):
    given = write_any(kind, root, annotate(NAMES))
    data = Folder(str(root), given, val_fraction=0, test_fraction=0, preprocess=SMALL)
    images = data.images("train")
    assert levels(images) == list(range(12))
    assert {"points", "visible"} <= data.provides
    for i in range(12):
        pixels = images.placement(i).to_original(images[i]["points"])
        np.testing.assert_allclose(pixels, [[i, i + 1], [i + 2, i + 3]], atol=1e-4)
        assert images[i]["visible"].all()


def test_cat_files(tmp_path):
    points = np.arange(18.0).reshape(1, 9, 2)
    annotations = Annotations(("CAT_00/a.jpg",), points, np.ones((1, 9), dtype=bool), CAT_NAMES)
    save(tmp_path / "CAT_00" / "a.jpg")
    write_cat(annotations, tmp_path)
    data = Folder(str(tmp_path), ".", val_fraction=0, test_fraction=0, preprocess=SMALL)
    assert data.normaliser == (0, 1)
    assert len(data.images("train")) == 1


def test_splits_given_by_files(root):
    for split, names in (("train", NAMES[:6]), ("val", NAMES[6:8]), ("test", NAMES[8:])):
        write_coco(annotate(names), root / f"{split}.json")
    files = {split: f"{split}.json" for split in ("train", "val", "test")}
    data = Folder(str(root), files, preprocess=SMALL)
    assert levels(data.images("train")) == [0, 1, 2, 3, 4, 5]
    assert levels(data.images("val")) == [6, 7]
    assert levels(data.images("test")) == [8, 9, 10, 11]


def test_without_a_file_for_training_all_other_images_are_trained_on(root):
    write_coco(annotate(NAMES[8:], frame=np.arange(4)), root / "test.json")
    data = Folder(str(root), {"test": "test.json"}, preprocess=SMALL)
    train = data.images("train")
    assert levels(train) == list(range(8))
    assert np.isnan(train[0]["points"]).all()
    assert not train[0]["visible"].any()
    assert train[0]["frame"] == -1
    assert len(data.images("val")) == 0


def test_splits_drawn_by_individual(root):
    write_coco(annotate(NAMES, identity=PEOPLE), root / "points.json")
    given = {"annotations": "points.json", "preprocess": SMALL, "val_fraction": 0.25}
    data = Folder(str(root), test_fraction=0.25, **given)
    people = [set(data.images(split).identity.tolist()) for split in ("train", "val", "test")]
    assert [len(found) for found in people] == [2, 1, 1]
    assert len(set.union(*people)) == 4
    drawn = {
        tuple(levels(Folder(str(root), split_seed=seed, **given).images("test")))
        for seed in range(8)
    }
    assert len(drawn) > 1
    again = Folder(str(root), test_fraction=0.25, **given)
    assert levels(again.images("test")) == levels(data.images("test"))


def test_splits_drawn_by_clip_if_there_are_enough(root):
    films = ["a", "b", "c"]
    for i, name in enumerate(NAMES):
        save(root / "labeled-data" / films[i % 3] / name, level=10 * i + 5)
    names = [f"labeled-data/{films[i % 3]}/{name}" for i, name in enumerate(NAMES)]
    write_deeplabcut(annotate(names), root / "points.csv")
    data = Folder(str(root), "points.csv", preprocess=SMALL)
    for split in ("train", "val", "test"):
        images = data.images(split)
        assert len(images) == 4
        assert len(set(images.identity.tolist())) == 1
        assert images[0]["frame"] == levels(images)[0]


def test_videos_are_read_as_frames(tmp_path):
    for film in ("a.avi", "b.avi"):
        writer = cv2.VideoWriter(
            str(tmp_path / film), cv2.VideoWriter_fourcc(*"MJPG"), 25, (32, 32)
        )
        for i in range(10):
            writer.write(np.full((32, 32, 3), 10 * i + 5, np.uint8))
        writer.release()
    save(tmp_path / "still.png")
    data = Folder(str(tmp_path), every=4, val_fraction=0, test_fraction=0, preprocess=SMALL)
    images = data.images("train")
    assert levels(images)[:6] == [0, 4, 8, 0, 4, 8]
    assert [images[i]["frame"] for i in range(7)] == [0, 4, 8, 0, 4, 8, -1]
    codes = images.identity.tolist()
    assert codes[:3] == [codes[0]] * 3
    assert len(set(codes)) == 3


def test_flip_and_normaliser_from_the_configuration(root):
    write_table(annotate(NAMES), root / "points.csv")
    data = Folder(str(root), "points.csv", flip=(1, 0), normaliser=("b", 0), preprocess=SMALL)
    assert data.flip == (1, 0)
    assert data.normaliser == (1, 0)
    data.check_annotation()


def test_from_a_configuration_and_back(root):
    write_coco(annotate(NAMES), root / "points.json")
    spec = {
        "name": "folder",
        "root": str(root),
        "annotations": {"train": "points.json", "test": "points.json"},
        "preprocess": {"size": 16, "fit": "crop", "fill": [1, 2, 3]},
        "normaliser": ["a", 1],
        "flip": [1, 0],
    }
    data = build(ImageData, spec)
    assert data.size == 16
    assert data.preprocess == Preprocess(16, "crop", fill=(1, 2, 3))
    assert json.loads(json.dumps(data.spec)) == data.spec
    assert build(ImageData, data.spec).spec == data.spec
    with pytest.raises(ConfigError, match=r"preprocess\.siz"):
        build(ImageData, {**spec, "preprocess": {"siz": 16}})


def test_boxes_are_cropped(root):
    box = np.tile([9.5, 4.5, 19.5, 14.5], (12, 1))
    write_coco(annotate(NAMES, box=box), root / "points.json")
    crop = Preprocess(16, "crop", box_margin=0.0)
    data = Folder(str(root), "points.json", preprocess=crop)
    np.testing.assert_allclose(data.images("train")[0]["box"], [-1, -1, 1, 1], atol=1e-6)
    write_table(annotate(NAMES), root / "points.csv")
    with pytest.raises(ConfigError, match="no boxes to crop"):
        Folder(str(root), "points.csv", preprocess=crop)


# --- loading -------------------------------------------------------------------------------------


def test_batches_do_not_depend_on_workers_or_memory(root):
    write_coco(annotate(NAMES), root / "points.json")

    def batches(workers, cache_mb):
        data = Folder(str(root), "points.json", val_fraction=0, preprocess=SMALL, cache_mb=cache_mb)
        settings = LoaderSettings(4, workers, ColourAugmentation(gamma=0.5, noise=0.1))
        loader = training_loader(
            data.images("train"), lambda images, i, draw: (i,), settings, 0, 0, 1, lambda _: (1, 0)
        )
        return [batch.members[0] for batch in loader]

    expected = batches(0, 0)
    for workers, cache_mb in ((0, 1), (2, 0), (2, 1)):
        for first, second in zip(expected, batches(workers, cache_mb), strict=True):
            assert first.index.tolist() == second.index.tolist()
            assert (first.image == second.image).all()
            assert (first.points == second.points).all()


def test_images_can_be_sent_to_another_process(root):
    images = Folder(str(root), preprocess=SMALL).images("train")
    assert levels(pickle.loads(pickle.dumps(images))) == levels(images)


def test_corrupt_images_are_raised_or_skipped(root):
    save(root / "images" / "03.png", width=5)
    (root / "images" / "07.png").write_bytes(b"nothing")
    write_coco(annotate(NAMES), root / "points.json")
    files = {"train": "points.json"}
    with pytest.raises(DataError, match=r"07\.png"):
        Folder(str(root), files, preprocess=SMALL).images("train")
    data = Folder(str(root), files, preprocess=SMALL, on_corrupt="skip")
    assert levels(data.images("train")) == [0, 1, 2, 4, 5, 6, 8, 9, 10, 11]
    skipped = data.skipped["train"]
    assert [Path(image).name for image, _ in skipped] == ["03.png", "07.png"]


# --- bad input -----------------------------------------------------------------------------------


def test_a_missing_folder():
    with pytest.raises(DataError, match=r"no/such: there is no such folder; set data\.root"):
        Folder("no/such")


def test_zero_images(tmp_path):
    (tmp_path / "notes.txt").touch()
    save(tmp_path / ".hidden.png")
    with pytest.raises(DataError, match=r"no image matches '\*\*/\*'.*\.png"):
        Folder(str(tmp_path))
    (tmp_path / "empty.csv").write_text("image,a_x,a_y\n")
    with pytest.raises(DataError, match=r"empty\.csv: names no images"):
        Folder(str(tmp_path), "empty.csv")


def test_an_annotation_file_of_the_wrong_kind(root):
    (root / "points.json").write_text('{"a": 1}')
    with pytest.raises(DataError, match=r"points\.json: holds no annotations: it looks like JSON"):
        Folder(str(root), "points.json")
    with pytest.raises(DataError, match=r"none\.json.* cannot be read"):
        Folder(str(root), "none.json")


def test_an_annotation_that_names_a_missing_image(root):
    write_coco(annotate([*NAMES, "gone.png"]), root / "points.json")
    with pytest.raises(DataError, match=r"points\.json: names 1 of 13 .* first: 'gone\.png'.*set"):
        Folder(str(root), "points.json")


def test_points_outside(root, caplog):
    annotations = annotate(NAMES)
    annotations.points[3, 1] = (42, 5)
    write_coco(annotations, root / "points.json")
    with caplog.at_level(logging.WARNING):
        Folder(str(root), {"train": "points.json"}, preprocess=SMALL).images("train")
    assert "1 annotated points in 1 images lie outside" in caplog.text
    annotations.points[3, 1] = (420, 5)
    write_coco(annotations, root / "points.json")
    with pytest.raises(DataError, match=r"03\.png: an annotated point \(420, 5\) lies far outside"):
        Folder(str(root), {"train": "points.json"}, preprocess=SMALL).images("train")


def test_a_permutation_that_is_not_an_involution(root):
    three = {"names": ("a", "b", "c"), "visible": np.ones((12, 3), dtype=bool)}
    points = np.ones((12, 3, 2))
    write_coco(Annotations(tuple(NAMES), points, **three), root / "points.json")
    content = json.loads((root / "points.json").read_text())
    content["categories"][0]["flip_indices"] = [1, 2, 0]
    (root / "points.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"points\.json: .*permutation.*involution"):
        Folder(str(root), "points.json")
    write_table(Annotations(tuple(NAMES), points, **three), root / "points.csv")
    with pytest.raises(DataError, match=r"data\.flip: .*involution"):
        Folder(str(root), "points.csv", flip=(1, 2, 0))


def test_contradicting_parameters(root):
    write_table(annotate(NAMES), root / "points.csv")
    with pytest.raises(ConfigError, match=r"data\.normaliser: .*'nose'.*allowed: a, b"):
        Folder(str(root), "points.csv", normaliser=("a", "nose"))
    with pytest.raises(ConfigError, match="there is no point 2; allowed: 0 to 1"):
        Folder(str(root), "points.csv", normaliser=(0, 2))
    with pytest.raises(ConfigError, match="leave nothing"):
        Folder(str(root), val_fraction=0.5, test_fraction=0.5)
    with pytest.raises(ConfigError, match="every must be at least 1"):
        Folder(str(root), every=0)


def test_too_few_individuals(root):
    write_coco(annotate(NAMES, identity=("ann", "bob") * 6), root / "points.json")
    with pytest.raises(
        DataError, match=r"by individuals: 2 groups cannot fill 3 splits.*val_fraction"
    ):
        Folder(str(root), "points.json")


def test_splits_that_share_images_or_people_are_told(root, caplog):
    write_coco(annotate(NAMES[:8], identity=PEOPLE[:8]), root / "a.json")
    write_coco(annotate(NAMES[7:], identity=PEOPLE[7:]), root / "b.json")
    with caplog.at_level(logging.WARNING):
        Folder(str(root), {"train": "a.json", "test": "b.json"}, preprocess=SMALL)
    assert "'train' and 'test' share 1 images and 4 individuals" in caplog.text
