"""Watching runs: each entry once and in order, read by one thread for all watchers of a process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from runstate.clock import ManualClock
from runstate.run.errors import InvalidRun
from runstate.store import Entry, Store, open_store
from runstate.store._api import entry_feed, feed
from runstate.store._api.entry_feed import ALL_RUNS
from runstate.store.errors import RunNotFound, StoreError, StoreUnavailable
from tests.store.support import Prompt, ask_store, birth, bring_in_store, insert, names
from tests.support.lifecycle import STATUSES
from tests.support.postgres import wait_until


class Watching:
    """A thread that watches, and keeps what it gets."""

    def __init__(self, store: Store, run_id: str | None = None, **given: Any) -> None:
        self.entries: list[Entry] = []
        self.error: BaseException | None = None
        self.may_go_on = threading.Event()
        """Cleared while the watcher must not take another entry."""
        self.may_go_on.set()
        self._watched = store.watch(run_id, **given)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        try:
            for entry in self._watched:
                self.entries.append(entry)
                self.may_go_on.wait()
        except BaseException as error:
            self.error = error

    def wait_for(self, count: int) -> list[int]:
        """Return the versions of the entries, once there are so many."""
        wait_until(lambda: len(self.entries) >= count or not self._thread.is_alive(), f"{count} entries")
        return [entry.version for entry in self.entries]

    def join(self) -> None:
        """Wait until the watch has ended."""
        wait_until(lambda: not self._thread.is_alive(), "the watch to end")


def waiting(store: Store) -> int:
    """Return how many watchers wait for an entry."""
    return sum(len(tail.waiters) for tail in store._entry_feed._tails.values())


def wait_for_watchers(store: Store, count: int) -> None:
    """Wait until so many watchers wait for an entry."""
    wait_until(lambda: waiting(store) == count, f"{count} watchers")


# --- one run ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", STATUSES)
def test_a_run_is_watched_until_it_has_ended(any_store: Store, status: str, clock: ManualClock) -> None:
    """A watcher gets the entries that are there, then the new ones, and the watch ends with the last."""
    run = bring_in_store(any_store, status)
    watching = Watching(any_store, run.id)
    assert [*range(1, run.version + 1)] == watching.wait_for(run.version)
    if not run.is_terminal:
        ask_store(any_store, run.id, "expire")
    watching.join()
    assert watching.entries == [*any_store.history(run.id)]
    assert watching.error is None


def test_a_watch_resumes_after_a_version(any_store: Store, clock: ManualClock) -> None:
    """Also after one that does not exist yet, and after the last one of a run that has ended."""
    run = bring_in_store(any_store, "in_progress")
    resumed, ahead = Watching(any_store, run.id, after=1), Watching(any_store, run.id, after=3)
    assert [2] == resumed.wait_for(1)
    wait_for_watchers(any_store, 2)
    any_store.request_cancel(run.id)
    any_store.confirm_cancel(run.id)
    for watching in (resumed, ahead, Watching(any_store, run.id, after=4), Watching(any_store, run.id, after=9)):
        watching.join()
    assert ([2, 3, 4], [4]) == (resumed.wait_for(0), ahead.wait_for(0))


def test_a_watch_that_begins_after_more_than_there_will_be(any_store: Store, clock: ManualClock) -> None:
    """It ends with the run, without an entry."""
    run = bring_in_store(any_store, "in_progress")
    watching = Watching(any_store, run.id, after=100)
    wait_for_watchers(any_store, 1)
    any_store.complete(run.id)
    watching.join()
    assert ([], None) == (watching.entries, watching.error)


def test_arguments_are_checked(any_store: Store) -> None:
    any_store.create(**names(id="run_1"))
    wrong: list[dict[str, Any]] = [
        *({"run_id": "run_1", "after": after} for after in (-1, "1", True, 1.0, 2**63)),
        *({"after": after} for after in (1, "x", "1.2.3.4", "9" * 30)),
        *({"run_id": run_id} for run_id in (5, "\0", "")),
    ]
    for given in wrong:
        with pytest.raises(InvalidRun):
            next(any_store.watch(**given))
    with pytest.raises(RunNotFound, match="run_2"):
        next(any_store.watch("run_2"))


def test_a_pruned_run(store: Store, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ended and was pruned before its watcher read that is not found."""
    monkeypatch.setattr(entry_feed, "_CHECK_S", 0.0)
    run = bring_in_store(store, "in_progress")
    watching = Watching(store, run.id)
    wait_for_watchers(store, 1)
    with read_nothing(store):
        store.complete(run.id)
        clock.advance(10)
        assert 1 == store.prune(0)
    watching.join()
    assert isinstance(watching.error, RunNotFound)


