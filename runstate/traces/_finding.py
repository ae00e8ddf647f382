"""Where in a JSON value, in text or in a stream of events runs are found, and what else stands there.

An object that says that it is a run is one, wherever it stands: alone, in an array or a list page, in an envelope
(`run`, `data`), or inside a line of a structured log, also as JSON text in a string.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Final, cast

from runstate.lifecycle import RunStatus
from runstate.run import json_text
from runstate.run.errors import FieldError, RunDecodeError
from runstate.traces._events import FIELDS_OF_SSE, iter_sse
from runstate.traces._snapshots import Candidate, Location, RawObject, Skipped, Snapshot, object_of

__all__ = ["CUT", "NAME", "NOT_ONE", "NO_RUN", "has_name", "is_run", "iter_runs", "iter_runs_in_event", "of_event"]

NAME: Final = "thread.run"
CUT: Final = "text that speaks of a run, without a whole JSON object"
_QUOTED: Final = f'{NAME}"'
NO_RUN: Final = "no run in it"
_STATUSES: Final = frozenset(status.value for status in RunStatus)
_ENVELOPES: Final = ("run", "data")
_MAX_STRINGS: Final = 3  # levels of JSON text in JSON text
_NEITHER: Final = FieldError("", "no run: it has neither id nor status")
NOT_ONE: Final = FieldError("", "expected a run, an array of runs or an envelope of one")


# --- what a value is --------------------------------------------------------------------------------------------------


def _member(found: RawObject, *names: str) -> object:
    """Return the first of the members there is, as JSON or a client in C# spells it."""
    return next((found[key] for name in names for key in (name, name[0].upper() + name[1:]) if key in found), None)


def has_name(value: RawObject) -> bool:
    """Tell whether an object says by its name that it is a run."""
    return _member(value, "object") == NAME


def _has_shape(value: RawObject) -> bool:
    """Tell whether an object has what a run has and no message or step has, whatever it calls itself."""
    assistant = _member(value, "assistant_id", "assistantId", "agent_id", "agentId")
    thread = _member(value, "thread_id", "threadId")
    if not isinstance(assistant, str) or not isinstance(thread, str):
        return False
    others = ("run_id", "runId", "RunId", "step_details", "stepDetails", "StepDetails")
    return isinstance(_member(value, "status"), str) and not any(key in value for key in others)


def is_run(value: object) -> bool:
    """Tell whether a value is a run: it says so, or has no name and the shape of a run."""
    found = object_of(value)
    return has_name(found) or (_member(found, "object") is None and _has_shape(found))


def _has_other_name(found: RawObject) -> bool:
    """Tell whether an object has a name that is not that of a run, and the shape and a status of one."""
    return isinstance(_member(found, "object"), str) and _has_shape(found) and _member(found, "status") in _STATUSES


def _other_name(at: Location, found: RawObject) -> Skipped:
    name = str(_member(found, "object"))[:60]
    return Skipped(at, f"an object named {name!r} that has the shape of a run", "not judged")


def _may_be_run(found: RawObject) -> bool:
    """Tell whether an object without a name looks so much like a run that its faults are worth telling."""
    run_id, status = _member(found, "id"), _member(found, "status")
    if _member(found, "object") is not None or not isinstance(run_id, str) or not isinstance(status, str):
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
        yield from _in_object(at, event, cast("dict[str, object]", value))
    else:
        inner = list(_nested(at, event, value, _MAX_STRINGS))
        yield from inner or [Skipped(at, NO_RUN, faults=(NOT_ONE,))]


def _in_object(at: Location, event: str | None, found: dict[str, object]) -> Iterator[Candidate]:
    named = found.get("event")
    event = named if isinstance(named, str) else event
    if is_run(found):
        yield Snapshot(at, event, found)
        return
    inner = next((key for key in _ENVELOPES if isinstance(found.get(key), dict | list)), None)
    if inner is not None and not isinstance(found.get("status"), str):
        yield from iter_runs(at.inside(".data") if inner == "data" else at, event, found[inner])
        return
    if _has_other_name(found):
        yield _other_name(at, found)
        return
    nested = [one for key, member in found.items() for one in _nested(at.inside(f".{key[:64]}"), event, member)]
    if nested:
        yield from nested
    elif _may_be_run(found):
        yield Snapshot(at, event, found)
    elif event == "error" or found.get("error") is not None:
        yield Skipped(at, _error_in(found), faults=(_NEITHER,))
    else:
        yield Skipped(at, NO_RUN, faults=() if _member(found, "object") is not None else (_NEITHER,))


def _nested(at: Location, event: str | None, value: object, strings: int = _MAX_STRINGS) -> Iterator[Candidate]:
    """Yield what says that it is a run inside a value, at any depth, also in strings that hold JSON or events."""
    if isinstance(value, dict):
        found = cast("dict[str, object]", value)
        named = found.get("event")
        event = named if isinstance(named, str) else event
        if is_run(found):
            yield Snapshot(at, event, found)
            return
        if _has_other_name(found):
            yield _other_name(at, found)
            return
        for key, member in found.items():
            if member.__class__ in (dict, list, str):
                yield from _nested(at.inside(f".{key[:64]}"), event, member, strings)
    elif isinstance(value, list):
        for index, member in enumerate(cast("list[object]", value)):
            if member.__class__ in (dict, list, str):
                yield from _nested(at.inside(f"[{index}]"), event, member, strings)
    elif isinstance(value, str) and strings and NAME in value:
        yield from _in_string(at, event, value, strings - 1)


def _in_string(at: Location, event: str | None, text: str, strings: int) -> Iterator[Candidate]:
    if text.startswith(tuple(field.decode() for field in FIELDS_OF_SSE)):
        for _, named, data in iter_sse(enumerate(io.BytesIO(text.encode(errors="surrogatepass")), start=1)):
            for value in json_text.objects_in(data.decode(errors="replace")):
                yield from _nested(at, named or event, value, strings)
        return
    found = [one for value in _values_in(text) for one in _nested(at, event, value, strings)]
    yield from found
    if not found and (text == NAME or _QUOTED in text):
        yield Skipped(at, CUT, "not judged")


def _values_in(text: str) -> Iterator[object]:
    """Yield the JSON values in a string: a string in a string, or the objects in other text."""
    if text.startswith('"'):
        try:
            yield json_text.parse(text)
        except RunDecodeError:
            return
    else:
        yield from json_text.objects_in(text)


# --- events -----------------------------------------------------------------------------------------------------------


def of_event(event: str | None) -> bool:
    """Tell whether a server-sent event is about a run itself, and not about its steps or its messages."""
    return event is not None and event.startswith(f"{NAME}.") and not event.startswith(f"{NAME}.step")


def iter_runs_in_event(at: Location, event: str | None, data: bytes) -> Iterator[Candidate]:
    """Yield the runs in the data of a server-sent event, or what it is instead."""
    try:
        for line, value in json_text.parse_many(data, first_line=at.line or 1):
            yield from iter_runs(Location(line, at.item, at.part, at.number), event, value)
    except RunDecodeError as error:
        if of_event(event) or data.startswith((b"{", b"[")) or len(data) > json_text.MAX_BYTES:
            yield Snapshot(at, event, None, error.errors)
        else:
            yield Skipped(at, "an event that is not JSON", faults=error.errors)


def _error_in(found: RawObject) -> str:
    """Return what an error says, of a stream or of an answer."""
    error = found.get("error", found)
    message = object_of(error).get("message", error)
    return f"an error: {message[:200]}" if isinstance(message, str) else "an error"
