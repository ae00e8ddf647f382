"""Other people's libraries on system: what is known to be wrong is found, and all the rest of what is asked holds.

Nothing here is a fault of this library. A release that mends something fails a test, which says so. docs/conformance.md
tells the same to users.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from contextlib import closing
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest

from runstate import RUN_LIFECYCLE, RunEvent, RunStatus
from runstate.testing.conformance import ConformanceReport, FunctionAdapter, check_conformance

pytestmark = pytest.mark.foreign

PAGE: Final = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text(encoding="utf-8")
Cell: TypeAlias = tuple[RunStatus, RunEvent]

COMPLETED, FAILED, CANCELLED = RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED
START, REQUIRE_ACTION, COMPLETE, FAIL = RunEvent.START, RunEvent.REQUIRE_ACTION, RunEvent.COMPLETE, RunEvent.FAIL
CONFIRM_CANCEL, REQUEST_CANCEL = RunEvent.CONFIRM_CANCEL, RunEvent.REQUEST_CANCEL
SUBMIT_TOOL_OUTPUTS = RunEvent.SUBMIT_TOOL_OUTPUTS
ENDS: Final = {COMPLETED: COMPLETE, FAILED: FAIL, CANCELLED: CONFIRM_CANCEL}


def left(ends: Collection[RunStatus], *, by: Collection[RunEvent]) -> set[Cell]:
    """Return the cells in which an end is left by another word than its own."""
    return {(status, event) for status, event in product(ends, by) if event is not ENDS[status]}


def adapters(name: str, library: str, since: str) -> Any:
    """Import the module that speaks to a library; skip where there is none, or one older than the first tried."""
    try:
        installed = version(library)
    except PackageNotFoundError:
        pytest.skip(f"{library} is not installed")
    if _numbers(installed) < _numbers(since):
        pytest.skip(f"{library} {installed} is older than {since}, the first that was tried")
    return import_module(f"tests.testing.libraries.{name}")


def _numbers(release: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", release)[:3]]


def judged(system: Any) -> ConformanceReport:
    """Check conformance without races: two threads would meet on one event loop, or in one process's memory."""
    with closing(system):
        return check_conformance(system, race_rounds=0, time_step_s=0, allow_repeats=True)


def assert_as_known(library: str, report: ConformanceReport, known: Collection[Cell], row: str = "") -> None:
    """Hold a judgement against what is known to be wrong: no less, and no more; and against its row on the page."""
    found = f"{library} {version(library)}"
    wrong = {(violation.status, violation.event) for violation in report.violations}
    mended = ", ".join(f"{event} in {status}" for status, event in known if (status, event) not in wrong)
    assert not mended, f"mended: take it out of the table. {found} has it right now: {mended}\n\n{report}"
    assert wrong <= {*known}, f"{found} has more wrong than the table says\n\n{report}"
    if f"| {found}, " in PAGE:  # it tells of one release
        counts = f"{report.count('holds')} | {report.count('wrong')}"
        assert re.search(rf"^\| {re.escape(row)}.*? \| {re.escape(counts)} \|", PAGE, re.MULTILINE), counts


def test_what_is_mended_and_what_is_new_are_told_apart() -> None:
    """A table that has too much names the release and what to take out; one that has too little shows the matrix."""
    refuses_nothing = FunctionAdapter(create=lambda: {"status": "queued"}, send=_move, read=dict, refused=())
    report = check_conformance(refuses_nothing, race_rounds=0)
    wrong = {cell for cell, verdict in report.cells.items() if verdict == "wrong"}
    assert_as_known("pytest", report, wrong)
    with pytest.raises(AssertionError, match=r"mended: take it out of the table\. pytest \d.* now: start in queued"):
        assert_as_known("pytest", report, {*wrong, (RunStatus.QUEUED, START)})
    with pytest.raises(AssertionError, match=r"pytest \d.* has more wrong than the table says\s+functions: "):
        assert_as_known("pytest", report, wrong - {(COMPLETED, START)})


