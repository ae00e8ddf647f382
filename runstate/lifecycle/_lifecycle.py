"""The look-ups that are derived from the table: allowed events, terminal statuses, shortest paths, and refusals."""

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

# The arguments of a refusal besides the id of the run: computed once for each (status, event), then looked up.
_RefusalArgs: TypeAlias = tuple[type[IllegalTransition], tuple[RunEvent, ...], tuple[RunEvent, ...] | None]


@attrs.frozen(eq=False, repr=False)
class Lifecycle:
    """A table of transitions and every look-up that can be derived from it.

    `RUN_LIFECYCLE` is that of runs; `documented()` is its documented part. Tests and diagrams may build others.
    Statuses and events may be members or strings; an unknown string raises `ValueError`, which names the nine.

    Lifecycles with the same transitions are equal. A copy of `RUN_LIFECYCLE`, also a pickled one, is `RUN_LIFECYCLE`.

    Raises `DefinitionError` if a transition is duplicated, if an event has two targets, or if only some transitions of
    an event end at the deadline.
    """

    transitions: tuple[Transition, ...]
    statuses: tuple[RunStatus, ...] = attrs.field(init=False, default=tuple(RunStatus))
    events: tuple[RunEvent, ...] = attrs.field(init=False)
    until_deadline: frozenset[RunEvent] = attrs.field(init=False)
    """The events that are legal only before the deadline of the run."""
    _rows: dict[tuple[RunStatus, RunEvent], Transition] = attrs.field(init=False)
    _targets: dict[RunEvent, RunStatus] = attrs.field(init=False)
    _live: frozenset[RunStatus] = attrs.field(init=False)
    _refusal_cache: dict[tuple[RunStatus, RunEvent], _RefusalArgs] = attrs.field(init=False, factory=dict)
    _hash: int = attrs.field(init=False)  # computed once, because lifecycles are keys of caches

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
        write = object.__setattr__  # the class is frozen
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
        """Return the name of a constant, so that copies and unpickled ones are the same object."""
        return next(
            (name for name in ("RUN_LIFECYCLE", "_DOCUMENTED_LIFECYCLE") if globals().get(name) is self),
            (Lifecycle, (self.transitions,)),
        )

    def find(self, status: RunStatus, event: RunEvent) -> Transition | None:
        """Return the transition of `event` in `status`, or None if it is illegal."""
        return self._rows.get((RunStatus(status), RunEvent(event)))

    def target_of(self, event: RunEvent) -> RunStatus:
        """Return the one status that `event` leads to. Raises `DefinitionError` if no transition has the event."""
        try:
            return self._targets[RunEvent(event)]
        except KeyError:
            raise DefinitionError(f"no transition of this lifecycle has the event {event}") from None

    def sources_of(self, event: RunEvent) -> frozenset[RunStatus]:
        """Return the statuses in which `event` is allowed."""
        event = RunEvent(event)
        return frozenset(row.source for row in self.transitions if row.event is event)

    def allowed_events(self, status: RunStatus) -> tuple[RunEvent, ...]:
        """Return the events that are allowed in `status`, in the order of `RunEvent`; none in a terminal one."""
        status = RunStatus(status)
        return tuple(event for event in self.events if (status, event) in self._rows)

    def is_terminal(self, status: RunStatus) -> bool:
        """Return whether no transition leaves `status`."""
        return RunStatus(status) not in self._live

    def is_present(self, field: StatusField, status: RunStatus) -> bool:
        """Return whether `field` has a value in `status`; it is null in all others."""
        present_in = PRESENT_IN[field]
        if present_in == "live":
            return not self.is_terminal(status)
        if present_in == "terminal":
            return self.is_terminal(status)
        return RunStatus(status) is present_in

    def shortest_path(self, source: RunStatus, target: RunStatus) -> tuple[RunEvent, ...] | None:
        """Return the fewest events from `source` to `target`; () from a status to itself, None without a path.

        Of equally short paths it returns the one whose transitions come first in the table.
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
        """Return the fewest events from `status` that end with `event`; None without a path."""
        event = RunEvent(event)
        paths = (self.shortest_path(status, source) for source in RunStatus if (source, event) in self._rows)
        return min(((*path, event) for path in paths if path is not None), key=len, default=None)

    def refusal(self, run_id: str, status: RunStatus, event: RunEvent) -> IllegalTransition:
        """Return the error for `event` in `status`, with the allowed events and the shortest path."""
        cached = self._refusal_cache.get((status, event))
        if cached is None:
            status, event = RunStatus(status), RunEvent(event)
            kind = TerminalStatus if self.is_terminal(status) else IllegalTransition
            cached = (kind, self.allowed_events(status), self.path_to_event(status, event))
            self._refusal_cache[status, event] = cached
        kind, allowed, path = cached
        return kind(run_id, status, event, allowed, path)

    def filter(self, basis: Basis) -> Lifecycle:
        """Return the lifecycle of the transitions with this basis."""
        return Lifecycle(tuple(row for row in self.transitions if row.basis is basis))


def validate_lifecycle(lifecycle: Lifecycle) -> None:
    """Check the properties that users rely on. Raises `DefinitionError` for the first one that does not hold.

    Every status can be reached from the initial one. Every live status can expire and can fail, so no run is stuck
    forever. Two transitions into one status have the same stamp.
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
"""The lifecycle of every run: all nineteen transitions."""

_DOCUMENTED_LIFECYCLE: Final = RUN_LIFECYCLE.filter(Basis.DOCUMENTED)


def allowed_events(status: RunStatus) -> tuple[RunEvent, ...]:
    """Return the events that are allowed in `status`; none in a terminal one."""
    return RUN_LIFECYCLE.allowed_events(status)


def target_of(event: RunEvent) -> RunStatus:
    """Return the one status that `event` leads to. Raises `ValueError` for an unknown event."""
    return RUN_LIFECYCLE.target_of(event)


def is_terminal(status: RunStatus) -> bool:
    """Return whether no transition leaves `status`."""
    return RUN_LIFECYCLE.is_terminal(status)


def shortest_path(source: RunStatus, target: RunStatus) -> tuple[RunEvent, ...] | None:
    """Return the fewest events from `source` to `target`; None without a path.

    >>> [str(event) for event in shortest_path(RunStatus.QUEUED, RunStatus.CANCELLED)]
    ['request_cancel', 'confirm_cancel']
    """
    return RUN_LIFECYCLE.shortest_path(source, target)


def documented() -> Lifecycle:
    """Return the lifecycle of the eleven documented transitions."""
    return _DOCUMENTED_LIFECYCLE
