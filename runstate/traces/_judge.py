"""Judge whether a legal history could have left this record, this trace.

From the table follows a finite set of shapes: a status, and which of the nine fields that come and go have a value. A
record whose shape is not among them cannot be, and neither can a trace whose next snapshot no path leads to from the
one before. Polling skips statuses, so a path may be long. The first thing that cannot be is explained, with what
would have been possible. What old recordings do for a known reason (LIFECYCLE, "The stamps") is a warning with that
reason.

A key that a record lacks altogether was not observed: it is neither set nor null, and fits everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from functools import lru_cache
from itertools import pairwise
from typing import Final, Literal, TypeAlias, get_args

import attrs

from runstate.lifecycle import INITIAL_STATUS, RUN_LIFECYCLE, Lifecycle, RunEvent, RunStatus, Stamp, StatusField
from runstate.run import codec
from runstate.run.json_values import escape
from runstate.run.record import RunRecord
from runstate.traces._snapshots import Location

__all__ = [
    "FieldPattern",
    "Observation",
    "Severity",
    "StatusChange",
    "TraceFinding",
    "TraceReport",
    "field_patterns",
    "judge",
    "judge_trace",
    "observe",
]

Severity: TypeAlias = Literal["error", "warning"]
Record: TypeAlias = "RunRecord | Mapping[str, object] | Observation"

_STAMPS: Final[tuple[Stamp, ...]] = get_args(Stamp)
_HELD: Final[tuple[StatusField, ...]] = get_args(StatusField)
_FIELDS: Final[tuple[str, ...]] = (*_STAMPS, *_HELD)
_CONSTANT: Final = ("id", "created_at", "thread_id", "assistant_id")

_FEBRUARY_2024: Final = 1_706_745_600  # Unix seconds, as all below
_MARCH_2024: Final = 1_709_251_200
_JULY_2024: Final = 1_719_792_000


@attrs.frozen
class FieldPattern:
    """A status, and the fields that have a value in it."""

    status: RunStatus
    present: frozenset[str]


@attrs.frozen
class TraceFinding:
    """What no legal history can leave (`error`), or what old recordings do for a known reason (`warning`)."""

    severity: Severity
    run_id: str | None
    """The run it is about; None where what was recorded cannot be read as a run."""
    index: int
    """Which snapshot of the trace, counted from 0."""
    field: str
    """The attribute it is about; "" where it is about the whole."""
    message: str
    hint: str = ""
    """What a legal history could have left instead, or the known reason of a warning."""
    location: Location | None = None
    """Where the snapshot stands in its recording; None for a record that was given as a value."""

    @property
    def place(self) -> str:
        """The location as text: `12`, `1[3]`, `interaction 3 line 7`; "" without one."""
        return "" if self.location is None else str(self.location)

    def __str__(self) -> str:
        # What a recording says comes from strangers: a line break in an id must not look like another finding.
        run = "" if self.run_id is None else f"run {self.run_id}: "
        hint = f" ({self.hint})" if self.hint else ""
        where = "" if self.location is None else f"{self.location}: {self.severity}: "
        return escape(f"{where}{run}{self.message}{hint}")


@attrs.frozen
class StatusChange:
    """A change of status between two snapshots, and the shortest legal way: several events if polling skipped some."""

    source: RunStatus
    target: RunStatus
    events: tuple[RunEvent, ...]


@attrs.frozen
class TraceReport:
    """What a trace was found to be: its findings in order, and the changes of status that were seen."""

    findings: tuple[TraceFinding, ...]
    changes: tuple[StatusChange, ...]

    @property
    def errors(self) -> tuple[TraceFinding, ...]:
        """The findings that no known reason excuses."""
        return tuple(finding for finding in self.findings if finding.severity == "error")


# --- what the law can leave -------------------------------------------------------------------------------------------

_Written: TypeAlias = frozenset[str]  # the fields written on the way
_DEADLINE: Final = "expires_at"
_MOVED: Final = frozenset({_DEADLINE})


def _born(lifecycle: Lifecycle) -> FieldPattern:
    return FieldPattern(
        INITIAL_STATUS, frozenset(field for field in _HELD if lifecycle.is_present(field, INITIAL_STATUS))
    )


def _next(lifecycle: Lifecycle, shape: FieldPattern) -> Iterator[tuple[RunEvent, FieldPattern, _Written]]:
    """Yield each event that may be asked of a shape, what it leads to, and the fields it writes."""
    for row in lifecycle.transitions:
        if row.source is shape.status:
            held = frozenset(field for field in _HELD if lifecycle.is_present(field, row.target))
            stamped = frozenset(() if row.stamp is None else (row.stamp,))
            kept = shape.present.intersection(_STAMPS)
            writes = stamped | (held - shape.present)
            # Some servers set the deadline anew when tools are asked for; the law itself never does.
            moved = _MOVED & held if row.target is RunStatus.REQUIRES_ACTION else frozenset[str]()
            yield row.event, FieldPattern(row.target, kept | stamped | held), writes | moved


@lru_cache(maxsize=1024)  # sixteen shapes a law, and room for the laws that tests make up
def _reachable(
    lifecycle: Lifecycle, start: FieldPattern
) -> Mapping[tuple[FieldPattern, _Written], tuple[RunEvent, ...]]:
    """Return every shape that can follow `start`, with the fields written on the way, and the shortest such way."""
    waits = start.status is RunStatus.REQUIRES_ACTION  # and may have had its deadline moved since
    ways: dict[tuple[FieldPattern, _Written], tuple[RunEvent, ...]] = {(start, _MOVED if waits else frozenset()): ()}
    frontier = list(ways)
    while frontier:
        reached: list[tuple[FieldPattern, _Written]] = []
        for shape, written in frontier:
            for event, after, writes in _next(lifecycle, shape):
                key = (after, written | writes)
                if key not in ways:
                    ways[key] = (*ways[shape, written], event)
                    reached.append(key)
        frontier = reached
    return ways


@lru_cache(maxsize=64)
def field_patterns(lifecycle: Lifecycle = RUN_LIFECYCLE) -> frozenset[FieldPattern]:
    """Return every shape that a legal history can leave.

    >>> len(field_patterns())
    16
    """
    return frozenset(shape for shape, _ in _reachable(lifecycle, _born(lifecycle)))


# --- one snapshot -----------------------------------------------------------------------------------------------------


@attrs.frozen
class Observation:
    """A snapshot as it was observed: the run, and the keys its record lacked."""

    run: RunRecord
    unseen: frozenset[str]

    @property
    def present(self) -> frozenset[str]:
        """The fields that come and go, and have a value."""
        return frozenset(field for field in _FIELDS if getattr(self.run, field) is not None)

    def fits(self, shape: FieldPattern) -> bool:
        """Tell whether the snapshot is of this shape, in the fields that were observed."""
        return self.run.status is shape.status and not (self.present ^ shape.present) - self.unseen


def observe(record: Record) -> Observation:
    """Return a record as the judge sees it: decoded, once. Raises `RunDecodeError` if it is no run."""
    if isinstance(record, Observation):
        return record
    if isinstance(record, RunRecord):
        return Observation(copy(record), frozenset())  # of one moment, should another thread be moving it
    return Observation(RunRecord.from_validated(codec.decode(record)), codec.missing_keys(record))


def _mismatches(seen: Observation, candidates: Sequence[FieldPattern]) -> Iterator[tuple[str, str]]:
    """Yield (field, "set" or "null") for each field that is so in the snapshot and in no candidate."""
    for field in _FIELDS:
        if field in seen.unseen:
            continue
        is_set = field in seen.present
        if all((field in shape.present) is not is_set for shape in candidates):
            yield field, "set" if is_set else "null"


def _possible_in(status: RunStatus, candidates: Sequence[FieldPattern]) -> str:
    always = [field for field in _FIELDS if all(field in shape.present for shape in candidates)]
    either = [field for field in _FIELDS if field not in always and any(field in s.present for s in candidates)]
    told = [f"{', '.join(fields)} {how}" for fields, how in ((always, "set"), (either, "set or null")) if fields]
    return f"possible in {status}: {'; '.join((*told, 'all else null'))}"


def _known_reason(run: RunRecord, field: str) -> str | None:
    """Return why an old recording breaks the rule of this field, if that is known (LIFECYCLE, "The stamps")."""
    if field == "usage" and run.usage is None and run.created_at < _FEBRUARY_2024:
        return "runs carry usage only since February 2024"
    spring_2024 = _MARCH_2024 <= run.created_at < _JULY_2024
    if field == "incomplete_details" and run.status is RunStatus.COMPLETED and spring_2024:
        return "some completed runs of spring 2024 carry it"
    return None


def _judge_fields(seen: Observation, index: int, lifecycle: Lifecycle) -> Iterator[TraceFinding]:
    run = seen.run
    candidates = [shape for shape in field_patterns(lifecycle) if shape.status is run.status]
    if not candidates:
        yield TraceFinding("error", run.id, index, "status", f"no path leads to {run.status}", "see the table")
        return
    if any(seen.fits(shape) for shape in candidates):
        return
    possible = _possible_in(run.status, candidates)
    for field, found in _mismatches(seen, candidates):
        verb = "stamps" if field in _STAMPS else "sets"
        every = f"no path from {INITIAL_STATUS} to {run.status} {verb} it"
        if found == "null":
            every = f"every path from {INITIAL_STATUS} to {run.status} {verb} it"
        elif field in _HELD:
            every = f"every path from {INITIAL_STATUS} to {run.status} leaves it null"
        reason = _known_reason(run, field)
        severity: Severity = "error" if reason is None else "warning"
        yield TraceFinding(severity, run.id, index, field, f"{field} is {found}, but {every}", reason or possible)


def _judge_times(run: RunRecord, index: int) -> Iterator[TraceFinding]:
    """Yield what is odd about the order of the times. Clocks of two machines differ, so it is a warning."""
    skew = "possible only if the clocks of two machines differ"
    for stamp in _STAMPS:
        time: int | None = getattr(run, stamp)
        if time is not None and time < run.created_at:
            problem = f"{stamp} {time} is before created_at {run.created_at}"
            yield TraceFinding("warning", run.id, index, stamp, problem, skew)
        elif time is not None and run.started_at is not None and time < run.started_at:
            yield TraceFinding(
                "warning", run.id, index, stamp, f"{stamp} {time} is before started_at {run.started_at}", skew
            )
    if run.expires_at is not None and run.expires_at <= run.created_at:
        problem = f"expires_at {run.expires_at} is not after created_at {run.created_at}"
        yield TraceFinding("error", run.id, index, "expires_at", problem, "the deadline counts from creation")


def judge(record: Record, lifecycle: Lifecycle = RUN_LIFECYCLE) -> tuple[TraceFinding, ...]:
    """Return what cannot be, or is odd, about a single record; () if a legal history could have left it.

    A JSON object may be given instead of a run; then keys it lacks count as not observed. (A run that was read from one
    has forgotten which those were, so give the object itself.) Raises `RunDecodeError` if it is none.

    >>> from runstate import Run
    >>> run = Run.create(thread_id="t", assistant_id="a", model="m", id="run_1", at=1_800_000_000)
    >>> judge(run)
    ()
    >>> print(judge({**run.to_dict(), "completed_at": 1_800_000_009})[0].message)
    completed_at is set, but no path from queued to queued stamps it
    """
    return tuple(_judge(observe(record), 0, lifecycle))


def _judge(seen: Observation, index: int, lifecycle: Lifecycle) -> Iterator[TraceFinding]:
    yield from _judge_fields(seen, index, lifecycle)
    yield from _judge_times(seen.run, index)


# --- a trace ----------------------------------------------------------------------------------------------------------


def judge_trace(records: Iterable[Record], lifecycle: Lifecycle = RUN_LIFECYCLE) -> TraceReport:
    """Judge snapshots of one run in the order they were observed: each by itself, and each step from one to the next.

    Raises `RunDecodeError` if a JSON object among them is no run.
    """
    trace = [observe(record) for record in records]
    findings: list[TraceFinding] = []
    steps: list[StatusChange] = []
    for index, seen in enumerate(trace):
        shaped = tuple(_judge_fields(seen, index, lifecycle))
        findings += (*shaped, *_judge_times(seen.run, index))
        # What is excused in a snapshot is not held against the steps to it and from it.
        excused = {found.field for found in shaped if found.severity == "warning"}
        trace[index] = attrs.evolve(seen, unseen=seen.unseen | excused) if excused else seen
    broken = {finding.index for finding in findings if finding.severity == "error"}
    for index, (before, after) in enumerate(pairwise(trace), start=1):
        findings.extend(_judge_constants(before.run, after.run, index))
        # A snapshot that cannot be was told already; whatever is said of a step to or from it would only repeat that.
        if not broken & {index - 1, index}:
            way = _way(before, after, lifecycle)
            if way is None:
                findings.append(_explain_step(before, after, index, lifecycle))
                continue
            findings.extend(_judge_deadline(before, after, index))
            if before.run.status is not after.run.status:
                steps.append(StatusChange(before.run.status, after.run.status, way))
    return TraceReport(tuple(sorted(findings, key=lambda finding: finding.index)), tuple(steps))


def _judge_constants(before: RunRecord, after: RunRecord, index: int) -> Iterator[TraceFinding]:
    for field in _CONSTANT:
        old, new = getattr(before, field), getattr(after, field)
        if old != new:
            problem = f"{field} changed from {old} to {new}"
            yield TraceFinding("error", after.id, index, field, problem, "it never changes")


def _is_later(before: Observation, after: Observation) -> bool:
    """Tell whether the deadline of the second snapshot is after that of the first."""
    old, new = before.run.expires_at, after.run.expires_at
    return old is not None and new is not None and new > old


def _judge_deadline(before: Observation, after: Observation, index: int) -> Iterator[TraceFinding]:
    """Yield a warning if the deadline moved on while the run may have waited for tools (LIFECYCLE, "The stamps")."""
    if _DEADLINE in _rewritten(before, after):
        problem = f"expires_at went from {before.run.expires_at} to {after.run.expires_at}"
        reason = "some servers set the deadline anew when a run waits for its tools"
        yield TraceFinding("warning", after.run.id, index, _DEADLINE, problem, reason)


def _rewritten(before: Observation, after: Observation) -> frozenset[str]:
    """Return the fields that have a value in both snapshots, and not the same."""
    both = (before.present & after.present) - before.unseen - after.unseen
    return frozenset(field for field in both if getattr(before.run, field) != getattr(after.run, field))


def _way(before: Observation, after: Observation, lifecycle: Lifecycle) -> tuple[RunEvent, ...] | None:
    """Return the shortest way from one snapshot to the next that wrote what differs; None if there is none."""
    old, new = before.run.started_at, after.run.started_at
    if old is not None and new is not None and new < old:
        return None
    differs = _rewritten(before, after)
    if _DEADLINE in differs and not _is_later(before, after):
        return None
    found = (
        way
        for start in field_patterns(lifecycle)
        if before.fits(start)
        for (shape, written), way in _reachable(lifecycle, start).items()
        if after.fits(shape) and differs <= written
    )
    return min(found, key=len, default=None)


def _explain_step(before: Observation, after: Observation, index: int, lifecycle: Lifecycle) -> TraceFinding:
    """Return the first thing that cannot be about the step from one snapshot to the next."""
    run, source, target = after.run, before.run.status, after.run.status
    field, problem = "status", f"no path leads from {source} to {target}"
    reached = [
        (shape, written)
        for start in field_patterns(lifecycle)
        if before.fits(start)
        for shape, written in _reachable(lifecycle, start)
    ]
    there = [shape for shape, _ in reached if shape.status is target]
    if there:
        differs = _rewritten(before, after)
        misfits = [name for name, _ in _mismatches(after, there)]
        never = differs.difference(*(written for shape, written in reached if shape.status is target))
        if _DEADLINE in differs and not _is_later(before, after):
            never |= _MOVED
        # By the law of runs there is always one; in a law where two fields go together neither may differ alone.
        named = (*misfits, *(name for name in _FIELDS if name in never), *(name for name in _FIELDS if name in differs))
        field = next(iter(named), "status")
        old, new = getattr(before.run, field), getattr(run, field)
        problem = f"{field} went from {_told(old)} to {_told(new)}, but no path from {source} to {target} does that"
    onward = [status for status in RunStatus if status is not source and any(s.status is status for s, _ in reached)]
    possible = f"possible after {source}: {', '.join(onward)}" if onward else f"{source} is terminal, nothing leaves it"
    return TraceFinding("error", run.id, index, field, problem, possible)


def _told(value: object) -> str:
    return "null" if value is None else str(value)[:60]
