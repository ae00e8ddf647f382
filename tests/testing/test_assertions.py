"""The assertions: each holds where it should, and where it does not, says what was found instead."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from enum import Enum
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import attrs
import pytest
from transitions import MachineError

from runstate import (
    RUN_LIFECYCLE,
    IllegalTransition,
    ManualClock,
    RequiredAction,
    RunEvent,
    RunStatus,
    TerminalStatus,
    ToolCall,
    ToolOutputsMismatch,
    Usage,
    documented,
)
from runstate.errors import RunNotFound
from runstate.integrations.transitions import run_machine
from runstate.store import Store, open_store
from runstate.testing import (
    Cell,
    TrackedRun,
    a_run,
    assert_history,
    assert_moves,
    assert_plausible,
    assert_refused,
    assert_stamps,
    moves,
    refusals,
    walks,
)
from runstate.testing._diff import creation_violations, move_violations, possible_paths, read_fields
from runstate.testing._send import send_event, send_event_to_store
from tests.support.lifecycle import (
    CALL,
    EVENTS,
    NOW,
    PAIRS,
    STAMPED_BY,
    STAMPS,
    STATUSES,
    TABLE,
    TERMINAL,
    WAYS,
    bring,
    new_run,
)
from tests.support.lifecycle import ROWS as SUPPORT_ROWS
from tests.testing.mutants import ROWS, AgentRun, NotAllowed

BORN = 1_700_000_000
NAMED = pytest.mark.parametrize("cell", refusals())


# --- runs of all kinds ------------------------------------------------------------------------------------------------


def agent(status: str = "queued", **other: object) -> AgentRun:
    """Return a run of a user's class, with its status as a string."""
    record = {**a_run(status, id="run_1").to_dict(), **other}
    return AgentRun(ROWS, ManualClock(float(NOW)), **record)


class Status(Enum):
    """A user's own statuses."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    REQUIRES_ACTION = "requires_action"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class EnumRun:
    """A run of a user's class with its status as a member, and its times as moments."""

    def __init__(self, run: AgentRun) -> None:
        self._run = run

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._run, name)
        if name == "status":
            return Status(value)
        return datetime.fromtimestamp(value, UTC) if name.endswith("_at") and value is not None else value


class Model:
    """What `transitions` binds to."""


def model(status: str = "queued") -> Any:
    made = Model()
    run_machine(made, initial=status)
    return made


@attrs.frozen
class Frozen:
    """A run that is not changed in place: a move returns the next."""

    status: str
    started_at: int | None = None
    id: str = "run_1"

    def start(self, at: int = NOW) -> Frozen:
        if self.status != "queued":
            raise NotAllowed
        return attrs.evolve(self, status="in_progress", started_at=at)


class Odd(AgentRun):
    """A run whose start does what a test wants."""

    def start(self, at: int | None = None) -> Any:
        return self.__dict__["does"](self)


def odd(does: Callable[[Any], object], status: str = "queued", **other: object) -> Odd:
    made = Odd(ROWS, ManualClock(float(NOW)), **{**a_run(status, id="run_1").to_dict(), **other})
    made.__dict__["does"] = does
    return made


@pytest.fixture
def store() -> Iterator[Store]:
    """A store in memory."""
    with open_store("sqlite:///:memory:") as opened:
        yield opened


KINDS: Mapping[str, Callable[[str], Any]] = {
    "Run": bring,
    "TrackedRun": lambda status: a_run(status, id="run_1"),
    "str": agent,
    "Enum": lambda status: EnumRun(agent(status)),
    "transitions": model,
}
kinds = pytest.mark.parametrize("kind", KINDS)


# --- what a failure says ----------------------------------------------------------------------------------------------


@attrs.frozen
class Told:
    """The parts of a message."""

    problem: str
    found: tuple[str, ...]
    allowed: str
    way: str
    history: tuple[str, ...]
    lanes: tuple[str, ...]


def told(error: AssertionError) -> Told:
    text, _, lanes = str(error).partition("\n\n")
    problem, *lines = text.splitlines()
    parts: dict[str, list[str]] = {"found": [], "allowed": [], "way there": [], "history": []}
    label = ""
    for line in lines:
        label = line[2:13].strip() or label
        parts[label].append(line[13:])
    return Told(
        problem,
        tuple(parts["found"]),
        "".join(parts["allowed"]),
        "".join(parts["way there"]),
        tuple(parts["history"]),
        tuple(lanes.splitlines()),
    )


def failing(assertion: Callable[[], object]) -> Told:
    """Return what an assertion says that does not hold."""
    with pytest.raises(AssertionError) as caught:
        assertion()
    return told(caught.value)


def allowed_in(status: str) -> str:
    return ", ".join(e for e in EVENTS if (status, e) in TABLE) or f"nothing, {status} is terminal"


def leads(status: str, way: list[str]) -> str:
    for event in way:
        status = TABLE[status, event]
    return status


DOCUMENTED = {(source, event): target for event, source, target, basis in SUPPORT_ROWS if basis == "documented"}


def shortest(table: Mapping[tuple[str, str], str], status: str, event: str) -> int | None:
    """Return how many events it takes at least to have `event` granted; None where no way leads there."""
    reached, length = {status}, 1
    while not any((here, event) in table for here in reached):
        ahead = {target for (source, _), target in table.items() if source in reached}
        if ahead <= reached:
            return None
        reached |= ahead
        length += 1
    return length


def assert_way(found: str, status: str, event: str) -> None:
    """A way that is told ends with what was asked, and is the shortest there is; a documented one, if there is."""
    least = shortest(DOCUMENTED, status, event) or shortest(TABLE, status, event)
    if least is None:
        assert "" == found
    else:
        way = found.split(" -> ")
        assert (least, event) == (len(way), way[-1])
        leads(status, way)


# --- assert_moves: where it holds -------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("cell", moves())
def test_moves(kind: str, cell: Cell) -> None:
    """Each of the 19 moves holds of every kind of run, which is returned, moved."""
    run = KINDS[kind](cell.status)
    assert assert_moves(run, cell.event, to=cell.target) is run
    assert TABLE[cell.status, cell.event] == getattr(run.status, "value", run.status)
    assert_moves(KINDS[kind](cell.status), str(cell.event), str(cell.target))
    assert_moves(KINDS[kind](cell.status), cell.event)


