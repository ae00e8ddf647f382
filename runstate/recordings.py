"""Recorded runs as files hold them: JSON lines, a JSON array or list page, one object, a capture of server-sent events.

A cassette or HAR file of recorded HTTP answers is known as one here, and read by `runstate.cassettes`.

Bytes go in, line by line; snapshots with their place come out, and a report on all of them. Whatever cannot be read
is a finding with its place, never an exception, so that one bad line spoils no other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final

import attrs

from runstate import cassettes, wire
from runstate.errors import RunDecodeError
from runstate.json_values import printable
from runstate.lifecycle import BIRTH, LAW, Law, RunStatus
from runstate.plausible import Seen, Severity, Step, judge_trace, observe
from runstate.sightings import FIELDS_OF_SSE, Place, Snapshot, events_in, runs_in

__all__ = ["Complaint", "Place", "Report", "Snapshot", "inspect", "snapshots"]

_EVENT: Final = "thread.run."
_MAX_UNREADABLE: Final = 100


# --- bytes to snapshots -----------------------------------------------------------------------------------------------


def snapshots(lines: Iterable[bytes]) -> Iterator[Snapshot]:
    """Yield every snapshot in a file's lines, in order; what says it is no run (a message, a step) is passed over.

    The form is known by the first line that is not blank: a field of server-sent events; the first key of a cassette in
    YAML; an object or array that ends where it began, then every line is one; else a document over many lines. A
    cassette in JSON and a HAR file are known by their keys.
    """
    numbered_all = enumerate(lines, start=1)
    numbered = ((number, line) for number, line in numbered_all if line.strip())
    first = next(numbered, None)
    if first is None:
        return
    head = first[1].strip().removeprefix(b"\xef\xbb\xbf")
    opening = (first[0], head)
    if head.startswith(FIELDS_OF_SSE):
        for number, event, data in events_in(chain([opening], numbered_all)):
            yield from _value(number, data, event)
        return
    if head.startswith(cassettes.YAML_BEGINS):
        yield from cassettes.read_yaml(chain([opening], numbered_all))
        return
    everything = chain([opening], ((number, line.strip()) for number, line in numbered))
    if head.endswith((b"}", b"]")) or not head.startswith((b"{", b"[")):
        yield from _each_line(everything)
    else:
        yield from _document(everything)


def _each_line(lines: Iterable[tuple[int, bytes]]) -> Iterator[Snapshot]:
    for number, line in lines:
        yield from _value(number, line)


def _value(line: int, text: bytes, event: str | None = None) -> Iterator[Snapshot]:
    """Yield the snapshots in one JSON text."""
    try:
        value = wire.parse(text, first_line=line)
    except RunDecodeError as error:
        yield Snapshot(Place(line), event, None, error.faults)
        return
    answers = cassettes.read(value)
    yield from runs_in(Place(line), event, value) if answers is None else answers


def _document(lines: Iterable[tuple[int, bytes]]) -> Iterator[Snapshot]:
    """Yield the snapshots of one JSON text that runs over many lines, or of JSON lines whose first is cut off."""
    collected: list[tuple[int, bytes]] = []
    size = 0
    for number, line in lines:
        collected.append((number, line))
        size += len(line)
        if size + number - collected[0][0] > wire.MAX_BYTES:  # enough for the reader to refuse it with its sentence
            break
    later = collected[1:]
    if later and all(line.startswith(b"{") and line.endswith(b"}") for _, line in later):
        yield from _each_line(chain(collected, lines))
        return
    begin, text = collected[0][0], bytearray(collected[0][1])
    last = begin
    for number, line in later:
        # Blank lines were left out, but an error's line number must be the file's.
        text += b"\n" * min(number - last, wire.MAX_BYTES) + line
        last = number
    yield from _value(begin, bytes(text))


# --- snapshots to a report --------------------------------------------------------------------------------------------


@attrs.frozen
class Complaint:
    """A finding with its place in the file."""

    at: Place
    severity: Severity
    run_id: str | None
    problem: str
    possible: str

    @property
    def line(self) -> int:
        """The line it is about: of the file, or of a part's body."""
        return self.at.line

    @property
    def place(self) -> str:
        """Where it stands: `12`, `1[3]`, `interaction 3 line 7`."""
        return str(self.at)

    def __str__(self) -> str:
        # What a recording says comes from strangers: a line break in an id must not look like another complaint.
        run = "" if self.run_id is None else f"run {self.run_id}: "
        possible = f" ({self.possible})" if self.possible else ""
        return printable(f"{self.place}: {self.severity}: {run}{self.problem}{possible}")


