"""Every exception of runstate, and the sentence it speaks.

An error is a small record: fields for programs, one sentence for people. Whose fault it is decides the class:

- `LawError`: the table itself contradicts itself (a developer's mistake, found when it loads).
- `IllegalTransition`: the law refused the event where the run stands; `TerminalStatus` when nothing can ever be asked;
  `DeadlinePassed` when the event had to come before the deadline, and the run is not expired yet.
- `ToolOutputsMismatch`: the event may be asked, but not with these tool outputs.
- `InvalidRun`: a value that no run can have; `RunDecodeError` when it was read from outside.
- `LostRace`: somebody else was faster; `Conflict` by the version, `LeaseLost` by the lease.
- `RunNotFound`, `ThreadBusy`, `KeyReused`: what was asked does not fit what the store holds.
- `StoreError`: the store's own trouble; `retryable` says whether asking again can help.

After any of them the run is as it was. (After `OutcomeUnknown` nobody knows: that is what it says.)
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, ClassVar, NamedTuple, cast

if TYPE_CHECKING:
    from runstate.lifecycle import RunEvent, RunStatus
    from runstate.store._types import StoredRun

__all__ = [
    "AccessDenied",
    "Conflict",
    "DeadlinePassed",
    "Fault",
    "IllegalTransition",
    "InvalidRun",
    "KeyReused",
    "LawError",
    "LeaseLost",
    "LostRace",
    "OutcomeUnknown",
    "RunDecodeError",
    "RunNotFound",
    "RunstateError",
    "SchemaMismatch",
    "StoreError",
    "StoreUnavailable",
    "StoreUrlError",
    "TerminalStatus",
    "ThreadBusy",
    "ToolOutputsMismatch",
]


def _utc(seconds: int) -> str:
    """Return a time in Unix seconds as people and programs write it."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


class RunstateError(Exception):
    """The root of every error of this library."""

    retryable: ClassVar[bool] = False
    """Whether asking the same thing again can help. A refusal by the law stays one."""


class LawError(RunstateError):
    """A table of transitions contradicts itself, or an event is asked of a table that lacks it."""


class IllegalTransition(RunstateError):
    """The law has no row for this event where the run stands. Nothing was changed.

    Only `LAW.refusal` builds one. No `__init__`: BaseException keeps the arguments, which is what pickle and copy rely
    on, and a refusal stays cheap for those who catch and drop it.
    """

    @property
    def run_id(self) -> str:
        """The run that was asked."""
        return cast("str", self.args[0])

    @property
    def status(self) -> RunStatus:
        """Where the run stands."""
        return cast("RunStatus", self.args[1])

    @property
    def event(self) -> RunEvent:
        """What was asked."""
        return cast("RunEvent", self.args[2])

    @property
    def allowed(self) -> tuple[RunEvent, ...]:
        """The events that may be asked where the run stands."""
        return cast("tuple[RunEvent, ...]", self.args[3])

    @property
    def path(self) -> tuple[RunEvent, ...] | None:
        """The fewest events that end with the one asked, from where the run stands; None if there is no way."""
        return cast("tuple[RunEvent, ...] | None", self.args[4])

    @property
    def run(self) -> StoredRun | None:
        """The run as the store holds it, from where it was refused; None for a run in memory."""
        return cast("StoredRun", self.args[5]) if len(self.args) > 5 else None

    @property
    def lost_to(self) -> str:
        """What moved the stored run to where it stands, by whom: ` (by complete, worker w1)`; empty in memory."""
        run = self.run
        if run is None or run.event is None:
            return ""
        return f" (by {run.event}, {run.actor})" if run.actor else f" (by {run.event})"

    def __str__(self) -> str:
        sentence = (
            f"run {self.run_id} is {self.status}{self.lost_to} and cannot {self.event}; "
            f"allowed there: {', '.join(self.allowed)}"
        )
        if self.path is None:
            return f"{sentence}; no way leads to {self.event} from there"
        return f"{sentence}; shortest way: {' -> '.join(self.path)}"


class TerminalStatus(IllegalTransition):
    """The run has ended, and nothing leaves a terminal status. Nothing was changed.

    An event that is legal only before the deadline (`LAW.until_deadline`) and comes too late is refused so as well. If
    the run was not expired yet, the store has expired it first.
    """

    def __str__(self) -> str:
        return (
            f"run {self.run_id} is {self.status}{self.lost_to} and cannot {self.event}; "
            f"{self._because_expired}{self.status} is terminal, nothing leaves it"
        )

    @property
    def _because_expired(self) -> str:
        """Why and when a stored run expired, which may be long after its deadline.

        `the store expired it at 2023-11-14T23:13:20Z, because its deadline had passed; `. An ended run has no deadline
        any more, so the sentence cannot name that.
        """
        run = self.run
        if run is None or run.event != "expire" or run.completed_at is None:
            return ""
        return f"the store expired it at {_utc(run.completed_at)}, because its deadline had passed; "