@pytest.mark.parametrize("cell", moves())
def test_moves_of_a_stored_run(cell: Cell, store: Store) -> None:
    """Each move holds of a stored run, which comes back as the store has it; a waiting one is cancelled at once."""
    run = a_run(cell.status, store=store)
    moved = assert_moves(run, cell.event, store=store, actor="me")
    at_once = cell.event == "request_cancel" and cell.status in ("queued", "requires_action")
    assert ("cancelled" if at_once else cell.target) == moved.status
    assert store.get(run.id) == moved
    assert run.status == cell.status
    assert "me" == store.history(run.id)[-1].actor
    twin = a_run(cell.status, store=store)
    assert_moves(twin, cell.event, to=moved.status, store=store)


@pytest.mark.parametrize("walk", walks(6))
def test_moves_along_a_walk(walk: Any) -> None:
    """Along every walk each step holds, with the time it is asked at."""
    runs: list[Any] = [a_run(at=NOW), new_run(), agent(created_at=NOW, expires_at=NOW + 600), model()]
    for run in runs:
        for second, step in enumerate(walk.steps, start=1):
            assert_moves(run, step.event, step.target, at=NOW + second)


def test_moves_by_another_way(store: Store) -> None:
    """`by` asks instead of a method: in place, through a store, or returning the run as it is then."""
    plain = bring("queued")
    assert "in_progress" == assert_moves(plain, "start", by=plain.start).status
    record: dict[str, Any] = {"status": "queued", "started_at": None}
    moved = assert_moves(record, "start", by=lambda: record.update(status="in_progress", started_at=NOW), at=NOW)
    assert moved is record
    waiting = {"status": "queued", "started_at": None}
    after = assert_moves(waiting, "start", by=lambda: {**waiting, "status": "in_progress", "started_at": 5})
    assert {"status": "in_progress", "started_at": 5} == after
    answered = {"status": "queued"}
    assert_moves(answered, "start", by=lambda: answered.update(status="in_progress") or {"ok": True})
    stored = a_run("in_progress", store=store)
    assert "completed" == assert_moves(stored, "complete", by=lambda: store.complete(stored.id), store=store).status


def test_moves_of_a_frozen_run() -> None:
    """Where runs are not changed in place, what the method returns is the run afterwards."""
    run = Frozen("queued")
    assert Frozen("in_progress", NOW) == assert_moves(run, "start")
    assert Frozen("queued") == run
    assert_refused(Frozen("completed"), "start", refused=NotAllowed)


def test_moves_in_camel_case() -> None:
    """A record in the spelling of JavaScript is looked at all the same."""
    record: dict[str, Any] = {"status": "queued", "startedAt": None}
    assert_moves(record, "start", by=lambda: record.update(status="in_progress", startedAt=5))
    wrong: dict[str, Any] = {"status": "queued", "startedAt": None}
    found = failing(lambda: assert_moves(wrong, "start", by=lambda: wrong.update(status="in_progress")))
    assert ("started_at is null, and this move stamps it",) == found.found


def test_moves_of_a_run_with_few_fields() -> None:
    """What a run does not have is not asked for."""
    run = SimpleNamespace(status="queued")
    run.start = lambda: setattr(run, "status", "in_progress")
    assert assert_moves(run, "start") is run


def test_moves_of_a_run_that_went_on_in_the_store(store: Store) -> None:
    """Of a stored run what counts is where it stands, and not where it stood when it was read."""
    run = store.create(thread_id="thread_1", assistant_id="asst_1", model="gpt-4o")
    store.start(run.id)
    assert_refused(run, "start", store=store)
    assert "completed" == assert_moves(run, "complete", store=store).status
    assert "queued" == run.status


def test_what_is_given_and_what_has_samples() -> None:
    """A move gets what is given, and a sample of what it needs and nobody gave."""
    run = assert_moves(a_run("in_progress"), "require_action", calls=[ToolCall("call_9", "weather")])
    assert RequiredAction([ToolCall("call_9", "weather")]) == run.required_action
    assert_moves(run, "submit_tool_outputs")
    failed = assert_moves(a_run("in_progress"), "fail", code="invalid_prompt", usage=Usage(1, 2), at=NOW)
    assert failed.last_error is not None
    assert ("invalid_prompt", "it broke", NOW) == (failed.last_error.code, failed.last_error.message, failed.failed_at)
    assert Usage(1, 2) == failed.usage
    with pytest.raises(ToolOutputsMismatch):
        assert_moves(a_run("requires_action"), "submit_tool_outputs", outputs={"call_7": "?"})


def test_samples_for_a_class_of_ones_own() -> None:
    """Its methods get outputs for the calls it waits for, as the API writes them; what has no sample must be given."""
    seen: list[object] = []

    class Own(SimpleNamespace):
        def submit_tool_outputs(self, outputs: object) -> None:
            seen.append(outputs)
            self.status = "queued"
            self.required_action = None

        def complete(self, usage: object, tokens: int) -> None:
            seen.append(tokens)
            self.status = "completed"

    action = {"submit_tool_outputs": {"tool_calls": [{"id": "a"}, {"id": "b"}]}}
    assert_moves(Own(status="requires_action", required_action=action), "submit_tool_outputs")
    assert_moves(Own(status="requires_action", required_action="something else"), "submit_tool_outputs")
    assert_moves(Own(status="requires_action"), "submit_tool_outputs")
    assert [{"a": "ok", "b": "ok"}, {"call_1": "ok"}, {"call_1": "ok"}] == seen
    with pytest.raises(TypeError, match=r"^Own\.complete\(\) needs tokens, and there is no sample of it"):
        assert_moves(Own(status="in_progress"), "complete")
    assert_moves(Own(status="in_progress"), "complete", tokens=7)
    assert 7 == seen[-1]


def test_moves_by_a_part_of_the_law() -> None:
    """By another law, its rows decide, and its refusals are told."""
    run = Model()
    run_machine(run, lifecycle=documented())
    assert_moves(run, "start", lifecycle=documented())
    found = failing(lambda: assert_moves(agent("cancelling"), "complete", lifecycle=documented()))
    problem = "run run_1 came from cancelling to completed by complete, for which the table has no row"
    assert (problem, "in cancelling: confirm_cancel") == (found.problem, found.allowed)


