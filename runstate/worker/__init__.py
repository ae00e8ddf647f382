"""Driving runs: claim, call the handler, commit what came of it; heartbeats, cancels, deadlines, take-overs.

    def answer(ctx: Context) -> Outcome | None:
        return ctx.complete()

    Worker(store, answer).run()  # until SIGTERM

`Worker` claims whatever is queued. `drive` takes one run by its id, inside somebody else's engine, and `Dispatcher`
sends again what such an engine never delivered.
"""

from runstate.worker._context import Context, Outcome, RunFailed, TokenLimitReached
from runstate.worker._dispatch import Dispatcher
from runstate.worker._drive import drive, drive_async
from runstate.worker._handlers import Handler
from runstate.worker._worker import Worker

__all__ = [
    "Context",
    "Dispatcher",
    "Handler",
    "Outcome",
    "RunFailed",
    "TokenLimitReached",
    "Worker",
    "drive",
    "drive_async",
]
