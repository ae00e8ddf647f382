"""The pytest plugin of runstate: fixtures, a marker, options, and transition coverage.

pytest loads this module in every session of every project that has runstate installed. So it stands outside of the
package, and imports nothing of it until a fixture is used or `--runstate-cov` is given.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from runstate import ManualClock
    from runstate.store import Store
    from runstate.testing.crash import CrashTest
    from runstate.testing.fixtures import MakeRun
    from runstate.testing.handlers import Handled

_KINDS = ("term", "lanes", "html", "json")
_MARKER = (
    "runstate(at=None, store=None, cov=True): where `run_clock` begins (Unix seconds), which URL `run_store` opens,"
    " and whether the test counts for transition coverage."
)


def _report(given: str) -> tuple[str, str]:
    """Return a kind of report and its path, from `html` or `html:path`."""
    kind, _, path = given.partition(":")
    if kind not in _KINDS or (path and kind in ("term", "lanes")):
        raise argparse.ArgumentTypeError(f"{given!r} is none of {', '.join(_KINDS)}, html:PATH and json:PATH")
    return kind, path


def _percent(given: str) -> float:
    """Return a percentage."""
    try:
        percent = float(given)
    except ValueError:
        percent = -1.0
    if not 0 <= percent <= 100:
        raise argparse.ArgumentTypeError(f"{given!r} is no percentage: give a number from 0 to 100")
    return percent


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("runstate", "runs of the Assistants API")
    group.addoption(
        "--runstate-store",
        metavar="URL",
        help="the store that run_store opens: sqlite:///:memory: (the usual), sqlite:///NAME.db (a file of that name,"
        " new for each test) or postgresql://... (a schema of its own for each test)",
    )
    group.addoption(
        "--runstate-cov",
        action="store_true",
        default=None,
        help="count which of the 81 cells of status and event the tests ask",
    )
    group.addoption(
        "--runstate-cov-fail-under",
        metavar="N",
        type=_percent,
        help="fail if less than N percent of the 81 cells were asked",
    )
    group.addoption(
        "--runstate-cov-report",
        metavar="KIND",
        action="append",
        type=_report,
        help="term, lanes, html[:PATH] or json[:PATH]; may be given several times; term unless said",
    )
    parser.addini("runstate_store", "what --runstate-store says")
    parser.addini("runstate_cov", "what --runstate-cov says", type="bool", default=False)
    parser.addini("runstate_cov_fail_under", "what --runstate-cov-fail-under says")
    parser.addini("runstate_cov_report", "what --runstate-cov-report says, one a line", type="linelist")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and transition coverage if it is asked for."""
    config.addinivalue_line("markers", _MARKER)
    reports, fail_under = config.getoption("runstate_cov_report"), config.getoption("runstate_cov_fail_under")
    try:
        reports = reports or [_report(line) for line in config.getini("runstate_cov_report")]
        if fail_under is None and config.getini("runstate_cov_fail_under"):
            fail_under = _percent(config.getini("runstate_cov_fail_under"))
    except argparse.ArgumentTypeError as error:
        raise pytest.UsageError(f"in the configuration file: {error}") from None
    # A report or a minimum implies the counting.
    if not (config.getoption("runstate_cov") or config.getini("runstate_cov") or reports or fail_under is not None):
        return
    from runstate.testing.coverage.session import CoverageSession

    session = CoverageSession(config, reports or [("term", "")], fail_under or 0.0, counts)
    config.pluginmanager.register(session, "runstate-cov")


def marked(item: pytest.Item) -> dict[str, Any]:
    """Return the arguments of the marker: those of the test itself first, then of its class and its module."""
    said: dict[str, Any] = {}
    for marker in item.iter_markers("runstate"):
        unknown = [*map(repr, marker.args), *(name for name in marker.kwargs if name not in ("at", "store", "cov"))]
        if unknown:
            raise pytest.UsageError(f"{item.nodeid}: the marker runstate takes at=, store= and cov=, not {unknown[0]}")
        said = {**marker.kwargs, **said}
    if not isinstance(said.get("at", 0), int | float):
        raise pytest.UsageError(f"{item.nodeid}: the marker runstate takes at= in Unix seconds, not {said['at']!r}")
    return said


def counts(item: pytest.Item) -> bool:
    """Return whether a test counts for transition coverage."""
    return bool(marked(item).get("cov", True))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Raise for a marker with unknown arguments before any test runs."""
    for item in items:
        marked(item)


@pytest.fixture
def run_clock(request: pytest.FixtureRequest) -> Iterator[ManualClock]:
    """The clock that all of runstate reads. It stands still until the test moves it: `run_clock.advance(600)`."""
    from runstate import ManualClock, use_clock

    at = marked(request.node).get("at")
    with use_clock(ManualClock() if at is None else ManualClock(at)) as clock:
        yield clock


@pytest.fixture
def run_store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """An empty store: SQLite in memory, or what `--runstate-store` says."""
    from runstate.testing.fixtures import temporary_store

    config = request.config
    url = marked(request.node).get("store")
    if url is None:
        url = config.getoption("runstate_store")
    if url is None:  # an empty one is not left out: it is refused as a URL
        url = config.getini("runstate_store") or "sqlite:///:memory:"
    with temporary_store(url, request) as store:
        yield store


@pytest.fixture
def handle() -> Callable[..., Handled]:
    """Calls a handler once, as a worker does: `handle(answer, tool_outputs={"call_1": "sunny"}).event`."""
    from runstate.testing import handle as function

    return function


@pytest.fixture
def crash_test(run_store: Store) -> CrashTest:
    """Lets the worker of a handler die at every point, in `run_store`: `crash_test(answer, probe=probe)`."""
    from functools import partial

    from runstate.testing import crash_test as function

    return partial(function, store=run_store)


@pytest.fixture
def make_run(run_clock: ManualClock) -> MakeRun:
    """Makes runs by `run_clock`, which it uses too: `make_run("failed")`, `make_run("queued", store=run_store)`."""
    from runstate.testing.fixtures import MakeRun

    return MakeRun(run_clock)
