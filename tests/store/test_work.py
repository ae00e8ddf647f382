"""What workers ask of a store: leases, claims, outcomes, take-overs, and the sweep that all may ask."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest

from runstate import InvalidRun, LastError, ManualClock, RunEvent, TerminalStatus, Usage
from runstate.errors import LeaseLost, RunNotFound
from runstate.store import Checkpoint, Claim, Lease, Store
from runstate.store._worker_types import Settle
from runstate.traces import judge
from tests.store.support import Prompt, ask_store, bring_in_store, names
from tests.support.lifecycle import CALL, GIVEN, NOW, STAMPED_BY, STATUSES, TABLE

USAGE = '{"prompt_tokens":12,"completion_tokens":30,"total_tokens":42}'


def ids(claims: list[Claim]) -> list[str]:
    return [claim.run.id for claim in claims]


def settling(run: Any, event: str) -> Settle:
    """Return an outcome with all that the event brings."""
    carried = {
        "require_action": {"required_action": json.dumps(GIVEN["required_action"])},
        "mark_incomplete": {"incomplete_details": json.dumps(GIVEN["incomplete_details"])},
        "fail": {"last_error": json.dumps(GIVEN["last_error"])},
    }
    usage = None if event == "require_action" else USAGE
    return Settle(run, RunEvent(event), usage, **carried.get(event, {}))  # type: ignore[arg-type]


@pytest.fixture
def lease(store: Store, clock: ManualClock) -> Lease:
    """The lease of a worker, good for thirty seconds."""
    return store.open_lease("w1", lease_s=30)


# --- claims -----------------------------------------------------------------------------------------------------------


def test_the_order_of_claims(any_store: Store, clock: ManualClock) -> None:
    """The highest priority first, of one priority the oldest; however many at a time."""
    priorities = [0, 5, -3, 5, 0, 2**31 - 1, -(2**31), 0]
    runs = any_store.create_many([names(id=f"run_{n}", priority=p) for n, p in enumerate(priorities)])
    expected = [run.id for run in sorted(runs, key=lambda run: (-run.priority, run.seq))]
    lease = any_store.open_lease("w1")
    assert [] == any_store.claim(lease, 0)
    found = ids(any_store.claim(lease)) + ids(any_store.claim(lease, 3)) + ids(any_store.claim(lease, 100))
    assert expected == found
    assert [] == any_store.claim(lease, 100)


def test_the_order_of_queues(any_store: Store, clock: ManualClock) -> None:
    """All of the first queue before any of the next, whatever the priority; other queues are left alone."""
    for run_id, queue, priority in (("a", "slow", 9), ("b", "fast", 0), ("c", "fast", 1), ("d", "other", 9)):
        any_store.create(**names(id=run_id, queue=queue, priority=priority))
    lease = any_store.open_lease("w1")
    assert [] == any_store.claim(lease, 9)
    assert [] == any_store.claim(lease, 9, queues=[])
    assert ["c", "b", "a"] == [
        run_id for _ in range(5) for run_id in ids(any_store.claim(lease, 1, queues=("fast", "slow")))
    ]
    assert ["d"] == ids(any_store.claim(lease, 2, queues=("fast", "slow", "other")))


def test_a_claim(store: Store, prompt: Prompt, clock: ManualClock, lease: Lease) -> None:
    """It starts the run, in the worker's name, and the run that is handed over is the run as it stands."""
    store.create(**names(id="run_1", instructions="x", queue="mine", priority=3))
    clock.advance(5)
    (claim,) = store.claim(lease, queues=["mine"])
    run = store.get("run_1")
    assert run == claim.run
    assert ("in_progress", 2, "start", "queued", "w1", 1) == (
        *(run.status, run.version, run.event, run.source, run.actor, run.attempt),
    )
    assert NOW + 5 == run.started_at
    assert (None, Usage(), {}) == (claim.checkpoint, claim.usage, claim.tool_outputs)
    assert lease.token == prompt.one("run_1")["worker"]
    assert ("start", "w1", None) == tuple(getattr(store.history("run_1")[-1], n) for n in ("event", "actor", "detail"))


def test_not_before_its_time(any_store: Store, clock: ManualClock) -> None:
    """A run is not claimed before its time; a sweep then makes it ready, in its place by priority and age."""
    import datetime as dt

    moment = dt.datetime.fromtimestamp(NOW + 100, dt.UTC)
    early = any_store.create(**names(id="early", not_before=moment))
    assert not early.claimable
    any_store.create(**names(id="same", not_before=NOW + 100.0))
    any_store.create(**names(id="past", not_before=NOW - 100))
    any_store.create(**names(id="now"))
    lease = any_store.open_lease("w1")
    assert ["now"] == ids(any_store.claim(lease, 9))
    assert ("past",) == any_store.sweep().promoted
    assert ["past"] == ids(any_store.claim(lease, 9))
    clock.advance(99.9)
    assert () == any_store.sweep().promoted
    assert any_store.claim_id(lease, "early") is None
    clock.advance(0.2)
    assert {"early", "same"} == set(any_store.sweep().promoted)
    assert () == any_store.sweep().promoted
    lease = any_store.open_lease("w2")
    assert ["early", "same"] == ids(any_store.claim(lease, 9))


