"""The encoding of values for PostgreSQL and their decoding, independent of adapters that are registered elsewhere.

Arrays are sent in PostgreSQL's binary form. In the text form, the setting `array_nulls` of the server, the database,
the role or the connection determines whether `NULL` is a null or a word of four letters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from struct import Struct
from typing import Any, Final, TypeAlias

import attrs
import psycopg
from psycopg import pq
from psycopg.adapt import AdaptersMap
from psycopg.types.bool import BoolLoader
from psycopg.types.none import NoneDumper
from psycopg.types.numeric import FloatLoader, IntLoader
from psycopg.types.string import StrDumper, StrDumperUnknown, TextLoader

__all__ = ["OwnAdapters", "Parsed", "parsed"]

_ANY: Final = 0
_BOOL: Final = 16
_TEXT: Final = 25
_BIGINT: Final = 20
_INTEGERS: Final = (_BIGINT, 21, 23, 26)  # bigint, smallint, integer, oid
_FLOATS: Final = (700, 701)
_MOST_KNOWN: Final = 1024  # statements: lists of runs have one for each combination of filters

_PARAM: Final = re.compile(r"%\((\w+)\)s(?:::(\w+)\[\])?")
_HEAD: Final = Struct(">3i").pack  # dimensions, whether there may be nulls, type
_SIZE: Final = Struct(">2i").pack  # length, first index
_LENGTH: Final = Struct(">i").pack
_NUMBER: Final = Struct(">iq").pack  # length, number
_NULL: Final = _LENGTH(-1)

Encode: TypeAlias = Callable[[Any, str], bytes | None]
"""Returns the bytes of a value for a connection with this encoding."""


def _adapters() -> AdaptersMap:
    """Return the loaders for results. psycopg's global ones may be replaced by any code of the process."""
    adapters = AdaptersMap()
    adapters.register_loader(_ANY, TextLoader)
    adapters.register_loader(_BOOL, BoolLoader)
    for kind in _INTEGERS:
        adapters.register_loader(kind, IntLoader)
    for kind in _FLOATS:
        adapters.register_loader(kind, FloatLoader)
    adapters.register_dumper(type(None), NoneDumper)  # psycopg 3.2.1 needs it for every value
    adapters.register_dumper(str, StrDumper)
    adapters.register_dumper(str, StrDumperUnknown)
    return adapters


_ADAPTERS: Final = _adapters()


class OwnAdapters:
    """The context for psycopg's loaders: the adapters of this library, and the connection for its encoding."""

    def __init__(self, connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any] | None = None) -> None:
        self.adapters: Final = _ADAPTERS
        self.connection: Any = connection


def _scalar(value: str | float | None, encoding: str) -> bytes | None:
    return None if value is None else str(value).encode(encoding)


def _texts(values: Sequence[str | None], encoding: str) -> bytes:
    def item(value: str | None) -> bytes:
        if value is None:
            return _NULL
        sent = value.encode(encoding)
        return _LENGTH(len(sent)) + sent

    count = len(values)
    if count > 1 and values.count(values[0]) == count:  # such as the usage of runs without tokens
        return _array(_TEXT, count, item(values[0]) * count)
    return _array(_TEXT, count, b"".join([item(value) for value in values]))


def _numbers(values: Sequence[int | None], encoding: str) -> bytes:
    return _array(_BIGINT, len(values), b"".join([_NULL if value is None else _NUMBER(8, value) for value in values]))


def _array(kind: int, count: int, items: bytes) -> bytes:
    return _HEAD(1, 1, kind) + _SIZE(count, 1) + items if count else _HEAD(0, 0, kind)


_ARRAYS: Final[Mapping[str, Encode]] = {"text": _texts, "bigint": _numbers}


@attrs.frozen
class Parsed:
    """A statement in the form for the server, with the names of its parameters."""

    text: bytes
    """The text with $1, $2 and so on."""
    name: bytes
    """The name of the prepared statement, made of a hash of the text."""
    parameters: tuple[tuple[str, Encode], ...]
    formats: list[pq.Format]  # psycopg 3.2.1 accepts no tuple

    def values(self, params: Mapping[str, Any], encoding: str = "utf-8") -> list[bytes | None]:
        """Return the encoded values of the parameters, in their order."""
        return [encode(params[name], encoding) for name, encode in self.parameters]


@lru_cache(_MOST_KNOWN)
def parsed(statement: str) -> Parsed:
    """Return a statement with its parameters numbered."""
    arrays = dict(_PARAM.findall(statement))
    order = list(arrays)

    def numbered(found: re.Match[str]) -> str:
        kind = f"::{found[2]}[]" if found[2] else ""
        return f"${order.index(found[1]) + 1}{kind}"

    text = _PARAM.sub(numbered, statement).encode()
    return Parsed(
        text,
        b"runstate_" + sha256(text).hexdigest()[:32].encode(),
        tuple((name, _ARRAYS[kind] if kind else _scalar) for name, kind in arrays.items()),
        [pq.Format.BINARY if kind else pq.Format.TEXT for kind in arrays.values()],
    )
