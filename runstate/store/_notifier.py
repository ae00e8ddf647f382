"""Hints that something has changed, so that listeners need not ask all the time.

A hint may come late, twice, or not at all: a listener also looks by itself now and then. In the process a hint is
a call. Between processes PostgreSQL has NOTIFY, gathered up to one in a few milliseconds because each one holds a lock
of the whole server when it commits; SQLite counts other connections' commits, and is asked for that number. So is
PostgreSQL where a pooler stands between, through which NOTIFY can be sent and not heard.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from enum import IntFlag
from threading import Lock
from typing import Final, TypeAlias

__all__ = ["ALL_CHANGES", "NO_CHANGE", "Change", "Listener", "LocalNotifier"]

_log: Final = logging.getLogger("runstate.store")


class Change(IntFlag):
    """What may have changed."""

    ENTRY = 1
    """Some run moved."""
    QUEUED = 2
    """A run may be claimed."""
    CANCELLING = 4
    """A run was asked to cancel."""


NO_CHANGE: Final = Change(0)
ALL_CHANGES: Final = Change.ENTRY | Change.QUEUED | Change.CANCELLING

Listener: TypeAlias = Callable[[Change], None]
"""What a listener does. It is called from any thread, and must not wait."""


class LocalNotifier:
    """Hints inside one process."""

    def __init__(self) -> None:
        self._listeners: tuple[Listener, ...] = ()
        self._changing = Lock()

    def notify(self, hint: Change) -> None:
        """Tell everybody that something has changed."""
        self._notify_listeners(hint)

    def _notify_listeners(self, hint: Change) -> None:
        for heard in self._listeners:
            try:
                heard(hint)
            except Exception:  # of one listener: the thread that rings answers everybody else as well
                _log.exception("a listener failed")

    @contextmanager
    def subscribe(self, heard: Listener) -> Generator[None, None, None]:
        """Have `heard` called for every hint, inside the block."""
        with self._changing:
            self._listeners = (*self._listeners, heard)
        self._start()
        try:
            yield
        finally:
            with self._changing:
                self._listeners = tuple(other for other in self._listeners if other is not heard)

    def _start(self) -> None:
        """Begin to hear of other processes, now that there is a listener."""

    def close(self) -> None:
        """Hear and tell no more."""
        self._listeners = ()
