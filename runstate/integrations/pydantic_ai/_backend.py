"""The backend of a durable agent: each operation of Pydantic AI is a step of the run."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Final, Literal, cast

from pydantic import ValidationError
from pydantic_ai.durable_exec import (
    JSON_CODEC,
    CallableOperationBackend,
    CapabilityOperationId,
    DurabilityCodec,
    DurableOperationId,
    EventStreamHandlerId,
    JournalOperationNamer,
    ModelCompactMessagesId,
    ModelRequestId,
    RoleBasedOperationConfig,
    ToolsetCallToolId,
    ToolsetValidateToolArgumentsId,
)
from pydantic_ai.exceptions import UserError
from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter, ModelResponse

from runstate.integrations.pydantic_ai._scope import StepScope, current_scope
from runstate.run.values import Usage

__all__ = ["CONFIG_KEY", "KeptResultError", "StepBackend", "StepCodec", "StepConfig", "content_key", "is_durable"]

CONFIG_KEY: Final = "runstate"
"""The key of a tool's metadata that has its settings."""

_DIGITS: Final = 32
_ABSENT: Final[tuple[object, ...]] = (None, [], {})


class KeptResultError(RuntimeError):
    """The kept result of a step cannot be read: another release of the agent, or of Pydantic AI, has kept it."""


class StepCodec(DurabilityCodec):
    """JSON by the library's type adapters.

    A kept tool result that cannot be read is not a `ValidationError`: the agent takes one for wrong arguments, and
    would ask the model to call the tool again.
    """

    def dump(self, tp: Any, value: Any) -> Any:
        """Return the JSON value of a result."""
        return JSON_CODEC.dump(tp, value)

    def load(self, tp: Any, payload: Any) -> Any:
        """Return the result of a JSON value. Raises `KeptResultError`."""
        try:
            return JSON_CODEC.load(tp, payload)
        except ValidationError as error:
            raise KeptResultError(f"the kept result of a step cannot be read: {error}") from error


@dataclass(frozen=True)
class StepConfig:
    """The settings of a tool: whether its calls are never repeated."""

    once: bool = False


_DEFAULT: Final = StepConfig()


def is_durable() -> bool:
    """Return whether agents run in the handler of a run now."""
    return current_scope() is not None


class _StepNamer(JournalOperationNamer):
    """Short names for model requests and tool calls. Other operations have the names of other engines."""

    def __init__(self, agent_name: str, default_model_id: str) -> None:
        super().__init__(agent_name, default_model_id=default_model_id)
        self._agent = agent_name
        self._default = default_model_id

    def operation_name(self, operation_id: DurableOperationId) -> str:
        if isinstance(operation_id, ModelRequestId):
            other = operation_id.model_id not in (None, self._default)
            return f"{self._agent}.model" + (f".{operation_id.model_id}" if other else "")
        return super().operation_name(operation_id)

    def invocation_name(self, operation_id: DurableOperationId, *, label: str | None) -> Any:
        name = super().invocation_name(operation_id, label=label)
        if label is None or not isinstance(operation_id, ToolsetCallToolId):
            return name
        return replace(name, operation_name=f"{self._agent}.tool.{label}")


class _StepKey:
    """The key of an operation's step, without its scope. It does not depend on the order of parallel operations."""

    def __init__(self, operation_id: DurableOperationId) -> None:
        self._operation_id = operation_id

    def project(self, params: Any) -> tuple[object, ...]:
        match self._operation_id:
            case ModelRequestId():
                return (content_key(params.messages),)
            case ModelCompactMessagesId():
                return (content_key(params.request_context.messages),)
            case ToolsetCallToolId() | ToolsetValidateToolArgumentsId():
                approved = ":approved" if params.ctx.tool_call_approved else ""
                return (f"{params.ctx.tool_call_id}{approved}",)
            case EventStreamHandlerId():
                call_id = getattr(params.event, "tool_call_id", None)
                return (f"{params.event.event_kind}:{call_id}" if call_id else params.event.event_kind,)
            case _:
                return ("1",)


