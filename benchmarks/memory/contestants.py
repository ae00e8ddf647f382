"""The contestants: for each, the statements to time, as text that is compiled into the loop without a wrapper.

All have the same methods: the events of the table of transitions. Before anything is timed, `check` drives each through
every move, and compares the result with the row of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from time import time
from typing import Any, Final
from uuid import uuid4

import attrs

from benchmarks.memory import baseline, peers
from runstate.lifecycle import RUN_LIFECYCLE, RunEvent, RunStatus

AT: Final = 1_700_000_000
BASELINE: Final = "baseline"
RUNSTATE: Final = "runstate"
SETTINGS: Final[Mapping[str, Any]] = {
    "instructions": "Answer in one sentence.",
    "tools": ({"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}},),
    "metadata": {"user": "user_1", "page": "start"},
    "max_completion_tokens": 1000,
}

ARGUMENTS: Final[Mapping[RunEvent, str]] = {
    RunEvent.START: "",
    RunEvent.REQUIRE_ACTION: "ACTION",
    RunEvent.SUBMIT_TOOL_OUTPUTS: "OUTPUTS",
    RunEvent.REQUEST_CANCEL: "",
    RunEvent.CONFIRM_CANCEL: "",
    RunEvent.COMPLETE: "USAGE",
    RunEvent.MARK_INCOMPLETE: "'max_completion_tokens'",
    RunEvent.FAIL: "'server_error', 'it broke'",
    RunEvent.EXPIRE: "",
}
TOOL_ROUND: Final = (
    RunEvent.START,
    RunEvent.REQUIRE_ACTION,
    RunEvent.SUBMIT_TOOL_OUTPUTS,
    RunEvent.START,
    RunEvent.COMPLETE,
)


def statement(event: RunEvent) -> str:
    """Return the statement that calls `event` on `run`."""
    return f"run.{event}({ARGUMENTS[event]})"


@attrs.frozen
class Contestant:
    """An implementation of a run, or the reason why it cannot be measured here (`missing`)."""

    name: str
    create: str = ""
    """The expression that makes a run, id `ID` given, time from the clock."""
    create_at: str = ""
    """The same with the time given too, as `AT`."""
    create_set: str = ""
    """The same with `SETTINGS`: instructions, a tool, metadata. Empty if it has none."""
    names: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    record: Callable[[Any], Any] = attrs.field(default=lambda run: run, repr=False)
    """Returns the object that has the 26 fields."""
    makes_id: bool = False
    """It makes its own id. Only exercises that make a run are measured; its moves are those of the row above."""
    live_runs: int = 20_000
    missing: str = ""


def contestants() -> Iterator[Contestant]:
    """Yield every contestant in the order of the tables, the baseline first."""
    yield from _baseline()
    yield from _runstate()
    yield from _transitions()
    yield _automat()
    yield _statemachine()


def _baseline() -> Iterator[Contestant]:
    names = {
        "FloorRun": baseline.BaselineRun,
        "uuid4": uuid4,
        "Refused": baseline.Refused,
        "ACTION": baseline.Action((baseline.Call("call_1", "weather", "{}"),)),
        "USAGE": baseline.Usage(12, 30, 42),
    }
    make = "FloorRun(id={id}, thread_id='thread_1', assistant_id='asst_1', model='gpt-4o'{at})"
    plain, timed, full = (make.format(id="ID", at=rest) for rest in ("", ", at=AT", ", **SETTINGS"))
    yield Contestant(BASELINE, plain, timed, full, names=names)
    own = make.format(id="'run_' + uuid4().hex", at="")
    yield Contestant("baseline, id made (uuid4)", own, own, names=names, makes_id=True)


def _runstate() -> Iterator[Contestant]:
    try:
        from runstate.errors import IllegalTransition
        from runstate.run import Run
        from runstate.run.values import RequiredAction, ToolCall, Usage
    except ImportError as error:
        yield Contestant(RUNSTATE, missing=f"not there yet: {error}")
        return
    names = {
        "Run": Run,
        "Refused": IllegalTransition,
        "ACTION": RequiredAction(tool_calls=(ToolCall(id="call_1", name="weather", arguments="{}"),)),
        "USAGE": Usage(prompt_tokens=12, completion_tokens=30, total_tokens=42),
    }
    make = "Run.create({id}thread_id='thread_1', assistant_id='asst_1', model='gpt-4o'{at})"
    plain, timed, full = (make.format(id="id=ID, ", at=rest) for rest in ("", ", at=AT", ", **SETTINGS"))
    yield Contestant(RUNSTATE, plain, timed, full, names=names)
    own = make.format(id="", at="")
    yield Contestant("runstate, id made", own, own, names=names, makes_id=True)


def _transitions() -> Iterator[Contestant]:
    from transitions import MachineError

    names = {"Refused": MachineError, "ACTION": ("call_1",), "USAGE": (12, 30, 42)}
    title = f"transitions {version('transitions')}"
    for kind, name, live_runs in (
        (peers.SharedMachineRun, f"{title}, one machine", 20_000),
        (peers.OwnMachineRun, f"{title}, a machine each", 200),
    ):
        yield Contestant(name, "Make(ID)", "Make(ID, AT)", names={**names, "Make": kind}, live_runs=live_runs)


def _automat() -> Contestant:
    try:
        from automat import NoTransition

        make = peers.make_automat()
    except ImportError:
        return Contestant("automat", missing="not installed")
    return Contestant(
        f"automat {version('automat')}",
        "made(Record(ID))",
        "made(Record(ID, AT))",
        names={
            "made": _with_core(make),
            "Record": peers.Record,
            "Refused": NoTransition,
            "ACTION": (),
            "USAGE": (1, 2, 3),
        },
        record=lambda run: run.core,
    )


def _with_core(make: Callable[[peers.Record], Any]) -> Callable[[peers.Record], Any]:
    def made(core: peers.Record) -> Any:
        run = make(core)
        run.core = core  # an automat machine hides its core, and the fields of a run must be readable
        return run

    return made


def _statemachine() -> Contestant:
    try:
        machine, refused = peers.make_statemachine()
    except ImportError:
        return Contestant("python-statemachine", missing="not installed")
    return Contestant(
        f"python-statemachine {version('python-statemachine')}",
        "Make(Record(ID), state_field='status')",
        "Make(Record(ID, AT), state_field='status')",
        names={"Make": machine, "Record": peers.Record, "Refused": refused, "ACTION": (), "USAGE": (1, 2, 3)},
        record=lambda run: run.model,
        live_runs=200,
    )


def compile_names(contestant: Contestant, source: str) -> dict[str, Any]:
    """Run `source` among the names of the contestant; return what it defines."""
    space: dict[str, Any] = {
        "ID": "run_000000000000000000000001",
        "AT": AT,
        "OUTPUTS": {"call_1": "sunny"},
        "SETTINGS": SETTINGS,
    }
    space.update(contestant.names)
    exec(compile(source, f"<{contestant.name}>", "exec"), space)
    return space


def statements_to(status: RunStatus) -> str:
    """Return the statements that bring a new `run` to `status`, on the shortest path of the table."""
    path = RUN_LIFECYCLE.shortest_path(RunStatus.QUEUED, status) or ()
    return "".join(f"    {statement(event)}\n" for event in path)


def check(contestant: Contestant) -> None:
    """Raise AssertionError unless every row moves, stamps and clears as in the table, and all else is refused."""
    for status in RunStatus:
        make = f"def make():\n    run = {contestant.create}\n{statements_to(status)}    return run\n"
        ask = "".join(f"def {event}(run):\n    {statement(event)}\n" for event in RunEvent)
        space = compile_names(contestant, make + ask)
        for event in RunEvent:
            run = space["make"]()
            record = contestant.record(run)
            row = RUN_LIFECYCLE.find(status, event)
            where = f"{contestant.name}: {event} in {status}"
            now = int(time())
            if row is None:
                try:
                    space[event](run)
                except space["Refused"]:
                    assert record.status == status, where
                    continue
                raise AssertionError(f"{where} was not refused")
            space[event](run)
            assert record.status == row.target, where
            assert row.stamp is None or getattr(record, row.stamp) >= now, where
            for field in ("expires_at", "required_action", "last_error", "incomplete_details", "usage"):
                assert (getattr(record, field) is not None) is RUN_LIFECYCLE.is_present(field, row.target), (
                    f"{where}: {field}"
                )
