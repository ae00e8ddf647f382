"""The conformance of services: the API as it is spoken, and whatever else a socket may answer."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final

import pytest

from runstate.lifecycle import RUN_LIFECYCLE, Lifecycle, RunEvent
from runstate.testing.conformance import HttpAdapter, Violation, check_conformance
from tests.support.lifecycle import PAIRS
from tests.testing import broken
from tests.testing.broken import Desk, Record
from tests.testing.replay import replay
from tests.testing.service import ROUTES, Answer, Service, camel, serving

if TYPE_CHECKING:
    from starlette.requests import Request

pytestmark = pytest.mark.slow  # a check of conformance of a whole implementation asks some thousand things

SMALL_LAW: Final = Lifecycle(
    tuple(
        row for row in RUN_LIFECYCLE.transitions if {row.source, row.target} <= {"queued", "in_progress", "completed"}
    )
)
MIDDLE_LAW: Final = Lifecycle(
    tuple(
        row
        for row in RUN_LIFECYCLE.transitions
        if {row.source, row.target} <= {"queued", "in_progress", "requires_action", "failed", "completed"}
    )
)
COMPLETE: Final = "POST /threads/{thread_id}/runs/{id}/complete"


def cell(violation: Violation) -> tuple[str, str, str]:
    return violation.requirement, str(violation.event), str(violation.status)


# --- the API ----------------------------------------------------------------------------------------------------------


def test_a_service_holds() -> None:
    """A service that speaks the API, and has routes for the rest, holds in all cells."""
    with serving(Service()) as http:
        report = check_conformance(http, race_rounds=1)
    report.assert_conforms()
    assert dict.fromkeys(PAIRS, "holds") == report.cells
    assert {"cell": 81, "walk": 49, "repeat": 19, "race": 56} == report.checked


def test_a_service_without_other_routes() -> None:
    """Of the API alone four cells can be asked: what is not offered is not held against a service."""
    with serving(Service(), routes={}) as http:
        report = check_conformance(http, race_rounds=1)
    report.assert_conforms()
    assert "Service: 4 of 81 cells hold, 14 are not offered, 63 are not reached" == report.summary


class Camel(Service):
    """It spells its keys as JavaScript does."""

    def ok(self, record: Record) -> Answer:
        return super().ok(camel(record))


def test_camel_case_is_judged() -> None:
    """A service may spell its keys as JavaScript does, and is judged by all of them."""
    with serving(Camel(), lifecycle=MIDDLE_LAW) as http:
        report = check_conformance(http, race_rounds=0)
    report.assert_conforms()
    assert 25 == report.count("holds")
    with serving(Camel(broken.KeepsTheDeadline()), lifecycle=MIDDLE_LAW) as http:
        assert 4 == len(check_conformance(http, race_rounds=0).violations)


@pytest.mark.parametrize(
    ("kind", "challenge", "event", "status", "found"),
    [
        (
            *(broken.SkipsTheQueue, "cell", "complete", "queued"),
            "accepted: it is completed (with completed_at, expires_at, usage)",
        ),
        (
            *(broken.CannotFailWaiting, "cell", "fail", "requires_action"),
            "refused: Cannot fail run with status 'requires_action'.",
        ),
        (broken.StartsOnce, "walk", "start", "queued", "started_at is still #, and this move stamps it anew"),
    ],
)
def test_a_wrong_service_is_charged(kind: type[Desk], challenge: str, event: str, status: str, found: str) -> None:
    """A fault behind a service is found as one of functions is, and shown by the same calls."""
    with serving(Service(kind()), lifecycle=MIDDLE_LAW) as http:
        (violation,) = check_conformance(http, race_rounds=0).violations
        shown = replay(violation, http)
    assert (challenge, event, status) == cell(violation)
    assert found == violation.kind[2]
    assert isinstance(shown.last, http.refused) is found.startswith("refused")


def test_a_service_that_looks_then_writes() -> None:
    """Two requests at once that are both granted are found by the conformance kit's two threads."""
    racing: set[str] = set()
    meeting = threading.Barrier(2)

    class Meeting(Service):
        def asked(self, run: str, event: str, body: Record) -> Answer | None:
            seen = self.desk.read(run)
            if event == "complete" and seen["status"] == "in_progress" and run in racing:
                meeting.wait(30)
                self.desk.write(self.desk.kept[run], event)
                return self.ok(self.desk.read(run))
            return super().asked(run, event, body)

    with serving(Meeting(), lifecycle=SMALL_LAW) as http:
        asked = http.send

        def send(run: tuple[str, str], event: RunEvent) -> object:
            if threading.current_thread() is not threading.main_thread() and event == "complete":
                racing.add(run[1])
            return asked(run, event)

        http.send = send  # type: ignore[method-assign]
        (violation,) = check_conformance(http, race_rounds=1).violations
    assert ("race", "complete", "in_progress") == cell(violation)
    assert "both were accepted, and the run is completed" == violation.found


# --- whatever else a socket may answer --------------------------------------------------------------------------------


