"""The statements of a list of runs: its conditions, and the rows that it reads.

A list is in the order of `seq`. Without a source, it walks the runs in this order until the page is full, which is fast
if many runs match. A source is a small set that has all runs that match, and maybe others: the statement reads it, and
tests each of its runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import floor
from typing import Any, Final

import attrs

from runstate.lifecycle import RunStatus
from runstate.store._sql.literals import ENDED
from runstate.store._sql.lookups import Source, Wanted
from runstate.store._sql.queries import Queries

__all__ = ["RunFilter", "Span", "list_statement", "sources", "walk_statement"]

WALKED: Final = 1000
"""The runs that are walked before a source in another order is read."""
_SECOND_US: Final = 1_000_000
_LATE_US: Final = 2**62


@attrs.frozen(kw_only=True)
class RunFilter:
    """The conditions of a list, all of which must hold; None for no condition."""

    thread_id: str | None = None
    statuses: frozenset[RunStatus] | None = None
    queue: str | None = None
    metadata: Mapping[str, str] | None = None
    older_than_s: float | None = None
    younger_than_s: float | None = None
    changed_within_s: float | None = None
    unchanged_for_s: float | None = None
    ended_within_s: float | None = None
    attempts_above: int | None = None
    past_deadline: bool = False

    @property
    def needs_time(self) -> bool:
        """Whether a condition depends on the time."""
        ages = (self.older_than_s, self.younger_than_s, self.changed_within_s, self.unchanged_for_s)
        return self.past_deadline or any(age is not None for age in (*ages, self.ended_within_s))

    def params(self, now_us: int) -> dict[str, Any]:
        """Return the values of the conditions. Times are computed here: a function in SQL would hide an index."""
        now_s = now_us // _SECOND_US
        times = {
            "older": (self.older_than_s, now_s, 1),
            "younger": (self.younger_than_s, now_s, 1),
            "changed": (self.changed_within_s, now_us, _SECOND_US),
            "unchanged": (self.unchanged_for_s, now_us, _SECOND_US),
            "ended": (self.ended_within_s, now_us, _SECOND_US),
        }
        statuses = sorted(self.statuses or ())
        given = {
            "thread_id": self.thread_id,
            "queue": self.queue,
            "attempts": self.attempts_above,
            "deadline": now_s if self.past_deadline else None,
            **{name: floor(now - age * unit) for name, (age, now, unit) in times.items() if age is not None},
            **{f"status{place}": str(status) for place, status in enumerate(statuses)},
        }
        for place, (key, value) in enumerate((self.metadata or {}).items()):
            given |= {f"key{place}": key, f"value{place}": value}
        return {name: value for name, value in given.items() if value is not None}


@attrs.frozen
class Span:
    """The part of the order that is read: runs beyond `after` and before `before`, if they are given."""

    falls: bool
    after: str
    """The comparison with `after`, or empty."""
    before: str

    def conditions(self, queries: Queries, key: str) -> list[str]:
        """Return the conditions on the column that the runs are ordered by."""
        ends = (("after", self.after), ("before", self.before))
        return [f"{key} {sign} {queries.param(name)}" for name, sign in ends if sign]

    def order(self, key: str) -> str:
        """Return the ORDER BY."""
        return f"ORDER BY {key} {'DESC' if self.falls else 'ASC'}"


def _conditions(queries: Queries, wanted: RunFilter, *, has_statuses: bool = False) -> list[str]:
    """Return the conditions on the run `r`, without that on its status if it has the right one."""
    named = wanted.params(0)
    # The index of a thread, or of a source, has fewer runs than that of a queue.
    queue = "r.queue" if wanted == RunFilter(queue=wanted.queue) else queries.dialect.unindexed("r.queue")
    tests = {
        "thread_id": ("r.thread_id = {}", "text"),
        "queue": (f"{queue} = {{}}", "text"),
        "older": ("r.created_at <= {}", "bigint"),
        "younger": ("r.created_at > {}", "bigint"),
        "changed": ("r.changed_at_us > {}", "bigint"),
        "unchanged": ("r.changed_at_us <= {}", "bigint"),
        "ended": (f"r.status IN ({ENDED}) AND r.changed_at_us > {{}}", "bigint"),
        "attempts": ("r.attempt > {}", "bigint"),
        "deadline": ("r.expires_at <= {}", "bigint"),
    }
    where = [test.format(queries.param(name, kind)) for name, (test, kind) in tests.items() if name in named]
    if wanted.statuses is not None and not has_statuses:
        names = [queries.param(name, "text") for name in named if name.startswith("status")]
        where.append(f"r.status IN ({', '.join(names) or 'NULL'})")
    where += [queries.has_metadata(f"key{place}", f"value{place}") for place in range(len(wanted.metadata or {}))]
    return where


def sources(queries: Queries, wanted: RunFilter) -> tuple[Source, ...] | None:
    """Return what has all runs that match; None if the runs themselves are walked."""
    if wanted.thread_id is not None or wanted.statuses == frozenset():
        return None  # the runs of a thread have an index
    named = wanted.params(_LATE_US)  # which of them are given, and are not 0
    places = {
        name: queries.param(name, "text" if name == "queue" else "bigint")
        for name in ("queue", "younger", "changed", "ended", "attempts", "deadline")
        if named.get(name)
    }
    return queries.dialect.lookups.sources(Wanted(wanted.statuses or frozenset(RunStatus), **places))


def walk_statement(queries: Queries, wanted: RunFilter, span: Span, *, most: bool = False) -> str:
    """Return the statement that walks the runs in their order; with `most`, only the first thousand."""
    conditions = _conditions(queries, wanted)
    rows = "runstate_run AS r"
    if most:
        where = _where(span.conditions(queries, "seq"))
        rows = f"(SELECT * FROM runstate_run{where} {span.order('seq')} LIMIT {WALKED}) AS r"
    else:
        conditions += span.conditions(queries, "r.seq")
    return (
        f"SELECT {queries.columns} FROM {rows}{_where(conditions)} {span.order('r.seq')} LIMIT {queries.param('limit')}"
    )


def list_statement(queries: Queries, wanted: RunFilter, span: Span, found: tuple[Source, ...]) -> str:
    """Return the statement that reads sources. Each source gives up to a page of numbers, in their order."""
    limit = queries.param("limit")

    def conditions(source: Source) -> list[str]:
        of_run = _conditions(queries, wanted, has_statuses=source.has_statuses)
        return [*source.where, *of_run, *span.conditions(queries, source.key)]

    pages = [
        f"SELECT seq FROM (SELECT r.seq FROM {source.rows}{_where(conditions(source))}"
        f" {span.order(source.key)} LIMIT {limit}) AS s{place}"
        for place, source in enumerate(found)
    ]
    some = " UNION ALL ".join(pages) or "SELECT seq FROM runstate_run WHERE false"
    return (
        f"SELECT {queries.columns} FROM runstate_run AS r WHERE r.seq {queries.dialect.among(some)}"
        f" {span.order('r.seq')} LIMIT {limit}"
    )


def _where(conditions: list[str]) -> str:
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""
