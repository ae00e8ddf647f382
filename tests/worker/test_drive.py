"""Driving one run by its id, inside another engine: it may be delivered late, twice, or never."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from runstate import ManualClock
from runstate.errors import InvalidRun, OutcomeUnknown, RunNotFound
from runstate.store import Store, StoredRun, open_store
from runstate.store._engine.commands import Command, SettleAndClaim
from runstate.worker import Context, Dispatcher, Outcome, drive, drive_async
from tests.store.support import Prompt
from tests.worker.process import ROOT
from tests.worker.support import KINDS, LIMIT, Bench, events, last, left_behind, limited, new, of_kind, until


def nothing(ctx: Context) -> None:
    """Complete."""


def raising(ctx: Context) -> None:
    raise AssertionError("nobody should call this")


def test_under_gevent_it_says_what_to_use_instead(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    """The greenlets of a thread share its event loop: the second `drive` is told why, and its run stays queued."""
    patched = SimpleNamespace(is_module_patched=lambda name: name == "threading")
    monkeypatch.setitem(sys.modules, "gevent.monkey", patched)
    run = store.create(**new())

    async def another_greenlet_runs_the_loop() -> None:
        with pytest.raises(
            RuntimeError, match=r"gevent is not supported: .* drive runs in a pool of threads or processes"
        ):
            drive(store, run.id, raising)

    asyncio.run(another_greenlet_runs_the_loop())
    assert store.get(run.id) == run


# --- one run ----------------------------------------------------------------------------------------------------------


def test_an_outcome_whose_answer_was_lost(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It was taken: asked again it is recognised, and nobody is told that it was refused."""
    caplog.set_level(logging.WARNING, "runstate.worker")
    run = store.create(**new())
    submit, lost = store._committer.submit, list[Any]()

    async def lose(answer: asyncio.Future[Any]) -> Any:
        await answer
        raise OutcomeUnknown("the answer was lost")

    def shaky(command: Command[Any]) -> Any:
        answer = submit(command)
        if lost or not isinstance(command, SettleAndClaim) or not command.settles:
            return answer
        lost.append(command)
        return asyncio.ensure_future(lose(answer))

    monkeypatch.setattr(store._committer, "submit", shaky)
    driven = drive(store, run.id, nothing, name="engine")
    assert lost
    assert driven is not None
    assert ("completed", 3) == (driven.status, driven.version)
    said, back = [record.getMessage() for record in caplog.records]
    assert "the answer was lost; retrying" == said
    assert back.startswith("the store is back after")


@pytest.mark.parametrize("kind", KINDS)
def test_that_run_and_no_other(kind: str, store: Store, prompt: Prompt) -> None:
    """The run is driven whatever queue it is in, and comes back as it stands; older ones are left alone."""
    older, run = store.create(**new(priority=9)), store.create(**new(queue="elsewhere"))

    def answer(ctx: Context) -> None:
        assert run.id == ctx.run_id
        ctx.add_usage(3, 4)

    driven = drive(store, run.id, of_kind(kind, answer), name="engine")
    assert driven == store.get(run.id)
    assert driven is not None
    assert ("completed", 7) == (driven.status, driven.to_dict()["usage"]["total_tokens"])
    assert [None, "engine", "engine"] == [entry.actor for entry in store.history(run.id)]
    assert "queued" == store.get(older.id).status
    assert [(0,)] == prompt.run("SELECT count(*) FROM runstate_worker_session WHERE closed = 0")


def test_a_tool_round(store: Store) -> None:
    """A run that asks for tools comes back waiting; each delivery after the outputs drives it on."""

    def answer(ctx: Context) -> Outcome | None:
        return None if ctx.tool_outputs else ctx.require_action([ctx.tool_call("weather")])

    run = store.create(**new())
    waiting = drive(store, run.id, answer)
    assert waiting is not None
    assert waiting.required_action is not None
    assert drive(store, run.id, raising) is None, "it waits for its tools"
    store.submit_tool_outputs(run.id, dict.fromkeys(waiting.required_action.call_ids, "x"))
    driven = drive(store, run.id, answer)
    assert driven is not None
    assert "completed" == driven.status


def test_failing_is_no_error_of_the_engine(store: Store) -> None:
    """A handler that raises fails its run; the delivery has done its work."""

    def broken(ctx: Context) -> None:
        raise ValueError("it broke")

    driven = drive(store, store.create(**new()).id, broken)
    assert driven is not None
    assert ("failed", "ValueError: it broke") == (driven.status, driven.to_dict()["last_error"]["message"])


