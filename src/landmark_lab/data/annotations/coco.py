"""COCO keypoints JSON.

Beyond the published keys, a category may carry ``flip_indices`` (the left-right permutation,
counted from 0) and ``normalise_by`` (the pair of points that normalises an error, counted from 0);
an image or an annotation may carry ``identity``, ``clip``, ``frame`` and ``label``.

Convention: COCO keypoints count pixels from 0 at the centre of the top-left pixel, which is ours.
COCO boxes ``[x, y, width, height]`` are measured from the outer corner of the top-left pixel, so
0.5 is subtracted from their corners. Skeleton pairs count points from 1.
Visibility: 0 = not annotated, 1 = annotated but hidden, 2 = annotated and seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark_lab.data.annotations.common import Annotations, posix
from landmark_lab.errors import DataError
from landmark_lab.files import read_json, write_json


def read_coco(path: str | Path) -> Annotations:
    """Read a COCO keypoints file: one row an annotation, in the order of the file.

    Images without an annotation follow with all points missing; crowd annotations are left out.

    Raises:
        DataError: the file is not COCO keypoints JSON, or contradicts itself.
    """
    where = str(path)
    content = read_json(path)
    if not isinstance(content, Mapping) or not all(
        isinstance(content.get(key), list) for key in ("images", "annotations", "categories")
    ):
        raise DataError(
            "is not a COCO file",
            where=where,
            allowed="a JSON object with the lists 'images', 'annotations' and 'categories'",
        )
    category = _category(content["categories"], where)
    names = tuple(_text(name, f"{where}: keypoints") for name in category["keypoints"])

    images: dict[Any, Mapping[str, Any]] = {}
    for image in content["images"]:
        key = _get(image, "id", f"{where}: an image")
        if not isinstance(key, (int, str)) or key in images:
            raise DataError(f"image id {key!r} is unusable or occurs twice", where=where)
        images[key] = image
    rows: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = []
    for annotation in content["annotations"]:
        if _get(annotation, "category_id", f"{where}: an annotation") != category.get("id"):
            continue
        key = _get(annotation, "image_id", f"{where}: an annotation")
        if not isinstance(key, (int, str)) or key not in images:
            raise DataError(
                f"an annotation names image id {key!r}, which is not there", where=where
            )
        if not annotation.get("iscrowd"):
            rows.append((images[key], annotation))
    annotated = {id(image) for image, _ in rows}
    rows += [(image, {}) for image in images.values() if id(image) not in annotated]

    points = np.full((len(rows), len(names), 2), np.nan)
    visible = np.zeros((len(rows), len(names)), dtype=bool)
    box = np.full((len(rows), 4), np.nan)
    size = np.zeros((len(rows), 2), dtype=np.int64)
    files: list[str] = []
    for row, (image, annotation) in enumerate(rows):
        file_name = _text(_get(image, "file_name", f"{where}: an image"), where)
        files.append(posix(file_name))
        here = f"{where}: image '{file_name}'"
        if "keypoints" in annotation:
            values = _numbers(annotation["keypoints"], 3 * len(names), f"{here}: keypoints")
            known = values.reshape(-1, 3)[:, 2] > 0
            points[row, known] = values.reshape(-1, 3)[known, :2]
            visible[row] = values.reshape(-1, 3)[:, 2] > 1
        if annotation.get("bbox") is not None:
            x, y, width, height = _numbers(annotation["bbox"], 4, f"{here}: bbox")
            if width > 0 and height > 0:
                box[row] = (x - 0.5, y - 0.5, x + width - 0.5, y + height - 0.5)
        for axis, key in enumerate(("width", "height")):
            size[row, axis] = _whole(image.get(key, 0), f"{here}: {key}")

    def extra(key: str) -> list[Any] | None:
        values = [annotation.get(key, image.get(key)) for image, annotation in rows]
        return None if all(value is None for value in values) else values

    def texts(key: str) -> tuple[str, ...] | None:
        values = extra(key)
        return values and tuple("" if value is None else str(value) for value in values)  # type: ignore[return-value]

    def numbers(key: str) -> NDArray[np.int64] | None:
        values = extra(key)
        if values is None:
            return None
        return np.array(
            [-1 if value is None else _whole(value, f"{where}: {key}") for value in values],
            dtype=np.int64,
        )

    return Annotations(
        images=tuple(files),
        points=points,
        visible=visible,
        names=names,
        flip=_indices(category.get("flip_indices"), len(names), 0, f"{where}: flip_indices"),
        normalise_by=_pair(category.get("normalise_by"), 0, f"{where}: normalise_by"),
        skeleton=tuple(
            pair
            for item in category.get("skeleton") or ()
            if (pair := _pair(item, 1, f"{where}: skeleton")) is not None
        ),
        box=None if np.isnan(box).all() else box,
        size=size if size.any() else None,
        identity=texts("identity"),
        clip=texts("clip"),
        frame=numbers("frame"),
        label=numbers("label"),
        source=where,
    )


def write_coco(annotations: Annotations, path: str | Path, category: str = "object") -> None:
    """Write COCO keypoints JSON that :func:`read_coco` reads back unchanged.

    Args:
        annotations: what to write.
        path: the file.
        category: name of the one category.
    """
    images: dict[str, dict[str, Any]] = {}
    items: list[dict[str, Any]] = []
    extras = [_extras(annotations, row) for row in range(len(annotations))]
    shared: dict[str, bool] = {}
    first = {name: row for row, name in reversed(list(enumerate(annotations.images)))}
    for row, name in enumerate(annotations.images):
        shared[name] = shared.get(name, True) and extras[row] == extras[first[name]]
    for row, name in enumerate(annotations.images):
        if name not in images:
            images[name] = {"id": len(images) + 1, "file_name": name}
            if annotations.size is not None and annotations.size[row].all():
                width, height = (int(value) for value in annotations.size[row])
                images[name] |= {"width": width, "height": height}
            if shared[name]:
                images[name] |= extras[row]
        image = images[name]
        known = annotations.known[row]
        item: dict[str, Any] = {
            "id": row + 1,
            "image_id": image["id"],
            "category_id": 1,
            "keypoints": [
                value
                for k, (x, y) in enumerate(annotations.points[row].tolist())
                for value in (
                    (x, y, 1 + int(annotations.visible[row, k])) if known[k] else (0, 0, 0)
                )
            ],
            "num_keypoints": int(known.sum()),
            "iscrowd": 0,
        }
        if annotations.box is not None and not np.isnan(annotations.box[row]).any():
            x0, y0, x1, y1 = annotations.box[row].tolist()
            item["bbox"] = [x0 + 0.5, y0 + 0.5, x1 - x0, y1 - y0]
            item["area"] = (x1 - x0) * (y1 - y0)
        if not shared[name]:  # objects of one image that differ, e.g. two people
            item |= extras[row]
        items.append(item)
    shape: dict[str, Any] = {
        "id": 1,
        "name": category,
        "keypoints": list(annotations.names),
        "skeleton": [[i + 1, j + 1] for i, j in annotations.skeleton],
    }
    if annotations.flip is not None:
        shape["flip_indices"] = list(annotations.flip)
    if annotations.normalise_by is not None:
        shape["normalise_by"] = list(annotations.normalise_by)
    write_json(path, {"images": list(images.values()), "annotations": items, "categories": [shape]})


def _extras(annotations: Annotations, row: int) -> dict[str, Any]:
    """The known ones of the keys that this laboratory adds to an image."""
    extras: dict[str, Any] = {}
    for key, unknown in (("identity", ""), ("clip", ""), ("frame", -1), ("label", -1)):
        values = getattr(annotations, key)
        if values is not None and values[row] != unknown:
            extras[key] = values[row] if isinstance(values[row], str) else int(values[row])
    return extras


def _category(categories: list[Any], where: str) -> Mapping[str, Any]:
    usable = [c for c in categories if isinstance(c, Mapping) and c.get("keypoints")]
    if len(usable) != 1:
        named = ", ".join(str(c.get("name")) for c in usable)
        raise DataError(
            f"has {len(usable)} categories with keypoints ({named})"
            if usable
            else "is a COCO file without keypoints (boxes or masks only)",
            where=where,
            allowed="one category with a list 'keypoints'",
        )
    if not isinstance(usable[0]["keypoints"], list):
        raise DataError("the category's 'keypoints' is not a list of names", where=where)
    return usable[0]


def _get(item: Any, key: str, where: str) -> Any:
    if not isinstance(item, Mapping) or key not in item:
        raise DataError(f"has no '{key}'", where=where)
    return item[key]


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise DataError(f"{value!r} is not a name", where=where)
    return value


def _whole(value: Any, where: str) -> int:
    if not _is_number(value) or value != int(value):
        raise DataError(f"{value!r} is not a whole number", where=where)
    return int(value)


def _numbers(values: Any, count: int, where: str) -> NDArray[np.float64]:
    if not isinstance(values, list) or len(values) != count or not all(map(_is_number, values)):
        got = f"{len(values)} values" if isinstance(values, list) else repr(values)
        raise DataError(f"has {got}", where=where, allowed=f"a list of {count} finite numbers")
    return np.array(values, dtype=np.float64)


def _is_number(value: Any) -> bool:
    """Whether it is a number that a pixel coordinate, a count or an index can be."""
    # JSON as Python reads it also has NaN, Infinity and whole numbers of any length.
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    return numeric and abs(value) < 2**53


def _indices(values: Any, count: int, first: int, where: str) -> tuple[int, ...] | None:
    if values is None:
        return None
    if not isinstance(values, list) or len(values) != count:
        raise DataError("is not usable", where=where, allowed=f"a list of {count} whole numbers")
    return tuple(_whole(value, where) - first for value in values)


def _pair(values: Any, first: int, where: str) -> tuple[int, int] | None:
    found = _indices(values, 2, first, where)
    return None if found is None else (found[0], found[1])
