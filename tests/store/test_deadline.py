"""The deadline of a run: what may be asked only before it, in every way there is to ask, and what counts after."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from runstate import IllegalTransition, ManualClock, TerminalStatus, Usage, use_clock
from runstate.errors import DeadlinePassed, OutcomeUnknown, VersionConflict
from runstate.store import Store, open_store
from runstate.store._postgres import connection as postgres_module
from tests.store.conftest import empty
from tests.store.support import (
    FIRST,
    Prompt,
    ask_store,
    at_once,
    bring_in_store,
    by_hand,
    held_back,
    names,
    update,
)
from tests.store.test_lost_answers import losing
from tests.support.lifecycle import NOW, TABLE, UNTIL_DEADLINE, USED, WAYS

OUTPUTS = {"call_1": "sunny"}
DEADLINE = NOW + 600
ALLOWANCE_S = 400 * 86_400
"""How long after the deadline, or the database's clock, a transition may be."""
STANDS = {"start": "queued", "submit_tool_outputs": "requires_action"}
"""Where what ends with the deadline may be asked."""

LATE = sorted(UNTIL_DEADLINE)


def told(store: Store, run_id: str) -> list[str]:
    return [str(entry.event or "created") for entry in store.history(run_id)]


# --- late ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", LATE)
@pytest.mark.parametrize("late_s", [0, 0.25, 1, 3600])
def test_a_late_request_expires_the_run_and_is_refused(
    any_store: Store, clock: ManualClock, event: str, late_s: float
) -> None:
    """From the second of the deadline on, nobody having swept: the run expires by a move of its own, then refuses."""
    run = bring_in_store(any_store, STANDS[event], id="run_1", actor="worker")
    clock.now = DEADLINE + late_s
    assert run.is_due()
    with pytest.raises(TerminalStatus) as refusal:
        ask_store(any_store, "run_1", event, actor="web")
    after = any_store.get("run_1")
    assert ("expired", run.status, "expire", "web") == (after.status, after.source, after.event, after.actor)
    assert (int(DEADLINE + late_s), None) == (after.completed_at, after.expires_at)
    last = any_store.history("run_1")[-1]
    assert (run.version + 1, {"asked": event, "expires_at": DEADLINE}) == (last.version, last.detail)
    assert (after, event, (), "expired") == (
        *(refusal.value.run, refusal.value.event, refusal.value.allowed, refusal.value.status),
    )
    when = f"{datetime.fromtimestamp(int(DEADLINE + late_s), UTC):%Y-%m-%dT%H:%M:%SZ}"
    assert str(refusal.value) == (
        f"run run_1 is expired (by expire, web) and cannot {event}; the store expired it at {when}, because its "
        "deadline had passed; expired is terminal, nothing leaves it"
    )
    before = any_store.get("run_1"), any_store.history("run_1")
    with pytest.raises(TerminalStatus) as again:
        ask_store(any_store, "run_1", event, actor="web")
    assert str(refusal.value) == str(again.value)
    assert before == (any_store.get("run_1"), any_store.history("run_1"))


@pytest.mark.parametrize("event", LATE)
@pytest.mark.parametrize("early_s", [0.25, 1, 599])
def test_a_request_in_time_is_granted(any_store: Store, clock: ManualClock, event: str, early_s: float) -> None:
    """Up to the last moment before it the deadline changes nothing."""
    run = bring_in_store(any_store, STANDS[event])
    clock.now = DEADLINE - early_s
    assert not run.is_due()
    assert TABLE[STANDS[event], event] == ask_store(any_store, run.id, event).status


@pytest.mark.parametrize("offset_s", [-1, -0.25, 0, 0.25, 1])
def test_one_moment_for_all(any_store: Store, clock: ManualClock, offset_s: float) -> None:
    """`is_due`, a look, a claim, a claim by id, a start, a submit and the sweep take one moment for the deadline."""
    queued = [bring_in_store(any_store, "queued", id=f"run_{n}", queue=f"queue_{n}") for n in range(4)]
    waiting = bring_in_store(any_store, "requires_action", id="run_waiting")
    lease = any_store.open_lease("w1", lease_s=1000)
    clock.now = DEADLINE + offset_s
    late = offset_s >= 0
    assert late is queued[0].is_due() is any_store.is_anything_due()
    assert late is (any_store.claim(lease, queues=["queue_0"]) == [])
    assert late is (any_store.claim_id(lease, "run_1") is None)
    for run_id, event in (("run_2", "start"), (waiting.id, "submit_tool_outputs")):
        try:
            ask_store(any_store, run_id, event)
        except TerminalStatus:
            assert late
        else:
            assert not late
    assert late is ("run_3" in any_store.sweep().expired)


