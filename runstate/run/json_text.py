"""A parser of JSON text: one value, several one after another, or objects inside other text.

Input is bounded: 16 MiB of text, 80 levels deep. Text is UTF-8, without NaN or Infinity, and no object has a key twice.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Final, cast

from runstate.run import json_values
from runstate.run.errors import FieldError, RunDecodeError
from runstate.run.json_values import DuplicateKeys, is_json, iter_json_errors
from runstate.run.syntax_problem import is_deeper, syntax_problem

__all__ = ["MAX_BYTES", "MAX_DEPTH", "objects_in", "parse", "parse_many"]

MAX_BYTES: Final = 16 * 1024 * 1024
MAX_DEPTH: Final = json_values.MAX_DEPTH + 16  # of a text: a value at its deepest, inside a run, inside a recording
_TOO_DEEP: Final = f"nested deeper than {MAX_DEPTH} levels"
_MAX_ERRORS: Final = 100
_MAX_ATTEMPTS: Final = 8  # braces in one text that begin no object
_BETWEEN: Final = re.compile(r"[\s\x1e]*")  # values of a JSON text sequence (RFC 7464) begin with a record separator


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    twice = DuplicateKeys(found)
    twice.repeated = tuple(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
    return twice


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object)


def parse(text: str | bytes, first_line: int = 1) -> object:
    """Return the value of a JSON text. Raises `RunDecodeError` with the place, also for what JSON forbids.

    `first_line` is the line of a file on which the text begins, for places in errors.
    """
    whole = _decoded(text)
    try:
        value = cast("object", json.loads(whole, object_pairs_hook=_object))
    except (ValueError, RecursionError) as error:
        raise _unreadable(error, whole, first_line) from None
    return _require_json(value)


def parse_many(text: str | bytes, first_line: int = 1) -> Iterator[tuple[int, object]]:
    """Yield (line, value) for each of several JSON values, one after another in a text.

    Raises `RunDecodeError` at the first place that is not JSON, after the values before it.
    """
    whole = _decoded(text)
    at = counted = 0
    line = first_line
    while True:
        begin = cast("re.Match[str]", _BETWEEN.match(whole, at)).end()
        if at and begin == len(whole):
            return
        try:
            value, at = cast("tuple[object, int]", _DECODER.raw_decode(whole, begin))
        except (ValueError, RecursionError) as error:
            raise _unreadable(error, whole, first_line) from None
        line += whole.count("\n", counted, begin)
        counted = begin
        yield line, _require_json(value)


def objects_in(text: str) -> Iterator[dict[str, object]]:
    """Yield the JSON objects inside other text, such as a line of a log; what is not JSON is skipped.

    The search ends after eight braces that do not begin a JSON object, so that the time stays linear.
    """
    at = attempts = 0
    while attempts < _MAX_ATTEMPTS and (begin := text.find("{", at)) >= 0:
        try:
            value, at = cast("tuple[object, int]", _DECODER.raw_decode(text, begin))
        except (ValueError, RecursionError):
            attempts += 1
            at = begin + 1
            continue
        if isinstance(value, dict) and is_json(cast("object", value), MAX_DEPTH):
            yield cast("dict[str, object]", value)


def _decoded(text: str | bytes) -> str:
    if len(text) > MAX_BYTES:
        unit = "bytes" if isinstance(text, bytes) else "characters"
        raise RunDecodeError([FieldError("", f"expected at most {MAX_BYTES} {unit}, got {len(text)}")])
    if isinstance(text, str):
        return text
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise RunDecodeError([FieldError("", f"byte {error.start} is not UTF-8")]) from None


def _unreadable(error: Exception, text: str, first_line: int) -> RunDecodeError:
    """Return the error for a text that the parser refused. Everything before the place of the error is JSON."""
    if isinstance(error, RecursionError):
        return RunDecodeError([FieldError("", _TOO_DEEP)])
    if isinstance(error, json.JSONDecodeError):
        if is_deeper(text[: error.pos], MAX_DEPTH):
            return RunDecodeError([FieldError("", _TOO_DEEP)])
        place = f"line {first_line - 1 + error.lineno} column {error.colno}"
        return RunDecodeError([FieldError("", f"not JSON at {place}: {syntax_problem(text, error.pos)}")])
    # The interpreter's own bound on the digits of an integer.
    return RunDecodeError([FieldError("", "a number has too many digits")])


def _require_json(value: object) -> object:
    if not is_json(value, MAX_DEPTH):
        errors = [error for error, _ in zip(iter_json_errors("", value, MAX_DEPTH), range(_MAX_ERRORS), strict=False)]
        if errors:
            raise RunDecodeError(errors)
    return value
