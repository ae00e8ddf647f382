"""What is asked without changing anything: lists and their pages, histories, and the entries of all runs in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from runstate import InvalidRun, ManualClock, RunStatus
from runstate.errors import RunNotFound
from runstate.store import Entry, Store, open_store
from runstate.store._api import queries
from tests.store.support import Prompt, ask_store, birth, bring_in_store, insert, names
from tests.support.lifecycle import NOW, STATUSES, WAYS
from tests.support.postgres import LIMIT, wait_until

# --- lists ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def many(any_store: Store, clock: ManualClock) -> list[str]:
    """The ids of runs of every status, in three threads and two queues, a second apart; oldest first."""
    found = []
    for number in range(27):
        run = bring_in_store(
            any_store,
            STATUSES[number % 9],
            id=f"run_{number}",
            thread_id=f"thread_{number % 3}",
            queue="slow" if number % 2 else "fast",
            metadata={"n": str(number % 4), "odd": "\"'%é"} if number % 5 else {},
        )
        found.append(run.id)
        clock.advance(1)
    return found


FILTERS: list[tuple[dict[str, Any], Callable[[int], bool]]] = [
    ({}, lambda n: True),
    ({"thread_id": "thread_1"}, lambda n: n % 3 == 1),
    ({"thread_id": "thread"}, lambda n: False),
    ({"queue": "slow"}, lambda n: n % 2 == 1),
    ({"status": "queued"}, lambda n: n % 9 == 0),
    ({"status": RunStatus.EXPIRED}, lambda n: n % 9 == 8),
    ({"status": ["queued", RunStatus.FAILED, "queued"]}, lambda n: n % 9 in (0, 6)),
    ({"status": []}, lambda n: False),
    ({"status": iter(STATUSES)}, lambda n: True),
    ({"metadata": {}}, lambda n: True),
    ({"metadata": {"n": "2"}}, lambda n: n % 4 == 2 and n % 5 != 0),
    ({"metadata": {"n": "2", "odd": "\"'%é"}}, lambda n: n % 4 == 2 and n % 5 != 0),
    ({"metadata": {"n": "2", "odd": "even"}}, lambda n: False),
    ({"metadata": {"m": "2"}}, lambda n: False),
    ({"metadata": {"n.x": "2"}}, lambda n: False),
    ({"metadata": {"$.n": "2"}}, lambda n: False),
    ({"older_than_s": 20}, lambda n: n <= 7),
    ({"younger_than_s": 20}, lambda n: n > 7),
    ({"older_than_s": 20, "younger_than_s": 22}, lambda n: 5 < n <= 7),
    ({"older_than_s": 0.5}, lambda n: True),
    ({"thread_id": "thread_1", "queue": "slow", "status": "queued", "metadata": {"n": "3"}}, lambda n: n == 27),
    ({"thread_id": "thread_1", "queue": "slow", "older_than_s": 5}, lambda n: n % 3 == 1 and n % 2 == 1 and n <= 22),
]


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_filters_and_pages(any_store: Store, many: list[str], order: Any) -> None:
    """Each filter finds its runs, in either order; pages of any size, forward and backward, make up the whole."""
    for given, wanted in FILTERS:
        if "status" in given and not isinstance(given["status"], str):
            given = {**given, "status": list(STATUSES) if hasattr(given["status"], "__next__") else given["status"]}
        expected = [run_id for number, run_id in enumerate(many) if wanted(number)]
        if order == "desc":
            expected.reverse()
        whole = any_store.list(**given, order=order, limit=100)
        assert expected == [run.id for run in whole.data], given
        assert not whole.has_more
        assert [any_store.get(run_id) for run_id in expected] == list(whole.data)
        for limit in (1, 2, 5, 26, 27):
            forward = walk(any_store, limit, order, given)
            assert expected == forward, (given, limit)
            assert expected == walk_back(any_store, limit, order, given), (given, limit)


def walk(store: Store, limit: int, order: Any, given: dict[str, Any]) -> list[str]:
    """Return the ids of all pages, each begun behind the last."""
    page = store.list(**given, order=order, limit=limit)
    found = [run.id for run in page.data]
    while page.has_more:
        assert limit == len(page.data)
        page = store.list(**given, order=order, limit=limit, after=page.last_id)
        found += [run.id for run in page.data]
    if found:
        assert () == store.list(**given, order=order, limit=limit, after=found[-1]).data
    return found


def walk_back(store: Store, limit: int, order: Any, given: dict[str, Any]) -> list[str]:
    """Return the same from the other end: the last run, then each page that ends before the last."""
    last = store.list(**given, order="desc" if order == "asc" else "asc", limit=1).data
    found = [run.id for run in last]
    more = bool(found)
    while more:
        page = store.list(**given, order=order, limit=limit, before=found[0])
        found = [run.id for run in page.data] + found
        more = page.has_more
        assert not more or limit == len(page.data)
    return found


def test_a_page_between(any_store: Store, many: list[str]) -> None:
    """After one and before another: what lies between, from the first on."""
    page = any_store.list(order="asc", after="run_3", before="run_20", limit=10)
    assert many[4:14] == [run.id for run in page.data]
    assert page.has_more
    page = any_store.list(after="run_20", before="run_3", limit=100)
    assert many[19:3:-1] == [run.id for run in page.data]
    assert ("run_19", "run_4", False) == (page.first_id, page.last_id, page.has_more)
    assert () == any_store.list(after="run_3", before="run_20").data
    assert () == any_store.list(after="run_3", before="run_3").data


def test_an_empty_page(any_store: Store) -> None:
    """It has no ids, and no more."""
    page = any_store.list()
    assert ((), None, None, False) == (page.data, page.first_id, page.last_id, page.has_more)


def test_pages_have_a_size(any_store: Store) -> None:
    """Twenty if nothing else is asked for; one to a hundred."""
    any_store.create_many([names()] * 101)
    assert (20, True) == (len(any_store.list().data), any_store.list().has_more)
    assert (100, True) == (len(any_store.list(limit=100).data), any_store.list(limit=100).has_more)


WRONG: list[tuple[dict[str, Any], str]] = [
    *(({"limit": bad}, "limit: expected 1 to 100") for bad in (0, 101, -1, "5", None, True, 1.0)),
    *(({"order": bad}, "order: expected 'asc' or 'desc'") for bad in ("up", None, 1, "")),
    *(({name: bad}, f"{name}: ") for name in ("thread_id", "queue", "after", "before") for bad in (5, "\0", "\ud800")),
    *(
        ({"metadata": bad}, "metadata")
        for bad in (5, "a", {"a": 5}, {"\0": "a"}, {"a": "\0"}, {"a": "\ud800"}, {5: "a"})
    ),
    *(
        ({name: bad}, f"{name}: expected a number")
        for name in ("older_than_s", "younger_than_s")
        for bad in ("1", -1, float("nan"), float("inf"), 10**400, True, [1])
    ),
]


def test_what_cannot_be_listed(any_store: Store) -> None:
    """Impossible arguments are refused with a sentence."""
    any_store.create(**names(metadata={"a": "b"}))
    for given, sentence in WRONG:
        with pytest.raises(InvalidRun) as refused:
            any_store.list(**given)
        assert sentence in str(refused.value), given


def test_unknown_places_and_statuses(any_store: Store) -> None:
    """A run that is none is no place in a list, and a status that is none names the nine."""
    with pytest.raises(RunNotFound, match="No run found with id 'run_1'"):
        any_store.list(after="run_1")
    with pytest.raises(RunNotFound, match="No run found with id 'run_1'"):
        any_store.list(before="run_1")
    for status in ("paused", ["queued", "paused"], 5, [None]):
        with pytest.raises((ValueError, TypeError)):
            any_store.list(status=status)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown status 'paused'; the nine are queued, "):
        any_store.list(status="paused")


def test_counts(any_store: Store, many: list[str]) -> None:
    """How many stand in each of the nine statuses, those with none among them."""
    assert dict.fromkeys(STATUSES, 3) == any_store.counts()
    any_store.start("run_0")
    any_store.start("run_9")
    any_store.start("run_18")
    assert (0, 6) == (any_store.counts()[RunStatus.QUEUED], any_store.counts()[RunStatus.IN_PROGRESS])


@pytest.mark.parametrize("method", ["get", "history"])
def test_nobody_there(any_store: Store, method: str) -> None:
    """A run that is none is said to be none; an id that cannot be one is refused."""
    with pytest.raises(RunNotFound, match=r"No run found with id 'run_1'\."):
        getattr(any_store, method)("run_1")
    for bad in (5, None, "\0", "\ud800"):
        with pytest.raises(InvalidRun, match="run_id: "):
            getattr(any_store, method)(bad)


def test_histories(any_store: Store, clock: ManualClock) -> None:
    """Entries come in order, from the birth or after a version."""
    run = bring_in_store(any_store, "cancelled")
    whole = any_store.history(run.id)
    assert [None, *WAYS["cancelled"]] == [entry.event for entry in whole]
    for version in range(6):
        assert whole[version:] == any_store.history(run.id, after_version=version)
    for bad in (-1, "1", None, True, 2**63):
        with pytest.raises(InvalidRun, match="after_version: "):
            any_store.history(run.id, after_version=bad)  # type: ignore[arg-type]


# --- the entries of all runs ------------------------------------------------------------------------------------------


def follow(store: Store, cursor: str = "", limit: int = 100) -> list[Entry]:
    """Return all entries after a place, page by page."""
    found: list[Entry] = []
    while entries := store.entries(cursor, limit=limit):
        assert len(entries) <= limit
        found += entries
        cursor = entries[-1].cursor
    return found


def settled(store: Store, count: int) -> list[Entry]:
    """Return all entries once there are so many: on PostgreSQL an entry waits for older transactions of anybody."""
    wait_until(lambda: len(follow(store)) >= count, f"{count} entries")
    return follow(store)


def test_all_entries_in_order(any_store: Store, clock: ManualClock) -> None:
    """They are the entries of all histories, each once, each run's in order; pages of any size make up the whole."""
    runs = [bring_in_store(any_store, status) for status in STATUSES]
    count = sum(run.version for run in runs)
    whole = settled(any_store, count)
    assert count == len(whole) == len({(entry.run_id, entry.version) for entry in whole})
    for run in runs:
        assert list(any_store.history(run.id)) == [entry for entry in whole if entry.run_id == run.id]
    assert [run.id for run in runs] == [entry.run_id for entry in whole if entry.event is None]
    for limit in (1, 2, 7, 100, 5000):
        assert whole == follow(any_store, limit=limit)
    for place, entry in enumerate(whole):
        assert whole[place + 1 :] == follow(any_store, entry.cursor)


