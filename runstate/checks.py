"""What the attributes of a run may hold: types, ranges and lengths (LIFECYCLE, "The object").

A check takes a path and a value and yields a `Fault` for each thing wrong with it. The constructor of a run and the
reader of JSON ask the same checks, so a limit stands here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isfinite
from typing import Final, TypeAlias, cast

from runstate.errors import Fault

__all__ = [
    "MAX_METADATA_KEY",
    "MAX_METADATA_PAIRS",
    "MAX_METADATA_VALUE",
    "Check",
    "count",
    "flag",
    "kind_of",
    "metadata",
    "name",
    "number",
    "optional",
    "response_format",
    "seconds",
    "text",
    "tool_choice",
    "tools",
]

Check: TypeAlias = Callable[[str, object], Iterator[Fault]]

MAX_METADATA_PAIRS: Final = 16
MAX_METADATA_KEY: Final = 64  # characters
MAX_METADATA_VALUE: Final = 512  # characters
YEAR_10000: Final = 253_402_300_800  # Unix seconds

_KINDS: Final[tuple[tuple[type | tuple[type, ...], str], ...]] = (
    (bool, "a boolean"),
    (int, "an integer"),
    (float, "a number"),
    (str, "a string"),
    (Mapping, "an object"),
    ((list, tuple), "an array"),
)


def kind_of(value: object) -> str:
    """Return what JSON calls the value: `a string`, `null`, `an array` ..."""
    if value is None:
        return "null"
    python_type = type(value)
    return next((word for kind, word in _KINDS if issubclass(python_type, kind)), f"a Python {python_type.__name__}")


def _show(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _wrong_type(path: str, expected: str, value: object) -> Iterator[Fault]:
    yield Fault(path, f"expected {expected}, got {kind_of(value)}")


def text(path: str, value: object) -> Iterator[Fault]:
    """A string."""
    if not isinstance(value, str):
        yield from _wrong_type(path, "a string", value)


def name(path: str, value: object) -> Iterator[Fault]:
    """A string with at least one character."""
    if not isinstance(value, str):
        yield from _wrong_type(path, "a string", value)
    elif not value:
        yield Fault(path, "is empty")


def flag(path: str, value: object) -> Iterator[Fault]:
    """True or False."""
    if not isinstance(value, bool):
        yield from _wrong_type(path, "a boolean", value)


def count(least: int) -> Check:
    """Return the check for an integer of at least `least`."""

    def check(path: str, value: object) -> Iterator[Fault]:
        if not isinstance(value, int) or isinstance(value, bool):
            yield from _wrong_type(path, "an integer", value)
        elif value < least:
            yield Fault(path, f"expected at least {least}, got {_show(value)}")

    return check


def number(low: float, high: float) -> Check:
    """Return the check for a number from `low` to `high`."""

    def check(path: str, value: object) -> Iterator[Fault]:
        if not isinstance(value, int | float) or isinstance(value, bool):
            yield from _wrong_type(path, "a number", value)
        elif not isfinite(value) or not low <= value <= high:
            yield Fault(path, f"expected a number from {low:g} to {high:g}, got {_show(value)}")

    return check


def seconds(path: str, value: object) -> Iterator[Fault]:
    """A time in whole Unix seconds."""
    if not isinstance(value, int) or isinstance(value, bool):
        yield from _wrong_type(path, "Unix seconds, an integer", value)
    elif value < 0:
        yield Fault(path, f"expected Unix seconds, got {_show(value)}, which is negative")
    elif value >= YEAR_10000:
        yield Fault(path, f"expected Unix seconds, got {_show(value)}, which is past the year 9999 (milliseconds?)")


def optional(check: Check) -> Check:
    """Return the check that allows null besides what `check` allows."""

    def check_unless_null(path: str, value: object) -> Iterator[Fault]:
        return iter(()) if value is None else check(path, value)

    return check_unless_null


def metadata(path: str, value: object) -> Iterator[Fault]:
    """At most 16 pairs of a key (64 characters) and a string (512 characters)."""
    if not isinstance(value, Mapping):
        yield from _wrong_type(path, "an object", value)
        return
    pairs = cast("Mapping[object, object]", value)
    if len(pairs) > MAX_METADATA_PAIRS:
        yield Fault(path, f"too many properties: expected at most {MAX_METADATA_PAIRS}, got {len(pairs)}")
        return
    for key, item in pairs.items():
        if not isinstance(key, str):
            yield from _wrong_type(f"{path} key {_show(key)}", "a string", key)
            continue
        at = f"{path}.{key[:MAX_METADATA_KEY]}"
        if len(key) > MAX_METADATA_KEY:
            yield Fault(at, f"key too long: expected at most {MAX_METADATA_KEY} characters, got {len(key)}")
        if not isinstance(item, str):
            yield from _wrong_type(at, "a string", item)
        elif len(item) > MAX_METADATA_VALUE:
            yield Fault(at, f"value too long: expected at most {MAX_METADATA_VALUE} characters, got {len(item)}")


def _typed_object(path: str, value: object) -> Iterator[Fault]:
    """An object whose `type` is a string."""
    if not isinstance(value, Mapping):
        yield from _wrong_type(path, "an object", value)
    elif "type" not in value:
        yield Fault(f"{path}.type", "is missing")
    else:
        yield from text(f"{path}.type", cast("object", value["type"]))


def tools(path: str, value: object) -> Iterator[Fault]:
    """An array of objects, each with its `type`."""
    if not isinstance(value, list | tuple):
        yield from _wrong_type(path, "an array", value)
        return
    for index, item in enumerate(cast("Sequence[object]", value)):
        yield from _typed_object(f"{path}[{index}]", item)


def _word_or_object(*words: str) -> Check:
    def check(path: str, value: object) -> Iterator[Fault]:
        if isinstance(value, str):
            if value not in words:
                yield Fault(path, f"expected {' or '.join(map(repr, words))} or an object, got {_show(value)}")
        else:
            yield from _typed_object(path, value)

    return check


_tool_choice = _word_or_object("none", "auto", "required")
response_format: Final = _word_or_object("auto")


def tool_choice(path: str, value: object) -> Iterator[Fault]:
    """`none`, `auto`, `required`, or an object that names a tool (a function by its name)."""
    yield from _tool_choice(path, value)
    if isinstance(value, Mapping) and cast("Mapping[str, object]", value).get("type") == "function":
        function = cast("Mapping[str, object]", value).get("function")
        if not isinstance(function, Mapping):
            yield from _wrong_type(f"{path}.function", "an object", function)
        else:
            yield from name(f"{path}.function.name", cast("Mapping[str, object]", function).get("name"))
