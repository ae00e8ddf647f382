"""The small objects inside a run: well-formed or refused, with all faults at once."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from runstate import (
    NO_USAGE,
    IncompleteDetails,
    InvalidRun,
    LastError,
    RequiredAction,
    ToolCall,
    TruncationStrategy,
    Usage,
)

VALUES = [
    ToolCall("call_1", "weather", '{"a": 1}', extra={"index": 0}),
    RequiredAction([ToolCall("call_1", "weather"), ToolCall("call_2", "weather")]),
    LastError("server_error", "it broke"),
    IncompleteDetails("max_prompt_tokens"),
    TruncationStrategy("last_messages", 1),
    Usage(12, 30, extra={"prompt_token_details": {"cached_tokens": 3}}),
]

BAD: list[tuple[Callable[[], object], list[tuple[str, str]]]] = [
    (
        lambda: ToolCall("", 5, None, ""),  # type: ignore[arg-type]
        [
            ("id", "is empty"),
            ("name", "expected a string, got an integer"),
            ("arguments", "expected a string, got null"),
            ("type", "is empty"),
        ],
    ),
    (lambda: RequiredAction([]), [("tool_calls", "is empty: there must be a call to wait for")]),
    (
        lambda: RequiredAction([ToolCall("a", "f"), {}, ToolCall("a", "g")], type=""),  # type: ignore[list-item]
        [
            ("type", "is empty"),
            ("tool_calls[1]", "expected a ToolCall, got an object"),
            ("tool_calls[2].id", "stands twice: 'a'"),
        ],
    ),
    (
        lambda: LastError("", 5),  # type: ignore[arg-type]
        [("code", "is empty"), ("message", "expected a string, got an integer")],
    ),
    (lambda: IncompleteDetails(None), [("reason", "expected a string, got null")]),  # type: ignore[arg-type]
    (
        lambda: TruncationStrategy("some", 0),
        [
            ("type", "expected 'auto' or 'last_messages', got 'some'"),
            ("last_messages", "expected at least 1, got 0"),
        ],
    ),
    (
        lambda: TruncationStrategy("last_messages"),
        [("last_messages", "is missing: the type 'last_messages' needs a number")],
    ),
    (lambda: TruncationStrategy("last_messages", True), [("last_messages", "expected an integer, got a boolean")]),
    (
        lambda: Usage(-1, 1.5, True),  # type: ignore[arg-type]
        [
            ("prompt_tokens", "expected at least 0, got -1"),
            ("completion_tokens", "expected an integer, got a number"),
            ("total_tokens", "expected an integer, got a boolean"),
        ],
    ),
    (lambda: Usage("1", 2), [("prompt_tokens", "expected an integer, got a string")]),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("make", "faults"), BAD)
def test_all_faults_at_once(make: Callable[[], object], faults: list[tuple[str, str]]) -> None:
    """A value object that cannot be is refused with every fault and its path."""
    with pytest.raises(InvalidRun) as caught:
        make()
    assert faults == [(fault.path, fault.message) for fault in caught.value.errors]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_they_are_values(value: Any) -> None:
    """They are equal to their copies, cannot be assigned to, and say what they are."""
    for other in (copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value)), attrs.evolve(value)):
        assert value == other
        assert repr(value) == repr(other)
    for field in attrs.fields(type(value)):
        with pytest.raises(AttributeError):
            setattr(value, field.name, None)
        with pytest.raises(AttributeError):
            delattr(value, field.name)
    assert repr(value).startswith(type(value).__name__ + "(")


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_every_attribute_counts(value: Any) -> None:
    """Two that differ in their unknown keys differ."""
    assert value != attrs.evolve(value, extra={"other": 1})


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_extra_is_an_object(value: Any) -> None:
    """Unknown keys are a mapping with keys of strings, or the value is refused."""
    for extra in (5, None, {5: 5}):
        with pytest.raises(InvalidRun):
            attrs.evolve(value, extra=extra)


def test_the_total_is_the_sum() -> None:
    """A total that is not given is the sum; one that is given is kept, also when it is not the sum."""
    assert 42 == Usage(12, 30).total_tokens
    assert 50 == Usage(12, 30, 50).total_tokens
    assert (0, 0, 0) == (NO_USAGE.prompt_tokens, NO_USAGE.completion_tokens, NO_USAGE.total_tokens)


def test_the_ids_of_the_calls() -> None:
    """A required action knows the ids to answer under, in order and as a set, after a copy too."""
    action = RequiredAction(ToolCall(name, "f") for name in ("b", "a"))
    for same in (action, pickle.loads(pickle.dumps(action)), copy.deepcopy(action)):
        assert ("b", "a") == same.call_ids
        assert {"a", "b"} == same.id_set


def test_codes_and_reasons_of_others_are_kept() -> None:
    """A recorded run may carry codes, reasons and types that no move writes."""
    assert "content_filter" == IncompleteDetails("content_filter").reason
    assert "invalid_image" == LastError("invalid_image", "").code
    assert "submit_tool_approval" == RequiredAction([ToolCall("a", "f")], type="submit_tool_approval").type


@pytest.mark.parametrize("least", [1, 2, 10**6])
def test_last_messages(least: int) -> None:
    """At least one message is seen; `auto` may come with a number, as recorded."""
    assert least == TruncationStrategy("last_messages", least).last_messages
    assert least == TruncationStrategy("auto", least).last_messages
