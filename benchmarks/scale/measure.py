"""The cost of operations of the library on a store of a given size."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from time import perf_counter
from typing import Any, Final

import attrs

from benchmarks.durable.processes import WorkerProcesses
from benchmarks.durable.runstate_store import NEW_RUN, drain
from runstate.lifecycle import RunEvent
from runstate.store import Claim, Lease, NewRun, Settle, Store
from runstate.store._sql.connection import Connection
from runstate.store._sql.migrations import migrate
from runstate.store.doctor import examine

__all__ = [
    "Figure",
    "Results",
    "complete",
    "keep_plan",
    "measure_drain",
    "measure_maintenance",
    "measure_operations",
    "sample_ids",
    "time_each",
    "time_over",
]

MAX_S: Final = 4.0
"""The seconds of one measurement. Longer ones repeat less often, but three times if that takes less than a minute."""


@attrs.frozen
class Figure:
    """A median, the number of samples, and the least and greatest of them."""

    what: str
    column: str
    value: float
    unit: str
    samples: int = 1
    low: float = 0.0
    high: float = 0.0


@attrs.define
class Results:
    """All figures, and the plans of statements whose cost grows."""

    figures: list[Figure] = attrs.field(factory=list)
    plans: dict[str, list[str]] = attrs.field(factory=dict)

    def add(self, what: str, column: str, values: Sequence[float], unit: str) -> None:
        """Add the median of some values, and print it."""
        figure = Figure(what, column, median(values), unit, len(values), min(values), max(values))
        self.figures.append(figure)
        spread = f" ({figure.low:,.3g} to {figure.high:,.3g}, n={figure.samples})" if len(values) > 1 else ""
        print(f"{column:>10}  {what:<52}{figure.value:>14,.3f} {unit}{spread}", flush=True)


def time_each(act: Callable[[], object], times: int, min_times: int = 3) -> list[float]:
    """Call `act` so many times, or until it has taken long enough; return the milliseconds of each call."""
    laps: list[float] = []
    until = perf_counter() + MAX_S
    while len(laps) < times and (perf_counter() < until or (len(laps) < min_times and sum(laps) < 40_000)):
        before = perf_counter()
        act()
        laps.append((perf_counter() - before) * 1000)
    return laps


def time_over(act: Callable[[Any], object], over: Sequence[Any]) -> list[float]:
    """Call `act` with each item; return the milliseconds of each call."""
    rest = iter(over)
    return time_each(lambda: act(next(rest)), len(over))


def sample_ids(store: Store, count: int) -> list[str]:
    """Return the ids of runs from all over the store."""
    session = store._database.open(reading=True)
    try:
        ((low, high),) = session.execute("SELECT min(seq), max(seq) FROM runstate_run", {})
        one = f"SELECT id FROM runstate_run WHERE seq >= {session.statements.param('seq')} ORDER BY seq LIMIT 1"
        return [session.execute(one, {"seq": random.randint(low, high)})[0][0] for _ in range(count)]
    finally:
        session.close()


def _reads(store: Store) -> Mapping[str, tuple[int, Callable[[], object]]]:
    oldest = store.list(limit=50, order="asc").data[-1]
    thread = store.get(sample_ids(store, 1)[0]).thread_id
    cursor, behind = store.latest_cursor(), _behind(store, 33_333)
    return {
        "list: first page": (100, lambda: store.list()),
        "list: page after the oldest": (100, lambda: store.list(after=oldest.id)),
        "list: of a thread": (100, lambda: store.list(thread_id=thread)),
        "list: status completed": (100, lambda: store.list(status="completed")),
        "list: a status that none has": (5, lambda: store.list(status="requires_action")),
        "list: metadata of one run in 1,000": (5, lambda: store.list(metadata={"customer": "customer_7"})),
        "list: metadata that none has": (3, lambda: store.list(metadata={"customer": "absent"})),
        "list: younger than a second, newest first": (5, lambda: store.list(younger_than_s=1)),
        "list: a queue that none has": (5, lambda: store.list(queue="absent")),
        "counts": (3, store.counts),
        "entries: from now on": (100, lambda: store.entries(cursor)),
        "entries: first page from the beginning": (3, lambda: store.entries("")),
        "entries: a page, 100,000 entries behind": (20, lambda: store.entries(behind)),
        "is_anything_due": (100, store.is_anything_due),
    }


def _behind(store: Store, runs: int) -> str:
    """Return the cursor of an entry that is followed by so many runs, or of the first entry."""
    session = store._database.open(reading=True)
    try:
        param = session.statements.param("runs")
        place = f"SELECT max(seq) - {param} FROM runstate_run"
        found = session.execute(
            f"SELECT id FROM runstate_run WHERE seq >= ({place}) ORDER BY seq LIMIT 1", {"runs": runs}
        )
    finally:
        session.close()
    return store.history(found[0][0])[-1].cursor


def measure_operations(store: Store, results: Results, column: str, quick: bool) -> None:
    """Measure what programs call all the time."""
    few = 50 if quick else 300
    for name, (times, act) in _reads(store).items():
        act()
        results.add(name, column, time_each(act, times), "ms")
    ids = sample_ids(store, 2 * few)
    results.add("get", column, time_over(store.get, ids[:few]), "ms")
    results.add("history", column, time_over(store.history, ids[few:]), "ms")
    made: list[str] = []
    results.add("create, one caller", column, time_each(lambda: made.append(store.create(**NEW_RUN).id), few), "ms")
    results.add("request_cancel (and its confirmation)", column, time_over(store.request_cancel, made), "ms")
    results.add("sweep, nothing due", column, time_each(store.sweep, 30), "ms")
    results.add("claim and complete 10 runs", column, _settle_and_claim(store, few), "ms")
    _measure_leases(store, results, column, 100 if quick else 500)
    _measure_sweep(store, results, column)


def _settle_and_claim(store: Store, times: int) -> list[float]:
    wanted: NewRun = {**NEW_RUN, "queue": "turns"}
    store.create_many([wanted] * (10 * times))
    lease = store.open_lease("bench", lease_s=3600)

    def turn() -> None:
        claims = store.claim(lease, 10, queues=("turns",))
        assert len(claims) == 10, "the queue ran empty"
        complete(store, lease, claims)

    laps = time_each(turn, times)
    while claims := store.claim(lease, 500, queues=("turns",)):  # those that were left when the time was over
        complete(store, lease, claims)
    store.close_lease(lease)
    return laps


def _measure_leases(store: Store, results: Results, column: str, each: int) -> None:
    """Measure the heartbeat, and runs that go from one lease to another."""
    wanted: NewRun = {**NEW_RUN, "queue": "leased"}
    queues = ("leased",)
    store.create_many([wanted] * (2 * each))
    first, second = store.open_lease("first", lease_s=3600), store.open_lease("second", lease_s=3600)
    claims = [claim for _ in range(2) for claim in store.claim(first, each, queues=queues)]
    assert len(claims) == 2 * each, "a lease did not get its runs"
    results.add(
        f"heartbeat of a worker with {2 * each} runs", column, time_each(lambda: store.heartbeat(first), 30), "ms"
    )
    results.add("heartbeat of a worker with none", column, time_each(lambda: store.heartbeat(second), 200), "ms")
    store.close_lease(first)
    taken = []
    laps = time_each(lambda: taken.append(store.take_over(second, each, queues=queues)), 2, 2)
    results.add("take_over", column, [1000 * each / lap for lap in laps], "runs/s")
    assert [len(some) for some in taken] == [each, each], "not all were taken over"
    for some in taken:
        complete(store, second, some)
    store.close_lease(second)


def complete(store: Store, lease: Lease, claims: Sequence[Claim]) -> None:
    """Complete claimed runs."""
    usage = '{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}'
    turned = store.settle(lease, [Settle(claim.run, RunEvent.COMPLETE, usage) for claim in claims])
    assert not turned.refused, "an outcome was refused"


def _measure_sweep(store: Store, results: Results, column: str) -> None:
    wanted: NewRun = {**NEW_RUN, "expires_in_s": 1, "queue": "due"}
    store.create_many([wanted] * 1000)
    time.sleep(2.1)
    swept: list[int] = []
    laps = time_each(lambda: swept.append(len(store.sweep().expired)), 2, 2)
    assert swept == [500, 500], swept
    results.add("sweep, 500 past their deadline", column, laps, "ms")


def measure_drain(store: Store, url: str, results: Results, column: str, count: int, rounds: int) -> None:
    """Measure creates of a hundred callers, and the drain by a `Worker` of 10 and of 100 slots."""
    creating: list[float] = []
    draining: dict[int, list[float]] = {10: [], 100: []}
    for _ in range(rounds):
        for slots, laps in draining.items():
            before = perf_counter()
            asyncio.run(_create(store, count, 100))
            creating.append(count / (perf_counter() - before))
            with WorkerProcesses(drain, url, slots) as workers:
                workers.start()
                laps.append(count / workers.wait_for_reports(count))
    results.add("create, 100 callers at once", column, creating, "runs/s")
    for slots, laps in draining.items():
        results.add(f"drain by a worker of {slots} slots", column, laps, "runs/s")


async def _create(store: Store, count: int, callers: int) -> None:
    async def caller(runs: int) -> None:
        for _ in range(runs):
            await store.aio.create(**NEW_RUN)

    await asyncio.gather(*(caller(count // callers) for _ in range(callers)))


def measure_maintenance(store: Store, results: Results, column: str) -> None:
    """Measure what is called now and then: pruning, the doctor."""
    results.add("migrate, nothing to do", column, time_each(lambda: migrate(store._database), 10), "ms")
    for_ever = 365 * 86_400.0
    results.add("prune: nothing is old enough", column, time_each(lambda: store.prune(for_ever), 3), "ms")
    results.add("prune: how many there are", column, time_each(lambda: store.prune(86_400, dry_run=True), 3), "ms")
    before = perf_counter()
    diagnosis = examine(store)
    results.add("doctor", column, [perf_counter() - before], "s")
    assert not diagnosis.errors, diagnosis.errors[:3]


def keep_plan(results: Results, name: str, session: Connection, statement: str, given: Mapping[str, Any]) -> None:
    """Keep PostgreSQL's plan of a statement, with what it read, and roll back its effects."""
    try:
        with session.transaction():
            found = session.execute(f"EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, SUMMARY ON) {statement}", given)
            results.plans[name] = [row[0] for row in found]
            raise _Rollback
    except _Rollback:
        return


class _Rollback(Exception):
    """Raised inside a transaction to roll it back."""
