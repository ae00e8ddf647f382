"""The log in which handlers write down what they did.

A line is one write to a file that is opened for appending. A process that is killed in the middle of it may leave a
part of a line: each begins with a new one, and ends with a word by which it is known to be whole. It says what
happened, to which run, started at which version, in which attempt, by whom, and when.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from runstate import clock
from runstate.worker import Context

TRUE_TIME: Final = time.clock_gettime
"""The machine's clock, whatever a trial does to `time.time`."""

END: Final = "."
"""The last word of a line that is whole."""


class Line(NamedTuple):
    """A line of the side log."""

    what: str
    """`begun`, `cut`, or `ended-` and the event that the handler asked for."""
    run_id: str
    version: int
    """The version that the run was started at."""
    attempt: int
    worker: str
    at: float
    """Unix seconds, by the machine's own clock."""
    token: int
    """The lease under which the handler worked; 0 where it is not known."""


class SideLog:
    """An append-only file beside the database."""

    def __init__(self, path: Path, worker: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self._worker = worker

    def write(self, what: str, ctx: Context) -> None:
        """Write a line down."""
        self.note(what, ctx.run.id, ctx.run.version, ctx.run.attempt, ctx._lease.token)

    def note(self, what: str, run_id: str, version: int, attempt: int, token: int = 0) -> None:
        """Write a line down of a run that no context is at hand of."""
        at = TRUE_TIME(time.CLOCK_REALTIME)
        os.write(self._file, f"\n{what} {run_id} {version} {attempt} {self._worker} {at:.6f} {token} {END}\n".encode())


def read_side_log(path: Path) -> Iterator[Line]:
    """Yield the lines of a side log."""
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            words = text.split()
            if not words or words[-1] != END:
                continue
            what, run_id, version, attempt, worker, at, token, _ = words
            yield Line(what, run_id, int(version), int(attempt), worker, float(at), int(token))


def skew(seconds: float) -> None:
    """Put the clock of this process wrong, as a machine's that nobody sets."""

    def wrong() -> float:
        return TRUE_TIME(time.CLOCK_REALTIME) + seconds

    time.time = wrong
    # The reader has the function itself, and this process had loaded it already. A wrong clock is not a test's clock.
    clock.current.time = wrong
    assert "_REAL_CLOCKS" in vars(clock)
    vars(clock)["_REAL_CLOCKS"] = (wrong,)
