"""The conformance kit finds what was broken on purpose: where, in which words, and by calls that show it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import pytest

from runstate.lifecycle import RunEvent
from runstate.testing.conformance import EventNotOffered, EventRefused, FunctionAdapter, Violation, check_conformance
from tests.support.lifecycle import NOW, PAIRS, TABLE, TERMINAL
from tests.testing import broken, broken_actors
from tests.testing.broken import Desk, No
from tests.testing.replay import Shown, replay

pytestmark = pytest.mark.slow  # a check of conformance of a whole implementation asks some thousand things

CALLS_TOLD: Final = (
    "required_action is {'type': 'submit_tool_outputs', 'submit_tool_outputs': {'too, and in queued it is null"
)
UNKNOWN: Final = (
    "unknown status 'timed_out'; the nine are queued, in_progress, requires_action, cancelling, completed, incomplete, "
    "failed, cancelled, expired"
)


def is_refused(shown: Shown) -> bool:
    return isinstance(shown.last, No)


def is_accepted(shown: Shown) -> bool:
    return shown.last is None


class Seeded(NamedTuple):
    """What was broken, the first charge that must come of it, and how many there are in all."""

    kind: type[Desk]
    challenge: str
    event: str | None
    status: str
    expected: str
    found: str
    shows: Callable[[Shown], bool]
    violations: int = 1


REFUSED: Final = "to be refused, and nothing changed"
SEEDED: Final = (
    Seeded(
        *(broken.OverwritesTheEnd, "cell", "complete", "cancelled", REFUSED),
        "accepted: it is completed (with completed_at)",
        lambda shown: is_accepted(shown) and shown.after["status"] == "completed",
    ),
    Seeded(
        *(broken.SkipsTheQueue, "cell", "complete", "queued", REFUSED),
        "accepted: it is completed (with completed_at, expires_at, usage)",
        lambda shown: is_accepted(shown) and shown.after["status"] == "completed",
    ),
    Seeded(
        *(broken.CannotFailWaiting, "cell", "fail", "requires_action", "to come to failed"),
        "refused: it waits for its tools",
        lambda shown: is_refused(shown) and shown.changed == set(),
    ),
    Seeded(
        *(broken.WritesBeforeItChecks, "cell", "complete", "queued", REFUSED),
        "refused; and yet status went from queued to completed (with completed_at, expires_at, usage)",
        lambda shown: is_refused(shown) and shown.after["status"] == "completed",
    ),
    Seeded(
        *(broken.ForgetsToWrite, "cell", "expire", "queued", "to come to expired"),
        "accepted: it is queued",
        lambda shown: is_accepted(shown) and shown.changed == set(),
    ),
    Seeded(
        *(broken.GoesOnAtOnce, "cell", "submit_tool_outputs", "requires_action", "to come to queued"),
        "accepted: it is in_progress (with required_action)",
        lambda shown: is_accepted(shown) and shown.after["status"] == "in_progress",
    ),
    Seeded(
        *(broken.DropsAStamp, "cell", "confirm_cancel", "cancelling", "to come to cancelled"),
        "cancelled_at is null, and this move stamps it",
        lambda shown: (shown.after["status"], shown.after["cancelled_at"]) == ("cancelled", None),
    ),
    Seeded(
        *(broken.StampsTooSoon, "cell", "request_cancel", "queued", "to come to cancelling"),
        "cancelled_at went from null to #, and this move does not write it",
        lambda shown: shown.after["status"] == "cancelling" and shown.after["cancelled_at"] is not None,
        violations=3,
    ),
    Seeded(
        *(broken.StampsAnotherToo, "cell", "mark_incomplete", "in_progress", "to come to incomplete"),
        "started_at went from # to #, and this move does not write it",
        lambda shown: "started_at" in shown.changed,
        violations=3,  # there, while cancelling, and there when it was never started
    ),
    Seeded(
        *(broken.StampsARefusal, "cell", "expire", "failed", REFUSED),
        "refused; and yet completed_at went from null to #",
        lambda shown: is_refused(shown) and shown.changed == {"completed_at"},
    ),
    Seeded(
        *(broken.StampsInThePast, "cell", "confirm_cancel", "cancelling", "to come to cancelled"),
        "cancelled_at is #, and started_at was # by then",
        lambda shown: shown.after["cancelled_at"] == shown.after["created_at"],
    ),
    Seeded(
        *(broken.StartsOnce, "walk", "start", "queued", "to come to in_progress"),
        "started_at is still #, and this move stamps it anew",
        lambda shown: shown.before["started_at"] is not None and "started_at" not in shown.changed,
    ),
    Seeded(
        *(broken.KeepsTheDeadline, "cell", "fail", "queued", "to come to failed"),
        "expires_at is #, and in failed it is null",
        lambda shown: (shown.after["status"], shown.after["expires_at"]) == ("failed", NOW + 600),
        violations=13,
    ),
    Seeded(
        *(broken.ExtendsTheDeadline, "cell", "require_action", "in_progress", "to come to requires_action"),
        "expires_at went from # to #, and a deadline is never moved",
        lambda shown: "expires_at" in shown.changed,
    ),
    Seeded(
        *(broken.ForgetsUsage, "cell", "fail", "queued", "to come to failed"),
        "usage is null, and in failed it has a value",
        lambda shown: (shown.after["status"], shown.after["usage"]) == ("failed", None),
        violations=13,
    ),
    Seeded(
        *(broken.KeepsTheCalls, "cell", "submit_tool_outputs", "requires_action", "to come to queued"),
        CALLS_TOLD,
        lambda shown: shown.after["status"] == "queued" and shown.after["required_action"] is not None,
    ),
    Seeded(
        *(broken.ForgetsWhen, "cell", "start", "queued", "to come to in_progress"),
        "created_at went from # to #, and it never changes",
        lambda shown: "created_at" in shown.changed,
    ),
    Seeded(
        *(broken.OpenEnded, "creation", None, "queued", "to be created queued"),
        "expires_at is null, and in queued it has a value",
        lambda shown: (shown.after["status"], shown.after["expires_at"]) == ("queued", None),
    ),
    Seeded(
        *(broken.BornAtWork, "creation", None, "queued", "to be created queued"),
        "it is created in_progress, not queued; started_at is # at creation",
        lambda shown: shown.after["status"] == "in_progress",
    ),
    Seeded(
        *(broken.StampsAgain, "repeat", "fail", "failed", REFUSED),
        "failed_at went from # to #",
        lambda shown: is_accepted(shown) and shown.changed == {"failed_at"},
    ),
    Seeded(
        *(broken.CannotCreate, "creation", None, "queued", "to be created queued"),
        "no run was made: ConnectionError: no database answers",
        lambda shown: isinstance(shown.last, ConnectionError),
    ),
    Seeded(
        *(broken.NeverReads, "creation", None, "queued", "to be created queued"),
        "no run was made: ConnectionError: no database answers",
        lambda shown: shown.after == {},
    ),
    Seeded(
        *(broken.CannotRead, "cell", "confirm_cancel", "cancelling", "to come to cancelled"),
        "it broke: it cannot be read back: KeyError: 'cancelled_by'",
        lambda shown: shown.before["status"] == "cancelling" and shown.after == {},
    ),
    Seeded(
        *(broken.HasATenthStatus, "cell", "expire", "queued", "to come to expired"),
        f"it broke: it cannot be read back: ValueError: {UNKNOWN}",
        lambda shown: shown.after["status"] == "timed_out",
        violations=4,
    ),
    Seeded(
        *(broken.StumblesOverRefusals, "cell", "start", "completed", REFUSED),
        "it broke: TypeError: 'NoneType' object is not callable",
        lambda shown: isinstance(shown.last, TypeError) and shown.changed == set(),
        violations=62,
    ),
    Seeded(
        *(broken.HasNoWords, "cell", "expire", "completed", REFUSED),
        "it broke: Speechless",
        lambda shown: isinstance(shown.last, broken.Speechless),
        violations=8,  # eight statuses; the ninth is never reached
    ),
    Seeded(
        *(broken.RefusesAll, "cell", "start", "queued", "to come to in_progress"),
        "refused: never",
        lambda shown: is_refused(shown) and shown.changed == set(),
        violations=4,
    ),
    Seeded(
        *(broken.AcceptsAll, "cell", "start", "completed", REFUSED),
        "accepted: it is in_progress (with started_at, usage)",
        lambda shown: is_accepted(shown) and shown.after["status"] == "in_progress",
        violations=62,
    ),
)


def told(violation: Violation) -> tuple[str, str | None, str]:
    return violation.requirement, violation.event and violation.event.value, violation.status.value


@pytest.mark.parametrize("seeded", SEEDED, ids=lambda seeded: seeded.kind.__name__)
def test_what_is_broken_is_found(seeded: Seeded) -> None:
    """Each fault is charged where it is, told in one sentence, and shown by its reproduction on a fresh subject.

    So are all others that come of it: none is made up.
    """
    recognises = issubclass(seeded.kind, broken.Recognises)
    report = check_conformance(seeded.kind().system(), race_rounds=1, allow_repeats=recognises)
    first = report.violations[0]
    assert not report.conforms
    assert (seeded.challenge, seeded.event, seeded.status) == told(first)
    assert seeded.expected == first.expected
    assert seeded.found == first.kind[2]
    assert seeded.violations == len(report.violations)
    assert seeded.shows(replay(first, seeded.kind().system()))
    for violation in report.violations:
        shown = replay(violation, seeded.kind().system())
        if violation.event is not None and violation.is_wrong_answer:
            assert not is_lawful(shown, violation)


def is_lawful(shown: Shown, violation: Violation) -> bool:
    """Tell whether the law's answer was given."""
    target = TABLE.get((violation.status.value, str(violation.event)))
    if target is None:
        return isinstance(shown.last, No) and shown.changed == set()
    return shown.last is None and shown.after.get("status") == target


