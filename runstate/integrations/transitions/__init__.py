"""The twin: the same law as a `transitions.Machine`, bound to a model of your own.

For those who already live with `transitions`: the nine events become trigger methods of the model, its status lives in
`model.status`, its times in `created_at`, `started_at` and so on, and an illegal move raises `transitions.MachineError`
as every other machine does. States, transitions, final states and stamps are read off the rows of the law; this module
adds none. It is also the law's second opinion: another engine, asked the same 81 questions.

This package alone imports `transitions`, and nothing in runstate imports it.

    class Answer: ...

    answer = Answer()
    machine = run_machine(answer)
    answer.start(at=1_700_000_000)
    answer.status, answer.started_at      # ("in_progress", 1700000000)

A model's status is the plain string ("in_progress"): it equals `RunStatus.IN_PROGRESS`, goes into JSON as it is,
names the methods that `transitions` makes of it (`on_enter_in_progress`, `is_status_in_progress`), and stands in its
pictures. Where `transitions` itself takes a status (`machine.get_triggers`, `machine.set_state`), give it that string
too: it reads an enum member by its Python name. Callbacks get the `EventData` (`send_event` is on), whose
`kwargs["at"]` is the time of the move.

Copies of a bound model, by `copy.copy`, `copy.deepcopy` or pickle, are bound models of their own. What
`attrs.evolve` and `dataclasses.replace` make is a new model, to be bound by `add_run`. A model whose class takes no
methods, such as `types.SimpleNamespace`, is copied by `copy.deepcopy` alone: a shallow copy would move the original.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, TypeVar, cast, get_args, overload

import attrs
from transitions import EventData, Machine

from runstate.clock import current
from runstate.integrations.transitions._models import bind, check_model
from runstate.lifecycle import INITIAL_STATUS, RUN_LIFECYCLE, Lifecycle, RunStatus, Stamp
from runstate.run.validators import optional, seconds
from runstate.run.values import raise_if_invalid

__all__ = ["add_run", "run_machine"]

MachineT = TypeVar("MachineT", bound=Machine)

_STATUS: Final = "status"


@overload
def run_machine(
    model: object,
    *,
    initial: str | None = None,
    machine_cls: type[MachineT],
    lifecycle: Lifecycle = RUN_LIFECYCLE,
    expires_in_s: int = 600,
    **machine_options: Any,
) -> MachineT: ...
@overload
def run_machine(
    model: object,
    *,
    initial: str | None = None,
    lifecycle: Lifecycle = RUN_LIFECYCLE,
    expires_in_s: int = 600,
    **machine_options: Any,
) -> Machine: ...
def run_machine(
    model: object,
    *,
    initial: str | None = None,
    machine_cls: type[Machine] = Machine,
    lifecycle: Lifecycle = RUN_LIFECYCLE,
    expires_in_s: int = 600,
    **machine_options: Any,
) -> Machine:
    """Bind `model`, or each of a list or tuple of models, to a machine that obeys `law`; return the machine.

    A model that has a status keeps it, unless `initial` says otherwise; one without is born queued. It gets the times
    it lacks: `created_at` now, `expires_at` `expires_in_s` after that, and None for the stamps that no move wrote yet.

    `machine_cls` is any flat machine of `transitions`: `GraphMachine` draws, `LockedMachine` locks, the triggers of
    `AsyncMachine` are awaited. All other options go to it as they are (`queued=True`, `after_state_change=...`). Naming
    what is decided here (states, transitions, auto_transitions, model_attribute, send_event) is a TypeError.

    Raises as `add_run`; then none of the models is bound.
    """
    separator: str | None = getattr(machine_cls.state_cls, "separator", None)  # hierarchical machines have one
    if separator is not None and any(separator in status for status in lifecycle.statuses):
        raise TypeError(
            f"{machine_cls.__name__} reads {separator!r} in a status as a nested state; "
            "use a flat machine, or one whose states have another separator"
        )
    machine = machine_cls(
        model=None,
        initial=INITIAL_STATUS.value,
        states=[
            {"name": status.value, "final": lifecycle.is_terminal(status), "on_enter": Stamps(lifecycle, status)}
            for status in lifecycle.statuses
        ],
        transitions=[
            {"trigger": row.event.value, "source": row.source.value, "dest": row.target.value, "before": tell_time}
            for row in lifecycle.transitions
        ],
        auto_transitions=False,
        model_attribute=_STATUS,
        send_event=True,
        **machine_options,
    )
    models = tuple(cast("Iterable[object]", model)) if isinstance(model, (list, tuple)) else (model,)
    for place, each in enumerate(models):
        check_model(machine, each, (*machine.models, *models[:place]))
        _begin(each, initial)
    for each in models:
        add_run(machine, each, initial=initial, lifecycle=lifecycle, expires_in_s=expires_in_s)
    return machine


def add_run(
    machine: Machine,
    model: object,
    *,
    initial: str | None = None,
    lifecycle: Lifecycle = RUN_LIFECYCLE,
    expires_in_s: int = 600,
) -> None:
    """Bind one more model to a machine made by `run_machine` with the same law; one machine serves any number of them.

    `machine.add_model(model)` binds too, but checks nothing of this, makes the model queued whatever it was, and leaves
    its times to you.

    Raises, and leaves the model as it was: ValueError when its status is none of the nine, when a time it has is not in
    Unix seconds, or when another model on the machine equals this one (`transitions` takes equal models for one, and
    would leave this one unbound without a word); TypeError for a model that cannot be bound: it is a class, takes no
    new attributes, has an attribute of its own where an event belongs, or is bound to another machine.
    """
    check_model(machine, model, machine.models)
    status, created_at = _begin(model, initial)
    bind(machine, model, status)
    times = dict[str, int | None].fromkeys(get_args(Stamp))
    times |= {"created_at": created_at, "expires_at": created_at + expires_in_s}
    for name, time in times.items():
        if getattr(model, name, None) is None:
            setattr(model, name, time)
    if not lifecycle.is_present("expires_at", status):
        _clear_deadline(model)


def _begin(model: object, initial: str | None) -> tuple[RunStatus, int]:
    """Return where a model begins, and its birth in Unix seconds. Raises ValueError if what it has is neither."""
    status = RunStatus(initial or getattr(model, _STATUS, None) or INITIAL_STATUS)
    times = {name: getattr(model, name, None) for name in ("created_at", "expires_at", *get_args(Stamp))}
    raise_if_invalid([fault for name, time in times.items() for fault in optional(seconds)(name, time)])
    created_at: int | None = times["created_at"]
    return status, int(current.time()) if created_at is None else created_at


def tell_time(event: EventData) -> None:
    """Settle the time of a move before anything moves: `at`, else the clock; then `event.kwargs["at"]` holds it.

    Raises `InvalidRun` when `at` is not Unix seconds.
    """
    at: object = event.kwargs.get("at")
    raise_if_invalid(optional(seconds)("at", at))
    event.kwargs["at"] = int(current.time()) if at is None else at


@attrs.frozen
class Stamps:
    """Writes what a move into `status` writes, before any other callback sees the model there."""

    __name__ = "stamps"  # `transitions` writes it into a picture that shows callbacks

    lifecycle: Lifecycle
    status: RunStatus

    def __call__(self, event: EventData) -> None:
        """Stamp the model as the row of the move says; a move that is no row of the law stamps nothing."""
        source = event.transition.source if event.transition else None
        for row in self.lifecycle.transitions:
            if (row.event, row.source, row.target) == (event.event.name, source, self.status) and row.stamp:
                setattr(event.model, row.stamp, event.kwargs["at"])
        if not self.lifecycle.is_present("expires_at", self.status):
            _clear_deadline(event.model)


def _clear_deadline(model: object) -> None:
    setattr(model, "expires_at", None)  # noqa: B010  (a model is any object)
