"""Recorded runs as files hold them, read and judged.

`snapshots` reads whatever people have recorded runs in: JSON lines, arrays, documents, logs, captures of server-sent
events, and the files of HTTP recorders. `inspect` judges the runs in it and reports; what was passed over and what was
not judged is counted, so that nothing is silent.

    >>> report = inspect(snapshots([b'{"object": "thread.message", "id": "msg_1"}']))
    >>> report.snapshots, report.passed_over, report.errors
    (0, 1, 1)
"""

from runstate.recordings.dialects import Reading, as_wire
from runstate.recordings.reader import snapshots
from runstate.recordings.report import Complaint, Report, inspect
from runstate.recordings.sightings import Note, NoteKind, Notes, Place, Recording, Snapshot

__all__ = [
    "Complaint",
    "Note",
    "NoteKind",
    "Notes",
    "Place",
    "Reading",
    "Recording",
    "Report",
    "Snapshot",
    "as_wire",
    "inspect",
    "snapshots",
]
