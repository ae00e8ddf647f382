"""The clock: the only reader of time, and one for the whole process."""

from __future__ import annotations

import threading
import time

import pytest

from runstate import ManualClock, Run, SystemClock, use_clock
from tests.support import NOW, new_run


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