@limited
async def test_inside_a_loop(store: Store) -> None:
    """A program with a loop of its own awaits it; what would block the loop refuses."""
    run = store.create(**new())
    with pytest.raises(RuntimeError, match="drive_async"):
        drive(store, run.id, raising)
    assert "queued" == store.get(run.id).status
    driven = await drive_async(store, run.id, nothing)
    assert driven is not None
    assert "completed" == driven.status


def test_from_a_thread(store: Store) -> None:
    """A thread that has no loop may drive, as the workers of most engines do."""
    run = store.create(**new())
    with ThreadPoolExecutor(1) as pool:
        driven = pool.submit(drive, store, run.id, nothing).result(LIMIT)
    assert driven is not None
    assert "completed" == driven.status


@limited
async def test_a_driver_that_is_cancelled_gives_its_run_back(store: Store, prompt: Prompt) -> None:
    """An engine that stops its task leaves a run that the next delivery takes over at once, with no loss counted."""
    run, bench = store.create(**new()), Bench()
    driving = asyncio.create_task(drive_async(store, run.id, bench.wait, lease_s=60))
    await until(lambda: bench.begun == [run.id], "the handler")
    driving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await driving
    assert [(0, 1)] == prompt.run("SELECT worker, attempt FROM runstate_run")
    driven = await drive_async(store, run.id, nothing)
    assert driven is not None
    assert ("completed", {"attempt": 2}) == (driven.status, last(store, run.id).detail)


# --- nothing to do ----------------------------------------------------------------------------------------------------


def test_a_delivery_that_comes_too_late(store: Store) -> None:
    """Of a run that has ended, that another drives, or whose time has not come, there is nothing to do."""
    done = store.create(**new())
    assert drive(store, done.id, nothing) is not None
    at_work = store.create(**new())
    assert store.claim_id(store.open_lease("w0", lease_s=60), at_work.id)
    later = store.create(**new(not_before=time.time() + 300))
    behind = [store.create(**new(thread_id="t", one_live_run_per_thread="queue")) for _ in range(2)][1]
    for run in (done, at_work, later, behind):
        before = store.get(run.id)
        assert drive(store, run.id, raising) is None
        assert before == store.get(run.id)


def test_no_such_run(store: Store, prompt: Prompt) -> None:
    """An id that is none raises, and leaves no lease behind; so does what cannot be one."""
    with pytest.raises(RunNotFound):
        drive(store, "run_none", raising)
    wrong: tuple[Any, ...] = ("", "a\0b", 5, None)
    for run_id in wrong:
        with pytest.raises((InvalidRun, RunNotFound)):
            drive(store, run_id, raising)
    assert [(0,)] == prompt.run("SELECT count(*) FROM runstate_worker_session WHERE closed = 0")


def test_delivered_many_times_at_once(store: Store, store_url: str) -> None:
    """Eight deliveries at the same moment, over two stores: one call of the handler, and seven times nothing."""
    calls: list[str] = []
    with open_store(store_url) as other, ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            run = store.create(**new())
            ready = threading.Barrier(8)

            def deliver(through: Store, run_id: str = run.id, ready: threading.Barrier = ready) -> StoredRun | None:
                ready.wait(LIMIT)
                return drive(through, run_id, lambda ctx: calls.append(ctx.run_id))

            driven = list(pool.map(deliver, [store, other] * 4))
            assert 1 == sum(found is not None for found in driven)
            assert [None, "start", "complete"] == events(store, run.id)
    assert 3 == len(calls) == len(set(calls))


