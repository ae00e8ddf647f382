"""Runs as they were seen: a snapshot with its place, and where in a JSON value or in a stream such are found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Final, TypeAlias, cast

import attrs

from runstate.errors import Fault
from runstate.lifecycle import RunEvent

__all__ = ["FIELDS_OF_SSE", "JsonObject", "Place", "Snapshot", "events_in", "runs_in"]

JsonObject: TypeAlias = Mapping[str, object]

FIELDS_OF_SSE: Final = (b"event:", b"data:", b"id:", b"retry:", b":")
"""What a line of server-sent events begins with."""

_MAX_BYTES: Final = 16 * 1024 * 1024  # what the reader of JSON takes


@attrs.frozen
class Place:
    """Where in a recording something stands: `12`, `1[3]`, `interaction 3 line 7`, `entry 5.data[0]`."""

    line: int
    """The line it begins on, counted from 1: of the file, or of the part's body. 0 for a body that is one value."""
    item: str = ""
    """Where in the JSON of that line, if not at its top: `[3]`, `.data[0]`."""
    part: str = ""
    """What the recording is made of, if not of lines: `interaction`, `entry`."""
    number: int = 0
    """Which of its parts, counted from 1 as they stand in the file."""

    def __str__(self) -> str:
        if not self.part:
            return f"{self.line}{self.item}"
        line = f" line {self.line}" if self.line else ""
        return f"{self.part} {self.number}{line}{self.item}"

    def inside(self, item: str) -> Place:
        """Return the place of something in the JSON that stands here."""
        return Place(self.line, self.item + item, self.part, self.number)

    @property
    def order(self) -> tuple[int, int]:
        """What sorts the places of one recording from its top to its bottom."""
        return self.number, self.line


@attrs.frozen
class Snapshot:
    """One recorded run object, not yet decoded, or the faults of what stands in its place."""

    at: Place
    event: str | None
    """The server-sent event it came with, `thread.run.queued`; None if it came without."""
    record: JsonObject | None
    faults: tuple[Fault, ...] = ()
    asked: RunEvent | None = None
    """The event that the request asked for, if this is its answer and tells; the server accepted it."""

    @property
    def place(self) -> str:
        """Where it stands: `12`, `1[3]`, `interaction 3 line 7`."""
        return str(self.at)


def runs_in(at: Place, event: str | None, value: object) -> Iterator[Snapshot]:
    """Yield the runs in a JSON value: itself, in an envelope (`run`, `data`), or members of an array or a list page."""
    if isinstance(value, list):
        for index, member in enumerate(cast("list[object]", value)):
            yield from runs_in(at.inside(f"[{index}]"), event, member)
    elif isinstance(value, dict):
        found = cast("dict[str, object]", value)
        named = found.get("event")
        event = named if isinstance(named, str) else event
        inner = next((key for key in ("run", "data") if isinstance(found.get(key), dict | list)), None)
        if inner is not None and "status" not in found:
            yield from runs_in(at.inside(".data") if inner == "data" else at, event, found[inner])
        elif "id" not in found and "status" not in found:
            yield Snapshot(at, event, None, (Fault("", "no run: it has neither id nor status"),))
        elif found.get("object", "thread.run") == "thread.run":
            yield Snapshot(at, event, found)
    else:
        yield Snapshot(at, event, None, (Fault("", "expected a run, an array of runs or an envelope of one"),))


def events_in(lines: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, str | None, bytes]]:
    """Yield (first line, name, data) of server-sent events: `event:` and `data:` fields, ended by a blank line.

    What ends a stream, `[DONE]`, is none.
    """
    event: str | None = None
    data: list[bytes] = []
    begin = size = 0
    for number, line in chain(lines, [(0, b"")]):
        field, _, value = line.strip().partition(b":")
        value = value.strip()
        if field == b"event":
            event = value.decode(errors="replace")
        elif field == b"data":
            begin = begin or number
            if size <= _MAX_BYTES:  # of an event that does not end, as much as it takes to refuse it
                data.append(value)
                size += len(value) + (len(data) > 1)
        elif not line.strip():  # a colon by itself is a comment
            if data and data != [b"[DONE]"]:
                yield begin, event, b"\n".join(data)
            event, data, begin, size = None, [], 0, 0
