"""Two actors at once: what both were told must be what some order of the two could have told them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Generator, Iterator
from contextlib import contextmanager
from itertools import combinations_with_replacement
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias

import attrs

from runstate.lifecycle import Lifecycle, RunEvent, RunStatus
from runstate.testing._diff import outcomes
from runstate.testing.conformance._report import Charge
from runstate.testing.conformance._requirements import Found, axes
from runstate.testing.conformance._scenarios import Answer, ask_once, look_at, told, way_to
from runstate.testing.conformance._subject import Loading, Subject
from runstate.testing.matrix import CellKey

__all__ = ["try_races"]

Cells: TypeAlias = Container[CellKey]
Answered: TypeAlias = tuple[Answer, str]
Together: TypeAlias = Callable[[Callable[[int], Answered]], tuple[Answered, Answered] | None]


def try_races(subject: Subject, law: Lifecycle, rounds: int, wait_s: float, wrong: Cells) -> Found:
    """Let two threads ask at the same moment, `rounds` times each pair of events that is legal where a run stands.

    A pair is left out if one of the two, alone or after the other, is known to be `wrong` already. Whoever is not
    answered within `wait_s` ends the races.
    """
    found = Found("race")
    with _racers(wait_s) as together:
        for status in axes(law)[0]:
            way = way_to(law, status)
            for first, second in _pairs(law, status, wrong) if way is not None else ():
                race = _Race(subject, law, way or (), status, (first, second), together)
                found.tried += race.run(rounds)
                if race.fault:
                    found.charges.append(race.charge())
                if race.is_over:
                    return found
    return found


def _pairs(law: Lifecycle, status: RunStatus, wrong: Cells) -> Iterator[tuple[RunEvent, RunEvent]]:
    """Yield the pairs of events of which the one that comes second is refused, in at least one order."""
    for first, second in combinations_with_replacement(law.allowed_events(status), 2):
        after = (law.target_of(first), second), (law.target_of(second), first)
        alone = (status, first), (status, second)
        if not all(law.find(*each) for each in after) and not any(each in wrong for each in (*alone, *after)):
            yield first, second


@attrs.define
class _Race:
    """Two events asked at once where a run stands, until something is wrong."""

    subject: Subject
    law: Lifecycle
    way: tuple[RunEvent, ...]
    status: RunStatus
    pair: tuple[RunEvent, RunEvent]
    together: Together
    fault: str = ""
    is_over: bool = False
    """Whether no other race makes sense."""

    def run(self, rounds: int) -> int:
        """Run up to so many rounds; return how many there were."""
        both_may = self._both_may()
        for done in range(rounds):
            ready = self._ready()
            if ready is None or not self._run(*ready, both_may):
                return done
            if self.fault:
                return done + 1
        return rounds

    def _run(self, run: Any, copies: list[Any], both_may: set[RunStatus]) -> bool:
        """Race once; tell whether it could be put to the test."""
        came = self.together(lambda place: ask_once(self.subject, copies[place], self.pair[place]))
        if came is None:
            self.is_over = True
            self.fault = "it is stuck: not both were answered"
            return True
        answers = [answer for answer, _ in came]
        if "not offered" in answers:
            return False
        broke = next((said for answer, said in came if answer == "broke"), None)
        if broke is not None:
            self.fault = f"it broke: {broke}"
            return True
        try:
            stands = RunStatus(look_at(self.subject, run)["status"])
        except Exception as error:
            self.fault = f"it broke: it cannot be read back: {told(error)}"
            return True
        yes = [event for event, answer in zip(self.pair, answers, strict=True) if answer == "moved"]
        # One of them alone may always come to be granted: who decided on what it saw before the other's move may be
        # told to look again.
        one = {self.law.target_of(way[-1]) for event in yes for way in outcomes(self.law, self.status, event)}
        if stands not in (both_may if len(yes) == 2 else one if yes else ()):
            said = (
                "both were accepted"
                if len(yes) == 2
                else f"{yes[0]} alone was accepted"
                if yes
                else "both were refused"
            )
            self.fault = f"{said}, and the run is {stands}"
        return True

    def _both_may(self) -> set[RunStatus]:
        """Return where a run may stand when both were granted, the one after the other."""
        found: set[RunStatus] = set()
        for first, second in (self.pair, self.pair[::-1]):
            for way in outcomes(self.law, self.status, first):
                came = self.law.target_of(way[-1])
                found |= {self.law.target_of(onward[-1]) for onward in outcomes(self.law, came, second)}
                if first is second and self._recognises(first):
                    found.add(came)
        return found

    def _recognises(self, event: RunEvent) -> bool:
        """Tell whether the same request asked again, when the first is through, is granted again."""
        ready = self._ready()
        return ready is not None and all(ask_once(self.subject, copy, event)[0] == "moved" for copy in ready[1])

    def _ready(self) -> tuple[Any, list[Any]] | None:
        """Return a run where the race begins, and the two handles; None if it does not come there."""
        subject = self.subject
        try:
            run = subject.create()
            if any(ask_once(subject, run, event)[0] != "moved" for event in self.way):
                return None
            if look_at(subject, run)["status"] != self.status:
                return None
            return run, [subject.load(run) if isinstance(subject, Loading) else run for _ in self.pair]
        except Exception as error:  # that this breaks is not a matter of two at once, and needs telling once
            self.fault, self.is_over = f"it broke: {told(error)}", True
            return None

    def charge(self) -> Charge:
        """Return the charge, with what to do to see it."""
        pair = ", ".join(f'"{event}"' for event in self.pair)
        copies = "[subject.load(run), subject.load(run)]" if isinstance(self.subject, Loading) else "[run, run]"
        lines = (
            "run = subject.create()",
            *(f'subject.ask(run, "{event}")' for event in self.way),
            f"pool, both = ThreadPoolExecutor(2), {copies}",
            f"answers = list(map(pool.submit, [subject.ask] * 2, both, [{pair}]))",
            "[answer.exception() for answer in answers]",
            "subject.read(run)",
        )
        first, second = self.pair
        expected = f"{first} and {second} to come one after the other"
        return Charge("race", self.status, second, expected, self.fault, lines, beside=first)


@contextmanager
def _racers(wait_s: float) -> Generator[Together, None, None]:
    """Yield what lets two threads call at once: it returns their answers, or None if one does not come back.

    The two live as long as the races, so that what a subject keeps for each thread (a connection) is kept.
    """
    barrier = threading.Barrier(2)
    inboxes: list[SimpleQueue[Callable[[int], Answered] | None]] = [SimpleQueue(), SimpleQueue()]
    answers: SimpleQueue[tuple[int, Answered]] = SimpleQueue()
    stuck: list[bool] = []

    def serve(place: int) -> None:
        while (asked := inboxes[place].get()) is not None:
            barrier.wait()
            answers.put((place, asked(place)))

    def together(asked: Callable[[int], Answered]) -> tuple[Answered, Answered] | None:
        for inbox in inboxes:
            inbox.put(asked)
        try:
            came = dict(answers.get(timeout=wait_s) for _ in inboxes)
        except Empty:
            stuck.append(True)
            return None
        return came[0], came[1]

    threads = [threading.Thread(target=serve, args=(place,), daemon=True) for place in (0, 1)]
    for thread in threads:
        thread.start()
    try:
        yield together
    finally:
        for inbox in inboxes:
            inbox.put(None)
        for thread in threads if not stuck else ():
            thread.join()
