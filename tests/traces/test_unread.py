"""What is not judged is told: refused with a sentence that names it, or counted with its first place."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import pickle
import random
import zipfile
import zlib
from pathlib import Path
from typing import Any, cast

import pytest

from runstate import Run, RunStatus
from runstate.cli import cli
from runstate.store import StoredRun, open_store
from runstate.testing import assert_plausible
from runstate.traces import Location, NoteKind, Report, check_snapshots, read_snapshots
from runstate.traces._containers import KEYS
from tests.store.support import bring_in_store
from tests.support.cli_runner import CliRunner
from tests.traces.test_containers import AT, LAWFUL, UNLAWFUL, Json, in_yaml, lines, log, read, sse, vcr

RUN = LAWFUL[4]
TEXT = json.dumps(RUN)


def zipped() -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("raw/1.txt", TEXT)
    return held.getvalue()


def rust(run: Json) -> str:
    return f'RunObject {{ id: "{run["id"]}", object: "thread.run", created_at: 1, status: Completed }}'


PRINTED: dict[str, tuple[str, str]] = {
    "Python": (
        "Run(" + ", ".join(f"{k}={v!r}" for k, v in RUN.items()) + ")",
        "the repr of a Python object: print run.to_json()",
    ),
    "this library": (
        "<Run run_1 queued: created_at=1800000000, expires_at=1800000600>",
        "a run as this library's repr shows it: print run.to_json()",
    ),
    "this library's store": (
        "<StoredRun run_1 in_progress: created_at=1800000000, started_at=1800000001>",
        "a run as this library's repr shows it",
    ),
    "a class of its own, under a name of its own": (
        "[<Ticket my own 17 requires_action: created_at=1>]",
        "a run as this library's repr shows it",
    ),
    "Python over lines": (
        "Run(\n" + "".join(f"    {k}={v!r},\n" for k, v in RUN.items()) + ")",
        "the repr of a Python object",
    ),
    "Python's dict": (repr(RUN), "the repr of a Python dict"),
    "Python's dict over lines": (repr(RUN).replace(", ", ",\n "), "the repr of a Python dict"),
    "JavaScript": (
        "{\n  id: 'run_1',\n  object: 'thread.run',\n  created_at: 1\n}",
        "JavaScript or JSON5: write it with JSON.stringify",
    ),
    "JavaScript in a line": ("{ id: 'run_1', object: 'thread.run' }", "JavaScript or JSON5"),
    "Ruby": (
        '{"id"=>"run_1", "object"=>"thread.run", "status"=>"queued"}',
        "an object as Ruby prints it: print run.to_json",
    ),
    "Rust": (rust(RUN), "a struct as Rust prints it: print serde_json::to_string(&run)"),
    "Rust over lines": (rust(RUN).replace(", ", ",\n    ").replace("{ ", "{\n    "), "a struct as Rust prints it"),
    "Go": (
        "{ID:run_1 Object:thread.run CreatedAt:1 Status:queued}",
        "a struct as Go prints it: print json.Marshal(run)",
    ),
    "Go's pointer": ("&{ID:run_1 Object:thread.run CreatedAt:1}", "a struct as Go prints it"),
    "Go with names": ('openai.Run{ID:"run_1", Object:"thread.run"}', "a struct as Go prints it"),
    "Java": (
        "ThreadRun(id=run_1, object=thread.run, createdAt=1)",
        "an object as Java, Kotlin or a C# record prints it",
    ),
    "Java's builder": ("ThreadRun{id=run_1, object=thread.run}", "an object as Java, Kotlin or a C# record prints it"),
    "Kotlin": ("Run(id=RunId(id=run_1), createdAt=1)", "an object as Java, Kotlin or a C# record prints it"),
    "C#": (
        "ThreadRun { Id = run_1, Status = queued }",
        "an object as C# prints it: print JsonSerializer.Serialize(run)",
    ),
    "a C# class": ("OpenAI.Assistants.ThreadRun", "the name of a C# class"),
    "Elixir": ('%{"id" => "run_1", "object" => "thread.run"}', "a term as Elixir prints it"),
    "a Java client": (
        "class RunObject {\n    id: run_1\n    _object: thread.run\n}",
        "an object as a Java client prints it",
    ),
    "Swift": ('OpenAI.RunResult(id: "run_1", object: "thread.run")', "a value as Swift prints it"),
    "Perl": ("$VAR1 = {\n  'id' => 'run_1',\n  'object' => 'thread.run'\n};", "an object as PHP or Perl prints it"),
    "PowerShell": ("id : run_1\nobject     : thread.run", "a list as PowerShell prints it"),
    "PHP": (
        "Array\n(\n    [id] => run_1\n    [object] => thread.run\n)",
        "an object as PHP or Perl prints it: print json_encode($run)",
    ),
    "PHP's dump": (
        'object(stdClass)#3 (27) {\n  ["id"]=>\n  string(5) "run_1"\n',
        "an object as PHP or Perl prints it",
    ),
    "nock in JavaScript": (
        "const nock = require('nock');\n\nnock('https://api.example.com:443')\n  .get('/v1/runs')",
        "a nock fixture in JavaScript",
    ),
    "talkback": (
        "{\n    meta: {\n        createdAt: '2025',\n    },\n    res: { body: { id: 'run_1' } }\n}",
        "JavaScript or JSON5",
    ),
}

BINARY: dict[str, tuple[bytes, str]] = {
    "gzip": (gzip.compress(TEXT.encode()), "a gzip file: unpack it first (gunzip -c FILE | runstate check -)"),
    "ZIP": (zipped(), "a ZIP archive"),
    "bzip2": (bz2.compress(TEXT.encode()), "a bzip2 file"),
    "xz": (lzma.compress(TEXT.encode()), "an xz file"),
    "zstd": (b"\x28\xb5\x2f\xfd\x24\x00\x01", "a zstd file"),
    "SQLite": (b"SQLite format 3\x00" + bytes(84), "an SQLite database"),
    "pcap": (b"\xd4\xc3\xb2\xa1\x02\x00\x04\x00", "a packet capture"),
    "pcapng": (b"\x0a\x0d\x0d\x0a\x1c\x00\x00\x00", "a packet capture"),
    "pickle": (pickle.dumps(RUN), "a Python pickle, which is never loaded"),
    "PDF": (b"%PDF-1.7\n", "a PDF file"),
    "a picture": (b"\x89PNG\r\n\x1a\n\x00\x00", "a picture"),
    "other bytes": (b"\x00\x01\x02\x03", "a binary file: record it as JSON"),
    "a program": (b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00>\x00" + bytes(range(256)) * 9, "a binary file"),
    "an archive of tar": (b"runs.jsonl" + bytes(90) + b"0000644\0" * 3 + TEXT.encode(), "a binary file"),
    "zeros after line breaks": (b"\n\n\n" + bytes(512), "a binary file"),
    **{f"random bytes {seed}": (b"r" + random.Random(seed).randbytes(5000), "a binary file") for seed in range(20)},
    "mitmproxy": (
        b"1804:9:websocket;0:~8:response;1000:6:reason;2:OK,",
        "a mitmproxy flow file: export it (mitmdump -nr FILE",
    ),
}

OPENAPI: Json = {"openapi": "3.1.0", "paths": {"/threads/{id}/runs": {"get": {"responses": {"200": {"example": RUN}}}}}}

DOCUMENTS: dict[str, tuple[str, str]] = {
    "OpenAPI in JSON": (json.dumps(OPENAPI, indent=2), "an OpenAPI document: its examples are no recording"),
    "OpenAPI in YAML": (in_yaml(OPENAPI), "an OpenAPI document: its examples are no recording"),
    "Swagger": (json.dumps({"swagger": "2.0", "paths": {}}), "an OpenAPI document"),
    "mountebank": (
        json.dumps({"imposters": [{"port": 1, "stubs": [{"responses": [{"is": {"body": TEXT}}]}]}]}),
        "a mountebank configuration",
    ),
    "a notebook": (json.dumps({"nbformat": 4, "cells": [{"outputs": [{"text": [TEXT]}]}]}), "a Jupyter notebook"),
}


@pytest.mark.parametrize(("data", "said"), [*PRINTED.values(), *DOCUMENTS.values()], ids=[*PRINTED, *DOCUMENTS])
def test_text_that_is_not_read_is_named_once(data: str, said: str) -> None:
    """One sentence with what it is and what to do, however many lines it has, and exit code 1."""
    (complaint,) = read(data).findings
    assert complaint.severity == "error"
    assert complaint.message.startswith(f"this is {said}")
    done = CliRunner().invoke(cli, ["check", "-"], input=data)
    assert (1, True) == (done.exit_code, said in done.stdout)


@pytest.mark.parametrize(("data", "said"), BINARY.values(), ids=BINARY.keys())
def test_files_that_are_not_text_are_named(data: bytes, said: str) -> None:
    """The first bytes tell; nothing is unpacked or loaded."""
    (complaint,) = read(data).findings
    assert complaint.message.startswith(f"this is {said}")
    assert 1 == CliRunner().invoke(cli, ["check", "-"], input=data).exit_code


@pytest.mark.parametrize(("data", "said"), PRINTED.values(), ids=PRINTED.keys())
def test_a_printed_object_in_a_log_is_an_error_of_its_own(data: str, said: str) -> None:
    """The runs around it are judged, and the rest of the log is passed over."""
    one_line = " ".join(data.split())
    report = read(f"{log(LAWFUL[:1], 'got ')}INFO {one_line}\n{log(LAWFUL[1:], 'got ')}")
    assert 5 == report.snapshots
    told = [complaint for complaint in report.findings if said in complaint.message]
    assert told == report.findings
    assert 1 == report.not_judged


@pytest.mark.parametrize("kind", [Run, StoredRun])
@pytest.mark.parametrize("status", RunStatus)
def test_what_print_shows_of_a_run_is_refused(kind: type[Run | StoredRun], status: RunStatus) -> None:
    """Whatever its status and its id; each such line is counted as not judged, and said once."""
    for run_id in ("run_1", "a name of my own", "x" * 200):
        with open_store("sqlite:///:memory:") as store:
            stored = bring_in_store(store, status, id=run_id)
        run = stored if kind is StoredRun else Run.from_dict(stored.to_dict())
        report = read(f"10:00 INFO {run}\n10:01 INFO {run!r}\n")
        assert ["this is a run as this library's repr shows it: print run.to_json() instead"] == [
            complaint.message for complaint in report.findings
        ]
        assert (0, 2) == (report.snapshots, report.not_judged)


@pytest.mark.parametrize(
    "text",
    [
        "\x1b[32mINFO\x1b[0m \x1b[1mgot\x1b[0m ",
        "\x1e",
        "a damaged line of a log, which has one zero byte \0 and goes on for a while with text\n",
        "日本語のログ ",
        "\f\v\b",
    ],
)
def test_text_with_control_characters_is_text(text: str) -> None:
    """Colours, separators of records and a few zero bytes make no binary file of a log: its runs are judged."""
    assert 1 == read(f"{text}{TEXT}\n").snapshots


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_text_in_an_old_encoding_is_text(encoding: str) -> None:
    """The line that is not UTF-8 is told with what to do, and the rest is judged."""
    data = f"{TEXT}\n{json.dumps(RUN | {'model': 'é'}, ensure_ascii=False)}\n".encode(encoding)
    report = check_snapshots(read_snapshots(io.BytesIO(data)))
    assert 1 == report.snapshots
    assert ["iconv" in complaint.message for complaint in report.findings] == [True]


EMPTY: dict[str, Json] = {
    "HAR": {"log": {"version": "1.2", "creator": {}, "entries": []}},
    "vcrpy": {"interactions": [], "version": 1},
    "betamax": {"http_interactions": [], "recorded_with": "betamax/0.9"},
    "the Azure SDK test proxy": {"Entries": [], "Variables": {}},
    "the Azure SDK for JavaScript": {"recordings": [], "uniqueTestInfo": {}},
    "the Azure SDK for Java": {"networkCallRecords": [], "variables": []},
    "WireMock": {"mappings": [], "meta": {"total": 0}},
    "WireMock's journal": {"requests": [], "meta": {"total": 0}},
    "Hoverfly": {"data": {"pairs": []}, "meta": {}},
    "responses": {"responses": []},
    "Postman": {"info": {"name": "runs"}, "item": []},
}
"""Files of recorders without an entry."""


@pytest.mark.parametrize("value", EMPTY.values(), ids=EMPTY.keys())
def test_a_recorder_that_recorded_nothing(value: Json) -> None:
    """It has no run in it, in one line or over many, and in YAML too; beside an empty list there may still be one."""
    texts = [json.dumps(value), json.dumps(value, indent=2)]
    if next(iter(value)) in KEYS and "meta" not in value:
        texts.append(in_yaml(value))
    for text in texts:
        assert ["1: error: no run in it"] == [str(complaint) for complaint in read(text).findings]
        assert 1 == CliRunner().invoke(cli, ["check", "-"], input=text).exit_code
    assert 1 == read(json.dumps({"requests": [], "run": RUN})).snapshots
    assert 1 == read(json.dumps(RUN | {"responses": []})).snapshots


def test_what_is_no_lines_of_bytes(tmp_path: Path) -> None:
    """A path, a text, or a file that was opened as text is refused with how to open it."""
    path = tmp_path / "x.har"
    path.write_text(f"{TEXT}\n")
    with path.open() as file:
        for wrong in ("x.har", "", TEXT.encode(), path, None, 5, file, io.StringIO(TEXT)):
            with pytest.raises(TypeError, match=r"^expected the lines of a file as bytes: open\(path, 'rb'\)$"):
                read_snapshots(cast("Any", wrong))
            with pytest.raises(TypeError, match=r"open\(path, 'rb'\)$"):
                check_snapshots(cast("Any", wrong))
    for given in ([TEXT], iter([TEXT]), [b"{}", TEXT]):
        with pytest.raises(TypeError, match=r"open\(path, 'rb'\)$"):
            check_snapshots(read_snapshots(cast("Any", given)))
    with path.open("rb") as file, pytest.raises(TypeError, match=r"^expected what read_snapshots\(\) returns"):
        check_snapshots(cast("Any", file))
    with path.open("rb") as file:
        assert 1 == check_snapshots(list(read_snapshots(file))).snapshots


# --- what is passed over and what is not judged -----------------------------------------------------------------------


def answered(*bodies: Any, url: str = f"{AT}/run_1", code: object = 200, **headers: str) -> str:
    named = {name.replace("_", "-"): [value] for name, value in headers.items()}
    found = [
        {"request": {"method": "GET", "url": url}, "response": {"status": code, "headers": named, "body": body}}
        for body in bodies
    ]
    return json.dumps({"interactions": found})


def told(report: Report, kind: NoteKind) -> list[tuple[str, int, str]]:
    return [(note.text, note.count, str(note.first)) for note in report.notes if note.kind == kind]


OF_A_RUN: Json = {"thread_id": "t", "assistant_id": "a", "status": "completed"}
STEP: Json = {"id": "step_1", "object": "thread.run.step", "run_id": "run_1", **OF_A_RUN}
MESSAGE: Json = {"id": "msg_1", "object": "thread.message", "run_id": None, **OF_A_RUN}
UNNAMED: Json = {"id": "run_1", "status": "queued"}
NEITHER = "an answer about runs whose body is neither JSON nor server-sent events"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("<html>busy</html>", NEITHER),
        ("AES256:0f8e", NEITHER),
        ({"base64_string": base64.b64encode(b"\x00\x01\x02").decode()}, NEITHER),
        (None, "an answer about runs whose body was not recorded"),
        ({}, "an answer about runs whose body was not recorded"),
        ({"mimeType": "application/json", "size": 900}, "an answer about runs whose body was not recorded"),
        (json.dumps(RUN | {"object": "agent.run"}), "an object named 'agent.run' that has the shape of a run"),
        (RUN | {"object": "thread.runs"}, "an object named 'thread.runs' that has the shape of a run"),
        (json.dumps(UNNAMED), "an object with an id and a status that does not say that it is a run"),
    ],
)
def test_an_answer_that_may_hold_a_run_is_counted(body: Any, said: str) -> None:
    """Its kind is told with the count and the first place; the runs beside it are judged."""
    report = read(answered(TEXT, body, body))
    assert (1, [], 2) == (report.snapshots, report.findings, report.not_judged)
    assert [(said, 2, "interaction 2")] == told(report, "not judged")
    assert Location(0, "", "interaction", 2) == report.notes.first("not judged")


@pytest.mark.parametrize(
    "body",
    [
        TEXT[:-30],
        {"base64_string": base64.b64encode(gzip.compress(TEXT.encode())[:-9]).decode()},
        {"base64_string": "*"},
    ],
)
def test_an_answer_that_cannot_be_read_is_an_error_and_counted(body: Any) -> None:
    """A body that was cut off, or is no base64: an error with its place, and one of what was not judged."""
    report = read(answered(TEXT, body))
    assert (1, 1, 1) == (report.snapshots, report.errors, report.not_judged)
    assert "interaction 2" == report.findings[0].place == told(report, "not judged")[0][2]


@pytest.mark.parametrize(
    "other", [STEP, MESSAGE, {"object": "list", "data": [STEP]}, {"id": "b", "object": "batch", "status": "queued"}, {}]
)
def test_what_is_no_run_is_passed_over_and_counted(other: Json) -> None:
    """Steps, messages and other objects are not held to be runs, in a cassette, in lines and in a stream."""
    forms = [answered(TEXT, json.dumps(other)), lines([RUN, other]), f"data: {TEXT}\n\ndata: {json.dumps(other)}\n\n"]
    for form in forms:
        report = read(form)
        assert (1, [], 0, 1) == (report.snapshots, report.findings, report.not_judged, report.passed_over)


def test_an_error_of_the_service_is_no_snapshot_and_counted() -> None:
    """Whatever spells the status."""
    for code in (404, "429", "500 Internal Server Error", {"code": 400}, {"code": "503", "message": "no"}):
        report = read(answered(TEXT, code=code))
        assert (0, ["no run in it"]) == (report.snapshots, [complaint.message for complaint in report.findings])
        assert [("an HTTP error", 1, "interaction 1")] == told(report, "passed over")


@pytest.mark.parametrize(
    "code",
    [200, "200", "200 OK", "HTTP/1.1 200 OK", {"code": 200}, {"code": "200", "message": "OK"}, {"status_code": 200}],
)
@pytest.mark.parametrize("key", ["uri", "url", "URI", "Url", "request_uri", "RequestUri"])
def test_a_status_and_a_url_are_the_same_however_they_are_spelled(code: object, key: str) -> None:
    """The snapshot is read, and what was asked is known: a cancel is not answered by a run that goes on."""
    entry = vcr(key, code, json.dumps)("POST", f"{AT}/run_1/cancel?a=b", LAWFUL[1])
    (complaint,) = read(json.dumps({"interactions": [entry]})).findings
    assert complaint.message == "request_cancel was accepted, but answered with a run in in_progress"


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Encoding": "deflate"},
        {"content-encoding": ["deflate"]},
        {"CONTENT-ENCODING": " Deflate "},
        [{"name": "Content-Encoding", "value": "deflate"}],
        [{"key": "content-encoding", "value": "deflate"}],
        ["Content-Encoding", "deflate"],
        ["Content-Encoding: deflate"],
    ],
)
def test_a_header_is_the_same_however_it_is_spelled(headers: Any) -> None:
    """In any case, as text, as a list, as pairs, in turns or as lines."""
    body = {"base64_string": base64.b64encode(zlib.compress(TEXT.encode())).decode()}
    response = {"status": 200, "headers": headers, "body": body}
    assert (1, []) == (lambda report: (report.snapshots, report.findings))(
        read(json.dumps({"interactions": [{"request": {"url": AT, "method": "GET"}, "response": response}]}))
    )


def test_a_recording_in_which_nothing_was_judged_is_never_fine() -> None:
    """It is an error, and what was in it is counted."""
    for body in ("<html>", None, json.dumps(RUN | {"object": "x.run"})):
        report = read(answered(body, body))
        assert (0, 1, 2) == (report.snapshots, report.errors, report.not_judged)
    noise = read("hello\nthere\n")
    assert (0, 2, 0, 2) == (noise.snapshots, noise.errors, noise.not_judged, noise.passed_over)
    for nothing in (lines([STEP, MESSAGE]), f"data: {json.dumps(STEP)}\n\n", answered(json.dumps(STEP))):
        report = read(nothing)
        assert ["no run in it"] == [complaint.message for complaint in report.findings]
        assert report.passed_over


def test_a_stream_that_ends_with_an_error_is_told_in_words() -> None:
    """What came before is judged, and what the service said is in the note; in a capture and in a cassette."""
    error = 'event: error\ndata: {"error": {"message": "The server had an error.", "type": "server_error"}}\n\n'
    stream = sse(LAWFUL[:2]).partition("event: done")[0] + error
    for form in (stream, answered(stream)):
        report = read(form)
        assert (2, []) == (report.snapshots, report.findings)
        assert [("an error: The server had an error.", 1)] == [note[:2] for note in told(report, "passed over")]


def test_lines_of_a_log_are_counted() -> None:
    """Those without JSON, and those whose JSON holds no run; one that was cut off inside a run is not judged."""
    noise = 'plain\n{"level": "info"}\n'
    cut = f"got {TEXT[:-9]}\n"
    report = read(noise + log(LAWFUL, "got ", noise=noise) + cut)
    assert (5, []) == (report.snapshots, report.findings)
    assert {("a line without JSON", 7, "1"), ("no run in it", 7, "2")} == {*told(report, "passed over")}
    assert [("text that speaks of a run, without a whole JSON object", 1, "20")] == told(report, "not judged")


@pytest.mark.parametrize("whole", [1, 4])
def test_what_is_whole_in_a_document_that_was_cut_off_is_judged(whole: int) -> None:
    """The cut is an error at the place where it begins, and the runs before it are judged all the same."""
    text = json.dumps(LAWFUL, indent=2)
    cut = text[: text.index('"id"', sum(len(part) for part in text.split('  {\n    "id"')[: whole + 1]) + 20)]
    report = read(cut)
    assert (whole, 1) == (report.snapshots, report.errors)
    assert report.findings[0].message.startswith("not JSON at line ")
    assert report.not_judged == 1


@pytest.mark.parametrize(
    "value",
    [
        {"S": "thread.run"},
        {"level": "info", "body": RUN | {"object": "agent.run"}},
        {"note": TEXT[:-20]},
        [[TEXT[:-20]]],
        {"a": {"b": f"x {TEXT[:-20]}"}},
    ],
)
def test_text_that_speaks_of_a_run_is_not_silent(value: Any) -> None:
    """JSON that was cut off inside JSON, or the name of the object in a shape that nobody knows: it is counted."""
    for form in (
        lines([RUN, value]),
        answered(TEXT, json.dumps(value)),
        f"data: {TEXT}\n\ndata: {json.dumps(value)}\n\n",
    ):
        report = read(form)
        assert (1, 0, 1) == (report.snapshots, report.errors, report.not_judged)


def test_bytes_that_are_not_utf_8_are_told_in_our_own_words() -> None:
    """In lines, in a document and in YAML, with what to do."""
    latin = TEXT.replace("hi", "h\xed").encode("latin-1")
    for form in (latin, b"{\n" + latin[1:], b"interactions:\n- \xed\n"):
        (complaint,) = read(form).findings
        assert complaint.message.endswith("is not UTF-8: save it as UTF-8 (iconv -f LATIN1 -t UTF-8)")


def test_the_command_tells_what_was_not_judged(tmp_path: Path) -> None:
    """In words under the table, and in JSON; the exit code is that of what was judged."""
    path = tmp_path / "cassette.json"
    path.write_text(answered(TEXT, "<html>", "<html>", json.dumps(STEP)))
    done = CliRunner().invoke(cli, ["check", str(path)])
    assert 0 == done.exit_code
    assert f"{path}:interaction 2: not judged: {NEITHER} (2 in the file, this is the first)" in done.stdout
    assert f"{path}:interaction 4: passed over: no run in it\n" in done.stdout
    said = json.loads(CliRunner().invoke(cli, ["check", "--json", str(path)]).stdout)
    assert (2, 1) == (said["total"]["not_judged"], said["total"]["passed_over"])
    expected = {"kind": "not judged", "text": NEITHER, "count": 2, "first": "interaction 2"}
    assert expected == said["files"][0]["notes"][0]


def test_notes_cannot_speak_to_the_terminal() -> None:
    """Names of objects and messages of services come from strangers."""
    hostile = "\x1b[2Jx\nfake: error"
    report = read(answered(json.dumps(RUN | {"object": hostile}), TEXT))
    assert 1 == report.not_judged
    done = CliRunner().invoke(cli, ["check", "-"], input=answered(json.dumps(RUN | {"object": hostile}), TEXT))
    assert all(line.isprintable() for line in done.stdout.splitlines())
    many = read(answered(TEXT, *(json.dumps(RUN | {"object": f"x{at}"}) for at in range(5000))))
    assert (5000, True) == (many.not_judged, len(many.notes) <= 101)


def test_notes_of_several_files_add_up() -> None:
    """A total has the counts of all."""
    total = Report()
    for _ in range(3):
        total.add(read(answered(TEXT, "<html>", json.dumps(STEP))))
    assert (3, 3) == (total.not_judged, total.passed_over)


def test_snapshots_by_themselves_have_no_notes() -> None:
    """What is judged may come from anywhere; only a recording tells what it passed over."""
    found = read_snapshots([answered(TEXT, "<html>").encode()])
    assert 0 == check_snapshots(list(found)).not_judged
    assert 1 == found.notes.count("not judged")
    assert found.notes.first("passed over") is None


def test_the_assertion_judges_what_the_command_judges(tmp_path: Path) -> None:
    """A recording in any container, and a refusal in the same words."""
    path = tmp_path / "recorded"
    path.write_text(log(LAWFUL, "got "))
    assert_plausible(cassette=path)
    path.write_text(log(UNLAWFUL, "got "))
    with pytest.raises(AssertionError, match="no path leads from completed to in_progress"):
        assert_plausible(cassette=path)
    path.write_text(PRINTED["Rust"][0])
    with pytest.raises(AssertionError, match="this is a struct as Rust prints it"):
        assert_plausible(cassette=path)


# --- known oddities ---------------------------------------------------------------------------------------------------


def test_an_old_stream_calls_an_incomplete_run_completed() -> None:
    """Until 30 May 2024 there was no other event, so it is a warning; after that it is an error."""
    ended = RUN | {"status": "incomplete", "incomplete_details": {"reason": "max_prompt_tokens"}}
    for created, severity in ((1_714_400_000, "warning"), (1_717_027_200, "error")):
        moved = {
            key: created + value - RUN["created_at"] if key.endswith("_at") and value else value
            for key, value in ended.items()
        }
        (complaint,) = read(f"event: thread.run.completed\ndata: {json.dumps(moved)}\n\n").findings
        assert severity == complaint.severity


def test_oddities_of_real_services_are_lawful() -> None:
    """Other codes of errors, a create answered by a run at work, and metadata that changed after the end."""
    failed = LAWFUL[1] | {
        "status": "failed",
        "failed_at": RUN["completed_at"],
        "expires_at": None,
        "usage": RUN["usage"],
    }
    for code in ("invalid_engine_error", "tool_user_error"):
        assert [] == read(lines([LAWFUL[0], failed | {"last_error": {"code": code, "message": "no"}}])).findings
    create = vcr("uri", 200, json.dumps)("POST", AT, LAWFUL[1])
    assert [] == read(json.dumps({"interactions": [create]})).findings
    assert [] == read(lines([RUN, RUN | {"metadata": {"rated": "well"}}])).findings
