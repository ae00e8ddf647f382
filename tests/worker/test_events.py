"""Events of handlers: durable, numbered output for those who follow a run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from threading import Barrier, Thread
from typing import Any

import pytest

from runstate import InvalidRun, ManualClock
from runstate.errors import LeaseLost, RunNotFound, StoreError, StoreUnavailable
from runstate.store import AsyncStore, Emitter, Event, Store, StoredRun, open_store
from runstate.worker import Context, Outcome, StepInterrupted
from tests.store.support import Prompt
from tests.worker.support import KINDS, at_work, ended, error_of, finish, finished, leave, limited, new
from tests.worker.test_steps import Died, dies


def data_of(events: Any) -> list[Any]:
    return [event.data for event in events]


@pytest.mark.parametrize("kind", KINDS)
def test_events_come_in_order(store: Store, kind: str) -> None:
    """All that a handler emits is there when its run has ended, numbered from 1 without a gap."""
    values: list[Any] = ["a", {"text": "\N{SUN WITH FACE}"}, None, 0, [], "", *range(500), "x" * 5000]

    def plain(ctx: Context) -> None:
        for value in values:
            ctx.emit(value)

    async def later(ctx: Context) -> None:
        for value in values:
            ctx.emit(value)
            await asyncio.sleep(0)

    run = finished(store, plain if kind == "plain" else later)
    events = list(store.events(run.id))
    assert values == data_of(events)
    assert [*range(1, len(values) + 1)] == [event.number for event in events]
    assert {1} == {event.attempt for event in events}
    assert sorted(event.at_us for event in events) == [event.at_us for event in events]
    for after in (0, 1, 5, 250, len(values) - 1, len(values), len(values) + 5):
        assert values[after:] == data_of(store.events(run.id, after=after))
        assert tuple(events[after:]) == store.events_page(run.id, after)


@pytest.mark.parametrize("kind", KINDS)
def test_events_of_a_handler_that_fails(store: Store, kind: str) -> None:
    """What was emitted before an exception is there too."""

    def plain(ctx: Context) -> None:
        ctx.emit("before")
        raise ValueError("wrong")

    async def later(ctx: Context) -> None:
        ctx.emit("before")
        raise ValueError("wrong")

    run = finished(store, plain if kind == "plain" else later)
    assert "failed" == run.status
    assert ["before"] == data_of(store.events(run.id))


@limited
async def test_events_of_a_handler_that_is_cancelled(store: Store) -> None:
    begun = asyncio.Event()

    async def handler(ctx: Context) -> None:
        ctx.emit("before")
        begun.set()
        await asyncio.sleep(60)

    run = store.create(**new())
    async with at_work(store, handler):
        await begun.wait()
        await store.aio.request_cancel(run.id)
        assert "cancelled" == (await ended(store, run.id)).status
    assert ["before"] == data_of(store.events(run.id))


@limited
async def test_readers_follow_while_the_handler_speaks(store: Store) -> None:
    """Readers that come at any time, in this process and another, get each event once; the run's end ends them."""
    said = 40
    late: list[asyncio.Task[list[Any]]] = []

    async def read(reading: Store, after: int = 0) -> list[Any]:
        return [event.data async for event in reading.aio.events(run.id, after=after)]

    async def handler(ctx: Context) -> None:
        for number in range(said):
            ctx.emit(number)
            await asyncio.sleep(0.01)
            if number % 10 == 5:
                late.append(asyncio.create_task(read(store)))

    run = store.create(**new())
    found: list[Any] = []
    blocking = Thread(target=lambda: found.extend(store.events(run.id)))
    blocking.start()
    readers = [asyncio.create_task(read(store, after)) for after in (0, 0, 7)]
    async with at_work(store, handler):
        await ended(store, run.id)
    everything = [*range(said)]
    assert [everything, everything, everything[7:]] == await asyncio.gather(*readers)
    assert [everything] * 4 == await asyncio.gather(*late)
    await asyncio.to_thread(blocking.join)
    assert everything == data_of(found)


