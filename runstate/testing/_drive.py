"""How the kit asks an event of a run: a `Run`, a stored one, or an object of the user's own with methods so named.

What a move needs besides (calls, outputs, a reason, an error) is filled in from samples, unless it is given.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, Final, TypeAlias, cast

from runstate.lifecycle import RunEvent
from runstate.run.values import RequiredAction, ToolCall, Usage
from runstate.store import Store, StoredRun

__all__ = ["CALLS", "Misuse", "RefusalTypes", "answered", "ask", "ask_stored"]

RefusalTypes: TypeAlias = type[Exception] | tuple[type[Exception], ...]
"""The exceptions by which an implementation refuses an event."""

CALLS: Final = (ToolCall("call_1", "weather", '{"city": "Paris"}'),)
"""The calls that a run is made to wait for where none are given."""

_OTHER_CALLS: Final = (ToolCall("call_2", "weather", '{"city": "Rome"}'),)
_SAMPLES: Final[Mapping[str, object]] = {
    "calls": CALLS,
    "reason": "max_completion_tokens",
    "code": "server_error",
    "message": "it broke",
    "usage": Usage(12, 30),
}


class Misuse(TypeError):
    """An event cannot be asked so. It is the test's mistake, and never a refusal."""


def ask(run: object, event: RunEvent | str, *, method: str = "", **given: Any) -> object:
    """Ask `event` of a run in memory by its method of that name, or by `method`; return what that returns.

    Raises `TypeError` where the run has no such method, one that needs what neither `given` nor the samples hold, or
    one that is to be awaited.
    """
    event = RunEvent(event)
    move = getattr(run, method or event, None)
    if not callable(move):
        stored = isinstance(run, StoredRun)
        hint = "a stored run is moved by its store: give store=" if stored else "by= says how else it is asked"
        raise Misuse(f"{type(run).__name__} has no method {method or event}(); {hint}")
    return answered(move(**_filled(move, run, given)), f"{type(run).__name__}.{method or event}()")


def ask_stored(store: Store, run: StoredRun, event: RunEvent | str, **given: Any) -> StoredRun:
    """Ask `event` of a run by its store; return the run as it stands afterwards. Raises what the store raises."""
    move: Callable[..., StoredRun] = getattr(store, RunEvent(event))
    return move(run.id, **_filled(move, run, {"run_id": run.id, **given}, named="run_id"))


def answered(answer: object, who: str) -> object:
    """Return what was answered. Raises `TypeError` for a coroutine: nothing has been asked yet then."""
    if inspect.iscoroutine(answer):
        cast("Coroutine[Any, Any, Any]", answer).close()  # or Python warns that nobody awaited it
    if inspect.isawaitable(answer):
        raise Misuse(f"{who} is to be awaited: give by=lambda: asyncio.run(...)")
    return answer


def _filled(move: Callable[..., object], run: object, given: Mapping[str, Any], named: str = "") -> dict[str, Any]:
    """Return what is given to a method: samples for what it needs and nobody gave."""
    filled = {name: value for name, value in given.items() if name != named}
    for name, parameter in inspect.signature(move).parameters.items():
        needed = parameter.default is parameter.empty and parameter.kind in (
            parameter.POSITIONAL_OR_KEYWORD,
            parameter.KEYWORD_ONLY,
        )
        if not needed or name in given:
            continue
        if name == "outputs":
            filled[name] = _outputs(run)
        elif name == "calls" and _ids_of(run) == [call.id for call in CALLS]:
            filled[name] = _OTHER_CALLS  # or nobody would see that they were put in the place of those it waits for
        elif name in _SAMPLES:
            filled[name] = _SAMPLES[name]
        else:
            who = f"{type(run).__name__}.{getattr(move, '__name__', 'the move')}"
            raise Misuse(f"{who}() needs {name}, and there is no sample of it: give {name}=...")
    return filled


def _outputs(run: object) -> dict[str, str]:
    """Return an output for each call that a run waits for; for the sample's where it waits for none."""
    return dict.fromkeys(_ids_of(run) or [call.id for call in CALLS], "ok")


def _ids_of(run: object) -> list[str]:
    """Return the ids of the calls that a run waits for."""
    action = getattr(run, "required_action", None)
    return [*action.call_ids] if isinstance(action, RequiredAction) else [*_ids_in(action)]


def _ids_in(action: object) -> Iterator[str]:
    """Yield the ids of the calls in a required action as the API writes it; none where it is written otherwise."""
    try:
        yield from [call["id"] for call in cast("Any", action)["submit_tool_outputs"]["tool_calls"]]
    except (LookupError, TypeError):
        return