def test_not_after_its_deadline(any_store: Store, clock: ManualClock) -> None:
    """A run past its deadline is not claimed, though no sweep has come by."""
    any_store.create(**names(id="run_1", expires_in_s=10))
    any_store.create(**names(id="run_2", expires_in_s=20))
    clock.advance(10)
    lease = any_store.open_lease("w1")
    assert any_store.claim_id(lease, "run_1") is None
    assert ["run_2"] == ids(any_store.claim(lease, 9))
    assert ("run_1",) == any_store.sweep().expired


def test_a_certain_run(any_store: Store, clock: ManualClock) -> None:
    """A run is claimed by its id once, if it is queued; whoever is told of it twice gets nothing the second time."""
    any_store.create(**names(id="run_1", queue="any"))
    lease, other = any_store.open_lease("w1"), any_store.open_lease("w2")
    claim = any_store.claim_id(lease, "run_1")
    assert claim is not None
    assert any_store.get("run_1") == claim.run
    assert any_store.claim_id(other, "run_1") is None
    assert any_store.claim_id(other, "run_2") is None
    for status in STATUSES:
        run = bring_in_store(any_store, status)
        assert (status == "queued") is (any_store.claim_id(other, run.id) is not None)


@pytest.mark.parametrize("lapse", ["by time", "by its own wish", "never opened"])
def test_without_a_lease_nothing_is_claimed(store: Store, prompt: Prompt, clock: ManualClock, lapse: str) -> None:
    """A worker whose lease does not hold starts nothing, by queue or id, and takes nothing over."""
    store.create(**names(id="run_1"))
    dead = store.open_lease("dead")
    store.create(**names(id="run_2", queue="mine"))
    store.claim(dead, queues=["mine"])
    store.close_lease(dead)
    lease = store.open_lease("w1", lease_s=1)
    if lapse == "by time":
        clock.advance(1)
    elif lapse == "by its own wish":
        store.close_lease(lease)
    else:
        lease = Lease(12345, "w1", 30.0)
    before = prompt.everything()
    assert [] == store.claim(lease, 9)
    assert store.claim_id(lease, "run_1") is None
    assert [] == store.take_over(lease, 9, queues=["mine"])
    assert before == prompt.everything()
    assert not store.heartbeat(lease).held
    assert before == prompt.everything()


def test_each_run_is_claimed_once(store: Store, clock: ManualClock) -> None:
    """Eight workers at once share two hundred runs, each run once."""
    store.create_many([names()] * 200)
    found: list[str] = []

    def work(number: int) -> None:
        lease = store.open_lease(f"w{number}")
        while claims := store.claim(lease, 7):
            found.extend(ids(claims))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 200 == len(found) == len(set(found))


# --- outcomes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("event", ["require_action", "complete", "mark_incomplete", "fail", "expire", "confirm_cancel"])
def test_an_outcome(store: Store, prompt: Prompt, clock: ManualClock, lease: Lease, event: str, asked: bool) -> None:
    """A worker settles what the law allows where its run stands, with every stamp; the run is then nobody's."""
    store.create(**names(id="run_1"))
    (claim,) = store.claim(lease)
    run = store.request_cancel("run_1", actor="web") if asked else claim.run
    clock.advance(3)
    before = prompt.everything()
    turned = store.settle(lease, [settling(claim.run, event)])
    if (run.status, event) not in TABLE:
        refusal = turned.refused[claim.run.seq]
        assert f"run run_1 is {run.status}" in str(refusal)
        assert f"cannot {event}" in str(refusal)
        assert before == prompt.everything()
        return
    assert {} == turned.refused
    assert [] == list(turned.claims)
    settled = store.get("run_1")
    target = TABLE[run.status, event]
    assert (target, event, "w1", run.version + 1) == (settled.status, settled.event, settled.actor, settled.version)
    if target in STAMPED_BY:
        assert NOW + 3 == getattr(settled, STAMPED_BY[target])
        assert Usage(12, 30) == settled.usage
    assert prompt.one("run_1")["worker"] is None
    assert () == judge(settled)


