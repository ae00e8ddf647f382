"""JSON values: validation, paths, and deep copies.

A run has JSON of its user (tools, a response format, unknown keys). It is kept unchanged, but only if it can be written
again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeGuard, cast

from runstate.run.errors import FieldError

__all__ = [
    "MAX_DEPTH",
    "DuplicateKeys",
    "copy_json",
    "deep_copy",
    "escape",
    "is_json",
    "is_object",
    "iter_json_errors",
    "json_path",
]

MAX_DEPTH: Final = 64  # levels of containers in one value
_INFINITY: Final = float("inf")
_PLAIN: Final = frozenset({str, int, float, bool})
_MAX_BITS: Final = 14_000  # of an integer: fewer digits than the 4,300 that Python reads and writes


class DuplicateKeys(dict[str, object]):
    """An object whose text has a key twice. It exists until the error is reported with its path."""

    repeated: tuple[str, ...] = ()


def escape(text: str) -> str:
    r"""Return `text` with all characters that are not printable escaped. Use it for text from outside.

    >>> print(escape("run\n\x1b[31m"))
    run\n\x1b[31m
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def json_path(path: str, key: object) -> str:
    """Return the path of a member: `metadata.color`, `tools[0]`. Long keys are cut."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    name = escape(str(key)[:64])
    return f"{path}.{name}" if path else name


def is_json(value: object, max_depth: int = MAX_DEPTH) -> bool:
    """Return True if a value is certainly JSON. This is a fast path: after False, `iter_json_errors` decides."""
    kind = value.__class__
    if value is None or kind is str or kind is bool:
        return True
    if kind is int or kind is float:
        return _problem(value) is None
    if max_depth == 0:
        return False
    if kind is dict:
        for key, item in cast("dict[object, object]", value).items():
            if key.__class__ is not str:
                return False
            if item.__class__ is not str and item is not None and not is_json(item, max_depth - 1):
                return False
        return True
    if kind is list:
        for item in cast("list[object]", value):  # noqa: SIM110  # a generator would cost more than the checks
            if not is_json(item, max_depth - 1):
                return False
        return True
    return False


def copy_json(value: Any, max_depth: int = MAX_DEPTH) -> dict[str, object] | list[object] | None:
    """Return a copy of a dict or a list that is certainly JSON, in one pass. After None, `iter_json_errors` decides.

    The copy is as that of `deep_copy`. Each container is copied before its members are checked, so a change by another
    thread is either in the copy and checked, or not in the copy.
    """
    if value.__class__ is not dict:
        return _copy_list(value, max_depth)
    if max_depth == 0:
        return None
    pairs: dict[Any, Any] = value.copy()  # no `cast`: each would be a call
    for key, item in pairs.items():
        if key.__class__ is not str:
            return None
        kind = item.__class__
        if kind is dict or kind is list:
            inner = copy_json(item, max_depth - 1)
            if inner is None:
                return None
            pairs[key] = inner
        elif kind is not str and not is_json(item):
            return None
    return pairs


def _copy_list(value: Any, max_depth: int) -> list[object] | None:
    if value.__class__ is not list or max_depth == 0:
        return None
    items: list[Any] = value.copy()
    for place, item in enumerate(items):
        kind = item.__class__
        if kind is dict or kind is list:
            inner = copy_json(item, max_depth - 1)
            if inner is None:
                return None
            items[place] = inner
        elif kind is not str and not is_json(item):
            return None
    return items


def iter_json_errors(path: str, value: object, max_depth: int = MAX_DEPTH) -> Iterator[FieldError]:
    """Yield an error for each value that JSON cannot have, or that is deeper than `max_depth` levels, in order.

    Neither depth nor breadth of the value costs memory: there is one iterator for each level.
    """
    trail: list[object] = []
    levels: list[Iterator[tuple[object, object]]] = [iter(((None, value),))]
    while levels:
        for key, item in levels[-1]:
            if item is None or item.__class__ is str or item.__class__ is bool:
                continue
            members = _members(item)
            if members is not None and len(levels) <= max_depth:
                trail.append(key)
                levels.append(iter(members))
                yield from _key_errors(_path(path, trail), item)
                break
            problem = _problem(item) if members is None else f"nested deeper than {max_depth} levels"
            if problem is not None:
                yield FieldError(_path(path, [*trail, key]), problem)
        else:
            levels.pop()
            if trail:
                trail.pop()


def is_object(value: object) -> TypeGuard[Mapping[object, object]]:
    """Return whether the value is a JSON object. The test for the class `dict` is 5x faster than that for the base."""
    return value.__class__ is dict or isinstance(value, Mapping)


def _members(item: object) -> Iterable[tuple[object, object]] | None:
    """Return the (key, value) or (index, value) pairs of a container; None for other values."""
    if item.__class__ is int or item.__class__ is float:
        return None
    if is_object(item):
        return item.items()
    if isinstance(item, list | tuple):
        return enumerate(cast("Sequence[object]", item))
    return None


def _key_errors(path: str, item: object) -> Iterator[FieldError]:
    if isinstance(item, DuplicateKeys):
        yield from (FieldError(json_path(path, key), "stands twice") for key in item.repeated)
    if is_object(item):
        for key in item:
            if not isinstance(key, str):
                yield FieldError(path, f"expected string keys, got a Python {type(key).__name__}")


def _problem(item: object) -> str | None:
    """Return why a value is not JSON; None if it is."""
    if isinstance(item, int):
        return None if item.bit_length() <= _MAX_BITS else "a number has too many digits"
    if isinstance(item, float):
        return None if -_INFINITY < item < _INFINITY else f"{item} is not a JSON number"
    if isinstance(item, str):
        return None
    return f"expected JSON, got a Python {type(item).__name__}"


def _path(path: str, trail: list[object]) -> str:
    for key in trail:
        path = path if key is None else json_path(path, key)
    return path[:200]


def deep_copy(value: object) -> object:
    """Return a copy in dicts and lists that shares no container with the value."""
    if value is None or value.__class__ in _PLAIN:
        return value
    if is_object(value):
        return {key: deep_copy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [deep_copy(item) for item in cast("Sequence[object]", value)]
    return value
