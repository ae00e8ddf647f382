"""What the table refuses, and what is wrong with a table."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar, Protocol, cast

from runstate.lifecycle._types import RunEvent, RunStatus

__all__ = ["DeadlinePassed", "DefinitionError", "IllegalTransition", "RefusedRun", "RunstateError", "TerminalStatus"]


class RefusedRun(Protocol):
    """What a refusal tells of a stored run. It is a `StoredRun`, which has more."""

    @property
    def id(self) -> str:
        """Its id."""
        ...

    @property
    def seq(self) -> int:
        """The store's own number for it."""
        ...

    @property
    def status(self) -> RunStatus:
        """Where it stands."""
        ...

    @property
    def version(self) -> int:
        """How many entries its history has."""
        ...

    @property
    def event(self) -> RunEvent | None:
        """What moved it there; None if it was only created."""
        ...

    @property
    def source(self) -> RunStatus | None:
        """Where it stood before that."""
        ...

    @property
    def actor(self) -> str | None:
        """Who asked for that."""
        ...

    @property
    def expires_at(self) -> int | None:
        """Its deadline, in Unix seconds; None once it has ended."""
        ...

    @property
    def completed_at(self) -> int | None:
        """When it ended, in Unix seconds."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return the run as the API has it."""
        ...


def _utc(seconds: int) -> str:
    """Return a time in Unix seconds as people and programs write it."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


class RunstateError(Exception):
    """The root of every error of this library."""

    retryable: ClassVar[bool] = False
    """Whether asking the same thing again can help. A refusal by the law stays one."""


class DefinitionError(RunstateError):
    """A table of transitions contradicts itself, or an event is asked of a table that lacks it."""


class IllegalTransition(RunstateError):
    """The law has no row for this event where the run stands. Nothing was changed.

    Only `RUN_LIFECYCLE.refusal` builds one. No `__init__`: BaseException keeps the arguments, which is what pickle and
    copy rely on, and a refusal stays cheap for those who catch and drop it.
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
    def run(self) -> RefusedRun | None:
        """The run as the store holds it, from where it was refused; None for a run in memory."""
        return cast("RefusedRun", self.args[5]) if len(self.args) > 5 else None

    @property
    def changed_by(self) -> str:
        """What moved the stored run to where it stands, by whom: ` (by complete, worker w1)`; empty in memory."""
        run = self.run
        if run is None or run.event is None:
            return ""
        return f" (by {run.event}, {run.actor})" if run.actor else f" (by {run.event})"

    def __str__(self) -> str:
        sentence = (
            f"run {self.run_id} is {self.status}{self.changed_by} and cannot {self.event}; "
            f"allowed there: {', '.join(self.allowed)}"
        )
        if self.path is None:
            return f"{sentence}; no way leads to {self.event} from there"
        return f"{sentence}; shortest way: {' -> '.join(self.path)}"


class TerminalStatus(IllegalTransition):
    """The run has ended, and nothing leaves a terminal status. Nothing was changed.

    An event that is legal only before the deadline (`RUN_LIFECYCLE.until_deadline`) and comes too late is refused so as
    well. If the run was not expired yet, the store has expired it first.
    """

    def __str__(self) -> str:
        return (
            f"run {self.run_id} is {self.status}{self.changed_by} and cannot {self.event}; "
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
