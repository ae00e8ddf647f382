"""The committer: it commits every change of any run, from any thread or coroutine of this process.

Commands that arrive during a commit wait, and are committed together next. There is no timer, so a single command has
no extra delay. (If no commit is under way, a blocking caller commits in its own thread, which saves two switches.)
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any, Final, TypeVar

from runstate.clock import monotonic, sleep
from runstate.lifecycle.errors import RunstateError
from runstate.store._engine.commands import Command, CreateRuns, InTransaction, SettleAndClaim, TransitionRun
from runstate.store._engine.executor import execute_batch
from runstate.store._sql.connection import Connection, Database, Trouble
from runstate.store._sql.skipped import SkippedRuns
from runstate.store.availability import Availability, is_outage
from runstate.store.backoff import Backoff
from runstate.store.errors import OutcomeUnknown, StoreError, StoreUnavailable

__all__ = ["Committer"]

T = TypeVar("T")

MAX_BATCH: Final = 500  # commands per commit: a larger batch gains little and delays others
MAX_RETRIES: Final = 5  # of a transaction that the database aborted because of a conflict
_CLOSING: Final = 3  # times `wait_s`: how long a reply may take when the store is closed
_CLOSING_S: Final = 5.0  # at least
_LOOK_S: Final = 0.02  # between two checks whether all is committed
_FIRST_S: Final = 0.05  # before the second try: the database may come back, or the other transaction end
_MOST_S: Final = 1.0  # between two tries to connect while there are commands with an unknown outcome


class Committer:
    """Commits commands in batches, and gives each its result."""

    def __init__(
        self,
        database: Database,
        committed: Callable[[Sequence[Command[Any]]], None],
        wait_s: float,
        availability: Availability,
    ) -> None:
        self._database = database
        self._availability = availability
        self._committed = committed
        self._wait_s = wait_s
        self.skipped: Final = SkippedRuns()
        """The runs that claims and sweeps of this store leave out for a while."""
        self._session: Connection | None = None
        self._waiting: SimpleQueue[Command[Any] | None] = SimpleQueue()
        self._deferred: Command[Any] | None = None
        """The first command of the next batch."""
        self._writing = Lock()
        self._starting = Lock()
        self._thread: Thread | None = None
        self._closed = False
        self._answered = 0
        """The number of finished batches; it need not be exact."""
        self._is_shut_down = False
        """Whether nothing is committed any more, and no thread takes commands from the queue."""
        self._process = os.getpid()

    # --- requests -------------------------------------------------------------------------------------------------

    def execute(self, command: Command[T]) -> T:
        """Commit a command, and return its result. Blocks the thread."""
        self.check_open()
        if self._waiting.empty() and self._writing.acquire(blocking=False):
            try:
                self._commit([command])
            finally:
                self._writing.release()
            self._finish([command])
        else:
            command.arm()
            self._enqueue(command)
            command.wait()
        return command.result()

    def submit(self, command: Command[T]) -> asyncio.Future[T]:
        """Enqueue a command; return the future of its result, in the running loop."""
        self.check_open()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        command.future = future
        self._enqueue(command)
        return future

    @property
    def is_ours(self) -> bool:
        """Whether this process opened the store: its connections do not survive a fork."""
        return os.getpid() == self._process

    @property
    def of_server(self) -> bool:
        """Whether the database has a server, which has only so many connections."""
        return not self._database.embedded

    def check_open(self) -> None:
        """Raise `StoreError` once the store is closed, or in a process that was forked from its own."""
        if self._closed:
            raise StoreError(f"the store {self._database.display_url} is closed")
        if not self.is_ours:
            raise StoreError("a store does not survive a fork: open one in each process")

    def _enqueue(self, command: Command[Any]) -> None:
        self._waiting.put(command)
        if self._is_shut_down:  # it was shut down after `check_open`
            self._refuse_rest()
            return
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    self._thread = Thread(target=self._run_loop, name="runstate-committer", daemon=True)
                    self._thread.start()

    def post(self, command: Command[Any]) -> None:
        """Enqueue a command without waiting for its result."""
        self.check_open()
        self._enqueue(command)

    def external_commits(self) -> int | None:
        """Return SQLite's count of other connections' commits; None while this one is writing."""
        if self._session is None and self._availability.is_away:
            return None  # retries connect again, not this
        if not self._writing.acquire(blocking=False):
            return None
        try:
            count: int = self._connected().execute("PRAGMA data_version", {})[0][0]
            return count
        finally:
            self._writing.release()

    # --- committing -----------------------------------------------------------------------------------------------

    def _run_loop(self) -> None:
        while (first := self._next()) is not None:
            with self._writing:
                batch = self._drain(first)
                self._commit(batch)
            self._finish(batch)
        if self._is_shut_down:  # the last commit ended after `close` had given up waiting for it
            with self._writing:
                self._disconnect()

    def _next(self) -> Command[Any] | None:
        first, self._deferred = self._deferred, None
        return self._waiting.get() if first is None else first

    def _drain(self, first: Command[Any]) -> list[Command[Any]]:
        """Return a batch of waiting commands, with one round trip of a worker at most.

        The second one of a worker is committed next, while the handlers of the first one's claims are called.
        """
        batch = [first]
        workers = {first.worker} if isinstance(first, SettleAndClaim) and first.is_round_trip else set[int]()
        with suppress(Empty):
            while len(batch) < MAX_BATCH:
                command = self._waiting.get_nowait()
                if command is None:
                    self._waiting.put(None)
                    break
                if isinstance(command, SettleAndClaim) and command.is_round_trip:
                    if command.worker in workers:
                        self._deferred = command
                        break
                    workers.add(command.worker)
                batch.append(command)
        return batch

    def _connected(self) -> Connection:
        if self._session is not None and self._session.is_stale():
            self._give_up(StoreError(f"{self._database.display_url} was deleted or replaced"))
        if self._session is None and not self._is_shut_down:
            try:
                self._session = self._database.open()
                self._session.skipped = self.skipped
            except StoreError as error:
                if is_outage(error):
                    self._availability.failed(error)
                raise
        if self._is_shut_down:  # `close` was called meanwhile
            self._disconnect()
        if self._session is None:
            raise StoreError(f"the store {self._database.display_url} is closed")
        return self._session

    def _commit(self, batch: Sequence[Command[Any]], tries: int = MAX_RETRIES) -> None:
        """Commit a batch, or its commands one by one if that fails. Afterwards each has its result or its error."""
        kept = self._session
        try:
            session = self._connected()
        except Exception as error:  # refuse them all: one by one, each would wait as long again
            _refuse(batch, error)
            return
        session.trouble = None
        try:
            execute_batch(session, batch)
        except OutcomeUnknown as error:
            self._give_up(error)
            self._retry_unknown(batch, error)
        except RunstateError as error:
            self._recover(session, batch, error, tries, is_new=session is not kept)
        except Exception as error:  # a bug of this library: the callers must get it, and not wait forever
            self._disconnect()
            self._commit_individually(batch, error)
        except BaseException:  # an interrupt, at any point
            self._disconnect()
            raise
        else:
            if not self._availability.settled:
                self._availability.succeeded()

    def _recover(
        self, session: Connection, batch: Sequence[Command[Any]], error: RunstateError, tries: int, *, is_new: bool
    ) -> None:
        """Handle an error that rolled a batch back: retry it, on another session or one by one, or refuse it."""
        match session.trouble:
            case Trouble.SESSION_LOST:
                self._give_up(error)
                if not is_new:  # nothing was done, and a new session may be connected to a server that can do it
                    self._commit_again(batch, tries)
                elif isinstance(error, StoreUnavailable):
                    _refuse(batch, error)
                else:
                    self._commit_individually(batch, error)
            case Trouble.CONFLICT if tries > 1:
                sleep(Backoff(_FIRST_S * 2 ** (MAX_RETRIES - tries)).next())
                self._commit_again(batch, tries - 1)
            case Trouble.NOT_BEGUN:
                _refuse(batch, error)
            case _:
                self._commit_individually(batch, error)

    def _commit_again(self, batch: Sequence[Command[Any]], tries: int) -> None:
        for command in batch:
            command.reset()
        self._commit(batch, tries)

    def _give_up(self, error: Exception) -> None:
        """Close an unusable session, and report it: sessions that were opened with it may be unusable too."""
        self._disconnect()
        self._availability.failed(error, session_lost=True)

    def _commit_individually(self, batch: Sequence[Command[Any]], error: Exception) -> None:
        if len(batch) == 1:
            _refuse(batch, error)
            return
        for command in batch:
            command.reset()
            self._commit([command])

    def _retry_unknown(self, batch: Sequence[Command[Any]], error: OutcomeUnknown) -> None:
        """Repeat the commands that can be recognised if they were executed before, after their reply was lost."""
        until, backoff = monotonic() + self._wait_s, Backoff(_FIRST_S, _MOST_S)
        while True:
            try:
                self._connected()
                break
            except StoreError as unreachable:
                if not is_outage(unreachable) or monotonic() > until:
                    _refuse(batch, error)
                    return
                sleep(backoff.next())
        for command in batch:
            command.reset()
            command.is_retry = True
            if _is_idempotent(command):
                self._retry_one(command, error)
            else:
                command.set_exception(error)

    def _retry_one(self, command: Command[Any], unknown: OutcomeUnknown) -> None:
        try:
            execute_batch(self._connected(), [command])
        except StoreError as again:
            self._disconnect()
            if is_outage(again):
                self._availability.failed(again)
            command.set_exception(unknown)  # whatever failed this time, the first try may have succeeded
        except Exception as error:
            command.set_exception(error)
        else:
            if not self._availability.settled:
                self._availability.succeeded()

    def _disconnect(self) -> None:
        if self._session is not None:
            session, self._session = self._session, None
            with suppress(Exception):  # it may be broken
                session.close()

    # --- results --------------------------------------------------------------------------------------------------

    def _finish(self, batch: Sequence[Command[Any]]) -> None:
        self._answered += 1
        self._answer(batch)
        self._committed(batch)

    def _answer(self, batch: Sequence[Command[Any]]) -> None:
        loops: dict[asyncio.AbstractEventLoop, list[Command[Any]]] = {}
        for command in batch:
            if command.future is None:
                command.notify()
            else:
                loops.setdefault(command.future.get_loop(), []).append(command)
        for loop, commands in loops.items():
            with suppress(RuntimeError):  # the loop is closed, and no coroutine waits there
                loop.call_soon_threadsafe(_resolve, commands)

    def close(self) -> None:
        """Commit the waiting commands, then close the connection, in the end even if the database does not reply."""
        if self._is_shut_down:
            return
        self._closed = True
        self._waiting.put(None)
        try:
            if not self._finish_committing(max(_CLOSING * self._wait_s, _CLOSING_S)):
                self._is_shut_down = True
                session = self._session
                if session is not None:
                    session.interrupt()
                self._finish_committing(_CLOSING_S)
        finally:
            self._refuse_rest()

    def _finish_committing(self, patience_s: float) -> bool:
        """Wait until no commit is under way, and disconnect. Return False if no batch ends for `patience_s` seconds."""
        answered, until = -1, 0.0
        while True:
            if self._answered != answered:
                answered, until = self._answered, monotonic() + patience_s
            thread = self._thread
            if thread is not None and thread.is_alive():
                thread.join(_LOOK_S)
            elif self._writing.acquire(timeout=_LOOK_S):
                try:
                    self._is_shut_down = True
                    self._disconnect()
                finally:
                    self._writing.release()
                return True
            if monotonic() > until:
                return False

    def _refuse_rest(self) -> None:
        """Refuse the commands that arrived while the store was closed."""
        deferred, self._deferred = self._deferred, None
        rest: list[Command[Any]] = [] if deferred is None else [deferred]
        with suppress(Empty):
            while True:
                command = self._waiting.get_nowait()
                rest += () if command is None else (command,)
        self._waiting.put(None)  # for a committing thread that has not ended yet
        _refuse(rest, StoreError(f"the store {self._database.display_url} is closed"))
        self._answer(rest)


def _refuse(batch: Sequence[Command[Any]], error: Exception) -> None:
    for command in batch:
        command.reset()
        command.set_exception(error)


def _resolve(commands: Sequence[Command[Any]]) -> None:
    for command in commands:
        future = command.future
        if future is None or future.done():
            continue  # the caller was cancelled meanwhile; its command was executed
        try:
            future.set_result(command.result())
        except Exception as error:
            future.set_exception(error)


def _is_idempotent(command: Command[Any]) -> bool:
    """Return whether a repetition of a command cannot be executed twice, nor be refused because of the first one."""
    if isinstance(command, TransitionRun | SettleAndClaim | InTransaction):
        return command.is_idempotent
    return isinstance(command, CreateRuns)
