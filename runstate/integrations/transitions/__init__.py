"""The lifecycle as a `transitions.Machine`, bound to a model of your own.

The nine events become trigger methods of the model. The status is in `model.status`, the times are in `created_at`,
`started_at` and so on, and an illegal move raises `transitions.MachineError`, as with every other machine. States,
transitions, final states and stamps are derived from the table; this module adds none. Tests compare this second engine
with the first in all 81 cells.

This package alone imports `transitions`, and nothing in runstate imports it.

    class Answer: ...

    answer = Answer()
    machine = run_machine(answer)
    answer.start(at=1_700_000_000)
    answer.status, answer.started_at      # ("in_progress", 1700000000)

A model's status is the plain string ("in_progress"): it equals `RunStatus.IN_PROGRESS`, is JSON as it is, and names the
methods that `transitions` derives from it (`on_enter_in_progress`, `is_status_in_progress`) and the boxes of its
diagrams. Where `transitions` itself takes a status (`machine.get_triggers`, `machine.set_state`), give it that string
too: it reads an enum member by its Python name. Callbacks get the `EventData` (`send_event` is on), whose
`kwargs["at"]` is the time of the move.

Copies of a bound model by `copy.copy`, `copy.deepcopy` or pickle are bound models of their own. The results of
`attrs.evolve` and `dataclasses.replace` are new models, to be bound by `add_run`. A model whose class cannot get
methods, such as `types.SimpleNamespace`, must be copied by `copy.deepcopy`: a shallow copy would move the original.
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
    """Bind `model`, or each of a list or tuple of models, to a machine of `lifecycle`; return the machine.

    A model with a status keeps it, unless `initial` is given; one without is queued. Missing times are set:
    `created_at` is now, `expires_at` is `expires_in_s` seconds later, and the stamps that no move wrote yet are None.

    `machine_cls` is any flat machine of `transitions`: `GraphMachine` draws, `LockedMachine` locks, the triggers of
    `AsyncMachine` are awaited. All other options are passed to it (`queued=True`, `after_state_change=...`), except
    those that are set here (states, transitions, auto_transitions, model_attribute, send_event).

    Raises `TypeError` for such an option, and what `add_run` raises; then none of the models is bound.
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
            {"name": status.value, "final": lifecycle.is_terminal(status), "on_enter": StampCallback(lifecycle, status)}
            for status in lifecycle.statuses
        ],
        transitions=[
            {"trigger": row.event.value, "source": row.source.value, "dest": row.target.value, "before": resolve_time}
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
    """Bind one more model to a machine that `run_machine` made with the same lifecycle.

    One machine can have any number of models. `machine.add_model(model)` binds a model too, but without these checks;
    it sets the status to queued and does not set the times.

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
    """Return the first status of a model, and its creation in Unix seconds. Raises ValueError for other values."""
    status = RunStatus(initial or getattr(model, _STATUS, None) or INITIAL_STATUS)
    times = {name: getattr(model, name, None) for name in ("created_at", "expires_at", *get_args(Stamp))}
    raise_if_invalid([error for name, time in times.items() for error in optional(seconds)(name, time)])
    created_at: int | None = times["created_at"]
    return status, int(current.time()) if created_at is None else created_at


def resolve_time(event: EventData) -> None:
    """Set `event.kwargs["at"]` to the time of the move in Unix seconds: `at`, by default the time of the clock.

    Raises `InvalidRun` if `at` is not in Unix seconds.
    """
    at: object = event.kwargs.get("at")
    raise_if_invalid(optional(seconds)("at", at))
    event.kwargs["at"] = int(current.time()) if at is None else at


@attrs.frozen
class StampCallback:
    """Writes the stamps of a move into `status`, before any other callback sees the new status."""

    __name__ = "stamps"  # the name of the callback in diagrams of `transitions`

    lifecycle: Lifecycle
    status: RunStatus

    def __call__(self, event: EventData) -> None:
        """Stamp the model as the transition says; a move that is not in the table stamps nothing."""
        source = event.transition.source if event.transition else None
        for row in self.lifecycle.transitions:
            if (row.event, row.source, row.target) == (event.event.name, source, self.status) and row.stamp:
                setattr(event.model, row.stamp, event.kwargs["at"])
        if not self.lifecycle.is_present("expires_at", self.status):
            _clear_deadline(event.model)


def _clear_deadline(model: object) -> None:
    setattr(model, "expires_at", None)  # noqa: B010  (a model is any object)
