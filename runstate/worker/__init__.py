"""Workers: claim runs, call a handler for each, commit the outcomes. Heartbeats, cancels, deadlines and take-overs.

    def answer(ctx: Context) -> Outcome | None:
        return ctx.complete()

    Worker(store, answer).run()  # until SIGTERM

`Worker` claims queued runs. `drive` executes one run by its id, inside another engine such as Celery. `Dispatcher`
sends the runs again that such an engine did not deliver.
"""

from runstate.worker._context import Context
from runstate.worker._dispatch import Dispatcher
from runstate.worker._drive import drive, drive_async
from runstate.worker._errors import RetryLater, RunFailed, StepInterrupted, TokenLimitReached
from runstate.worker._handlers import Handler
from runstate.worker._middleware import Middleware
from runstate.worker._outcome import Outcome
from runstate.worker._retry_policy import RetryPolicy
from runstate.worker._worker import Worker

__all__ = [
    "Context",
    "Dispatcher",
    "Handler",
    "Middleware",
    "Outcome",
    "RetryLater",
    "RetryPolicy",
    "RunFailed",
    "StepInterrupted",
    "TokenLimitReached",
    "Worker",
    "drive",
    "drive_async",
]
