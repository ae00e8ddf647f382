"""The baseline: a run written by hand, for this one lifecycle and nothing else.

It has slots, plain strings, one dict look-up a move, and stores values as they are given. It has no diagrams, its
refusals explain little, and it checks no types. Others can be faster: runstate has a set for each event where this has
a dict of pairs, so a move of runstate can cost less.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import time
from types import MappingProxyType
from typing import Final

_NO_PAIRS: Final[Mapping[str, str]] = MappingProxyType({})

_ANYWHERE = ("queued", "in_progress", "requires_action", "cancelling")
MOVES: Final[dict[tuple[str, str], str]] = {
    ("queued", "start"): "in_progress",
    ("in_progress", "require_action"): "requires_action",
    ("requires_action", "submit_tool_outputs"): "queued",
    ("queued", "request_cancel"): "cancelling",
    ("in_progress", "request_cancel"): "cancelling",
    ("requires_action", "request_cancel"): "cancelling",
    ("cancelling", "confirm_cancel"): "cancelled",
    ("in_progress", "complete"): "completed",
    ("cancelling", "complete"): "completed",
    ("in_progress", "mark_incomplete"): "incomplete",
    ("cancelling", "mark_incomplete"): "incomplete",
    **{(status, "fail"): "failed" for status in _ANYWHERE},
    **{(status, "expire"): "expired" for status in _ANYWHERE},
}


class Refused(Exception):
    """The event is not allowed in the status of the run."""

    def __init__(self, run_id: str, status: str, event: str) -> None:
        super().__init__(run_id, status, event)
        self.run_id = run_id
        self.status = status
        self.event = event

    def __str__(self) -> str:
        return f"run {self.run_id} is {self.status} and cannot {self.event}"


class WrongOutputs(Exception):
    """The outputs are not for exactly the calls that the run waits for."""


@dataclass(slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


@dataclass(slots=True)
class Call:
    id: str
    name: str
    arguments: str


@dataclass(slots=True)
class Action:
    tool_calls: tuple[Call, ...]


@dataclass(slots=True)
class LastError:
    code: str
    message: str


@dataclass(slots=True)
class IncompleteDetails:
    reason: str


NO_USAGE: Final = Usage(0, 0, 0)


class BaselineRun:
    """All 26 stored fields of a run (the 27th, `object`, is a constant)."""

    __slots__ = (
        "assistant_id",
        "cancelled_at",
        "completed_at",
        "created_at",
        "expires_at",
        "failed_at",
        "id",
        "incomplete_details",
        "instructions",
        "last_error",
        "max_completion_tokens",
        "max_prompt_tokens",
        "metadata",
        "model",
        "parallel_tool_calls",
        "required_action",
        "response_format",
        "started_at",
        "status",
        "temperature",
        "thread_id",
        "tool_choice",
        "tools",
        "top_p",
        "truncation_strategy",
        "usage",
    )

    def __init__(
        self,
        *,
        id: str,  # noqa: A002
        thread_id: str,
        assistant_id: str,
        model: str,
        instructions: str | None = None,
        tools: tuple[Mapping[str, object], ...] = (),
        metadata: Mapping[str, str] = _NO_PAIRS,
        max_prompt_tokens: int | None = None,
        max_completion_tokens: int | None = None,
        truncation_strategy: object = "auto",
        tool_choice: object = "auto",
        parallel_tool_calls: bool = True,
        response_format: object = "auto",
        temperature: float = 1.0,
        top_p: float = 1.0,
        expires_in_s: int = 600,
        at: int | None = None,
    ) -> None:
        now = int(time()) if at is None else at
        self.id = id
        self.created_at = now
        self.thread_id = thread_id
        self.assistant_id = assistant_id
        self.status = "queued"
        self.required_action: Action | None = None
        self.last_error: LastError | None = None
        self.expires_at: int | None = now + expires_in_s
        self.started_at: int | None = None
        self.cancelled_at: int | None = None
        self.failed_at: int | None = None
        self.completed_at: int | None = None
        self.incomplete_details: IncompleteDetails | None = None
        self.model = model
        self.instructions = instructions
        self.tools = tools
        self.metadata = metadata
        self.usage: Usage | None = None
        self.max_prompt_tokens = max_prompt_tokens
        self.max_completion_tokens = max_completion_tokens
        self.truncation_strategy = truncation_strategy
        self.tool_choice = tool_choice
        self.parallel_tool_calls = parallel_tool_calls
        self.response_format = response_format
        self.temperature = temperature
        self.top_p = top_p

    def start(self, *, at: int | None = None) -> None:
        now = int(time()) if at is None else at
        target = MOVES.get((self.status, "start"))
        if target is None:
            raise Refused(self.id, self.status, "start")
        self.status = target
        self.started_at = now

    def require_action(self, action: Action, *, at: int | None = None) -> None:
        target = MOVES.get((self.status, "require_action"))
        if target is None:
            raise Refused(self.id, self.status, "require_action")
        self.status = target
        self.required_action = action

    def submit_tool_outputs(self, outputs: Mapping[str, str], *, at: int | None = None) -> None:
        target = MOVES.get((self.status, "submit_tool_outputs"))
        action = self.required_action
        if target is None or action is None:
            raise Refused(self.id, self.status, "submit_tool_outputs")
        if len(outputs) != len(action.tool_calls):
            raise WrongOutputs(self.id)
        for call in action.tool_calls:
            if call.id not in outputs:
                raise WrongOutputs(self.id)
        self.status = target
        self.required_action = None

    def request_cancel(self, *, at: int | None = None) -> None:
        target = MOVES.get((self.status, "request_cancel"))
        if target is None:
            raise Refused(self.id, self.status, "request_cancel")
        self.status = target
        self.required_action = None

    def confirm_cancel(self, *, usage: Usage | None = None, at: int | None = None) -> None:
        now = int(time()) if at is None else at
        target = MOVES.get((self.status, "confirm_cancel"))
        if target is None:
            raise Refused(self.id, self.status, "confirm_cancel")
        self.status = target
        self.cancelled_at = now
        self.expires_at = None
        self.usage = usage or NO_USAGE

    def complete(self, usage: Usage | None = None, *, at: int | None = None) -> None:
        now = int(time()) if at is None else at
        target = MOVES.get((self.status, "complete"))
        if target is None:
            raise Refused(self.id, self.status, "complete")
        self.status = target
        self.completed_at = now
        self.expires_at = None
        self.usage = usage or NO_USAGE

    def mark_incomplete(self, reason: str, usage: Usage | None = None, *, at: int | None = None) -> None:
        now = int(time()) if at is None else at
        target = MOVES.get((self.status, "mark_incomplete"))
        if target is None:
            raise Refused(self.id, self.status, "mark_incomplete")
        self.status = target
        self.completed_at = now
        self.expires_at = None
        self.incomplete_details = IncompleteDetails(reason)
        self.usage = usage or NO_USAGE

    def fail(self, code: str, message: str, usage: Usage | None = None, *, at: int | None = None) -> None:
        now = int(time()) if at is None else at
        target = MOVES.get((self.status, "fail"))
        if target is None:
            raise Refused(self.id, self.status, "fail")
        self.status = target
        self.failed_at = now
        self.expires_at = None
        self.required_action = None
        self.last_error = LastError(code, message)
        self.usage = usage or NO_USAGE

    def expire(self, *, at: int | None = None) -> None:
        now = int(time()) if at is None else at
        target = MOVES.get((self.status, "expire"))
        if target is None:
            raise Refused(self.id, self.status, "expire")
        self.status = target
        self.completed_at = now
        self.expires_at = None
        self.required_action = None
        self.usage = self.usage or NO_USAGE
