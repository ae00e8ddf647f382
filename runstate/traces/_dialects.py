"""Normalization of runs that were not written as the API writes them.

Clients in Go, Java, Kotlin and Rust leave nulls out, or write zeros for them. Others write numbers as text, times as
dates, or keys in PascalCase. Such runs are not what the API sends, but what is stored. A remark says how each was read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from math import floor
from typing import Any, Final, cast

import attrs

from runstate.lifecycle import RUN_LIFECYCLE, RunStatus
from runstate.run.record import FIELDS
from runstate.run.validators import YEAR_10000
from runstate.traces._run_search import RUN_OBJECT, is_run
from runstate.traces._snapshots import RawObject, as_object

__all__ = ["NormalizedRecord", "normalize_record"]

LEFT_OUT: Final = "runs whose nulls are left out: an absent key was read as null"
ZEROS: Final = "runs with zeros or empty values for null: read as null"
TEXTS: Final = "runs with numbers as text: read as numbers"
DATES: Final = "runs with times as dates: read as Unix seconds"
FRACTIONS: Final = "runs with times in fractions of a second: rounded down"
MILLISECONDS: Final = "runs with times in milliseconds: read as seconds"
PASCAL: Final = "runs with keys in PascalCase: read as snake_case"
NAMES: Final = "runs whose status is spelled as a constant: read as the wire spells it"
INPUT_TOKENS: Final = "runs whose usage counts input_tokens and output_tokens: read as prompt and completion"
MONGO: Final = "runs in MongoDB's extended JSON: read as JSON"
AGENTS: Final = "runs with agent_id: read as assistant_id"
NO_OBJECT: Final = "runs that do not say that they are: taken for runs by their shape"
NO_STAMPS: Final = "runs without any time stamp but created_at: their statuses were judged, their stamps were not"
DASHSCOPE: Final = "runs in the dialect of DashScope: their statuses were judged, their stamps and usage were not"

_STAMPS: Final = ("expires_at", "started_at", "cancelled_at", "failed_at", "completed_at")
_TIMES: Final = ("created_at", *_STAMPS)
_NULLABLE: Final = (*_STAMPS, "last_error")  # of the keys that every run of the API has
_OBJECT_FIELDS: Final = ("required_action", "last_error", "incomplete_details", "truncation_strategy")
_OFTEN_EMPTY: Final = ("model", "tool_choice", "response_format")
_LIMITS: Final = ("max_prompt_tokens", "max_completion_tokens")
_COUNTS: Final = ("prompt_tokens", "completion_tokens", "total_tokens")
_CAMEL_COUNTS: Final = ("promptTokens", "completionTokens", "totalTokens")
_DASHSCOPE_COUNTS: Final = {"input_tokens": "prompt_tokens", "output_tokens": "completion_tokens"}
_MONGO: Final = frozenset({"$date", "$numberLong", "$numberInt", "$numberDouble"})
_MONGO_LEVELS: Final = 2  # {"$date": {"$numberLong": "..."}}
_DIGITS: Final = re.compile(r"-?[0-9]{1,15}(?:\.[0-9]{1,9})?")
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d")
_WORD: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")
_STATUSES: Final = frozenset(status.value for status in RunStatus)
_LIVE: Final = frozenset(status.value for status in RunStatus if not RUN_LIFECYCLE.is_terminal(status))
_MOST_MILLISECONDS: Final = 1000 * YEAR_10000
_YEAR_1: Final = -62_135_596_800  # what Go and .NET write for an unset time
_API_KEYS: Final[Mapping[str, str]] = {
    spelled: name
    for name in (*FIELDS, "object", "agent_id")
    for first, *rest in (name.split("_"),)
    for camel in (first + "".join(word.title() for word in rest),)
    for spelled in (camel, camel[0].upper() + camel[1:])
    if spelled != name
}
_PASCAL: Final = frozenset(key for key in _API_KEYS if key[0].isupper())


@attrs.define
class NormalizedRecord:
    """A record as the API writes it, the remarks on how it was read, and the fields that must not be judged."""

    record: dict[str, Any]
    remarks: dict[str, None] = attrs.field(factory=dict)
    not_judged: frozenset[str] = frozenset()

    def remark(self, text: str) -> None:
        """Add a remark on how something in the record was read, once."""
        self.remarks[text] = None


def normalize_record(record: RawObject) -> NormalizedRecord:
    """Return a record as the API would have written it. What fits no dialect is left for the decoder to refuse."""
    nulls = any(record.get(key, 0) is None for key in _NULLABLE)
    reading = NormalizedRecord(_with_api_keys(record))
    if any(key in _PASCAL for key in record):
        _read_pascal(reading)
    _read_names(reading)
    for key in _TIMES:
        if key in reading.record:
            reading.record[key] = _time(reading, key, reading.record[key])
    _read_numbers(reading)
    counts_input = _read_usage(reading)
    _read_empty(reading)
    if (counts_input or MILLISECONDS in reading.remarks) and not _has_stamp(reading.record):
        reading.remark(DASHSCOPE)
        reading.not_judged = frozenset((*_STAMPS, "usage"))
    elif not nulls:
        _read_absent(reading)
    return reading


# --- keys and names ---------------------------------------------------------------------------------------------------


def _with_api_keys(record: RawObject) -> dict[str, Any]:
    """Return a copy with the known keys in snake_case; duplicates are left for the decoder to refuse."""
    if _API_KEYS.keys().isdisjoint(record):
        return dict(record)
    renamed = {key: _API_KEYS[key] for key in record if key in _API_KEYS and _API_KEYS[key] not in record}
    twice = {name for name, times in Counter(renamed.values()).items() if times > 1}
    return {key if renamed.get(key) in twice else renamed.get(key, key): value for key, value in record.items()}


def _read_pascal(reading: NormalizedRecord) -> None:
    reading.remark(PASCAL)
    for key in (*_OBJECT_FIELDS, "usage", "tool_choice"):
        if key in reading.record:
            reading.record[key] = _snake_case_keys(reading.record[key])


def _snake_case_keys(value: object) -> object:
    """Return a value with keys in snake_case at every level."""
    if isinstance(value, Mapping):
        members = cast("RawObject", value).items()
        return {_WORD.sub("_", key).lower(): _snake_case_keys(member) for key, member in members}
    return [_snake_case_keys(member) for member in cast("list[object]", value)] if isinstance(value, list) else value


def _read_names(reading: NormalizedRecord) -> None:
    """Read a status that is spelled as a constant of a program, and aliases of keys."""
    record = reading.record
    if record.get("object") is None and is_run(record):
        record["object"] = RUN_OBJECT
        reading.remark(NO_OBJECT)
    if "agent_id" in record and "assistant_id" not in record:
        record["assistant_id"] = record.pop("agent_id")
        reading.remark(AGENTS)
    status = record.get("status")
    if isinstance(status, str) and status not in _STATUSES:
        plain = _WORD.sub("_", status.rpartition(".")[2]).lower()
        if plain in _STATUSES:
            record["status"] = plain
            reading.remark(NAMES)


# --- numbers and times ------------------------------------------------------------------------------------------------


def _time(reading: NormalizedRecord, key: str, value: object) -> object:
    """Return a time in Unix seconds, and null for what a client writes instead of null."""
    value = _unwrap_mongo(reading, value)
    if isinstance(value, str):
        value = _time_of_text(reading, value.strip())
    if isinstance(value, float) and value == value and abs(value) < _MOST_MILLISECONDS:  # not NaN
        value = floor(value)
        reading.remark(FRACTIONS)
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if value in (0, _YEAR_1) and key != "created_at":
        reading.remark(ZEROS)
        return None
    if YEAR_10000 <= value < _MOST_MILLISECONDS:
        reading.remark(MILLISECONDS)
        return value // 1000
    return value


def _unwrap_mongo(reading: NormalizedRecord, value: object) -> object:
    """Return a number or a date without the object that MongoDB's extended JSON wraps around it."""
    for _ in range(_MONGO_LEVELS):
        held = as_object(value)
        key, inner = next(iter(held.items()), ("", None))
        if len(held) != 1 or key not in _MONGO:
            break
        value = inner
        reading.remark(MONGO)
    return value


