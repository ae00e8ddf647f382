"""The judge: it agrees with a search over the hand-written table, on every record and every step there can be."""

from __future__ import annotations

from itertools import combinations, product
from typing import Any

import pytest

from runstate import RUN_LIFECYCLE, Lifecycle, Run, RunDecodeError, RunEvent, RunStatus, documented
from runstate.traces import FieldPattern, StatusChange, TraceFinding, field_patterns, judge, judge_trace
from tests.support.lifecycle import (
    BORN,
    COMING_AND_GOING,
    LIVE,
    NOW,
    SAMPLE,
    STATUSES,
    HandShape,
    ask,
    bring,
    new_run,
    reachable,
    record_of,
    steps_from,
)
from tests.support.mutated_traces import changes, count_changes, is_legal

POSSIBLE = sorted(reachable(), key=lambda shape: (STATUSES.index(shape.status), sorted(shape.present)))
SUBSETS = [frozenset(some) for size in range(10) for some in combinations(COMING_AND_GOING, size)]
OLD = 1_700_000_000  # November 2023: no usage yet
SPRING_2024 = 1_712_000_000


def told(found: tuple[TraceFinding, ...]) -> list[tuple[str, str]]:
    return [(finding.severity, str(finding)) for finding in found]


# --- one record -------------------------------------------------------------------------------------------------------


def test_sixteen_shapes() -> None:
    """The law leaves sixteen shapes, the same by the library and by hand."""
    assert 16 == len(POSSIBLE)
    assert set(POSSIBLE) == {HandShape(str(shape.status), shape.present) for shape in field_patterns()}


def test_the_shapes_are_what_runs_have() -> None:
    """Each status that a real run was brought to has one of the shapes."""
    for status in STATUSES:
        record = bring(status).to_dict()
        present = frozenset(field for field in COMING_AND_GOING if record[field] is not None)
        assert HandShape(status, present) in POSSIBLE


@pytest.mark.parametrize("status", STATUSES)
def test_every_record_there_can_be(status: str) -> None:
    """For each of the 512 ways to fill the nine fields the judge errs exactly where no legal history leaves it."""
    for present in SUBSETS:
        found = judge(record_of(HandShape(status, present)))
        assert (HandShape(status, present) in POSSIBLE) is (not found), present
        assert {"error"} >= {finding.severity for finding in found}
        assert {(0, "run_1")} >= {(finding.index, finding.run_id) for finding in found}
        assert {*COMING_AND_GOING} >= {finding.field for finding in found}


def test_a_run_and_its_object_are_judged_alike() -> None:
    """A run is judged as its JSON object is, in either spelling."""
    for status, present in product(STATUSES, SUBSETS[::37]):
        run = Run.from_dict(record_of(HandShape(status, present)))
        assert judge(run) == judge(run.to_dict()) == judge(run.to_dict("camel"))


@pytest.mark.parametrize("shape", POSSIBLE, ids=lambda shape: f"{shape.status}-{len(shape.present)}")
def test_absent_keys_are_not_observed(shape: HandShape) -> None:
    """A key that a record lacks fits everything, where null would be an error."""
    record = record_of(shape)
    for key in ("required_action", "incomplete_details", "usage"):
        lacking = {name: value for name, value in record.items() if name != key}
        assert () == judge(lacking)
        assert (key in shape.present) is bool(judge({**lacking, key: None}))


