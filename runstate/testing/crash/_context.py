"""The context and the store that a handler gets under `crash_test`: the real ones, with a record of each operation."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from runstate.clock import monotonic
from runstate.run.arguments import GivenUsage
from runstate.run.errors import InvalidRun
from runstate.run.values import Usage
from runstate.store import Claim, Lease, Store
from runstate.testing.crash._log import HandlerCall, Operation, StepCall, WorkerDied, name_step
from runstate.testing.crash._probe import CURRENT_STEP
from runstate.worker import Context, StepInterrupted

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["CrashContext"]

_READS: Final = frozenset(
    {
        *("get", "list", "history", "entries", "progress", "steps", "step_index", "step_result", "counts", "queues"),
        *("latest_cursor", "owned", "overdue", "subscribe", "watch", "is_anything_due"),
        *("events", "events_page", "last_event_number", "emitter"),
    }
)
_PLAIN: Final = (str, int, float, bool, type(None))
_MOST_SHOWN: Final = 60


class CrashContext(Context):
    """A `Context` that records the steps and tokens of its handler, and refuses everything after its death."""

    __slots__ = ("_call",)

    def __init__(self, store: Store, lease: Lease, claim: Claim, call: HandlerCall) -> None:
        self._call = call
        super().__init__(cast("Store", _RecordedStore(store, call)), lease, claim, monotonic(), asynchronous=False)

    def add_usage(self, prompt_tokens: int | GivenUsage = 0, completion_tokens: int = 0) -> None:
        """Do the same as `Context.add_usage`, and record the tokens of a step."""
        self._call.require_alive()
        before = self.usage
        try:
            super().add_usage(prompt_tokens, completion_tokens)
        finally:
            step = CURRENT_STEP.get()
            if step is not None:
                after, had = self.usage, step.usage
                step.usage = Usage(
                    had.prompt_tokens + after.prompt_tokens - before.prompt_tokens,
                    had.completion_tokens + after.completion_tokens - before.completion_tokens,
                )

    def emit(self, data: object) -> None:
        """Do the same as `Context.emit`."""
        self._call.require_alive()
        super().emit(data)

    def step(self, name: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Do the same as `Context.step`, and record the step."""
        self._call.require_alive()
        place = (str(name), str(options.get("key") or ""))
        call = self._call
        described, held = _describe(function, args)
        step = StepCall(place, bool(options.get("once")), call.log.neutral(described), call.log.neutral(held))
        call.steps.append(step)
        wrapped = partial(_execute, step, function, self._asynchronous) if callable(function) else function
        with _watched(call, step):
            returned = super().step(name, wrapped, *args, **options)
        if inspect.isawaitable(returned):
            return _received(call, step, returned)
        step.is_returned = True
        return returned


def _execute(step: StepCall, function: Callable[..., Any], is_async: bool, *args: Any) -> Any:
    """Call the function of a step, so that its effects and tokens are known to be its own."""
    step.is_executed = True
    token = CURRENT_STEP.set(step)
    try:
        returned = function(*args)
    finally:
        CURRENT_STEP.reset(token)
    if is_async and inspect.isawaitable(returned):
        return _awaited(step, returned)
    return _checked(step, returned)


async def _awaited(step: StepCall, awaitable: Awaitable[Any]) -> Any:
    token = CURRENT_STEP.set(step)
    try:
        returned = await awaitable
    finally:
        CURRENT_STEP.reset(token)
    return _checked(step, returned)


def _checked(step: StepCall, value: Any) -> Any:
    """Record whether later attempts get another value than this one: JSON has fewer types than Python."""
    try:
        later = json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError):
        return value  # the library refuses it
    if not _is_same(value, later):
        step.changed = f"{_preview(value)}, and later attempts get {_preview(later)}"
    return value


def _is_same(value: Any, later: Any) -> bool:
    kind = cast("Any", type(value))
    if kind is not type(later):
        return False
    if kind is dict:
        return value.keys() == later.keys() and all(_is_same(value[key], later[key]) for key in value)
    if kind is list:
        return len(value) == len(later) and all(map(_is_same, value, later))
    return bool(value == later)


