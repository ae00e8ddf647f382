"""Scenes that drive real runs through every status, and through what is refused, for people to watch.

Nothing is acted: each frame is what a `Run` did when asked. Time is a `ManualClock`, so that a deadline of ten
minutes fits into a demonstration, and the same scenes give the same frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import attrs

from runstate.clock import ManualClock, use_clock
from runstate.lifecycle.errors import RunstateError
from runstate.run import Run
from runstate.run.values import RequiredAction, ToolCall, Usage

__all__ = ["Frame", "frames"]

_NOON: Final = 1_800_014_400  # Unix seconds: 2027-01-15 12:00:00 UTC
_WORKERS: Final = 4


@attrs.frozen
class Frame:
    """What there is to see after one thing was asked of a run."""

    scene: str
    asked: str
    """What was asked, as code: `complete(usage)`."""
    run: Run
    record: dict[str, Any]
    """The run as it stands in this frame; the run itself goes on."""
    refusal: str | None
    """The sentence of the refusal, if it was one."""


@attrs.define
class _Stage:
    """One scene being played: a run, and the clock that moves before each thing asked of it."""

    scene: str
    clock: ManualClock
    run: Run

    def ask(self, asked: str, move: Callable[..., None], *args: Any, after_s: int = 1) -> Frame:
        """Let time pass, ask, and return what there is to see."""
        self.clock.advance(after_s)
        try:
            move(*args)
        except RunstateError as refused:
            return self.frame(asked, str(refused))
        return self.frame(asked)

    def frame(self, asked: str, refusal: str | None = None) -> Frame:
        return Frame(self.scene, asked, self.run, self.run.to_dict(), refusal)


def frames() -> Iterator[Frame]:
    """Play every scene, and yield a frame for each thing asked. Meanwhile the process reads the scenes' clock."""
    with use_clock(ManualClock(_NOON)) as clock:
        for number, (name, scene) in enumerate(_SCENES.items(), start=1):
            run = Run.create(
                id=f"run_demo{number}",
                thread_id="thread_demo",
                assistant_id="asst_demo",
                model="gpt-4o",
                max_completion_tokens=64 if scene is _limit else None,
            )
            stage = _Stage(name, clock, run)
            yield stage.frame("Run.create(...)")
            yield from scene(stage)
            clock.advance(60 - clock.now % 60)


def _ordinary(stage: _Stage) -> Iterator[Frame]:
    run = stage.run
    yield stage.ask("complete()", run.complete)
    yield stage.ask("start()", run.start)
    yield stage.ask("complete(Usage(12, 30))", run.complete, Usage(12, 30), after_s=3)
    yield stage.ask("request_cancel()", run.request_cancel)


def _tools(stage: _Stage) -> Iterator[Frame]:
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


def _cancel(stage: _Stage) -> Iterator[Frame]:
    run = stage.run
    yield stage.ask("start()", run.start)
    yield stage.ask("request_cancel()", run.request_cancel)
    yield stage.ask("confirm_cancel(Usage(12, 3))", run.confirm_cancel, Usage(12, 3), after_s=2)


def _lost_race(stage: _Stage) -> Iterator[Frame]:
    run = stage.run
    yield stage.ask("start()", run.start)
    yield stage.ask("request_cancel()", run.request_cancel)
    yield stage.ask("complete(Usage(12, 30))", run.complete, Usage(12, 30))
    yield stage.ask("confirm_cancel()", run.confirm_cancel)


def _many_workers(stage: _Stage) -> Iterator[Frame]:
    """Four threads ask the same run to start; the law lets one through."""
    stage.clock.advance(1)
    with ThreadPoolExecutor(_WORKERS) as pool:
        asked = [pool.submit(stage.run.start) for _ in range(_WORKERS)]
    refusals = [str(error) for error in (future.exception() for future in asked) if error is not None]
    yield stage.frame(f"start(), by {_WORKERS - len(refusals)} of {_WORKERS} threads")
    for refusal in refusals:
        yield stage.frame("start(), by another", refusal)
    yield stage.ask("complete(Usage(9, 9))", stage.run.complete, Usage(9, 9))


def _limit(stage: _Stage) -> Iterator[Frame]:
    run, usage = stage.run, Usage(200, 65)
    yield stage.ask("start()", run.start)
    reason = run.over_budget(usage)
    yield stage.ask(f"mark_incomplete({reason!r})", run.mark_incomplete, reason, usage, after_s=5)


def _failure(stage: _Stage) -> Iterator[Frame]:
    run = stage.run
    yield stage.ask("start()", run.start)
    yield stage.ask("fail('rate_limit_exceeded', ...)", run.fail, "rate_limit_exceeded", "Slow down.", after_s=2)


def _deadline(stage: _Stage) -> Iterator[Frame]:
    run = stage.run
    stage.clock.advance(600)
    yield stage.ask(f"expire(), as is_due() is {run.is_due()}", run.expire)
    yield stage.ask("start()", run.start)


_SCENES: Final[dict[str, Callable[[_Stage], Iterator[Frame]]]] = {
    "An ordinary run, and two things it refuses": _ordinary,
    "A tool round: all outputs or none, and started_at stamped anew": _tools,
    "A cancel that arrives": _cancel,
    "A cancel that loses the race": _lost_race,
    "Four workers, one run": _many_workers,
    "A token limit": _limit,
    "An error": _failure,
    "A deadline": _deadline,
}
