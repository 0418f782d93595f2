"""Plugins: classes that are chosen by name and configured by their constructor's parameters.

A *role* is an abstract class such as ``Backbone``; subclassing it with a name registers a plugin::

    class Backbone(Plugin, nn.Module, role="backbone"): ...

    class Tiny(Backbone, name="tiny"):
        '''A network small enough to read.'''

        def __init__(self, width: int = 8): ...

The constructor is the schema: its parameters, annotations and defaults are the legal keys, types
and default values of the configuration. A parameter annotated with a role is a nested mapping
``{name: ..., ...}`` (or just the name); ``part("tiny", width=4)`` is the way to give it a default.
``check`` walks a configuration and constructs nothing; ``build`` constructs it bottom-up; every
instance remembers its ``spec``, from which an equal instance can be built.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import sys
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar, cast

from landmark_lab import discovery
from landmark_lab.discovery import Failure
from landmark_lab.errors import ConfigError, LandmarkLabError, PluginError
from landmark_lab.schema import (
    Described,
    item_type,
    plain,
    type_text,
    unsupported,
    validated,
    without_none,
)

_ROLES: dict[str, type[Plugin]] = {}

P = TypeVar("P", bound="Plugin")
S = TypeVar("S")


@dataclasses.dataclass(frozen=True)
class Part(Described):
    """The default of a role-annotated parameter; see :func:`part`."""

    name: str
    settings: Mapping[str, Any]

    @property
    def spec(self) -> dict[str, Any]:
        """The part as it would stand in a configuration."""
        return {"name": self.name, **plain(self.settings, self.name)}


def part(name: str, **settings: Any) -> Any:
    """A default for a parameter annotated with a role, built anew for every instance."""
    return Part(name, settings)


def settings(**values: float) -> Mapping[str, float]:
    """A read-only mapping of numbers as a default: its keys are the legal ones, e.g. weights."""
    return MappingProxyType(values)


class Plugin(Described):
    """Base of everything that is chosen by name; see the module's text.

    Class keywords:
        role: makes the class a role of that name, with a registry of its own.
        name: registers the class under that name with its role.

    Raises:
        PluginError: when the class is defined, if it breaks the constructor's rules, has no
            docstring, leaves something of its role out, or its name is taken by another class.
    """

    role: ClassVar[str]
    plugin_name: ClassVar[str]
    registry: ClassVar[dict[str, type[Plugin]]]

    def __init_subclass__(
        cls, *, name: str | None = None, role: str | None = None, **kwargs: Any
    ) -> None:
        super().__init_subclass__(**kwargs)
        if role is not None:
            _open_role(cls, role)
        if "__dataclass_fields__" in vars(cls):
            # dataclass(slots=True) makes the class a second time, from the content of the first
            # one, which it discards.
            if "plugin_name" in vars(cls):
                cls.registry[cls.plugin_name] = cls
            return
        # Otherwise a dataclass gets its constructor after this, unless the class has one already.
        if "__init__" in vars(cls):
            cls.__init__ = _recording(cls.__init__)  # type: ignore[method-assign]
        if name is not None:
            _register(cls, name)

    @property
    def spec(self) -> dict[str, Any]:
        """Name and parameters as plain containers: ``build(role, spec)`` makes an equal one."""
        cls = type(self)
        if "plugin_name" not in vars(cls):
            raise PluginError("has no name, so it has no spec", where=definition(cls))
        if "_spec" in self.__dict__:
            return cast("dict[str, Any]", copy.deepcopy(self.__dict__["_spec"]))
        # Only a dataclass, or a class without any constructor, does not record its arguments.
        values = {key: plain(getattr(self, key), key) for key in parameters(cls)}
        return {"name": cls.plugin_name, **values}


def _open_role(cls: type[Plugin], role: str) -> None:
    taken = _ROLES.get(role)
    if taken is not None and _identity(taken) != _identity(cls):
        raise PluginError(
            f"the role '{role}' is taken by {definition(taken)}", where=definition(cls)
        )
    cls.role, cls.registry = role, {}
    _ROLES[role] = cls


def _register(cls: type[Plugin], name: str) -> None:
    where = definition(cls)
    if not hasattr(cls, "registry"):
        raise PluginError("has a name but no role", where=where)
    if not (vars(cls).get("__doc__") or "").strip() and sys.flags.optimize < 2:
        raise PluginError(
            "has no docstring; its first line is the summary that 'list' prints", where=where
        )
    taken = cls.registry.get(name)
    if taken is not None and _identity(taken) != _identity(cls):
        raise PluginError(
            f"the name '{name}' of role '{cls.role}' is taken by {definition(taken)}",
            where=where,
            hint="choose another name",
        )
    abstract = _left_out(cls)
    if abstract:
        raise PluginError(f"a {cls.role} must define {', '.join(abstract)}", where=where)
    for parameter in parameters(cls).values():
        _check_parameter(parameter, where)
    cls.plugin_name = name
    cls.registry[name] = cls


def _left_out(cls: type) -> list[str]:
    """The abstract methods that a class does not define."""
    members = {key: value for base in reversed(cls.__mro__) for key, value in vars(base).items()}
    return sorted(k for k, v in members.items() if getattr(v, "__isabstractmethod__", False))


# --- the constructor as a schema -----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One legal key of a plugin's configuration."""

    name: str
    annotation: Any
    default: Any  # inspect.Parameter.empty where a value is required

    @property
    def required(self) -> bool:
        """Whether the configuration must give a value."""
        return self.default is inspect.Parameter.empty

    @property
    def type_text(self) -> str:
        """The annotation as one would write it."""
        return type_text(self.annotation)

    @property
    def plain_default(self) -> Any:
        """The default as it would stand in a configuration; not for a required value."""
        return plain(self.default, self.name)


