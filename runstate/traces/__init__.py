"""Recorded runs as files hold them, read and judged.

`read_snapshots` reads whatever people have recorded runs in: JSON lines, arrays, documents, logs, captures of
server-sent events, and the files of HTTP recorders. `check_snapshots` judges the runs in it and reports; what was
passed over and what was not judged is counted, so that nothing is silent. `judge` and `judge_trace` judge records that
are at hand.

    >>> report = check_snapshots(read_snapshots([b'{"object": "thread.message", "id": "msg_1"}']))
    >>> report.snapshots, report.passed_over, report.errors
    (0, 1, 1)
"""

from runstate.traces._dialects import Reading, as_wire
from runstate.traces._judge import (
    FieldPattern,
    Observation,
    Severity,
    StatusChange,
    TraceFinding,
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
    "Note",
    "NoteKind",
    "Notes",
    "Observation",
    "Reading",
    "Recording",
    "Report",
    "Severity",
    "Snapshot",
    "StatusChange",
    "TraceFinding",
    "TraceReport",
    "as_wire",
    "check_snapshots",
    "field_patterns",
    "judge",
    "judge_trace",
    "observe",
    "read_snapshots",
]
