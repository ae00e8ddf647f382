"""The files of HTTP recorders: where the recorded requests are in each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final, TypeAlias, cast

import attrs

from runstate.traces._exchanges import Exchange, is_exchange, read_exchange
from runstate.traces._run_search import is_run
from runstate.traces._snapshots import Location, as_object

__all__ = ["CONTAINERS", "KEYS", "Container", "is_without_entries", "iter_exchanges"]

Entries: TypeAlias = list[tuple[int, object]]
"""Recorded requests in the order in which they were made, each with its number in the file."""


@attrs.frozen
class Container:
    """One kind of file: the recorders that write it, the name of its parts, and how to find them."""

    recorders: str
    part: str
    find: Callable[[object], Entries | None]


def iter_exchanges(at: Location, value: object) -> Iterator[Exchange] | None:
    """Return the exchanges in the value of a recorder's file at a location; None for other files."""
    if is_run(value):
        return None
    if is_exchange(value):
        return iter([read_exchange(at, value)])
    for container in CONTAINERS:
        entries = container.find(value)
        if entries is not None:
            return (read_exchange(Location(0, "", container.part, number), entry) for number, entry in entries)
    return None


def is_without_entries(value: object) -> bool:
    """Return whether a value is a recorder's file without any recorded request."""
    found = as_object(value)
    return not _FIRST_KEYS.isdisjoint(found) and any(_get(found, keys) == [] for keys in _LISTS)


def _get(value: object, keys: tuple[str, ...]) -> object:
    for key in keys:
        value = as_object(value).get(key)
    return value


# --- places of entries ------------------------------------------------------------------------------------------------


def _numbered(entries: list[object]) -> Entries:
    return list(enumerate(entries, start=1))


def _list_under(*keys: str, certain: bool = False) -> Callable[[object], Entries | None]:
    """Return a function that finds the list under these keys; unless `certain`, the list must have an exchange."""

    def find(value: object) -> Entries | None:
        for key in keys:
            value = as_object(value).get(key)
        if not isinstance(value, list):
            return None
        entries = cast("list[object]", value)
        return _numbered(entries) if certain or any(map(is_exchange, entries)) else None

    return find


def _har(value: object) -> Entries | None:
    found = _list_under("log", "entries", certain=True)(value)
    return None if found is None else _by_time(found, "startedDateTime")


def _by_time(entries: Entries, key: str) -> Entries:
    def started(entry: tuple[int, object]) -> datetime:
        text = as_object(entry[1]).get(key)
        time = datetime.fromisoformat(text[:64] if isinstance(text, str) else "")
        return time if time.tzinfo else time.replace(tzinfo=UTC)

    try:
        return sorted(entries, key=started)
    except (ValueError, OverflowError):
        return entries  # without a time for each, keep the order of the file


def _wiremock(value: object) -> Entries | None:
    found = _list_under("mappings")(value)
    indexes = [as_object(entry).get("insertionIndex") for _, entry in found or ()]
    if found is None or not all(isinstance(index, int) for index in indexes):
        return found
    return [entry for _, entry in sorted(zip(cast("list[int]", indexes), found, strict=True), key=lambda pair: pair[0])]


def _wiremock_journal(value: object) -> Entries | None:
    found = _list_under("requests")(value)
    if found is None:
        return None
    dates = [as_object(as_object(entry).get("request")).get("loggedDate") for _, entry in found]
    if not all(isinstance(date, int) for date in dates):
        return found
    return [entry for _, entry in sorted(zip(cast("list[int]", dates), found, strict=True), key=lambda pair: pair[0])]


def _responses(value: object) -> Entries | None:
    """Find the entries of the Python library `responses`, which has the request in the response."""
    listed = as_object(value).get("responses")
    if not isinstance(listed, list):
        return None
    inner = [as_object(entry).get("response") for entry in cast("list[object]", listed)]
    held = [as_object(entry) for entry in inner]
    if not any("url" in entry and "status" in entry for entry in held):
        return None
    return _numbered([{"request": entry, "response": entry} for entry in held])


def _postman(value: object) -> Entries | None:
    """Find the saved responses of a Postman collection and its folders, in their order."""
    found = as_object(value)
    if not isinstance(found.get("item"), list) or "info" not in found:
        return None
    entries: list[object] = []
    stack = list(reversed(cast("list[object]", found["item"])))
    while stack:
        item = as_object(stack.pop())
        inner, saved = item.get("item"), item.get("response")
        if isinstance(inner, list):
            stack += reversed(cast("list[object]", inner))
        for response in cast("list[object]", saved) if isinstance(saved, list) else ():
            request = as_object(response).get("originalRequest", item.get("request"))
            entries.append({"request": request, "response": response})
    return _numbered(entries)


def _array(value: object) -> Entries | None:
    if not isinstance(value, list):
        return None
    entries = cast("list[object]", value)
    return _numbered(entries) if any(map(is_exchange, entries)) else None


CONTAINERS: Final = (
    Container("HAR: browsers, Charles, Fiddler, Insomnia, mitmproxy, Polly.js", "entry", _har),
    Container("vcrpy, pytest-recording, go-vcr, Pact", "interaction", _list_under("interactions", certain=True)),
    Container("VCR for Ruby and R, betamax", "interaction", _list_under("http_interactions", certain=True)),
    Container("the Azure SDK test proxy", "entry", _list_under("Entries", certain=True)),
    Container("the older recorder of the Azure SDK for JavaScript", "entry", _list_under("recordings")),
    Container("the older recorder of the Azure SDK for Java", "entry", _list_under("networkCallRecords")),
    Container("WireMock", "mapping", _wiremock),
    Container("WireMock's journal of requests", "request", _wiremock_journal),
    Container("Hoverfly", "pair", _list_under("data", "pairs")),
    Container("responses", "response", _responses),
    Container("Postman", "response", _postman),
    Container("ExVCR, PHP-VCR, nock, HTTPretty, MockServer, Charles", "interaction", _array),
)

_LISTS: Final = (
    *(("log", "entries"), ("interactions",), ("http_interactions",), ("Entries",), ("recordings",)),
    *(("networkCallRecords",), ("mappings",), ("requests",), ("data", "pairs"), ("responses",), ("item",)),
)
"""The paths of the lists of entries of each kind."""
_FIRST_KEYS: Final = frozenset(first for first, *_ in _LISTS)

KEYS: Final = (
    *("interactions", "http_interactions", "version", "recorded_with", "log", "Entries", "recordings"),
    *("networkCallRecords", "mappings", "requests", "responses", "object", "openapi", "swagger", "request"),
)
"""The keys with which a recorder's file in YAML may begin."""
