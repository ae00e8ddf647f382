"""The JSON Schema of a run, and what lets pydantic read and write runs: FastAPI takes `Run` as a response model."""

from __future__ import annotations

from typing import Any, Final, Protocol, Self, get_args

from runstate.lifecycle import RunStatus
from runstate.run.values import ErrorCode, IncompleteReason

__all__ = ["pydantic_schema", "run_json_schema"]

_TEXT: Final = {"type": "string"}
_NAME: Final = {"type": "string", "minLength": 1}
_TIME: Final = {"type": "integer", "minimum": 0, "description": "Unix seconds"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_FREE: Final = {"type": "object", "additionalProperties": True}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": True}


_CALL: Final = _object(id=_NAME, type=_TEXT, function=_object(name=_TEXT, arguments=_TEXT))
_ACTION: Final = _object(
    type={"const": "submit_tool_outputs"}, submit_tool_outputs=_object(tool_calls={"type": "array", "items": _CALL})
)
_PROPERTIES: Final[dict[str, Any]] = {
    "id": _NAME,
    "object": {"const": "thread.run"},
    "created_at": _TIME,
    "thread_id": _NAME,
    "assistant_id": _NAME,
    "status": {"enum": [status.value for status in RunStatus]},
    "required_action": _nullable(_ACTION),
    "last_error": _nullable(_object(code={"enum": [*get_args(ErrorCode)]}, message=_TEXT)),
    **{stamp: _nullable(_TIME) for stamp in ("expires_at", "started_at", "cancelled_at", "failed_at", "completed_at")},
    "incomplete_details": _nullable(_object(reason={"enum": [*get_args(IncompleteReason)]})),
    "model": _nullable(_NAME),
    "instructions": _nullable(_TEXT),
    "tools": _nullable({"type": "array", "items": _FREE}),
    "metadata": _nullable({"type": "object", "additionalProperties": _TEXT, "maxProperties": 16}),
    "usage": _nullable(_object(prompt_tokens=_COUNT, completion_tokens=_COUNT, total_tokens=_COUNT)),
    "max_prompt_tokens": _nullable({"type": "integer", "minimum": 1}),
    "max_completion_tokens": _nullable({"type": "integer", "minimum": 1}),
    "truncation_strategy": _nullable(_FREE),
    "tool_choice": _nullable({"anyOf": [{"enum": ["none", "auto", "required"]}, _FREE]}),
    "parallel_tool_calls": _nullable({"type": "boolean"}),
    "response_format": _nullable({"anyOf": [{"const": "auto"}, _FREE]}),
    "temperature": _nullable({"type": "number", "minimum": 0, "maximum": 2}),
    "top_p": _nullable({"type": "number", "minimum": 0, "maximum": 1}),
}


def run_json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of what `Run.to_dict` returns, as a new dictionary.

    It describes single values. That a status has the stamps and fields of the table is more than a schema says:
    `runstate.traces.judge` tells it.
    """
    from copy import deepcopy

    schema = {"title": "Run", "type": "object", "properties": _PROPERTIES, "required": [*_PROPERTIES]}
    return deepcopy({**schema, "additionalProperties": True})


class Readable(Protocol):
    """A kind of run that can be read from an object of the API."""

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """Read a run."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return the object."""
        ...


def pydantic_schema(cls: type[Readable]) -> Any:
    """Return the core schema by which pydantic reads runs from objects of the API, and writes them as such."""
    from pydantic_core import core_schema

    from runstate.run.errors import RunDecodeError

    def read(value: object) -> Readable:
        if isinstance(value, cls):
            return value
        try:
            return cls.from_dict(value)
        except RunDecodeError as error:
            raise ValueError(str(error)) from error

    return core_schema.no_info_plain_validator_function(
        read,
        serialization=core_schema.plain_serializer_function_ser_schema(
            lambda run: run.to_dict(), return_schema=core_schema.dict_schema()
        ),
    )