@pytest.mark.parametrize(("width", "most"), [(1, 1), (1, 2), (2, 3), (64, 5), (2**40, 10**9)])
def test_pages_are_the_same_however_many_transactions_are_looked_at(
    any_store: Store, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, width: int, most: int
) -> None:
    """Also those of a transaction with more entries than are looked at, and beyond all transactions."""
    many = any_store.create_many([names(thread_id=f"thread_{number}") for number in range(12)])
    one = bring_in_store(any_store, "cancelled")
    whole = settled(any_store, len(many) + one.version)
    monkeypatch.setattr(queries, "_FIRST_WIDTH", width)
    monkeypatch.setattr(queries, "_MOST_LOOKED_AT", most)
    for limit in (1, 5, 1000):
        assert whole == follow(any_store, limit=limit)
    for cursor in ("9223372036854775807", f"{2**62}.{2**63 - 1}.0"):
        assert () == any_store.entries(cursor)


def test_only_what_comes(any_store: Store, clock: ManualClock) -> None:
    """From the latest place on, a watcher sees only what is committed afterwards."""
    assert () == any_store.entries(any_store.latest_cursor())
    settled(any_store, bring_in_store(any_store, "completed").version)
    cursor = any_store.latest_cursor()
    assert () == any_store.entries(cursor)
    run = any_store.create(**names())
    wait_until(lambda: bool(any_store.entries(cursor)), "an entry")
    assert [(run.id, 1)] == [(entry.run_id, entry.version) for entry in any_store.entries(cursor)]


