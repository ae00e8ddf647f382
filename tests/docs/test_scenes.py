"""The example of scenes plays real runs through every status, and records what it plays."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from runstate import TRANSITIONS, Run, RunStatus
from runstate.clock import current
from runstate.traces import judge_trace

EXAMPLES = Path(__file__).parents[2] / "examples"


def frames() -> Iterator[Any]:
    """Play the scenes of the example."""
    spec = importlib.util.spec_from_file_location("scenes", EXAMPLES / "scenes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    played: Iterator[Any] = module.frames()
    return played


def play(*arguments: str, **env: str) -> str:
    """Run the example as a program; return what it prints."""
    command = [sys.executable, str(EXAMPLES / "scenes.py"), *arguments]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env={**os.environ, **env}, timeout=60)
    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout


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
        traces.setdefault(frame.record["id"], []).append(Run.from_dict(frame.record))
    moves = {(row.source, row.event, row.target) for row in TRANSITIONS}
    for trace in traces.values():
        verdict = judge_trace(trace)
        assert () == verdict.findings
        assert all((step.source, step.events[0], step.target) in moves for step in verdict.changes)


def test_a_refusal_shows_the_run_as_it_was() -> None:
    """The frame of a refusal has the record of the frame before it."""
    played = list(frames())
    for before, frame in pairwise(played):
        if frame.refusal is not None:
            assert before.record == frame.record


def test_the_recorded_example_is_what_it_records() -> None:
    """The same scenes give the same frames: `make pictures` when this fails."""
    recorded = [json.loads(line) for line in (EXAMPLES / "recorded.jsonl").read_text(encoding="utf-8").splitlines()]
    assert recorded == [frame.record for frame in frames() if frame.refusal is None]


def test_it_gives_the_clock_back() -> None:
    """After the last scene the process reads its own clock again."""
    before = current.time
    list(frames())
    assert before is current.time


def test_it_records_what_check_finds_nothing_in(tmp_path: Path) -> None:
    """It says what it reached, and `runstate check` finds nothing in its recording."""
    path = tmp_path / "scenes.jsonl"
    assert "9 of 9 statuses reached; the judge found 0 errors" in play("--record", str(path))
    command = [sys.executable, "-m", "runstate", "check", "--json", str(path)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (0, 8) == (checked.returncode, json.loads(checked.stdout)["total"]["runs"])


def test_it_draws_the_lanes_that_a_terminal_can_show() -> None:
    """Nine pictures, one where each status is reached first; in ASCII where there is nothing else."""
    assert 9 == play(PYTHONIOENCODING="utf-8").count("● allowed here   ▶ leads to")
    plain = play(PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert plain.isascii()
    assert 9 == plain.count("o allowed here   > leads to")