def test_sentences() -> None:
    """Each finding says which run, what is so, why it cannot be, and what could."""
    done = bring("completed").to_dict()
    possible = "(possible in completed: completed_at, usage set; started_at set or null; all else null)"
    assert [
        ("error", f"run run_1: failed_at is set, but no path from queued to completed stamps it {possible}")
    ] == told(judge({**done, "failed_at": NOW + 9}))
    assert [
        ("error", f"run run_1: completed_at is null, but every path from queued to completed stamps it {possible}")
    ] == told(judge({**done, "completed_at": None}))
    assert [
        ("error", f"run run_1: expires_at is set, but every path from queued to completed leaves it null {possible}")
    ] == told(judge({**done, "expires_at": NOW + 600}))
    assert [
        (
            "error",
            (
                "run run_1: last_error is null, but every path from queued to failed sets it "
                "(possible in failed: failed_at, last_error, usage set; started_at set or null; all else null)"
            ),
        )
    ] == told(judge({**bring("failed").to_dict(), "last_error": None}))
    assert [
        (
            "error",
            (
                "run run_1: usage is set, but every path from queued to queued leaves it null "
                "(possible in queued: expires_at set; started_at set or null; all else null)"
            ),
        )
    ] == told(judge({**new_run().to_dict(), "usage": SAMPLE["usage"]}))


def test_all_that_cannot_be_is_told() -> None:
    """A record with three impossible fields has three findings."""
    record = {**new_run().to_dict(), "completed_at": NOW + 1, "failed_at": NOW + 1, "usage": SAMPLE["usage"]}
    assert ["failed_at", "completed_at", "usage"] == [finding.field for finding in judge(record)]


# --- known reasons ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("created_at", "severity"),
    [(OLD, "warning"), (1_706_745_599, "warning"), (1_706_745_600, "error"), (NOW, "error")],
)
def test_usage_before_february_2024(created_at: int, severity: str) -> None:
    """An ended run without usage is an error, but one born before February 2024 has its reason."""
    run = new_run(at=created_at)
    run.start(at=created_at + 1)
    run.complete(at=created_at + 2)
    (finding,) = judge({**run.to_dict(), "usage": None})
    assert (severity, "usage") == (finding.severity, finding.field)
    assert ("runs carry usage only since February 2024" == finding.hint) is (severity == "warning")


@pytest.mark.parametrize(
    ("status", "created_at", "severity"),
    [
        ("completed", 1_709_251_199, "error"),
        ("completed", 1_709_251_200, "warning"),
        ("completed", SPRING_2024, "warning"),
        ("completed", 1_719_791_999, "warning"),
        ("completed", 1_719_792_000, "error"),
        ("failed", SPRING_2024, "error"),
    ],
)
def test_incomplete_details_in_spring_2024(status: str, created_at: int, severity: str) -> None:
    """A completed run with incomplete_details is an error, but one of spring 2024 has its reason."""
    run = bring(status, at=created_at)
    (finding,) = judge({**run.to_dict(), "incomplete_details": SAMPLE["incomplete_details"]})
    assert (severity, "incomplete_details") == (finding.severity, finding.field)
    known = "some completed runs of spring 2024 carry it" == finding.hint
    assert known is (severity == "warning")


def test_a_reason_excuses_nothing_else() -> None:
    """An old record is excused for its usage and for nothing beside it."""
    record = {**bring("completed", at=OLD).to_dict(), "usage": None, "failed_at": OLD + 9}
    assert [("failed_at", "error"), ("usage", "warning")] == [(f.field, f.severity) for f in judge(record)]


# --- times ------------------------------------------------------------------------------------------------------------


def test_a_stamp_before_birth_is_a_warning() -> None:
    """Clocks of two machines differ, so a time before birth or start is odd and not impossible."""
    done = bring("completed").to_dict()
    skew = "(possible only if the clocks of two machines differ)"
    assert [
        ("warning", f"run run_1: started_at {NOW - 1} is before created_at {NOW} {skew}"),
    ] == told(judge({**done, "started_at": NOW - 1}))
    assert [
        ("warning", f"run run_1: completed_at {NOW + 2} is before started_at {NOW + 5} {skew}"),
    ] == told(judge({**done, "started_at": NOW + 5}))
    assert () == judge({**done, "started_at": NOW + 2})


