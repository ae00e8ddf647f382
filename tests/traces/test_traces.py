"""The recorded runs: all are legal, and almost no change of them is."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from runstate import Run
from runstate.traces import judge, judge_trace
from tests.support.lifecycle import TABLE, Recorded, needs_traces, recorded_runs
from tests.support.mutated_traces import count_changes, is_legal

RECORDED = recorded_runs()

pytestmark = needs_traces


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda recorded: f"{recorded.source}-{recorded.run_id[-6:]}")
def test_every_recorded_run_is_plausible(recorded: Recorded) -> None:
    """No recorded trace breaks the law, by the judge and by the search over the hand-written table."""
    assert () == judge_trace(recorded.snapshots).findings
    assert is_legal(recorded.snapshots)
    assert all(() == judge(snapshot) for snapshot in recorded.snapshots)


def test_runs_are_judged_like_their_objects() -> None:
    """A trace of runs is judged as the trace of what they write."""
    for recorded in RECORDED:
        runs = [Run.from_dict(snapshot) for snapshot in recorded.snapshots]
        assert judge_trace([run.to_dict() for run in runs]) == judge_trace(runs)


def test_every_step_is_a_legal_way() -> None:
    """Each change of status that was seen is explained by events that the table allows, one after another."""
    seen: Counter[tuple[str, str]] = Counter()
    for recorded in RECORDED:
        for step in judge_trace(recorded.snapshots).changes:
            status: str = step.source
            for event in step.events:
                status = TABLE[status, event]
            assert step.target == status
            seen[step.source, step.target] += 1
    changes = sum(
        before["status"] != after["status"] for recorded in RECORDED for before, after in pairwise(recorded.snapshots)
    )
    assert changes == seen.total()


def test_a_sample_of_changes_is_caught() -> None:
    """Ten changes of every recorded run: none that no legal history leaves escapes, and no legal one is blamed.

    All of them, as a table: `python -m tests.support.mutated_traces`.
    """
    report = count_changes([recorded.snapshots for recorded in RECORDED], most_per_trace=10)
    assert report.total("tried") > 1_000
    assert [] == report.missed
    assert [] == report.false_alarms
