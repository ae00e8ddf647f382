"""Notifications between processes that use a PostgreSQL database: LISTEN and NOTIFY, or polling through a pooler.

There are two channels. All processes listen on the one for queued and cancelling runs. Only those that follow runs
listen on the one for entries and events: with many workers, each would be woken by every commit of all others. A
process that follows runs holds a lock, and says so when it begins. While nobody holds it, entries are not told of at
all: with many small commits these notifications would be as many transactions again.
"""

from __future__ import annotations

import logging
import os
import select
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import Any, Final, Protocol

from runstate.clock import monotonic, sleep
from runstate.store._notifier import ALL_CHANGES, WORK_CHANGES, Change, LocalNotifier
from runstate.store._postgres.pooler import is_pooled
from runstate.store.availability import Availability
from runstate.store.backoff import Backoff

__all__ = ["PostgresNotifier"]

_log: Final = logging.getLogger("runstate.store")

_WORK_CHANNEL: Final = "runstate"
_READ_CHANNEL: Final = "runstate_entry"
_READERS_BEGIN: Final = "readers"
"""The payload by which a process says that it begins to follow runs."""
_READERS_LOCK: Final = 7282365611
_HAS_READERS: Final = (
    "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1"
    f" AND classid = {_READERS_LOCK >> 32} AND objid = {_READERS_LOCK & 0xFFFFFFFF}"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
)
_NO_READERS_S: Final = 5.0  # for how long it is believed that there are none
_READERS_S: Final = 1.0  # the same, that there are some


class _CommitPoll:
    """Polls whether anything was committed in the server: more often for a while after a commit.

    It reads the current snapshot, which is in the server's memory and in no table. It changes when a transaction ends.
    """

    _OFTEN_S: Final = 0.1
    _SELDOM_S: Final = 0.25
    _AWAKE_S: Final = 5.0  # how long it polls often after a commit

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._known: Any = None
        self._next_at = self._awake_until = 0.0

    def due_in_s(self) -> float:
        """Return the seconds until the next poll."""
        return max(0.0, self._next_at - monotonic())

    def look(self) -> bool:
        """Return whether anything was committed since the last poll."""
        # The whole snapshot: a transaction that ends after younger ones does not change its greatest number.
        snapshot = self._connection.execute("SELECT pg_current_snapshot()::text").fetchone()
        changed: bool = snapshot != self._known
        self._known = snapshot
        now = monotonic()
        if changed:
            self._awake_until = now + self._AWAKE_S
        self._next_at = now + (self._OFTEN_S if now < self._awake_until else self._SELDOM_S)
        return changed


class NotifyPace:
    """When the next NOTIFY may be sent: at once if the last one was a while ago, and seldom under load.

    A NOTIFY costs a transaction. Those that only say that there are entries wake readers, which read many entries at
    once. Those of queued and cancelling runs wake workers, and are never spaced further.
    """

    _LEAST_S: Final = 0.005
    _MOST_S: Final = 0.05

    def __init__(self) -> None:
        self._sent_at = float("-inf")
        self._space_s = self._LEAST_S

    def due_in_s(self, change: Change, now: float) -> float:
        """Return the seconds until a NOTIFY of this change may be sent; 0 or less if it may be sent now."""
        return self._sent_at + (self._space_s if change is Change.ENTRY else self._LEAST_S) - now

    def sent(self, commits: int, now: float) -> None:
        """Remember that a NOTIFY for so many commits was sent. Several commits since the last one are load."""
        self._space_s = min(2 * self._space_s, self._MOST_S) if commits > 1 else self._LEAST_S
        self._sent_at = now


class _Server(Protocol):
    """The database at the address for notifications."""

    display_url: str

    def connect(self) -> Any:
        """Return a new connection of the driver."""
        ...

    def interrupt(self, connection: Any) -> None:
        """Wake the thread that waits for a reply on a connection."""
        ...


