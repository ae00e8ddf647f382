"""The JSON codec of runs: tolerant in reading, strict in writing.

The decoder accepts snake_case and the camelCase of the JavaScript client at every level with known keys. All keys are
optional, except for the twelve that every recorded run has. Unknown keys are kept. All errors of an object are reported
at once, each with its path. The encoder writes all keys in one spelling. Values of the user (metadata, tools, a JSON
schema) are never respelled.

Input is bounded: 16 MiB of text and 80 levels, of which one value may have 64.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Final, Literal, TypeAlias, cast

from runstate.lifecycle import RunStatus
from runstate.run import validators
from runstate.run.errors import FieldError, InvalidRun, RunDecodeError
from runstate.run.json_text import MAX_BYTES, MAX_DEPTH, parse
from runstate.run.json_values import deep_copy, json_path
from runstate.run.record import FIELDS, RunRecord
from runstate.run.values import IncompleteDetails, LastError, RequiredAction, ToolCall, TruncationStrategy, Usage

__all__ = [
    "MAX_BYTES",
    "MAX_DEPTH",
    "REQUIRED_KEYS",
    "Spelling",
    "decode",
    "decode_field",
    "encode",
    "encode_field",
    "json_text",
    "missing_keys",
    "parse",
    "to_json",
]

Spelling: TypeAlias = Literal["snake", "camel"]

_MAX_ERRORS: Final = 100  # enough to correct an object, too few to fill the memory

REQUIRED_KEYS: Final = (
    *("id", "object", "created_at", "thread_id", "assistant_id", "status"),
    *("expires_at", "started_at", "cancelled_at", "failed_at", "completed_at", "last_error"),
)
"""The keys that every recorded run has; all others are optional."""

_INNER: Final = ("submit_tool_outputs", "submit_tool_approval")  # of a required action, named by its type
_NESTED: Final = (
    *_INNER,
    "tool_calls",
    *("prompt_tokens", "completion_tokens", "total_tokens", "last_messages"),
)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.title() for word in rest)


_CAMEL: Final = {name: _camel(name) for name in (*FIELDS, *_NESTED)}
_SNAKE: Final = {camel: name for name, camel in _CAMEL.items()}


def _raise_errors(errors: Iterator[FieldError]) -> None:
    found = [error for error, _ in zip(errors, range(_MAX_ERRORS), strict=False)]
    if found:
        raise RunDecodeError(found)


# --- values to a run --------------------------------------------------------------------------------------------------


class _Decoder:
    """The decoder of one object. It collects the errors, so that all can be raised at once."""

    def __init__(self, *, is_argument: bool = False) -> None:
        self.errors: list[FieldError] = []
        self._is_argument = is_argument
        """Whether the object is a caller's argument, in which the arguments of a call may be an object."""

    def add_error(self, path: str, problem: str) -> None:
        self.errors.append(FieldError(path, problem))

    def keys(
        self, path: str, value: object, known: Container[str]
    ) -> tuple[dict[str, object], dict[str, object]] | None:
        """Return the known keys of an object, in snake_case, and its unknown keys; None for other values."""
        if not isinstance(value, Mapping):
            self.add_error(path, f"expected an object, got {validators.kind_of(value)}")
            return None
        found: dict[str, object] = {}
        extra: dict[str, object] = {}
        for key, item in cast("Mapping[str, object]", value).items():
            name = _SNAKE.get(key, key)
            if name not in known:
                extra[key] = item
            elif name in found:
                self.add_error(json_path(path, key), f"stands twice, as {name} and {_CAMEL[name]}")
            else:
                found[name] = item
        return found, extra

    def build(self, path: str, value: object, kind: Callable[..., object], needed: str, optional: str = "") -> object:
        """Return a `kind` of the keys of an object, with unknown keys as `extra`; None after an error."""
        read = self.keys(path, value, (*needed.split(), *optional.split()))
        if read is None:
            return None
        found, extra = read
        missing = [key for key in needed.split() if key not in found]
        for key in missing:
            self.add_error(f"{path}.{key}", "is missing")
        return None if missing else self.make(path, kind, **found, extra=extra)

    def make(self, path: str, kind: Callable[..., object], **found: object) -> object:
        """Return `kind(**found)`; None, with its errors kept under `path`, if it refuses."""
        try:
            return kind(**found)
        except InvalidRun as refused:
            self.errors += [FieldError(json_path(path, error.path), error.message) for error in refused.errors]
            return None

    def required_action(self, path: str, value: object) -> object:
        """Read `{"type", TYPE: {"tool_calls": [...]}}`, where the inner object is named by the type."""
        read = self.keys(path, value, ("type", *_INNER))
        if read is None:
            return None
        outer, extra = read
        kind = outer.pop("type", None)
        if not isinstance(kind, str) or kind not in outer:
            self.add_error(
                path,
                f"expected the type to name an object beside it, got {validators.preview(kind)} beside {sorted(outer)}",
            )
            return None
        at = f"{path}.{kind}"
        inner = self.keys(at, outer.pop(kind), ("tool_calls",))
        if inner is None:
            return None
        found, more = inner
        calls = found.get("tool_calls")
        if not isinstance(calls, list | tuple):
            self.add_error(f"{at}.tool_calls", f"expected an array, got {validators.kind_of(calls)}")
            return None
        members = enumerate(cast("Sequence[object]", calls))
        made = [self.tool_call(f"{at}.tool_calls[{index}]", call) for index, call in members]
        if None in made:
            return None
        extra.update(outer)
        if more:
            extra[kind] = more
        return self.make(at, RequiredAction, tool_calls=made, type=kind, extra=extra)

    def tool_call(self, path: str, value: object) -> object:
        """Read `{"id", "type", "function": {"name", "arguments"}}`; other types have the two beside the id."""
        read = self.keys(path, value, ("id", "type", "function", "name", "arguments"))
        if read is None:
            return None
        outer, extra = read
        if "function" in outer:
            inner = self.keys(f"{path}.function", outer.pop("function"), ("name", "arguments"))
            if inner is None:
                return None
            outer.update(inner[0])
            # Calls of other types have their name beside the id. If this one has it in a function, keep it there.
            if inner[1] or outer.get("type", "function") != "function":
                extra["function"] = inner[1]
        missing = [key for key in ("id", "name") if key not in outer]
        for key in missing:
            self.add_error(f"{path}.{key}", "is missing")
        if not self._is_argument and isinstance(outer.get("arguments"), Mapping):  # a ToolCall would make text of it
            self.add_error(f"{path}.arguments", "expected a string, got an object")
            return None
        return None if missing else self.make(path, ToolCall, **outer, extra=extra)

    def last_error(self, path: str, value: object) -> object:
        return self.build(path, value, LastError, "code message")

    def incomplete_details(self, path: str, value: object) -> object:
        return self.build(path, value, IncompleteDetails, "reason")

    def usage(self, path: str, value: object) -> object:
        return self.build(path, value, Usage, "prompt_tokens completion_tokens total_tokens")

    def given_usage(self, path: str, value: object) -> object:
        return self.build(path, value, Usage, "prompt_tokens completion_tokens", "total_tokens")

    def truncation_strategy(self, path: str, value: object) -> object:
        return self.build(path, value, TruncationStrategy, "type", "last_messages")

    def status(self, path: str, value: object) -> object:
        try:
            return RunStatus(cast("str", value))
        except ValueError as unknown:
            self.add_error(path, str(unknown))
            return None


