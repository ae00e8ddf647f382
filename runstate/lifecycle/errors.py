"""The errors of the table of transitions: refused events, and wrong definitions."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol, cast

from runstate.lifecycle._types import RunEvent, RunStatus

__all__ = ["DeadlinePassed", "DefinitionError", "IllegalTransition", "RefusedRun", "RunstateError", "TerminalStatus"]


class RefusedRun(Protocol):
    """The stored run in a refusal. It is a `StoredRun`, which has more attributes."""

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
        """Its status."""
        ...

    @property
    def version(self) -> int:
        """How many entries its history has."""
        ...

    @property
    def event(self) -> RunEvent | None:
        """The last event; None if the run was only created."""
        ...

    @property
    def source(self) -> RunStatus | None:
        """The status before that event."""
        ...

    @property
    def actor(self) -> str | None:
        """The actor of that event."""
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
        """Return the run as a JSON object of the API."""
        ...


def _utc(seconds: int) -> str:
    """Return a time in Unix seconds as text: `2023-11-14T23:13:20Z`."""
    from datetime import UTC, datetime  # only refusals need it

    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


class RunstateError(Exception):
    """The base class of all errors of this library."""

    retryable: ClassVar[bool] = False
    """Whether a retry of the same request can succeed. A refusal by the table stays one."""


class DefinitionError(RunstateError):
    """A table of transitions contradicts itself, or lacks an event that is looked up."""


class IllegalTransition(RunstateError):
    """The table has no transition for this event in the status of the run. Nothing was changed.

    Only `RUN_LIFECYCLE.refusal` builds one. There is no `__init__`: BaseException keeps the arguments, pickle and copy
    rely on that, and a refusal that is caught and dropped stays cheap.
    """

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return cast("str", self.args[0])

    @property
    def status(self) -> RunStatus:
        """The status of the run."""
        return cast("RunStatus", self.args[1])

    @property
    def event(self) -> RunEvent:
        """The event that was refused."""
        return cast("RunEvent", self.args[2])

    @property
    def allowed(self) -> tuple[RunEvent, ...]:
        """The events that are allowed in this status."""
        return cast("tuple[RunEvent, ...]", self.args[3])

    @property
    def path(self) -> tuple[RunEvent, ...] | None:
        """The fewest events from this status that end with the refused one; None without a path."""
        return cast("tuple[RunEvent, ...] | None", self.args[4])

    @property
    def run(self) -> RefusedRun | None:
        """The run as the store has it, if a store refused the event; None for a run in memory."""
        return cast("RefusedRun", self.args[5]) if len(self.args) > 5 else None

    @property
    def changed_by(self) -> str:
        """The last event of the stored run and its actor: ` (by complete, worker w1)`; empty in memory."""
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

    It is also raised for an event that is legal only before the deadline (`RUN_LIFECYCLE.until_deadline`) and comes too
    late. If the run was not expired yet, the store has expired it first.
    """

    def __str__(self) -> str:
        return (
            f"run {self.run_id} is {self.status}{self.changed_by} and cannot {self.event}; "
            f"{self._because_expired}{self.status} is terminal, nothing leaves it"
        )

    @property
    def _because_expired(self) -> str:
        """Why and when a stored run expired, which may be long after its deadline.

        `the store expired it at 2023-11-14T23:13:20Z, because its deadline had passed; `. A run that has ended has no
        deadline, so the sentence does not name it.
        """
        run = self.run
        if run is None or run.event != "expire" or run.completed_at is None:
            return ""
        return f"the store expired it at {_utc(run.completed_at)}, because its deadline had passed; "


class DeadlinePassed(TerminalStatus):
    """The event is legal only before the run's deadline, which has passed. Nothing was changed.

    Only `Store.within` raises it, because a store does not expire a run inside a caller's transaction. `allowed` are
    the events that are still allowed. Everywhere else the store expires such a run at once and raises `TerminalStatus`.
    """

    def __str__(self) -> str:
        deadline = None if self.run is None else self.run.expires_at
        passed = "has passed" if deadline is None else f"was {_utc(deadline)}"
        return (
            f"run {self.run_id} is {self.status}, but its deadline {passed}, so it cannot {self.event}; "
            f"allowed there: {', '.join(self.allowed)}"
        )
