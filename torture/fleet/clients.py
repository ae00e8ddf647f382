"""The clients of a fleet, each a process: creators, cancellers, submitters, operators, sweepers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from itertools import count
from random import Random
from time import monotonic
from typing import Any, Final, Literal

from runstate.errors import RunstateError, StoreError
from runstate.lifecycle import RunEvent
from runstate.store import Lease, NewRun, Store
from runstate.store._types import StoredRun
from runstate.store._worker_types import Settle
from tests.support.lifecycle import LIVE
from torture.fleet.handler import PLANS, new_run
from torture.fleet.handler_log import SideLog
from torture.fleet.replies import NONE, Answer, Reply, ReplyLog, answer_of
from torture.fleet.settings import Settings, opened_store
from torture.fleet.unwritable import UNWRITABLE

CALLERS: Final = 8  # coroutines of one creator
ENOUGH: Final = 100  # runs that wait to be claimed
AGAIN_S: Final = 0.05  # before asking again a database that is away
LOOK_S: Final = 0.2  # between two looks at what runs there are
TAKEN_LOOK_S: Final = 0.05  # between two looks whether another worker has a run
THREADS: Final = 40  # that runs which may not be beside another share


class Client:
    """What every client has: a store, a chance of its own, and a log of replies."""

    def __init__(self, name: str, settings: Settings, store: Store) -> None:
        self.name: Final = name
        self.settings: Final = settings
        self.store: Final = store
        self.chance: Final = Random(f"{settings.seed} {name}")
        self.replies: Final = ReplyLog(settings.replies, name)
        self._numbers = count(1)

    def mark(self) -> str:
        """Return a name that nothing else in this storm has."""
        return f"{self.name}.{next(self._numbers)}"

    async def move(self, run: StoredRun, event: str, ask: Callable[..., Awaitable[object]]) -> None:
        """Ask a move under an actor of its own, at times only if the run has not moved on; write down the answer."""
        if run.id in UNWRITABLE:
            return  # it is for those to meet who find runs themselves
        actor, version = self.mark(), self.chance.choice((None, run.version))
        answer = await self.answer(ask(run.id, actor=actor, expected_version=version))
        self.replies.write([Reply("move", answer, run.id, event, actor, version or 0)])

    async def answer(self, asked: Awaitable[object]) -> Answer:
        """Return what came of what was asked; wait a moment where the database is away."""
        try:
            await asked
        except RunstateError as error:
            if isinstance(error, StoreError):
                await asyncio.sleep(AGAIN_S)
            answer = answer_of(error)
            if answer == "wrong":
                logging.error("heard what may not be: %r", error)
            return answer
        return "done"

    async def runs(self, status: str, limit: int = 100) -> Sequence[StoredRun]:
        """Return runs in a status, the oldest or the newest; none where the database is away."""
        order: Literal["asc", "desc"] = self.chance.choice(("asc", "desc"))
        try:
            page = await self.store.aio.list(status=status, limit=limit, order=order)
        except StoreError:
            await asyncio.sleep(AGAIN_S)
            return ()
        return page.data


def be(name: str, settings: Settings, work: Callable[[Client], Coroutine[Any, Any, None]]) -> None:
    """Be a client until somebody kills this process."""
    with opened_store(name, settings) as store:
        asyncio.run(work(Client(name, settings, store)))


# --- creators ---------------------------------------------------------------------------------------------------------


async def create(client: Client) -> None:
    """Create runs of every kind, as fast as they are worked off."""
    go = asyncio.Event()
    await asyncio.gather(hold_back(client, go), *(create_by_one(client, go) for _ in range(CALLERS)))


async def hold_back(client: Client, go: asyncio.Event) -> None:
    """Let the creators create while not too many runs wait."""
    while True:
        if len(await client.runs("queued", ENOUGH)) < ENOUGH:  # to count them would read them all
            go.set()
        else:
            go.clear()
        await asyncio.sleep(LOOK_S)


async def create_by_one(client: Client, go: asyncio.Event) -> None:
    """Create one after the other."""
    kinds = {create_one: 60, create_many: 15, create_in_thread: 15, create_by_key: 10}
    while True:
        await go.wait()
        kind = client.chance.choices([*kinds], [*kinds.values()])[0]
        await kind(client)
        await asyncio.sleep(0)


def wanted(client: Client) -> NewRun:
    """Return what a new run is created with; its plan is drawn."""
    return new_run(f"run_{client.mark()}", plan(client))


def plan(client: Client) -> str:
    """Draw what a handler is to do."""
    return client.chance.choices([*PLANS], [*PLANS.values()])[0]


def created(run: NewRun, answer: Answer) -> Reply:
    """Return what a creator was told of a run."""
    return Reply("create", answer, str(run["id"]), run["assistant_id"], NONE)


async def create_one(client: Client) -> None:
    """Create a run; now and then, look at once whether it is there."""
    run = wanted(client)
    answer = await client.answer(client.store.aio.create(**run))
    client.replies.write([created(run, answer)])
    if answer == "done" and client.chance.random() < 0.02:
        seen = await client.answer(client.store.aio.get(str(run["id"])))
        if seen == "wrong":
            client.replies.write([created(run, "wrong")])


async def create_many(client: Client) -> None:
    """Create several at once: all or none."""
    runs = [wanted(client) for _ in range(client.chance.randint(2, 20))]
    answer = await client.answer(client.store.aio.create_many(runs))
    client.replies.write([created(run, answer) for run in runs])


async def create_in_thread(client: Client) -> None:
    """Create a run that may not be beside another of its thread: it is refused, or it waits."""
    run = wanted(client)
    exclusive: Literal["reject", "queue"] = client.chance.choice(("reject", "queue"))
    run["one_live_run_per_thread"] = exclusive
    run["thread_id"] = f"thread_{exclusive}_{client.chance.randrange(THREADS)}"
    client.replies.write([created(run, await client.answer(client.store.aio.create(**run)))])


async def create_by_key(client: Client) -> None:
    """Ask three times at once under one key: whoever is answered is answered with the same run."""
    key = client.mark()
    run = new_run("", plan(client))
    run["id"], run["thread_id"], run["idempotency_key"] = None, f"thread_{key}", key

    async def ask() -> Reply:
        try:
            made = await client.store.aio.create(**run)
        except RunstateError as error:
            return Reply("key", answer_of(error), NONE, key, NONE)
        return Reply("key", "done", made.id, key, NONE)

    client.replies.write(await asyncio.gather(ask(), ask(), ask()))


# --- those who move runs ----------------------------------------------------------------------------------------------


async def cancel(client: Client) -> None:
    """Ask to cancel some runs, wherever they stand."""
    store = client.store.aio
    while True:
        runs = await client.runs(client.chance.choice(("queued", "in_progress", "in_progress", "requires_action")))
        some = [run for run in runs if client.chance.random() < 0.05]
        await asyncio.gather(*(client.move(run, "request_cancel", store.request_cancel) for run in some))
        await asyncio.sleep(client.chance.uniform(0.0, LOOK_S))


async def submit(client: Client) -> None:
    """Submit what runs wait for: once, twice, or the wrong thing."""
    while True:
        await asyncio.gather(*(submit_one(client, run) for run in await client.runs("requires_action")))
        await asyncio.sleep(client.chance.uniform(0.0, LOOK_S))


async def submit_one(client: Client, run: StoredRun) -> None:
    """Submit the outputs of one run."""
    action = run.required_action
    ids = () if action is None else action.call_ids
    drawn = client.chance.random()
    outputs = dict.fromkeys(ids if drawn < 0.9 else ("call_nobody_asked",), "sunny")
    times = 2 if drawn < 0.1 else 1  # the same request again is recognised, and answered alike
    actor = client.mark()
    for _ in range(times):
        answer = await client.answer(client.store.aio.submit_tool_outputs(run.id, outputs, actor=actor))
        client.replies.write([Reply("move", answer, run.id, "submit_tool_outputs", actor)])


async def operate(client: Client) -> None:
    """End some runs by hand, as people do who look after a system."""
    store = client.store.aio
    asks: dict[str, Callable[..., Awaitable[object]]] = {
        "fail": partial(store.fail, code="server_error", message="by hand"),
        "expire": store.expire,
        "complete": store.complete,
        "mark_incomplete": partial(store.mark_incomplete, reason="max_prompt_tokens"),
        "confirm_cancel": store.confirm_cancel,
    }
    while True:
        for run in await client.runs(client.chance.choice([*sorted(LIVE), "completed"])):
            if client.chance.random() < 0.02:
                event = client.chance.choice([*asks])
                await client.move(run, event, asks[event])
        await asyncio.sleep(client.chance.uniform(0.0, LOOK_S))


async def insist(client: Client) -> None:
    """Claim runs, let the lease lapse or not, and settle them all the same, without asking whose they are by now."""
    store, side = client.store.aio, SideLog(client.settings.side, client.name)
    while True:
        try:
            lease = await store.open_lease(client.name, lease_s=client.settings.lease_s)
            runs = [claim.run for claim in await store.claim(lease, 3)]
            for run in runs:
                side.note("begun", run.id, run.version, run.attempt, lease.token)
            stale = await claim_again(client, side, lease, runs)
            await asyncio.gather(*(settle_late(client, side, lease, run) for run in [*runs, *stale]))
            await store.close_lease(lease)
        except StoreError:  # what it was not told of nobody can hold against the history
            await asyncio.sleep(AGAIN_S)


async def claim_again(client: Client, side: SideLog, lease: Lease, runs: list[StoredRun]) -> Sequence[StoredRun]:
    """Release a run and take it over again; return it as it was at the first claim, to be settled by that."""
    if not runs or client.chance.random() < 0.5:
        return ()
    store, stale = client.store.aio, runs.pop()
    side.note("released", stale.id, stale.version, stale.attempt, lease.token)  # before another may take it over
    if not await store.release(lease, stale):
        return ()
    for claim in await store.take_over(lease, 1, run_id=stale.id):
        side.note("begun", claim.run.id, claim.run.version, claim.run.attempt, lease.token)
        runs.append(claim.run)
    return (stale,)


async def settle_late(client: Client, side: SideLog, lease: Lease, run: StoredRun) -> None:
    """Settle a run after a while, or the moment that another worker has it: in the middle of that one's handler."""
    store = client.store.aio
    until = monotonic() + client.chance.uniform(0.0, 4.0) * lease.lease_s
    while monotonic() < until and (await store.get(run.id)).attempt == run.attempt:
        await asyncio.sleep(TAKEN_LOOK_S)
    side.note("ended-complete", run.id, run.version, run.attempt, lease.token)
    refused = (await store.settle(lease, [Settle(run, RunEvent.COMPLETE)])).refused
    answer = answer_of(refused.get(run.seq))
    client.replies.write([Reply("settle", answer, run.id, "complete", client.name, run.version, run.attempt)])


async def sweep(client: Client) -> None:
    """Sweep all the time, beside the workers' own sweeps."""
    while True:
        await client.answer(client.store.aio.sweep(max_attempts=20))
        await asyncio.sleep(client.chance.uniform(0.0, LOOK_S))
