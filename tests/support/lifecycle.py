"""The rules of docs/lifecycle.md, copied by hand: the tests compare the library with them.

Nothing here is derived from `runstate.lifecycle`. The names are plain strings, so that a test compares two readings of
the same page, and not the library with itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import attrs
import pytest

from runstate import Run, ToolCall, Usage
from runstate.run.record import RunRecord

NOW: Final = 1_800_000_000
"""A time after all the excuses for old recordings."""

# --- the law, by hand -------------------------------------------------------------------------------------------------

# fmt: off
ROWS: Final[tuple[tuple[str, str, str, str], ...]] = (
    ("start",               "queued",          "in_progress",     "documented"),
    ("require_action",      "in_progress",     "requires_action", "documented"),
    ("submit_tool_outputs", "requires_action", "queued",          "documented"),
    ("request_cancel",      "in_progress",     "cancelling",      "documented"),
    ("request_cancel",      "queued",          "cancelling",      "allowed"),
    ("request_cancel",      "requires_action", "cancelling",      "allowed"),
    ("confirm_cancel",      "cancelling",      "cancelled",       "documented"),
    ("complete",            "in_progress",     "completed",       "documented"),
    ("complete",            "cancelling",      "completed",       "allowed"),
    ("mark_incomplete",     "in_progress",     "incomplete",      "documented"),
    ("mark_incomplete",     "cancelling",      "incomplete",      "allowed"),
    ("fail",                "in_progress",     "failed",          "documented"),
    ("fail",                "queued",          "failed",          "allowed"),
    ("fail",                "requires_action", "failed",          "allowed"),
    ("fail",                "cancelling",      "failed",          "allowed"),
    ("expire",              "queued",          "expired",         "documented"),
    ("expire",              "in_progress",     "expired",         "documented"),
    ("expire",              "requires_action", "expired",         "documented"),
    ("expire",              "cancelling",      "expired",         "allowed"),
)
# fmt: on

STATUSES: Final = (
    *("queued", "in_progress", "requires_action", "cancelling"),
    *("completed", "incomplete", "failed", "cancelled", "expired"),
)
EVENTS: Final = (
    *("start", "require_action", "submit_tool_outputs", "request_cancel", "confirm_cancel"),
    *("complete", "mark_incomplete", "fail", "expire"),
)
LIVE: Final = frozenset({"queued", "in_progress", "requires_action", "cancelling"})
TERMINAL: Final = frozenset({"completed", "incomplete", "failed", "cancelled", "expired"})
PAIRS: Final = tuple((status, event) for status in STATUSES for event in EVENTS)
TABLE: Final = {(source, event): target for event, source, target, _ in ROWS}

UNTIL_DEADLINE: Final = frozenset({"start", "submit_tool_outputs"})
"""The events that a store grants only before the deadline of a run."""

STAMPED_BY: Final = {
    "in_progress": "started_at",
    "completed": "completed_at",
    "incomplete": "completed_at",
    "expired": "completed_at",
    "failed": "failed_at",
    "cancelled": "cancelled_at",
}
STAMPS: Final = ("started_at", "cancelled_at", "failed_at", "completed_at")
HELD_IN: Final = {
    "expires_at": LIVE,
    "required_action": frozenset({"requires_action"}),
    "last_error": frozenset({"failed"}),
    "incomplete_details": frozenset({"incomplete"}),
    "usage": TERMINAL,
}
COMING_AND_GOING: Final = (*STAMPS, *HELD_IN)

KEYS: Final = (
    *("id", "object", "created_at", "thread_id", "assistant_id", "status", "required_action", "last_error"),
    *("expires_at", "started_at", "cancelled_at", "failed_at", "completed_at", "incomplete_details", "model"),
    *("instructions", "tools", "metadata", "usage", "max_prompt_tokens", "max_completion_tokens"),
    *("truncation_strategy", "tool_choice", "parallel_tool_calls", "response_format", "temperature", "top_p"),
)
"""The 27 properties of the object."""

WAYS: Final = {
    "queued": (),
    "in_progress": ("start",),
    "requires_action": ("start", "require_action"),
    "cancelling": ("start", "request_cancel"),
    "completed": ("start", "complete"),
    "incomplete": ("start", "mark_incomplete"),
    "failed": ("start", "fail"),
    "cancelled": ("start", "request_cancel", "confirm_cancel"),
    "expired": ("start", "expire"),
}
"""A legal way to each status."""

# --- runs -------------------------------------------------------------------------------------------------------------

CALL: Final = ToolCall("call_1", "weather", '{"city": "Paris"}')
USED: Final = Usage(12, 30)


def new_run(*, at: int | None = NOW, **given: Any) -> Run:
    names: dict[str, Any] = {"id": "run_1", "thread_id": "thread_1", "assistant_id": "asst_1", "model": "gpt-4o"}
    return Run.create(**{**names, **given}, at=at)


MOVES: Final[Mapping[str, Callable[[Run, int | None], None]]] = {
    "start": lambda run, at: run.start(at=at),
    "require_action": lambda run, at: run.require_action([CALL], at=at),
    "submit_tool_outputs": lambda run, at: run.submit_tool_outputs({"call_1": "sunny"}, at=at),
    "request_cancel": lambda run, at: run.request_cancel(at=at),
    "confirm_cancel": lambda run, at: run.confirm_cancel(USED, at=at),
    "complete": lambda run, at: run.complete(USED, at=at),
    "mark_incomplete": lambda run, at: run.mark_incomplete("max_prompt_tokens", USED, at=at),
    "fail": lambda run, at: run.fail("server_error", "it broke", USED, at=at),
    "expire": lambda run, at: run.expire(USED, at=at),
}

GIVEN: Final[Mapping[str, object]] = {
    "required_action": {
        "type": "submit_tool_outputs",
        "submit_tool_outputs": {
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city": "Paris"}'},
                }
            ]
        },
    },
    "last_error": {"code": "server_error", "message": "it broke"},
    "incomplete_details": {"reason": "max_prompt_tokens"},
    "usage": {"prompt_tokens": 12, "completion_tokens": 30, "total_tokens": 42},
}
"""What `MOVES` hand in, as JSON."""


def ask(run: Run, event: str, at: int | None = None) -> None:
    """Ask the event through the run's own typed method."""
    MOVES[event](run, at)


