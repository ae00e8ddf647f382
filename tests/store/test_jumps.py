"""The law in the database: every jump from a status to a status, by plain SQL."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from runstate import RunEvent
from runstate.store import Store
from runstate.store._sql.dialect import SQLITE
from runstate.store._sql.statements import Statements
from runstate.store._sql.triggers.conditions import RARE_COLUMNS
from tests.store.support import FIRST, LATER, Prompt, birth, bring_in_store, by_hand, insert, update
from tests.support.lifecycle import EVENTS, HELD_IN, LIVE, ROWS, STAMPED_BY, STATUSES, TABLE, WAYS

pytestmark = pytest.mark.slow  # plain SQL against every guard

LEADS_TO = {target: event for event, _, target, _ in ROWS}
"""The one event that leads to each status; there are nine of both."""


@pytest.fixture
def runs(store: Store, clock: object) -> dict[str, str]:
    """The ids of runs in every status."""
    return {status: bring_in_store(store, status, id=f"run_{status}").id for status in STATUSES}


def test_every_jump(runs: dict[str, str], prompt: Prompt) -> None:
    """Of 81 jumps with every other column right, the 19 legal ones are accepted and the 62 others refused."""
    before = prompt.everything()
    accepted = set()
    for source, target in product(STATUSES, STATUSES):
        statement, values = update(by_hand(prompt.one(runs[source]), LEADS_TO[target], target), runs[source])
        if (source, LEADS_TO[target]) in TABLE:
            with prompt.undone():
                assert 1 == prompt.changed(statement, values)
                accepted.add((source, target))
        else:
            sentence = "runstate: illegal transition. Change runs through runstate" if source in LIVE else "runstate: "
            assert sentence in (prompt.refusal(statement, values) or "accepted")
    assert 19 == len(accepted)
    assert {(source, target) for (source, _), target in TABLE.items()} == accepted
    assert before == prompt.everything()


def lies(source: str, all_of_them: bool) -> Iterator[tuple[str, str, str]]:
    """Yield (event, told source, target) that is no row of the law out of a status; or those that tell one lie."""
    rows = {row[:3] for row in ROWS if row[1] == source}
    for event, told, target in product(EVENTS, STATUSES, STATUSES):
        one_lie = told == source or LEADS_TO[target] == event
        if (event, told, target) not in rows and (all_of_them or one_lie):
            yield event, told, target


@pytest.mark.parametrize("source", STATUSES)
def test_no_lie_moves_a_run(store: Store, prompt: Prompt, clock: object, source: str) -> None:
    """Neither another event's name nor another source makes a jump legal: 9 events, 9 told sources, 9 targets."""
    run_id = bring_in_store(store, source).id
    before = prompt.everything()
    row = prompt.one(run_id)
    refused = 0
    for event, told, target in lies(source, prompt.is_sqlite):
        columns = {**by_hand(row, event, target), "source": told}
        assert prompt.refusal(*update(columns, run_id)) is not None, (event, told, target)
        refused += 1
    legal = sum(status == source for status, _ in TABLE)
    assert (729 if prompt.is_sqlite else 81 + 72) - legal == refused
    assert before == prompt.everything()


@pytest.mark.parametrize(("source", "event"), sorted(TABLE))
def test_a_legal_jump_leaves_its_entry(store: Store, prompt: Prompt, clock: object, source: str, event: str) -> None:
    """Whoever moves a run right by hand need not write the history, and cannot: the database does."""
    run_id = bring_in_store(store, source).id
    entries = prompt.entries(run_id)
    target = TABLE[source, event]
    columns = {**by_hand(prompt.one(run_id), event, target), "detail": '{"by": "hand"}'}
    assert 1 == prompt.changed(*update(columns, run_id))
    assert columns == {name: prompt.one(run_id)[name] for name in columns}
    *earlier, entry = prompt.entries(run_id)
    assert entries == earlier
    told = {name: columns[name] for name in ("version", "event", "source", "actor", "detail")}
    told["at_us"] = columns["changed_at_us"]
    assert {**told, "target": target} == {name: entry[name] for name in (*told, "target")}
    assert target == store.get(run_id).status
    assert (event, "hand", {"by": "hand"}) == tuple(
        getattr(store.history(run_id)[-1], name) for name in ("event", "actor", "detail")
    )