def test_where_a_run_cannot_be_brought_is_not_judged() -> None:
    """Who refuses everything is wrong in four cells and right in five; the others are not reached, and do not hold."""
    report = check_conformance(broken.RefusesAll().system(), race_rounds=1)
    reached = {cell for cell, verdict in report.cells.items() if verdict != "not reached"}
    assert {cell for cell in PAIRS if cell[0] == "queued"} == reached
    assert (5, 4, 0, 72) == tuple(report.count(word) for word in ("holds", "wrong", "not offered", "not reached"))


def test_who_is_born_elsewhere_is_not_judged_there() -> None:
    """A cell is judged only where the run really stood."""
    report = check_conformance(broken.BornAtWork().system(), race_rounds=1)
    assert dict.fromkeys(PAIRS, "not reached") == report.cells
    assert {} == report.checked


def test_matrix_names_the_wrong_cells() -> None:
    """Who accepts everything is wrong in each cell that the law has no row for."""
    report = check_conformance(broken.AcceptsAll().system(), race_rounds=0)
    wrong = {cell for cell, verdict in report.cells.items() if verdict == "wrong"}
    assert set(PAIRS) - set(TABLE) == wrong


# --- by copies, at once, by workers -----------------------------------------------------------------------------------


def test_an_old_copy_is_not_saved() -> None:
    """Where the last write wins, an outcome overwrites another one; each is charged once and can be replayed."""
    report = check_conformance(broken_actors.LastWriteWins().cards(), race_rounds=1)
    assert {"stale"} == {violation.requirement for violation in report.violations}
    over = {(str(violation.status), str(violation.event)) for violation in report.violations}
    assert {
        (end, event) for end in TERMINAL for event in ("complete", "fail", "expire") if TARGET[event] != end
    } <= over
    for violation in report.violations:
        shown = replay(violation, broken_actors.LastWriteWins().cards())
        assert violation.status.value == shown.before["status"]
        assert shown.last is None
        assert "status" in shown.changed
        assert is_refused(replay(violation, broken_actors.Cards().cards()))


