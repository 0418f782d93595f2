"""Plugins: registration, the constructor as a schema, check, build, specs."""

import dataclasses
import sys
import types
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
from pydantic import Field
from torch import nn

from landmark_lab import plugin
from landmark_lab.errors import ConfigError, PluginError
from landmark_lab.plugin import Plugin, build, build_settings, check, part, settings

# --- roles and plugins that the tests use --------------------------------------------------------


class Engine(Plugin, role="test_engine"):
    """Something that drives."""

    @abstractmethod
    def power(self) -> float: ...


class Petrol(Engine, name="petrol"):
    """Burns petrol.

    More text.
    """

    def __init__(self, cylinders: int = 4, bore: float = 8.0) -> None:
        if cylinders < 1:
            raise ValueError(f"cylinders must be at least 1, not {cylinders}")
        self.cylinders, self.bore = cylinders, bore

    def power(self) -> float:
        return self.cylinders * self.bore


class Electric(Engine, nn.Module, name="electric"):
    """Runs on a battery."""

    def power(self) -> float:
        return 1.0


@dataclasses.dataclass(frozen=True)
class Tyres:
    width: int = 200
    winter: bool = False

    def __post_init__(self) -> None:
        if self.width <= 0:
            raise ValueError(f"width must be positive, not {self.width}")


class Vehicle(Plugin, nn.Module, role="test_vehicle"):
    """Something on wheels."""


