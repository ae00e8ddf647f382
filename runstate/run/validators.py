"""The validators of attributes: types, ranges and lengths.

A check takes a path and a value, and returns a `FieldError` for each error, or (). The constructor of a run and the
codec use the same checks, so each limit is defined only here.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from itertools import islice
from typing import Final, TypeAlias, cast

from runstate.run.errors import FieldError
from runstate.run.json_values import is_json, is_object, iter_json_errors, json_path

__all__ = [
    "INT64_MAX",
    "MAX_METADATA_KEY",
    "MAX_METADATA_PAIRS",
    "MAX_METADATA_VALUE",
    "MAX_NAME",
    "YEAR_10000",
    "Check",
    "FieldErrors",
    "boolean",
    "extra",
    "first_hundred",
    "identifier",
    "indexed_identifier",
    "instance",
    "integer",
    "json_value",
    "kind_of",
    "metadata",
    "non_blank_string",
    "non_empty_string",
    "number",
    "one_of",
    "optional",
    "plain_text",
    "pluralize",
    "preview",
    "response_format",
    "seconds",
    "string",
    "tool_choice",
    "tools",
    "with_article",
    "wrong_type",
]

FieldErrors: TypeAlias = tuple[FieldError, ...]
Check: TypeAlias = Callable[[str, object], FieldErrors]

MAX_METADATA_PAIRS: Final = 16
MAX_METADATA_KEY: Final = 64  # characters
MAX_METADATA_VALUE: Final = 512  # characters
MAX_NAME: Final = 500  # characters: an entry of an index of PostgreSQL's has at most 2,704 bytes
INT64_MAX: Final = 2**63 - 1  # the largest integer of a database
_CONTAINERS: Final = frozenset({list, tuple, set, frozenset})
YEAR_10000: Final = 253_402_300_800  # Unix seconds

_KINDS: Final[tuple[tuple[type | tuple[type, ...], str], ...]] = (
    (bool, "a boolean"),
    (int, "an integer"),
    (float, "a number"),
    (str, "a string"),
    (Mapping, "an object"),
    ((list, tuple), "an array"),
)


def kind_of(value: object) -> str:
    """Return the JSON type of a value: `a string`, `null`, `an array` ..."""
    if value is None:
        return "null"
    python_type = type(value)
    return next((word for kind, word in _KINDS if issubclass(python_type, kind)), f"a Python {python_type.__name__}")


def preview(value: object) -> str:
    """Return the value for a message: at most 60 characters; only the type of a container."""
    if is_object(value) or value.__class__ in _CONTAINERS:
        return kind_of(value)
    try:
        shown = repr(value[:60] if isinstance(value, str) else value)
    except ValueError:  # an integer with more digits than the interpreter's limit
        return "a huge number"
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def with_article(noun: str) -> str:
    """Return a noun with its indefinite article.

    >>> with_article("dict"), with_article("int"), with_article("async_generator")
    ('a dict', 'an int', 'an async_generator')
    """
    return f"{'an' if noun[:1].lower() in 'aeio' else 'a'} {noun}"  # not u: a UUID, a union


def pluralize(number: int, noun: str) -> str:
    """Return a number with a noun, in the singular for 1.

    >>> pluralize(0, "run"), pluralize(1, "run"), pluralize(1200, "run")
    ('0 runs', '1 run', '1200 runs')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def first_hundred(errors: Iterable[FieldError]) -> FieldErrors:
    """Return the first hundred errors: enough to correct a value, too few to fill the memory or to cost its square."""
    return tuple(islice(errors, 100))


def wrong_type(path: str, expected: str, value: object) -> FieldErrors:
    """Return the error for a value of another type than expected."""
    return (FieldError(path, f"expected {expected}, got {kind_of(value)}"),)


def string(path: str, value: object) -> FieldErrors:
    """A string."""
    return () if isinstance(value, str) else wrong_type(path, "a string", value)


def non_empty_string(path: str, value: object) -> FieldErrors:
    """A string with at least one character."""
    if isinstance(value, str):
        return () if value else (FieldError(path, "is empty"),)
    return wrong_type(path, "a string", value)


def non_blank_string(path: str, value: object) -> FieldErrors:
    """A string that is not only white space. Such a string usually comes from a variable that is not set."""
    if isinstance(value, str) and value.isspace():
        return (FieldError(path, "is blank: it has nothing but white space"),)
    return non_empty_string(path, value)


def plain_text(path: str, value: object) -> FieldErrors:
    """A string that a column of a database can store. PostgreSQL cannot store NUL, so it is refused for SQLite too."""
    found = string(path, value)
    plain = "" if found else cast("str", value)
    if plain.isprintable():  # NUL and surrogates are not printable
        return found
    if "\0" in plain:
        return (FieldError(path, "holds a NUL character, which no database keeps"),)
    if any("\ud800" <= char <= "\udfff" for char in plain):
        return (FieldError(path, "holds half of a character (a lone surrogate), which no database keeps"),)
    return ()


def identifier(path: str, value: object) -> FieldErrors:
    """A name that a caller gives to a run, a thread, a queue or an actor: neither empty nor blank, and plain text.

    Names that are read, from outside or from a database, are checked less strictly (`non_empty_string`).
    """
    if isinstance(value, str) and value and value.isprintable() and not value.isspace():
        return ()  # the common case, which is checked in every move
    return non_blank_string(path, value) or plain_text(path, value)


def indexed_identifier(path: str, value: object) -> FieldErrors:
    """An identifier in an index of a database: at most 500 characters."""
    if isinstance(value, str) and len(value) > MAX_NAME:
        return (FieldError(path, f"is too long: {len(value)} characters, at most {MAX_NAME}"),)
    return identifier(path, value)


