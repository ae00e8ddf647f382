"""A small service that speaks the Assistants API over a desk, with routes for what the API has no call for."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from runstate.testing.conformance import HttpAdapter
from runstate.testing.conformance._http import Route
from tests.support.lifecycle import EVENTS
from tests.testing.broken import Desk, No, Record

__all__ = ["Answer", "Service", "camel", "serving"]

PATH: Final = re.compile(r"/v1/threads/(?P<thread>\w+)/runs/(?P<run>\w+)(?:/(?P<call>\w+))?")
CALLS: Final = {"cancel": "request_cancel", "submit_tool_outputs": "submit_tool_outputs"}
ROUTES: Final[Mapping[str, Route]] = {
    event: ("POST", f"/threads/{{thread_id}}/runs/{{id}}/{event}") for event in EVENTS if event not in CALLS.values()
}
Answer = tuple[int, bytes | Iterator[bytes], Mapping[str, str]]


class Service:
    """What is answered to whom; a broken service answers something else."""

    def __init__(self, desk: Desk | None = None) -> None:
        self.desk = desk or Desk()
        self.headers: dict[str, str] = {}
        """Those of the last request."""

    def answer(self, method: str, path: str, body: Record) -> Answer | None:
        """Return the status, the body and the headers; None hangs up."""
        found = PATH.fullmatch(path)
        if path == "/v1/threads":
            return self.ok({"id": "thread_1", "object": "thread"})
        if path == "/v1/threads/thread_1/runs" and method == "POST":
            return self.created(body)
        if found is None or found["thread"] != "thread_1" or found["run"] not in self.desk.kept:
            return self.error(404, f"No run found for '{path}'.")
        run, call = found["run"], found["call"]
        if method == "GET" and call is None:
            return self.ok(self.desk.read(run))
        return self.asked(run, CALLS.get(call or "", call or ""), body)

    def created(self, body: Record) -> Answer | None:
        if "assistant_id" not in body:
            return self.error(400, "Missing required parameter: 'assistant_id'.")
        return self.ok(self.desk.read(self.desk.create()))

    def asked(self, run: str, event: str, body: Record) -> Answer | None:
        status = self.desk.read(run)["status"]
        if event == "submit_tool_outputs" and status == "requires_action":
            got = [one["tool_call_id"] for one in body["tool_outputs"]]
            if got != ["call_1"]:
                return self.error(400, f"Expected tool outputs for call_ids ['call_1'], got {got}")
        try:
            self.desk.send(run, event)
        except No:
            return self.refused(event, status)
        return self.ok(self.desk.read(run))

    def refused(self, event: str, status: str) -> Answer | None:
        told = {
            "request_cancel": f"Cannot cancel run with status '{status}'.",
            "submit_tool_outputs": f'Runs in status "{status}" do not accept tool outputs.',
        }
        return self.error(400, told.get(event, f"Cannot {event} run with status '{status}'."))

    def error(self, status: int, message: str) -> Answer:
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
        return status, json.dumps({"error": error}).encode(), {}

    def ok(self, record: Record) -> Answer:
        return 200, json.dumps(record).encode(), {}


class Clocked(HttpAdapter):
    """An adapter that can also move the time of its service, which stands in the same process."""

    def __init__(self, url: str, desk: Desk, **given: Any) -> None:
        super().__init__(url, **given)
        self.advance: Callable[[int], None] = desk.advance


@contextmanager
def serving(service: Service, *, routes: Mapping[str, Route] = ROUTES, **given: Any) -> Iterator[Clocked]:
    """Serve at a port of this machine's own, and yield an adapter for it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def serve(self) -> None:
            text = self.rfile.read(int(self.headers.get("content-length") or 0))
            service.headers = dict(self.headers.items())
            answer = service.answer(self.command, self.path, json.loads(text or b"{}"))
            self.close_connection = True
            if answer is None:
                return
            status, body, headers = answer
            self.send_response(status)
            for name, value in {"connection": "close", **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            for part in [body] if isinstance(body, bytes) else body:
                self.wfile.write(part)

        do_GET = do_POST = serve  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass  # who asked has gone

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/v1"
        yield Clocked(url, service.desk, routes=routes, name=type(service).__name__, **given)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def camel(record: Any) -> Any:
    """Return what JSON holds with its keys as JavaScript spells them."""
    if isinstance(record, list):
        return [camel(each) for each in record]
    if not isinstance(record, dict):
        return record
    return {re.sub(r"_([a-z])", lambda found: found[1].upper(), key): camel(value) for key, value in record.items()}
