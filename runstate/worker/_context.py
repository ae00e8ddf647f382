"""The context of a handler: its run, the methods that change it, and the outcomes that a handler can return."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, cast, get_args

from runstate.clock import monotonic
from runstate.lifecycle import RunEvent
from runstate.run import validators
from runstate.run.arguments import GivenUsage
from runstate.run.values import (
    ErrorCode,
    IncompleteDetails,
    IncompleteReason,
    LastError,
    RequiredAction,
    Usage,
    raise_if_invalid,
)
from runstate.store import Checkpoint, Claim, Lease, Settle, StoredRun
from runstate.store.errors import LeaseLost, StoreError
from runstate.worker._errors import RunFailed, TokenLimitReached
from runstate.worker._failure import redacted, sentence_of, traceback_of
from runstate.worker._outcome import COMPLETE, Outcome, Outcomes, fields_of, mistake_of
from runstate.worker._saving import save_checkpoint, warn_if_large
from runstate.worker._step_usage import count_usage, used_tokens
from runstate.worker._steps import HandlerSteps

if TYPE_CHECKING:
    from runstate.store import Emitter, Store

__all__ = ["Context", "unchanged"]

log: Final = logging.getLogger("runstate.worker")

_NEVER: Final = float("inf")
_CONFIRM_CANCEL: Final = Outcome(RunEvent.CONFIRM_CANCEL)
_REASON: Final = validators.one_of(get_args(IncompleteReason))
_MOST_MESSAGE: Final = 1000  # characters of an exception's text in `last_error`
_MOST_TRACEBACK: Final = 20_000  # characters: the last ones are kept
_MOST_PROGRESS: Final = 1000  # characters


_CREATING: Final = Lock()


def unchanged(text: str) -> str:
    """Return a text as it is."""
    return text


class Context(Outcomes):
    """The context of a handler: the run it is called for, and methods to report usage, progress and the outcome.

    A handler is called when its run is started, and again after a tool round or a take-over. Then `tool_outputs` has
    the submitted outputs, and `checkpoint_value` the last checkpoint. The worker makes the context.

        def answer(ctx: Context) -> Outcome | None:
            if not ctx.tool_outputs:
                return ctx.require_action([ctx.tool_call("weather", city="Paris")])
            ctx.add_usage(prompt_tokens=12, completion_tokens=30)
            return ctx.complete()
    """

    __slots__ = (
        *("_asynchronous", "_cancelling", "_checkpoint", "_completion", "_emitter", "_lease", "_limit", "_prompt"),
        *("_redact", "_saw_cancelling", "_steps", "_store", "_warned"),
        *("ends_at", "is_held", "is_over", "run", "steps_reset_losses", "tool_outputs"),
    )

    def __init__(
        self,
        store: Store,
        lease: Lease,
        claim: Claim,
        now: float,
        asynchronous: bool,
        steps_reset_losses: bool = True,
        is_held: Callable[[Lease], bool] = lambda _: True,
        redact: Callable[[str], str] = unchanged,
    ) -> None:
        self._store = store
        self._redact = redact
        self.is_held: Final = is_held
        """Whether no other worker can have the runs of a lease yet. May be called in any thread."""
        self._lease = lease
        self._asynchronous = asynchronous
        self.run: StoredRun = claim.run
        """The run as it was claimed, with everything it was created with."""
        self.tool_outputs: Mapping[str, str] = claim.tool_outputs
        """The outputs that were submitted last, by call id. Empty before the first tool round."""
        self._checkpoint: Any = claim.checkpoint
        self._prompt, self._completion = claim.usage.prompt_tokens, claim.usage.completion_tokens
        self._limit: IncompleteReason | None = None
        self._made = None
        self._cancelling = self._saw_cancelling = self._warned = self.is_over = False
        self._steps: HandlerSteps | None = None
        self._emitter: Emitter | None = None
        self.steps_reset_losses: Final = steps_reset_losses
        # The time left is measured by the database's clock at the claim: this machine's wall clock may be wrong.
        expires_at = claim.run.expires_at
        self.ends_at: Final = _NEVER if expires_at is None else now + expires_at - claim.claimed_at_us / 1_000_000
        """The deadline, by the monotonic clock; infinity if the run has none."""

    def __repr__(self) -> str:
        return f"<Context of {self.run.id}, attempt {self.run.attempt}>"

    # --- attributes of the run ------------------------------------------------------------------------------------

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return self.run.id

    @property
    def attempt(self) -> int:
        """How many times the run was claimed since it was queued: 1, or more after a retry, a release or a death."""
        return self.run.attempt

    @property
    def checkpoint_value(self) -> Any:
        """The last value saved by `checkpoint`, also by another worker. None if there is none."""
        return self._checkpoint

    @property
    def usage(self) -> Usage:
        """The tokens used so far, in the whole run, including earlier calls of the handler."""
        return Usage(self._prompt, self._completion)

    @property
    def cancelling(self) -> bool:
        """Whether a cancel was requested, or the worker has given up the run.

        A plain handler should check this regularly, and return. Reading it has an effect: a handler that has read True
        and then returns nothing confirms the cancel, even if it read the value only for a log line. To complete the run
        instead, return `complete()`. An async handler does not need this: its task is cancelled.
        """
        self._saw_cancelling = self._saw_cancelling or self._cancelling
        return self._cancelling

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline; infinity if there is none. At the deadline the run expires in any case."""
        return self.ends_at - monotonic()

    # --- usage, checkpoints, progress -----------------------------------------------------------------------------

    def add_usage(self, prompt_tokens: int | GivenUsage = 0, completion_tokens: int = 0) -> None:
        """Add used tokens: two numbers, or a complete usage as the first argument (a `Usage` or the API's object).

        Raises `TokenLimitReached` past a token limit of the run. The run then ends as incomplete, even if the handler
        catches the error. Raises `InvalidRun` for a value that is not a usage.
        """
        added = used_tokens(prompt_tokens, completion_tokens)
        if self._steps is not None:
            count_usage(added)
        spent = Usage(self._prompt + added.prompt_tokens, self._completion + added.completion_tokens)
        self._prompt, self._completion = spent.prompt_tokens, spent.completion_tokens
        self._limit = self.run.over_budget(spent)
        if self._limit is not None:
            raise TokenLimitReached(self.run.id, self._limit)

    def checkpoint(self, value: object) -> Awaitable[None]:
        """Save a JSON value, and the tokens used so far, for the next call of the handler, also by another worker.

        In a plain handler the value is durable when this returns. An async handler awaits the returned object, and the
        value is durable after that. While the store is away, this waits and tries again. Raises `InvalidRun` for a
        value that is not JSON, and `LeaseLost` if another worker has the run.
        """
        checkpoint = Checkpoint(value)
        self._checkpoint = value
        self._warned = self._warned or warn_if_large(self.run, checkpoint)
        return save_checkpoint(self, checkpoint, asynchronous=self._asynchronous)

    def step(
        self, name: str, function: Callable[..., Any], *args: Any, key: str | None = None, once: bool = False
    ) -> Any:
        """Call `function(*args)` once in the life of the run, and keep its result. Return the result.

        If another attempt, or the call after a tool round, comes to the same step, it gets the kept result, and nothing
        is called. Steps are found by `name` and `key`: use a key where one name is used several times, such as the
        number of a page or the id of a tool call. The same name and key twice in one call of the handler is an error.
        The result is JSON. The tokens that `add_usage` adds inside are kept with it. An exception of the function
        passes through, and nothing is kept.

        An async handler awaits the step. Its function may be async too; a plain one blocks the event loop. Steps may
        run at once, as with `asyncio.gather`.

            answer = await ctx.step("answer", ask_model, prompt)
            pages = [await ctx.step("page", fetch, url, key=url) for url in urls]

        Between the call and the commit of its result a worker may die: then the function is called again. With
        `once=True` a mark is committed before the call. If its result is missing, the next attempt gets
        `StepInterrupted` instead, and the handler decides.

        Raises `InvalidRun` for a wrong name or key and a result that is not JSON, `StepInterrupted`, and `LeaseLost` if
        another worker has the run.
        """
        steps = self._steps
        if steps is None:
            with _CREATING:
                steps = self._steps = self._steps or HandlerSteps(self)
        return (steps.call_later if self._asynchronous else steps.call)(name, function, args, key, once)

    def progress(self, text: str) -> None:
        """Set the progress text of the run, which `store.progress(run_id)` and `runstate runs show` read.

        The first 1000 characters are kept. This does not wait for the database, and only the last text counts.
        """
        raise_if_invalid(validators.string("progress", text))
        shown = text.replace("\0", "")[:_MOST_PROGRESS].encode(errors="replace").decode()  # no lone surrogates
        if not self.is_over:
            self._store.post_checkpoint(self._lease, self.run, usage=self.usage, progress=shown)

    def emit(self, data: object) -> None:
        """Emit a JSON value as the next event of the run, for those who follow `store.events(run_id)`.

        Emit pieces of text, progress, partial results. This does not wait for the database: events are written together
        within 50 milliseconds, and before the next step is kept and the outcome is committed. Each has its attempt: a
        handler that is called again may emit the same again. Raises `InvalidRun` for a value that is not JSON or longer
        than 1 Mi characters, and `LeaseLost` if another worker has the run. See `Emitter.emit` for a handler that emits
        faster than the database takes.

            async for piece in answer:
                ctx.emit({"text": piece})
        """
        emitter = self._emitter
        if emitter is None:
            with _CREATING:  # a handler may emit in several threads
                emitter = self._emitter = self._emitter or self._store.emitter(self._lease, self.run)
        emitter.emit(data)

    def note_usage(self) -> None:
        """Request to save the tokens used so far. This does not wait for the database."""
        if self._prompt or self._completion:
            with suppress(StoreError):  # the store is closed
                self._store.post_checkpoint(self._lease, self.run, usage=self.usage)

    # --- for the worker -------------------------------------------------------------------------------------------

    @property
    def store(self) -> Store:
        """The store of the worker."""
        return self._store

    @property
    def lease(self) -> Lease:
        """The lease under which the handler is called."""
        return self._lease

    def lease_lost(self) -> LeaseLost:
        """Return the error of a write that came too late."""
        return LeaseLost(self.run, RunEvent.COMPLETE)

    def goes_on(self) -> bool:
        """Return whether the handler is still wanted."""
        return not self._cancelling

    @property
    def emitter(self) -> Emitter | None:
        """The emitter of this call. None if the handler has emitted nothing."""
        return self._emitter

    def await_from_now_on(self) -> None:
        """Make checkpoints awaitable from now on: the plain handler returned an awaitable."""
        self._asynchronous = True

    def ask_to_cancel(self) -> None:
        """Set `cancelling` for the handler."""
        self._cancelling = True

    @property
    def is_cancelling(self) -> bool:
        """The value of `cancelling`, for the worker. Unlike `cancelling`, reading it has no effect."""
        return self._cancelling

    @property
    def is_past_limit(self) -> bool:
        """Whether the run has exceeded a token limit, and ends as incomplete."""
        return self._limit is not None

    def outcome_of(self, returned: object) -> Outcome:
        """Return the outcome that a handler's return value leads to. This has no effect, unlike `settle`.

        Tools and a retry come too late if a cancel was requested. A mistake of the handler leads to an outcome that the
        handler has not made.
        """
        if self._limit is not None:
            return Outcome(RunEvent.MARK_INCOMPLETE, IncompleteDetails(self._limit))
        if self._steps is not None and (not_awaited := self._steps.not_awaited()) is not None:
            return Outcome(RunEvent.FAIL, LastError("server_error", not_awaited))
        made = self._made
        if returned is None and (made is None or made is COMPLETE):
            if not self._saw_cancelling:
                return COMPLETE
            if made is None:
                return _CONFIRM_CANCEL
        elif returned is made and isinstance(made, Outcome):
            goes_on = made.event is RunEvent.REQUIRE_ACTION or made.retry_after_s is not None
            return _CONFIRM_CANCEL if goes_on and self._cancelling else made
        return Outcome(RunEvent.FAIL, LastError("server_error", mistake_of(returned, made)))

    def settle(self, returned: object) -> Settle:
        """Return the `Settle` for a handler's return value."""
        outcome = self.outcome_of(returned)
        if self._steps is not None:
            self._steps.close()
        if outcome is COMPLETE or outcome is _CONFIRM_CANCEL:
            return self.settle_event(outcome.event)
        if outcome is returned:
            return self._settle_made(outcome)
        if isinstance(outcome.value, LastError):
            log.warning("run %s failed: %s", self.run.id, outcome.value.message)
        return self._settle(outcome.event, **fields_of(outcome.value))

    def _settle_made(self, outcome: Outcome) -> Settle:
        value = outcome.value
        if outcome.retry_after_s is not None and isinstance(value, LastError):
            return self.settle_retry(cast("ErrorCode", value.code), value.message, outcome.retry_after_s)
        if isinstance(value, LastError):
            value = LastError(value.code, self._public(value.message))
        return self._settle(outcome.event, **fields_of(value))

    def settle_error(self, error: BaseException, *, skipped: int = 0) -> Settle:
        """Return the `Settle` for an exception of a handler.

        The traceback, without its first `skipped` frames, is stored in the history only.
        """
        if isinstance(error, TokenLimitReached):
            self._limit = self._limit or error.reason  # handlers that count tokens themselves may raise it too
        if self._limit is not None:
            return self._settle(RunEvent.MARK_INCOMPLETE, incomplete_details=IncompleteDetails(self._limit))
        last, detail = self._told_of(error, skipped)
        return self._settle(RunEvent.FAIL, last_error=last, detail=detail)

    def _told_of(self, error: BaseException, skipped: int) -> tuple[LastError, dict[str, Any]]:
        """Return what clients are told of an exception, and the traceback for the history."""
        if isinstance(error, RunFailed):
            code, told = error.code, self._public(error.message)
        else:
            code, told = "server_error", self._redact(sentence_of(error, self._store.address_parts))
        trace = self._redact(traceback_of(error, self._store.address_parts, skipped=skipped))[-_MOST_TRACEBACK:]
        return self._last_error(code, told), {"traceback": trace}

    @staticmethod
    def _last_error(code: ErrorCode, told: str) -> LastError:
        return LastError(code, told.replace("\0", "")[:_MOST_MESSAGE])

    def settle_failure(self, error: BaseException, after_s: float, *, skipped: int = 0) -> Settle:
        """Return the `Settle` that repeats the attempt because of an exception, and counts it as a failed one."""
        last, detail = self._told_of(error, skipped)
        return Settle.retry_later(self.run, last, after_s=after_s, usage=self.usage, detail=detail)

    def settle_retry(self, code: ErrorCode, reason: str, after_s: float) -> Settle:
        """Return the `Settle` that repeats the attempt by the wish of the handler. It is no failed attempt."""
        last = self._last_error(code, self._public(reason))
        return Settle.retry_later(self.run, last, after_s=after_s, is_failure=False, usage=self.usage)

    def _public(self, text: str) -> str:
        return self._redact(redacted(text, self._store.address_parts))

    def settle_event(self, event: RunEvent) -> Settle:
        """Return the `Settle` for an event that carries no value, such as a confirmed cancel or a deadline."""
        if self.run.attempt > 1:
            return self._settle(event)
        return Settle.ended(self.run, event, self._prompt, self._completion)

    def _settle(
        self,
        event: RunEvent,
        *,
        required_action: RequiredAction | None = None,
        last_error: LastError | None = None,
        incomplete_details: IncompleteDetails | None = None,
        detail: dict[str, Any] | None = None,
    ) -> Settle:
        if self.run.attempt > 1 and event is not RunEvent.REQUIRE_ACTION:
            detail = {**(detail or {}), "attempt": self.run.attempt}
        return Settle.of(
            self.run,
            event,
            usage=self.usage,
            required_action=required_action,
            last_error=last_error,
            incomplete_details=incomplete_details,
            detail=detail,
        )