def test_the_deadline_is_after_birth() -> None:
    """A deadline that is not after birth is an error: it counts from there."""
    problem = f"expires_at {NOW} is not after created_at {NOW} (the deadline counts from creation)"
    assert [("error", f"run run_1: {problem}")] == told(judge({**new_run().to_dict(), "expires_at": NOW}))
    assert () == judge({**new_run().to_dict(), "expires_at": NOW + 1})


def test_what_was_not_observed_hides_nothing_else() -> None:
    """A record that lacks a key is still judged by all others."""
    born = {key: value for key, value in new_run().to_dict().items() if key != "required_action"}
    assert () == judge(born)
    cut = {**born, "incomplete_details": {"reason": "max_prompt_tokens"}}
    assert ["incomplete_details"] == [finding.field for finding in judge(cut)]


SKEW = "possible only if the clocks of two machines differ"


@pytest.mark.parametrize(
    ("odd", "field", "problem"),
    [
        ({"started_at": NOW - 1}, "started_at", f"started_at {NOW - 1} is before created_at {NOW}"),
        ({"started_at": NOW + 5}, "completed_at", f"completed_at {NOW + 2} is before started_at {NOW + 5}"),
    ],
)
def test_a_finding_about_times_is_complete(odd: dict[str, int], field: str, problem: str) -> None:
    """It names severity, run, snapshot, field, problem and what would explain it, also inside a trace."""
    done = bring("completed").to_dict()
    assert (TraceFinding("warning", "run_1", 0, field, problem, SKEW),) == judge({**done, **odd})
    verdict = judge_trace([done, {**done, **odd}])
    assert TraceFinding("warning", "run_1", 1, field, problem, SKEW) in verdict.findings


def test_a_time_that_is_equal_is_not_before() -> None:
    """What happens within a second has one time."""
    done = bring("completed").to_dict()
    assert () == judge({**done, "started_at": NOW, "completed_at": NOW})


def test_a_finding_about_the_deadline_is_complete() -> None:
    """It names the snapshot and the field."""
    born = new_run().to_dict()
    problem = f"expires_at {NOW} is not after created_at {NOW}"
    expected = TraceFinding("error", "run_1", 1, "expires_at", problem, "the deadline counts from creation")
    assert expected in judge_trace([born, {**born, "expires_at": NOW}]).findings


# --- traces -----------------------------------------------------------------------------------------------------------


def test_a_step_that_cannot_be_is_told_by_its_field() -> None:
    """The status if no path leads there, else the first field that differs, with both values, null said as null."""
    done, failed = bring("completed").to_dict(), bring("failed").to_dict()
    possible = "completed is terminal, nothing leaves it"
    assert (
        TraceFinding("error", "run_1", 1, "status", "no path leads from completed to failed", possible),
    ) == judge_trace([done, failed]).findings

    started, born = bring("in_progress").to_dict(), new_run().to_dict()
    problem = f"started_at went from {NOW + 1} to null, but no path from in_progress to queued does that"
    onward = "requires_action, queued, cancelling, completed, incomplete, failed, cancelled, expired"
    (finding,) = judge_trace([started, born]).findings
    assert ("started_at", problem) == (finding.field, finding.message)
    assert {*onward.split(", ")} == {*finding.hint.removeprefix("possible after in_progress: ").split(", ")}

    back = {**started, "started_at": NOW}
    problem = f"started_at went from {NOW + 1} to {NOW}, but no path from in_progress to in_progress does that"
    assert [("started_at", problem)] == [(f.field, f.message) for f in judge_trace([started, back]).findings]

    later = {**done, "started_at": NOW + 2, "completed_at": NOW + 9}
    assert ["started_at"] == [finding.field for finding in judge_trace([done, later]).findings]
    other = {**done, "completed_at": NOW + 9, "usage": {**done["usage"], "total_tokens": 99}}
    assert ["completed_at"] == [finding.field for finding in judge_trace([done, other]).findings]


