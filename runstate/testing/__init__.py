"""A kit for tests of runs: calls of a handler, assertions, the 81 cells, transition coverage, and conformance.

    from runstate.testing import a_run, assert_moves, assert_refused, handle

    def test_a_finished_run_cannot_start():
        assert_refused(a_run("completed"), "start", allowed=[])

    def test_the_handler_asks_for_the_weather():
        assert handle(answer).event == "require_action"

`handle(handler)` calls a handler once, as a worker does. `crash_test(handler)` lets its worker die at every point. The
assertions take a `Run`, a stored run with its `store=`, or a run of a class of your own. There are also
`runstate.testing.strategies` for Hypothesis, `runstate.testing.conformance` for a whole implementation, and the pytest
plugin with its fixtures and `--runstate-cov`.
"""

from runstate.testing.assertions import (
    assert_history,
    assert_moves,
    assert_plausible,
    assert_refused,
    assert_stamps,
)
from runstate.testing.crash import CrashFinding, CrashReport, CrashTestError, Probe, crash_test
from runstate.testing.factories import TrackedRun, a_run
from runstate.testing.handlers import Handled, handle, handle_async
from runstate.testing.matrix import Cell, Walk, cells, moves, refusals, walks

__all__ = [
    "Cell",
    "CrashFinding",
    "CrashReport",
    "CrashTestError",
    "Handled",
    "Probe",
    "TrackedRun",
    "Walk",
    "a_run",
    "assert_history",
    "assert_moves",
    "assert_plausible",
    "assert_refused",
    "assert_stamps",
    "cells",
    "crash_test",
    "handle",
    "handle_async",
    "moves",
    "refusals",
    "walks",
]
