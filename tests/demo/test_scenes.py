"""The demonstration shows real runs, and shows all there is to see."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

from runstate import TRANSITIONS, Run, RunStatus
from runstate.clock import current
from runstate.demo.scenes import frames
from runstate.traces import judge_trace


def test_it_reaches_every_status_and_refuses_something() -> None:
    """Nine statuses, a tool round that is refused half its outputs, and threads of which one wins."""
    played = list(frames())
    assert set(RunStatus) == {frame.record["status"] for frame in played}
    refusals = [frame.refusal for frame in played if frame.refusal is not None]
    assert any("Expected tool outputs for call_ids ['call_1', 'call_2'], got ['call_1']" in said for said in refusals)
    assert 3 == sum(frame.asked == "start(), by another" for frame in played)


def test_every_run_it_shows_could_be() -> None:
    """The judge finds nothing in any of its traces, and every step is a row of the law."""
    traces: dict[str, list[Run]] = {}
    for frame in frames():
        traces.setdefault(frame.run.id, []).append(Run.from_dict(frame.record))
    moves = {(row.source, row.event, row.target) for row in TRANSITIONS}
    for trace in traces.values():
        verdict = judge_trace(trace)
        assert () == verdict.findings
        assert all((step.source, step.events[0], step.target) in moves for step in verdict.steps)


def test_a_refusal_shows_the_run_as_it_was() -> None:
    """The frame of a refusal has the record of the frame before it."""
    played = list(frames())
    for before, frame in pairwise(played):
        if frame.refusal is not None:
            assert before.record == frame.record


def test_the_recorded_example_is_what_it_records() -> None:
    """The same scenes give the same frames: `make pictures` when this fails."""
    path = Path(__file__).parents[2] / "examples" / "recorded.jsonl"
    recorded = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert recorded == [frame.record for frame in frames() if frame.refusal is None]


def test_it_gives_the_clock_back() -> None:
    """After the last scene the process reads its own clock again."""
    before = current.time
    list(frames())
    assert before is current.time
