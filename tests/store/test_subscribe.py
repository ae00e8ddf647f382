"""Who listens for work is not woken by each commit of the others; who follows runs is."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from runstate.store import Change, Store, open_store
from runstate.store._postgres.notifier import PostgresNotifier
from tests.store.support import names
from tests.support.postgres import wait_until

WORK = Change.QUEUED | Change.CANCELLING


class Listener:
    """Counts the notifications that it receives, by their change."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.heard: list[Change] = []

    def __call__(self, change: Change) -> None:
        with self._lock:
            self.heard.append(change)

    def has(self, change: Change) -> Callable[[], bool]:
        return lambda: any(change & heard for heard in self.heard)


@pytest.mark.server
def test_a_listener_for_work_hears_of_queued_runs_and_cancels_alone(store_url: str) -> None:
    """Moves of other processes do not wake it. Of its own process it hears everything, by a function call."""
    if store_url.startswith("sqlite"):
        pytest.skip("SQLite has one counter of commits for all changes")
    worker, reader = Listener(), Listener()
    with (
        open_store(store_url) as one,
        open_store(store_url) as two,
        open_store(store_url) as other,
        one.subscribe(worker, WORK),
        two.subscribe(reader),
    ):
        run = other.create(**names())
        for listener in (worker, reader):  # a new listener hears of all changes first
            wait_until(lambda heard=listener.heard: Change.ENTRY | Change.QUEUED in heard, "the run")  # type: ignore[misc]
        worker.heard.clear()
        reader.heard.clear()
        lease = other.open_lease()
        (claim,) = other.claim(lease)
        wait_until(reader.has(Change.ENTRY), "the reader hears of the claim")
        assert [] == worker.heard
        other.request_cancel(run.id)
        wait_until(worker.has(Change.CANCELLING), "the worker hears of the cancel")
        assert claim.run.id == run.id


@pytest.mark.server
def test_a_reader_that_comes_later_hears_from_then_on(store_url: str) -> None:
    """A process that has a worker may follow a run later, and stop doing so."""
    worker, reader, again = Listener(), Listener(), Listener()
    with open_store(store_url) as one, open_store(store_url) as other, one.subscribe(worker, WORK):
        lease = other.open_lease()
        for listener in (reader, again):
            other.create(**names())
            with one.subscribe(listener):
                wait_until(lambda listener=listener: bool(listener.heard), "it looks once when it begins")  # type: ignore[misc]
                listener.heard.clear()
                assert other.claim(lease)
                wait_until(listener.has(Change.ENTRY), "it hears of the claim")


def test_within_a_process_everything_is_heard(store: Store) -> None:
    worker = Listener()
    with store.subscribe(worker, WORK):
        store.create(**names())
        assert worker.has(Change.QUEUED)()


@pytest.mark.server
def test_entries_are_not_told_of_while_nobody_follows_runs(store_url: str) -> None:
    """Each notification is a transaction. The first reader is heard of at once, whatever was known before."""
    if store_url.startswith("sqlite"):
        pytest.skip("it has no notifications")
    reader = Listener()
    with open_store(store_url) as one, open_store(store_url) as other, other.subscribe(Listener(), WORK):
        notifier = other._notifier
        assert isinstance(notifier, PostgresNotifier)
        run = other.create(**names())
        lease = other.open_lease()
        assert other.claim(lease)
        wait_until(lambda: notifier._no_readers_until > 0, "it is known that nobody follows runs")
        with one.subscribe(reader):
            wait_until(lambda: notifier._no_readers_until < 0, "the reader is heard of")
            reader.heard.clear()
            other.complete(run.id)
            wait_until(reader.has(Change.ENTRY), "the reader hears of the move")
