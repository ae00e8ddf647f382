"""What a recording is read into: snapshots with their places, and what was passed over, counted."""

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
    "object_of",
]

RawObject: TypeAlias = Mapping[str, object]

NoteKind: TypeAlias = Literal["passed over", "not judged", "read"]
"""Other traffic; what looks like a run and was not judged; how an unusual spelling was read."""

_MAX_NOTES: Final = 100  # kinds of notes on one recording; names in them come from strangers
_MAX_HELD: Final = 100


@attrs.frozen
class Location:
    """Where in a recording something stands: `12`, `1[3]`, `interaction 3 line 7`, `entry 5.data[0]`."""

    line: int
    """The line it begins on, counted from 1: of the file, or of the part's body. 0 for a body that is one value."""
    item: str = ""
    """Where in the JSON of that line, if not at its top: `[3]`, `.data[0]`."""
    part: str = ""
    """What the recording is made of, if not of lines: `interaction`, `entry`."""
    number: int = 0
    """Which of its parts, counted from 1 as they stand in the file."""

    def __str__(self) -> str:
        if not self.part:
            return f"{self.line}{self.item}"
        line = f" line {self.line}" if self.line else ""
        return f"{self.part} {self.number}{line}{self.item}"

    def inside(self, item: str) -> Location:
        """Return the place of something in the JSON that stands here."""
        return Location(self.line, self.item + item, self.part, self.number)

    @property
    def order(self) -> tuple[int, int]:
        """What sorts the places of one recording from its top to its bottom."""
        return self.number, self.line


@attrs.frozen
class Snapshot:
    """One recorded run object, not yet decoded, or the faults of what stands in its place."""

    at: Location
    event: str | None
    """The server-sent event it came with, `thread.run.queued`; None if it came without."""
    record: RawObject | None
    faults: tuple[FieldError, ...] = ()
    asked: RunEvent | None = None
    """The event that the request asked for, if this is its answer and tells; the server accepted it."""
    is_other: bool = False
    """Whether this is no run, and told only because the recording has none at all."""

    @property
    def place(self) -> str:
        """Where it stands: `12`, `1[3]`, `interaction 3 line 7`."""
        return str(self.at)


@attrs.frozen
class Skipped:
    """Something in a recording that is not a snapshot of a run, and why."""

    at: Location
    text: str
    kind: NoteKind = "passed over"
    faults: tuple[FieldError, ...] = ()
    """What is wrong with it, if it turns out that the recording has no run at all."""


Candidate: TypeAlias = Snapshot | Skipped


@attrs.define
class Note:
    """Something about a recording that is told by its count and the place where it was first seen."""

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
        """Count something at a place."""
        if (kind, text) not in self._notes and len(self._notes) >= _MAX_NOTES:
            text = "of other kinds"
        note = self._notes.setdefault((kind, text), Note(kind, text, 0, at))
        note.count += count
        if at.order < note.first.order:
            note.first = at

    def update(self, other: Iterable[Note]) -> None:
        """Count in other notes."""
        for note in other:
            self.add(note.kind, note.text, note.first, note.count)

    def count(self, kind: NoteKind) -> int:
        """Return how many things of a kind were counted."""
        return sum(note.count for note in self if note.kind == kind)

    def first(self, kind: NoteKind) -> Location | None:
        """Return the place of the first thing of a kind; None if there is none."""
        return min((note.first for note in self if note.kind == kind), key=lambda place: place.order, default=None)


class Recording(Iterator[Snapshot]):
    """The snapshots of a recording, in order, to be read once; and notes on everything else that was read so far."""

    def __init__(self, sightings: Iterable[Candidate]) -> None:
        self.notes: Notes = Notes()
        self._snapshots = self._sift(sightings)

    def __next__(self) -> Snapshot:
        return next(self._snapshots)

    def _sift(self, sightings: Iterable[Candidate]) -> Iterator[Snapshot]:
        """Yield the snapshots and note the rest; where there is no run at all, what is wrong with the rest is told."""
        has_run = False
        held: list[Skipped] = []
        for sighting in sightings:
            if isinstance(sighting, Snapshot):
                if sighting.record is not None and not has_run:
                    has_run = True
                    self._note(held)
                yield sighting
            elif sighting.faults and not has_run and len(held) < _MAX_HELD:
                held.append(sighting)
            else:
                self._note([sighting])
        if not has_run:
            self._note(held)
            for passed in held:
                yield Snapshot(passed.at, None, None, passed.faults, is_other=True)

    def _note(self, many: Iterable[Skipped]) -> None:
        for passed in many:
            self.notes.add(passed.kind, passed.text, passed.at)


def object_of(value: object) -> RawObject:
    """Return a value that is an object; an empty one for any other, which has none of the keys that are looked for."""
    return cast("RawObject", value) if isinstance(value, Mapping) else {}
