"""What a handler sees of the run it works on, and how it says what came of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, get_args

import attrs

from runstate.clock import monotonic
from runstate.lifecycle import RunEvent
from runstate.run import validators
from runstate.run.arguments import Calls, GivenUsage, required_action_of, usage_of
from runstate.run.errors import FieldError
from runstate.run.ids import new_run_id
from runstate.run.validators import with_article
from runstate.run.values import (
    ErrorCode,
    IncompleteDetails,
    IncompleteReason,
    LastError,
    RequiredAction,
    ToolCall,
    Usage,
    raise_if_invalid,
)
from runstate.store import Checkpoint, Claim, Lease, Settle, StoredRun
from runstate.store.errors import LeaseLost, StoreError
from runstate.worker._errors import RunFailed, TokenLimitReached
from runstate.worker._failure import redacted, sentence_of, traceback_of
from runstate.worker._retry import retry_until_saved, retry_until_saved_async

if TYPE_CHECKING:
    from runstate.store import Store

__all__ = ["Context", "Outcome", "RunFailed", "TokenLimitReached"]

log: Final = logging.getLogger("runstate.worker")

_NEVER: Final = float("inf")
_REASON: Final = validators.one_of(get_args(IncompleteReason))
_MOST_MESSAGE: Final = 1000  # characters of an exception that go onto the wire
_MOST_TRACEBACK: Final = 20_000  # characters, the last of them
_MOST_PROGRESS: Final = 1000
_MOST_CALLS: Final = 5  # that a sentence names


@attrs.frozen
class Outcome:
    """What came of a run in its handler's hands; made by the context's methods, and returned."""

    event: RunEvent
    value: object = None
    """What the event carries: the required action, the error, the limit."""


_COMPLETE: Final = Outcome(RunEvent.COMPLETE)


class Context:
    """One run in a handler's hands.

    A handler is called when its run is started, and again after a tool round or a take-over: what it learned before
    is in `checkpoint_value` and `tool_outputs`.
    """

    __slots__ = (
        *("_asynchronous", "_cancelling", "_checkpoint", "_lease", "_limit", "_made", "_prompt", "_completion"),
        *("_saw_cancelling", "_store", "ends_at", "run", "tool_outputs"),
    )

    def __init__(self, store: Store, lease: Lease, claim: Claim, now: float, asynchronous: bool) -> None:
        self._store = store
        self._lease = lease
        self._asynchronous = asynchronous
        run = claim.run
        self.run: StoredRun = run
        """The run as it was claimed."""
        self.tool_outputs: Mapping[str, str] = claim.tool_outputs
        """The outputs that were submitted last, by call id; empty before any tool round."""
        self._checkpoint: Any = claim.checkpoint
        self._prompt = claim.usage.prompt_tokens
        self._completion = claim.usage.completion_tokens
        self._limit: IncompleteReason | None = None
        self._made: Outcome | tuple[Outcome, ...] | None = None
        """The outcome that its handler made, which must be the one it returns; several are a mistake."""
        self._cancelling = self._saw_cancelling = False
        # By the database's clock, at the claim; this machine's may be wrong, but counts seconds well enough.
        expires_at = run.expires_at
        self.ends_at: Final = _NEVER if expires_at is None else now + expires_at - claim.claimed_at_us / 1_000_000
        """When the deadline comes, by the clock that nobody sets."""

    def __repr__(self) -> str:
        return f"<Context of {self.run.id}, attempt {self.run.attempt}>"

    # --- what it can be asked -------------------------------------------------------------------------------------

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.run.id

    @property
    def attempt(self) -> int:
        """1, or more where other workers began and died."""
        return self.run.attempt

    @property
    def checkpoint_value(self) -> Any:
        """What was kept by `checkpoint` last, also by a worker before this one; None if nothing was."""
        return self._checkpoint

    @property
    def usage(self) -> Usage:
        """The tokens used so far, in all of the run."""
        return Usage(self._prompt, self._completion)

    @property
    def cancelling(self) -> bool:
        """Whether somebody asked to cancel the run. A plain handler asks this from time to time, and returns.

        A handler that has read True here and then returns nothing confirms the cancel, even if it read it for a log
        line alone; to complete after all, return `complete()`. An async handler is cancelled as a task instead.
        """
        self._saw_cancelling = self._saw_cancelling or self._cancelling
        return self._cancelling

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline. At the deadline the run expires, whatever the handler does."""
        return self.ends_at - monotonic()

    # --- what it can do -------------------------------------------------------------------------------------------

    def add_usage(self, prompt_tokens: int | GivenUsage = 0, completion_tokens: int = 0) -> None:
        """Count tokens, or a whole usage: a `Usage`, or the API's object for it.

        Raises `TokenLimitReached` past a limit of the run, which then ends as incomplete.
        """
        if isinstance(prompt_tokens, Usage | Mapping):
            if completion_tokens:
                raise_if_invalid([FieldError("completion_tokens", "are given twice: the usage before has its own")])
            added = usage_of(prompt_tokens)
        else:
            added = Usage(prompt_tokens, completion_tokens)
        spent = Usage(self._prompt + added.prompt_tokens, self._completion + added.completion_tokens)
        self._prompt, self._completion = spent.prompt_tokens, spent.completion_tokens
        self._limit = self.run.over_budget(spent)
        if self._limit is not None:
            raise TokenLimitReached(self.run.id, self._limit)

    def checkpoint(self, value: object) -> Awaitable[None]:
        """Keep a JSON value for the next call of the handler, also by another worker. Usage is kept along with it.

        In a plain handler it is durable when this returns; in an async one, when what it returns was awaited. While
        the store is away it waits. Raises `InvalidRun` for what is no JSON, `LeaseLost` where the run is another's.
        """
        checkpoint = Checkpoint(value)
        self._checkpoint = value
        if self._asynchronous:
            return retry_until_saved_async(
                lambda: self._store.aio.post_checkpoint(self._lease, self.run, checkpoint=checkpoint, usage=self.usage),
                self._goes_on,
                self._lease_lost,
                self._store.availability,
            )
        return retry_until_saved(
            lambda: self._store.save_checkpoint(self._lease, self.run, checkpoint=checkpoint, usage=self.usage),
            self._goes_on,
            self._lease_lost,
            self._store.availability,
        )

    def _lease_lost(self) -> LeaseLost:
        return LeaseLost(self.run, RunEvent.COMPLETE)

    def _goes_on(self) -> bool:
        return not self._cancelling

    def progress(self, text: str) -> None:
        """Say how far the work is, for people who look. It does not wait, and the last text counts."""
        raise_if_invalid(validators.string("progress", text))
        shown = text.replace("\0", "")[:_MOST_PROGRESS].encode(errors="replace").decode()  # half a character is none
        self._store.post_checkpoint(self._lease, self.run, usage=self.usage, progress=shown)

    def note_usage(self) -> None:
        """Have the tokens used so far kept, before the worker's next request."""
        if self._prompt or self._completion:
            with suppress(StoreError):  # the store is closed
                self._store.post_checkpoint(self._lease, self.run, usage=self.usage)

    # --- what came of it ------------------------------------------------------------------------------------------

    @staticmethod
    def tool_call(name: str, /, **arguments: Any) -> ToolCall:
        """Return a call of a tool under a new id, its arguments as JSON."""
        raise_if_invalid(validators.non_blank_string("name", name))
        return ToolCall("call_" + new_run_id()[4:], name, json.dumps(arguments))

    # Each only makes an outcome, which the handler returns. One that is made and not returned fails the run: to take
    # it as an end would end handlers that go on, and to forget it would complete a run that has failed.

    def require_action(self, calls: Calls) -> Outcome:
        """Return this to wait for the outputs of `calls`. The slot is free; the handler is called again with them.

        They come as for `Run.require_action`: tool calls, or the API's objects.
        """
        action = required_action_of(calls)
        raise_if_invalid(action.unnamed)
        return self._make(Outcome(RunEvent.REQUIRE_ACTION, action))

    def complete(self) -> Outcome:
        """Return this to end well. Returning nothing does the same."""
        return self._make(_COMPLETE)

    def mark_incomplete(self, reason: IncompleteReason) -> Outcome:
        """Return this to end at a token limit that the handler found by itself."""
        raise_if_invalid(_REASON("reason", reason))
        return self._make(Outcome(RunEvent.MARK_INCOMPLETE, IncompleteDetails(reason)))

    def fail(self, code: ErrorCode, message: str) -> Outcome:
        """Return this to end by an error."""
        return self._make(Outcome(RunEvent.FAIL, LastError(RunFailed(code, message).code, message)))

    def _make(self, outcome: Outcome) -> Outcome:
        """Note that an outcome was made."""
        made = self._made
        if made is None:
            self._made = outcome
        elif made is not outcome:  # to complete twice is to complete
            self._made = (*made, outcome) if isinstance(made, tuple) else (made, outcome)
        return outcome

    # --- the worker's side ----------------------------------------------------------------------------------------

    def await_from_now_on(self) -> None:
        """Have checkpoints awaited: the handler is a coroutine after all."""
        self._asynchronous = True

    def ask_to_cancel(self) -> None:
        """Let the handler know that its run shall be cancelled."""
        self._cancelling = True

    @property
    def is_cancelling(self) -> bool:
        """Whether it was let know; asked by the worker, not by the handler."""
        return self._cancelling

    @property
    def is_past_limit(self) -> bool:
        """Whether the run has used more tokens than it may, and ends as incomplete."""
        return self._limit is not None

    def settle(self, outcome: object) -> Settle:
        """Return the settle for what a handler returned."""
        if self._limit is not None:
            return self._settle(RunEvent.MARK_INCOMPLETE, incomplete_details=IncompleteDetails(self._limit))
        made = self._made
        if outcome is None and (made is None or made is _COMPLETE):
            if not self._saw_cancelling:
                return self.settle_event(RunEvent.COMPLETE)
            if made is None:
                return self.settle_event(RunEvent.CONFIRM_CANCEL)
        elif outcome is made and isinstance(made, Outcome):
            return self.settle_event(made.event) if made is _COMPLETE else self._settle_made(made)
        mistake = _mistake(outcome, made)
        log.warning("run %s failed: %s", self.run.id, mistake)
        return self._settle(RunEvent.FAIL, last_error=LastError("server_error", mistake))

    def _settle_made(self, outcome: Outcome) -> Settle:
        match outcome.value:
            case RequiredAction() as action:
                return self._settle(outcome.event, required_action=action)
            case LastError() as error:
                return self._settle(outcome.event, last_error=LastError(error.code, self._public(error.message)))
            case IncompleteDetails() as details:
                return self._settle(outcome.event, incomplete_details=details)
            case _:
                return self._settle(outcome.event)

    def settle_error(self, error: BaseException, *, skipped: int = 0) -> Settle:
        """Return the settle for what a handler raised.

        The traceback, without the `skipped` first frames, is for the history alone.
        """
        if isinstance(error, TokenLimitReached):
            self._limit = self._limit or error.reason  # a handler that counts by itself may raise it too
        if self._limit is not None:
            return self._settle(RunEvent.MARK_INCOMPLETE, incomplete_details=IncompleteDetails(self._limit))
        if isinstance(error, RunFailed):
            code, told = error.code, self._public(error.message)
        else:
            code, told = "server_error", sentence_of(error, self._store.address_parts)
        last = LastError(code, told.replace("\0", "")[:_MOST_MESSAGE])
        trace = traceback_of(error, self._store.address_parts, skipped=skipped)[-_MOST_TRACEBACK:]
        return self._settle(RunEvent.FAIL, last_error=last, detail={"traceback": trace})

    def _public(self, text: str) -> str:
        return redacted(text, self._store.address_parts)

    def settle_event(self, event: RunEvent) -> Settle:
        """Return the settle for an event that carries nothing: an end, a cancel confirmed, a deadline passed."""
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


def _mistake(returned: object, made: Outcome | tuple[Outcome, ...] | None) -> str:
    """Return the sentence about a handler that did not return the one outcome it made."""
    if isinstance(made, tuple):
        calls = ", ".join(f"ctx.{outcome.event}(...)" for outcome in made[:_MOST_CALLS])
        more = f" and {len(made) - _MOST_CALLS} more" if len(made) > _MOST_CALLS else ""
        return f"the handler made {len(made)} outcomes, {calls}{more}; expected one, returned where it is made"
    if made is not None:
        call = f"ctx.{made.event}(...)"
        what = "nothing" if returned is None else _shown(returned)
        return f"the handler called {call} and returned {what}; expected `return {call}`"
    return f"the handler returned {_shown(returned)}; expected what a method of the context returns, or nothing"


def _shown(returned: object) -> str:
    if not isinstance(returned, Outcome):
        return with_article(type(returned).__name__)
    try:
        return f"an outcome, {returned.event}, that its context did not make"
    except Exception:  # made by hand, of what has no sentence
        return "an outcome that its context did not make"
