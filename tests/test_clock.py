"""The clock: the only reader of time, and one for the whole process."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from freezegun import freeze_time

from runstate import ManualClock, Run, SystemClock, use_clock
from runstate.clock import current, monotonic, override_us
from runstate.store import open_store
from runstate.worker import Worker
from tests.support.lifecycle import NOW, new_run

IN_2030 = 1_893_456_000
"""What the clock says under `freeze_time("2030-01-01")`."""


def test_a_manual_clock_stands_still() -> None:
    """It tells the time it was given until it is moved, also backwards."""
    clock = ManualClock(100)
    assert (100.0, 100.0) == (clock.time(), clock.time())
    clock.advance(5)
    assert 105.0 == clock.time()
    clock.advance(-10)
    assert 95.0 == clock.time()
    clock.now = 7
    assert 7.0 == clock.time()


def test_the_system_clock_is_the_machines() -> None:
    """Without another clock a run is born at the machine's time."""
    before = int(time.time())
    born = new_run(at=None).created_at
    assert before <= born <= int(SystemClock().time())


def test_runs_read_the_clock_in_use(clock: ManualClock) -> None:
    """Birth and moves without `at=` take the clock's time, in whole seconds."""
    clock.now = NOW + 0.9
    run = new_run(at=None)
    assert (NOW, NOW + 600) == (run.created_at, run.expires_at)
    clock.advance(5.2)
    run.start()
    assert NOW + 6 == run.started_at


def test_blocks_nest() -> None:
    """After a block the clock before it is read again."""
    with use_clock(ManualClock(1)):
        with use_clock(ManualClock(2)):
            assert 2 == new_run(at=None).created_at
        assert 1 == new_run(at=None).created_at


def test_an_error_does_not_leave_the_clock_behind() -> None:
    """A block that raises puts the clock back all the same."""
    with pytest.raises(KeyError), use_clock(ManualClock(1)):
        raise KeyError
    assert new_run(at=None).created_at > NOW - 10**9


def test_all_threads_see_one_time(clock: ManualClock) -> None:
    """A clock put in place by one thread is read by all."""
    clock.now = 42
    born: list[Run] = []
    thread = threading.Thread(target=lambda: born.append(new_run(at=None)))
    thread.start()
    thread.join()
    assert [42] == [run.created_at for run in born]


def test_a_manual_clock_shows_where_it_stands() -> None:
    """Its repr is how to make it."""
    assert "ManualClock(5)" == repr(ManualClock(5))


# --- freezegun, which puts its own functions into the modules that hold those of `time` -------------------------------


def test_freezegun_moves_the_time_of_runs() -> None:
    """Birth and moves under `freeze_time` have its time, and afterwards the machine's again."""
    with freeze_time("2030-01-01") as frozen:
        run = new_run(at=None)
        frozen.tick(5)
        run.start()
    assert (IN_2030, IN_2030 + 5) == (run.created_at, run.started_at)
    assert new_run(at=None).created_at <= int(SystemClock().time())


def test_freezegun_nests_with_a_clock_of_runs() -> None:
    """A clock of runs goes before a frozen time, on either side of it, and each comes back as the other ends."""
    with freeze_time("2030-01-01"):
        with use_clock(ManualClock(1)):
            assert 1 == new_run(at=None).created_at
        assert IN_2030 == new_run(at=None).created_at
    with use_clock(ManualClock(1)):
        with freeze_time("2030-01-01"):
            assert 1 == new_run(at=None).created_at, "a clock of runs is asked for by name, and stays"
        assert 1 == new_run(at=None).created_at


def test_freezegun_may_end_before_the_clock_that_came_after_it() -> None:
    """A clock's block never puts back a time that has ended meanwhile, nor one that was replaced."""
    frozen = freeze_time("2030-01-01")
    frozen.start()
    with use_clock(ManualClock(1)):
        frozen.stop()
    before = int(SystemClock().time())
    assert before <= new_run(at=None).created_at <= int(SystemClock().time())
    with use_clock(ManualClock(1)):
        frozen.start()
    assert IN_2030 == new_run(at=None).created_at
    frozen.stop()


def test_freezegun_is_a_clock_that_was_moved() -> None:
    """A database's own clock is not asked under `freeze_time`, as under any clock of a test's."""
    assert override_us() is None
    with freeze_time("2030-01-01"):
        assert IN_2030 * 1_000_000 == override_us()
    assert override_us() is None


def test_freezegun_moves_stored_runs_and_not_leases(tmp_path: Path) -> None:
    """A worker under `freeze_time(real_asyncio=True)` drives a run whose times are the frozen ones; leases are real."""
    with freeze_time("2030-01-01", real_asyncio=True), open_store(f"sqlite:///{tmp_path}/runs.db") as store:
        before = monotonic()
        while monotonic() == before:
            pass  # it goes on
        run = store.create(thread_id="thread_1", assistant_id="asst_1", model="gpt-4o")
        Worker(store, lambda ctx: None).run(until_idle=True)
        run = store.get(run.id)
        assert (IN_2030, IN_2030, IN_2030) == (run.created_at, run.started_at, run.completed_at)
        assert {IN_2030 * 1_000_000} == {entry.at_us for entry in store.history(run.id)}


def test_a_number_is_no_clock() -> None:
    """The sentence names the clock that takes one, and the clock in use is the same as before."""
    before = current.time
    with (
        pytest.raises(TypeError, match=r"expected a clock, such as ManualClock\(1_700_000_000\), got int"),
        use_clock(1_700_000_000),  # type: ignore[type-var]
    ):
        pass
    assert before == current.time


def test_a_timedelta_is_no_number_of_seconds() -> None:
    """The clock has not moved."""
    clock = ManualClock(1.0)
    with pytest.raises(TypeError, match="seconds: expected a number, got timedelta"):
        clock.advance(timedelta(seconds=1))  # type: ignore[arg-type]
    assert 1.0 == clock.time()