# --- assert_moves: where it does not ----------------------------------------------------------------------------------


@kinds
@NAMED
def test_it_did_not_move(kind: str, cell: Cell) -> None:
    """Each of the 62 is told with where it was refused, what is allowed there, the way, the history, the lanes."""
    run = KINDS[kind](cell.status)
    said = {"str": (f"{cell.status} does not allow {cell.event}",), "Run": (), "TrackedRun": ()}
    found = failing(lambda: assert_moves(run, cell.event, refused=(IllegalTransition, NotAllowed)))
    name = "the run" if kind == "transitions" else "run run_1"
    assert f"{name} did not {cell.event}: it was refused in {cell.status}" == found.problem
    if kind in said:
        assert said[kind] == found.found
    else:
        assert 1 == len(found.found)
    assert allowed_in(cell.status) == found.allowed
    assert_way(found.way, cell.status, cell.event)
    assert (1 + len(WAYS[cell.status]) if kind == "TrackedRun" else 0) == len(found.history)
    assert f"run is {cell.status}" in found.lanes[0].replace("run run_1", "run")


@NAMED
def test_a_stored_run_did_not_move(cell: Cell, store: Store) -> None:
    """Of a stored run the history is the store's, with who asked."""
    run = a_run(cell.status, store=store, id="run_1")
    found = failing(lambda: assert_moves(run, cell.event, store=store))
    assert f"run run_1 did not {cell.event}: it was refused in {cell.status}" == found.problem
    asked = [re.sub(r"\(\+.*?(ms|s)\b", "(", line) for line in found.history]
    way, stood = ["created -> queued ()"], "queued"
    for event in WAYS[cell.status]:
        stood = TABLE[stood, event]
        way.append(f"{event} -> {stood} (, by a_run)")
    assert way == asked
    assert_way(found.way, cell.status, cell.event)


def test_the_whole_message() -> None:
    """A message, word for word."""
    with pytest.raises(AssertionError) as caught:
        assert_moves(a_run("completed", id="run_1"), "start")
    head, lanes = str(caught.value).split("\n\n")
    assert head.splitlines() == [
        "run run_1 did not start: it was refused in completed",
        "  allowed    nothing, completed is terminal",
        "  history    created -> queued (+0ms)",
        "             start -> in_progress (+1.000s)",
        "             complete -> completed (+2.000s)",
    ]
    assert "run run_1 is completed, times in UTC" == lanes.splitlines()[0].strip()
    assert "completed  22:13:22" in lanes
    assert 100 >= max(map(len, str(caught.value).splitlines()))


def test_it_stood_still() -> None:
    """A run that says yes and stays is told."""
    for run in (odd(lambda run: None), odd(lambda run: agent("in_progress"))):
        found = failing(partial(assert_moves, run, "start"))
        assert ("run run_1 did not come to in_progress by start", ("it did not move",)) == (found.problem, found.found)
        assert allowed_in("queued") == found.allowed


@pytest.mark.parametrize("status", [status for status in STATUSES if status not in ("queued", "in_progress")])
def test_it_came_elsewhere(status: str) -> None:
    """A run that comes to another status is told with both, and what was allowed where it was asked."""
    found = failing(lambda: assert_moves(odd(lambda run: setattr(run, "status", status)), "start"))
    assert ("run run_1 did not come to in_progress by start", (f"queued -> {status}",)) == (found.problem, found.found)
    assert f"in queued: {allowed_in('queued')}" == found.allowed
    assert status in found.lanes[0]


def test_it_came_to_no_status() -> None:
    """A status that is none of the nine is told as it is, with no lanes to stand in."""
    found = failing(lambda: assert_moves(odd(lambda run: setattr(run, "status", "running")), "start"))
    assert ("queued -> running",) == found.found
    assert f"in queued: {allowed_in('queued')}" == found.allowed
    assert () == found.lanes


def test_it_came_further_than_said(store: Store) -> None:
    """Whoever says where a cancel shall come is told if it comes further."""
    found = failing(lambda: assert_moves(a_run(store=store), "request_cancel", "cancelling", store=store))
    assert ("queued -> cancelled",) == found.found
    assert 3 == len(found.history)


@NAMED
def test_it_moved_without_a_row(cell: Cell) -> None:
    """An event that is granted where the law has no row for it is told with all that changed."""
    row = next(row for row in ROWS if row.event == cell.event)
    record = a_run(cell.status, id="run_1").to_dict()
    run = AgentRun((*ROWS, row._replace(source=cell.status)), ManualClock(float(NOW)), **record)
    found = failing(lambda: assert_moves(run, cell.event))
    target = row.target
    assert (
        f"run run_1 came from {cell.status} to {target} by {cell.event}, for which the table has no row"
        == found.problem
    )
    if target != cell.status:
        assert f"status went from {cell.status} to {target}" in found.found
        assert f"in {cell.status}: {allowed_in(cell.status)}" == found.allowed


def test_a_worker_is_not_passed_over() -> None:
    """A run in progress that is cancelled at once, with all the stamps of it, passed over its worker."""

    class Hasty(AgentRun):
        def request_cancel(self, at: int | None = None) -> None:
            super().request_cancel(at)
            self.confirm_cancel(at)

    for status in STATUSES:
        if (status, "request_cancel") in TABLE:
            run = Hasty(ROWS, ManualClock(float(NOW)), **a_run(status, id="run_1").to_dict())
            if status != "in_progress":
                assert "cancelled" == assert_moves(run, "request_cancel").status
                continue
            found = failing(partial(assert_moves, run, "request_cancel"))
            assert ("in_progress -> cancelled",) == found.found
            again = Hasty(ROWS, ManualClock(float(NOW)), **a_run(status, id="run_1").to_dict())
            found = failing(partial(assert_moves, again, "request_cancel", to="cancelled"))
            assert found.problem.endswith("by request_cancel, for which the table has no row")


def _with(event: str, **changes: object) -> Callable[[Any], None]:
    def does(run: Any) -> None:
        run._move(event, None)
        vars(run).update(changes)

    return does


