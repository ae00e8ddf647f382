"""What one operation of a store costs: by the library, on a store that holds so and so many runs."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from time import perf_counter
from typing import Any, Final

import attrs

from benchmarks.durable.ours import WANTED, drain
from benchmarks.durable.server import Crew
from runstate.lifecycle import RunEvent
from runstate.store import Claim, Lease, NewRun, Settle, Store
from runstate.store._sql.connection import Connection
from runstate.store._sql.migrations import migrate
from runstate.store.doctor import examine

__all__ = [
    "Figure",
    "Sheet",
    "complete",
    "drained",
    "explained",
    "operations",
    "sampled",
    "timed",
    "timed_over",
    "upkeep",
]

MOST_S: Final = 4.0
"""Of one measurement; what takes longer is repeated less often, three times at least if that takes no minute."""


@attrs.frozen
class Figure:
    """A median, of how many samples, and the least and greatest of them."""

    what: str
    column: str
    value: float
    unit: str
    samples: int = 1
    low: float = 0.0
    high: float = 0.0


@attrs.define
class Sheet:
    """All figures, and the plans of statements that grow."""

    figures: list[Figure] = attrs.field(factory=list)
    plans: dict[str, list[str]] = attrs.field(factory=dict)

    def add(self, what: str, column: str, values: Sequence[float], unit: str) -> None:
        """Note the median of some values, and say it at once."""
        figure = Figure(what, column, median(values), unit, len(values), min(values), max(values))
        self.figures.append(figure)
        spread = f" ({figure.low:,.3g} to {figure.high:,.3g}, n={figure.samples})" if len(values) > 1 else ""
        print(f"{column:>10}  {what:<52}{figure.value:>14,.3f} {unit}{spread}", flush=True)


def timed(act: Callable[[], object], times: int, least: int = 3) -> list[float]:
    """Do something so often, or until it has taken long enough; return the milliseconds of each."""
    laps: list[float] = []
    until = perf_counter() + MOST_S
    while len(laps) < times and (perf_counter() < until or (len(laps) < least and sum(laps) < 40_000)):
        before = perf_counter()
        act()
        laps.append((perf_counter() - before) * 1000)
    return laps


def timed_over(act: Callable[[Any], object], over: Sequence[Any]) -> list[float]:
    """Do something to each; return the milliseconds of each."""
    rest = iter(over)
    return timed(lambda: act(next(rest)), len(over))


def sampled(store: Store, count: int) -> list[str]:
    """Return the ids of runs from all over the store."""
    session = store.database.open(reading=True)
    try:
        ((low, high),) = session.execute("SELECT min(seq), max(seq) FROM runstate_run", {})
        one = f"SELECT id FROM runstate_run WHERE seq >= {session.statements.param('seq')} ORDER BY seq LIMIT 1"
        return [session.execute(one, {"seq": random.randint(low, high)})[0][0] for _ in range(count)]
    finally:
        session.close()


def _reads(store: Store) -> Mapping[str, tuple[int, Callable[[], object]]]:
    oldest = store.list(limit=50, order="asc").data[-1]
    thread = store.get(sampled(store, 1)[0]).thread_id
    cursor, behind = store.latest_cursor(), _behind(store, 33_333)
    return {
        "list: first page": (100, lambda: store.list()),
        "list: page after the oldest": (100, lambda: store.list(after=oldest.id)),
        "list: of a thread": (100, lambda: store.list(thread_id=thread)),
        "list: status completed": (100, lambda: store.list(status="completed")),
        "list: a status that none has": (5, lambda: store.list(status="requires_action")),
        "list: metadata of one run in 1,000": (5, lambda: store.list(metadata={"customer": "customer_7"})),
        "list: metadata that none has": (3, lambda: store.list(metadata={"customer": "nobody"})),
        "list: younger than a second, newest first": (5, lambda: store.list(younger_than_s=1)),
        "list: a queue that none has": (5, lambda: store.list(queue="nobody")),
        "counts": (3, store.counts),
        "entries: from now on": (100, lambda: store.entries(cursor)),
        "entries: first page from the beginning": (3, lambda: store.entries("")),
        "entries: a page, 100,000 entries behind": (20, lambda: store.entries(behind)),
        "is_anything_due": (100, store.is_anything_due),
    }


def _behind(store: Store, runs: int) -> str:
    """Return the cursor of an entry that so many runs came after, or of the first there is."""
    session = store.database.open(reading=True)
    try:
        param = session.statements.param("runs")
        place = f"SELECT max(seq) - {param} FROM runstate_run"
        found = session.execute(
            f"SELECT id FROM runstate_run WHERE seq >= ({place}) ORDER BY seq LIMIT 1", {"runs": runs}
        )
    finally:
        session.close()
    return store.history(found[0][0])[-1].cursor


def operations(store: Store, sheet: Sheet, column: str, quick: bool) -> None:
    """Measure what programs ask of a store all the time."""
    few = 50 if quick else 300
    for name, (times, act) in _reads(store).items():
        act()
        sheet.add(name, column, timed(act, times), "ms")
    ids = sampled(store, 2 * few)
    sheet.add("get", column, timed_over(store.get, ids[:few]), "ms")
    sheet.add("history", column, timed_over(store.history, ids[few:]), "ms")
    made: list[str] = []
    sheet.add("create, one caller", column, timed(lambda: made.append(store.create(**WANTED).id), few), "ms")
    sheet.add("request_cancel (and its confirmation)", column, timed_over(store.request_cancel, made), "ms")
    sheet.add("sweep, nothing due", column, timed(store.sweep, 30), "ms")
    sheet.add("claim and complete 10 runs", column, _turns(store, few), "ms")
    _leased(store, sheet, column, 100 if quick else 500)
    _due(store, sheet, column)


def _turns(store: Store, times: int) -> list[float]:
    wanted: NewRun = {**WANTED, "queue": "turns"}
    store.create_many([wanted] * (10 * times))
    lease = store.open_lease("bench", lease_s=3600)

    def turn() -> None:
        claims = store.claim(lease, 10, queues=("turns",))
        assert len(claims) == 10, "the queue ran empty"
        complete(store, lease, claims)

    laps = timed(turn, times)
    while claims := store.claim(lease, 500, queues=("turns",)):  # what was not taken in time
        complete(store, lease, claims)
    store.close_lease(lease)
    return laps


def _leased(store: Store, sheet: Sheet, column: str, each: int) -> None:
    """Measure the heartbeat, and runs that go from one lease to another."""
    wanted: NewRun = {**WANTED, "queue": "leased"}
    queues = ("leased",)
    store.create_many([wanted] * (2 * each))
    first, second = store.open_lease("first", lease_s=3600), store.open_lease("second", lease_s=3600)
    claims = [claim for _ in range(2) for claim in store.claim(first, each, queues=queues)]
    assert len(claims) == 2 * each, "a lease did not get its runs"
    sheet.add(f"heartbeat of a worker with {2 * each} runs", column, timed(lambda: store.heartbeat(first), 30), "ms")
    sheet.add("heartbeat of a worker with none", column, timed(lambda: store.heartbeat(second), 200), "ms")
    store.close_lease(first)
    taken = []
    laps = timed(lambda: taken.append(store.take_over(second, each, queues=queues)), 2, 2)
    sheet.add("take_over", column, [1000 * each / lap for lap in laps], "runs/s")
    assert [len(some) for some in taken] == [each, each], "not all were taken over"
    for some in taken:
        complete(store, second, some)
    store.close_lease(second)


def complete(store: Store, lease: Lease, claims: Sequence[Claim]) -> None:
    """Complete claimed runs."""
    usage = '{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}'
    turned = store.settle(lease, [Settle(claim.run, RunEvent.COMPLETE, usage) for claim in claims])
    assert not turned.refused, "an outcome was refused"


def _due(store: Store, sheet: Sheet, column: str) -> None:
    wanted: NewRun = {**WANTED, "expires_in_s": 1, "queue": "due"}
    store.create_many([wanted] * 1000)
    time.sleep(2.1)
    swept: list[int] = []
    laps = timed(lambda: swept.append(len(store.sweep().expired)), 2, 2)
    assert swept == [500, 500], swept
    sheet.add("sweep, 500 past their deadline", column, laps, "ms")


def drained(store: Store, url: str, sheet: Sheet, column: str, count: int, rounds: int) -> None:
    """Measure creates of a hundred callers, and the drain by a `Worker` of 10 and of 100 slots."""
    creating: list[float] = []
    draining: dict[int, list[float]] = {10: [], 100: []}
    for _ in range(rounds):
        for slots, laps in draining.items():
            before = perf_counter()
            asyncio.run(_create(store, count, 100))
            creating.append(count / (perf_counter() - before))
            with Crew(drain, url, slots) as crew:
                crew.go()
                laps.append(count / crew.measured(count))
    sheet.add("create, 100 callers at once", column, creating, "runs/s")
    for slots, laps in draining.items():
        sheet.add(f"drain by a worker of {slots} slots", column, laps, "runs/s")


async def _create(store: Store, count: int, callers: int) -> None:
    async def caller(runs: int) -> None:
        for _ in range(runs):
            await store.aio.create(**WANTED)

    await asyncio.gather(*(caller(count // callers) for _ in range(callers)))


def upkeep(store: Store, sheet: Sheet, column: str) -> None:
    """Measure what is asked now and then: pruning, the doctor."""
    sheet.add("migrate, nothing to do", column, timed(lambda: migrate(store.database), 10), "ms")
    for_ever = 365 * 86_400.0
    sheet.add("prune: nothing is old enough", column, timed(lambda: store.prune(for_ever), 3), "ms")
    sheet.add("prune: how many there are", column, timed(lambda: store.prune(86_400, dry_run=True), 3), "ms")
    before = perf_counter()
    diagnosis = examine(store)
    sheet.add("doctor", column, [perf_counter() - before], "s")
    assert not diagnosis.errors, diagnosis.errors[:3]


def explained(sheet: Sheet, name: str, session: Connection, statement: str, given: Mapping[str, Any]) -> None:
    """Keep PostgreSQL's plan of a statement, with what it read; whatever it does is undone."""
    try:
        with session.transaction():
            found = session.execute(f"EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, SUMMARY ON) {statement}", given)
            sheet.plans[name] = [row[0] for row in found]
            raise _Undone
    except _Undone:
        return


class _Undone(Exception):
    """Raised to leave a transaction so that nothing of it stays."""
