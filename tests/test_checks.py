"""What the attributes may hold: every limit at both of its sides, and every fault with its path."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest

from runstate import checks
from runstate.checks import Check

GOOD: list[tuple[Check, Any]] = [
    (checks.text, ""),
    (checks.text, "\ud800"),
    (checks.name, "x"),
    (checks.name, " "),  # others have what they have
    (checks.filled, " x"),
    (checks.filled, "\0"),
    (checks.plain_text, ""),
    (checks.plain_text, " \n\U0001f600"),
    (checks.identifier, "x"),
    (checks.identifier, " x\n"),
    (checks.identifier, "x" * 100_000),
    (checks.indexed_identifier, "\U0001f600" * 500),
    (checks.flag, True),
    (checks.flag, False),
    (checks.count(least=0), 0),
    (checks.count(least=1), 1),
    (checks.count(least=1), 10**18),
    (checks.number(0, 2), 0),
    (checks.number(0, 2), 0.0),
    (checks.number(0, 2), -0.0),
    (checks.number(0, 2), 2),
    (checks.number(0, 2), 2.0),
    (checks.number(0, 1), 1.0),
    (checks.seconds, 0),
    (checks.seconds, 253_402_300_799),
    (checks.optional(checks.seconds), None),
    (checks.optional(checks.seconds), 5),
    (checks.metadata, {}),
    (checks.metadata, {f"k{n}": "" for n in range(16)}),
    (checks.metadata, {"k" * 64: "v" * 512}),
    (checks.metadata, MappingProxyType({"a": "b"})),
    (checks.tools, []),
    (checks.tools, ({"type": "function"}, {"type": "file_search", "more": 1})),
    (checks.tool_choice, "none"),
    (checks.tool_choice, "auto"),
    (checks.tool_choice, "required"),
    (checks.tool_choice, {"type": "file_search"}),
    (checks.tool_choice, {"type": "function", "function": {"name": "f"}}),
    (checks.response_format, "auto"),
    (checks.response_format, {"type": "json_schema", "json_schema": {}}),
]

CALLERS: list[Check] = [checks.filled, checks.identifier, checks.indexed_identifier]
KEPT: list[Check] = [checks.plain_text, checks.identifier, checks.indexed_identifier]
BLANK = "is blank: it has nothing but white space"
HALF = "holds half of a character (a lone surrogate), which no database keeps"
WORDS = "'none' or 'auto' or 'required'"
BAD: list[tuple[Check, Any, list[tuple[str, str]]]] = [
    (checks.text, None, [("at", "expected a string, got null")]),
    (checks.text, b"x", [("at", "expected a string, got a Python bytes")]),
    (checks.name, "", [("at", "is empty")]),
    (checks.name, 5, [("at", "expected a string, got an integer")]),
    *((check, "", [("at", "is empty")]) for check in CALLERS),
    *((check, word, [("at", BLANK)]) for check in CALLERS for word in (" ", "\t\r\n", "\u2028", "\u00a0\u3000")),
    *((check, 5, [("at", "expected a string, got an integer")]) for check in CALLERS),
    *((check, None, [("at", "expected a string, got null")]) for check in CALLERS),
    *((check, "a\0", [("at", "holds a NUL character, which no database keeps")]) for check in KEPT),
    *((check, "\udfff", [("at", HALF)]) for check in KEPT),
    (checks.indexed_identifier, "x" * 501, [("at", "is too long: 501 characters, at most 500")]),
    (checks.flag, 1, [("at", "expected a boolean, got an integer")]),
    (checks.flag, "true", [("at", "expected a boolean, got a string")]),
    (checks.count(least=0), -1, [("at", "expected at least 0, got -1")]),
    (checks.count(least=1), 0, [("at", "expected at least 1, got 0")]),
    (checks.count(least=1), True, [("at", "expected an integer, got a boolean")]),
    (checks.count(least=1), 1.0, [("at", "expected an integer, got a number")]),
    (checks.number(0, 2), -0.001, [("at", "expected a number from 0 to 2, got -0.001")]),
    (checks.number(0, 2), 2.001, [("at", "expected a number from 0 to 2, got 2.001")]),
    (checks.number(0, 1), 2, [("at", "expected a number from 0 to 1, got 2")]),
    (checks.number(0, 2), float("nan"), [("at", "expected a number from 0 to 2, got nan")]),
    (checks.number(0, 2), float("inf"), [("at", "expected a number from 0 to 2, got inf")]),
    (checks.number(0, 2), float("-inf"), [("at", "expected a number from 0 to 2, got -inf")]),
    (checks.number(0, 2), True, [("at", "expected a number, got a boolean")]),
    (checks.number(0, 2), "1", [("at", "expected a number, got a string")]),
    (checks.seconds, -1, [("at", "expected Unix seconds, got -1, which is negative")]),
    (checks.seconds, 1.0, [("at", "expected Unix seconds, an integer, got a number")]),
    (checks.seconds, False, [("at", "expected Unix seconds, an integer, got a boolean")]),
    (checks.seconds, None, [("at", "expected Unix seconds, an integer, got null")]),
    (
        checks.seconds,
        253_402_300_800,
        [("at", "expected Unix seconds, got 253402300800, which is past the year 9999 (milliseconds?)")],
    ),
    (checks.optional(checks.seconds), "x", [("at", "expected Unix seconds, an integer, got a string")]),
    (checks.metadata, [], [("at", "expected an object, got an array")]),
    (checks.metadata, None, [("at", "expected an object, got null")]),
    (
        checks.metadata,
        {f"k{n}": "" for n in range(17)},
        [("at", "too many properties: expected at most 16, got 17")],
    ),
    (
        checks.metadata,
        {"k" * 65: "v" * 513, "b": True, 5: "x"},
        [
            ("at." + "k" * 64, "key too long: expected at most 64 characters, got 65"),
            ("at." + "k" * 64, "value too long: expected at most 512 characters, got 513"),
            ("at.b", "expected a string, got a boolean"),
            ("at key 5", "expected a string, got an integer"),
        ],
    ),
    (
        checks.metadata,
        {"k" * 65: "v"},
        [("at." + "k" * 64, "key too long: expected at most 64 characters, got 65")],
    ),
    (checks.tools, {}, [("at", "expected an array, got an object")]),
    (
        checks.tools,
        [5, {}, {"type": 7}],
        [
            ("at[0]", "expected an object, got an integer"),
            ("at[1].type", "is missing"),
            ("at[2].type", "expected a string, got an integer"),
        ],
    ),
    (checks.tool_choice, "some", [("at", f"expected {WORDS} or an object, got 'some'")]),
    (checks.tool_choice, 5, [("at", "expected an object, got an integer")]),
    (checks.tool_choice, {}, [("at.type", "is missing")]),
    (checks.tool_choice, {"type": "function"}, [("at.function", "expected an object, got null")]),
    (
        checks.tool_choice,
        {"type": "function", "function": {}},
        [("at.function.name", "expected a string, got null")],
    ),
    (checks.response_format, "text", [("at", "expected 'auto' or an object, got 'text'")]),
    (checks.response_format, [], [("at", "expected an object, got an array")]),
]

HUGE = 10**5000  # more digits than Python prints


@pytest.mark.parametrize(("check", "value"), GOOD)
def test_within_the_limit(check: Check, value: Any) -> None:
    """What is just allowed has no fault."""
    assert [] == list(check("at", value))


@pytest.mark.parametrize(("check", "value", "faults"), BAD)
def test_past_the_limit(check: Check, value: Any, faults: list[tuple[str, str]]) -> None:
    """What is just not allowed has a fault that says where, what was expected and what came."""
    assert faults == [(fault.path, fault.problem) for fault in check("at", value)]


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (checks.seconds, HUGE),
        (checks.seconds, -HUGE),
        (checks.number(0, 2), HUGE),
        (checks.number(0, 2), 10**400),
        (checks.count(least=0), -HUGE),
        (checks.metadata, {HUGE: ""}),
    ],
    ids=["late", "early", "huge", "no-float", "few", "key"],
)
def test_numbers_past_all_bounds(check: Check, value: Any) -> None:
    """A number that Python itself will not print or compare is one fault like any other."""
    assert 1 == len(list(check("at", value)))


def test_a_long_value_is_not_told_in_full() -> None:
    """A message quotes at most 60 characters of what came."""
    (fault,) = checks.response_format("at", "x" * 10_000)
    assert len(fault.problem) < 120
    assert fault.problem.endswith("...")


def test_kinds() -> None:
    """Values are called what JSON calls them."""
    values: list[object] = [None, True, 1, 1.5, "", {}, [], (), {1}]
    expected = ["null", "a boolean", "an integer", "a number", "a string", "an object", "an array", "an array"]
    assert [*expected, "a Python set"] == [checks.kind_of(value) for value in values]
