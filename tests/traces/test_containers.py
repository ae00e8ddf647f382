"""The same recorded runs in every container and spelling that people have are judged the same.

Each way to record is a function of the trace, so that what is lawful is found lawful in all of them, and what is not is
found by the same sentence. What is not read is refused with a sentence that names it.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from runstate import ManualClock, Run, ToolCall, Usage, use_clock
from runstate.cli import cli
from runstate.traces import Report, check_snapshots, read_snapshots
from tests.support.cli_runner import CliRunner

Json = dict[str, Any]
Trace = list[Json]

CREATED = 1_800_000_000
AT = "https://api.example.com/v1/threads/thread_1/runs"


def a_trace() -> Trace:
    """A run with a round of tools, as it was seen at each status."""
    with use_clock(ManualClock(CREATED)) as clock:
        run = Run.create(
            id="run_1",
            thread_id="thread_1",
            assistant_id="asst_1",
            model="gpt-4o",
            instructions='Say "hi".\nThen stop.',
        )
        seen = [run.to_dict()]

        def look() -> None:
            seen.append(run.to_dict())
            clock.advance(1)

        clock.advance(1)
        run.start()
        look()
        run.require_action([ToolCall("call_1", "weather", '{"city": "Oslo"}')])
        look()
        run.submit_tool_outputs({"call_1": "sunny"})
        run.start()
        look()
        run.complete(Usage(1, 2))
        look()
        return seen


LAWFUL = a_trace()
UNLAWFUL = [*LAWFUL[:2], LAWFUL[4], LAWFUL[3]]
"""Completed, and in progress again."""
SAID = "no path leads from completed to in_progress (completed is terminal, nothing leaves it)"


def read(data: str | bytes) -> Report:
    return check_snapshots(read_snapshots(io.BytesIO(data if isinstance(data, bytes) else data.encode())))


def lines(values: Iterable[object]) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def urls(trace: Trace) -> list[tuple[str, str]]:
    """The request that each snapshot answered: a create, then polls."""
    return [("POST", AT) if at == 0 else ("GET", f"{AT}/run_1") for at in range(len(trace))]


# --- text -------------------------------------------------------------------------------------------------------------


def sse(trace: Trace, end: str = "\n", more: str = "") -> str:
    events = [f"event: thread.run.{run['status']}\n{more}data: {json.dumps(run)}\n\n" for run in trace]
    return "".join([*events, "event: done\ndata: [DONE]\n\n"]).replace("\n", end)


def data_over_lines(trace: Trace) -> str:
    return "".join(
        "".join(f"data: {line}\n" for line in json.dumps(run, indent=1).splitlines()) + "\n" for run in trace
    )


def log(
    trace: Trace, before: str = "", after: str = "", indent: int | None = None, noise: str = "starting up\n"
) -> str:
    return noise + "".join(f"{before}{json.dumps(run, indent=indent)}{after}\n{noise}" for run in trace)


def structured(trace: Trace, key: str = "body", **more: Any) -> str:
    start: Json = {"level": "info", "ts": 1, "msg": "starting", "status": "ok", "id": "req-1"}
    return lines([start, *({"level": "info", **more, key: run} for run in trace)])


def curl(trace: Trace, verbose: bool = False) -> str:
    said = ""
    for run, (method, url) in zip(trace, urls(trace), strict=True):
        body = json.dumps(run, indent=2)
        path = url.partition("example.com")[2]
        if verbose:
            said += f"*   Trying 10.0.0.1:443...\n> {method} {path} HTTP/1.1\n> Host: api.example.com\n> \n"
            said += f"< HTTP/1.1 200 OK\n< content-type: application/json\n< \n{{ [5 bytes data]\n{body}\n"
            said += "* Connection #0 to host api.example.com left intact\n"
        else:
            said += f"HTTP/1.1 100 Continue\n\nHTTP/2 200 \ncontent-type: application/json\n\n{body}\n"
    return said


def httpie(trace: Trace) -> str:
    asked = zip(trace, urls(trace), strict=True)
    return "".join(
        f"{method} {url.partition('example.com')[2]} HTTP/1.1\nHost: x\n\n\nHTTP/1.1 200\nA: b\n\n{json.dumps(run)}\n\n"
        for run, (method, url) in asked
    )


TEXTS: dict[str, Callable[[Trace], str | bytes]] = {
    "JSON lines": lines,
    "JSON lines with CRLF": lambda t: lines(t).replace("\n", "\r\n"),
    "JSON lines with CR": lambda t: lines(t).replace("\n", "\r"),
    "a JSON text sequence": lambda t: "".join(f"\x1e{json.dumps(run)}\n" for run in t),
    "a JSON array": json.dumps,
    "a JSON array over lines": lambda t: json.dumps(t, indent=2),
    "a list page": lambda t: json.dumps({"object": "list", "data": t, "has_more": False}),
    "objects one below the other": lambda t: "\n".join(json.dumps(run, indent=2) for run in t),
    "objects one after the other": lambda t: "".join(map(json.dumps, t)),
    "objects after a comment": lambda t: "# recorded by hand\n\n" + lines(t),
    "envelopes": lambda t: lines({"event": f"thread.run.{run['status']}", "data": run} for run in t),
    "JSON text in JSON text": lambda t: lines(json.dumps(run) for run in t),
    "JSON text in JSON text in JSON text": lambda t: lines(json.dumps(json.dumps(run)) for run in t),
    "UTF-8 with a mark": lambda t: b"\xef\xbb\xbf" + lines(t).encode(),
    "UTF-16 with a mark": lambda t: lines(t).encode("utf-16"),
    "UTF-16, little endian": lambda t: lines(t).encode("utf-16-le"),
    "UTF-16, big endian": lambda t: json.dumps(t, indent=1).encode("utf-16-be"),
    "UTF-32": lambda t: lines(t).encode("utf-32"),
    "events": sse,
    "events with CRLF": lambda t: sse(t, "\r\n"),
    "events with CR": lambda t: sse(t, "\r"),
    "events with a mark": lambda t: "\ufeff" + sse(t),
    "events with ids, retries and comments": lambda t: ": hi\n\n" + sse(t, more="id: 7\nretry: 10\n: ping\n"),
    "events without names": lambda t: "".join(f"data: {json.dumps(run)}\n\n" for run in t),
    "events whose data has no blank": lambda t: sse(t).replace(": ", ":", 1).replace("data: ", "data:"),
    "events whose data goes over lines": data_over_lines,
    "lines of data alone": lambda t: "".join(f"data: {json.dumps(run)}\n" for run in t) + "data: [DONE]\n",
    "events with pings": lambda t: sse(t).replace("event: thread", "event: ping\ndata: {}\n\nevent: thread"),
    "events that end with an error": lambda t: (
        sse(t[:-1]).partition("event: done")[0]
        + f'data: {json.dumps(t[-1])}\n\nevent: error\ndata: {{"error": {{"message": "no"}}}}\n\n'
    ),
    "a log with a time before": lambda t: log(t, "2025-04-13T19:32:11Z INFO [POST] Stream chunk: "),
    "a log with a time in brackets": lambda t: log(t, "[2025-04-13 19:32:11] local.INFO: run "),
    "a log with a number before": lambda t: log(t, "1744572731.5 run "),
    "a log with text after": lambda t: log(t, "got ", " in 12 ms {retry: 0}"),
    "a log with braces before": lambda t: log(t, "{worker} {} poll "),
    "a log with runs over lines": lambda t: log(t, "2025-04-13 got ", indent=2),
    "a log with runs over lines of their own": lambda t: log(t, "", indent=4),
    "a log of a container": lambda t: log(t, "app-1  | data: "),
    "a log with escaped JSON": lambda t: "".join(f"level=info body={json.dumps(json.dumps(run))} n=1\n" for run in t),
    "a log with bytes": lambda t: "".join(f"body: {json.dumps(run, indent=1).encode()!r}\n" for run in t),
    "a log whose first line is cut off": lambda t: log(t, noise="").replace("\n", "\nnoise\n"),
    "structured lines": structured,
    "structured lines with a message": lambda t: structured(t, "response", event="poll", id="req-5", status="ok"),
    "structured lines, deeper": lambda t: lines({"level": "info", "http": {"response": {"body": run}}} for run in t),
    "structured lines with JSON text": lambda t: lines({"log": json.dumps(run) + "\n", "stream": "out"} for run in t),
    "structured lines with events": lambda t: lines({"chunk": sse([run])} for run in t),
    "structured lines with a message and JSON": lambda t: lines({"msg": f"got {json.dumps(run)}"} for run in t),
    "CSV": lambda t: (
        "n,run\n" + "".join(f'{n},"{json.dumps(run).replace(chr(34), chr(34) * 2)}"\n' for n, run in enumerate(t))
    ),
    "Markdown": lambda t: (
        "# A run\n\n" + "".join(f"* seen:\n\n```json\n{json.dumps(run, indent=2)}\n```\n" for run in t)
    ),
    "Markdown that begins with a list": lambda t: "* a run\n" + log(t, "> "),
    "lines with commas": lambda t: "".join(f"{json.dumps(run)},\n" for run in t),
    "YAML": lambda t: in_yaml(t),
    "YAML documents' beginning": lambda t: "---\n" + in_yaml({"runs": t}),
    "a session of curl": lambda t: "$ curl -i x\n" + curl(t).replace("HTTP/1.1 100", "$ curl -i x\nHTTP/1.1 100"),
    "curl -i of a stream": lambda t: f"HTTP/2 200 \ncontent-type: text/event-stream\n\n{sse(t)}",
    "curl -i": curl,
    "curl -v": lambda t: curl(t, verbose=True),
    "http -v": httpie,
}


# --- recorders --------------------------------------------------------------------------------------------------------


def exchanges(trace: Trace, make: Callable[[str, str, Json], object]) -> list[object]:
    """Other traffic, then each snapshot with what was asked; an error among them is no snapshot."""
    return [make(method, url, run) for run, (method, url) in zip(trace, urls(trace), strict=True)]


def vcr(url: str = "uri", status: object = None, text: Callable[[Json], object] | None = None, **more: Any) -> Any:
    def make(method: str, at: str, run: Json) -> object:
        body = text(run) if text else {"string": json.dumps(run)}
        response = {"status": status or {"code": 200, "message": "OK"}, "headers": {}, "body": body, **more}
        return {"request": {"method": method, url: at, "body": None, "headers": {}}, "response": response}

    return make


def cassette(key: str = "interactions", form: Callable[[object], str] = json.dumps, **how: Any) -> Any:
    return lambda trace: form({key: exchanges(trace, vcr(**how)), "version": 1})


def in_yaml(value: object) -> str:
    return str(yaml.safe_dump(json.loads(json.dumps(value)), sort_keys=False))  # of a copy, which shares nothing


def packed(run: Json) -> str:
    return base64.b64encode(gzip.compress(json.dumps(run).encode())).decode()


def har(make: Callable[[Json], Json], **headers: str) -> Any:
    def write(trace: Trace) -> str:
        entries: list[Json] = []
        for second, (run, (method, url)) in enumerate(zip(trace, urls(trace), strict=True)):
            named = [{"name": name.replace("_", "-"), "value": value} for name, value in headers.items()]
            response = {"status": 200, "headers": named, "content": make(run)}
            started = f"2027-01-15T08:00:{second:02}.000Z"
            entries.append(
                {"startedDateTime": started, "request": {"method": method, "url": url}, "response": response}
            )
        return json.dumps({"log": {"version": "1.2", "creator": {"name": "x"}, "entries": entries[::-1]}})

    return write


def proxy(body: Callable[[Json], object]) -> Any:
    def entry(method: str, url: str, run: Json) -> object:
        asked: Json = {
            "RequestUri": f"{url}?api-version=1",
            "RequestMethod": method,
            "RequestHeaders": {},
            "RequestBody": None,
        }
        return {**asked, "StatusCode": 200, "ResponseHeaders": {"Content-Type": "x"}, "ResponseBody": body(run)}

    return lambda trace: json.dumps({"Entries": exchanges(trace, entry), "Variables": {"RandomSeed": "1"}}, indent=2)


def nock(body: Callable[[Json], object], **more: Any) -> Any:
    def entry(method: str, url: str, run: Json) -> object:
        path = url.partition("example.com")[2]
        asked = {"scope": "https://api.example.com:443", "method": method, "path": path, "body": ""}
        return {**asked, "status": 200, "response": body(run), "rawHeaders": ["A", "b"], **more}

    return lambda trace: json.dumps(exchanges(trace, entry), indent=1)


def hexed(run: Json) -> list[str]:
    text = gzip.compress(json.dumps(run).encode()).hex()
    return [text[at : at + 100] for at in range(0, len(text), 100)]


def wiremock(body: Callable[[Json], Json]) -> Callable[[str, str, Json], Json]:
    return lambda method, url, run: {
        "id": "1",
        "request": {"url": url, "method": method},
        "response": {"status": 200, **body(run)},
    }


def postman(trace: Trace) -> str:
    def item(method: str, url: str, run: Json) -> object:
        request = {"method": method, "url": {"raw": url, "path": ["v1"]}}
        saved = {
            "name": "ok",
            "originalRequest": request,
            "status": "OK",
            "code": 200,
            "header": [],
            "body": json.dumps(run),
        }
        return {"name": "get", "request": request, "response": [saved]}

    folders = [{"name": "Runs", "item": [one]} for one in exchanges(trace, item)]
    return json.dumps({"info": {"name": "A", "schema": "https://schema.example/v2.1.0"}, "item": folders})


def hoverfly(trace: Trace) -> str:
    def pair(method: str, url: str, run: Json) -> object:
        asked = {"method": [{"matcher": "exact", "value": method}], "path": [{"matcher": "exact", "value": url}]}
        return {"request": asked, "response": {"status": 200, "body": packed(run), "encodedBody": True}}

    return json.dumps({"data": {"pairs": exchanges(trace, pair)}, "meta": {"schemaVersion": "v5"}})


def python_responses(trace: Trace) -> str:
    def entry(method: str, url: str, run: Json) -> object:
        return {"response": {"method": method, "url": url, "status": 200, "body": json.dumps(run), "content_type": "x"}}

    return in_yaml({"responses": exchanges(trace, entry)})


def azure_java(trace: Trace) -> str:
    def record(method: str, url: str, run: Json) -> object:
        response = {"StatusCode": "200", "content-type": "application/json", "Body": json.dumps(run)}
        return {"Method": method, "Uri": url, "Headers": {}, "Response": response, "Exception": None}

    return json.dumps({"networkCallRecords": exchanges(trace, record), "variables": []})


def azure_js(trace: Trace) -> str:
    def record(method: str, url: str, run: Json) -> object:
        asked: Json = {"method": method, "url": url, "query": {}, "requestBody": None}
        return {**asked, "status": 200, "response": json.dumps(run), "responseHeaders": {"a": "b"}}

    return json.dumps({"recordings": exchanges(trace, record), "uniqueTestInfo": {}})


def mock_server(trace: Trace) -> str:
    def expectation(method: str, url: str, run: Json) -> object:
        response = {"statusCode": 200, "body": {"type": "JSON", "json": run}}
        return {"httpRequest": {"method": method, "path": url}, "httpResponse": response}

    return json.dumps(exchanges(trace, expectation))


def php_vcr(trace: Trace, form: Callable[[object], str]) -> str:
    status = {"http_version": "1.1", "code": "200", "message": "OK"}
    text = form(exchanges(trace, vcr("url", status, json.dumps)))
    return text.replace("- request:", "-\n  request:")


def ruby_vcr(trace: Trace) -> str:
    text = in_yaml(
        {"http_interactions": exchanges(trace, vcr(text=lambda run: {"encoding": "UTF-8", "string": json.dumps(run)}))}
    )
    return f"---\n{text}recorded_with: VCR 6.1.0\n"


def go_vcr(trace: Trace, version: int) -> str:
    def interaction(method: str, url: str, run: Json) -> object:
        request = {"body": "", "form": {}, "headers": {"A": ["b"]}, "url": url, "method": method}
        answer = {"body": json.dumps(run), "headers": {"A": ["b"]}, "status": "200 OK", "code": 200, "duration": "1s"}
        return {"id": 0, "request": request, "response": {**answer, "uncompressed": False}}

    return "---\n" + in_yaml({"version": version, "interactions": exchanges(trace, interaction)})


RECORDERS: dict[str, Callable[[Trace], str | bytes]] = {
    "vcrpy in YAML": cassette(form=in_yaml),
    "vcrpy in JSON": cassette(),
    "vcrpy with bytes": lambda t: yaml.safe_dump(
        {"interactions": exchanges(t, vcr(text=lambda run: {"string": gzip.compress(json.dumps(run).encode())}))}
    ),
    "vcrpy in JSON with bytes": cassette(text=lambda run: {"base64_string": packed(run)}),
    "vcrpy 5 of httpx": lambda t: in_yaml(
        {
            "interactions": [
                {
                    "request": {"uri": f"{AT}/run_1", "method": "GET"},
                    "response": {"status_code": 200, "headers": {}, "content": json.dumps(run)},
                }
                for run in t
            ]
        }
    ),
    "vcrpy before 1.0": lambda t: in_yaml(exchanges(t, vcr("path"))),
    "pytest-recording": lambda t: "---\n" + in_yaml({"interactions": exchanges(t, vcr()), "version": 1}),
    "VCR for Ruby in YAML": ruby_vcr,
    "VCR for Ruby in JSON": cassette("http_interactions"),
    "VCR for Ruby with bytes": cassette(
        "http_interactions", text=lambda run: {"encoding": "B", "base64_string": packed(run)}
    ),
    "betamax": cassette("http_interactions", text=lambda run: {"encoding": "utf-8", "string": json.dumps(run)}),
    "go-vcr 1": lambda t: go_vcr(t, 1),
    "go-vcr 4": lambda t: go_vcr(t, 2),
    "ExVCR": lambda t: json.dumps(
        [
            {
                "request": {"method": m.lower(), "url": u},
                "response": {"binary": False, "type": "ok", "status_code": 200, "body": json.dumps(r)},
            }
            for r, (m, u) in zip(t, urls(t), strict=True)
        ]
    ),
    "PHP-VCR in YAML": lambda t: php_vcr(t, in_yaml),
    "PHP-VCR in JSON": lambda t: php_vcr(t, json.dumps),
    "HTTPretty": lambda t: json.dumps(exchanges(t, vcr(status=200, text=json.dumps)), indent=4),
    "Pact": lambda t: json.dumps(
        {"consumer": {}, "interactions": exchanges(t, vcr("path", 200, text=lambda run: run))}
    ),
    "HAR": har(lambda run: {"mimeType": "application/json", "text": json.dumps(run)}),
    "HAR in base64": har(
        lambda run: {"text": base64.b64encode(json.dumps(run).encode()).decode(), "encoding": "base64"}
    ),
    "HAR with gzip": har(lambda run: {"text": packed(run), "encoding": "base64"}, Content_Encoding="gzip"),
    "HAR with deflate": har(
        lambda run: {"text": base64.b64encode(zlib.compress(json.dumps(run).encode())).decode(), "encoding": "base64"},
        content_encoding="deflate",
    ),
    "HAR with events": har(lambda run: {"mimeType": "text/event-stream", "text": sse([run])}),
    "HAR over lines": lambda t: json.dumps(json.loads(har(lambda run: {"text": json.dumps(run)})(t)), indent=2),
    "Polly.js": har(lambda run: {"mimeType": "application/json", "size": 5, "text": json.dumps(run)}),
    "Polly.js with chunks": har(
        lambda run: {"encoding": "base64", "_isBinary": True, "text": json.dumps([packed(run)])},
        Content_Encoding="gzip",
    ),
    "the Azure SDK test proxy": proxy(lambda run: run),
    "the Azure SDK test proxy with text": proxy(json.dumps),
    "the Azure SDK test proxy with a stream": proxy(lambda run: sse([run]).splitlines(keepends=True)),
    "the Azure SDK test proxy with bare lines": proxy(lambda run: sse([run]).splitlines()),
    "the Azure SDK test proxy with a page": proxy(lambda run: {"object": "list", "data": [run], "has_more": False}),
    "the older Azure SDK for Java": azure_java,
    "the older Azure SDK for JavaScript": azure_js,
    "nock": nock(lambda run: run),
    "nock with text": nock(json.dumps),
    "nock with chunks": nock(hexed),
    "nock with bytes": nock(lambda run: "".join(hexed(run)), responseIsBinary=True),
    "WireMock": lambda t: json.dumps({"mappings": exchanges(t, wiremock(lambda run: {"jsonBody": run}))}),
    "WireMock with text": lambda t: json.dumps(
        {"mappings": exchanges(t, wiremock(lambda run: {"body": json.dumps(run)}))}
    ),
    "WireMock with bytes": lambda t: json.dumps(
        {"mappings": exchanges(t, wiremock(lambda run: {"base64Body": packed(run)}))}
    ),
    "WireMock, mapping by mapping": lambda t: lines(exchanges(t, wiremock(lambda run: {"jsonBody": run}))),
    "WireMock's journal": lambda t: json.dumps(
        {"requests": exchanges(t, wiremock(lambda run: {"body": json.dumps(run)}))}
    ),
    "Postman": postman,
    "Hoverfly": hoverfly,
    "responses": python_responses,
    "MockServer": mock_server,
    "exchanges, one a line": lambda t: lines(exchanges(t, vcr("URL", "200", json.dumps))),
    "a flat record of HTTP": lambda t: json.dumps(
        [{"method": "GET", "url": AT, "status": 200, "body": run} for run in t]
    ),
    "a flat record in lines": lambda t: lines(
        {"method": "GET", "url": AT, "status": 200, "response": run} for run in t
    ),
}


@pytest.mark.parametrize("write", [*TEXTS.values(), *RECORDERS.values()], ids=[*TEXTS, *RECORDERS])
def test_every_container_is_judged_the_same(write: Callable[[Trace], str | bytes]) -> None:
    """What is lawful has no complaint and all its steps; what is not has the one that it has everywhere."""
    lawful = read(write(LAWFUL))
    expected = read(lines(LAWFUL))
    assert (5, {"run_1"}, [], 0) == (lawful.snapshots, lawful.run_ids, lawful.findings, lawful.not_judged)
    assert expected.changes == lawful.changes
    assert 4 == lawful.changes.total()
    unlawful = read(write(UNLAWFUL))
    (complaint,) = unlawful.findings
    assert (4, 1, 0) == (unlawful.snapshots, unlawful.errors, unlawful.not_judged)
    assert str(complaint).endswith(f": error: run run_1: {SAID}")


@pytest.mark.parametrize("write", RECORDERS.values(), ids=RECORDERS.keys())
def test_every_recorder_tells_what_was_asked(write: Callable[[Trace], str | bytes]) -> None:
    """A create answered by its run is no news, and the place names the part of the recording."""
    place = next(read_snapshots(io.BytesIO(data if isinstance(data := write(LAWFUL), bytes) else data.encode()))).place
    assert place[0].isdigit() or place.split()[0] in ("interaction", "entry", "mapping", "request", "response", "pair")


def test_no_container_is_silent(tmp_path: Path) -> None:
    """The command reads all of them at once: every file has its runs, none is empty, and the exit code is 0."""
    every = {**TEXTS, **RECORDERS}
    for at, write in enumerate(every.values()):
        data = write(LAWFUL)
        tmp_path.joinpath(f"{at:03}.txt").write_bytes(data if isinstance(data, bytes) else data.encode())
    done = CliRunner().invoke(cli, ["check", "--json", *map(str, sorted(tmp_path.iterdir()))])
    assert 0 == done.exit_code
    said = json.loads(done.stdout)
    assert [5] * len(every) == [file["snapshots"] for file in said["files"]]
    assert (0, 0, 5 * len(every)) == (said["total"]["errors"], said["total"]["not_judged"], said["total"]["snapshots"])
