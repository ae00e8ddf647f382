"""The tokens that handlers report, counted for the step that is executed."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Final

from runstate.clock import monotonic
from runstate.run.arguments import GivenUsage, usage_of
from runstate.run.errors import FieldError
from runstate.run.values import NO_USAGE, Usage, raise_if_invalid

__all__ = ["CURRENT_STEP", "StepExecution", "count_usage", "used_tokens"]


def used_tokens(prompt_tokens: int | GivenUsage, completion_tokens: int) -> Usage:
    """Return the usage that was given as two numbers or as a complete usage. Raises `InvalidRun`."""
    if not isinstance(prompt_tokens, Usage | Mapping):
        return Usage(prompt_tokens, completion_tokens)
    if completion_tokens:
        raise_if_invalid([FieldError("completion_tokens", "are given twice: the usage before has its own")])
    return usage_of(prompt_tokens)


class StepExecution:
    """A step that is executed now."""

    __slots__ = ("began", "key", "name", "number", "usage")

    def __init__(self, place: tuple[str, str], number: int) -> None:
        self.name, self.key = place
        self.number: Final = number
        self.began: Final = monotonic()
        self.usage: Usage = NO_USAGE
        """The tokens that were added inside the step."""


CURRENT_STEP: Final[ContextVar[StepExecution | None]] = ContextVar("runstate_step", default=None)


def count_usage(added: Usage) -> None:
    """Count tokens for the step that is executed in the current context, if there is one."""
    execution = CURRENT_STEP.get()
    if execution is not None:
        before = execution.usage
        execution.usage = Usage(
            before.prompt_tokens + added.prompt_tokens, before.completion_tokens + added.completion_tokens
        )
