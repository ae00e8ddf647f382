"""What cannot work is refused when a worker is made, and not paid for by the runs of a queue."""

from __future__ import annotations

import asyncio
import functools
import gc
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from runstate.store import Store, open_store
from runstate.worker import Context, Dispatcher, Handler, Outcome, Worker, drive, drive_async
from tests.worker.process import ROOT
from tests.worker.support import LIMIT, error_of, finish, finished, limited, new, until


@pytest.fixture
def memory() -> Iterator[Store]:
    """A store for what is refused before any database is asked."""
    with open_store("sqlite:///:memory:") as store:
        yield store


def answer(ctx: Context) -> None:
    """Complete."""


async def later(ctx: Context) -> None:
    await asyncio.sleep(0)


class Callables:
    """Methods of every kind, that can be handlers or cannot."""

    def __call__(self, ctx: Context, more: int) -> None: ...

    def method(self, ctx: Context) -> None: ...

    async def async_method(self, ctx: Context) -> None: ...

    def generate(self, ctx: Context) -> Iterator[int]:
        yield 1

    @staticmethod
    async def static(ctx: Context) -> None: ...


class Generating:
    async def __call__(self, ctx: Context) -> AsyncIterator[int]:
        yield 1


def none() -> None: ...


async def none_later() -> None: ...


def two(ctx: Context, more: int) -> None: ...


async def two_later(ctx: Context, more: int) -> None: ...


def keyword_only(*, ctx: Context) -> None: ...


def keyword_more(ctx: Context, *, more: int) -> None: ...


def generate(ctx: Context) -> Iterator[int]:
    yield 1


async def generate_later(ctx: Context) -> AsyncIterator[int]:
    yield 1


filled: Any = functools.partial(two, None, 1)  # type: ignore[arg-type]

CALLED_WRONGLY: dict[str, object] = {
    "no argument": none,
    "no argument, async": none_later,
    "two arguments": two,
    "two arguments, async": two_later,
    "a keyword alone": keyword_only,
    "a keyword more": keyword_more,
    "an object that takes two": Callables(),
    "a method without its object": Callables.method,
    "an async method without its object": Callables.async_method,
    "a partial that fills too much": functools.partial(filled),
    "a partial that fills too little": functools.partial(two),
    "a lambda": lambda: None,
    "a cached function": functools.cache(none),
    "a function of the library's own": functools.partial(isinstance, 1, int),
}
NO_HANDLERS: dict[str, Callable[[], object]] = {
    "a string": lambda: "my_app:answer",
    "a number": lambda: 5,
    "nothing": lambda: None,
    "what a handler returned": lambda: answer(None),  # type: ignore[arg-type]
    "a class": lambda: Callables,
    "a coroutine": lambda: later(None),  # type: ignore[arg-type]
    "a generator": lambda: generate(None),  # type: ignore[arg-type]
    "an async generator": lambda: generate_later(None),  # type: ignore[arg-type]
}
GENERATORS: dict[str, object] = {
    "a generator function": generate,
    "an async generator function": generate_later,
    "a partial of one": functools.partial(generate),
    "a method": Callables().generate,
    "an object": Generating(),
}


def refusals(store: Store, handler: Any) -> Iterator[str]:
    """Yield how each of those who take a handler refuses one."""
    run_id = store.list().data[0].id
    for make in (
        lambda: Worker(store, handler()),
        lambda: drive(store, run_id, handler()),
        lambda: asyncio.run(drive_async(store, run_id, handler())),
    ):
        with pytest.raises(TypeError) as refused:
            make()
        yield str(refused.value)


def check_refused(store: Store, handler: Any, told: str) -> None:
    run = store.create(**new())
    for sentence in refusals(store, handler):
        assert told in sentence
        assert "secret" not in sentence
        assert "0x" not in sentence, "an address in memory helps nobody"
    assert run == store.get(run.id), "and no run was touched"


@pytest.mark.parametrize("name", CALLED_WRONGLY)
def test_a_handler_that_cannot_be_called_with_a_context(name: str, memory: Store) -> None:
    """Its signature shows it, so no run has to."""
    check_refused(memory, lambda: CALLED_WRONGLY[name], "cannot be called with one argument")


def test_what_a_signature_says_is_bounded(memory: Store) -> None:
    """Names of parameters help; the values of their defaults may be long, or a secret."""

    def handler(one: int, two: int, key: str = "sk-secret", *more: int) -> None: ...

    check_refused(memory, lambda: handler, "(one, two, key=..., *more) cannot be called")


