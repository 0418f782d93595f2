"""Three hundred damaged images, annotation files and videos: each is named, or read as it should.

What counts as garbage that must not be taken silently: an image, film or annotation that ends too
early, an image whose checksums are wrong, anything that is not what its reader is for. What no
reader can tell is allowed: changed pixels in formats without checksums, a table that was cut off
between two rows or within its last number.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from landmark_lab.config import read as read_experiment
from landmark_lab.data.annotations import Annotations, read
from landmark_lab.data.annotations.cat import CAT_NAMES, write_cat
from landmark_lab.data.annotations.coco import write_coco
from landmark_lab.data.annotations.deeplabcut import write_deeplabcut
from landmark_lab.data.annotations.pts import write_pts
from landmark_lab.data.annotations.table import write_table
from landmark_lab.data.images import ImageTable, SplitTable
from landmark_lab.data.preprocess import Preprocess
from landmark_lab.data.video import VideoReader, frame_count
from landmark_lab.errors import DataError
from landmark_lab.experiment import run
from landmark_lab.files import read_image
from landmark_lab.inference.inputs import find_sources, frames
from landmark_lab_plugins.data.folder import Folder

Image = NDArray[np.uint8]


def drawn(width: int = 40, height: int = 32) -> Image:
    """A smooth picture in colours."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 6 % 256, y * 7 % 256, (x + y) * 3 % 256], axis=-1).astype(np.uint8)


def encoded(suffix: str, picture: Image | None = None, *settings: int) -> bytes:
    good, content = cv2.imencode(suffix, drawn() if picture is None else picture, settings)
    assert good
    return bytes(content)


