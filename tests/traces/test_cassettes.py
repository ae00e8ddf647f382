"""Recorded HTTP is read in every form it is kept in; only its runs are seen, and each is told with its place.

The files in `data/` were recorded from a local server that speaks runs of this library: the cassettes by vcrpy 9
(`cassette_httpx.yaml` by vcrpy 5, which wrote the answers to httpx in another shape) and betamax, the HAR file by
mitmproxy.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import random
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest

from runstate import RUN_LIFECYCLE, ManualClock, Run, RunStatus, ToolCall, Usage, use_clock
from runstate.cli import cli
from runstate.errors import RunDecodeError
from runstate.run.codec import MAX_BYTES
from runstate.traces import Report, check_snapshots, read_snapshots
from runstate.traces import _yaml as yaml_values
from runstate.traces._reader import begins_yaml
from tests.support.cli_runner import CliRunner

DATA = Path(__file__).parent / "data"
CREATED = 1_800_000_000
RUNS = "http://localhost/v1/threads/thread_1/runs"
Json = dict[str, Any]


def a_trace(run_id: str = "run_1") -> list[Json]:
    """Three snapshots of an ordinary run."""
    with use_clock(ManualClock(CREATED)) as clock:
        run = Run.create(id=run_id, thread_id="thread_1", assistant_id="asst_1", model="gpt-4o")
        trace = [run.to_dict()]
        clock.advance(1)
        run.start()
        trace.append(run.to_dict())
        clock.advance(1)
        run.complete(Usage(1, 2))
        return [*trace, run.to_dict()]


def a_run_in(status: RunStatus) -> Json:
    """A run that came to a status by the shortest way."""
    with use_clock(ManualClock(CREATED)):
        run = Run.create(id="run_1", thread_id="thread_1", assistant_id="asst_1", model="gpt-4o")
        given: dict[str, tuple[Any, ...]] = {
            "require_action": ([ToolCall("call_1", "f")],),
            "mark_incomplete": ("max_prompt_tokens",),
            "fail": ("server_error", "no"),
        }
        for event in RUN_LIFECYCLE.shortest_path(RunStatus.QUEUED, status) or ():
            getattr(run, event.value)(*given.get(event.value, ()))
        return run.to_dict()


def an_interaction(body: object, uri: str = f"{RUNS}/run_1", method: str = "GET", code: int = 200, **more: Any) -> Json:
    """One interaction as vcrpy writes it; `more` are headers of the answer."""
    headers = {name.replace("_", "-").title(): [value] for name, value in more.items()}
    response = {"status": {"code": code, "message": ""}, "headers": headers, "body": body}
    return {"request": {"method": method, "uri": uri, "body": None, "headers": {}}, "response": response}


def a_cassette(*interactions: Json) -> str:
    return json.dumps({"version": 1, "interactions": interactions})


def answered(*values: object) -> str:
    """A cassette of answers that are JSON."""
    return a_cassette(*(an_interaction({"string": json.dumps(value)}) for value in values))


def packed(data: bytes) -> Json:
    return {"base64_string": base64.b64encode(data).decode()}


def an_entry(run: Json, second: int) -> Json:
    """One entry of a HAR file."""
    content = {"mimeType": "application/json", "text": json.dumps(run)}
    return {
        "startedDateTime": f"2027-01-15T08:00:{second:02}.000Z",
        "request": {"method": "GET", "url": f"{RUNS}/run_1"},
        "response": {"status": 200, "headers": [], "content": content},
    }


def a_har(*entries: Json) -> str:
    return json.dumps({"log": {"version": "1.2", "entries": entries}})


def sse(trace: list[Json]) -> str:
    events = "".join(f"event: thread.run.{run['status']}\ndata: {json.dumps(run)}\n\n" for run in trace)
    return f"{events}event: done\ndata: [DONE]\n\n"


def read(text: str | bytes) -> Report:
    return check_snapshots(read_snapshots(io.BytesIO(text if isinstance(text, bytes) else text.encode())))


def places(text: str | bytes) -> list[str]:
    lines = io.BytesIO(text if isinstance(text, bytes) else text.encode())
    return [snapshot.place for snapshot in read_snapshots(lines)]


def told(text: str | bytes) -> list[str]:
    return [str(complaint) for complaint in read(text).findings]


# --- what the recorders write -----------------------------------------------------------------------------------------

RECORDED = {
    "betamax.json": (2, 1, ["interaction 1", "interaction 2"]),
    "cassette.json": (8, 2, [*(f"interaction 1 line {line}" for line in (2, 5, 8, 17)), "interaction 2"]),
    "cassette.yaml": (4, 1, ["interaction 2", "interaction 3", "interaction 4", "interaction 5"]),
    "cassette_gzip.yaml": (10, 2, [*(f"interaction 1 line {line}" for line in (2, 5, 8, 17)), "interaction 2"]),
    "cassette_httpx.yaml": (4, 1, ["interaction 2", "interaction 3", "interaction 4", "interaction 5"]),
    "recorded.har": (7, 2, ["entry 1", "entry 2", "entry 3", *(f"entry 7 line {line}" for line in (2, 5, 8, 17))]),
}


@pytest.mark.parametrize("name", RECORDED)
def test_what_was_recorded_of_a_lawful_server_is_in_order(name: str) -> None:
    """Every run in it is seen at its place, what is no run is silent, and nothing is complained about."""
    data = (DATA / name).read_bytes()
    report = read(data)
    expected, runs, first = RECORDED[name]
    assert (expected, runs, []) == (report.snapshots, len(report.run_ids), report.findings)
    assert first == places(data)[: len(first)]


def test_every_recording_is_tried() -> None:
    """No file lies beside the tests that none reads."""
    assert set(RECORDED) == {path.name for path in DATA.iterdir()}


def test_a_list_page_is_read_member_by_member() -> None:
    """The place of a run in a page is its index, after the interaction."""
    assert ["interaction 6.data[0]", "interaction 6.data[1]"] == places((DATA / "cassette_gzip.yaml").read_bytes())[-2:]


def test_line_ends_of_another_system_change_nothing() -> None:
    """A cassette that a checkout gave CRLF, after blank lines and a byte order mark, is the same cassette."""
    data = (DATA / "cassette_gzip.yaml").read_bytes()
    assert places(data) == places(data.replace(b"\n", b"\r\n"))
    assert places(data) == places(b"\n\n\xef\xbb\xbf---\n" + data)


def test_the_command_reads_them() -> None:
    """`runstate check` counts the snapshots of a cassette, and its JSON has their places."""
    lawful = CliRunner().invoke(cli, ["check", *(str(DATA / name) for name in RECORDED)])
    assert (0, "35") == (lawful.exit_code, lawful.stdout.splitlines()[1 + len(RECORDED)].split()[0])
    broken = answered(a_trace()[2], a_trace()[1])
    done = CliRunner().invoke(cli, ["check", "--json", "-"], input=broken)
    assert (1, "interaction 2") == (done.exit_code, json.loads(done.stdout)["total"]["findings"][0]["place"])


def test_a_cassette_of_the_r_package_is_read() -> None:
    """It has the shape of Ruby's VCR, a status of its own, and bodies over many lines that it unpacked itself."""
    text = "http_interactions:\n"
    for run in a_trace():
        body = json.dumps(run, indent=2).replace("\n", "\n        ")
        text += f"- request:\n    method: get\n    uri: {RUNS}/run_1\n    body:\n      encoding: ''\n      string: ''\n"
        text += "  response:\n    status:\n      status_code: 200\n    headers:\n      content-encoding: gzip\n"
        text += f"    body:\n      encoding: ''\n      file: no\n      string: |-\n        {body}\n"
        text += "  recorded_at: 2024-05-21 01:09:51 GMT\n"
    report = read(text + "recorded_with: vcr/1.2.2\n")
    assert (3, []) == (report.snapshots, report.findings)


