"""The log of a worker: one line for each call of a handler. The fields are on the record too, for formatters."""

from __future__ import annotations

import logging
from typing import Final

from runstate.clock import monotonic
from runstate.store import Settle, StoredRun

__all__ = ["log_call"]

_log: Final = logging.getLogger("runstate.worker")


def log_call(run: StoredRun, settle: Settle, begun_at: float) -> None:
    """Log the end of a handler's call, and what it is about to do to the run. `begun_at` is by the monotonic clock."""
    if not _log.isEnabledFor(logging.INFO):
        return
    seconds = monotonic() - begun_at
    event = str(settle.event) if settle.retry is None else "retry"
    _log.info(
        "run %s of thread %s: %s after %.3f s, attempt %d",
        *(run.id, run.thread_id, event, seconds, run.attempt),
        extra={
            "run_id": run.id,
            "thread_id": run.thread_id,
            "event": event,
            "seconds": round(seconds, 6),
            "attempt": run.attempt,
        },
    )
