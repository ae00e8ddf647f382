"""What a run is: the 27 attributes of the object, readable and not assignable (LIFECYCLE, "The object").

The values live in private slots behind read-only properties. The moves in `run.py` write those slots directly, which
has two reasons, both measured on CPython 3.11 to 3.13. A store into a slot costs 6-7 ns, where a write through the
captured descriptor of a frozen class costs 53-103 ns and a terminal move makes four of them. And a store is no call:
the interpreter lets other threads in only after calls and at loops, so the check and all writes of a move happen as
one. The price is the read: 8 ns instead of 6 on 3.12, 70 ns on 3.11.
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
"""An object as JSON has it, kept as it came."""

Json: TypeAlias = object
"""Any value at all; inside `RunRecord` the word object is an attribute."""

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
"""The 26 attributes that vary, in the order they are written, each with its check. The 27th, `object`, never does."""

_STAMPS: Final = ("created_at", "expires_at", "started_at", "cancelled_at", "failed_at", "completed_at")
_CONTAINERS: Final = ("_tools", "_metadata", "_tool_choice", "_response_format", "_extra")
_NOTHING: Final[JsonObject] = {}
_NO_PAIRS: Final[Mapping[str, str]] = {}


@attrs.define(kw_only=True, repr=False, eq=False)
class RunRecord:
    """A run as data: equal when every attribute is, copied and pickled like any value.

    The constructor takes the attributes by name and raises `InvalidRun` with every fault it finds. It judges each
    value by itself; whether they can stand together is `plausible.judge`'s question. A weak reference to a run is
    possible: no move lets go of a run, so a callback at its end comes in the middle of none.
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
        faults = [fault for field, check in FIELDS.items() for fault in check(field, getattr(self, f"_{field}"))]
        raise_if_invalid([*faults, *validators.extra("extra", self._extra, taken=FIELDS)])
        # What was handed in stays its owner's: a run has containers of its own.
        for field in _CONTAINERS:
            setattr(self, field, deep_copy(getattr(self, field)))
        self._tools = None if self._tools is None else tuple(self._tools)

    @classmethod
    def from_validated(cls, fields: Mapping[str, Any]) -> Self:
        """Return the run with these attributes, all of them and `extra`, which `wire.decode` has checked."""
        run = cls.__new__(cls)
        for field, value in fields.items():
            setattr(run, f"_{field}", value)
        return run

    def field_values(self) -> tuple[Any, ...]:
        """Return the values of `FIELDS`, then `extra`, all of one moment.

        Reading slots makes no call, so no other thread's move comes between the first and the last of them.
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
        """What kind of object this is: always `thread.run`."""
        return "thread.run"

    @property
    def id(self) -> str:
        """The run's own name, `run_` and 24 characters on the hosted API."""
        return self._id

    @property
    def created_at(self) -> int:
        """Unix seconds at birth; never changes."""
        return self._created_at

    @property
    def thread_id(self) -> str:
        """The thread it answers on."""
        return self._thread_id

    @property
    def assistant_id(self) -> str:
        """The assistant that answers."""
        return self._assistant_id

    @property
    def status(self) -> RunStatus:
        """Where it stands: one of the nine statuses."""
        return self._status

    @property
    def required_action(self) -> RequiredAction | None:
        """The calls it waits for: non-null exactly in requires_action."""
        return self._required_action

    @property
    def last_error(self) -> LastError | None:
        """Why it failed: non-null exactly in failed."""
        return self._last_error

    @property
    def expires_at(self) -> int | None:
        """Its deadline in Unix seconds, never extended: non-null exactly in the live statuses."""
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
        """Which limit ended it: non-null in incomplete."""
        return self._incomplete_details

    @property
    def model(self) -> str | None:
        """The model that answers; null where an old record lacks it."""
        return self._model

    @property
    def instructions(self) -> str | None:
        """The system message; often null."""
        return self._instructions

    @property
    def tools(self) -> Tools:
        """The tools it may call, as JSON objects, copies; empty where an old record lacks them."""
        return tuple(cast("list[JsonObject]", deep_copy(self._tools or ())))

    @property
    def metadata(self) -> Mapping[str, str]:
        """Up to 16 pairs of the user's own, read-only; empty where an old record lacks them."""
        return MappingProxyType(self._metadata or _NO_PAIRS)

    @property
    def usage(self) -> Usage | None:
        """The tokens it used: null until terminal."""
        return self._usage

    @property
    def max_prompt_tokens(self) -> int | None:
        """The limit on prompt tokens, over all of the run; null for none."""
        return self._max_prompt_tokens

    @property
    def max_completion_tokens(self) -> int | None:
        """The limit on completion tokens, over all of the run; null for none."""
        return self._max_completion_tokens

    @property
    def truncation_strategy(self) -> TruncationStrategy | None:
        """How much of the thread the model sees; null where an old record lacks it."""
        return self._truncation_strategy

    @property
    def tool_choice(self) -> ToolChoice | None:
        """Whether the model may call tools, or which; null where an old record lacks it."""
        return cast("ToolChoice | None", deep_copy(self._tool_choice))

    @property
    def parallel_tool_calls(self) -> bool | None:
        """Whether it may call several tools at once; null where an old record lacks it."""
        return self._parallel_tool_calls

    @property
    def response_format(self) -> ResponseFormat | None:
        """The form of the answer; null where an old record lacks it."""
        return cast("ResponseFormat | None", deep_copy(self._response_format))

    @property
    def temperature(self) -> float | None:
        """0 to 2; 1 when null."""
        return self._temperature

    @property
    def top_p(self) -> float | None:
        """0 to 1; 1 when null."""
        return self._top_p

    @property
    def extra(self) -> JsonObject:
        """The keys a newer server added, as they came; a copy."""
        return cast("JsonObject", deep_copy(self._extra))

    def __repr__(self) -> str:
        now = dict(zip(FIELDS, self.field_values()[:-1], strict=True))
        stamps = ", ".join(f"{stamp}={now[stamp]}" for stamp in _STAMPS if now[stamp] is not None)
        return f"<{type(self).__name__} {escape(now['id'])} {now['status']}: {stamps}>"

    def __eq__(self, other: Json) -> bool:
        if not isinstance(other, RunRecord) or other.__class__ is not self.__class__:
            return NotImplemented
        return self.field_values() == other.field_values()

    __hash__: ClassVar[None]  # type: ignore[assignment]  # equal by value, and the value moves

    def stamps(self) -> dict[str, int | None]:
        """Return the six times of a run by name, in Unix seconds, null where not set."""
        now = dict(zip(FIELDS, self.field_values()[:-1], strict=True))
        return {stamp: now[stamp] for stamp in _STAMPS}