def test_a_cassette_of_ruby_is_read() -> None:
    """Its bytes have a tag without a home; its tags for classes are passed over, and make nothing."""
    body = base64.b64encode(gzip.compress(json.dumps(a_trace()[0]).encode())).decode()
    text = f"---\nhttp_interactions:\n- request: !ruby/object:Thing\n    method: get\n    uri: {RUNS}/run_1\n"
    text += f"  response:\n    status: {{code: 200}}\n    body:\n      string: !binary |-\n        {body}\n"
    assert ["interaction 1"] == places(text)


def test_an_old_cassette_with_python_objects_is_read_and_makes_none() -> None:
    """Bodies of requests were once written as pickled files; what stands under such a tag stays what it is."""
    text = "interactions:\n- request:\n    method: GET\n    body: !!python/object/new:_io.BytesIO\n      state: [x]\n"
    text += f"    uri: {RUNS}/run_1\n  response:\n    status: {{code: 200}}\n    body:\n"
    text += f"      string: !!python/unicode '{json.dumps(a_trace()[0])}'\nversion: 1\n"
    assert ["interaction 1"] == places(text)


def test_a_body_that_was_written_as_a_value_is_read() -> None:
    """Some write JSON as it is, so that people can read it."""
    run = a_trace()[1]
    bodies: list[Json] = [{"body": {"string": run}}, {"body": run}, {"parsed_body": run}]
    for response in bodies:
        interaction = {"request": {}, "response": {"status": {"code": 200}, **response}}
        assert ["interaction 1"] == places(a_cassette(interaction))
        assert [] == told(f"---\ninteractions:\n- {json.dumps(interaction)}\n")


