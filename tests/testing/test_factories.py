"""Runs made for a test: they stand where they shall, by a legal path, and remember it."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from runstate import IllegalTransition, InvalidRun, ManualClock, Run, RunStatus, ToolCall, use_clock
from runstate.clock import current
from runstate.store import Store, StoredRun, open_store
from runstate.testing import TrackedRun, a_run, assert_history, walks
from runstate.testing.factories import SETUP_ACTOR, is_setting_up
from runstate.traces import judge, judge_trace
from tests.support.lifecycle import (
    CALL,
    EVENTS,
    MOVES,
    NOW,
    PAIRS,
    STATUSES,
    TABLE,
    TERMINAL,
    WAYS,
    ask,
    bring,
    everything,
)

BORN = 1_700_000_000
REFUSED = [pair for pair in PAIRS if pair not in TABLE]


@pytest.fixture
def store() -> Iterator[Store]:
    """A store in memory."""
    with open_store("sqlite:///:memory:") as opened:
        yield opened


def told(run: TrackedRun) -> list[tuple[int, str | None, str | None, str, int]]:
    """Return a run's history: version, event, source, target, seconds."""
    return [(one.version, one.event, one.source, one.target, one.at_us // 1_000_000) for one in run.entries]


# --- in memory --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", STATUSES)
def test_a_run_in_each_status(status: str) -> None:
    """It stands there, by the shortest way that a worker takes part in, a second an event, and can be."""
    run = a_run(status)
    assert status == run.status
    assert [None, *WAYS[status]] == [entry.event for entry in run.entries]
    assert [BORN + second for second in range(len(WAYS[status]) + 1)] == [at for *_, at in told(run)]
    assert () == judge(run)
    assert_history(run, WAYS[status])


@pytest.mark.parametrize("status", STATUSES)
def test_it_is_what_the_moves_make(status: str) -> None:
    """It has the stamps that the same moves leave on a `Run`, asked one by one at those seconds."""
    expected = bring(status, at=BORN)
    found = a_run(RunStatus(status), id="run_1")
    assert expected.stamps() == found.stamps()
    assert {name for name, value in expected.to_dict().items() if value is None} == {
        name for name, value in found.to_dict().items() if value is None
    }


def test_a_new_run() -> None:
    """Without a status it is new."""
    run = a_run()
    assert "queued" == run.status
    assert [(1, None, None, "queued", BORN)] == told(run)
    assert ("thread_1", "asst_1", "gpt-4o", BORN) == (run.thread_id, run.assistant_id, run.model, run.created_at)


@pytest.mark.parametrize("walk", walks(6))
def test_a_run_by_each_path(walk: Any) -> None:
    """By a path of one's own it passes just those events, and its history says so."""
    run = a_run(path=walk.events)
    assert walk.end == run.status
    assert [*walk.statuses] == [entry.target for entry in run.entries]
    assert [None, *walk.statuses[:-1]] == [entry.source for entry in run.entries]
    assert [*range(1, len(walk.events) + 2)] == [entry.version for entry in run.entries]
    assert {run.id} == {entry.run_id for entry in run.entries}
    assert () == judge(run)
    assert walk.end == a_run(walk.end, path=list(map(str, walk.events))).status


@pytest.mark.parametrize("status", STATUSES)
def test_a_path_must_end_where_the_run_shall_stand(status: str) -> None:
    """A status that the path does not end in is a mistake of the test, also the one that runs are born in."""
    for path in ((), ("start",), ("start", "complete")):
        end = {0: "queued", 1: "in_progress", 2: "completed"}[len(path)]
        if end == status:
            assert status == a_run(status, path=path).status
            continue
        with pytest.raises(ValueError, match=f"^the path .* ends in {end}, not in {status}$"):
            a_run(status, path=path)


def test_a_path_that_is_illegal() -> None:
    """The law refuses it, as it refuses it of any run."""
    with pytest.raises(IllegalTransition):
        a_run(path=["start", "complete", "fail"])


@pytest.mark.parametrize("given", [{"status": "done"}, {"path": ["begin"]}, {"status": "done", "path": []}])
def test_words_that_are_none(given: dict[str, Any]) -> None:
    """An unknown status or event is a `ValueError` that names the nine."""
    with pytest.raises(ValueError, match=r"^unknown (status 'done'|event 'begin'); the nine are "):
        a_run(**given)


def test_settings() -> None:
    """What is given of a run's settings it has; a fault among them is told by its path."""
    run = a_run("completed", id="run_7", thread_id="t", metadata={"a": "b"}, expires_in_s=60)
    assert ("run_7", "t", {"a": "b"}) == (run.id, run.thread_id, dict(run.metadata))
    assert BORN + 60 == a_run(expires_in_s=60).expires_at
    with pytest.raises(InvalidRun, match=r"^temperature: "):
        a_run(temperature=7)


def test_a_clock() -> None:
    """A clock that is given is moved a second an event, and goes on from where it stood."""
    clock = ManualClock(float(NOW))
    run = a_run("completed", clock=clock)
    assert [NOW, NOW + 1, NOW + 2] == [at for *_, at in told(run)]
    assert NOW + 2 == clock.now
    assert (NOW, NOW + 1, NOW + 2) == (run.created_at, run.started_at, run.completed_at)


@pytest.mark.parametrize("born", [0, NOW])
def test_a_birth(born: int) -> None:
    """A time of birth that is given is where the run's own clock begins."""
    run = a_run("completed", at=born)
    assert (born, born + 1, born + 2) == (run.created_at, run.started_at, run.completed_at)
    assert BORN == a_run(at=None).created_at


def test_nobody_else_sees_another_time() -> None:
    """A run in memory is made without touching the clock that the whole process reads."""
    seen: list[float] = []

    class Watching(ManualClock):
        def advance(self, seconds: float) -> None:
            super().advance(seconds)
            seen.append(current.time())

    with use_clock(ManualClock(float(NOW))):
        a_run("completed", clock=Watching(5.0))
    assert [NOW, NOW] == seen


def test_it_says_that_it_is_arranging() -> None:
    """While a run is made, and in that thread alone, its moves are known as none of the test's."""
    seen: list[bool] = []

    class Watching(ManualClock):
        def advance(self, seconds: float) -> None:
            seen.append(is_setting_up())
            other = threading.Thread(target=lambda: seen.append(is_setting_up()))
            other.start()
            other.join()

    a_run("in_progress", clock=Watching(5.0))
    assert [True, False] == seen
    assert not is_setting_up()
    with pytest.raises(IllegalTransition):
        a_run(path=["complete"])
    assert not is_setting_up()


# --- a run that remembers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", STATUSES)
def test_it_equals_the_run_it_is(status: str) -> None:
    """It equals a `Run` and another that remembers, whichever stands first, if all attributes do."""
    run = a_run(status, id="run_1")
    plain = Run.from_dict(run.to_dict())
    assert plain == run
    assert run == plain
    assert not plain != run  # noqa: SIM202
    assert run == a_run(status, id="run_1")
    assert run != a_run(status, id="run_2")
    assert Run.from_dict(a_run(status, id="run_2").to_dict()) != run
    assert run != run.to_dict()
    with pytest.raises(TypeError):
        hash(run)


@pytest.mark.parametrize("event", EVENTS)
def test_it_moves_as_a_run_does(event: str) -> None:
    """Each legal move does to it what it does to a `Run`, and is remembered with its time."""
    for status in STATUSES:
        if (status, event) in TABLE:
            plain = bring(status)
            run = TrackedRun.from_dict(plain.to_dict())
            ask(plain, event, NOW + 77)
            ask(run, event, NOW + 77)
            assert plain == run
            assert [(1, event, status, TABLE[status, event], NOW + 77)] == told(run)


def test_it_asks_the_clock() -> None:
    """A move without a time is remembered at the clock's, down to the microsecond."""
    run = a_run()
    with use_clock(ManualClock(NOW + 0.5)):
        run.start()
    assert (NOW * 1_000_000 + 500_000, NOW) == (run.entries[-1].at_us, run.started_at)


@pytest.mark.parametrize(("status", "event"), REFUSED)
def test_it_refuses_as_a_run_does(status: str, event: str) -> None:
    """A refusal is that of a `Run`; nothing changes, and it leaves no entry."""
    run, plain = a_run(status, id="run_1"), bring(status)
    before, entries = everything(run), run.entries
    with pytest.raises(IllegalTransition) as caught:
        ask(run, event)
    with pytest.raises(IllegalTransition) as expected:
        ask(plain, event)
    assert (type(expected.value), expected.value.args) == (type(caught.value), caught.value.args)
    assert before == everything(run)
    assert entries == run.entries


def test_arguments_that_are_none_leave_no_entry() -> None:
    """What a `Run` cannot take a run that remembers cannot either."""
    run = a_run("in_progress")
    entries = run.entries
    wrongs: list[Callable[[], object]] = [
        lambda: run.complete(at=-1),
        lambda: run.require_action([]),
        lambda: run.fail("oops", "it broke"),  # type: ignore[arg-type]
    ]
    for wrong in wrongs:
        with pytest.raises(InvalidRun):
            wrong()
    assert entries == run.entries


@pytest.mark.parametrize("event", EVENTS)
def test_its_methods_are_those_of_a_run(event: str) -> None:
    """A move has the name, the signature and the docstring of the one it stands for, and returns nothing."""
    assert getattr(Run, event).__doc__ == getattr(TrackedRun, event).__doc__
    assert event == getattr(TrackedRun, event).__name__
    assert set(EVENTS) == set(MOVES)


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda run: pickle.loads(pickle.dumps(run))])
def test_a_copy_has_a_history_of_its_own(status: str, way: Any) -> None:
    """A copy or pickle equals the run and has its history; what either does then the other does not remember."""
    run = a_run(status)
    twin = way(run)
    assert isinstance(twin, TrackedRun)
    assert run == twin
    assert run.entries == twin.entries
    if status not in TERMINAL:
        twin.fail("server_error", "it broke", at=NOW)
        assert len(run.entries) + 1 == len(twin.entries)
        assert status == run.status
        run.expire(at=NOW)
        assert ("fail", "expire") == (twin.entries[-1].event, run.entries[-1].event)


