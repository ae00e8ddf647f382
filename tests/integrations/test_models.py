"""Models for `run_machine`: what cannot be bound is refused with a reason, and a copy never moves the original."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from transitions import Machine
from transitions.extensions import GraphMachine, LockedMachine
from transitions.extensions.asyncio import AsyncMachine

from runstate.integrations.transitions import add_run, run_machine
from runstate.lifecycle import RunEvent, RunStatus

BOUND = (
    *(name for event in RunEvent for name in (event.value, f"may_{event.value}")),
    *("trigger", "may_trigger"),
    *(f"is_status_{status.value}" for status in RunStatus),
)
"""Every name under which something is bound to a model."""


class Answer:
    """A model as users write them."""

    if TYPE_CHECKING:  # `transitions` adds the triggers when it binds

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: object) -> None: ...


@attrs.define
class Slotted:
    name: str = "x"


@attrs.frozen(slots=False)
class Frozen:
    name: str = "x"


@dataclass(frozen=True)
class FrozenData:
    name: str = "x"


@dataclass(slots=True)
class SlottedData:
    name: str = "x"


class Choosy:
    """Takes the attributes it knows and no other, as a pydantic model does."""

    def __setattr__(self, name: str, value: object) -> None:
        raise ValueError(f"no field {name!r}")


@pytest.mark.parametrize("name", BOUND)
@pytest.mark.parametrize("machine_cls", [Machine, LockedMachine, AsyncMachine])
def test_an_attribute_in_the_way_of_an_event_is_named(name: str, machine_cls: type[Machine]) -> None:
    """A model with a method where an event belongs is refused by that name, and nothing is bound."""
    model = type("Job", (Answer,), {name: lambda self: "my own"})()
    with pytest.raises(TypeError, match=rf"^Job cannot be bound: its own {name} would be in the way"):
        run_machine(model, machine_cls=machine_cls)
    assert vars(model) == {}
    machine = run_machine([], machine_cls=machine_cls)
    with pytest.raises(TypeError, match=rf"its own {name} would"):
        add_run(machine, model)
    assert (vars(model), machine.models) == ({}, [])


def test_an_attribute_of_the_instance_is_in_the_way_too() -> None:
    """Not only methods: whatever the model keeps under the name would stay, and the event would not happen."""
    model = Answer()
    model.complete = 5
    with pytest.raises(TypeError, match="its own complete would"):
        run_machine(model)
    assert vars(model) == {"complete": 5}


def test_a_name_that_holds_none_is_free() -> None:
    """A class that declares its events as None has them bound."""
    model = type("Declared", (Answer,), {"start": None})()
    run_machine(model)
    assert model.start(at=1)
    assert model.status == "in_progress"


def test_an_event_that_was_added_to_the_machine_is_looked_for_as_well() -> None:
    """A transition of the user's own has a trigger like any other."""
    machine = run_machine([])
    machine.add_transition("skip", "queued", "completed")
    model = type("Job", (Answer,), {"skip": lambda self: None})()
    with pytest.raises(TypeError, match="its own skip would"):
        add_run(machine, model)


def test_a_model_may_ask_that_its_methods_give_way() -> None:
    """Under `model_override`, an option of `transitions`, a declared method is replaced by the event."""

    class Declared(Answer):
        def start(self, at: int | None = None) -> bool:
            raise NotImplementedError

    model = Declared()
    run_machine(model, model_override=True)
    assert model.start(at=1)
    assert model.status == "in_progress"


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Slotted(), "Slotted cannot be bound: its events need a __dict__, .* give it slots=False"),
        (SlottedData(), "SlottedData cannot be bound: .* slots=False"),
        (Frozen(), "Frozen cannot be bound: it is frozen, .* must be mutable"),
        (FrozenData(), "FrozenData cannot be bound: it is frozen, .* must be mutable"),
        (Choosy(), "Choosy cannot be bound: .* must be mutable .*no field"),
        (None, "NoneType cannot be bound: a model is an object of a class of your own"),
        ("self", "str cannot be bound: a model is an object of a class of your own"),
        ("x", "str cannot be bound: a model is an object of a class of your own"),
        (5, "int cannot be bound: a model is an object of a class of your own"),
        (datetime.now(UTC), "datetime cannot be bound: a model is an object of a class of your own"),
        (Answer, "expected a model, got the class Answer: all its instances would be one run"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_takes_no_events_is_refused_with_what_it_lacks(model: object, reason: str) -> None:
    """The sentence says what to change; alone and among others, nothing is bound."""
    before = dict(getattr(model, "__dict__", {}))
    good = Answer()
    for models in (model, [good, model]):
        with pytest.raises(TypeError, match=reason):
            run_machine(models)
    assert before == dict(getattr(model, "__dict__", {}))
    assert vars(good) == {}


@pytest.mark.parametrize("name", ["status", "created_at", "expires_at", "started_at", "completed_at", "failed_at"])
def test_what_a_move_writes_must_be_writable(name: str) -> None:
    """A property without a setter would break a move halfway, and is refused when the model is bound."""
    model = type("Job", (Answer,), {name: property(lambda self: None)})()
    with pytest.raises(TypeError, match=f"Job cannot be bound: its {name} is a property without a setter"):
        run_machine(model)
    assert vars(model) == {}


@pytest.mark.parametrize("name", ["created_at", "expires_at", "started_at", "cancelled_at"])
def test_times_that_are_no_unix_seconds_are_refused(name: str) -> None:
    """A model of an ORM often has datetimes; the machine would reckon with seconds."""
    model = Answer()
    setattr(model, name, datetime.now(UTC))
    before = dict(vars(model))
    with pytest.raises(ValueError, match=f"^{name}: expected Unix seconds, an integer, got a Python datetime"):
        run_machine(model)
    assert before == vars(model)


def test_equal_models_of_one_list_are_refused_before_any_is_bound() -> None:
    """`transitions` would take the second for the first."""

    @dataclass
    class Equal:
        name: str = "x"

    first, second = Equal(), Equal()
    with pytest.raises(ValueError, match="eq=False"):
        run_machine([first, second])
    assert vars(first) == vars(second) == {"name": "x"}


def test_a_model_has_one_machine() -> None:
    """Bound again, it would go on with the machine it has, without a word; let go, it can be bound anew."""
    model = Answer()
    machine = run_machine(model)
    with pytest.raises(TypeError, match=r"Answer is bound to another machine, .* `remove_model`"):
        run_machine(model)
    assert model.start(at=1)
    machine.remove_model(model)
    another = run_machine(model)
    assert (machine.models, another.models) == ([], [model])
    assert another is model.complete.func.__self__.machine
    assert model.complete(at=2)


def test_a_machine_that_refuses_leaves_the_model_as_it_was() -> None:
    """Where a machine's own `add_model` fails in the middle, what it bound so far is taken away."""

    class Fails(Machine):
        def _add_model_to_state(self, state: Any, model: object) -> None:
            if state.name == "failed":
                raise RuntimeError("not this one")
            super()._add_model_to_state(state, model)

    model = Answer()
    with pytest.raises(RuntimeError, match="not this one"):
        run_machine(model, machine_cls=Fails)
    assert vars(model) == {}


# --- copies -----------------------------------------------------------------------------------------------------------

COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
}


