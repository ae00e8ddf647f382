"""What both dialects' statements are made of, and those that only read."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from functools import cached_property
from typing import Final

import attrs

from runstate.lifecycle import RUN_LIFECYCLE, RunEvent
from runstate.store._sql.columns import CLAIMED_COLUMNS, POSITION_COLUMNS, RUN_COLUMNS, Column
from runstate.store._sql.dialect import Dialect
from runstate.store._sql.small_tables import unpaused

__all__ = ["CLOSED_SESSIONS", "Picks", "Queries"]

CLOSED_SESSIONS: Final = "SELECT token FROM runstate_worker_session WHERE closed = 1"

_COMPUTED: Final = {"claimable": "claimable_at_us IS NOT NULL"}
"""What a column of a row is in the table, where it is called otherwise there."""
_JSON: Final = frozenset({"required_action", "last_error", "incomplete_details", "usage"})


class Picks(Enum):
    """The runs that statements which find their runs themselves may find: those of claims and of sweeps."""

    ALL = "all"
    UNSKIPPED = "all but those in the JSON list `skipped`"
    ONE = "the run whose seq is `only`"


@attrs.frozen(slots=False)
class Queries:
    """The statements of one dialect that read. Each takes its parameters by name, and `now` (microseconds, or null)."""

    dialect: Dialect
    picks: Picks = Picks.ALL

    # --- what they are made of ------------------------------------------------------------------------------------

    @property
    def now(self) -> str:
        """The moment: the one handed in, else PostgreSQL's own."""
        return self.dialect.now

    def param(self, name: str, kind: str = "bigint") -> str:
        """Return the place where a parameter goes."""
        return self.dialect.param(name, kind)

    def picked(self, seq: str) -> str:
        """Return the condition, after an AND, on the seq of a run that a claim or a sweep may find."""
        match self.picks:
            case Picks.ALL:
                return ""
            case Picks.UNSKIPPED:
                return f" AND {seq} NOT IN ({self.dialect.listed(self.param('skipped', 'text'))})"
            case Picks.ONE:
                return f" AND {seq} = {self.param('only')}"

    @staticmethod
    def in_time(now: str, row: str = "r.") -> str:
        """Return the condition that the deadline of a row has not come at a moment. At its very second it has."""
        return f"{row}expires_at > {now} / 1000000"

    @property
    def moment_of_move(self) -> str:
        """When a move of `r` is made: the time in a history never goes back, though the clock may."""
        return f"{self.dialect.greatest}(r.changed_at_us, t.now)"

    def table(self, columns: Sequence[Column]) -> str:
        """Return the CTEs `t(now)`, the moment, and `v`, the values handed in, in order."""
        return f"t AS (SELECT {self.now} AS now), {self.dialect.rows(columns)}"

    @property
    def checkpointed_usage(self) -> str:
        """The usage that a worker checkpointed, for ends by those who do not know what a run used."""
        usage = "'prompt_tokens', {p}, 'completion_tokens', {c}, 'total_tokens', {p} + {c}"
        build = self.dialect.json_object
        some = usage.format(p="n.prompt_tokens", c="n.completion_tokens")
        return (
            f"coalesce((SELECT {build}({some}) FROM runstate_checkpoint AS n WHERE n.run = r.seq),"
            f" {build}({usage.format(p=0, c=0)}))"
        )

    def selected(self, columns: Sequence[str], table: str) -> str:
        """Return what is selected for the columns of a run, from the run table or what has the same columns."""

        def expression(name: str) -> str:
            if name == "config":
                own = self.dialect.indexed(f"{table}.id")
                return f"(SELECT {self.dialect.as_text(name)} FROM runstate_run_config AS s WHERE s.id = {own})"
            column = f"{table}.{_COMPUTED.get(name, name)}"
            return self.dialect.as_text(column) if name in _JSON else column

        return ", ".join(map(expression, columns))

    # --- reading --------------------------------------------------------------------------------------------------

    @cached_property
    def columns(self) -> str:
        """What `rows.decode_run` reads, of the table `r`."""
        return self.selected(RUN_COLUMNS, "r")

    @cached_property
    def moment(self) -> str:
        """The time, by the clock that judges leases."""
        return f"SELECT {self.now}"

    @cached_property
    def by_id(self) -> str:
        """A run, by its id."""
        return f"SELECT {self.columns} FROM runstate_run AS r WHERE r.id = {self.param('id', 'text')}"

    @cached_property
    def ids_between(self) -> str:
        """Up to `limit` ids of runs from one up to another, which is left out."""
        low, high = self.param("low", "text"), self.param("high", "text")
        between = f"r.id >= {low} AND r.id < {high}"
        return f"SELECT r.id FROM runstate_run AS r WHERE {between} ORDER BY r.id LIMIT {self.param('limit')}"

    @cached_property
    def is_late(self) -> str:
        """Whether the deadline of a live run has come, by its id."""
        return (
            f"WITH t AS (SELECT {self.now} AS now) SELECT NOT {self.in_time(self.moment_of_move)}"
            f" FROM runstate_run AS r, t WHERE r.id = {self.param('id', 'text')}"
        )

    @cached_property
    def by_seq(self) -> str:
        """A run, by its number."""
        return f"SELECT {self.columns} FROM runstate_run AS r WHERE r.seq = {self.param('seq')}"

    @cached_property
    def by_key(self) -> str:
        """A run, by the idempotency key it was created with."""
        return f"SELECT {self.columns} FROM runstate_run AS r WHERE r.idempotency_key = {self.param('key', 'text')}"

    @cached_property
    def trace_contexts(self) -> str:
        """The trace contexts of a run: that of who created it, and that of the last call of its handler."""
        return (
            f"SELECT (SELECT s.trace_context FROM runstate_run_config AS s WHERE s.id = {self.param('id', 'text')}),"
            f" (SELECT n.trace_context FROM runstate_checkpoint AS n WHERE n.run = {self.param('run')})"
        )

    @cached_property
    def thread_policy(self) -> str:
        """Whether a run is the only live one of its thread, as it was created."""
        return f"SELECT r.thread_policy FROM runstate_run AS r WHERE r.seq = {self.param('run')}"

    @cached_property
    def blocking_run(self) -> str:
        """The id of the run that makes a thread busy."""
        return self.dialect.lookups.busy(self.param("thread", "text"))

    @cached_property
    def waits_behind(self) -> str:
        """The id of the run that another of its thread waits behind."""
        busy = self.dialect.lookups.busy("r.thread_id")
        return (
            f"SELECT b.id FROM (SELECT ({busy} AND h.seq <> r.seq) AS id FROM runstate_run AS r"
            f" WHERE r.seq = {self.param('run')} AND r.thread_policy = 'queue') AS b WHERE b.id IS NOT NULL"
        )

    @cached_property
    def latest(self) -> str:
        """Version, actor and detail of the latest entry of an event in a run's history."""
        return (
            f"SELECT h.version, h.actor, {self.dialect.as_text('h.detail')} FROM runstate_history AS h"
            f" WHERE h.run = {self.param('run')} AND h.event = {self.param('event', 'text')}"
            " ORDER BY h.version DESC LIMIT 1"
        )

    @cached_property
    def submitted(self) -> str:
        """The detail of an entry, if it submitted tool outputs."""
        return (
            f"SELECT {self.dialect.as_text('h.detail')} FROM runstate_history AS h WHERE h.run = {self.param('run')}"
            f" AND h.version = {self.param('version')} AND h.event = 'submit_tool_outputs'"
        )

    @cached_property
    def entries_after(self) -> str:
        """Event and actor of the entries of a run after a version, and from before the end of a worker's lease."""
        return (
            f"SELECT h.event, h.actor FROM runstate_history AS h WHERE h.run = {self.param('run')}"
            f" AND h.version > {self.param('version')} AND h.at_us < (SELECT w.lease_until_us"
            f" FROM runstate_worker_session AS w WHERE w.token = {self.param('worker')}) ORDER BY h.version"
        )

    @cached_property
    def notes(self) -> str:
        """What a run's workers noted: checkpoint, prompt tokens, completion tokens."""
        return (
            f"SELECT {self.dialect.as_text('n.checkpoint')}, n.prompt_tokens, n.completion_tokens"
            f" FROM runstate_checkpoint AS n WHERE n.run = {self.param('run')}"
        )

    @cached_property
    def progress(self) -> str:
        """What a run's worker said last of how far it is."""
        return f"SELECT n.progress FROM runstate_checkpoint AS n WHERE n.run = {self.param('run')}"

    def claimed(self, table: str) -> str:
        """Return what `rows.decode_claimed` reads, of a table."""
        return self.selected(CLAIMED_COLUMNS, table)

    @cached_property
    def owned(self) -> str:
        """The runs that a session works on."""
        return f"SELECT {self.claimed('r')} FROM runstate_run AS r WHERE {self._held_by_worker}"

    @cached_property
    def owned_statuses(self) -> str:
        """Seq and status of a session's runs."""
        return f"SELECT r.seq, r.status FROM runstate_run AS r WHERE {self._held_by_worker}"

    @property
    def _held_by_worker(self) -> str:
        return self.dialect.lookups.held_by(self.param("worker"), "r.")

    @cached_property
    def anything_due(self) -> str:
        """Whether a sweep would find something to do."""
        # The first of each kind, by its index: asked whether there is one, PostgreSQL reads runs until it finds it.
        lookups = self.dialect.lookups
        first = (
            f"({lookups.first_deadline}) * 1000000",
            "(SELECT min(lease_until_us) FROM runstate_worker_session WHERE closed = 0)",
            f"({lookups.first_not_before})",
            f"({lookups.first_retry})",
        )
        come = [f"coalesce({moment} <= now, {self.dialect.false})" for moment in first]
        left = f"EXISTS (SELECT 1 FROM {lookups.holders} WHERE worker IN ({CLOSED_SESSIONS}))"
        return f"WITH t AS (SELECT {self.now} AS now) SELECT {' OR '.join((*come, left))} FROM t"

    @cached_property
    def queued_by_queue(self) -> str:
        """Each queue that has queued runs, and how many."""
        return f"SELECT queue, count(*) FROM {self.dialect.lookups.queued} AS q GROUP BY queue ORDER BY queue"

    @cached_property
    def orphaned(self) -> str:
        """How many runs wait to be taken over."""
        return (
            f"SELECT count(*) FROM runstate_run AS r WHERE {self.dialect.lookups.held_by(CLOSED_SESSIONS, 'r.')}"
            f" AND r.status = '{RUN_LIFECYCLE.target_of(RunEvent.START)}'"
        )

    @cached_property
    def retries(self) -> str:
        """How many runs wait for a retry that is due."""
        due = self.dialect.lookups.due_retries("(SELECT now FROM t)")
        return f"WITH t AS (SELECT {self.now} AS now) SELECT count(*) FROM ({due}) AS due"

    @cached_property
    def overdue(self) -> str:
        """Ids of a queue's runs that have been ready for `age` microseconds, or whose worker's lease was closed.

        A run is ready when it is queued and claimable, or when its retry is due. A paused queue has no such runs.
        """
        queue = self.param("queue", "text")
        age = f"{self.dialect.greatest}(r.changed_at_us, r.claimable_at_us) <= {self.now} - {self.param('age')}"
        oldest = f"SELECT r.id, r.seq FROM {self.dialect.lookups.overdue(queue, age)} LIMIT {self.param('limit')}"
        ready = f"SELECT id, seq FROM ({oldest}) AS oldest"
        adrift = (
            f"SELECT r.id, r.seq FROM runstate_run AS r WHERE {self.dialect.unindexed('r.queue')} = {queue}"
            f" AND r.status = '{RUN_LIFECYCLE.target_of(RunEvent.START)}'"
            f" AND {self.dialect.lookups.held_by(CLOSED_SESSIONS, 'r.')}"
        )
        due = self.dialect.lookups.due_retries(f"({self.now} - {self.param('age')})", f" AND queue = {queue}")
        again = f"SELECT r.id, r.seq FROM ({due}) AS d JOIN runstate_run AS r ON r.seq = d.seq"
        late = f"{adrift} UNION ALL {ready} UNION ALL {again}"
        return f"SELECT id FROM ({late}) AS late WHERE {unpaused(queue)} ORDER BY seq LIMIT {self.param('limit')}"

    # --- histories ------------------------------------------------------------------------------------------------

    @cached_property
    def history(self) -> str:
        """The entries of a run after a version."""
        return (
            f"SELECT {self.dialect.entry_columns} FROM runstate_history AS h JOIN runstate_run AS r ON r.seq = h.run"
            f" WHERE h.run = {self.param('run')} AND h.version > {self.param('after')} ORDER BY h.version"
        )

    @cached_property
    def all_entries(self) -> str:
        """The next entries of all runs after a place, as far as the statement looks: see `Dialect.all_entries`."""
        return self.dialect.all_entries

    @cached_property
    def latest_cursor(self) -> str:
        """The place behind the last entry."""
        return self.dialect.latest_cursor

    @cached_property
    def missing(self) -> str:
        """Those of several runs that do not exist."""
        return (
            f"WITH {self.dialect.rows(POSITION_COLUMNS)} SELECT v.seq FROM v WHERE v.after >= 0"
            " AND NOT EXISTS (SELECT 1 FROM runstate_run AS r WHERE r.seq = v.seq)"
        )

    @cached_property
    def new_entries(self) -> str:
        """Up to `limit` entries of several runs, each after a version: the run, and as in `history`."""
        return (
            f"WITH {self.dialect.rows(POSITION_COLUMNS)} SELECT h.run, {self.dialect.entry_columns} FROM v"
            " JOIN runstate_history AS h ON h.run = v.seq AND h.version > v.after JOIN runstate_run AS r"
            f" ON r.seq = h.run ORDER BY h.run, h.version LIMIT {self.param('limit')}"
        )

    @cached_property
    def entries_here(self) -> str:
        """Run, version, source, event and actor of the entries that the transaction under way has written.

        SQLite's is alone: they are those after the last that was there before, `:before`.
        """
        return (
            "SELECT h.run, h.version, h.source, h.event, h.actor FROM runstate_history AS h"
            f" WHERE {self.dialect.written_here}"
        )

    def has_metadata(self, key: str, value: str) -> str:
        """Return the condition that the run of the table `r` has a pair of metadata."""
        pair = self.dialect.metadata_pair(self.param(key, "text"), self.param(value, "text"))
        return f"EXISTS (SELECT 1 FROM runstate_run_config AS s{pair})"
