"""Requests of a worker whose lease has lapsed: they are refused, because another worker has its run."""

from __future__ import annotations

from typing import Any

from runstate.lifecycle import Lifecycle, RunEvent, RunStatus
from runstate.testing._diff import diff_fields
from runstate.testing.conformance._expectations import REFUSED, summarize_changes
from runstate.testing.conformance._report import Violation
from runstate.testing.conformance._requirements import RequirementResult
from runstate.testing.conformance._scenarios import describe_error, read_run
from runstate.testing.conformance._system import EventNotOffered, SupportsLeases, SystemUnderTest

__all__ = ["check_leases"]


def check_leases(system: SystemUnderTest, lifecycle: Lifecycle) -> RequirementResult:
    """Let a worker settle a run after its lease has lapsed and another worker has taken the run over."""
    result = RequirementResult("lease")
    if not isinstance(system, SupportsLeases) or RunEvent.START not in lifecycle.events:
        return result
    started = lifecycle.target_of(RunEvent.START)
    for event in lifecycle.allowed_events(started):
        if event is RunEvent.REQUEST_CANCEL:  # a client's, not a worker's
            continue
        late_worker = _LateWorker(system, event, result.checked + 1)
        result.checked += 1
        difference = late_worker.difference(lifecycle.target_of(event))
        if difference:
            lines = ("run = system.create()", *late_worker.lines, "system.read(run)")
            result.violations.append(Violation("lease", started, event, *difference, lines))
    return result


class _LateWorker:
    """Worker A, which settles late. Worker B has taken the run over; A settles once before B settles and once after."""

    def __init__(self, system: SupportsLeases, event: RunEvent, number: int) -> None:
        self._system, self._event = system, event
        self._first, self._second = f"A{number}", f"B{number}"
        self.lines: list[str] = []

    def difference(self, target: RunStatus) -> tuple[str, str] | None:
        """Return what was expected and what was found instead; None if it was as expected."""
        try:
            run = self._system.create()
            self.lines.append(f'system.claim("{self._first}", run)')
            self._system.claim(self._first, run)
            self.lines.append(f'system.lapse("{self._first}")')
            self._system.lapse(self._first)
            self.lines.append(f'system.claim("{self._second}", run)')
            self._system.claim(self._second, run)
            return (
                self._settle_by_late_worker(run)
                or self._settle_by_new_worker(run, target)
                or self._settle_by_late_worker(run)
            )
        except EventNotOffered:
            return None
        except Exception as error:  # of the calls that prepare the check
            return "workers to have a run one after the other", f"it broke: {describe_error(error)}"

    def _settle_by_late_worker(self, run: Any) -> tuple[str, str] | None:
        answer, changed = self._settle(self._first, run)
        if answer == "refused" and not changed:
            return None
        was = "refused; and yet" if answer == "refused" else answer
        return REFUSED, f"the late worker was {was}{f': {summarize_changes(changed)}' if changed else ''}"

    def _settle_by_new_worker(self, run: Any, target: RunStatus) -> tuple[str, str] | None:
        answer, _ = self._settle(self._second, run)
        status = read_run(self._system, run)["status"]
        if answer == "accepted" and status == target:
            return None
        return f"the worker that took over to bring it to {target}", f"it was {answer}; the run is {status}"

    def _settle(self, worker: str, run: Any) -> tuple[str, tuple[str, ...]]:
        """Return the result of a worker's request, and the changes."""
        self.lines.append(f'system.settle("{worker}", run, "{self._event}")')
        before = read_run(self._system, run)
        answer = "accepted"
        try:
            self._system.settle(worker, run, self._event)
        except EventNotOffered:
            raise
        except self._system.refused as error:
            answer = "refused" if worker == self._first else f"refused: {describe_error(error).partition(': ')[2]}"
        except Exception as error:
            answer = f"not refused, it broke: {describe_error(error)}"
        return answer, diff_fields(before, read_run(self._system, run))
