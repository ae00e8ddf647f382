"""The dispatcher: sends runs again that another engine did not deliver."""

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

_MOST: Final = 500  # runs per call of `look`
_AFTER_S: Final = validators.number(0, validators.YEAR_10000)
_ATTEMPTS: Final = validators.integer(least=1)


class Dispatcher:
    """Finds runs that an engine should have delivered by now, and calls `send` with their ids.

    A run is sent again when it has waited in `queue` for `after_s` seconds, or when its worker has died; at most once
    per `after_s` seconds by this dispatcher. A second delivery of a run is harmless: `drive` finds nothing to do.
    `max_attempts` is that of `drive`: `look` fails runs of which so many workers have died.

    Raises `TypeError` if `store` is not a `Store`, or if `send` is async or cannot be called with an id alone. Raises
    `ValueError` for other wrong settings.

        dispatcher = Dispatcher(store, answer_run.delay)  # a Celery task that calls `drive`
        while True:
            dispatcher.look()
            time.sleep(5)
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
        """Sweep, then send the overdue runs, at most 500. Return the ids that were sent. Call this every few seconds.

        Raises `StoreUnavailable` while the store is away, and `TypeError` if `send` returns an awaitable. Exceptions of
        `send` are not caught; the next call then sends the run again.
        """
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
