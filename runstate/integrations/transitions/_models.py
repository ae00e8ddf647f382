"""Models of `transitions`: checks before binding, and copies of bound models.

`transitions` leaves out an event if the model has an attribute of that name, and only logs it. And it keeps each
trigger in the model as a partial of the model, so a shallow copy of the model moves the original. This module refuses
the first and corrects the second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Final, cast
from weakref import WeakSet

from transitions import Event, Machine

from runstate.lifecycle import RunEvent

__all__ = ["bind", "check_model"]

_WRITTEN: Final = ("status", "expires_at", "started_at", "cancelled_at", "failed_at", "completed_at")
_PROBE: Final = "may_trigger"  # an attribute that binding writes anyway
_SHOWN: Final = 6  # names in a message

_copied: Final[WeakSet[type]] = WeakSet()
"""The classes whose `__copy__` binds the copy."""


def check_model(machine: Machine, model: object, others: Iterable[object]) -> None:
    """Raise if binding the model would fail halfway, or would not bind all of it. Nothing is changed.

    Raises ValueError for a model that equals one of the `others` on the machine, TypeError for everything else.
    """
    others = tuple(others)
    if any(other is model for other in others):
        return
    _require_unequal(model, others)
    if isinstance(model, type):
        raise TypeError(f"expected a model, got the class {model.__name__}: all its instances would be one run")
    name = type(model).__name__
    if _is_bound(model):
        raise TypeError(
            f"this {name} is bound to another machine, and a model has one: `remove_model` of that machine lets it go"
        )
    taken = [each for each in _bound_names(machine) if getattr(model, each, None) is not None]
    taken = [each for each in taken if not _belongs_to(getattr(model, each), _owner(model))]
    if taken and not machine.model_override:  # it lets the machine replace methods of the model
        listed = ", ".join(taken[:_SHOWN]) + ", ..." * (len(taken) > _SHOWN)
        raise TypeError(
            f"{name} cannot be bound: its own {listed} would be in the way of what the machine binds under that name. "
            "Rename it, or bind an object that the model holds"
        )
    _require_writable(model, name)


def _require_unequal(model: object, others: Iterable[object]) -> None:
    if any(other == model for other in others):
        raise ValueError("an equal model is on this machine already; let models compare by identity (eq=False)")


def _require_writable(model: object, name: str) -> None:
    had = _PROBE in getattr(model, "__dict__", ())
    try:
        setattr(model, _PROBE, getattr(model, _PROBE, None))
        if not had:
            delattr(model, _PROBE)
    except Exception as error:  # the class may raise anything
        why = "it is frozen, or has attributes of its own choice only: a model must be mutable"
        if not hasattr(model, "__dict__"):
            why = "a model is an object of a class of your own"
        if not hasattr(model, "__dict__") and any("__slots__" in vars(kind) for kind in type(model).__mro__):
            why = "its events need a __dict__, which a class with slots lacks: give it slots=False"
        raise TypeError(f"{name} cannot be bound: {why} ({type(error).__name__}: {error})") from None
    for each in (*_WRITTEN, *(("created_at",) if getattr(model, "created_at", None) is None else ())):
        found: object = getattr(type(model), each, None)
        if isinstance(found, property) and found.fset is None:
            raise TypeError(f"{name} cannot be bound: its {each} is a property without a setter, and moves write it")


def bind(machine: Machine, model: object, status: str) -> None:
    """Bind a checked model in a status. If that fails, the model is unchanged."""
    if not _is_bound(model):
        _unbind(model)
    _bind_copies(type(model))
    before = set(dir(model))
    try:
        machine.add_model(model, initial=str(status))
    except Exception:
        machine.models[:] = [other for other in machine.models if other is not model]
        for name in set(dir(model)) - before:
            with suppress(AttributeError):
                delattr(model, name)
        raise


def _bound_names(machine: Machine) -> tuple[str, ...]:
    """Return the names of the attributes that `transitions` binds to a model of this machine."""
    events = [name for event in machine.events for name in (event, f"may_{event}")]
    return (*events, "trigger", "may_trigger", *(f"is_status_{status}" for status in machine.states))


def _trigger(model: object) -> partial[Any] | None:
    """Return the trigger of an event that all machines have; None if the model has none of `transitions`."""
    found: Any = getattr(model, RunEvent.START.value, None)
    bound = isinstance(found, partial) and isinstance(getattr(found.func, "__self__", None), Event)
    return cast("partial[Any]", found) if bound else None


def _owner(model: object) -> object:
    """Return the model that the trigger moves: itself, the original of a copy, or None without a trigger."""
    trigger = _trigger(model)
    return None if trigger is None else trigger.args[0]


def _belongs_to(value: object, owner: object) -> bool:
    """Return whether a value is one that `transitions` bound to `owner`."""
    return owner is not None and isinstance(value, partial) and any(part is owner for part in value.args)


def _machine(trigger: partial[Any]) -> Machine:
    return cast("Event", getattr(trigger.func, "__self__")).machine  # noqa: B009


def _is_bound(model: object) -> bool:
    """Return whether the model is on the machine of its triggers."""
    trigger = _trigger(model)
    if trigger is None or trigger.args[0] is not model:
        return False
    return any(other is model for other in _machine(trigger).models)


def _unbind(model: object) -> None:
    """Remove attributes that are bound by another machine, or that belong to the original of a copy."""
    trigger = _trigger(model)
    if trigger is not None:
        for name in (*_bound_names(_machine(trigger)), "get_graph"):
            if _belongs_to(getattr(model, name, None), trigger.args[0]):
                delattr(model, name)


def _bind_copies(cls: type) -> None:
    """Make `copy.copy` of a bound model return a model that moves itself, on the same machine."""
    if cls in _copied:
        return
    own: Callable[[Any], Any] = getattr(cls, "__copy__", _shallow_copy)

    def __copy__(self: Any) -> Any:  # noqa: N807
        twin = own(self)
        trigger = _trigger(twin)
        if trigger is not None and trigger.args[0] is not twin:
            machine = _machine(trigger)
            _require_unequal(twin, machine.models)
            bind(machine, twin, twin.status)
        return twin

    with suppress(TypeError):  # a class in C, such as SimpleNamespace
        cls.__copy__ = __copy__  # type: ignore[attr-defined]
        _copied.add(cls)


def _shallow_copy(model: Any) -> Any:
    """Return what `copy.copy` returns for an object whose class does not define it."""
    reduced = model.__reduce_ex__(4)
    if isinstance(reduced, str):
        return model
    parts: list[Any] = [*reduced, None, None, None]
    make, args, state, _, pairs = parts[:5]  # no model is a list, which would be a list of models
    twin: Any = make(*args)
    if state is not None and hasattr(twin, "__setstate__"):
        twin.__setstate__(state)
    elif state is not None:
        plain, slots = _parts(state)
        twin.__dict__.update(plain or {})
        for name, value in (slots or {}).items():
            setattr(twin, name, value)
    for key, value in pairs or ():
        twin[key] = value
    return twin


def _parts(state: Any) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Return the state in `__dict__` and in slots, as pickle has it."""
    return cast("Any", state) if isinstance(state, tuple) else (state, None)
