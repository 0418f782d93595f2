"""Which annotation format a file is in, told from its content, not from its name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from landmark_lab.data.annotations.cat import read_cat
from landmark_lab.data.annotations.coco import read_coco
from landmark_lab.data.annotations.common import Annotations
from landmark_lab.data.annotations.deeplabcut import label_files, read_deeplabcut
from landmark_lab.data.annotations.pts import read_pts
from landmark_lab.data.annotations.table import read_table, separator
from landmark_lab.errors import DataError

FORMATS: Mapping[str, Callable[[str | Path], Annotations]] = {
    "COCO keypoints JSON": read_coco,
    "DeepLabCut CSV": read_deeplabcut,
    ".pts": read_pts,
    "CAT": read_cat,
    "plain CSV": read_table,
}
"""Readers by the name of their format."""

# First bytes of files that are mistaken for annotations.
_SIGNATURES = (
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"BM", "a BMP image"),
    (b"II*\x00", "a TIFF image"),
    (b"MM\x00*", "a TIFF image"),
    (b"\x89HDF", "an HDF5 file (DeepLabCut writes a CSV with the same name beside it)"),
    (b"MATLAB", "a MATLAB file"),
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"%PDF", "a PDF document"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x80", "a pickle"),
    (b"<", "XML or HTML"),
)


def read(path: str | Path) -> Annotations:
    """Read annotations in any of the formats: a file, or a folder of ``.pts``, CAT or DeepLabCut.

    Raises:
        DataError: the file is missing or of another kind (the message says what it looks like), or
            its reader refused it.
    """
    return FORMATS[recognise(path)](path)


def recognise(path: str | Path) -> str:
    """The name of the format of a file or folder.

    Raises:
        DataError: it is none of :data:`FORMATS`; the message says what it looks like.
    """
    found, looks_like = _look(Path(path))
    if found is None:
        raise DataError(f"holds no annotations: it looks like {looks_like}", where=str(path),
                        allowed=FORMATS)  # fmt: skip
    return found


def _look(path: Path) -> tuple[str | None, str]:
    """The format, or None; and what the file looks like."""
    if path.is_dir():
        return _look_in_folder(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"annotation file cannot be read ({error.strerror})", where=str(path)
        ) from error
    for signature, name in _SIGNATURES:
        if content.startswith(signature):
            return None, name
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None, "a binary file"
    if not text.strip():
        return None, "an empty file"
    if text.lstrip()[0] in "{[":
        return _look_at_json(text)
    first, _, rest = text.lstrip().partition("\n")
    cells = [cell.strip().strip('"') for cell in first.split(separator(first))]
    if re.match(r"version\s*:", first):
        return ".pts", ""
    if cells[0] == "scorer" and (rest.startswith(("bodyparts", "individuals"))):
        return "DeepLabCut CSV", ""
    if "image" in cells:
        return "plain CSV", ""
    if re.fullmatch(r"[\s\d.eE+-]+", text):
        numbers = text.split()
        if len(numbers) % 2 and numbers[0] == str(len(numbers) // 2):
            return "CAT", ""
        return None, "a table of numbers without a header"
    if len(cells) > 1:
        shown = ", ".join(cells[:4]) + (", ..." if len(cells) > 4 else "")
        return None, f"a table without a column 'image' (its first row is: {shown[:100]})"
    return None, f"text that begins with '{first.strip()[:40]}'"


def _look_at_json(text: str) -> tuple[str | None, str]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        return None, f"damaged JSON ({error})"
    if isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys():
        return "COCO keypoints JSON", ""
    if isinstance(content, list):
        first = content[0] if content else None
        if isinstance(first, dict) and "keypoints" in first:
            return None, "COCO results (predictions), which name neither points nor images"
        return None, "a JSON list"
    keys = ", ".join(list(content)[:5])
    if isinstance(content, dict) and "shapes" in content:
        return None, f"a LabelMe file of one image (its keys are: {keys})"
    return None, f"JSON of another kind (its keys are: {keys[:100]})"


def _look_in_folder(path: Path) -> tuple[str | None, str]:
    kinds = {
        "CAT": any(path.rglob("*.cat")),
        ".pts": any(path.rglob("*.pts")),
        "DeepLabCut CSV": bool(label_files(path)),
    }
    found = [name for name, present in kinds.items() if present]
    if len(found) == 1:
        return found[0], ""
    if found:
        return None, f"a folder with annotations in several formats ({', '.join(found)})"
    return None, "a folder without .pts, .cat or CollectedData*.csv files"
