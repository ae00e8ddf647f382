"""What a store must answer: an account of its runs in plain values, kept beside it by `store_machine`.

Where an event leads, what it stamps and which fields have a value then stands in the rows of `RUN_LIFECYCLE`. The rest
is docs/store.md once more: versions, leases, take-overs, threads, keys. Nothing is asked of the store, and none of its
code is used; so the two are two opinions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import attrs

from runstate.lifecycle import INITIAL_STATUS, RUN_LIFECYCLE, RunEvent, RunStatus
from runstate.lifecycle.errors import IllegalTransition, TerminalStatus
from runstate.run.errors import InvalidRun, ToolOutputsMismatch
from runstate.run.values import NO_USAGE, Usage
from runstate.store import StoredRun
from runstate.store.errors import IdempotencyKeyReused, LeaseLost, RunNotFound, StoreError, ThreadBusy, VersionConflict
from runstate.testing._send import CALLS
from tests.testing.store_machine.known import Known, Line, Refused, Wanted, differences, view_of

__all__ = ["Account"]

_STARTED: Final = RUN_LIFECYCLE.target_of(RunEvent.START)
_ASKED: Final = RUN_LIFECYCLE.target_of(RunEvent.REQUEST_CANCEL)
_NOBODY: Final = 0  # whom a released run belongs to
_CALLS: Final = frozenset(call.id for call in CALLS)
_SWEEPER: Final = "sweep"


@attrs.define
class _Session:
    until: int
    """Unix microseconds."""
    lease: int
    """Microseconds."""
    actor: str
    closed: bool = False


@attrs.define
class Account:
    """Every run that a store has, by id in the order of their births, and the sessions of its workers by token.

    Its methods are the store's. What they return is what the store must return; where it must refuse they raise
    `Refused`, and nothing has changed, but for a run that was asked after its deadline: it has expired.
    """

    now: int = 0
    """Unix microseconds; whoever moves the clock sets it."""
    runs: dict[str, Known] = attrs.field(factory=dict)
    sessions: dict[int, _Session] = attrs.field(factory=lambda: {_NOBODY: _Session(0, 0, "released", closed=True)})

    # --- births -------------------------------------------------------------------------------------------------------

    def create(self, wanted: Wanted) -> Known:
        """A new run, or the one that its key belongs to."""
        created_at = self.now // 1_000_000
        if wanted.not_before is not None and wanted.not_before >= created_at + wanted.expires_in_s:
            raise Refused(InvalidRun)
        keyed = (run for run in self.runs.values() if wanted.key is not None and run.wanted.key == wanted.key)
        before = next(keyed, None)
        if before is not None:
            if (before.wanted.thread_id, before.wanted.priority) != (wanted.thread_id, wanted.priority):
                raise Refused(IdempotencyKeyReused, run_id=before.id)
            return before
        head = self.head_of(wanted.thread_id)
        if wanted.exclusive == "reject" and head is not None:
            raise Refused(ThreadBusy, run_id=head.id)
        ready = wanted.not_before is None and not (wanted.exclusive == "queue" and head is not None)
        birth = Line(1, None, None, INITIAL_STATUS, self.now, wanted.actor)
        run = self.runs[wanted.id] = Known(wanted, created_at, ready, [birth])
        return run

    def head_of(self, thread_id: str) -> Known | None:
        """The one live run of a thread, if those that are to be alone have one."""
        return next((run for run in self._of(thread_id) if run.holds_thread), None)

    def _of(self, thread_id: str) -> Iterator[Known]:
        return (run for run in self.runs.values() if run.wanted.thread_id == thread_id)

    def get(self, run_id: str) -> Known:
        """A run as it stands."""
        if run_id not in self.runs:
            raise Refused(RunNotFound, run_id=run_id)
        return self.runs[run_id]

    # --- moves --------------------------------------------------------------------------------------------------------

    def move(self, run_id: str, event: RunEvent, actor: str, version: int | None, outputs: Mapping[str, str]) -> Known:
        """Ask an event of a run, from a version; `outputs` are what is submitted."""
        run = self.get(run_id)
        if self._asked_before(run, event, actor, version, outputs):
            return run
        if version not in (None, run.version):
            raise Refused(VersionConflict, run)
        if RUN_LIFECYCLE.find(run.status, event) is None:
            raise Refused(_unlawful(run), run)
        if event in RUN_LIFECYCLE.until_deadline and self._is_late(run):
            self._write(run, RunEvent.EXPIRE, actor)
            raise Refused(_unlawful(run), run)
        if event is RunEvent.START and not run.ready:
            head = self.head_of(run.wanted.thread_id) if run.wanted.exclusive == "queue" else None
            raise Refused(StoreError) if head is None else Refused(ThreadBusy, run_id=head.id)
        if event is RunEvent.SUBMIT_TOOL_OUTPUTS:
            if frozenset(outputs) != _CALLS:
                raise Refused(ToolOutputsMismatch, run_id=run_id)
            run.submitted = (run.version, outputs)
        was_idle = run.status is not _STARTED
        self._write(run, event, actor)
        if event is RunEvent.REQUEST_CANCEL and was_idle:  # nobody is there to confirm it
            self._write(run, RunEvent.CONFIRM_CANCEL, actor)
        return run

    def _asked_before(
        self, run: Known, event: RunEvent, actor: str, version: int | None, outputs: Mapping[str, str]
    ) -> bool:
        """Tell whether a request that is recognised was granted before."""
        if event is RunEvent.SUBMIT_TOOL_OUTPUTS and run.submitted is not None:
            at, before = run.submitted
            return (
                not RUN_LIFECYCLE.is_present("required_action", run.status)
                and before == outputs
                and version in (None, at)
            )
        if event is RunEvent.REQUEST_CANCEL and run.status in (
            _ASKED,
            RUN_LIFECYCLE.target_of(RunEvent.CONFIRM_CANCEL),
        ):
            line = next(line for line in reversed(run.lines) if line.event is event)
            return line.actor == actor and version in (None, line.version - 1)
        return False

    def _write(
        self, run: Known, event: RunEvent, actor: str, usage: Usage = NO_USAGE, worker: int | None = None
    ) -> None:
        """Move a run by its row of the law."""
        row = RUN_LIFECYCLE.find(run.status, event)
        if row is None:
            raise LookupError(f"{run.status} cannot {event}")
        at = max(run.lines[-1].at, self.now)
        run.lines.append(Line(run.version + 1, event, row.source, row.target, at, actor))
        if row.stamp is not None:
            run.stamps[row.stamp] = at // 1_000_000
        run.usage = usage if RUN_LIFECYCLE.is_present("usage", row.target) else None
        if row.target is _STARTED:
            run.attempt, run.lost = 0 if worker is None else 1, 0
        if not (row.source is _STARTED and row.target is _ASKED):  # of whom a cancel is asked goes on
            run.worker = worker
        if run.wanted.exclusive is not None and not run.is_live:
            self._move_up(run.wanted.thread_id)

    def _move_up(self, thread_id: str) -> None:
        """Let the oldest run that waits behind others of its thread be next, if there is none now."""
        if self.head_of(thread_id) is None:
            line = (run for run in self._of(thread_id) if run.waits and run.wanted.exclusive == "queue")
            first = next(filter(self._is_time_for, line), None)
            if first is not None:
                first.ready = True

    def _is_time_for(self, run: Known) -> bool:
        return run.wanted.not_before is None or run.wanted.not_before * 1_000_000 <= self.now

    def _is_late(self, run: Known) -> bool:
        return run.deadline <= self.now // 1_000_000

    # --- work ---------------------------------------------------------------------------------------------------------

    def open_lease(self, token: int, actor: str, lease_s: float) -> None:
        """A worker's session begins."""
        lease = int(lease_s * 1_000_000)
        self.sessions[token] = _Session(self.now + lease, lease, actor)

    def close_lease(self, token: int) -> None:
        """A session ends by its worker's wish."""
        self.sessions[token].closed = True

    def is_held(self, token: int) -> bool:
        """Tell whether a session's lease holds."""
        session = self.sessions[token]
        return not session.closed and session.until > self.now

    def heartbeat(self, token: int) -> tuple[bool, dict[str, RunStatus]]:
        """Whether the lease holds, which then is renewed, and where its runs stand, by id."""
        if not self.is_held(token):
            return False, {}
        session = self.sessions[token]
        session.until = self.now + session.lease
        return True, {run.id: run.status for run in self.runs.values() if run.worker == token}

    def claim(self, token: int, limit: int) -> list[Known]:
        """The highest priority first, of one priority the oldest; nothing past its deadline."""
        ready = (
            run for run in self.runs.values() if run.status is INITIAL_STATUS and run.ready and not self._is_late(run)
        )
        found = sorted(ready, key=lambda run: -run.wanted.priority) if self.is_held(token) else []
        for run in found[:limit]:
            self._write(run, RunEvent.START, self.sessions[token].actor, worker=token)
        return found[:limit]

    def settle(self, token: int, run_id: str, event: RunEvent, usage: Usage) -> None:
        """Only its worker settles a run, and only while its lease holds."""
        run = self.get(run_id)
        holds, lawful = run.worker == token, RUN_LIFECYCLE.find(run.status, event) is not None
        if not run.is_live or (holds and not lawful):
            raise Refused(_unlawful(run), run)
        if not holds or not self.is_held(token):
            raise Refused(LeaseLost, run)
        self._write(run, event, self.sessions[token].actor, usage)

    def release(self, token: int, run_id: str) -> bool:
        """A worker gives a run back, which counts no loss."""
        run = self.runs.get(run_id)
        if run is None or run.worker != token:
            return False
        run.worker = _NOBODY
        return True

    def _is_adrift(self, run: Known) -> bool:
        return run.worker is not None and self.sessions[run.worker].closed

    def take_over(self, token: int, max_attempts: int, run_id: str | None) -> list[Known]:
        """All runs of closed sessions with attempts left, or a certain one; their status stays."""
        found = [
            run
            for run in self.runs.values()
            if self.is_held(token) and self._is_adrift(run) and run.status is _STARTED and not self._is_late(run)
            if run.lost_by_now(_NOBODY) < max_attempts and run_id in (None, run.id)
        ]
        for run in found:
            run.lost = run.lost_by_now(_NOBODY)
            run.worker, run.attempt = token, run.attempt + 1
        return sorted(found, key=lambda run: -run.wanted.priority)

    # --- what time makes due ------------------------------------------------------------------------------------------

    def sweep(self, max_attempts: int) -> Mapping[str, Any]:
        """Deadlines, then lapsed leases, then what may be claimed now, which is to be seen by the runs alone."""
        lapsed = [one for one in self.sessions.values() if not one.closed and one.until <= self.now]
        for session in lapsed:
            session.closed = True
        answer = {
            "expired": self._all(RunEvent.EXPIRE, self._is_late),
            "failed": self._all(RunEvent.FAIL, lambda run: self._is_spent(run, max_attempts)),
            "cancelled": self._all(RunEvent.CONFIRM_CANCEL, self._is_adrift),
        }
        for run in filter(self._is_time_for, self.runs.values()):
            if run.waits and run.wanted.exclusive != "queue":
                run.ready = True
        for thread_id in {run.wanted.thread_id for run in self.runs.values()}:
            self._move_up(thread_id)
        return {**answer, "lapsed": len(lapsed), "adrift": sum(map(self._waits_for_another, self.runs.values()))}

    def _is_spent(self, run: Known, max_attempts: int) -> bool:
        return self._waits_for_another(run) and run.lost_by_now(_NOBODY) >= max_attempts

    def _waits_for_another(self, run: Known) -> bool:
        return self._is_adrift(run) and run.status is _STARTED

    def _all(self, event: RunEvent, wanted: Callable[[Known], bool]) -> set[str]:
        found = [run for run in self.runs.values() if RUN_LIFECYCLE.find(run.status, event) is not None and wanted(run)]
        for run in found:
            self._write(run, event, _SWEEPER)
        return {run.id for run in found}

    def prune(self, older_than_s: float) -> int:
        """How many runs ended longer ago; they are gone, and their keys are free."""
        until = self.now - int(older_than_s * 1_000_000)
        gone = [run for run in self.runs.values() if not run.is_live and run.lines[-1].at < until]
        for run in gone:
            del self.runs[run.id]
        return len(gone)

    # --- comparing ----------------------------------------------------------------------------------------------------

    @property
    def versions(self) -> Mapping[str, int]:
        """How many entries each run has."""
        return {run.id: run.version for run in self.runs.values()}

    def unlike(self, found: Mapping[str, StoredRun]) -> list[str]:
        """Return what is not as it must be, told, of all runs of a store by id in the order of their numbers."""
        told = [f"{run_id} is there, and must not be" for run_id in found if run_id not in self.runs]
        told += [f"{run_id} is not there" for run_id in self.runs if run_id not in found]
        if not told and list(found) != list(self.runs):
            told.append(f"the order of births is {list(found)}, must be {list(self.runs)}")
        for run_id in (run_id for run_id in self.runs if run_id in found):
            unlike = differences(view_of(found[run_id]), self.runs[run_id].view())
            told += [f"{run_id}: {difference}" for difference in unlike]
        return told


def _unlawful(run: Known) -> type[IllegalTransition]:
    return IllegalTransition if run.is_live else TerminalStatus
