"""Signals: the first lets a worker finish, the second ends its process, whatever that is doing."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runstate.errors import StoreUnavailable
from runstate.store import Store, open_store
from runstate.worker import Worker
from runstate.worker._signals import StopSignals
from tests.worker.process import ROOT, WorkerProcess
from tests.worker.support import LIMIT, Bench, ended, events, limited, new, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="sees by /proc what was delivered"),
]

TERM, INT = signal.SIGTERM, signal.SIGINT
SCENES = {
    "python code, twice SIGTERM": ("block", TERM, TERM),
    "python code, twice SIGINT": ("block", INT, INT),
    "python code, SIGTERM first": ("block", TERM, INT),
    "python code, SIGINT first": ("block", INT, TERM),
    "C code": ("block_in_c", TERM, INT),
    "C code that lets no thread run": ("block_in_regex", INT, TERM),
    "a thread of the loop's": ("wait_for_thread", TERM, TERM),
    "a thread of the handler's": ("wait_for_pool", INT, TERM),
}


async def end_by_two(url: str, folder: Path, scene: str) -> None:
    """Block a worker's process, and send it two signals."""
    handler, first, second = SCENES[scene]
    with open_store(url) as store:
        run_id = store.create(**new(queue=scene)).id
        with WorkerProcess(url, folder, handler, queues=(scene,), lease_s=60.0, drain_s=60.0) as process:
            await process.journaled("begin")
            await process.delivered(first)
            await process.journaled("stop")
            assert process.process.poll() is None, "one signal lets it finish"
            await process.delivered(second)
            assert 128 + second == await process.over(), process.told()
            assert [] == process.journal("leave"), "the program does not go on"
        assert "in_progress" == store.get(run_id).status, "its run waits for another worker"


@pytest.mark.parametrize("scenes", [list(SCENES)[:4], list(SCENES)[4:]], ids=["in Python", "elsewhere"])
@limited
async def test_a_second_signal_ends_the_process(scenes: list[str], tmp_path: Path) -> None:
    """It ends with the exit code that a shell expects, and waits neither for the drain nor for any thread."""
    url = f"sqlite:///{tmp_path}/runs.db"
    open_store(url).close()
    async with asyncio.TaskGroup() as group:
        for scene in scenes:
            group.create_task(end_by_two(url, tmp_path, scene), name=scene)


async def drive_and_end(url: str, folder: Path, handler: str) -> None:
    with open_store(url) as store:
        run_id = store.create(**new()).id
        with WorkerProcess(url, folder, handler, run_id=run_id) as process:
            await process.journaled("begin")
            await process.delivered(INT)
            await process.delivered(INT)
            # Where the interpreter still can it ends by the signal itself, as any program does that lets Ctrl-C pass.
            assert await process.over() in (-INT, 128 + INT), process.told()
            assert [] == process.journal("leave")


@limited
async def test_a_second_interrupt_ends_a_driver(tmp_path: Path) -> None:
    """`drive` leaves signals to the program around it, and sees to it that a second Ctrl-C ends that."""
    url = f"sqlite:///{tmp_path}/runs.db"
    open_store(url).close()
    async with asyncio.TaskGroup() as group:
        for handler in ("block", "block_in_c", "wait_for_thread"):
            group.create_task(drive_and_end(url, tmp_path, handler))


@limited
async def test_a_child_has_its_own_signals(tmp_path: Path) -> None:
    """A child that a handler forks ends by a SIGTERM of its own, and the worker does not take it for one of its."""
    url = f"sqlite:///{tmp_path}/runs.db"
    with open_store(url) as store:
        run = store.create(**new())
        with WorkerProcess(url, tmp_path, "fork") as process:
            await process.journaled("begin")
            other = store.create(**new())
            process.open_gate()
            for one in (run, other):
                assert "completed" == (await ended(store, one.id)).status
            await process.delivered(TERM)
            assert 0 == await process.over(), process.told()


APP = """
import time

async def answer(ctx):
    print("begun", flush=True)
    time.sleep(3600)
"""


