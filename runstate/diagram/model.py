"""What every diagram shows: columns, lanes, and the position of one run.

All of it is derived from a `Lifecycle`, except two things that only diagrams need: the colour role of a status, and the
name of the stamp that creation writes. A renderer (text, SVG, Mermaid, DOT, Markdown) takes a `DiagramModel` and
decides nothing about runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import attrs

from runstate.lifecycle import INITIAL_STATUS, Lifecycle, RunEvent, RunStatus, Transition

__all__ = ["ColorRole", "DiagramModel", "Lane", "Move", "RunPosition", "StatusColumn", "clock_time"]

Move: TypeAlias = tuple[RunEvent, RunStatus, RunStatus]
"""One move that a diagram shows: event, source, target."""

ColorRole: TypeAlias = Literal["blue", "amber", "green", "orange", "red", "grey"]
"""The colour class of a status. Each renderer has its own colours for it."""

_ROLES: Final[Mapping[RunStatus, ColorRole]] = {
    RunStatus.QUEUED: "blue",
    RunStatus.IN_PROGRESS: "blue",
    RunStatus.REQUIRES_ACTION: "amber",
    RunStatus.CANCELLING: "amber",
    RunStatus.COMPLETED: "green",
    RunStatus.INCOMPLETE: "orange",
    RunStatus.FAILED: "red",
    RunStatus.CANCELLED: "grey",
    RunStatus.EXPIRED: "grey",
}

_CREATED_STAMP: Final = "created_at"


@attrs.frozen
class RunPosition:
    """The position of one run: its status, and the stamps of its moves (Unix seconds; None for those not written)."""

    status: RunStatus
    stamps: Mapping[str, int | None] = attrs.field(factory=dict[str, int | None])
    run_id: str | None = None

    def time_of(self, stamp: str) -> str | None:
        """Return the clock time (UTC) of `stamp`, or None if the run has none."""
        seconds = self.stamps.get(stamp)
        return None if seconds is None else clock_time(seconds)


@attrs.frozen
class StatusColumn:
    """One status: the stamps that entering it writes, and the times at which the run entered it."""

    status: RunStatus
    role: ColorRole
    is_terminal: bool
    is_current: bool
    """Whether it is the status of the run."""
    stamps: tuple[str, ...]
    times: tuple[str, ...]

    @property
    def caption(self) -> str:
        """The small text under the name: the times if they are known, else the names of the stamps."""
        return "/".join(self.times or self.stamps)


@attrs.frozen
class Lane:
    """One event: its sources, its target, and whether the table allows it in the status of the run."""

    rows: tuple[Transition, ...]
    """The transitions of the event, in the order of their source columns; at least one."""
    role: ColorRole
    is_allowed: bool

    @property
    def event(self) -> RunEvent:
        """The event."""
        return self.rows[0].event

    @property
    def sources(self) -> tuple[RunStatus, ...]:
        """The statuses in which it is allowed."""
        return tuple(row.source for row in self.rows)

    @property
    def target(self) -> RunStatus:
        """The status that it leads to."""
        return self.rows[0].target

    @property
    def sentence(self) -> str:
        """The lane in words: `complete: from in_progress or cancelling to completed`."""
        *most, last = self.sources
        origin = f"{', '.join(most)} or {last}" if most else last
        return f"{self.event}: from {origin} to {self.target}"


@attrs.frozen
class DiagramModel:
    """A lifecycle as a diagram: live statuses before terminal ones, events in the order of `RunEvent`."""

    columns: tuple[StatusColumn, ...]
    lanes: tuple[Lane, ...]
    position: RunPosition | None = None

    @classmethod
    def of(cls, lifecycle: Lifecycle, position: RunPosition | None = None) -> DiagramModel:
        """Return the model of `lifecycle`, with the run at `position` if there is one.

        A status that no transition mentions gets no column, unless it is that of the run.
        """
        shown = {status for row in lifecycle.transitions for status in (row.source, row.target)}
        if position is not None:
            shown.add(position.status)
        in_order = sorted((status for status in RunStatus if status in shown), key=lifecycle.is_terminal)
        return cls(
            columns=tuple(_column(lifecycle, status, position) for status in in_order),
            lanes=tuple(_lane(lifecycle, event, in_order, position) for event in lifecycle.events),
            position=position,
        )

    @property
    def live(self) -> tuple[StatusColumn, ...]:
        """The columns of live statuses."""
        return tuple(column for column in self.columns if not column.is_terminal)

    @property
    def terminal(self) -> tuple[StatusColumn, ...]:
        """The columns of terminal statuses."""
        return tuple(column for column in self.columns if column.is_terminal)


def clock_time(seconds: int) -> str:
    """Return the UTC clock time, without the day, of any time in Unix seconds.

    >>> clock_time(1_700_000_000)
    '22:13:20'
    """
    minutes, second = divmod(seconds % 86_400, 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{second:02}"


def _column(lifecycle: Lifecycle, status: RunStatus, position: RunPosition | None) -> StatusColumn:
    created = (_CREATED_STAMP,) if status is INITIAL_STATUS else ()
    written = (row.stamp for row in lifecycle.transitions if row.target is status and row.stamp is not None)
    stamps = tuple(dict.fromkeys((*created, *written)))
    is_terminal = lifecycle.is_terminal(status)
    is_current = position is not None and position.status is status
    # Three events write completed_at. Nothing leaves a terminal status, so the time belongs to the status of the run.
    known = () if position is None or (is_terminal and not is_current) else map(position.time_of, stamps)
    times = tuple(time for time in known if time is not None)
    return StatusColumn(status, _ROLES[status], is_terminal, is_current, stamps, times)


def _lane(lifecycle: Lifecycle, event: RunEvent, in_order: list[RunStatus], position: RunPosition | None) -> Lane:
    found = (lifecycle.find(status, event) for status in in_order)
    return Lane(
        rows=tuple(row for row in found if row is not None),
        role=_ROLES[lifecycle.target_of(event)],
        is_allowed=position is None or lifecycle.find(position.status, event) is not None,
    )
