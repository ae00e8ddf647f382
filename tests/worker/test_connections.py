"""How many connections of a server a worker process needs."""

from __future__ import annotations

import asyncio

import pytest

from runstate import RunStatus
from runstate.errors import OutcomeUnknown, StoreUnavailable
from runstate.store import open_store
from runstate.store._engine.transport import read_command
from runstate.worker import Context, Worker
from tests.store.support import Prompt
from tests.worker.support import LIMIT, ended, limited, new, until

CLIENTS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
    " AND pid <> pg_backend_pid()"
)


def count(prompt: Prompt) -> int:
    """Return how many clients the server has."""
    ((clients,),) = prompt.run(CLIENTS)
    return int(clients)


@pytest.mark.parametrize("store_url", ["postgres"], indirect=True)
@limited
async def test_a_worker_needs_two(store_url: str, prompt: Prompt) -> None:
    """One that writes and one that listens; also for steps, events, cancels and sweeps."""

    async def answer(ctx: Context) -> None:
        await ctx.step("one", lambda: 1)
        ctx.emit("two")
        if ctx.run.assistant_id == "waits":
            await asyncio.sleep(LIMIT)

    before = count(prompt)
    with open_store(store_url) as store:
        async with Worker(store, answer, concurrency=10) as worker:
            runs = [await store.aio.create(**new(assistant_id=name)) for name in ("a", "b", "waits")]
            await until(lambda: any(runs[-1].id in repr(task) for task in asyncio.all_tasks()), "the last one")
            await store.aio.request_cancel(runs[-1].id)
            await worker._session.sweeper.sweep(anyway=True)
            await until(lambda: worker.settled == 3, "all of them")
            assert before + 2 == count(prompt)
        assert RunStatus.CANCELLED == (await ended(store, runs[-1].id)).status


def test_a_read_on_the_writing_connection_has_no_unknown_outcome() -> None:
    """Its reply may be lost as that of a write, but it has changed nothing."""
    command = read_command(lambda session: 1)
    command.set_exception(OutcomeUnknown("lost"))
    with pytest.raises(StoreUnavailable, match="lost"):
        command.result()
