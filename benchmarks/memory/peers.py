"""The same lifecycle in other libraries: same rows, same stamps, the same fields on the object that carries them.

Each is written as its documentation shows, in its fastest documented form. None of them checks that tool outputs match
the calls, as the baseline and runstate do: the difference is in the peers' favour.
"""

from __future__ import annotations

from functools import partial
from time import time
from typing import Any, Final, Protocol

from transitions import EventData, Machine

from runstate.lifecycle import RUN_LIFECYCLE, RunEvent, RunStatus

STAMPS: Final = {row.target.value: row.stamp for row in RUN_LIFECYCLE.transitions}
NO_USAGE: Final = (0, 0, 0)


class Record:
    """The 26 fields as plain attributes, and what every peer writes into them after a move."""

    def __init__(self, run_id: str, at: int | None = None) -> None:
        now = int(time()) if at is None else at
        self.id = run_id
        self.created_at = now
        self.thread_id = "thread_1"
        self.assistant_id = "asst_1"
        self.status = "queued"
        self.required_action: object = None
        self.last_error: object = None
        self.expires_at: int | None = now + 600
        self.started_at: int | None = None
        self.cancelled_at: int | None = None
        self.failed_at: int | None = None
        self.completed_at: int | None = None
        self.incomplete_details: object = None
        self.model = "gpt-4o"
        self.instructions = None
        self.tools = ()
        self.metadata = None
        self.usage: object = None
        self.max_prompt_tokens = None
        self.max_completion_tokens = None
        self.truncation_strategy = "auto"
        self.tool_choice = "auto"
        self.parallel_tool_calls = True
        self.response_format = "auto"
        self.temperature = 1.0
        self.top_p = 1.0

    def apply_move(self, event: str, target: str, args: tuple[Any, ...]) -> None:
        """Stamp the time and the values of one move."""
        stamp = STAMPS[target]
        if stamp is not None:
            setattr(self, stamp, int(time()))
        self.required_action = args[0] if event == "require_action" else None
        if target in TERMINAL:
            self.expires_at = None
            self.usage = NO_USAGE
            if event == "fail":
                self.last_error = args
            elif event == "mark_incomplete":
                self.incomplete_details = args[0]
            elif event == "complete" and args:
                self.usage = args[0]


TERMINAL: Final = frozenset(status.value for status in RunStatus if RUN_LIFECYCLE.is_terminal(status))


# -- transitions ------------------------------------------------------------------------------------------------------


def _after_transition(event: EventData) -> None:
    model: Any = event.model
    model.apply_move(event.event.name, event.state.name, event.args)


def _machine(model: object) -> Machine:
    return Machine(
        model=model,
        states=[status.value for status in RUN_LIFECYCLE.statuses],
        transitions=[
            {
                "trigger": row.event.value,
                "source": row.source.value,
                "dest": row.target.value,
                "after": _after_transition,
            }
            for row in RUN_LIFECYCLE.transitions
        ],
        initial="queued",
        auto_transitions=False,
        send_event=True,
        model_attribute="status",
    )


class SharedMachineRun(Record):
    """`transitions` with one machine for all models, as its FAQ advises for many models: triggers found on demand."""

    machine = _machine(None)

    def __getattr__(self, name: str) -> Any:
        try:
            event = self.machine.events[name]
        except KeyError:
            raise AttributeError(name) from None
        return partial(event.trigger, self)


class OwnMachineRun(Record):
    """`transitions` as its README begins: each model makes its machine."""

    def __init__(self, run_id: str, at: int | None = None) -> None:
        super().__init__(run_id, at)
        self.machine = _machine(self)


# -- automat ----------------------------------------------------------------------------------------------------------


class RunInputs(Protocol):
    def start(self) -> None: ...
    def require_action(self, action: object) -> None: ...
    def submit_tool_outputs(self, outputs: object) -> None: ...
    def request_cancel(self) -> None: ...
    def confirm_cancel(self) -> None: ...
    def complete(self, usage: object) -> None: ...
    def mark_incomplete(self, reason: str) -> None: ...
    def fail(self, code: str, message: str) -> None: ...
    def expire(self) -> None: ...


def make_automat() -> Any:
    """Return a callable that makes an automat run from a `Record`. Raises ImportError where automat is missing."""
    from automat import TypeMachineBuilder

    builder: Any = TypeMachineBuilder(RunInputs, Record)
    states = {status: builder.state(status.value) for status in RUN_LIFECYCLE.statuses}

    def handler(event: RunEvent, target: RunStatus) -> Any:
        name, status = event.value, target.value

        def handle(_inputs: RunInputs, core: Record, *args: object) -> None:
            core.status = status
            core.apply_move(name, status, args)

        return handle

    for row in RUN_LIFECYCLE.transitions:
        upon = states[row.source].upon(getattr(RunInputs, row.event.value)).to(states[row.target])
        upon(handler(row.event, row.target))
    return builder.build()


# -- python-statemachine ----------------------------------------------------------------------------------------------


def make_statemachine() -> tuple[type[Any], type[Exception]]:
    """Return the class of machines and its refusal. Raises ImportError where python-statemachine is missing."""
    from statemachine import State, StateMachine
    from statemachine.exceptions import TransitionNotAllowed

    def after_transition(self: Any, *args: object, event: object, target: Any) -> None:
        self.model.apply_move(str(event), target.id, args)

    states: dict[RunStatus, Any] = {
        status: State(
            value=status.value,
            initial=status is RUN_LIFECYCLE.transitions[0].source,
            final=RUN_LIFECYCLE.is_terminal(status),
        )
        for status in RUN_LIFECYCLE.statuses
    }
    events: dict[str, Any] = {}
    for row in RUN_LIFECYCLE.transitions:
        arrow = states[row.source].to(states[row.target])
        events[row.event.value] = events[row.event.value] | arrow if row.event.value in events else arrow
    body = {**{status.value: state for status, state in states.items()}, **events, "after_transition": after_transition}
    metaclass: Any = type(StateMachine)
    return metaclass("StatemachineRun", (StateMachine,), body), TransitionNotAllowed
