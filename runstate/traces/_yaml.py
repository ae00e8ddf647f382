"""A YAML parser that returns JSON values only: nothing in a text can construct an object.

It uses only the event parser of PyYAML, never its constructors. Tags that name Python or Ruby classes are ignored, and
what they tag is read as the text, list or mapping that it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, cast

from runstate.run.errors import FieldError, RunDecodeError
from runstate.run.json_text import MAX_BYTES, MAX_DEPTH
from runstate.run.syntax_problem import is_deeper, syntax_problem

__all__ = ["Base64", "parse"]

_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_NUMBER: Final = re.compile(r"-?[0-9]{1,17}\.[0-9]{0,17}(?:[eE][-+]?[0-9]{1,3})?")
_NOT_ALLOWED: Final = re.compile("[^\\t\\n\\r -~\\x85\\xa0-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")
_TOO_DEEP: Final = f"nested deeper than {MAX_DEPTH} levels"
_MAX_TAGS: Final = 100
_BINARY: Final = ("tag:yaml.org,2002:binary", "!binary")


class Base64(str):
    """Bytes as text in base64."""

    __slots__ = ()


def parse(text: bytes) -> object:
    """Return the value of a YAML text: one document in UTF-8, at most 16 MiB and 80 levels, without aliases.

    Raises `RunDecodeError` with the place, also if PyYAML is not installed.
    """
    try:
        import yaml  # imported here, because only YAML needs it
    except ImportError:
        raise _refusal("YAML is read with PyYAML, which is not installed: pip install pyyaml") from None
    if len(text) > MAX_BYTES:
        raise _refusal(f"expected at most {MAX_BYTES} bytes, got more")
    if text.count(b"%TAG") > _MAX_TAGS:  # PyYAML compares each with all before it
        raise _refusal(f"expected at most {_MAX_TAGS} %TAG directives, got more")
    reader = cast("Any", yaml)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # 28x faster, and not in every PyYAML
    builder = _ValueBuilder()
    try:
        decoded = text.decode()
    except UnicodeDecodeError as error:
        raise _refusal(f"byte {error.start} is not UTF-8") from None
    try:
        return builder.value_of(reader.parse(decoded, Loader=loader))
    except yaml.YAMLError as error:
        raise _refusal(_not_yaml(decoded, getattr(error, "problem_mark", None), builder)) from None
    except RunDecodeError:
        raise
    except RecursionError:
        raise _refusal(_TOO_DEEP) from None
    except (ValueError, OverflowError):  # from the parser in Python, for a number past its bounds
        raise _refusal("not YAML: a number in it is too large") from None


def _not_yaml(text: str, mark: Any, builder: _ValueBuilder) -> str:
    """Return the message for a text that PyYAML refused, by its mark, or for a character if there is no mark."""
    if mark is None:
        found = _NOT_ALLOWED.search(text)
        if found is None:
            return "not YAML"
        line, column = text.count("\n", 0, found.start()) + 1, found.start() - text.rfind("\n", 0, found.start())
        return f"not YAML at line {line} column {column}: a character it does not allow"
    # The parser looks ahead of its events, and may have a bound on depth of its own.
    if is_deeper(text[builder.reached : mark.index + 1], MAX_DEPTH, builder.depth):
        return _TOO_DEEP
    return f"not YAML at line {mark.line + 1} column {mark.column + 1}: {syntax_problem(text, mark.index)}"


def _refusal(problem: str) -> RunDecodeError:
    return RunDecodeError([FieldError("", problem)])


class _ValueBuilder:
    """Builds a value from parser events without recursion, so that deep nesting does no harm."""

    def __init__(self) -> None:
        self._levels: list[list[object]] = [[]]
        self.reached = 0
        """The index in the text where the last event ended."""

    @property
    def depth(self) -> int:
        """How many levels are open."""
        return len(self._levels) - 1

    def value_of(self, events: Iterable[Any]) -> object:
        """Return the value."""
        levels = self._levels
        for event in events:
            self.reached = event.end_mark.index
            kind = type(event).__name__
            if kind == "ScalarEvent":
                levels[-1].append(_scalar(event))
            elif kind in ("SequenceStartEvent", "MappingStartEvent"):
                if len(levels) > MAX_DEPTH:
                    raise _refusal(_TOO_DEEP)
                levels.append([])
            elif kind in ("SequenceEndEvent", "MappingEndEvent"):
                members = levels.pop()
                levels[-1].append(members if kind == "SequenceEndEvent" else _object(members))
            elif kind == "AliasEvent":
                # Aliases of aliases can expand to gigabytes, and recorders of cassettes write none.
                line = event.start_mark.line + 1
                raise _refusal(f"line {line} has an alias (*{event.anchor[:64]}), which is not read")
        documents = levels[0]
        if len(documents) > 1:
            raise _refusal(f"expected one YAML document, got {len(documents)}")
        return documents[0] if documents else None


def _object(members: list[object]) -> dict[str, object]:
    if any(isinstance(key, list | dict) for key in members[::2]):
        raise _refusal("expected keys that are text, got a list or an object as a key")
    return {str(key): value for key, value in zip(members[::2], members[1::2], strict=True)}


def _scalar(event: Any) -> object:
    """Return the value of a scalar. Only a plain one without a tag can be anything but text."""
    text: str = event.value
    if event.tag in _BINARY:
        return Base64(text)
    if event.tag is not None or not event.implicit[0]:
        return text
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _NUMBER.fullmatch(text) else text
