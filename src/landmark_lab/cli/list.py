"""landmark-lab list"""

import fnmatch
from typing import Annotated

import typer

from landmark_lab.cli.options import PluginOption, load_plugins
from landmark_lab.errors import ConfigError, LandmarkLabError


def list_plugins(
    role: Annotated[
        str | None,
        typer.Argument(metavar="ROLE", help="backbone, data, method, ...", show_default=False),
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Argument(
            metavar="PATTERN", help="A part of the names, or with * and ?.", show_default=False
        ),
    ] = None,
    plugin: PluginOption = None,
) -> None:
    """List the plugins and their settings.

    Each with its types and defaults, and where it is defined.

    Example: landmark-lab list backbone 'hour*'
    """
    load_plugins(plugin)

    from landmark_lab.plugin import Plugin, available, definition, failures, roles, summary

    known = roles()
    if role is not None and role not in known and pattern is None and set(role) & set("*?["):
        role, pattern = None, role
    if role is not None and role not in known:
        raise ConfigError(f"there is no role '{role}'", got=role, allowed=known)
    shown = 0
    for name, kind in known.items():
        if role not in (None, name):
            continue
        found: dict[str, type[Plugin]] = {
            key: cls for key, cls in available(kind).items() if _matches(key, pattern)
        }
        for number, (key, cls) in enumerate(found.items()):
            if number == 0:
                typer.secho(f"{name}: {summary(kind)}", bold=True)
            typer.secho(f"  {key}", fg=typer.colors.CYAN, nl=False)
            typer.echo(f"  {summary(cls)}")
            _print_parameters(cls)
            typer.secho(f"      in {definition(cls)}", dim=True)
        shown += len(found)
    for failure in failures():
        typer.secho(f"warning: failed to load: {failure}", fg=typer.colors.YELLOW, err=True)
    if shown == 0:
        wanted = " ".join(["plugin", *([f"of role '{role}'"] if role else [])])
        raise ConfigError(
            f"there is no {wanted}" + (f" like '{pattern}'" if pattern else ""),
            allowed=available(known[role]) if role else known,
        )


def _matches(name: str, pattern: str | None) -> bool:
    if pattern is None:
        return True
    has_wildcard = bool(set(pattern) & set("*?["))
    return fnmatch.fnmatchcase(name, pattern if has_wildcard else f"*{pattern}*")


def _print_parameters(cls: type) -> None:
    from landmark_lab.plugin import parameters

    try:
        schema = parameters(cls)
    except LandmarkLabError as error:
        typer.secho(f"      warning: {error}", fg=typer.colors.YELLOW)
        return
    for key, parameter in schema.items():
        default = "(required)" if parameter.required else f"= {_text(parameter.plain_default)}"
        typer.echo(f"      {key}: {parameter.type_text} {default}")


def _text(value: object) -> str:
    """A value as one would write it into an experiment file, on one line."""
    import yaml

    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6)
    return text.removesuffix("...\n").strip()
