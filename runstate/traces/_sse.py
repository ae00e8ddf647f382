"""A parser of server-sent events in a captured stream or a recorded body."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final

from runstate.run.json_text import MAX_BYTES

__all__ = ["FIELDS_OF_SSE", "iter_sse"]

FIELDS_OF_SSE: Final = (b"event:", b"data:", b"id:", b"retry:", b":")
"""The beginnings of lines of server-sent events."""

_DONE: Final = b"[DONE]"


def iter_sse(lines: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, str | None, bytes]]:
    """Yield (first line, name, data) of server-sent events: `event:` and `data:` fields, ended by a blank line.

    `[DONE]`, the end of a stream, is not an event.
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
            if value == _DONE:
                continue
            begin = begin or number
            if size <= MAX_BYTES:  # of an endless event, enough for the reader to refuse it
                data.append(value)
                size += len(value) + (len(data) > 1)
        elif not line.strip():  # a line that begins with a colon is a comment
            if data:
                yield begin, event, b"\n".join(data)
            event, data, begin, size = None, [], 0, 0