def test_many_outcomes_at_once(store: Store, clock: ManualClock, lease: Lease) -> None:
    """Outcomes are committed together; one that is refused keeps no other away, and says why."""
    runs = store.create_many([names(id=f"run_{n}") for n in range(10)])
    claims = store.claim(lease, 10)
    store.complete("run_3", actor="hand")
    store.request_cancel("run_4")
    prunable = store.fail("run_5", "server_error", "x")
    clock.advance(1)
    assert 2 == store.prune(0)
    events = ["complete", "fail", "require_action"] * 4
    turned = store.settle(lease, [settling(claim.run, event) for claim, event in zip(claims, events, strict=False)])
    assert {runs[3].seq, prunable.seq} == set(turned.refused)
    assert all(isinstance(turned.refused[run.seq], RunNotFound) for run in (runs[3], prunable))
    left = {run.id: run.status for run in store.list(limit=100).data}
    assert {"run_0": "completed", "run_1": "failed", "run_2": "requires_action", "run_4": "failed"} == {
        run_id: status for run_id, status in left.items() if run_id in ("run_0", "run_1", "run_2", "run_4")
    }
    assert 8 == len(left)


def test_an_outcome_that_lost(store: Store, prompt: Prompt, clock: ManualClock, lease: Lease) -> None:
    """Who ended the run meanwhile is named, and nothing has moved."""
    store.create(**names(id="run_1"))
    (claim,) = store.claim(lease)
    ended = store.expire("run_1", actor="ops")
    before = prompt.everything()
    refusal = store.settle(lease, [settling(claim.run, "complete")]).refused[claim.run.seq]
    assert isinstance(refusal, TerminalStatus)
    assert ended == refusal.run
    assert "run run_1 is expired (by expire, ops) and cannot complete" in str(refusal)
    assert before == prompt.everything()


@pytest.mark.parametrize("by", ["time", "take-over", "wish", "sweep", "another's run", "nobody's run"])
def test_fencing(store: Store, prompt: Prompt, clock: ManualClock, lease: Lease, by: str) -> None:
    """A worker that no longer holds a run cannot settle it, note anything of it or give it back."""
    store.create(**names(id="run_1"))
    (claim,) = store.claim(lease)
    run, holder = claim.run, lease
    if by == "time":
        clock.advance(30)
    elif by == "wish":
        store.close_lease(lease)
    elif by == "sweep":
        clock.advance(31)
        assert 1 == store.sweep().expired_leases
    elif by == "take-over":
        store.close_lease(lease)
        assert ["run_1"] == ids(store.take_over(store.open_lease("w2")))
    elif by == "another's run":
        holder = store.open_lease("w2")
    else:
        run = store.start(store.create(**names(id="run_2")).id)
    before = prompt.everything()
    for event in ("complete", "fail", "expire", "require_action", "mark_incomplete"):
        refusal = store.settle(holder, [settling(run, event)]).refused[run.seq]
        assert isinstance(refusal, LeaseLost)
        assert f"run {run.id} is in_progress and no longer this worker's, so it cannot {event}" in str(refusal)
        assert store.get(run.id) == refusal.run
    assert not store.save_checkpoint(holder, run, usage=Usage(1, 1), checkpoint=Checkpoint(1), progress="x")
    if by not in ("time", "wish", "sweep"):
        assert not store.release(holder, run)
    assert before == prompt.everything()


def test_a_cancel_reaches_the_worker(store: Store, clock: ManualClock, lease: Lease) -> None:
    """A heartbeat tells which of the worker's runs stand where; the worker confirms, and is done."""
    store.create_many([names(id=f"run_{n}") for n in range(3)])
    claims = store.claim(lease, 3)
    store.request_cancel("run_1", actor="web")
    beat = store.heartbeat(lease)
    assert beat.held
    assert {claim.run.seq: "cancelling" if claim.run.id == "run_1" else "in_progress" for claim in claims} == beat.runs
    assert beat.runs == store.owned(lease)
    assert {} == store.settle(lease, [settling(claims[1].run, "confirm_cancel")]).refused
    assert "cancelled" == store.get("run_1").status
    assert 2 == len(store.heartbeat(lease).runs)


# --- leases -----------------------------------------------------------------------------------------------------------


def test_a_lease_is_renewed_until_it_has_lapsed(any_store: Store, clock: ManualClock) -> None:
    """A heartbeat in time gives another span from then on; one that comes too late gives nothing back, ever."""
    lease = any_store.open_lease("w1", lease_s=30)
    for _ in range(5):
        clock.advance(29)
        assert any_store.heartbeat(lease).held
    clock.advance(30)
    assert not any_store.heartbeat(lease).held
    clock.advance(-25)  # a clock that goes back does not help what was swept
    any_store.heartbeat(lease)
    clock.advance(60)
    assert 1 == any_store.sweep().expired_leases
    clock.advance(-80)
    assert not any_store.heartbeat(lease).held
    assert {} == any_store.heartbeat(lease).runs


def test_a_lease_has_a_length(any_store: Store) -> None:
    """Between a twentieth of a second and a day."""
    wrong: list[Any] = [0, -1, 0.01, 86_401, "30", None, True, float("nan")]
    for lease_s in wrong:
        with pytest.raises(InvalidRun, match="lease_s: expected a number"):
            any_store.open_lease("w1", lease_s=lease_s)


