"""The strategies for runs, paths, illegal moves and traces: what they draw holds, and they draw all there is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Final, TypeVar

import pytest
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st

from runstate import RUN_LIFECYCLE, IllegalTransition, Run, RunEvent, documented
from runstate.run.values import IncompleteDetails, LastError, RequiredAction, ToolCall, TruncationStrategy, Usage
from runstate.testing._send import send_event
from runstate.testing.strategies import illegal_moves, paths, runs, traces
from runstate.traces import judge, judge_trace
from tests.support.lifecycle import PAIRS, STATUSES, TABLE, everything
from tests.support.mutated_traces import is_legal

T = TypeVar("T")


def drawn(strategy: st.SearchStrategy[T], most: int = 200) -> list[T]:
    """Return many draws of a strategy, the same each time: many an example, as one example is much like the next."""
    found: list[T] = []

    @settings(max_examples=most // 20, suppress_health_check=list(HealthCheck))
    @given(st.lists(strategy, min_size=20, max_size=20))
    def collect(values: list[T]) -> None:
        found.extend(values)

    collect()
    return found


def end_of(path: tuple[RunEvent, ...]) -> str:
    status = "queued"
    for event in path:
        status = TABLE[status, event]  # a KeyError where it is illegal
    return status


# --- paths ------------------------------------------------------------------------------------------------------------


@given(paths(6))
def test_paths_are_legal(path: tuple[RunEvent, ...]) -> None:
    """Each event of a path may be asked where the one before led, and there are no more than wanted."""
    assert end_of(path) in STATUSES
    assert 6 >= len(path)


def test_paths_reach_all_statuses_at_all_lengths() -> None:
    """Short paths and long ones are drawn, into every status."""
    found = drawn(paths())
    assert set(STATUSES) == {end_of(path) for path in found}
    assert set(range(9)) == {len(path) for path in found}


@pytest.mark.parametrize("status", STATUSES)
def test_paths_end_where_they_shall(status: str) -> None:
    """A path ends in the status that was asked for."""
    assert {status} == {end_of(path) for path in drawn(paths(ends_in=status), 40)}


@pytest.mark.parametrize("status", STATUSES)
def test_paths_shrink_to_the_shortest(status: str) -> None:
    """The least path into a status is no longer than it must be."""
    shortest = RUN_LIFECYCLE.shortest_path(RUN_LIFECYCLE.statuses[0], RUN_LIFECYCLE.statuses[STATUSES.index(status)])
    assert shortest is not None
    assert len(shortest) == len(find(paths(ends_in=status), lambda path: True))


def test_paths_of_a_part_of_the_law() -> None:
    """Of the documented law no path has another row."""
    rows = {(row.source, row.event) for row in documented().transitions}
    for path in drawn(paths(lifecycle=documented())):
        status = "queued"
        for event in path:
            assert (status, event) in rows
            status = TABLE[status, event]


@pytest.mark.parametrize(
    ("ask_for", "sentence"),
    [
        (lambda: paths(1, "cancelled"), "no legal path of at most 1 events ends in cancelled"),
        (lambda: paths(ends_in=[]), "no legal path of at most 8 events ends in no status at all"),
        (lambda: runs(["queued", "completed"], 1), "no legal path of at most 1 events ends in completed"),
        (lambda: runs("done"), "unknown status 'done'"),
    ],
)
def test_what_cannot_be_reached(ask_for: Callable[[], object], sentence: str) -> None:
    """A status too far off, or none at all, is told at once."""
    with pytest.raises(ValueError, match=sentence):
        ask_for()


# --- runs -------------------------------------------------------------------------------------------------------------


@given(runs())
def test_runs_are_plausible(run: Run) -> None:
    """The judge finds nothing in a drawn run, and it is read back as it was written."""
    assert () == judge(run)
    assert run == Run.from_json(run.to_json())


@pytest.mark.slow
def test_runs_stand_in_every_status() -> None:
    """Every status is drawn, and of several that are given those alone."""
    assert set(STATUSES) == {run.status for run in drawn(runs())}
    assert {"failed", "expired"} == {run.status for run in drawn(runs(["failed", "expired"]), 40)}


def test_runs_shrink_to_plain_ones() -> None:
    """The least run was created with nothing but names of one character, and its times are equal."""
    run = find(runs("completed"), lambda run: True)
    assert (1, 1) == (len(run.id), len(run.model or ""))
    assert {} == run.metadata
    assert run.created_at == run.started_at == run.completed_at


DIFFERENCES: Final[tuple[Callable[[Run], object], ...]] = (
    lambda run: len(run.metadata) > 2,
    lambda run: run.temperature not in (0.0, 1.0),
    lambda run: run.truncation_strategy != TruncationStrategy(),
    lambda run: run.required_action is not None and len(run.required_action.tool_calls) > 1,
    lambda run: run.usage is not None and run.usage.total_tokens > 0,
    lambda run: run.last_error is not None and run.last_error.code == "invalid_prompt",
    lambda run: run.incomplete_details is not None and run.incomplete_details.reason == "max_prompt_tokens",
    lambda run: run.tools and run.tools[0]["type"] == "function",
    lambda run: not isinstance(run.tool_choice, str),
    lambda run: run.response_format != "auto",
    lambda run: run.expires_at is not None and run.expires_at != run.created_at + 600,
    lambda run: run.started_at is not None and run.started_at > run.created_at + 3600,
)


@pytest.mark.slow
def test_runs_differ_in_everything() -> None:
    """Settings, arguments and times are drawn, too."""
    found = drawn(runs(), 400)
    assert [] == [place for place, wanted in enumerate(DIFFERENCES) if not any(map(wanted, found))]


# --- illegal moves ----------------------------------------------------------------------------------------------------


@given(illegal_moves())
def test_illegal_moves_are_refused(move: tuple[Run, RunEvent]) -> None:
    """The run refuses the event, and nothing of it has changed."""
    run, event = move
    before = everything(run)
    with pytest.raises(IllegalTransition):
        send_event(run, event)
    assert before == everything(run)


@pytest.mark.slow
def test_illegal_moves_are_all_there_are() -> None:
    """Each of the 62 refusals is drawn; of short paths those that they reach."""
    refused = {pair for pair in PAIRS if pair not in TABLE}
    assert refused == {(run.status, event) for run, event in drawn(illegal_moves(3), 1600)}
    born = {(status, event) for status, event in refused if status == "queued"}
    assert born == {(run.status, event) for run, event in drawn(illegal_moves(0), 100)}


# --- traces -----------------------------------------------------------------------------------------------------------


@given(traces())
def test_traces_are_plausible(trace: list[dict[str, Any]]) -> None:
    """The judge finds nothing in a polled trace, nor does a search over all histories."""
    assert () == judge_trace(trace).findings
    assert is_legal(trace)


@given(traces(polling=False))
def test_traces_that_skip_nothing(trace: list[dict[str, Any]]) -> None:
    """Without polling each step is a row of the law."""
    assert "queued" == trace[0]["status"]
    assert all(len(step.events) == 1 for step in judge_trace(trace).changes)
    assert len(trace) - 1 == len(judge_trace(trace).changes)


def test_traces_of_pollers() -> None:
    """A poller is late, skips statuses, and sees some twice."""
    seen = [[snapshot["status"] for snapshot in trace] for trace in drawn(traces(), 100)]
    assert any(statuses[0] != "queued" for statuses in seen)
    assert any(pair not in {(source, target) for (source, _), target in TABLE.items()} for pair in _steps(seen))
    assert any(before == after for before, after in _steps(seen))


def _steps(seen: list[list[str]]) -> list[tuple[str, str]]:
    return [pair for statuses in seen for pair in pairwise(statuses)]


@pytest.mark.slow
@given(traces(broken=True))
def test_broken_traces_cannot_be(trace: list[dict[str, Any]]) -> None:
    """A search over all histories, made of the table by hand, finds none; and the judge says why."""
    names = {tuple(snapshot[name] for name in ("id", "thread_id", "assistant_id", "created_at")) for snapshot in trace}
    assert len(names) > 1 or not is_legal(trace)
    assert judge_trace(trace).errors


@pytest.mark.slow
def test_broken_traces_break_in_every_way() -> None:
    """Fields set and nulled, runs that live again, names that change: all are drawn."""
    problems = [judge_trace(trace).errors[0] for trace in drawn(traces(broken=True), 400)]
    fields = {"required_action", "last_error", "incomplete_details", "usage", "expires_at"}
    fields |= {"started_at", "cancelled_at", "failed_at", "completed_at", "status", "id", "thread_id", "assistant_id"}
    assert fields | {"created_at"} == {finding.field for finding in problems}


@given(traces(broken=True, polling=False, lifecycle=documented()))
def test_broken_traces_of_a_part_of_the_law(trace: list[dict[str, Any]]) -> None:
    """They cannot be by that law, either."""
    assert judge_trace(trace, documented()).errors


# --- without Hypothesis -----------------------------------------------------------------------------------------------


def test_hypothesis_is_optional() -> None:
    """Where it is not installed, the import says what to install; the rest of the kit does without."""
    code = "import sys; sys.modules['hypothesis'] = None; import runstate.testing\n"
    code += "try: import runstate.testing.strategies\nexcept ImportError as error: print(error)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "runstate.testing.strategies needs Hypothesis: pip install hypothesis" == done.stdout.strip()


KINDS = (Run, ToolCall, RequiredAction, LastError, IncompleteDetails, TruncationStrategy, Usage)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_hypothesis_makes_a_run_and_what_it_holds(kind: type) -> None:
    """`from_type` finds the strategy of each class, and what it draws can be written and read again."""

    @given(st.from_type(kind))
    @settings(max_examples=20)
    def drawn(value: object) -> None:
        assert isinstance(value, kind)
        if isinstance(value, Run):
            assert Run.from_dict(value.to_dict()) == value

    drawn()


@given(st.builds(lambda run: run, st.from_type(Run)))
def test_a_run_that_hypothesis_makes_has_a_lawful_history(run: Run) -> None:
    """It is one that the judge finds nothing wrong with."""
    assert judge(run.to_dict()) == ()


@pytest.mark.slow
@pytest.mark.parametrize("first", ["hypothesis", "runstate"])
def test_neither_library_loads_the_other(first: str) -> None:
    """Whichever is there first, the type is known once both are; one alone stays alone."""
    second = {"hypothesis": "runstate", "runstate": "hypothesis"}[first]
    code = f"""
import sys
import {first}
assert {second!r} not in sys.modules
import {second}
from hypothesis import find, strategies as st
def status_of(run: runstate.Run): return run.status
print(find(st.builds(status_of), lambda status: True))
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "queued\n"
