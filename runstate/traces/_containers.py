"""The files that HTTP recorders write, by where in them the recorded requests stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final, TypeAlias, cast

import attrs

from runstate.traces._answers import Exchange, is_exchange, read_exchange
from runstate.traces._finding import is_run
from runstate.traces._snapshots import Location, object_of

__all__ = ["CONTAINERS", "KEYS", "Container", "is_without_entries", "iter_exchanges"]

Entries: TypeAlias = list[tuple[int, object]]
"""Recorded requests in the order they were made, each with its number in the file."""


@attrs.frozen
class Container:
    """One kind of file: who writes it, what its parts are called, and how they are found in its value."""

    recorders: str
    part: str
    find: Callable[[object], Entries | None]


def iter_exchanges(at: Location, value: object) -> Iterator[Exchange] | None:
    """Return the answers in the value of a recorder's file; None if it is none. `at` is where the value stands."""
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
    """Tell whether a value is a recorder's file in which nothing was recorded."""
    found = object_of(value)
    return not _FIRST_KEYS.isdisjoint(found) and any(_at(found, keys) == [] for keys in _LISTS)


def _at(value: object, keys: tuple[str, ...]) -> object:
    for key in keys:
        value = object_of(value).get(key)
    return value


# --- where entries stand ----------------------------------------------------------------------------------------------


def _numbered(entries: list[object]) -> Entries:
    return list(enumerate(entries, start=1))


def _under(*keys: str, certain: bool = False) -> Callable[[object], Entries | None]:
    """Return a way to find the list under these keys; unless the keys are certain, one that holds an exchange."""

    def find(value: object) -> Entries | None:
        for key in keys:
            value = object_of(value).get(key)
        if not isinstance(value, list):
            return None
        entries = cast("list[object]", value)
        return _numbered(entries) if certain or any(map(is_exchange, entries)) else None

    return find


def _har(value: object) -> Entries | None:
    found = _under("log", "entries", certain=True)(value)
    return None if found is None else _by_time(found, "startedDateTime")


def _by_time(entries: Entries, key: str) -> Entries:
    def started(entry: tuple[int, object]) -> datetime:
        told = object_of(entry[1]).get(key)
        time = datetime.fromisoformat(told[:64] if isinstance(told, str) else "")
        return time if time.tzinfo else time.replace(tzinfo=UTC)

    try:
        return sorted(entries, key=started)
    except (ValueError, OverflowError):
        return entries  # where one has no time there is no order but that of the file


def _wiremock(value: object) -> Entries | None:
    found = _under("mappings")(value)
    indexes = [object_of(entry).get("insertionIndex") for _, entry in found or ()]
    if found is None or not all(isinstance(index, int) for index in indexes):
        return found
    return [entry for _, entry in sorted(zip(cast("list[int]", indexes), found, strict=True), key=lambda pair: pair[0])]


def _wiremock_journal(value: object) -> Entries | None:
    found = _under("requests")(value)
    if found is None:
        return None
    dates = [object_of(object_of(entry).get("request")).get("loggedDate") for _, entry in found]
    if not all(isinstance(date, int) for date in dates):
        return found
    return [entry for _, entry in sorted(zip(cast("list[int]", dates), found, strict=True), key=lambda pair: pair[0])]


def _responses(value: object) -> Entries | None:
    """Find the entries of the Python library `responses`, where the request stands in the response."""
    listed = object_of(value).get("responses")
    if not isinstance(listed, list):
        return None
    inner = [object_of(entry).get("response") for entry in cast("list[object]", listed)]
    held = [object_of(entry) for entry in inner]
    if not any("url" in entry and "status" in entry for entry in held):
        return None
    return _numbered([{"request": entry, "response": entry} for entry in held])


def _postman(value: object) -> Entries | None:
    """Find the saved responses of a Postman collection, in its folders too, in the order they stand."""
    found = object_of(value)
    if not isinstance(found.get("item"), list) or "info" not in found:
        return None
    entries: list[object] = []
    waiting = list(reversed(cast("list[object]", found["item"])))
    while waiting:
        item = object_of(waiting.pop())
        inner, saved = item.get("item"), item.get("response")
        if isinstance(inner, list):
            waiting += reversed(cast("list[object]", inner))
        for response in cast("list[object]", saved) if isinstance(saved, list) else ():
            request = object_of(response).get("originalRequest", item.get("request"))
            entries.append({"request": request, "response": response})
    return _numbered(entries)


def _array(value: object) -> Entries | None:
    if not isinstance(value, list):
        return None
    entries = cast("list[object]", value)
    return _numbered(entries) if any(map(is_exchange, entries)) else None


CONTAINERS: Final = (
    Container("HAR: browsers, Charles, Fiddler, Insomnia, mitmproxy, Polly.js", "entry", _har),
    Container("vcrpy, pytest-recording, go-vcr, Pact", "interaction", _under("interactions", certain=True)),
    Container("VCR for Ruby and R, betamax", "interaction", _under("http_interactions", certain=True)),
    Container("the Azure SDK test proxy", "entry", _under("Entries", certain=True)),
    Container("the older recorder of the Azure SDK for JavaScript", "entry", _under("recordings")),
    Container("the older recorder of the Azure SDK for Java", "entry", _under("networkCallRecords")),
    Container("WireMock", "mapping", _wiremock),
    Container("WireMock's journal of requests", "request", _wiremock_journal),
    Container("Hoverfly", "pair", _under("data", "pairs")),
    Container("responses", "response", _responses),
    Container("Postman", "response", _postman),
    Container("ExVCR, PHP-VCR, nock, HTTPretty, MockServer, Charles", "interaction", _array),
)

_LISTS: Final = (
    *(("log", "entries"), ("interactions",), ("http_interactions",), ("Entries",), ("recordings",)),
    *(("networkCallRecords",), ("mappings",), ("requests",), ("data", "pairs"), ("responses",), ("item",)),
)
"""Where the entries of each kind are listed."""
_FIRST_KEYS: Final = frozenset(first for first, *_ in _LISTS)

KEYS: Final = (
    *("interactions", "http_interactions", "version", "recorded_with", "log", "Entries", "recordings"),
    *("networkCallRecords", "mappings", "requests", "responses", "object", "openapi", "swagger", "request"),
)
"""What a recorder's file in YAML may begin with."""
