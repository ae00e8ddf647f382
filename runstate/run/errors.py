"""The errors of values: an invalid run, JSON that is not a run, tool outputs that do not match."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from runstate.lifecycle.errors import RunstateError

__all__ = ["FieldError", "InvalidRun", "RunDecodeError", "ToolOutputsMismatch"]


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
        # The first half is the message of the real servers.
        return (
            f"Expected tool outputs for call_ids {list(self.expected)}, got {list(self.got)}; "
            f"run {self.run_id} stays requires_action until exactly these come in one request"
        )


class FieldError(NamedTuple):
    """One error of a value: its path (`required_action.tool_calls[0].id`) and a message."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class InvalidRun(RunstateError, ValueError):
    """Values that no run can have, or wrong arguments: all errors at once, each with its path.

    It is also a `ValueError`. The message has the first ten errors.
    """

    def __init__(self, errors: Sequence[FieldError]) -> None:
        super().__init__(tuple(errors))
        self.errors: tuple[FieldError, ...] = tuple(errors)
        """All errors, each with the path of the value and a message."""

    def __str__(self) -> str:
        text = "; ".join(map(str, self.errors[:10]))
        return f"{text}; and {len(self.errors) - 10} more" if len(self.errors) > 10 else text


class RunDecodeError(InvalidRun):
    """Input from outside is not a run: all errors at once, each with its path."""

    def __str__(self) -> str:
        return f"not a run: {super().__str__()}"
