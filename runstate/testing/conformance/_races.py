"""Two actors at once: both results must be possible in some order of the two requests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Generator, Iterator
from contextlib import contextmanager
from itertools import combinations_with_replacement
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias

import attrs

from runstate.lifecycle import Lifecycle, RunEvent, RunStatus
from runstate.testing._diff import possible_paths
from runstate.testing.conformance._report import Violation
from runstate.testing.conformance._requirements import RequirementResult, statuses_and_events
from runstate.testing.conformance._scenarios import Answer, describe_error, path_to, read_run, send
from runstate.testing.conformance._system import SupportsLoad, SystemUnderTest
from runstate.testing.matrix import CellKey

__all__ = ["check_races"]

CellKeys: TypeAlias = Container[CellKey]
AnswerAndText: TypeAlias = tuple[Answer, str]
RunBoth: TypeAlias = Callable[[Callable[[int], AnswerAndText]], tuple[AnswerAndText, AnswerAndText] | None]


def check_races(
    system: SystemUnderTest, lifecycle: Lifecycle, rounds: int, timeout_s: float, wrong_cells: CellKeys
) -> RequirementResult:
    """Send two events at the same moment by two threads, `rounds` times for each pair that is legal in a status.

    A pair is left out if one of its events, alone or after the other, is among `wrong_cells`. A request that takes
    longer than `timeout_s` seconds ends the races.
    """
    result = RequirementResult("race")
    with _two_threads(timeout_s) as run_both:
        for status in statuses_and_events(lifecycle)[0]:
            path = path_to(lifecycle, status)
            for first, second in _pairs(lifecycle, status, wrong_cells) if path is not None else ():
                race = _Race(system, lifecycle, path or (), status, (first, second), run_both)
                result.checked += race.run(rounds)
                if race.found:
                    result.violations.append(race.violation())
                if race.ends_races:
                    return result
    return result


def _pairs(lifecycle: Lifecycle, status: RunStatus, wrong_cells: CellKeys) -> Iterator[tuple[RunEvent, RunEvent]]:
    """Yield the pairs of events of which, in at least one order, the second must be refused."""
    for first, second in combinations_with_replacement(lifecycle.allowed_events(status), 2):
        after = (lifecycle.target_of(first), second), (lifecycle.target_of(second), first)
        alone = (status, first), (status, second)
        if not all(lifecycle.find(*each) for each in after) and not any(
            each in wrong_cells for each in (*alone, *after)
        ):
            yield first, second


@attrs.define
class _Race:
    """Two events sent at once to runs in one status, until a violation is found."""

    system: SystemUnderTest
    lifecycle: Lifecycle
    path: tuple[RunEvent, ...]
    status: RunStatus
    pair: tuple[RunEvent, RunEvent]
    run_both: RunBoth
    found: str = ""
    ends_races: bool = False
    """Whether there should be no more races."""

    def run(self, rounds: int) -> int:
        """Run up to `rounds` rounds; return how many were run."""
        after_both = self._statuses_after_both()
        for done in range(rounds):
            ready = self._set_up()
            if ready is None or not self._run_once(*ready, after_both):
                return done
            if self.found:
                return done + 1
        return rounds

    def _run_once(self, run: Any, copies: list[Any], after_both: set[RunStatus]) -> bool:
        """Race once; return whether the system offers both events."""
        answered = self.run_both(lambda place: send(self.system, copies[place], self.pair[place]))
        if answered is None:
            self.ends_races = True
            self.found = "it is stuck: not both were answered"
            return True
        answers = [answer for answer, _ in answered]
        if "not offered" in answers:
            return False
        failure = next((text for answer, text in answered if answer == "broke"), None)
        if failure is not None:
            self.found = f"it broke: {failure}"
            return True
        try:
            status = RunStatus(read_run(self.system, run)["status"])
        except Exception as error:
            self.found = f"it broke: it cannot be read back: {describe_error(error)}"
            return True
        accepted = [event for event, answer in zip(self.pair, answers, strict=True) if answer == "moved"]
        # It is always allowed that only one is accepted: the copy of the other one may have become stale.
        after_one = {
            self.lifecycle.target_of(path[-1])
            for event in accepted
            for path in possible_paths(self.lifecycle, self.status, event)
        }
        if status not in (after_both if len(accepted) == 2 else after_one if accepted else ()):
            what = (
                "both were accepted"
                if len(accepted) == 2
                else f"{accepted[0]} alone was accepted"
                if accepted
                else "both were refused"
            )
            self.found = f"{what}, and the run is {status}"
        return True

    def _statuses_after_both(self) -> set[RunStatus]:
        """Return the statuses that a run may have after both were accepted, one after the other."""
        found: set[RunStatus] = set()
        for first, second in (self.pair, self.pair[::-1]):
            for path in possible_paths(self.lifecycle, self.status, first):
                target = self.lifecycle.target_of(path[-1])
                found |= {self.lifecycle.target_of(path[-1]) for path in possible_paths(self.lifecycle, target, second)}
                if first is second and self._allows_repeat(first):
                    found.add(target)
        return found

    def _allows_repeat(self, event: RunEvent) -> bool:
        """Return whether the system accepts an event again after it has accepted it."""
        ready = self._set_up()
        return ready is not None and all(send(self.system, copy, event)[0] == "moved" for copy in ready[1])

    def _set_up(self) -> tuple[Any, list[Any]] | None:
        """Return a run in the status of the race, and two handles; None if it cannot be brought there."""
        system = self.system
        try:
            run = system.create()
            if any(send(system, run, event)[0] != "moved" for event in self.path):
                return None
            if read_run(system, run)["status"] != self.status:
                return None
            return run, [system.load(run) if isinstance(system, SupportsLoad) else run for _ in self.pair]
        except Exception as error:  # this does not depend on two threads, so one violation is enough
            self.found, self.ends_races = f"it broke: {describe_error(error)}", True
            return None

    def violation(self) -> Violation:
        """Return the violation, with the calls that reproduce it."""
        pair = ", ".join(f'"{event}"' for event in self.pair)
        copies = "[system.load(run), system.load(run)]" if isinstance(self.system, SupportsLoad) else "[run, run]"
        lines = (
            "run = system.create()",
            *(f'system.send(run, "{event}")' for event in self.path),
            f"pool, both = ThreadPoolExecutor(2), {copies}",
            f"answers = list(map(pool.submit, [system.send] * 2, both, [{pair}]))",
            "[answer.exception() for answer in answers]",
            "system.read(run)",
        )
        first, second = self.pair
        expected = f"{first} and {second} to come one after the other"
        return Violation("race", self.status, second, expected, self.found, lines, other_event=first)


@contextmanager
def _two_threads(timeout_s: float) -> Generator[RunBoth, None, None]:
    """Yield a function that calls in two threads at once and returns both results, or None after `timeout_s`.

    The threads live as long as the races, so that a system keeps what it has for each thread, such as a connection.
    """
    barrier = threading.Barrier(2)
    inboxes: list[SimpleQueue[Callable[[int], AnswerAndText] | None]] = [SimpleQueue(), SimpleQueue()]
    answers: SimpleQueue[tuple[int, AnswerAndText]] = SimpleQueue()
    stuck: list[bool] = []

    def serve(place: int) -> None:
        while (task := inboxes[place].get()) is not None:
            barrier.wait()
            answers.put((place, task(place)))

    def run_both(call: Callable[[int], AnswerAndText]) -> tuple[AnswerAndText, AnswerAndText] | None:
        for inbox in inboxes:
            inbox.put(call)
        try:
            results = dict(answers.get(timeout=timeout_s) for _ in inboxes)
        except Empty:
            stuck.append(True)
            return None
        return results[0], results[1]

    threads = [threading.Thread(target=serve, args=(place,), daemon=True) for place in (0, 1)]
    for thread in threads:
        thread.start()
    try:
        yield run_both
    finally:
        for inbox in inboxes:
            inbox.put(None)
        for thread in threads if not stuck else ():
            thread.join()
