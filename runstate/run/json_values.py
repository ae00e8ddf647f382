"""Values as JSON has them: what fits, how deep, and copies that share nothing.

A run carries JSON that is its user's own (tools, a response format, unknown keys). It is kept as it came, but only if
it can be written again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeGuard, cast

from runstate.run.errors import FieldError

__all__ = ["MAX_DEPTH", "DuplicateKeys", "deep_copy", "escape", "is_json", "is_object", "iter_json_errors", "json_path"]

MAX_DEPTH: Final = 64  # levels of containers in one value
_INFINITY: Final = float("inf")
_PLAIN: Final = frozenset({str, int, float, bool})
_MAX_BITS: Final = 14_000  # of an integer: fewer digits than the 4,300 that Python reads and writes


class DuplicateKeys(dict[str, object]):
    """An object in whose text a key stood twice, until the fault has been told with its path."""

    repeated: tuple[str, ...] = ()


def escape(text: str) -> str:
    r"""Return `text` with everything that is no visible character written as an escape: it comes from strangers.

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
    told = escape(str(key)[:64])
    return f"{path}.{told}" if path else told


def is_json(value: object, max_depth: int = MAX_DEPTH) -> bool:
    """Fast path: True means valid JSON. False means unknown; `iter_json_errors` decides."""
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
        for item in cast("list[object]", value):  # noqa: SIM110  # a generator would cost more than what it asks
            if not is_json(item, max_depth - 1):
                return False
        return True
    return False


def iter_json_errors(path: str, value: object, max_depth: int = MAX_DEPTH) -> Iterator[FieldError]:
    """Yield what JSON cannot spell, or what lies deeper than `max_depth` levels, in the order it stands.

    Neither the depth nor the breadth of the value costs memory: it is gone through with one iterator a level.
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
                yield from _bad_keys(_path(path, trail), item)
                break
            problem = _problem(item) if members is None else f"nested deeper than {max_depth} levels"
            if problem is not None:
                yield FieldError(_path(path, [*trail, key]), problem)
        else:
            levels.pop()
            if trail:
                trail.pop()


def is_object(value: object) -> TypeGuard[Mapping[object, object]]:
    """Tell whether the value is what JSON calls an object. Asking a dict for its class is 5x faster than its base."""
    return value.__class__ is dict or isinstance(value, Mapping)


def _members(item: object) -> Iterable[tuple[object, object]] | None:
    """Return the (key, value) or (index, value) pairs of a container; None for what is none."""
    if item.__class__ is int or item.__class__ is float:
        return None
    if is_object(item):
        return item.items()
    if isinstance(item, list | tuple):
        return enumerate(cast("Sequence[object]", item))
    return None


def _bad_keys(path: str, item: object) -> Iterator[FieldError]:
    if isinstance(item, DuplicateKeys):
        yield from (FieldError(json_path(path, key), "stands twice") for key in item.repeated)
    if is_object(item):
        for key in item:
            if not isinstance(key, str):
                yield FieldError(path, f"expected string keys, got a Python {type(key).__name__}")


def _problem(item: object) -> str | None:
    """Return what keeps a value from being JSON; None if nothing does."""
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
    """Return a copy in dicts and lists, so that whoever changes the one does not change the other."""
    if value is None or value.__class__ in _PLAIN:
        return value
    if is_object(value):
        return {key: deep_copy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [deep_copy(item) for item in cast("Sequence[object]", value)]
    return value