OTHERWISE: Mapping[str, tuple[dict[str, object], str]] = {
    "stamp dropped": ({"started_at": None}, "started_at is null, and this move stamps it"),
    "another stamp": (
        {"failed_at": NOW},
        f"failed_at went from null to {NOW}, and this move does not write it",
    ),
    "field set": ({"usage": "much"}, "usage is much, and in in_progress it is null"),
    "field gone": ({"expires_at": None}, "expires_at is null, and in in_progress it has a value"),
    "deadline moved": (
        {"expires_at": NOW},
        f"expires_at went from {BORN + 600} to {NOW}, and a deadline is never moved",
    ),
    "birth moved": ({"created_at": NOW}, f"created_at went from {BORN} to {NOW}, and it never changes"),
    "another id": ({"id": "run_2"}, "id went from run_1 to run_2, and it never changes"),
    "another model": ({"model": "o"}, "model went from gpt-4o to o, and it never changes"),
    "another temperature": ({"temperature": 0.1}, "temperature went from 1.0 to 0.1, and it never changes"),
    "other metadata": ({"metadata": {"a": "b"}}, "metadata went from {} to {'a': 'b'}, and it never changes"),
}


@pytest.mark.parametrize("what", OTHERWISE)
def test_it_moved_otherwise(what: str) -> None:
    """A run that comes where it should, but writes something else, is told with just that."""
    changes, expected = OTHERWISE[what]
    found = failing(lambda: assert_moves(odd(_with("start", **changes)), "start"))
    assert ("run run_1 came to in_progress, but not as start does", (expected,)) == (found.problem, found.found)


def test_all_that_is_wrong_is_told() -> None:
    """Several faults of one move come together."""
    changes = {"started_at": None, "failed_at": 5, "usage": "much", "created_at": 7}
    found = failing(lambda: assert_moves(odd(_with("start", **changes)), "start"))
    assert ["started_at", "failed_at", "usage", "created_at"] == [line.split()[0] for line in found.found]


def test_the_time_of_a_move() -> None:
    """Where the time is given it is what must be stamped; so a stamp that is not written anew is told."""
    run = a_run(path=["start", "require_action", "submit_tool_outputs"], id="run_1").to_dict()
    once = AgentRun([row._replace(stamps=()) for row in ROWS], ManualClock(float(NOW)), **run)
    found = failing(lambda: assert_moves(once, "start", at=NOW))
    assert (f"started_at is {BORN + 1}, and the move was made at {NOW}",) == found.found
    assert_moves(AgentRun(ROWS, ManualClock(float(NOW)), **run), "start", at=NOW)


# --- assert_refused ---------------------------------------------------------------------------------------------------


@kinds
@NAMED
def test_refusals(kind: str, cell: Cell) -> None:
    """Each of the 62 is refused by every kind of run, and the refusal comes back."""
    allowed = [event for event in EVENTS if (cell.status, event) in TABLE]
    expected = {"str": NotAllowed, "Enum": NotAllowed, "transitions": MachineError}.get(kind, IllegalTransition)
    refusal = assert_refused(KINDS[kind](cell.status), cell.event, allowed[::-1], refused=expected)
    assert isinstance(refusal, expected)
    if isinstance(refusal, IllegalTransition):
        assert (TerminalStatus if cell.status in TERMINAL else IllegalTransition) is type(refusal)
        assert (cell.status, cell.event) == (refusal.status, refusal.event)


@NAMED
def test_refusals_of_a_stored_run(cell: Cell, store: Store) -> None:
    """Each is refused by a store, and the run is as it was, with no entry more."""
    run = a_run(cell.status, store=store)
    entries = store.history(run.id)
    allowed = [event for event in EVENTS if (cell.status, event) in TABLE]
    refusal = assert_refused(run, cell.event, allowed, store=store)
    assert isinstance(refusal, IllegalTransition)
    assert run == store.get(run.id)
    assert entries == store.history(run.id)
    assert_refused(
        run, cell.event, store=store, by=lambda: getattr(store, cell.event)(run.id, **SAMPLES.get(cell.event, {}))
    )


@pytest.mark.parametrize(("status", "event"), [("queued", "start"), ("requires_action", "submit_tool_outputs")])
def test_a_stored_run_past_its_deadline(status: str, event: str, store: Store, clock: ManualClock) -> None:
    """That it expires by the request that is refused is as it should be; that it is refused is asserted as ever."""
    run = a_run(status, store=store)
    clock.advance(3600)
    refusal = assert_refused(run, event, [], store=store)
    assert isinstance(refusal, TerminalStatus)
    assert "expired" == store.get(run.id).status
    other = a_run(status, store=store)
    clock.advance(3600)
    late = failing(lambda: assert_moves(other, event, store=store))
    assert f"did not {event}: it was refused in {status}" in late.problem


SAMPLES: Mapping[str, dict[str, Any]] = {
    "require_action": {"calls": [CALL]},
    "submit_tool_outputs": {"outputs": {"call_1": "ok"}},
    "mark_incomplete": {"reason": "max_prompt_tokens"},
    "fail": {"code": "server_error", "message": "it broke"},
}


@kinds
@pytest.mark.parametrize("cell", moves())
def test_it_was_not_refused(kind: str, cell: Cell) -> None:
    """Each of the 19 moves is told as accepted, with all that changed and what was allowed there."""
    found = failing(lambda: assert_refused(KINDS[kind](cell.status), cell.event))
    assert found.problem.endswith(f"was not refused to {cell.event} in {cell.status}")
    assert f"accepted: {cell.target}" == found.found[0]
    assert f"status went from {cell.status} to {cell.target}" in found.found
    stamp = STAMPED_BY.get(str(cell.target))
    assert {*STAMPS} & {line.split()[0] for line in found.found} == ({stamp} if stamp else set())
    assert f"in {cell.status}: {allowed_in(cell.status)}" == found.allowed
    assert (2 + len(WAYS[cell.status]) if kind == "TrackedRun" else 0) == len(found.history)
    assert found.lanes


@pytest.mark.parametrize("cell", moves())
def test_a_stored_run_was_not_refused(cell: Cell, store: Store) -> None:
    """Of a stored run it is told as the store has it then, with its history."""
    run = a_run(cell.status, store=store)
    found = failing(lambda: assert_refused(run, cell.event, store=store))
    assert f"accepted: {store.get(run.id).status}" == found.found[0]
    assert len(store.history(run.id)) == len(found.history)


