"""The statements about queues: which are paused, since when, by whom and why."""

from __future__ import annotations

from functools import cached_property

from runstate.store._sql.leases import Leases
from runstate.store._sql.small_tables import unpaused

__all__ = ["PAUSE_COLUMNS", "Queues"]

PAUSE_COLUMNS = ("queue", "paused_at_us", "paused_by", "reason", "resumed_at_us", "resumed_by")


class Queues(Leases):
    """Pause and resume queues."""

    @staticmethod
    def not_paused(queue: str) -> str:
        """Return the condition, after an AND, that a queue is not paused."""
        # With a parameter the database looks once, and not for each row.
        return (
            f" AND NOT EXISTS (SELECT 1 FROM runstate_pause AS p WHERE p.queue = {queue} AND p.resumed_at_us IS NULL)"
        )

    @cached_property
    def pause(self) -> str:
        """Pause a queue; gives back nothing where it is paused already."""
        queue = self.param("queue", "text")
        # A pause is later than the one before, also if the clock has not moved: its time is part of the key.
        before = f"(SELECT max(paused_at_us) + 1 FROM runstate_pause WHERE queue = {queue})"
        return (
            "INSERT INTO runstate_pause (queue, paused_at_us, paused_by, reason)"
            f" SELECT {queue}, {self.dialect.greatest}({self.now}, coalesce({before}, 0)),"
            f" {self.param('actor', 'text')}, {self.param('reason', 'text')} WHERE {unpaused(queue)}"
            " ON CONFLICT DO NOTHING RETURNING queue"
        )

    @cached_property
    def resume(self) -> str:
        """Resume a paused queue; gives back nothing where it is not paused."""
        at = f"{self.dialect.greatest}(paused_at_us, {self.now})"
        return (
            f"UPDATE runstate_pause SET resumed_at_us = {at}, resumed_by = {self.param('actor', 'text')}"
            f" WHERE queue = {self.param('queue', 'text')} AND resumed_at_us IS NULL RETURNING queue"
        )

    @cached_property
    def pauses(self) -> str:
        """The pauses of queues, the latest first; with `all` 0 only those that last."""
        return (
            f"SELECT {', '.join(PAUSE_COLUMNS)} FROM runstate_pause"
            f" WHERE resumed_at_us IS NULL OR {self.param('all')} = 1"
            f" ORDER BY paused_at_us DESC, queue LIMIT {self.param('limit')}"
        )
