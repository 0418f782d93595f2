"""Finding the image files that annotations name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from landmark_lab.errors import DataError


def locate(names: Sequence[str], places: Sequence[Path], source: str) -> list[Path]:
    """The files of all names.

    Names may begin with folders that are not there (the path of somebody's project): the same
    number of folders is dropped from every name, as few as possible.

    Args:
        names: relative paths.
        places: folders that the names may be relative to, the likeliest first.
        source: the annotation file, for the message.

    Raises:
        DataError: there is no place where all of them are.
    """
    unique = list(dict.fromkeys(names))
    most, missing = -1, ""
    for dropped in range(min(name.count("/") for name in unique) + 1):
        shortened = {name: "/".join(name.split("/")[dropped:]) for name in unique}
        if len(set(shortened.values())) < len(unique):
            break  # two images would become one
        for place in places:
            absent = [name for name, short in shortened.items() if not (place / short).is_file()]
            if not absent:
                return [place / shortened[name] for name in names]
            if len(unique) - len(absent) > most:
                most, missing = len(unique) - len(absent), absent[0]
    raise DataError(
        f"names {len(unique) - most} of {len(unique)} images that do not exist, "
        f"the first: '{missing}'",
        where=source,
        hint="they were looked for in " + ", ".join(map(str, places)) + "; set the root folder",
    )
