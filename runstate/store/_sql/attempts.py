"""The statements about attempts that ended without an outcome, and about the runs that wait for their retry."""

from __future__ import annotations

from functools import cached_property

from runstate.store._sql.queues import Queues
from runstate.store._sql.small_tables import STARTED, waits_for_retry

__all__ = ["ATTEMPT_COLUMNS", "Attempts"]

ATTEMPT_COLUMNS = ("number", "attempt", "ended_at_us", "result", "actor", "error", "next_at_us")


class Attempts(Queues):
    """Let runs wait for a retry, and record the attempts that ended without an outcome."""

    @cached_property
    def wait_for_retry(self) -> str:
        """Let a run that a worker holds wait for a retry; gives back the time of the retry in microseconds.

        Gives back nothing for a run that the worker does not hold, that is to be cancelled, or whose retry would come
        after its deadline.
        """
        own = self.dialect.returned
        due = f"{self.dialect.greatest}(t.now + {self.param('after')}, r.changed_at_us + 1)"
        return (
            f"WITH t AS (SELECT {self.now} AS now) UPDATE runstate_run AS r SET worker = NULL,"
            f" failed = r.failed + {self.param('failures')}, claimable_at_us = {due} FROM t"
            f" WHERE r.seq = {self.param('seq')} AND r.worker {self.dialect.null_safe_eq} {self.param('worker')}"
            f" AND {self.same_claim(self.param('version'), self.param('attempt'))} AND r.status = '{STARTED}'"
            f" AND {due} < r.expires_at * 1000000 AND {self.leased()} RETURNING {own}.claimable_at_us"
        )

    @cached_property
    def add_attempt(self) -> str:
        """Record an attempt that ended without an outcome."""
        last = f"SELECT max(number) FROM runstate_attempt WHERE run = {self.param('seq')}"
        return (
            f"INSERT INTO runstate_attempt (run, {', '.join(ATTEMPT_COLUMNS)}) SELECT {self.param('seq')},"
            f" coalesce(({last}), 0) + 1, {self.param('attempt')}, coalesce({self.param('ended_at')}, {self.now}),"
            f" {self.param('result', 'text')},"
            f" {self.param('actor', 'text')}, {self.dialect.as_json(self.param('error', 'text'))},"
            f" {self.param('next_at')}"
        )

    @cached_property
    def attempts(self) -> str:
        """The attempts of a run that ended without an outcome."""
        names = ", ".join(
            self.dialect.as_text(f"a.{name}") if name == "error" else f"a.{name}" for name in ATTEMPT_COLUMNS
        )
        return f"SELECT {names} FROM runstate_attempt AS a WHERE a.run = {self.param('run')} ORDER BY a.number"

    @cached_property
    def was_retried(self) -> str:
        """Whether an attempt of a run, which was started at a time, ended with a retry.

        Attempts are counted anew after a tool round, so their number alone does not tell them apart.
        """
        return (
            f"SELECT 1 FROM runstate_attempt WHERE run = {self.param('run')} AND attempt = {self.param('attempt')}"
            f" AND result = 'retry' AND ended_at_us >= {self.param('since')}"
        )

    @cached_property
    def holders(self) -> str:
        """The names of the workers whose leases ended while they held runs, by seq."""
        return (
            f"SELECT h.{self.dialect.lookups.holder_seq}, w.name FROM {self.dialect.lookups.holders} AS h"
            " JOIN runstate_worker_session AS w ON w.token = h.worker WHERE w.closed = 1 AND w.token <> 0"
        )

    def _next_queued(self, limit: str) -> str:
        """Return the query of the first `limit` runs of a queue that a claim may find, apart from a pause."""
        besides = f"{self.picked(self.dialect.lookups.claimable_seq)} AND {self.in_time('(SELECT now FROM t)', '')}"
        return self.dialect.lookups.next_queued(self.param("queue", "text"), besides, limit)

    @cached_property
    def next_claimable(self) -> str:
        """Whether a queue has a run that can be claimed."""
        found = (
            f"SELECT 1 FROM ({self._next_queued('1')}) AS q WHERE true{self.not_paused(self.param('queue', 'text'))}"
        )
        return f"WITH t AS (SELECT {self.now} AS now) {found}"

    def _next_retries(self) -> str:
        """Return the query of the due retries of a queue that come before its queued runs, as far as `limit`.

        One order for both: by priority, then oldest first.
        """
        now, limit, queue = "(SELECT now FROM t)", self.param("limit"), self.param("queue", "text")
        lookups = self.dialect.lookups
        order = f"ORDER BY priority DESC, seq LIMIT {limit}"
        of_queue = lookups.due_retries(now, f" AND queue = {queue}")
        due = f"SELECT seq, priority, 1 AS again FROM ({of_queue}) AS due {order}"
        queued = f"SELECT seq, priority, 0 AS again FROM ({self._next_queued(limit)}) AS queued"
        both = f"SELECT * FROM ({due}) AS first UNION ALL SELECT * FROM ({queued}) AS others"
        return f"SELECT seq FROM (SELECT seq, again FROM ({both}) AS b {order}) AS picked WHERE again = 1"

    def _due_retries(self) -> str:
        waits = waits_for_retry("q.")
        return (
            f"FROM runstate_run AS q WHERE {waits} AND q.claimable_at_us <= (SELECT now FROM t)"
            f" AND q.seq {self.dialect.among(self._next_retries())}"
            f"{self.picked('q.seq')}{self.not_paused(self.param('queue', 'text'))}"
        )

    @cached_property
    def claim_retries(self) -> str:
        """Give up to `limit` runs of a queue whose retry is due to a worker; their status stays."""
        some = f"SELECT q.seq {self._due_retries()} LIMIT {self.param('limit')}"
        return self._claiming_retry(f"r.seq {self.dialect.among(some, skip_locked='q')}")

    @cached_property
    def claim_retry(self) -> str:
        """Give one run to a worker, by its id, if its retry is due."""
        due = "r.claimable_at_us <= (SELECT now FROM t) AND r.expires_at > (SELECT now FROM t) / 1000000"
        return self._claiming_retry(f"r.id = {self.param('id', 'text')} AND {due}{self.not_paused('r.queue')}")

    def _claiming_retry(self, picked: str) -> str:
        waits = waits_for_retry("r.")
        return (
            f"WITH t AS (SELECT {self.now} AS now) UPDATE runstate_run AS r SET worker = {self.param('worker')},"
            f" attempt = r.attempt + 1 FROM t WHERE {picked} AND {waits} AND {self.leased()}"
            f" RETURNING {self.claimed(self.dialect.returned)}"
        )
