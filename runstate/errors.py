"""Every exception of runstate, and the sentence it speaks.

An error is a small record: fields for programs, one sentence for people. Whose fault it is decides the class:

- `LawError`: the table itself contradicts itself (a developer's mistake, found when it loads).
- `IllegalTransition`: the law refused the event where the run stands; `TerminalStatus` when nothing can ever be asked.
- `ToolOutputsMismatch`: the event may be asked, but not with these tool outputs.
- `InvalidRun`: a value that no run can have; `RunDecodeError` when it was read from outside.

After any of them the run is as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple, cast

if TYPE_CHECKING:
    from runstate.lifecycle import RunEvent, RunStatus

__all__ = [
    "Fault",
    "IllegalTransition",
    "InvalidRun",
    "LawError",
    "RunDecodeError",
    "RunstateError",
    "TerminalStatus",
    "ToolOutputsMismatch",
]


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

    def __str__(self) -> str:
        sentence = (
            f"run {self.run_id} is {self.status} and cannot {self.event}; allowed there: {', '.join(self.allowed)}"
        )
        if self.path is None:
            return f"{sentence}; no way leads to {self.event} from there"
        return f"{sentence}; shortest way: {' -> '.join(self.path)}"


class TerminalStatus(IllegalTransition):
    """The run has ended, and nothing leaves a terminal status. Nothing was changed."""

    def __str__(self) -> str:
        return (
            f"run {self.run_id} is {self.status} and cannot {self.event}; {self.status} is terminal, nothing leaves it"
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
