"""The look-ups that are derived from the table: what is allowed, what is terminal, the shortest way, and refusals."""

from __future__ import annotations

from typing import Final, TypeAlias

import attrs

from runstate.lifecycle._table import EXPIRE, FAIL, INITIAL_STATUS, PRESENT_IN, TRANSITIONS
from runstate.lifecycle._types import Basis, RunEvent, RunStatus, Stamp, StatusField, Transition
from runstate.lifecycle.errors import DefinitionError, IllegalTransition, TerminalStatus

__all__ = [
    "RUN_LIFECYCLE",
    "Lifecycle",
    "allowed_events",
    "documented",
    "is_terminal",
    "shortest_path",
    "target_of",
    "validate_lifecycle",
]

# What a refusal teaches besides the run's name: worked out once for each (status, event), then only looked up.
_RefusalArgs: TypeAlias = tuple[type[IllegalTransition], tuple[RunEvent, ...], tuple[RunEvent, ...] | None]


@attrs.frozen(eq=False, repr=False)
class Lifecycle:
    """A table of transitions and every look-up that can be derived from it.

    `RUN_LIFECYCLE` is the one that runs obey; `documented()` is its documented part. Tests and pictures may build
    others. Statuses and events may be given as members or as their strings; a string that is none raises `ValueError`
    and names the nine.

    Laws with the same rows are equal; a copy of `RUN_LIFECYCLE`, pickled ones too, is `RUN_LIFECYCLE`.

    Raises `DefinitionError` when a row stands twice, an event has two targets, or only some of its rows end at the
    deadline.
    """

    transitions: tuple[Transition, ...]
    statuses: tuple[RunStatus, ...] = attrs.field(init=False, default=tuple(RunStatus))
    events: tuple[RunEvent, ...] = attrs.field(init=False)
    until_deadline: frozenset[RunEvent] = attrs.field(init=False)
    """The events that may be asked only before the run's deadline."""
    _rows: dict[tuple[RunStatus, RunEvent], Transition] = attrs.field(init=False)
    _targets: dict[RunEvent, RunStatus] = attrs.field(init=False)
    _live: frozenset[RunStatus] = attrs.field(init=False)
    _refusal_cache: dict[tuple[RunStatus, RunEvent], _RefusalArgs] = attrs.field(init=False, factory=dict)
    _hash: int = attrs.field(init=False)  # worked out once: laws are keys of caches

    def __attrs_post_init__(self) -> None:
        rows: dict[tuple[RunStatus, RunEvent], Transition] = {}
        targets: dict[RunEvent, RunStatus] = {}
        for row in self.transitions:
            if (row.source, row.event) in rows:
                raise DefinitionError(f"{row.event} from {row.source} stands in the table twice")
            if targets.setdefault(row.event, row.target) is not row.target:
                raise DefinitionError(f"{row.event} leads to both {targets[row.event]} and {row.target}")
            rows[row.source, row.event] = row
        bounded = frozenset(row.event for row in self.transitions if row.until_deadline)
        for row in self.transitions:
            if row.event in bounded and not row.until_deadline:
                raise DefinitionError(f"{row.event} ends at the deadline in one row, and not from {row.source}")
        write = object.__setattr__  # the class is frozen for everybody else
        write(self, "events", tuple(event for event in RunEvent if event in targets))
        write(self, "until_deadline", bounded)
        write(self, "_rows", rows)
        write(self, "_targets", targets)
        write(self, "_live", frozenset(row.source for row in self.transitions))
        write(self, "_hash", hash(self.transitions))

    def __repr__(self) -> str:
        return f"<Lifecycle of {len(self.transitions)} transitions>"

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Lifecycle) and self.transitions == other.transitions)

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> str | tuple[type[Lifecycle], tuple[tuple[Transition, ...]]]:
        """Be the same law again in another process, and in a copy."""
        return next(
            (name for name in ("RUN_LIFECYCLE", "_DOCUMENTED_LIFECYCLE") if globals().get(name) is self),
            (Lifecycle, (self.transitions,)),
        )

    def find(self, status: RunStatus, event: RunEvent) -> Transition | None:
        """Return the row for `event` asked in `status`, or None where it is illegal."""
        return self._rows.get((RunStatus(status), RunEvent(event)))

    def target_of(self, event: RunEvent) -> RunStatus:
        """Return the one status that `event` leads to. Raises `DefinitionError` if no row has the event."""
        try:
            return self._targets[RunEvent(event)]
        except KeyError:
            raise DefinitionError(f"no transition of this law has the event {event}") from None

    def sources_of(self, event: RunEvent) -> frozenset[RunStatus]:
        """Return the statuses in which `event` may be asked."""
        event = RunEvent(event)
        return frozenset(row.source for row in self.transitions if row.event is event)

    def allowed_events(self, status: RunStatus) -> tuple[RunEvent, ...]:
        """Return the events that may be asked in `status`, in the order of `RunEvent`; none in a terminal one."""
        status = RunStatus(status)
        return tuple(event for event in self.events if (status, event) in self._rows)

    def is_terminal(self, status: RunStatus) -> bool:
        """Tell whether no row leaves `status`."""
        return RunStatus(status) not in self._live

    def is_present(self, field: StatusField, status: RunStatus) -> bool:
        """Tell whether `field` has a value in `status` (LIFECYCLE, "The stamps"); it is null in all others."""
        held_in = PRESENT_IN[field]
        if held_in == "live":
            return not self.is_terminal(status)
        if held_in == "terminal":
            return self.is_terminal(status)
        return RunStatus(status) is held_in

    def shortest_path(self, source: RunStatus, target: RunStatus) -> tuple[RunEvent, ...] | None:
        """Return the fewest events from `source` to `target`; () from a status to itself, None if no way leads there.

        Among equally short ways the one whose rows come first in the table wins.
        """
        source, target = RunStatus(source), RunStatus(target)
        reached: dict[RunStatus, tuple[RunEvent, ...]] = {source: ()}
        frontier = [source]
        while frontier and target not in reached:
            ahead: list[RunStatus] = []
            for row in (row for status in frontier for row in self.transitions if row.source is status):
                if row.target not in reached:
                    reached[row.target] = (*reached[row.source], row.event)
                    ahead.append(row.target)
            frontier = ahead
        return reached.get(target)

    def path_to_event(self, status: RunStatus, event: RunEvent) -> tuple[RunEvent, ...] | None:
        """Return the fewest events from `status` on that end with `event`; None if no way leads there."""
        event = RunEvent(event)
        ways = (self.shortest_path(status, source) for source in RunStatus if (source, event) in self._rows)
        return min(((*way, event) for way in ways if way is not None), key=len, default=None)

    def refusal(self, run_id: str, status: RunStatus, event: RunEvent) -> IllegalTransition:
        """Return the error for `event` refused in `status`: what is allowed there, and the shortest way."""
        lesson = self._refusal_cache.get((status, event))
        if lesson is None:
            status, event = RunStatus(status), RunEvent(event)
            kind = TerminalStatus if self.is_terminal(status) else IllegalTransition
            lesson = (kind, self.allowed_events(status), self.path_to_event(status, event))
            self._refusal_cache[status, event] = lesson
        kind, allowed, path = lesson
        return kind(run_id, status, event, allowed, path)

    def filter(self, basis: Basis) -> Lifecycle:
        """Return the law made of the rows with this basis alone."""
        return Lifecycle(tuple(row for row in self.transitions if row.basis is basis))