@limited
async def test_the_command_ends_too(tmp_path: Path) -> None:
    """`runstate worker` ends by the second signal as a program with a worker does."""
    (tmp_path / "app.py").write_text(APP, encoding="utf-8")
    url = f"sqlite:///{tmp_path}/runs.db"
    with open_store(url) as store:
        store.create(**new())
    command = [sys.executable, "-m", "runstate", "worker", "app:answer", "--store", url]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            assert b"begun\n" == await asyncio.to_thread(process.stdout.readline)
            process.send_signal(INT)
            process.send_signal(TERM)
            assert await asyncio.to_thread(process.wait, LIMIT) in (128 + INT, 128 + TERM)
        finally:
            process.kill()


HANGING = """
import asyncio, sys, threading, time
from runstate.store import open_store
from runstate.worker import Worker, _signals as signals
from tests.store.support import Prompt

# On a busy machine the blocks may take longer to be left than a process is given after a second signal.
signals._BLOCKED_S = signals._END_S = 3600.0
url, how = sys.argv[1:]

holder = Prompt(url)

def hang():
    holder.__enter__().run("BEGIN IMMEDIATE")

async def answer(ctx):
    hang()
    print("begun", flush=True)
    while how == "working":
        await asyncio.sleep(1)

def tell():
    while worker._session.worker_lease.ticks.moved_at < 0:
        time.sleep(0.01)
    print("begun", flush=True)

store = open_store(url, wait_s=60.0)
worker = Worker(store, answer)
if how == "beginning":
    hang()
    threading.Thread(target=tell, daemon=True).start()
try:
    worker.run()
finally:
    print("left", flush=True)
"""


async def end_hanging(url: str, how: str) -> None:
    with open_store(url) as store:
        store.create(**new())
    command = [sys.executable, "-c", HANGING, url, how]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert "begun\n" == await asyncio.to_thread(process.stdout.readline)
            process.send_signal(INT)
            process.send_signal(TERM)
            left, logged = await asyncio.to_thread(process.communicate, timeout=LIMIT)
            assert "left\n" == left, logged
            assert process.returncode in (128 + INT, 128 + TERM)
            assert "does not answer" in logged
        finally:
            process.kill()


@limited
async def test_a_second_signal_while_the_store_does_not_answer(tmp_path: Path) -> None:
    """The program's blocks are left all the same: whether it asks for a lease, is in a turn or is to release runs."""
    async with asyncio.TaskGroup() as group:
        for how in ("beginning", "turning", "working"):
            url = f"sqlite:///{tmp_path}/{how}.db"
            open_store(url, migrate=True).close()
            group.create_task(end_hanging(url, how))


END = """
import logging, threading
from runstate.worker._signals import end_process

logging.basicConfig()
both = threading.Barrier(2)

def end():
    both.wait()
    end_process(143)

threading.Thread(target=end).start()
end()
"""


