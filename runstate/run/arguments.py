"""Conversion of arguments of the moves: values of this library, or objects of the API."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias, cast

from runstate.run import validators
from runstate.run.errors import FieldError, InvalidRun
from runstate.run.json_values import is_object
from runstate.run.values import RequiredAction, ToolCall, TruncationStrategy, Usage

__all__ = ["Calls", "GivenUsage", "required_action_of", "truncation_strategy_of", "usage_of"]

Calls: TypeAlias = RequiredAction | ToolCall | Mapping[str, object] | Iterable[ToolCall | Mapping[str, object]]
"""Tool calls to wait for: values, objects of the API, or a whole `required_action` of the API."""

GivenUsage: TypeAlias = Usage | Mapping[str, object]
"""A usage, or the API's object for it."""

_COUNTS: Final = ("prompt_tokens", "completion_tokens", "total_tokens")


def usage_of(usage: object) -> Usage:
    """Return the usage of a caller's argument. Raises `InvalidRun` for other values.

    Missing counts of an object are 0, unless it has other keys: one of them may be a misspelled count.
    """
    if isinstance(usage, Usage):
        return usage
    if not is_object(usage) or not usage:
        raise InvalidRun(validators.wrong_type("usage", "a Usage or an object with its counts", usage))
    counts = cast("Mapping[str, object]", usage)
    if counts.keys() <= set(_COUNTS):
        counts = {"prompt_tokens": 0, "completion_tokens": 0, **counts}
    return cast("Usage", _read("given_usage", "usage", counts))


def truncation_strategy_of(strategy: Mapping[str, object]) -> TruncationStrategy:
    """Return the truncation strategy of an object of the API. Raises `InvalidRun` for other values."""
    return cast("TruncationStrategy", _read("truncation_strategy", "truncation_strategy", strategy))


def required_action_of(calls: object) -> RequiredAction:
    """Return the required action of a caller's argument. Raises `InvalidRun` with all errors."""
    if isinstance(calls, RequiredAction):
        return calls
    if calls.__class__ is list:  # the common case: the general code would cost more than all the rest
        for call in cast("list[object]", calls):
            if call.__class__ is not ToolCall:
                break
        else:
            return RequiredAction(cast("list[ToolCall]", calls))
    if is_object(calls) and "id" not in calls and "function" not in calls:  # not a call, but an object with calls
        return cast("RequiredAction", _read("required_action", "required_action", calls))
    if isinstance(calls, ToolCall) or is_object(calls):
        calls = (calls,)
    if not isinstance(calls, Iterable) or isinstance(calls, str):
        raise InvalidRun(validators.wrong_type("tool_calls", "tool calls", calls))
    found: list[object] = []
    errors: list[FieldError] = []
    for place, call in enumerate(cast("Iterable[object]", calls)):
        try:
            found.append(_read("tool_call", f"tool_calls[{place}]", call) if is_object(call) else call)
        except InvalidRun as refused:
            errors += refused.errors
    if errors:
        raise InvalidRun(errors)
    return RequiredAction(cast("list[ToolCall]", found))


def _read(what: str, path: str, value: object) -> object:
    from runstate.run import codec  # loaded when first needed: it takes a tenth of the import time of this library

    try:
        return codec.decode_field(what, value, path)
    except InvalidRun as refused:
        raise InvalidRun(refused.errors) from None