@contextlib.contextmanager
def read_nothing(store: Store) -> Iterator[None]:
    """Let the feed read nothing, inside the block."""
    let_go, is_held, read = threading.Event(), threading.Event(), store._entry_feed._read

    def hold(look: Callable[[Any], Any]) -> Any:
        is_held.set()
        let_go.wait()
        return read(look)

    store._entry_feed._read = hold
    store._entry_feed._wake.set()
    is_held.wait()
    try:
        yield
    finally:
        store._entry_feed._read = read
        let_go.set()


# --- all runs ---------------------------------------------------------------------------------------------------------


def test_all_runs_are_watched_from_now_on(any_store: Store, clock: ManualClock) -> None:
    """Or from a cursor; two watchers at other places get the same entries."""
    before = bring_in_store(any_store, "completed")
    wait_until(lambda: len(any_store.entries()) == before.version, "the entries")
    new, whole = Watching(any_store), Watching(any_store, after="")
    whole.wait_for(before.version)
    wait_for_watchers(any_store, 2)
    run = bring_in_store(any_store, "cancelled")
    new.wait_for(run.version)
    whole.wait_for(before.version + run.version)
    assert [*any_store.history(run.id)] == new.entries
    assert [*any_store.history(before.id), *any_store.history(run.id)] == whole.entries
    resumed = Watching(any_store, after=whole.entries[3].cursor)
    resumed.wait_for(len(whole.entries) - 4)
    assert whole.entries[4:] == resumed.entries