def test_delivered_to_several_processes(both: dict[str, tuple[str, Store]]) -> None:
    """So it is with processes."""
    processes: list[subprocess.Popen[bytes]] = []
    for url, store in both.values():
        run = store.create(**new())
        code = f"""
import json
from runstate.store import open_store
from runstate.worker import drive
calls = []
with open_store({url!r}) as store:
    driven = drive(store, {run.id!r}, lambda ctx: calls.append(1))
print(json.dumps([len(calls), driven is not None]))
"""
        command = [sys.executable, "-c", code]
        processes += [subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) for _ in range(2)]
    try:
        told = [json.loads(process.communicate(timeout=LIMIT)[0]) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait(LIMIT)
    assert [[0, False], [1, True]] == sorted(told[:2]) == sorted(told[2:])


# --- take-overs -------------------------------------------------------------------------------------------------------


def test_a_run_whose_worker_died(store: Store) -> None:
    """A delivery while the lease holds gets nothing; one after it has lapsed takes over, and in the end it fails."""
    run = store.create(**new())
    held = store.open_lease("w0")
    assert store.claim_id(held, run.id)
    assert drive(store, run.id, raising) is None
    store.close_lease(held)  # as the sweep does with one that lapsed
    driven = drive(store, run.id, nothing)
    assert driven is not None
    assert ("completed", {"attempt": 2}) == (driven.status, last(store, run.id).detail)

    spent = store.create(**new())
    left_behind(store)
    assert drive(store, spent.id, raising, max_attempts=1) is None
    assert "failed" == store.get(spent.id).status


async def keep(store: Store) -> None:
    run, bench = store.create(**new()), Bench()
    driving = asyncio.create_task(drive_async(store, run.id, bench.wait, lease_s=2.5))
    await until(lambda: bench.begun == [run.id], "the handler")
    await asyncio.sleep(2.7)
    assert await drive_async(store, run.id, raising) is None
    bench.gate.set()
    driven = await driving
    assert driven is not None
    assert ("completed", 1) == (driven.status, driven.attempt)


@pytest.mark.slow
@limited
async def test_a_driver_keeps_its_lease(both: dict[str, tuple[str, Store]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler longer than the lease keeps its run."""
    monkeypatch.setattr("runstate.worker._heartbeat._BEATS", 25)  # so that only a standstill of seconds loses it
    await asyncio.gather(*(keep(store) for _, store in both.values()))


# --- what never arrived -----------------------------------------------------------------------------------------------


@pytest.fixture
def moving(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """The clock of the database and of the dispatchers, moved by the test alone."""
    monkeypatch.setattr("runstate.worker._dispatch.monotonic", lambda: clock.time())
    return clock


def test_sending_again(store: Store, moving: ManualClock) -> None:
    """What waits too long or lost its worker is sent again, and not again before the same time is over."""
    sent: list[str] = []
    dispatcher = Dispatcher(store, sent.append, after_s=30)
    lost, delivered = store.create(**new()), store.create(**new())
    adrift, elsewhere = store.create(**new()), store.create(**new(queue="elsewhere"))
    assert store.claim_id(store.open_lease("w0", lease_s=10), adrift.id)
    moving.advance(9)
    assert [] == dispatcher.look()
    moving.advance(2)
    assert [adrift.id] == dispatcher.look() == sent
    assert [] == dispatcher.look()
    assert drive(store, delivered.id, nothing)
    moving.advance(18)
    assert [] == dispatcher.look()
    moving.advance(1)
    assert [lost.id] == dispatcher.look(), "half a minute after it was created"
    moving.advance(11)
    assert [adrift.id] == dispatcher.look(), "half a minute after it was sent"
    assert drive(store, lost.id, nothing)
    assert drive(store, adrift.id, nothing)
    moving.advance(300)
    assert [] == dispatcher.look()
    assert [adrift.id, lost.id, adrift.id] == sent
    assert "queued" == store.get(elsewhere.id).status


def test_an_engine_that_is_away(store: Store, moving: ManualClock) -> None:
    """What could not be sent counts as not sent."""
    run = store.create(**new())
    sent: list[str] = []
    broken = [True]

    def send(run_id: str) -> None:
        if broken[0]:
            raise ConnectionError("the broker is away")
        sent.append(run_id)

    dispatcher = Dispatcher(store, send, after_s=30)
    moving.advance(31)
    with pytest.raises(ConnectionError):
        dispatcher.look()
    broken[0] = False
    assert [run.id] == dispatcher.look() == sent


def test_dispatching_ends_what_time_has_made_due(store: Store, moving: ManualClock) -> None:
    """A dispatcher sweeps: where there is no worker runs expire, and fail when their attempts are spent."""
    run, spent = store.create(**new(expires_in_s=5)), store.create(**new())
    assert store.claim_id(store.open_lease("w0", lease_s=2), spent.id)
    moving.advance(6)
    assert [] == Dispatcher(store, raising, max_attempts=1).look()  # type: ignore[arg-type]
    assert ("expired", "failed") == (store.get(run.id).status, store.get(spent.id).status)
