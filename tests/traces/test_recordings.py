"""Recordings are read in every form they come in, and what is wrong in them is told with its place."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from runstate import ManualClock, Run, RunEvent, RunStatus, Usage, use_clock
from runstate.traces import Report, StatusChange, check_snapshots, read_snapshots

_CREATED = 1_800_000_000


def a_trace(run_id: str = "run_1") -> list[dict[str, Any]]:
    """Three snapshots of an ordinary run."""
    with use_clock(ManualClock(_CREATED)) as clock:
        run = Run.create(id=run_id, thread_id="thread_1", assistant_id="asst_1", model="gpt-4o")
        trace = [run.to_dict()]
        clock.advance(1)
        run.start()
        trace.append(run.to_dict())
        clock.advance(1)
        run.complete(Usage(1, 2))
        trace.append(run.to_dict())
    return trace


def lines(text: str | bytes) -> io.BytesIO:
    return io.BytesIO(text if isinstance(text, bytes) else text.encode())


def read(text: str | bytes) -> Report:
    return check_snapshots(read_snapshots(lines(text)))


def places(text: str | bytes) -> list[str]:
    return [snapshot.place for snapshot in read_snapshots(lines(text))]


def sse(trace: list[dict[str, Any]]) -> str:
    events = "".join(f"event: thread.run.{run['status']}\ndata: {json.dumps(run)}\n\n" for run in trace)
    return f": a comment\n\n{events}event: done\ndata: [DONE]\n\n"


FORMS = {
    "JSON lines": "\n".join(map(json.dumps, a_trace())),
    "JSON lines with an envelope": "\n".join(json.dumps({"source": "x", "run": run}) for run in a_trace()),
    "JSON lines with CRLF and blanks": "\r\n\r\n".join(map(json.dumps, a_trace())) + "\r\n",
    "an array on one line": json.dumps(a_trace()),
    "an array on many lines": json.dumps(a_trace(), indent=2),
    "a list page": json.dumps({"object": "list", "data": a_trace(), "has_more": False}, indent=1),
    "envelopes with data": "\n".join(json.dumps({"event": "thread.run.x", "data": run}) for run in a_trace()),
    "server-sent events": sse(a_trace()),
    "server-sent events after a byte order mark": "\ufeff" + sse(a_trace()).removeprefix(": a comment\n\n"),
    "a byte order mark": "\ufeff" + "\n".join(map(json.dumps, a_trace())),
    "camelCase": "\n".join(Run.from_dict(run).to_json("camel") for run in a_trace()),
}


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS.keys())
def test_every_form_gives_the_same_snapshots(text: str) -> None:
    """Three snapshots of one run, its two changes of status, and nothing to complain about."""
    report = read(text)
    assert (3, {"run_1"}, []) == (report.snapshots, report.run_ids, report.findings)
    steps = {
        StatusChange(RunStatus.QUEUED, RunStatus.IN_PROGRESS, (RunEvent.START,)): 1,
        StatusChange(RunStatus.IN_PROGRESS, RunStatus.COMPLETED, (RunEvent.COMPLETE,)): 1,
    }
    assert steps == dict(report.changes)


def test_a_single_object_over_many_lines_is_one_snapshot() -> None:
    """Pretty-printed JSON is read as what it is."""
    assert ["3"] == places("\n\n" + json.dumps(a_trace()[0], indent=4))


def test_places_are_the_lines_of_the_file() -> None:
    """Blank lines count, and members of arrays are told by their index."""
    first, second, third = map(json.dumps, a_trace())
    assert ["2", "5", "6"] == places(f"\n{first}\n\n\n{second}\n{third}\n")
    assert ["1[0]", "1[1]", "1[2]"] == places(json.dumps(a_trace()))
    assert ["1.data[0]", "1.data[1]", "1.data[2]"] == places(json.dumps({"object": "list", "data": a_trace()}))
    assert ["4", "7", "10"] == places(sse(a_trace()))


def test_an_event_over_many_data_lines_is_one_object() -> None:
    """The lines of one event's data are joined, as the format says, and the place is the first of them."""
    data = "\n".join(f"data: {line}" for line in json.dumps(a_trace()[0], indent=1).splitlines())
    report = read(f"event: thread.run.created\nid: 7\nretry: 10\n{data}\n\n")
    assert (1, []) == (report.snapshots, report.findings)
    assert ["4"] == places(f"event: thread.run.created\nid: 7\nretry: 10\n{data}\n\n")