def test_it_was_granted_and_nothing_done() -> None:
    """A yes with nothing changed is no refusal."""
    found = failing(lambda: assert_refused(odd(lambda run: None, "completed"), "start"))
    assert ("run run_1 was not refused to start in completed", ("accepted: completed",)) == (found.problem, found.found)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"status": "in_progress"}, "status went from completed to in_progress"),
        ({"started_at": NOW}, f"started_at went from {BORN + 1} to {NOW}"),
        ({"usage": None}, "usage went from {'prompt_tokens': 0, 'completion_tokens': 0, 'total_tokens':"),
        ({"expires_at": NOW}, f"expires_at went from null to {NOW}"),
        ({"metadata": {"a": "b"}}, "metadata went from {} to {'a': 'b'}"),
        ({"top_p": 0.5}, "top_p went from 1.0 to 0.5"),
    ],
)
def test_it_was_refused_and_changed(changes: dict[str, object], expected: str) -> None:
    """A refusal that leaves something changed is told with what."""

    def does(run: Any) -> None:
        vars(run).update(changes)
        raise NotAllowed

    found = failing(lambda: assert_refused(odd(does, "completed"), "start", refused=NotAllowed))
    assert "run run_1 was refused to start, and yet it changed" == found.problem
    assert 1 == len(found.found)
    assert found.found[0].startswith(expected)
    assert found.allowed.endswith("nothing, completed is terminal")


def test_what_stands_inside_a_run_is_compared_too() -> None:
    """A change inside of a field is a change, though the field holds the same object."""

    def does(run: Any) -> None:
        run.metadata["a"] = "c"
        raise NotAllowed

    found = failing(lambda: assert_refused(odd(does, metadata={"a": "b"}), "start", refused=NotAllowed))
    assert ("metadata went from {'a': 'b'} to {'a': 'c'}",) == found.found


def test_it_names_others() -> None:
    """A refusal that names other events than wanted is told with both."""
    found = failing(lambda: assert_refused(a_run(id="run_1"), "complete", allowed=["start", "fail"]))
    assert "run run_1 was refused to complete, but not as it should be" == found.problem
    assert ("it names start, request_cancel, fail, expire, not start, fail",) == found.found
    found = failing(lambda: assert_refused(a_run("completed"), "complete", allowed=["start"]))
    assert ("it names nothing, not start",) == found.found
    found = failing(lambda: assert_refused(a_run(), "complete", allowed=[]))
    assert ("it names start, request_cancel, fail, expire, not nothing",) == found.found


def test_it_names_words_of_its_own() -> None:
    """A refusal of a user's may name strings, also such as are no events."""

    class Refusal(Exception):
        allowed = ("start", "begin")

    def does(run: Any) -> None:
        raise Refusal

    found = failing(lambda: assert_refused(odd(does, "completed"), "start", allowed=["start"], refused=Refusal))
    assert ("it names start, begin, not start",) == found.found
    Refusal.allowed = ("start",)  # type: ignore[assignment]
    assert_refused(odd(does, "completed"), "start", allowed=["start"], refused=Refusal)


def test_it_names_nothing() -> None:
    """Where a refusal names no events, those wanted are held against the law."""
    assert_refused(
        agent("requires_action"),
        "start",
        ["submit_tool_outputs", "request_cancel", "fail", "expire"],
        refused=NotAllowed,
    )
    found = failing(lambda: assert_refused(agent("cancelling"), "start", ["complete"], refused=NotAllowed))
    everything = "confirm_cancel, complete, mark_incomplete, fail, expire"
    assert (f"it names nothing, and the table allows {everything} there",) == found.found
    assert_refused(
        agent("requires_action"), "start", ["submit_tool_outputs", "expire"], refused=NotAllowed, lifecycle=documented()
    )


def test_another_error_is_no_refusal() -> None:
    """What is not said to be a refusal comes out as it is; several kinds may be said."""
    run = a_run("requires_action", id="run_1")
    with pytest.raises(ToolOutputsMismatch):
        assert_refused(run, "submit_tool_outputs", outputs={})
    both = (IllegalTransition, ToolOutputsMismatch)
    assert isinstance(assert_refused(run, "submit_tool_outputs", refused=both, outputs={}), ToolOutputsMismatch)
    with pytest.raises(NotAllowed):
        assert_refused(agent("completed"), "start")
    with pytest.raises(NotAllowed):
        assert_moves(agent("completed"), "start")


def test_refusals_by_another_way() -> None:
    """`by` asks instead of a method, of a record too."""
    record = {"status": "completed", "started_at": 5}

    def refuse() -> None:
        raise NotAllowed("no")

    assert "no" == str(assert_refused(record, "start", by=refuse, refused=NotAllowed))

    def change() -> None:
        record.update(started_at=6)
        raise NotAllowed

    found = failing(lambda: assert_refused(record, "start", by=change, refused=NotAllowed))
    assert ("the run was refused to start, and yet it changed", ("started_at went from 5 to 6",)) == (
        found.problem,
        found.found,
    )


# --- misuse of both ---------------------------------------------------------------------------------------------------

both = pytest.mark.parametrize("assertion", [assert_moves, assert_refused])


@both
@pytest.mark.parametrize("words", [("begin",), ("",), ("queued",)])
def test_an_unknown_event(assertion: Any, words: tuple[str, ...]) -> None:
    """An event that is none is a mistake of the test, and nothing is asked."""
    run = a_run()
    with pytest.raises(ValueError, match=rf"^unknown event '{words[0]}'; the nine are start, "):
        assertion(run, *words)
    assert "queued" == run.status


def test_words_that_are_none() -> None:
    """A target or an allowed event that is none is a mistake of the test, and so is one where no row leads."""
    run = a_run()
    with pytest.raises(ValueError, match=r"^unknown status 'done'"):
        assert_moves(run, "start", to="done")
    with pytest.raises(ValueError, match=r"^unknown event 'begin'"):
        assert_refused(run, "complete", allowed=["begin"])
    for event in EVENTS:
        target = next(target for (_, asked), target in TABLE.items() if asked == event)
        for status in STATUSES:
            if status != target and (event, status) != ("request_cancel", "cancelled"):
                with pytest.raises(ValueError, match=rf"^{event} leads to {target}, and never to {status}$"):
                    assert_moves(run, event, to=status)
    assert "queued" == run.status