TARGET: Final = {event: target for (_, event), target in TABLE.items()}


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (broken_actors.StumblesOverOldCopies, "it broke: RuntimeError: stale object"),
        (broken_actors.SavesAPart, "refused; and yet: failed_at went from # to #"),
    ],
)
def test_an_old_copy_is_refused_well(kind: type[broken_actors.Cards], found: str) -> None:
    """A refusal of an old copy is no accident, and leaves nothing behind."""
    violations = [
        violation
        for violation in check_conformance(kind().cards(), race_rounds=0).violations
        if violation.status == "failed"
    ]
    assert violations
    assert {("stale", found)} == {(violation.requirement, violation.kind[2]) for violation in violations}
    shown = replay(violations[0], kind().cards())
    assert shown.last is not None
    assert {"failed_at"} if kind is broken_actors.SavesAPart else set() == shown.changed


def test_an_event_without_a_method_for_copies() -> None:
    """What is not offered is not asked of an old copy either."""
    cards = broken_actors.Cards().cards()
    send = cards.send

    def some(run: Any, event: RunEvent) -> object:
        if event == "expire":
            raise EventNotOffered
        return send(run, event)

    cards.send = some  # type: ignore[method-assign]
    report = check_conformance(cards, race_rounds=1)
    report.assert_conforms()
    assert 40 < report.checked["stale"] < 76


