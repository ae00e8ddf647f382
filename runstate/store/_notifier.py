"""Notifications of changes, so that listeners need not poll often.

A notification may come late, twice, or not at all, so a listener also polls now and then. Inside a process a
notification is a function call. Between processes PostgreSQL has NOTIFY. Several notifications are merged into one
every few milliseconds, because each NOTIFY takes a lock of the whole server when it commits. SQLite has a counter of
other connections' commits, which is polled. PostgreSQL is polled too if there is a pooler, through which NOTIFY can be
sent but not received.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from enum import IntFlag
from threading import Lock
from typing import Final, TypeAlias

__all__ = ["ALL_CHANGES", "NO_CHANGE", "WORK_CHANGES", "Change", "Listener", "LocalNotifier"]

_log: Final = logging.getLogger("runstate.store")


class Change(IntFlag):
    """The kinds of a notification. The flags can be combined."""

    ENTRY = 1
    """An entry was committed: a run was created or moved."""
    QUEUED = 2
    """A run may be claimable."""
    CANCELLING = 4
    """A cancel was requested."""
    EVENT = 8
    """A handler has emitted events, which are no entries."""


NO_CHANGE: Final = Change(0)
ALL_CHANGES: Final = Change.ENTRY | Change.QUEUED | Change.CANCELLING | Change.EVENT
WORK_CHANGES: Final = Change.QUEUED | Change.CANCELLING
"""The changes that workers listen for."""

Listener: TypeAlias = Callable[[Change], None]
"""A function that receives notifications. It is called in any thread, and must not block."""


class LocalNotifier:
    """Notifies listeners of the same process."""

    def __init__(self) -> None:
        self._listeners: tuple[Listener, ...] = ()
        self._readers = 0
        """How many of the listeners also listen for entries and events."""
        self._changing = Lock()

    def notify(self, hint: Change) -> None:
        """Notify other processes, if there is a way, and the listeners of this one."""
        self._notify_listeners(hint)

    def _notify_listeners(self, hint: Change) -> None:
        for heard in self._listeners:
            try:
                heard(hint)
            except Exception:  # an error of one listener must not stop this thread, which notifies the others too
                _log.exception("a listener failed")

    @contextmanager
    def subscribe(self, heard: Listener, changes: Change = ALL_CHANGES) -> Generator[None, None, None]:
        """Call `heard` for notifications of these changes, and maybe of others, inside the block."""
        reads = bool(changes & ~WORK_CHANGES)
        with self._changing:
            self._listeners = (*self._listeners, heard)
            self._readers += reads
        self._start()
        try:
            yield
        finally:
            with self._changing:
                self._listeners = tuple(other for other in self._listeners if other is not heard)
                self._readers -= reads

    def _start(self) -> None:
        """Begin to receive notifications of other processes. Called when there is a listener."""

    def close(self) -> None:
        """Send and receive no more notifications."""
        self._listeners = ()