def _time_of_text(reading: NormalizedRecord, text: str) -> object:
    if not text:
        return 0
    if _DIGITS.fullmatch(text):
        reading.remark(TEXTS)
        return float(text) if "." in text else int(text)
    if _DATE.match(text):
        try:
            time = datetime.fromisoformat(text[:64])
            seconds = floor((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp())
        except (ValueError, OverflowError):
            return text
        reading.remark(DATES)
        return seconds
    return text


def _number(reading: NormalizedRecord, value: object) -> object:
    """Return the number in a text; any other value unchanged."""
    value = _unwrap_mongo(reading, value)
    if not isinstance(value, str) or not _DIGITS.fullmatch(value):
        return value
    reading.remark(TEXTS)
    return float(value) if "." in value else int(value)


def _read_numbers(reading: NormalizedRecord) -> None:
    for key in (*_LIMITS, "temperature", "top_p"):
        if key in reading.record:
            reading.record[key] = _number(reading, reading.record[key])


def _read_usage(reading: NormalizedRecord) -> bool:
    """Read the counts of tokens; return whether they have the names of DashScope."""
    usage = reading.record.get("usage")
    if not isinstance(usage, Mapping):
        return False
    counts = cast("RawObject", usage)
    renamed = "prompt_tokens" not in counts and not _DASHSCOPE_COUNTS.keys().isdisjoint(counts)
    found = {_DASHSCOPE_COUNTS.get(key, key) if renamed else key: value for key, value in counts.items()}
    for key in {*_COUNTS, *_CAMEL_COUNTS} & found.keys():
        found[key] = _number(reading, found[key])
    reading.record["usage"] = found
    if renamed:
        reading.remark(INPUT_TOKENS)
    status = reading.record.get("status")
    if isinstance(status, str) and status in _LIVE and _is_empty(found):
        reading.record["usage"] = None
        reading.remark(ZEROS)
    return renamed


# --- values instead of null -------------------------------------------------------------------------------------------


def _is_empty(value: object) -> bool:
    """Return whether a value is what a program writes for a missing one."""
    if isinstance(value, Mapping):
        return all(map(_is_empty, cast("RawObject", value).values()))
    return value is None or (not isinstance(value, bool) and value in ("", 0, []))


def _read_empty(reading: NormalizedRecord) -> None:
    record = reading.record
    strategy = record.get("truncation_strategy")
    if isinstance(strategy, Mapping) and cast("RawObject", strategy).get("last_messages") == 0:
        record["truncation_strategy"] = {**cast("RawObject", strategy), "last_messages": None}
        reading.remark(ZEROS)
    for key in (*_OBJECT_FIELDS, *_OFTEN_EMPTY, *_LIMITS):
        if record.get(key) is not None and _is_empty(record[key]):
            record[key] = None
            reading.remark(ZEROS)
    if record.get("usage") == {}:
        record["usage"] = None
        reading.remark(ZEROS)


def _has_stamp(record: RawObject) -> bool:
    return any(record.get(key) is not None for key in _STAMPS)


def _read_absent(reading: NormalizedRecord) -> None:
    """Read missing keys that every run of the API has as null, because the record has no other null."""
    missing = [key for key in _NULLABLE if key not in reading.record]
    if not missing:
        return
    reading.record.update(dict.fromkeys(missing))
    if _has_stamp(reading.record):
        reading.remark(LEFT_OUT)
    else:
        reading.remark(NO_STAMPS)
        reading.not_judged = frozenset(_STAMPS)
