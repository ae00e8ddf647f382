"""How it is noticed what a test asks: by wrapping the nine moves of `Run`, and by standing witness to every store.

A store's moves are read from its history, inside the transaction that wrote them, so nothing is counted that the store
rolled back, and nothing that another process did. (What is asked inside a caller's own transaction was asked, whatever
becomes of that.) All of this is there only while somebody watches.
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
from runstate.store._sql.schema import SQLITE
from runstate.testing._hook import EventHook, set_event_hook
from runstate.testing.coverage._data import Exercised
from runstate.testing.factories import ARRANGED, is_arranging

__all__ = ["Watch"]


class Watch:
    """Counts what is asked between `start` and `stop`, for the test that is named at that moment."""

    def __init__(self) -> None:
        self.exercised: Exercised = Exercised()
        self.test: str | None = ""
        """Whose doing it is; None for a test that does not count."""
        self._adding = Lock()
        self._moves: dict[RunEvent, Any] = {}
        self._before: tuple[ExecutionHook | None, EventHook | None] = (None, None)

    def start(self) -> None:
        """Begin to watch. Of several in a process, the last one sees what is asked."""
        for event in RunEvent:
            self._moves[event] = vars(Run)[event]
            setattr(Run, event, self._watched(event, self._moves[event]))
        self._before = (set_execution_hook(self._witness), set_event_hook(self.count))

    def stop(self) -> None:
        """Leave everything as it was before, a session that watches around this one too."""
        if not self._moves:
            return
        for event, move in self._moves.items():
            setattr(Run, event, move)
        self._moves.clear()
        witness, listener = self._before
        set_execution_hook(witness)
        set_event_hook(listener)

    def count(self, status: RunStatus, event: RunEvent) -> None:
        """Note that an event was asked in a status."""
        if self.test is not None:
            with self._adding:
                self.exercised.counts[self.test, status, event] += 1

    def _watched(self, event: RunEvent, move: Callable[..., None]) -> Callable[..., None]:
        @wraps(move)
        def watched(run: Run, *args: Any, **given: Any) -> None:
            if is_arranging():
                return move(run, *args, **given)
            status = run.status
            try:
                move(run, *args, **given)
            except IllegalTransition as refusal:
                self.count(refusal.status, refusal.event)
                raise
            return self.count(status, event)

        return watched

    def _witness(self, session: Connection, batch: Sequence[Command[Any]]) -> None:
        """Perform a batch, and count what it wrote and what it refused."""
        with session.transaction():
            look = session.statements.entries_here
            sqlite = session.statements.dialect is SQLITE
            place = {"before": int(session.execute(session.statements.latest_cursor, {})[0][0])} if sqlite else {}
            # A caller's own transaction may have written before; SQLite's place leaves that out.
            before = set[tuple[Any, ...]]() if sqlite else {tuple(row) for row in session.execute(look, place)}
            execute_in_transaction(session, batch)
            written = [row for row in session.execute(look, place) if tuple(row) not in before]
        for *_, source, event, actor in written:
            if event is not None and actor != ARRANGED:
                self.count(RunStatus(source), RunEvent(event))
        for asked in batch:
            for refusal in asked.refusals:
                lawful = isinstance(refusal, DeadlinePassed)  # there is a row for it, which was not tried
                if isinstance(refusal, IllegalTransition) and not lawful and getattr(asked, "actor", None) != ARRANGED:
                    self.count(refusal.status, refusal.event)
