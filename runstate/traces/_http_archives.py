"""Runs in recorded HTTP: the answers of a recorder's file to snapshots.

What is recorded there is mostly other traffic, so only what says that it is a run is one; everything else is passed
over and counted. What cannot be read is told if it may have held a run: by its path, or by what it says.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Final, cast

import attrs

from runstate.run import json_text
from runstate.run.errors import RunDecodeError
from runstate.traces._answers import Exchange
from runstate.traces._bodies import Decompressor
from runstate.traces._events import FIELDS_OF_SSE, iter_sse
from runstate.traces._finding import NO_RUN, is_run, iter_runs, iter_runs_in_event
from runstate.traces._snapshots import Candidate, Skipped, Snapshot

__all__ = ["iter_runs_in_exchanges"]

_FIRST_ERROR: Final = 400  # of the HTTP statuses that say no
_NO_CONTENT: Final = 204
_REFUSED: Final = "an HTTP error"
_NOT_RECORDED: Final = "an answer about runs whose body was not recorded"
_NEITHER: Final = "an answer about runs whose body is neither JSON nor server-sent events"
_NO_NAME: Final = "an object with an id and a status that does not say that it is a run"


def iter_runs_in_exchanges(answers: Iterable[Exchange]) -> Iterator[Candidate]:
    """Yield the runs in recorded answers, and what the other answers are."""
    unpacking = Decompressor()
    for answer in answers:
        if answer.code >= _FIRST_ERROR:
            yield Skipped(answer.at, _REFUSED)
        elif answer.body is None:
            yield _without_body(answer)
        elif _is_json(answer.body):
            yield from _named(answer, iter_runs(answer.at, None, answer.body))
        else:
            yield from _in_packed(answer, unpacking)


def _is_json(body: object) -> bool:
    if isinstance(body, list):
        members = cast("list[object]", body)
        return not members or not all(isinstance(member, str) for member in members)
    return not isinstance(body, str)


def _without_body(answer: Exchange) -> Candidate:
    if not answer.is_about_runs or answer.code == _NO_CONTENT:
        return Skipped(answer.at, NO_RUN)
    where = f": it is {answer.elsewhere}" if answer.elsewhere else ""
    return Skipped(answer.at, f"{_NOT_RECORDED}{where}", "not judged")


def _in_packed(answer: Exchange, unpacking: Decompressor) -> Iterator[Candidate]:
    try:
        body = unpacking.bytes_of(answer.body, answer.encoding).removeprefix(b"\xef\xbb\xbf")
    except RunDecodeError as error:
        told = answer.may_hold_run()
        yield Snapshot(answer.at, None, None, error.errors) if told else Skipped(answer.at, NO_RUN)
        return
    yield from _in_body(answer, body) if answer.may_hold_run(body) else [Skipped(answer.at, NO_RUN)]


def _in_body(answer: Exchange, body: bytes) -> Iterator[Candidate]:
    """Yield the runs in a body, whose form is known by how it begins."""
    head = body.lstrip()
    if head.startswith((b"{", b"[", b'"')):
        yield from _named(answer, _in_json(answer, body))
    elif head.startswith(FIELDS_OF_SSE):
        for line, event, data in iter_sse(enumerate(io.BytesIO(body), start=answer.at.line or 1)):
            yield from _named(answer, iter_runs_in_event(attrs.evolve(answer.at, line=line), event, data))
    elif head and answer.is_about_runs:
        yield Skipped(answer.at, _NEITHER, "not judged")
    else:
        yield Skipped(answer.at, NO_RUN)


def _in_json(answer: Exchange, text: bytes) -> Iterator[Candidate]:
    try:
        values = list(json_text.parse_many(text, first_line=answer.at.line or 1))
    except RunDecodeError as error:
        yield Snapshot(answer.at, None, None, error.errors)
        return
    for number, (line, value) in enumerate(values):
        yield from iter_runs(answer.at if number == 0 else attrs.evolve(answer.at, line=line), None, value)


def _named(answer: Exchange, found: Iterable[Candidate]) -> Iterator[Candidate]:
    """Yield what says that it is a run; that it looks like one is not enough in recorded HTTP."""
    for sighting in found:
        if isinstance(sighting, Skipped):
            yield attrs.evolve(sighting, faults=())
        elif sighting.record is not None and not is_run(sighting.record):
            yield Skipped(sighting.at, _NO_NAME, "not judged")
        else:
            yield attrs.evolve(sighting, asked=answer.requested)