def test_among_equally_short_ways_the_first_of_the_table_is_told() -> None:
    """A run queued again may have completed by a start or by a cancel that lost; the table has start first."""
    again = bring("requires_action")
    again.submit_tool_outputs({"call_1": "sunny"})
    done = {**bring("completed").to_dict(), "started_at": again.started_at}
    assert [(RunEvent.START, RunEvent.COMPLETE)] == [step.events for step in judge_trace([again, done]).changes]


def test_a_long_value_is_cut_in_the_sentence() -> None:
    """A finding stays a sentence, whatever the value: sixty characters are told."""
    done = bring("failed").to_dict()
    other = {**done, "last_error": {"code": "server_error", "message": "x" * 500}}
    (finding,) = judge_trace([done, other]).findings
    before, after = finding.message.removeprefix("last_error went from ").split(", but ")[0].split(" to ")
    assert "LastError(code='server_error', message='it broke')" == before
    assert 60 == len(after)


def can_follow(before: HandShape, after: HandShape) -> bool:
    """Tell by the table whether `after` can be seen after `before` when every value in both is the same one."""

    def walk(shape: HandShape, seen: set[HandShape]) -> bool:
        if shape == after:
            return True
        ahead = [follower for _, follower in steps_from(shape) if follower not in seen]
        seen.update(ahead)
        return any(walk(follower, seen) for follower in ahead)

    return walk(before, {before})


@pytest.mark.parametrize("before", POSSIBLE, ids=lambda shape: f"{shape.status}-{len(shape.present)}")
def test_every_step_there_can_be(before: HandShape) -> None:
    """Of all pairs of possible snapshots exactly those are in order that the table joins."""
    for after in POSSIBLE:
        first, second = record_of(before), record_of(after)
        verdict = judge_trace([first, second])
        assert can_follow(before, after) is (not verdict.errors), (before, after)
        assert is_legal([first, second]) is (not verdict.errors)
        if verdict.errors:
            (finding,) = verdict.errors
            assert (1, "run_1", ()) == (finding.index, finding.run_id, verdict.changes)
            assert finding.hint
        elif before.status != after.status:
            ((source, target, events),) = [(s.source, s.target, s.events) for s in verdict.changes]
            assert (before.status, after.status) == (source, target)
            assert leads(before, events) == after


def leads(shape: HandShape, events: tuple[RunEvent, ...]) -> HandShape:
    """Return where the events lead by the table."""
    for event in events:
        shape = dict(steps_from(shape))[event]
    return shape


def test_steps_are_the_shortest() -> None:
    """A change of status is explained by the fewest events that polling may have skipped."""
    trace = [bring("queued").to_dict(), bring("requires_action").to_dict(), bring("completed").to_dict()]
    trace[2]["started_at"] = NOW + 30
    trace[2]["completed_at"] = NOW + 40
    expected = (
        StatusChange(RunStatus.QUEUED, RunStatus.REQUIRES_ACTION, (RunEvent.START, RunEvent.REQUIRE_ACTION)),
        StatusChange(
            RunStatus.REQUIRES_ACTION,
            RunStatus.COMPLETED,
            (RunEvent.SUBMIT_TOOL_OUTPUTS, RunEvent.START, RunEvent.COMPLETE),
        ),
    )
    assert expected == judge_trace(trace).changes
    assert () == judge_trace(trace).findings


def test_values_that_cannot_change() -> None:
    """What no event on the way writes must be the same in both snapshots."""
    queued = bring("queued").to_dict()
    later = {**bring("cancelling").to_dict(), "expires_at": NOW + 599}
    assert [
        (
            "error",
            (
                f"run run_1: expires_at went from {NOW + 600} to {NOW + 599}, "
                "but no path from queued to cancelling does that "
                "(possible after queued: in_progress, requires_action, cancelling, completed, incomplete, failed, "
                "cancelled, expired)"
            ),
        )
    ] == told(judge_trace([queued, later]).findings)