def validate_lifecycle(lifecycle: Lifecycle) -> None:
    """Hold a law to what users rely on. Raises `DefinitionError` for the first thing that does not hold.

    Every status can be reached from birth; every live status can expire and can fail, so no run is stuck for ever; and
    two transitions into one status never disagree about the stamp.
    """
    for status in RunStatus:
        if lifecycle.shortest_path(INITIAL_STATUS, status) is None:
            raise DefinitionError(f"no way leads from {INITIAL_STATUS} to {status}")
        for event in (EXPIRE, FAIL):
            if not lifecycle.is_terminal(status) and lifecycle.find(status, event) is None:
                raise DefinitionError(f"{status} is live, but cannot {event}")
    stamps: dict[RunStatus, Stamp | None] = {}
    for row in lifecycle.transitions:
        if stamps.setdefault(row.target, row.stamp) != row.stamp:
            raise DefinitionError(f"{row.target} is stamped both {stamps[row.target]} and {row.stamp}")


def _validated(rows: tuple[Transition, ...]) -> Lifecycle:
    lifecycle = Lifecycle(rows)
    validate_lifecycle(lifecycle)
    return lifecycle


RUN_LIFECYCLE: Final = _validated(TRANSITIONS)
"""The law that every run obeys: all nineteen transitions."""

_DOCUMENTED_LIFECYCLE: Final = RUN_LIFECYCLE.filter(Basis.DOCUMENTED)


def allowed_events(status: RunStatus) -> tuple[RunEvent, ...]:
    """Return the events that may be asked in `status`; none in a terminal one."""
    return RUN_LIFECYCLE.allowed_events(status)


def target_of(event: RunEvent) -> RunStatus:
    """Return the one status that `event` leads to."""
    return RUN_LIFECYCLE.target_of(event)


def is_terminal(status: RunStatus) -> bool:
    """Tell whether nothing leaves `status`."""
    return RUN_LIFECYCLE.is_terminal(status)


def shortest_path(source: RunStatus, target: RunStatus) -> tuple[RunEvent, ...] | None:
    """Return the fewest events from `source` to `target`; None if no way leads there.

    >>> [str(event) for event in shortest_path(RunStatus.QUEUED, RunStatus.CANCELLED)]
    ['request_cancel', 'confirm_cancel']
    """
    return RUN_LIFECYCLE.shortest_path(source, target)


def documented() -> Lifecycle:
    """Return the law made of the eleven documented transitions alone."""
    return _DOCUMENTED_LIFECYCLE