@pytest.mark.parametrize("event", LATE)
def test_asked_from_a_version(any_store: Store, clock: ManualClock, event: str) -> None:
    """From another version it is a conflict, and nothing moves, late or not; from the right one it is late."""
    run = bring_in_store(any_store, STANDS[event])
    clock.now = DEADLINE
    with pytest.raises(VersionConflict):
        ask_store(any_store, run.id, event, expected_version=run.version + 1)
    assert run == any_store.get(run.id)
    with pytest.raises(TerminalStatus):
        ask_store(any_store, run.id, event, expected_version=run.version)
    assert "expired" == any_store.get(run.id).status


def test_wrong_outputs_that_are_late(any_store: Store, clock: ManualClock) -> None:
    """That they are for other calls does not matter any more: the run takes none."""
    run = bring_in_store(any_store, "requires_action")
    clock.now = DEADLINE
    with pytest.raises(TerminalStatus):
        any_store.submit_tool_outputs(run.id, {"call_9": "sunny"})
    assert "expired" == any_store.get(run.id).status


@pytest.mark.parametrize("other", [{"not_before": NOW + 300.0}, {"one_live_run_per_thread": "queue"}])
def test_a_late_start_of_what_was_never_ready(any_store: Store, clock: ManualClock, other: dict[str, Any]) -> None:
    """It has expired; that it also waited for its time, or behind another, is no longer the reason."""
    any_store.create(**names(id="head", one_live_run_per_thread="queue", expires_in_s=9000))
    run = any_store.create(**names(**other))
    assert not run.claimable
    clock.now = DEADLINE
    with pytest.raises(TerminalStatus):
        any_store.start(run.id)
    assert ["created", "expire"] == told(any_store, run.id)


def test_a_late_request_lets_the_next_of_its_thread_go(store: Store, clock: ManualClock) -> None:
    """As every end of a run does: the one that waits behind it may be claimed at once."""
    first = bring_in_store(store, "requires_action", one_live_run_per_thread="queue")
    behind = store.create(**names(one_live_run_per_thread="queue", expires_in_s=9000))
    clock.now = DEADLINE
    with pytest.raises(TerminalStatus):
        store.submit_tool_outputs(first.id, OUTPUTS)
    assert (False, True) == (behind.claimable, store.get(behind.id).claimable)


def test_what_its_workers_noted_is_kept(any_store: Store, clock: ManualClock) -> None:
    """The run that a late submit expires has used what its workers counted, as when the sweep expires it."""
    lease = any_store.open_lease("w1", lease_s=1000)
    any_store.create(**names(id="run_1"))
    (claim,) = any_store.claim(lease)
    any_store.save_checkpoint(lease, claim.run, usage=Usage(4, 2))
    ask_store(any_store, "run_1", "require_action")
    clock.now = DEADLINE
    with pytest.raises(TerminalStatus):
        any_store.submit_tool_outputs("run_1", OUTPUTS)
    assert Usage(4, 2) == any_store.get("run_1").usage


def test_many_at_once(store_url: str, store: Store, clock: ManualClock) -> None:
    """Of twenty late submits to one run one expires it, and all are refused alike."""
    run = bring_in_store(store, "requires_action")
    clock.now = DEADLINE
    refusals: list[str] = []

    def submit(own: Store) -> None:
        with pytest.raises(TerminalStatus) as refusal:
            own.submit_tool_outputs(run.id, OUTPUTS, actor="web")
        refusals.append(str(refusal.value))

    at_once(store_url, submit)
    assert (20, 1) == (len(refusals), len(set(refusals)))
    assert ["created", "start", "require_action", "expire"] == told(store, run.id)


# --- among others ----------------------------------------------------------------------------------------------------


def test_a_late_one_spoils_no_neighbour(any_store: Store, clock: ManualClock) -> None:
    """Asked together, by coroutines, in one commit: what is late is refused, what is not is done."""
    late = [bring_in_store(any_store, STANDS[event], expires_in_s=60) for event in LATE]
    fine = [bring_in_store(any_store, STANDS[event]) for event in LATE]
    at_work = bring_in_store(any_store, "in_progress", expires_in_s=60)
    clock.now = NOW + 60
    aio = any_store.aio

    async def ask() -> list[Any]:
        go_on = held_back(any_store)
        wanted: list[Any] = [ask_store(aio, run.id, event) for run, event in zip(late, LATE, strict=True)]
        wanted += [ask_store(aio, run.id, event) for run, event in zip(fine, LATE, strict=True)]
        wanted += [aio.complete(at_work.id, USED), aio.create(**names(id="run_new"))]
        wanted += [aio.request_cancel(late[0].id)]
        asked = [asyncio.ensure_future(one) for one in wanted]
        await asyncio.sleep(0)  # each has handed its command over
        await asyncio.to_thread(go_on)
        return await asyncio.gather(*asked, return_exceptions=True)

    answers = asyncio.run(ask())
    assert [TerminalStatus] * 2 == [type(answer) for answer in answers[:2]]
    assert ["in_progress", "queued", "completed", "queued"] == [str(answer.status) for answer in answers[2:6]]
    assert isinstance(answers[6], TerminalStatus)
    assert ["expired", "expired"] == [any_store.get(run.id).status for run in late]


