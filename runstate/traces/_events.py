"""Server-sent events, as a capture of a stream or a recorded body holds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final

from runstate.run.json_text import MAX_BYTES

__all__ = ["FIELDS_OF_SSE", "iter_sse"]

FIELDS_OF_SSE: Final = (b"event:", b"data:", b"id:", b"retry:", b":")
"""What a line of server-sent events begins with."""

_DONE: Final = b"[DONE]"


def iter_sse(lines: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, str | None, bytes]]:
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
            if value == _DONE:
                continue
            begin = begin or number
            if size <= MAX_BYTES:  # of an event that does not end, as much as it takes to refuse it
                data.append(value)
                size += len(value) + (len(data) > 1)
        elif not line.strip():  # a colon by itself is a comment
            if data:
                yield begin, event, b"\n".join(data)
            event, data, begin, size = None, [], 0, 0