def test_tokens_are_no_names(any_store: Store) -> None:
    """Two leases of one worker are two; the token is nowhere to be seen."""
    one, two = any_store.open_lease("w1"), any_store.open_lease("w1")
    assert one.token != two.token
    assert str(one.token) not in repr(one)
    assert ":" in any_store.open_lease().actor


# --- release and take-over --------------------------------------------------------------------------------------------


def test_a_released_run_is_taken_over_at_once(store: Store, prompt: Prompt, clock: ManualClock, lease: Lease) -> None:
    """Its status stays, no loss is counted, and it has no new entry. The next claim is another attempt."""
    store.create(**names(id="run_1"))
    (claim,) = store.claim(lease)
    assert store.release(lease, claim.run)
    assert not store.release(lease, claim.run)
    run = store.get("run_1")
    assert ("in_progress", 2, 1, 0) == (run.status, run.version, run.attempt, run.lost)
    assert 1 == store.sweep().orphaned
    other = store.open_lease("w2")
    (taken,) = store.take_over(other)
    assert (2, 0, "in_progress", 2) == (taken.run.attempt, taken.run.lost, taken.run.status, taken.run.version)
    assert 2 == len(store.history("run_1"))
    assert [] == store.take_over(other)
    assert {} == store.settle(other, [settling(taken.run, "complete")]).refused
    assert "w2" == store.get("run_1").actor


def test_a_dead_workers_runs_are_taken_over(store: Store, clock: ManualClock, lease: Lease) -> None:
    """Not before its lease has lapsed and a sweep has closed it; then once, with the attempt counted."""
    store.create_many([names(id=f"run_{n}", queue="a" if n < 3 else "b") for n in range(5)])
    store.claim(lease, 5, queues=["a", "b"])
    other = store.open_lease("w2", lease_s=1000)
    assert [] == store.take_over(other, 9, queues=["a", "b"])
    clock.advance(31)
    assert [] == store.take_over(other, 9, queues=["a", "b"])
    swept = store.sweep()
    assert (1, 5, 0) == (swept.expired_leases, swept.orphaned, swept.total)
    assert [] == store.take_over(other, 0, queues=["a", "b"])
    assert [] == store.take_over(other, 9, queues=["c"])
    assert ["run_2"] == ids(store.take_over(other, 9, queues=["a"], run_id="run_2"))
    taken = store.take_over(other, 3, queues=["a", "b"])
    assert ["run_0", "run_1"] == sorted(ids(taken))[:2]
    assert {2} == {claim.run.attempt for claim in taken}
    assert [store.get(claim.run.id) for claim in taken] == [claim.run for claim in taken]
    assert 1 == len(store.take_over(other, 9, queues=["a", "b"]))
    assert 0 == store.sweep().orphaned


@pytest.mark.parametrize("last", [0, 1, 2, 9])
def test_so_many_runs_on_their_last_attempt(last: int, store: Store, clock: ManualClock, lease: Lease) -> None:
    """Those with attempts left are taken over first; of those without as many as wanted, and no more than the limit."""
    store.create_many([names(id=f"old_{n}") for n in range(4)])
    store.claim(lease, 4)
    store.close_lease(lease)
    second = store.open_lease("w2")
    assert 4 == len(store.take_over(second, 9))
    store.create_many([names(id=f"new_{n}") for n in range(4)])
    store.claim(second, 4)
    store.close_lease(second)
    other = store.open_lease("w3")
    taken = store.take_over(other, 6, max_attempts=3, last_attempts=last)
    assert [2] * 4 + [3] * min(last, 2) == sorted(claim.run.attempt for claim in taken)
    assert 4 - min(last, 2) == store.sweep(max_attempts=4).orphaned
    assert 4 - min(last, 2) == len(store.take_over(other, 9, max_attempts=3)), "without the number there is no bound"


def test_a_single_attempt_has_no_last_one(store: Store, lease: Lease) -> None:
    """Where a run is begun once at most, all that were released are taken over: they were not begun."""
    store.create_many([names(id=f"run_{n}") for n in range(3)])
    for claim in store.claim(lease, 3):
        store.release(lease, claim.run)
    assert 3 == len(store.take_over(store.open_lease("w2"), 9, max_attempts=1, last_attempts=0))


def test_spent_attempts(store: Store, clock: ManualClock) -> None:
    """A run whose workers die again and again fails with `server_error` when its attempts are spent."""
    store.create(**names(id="run_1", expires_in_s=10_000))
    lease = store.open_lease("w0")
    store.claim(lease)
    for attempt in (2, 3):
        store.close_lease(lease)
        assert () == store.sweep(max_attempts=3).failed
        lease = store.open_lease(f"w{attempt}")
        (taken,) = store.take_over(lease, max_attempts=3)
        assert (attempt, attempt - 1) == (taken.run.attempt, taken.run.lost)
        store.save_checkpoint(lease, taken.run, usage=Usage(attempt, 1))
    store.close_lease(lease)
    last = store.open_lease("last")
    assert [] == store.take_over(last, max_attempts=3)
    swept = store.sweep(max_attempts=3, actor="sweeper")
    assert (("run_1",), (), (), 0) == (swept.failed, swept.expired, swept.cancelled, swept.orphaned)
    run = store.get("run_1")
    assert run.last_error is not None
    assert ("failed", "server_error", "sweeper", Usage(3, 1)) == (run.status, run.last_error.code, run.actor, run.usage)
    assert "the worker of the run died 3 times" == run.last_error.message
    assert () == store.sweep(max_attempts=3).failed


