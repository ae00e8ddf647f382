"""Answers that get lost: the write was made, and who asked for it does not know.

A proxy between a worker and PostgreSQL loses them. Whatever is lost, no run ends twice, none is lost, none is left
with a worker that does not know of it, and no handler is called twice for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from random import Random
from typing import Any

import pytest

from runstate import TerminalStatus
from runstate.errors import OutcomeUnknown
from runstate.lifecycle import RunEvent
from runstate.store import Store, open_store
from runstate.store._worker_types import Settle
from runstate.worker import Context, Outcome, drive
from tests.store.support import Prompt
from tests.support.pg_proxy import Loss, Proxy
from tests.worker.support import KINDS, LIMIT, at_work, ended, events, finish, left_behind, limited, new, of_kind, until

pytestmark = pytest.mark.parametrize("store_url", ["postgres"], indirect=True)

CLAIM, SETTLE, TURN = b"SET status = 'in_progress'", b"WHERE r.seq = v.key", b"settled AS"
TAKE_OVER, RELEASE = b"attempt = r.attempt + 1", b"SET worker = 0"
OPEN, BEAT, CLOSE = b"INSERT INTO runstate_worker_session", b"SET lease_until_us", b"SET closed = 1 WHERE token"
NOTE, SWEEP = b"INSERT INTO runstate_checkpoint", b"SET closed = 1 FROM t"


@pytest.fixture
def proxy(store_url: str) -> Iterator[Proxy]:
    with Proxy(store_url) as proxy:
        yield proxy


@pytest.fixture
def lossy(proxy: Proxy) -> Iterator[Store]:
    """The store, through the proxy."""
    with open_store(proxy.url, wait_s=5.0) as store:
        yield store


def nobody_holds_anything(prompt: Prompt) -> None:
    """No run is left behind with a worker, and no lease is open."""
    assert [] == prompt.run("SELECT id, status FROM runstate_run WHERE worker IS NOT NULL")
    assert [] == prompt.run("SELECT name FROM runstate_worker_session WHERE closed = 0")


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["answer", "request"])
def test_any_write_of_a_life(loss: Loss, store: Store, proxy: Proxy, prompt: Prompt) -> None:
    """Every write in the life of a run, one after the other, is lost on its way, or its answer is."""
    place = lost = 0
    while lost == place:  # until there is no such write any more
        place += 1
        lost += live_through(loss, place, store, proxy)
        nobody_holds_anything(prompt)
    assert lost >= 8, "lease, claim, checkpoint, tools; lease, claim, end, lease"


def live_through(loss: Loss, place: int, store: Store, proxy: Proxy) -> int:
    """Have a run live with tools and a checkpoint, lose its n-th write; return how many were lost: 0 or 1."""
    count = [0]

    def loses(which: Loss, asked: bytes) -> bool:
        count[0] += which == loss
        return which == loss and count[0] == place

    seen: list[tuple[Any, int]] = []

    async def answer(ctx: Context) -> Outcome | None:
        seen.append((ctx.checkpoint_value, len(ctx.tool_outputs)))
        if not ctx.tool_outputs:
            await ctx.checkpoint("kept")
            return ctx.require_action([ctx.tool_call("weather")])
        return ctx.complete()

    run = store.create(**new())
    proxy.lost.clear()
    proxy.loses = loses
    with open_store(proxy.url, wait_s=5.0) as lossy:
        finish(lossy, answer)
        waiting = store.get(run.id)
        assert waiting.required_action is not None, (place, waiting)
        store.submit_tool_outputs(run.id, dict.fromkeys(waiting.required_action.call_ids, "x"))
        finish(lossy, answer)
    proxy.loses = lambda which, asked: False
    rounds = [None, "start", "require_action", "submit_tool_outputs", "start", "complete"]
    assert rounds == events(store, run.id), place
    assert [(None, 0), ("kept", 1)] == seen, f"one call a round, place {place}"
    return len(proxy.lost)


@pytest.mark.parametrize("end", ["complete", "fail", "mark_incomplete"])
def test_every_end(end: str, store: Store, lossy: Store, proxy: Proxy, prompt: Prompt) -> None:
    """An end whose answer is lost is recognised as this worker's own, also together with others and with a claim."""
    runs = [store.create(**new()).id for _ in range(6)]
    calls: list[str] = []

    def answer(ctx: Context) -> Outcome:
        calls.append(ctx.run_id)
        if end == "fail":
            return ctx.fail("rate_limit_exceeded", "slow down")
        return ctx.complete() if end == "complete" else ctx.mark_incomplete("max_prompt_tokens")

    proxy.lose("answer", SETTLE, count=2)
    worker = finish(lossy, answer, concurrency=2)
    assert 2 == len(proxy.lost)
    assert (sorted(runs), 6) == (sorted(calls), worker.settled)
    assert all([None, "start", end] == events(store, run_id) for run_id in runs)
    nobody_holds_anything(prompt)