# --- bodies -----------------------------------------------------------------------------------------------------------


def deflated(data: bytes, wbits: int) -> bytes:
    writer = zlib.compressobj(wbits=wbits)
    return writer.compress(data) + writer.flush()


TEXT = json.dumps(a_trace()[0]).encode()
BODIES = {
    "gzip": (gzip.compress(TEXT), "gzip"),
    "gzip whose header was filtered out": (gzip.compress(TEXT), ""),
    "deflate": (deflated(TEXT, 15), "deflate"),
    "deflate without its header": (deflated(TEXT, -15), "Deflate"),
    "not compressed": (TEXT, ""),
    "unpacked before it was written": (TEXT, "br"),
    "after a byte order mark": (b"\xef\xbb\xbf" + TEXT, ""),
    "after blanks": (b"\n\n " + TEXT, "identity"),
}


@pytest.mark.parametrize(("data", "encoding"), BODIES.values(), ids=BODIES.keys())
def test_a_body_is_unpacked_as_its_header_says(data: bytes, encoding: str) -> None:
    """Gzip and deflate are read, and what was unpacked before it was written is not unpacked twice."""
    report = read(a_cassette(an_interaction(packed(data), content_encoding=encoding)))
    assert (1, []) == (report.snapshots, report.findings)
    content = {"text": packed(data)["base64_string"], "encoding": "base64"}
    response = {"status": 200, "headers": [{"name": "Content-Encoding", "value": encoding}], "content": content}
    assert ["entry 1"] == places(a_har({"request": {}, "response": response}))


@pytest.mark.parametrize(
    ("data", "encoding", "said"),
    [
        (b"\x1b\x05\x00\xf8", "br", "compressed with br: only gzip and deflate are read, so record it with Accept-"),
        (b"[\x05\x00\xf8", "br", "the body is compressed with br"),
        (b"\x28\xb5\x2f\xfd", "zstd", "the body is compressed with zstd: only gzip and deflate are read"),
        (b"\x00\x01", "gzip", "the body is not gzip, as its header says"),
        (gzip.compress(TEXT)[:-20], "gzip", "the body is gzip that was cut off"),
        (b"\x1f\x8b\x08" + b"\xff" * 40, "gzip", "the body is broken gzip"),
        (b"\xff\xff\xff", "deflate", "the body is broken deflate"),
        (gzip.compress(b"\0" * (MAX_BYTES + 1)), "gzip", f"unpacks from gzip to more than {MAX_BYTES} bytes"),
        (TEXT[:100], "", "not JSON at line 1 column"),
    ],
)
def test_a_body_that_cannot_be_read_is_told_if_it_may_have_held_a_run(data: bytes, encoding: str, said: str) -> None:
    """It is a complaint where runs are asked for, and silent elsewhere, and the run after it is read."""
    after = an_interaction(packed(TEXT))
    report = read(a_cassette(an_interaction(packed(data), content_encoding=encoding), after))
    (complaint,) = report.findings
    assert (1, "interaction 1", "error") == (report.snapshots, complaint.place, complaint.severity)
    assert said in complaint.message
    elsewhere = an_interaction(packed(data), uri="http://localhost/v1/embeddings", content_encoding=encoding)
    expected = [] if b'"thread.run"' not in data else [complaint.message]
    assert expected == [complaint.message for complaint in read(a_cassette(elsewhere, after)).findings]