def _move(run: dict[str, str], event: RunEvent) -> None:
    run["status"] = RUN_LIFECYCLE.target_of(event)


# --- a2a-sdk: "Once a task reaches a terminal state, it cannot restart" -----------------------------------------------

AGENTS_WORDS: Final = (START, REQUIRE_ACTION, COMPLETE, FAIL, CONFIRM_CANCEL)


def a2a() -> Any:
    return adapters("a2a", "a2a-sdk", "1.3")


def test_a2a_task_manager() -> None:
    """It stores what is said of an ended task (a2aproject/a2a-python#1182); on the usual way all is well."""
    report = judged(a2a().ToldTasks())
    assert_as_known("a2a-sdk", report, left(ENDS, by=AGENTS_WORDS), row="a2a-sdk 1.3.0, `TaskManager`")
    assert 6 + 3 == report.count("holds")


def test_a2a_served_with_an_agent_that_keeps_its_contract() -> None:
    """The server lets no client reopen or cancel an ended task, and all that can be asked holds."""
    report = judged(a2a().ServedTasks())
    assert_as_known("a2a-sdk", report, (), row="a2a-sdk 1.3.0, `DefaultRequestHandler`")
    assert 9 + 6 == report.count("holds")


def test_a2a_served_with_an_agent_that_speaks_on() -> None:
    """An agent that goes on after its last word reopens its own task; clients are refused all the same."""
    report = judged(a2a().ServedTasks(speaks_on=True))
    assert_as_known(
        "a2a-sdk", report, left((COMPLETED, FAILED), by=AGENTS_WORDS), row="the same, an agent that continues"
    )
    assert {"holds"} == {report.cells[end, event] for end in ENDS for event in (REQUEST_CANCEL, SUBMIT_TOOL_OUTPUTS)}


def test_a2a_a_cancel_that_meets_the_last_word() -> None:
    """A task that a subscriber saw completed is cancelled after that, if the two meet within a few ticks."""
    found = [a2a().cancelled_as_it_ended(ticks) for ticks in range(12)]
    assert ([COMPLETED], COMPLETED) == (found[-1][0][1:], found[-1][1])  # where the work's end was well before
    overwritten = [stored for seen, stored in found if COMPLETED in seen and stored is CANCELLED]
    assert overwritten, f"mended: take it out of the table. a2a-sdk {version('a2a-sdk')} keeps the end that was first"


# --- celery: READY_STATES ---------------------------------------------------------------------------------------------


def test_celery_keeps_a_success_and_no_other_end() -> None:
    """No later word changes SUCCESS, and a revoke changes no end. FAILURE and REVOKED give way, as Celery has it."""
    report = judged(adapters("celery_results", "celery", "5.7").Results())
    known = left((FAILED, CANCELLED), by=(START, COMPLETE, FAIL, CONFIRM_CANCEL))
    assert_as_known("celery", report, known, row="celery 5.7.0")
    assert {"holds"} == {report.cells[COMPLETED, event] for event in report.lifecycle.events}
    assert {"holds"} == {report.cells[end, REQUEST_CANCEL] for end in ENDS}


# --- openai-responses -------------------------------------------------------------------------------------------------

LIVE: Final = (RunStatus.QUEUED, RunStatus.IN_PROGRESS, RunStatus.REQUIRES_ACTION)
ENDED: Final = (COMPLETED, FAILED, RunStatus.INCOMPLETE, RunStatus.EXPIRED)


def test_openai_responses_takes_any_cancel_and_drops_any_outputs() -> None:
    """Its mock cancels ended runs, leaves cancelled_at null, and answers to outputs with 200 and nothing done."""
    report = judged(adapters("openai_mock", "openai-responses", "0.13.1").MockedRuns())
    cancels = product((*LIVE, *ENDED), (REQUEST_CANCEL,))
    outputs = product((*LIVE, *ENDED, CANCELLED), (SUBMIT_TOOL_OUTPUTS,))
    assert_as_known("openai-responses", report, {*cancels, *outputs}, row="openai-responses 0.13.1")
