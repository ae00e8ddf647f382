"""Concurrent and cancelled calls inside an async transaction of the caller: the connection is at rest after each."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import count
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from runstate.errors import IllegalTransition, InvalidRun, StoreError
from runstate.store import Store, StoredRun
from runstate.store._postgres.async_caller import AsyncCallerConnection
from tests.integrations.test_database_layers import KINDS, own_connection
from tests.store.support import Prompt, names

LIMIT = 60
CALLS = 3
STEPS = 40
WAIT = AsyncCallerConnection.wait


def run(scene: Coroutine[Any, Any, None]) -> None:
    """Run a scene to its end, but not for ever."""
    asyncio.run(asyncio.wait_for(scene, LIMIT))


async def turns(number: int) -> None:
    """Let the event loop go on for some turns."""
    for _ in range(number):
        await asyncio.sleep(0)


@pytest.fixture
def orders(prompt: Prompt) -> Iterator[None]:
    """A table of the caller."""
    prompt.run("CREATE TABLE orders (number INTEGER)")
    yield
    prompt.run("DROP TABLE orders")


async def order(own: Any, number: int) -> None:
    """Write a row of the caller."""
    statement = f"INSERT INTO orders VALUES ({number})"
    await own.execute(sa.text(statement) if type(own).__module__.startswith("sqlalchemy") else statement)


async def go_on(own: Any, number: int) -> None:
    """Roll back what the store has done, and commit a row of the caller on the same connection."""
    await own.rollback()
    await order(own, number)
    await own.commit()


@contextmanager
def nobody_writes(store_url: str) -> Generator[Callable[[], None]]:
    """Hold a lock that every create waits for. Yield what releases it."""
    if store_url.startswith("sqlite"):
        with closing(sqlite3.connect(store_url.removeprefix("sqlite:///"), isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield other.rollback
    else:
        with closing(psycopg.connect(store_url)) as other:
            other.execute("LOCK TABLE runstate_run IN EXCLUSIVE MODE")
            yield other.rollback


@pytest.mark.parametrize("kind", KINDS)
def test_calls_that_are_made_together_are_executed_one_after_the_other(kind: str, store: Store, store_url: str) -> None:
    async def scene() -> None:
        async with own_connection(kind, store_url) as own:
            async with store.aio.within(own) as bound:
                for number in range(CALLS):
                    ids = [f"run_{number}_{each}" for each in range(CALLS)]
                    runs = await asyncio.gather(
                        *(bound.create(**names(id=each, metadata={"id": each})) for each in ids)
                    )
                    assert ids == [each.id for each in runs] == [each.metadata["id"] for each in runs]
                    assert list(runs) == await asyncio.gather(*map(bound.get, ids))
            await own.commit()

    run(scene())
    assert CALLS**2 == len(store.list(limit=100).data)


@pytest.mark.parametrize("kind", KINDS)
def test_a_refused_call_does_not_disturb_those_that_are_made_together_with_it(
    kind: str, store: Store, store_url: str
) -> None:
    store.create(**names(id="run_1"))

    async def scene() -> None:
        async with own_connection(kind, store_url) as own:
            async with store.aio.within(own) as bound:
                calls: list[Awaitable[StoredRun]] = [
                    bound.create(**names(id="run_2")),
                    bound.complete("run_1"),
                    bound.create(**names(id="run_1", model="other")),
                    bound.start("run_1"),
                ]
                created, completed, repeated, started = await asyncio.gather(*calls, return_exceptions=True)
            await own.commit()
        assert isinstance(created, StoredRun)
        assert isinstance(completed, IllegalTransition)
        assert isinstance(repeated, InvalidRun)
        assert isinstance(started, StoredRun)

    run(scene())
    assert {"run_1": "in_progress", "run_2": "queued"} == {each.id: each.status for each in store.list().data}


@pytest.mark.parametrize("calls", [1, CALLS])
@pytest.mark.parametrize("kind", KINDS)
def test_a_cancelled_call_ends_with_its_request(
    kind: str, calls: int, store: Store, store_url: str, prompt: Prompt, orders: None
) -> None:
    """It does so also if it is cancelled again, or is one of several in `gather`."""

    async def scene() -> None:
        async with own_connection(kind, store_url) as own:
            with nobody_writes(store_url) as release:
                async with store.aio.within(own) as bound:
                    call = asyncio.gather(*(bound.create(**names(id=f"run_{each}")) for each in range(calls)))
                    for _ in range(2):
                        await turns(STEPS)
                        call.cancel()
                    await turns(STEPS)
                    assert not call.done()
                    release()
                    with pytest.raises(asyncio.CancelledError):
                        await call
            await go_on(own, 1)

    run(scene())
    assert () == store.list().data
    assert [(1,)] == prompt.run("SELECT number FROM orders")


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_that_times_out_leaves_no_run_after_a_rollback(
    kind: str, store: Store, store_url: str, prompt: Prompt, orders: None
) -> None:
    async def later(release: Callable[[], None]) -> None:
        await turns(STEPS)
        release()

    async def scene() -> None:
        async with own_connection(kind, store_url) as own:
            with nobody_writes(store_url) as release:
                releasing = asyncio.ensure_future(later(release))
                with pytest.raises(TimeoutError):
                    async with store.aio.within(own) as bound, asyncio.timeout(0):
                        await bound.create(**names())
                assert releasing.done()
            await go_on(own, 1)

    run(scene())
    assert () == store.list().data
    assert [(1,)] == prompt.run("SELECT number FROM orders")


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_that_is_cancelled_at_any_time_leaves_no_run_after_a_rollback(
    kind: str, store: Store, store_url: str, prompt: Prompt, orders: None
) -> None:
    """Wherever it is cancelled, the caller can roll back, and go on with the same connection."""

    async def scene() -> None:
        async with own_connection(kind, store_url) as own:
            for number in range(STEPS):
                async with store.aio.within(own) as bound:
                    call = asyncio.ensure_future(bound.create(**names(id=f"run_{number}")))
                    await turns(number)
                    call.cancel()
                    await asyncio.wait([call])
                await go_on(own, number)

    run(scene())
    assert () == store.list().data
    assert [(number,) for number in range(STEPS)] == prompt.run("SELECT number FROM orders ORDER BY number")


def cancel_at(statement: int, call: asyncio.Future[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancel a call when its request sends this one of its statements."""
    loop, numbers = asyncio.get_running_loop(), count()

    def counted(connection: AsyncCallerConnection, coroutine: Coroutine[Any, Any, Any]) -> Any:
        if next(numbers) == statement:
            loop.call_soon_threadsafe(call.cancel)
        return WAIT(connection, coroutine)

    monkeypatch.setattr(AsyncCallerConnection, "wait", counted)


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_can_be_cancelled_at_each_of_its_statements(
    kind: str, store: Store, store_url: str, prompt: Prompt, orders: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if store_url.startswith("sqlite"):
        pytest.skip("aiosqlite executes a whole request in its thread")
    results: list[StoredRun | BaseException] = []

    async def scene() -> None:
        async with own_connection(kind, store_url) as own:
            while not results or isinstance(results[-1], asyncio.CancelledError):
                async with store.aio.within(own) as bound:
                    call = asyncio.ensure_future(bound.create(**names(metadata={"a": "b"})))
                    cancel_at(len(results), call, monkeypatch)
                    results.extend(await asyncio.gather(call, return_exceptions=True))
                await go_on(own, len(results))

    run(scene())
    assert isinstance(results[-1], StoredRun)  # it has fewer statements
    assert len(results) > 3
    assert () == store.list().data
    assert [(each,) for each in range(1, len(results) + 1)] == prompt.run("SELECT number FROM orders ORDER BY number")


def test_a_cancelled_call_whose_request_is_refused_is_cancelled(
    store: Store, store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The refusal is nobody's: asyncio reports no error that was never retrieved."""
    store.create(**names(id="run_1"))

    async def scene() -> None:
        async with own_connection("driver", store_url) as own:
            with nobody_writes(store_url) as release:
                async with store.aio.within(own) as bound:
                    call = asyncio.ensure_future(bound.create(**names(id="run_1", model="other")))
                    await turns(STEPS)
                    call.cancel()
                    await turns(STEPS)
                    release()
                    with pytest.raises(asyncio.CancelledError):
                        await call
            await own.rollback()

    run(scene())
    assert [] == [each.message for each in caplog.records]


@pytest.mark.parametrize("kind", KINDS)
def test_the_end_of_the_block_waits_for_the_request_and_refuses_later_ones(
    kind: str, store: Store, store_url: str
) -> None:
    """It does so also if the end is cancelled."""

    async def block(own: Any, calls: list[asyncio.Future[StoredRun]], leaving: asyncio.Event) -> None:
        async with store.aio.within(own) as bound:
            calls.extend(asyncio.ensure_future(bound.create(**names(id=f"run_{each}"))) for each in range(CALLS))
            await turns(STEPS)
            leaving.set()
        with pytest.raises(StoreError, match="the block of `within` is over"):
            await bound.get("run_0")

    async def scene(*, is_cancelled: bool) -> None:
        calls: list[asyncio.Future[StoredRun]] = []
        leaving = asyncio.Event()
        async with own_connection(kind, store_url) as own:
            with nobody_writes(store_url) as release:
                ending = asyncio.ensure_future(block(own, calls, leaving))
                await leaving.wait()
                await turns(STEPS)
                if is_cancelled:
                    ending.cancel()
                    await turns(STEPS)
                assert not ending.done()
                release()
                (ended,) = await asyncio.gather(ending, return_exceptions=True)
                assert is_cancelled == isinstance(ended, asyncio.CancelledError)
            first, *others = await asyncio.gather(*calls, return_exceptions=True)
            assert isinstance(first, StoredRun)
            assert [StoreError] * (CALLS - 1) == [type(each) for each in others]
            await own.rollback()

    run(scene(is_cancelled=False))
    run(scene(is_cancelled=True))
    assert () == store.list().data


def test_a_call_needs_no_thread_of_the_event_loop(store: Store, store_url: str) -> None:
    """Otherwise those that wait for a lock would take the threads from the call before the commit that releases it."""
    if store_url.startswith("sqlite"):
        pytest.skip("aiosqlite has a thread for each connection")
    store.create(**names(id="run_1"))

    async def scene() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        async with (
            own_connection("driver", store_url) as first,
            own_connection("driver", store_url) as second,
            store.aio.within(first) as bound,
            store.aio.within(second) as other,
        ):
            await bound.start("run_1")
            late = asyncio.ensure_future(other.start("run_1"))
            await turns(STEPS)
            assert "in_progress" == (await bound.get("run_1")).status
            await first.commit()
            with pytest.raises(IllegalTransition):
                await late

    run(scene())
