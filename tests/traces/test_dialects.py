"""Runs that other clients and servers wrote again in their own spelling are judged as what they were, with a note."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from runstate.cli import cli
from runstate.traces import Report
from tests.support.cli_runner import CliRunner
from tests.traces.test_containers import (
    CREATED,
    LAWFUL,
    RECORDERS,
    SAID,
    UNLAWFUL,
    Json,
    Trace,
    curl,
    lines,
    log,
    read,
    sse,
)

STAMPS = ("expires_at", "started_at", "cancelled_at", "failed_at", "completed_at")
TIMES = ("created_at", *STAMPS)
ZERO_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def notes(report: Report) -> dict[str, int]:
    return {note.text: note.count for note in report.notes if note.kind == "read"}


def times(run: Json, make: Callable[[int], Any]) -> Json:
    return {key: make(value) if key in TIMES and value is not None else value for key, value in run.items()}


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(member) for key, member in value.items() if member is not None}
    return value


def pascal(value: Any) -> Any:
    if isinstance(value, dict):
        return {"".join(w.title() for w in key.split("_")): pascal(member) for key, member in value.items()}
    return [pascal(member) for member in value] if isinstance(value, list) else value


def camel(value: Any) -> Any:
    if isinstance(value, dict):
        words = {key: "".join(word.title() for word in key.split("_")) for key in value}
        return {words[key][0].lower() + words[key][1:]: camel(member) for key, member in value.items()}
    return [camel(member) for member in value] if isinstance(value, list) else value


def go(run: Json) -> Json:
    """As a struct in Go writes it: some members are left out when empty, others are zero."""
    zeros = {"expires_at": run["expires_at"] or 0, "usage": run["usage"] or ZERO_USAGE, "max_prompt_tokens": 0}
    more = {"truncation_strategy": {"type": "", "last_messages": 0}, "tool_choice": "", "response_format": {}}
    found: Json = without_nulls(run | zeros | more)
    return found


def zig(run: Json) -> Json:
    """As a struct with a value in every member writes it."""
    empty: Json = {
        "last_error": {"code": "", "message": ""},
        "incomplete_details": {"reason": ""},
        "required_action": {},
    }
    found = dict(run)
    for key in (*STAMPS, "max_prompt_tokens", "max_completion_tokens"):
        found[key] = run[key] or 0
    for key, value in (empty | {"usage": ZERO_USAGE}).items():
        found[key] = run[key] or value
    return found


def iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", ".1234567Z")


LEFT_OUT = "runs whose nulls are left out: an absent key was read as null"
ZEROS = "runs with zeros or empty values for null: read as null"

DIALECTS: dict[str, tuple[Callable[[Json], Json], set[str]]] = {
    "nulls left out": (without_nulls, {LEFT_OUT}),
    "nulls left out, in camelCase": (lambda run: camel(without_nulls(run)), {LEFT_OUT}),
    "a struct in Go": (go, {LEFT_OUT, ZEROS}),
    "zeros for nulls": (zig, {ZEROS}),
    "empty text for times": (lambda run: {k: "" if v is None and k in STAMPS else v for k, v in run.items()}, {ZEROS}),
    "camelCase": (camel, set()),
    "PascalCase": (pascal, {"runs with keys in PascalCase: read as snake_case"}),
    "times as text": (lambda run: times(run, str), {"runs with numbers as text: read as numbers"}),
    "counts as text": (
        lambda run: run | {"usage": run["usage"] and {k: str(v) for k, v in run["usage"].items()}, "top_p": "1.0"},
        {"runs with numbers as text: read as numbers"},
    ),
    "times as dates": (lambda run: times(run, iso), {"runs with times as dates: read as Unix seconds"}),
    "times without a zone": (
        lambda run: times(run, lambda t: datetime.fromtimestamp(t, UTC).replace(tzinfo=None).isoformat(" ")),
        {"runs with times as dates: read as Unix seconds"},
    ),
    "the first year for a time that is not set": (
        lambda run: {k: "0001-01-01T00:00:00Z" if v is None and k in STAMPS else v for k, v in run.items()},
        {ZEROS, "runs with times as dates: read as Unix seconds"},
    ),
    "times as decimals": (
        lambda run: times(run, lambda t: t + 0.25),
        {"runs with times in fractions of a second: rounded down"},
    ),
    "times in milliseconds": (
        lambda run: times(run, lambda t: t * 1000 + 7),
        {"runs with times in milliseconds: read as seconds"},
    ),
    "statuses as constants of Java": (
        lambda run: run | {"status": run["status"].upper()},
        {"runs whose status is spelled as a constant: read as the wire spells it"},
    ),
    "statuses as constants of C#": (
        lambda run: run | {"status": "".join(word.title() for word in run["status"].split("_"))},
        {"runs whose status is spelled as a constant: read as the wire spells it"},
    ),
    "statuses as constants of Python": (
        lambda run: run | {"status": f"RunStatus.{run['status'].upper()}"},
        {"runs whose status is spelled as a constant: read as the wire spells it"},
    ),
    "agents": (
        lambda run: {"agent_id" if key == "assistant_id" else key: value for key, value in run.items()},
        {"runs with agent_id: read as assistant_id"},
    ),
    "no name of the object": (
        lambda run: {key: value for key, value in run.items() if key != "object"},
        {"runs that do not say that they are: taken for runs by their shape"},
    ),
    "null for the name of the object": (
        lambda run: run | {"object": None},
        {"runs that do not say that they are: taken for runs by their shape"},
    ),
    "MongoDB's extended JSON": (
        lambda run: times(run, lambda t: {"$numberLong": str(t)}),
        {"runs in MongoDB's extended JSON: read as JSON", "runs with numbers as text: read as numbers"},
    ),
    "MongoDB's dates": (
        lambda run: times(run, lambda t: {"$date": {"$numberLong": str(t * 1000)}}),
        {
            "runs in MongoDB's extended JSON: read as JSON",
            "runs with numbers as text: read as numbers",
            "runs with times in milliseconds: read as seconds",
        },
    ),
    "counts of another vendor": (
        lambda run: run | {"usage": run["usage"] and {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}},
        {"runs whose usage counts input_tokens and output_tokens: read as prompt and completion"},
    ),
}

CONTAINERS: dict[str, Callable[[Trace], str | bytes]] = {
    "JSON lines": lines,
    "a log": lambda trace: log(trace, "INFO got "),
    "structured lines": lambda trace: lines({"level": "info", "payload": run} for run in trace),
    "events": lambda trace: "".join(f"data: {json.dumps(run)}\n\n" for run in trace),
    "curl": curl,
    **{name: RECORDERS[name] for name in ("vcrpy in JSON", "HAR with gzip", "the Azure SDK test proxy", "nock")},
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_is_judged_the_same(dialect: str, container: str) -> None:
    """The same steps and complaints as the wire's own spelling, and a note that says how it was read."""
    spell, remarks = DIALECTS[dialect]
    write = CONTAINERS[container]
    lawful = read(write([spell(run) for run in LAWFUL]))
    assert (5, []) == (lawful.snapshots, lawful.findings)
    assert read(lines(LAWFUL)).changes == lawful.changes
    assert remarks == notes(lawful).keys()
    unlawful = read(write([spell(run) for run in UNLAWFUL]))
    (complaint,) = unlawful.findings
    assert str(complaint).endswith(f": error: run run_1: {SAID}")


