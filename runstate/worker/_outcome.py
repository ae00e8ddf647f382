"""The outcome of a handler, and the messages for handlers that return something else."""

from __future__ import annotations

from typing import Any, Final

import attrs

from runstate.lifecycle import RunEvent
from runstate.run.validators import with_article
from runstate.run.values import IncompleteDetails, LastError, RequiredAction

__all__ = ["Outcome", "fields_of", "mistake_of"]

_MOST_CALLS: Final = 5  # named in a message


@attrs.frozen
class Outcome:
    """The outcome of a handler. The methods of `Context` make it, and the handler returns it."""

    event: RunEvent
    value: object = None
    """The value that the event carries: a `RequiredAction`, a `LastError` or `IncompleteDetails`, or None."""


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
    except Exception:  # the handler made an `Outcome` itself, and its event has no text
        return "an outcome that its context did not make"
