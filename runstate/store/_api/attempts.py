"""The methods of a store for attempts without an outcome, workers at work, and paused queues."""

from __future__ import annotations

import json
from typing import Any, Final

from runstate.run import validators
from runstate.run.errors import FieldError
from runstate.run.values import raise_if_invalid
from runstate.store._api.create import DEFAULT_QUEUE
from runstate.store._api.queries import seq_of
from runstate.store._engine.commands import InTransaction
from runstate.store._engine.transport import StoreBase
from runstate.store._notifier import Change
from runstate.store._sql.connection import Connection
from runstate.store._types import Attempt, PausedQueue, WorkerInfo

__all__ = ["AttemptMixin"]

_LIMIT: Final = validators.integer(least=1)
_MOST_REASON: Final = 1000  # characters


def _decode_attempt(row: Any) -> Attempt:
    number, attempt, ended_at, result, actor, error, next_at = row
    return Attempt(number, attempt, ended_at, result, actor, None if error is None else json.loads(error), next_at)


def _actor_errors(actor: str | None) -> validators.FieldErrors:
    return () if actor is None else validators.identifier("actor", actor)


def _reason_errors(reason: str | None) -> validators.FieldErrors:
    if reason is None:
        return ()
    found = validators.string("reason", reason) or validators.plain_text("reason", reason)
    if not found and len(reason) > _MOST_REASON:
        return (FieldError("reason", f"has {len(reason)} characters, at most {_MOST_REASON}"),)
    return found


class AttemptMixin(StoreBase):
    """The methods of a store for attempts, workers and queues."""

    def attempts(self, run_id: str) -> tuple[Attempt, ...]:
        """Return the attempts of a run that ended without an outcome, in their order. Raises `RunNotFound`.

        Such an attempt was retried after an error, was lost with its worker, or was released by a worker that stopped.
        """
        raise_if_invalid(validators.identifier("run_id", run_id))

        def look(session: Connection) -> tuple[Attempt, ...]:
            params = {"run": seq_of(session, run_id)}
            return tuple(map(_decode_attempt, session.execute(session.statements.attempts, params)))

        return self._transport.read(look)

    def workers(self) -> tuple[WorkerInfo, ...]:
        """Return the workers whose leases hold, by name, each with the number of its runs."""
        return self._transport.read(
            lambda session: tuple(WorkerInfo(*row) for row in session.execute(session.statements.workers, {}))
        )

    def matching_ids(self, prefix: str, *, limit: int = 10) -> tuple[str, ...]:
        """Return up to `limit` ids of runs that begin with a text, in their order. Raises `InvalidRun`."""
        raise_if_invalid(validators.indexed_identifier("prefix", prefix) + _LIMIT("limit", limit))
        params = {"low": prefix, "high": prefix + chr(0x10FFFF), "limit": limit}
        return self._transport.read(
            lambda session: tuple(row[0] for row in session.execute(session.statements.ids_between, params))
        )

    def pause(self, queue: str = DEFAULT_QUEUE, *, reason: str | None = None, actor: str | None = None) -> bool:
        """Pause a queue: from now on no run of it is claimed, retried or taken over. Return False if it was paused.

        Handlers that are being called go on, and their outcomes count. Deadlines go on too: a paused run expires when
        it is due. `actor` and `reason` are kept, also after the queue is resumed. Raises `InvalidRun` for wrong
        arguments.
        """
        raise_if_invalid(validators.indexed_identifier("queue", queue) + _reason_errors(reason) + _actor_errors(actor))
        params = {"queue": queue, "actor": actor, "reason": reason}
        return self._transport.execute(
            InTransaction(lambda session: bool(session.execute(session.statements.pause, params)), is_idempotent=False)
        )

    def resume(self, queue: str = DEFAULT_QUEUE, *, actor: str | None = None) -> bool:
        """Resume a paused queue, and wake its workers. Return False if it was not paused. Raises as `pause`."""
        raise_if_invalid(validators.indexed_identifier("queue", queue) + _actor_errors(actor))
        params = {"queue": queue, "actor": actor}
        return self._transport.execute(
            InTransaction(
                lambda session: bool(session.execute(session.statements.resume, params)),
                change=Change.QUEUED,
                is_idempotent=False,
            )
        )

    def pauses(self, *, ended: bool = False, limit: int = 100) -> tuple[PausedQueue, ...]:
        """Return the pauses of queues that last, the latest first; with `ended` also those that have ended."""
        raise_if_invalid(validators.boolean("ended", ended) + _LIMIT("limit", limit))
        params = {"all": int(ended), "limit": limit}
        return self._transport.read(
            lambda session: tuple(PausedQueue(*row) for row in session.execute(session.statements.pauses, params))
        )