def test_a_watcher_that_consumes_nothing_delays_no_other(
    any_store: Store, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The feed keeps a few entries for it. It reads the others itself, when it goes on."""
    monkeypatch.setattr(feed, "_MOST_KEPT", 5)
    slow, quick = Watching(any_store, after=""), Watching(any_store, after="")
    wait_for_watchers(any_store, 2)
    slow.may_go_on.clear()
    runs = [bring_in_store(any_store, "completed") for _ in range(5)]
    count = sum(run.version for run in runs)
    quick.wait_for(count)
    assert 1 == len(slow.entries)
    assert 5 == len(any_store._entry_feed._tails[ALL_RUNS]._items)
    slow.may_go_on.set()
    slow.wait_for(count)
    assert quick.entries == slow.entries


def test_a_watcher_far_behind_where_nothing_is_left(
    any_store: Store, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that was between its cursor and the feed was pruned: it waits, and does not read again and again."""
    monkeypatch.setattr(feed, "_MOST_KEPT", 2)
    reader = Watching(any_store)
    wait_for_watchers(any_store, 1)
    old = bring_in_store(any_store, "completed")
    reader.wait_for(old.version)
    clock.advance(10)
    assert 1 == any_store.prune(0)
    behind = Watching(any_store, after="")
    wait_for_watchers(any_store, 2)
    run = any_store.create(**names())
    behind.wait_for(1)
    assert [(run.id, 1)] == [(entry.run_id, entry.version) for entry in behind.entries]


# --- many watchers ----------------------------------------------------------------------------------------------------


def test_every_watcher_has_every_entry_once_while_others_write(
    store: Store, store_url: str, clock: ManualClock
) -> None:
    """Threads and coroutines, of one run and of all, that begin before, meanwhile and afterwards."""
    runs, writers = 24, 4
    run_ids = [store.create(**names(id=f"run_{number}", thread_id=f"thread_{number}")).id for number in range(runs)]

    def write(first: int) -> None:
        with open_store(store_url) as own:
            for event in ("start", "request_cancel", "confirm_cancel"):
                for run_id in run_ids[first::writers]:
                    ask_store(own, run_id, event)

    got: dict[str, list[int]] = defaultdict(list)

    async def watch(run_id: str) -> None:
        async for entry in store.aio.watch(run_id):
            got[run_id].append(entry.version)

    async def watch_each() -> None:
        async with asyncio.TaskGroup() as group:
            for run_id in run_ids:
                group.create_task(watch(run_id))
                await asyncio.sleep(0.002)

    everything = Watching(store, after="")
    before = [Watching(store, run_id) for run_id in run_ids[::2]]
    threads = [threading.Thread(target=write, args=(first,)) for first in range(writers)]
    for thread in threads:
        thread.start()
    asyncio.run(watch_each())
    for each in before:
        each.join()
    for thread in threads:
        thread.join()
    assert {run_id: [1, 2, 3, 4] for run_id in run_ids} == got
    assert [[1, 2, 3, 4]] * (runs // 2) == [each.wait_for(4) for each in before]
    everything.wait_for(4 * runs)
    assert 4 * runs == len({(entry.run_id, entry.version) for entry in everything.entries})
    assert everything.entries == [*store.entries(limit=1000)]


def test_one_thread_reads_for_all(store: Store, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A watcher reads once for itself, when it begins; however many there are, a move is then read by the feed."""
    run_ids = [bring_in_store(store, "in_progress", id=f"run_{number}").id for number in range(20)]
    watchers = [Watching(store, run_id) for run_id in (*run_ids, *run_ids)]
    wait_for_watchers(store, 40)
    assert store._readers is not None
    read, readers = store._readers.read, set[str]()

    def noted(look: Callable[[Any], Any]) -> Any:
        readers.add(threading.current_thread().name)
        return read(look)

    monkeypatch.setattr(store._readers, "read", noted)
    for run_id in run_ids:
        ask_store(store, run_id, "request_cancel")
    for each in watchers:
        assert [1, 2, 3] == each.wait_for(3)
    assert {"runstate-entry-feed"} == readers


def test_a_move_wakes_the_watchers_of_its_run_alone(store: Store, clock: ManualClock) -> None:
    run_ids = [bring_in_store(store, "in_progress", id=f"run_{number}").id for number in range(5)]
    watchers = [Watching(store, run_id) for run_id in run_ids]
    wait_for_watchers(store, 5)
    waiters = {key: tail.waiters[0] for key, tail in store._entry_feed._tails.items()}
    ask_store(store, run_ids[0], "request_cancel")
    watchers[0].wait_for(3)
    wait_for_watchers(store, 5)
    same = [key for key, tail in store._entry_feed._tails.items() if tail.waiters[0] is waiters[key]]
    assert 4 == len(same)


def test_the_thread_ends_with_the_last_watcher(any_store: Store, clock: ManualClock) -> None:
    """And starts again with the next."""
    for number in range(2):
        run = bring_in_store(any_store, "in_progress", id=f"run_{number}")
        watching = Watching(any_store, run.id)
        wait_for_watchers(any_store, 1)
        thread = any_store._entry_feed._thread
        assert thread is not None
        any_store.complete(run.id)
        watching.join()
        assert watching.error is None
        assert {} == any_store._entry_feed._tails
        wait_until(lambda: not thread.is_alive(), "the thread to end")  # noqa: B023
    assert any_store._entry_feed._thread is None


def test_a_watcher_that_is_abandoned(any_store: Store, clock: ManualClock) -> None:
    """A generator that the garbage collector deletes, and a coroutine that is cancelled, leave nothing."""
    run = bring_in_store(any_store, "in_progress")
    watched = any_store.watch(run.id, after=1)
    assert 2 == next(watched).version
    any_store.request_cancel(run.id)
    assert 3 == next(watched).version
    assert 1 == len(any_store._entry_feed._tails)
    circle: list[Any] = [watched]
    circle.append(circle)
    del watched, circle
    gc.collect()
    assert {} == any_store._entry_feed._tails

    async def watch() -> None:
        async for _ in any_store.aio.watch(run.id):
            pass

    async def give_up() -> None:
        task = asyncio.create_task(watch())
        while not waiting(any_store):
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(give_up())
    assert {} == any_store._entry_feed._tails


# --- transactions of others -------------------------------------------------------------------------------------------


def test_an_open_transaction_delays_the_entries_of_all_runs_and_no_run(
    store: Store, store_url: str, clock: ManualClock
) -> None:
    """PostgreSQL: the entries of all runs wait for older transactions. The watcher of a run does not."""
    with Prompt(store_url) as slow:
        if slow.is_sqlite:
            pytest.skip("its transactions commit in the order they are counted")
        run = store.create(**names())
        wait_until(lambda: len(store.entries()) == 1, "the entry")
        one, everything = Watching(store, run.id), Watching(store, after="")
        everything.wait_for(1)
        wait_for_watchers(store, 2)
        slow.run("BEGIN")
        slow.run(*insert(birth("late")))
        store.start(run.id)
        assert [1, 2] == one.wait_for(2)
        assert 1 == len(everything.entries)
        slow.run("COMMIT")
        assert [1, 1, 2] == everything.wait_for(3)
        store.complete(run.id)
        one.join()


def test_what_an_older_transaction_commits_is_found(store: Store, store_url: str, clock: ManualClock) -> None:
    """PostgreSQL: a transaction that was open when the feed read, and has a smaller number than what it read."""
    with Prompt(store_url) as slow:
        if slow.is_sqlite:
            pytest.skip("its transactions commit in the order they are counted")
        first, second = (store.create(**names(id=f"run_{number}")) for number in range(2))
        watchers = [Watching(store, run.id) for run in (first, second)]
        wait_for_watchers(store, 2)
        slow.run("BEGIN")
        with store.within(slow.connection) as bound:
            bound.start(first.id)
        for _ in range(2):  # the feed reads beyond it, more than once
            store.create(**names())
        store.start(second.id)
        assert [1, 2] == watchers[1].wait_for(2)
        assert [1] == watchers[0].wait_for(1)
        slow.run("COMMIT")
        assert [1, 2] == watchers[0].wait_for(2)
        for run in (first, second):
            store.complete(run.id)


def test_more_changes_than_one_read_returns(store: Store, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The feed reads again at once."""
    monkeypatch.setattr(entry_feed, "_MOST_ROWS", 3)
    runs = [bring_in_store(store, "in_progress", id=f"run_{number}") for number in range(6)]
    watchers = [Watching(store, run.id) for run in runs]
    wait_for_watchers(store, 6)
    with read_nothing(store):
        for run in runs:
            store.complete(run.id)
    for each in watchers:
        each.join()
    assert [[1, 2, 3]] * 6 == [each.wait_for(3) for each in watchers]


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_watchers_are_told_of_an_outage(store: Store, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads and coroutines that wait raise the error. They resume where they were."""
    run = store.create(**names())
    watching = Watching(store, run.id)
    wait_for_watchers(store, 1)

    def fail(look: object) -> None:
        raise StoreUnavailable("the server is away")

    async def watch() -> None:
        async for _ in store.aio.watch(run.id):
            wait_until_waiting.set()

    wait_until_waiting = threading.Event()
    told: list[StoreError] = []

    def run_watch() -> None:
        try:
            asyncio.run(watch())
        except StoreError as error:
            told.append(error)

    coroutine = threading.Thread(target=run_watch)
    coroutine.start()
    wait_for_watchers(store, 2)
    with monkeypatch.context() as patch:
        patch.setattr(store._entry_feed, "_read", fail)
        store._entry_feed._wake.set()
        watching.join()
        coroutine.join()
    assert isinstance(watching.error, StoreUnavailable)
    assert isinstance(told[0], StoreUnavailable)
    assert "the server is away" == str(told[0]) == str(watching.error)
    resumed = Watching(store, run.id, after=1)
    wait_for_watchers(store, 1)
    store.start(run.id)
    assert [2] == resumed.wait_for(1)
    store.complete(run.id)
    resumed.join()


def test_a_store_that_is_closed(any_url: str, clock: ManualClock) -> None:
    """All that watch raise, and the thread ends."""
    store = open_store(any_url)
    run = store.create(**names())
    one, everything = Watching(store, run.id), Watching(store)
    wait_for_watchers(store, 2)
    thread = store._entry_feed._thread
    store.close()
    for watching in (one, everything):
        watching.join()
        assert isinstance(watching.error, StoreError)
        assert "is closed" in str(watching.error)
    assert thread is not None
    assert not thread.is_alive()