def test_base64_that_is_none_is_told() -> None:
    """In YAML and in JSON, with its interaction; and bytes in YAML may be broken over lines."""
    body = "*broken*"
    assert "interaction 1: error: the body is not base64" in told(a_cassette(an_interaction({"base64_string": body})))
    text = "interactions:\n- request: {uri: http://localhost/runs}\n  response:\n    body:\n      string: !!binary |\n"
    assert ["interaction 1: error: the body is not base64"] == told(f"{text}        {body}\n")
    folded = "\n".join(f"        {line}" for line in base64.encodebytes(TEXT).decode().split())
    assert [] == told(f"{text}{folded}\n")


def test_all_bodies_together_are_bounded() -> None:
    """Many bodies that are each within the bound are refused once they are too much in all."""
    body = packed(gzip.compress(b" " * (MAX_BYTES - 1000) + TEXT))
    said = told(a_cassette(*(an_interaction(body) for _ in range(6))))
    assert ["interaction 5", "interaction 6"] == [line.split(":")[0] for line in said]
    assert f"the bodies of this file unpack to more than {4 * MAX_BYTES} bytes" in said[0]


def test_a_stream_cut_off_is_told_by_its_line() -> None:
    """The events before are read; the line is that of the body."""
    body = sse(a_trace())
    (said,) = told(a_cassette(an_interaction({"string": body[: body.rindex("usage")]})))
    assert said.startswith("interaction 1 line 8: error: not JSON at line 8 column ")


def test_an_event_that_names_another_status_is_told() -> None:
    """Events in bodies are held to the run that came with them, as in a capture."""
    body = sse(a_trace()).replace("thread.run.completed", "thread.run.expired")
    (said,) = told(a_cassette(an_interaction({"string": body})))
    assert said.startswith("interaction 1 line 8: error: run run_1: the event thread.run.expired came with a run in")


# --- what is no run ---------------------------------------------------------------------------------------------------

OTHERS: list[object] = [
    {"id": "thread_1", "object": "thread", "created_at": 1},
    {"id": "msg_1", "object": "thread.message", "status": "completed"},
    {"id": "step_1", "object": "thread.run.step", "status": "in_progress"},
    {"id": "batch_1", "object": "batch", "status": "in_progress"},
    {"id": "x", "status": "queued"},
    {"object": "list", "data": [{"id": "step_1", "object": "thread.run.step", "status": "completed"}]},
    {"error": {"message": "no", "type": "server_error"}},
    {"data": 5},
    [1, "a", None, [{}]],
    {},
    None,
    5,
]


def test_other_traffic_is_silent() -> None:
    """Messages, steps, errors, pages, pictures and bodies that are not there are passed over, wherever they came."""
    bodies: list[object] = [{"string": json.dumps(value)} for value in OTHERS]
    bodies += [{"string": "<html></html>"}, {"string": ""}, {"string": None}, {}, None, "", packed(b"\x89PNG\xff")]
    bodies += [{"string": 'event: error\ndata: {"error": {"message": "no"}}\n\n'}, *OTHERS]
    interactions = [an_interaction(body, uri=uri) for body in bodies for uri in (RUNS, "http://localhost/", "")]
    report = read(a_cassette(*interactions, an_interaction({"string": TEXT.decode()})))
    assert (1, []) == (report.snapshots, report.findings)


def test_steps_of_a_run_are_silent_even_if_unreadable() -> None:
    """The path says that no run was asked for."""
    steps = an_interaction(packed(b"\x1b\x05"), uri=f"{RUNS}/run_1/steps?limit=5", content_encoding="br")
    assert [] == told(a_cassette(steps, an_interaction(packed(TEXT))))


