"""Workers in processes of their own, to be stopped and killed: `python -c`, a real worker, real signals.

Their handlers write what befalls them into a journal, a line of JSON each, and wait for a file to appear.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from runstate.errors import LeaseLost
from runstate.store import Store, open_store
from runstate.worker import Context, Handler, Worker, drive
from runstate.worker import _heartbeat as pulse
from tests.worker.support import LIMIT, until

ROOT: Final = Path(__file__).parents[2]


class WorkerProcess:
    """A worker in a process of its own, which ends with this one at the latest."""

    def __init__(self, url: str, folder: Path, handler: str = "wait", **given: Any) -> None:
        self.folder = folder / f"{handler}-{time.monotonic_ns()}"
        self.folder.mkdir(parents=True)
        self.gate = self.folder / "gate"
        self.errors = self.folder / "stderr"
        code = f"from tests.worker.process import main; main({url!r}, {str(self.folder)!r}, {handler!r}, {given!r})"
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stderr=errors, start_new_session=True
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()  # SIGTERM would make it drain
        self.process.wait(LIMIT)
        assert self.process.stdin is not None
        self.process.stdin.close()
        if error is not None:
            sys.stderr.write(self.told())

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def delivered(self, number: signal.Signals) -> None:
        """Send a signal, and wait until the process has it: two that wait together would come as one."""
        self.process.send_signal(number)
        status, bit = Path(f"/proc/{self.process.pid}/status"), 1 << (number - 1)

        def has_it() -> bool:
            if self.process.poll() is not None:
                return True
            pending = re.findall(r"^(?:Shd|Sig)Pnd:\s*(\w+)", status.read_text(), re.MULTILINE)
            return not any(int(mask, 16) & bit for mask in pending)

        await until(has_it, f"{number.name} to be delivered")

    def open_gate(self) -> None:
        self.gate.touch()

    def told(self) -> str:
        """Return what it has logged."""
        return self.errors.read_text(encoding="utf-8", errors="replace")

    def journal(self, event: str) -> list[dict[str, Any]]:
        """Return the lines of an event: `begin`, `end`, `cancelled`, `stop`, `leave`."""
        path = self.folder / "journal"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [line for line in map(json.loads, lines) if line["event"] == event]

    async def journaled(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait for so many lines of an event, and return them."""
        await until(lambda: len(self.journal(event)) >= count or self.process.poll() is not None, f"{event} x {count}")
        found = self.journal(event)
        assert len(found) >= count, self.told()
        return found

    async def over(self) -> int:
        """Wait for its end, and return its code."""
        await until(lambda: self.process.poll() is not None, "the process to end")
        code: int = self.process.wait()
        return code


# --- inside -----------------------------------------------------------------------------------------------------------


class Inside:
    """The handlers of a worker process."""

    def __init__(self, folder: Path) -> None:
        self._gate = folder / "gate"
        self._journal = os.open(folder / "journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, event: str, ctx: Context | None = None) -> None:
        line = {"event": event, "at": time.time()}
        if ctx is not None:
            line |= {"run": ctx.run_id, "attempt": ctx.attempt}
        os.write(self._journal, (json.dumps(line) + "\n").encode())

    async def wait(self, ctx: Context) -> None:
        """Wait for the gate."""
        self.note("begin", ctx)
        try:
            while not self._gate.exists():
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.note("cancelled", ctx)
            raise
        self.note("end", ctx)

    def stand(self, ctx: Context) -> None:
        """Wait for the gate as a plain handler that never asks."""
        self.note("begin", ctx)
        while not self._gate.exists():
            time.sleep(0.01)
        self.note("end", ctx)

    async def block(self, ctx: Context) -> None:
        """Block the event loop in Python code."""
        self.note("begin", ctx)
        while True:
            time.sleep(3600)

    async def block_in_c(self, ctx: Context) -> None:
        """Block it in C code, in the midst of which no signal is handled."""
        self.note("begin", ctx)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)

    async def block_in_regex(self, ctx: Context) -> None:
        """Block it in C code that lets no other thread run."""
        self.note("begin", ctx)
        re.match("(a+)+$", "a" * 64 + "b")

    async def wait_for_thread(self, ctx: Context) -> None:
        """Wait for a thread that the event loop waits for when it ends."""
        self.note("begin", ctx)
        await asyncio.to_thread(time.sleep, 3600)

    def wait_for_pool(self, ctx: Context) -> None:
        """Wait for a thread that the interpreter waits for when it ends."""
        pool = ThreadPoolExecutor()
        future = pool.submit(time.sleep, 3600)
        self.note("begin", ctx)
        future.result()

    async def block_or_wait(self, ctx: Context) -> None:
        """Wait like the others; the one that is told to blocks all of them until the gate is open."""
        self.note("begin", ctx)
        while not self._gate.exists():
            if ctx.run.metadata.get("blocks") and ctx.attempt == 1:
                time.sleep(0.01)
            else:
                await asyncio.sleep(0.01)
        try:
            await ctx.checkpoint("late")
            self.note("kept", ctx)
        except (LeaseLost, asyncio.CancelledError):
            self.note("refused", ctx)
            raise

    async def work_unless_poison(self, ctx: Context) -> None:
        """Work for a moment; the one that is told to takes the process along."""
        self.note("begin", ctx)
        await asyncio.sleep(0.05)
        if ctx.run.metadata.get("poison"):
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(float(ctx.run.metadata.get("lasts", "0.1")))

    async def fork(self, ctx: Context) -> None:
        """Start a child by forking, and stop it: its signals are its own."""
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(3600,))
        child.start()
        child.terminate()
        child.join()
        self.note("begin", ctx)
        while not self._gate.exists():
            await asyncio.sleep(0.01)
        self.note("end", ctx)

    def die(self, ctx: Context) -> None:
        """Take the process along."""
        self.note("begin", ctx)
        os._exit(9)


class _Journaled(Worker):
    """A worker that writes down when it is told to stop."""

    def __init__(self, inside: Inside, store: Store, handler: Handler, **given: Any) -> None:
        super().__init__(store, handler, **given)
        self._inside = inside

    def stop(self) -> None:
        super().stop()
        self._inside.note("stop")


def _end_with_parent() -> None:
    while os.read(0, 1):  # not `sys.stdin`, which a thread may not hold when Python ends
        pass
    os._exit(77)


def main(url: str, folder: str, handler: str, given: dict[str, Any]) -> None:
    """Work until a signal comes; with `run_id`, drive that run alone.

    `beats` is how often a lease is renewed before it would lapse.
    """
    pulse._BEATS = given.pop("beats", pulse._BEATS)  # type: ignore[misc]
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.basicConfig(level=logging.INFO)
    inside = Inside(Path(folder))
    called: Handler = getattr(inside, handler)
    with open_store(url, wait_s=5.0) as store:
        if "run_id" in given:
            drive(store, given.pop("run_id"), called, **given)
        else:
            _Journaled(inside, store, called, **given).run()
    inside.note("leave")
