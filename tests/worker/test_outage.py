"""A store that is away: its workers stop in time, and go on when it is back; nothing is lost, nothing done twice."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, TypeVar

import pytest

from runstate.errors import StoreError
from runstate.store import Store, open_store
from runstate.store._engine import committer as committing
from runstate.store._engine import transport
from runstate.store._postgres.notifier import PostgresNotifier
from runstate.traces import judge
from runstate.worker import Context, Outcome, Worker
from runstate.worker import _session as session
from tests.store.support import Prompt
from tests.support.judge import judge_by_sql
from tests.support.pg_proxy import Proxy
from tests.support.postgres import OwnServer, wait_until
from tests.worker.support import LIMIT, Bench, at_work, ended, events, last, limited, new, new_threads, until

pytestmark = pytest.mark.slow  # rehearses outages

T = TypeVar("T")
LEASE_S = 4.0


class Blocked:
    """A store that can be made not to answer, and one beside it that always does."""

    def __init__(self, url: str, undo: ExitStack) -> None:
        self.url = url
        self.block: Callable[[], object]
        self.unblock: Callable[[], object]
        if url.startswith("sqlite:"):
            self._holder = undo.enter_context(Prompt(url))
            self.block, self.unblock = self._hold, self._let_go
            through = url
        else:
            proxy = undo.enter_context(Proxy(url))
            self.block, self.unblock = proxy.freeze, proxy.thaw
            through = proxy.url
        self.store = undo.enter_context(open_store(through, wait_s=20.0))

    def _hold(self) -> None:
        self._holder.run("BEGIN IMMEDIATE")  # nobody else writes until the end of this transaction

    def _let_go(self) -> None:
        self._holder.run("COMMIT")

    def leases(self) -> list[float]:
        """Return when the leases end, in Unix seconds."""
        with Prompt(self.url) as prompt:
            found = prompt.run("SELECT lease_until_us FROM runstate_worker_session WHERE token <> 0")
            return [until / 1e6 for (until,) in found]


async def stop_in_time(blocked: Blocked) -> None:
    """Block a store under two workers, and see their handlers stopped before their leases end."""
    store, bench, stopped = blocked.store, Bench(), list[float]()

    def stand(ctx: Context) -> None:
        bench.begun.append(ctx.run_id)
        end = time.monotonic() + LIMIT
        while not ctx.cancelling and not bench.gate.is_set():
            assert time.monotonic() < end
            time.sleep(0.01)
        if not bench.gate.is_set():
            stopped.append(time.time())

    runs = [store.create(**new(queue=queue)).id for queue in ("plain", "async")]
    async with (
        at_work(store, stand, lease_s=LEASE_S, queues=("plain",)),
        at_work(store, bench.wait, lease_s=LEASE_S, queues=("async",), name="w2"),
    ):
        await until(lambda: sorted(runs) == sorted(bench.begun), "the handlers")
        blocked.block()
        try:
            await until(lambda: bool(stopped and bench.cancelled), "the handlers to be stopped")
            lapse_at = blocked.leases()
            assert max(stopped[0], bench.cancelled[0][1]) < min(lapse_at)
            await asyncio.sleep(max(0.0, max(lapse_at) - time.time()))
        finally:
            bench.gate.set()
            blocked.unblock()
        for run_id in runs:
            assert "completed" == (await ended(store, run_id)).status
            assert [None, "start", "complete"] == events(store, run_id)
            assert {"attempt": 2} == last(store, run_id).detail
    assert sorted(2 * runs) == sorted(bench.begun)


@limited
async def test_a_worker_stops_its_runs_before_the_lease_ends(
    both: dict[str, tuple[str, Store]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It cannot renew, and so lets go of its runs while nobody else can have them; when it can, it begins anew."""
    caplog.set_level(logging.WARNING, "runstate.worker")
    # Only a standstill of two seconds makes it late, or lose a lease that the store would renew.
    monkeypatch.setattr("runstate.worker._heartbeat._MARGIN", 0.5)
    monkeypatch.setattr("runstate.worker._heartbeat._BEATS", 40)
    with ExitStack() as undo:
        async with asyncio.TaskGroup() as scenes:
            for url, _ in both.values():
                scenes.create_task(stop_in_time(Blocked(url, undo)))
    assert 4 == caplog.text.count("gives up 1 run: it could not renew its lease in time")


