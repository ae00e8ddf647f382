"""The settings of a worker, checked before it claims a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, cast

import attrs

from runstate.run import validators
from runstate.store import worker_name
from runstate.store.validators import lease_seconds, queue_names
from runstate.worker._arguments import check_handler, check_redact, check_store, possible
from runstate.worker._failure import guarded
from runstate.worker._handlers import Handler
from runstate.worker._middleware import Middleware, with_middleware
from runstate.worker._retry_policy import RetryPolicy

if TYPE_CHECKING:
    from runstate.store import Store

__all__ = ["WorkerSettings"]

_ATTEMPTS: Final = validators.integer(least=1)
_STALL_S: Final = validators.number(0.2, validators.YEAR_10000)
DEFAULT_EVENTS_KEPT_S: Final = 86_400.0
_KEPT_S: Final = validators.number(0, validators.YEAR_10000)
_STALL_LEASES: Final = 4  # the default stall timeout, in leases
_MOST_SLOTS: Final = 10_000


@attrs.frozen
class WorkerSettings:
    """The settings of a worker or of `drive`. Names and units are those of `Worker`."""

    store: Store
    handler: Handler
    concurrency: int
    queues: Sequence[str]
    name: str
    lease_s: float
    max_attempts: int
    stall_timeout_s: float
    steps_reset_losses: bool
    events_kept_s: float
    retry: RetryPolicy | None
    redact: Callable[[str], str] | None

    @classmethod
    def checked(
        cls,
        store: Store,
        handler: Handler,
        *,
        concurrency: int,
        queues: Sequence[str],
        name: str | None,
        lease_s: float,
        max_attempts: int,
        stall_timeout_s: float | None,
        steps_reset_losses: bool,
        events_kept_s: float = DEFAULT_EVENTS_KEPT_S,
        retry: RetryPolicy | None = None,
        middleware: Sequence[Middleware] = (),
        redact: Callable[[str], str] | None = None,
    ) -> WorkerSettings:
        """Return the settings. Raises `TypeError` for a wrong store or handler, `ValueError` for a wrong setting."""
        check_store(store, handler)
        check_handler(handler)
        if retry is not None and not isinstance(cast("object", retry), RetryPolicy):
            raise TypeError(f"retry: expected a RetryPolicy(...), got {validators.preview(retry)}")
        if redact is not None:
            check_redact(redact)
        if type(concurrency) is not int or not 1 <= concurrency <= _MOST_SLOTS:
            raise ValueError(f"concurrency: expected 1 to {_MOST_SLOTS:,}, got {concurrency!r}")
        if isinstance(queues, str) or not queues:
            raise ValueError(f"queues: expected the names of queues, got {queues!r}")
        actor = worker_name() if name is None else name
        possible(queue_names(queues) + validators.identifier("name", actor) + lease_seconds("lease_s", lease_s))
        possible(_ATTEMPTS("max_attempts", max_attempts))
        possible(() if stall_timeout_s is None else _STALL_S("stall_timeout_s", stall_timeout_s))
        stall_s = _STALL_LEASES * lease_s if stall_timeout_s is None else stall_timeout_s
        possible(validators.boolean("steps_reset_losses", steps_reset_losses))
        possible(_KEPT_S("events_kept_s", events_kept_s))
        return cls(
            *(store, with_middleware(handler, middleware), concurrency, tuple(queues), actor, lease_s, max_attempts),
            *(stall_s, steps_reset_losses, events_kept_s, retry, None if redact is None else guarded(redact)),
        )