def test_one_of_its_own_making() -> None:
    """`TrackedRun.create` begins a history, at the time given or the clock's."""
    names: dict[str, Any] = {"thread_id": "thread_1", "assistant_id": "asst_1", "model": "gpt-4o"}
    assert [(1, None, None, "queued", NOW)] == told(TrackedRun.create(**names, at=NOW))
    with use_clock(ManualClock(NOW + 0.25)):
        run = TrackedRun.create(**names)
    assert (NOW * 1_000_000 + 250_000, NOW) == (run.entries[0].at_us, run.created_at)
    with pytest.raises(InvalidRun):
        TrackedRun.create(**{**names, "model": 5})


def test_one_that_was_read() -> None:
    """One read from a record remembers nothing of before, and what it does from then on."""
    run = TrackedRun.from_dict(bring("in_progress").to_dict())
    assert () == run.entries
    assert () == copy.copy(run).entries
    run.complete(at=NOW + 9)
    assert [(1, "complete", "in_progress", "completed", NOW + 9)] == told(run)


def test_its_trace_is_plausible() -> None:
    """Snapshots taken on the way are a trace that can be."""
    run = a_run()
    trace = [run.to_dict()]
    for event in ("start", "require_action", "submit_tool_outputs", "start", "complete"):
        ask(run, event, NOW + len(trace))
        trace.append(run.to_dict())
    assert () == judge_trace(trace).errors


