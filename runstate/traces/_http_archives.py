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
from runstate.traces._answers import Answer
from runstate.traces._bodies import Unpacking
from runstate.traces._events import FIELDS_OF_SSE, events_in
from runstate.traces._finding import NO_RUN, is_run, runs_in, runs_in_event
from runstate.traces._snapshots import Passed, Sighting, Snapshot

__all__ = ["runs_of"]

_FIRST_ERROR: Final = 400  # of the HTTP statuses that say no
_NO_CONTENT: Final = 204
_REFUSED: Final = "an HTTP error"
_NOT_RECORDED: Final = "an answer about runs whose body was not recorded"
_NEITHER: Final = "an answer about runs whose body is neither JSON nor server-sent events"
_NO_NAME: Final = "an object with an id and a status that does not say that it is a run"


def runs_of(answers: Iterable[Answer]) -> Iterator[Sighting]:
    """Yield the runs in recorded answers, and what the other answers are."""
    unpacking = Unpacking()
    for answer in answers:
        if answer.code >= _FIRST_ERROR:
            yield Passed(answer.at, _REFUSED)
        elif answer.body is None:
            yield _without_body(answer)
        elif _is_json(answer.body):
            yield from _named(answer, runs_in(answer.at, None, answer.body))
        else:
            yield from _in_packed(answer, unpacking)


def _is_json(body: object) -> bool:
    if isinstance(body, list):
        members = cast("list[object]", body)
        return not members or not all(isinstance(member, str) for member in members)
    return not isinstance(body, str)


def _without_body(answer: Answer) -> Sighting:
    if not answer.is_about_runs or answer.code == _NO_CONTENT:
        return Passed(answer.at, NO_RUN)
    where = f": it is {answer.elsewhere}" if answer.elsewhere else ""
    return Passed(answer.at, f"{_NOT_RECORDED}{where}", "not judged")


def _in_packed(answer: Answer, unpacking: Unpacking) -> Iterator[Sighting]:
    try:
        body = unpacking.bytes_of(answer.body, answer.encoding).removeprefix(b"\xef\xbb\xbf")
    except RunDecodeError as error:
        told = answer.may_hold_run()
        yield Snapshot(answer.at, None, None, error.faults) if told else Passed(answer.at, NO_RUN)
        return
    yield from _in_body(answer, body) if answer.may_hold_run(body) else [Passed(answer.at, NO_RUN)]


def _in_body(answer: Answer, body: bytes) -> Iterator[Sighting]:
    """Yield the runs in a body, whose form is known by how it begins."""
    head = body.lstrip()
    if head.startswith((b"{", b"[", b'"')):
        yield from _named(answer, _in_json(answer, body))
    elif head.startswith(FIELDS_OF_SSE):
        for line, event, data in events_in(enumerate(io.BytesIO(body), start=answer.at.line or 1)):
            yield from _named(answer, runs_in_event(attrs.evolve(answer.at, line=line), event, data))
    elif head and answer.is_about_runs:
        yield Passed(answer.at, _NEITHER, "not judged")
    else:
        yield Passed(answer.at, NO_RUN)


def _in_json(answer: Answer, text: bytes) -> Iterator[Sighting]:
    try:
        values = list(json_text.parse_many(text, first_line=answer.at.line or 1))
    except RunDecodeError as error:
        yield Snapshot(answer.at, None, None, error.faults)
        return
    for number, (line, value) in enumerate(values):
        yield from runs_in(answer.at if number == 0 else attrs.evolve(answer.at, line=line), None, value)


def _named(answer: Answer, found: Iterable[Sighting]) -> Iterator[Sighting]:
    """Yield what says that it is a run; that it looks like one is not enough in recorded HTTP."""
    for sighting in found:
        if isinstance(sighting, Passed):
            yield attrs.evolve(sighting, faults=())
        elif sighting.record is not None and not is_run(sighting.record):
            yield Passed(sighting.at, _NO_NAME, "not judged")
        else:
            yield attrs.evolve(sighting, asked=answer.asked)
