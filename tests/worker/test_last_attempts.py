"""Runs on their last attempt work one at a time in a process: one that kills it fails alone."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest

from runstate.store import Store, open_store
from runstate.worker import Context, Worker, drive_async
from runstate.worker._last_attempts import LastAttempts, is_last, last_attempts
from tests.store.support import Prompt
from tests.worker.process import WorkerProcess
from tests.worker.support import KINDS, LIMIT, Bench, at_work, ended, error_of, finish, limited, new, until


def died_with(store: Store, count: int, times: int = 1, **given: Any) -> list[str]:
    """Return runs that so many workers held together and died of."""
    runs = [run.id for run in store.create_many([new(**given) for _ in range(count)])]
    for _ in range(times):
        lease = store.open_lease("w0", lease_s=0.5)
        claims = store.claim(lease, count) or store.take_over(lease, count, max_attempts=9)
        assert sorted(runs) == sorted(claim.run.id for claim in claims)
        store.close_lease(lease)
    return runs


class Counting(Bench):
    """Counts the runs on their last attempt that are at work at once, apart from the others."""

    def __init__(self, max_attempts: int = 2) -> None:
        super().__init__()
        self.others: list[str] = []
        self._max = max_attempts

    def enter(self, ctx: Context) -> bool:
        if ctx.attempt < self._max:
            self.others.append(ctx.run_id)
            return False
        return True

    async def brief(self, ctx: Context) -> None:
        if self.enter(ctx):
            self._enter(ctx)
            await asyncio.sleep(0.02)
            self._leave(ctx)

    def brief_plain(self, ctx: Context) -> None:
        if self.enter(ctx):
            self._enter(ctx)
            time.sleep(0.02)
            self._leave(ctx)

    def handler(self, kind: str) -> Any:
        return self.brief_plain if kind == "plain" else self.brief


@pytest.mark.parametrize("kind", KINDS)
def test_one_at_a_time(kind: str, store: Store) -> None:
    """Those that died once before work one by one where two attempts are allowed; the others as ever."""
    counting = Counting()
    runs, fresh = died_with(store, 5), [store.create(**new()).id for _ in range(5)]
    finish(store, counting.handler(kind), max_attempts=2)
    assert {"completed"} == {store.get(run_id).status for run_id in runs + fresh}
    assert (1, sorted(runs), sorted(fresh)) == (
        counting.most_at_once,
        sorted(counting.begun),
        sorted(counting.others),
    )


def test_runs_with_attempts_left_are_taken_over_together(store: Store) -> None:
    """Where more attempts are allowed nothing is slowed down."""
    bench = Bench()
    runs = died_with(store, 5)

    async def work() -> None:
        async with at_work(store, bench.wait, max_attempts=3):
            await until(lambda: len(bench.begun) == 5, "all of them")
            bench.gate.set()
            for run_id in runs:
                await ended(store, run_id)

    asyncio.run(asyncio.wait_for(work(), LIMIT))
    assert 5 == bench.most_at_once


def test_a_single_attempt_slows_nothing_down(store: Store) -> None:
    """Where one attempt is allowed each is the last, and nothing has died: they work together."""
    bench = Bench()
    runs = [store.create(**new()).id for _ in range(5)]

    async def work() -> None:
        async with at_work(store, bench.wait, max_attempts=1):
            await until(lambda: len(bench.begun) == 5, "all of them")
            bench.gate.set()
            for run_id in runs:
                await ended(store, run_id)

    asyncio.run(asyncio.wait_for(work(), LIMIT))


@limited
async def test_two_workers_of_a_process(store: Store, store_url: str) -> None:
    """They share the place, whatever store they work on."""
    counting = Counting()
    runs = died_with(store, 6)
    with open_store(store_url) as other:
        async with (
            at_work(store, counting.brief, name="A", max_attempts=2),
            at_work(other, counting.brief_plain, name="B", max_attempts=2),
        ):
            for run_id in runs:
                assert "completed" == (await ended(store, run_id)).status
    assert (1, 6) == (counting.most_at_once, len(counting.begun))


@limited
async def test_while_it_waits_nobody_holds_it(store: Store, store_url: str) -> None:
    """A run that waits for its turn can be cancelled, and another process takes it over; no attempt is counted."""
    bench = Bench()
    runs = died_with(store, 4)
    async with at_work(store, bench.wait, max_attempts=2) as worker:
        await until(lambda: len(bench.begun) == 1, "the first")
        waiting = [run_id for run_id in runs if run_id not in bench.begun]
        with Prompt(store_url) as prompt:
            (counted,) = prompt.run("SELECT count(*) FROM runstate_run WHERE status = 'in_progress' AND attempt = 1")
        assert 3 == counted[0]
        await store.aio.request_cancel(waiting[0])
        assert "cancelled" == (await ended(store, waiting[0])).status
        lease = store.open_lease("elsewhere", lease_s=60)
        (claim,) = store.take_over(lease, 1, max_attempts=2, last_attempts=1)
        assert (True, 2) == (claim.run.id in waiting, claim.run.attempt)
        worker.stop()
        bench.gate.set()
    (left,) = [run_id for run_id in waiting[1:] if run_id != claim.run.id]
    assert ("in_progress", 1) == (store.get(left).status, store.get(left).attempt)
    assert "completed" == store.get(bench.begun[0]).status


@limited
async def test_a_worker_that_is_stopped_gives_its_place_back(store: Store) -> None:
    """The run on its last attempt is released, no loss is counted, and the next worker goes on with both."""
    bench, counting = Bench(), Counting()
    runs = died_with(store, 2)
    async with Worker(store, bench.wait, drain_s=0.0, max_attempts=2):
        await until(lambda: len(bench.begun) == 1, "the first")
    # One of them was taken over and released. The other waits: its loss is counted when it is taken over.
    assert [(1, 0), (2, 1)] == sorted((store.get(run_id).attempt, store.get(run_id).lost) for run_id in runs)
    async with at_work(store, counting.brief, max_attempts=2):
        for run_id in runs:
            assert "completed" == (await ended(store, run_id)).status
    assert 1 == counting.most_at_once


@pytest.mark.slow
@limited
async def test_a_run_that_fails_or_expires_makes_room(store: Store) -> None:
    """However the run before it ended: by an exception, or by its deadline while a plain handler goes on."""
    bench = Bench()
    runs = died_with(store, 3, expires_in_s=2)
    last = died_with(store, 1)[0]

    def answer(ctx: Context) -> None:
        if ctx.run_id == last:
            return
        if not bench.begun:
            bench.begun.append(ctx.run_id)
            raise ValueError("it broke")
        bench.stand(ctx)

    async with at_work(store, answer, max_attempts=2):
        assert "completed" == (await ended(store, last)).status
        for run_id in runs:
            assert (await ended(store, run_id)).status in ("failed", "expired")
        bench.gate.set()


@limited
async def test_a_run_that_is_known_of_too_late(store: Store, store_url: str) -> None:
    """A worker that finds it holds one although the place is taken gives it back, with the attempt."""
    bench = Bench()
    first, second = died_with(store, 2)
    async with (
        at_work(store, bench.wait, name="A", max_attempts=2, queues=("default",)),
        at_work(store, bench.wait, name="B", max_attempts=2, queues=("other",), lease_s=0.6) as worker,
    ):
        await until(lambda: len(bench.begun) == 1, "the first")
        other = second if bench.begun == [first] else first
        # As if the answer to its own take-over had been lost.
        assert [other] == [claim.run.id for claim in store.take_over(worker._session.lease, 5, max_attempts=2)]
        with Prompt(store_url) as prompt:
            given = "SELECT worker, attempt, lost FROM runstate_run WHERE id = ?"
            await until(lambda: prompt.run(given, [other]) == [(0, 2, 1)], "its release")
        assert 1 == len(bench.begun)
        bench.gate.set()
        for run_id in (first, second):
            assert "completed" == (await ended(store, run_id)).status
    assert 1 == bench.most_at_once


# --- driven by id -----------------------------------------------------------------------------------------------------


@limited
async def test_deliveries_wait_for_each_other(store: Store) -> None:
    """Of many deliveries at once each is driven to its end, one at a time."""
    counting = Counting()
    runs = died_with(store, 4)
    driven = await asyncio.gather(
        *(drive_async(store, run_id, counting.handler(KINDS[n % 2]), max_attempts=2) for n, run_id in enumerate(runs))
    )
    assert ["completed"] * 4 == [run.status for run in driven if run is not None]
    assert (1, sorted(runs)) == (counting.most_at_once, sorted(counting.begun))


@limited
async def test_a_delivery_does_not_wait_for_ever(store: Store) -> None:
    """After the time of a lease it gets nothing, as one that comes while another works on it; the next one may."""
    bench = Bench()
    first, second = died_with(store, 2)
    driving = asyncio.create_task(drive_async(store, first, bench.wait, max_attempts=2))
    await until(lambda: bench.begun == [first], "the handler")
    assert await drive_async(store, second, bench.wait, max_attempts=2, lease_s=0.3) is None
    assert await drive_async(store, first, bench.wait, max_attempts=2, lease_s=0.3) is None
    assert ("in_progress", 1) == (store.get(second).status, store.get(second).attempt)
    bench.gate.set()
    assert await driving is not None
    assert await drive_async(store, second, bench.wait, max_attempts=2) is not None
    assert [first, second] == bench.begun


# --- the place --------------------------------------------------------------------------------------------------------


def test_which_attempts_are_last() -> None:
    """The last allowed one, and any past it; the first never."""
    for most in range(1, 5):
        assert [n >= 2 and n >= most for n in range(1, 7)] == [is_last(n, most) for n in range(1, 7)]


def test_a_place_is_free_when_its_run_is_gone() -> None:
    """It is asked, and needs nobody to give it back."""
    place, at_work_here = LastAttempts(), [True]
    first = place.reserve()
    assert first is not None
    assert place.reserve() is None
    first.hold_while(lambda: at_work_here[0])
    assert place.reserve() is None
    at_work_here[0] = False
    second = place.reserve()
    assert second is not None
    second.end()
    assert place.reserve() is not None


def _reserve_in_child(found: Any) -> None:
    found.put(last_attempts().reserve() is not None)


def test_a_forked_child_has_a_place_of_its_own() -> None:
    """It has none of its parent's runs."""
    ours = last_attempts().reserve()
    assert ours is not None
    try:
        forking = multiprocessing.get_context("fork")
        found = forking.SimpleQueue()
        child = forking.Process(target=_reserve_in_child, args=(found,))
        child.start()
        assert found.get()
        child.join(LIMIT)
    finally:
        ours.end()