@pytest.mark.parametrize("before", sorted(LIVE))
@pytest.mark.parametrize("after", sorted(LIVE))
def test_a_deadline_moves_on_only_while_a_run_may_wait_for_its_tools(before: str, after: str) -> None:
    """Every pair of live statuses: a later deadline is a warning where a tool round may lie between, else an error.

    The second snapshot was started anew, so that a round may lie between. An earlier deadline is always an error.
    """
    first, second = bring(before).to_dict(), {**bring(after).to_dict(), "started_at": NOW + 5}
    later = judge_trace([first, {**second, "expires_at": NOW + 36_000}])
    severities = [finding.severity for finding in later.findings]
    may_wait = before != "cancelling"  # from there a run only ends
    assert (["warning"] if may_wait else ["error"]) == severities
    if may_wait:
        assert ("expires_at", 1) == (later.findings[0].field, later.findings[0].index)
        assert f"expires_at went from {NOW + 600} to {NOW + 36_000}" in later.findings[0].message
    back = judge_trace([first, {**second, "expires_at": NOW + 60}]).findings
    assert ["error"] == [finding.severity for finding in back]


def test_a_deadline_that_moves_without_a_round_is_an_error() -> None:
    """A run that never started, and one that is cancelled all the time, asked for no tools in between."""
    for status in ("queued", "cancelling"):
        record = bring(status).to_dict()
        assert () == judge_trace([record, record]).findings
        (finding,) = judge_trace([record, {**record, "expires_at": NOW + 36_000}]).findings
        assert ("error", "expires_at") == (finding.severity, finding.field)
    started = bring("in_progress").to_dict()
    (finding,) = judge_trace([bring("queued").to_dict(), {**started, "expires_at": NOW + 36_000}]).findings
    assert "warning" == finding.severity  # it may have been asked between the two looks


def test_the_deadline_is_named_where_a_start_is_new_too() -> None:
    """What no way writes is told before what some way does."""
    waiting = bring("requires_action").to_dict()
    again = {**bring("in_progress").to_dict(), "started_at": NOW + 50, "expires_at": NOW + 60}
    (finding,) = judge_trace([waiting, again]).findings
    assert ("error", "expires_at") == (finding.severity, finding.field)


def test_started_at_moves_only_by_a_start() -> None:
    """started_at may be later after another tool round, never earlier, and not at the end of the same one."""
    first = bring("in_progress").to_dict()
    again = {**first, "started_at": NOW + 50}
    assert () == judge_trace([first, again]).findings
    (finding,) = judge_trace([again, first]).errors
    assert ("started_at", 1) == (finding.field, finding.index)
    waiting = bring("requires_action").to_dict()
    assert () == judge_trace([waiting, {**waiting, "started_at": NOW + 50}]).findings
    cancelling = bring("cancelling").to_dict()
    (finding,) = judge_trace([cancelling, {**cancelling, "started_at": NOW + 50}]).errors
    assert "started_at" == finding.field


def test_nothing_leaves_a_terminal_status() -> None:
    """After an end no other status can be seen, and the explanation says so."""
    done, failed = bring("completed").to_dict(), bring("failed").to_dict()
    sentence = "no path leads from completed to failed (completed is terminal, nothing leaves it)"
    assert [("error", f"run run_1: {sentence}")] == told(judge_trace([done, failed]).findings)


@pytest.mark.parametrize("key", ["id", "created_at", "thread_id", "assistant_id"])
def test_constants(key: str) -> None:
    """Who a run is and when it was born never changes."""
    before = new_run().to_dict()
    after = {**before, key: NOW + 1 if key == "created_at" else "other"}
    verdict = judge_trace([before, after])
    problem = f"{key} changed from {before[key]} to {after[key]}"
    assert (TraceFinding("error", after["id"], 1, key, problem, "it never changes"),) == verdict.errors


