"""What every test may ask for."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import Phase, settings

from runstate import RUN_LIFECYCLE, ManualClock, use_clock
from runstate.traces import _judge
from tests.support.lifecycle import NOW
from tests.support.postgres import postgres_server, postgres_url  # noqa: F401

# No timing decides a test, and a failure must come back on the next run.
settings.register_profile(
    "steady",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=100,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
)
settings.load_profile("steady")


def pytest_configure() -> None:
    """Heed Ctrl-C, which a script that begins the tests in its background has them ignore; and no slow callbacks."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # In development mode asyncio warns of callbacks that take a tenth of a second: on a busy machine, of any.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    if "PYTEST_XDIST_WORKER" in os.environ and os.environ.pop("PYTHONDEVMODE", ""):
        # The programs that the tests start keep the rest of the mode.
        os.environ.update(PYTHONWARNINGS="default", PYTHONMALLOC="debug", PYTHONFAULTHANDLER="1")


@pytest.hookimpl(optionalhook=True)  # there are runs without xdist
def pytest_xdist_auto_num_workers() -> int:
    """Return how many processes run the tests: more than cores, because many tests wait for other processes."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a database server or starts other processes, so that `make test-quick` can leave it out."""
    for item in items:
        if not isinstance(item, pytest.Function):
            continue
        parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
        asked_for = (*item.fixturenames, *parameters, *item.function.__code__.co_consts)  # a test can ask by name
        if any(isinstance(name, str) and ("postgres" in name or name == "both") for name in asked_for):
            item.add_marker("server")
        if {"subprocess", "multiprocessing", "WorkerProcess"} & vars(item.module).keys():
            item.add_marker("process")


@pytest.fixture(autouse=True)
def fresh_caches() -> None:
    """Forget what the law worked out before: a mutant is switched on in a process that other tests have warmed."""
    _judge._reachable.cache_clear()
    _judge.field_patterns.cache_clear()
    RUN_LIFECYCLE._refusal_cache.clear()


@pytest.fixture(autouse=True)
def unchanged_log_level() -> Iterator[None]:
    """Set back the level that a command sets, when a test calls it in its own process."""
    logger = logging.getLogger("runstate")
    before = logger.level
    yield
    logger.setLevel(before)


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    """The clock that everything reads, standing still until the test moves it."""
    with use_clock(ManualClock(float(NOW))) as manual:
        yield manual
