"""Runs an agent in a handler: until its result, or until it waits for tools."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic_ai.exceptions import UserError
from pydantic_ai.tools import DeferredToolRequests

from runstate.integrations.pydantic_ai._deferred import call_ids, require_tools, results_of
from runstate.integrations.pydantic_ai._durability import RunstateDurability
from runstate.integrations.pydantic_ai._scope import StepScope, open_scope
from runstate.worker import Context, Outcome

if TYPE_CHECKING:
    from pydantic_ai.agent import AbstractAgent, AgentRunResult
    from pydantic_ai.messages import UserContent

__all__ = ["handle_run", "run_agent"]

OutputT = TypeVar("OutputT")


class _NoOutputs(Exception):
    """The outputs of a tool round were not submitted."""


async def handle_run(
    ctx: Context,
    agent: AbstractAgent[Any, Any],
    prompt: str | Sequence[UserContent] | None = None,
    *,
    key: str | None = None,
    **options: Any,
) -> Outcome:
    """Run an agent as the work of a run. Return the outcome: completed, or the tools that the agent waits for.

        async def answer(ctx: Context) -> Outcome:
            return await handle_run(ctx, agent, "What is new in Paris?")

    The parameters are those of `run_agent`. Use that function to do something with the agent's output.
    """
    result = await run_agent(ctx, agent, prompt, key=key, **options)
    if isinstance(result.output, DeferredToolRequests):
        return require_tools(ctx, result.output)
    return ctx.complete()


async def run_agent(
    ctx: Context,
    agent: AbstractAgent[Any, OutputT],
    prompt: str | Sequence[UserContent] | None = None,
    *,
    key: str | None = None,
    **options: Any,
) -> AgentRunResult[OutputT]:
    """Run an agent in a handler, with its model requests and tool calls as steps of the run. Return its result.

    If the output is a `DeferredToolRequests`, the agent waits for tools. Then return `require_tools(ctx, output)`. The
    next call of the handler continues with the submitted outputs:

        async def answer(ctx: Context) -> Outcome | None:
            result = await run_agent(ctx, agent, "What is new in Paris?")
            if isinstance(result.output, DeferredToolRequests):
                return require_tools(ctx, result.output)
            await ctx.step("send", send, result.output)
            return None

    `options` are those of `agent.run`, such as `deps` and `message_history`. The prompt and the history must be the
    same in each call of the handler. Several agent runs in one handler need different keys. Raises `UserError` for an
    agent without a `RunstateDurability`.
    """
    durability = RunstateDurability.from_agent(agent)
    if durability is None:
        raise UserError(
            "the agent has no RunstateDurability, so nothing would be kept: "
            "Agent(..., capabilities=[RunstateDurability()])"
        )
    with open_scope(ctx, key) as scope:
        result: AgentRunResult[OutputT] = await agent.run(prompt, **options)
        used_version: int | None = None
        for number in count(1):
            requests: object = result.output
            if not isinstance(requests, DeferredToolRequests):
                return result
            name = f"{durability.name}.tool_outputs"
            kept = await _outputs(scope, name, str(number), call_ids(requests), used_version)
            if kept is None:
                return result
            used_version = kept["version"]
            results = results_of(requests, kept["outputs"])
            again: dict[str, Any] = {
                **options,
                "message_history": result.all_messages(),
                "deferred_tool_results": results,
            }
            result = await agent.run(**again)
    raise AssertionError("unreachable")


async def _outputs(
    scope: StepScope, name: str, number: str, ids: list[str], used_version: int | None
) -> dict[str, Any] | None:
    """Return the outputs of a tool round, and keep them for later calls of the handler. None if there are none yet.

    The context has the outputs that were submitted last. The version of the run tells whether an earlier round has had
    them: a model may use the same ids again.
    """
    ctx = scope.ctx

    def take() -> dict[str, Any]:
        if used_version == ctx.run.version or not set(ids) <= ctx.tool_outputs.keys():
            raise _NoOutputs
        return {"version": ctx.run.version, "outputs": {each: ctx.tool_outputs[each] for each in ids}}

    try:
        kept: dict[str, Any] = await ctx.step(name, take, key=scope.key(number))
    except _NoOutputs:
        return None
    return kept