def test_a_tool_round_begins_the_count_again(store: Store, clock: ManualClock, lease: Lease) -> None:
    """Attempts count since the run was last claimed from its queue."""
    store.create(**names(id="run_1"))
    store.claim(lease)
    store.close_lease(lease)
    other = store.open_lease("w2")
    (taken,) = store.take_over(other)
    assert {} == store.settle(other, [settling(taken.run, "require_action")]).refused
    store.submit_tool_outputs("run_1", {"call_1": "sunny"})
    (claim,) = store.claim(other)
    assert (1, {"call_1": "sunny"}) == (claim.run.attempt, claim.tool_outputs)


def test_a_lapsed_cancel_is_confirmed(store: Store, clock: ManualClock, lease: Lease) -> None:
    """A run asked to cancel whose worker died is cancelled by the sweep, whatever its attempts."""
    store.create(**names(id="run_1"))
    (claim,) = store.claim(lease)
    store.save_checkpoint(lease, claim.run, usage=Usage(4, 2))
    store.request_cancel("run_1", actor="web")
    assert () == store.sweep().cancelled
    clock.advance(31)
    swept = store.sweep()
    assert (("run_1",), 1, 0) == (swept.cancelled, swept.expired_leases, swept.orphaned)
    run = store.get("run_1")
    assert ("cancelled", "confirm_cancel", "sweep", Usage(4, 2)) == (run.status, run.event, run.actor, run.usage)
    assert NOW + 31 == run.cancelled_at


# --- the sweep --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", STATUSES)
def test_a_deadline_that_has_passed(store: Store, clock: ManualClock, status: str) -> None:
    """Every live run expires, from each live status; an ended one stays as it is."""
    run = bring_in_store(store, status)
    clock.advance(599)
    assert not run.is_due()
    assert () == store.sweep().expired
    clock.advance(2)
    swept = store.sweep(actor="clock")
    assert ((run.id,) if not run.is_terminal else ()) == swept.expired
    after = store.get(run.id)
    if run.is_terminal:
        assert run == after
    else:
        assert ("expired", status, "clock", NOW + 601) == (after.status, after.source, after.actor, after.completed_at)


def test_a_deadline_while_at_work(store: Store, clock: ManualClock) -> None:
    """A run at work is given half a second more: its worker knows what it used."""
    lease = store.open_lease("w1", lease_s=1000)
    store.create(**names(id="run_1", expires_in_s=10))
    (claim,) = store.claim(lease)
    clock.advance(10)
    assert () == store.sweep().expired
    clock.advance(1.5)
    assert ("run_1",) == store.sweep().expired
    assert isinstance(store.settle(lease, [settling(claim.run, "expire")]).refused[claim.run.seq], TerminalStatus)


def test_a_sweep_is_idempotent(store: Store, prompt: Prompt, clock: ManualClock, lease: Lease) -> None:
    """What is done is done once, also by two that sweep at the same time, and nothing else is touched."""
    for status in STATUSES:
        bring_in_store(store, status, expires_in_s=100)
    store.create_many([names(expires_in_s=1000)] * 5)
    store.claim(lease, 3)
    store.create(**names(not_before=NOW + 50))
    clock.advance(101)
    assert store.is_anything_due()
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(store.sweep())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    before = prompt.everything()
    expired = [run_id for swept in found for run_id in swept.expired]
    assert 4 == len(expired) == len(set(expired))
    assert 1 == sum(swept.expired_leases for swept in found) == sum(len(swept.promoted) for swept in found)
    assert 0 == store.sweep().total
    assert before == prompt.everything()


def test_a_sweep_takes_so_many(any_store: Store, clock: ManualClock) -> None:
    """At most so many of each kind, so that nobody waits for it long."""
    any_store.create_many([names(expires_in_s=1)] * 25)
    clock.advance(2)
    assert [0, 10, 10, 5, 0] == [len(any_store.sweep(limit=limit).expired) for limit in (0, 10, 10, 10, 10)]


