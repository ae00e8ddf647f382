"""Deferred tools of an agent as the required action of a run, and the submitted outputs as their results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from pydantic_ai.tools import DeferredToolRequests, DeferredToolResults, ToolApproved, ToolDenied

from runstate.run.values import ToolCall
from runstate.worker import Context, Outcome, RunFailed

__all__ = ["call_ids", "require_tools", "results_of"]

_EXPECTED = 'expected true, false, or an object with "approved" and perhaps "message" or "override_args"'


def call_ids(requests: DeferredToolRequests) -> list[str]:
    """Return the ids of the calls that an agent waits for."""
    return [call.tool_call_id for call in (*requests.calls, *requests.approvals)]


def require_tools(ctx: Context, requests: DeferredToolRequests) -> Outcome:
    """Make the outcome of a handler whose agent waits for tools. Return it.

    The run requires an action: the calls of external tools, and those that need an approval. The output of an external
    call is its result. The output for an approval is JSON: `true`, `false`, or an object with `"approved"`, and with
    `"message"` for the model or `"override_args"` for the tool.
    """
    calls = [
        ToolCall(call.tool_call_id, call.tool_name, call.args_as_json_str())
        for call in (*requests.calls, *requests.approvals)
    ]
    return ctx.require_action(calls)


def results_of(requests: DeferredToolRequests, outputs: Mapping[str, str]) -> DeferredToolResults:
    """Return the submitted outputs as the results that an agent continues with. Raises `RunFailed`."""
    return DeferredToolResults(
        calls={call.tool_call_id: outputs[call.tool_call_id] for call in requests.calls},
        approvals={
            call.tool_call_id: _approval(call.tool_name, outputs[call.tool_call_id]) for call in requests.approvals
        },
    )


def _approval(tool: str, output: str) -> bool | ToolApproved | ToolDenied:
    """Return the approval in an output. An output that is none fails the run: it must not count as a yes."""
    try:
        value: Any = json.loads(output)
    except ValueError:
        value = None
    if isinstance(value, bool):
        return value
    if isinstance(value, dict):
        given = cast("dict[str, Any]", value)
        approved, rest = given.get("approved"), given.keys() - {"approved"}
        if approved is True and rest <= {"override_args"} and isinstance(given.get("override_args", {}), dict):
            return ToolApproved(override_args=given.get("override_args"))
        if approved is False and rest <= {"message"} and isinstance(given.get("message", ""), str):
            return ToolDenied(given["message"]) if rest else False
    raise RunFailed("invalid_prompt", f"the output for the approval of tool {tool!r} is not an approval; {_EXPECTED}")