@limited
async def test_readers_of_another_process(store_url: str, store: Store) -> None:
    """Another store of the same database hears of events by notification."""
    run = store.create(**new())

    async def handler(ctx: Context) -> None:
        for number in range(20):
            ctx.emit(number)
            await asyncio.sleep(0.02)

    with open_store(store_url) as other:

        async def first() -> Any:
            return await anext(aiter(other.aio.events(run.id)))

        reading = asyncio.create_task(first())
        async with at_work(store, handler):
            assert 0 == (await reading).data
            await ended(store, run.id)
        assert [*range(20)] == [event.data async for event in other.aio.events(run.id)]


def test_later_attempts_go_on_with_the_numbers(store: Store) -> None:
    """After a death the numbers go on, and each event has its attempt."""

    def handler(ctx: Context) -> None:
        for text in ("a", "b"):
            ctx.emit(f"{text}{ctx.attempt}")
        ctx.step("work", lambda: 1, key=str(ctx.attempt))
        if ctx.attempt < 3:
            raise Died
        ctx.emit("end")

    run = store.create(**new())
    dies(store, run.id, handler)
    dies(store, run.id, handler)
    finish(store, handler)
    found = [(event.number, event.attempt, event.data) for event in store.events(run.id)]
    texts = [("a1", 1), ("b1", 1), ("a2", 2), ("b2", 2), ("a3", 3), ("b3", 3), ("end", 3)]
    assert [(number, attempt, text) for number, (text, attempt) in enumerate(texts, 1)] == found


def test_events_are_durable_before_a_step_is_kept(store: Store) -> None:
    """The step is not executed again, and would not emit them again."""

    def handler(ctx: Context) -> None:
        ctx.step("speak", lambda: ctx.emit("inside"))
        if ctx.attempt == 1:
            raise Died

    run = store.create(**new())
    dies(store, run.id, handler)
    finish(store, handler)
    assert [(1, "inside")] == [(event.attempt, event.data) for event in store.events(run.id)]


