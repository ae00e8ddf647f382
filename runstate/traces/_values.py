"""A JSON or YAML value of any kind to sightings: a recorder's file, another tool's document, or runs as they are."""

from __future__ import annotations

from collections.abc import Iterator

from runstate.run.errors import Fault
from runstate.traces._containers import answers_in, is_without_entries
from runstate.traces._finding import NO_RUN, runs_in
from runstate.traces._http_archives import runs_of
from runstate.traces._refusals import in_document
from runstate.traces._snapshots import Passed, Place, Sighting, Snapshot

__all__ = ["in_value"]


def in_value(at: Place, value: object) -> Iterator[Sighting]:
    """Yield the runs in a value that stands at a place, and what else is in it."""
    said = in_document(value)
    if said is not None:
        yield Snapshot(at, None, None, (Fault("", said),))
        return
    answers = answers_in(at, value)
    if not is_without_entries(value):
        yield from runs_in(at, None, value) if answers is None else runs_of(answers)
        return
    # Another document may have an empty list of that name, and a run elsewhere.
    found = list(runs_in(at, None, value)) if answers is None else []
    if all(isinstance(one, Passed) and one.text == NO_RUN for one in found):
        found = [Passed(at, NO_RUN, faults=(Fault("", NO_RUN),))]
    yield from found
