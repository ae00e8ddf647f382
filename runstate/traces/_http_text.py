"""Answers as HTTP prints them: `curl -i`, `curl -v`, `http -v`, and sessions of several one after another."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

import attrs

from runstate.run.json_text import MAX_BYTES
from runstate.traces._answers import Exchange, path_of
from runstate.traces._snapshots import Location

__all__ = ["is_http", "iter_exchanges_in_text", "may_be_http"]

_STATUS: Final = re.compile(rb"HTTP/\d(?:\.\d)? (\d{3})\b")
_REQUEST: Final = re.compile(rb"([A-Z]{3,7}) (\S+) HTTP/\d")
_VERBOSE: Final = re.compile(rb"[*<>{}] ?")  # how curl -v begins what is not the body
_FIRST_ANSWER: Final = 200  # of the HTTP statuses; those below announce another
_PROMPTS: Final = (b"$ ", b"% ")


def may_be_http(head: bytes) -> bool:
    """Tell whether a line may be the first of printed HTTP, or of what curl tells of a connection."""
    return bool(_STATUS.match(head) or _REQUEST.match(head) or head.startswith((b"* ", b"> ", b"< ", *_PROMPTS)))


def is_http(lines: Iterable[bytes]) -> bool:
    """Tell whether an answer begins in these lines."""
    return any(_STATUS.match(line.removeprefix(b"< ")) for line in lines)


@attrs.define
class _Printed:
    """What was read so far of one answer."""

    method: str = ""
    path: tuple[str, ...] = ()
    code: int | None = None
    line: int = 0
    body: list[bytes] = attrs.field(factory=list)
    size: int = 0

    def answer(self) -> Exchange | None:
        """Return the answer; None if there was none, or only a provisional one."""
        if self.code is None or self.code < _FIRST_ANSWER:
            return None
        body = b"\n".join(self.body).decode(errors="surrogateescape") if self.body else None
        return Exchange(Location(self.line), self.method, self.path, self.code, "", body)


def iter_exchanges_in_text(lines: Iterable[tuple[int, bytes]]) -> Iterator[Exchange]:
    """Yield the answers in printed HTTP. The place of each is the line on which its body begins."""
    found = _Printed()
    in_headers = False
    for number, whole in lines:
        line = whole.rstrip(b"\r\n")
        verbose = _VERBOSE.match(line)
        bare = line[verbose.end() :] if verbose and line[:1] in b"*<>" else line
        request, status = _REQUEST.match(bare), _STATUS.match(bare)
        if request or status or line.startswith(_PROMPTS):
            if found.body or not status or found.code is not None:
                answer = found.answer()
                if answer is not None:
                    yield answer
                kept = (found.method, found.path) if status and not found.body else ("", ())
                found = _Printed(*kept)
            if request:
                found.method, found.path = request[1].decode(), path_of(request[2].decode(errors="replace"))
            found.code = int(status[1]) if status else None
            in_headers, found.line = True, number
        elif in_headers:
            in_headers = bool(bare.strip())
        elif found.code is not None and not (verbose and line[:1] in b"*<>"):
            _add(found, number, line)
    answer = found.answer()
    if answer is not None:
        yield answer


def _add(found: _Printed, number: int, line: bytes) -> None:
    """Take another line of the body, as far as the reader's bound."""
    if not found.body:
        if not line.strip() or line.startswith((b"{ [", b"} [")):  # blank, or how curl -v counts bytes
            return
        found.line = number
    if found.size <= MAX_BYTES:
        found.body.append(line)
        found.size += len(line) + 1
