"""The data of a run: the 27 attributes of the object, readable and not assignable.

The values are in private slots behind read-only properties. The moves in `_run.py` write those slots directly, for two
reasons, both measured on CPython 3.11 to 3.13. First, a store into a slot costs 6-7 ns, a write through the captured
descriptor of a frozen class costs 53-103 ns, and a terminal move makes four of them. Second, a store is not a call: the
interpreter switches threads only after calls and at loops, so the check and all writes of a move are atomic. The
cost is the read: 8 ns instead of 6 on 3.12, 70 ns on 3.11.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Final, Literal, Self, TypeAlias, cast

import attrs

from runstate.lifecycle import RunStatus
from runstate.run import validators
from runstate.run.json_values import deep_copy, escape
from runstate.run.validators import Check
from runstate.run.values import (
    IncompleteDetails,
    LastError,
    RequiredAction,
    TruncationStrategy,
    Usage,
    raise_if_invalid,
)

__all__ = ["FIELDS", "JsonObject", "ResponseFormat", "RunRecord", "ToolChoice", "Tools"]

JsonObject: TypeAlias = Mapping[str, Any]
"""A JSON object, kept unchanged."""

Json: TypeAlias = object
"""Any value; inside `RunRecord` the name `object` is an attribute."""

Tools: TypeAlias = tuple[JsonObject, ...]
ToolChoice: TypeAlias = Literal["none", "auto", "required"] | JsonObject
ResponseFormat: TypeAlias = Literal["auto"] | JsonObject


_maybe_seconds = validators.optional(validators.seconds)
_maybe_limit = validators.optional(validators.integer(least=1))

FIELDS: Final[Mapping[str, Check]] = {
    "id": validators.non_empty_string,
    "created_at": validators.seconds,
    "thread_id": validators.non_empty_string,
    "assistant_id": validators.non_empty_string,
    "status": validators.instance(RunStatus, "a RunStatus"),
    "required_action": validators.optional(validators.instance(RequiredAction, "a RequiredAction")),
    "last_error": validators.optional(validators.instance(LastError, "a LastError")),
    "expires_at": _maybe_seconds,
    "started_at": _maybe_seconds,
    "cancelled_at": _maybe_seconds,
    "failed_at": _maybe_seconds,
    "completed_at": _maybe_seconds,
    "incomplete_details": validators.optional(validators.instance(IncompleteDetails, "an IncompleteDetails")),
    "model": validators.optional(validators.non_empty_string),
    "instructions": validators.optional(validators.string),
    "tools": validators.optional(validators.tools),
    "metadata": validators.optional(validators.metadata),
    "usage": validators.optional(validators.instance(Usage, "a Usage")),
    "max_prompt_tokens": _maybe_limit,
    "max_completion_tokens": _maybe_limit,
    "truncation_strategy": validators.optional(validators.instance(TruncationStrategy, "a TruncationStrategy")),
    "tool_choice": validators.optional(validators.tool_choice),
    "parallel_tool_calls": validators.optional(validators.boolean),
    "response_format": validators.optional(validators.response_format),
    "temperature": validators.optional(validators.number(0, 2)),
    "top_p": validators.optional(validators.number(0, 1)),
}
"""The 26 variable attributes, in the order of writing, each with its check. The 27th, `object`, is constant."""

_STAMPS: Final = ("created_at", "expires_at", "started_at", "cancelled_at", "failed_at", "completed_at")
_CONTAINERS: Final = ("_tools", "_metadata", "_tool_choice", "_response_format", "_extra")
_NOTHING: Final[JsonObject] = {}
_NO_PAIRS: Final[Mapping[str, str]] = {}


@attrs.define(kw_only=True, repr=False, eq=False)
class RunRecord:
    """A run as data: equal if every attribute is equal, and copied and pickled like any value.

    The constructor takes the attributes by name and raises `InvalidRun` with all errors. It checks each value
    separately; `runstate.traces.judge` checks whether the combination is possible. Weak references to a run are
    allowed: no move releases a run, so a finalizer cannot run in the middle of a move.
    """

    _id: str = attrs.field(alias="id")
    _created_at: int = attrs.field(alias="created_at")
    _thread_id: str = attrs.field(alias="thread_id")
    _assistant_id: str = attrs.field(alias="assistant_id")
    _status: RunStatus = attrs.field(alias="status")
    _required_action: RequiredAction | None = attrs.field(default=None, alias="required_action")
    _last_error: LastError | None = attrs.field(default=None, alias="last_error")
    _expires_at: int | None = attrs.field(default=None, alias="expires_at")
    _started_at: int | None = attrs.field(default=None, alias="started_at")
    _cancelled_at: int | None = attrs.field(default=None, alias="cancelled_at")
    _failed_at: int | None = attrs.field(default=None, alias="failed_at")
    _completed_at: int | None = attrs.field(default=None, alias="completed_at")
    _incomplete_details: IncompleteDetails | None = attrs.field(default=None, alias="incomplete_details")
    _model: str | None = attrs.field(default=None, alias="model")
    _instructions: str | None = attrs.field(default=None, alias="instructions")
    _tools: Tools | None = attrs.field(default=None, alias="tools")
    _metadata: Mapping[str, str] | None = attrs.field(default=None, alias="metadata")
    _usage: Usage | None = attrs.field(default=None, alias="usage")
    _max_prompt_tokens: int | None = attrs.field(default=None, alias="max_prompt_tokens")
    _max_completion_tokens: int | None = attrs.field(default=None, alias="max_completion_tokens")
    _truncation_strategy: TruncationStrategy | None = attrs.field(default=None, alias="truncation_strategy")
    _tool_choice: ToolChoice | None = attrs.field(default=None, alias="tool_choice")
    _parallel_tool_calls: bool | None = attrs.field(default=None, alias="parallel_tool_calls")
    _response_format: ResponseFormat | None = attrs.field(default=None, alias="response_format")
    _temperature: float | None = attrs.field(default=None, alias="temperature")
    _top_p: float | None = attrs.field(default=None, alias="top_p")
    _extra: JsonObject = attrs.field(default=_NOTHING, alias="extra")

    def __attrs_post_init__(self) -> None:
        errors = [error for field, check in FIELDS.items() for error in check(field, getattr(self, f"_{field}"))]
        raise_if_invalid([*errors, *validators.extra("extra", self._extra, taken=FIELDS)])
        # Copies, because the caller may change its containers.
        for field in _CONTAINERS:
            setattr(self, field, deep_copy(getattr(self, field)))
        self._tools = None if self._tools is None else tuple(self._tools)

    @classmethod
    def from_validated(cls, fields: Mapping[str, Any]) -> Self:
        """Return the run with all these attributes and `extra`, which `codec.decode` has checked."""
        run = cls.__new__(cls)
        for field, value in fields.items():
            setattr(run, f"_{field}", value)
        return run

    def field_values(self) -> tuple[Any, ...]:
        """Return the values of `FIELDS`, then `extra`, as they are at one time.

        To read slots makes no call, so no move of another thread can happen between the first and the last read.
        """
        return (
            self._id,
            self._created_at,
            self._thread_id,
            self._assistant_id,
            self._status,
            self._required_action,
            self._last_error,
            self._expires_at,
            self._started_at,
            self._cancelled_at,
            self._failed_at,
            self._completed_at,
            self._incomplete_details,
            self._model,
            self._instructions,
            self._tools,
            self._metadata,
            self._usage,
            self._max_prompt_tokens,
            self._max_completion_tokens,
            self._truncation_strategy,
            self._tool_choice,
            self._parallel_tool_calls,
            self._response_format,
            self._temperature,
            self._top_p,
            self._extra,
        )

    def __getstate__(self) -> tuple[Any, ...]:
        return self.field_values()

    def __setstate__(self, values: tuple[Any, ...]) -> None:
        (
            self._id,
            self._created_at,
            self._thread_id,
            self._assistant_id,
            self._status,
            self._required_action,
            self._last_error,
            self._expires_at,
            self._started_at,
            self._cancelled_at,
            self._failed_at,
            self._completed_at,
            self._incomplete_details,
            self._model,
            self._instructions,
            self._tools,
            self._metadata,
            self._usage,
            self._max_prompt_tokens,
            self._max_completion_tokens,
            self._truncation_strategy,
            self._tool_choice,
            self._parallel_tool_calls,
            self._response_format,
            self._temperature,
            self._top_p,
            self._extra,
        ) = values

    @property
    def object(self) -> Literal["thread.run"]:
        """The type of the object: always `thread.run`."""
        return "thread.run"

    @property
    def id(self) -> str:
        """The id of the run, `run_` and 24 characters on the hosted API."""
        return self._id

    @property
    def created_at(self) -> int:
        """The time of creation in Unix seconds; constant."""
        return self._created_at

    @property
    def thread_id(self) -> str:
        """The id of the thread (of messages) that the run works on."""
        return self._thread_id

    @property
    def assistant_id(self) -> str:
        """The id of the assistant."""
        return self._assistant_id

    @property
    def status(self) -> RunStatus:
        """The status: one of nine."""
        return self._status

    @property
    def required_action(self) -> RequiredAction | None:
        """The calls that the run waits for: non-null exactly in requires_action."""
        return self._required_action

    @property
    def last_error(self) -> LastError | None:
        """Why the run failed: non-null exactly in failed."""
        return self._last_error

    @property
    def expires_at(self) -> int | None:
        """The deadline in Unix seconds, never extended: non-null exactly in the live statuses."""
        return self._expires_at

    @property
    def started_at(self) -> int | None:
        """Unix seconds of the latest entry into in_progress; kept until the next."""
        return self._started_at

    @property
    def cancelled_at(self) -> int | None:
        """Unix seconds of the entry into cancelled; null while cancelling."""
        return self._cancelled_at

    @property
    def failed_at(self) -> int | None:
        """Unix seconds of the entry into failed."""
        return self._failed_at

    @property
    def completed_at(self) -> int | None:
        """Unix seconds of the entry into completed, incomplete or expired."""
        return self._completed_at

    @property
    def incomplete_details(self) -> IncompleteDetails | None:
        """Which limit ended the run: non-null in incomplete."""
        return self._incomplete_details

    @property
    def model(self) -> str | None:
        """The model; null if an old record has none."""
        return self._model

    @property
    def instructions(self) -> str | None:
        """The system message; often null."""
        return self._instructions

    @property
    def tools(self) -> Tools:
        """Copies of the tools that the run may call, as JSON objects; empty if an old record has none."""
        return tuple(cast("list[JsonObject]", deep_copy(self._tools or ())))

    @property
    def metadata(self) -> Mapping[str, str]:
        """Up to 16 pairs of the user, read-only; empty if an old record has none."""
        return MappingProxyType(self._metadata or _NO_PAIRS)

    @property
    def usage(self) -> Usage | None:
        """The tokens that the run used: null until it has ended."""
        return self._usage

    @property
    def max_prompt_tokens(self) -> int | None:
        """The limit on prompt tokens over the whole run; null for none."""
        return self._max_prompt_tokens

    @property
    def max_completion_tokens(self) -> int | None:
        """The limit on completion tokens over the whole run; null for none."""
        return self._max_completion_tokens

    @property
    def truncation_strategy(self) -> TruncationStrategy | None:
        """How much of the thread the model sees; null if an old record has none."""
        return self._truncation_strategy

    @property
    def tool_choice(self) -> ToolChoice | None:
        """Whether the model may call tools, or which; null if an old record has none."""
        return cast("ToolChoice | None", deep_copy(self._tool_choice))

    @property
    def parallel_tool_calls(self) -> bool | None:
        """Whether the model may call several tools at once; null if an old record has none."""
        return self._parallel_tool_calls

    @property
    def response_format(self) -> ResponseFormat | None:
        """The format of the response; null if an old record has none."""
        return cast("ResponseFormat | None", deep_copy(self._response_format))

    @property
    def temperature(self) -> float | None:
        """The sampling temperature, 0 to 2. Null means 1."""
        return self._temperature

    @property
    def top_p(self) -> float | None:
        """The nucleus sampling probability, 0 to 1. Null means 1."""
        return self._top_p

    @property
    def extra(self) -> JsonObject:
        """A copy of the unknown keys, which a newer server may add."""
        return cast("JsonObject", deep_copy(self._extra))

    def __repr__(self) -> str:
        now = dict(zip(FIELDS, self.field_values()[:-1], strict=True))
        stamps = ", ".join(f"{stamp}={now[stamp]}" for stamp in _STAMPS if now[stamp] is not None)
        return f"<{type(self).__name__} {escape(now['id'])} {now['status']}: {stamps}>"

    def __eq__(self, other: Json) -> bool:
        if not isinstance(other, RunRecord) or other.__class__ is not self.__class__:
            return NotImplemented
        return self.field_values() == other.field_values()

    __hash__: ClassVar[None]  # type: ignore[assignment]  # equal by value, and the value changes

    def stamps(self) -> dict[str, int | None]:
        """Return the six times of a run by name, in Unix seconds, None if not set."""
        now = dict(zip(FIELDS, self.field_values()[:-1], strict=True))
        return {stamp: now[stamp] for stamp in _STAMPS}