@attrs.define
class Report:
    """What a recording holds: how much, which changes of status, and what cannot be."""

    snapshots: int = 0
    run_ids: set[str] = attrs.field(factory=set)
    steps: Counter[Step] = attrs.field(factory=Counter)
    complaints: list[Complaint] = attrs.field(factory=list)

    @property
    def errors(self) -> int:
        """How many complaints no known reason excuses."""
        return sum(complaint.severity == "error" for complaint in self.complaints)

    def add(self, other: Report) -> None:
        """Count in another recording. The same run in two recordings counts once."""
        self.snapshots += other.snapshots
        self.run_ids |= other.run_ids
        self.steps += other.steps
        self.complaints += other.complaints


def inspect(found: Iterable[Snapshot], law: Law = LAW) -> Report:
    """Judge the snapshots of one recording, those of each run together, in the order they were observed.

    After a hundred that cannot be read it gives up: whatever that file is, it is no recording.
    """
    report = Report()
    traces: dict[str, list[tuple[Snapshot, Seen]]] = {}
    unreadable = 0
    for snapshot in found:
        try:
            seen = _observe(snapshot)
        except RunDecodeError as error:
            unreadable += 1
            report.complaints += _complain_of_faults(snapshot, error)
            if unreadable == _MAX_UNREADABLE:
                said = f"gave up after {unreadable} that cannot be read"
                report.complaints.append(Complaint(snapshot.at, "error", None, said, ""))
                break
            continue
        report.snapshots += 1
        traces.setdefault(seen.run.id, []).append((snapshot, seen))
        report.complaints += _judge_event(snapshot, seen)
        report.complaints += _judge_answer(snapshot, seen, law)
    for run_id, trace in traces.items():
        report.run_ids.add(run_id)
        verdict = judge_trace((seen for _, seen in trace), law)
        report.steps.update(verdict.steps)
        for finding in verdict.findings:
            at = trace[finding.index][0].at
            report.complaints.append(Complaint(at, finding.severity, run_id, finding.problem, finding.possible))
    if not report.snapshots and not report.complaints:
        report.complaints.append(Complaint(Place(1), "error", None, "no run in it", ""))
    report.complaints.sort(key=lambda complaint: complaint.at.order)
    return report


def _observe(snapshot: Snapshot) -> Seen:
    """Return the run of a snapshot. Raises `RunDecodeError` with its faults if there is none."""
    if snapshot.record is None:
        raise RunDecodeError(snapshot.faults)
    return observe(snapshot.record)


def _complain_of_faults(snapshot: Snapshot, error: RunDecodeError) -> Iterator[Complaint]:
    run_id = None if snapshot.record is None else snapshot.record.get("id")
    known = run_id if isinstance(run_id, str) else None
    missing = [fault.path for fault in error.faults if fault.problem == "is missing" and fault.path]
    others = [str(fault) for fault in error.faults if fault.path not in missing]
    if len(missing) > 1:
        others.append(f"these keys are missing: {', '.join(missing)}")
    else:
        others += [f"{path}: is missing" for path in missing]
    for said in others:
        yield Complaint(snapshot.at, "error", known, said, "")


def _judge_event(snapshot: Snapshot, seen: Seen) -> Iterator[Complaint]:
    """Yield a complaint if the server-sent event names another status than its run has (LIFECYCLE, "HTTP answers")."""
    if snapshot.event is None or not snapshot.event.startswith(_EVENT):
        return
    named = snapshot.event.removeprefix(_EVENT)
    status = BIRTH if named == "created" else named
    if status in tuple(RunStatus) and seen.run.status != status:
        problem = f"the event {snapshot.event} came with a run in {seen.run.status}"
        yield Complaint(snapshot.at, "error", seen.run.id, problem, f"possible: {status}")


def _judge_answer(snapshot: Snapshot, seen: Seen, law: Law) -> Iterator[Complaint]:
    """Yield a complaint if the server accepted an event, and its answer is a run that the event cannot lead to.

    A run may have gone on before the server answered, so every status that a path leads to is possible.
    """
    if snapshot.asked is None or not law.sources_of(snapshot.asked):
        return
    target = law.target_of(snapshot.asked)
    if law.shortest_path(target, seen.run.status) is None:
        problem = f"{snapshot.asked} was accepted, but answered with a run in {seen.run.status}"
        onward = [status for status in RunStatus if law.shortest_path(target, status) is not None]
        yield Complaint(snapshot.at, "error", seen.run.id, problem, f"possible: {', '.join(onward)}")
