"""The threads of plain handlers: all that they return is taken, once, in the loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from typing import Any

from runstate.worker._thread_pool import DaemonThreadPool
from tests.support.postgres import wait_until
from tests.worker.support import limited


def _count(taken: Counter[int], number: int) -> None:
    taken[number] += 1


class _Counted(DaemonThreadPool[int]):
    """A crew that counts how often a thread has asked whether the loop is about to look, the last thing it does."""

    asked = 0

    @property
    def _wake_pending(self) -> bool:
        if threading.current_thread() is not threading.main_thread():
            with _COUNTING:
                self.asked += 1
        return self._has_rung

    @_wake_pending.setter
    def _wake_pending(self, rung: bool) -> None:
        self._has_rung = rung

    def stand_still(self, count: int) -> None:
        """Block the loop until so many calls have returned, and their threads have nothing more to do."""
        wait_until(lambda: self.asked >= count, f"{count} calls")


_COUNTING = threading.Lock()


async def _until_taken(taken: Counter[int], count: int) -> None:
    while len(taken) < count:
        await asyncio.sleep(0.001)


@limited
async def test_all_that_is_returned_is_taken_once_in_the_loop() -> None:
    """However the threads' ends fall between the looks of the loop."""
    here = threading.get_ident()
    taken: Counter[int] = Counter()
    elsewhere: list[int] = []

    def work(number: int) -> int:
        time.sleep(number % 7 * 0.0001)
        return number * 2

    def take(number: int, returned: object) -> None:
        taken[number] += 1
        if returned != number * 2 or threading.get_ident() != here:
            elsewhere.append(number)

    crew = DaemonThreadPool(work, take)
    for number in range(3000):
        crew.submit(number)
        if number % 20 == 0:
            await asyncio.sleep(0)
    await _until_taken(taken, 3000)
    crew.shutdown()
    assert [] == elsewhere
    assert {1} == set(taken.values())


@limited
async def test_the_loop_is_woken_once_for_what_was_returned_while_it_was_busy() -> None:
    """And for the next again."""
    loop = asyncio.get_running_loop()
    rings: list[object] = []
    ring = loop.call_soon_threadsafe

    def counted(callback: Any, *args: Any, **kwargs: Any) -> Any:
        rings.append(callback)
        return ring(callback, *args, **kwargs)

    loop.call_soon_threadsafe = counted  # type: ignore[method-assign, assignment]
    taken: Counter[int] = Counter()

    def work(number: int) -> None:
        if number % 50:  # the first of fifty has rung before the others return, or two could ring at the same moment
            wait_until(lambda: len(rings) == number // 50 + 1, "the first to ring")

    crew = _Counted(work, lambda number, _: _count(taken, number))
    for times in (1, 2):
        for number in range(50 * (times - 1), 50 * times):
            crew.submit(number)
        crew.stand_still(50 * times)
        assert times == len(rings)
        await _until_taken(taken, 50 * times)
    crew.shutdown()


@limited
async def test_a_fault_in_taking_costs_no_other_its_outcome() -> None:
    """What was returned beside it is taken all the same."""
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    taken: Counter[int] = Counter()

    def take(number: int, _: object) -> None:
        if number == 3:
            raise ValueError("of the third")
        taken[number] += 1

    crew = _Counted(lambda number: None, take)
    for number in range(10):
        crew.submit(number)
    crew.stand_still(10)  # so that they are taken in one go
    await _until_taken(taken, 9)
    crew.shutdown()
    assert ["of the third"] == [str(context["exception"]) for context in told]
