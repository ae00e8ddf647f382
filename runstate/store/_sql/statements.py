"""The statements that move runs, generated from the table of transitions.

A statement decides in its WHERE, on the row as it is at that moment, and never on an earlier read. A run that it does
not return was refused; the engine then reads the row and finds the reason (`_engine/executor.py`,
`_engine/execute_settle_and_claim.py`). Rows come in as one table of values, so a hundred moves are one statement, one
round trip and one commit. SQLite has two more statements of its own, made of the same parts
(`_sqlite/settle_and_claim.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Final, Self

import attrs

from runstate.lifecycle import INITIAL_STATUS, RUN_LIFECYCLE, RunEvent, StatusField
from runstate.store._sql.columns import (
    CLAIMED_COLUMNS,
    MOVE_COLUMNS,
    PAYLOAD,
    RUN_COLUMNS,
    SETTLE_COLUMNS,
    Column,
    columns,
)
from runstate.store._sql.creates import Creates
from runstate.store._sql.literals import ENDED, sql_list
from runstate.store._sql.queries import CLOSED_SESSIONS, Picks
from runstate.store._worker_types import OUTCOMES, SettleKey

__all__ = ["Statements"]

_STARTED: Final = RUN_LIFECYCLE.target_of(RunEvent.START)
_ASKED: Final = RUN_LIFECYCLE.target_of(RunEvent.REQUEST_CANCEL)
# Not a join: the planner would make one of the whole table.
_PICKED: Final = " WHERE r.seq = ANY (ARRAY(SELECT seq FROM picked))"
_IDLE: Final = sql_list(sorted(set(RUN_LIFECYCLE.sources_of(RunEvent.REQUEST_CANCEL)) - {_STARTED}))


_LOST: Final = "q.lost + CASE WHEN q.worker = 0 THEN 0 ELSE 1 END"
"""How many claims of an orphaned run were lost: the session 0 has those that their workers released."""
_HELD: Final[tuple[StatusField, ...]] = ("required_action", "last_error", "incomplete_details", "usage")


class Statements(Creates):
    """The statements of one dialect that write. Parameters by name, and `now` (microseconds, or null)."""

    @cached_property
    def unskipped(self) -> Self:
        """The same statements; those that find runs themselves leave out the runs in the JSON list `skipped`."""
        return attrs.evolve(self, picks=Picks.UNSKIPPED)

    @cached_property
    def only_one(self) -> Self:
        """The same statements; those that find runs themselves find no other run than the one of the seq `only`."""
        return attrs.evolve(self, picks=Picks.ONE)

    # --- moves ----------------------------------------------------------------------------------------------------

    def set_clause(
        self, event: RunEvent, *, actor: str, worker: str = "NULL", params: Mapping[str, str], now: str = "t.now"
    ) -> str:
        """Return the SET of a move of `r`: the entry, the stamp that the law gives its target, what comes and goes.

        `given` are the values of what it carries, by column.
        """
        target = RUN_LIFECYCLE.target_of(event)
        sources = RUN_LIFECYCLE.sources_of(event)
        at = f"{self.dialect.greatest}(r.changed_at_us, {now})"
        sets = {
            "status": f"'{target}'",
            "version": "r.version + 1",
            "event": f"'{event}'",
            "source": "r.status",
            "changed_at_us": at,
            "actor": actor,
            "detail": params.get("detail", "NULL"),
        }
        sets |= {row.stamp: f"{at} / 1000000" for row in RUN_LIFECYCLE.transitions if row.event is event and row.stamp}
        for field in _HELD:
            if RUN_LIFECYCLE.is_present(field, target):
                sets[field] = params[field]
            elif any(RUN_LIFECYCLE.is_present(field, source) for source in sources):
                sets[field] = "NULL"
        if RUN_LIFECYCLE.is_terminal(target):
            sets["expires_at"] = "NULL"
        sets["worker"] = worker
        if target == _STARTED:
            sets |= {"attempt": "0" if worker == "NULL" else "1", "lost": "0", "failed": "0"}
        elif target == _ASKED:
            sets["worker"] = f"CASE WHEN r.status = '{_STARTED}' THEN r.worker END"
        return ", ".join(f"{column} = {value}" for column, value in sets.items())

    def _given(self, event: RunEvent) -> dict[str, str]:
        """Return what a move carries, from the values handed in; the usage that was noted where none is."""
        params = {name: self.dialect.as_json(f"v.{name}") for name in PAYLOAD}
        return params | {"usage": f"coalesce({self.dialect.as_json('v.usage')}, {self.checkpointed_usage})"}

    @staticmethod
    def in_legal_source(event: RunEvent) -> str:
        """Return the condition that a run stands where the law allows an event."""
        return f"r.status IN ({sql_list(sorted(RUN_LIFECYCLE.sources_of(event)))})"

    @cached_property
    def move(self) -> Mapping[RunEvent, str]:
        """Ask an event of many runs, by id; gives back those it moved, whole."""
        return {event: self._move(event, self._may(event)) for event in RUN_LIFECYCLE.events}

    def _may(self, event: RunEvent) -> str:
        """Return what an event asks of a run besides its status."""
        ready = " AND r.claimable_at_us IS NOT NULL" if RUN_LIFECYCLE.target_of(event) == _STARTED else ""
        in_time = f" AND {self.in_time(self.moment_of_move)}" if event in RUN_LIFECYCLE.until_deadline else ""
        return f"{ready}{in_time}"

    def _move(self, event: RunEvent, besides: str) -> str:
        return (
            f"WITH {self.table(MOVE_COLUMNS)} UPDATE runstate_run AS r"
            f" SET {self.set_clause(event, actor='v.actor', params=self._given(event))} FROM v, t"
            f" WHERE r.id = v.key AND (v.version IS NULL OR r.version = v.version) AND {self.in_legal_source(event)}"
            f"{besides} RETURNING {self._returned}"
        )

    @cached_property
    def expire_late(self) -> str:
        """Expire runs whose deadline has passed, by id; gives back those it moved, whole."""
        return self._move(RunEvent.EXPIRE, f" AND NOT {self.in_time(self.moment_of_move)}")

    @cached_property
    def _returned(self) -> str:
        return self.selected(RUN_COLUMNS, self.dialect.returned)

    @cached_property
    def confirm_idle(self) -> str:
        """Cancel those of the runs just asked to that nobody works on."""
        event = RunEvent.CONFIRM_CANCEL
        return (
            f"WITH {self.table(MOVE_COLUMNS)} UPDATE runstate_run AS r"
            f" SET {self.set_clause(event, actor='v.actor', params=self._given(event))} FROM v, t"
            f" WHERE r.id = v.key AND {self.in_legal_source(event)} AND (r.source IN ({_IDLE})"
            # A run that waits for a retry has no worker. One that a client has started is confirmed by that client.
            " OR (r.worker IS NULL AND r.attempt > 0))"
            f" RETURNING {self._returned}"
        )

    # --- work -----------------------------------------------------------------------------------------------------

    def _settling(self, event: RunEvent, has_payload: bool) -> str:
        params = self._given(event) if has_payload else {"usage": self.dialect.as_json("v.usage")}
        return (
            f"UPDATE runstate_run AS r SET {self.set_clause(event, actor=self.param('actor', 'text'), params=params)}"
            # Not `=`: by the index on worker PostgreSQL would visit every run this worker has ever had.
            f" FROM v, t WHERE r.seq = v.key AND r.worker {self.dialect.null_safe_eq} {self.param('worker')}"
            f" AND {self.same_claim('v.version', 'v.attempt')} AND {self.in_legal_source(event)} AND {self.leased()}"
        )

    @staticmethod
    def settle_columns(has_payload: bool) -> tuple[Column, ...]:
        """Return the columns that a settle is given, with or without what few of them carry."""
        return (*SETTLE_COLUMNS, *columns(*PAYLOAD)) if has_payload else SETTLE_COLUMNS

    @cached_property
    def settle(self) -> Mapping[SettleKey, str]:
        """Commit an outcome of claimed runs, by seq, if the worker still holds them; gives back seq and version."""
        own = self.dialect.returned
        return {
            (
                event,
                has_payload,
            ): f"WITH {self.table(self.settle_columns(has_payload))} {self._settling(event, has_payload)}"
            f" RETURNING {own}.seq, {own}.version"
            for event, has_payload in OUTCOMES
        }

    @cached_property
    def lock_due(self) -> str | None:
        """Lock the runs that `expire_due` moves, for the same reason."""
        if not self.dialect.writes_in_one:
            return None
        found = f"SELECT q.seq {self._due()} LIMIT {self.param('limit')} FOR UPDATE OF q SKIP LOCKED"
        return f"WITH t AS (SELECT {self.now} AS now) {found}"

    def picking(self, *names: str, now: str = "(SELECT now FROM t)") -> str:
        """Return the query of columns of the runs that a worker claims next, if its lease holds."""
        queue, limit = self.param("queue", "text"), self.param("limit")
        lookups = self.dialect.lookups
        besides = f"{self.leased(now)}{self.picked(lookups.claimable_seq)}{self.not_paused(queue)}"
        return lookups.claimable(names, queue, f"{now} / 1000000", besides, limit)

    def _claiming(self, picked: str) -> str:
        moving = self.set_clause(
            RunEvent.START, actor=self.param("actor", "text"), worker=self.param("worker"), params={}
        )
        return f"UPDATE runstate_run AS r SET {moving} FROM t{picked} AND {self.leased()}"

    @cached_property
    def claim(self) -> str:
        """PostgreSQL: claim up to `limit` queued runs of a queue; gives back what `rows.decode_claimed` reads."""
        return (
            f"WITH t AS (SELECT {self.now} AS now), picked AS ({self.picking('seq')})"
            f" {self._claiming(_PICKED)} RETURNING {self.claimed('r')}"
        )

    @cached_property
    def claim_id(self) -> str:
        """Claim one run by its id, if it is queued and ready."""
        picked = (
            f" WHERE r.id = {self.param('id', 'text')} AND r.status = '{INITIAL_STATUS}'"
            f" AND r.claimable_at_us IS NOT NULL AND {self.in_time('t.now')}{self.not_paused('r.queue')}"
        )
        own = self.dialect.returned
        return f"WITH t AS (SELECT {self.now} AS now) {self._claiming(picked)} RETURNING {self.claimed(own)}"

    @cached_property
    def settle_and_claim(self) -> Mapping[SettleKey, str]:
        """PostgreSQL: settle what is done by an event, and claim what is next, in one statement.

        Gives back 0 and a settled seq, or 1 and a claimed run.
        """
        nothing = ", ".join("NULL" for _ in CLAIMED_COLUMNS[2:])
        return {
            (event, has_payload): f"WITH {self.table(self.settle_columns(has_payload))},"
            f" settled AS ({self._settling(event, has_payload)} RETURNING r.seq, r.version),"
            f" picked AS ({self.picking('seq')}),"
            f" claimed AS ({self._claiming(_PICKED)} RETURNING r.*)"
            f" SELECT 0, seq, version, {nothing} FROM settled"
            f" UNION ALL SELECT 1, {self.claimed('claimed')} FROM claimed"
            for event, has_payload in OUTCOMES
        }

    # --- the sweep ------------------------------------------------------------------------------------------------

    # In what follows the moment is a value that is selected, and not a table that is joined: joined, SQLite would read
    # all runs and make an index of them, and PostgreSQL all that have a deadline.

    @cached_property
    def candidates(self) -> Mapping[str, str]:
        """Seq and id of up to `limit` runs that a claim, a sweep or a prune moves, by the name of the statement."""
        t = f"WITH t AS (SELECT {self.now} AS now)"
        found = {
            "expire_due": self._due(),
            "fail_exhausted": self._exhausted(),
            "confirm_lapsed": self._cancelled(),
            "take_over": self._orphans(),
            "claim_retries": self._due_retries(),
            "promote_ready": self._ready(),
            "prune": f"{self._ended()} ORDER BY q.seq",
        }
        limited = {name: f"SELECT q.seq, q.id {rows} LIMIT {self.param('limit')}" for name, rows in found.items()}
        return {name: f"{t} {rows}" for name, rows in {"claim": self.picking("seq", "id"), **limited}.items()}

    def _sweeping(self, event: RunEvent, found: str, last_error: str = "NULL") -> str:
        """Move up to `limit` runs `q` that are found by `event`; gives back their ids."""
        own = self.dialect.returned
        params = {"usage": self.checkpointed_usage, "last_error": self.dialect.as_json(last_error)}
        moving = self.set_clause(event, actor=self.param("actor", "text"), params=params)
        return (
            f"WITH t AS (SELECT {self.now} AS now) UPDATE runstate_run AS r SET {moving} FROM t"
            f" WHERE {self.in_legal_source(event)} AND r.seq {self._some(found)} RETURNING {own}.id"
        )

    def _some(self, found: str) -> str:
        """Return the condition to be among up to `limit` rows `q` that are found and no other transaction is moving."""
        limited = f"SELECT q.seq {found} LIMIT {self.param('limit')}"
        return self.dialect.among(limited, skip_locked="q")

    def _found(self, event: RunEvent, where: str) -> str:
        """Return the FROM of the runs `q` for which `where` holds, where the law allows an event."""
        legal = self.in_legal_source(event).replace("r.", "q.")
        return f"FROM runstate_run AS q WHERE {legal}{self.picked('q.seq')} AND {where}"

    @property
    def _lapsed(self) -> str:
        return self.dialect.lookups.held_by(CLOSED_SESSIONS)

    def _due(self) -> str:
        now = "(SELECT now FROM t)"
        late = f"({now} - {self.param('grace')})"
        due = self.dialect.lookups.due(now, late, self.param("limit"), self.picked("run"))
        where = (
            f"q.expires_at <= {now} / 1000000 AND (q.worker IS NULL OR q.expires_at <= {late} / 1000000){due}"
            " ORDER BY q.expires_at"
        )
        return self._found(RunEvent.EXPIRE, where)

    @cached_property
    def expire_due(self) -> str:
        """Expire runs whose deadline has passed; one at work a moment later, for its worker knows what it used."""
        return self._sweeping(RunEvent.EXPIRE, self._due())

    def _exhausted(self) -> str:
        where = f"{self._lapsed} AND {_LOST} >= {self.param('max_attempts')} AND q.status = '{_STARTED}'"
        return self._found(RunEvent.FAIL, where)

    @cached_property
    def fail_exhausted(self) -> str:
        """Fail the lapsed runs whose attempts are spent."""
        return self._sweeping(RunEvent.FAIL, self._exhausted(), self.param("last_error", "text"))

    def _cancelled(self) -> str:
        return self._found(RunEvent.CONFIRM_CANCEL, self._lapsed)

    @cached_property
    def confirm_lapsed(self) -> str:
        """Cancel the lapsed runs that were asked to."""
        return self._sweeping(RunEvent.CONFIRM_CANCEL, self._cancelled())

    def _orphans(self) -> str:
        # By `coalesce` planners keep off the index of deadlines, which every live run is in.
        return (
            f"FROM runstate_run AS q WHERE {self._lapsed} AND q.status = '{_STARTED}'{self.picked('q.seq')}"
            f" AND {_LOST} < {self.param('max_attempts')}"
            " AND coalesce(q.expires_at, 0) > (SELECT now FROM t) / 1000000"
            f" AND ({self.param('id', 'text')} IS NULL OR q.id = {self.param('id', 'text')})"
            f" AND {self.dialect.unindexed('q.queue')} = {self.param('queue', 'text')}"
            f"{self.not_paused(self.param('queue', 'text'))}"
        )

    @cached_property
    def take_over(self) -> str:
        """Give up to `limit` lapsed runs with attempts left to a worker; their status stays."""
        own = self.dialect.returned
        return (
            f"WITH t AS (SELECT {self.now} AS now) UPDATE runstate_run AS r SET worker = {self.param('worker')},"
            f" attempt = r.attempt + 1, lost = {_LOST.replace('q.', 'r.')} FROM t"
            f" WHERE r.seq {self._some(self._orphans())} AND r.status = '{_STARTED}'"
            f" AND {self.leased()} RETURNING {self.claimed(own)}"
        )

    @cached_property
    def release(self) -> str:
        """Give back a run that a worker holds, so that another takes it over at once."""
        own = self.dialect.returned
        return (
            f"UPDATE runstate_run AS r SET worker = 0 WHERE r.seq = {self.param('seq')}"
            f" AND r.worker = {self.param('worker')}"
            f" AND {self.same_claim(self.param('version'), self.param('attempt'))} RETURNING {own}.seq"
        )

    def _ready(self) -> str:
        now = "(SELECT now FROM t)"
        lookups = self.dialect.lookups
        first = (
            f"q.thread_policy IS NULL OR q.thread_policy = 'reject' OR (NOT {lookups.is_busy('q.thread_id')}"
            f" AND q.seq = ({lookups.next_of_thread('q.thread_id', now)}))"
        )
        return f"FROM runstate_run AS q WHERE {lookups.waiting(now)}{self.picked('q.seq')} AND ({first})"

    @cached_property
    def promote_ready(self) -> str:
        """Make up to `limit` runs ready whose time has come, or behind which no run of their thread lives any more."""
        own = self.dialect.returned
        return (
            f"WITH t AS (SELECT {self.now} AS now) UPDATE runstate_run AS r"
            f" SET claimable_at_us = {self.dialect.greatest}(r.changed_at_us, t.now) FROM t"
            f" WHERE r.claimable_at_us IS NULL AND r.seq {self._some(self._ready())} RETURNING {own}.id"
        )

    # --- the end --------------------------------------------------------------------------------------------------

    def _ended(self) -> str:
        before = f"{self.now} - {self.param('age')}"
        ended = f"q.status IN ({ENDED}) AND q.changed_at_us < {before}"
        return f"FROM runstate_run AS q WHERE {ended}{self.picked('q.seq')}"

    @cached_property
    def prunable(self) -> str:
        """How many runs ended longer ago than `age` microseconds."""
        return f"SELECT count(*) FROM (SELECT q.seq {self._ended()}) AS ended"

    @cached_property
    def prune(self) -> str:
        """Delete up to `limit` of them, the oldest first."""
        some = f"SELECT q.seq {self._ended()} ORDER BY q.seq LIMIT {self.param('limit')}"
        return f"DELETE FROM runstate_run WHERE seq {self.dialect.among(some)} RETURNING seq"
