"""Durable agents of Pydantic AI: model requests and tool calls are steps of a run.

`RunstateDurability` is a durability capability, as Pydantic AI has them for other engines. Inside a handler each model
request and each tool call of the agent becomes a `ctx.step`: it is executed once, and its result is kept. When a worker
has died, or after a tool round, the next call of the handler gets the kept results. Outside of a handler the capability
does nothing.

    agent = Agent("openai:gpt-5", name="analyst", capabilities=[RunstateDurability()])

    async def answer(ctx: Context) -> Outcome | None:
        return await handle_run(ctx, agent, "What is new in Paris?")

`handle_run` completes the run, or requires its deferred tools. `run_agent` returns the result of the agent instead.
Both continue after a tool round with the submitted outputs. `use_steps` is for `agent.run` and `agent.iter`.

This package alone imports `pydantic_ai`, and nothing in runstate imports it.
"""

from __future__ import annotations

try:
    from pydantic_ai.durable_exec import BaseDurabilityCapability as _BaseDurabilityCapability
except ImportError as _missing:
    raise ImportError(
        "runstate.integrations.pydantic_ai needs Pydantic AI: pip install 'pydantic-ai-slim>=2.60'"
    ) from _missing

from runstate.integrations.pydantic_ai._deferred import require_tools
from runstate.integrations.pydantic_ai._durability import RunstateDurability
from runstate.integrations.pydantic_ai._run import handle_run, run_agent
from runstate.integrations.pydantic_ai._scope import use_steps

__all__ = ["RunstateDurability", "handle_run", "require_tools", "run_agent", "use_steps"]

del _BaseDurabilityCapability
