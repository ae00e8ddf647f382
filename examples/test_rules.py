"""Assert the rules of runs in your own tests, with pytest.

    pytest examples/test_rules.py --runstate-cov

The law is data: `moves()` are the 19 pairs of a status and an event that move a run, `refusals()` the 62 that do not.
So a test can go through all of them, rather than through the few that came to mind. The fixtures come with runstate.
"""

import pytest

from runstate import ManualClock
from runstate.store import Store
from runstate.testing import (
    Cell,
    Walk,
    assert_history,
    assert_moves,
    assert_plausible,
    assert_refused,
    assert_stamps,
    moves,
    refusals,
    walks,
)
from runstate.testing.fixtures import MakeRun


@pytest.mark.parametrize("cell", moves())
def test_what_moves(cell: Cell, make_run: MakeRun) -> None:
    """An event leads where the table says, with its stamp and no other."""
    run = assert_moves(make_run(cell.status), cell.event, to=cell.target)
    assert_plausible(run)


@pytest.mark.parametrize("cell", refusals())
def test_what_is_refused(cell: Cell, make_run: MakeRun) -> None:
    """What the table has no row for is refused, and changes nothing."""
    assert_refused(make_run(cell.status), cell.event)


@pytest.mark.parametrize("walk", walks(max_events=4))
def test_every_walk(walk: Walk, make_run: MakeRun) -> None:
    """Every legal way leads where it should, also the second time round."""
    run = make_run("queued")
    for step in walk.steps:
        assert_moves(run, step.event, to=step.target)
    assert_history(run, walk.events)


def test_a_second_start_is_stamped_anew(make_run: MakeRun, run_clock: ManualClock) -> None:
    """Time is an argument of a test: move the clock, and see the stamp."""
    run = make_run("requires_action")
    run_clock.advance(60)
    run.submit_tool_outputs({"call_1": "sunny"})
    run.start()
    assert_stamps(run, started_at=int(run_clock.time()))


def test_a_cancel_that_nobody_is_at_work_on(make_run: MakeRun, run_store: Store) -> None:
    """In a store, a run that waits is cancelled at once; the history has both entries."""
    run = make_run("queued", store=run_store)
    assert_moves(run, "request_cancel", to="cancelled", store=run_store)
    assert_history(run_store, ["request_cancel", "confirm_cancel"], run=run)
