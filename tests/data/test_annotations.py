"""Readers and writers of annotation files."""

import csv
import json
import string
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from landmark_lab.data.annotations import Annotations, read, recognise
from landmark_lab.data.annotations.cat import CAT_FLIP, CAT_NAMES, read_cat, write_cat
from landmark_lab.data.annotations.coco import read_coco, write_coco
from landmark_lab.data.annotations.common import concatenate
from landmark_lab.data.annotations.deeplabcut import read_deeplabcut, write_deeplabcut
from landmark_lab.data.annotations.locate import locate
from landmark_lab.data.annotations.pts import IBUG_FLIP, read_pts, write_pts
from landmark_lab.data.annotations.table import read_table, write_table
from landmark_lab.errors import DataError

QUICK = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
WORD = st.text(string.ascii_letters + "äß-. ", min_size=1, max_size=8).filter(
    lambda text: text == text.strip() and not text.startswith(".")
)
PIXEL = st.floats(-500, 5000, allow_nan=False) | st.integers(-500, 5000).map(float)


def example(**changes):
    """Three images with two points: both known, one hidden, one missing."""
    values = {
        "images": ("a.png", "b/c.png", "b/d.png"),
        "points": np.array([[[1.5, 2], [3, 4]], [[5, 6], [7, 8.25]], [[9, 10], [np.nan] * 2]]),
        "visible": np.array([[True, True], [True, False], [True, False]]),
        "names": ("nose", "tail"),
    }
    return Annotations(**{**values, **changes})


@st.composite
def annotations(draw, points=None, missing=True, hidden=True, extras=True):
    """Any annotations that a format may hold."""
    names = tuple(points or draw(st.lists(WORD, min_size=1, max_size=4, unique=True)))
    stems = draw(st.lists(WORD, min_size=1, max_size=4, unique_by=str.lower))
    rows, shape = len(stems), (len(stems), len(names))
    values = draw(st.lists(PIXEL, min_size=2 * rows * len(names), max_size=2 * rows * len(names)))
    flags = st.lists(st.booleans(), min_size=rows * len(names), max_size=rows * len(names))
    coordinates = np.array(values).reshape(*shape, 2)
    if missing:
        coordinates[np.array(draw(flags)).reshape(shape)] = np.nan
    visible = ~np.isnan(coordinates).any(axis=2)
    if hidden:
        visible &= np.array(draw(flags)).reshape(shape)
    more = {}
    if extras and draw(st.booleans()):
        box = draw(st.lists(PIXEL, min_size=4 * rows, max_size=4 * rows))
        corners = np.sort(np.array(box).reshape(rows, 2, 2), axis=1)
        more["box"] = (corners + np.array([[0, 0], [1, 1]])).reshape(rows, 4)
        some = st.integers(0, 10**9)
        more["frame"] = np.array(draw(st.lists(some, min_size=rows, max_size=rows)))
        more["label"] = more["frame"] // 2
        more["identity"] = tuple(draw(st.lists(WORD, min_size=rows, max_size=rows)))
        more["clip"] = tuple(reversed(more["identity"]))
    folder = draw(st.sampled_from(["", "images/", "a/b/"]))
    images = tuple(f"{folder}{stem}{i}.png" for i, stem in enumerate(stems))
    return Annotations(images, coordinates, visible, names, **more)


def same(first, second, *, but=()):
    """Whether two annotations say the same."""
    for name in ("images", "names", "flip", "normalise_by", "skeleton", "identity", "clip"):
        if name not in but:
            assert getattr(first, name) == getattr(second, name), name
    for name in ("points", "visible", "box", "size", "frame", "label"):
        left, right = getattr(first, name), getattr(second, name)
        if name in but:
            continue
        if left is None or right is None:
            assert left is right, name
        else:
            # Formats that count from elsewhere add and subtract, which rounds.
            np.testing.assert_allclose(left, right, rtol=0, atol=1e-9, err_msg=name)
    return True


# --- what is read is what was written ------------------------------------------------------------


@QUICK
@given(annotations())
def test_coco_round_trip(tmp_path, written):
    write_coco(written, tmp_path / "x.json")
    same(read_coco(tmp_path / "x.json"), written)


def test_coco_keeps_everything(tmp_path):
    written = example(
        flip=(1, 0),
        normalise_by=(0, 1),
        skeleton=((0, 1),),
        box=np.array([[0, 0, 9, 9], [np.nan] * 4, [1.5, 2, 3, 4]]),
        size=np.array([[640, 480], [0, 0], [64, 32]]),
        identity=("ann", "", "bob"),
        clip=("", "1", "2"),
        frame=np.array([3, -1, 0]),
        label=np.array([-1, 2, 0]),
    )
    write_coco(written, tmp_path / "x.json")
    same(read_coco(tmp_path / "x.json"), written)