@pytest.mark.parametrize("spell", [without_nulls, go, zig, pascal, camel])
def test_a_stamp_that_is_missing_is_found_in_every_dialect(spell: Callable[[Json], Json]) -> None:
    """A completed run without its time of completion cannot be, also where null is spelled as absence or as zero."""
    broken = [*LAWFUL[:4], LAWFUL[4] | {"completed_at": None}]
    (complaint,) = read(lines(map(spell, broken))).findings
    assert "completed_at is null, but every path from queued to completed stamps it" in complaint.message
    early = [LAWFUL[0], LAWFUL[1] | {"completed_at": CREATED + 5}]
    (complaint,) = read(lines(map(spell, early))).findings
    assert "completed_at is set, but no path from queued to in_progress stamps it" in complaint.message


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_run_in_a_dialect_is_drawn(dialect: str) -> None:
    """What is judged can be drawn too: where it stands is the same picture."""
    expected = CliRunner().invoke(cli, ["diagram", "--run", "-"], input=lines(LAWFUL))
    drawn = CliRunner().invoke(cli, ["diagram", "--run", "-"], input=lines(map(DIALECTS[dialect][0], LAWFUL)))
    assert (0, expected.stdout) == (drawn.exit_code, drawn.stdout)


def test_notes_are_counted_once_a_file() -> None:
    """A thousand runs without nulls are one note, with the place of the first."""
    report = read(lines([LAWFUL[0], *[without_nulls(LAWFUL[0])] * 1000]))
    (note,) = report.notes
    assert ("read", 1000, "2") == (note.kind, note.count, str(note.first))


