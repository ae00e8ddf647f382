"""What happened in a world, a line a step, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from runstate.store._sqlite import settle_and_claim
from torture.simulation.scheduler import BEGIN_US

if TYPE_CHECKING:
    from torture.simulation.database import Session
    from torture.simulation.process import Process

__all__ = ["Trace"]


class Trace:
    """The lines of a world."""

    def __init__(self) -> None:
        self.lines: Final[list[str]] = []
        self._last: Final[dict[str, int]] = {}
        """Where the latest line of a process stands."""

    def step(self, number: int, process: Process, what: str) -> None:
        """Write of a call of the database."""
        strand = process.scheduler.strand
        who = "loop" if strand is None else strand.name.removeprefix("runstate-")
        self._write(process, f"{number:5}", f"{who}: {what}")

    def note(self, process: Process, what: str) -> None:
        """Write of something else."""
        self._write(process, "     ", what)

    def _write(self, process: Process, head: str, what: str) -> None:
        at = (process.scheduler.now - BEGIN_US) / 1_000_000
        self._last[process.name] = len(self.lines)
        self.lines.append(f"{head} {at:9.4f} {process.name:<4} {what}")

    def statement(self, session: Session, statement: str) -> None:
        """Add a statement to the step it belongs to."""
        self.tell(session.process, _named(session, statement), " ")

    def tell(self, process: Process, what: str, joint: str = " -> ") -> None:
        """Add how it was answered."""
        place = self._last.get(process.name)
        if place is not None:
            self.lines[place] += joint + what


_names: dict[str, str] = {}


def _named(session: Session, statement: str) -> str:
    """Return the name of a statement; what has none, by its beginning."""
    if statement not in _names:
        plain = {f"completing[{alike}]": settle_and_claim._completing(alike=alike) for alike in (True, False)}
        claims = {
            "claimable": settle_and_claim.claimable(),
            "claiming": settle_and_claim._CLAIMING,
        }
        for name, text in {**vars(session.statements), **plain, **claims}.items():
            texts = text.items() if isinstance(text, dict) else [("", text)]
            for key, each in texts:
                if isinstance(each, str):
                    _names.setdefault(each, f"{name}[{key}]" if key != "" else name)
        _names.setdefault(statement, " ".join(statement.split()[:6]) + "...")
    return _names[statement]