def test_coco_keeps_two_objects_of_one_image_apart(tmp_path):
    written = example(images=("a.png", "a.png", "b.png"), identity=("ann", "", "bob"))
    write_coco(written, tmp_path / "x.json")
    same(read_coco(tmp_path / "x.json"), written)
    assert "identity" not in json.loads((tmp_path / "x.json").read_text())["images"][0]


@QUICK
@given(annotations(hidden=False, extras=False))
def test_deeplabcut_round_trip(tmp_path, written):
    write_deeplabcut(written, tmp_path / "x.csv")
    same(read_deeplabcut(tmp_path / "x.csv"), written, but=("clip", "frame"))


@QUICK
@given(annotations())
def test_table_round_trip(tmp_path, written):
    write_table(written, tmp_path / "x.csv")
    same(read_table(tmp_path / "x.csv"), written)


@QUICK
@given(annotations(points=[f"point_{i:02d}" for i in range(5)], missing=False, hidden=False,
                   extras=False))  # fmt: skip
def test_pts_round_trip(tmp_path_factory, written):
    folder = tmp_path_factory.mktemp("pts")
    written = written.take(sorted(range(len(written)), key=lambda row: written.images[row]))
    for image in written.images:
        (folder / image).parent.mkdir(parents=True, exist_ok=True)
        (folder / image).touch()
    write_pts(written, folder)
    found = read_pts(folder)
    order = [found.images.index(image) for image in written.images]
    same(found.take(order), written)


@QUICK
@given(annotations(points=CAT_NAMES, missing=False, hidden=False, extras=False))
def test_cat_round_trip(tmp_path_factory, written):
    folder = tmp_path_factory.mktemp("cat")
    write_cat(written, folder)
    found = read_cat(folder)
    order = [found.images.index(image) for image in written.images]
    same(found.take(order), written, but=("flip", "normalise_by", "skeleton"))


def test_formats_without_missing_points_refuse_to_write_them(tmp_path):
    with pytest.raises(DataError, match="points are missing"):
        write_pts(example(), tmp_path)
    with pytest.raises(DataError, match="exactly nine"):
        write_cat(example(), tmp_path)


# --- any text is read or refused, never anything else --------------------------------------------

LINE = st.text("0123456789.,;-+eE xyabinf{}:\t\"'_", max_size=30)
STARTS = st.sampled_from(
    [
        "",
        "version: 1\nn_points: 2\n{\n",
        "scorer,a,a\nbodyparts,b,b\ncoords,x,y\n",
        "scorer,,,a,a\nbodyparts,,,b,b\ncoords,,,x,y\n",
        "image,a_x,a_y\n",
        "image;x0;y0\n",
        "9 ",
    ]
)


@QUICK
@given(STARTS, st.lists(LINE, max_size=5).map("\n".join))
def test_any_text_is_read_or_refused(tmp_path, start, rest):
    path = tmp_path / "x"
    path.write_text(start + rest)
    for reader in (read, read_pts, read_cat, read_table, read_deeplabcut, read_coco):
        try:
            result = reader(path)
        except DataError as error:
            assert str(path) in str(error)  # noqa: PT017 - either outcome is right
        else:
            assert result.points.shape == (len(result), len(result.names), 2)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@QUICK
@given(st.data())
def test_any_change_of_a_coco_file_is_read_or_refused(tmp_path, data):
    write_coco(example(flip=(1, 0), normalise_by=(0, 1), skeleton=((0, 1),)), tmp_path / "x.json")
    content = json.loads((tmp_path / "x.json").read_text())
    place = content
    while isinstance(place, (dict, list)) and place:
        keys = sorted(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(list(keys)))
        if not isinstance(place[key], (dict, list)) or data.draw(st.booleans()):
            place[key] = data.draw(JSON)
            break
        place = place[key]
    (tmp_path / "x.json").write_text(json.dumps(content))
    try:
        assert len(read_coco(tmp_path / "x.json").names) > 0
    except DataError as error:
        assert "x.json" in str(error)  # noqa: PT017 - either outcome is right


# --- conventions ---------------------------------------------------------------------------------


def test_pts_counts_from_one(tmp_path):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "a.pts").write_text("version: 1\nn_points:  2\n{\n1 1\n10.5 20\n}")
    found = read(tmp_path / "a.pts")
    assert found.points.tolist() == [[[0, 0], [9.5, 19]]]
    assert found.images == ("a.jpg",)
    assert found.flip is None


