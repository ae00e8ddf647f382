"""Celery's result backend. A worker writes by `mark_as_...`, a client cancels by `revoke`.

PENDING is queued, STARTED in_progress, SUCCESS completed, FAILURE failed, REVOKED cancelled; RETRY has no counterpart.
Celery has no table of moves, so the law is what a reader expects of `celery.states.READY_STATES`, "the task result is
ready (has been executed)": none of the three is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Final
from uuid import uuid4

import celery
from celery.backends import cache
from celery.worker import control

from runstate import Lifecycle, RunEvent, RunStatus
from runstate.testing.conformance import EventRefused
from tests.testing.libraries import law_from

__all__ = ["Results"]

STATUSES: Final[Mapping[str, RunStatus]] = {
    "PENDING": RunStatus.QUEUED,
    "STARTED": RunStatus.IN_PROGRESS,
    "SUCCESS": RunStatus.COMPLETED,
    "FAILURE": RunStatus.FAILED,
    "REVOKED": RunStatus.CANCELLED,
}
AT_WORK: Final = (RunStatus.QUEUED, RunStatus.IN_PROGRESS)  # by default nobody stores STARTED
READY_STAYS: Final = law_from(
    {
        RunEvent.START: (RunStatus.IN_PROGRESS, (RunStatus.QUEUED,)),
        RunEvent.COMPLETE: (RunStatus.COMPLETED, AT_WORK),
        RunEvent.FAIL: (RunStatus.FAILED, AT_WORK),
        RunEvent.CONFIRM_CANCEL: (RunStatus.CANCELLED, AT_WORK),  # skipped, or terminated at work
        RunEvent.REQUEST_CANCEL: (RunStatus.CANCELLED, (RunStatus.QUEUED,)),  # a started one is left to its worker
    }
)


class Results:
    """Tasks in the result backend that lives in memory; it shares its checks with the others that store by key."""

    refused: tuple[type[Exception], ...] = (EventRefused,)
    lifecycle: Lifecycle = READY_STAYS
    name = "celery"

    def __init__(self) -> None:
        self._app: Any = celery.Celery("tried", broker="memory://", backend="cache+memory://", set_as_current=False)
        self._worker = SimpleNamespace(app=self._app)  # what a worker's commands know of it

    def create(self) -> str:
        return str(uuid4())  # an id that nobody knows is PENDING

    def send(self, run: str, event: RunEvent) -> None:
        before = self._stored(run)
        self._ask(run, event)
        if self._stored(run) == before:
            raise EventRefused("nothing was stored")  # which is Celery's way: it ignores, and says nothing

    def read(self, run: str) -> Mapping[str, Any]:
        return {"status": STATUSES[self._stored(run)["status"]]}

    def close(self) -> None:
        self._app.close()
        cache._DUMMY_CLIENT_CACHE.clear()

    def _ask(self, run: str, event: RunEvent) -> None:
        if event is RunEvent.START:
            self._app.backend.mark_as_started(run, pid=1, hostname="w")
        elif event is RunEvent.COMPLETE:
            self._app.backend.mark_as_done(run, 42)
        elif event is RunEvent.FAIL:
            self._app.backend.mark_as_failure(run, ValueError("it broke"))
        elif event is RunEvent.CONFIRM_CANCEL:
            self._app.backend.mark_as_revoked(run, "terminated")
        else:
            control.revoke(self._worker, run)

    def _stored(self, run: str) -> dict[str, Any]:
        meta = dict(self._app.backend.get_task_meta(run, cache=False))
        meta["result"] = repr(meta["result"])  # an exception is made anew at each read
        return meta