def test_nothing_due(any_store: Store, clock: ManualClock) -> None:
    """Where nothing is due a look says so; each thing that a sweep would do makes it say otherwise."""
    assert not any_store.is_anything_due()
    lease = any_store.open_lease("w1")
    any_store.create(**names(expires_in_s=10_000))
    assert not any_store.is_anything_due()
    clock.advance(31)
    assert any_store.is_anything_due()  # the lease
    any_store.sweep()
    assert not any_store.is_anything_due()
    any_store.create(**names(not_before=NOW + 40, expires_in_s=10_000))
    assert not any_store.is_anything_due()
    clock.advance(10)
    assert any_store.is_anything_due()  # its time
    any_store.sweep()
    assert not any_store.is_anything_due()
    clock.advance(20_000)
    assert any_store.is_anything_due()  # the deadlines
    assert 2 == len(any_store.sweep().expired)
    assert not any_store.is_anything_due()
    assert lease.token


# --- what is handed on ------------------------------------------------------------------------------------------------


def test_notes_are_handed_on(any_store: Store, clock: ManualClock) -> None:
    """What a worker noted reaches whoever takes the run over: the checkpoint, the usage; and null leaves what was."""
    any_store.create(**names(id="run_1"))
    lease = any_store.open_lease("w1")
    (claim,) = any_store.claim(lease)
    assert any_store.save_checkpoint(
        lease, claim.run, checkpoint=Checkpoint({"step": 1, "é": [None]}), usage=Usage(1, 2), progress="a"
    )
    assert any_store.save_checkpoint(lease, claim.run, progress="half")
    assert any_store.save_checkpoint(lease, claim.run, usage=Usage(5, 1))
    any_store.close_lease(lease)
    other = any_store.open_lease("w2")
    (taken,) = any_store.take_over(other)
    assert ({"step": 1, "é": [None]}, Usage(5, 2), {}) == (taken.checkpoint, taken.usage, taken.tool_outputs)
    assert any_store.save_checkpoint(other, taken.run, checkpoint=Checkpoint(None))
    assert any_store.release(other, taken.run)
    (again,) = any_store.take_over(any_store.open_lease("w3"))
    assert (None, Usage(5, 2)) == (again.checkpoint, again.usage)


def test_a_checkpoint_is_json(any_store: Store, clock: ManualClock) -> None:
    """What is no JSON is refused when it is made, and a text is not taken for one."""
    any_store.create(**names())
    lease = any_store.open_lease("w1")
    (claim,) = any_store.claim(lease)
    for value in (float("nan"), b"1", {1: 2}, {"a": {1}}, claim):
        with pytest.raises(InvalidRun, match=r"checkpoint(\.|:)"):
            Checkpoint(value)
    wrong: list[Any] = ["", "{", "nul", "1", 5, b"1"]
    for checkpoint in wrong:
        for save in (any_store.save_checkpoint, any_store.post_checkpoint):
            with pytest.raises(InvalidRun, match=r"checkpoint: expected a Checkpoint\(value\), got "):
                save(lease, claim.run, checkpoint=checkpoint)
    any_store.close_lease(lease)
    any_store.sweep()
    (again,) = any_store.take_over(any_store.open_lease("w2"))
    assert again.checkpoint is None


def test_outputs_are_handed_on(any_store: Store, clock: ManualClock) -> None:
    """Outputs reach the next claim, its take-overs too, and not the claim after another round."""
    any_store.create(**names(id="run_1"))
    lease = any_store.open_lease("w1")
    (claim,) = any_store.claim(lease)
    any_store.save_checkpoint(lease, claim.run, checkpoint=Checkpoint(7), usage=Usage(1, 1))
    for outputs in ({"call_1": "sunny"}, {"call_1": ""}):
        any_store.require_action("run_1", [CALL])
        any_store.submit_tool_outputs("run_1", outputs)
        (claim,) = any_store.claim(lease)
        assert (outputs, 7, Usage(1, 1), 1) == (claim.tool_outputs, claim.checkpoint, claim.usage, claim.run.attempt)
        assert any_store.release(lease, claim.run)
        (claim,) = any_store.take_over(lease)
        assert (outputs, 7) == (claim.tool_outputs, claim.checkpoint)
    assert {} == any_store.settle(lease, [settling(claim.run, "complete")]).refused
    assert 9 == any_store.get("run_1").version


WRONG: list[tuple[str, tuple[Any, ...], dict[str, Any], str]] = [
    *(("claim", (bad,), {}, "limit: ") for bad in (-1, "1", None, True, 1.5, 2**63)),
    *(("claim", (1,), {"queues": bad}, "queues") for bad in ("default", 5, None, [5], ["\0"], ["\ud800"], [None])),
    *(("claim_id", (bad,), {}, "run_id: ") for bad in (5, None, "\0", "\ud800")),
    *(("take_over", (bad,), {}, "limit: ") for bad in (-1, "1")),
    *(("take_over", (1,), {"last_attempts": bad}, "last_attempts: ") for bad in (-1, "1")),
    *(("take_over", (1,), given, "") for given in ({"queues": "a"}, {"max_attempts": "x"}, {"run_id": "\0"})),
    *(("sweep", (), given, "") for given in ({"limit": -1}, {"max_attempts": "x"}, {"actor": "\0"}, {"actor": None})),
    *(("prune", (bad,), {}, "older_than_s: ") for bad in (-1, "1", None, True, float("nan"), float("inf"))),
    *(("prune", (1,), {"limit": bad}, "limit: ") for bad in (-1, "1", None)),
    *(("open_lease", (bad,), {}, "actor: ") for bad in (5, "\0", "\ud800")),
    *(("overdue", (bad,), {}, "queue: ") for bad in (5, "\0", "\ud800")),
]