@both
@pytest.mark.parametrize("run", [object(), {}, {"status": None}, "run_1", SimpleNamespace(state="queued"), None])
def test_what_is_no_run(assertion: Any, run: object) -> None:
    """What has no status is no run."""
    with pytest.raises(TypeError, match=r"has no status, so it is no run$"):
        assertion(run, "start", by=lambda: None)


@both
def test_a_status_that_is_none(assertion: Any) -> None:
    """A run in a status that is none of the nine is not asked."""
    asked: list[int] = []
    with pytest.raises(ValueError, match=r"^unknown status 'QUEUED'"):
        assertion({"status": "QUEUED"}, "start", by=lambda: asked.append(1))
    assert [] == asked


@both
def test_a_store_where_it_does_not_belong(assertion: Any, store: Store) -> None:
    """A stored run needs its store, and any other has none."""
    run = a_run(store=store)
    for given in ({}, {"by": lambda: store.start(run.id)}):
        with pytest.raises(TypeError, match=r"; a stored run is moved and read by its store: give store=$"):
            assertion(run, "start", **given)
    assert run == store.get(run.id)
    with pytest.raises(TypeError, match=r"^a TrackedRun is in no store: leave store= out$"):
        assertion(a_run(), "start", store=store)
    with open_store("sqlite:///:memory:") as elsewhere, pytest.raises(RunNotFound):
        assertion(run, "start", store=elsewhere)


@both
def test_a_run_without_the_method(assertion: Any) -> None:
    """A class that calls it otherwise is asked `by` it."""
    with pytest.raises(
        TypeError, match=r"^SimpleNamespace has no method start\(\); by= sends the event in another way$"
    ):
        assertion(SimpleNamespace(status="queued"), "start")


@both
def test_by_takes_no_arguments(assertion: Any) -> None:
    """What `by` asks with is its own business, but for the time."""
    run = a_run()
    with pytest.raises(TypeError, match=r"^by= takes no arguments, and got usage$"):
        assertion(run, "start", by=run.start, usage=None)
    with pytest.raises(TypeError, match="usage"):
        assertion(run, "start", usage=None)


@both
@pytest.mark.filterwarnings("error")
def test_what_is_to_be_awaited(assertion: Any, store: Store) -> None:
    """A coroutine asks nothing until it is awaited, and is no answer."""

    class Later(SimpleNamespace):
        async def start(self) -> None:
            self.status = "in_progress"

    run = Later(status="queued")
    with pytest.raises(TypeError, match=r"^Later\.start\(\) returned an awaitable: give by=lambda: asyncio\.run\("):
        assertion(run, "start")
    with pytest.raises(TypeError, match=r"^by= returned an awaitable"):
        assertion(run, "start", by=run.start)
    assert_moves(run, "start", by=lambda: asyncio.run(run.start()))


def test_times_of_all_kinds_are_drawn() -> None:
    """The lanes show moments and fractions as times; what is no time of a day is told, and not drawn."""
    moment = datetime.fromtimestamp(BORN, UTC)
    for time, shown in ((moment, True), (BORN + 0.5, True), (BORN * 1000, False), (-1, False), ("soon", False)):
        found = failing(partial(assert_stamps, agent(created_at=time), created_at=0))
        assert f"created_at is {time}, not 0" in found.found
        assert shown is any("queued  22:13:20" in line for line in found.lanes)


# --- assert_stamps ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", STATUSES)
def test_stamps(status: str) -> None:
    """Of each run just those stamps are written that its way wrote, whatever kind it is of."""
    passed = [leads("queued", list(WAYS[status][:length])) for length in range(len(WAYS[status]) + 1)]
    written = {STAMPED_BY[one] for one in passed if one in STAMPED_BY}
    runs = [a_run(status), bring(status), agent(status), KINDS["Enum"](status), a_run(status).to_dict()]
    for run in runs:
        if written:
            assert_stamps(run, *written)
        for stamp in STAMPS:
            if stamp not in written:
                assert_stamps(run, **{stamp: None})
                assert (f"{stamp} is null",) == failing(partial(assert_stamps, run, *written, stamp)).found
            else:
                others = written - {stamp} or {"failed_at"} - written or {"cancelled_at"}
                found = failing(partial(assert_stamps, run, *others)).found
                assert any(line.startswith(f"{stamp} is ") for line in found)


def test_stamps_of_a_stored_run(store: Store) -> None:
    """A stored run has its stamps with it."""
    assert_stamps(a_run("completed", store=store), "started_at", "completed_at")


def test_stamps_by_their_times() -> None:
    """A stamp or any other field is compared with what is given, also with none."""
    run = a_run("failed", id="run_1")
    assert_stamps(run, started_at=BORN + 1, failed_at=BORN + 2, completed_at=None, expires_at=None, created_at=BORN)
    assert_stamps(run, "started_at", failed_at=BORN + 2)
    found = failing(lambda: assert_stamps(run, started_at=5, failed_at=None, completed_at=7))
    assert "run run_1 has not the stamps it should have" == found.problem
    assert (
        f"started_at is {BORN + 1}, not 5",
        f"failed_at is {BORN + 2}, not null",
        "completed_at is null, not 7",
    ) == found.found
    assert ("nothing, failed is terminal", 3) == (found.allowed, len(found.history))
    assert found.lanes
    found = failing(lambda: assert_stamps(run, "started_at"))
    assert (f"failed_at is {BORN + 2}, and was not to be written",) == found.found


def test_stamps_that_come_with_the_first_time() -> None:
    """A class whose stamps are not there before they are written has none."""
    run = SimpleNamespace(status="queued")
    assert_stamps(run, started_at=None)
    assert ("started_at is null",) == failing(lambda: assert_stamps(run, "started_at")).found


