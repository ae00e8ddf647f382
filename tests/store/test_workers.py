"""Who is at work, and runs by the beginning of their ids."""

from __future__ import annotations

import pytest

from runstate.errors import InvalidRun
from runstate.store import Store
from tests.store.support import names


def test_workers_at_work_are_told_with_their_runs(store: Store) -> None:
    busy, idle, gone = (store.open_lease(name) for name in ("busy", "idle", "gone"))
    for _ in range(3):
        store.create(**names())
    store.claim(busy, 2)
    store.claim(gone)
    store.close_lease(gone)
    first, second = store.workers()
    assert [("busy", 2), ("idle", 0)] == [(worker.name, worker.runs) for worker in (first, second)]
    assert first.began_at_us < first.lease_until_us
    store.close_lease(idle)
    assert ["busy"] == [worker.name for worker in store.workers()]


def test_ids_are_found_by_their_beginning(store: Store) -> None:
    for run_id in ("run_a1", "run_a2", "run_b", "RUN_a"):
        store.create(**names(id=run_id))
    assert ("run_a1", "run_a2") == store.matching_ids("run_a")
    assert ("run_b",) == store.matching_ids("run_b")
    assert () == store.matching_ids("run_c")
    assert ("run_a1",) == store.matching_ids("run_", limit=1)
    with pytest.raises(InvalidRun):
        store.matching_ids("")
