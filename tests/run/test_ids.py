"""Ids: how they are spelled, that they sort by time, and that no two are alike."""

from __future__ import annotations

import os
import re
import string
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from threading import Barrier, Thread

import pytest

from runstate import ManualClock, Run
from runstate.run import ids
from runstate.run.ids import new_run_id
from runstate.worker import Context
from tests.support.lifecycle import NOW

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
LAST = 839_299_365_868
"""The last whole second that ten digits hold, in the year 28566."""


def value(digits: str) -> int:
    """Return the number that digits of base 62 spell."""
    number = 0
    for digit in digits:
        number = number * 62 + ALPHABET.index(digit)
    return number


@pytest.fixture
def _no_pool() -> Iterator[None]:
    """Let a test begin and end without random characters in the pool."""
    ids._RANDOM.clear()
    yield
    ids._RANDOM.clear()


# --- how they are spelled ---------------------------------------------------------------------------------------------


def test_the_alphabet_sorts() -> None:
    """The digits of base 62 are in the order of ASCII, so strings of one length sort as the numbers they spell."""
    assert sorted(ALPHABET) == list(ALPHABET)
    assert 62 == len(set(ALPHABET))


def test_an_id_is_spelled_in_base_62() -> None:
    """An id of a run is `run_` and 24 digits of base 62: no hyphen, and no underscore after the first."""
    assert all(re.fullmatch(r"run_[0-9A-Za-z]{24}", new_run_id()) for _ in range(10_000))


def test_the_id_of_a_tool_call_is_spelled_in_base_62() -> None:
    """An id that the library makes for a tool call is `call_` and 24 such digits, and no two are alike."""
    made = {Context.tool_call("weather").id for _ in range(1_000)}
    assert 1_000 == len(made)
    assert all(re.fullmatch(r"call_[0-9A-Za-z]{24}", name) for name in made)


@pytest.mark.parametrize(
    "microseconds", [0, 1, 61, 62, 62**2 - 1, 62**2, 62**4 - 1, 62**4, NOW * 10**6, 62**8, 62**8 + 62**6, 62**9]
)
def test_the_first_ten_digits_are_the_microsecond(microseconds: int) -> None:
    """The ten digits after the prefix spell the microsecond that the id was made in."""
    made = new_run_id(microseconds / 1_000_000)
    assert int(microseconds / 1_000_000 * 1_000_000) == value(made[4:14])


def test_every_digit_is_as_likely_as_the_others() -> None:
    """The last 14 digits are random, each place by itself: the 62 digits are equally likely at each."""
    count = 62_000
    places: list[Counter[str]] = [Counter() for _ in range(14)]
    for _ in range(count):
        for place, digit in zip(places, new_run_id(NOW)[14:], strict=True):
            place[digit] += 1
    for place in places:
        assert set(ALPHABET) == set(place)
        # Chi squared with 61 degrees of freedom is above 180 by chance once in 10**13 times.
        assert sum((place[digit] - count / 62) ** 2 for digit in ALPHABET) / (count / 62) < 180


# --- their order ------------------------------------------------------------------------------------------------------


def test_ids_sort_by_time(clock: ManualClock) -> None:
    """Ids made later sort later, down to the microsecond, whatever the random part."""
    made = []
    for _ in range(2_000):
        made.append(new_run_id())
        clock.advance(0.000_002)
    assert sorted(made) == made


def test_ids_of_times_far_apart_sort() -> None:
    """Ids sort by time from 1970 to the last microsecond that they can hold, also where a digit is carried."""
    moments = sorted(
        {0, 1, 253_402_300_799 * 10**6, LAST * 10**6}
        | {62**power + more for power in range(2, 10) for more in (-1, 0, 1)}
    )
    made = [new_run_id(moment / 1_000_000) for moment in moments]
    assert all(one <= other for one, other in pairwise(name[:14] for name in made))
    apart = [new_run_id(second) for second in (0, 1, NOW, NOW + 1, 253_402_300_799, LAST)]
    assert sorted(apart) == apart


@pytest.mark.parametrize("at", [0, NOW, 253_402_300_799 - 600])
def test_every_second_has_ids(at: int) -> None:
    """A run can get an id in every second that a run can be born in."""
    made = Run.create(thread_id="t", assistant_id="a", model="m", at=at).id
    assert (28, at * 1_000_000) == (len(made), value(made[4:14]))


@pytest.mark.parametrize("now", [-0.000_001, -1, -NOW, LAST + 1, 1e300])
def test_a_time_that_does_not_fit_is_refused(now: float) -> None:
    """A time before 1970, or after the last that ten digits hold, is refused: its id would sort wrongly."""
    with pytest.raises(ValueError, match=rf"^an id holds a time from 0 to {LAST} seconds, not "):
        new_run_id(now)


# --- no two are alike -------------------------------------------------------------------------------------------------


def test_ids_are_unique() -> None:
    """100,000 ids of one moment are all different."""
    assert 100_000 == len({new_run_id(NOW) for _ in range(100_000)})


@pytest.mark.usefixtures("_no_pool")
def test_the_pool_is_refilled() -> None:
    """The pool of random characters is filled when it is empty, and then used up before the system is asked again."""
    first = new_run_id(NOW)
    left = list(ids._RANDOM)
    assert len(left) >= 256
    assert {14} == {len(each) for each in left}
    made = {new_run_id(NOW)[14:] for _ in left}
    assert set(left) == made
    assert [] == ids._RANDOM
    assert first[14:] not in made


@pytest.mark.usefixtures("_no_pool")
def test_threads_share_no_id() -> None:
    """Threads that take from the pool at once, and fill it at once, never get the same characters."""
    start, made = Barrier(8), list[str]()

    def make() -> None:
        start.wait()
        made.extend([new_run_id(NOW) for _ in range(5_000)])

    threads = [Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 40_000 == len(made) == len(set(made))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_repeats_no_id() -> None:
    """The pool is cleared in a child, which must not use the characters of its parent."""
    new_run_id()  # the pool is filled
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, "".join(new_run_id(1)[4:] for _ in range(600)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    theirs = {told[place : place + 24] for place in range(0, len(told), 24)}
    ours = {new_run_id(1)[4:] for _ in range(600)}
    assert (600, 600, 1200) == (len(theirs), len(ours), len(theirs | ours))


def test_a_time_before_1970_is_refused_also_by_the_first_call() -> None:
    """The first digits of an id are kept from call to call. At first there are none."""
    code = "from runstate import new_run_id; new_run_id(-1.0)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ValueError: an id holds a time from 0 to " in ended.stderr