class Odd(Service):
    """It answers a refusal in a way of its own."""

    def __init__(self, odd: Callable[[Service], Answer | None]) -> None:
        super().__init__()
        self.odd = odd

    def refused(self, event: str, status: str) -> Answer | None:
        return self.odd(self)


HTML: Final = b"<html><body>\n<h1>Bad Gateway</h1>"
ODD: Final[dict[str, tuple[Callable[[Service], Answer | None], str]]] = {
    "500": (lambda service: service.error(500, "It broke."), "HTTPException: {} was answered 500: It broke."),
    "409": (lambda service: service.error(409, "Conflict."), "HTTPException: {} was answered 409: Conflict."),
    "404": (lambda service: service.error(404, "No run."), "HTTPException: {} was answered 404: No run."),
    "502 HTML": (lambda _: (502, HTML, {}), "HTTPException: {} was answered 502: <html><body> <h1>Bad Gateway</h1>"),
    "200 HTML": (
        lambda _: (200, HTML, {}),
        "HTTPException: {} was not answered with a JSON object: <html><body> <h1>Bad Gateway</h1>",
    ),
    "200 array": (lambda _: (200, b"[]", {}), "HTTPException: {} was not answered with a JSON object: []"),
    "redirect": (lambda _: (302, b"", {"location": "/v1/elsewhere"}), "HTTPException: {} was answered 302"),
    "nothing": (lambda _: None, "RemoteDisconnected: Remote end closed connection without response"),
    "half": (
        lambda _: (200, b'{"id": "ru', {"content-length": "100"}),
        'HTTPException: {} was not answered with a JSON object: {{"id": "ru',
    ),
}


@pytest.mark.parametrize("odd", ODD)
def test_odd_answers_are_no_refusals(odd: str) -> None:
    """Only 400 refuses: after a 409 or a 500 the clients of the API ask again by themselves."""
    answer, found = ODD[odd]
    with serving(Odd(answer), lifecycle=SMALL_LAW) as http:
        report = check_conformance(http, race_rounds=0)
    told = {(str(violation.status), str(violation.event)): violation for violation in report.violations}
    refusals = {("queued", "complete"), ("in_progress", "start"), ("completed", "start"), ("completed", "complete")}
    assert refusals == set(told)
    assert f"it broke: {found.format(COMPLETE)}" == told["queued", "complete"].found


def test_other_refusals_may_be_named() -> None:
    """Who refuses by 409 says so."""
    with serving(Odd(ODD["409"][0]), lifecycle=SMALL_LAW, refused_statuses=(400, 409)) as http:
        assert check_conformance(http, race_rounds=1).conforms


@pytest.mark.parametrize("odd", ["500", "502 HTML", "200 HTML", "redirect", "nothing"])
def test_odd_answers_to_what_is_legal(odd: str) -> None:
    """A legal request that is answered oddly is charged, and what stands behind it is not reached."""

    class Wrong(Service):
        def asked(self, run: str, event: str, body: Record) -> Answer | None:
            return ODD[odd][0](self) if event == "start" else super().asked(run, event, body)

    with serving(Wrong(), lifecycle=SMALL_LAW) as http:
        report = check_conformance(http, race_rounds=1)
    (violation,) = report.violations
    assert ("cell", "start", "queued") == cell(violation)
    assert f"it broke: {ODD[odd][1].format(COMPLETE.replace('complete', 'start'))}" == violation.found
    assert 4 == report.count("not reached")


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ((500, b"", {}), "HTTPException: POST /threads/{thread_id}/runs was answered 500"),
        ((400, b'{"error": {"message": "No."}}', {}), "EventRefused: No."),
        ((200, b"{}", {}), "HTTPException: POST /threads/{thread_id}/runs was answered without an id"),
        (None, "RemoteDisconnected: Remote end closed connection without response"),
    ],
)
def test_a_service_that_makes_no_run(answer: Answer | None, found: str) -> None:
    """Where no run is made, that is told once, and nothing else is asked."""

    class Barren(Service):
        def created(self, body: Record) -> Answer | None:
            return answer

    with serving(Barren(), lifecycle=SMALL_LAW) as http:
        (violation,) = check_conformance(http).violations
    assert f"no run was made: {found}" == violation.found


def test_nobody_listens() -> None:
    """Where no service is, that is told once."""
    with socket.socket() as deaf:  # it has the port while nobody listens there: nobody else can
        deaf.bind(("127.0.0.1", 0))
        (violation,) = check_conformance(HttpAdapter(f"http://127.0.0.1:{deaf.getsockname()[1]}")).violations
    assert violation.found.startswith("no run was made: ConnectionRefusedError")


def test_a_service_that_does_not_answer() -> None:
    """A request without an answer is waited for twice, and then not made any more."""
    released = threading.Event()
    asked: list[str] = []

    class Slow(Service):
        def asked(self, run: str, event: str, body: Record) -> Answer | None:
            if event == "start":
                asked.append(run)
                released.wait()
            return super().asked(run, event, body)

    try:
        with serving(Slow(), lifecycle=SMALL_LAW, timeout_s=3.0) as http:
            report = check_conformance(http)
    finally:
        released.set()
    (violation,) = report.violations
    start = COMPLETE.replace("complete", "start")
    assert f"it broke: HTTPException: {start} was not answered within # s" == violation.kind[2]
    assert 2 == len(asked)


