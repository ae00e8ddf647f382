"""The table of transitions of a run, and the fields that depend on the status.

All rules of the lifecycle are in `TRANSITIONS` and `PRESENT_IN` below, and nowhere else. The moves of a run, the
diagrams, the table in the README and the judge of recorded runs are derived from these rows or tested against them. So
are the triggers of the databases, by a migration that a command generates.

An event always leads to the same status. So the rows define two things: whether an event is allowed in a status (there
is a row for it), and where it leads (the target of any row of the event).

A rule that does not fit a row becomes a column. A status is terminal if no row leaves it; there is no list of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from runstate.lifecycle._types import Basis, RunEvent, RunStatus, StatusField, Transition

__all__ = ["INITIAL_STATUS", "PRESENT_IN", "TRANSITIONS"]

# Short names keep the rows aligned, and a look-up in a module costs less than one in an Enum.
QUEUED: Final = RunStatus.QUEUED
IN_PROGRESS: Final = RunStatus.IN_PROGRESS
REQUIRES_ACTION: Final = RunStatus.REQUIRES_ACTION
CANCELLING: Final = RunStatus.CANCELLING
COMPLETED: Final = RunStatus.COMPLETED
INCOMPLETE: Final = RunStatus.INCOMPLETE
FAILED: Final = RunStatus.FAILED
CANCELLED: Final = RunStatus.CANCELLED
EXPIRED: Final = RunStatus.EXPIRED

START: Final = RunEvent.START
REQUIRE_ACTION: Final = RunEvent.REQUIRE_ACTION
SUBMIT_TOOL_OUTPUTS: Final = RunEvent.SUBMIT_TOOL_OUTPUTS
REQUEST_CANCEL: Final = RunEvent.REQUEST_CANCEL
CONFIRM_CANCEL: Final = RunEvent.CONFIRM_CANCEL
COMPLETE: Final = RunEvent.COMPLETE
MARK_INCOMPLETE: Final = RunEvent.MARK_INCOMPLETE
FAIL: Final = RunEvent.FAIL
EXPIRE: Final = RunEvent.EXPIRE

_DOCUMENTED: Final = Basis.DOCUMENTED
_ALLOWED: Final = Basis.ALLOWED
_row = Transition
_UNTIL: Final = True  # only before the deadline

# fmt: off
TRANSITIONS: Final[tuple[Transition, ...]] = (
    # upon this            in this          go there         and stamp       because      as
    _row(START,               QUEUED,          IN_PROGRESS,     "started_at",   _DOCUMENTED, "seen 141 times", _UNTIL),
    _row(REQUIRE_ACTION,      IN_PROGRESS,     REQUIRES_ACTION, None,           _DOCUMENTED, "seen 9 times"),
    _row(SUBMIT_TOOL_OUTPUTS, REQUIRES_ACTION, QUEUED,          None,           _DOCUMENTED, "seen 15 times", _UNTIL),
    _row(REQUEST_CANCEL,      IN_PROGRESS,     CANCELLING,      None,           _DOCUMENTED, "seen 12 times"),
    _row(REQUEST_CANCEL,      QUEUED,          CANCELLING,      None,           _ALLOWED,    "clients do it"),
    _row(REQUEST_CANCEL,      REQUIRES_ACTION, CANCELLING,      None,           _ALLOWED,    "clients do it"),
    _row(CONFIRM_CANCEL,      CANCELLING,      CANCELLED,       "cancelled_at", _DOCUMENTED, "seen 3 times"),
    _row(COMPLETE,            IN_PROGRESS,     COMPLETED,       "completed_at", _DOCUMENTED, "seen 106 times"),
    _row(COMPLETE,            CANCELLING,      COMPLETED,       "completed_at", _ALLOWED,    "the end won the race"),
    _row(MARK_INCOMPLETE,     IN_PROGRESS,     INCOMPLETE,      "completed_at", _DOCUMENTED, "seen 12 times"),
    _row(MARK_INCOMPLETE,     CANCELLING,      INCOMPLETE,      "completed_at", _ALLOWED,    "the end won the race"),
    _row(FAIL,                IN_PROGRESS,     FAILED,          "failed_at",    _DOCUMENTED, "seen 5 times"),
    _row(FAIL,                QUEUED,          FAILED,          "failed_at",    _ALLOWED,    "dispatch can fail"),
    _row(FAIL,                REQUIRES_ACTION, FAILED,          "failed_at",    _ALLOWED,    "a system can fail"),
    _row(FAIL,                CANCELLING,      FAILED,          "failed_at",    _ALLOWED,    "the end won the race"),
    _row(EXPIRE,              QUEUED,          EXPIRED,         "completed_at", _DOCUMENTED, "the deadline passed"),
    _row(EXPIRE,              IN_PROGRESS,     EXPIRED,         "completed_at", _DOCUMENTED, "the deadline passed"),
    _row(EXPIRE,              REQUIRES_ACTION, EXPIRED,         "completed_at", _DOCUMENTED, "the deadline passed"),
    _row(EXPIRE,              CANCELLING,      EXPIRED,         "completed_at", _ALLOWED,    "runs get stuck there"),
)

INITIAL_STATUS: Final = QUEUED  # 89 of 89 recorded creates

# The fields that depend on the status. Stamps are not here: once written, they stay.
PRESENT_IN: Final[Mapping[StatusField, Literal["live", "terminal"] | RunStatus]] = {
    "expires_at":         "live",
    "required_action":    REQUIRES_ACTION,
    "last_error":         FAILED,
    "incomplete_details": INCOMPLETE,
    "usage":              "terminal",
}
# fmt: on
