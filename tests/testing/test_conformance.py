"""Correct implementations conform, in whatever style they are written."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, Final, cast

import attrs
import pytest
from transitions import MachineError

from runstate import ManualClock, Run
from runstate.integrations.transitions import run_machine
from runstate.lifecycle import RUN_LIFECYCLE, Basis, Lifecycle, RunEvent, RunStatus, Transition
from runstate.store import Store, open_store
from runstate.testing.conformance import (
    ConformanceReport,
    EventNotOffered,
    FunctionAdapter,
    InMemoryAdapter,
    ObjectAdapter,
    StoreAdapter,
    check_conformance,
)
from tests.support.lifecycle import PAIRS, STAMPED_BY, TERMINAL
from tests.testing import broken, broken_actors
from tests.testing.broken import Desk, No, Record

pytestmark = pytest.mark.slow  # a check of conformance of a whole implementation asks some thousand things

ALL: Final = {"cell": 81, "walk": 49, "repeat": 19, "race": 56}
"""What there is to try: cells, walks, requests asked twice, pairs of events."""


def assert_conforms(report: ConformanceReport, **tried: int) -> None:
    """Assert that each cell holds and nothing is charged, after so much was tried."""
    assert report.violations == (), str(report)
    assert report.conforms
    assert dict.fromkeys(PAIRS, "holds") == report.cells
    assert {**ALL, **tried} == report.checked


# --- our own ----------------------------------------------------------------------------------------------------------


def test_runs_in_memory() -> None:
    """A `Run` holds."""
    assert_conforms(check_conformance(InMemoryAdapter(), race_rounds=2), race=112)


def test_runs_in_a_store(any_store: Store, clock: ManualClock) -> None:
    """A store holds in every dialect: also against old copies, late workers, and two at once."""
    report = check_conformance(StoreAdapter(any_store, clock), race_rounds=1)
    # A cancel of a run that nobody works on goes through at once, so the walks through its cancelling are not there.
    assert_conforms(report, walk=37, stale=72, lease=5)


@pytest.mark.parametrize("dialect", ["memory", "postgres"])
def test_runs_in_a_store_that_reads_the_clock(dialect: str, request: pytest.FixtureRequest) -> None:
    """A store holds by the database's clock too, where leases lapse in earnest."""
    url = "sqlite:///:memory:" if dialect == "memory" else request.getfixturevalue("postgres_broom").url
    with open_store(url) as store:
        report = check_conformance(StoreAdapter(store), race_rounds=0, time_step_s=0)
    report.assert_conforms()
    assert {"cell": 81, "walk": 37, "repeat": 19, "stale": 72, "lease": 5} == report.checked


class Fenceless(StoreAdapter):
    """Whoever brings an outcome is believed."""

    def settle(self, worker: str, run: str, event: RunEvent) -> object:
        assert worker
        return self.send(run, event)


def test_a_store_without_fences(any_store: Store, clock: ManualClock) -> None:
    """The challenge of late workers is one: whose outcomes are not held against their lease is charged."""
    report = check_conformance(Fenceless(any_store, clock), race_rounds=0)
    assert ["lease"] * 5 == [violation.requirement for violation in report.violations]
    assert all(
        violation.found.startswith("the late worker was accepted: status went") for violation in report.violations
    )


class Answer:
    """A model of `transitions`, which knows nothing of runs."""


def twin(lifecycle: Lifecycle, clock: ManualClock) -> ObjectAdapter:
    """Return models of `transitions` that obey a law."""

    def create() -> Answer:
        answer = Answer()
        run_machine(answer, lifecycle=lifecycle)
        return answer

    return ObjectAdapter(create, refused=MachineError, advance=clock.advance, lifecycle=lifecycle, name="twin")


def test_the_twin(clock: ManualClock) -> None:
    """A `transitions.Machine` of the same law holds; it is not made for two threads."""
    report = check_conformance(twin(RUN_LIFECYCLE, clock), race_rounds=0)
    report.assert_conforms()
    assert {"cell": 81, "walk": 49, "repeat": 19} == report.checked


