"""Readers of annotations: what one wrote, the other reads; anything else is refused by name.

Beside ``tests/data/test_annotations.py``, where each format is tested by itself: names in any
script, conversions from one format into another, what ``predict`` writes, and files of any bytes.
"""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st
from numpy.typing import NDArray

from landmark_lab.data.annotations import Annotations, read
from landmark_lab.data.annotations.cat import read_cat
from landmark_lab.data.annotations.coco import read_coco, write_coco
from landmark_lab.data.annotations.deeplabcut import read_deeplabcut, write_deeplabcut
from landmark_lab.data.annotations.pts import read_pts
from landmark_lab.data.annotations.table import read_table, write_table
from landmark_lab.errors import DataError
from landmark_lab.inference.inputs import Frame, Source
from landmark_lab.inference.tables import TABLES

BOUNDED = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

# Any script, quotes, separators; but neither control characters nor what belongs to paths.
LETTERS = st.characters(exclude_categories=["C", "Z"], exclude_characters="/\\:\0")
NAME = st.text(LETTERS, min_size=1, max_size=8).filter(lambda text: not text.startswith("."))
POINT_NAME = NAME.filter(lambda text: text.lower() not in ("box", "nan"))
PIXEL = st.floats(-100, 5000, allow_nan=False).map(lambda value: round(value, 3) + 0.0)

WRITERS: dict[str, tuple[Callable[..., None], Callable[[Path], Annotations], str]] = {
    "coco": (write_coco, read_coco, "x.json"),
    "deeplabcut": (write_deeplabcut, read_deeplabcut, "x.csv"),
    "table": (write_table, read_table, "x.csv"),
}


@st.composite
def annotations(draw: st.DrawFn) -> Annotations:
    """Points with names in any script on images with names in any script, some missing."""
    names = tuple(draw(st.lists(POINT_NAME, min_size=1, max_size=5, unique=True)))
    stems = draw(st.lists(NAME, min_size=1, max_size=5, unique=True))
    shape = (len(stems), len(names))
    count = len(stems) * len(names)
    cells = st.none() | st.tuples(PIXEL, PIXEL)
    values = draw(st.lists(cells, min_size=count, max_size=count))
    points = np.array([cell or (np.nan, np.nan) for cell in values], dtype=float)
    points = points.reshape(*shape, 2)
    images = tuple(f"{stem}.png" for stem in stems)
    return Annotations(images, points, ~np.isnan(points).any(axis=2), names)


@pytest.mark.parametrize("kind", WRITERS)
@BOUNDED
@given(written=annotations())
def test_what_is_written_is_recognised_and_read(
    kind: str, written: Annotations, tmp_path: Path
) -> None:
    write, reader, name = WRITERS[kind]
    write(written, tmp_path / name)
    for found in (reader(tmp_path / name), read(tmp_path / name)):
        assert found.images == written.images
        assert found.names == written.names
        np.testing.assert_array_equal(found.points, written.points)
        np.testing.assert_array_equal(found.visible, written.visible)


@BOUNDED
@given(written=annotations(), path=st.permutations(list(WRITERS)))
def test_points_survive_a_way_through_all_formats(
    written: Annotations, path: list[str], tmp_path: Path
) -> None:
    found = written
    for kind in path:
        write, reader, name = WRITERS[kind]
        write(found, tmp_path / name)
        found = reader(tmp_path / name)
    assert (found.images, found.names) == (written.images, written.names)
    np.testing.assert_array_equal(found.points, written.points)


# --- what predict writes -------------------------------------------------------------------------


def predicted(written: Annotations, folder: Path, kind: str) -> None:
    """Write annotations as if a method had found them."""
    with TABLES[kind](folder, written.names, ()) as add:
        for image, points in zip(written.images, written.points, strict=True):
            pixels: NDArray[np.uint8] = np.zeros((16, 16, 3), dtype=np.uint8)
            score = (~np.isnan(points).any(axis=1)).astype(np.float64)
            add(Frame(Source(Path(image)), -1, pixels), points, score)


@pytest.mark.parametrize(
    ("kind", "name"), [("coco", "coco.json"), ("deeplabcut", "deeplabcut.csv")]
)
@BOUNDED
@given(written=annotations())
def test_predictions_are_read_as_annotations(
    kind: str, name: str, written: Annotations, tmp_path: Path
) -> None:
    """So that they can be corrected by hand and used."""
    predicted(written, tmp_path, kind)
    found = read(tmp_path / name)
    assert (found.images, found.names) == (written.images, written.names)
    np.testing.assert_array_equal(found.points, written.points)