def test_an_event_cut_off_at_the_end_is_still_read() -> None:
    """A capture that ends without its blank line loses nothing."""
    assert 1 == read(f"event: thread.run.created\ndata: {json.dumps(a_trace()[0])}").snapshots


def test_what_says_it_is_no_run_is_passed_over() -> None:
    """Messages and steps stand between the runs of a stream."""
    step = json.dumps({"id": "step_1", "object": "thread.run.step", "status": "in_progress"})
    report = read(f"{step}\n{json.dumps(a_trace()[0])}\n")
    assert (1, []) == (report.snapshots, report.findings)


def test_an_event_that_names_another_status_is_told() -> None:
    """The event and the status it came with must agree; created comes with queued."""
    queued, started, _ = a_trace()
    assert [] == read(json.dumps({"event": "thread.run.created", "run": queued})).findings
    assert [] == read(json.dumps({"event": "thread.run.step.created", "run": started})).findings
    (complaint,) = read(json.dumps({"event": "thread.run.created", "run": started})).findings
    assert ("1", "error", "run_1") == (complaint.place, complaint.severity, complaint.run_id)
    assert "the event thread.run.created came with a run in in_progress" == complaint.message


def test_an_impossible_step_names_run_line_and_reason() -> None:
    """A completed run that starts again is told at the line where it does."""
    queued, started, completed = map(json.dumps, a_trace())
    (complaint,) = read(f"{queued}\n{completed}\n{started}\n").findings
    expected = (
        "3: error: run run_1: no path leads from completed to in_progress (completed is terminal, nothing leaves it)"
    )
    assert expected == str(complaint)


def test_one_bad_line_spoils_no_other() -> None:
    """Its faults are told with its place; the rest is judged as if it were not there."""
    queued, started, completed = map(json.dumps, a_trace())
    report = read(
        f"{queued}\n{started[:40]}\n{started}\n{json.dumps({'id': 'run_2', 'status': 'paused'})}\n{completed}"
    )
    assert (3, {"run_1"}) == (report.snapshots, report.run_ids)
    assert {"2", "4"} == {complaint.place for complaint in report.findings}
    assert 2 == sum(report.changes.values())
    assert any("unknown status 'paused'" in str(complaint) for complaint in report.findings)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "1: error: no run in it"),
        (b"\n \n\t\n", "1: error: no run in it"),
        (b"{", "1: error: not JSON at line 1 column 2: the text ends too early"),
        (b"hello", "1: error: not JSON at line 1 column 1: unexpected 'h'"),
        (b"\xff{}", "1: error: byte 0 is not UTF-8: save it as UTF-8"),
        (b"\xff\xfe{\0}\0", "1: error: no run: it has neither id nor status"),
        (b"[1]", "1[0]: error: expected a run, an array of runs or an envelope of one"),
        (b"{\n\n\n x}", "1: error: not JSON at line 4 column 1: unexpected 'x'"),
        (b'{"a": NaN}', "1: error: a: nan is not a JSON number"),
        (b'{"a": 1, "a": 2}', "1: error: a: stands twice"),
        (b"[" * 5000, "1: error: nested deeper than 80 levels"),
        (b"data: {}\n\n", "1: error: no run: it has neither id nor status"),
        (
            b'{"id": "run_1", "status": "queued", "object": "thread.run"}',
            "1: error: run run_1: these keys are missing: created_at, ",
        ),
        (b'event: error\ndata: {"error": {"message": "no"}}\n\n', "2: error: no run: it has neither id nor status"),
    ],
)
def test_bad_bytes_are_told_with_their_place(text: bytes, said: str) -> None:
    """Whatever the bytes, the answer is a complaint, and never an exception."""
    assert str(read(text).findings[0]).startswith(said)


def test_a_document_past_the_bound_is_refused_without_reading_on() -> None:
    """An endless document ends at the reader's bound."""
    read_lines = 0

    def endless() -> Any:
        nonlocal read_lines
        yield b"[\n"
        while True:
            read_lines += 1
            yield b"x" * 1_000_000 + b"\n"

    (complaint,) = check_snapshots(read_snapshots(endless())).findings
    assert "expected at most 16777216 bytes" in complaint.message
    assert 17 == read_lines


