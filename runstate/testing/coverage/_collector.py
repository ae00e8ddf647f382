"""The collector of transition coverage: it wraps the nine moves of `Run` and sets the execution hook of the stores.

The moves of a store are read from its history, inside the transaction that wrote them. So nothing is counted that the
store rolled back or that another process did. (An event inside a caller's transaction counts even if the caller rolls
it back.) The wrappers and the hook are in place only between `start` and `stop`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from threading import Lock
from typing import Any

from runstate.lifecycle import RunEvent, RunStatus
from runstate.lifecycle.errors import DeadlinePassed, IllegalTransition
from runstate.run import Run
from runstate.store._engine.commands import Command
from runstate.store._engine.executor import ExecutionHook, execute_in_transaction, set_execution_hook
from runstate.store._sql.connection import Connection
from runstate.testing._hook import EventHook, set_event_hook
from runstate.testing.coverage._data import CoverageData
from runstate.testing.factories import SETUP_ACTOR, is_setting_up

__all__ = ["Collector"]


class Collector:
    """Counts the events between `start` and `stop` for the current `test`."""

    def __init__(self) -> None:
        self.data: CoverageData = CoverageData()
        self.test: str | None = ""
        """The id of the current test; "" between tests, None for a test that does not count."""
        self._lock = Lock()
        self._moves: dict[RunEvent, Any] = {}
        self._previous: tuple[ExecutionHook | None, EventHook | None] = (None, None)

    def start(self) -> None:
        """Start counting. Of several collectors in a process, the last one to start counts."""
        for event in RunEvent:
            self._moves[event] = vars(Run)[event]
            setattr(Run, event, self._counting(event, self._moves[event]))
        self._previous = (set_execution_hook(self._execute), set_event_hook(self.count))

    def stop(self) -> None:
        """Stop counting and restore what was there before, such as an outer collector."""
        if not self._moves:
            return
        for event, move in self._moves.items():
            setattr(Run, event, move)
        self._moves.clear()
        execution_hook, event_hook = self._previous
        set_execution_hook(execution_hook)
        set_event_hook(event_hook)

    def count(self, status: RunStatus, event: RunEvent) -> None:
        """Count an event in a status."""
        if self.test is not None:
            with self._lock:
                self.data.counts[self.test, status, event] += 1

    def _counting(self, event: RunEvent, move: Callable[..., None]) -> Callable[..., None]:
        @wraps(move)
        def counting_move(run: Run, *args: Any, **kwargs: Any) -> None:
            if is_setting_up():
                return move(run, *args, **kwargs)
            status = run.status
            try:
                move(run, *args, **kwargs)
            except IllegalTransition as refusal:
                self.count(refusal.status, refusal.event)
                raise
            return self.count(status, event)

        return counting_move

    def _execute(self, connection: Connection, batch: Sequence[Command[Any]]) -> None:
        """Execute a batch, and count its moves and its refusals."""
        with connection.transaction():
            entries_sql = connection.statements.entries_here
            params = {"before": connection.execute(connection.statements.dialect.entry_mark, {})[0][0]}
            before = {tuple(row) for row in connection.execute(entries_sql, params)}  # by a caller's own transaction
            execute_in_transaction(connection, batch)
            written = [row for row in connection.execute(entries_sql, params) if tuple(row) not in before]
        for *_, source, event, actor in written:
            if event is not None and actor != SETUP_ACTOR:
                self.count(RunStatus(source), RunEvent(event))
        for command in batch:
            for refusal in command.refusals:
                is_legal = isinstance(refusal, DeadlinePassed)  # the event has a transition, which was not made
                if (
                    isinstance(refusal, IllegalTransition)
                    and not is_legal
                    and getattr(command, "actor", None) != SETUP_ACTOR
                ):
                    self.count(refusal.status, refusal.event)