def test_pts_of_68_points_are_ibugs(tmp_path):
    (tmp_path / "a.jpg").touch()
    write_pts(
        Annotations(
            ("a.jpg",),
            np.arange(136.0).reshape(1, 68, 2),
            np.ones((1, 68), dtype=bool),
            tuple(f"p{i}" for i in range(68)),
        ),
        tmp_path,
    )
    found = read(tmp_path)
    assert found.flip == IBUG_FLIP
    assert found.normalise_by == (36, 45)


def test_coco_boxes_start_at_the_outer_edge(tmp_path):
    write_coco(example(), tmp_path / "x.json")
    content = json.loads((tmp_path / "x.json").read_text())
    content["annotations"][0]["bbox"] = [0, 0, 10, 20]  # the first 10 x 20 pixels
    (tmp_path / "x.json").write_text(json.dumps(content))
    assert read_coco(tmp_path / "x.json").box[0].tolist() == [-0.5, -0.5, 9.5, 19.5]


def test_coco_visibility(tmp_path):
    write_coco(example(), tmp_path / "x.json")
    keypoints = [
        a["keypoints"] for a in json.loads((tmp_path / "x.json").read_text())["annotations"]
    ]
    assert [k[2::3] for k in keypoints] == [[2, 2], [2, 1], [2, 0]]
    assert keypoints[2][3:] == [0, 0, 0]


def test_coco_leaves_out_crowds_and_other_categories_and_keeps_bare_images(tmp_path):
    write_coco(example(), tmp_path / "x.json")
    content = json.loads((tmp_path / "x.json").read_text())
    content["annotations"][0]["iscrowd"] = 1
    content["annotations"][1]["category_id"] = 7
    content["categories"].append({"id": 7, "name": "boat"})
    (tmp_path / "x.json").write_text(json.dumps(content))
    found = read_coco(tmp_path / "x.json")
    assert found.images == ("b/d.png", "a.png", "b/c.png")
    assert not found.known[1:].any()


def test_deeplabcut_index_in_three_columns_and_from_windows(tmp_path):
    header = "scorer,,,me,me\nbodyparts,,,nose,nose\ncoords,,,x,y\n"
    (tmp_path / "three.csv").write_text(header + "labeled-data,film 1,img07.png,1,2\n")
    written_again = header.replace("scorer,,", "scorer,Unnamed: 1_level_0,Unnamed: 2_level_0", 1)
    written_again = written_again.replace("bodyparts,,", "bodyparts,Unnamed: 1,Unnamed: 2")
    written_again = written_again.replace("coords,,", "coords,Unnamed: 1,Unnamed: 2")
    (tmp_path / "again.csv").write_text(written_again + "labeled-data,film 1,img07.png,1,2\n")
    one = "scorer,me,me\nbodyparts,nose,nose\ncoords,x,y\n"
    (tmp_path / "one.csv").write_text(one + "labeled-data\\film 1\\img07.png,1,2\r\n")
    for name in ("three.csv", "again.csv", "one.csv"):
        found = read(tmp_path / name)
        assert found.images == ("labeled-data/film 1/img07.png",), name
        assert found.clip == ("film 1",)
        assert found.frame.tolist() == [7]
        assert found.points.tolist() == [[[1, 2]]]


def test_deeplabcut_project_with_several_videos(tmp_path):
    for film in ("b", "a"):
        images = (f"labeled-data/{film}/img1.png", f"labeled-data/{film}/img2.png")
        part = example().take([0, 2])
        part = Annotations(images, part.points, part.visible, part.names)
        folder = tmp_path / "labeled-data" / film
        folder.mkdir(parents=True)
        write_deeplabcut(part, folder / "CollectedData_me.csv")
    found = read(tmp_path)
    assert found.clip == ("a", "a", "b", "b")
    assert found.images[2] == "labeled-data/b/img1.png"
    assert np.isnan(found.points[3, 1]).all()


def test_table_with_numbered_points_and_semicolons(tmp_path):
    (tmp_path / "x.csv").write_text("\ufeffimage;x0;y0;x1;y1\na.png;1;2;;\n\nb.png; 3.5;4;5;6\n")
    found = read(tmp_path / "x.csv")
    assert found.names == ("point_0", "point_1")
    assert found.known.tolist() == [[True, False], [True, True]]
    assert found.points[1].tolist() == [[3.5, 4], [5, 6]]