@pytest.mark.parametrize("name", NO_HANDLERS)
def test_what_is_no_handler(name: str, memory: Store) -> None:
    """It is named by its type; a coroutine that was made in vain is closed, so Python does not warn of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_refused(memory, NO_HANDLERS[name], "a handler is a function of a context")
        gc.collect()


@pytest.mark.parametrize("name", GENERATORS)
def test_a_handler_that_yields(name: str, memory: Store) -> None:
    """Calling one only makes a generator, of which the worker can make nothing."""
    check_refused(memory, lambda: GENERATORS[name], "generator function")


def test_types_are_named_with_their_article(memory: Store) -> None:
    """An int, an async_generator; a dict."""
    wrong: tuple[Any, ...] = (5, generate_later(None), {})  # type: ignore[arg-type]
    for handler, told in zip(wrong, ("got an int", "got an async_generator", "got a dict"), strict=True):
        with pytest.raises(TypeError, match=told):
            Worker(memory, handler)
    for returned, told in ((5, "an int"), (b"", "a bytes"), ((), "a tuple"), (open_store, "a function")):
        assert f"returned {told};" in error_of(finished(memory, lambda ctx: returned))["message"]  # type: ignore[arg-type]  # noqa: B023


# --- what works all the same ------------------------------------------------------------------------------------------


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    """Be a plain decorator that hides whether what it wraps is async, and what it takes."""

    @functools.wraps(function)
    def inner(*given: Any) -> Any:
        return function(*given)

    return inner


def injecting(function: Callable[..., Any]) -> Callable[[Context], Any]:
    """Be a decorator that gives an argument more, so that the signature of what it wraps is not the one that counts."""

    @functools.wraps(function)
    def inner(ctx: Context) -> Any:
        return function("the database", ctx)

    return inner


def blocking(function: Callable[..., Awaitable[Any]]) -> Callable[[Context], Any]:
    """Be a decorator that awaits by itself, which only a thread without an event loop can."""

    @functools.wraps(function)
    def inner(ctx: Context) -> Any:
        async def run() -> Any:
            return await function(ctx)

        return asyncio.run(run())

    return inner


async def kept(ctx: Context) -> Outcome:
    await ctx.checkpoint("kept")
    await asyncio.sleep(0)
    return ctx.complete()


@injecting
async def injected(database: str, ctx: Context) -> Outcome:
    assert "the database" == database
    return await kept(ctx)


@injecting
def injected_plain(database: str, ctx: Context) -> None:
    assert "the database" == database


class LaterCall:
    async def __call__(self, ctx: Context) -> Outcome:
        return await kept(ctx)


class FutureLike:
    """Something to await that is no coroutine."""

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx

    def __await__(self) -> Any:
        return kept(self.ctx).__await__()


async def forgotten_await(ctx: Context) -> Any:
    return kept(ctx)


async def own_task(ctx: Context) -> Any:
    return asyncio.create_task(kept(ctx))


WORKING: dict[str, Any] = {
    "async under a plain decorator": traced(kept),
    "under two": traced(traced(kept)),
    "a partial of it": functools.partial(traced(kept)),
    "an async object under it": traced(LaterCall()),
    "an async method under it": traced(LaterCall().__call__),
    "a lambda around an async function": lambda ctx: kept(ctx),
    "a lambda that makes an object to await": lambda ctx: FutureLike(ctx),
    "a decorator that adds an argument, async": injected,
    "a decorator that adds an argument": injected_plain,
    "a decorator that awaits by itself": blocking(kept),
    "a cached function": functools.cache(lambda ctx: None),
    "a static method, raw": Callables.__dict__["static"],
    "an argument more, with a default": lambda ctx, more=1: None,
    "any arguments": lambda *given, **named: None,
    "a mock": mock.Mock(return_value=None),
    "an async mock": mock.AsyncMock(return_value=None),
    "an await forgotten in the return": forgotten_await,
    "a task of its own": own_task,
}


@pytest.mark.slow
@pytest.mark.parametrize("by", ["worker", "drive"])
@pytest.mark.parametrize("name", WORKING)
def test_what_works_all_the_same(name: str, by: str, recwarn: pytest.WarningsRecorder) -> None:
    """What a handler returns is awaited where it can be, whatever hides it: there is only one thing it can mean."""
    with open_store("sqlite:///:memory:") as store:
        run = store.create(**new())
        if by == "worker":
            finish(store, WORKING[name])
        else:
            drive(store, run.id, WORKING[name])
        assert "completed" == store.get(run.id).status, store.get(run.id).last_error
    gc.collect()
    assert [] == [str(warning.message) for warning in recwarn]


@limited
async def test_a_hidden_coroutine_is_cancelled_as_any(store: Store, recwarn: pytest.WarningsRecorder) -> None:
    """It is a task like that of an async handler: a cancel reaches it, and its run ends cancelled."""
    begun = asyncio.Event()

    @traced
    async def wait(ctx: Context) -> None:
        begun.set()
        await asyncio.sleep(LIMIT)

    run = store.create(**new())
    async with Worker(store, wait):
        await begun.wait()
        await store.aio.request_cancel(run.id)
        while not (await store.aio.get(run.id)).is_terminal:
            await asyncio.sleep(0.01)
    assert "cancelled" == store.get(run.id).status
    gc.collect()
    assert [] == [str(warning.message) for warning in recwarn]


@limited
async def test_a_hidden_coroutine_whose_cancel_came_first(store: Store, recwarn: pytest.WarningsRecorder) -> None:
    """A cancel that comes while the plain part runs is not forgotten when that returns what is to be awaited."""
    begun, asked = threading.Event(), threading.Event()

    async def wait(ctx: Context) -> None:
        await asyncio.sleep(LIMIT)

    def around(ctx: Context) -> Any:
        begun.set()
        assert asked.wait(LIMIT)
        while not ctx.is_cancelling:
            time.sleep(0.005)
        return wait(ctx)

    run = store.create(**new())
    async with Worker(store, around):
        await until(begun.is_set, "the handler")
        await store.aio.request_cancel(run.id)
        asked.set()
        while not (await store.aio.get(run.id)).is_terminal:
            await asyncio.sleep(0.01)
    assert "cancelled" == store.get(run.id).status
    gc.collect()
    assert [] == [str(warning.message) for warning in recwarn]


@limited
async def test_a_hidden_coroutine_that_comes_too_late(store: Store, recwarn: pytest.WarningsRecorder) -> None:
    """Returned when its worker has given the run back, it is closed, and nothing is left to warn of."""
    begun, go_on, left = threading.Event(), threading.Event(), threading.Event()

    def around(ctx: Context) -> Any:
        begun.set()
        assert go_on.wait(LIMIT)
        left.set()
        return later(ctx)

    store.create(**new())
    async with Worker(store, around, drain_s=0.0):
        await until(begun.is_set, "the handler")
    go_on.set()
    await until(left.is_set, "its return")
    for thread in threading.enumerate():
        if thread.name.startswith("runstate-handler"):
            await asyncio.to_thread(thread.join, LIMIT)
    gc.collect()
    assert [] == [str(warning.message) for warning in recwarn]


def test_a_hidden_coroutine_that_raises(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """Its run fails as any, with one line in the log."""

    @traced
    async def broken(ctx: Context) -> None:
        raise ValueError("it broke")

    assert "ValueError: it broke" == error_of(finished(store, broken))["message"]
    assert 1 == len(caplog.records)


def test_a_generator_that_is_returned(store: Store, recwarn: pytest.WarningsRecorder) -> None:
    """One that only the call shows fails its run."""
    for made in (generate, generate_later):
        handler: Handler = lambda ctx: made(ctx)  # type: ignore[assignment]  # noqa: B023, E731
        assert "generator" in error_of(finished(store, handler))["message"]
    gc.collect()
    assert [] == [str(warning.message) for warning in recwarn]


# --- the store --------------------------------------------------------------------------------------------------------

SECRET = "postgresql://user:secret@host/db"


def no_stores(store: Store) -> Iterator[tuple[Any, str]]:
    yield SECRET, "expected a Store, got a str"
    yield Path("runs.db"), "expected a Store, got a "
    yield None, "expected a Store, got a NoneType"
    yield store.aio, "its `aio`"
    yield Store, "expected a Store, got a class"
    yield open_store, "expected a Store, got a function"


def test_what_is_no_store(memory: Store) -> None:
    """It is refused by all that take one, in a sentence that does not tell the address: it may hold a password."""
    run = memory.create(**new())
    sends: tuple[Callable[[Any], object], ...] = (
        lambda wrong: Worker(wrong, answer),
        lambda wrong: drive(wrong, run.id, answer),
        lambda wrong: asyncio.run(drive_async(wrong, run.id, answer)),
        lambda wrong: Dispatcher(wrong, print),
    )
    for wrong, told in no_stores(memory):
        for make in sends:
            with pytest.raises(TypeError) as refused:
                make(wrong)
            assert told in str(refused.value)
            assert "secret" not in str(refused.value)


def test_swapped_arguments(memory: Store) -> None:
    """The sentence says that they are swapped."""
    swapped: Any = (answer, memory)
    for make in (Worker, Dispatcher):
        with pytest.raises(TypeError, match="swapped"):
            make(*swapped)
    with pytest.raises(TypeError, match="swapped"):
        drive(swapped[0], "run_1", swapped[1])
    again: Any = memory
    for make in (Worker, Dispatcher):
        with pytest.raises(TypeError):
            make(memory, again)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"stall_timeout_s": 0}, "stall_timeout_s"),
        ({"stall_timeout_s": 0.1}, "stall_timeout_s"),
        ({"stall_timeout_s": "1"}, "stall_timeout_s"),
        ({"stall_timeout_s": float("inf")}, "stall_timeout_s"),
        ({"stall_timeout_s": float("nan")}, "stall_timeout_s"),
        ({"steps_reset_losses": 1}, "steps_reset_losses"),
    ],
    ids=str,
)
def test_a_stall_timeout_that_cannot_be(given: dict[str, Any], told: str, memory: Store) -> None:
    """A worker and a driver refuse it before they claim."""
    run = memory.create(**new())
    with pytest.raises(ValueError, match=told):
        Worker(memory, answer, **given)
    with pytest.raises(ValueError, match=told):
        drive(memory, run.id, answer, **given)
    assert run == memory.get(run.id)


# --- a dispatcher -----------------------------------------------------------------------------------------------------


def test_a_dispatcher_that_cannot_be(memory: Store) -> None:
    """What sends is called with an id alone, and not awaited; the settings are in their ranges."""
    wrong: tuple[Any, ...] = (none, two, later, later(None), "celery", Callables, LaterCall())  # type: ignore[arg-type]
    for send in wrong:
        with pytest.raises(TypeError, match="send"):
            Dispatcher(memory, send)
    settings: tuple[dict[str, Any], ...] = (
        {"queue": 5},
        {"queue": "\0"},
        {"after_s": -1},
        {"after_s": "30"},
        {"max_attempts": 0},
    )
    for given in settings:
        with pytest.raises(ValueError, match=next(iter(given))):
            Dispatcher(memory, print, **given)


def test_a_send_that_turns_out_to_be_async(memory: Store, recwarn: pytest.WarningsRecorder) -> None:
    """It says so with the first run, which counts as not sent, and nothing is left to warn of."""
    run = memory.create(**new())
    dispatcher = Dispatcher(memory, lambda run_id: later(run_id), after_s=0.0)  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(TypeError, match=f"a coroutine for run {run.id}"):
            dispatcher.look()
    gc.collect()
    assert [] == [str(warning.message) for warning in recwarn]


# --- from the command line --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("none", "cannot be called with one argument"),
        ("Callables", "is a class"),
        ("LIMIT", "a handler is a function of a context, got a float"),
    ],
)
def test_the_command_refuses_it_too(name: str, told: str, tmp_path: Path) -> None:
    """Exit code 2 and one line, before a run is claimed."""
    url = f"sqlite:///{tmp_path}/runs.db"
    with open_store(url) as store:
        run = store.create(**new())
        command = [sys.executable, "-m", "runstate", "worker", f"tests.worker.test_arguments:{name}"]
        done = subprocess.run(
            [*command, "--until-idle", "--store", url], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT
        )
        assert (2, 1) == (done.returncode, done.stderr.count("\n")), done.stderr
        assert told in done.stderr
        assert run == store.get(run.id)


def test_the_command_says_how_many_outcomes(tmp_path: Path) -> None:
    """One outcome is no outcomes."""
    url = f"sqlite:///{tmp_path}/runs.db"
    with open_store(url) as store:
        store.create(**new())
        command = [sys.executable, "-m", "runstate", "worker", "tests.worker.test_arguments:answer", "--until-idle"]
        command += ["--store", url, "--stall-timeout", "2m"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
        assert 0 == done.returncode
        assert "1 outcome committed" in done.stderr


@pytest.mark.parametrize("kept_s", [-1, float("nan"), float("inf"), "1", None])
def test_how_long_events_cannot_be_kept(memory: Store, kept_s: Any) -> None:
    with pytest.raises(ValueError, match="events_kept_s"):
        Worker(memory, answer, events_kept_s=kept_s)