def test_the_documented_twin(clock: ManualClock) -> None:
    """One of the documented law holds against that, and does not hold against the whole."""
    report = check_conformance(twin(RUN_LIFECYCLE.filter(Basis.DOCUMENTED), clock), race_rounds=0)
    report.assert_conforms()
    assert 81 == report.count("holds")
    documented = twin(RUN_LIFECYCLE.filter(Basis.DOCUMENTED), clock)
    documented.lifecycle = RUN_LIFECYCLE
    assert 8 == len(check_conformance(documented, race_rounds=0).violations)


# --- other people's ---------------------------------------------------------------------------------------------------


def test_functions() -> None:
    """Three functions over a dict hold."""
    assert_conforms(check_conformance(Desk().system(), race_rounds=1))


def test_functions_with_handles() -> None:
    """A handle that is only a name cannot go stale, whenever it was read."""
    desk = Desk()
    named = FunctionAdapter(desk.create, desk.send, desk.read, refused=No, load=str, advance=desk.advance)
    assert_conforms(check_conformance(named, race_rounds=1), stale=76)


def test_functions_without_a_clock() -> None:
    """Where time is not to be moved, and not waited for, what can be seen without holds."""
    desk = Desk()
    assert_conforms(
        check_conformance(FunctionAdapter(desk.create, desk.send, desk.read, refused=No), race_rounds=1, time_step_s=0)
    )


def test_time_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs with stamps and no `advance` are given a second between two moves; those without stamps are not."""
    desk = Desk()
    waited: list[float] = []

    def pause(seconds: float) -> None:
        waited.append(seconds)
        desk.advance(2)

    monkeypatch.setattr("runstate.testing.conformance.sleep", pause)
    once = check_conformance(
        FunctionAdapter(desk.create, broken.StartsOnce.send.__get__(desk), desk.read, refused=No), race_rounds=0
    )
    assert once.conforms
    assert {1.05} == set(waited)
    assert 20 > len(waited)
    waited.clear()

    def status(run: str) -> Record:
        return {"status": desk.read(run)["status"]}

    assert check_conformance(FunctionAdapter(desk.create, desk.send, status, refused=No), race_rounds=0).conforms
    assert [] == waited
    slow = broken.StartsOnce()
    monkeypatch.setattr("runstate.testing.conformance.sleep", lambda _: slow.advance(2))
    (violation,) = check_conformance(
        FunctionAdapter(slow.create, slow.send, slow.read, refused=No), race_rounds=0
    ).violations
    assert "time.sleep(1.05)" in violation.reproduction


def test_repeats_may_be_recognised() -> None:
    """The same request asked again may be answered alike, if that is said and nothing changes; else it is refused."""
    assert_conforms(check_conformance(broken.Recognises().system(), race_rounds=1, allow_repeats=True))
    report = check_conformance(broken.Recognises().system(), race_rounds=1)
    wrong = {cell for cell, verdict in report.cells.items() if verdict == "wrong"}
    assert wrong
    assert {event for _, event in wrong} == {violation.event for violation in report.violations}


def test_copies() -> None:
    """Objects whose old copies are not saved hold."""
    assert_conforms(check_conformance(broken_actors.Cards().cards(), race_rounds=1), stale=76)


def test_leases() -> None:
    """Workers who hold leases hold."""
    assert_conforms(check_conformance(broken_actors.Leases(), race_rounds=1), lease=5)


class Status(enum.Enum):
    """The statuses as somebody else writes them."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    REQUIRES_ACTION = "requires_action"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


def timed(record: Record, told: Callable[[int], object]) -> Record:
    return {name: told(value) if name.endswith("_at") and value else value for name, value in record.items()}


