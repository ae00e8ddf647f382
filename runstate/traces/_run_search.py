"""The search for runs in JSON values, in text and in streams of events.

An object whose `object` is `thread.run` is a run wherever it is: alone, in an array or a list page, in an envelope
(`run`, `data`), or inside a line of a structured log, also as JSON text in a string.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Final, cast

from runstate.lifecycle import RunStatus
from runstate.run import json_text
from runstate.run.errors import FieldError, RunDecodeError
from runstate.traces._snapshots import Candidate, Location, RawObject, Skipped, Snapshot, as_object
from runstate.traces._sse import FIELDS_OF_SSE, iter_sse

__all__ = [
    "CUT_OFF",
    "NOT_A_RUN",
    "NO_RUN",
    "RUN_OBJECT",
    "is_run",
    "is_run_event",
    "iter_runs",
    "iter_runs_in_event",
    "says_it_is_run",
]

RUN_OBJECT: Final = "thread.run"
CUT_OFF: Final = "text that speaks of a run, without a whole JSON object"
_QUOTED: Final = f'{RUN_OBJECT}"'
NO_RUN: Final = "no run in it"
_STATUSES: Final = frozenset(status.value for status in RunStatus)
_ENVELOPES: Final = ("run", "data")
_MAX_STRINGS: Final = 3  # levels of JSON text inside JSON text
_NEITHER: Final = FieldError("", "no run: it has neither id nor status")
NOT_A_RUN: Final = FieldError("", "expected a run, an array of runs or an envelope of one")


# --- kinds of values --------------------------------------------------------------------------------------------------


def _get(found: RawObject, *names: str) -> object:
    """Return the first member that exists, in the spelling of JSON or of a client in C#."""
    return next((found[key] for name in names for key in (name, name[0].upper() + name[1:]) if key in found), None)


def says_it_is_run(value: RawObject) -> bool:
    """Return whether the `object` of an object is `thread.run`."""
    return _get(value, "object") == RUN_OBJECT


def _has_shape(value: RawObject) -> bool:
    """Return whether an object has the keys of a run and not those of a message or a step."""
    assistant = _get(value, "assistant_id", "assistantId", "agent_id", "agentId")
    thread = _get(value, "thread_id", "threadId")
    if not isinstance(assistant, str) or not isinstance(thread, str):
        return False
    others = ("run_id", "runId", "RunId", "step_details", "stepDetails", "StepDetails")
    return isinstance(_get(value, "status"), str) and not any(key in value for key in others)


def is_run(value: object) -> bool:
    """Return whether a value is a run: its `object` is `thread.run`, or it has no `object` and the keys of a run."""
    found = as_object(value)
    return says_it_is_run(found) or (_get(found, "object") is None and _has_shape(found))


def _is_other_object(found: RawObject) -> bool:
    """Return whether an object has another `object`, and the keys and a status of a run."""
    return isinstance(_get(found, "object"), str) and _has_shape(found) and _get(found, "status") in _STATUSES


def _skip_other_object(at: Location, found: RawObject) -> Skipped:
    name = str(_get(found, "object"))[:60]
    return Skipped(at, f"an object named {name!r} that has the shape of a run", "not judged")


def _looks_like_run(found: RawObject) -> bool:
    """Return whether an object without `object` is so similar to a run that its errors should be reported."""
    run_id, status = _get(found, "id"), _get(found, "status")
    if _get(found, "object") is not None or not isinstance(run_id, str) or not isinstance(status, str):
        return False
    known = ("thread_id", "threadId", "assistant_id", "assistantId", "created_at", "createdAt")
    return run_id.startswith("run_") or status in _STATUSES or any(key in found for key in known)


# --- values -----------------------------------------------------------------------------------------------------------


def iter_runs(at: Location, event: str | None, value: object) -> Iterator[Candidate]:
    """Yield the runs in a JSON value, or what it is instead."""
    if isinstance(value, list):
        for index, member in enumerate(cast("list[object]", value)):
            yield from iter_runs(at.inside(f"[{index}]"), event, member)
    elif isinstance(value, dict):
        yield from _iter_object(at, event, cast("dict[str, object]", value))
    else:
        inner = list(_iter_nested(at, event, value, _MAX_STRINGS))
        yield from inner or [Skipped(at, NO_RUN, errors=(NOT_A_RUN,))]