class DeadlinePassed(TerminalStatus):
    """The event is legal only before the run's deadline, which has passed. Nothing was changed.

    Only `Store.within` raises it: a caller's own transaction is not made to expire a run. `status` is where the run
    stands, and `allowed` is what it can still be asked. Everywhere else the store expires such a run at once, and
    refuses with a plain `TerminalStatus`.
    """

    def __str__(self) -> str:
        deadline = None if self.run is None else self.run.expires_at
        passed = "has passed" if deadline is None else f"was {_utc(deadline)}"
        return (
            f"run {self.run_id} is {self.status}, but its deadline {passed}, so it cannot {self.event}; "
            f"allowed there: {', '.join(self.allowed)}"
        )


class ToolOutputsMismatch(RunstateError):
    """The tool outputs are not for exactly the calls that the run waits for. Nothing was changed."""

    def __init__(self, run_id: str, expected: tuple[str, ...], got: tuple[str, ...]) -> None:
        super().__init__(run_id, expected, got)
        self.run_id: str = run_id
        self.expected: tuple[str, ...] = expected
        """The ids of the calls that the run waits for."""
        self.got: tuple[str, ...] = got
        """The ids that outputs were given for."""

    def __str__(self) -> str:
        # The first half is the real servers' sentence (LIFECYCLE, "HTTP answers").
        return (
            f"Expected tool outputs for call_ids {list(self.expected)}, got {list(self.got)}; "
            f"run {self.run_id} stays requires_action until exactly these come in one request"
        )


class Fault(NamedTuple):
    """One thing wrong with a value: where it stands (`required_action.tool_calls[0].id`) and what is wrong there."""

    path: str
    problem: str

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}" if self.path else self.problem


class InvalidRun(RunstateError, ValueError):
    """Values that no run can have: all faults at once, each with its path."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__(tuple(faults))
        self.faults: tuple[Fault, ...] = tuple(faults)

    def __str__(self) -> str:
        told = "; ".join(map(str, self.faults[:10]))
        return f"{told}; and {len(self.faults) - 10} more" if len(self.faults) > 10 else told


class RunDecodeError(InvalidRun):
    """What was read from outside is not a run: all faults at once, each with its path."""

    def __str__(self) -> str:
        return f"not a run: {super().__str__()}"


class LostRace(RunstateError):
    """Somebody else moved the run first. Nothing was changed; `run` is how it stands now."""

    def __init__(self, run: StoredRun, event: RunEvent) -> None:
        super().__init__(run, event)
        self.run: StoredRun = run
        self.run_id: str = run.id
        self.event: RunEvent = event
        """What was asked."""


class Conflict(LostRace):
    """The run is not at the version that the decision was made on. Read it again, and decide anew."""

    def __init__(self, run: StoredRun, event: RunEvent, expected_version: int) -> None:
        super().__init__(run, event)
        RunstateError.__init__(self, run, event, expected_version)  # what pickle makes it of again
        self.expected_version: int = expected_version

    def __str__(self) -> str:
        return (
            f"run {self.run_id} is {self.run.status} at version {self.run.version}, not at {self.expected_version}, "
            f"and was not asked to {self.event}; read it again and decide anew"
        )


class LeaseLost(LostRace):
    """The worker no longer holds the run: its lease lapsed, or another took the run over."""

    def __str__(self) -> str:
        return (
            f"run {self.run_id} is {self.run.status} and no longer this worker's, so it cannot {self.event}; "
            "whoever holds its lease now can"
        )


class RunNotFound(RunstateError, LookupError):
    """The store has no run with this id."""

    def __init__(self, run_id: str) -> None:
        super().__init__(run_id)
        self.run_id: str = run_id

    def __str__(self) -> str:
        return f"No run found with id '{self.run_id}'."  # as the real servers say it


class ThreadBusy(RunstateError):
    """The thread has a live run, and the new one was to be its only one. Nothing was created."""

    def __init__(self, thread_id: str, run_id: str) -> None:
        super().__init__(thread_id, run_id)
        self.thread_id: str = thread_id
        self.run_id: str = run_id
        """The run that is in the way."""

    def __str__(self) -> str:
        return f"Thread {self.thread_id} already has an active run {self.run_id}."  # as the real servers say it


class KeyReused(RunstateError):
    """The idempotency key belongs to a run that was created with other values. Nothing was created."""

    def __init__(self, key: str, run_id: str, fields: Sequence[str]) -> None:
        super().__init__(key, run_id, tuple(fields))
        self.key: str = key
        self.run_id: str = run_id
        """The run that was created with the key."""
        self.fields: tuple[str, ...] = tuple(fields)
        """What differs."""

    def __str__(self) -> str:
        return (
            f"the idempotency key {self.key!r} belongs to run {self.run_id}, which was created with other values "
            f"({', '.join(self.fields)}); a new request needs a new key"
        )


class StoreError(RunstateError):
    """The store's own trouble, in one sentence. Nothing was changed."""


class StoreUrlError(StoreError, ValueError):
    """The address is none that a store can be opened with."""


class AccessDenied(StoreError):
    """The role that the store was opened with, or the user of the process, may not do this in the database."""


class SchemaMismatch(StoreError):
    """The database is not one that this version of the library can work with."""


class StoreUnavailable(StoreError):
    """The database cannot be reached, is busy for too long, full, or read-only for now. Asking again can help."""

    retryable: ClassVar[bool] = True


class OutcomeUnknown(StoreError):
    """The answer was lost: the change was made, or was not. Read the run before asking again."""
