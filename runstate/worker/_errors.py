"""Exceptions of handlers that determine how a run ends."""

from __future__ import annotations

from typing import Final, get_args

from runstate.lifecycle.errors import RunstateError
from runstate.run import validators
from runstate.run.values import ErrorCode, IncompleteReason, raise_if_invalid

__all__ = ["RetryLater", "RunFailed", "StepInterrupted", "TokenLimitReached"]

_CODE: Final = validators.one_of(get_args(ErrorCode))
_SECONDS: Final = validators.number(0, validators.YEAR_10000)


class TokenLimitReached(RunstateError):
    """The run has exceeded a token limit, and ends as incomplete. `Context.add_usage` raises it; do not catch it.

    `reason` is the limit: `"max_completion_tokens"` or `"max_prompt_tokens"`.
    """

    def __init__(self, run_id: str, reason: IncompleteReason) -> None:
        super().__init__(run_id, reason)
        self.run_id: str = run_id
        self.reason: IncompleteReason = reason

    def __str__(self) -> str:
        return f"run {self.run_id} is past its {self.reason}, and ends incomplete"


class RunFailed(RunstateError):
    """Raise this in a handler to fail its run with a code and a message of your choice.

    `code` is `"server_error"`, `"rate_limit_exceeded"` or `"invalid_prompt"`. Clients see both in `last_error`. Raises
    `InvalidRun` for another code, or for a message that is not a string.

        raise RunFailed("rate_limit_exceeded", "the model is overloaded")
    """

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(code, message)
        raise_if_invalid(_CODE("code", code) + validators.string("message", message))
        self.code: ErrorCode = code
        self.message: str = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class RetryLater(RunstateError):
    """Raise this in a handler to be called again after `after_s` seconds, as with `Context.retry`.

    It counts as no failed attempt. If the retry would come after the deadline of the run, the run fails now with `code`
    and `reason`. Raises `InvalidRun` for wrong values.

        raise RetryLater(20, "the model is overloaded", code="rate_limit_exceeded")
    """

    def __init__(self, after_s: float, reason: str, code: ErrorCode = "server_error") -> None:
        super().__init__(after_s, reason, code)
        found = _SECONDS("after_s", after_s) + _CODE("code", code) + validators.string("reason", reason)
        raise_if_invalid(found)
        self.after_s: float = float(after_s)
        self.reason: str = reason
        self.code: ErrorCode = code

    def __str__(self) -> str:
        return f"not yet, again in {self.after_s:g} s: {self.reason}"


class StepInterrupted(RunstateError):
    """A step with `once=True` was begun in an earlier call, and its result was not kept: it may have happened.

    The handler decides: it finds out what the step has done, or fails the run. The step is not executed again.
    """

    def __init__(self, run_id: str, name: str, key: str = "") -> None:
        super().__init__(run_id, name, key)
        self.run_id: str = run_id
        self.name: str = name
        self.key: str = key

    def __str__(self) -> str:
        which = f"{self.name!r} with the key {self.key!r}" if self.key else repr(self.name)
        return f"step {which} of run {self.run_id} was begun, and its result was not kept: it may have happened"
