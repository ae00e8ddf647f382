"""Transports between the public methods and the database: writes by the committer, reads on other connections."""

from __future__ import annotations

import os
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import get_ident
from typing import Final, Protocol, TypeVar

from runstate.clock import monotonic, sleep
from runstate.store._engine.commands import Command, InTransaction, read_error
from runstate.store._engine.committer import Committer
from runstate.store._engine.executor import execute_batch
from runstate.store._sql.connection import Connection, Database, Trouble
from runstate.store.availability import Availability
from runstate.store.backoff import Backoff
from runstate.store.errors import OutcomeUnknown, StoreError

__all__ = ["CallerTransaction", "ReadPool", "StoreBase", "SyncTransport", "Transport", "read_command"]

T = TypeVar("T")

_LOOK_S: Final = 0.005  # between two checks whether a thread still reads
_CLOSING_S: Final = 5.0  # for reads to finish when the pool is closed, at least
_TRIES: Final = 5  # of a read that a standby cancels because of changes from its primary
_MAX_IDLE: Final = 8  # idle connections: more are opened for more simultaneous reads, and closed afterwards


class Transport(Protocol):
    """The path of requests to the database and of results back."""

    def execute(self, command: Command[T]) -> T:
        """Execute a command, and return its result."""
        ...

    def read(self, look: Callable[[Connection], T]) -> T:
        """Call `look` with a connection, and return its result."""
        ...

    def read_for_worker(self, look: Callable[[Connection], T]) -> T:
        """Do the same by one statement, without a connection for reads where a server has only so many."""
        ...


class ReadPool:
    """A pool of connections that only read, each used by one thread at a time."""

    def __init__(self, database: Database, wait_s: float, availability: Availability) -> None:
        self._database = database
        self._wait_s = wait_s
        self._availability = availability
        self._idle: SimpleQueue[tuple[Connection, int]] = SimpleQueue()
        """The idle connections, each with the epoch in which it was opened."""
        self._busy: dict[int, Connection] = {}
        """The connections in use, by thread."""
        self._closed = False
        self._process = os.getpid()

    def read(self, look: Callable[[Connection], T]) -> T:
        """Call `look` with a connection, and return its result. Repeat it if an idle connection was unusable."""
        if self._closed:
            raise StoreError(f"the store {self._database.display_url} is closed")
        if os.getpid() != self._process:
            raise StoreError("a store does not survive a fork: open one in each process")
        session, epoch, kept = self._getconn()
        try:
            return self._look(session, epoch, look)
        except StoreError as error:
            return self._read_again(look, session, kept, error)

    def _read_again(self, look: Callable[[Connection], T], session: Connection, kept: bool, error: StoreError) -> T:
        """Read again if that may help: on a new session after an old one was lost, or after a conflict."""
        backoff = Backoff(_LOOK_S)
        for _ in range(_TRIES):
            if session.trouble is Trouble.CONFLICT:
                sleep(backoff.next())
            elif not (kept and session.trouble is Trouble.SESSION_LOST):
                break
            session, epoch, kept = self._getconn()
            try:
                return self._look(session, epoch, look)
            except StoreError as again:
                error = again
        raise read_error(error) from error.__cause__

    def _getconn(self) -> tuple[Connection, int, bool]:
        """Return a session, the epoch in which it was opened, and whether it was idle before."""
        try:
            while True:
                session, epoch = self._idle.get_nowait()
                if epoch == self._availability.epoch and not session.is_stale():
                    return session, epoch, True
                session.close()
        except Empty:
            epoch = self._availability.epoch
            return self._database.open(reading=True), epoch, False

    def _look(self, session: Connection, epoch: int, look: Callable[[Connection], T]) -> T:
        me = get_ident()
        self._busy[me] = session
        session.trouble = None
        try:
            return look(session)
        except OutcomeUnknown:
            session.trouble = Trouble.SESSION_LOST
            raise
        finally:
            self._busy.pop(me, None)
            if session.trouble is Trouble.SESSION_LOST:
                session.close()
                self._drain()  # the other idle sessions were probably lost too
            else:
                self._putconn(session, epoch)

    def _putconn(self, session: Connection, epoch: int) -> None:
        if self._idle.qsize() >= _MAX_IDLE:
            session.close()
            return
        self._idle.put((session, epoch))
        if self._closed:  # `close` may have drained the pool before this session was put back
            self._drain()

    def close(self) -> None:
        """Close the connections. Reads under way may finish first; those without a reply are interrupted in the end."""
        self._closed = True
        self._drain()
        until = monotonic() + max(self._wait_s, _CLOSING_S)
        while self._busy and monotonic() < until:
            sleep(_LOOK_S)
        for session in self._busy.copy().values():
            session.interrupt()

    def _drain(self) -> None:
        try:
            while True:
                self._idle.get_nowait()[0].close()
        except Empty:
            return


class SyncTransport:
    """The transport for blocking callers."""

    def __init__(self, committer: Committer, readers: ReadPool | None) -> None:
        self.committer: Final = committer
        self.readers: Final = readers
        """None for a database in memory: its only connection is used for reads too."""

    def execute(self, command: Command[T]) -> T:
        """Let the committer execute a command, and return its result."""
        return self.committer.execute(command)

    def read(self, look: Callable[[Connection], T]) -> T:
        """Call `look` with a reading connection, and return its result."""
        self.committer.check_open()
        if self.readers is None:
            return self.committer.execute(InTransaction(look))
        return self.readers.read(look)

    def read_for_worker(self, look: Callable[[Connection], T]) -> T:
        """Call `look` with the writing connection of a client of a server, and return its result."""
        return self.committer.execute(read_command(look)) if self.committer.of_server else self.read(look)


def read_command(look: Callable[[Connection], T]) -> InTransaction[T]:
    """Return the command that reads by one statement on the writing connection."""
    return InTransaction(look, one_statement=True, only_reads=True)


class CallerTransaction:
    """The transport inside a caller's own transaction, which the caller commits or rolls back."""

    def __init__(self, session: Connection, check: Callable[[Connection], None]) -> None:
        """Use the caller's connection. `check` raises unless it leads to the tables of the store."""
        self._session = session
        self._check = check
        self._checked = False

    def _require_same_store(self) -> None:
        if not self._checked:
            self._check(self._session)
            self._checked = True

    def execute(self, command: Command[T]) -> T:
        """Execute a command on the caller's connection. It is committed when the caller commits."""
        try:
            self._require_same_store()
            self._session.trouble = None
            execute_batch(self._session, [command])
        except StoreError as error:
            command.set_exception(error)
        return command.result()

    def read(self, look: Callable[[Connection], T]) -> T:
        """Call `look` with the caller's connection, and return its result. It sees the caller's own changes."""
        self._require_same_store()
        try:
            return look(self._session)
        except StoreError as error:
            raise read_error(error) from error.__cause__

    def read_for_worker(self, look: Callable[[Connection], T]) -> T:
        """Do the same as `read`."""
        return self.read(look)


class StoreBase:
    """An object with a transport."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def _in_transaction(self, perform: Callable[[Connection], T]) -> T:
        """Call `perform` inside a transaction, and return its result."""
        return self._transport.execute(InTransaction[T](perform))