def test_a_cassette_without_any_run_says_so() -> None:
    """As for every file that was given: whoever asks to check it expects one."""
    assert ["1: error: no run in it"] == told(answered(*OTHERS))
    assert ["1: error: no run in it"] == told("interactions: []\nversion: 1\n")


def test_what_says_that_it_is_a_run_must_be_one() -> None:
    """Whatever its path; the faults are told with the interaction."""
    broken = an_interaction({"string": json.dumps(a_trace()[0] | {"status": "paused"})}, uri="http://localhost/x")
    (said,) = told(a_cassette(broken))
    assert said.startswith("interaction 1: error: run run_1: status: unknown status 'paused'")


@pytest.mark.parametrize("code", [400, 404, 500, "503"])
def test_an_answer_that_says_no_is_no_snapshot(code: int) -> None:
    """What stands in the body of an HTTP error was not observed of the run."""
    queued, started, completed = a_trace()
    refused = an_interaction({"string": json.dumps(started)}, code=code)
    others = [an_interaction({"string": json.dumps(run)}) for run in (queued, completed)]
    report = read(a_cassette(*others, refused))
    assert (2, []) == (report.snapshots, report.findings)


# --- what cannot be ---------------------------------------------------------------------------------------------------


def test_an_impossible_step_names_its_interaction() -> None:
    """A completed run that is in progress again is found, in JSON and in YAML, between other traffic."""
    expected = "interaction 5: error: run run_1: no path leads from completed to in_progress (completed is terminal, "
    queued, started, completed = a_trace()
    text = answered(queued, OTHERS[0], completed, OTHERS[1], started)
    for form in (text, json.dumps(json.loads(text), indent=4), f"---\n{text}"):
        (said,) = told(form)
        assert said.startswith(expected)


def test_a_real_cassette_put_out_of_order_is_found() -> None:
    """Polls that are told in the wrong order are told with the interaction that cannot be."""
    text = (DATA / "cassette.yaml").read_text()
    head, *polls = text.split("- request:")
    swapped = "- request:".join([head, *polls[:2], polls[4], polls[3], polls[2], *polls[5:]])
    (said,) = told(swapped)
    assert said.startswith("interaction 4: error: run run_1: no path leads from completed to in_progress")


def test_a_har_file_is_judged_in_the_order_of_its_times() -> None:
    """Entries may stand in any order; the number is that in the file, whose order counts if a time is missing."""
    queued, started, completed = a_trace()
    entries = [an_entry(completed, 3), an_entry(queued, 1), an_entry(started, 2)]
    assert ["entry 2", "entry 3", "entry 1"] == places(a_har(*entries))
    assert [] == told(a_har(*entries))
    later = [an_entry(completed, 2), an_entry(queued, 1), an_entry(started, 3)]
    (said,) = told(a_har(*later))
    assert said.startswith("entry 3: error: run run_1: no path leads from completed to in_progress")
    del later[1]["startedDateTime"]
    assert ["entry 1", "entry 2", "entry 3"] == places(a_har(*later))


def test_times_with_and_without_a_zone_are_ordered() -> None:
    """A time without a zone is taken as UTC, so that nothing is refused."""
    queued, started, completed = (an_entry(run, 0) for run in a_trace())
    queued["startedDateTime"] = "2027-01-15T08:00:00"
    started["startedDateTime"] = "2027-01-15T09:00:01.1234567+01:00"
    completed["startedDateTime"] = "2027-01-15T08:00:02Z"
    assert ["entry 3", "entry 2", "entry 1"] == places(a_har(completed, started, queued))


@pytest.mark.parametrize("status", RunStatus)
def test_an_accepted_cancel_leads_to_cancelling(status: RunStatus) -> None:
    """Its answer may have gone on from there as the law allows, but is never a run that nobody cancels."""
    cancel = an_interaction({"string": json.dumps(a_run_in(status))}, uri=f"{RUNS}/run_1/cancel?a=b", method="POST")
    possible = RUN_LIFECYCLE.shortest_path(RunStatus.CANCELLING, status) is not None
    assert {"queued", "in_progress", "requires_action"} == {
        s for s in RunStatus if RUN_LIFECYCLE.shortest_path(RunStatus.CANCELLING, s) is None
    }
    said = (
        f"interaction 1: error: run run_1: request_cancel was accepted, but answered with a run in {status} (possible: "
    )
    assert possible is (told(a_cassette(cancel)) == [])
    assert possible or told(a_cassette(cancel))[0].startswith(said)
    refused = an_interaction({"string": json.dumps(a_run_in(status))}, uri=f"{RUNS}/run_1/cancel", method="GET")
    assert [] == told(a_cassette(refused))


