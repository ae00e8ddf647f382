"""The statements about workers' leases, and what a worker notes under one."""

from __future__ import annotations

from functools import cached_property

from runstate.store._sql.locks import Locks

__all__ = ["Leases"]


class Leases(Locks):
    """Begin, renew and end leases; note what only a lease's holder may."""

    def leased(self, now: str = "(SELECT now FROM t)") -> str:
        """Return the condition that a worker's lease holds at a moment. It depends on no row: one look a statement."""
        worker = self.param("worker")
        return (
            f"EXISTS (SELECT 1 FROM runstate_worker_session AS w WHERE w.token = {worker} AND w.closed = 0"
            f" AND w.lease_until_us > {now})"
        )

    @staticmethod
    def same_claim(version: str, attempt: str) -> str:
        """Return the condition that a run is still in the claim that had it at a version, in an attempt.

        The only entry that a claimed run can have meanwhile is the request to cancel it. After a release the same
        worker may claim the run again at the same version: then the attempt differs.
        """
        return f"r.version <= {version} + 1 AND r.attempt = {attempt}"

    @cached_property
    def open_lease(self) -> str:
        """Begin a worker's session."""
        return (
            f"WITH t AS (SELECT {self.now} AS now)"
            " INSERT INTO runstate_worker_session (token, name, began_at_us, lease_until_us, closed)"
            f" SELECT {self.param('worker')}, {self.param('name', 'text')}, t.now, t.now + {self.param('lease')}, 0"
            " FROM t WHERE true ON CONFLICT (token) DO NOTHING"
        )

    @cached_property
    def heartbeat(self) -> str:
        """Renew a lease that still holds; gives back nothing where it does not."""
        until = f"{self.dialect.greatest}(began_at_us, t.now + {self.param('lease')})"  # a clock may have gone back
        return (
            f"WITH t AS (SELECT {self.now} AS now) UPDATE runstate_worker_session SET lease_until_us = {until}"
            f" FROM t WHERE token = {self.param('worker')} AND closed = 0 AND lease_until_us > t.now RETURNING token"
        )

    @cached_property
    def workers(self) -> str:
        """The sessions whose leases hold, and how many runs each has."""
        lookups = self.dialect.lookups
        held = f"SELECT count(*) FROM {lookups.holders} AS h WHERE h.worker = w.token"
        return (
            f"WITH t AS (SELECT {self.now} AS now) SELECT w.name, w.began_at_us, w.lease_until_us, ({held})"
            " FROM runstate_worker_session AS w, t WHERE w.closed = 0 AND w.lease_until_us > t.now"
            " ORDER BY w.name, w.began_at_us"
        )

    @cached_property
    def close_lease(self) -> str:
        """End a session by its worker's own wish."""
        return f"UPDATE runstate_worker_session SET closed = 1 WHERE token = {self.param('worker')} AND closed = 0"

    @cached_property
    def close_expired_leases(self) -> str:
        """Close the leases that lapsed: from then on they are never renewed."""
        # Those that another sweep has under way are left to it: its process may stand still, and all sweeps with it.
        late = "SELECT w.token FROM runstate_worker_session AS w, t WHERE w.closed = 0 AND w.lease_until_us <= t.now"
        free = self.dialect.unlocked("token", late, "w")
        return (
            f"WITH t AS (SELECT {self.now} AS now) UPDATE runstate_worker_session SET closed = 1"
            f" FROM t WHERE closed = 0 AND lease_until_us <= t.now{free} RETURNING token"
        )

    @cached_property
    def forget_leases(self) -> str:
        """Delete sessions that were closed long ago and hold no run."""
        return (
            f"WITH t AS (SELECT {self.now} AS now) DELETE FROM runstate_worker_session WHERE closed = 1 AND token <> 0"
            f" AND lease_until_us < (SELECT now FROM t) - {self.param('age')}"
            f" AND NOT EXISTS (SELECT 1 FROM {self.dialect.lookups.holders} AS r WHERE r.worker = token)"
        )

    @cached_property
    def save_checkpoint(self) -> str:
        """Keep what a worker notes of a run it holds; gives back nothing where it does not hold it."""
        # Until a note is committed no sweep closes the lease, or others would go on from an older note. The note waits
        # for no client that ends the run: the tokens since the last note are not counted then in any case.
        return (
            f"WITH t AS (SELECT {self.now} AS now)"
            " INSERT INTO runstate_checkpoint"
            " (run, checkpoint, prompt_tokens, completion_tokens, progress, trace_context)"
            f" SELECT r.seq, {self.dialect.as_json(self.param('checkpoint', 'text'))}, {self.param('prompt')},"
            f" {self.param('completion')}, {self.param('progress', 'text')}, {self.param('trace_context', 'text')}"
            " FROM runstate_run AS r JOIN runstate_worker_session AS w ON w.token = r.worker"
            f" WHERE r.seq = {self.param('seq')} AND r.worker = {self.param('worker')}"
            f" AND {self.same_claim(self.param('version'), self.param('attempt'))}"
            " AND w.closed = 0 AND w.lease_until_us > (SELECT now FROM t)"
            f"{self.dialect.hold_lease}"
            f" {self.merge_checkpoint} RETURNING run"
        )

    @property
    def merge_checkpoint(self) -> str:
        """What an INSERT into `runstate_checkpoint` does with a row that is there: keep what is not given."""
        kept = "coalesce(excluded.{0}, runstate_checkpoint.{0})"
        most = f"{self.dialect.greatest}(excluded.{{0}}, runstate_checkpoint.{{0}})"
        return (
            f"ON CONFLICT (run) DO UPDATE SET checkpoint = {kept.format('checkpoint')},"
            f" prompt_tokens = {most.format('prompt_tokens')}, completion_tokens = {most.format('completion_tokens')},"
            f" progress = {kept.format('progress')}, trace_context = {kept.format('trace_context')}"
        )
