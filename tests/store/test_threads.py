"""One live run a thread: refused, or waiting behind the one that lives, decided by the database."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from runstate import IllegalTransition, InvalidRun, ManualClock, RunEvent, RunStatus, use_clock
from runstate.errors import StoreError, ThreadBusy
from runstate.store import Lease, Store, open_store
from runstate.store._worker_types import Settle
from tests.store.support import (
    Prompt,
    ask_store,
    at_once,
    bring_in_store,
    by_hand,
    names,
    update,
    wait_for_a_lock,
)
from tests.support.lifecycle import LIVE, NOW, TABLE, TERMINAL
from tests.support.postgres import LIMIT


def queue(store: Store, run_id: str, **given: Any) -> Any:
    return store.create(**names(id=run_id, one_live_run_per_thread="queue", **given))


def ready(store: Store) -> list[str]:
    """Return the ids of the live runs that may be claimed or have left the queue, in order."""
    live = [run for run in store.list(order="asc", limit=100).data if not run.is_terminal]
    return [run.id for run in live if run.claimable or run.status != "queued"]


# --- how a head may end -----------------------------------------------------------------------------------------------


def by_settling(store: Store, clock: ManualClock, lease: Lease, prompt: Prompt) -> None:
    (claim,) = store.claim(lease)
    assert {} == store.settle(lease, [Settle(claim.run, RunEvent.COMPLETE)]).refused


def by_failing(store: Store, clock: ManualClock, lease: Lease, prompt: Prompt) -> None:
    store.fail("head", "server_error", "x")


def by_cancelling_while_idle(store: Store, clock: ManualClock, lease: Lease, prompt: Prompt) -> None:
    assert "cancelled" == store.request_cancel("head").status


def by_cancelling_at_work(store: Store, clock: ManualClock, lease: Lease, prompt: Prompt) -> None:
    (claim,) = store.claim(lease)
    store.request_cancel("head")
    assert ["head"] == ready(store)
    assert {} == store.settle(lease, [Settle(claim.run, RunEvent.CONFIRM_CANCEL)]).refused


def by_its_deadline(store: Store, clock: ManualClock, lease: Lease, prompt: Prompt) -> None:
    clock.advance(50)
    assert ("head",) == store.sweep().expired


def by_its_workers_death(store: Store, clock: ManualClock, lease: Lease, prompt: Prompt) -> None:
    store.claim(lease)
    store.close_lease(lease)
    assert ("head",) == store.sweep(max_attempts=1).failed


def by_hand_and_method(store: Store, clock: ManualClock, lease: Lease, prompt: Prompt) -> None:
    store.start("head")
    store.mark_incomplete("head", "max_prompt_tokens")


def by_plain_sql(store: Store, clock: ManualClock, lease: Lease, prompt: Prompt) -> None:
    prompt.run(*update(by_hand(prompt.one("head"), "expire", "expired", NOW * 1_000_000 + 5), "head"))


ENDS = (
    *(by_settling, by_failing, by_cancelling_while_idle, by_cancelling_at_work, by_its_deadline),
    *(by_its_workers_death, by_hand_and_method, by_plain_sql),
)
End = Callable[[Store, ManualClock, Lease, Prompt], None]


@pytest.mark.parametrize("end", ENDS)
def test_the_next_in_line(store: Store, prompt: Prompt, clock: ManualClock, end: End) -> None:
    """However the first run of a thread ends, the one that waits longest is ready in the same commit, and no other."""
    lease = store.open_lease("w1")
    assert queue(store, "head", expires_in_s=50).claimable
    for run_id in ("second", "third"):
        assert not queue(store, run_id, expires_in_s=500, priority=9 if run_id == "third" else 0).claimable
    assert ["head"] == ready(store)
    end(store, clock, lease, prompt)
    assert store.get("head").status in TERMINAL
    assert ["second"] == ready(store)
    other = store.open_lease("w2")
    assert ["second"] == [claim.run.id for claim in store.claim(other, 5)]
    assert "third" == store.get("third").id
    assert not store.get("third").claimable


@pytest.mark.parametrize("moves", [("start", "require_action"), ("start", "require_action", "submit_tool_outputs")])
def test_a_head_that_waits_for_tools_stays_the_head(store: Store, clock: ManualClock, moves: tuple[str, ...]) -> None:
    """A run that waits for its tools lives: those behind it wait on."""
    queue(store, "head")
    queue(store, "second")
    for event in moves:
        ask_store(store, "head", event)
        assert ["head"] == ready(store)
    assert () == store.sweep().promoted


@pytest.mark.parametrize("status", sorted(LIVE))
def test_a_live_run_keeps_others_away(store: Store, prompt: Prompt, clock: ManualClock, status: str) -> None:
    """In each live status: another is refused and told by whom, or waits."""
    head = bring_in_store(store, status, id="head", one_live_run_per_thread="reject")
    before = prompt.everything()
    with pytest.raises(ThreadBusy, match=r"Thread thread_1 already has an active run head\.") as busy:
        store.create(**names(one_live_run_per_thread="reject", instructions="x"))
    assert ("thread_1", "head") == (busy.value.thread_id, busy.value.run_id)
    assert before == prompt.everything()
    assert not queue(store, "second", instructions="x").claimable
    assert "x" == store.get("second").instructions
    assert store.create(**names(id="free")).claimable  # who does not ask for it is not kept away
    assert store.create(**names(id="elsewhere", thread_id="thread_2", one_live_run_per_thread="reject")).claimable
    assert head == store.get("head")


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_an_ended_run_keeps_nobody_away(store: Store, clock: ManualClock, status: str) -> None:
    """In each terminal status the thread is free."""
    bring_in_store(store, status, one_live_run_per_thread="reject")
    assert store.create(**names(one_live_run_per_thread="reject")).claimable


def test_a_long_line(store: Store, clock: ManualClock) -> None:
    """A hundred wait; each time one ends the oldest of the others is ready, and one is at work at a time."""
    runs = store.create_many([names(one_live_run_per_thread="queue", metadata={"n": str(n)}) for n in range(100)])
    assert [True] + [False] * 99 == [run.claimable for run in runs]
    lease = store.open_lease("w1")
    done = []
    while claims := store.claim(lease, 10):
        (claim,) = claims
        done.append(claim.run.id)
        assert {} == store.settle(lease, [Settle(claim.run, RunEvent.COMPLETE)]).refused
    assert [run.id for run in runs] == done


def test_who_waits_may_end(store: Store, clock: ManualClock) -> None:
    """A waiting run can be cancelled, fail and expire; then the one behind it is next."""
    for run_id in ("head", "second", "third", "fourth", "fifth"):
        queue(store, run_id, expires_in_s=50 if run_id == "fourth" else 600)
    assert "cancelled" == store.request_cancel("second").status
    assert "failed" == store.fail("third", "server_error", "x").status
    clock.advance(60)
    assert ("fourth",) == store.sweep().expired
    assert ["head"] == ready(store)
    store.expire("head")
    assert ["fifth"] == ready(store)


def test_the_last_of_a_line(store: Store, clock: ManualClock) -> None:
    """When nobody waits the thread is free for whoever comes, and a line can begin again."""
    for _ in range(3):
        head = store.create(**names(one_live_run_per_thread="queue"))
        assert head.claimable
        store.expire(head.id)
    assert store.create(**names(one_live_run_per_thread="reject")).claimable


def test_its_time_and_its_turn(store: Store, clock: ManualClock) -> None:
    """A run that waits for its time, too, is passed by until then, and takes its turn afterwards."""
    queue(store, "head")
    queue(store, "later", not_before=NOW + 100)
    queue(store, "third")
    store.expire("head")
    assert ["third"] == ready(store)
    clock.advance(101)
    assert () == store.sweep().promoted  # its time has come, but the third lives
    store.expire("third")
    assert ["later"] == ready(store)


def test_its_time_comes_while_the_thread_is_free(store: Store, clock: ManualClock) -> None:
    """Two whose time comes together do not get ready together."""
    queue(store, "one", not_before=NOW + 10)
    queue(store, "two", not_before=NOW + 10)
    assert () == store.sweep().promoted
    clock.advance(11)
    assert ("one",) == store.sweep().promoted
    assert () == store.sweep().promoted
    store.expire("one")
    assert ["two"] == ready(store)


def test_a_clock_that_goes_back(store: Store, clock: ManualClock) -> None:
    """The next in line is ready though the first ended, by the clock, before it was born; so it is for the sweep."""
    queue(store, "head")
    clock.advance(50)
    queue(store, "second")
    clock.advance(-100)
    store.expire("head")
    assert ["second"] == ready(store)
    clock.advance(200)
    queue(store, "third", not_before=NOW + 190)
    queue(store, "fourth")
    store.expire("second")
    assert ["fourth"] == ready(store)
    store.expire("fourth")
    clock.advance(100)
    queue(store, "fifth", not_before=NOW + 195)
    clock.advance(-50)  # before the fifth was born, after its time
    assert ("third",) == store.sweep().promoted
    store.expire("third")
    assert ["fifth"] == ready(store)


def test_nobody_starts_out_of_turn(store: Store, prompt: Prompt, clock: ManualClock) -> None:
    """A run that waits cannot be started by hand: it is told behind whom, or that its time has not come."""
    queue(store, "head")
    queue(store, "second")
    queue(store, "third")
    store.create(**names(id="later", not_before=NOW + 10))
    before = prompt.everything()
    with pytest.raises(ThreadBusy, match="Thread thread_1 already has an active run head"):
        store.start("second")
    with pytest.raises(StoreError, match="run later is queued and not ready: its `not_before` has not come"):
        store.start("later")
    lease = store.open_lease("w1")
    before["runstate_worker_session"] = prompt.everything()["runstate_worker_session"]
    for run_id in ("second", "later"):
        assert store.claim_id(lease, run_id) is None
    assert before == prompt.everything()
    store.expire("head")
    assert "in_progress" == store.start("second").status


def test_a_key_and_a_line(store: Store, clock: ManualClock) -> None:
    """The same request under its key finds its run, be it first in line or not, and keeps what it was created with."""
    head = queue(store, "head", idempotency_key="key_1", instructions="x")
    second = queue(store, "second", idempotency_key="key_2", instructions="y")
    given = {"one_live_run_per_thread": "queue"}
    assert head == store.create(**names(**given, idempotency_key="key_1", instructions="x"))
    assert second == store.create(**names(**given, idempotency_key="key_2", instructions="y"))
    assert second == queue(store, "second", instructions="y")
    with pytest.raises(InvalidRun, match="id: is taken"):
        queue(store, "second", instructions="z")
    assert 2 == len(store.list().data)


@pytest.mark.parametrize("exclusive", ["reject", "queue"])
def test_a_thread_raced_for(store: Store, store_url: str, clock: ManualClock, exclusive: Any) -> None:
    """Of twenty threads over four stores, one gets the thread; the others are refused by its name, or wait."""
    answers: list[Any] = []

    def create(own: Store) -> None:
        try:
            answers.append(own.create(**names(one_live_run_per_thread=exclusive, instructions="x")).claimable)
        except ThreadBusy as busy:
            answers.append(busy.run_id)

    at_once(store_url, create)
    (head,) = (run.id for run in store.list(limit=100).data if run.claimable)
    waits: Any = head if exclusive == "reject" else False
    assert 1 == answers.count(True)
    assert 19 == answers.count(waits)
    assert (1 if exclusive == "reject" else 20) == len(store.list(limit=100).data)


def test_lines_under_pressure(store: Store, store_url: str) -> None:
    """While some join four lines, others cancel who waits in them and others end their first, nobody is held up.

    No two wait for each other, and in the end, without a sweep, nobody is left who waits for a run that has ended.
    """
    makers, each = 3, 12
    failed: list[BaseException] = []
    made = threading.Event()

    def make(number: int) -> None:
        with open_store(store_url) as own:
            for turn in range(each):
                lines = [f"thread_{(number + turn + place) % 4}" for place in (0, 3, 1)]
                own.create_many([names(thread_id=line, one_live_run_per_thread="queue") for line in lines])
                for run in own.list(status="queued", limit=2).data:
                    with suppress(IllegalTransition):
                        own.request_cancel(run.id, actor=f"maker {number}")

    def work(number: int) -> None:
        with open_store(store_url) as own:
            lease = own.open_lease(f"w{number}", lease_s=1000)
            until = time.monotonic() + LIMIT
            while time.monotonic() < until:
                claims = own.claim(lease, 3)
                own.settle(lease, [Settle(claim.run, RunEvent.COMPLETE) for claim in reversed(claims)])
                if made.is_set() and not claims and not own.list(status=sorted(LIVE), limit=1).data:
                    return

    def bounded(do: Callable[[int], None], number: int) -> None:
        try:
            do(number)
        except BaseException as error:
            failed.append(error)

    making = [threading.Thread(target=bounded, args=(make, number)) for number in range(makers)]
    working = [threading.Thread(target=bounded, args=(work, number)) for number in range(2)]
    for thread in making + working:
        thread.start()
    for thread in making:
        thread.join()
    made.set()
    for thread in working:
        thread.join()
    assert [] == failed
    counts = store.counts()
    assert makers * each * 3 == sum(counts.values()) == counts[RunStatus.COMPLETED] + counts[RunStatus.CANCELLED]


def test_one_lives_of_every_way_to_the_end(store: Store, clock: ManualClock) -> None:
    """Whatever legal way a head goes, from each live status by each event that ends it, the next is ready then."""
    for number, ((source, event), target) in enumerate(sorted(TABLE.items())):
        if target in TERMINAL:
            thread = f"thread_{number}"
            head = bring_in_store(store, source, thread_id=thread, one_live_run_per_thread="queue")
            behind = store.create(**names(thread_id=thread, one_live_run_per_thread="queue"))
            assert not behind.claimable
            ask_store(store, head.id, event)
            assert store.get(behind.id).claimable, (source, event)


def test_two_who_end_the_head_of_a_line(store: Store, store_url: str, prompt: Prompt) -> None:
    """A worker with several kinds of outcome and somebody else's statement wait for one another, but not in a ring."""
    if prompt.is_sqlite:
        pytest.skip("its writers wait before they begin")
    lease = store.open_lease(lease_s=60)
    head = store.create(**names(thread_id="x", one_live_run_per_thread="queue"))
    beside = store.create(**names(thread_id="y"))
    runs = {claim.run.id: claim.run for claim in store.claim(lease, 2)}
    used = '{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}'
    error = '{"code":"server_error","message":"m"}'
    prompt.run("BEGIN")
    prompt.run("SELECT 1 FROM runstate_run WHERE id = ? FOR UPDATE", [head.id])
    told: list[Any] = []

    def settle() -> None:
        outcomes = [
            Settle(runs[head.id], RunEvent.COMPLETE, used),
            Settle(runs[beside.id], RunEvent.FAIL, used, last_error=error),
        ]
        told.append(store.settle(lease, outcomes))

    thread = threading.Thread(target=settle)
    thread.start()
    wait_for_a_lock(store_url)
    prompt.run(
        "UPDATE runstate_run SET status = 'failed', event = 'fail', source = status, version = version + 1,"
        " failed_at = changed_at_us / 1000000, expires_at = NULL, worker = NULL, detail = NULL, usage = ?, last_error"
        " = ? WHERE id = ?",
        [used, error, head.id],
    )
    prompt.run("COMMIT")
    thread.join()
    assert {runs[head.id].seq: "TerminalStatus"} == {seq: type(why).__name__ for seq, why in told[0].refused.items()}
    assert ("failed", "failed") == (store.get(head.id).status, store.get(beside.id).status)


