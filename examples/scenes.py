"""Drives runs in memory through every status, and through what is refused: a tool round, a lost race, a deadline.

Each frame is what a `Run` did when it was asked. Time is a `ManualClock`: a deadline of ten minutes takes no time, and
the same scenes give the same frames.

Run it: python examples/scenes.py [--record FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from runstate import ManualClock, RequiredAction, Run, RunstateError, RunStatus, ToolCall, Usage, use_clock
from runstate.diagram import Format, RunPosition, draw
from runstate.traces import check_snapshots, read_snapshots

NOON = 1_800_014_400  # Unix seconds: 2027-01-15 12:00:00 UTC
WORKERS = 4


class Frame(NamedTuple):
    """What there is to see after a run was asked something."""

    scene: str
    asked: str
    """The call, as code: `complete(usage)`."""
    record: dict[str, Any]
    """The run as it was then. The run itself goes on."""
    position: RunPosition
    """The same, to be drawn."""
    refusal: str | None
    """The sentence of the refusal, if it was refused."""


class Stage(NamedTuple):
    """One scene: a run, and the clock that moves before each call."""

    scene: str
    clock: ManualClock
    run: Run

    def ask(self, asked: str, move: Callable[..., None], *args: Any, after_s: int = 1) -> Frame:
        """Let time pass, make the call, and return what there is to see."""
        self.clock.advance(after_s)
        try:
            move(*args)
        except RunstateError as refused:
            return self.frame(asked, str(refused))
        return self.frame(asked)

    def frame(self, asked: str, refusal: str | None = None) -> Frame:
        """Return what there is to see now."""
        position = RunPosition(self.run.status, self.run.stamps(), self.run.id)
        return Frame(self.scene, asked, self.run.to_dict(), position, refusal)


def ordinary(stage: Stage) -> Iterator[Frame]:
    """An ordinary run, and two things it refuses."""
    run = stage.run
    yield stage.ask("complete()", run.complete)
    yield stage.ask("start()", run.start)
    yield stage.ask("complete(Usage(12, 30))", run.complete, Usage(12, 30), after_s=3)
    yield stage.ask("request_cancel()", run.request_cancel)


def tools(stage: Stage) -> Iterator[Frame]:
    """A tool round: all outputs or none, and started_at stamped anew."""
    run = stage.run
    calls = RequiredAction([ToolCall("call_1", "weather", '{"city": "Paris"}'), ToolCall("call_2", "time")])
    yield stage.ask("start()", run.start)
    yield stage.ask("require_action([call_1, call_2])", run.require_action, calls, after_s=2)
    yield stage.ask("submit_tool_outputs({call_1})", run.submit_tool_outputs, {"call_1": "sunny"}, after_s=4)
    yield stage.ask(
        "submit_tool_outputs({call_1, call_2})", run.submit_tool_outputs, {"call_1": "sunny", "call_2": "noon"}
    )
    yield stage.ask("start()", run.start)
    yield stage.ask("complete(Usage(80, 40))", run.complete, Usage(80, 40), after_s=2)


def cancel(stage: Stage) -> Iterator[Frame]:
    """A cancel that arrives."""
    run = stage.run
    yield stage.ask("start()", run.start)
    yield stage.ask("request_cancel()", run.request_cancel)
    yield stage.ask("confirm_cancel(Usage(12, 3))", run.confirm_cancel, Usage(12, 3), after_s=2)


def lost_race(stage: Stage) -> Iterator[Frame]:
    """A cancel that loses the race."""
    run = stage.run
    yield stage.ask("start()", run.start)
    yield stage.ask("request_cancel()", run.request_cancel)
    yield stage.ask("complete(Usage(12, 30))", run.complete, Usage(12, 30))
    yield stage.ask("confirm_cancel()", run.confirm_cancel)


def many_workers(stage: Stage) -> Iterator[Frame]:
    """Four workers, one run: one of them starts it."""
    stage.clock.advance(1)
    with ThreadPoolExecutor(WORKERS) as pool:
        asked = [pool.submit(stage.run.start) for _ in range(WORKERS)]
    refusals = [str(error) for error in (future.exception() for future in asked) if error is not None]
    yield stage.frame(f"start(), by {WORKERS - len(refusals)} of {WORKERS} threads")
    for refusal in refusals:
        yield stage.frame("start(), by another", refusal)
    yield stage.ask("complete(Usage(9, 9))", stage.run.complete, Usage(9, 9))


def limit(stage: Stage) -> Iterator[Frame]:
    """A token limit."""
    run, usage = stage.run, Usage(200, 65)
    yield stage.ask("start()", run.start)
    reason = run.over_budget(usage)
    yield stage.ask(f"mark_incomplete({reason!r})", run.mark_incomplete, reason, usage, after_s=5)


def failure(stage: Stage) -> Iterator[Frame]:
    """An error."""
    run = stage.run
    yield stage.ask("start()", run.start)
    yield stage.ask("fail('rate_limit_exceeded', ...)", run.fail, "rate_limit_exceeded", "Slow down.", after_s=2)


def deadline(stage: Stage) -> Iterator[Frame]:
    """A deadline."""
    run = stage.run
    stage.clock.advance(600)
    yield stage.ask(f"expire(), as is_due() is {run.is_due()}", run.expire)
    yield stage.ask("start()", run.start)


SCENES = (ordinary, tools, cancel, lost_race, many_workers, limit, failure, deadline)


def frames() -> Iterator[Frame]:
    """Play every scene, and yield a frame for each call. Meanwhile the process reads the scenes' clock."""
    with use_clock(ManualClock(NOON)) as clock:
        for number, scene in enumerate(SCENES, start=1):
            run = Run.create(
                id=f"run_demo{number}",
                thread_id="thread_demo",
                assistant_id="asst_demo",
                model="gpt-4o",
                max_completion_tokens=64 if scene is limit else None,
            )
            stage = Stage((scene.__doc__ or "").rstrip("."), clock, run)
            yield stage.frame("Run.create(...)")
            yield from scene(stage)
            clock.advance(60 - clock.now % 60)


def show(played: Sequence[Frame]) -> None:
    """Print each call and what came of it, and the lanes where a status is reached for the first time."""
    seen: set[str] = set()
    scene = ""
    for frame in played:
        if frame.scene != scene:
            scene = frame.scene
            print(f"\n{scene}")
        status = frame.record["status"]
        print(f"  {frame.asked:<42}{'refused' if frame.refusal else status}")
        if frame.refusal:
            print(f"    {frame.refusal}")
        if status not in seen:
            seen.add(status)
            print(f"\n{draw(position=frame.position, format=lanes())}\n")


def lanes() -> Format:
    """Return the lanes that stdout can take: those of Unicode or of ASCII."""
    try:
        "●─▶┊".encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return "ascii"
    return "lanes"


def main() -> None:
    """Play the scenes, record them if asked to, and let the judge of recordings check them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--record", type=Path, metavar="FILE", help="write every snapshot there, for `runstate check`")
    asked = parser.parse_args()
    played = list(frames())
    show(played)
    moved = [frame.record for frame in played if frame.refusal is None]
    recorded = "".join(json.dumps(record) + "\n" for record in moved)
    if asked.record is not None:
        asked.record.write_text(recorded, encoding="utf-8")
    report = check_snapshots(read_snapshots(recorded.encode().splitlines()))
    reached = {record["status"] for record in moved}
    print(f"\n{len(report.run_ids)} runs, {len(moved)} snapshots, {len(played) - len(moved)} refusals")
    print(f"{len(reached)} of {len(RunStatus)} statuses reached; the judge found {report.errors} errors")


if __name__ == "__main__":
    main()
