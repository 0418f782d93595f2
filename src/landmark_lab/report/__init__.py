"""``report.html``: what a run was, what it found, and how far it can be trusted, in one file.

``write_report`` reads a run folder (see ``context.py``), asks every function of
``sections/__init__.py`` for its section, and puts them on one page (``page.py``).
"""

from collections.abc import Callable
from pathlib import Path

from pytorch_lightning.utilities import rank_zero_warn

from landmark_lab.errors import LandmarkLabError
from landmark_lab.files import write_text
from landmark_lab.report.blocks import Section, Text
from landmark_lab.report.context import Context
from landmark_lab.report.headline import tiles
from landmark_lab.report.page import render
from landmark_lab.report.sections import SECTIONS

NAME = "report.html"


def write_report(run: Path, out: Path | None = None) -> Path:
    """Write the report of a run, finished or not.

    What is not there (results of an unfinished run, images that were moved away) is left out, and
    the page says so.

    Args:
        run: the run folder.
        out: the file; ``report.html`` in the run folder by default.

    Returns:
        The file.

    Raises:
        RunError: it is no run folder, or the file cannot be written.
        ConfigError: the run's configuration is damaged.
    """
    context = Context(run)
    experiment = context.experiment
    sections = [section for make in SECTIONS if (section := _section(make, context)) is not None]
    name = f"{experiment.name} · {experiment.row}" if experiment.row else experiment.name
    page = render(
        title=f"{name} · {run.resolve().name}",
        summary=experiment.summary,
        tiles=[*tiles(context)],
        missing=context.missing,
        sections=sections,
    )
    path = run / NAME if out is None else out
    write_text(path, page)
    return path


def try_report(run: Path) -> None:
    """Write the report of a run that is over; a failure must not cost the run and is a warning."""
    try:
        write_report(run)
    except Exception as error:
        rank_zero_warn(f"the report could not be written ({type(error).__name__}: {error})")


def _section(make: Callable[[Context], Section | None], context: Context) -> Section | None:
    """A section, or what it failed with: one that fails must not cost the others."""
    try:
        return make(context)
    except LandmarkLabError as error:
        problem = str(error)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        rank_zero_warn(f"the report could not be written in full: '{make.__name__}': {problem}")
    title = make.__name__.replace("_", " ").capitalize()
    return Section(f"no-{make.__name__}", title, "", [Text(f"Not shown: {problem}", "warn")])


__all__ = ["NAME", "try_report", "write_report"]