def test_its_outputs_are_for_its_calls() -> None:
    """A run with calls of the test's own goes on by a path that answers the sample's."""
    run = a_run("in_progress")
    run.require_action([ToolCall("call_9", "weather"), CALL])
    assert ("call_9", "call_1") == (run.required_action.call_ids if run.required_action else ())


# --- in a store -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", STATUSES)
def test_a_stored_run_in_each_status(status: str, store: Store) -> None:
    """It stands there in the store too, by the same way, by an actor that is none of the test's."""
    run = a_run(status, store=store)
    assert isinstance(run, StoredRun)
    assert status == run.status
    assert store.get(run.id) == run
    history = store.history(run.id)
    assert [None, *WAYS[status]] == [entry.event for entry in history]
    assert {SETUP_ACTOR} >= {entry.actor for entry in history[1:]}
    assert_history(store, WAYS[status])


def test_a_stored_run_takes_the_settings_of_a_store(store: Store) -> None:
    """Its settings are those of `store.create`."""
    run = a_run("completed", store=store, priority=3, queue="q", metadata={"a": "b"})
    assert (3, "q", {"a": "b"}) == (run.priority, run.queue, dict(run.metadata))


def test_a_stored_run_by_a_clock(store: Store) -> None:
    """With a clock its moves are a second apart, and everybody reads the clock of before again."""
    clock = ManualClock(float(NOW))
    run = a_run("completed", store=store, clock=clock)
    assert (NOW, NOW + 1, NOW + 2) == (run.created_at, run.started_at, run.completed_at)
    assert NOW + 2 == clock.now
    assert current.time() < NOW


def test_a_stored_run_by_the_clock_of_all(store: Store, clock: ManualClock) -> None:
    """Without one it is the clock that everybody reads, and nobody moves it."""
    run = a_run("completed", store=store)
    assert (NOW, NOW, NOW) == (run.created_at, run.started_at, run.completed_at)
    assert NOW == clock.now


@pytest.mark.parametrize("before", [(), ("start", "require_action")])
def test_a_stored_run_that_waits_is_cancelled_at_once(before: tuple[str, ...], store: Store) -> None:
    """Where nobody works on it, asking to cancel is confirmed by the store; a path may name that or leave it out."""
    for path in ((*before, "request_cancel"), (*before, "request_cancel", "confirm_cancel")):
        run = a_run("cancelled", path=path, store=store)
        assert "cancelled" == run.status
        assert_history(store, (*before, "request_cancel", "confirm_cancel"), run=run)
    with pytest.raises(ValueError, match=r"request_cancel ends in cancelled, not in cancelling$"):
        a_run("cancelling", path=(*before, "request_cancel"), store=store)
