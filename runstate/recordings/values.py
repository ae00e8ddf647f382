"""A JSON or YAML value of any kind to sightings: a recorder's file, another tool's document, or runs as they are."""

from __future__ import annotations

from collections.abc import Iterator

from runstate.errors import Fault
from runstate.recordings.cassettes import runs_of
from runstate.recordings.containers import answers_in
from runstate.recordings.finding import runs_in
from runstate.recordings.refusals import in_document
from runstate.recordings.sightings import Place, Sighting, Snapshot

__all__ = ["in_value"]


def in_value(at: Place, value: object) -> Iterator[Sighting]:
    """Yield the runs in a value that stands at a place, and what else is in it."""
    said = in_document(value)
    if said is not None:
        yield Snapshot(at, None, None, (Fault("", said),))
        return
    answers = answers_in(at, value)
    yield from runs_in(at, None, value) if answers is None else runs_of(answers)
