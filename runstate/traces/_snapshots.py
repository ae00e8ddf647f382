"""The data model of recordings: snapshots with locations, and notes that count everything else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal, TypeAlias, cast

import attrs

from runstate.lifecycle import RunEvent
from runstate.run.errors import FieldError

__all__ = [
    "Candidate",
    "Location",
    "Note",
    "NoteKind",
    "Notes",
    "RawObject",
    "Recording",
    "Skipped",
    "Snapshot",
    "as_object",
]

RawObject: TypeAlias = Mapping[str, object]
"""A JSON object as it was recorded. Nothing about its values is known."""

NoteKind: TypeAlias = Literal["passed over", "not judged", "read"]
"""Other traffic; objects like runs that were not judged; how another spelling was read."""

_MAX_NOTES: Final = 100  # kinds of notes on one recording, which have text from the recording
_MAX_HELD: Final = 100


@attrs.frozen
class Location:
    """A place in a recording: `12`, `1[3]`, `interaction 3 line 7`, `entry 5.data[0]`."""

    line: int
    """The first line, counted from 1: of the file, or of the body of the part. 0 for a body that is one value."""
    item: str = ""
    """The path in the JSON of that line, if not its top: `[3]`, `.data[0]`."""
    part: str = ""
    """The kind of parts that the recording has, if not lines: `interaction`, `entry`."""
    number: int = 0
    """The number of the part, counted from 1 in the order of the file."""

    def __str__(self) -> str:
        if not self.part:
            return f"{self.line}{self.item}"
        line = f" line {self.line}" if self.line else ""
        return f"{self.part} {self.number}{line}{self.item}"

    def inside(self, item: str) -> Location:
        """Return the location of a member of the JSON at this location."""
        return Location(self.line, self.item + item, self.part, self.number)

    @property
    def order(self) -> tuple[int, int]:
        """The sort key of locations in one recording."""
        return self.number, self.line


@attrs.frozen
class Snapshot:
    """One recorded run object, not yet decoded, or the errors of what is in its place."""

    at: Location
    event: str | None
    """The name of the server-sent event with the run, such as `thread.run.queued`; None without one."""
    record: RawObject | None
    errors: tuple[FieldError, ...] = ()
    requested: RunEvent | None = None
    """The event that was requested, if this is the response that accepts it; else None."""
    is_placeholder: bool = False
    """Whether it is not a run, and is reported only because the recording has no run at all."""

    @property
    def place(self) -> str:
        """The location as text: `12`, `1[3]`, `interaction 3 line 7`."""
        return str(self.at)


@attrs.frozen
class Skipped:
    """Something in a recording that is not a snapshot of a run, and why."""

    at: Location
    text: str
    kind: NoteKind = "passed over"
    errors: tuple[FieldError, ...] = ()
    """Errors to report if the recording has no run at all."""


Candidate: TypeAlias = Snapshot | Skipped


@attrs.define
class Note:
    """A note on a recording: a count, and the location of the first occurrence."""

    kind: NoteKind
    text: str
    count: int
    first: Location


class Notes:
    """The notes on one recording, one for each kind and text."""

    def __init__(self) -> None:
        self._notes: dict[tuple[str, str], Note] = {}

    def __iter__(self) -> Iterator[Note]:
        return iter(self._notes.values())

    def __len__(self) -> int:
        return len(self._notes)

    def add(self, kind: NoteKind, text: str, at: Location, count: int = 1) -> None:
        """Count an occurrence at a location."""
        if (kind, text) not in self._notes and len(self._notes) >= _MAX_NOTES:
            text = "of other kinds"
        note = self._notes.setdefault((kind, text), Note(kind, text, 0, at))
        note.count += count
        if at.order < note.first.order:
            note.first = at

    def update(self, other: Iterable[Note]) -> None:
        """Add other notes."""
        for note in other:
            self.add(note.kind, note.text, note.first, note.count)

    def count(self, kind: NoteKind) -> int:
        """Return the count of a kind."""
        return sum(note.count for note in self if note.kind == kind)

    def first(self, kind: NoteKind) -> Location | None:
        """Return the location of the first occurrence of a kind; None if there is none."""
        return min((note.first for note in self if note.kind == kind), key=lambda place: place.order, default=None)


class Recording(Iterator[Snapshot]):
    """An iterator over the snapshots of a recording, with notes on everything else that was read so far."""

    def __init__(self, candidates: Iterable[Candidate]) -> None:
        self.notes: Notes = Notes()
        self._snapshots = self._iter_snapshots(candidates)

    def __next__(self) -> Snapshot:
        return next(self._snapshots)

    def _iter_snapshots(self, candidates: Iterable[Candidate]) -> Iterator[Snapshot]:
        """Yield the snapshots and add notes on the rest; without any run, yield the errors of the rest."""
        has_run = False
        held: list[Skipped] = []
        for candidate in candidates:
            if isinstance(candidate, Snapshot):
                if candidate.record is not None and not has_run:
                    has_run = True
                    self._add_notes(held)
                yield candidate
            elif candidate.errors and not has_run and len(held) < _MAX_HELD:
                held.append(candidate)
            else:
                self._add_notes([candidate])
        if not has_run:
            self._add_notes(held)
            for passed in held:
                yield Snapshot(passed.at, None, None, passed.errors, is_placeholder=True)

    def _add_notes(self, many: Iterable[Skipped]) -> None:
        for passed in many:
            self.notes.add(passed.kind, passed.text, passed.at)


def as_object(value: object) -> RawObject:
    """Return a value if it is an object, else an empty object."""
    return cast("RawObject", value) if isinstance(value, Mapping) else {}