class PostgresNotifier(LocalNotifier):
    """Notifies by LISTEN and NOTIFY, on its own connection. If that leads through a pooler, it polls."""

    _END_S: Final = 2.0  # for the last notification when the notifier is closed
    _REST_S: Final = 60.0  # the longest wait for events

    def __init__(self, database: _Server, availability: Availability) -> None:
        super().__init__()
        self._database = database
        self._availability = availability
        self._pending = Change(0)
        self._commits = 0
        """How many commits the pending change is of."""
        self._thread: Thread | None = None
        self._closed = False
        self._told_of_pooler = False
        self._no_readers_until = float("-inf")
        """Until when no process follows runs, as far as is known, by the monotonic clock."""
        self._readers_until = float("-inf")
        """Until when one does, as far as is known."""
        self._connection: Any = None
        self._reads, writes = os.pipe()
        os.set_blocking(writes, False)
        self._writes: int | None = writes

    def notify(self, hint: Change) -> None:
        """Notify the listeners of this process now, and other processes with the next NOTIFY."""
        self._notify_listeners(hint)
        if (hint is Change.ENTRY or hint is Change.EVENT) and self._no_readers_until > monotonic():
            return
        with self._changing:
            wake = bool(hint & ~self._pending)  # what is pending may wait longer than this
            self._pending |= hint
            self._commits += 1
        if wake:
            self._start()

    def _wake(self) -> None:
        with self._changing, suppress(OSError):  # the pipe is full, so the thread is awake
            if self._writes is not None:
                os.write(self._writes, b"!")

    def _start(self) -> None:
        with self._changing:
            if self._thread is None and not self._closed:
                self._thread = Thread(target=self._run, name="runstate-notifier", daemon=True)
                self._thread.start()
        self._wake()

    def _run(self) -> None:
        with self._availability.listening(self._wake):  # the connection may lead to an old server
            self._keep_connected()

    def _keep_connected(self) -> None:
        backoff = Backoff()
        while self._pending or not self._closed:
            epoch = self._availability.epoch
            try:
                with self._database.connect() as self._connection:
                    connection = self._connection
                    poll = self._listen(connection)
                    backoff.reset()
                    self._notify_listeners(ALL_CHANGES)  # notifications may have been missed
                    self._serve(connection, poll, epoch)
            except Exception:  # listeners also poll, so it is enough to connect again
                if self._closed:
                    return
                self._wait(backoff.next(), epoch)

    def _listen(self, connection: Any) -> _CommitPoll | None:
        """Listen on a connection. If it leads through a pooler, return the poll to use instead."""
        if is_pooled(connection):
            return _CommitPoll(connection)
        connection.execute(f"LISTEN {_WORK_CHANNEL}")
        connection.add_notify_handler(partial(self._on_notification, connection.info.backend_pid))
        return None

    def _warn_of_pooler(self) -> None:
        """Log, once, that this store is polled, and how to avoid it."""
        if not self._told_of_pooler:
            self._told_of_pooler = True
            _log.warning(
                "%s is reached through a pooler, which LISTEN does not work through: it is asked for changes ten times"
                " a second. The server's own address as listen_url, or RUNSTATE_LISTEN_URL for a command, mends that",
                self._database.display_url,
            )

    def _serve(self, connection: Any, poll: _CommitPoll | None, epoch: int) -> None:
        socket = connection.fileno()
        pace = NotifyPace()
        hears_entries = False
        while True:
            if poll is None and hears_entries is not (self._readers > 0):
                hears_entries = not hears_entries
                self._hear_entries(connection, hears_entries)
            if epoch != self._availability.epoch and not self._closed:
                return
            wait_s = pace.due_in_s(self._pending, monotonic())
            if self._pending and (wait_s <= 0 or self._closed):
                self._send(connection, pace, is_pooled=poll is not None)
                continue
            if self._closed and not self._pending:
                return
            rest_s = max(0.0, wait_s) if self._pending else self._REST_S
            if poll is not None and self._listeners:
                self._warn_of_pooler()
                if poll.due_in_s() == 0.0 and poll.look():
                    self._notify_listeners(ALL_CHANGES)
                rest_s = min(rest_s, poll.due_in_s())
            readable, _, _ = select.select([socket, self._reads], [], [], rest_s)
            if self._reads in readable:
                os.read(self._reads, 4096)
            if socket in readable:
                connection.pgconn.consume_input()
                while (note := connection.pgconn.notifies()) is not None:
                    self._on_payload(connection.info.backend_pid, note.be_pid, note.extra.decode())

    def _hear_entries(self, connection: Any, hears: bool) -> None:
        """Begin to listen for entries and events, or end it."""
        connection.execute(f"{'LISTEN' if hears else 'UNLISTEN'} {_READ_CHANNEL}")
        lock = "pg_advisory_lock_shared" if hears else "pg_advisory_unlock_shared"
        connection.execute(f"SELECT {lock}({_READERS_LOCK})")
        if hears:
            connection.execute("SELECT pg_notify(%s, %s)", [_WORK_CHANNEL, _READERS_BEGIN])
            self._notify_listeners(ALL_CHANGES)  # notifications may have been missed

    def _send(self, connection: Any, pace: NotifyPace, *, is_pooled: bool) -> None:
        """Send the pending notification, unless nobody would hear it."""
        with self._changing:
            hint, self._pending = self._pending, Change(0)
            commits, self._commits = self._commits, 0
        channel = _WORK_CHANNEL if hint & WORK_CHANGES else _READ_CHANNEL
        if channel == _WORK_CHANNEL or is_pooled or self._has_readers(connection):
            # For this transaction only: a notification need not survive a crash.
            notify = "SELECT set_config('synchronous_commit', 'off', true), pg_notify(%s, %s)"
            connection.execute(notify, [channel, str(int(hint))])
            pace.sent(commits, monotonic())

    def _has_readers(self, connection: Any) -> bool:
        """Return whether a process follows runs. If none does, entries are not told of for a while."""
        now = monotonic()
        if now < self._readers_until:
            return True
        if connection.execute(_HAS_READERS).fetchone()[0]:
            self._readers_until = now + _READERS_S
            return True
        self._no_readers_until = now + _NO_READERS_S
        return False

    def _on_notification(self, own: int, note: Any) -> None:
        self._on_payload(own, note.pid, note.payload)

    def _on_payload(self, own: int, sender: int, payload: str) -> None:
        if payload == _READERS_BEGIN:
            self._no_readers_until = float("-inf")
        elif sender != own:
            self._notify_listeners(Change(int(payload)) & ALL_CHANGES if payload.isdecimal() else ALL_CHANGES)

    def _wait(self, seconds: float, epoch: int) -> None:
        """Wait before the next try to connect. Return early if another part has found that the server is back."""
        until = monotonic() + seconds
        while not self._closed and monotonic() < until and epoch == self._availability.epoch:
            readable, _, _ = select.select([self._reads], [], [], max(0.0, until - monotonic()))
            if readable:
                os.read(self._reads, 4096)
            sleep(0.02)

    def close(self) -> None:
        """Send the pending notification, then end."""
        super().close()
        if self._closed:
            return
        self._closed = True
        self._wake()
        if not self._has_ended():
            if self._connection is not None:
                self._database.interrupt(self._connection)
            if not self._has_ended():
                return  # the thread is connecting, and still uses the pipe that would be closed here
        with self._changing:
            writes, self._writes = self._writes, None
        os.close(self._reads)
        if writes is not None:
            os.close(writes)

    def _has_ended(self) -> bool:
        thread = self._thread
        if thread is not None:
            thread.join(self._END_S)
        return thread is None or not thread.is_alive()
