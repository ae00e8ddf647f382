"""A worker that stood still past its lease and comes back: what it brings is refused, for another has its run."""

from __future__ import annotations

from typing import Any

from runstate.lifecycle import Lifecycle, RunEvent, RunStatus
from runstate.testing._diff import what_changed
from runstate.testing.conformance._expectations import REFUSED, briefly
from runstate.testing.conformance._report import Charge
from runstate.testing.conformance._requirements import Found
from runstate.testing.conformance._scenarios import look_at, told
from runstate.testing.conformance._subject import EventNotOffered, Leasing, Subject

__all__ = ["try_leases"]


def try_leases(subject: Subject, law: Lifecycle) -> Found:
    """Let a worker claim a run, stand still while another takes it over, and then settle it by each outcome."""
    found = Found("lease")
    if not isinstance(subject, Leasing) or RunEvent.START not in law.events:
        return found
    begun = law.target_of(RunEvent.START)
    for event in law.allowed_events(begun):
        if event is RunEvent.REQUEST_CANCEL:  # a client's, not a worker's
            continue
        late = _Late(subject, event, found.tried + 1)
        found.tried += 1
        wrong = late.fault(law.target_of(event))
        if wrong:
            lines = ("run = subject.create()", *late.lines, "subject.read(run)")
            found.charges.append(Charge("lease", begun, event, *wrong, lines))
    return found


class _Late:
    """Worker A, who comes back late with an outcome: before B, who has its run by then, settles it, and after."""

    def __init__(self, subject: Leasing, event: RunEvent, number: int) -> None:
        self._subject, self._event = subject, event
        self._first, self._second = f"A{number}", f"B{number}"
        self.lines: list[str] = []

    def fault(self, target: RunStatus) -> tuple[str, str] | None:
        """Return what was expected and what was found instead; None if it was as expected."""
        try:
            run = self._subject.create()
            self.lines.append(f'subject.claim("{self._first}", run)')
            self._subject.claim(self._first, run)
            self.lines.append(f'subject.lapse("{self._first}")')
            self._subject.lapse(self._first)
            self.lines.append(f'subject.claim("{self._second}", run)')
            self._subject.claim(self._second, run)
            return self._late(run) or self._new(run, target) or self._late(run)
        except EventNotOffered:
            return None
        except Exception as error:  # of calls that are not the ones to be judged
            return "workers to have a run one after the other", f"it broke: {told(error)}"

    def _late(self, run: Any) -> tuple[str, str] | None:
        answer, changed = self._settle(self._first, run)
        if answer == "refused" and not changed:
            return None
        was = "refused; and yet" if answer == "refused" else answer
        return REFUSED, f"the late worker was {was}{f': {briefly(changed)}' if changed else ''}"

    def _new(self, run: Any, target: RunStatus) -> tuple[str, str] | None:
        answer, _ = self._settle(self._second, run)
        stands = look_at(self._subject, run)["status"]
        if answer == "accepted" and stands == target:
            return None
        return f"the worker that took over to bring it to {target}", f"it was {answer}; the run is {stands}"

    def _settle(self, worker: str, run: Any) -> tuple[str, tuple[str, ...]]:
        """Return how a worker was answered, and what changed."""
        self.lines.append(f'subject.settle("{worker}", run, "{self._event}")')
        before = look_at(self._subject, run)
        answer = "accepted"
        try:
            self._subject.settle(worker, run, self._event)
        except EventNotOffered:
            raise
        except self._subject.refused as error:
            answer = "refused" if worker == self._first else f"refused: {told(error).partition(': ')[2]}"
        except Exception as error:
            answer = f"not refused, it broke: {told(error)}"
        return answer, what_changed(before, look_at(self._subject, run))
