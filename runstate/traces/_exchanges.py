"""One recorded HTTP request with its response, in the format of any recorder.

An exchange has a request, a status, headers and a body. Recorders differ in names (`uri`, `url`, `RequestUri`), in
case, and in where they nest a value (`status: 200`, `status: 200 OK`, `status: {code: "200"}`). So the names below are
compared without case, underscores and hyphens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, cast

import attrs

from runstate.lifecycle import RunEvent
from runstate.traces._bodies import Hex
from runstate.traces._run_search import is_run
from runstate.traces._snapshots import Location, RawObject, as_object
from runstate.traces._yaml import Base64

__all__ = ["Exchange", "is_exchange", "read_exchange", "split_path"]

_REQUESTS: Final = ("request", "req", "httprequest", "originalrequest")
_RESPONSES: Final = ("response", "res", "httpresponse", "responsedefinition")
_METHODS: Final = ("method", "requestmethod", "httpmethod", "verb")
_URLS: Final = ("uri", "url", "requesturi", "requesturl", "path", "urlpath", "urlpattern", "urlpathpattern")
_CODES: Final = ("statuscode", "responsestatus", "code", "status")
_HEADERS: Final = ("headers", "header", "responseheaders", "rawheaders")
_BODIES: Final = ("body", "responsebody", "content", "parsedbody", "jsonbody", "json", "base64body", "text")
_FLAT_BODIES: Final = ("responsebody", "response", "responsetext", "responsecontent")
_WRAPPED_BYTES: Final = ("base64string", "base64bytes", "encoded", "base64")
_WRAPPED_TEXT: Final = ("string", "text", "json", "value")
_EVENT_BY_CALL: Final = {"cancel": RunEvent.REQUEST_CANCEL, "submit_tool_outputs": RunEvent.SUBMIT_TOOL_OUTPUTS}
_CODE: Final = re.compile(r"\s*(?:HTTP/\S+\s+)?([1-9]\d{2})\b")
_SEPARATORS: Final = str.maketrans("", "", "_- ")


@attrs.frozen
class Exchange:
    """One recorded request and its response."""

    at: Location
    method: str
    path: tuple[str, ...]
    """The segments of the path of the request; () if it was not recorded."""
    code: int
    encoding: str
    """The content encoding by the header of the response."""
    body: object
    """Text, `Base64`, `Hex`, pieces of text, or a JSON value that was written as one; None if there is none."""
    body_location: str = ""
    """Where the body is, if the recording says that it is elsewhere."""

    @property
    def requested(self) -> RunEvent | None:
        """The event that the request is for; None for other requests."""
        is_move = self.method == "POST" and "runs" in self.path
        return _EVENT_BY_CALL.get(self.path[-1]) if is_move else None

    @property
    def is_about_runs(self) -> bool:
        """Whether the path of the request is about runs, and not about their steps."""
        return "runs" in self.path and "steps" not in self.path

    def may_hold_run(self, body: bytes = b"") -> bool:
        """Return whether the response may hold a run, by the path of the request or by the body."""
        return not self.path or self.is_about_runs or b'"thread.run"' in body


def is_exchange(value: object) -> bool:
    """Return whether a value is one recorded request with its response."""
    found = _normalize_keys(value)
    if not found or is_run(value):
        return False
    has_request = any(isinstance(found.get(name), Mapping) for name in _REQUESTS)
    response = next((found[name] for name in _RESPONSES if name in found), None)
    if has_request and isinstance(response, Mapping):
        return True
    flat = any(name in found for name in _FLAT_BODIES) and any(isinstance(found.get(name), str) for name in _URLS)
    return flat and any(name in found for name in (*_METHODS, *_CODES))


def read_exchange(at: Location, value: object) -> Exchange:
    """Return the exchange in one entry of a recording."""
    entry = _normalize_keys(value)
    request = _normalize_keys(_first_of(entry, _REQUESTS, Mapping)) or entry
    inner = as_object(_first_of(entry, _RESPONSES, Mapping))
    nested = bool(inner) and not _is_body(inner)
    response = _normalize_keys(inner) if nested else entry
    url = _url(request)
    body = _body(response, _BODIES if nested else _FLAT_BODIES)
    file = response.get("bodyfilename")
    return Exchange(
        at,
        _text_or_empty(_first_of(request, _METHODS, str)).upper(),
        split_path(url),
        _code(response),
        _header(response, "content-encoding"),
        body,
        f"in the file {file[:100]}" if isinstance(file, str) and body is None else "",
    )


def split_path(url: str) -> tuple[str, ...]:
    """Return the segments of the path of a URL."""
    whole = url.partition("?")[0].partition("#")[0]
    _, _, after_scheme = whole.partition("://")
    path = after_scheme.partition("/")[2] if after_scheme else whole
    return tuple(name for name in path.split("/") if name)


# --- spellings --------------------------------------------------------------------------------------------------------


def _normalize_keys(value: object) -> dict[str, object]:
    """Return an object with normalized keys; of two equal ones the first counts."""
    found: dict[str, object] = {}
    for key, member in as_object(value).items():
        found.setdefault(key.lower().translate(_SEPARATORS), member)
    return found


def _first_of(found: Mapping[str, object], names: Iterable[str], kind: type = object) -> object:
    return next(
        (found[name] for name in names if name in found and isinstance(found[name], kind) and found[name] is not None),
        None,
    )


def _text_or_empty(value: object) -> str:
    return value if isinstance(value, str) else ""


def _is_body(value: RawObject) -> bool:
    """Return whether a response is its own body, as in nock."""
    names = _normalize_keys(value)
    has_response_keys = any(name in names for name in (*_BODIES, *_HEADERS, "statuscode", "bodyfilename"))
    return is_run(value) or ("object" in names) or not (has_response_keys or _code_in(names.get("status")) is not None)


def _url(request: Mapping[str, object]) -> str:
    value = _first_of(request, _URLS)
    if isinstance(value, Mapping):  # Postman
        value = _normalize_keys(cast("object", value)).get("raw")
    elif isinstance(value, list):  # Hoverfly
        matchers = cast("list[object]", value)
        value = as_object(matchers[0]).get("value") if matchers else None
    return _text_or_empty(value)


def _code(response: Mapping[str, object]) -> int:
    """Return the HTTP status; 200 if none was recorded."""
    codes = (_code_in(response.get(name)) for name in _CODES)
    return next((code for code in codes if code is not None), 200)


def _code_in(value: object) -> int | None:
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str):
        match = _CODE.match(value[:64])
        return int(match[1]) if match else None
    if isinstance(value, Mapping):
        inner = _normalize_keys(cast("object", value))
        return next((code for name in _CODES if (code := _code_in(inner.get(name))) is not None), None)
    return None


def _header(response: Mapping[str, object], name: str) -> str:
    """Return the value of a header from an object, a list of names with values, or an alternating list of both."""
    headers = next((response[key] for key in _HEADERS if response.get(key)), None)
    pairs: Iterable[tuple[object, object]] = ()
    if isinstance(headers, Mapping):
        pairs = cast("RawObject", headers).items()
    elif isinstance(headers, list):
        members = cast("list[object]", headers)
        if all(isinstance(member, str) for member in members):
            lines = (cast("str", member).partition(":") for member in members)
            pairs = [*zip(members[::2], members[1::2], strict=False), *((name, value) for name, _, value in lines)]
        else:
            named = [_normalize_keys(member) for member in members]
            pairs = [(found.get("name", found.get("key")), found.get("value")) for found in named]
    for key, value in pairs:
        if isinstance(key, str) and key.strip().lower() == name:
            inner = cast("list[object]", value) if isinstance(value, list) else [value]
            return _text_or_empty(inner[0]).strip() if inner else ""
    return ""


def _body(response: Mapping[str, object], names: Iterable[str]) -> object:
    """Return the body of a recorded response, wherever the recorder puts it."""
    name = next((name for name in names if response.get(name) is not None), None)
    if name is None:
        return None
    body = _unwrap(response[name])
    if isinstance(body, str) and not isinstance(body, Base64 | Hex):
        flags = (response.get("encodedbody"), response.get("isbase64encoded"), response.get("bodyisbase64"))
        if name == "base64body" or True in flags:
            return Base64(body)
        if response.get("responseisbinary") is True:
            return Hex(body)
    return body


def _unwrap(body: object) -> object:
    """Return a body without the object that some recorders wrap around it to give its encoding."""
    found = as_object(body)
    if not found:
        return None if isinstance(body, Mapping) else body
    names = _normalize_keys(found)
    if is_run(found) or "object" in names or "id" in names:
        return body
    packed = _first_of(names, _WRAPPED_BYTES, str)
    if isinstance(packed, str):
        return Base64(packed)
    if not any(name in names for name in _WRAPPED_TEXT):
        has_size = "size" in names or "mimetype" in names  # a HAR file without its contents
        return None if has_size else body
    text = _first_of(names, _WRAPPED_TEXT)
    if isinstance(text, str) and not isinstance(text, Base64):
        return Base64(text) if names.get("encoding") == "base64" else text
    return text