@limited
async def test_a_claim_beside_others_at_work(store: Store, lossy: Store, proxy: Proxy) -> None:
    """When the answer to a claim is lost, what was at work before goes on, and its handler is not called again."""
    calls: list[str] = []
    go_on = asyncio.Event()

    async def answer(ctx: Context) -> None:
        calls.append(ctx.run_id)
        await go_on.wait()

    first = [store.create(**new()).id for _ in range(3)]
    async with at_work(lossy, answer):
        await until(lambda: len(calls) == 3, "the first handlers")
        proxy.lose("answer", CLAIM)
        second = [store.create(**new()).id for _ in range(3)]
        await until(lambda: len(calls) >= 6, "the other handlers")
        second.append((await store.aio.create(**new())).id)
        await until(lambda: second[-1] in calls, "the handler of a later turn")
        go_on.set()
        for run_id in first + second:
            assert "completed" == (await ended(store, run_id)).status
    assert 1 == len(proxy.lost)
    assert sorted(first + second) == sorted(calls)


@pytest.mark.parametrize("loss", ["answer", "request"])
def test_a_take_over(loss: Loss, store: Store, lossy: Store, proxy: Proxy, prompt: Prompt) -> None:
    """A run that a worker took over without hearing of it is worked on all the same."""
    run = store.create(**new())
    left_behind(store)
    proxy.lose(loss, TAKE_OVER)
    attempts: list[int] = []
    finish(lossy, lambda ctx: attempts.append(ctx.attempt))
    assert (1, [2], "completed") == (len(proxy.lost), attempts, store.get(run.id).status)
    nobody_holds_anything(prompt)


@limited
async def test_a_claim_that_is_cancelled_meanwhile(store: Store, lossy: Store, proxy: Proxy) -> None:
    """A run that was claimed without the worker hearing of it, and asked to cancel before it did, is cancelled."""
    run = store.create(**new())
    calls: list[str] = []

    def loses(which: Loss, asked: bytes) -> bool:
        if which == "answer" and CLAIM in asked and not proxy.lost:
            store.request_cancel(run.id)
            return True
        return False

    proxy.loses = loses
    async with at_work(lossy, lambda ctx: calls.append(ctx.run_id)):
        assert "cancelled" == (await ended(store, run.id)).status
    assert (1, []) == (len(proxy.lost), calls)


def test_a_loop_of_ones_own(store: Store, lossy: Store, proxy: Proxy) -> None:
    """Who claims by hand is given no run twice: of a certain run it is known what became of it, of others it is not."""
    first, second, third = (store.create(**new()).id for _ in range(3))
    lease = lossy.open_lease("own")
    assert lossy.claim_id(lease, first)
    proxy.lose("answer", CLAIM)
    claim = lossy.claim_id(lease, second)
    assert claim is not None
    assert second == claim.run.id
    proxy.lose("answer", CLAIM)
    with pytest.raises(OutcomeUnknown):
        lossy.claim(lease, 1)
    assert {"in_progress"} == set(lossy.owned(lease).values())
    assert 3 == len(lossy.owned(lease))
    proxy.lose("answer", SETTLE)
    runs = [store.get(run_id) for run_id in (first, second, third)]
    assert {} == lossy.settle(lease, [Settle(run, RunEvent.COMPLETE) for run in runs]).refused
    assert 3 == len(proxy.lost)
    assert {"completed"} == {store.get(run.id).status for run in runs}


@pytest.mark.parametrize("kind", KINDS)
@limited
async def test_a_claim_that_comes_too_late(kind: str, store: Store, lossy: Store, proxy: Proxy, prompt: Prompt) -> None:
    """A worker that has lost its lease meanwhile begins nothing under it: the run waits for the end of that lease."""
    attempts: list[int] = []
    run = store.create(**new())
    proxy.hold("answer", CLAIM)
    async with at_work(lossy, of_kind(kind, lambda ctx: attempts.append(ctx.attempt))) as worker:
        await until(lambda: store.get(run.id).attempt == 1, "its claim, whose answer is held up")
        late = worker._session.lease
        worker._session.worker_lease._heartbeat._held_until = 0.0  # as if nobody had answered for longer than the lease
        await until(lambda: worker._session.worker_lease.is_lost, "the worker to give its lease up")
        assert [(late.token,)] == prompt.run("SELECT worker FROM runstate_run"), "but by the store's clock it holds"
        proxy.thaw()
        await until(lambda: worker._session.lease != late, "the lease after it")
        assert [] == attempts, "its claim is known by now"
        store.close_lease(late)
        assert "completed" == (await ended(store, run.id)).status
    assert [2] == attempts, "once, and not under the lease that was lost"


