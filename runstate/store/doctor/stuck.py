"""Runs that need attention: stuck in a live status, past their deadline, or held by a session that does not exist."""

from __future__ import annotations

from typing import Final, NamedTuple

from runstate.clock import format_duration
from runstate.lifecycle import INITIAL_STATUS, RUN_LIFECYCLE, RunEvent
from runstate.store._sql.connection import Connection
from runstate.store._sql.queries import Queries
from runstate.store._sql.rows import Row
from runstate.store.doctor.diagnosis import Severity, Sheet

__all__ = ["examine_waiting"]

_QUEUED: Final = INITIAL_STATUS
_STARTED: Final = RUN_LIFECYCLE.target_of(RunEvent.START)
_GRACE_US: Final = 60_000_000  # the time that sweeps and workers have to act
_UNOWNED_US: Final = 300_000_000

_SWEEP: Final = "let a worker run, or `runstate runs sweep` every few seconds"


class _Kind(NamedTuple):
    """A reason why a live run needs attention."""

    name: str
    severity: Severity
    holds: str
    """The condition, as SQL."""
    sentence: str
    remedy: str


_KINDS: Final = (  # the first that matches a run is reported
    _Kind(
        "stranded",
        "error",
        "r.worker IS NOT NULL AND w.token IS NULL",
        "run {id} is {status} and held by a session that is not in the database, so no worker will take it over",
        "cancel it, or let its deadline end it; and find out what deletes from runstate_worker_session",
    ),
    _Kind(
        "adrift",
        "warning",
        "w.closed = 1 AND {greatest}(w.lease_until_us, r.changed_at_us) < t.now - {grace}",
        "run {id} is {status}, its worker {left}, and no worker has taken it over",
        "let a worker of the queue {queue!r} run, which takes it over; a sweep ends a run that is cancelling",
    ),
    _Kind(
        "overdue",
        "warning",
        "r.expires_at < (t.now - {grace}) / 1000000",
        "run {id} is {status}, and its deadline passed {late} ago",
        _SWEEP,
    ),
    _Kind(
        "unowned",
        "warning",
        "r.status = '{started}' AND r.worker IS NULL AND r.attempt = 0 AND r.changed_at_us < t.now - {unowned}",
        "run {id} has been {status} for {age} without a worker: it was started by hand, so no worker takes it over",
        "complete or fail it by hand, or let its deadline end it",
    ),
    _Kind(
        "retry",
        "warning",
        "r.status = '{started}' AND r.worker IS NULL AND r.attempt > 0 AND r.claimable_at_us < t.now - {unowned}",
        "run {id} is {status} and waits for its next attempt, which is overdue",
        "let a worker of the queue {queue!r} run",
    ),
    _Kind(
        "stuck",
        "warning",
        "{greatest}(r.changed_at_us, coalesce(r.not_before_us, 0)) < t.now - {stuck}",
        "run {id} has been {status} for {age}{held}",
        "{stuck_remedy}",
    ),
)
_STUCK_REMEDY: Final = {
    "queued": "let more workers of the queue {queue!r} run",
    "requires_action": "submit its tool outputs, or cancel it",
    "cancelling": "see what its worker does that it does not stop",
    "in_progress": "see what its worker does, or cancel it",
}


def _live(speak: Queries) -> str:
    """Return the statement that finds live runs that need attention: the oldest of each kind, and their number."""
    words = {"greatest": speak.dialect.greatest, "grace": _GRACE_US, "unowned": _UNOWNED_US, "started": _STARTED}
    words["stuck"] = speak.param("stuck")
    cases = " ".join(f"WHEN {kind.holds.format(**words)} THEN '{kind.name}'" for kind in _KINDS)
    return f"""\
SELECT p.* FROM (
    SELECT k.*, count(*) OVER (PARTITION BY k.kind) AS many,
        row_number() OVER (PARTITION BY k.kind ORDER BY k.changed_at_us, k.seq) AS place
    FROM (
        SELECT r.seq, r.id, r.status, r.changed_at_us, t.now - r.changed_at_us AS age,
            t.now / 1000000 - r.expires_at AS late, r.queue,
            w.name, w.closed, r.worker = 0 AS released,
            r.status = '{_QUEUED}' AND r.claimable_at_us IS NULL AS unready, CASE {cases} END AS kind
        FROM runstate_run AS r CROSS JOIN (SELECT {speak.now} AS now) AS t
            LEFT JOIN runstate_worker_session AS w ON w.token = r.worker
        WHERE r.expires_at IS NOT NULL) AS k
    WHERE k.kind IS NOT NULL) AS p
WHERE p.place <= {speak.param("most")} ORDER BY p.kind, p.place"""


def examine_waiting(session: Connection, sheet: Sheet, stuck_after_s: float) -> None:
    """Add the findings about runs that need attention, and about lapsed leases that were not closed."""
    speak = session.statements
    kinds = {kind.name: kind for kind in _KINDS}
    for row in session.execute(_live(speak), {"stuck": int(stuck_after_s * 1_000_000), "most": sheet.most}):
        name, many, place = row[11:]
        kind, words = kinds[name], _words(row)
        sheet.add(kind.severity, name, kind.sentence.format(**words), kind.remedy.format(**words), run_id=row[1])
        if place == sheet.most:
            sheet.add_uncounted(kind.severity, name, many - place)
    lapsed = (
        "SELECT w.name, t.now - w.lease_until_us FROM runstate_worker_session AS w"
        f" CROSS JOIN (SELECT {speak.now} AS now) AS t"
        f" WHERE w.closed = 0 AND w.lease_until_us < t.now - {_GRACE_US} ORDER BY w.lease_until_us LIMIT 1000"
    )
    for name, late in session.execute(lapsed, {}):
        sentence = f"the lease of worker {name} lapsed {format_duration(late)} ago, and no sweep has closed it"
        sheet.add("warning", "lapsed", sentence, _SWEEP, thing=name)
    released = session.execute("SELECT closed FROM runstate_worker_session WHERE token = 0", {})
    if [tuple(row) for row in released] != [(1,)]:
        sentence = "the session with the token 0 is missing or open: a released run is never taken over"
        again = "INSERT INTO runstate_worker_session VALUES (0, 'released', 0, 0, 1), or set its closed to 1"
        sheet.add("error", "row", sentence, again, thing="runstate_worker_session")


def _words(row: Row) -> dict[str, str]:
    run_id, status, _, age, late, queue, worker, closed, released, unready = row[1:11]
    held = ""
    if worker is not None and closed == 0:
        held = f", and worker {worker} has it"
    elif unready:
        held = ", and not ready to be claimed: it waits for its time, or behind its thread's live run"
    remedy = _STUCK_REMEDY.get(status, "see what it waits for").format(queue=queue)
    words = {
        "id": run_id,
        "status": status,
        "age": format_duration(age),
        "held": held,
        "queue": queue,
        "stuck_remedy": remedy,
    }
    left = "released it" if released else f"{worker} is gone"
    return {**words, "late": format_duration(late * 1_000_000), "left": left}
