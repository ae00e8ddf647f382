"""How a store reaches its database: writes by the committer, reads beside it. The public methods stand on this."""

from __future__ import annotations

import os
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import get_ident
from typing import Final, Protocol, TypeVar

from runstate.clock import monotonic, sleep
from runstate.store._engine.commands import Command, InTransaction
from runstate.store._engine.committer import Committer
from runstate.store._engine.executor import execute_batch
from runstate.store._sql.connection import Connection, Database, Trouble
from runstate.store.availability import Availability
from runstate.store.backoff import Backoff
from runstate.store.errors import OutcomeUnknown, StoreError, StoreUnavailable

__all__ = ["CallerTransaction", "ReadPool", "StoreBase", "SyncTransport", "Transport"]

T = TypeVar("T")

_LOOK_S: Final = 0.005  # between two looks whether somebody still reads
_CLOSING_S: Final = 5.0  # for those who still read, at least
_TRIES: Final = 5  # where a standby cancels a read to go on with what its primary sent
_MAX_IDLE: Final = 8  # idle connections; more are made where more read at once, and let go again


class Transport(Protocol):
    """How what is asked gets to the database and back."""

    def execute(self, command: Command[T]) -> T:
        """Have a command committed; return its answer."""
        ...

    def read(self, look: Callable[[Connection], T]) -> T:
        """Return what `look` finds."""
        ...


class ReadPool:
    """Connections that only read, each used by one thread at a time."""

    def __init__(self, database: Database, wait_s: float, availability: Availability) -> None:
        self._database = database
        self._wait_s = wait_s
        self._availability = availability
        self._idle: SimpleQueue[tuple[Connection, int]] = SimpleQueue()
        """Each with the epoch it was opened in."""
        self._busy: dict[int, Connection] = {}
        """Those in use, by the thread that uses it."""
        self._closed = False
        self._process = os.getpid()

    def read(self, look: Callable[[Connection], T]) -> T:
        """Return what `look` finds; once more on a new connection if an old one was found to be of no use."""
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
        """Read once more, where that may help: on a new session instead of an old one, or after a conflict."""
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
        raise _nothing_unknown(error) from error.__cause__

    def _getconn(self) -> tuple[Connection, int, bool]:
        """Return an unused session, the epoch it was opened in, and whether it was opened before."""
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
                self._drain()  # a database that went away took all of them along
            else:
                self._putconn(session, epoch)

    def _putconn(self, session: Connection, epoch: int) -> None:
        if self._idle.qsize() >= _MAX_IDLE:
            session.close()
            return
        self._idle.put((session, epoch))
        if self._closed:  # also since: `close` may have come by before this one was among the idle
            self._drain()

    def close(self) -> None:
        """Let the connections go; who still reads lets go of its own, in the end also where no answer comes."""
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
    """The way of those who wait: the thread stands still until its answer is there."""

    def __init__(self, committer: Committer, readers: ReadPool | None) -> None:
        self.committer: Final = committer
        self.readers: Final = readers
        """None for a database in memory: its one connection reads too."""

    def execute(self, command: Command[T]) -> T:
        """Have a command committed; return its answer."""
        return self.committer.execute(command)

    def read(self, look: Callable[[Connection], T]) -> T:
        """Return what `look` finds."""
        self.committer.check_open()
        if self.readers is None:
            return self.committer.execute(InTransaction(look))
        return self.readers.read(look)


class CallerTransaction:
    """The way of those who have a transaction of their own open: all happens in it, and lives or dies with it."""

    def __init__(self, session: Connection, check: Callable[[Connection], None]) -> None:
        """Over a session on the caller's connection, which `check` refuses unless it leads to the store."""
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
            execute_batch(self._session, [command])
        except StoreError as error:
            command.set_exception(error)
        return command.result()

    def read(self, look: Callable[[Connection], T]) -> T:
        """Return what `look` finds, the caller's own changes among it."""
        self._require_same_store()
        try:
            return look(self._session)
        except StoreError as error:
            raise _nothing_unknown(error) from error.__cause__


def _nothing_unknown(error: StoreError) -> StoreError:
    """Return what a read says where its answer was lost: it changed nothing, and may be asked again."""
    return StoreUnavailable(str(error)) if isinstance(error, OutcomeUnknown) else error


class StoreBase:
    """What has a way to the database."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def _in_transaction(self, perform: Callable[[Connection], T]) -> T:
        """Have `perform` write inside a transaction; return what it returns."""
        return self._transport.execute(InTransaction[T](perform))
