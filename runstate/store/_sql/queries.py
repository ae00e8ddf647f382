"""What both dialects' statements are made of, and those that only read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Final

import attrs

from runstate.lifecycle import INITIAL_STATUS, RUN_LIFECYCLE, RunEvent
from runstate.store._sql.schema import SQLITE, Dialect, occupies_thread, thread_lock_sql

__all__ = ["Column", "Queries", "columns"]


@attrs.frozen
class Column:
    """A column of the values that a statement is given: its name and its type in PostgreSQL."""

    name: str
    kind: str = "text"


def columns(*params: str) -> tuple[Column, ...]:
    """Return columns written as `name` or `name:type`."""
    return tuple(Column(*column.split(":")) for column in params)


@attrs.frozen(slots=False)
class Queries:
    """The statements of one dialect that read. Each takes its parameters by name, and `now` (microseconds, or null)."""

    dialect: Dialect

    # --- the dialects' differences --------------------------------------------------------------------------------

    def param(self, name: str, kind: str = "bigint") -> str:
        """Return the place where a parameter goes."""
        return f":{name}" if self.dialect is SQLITE else f"%({name})s::{kind}"

    @property
    def now(self) -> str:
        """The moment: the one handed in, else PostgreSQL's own."""
        if self.dialect is SQLITE:
            return ":now"
        return "coalesce(%(now)s::bigint, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)"

    @property
    def greatest(self) -> str:
        """The function of the greatest of its arguments."""
        return "max" if self.dialect is SQLITE else "greatest"

    @staticmethod
    def in_time(now: str, row: str = "r.") -> str:
        """Return the condition that the deadline of a row has not come at a moment. At its very second it has."""
        return f"{row}expires_at > {now} / 1000000"

    @property
    def moment_of_move(self) -> str:
        """When a move of `r` is made: the time in a history never goes back, though the clock may."""
        return f"{self.greatest}(r.at, t.now)"

    def table(self, columns: Sequence[Column]) -> str:
        """Return the CTEs `t(now)`, the moment, and `v`, the values handed in, in order."""
        if self.dialect is SQLITE:
            taken = ", ".join(f"json_extract(value, '$[{n}]') AS {c.name}" for n, c in enumerate(columns))
            values = f"v AS MATERIALIZED (SELECT {taken} FROM json_each(:rows))"
        else:
            arrays = ", ".join(f"%({c.name})s::{c.kind}[]" for c in columns)
            names = ", ".join(c.name for c in columns)
            values = f"v AS (SELECT * FROM unnest({arrays}) AS v({names}))"
        return f"t AS (SELECT {self.now} AS now), {values}"

    def json(self, value: str) -> str:
        """Return a text as the JSON that a column takes."""
        return value if self.dialect is SQLITE else f"{value}::json"

    def text(self, column: str) -> str:
        """Return a JSON column as the text it is, which psycopg would read into objects."""
        return column if self.dialect is SQLITE else f"{column}::text"

    def indexed(self, column: str) -> str:
        """Return a column to look another table up by, in a RETURNING too: there SQLite uses no index without the +."""
        return f"+{column}" if self.dialect is SQLITE else column

    @property
    def checkpointed_usage(self) -> str:
        """The usage that workers noted, for who ends a run without knowing what it used."""
        usage = "'prompt_tokens', {p}, 'completion_tokens', {c}, 'total_tokens', {p} + {c}"
        build = "json_object" if self.dialect is SQLITE else "json_build_object"
        some = usage.format(p="n.prompt_tokens", c="n.completion_tokens")
        return (
            f"coalesce((SELECT {build}({some}) FROM runstate_notes AS n WHERE n.run = r.seq),"
            f" {build}({usage.format(p=0, c=0)}))"
        )

    # --- reading --------------------------------------------------------------------------------------------------

    @cached_property
    def columns(self) -> str:
        """The columns of a whole run, of the table `r`, in the order that `rows.decode_run` reads."""
        return ", ".join(
            (
                *("r.seq", "r.id", "r.created_at", "r.thread_id", "r.assistant_id", "r.model", "r.status"),
                *("r.version", "r.event", "r.source", "r.at", "r.actor"),
                *("r.queue", "r.priority", "r.attempt", "r.ready_at IS NOT NULL"),
                *("r.expires_at", "r.started_at", "r.cancelled_at", "r.failed_at", "r.completed_at", "r.worker"),
                *(self.text(f"r.{name}") for name in ("required_action", "last_error", "incomplete_details", "usage")),
                f"(SELECT {self.text('settings')} FROM runstate_settings AS s WHERE s.id = {self.indexed('r.id')})",
            )
        )

    @cached_property
    def moment(self) -> str:
        """The time, by the clock that judges leases."""
        return f"SELECT {self.now}"

    @cached_property
    def by_id(self) -> str:
        """A run, by its id."""
        return f"SELECT {self.columns} FROM runstate_run AS r WHERE r.id = {self.param('id', 'text')}"

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
    def blocking_run(self) -> str:
        """The id of the run that makes a thread busy."""
        return (
            f"SELECT r.id FROM runstate_run AS r WHERE r.thread_id = {self.param('thread', 'text')}"
            f" AND {occupies_thread('r.')}"
        )

    @cached_property
    def waits_behind(self) -> str:
        """The id of the run that another of its thread waits behind."""
        return (
            "SELECT h.id FROM runstate_run AS r JOIN runstate_run AS h ON h.thread_id = r.thread_id AND h.seq <> r.seq"
            f" WHERE r.seq = {self.param('run')} AND r.exclusive = 'queue' AND {occupies_thread('h.')}"
        )

    @cached_property
    def hold_thread(self) -> str:
        """Let nobody else end or begin a run of a thread until the commit, so that none waits behind nothing."""
        thread = self.param("thread", "text")
        if self.dialect is SQLITE:
            return f"SELECT {thread}"  # its writer is alone
        return f"SELECT {thread_lock_sql(thread)}"

    @cached_property
    def latest(self) -> str:
        """Version, actor and detail of the latest entry of an event in a run's history."""
        return (
            f"SELECT h.version, h.actor, {self.text('h.detail')} FROM runstate_history AS h"
            f" WHERE h.run = {self.param('run')} AND h.event = {self.param('event', 'text')}"
            " ORDER BY h.version DESC LIMIT 1"
        )

    @cached_property
    def submitted(self) -> str:
        """The detail of an entry, if it submitted tool outputs."""
        return (
            f"SELECT {self.text('h.detail')} FROM runstate_history AS h WHERE h.run = {self.param('run')}"
            f" AND h.version = {self.param('version')} AND h.event = 'submit_tool_outputs'"
        )

    @cached_property
    def entries_after(self) -> str:
        """Event and actor of the entries of a run after a version, and from before the end of a worker's lease."""
        return (
            f"SELECT h.event, h.actor FROM runstate_history AS h WHERE h.run = {self.param('run')}"
            f" AND h.version > {self.param('version')} AND h.at < (SELECT w.lease_until FROM runstate_worker AS w"
            f" WHERE w.token = {self.param('worker')}) ORDER BY h.version"
        )

    @cached_property
    def notes(self) -> str:
        """What a run's workers noted: checkpoint, prompt tokens, completion tokens."""
        return (
            f"SELECT {self.text('n.checkpoint')}, n.prompt_tokens, n.completion_tokens FROM runstate_notes AS n"
            f" WHERE n.run = {self.param('run')}"
        )

    @cached_property
    def progress(self) -> str:
        """What a run's worker said last of how far it is."""
        return f"SELECT n.progress FROM runstate_notes AS n WHERE n.run = {self.param('run')}"

    CLAIMED: Final = (
        *("seq", "version", "id", "created_at", "thread_id", "assistant_id", "model", "status", "at"),
        *("queue", "priority", "attempt", "expires_at", "started_at", "actor"),
    )

    def claimed(self, table: str) -> str:
        """Return the columns that `rows.decode_claimed` reads, of a table."""
        names = ", ".join(f"{table}.{name}" for name in self.CLAIMED)
        own = self.indexed(f"{table}.id")
        settings = f"SELECT {self.text('settings')} FROM runstate_settings AS s WHERE s.id = {own}"
        return f"{names}, ({settings})"

    @cached_property
    def owned(self) -> str:
        """The runs that a session works on."""
        return f"SELECT {self.claimed('r')} FROM runstate_run AS r WHERE r.worker = {self.param('worker')}"

    @cached_property
    def owned_statuses(self) -> str:
        """Seq and status of a session's runs."""
        return f"SELECT seq, status FROM runstate_run WHERE worker = {self.param('worker')}"

    @cached_property
    def anything_due(self) -> str:
        """Whether a sweep would find something to do."""
        # The first of each kind, by its index: asked whether there is one, PostgreSQL reads runs until it finds it.
        first = {
            "min(expires_at) * 1000000": "runstate_run WHERE expires_at IS NOT NULL",
            "min(lease_until)": "runstate_worker WHERE closed = 0",
            "min(not_before)": f"runstate_run WHERE status = '{INITIAL_STATUS}' AND ready_at IS NULL",
        }
        come = [f"coalesce((SELECT {when} FROM {rows}) <= now, {self.dialect.false})" for when, rows in first.items()]
        left = (
            "EXISTS (SELECT 1 FROM runstate_run WHERE worker IN (SELECT token FROM runstate_worker WHERE closed = 1))"
        )
        return f"WITH t AS (SELECT {self.now} AS now) SELECT {' OR '.join((*come, left))} FROM t"

    @cached_property
    def orphaned(self) -> str:
        """How many runs wait to be taken over."""
        return (
            "SELECT count(*) FROM runstate_run WHERE worker IN (SELECT token FROM runstate_worker WHERE closed = 1)"
            f" AND status = '{RUN_LIFECYCLE.target_of(RunEvent.START)}'"
        )

    @cached_property
    def overdue(self) -> str:
        """Ids of a queue's runs that have been ready for `age` microseconds, or whose worker's lease was closed."""
        queue = self.param("queue", "text")
        ready = (
            f"SELECT r.id, r.seq FROM runstate_run AS r WHERE r.queue = {queue} AND r.status = '{INITIAL_STATUS}'"
            f" AND r.ready_at IS NOT NULL AND {self.greatest}(r.at, r.ready_at) <= {self.now} - {self.param('age')}"
        )
        adrift = (
            f"SELECT r.id, r.seq FROM runstate_run AS r WHERE r.queue = {queue}"
            f" AND r.status = '{RUN_LIFECYCLE.target_of(RunEvent.START)}'"
            " AND r.worker IN (SELECT token FROM runstate_worker WHERE closed = 1)"
        )
        return f"SELECT id FROM ({adrift} UNION ALL {ready}) AS late ORDER BY seq LIMIT {self.param('limit')}"

    # --- histories ------------------------------------------------------------------------------------------------

    @property
    def _entry(self) -> str:
        # Where an entry stands among those of all runs: SQLite's commit in the order they are counted; PostgreSQL's
        # transactions do not, so there a place is a transaction, and in it a run and a version.
        cursor = "h.id" if self.dialect is SQLITE else "h.tx || '.' || h.run || '.' || h.version"
        return (
            "SELECT r.id, h.version, h.event, h.source, h.target, h.at, h.actor,"
            f" {self.text('h.detail')}, {cursor} FROM runstate_history AS h JOIN runstate_run AS r ON r.seq = h.run"
        )

    @cached_property
    def history(self) -> str:
        """The entries of a run after a version."""
        return (
            f"{self._entry} WHERE h.run = {self.param('run')} AND h.version > {self.param('after')} ORDER BY h.version"
        )

    @cached_property
    def all_entries(self) -> str:
        """The next entries of all runs after a place."""
        limit = f"LIMIT {self.param('limit')}"
        if self.dialect is SQLITE:
            return f"{self._entry} WHERE h.id > :tx AND coalesce(:run, :version, 0) IS NOT NULL ORDER BY h.id {limit}"
        place = ", ".join(self.param(name) for name in ("tx", "run", "version"))
        return (
            f"{self._entry} WHERE h.tx >= {self.param('tx')} AND (h.tx, h.run, h.version) > ({place})"
            " AND h.tx < pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
            f" ORDER BY h.tx, h.run, h.version {limit}"
        )

    @cached_property
    def latest_cursor(self) -> str:
        """The place behind the last entry."""
        if self.dialect is SQLITE:
            return "SELECT coalesce(max(id), 0) FROM runstate_history"
        return "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1 || '.9223372036854775807.0'"

    @cached_property
    def entries_here(self) -> str:
        """Run, version, source, event and actor of the entries that the transaction under way has written.

        SQLite's is alone: they are those after the last that was there before, `:before`.
        """
        here = "h.id > :before" if self.dialect is SQLITE else "h.tx = pg_current_xact_id()::text::bigint"
        return f"SELECT h.run, h.version, h.source, h.event, h.actor FROM runstate_history AS h WHERE {here}"

    def has_metadata(self, key: str, value: str) -> str:
        """Return the condition that the run of the table `r` has a pair of metadata."""
        key, value = self.param(key, "text"), self.param(value, "text")
        if self.dialect is SQLITE:
            pairs = (
                f"json_each(s.settings, '$.metadata') AS m WHERE s.id = r.id AND m.key = {key} AND m.value = {value}"
            )
            return f"EXISTS (SELECT 1 FROM runstate_settings AS s, {pairs})"
        pair = f"s.settings -> 'metadata' ->> {key} = {value}"
        return f"EXISTS (SELECT 1 FROM runstate_settings AS s WHERE s.id = r.id AND {pair})"