_KNOWN: Final = frozenset(("object", *FIELDS))
_NEVER_NULL: Final = frozenset(key for key, check in FIELDS.items() if check(key, None))
_OBJECT_FIELDS: Final = (
    "status",
    "required_action",
    "last_error",
    "incomplete_details",
    "usage",
    "truncation_strategy",
)


def decode(data: object) -> dict[str, object]:
    """Return the checked attributes of the run in a JSON object, by name. Missing keys are null.

    `extra` has the unknown keys. Raises `RunDecodeError` with all errors.
    """
    decoder = _Decoder()
    read = decoder.keys("", data, _KNOWN)
    if read is None:
        raise RunDecodeError(decoder.errors)
    found, extra = read
    missing = [FieldError(key, "is missing") for key in REQUIRED_KEYS if key not in found]
    if found.pop("object", "thread.run") != "thread.run":
        decoder.add_error("object", "expected 'thread.run'")
    fields: dict[str, object] = {}
    fields.update(dict.fromkeys(FIELDS))
    for key, value in found.items():
        if value is None and key not in _NEVER_NULL:
            continue
        if key in _OBJECT_FIELDS:
            fields[key] = getattr(decoder, key)(key, value)
        else:
            errors = FIELDS[key](key, value)
            if errors:
                decoder.errors += errors
            else:
                fields[key] = deep_copy(value)  # a copy, because the caller may change its value
    decoder.errors += validators.extra("", extra)
    # A wrong value is more useful than a missing key, and is reported first.
    _raise_errors(chain(decoder.errors, missing))
    tools = cast("list[object] | None", fields["tools"])
    fields["tools"] = None if tools is None else tuple(tools)
    fields["extra"] = deep_copy(extra)
    return fields


