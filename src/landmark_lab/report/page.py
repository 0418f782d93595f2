"""A page from its sections; the only file that imports Jinja2.

The page is one file: styles, script, charts and pictures are inside. Its own content policy forbids
any request, so that a report shows the same everywhere and tells nobody that it was opened.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from importlib import resources

from landmark_lab import __version__
from landmark_lab.figures import point_colour
from landmark_lab.report.blocks import Cell, Legend, Mark, Section
from landmark_lab.report.headline import Tile


def render(
    title: str,
    summary: str,
    tiles: Sequence[Tile],
    missing: Sequence[str],
    sections: Sequence[Section],
) -> str:
    """The text of the page, UTF-8 HTML.

    Args:
        title: of the page.
        summary: one line below it.
        tiles: the numbers at the top.
        missing: what could not be shown, as sentences.
        sections: in the order of the page.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    own = resources.files(__package__)
    style, script, page = (
        (own / name).read_text(encoding="utf-8") for name in ("page.css", "page.js", "page.html")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    # Of all that stands in a page only these are not escaped: the package's own files, and charts,
    # whose texts matplotlib has escaped.
    environment.filters["own"] = Markup
    text = environment.from_string(page).render(
        title=title,
        summary=summary,
        tiles=tiles,
        missing=missing,
        sections=sections,
        colours=["#{:02x}{:02x}{:02x}".format(*point_colour(k)) for k in range(_numbers(sections))],
        version=__version__,
        style=style,
        script=script,
        script_hash=f"sha256-{digest}",
    )
    return text.lstrip()


def _numbers(part: object) -> int:
    """How many numbers, and so colours, the landmarks and points of a part of the page have."""
    if isinstance(part, Mark | Cell):
        return 0 if part.landmark is None else part.landmark + 1
    if isinstance(part, Legend):
        return max(part.landmarks, default=-1) + 1
    if is_dataclass(part):
        part = [getattr(part, one.name) for one in fields(part)]
    if isinstance(part, Sequence) and not isinstance(part, str):
        return max(map(_numbers, part), default=0)
    return 0
