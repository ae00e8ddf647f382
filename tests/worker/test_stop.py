"""Stopping: no new claims, time to finish, and what is left is given back at once rather than left to lapse."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from runstate.errors import StoreError
from runstate.store import Store, open_store
from runstate.worker import Context, Worker
from tests.store.support import Prompt
from tests.support.postgres import wait_until
from tests.worker.process import ROOT, WorkerProcess
from tests.worker.support import LIMIT, Bench, at_work, ended, events, finish, last, limited, new, new_threads, until

FOREVER_S = 3600.0  # nothing here may wait for a lease or a drain so long


class Stage:
    """What a scene has: a store, its URL, a folder, a queue."""

    def __init__(self, url: str, store: Store, folder: Path, queue: str) -> None:
        self.url, self.store, self.folder, self.queue = url, store, folder, queue

    def process(self, handler: str = "wait", **given: object) -> WorkerProcess:
        options = {"queues": (self.queue,), "lease_s": FOREVER_S, "name": "A", "drain_s": FOREVER_S, **given}
        return WorkerProcess(self.url, self.folder, handler, **options)

    def create(self, count: int) -> list[str]:
        return [self.store.create(**new(queue=self.queue)).id for _ in range(count)]

    def statuses(self, runs: list[str]) -> list[str]:
        return [self.store.get(run_id).status for run_id in runs]


async def drained(stage: Stage, number: signal.Signals) -> None:
    """At the signal it claims no more; its handlers finish, and are committed; it ends well."""
    runs = stage.create(3)
    with stage.process(concurrency=2) as process:
        await process.journaled("begin", 2)
        process.send(number)
        await process.journaled("stop")
        runs += stage.create(1)
        assert ["in_progress"] * 2 + ["queued"] * 2 == stage.statuses(runs)
        process.open_gate()
        assert (0, 1) == (await process.over(), len(process.journal("leave")))
    assert ["completed"] * 2 + ["queued"] * 2 == stage.statuses(runs)
    assert 2 == len(process.journal("begin"))


async def given_back(stage: Stage, kind: str) -> None:
    """When the time to drain is over, what is left is given back at once, and no loss is counted."""
    runs = stage.create(2)
    with stage.process(kind, drain_s=0.2) as process:
        await process.journaled("begin", 2)
        process.send(signal.SIGTERM)
        async with at_work(stage.store, lambda ctx: None, queues=(stage.queue,), name="B"):
            for run_id in runs:
                await ended(stage.store, run_id)
        assert 0 == await process.over(), "nobody waits for a handler that does not end"
    for run_id in runs:
        assert [None, "start", "complete"] == events(stage.store, run_id)
        assert ("B", {"attempt": 2}) == (last(stage.store, run_id).actor, last(stage.store, run_id).detail)
        assert (2, 0) == (stage.store.get(run_id).attempt, stage.store.get(run_id).lost)
    assert (2 if kind == "wait" else 0) == len(process.journal("cancelled"))


async def at_once(stage: Stage) -> None:
    """A second signal, of either kind, ends it at once: its runs are given back, and the exit code tells of it."""
    runs = stage.create(2)
    with stage.process() as process:
        await process.journaled("begin", 2)
        process.send(signal.SIGINT)
        await process.journaled("stop")
        assert process.process.poll() is None
        process.send(signal.SIGTERM)
        assert 128 + signal.SIGTERM == await process.over()
        assert 2 == len(process.journal("cancelled"))
    assert ["in_progress"] * 2 == stage.statuses(runs)
    with Prompt(stage.url) as prompt:
        found = prompt.run("SELECT worker, attempt FROM runstate_run WHERE queue = ?", [stage.queue])
    assert [(0, 1)] * 2 == found, "they are released"


@limited
async def test_signals(both: dict[str, tuple[str, Store]], tmp_path: Path) -> None:
    """Every scene above."""

    def stage(dialect: str, name: str) -> Stage:
        return Stage(*both[dialect], tmp_path / name, name)

    async with asyncio.TaskGroup() as scenes:
        scenes.create_task(drained(stage("sqlite", "drained by SIGTERM"), signal.SIGTERM))
        scenes.create_task(drained(stage("postgres", "drained by SIGINT"), signal.SIGINT))
        scenes.create_task(given_back(stage("sqlite", "given back, plain"), "stand"))
        scenes.create_task(given_back(stage("postgres", "given back, async"), "wait"))
        scenes.create_task(at_once(stage("postgres", "at once")))
    for url, _ in both.values():
        with Prompt(url) as prompt:
            assert [(0,)] == prompt.run("SELECT count(*) FROM runstate_worker_session WHERE closed = 0")


# --- inside a program -------------------------------------------------------------------------------------------------


@limited
async def test_beside_a_program(store: Store) -> None:
    """A worker works inside the block, and leaves it when its handlers are done."""
    bench = Bench()
    async with Worker(store, bench.wait) as worker:
        run = await store.aio.create(**new())
        await until(lambda: bench.begun == [run.id], "the handler")
        asyncio.get_running_loop().call_later(0.2, bench.gate.set)
    assert ("completed", 1) == (store.get(run.id).status, worker.settled)
    late = store.create(**new())
    await asyncio.sleep(0.05)
    assert "queued" == store.get(late.id).status


@limited
async def test_a_program_that_fails(store: Store, prompt: Prompt) -> None:
    """An error in the block comes out of it, when the handlers are done; so does a cancel."""
    bench = Bench()
    run = store.create(**new())

    async def broken() -> None:
        async with Worker(store, bench.wait):
            await until(lambda: bench.begun == [run.id], "the handler")
            bench.gate.set()
            raise KeyError("of the program's own")

    with pytest.raises(KeyError, match="of the program's own"):
        await broken()
    assert "completed" == store.get(run.id).status

    bench = Bench()
    run = store.create(**new())

    async def program() -> None:
        async with Worker(store, bench.wait, drain_s=0.1):
            await asyncio.sleep(LIMIT)

    running = asyncio.create_task(program())
    await until(lambda: bench.begun == [run.id], "the handler")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert 1 == len(bench.cancelled)
    assert [(0, 1)] == prompt.run("SELECT worker, attempt FROM runstate_run WHERE id = ?", [run.id])
    assert [(0,)] == prompt.run("SELECT count(*) FROM runstate_worker_session WHERE closed = 0")


@limited
async def test_a_handler_may_keep_something_on_its_way_out(store: Store) -> None:
    """A handler that is stopped still holds its run until it has left: what it keeps is there for the next."""
    begun = asyncio.Event()

    async def answer(ctx: Context) -> None:
        if ctx.checkpoint_value == "kept":
            return
        try:
            begun.set()
            await asyncio.sleep(LIMIT)
        finally:
            await ctx.checkpoint("kept")

    run = store.create(**new())
    async with Worker(store, answer, drain_s=0.0):
        await begun.wait()
    async with at_work(store, answer):
        assert "completed" == (await ended(store, run.id)).status


@limited
async def test_stopped_inside_its_block(store: Store) -> None:
    """Leaving the block of a worker that was stopped there is no second request: it has its time to drain."""
    bench = Bench()
    run = store.create(**new())
    async with Worker(store, bench.wait, drain_s=LIMIT) as worker:
        await until(lambda: bench.begun == [run.id], "the handler")
        worker.stop()
        asyncio.get_running_loop().call_later(0.2, bench.gate.set)
    assert ("completed", []) == (store.get(run.id).status, bench.cancelled)


@pytest.mark.parametrize("part", ["batches.commit", "_expire_overdue"])
@limited
async def test_a_fault_of_the_worker(
    part: str, store: Store, prompt: Prompt, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Should the library itself fail, the log says so at once, and what was held is given back."""
    bench = Bench()
    run = store.create(**new())

    async def work() -> None:
        async with Worker(store, bench.wait, name="w1") as worker:
            await until(lambda: bench.begun == [run.id], "the handler")

            def fail(*_: object) -> None:
                raise ZeroDivisionError

            owner, name = (worker._session.batches, "commit") if "." in part else (worker._session, part)
            monkeypatch.setattr(owner, name, fail)
            store.create(**new())  # for a turn
            await until(lambda: "worker w1 crashed (bug in runstate)" in caplog.text, "the log")
            worker.stop()
            worker.stop()

    with pytest.raises(ZeroDivisionError):
        await work()
    assert [(0, 1)] == prompt.run("SELECT worker, attempt FROM runstate_run WHERE id = ?", [run.id])