def test_stamps_misused() -> None:
    """No stamp, an unknown one and no run are mistakes of the test."""
    with pytest.raises(TypeError, match=r"^say which stamps: "):
        assert_stamps(a_run())
    wrongs: list[Callable[[], None]] = [
        lambda: assert_stamps(a_run(), "expired_at"),
        lambda: assert_stamps(a_run(), "created_at"),
        lambda: assert_stamps(a_run(), expired_at=None),
    ]
    for wrong in wrongs:
        with pytest.raises(TypeError, match=r"^a run has no stamp (expired|created)_at; the stamps are started_at, "):
            wrong()
    with pytest.raises(TypeError, match=r"^object has no status"):
        assert_stamps(object(), "started_at")


# --- assert_history ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("walk", walks(6))
def test_history(walk: Any) -> None:
    """A history is the events since birth, or all statuses, the first too; of a run, or as entries."""
    run = a_run(path=walk.events)
    for of in (run, run.entries, list(run.entries), iter(run.entries)):
        assert_history(of, walk.events)
    assert_history(run, list(map(str, walk.events)))
    assert_history(run, walk.statuses)
    for expected in ((*walk.events, "fail"), walk.events[:-1], (*walk.statuses, "failed"), ("fail", *walk.events[1:])):
        if tuple(expected) not in (walk.events, walk.statuses):
            with pytest.raises(AssertionError, match="has another history, from the "):
                assert_history(run, expected)


def test_history_in_a_store(store: Store) -> None:
    """Of a store it is that of its one run, or of the run that is named, by itself or by its id."""
    run = a_run("completed", store=store)
    assert_history(store, ["start", "complete"])
    other = a_run(store=store)
    assert_history(store, ["start", "complete"], run=run)
    assert_history(store, ["queued"], run=other.id)
    assert_history(store.history(run.id), ["start", "complete"])
    with pytest.raises(AssertionError, match=rf"^run {other.id} has another history, from the first on\n"):
        assert_history(store, ["start"], run=other)


def test_another_history() -> None:
    """What was expected, what was found, from where on they differ, and the entries with their times."""
    run = a_run("cancelled", id="run_1")
    with pytest.raises(AssertionError) as caught:
        assert_history(run, ["start", "complete"])
    assert str(caught.value).splitlines() == [
        "run run_1 has another history, from the second on",
        "  expected  start -> complete",
        "  found     start -> request_cancel -> confirm_cancel",
        "  entries   created -> queued (+0ms)",
        "            start -> in_progress (+1.000s)",
        "            request_cancel -> cancelling (+2.000s)",
        "            confirm_cancel -> cancelled (+3.000s)",
    ]
    places = {(): "first", ("start",): "second", ("start", "request_cancel"): "third"}
    for expected, place in places.items():
        with pytest.raises(AssertionError, match=f"from the {place} on\n"):
            assert_history(run, expected)
    with pytest.raises(AssertionError, match=r"from the 4th on\n  expected  start -> .* -> fail\n"):
        assert_history(run, ["start", "request_cancel", "confirm_cancel", "fail"])
    with pytest.raises(AssertionError, match=r"\n  expected  queued\n  found     queued -> in_progress -> "):
        assert_history(run, ["queued"])
    with pytest.raises(AssertionError, match=r"\n  expected  nothing\n  found     start -> "):
        assert_history(run, [])


def test_history_misused(store: Store) -> None:
    """No history, several runs, none, a word that is none and a run of no store are mistakes of the test."""
    with pytest.raises(TypeError, match=r"^the store holds no run: say which, run="):
        assert_history(store, [])
    first = a_run(store=store)
    a_run(store=store)
    with pytest.raises(TypeError, match=r"^the store holds several runs: say which, run="):
        assert_history(store, [])
    with pytest.raises(RunNotFound):
        assert_history(store, [], run="run_7")
    with pytest.raises(TypeError, match=r"^this StoredRun keeps no history: give the store it is in$"):
        assert_history(cast("Any", first), [])
    with pytest.raises(TypeError, match=r"^run= says which run of a store, and no store was given$"):
        assert_history(a_run(), [], run=first)
    read = TrackedRun.from_dict(a_run().to_dict())
    nones: tuple[object, ...] = (bring("queued"), agent(), read, [], "start", {}, 5, None, [1])
    for none in nones:
        with pytest.raises(TypeError, match=r" keeps no history: make the run with a_run, or give the store"):
            assert_history(cast("Any", none), [])
    with pytest.raises(ValueError, match=r"^unknown event 'begin'"):
        assert_history(a_run(), ["begin"])
    with pytest.raises(ValueError, match=r"^unknown event 'queued'"):
        assert_history(a_run(), ["start", "queued"])


# --- assert_plausible -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", STATUSES)
def test_plausible(status: str, store: Store) -> None:
    """What a legal history left is plausible: as a run, a record, a stored run, a trace."""
    run = a_run(status)
    assert_plausible(run)
    assert_plausible(run.to_dict())
    assert_plausible(run.to_dict("camel"))
    assert_plausible(a_run(status, store=store))
    assert_plausible([a_run(id="run_1"), a_run(status, id="run_1").to_dict()])
    assert_plausible(one for one in (a_run(id="run_1"), a_run(status, id="run_1")))


def test_not_plausible() -> None:
    """What cannot be is told with all that is wrong, of a record or of a trace."""
    record = {**a_run(id="run_1").to_dict(), "completed_at": 5, "last_error": {"code": "a", "message": "b"}}
    with pytest.raises(AssertionError) as caught:
        assert_plausible(record)
    assert "no legal history could have left this record" == str(caught.value).splitlines()[0]
    assert "run run_1: completed_at is set, but no path from queued to queued stamps it" in str(caught.value)
    assert "run run_1: last_error is set, but every path from queued to queued leaves it null" in str(caught.value)
    with pytest.raises(AssertionError) as caught:
        assert_plausible([a_run("completed", id="run_1"), a_run("in_progress", id="run_1")])
    assert "no legal history could have left this trace" == str(caught.value).splitlines()[0]
    assert "no path leads from completed to in_progress" in str(caught.value)
    with pytest.raises(AssertionError, match=r"^no legal history .*\n  not a run: status: "):
        assert_plausible({**record, "status": "done"})
    with pytest.raises(AssertionError, match=r"started_at is null, but every path from queued to cancelling stamps it"):
        assert_plausible(
            [a_run(id="run_1"), a_run("cancelling", path=["request_cancel"], id="run_1")], lifecycle=documented()
        )


