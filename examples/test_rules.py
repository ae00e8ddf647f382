"""Assert the rules of runs in your own tests, with pytest.

    pytest examples/test_rules.py

The law is data: `LAW.transitions` has every legal move, and whatever is not in it is refused. So a test can go
through all 81 pairs of a status and an event, rather than through the few that came to mind.
"""

from collections.abc import Callable

import pytest

from runstate import LAW, IllegalTransition, ManualClock, RequiredAction, Run, RunEvent, RunStatus, ToolCall, use_clock
from runstate.plausible import judge

ASK: dict[RunEvent, Callable[[Run], None]] = {
    RunEvent.START: Run.start,
    RunEvent.REQUIRE_ACTION: lambda run: run.require_action(RequiredAction([ToolCall("call_1", "weather")])),
    RunEvent.SUBMIT_TOOL_OUTPUTS: lambda run: run.submit_tool_outputs({"call_1": "sunny"}),
    RunEvent.REQUEST_CANCEL: Run.request_cancel,
    RunEvent.CONFIRM_CANCEL: Run.confirm_cancel,
    RunEvent.COMPLETE: Run.complete,
    RunEvent.MARK_INCOMPLETE: lambda run: run.mark_incomplete("max_completion_tokens"),
    RunEvent.FAIL: lambda run: run.fail("server_error", "It broke."),
    RunEvent.EXPIRE: Run.expire,
}


def a_run(status: RunStatus) -> Run:
    """A run in `status`, brought there by the shortest legal way."""
    run = Run.create(thread_id="thread_1", assistant_id="asst_1", model="gpt-4o")
    for event in LAW.shortest_path(RunStatus.QUEUED, status) or ():
        ASK[event](run)
    return run


@pytest.mark.parametrize("event", RunEvent)
@pytest.mark.parametrize("status", RunStatus)
def test_every_event_in_every_status(status: RunStatus, event: RunEvent) -> None:
    """An event leads where the law says, or is refused and changes nothing."""
    run = a_run(status)
    before = run.to_dict()
    if event in LAW.allowed_events(status):
        ASK[event](run)
        assert run.status == LAW.target_of(event)
        assert judge(run) == ()
    else:
        with pytest.raises(IllegalTransition) as refusal:
            ASK[event](run)
        assert refusal.value.allowed == LAW.allowed_events(status)
        assert run.to_dict() == before


def test_a_second_start_is_stamped_anew() -> None:
    """Time is an argument of a test: move the clock, and see the stamp."""
    with use_clock(ManualClock(1_700_000_000)) as clock:
        run = a_run(RunStatus.REQUIRES_ACTION)
        clock.advance(60)
        run.submit_tool_outputs({"call_1": "sunny"})
        run.start()
    assert run.started_at == 1_700_000_060