@pytest.mark.parametrize("policy", ["reject", "queue"])
def test_a_run_for_later_occupies_its_thread_as_its_policy_says(store: Store, prompt: Prompt, policy: str) -> None:
    """One that is to be rejected is rejected now, whether it could be claimed now or not; and one that waits, waits."""
    names = {"thread_id": "t", "assistant_id": "a", "model": "m", "one_live_run_per_thread": policy}
    head = store.create(**names)  # type: ignore[arg-type]
    before = prompt.everything()
    if policy == "reject":
        with pytest.raises(ThreadBusy) as refused:
            store.create(**names, not_before=time.time() + 60)  # type: ignore[arg-type]
        assert head.id == refused.value.run_id
        with pytest.raises(ThreadBusy):
            store.create_many([{**names, "not_before": time.time() + 60}, {**names}])  # type: ignore[typeddict-item]
        assert before == prompt.everything()
    else:
        assert not store.create(**names, not_before=time.time() + 60).claimable  # type: ignore[arg-type]


def test_of_two_of_a_batch_for_one_thread_the_second_is_rejected(store: Store, prompt: Prompt) -> None:
    """Nothing of such a batch is created."""
    names = {"thread_id": "t", "assistant_id": "a", "model": "m", "one_live_run_per_thread": "reject"}
    before = prompt.everything()
    with pytest.raises(ThreadBusy):
        store.create_many([{**names}, {**names}])  # type: ignore[typeddict-item]
    assert before == prompt.everything()


def test_a_run_ends_although_the_next_one_may_not_have_its_time(store: Store, prompt: Prompt) -> None:
    """A client whose clock is far ahead made the first: its end is not refused, and a sweep promotes the next one."""
    now = int(time.time())
    with use_clock(ManualClock(now + 500 * 86_400)):
        first = store.create(**names(one_live_run_per_thread="queue"))
    if store.get(first.id).created_at < now + 400 * 86_400:
        pytest.skip("this store gives its own time")
    with use_clock(ManualClock(now)):
        behind = store.create(**names(one_live_run_per_thread="queue"))
    with use_clock(ManualClock(now + 500 * 86_400)):
        assert "cancelled" == store.request_cancel(first.id).status
    with use_clock(ManualClock(now + 1)):
        assert (behind.id,) == store.sweep().promoted
        assert store.get(behind.id).claimable