FORMATS: dict[str, bytes] = {
    "jpg": encoded(".jpg"),
    "progressive.jpg": encoded(".jpg", None, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "png": encoded(".png"),
    "bmp": encoded(".bmp"),
    "tif": encoded(".tif"),
    "plain.tif": encoded(".tif", None, cv2.IMWRITE_TIFF_COMPRESSION, 1),
    "webp": encoded(".webp"),
    "lossy.webp": encoded(".webp", None, cv2.IMWRITE_WEBP_QUALITY, 80),
}


def png(width: int, height: int, pixels: bytes = b"") -> bytes:
    """A PNG that says what it likes about its size, with right checksums."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def cut_images() -> Iterator[tuple[str, bytes]]:
    """Every format, ended too early at ten places."""
    for name, content in FORMATS.items():
        for tenth in range(10):
            yield f"cut{tenth}.{name}", content[: (len(content) - 1) * tenth // 10 + tenth // 9]


def other_images() -> Iterator[tuple[str, bytes]]:
    """What is no image, lies about its size or is too small."""
    rng = np.random.default_rng(0)
    for kind in ("png", "jpg", "tif", "webp"):
        yield f"text.{kind}", b"<html><body>404 not found</body></html>"
        yield f"random.{kind}", rng.bytes(700)
    yield "bomb.png", png(60000, 60000, bytes(100_000))
    yield "wide.png", png(2**31 - 1, 1)
    yield "negative.png", png(2**32 - 1, 2**32 - 1)
    yield "empty.png", png(0, 0)
    yield "few_rows.png", png(40, 32, bytes(500))
    yield "huge.bmp", FORMATS["bmp"][:18] + struct.pack("<ii", 60000, 60000) + FORMATS["bmp"][26:]
    yield "tall.bmp", FORMATS["bmp"][:18] + struct.pack("<ii", 40, 2**31 - 1) + FORMATS["bmp"][26:]
    size = FORMATS["jpg"].index(b"\xff\xc0") + 5
    yield "large.jpg", FORMATS["jpg"][:size] + b"\xff\xff\xff\xff" + FORMATS["jpg"][size + 4 :]
    yield "headless.jpg", FORMATS["jpg"][20:]
    yield "pixel.png", encoded(".png", drawn(1, 1))
    yield "line.png", encoded(".png", drawn(300, 7))
    yield "video.png", b"\x00\x00\x00\x20ftypisom" + bytes(100)


def flipped_pngs() -> Iterator[tuple[str, bytes]]:
    """A byte of a PNG changed anywhere."""
    rng = np.random.default_rng(1)
    for number in range(30):
        content = bytearray(FORMATS["png"])
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        yield f"flipped{number}.png", bytes(content)


REFUSED = [*cut_images(), *other_images(), *flipped_pngs()]


def write_all(folder: Path, files: list[tuple[str, bytes]]) -> list[Path]:
    paths = [folder / name for name, _ in files]
    for path, (_, content) in zip(paths, files, strict=True):
        path.write_bytes(content)
    return paths


def table_of(paths: list[Path]) -> ImageTable:
    sizes = np.zeros((len(paths), 2), dtype=np.int64)
    table = SplitTable(tuple(paths), np.full(len(paths), -1), sizes)
    return ImageTable(table, Preprocess(size=16))


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_all(tmp_path_factory.mktemp("refused"), REFUSED)


def test_a_damaged_image_is_named_when_it_is_met(refused: list[Path]) -> None:
    images = table_of(refused)
    for row, path in enumerate(refused):
        with pytest.raises(DataError, match="on_corrupt: skip") as caught:
            images[row]
        assert str(path) in str(caught.value)


def test_damaged_images_are_skipped_and_listed(refused: list[Path], tmp_path: Path) -> None:
    write_all(tmp_path, [(path.name, path.read_bytes()) for path in refused])
    good = write_all(tmp_path, [(f"good.{name}", content) for name, content in FORMATS.items()])
    data = Folder(str(tmp_path), val_fraction=0, test_fraction=0, on_corrupt="skip")
    assert sorted(data.images("train").table.files) == sorted(good)
    listed = {name for name, reason in data.skipped["train"] if name in reason}
    assert listed == {str(tmp_path / path.name) for path in refused}


def test_prediction_leaves_damaged_images_out_and_names_them(refused: list[Path]) -> None:
    problems: list[str] = []
    assert not list(frames(find_sources([str(refused[0].parent)]), 1, problems.append))
    assert len(problems) == len(refused)
    assert all(any(str(path) in problem for problem in problems) for path in refused)


@pytest.mark.parametrize("kind", [name for name in FORMATS if name != "png"])
def test_a_changed_byte_without_checksum_is_refused_or_gives_pixels(
    kind: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(2)
    path = tmp_path / f"x.{kind}"
    for _ in range(10):
        content = bytearray(FORMATS[kind])
        content[rng.integers(len(content))] = rng.integers(256)
        path.write_bytes(content)
        try:
            image = read_image(path)
        except DataError as error:
            assert str(path) in str(error)  # noqa: PT017 - either outcome is right
        else:
            assert image.dtype == np.uint8
            assert image.ndim == 3


# --- unusual, but right --------------------------------------------------------------------------

ALPHA = np.dstack([drawn(), np.full(drawn().shape[:2], 9, np.uint8)])
UNUSUAL: dict[str, tuple[bytes, float]] = {
    "grey.png": (encoded(".png", drawn()[:, :, 0]), 0),
    "grey.jpg": (encoded(".jpg", drawn()[:, :, 0]), 255),
    "alpha.png": (encoded(".png", ALPHA), 0),
    "deep.png": (encoded(".png", drawn().astype(np.uint16) * 257), 0),
    "deep.tif": (encoded(".tif", drawn().astype(np.uint16) * 257), 0),
    "wrong_name.png": (FORMATS["bmp"], 0),
    "wrong_name.jpg": (FORMATS["png"], 0),
    "followed.jpg": (FORMATS["jpg"] + b"something else", 255),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_images_are_read_as_rgb(name: str, tmp_path: Path) -> None:
    """Grey, transparent, of 16 bits, under a wrong name."""
    content, tolerance = UNUSUAL[name]
    path = tmp_path / name
    path.write_bytes(content)
    expected = drawn()[:, :, ::-1]
    if name.startswith("grey"):
        expected = np.repeat(drawn()[:, :, :1], 3, axis=2)
    found = read_image(path)
    assert found.shape == expected.shape
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - expected).max() <= tolerance
    if tolerance:
        assert np.abs(found.astype(int) - expected).mean() < 12


def test_the_orientation_of_the_camera_is_ignored(tmp_path: Path) -> None:
    """Annotations refer to the stored pixels."""
    turned = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01"
    turned += b"\x00\x06\x00\x00\x00\x00\x00\x00"
    segment = b"\xff\xe1" + struct.pack(">H", len(turned) + 2) + turned
    path = tmp_path / "turned.jpg"
    path.write_bytes(FORMATS["jpg"][:2] + segment + FORMATS["jpg"][2:])
    shown = cv2.imread(str(path))
    assert shown is not None
    assert shown.shape == (40, 32, 3)  # it really says so
    assert read_image(path).shape == (32, 40, 3)


# --- annotation files ----------------------------------------------------------------------------


def annotated(names: tuple[str, ...]) -> Annotations:
    count = len(names)
    points = np.arange(3 * count * 2, dtype=float).reshape(3, count, 2) * 1.25 + 3
    images = ("a.png", "b.png", "c.png")
    return Annotations(images, points, np.ones((3, count), dtype=bool), names)


def one(annotations: Annotations) -> Annotations:
    return annotations.take([0])


WRITERS: dict[str, tuple[Annotations, Callable[[Annotations, Path], object], str]] = {
    "coco": (annotated(("nose", "tail")), lambda a, f: write_coco(a, f / "x.json"), "x.json"),
    "deeplabcut": (
        annotated(("nose", "tail")), lambda a, f: write_deeplabcut(a, f / "x.csv"), "x.csv"
    ),
    "table": (annotated(("nose", "tail")), lambda a, f: write_table(a, f / "x.csv"), "x.csv"),
    "pts": (one(annotated(("point_00", "point_01"))), write_pts, "a.pts"),
    "cat": (one(annotated(CAT_NAMES)), write_cat, "a.png.cat"),
}  # fmt: skip
REPLACED = ["nan", "inf", "1e999", "1_0", "0x10", "--3", "x", "'", '"', ";", "\x00", "NaN,", "é"]


def written(kind: str, folder: Path) -> tuple[Path, Annotations, bytes]:
    original, write, name = WRITERS[kind]
    for image in original.images:
        (folder / image).write_bytes(FORMATS["png"])
    write(original, folder)
    return folder / name, original, (folder / name).read_bytes()


def outcome(path: Path) -> Annotations | None:
    """The annotations, or None if the file was refused by name."""
    try:
        return read(path)
    except DataError as error:
        assert str(path) in str(error)  # noqa: PT017 - either outcome is right
        return None


@pytest.mark.parametrize("kind", WRITERS)
def test_an_annotation_file_that_ends_early_gives_no_wrong_point(kind: str, tmp_path: Path) -> None:
    """But for the very last number, where a text file may end at any digit."""
    path, original, content = written(kind, tmp_path)
    refused = 0
    for end in np.linspace(0, len(content) - 2, 14).astype(int):
        path.write_bytes(content[:end])
        found = outcome(path)
        if found is None:
            refused += 1
            continue
        assert found.names == original.names
        same = found.points == original.points[: len(found)]
        assert same.ravel()[:-1].all()
    assert refused >= (6 if kind == "table" else 10)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_damaged_annotation_file_is_named_or_consistent(kind: str, tmp_path: Path) -> None:
    """A word replaced by something that is no number, doubled or left out."""
    path, original, content = written(kind, tmp_path)
    rng = np.random.default_rng(3)
    for number in range(len(REPLACED)):
        at = int(rng.integers(len(content) // 3, len(content)))
        length = int(rng.integers(1, 4))
        path.write_bytes(content[:at] + REPLACED[number].encode() + content[at + length :])
        found = outcome(path)
        if found is not None:
            assert found.points.shape == (len(found), len(found.names), 2)
            assert not np.isinf(found.points).any()
            assert len(found) <= len(original)


def test_annotations_in_another_encoding_are_refused(tmp_path: Path) -> None:
    for kind in WRITERS:
        folder = tmp_path / kind
        folder.mkdir()
        path, _, content = written(kind, folder)
        for encoding in ("utf-16", "utf-32", "cp037"):
            path.write_bytes(content.decode().encode(encoding))
            assert outcome(path) is None, (kind, encoding)


# --- videos --------------------------------------------------------------------------------------


def film(path: Path, codec: str, count: int = 12) -> bytes:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10, (48, 32))
    if not writer.isOpened():
        pytest.skip(f"this OpenCV writes no {codec}")
    for number in range(count):
        writer.write(np.full((32, 48, 3), number * 20, dtype=np.uint8))
    writer.release()
    return path.read_bytes()


@pytest.mark.parametrize(("suffix", "codec"), [("avi", "MJPG"), ("mp4", "mp4v")])
def test_a_film_that_ends_early_gives_the_frames_before_and_is_named(
    suffix: str, codec: str, tmp_path: Path
) -> None:
    path = tmp_path / f"film.{suffix}"
    content = film(path, codec)
    for eighth in range(8):
        path.write_bytes(content[: len(content) * eighth // 8])
        problems: list[str] = []
        found = list(frames(find_sources([str(path)]), 1, problems.append))
        for frame in found:
            assert abs(int(frame.image.mean()) - frame.number * 20) < 10
        assert len(problems) == 1 or (not problems and len(found) == frame_count(path))
        assert all(str(path) in problem for problem in problems)
        assert not problems or len(found) < 12


@pytest.mark.parametrize(
    "content",
    [b"", b"no film", bytes(5000), FORMATS["png"], FORMATS["jpg"], b"RIFF\x00\x00\x00\x00AVI LIST"],
    ids=["empty", "text", "zeros", "png", "jpg", "riff"],
)
def test_what_is_no_film_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        VideoReader().read(path, frame_count(path))
    assert str(path) in str(caught.value)
    with pytest.raises(DataError) as caught:
        Folder(str(tmp_path)).images("train")
    assert str(path) in str(caught.value)


def test_a_film_without_frames_is_named(tmp_path: Path) -> None:
    path = tmp_path / "film.avi"
    film(path, "MJPG", count=0)
    with pytest.raises(DataError) as caught:
        Folder(str(tmp_path))
    assert str(path) in str(caught.value)


# --- before the training -------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_damaged_image_is_found_before_the_training(split: str, tmp_path: Path) -> None:
    """Not hours later, when the trained method is to be validated or evaluated."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for kind in ("train", "val", "test"):
        names = [f"{kind}{number}.png" for number in range(4)]
        write_all(pictures, [(name, FORMATS["png"]) for name in names])
        points = np.full((4, 2, 2), 12.0) + np.arange(4)[:, None, None]
        points[:, 1] += 8
        known = np.ones((4, 2), dtype=bool)
        write_table(Annotations(tuple(names), points, known, ("a", "b")), pictures / f"{kind}.csv")
    bad = pictures / f"{split}2.png"
    bad.write_bytes(FORMATS["png"][:-40])
    path = tmp_path / "small.yaml"
    path.write_text(
        f"data: {{name: folder, root: {pictures}, preprocess: {{size: 32}}, normaliser: [a, b],\n"
        "  annotations: {train: train.csv, val: val.csv, test: test.csv}}\n"
        "pairing: synthetic\nloader: {batch_size: 2}\nmethod: {name: factorized, landmarks: 4}\n"
        "trainer: {max_steps: 1, accelerator: cpu}\nevaluate: [forward_nme]\n"
    )
    with pytest.raises(DataError, match="1 of 4 images are unusable") as caught:
        run(read_experiment(path), tmp_path / "runs")
    assert str(bad) in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_only_as_many_images_as_are_needed_are_looked_at(tmp_path: Path) -> None:
    paths = write_all(tmp_path, [(f"{number}.png", FORMATS["png"]) for number in range(4)])
    paths[3].write_bytes(b"")
    images = table_of(paths)
    images.check_readable(3)
    with pytest.raises(DataError, match=r"1 of 4 images are unusable.*3\.png.*on_corrupt: skip"):
        images.check_readable()
