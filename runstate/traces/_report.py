"""The report on a recording: its runs, their changes of status, the findings, and what was not judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final, cast

import attrs

from runstate.lifecycle import INITIAL_STATUS, RUN_LIFECYCLE, Lifecycle, RunStatus
from runstate.run.errors import RunDecodeError
from runstate.traces._dialects import normalize_record
from runstate.traces._findings import Severity, TraceFinding
from runstate.traces._judge import Observation, StatusChange, judge_trace, observe
from runstate.traces._lines import NOT_BYTES, with_utf8_hint
from runstate.traces._snapshots import Location, Notes, Recording, Snapshot

__all__ = ["Report", "check_snapshots"]

_EVENT: Final = "thread.run."
_MAX_UNREADABLE: Final = 100
_UNREADABLE: Final = "runs, or what may have held them, that cannot be read"
_NO_SNAPSHOTS: Final = (
    f"expected what read_snapshots() returns, as in check_snapshots(read_snapshots(lines)); {NOT_BYTES}"
)
_MAY_30_2024: Final = 1_717_027_200  # Unix seconds


@attrs.define
class Report:
    """The report on a recording: counts, changes of status, and findings."""

    snapshots: int = 0
    run_ids: set[str] = attrs.field(factory=set)
    changes: Counter[StatusChange] = attrs.field(factory=Counter)
    findings: list[TraceFinding] = attrs.field(factory=list)
    notes: Notes = attrs.field(factory=Notes)
    """What was passed over, what was not judged, and how other spellings were read, with counts and locations."""

    @property
    def passed_over(self) -> int:
        """How many parts (lines, events, interactions) have no run."""
        return self.notes.count("passed over")

    @property
    def not_judged(self) -> int:
        """How many parts look like runs and were not judged, including those that cannot be read."""
        return self.notes.count("not judged")

    @property
    def errors(self) -> int:
        """How many findings are errors."""
        return sum(finding.severity == "error" for finding in self.findings)

    def add(self, other: Report) -> None:
        """Add the report on another recording. The same run in two recordings counts once."""
        self.snapshots += other.snapshots
        self.run_ids |= other.run_ids
        self.changes += other.changes
        self.findings += other.findings
        self.notes.update(other.notes)


def check_snapshots(snapshots: Iterable[Snapshot], lifecycle: Lifecycle = RUN_LIFECYCLE) -> Report:
    """Judge the snapshots of one recording, grouped by run, in the order of observation.

    It ends after a hundred snapshots that cannot be read: such a file is not a recording. The notes of the report are
    those of the recording that `read_snapshots` returns; other iterables of snapshots have none.

    Raises `TypeError` for anything but snapshots, such as a path or the lines of a file.
    """
    if isinstance(cast("object", snapshots), str | bytes) or not isinstance(cast("object", snapshots), Iterable):
        raise TypeError(_NO_SNAPSHOTS)
    report = Report()
    traces: dict[str, list[tuple[Snapshot, Observation]]] = {}
    unreadable = 0
    for snapshot in snapshots:
        if not isinstance(cast("object", snapshot), Snapshot):
            raise TypeError(_NO_SNAPSHOTS)
        try:
            observed = _observe(snapshot, report.notes)
        except RunDecodeError as error:
            unreadable += 1
            if not snapshot.is_placeholder:
                report.notes.add("not judged", _UNREADABLE, snapshot.at)
            report.findings += _decode_findings(snapshot, error)
            if unreadable == _MAX_UNREADABLE:
                message = f"gave up after {unreadable} that cannot be read"
                report.findings.append(TraceFinding("error", None, 0, "", message, location=snapshot.at))
                break
            continue
        report.snapshots += 1
        traces.setdefault(observed.run.id, []).append((snapshot, observed))
        report.findings += _judge_event(snapshot, observed)
        report.findings += _judge_answer(snapshot, observed, lifecycle)
    for run_id, trace in traces.items():
        report.run_ids.add(run_id)
        trace_report = judge_trace((observed for _, observed in trace), lifecycle)
        report.changes.update(trace_report.changes)
        for finding in trace_report.findings:
            report.findings.append(attrs.evolve(finding, location=trace[finding.index][0].at))
    if isinstance(snapshots, Recording):
        report.notes.update(snapshots.notes)
    if not report.snapshots and not report.findings:
        report.findings.append(TraceFinding("error", None, 0, "", "no run in it", location=Location(1)))
    report.findings.sort(key=_order)
    return report


def _order(finding: TraceFinding) -> tuple[int, int]:
    """Return the sort key for the findings of one recording, from its top to its bottom."""
    return (0, 0) if finding.location is None else finding.location.order


def _observe(snapshot: Snapshot, notes: Notes) -> Observation:
    """Return the run of a snapshot, read in its dialect. Raises `RunDecodeError` with its errors if there is none."""
    if snapshot.record is None:
        raise RunDecodeError(snapshot.errors)
    normalized = normalize_record(snapshot.record)
    observed = observe(normalized.record)
    for remark in normalized.remarks:
        notes.add("read", remark, snapshot.at)
    return (
        attrs.evolve(observed, missing=observed.missing | normalized.not_judged) if normalized.not_judged else observed
    )


def _decode_findings(snapshot: Snapshot, error: RunDecodeError) -> Iterator[TraceFinding]:
    run_id = None if snapshot.record is None else snapshot.record.get("id")
    known = run_id if isinstance(run_id, str) else None
    missing = [fault.path for fault in error.errors if fault.message == "is missing" and fault.path]
    messages = [with_utf8_hint(str(fault)) for fault in error.errors if fault.path not in missing]
    if len(missing) > 1:
        messages.append(f"these keys are missing: {', '.join(missing)}")
    else:
        messages += [f"{path}: is missing" for path in missing]
    for message in messages:
        yield TraceFinding("error", known, 0, "", message, location=snapshot.at)


def _judge_event(snapshot: Snapshot, observed: Observation) -> Iterator[TraceFinding]:
    """Yield a finding if the server-sent event names another status than its run has."""
    if snapshot.event is None or not snapshot.event.startswith(_EVENT):
        return
    named = snapshot.event.removeprefix(_EVENT)
    status = INITIAL_STATUS if named == "created" else named
    if status in tuple(RunStatus) and observed.run.status != status:
        problem = f"the event {snapshot.event} came with a run in {observed.run.status}"
        reason = _known_reason(status, observed)
        severity: Severity = "warning" if reason else "error"
        hint = reason or f"possible: {status}"
        yield TraceFinding(severity, observed.run.id, 0, "status", problem, hint, snapshot.at)


def _known_reason(named: str, observed: Observation) -> str | None:
    """Return the known reason why an old stream names another status than its run has; None if there is none."""
    is_known = named == RunStatus.COMPLETED.value and observed.run.status is RunStatus.INCOMPLETE
    if is_known and observed.run.created_at < _MAY_30_2024:
        return "streams have an event of their own for incomplete runs only since 30 May 2024"
    return None


def _judge_answer(snapshot: Snapshot, observed: Observation, lifecycle: Lifecycle) -> Iterator[TraceFinding]:
    """Yield a finding if the server accepted an event and its response is a run that the event cannot lead to.

    A run may have moved on before the response, so every status that a path leads to is possible.
    """
    if snapshot.requested is None or not lifecycle.sources_of(snapshot.requested):
        return
    target = lifecycle.target_of(snapshot.requested)
    if lifecycle.shortest_path(target, observed.run.status) is None:
        problem = f"{snapshot.requested} was accepted, but answered with a run in {observed.run.status}"
        possible = [status for status in RunStatus if lifecycle.shortest_path(target, status) is not None]
        hint = f"possible: {', '.join(possible)}"
        yield TraceFinding("error", observed.run.id, 0, "status", problem, hint, snapshot.at)
