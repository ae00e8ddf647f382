"""How the kit sends an event to a run: to a `Run`, to a stored run, or to an object with methods of these names.

Required arguments (calls, outputs, a reason, an error) are filled in from samples, unless they are given.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, Final, TypeAlias, cast

from runstate.lifecycle import RUN_LIFECYCLE, RunEvent, RunStatus
from runstate.lifecycle.errors import IllegalTransition, TerminalStatus
from runstate.run.values import RequiredAction, ToolCall, Usage
from runstate.store import Store, StoredRun

__all__ = [
    "CALLS",
    "RefusalTypes",
    "UsageError",
    "other_refusal",
    "refusal_types",
    "require_sync",
    "send_event",
    "send_event_to_store",
    "was_expired_by_request",
]

RefusalTypes: TypeAlias = type[Exception] | tuple[type[Exception], ...]
"""The exceptions by which an implementation refuses an event."""

CALLS: Final = (ToolCall("call_1", "weather", '{"city": "Paris"}'),)
"""The calls that a run waits for if none are given."""

_OTHER_CALLS: Final = (ToolCall("call_2", "weather", '{"city": "Rome"}'),)
_SAMPLES: Final[Mapping[str, object]] = {
    "calls": CALLS,
    "reason": "max_completion_tokens",
    "code": "server_error",
    "message": "it broke",
    "usage": Usage(12, 30),
}


class UsageError(TypeError):
    """An event cannot be sent in this way. It is a mistake of the test, and never a refusal."""


def send_event(run: object, event: RunEvent | str, *, method: str = "", **arguments: Any) -> object:
    """Call the method of a run in memory for `event`, or `method`; return what it returns.

    Raises `UsageError` if the run has no such method, if a required argument is neither in `arguments` nor among the
    samples, or if the method returns an awaitable.
    """
    event = RunEvent(event)
    move = getattr(run, method or event, None)
    if not callable(move):
        stored = isinstance(run, StoredRun)
        hint = "a stored run is moved by its store: give store=" if stored else "by= sends the event in another way"
        raise UsageError(f"{type(run).__name__} has no method {method or event}(); {hint}")
    return require_sync(move(**_with_samples(move, run, arguments)), f"{type(run).__name__}.{method or event}()")


def send_event_to_store(store: Store, run: StoredRun, event: RunEvent | str, **arguments: Any) -> StoredRun:
    """Send `event` to a run in a store; return the run afterwards. Raises what the store raises."""
    move: Callable[..., StoredRun] = getattr(store, RunEvent(event))
    return move(run.id, **_with_samples(move, run, {"run_id": run.id, **arguments}, leave_out="run_id"))


def require_sync(result: object, what: str) -> object:
    """Return the result. Raises `UsageError` for an awaitable, which has done nothing yet."""
    if inspect.iscoroutine(result):
        cast("Coroutine[Any, Any, Any]", result).close()  # otherwise Python warns that it was never awaited
    if inspect.isawaitable(result):
        raise UsageError(f"{what} returned an awaitable: give by=lambda: asyncio.run(...)")
    return result


def refusal_types(refused: RefusalTypes) -> tuple[type[Exception], ...]:
    """Return the exceptions that count as refusals; those of `transitions` are added if it is loaded."""
    kinds = refused if isinstance(refused, tuple) else (refused,)
    module = sys.modules.get("transitions")
    return kinds if module is None else (*kinds, module.MachineError)


def was_expired_by_request(refusal: Exception, source: RunStatus) -> bool:
    """Return whether the store expired the run in the request that it then refused, as it does after the deadline."""
    run = refusal.run if isinstance(refusal, TerminalStatus) and refusal.event in RUN_LIFECYCLE.until_deadline else None
    return run is not None and (run.event, run.source) == (RunEvent.EXPIRE, source)


def other_refusal(refusal: Exception, before: Mapping[str, Any], event: RunEvent) -> str:
    """Return the refusal in words if it is one of this library for another event or another run; else ""."""
    if not isinstance(refusal, IllegalTransition):
        return ""
    same = refusal.event is event and before.get("id", refusal.run_id) == refusal.run_id
    return "" if same else str(refusal)


def _with_samples(
    move: Callable[..., object], run: object, arguments: Mapping[str, Any], leave_out: str = ""
) -> dict[str, Any]:
    """Return the arguments of a method, with samples for required ones that were not given."""
    filled = {name: value for name, value in arguments.items() if name != leave_out}
    for name, parameter in inspect.signature(move).parameters.items():
        is_required = parameter.default is parameter.empty and parameter.kind in (
            parameter.POSITIONAL_OR_KEYWORD,
            parameter.KEYWORD_ONLY,
        )
        if not is_required or name in arguments:
            continue
        if name == "outputs":
            filled[name] = _outputs(run)
        elif name == "calls" and _call_ids(run) == [call.id for call in CALLS]:
            filled[name] = _OTHER_CALLS  # otherwise the new calls would be equal to the old ones
        elif name in _SAMPLES:
            filled[name] = _SAMPLES[name]
        else:
            who = f"{type(run).__name__}.{getattr(move, '__name__', 'the move')}"
            raise UsageError(f"{who}() needs {name}, and there is no sample of it: give {name}=...")
    return filled


def _outputs(run: object) -> dict[str, str]:
    """Return an output for each call that a run waits for; for the sample calls if it waits for none."""
    return dict.fromkeys(_call_ids(run) or [call.id for call in CALLS], "ok")


def _call_ids(run: object) -> list[str]:
    """Return the ids of the calls that a run waits for."""
    action = getattr(run, "required_action", None)
    return [*action.call_ids] if isinstance(action, RequiredAction) else [*_call_ids_in_json(action)]


def _call_ids_in_json(action: object) -> Iterator[str]:
    """Yield the ids of the calls in a required action as JSON; none if it has another form."""
    try:
        yield from [call["id"] for call in cast("Any", action)["submit_tool_outputs"]["tool_calls"]]
    except (LookupError, TypeError):
        return
