"""Sending runs through somebody else's engine, and sending again what never arrived."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from runstate.clock import monotonic
from runstate.run import validators
from runstate.store import DEFAULT_MAX_ATTEMPTS, DEFAULT_QUEUE
from runstate.worker._arguments import check_send, check_store, possible
from runstate.worker._handlers import discard, is_awaitable

if TYPE_CHECKING:
    from runstate.store import Store

__all__ = ["Dispatcher"]

_MOST: Final = 500  # runs a look
_AFTER_S: Final = validators.number(0, validators.YEAR_10000)
_ATTEMPTS: Final = validators.integer(least=1)


class Dispatcher:
    """Looks for runs that an engine should have delivered by now, and hands them to `send` again.

    A run is sent again when it has been waiting in `queue` for `after_s` seconds, or its worker has died, and at most
    once in `after_s` seconds by this dispatcher. Sending a run that is under way is harmless: `drive` gets nothing.
    `max_attempts` is that of `drive`: what has been begun so often is failed here. Raises `TypeError` for a store that
    is none, or a `send` that cannot be called with an id alone or is async; `ValueError` for other settings.
    """

    def __init__(
        self,
        store: Store,
        send: Callable[[str], object],
        *,
        queue: str = DEFAULT_QUEUE,
        after_s: float = 30.0,
        max_attempts: int = DEFAULT_MAX_ATTEMPTS,
    ) -> None:
        check_store(store, send)
        check_send(send)
        named = validators.indexed_identifier("queue", queue)
        possible(named + _AFTER_S("after_s", after_s) + _ATTEMPTS("max_attempts", max_attempts))
        self._store = store
        self._send = send
        self._queue = queue
        self._after_s = after_s
        self._max_attempts = max_attempts
        self._sent_at: dict[str, float] = {}

    def look(self) -> list[str]:
        """Sweep, and send again what is overdue; return the ids that were sent. Ask this every few seconds."""
        self._store.sweep(max_attempts=self._max_attempts)
        now = monotonic()
        self._sent_at = {run_id: at for run_id, at in self._sent_at.items() if now - at < self._after_s}
        sent: list[str] = []
        for run_id in self._store.overdue(self._queue, self._after_s, limit=_MOST):
            if run_id not in self._sent_at:
                returned = self._send(run_id)
                if is_awaitable(returned):
                    discard(returned)
                    what = validators.with_article(type(returned).__name__)
                    raise TypeError(
                        f"send: it returned {what} for run {run_id}, which nothing awaits; nothing was sent"
                    )
                self._sent_at[run_id] = now
                sent.append(run_id)
        return sent