@limited
async def test_a_worker_is_stopped_while_nobody_answers(
    both: dict[str, tuple[str, Store]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A signal ends it although its turn is under way; what that was about to commit is committed all the same."""
    monkeypatch.setattr(session, "LAST_S", 0.3)
    with ExitStack() as undo:
        for url, _ in both.values():
            blocked, bench = Blocked(url, undo), Bench()
            run = blocked.store.create(**new())
            async with at_work(blocked.store, bench.wait, concurrency=1, drain_s=0.1) as worker:
                await until(lambda: len(bench.begun) == 1, "the handler")  # noqa: B023
                blocked.block()
                bench.gate.set()
                await until(lambda: not worker._session.executions and not worker._session.batches.done, "its turn")
            blocked.unblock()
            assert "completed" == (await ended(blocked.store, run.id)).status
    assert 2 == caplog.text.count("ends while a request is under way")
    assert 2 == caplog.text.count("could not release the lease of w1, it will lapse: the store does not answer")


@pytest.mark.parametrize("store_url", ["postgres"], indirect=True)
def test_a_store_is_closed_while_nobody_answers(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for an answer is told that it is unknown, whatever it was; the threads end, and the program may."""
    for part in (committing, transport):
        monkeypatch.setattr(part, "_CLOSING_S", 0.5)
    before = threading.enumerate()
    with Proxy(store_url) as proxy, ThreadPoolExecutor(3) as pool:
        store = open_store(proxy.url, wait_s=0.3)
        run = store.create(**new())
        store.get(run.id)
        proxy.freeze()
        asked = [pool.submit(store.start, run.id), pool.submit(store.get, run.id), pool.submit(store.create, **new())]
        time.sleep(0.1)
        store.close()
        for each in asked:
            assert isinstance(each.exception(LIMIT), StoreError)
    wait_until(lambda: not new_threads(before), "the threads to end")


@pytest.mark.parametrize("store_url", ["postgres"], indirect=True)
def test_a_store_is_closed_that_nobody_ever_answered(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bell and its committer are about to connect: neither keeps the other parts from being closed."""
    for part in (PostgresNotifier, committing, transport):
        monkeypatch.setattr(part, "_END_S" if part is PostgresNotifier else "_CLOSING_S", 0.1)
    with Proxy(store_url) as proxy, ThreadPoolExecutor(1) as pool:
        store = open_store(proxy.url, wait_s=0.1)
        store._committer._disconnect()
        proxy.freeze()
        with store.subscribe(lambda hint: None):
            asked = pool.submit(asyncio.run, later(store.aio.create(**new())))
            time.sleep(0.1)
            store.close()
            with pytest.raises(StoreError):
                asked.result(LIMIT)


async def later(asked: Awaitable[T]) -> T:
    """Return what is asked, as what `asyncio.run` takes."""
    return await asked


# --- a server that dies -----------------------------------------------------------------------------------------------


@pytest.fixture
def mortal(mortal_server: OwnServer) -> Iterator[Store]:
    """A store on a server that a test may kill; judged like the others when the test is over."""
    url = mortal_server.create_database()
    with open_store(url, migrate=True, wait_s=1.0) as store:
        yield store
        assert () == judge_by_sql(url)
        assert [] == [finding for run in store.list(limit=100).data for finding in judge(run)]
    mortal_server.drop_database(url)


async def work_through(server: OwnServer, store: Store, away_s: list[float], **given: Any) -> dict[str, int]:
    """Have two workers drive runs with tools, while the server is killed; return how often each was ended."""
    returned: dict[str, int] = {}
    last_kill = asyncio.Event()

    async def answer(ctx: Context) -> Outcome | None:
        ctx.add_usage(1, 1)
        if not ctx.tool_outputs:
            await ctx.checkpoint({"step": 1})
            await asyncio.sleep(0.05)
            return ctx.require_action([ctx.tool_call("weather")])
        await asyncio.sleep(0.05)
        if len(returned) > 10:  # or on a slow machine all may be done before the server is killed
            await last_kill.wait()
        returned[ctx.run_id] = returned.get(ctx.run_id, 0) + 1
        return None

    runs = {run.id for run in store.create_many([new() for _ in range(40)])}
    async with (
        at_work(store, answer, concurrency=4, **given),
        at_work(store, answer, concurrency=4, name="w2", **given),
    ):
        live = set(runs)
        while live:
            try:
                for run_id in sorted(live):
                    run = await store.aio.get(run_id)
                    if run.is_terminal:
                        live.discard(run_id)
                    elif run.required_action is not None:
                        outputs = dict.fromkeys(run.required_action.call_ids, "x")
                        await store.aio.submit_tool_outputs(run_id, outputs)
            except StoreError:
                await asyncio.sleep(0.05)
            if away_s and len(live) < len(runs):
                await asyncio.to_thread(server.kill)
                try:
                    await asyncio.sleep(away_s.pop())
                finally:
                    await asyncio.to_thread(server.restart)
                if not away_s:
                    last_kill.set()
            await asyncio.sleep(0.02)
    assert [] == away_s
    for run_id in runs:
        assert events(store, run_id).count("complete") == 1
    return returned


@limited
async def test_a_server_that_comes_back_soon(mortal_server: OwnServer, mortal: Store) -> None:
    """The leases hold, and every handler's outcome is committed: each run was ended by one call."""
    returned = await work_through(mortal_server, mortal, [0.2, 0.2])
    assert set(returned.values()) == {1}


@limited
async def test_a_server_that_stays_away_for_longer_than_a_lease(mortal_server: OwnServer, mortal: Store) -> None:
    """The runs are let go of, and taken over by who comes back first; each is ended once, whoever was called twice."""
    returned = await work_through(mortal_server, mortal, [1.2], lease_s=1.0, max_attempts=10)
    assert 40 == len(returned)


@limited
async def test_a_worker_that_begins_while_the_store_is_away(
    mortal_server: OwnServer, mortal: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """It asks for its first lease again, as it does for every later one, and works when the store is back."""
    caplog.set_level(logging.WARNING, "runstate.worker")
    run = mortal.create(**new())
    worker = Worker(mortal, lambda ctx: None, name="w1")
    await asyncio.to_thread(mortal_server.kill)
    working = asyncio.create_task(worker.work())
    try:
        await until(lambda: "retrying" in caplog.text or working.done(), "the worker to ask again")
        assert not working.done()
    finally:
        await asyncio.to_thread(mortal_server.restart)
    assert "completed" == (await ended(mortal, run.id)).status
    worker.stop()
    await asyncio.wait_for(working, LIMIT)


@limited
async def test_a_worker_that_is_stopped_before_it_could_begin(
    mortal_server: OwnServer, mortal: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """It ends, as one that is stopped later, and the log has the reason."""
    caplog.set_level(logging.WARNING, "runstate.worker")
    worker = Worker(mortal, lambda ctx: None, name="w1")
    await asyncio.to_thread(mortal_server.kill)
    working = asyncio.create_task(worker.work())
    try:
        await until(lambda: "retrying" in caplog.text or working.done(), "the worker to ask again")
        worker.stop()
        await asyncio.wait_for(working, LIMIT)
        assert "worker w1 was stopped before it could begin: cannot connect to" in caplog.text
    finally:
        await asyncio.to_thread(mortal_server.restart)


@limited
async def test_a_worker_can_be_stopped_while_the_store_is_away(mortal_server: OwnServer, mortal: Store) -> None:
    """It leaves when its time is over, though it can give nothing back; what it had done is taken over."""
    bench = Bench()
    run = mortal.create(**new())
    worker = Worker(mortal, bench.wait, name="w1", lease_s=3.0, drain_s=0.5)
    working = asyncio.create_task(worker.work())
    try:
        await until(lambda: bench.begun == [run.id], "the handler")
        await asyncio.to_thread(mortal_server.kill)
        bench.gate.set()
        worker.stop()
        await asyncio.wait_for(working, LIMIT)
    finally:
        await asyncio.to_thread(mortal_server.restart)
    async with at_work(mortal, lambda ctx: None, name="w2"):
        assert "completed" == (await ended(mortal, run.id)).status
    assert ("w2", {"attempt": 2}) == (last(mortal, run.id).actor, last(mortal, run.id).detail)