def parameters(cls: type) -> dict[str, Parameter]:
    """The parameters of a plugin or settings class, by name.

    Raises:
        PluginError: the constructor breaks a rule (``*args``, a parameter called ``name``, no
            annotation, an annotation that does not resolve).
    """
    owner = next(base for base in cls.__mro__ if "__init__" in vars(base))
    init = cast("Callable[..., None]", owner.__init__)  # type: ignore[misc]
    where = definition(cls)
    if "__dataclass_fields__" in vars(owner) and not hasattr(init, "__wrapped__"):
        fields = _field_parameters(owner)
        for field in fields.values() if issubclass(owner, Plugin) else ():
            _check_parameter(field, where)
            if isinstance(field.default, Part):
                raise PluginError(
                    f"the dataclass has a part(...) as default of '{field.name}'",
                    where=where,
                    hint="write its constructor instead",
                )
        return fields
    found = list(inspect.signature(init).parameters.values())[1:]
    if not issubclass(owner, Plugin):
        # Not the plugin's own constructor: that of object, Module, LightningModule, ...
        if any(p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in found):
            raise PluginError(
                f"the constructor is that of {owner.__qualname__}, which is no plugin", where=where
            )
        return {}
    hints = _hints(init, where)
    for parameter in found:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise PluginError(
                f"the constructor takes '{parameter}'; every parameter must be named", where=where
            )
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise PluginError(f"parameter '{parameter.name}' is positional-only", where=where)
        if parameter.name == "name":
            raise PluginError("a parameter may not be called 'name'", where=where)
        if parameter.name not in hints:
            raise PluginError(f"parameter '{parameter.name}' has no annotation", where=where)
    return {p.name: Parameter(p.name, hints[p.name], p.default) for p in found}


def _field_parameters(cls: type) -> dict[str, Parameter]:
    hints = _hints(cls, definition(cls))
    found = {}
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        default = field.default
        if default is dataclasses.MISSING:
            factory = field.default_factory
            empty = inspect.Parameter.empty
            default = empty if factory is dataclasses.MISSING else factory()
        found[field.name] = Parameter(field.name, hints[field.name], default)
    return found