@pytest.mark.parametrize("status", RunStatus)
def test_an_accepted_submit_leads_anywhere(status: RunStatus) -> None:
    """From queued a run may have gone on to every status before the answer, so nothing is certain."""
    submit = an_interaction({"string": json.dumps(a_run_in(status))}, f"{RUNS}/run_1/submit_tool_outputs", "POST")
    assert [] == told(a_cassette(submit))


def test_a_law_without_the_event_says_nothing_of_its_answer() -> None:
    """A law of one's own need not know how to cancel."""
    cancel = an_interaction({"string": json.dumps(a_trace()[0])}, uri=f"{RUNS}/run_1/cancel", method="POST")
    lifecycle = type(RUN_LIFECYCLE)(tuple(row for row in RUN_LIFECYCLE.transitions if row.event != "request_cancel"))
    assert [] == check_snapshots(read_snapshots([a_cassette(cancel).encode()]), lifecycle).findings


# --- hostile files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("interactions:\n- request: {a: '", "1: error: not YAML at line 2 column "),
        ("\n\ninteractions:\n- a: b: c", "1: error: not YAML at line 4 column "),
        ("interactions:\n- &a [x]\n- *a\n", "1: error: line 3 has an alias (*a), which is not read"),
        ("interactions: " + "[" * 100_000, "1: error: nested deeper than 80 levels"),
        ("interactions:\n- ? [a]\n  : b\n", "1: error: expected keys that are text"),
        ("---\na: 1\n---\nb: 2\n", "1: error: expected one YAML document, got 2"),
        ("version: 1\n", "1: error: no cassette: it has neither interactions nor http_interactions"),
        ("version: \x00", "1: error: not YAML at line 1 column 10: a character it does not allow"),
        (b"version: \xff", "1: error: byte 9 is not UTF-8"),
        ('version: "\\UFFFFFFFF"', "1: error: not YAML"),
        ("---\n", "1: error: no cassette"),
        ("--- !!int x", "1: error: no cassette"),
        ("interactions: []\nversion: " + "x" * MAX_BYTES, f"1: error: expected at most {MAX_BYTES} bytes"),
    ],
)
@pytest.mark.parametrize("loader", ["C", "Python"])
def test_yaml_that_is_no_cassette_is_told(
    text: str | bytes, said: str, loader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the bytes and whichever reader PyYAML has, the answer is one complaint, and never an exception."""
    if loader == "Python":
        monkeypatch.delattr("yaml.CSafeLoader", raising=False)
    (complaint,) = told(text)
    assert complaint.startswith(said)


def test_aliases_of_aliases_are_refused_before_they_grow() -> None:
    """Nine lines that stand for a thousand million values are one complaint."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)]
    (said,) = told("---\n" + "\n".join(lines) + "\ninteractions: *i\n")
    assert "1: error: line 3 has an alias (*a), which is not read" == said


def test_without_pyyaml_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cassette in YAML is one complaint then, and everything else is read as ever."""
    monkeypatch.setitem(sys.modules, "yaml", cast("ModuleType", None))
    expected = ["1: error: YAML is read with PyYAML, which is not installed: pip install pyyaml"]
    assert expected == told((DATA / "cassette.yaml").read_bytes())
    assert [] == told((DATA / "cassette.json").read_bytes())
    assert [] == told((DATA / "recorded.har").read_bytes())


def test_yaml_is_not_loaded_for_what_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyYAML is a library of those who have cassettes: nothing else asks for it."""
    monkeypatch.delitem(sys.modules, "yaml", raising=False)
    assert [] == told((DATA / "cassette.json").read_bytes())
    assert "yaml" not in sys.modules


def test_a_cassette_past_the_bound_is_refused_without_reading_on() -> None:
    """An endless one ends at the reader's bound, in YAML as in JSON."""
    for opening in (b"interactions:\n", b'{"interactions": [\n'):
        read_lines = 0

        def endless(begin: bytes = opening) -> Iterator[bytes]:
            nonlocal read_lines
            yield begin
            while True:
                read_lines += 1
                yield b"- " + b"x" * 1_000_000 + b"\n"

        (complaint,) = check_snapshots(read_snapshots(endless())).findings
        assert f"expected at most {MAX_BYTES} bytes" in complaint.message
        assert 17 == read_lines


def test_twenty_megabytes_are_refused_and_fifteen_read() -> None:
    """A cassette of many small interactions is read through, whatever its size within the bound."""
    one = an_interaction({"string": "x" * 150_000})
    small = [an_interaction({"string": json.dumps(run)}) for run in a_trace()]
    for form in ("", "---\n"):
        assert [] == told(form + a_cassette(*small, *[one] * 90, *[an_interaction(None)] * 5_000))
        (said,) = told(form + a_cassette(*small, *[one] * 133))
        assert f"expected at most {MAX_BYTES} bytes" in said


def test_bodies_that_are_hostile_by_number_are_given_up() -> None:
    """A hundred that cannot be read are enough to know."""
    report = read(a_cassette(*[an_interaction({"string": "{"})] * 500))
    assert (101, "interaction 100") == (len(report.findings), report.findings[-1].place)


JUNK: list[Any] = [None, True, 5, -1.5, "", "x", [], {}, [[]], {"": None}, "gzip", "base64", "br", {"string": {}}]


def mutated(value: Any, often: float, chance: random.Random) -> Any:
    """A copy in which some members are junk, and some are not there."""
    if chance.random() < often:
        return chance.choice(JUNK)
    if isinstance(value, dict):
        return {k: mutated(v, often, chance) for k, v in value.items() if chance.random() > often / 2}
    return [mutated(item, often, chance) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", RECORDED)
def test_a_mangled_recording_never_raises(name: str) -> None:
    """Members replaced or left out, bytes flipped, ends cut off: each is read as far as it goes."""
    chance = random.Random(name)
    data = (DATA / name).read_bytes()
    for _ in range(60):
        flipped = bytearray(data[: chance.randrange(len(data))] if chance.random() < 0.3 else data)
        for _ in range(chance.choice([1, 10])):
            flipped[chance.randrange(len(flipped))] = chance.choice(b"\x00 \n:-'\"[]{}&*!|\xff7a")
        forms = [bytes(flipped)]
        if not name.endswith("yaml"):
            forms.append(json.dumps(mutated(json.loads(data), chance.choice([0.005, 0.1]), chance)).encode())
        for form in forms:
            assert all(said.isprintable() for said in told(form))


# --- YAML by itself ---------------------------------------------------------------------------------------------------


def test_a_plain_scalar_is_what_json_would_make_of_it() -> None:
    """Text in quotes or under a tag stays text; numbers, truths and nothing are read; times stay text."""
    text = b"a: 1\nb: '1'\nc: null\nd:\ne: true\nf: 1.5\ng: !!str 2\nh: 2024-05-21\ni: 0x1f\n200: no\nj: -3\nk: ~\n"
    expected = {"a": 1, "b": "1", "c": None, "d": None, "e": True, "f": 1.5, "g": "2", "h": "2024-05-21"}
    assert expected | {"i": "0x1f", "200": "no", "j": -3, "k": None} == yaml_values.parse(text)
    assert yaml_values.parse(b"") is None
    assert isinstance(yaml_values.parse(b"!!binary eA=="), yaml_values.Base64)
    with pytest.raises(RunDecodeError, match="alias"):
        yaml_values.parse(b"- &a x\n- *a\n")


def test_no_other_form_begins_like_yaml() -> None:
    """What begins a recorder's file in YAML begins no JSON and no server-sent event."""
    for begin in ("---", "%YAML 1.2", "-", "- request:", "interactions:", "http_interactions: []", "responses:"):
        assert begins_yaml(begin.encode())
    for begin in ("{", "[", "event: x", "data: x", "id: 1", "retry: 1", ": x", "2025-01-01 x", "- x", "logs: x"):
        assert not begins_yaml(begin.encode())