def day(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


@attrs.frozen
class Row:
    status: RunStatus
    created_at: datetime
    expires_at: datetime | None
    started_at: datetime | None


STYLES: Final[Mapping[str, Callable[[Record], Any]]] = {
    "enum": lambda record: {**record, "status": Status(record["status"])},
    "member": lambda record: {**record, "status": RunStatus(record["status"])},
    "datetime": lambda record: timed(record, day),
    "iso": lambda record: timed(record, lambda seconds: day(seconds).isoformat()),
    "milliseconds": lambda record: timed(record, lambda seconds: seconds * 1000),
    "float": lambda record: timed(record, lambda seconds: seconds + 0.25),
    "camel": lambda record: {camel(name): value for name, value in record.items()},
    "few": lambda record: {name: record[name] for name in ("status", "started_at")},
    "status": lambda record: {"status": record["status"]},
    "object": lambda record: SimpleNamespace(**record),
    "row": lambda record: Row(*(timed(record, day)[field.name] for field in attrs.fields(Row))),
    "ours": lambda record: Run.from_dict(
        {
            "object": "thread.run",
            "thread_id": "thread_1",
            "assistant_id": "asst_1",
            "model": "gpt-4o",
            **record,
        }
    ),
    "more": lambda record: {**record, "save": print, "children": [], 7: "seven"},
}


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.title() for word in rest)


@pytest.mark.parametrize("style", STYLES)
def test_styles(style: str) -> None:
    """However statuses, times and keys are written: what is correct holds."""
    desk = Desk()
    shown = STYLES[style]

    def read(run: str) -> Any:
        return shown(desk.read(run))

    assert_conforms(
        check_conformance(
            FunctionAdapter(desk.create, desk.send, read, refused=No, advance=desk.advance), race_rounds=1
        )
    )


@pytest.mark.parametrize("style", [style for style in STYLES if style not in ("few", "status", "row")])
def test_styles_are_judged(style: str) -> None:
    """And what is not correct is found in each of them."""
    desk = broken.KeepsTheDeadline()
    shown = STYLES[style]

    def read(run: str) -> Any:
        return shown(desk.read(run))

    report = check_conformance(
        FunctionAdapter(desk.create, desk.send, read, refused=No, advance=desk.advance), race_rounds=0
    )
    assert 13 == len(report.violations)
    assert "expires_at is #" in report.violations[0].kind[2]


def test_what_is_awaited_is_not_asked() -> None:
    """An adapter of coroutines that nobody runs is told so; it is not taken for one that accepts everything."""
    desk = Desk()

    async def send(run: str, event: RunEvent) -> None:
        desk.send(run, event)

    report = check_conformance(
        FunctionAdapter(desk.create, send, desk.read, refused=No, advance=desk.advance), race_rounds=1
    )
    assert not report.conforms
    assert (
        "it broke: TypeError: it returned a coroutine: let the adapter await it, by asyncio.run"
        == report.violations[0].found
    )


def test_a_trial_leaves_what_it_read_alone() -> None:
    """What a subject shows is not kept by reference: it may be what the subject itself changes."""
    desk = Desk()
    shown = FunctionAdapter(desk.create, desk.send, lambda run: desk.kept[run], refused=No, advance=desk.advance)
    assert_conforms(check_conformance(shown, race_rounds=1))


# --- less than everything ---------------------------------------------------------------------------------------------


def test_what_is_not_offered() -> None:
    """An event that cannot be asked is neither right nor wrong, and other ways lead past it where there are any."""
    desk = Desk()

    def send(run: str, event: RunEvent) -> None:
        if event in ("start", "confirm_cancel"):
            raise EventNotOffered
        desk.send(run, event)

    report = check_conformance(
        FunctionAdapter(desk.create, send, desk.read, refused=No, advance=desk.advance), race_rounds=1
    )
    assert report.conforms
    reached = {"queued", "cancelling", "completed", "incomplete", "failed", "expired"}
    assert reached == {status for (status, _), verdict in report.cells.items() if verdict == "holds"}
    assert (6 * 7, 6 * 2, 3 * 9) == tuple(report.count(word) for word in ("holds", "not offered", "not reached"))
    assert "functions: 42 of 81 cells hold, 12 are not offered, 27 are not reached" == report.summary


def test_a_method_that_is_not_there_is_not_offered() -> None:
    """An object is asked what it has methods for."""

    class Order:
        status = "queued"

        def start(self) -> None:
            if self.status != "queued":
                raise No
            self.status = "in_progress"

    report = check_conformance(ObjectAdapter(Order, refused=No), race_rounds=0)
    assert "Order: 2 of 81 cells hold, 16 are not offered, 63 are not reached" == report.summary
    assert report.conforms


