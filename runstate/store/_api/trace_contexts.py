"""The methods of a store for the trace contexts of a run, by which the traces of several processes are linked."""

from __future__ import annotations

from typing import NamedTuple

from runstate.store._api.worker_commands import save_checkpoint_command
from runstate.store._engine.transport import StoreBase
from runstate.store._sql.connection import Connection
from runstate.store._types import StoredRun
from runstate.store._worker_types import Lease

__all__ = ["TraceContextMixin", "TraceContexts"]


class TraceContexts(NamedTuple):
    """The trace contexts of a run, each a W3C `traceparent`. None for one that is not known."""

    creator: str | None
    """That of the caller that created the run."""
    last_call: str | None
    """That of the last call of its handler."""


class TraceContextMixin(StoreBase):
    """The methods of a store for trace contexts."""

    def trace_contexts(self, run: StoredRun) -> TraceContexts:
        """Return the trace contexts of a run."""

        def look(session: Connection) -> TraceContexts:
            params = {"run": run.seq, "id": run.id}
            return TraceContexts(*session.execute(session.statements.trace_contexts, params)[0])

        return self._transport.read_for_worker(look)

    def save_trace_context(self, lease: Lease, run: StoredRun, trace_context: str) -> bool:
        """Save the trace context of the call of a claimed run's handler. Return whether it was saved.

        Return False if the lease no longer has the run, or has it by a later claim. Raises `InvalidRun` for a wrong
        value.
        """
        return self._transport.execute(save_checkpoint_command(lease, run, None, None, None, trace_context))