def test_nothing_is_not_plausible(tmp_path: Path) -> None:
    """A trace or a recording without a run in it proves nothing."""
    empty = tmp_path / "empty.jsonl"
    empty.write_text("", encoding="utf-8")
    empties: list[Callable[[], None]] = [lambda: assert_plausible([]), lambda: assert_plausible(cassette=empty)]
    for assertion in empties:
        with pytest.raises(AssertionError, match=r"\n  (1: error: )?no run in it$"):
            assertion()


def test_plausible_recordings(tmp_path: Path) -> None:
    """A recording is judged by its path; many findings are told in part, with their number."""
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_text("\n".join(json.dumps(a_run(status).to_dict()) for status in STATUSES), encoding="utf-8")
    assert_plausible(cassette=good)
    assert_plausible(cassette=str(good))
    wrong = {**a_run().to_dict(), "failed_at": NOW}
    bad.write_text("\n".join(json.dumps({**wrong, "id": f"run_{n}"}) for n in range(30)), encoding="utf-8")
    with pytest.raises(AssertionError) as caught:
        assert_plausible(cassette=bad)
    lines = str(caught.value).splitlines()
    assert f"no legal history could have left {bad}" == lines[0]
    assert (22, "  ... and 10 more") == (len(lines), lines[-1])


def test_plausible_misused(tmp_path: Path) -> None:
    """Both or neither, a path as a record, and what is no record are mistakes of the test."""
    wrongs: list[Callable[[], None]] = [
        lambda: assert_plausible(),
        lambda: assert_plausible(a_run(), cassette="a.jsonl"),
    ]
    for wrong in wrongs:
        with pytest.raises(TypeError, match=r"^give either a record or trace, or cassette=$"):
            wrong()
    for path in ("runs.jsonl", tmp_path, b"{}"):
        with pytest.raises(TypeError, match="of a file give its path as cassette="):
            assert_plausible(cast("Any", path))
    with pytest.raises(TypeError, match=r"^an AgentRun is no record; give a Run, or the object as JSON has it$"):
        assert_plausible(cast("Any", agent()))
    with pytest.raises(FileNotFoundError):
        assert_plausible(cassette=tmp_path / "nowhere.jsonl")


# --- what they ask by -------------------------------------------------------------------------------------------------


def test_a_stored_run_has_no_moves(store: Store) -> None:
    """Whoever asks a stored run itself is sent to its store."""
    with pytest.raises(TypeError, match=r"^StoredRun has no method start\(\); a stored run is moved by its store: "):
        send_event(a_run(store=store), "start")
    assert "in_progress" == send_event_to_store(store, a_run(store=store), "start").status


def test_a_method_of_another_name() -> None:
    """An event may be asked by a method called otherwise, which returns what it returns."""
    assert 7 == send_event(SimpleNamespace(status="queued", begin=lambda: 7), "start", method="begin")


def test_what_a_birth_must_be() -> None:
    """A new run is queued, with its deadline and nothing else."""
    assert () == creation_violations(read_fields(a_run()))
    assert () == creation_violations({"status": "queued"})
    wrong = {"status": "cancelling", "started_at": 5, "expires_at": None, "usage": {}}
    assert (
        "it is created cancelling, not queued",
        "started_at is 5 at creation",
        "expires_at is null, and in queued it has a value",
        "usage is {}, and in queued it is null",
    ) == creation_violations(wrong)


@pytest.mark.parametrize(("status", "event"), PAIRS)
def test_what_an_event_may_come_to(status: str, event: str) -> None:
    """A legal event comes where it leads; a cancel of what waits may come to its end at once; else to nothing."""
    ways: tuple[tuple[str, ...], ...] = ((event,),) if (status, event) in TABLE else ()
    if ways and event == "request_cancel" and status in ("queued", "requires_action"):
        ways = (*ways, (event, "confirm_cancel"))
    assert ways == possible_paths(RUN_LIFECYCLE, RunStatus(status), RunEvent(event))


@pytest.mark.parametrize("status", STATUSES)
@kinds
def test_where_a_run_stands(kind: str, status: str) -> None:
    """The status of a run of any kind is a member."""
    assert RunStatus(status) is RunStatus(read_fields(KINDS[kind](status))["status"])


def test_a_move_that_came_elsewhere() -> None:
    """Of a move that did not come where it leads, only that is told."""
    before, after = {"status": "queued"}, {"status": "failed", "started_at": None}
    assert ("status is failed, not in_progress",) == move_violations(before, [RunEvent.START], after)


def test_a_mistake_is_no_refusal() -> None:
    """What cannot be asked at all has not been refused, whatever counts as a refusal."""
    with pytest.raises(TypeError, match="has no method expire"):
        assert_refused(SimpleNamespace(status="queued"), "expire", refused=Exception)


def test_a_refusal_of_something_else() -> None:
    """That another run refused, or another event, says nothing of what was to be refused."""
    ended = a_run("completed", id="run_2")
    with pytest.raises(AssertionError, match="run run_1 was not what was refused to start"):
        assert_refused(a_run("in_progress", id="run_1"), "start", by=lambda: ended.start())
    with pytest.raises(AssertionError, match="run run_2 was not what was refused to start"):
        assert_refused(ended, "start", by=lambda: ended.fail("server_error", "it broke"))


def test_one_word_is_no_list() -> None:
    """A word alone would be read by its letters."""
    with pytest.raises(TypeError, match=r"expected: expected a list, such as \['start'\]"):
        assert_history(a_run("in_progress"), "start")
    with pytest.raises(TypeError, match=r"allowed: expected a list, such as \['start'\]"):
        assert_refused(a_run("completed"), "start", allowed="start")


def test_how_a_class_says_no() -> None:
    """An error of a class of one's own comes with a note on how to say that it is a refusal."""

    class Mine:
        status = "queued"

        def complete(self) -> None:
            raise ValueError("not yet")

    with pytest.raises(ValueError, match="not yet") as raised:
        assert_refused(Mine(), "complete")
    assert ["if that is how a Mine refuses: refused=ValueError"] == raised.value.__notes__