def test_what_two_at_once_leave_is_read() -> None:
    """A run that cannot be read after a race is a breakage, shown by the race."""
    violations = check_conformance(broken_actors.ForgetsToClose().system(), race_rounds=1).violations
    assert {("race", "it broke: it cannot be read back: EOFError: torn page")} == {
        (violation.requirement, violation.found) for violation in violations
    }
    assert {} == replay(violations[0], broken_actors.ForgetsToClose().system()).after


def test_look_then_write_is_a_race() -> None:
    """Who looks, and writes when somebody else may have written, is found only by two who ask at once."""
    report = check_conformance(broken_actors.LooksThenWrites().system(), race_rounds=1)
    assert 81 == report.count("holds")
    assert {"race"} == {violation.requirement for violation in report.violations}
    found = {
        (str(violation.other_event), str(violation.event), str(violation.status)): violation
        for violation in report.violations
    }
    twice = {(event, event, status) for status, event in TABLE if (TABLE[status, event], event) not in TABLE}
    assert twice <= set(found)
    violation = found["complete", "complete", "in_progress"]
    assert "complete and complete to come one after the other" == violation.expected
    assert "both were accepted, and the run is completed" == violation.found
    assert [None, None] == replay(violation, broken_actors.LooksThenWrites().system()).errors[-2:]
    assert [No] == [type(error) for error in replay(violation, Desk().system()).errors[-2:] if error is not None]


def test_one_of_two_is_granted() -> None:
    """Where two ask for what is legal, one of them gets it."""
    report = check_conformance(broken_actors.GivesWay().system(), race_rounds=1)
    assert 56 == len(report.violations)
    violation = report.violations[0]
    assert ("race", "start", "queued") == told(violation)
    assert "both were refused, and the run is queued" == violation.found
    assert [No, No] == [type(error) for error in replay(violation, broken_actors.GivesWay().system()).errors[-2:]]


def test_a_break_at_once_is_told() -> None:
    """Where one of two who ask at once is answered by an accident, that is no refusal."""
    report = check_conformance(broken_actors.BreaksAtOnce().system(), race_rounds=1)
    assert {("race", "it broke: OSError: database is locked")} == {
        (violation.requirement, violation.found) for violation in report.violations
    }
    errors = replay(report.violations[0], broken_actors.BreaksAtOnce().system()).errors[-2:]
    assert {type(None), OSError} == {type(error) for error in errors}


