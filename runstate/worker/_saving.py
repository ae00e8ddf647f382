"""Saving the checkpoint of a handler, also while the store is away."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final, Protocol

from runstate.run.values import Usage
from runstate.store import Checkpoint
from runstate.worker._retry import retry_until_saved, retry_until_saved_async

if TYPE_CHECKING:
    from runstate.store import Emitter, Lease, Store, StoredRun
    from runstate.store.errors import LeaseLost

__all__ = ["SavingContext", "save_checkpoint", "warn_if_large"]

_log: Final = logging.getLogger("runstate.worker")

_LARGE: Final = 1_000_000  # characters of JSON


class SavingContext(Protocol):
    """What is needed of the context of a handler to save its data."""

    run: StoredRun
    is_over: bool
    """Whether the outcome of the call is made. Tokens that are saved afterwards would be missing in it."""

    @property
    def steps_reset_losses(self) -> bool:
        """Whether a new step counts the losses of the run anew."""
        ...

    @property
    def store(self) -> Store:
        """The store of the worker."""
        ...

    @property
    def lease(self) -> Lease:
        """The lease under which the handler is called."""
        ...

    @property
    def usage(self) -> Usage:
        """The tokens used so far, in the whole run."""
        ...

    @property
    def emitter(self) -> Emitter | None:
        """The emitter of this call. None if the handler has emitted nothing."""
        ...

    def lease_lost(self) -> LeaseLost:
        """Return the error of a write that came too late."""
        ...

    def goes_on(self) -> bool:
        """Return whether the handler is still wanted."""
        ...

    def is_held(self, lease: Lease, /) -> bool:
        """Return whether no other worker can have the runs of a lease yet."""
        ...


def warn_if_large(run: StoredRun, checkpoint: Checkpoint) -> bool:
    """Log that a checkpoint is large, if it is. Return whether it is.

    A handler that keeps a growing list in its checkpoint writes the square of what it has: steps serve better.
    """
    if len(checkpoint.text) <= _LARGE:
        return False
    megabytes = len(checkpoint.text) / 1_000_000
    _log.warning(
        "run %s: its checkpoint has %.1f MB, and is written as a whole each time; ctx.step keeps each result once",
        *(run.id, megabytes),
    )
    return True


def save_checkpoint(ctx: SavingContext, checkpoint: Checkpoint, *, asynchronous: bool) -> Awaitable[None]:
    """Save a checkpoint, and the tokens used so far. Return an awaitable that is done when it is saved."""
    if ctx.is_over:
        raise ctx.lease_lost()
    if asynchronous:
        return retry_until_saved_async(
            lambda: ctx.store.aio.post_checkpoint(ctx.lease, ctx.run, checkpoint=checkpoint, usage=ctx.usage),
            ctx.goes_on,
            ctx.lease_lost,
            ctx.store.availability,
        )
    return retry_until_saved(
        lambda: ctx.store.save_checkpoint(ctx.lease, ctx.run, checkpoint=checkpoint, usage=ctx.usage),
        ctx.goes_on,
        ctx.lease_lost,
        ctx.store.availability,
    )
