"""Every statement that changes a run, generated from the law: the only SQL in this project that sets a status.

Each decides inside its WHERE, on the row as it is at that moment, and never on an earlier look. What it does not give
back was refused; `commands.py` then asks why. Rows come in as one table of values, so a hundred moves are one
statement, one round trip and one commit.
"""

from __future__ import annotations

from functools import cached_property
from typing import Final

from runstate.lifecycle import BIRTH, LAW, RunEvent, RunStatus, Stamp
from runstate.store.conditions import LEGAL, stamped_by
from runstate.store.queries import Column, Queries, columns
from runstate.store.tables import SQLITE, quoted

__all__ = ["CREATE_COLUMNS", "MOVE_COLUMNS", "PAYLOAD", "SETTLE_COLUMNS", "Statements"]

_STARTED: Final = LAW.target_of(RunEvent.START)
_TERMINAL: Final = quoted([status for status in RunStatus if LAW.is_terminal(status)])
_STAMPS: Final[tuple[Stamp, ...]] = ("started_at", "cancelled_at", "failed_at", "completed_at")
_ASKED: Final = LAW.target_of(RunEvent.REQUEST_CANCEL)
# Not a join: the planner would make one of the whole table.
_PICKED: Final = " WHERE r.seq = ANY (ARRAY(SELECT seq FROM picked))"
_IDLE: Final = quoted([status for status in LAW.sources_of(RunEvent.REQUEST_CANCEL) if status != _STARTED])


CREATE_COLUMNS: Final = columns(
    *("id", "thread_id", "assistant_id", "model", "expires_in:bigint", "queue", "priority:bigint"),
    *("not_before:bigint", "exclusive", "idempotency_key", "ready:bigint", "actor", "settings"),
)
PAYLOAD: Final = ("detail", "required_action", "last_error", "incomplete_details")
MOVE_COLUMNS: Final = columns("key", "event", "target", "version:bigint", "actor", "usage", *PAYLOAD)
SETTLE_COLUMNS: Final = columns("key:bigint", "event", "target", "usage")


