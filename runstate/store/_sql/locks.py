"""The statements that lock runs and threads on PostgreSQL, before others that change them."""

from __future__ import annotations

from functools import cached_property

from runstate.store._sql.dialect import thread_lock_sql
from runstate.store._sql.queries import Queries

__all__ = ["Locks"]


class Locks(Queries):
    """Lock runs and threads until the commit."""

    @cached_property
    def lock_runs(self) -> str:
        """PostgreSQL: lock the runs that a request settles by several statements, in the order of their threads.

        The rows come before the threads, as in every statement that ends a run: two transactions with different orders
        would wait for each other.
        """
        return (
            "SELECT seq FROM runstate_run WHERE seq = ANY (%(keys)s::bigint[]) AND worker = %(worker)s::bigint"
            " ORDER BY thread_id FOR UPDATE"
        )

    @cached_property
    def lock_held(self) -> str | None:
        """Lock those of some runs, by id, that a worker holds. None where writers are alone.

        A statement that ends a run reads its tokens by a snapshot from before it has the lock. What the worker commits
        while the statement waits would be missing. So it is executed after this one, with a snapshot of its own.
        """
        if not self.dialect.writes_in_one:
            return None
        return (
            "SELECT seq FROM runstate_run WHERE id = ANY (%(key)s::text[]) AND worker IS NOT NULL"
            " ORDER BY thread_id FOR UPDATE"  # as `lock_runs`, or two transactions would wait for each other
        )

    @cached_property
    def lock_threads(self) -> str:
        """PostgreSQL: lock the threads of runs that other runs wait for, in the order of all transactions."""
        held = (
            "SELECT thread_id FROM runstate_run WHERE seq = ANY (%(keys)s::bigint[]) AND thread_policy IS NOT NULL"
            " ORDER BY thread_id"
        )
        return f"SELECT {thread_lock_sql('thread_id')} FROM ({held}) AS held"
