"""A run in the transaction of an application: SQLAlchemy's connections and sessions, aiosqlite, psycopg's async one."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing
from typing import Any

import aiosqlite
import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from runstate.errors import IllegalTransition, RunNotFound, StoreError
from runstate.store import Store, open_store
from tests.store.conftest import make_url, postgres_broom, postgres_home, sqlite_template, store_url
from tests.store.support import names
from tests.support.postgres import postgres_server

__all__ = ["make_url", "postgres_broom", "postgres_home", "postgres_server", "sqlite_template", "store_url"]

LIMIT = 30


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with open_store(store_url) as store:
        yield store


def engine_url(store_url: str, *, is_async: bool) -> str:
    """Return the address in SQLAlchemy's spelling."""
    if store_url.startswith("sqlite"):
        return store_url.replace("sqlite:", "sqlite+aiosqlite:" if is_async else "sqlite+pysqlite:")
    return store_url.replace("postgresql:", "postgresql+psycopg:")


def test_the_spellings_of_sqlalchemy_are_addresses_of_a_store(store_url: str) -> None:
    for is_async in (False, True):
        with open_store(engine_url(store_url, is_async=is_async)) as store:
            assert () == store.list().data


@pytest.mark.parametrize("kind", ["connection", "session"])
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_run_is_committed_with_sqlalchemys_transaction_or_not_at_all(
    end: str, kind: str, store: Store, store_url: str
) -> None:
    engine = sa.create_engine(engine_url(store_url, is_async=False))
    try:
        with Session(engine) if kind == "session" else engine.connect() as own:
            with store.within(own) as bound:
                run = bound.create(**names(metadata={"a": "b"}))
                with pytest.raises(IllegalTransition):
                    bound.complete(run.id)
                assert run == bound.get(run.id)
            getattr(own, end)()
    finally:
        engine.dispose()
    if end == "commit":
        assert {"a": "b"} == store.get(run.id).metadata
    else:
        with pytest.raises(RunNotFound):
            store.get(run.id)


@asynccontextmanager
async def own_connection(kind: str, store_url: str) -> AsyncIterator[Any]:
    """Yield an async connection of an application, in its transaction."""
    if kind == "driver":
        if store_url.startswith("sqlite"):
            async with aiosqlite.connect(store_url.removeprefix("sqlite:///")) as own:
                yield own
        else:
            async with await psycopg.AsyncConnection.connect(store_url) as own:
                yield own
        return
    engine = create_async_engine(engine_url(store_url, is_async=True))
    try:
        async with AsyncSession(engine) if kind == "session" else engine.connect() as own:
            yield own
    finally:
        await engine.dispose()


KINDS = ["driver", "connection", "session"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_run_is_committed_with_an_async_transaction_or_not_at_all(
    end: str, kind: str, store: Store, store_url: str
) -> None:
    async def scene() -> str:
        async with own_connection(kind, store_url) as own:
            async with store.aio.within(own) as bound:
                run = await bound.create(**names(metadata={"a": "b"}))
                with pytest.raises(IllegalTransition):
                    await bound.complete(run.id)
                with pytest.raises(RunNotFound):
                    await bound.start("run_unknown")
                assert run == await bound.get(run.id)
                assert 1 == len((await bound.list()).data)
                await bound.request_cancel(run.id)
            await getattr(own, end)()
        return run.id

    run_id = asyncio.run(asyncio.wait_for(scene(), LIMIT))
    if end == "commit":
        assert "cancelled" == store.get(run_id).status
    else:
        with pytest.raises(RunNotFound):
            store.get(run_id)


@pytest.mark.parametrize("kind", KINDS)
def test_the_event_loop_goes_on_while_the_database_works(kind: str, store: Store, store_url: str) -> None:
    ticks: list[int] = []

    async def tick() -> None:
        while True:
            ticks.append(1)
            await asyncio.sleep(0)

    async def scene() -> None:
        ticking = asyncio.create_task(tick())
        async with own_connection(kind, store_url) as own, store.aio.within(own) as bound:
            await bound.create_many([names() for _ in range(50)])
        ticking.cancel()

    asyncio.run(asyncio.wait_for(scene(), LIMIT))
    assert len(ticks) > 10


def wrong_for_blocking(store_url: str) -> dict[str, Callable[[], Awaitable[Any]]]:
    async def driver() -> Any:
        if store_url.startswith("sqlite"):
            return await aiosqlite.connect(":memory:")
        return await psycopg.AsyncConnection.connect(store_url)

    async def session() -> Any:
        return AsyncSession(create_async_engine(engine_url(store_url, is_async=True)))

    return {"driver": driver, "session": session}


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::sqlalchemy.exc.SAWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("kind", ["driver", "session"])
def test_an_async_connection_in_the_blocking_form_is_told_the_right_form(
    kind: str, store: Store, store_url: str
) -> None:
    async def scene() -> None:
        own = await wrong_for_blocking(store_url)[kind]()
        try:
            with pytest.raises(StoreError, match=r"async with store\.aio\.within"), store.within(own):
                pass
        finally:
            await own.close()

    asyncio.run(asyncio.wait_for(scene(), LIMIT))


def test_a_blocking_connection_in_the_async_form_is_told_the_right_form(store: Store, store_url: str) -> None:
    async def scene() -> None:
        sqlite = store_url.startswith("sqlite")
        with (
            closing(sqlite3.connect(":memory:") if sqlite else psycopg.connect(store_url)) as own,
            pytest.raises(StoreError, match=r"`with store\.within\(\.\.\.\)`"),
        ):
            async with store.aio.within(own):
                pass

    asyncio.run(asyncio.wait_for(scene(), LIMIT))


def test_an_async_connection_to_another_store_is_refused(store: Store, store_url: str, tmp_path: Any) -> None:
    if not store_url.startswith("sqlite"):
        pytest.skip("the blocking form has the same check, in tests/store/test_within.py")

    async def scene() -> None:
        with open_store(tmp_path / "other.db"):
            async with aiosqlite.connect(tmp_path / "other.db") as own, store.aio.within(own) as bound:
                with pytest.raises(StoreError, match="leads to another store"):
                    await bound.create(**names())

    asyncio.run(asyncio.wait_for(scene(), LIMIT))