def test_places_outlive_a_prune(any_store: Store, clock: ManualClock) -> None:
    """A watcher whose last entry was pruned sees everything that comes, and nothing twice."""
    settled(any_store, bring_in_store(any_store, "completed").version)
    cursor = follow(any_store)[-1].cursor
    latest = any_store.latest_cursor()
    clock.advance(10)
    assert 1 == any_store.prune(0)
    run = any_store.create(**names())
    settled(any_store, 1)
    assert [(run.id, 1)] == [(entry.run_id, entry.version) for entry in any_store.entries(cursor)]
    assert [(run.id, 1)] == [(entry.run_id, entry.version) for entry in any_store.entries(latest)]


def test_a_place_that_is_none(any_store: Store) -> None:
    """What was never a place is refused."""
    wrong: list[Any] = [5, None, "x", "-1", "1.2.3.4", "1.x", "9" * 30, "٣", "1 ", " ", ".", "1.."]
    for cursor in wrong:
        with pytest.raises(InvalidRun, match="after: expected"):
            any_store.entries(cursor)


def test_a_number_of_entries(any_store: Store) -> None:
    """At least one; many thousand are cut to a thousand."""
    wrong: list[Any] = [0, -1, "5", None, True]
    for limit in wrong:
        with pytest.raises(InvalidRun, match="limit: expected"):
            any_store.entries(limit=limit)


