"""The nine statuses, the nine events, and what a row of the table of transitions is."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, NamedTuple, NoReturn, Self, TypeAlias

__all__ = ["Basis", "RunEvent", "RunStatus", "Stamp", "StatusField", "Transition"]


def _unknown_message(kind: str, value: object, known: type[StrEnum]) -> str:
    shown = repr(value[:60]) if isinstance(value, str) else f"of type {type(value).__name__}"
    return f"unknown {kind} {shown}; the nine are {', '.join(known)}"


class RunStatus(StrEnum):
    """The status of a run. `meaning` of a member describes it: what moves the run on, and what happens otherwise."""

    meaning: str

    def __new__(cls, value: str, meaning: str = "") -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        raise ValueError(_unknown_message("status", value, cls))

    QUEUED = "queued", "Waits for a worker to start it. If none does, it expires."
    IN_PROGRESS = (
        "in_progress",
        "A worker executes it, and ends it or requires tools. If the worker dies, another takes over.",
    )
    REQUIRES_ACTION = (
        "requires_action",
        "Waits for tool outputs from the client. If none come, it expires.",
    )
    CANCELLING = (
        "cancelling",
        "A client requested a cancel. The worker confirms it, or ends the run first. Otherwise it expires.",
    )
    COMPLETED = "completed", "Ended successfully. Nothing leaves it."
    INCOMPLETE = "incomplete", "Ended at a token limit, with a partial result. Nothing leaves it."
    FAILED = "failed", "Ended by an error, which is in last_error. Nothing leaves it."
    CANCELLED = "cancelled", "Ended by a cancel. Nothing leaves it."
    EXPIRED = "expired", "Ended by its deadline. Nothing leaves it."


class RunEvent(StrEnum):
    """A request to change the status of a run. Each event leads to exactly one status."""

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        raise ValueError(_unknown_message("event", value, cls))

    START = "start"
    REQUIRE_ACTION = "require_action"
    SUBMIT_TOOL_OUTPUTS = "submit_tool_outputs"
    REQUEST_CANCEL = "request_cancel"
    CONFIRM_CANCEL = "confirm_cancel"
    COMPLETE = "complete"
    MARK_INCOMPLETE = "mark_incomplete"
    FAIL = "fail"
    EXPIRE = "expire"


class Basis(StrEnum):
    """Why a row is in the table: the vendor documented it, or real servers and clients are known to do it."""

    DOCUMENTED = "documented"
    ALLOWED = "allowed"


Stamp: TypeAlias = Literal["started_at", "cancelled_at", "failed_at", "completed_at"]
"""A field that a transition writes the time into (Unix seconds)."""

StatusField: TypeAlias = Literal["expires_at", "required_action", "last_error", "incomplete_details", "usage"]
"""A field that has a value in some statuses and is null in all others."""


class Transition(NamedTuple):
    """One row of the table: `event` in `source` leads to `target` and writes the time into `stamp`."""

    event: RunEvent
    source: RunStatus
    target: RunStatus
    stamp: Stamp | None
    basis: Basis
    evidence: str = ""
    until_deadline: bool = False
    """Whether it is legal only before the deadline of the run (`expires_at`). Only stores enforce it."""
