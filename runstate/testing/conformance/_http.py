"""The adapter for a service that speaks the Assistants API, or something like it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any, Final, TypeAlias, cast
from urllib.parse import quote, urlsplit

from runstate.clock import monotonic
from runstate.lifecycle import RUN_LIFECYCLE, Lifecycle, RunEvent
from runstate.run import validators
from runstate.run.codec import decode_field
from runstate.run.values import RequiredAction, raise_if_invalid
from runstate.testing._drive import CALLS
from runstate.testing.conformance._subject import EventNotOffered, EventRefused

__all__ = ["HttpAdapter", "Route"]

Route: TypeAlias = "tuple[str, str] | tuple[str, str, Mapping[str, Any]]"
"""A method, a path with `{thread_id}` and `{id}` in it, and what goes along as JSON."""

_RUNS: Final = "/threads/{thread_id}/runs"
_READ: Final = ("GET", f"{_RUNS}/{{id}}")
_API: Final[Mapping[RunEvent, Route]] = {
    RunEvent.REQUEST_CANCEL: ("POST", f"{_RUNS}/{{id}}/cancel"),
    RunEvent.SUBMIT_TOOL_OUTPUTS: ("POST", f"{_RUNS}/{{id}}/submit_tool_outputs"),
}
_MOST: Final = 10_000_000  # bytes of an answer
_PATIENCE: Final = 2  # a service that answers nothing would be waited for a thousand times


class HttpAdapter:
    """A service at a URL. What the API has no call for (start, complete, ...) is offered where `routes` say how.

    `routes` are by event, and `create`; those of the API are known. A status of `refused_by` is a refusal; any other
    error is told as a breakage. It is 400 alone: clients of the API ask again by themselves after a 409. Each run is
    made on a thread of its own (`POST /threads`), unless `thread_id` is given. A route that twice gave no answer
    within `wait_s` is not asked any more.
    """

    def __init__(
        self,
        url: str,
        *,
        routes: Mapping[str, Route] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        thread_id: str | None = None,
        refused_by: tuple[int, ...] = (400,),
        wait_s: float = 30.0,
        law: Lifecycle = RUN_LIFECYCLE,
        name: str = "",
    ) -> None:
        if thread_id is not None:
            raise_if_invalid(validators.non_blank_string("thread_id", thread_id))
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected a URL that begins with http:// or https:// and names a host")
        self._secure = parts.scheme == "https"
        self._host, self._port, self._base = parts.hostname, parts.port, parts.path.rstrip("/")
        given = dict(routes or {})
        self._create: Route = given.pop("create", ("POST", _RUNS))
        self._routes: dict[RunEvent, Route] = {**_API, **{RunEvent(event): route for event, route in given.items()}}
        self._headers = {"content-type": "application/json", **(headers or {})}
        self._body = body or {"assistant_id": "asst_1"}
        self._thread_id = thread_id
        self._refused_by = refused_by
        self._wait_s = wait_s
        self._waited: Counter[str] = Counter()
        self.refused: tuple[type[Exception], ...] = (EventRefused,)
        self.law: Lifecycle = law
        self.name: str = name or f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    def create(self) -> tuple[str, str]:
        """Make a run; return the ids of its thread and itself."""
        thread_id = self._thread_id or self._made(("POST", "/threads"), {}, {})
        return thread_id, self._made(self._create, {"thread_id": thread_id, "id": ""}, self._body)

    def ask(self, run: tuple[str, str], event: RunEvent) -> object:
        """Ask an event of it by its route."""
        route = self._routes.get(RunEvent(event))
        if route is None:
            raise EventNotOffered(f"there is no route for {event}")
        body: Mapping[str, Any] = {}
        if event == RunEvent.SUBMIT_TOOL_OUTPUTS:
            body = {"tool_outputs": [{"tool_call_id": one, "output": "ok"} for one in self._calls(run)]}
        return self._asked(route, self._named(run), body)

    def read(self, run: tuple[str, str]) -> Mapping[str, Any]:
        """Retrieve it."""
        return self._asked(_READ, self._named(run), None)

    def _calls(self, run: tuple[str, str]) -> list[str]:
        """Return the ids of the calls that it waits for; of the sample's where it waits for none."""
        found = self.read(run)
        data = found.get("required_action", found.get("requiredAction"))
        action = None if data is None else decode_field("required_action", data)
        return [call.id for call in (action.tool_calls if isinstance(action, RequiredAction) else CALLS)]

    @staticmethod
    def _named(run: tuple[str, str]) -> dict[str, str]:
        return {"thread_id": run[0], "id": run[1]}

    def _made(self, route: Route, named: Mapping[str, str], body: Mapping[str, Any]) -> str:
        made = self._asked(route, named, body)
        if "id" not in made:
            raise HTTPException(f"{route[0]} {route[1]} was answered without an id")
        return str(made["id"])

    def _asked(self, route: Route, named: Mapping[str, str], body: Mapping[str, Any] | None) -> Mapping[str, Any]:
        method, path, *more = route
        told = f"{method} {path}"
        if self._waited[told] >= _PATIENCE:
            raise HTTPException(f"{told} was not asked any more")
        given = None if body is None else json.dumps({**body, **(more[0] if more else {})})
        place = self._base + path.format_map({name: quote(value, safe="") for name, value in named.items()})
        kind = HTTPSConnection if self._secure else HTTPConnection
        connection = kind(self._host, self._port, timeout=self._wait_s)  # one a request: two threads may ask at once
        try:
            connection.request(method, place, given, dict(self._headers))
            with connection.getresponse() as response:
                return self._read_answer(response, told)
        except TimeoutError:
            self._waited[told] += 1
            raise HTTPException(f"{told} was not answered within {self._wait_s:g} s") from None
        finally:
            connection.close()

    def _read_answer(self, response: HTTPResponse, told: str) -> Mapping[str, Any]:
        text = b"".join(self._parts(response))
        if response.status in self._refused_by:
            raise EventRefused(_message(text))
        if response.status >= 300:
            said = _message(text)
            raise HTTPException(f"{told} was answered {response.status}{f': {said}' if said else ''}")
        try:
            found: Any = json.loads(text or b"{}")
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise HTTPException(f"{told} was not answered with a JSON object: {_message(text)}")
        return cast("dict[str, Any]", found)

    def _parts(self, response: HTTPResponse) -> Iterator[bytes]:
        """Yield an answer's bytes; one that has no end (a stream of events) is not waited for."""
        until, length = monotonic() + self._wait_s, 0
        while part := response.read1(65_536):
            length += len(part)
            if length > _MOST or monotonic() > until:
                raise TimeoutError
            yield part


def _message(text: bytes) -> str:
    """Return the message in the API's envelope of errors, or how the answer begins."""
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return " ".join(text[:80].decode(errors="replace").split())
