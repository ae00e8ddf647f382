"""Arguments of the moves, as this library's values or as the objects that the API has for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias, cast

from runstate.run import validators
from runstate.run.errors import FieldError, InvalidRun
from runstate.run.json_values import is_object
from runstate.run.values import RequiredAction, ToolCall, TruncationStrategy, Usage

__all__ = ["Calls", "GivenUsage", "required_action_of", "truncation_strategy_of", "usage_of"]

Calls: TypeAlias = RequiredAction | ToolCall | Mapping[str, object] | Iterable[ToolCall | Mapping[str, object]]
"""Tool calls to wait for: values, objects as the API lists them, or the API's whole `required_action`."""

GivenUsage: TypeAlias = Usage | Mapping[str, object]
"""A usage, or the API's object for it."""

_COUNTS: Final = ("prompt_tokens", "completion_tokens", "total_tokens")


def usage_of(usage: object) -> Usage:
    """Return the usage that a caller gave. Raises `InvalidRun` if it is none.

    Of an object, counts that are missing are 0, unless it has other keys: one of these may be the count misspelled.
    """
    if isinstance(usage, Usage):
        return usage
    if not is_object(usage) or not usage:
        raise InvalidRun(validators.wrong_type("usage", "a Usage or an object with its counts", usage))
    given = cast("Mapping[str, object]", usage)
    if given.keys() <= set(_COUNTS):
        given = {"prompt_tokens": 0, "completion_tokens": 0, **given}
    return cast("Usage", _read("given_usage", "usage", given))


def truncation_strategy_of(strategy: Mapping[str, object]) -> TruncationStrategy:
    """Return the truncation strategy that an object of the API spells. Raises `InvalidRun` if it spells none."""
    return cast("TruncationStrategy", _read("truncation_strategy", "truncation_strategy", strategy))


def required_action_of(calls: object) -> RequiredAction:
    """Return the calls that a caller gave, as what a run waits for. Raises `InvalidRun` with every fault."""
    if isinstance(calls, RequiredAction):
        return calls
    if calls.__class__ is list:  # of calls, as most have it: the long way would cost more than all the rest
        for call in cast("list[object]", calls):
            if call.__class__ is not ToolCall:
                break
        else:
            return RequiredAction(cast("list[ToolCall]", calls))
    if is_object(calls) and "id" not in calls and "function" not in calls:  # no call, but what holds them
        return cast("RequiredAction", _read("required_action", "required_action", calls))
    if isinstance(calls, ToolCall) or is_object(calls):
        calls = (calls,)
    if not isinstance(calls, Iterable) or isinstance(calls, str):
        raise InvalidRun(validators.wrong_type("tool_calls", "tool calls", calls))
    found: list[object] = []
    faults: list[FieldError] = []
    for place, call in enumerate(cast("Iterable[object]", calls)):
        try:
            found.append(_read("tool_call", f"tool_calls[{place}]", call) if is_object(call) else call)
        except InvalidRun as refused:
            faults += refused.errors
    if faults:
        raise InvalidRun(faults)
    return RequiredAction(cast("list[ToolCall]", found))


def _read(what: str, path: str, value: object) -> object:
    from runstate.run import codec  # loaded where it is first needed: it is a tenth of the time to import this library

    try:
        return codec.decode_field(what, value, path)
    except InvalidRun as refused:
        raise InvalidRun(refused.errors) from None