def test_a_run_without_any_stamp_is_judged_by_its_statuses() -> None:
    """Where a program kept no times, nothing is said of them; an order that cannot be is still found."""
    bare = [{k: v for k, v in run.items() if k not in STAMPS} for run in LAWFUL]
    bare = [without_nulls(run) for run in bare]
    report = read(lines(bare))
    assert [] == report.findings
    assert {
        "runs without any time stamp but created_at: their statuses were judged, their stamps were not": 5
    } == notes(report)
    assert 1 == read(lines([bare[4], bare[1]])).errors


def test_explicit_nulls_are_what_they_say() -> None:
    """A run that spells its nulls and has none of its stamps is judged as it stands: nothing excuses it."""
    (complaint,) = read(lines([LAWFUL[4] | {"completed_at": None, "started_at": None}])).findings[:1]
    assert "completed_at is null, but every path" in complaint.message
    without = {key: value for key, value in LAWFUL[4].items() if key != "failed_at"}
    (complaint,) = read(lines([without])).findings
    assert "failed_at: is missing" == complaint.message


DASHSCOPE = "runs in the dialect of DashScope: their statuses were judged, their stamps and usage were not"


def dashscope(run: Json, nothing: object = None, empty: object = None) -> Json:
    """A run of that service: times in milliseconds, no stamps, and names of its own for the counts."""
    usage = {"input_tokens": 4, "output_tokens": 1, "total_tokens": 5} if run["status"] == "completed" else None
    bare = run | dict.fromkeys(STAMPS, nothing) | {"created_at": run["created_at"] * 1000, "usage": usage}
    return bare | {"required_action": run["required_action"] or empty, "last_error": empty}


@pytest.mark.parametrize(("nothing", "empty"), [(None, None), (0, {}), (0, None), (None, {})])
def test_dashscope_is_named_and_its_statuses_are_judged(nothing: object, empty: object) -> None:
    """In a stream its stamps are null, in a page they are zero; required_action and last_error are empty objects."""
    lawful = read(sse([dashscope(run, nothing, empty) for run in LAWFUL]))
    assert (5, []) == (lawful.snapshots, lawful.findings)
    assert read(lines(LAWFUL)).changes == lawful.changes
    assert 5 == notes(lawful)[DASHSCOPE]
    unlawful = read(lines([dashscope(run, nothing, empty) for run in UNLAWFUL]))
    assert [SAID] == [f"{complaint.message} ({complaint.hint})" for complaint in unlawful.findings]


@pytest.mark.parametrize(
    ("member", "said"),
    [
        ({"created_at": "yesterday"}, "created_at: expected "),
        ({"created_at": 10**15}, "created_at: expected Unix seconds"),
        ({"created_at": "9" * 40}, "created_at: expected "),
        ({"created_at": float("1e300")}, "created_at: expected "),
        ({"started_at": "2025-99-99T00:00:00Z"}, "started_at: expected "),
        ({"started_at": [1]}, "started_at: expected "),
        ({"started_at": True}, "started_at: expected "),
        ({"status": "paused"}, "status: unknown status 'paused'"),
        ({"status": ["queued"]}, "status: unknown status"),
        ({"usage": {"prompt_tokens": "many"}}, "usage"),
        ({"required_action": {"type": "x"}}, "required_action"),
        ({"startedAt": 5, "started_at": 5}, "startedAt: stands twice"),
    ],
)
def test_what_is_of_no_dialect_is_refused_as_ever(member: Json, said: str) -> None:
    """A value that nothing spells is an error that names it, and no guess."""
    report = read(lines([LAWFUL[1] | member]))
    assert 0 == report.snapshots
    assert any(said in complaint.message for complaint in report.findings)
    assert 1 == report.not_judged