class OwnCopy(Answer):
    def __copy__(self) -> OwnCopy:
        twin = OwnCopy()
        vars(twin).update(vars(self))
        return twin


class Tray(Answer):
    """Slots beside a `__dict__`."""

    __slots__ = ("weight",)


class Stateful(Answer):
    def __getstate__(self) -> dict[str, Any]:
        return dict(vars(self))

    def __setstate__(self, kept: dict[str, Any]) -> None:
        vars(self).update(kept)


@pytest.mark.parametrize("make", COPIES)
@pytest.mark.parametrize("machine_cls", [Machine, LockedMachine, GraphMachine])
@pytest.mark.parametrize("cls", [Answer, OwnCopy, Tray, Stateful])
def test_a_copy_moves_itself_alone(make: str, machine_cls: type[Machine], cls: type[Answer]) -> None:
    """However a bound model is copied, the copy stands where it stood, and neither moves the other."""
    options: dict[str, Any] = {"graph_engine": "mermaid"} if machine_cls is GraphMachine else {}
    model = cls()
    run_machine(model, machine_cls=machine_cls, **options)
    model.start(at=3)
    twin = COPIES[make](model)
    assert (type(twin), twin.status, twin.started_at) == (cls, "in_progress", 3)
    twin.complete(at=5)
    assert (model.status, model.completed_at, twin.status, twin.completed_at) == ("in_progress", None, "completed", 5)
    model.fail(at=6)
    assert (model.status, twin.status, twin.failed_at) == ("failed", "completed", None)
    assert not twin.may_fail()
    third = COPIES[make](twin)
    assert third.status == "completed"


def test_a_copy_keeps_what_the_model_holds() -> None:
    """A shallow copy shares the attributes and slots of the model; only its events are its own."""
    model = Tray()
    model.weight, model.parts = 5, [1]
    run_machine(model)
    twin = copy.copy(model)
    assert (twin.weight, twin.parts) == (5, [1])
    assert twin.parts is model.parts


def test_a_shallow_copy_is_on_the_machine_of_the_original() -> None:
    """It is one more model there, as `add_run` would make it."""
    model = Answer()
    machine = run_machine(model)
    twin = copy.copy(model)
    assert machine.models == [model, twin]


def test_a_shallow_copy_that_equals_the_original_is_refused() -> None:
    """`transitions` would take it for the original; the sentence says what to change."""

    @dataclass
    class Equal:
        name: str = "x"

    model = Equal()
    machine = run_machine(model)
    with pytest.raises(ValueError, match="eq=False"):
        copy.copy(model)
    assert machine.models == [model]


def test_models_that_are_not_bound_are_copied_as_ever() -> None:
    """The class of a bound model copies others of its instances as before."""
    run_machine(Answer())
    other = Answer()
    other.name = "x"
    twin = copy.copy(other)
    assert vars(twin) == {"name": "x"}


def test_a_model_that_was_given_the_attributes_of_another_is_bound_anew() -> None:
    """What came along moves the other; binding replaces it."""
    model, twin = Answer(), Answer()
    machine = run_machine(model)
    vars(twin).update(vars(model))
    add_run(machine, twin)
    twin.start(at=1)
    assert (model.status, twin.status) == ("queued", "in_progress")


@dataclass(eq=False)
class Data:
    name: str = "x"
    status: str | None = None


@attrs.define(slots=False, eq=False)
class Defined:
    name: str = "x"
    status: str | None = None


@pytest.mark.parametrize(("cls", "changed"), [(Data, replace), (Defined, attrs.evolve)])
def test_what_replace_and_evolve_make_is_not_bound(cls: type[Any], changed: Callable[..., Any]) -> None:
    """It is a new model with the same status, which cannot move the original, and `add_run` binds it."""
    model = cls()
    machine = run_machine(model)
    model.start(at=1)
    twin = changed(model, name="y")
    assert not hasattr(twin, "complete")
    add_run(machine, twin)
    twin.complete(at=2)
    assert (model.status, twin.status, twin.name) == ("in_progress", "completed", "y")