# --- whole processes --------------------------------------------------------------------------------------------------


class Supervisor:
    """Worker processes that are started again when they die, and killed when the test is over."""

    def __init__(self, url: str, folder: Path, count: int, handler: str, **options: Any) -> None:
        self._given = (url, folder, handler)
        self._options = options
        self._undo = ExitStack()
        self._members = [self._begin() for _ in range(count)]
        self.deaths = 0

    def _begin(self) -> WorkerProcess:
        return self._undo.enter_context(WorkerProcess(*self._given, **self._options))

    def look(self) -> None:
        for place, member in enumerate(self._members):
            if member.process.poll() is not None:
                self.deaths += 1
                self._members[place] = self._begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._undo.close()


async def poisoned(url: str, folder: Path, good: int, workers: int, limit: float, **options: Any) -> None:
    """One run that kills its process, in the midst of good ones: it fails, and they do not."""
    with open_store(url, migrate=True) as store:
        half = [store.create(**new()).id for _ in range(good // 2)]
        guilty = store.create(**new(metadata={"poison": "yes"})).id
        runs = half + [store.create(**new()).id for _ in range(good - len(half))]
        # A lease that lapses because the machine is busy would count as a death.
        with Supervisor(url, folder, workers, "work_unless_poison", lease_s=3.0, **options) as supervisor:

            def is_over() -> bool:
                supervisor.look()
                counts = store.counts()
                return good + 1 == sum(counts.get(status, 0) for status in ("completed", "failed", "expired"))  # type: ignore[call-overload]

            await until(is_over, "the end of all", limit)
        assert {"completed"} == {store.get(run_id).status for run_id in runs}
        assert "died 3 times" in error_of(store.get(guilty))["message"]
        assert 3 == supervisor.deaths


@pytest.mark.slow
@limited
async def test_a_run_that_kills_its_process_fails_alone(tmp_path: Path) -> None:
    """It is begun three times, with others beside it each time; they all complete."""
    await poisoned(f"sqlite:///{tmp_path}/runs.db", tmp_path, 20, 1, LIMIT)


@pytest.mark.slow
def test_one_of_two_hundred_and_one(both: dict[str, tuple[str, Store]], tmp_path: Path) -> None:
    """With four workers on either database: two hundred completed, one failed."""
    for dialect, (url, _) in both.items():
        asyncio.run(poisoned(url, tmp_path / dialect, 200, 4, 120.0))


@pytest.mark.slow
def test_a_killed_worker_with_a_hundred_runs(both: dict[str, tuple[str, Store]], tmp_path: Path) -> None:
    """All of them are at work again two seconds after its lease has lapsed."""
    for dialect, (url, store) in both.items():
        asyncio.run(killed(url, store, tmp_path / dialect))


async def killed(url: str, store: Store, folder: Path) -> None:
    lease_s = 2.0
    store.create_many([new(metadata={"lasts": "10"}) for _ in range(100)])
    options: dict[str, Any] = {"lease_s": lease_s, "concurrency": 100}
    with WorkerProcess(url, folder, "work_unless_poison", **options) as process:
        await process.journaled("begin", 100)
        with WorkerProcess(url, folder, "work_unless_poison", **options) as heir:
            await until(lambda: "INFO" in heir.told() or heir.process.poll() is None, "its start")
            await asyncio.sleep(1.0)
            process.process.kill()
            killed_at = time.time()
            begun = await heir.journaled("begin", 100)
    assert {2} == {line["attempt"] for line in begun}
    assert lease_s + 2.0 > max(line["at"] for line in begun) - killed_at