def content_key(messages: Sequence[ModelMessage]) -> str:
    """Return a digest of what a model is sent: the parts of all messages.

    Times, instructions and dynamic system prompts are left out, for they may differ between two calls of a handler. So
    are values that are absent, for another release of Pydantic AI may have more of them.
    """
    dumped: list[dict[str, Any]] = ModelMessagesTypeAdapter.dump_python(list(messages), mode="json")
    content = [(message["kind"], [_content_of(part) for part in message["parts"]]) for message in dumped]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()[:_DIGITS]


def _content_of(part: Mapping[str, Any]) -> dict[str, Any]:
    hidden = {"timestamp"} if part.get("dynamic_ref") is None else {"timestamp", "content"}
    return {name: value for name, value in part.items() if name not in hidden and value not in _ABSENT}


class StepBackend(CallableOperationBackend[StepConfig]):
    """Executes each operation of an agent as a step of the run whose handler it is in."""

    def __init__(self, *, agent_name: str, default_model_id: str | None) -> None:
        config = RoleBasedOperationConfig(
            model=_DEFAULT, event=_DEFAULT, capability=_DEFAULT, tool=_DEFAULT, resolve_tool=_config_of_tool
        )
        super().__init__(namer=_StepNamer(agent_name, default_model_id or "default"), config=config)

    def bind(self, operation: Any) -> Any:
        """Return the function that executes an operation, with the key of its step."""
        return super().bind(replace(operation, cache_identity=_StepKey(operation.operation_id)))

    async def execute(
        self,
        *,
        operation_id: DurableOperationId,
        name: str,
        body: Callable[[], Awaitable[object]],
        cache_key: tuple[object, ...],
        config: StepConfig,
    ) -> object:
        """Return the kept result of an operation, or execute it as a step."""
        scope = current_scope()
        if scope is None:
            raise RuntimeError("an operation of a durable agent was called outside of the handler of a run")
        with scope.place(name, str(cache_key[0])) as key:

            async def call() -> object:
                with scope.inside(key) as inner:
                    payload = await body()
                    _count_usage(inner, operation_id, payload)
                    return payload

            return await scope.ctx.step(name, call, key=key, once=config.once)


def _count_usage(scope: StepScope, operation_id: DurableOperationId, payload: object) -> None:
    """Count the tokens that an operation reports."""
    if isinstance(operation_id, ModelRequestId | ModelCompactMessagesId):
        usage = cast(ModelResponse, JSON_CODEC.load(ModelResponse, payload)).usage
        scope.add_usage(Usage(usage.input_tokens, usage.output_tokens))
    elif isinstance(operation_id, CapabilityOperationId) and isinstance(payload, dict):
        reported = cast("dict[str, dict[str, int]]", payload).get("usage_delta") or {}
        # The requests of a durable agent inside the operation are steps, and counted already.
        prompt = reported.get("input_tokens", 0) - scope.usage.prompt_tokens
        completion = reported.get("output_tokens", 0) - scope.usage.completion_tokens
        scope.add_usage(Usage(max(prompt, 0), max(completion, 0)))


def _config_of_tool(
    operation_id: DurableOperationId, tool: object | None, tool_name: str
) -> StepConfig | Literal[False]:
    """Return the settings in the metadata of a tool. False if its calls are not steps."""
    del operation_id
    metadata: Mapping[str, Any] | None = None if tool is None else cast(Any, tool).tool_def.metadata
    match (metadata or {}).get(CONFIG_KEY):
        case None:
            return _DEFAULT
        case False:
            return False
        case {"once": bool(once), **others} if not others:
            return StepConfig(once)
        case other:
            raise UserError(
                f'the metadata {CONFIG_KEY!r} of tool {tool_name!r} is {other!r}; expected False or {{"once": True}}'
            )