class Statements(Queries):
    """The statements of one dialect that write. Parameters by name, and `now` (microseconds, or null)."""

    # --- birth ----------------------------------------------------------------------------------------------------

    def create(self, with_settings: bool) -> str:
        """Create many runs: gives back id, seq and time of those that nothing stood in the way of."""
        # What stands beside a run is written first: once the run is there, nobody may add to it.
        beside = self.words is not SQLITE and with_settings
        waits = "(SELECT count(*) FROM beside) IS NOT NULL" if beside else "true"
        return (
            f"WITH {self.table(CREATE_COLUMNS)}"
            + (f", beside AS ({self._settings} RETURNING id)" if beside else "")
            + " INSERT INTO runstate_run (id, thread_id, assistant_id, model, status, version, at, actor, created_at,"
            " expires_at, queue, priority, not_before, ready_at, exclusive, idempotency_key, attempt)"
            f" SELECT v.id, v.thread_id, v.assistant_id, v.model, '{BIRTH}', 1, t.now, v.actor, t.now / 1000000,"
            " t.now / 1000000 + v.expires_in, v.queue, v.priority, v.not_before,"
            " CASE WHEN v.ready = 1 THEN t.now END, v.exclusive, v.idempotency_key, 0"
            f" FROM v, t WHERE {waits} ON CONFLICT DO NOTHING RETURNING id, seq, at"
        )

    @cached_property
    def _settings(self) -> str:
        return (
            f"INSERT INTO runstate_settings (id, settings) SELECT v.id, {self.json('v.settings')} FROM v"
            " WHERE v.settings IS NOT NULL AND NOT EXISTS (SELECT 1 FROM runstate_run AS r WHERE r.id = v.id)"
            " ON CONFLICT DO NOTHING"  # who stands in the way creates a run with this id, too, or did so before us
        )

    @cached_property
    def add_settings(self) -> str:
        """SQLite's first half of `create`."""
        return f"WITH {self.table(CREATE_COLUMNS)} {self._settings}"

    @cached_property
    def drop_settings(self) -> str:
        """Take away the settings of a run that was not created after all."""
        return f"DELETE FROM runstate_settings WHERE id = {self.param('id', 'text')}"

    # --- moves ----------------------------------------------------------------------------------------------------

    def _moving(self, payload: bool, actor: str, worker: str) -> str:
        """Return the SET of a move: the entry, the stamps that the law gives its target, what comes and goes."""
        at = f"{self.greatest}(r.at, t.now)"
        stamps = ", ".join(
            f"{stamp} = CASE WHEN v.target IN ({stamped_by(stamp)}) THEN {at} / 1000000 ELSE r.{stamp} END"
            for stamp in _STAMPS
        )
        carried = ", ".join(f"{name} = {self.json(f'v.{name}') if payload else 'NULL'}" for name in PAYLOAD)
        usage = f"CASE WHEN v.target IN ({_TERMINAL}) THEN coalesce({self.json('v.usage')}, {self.noted}) END"
        return (
            f"status = v.target, version = r.version + 1, event = v.event, source = r.status, at = {at},"
            f" actor = {actor}, {stamps}, {carried}, usage = {usage},"
            f" expires_at = CASE WHEN v.target IN ({_TERMINAL}) THEN NULL ELSE r.expires_at END,"
            f" worker = CASE WHEN v.target = '{_ASKED}' AND r.status = '{_STARTED}' THEN r.worker"
            f" WHEN v.target = '{_STARTED}' THEN {worker} END,"
            f" attempt = CASE WHEN v.target = '{_STARTED}' THEN 0 ELSE r.attempt END"
        )

    @cached_property
    def move(self) -> str:
        """Move many runs by id, each by its event; gives back those it moved, whole."""
        return (
            f"WITH {self.table(MOVE_COLUMNS)} UPDATE runstate_run AS r"
            f" SET {self._moving(payload=True, actor='v.actor', worker='NULL')} FROM v, t"
            " WHERE r.id = v.key AND (v.version IS NULL OR r.version = v.version)"
            f" AND v.event || ' ' || r.status || ' ' || v.target IN ({LEGAL})"
            f" AND (v.target <> '{_STARTED}' OR r.ready_at IS NOT NULL) RETURNING {self._returned}"
        )

    @cached_property
    def _returned(self) -> str:
        # SQLite's RETURNING does not know the table by its alias.
        return self.columns.replace("r.", "runstate_run.") if self.words is SQLITE else self.columns

    @cached_property
    def confirm_idle(self) -> str:
        """Cancel those of the runs just asked to that nobody works on."""
        return (
            f"WITH {self.table(MOVE_COLUMNS)} UPDATE runstate_run AS r"
            f" SET {self._moving(payload=True, actor='v.actor', worker='NULL')} FROM v, t"
            f" WHERE r.id = v.key AND r.status = '{_ASKED}' AND r.source IN ({_IDLE})"
            f" RETURNING {self._returned}"
        )

    # --- work -----------------------------------------------------------------------------------------------------

    @property
    def _leased(self) -> str:
        """The condition that a worker's lease holds, by the database's clock."""
        worker = self.param("worker")
        return (
            f"EXISTS (SELECT 1 FROM runstate_worker AS w, t WHERE w.token = {worker} AND w.closed = 0"
            " AND w.lease_until > t.now)"
        )

    def _settling(self, payload: bool) -> str:
        return (
            f"UPDATE runstate_run AS r SET {self._moving(payload, self.param('actor', 'text'), 'NULL')} FROM v, t"
            # Not `=`: by the index on worker PostgreSQL would visit every run this worker has ever had.
            f" WHERE r.seq = v.key AND r.worker {self.words.same} {self.param('worker')}"
            f" AND v.event || ' ' || r.status || ' ' || v.target IN ({LEGAL}) AND {self._leased}"
        )

    def settle_columns(self, payload: bool) -> tuple[Column, ...]:
        """Return the columns that a settle is given, with or without what few of them carry."""
        return (*SETTLE_COLUMNS, *columns(*PAYLOAD)) if payload else SETTLE_COLUMNS

    def settle(self, payload: bool) -> str:
        """Commit the outcomes of claimed runs, by seq, if the worker still holds them; gives back seq and version."""
        own = "runstate_run" if self.words is SQLITE else "r"
        head = f"WITH {self.table(self.settle_columns(payload))}"
        return f"{head} {self._settling(payload)} RETURNING {own}.seq, {own}.version"

    def _picking(self) -> str:
        # Once ANALYZE has seen a table full of queued runs, SQLite would walk all of it from the first run on.
        by_index = " INDEXED BY runstate_run_claim" if self.words is SQLITE else ""
        return (
            f"SELECT seq FROM runstate_run{by_index}, t WHERE status = '{BIRTH}' AND ready_at IS NOT NULL"
            f" AND queue = {self.param('queue', 'text')} AND expires_at > t.now / 1000000"
            f" ORDER BY priority DESC, seq LIMIT {self.param('limit')}"
        )

    def _claiming(self, picked: str) -> str:
        worker, actor = self.param("worker"), self.param("actor", "text")
        at = f"{self.greatest}(r.at, t.now)"
        return (
            f"UPDATE runstate_run AS r SET status = '{_STARTED}', version = r.version + 1, event = '{RunEvent.START}',"
            f" source = r.status, at = {at}, actor = {actor}, detail = NULL, started_at = {at} / 1000000,"
            f" worker = {worker}, attempt = 1 FROM t{picked} AND {self._leased}"
        )

    @cached_property
    def claim(self) -> str:
        """Claim up to `limit` queued runs of a queue; gives back what `rows.read_claim` reads."""
        if self.words is SQLITE:
            picked = f" WHERE r.seq IN ({self._picking()})"
            return f"WITH t AS (SELECT :now AS now) {self._claiming(picked)} RETURNING {self.claimed('runstate_run')}"
        return (
            f"WITH t AS (SELECT {self.now} AS now), picked AS ({self._picking()} FOR UPDATE OF runstate_run SKIP"
            f" LOCKED) {self._claiming(_PICKED)} RETURNING {self.claimed('r')}"
        )

    @cached_property
    def claim_id(self) -> str:
        """Claim one run by its id, if it is queued and ready."""
        picked = (
            f" WHERE r.id = {self.param('id', 'text')} AND r.status = '{BIRTH}' AND r.ready_at IS NOT NULL"
            " AND r.expires_at > t.now / 1000000"
        )
        own = "runstate_run" if self.words is SQLITE else "r"
        return f"WITH t AS (SELECT {self.now} AS now) {self._claiming(picked)} RETURNING {self.claimed(own)}"

    def turn(self, payload: bool) -> str:
        """PostgreSQL: settle what is done, and claim what is next, in one statement.

        Gives back 0 and a settled seq, or 1 and a claimed run.
        """
        nothing = ", ".join("NULL" for _ in (*self.CLAIMED[2:], "settings"))
        return (
            f"WITH {self.table(self.settle_columns(payload))},"
            f" settled AS ({self._settling(payload)} RETURNING r.seq, r.version),"
            f" picked AS ({self._picking()} FOR UPDATE OF runstate_run SKIP LOCKED),"
            f" claimed AS ({self._claiming(_PICKED)} RETURNING r.*)"
            f" SELECT 0, seq, version, {nothing} FROM settled"
            f" UNION ALL SELECT 1, {self.claimed('claimed')} FROM claimed"
        )

    # --- the sweep ------------------------------------------------------------------------------------------------

    def _sweeping(self, event: RunEvent, where: str, last_error: str = "NULL") -> str:
        """Move up to `limit` runs for which `where` holds by `event`; gives back their ids."""
        sources = quoted(sorted(LAW.sources_of(event)))
        absent = ", ".join(f"NULL AS {name}" for name in PAYLOAD if name != "last_error")
        given = f"v AS (SELECT '{event}' AS event, '{LAW.target_of(event)}' AS target, {absent},"
        given += f" {last_error} AS last_error, NULL AS usage)"
        if self.words is not SQLITE:
            given = given.replace("NULL AS", "NULL::text AS")
        own = "runstate_run" if self.words is SQLITE else "r"
        some = f"SELECT q.seq FROM runstate_run AS q, t WHERE q.status IN ({sources}) AND {where}"
        return (
            f"WITH t AS (SELECT {self.now} AS now), {given} UPDATE runstate_run AS r"
            f" SET {self._moving(payload=True, actor=self.param('actor', 'text'), worker='NULL')} FROM v, t"
            f" WHERE r.status IN ({sources}) AND r.seq {self._some(some)} RETURNING {own}.id"
        )

    def _some(self, rows: str) -> str:
        """Return the condition to be among up to `limit` rows `q` that a query finds and nobody else is moving."""
        limited = f"{rows} LIMIT {self.param('limit')}"
        if self.words is SQLITE:
            return f"IN ({limited})"
        # Not IN: where PostgreSQL joins by a loop it asks again for every row, and finds others each time.
        return f"= ANY (ARRAY({limited} FOR UPDATE OF q SKIP LOCKED))"

    _LAPSED: Final = "q.worker IN (SELECT token FROM runstate_worker WHERE closed = 1)"

    @cached_property
    def expire_due(self) -> str:
        """Expire runs whose deadline has passed; one at work a moment later, for its worker knows what it used."""
        late = f"q.expires_at <= (t.now - {self.param('grace')}) / 1000000"
        where = f"q.expires_at <= t.now / 1000000 AND (q.worker IS NULL OR {late})"
        return self._sweeping(RunEvent.EXPIRE, where)

    @cached_property
    def fail_spent(self) -> str:
        """Fail the lapsed runs whose attempts are spent."""
        where = f"{self._LAPSED} AND q.attempt >= {self.param('max_attempts')} AND q.status = '{_STARTED}'"
        return self._sweeping(RunEvent.FAIL, where, self.param("last_error", "text"))

    @cached_property
    def confirm_lapsed(self) -> str:
        """Cancel the lapsed runs that were asked to."""
        return self._sweeping(RunEvent.CONFIRM_CANCEL, self._LAPSED)

    @cached_property
    def take_over(self) -> str:
        """Give up to `limit` lapsed runs with attempts left to a worker; their status stays."""
        own = "runstate_run" if self.words is SQLITE else "r"
        some = (
            f"SELECT q.seq FROM runstate_run AS q, t WHERE {self._LAPSED} AND q.status = '{_STARTED}'"
            f" AND q.attempt < {self.param('max_attempts')} AND q.expires_at > t.now / 1000000"
            f" AND ({self.param('id', 'text')} IS NULL OR q.id = {self.param('id', 'text')})"
            f" AND q.queue = {self.param('queue', 'text')}"
        )
        return (
            f"WITH t AS (SELECT {self.now} AS now) UPDATE runstate_run AS r SET worker = {self.param('worker')},"
            f" attempt = r.attempt + 1 FROM t WHERE r.seq {self._some(some)} AND r.status = '{_STARTED}'"
            f" AND {self._leased} RETURNING {self.claimed(own)}"
        )

    @cached_property
    def release(self) -> str:
        """Give back a run that a worker holds, so that another takes it over at once."""
        own = "runstate_run" if self.words is SQLITE else "r"
        return (
            f"UPDATE runstate_run AS r SET worker = 0, attempt = r.attempt - 1 WHERE r.seq = {self.param('seq')}"
            f" AND r.worker = {self.param('worker')} RETURNING {own}.seq"
        )

    @cached_property
    def ripen(self) -> str:
        """Make up to `limit` runs ready whose time has come, or behind which no run of their thread lives any more."""
        live = quoted([status for status in RunStatus if not LAW.is_terminal(status)])
        first = (
            "q.exclusive IS NULL OR q.exclusive = 'reject' OR (NOT EXISTS (SELECT 1 FROM runstate_run AS h"
            f" WHERE h.thread_id = q.thread_id AND h.status IN ({live})"
            " AND (h.exclusive = 'reject' OR (h.exclusive = 'queue' AND h.ready_at IS NOT NULL)))"
            " AND q.seq = (SELECT min(b.seq) FROM runstate_run AS b WHERE b.thread_id = q.thread_id"
            f" AND b.exclusive = 'queue' AND b.ready_at IS NULL AND b.status = '{BIRTH}'"
            " AND (b.not_before IS NULL OR b.not_before <= t.now)))"
        )
        own = "runstate_run" if self.words is SQLITE else "r"
        some = (
            f"SELECT q.seq FROM runstate_run AS q, t WHERE q.status = '{BIRTH}' AND q.ready_at IS NULL"
            f" AND (q.not_before IS NULL OR q.not_before <= t.now) AND ({first})"
        )
        return (
            f"WITH t AS (SELECT {self.now} AS now) UPDATE runstate_run AS r"
            f" SET ready_at = {self.greatest}(r.at, t.now) FROM t"
            f" WHERE r.ready_at IS NULL AND r.seq {self._some(some)} RETURNING {own}.id"
        )

    # --- leases ---------------------------------------------------------------------------------------------------

    @cached_property
    def open_lease(self) -> str:
        """Begin a worker's session."""
        return (
            f"WITH t AS (SELECT {self.now} AS now)"
            " INSERT INTO runstate_worker (token, name, began_at, lease_until, closed)"
            f" SELECT {self.param('worker')}, {self.param('name', 'text')}, t.now, t.now + {self.param('lease')}, 0"
            " FROM t WHERE true ON CONFLICT (token) DO NOTHING"
        )

    @cached_property
    def heartbeat(self) -> str:
        """Renew a lease that still holds; gives back nothing where it does not."""
        return (
            f"WITH t AS (SELECT {self.now} AS now)"
            f" UPDATE runstate_worker SET lease_until = t.now + {self.param('lease')}"
            f" FROM t WHERE token = {self.param('worker')} AND closed = 0 AND lease_until > t.now RETURNING token"
        )

    @cached_property
    def close_lease(self) -> str:
        """End a session by its worker's own wish."""
        return f"UPDATE runstate_worker SET closed = 1 WHERE token = {self.param('worker')} AND closed = 0"

    @cached_property
    def close_lapsed(self) -> str:
        """Close the leases that lapsed: from then on they are never renewed."""
        # Those that another sweep has under way are left to it: its process may stand still, and all sweeps with it.
        late = "SELECT w.token FROM runstate_worker AS w, t WHERE w.closed = 0 AND w.lease_until <= t.now"
        free = "" if self.words is SQLITE else f" AND token = ANY (ARRAY({late} FOR UPDATE OF w SKIP LOCKED))"
        return (
            f"WITH t AS (SELECT {self.now} AS now) UPDATE runstate_worker SET closed = 1"
            f" FROM t WHERE closed = 0 AND lease_until <= t.now{free} RETURNING token"
        )

    @cached_property
    def forget_leases(self) -> str:
        """Delete sessions that were closed long ago and hold no run."""
        return (
            f"WITH t AS (SELECT {self.now} AS now) DELETE FROM runstate_worker WHERE closed = 1 AND token <> 0"
            f" AND lease_until < (SELECT now FROM t) - {self.param('age')}"
            " AND NOT EXISTS (SELECT 1 FROM runstate_run AS r WHERE r.worker = token)"
        )

    @cached_property
    def note(self) -> str:
        """Keep what a worker notes of a run it holds; gives back nothing where it does not hold it."""
        kept = "coalesce(excluded.{0}, runstate_notes.{0})"
        most = f"{self.greatest}(excluded.{{0}}, runstate_notes.{{0}})"
        return (
            f"WITH t AS (SELECT {self.now} AS now)"
            " INSERT INTO runstate_notes (run, checkpoint, prompt_tokens, completion_tokens, progress)"
            f" SELECT r.seq, {self.json(self.param('checkpoint', 'text'))}, {self.param('prompt')},"
            f" {self.param('completion')}, {self.param('progress', 'text')} FROM runstate_run AS r"
            f" WHERE r.seq = {self.param('seq')} AND r.worker = {self.param('worker')} AND {self._leased}"
            f" ON CONFLICT (run) DO UPDATE SET checkpoint = {kept.format('checkpoint')},"
            f" prompt_tokens = {most.format('prompt_tokens')}, completion_tokens = {most.format('completion_tokens')},"
            f" progress = {kept.format('progress')} RETURNING run"
        )

    # --- the end --------------------------------------------------------------------------------------------------

    def _ended(self) -> str:
        return f"SELECT seq FROM runstate_run WHERE status IN ({_TERMINAL}) AND at < {self.now} - {self.param('age')}"

    @cached_property
    def prunable(self) -> str:
        """How many runs ended longer ago than `age` microseconds."""
        return f"SELECT count(*) FROM ({self._ended()}) AS ended"

    @cached_property
    def prune(self) -> str:
        """Delete up to `limit` of them, the oldest first."""
        some = f"{self._ended()} ORDER BY seq LIMIT {self.param('limit')}"
        among = f"IN ({some})" if self.words is SQLITE else f"= ANY (ARRAY({some}))"
        return f"DELETE FROM runstate_run WHERE seq {among} RETURNING seq"