def bring(status: str, *, at: int = NOW) -> Run:
    """Return a run that a legal history brought to the status, a second an event."""
    run = new_run(at=at)
    for second, event in enumerate(WAYS[status], start=1):
        ask(run, event, at + second)
    assert status == run.status
    return run


def after(event: str, before: Mapping[str, Any], at: int) -> dict[str, Any]:
    """Return what the object must be after a legal event ("The stamps" in docs/lifecycle.md)."""
    target = TABLE[before["status"], event]
    expected = {**before, "status": target}
    if target in STAMPED_BY:
        expected[STAMPED_BY[target]] = at
    for field, statuses in HELD_IN.items():
        if target not in statuses:
            expected[field] = None
        elif before["status"] not in statuses:
            expected[field] = GIVEN[field]
    return expected


def everything(run: RunRecord) -> dict[str, object]:
    """Return every slot of the run, the private ones too."""
    return {field.name: getattr(run, field.name) for field in attrs.fields(RunRecord)}


def legal_paths(longest: int, status: str = "queued") -> Iterator[tuple[str, ...]]:
    """Yield every legal sequence of up to so many events, the empty one first."""
    yield ()
    if longest:
        for event in EVENTS:
            if (status, event) in TABLE:
                for path in legal_paths(longest - 1, TABLE[status, event]):
                    yield (event, *path)


# --- records of every shape -------------------------------------------------------------------------------------------


class HandShape(NamedTuple):
    """A status, and which of the nine fields that come and go have a value."""

    status: str
    present: frozenset[str]


BORN: Final = HandShape("queued", frozenset({"expires_at"}))


def steps_from(shape: HandShape) -> Iterator[tuple[str, HandShape]]:
    """Yield each legal event of a shape, and the shape it leaves."""
    for event, source, target, _ in ROWS:
        if source == shape.status:
            held = {field for field, statuses in HELD_IN.items() if target in statuses}
            kept = shape.present & set(STAMPS)
            stamped = {STAMPED_BY[target]} if target in STAMPED_BY else set()
            yield event, HandShape(target, frozenset(kept | held | stamped))


def reachable(start: HandShape = BORN) -> frozenset[HandShape]:
    """Return every shape that some legal history leaves after `start`, that one too."""
    found = {start}
    waiting = [start]
    while waiting:
        for _, shape in steps_from(waiting.pop()):
            if shape not in found:
                found.add(shape)
                waiting.append(shape)
    return frozenset(found)


SAMPLE: Final[Mapping[str, object]] = {
    **GIVEN,
    "expires_at": NOW + 600,
    "started_at": NOW + 1,
    "cancelled_at": NOW + 9,
    "failed_at": NOW + 9,
    "completed_at": NOW + 9,
}
"""A value for each field that comes and goes."""


def record_of(shape: HandShape, **other: object) -> dict[str, object]:
    """Return a JSON object of this shape."""
    record: dict[str, object] = {**new_run().to_dict(), "status": shape.status}
    record.update({field: SAMPLE[field] if field in shape.present else None for field in COMING_AND_GOING})
    return {**record, **other}


# --- recorded runs ----------------------------------------------------------------------------------------------------

TRACES: Final = Path(__file__).parents[2].parent / "shared" / "traces"


@attrs.frozen
class Recorded:
    """One run as it was seen: its snapshots in the order observed."""

    source: str
    run_id: str
    snapshots: tuple[dict[str, Any], ...]


def recorded_runs() -> tuple[Recorded, ...]:
    """Return every recorded run, in the order of the files; () where they are not at hand."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for file in sorted(TRACES.glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            snapshot: dict[str, Any] = json.loads(line)["run"]
            found.setdefault((file.stem, snapshot["id"]), []).append(snapshot)
    return tuple(Recorded(source, run_id, tuple(seen)) for (source, run_id), seen in found.items())


needs_traces = pytest.mark.skipif(not TRACES.is_dir(), reason=f"the recorded runs are not at {TRACES}")
