"""Runs in recorded HTTP exchanges.

Most recorded exchanges are other traffic. So only objects with `object: thread.run` count as runs, and everything else
is passed over and counted. A body that cannot be read is reported if, by its path or text, it may contain a run.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Final, cast

import attrs

from runstate.run import json_text
from runstate.run.errors import RunDecodeError
from runstate.traces._bodies import Decompressor
from runstate.traces._exchanges import Exchange
from runstate.traces._run_search import NO_RUN, is_run, iter_runs, iter_runs_in_event
from runstate.traces._snapshots import Candidate, Skipped, Snapshot
from runstate.traces._sse import FIELDS_OF_SSE, iter_sse

__all__ = ["iter_runs_in_exchanges"]

_FIRST_ERROR: Final = 400  # the first HTTP status of an error
_NO_CONTENT: Final = 204
_REFUSED: Final = "an HTTP error"
_NOT_RECORDED: Final = "an answer about runs whose body was not recorded"
_NEITHER: Final = "an answer about runs whose body is neither JSON nor server-sent events"
_NO_NAME: Final = "an object with an id and a status that does not say that it is a run"


def iter_runs_in_exchanges(exchanges: Iterable[Exchange]) -> Iterator[Candidate]:
    """Yield the runs in recorded exchanges, and what the other exchanges are."""
    decompressor = Decompressor()
    for exchange in exchanges:
        if exchange.code >= _FIRST_ERROR:
            yield Skipped(exchange.at, _REFUSED)
        elif exchange.body is None:
            yield _without_body(exchange)
        elif _is_json(exchange.body):
            yield from _only_runs(exchange, iter_runs(exchange.at, None, exchange.body))
        else:
            yield from _iter_packed(exchange, decompressor)


def _is_json(body: object) -> bool:
    if isinstance(body, list):
        members = cast("list[object]", body)
        return not members or not all(isinstance(member, str) for member in members)
    return not isinstance(body, str)


def _without_body(exchange: Exchange) -> Candidate:
    if not exchange.is_about_runs or exchange.code == _NO_CONTENT:
        return Skipped(exchange.at, NO_RUN)
    where = f": it is {exchange.body_location}" if exchange.body_location else ""
    return Skipped(exchange.at, f"{_NOT_RECORDED}{where}", "not judged")


def _iter_packed(exchange: Exchange, decompressor: Decompressor) -> Iterator[Candidate]:
    try:
        body = decompressor.bytes_of(exchange.body, exchange.encoding).removeprefix(b"\xef\xbb\xbf")
    except RunDecodeError as error:
        may_hold_run = exchange.may_hold_run()
        yield Snapshot(exchange.at, None, None, error.errors) if may_hold_run else Skipped(exchange.at, NO_RUN)
        return
    yield from _iter_body(exchange, body) if exchange.may_hold_run(body) else [Skipped(exchange.at, NO_RUN)]


def _iter_body(exchange: Exchange, body: bytes) -> Iterator[Candidate]:
    """Yield the runs in a body, whose format is detected by its beginning."""
    head = body.lstrip()
    if head.startswith((b"{", b"[", b'"')):
        yield from _only_runs(exchange, _iter_json(exchange, body))
    elif head.startswith(FIELDS_OF_SSE):
        for line, event, data in iter_sse(enumerate(io.BytesIO(body), start=exchange.at.line or 1)):
            yield from _only_runs(exchange, iter_runs_in_event(attrs.evolve(exchange.at, line=line), event, data))
    elif head and exchange.is_about_runs:
        yield Skipped(exchange.at, _NEITHER, "not judged")
    else:
        yield Skipped(exchange.at, NO_RUN)


def _iter_json(exchange: Exchange, text: bytes) -> Iterator[Candidate]:
    try:
        values = list(json_text.parse_many(text, first_line=exchange.at.line or 1))
    except RunDecodeError as error:
        yield Snapshot(exchange.at, None, None, error.errors)
        return
    for number, (line, value) in enumerate(values):
        yield from iter_runs(exchange.at if number == 0 else attrs.evolve(exchange.at, line=line), None, value)


def _only_runs(exchange: Exchange, found: Iterable[Candidate]) -> Iterator[Candidate]:
    """Yield the objects with `object: thread.run`. In recorded HTTP, the keys of a run are not enough."""
    for candidate in found:
        if isinstance(candidate, Skipped):
            yield attrs.evolve(candidate, errors=())
        elif candidate.record is not None and not is_run(candidate.record):
            yield Skipped(candidate.at, _NO_NAME, "not judged")
        else:
            yield attrs.evolve(candidate, requested=exchange.requested)