def test_the_same_run_in_two_recordings_counts_once() -> None:
    """Totals count snapshots and steps of both, and the run once."""
    total = Report()
    for _ in range(2):
        total.add(read(FORMS["JSON lines"]))
    assert (6, {"run_1"}, 4) == (total.snapshots, total.run_ids, sum(total.changes.values()))


def test_a_known_reason_is_a_warning_and_no_error() -> None:
    """A run of 2023 without usage is odd for a known reason."""
    old = a_trace()[2] | {"created_at": 1_700_000_000, "started_at": 1_700_000_001, "usage": None}
    report = read(json.dumps(old | {"completed_at": 1_700_000_002}))
    assert ["warning"] == [complaint.severity for complaint in report.findings]
    assert 0 == report.errors
    assert "runs carry usage only since February 2024" in str(report.findings[0])


@pytest.mark.parametrize("field", ["usage", "incomplete_details"])
def test_what_is_excused_is_so_in_every_step(field: str) -> None:
    """Seen twice, or after it was seen at work, such a run is as odd as by itself."""
    born = {"usage": 1_700_000_000, "incomplete_details": 1_714_000_000}[field]
    odd = {"usage": None} if field == "usage" else {"incomplete_details": {"reason": "max_prompt_tokens"}}
    at_work = a_trace()[1] | {"created_at": born, "started_at": born + 1, "expires_at": born + 600}
    ended = a_trace()[2] | {"created_at": born, "started_at": born + 1, "completed_at": born + 2} | odd
    report = read("\n".join(json.dumps(run) for run in (at_work, ended, ended)))
    assert ["warning"] * 2 == [complaint.severity for complaint in report.findings]
    assert 1 == report.changes.total()


def test_a_colon_is_a_comment() -> None:
    """It ends no event, wherever it stands."""
    first, second = json.dumps(a_trace()[0], indent=0).split("\n", 1)
    data = "\n".join(f"data: {line}" for line in second.splitlines())
    assert 1 == read(f"event: thread.run.queued\n:\ndata: {first}\n:\n{data}\n\n").snapshots
    wrong = read(f"event: thread.run.completed\n:\ndata: {json.dumps(a_trace()[0])}\n\n")
    assert 1 == wrong.errors


def test_a_first_line_cut_off_spoils_no_other() -> None:
    """Lines that are objects are read as lines, also when the first of them is not whole."""
    first, *more = map(json.dumps, a_trace())
    report = read("\n".join([first[:50], *more]))
    assert (2, 1) == (report.snapshots, report.errors)
    assert "1: error: not JSON at line 1 column" in str(report.findings[0])


def test_an_error_is_told_by_the_line_of_the_file() -> None:
    """The line in the sentence is the line before it."""
    first, second, _ = map(json.dumps, a_trace())
    (complaint,) = read(f"{first}\n\n{second[:50]}\n").findings
    assert str(complaint).startswith("3: error: not JSON at line 3 column ")


def test_complaints_come_in_the_order_of_the_file() -> None:
    """Whatever they are about, they are told from top to bottom."""
    first, second, third = a_trace()
    broken = [first | {"failed_at": 5}, {"id": "run_2", "status": "paused"}, second | {"cancelled_at": 5}, third]
    found = read("\n".join(map(json.dumps, broken))).findings
    lines_told = [finding.location.line for finding in found if finding.location]
    assert sorted(lines_told) == lines_told
    assert {1, 2, 3} == set(lines_told)


def test_what_is_no_recording_is_given_up() -> None:
    """A hundred lines that cannot be read are enough to know."""
    report = read("nonsense\n" * 5000)
    assert 101 == len(report.findings)
    assert "100: error: gave up after 100 that cannot be read" == str(report.findings[-1])


def test_a_recording_cannot_forge_lines_or_speak_to_the_terminal() -> None:
    """Ids and keys come from strangers; control characters, line breaks and lone surrogates are told as escapes."""
    hostile = "run_\x1b[2J\nfake.jsonl:1: error: x\ud800"
    record = a_trace()[2] | {"id": hostile, "failed_at": 5, "metadata": {"\x1b[2J": 5}}
    told = [str(complaint) for complaint in read(json.dumps(record)).findings]
    told += [str(complaint) for complaint in read(json.dumps(record | {"metadata": {}})).findings]
    assert len(told) >= 2
    assert all(said.isprintable() for said in told)
    assert any("run run_\\x1b[2J\\nfake.jsonl" in said for said in told)