def _iter_object(at: Location, event: str | None, found: dict[str, object]) -> Iterator[Candidate]:
    named = found.get("event")
    event = named if isinstance(named, str) else event
    if is_run(found):
        yield Snapshot(at, event, found)
        return
    inner = next((key for key in _ENVELOPES if isinstance(found.get(key), dict | list)), None)
    if inner is not None and not isinstance(found.get("status"), str):
        yield from iter_runs(at.inside(".data") if inner == "data" else at, event, found[inner])
        return
    if _is_other_object(found):
        yield _skip_other_object(at, found)
        return
    nested = [one for key, member in found.items() for one in _iter_nested(at.inside(f".{key[:64]}"), event, member)]
    if nested:
        yield from nested
    elif _looks_like_run(found):
        yield Snapshot(at, event, found)
    elif event == "error" or found.get("error") is not None:
        yield Skipped(at, _error_text(found), errors=(_NEITHER,))
    else:
        yield Skipped(at, NO_RUN, errors=() if _get(found, "object") is not None else (_NEITHER,))


def _iter_nested(at: Location, event: str | None, value: object, strings: int = _MAX_STRINGS) -> Iterator[Candidate]:
    """Yield the runs inside a value at any depth, also in strings with JSON or server-sent events."""
    if isinstance(value, dict):
        found = cast("dict[str, object]", value)
        named = found.get("event")
        event = named if isinstance(named, str) else event
        if is_run(found):
            yield Snapshot(at, event, found)
            return
        if _is_other_object(found):
            yield _skip_other_object(at, found)
            return
        for key, member in found.items():
            if member.__class__ in (dict, list, str):
                yield from _iter_nested(at.inside(f".{key[:64]}"), event, member, strings)
    elif isinstance(value, list):
        for index, member in enumerate(cast("list[object]", value)):
            if member.__class__ in (dict, list, str):
                yield from _iter_nested(at.inside(f"[{index}]"), event, member, strings)
    elif isinstance(value, str) and strings and RUN_OBJECT in value:
        yield from _iter_string(at, event, value, strings - 1)


def _iter_string(at: Location, event: str | None, text: str, strings: int) -> Iterator[Candidate]:
    if text.startswith(tuple(field.decode() for field in FIELDS_OF_SSE)):
        for _, named, data in iter_sse(enumerate(io.BytesIO(text.encode(errors="surrogatepass")), start=1)):
            for value in json_text.objects_in(data.decode(errors="replace")):
                yield from _iter_nested(at, named or event, value, strings)
        return
    found = [one for value in _iter_json_values(text) for one in _iter_nested(at, event, value, strings)]
    yield from found
    if not found and (text == RUN_OBJECT or _QUOTED in text):
        yield Skipped(at, CUT_OFF, "not judged")


def _iter_json_values(text: str) -> Iterator[object]:
    """Yield the JSON values in a string: a string in a string, or the objects in other text."""
    if text.startswith('"'):
        try:
            yield json_text.parse(text)
        except RunDecodeError:
            return
    else:
        yield from json_text.objects_in(text)


# --- events -----------------------------------------------------------------------------------------------------------


def is_run_event(event: str | None) -> bool:
    """Return whether a server-sent event is about a run itself, and not about its steps or messages."""
    return event is not None and event.startswith(f"{RUN_OBJECT}.") and not event.startswith(f"{RUN_OBJECT}.step")


def iter_runs_in_event(at: Location, event: str | None, data: bytes) -> Iterator[Candidate]:
    """Yield the runs in the data of a server-sent event, or what it is instead."""
    try:
        for line, value in json_text.parse_many(data, first_line=at.line or 1):
            yield from iter_runs(Location(line, at.item, at.part, at.number), event, value)
    except RunDecodeError as error:
        if is_run_event(event) or data.startswith((b"{", b"[")) or len(data) > json_text.MAX_BYTES:
            yield Snapshot(at, event, None, error.errors)
        else:
            yield Skipped(at, "an event that is not JSON", errors=error.errors)


def _error_text(found: RawObject) -> str:
    """Return the message of an error in a stream or a response."""
    error = found.get("error", found)
    message = as_object(error).get("message", error)
    return f"an error: {message[:200]}" if isinstance(message, str) else "an error"