def test_who_offers_nothing_does_not_hold() -> None:
    """Where nothing could be asked, nothing was found wrong, and nothing holds."""

    class Mute:
        status = "queued"

    report = check_conformance(ObjectAdapter(Mute, refused=()))
    assert not report.conforms
    assert () == report.violations
    assert "Mute: 0 of 81 cells hold, 9 are not offered, 72 are not reached" == report.summary


CANCELLED: Final = Transition(
    *(RunEvent.REQUEST_CANCEL, RunStatus.QUEUED, RunStatus.CANCELLED, "cancelled_at", Basis.ALLOWED)
)
ROWS: Final = (
    *(row for row in RUN_LIFECYCLE.transitions if {row.source, row.target} <= {"queued", "in_progress", "completed"}),
    CANCELLED,
    CANCELLED._replace(source=RunStatus.IN_PROGRESS),
)


TARGETS: Final = {
    ("queued", "start"): "in_progress",
    ("in_progress", "complete"): "completed",
    ("queued", "request_cancel"): "cancelled",
    ("in_progress", "request_cancel"): "cancelled",
}


class Direct(Desk):
    """Four statuses: a cancel goes straight to cancelled, and nothing expires."""

    def check(self, record: Record, event: str) -> None:
        if (record["status"], event) not in TARGETS:
            raise No

    def write(self, record: Record, event: str) -> None:
        record["status"] = TARGETS[record["status"], event]
        record[STAMPED_BY[record["status"]]] = self.now
        if record["status"] in TERMINAL:
            record.update(expires_at=None, usage={"total_tokens": 0})


def test_a_law_of_ones_own() -> None:
    """A law of fewer statuses has fewer cells, and is held against like the whole one."""
    desk = Direct()
    report = check_conformance(
        FunctionAdapter(desk.create, desk.send, desk.read, refused=No, advance=desk.advance, lifecycle=Lifecycle(ROWS)),
        race_rounds=2,
    )
    report.assert_conforms()
    assert {"cell": 12, "walk": 2, "repeat": 4, "race": 12} == report.checked
    assert DIRECT == str(report)
    assert not check_conformance(desk.system(), race_rounds=0).conforms


DIRECT: Final = """\
functions: 12 of 12 cells hold

                queued  in_progress  completed  cancelled
start             +          +           +          +
request_cancel    +          +           +          +
complete          +          +           +          +
+ holds"""


def test_what_is_no_adapter() -> None:
    """A mistake in an adapter is reported before any check, and is no violation of the runs."""
    with pytest.raises(TypeError, match="expected an adapter with create, send, read and refused; a function is none"):
        check_conformance(cast("Any", assert_conforms))
    with pytest.raises(TypeError, match="the class InMemoryAdapter is none"):
        check_conformance(cast("Any", InMemoryAdapter))
    with pytest.raises(TypeError, match="refused: expected a class of errors, or a tuple of them, got 'KeyError'"):
        ObjectAdapter(object, refused=cast("Any", "KeyError"))
    with pytest.raises(TypeError, match="create: expected a class, or what makes an object, got an object"):
        ObjectAdapter(cast("Any", object()), refused=KeyError)
    with pytest.raises(ValueError, match="unknown event 'requst_cancel'"):
        ObjectAdapter(object, refused=KeyError, methods={"requst_cancel": "cancel"})


def test_a_method_that_was_named_must_be_there() -> None:
    """A mistyped name of a method is a fault that is told, and not a method that is not offered."""

    class Mine:
        status = "queued"

    (violation,) = {
        violation.found
        for violation in check_conformance(ObjectAdapter(Mine, refused=No, methods={"fail": "break_"})).violations
    }
    assert "it broke: TypeError: Mine has no method break_()" == violation


def test_a_judgement_asserts_itself() -> None:
    """`assert_conforms` passes, or fails with all that is printed."""
    check_conformance(InMemoryAdapter(), race_rounds=0).assert_conforms()
    report = check_conformance(broken.AcceptsAll().system(), race_rounds=0)
    with pytest.raises(AssertionError) as raised:
        report.assert_conforms()
    assert str(report) == str(raised.value)