def missing_keys(data: Mapping[str, object]) -> frozenset[str]:
    """Return the attributes for which a JSON object has no key, in either spelling."""
    return frozenset(FIELDS).difference(_SNAKE.get(key, key) for key in data)


# --- a run to values --------------------------------------------------------------------------------------------------


_KEYS_OF: Final[Mapping[type, tuple[str, ...]]] = {
    LastError: ("code", "message"),
    IncompleteDetails: ("reason",),
    Usage: ("prompt_tokens", "completion_tokens", "total_tokens"),
    TruncationStrategy: ("type", "last_messages"),
}


class _Encoder:
    """The encoder for one spelling of known keys; unknown keys and those of the user are unchanged."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names

    def value(self, value: object) -> object:
        """Return the JSON value of an attribute."""
        if isinstance(value, RequiredAction):
            return self.required_action(value)
        if isinstance(value, LastError | IncompleteDetails | Usage | TruncationStrategy):
            known = {self.names.get(key, key): getattr(value, key) for key in _KEYS_OF[type(value)]}
            return _with_extra(known, value.extra)
        return value.value if isinstance(value, RunStatus) else deep_copy(value)

    def required_action(self, action: RequiredAction) -> dict[str, Any]:
        calls = [self.tool_call(call) for call in action.tool_calls]
        inner = self.names.get(action.type, action.type)
        # The name of an inner object follows the spelling, and so must the place of its unknown keys.
        extra = {self.names[key] if key in _INNER else key: value for key, value in action.extra.items()}
        return _with_extra({"type": action.type, inner: {self.names["tool_calls"]: calls}}, extra)

    def tool_call(self, call: ToolCall) -> dict[str, object]:
        named: dict[str, object] = {"name": call.name, "arguments": call.arguments}
        inner = {"function": named} if call.type == "function" or "function" in call.extra else named
        return _with_extra({"id": call.id, "type": call.type, **inner}, call.extra)


def _with_extra(found: dict[str, Any], extra: Mapping[str, object]) -> dict[str, Any]:
    """Add unknown keys; those of an inner object are under its key (see `runstate.run.values`)."""
    for key, value in extra.items():
        inner = deep_copy(value)
        if key not in found:
            found[key] = inner
        elif isinstance(inner, dict) and isinstance(found[key], dict):
            found[key] = {**found[key], **cast("dict[str, object]", inner)}
    return found


_SPELLINGS: Final[Mapping[str, _Encoder]] = {
    "snake": _Encoder({name: name for name in _CAMEL}),
    "camel": _Encoder(_CAMEL),
}


def encode(run: RunRecord, spelling: Spelling = "snake") -> dict[str, Any]:
    """Return the JSON object of a run: all 27 keys, null without a value, then its unknown keys."""
    if spelling not in _SPELLINGS:
        raise ValueError(f"expected the spelling 'snake' or 'camel', got {spelling!r}")
    encoder = _SPELLINGS[spelling]
    *values, extra = run.field_values()
    found: dict[str, Any] = {"id": run.id, "object": run.object}
    for key, value in zip(FIELDS, values, strict=True):
        found[encoder.names[key]] = encoder.value(value)
    return _with_extra(found, extra)


def encode_field(value: object) -> object:
    """Return the JSON value of one attribute, in snake_case."""
    return _SPELLINGS["snake"].value(value)


def json_text(value: object) -> str | None:
    """Return the JSON text of one attribute for a row of a store; None stays None."""
    if value is None:
        return None
    return json.dumps(encode_field(value), separators=(",", ":"), allow_nan=False)


def decode_field(field: str, data: object, path: str | None = None) -> object:
    """Return the value of one attribute that has a class of its own. Raises `RunDecodeError` with all errors.

    Besides the attributes, `field` may be `tool_call`, or `given_usage`: a usage whose total may be missing. `path` is
    the path in the errors of a caller's argument.
    """
    decoder = _Decoder(is_argument=path is not None)
    value: object = getattr(decoder, field)(path or field, data)
    _raise_errors(iter(decoder.errors))
    return value


def to_json(run: RunRecord, spelling: Spelling = "snake") -> str:
    """Return the JSON text of a run in one line of ASCII."""
    return json.dumps(encode(run, spelling), allow_nan=False, separators=(",", ":"))
