"""The values inside a run: the required action, the errors and limits that ended it, the used tokens.

They are frozen, and their constructors validate them. (They have no slot for weak references, because a finalizer
would run in the middle of a move that releases them.) `extra` keeps the keys that a newer server adds, so that they are
written again. If a known key has an object, its unknown keys are in `extra` under the same key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, Literal, TypeAlias, cast

import attrs

from runstate.run import validators
from runstate.run.errors import FieldError, InvalidRun
from runstate.run.json_values import deep_copy, is_object

__all__ = [
    "NO_USAGE",
    "ErrorCode",
    "IncompleteDetails",
    "IncompleteReason",
    "LastError",
    "RequiredAction",
    "ToolCall",
    "TruncationStrategy",
    "Usage",
]

ErrorCode: TypeAlias = Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
"""The code of the error by which a run failed."""

IncompleteReason: TypeAlias = Literal["max_completion_tokens", "max_prompt_tokens"]
"""The token limit that ended an incomplete run."""

_NOTHING: Final[Mapping[str, object]] = {}


def raise_if_invalid(errors: Sequence[FieldError]) -> None:
    """Raise `InvalidRun` with these errors if there are any."""
    if errors:
        raise InvalidRun(errors)


def _copy_extra(extra: Mapping[str, object]) -> Mapping[str, object]:
    """Return a copy of unknown keys. A value that is not an object is returned unchanged, and is an error later."""
    if extra == _NOTHING:
        return _NOTHING
    return cast("Mapping[str, object]", deep_copy(extra)) if extra and validators.json_value("", extra) == () else extra


def _argument_text(arguments: str | Mapping[str, object]) -> str:
    """Return arguments as JSON text. Values that are neither text nor JSON are unchanged, and are an error later."""
    if arguments.__class__ is not str and isinstance(arguments, Mapping) and validators.extra("", arguments) == ():
        import json  # imported here, because most programs never need it

        return json.dumps(deep_copy(arguments))
    return cast("str", arguments)


@attrs.frozen(weakref_slot=False)
class ToolCall:
    """A call that a run waits for: its id, the name of the tool, and its arguments as JSON text.

    Arguments that are an object are converted to JSON text. Raises `InvalidRun` with all errors.

    >>> ToolCall("call_1", "weather", {"city": "Paris"}).arguments
    '{"city": "Paris"}'
    >>> ToolCall("call_1", "weather", '{"city": "Paris"}')
    ToolCall(id='call_1', name='weather', arguments='{"city": "Paris"}', type='function')
    """

    id: str
    name: str
    arguments: str = attrs.field(default="{}", converter=_argument_text)
    type: str = "function"
    extra: Mapping[str, object] = attrs.field(
        default=_NOTHING, converter=_copy_extra, repr=False, kw_only=True, hash=False
    )

    def __attrs_post_init__(self) -> None:
        errors = (
            validators.non_empty_string("id", self.id)
            + validators.non_empty_string("name", self.name)
            + _arguments("arguments", self.arguments)
        )
        raise_if_invalid(
            errors
            + validators.non_empty_string("type", self.type)
            + validators.extra("extra", self.extra, taken=("id", "type", "name", "arguments"))
        )


def _arguments(path: str, value: object) -> validators.FieldErrors:
    """JSON text. For an object that could not be written, the errors say why."""
    if isinstance(value, str):
        return ()
    return validators.extra(path, value) if is_object(value) else validators.string(path, value)


def _calls(calls: Iterable[ToolCall]) -> tuple[ToolCall, ...]:
    # A value that is not iterable is returned unchanged, and is an error later.
    return tuple(calls) if isinstance(cast("object", calls), Iterable) else cast("tuple[ToolCall, ...]", calls)


@attrs.frozen(weakref_slot=False)
class RequiredAction:
    """The tool calls that a run in requires_action waits for: at least one, with different ids.

    Raises `InvalidRun` with all errors.

    >>> RequiredAction([ToolCall("call_1", "weather")]).call_ids
    ('call_1',)
    """

    tool_calls: tuple[ToolCall, ...] = attrs.field(converter=_calls)
    type: str = "submit_tool_outputs"
    extra: Mapping[str, object] = attrs.field(
        default=_NOTHING, converter=_copy_extra, repr=False, kw_only=True, hash=False
    )
    call_ids: tuple[str, ...] = attrs.field(init=False, repr=False, eq=False)
    """The ids of the calls, in order."""
    id_set: AbstractSet[str] = attrs.field(init=False, repr=False, eq=False)
    """The same ids, for comparing with the keys of the outputs."""

    def __attrs_post_init__(self) -> None:
        raise_if_invalid(tuple(self._errors()))
        object.__setattr__(self, "call_ids", tuple(call.id for call in self.tool_calls))
        object.__setattr__(self, "id_set", frozenset(self.call_ids))

    @property
    def unnamed(self) -> tuple[FieldError, ...]:
        """The errors of calls with a blank id or name. They can be read, and must not be created."""
        return tuple(
            error
            for index, call in enumerate(self.tool_calls)
            for part, given in (("id", call.id), ("name", call.name))
            for error in validators.non_blank_string(f"tool_calls[{index}].{part}", given)
        )

    def _errors(self) -> Iterator[FieldError]:
        yield from validators.non_empty_string("type", self.type) + validators.extra(
            "extra", self.extra, taken=("type",)
        )
        if not isinstance(cast("object", self.tool_calls), tuple):
            yield from validators.wrong_type("tool_calls", "an array", self.tool_calls)
            return
        if not self.tool_calls:
            yield FieldError("tool_calls", "is empty: there must be a call to wait for")
        seen: set[str] = set()
        for index, call in enumerate(cast("Sequence[object]", self.tool_calls)):
            at = f"tool_calls[{index}]"
            if not isinstance(call, ToolCall):
                yield from validators.wrong_type(at, "a ToolCall", call)
            elif call.id in seen:
                yield FieldError(f"{at}.id", f"stands twice: {validators.preview(call.id)}")
            else:
                seen.add(call.id)


@attrs.frozen(weakref_slot=False)
class LastError:
    """The error by which a run failed: a code (`ErrorCode`; recorded runs may have others) and a message."""

    code: str
    message: str
    extra: Mapping[str, object] = attrs.field(
        default=_NOTHING, converter=_copy_extra, repr=False, kw_only=True, hash=False
    )

    def __attrs_post_init__(self) -> None:
        if self.code.__class__ is self.message.__class__ is str and self.code and self.extra is _NOTHING:
            return  # in a move, the checks would cost more than all the rest
        errors = validators.non_empty_string("code", self.code) + validators.string("message", self.message)
        raise_if_invalid(errors + validators.extra("extra", self.extra, taken=("code", "message")))


@attrs.frozen(weakref_slot=False)
class IncompleteDetails:
    """The token limit that ended an incomplete run (`IncompleteReason`; recorded runs may have others)."""

    reason: str
    extra: Mapping[str, object] = attrs.field(
        default=_NOTHING, converter=_copy_extra, repr=False, kw_only=True, hash=False
    )

    def __attrs_post_init__(self) -> None:
        raise_if_invalid(
            validators.non_empty_string("reason", self.reason)
            + validators.extra("extra", self.extra, taken=("reason",))
        )


@attrs.frozen(weakref_slot=False)
class TruncationStrategy:
    """How much of the thread the model sees: `auto`, or only the `last_messages` (at least 1)."""

    type: str = "auto"
    last_messages: int | None = None
    extra: Mapping[str, object] = attrs.field(
        default=_NOTHING, converter=_copy_extra, repr=False, kw_only=True, hash=False
    )

    def __attrs_post_init__(self) -> None:
        raise_if_invalid(tuple(self._errors()))

    def _errors(self) -> Iterator[FieldError]:
        if self.type not in ("auto", "last_messages"):
            yield FieldError("type", f"expected 'auto' or 'last_messages', got {validators.preview(self.type)}")
        yield from _LAST_MESSAGES("last_messages", self.last_messages) + validators.extra(
            "extra", self.extra, taken=("type", "last_messages")
        )
        if self.type == "last_messages" and self.last_messages is None:
            yield FieldError("last_messages", "is missing: the type 'last_messages' needs a number")


_LAST_MESSAGES: Final = validators.optional(validators.integer(least=1))
_TOKENS: Final = validators.integer(least=0)


@attrs.frozen(weakref_slot=False)
class Usage:
    """The tokens that a run has used. Without `total_tokens`, the total is the sum.

    Raises `InvalidRun` with all errors.

    >>> Usage(12, 30)
    Usage(prompt_tokens=12, completion_tokens=30, total_tokens=42)
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = attrs.field(
        default=attrs.Factory(lambda self: _sum(self.prompt_tokens, self.completion_tokens), takes_self=True)
    )
    extra: Mapping[str, object] = attrs.field(
        default=_NOTHING, converter=_copy_extra, repr=False, kw_only=True, hash=False
    )

    def __attrs_post_init__(self) -> None:
        errors = _TOKENS("prompt_tokens", self.prompt_tokens) + _TOKENS("completion_tokens", self.completion_tokens)
        raise_if_invalid(
            errors
            + _TOKENS("total_tokens", self.total_tokens)
            + validators.extra("extra", self.extra, taken=("prompt_tokens", "completion_tokens", "total_tokens"))
        )


def _sum(prompt_tokens: object, completion_tokens: object) -> int:
    """Return the sum. Return 0 if one is not a number: the checks then report that one."""
    if isinstance(prompt_tokens, int) and isinstance(completion_tokens, int):
        return prompt_tokens + completion_tokens
    return 0


NO_USAGE: Final = Usage()
"""The usage of a run that ended without using tokens."""
