"""Requests that the store refuses while it takes others: they are made again at their own rate, beside the rest."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runstate.errors import AccessDenied, SchemaMismatch, StoreError, StoreUnavailable
from runstate.store import Store, open_store
from runstate.store._api import async_store, worker_protocol
from runstate.store._api import store as store_module
from runstate.store._engine import executor
from runstate.store._engine.commands import InTransaction
from runstate.worker import Context, Worker
from tests.worker.support import KINDS, at_work, ended, limited, new, of_kind, until

COMMITS = 300
"""So many commits of others: a request that each of them has made again is made hundreds of times."""
FEW = 12
"""The tries of a request that grow apart, in the time of so many commits, also on a slow machine."""


class Refusing:
    """Refuses requests, and counts them."""

    def __init__(self, error: StoreError) -> None:
        self.error = error
        self.count = 0

    def __call__(self, *_: object, **__: object) -> Any:
        self.count += 1
        raise self.error


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with open_store(f"sqlite:///{tmp_path}/runs.db", migrate=True) as opened:
        yield opened


def refuse_readers(store: Store, monkeypatch: pytest.MonkeyPatch) -> Refusing:
    """Have the database open no more connections that read: it is full."""
    refusing = Refusing(StoreUnavailable("too many clients"))
    opening: Callable[..., Any] = store._database.open
    assert store._readers is not None
    store._readers._drain()
    monkeypatch.setattr(
        store._database, "open", lambda *, reading=False: refusing() if reading else opening(reading=reading)
    )
    return refusing


async def commit(store: Store) -> None:
    """Commit what is of no worker's queue."""
    for _ in range(COMMITS):
        await store.aio.create(**new(queue="other"))


def assert_few(tries: int, seconds: float) -> None:
    """Check that tries grew apart: four in the first second, and not two a second after it."""
    assert 0 < tries < FEW + 2 * seconds, f"{tries} tries in {seconds:.1f} s"


@limited
async def test_readers_that_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Handlers are called all the same, and their outcomes committed."""
    refusing = refuse_readers(store, monkeypatch)
    loop = asyncio.get_running_loop()
    began_at_us = loop.time()
    async with at_work(store, lambda ctx: None) as worker:
        for _ in range(COMMITS):
            await store.aio.create(**new())
        await until(lambda: worker.settled == COMMITS, "the outcomes")
        await until(lambda: refusing.count > 0, "a sweep")
    assert_few(refusing.count, loop.time() - began_at_us)
    assert not store.availability.was_away_since(0.0), "the store could be written to all the time"


@limited
async def test_turns_that_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the role may not do what a turn does: others commit, and that does not hurry the worker."""
    loop = asyncio.get_running_loop()
    for error in (StoreError("no such function"), AccessDenied("no right to this")):
        refusing = Refusing(error)
        began_at_us = loop.time()
        with monkeypatch.context() as patch:
            patch.setattr(executor, "execute_settle_and_claim", refusing)
            async with at_work(store, lambda ctx: None, drain_s=0.0):
                await until(lambda: refusing.count > 0, "a turn")  # noqa: B023
                await commit(store)
        assert_few(refusing.count, loop.time() - began_at_us)


@pytest.mark.parametrize("kind", KINDS)
@limited
async def test_checkpoints_that_are_refused(
    kind: str, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log does not say that the store is back, as long as it refuses them."""
    caplog.set_level(logging.WARNING, "runstate.store")
    refusing = Refusing(AccessDenied("no right to this"))
    for module in (worker_protocol, store_module, async_store):
        monkeypatch.setattr(module, "save_checkpoint_command", lambda *_: InTransaction(refusing))

    def plain(ctx: Context) -> None:
        ctx.checkpoint(1)

    async def later(ctx: Context) -> None:
        await ctx.checkpoint(1)

    loop = asyncio.get_running_loop()
    store.create(**new())
    began_at_us = loop.time()
    async with at_work(store, plain if kind == "plain" else later, drain_s=0.0):
        await until(lambda: refusing.count > 0, "a checkpoint")
        await commit(store)
        assert_few(refusing.count, loop.time() - began_at_us)
        assert "is back" not in caplog.text


@pytest.mark.parametrize("refused", ["is_anything_due", "sweep"])
@limited
async def test_sweeps_that_are_refused(refused: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that works until there is nothing to do goes on with new runs, and ends when the sweeps go well."""
    refusing = Refusing(StoreUnavailable("too many clients"))
    with monkeypatch.context() as patch:
        patch.setattr(store.aio, "is_anything_due", lambda: asyncio.sleep(0, True))
        patch.setattr(store.aio, refused, refusing)
        worker = Worker(store, lambda ctx: None)
        working = asyncio.create_task(worker.work(until_idle=True))
        await until(lambda: refusing.count > 1, "sweeps")
        run = await store.aio.create(**new())
        assert "completed" == (await ended(store, run.id)).status
        assert not working.done()
    await asyncio.wait_for(working, 20.0)


@limited
async def test_a_sweep_that_is_refused_for_good(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps no worker from ending that has nothing to do."""
    monkeypatch.setattr(store.aio, "is_anything_due", Refusing(StoreError("no such function")))
    run = store.create(**new())
    await asyncio.wait_for(Worker(store, lambda ctx: None).work(until_idle=True), 20.0)
    assert "completed" == store.get(run.id).status


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [SchemaMismatch("of an old version"), AccessDenied("no right to this")])
@limited
async def test_an_error_of_another_store(
    error: StoreError, kind: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler's own store has a fault: that fails its run, also while the worker's store refuses readers."""

    def answer(ctx: Context) -> None:
        calls.append(ctx.run_id)
        raise error

    calls: list[str] = []
    refusing = refuse_readers(store, monkeypatch)
    async with at_work(store, of_kind(kind, answer)) as worker:
        await until(lambda: refusing.count > 0, "a sweep")
        run = await store.aio.create(**new())
        await until(lambda: worker.settled == 1, "its outcome")
    monkeypatch.undo()
    assert ("failed", [run.id]) == (store.get(run.id).status, calls)