def test_two_threads_that_end_the_process_say_it_once() -> None:
    """The thread that listens and the main thread may see at the same time that the time is over."""
    done = subprocess.run([sys.executable, "-c", END], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
    assert (143, 1) == (done.returncode, done.stderr.count("a second signal ends this process"))


# --- inside a program -------------------------------------------------------------------------------------------------

PROGRAM = """
import asyncio, os, signal, sys
from runstate.store import open_store
from runstate.worker import Worker

before = [signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)]
ours = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

async def answer(ctx):
    for _ in range(int(sys.argv[1])):
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0)

with open_store("sqlite:///:memory:") as store:
    store.create(thread_id="t", assistant_id="a", model="m")
    try:
        Worker(store, answer).run()
    finally:
        print("closed")
print(ours == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)])
print(signal.set_wakeup_fd(-1))
"""


@pytest.mark.parametrize(("signals", "code", "printed"), [(1, 0, "closed\nTrue\n-1\n"), (2, 143, "closed\n")])
def test_a_program_is_left_as_it_was(signals: int, code: int, printed: str) -> None:
    """After one signal its own handlers are back, and it goes on; after two its blocks are left, and it ends."""
    command = [sys.executable, "-c", PROGRAM, str(signals)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
    assert (code, printed) == (done.returncode, done.stdout), done.stderr


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    """Only the main thread may touch them."""
    before = signal.getsignal(TERM)
    found: list[Any] = []

    def look() -> None:
        with StopSignals(lambda: None, lambda: 0.0):
            found.append(signal.getsignal(TERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join(LIMIT)
    assert [before] == found


# --- a worker is run once ---------------------------------------------------------------------------------------------


def test_a_stopped_worker_works_no_more(store: Store) -> None:
    """It says so, however it is asked, also where it was stopped before it began; no run is touched."""
    worker = Worker(store, lambda ctx: None, name="w1")
    worker.stop()

    async def beside() -> None:
        async with worker:
            raise AssertionError("it cannot work")

    run = store.create(**new())
    ways: tuple[Callable[[], None], ...] = (
        worker.run,
        lambda: worker.run(until_idle=True),
        lambda: asyncio.run(worker.work()),
        lambda: asyncio.run(beside()),
    )
    for again in ways:
        with pytest.raises(RuntimeError, match="worker w1 was stopped and works no more: make another Worker"):
            again()
    assert run == store.get(run.id)


def away(store: Store, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Have the store lose its connection and get no other; return what is set when it was asked for one again."""
    asked = threading.Event()

    def fail(*, reading: bool = False) -> None:
        asked.set()
        raise StoreUnavailable("nobody answers")

    monkeypatch.setattr(store._database, "open", fail)
    store._committer._disconnect()
    return asked


@pytest.mark.parametrize("number", [TERM, INT])
def test_a_signal_while_a_worker_waits_for_its_store_to_begin(
    number: signal.Signals, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends as a worker ends that was stopped, and then works no more."""
    with monkeypatch.context() as patch:
        asked = away(store, patch)

        def send() -> None:
            assert asked.wait(LIMIT)
            os.kill(os.getpid(), number)

        sender = threading.Thread(target=send)
        sender.start()
        worker = Worker(store, lambda ctx: None, name="w1")
        worker.run()
        sender.join(LIMIT)
    assert asked.is_set()
    with pytest.raises(RuntimeError, match="was stopped and works no more"):
        worker.run()


@limited
async def test_a_worker_is_stopped_while_it_waits_for_its_store_to_begin(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`work` returns, as it does when it is stopped later; a block is not begun, for nothing would work in it."""
    with monkeypatch.context() as patch:
        asked = away(store, patch)
        worker = Worker(store, lambda ctx: None)
        working = asyncio.create_task(worker.work())
        await until(asked.is_set, "the store to be asked")
        worker.stop()
        await working

        asked.clear()
        other = Worker(store, lambda ctx: None)

        async def beside() -> None:
            async with other:
                raise AssertionError("it cannot work")

        working = asyncio.create_task(beside())
        await until(asked.is_set, "the store to be asked")
        other.stop()
        with pytest.raises(RuntimeError, match="was stopped and works no more"):
            await working


def test_a_worker_that_is_stopped_between_two_times(store: Store) -> None:
    """It may work until there is nothing to do as often as it likes, and no more once it is stopped."""
    worker = Worker(store, lambda ctx: None)
    for _ in range(2):
        worker.run(until_idle=True)
    worker.stop()
    run = store.create(**new())
    with pytest.raises(RuntimeError, match="was stopped"):
        worker.run(until_idle=True)
    assert run == store.get(run.id)


@limited
async def test_a_worker_works_once_at_a_time(store: Store) -> None:
    """A second call while it works is refused, and does the first no harm."""
    bench = Bench()
    run = store.create(**new())
    async with Worker(store, bench.wait, name="w1") as worker:
        await until(lambda: bench.begun == [run.id], "the handler")
        with pytest.raises(RuntimeError, match="worker w1 is at work already"):
            await worker.work()
        with pytest.raises(RuntimeError, match="worker w1 is at work already"):
            async with worker:
                raise AssertionError("it cannot work twice")
        bench.gate.set()
        assert "completed" == (await ended(store, run.id)).status
    assert [None, "start", "complete"] == events(store, run.id)
