"""What the attributes may hold: every limit at both of its sides, and every fault with its path."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest

from runstate.run import validators
from runstate.run.validators import Check

GOOD: list[tuple[Check, Any]] = [
    (validators.string, ""),
    (validators.string, "\ud800"),
    (validators.non_empty_string, "x"),
    (validators.non_empty_string, " "),  # others have what they have
    (validators.non_blank_string, " x"),
    (validators.non_blank_string, "\0"),
    (validators.plain_text, ""),
    (validators.plain_text, " \n\U0001f600"),
    (validators.identifier, "x"),
    (validators.identifier, " x\n"),
    (validators.identifier, "x" * 100_000),
    (validators.indexed_identifier, "\U0001f600" * 500),
    (validators.boolean, True),
    (validators.boolean, False),
    (validators.integer(least=0), 0),
    (validators.integer(least=1), 1),
    (validators.integer(least=1), 10**18),
    (validators.number(0, 2), 0),
    (validators.number(0, 2), 0.0),
    (validators.number(0, 2), -0.0),
    (validators.number(0, 2), 2),
    (validators.number(0, 2), 2.0),
    (validators.number(0, 1), 1.0),
    (validators.seconds, 0),
    (validators.seconds, 253_402_300_799),
    (validators.optional(validators.seconds), None),
    (validators.optional(validators.seconds), 5),
    (validators.metadata, {}),
    (validators.metadata, {f"k{n}": "" for n in range(16)}),
    (validators.metadata, {"k" * 64: "v" * 512}),
    (validators.metadata, MappingProxyType({"a": "b"})),
    (validators.tools, []),
    (validators.tools, ({"type": "function"}, {"type": "file_search", "more": 1})),
    (validators.tool_choice, "none"),
    (validators.tool_choice, "auto"),
    (validators.tool_choice, "required"),
    (validators.tool_choice, {"type": "file_search"}),
    (validators.tool_choice, {"type": "function", "function": {"name": "f"}}),
    (validators.response_format, "auto"),
    (validators.response_format, {"type": "json_schema", "json_schema": {}}),
]

CALLERS: list[Check] = [validators.non_blank_string, validators.identifier, validators.indexed_identifier]
KEPT: list[Check] = [validators.plain_text, validators.identifier, validators.indexed_identifier]
BLANK = "is blank: it has nothing but white space"
HALF = "holds half of a character (a lone surrogate), which no database keeps"
WORDS = "'none' or 'auto' or 'required'"
BAD: list[tuple[Check, Any, list[tuple[str, str]]]] = [
    (validators.string, None, [("at", "expected a string, got null")]),
    (validators.string, b"x", [("at", "expected a string, got a Python bytes")]),
    (validators.non_empty_string, "", [("at", "is empty")]),
    (validators.non_empty_string, 5, [("at", "expected a string, got an integer")]),
    *((check, "", [("at", "is empty")]) for check in CALLERS),
    *((check, word, [("at", BLANK)]) for check in CALLERS for word in (" ", "\t\r\n", "\u2028", "\u00a0\u3000")),
    *((check, 5, [("at", "expected a string, got an integer")]) for check in CALLERS),
    *((check, None, [("at", "expected a string, got null")]) for check in CALLERS),
    *((check, "a\0", [("at", "holds a NUL character, which no database keeps")]) for check in KEPT),
    *((check, "\udfff", [("at", HALF)]) for check in KEPT),
    (validators.indexed_identifier, "x" * 501, [("at", "is too long: 501 characters, at most 500")]),
    (validators.boolean, 1, [("at", "expected a boolean, got an integer")]),
    (validators.boolean, "true", [("at", "expected a boolean, got a string")]),
    (validators.integer(least=0), -1, [("at", "expected at least 0, got -1")]),
    (validators.integer(least=1), 0, [("at", "expected at least 1, got 0")]),
    (validators.integer(least=1), True, [("at", "expected an integer, got a boolean")]),
    (validators.integer(least=1), 1.0, [("at", "expected an integer, got a number")]),
    (validators.number(0, 2), -0.001, [("at", "expected a number from 0 to 2, got -0.001")]),
    (validators.number(0, 2), 2.001, [("at", "expected a number from 0 to 2, got 2.001")]),
    (validators.number(0, 1), 2, [("at", "expected a number from 0 to 1, got 2")]),
    (validators.number(0, 2), float("nan"), [("at", "expected a number from 0 to 2, got nan")]),
    (validators.number(0, 2), float("inf"), [("at", "expected a number from 0 to 2, got inf")]),
    (validators.number(0, 2), float("-inf"), [("at", "expected a number from 0 to 2, got -inf")]),
    (validators.number(0, 2), True, [("at", "expected a number, got a boolean")]),
    (validators.number(0, 2), "1", [("at", "expected a number, got a string")]),
    (validators.seconds, -1, [("at", "expected Unix seconds, got -1, which is negative")]),
    (validators.seconds, 1.0, [("at", "expected Unix seconds, an integer, got a number")]),
    (validators.seconds, False, [("at", "expected Unix seconds, an integer, got a boolean")]),
    (validators.seconds, None, [("at", "expected Unix seconds, an integer, got null")]),
    (
        validators.seconds,
        253_402_300_800,
        [("at", "expected Unix seconds, got 253402300800, which is past the year 9999 (milliseconds?)")],
    ),
    (validators.optional(validators.seconds), "x", [("at", "expected Unix seconds, an integer, got a string")]),
    (validators.metadata, [], [("at", "expected an object, got an array")]),
    (validators.metadata, None, [("at", "expected an object, got null")]),
    (
        validators.metadata,
        {f"k{n}": "" for n in range(17)},
        [("at", "too many properties: expected at most 16, got 17")],
    ),
    (
        validators.metadata,
        {"k" * 65: "v" * 513, "b": True, 5: "x"},
        [
            ("at." + "k" * 64, "key too long: expected at most 64 characters, got 65"),
            ("at." + "k" * 64, "value too long: expected at most 512 characters, got 513"),
            ("at.b", "expected a string, got a boolean"),
            ("at key 5", "expected a string, got an integer"),
        ],
    ),
    (
        validators.metadata,
        {"k" * 65: "v"},
        [("at." + "k" * 64, "key too long: expected at most 64 characters, got 65")],
    ),
    (validators.tools, {}, [("at", "expected an array, got an object")]),
    (
        validators.tools,
        [5, {}, {"type": 7}],
        [
            ("at[0]", "expected an object, got an integer"),
            ("at[1].type", "is missing"),
            ("at[2].type", "expected a string, got an integer"),
        ],
    ),
    (validators.tool_choice, "some", [("at", f"expected {WORDS} or an object, got 'some'")]),
    (validators.tool_choice, 5, [("at", "expected an object, got an integer")]),
    (validators.tool_choice, {}, [("at.type", "is missing")]),
    (validators.tool_choice, {"type": "function"}, [("at.function", "expected an object, got null")]),
    (
        validators.tool_choice,
        {"type": "function", "function": {}},
        [("at.function.name", "expected a string, got null")],
    ),
    (validators.response_format, "text", [("at", "expected 'auto' or an object, got 'text'")]),
    (validators.response_format, [], [("at", "expected an object, got an array")]),
]

HUGE = 10**5000  # more digits than Python prints


@pytest.mark.parametrize(("check", "value"), GOOD)
def test_within_the_limit(check: Check, value: Any) -> None:
    """What is just allowed has no fault."""
    assert [] == list(check("at", value))


@pytest.mark.parametrize(("check", "value", "faults"), BAD)
def test_past_the_limit(check: Check, value: Any, faults: list[tuple[str, str]]) -> None:
    """What is just not allowed has a fault that says where, what was expected and what came."""
    assert faults == [(fault.path, fault.message) for fault in check("at", value)]


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (validators.seconds, HUGE),
        (validators.seconds, -HUGE),
        (validators.number(0, 2), HUGE),
        (validators.number(0, 2), 10**400),
        (validators.integer(least=0), -HUGE),
        (validators.metadata, {HUGE: ""}),
    ],
    ids=["late", "early", "huge", "no-float", "few", "key"],
)
def test_numbers_past_all_bounds(check: Check, value: Any) -> None:
    """A number that Python itself will not print or compare is one fault like any other."""
    assert 1 == len(list(check("at", value)))


def test_a_long_value_is_not_told_in_full() -> None:
    """A message quotes at most 60 characters of what came."""
    (fault,) = validators.response_format("at", "x" * 10_000)
    assert len(fault.message) < 120
    assert fault.message.endswith("...")


def test_kinds() -> None:
    """Values are called what JSON calls them."""
    values: list[object] = [None, True, 1, 1.5, "", {}, [], (), {1}]
    expected = ["null", "a boolean", "an integer", "a number", "a string", "an object", "an array", "an array"]
    assert [*expected, "a Python set"] == [validators.kind_of(value) for value in values]