# --- asked twice ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [None, 3])
def test_outputs_that_were_taken_in_time(any_store: Store, clock: ManualClock, version: int | None) -> None:
    """Asked again after the deadline, also once the run has expired, they are recognised; others are refused."""
    run = bring_in_store(any_store, "requires_action")
    clock.now = DEADLINE - 1
    granted = any_store.submit_tool_outputs(run.id, OUTPUTS, expected_version=version)
    clock.now = DEADLINE + 3600
    assert granted == any_store.submit_tool_outputs(run.id, OUTPUTS, expected_version=version)
    with pytest.raises(IllegalTransition):
        any_store.submit_tool_outputs(run.id, {"call_1": "rainy"})
    assert "queued" == any_store.get(run.id).status
    any_store.sweep()
    again = any_store.submit_tool_outputs(run.id, OUTPUTS, expected_version=version)
    assert ("expired", 5) == (again.status, again.version)


@pytest.fixture
def waiting(tmp_path: Path, clock: ManualClock) -> Iterator[tuple[Store, str]]:
    """A store in a file, and a run that waits for outputs."""
    with open_store(f"sqlite:///{tmp_path / 'runs.db'}") as store:
        yield store, bring_in_store(store, "requires_action").id


def test_outputs_taken_in_time_whose_answer_was_lost(
    waiting: tuple[Store, str], clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline comes before the store has asked again: they were taken, and that is the answer."""
    store, run_id = waiting
    with losing(monkeypatch, lambda: clock.advance(3600)):
        assert "queued" == store.submit_tool_outputs(run_id, OUTPUTS).status
    assert ["created", "start", "require_action", "submit_tool_outputs"] == told(store, run_id)


def test_outputs_not_taken_whose_answer_was_lost(
    waiting: tuple[Store, str], clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked again they are late."""
    store, run_id = waiting
    with losing(monkeypatch, lambda: clock.advance(3600), done=False), pytest.raises(TerminalStatus):
        store.submit_tool_outputs(run_id, OUTPUTS)
    assert ["created", "start", "require_action", "expire"] == told(store, run_id)


def test_a_late_submit_whose_answer_was_lost(
    waiting: tuple[Store, str], clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It expired the run; asked again it is refused, and the run expires once."""
    store, run_id = waiting
    clock.now = DEADLINE
    with losing(monkeypatch, lambda: None), pytest.raises(TerminalStatus) as refusal:
        store.submit_tool_outputs(run_id, OUTPUTS)
    assert not isinstance(refusal.value, OutcomeUnknown)
    assert ["created", "start", "require_action", "expire"] == told(store, run_id)


# --- in a caller's transaction ----------------------------------------------------------------------------------------


@contextmanager
def a_transaction(url: str) -> Iterator[Any]:
    """A connection of a caller's own, with a row of theirs written."""
    place = sqlite3.connect(url.removeprefix("sqlite:///")) if url.startswith("sqlite:") else psycopg.connect(url)
    with closing(place) as connection:
        connection.execute("INSERT INTO orders VALUES ('a')")
        yield connection
        connection.commit()


@pytest.mark.parametrize("event", LATE)
def test_within_it_is_only_refused(
    store_url: str, store: Store, prompt: Prompt, clock: ManualClock, event: str
) -> None:
    """Nothing is moved there, and the caller's own row is committed; what the run can still be asked, it can."""
    run = bring_in_store(store, STANDS[event], id="run_1")
    prompt.run("CREATE TABLE orders (id text)")
    before = prompt.everything()
    clock.now = DEADLINE
    with a_transaction(store_url) as connection, store.within(connection) as bound:
        with pytest.raises(DeadlinePassed) as refusal:
            ask_store(bound, "run_1", event)
        with pytest.raises(VersionConflict):
            ask_store(bound, "run_1", event, expected_version=7)
    assert before == prompt.everything()
    assert [("a",)] == prompt.run("SELECT id FROM orders")
    allowed = ("request_cancel", "fail", "expire")
    assert (run, run.status, event, allowed) == (
        *(refusal.value.run, refusal.value.status, refusal.value.event, refusal.value.allowed),
    )
    assert str(refusal.value) == (
        f"run run_1 is {run.status}, but its deadline was 2027-01-15T08:10:00Z, so it cannot {event}; "
        "allowed there: request_cancel, fail, expire"
    )
    prompt.run("DELETE FROM orders")
    with a_transaction(store_url) as connection, store.within(connection) as bound:
        assert "expired" == bound.expire("run_1").status
    prompt.run("DROP TABLE orders")


@pytest.mark.parametrize("event", LATE)
def test_within_in_time(store_url: str, store: Store, prompt: Prompt, clock: ManualClock, event: str) -> None:
    """Before the deadline it is granted there as everywhere."""
    run = bring_in_store(store, STANDS[event])
    prompt.run("CREATE TABLE orders (id text)")
    clock.now = DEADLINE - 1
    with a_transaction(store_url) as connection, store.within(connection) as bound:
        ask_store(bound, run.id, event)
    assert TABLE[STANDS[event], event] == store.get(run.id).status
    prompt.run("DROP TABLE orders")


# --- what still counts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "event"), sorted(pair for pair in TABLE if pair[1] not in UNTIL_DEADLINE))
def test_outcomes_and_cancels_still_count(any_store: Store, clock: ManualClock, source: str, event: str) -> None:
    """Until the run is expired, an hour after its deadline everything else is as legal as before."""
    run = bring_in_store(any_store, source)
    clock.now = DEADLINE + 3600
    asked = ask_store(any_store, run.id, event)
    idle = event == "request_cancel" and source in ("queued", "requires_action")
    assert ("cancelled" if idle else TABLE[source, event]) == asked.status


def test_a_clock_that_went_back(any_store: Store, clock: ManualClock) -> None:
    """Times in a history never go back: a run that was asked for tools after its deadline takes no outputs any more."""
    run = bring_in_store(any_store, "in_progress")
    clock.now = DEADLINE + 5
    ask_store(any_store, run.id, "require_action")
    clock.now = DEADLINE - 60
    with pytest.raises(TerminalStatus):
        any_store.submit_tool_outputs(run.id, OUTPUTS)
    assert ("expired", (DEADLINE + 5) * 1_000_000) == (
        any_store.get(run.id).status,
        any_store.get(run.id).changed_at_us,
    )


# --- whose clock ------------------------------------------------------------------------------------------------------


def born_an_hour_ago(store: Store, status: str, now: float) -> str:
    """Return the id of a run whose deadline passed long before `now`."""
    with use_clock(ManualClock(now - 3600)):
        return bring_in_store(store, status).id


@pytest.mark.parametrize("event", LATE)
def test_by_nobodys_clock(any_store: Store, event: str) -> None:
    """Where no test has moved the clock, the deadline counts as well."""
    late = born_an_hour_ago(any_store, STANDS[event], time.time())
    fine = bring_in_store(any_store, STANDS[event])
    assert TABLE[STANDS[event], event] == ask_store(any_store, fine.id, event).status
    with pytest.raises(TerminalStatus):
        ask_store(any_store, late, event)
    assert "expired" == any_store.get(late).status


@pytest.mark.parametrize("event", LATE)
@pytest.mark.parametrize("off_s", [-86_400, 86_400])
def test_the_databases_clock_judges(
    postgres_home: str,
    postgres_broom: Prompt,
    monkeypatch: pytest.MonkeyPatch,
    clock: ManualClock,
    event: str,
    off_s: int,
) -> None:
    """PostgreSQL: a client whose own clock is a day off is granted what is in time, and refused what is late."""
    empty(postgres_broom)
    ((now,),) = postgres_broom.run("SELECT extract(epoch FROM clock_timestamp())::bigint")
    with open_store(postgres_home) as store:
        late = born_an_hour_ago(store, STANDS[event], now)
        monkeypatch.setattr(postgres_module, "override_us", lambda: None)  # as if the clock were the machine's own
        clock.now = now + off_s
        fine = bring_in_store(store, STANDS[event])
        assert TABLE[STANDS[event], event] == ask_store(store, fine.id, event).status
        with pytest.raises(TerminalStatus):
            ask_store(store, late, event)
        assert "expired" == store.get(late).status
    empty(postgres_broom)


# --- by plain SQL -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "event"), sorted(TABLE))
def test_the_guards_hold_the_deadline(
    store: Store, prompt: Prompt, clock: ManualClock, source: str, event: str
) -> None:
    """A move by hand, all of it right: of those that end with the deadline, one at its second or later is refused."""
    run = bring_in_store(store, source, id="run_1")
    row = prompt.one(run.id)
    before = prompt.everything()
    for at, late in (
        (DEADLINE * 1_000_000 - 1, False),
        (DEADLINE * 1_000_000, True),
        ((DEADLINE + ALLOWANCE_S) * 1_000_000 - 1, True),
    ):
        statement, values = update(by_hand(row, event, TABLE[source, event], at), run.id)
        with prompt.undone():
            if not late or event not in UNTIL_DEADLINE:
                assert 1 == prompt.changed(statement, values)
                continue
        sentence = prompt.refusal(statement, values)
        assert "runstate: the deadline of the run has passed, so it cannot start or submit_tool_outputs any more" in (
            sentence or "accepted"
        )
        if not prompt.is_sqlite:  # whose triggers can say nothing that is not written in them
            assert f"run run_1: {event} from {source} to {TABLE[source, event]}" in (sentence or "")
    assert before == prompt.everything()


@pytest.mark.parametrize(("source", "event"), sorted(TABLE))
def test_no_move_of_the_far_future(store: Store, prompt: Prompt, clock: ManualClock, source: str, event: str) -> None:
    """A move by hand, all of it right, is refused if it is far ahead of the deadline and of the database's clock."""
    run = bring_in_store(store, source, id="run_1")
    row = prompt.one(run.id)
    before = prompt.everything()
    ahead = (max(DEADLINE, int(time.time()) + 3600) + ALLOWANCE_S) * 1_000_000
    for at in (ahead, 2 * FIRST, 253_402_300_799_999_999):
        sentence = prompt.refusal(*update(by_hand(row, event, TABLE[source, event], at), run.id))
        why = "the deadline of the run has passed" if event in UNTIL_DEADLINE else "a transition is at most 400 days"
        assert f"runstate: {why}" in (sentence or "accepted")
    assert before == prompt.everything()


def test_a_run_gets_ready_in_the_near_future(store: Store, prompt: Prompt, clock: ManualClock) -> None:
    """The same of the time at which a run gets ready."""
    run = store.create(**names(not_before=FIRST / 1e6 + 100))
    before = prompt.everything()
    ahead = (max(DEADLINE, int(time.time()) + 3600) + ALLOWANCE_S) * 1_000_000
    for at in (ahead, 2 * FIRST, 253_402_300_799_999_999, 2**62):
        sentence = prompt.refusal(*update({"claimable_at_us": at}, run.id))
        assert "runstate: a run is claimed at its start" in (sentence or "accepted")
    assert before == prompt.everything()


def test_runs_of_long_ago_expire(store: Store) -> None:
    """Runs that nobody swept for decades, by the clock of the database, are expired, cancelled and settled."""
    clock = ManualClock(1_000_000_000.0)
    with use_clock(clock):
        worked = store.create(**names())
        (claim,) = store.claim(store.open_lease("w1"))
        swept, asked, failing = (store.create(**names()) for _ in range(3))
        clock.advance(time.time() - 1_000_000_000.0)
        assert "cancelled" == store.request_cancel(asked.id).status
        assert "failed" == store.fail(failing.id, "server_error", "too late").status
        assert "completed" == store.complete(claim.run.id).status == store.get(worked.id).status
        assert (swept.id,) == tuple(store.sweep().expired)
        assert "expired" == store.get(swept.id).status


def test_the_guards_judge_by_the_time_that_is_written(store: Store, prompt: Prompt) -> None:
    """A client whose test clock is years off moves its runs: they were born by that clock as well."""
    for now in (1_000_000_000.0, 4_000_000_000.0):
        with use_clock(ManualClock(now)):
            for status in WAYS:
                bring_in_store(store, status)


# --- what goes on meanwhile -------------------------------------------------------------------------------------------


def test_a_watcher_hears_that_it_expired(store: Store, clock: ManualClock) -> None:
    """Whoever watches the run sees the entry of the expiry, and the watch ends."""
    run = bring_in_store(store, "requires_action")
    seen: list[str] = []
    begun = threading.Event()

    def watch() -> None:
        for entry in store.watch(run.id):
            seen.append(str(entry.event))
            begun.set()

    thread = threading.Thread(target=watch)
    thread.start()
    assert begun.wait(10)
    clock.now = DEADLINE
    with pytest.raises(TerminalStatus):
        store.submit_tool_outputs(run.id, OUTPUTS)
    thread.join(10)
    assert ["None", "start", "require_action", "expire"] == seen