def boolean(path: str, value: object) -> FieldErrors:
    """True or False."""
    return () if isinstance(value, bool) else wrong_type(path, "a boolean", value)


def integer(least: int) -> Check:
    """Return the check for an integer of at least `least`."""

    def check(path: str, value: object) -> FieldErrors:
        if not isinstance(value, int) or isinstance(value, bool):
            return wrong_type(path, "an integer", value)
        if least <= value <= INT64_MAX:
            return ()
        bound = f"at least {least}" if value < least else f"at most {INT64_MAX}"
        return (FieldError(path, f"expected {bound}, got {preview(value)}"),)

    return check


def number(low: float, high: float) -> Check:
    """Return the check for a number from `low` to `high`."""

    def check(path: str, value: object) -> FieldErrors:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return wrong_type(path, "a number", value)
        if low <= value <= high:  # False for NaN
            return ()
        return (FieldError(path, f"expected a number from {low:g} to {high:g}, got {preview(value)}"),)

    return check


def one_of(words: Sequence[str]) -> Check:
    """Return the check for one of several words."""

    def check(path: str, value: object) -> FieldErrors:
        if isinstance(value, str) and value in words:
            return ()
        return (FieldError(path, f"expected one of {', '.join(words)}, got {preview(value)}"),)

    return check


def seconds(path: str, value: object) -> FieldErrors:
    """A time in whole Unix seconds."""
    if not isinstance(value, int) or isinstance(value, bool):
        return wrong_type(path, "Unix seconds, an integer", value)
    if 0 <= value < YEAR_10000:
        return ()
    why = "negative" if value < 0 else "past the year 9999 (milliseconds?)"
    return (FieldError(path, f"expected Unix seconds, got {preview(value)}, which is {why}"),)


def instance(kind: type, called: str) -> Check:
    """Return the check for an instance of `kind`."""

    def check(path: str, value: object) -> FieldErrors:
        return () if isinstance(value, kind) else wrong_type(path, called, value)

    return check


def optional(check: Check) -> Check:
    """Return the check that allows null besides what `check` allows."""

    def check_unless_null(path: str, value: object) -> FieldErrors:
        return () if value is None else check(path, value)

    return check_unless_null


def json_value(path: str, value: object) -> FieldErrors:
    """Any JSON value, at most 64 levels deep."""
    return () if is_json(value) else first_hundred(iter_json_errors(path, value))


def extra(path: str, value: object, taken: Container[object] = ()) -> FieldErrors:
    """A JSON object of unknown keys, none of which is in `taken`."""
    if not is_object(value):
        return wrong_type(path, "an object", value)
    if not value:
        return ()
    known = tuple(
        FieldError(json_path(path, key), "is a known key, and has a place of its own") for key in value if key in taken
    )
    return known + json_value(path, value)


def metadata(path: str, value: object) -> FieldErrors:
    """At most 16 pairs of a key (64 characters) and a string (512 characters)."""
    if not is_object(value):
        return wrong_type(path, "an object", value)
    if len(value) > MAX_METADATA_PAIRS:
        problem = f"too many properties: expected at most {MAX_METADATA_PAIRS}, got {len(value)}"
        return (FieldError(path, problem),)
    errors: FieldErrors = ()
    for key, item in value.items():
        errors += _pair(path, key, item)
    return errors


def _pair(path: str, key: object, item: object) -> FieldErrors:
    if not isinstance(key, str):
        return wrong_type(f"{path} key {preview(key)}", "a string", key)
    if isinstance(item, str) and len(key) <= MAX_METADATA_KEY and len(item) <= MAX_METADATA_VALUE:
        return ()
    at = json_path(path, key)
    errors: FieldErrors = ()
    if len(key) > MAX_METADATA_KEY:
        errors = (FieldError(at, f"key too long: expected at most {MAX_METADATA_KEY} characters, got {len(key)}"),)
    if not isinstance(item, str):
        return (*errors, *wrong_type(at, "a string", item))
    if len(item) > MAX_METADATA_VALUE:
        problem = f"value too long: expected at most {MAX_METADATA_VALUE} characters, got {len(item)}"
        return (*errors, FieldError(at, problem))
    return errors


def _typed_object(path: str, value: object) -> FieldErrors:
    """An object whose `type` is a string."""
    if not is_object(value):
        return wrong_type(path, "an object", value)
    if "type" not in value:
        return (FieldError(f"{path}.type", "is missing"),)
    return string(f"{path}.type", value["type"]) + json_value(path, value)


def tools(path: str, value: object) -> FieldErrors:
    """An array of objects, each with its `type`."""
    if not isinstance(value, list | tuple):
        return wrong_type(path, "an array", value)
    members = enumerate(cast("Sequence[object]", value))
    return first_hundred(error for index, item in members for error in _typed_object(f"{path}[{index}]", item))


def _word_or_object(*words: str) -> Check:
    def check(path: str, value: object) -> FieldErrors:
        if not isinstance(value, str):
            return _typed_object(path, value)
        if value in words:
            return ()
        return (FieldError(path, f"expected {' or '.join(map(repr, words))} or an object, got {preview(value)}"),)

    return check


_tool_choice = _word_or_object("none", "auto", "required")
response_format: Final = _word_or_object("auto")


def tool_choice(path: str, value: object) -> FieldErrors:
    """`none`, `auto`, `required`, or an object that names a tool (a function by its name)."""
    errors = _tool_choice(path, value)
    if errors or isinstance(value, str):
        return errors
    choice = cast("Mapping[str, object]", value)
    if choice["type"] != "function":
        return ()
    function = choice.get("function")
    if not is_object(function):
        return wrong_type(f"{path}.function", "an object", function)
    return non_empty_string(f"{path}.function.name", function.get("name"))