def test_an_answer_without_an_end() -> None:
    """A stream that never ends is not read for ever."""

    class Endless(Service):
        def created(self, body: Record) -> Answer | None:
            events: Iterator[bytes] = repeat(b"data: {}\n\n")
            return 200, events, {"content-type": "text/event-stream"}

    with serving(Endless(), timeout_s=0.2, thread_id="thread_1", lifecycle=SMALL_LAW) as http:
        (violation,) = check_conformance(http).violations
    assert (
        "no run was made: HTTPException: POST /threads/{thread_id}/runs was not answered within 0.2 s"
        == violation.found
    )


# --- the adapter ------------------------------------------------------------------------------------------------------


def test_what_goes_along() -> None:
    """Headers, the body of a new run, and that of a route are sent as they are given."""
    bodies: list[tuple[str, Record]] = []

    class Listening(Service):
        def answer(self, method: str, path: str, body: Record) -> Answer | None:
            bodies.append((path, body))
            return super().answer(method, path, body)

    service = Listening()
    routes = {**ROUTES, "fail": ("POST", "/threads/{thread_id}/runs/{id}/fail", {"code": "server_error"})}
    given: dict[str, Any] = {"headers": {"authorization": "Bearer x"}, "body": {"assistant_id": "asst_2"}}
    with serving(service, routes=routes, thread_id="thread_1", **given) as http:
        run = http.create()
        http.send(run, RunEvent.FAIL)
    assert ("thread_1", "run_1") == run
    assert [
        ("/v1/threads/thread_1/runs", {"assistant_id": "asst_2"}),
        ("/v1/threads/thread_1/runs/run_1/fail", {"code": "server_error"}),
    ] == bodies
    assert ("Bearer x", "application/json") == (service.headers["authorization"], service.headers["content-type"])


def test_outputs_are_those_it_waits_for() -> None:
    """Tool outputs name the calls that the run waits for, whatever their ids are."""

    class Weather(Service):
        def asked(self, run: str, event: str, body: Record) -> Answer | None:
            if event == "submit_tool_outputs":
                got.append(body)
            answer = super().asked(run, event, body)
            if event == "require_action":
                text = json.dumps(self.desk.kept[run]["required_action"]).replace("call_1", "call_x")
                self.desk.kept[run]["required_action"] = json.loads(text)
            return answer

    got: list[Record] = []
    with serving(Weather()) as http:
        run = http.create()
        for event in (RunEvent.START, RunEvent.REQUIRE_ACTION):
            http.send(run, event)
        with pytest.raises(http.refused):
            http.send(run, RunEvent.SUBMIT_TOOL_OUTPUTS)
    assert [{"tool_outputs": [{"tool_call_id": "call_x", "output": "ok"}]}] == got


@pytest.mark.parametrize("url", ["", "runs", "ftp://host/v1", "http://", "file:///etc/passwd"])
def test_no_url(url: str) -> None:
    """What is not a URL of a service is refused at once."""
    with pytest.raises(ValueError, match="expected a URL that begins with http"):
        HttpAdapter(url)


def test_a_secret_is_not_told() -> None:
    """A name and password in a URL are not in the subject's name."""
    assert "https://host:8000" == HttpAdapter("https://me:secret@host:8000/v1").name


# --- apps in process --------------------------------------------------------------------------------------------------


def wsgi_app(service: Service) -> Callable[..., Any]:
    """Return a service as a WSGI app."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        answer = service.answer(environ["REQUEST_METHOD"], environ["PATH_INFO"], json.loads(body or b"{}"))
        assert answer is not None
        status, text, _ = answer
        assert isinstance(text, bytes)
        start_response(f"{status} told", [("content-type", "application/json")])
        return [text]

    return app


def asgi_app(service: Service) -> Any:
    """Return a service as an ASGI app."""
    from starlette.applications import Starlette
    from starlette.responses import Response
    from starlette.routing import Route

    async def call(request: Request) -> Response:
        answer = service.answer(request.method, request.url.path, json.loads(await request.body() or b"{}"))
        assert answer is not None
        return Response(answer[1], answer[0], media_type="application/json")

    return Starlette(routes=[Route("/{path:path}", call, methods=["GET", "POST"])])


@pytest.mark.parametrize("kind", ["wsgi", "asgi"])
def test_an_app_is_tried_in_process(kind: str) -> None:
    """Without a server and a port; a broken one is found as one behind a socket is."""
    httpx = pytest.importorskip("httpx")
    pytest.importorskip("starlette")
    from starlette.testclient import TestClient

    for service, conforms in ((Service(), True), (Service(broken.AcceptsAll()), False)):
        transport = None if kind == "asgi" else httpx.WSGITransport(app=wsgi_app(service))
        with TestClient(asgi_app(service)) if kind == "asgi" else httpx.Client(transport=transport) as client:
            http = HttpAdapter("http://test/v1", routes=ROUTES, client=client, lifecycle=SMALL_LAW)
            report = check_conformance(http, race_rounds=1)
            assert conforms is report.conforms, report.summary
