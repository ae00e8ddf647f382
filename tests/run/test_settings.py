"""The settings of a new run: usual ones are copied in one pass, and all others are checked in full."""

from __future__ import annotations

import random
from collections import OrderedDict
from typing import Any, Final

import pytest

from runstate import InvalidRun, Run, TruncationStrategy
from runstate.run import _run, settings
from runstate.run.json_values import MAX_DEPTH


class Text(str):
    """A string of another class."""

    __slots__ = ()


def nested(levels: int) -> Any:
    """Return a tool with so many levels of objects."""
    tool: Any = {"type": "function"}
    for _ in range(levels - 1):
        tool = {"type": "function", "inner": tool}
    return tool


TOOL: Final = {
    "type": "function",
    "function": {"name": "weather", "strict": None, "parameters": {"required": ["city", {"n": 1}], "max": 1.5}},
}
VALUES: Final[dict[str, tuple[list[Any], list[Any]]]] = {
    "instructions": ([None, "", "Be brief.", Text("Be brief.")], [5, b"", ["a"]]),
    "tools": (
        [None, (), [], (TOOL,), [TOOL, TOOL], [OrderedDict(TOOL)], [nested(MAX_DEPTH)], [{"type": Text("a")}]],
        [
            *(0, "", {}, "ab", {"type": "a"}, [5], [{}], [{"type": 5}], [None], [[]], [{"type": "a", 5: 1}]),
            *(
                [nested(MAX_DEPTH + 1)],
                [{**TOOL, "x": {1}}],
                [{**TOOL, "x": [float("nan")]}],
                [{**TOOL, "x": 2**15000}],
            ),
        ],
    ),
    "metadata": (
        [None, {}, {"a": "b"}, {"k" * 64: "v" * 512}, {str(n): "" for n in range(16)}, OrderedDict(a="b")],
        [
            0,
            "",
            [],
            [("a", "b")],
            {"a": 5},
            {5: "a"},
            {"k" * 65: ""},
            {"a": "v" * 513},
            {str(n): "" for n in range(17)},
        ],
    ),
    "max_prompt_tokens": ([None, 1, 2**63 - 1], [0, -1, 2**63, True, 1.0, "1"]),
    "max_completion_tokens": ([None, 1, 2**63 - 1], [0, -1, 2**63, True, 1.0, "1"]),
    "truncation_strategy": ([None, TruncationStrategy(), TruncationStrategy("last_messages", 3)], [5, "auto", []]),
    "tool_choice": ([None, "auto", "none", "required", Text("none"), {"type": "file_search"}], ["", "any", 5, {}, []]),
    "parallel_tool_calls": ([None, True, False], [0, 1, "yes"]),
    "response_format": ([None, "auto", Text("auto"), {"type": "json_object"}], ["", "json", 5, {}]),
    "temperature": ([None, 0, 2, 1.0, 0.5], [True, -0.1, 2.1, float("nan"), "1"]),
    "top_p": ([None, 0, 1, 1.0, 0.5], [True, -0.1, 1.1, float("nan"), "1"]),
}
"""The settings, each with valid values and others."""


def test_the_fast_path_agrees_with_the_full_check() -> None:
    """What it returns is what the full check returns for the same values, and it returns nothing for wrong ones."""
    chance = random.Random(0)
    fast = 0
    for number in range(20_000):
        wrong = chance.choice([*VALUES]) if number % 2 else None
        given = tuple(chance.choice(others if name == wrong else valid) for name, (valid, others) in VALUES.items())
        errors: list[Any] = []
        if wrong is None:
            expected, choices = settings.checked(given[:5], given[5:], errors)
            assert [] == errors
            found = settings.copied(given[:5])
            assert found in (None, expected), given
            assert found is None or [*map(type, expected)] == [*map(type, found)], given
            assert not settings.are_valid(given[5:]) or choices == given[5:]
            fast += found is not None and settings.are_valid(given[5:])
        else:
            assert settings.copied(given[:5]) is None or not settings.are_valid(given[5:]), (wrong, given)
    assert fast > 10


@pytest.mark.parametrize("name", VALUES)
def test_each_value_alone(name: str) -> None:
    """A valid value makes a run, and any other is refused with the name of its setting."""
    valid, others = VALUES[name]
    for value in valid:
        Run.create(thread_id="t", assistant_id="a", model="m", **{name: value})
    for value in others:
        with pytest.raises(InvalidRun) as refused:
            Run.create(thread_id="t", assistant_id="a", model="m", **{name: value})
        assert {name} == {
            error.path.partition(".")[0].partition("[")[0].partition(" ")[0] for error in refused.value.errors
        }


def test_usual_settings_are_not_checked_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run with instructions, tools, metadata and limits is made without the full check."""

    def fail(*_: object) -> None:
        raise AssertionError("checked in full")

    monkeypatch.setattr(_run, "checked", fail)
    given: dict[str, Any] = {"instructions": "Be brief.", "tools": [TOOL], "metadata": {"a": "b"}, "temperature": 0}
    run = Run.create(thread_id="t", assistant_id="a", model="m", max_completion_tokens=1000, **given)
    assert (given["tools"], given["metadata"], 0) == ([*run.tools], run.metadata, run.temperature)


def test_a_copy_shares_nothing() -> None:
    """What the caller changes in its containers afterwards is not in the run, at any depth."""
    tool: Any = {"type": "function", "function": {"parameters": {"required": ["city", ["a"]]}}}
    pairs = {"a": "b"}
    run = Run.create(thread_id="t", assistant_id="a", model="m", tools=[tool], metadata=pairs)
    before = run.to_dict()
    tool["function"]["parameters"]["required"][1].append("b")
    tool["function"]["parameters"]["required"].append("c")
    tool["function"]["parameters"]["x"] = tool["function"]["x"] = tool["x"] = 1
    pairs["c"] = "d"
    assert before == run.to_dict()
