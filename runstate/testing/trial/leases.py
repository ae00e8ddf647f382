"""A worker that stood still past its lease and comes back: what it brings is refused, for another has its run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from runstate.lifecycle import Law, RunEvent, RunStatus
from runstate.testing.records import fields_of, what_changed
from runstate.testing.trial.challenges import Found
from runstate.testing.trial.judgement import Charge
from runstate.testing.trial.subject import Leasing, Subject

__all__ = ["try_leases"]

_REFUSED: Final = "to be refused, and nothing changed"


def try_leases(subject: Subject, law: Law) -> Found:
    """Let a worker claim a run, stand still while another takes it over, and then settle it by each outcome."""
    found = Found("lease")
    if not isinstance(subject, Leasing) or RunEvent.START not in law.events:
        return found
    begun = law.target_of(RunEvent.START)
    for event in law.allowed_events(begun):
        if event is RunEvent.REQUEST_CANCEL:  # a client's, not a worker's
            continue
        found.tried += 1
        found.charges += _late(subject, begun, event, f"{event} {found.tried}")
    return found


def _late(subject: Leasing, begun: RunStatus, event: RunEvent, name: str) -> Iterator[Charge]:
    """Yield what is wrong where worker A comes back late with an outcome, before B settles and after."""
    first, second = f"A {name}", f"B {name}"
    lines = [f'subject.claim("{first}", run := subject.create())', f'subject.lapse("{first}")']
    lines += [f'subject.claim("{second}", run)', f'subject.settle("{first}", run, "{event}")']
    run = subject.create()
    subject.claim(first, run)
    subject.lapse(first)
    subject.claim(second, run)
    refused = _refused(subject, run, lambda: subject.settle(first, run, event))
    if refused is not None:
        yield Charge("lease", begun, event, _REFUSED, refused, tuple(lines))
        return
    try:
        subject.settle(second, run, event)
    except Exception as error:  # whose run it is now
        told = f"the worker that took over was refused: {type(error).__name__}: {error}"
        yield Charge("lease", begun, event, "the run's new worker to settle it", told, tuple(lines))
        return
    refused = _refused(subject, run, lambda: subject.settle(first, run, event))
    if refused is not None:
        again = (f'subject.settle("{second}", run, "{event}")', lines[-1])
        yield Charge("lease", begun, event, _REFUSED, refused, (*lines, *again))


def _refused(subject: Leasing, run: Any, settle: Callable[[], object]) -> str | None:
    """Return what is wrong with how a late worker was answered; None if it was refused and nothing changed."""
    before = fields_of(subject.read(run))
    try:
        settle()
        answer = "accepted"
    except subject.refused:
        answer = ""
    except Exception as error:
        answer = f"it broke: {type(error).__name__}: {error}"
    changed = what_changed(before, fields_of(subject.read(run)))
    told = [*([answer] if answer else []), *changed]
    return "; ".join(told) or None
