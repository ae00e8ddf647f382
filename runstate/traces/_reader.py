"""The reader of recordings: it detects the format of a file by its beginning, and yields snapshots.

It takes lines of bytes and returns snapshots with their locations. What cannot be read is a snapshot with errors, never
an exception, so a bad line does not affect the others.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from io import TextIOBase
from itertools import chain, islice
from typing import Final, cast

import attrs

from runstate.run import json_text
from runstate.run.errors import FieldError, RunDecodeError
from runstate.traces._containers import KEYS, is_without_entries
from runstate.traces._http_archives import iter_runs_in_exchanges
from runstate.traces._http_text import is_http, iter_exchanges_in_text, may_be_http
from runstate.traces._lines import NOT_BYTES, NumberedLines, iter_lines
from runstate.traces._log_lines import iter_runs_in_lines
from runstate.traces._run_search import iter_runs_in_event
from runstate.traces._snapshots import Candidate, Location, Recording, Skipped, Snapshot
from runstate.traces._sse import FIELDS_OF_SSE, iter_sse
from runstate.traces._unsupported import printed_object
from runstate.traces._values import iter_runs_in_value
from runstate.traces._yaml import parse

__all__ = ["begins_yaml", "read_snapshots"]

_YAML: Final = re.compile(
    rf"(?:---|%YAML|-$|- ?(?:request|response|id|object):|(?:{'|'.join(KEYS)}):(?:\s|$))".encode()
)
_NO_CASSETTE: Final = FieldError("", "no cassette: it has neither interactions nor http_interactions")
_MAX_BEFORE_HTTP: Final = 200  # lines that curl prints about a connection
_UNFINISHED: Final = (b"{", b"[", b",", b":")


def read_snapshots(lines: Iterable[bytes]) -> Recording:
    """Return the snapshots in the lines of a file, in order; the notes of the recording count everything else.

    The first line that is neither blank nor a comment decides the format: a field of server-sent events; the first key
    of a recorder's file in YAML; HTTP as curl prints it; an object or array that does not end on its line, for a
    document; else each line is a value, alone or after a prefix.

    Raises `TypeError` for anything but lines of bytes, such as a path, a text or a file that was opened as text.
    """
    source = cast("object", lines)
    if isinstance(source, str | bytes | bytearray | TextIOBase) or not isinstance(source, Iterable):
        raise TypeError(NOT_BYTES)
    return Recording(_iter_candidates(lines))


def begins_yaml(head: bytes) -> bool:
    """Return whether the first line of a file is YAML of a recorder."""
    return _YAML.match(head) is not None


def _iter_candidates(lines: Iterable[bytes]) -> Iterator[Candidate]:
    try:
        numbered = iter_lines(lines)
        first = next((one for one in numbered if one[1].strip() and not one[1].lstrip().startswith(b"#")), None)
        if first is not None:
            number, head = first[0], first[1].lstrip().removeprefix(codecs.BOM_UTF8)
            yield from _iter_by_format(head.strip(), chain([(number, head)], numbered))
    except RunDecodeError as error:
        yield Snapshot(Location(1), None, None, error.errors)


def _iter_by_format(head: bytes, lines: NumberedLines) -> Iterator[Candidate]:
    if head.startswith(FIELDS_OF_SSE):
        for number, event, data in iter_sse(lines):
            yield from iter_runs_in_event(Location(number), event, data)
    elif begins_yaml(head):
        yield from _iter_yaml(lines)
    elif may_be_http(head):
        yield from _iter_http(lines)
    elif head.startswith((b"{", b"[")) and not head.endswith((b"}", b"]")):
        yield from _iter_document(lines)
    else:
        yield from iter_runs_in_lines(lines)


def _iter_http(lines: NumberedLines) -> Iterator[Candidate]:
    """Yield the runs in printed HTTP, or in other text that begins like the comments of curl."""
    first = list(islice(lines, _MAX_BEFORE_HTTP))
    lines = chain(first, lines)
    yield from (
        iter_runs_in_exchanges(iter_exchanges_in_text(lines))
        if is_http(line for _, line in first)
        else iter_runs_in_lines(lines)
    )


def _collect(lines: NumberedLines) -> list[tuple[int, bytes]]:
    """Return the lines that are not blank; of a file past the bound, enough for the reader to refuse it."""
    collected: list[tuple[int, bytes]] = []
    size = 0
    for number, line in lines:
        if not line.strip():
            continue
        collected.append((number, line))
        size += len(line)
        if size + number - collected[0][0] > json_text.MAX_BYTES:
            break
    return collected


def _join_lines(collected: list[tuple[int, bytes]], last: int) -> bytes:
    """Return lines as one text, with the blank lines again, so that line numbers in errors are those of the file."""
    text = bytearray()
    for number, line in collected:
        text += b"\n" * min(number - last, json_text.MAX_BYTES) + line.strip()
        last = number
    return bytes(text)


def _iter_document(lines: NumberedLines) -> Iterator[Candidate]:
    """Yield the runs in JSON over several lines, or in lines of which the first is cut off."""
    collected = _collect(lines)
    begin, head = collected[0][0], collected[0][1].strip()
    text = _join_lines(collected, begin)
    values: list[tuple[int, object]] = []
    try:
        values.extend(json_text.parse_many(text, first_line=begin))
    except RunDecodeError as error:
        problem = printed_object(b" ".join(line.strip() for _, line in collected[:5]))
        is_whole = not values and (head.endswith(_UNFINISHED) or len(collected) == 1)
        if problem is not None:
            yield Snapshot(Location(begin), None, None, (FieldError("", problem),))
        elif not is_whole:
            yield from iter_runs_in_lines(chain(collected, lines))
        else:
            yield Snapshot(Location(begin), None, None, error.errors)
            if len(text) <= json_text.MAX_BYTES:  # the complete runs in it are judged
                found = iter_runs_in_lines(iter(collected))
                yield from (one for one in found if isinstance(one, Snapshot) and one.record is not None)
        return
    for line, value in values:
        yield from iter_runs_in_value(Location(line), value)


def _iter_yaml(lines: NumberedLines) -> Iterator[Candidate]:
    """Yield the runs in a YAML text."""
    collected: list[bytes] = []
    size = 0
    for number, line in lines:
        # Blank lines for those before the first, so that line numbers in errors are those of the file.
        before = b"" if collected else b"\n" * min(number - 1, json_text.MAX_BYTES)
        collected.append(before + line.rstrip(b"\r\n"))
        size += len(line)
        if size > json_text.MAX_BYTES:  # enough for the parser to refuse it
            break
    try:
        value = parse(b"\n".join(collected))
    except RunDecodeError as error:
        yield Snapshot(Location(1), None, None, error.errors)
        return
    for candidate in iter_runs_in_value(Location(1), value):
        is_other = isinstance(candidate, Skipped) and candidate.errors and not is_without_entries(value)
        yield attrs.evolve(candidate, errors=(_NO_CASSETTE,)) if is_other else candidate