def test_every_entry_once_while_others_write(store: Store, store_url: str, clock: ManualClock) -> None:
    """A watcher that reads on while many write misses none of their entries and sees none twice."""
    writers, each = 4, 30

    def write(number: int) -> None:
        with open_store(store_url) if number % 2 else Kept(store) as own:
            for turn in range(each):
                run = own.create(**names(thread_id=f"thread_{number}"))
                for event in ("start", "complete") if turn % 2 else ("start", "request_cancel", "confirm_cancel"):
                    ask_store(own, run.id, event)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    expected = writers * each // 2 * (3 + 4)
    seen: list[Entry] = []
    cursor, until = "", time.monotonic() + LIMIT
    while len(seen) < expected and time.monotonic() < until:
        entries = store.entries(cursor, limit=17)
        seen += entries
        cursor = entries[-1].cursor if entries else cursor
    for thread in threads:
        thread.join()
    assert expected == len(seen) == len({(entry.run_id, entry.version) for entry in seen})
    assert () == store.entries(cursor)
    versions: dict[str, int] = {}
    for entry in seen:
        assert versions.get(entry.run_id, 0) + 1 == entry.version
        versions[entry.run_id] = entry.version
    assert seen == follow(store)


class Kept:
    """A store that whoever leaves the block must not close."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __enter__(self) -> Store:
        return self._store

    def __exit__(self, *_: object) -> None:
        return None


def test_a_transaction_held_open(store: Store, store_url: str, clock: ManualClock) -> None:
    """PostgreSQL: what a transaction that began early commits late is not skipped, though later ones came first."""
    with Prompt(store_url) as slow:
        if slow.is_sqlite:
            pytest.skip("its transactions commit in the order they are counted")
        before = store.create(**names(id="before"))
        settled(store, 1)
        slow.run("BEGIN")
        slow.run(*insert(birth("late")))
        for number in range(3):
            store.create(**names(id=f"quick_{number}"))
        seen = follow(store)
        assert [before.id] == [entry.run_id for entry in seen]  # the others wait for the one that is under way
        cursor = seen[-1].cursor
        assert () == store.entries(cursor)
        latest = store.latest_cursor()
        slow.run("COMMIT")
        expected = {"late", "quick_0", "quick_1", "quick_2"}
        settled(store, 5)
        assert expected == {entry.run_id for entry in follow(store, cursor)}
        assert expected == {entry.run_id for entry in follow(store, latest)}
        assert NOW == store.get("late").created_at


def test_a_transaction_that_gives_up(store: Store, store_url: str, clock: ManualClock) -> None:
    """PostgreSQL: a transaction that is rolled back leaves no gap that anybody waits for."""
    with Prompt(store_url) as slow:
        if slow.is_sqlite:
            pytest.skip("its transactions commit in the order they are counted")
        slow.run("BEGIN")
        slow.run(*insert(birth("never")))
        store.create(**names(id="quick"))
        assert [] == follow(store)
        slow.run("ROLLBACK")
        assert ["quick"] == [entry.run_id for entry in settled(store, 1)]