def _preview(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= _MOST_SHOWN else f"{shown[:_MOST_SHOWN]}..."


@contextmanager
def _watched(call: HandlerCall, step: StepCall) -> Generator[None, None, None]:
    try:
        yield
    except StepInterrupted:
        step.is_interrupted = True
        raise
    except InvalidRun as error:
        step.refusal = str(error)
        raise
    except WorkerDied:
        call.raised_here()
        raise


async def _received(call: HandlerCall, step: StepCall, awaitable: Awaitable[Any]) -> Any:
    with _watched(call, step):
        returned = await awaitable
    step.is_returned = True
    return returned


def _describe(function: Any, args: tuple[Any, ...]) -> tuple[str, str]:
    """Return the function of a step with its arguments, and the plain values that the function itself holds."""
    keywords: dict[str, Any] = {}
    while isinstance(function, partial):
        args, keywords = (*function.args, *args), {**function.keywords, **keywords}
        function = function.func
    shown = [*map(_argument, args), *(f"{name}={_argument(value)}" for name, value in keywords.items())]
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{name.rpartition('<locals>.')[2]}({', '.join(shown)})", ", ".join(_held_by(function))


def _argument(value: Any) -> str:
    if isinstance(value, Context):
        return "ctx"
    if isinstance(value, _PLAIN):
        return repr(value)
    kind = cast("Any", type(value))
    if kind in (list, tuple):
        return f"[{', '.join(map(_argument, value))}]"
    if kind is dict:
        return f"{{{', '.join(f'{key!r}: {_argument(value[key])}' for key in value)}}}"
    return str(getattr(value, "__qualname__", kind.__qualname__))  # not `repr`: it may contain an address


def _held_by(function: Any) -> list[str]:
    held = [repr(value) for value in getattr(function, "__defaults__", None) or () if isinstance(value, _PLAIN)]
    code = getattr(function, "__code__", None)
    cells: Any = getattr(function, "__closure__", None) or ()
    for name, cell in zip(code.co_freevars if code is not None else (), cells, strict=False):
        try:
            value = cell.cell_contents
        except ValueError:  # the variable has no value yet
            continue
        if isinstance(value, _PLAIN):
            held.append(f"{name}={value!r}")
    return held


class _RecordedStore:
    """The store of a handler. It passes every request on to the real store, and records those that write."""

    def __init__(self, store: Store, call: HandlerCall) -> None:
        self._store = store
        self._call = call

    @property
    def aio(self) -> _RecordedAsyncStore:
        """The methods for coroutines."""
        return _RecordedAsyncStore(self._store.aio, self._call)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name == "post_checkpoint":  # nothing else can show when it is committed
            found = self._store.save_checkpoint
        if not inspect.isroutine(found):
            return found
        return partial(self._read if name in _READS else self._write, name, found)

    def _read(self, _: str, method: Callable[..., Any], *args: Any, **given: Any) -> Any:
        self._call.require_alive()
        return method(*args, **given)

    def _write(self, name: str, method: Callable[..., Any], *args: Any, **given: Any) -> Any:
        operation = self._call.begin(*_name_write(self._call, name, args, given))
        result = method(*args, **given)
        _note_step(self._call, operation, args, given)
        self._call.commit(operation)
        return result


class _RecordedAsyncStore:
    """The same for coroutines."""

    def __init__(self, store: Any, call: HandlerCall) -> None:
        self._store = store
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return partial(self._read if name in _READS else self._write, name, getattr(self._store, name))

    def _read(self, _: str, method: Callable[..., Any], *args: Any, **given: Any) -> Any:
        self._call.require_alive()
        return method(*args, **given)

    def _write(self, name: str, method: Callable[..., Any], *args: Any, **given: Any) -> asyncio.Future[Any]:
        operation = self._call.begin(*_name_write(self._call, name, args, given))
        writing = asyncio.ensure_future(self._wait(operation, method(*args, **given), args, given))
        writing.add_done_callback(_retrieve)
        return writing

    async def _wait(self, operation: Operation, request: Awaitable[Any], args: Any, given: Any) -> Any:
        result = await request
        _note_step(self._call, operation, args, given)
        self._call.commit(operation)
        return result


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Read the exception of a write that the handler does not await. Otherwise asyncio logs it."""
    if not future.cancelled():
        future.exception()


def _name_write(call: HandlerCall, method: str, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[str, str]:
    """Return the kind of an operation, and how messages name it."""
    if method == "save_step":
        is_mark = given.get("result") is None
        return ("mark", f"the mark of {_step_of(args)}") if is_mark else ("result", f"the result of {_step_of(args)}")
    if method in ("save_checkpoint", "post_checkpoint"):
        if given.get("checkpoint") is not None:
            text = call.log.neutral(given["checkpoint"].text)
            return "checkpoint", f"the checkpoint {text[:_MOST_SHOWN]}{'...' if len(text) > _MOST_SHOWN else ''}"
        if given.get("progress") is not None:
            return "progress", f"the progress {_preview(given['progress'])}"
        return "usage", "the tokens used so far"
    return method, f"the request {method!r} to the store"


def _step_of(args: tuple[Any, ...]) -> str:
    return name_step((args[2], args[3] if len(args) > 3 else ""))


def _note_step(call: HandlerCall, operation: Operation, args: tuple[Any, ...], given: dict[str, Any]) -> None:
    """Record that a step was kept, or marked."""
    if operation.kind not in ("result", "mark"):
        return
    place = (args[2], args[3] if len(args) > 3 else "")
    for step in reversed(call.steps):
        if step.place == place:
            if given.get("result") is None:
                step.marked_at = operation.number
            else:
                step.kept_at = operation.number
            return
