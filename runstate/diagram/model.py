"""What every picture shows, before any pencil touches it: columns, lanes, and where one run stands.

All of it is read off a `Lifecycle`, except two things that only pictures need: which tone a status has, and the name of
the stamp that birth writes. A pencil (text, SVG, Mermaid, DOT, Markdown) takes a `Picture` and decides nothing about
runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import attrs

from runstate.lifecycle import INITIAL_STATUS, Lifecycle, RunEvent, RunStatus, Transition

__all__ = ["Lane", "Move", "Picture", "Standing", "StatusColumn", "Tone", "clock_time"]

Move: TypeAlias = tuple[RunEvent, RunStatus, RunStatus]
"""One move that a picture shows: event, source, target."""

Tone: TypeAlias = Literal["blue", "amber", "green", "orange", "red", "grey"]
"""The colour class of a status: how good it is that a run stands there. Each pencil mixes its own paint."""

_TONES: Final[Mapping[RunStatus, Tone]] = {
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

_BIRTH_STAMP: Final = "created_at"


@attrs.frozen
class Standing:
    """Where one run stands: its status, and the times its moves wrote (Unix seconds; None where not yet written)."""

    status: RunStatus
    stamps: Mapping[str, int | None] = attrs.field(factory=dict[str, int | None])
    run_id: str | None = None

    def time_of(self, stamp: str) -> str | None:
        """Return the clock time (UTC) of `stamp`, or None where the run has none."""
        seconds = self.stamps.get(stamp)
        return None if seconds is None else clock_time(seconds)


@attrs.frozen
class StatusColumn:
    """One status: what entering it writes, and, if a run was there, when that was."""

    status: RunStatus
    tone: Tone
    terminal: bool
    here: bool
    """Whether the run stands in it."""
    stamps: tuple[str, ...]
    times: tuple[str, ...]

    @property
    def caption(self) -> str:
        """The small text under the name: the times where they are known, else the names of the stamps."""
        return "/".join(self.times or self.stamps)


@attrs.frozen
class Lane:
    """One event: where it may be asked, where it leads, and whether the run can be asked it now."""

    rows: tuple[Transition, ...]
    """The rows of the event, in the order of the columns they leave; at least one."""
    tone: Tone
    askable: bool

    @property
    def event(self) -> RunEvent:
        """What is asked."""
        return self.rows[0].event

    @property
    def sources(self) -> tuple[RunStatus, ...]:
        """Where it may be asked."""
        return tuple(row.source for row in self.rows)

    @property
    def target(self) -> RunStatus:
        """Where it leads."""
        return self.rows[0].target

    @property
    def sentence(self) -> str:
        """The lane in words: `complete: from in_progress or cancelling to completed`."""
        *most, last = self.sources
        origin = f"{', '.join(most)} or {last}" if most else last
        return f"{self.event}: from {origin} to {self.target}"


@attrs.frozen
class Picture:
    """A law, ready to be drawn: live statuses before terminal ones, events in the order of `RunEvent`."""

    columns: tuple[StatusColumn, ...]
    lanes: tuple[Lane, ...]
    standing: Standing | None = None

    @classmethod
    def of(cls, lifecycle: Lifecycle, standing: Standing | None = None) -> Picture:
        """Return the picture of `law`, with a run in it if `standing` says where.

        A status that no row mentions gets no column, unless the run stands there.
        """
        shown = {status for row in lifecycle.transitions for status in (row.source, row.target)}
        if standing is not None:
            shown.add(standing.status)
        in_order = sorted((status for status in RunStatus if status in shown), key=lifecycle.is_terminal)
        return cls(
            columns=tuple(_column(lifecycle, status, standing) for status in in_order),
            lanes=tuple(_lane(lifecycle, event, in_order, standing) for event in lifecycle.events),
            standing=standing,
        )

    @property
    def live(self) -> tuple[StatusColumn, ...]:
        """The columns that a run can leave."""
        return tuple(column for column in self.columns if not column.terminal)

    @property
    def terminal(self) -> tuple[StatusColumn, ...]:
        """The columns that nothing leaves."""
        return tuple(column for column in self.columns if column.terminal)


def clock_time(seconds: int) -> str:
    """Return the UTC clock time of a moment in Unix seconds. It takes any integer; the day is not told.

    >>> clock_time(1_700_000_000)
    '22:13:20'
    """
    minutes, second = divmod(seconds % 86_400, 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{second:02}"


def _column(lifecycle: Lifecycle, status: RunStatus, standing: Standing | None) -> StatusColumn:
    born = (_BIRTH_STAMP,) if status is INITIAL_STATUS else ()
    written = (row.stamp for row in lifecycle.transitions if row.target is status and row.stamp is not None)
    stamps = tuple(dict.fromkeys((*born, *written)))
    terminal = lifecycle.is_terminal(status)
    here = standing is not None and standing.status is status
    # completed_at is written by three ends. Nothing leaves an end, so the time belongs to the one where the run stands.
    been_there = () if standing is None or (terminal and not here) else map(standing.time_of, stamps)
    times = tuple(time for time in been_there if time is not None)
    return StatusColumn(status, _TONES[status], terminal, here, stamps, times)


def _lane(lifecycle: Lifecycle, event: RunEvent, in_order: list[RunStatus], standing: Standing | None) -> Lane:
    found = (lifecycle.find(status, event) for status in in_order)
    return Lane(
        rows=tuple(row for row in found if row is not None),
        tone=_TONES[lifecycle.target_of(event)],
        askable=standing is None or lifecycle.find(standing.status, event) is not None,
    )
