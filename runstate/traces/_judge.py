"""The judge: whether a legal history can have left a record or a trace.

The table of transitions allows a finite set of field patterns: a status, and which of the nine fields that depend on it
have a value. A record with another pattern is impossible, and so is a trace in which no path leads from one snapshot to
the next. Polling skips statuses, so a path may have several events. A finding explains the first impossible thing, and
says what would have been possible. What old recordings do for a known reason is a warning with that reason.

A key that a record does not have was not observed: it is neither set nor null, and matches everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from functools import lru_cache
from itertools import pairwise
from typing import Final, TypeAlias, get_args

import attrs

from runstate.lifecycle import INITIAL_STATUS, RUN_LIFECYCLE, Lifecycle, RunEvent, RunStatus, Stamp, StatusField
from runstate.run import codec
from runstate.run.record import RunRecord
from runstate.traces._findings import Severity, TraceFinding

__all__ = [
    "FieldPattern",
    "Observation",
    "StatusChange",
    "TraceReport",
    "field_patterns",
    "judge",
    "judge_trace",
    "observe",
]

Record: TypeAlias = "RunRecord | Mapping[str, object] | Observation"

_STAMPS: Final[tuple[Stamp, ...]] = get_args(Stamp)
_STATUS_FIELDS: Final[tuple[StatusField, ...]] = get_args(StatusField)
_FIELDS: Final[tuple[str, ...]] = (*_STAMPS, *_STATUS_FIELDS)
_CONSTANT_FIELDS: Final = ("id", "created_at", "thread_id", "assistant_id")

_FEBRUARY_2024: Final = 1_706_745_600  # Unix seconds, as all below
_MARCH_2024: Final = 1_709_251_200
_JULY_2024: Final = 1_719_792_000


@attrs.frozen
class FieldPattern:
    """A status, and the fields that have a value in it."""

    status: RunStatus
    present: frozenset[str]


@attrs.frozen
class StatusChange:
    """A change of status between two snapshots, with the shortest legal path."""

    source: RunStatus
    target: RunStatus
    events: tuple[RunEvent, ...]


@attrs.frozen
class TraceReport:
    """The report on a trace: its findings in order, and its changes of status."""

    findings: tuple[TraceFinding, ...]
    changes: tuple[StatusChange, ...]

    @property
    def errors(self) -> tuple[TraceFinding, ...]:
        """The findings that are not excused by a known reason."""
        return tuple(finding for finding in self.findings if finding.severity == "error")


# --- possible patterns ------------------------------------------------------------------------------------------------

_Written: TypeAlias = frozenset[str]  # the fields written on a path
_DEADLINE: Final = "expires_at"
_DEADLINE_MOVED: Final = frozenset({_DEADLINE})


def _initial_pattern(lifecycle: Lifecycle) -> FieldPattern:
    return FieldPattern(
        INITIAL_STATUS, frozenset(field for field in _STATUS_FIELDS if lifecycle.is_present(field, INITIAL_STATUS))
    )


def _successors(lifecycle: Lifecycle, pattern: FieldPattern) -> Iterator[tuple[RunEvent, FieldPattern, _Written]]:
    """Yield each event that is legal in a pattern, the pattern it leads to, and the fields it writes."""
    for row in lifecycle.transitions:
        if row.source is pattern.status:
            held = frozenset(field for field in _STATUS_FIELDS if lifecycle.is_present(field, row.target))
            stamped = frozenset(() if row.stamp is None else (row.stamp,))
            kept = pattern.present.intersection(_STAMPS)
            writes = stamped | (held - pattern.present)
            # Some servers set a new deadline when a run requires action; the table never does.
            moved = _DEADLINE_MOVED & held if row.target is RunStatus.REQUIRES_ACTION else frozenset[str]()
            yield row.event, FieldPattern(row.target, kept | stamped | held), writes | moved


@lru_cache(maxsize=1024)  # sixteen patterns for each table, with room for the tables of tests
def _reachable(
    lifecycle: Lifecycle, start: FieldPattern
) -> Mapping[tuple[FieldPattern, _Written], tuple[RunEvent, ...]]:
    """Return every pattern that can follow `start`, with the fields written on the path, and the shortest such path."""
    may_have_moved = start.status is RunStatus.REQUIRES_ACTION  # the deadline may have moved since
    paths: dict[tuple[FieldPattern, _Written], tuple[RunEvent, ...]] = {
        (start, _DEADLINE_MOVED if may_have_moved else frozenset()): ()
    }
    frontier = list(paths)
    while frontier:
        reached: list[tuple[FieldPattern, _Written]] = []
        for pattern, written in frontier:
            for event, after, writes in _successors(lifecycle, pattern):
                key = (after, written | writes)
                if key not in paths:
                    paths[key] = (*paths[pattern, written], event)
                    reached.append(key)
        frontier = reached
    return paths


@lru_cache(maxsize=64)
def field_patterns(lifecycle: Lifecycle = RUN_LIFECYCLE) -> frozenset[FieldPattern]:
    """Return every pattern that a legal history can leave.

    >>> len(field_patterns())
    16
    """
    return frozenset(pattern for pattern, _ in _reachable(lifecycle, _initial_pattern(lifecycle)))


# --- one snapshot -----------------------------------------------------------------------------------------------------


@attrs.frozen
class Observation:
    """A snapshot as it was observed: the run, and the keys that its record did not have."""

    run: RunRecord
    missing: frozenset[str]

    @property
    def present(self) -> frozenset[str]:
        """The fields that depend on the status and have a value."""
        return frozenset(field for field in _FIELDS if getattr(self.run, field) is not None)

    def matches(self, pattern: FieldPattern) -> bool:
        """Return whether the snapshot has this pattern in the fields that were observed."""
        return self.run.status is pattern.status and not (self.present ^ pattern.present) - self.missing


def observe(record: Record) -> Observation:
    """Return a record decoded for the judge. Raises `RunDecodeError` if it is not a run."""
    if isinstance(record, Observation):
        return record
    if isinstance(record, RunRecord):
        return Observation(copy(record), frozenset())  # a copy, because another thread may move the run
    return Observation(RunRecord.from_validated(codec.decode(record)), codec.missing_keys(record))


def _mismatches(observed: Observation, candidates: Sequence[FieldPattern]) -> Iterator[tuple[str, str]]:
    """Yield (field, "set" or "null") for each field whose presence differs from that in all candidates."""
    for field in _FIELDS:
        if field in observed.missing:
            continue
        is_set = field in observed.present
        if all((field in pattern.present) is not is_set for pattern in candidates):
            yield field, "set" if is_set else "null"


def _possible_in(status: RunStatus, candidates: Sequence[FieldPattern]) -> str:
    always = [field for field in _FIELDS if all(field in pattern.present for pattern in candidates)]
    either = [field for field in _FIELDS if field not in always and any(field in s.present for s in candidates)]
    parts = [f"{', '.join(fields)} {how}" for fields, how in ((always, "set"), (either, "set or null")) if fields]
    return f"possible in {status}: {'; '.join((*parts, 'all else null'))}"


def _known_reason(run: RunRecord, field: str) -> str | None:
    """Return the known reason why an old recording breaks the rule of this field; None if there is none."""
    if field == "usage" and run.usage is None and run.created_at < _FEBRUARY_2024:
        return "runs carry usage only since February 2024"
    spring_2024 = _MARCH_2024 <= run.created_at < _JULY_2024
    if field == "incomplete_details" and run.status is RunStatus.COMPLETED and spring_2024:
        return "some completed runs of spring 2024 carry it"
    return None


def _judge_fields(observed: Observation, index: int, lifecycle: Lifecycle) -> Iterator[TraceFinding]:
    run = observed.run
    candidates = [pattern for pattern in field_patterns(lifecycle) if pattern.status is run.status]
    if not candidates:
        yield TraceFinding("error", run.id, index, "status", f"no path leads to {run.status}", "see the table")
        return
    if any(observed.matches(pattern) for pattern in candidates):
        return
    possible = _possible_in(run.status, candidates)
    for field, found in _mismatches(observed, candidates):
        verb = "stamps" if field in _STAMPS else "sets"
        rule = f"no path from {INITIAL_STATUS} to {run.status} {verb} it"
        if found == "null":
            rule = f"every path from {INITIAL_STATUS} to {run.status} {verb} it"
        elif field in _STATUS_FIELDS:
            rule = f"every path from {INITIAL_STATUS} to {run.status} leaves it null"
        reason = _known_reason(run, field)
        severity: Severity = "error" if reason is None else "warning"
        yield TraceFinding(severity, run.id, index, field, f"{field} is {found}, but {rule}", reason or possible)


def _judge_times(run: RunRecord, index: int) -> Iterator[TraceFinding]:
    """Yield findings about the order of times. They are warnings, because the clocks of two machines differ."""
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
    """Return the findings on a single record; () if a legal history can have left it.

    A JSON object may be given instead of a run. Keys that it does not have count as not observed. (A run that was
    decoded from an object no longer has the information which keys were missing, so pass the object itself.) Raises
    `RunDecodeError` if the object is not a run.

    >>> from runstate import Run
    >>> run = Run.create(thread_id="t", assistant_id="a", model="m", id="run_1", at=1_800_000_000)
    >>> judge(run)
    ()
    >>> print(judge({**run.to_dict(), "completed_at": 1_800_000_009})[0].message)
    completed_at is set, but no path from queued to queued stamps it
    """
    return tuple(_judge(observe(record), 0, lifecycle))


def _judge(observed: Observation, index: int, lifecycle: Lifecycle) -> Iterator[TraceFinding]:
    yield from _judge_fields(observed, index, lifecycle)
    yield from _judge_times(observed.run, index)


# --- a trace ----------------------------------------------------------------------------------------------------------


def judge_trace(records: Iterable[Record], lifecycle: Lifecycle = RUN_LIFECYCLE) -> TraceReport:
    """Judge snapshots of one run in the order of observation: each by itself, and each change from one to the next.

    Raises `RunDecodeError` if a JSON object among them is not a run.
    """
    trace = [observe(record) for record in records]
    findings: list[TraceFinding] = []
    steps: list[StatusChange] = []
    for index, observed in enumerate(trace):
        field_findings = tuple(_judge_fields(observed, index, lifecycle))
        findings += (*field_findings, *_judge_times(observed.run, index))
        # A field that is excused in a snapshot is not judged in the changes to it and from it.
        excused = {found.field for found in field_findings if found.severity == "warning"}
        trace[index] = attrs.evolve(observed, missing=observed.missing | excused) if excused else observed
    broken = {finding.index for finding in findings if finding.severity == "error"}
    for index, (before, after) in enumerate(pairwise(trace), start=1):
        findings.extend(_judge_constants(before.run, after.run, index))
        # A finding on a change to or from an impossible snapshot would only repeat the one on the snapshot.
        if not broken & {index - 1, index}:
            path = _path(before, after, lifecycle)
            if path is None:
                findings.append(_explain_step(before, after, index, lifecycle))
                continue
            findings.extend(_judge_deadline(before, after, index))
            if before.run.status is not after.run.status:
                steps.append(StatusChange(before.run.status, after.run.status, path))
    return TraceReport(tuple(sorted(findings, key=lambda finding: finding.index)), tuple(steps))


def _judge_constants(before: RunRecord, after: RunRecord, index: int) -> Iterator[TraceFinding]:
    for field in _CONSTANT_FIELDS:
        old, new = getattr(before, field), getattr(after, field)
        if old != new:
            problem = f"{field} changed from {old} to {new}"
            yield TraceFinding("error", after.id, index, field, problem, "it never changes")


def _is_later(before: Observation, after: Observation) -> bool:
    """Return whether the deadline of the second snapshot is after that of the first."""
    old, new = before.run.expires_at, after.run.expires_at
    return old is not None and new is not None and new > old


def _judge_deadline(before: Observation, after: Observation, index: int) -> Iterator[TraceFinding]:
    """Yield a warning if the deadline moved while the run may have waited for tool outputs."""
    if _DEADLINE in _differing_fields(before, after):
        problem = f"expires_at went from {before.run.expires_at} to {after.run.expires_at}"
        reason = "some servers set the deadline anew when a run waits for its tools"
        yield TraceFinding("warning", after.run.id, index, _DEADLINE, problem, reason)


def _differing_fields(before: Observation, after: Observation) -> frozenset[str]:
    """Return the fields that have different values in both snapshots."""
    both = (before.present & after.present) - before.missing - after.missing
    return frozenset(field for field in both if getattr(before.run, field) != getattr(after.run, field))


def _path(before: Observation, after: Observation, lifecycle: Lifecycle) -> tuple[RunEvent, ...] | None:
    """Return the shortest path from one snapshot to the next that writes what differs; None if there is none."""
    old, new = before.run.started_at, after.run.started_at
    if old is not None and new is not None and new < old:
        return None
    differs = _differing_fields(before, after)
    if _DEADLINE in differs and not _is_later(before, after):
        return None
    found = (
        path
        for start in field_patterns(lifecycle)
        if before.matches(start)
        for (pattern, written), path in _reachable(lifecycle, start).items()
        if after.matches(pattern) and differs <= written
    )
    return min(found, key=len, default=None)


def _explain_step(before: Observation, after: Observation, index: int, lifecycle: Lifecycle) -> TraceFinding:
    """Return the finding on the first impossible thing in the change from one snapshot to the next."""
    run, source, target = after.run, before.run.status, after.run.status
    field, problem = "status", f"no path leads from {source} to {target}"
    reached = [
        (pattern, written)
        for start in field_patterns(lifecycle)
        if before.matches(start)
        for pattern, written in _reachable(lifecycle, start)
    ]
    patterns = [pattern for pattern, _ in reached if pattern.status is target]
    if patterns:
        differs = _differing_fields(before, after)
        mismatched = [name for name, _ in _mismatches(after, patterns)]
        never_written = differs.difference(*(written for pattern, written in reached if pattern.status is target))
        if _DEADLINE in differs and not _is_later(before, after):
            never_written |= _DEADLINE_MOVED
        # In the table of runs there is always one; in a table where two fields go together neither may differ alone.
        candidates = (
            *mismatched,
            *(name for name in _FIELDS if name in never_written),
            *(name for name in _FIELDS if name in differs),
        )
        field = next(iter(candidates), "status")
        old, new = getattr(before.run, field), getattr(run, field)
        problem = f"{field} went from {_format(old)} to {_format(new)}, but no path from {source} to {target} does that"
    later_statuses = [
        status for status in RunStatus if status is not source and any(s.status is status for s, _ in reached)
    ]
    possible = (
        f"possible after {source}: {', '.join(later_statuses)}"
        if later_statuses
        else f"{source} is terminal, nothing leaves it"
    )
    return TraceFinding("error", run.id, index, field, problem, possible)


def _format(value: object) -> str:
    return "null" if value is None else str(value)[:60]
