"""The table: its rows are those of docs/lifecycle.md, look-ups follow from them, and a contradiction does not load."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise, permutations

import pytest

from runstate import (
    RUN_LIFECYCLE,
    TRANSITIONS,
    Basis,
    DefinitionError,
    Lifecycle,
    RunEvent,
    RunStatus,
    TerminalStatus,
    Transition,
    allowed_events,
    documented,
    is_terminal,
    shortest_path,
    target_of,
)
from runstate.errors import IllegalTransition
from runstate.lifecycle import INITIAL_STATUS, validate_lifecycle
from tests.support.lifecycle import EVENTS, HELD_IN, LIVE, PAIRS, ROWS, STAMPED_BY, STATUSES, TABLE, TERMINAL


def ways(source: str, target: str) -> list[tuple[str, ...]]:
    """Return every way between two statuses that passes none twice, by trying all orders of all statuses."""
    if source == target:
        return [()]
    others = [status for status in STATUSES if status in LIVE and status not in (source, target)]
    targets = {(start, end): event for (start, event), end in TABLE.items()}
    found: list[tuple[str, ...]] = []
    for length in range(len(others) + 1):
        for between in permutations(others, length):
            stops = (source, *between, target)
            steps = list(pairwise(stops))
            if all(step in targets for step in steps):
                found.append(tuple(targets[step] for step in steps))
    return found


def without(*dropped: tuple[str, str]) -> Lifecycle:
    return Lifecycle(tuple(row for row in TRANSITIONS if (row.event, row.source) not in dropped))


# --- the rows ---------------------------------------------------------------------------------------------------------


def test_rows_are_lifecycles() -> None:
    """The nineteen rows are those of docs/lifecycle.md, in its order of events."""
    assert list(ROWS) == [(row.event, row.source, row.target, row.basis) for row in TRANSITIONS]
    assert 19 == len(TRANSITIONS)


def test_stamps_are_lifecycles() -> None:
    """Each row writes the time into the field that docs/lifecycle.md names for its target, or into none."""
    assert [STAMPED_BY.get(target) for _, _, target, _ in ROWS] == [row.stamp for row in TRANSITIONS]


def test_every_row_tells_its_evidence() -> None:
    """A reader of the table learns why each row is in it."""
    assert [] == [row for row in TRANSITIONS if not row.evidence]


def test_words() -> None:
    """The nine statuses and nine events are spelled as on the wire."""
    assert set(STATUSES) == {str(status) for status in RunStatus}
    assert list(EVENTS) == [str(event) for event in RunEvent]
    assert {"documented", "allowed"} == {str(basis) for basis in Basis}


@pytest.mark.parametrize("status", list(RunStatus))
def test_each_status_says_what_it_means(status: RunStatus) -> None:
    """Each status explains itself in whole sentences, and a terminal one says that nothing leaves it."""
    assert status.meaning.endswith(".")
    assert (status in TERMINAL) == status.meaning.endswith("Nothing leaves it.")


def test_birth() -> None:
    """A run is born queued."""
    assert "queued" == INITIAL_STATUS.value


@pytest.mark.parametrize("lifecycle", [RUN_LIFECYCLE, documented()], ids=["law", "documented"])
def test_the_law_cannot_be_changed(lifecycle: Lifecycle) -> None:
    """Neither a row nor the table can be assigned to."""
    with pytest.raises(AttributeError):
        lifecycle.transitions = ()  # type: ignore[misc]
    with pytest.raises(AttributeError):
        lifecycle.transitions[0].target = RunStatus.FAILED  # type: ignore[misc]
    assert RunStatus.IN_PROGRESS is lifecycle.transitions[0].target


# --- the look-ups -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "event"), PAIRS)
def test_find(status: str, event: str) -> None:
    """All 81 pairs: a row is found exactly where docs/lifecycle.md has one."""
    row = RUN_LIFECYCLE.find(RunStatus(status), RunEvent(event))
    assert TABLE.get((status, event)) == (row and row.target)
    assert ((status, event) in TABLE) == (event in allowed_events(RunStatus(status)))
    assert ((status, event) in TABLE) == (status in RUN_LIFECYCLE.sources_of(RunEvent(event)))


@pytest.mark.parametrize("status", STATUSES)
def test_allowed_events_come_in_order(status: str) -> None:
    """What may be asked is listed in the order of the events."""
    assert tuple(event for event in EVENTS if (status, event) in TABLE) == allowed_events(RunStatus(status))


@pytest.mark.parametrize("event", EVENTS)
def test_target_of(event: str) -> None:
    """Every event has exactly one target, wherever it is asked."""
    assert [target_of(RunEvent(event))] == list({target for (_, asked), target in TABLE.items() if asked == event})


def test_target_of_an_unknown_event() -> None:
    """A law that lacks an event says so."""
    with pytest.raises(DefinitionError, match=r"^no transition of this lifecycle has the event start$"):
        Lifecycle(()).target_of(RunEvent.START)
    assert frozenset() == Lifecycle(()).sources_of(RunEvent.START)


@pytest.mark.parametrize("status", STATUSES)
def test_is_terminal(status: str) -> None:
    """The five ends are terminal and the four others are not."""
    assert (status in TERMINAL) is is_terminal(RunStatus(status))


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("field", ["expires_at", "required_action", "last_error", "incomplete_details", "usage"])
def test_holds(field: str, status: str) -> None:
    """A field that comes and goes has a value exactly in the statuses that docs/lifecycle.md names."""
    assert (status in HELD_IN[field]) is RUN_LIFECYCLE.is_present(field, RunStatus(status))  # type: ignore[arg-type]


@pytest.mark.parametrize("source", STATUSES)
@pytest.mark.parametrize("target", STATUSES)
def test_shortest_path(source: str, target: str) -> None:
    """No legal way is shorter than the one returned, and None means there is none."""
    path = shortest_path(RunStatus(source), RunStatus(target))
    every = ways(source, target)
    assert bool(every) is (path is not None)
    if path is not None:
        assert path in every
        assert min(map(len, every)) == len(path)


def test_shortest_path_prefers_the_first_row() -> None:
    """Of equally short ways the one whose rows come first wins: cancelling is passed, not the tool round."""
    assert ("start", "require_action") == shortest_path(RunStatus.QUEUED, RunStatus.REQUIRES_ACTION)
    assert ("start", "complete") == shortest_path(RunStatus.QUEUED, RunStatus.COMPLETED)


@pytest.mark.parametrize(("status", "event"), PAIRS)
def test_path_to_event(status: str, event: str) -> None:
    """The way a refusal teaches is legal, ends with what was asked, and none is shorter."""
    path = RUN_LIFECYCLE.path_to_event(RunStatus(status), RunEvent(event))
    every = [(*way, event) for source in STATUSES if (source, event) in TABLE for way in ways(status, source)]
    assert bool(every) is (path is not None)
    if path is not None:
        assert path in every
        assert min(map(len, every)) == len(path)


@pytest.mark.parametrize(("status", "event"), PAIRS)
def test_refusal(status: str, event: str) -> None:
    """A refusal knows the run, where it stands, what was asked and what is allowed; terminal ones have their class."""
    refused = RUN_LIFECYCLE.refusal("run_1", RunStatus(status), RunEvent(event))
    assert (TerminalStatus if status in TERMINAL else IllegalTransition) is type(refused)
    assert ("run_1", status, event) == (refused.run_id, refused.status, refused.event)
    assert allowed_events(RunStatus(status)) == refused.allowed
    assert RUN_LIFECYCLE.path_to_event(RunStatus(status), RunEvent(event)) == refused.path


def test_documented() -> None:
    """The documented law has the eleven rows that the vendor documented, and refuses by them."""
    rows = [row for row in ROWS if row[3] == "documented"]
    assert 11 == len(documented().transitions)
    assert rows == [(row.event, row.source, row.target, row.basis) for row in documented().transitions]
    assert ("start", "expire") == documented().allowed_events(RunStatus.QUEUED)
    assert ("start", "request_cancel") == documented().refusal("r", RunStatus.QUEUED, RunEvent.REQUEST_CANCEL).path


def test_only() -> None:
    """The eight other rows make a law of their own."""
    assert 8 == len(RUN_LIFECYCLE.filter(Basis.ALLOWED).transitions)


# --- the checks when it loads -----------------------------------------------------------------------------------------


def test_a_row_cannot_stand_twice() -> None:
    """The same event from the same status twice is a mistake, even with the same target."""
    with pytest.raises(DefinitionError, match=r"^start from queued stands in the table twice$"):
        Lifecycle((*TRANSITIONS, TRANSITIONS[0]._replace(stamp=None)))


def test_an_event_has_one_target() -> None:
    """An event that leads to two statuses is a mistake."""
    other = Transition(RunEvent.START, RunStatus.CANCELLING, RunStatus.QUEUED, None, Basis.ALLOWED)
    with pytest.raises(DefinitionError, match=r"^start leads to both in_progress and queued$"):
        Lifecycle((*TRANSITIONS, other))


def test_what_ends_with_the_deadline() -> None:
    """A start and a submit are legal only before the deadline; every other event until the run has expired."""
    assert {"start", "submit_tool_outputs"} == RUN_LIFECYCLE.until_deadline == documented().until_deadline
    assert RUN_LIFECYCLE.until_deadline == {row.event for row in TRANSITIONS if row.until_deadline}
    assert frozenset() == RUN_LIFECYCLE.filter(Basis.ALLOWED).until_deadline


def test_an_event_ends_with_the_deadline_in_all_its_rows_or_in_none() -> None:
    """An event that is bounded in one status and not in another is a mistake."""
    rows = tuple(row._replace(until_deadline=row.source == "queued") for row in TRANSITIONS)
    with pytest.raises(
        DefinitionError, match=r"^request_cancel ends at the deadline in one row, and not from in_progress$"
    ):
        Lifecycle(rows)


def test_the_law_is_complete() -> None:
    """The law that runs obey passes its own checks, and so it loads."""
    validate_lifecycle(RUN_LIFECYCLE)
    validate_lifecycle(without())


@pytest.mark.parametrize(
    ("dropped", "status"),
    [
        ([("start", "queued")], "in_progress"),
        ([("require_action", "in_progress")], "requires_action"),
        ([("confirm_cancel", "cancelling")], "cancelled"),
        ([("complete", "in_progress"), ("complete", "cancelling")], "completed"),
    ],
)
def test_every_status_is_reachable(dropped: list[tuple[str, str]], status: str) -> None:
    """A status that no way leads to is a mistake."""
    with pytest.raises(DefinitionError, match=f"^no way leads from queued to {status}$"):
        validate_lifecycle(without(*dropped))


@pytest.mark.parametrize("status", sorted(LIVE))
@pytest.mark.parametrize("event", ["expire", "fail"])
def test_every_live_status_can_expire_and_fail(event: str, status: str) -> None:
    """A live status that cannot expire or cannot fail is a mistake: a run would be stuck there."""
    with pytest.raises(DefinitionError, match=f"^{status} is live, but cannot {event}$"):
        validate_lifecycle(without((event, status)))


def test_one_status_one_stamp() -> None:
    """Two ways into a status that stamp differently are a mistake."""
    rows = (*TRANSITIONS[:8], TRANSITIONS[8]._replace(stamp=None), *TRANSITIONS[9:])
    with pytest.raises(DefinitionError, match=r"^completed is stamped both completed_at and None$"):
        validate_lifecycle(Lifecycle(rows))


def test_the_way_to_an_event_is_the_shortest_and_among_these_the_tables_first() -> None:
    """To complete, a queued run is started; that a cancel could lose the race is as short, but stands later."""
    assert (RunEvent.START, RunEvent.COMPLETE) == RUN_LIFECYCLE.path_to_event(RunStatus.QUEUED, RunEvent.COMPLETE)
    assert (RunEvent.FAIL,) == RUN_LIFECYCLE.path_to_event(RunStatus.IN_PROGRESS, RunEvent.FAIL)
    assert None is RUN_LIFECYCLE.path_to_event(RunStatus.COMPLETED, RunEvent.START)


def test_strings_are_as_good_as_members() -> None:
    """Every look-up takes a status or an event by its string, and answers alike."""
    by_members = RUN_LIFECYCLE.shortest_path(RunStatus.QUEUED, RunStatus.COMPLETED)
    assert by_members == RUN_LIFECYCLE.shortest_path("queued", "completed")  # type: ignore[arg-type]
    assert RUN_LIFECYCLE.sources_of("start") == RUN_LIFECYCLE.sources_of(RunEvent.START)  # type: ignore[arg-type]
    assert RUN_LIFECYCLE.find("queued", "start") is RUN_LIFECYCLE.find(RunStatus.QUEUED, RunEvent.START)  # type: ignore[arg-type]
    assert RUN_LIFECYCLE.is_present("last_error", "failed")  # type: ignore[arg-type]
    assert not RUN_LIFECYCLE.is_terminal("queued")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "ask",
    [
        lambda word: RUN_LIFECYCLE.find(word, RunEvent.START),
        lambda word: RUN_LIFECYCLE.allowed_events(word),
        lambda word: RUN_LIFECYCLE.is_terminal(word),
        lambda word: RUN_LIFECYCLE.is_present("last_error", word),
        lambda word: RUN_LIFECYCLE.shortest_path(word, RunStatus.FAILED),
        lambda word: RUN_LIFECYCLE.shortest_path(RunStatus.QUEUED, word),
        lambda word: RUN_LIFECYCLE.path_to_event(word, RunEvent.FAIL),
        lambda word: RUN_LIFECYCLE.refusal("run_1", word, RunEvent.START),
    ],
)
def test_a_mistyped_status_is_no_answer(ask: Callable[[str], object]) -> None:
    """A word that is no status is told with the nine that are, never answered by silence."""
    with pytest.raises(ValueError, match=r"^unknown status 'quued'; the nine are queued, in_progress, "):
        ask("quued")


def test_a_mistyped_event_is_no_answer() -> None:
    """So for events."""
    for ask in (RUN_LIFECYCLE.target_of, RUN_LIFECYCLE.sources_of):
        with pytest.raises(ValueError, match=r"^unknown event 'begin'; the nine are start, require_action, "):
            ask("begin")  # type: ignore[arg-type]


def test_a_law_of_ones_own_knows_its_events() -> None:
    """A law has the events of its rows, in the order of `RunEvent`, and no others."""
    some = Lifecycle(tuple(row for row in TRANSITIONS if row.event in (RunEvent.FAIL, RunEvent.START)))
    assert (RunEvent.START, RunEvent.FAIL) == some.events
    assert (RunEvent.START, RunEvent.FAIL) == some.allowed_events(RunStatus.QUEUED)
    assert (RunEvent.FAIL,) == some.allowed_events(RunStatus.IN_PROGRESS)
    assert () == some.allowed_events(RunStatus.COMPLETED)


def test_a_long_word_is_cut_in_the_sentence() -> None:
    """What was mistyped is told by its first sixty characters."""
    with pytest.raises(ValueError, match=rf"^unknown status '{'x' * 60}'; "):
        RunStatus("x" * 500)


def test_a_law_says_how_many_rows_it_has() -> None:
    """Its repr is short; its rows are its own to print."""
    assert "<Lifecycle of 19 transitions>" == repr(RUN_LIFECYCLE)
    assert "<Lifecycle of 11 transitions>" == repr(documented())


@pytest.mark.parametrize("lifecycle", [RUN_LIFECYCLE, documented()], ids=["law", "documented"])
def test_a_law_stays_the_law_in_a_copy_and_in_another_process(lifecycle: Lifecycle) -> None:
    """What was copied or pickled is that very law, so that code which asks for `RUN_LIFECYCLE` finds it."""
    assert copy.copy(lifecycle) is copy.deepcopy(lifecycle) is pickle.loads(pickle.dumps(lifecycle)) is lifecycle
    command = (
        "import pickle, sys; from runstate import RUN_LIFECYCLE, documented; law = pickle.load(sys.stdin.buffer); "
    )
    command += "print(law is RUN_LIFECYCLE, law is documented())"
    done = subprocess.run(
        [sys.executable, "-c", command], input=pickle.dumps(lifecycle), capture_output=True, check=True
    )
    assert f"{lifecycle is RUN_LIFECYCLE} {lifecycle is documented()}" == done.stdout.decode().strip()


def test_laws_with_the_same_rows_are_equal() -> None:
    """A part of the law that a test made up is equal to its copies, hashes alike, and differs from all others."""
    part = Lifecycle(RUN_LIFECYCLE.transitions[:3])
    for other in (
        copy.copy(part),
        copy.deepcopy(part),
        pickle.loads(pickle.dumps(part)),
        Lifecycle(RUN_LIFECYCLE.transitions[:3]),
    ):
        assert other == part
        assert hash(other) == hash(part)
        assert other.find(RunStatus.QUEUED, RunEvent.START) == RUN_LIFECYCLE.transitions[0]
    as_object: object = part.transitions
    assert part not in (RUN_LIFECYCLE, as_object, Lifecycle(RUN_LIFECYCLE.transitions[:4]))
