"""Recordings as files hold them, to snapshots: the form of a file is known by how it begins.

Bytes go in, line by line; snapshots with their place come out. Whatever cannot be read is a snapshot with faults, never
an exception, so that one bad line spoils no other.
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
from runstate.traces._events import FIELDS_OF_SSE, iter_sse
from runstate.traces._finding import iter_runs_in_event
from runstate.traces._http_archives import iter_runs_in_exchanges
from runstate.traces._http_text import is_http, iter_exchanges_in_text, may_be_http
from runstate.traces._lines import NOT_BYTES, NumberedLines, lines_of
from runstate.traces._log_lines import in_lines
from runstate.traces._refusals import in_line
from runstate.traces._snapshots import Candidate, Location, Recording, Skipped, Snapshot
from runstate.traces._values import in_value
from runstate.traces._yaml import parse

__all__ = ["begins_yaml", "read_snapshots"]

_YAML: Final = re.compile(
    rf"(?:---|%YAML|-$|- ?(?:request|response|id|object):|(?:{'|'.join(KEYS)}):(?:\s|$))".encode()
)
_NO_CASSETTE: Final = FieldError("", "no cassette: it has neither interactions nor http_interactions")
_MAX_BEFORE_HTTP: Final = 200  # lines of how curl connects
_UNFINISHED: Final = (b"{", b"[", b",", b":")


def read_snapshots(lines: Iterable[bytes]) -> Recording:
    """Return the snapshots in a file's lines, in order; everything else in it is counted in the recording's notes.

    The form is known by the first line that is neither blank nor a comment: a field of server-sent events; the first
    key of a recorder's file in YAML; an HTTP answer as curl prints it; an object or array that is not ended on its
    line, then it is a document over many; else every line is one value, alone or behind a prefix. Raises `TypeError`
    for what is no lines of bytes, such as a path, a text or a file that was opened as text.
    """
    given = cast("object", lines)
    if isinstance(given, str | bytes | bytearray | TextIOBase) or not isinstance(given, Iterable):
        raise TypeError(NOT_BYTES)
    return Recording(_iter_candidates(lines))


def begins_yaml(head: bytes) -> bool:
    """Tell whether the first line of a file is one of YAML."""
    return _YAML.match(head) is not None


def _iter_candidates(lines: Iterable[bytes]) -> Iterator[Candidate]:
    try:
        numbered = lines_of(lines)
        first = next((one for one in numbered if one[1].strip() and not one[1].lstrip().startswith(b"#")), None)
        if first is not None:
            number, head = first[0], first[1].lstrip().removeprefix(codecs.BOM_UTF8)
            yield from _by_form(head.strip(), chain([(number, head)], numbered))
    except RunDecodeError as error:
        yield Snapshot(Location(1), None, None, error.errors)


def _by_form(head: bytes, lines: NumberedLines) -> Iterator[Candidate]:
    if head.startswith(FIELDS_OF_SSE):
        for number, event, data in iter_sse(lines):
            yield from iter_runs_in_event(Location(number), event, data)
    elif begins_yaml(head):
        yield from _yaml(lines)
    elif may_be_http(head):
        yield from _http(lines)
    elif head.startswith((b"{", b"[")) and not head.endswith((b"}", b"]")):
        yield from _document(lines)
    else:
        yield from in_lines(lines)


def _http(lines: NumberedLines) -> Iterator[Candidate]:
    """Yield the runs in printed HTTP, or in other text that begins as curl's comments do."""
    first = list(islice(lines, _MAX_BEFORE_HTTP))
    lines = chain(first, lines)
    yield from (
        iter_runs_in_exchanges(iter_exchanges_in_text(lines)) if is_http(line for _, line in first) else in_lines(lines)
    )


def _collected(lines: NumberedLines) -> list[tuple[int, bytes]]:
    """Return a file's lines that are not blank; of one past the reader's bound as much as it takes to refuse it."""
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


def _text(collected: list[tuple[int, bytes]], last: int) -> bytes:
    """Return lines as one text. Blank lines were left out, but an error's line number must be the file's."""
    text = bytearray()
    for number, line in collected:
        text += b"\n" * min(number - last, json_text.MAX_BYTES) + line.strip()
        last = number
    return bytes(text)


def _document(lines: NumberedLines) -> Iterator[Candidate]:
    """Yield the runs in JSON texts that run over many lines, or in lines of which the first is cut off."""
    collected = _collected(lines)
    begin, head = collected[0][0], collected[0][1].strip()
    text = _text(collected, begin)
    values: list[tuple[int, object]] = []
    try:
        values.extend(json_text.parse_many(text, first_line=begin))
    except RunDecodeError as error:
        said = in_line(b" ".join(line.strip() for _, line in collected[:5]))
        is_whole = not values and (head.endswith(_UNFINISHED) or len(collected) == 1)
        if said is not None:
            yield Snapshot(Location(begin), None, None, (FieldError("", said),))
        elif not is_whole:
            yield from in_lines(chain(collected, lines))
        else:
            yield Snapshot(Location(begin), None, None, error.errors)
            if len(text) <= json_text.MAX_BYTES:  # what is whole in it is judged
                found = in_lines(iter(collected))
                yield from (one for one in found if isinstance(one, Snapshot) and one.record is not None)
        return
    for line, value in values:
        yield from in_value(Location(line), value)


def _yaml(lines: NumberedLines) -> Iterator[Candidate]:
    """Yield the runs in a YAML text."""
    collected: list[bytes] = []
    size = 0
    for number, line in lines:
        # What stands before the first was left out, but an error's line number must be the file's.
        before = b"" if collected else b"\n" * min(number - 1, json_text.MAX_BYTES)
        collected.append(before + line.rstrip(b"\r\n"))
        size += len(line)
        if size > json_text.MAX_BYTES:  # enough for the reader to refuse it with its sentence
            break
    try:
        value = parse(b"\n".join(collected))
    except RunDecodeError as error:
        yield Snapshot(Location(1), None, None, error.errors)
        return
    for sighting in in_value(Location(1), value):
        is_other = isinstance(sighting, Skipped) and sighting.faults and not is_without_entries(value)
        yield attrs.evolve(sighting, faults=(_NO_CASSETTE,)) if is_other else sighting