def test_what_a_worker_cannot_ask(store: Store, prompt: Prompt, lease: Lease) -> None:
    """Impossible arguments are refused with a sentence, and nothing is claimed, moved or deleted."""
    store.create(**names())
    bring_in_store(store, "completed")
    before = prompt.everything()
    for method, arguments, given, sentence in WRONG:
        first = (lease,) if method in ("claim", "claim_id", "take_over") else ()
        with pytest.raises(InvalidRun) as refused:
            getattr(store, method)(*first, *arguments, **given)
        assert sentence in str(refused.value), (method, arguments, given)
    assert before == prompt.everything()


# --- the end ----------------------------------------------------------------------------------------------------------


def test_pruning(store: Store, prompt: Prompt, clock: ManualClock) -> None:
    """Runs that ended longer ago go, the oldest first and at most so many, with all that belonged to them."""
    for status in STATUSES:
        lease = store.open_lease("w1")
        run = store.create(**names(id=f"old_{status}", metadata={"a": "b"}, queue=status))
        if status != "queued":
            (claim,) = store.claim(lease, queues=[status])
            store.save_checkpoint(lease, claim.run, progress="x")
        for event in {"requires_action": ["require_action"], "cancelling": ["request_cancel"]}.get(status, []):
            ask_store(store, run.id, event)
        for event in {
            "completed": ["complete"],
            "incomplete": ["mark_incomplete"],
            "failed": ["fail"],
            "cancelled": ["request_cancel", "confirm_cancel"],
            "expired": ["expire"],
        }.get(status, []):
            ask_store(store, run.id, event)
    clock.advance(100)
    new = bring_in_store(store, "completed", id="new")
    before = prompt.everything()
    assert [5, 0, 5] == [store.prune(age, dry_run=True) for age in (50, 101, 0)]
    assert 0 == store.prune(100) == store.prune(50, limit=0)
    assert before == prompt.everything()
    assert [2, 2, 1, 0] == [store.prune(50, limit=2) for _ in range(4)]
    left = {"old_queued", "old_in_progress", "old_requires_action", "old_cancelling", "new"}
    assert left == {run.id for run in store.list(limit=100).data}
    numbers = {row["seq"] for row in prompt.rows("runstate_run")}
    assert numbers == {row["run"] for row in prompt.rows("runstate_history")}
    assert numbers > {row["run"] for row in prompt.rows("runstate_checkpoint")}
    assert left - {"new"} == {row["id"] for row in prompt.rows("runstate_run_config")}
    with pytest.raises(RunNotFound):
        store.history("old_completed")
    assert new == store.get("new")


def test_a_number_is_not_given_twice(any_store: Store, clock: ManualClock) -> None:
    """Numbers rise with every run created, also when the last ones have been pruned."""
    last = bring_in_store(any_store, "completed")
    clock.advance(1)
    assert 1 == any_store.prune(0)
    assert last.seq < any_store.create(**names()).seq


def test_sessions_are_forgotten(store: Store, prompt: Prompt, clock: ManualClock) -> None:
    """Sessions that were closed a day ago and hold nothing go with a prune; nobody's session stays for ever."""
    store.create(**names(id="run_1", expires_in_s=10**6))
    holds = store.open_lease("holds")
    store.claim(holds)
    idle = store.open_lease("idle")
    store.sweep()
    clock.advance(100)
    store.sweep()
    assert 0 == store.prune(0)
    assert {0, holds.token, idle.token} == {row["token"] for row in prompt.rows("runstate_worker_session")}
    clock.advance(25 * 3600)
    assert 0 == store.prune(0)
    assert {0, holds.token} == {row["token"] for row in prompt.rows("runstate_worker_session")}
    assert ["run_1"] == ids(store.take_over(store.open_lease("w2")))


