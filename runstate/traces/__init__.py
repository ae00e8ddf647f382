"""Recorded runs as files hold them, read and judged.

`snapshots` reads whatever people have recorded runs in: JSON lines, arrays, documents, logs, captures of server-sent
events, and the files of HTTP recorders. `inspect` judges the runs in it and reports; what was passed over and what was
not judged is counted, so that nothing is silent. `judge` and `judge_trace` judge records that are at hand.

    >>> report = inspect(snapshots([b'{"object": "thread.message", "id": "msg_1"}']))
    >>> report.snapshots, report.passed_over, report.errors
    (0, 1, 1)
"""

from runstate.traces._dialects import Reading, as_wire
from runstate.traces._judge import Finding, Seen, Severity, Shape, Step, Verdict, judge, judge_trace, observe, shapes
from runstate.traces._reader import snapshots
from runstate.traces._report import Complaint, Report, inspect
from runstate.traces._snapshots import Note, NoteKind, Notes, Place, Recording, Snapshot

__all__ = [
    "Complaint",
    "Finding",
    "Note",
    "NoteKind",
    "Notes",
    "Place",
    "Reading",
    "Recording",
    "Report",
    "Seen",
    "Severity",
    "Shape",
    "Snapshot",
    "Step",
    "Verdict",
    "as_wire",
    "inspect",
    "judge",
    "judge_trace",
    "observe",
    "shapes",
    "snapshots",
]