def test_again_and_again(store: Store) -> None:
    """A worker can work until there is nothing to do, and later once more."""
    worker = Worker(store, lambda ctx: None)
    for _ in range(3):
        run = store.create(**new())
        worker.run(until_idle=True)
        assert "completed" == store.get(run.id).status
    assert 3 == worker.settled


def test_in_a_thread(store: Store) -> None:
    """Outside the main thread there are no signals; any thread may stop it."""
    bench = Bench()
    worker = Worker(store, bench.stand)
    working = threading.Thread(target=worker.run, daemon=True)
    working.start()
    run = store.create(**new())
    asyncio.run(until(lambda: bench.begun == [run.id], "the handler"))
    worker.stop()
    bench.gate.set()
    working.join(LIMIT)
    assert not working.is_alive()
    assert "completed" == store.get(run.id).status
    worker.stop()  # once more, when it is over


@limited
async def test_blocking_inside_a_loop(store: Store) -> None:
    """What blocks refuses to stop a loop, and says what to do instead."""
    with pytest.raises(RuntimeError, match="async with worker"):
        Worker(store, lambda ctx: None).run()


def test_a_store_that_is_closed(store_url: str) -> None:
    """A worker that gets no lease says so, and leaves nothing behind."""
    store = open_store(store_url)
    store.close()
    before = threading.enumerate()
    with pytest.raises(StoreError, match="closed"):
        Worker(store, lambda ctx: None).run()

    async def beside() -> None:
        async with Worker(store, lambda ctx: None):
            raise AssertionError("it cannot work")

    with pytest.raises(StoreError, match="closed"):
        asyncio.run(beside())
    wait_until(lambda: not new_threads(before), "the threads to end")


def test_a_handler_that_never_ends_keeps_no_process() -> None:
    """A plain handler that sleeps on does not keep the process from ending, once the worker has returned."""
    code = """
import threading, time
from runstate.store import open_store
from runstate.worker import Worker

with open_store("sqlite:///:memory:") as store:
    store.create(thread_id="t", assistant_id="a", model="m")
    begun = threading.Event()
    def sleep(ctx):
        begun.set()
        time.sleep(600)
    worker = Worker(store, sleep, drain_s=0.0)
    threading.Thread(target=lambda: begun.wait() and worker.stop(), daemon=True).start()
    worker.run()
print("left")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=LIMIT)
    assert (0, "left\n") == (done.returncode, done.stdout), done.stderr


def test_idle_workers_leave_when_others_work(store: Store) -> None:
    """Until there is nothing to do means: for this worker. What another works on is not waited for."""
    store.create(**new())
    assert 1 == len(store.claim(store.open_lease("w0", lease_s=60)))
    finish(store, lambda ctx: None)
