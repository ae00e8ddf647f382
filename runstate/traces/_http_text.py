"""Responses in printed HTTP: `curl -i`, `curl -v`, `http -v`, and sessions of several."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

import attrs

from runstate.run.json_text import MAX_BYTES
from runstate.traces._exchanges import Exchange, split_path
from runstate.traces._snapshots import Location

__all__ = ["is_http", "iter_exchanges_in_text", "may_be_http"]

_STATUS: Final = re.compile(rb"HTTP/\d(?:\.\d)? (\d{3})\b")
_REQUEST: Final = re.compile(rb"([A-Z]{3,7}) (\S+) HTTP/\d")
_VERBOSE: Final = re.compile(rb"[*<>{}] ?")  # how curl -v marks lines that are not of the body
_FIRST_ANSWER: Final = 200  # the first HTTP status of a final response
_PROMPTS: Final = (b"$ ", b"% ")


def may_be_http(head: bytes) -> bool:
    """Return whether a line may be the first of printed HTTP, or of curl's log of a connection."""
    return bool(_STATUS.match(head) or _REQUEST.match(head) or head.startswith((b"* ", b"> ", b"< ", *_PROMPTS)))


def is_http(lines: Iterable[bytes]) -> bool:
    """Return whether a response begins in these lines."""
    return any(_STATUS.match(line.removeprefix(b"< ")) for line in lines)


@attrs.define
class _PartialExchange:
    """The part of one exchange that has been read."""

    method: str = ""
    path: tuple[str, ...] = ()
    code: int | None = None
    line: int = 0
    body: list[bytes] = attrs.field(factory=list)
    size: int = 0

    def finish(self) -> Exchange | None:
        """Return the exchange; None if there was no response, or only a provisional one."""
        if self.code is None or self.code < _FIRST_ANSWER:
            return None
        body = b"\n".join(self.body).decode(errors="surrogateescape") if self.body else None
        return Exchange(Location(self.line), self.method, self.path, self.code, "", body)


def iter_exchanges_in_text(lines: Iterable[tuple[int, bytes]]) -> Iterator[Exchange]:
    """Yield the exchanges in printed HTTP. The location of each is the line on which its body begins."""
    found = _PartialExchange()
    in_headers = False
    for number, whole in lines:
        line = whole.rstrip(b"\r\n")
        verbose = _VERBOSE.match(line)
        bare = line[verbose.end() :] if verbose and line[:1] in b"*<>" else line
        request, status = _REQUEST.match(bare), _STATUS.match(bare)
        if request or status or line.startswith(_PROMPTS):
            if found.body or not status or found.code is not None:
                exchange = found.finish()
                if exchange is not None:
                    yield exchange
                kept = (found.method, found.path) if status and not found.body else ("", ())
                found = _PartialExchange(*kept)
            if request:
                found.method, found.path = request[1].decode(), split_path(request[2].decode(errors="replace"))
            found.code = int(status[1]) if status else None
            in_headers, found.line = True, number
        elif in_headers:
            in_headers = bool(bare.strip())
        elif found.code is not None and not (verbose and line[:1] in b"*<>"):
            _add(found, number, line)
    exchange = found.finish()
    if exchange is not None:
        yield exchange


def _add(found: _PartialExchange, number: int, line: bytes) -> None:
    """Add a line of the body, up to the bound of the reader."""
    if not found.body:
        if not line.strip() or line.startswith((b"{ [", b"} [")):  # blank, or how curl -v counts bytes
            return
        found.line = number
    if found.size <= MAX_BYTES:
        found.body.append(line)
        found.size += len(line) + 1
