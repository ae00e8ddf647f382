"""A JSON or YAML value of any kind to sightings: a recorder's file, another tool's document, or runs as they are."""

from __future__ import annotations

from collections.abc import Iterator

from runstate.run.errors import FieldError
from runstate.traces._containers import is_without_entries, iter_exchanges
from runstate.traces._finding import NO_RUN, iter_runs
from runstate.traces._http_archives import iter_runs_in_exchanges
from runstate.traces._refusals import in_document
from runstate.traces._snapshots import Candidate, Location, Skipped, Snapshot

__all__ = ["in_value"]


def in_value(at: Location, value: object) -> Iterator[Candidate]:
    """Yield the runs in a value that stands at a place, and what else is in it."""
    said = in_document(value)
    if said is not None:
        yield Snapshot(at, None, None, (FieldError("", said),))
        return
    answers = iter_exchanges(at, value)
    if not is_without_entries(value):
        yield from iter_runs(at, None, value) if answers is None else iter_runs_in_exchanges(answers)
        return
    # Another document may have an empty list of that name, and a run elsewhere.
    found = list(iter_runs(at, None, value)) if answers is None else []
    if all(isinstance(one, Skipped) and one.text == NO_RUN for one in found):
        found = [Skipped(at, NO_RUN, faults=(FieldError("", NO_RUN),))]
    yield from found