def test_a_whole_life_by_hand(store: Store, prompt: Prompt) -> None:
    """A run born and moved by plain SQL alone is one that the store tells as its own, at each of its stations."""
    for number, (status, way) in enumerate(WAYS.items()):
        run_id = f"run_{number}"
        assert 1 == prompt.changed(*insert(birth(run_id)))
        source = "queued"
        for step, event in enumerate(way, start=1):
            source, target = TABLE[source, event], source
            columns = by_hand(prompt.one(run_id), event, source, FIRST + step)
            assert target == columns["source"]
            prompt.run(*update(columns, run_id))
        assert status == store.get(run_id).status
        assert [None, *way] == [entry.event for entry in store.history(run_id)]
        assert (status in LIVE) is not store.get(run_id).is_terminal


def test_the_commonest_moves_leave_the_rare_columns() -> None:
    """SQLite compares them where a statement writes them: a start and a completion leave them as they were."""
    for (source, event), target in TABLE.items():
        if event in ("start", "complete"):
            set_columns = Statements(SQLITE).set_clause(RunEvent(event), actor="NULL", params={"usage": "NULL"})
            for column in RARE_COLUMNS:
                assert not {source, target} & set(HELD_IN.get(column, ()))
                assert STAMPED_BY.get(target) != column
                assert f"{column} = " not in set_columns


# --- a legal move with one column wrong -------------------------------------------------------------------------------

FREE = {"actor", "detail"}
"""Columns of a move that may say anything (`detail` any JSON object)."""


def spoilt(columns: dict[str, Any], row: dict[str, Any], place: str) -> Iterator[object]:
    """Yield values that a column of a legal move must not have."""
    right = columns.get(place, row[place])
    at = columns["changed_at_us"]
    numbers = [None, -1, 0, 1, 2, 3, 7, at // 1_000_000 + 1, at // 1_000_000, row["created_at"], at - 61_000_000, 2**61]
    if place in ("required_action", "last_error", "incomplete_details", "usage"):
        some: list[object] = [None] if right is not None else ['{"type": "x"}']
        some += ["null", "[]", "1", '"x"', "{", "", "true"]
    elif isinstance(right, str) or place in ("event", "source", "thread_policy", "idempotency_key", "model"):
        some = [
            None,
            "",
            "x",
            "queued",
            "in_progress",
            "cancelled",
            "completed",
            "start",
            "complete",
            "expire",
            "run_0",
        ]
    else:
        some = list(numbers)
        if isinstance(right, int):
            some += [right + 1, right - 1, -right]
        if place == "changed_at_us":
            some = [None, -1, 0, row["changed_at_us"] - 1, 253_402_300_800_000_000, 2**62]
    yield from (value for value in some if value != right)


@pytest.mark.parametrize(("source", "event"), sorted(TABLE))
def test_a_legal_move_with_one_column_wrong(
    store: Store, prompt: Prompt, clock: object, source: str, event: str
) -> None:
    """Of a move that is right but for one column, every column but the actor's word is refused, with any value."""
    run_id = bring_in_store(store, source).id
    row = prompt.one(run_id)
    columns = by_hand(row, event, TABLE[source, event])
    before = prompt.everything()
    refused = 0
    for place in row.keys() - FREE:
        for value in spoilt(columns, row, place):
            sentence = prompt.refusal(*update({**columns, place: value}, run_id))
            assert sentence is not None, (place, value)
            refused += 1
    assert before == prompt.everything()
    assert 180 < refused
    with prompt.undone():
        assert 1 == prompt.changed(*update(columns, run_id))  # and without the wrong column it is accepted
    assert LATER == columns["changed_at_us"]