def test_a_broken_snapshot_is_told_once() -> None:
    """A snapshot that cannot be is told by itself; the steps to and from it say nothing more."""
    before, after = new_run().to_dict(), bring("completed").to_dict()
    broken = {**bring("in_progress").to_dict(), "failed_at": NOW + 1}
    assert [(1, "failed_at")] == [(f.index, f.field) for f in judge_trace([before, broken, after]).findings]


def test_a_trace_of_unobserved_keys() -> None:
    """Keys that the snapshots lack are not held against the steps between them."""
    trace: list[dict[str, Any]] = [bring("in_progress").to_dict(), bring("completed").to_dict()]
    for snapshot in trace:
        del snapshot["usage"], snapshot["required_action"]
    assert () == judge_trace(trace).findings


def test_short_traces() -> None:
    """A trace of nothing or of one snapshot has no steps; runs may stand for objects."""
    assert ((), ()) == (judge_trace([]).findings, judge_trace([]).changes)
    assert () == judge_trace([new_run()]).changes
    assert 1 == len(judge_trace([bring("queued"), bring("in_progress")]).changes)


@pytest.mark.parametrize("record", [{}, 5, {"id": "run_1"}, None])
def test_what_is_no_run_is_not_judged(record: Any) -> None:
    """What cannot be read is an error of reading, not a finding."""
    with pytest.raises(RunDecodeError):
        judge(record)
    with pytest.raises(RunDecodeError):
        judge_trace([record])


# --- other laws -------------------------------------------------------------------------------------------------------


def test_another_law() -> None:
    """By the documented law a queued run cannot be seen cancelling; by the whole law it can."""
    born, cancelling = new_run(), new_run()
    cancelling.request_cancel(at=NOW + 1)
    assert () == judge_trace([born, cancelling]).findings
    assert () != judge_trace([born, cancelling], documented()).findings
    assert () == judge(bring("cancelled"), documented())
    assert field_patterns(documented()) < field_patterns(RUN_LIFECYCLE)


def test_a_law_that_leads_nowhere() -> None:
    """By a law without rows only a new run can be; any other status has no path to it."""
    nowhere = Lifecycle(())
    assert {FieldPattern(RunStatus.QUEUED, frozenset())} >= {
        FieldPattern(s.status, frozenset()) for s in field_patterns(nowhere)
    }
    (finding,) = judge(bring("completed"), nowhere)
    assert TraceFinding("error", "run_1", 0, "status", "no path leads to completed", "see the table") == finding


# --- changed traces ---------------------------------------------------------------------------------------------------


def made_traces() -> list[list[dict[str, Any]]]:
    """Return traces of runs of our own, with every status in them."""
    ways = [
        ("start", "require_action", "submit_tool_outputs", "start", "complete"),
        ("start", "request_cancel", "confirm_cancel"),
        ("start", "mark_incomplete"),
        ("start", "require_action", "fail"),
        ("expire",),
    ]
    traces = []
    for way in ways:
        run = new_run()
        trace = [run.to_dict()]
        for second, event in enumerate(way, start=1):
            ask(run, event, NOW + second)
            trace.append(run.to_dict())
        traces.append(trace)
    return traces


def test_every_single_change_of_a_trace_is_caught() -> None:
    """Each value of a legal trace changed: the judge errs exactly where the search finds no legal history."""
    report = count_changes(made_traces())
    assert report.total("tried") == sum(len(list(changes(trace))) for trace in made_traces()) > 300
    assert [] == report.missed
    assert [] == report.false_alarms
    assert 1.0 == report.share
    assert 0 == report.total("excused")


def test_the_search_accepts_what_runs_do() -> None:
    """The search that judges the judge accepts every trace that real runs leave, and starts where runs are born."""
    assert [True] * 5 == [is_legal(trace) for trace in made_traces()]
    assert is_legal([])
    assert BORN in POSSIBLE
    assert LIVE == {shape.status for shape in POSSIBLE if "expires_at" in shape.present}