class Car(Vehicle, name="car"):
    """A car."""

    def __init__(
        self,
        colour: Literal["red", "blue"],
        engine: Engine = part("petrol", cylinders=6),
        spare: Engine | None = None,
        extras: list[Engine] | None = None,
        tyres: Tyres = Tyres(width=180),
        weights: Mapping[str, float] = settings(front=1.0, back=2.0),
        size: tuple[int, int] = (1, 2),
        manual: Path | None = None,
        share: Annotated[float, Field(gt=0, le=1)] = 0.5,
        limit: int | float | None = None,
        heated: bool = False,
        notes: dict[str, Any] | None = None,
        plates: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.colour, self.engine, self.spare, self.extras = colour, engine, spare, extras
        self.tyres, self.weights, self.size, self.manual = tyres, weights, size, manual
        self.share, self.limit, self.heated, self.notes = share, limit, heated, notes
        self.plates = plates


FULL = {
    "name": "car",
    "colour": "red",
    "engine": {"name": "petrol", "cylinders": 6, "bore": 8.0},
    "spare": None,
    "extras": None,
    "tyres": {"width": 180, "winter": False},
    "weights": {"front": 1.0, "back": 2.0},
    "size": [1, 2],
    "manual": None,
    "share": 0.5,
    "limit": None,
    "heated": False,
    "notes": None,
    "plates": [],
}


def car(**settings: Any) -> dict[str, Any]:
    return {"name": "car", "colour": "red", **settings}


@pytest.fixture
def registry() -> Iterator[dict[str, type[Plugin]]]:
    """The engines, restored afterwards."""
    before = dict(Engine.registry)
    yield Engine.registry
    Engine.registry.clear()
    Engine.registry.update(before)


# --- check and build -----------------------------------------------------------------------------


def test_check_completes_with_all_defaults_and_constructs_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[type] = []
    monkeypatch.setattr(plugin, "_call", lambda cls, *rest: made.append(cls))
    assert check(Vehicle, car()) == FULL
    assert made == [Tyres]  # no plugin, but settings check their values themselves


def test_build_constructs_the_parts_first() -> None:
    built = build(Vehicle, car(engine="electric", extras=["petrol", {"name": "petrol", "bore": 9}]))
    assert isinstance(built, Car)
    assert isinstance(built.engine, Electric)
    assert [engine.bore for engine in built.extras] == [8.0, 9.0]
    assert built.tyres == Tyres(180, False)
    assert built.size == (1, 2)
    assert built.plates == ()
    assert dict(built.weights) == {"front": 1.0, "back": 2.0}


def test_values_take_the_annotated_types() -> None:
    built = build(Vehicle, car(size=[3, 4], manual="a/b", plates=["x"], share=1, limit=3))
    assert built.size == (3, 4)
    assert built.manual == Path("a/b")
    assert built.plates == ("x",)
    assert isinstance(built.share, float)


def test_spec_is_the_same_from_yaml_and_from_python() -> None:
    by_hand = Car("red", engine=Petrol(6), tyres=Tyres(180), weights={"back": 2.0})
    assert build(Vehicle, car()).spec == by_hand.spec == FULL
    assert check(Vehicle, by_hand.spec) == by_hand.spec
    assert build(Vehicle, by_hand.spec).spec == by_hand.spec


def test_default_parts_are_new_for_every_instance() -> None:
    assert Car("red").engine is not Car("red").engine
    assert Car("red").engine.spec == {"name": "petrol", "cylinders": 6, "bore": 8.0}


def test_spec_cannot_be_changed_from_outside() -> None:
    built = Car("red")
    built.spec["engine"]["cylinders"] = 99
    assert built.spec == FULL


def test_spec_is_plain_although_the_values_were_not() -> None:
    built = Car("red", limit=np.int64(3), share=np.float32(0.5), manual=Path("a"), size=(1, 2))
    spec = built.spec
    assert [type(spec[k]) for k in ("limit", "share", "manual", "size")] == [int, float, str, list]


def test_keys_of_mappings_keep_their_type() -> None:
    assert Car("red", notes={"a": {1: 2}}).spec["notes"] == {"a": {1: 2}}


def test_what_has_no_plain_form_is_refused() -> None:
    with pytest.raises(PluginError, match="notes: a Tensor cannot be written down"):
        Car("red", notes={"x": torch.zeros(1)})


def test_a_part_without_a_name_changes_the_default_part() -> None:
    resolved = check(Vehicle, car(engine={"bore": 9.0}))
    assert resolved["engine"] == {"name": "petrol", "cylinders": 6, "bore": 9.0}


def test_a_part_with_a_name_starts_from_its_own_defaults() -> None:
    assert check(Vehicle, car(engine={"name": "petrol"}))["engine"]["cylinders"] == 4


def test_settings_that_are_left_out_come_from_the_default() -> None:
    assert check(Vehicle, car(tyres={"winter": True}))["tyres"] == {"width": 180, "winter": True}
    assert check(Vehicle, car(weights={"back": 5.0}))["weights"] == {"front": 1.0, "back": 5.0}


def test_build_settings() -> None:
    assert build_settings(Tyres, {"width": 5}, "tyres") == Tyres(5)


@pytest.mark.parametrize(
    ("mapping", "messages"),
    [
        ({"name": "cra", "colour": "red"}, ["test_vehicle.name", "'cra'", "did you mean 'car'?"]),
        ({"colour": "red"}, ["the key 'name' is missing", "allowed: car"]),
        (3, ["a mapping with a 'name' is needed", "not 3"]),
        (car(name=5), ["there is no test_vehicle called 5"]),
        ({"name": "car"}, ["test_vehicle.colour: a value is required ('red' | 'blue')"]),
        (car(colur="red"), ["test_vehicle.colur", "did you mean 'colour'?"]),
        (car(colour="rde"), ["test_vehicle.colour", "not 'rde'", "did you mean 'red'?"]),
        (car(engine={"name": "petrol", "boer": 1}), ["test_vehicle.engine.boer", "mean 'bore'?"]),
        (car(engine="petrl"), ["test_vehicle.engine.name", "did you mean 'petrol'?"]),
        (car(engine=None), ["test_vehicle.engine: a mapping with a 'name' is needed"]),
        (car(spare={"bore": 1.0}), ["test_vehicle.spare: the key 'name' is missing"]),
        (car(engine={"cylinders": "4"}), ["test_vehicle.engine.cylinders", "valid integer", "'4'"]),
        (car(engine={"cylinders": True}), ["cylinders", "valid integer", "not True"]),
        (car(engine={"cylinders": 4.0}), ["cylinders", "valid integer", "not 4.0"]),
        (car(engine={"bore": "8"}), ["bore", "valid number", "allowed: float"]),
        (car(heated="off"), ["heated", "valid boolean", "not 'off'"]),
        (car(heated=1), ["heated", "valid boolean"]),
        (car(engine={"cylinders": 0}), ["test_vehicle.engine: cylinders must be at least 1"]),
        (car(tyres={"width": 0}), ["test_vehicle.tyres: width must be positive, not 0"]),
        (car(tyres={"widht": 1}), ["test_vehicle.tyres.widht", "did you mean 'width'?"]),
        (car(tyres={"winter": 1}), ["test_vehicle.tyres.winter", "valid boolean"]),
        (car(tyres=3), ["test_vehicle.tyres: a mapping is needed, not 3"]),
        (car(weights={"frnt": 1.0}), ["test_vehicle.weights.frnt", "did you mean 'front'?"]),
        (car(weights={"front": "x"}), ["test_vehicle.weights.front", "valid number"]),
        (car(size=[1]), ["test_vehicle.size"]),
        (car(size=[1, "x"]), ["test_vehicle.size[1]", "valid integer"]),
        (car(size="12"), ["test_vehicle.size", "valid tuple"]),
        (car(plates="x"), ["test_vehicle.plates", "valid tuple"]),
        (car(extras="petrol"), ["test_vehicle.extras: a list is needed"]),
        (car(extras=["petrol", "petrl"]), ["test_vehicle.extras[1].name", "mean 'petrol'?"]),
        (car(share=0), ["test_vehicle.share", "greater than 0"]),
        (car(limit="x"), ["test_vehicle.limit:", "allowed: int | float | nothing"]),
        (car(manual=3), ["test_vehicle.manual"]),
    ],
)
def test_bad_configuration_is_named_with_its_path(mapping: Any, messages: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Vehicle, mapping)
    for message in messages:
        assert message in str(caught.value)


def test_the_path_starts_where_the_caller_says() -> None:
    with pytest.raises(ConfigError, match=r"^stages\.a\.engine\.boer: "):
        check(Engine, {"name": "petrol", "boer": 1}, "stages.a.engine")


def test_python_refuses_unknown_weights_too() -> None:
    with pytest.raises(ConfigError, match=r"weights\.frnt.*did you mean 'front'"):
        Car("red", weights={"frnt": 1.0})


# --- registration --------------------------------------------------------------------------------


def test_the_summary_is_the_first_line() -> None:
    assert plugin.summary(Petrol) == "Burns petrol."


def test_the_name_is_kept_only_where_the_keyword_is(registry: dict[str, type[Plugin]]) -> None:
    class Tuned(Petrol):
        """Not registered."""

    assert "Tuned" not in [cls.__name__ for cls in registry.values()]
    with pytest.raises(PluginError, match="has no name, so it has no spec"):
        _ = Tuned().spec


def _petrol_again(module: str) -> Callable[[], type]:
    def define() -> type:
        class Petrol(Engine, name="petrol"):
            """Another one."""

            __module__ = module
            __qualname__ = "Petrol"

            def power(self) -> float:
                return 0.0

        return Petrol

    return define


def test_a_taken_name_names_both_definitions(registry: dict[str, type[Plugin]]) -> None:
    with pytest.raises(PluginError) as caught:
        _petrol_again("elsewhere")()
    message = str(caught.value)
    assert "elsewhere.Petrol" in message
    assert f"the name 'petrol' of role 'test_engine' is taken by {__name__}.Petrol" in message
    assert __file__ in message
    assert registry["petrol"] is Petrol


def test_a_notebook_cell_run_again_replaces(registry: dict[str, type[Plugin]]) -> None:
    again = _petrol_again(__name__)()
    assert registry["petrol"] is again
    assert type(build(Engine, "petrol")) is again


def test_a_taken_role_is_refused() -> None:
    with pytest.raises(PluginError, match="the role 'test_engine' is taken by"):

        class Engine2(Plugin, role="test_engine"):
            """A second one."""


def test_a_plugin_may_inherit_its_constructor(registry: dict[str, type[Plugin]]) -> None:
    class Diesel(Petrol, name="diesel"):
        """Burns diesel."""

    assert Diesel(2).spec == {"name": "diesel", "cylinders": 2, "bore": 8.0}
    assert build(Engine, {"name": "diesel", "bore": 1}).power() == 4


def test_a_base_class_builds_its_default_parts_too() -> None:
    class Base(Vehicle):
        """No plugin itself."""

        def __init__(self, wheels: int, engine: Engine = part("petrol")) -> None:
            super().__init__()
            self.engine = engine

    class Bike(Base, name="bike"):
        """Two wheels."""

        def __init__(self, bell: bool = True) -> None:
            super().__init__(2)

    try:
        assert isinstance(Bike().engine, Petrol)
        assert Bike().spec == {"name": "bike", "bell": True}
    finally:
        del Vehicle.registry["bike"]


def test_parts_of_parts(registry: dict[str, type[Plugin]]) -> None:
    class Truck(Vehicle, name="truck"):
        """Pulls a car."""

        def __init__(self, car: Vehicle = part("car", colour="blue", engine=part("electric"))):
            super().__init__()
            self.car = car

    try:
        assert Truck().car.spec["engine"] == {"name": "electric"}
        assert check(Vehicle, "truck") == Truck().spec
    finally:
        del Vehicle.registry["truck"]


# --- classes that break the rules fail when they are defined -----------------------------------


class Unfrozen:
    pass


@dataclasses.dataclass
class Thawed:
    x: int = 1


@dataclasses.dataclass(frozen=True)
class WithPart:
    engine: Engine | None = None


def variadic(self: Any, *args: int) -> None: ...
def keywords(self: Any, **kwargs: int) -> None: ...
def called_name(self: Any, name: str) -> None: ...
def positional(self: Any, x: int, /) -> None: ...
def unannotated(self: Any, x=1) -> None: ...  # type: ignore[no-untyped-def]
def unresolved(self: Any, x: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821
def list_default(self: Any, x: list[int] = []) -> None: ...  # noqa: B006
def dict_default(self: Any, x: dict[str, int] = {}) -> None: ...  # noqa: B006
def instance_default(self: Any, x: Engine = Petrol()) -> None: ...  # noqa: B008
def thawed_default(self: Any, x: Thawed = Thawed()) -> None: ...  # noqa: B008
def tensor(self: Any, x: torch.Tensor) -> None: ...
def function(self: Any, x: Callable[[], int]) -> None: ...
def some_class(self: Any, x: list[Unfrozen]) -> None: ...
def mapping_of_parts(self: Any, x: dict[str, Engine]) -> None: ...
def part_or_text(self: Any, x: Engine | str) -> None: ...
def settings_with_part(self: Any, x: WithPart) -> None: ...
def part_for_text(self: Any, x: str = part("petrol")) -> None: ...
def wrong_default(self: Any, x: int = "1") -> None: ...  # type: ignore[assignment]
def none_default(self: Any, x: Engine = None) -> None: ...  # type: ignore[assignment]
def off_choice(self: Any, x: Literal["a", "b"] = "c") -> None: ...  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("init", "message"),
    [
        (variadic, r"takes '\*args: int'"),
        (keywords, r"takes '\*\*kwargs: int'"),
        (called_name, "may not be called 'name'"),
        (positional, "'x' is positional-only"),
        (unannotated, "'x' has no annotation"),
        (unresolved, "Nowhere.*TYPE_CHECKING"),
        (list_default, r"default of parameter 'x' is an instance .* \(list\)"),
        (dict_default, r"an instance .* \(dict\)"),
        (instance_default, r"an instance .* \(Petrol\)"),
        (thawed_default, r"an instance .* \(Thawed\)"),
        (tensor, "'x' has the type Tensor, which a configuration cannot hold"),
        (function, "'x' has the type Callable"),
        (some_class, "'x' has the type Unfrozen"),
        (mapping_of_parts, "'x' has the type Engine"),
        (part_or_text, "'x' has the type Engine"),
        (settings_with_part, "'x' has the type Engine"),
        (part_for_text, r"'x' has a part\(...\) but no role"),
        (wrong_default, "a default does not fit its type .*valid integer"),
        (none_default, "a default does not fit its type .*x: a mapping with a 'name' is needed"),
        (off_choice, "a default does not fit its type"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_bad_constructor_fails_at_definition(
    init: Callable[..., None], message: str, registry: dict[str, type[Plugin]]
) -> None:
    body = {"__doc__": "Bad.", "__init__": init, "power": Petrol.power}
    with pytest.raises(PluginError, match=message) as caught:
        types.new_class("Bad", (Engine,), {"name": "bad"}, lambda space: space.update(body))
    assert "Bad" in str(caught.value)
    assert "bad" not in registry


def test_no_docstring_fails_at_definition(registry: dict[str, type[Plugin]]) -> None:
    with pytest.raises(PluginError, match="has no docstring"):

        class Silent(Engine, name="silent"):
            def power(self) -> float:
                return 0.0


def test_something_left_out_fails_at_definition(registry: dict[str, type[Plugin]]) -> None:
    with pytest.raises(PluginError, match="a test_engine must define power"):

        class Weak(Engine, name="weak"):
            """Has no power."""


def test_a_name_without_a_role_fails_at_definition() -> None:
    with pytest.raises(PluginError, match="has a name but no role"):

        class Lonely(Plugin, name="lonely"):
            """Nowhere to register."""


def test_a_constructor_of_a_stranger_fails_at_definition(
    registry: dict[str, type[Plugin]],
) -> None:
    class Mixin:
        def __init__(self, x: int) -> None: ...

    with pytest.raises(
        PluginError, match=r"the constructor is that of .*Mixin, which is no plugin"
    ):

        class Mixed(Mixin, Petrol, name="mixed"):
            """Its constructor is not its own."""


# --- dataclasses ---------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"frozen": True}, {"slots": True}])
def test_dataclasses_are_plugins_like_others(
    options: dict[str, Any], registry: dict[str, type[Plugin]]
) -> None:
    @dataclasses.dataclass(**options)
    class Steam(Engine, name="steam"):
        """Boils water."""

        pressure: float
        valves: tuple[int, ...] = (1, 2)
        tyres: Tyres = dataclasses.field(default_factory=Tyres)
        log: list[str] = dataclasses.field(default_factory=list, init=False)

        def power(self) -> float:
            return self.pressure

    # slots=True makes the class twice; the first one must not stay registered.
    assert registry["steam"] is Steam
    spec = {"name": "steam", "pressure": 2.0, "valves": [1, 2]}
    spec["tyres"] = {"width": 200, "winter": False}
    assert check(Engine, {"name": "steam", "pressure": 2.0}) == spec
    assert build(Engine, spec).spec == spec == Steam(2.0).spec
    assert type(build(Engine, spec)) is Steam
    with pytest.raises(ConfigError, match=r"pressure: a value is required \(float\)"):
        build(Engine, "steam")


def test_a_dataclass_that_breaks_a_rule_fails_when_it_is_used(
    registry: dict[str, type[Plugin]],
) -> None:
    @dataclasses.dataclass
    class Wrong(Engine, name="wrong"):
        """Holds what a configuration cannot."""

        x: torch.Tensor

        def power(self) -> float:
            return 0.0

    with pytest.raises(PluginError, match="'x' has the type Tensor"):
        build(Engine, {"name": "wrong", "x": 1})


def test_a_dataclass_has_no_default_parts(registry: dict[str, type[Plugin]]) -> None:
    @dataclasses.dataclass
    class Hybrid(Engine, name="hybrid"):
        """Two in one."""

        other: Engine = part("petrol")

        def power(self) -> float:
            return 0.0

    with pytest.raises(PluginError, match="write its constructor instead"):
        build(Engine, "hybrid")


def test_docstrings_are_not_asked_for_where_python_strips_them(
    monkeypatch: pytest.MonkeyPatch, registry: dict[str, type[Plugin]]
) -> None:
    flags = types.SimpleNamespace(optimize=2)
    monkeypatch.setattr(plugin.sys, "flags", flags)

    class Silent(Engine, name="silent"):
        def power(self) -> float:
            return 0.0

    assert registry["silent"] is Silent
    assert sys.flags.optimize == 2
