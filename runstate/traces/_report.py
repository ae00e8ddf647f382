"""What a recording was found to hold: its runs, their changes of status, what cannot be, and what was not judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final, cast

import attrs

from runstate.lifecycle import INITIAL_STATUS, RUN_LIFECYCLE, Lifecycle, RunStatus
from runstate.run.errors import RunDecodeError
from runstate.traces._dialects import as_wire
from runstate.traces._judge import Observation, Severity, StatusChange, TraceFinding, judge_trace, observe
from runstate.traces._lines import NOT_BYTES, not_utf8
from runstate.traces._snapshots import Location, Notes, Recording, Snapshot

__all__ = ["Report", "check_snapshots"]

_EVENT: Final = "thread.run."
_MAX_UNREADABLE: Final = 100
_UNREADABLE: Final = "runs, or what may have held them, that cannot be read"
_NO_SNAPSHOTS: Final = (
    f"expected what read_snapshots() returns, as in check_snapshots(read_snapshots(lines)); {NOT_BYTES}"
)
_30_MAY_2024: Final = 1_717_027_200  # Unix seconds


@attrs.define
class Report:
    """What a recording holds: how much, which changes of status, and what cannot be."""

    snapshots: int = 0
    run_ids: set[str] = attrs.field(factory=set)
    changes: Counter[StatusChange] = attrs.field(factory=Counter)
    findings: list[TraceFinding] = attrs.field(factory=list)
    notes: Notes = attrs.field(factory=Notes)
    """What was passed over, what was not judged, and how unusual spellings were read; each with count and place."""

    @property
    def passed_over(self) -> int:
        """How many parts (lines, events, interactions) hold no run."""
        return self.notes.count("passed over")

    @property
    def not_judged(self) -> int:
        """How many parts look like runs and were not judged, those that cannot be read among them."""
        return self.notes.count("not judged")

    @property
    def errors(self) -> int:
        """How many findings no known reason excuses."""
        return sum(finding.severity == "error" for finding in self.findings)

    def add(self, other: Report) -> None:
        """Count in another recording. The same run in two recordings counts once."""
        self.snapshots += other.snapshots
        self.run_ids |= other.run_ids
        self.changes += other.changes
        self.findings += other.findings
        self.notes.update(other.notes)


def check_snapshots(found: Iterable[Snapshot], lifecycle: Lifecycle = RUN_LIFECYCLE) -> Report:
    """Judge the snapshots of one recording, those of each run together, in the order they were observed.

    After a hundred that cannot be read it gives up: whatever that file is, it is no recording. The notes of the report
    are those of the recording that `read_snapshots` returns; other iterables of snapshots have none. Raises `TypeError`
    for what is no snapshots, such as a path or the lines of a file.
    """
    if isinstance(cast("object", found), str | bytes) or not isinstance(cast("object", found), Iterable):
        raise TypeError(_NO_SNAPSHOTS)
    report = Report()
    traces: dict[str, list[tuple[Snapshot, Observation]]] = {}
    unreadable = 0
    for snapshot in found:
        if not isinstance(cast("object", snapshot), Snapshot):
            raise TypeError(_NO_SNAPSHOTS)
        try:
            seen = _observe(snapshot, report.notes)
        except RunDecodeError as error:
            unreadable += 1
            if not snapshot.is_other:
                report.notes.add("not judged", _UNREADABLE, snapshot.at)
            report.findings += _decode_findings(snapshot, error)
            if unreadable == _MAX_UNREADABLE:
                said = f"gave up after {unreadable} that cannot be read"
                report.findings.append(TraceFinding("error", None, 0, "", said, location=snapshot.at))
                break
            continue
        report.snapshots += 1
        traces.setdefault(seen.run.id, []).append((snapshot, seen))
        report.findings += _judge_event(snapshot, seen)
        report.findings += _judge_answer(snapshot, seen, lifecycle)
    for run_id, trace in traces.items():
        report.run_ids.add(run_id)
        verdict = judge_trace((seen for _, seen in trace), lifecycle)
        report.changes.update(verdict.changes)
        for finding in verdict.findings:
            report.findings.append(attrs.evolve(finding, location=trace[finding.index][0].at))
    if isinstance(found, Recording):
        report.notes.update(found.notes)
    if not report.snapshots and not report.findings:
        report.findings.append(TraceFinding("error", None, 0, "", "no run in it", location=Location(1)))
    report.findings.sort(key=_order)
    return report


def _order(finding: TraceFinding) -> tuple[int, int]:
    """Return what sorts the findings of one recording from its top to its bottom."""
    return (0, 0) if finding.location is None else finding.location.order


def _observe(snapshot: Snapshot, notes: Notes) -> Observation:
    """Return the run of a snapshot, read in its dialect. Raises `RunDecodeError` with its faults if there is none."""
    if snapshot.record is None:
        raise RunDecodeError(snapshot.faults)
    reading = as_wire(snapshot.record)
    seen = observe(reading.record)
    for remark in reading.remarks:
        notes.add("read", remark, snapshot.at)
    return attrs.evolve(seen, unseen=seen.unseen | reading.unseen) if reading.unseen else seen


def _decode_findings(snapshot: Snapshot, error: RunDecodeError) -> Iterator[TraceFinding]:
    run_id = None if snapshot.record is None else snapshot.record.get("id")
    known = run_id if isinstance(run_id, str) else None
    missing = [fault.path for fault in error.errors if fault.message == "is missing" and fault.path]
    others = [not_utf8(str(fault)) for fault in error.errors if fault.path not in missing]
    if len(missing) > 1:
        others.append(f"these keys are missing: {', '.join(missing)}")
    else:
        others += [f"{path}: is missing" for path in missing]
    for said in others:
        yield TraceFinding("error", known, 0, "", said, location=snapshot.at)


def _judge_event(snapshot: Snapshot, seen: Observation) -> Iterator[TraceFinding]:
    """Yield a complaint if the server-sent event names another status than its run has (LIFECYCLE, "HTTP answers")."""
    if snapshot.event is None or not snapshot.event.startswith(_EVENT):
        return
    named = snapshot.event.removeprefix(_EVENT)
    status = INITIAL_STATUS if named == "created" else named
    if status in tuple(RunStatus) and seen.run.status != status:
        problem = f"the event {snapshot.event} came with a run in {seen.run.status}"
        reason = _known_reason(status, seen)
        severity: Severity = "warning" if reason else "error"
        hint = reason or f"possible: {status}"
        yield TraceFinding(severity, seen.run.id, 0, "status", problem, hint, snapshot.at)


def _known_reason(named: str, seen: Observation) -> str | None:
    """Return why an old stream names another status than its run has, if that is known (LIFECYCLE, "Oddities")."""
    is_known = named == RunStatus.COMPLETED.value and seen.run.status is RunStatus.INCOMPLETE
    if is_known and seen.run.created_at < _30_MAY_2024:
        return "streams have an event of their own for incomplete runs only since 30 May 2024"
    return None


def _judge_answer(snapshot: Snapshot, seen: Observation, lifecycle: Lifecycle) -> Iterator[TraceFinding]:
    """Yield a complaint if the server accepted an event, and its answer is a run that the event cannot lead to.

    A run may have gone on before the server answered, so every status that a path leads to is possible.
    """
    if snapshot.asked is None or not lifecycle.sources_of(snapshot.asked):
        return
    target = lifecycle.target_of(snapshot.asked)
    if lifecycle.shortest_path(target, seen.run.status) is None:
        problem = f"{snapshot.asked} was accepted, but answered with a run in {seen.run.status}"
        onward = [status for status in RunStatus if lifecycle.shortest_path(target, status) is not None]
        hint = f"possible: {', '.join(onward)}"
        yield TraceFinding("error", seen.run.id, 0, "status", problem, hint, snapshot.at)