def _hints(defined: Any, where: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(defined, include_extras=True)
    except Exception as error:
        raise PluginError(
            f"an annotation does not resolve ({error})",
            where=where,
            hint="import the type at run time, not under TYPE_CHECKING",
        ) from error


def _check_parameter(parameter: Parameter, where: str) -> None:
    """Refuse an annotation that no configuration can hold, and a default that does not fit it."""
    name, default = parameter.name, parameter.default
    bad = _unsupported(parameter.annotation)
    if bad is not None:
        raise PluginError(
            f"parameter '{name}' has the type {type_text(bad)}, which a configuration cannot hold",
            where=where,
            allowed="bool, int, float, str, Path, Literal, lists, tuples, mappings, settings "
            "dataclasses, roles (alone, optional, or in a list)",
        )
    if parameter.required:
        return
    if isinstance(default, Part):
        if not _is_role(without_none(parameter.annotation)[0]):
            raise PluginError(f"parameter '{name}' has a part(...) but no role", where=where)
        return
    if not _is_immutable(default):
        raise PluginError(
            f"the default of parameter '{name}' is an instance that all plugins would share "
            f"({type(default).__name__})",
            where=where,
            allowed="numbers, strings, tuples, frozen dataclasses, settings(...), part(...)",
        )
    try:
        _resolve(parameter.annotation, parameter.plain_default, name)
    except ConfigError as error:
        raise PluginError(f"a default does not fit its type ({error})", where=where) from error


def _unsupported(annotation: Any, parts: bool = True) -> Any:
    """The first type in an annotation that no configuration can hold, or None."""
    inner, _ = without_none(annotation)
    item = item_type(inner)
    if _is_role(item) or _is_settings(item):
        inner = item
    if _is_role(inner):
        return None if parts else inner
    if _is_settings(inner):
        fields = parameters(inner).values()
        found = (_unsupported(field.annotation, parts=False) for field in fields)
        return next((bad for bad in found if bad is not None), None)
    return unsupported(inner)


def _is_immutable(value: Any) -> bool:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return bool(cast("Any", type(value)).__dataclass_params__.frozen)
    if isinstance(value, tuple):
        return all(_is_immutable(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str, Path, MappingProxyType))


def _recording(init: Callable[..., None]) -> Callable[..., None]:
    """Wrap a constructor so that default parts are built and the instance knows its spec."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def constructor(self: Plugin, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        for key, value in given.items():
            default = signature.parameters[key].default
            if isinstance(value, Part):
                annotation = typing.get_type_hints(init)[key]
                given[key] = build(without_none(annotation)[0], value.spec, key)
            elif isinstance(default, Mapping) and isinstance(value, Mapping):
                given[key] = _with_default_keys(value, default, key)
        cls = type(self)
        if "plugin_name" in vars(cls) and cast("Any", cls).__init__ is constructor:
            values = {key: plain(given[key], key) for key in parameters(cls)}
            self.__dict__["_spec"] = {"name": cls.plugin_name, **values}
        init(*bound.args, **bound.kwargs)

    return constructor


# --- check and build -----------------------------------------------------------------------------


def check(role: type[Plugin], mapping: object, where: str | None = None) -> dict[str, Any]:
    """Check a configuration and complete it with the defaults; constructs no plugin.

    Args:
        role: the role asked for.
        mapping: ``{name: ..., key: value}`` or just a name.
        where: path of this mapping, for messages.

    Returns:
        The complete spec as plain containers.

    Raises:
        ConfigError: an unknown name or key, a wrong type, a missing value; with its full path.
    """
    where = where or role.role
    if isinstance(mapping, str):
        mapping = {"name": mapping}
    if not isinstance(mapping, Mapping):
        raise ConfigError(
            f"a mapping with a 'name' is needed for a {role.role}, not {mapping!r}", where=where
        )
    if "name" not in mapping:
        raise ConfigError(
            f"the key 'name' is missing: which {role.role}?", where=where, allowed=available(role)
        )
    cls = find(role, mapping["name"], f"{where}.name")
    given = {key: value for key, value in mapping.items() if key != "name"}
    return {"name": cls.plugin_name, **check_parameters(cls, given, where)}


def check_parameters(cls: type, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check the parameters of one class (a plugin or a settings dataclass); see :func:`check`.

    What is left out of a mapping whose parameter has a default (a part without a ``name``, a
    settings class, weights) is taken from that default.
    """
    schema = parameters(cls)
    for key in given:
        if key not in schema:
            raise ConfigError(
                f"unknown key '{key}'",
                where=f"{where}.{key}",
                got=str(key),
                allowed=schema or "no keys",
            )
    resolved = {}
    for key, parameter in schema.items():
        path = f"{where}.{key}"
        if key in given:
            value = _with_default(given[key], parameter.default, path)
        elif parameter.required:
            raise ConfigError(f"a value is required ({parameter.type_text})", where=path)
        else:
            value = parameter.plain_default
        resolved[key] = _resolve(parameter.annotation, value, path)
    return resolved


def _with_default(value: Any, default: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        return value
    if isinstance(default, Part):
        return value if "name" in value else {**default.spec, **value}
    if isinstance(default, Mapping):
        return _with_default_keys(value, default, where)
    if _is_settings(type(default)):
        return {**plain(default, where), **value}
    return value


def _with_default_keys(
    given: Mapping[str, Any], default: Mapping[str, Any], where: str
) -> dict[str, Any]:
    for key in given:
        if key not in default:
            raise ConfigError(
                f"unknown key '{key}'", where=f"{where}.{key}", got=str(key), allowed=default
            )
    return {**default, **given}


def build(role: type[P], mapping: object, where: str | None = None) -> P:
    """Check a configuration and construct it, the parts first.

    Raises:
        ConfigError: see :func:`check`; also for values that a constructor refuses.
    """
    where = where or role.role
    return cast("P", _construct(role, check(role, mapping, where), where))


def check_settings(cls: type, mapping: object, where: str) -> dict[str, Any]:
    """Check a mapping against a settings dataclass and complete it; see :func:`check`."""
    return cast("dict[str, Any]", _resolve(cls, mapping, where))


def build_settings(cls: type[S], mapping: object, where: str) -> S:
    """Check a mapping and construct a settings dataclass from it; see :func:`build`."""
    return cast("S", _instantiate(cls, check_settings(cls, mapping, where), where))


def _resolve(annotation: Any, value: Any, where: str) -> Any:
    """The value as plain containers, checked against an annotation."""
    inner, optional = without_none(annotation)
    if value is None and optional:
        return None
    if _is_role(inner):
        return check(inner, value, where)
    if _is_settings(inner):
        if not isinstance(value, Mapping):
            raise ConfigError(f"a mapping is needed, not {value!r}", where=where)
        checked = check_parameters(inner, value, where)
        _instantiate(inner, checked, where)  # it checks its values itself
        return checked
    item = item_type(inner)
    if _is_role(item) or _is_settings(item):
        if not isinstance(value, (list, tuple)):
            raise ConfigError(
                f"a list is needed, not {value!r}", where=where, allowed=type_text(inner)
            )
        return [_resolve(item, entry, f"{where}[{i}]") for i, entry in enumerate(value)]
    return plain(validated(annotation, value, where), where)


def _instantiate(annotation: Any, value: Any, where: str) -> Any:
    """What a constructor takes for a value that :func:`_resolve` returned."""
    inner, _ = without_none(annotation)
    if value is None:
        return None
    if _is_role(inner):
        return _construct(inner, value, where)
    if _is_settings(inner):
        return _call(inner, value, where)
    item = item_type(inner)
    if _is_role(item) or _is_settings(item):
        entries = [_instantiate(item, entry, f"{where}[{i}]") for i, entry in enumerate(value)]
        return tuple(entries) if typing.get_origin(inner) is tuple else entries
    return validated(annotation, value, where)


def _construct(role: type[Plugin], spec: Mapping[str, Any], where: str) -> Plugin:
    given = {key: value for key, value in spec.items() if key != "name"}
    return cast("Plugin", _call(role.registry[spec["name"]], given, where))


def _call(cls: type, given: Mapping[str, Any], where: str) -> Any:
    values = {
        key: _instantiate(parameter.annotation, given[key], f"{where}.{key}")
        for key, parameter in parameters(cls).items()
    }
    try:
        return cls(**values)
    except LandmarkLabError:
        raise
    except ValueError as error:
        raise ConfigError(str(error), where=where) from error


def _is_role(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Plugin)


def _is_settings(annotation: Any) -> bool:
    return isinstance(annotation, type) and dataclasses.is_dataclass(annotation)


# --- finding plugins -----------------------------------------------------------------------------


def discover(paths: Iterable[str | Path] = ()) -> None:
    """Import all plugin modules once, each by itself; failures are kept for :func:`failures`.

    Args:
        paths: files and folders besides those in ``LANDMARK_LAB_PLUGINS``.
    """
    discovery.load(paths, _forget)


def _forget(module: str) -> None:
    """Take the plugins of a module that failed half-way out of the registries."""
    for role in _ROLES.values():
        for name in [n for n, cls in role.registry.items() if cls.__module__ == module]:
            del role.registry[name]


def roles() -> dict[str, type[Plugin]]:
    """All roles by name."""
    discover()
    return dict(sorted(_ROLES.items()))


def available(role: type[P]) -> dict[str, type[P]]:
    """All plugins of a role by name."""
    discover()
    return cast("dict[str, type[P]]", dict(sorted(role.registry.items())))


def failures() -> list[Failure]:
    """The plugin modules that failed to load."""
    discover()
    return discovery.failures()


def find(role: type[P], name: object, where: str | None = None) -> type[P]:
    """The plugin of a role with this name.

    Raises:
        ConfigError: there is none; the message lists the names, the nearest one, and the modules
            that failed to load, one of which may have defined it.
    """
    if isinstance(name, str) and name in role.registry:
        return cast("type[P]", role.registry[name])
    names = available(role)
    if isinstance(name, str) and name in names:
        return names[name]
    broken = [str(failure) for failure in failures()]
    raise ConfigError(
        f"there is no {role.role} called {name!r}",
        where=where,
        got=name,
        allowed=names,
        hint=f"these plugin modules failed to load: {' | '.join(broken)}" if broken else None,
    )


def summary(cls: type) -> str:
    """The first line of a class's docstring."""
    return (inspect.getdoc(cls) or "").partition("\n")[0]


def definition(cls: type) -> str:
    """Where a class is defined, for messages and lists."""
    try:
        file = inspect.getsourcefile(cls)
    except TypeError:
        file = None
    return f"{cls.__module__}.{cls.__qualname__}" + (f" ({file})" if file else "")


def _identity(cls: type) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__
