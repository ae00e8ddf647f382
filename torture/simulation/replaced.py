"""The library in virtual time: what its modules stand on, replaced where they named it."""

from __future__ import annotations

import logging
import queue
import sys
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest import mock

import runstate.worker
from runstate import clock
from runstate.run import ids
from runstate.store import backoff
from runstate.store._api import create, worker_protocol
from runstate.worker import _batches as batches
from runstate.worker import _sweeper as sweeper
from runstate.worker._last_attempts import LastAttempts
from torture.simulation import primitives
from torture.simulation.database import template
from torture.simulation.scheduler import playing

__all__ = ["replaced"]

_ROOMS: Final = (runstate.store.__name__, runstate.worker.__name__)
_PRIMITIVES: Final[dict[object, object]] = {
    threading.Thread: primitives.Thread,
    threading.Lock: primitives.Lock,
    threading.Event: primitives.Event,
    queue.SimpleQueue: primitives.Queue,
    time.monotonic: primitives.monotonic,
    clock.monotonic: primitives.monotonic,  # a partial of it, which freezegun leaves alone
    time.sleep: primitives.pause,
    ThreadPoolExecutor: primitives.Pool,
}


class _Chance:
    """`random`, by the seed."""

    @staticmethod
    def random() -> float:
        return playing().random.random()


class _Heard(logging.Handler):
    """Takes the library's reports of faults of its own."""

    def emit(self, record: logging.LogRecord) -> None:
        told = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            told += f": {record.exc_info[1]!r}"
        playing().faults.append(told)


def _time() -> float:
    """Return what the clock says: the database's true time inside it, the process's own outside."""
    scheduler = playing()
    process = scheduler.process
    if process is None:
        return scheduler.now / 1_000_000
    database = process.world.database
    if database.writer is not None and database.strand is scheduler.strand:
        return scheduler.now / 1_000_000
    return scheduler.now / 1_000_000 + process.wrong_by_s


def _last_attempts() -> LastAttempts:
    """Return the place of the process under way."""
    process = playing().process
    assert process is not None
    return process.last_attempts


def _token() -> int:
    return playing().random.getrandbits(62) + 1


def _digits() -> str:
    return playing().random.randbytes(11).hex()[:14]


@contextmanager
def replaced() -> Generator[None, None, None]:
    """Let the library run in virtual time inside the block."""
    template()  # which is made in real time
    with ExitStack() as undo:

        def put(module: Any, name: str, value: object) -> None:
            undo.enter_context(mock.patch.object(module, name, value))

        for module in [module for name, module in sys.modules.items() if name.startswith(_ROOMS)]:
            for name, value in list(vars(module).items()):
                if (isinstance(value, type) or callable(value)) and (instead := _instead(value)) is not None:
                    put(module, name, instead)
        put(sweeper, "random", _Chance)
        for module in (sys.modules[f"{_ROOMS[1]}.{name}"] for name in ("_drive", "_main_loop", "_session")):
            put(module, "last_attempts", _last_attempts)
        put(batches, "_LEAST_SLOTS", 2)  # so that workers with few slots have two requests under way
        put(backoff, "random", _Chance)
        put(ids, "_random", _digits)
        put(create, "new_token", _token)
        put(worker_protocol, "new_token", _token)
        put(clock.current, "time", _time)
        undo.enter_context(_listening("runstate"))
        yield


def _instead(value: Callable[..., Any]) -> object | None:
    try:
        return _PRIMITIVES.get(value)
    except TypeError:  # it cannot be a key
        return None


@contextmanager
def _listening(name: str) -> Generator[None, None, None]:
    logger = logging.getLogger(name)
    before, handler = (logger.level, logger.propagate), _Heard(logging.ERROR)
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    try:
        yield
    finally:
        logger.level, logger.propagate = before
        logger.setLevel(before[0])
        logger.removeHandler(handler)
