"""Recorded runs: readers for files, and the judge.

`read_snapshots` reads runs from JSON lines, arrays, documents, logs, captures of server-sent events, and the files of
HTTP recorders. `check_snapshots` judges them and returns a report. The report also counts the parts that were passed
over and those that were not judged. `judge` and `judge_trace` judge records that are given as values.

    >>> report = check_snapshots(read_snapshots([b'{"object": "thread.message", "id": "msg_1"}']))
    >>> report.snapshots, report.passed_over, report.errors
    (0, 1, 1)
"""

from runstate.traces._dialects import NormalizedRecord, normalize_record
from runstate.traces._findings import Severity, TraceFinding
from runstate.traces._judge import (
    FieldPattern,
    Observation,
    StatusChange,
    TraceReport,
    field_patterns,
    judge,
    judge_trace,
    observe,
)
from runstate.traces._reader import read_snapshots
from runstate.traces._report import Report, check_snapshots
from runstate.traces._snapshots import Location, Note, NoteKind, Notes, Recording, Snapshot

__all__ = [
    "FieldPattern",
    "Location",
    "NormalizedRecord",
    "Note",
    "NoteKind",
    "Notes",
    "Observation",
    "Recording",
    "Report",
    "Severity",
    "Snapshot",
    "StatusChange",
    "TraceFinding",
    "TraceReport",
    "check_snapshots",
    "field_patterns",
    "judge",
    "judge_trace",
    "normalize_record",
    "observe",
    "read_snapshots",
]