STALE = {
    "plain": {"usage": '{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}'},
    "laden": {},
    "failed": {"event": RunEvent.FAIL, "last_error": '{"code":"server_error","message":"broke"}'},
}


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside another"])
@pytest.mark.parametrize("outcome", STALE)
def test_the_outcome_of_a_former_claim(outcome: str, beside: bool, any_store: Store) -> None:
    """A run moved on by hand, and claimed again by the same worker, is not ended by what the first call did."""
    lease = any_store.open_lease("w1")
    run = any_store.create(**names(id="run_1"))
    (first,) = any_store.claim(lease)
    any_store.require_action(run.id, [CALL])
    any_store.submit_tool_outputs(run.id, {"call_1": "sunny"})
    others = [any_store.create(**names(id="run_2"))] if beside else []
    claims = {claim.run.id: claim.run for claim in any_store.claim(lease, 2)}
    assert {"run_1", *(other.id for other in others)} == claims.keys()
    given: dict[str, Any] = {"event": RunEvent.COMPLETE, **STALE[outcome]}
    stale = Settle(first.run, **given)
    refused = any_store.settle(lease, [stale, *(Settle(claims[other.id], **given) for other in others)]).refused
    assert [LeaseLost] == [type(error) for error in refused.values()]
    assert claims["run_1"] == any_store.get("run_1")
    assert {} == any_store.settle(lease, [Settle(claims["run_1"], **given)]).refused
    assert 6 == any_store.get("run_1").version


def test_notes_of_a_former_claim(any_store: Store) -> None:
    """Nor does that call note anything of the run, or give it back, now that the worker holds it anew."""
    lease = any_store.open_lease("w1")
    run = any_store.create(**names(id="run_1"))
    (first,) = any_store.claim(lease)
    any_store.require_action(run.id, [CALL])
    any_store.submit_tool_outputs(run.id, {"call_1": "sunny"})
    (second,) = any_store.claim(lease)
    assert not any_store.save_checkpoint(lease, first.run, checkpoint=Checkpoint("first"), progress="first")
    assert not any_store.release(lease, first.run)
    assert [second.run.seq] == list(any_store.owned(lease))
    assert any_store.save_checkpoint(lease, second.run, usage=Usage(1, 2))
    assert any_store.release(lease, second.run)
    (third,) = any_store.take_over(any_store.open_lease("w2"))
    assert (None, Usage(1, 2)) == (third.checkpoint, third.usage)


def test_giving_back_what_is_to_be_cancelled(any_store: Store) -> None:
    """A wish to cancel it makes no other claim of it."""
    lease = any_store.open_lease("w1")
    run = any_store.create(**names(id="run_1"))
    (claim,) = any_store.claim(lease)
    any_store.request_cancel(run.id)
    assert any_store.save_checkpoint(lease, claim.run, progress="nearly")
    assert any_store.release(lease, claim.run)
    assert {} == any_store.owned(lease)


@pytest.mark.parametrize("outcome", STALE)
def test_the_outcome_of_a_run_that_is_to_be_cancelled(outcome: str, any_store: Store) -> None:
    """It was only asked meanwhile: the claim is the same, and its outcome is taken."""
    lease = any_store.open_lease("w1")
    run = any_store.create(**names(id="run_1"))
    (claim,) = any_store.claim(lease)
    any_store.request_cancel(run.id)
    given: dict[str, Any] = {"event": RunEvent.COMPLETE, **STALE[outcome]}
    assert {} == any_store.settle(lease, [Settle(claim.run, **given)]).refused
    assert any_store.get("run_1").is_terminal


def test_an_outcome_made_of_wrong_values(any_store: Store, clock: ManualClock) -> None:
    """It is refused when it is made, by a sentence that names the value, and the run stays its worker's."""
    any_store.create(**names(id="run_1"))
    lease = any_store.open_lease("w1")
    (claim,) = any_store.claim(lease)
    before = any_store.get("run_1")
    error = LastError("server_error", "no")
    wrong: list[tuple[str, Callable[[], Settle]]] = [
        *(
            ("event", partial(make, claim.run, event))
            for make in (Settle.of, Settle.ended)
            for event in (
                RunEvent.START,
                RunEvent.SUBMIT_TOOL_OUTPUTS,
                RunEvent.REQUEST_CANCEL,
                cast("RunEvent", "done"),
            )
        ),
        *(("event", partial(Settle.ended, claim.run, event)) for event in (RunEvent.FAIL, RunEvent.REQUIRE_ACTION)),
        ("prompt_tokens", partial(Settle.ended, claim.run, RunEvent.COMPLETE, -1)),
        ("completion_tokens", partial(Settle.ended, claim.run, RunEvent.COMPLETE, 1, cast("int", "2"))),
        ("last_error", partial(Settle.of, claim.run, RunEvent.FAIL)),
        ("last_error", partial(Settle.of, claim.run, RunEvent.COMPLETE, last_error=error)),
        ("required_action", partial(Settle.of, claim.run, RunEvent.REQUIRE_ACTION)),
        ("incomplete_details", partial(Settle.of, claim.run, RunEvent.MARK_INCOMPLETE)),
    ]
    for name, make in wrong:
        with pytest.raises(InvalidRun, match=name):
            make()
    assert before == any_store.get("run_1")
    assert {} == any_store.settle(lease, [Settle.of(claim.run, RunEvent.FAIL, last_error=error)]).refused
    assert error == any_store.get("run_1").last_error
