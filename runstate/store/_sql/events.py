"""The statements about the events of handlers."""

from __future__ import annotations

from functools import cached_property
from typing import Final

from runstate.store._sql.columns import POSITION_COLUMNS, Column, columns
from runstate.store._sql.literals import ENDED
from runstate.store._sql.steps import Steps

__all__ = ["EVENT_COLUMNS", "Events"]

EVENT_COLUMNS: Final[tuple[Column, ...]] = columns(
    *("seq:bigint", "version:bigint", "attempt:bigint", "worker:bigint", "number:bigint", "count:bigint", "data")
)
"""A row of events, with the claim under which it is written."""
_ENDED: Final = f"r.status IN ({ENDED})"


class Events(Steps):
    """Add, read and prune events."""

    @cached_property
    def save_events(self) -> str:
        """Add rows of events of runs that a worker holds. Returns run, number and attempt of those that were added."""
        # Until events are committed no sweep closes the lease, or another worker would count from an older number; and
        # the run does not end, or its readers would leave too early.
        return (
            f"WITH {self.table(EVENT_COLUMNS)}"
            " INSERT INTO runstate_event (run, number, count, version, attempt, data, at_us)"
            f" SELECT r.seq, v.number, v.count, v.version, v.attempt, {self.dialect.as_json('v.data')}, t.now"
            " FROM t, v JOIN runstate_run AS r ON r.seq = v.seq"
            " JOIN runstate_worker_session AS w ON w.token = r.worker"
            f" WHERE r.worker = v.worker AND {self.same_claim('v.version', 'v.attempt')}"
            f" AND w.closed = 0 AND w.lease_until_us > (SELECT now FROM t){self.dialect.hold_run_and_lease}"
            " ON CONFLICT (run, number) DO NOTHING RETURNING run, number, attempt"
        )

    @cached_property
    def event_row(self) -> str:
        """The attempt and the data of a row of events."""
        return (
            f"SELECT e.attempt, {self.dialect.as_text('e.data')} FROM runstate_event AS e"
            f" WHERE e.run = {self.param('run')} AND e.number = {self.param('number')}"
        )

    @cached_property
    def last_event(self) -> str:
        """The number of the last event of a run; no row if there is none."""
        return (
            f"SELECT e.number + e.count - 1 FROM runstate_event AS e WHERE e.run = {self.param('run')}"
            " ORDER BY e.number DESC LIMIT 1"
        )

    @cached_property
    def events_after(self) -> str:
        """Up to `limit` rows of events with an event after a number, in order: number, attempt, data, time."""
        first = f"SELECT max(b.number) FROM runstate_event AS b WHERE b.run = {self.param('run')}"
        return (
            f"SELECT e.number, e.attempt, {self.dialect.as_text('e.data')}, e.at_us FROM runstate_event AS e"
            f" WHERE e.run = {self.param('run')}"
            f" AND e.number >= coalesce(({first} AND b.number <= {self.param('after')} + 1), 0)"
            f" ORDER BY e.number LIMIT {self.param('limit')}"
        )

    @cached_property
    def new_events(self) -> str:
        """The rows of events of several runs, each after a number at which one ended: run and as `events_after`."""
        return (
            f"WITH {self.table(POSITION_COLUMNS)} SELECT e.run, e.number, e.attempt, {self.dialect.as_text('e.data')},"
            " e.at_us FROM v JOIN runstate_event AS e ON e.run = v.seq AND e.number > v.after"
            f" ORDER BY e.run, e.number LIMIT {self.param('limit')}"
        )

    @cached_property
    def live_runs(self) -> str:
        """Those of several runs that have not ended."""
        return (
            f"WITH {self.table(POSITION_COLUMNS)} SELECT r.seq FROM v JOIN runstate_run AS r ON r.seq = v.seq"
            f" WHERE v.after >= 0 AND NOT {_ENDED}"
        )

    @cached_property
    def prunable_events(self) -> str:
        """How many runs with events ended longer ago than `age` microseconds."""
        return (
            f"SELECT count(*) FROM runstate_run AS r WHERE {_ENDED}"
            f" AND r.changed_at_us < {self.now} - {self.param('age')}"
            " AND EXISTS (SELECT 1 FROM runstate_event AS e WHERE e.run = r.seq)"
        )

    @cached_property
    def prune_events(self) -> str:
        """Delete the events of up to `limit` runs that ended longer ago than `age` microseconds."""
        # From one run with events to the next by the key: most ended runs have none, and most events are young.
        following = "SELECT min(e.run) FROM runstate_event AS e WHERE e.run > found.run"
        some = (
            "SELECT r.seq FROM found JOIN runstate_run AS r ON r.seq = found.run"
            f" WHERE {_ENDED} AND r.changed_at_us < (SELECT now FROM t) - {self.param('age')}"
            f" LIMIT {self.param('limit')}"
        )
        return (
            f"WITH RECURSIVE t AS (SELECT {self.now} AS now),"
            " found(run) AS (SELECT min(run) FROM runstate_event"
            f" UNION ALL SELECT ({following}) FROM found WHERE found.run IS NOT NULL)"
            f" DELETE FROM runstate_event WHERE run {self.dialect.among(some, 'r')} RETURNING run"
        )