@pytest.mark.parametrize("part", [OPEN, CLAIM, NOTE, SETTLE, CLOSE], ids=["open", "claim", "note", "settle", "close"])
def test_driving(part: bytes, store: Store, lossy: Store, proxy: Proxy, prompt: Prompt) -> None:
    """`drive` does as well."""
    run = store.create(**new())
    calls: list[str] = []

    def answer(ctx: Context) -> None:
        calls.append(ctx.run_id)
        ctx.checkpoint(1)

    proxy.lose("answer", part)
    driven = drive(lossy, run.id, answer)
    assert driven is not None
    assert (1, "completed", [run.id]) == (len(proxy.lost), driven.status, calls)
    nobody_holds_anything(prompt)


@limited
async def test_heartbeats_and_releases(
    store: Store, lossy: Store, proxy: Proxy, prompt: Prompt, frequent_heartbeats: None
) -> None:
    """A heartbeat that was taken without an answer was taken; so was a release."""
    run = store.create(**new())

    async def answer(ctx: Context) -> None:
        await asyncio.sleep(LIMIT)

    proxy.lose("answer", BEAT, count=2)
    async with at_work(lossy, answer, drain_s=0.0) as worker:
        await until(lambda: len(proxy.lost) == 2, "two heartbeats")
        held_until = worker._session.worker_lease._heartbeat._held_until
        await until(lambda: worker._session.worker_lease._heartbeat._held_until > held_until, "the next")
        assert "in_progress" == store.get(run.id).status
        proxy.lose("answer", RELEASE)
    assert 3 == len(proxy.lost)
    assert [(0, 1)] == prompt.run("SELECT worker, attempt FROM runstate_run")
    async with at_work(store, lambda ctx: None):
        await ended(store, run.id)
    assert [None, "start", "complete"] == events(store, run.id)


@pytest.mark.slow
@limited
async def test_a_storm(store: Store, lossy: Store, proxy: Proxy, prompt: Prompt) -> None:
    """Every sixth write or answer is lost, while two workers drive runs through tools, failures and cancels."""
    random = Random(20261122)
    done: dict[str, int] = {}

    async def answer(ctx: Context) -> Outcome | None:
        ctx.add_usage(1, 1)
        if random.random() < 0.3:
            await ctx.checkpoint(ctx.usage.total_tokens)
        await asyncio.sleep(random.random() * 0.02)
        if not ctx.tool_outputs and ctx.run.metadata["way"] == "tools":
            return ctx.require_action([ctx.tool_call("weather")])
        done[ctx.run_id] = done.get(ctx.run_id, 0) + 1
        if ctx.run.metadata["way"] == "failure":
            raise ValueError("it broke")
        return None

    ways = [random.choice(("tools", "failure", "cancel", "none")) for _ in range(60)]
    runs = {store.create(**new(metadata={"way": way})).id: way for way in ways}
    async with at_work(lossy, answer, concurrency=5), at_work(lossy, answer, concurrency=5, name="w2"):
        proxy.loses = lambda which, asked: which in ("answer", "request") and random.random() < 1 / 12
        live = set(runs)
        while live:
            for run_id in list(live):
                run = await store.aio.get(run_id)
                if run.is_terminal:
                    live.discard(run_id)
                elif run.required_action is not None:
                    await store.aio.submit_tool_outputs(run_id, dict.fromkeys(run.required_action.call_ids, "x"))
                elif runs[run_id] == "cancel" and run.status != "cancelling":
                    with suppress(TerminalStatus):
                        await store.aio.request_cancel(run_id)
            await asyncio.sleep(0.05)
        proxy.loses = lambda which, asked: False
    assert len(proxy.lost) > 10
    expected = {"tools": "completed", "failure": "failed", "none": "completed"}
    for run_id, way in runs.items():
        status = store.get(run_id).status
        assert status == expected.get(way, status)
    nobody_holds_anything(prompt)
