"""The adapter for a service with the Assistants API, or one like it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any, Final, Protocol, TypeAlias, cast
from urllib.parse import quote, urlsplit

from runstate.clock import monotonic
from runstate.lifecycle import RUN_LIFECYCLE, Lifecycle, RunEvent
from runstate.run import validators
from runstate.run.codec import decode_field
from runstate.run.values import RequiredAction, raise_if_invalid
from runstate.testing._send import CALLS
from runstate.testing.conformance._system import EventNotOffered, EventRefused

__all__ = ["HttpAdapter", "Route"]

Route: TypeAlias = "tuple[str, str] | tuple[str, str, Mapping[str, Any]]"
"""A method, a path with `{thread_id}` and `{id}` in it, and fields to add to the JSON body."""

_RUNS: Final = "/threads/{thread_id}/runs"
_READ_ROUTE: Final = ("GET", f"{_RUNS}/{{id}}")
_API_ROUTES: Final[Mapping[RunEvent, Route]] = {
    RunEvent.REQUEST_CANCEL: ("POST", f"{_RUNS}/{{id}}/cancel"),
    RunEvent.SUBMIT_TOOL_OUTPUTS: ("POST", f"{_RUNS}/{{id}}/submit_tool_outputs"),
}
_MAX_BYTES: Final = 10_000_000  # of a response
_MAX_TIMEOUTS: Final = 2  # without this limit, the kit would wait a thousand times for a service that never responds


class HttpAnswer(Protocol):
    """What an `HttpClient` returns."""

    @property
    def status_code(self) -> int:
        """The status."""
        ...

    @property
    def content(self) -> bytes:
        """The body."""
        ...


class HttpClient(Protocol):
    """An `httpx.Client`, or another one like it."""

    def request(self, method: str, url: str, *, content: Any, headers: Any) -> HttpAnswer:
        """Send a request, and return the answer."""
        ...


class HttpAdapter:
    """A service at a URL. Events that the API has no call for (start, complete, ...) are offered if `routes` has them.

    `routes` has a route for each event, and one for `create`; those of the API are known. A response with a status of
    `refused_statuses` is a refusal; any other error is a violation. By default it is 400 alone, because clients of the
    API retry by themselves after a 409. Each run is created on a thread of its own (`POST /threads`), unless
    `thread_id` is given. A route without a response within `timeout_s` is not called again after the second time.

    `client` calls an app in this process instead, without a server: an `httpx.Client` with a transport for WSGI, or
    the test client of Starlette and FastAPI for ASGI. `url` is then the base of its paths.

        HttpAdapter("http://test/v1", client=TestClient(app))
        HttpAdapter("http://test/v1", client=httpx.Client(transport=httpx.WSGITransport(app=app)))
    """

    def __init__(
        self,
        url: str,
        *,
        routes: Mapping[str, Route] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        thread_id: str | None = None,
        refused_statuses: tuple[int, ...] = (400,),
        timeout_s: float = 30.0,
        lifecycle: Lifecycle = RUN_LIFECYCLE,
        name: str = "",
        client: HttpClient | None = None,
    ) -> None:
        if thread_id is not None:
            raise_if_invalid(validators.non_blank_string("thread_id", thread_id))
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected a URL that begins with http:// or https:// and names a host")
        self._client = client
        self._root = f"{parts.scheme}://{parts.netloc}"
        self._secure = parts.scheme == "https"
        self._host, self._port, self._base = parts.hostname, parts.port, parts.path.rstrip("/")
        given_routes = dict(routes or {})
        self._create: Route = given_routes.pop("create", ("POST", _RUNS))
        self._routes: dict[RunEvent, Route] = {
            **_API_ROUTES,
            **{RunEvent(event): route for event, route in given_routes.items()},
        }
        self._headers = {"content-type": "application/json", **(headers or {})}
        self._body = body or {"assistant_id": "asst_1"}
        self._thread_id = thread_id
        self._refused_statuses = refused_statuses
        self._timeout_s = timeout_s
        self._timeouts: Counter[str] = Counter()
        self.refused: tuple[type[Exception], ...] = (EventRefused,)
        self.lifecycle: Lifecycle = lifecycle
        self.name: str = name or f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    def create(self) -> tuple[str, str]:
        """Create a run; return the ids of its thread and of itself."""
        thread_id = self._thread_id or self._create_object(("POST", "/threads"), {}, {})
        return thread_id, self._create_object(self._create, {"thread_id": thread_id, "id": ""}, self._body)

    def send(self, run: tuple[str, str], event: RunEvent) -> object:
        """Call the route of an event."""
        route = self._routes.get(RunEvent(event))
        if route is None:
            raise EventNotOffered(f"there is no route for {event}")
        body: Mapping[str, Any] = {}
        if event == RunEvent.SUBMIT_TOOL_OUTPUTS:
            body = {"tool_outputs": [{"tool_call_id": one, "output": "ok"} for one in self._call_ids(run)]}
        return self._request(route, self._path_values(run), body)

    def read(self, run: tuple[str, str]) -> Mapping[str, Any]:
        """Retrieve a run."""
        return self._request(_READ_ROUTE, self._path_values(run), None)

    def _call_ids(self, run: tuple[str, str]) -> list[str]:
        """Return the ids of the calls that a run waits for; those of the samples if it waits for none."""
        found = self.read(run)
        data = found.get("required_action", found.get("requiredAction"))
        action = None if data is None else decode_field("required_action", data)
        return [call.id for call in (action.tool_calls if isinstance(action, RequiredAction) else CALLS)]

    @staticmethod
    def _path_values(run: tuple[str, str]) -> dict[str, str]:
        return {"thread_id": run[0], "id": run[1]}

    def _create_object(self, route: Route, named: Mapping[str, str], body: Mapping[str, Any]) -> str:
        made = self._request(route, named, body)
        if "id" not in made:
            raise HTTPException(f"{route[0]} {route[1]} was answered without an id")
        return str(made["id"])

    def _request(self, route: Route, named: Mapping[str, str], body: Mapping[str, Any] | None) -> Mapping[str, Any]:
        method, path, *more = route
        call = f"{method} {path}"
        if self._timeouts[call] >= _MAX_TIMEOUTS:
            raise HTTPException(f"{call} was not asked any more")
        payload = None if body is None else json.dumps({**body, **(more[0] if more else {})})
        place = self._base + path.format_map({name: quote(value, safe="") for name, value in named.items()})
        if self._client is not None:
            answered = self._client.request(method, self._root + place, content=payload, headers=self._headers)
            return self._read_answer(answered.status_code, answered.content, call)
        kind = HTTPSConnection if self._secure else HTTPConnection
        connection = kind(
            self._host, self._port, timeout=self._timeout_s
        )  # one for each request, because two threads may call at once
        try:
            connection.request(method, place, payload, dict(self._headers))
            with connection.getresponse() as response:
                return self._read_response(response, call)
        except TimeoutError:
            self._timeouts[call] += 1
            raise HTTPException(f"{call} was not answered within {self._timeout_s:g} s") from None
        finally:
            connection.close()

    def _read_response(self, response: HTTPResponse, call: str) -> Mapping[str, Any]:
        return self._read_answer(response.status, b"".join(self._read_body(response)), call)

    def _read_answer(self, status: int, text: bytes, call: str) -> Mapping[str, Any]:
        if status in self._refused_statuses:
            raise EventRefused(_error_message(text))
        if status >= 300:
            message = _error_message(text)
            raise HTTPException(f"{call} was answered {status}{f': {message}' if message else ''}")
        try:
            found: Any = json.loads(text or b"{}")
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise HTTPException(f"{call} was not answered with a JSON object: {_error_message(text)}")
        return cast("dict[str, Any]", found)

    def _read_body(self, response: HTTPResponse) -> Iterator[bytes]:
        """Yield the bytes of a response; raise `TimeoutError` for one without an end, such as a stream of events."""
        until, length = monotonic() + self._timeout_s, 0
        while part := response.read1(65_536):
            length += len(part)
            if length > _MAX_BYTES or monotonic() > until:
                raise TimeoutError
            yield part


def _error_message(text: bytes) -> str:
    """Return the message of the API's error object, or how the response begins."""
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return " ".join(text[:80].decode(errors="replace").split())
