"""Runs in lines: JSON lines, and logs with JSON after a prefix or over several lines."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Final

import attrs

from runstate.run import json_text
from runstate.run.errors import FieldError, RunDecodeError
from runstate.run.json_text import MAX_BYTES
from runstate.traces._lines import NumberedLines
from runstate.traces._run_search import CUT_OFF, NO_RUN, NOT_A_RUN, RUN_OBJECT, iter_runs
from runstate.traces._snapshots import Candidate, Location, Skipped, Snapshot
from runstate.traces._unsupported import printed_object
from runstate.traces._values import iter_runs_in_value

__all__ = ["iter_runs_in_lines"]

_NAME: Final = RUN_OBJECT.encode()
_NOT_JSON: Final = "a line without JSON"
_BEGINS_JSON: Final = (b'{"', b"{ ", b"{}", b'["', b"[{", b"[[", b"[]")
_CONTINUES: Final = (b" ", b"\t", b"(", b")", b"[", b"]", b"{", b"}")  # an object that is printed over several lines
_DOUBLED: Final = '{""'  # JSON text in a field of CSV
_LITERAL: Final = re.compile(r"'(?:[^'\\]|\\.)*'")  # text or bytes as Python and JavaScript print them
_ESCAPE: Final = re.compile(r"\\(.)")
_BREAKS: Final = {"n": "\n", "r": "\r", "t": "\t"}
_QUOTED: Final = '"{\\"'  # JSON text in quotes, as logfmt writes it


def iter_runs_in_lines(lines: NumberedLines) -> Iterator[Candidate]:
    """Yield the runs in lines of JSON, alone, after a prefix, or over several lines."""
    printed: str | None = None  # an object that a language prints over several lines is reported once
    for number, line in _blocks(lines):
        text = line.strip().lstrip(b"\x1e")
        if not text:
            continue
        found = [*_iter_whole_line(number, text)] or [*_iter_inside_line(number, text)]
        if _has_run(found):
            printed = None
        elif found and printed:
            found = [Skipped(Location(number), _NOT_JSON)]
        elif not found:
            problem = printed_object(text)
            if problem is None and not line.startswith(_CONTINUES):
                printed = None
            found = [_unreadable_line(number, text, problem, printed)]
            printed = printed or problem
        yield from found


def _blocks(lines: NumberedLines) -> Iterator[tuple[int, bytes]]:
    """Yield lines; those of an object that is printed over several lines are joined.

    Brackets are paired by their indentation. If an object has no end, the complete objects inside it are still joined.
    """
    block = _Block()
    for number, line in lines:
        if not block.lines and not _opens(line):
            yield number, line
            continue
        block.add(number, line)
        if not block.open or block.size > MAX_BYTES:
            yield from block.parts()
            block = _Block()
    yield from block.parts()


@attrs.define
class _Block:
    """Lines that begin with one that opens an object, and which of them belong together."""

    lines: list[tuple[int, bytes]] = attrs.field(factory=list)
    open: list[tuple[int, int]] = attrs.field(factory=list)
    """Index and indentation of the lines whose bracket is still open."""
    ends: dict[int, int] = attrs.field(factory=dict)
    """The index of the last line of each object, by the index of its first line."""
    indents: Counter[int] = attrs.field(factory=Counter)
    size: int = 0

    def add(self, number: int, line: bytes) -> None:
        """Add the next line."""
        at, indent = len(self.lines), len(line) - len(line.lstrip())
        self.lines.append((number, line))
        self.size += len(line)
        closes = line.lstrip().startswith((b"}", b"]"))
        if _opens(line) and not closes:
            self.open.append((at, indent))
            self.indents[indent] += 1
        elif closes and not _opens(line) and self.open:
            self._close(at, indent)

    def _close(self, at: int, indent: int) -> None:
        """Pair a closing bracket with the opening one of the same indentation, else with the last one further in."""
        if self.indents[indent]:
            while self.open[-1][1] != indent:
                self._pop()
        elif self.open[-1][1] < indent:
            return
        self.ends[self._pop()] = at

    def _pop(self) -> int:
        begin, indent = self.open.pop()
        self.indents[indent] -= 1
        return begin

    def parts(self) -> Iterator[tuple[int, bytes]]:
        """Yield the lines; those of each complete object are joined."""
        at = 0
        while at < len(self.lines):
            end = self.ends.get(at, at) + 1
            number = self.lines[at][0]
            yield number, b"\n".join(line.rstrip(b"\r\n") for _, line in self.lines[at:end])
            at = end


def _opens(line: bytes) -> bool:
    return line.rstrip().endswith((b"{", b"["))


# --- one line ---------------------------------------------------------------------------------------------------------


def _iter_whole_line(number: int, text: bytes) -> Iterator[Candidate]:
    """Yield what a line of JSON holds; nothing if it is not JSON from its beginning to its end."""
    if text.startswith((b"{", b"[", b'"')):
        try:
            values = list(json_text.parse_many(text, first_line=number))
        except RunDecodeError:
            return
        for line, value in values:
            yield from iter_runs_in_value(Location(line), value)


def _iter_inside_line(number: int, text: bytes) -> Iterator[Candidate]:
    """Yield the runs in JSON objects among other text in a line."""
    if len(text) > MAX_BYTES or (begins := text.find(b"{")) < 0:
        return
    try:
        line = text.decode()
    except UnicodeDecodeError:
        return
    found = [one for value in json_text.objects_in(line) for one in iter_runs_in_value(Location(number), value)]
    spoken_of = _NAME in text
    if spoken_of and not _has_run(found):
        found = [one for value in _iter_escaped(line) for one in iter_runs(Location(number), None, value)]
    # An object inside one that is cut off is not the object of the whole line.
    if _has_run(found) or (not spoken_of and begins and not text.startswith(_BEGINS_JSON)):
        yield from found


def _has_run(found: list[Candidate]) -> bool:
    return any(isinstance(one, Snapshot) for one in found)


def _iter_escaped(line: str) -> Iterator[object]:
    """Yield JSON values that are escaped in a line: in quotes, or with line breaks as escapes."""
    begin = line.find(_QUOTED)
    if begin >= 0:
        try:
            yield json.JSONDecoder(strict=False).raw_decode(line, begin)[0]
        except (ValueError, RecursionError):
            return
    if _DOUBLED in line:
        yield from json_text.objects_in(line.replace('""', '"'))
    begin = line.find("'{")
    literal = _LITERAL.match(line, begin) if begin >= 0 else None
    if literal is not None:
        yield from json_text.objects_in(_ESCAPE.sub(lambda escape: _BREAKS.get(escape[1], escape[1]), literal[0]))


def _unreadable_line(number: int, text: bytes, problem: str | None, printed: str | None) -> Candidate:
    """Return what to report for a line in which nothing could be read; `printed` names the object before it."""
    at = Location(number)
    if problem is not None:
        return Skipped(at, printed, "not judged") if printed else Snapshot(at, None, None, (FieldError("", problem),))
    try:
        json_text.parse(text, first_line=number)
        return Skipped(at, NO_RUN, errors=(NOT_A_RUN,))
    except RunDecodeError as error:
        if (text.startswith(_BEGINS_JSON) and not printed) or len(text) > MAX_BYTES:
            return Snapshot(at, None, None, error.errors)
        if _NAME in text and not printed:
            return Skipped(at, CUT_OFF, "not judged", error.errors)
        return Skipped(at, _NOT_JSON, errors=() if printed else error.errors)
