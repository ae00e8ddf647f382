"""The durability capability for agents of Pydantic AI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic_ai.durable_exec import BaseDurabilityCapability, DurabilityEngineSpec
from pydantic_ai.tools import AgentDepsT

from runstate.integrations.pydantic_ai._backend import CONFIG_KEY, StepBackend, StepCodec, is_durable

if TYPE_CHECKING:
    from pydantic_ai.agent import EventStreamHandler
    from pydantic_ai.models import Model

__all__ = ["RunstateDurability"]


class RunstateDurability(BaseDurabilityCapability[AgentDepsT]):
    """Makes the model requests and tool calls of an agent steps of the run whose handler the agent runs in.

        agent = Agent("openai:gpt-5", name="analyst", capabilities=[RunstateDurability()])

    Inside `handle_run`, `run_agent` or `use_steps` each request of the model and each call of a tool is executed once,
    and its result is kept. The tokens that the model reports are added to the run. Outside of a handler the agent
    behaves as without this capability.

    A tool can have settings in its metadata. With `metadata={"runstate": {"once": True}}` a mark is committed before
    the call, and a call whose result is missing raises `StepInterrupted`, as for `ctx.step(..., once=True)`. With
    `metadata={"runstate": False}` the calls are not steps: each call of the handler repeats them.

    The agent needs a name, which its steps begin with. Another name or another tool name in a later release makes other
    steps, so runs that have begun pay for them again.
    """

    engine_spec: ClassVar[DurabilityEngineSpec] = DurabilityEngineSpec(
        engine_name="runstate",
        durable_unit_noun="step",
        durable_container_noun="handler",
        codec=StepCodec(),
        wrapped_toolset_kinds=frozenset({"function", "mcp", "dynamic"}),
        # A server is connected to by the first step that is executed, and not if all results are kept.
        toolset_lifecycles={"function": "enter-always", "mcp": "enter-in-durable-unit", "dynamic": "enter-never"},
        unsupported_runtime_toolset_kinds=frozenset({"function", "mcp", "dynamic"}),
        tool_config_key=CONFIG_KEY,
    )

    def __init__(
        self,
        *,
        models: Mapping[str, Model] | None = None,
        event_stream_handler: EventStreamHandler[AgentDepsT] | None = None,
        name: str | None = None,
    ) -> None:
        """Make the capability.

        `models` are further models, for `agent.run(model=name)`. `event_stream_handler` gets the events of a model
        while its request is executed, and each event of a tool in a step of its own; events of kept steps are not
        repeated. `name` replaces the agent's name in the names of steps.
        """
        super().__init__(models=models, event_stream_handler=event_stream_handler, name=name)

    @property
    def in_durable_context(self) -> bool:
        """Whether the agent runs in the handler of a run now."""
        return is_durable()

    def get_durable_operation_backend(self) -> StepBackend:
        """Return the backend that executes operations as steps."""
        return StepBackend(agent_name=self.name, default_model_id=self.default_model_id)