@BOUNDED
@given(written=annotations())
def test_the_tidy_table_of_predictions_holds_every_point(
    written: Annotations, tmp_path: Path
) -> None:
    predicted(written, tmp_path, "csv")
    with (tmp_path / "points.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["file"] for row in rows] == [i for i in written.images for _ in written.names]
    assert [row["point"] for row in rows] == list(written.names) * len(written)
    pairs = [[float(row[axis] or "nan") for axis in "xy"] for row in rows]
    np.testing.assert_array_equal(np.array(pairs), written.points.reshape(-1, 2))


# --- anything at all -----------------------------------------------------------------------------

READERS: dict[str, Callable[[Path], Annotations]] = {
    "any": read,
    "coco": read_coco,
    "deeplabcut": read_deeplabcut,
    "table": read_table,
    "pts": read_pts,
    "cat": read_cat,
}


def read_or_refused(reader: Callable[[Path], Annotations], path: Path) -> None:
    try:
        found = reader(path)
    except DataError as error:
        assert str(path) in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert found.points.shape == (len(found), len(found.names), 2)
        assert not np.isinf(found.points).any()


@pytest.mark.parametrize("kind", READERS)
@BOUNDED
@given(content=st.binary(max_size=200))
@example(content=b"")
@example(content=b"\xef\xbb\xbf")
@example(content=b"\xff\xfe\x00")
def test_any_bytes_are_read_or_refused(kind: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    read_or_refused(READERS[kind], path)


HEADS = {
    "table": [
        *("image,a_x,a_y", "image;a_x;a_y;box_x0;box_y0;box_x1;box_y1", "image\tx0\ty0\tframe"),
    ],
    "deeplabcut": [
        "scorer,s,s\nbodyparts,a,a\ncoords,x,y",
        "scorer,,,s,s\nbodyparts,,,a,a\ncoords,,,x,y",
    ],
    "pts": ["version: 1\nn_points: 1\n{", "version: 1\nn_points: 99999999999999999999\n{"],
    "cat": ["9", "9 " + "1 " * 17],
}  # fmt: skip
CELL = st.one_of(
    st.sampled_from(
        ["", "nan", "inf", "-1", "1e400", "1_0", '"', "'", "0x1", "9" * 400, "}", "\r"]
    ),
    st.floats().map(repr),
    st.integers().map(str),
    st.text(max_size=4),
)


@pytest.mark.parametrize("kind", HEADS)
@BOUNDED
@given(data=st.data())
def test_any_rows_below_a_right_header_are_read_or_refused(
    kind: str, data: st.DataObject, tmp_path: Path
) -> None:
    head = data.draw(st.sampled_from(HEADS[kind]))
    mark = next((mark for mark in ";\t," if mark in head), " ")
    rows = data.draw(st.lists(st.lists(CELL, max_size=7).map(mark.join), max_size=4))
    path = tmp_path / "x"
    path.write_bytes("\n".join([head, *rows]).encode("utf-8", "surrogatepass"))
    read_or_refused(READERS[kind], path)
    read_or_refused(read, path)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@BOUNDED
@given(
    images=st.lists(
        st.fixed_dictionaries(
            {"id": st.integers(0, 3) | ANYTHING, "file_name": st.text(max_size=5) | ANYTHING},
            optional={"width": ANYTHING, "height": ANYTHING, "frame": ANYTHING, "clip": ANYTHING},
        ),
        max_size=3,
    ),
    annotations_=st.lists(
        st.fixed_dictionaries(
            {"image_id": st.integers(0, 3) | ANYTHING, "category_id": st.just(1) | ANYTHING},
            optional={"keypoints": st.lists(st.floats(0, 99), min_size=3, max_size=3) | ANYTHING,
                      "bbox": ANYTHING, "iscrowd": ANYTHING, "label": ANYTHING},
        )
        | ANYTHING,
        max_size=3,
    ),
    category=st.fixed_dictionaries(
        {"id": st.just(1) | ANYTHING, "keypoints": st.just(["a"]) | ANYTHING},
        optional={"skeleton": ANYTHING, "flip_indices": ANYTHING, "normalise_by": ANYTHING},
    ),
)  # fmt: skip
def test_any_coco_is_read_or_refused(
    images: list[object], annotations_: list[object], category: object, tmp_path: Path
) -> None:
    path = tmp_path / "x.json"
    content = {"images": images, "annotations": annotations_, "categories": [category]}
    path.write_text(json.dumps(content), encoding="utf-8")
    read_or_refused(read_coco, path)
    read_or_refused(read, path)


ENDLESS = {
    "brackets": "[" * 100_000,
    "objects": '{"a":' * 100_000,
    "closed": "[" * 100_000 + "]" * 100_000,
    "digits": '{"images": [' + "9" * 5000 + '], "annotations": [], "categories": []}',
    "an open quotation mark": 'image,a_x,a_y\na.png,1,2\n"b.png,' + "1,2\n" * 60_000,
    "an open quotation mark in labels": (
        'scorer,s,s\nbodyparts,a,a\ncoords,x,y\n"a.png,' + "1,2\n" * 60_000
    ),
    "a header": "image," + "x" * 200_000,
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_what_never_ends_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text(ENDLESS[kind])
    for reader in READERS.values():
        with pytest.raises(DataError) as caught:
            reader(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("value", ["1.5", "1e300", "-9e18"])
def test_a_frame_that_is_no_whole_number_is_refused(value: str, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(f"image,a_x,a_y,frame\na.png,1,2,{value}\n")
    with pytest.raises(DataError, match=r"x\.csv: row 2: frame .* is not a whole number"):
        read(path)