MISTAKES: dict[str, tuple[Any, str]] = {
    "no JSON": ({1, 2}, "event: "),
    "not a number": (float("nan"), "event: "),
    "too large": ("x" * (1024 * 1024), "event: is too large: 1048578 characters, at most 1048576"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_event_is_refused(store: Store, mistake: str) -> None:
    value, sentence = MISTAKES[mistake]
    run = finished(store, lambda ctx: ctx.emit(value))
    assert sentence in error_of(run)["message"]
    assert [] == list(store.events(run.id))


def test_events_that_come_too_late_are_refused(store: Store, clock: ManualClock) -> None:
    """Another worker has the run, or the same one by a later claim: nothing is added."""
    run = store.create(**new())
    lease = store.open_lease("w1")
    claim = store.claim_id(lease, run.id)
    assert claim is not None
    first = store.emitter(lease, claim.run)
    first.emit(1)
    first.flush()
    assert store.release(lease, claim.run)
    (again,) = store.take_over(lease, run_id=run.id)
    first.emit(2)
    with pytest.raises(LeaseLost):
        first.flush()
    with pytest.raises(LeaseLost):
        first.emit(3)
    second = store.emitter(lease, again.run)
    second.emit("two")
    second.flush()
    assert [1, "two"] == data_of(store.events_page(run.id))
    clock.advance(31)
    second.emit(4)
    with pytest.raises(LeaseLost):
        second.flush()


def test_a_row_is_added_once(store: Store) -> None:
    """A request that is repeated after a lost reply is recognised; another row of the same number is refused."""
    from runstate.store._api.events import EventRow, save_events_command

    run = store.create(**new())
    lease = store.open_lease("w1")
    claim = store.claim_id(lease, run.id)
    assert claim is not None
    row = EventRow(lease, claim.run, 1, ["1", "2"])
    execute = store._transport.execute
    for _ in range(2):
        assert {row} == execute(save_events_command([row]))
    assert not execute(save_events_command([EventRow(lease, claim.run, 1, ["1", "3"])]))
    assert [1, 2] == data_of(store.events_page(run.id))


def test_a_row_that_the_database_refuses_stops_no_other(store: Store, prompt: Prompt) -> None:
    """The events of other runs are added: only the run that is refused gets the error."""
    lease = store.open_lease("w1")
    runs = [store.create(**new()) for _ in range(3)]
    claims = {claim.run.id: claim.run for claim in store.claim(lease, 3)}
    emitters = [store.emitter(lease, claims[run.id]) for run in runs]
    emitters[1]._next = 5  # as a bug would have it: the guard refuses a gap
    for emitter in emitters:
        emitter.emit("x")
    with pytest.raises(LeaseLost):
        emitters[1].flush()
    for number in (0, 2):
        emitters[number].flush()
    assert [["x"], [], ["x"]] == [data_of(store.events_page(run.id)) for run in runs]


@pytest.mark.parametrize("kind", KINDS)
def test_a_handler_that_is_called_again_in_one_claim(store: Store, kind: str) -> None:
    """After an outage the same worker calls it again: what was kept stays kept, and the numbers go on."""
    calls: list[str] = []
    outages = [StoreUnavailable("of another store"), StoreUnavailable("once more")]

    def work(name: str) -> int:
        calls.append(name)
        return len(calls)

    def plain(ctx: Context) -> None:
        ctx.emit(len(outages))
        assert 1 == ctx.step("work", work, "work")
        if outages:
            raise outages.pop()

    async def later(ctx: Context) -> None:
        ctx.emit(len(outages))
        assert 1 == await ctx.step("work", work, "work")
        if outages:
            raise outages.pop()

    run = finished(store, plain if kind == "plain" else later)
    assert ("completed", ["work"], 1) == (run.status, calls, run.attempt)
    assert [2, 1, 0] == data_of(store.events(run.id))


def test_a_step_once_in_a_handler_that_is_called_again(store: Store) -> None:
    """Its function has met an outage of its own: it may have happened, and the second call is told."""
    calls: list[int] = []

    def pay() -> None:
        calls.append(1)
        raise StoreUnavailable("of another store")

    def handler(ctx: Context) -> Outcome | None:
        try:
            ctx.step("pay", pay, once=True)
        except StepInterrupted:
            return ctx.fail("server_error", "a person must look")
        return None

    run = finished(store, handler)
    assert ("failed", [1]) == (run.status, calls)


@limited
async def test_a_cancel_while_the_last_events_are_written(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler has ended before: its outcome counts, and its events are there."""
    flushing = asyncio.Event()
    flush = Emitter.flush_async

    async def slow(self: Emitter) -> None:
        flushing.set()
        await asyncio.sleep(0.3)
        await flush(self)

    monkeypatch.setattr(Emitter, "flush_async", slow)

    async def handler(ctx: Context) -> None:
        ctx.emit("last")

    run = store.create(**new())
    async with at_work(store, handler):
        await flushing.wait()
        await store.aio.request_cancel(run.id)
        assert "completed" == (await ended(store, run.id)).status
    assert ["last"] == data_of(store.events(run.id))


@limited
async def test_a_step_whose_save_is_cancelled(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The function has returned: it is not called again, and the next try gets its result."""
    calls: list[int] = []
    save = AsyncStore.save_step

    async def work() -> int:
        calls.append(1)
        return len(calls)

    async def handler(ctx: Context) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await ctx.step("work", work)
        assert 1 == await ctx.step("work", work)

    class Slow:
        """`save_step`, half a second later."""

        def __get__(self, aio: AsyncStore, owner: type) -> Callable[..., Any]:
            async def saved(*args: Any, **given: Any) -> bool:
                await asyncio.sleep(0.5)
                return bool(await save.__get__(aio, owner)(*args, **given))

            return saved

    monkeypatch.setattr(AsyncStore, "save_step", Slow())
    run = store.create(**new())
    async with at_work(store, handler):
        assert "completed" == (await ended(store, run.id)).status
    assert [1] == calls


def test_events_and_steps_of_several_threads(store: Store) -> None:
    """Each event is there once, and each step is executed once."""
    calls: list[int] = []

    def speak(ctx: Context, barrier: Barrier, number: int) -> None:
        barrier.wait()
        for place in range(50):
            ctx.emit([number, place])
        ctx.step("work", calls.append, number, key=str(number))

    def handler(ctx: Context) -> None:
        barrier = Barrier(4)
        threads = [Thread(target=speak, args=(ctx, barrier, number)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    run = finished(store, handler)
    found = data_of(store.events(run.id))
    assert 200 == len(found)
    assert sorted([number, place] for number in range(4) for place in range(50)) == sorted(found)
    assert ([0, 1, 2, 3], 4) == (sorted(calls), len(store.steps(run.id)))


def test_a_reader_from_a_number_that_is_not_there_yet(store: Store) -> None:
    """It gets what comes after that number, and readers of the same run are not disturbed."""
    run = store.create(**new())
    lease = store.open_lease("w1")
    claim = store.claim_id(lease, run.id)
    assert claim is not None
    emitter = store.emitter(lease, claim.run)
    found: dict[int, list[Any]] = {}

    def read(after: int) -> None:
        found[after] = data_of(store.events(run.id, after=after))

    readers = [Thread(target=read, args=(after,)) for after in (3, 10**9, 0)]
    for reader in readers:
        reader.start()
    for number in range(1, 6):
        emitter.emit(number)
        emitter.flush()
    store.complete(run.id)
    for reader in readers:
        reader.join()
    assert {0: [1, 2, 3, 4, 5], 3: [4, 5], 10**9: []} == found


def test_emitting_more_than_the_store_takes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread waits for the database; an event loop, which must not block, fails with a sentence."""
    monkeypatch.setattr("runstate.store._api.event_writer._MOST_WAITING", 3000)
    text = "x" * 1000

    def plain(ctx: Context) -> None:
        for _ in range(30):
            ctx.emit(text)

    async def later(ctx: Context) -> None:
        plain(ctx)

    run = finished(store, plain)
    assert ("completed", 30) == (run.status, len(list(store.events(run.id))))
    told = error_of(finished(store, later))["message"]
    assert "characters wait for the store: an async handler that emits much" in told


FORGED = (
    "INSERT INTO runstate_event SELECT seq, 2, 1, version, attempt, '[1]', 5 FROM runstate_run",
    "UPDATE runstate_event SET data = '[2]'",
    "UPDATE runstate_event SET number = 2",
    "DELETE FROM runstate_event",
)


@pytest.mark.parametrize("status", ["completed", "requires_action", "in_progress", "released"])
def test_the_database_refuses_events_of_others(store: Store, prompt: Prompt, status: str) -> None:
    """Of a run that has ended or waits, of one that no worker has, and whatever would change an event."""
    run = store.create(**new())
    lease = store.open_lease("w1")
    claim = store.claim_id(lease, run.id)
    assert claim is not None
    emitter = store.emitter(lease, claim.run)
    emitter.emit("kept")
    emitter.flush()
    leave(store, lease, claim.run, status)
    before = prompt.rows("runstate_event")
    tried = [*FORGED[:-1], *(FORGED[-1:] if status != "completed" else ())]
    for statement in tried if status != "in_progress" else tried[1:]:
        assert "runstate: " in (prompt.refusal(statement) or f"accepted: {statement}")
    for column in ("'[1]'", "'{}'"):
        wrong = FORGED[0].replace("2, 1", "2, 500" if column == "'[1]'" else "2, 1").replace("'[1]'", column)
        assert prompt.refusal(wrong) is not None  # the count is that of the list
    gap = FORGED[0].replace("2, 1", "7, 1")
    assert "runstate: events are added one after the other" in (prompt.refusal(gap) or "accepted")
    if prompt.is_sqlite:
        replace = "INSERT OR REPLACE INTO runstate_event SELECT run, number, count, version, attempt, '[2]', 5"
        assert prompt.refusal(f"{replace} FROM runstate_event") is not None
        assert prompt.refusal("SELECT rowid FROM runstate_event") is not None  # nor is there another way to a row
    assert before == prompt.rows("runstate_event")


def test_events_are_pruned(store: Store, prompt: Prompt, clock: ManualClock) -> None:
    """By their age after the end of the run, and with their run. Those of a live run stay."""
    ended_run = finished(store, lambda ctx: [ctx.emit("a"), ctx.emit("b"), None][2])
    lease = store.open_lease("w1")
    live = store.create(**new())
    claim = store.claim_id(lease, live.id)
    assert claim is not None
    emitter = store.emitter(lease, claim.run)
    emitter.emit("live")
    emitter.flush()
    rows = prompt.rows("runstate_events", "ORDER BY run_id, number")
    assert 3 == len(rows)
    assert {1, 2} == {row["number"] for row in rows if row["run_id"] == ended_run.id}
    clock.advance(10)
    assert [0, 0] == [store.prune_events(11, dry_run=dry_run) for dry_run in (True, False)]
    assert [1, 1, 1, 0] == [store.prune_events(9, dry_run=dry_run) for dry_run in (True, True, False, True)]
    assert [] == list(store.events(ended_run.id))
    assert ["live"] == data_of(store.events_page(live.id))
    assert 1 == store.prune(9)
    with pytest.raises(RunNotFound):
        store.events_page(ended_run.id)
    with pytest.raises(RunNotFound):
        next(store.events(ended_run.id))


@limited
async def test_a_worker_prunes_events(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of runs that ended some time ago, as a setting says; the run and its steps stay."""
    monkeypatch.setattr("runstate.worker._sweeper._PRUNE_S", 0.0)

    def handler(ctx: Context) -> None:
        ctx.emit("a")
        ctx.step("work", int)

    run = store.create(**new())
    async with at_work(store, handler, events_kept_s=0.0):
        await ended(store, run.id)
        while store.events_page(run.id):
            await asyncio.sleep(0.05)
    assert 1 == len(store.steps(run.id))
    run = store.create(**new())
    async with at_work(store, handler):
        await ended(store, run.id)
        await asyncio.sleep(0.8)
    assert ["a"] == data_of(store.events_page(run.id))


def test_wrong_arguments_are_refused(store: Store) -> None:
    run = store.create(**new())
    wrong: list[Callable[[], object]] = [
        lambda: store.events(run.id, after=-1),
        lambda: store.events(run.id, after="1"),  # type: ignore[arg-type]
        lambda: store.events(5),  # type: ignore[arg-type]
        lambda: store.events_page(run.id, -1),
        lambda: store.events_page(run.id, limit=0),
        lambda: store.prune_events(-1),
        lambda: store.prune_events(1, limit=0),
    ]
    for call in wrong:
        with pytest.raises(InvalidRun):
            call()


def test_closing_a_store_ends_its_readers(store_url: str) -> None:
    """Events that wait are written, and a reader gets an error instead of waiting forever."""
    told: list[Exception] = []
    found: list[Event] = []

    with open_store(store_url) as store:
        run = store.create(**new())
        lease = store.open_lease("w1")
        claim = store.claim_id(lease, run.id)
        assert claim is not None

        def read() -> None:
            try:
                found.extend(store.events(run.id))
            except StoreError as error:
                told.append(error)

        thread = Thread(target=read)
        thread.start()
        store.emitter(lease, claim.run).emit("last")
    thread.join()
    assert "is closed" in str(told[0])
    with open_store(store_url) as store:
        assert ["last"] == data_of(store.events_page(run.id))


def test_events_while_a_store_is_closed(store: Store) -> None:
    """They are written before the other parts of the store are closed. An event after that is refused, and no wait."""
    run = store.create(**new())
    lease = store.open_lease("w1")
    claim = store.claim_id(lease, run.id)
    assert claim is not None
    emitter = store.emitter(lease, claim.run)
    emitter.emit("before")
    store._events.close()
    thread = store._events._thread
    assert thread is not None
    assert not thread.is_alive()
    assert ["before"] == data_of(store.events_page(run.id))
    with pytest.raises(StoreError, match="is closed"):
        emitter.emit("after")
    assert ["before"] == data_of(store.events_page(run.id))


def test_an_outage_while_events_wait(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are written when the store is back, in order and once."""
    failures = [StoreUnavailable("away"), StoreUnavailable("away")]

    def shaky(run: StoredRun) -> int:
        if failures:
            raise failures.pop()
        return store.last_event_number(run)

    monkeypatch.setattr(store._events, "_last_number", shaky)

    def handler(ctx: Context) -> Outcome | None:
        ctx.emit(ctx.attempt)
        if not ctx.tool_outputs:
            return ctx.require_action([ctx.tool_call("weather")])
        ctx.emit(json.dumps(list(ctx.tool_outputs.values())))
        return None

    run = finished(store, handler)
    assert run.required_action is not None
    store.submit_tool_outputs(run.id, dict.fromkeys(run.required_action.call_ids, "sunny"))
    finish(store, handler)
    assert [] == failures
    assert [1, 1, '["sunny"]'] == data_of(store.events(run.id))