def test_who_blocks_each_other_ends_the_races() -> None:
    """Two that are never answered are told of once, and are not waited for again."""
    desk = broken_actors.StopsForEver()
    try:
        report = check_conformance(desk.system(), race_rounds=5, race_timeout_s=0.05)
    finally:
        desk.released.set()
    (violation,) = report.violations
    assert ("race", "start", "queued") == told(violation)
    assert "it is stuck: not both were answered" == violation.found
    assert 81 == report.count("holds")


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (broken_actors.TrustsWorkers, "the late worker was accepted: status went from in_progress to completed"),
        (broken_actors.TrustsNobody, "it was refused: it is no longer yours; the run is in_progress"),
        (broken_actors.NeverGivesUp, "it broke: No: somebody has it"),
        (broken_actors.StumblesOverWorkers, "the late worker was not refused, it broke: KeyError: 'A2'"),
        (
            broken_actors.WritesForTheLate,
            "the late worker was refused; and yet: status went from in_progress to completed",
        ),
    ],
)
def test_a_late_worker(kind: type[broken_actors.Leases], found: str) -> None:
    """A worker past its lease is refused, and the one that took over is not."""
    report = check_conformance(kind(), race_rounds=0)
    assert ["lease"] * 5 == [violation.requirement for violation in report.violations]
    violation = next(violation for violation in report.violations if violation.event == "complete")
    assert found == violation.found.partition(" (")[0]
    shown = replay(violation, kind())
    late = broken_actors.TrustsWorkers, broken_actors.WritesForTheLate
    assert ("completed" if kind in late else "in_progress") == shown.after["status"]
    assert (kind is broken_actors.TrustsWorkers) is (shown.last is None)


def test_what_workers_are_not_offered() -> None:
    """An outcome that a worker has no way to bring is not held against it."""
    report = check_conformance(broken_actors.TellsNobody(), race_rounds=0)
    assert report.conforms
    assert 5 == report.checked["lease"]


# --- what a subject may do to a check of conformance
# ---------------------------------------------------------------------------------


class Wreck(Exception):
    pass


@pytest.mark.parametrize("broken_call", ["create", "send", "read", "load", "claim", "lapse", "settle"])
@pytest.mark.parametrize("after", [0, 1, 100, 500])
def test_a_trial_never_raises(broken_call: str, after: int) -> None:
    """Whatever breaks, and whenever it begins to: there is a judgement, and it does not hold."""

    class Wrecked(broken_actors.Leases):
        calls = 0

        def load(self, run: str) -> str:
            return run

    def wreck(name: str) -> Callable[..., Any]:
        method = getattr(Wrecked, name)

        def call(self: Wrecked, *given: Any) -> Any:
            Wrecked.calls += 1
            if Wrecked.calls > after:
                raise Wreck
            return method(self, *given)

        return call

    setattr(Wrecked, broken_call, wreck(broken_call))
    report = check_conformance(Wrecked(), race_rounds=1)
    assert (Wrecked.calls <= after) is report.conforms
    assert str(report)


def test_time_that_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who cannot move its time is waited for instead."""
    waited: list[float] = []
    monkeypatch.setattr("runstate.testing.conformance.sleep", waited.append)

    class Wrecked(Desk):
        def advance(self, seconds: int) -> None:
            super().advance(seconds)
            raise Wreck

    assert check_conformance(Wrecked().system(), race_rounds=0).conforms
    assert {1.05} == set(waited)


@pytest.mark.parametrize(
    "answer", [{}, None, "queued", {"status": None}, {"status": ["queued"]}, {"state": "queued"}], ids=str
)
def test_a_read_that_is_no_record(answer: Any) -> None:
    """What is read must have a status."""

    def read(_: str) -> Any:
        return answer

    desk = Desk()
    (violation,) = check_conformance(
        FunctionAdapter(desk.create, desk.send, read, refused=No), race_rounds=1
    ).violations
    assert violation.found.startswith(("no run was made: TypeError", "no run was made: ValueError"))


def test_refused_is_always_a_refusal() -> None:
    """An adapter may say no by `Refused`, whatever its implementation raises besides."""
    desk = Desk()

    def send(run: str, event: RunEvent) -> None:
        try:
            desk.send(run, event)
        except No as no:
            raise EventRefused(str(no)) from no

    assert check_conformance(
        FunctionAdapter(desk.create, send, desk.read, refused=(), advance=desk.advance), race_rounds=1
    ).conforms