def test_cat_flip_is_an_involution_that_swaps_sides():
    assert [CAT_FLIP[i] for i in CAT_FLIP] == list(range(9))
    for name, other in zip(CAT_NAMES, (CAT_NAMES[i] for i in CAT_FLIP), strict=True):
        assert other == name.translate(str.maketrans({})).replace("left", "?").replace(
            "right", "left"
        ).replace("?", "right")


# --- files of the wrong kind ---------------------------------------------------------------------

WRONG = {
    "image.json": (b"\xff\xd8\xff\xe0", "a JPEG image"),
    "labels.h5": (b"\x89HDF\r\n", "HDF5"),
    "set.mat": (b"MATLAB 5.0", "MATLAB"),
    "voc.xml": (b"<annotation>", "XML"),
    "data.zip": (b"PK\x03\x04", "zip"),
    "empty.csv": (b" \n", "an empty file"),
    "binary": (b"\x00\xfe\xfa", "binary"),
    "labelme.json": (b'{"shapes": []}', "LabelMe"),
    "results.json": (b'[{"keypoints": []}]', "COCO results"),
    "list.json": (b"[1]", "a JSON list"),
    "cut.json": (b'{"images": [', "damaged JSON"),
    "other.json": (b'{"a": 1}', "JSON of another kind"),
    "table.csv": (b"file,x,y\n", "without a column 'image'"),
    "numbers.txt": (b"1 2 3 4\n", "numbers"),
    "notes.txt": (b"hello\n", "text that begins with 'hello'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_of_the_wrong_kind_says_what_it_looks_like(tmp_path, name):
    content, looks_like = WRONG[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=looks_like) as caught:
        read(tmp_path / name)
    assert name in str(caught.value)
    assert "plain CSV" in str(caught.value)


def test_a_missing_file_and_a_folder_without_annotations(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "nothing.json")
    with pytest.raises(DataError, match=r"a folder without \.pts"):
        read(tmp_path)
    (tmp_path / "a.pts").touch()
    (tmp_path / "a.cat").touch()
    with pytest.raises(DataError, match="several formats"):
        read(tmp_path)


def test_content_decides_and_not_the_name(tmp_path):
    write_coco(example(), tmp_path / "x.csv")
    assert recognise(tmp_path / "x.csv") == "COCO keypoints JSON"
    write_table(example(), tmp_path / "x.json")
    assert recognise(tmp_path / "x.json") == "plain CSV"


HEADER = "scorer,s,s\nbodyparts,n,n\ncoords,x,y\n"
BAD = {
    "four header rows": (
        "scorer,s,s\nindividuals,i,i\nbodyparts,n,n\ncoords,x,y\n",
        "several animals",
    ),
    "predictions": (
        "scorer,s,s,s\nbodyparts,n,n,n\ncoords,x,y,likelihood\n",
        "predictions of a network",
    ),
    "two scorers": ("scorer,s,t\nbodyparts,n,n\ncoords,x,y\n", "several scorers"),
    "a body part with one column": ("scorer,s,s\nbodyparts,n,m\ncoords,x,y\n", "header's columns"),
    "a short row": (HEADER + "a.png,1\n", "2 cells instead of 3"),
    "half a point": (HEADER + "a.png,1,\n", "point 'n' of image 'a.png' is not a pair"),
    "a word": (HEADER + "a.png,1,two\n", "'two' is not a number"),
    "an endless number": (HEADER + "a.png,1,inf\n", "'inf' is not a number"),
    "two columns of one name": ("image,a_x,a_y,a_x\n", "two columns 'a_x'"),
    "one axis": ("image,a_x\n", "only one coordinate of point 'a'"),
    "a misspelt column": ("image,a_x,a_y,identiy\n", "'identiy': is not a known column"),
    "half a box": ("image,a_x,a_y,box_x0\n", "part of a box"),
    "odd visibility": ("image,a_x,a_y,a_visible\na.png,1,2,5\n", "is not 0 or 1"),
    "no image name": ("image,a_x,a_y\n,1,2\n", "row 2 names no image"),
    "no points": ("image,label\n", "has no points"),
    "too few points": ("version: 1\nn_points: 3\n{\n1 2\n}\n", "announces 3 points"),
    "a broken pts file": ("version: 1\n{1 2}\n", r"is not a \.pts file"),
}


@pytest.mark.parametrize("kind", BAD)
def test_damaged_text_files_are_refused(tmp_path, kind):
    text, message = BAD[kind]
    (tmp_path / "x.txt").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path / "x.txt")
    assert "x.txt" in str(caught.value)


def test_pts_without_an_image_or_with_two(tmp_path):
    (tmp_path / "a.pts").write_text("version: 1\nn_points: 1\n{\n1 2\n}")
    with pytest.raises(DataError, match="has no image beside it"):
        read(tmp_path)
    (tmp_path / "a.png").touch()
    (tmp_path / "a.JPG").touch()
    with pytest.raises(DataError, match=r"a\.JPG, a\.png"):
        read(tmp_path)


def broken_coco(tmp_path, change):
    write_coco(example(flip=(1, 0), normalise_by=(0, 1)), tmp_path / "x.json")
    content = json.loads((tmp_path / "x.json").read_text())
    change(content)
    (tmp_path / "x.json").write_text(json.dumps(content))
    return tmp_path / "x.json"


COCO_FAULTS = {
    "not an involution": (
        lambda c: (
            c["categories"][0].update(
                keypoints=["a", "b", "c"], flip_indices=[1, 2, 0], normalise_by=None
            )
            or [a.update(keypoints=[1, 1, 2] * 3) for a in c["annotations"]]
        ),
        "involution",
    ),
    "not a permutation": (
        lambda c: c["categories"][0].update(flip_indices=[0, 0]),
        "left-right permutation contains 0 more than once",
    ),
    "flip of another length": (
        lambda c: c["categories"][0].update(flip_indices=[0]),
        "flip_indices",
    ),
    "normaliser beyond": (lambda c: c["categories"][0].update(normalise_by=[0, 9]), r"\(0, 9\)"),
    "too few numbers": (lambda c: c["annotations"][1].update(keypoints=[1, 2]), "c.png.*2 values"),
    "not a number": (
        lambda c: c["annotations"][1].update(keypoints=[float("nan"), 1, 2, 1, 1, 2]),
        "c.png",
    ),
    "unknown image": (lambda c: c["annotations"][0].update(image_id=77), "77"),
    "twice the same id": (lambda c: c["images"][0].update(id=2), "occurs twice"),
    "no file name": (lambda c: c["images"][0].pop("file_name"), "no 'file_name'"),
    "no keypoints": (
        lambda c: c["categories"][0].pop("keypoints"),
        "without keypoints",
    ),
    "two categories": (
        lambda c: c["categories"].append({"id": 2, "name": "b", "keypoints": ["x"]}),
        r"2 categories with keypoints \(object, b\)",
    ),
}


@pytest.mark.parametrize("fault", COCO_FAULTS)
def test_damaged_coco_files_are_refused(tmp_path, fault):
    change, message = COCO_FAULTS[fault]
    path = broken_coco(tmp_path, change)
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert "x.json" in str(caught.value)


# --- putting annotations together ----------------------------------------------------------------


def test_concatenate_fills_what_a_part_does_not_say():
    first = example(box=np.ones((3, 4)), identity=("a", "b", "c"), frame=np.arange(3))
    both = concatenate([first, example()], "both")
    assert len(both) == 6
    assert both.identity == ("a", "b", "c", "", "", "")
    assert both.frame.tolist() == [0, 1, 2, -1, -1, -1]
    assert np.isnan(both.box[3:]).all()


def test_concatenate_refuses_other_points():
    with pytest.raises(DataError, match="other names"):
        concatenate([example(), example(names=("nose", "ear"))], "both")


def test_inconsistent_annotations_are_refused():
    with pytest.raises(DataError, match="missing point is called visible"):
        example(visible=np.ones((3, 2), dtype=bool))
    with pytest.raises(DataError, match="two points are called 'a'"):
        example(names=("a", "a"))
    with pytest.raises(DataError, match="box does not fit"):
        example(box=np.zeros((2, 4)))


def test_locate_drops_leading_folders_but_never_joins_two_images(tmp_path):
    for name in ("film/1.png", "film/2.png", "1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = ["C/project/film/1.png", "C/project/film/2.png"]
    assert locate(names, [tmp_path], "x") == [tmp_path / "film/1.png", tmp_path / "film/2.png"]
    with pytest.raises(DataError, match=r"1 of 2 images that do not exist, the first: 'b/1.png'"):
        locate(["film/1.png", "b/1.png"], [tmp_path], "x")
    assert locate(["1.png"], [tmp_path / "none", tmp_path], "x") == [tmp_path / "1.png"]


def test_written_csv_opens_in_other_readers(tmp_path: Path):
    write_deeplabcut(example(), tmp_path / "x.csv", scorer="me")
    with (tmp_path / "x.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["scorer", "me", "me", "me", "me"]
    assert rows[5] == ["b/d.png", "9", "10", "", ""]
