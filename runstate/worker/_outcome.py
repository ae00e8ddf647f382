"""The outcome of a handler, the methods that make one, and the messages for handlers that return something else."""

from __future__ import annotations

import json
from types import MethodType
from typing import Any, Final, get_args

import attrs

from runstate.lifecycle import RunEvent
from runstate.run import validators
from runstate.run.arguments import Calls, required_action_of
from runstate.run.ids import new_run_id
from runstate.run.validators import with_article
from runstate.run.values import (
    ErrorCode,
    IncompleteDetails,
    IncompleteReason,
    LastError,
    RequiredAction,
    ToolCall,
    raise_if_invalid,
)
from runstate.worker._errors import RunFailed

__all__ = ["COMPLETE", "Outcome", "Outcomes", "fields_of", "mistake_of"]

_REASON: Final = validators.one_of(get_args(IncompleteReason))

_MOST_CALLS: Final = 5  # named in a message


@attrs.frozen
class Outcome:
    """The outcome of a handler. The methods of `Context` make it, and the handler returns it."""

    event: RunEvent
    value: object = None
    """The value that the event carries: a `RequiredAction`, a `LastError` or `IncompleteDetails`, or None."""
    retry_after_s: float | None = None
    """After how many seconds the handler is called again. None if it is not: then the event is applied."""

    @property
    def call(self) -> str:
        """The method that makes such an outcome."""
        return f"ctx.{self.event if self.retry_after_s is None else 'retry'}(...)"


COMPLETE: Final = Outcome(RunEvent.COMPLETE)


class Outcomes:
    """The methods of a context that make an outcome.

    They only make it, and the handler must return it: an outcome that is made and not returned fails the run. To apply
    it anyway would end runs whose handlers go on; to ignore it would complete a run that has failed.
    """

    __slots__ = ("_made",)

    _made: Outcome | tuple[Outcome, ...] | None
    """The outcome that the handler made and must return. Several outcomes are a mistake of the handler."""

    @staticmethod
    def tool_call(name: str, /, **arguments: Any) -> ToolCall:
        """Return a tool call with a new id and with the arguments as JSON, for `require_action`."""
        raise_if_invalid(validators.non_blank_string("name", name))
        return ToolCall("call_" + new_run_id()[4:], name, json.dumps(arguments))

    # These methods only make an outcome. The handler must return it: an outcome that is made and not returned fails the
    # run. To apply it anyway would end runs whose handlers go on; to ignore it would complete a run that has failed.

    def require_action(self, calls: Calls) -> Outcome:
        """Make the outcome of a handler that needs tools. Return it to wait for the outputs of `calls`.

        The worker's slot is free meanwhile. When all outputs are submitted, the handler is called again with them.
        `calls` are as for `Run.require_action`: `ToolCall` objects, or the API's objects. Raises `InvalidRun` for other
        values.
        """
        action = required_action_of(calls)
        raise_if_invalid(action.unnamed)
        return self._make(Outcome(RunEvent.REQUIRE_ACTION, action))

    def complete(self) -> Outcome:
        """Make the outcome "completed". Return it to complete the run, as returning nothing does."""
        return self._make(COMPLETE)

    def mark_incomplete(self, reason: IncompleteReason) -> Outcome:
        """Make the outcome "incomplete". Return it to end the run at a token limit that the handler found by itself.

        `reason` is `"max_completion_tokens"` or `"max_prompt_tokens"`. Raises `InvalidRun` for another one.
        """
        raise_if_invalid(_REASON("reason", reason))
        return self._make(Outcome(RunEvent.MARK_INCOMPLETE, IncompleteDetails(reason)))

    def fail(self, code: ErrorCode, message: str) -> Outcome:
        """Make the outcome "failed". Return it to fail the run with a code and a message. See also `RunFailed`.

        `code` is `"server_error"`, `"rate_limit_exceeded"` or `"invalid_prompt"`. Raises `InvalidRun` for another one.
        """
        return self._make(Outcome(RunEvent.FAIL, LastError(RunFailed(code, message).code, message)))

    def retry(self, *, after_s: float, reason: str, code: ErrorCode = "server_error") -> Outcome:
        """Make the outcome "not yet". Return it to be called again after `after_s` seconds, by any worker.

        Meanwhile the run stays in progress, its thread is busy, and the worker's slot is free. This counts as no failed
        attempt, so it is bounded by the deadline of the run alone: if the retry would come later, the run fails now
        with `code` and `reason`. See also `RetryLater`, the exception. Raises `InvalidRun` for wrong values.

            if busy.retry_after_s:
                return ctx.retry(after_s=busy.retry_after_s, reason="the model is overloaded")
        """
        raise_if_invalid(validators.number(0, validators.YEAR_10000)("after_s", after_s))
        return self._make(Outcome(RunEvent.FAIL, LastError(RunFailed(code, reason).code, reason), float(after_s)))

    def _make(self, outcome: Outcome) -> Outcome:
        """Record an outcome that was made."""
        made = self._made
        if made is None:
            self._made = outcome
        elif made is not outcome:  # to make `complete()` twice is allowed
            self._made = (*made, outcome) if isinstance(made, tuple) else (made, outcome)
        return outcome


def fields_of(value: object) -> dict[str, Any]:
    """Return the argument of `Settle.of` that takes the value of an outcome."""
    match value:
        case RequiredAction():
            return {"required_action": value}
        case LastError():
            return {"last_error": value}
        case IncompleteDetails():
            return {"incomplete_details": value}
        case _:
            return {}


def mistake_of(returned: object, made: Outcome | tuple[Outcome, ...] | None) -> str:
    """Return the message for a handler that did not return the one outcome it made."""
    if isinstance(made, tuple):
        calls = ", ".join(outcome.call for outcome in made[:_MOST_CALLS])
        more = f" and {len(made) - _MOST_CALLS} more" if len(made) > _MOST_CALLS else ""
        return f"the handler made {len(made)} outcomes, {calls}{more}; expected one, returned where it is made"
    if made is not None:
        call = made.call
        what = "nothing" if returned is None else _shown(returned)
        return f"the handler called {call} and returned {what}; expected `return {call}`"
    if isinstance(returned, MethodType) and isinstance(returned.__self__, Outcomes):
        name = returned.__name__
        return f"the handler returned the method ctx.{name}; expected its result, `return ctx.{name}(...)`"
    return f"the handler returned {_shown(returned)}; expected an outcome, such as `return ctx.complete()`, or nothing"


def _shown(returned: object) -> str:
    if not isinstance(returned, Outcome):
        return with_article(type(returned).__name__)
    try:
        return f"an outcome, {returned.event}, that its context did not make"
    except Exception:  # the handler made an `Outcome` itself, and its event has no text
        return "an outcome that its context did not make"
