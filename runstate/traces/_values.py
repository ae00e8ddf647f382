"""Runs in a JSON or YAML value: a recorder's file, a document of another tool, or runs themselves."""

from __future__ import annotations

from collections.abc import Iterator

from runstate.run.errors import FieldError
from runstate.traces._containers import is_without_entries, iter_exchanges
from runstate.traces._http_archives import iter_runs_in_exchanges
from runstate.traces._run_search import NO_RUN, iter_runs
from runstate.traces._snapshots import Candidate, Location, Skipped, Snapshot
from runstate.traces._unsupported import other_document

__all__ = ["iter_runs_in_value"]


def iter_runs_in_value(at: Location, value: object) -> Iterator[Candidate]:
    """Yield the runs in the value at a location, and what else is in it."""
    problem = other_document(value)
    if problem is not None:
        yield Snapshot(at, None, None, (FieldError("", problem),))
        return
    exchanges = iter_exchanges(at, value)
    if not is_without_entries(value):
        yield from iter_runs(at, None, value) if exchanges is None else iter_runs_in_exchanges(exchanges)
        return
    # Another document may have an empty list of that name, and a run elsewhere.
    found = list(iter_runs(at, None, value)) if exchanges is None else []
    if all(isinstance(one, Skipped) and one.text == NO_RUN for one in found):
        found = [Skipped(at, NO_RUN, errors=(FieldError("", NO_RUN),))]
    yield from found
