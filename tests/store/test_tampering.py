"""Tampering by plain SQL, one column at a time: every column of every table that holds a run or its history."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from runstate.store import Store
from tests.store.support import (
    FIRST,
    RUN_COLUMNS,
    Prompt,
    ask_store,
    birth,
    bring_in_store,
    insert,
    names,
    update,
)
from tests.support.lifecycle import STATUSES

pytestmark = pytest.mark.slow  # plain SQL against every guard

Shape = Callable[[Store], str]
"""Makes a run and returns its id."""


def claimed(store: Store) -> str:
    run = store.create(**names(id="run_claimed", queue="mine", idempotency_key="key_1"))
    store.claim(store.open_lease("w1"), queues=["mine"])
    return run.id


def cancelling(store: Store) -> str:
    run = store.create(**names(id="run_cancelling_claimed", queue="mine"))
    store.claim(store.open_lease("w1"), queues=["mine"])
    return store.request_cancel(run.id, actor="web").id


def released(store: Store) -> str:
    run = store.create(**names(id="run_released", queue="mine"))
    lease = store.open_lease("w1")
    (claim,) = store.claim(lease, queues=["mine"])
    assert store.release(lease, claim.run)
    return run.id


def behind(store: Store) -> str:
    store.create(**names(id="run_head", thread_id="thread_2", one_live_run_per_thread="queue"))
    return store.create(**names(id="run_behind", thread_id="thread_2", one_live_run_per_thread="queue")).id


def later(store: Store) -> str:
    return store.create(**names(id="run_later", not_before=FIRST / 1e6 + 100, priority=5)).id


def again(store: Store) -> str:
    run_id = store.create(**names(id="run_again", metadata={"a": "b"}, instructions="be brief")).id
    for event in ("start", "require_action", "submit_tool_outputs", "start"):
        ask_store(store, run_id, event, actor="somebody")
    return run_id


SPECIAL: Mapping[str, Shape] = {
    "claimed": claimed,
    "cancelling for its worker": cancelling,
    "released": released,
    "behind another": behind,
    "not before its time": later,
    "after a tool round": again,
}


def shapes(store: Store) -> dict[str, str]:
    """Return the ids of runs in every status, and of some that stand there in another way."""
    made = {status: bring_in_store(store, status, id=f"run_{status}").id for status in STATUSES}
    return made | {shape: make(store) for shape, make in SPECIAL.items()}


WORDS = [None, "", "x", "run_queued", "thread_1", "queue", "reject", "null"]
EVENTS = ["start", "complete", "expire", "fail", "request_cancel", "confirm_cancel"]
OBJECTS = [None, "", "{}", "null", "[]", "1", '{"x":1}', '{"type": "x"}', "{", '{"prompt_tokens":1}']


def values(row: Mapping[str, Any], column: str) -> Iterator[object]:
    """Yield what a tamperer may try in a column, never what it holds already."""
    now = row[column]
    numbers = [
        None,
        -1,
        0,
        1,
        2,
        3,
        7,
        row["created_at"],
        row["changed_at_us"],
        row["changed_at_us"] // 1_000_000,
        10**12,
        2**62,
    ]
    numbers += [now + 1, now - 1, now + 600, -now] if isinstance(now, int) else []
    some: list[object]
    if column == "status":
        some = [None, "", "paused", "QUEUED", *STATUSES]
    elif column in ("detail", "required_action", "last_error", "incomplete_details", "usage"):
        some = [*OBJECTS, f" {now}"] if now else [*OBJECTS]
    elif column in ("event", "source"):
        some = [*WORDS, *EVENTS, *STATUSES]
    elif isinstance(now, str) or column in ("model", "actor", "thread_policy", "idempotency_key", "queue"):
        some = [*WORDS, f"{now}x", f"{now} ", f"{now}".upper()]
    else:
        some = [*numbers]
    seen = [now]
    for value in some:
        if not any(value == known and type(value) is type(known) for known in seen):
            seen.append(value)
            yield value


CLAUSES = ("UPDATE", "UPDATE OR REPLACE", "UPDATE OR IGNORE", "UPDATE OR FAIL", "UPDATE OR ROLLBACK", "UPDATE OR ABORT")


def test_one_column_of_a_run(store: Store, prompt: Prompt, clock: object, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs of fifteen shapes, all columns, many values each: refused, and the database as it was."""
    runs = shapes(store)
    before = prompt.everything()
    refused = 0
    for shape, run_id in runs.items():
        row = prompt.one(run_id)
        assert sorted(RUN_COLUMNS) == sorted(row)
        for column in row:
            if (shape, column) == ("not before its time", "claimable_at_us"):
                continue  # that it gets ready is no tampering: see test_what_gets_ready
            for value in values(row, column):
                if (column, value) == ("worker", 0) and row["worker"] is not None:
                    continue  # a release, which the database cannot tell from one by the worker: see SECURITY.md
                for clause in CLAUSES if prompt.is_sqlite else CLAUSES[:1]:
                    statement, given = update({column: value}, run_id, clause)
                    sentence = prompt.refusal(statement, given)
                    assert sentence is not None or "IGNORE" in clause, (shape, column, value, clause)
                    assert row == prompt.one(run_id), (shape, column, value, clause)
                    refused += 1
    assert before == prompt.everything()
    with capsys.disabled():
        print(
            f"\n{'SQLite' if prompt.is_sqlite else 'PostgreSQL'}: {refused} tamperings with a column of a run refused"
        )
    assert refused > (30_000 if prompt.is_sqlite else 5_000)


def test_one_column_of_the_history(store: Store, prompt: Prompt, clock: object) -> None:
    """No column of any entry can be changed, of live runs and ended ones; nothing says so but the trigger."""
    runs = shapes(store)
    before = prompt.everything()
    refused = 0
    for run_id in runs.values():
        for entry in prompt.entries(run_id):
            for column, now in entry.items():
                numbers = [None, 0, 1, 2, 3, 99] + ([now + 1, now - 1] if isinstance(now, int) else [])
                texts = [None, "", "x", "start", "complete", "queued", "completed", "{}"]
                for value in (value for value in numbers + texts if value != now):
                    statement = f"UPDATE runstate_history SET {column} = ? WHERE run = ? AND version = ?"
                    assert prompt.refusal(statement, [value, entry["run"], entry["version"]]) is not None
                    refused += 1
    assert before == prompt.everything()
    assert refused > 4_000


def test_one_column_of_the_settings(store: Store, prompt: Prompt, clock: object) -> None:
    """What a run was created with stays, whatever has become of it."""
    runs = [bring_in_store(store, status, id=f"run_{status}", metadata={"a": "b"}).id for status in STATUSES]
    before = prompt.everything()
    refused = 0
    for run_id in runs:
        for column, now in prompt.rows("runstate_run_config", "WHERE id = ?", [run_id])[0].items():
            for value in (None, "", "x", "run_x", "{}", "null", '{"metadata":{"a":"c"}}', f" {now}", f"{now}x"):
                statement = f"UPDATE runstate_run_config SET {column} = ? WHERE id = ?"
                assert prompt.refusal(statement, [value, run_id]) is not None, (column, value)
                refused += 1
        for statement in ("DELETE FROM runstate_run_config WHERE id = ?", f"{REPLACED} VALUES (?, '{{}}')"):
            assert prompt.refusal(statement, [run_id]) is not None
            refused += 1
    assert 261 == refused
    assert before == prompt.everything()


REPLACED = "INSERT INTO runstate_run_config (id, config)"


def test_settings_come_with_the_birth_alone(store: Store, prompt: Prompt, clock: object) -> None:
    """A run that was created without settings is given none later."""
    run = store.create(**names())
    heads = ["INSERT INTO"] + ["INSERT OR REPLACE INTO", "INSERT OR IGNORE INTO"] * prompt.is_sqlite
    for head in heads:
        sentence = prompt.refusal(f"{head} runstate_run_config (id, config) VALUES (?, '{{}}')", [run.id])
        assert "what a run was created with never changes" in (sentence or "accepted")
    assert [] == prompt.rows("runstate_run_config")
    assert run == store.get(run.id)


def test_deletions(store: Store, prompt: Prompt, clock: object) -> None:
    """A live run cannot be deleted, nor an entry of any; an ended run goes with all that belongs to it."""
    runs = shapes(store)
    before = prompt.everything()
    for run_id in runs.values():
        if not store.get(run_id).is_terminal:
            sentence = prompt.refusal("DELETE FROM runstate_run WHERE id = ?", [run_id])
            assert "only a run that has ended may be deleted" in (sentence or "accepted")
        for entry in prompt.entries(run_id):
            statement = "DELETE FROM runstate_history WHERE run = ? AND version = ?"
            sentence = prompt.refusal(statement, [entry["run"], entry["version"]])
            assert "the history is written by the database alone" in (sentence or "accepted")
    assert prompt.refusal("DELETE FROM runstate_run") is not None
    assert prompt.refusal("DELETE FROM runstate_history") is not None
    assert before == prompt.everything()
    prompt.run("DELETE FROM runstate_run WHERE status IN ('completed', 'incomplete', 'failed', 'cancelled', 'expired')")
    left = {row["id"] for row in prompt.rows("runstate_run")}
    assert {run_id for run_id in (*runs.values(), "run_head") if run_id in left} == left
    assert len(runs) + 1 - 5 == len(left)
    numbers = {row["seq"] for row in prompt.rows("runstate_run")}
    assert numbers == {row["run"] for row in prompt.rows("runstate_history")}


def test_truncation(store: Store, prompt: Prompt, clock: object) -> None:
    """PostgreSQL empties no table past the triggers; SQLite's DELETE without a condition asks them too."""
    bring_in_store(store, "completed")
    bring_in_store(store, "in_progress", metadata={"a": "b"})
    before = prompt.everything()
    for table in ("runstate_run", "runstate_history", "runstate_run_config", "runstate_worker_session"):
        word = "DELETE FROM" if prompt.is_sqlite else "TRUNCATE"
        assert prompt.refusal(f"{word} {table}") is not None, table
    if not prompt.is_sqlite:
        assert prompt.refusal("TRUNCATE runstate_run, runstate_history, runstate_run_config CASCADE") is not None
    assert before == prompt.everything()


def test_entries_by_hand(store: Store, prompt: Prompt, clock: object) -> None:
    """Nobody adds an entry: not the next, nor one of long ago, nor a copy of the last, nor for a run that is none."""
    runs = shapes(store)
    before = prompt.everything()
    refused = 0
    heads = ["INSERT", "INSERT OR REPLACE", "INSERT OR IGNORE", "INSERT OR FAIL"] if prompt.is_sqlite else ["INSERT"]
    for run_id in runs.values():
        last = prompt.entries(run_id)[-1]
        tampered: list[dict[str, object]] = [
            last,
            {name: value for name, value in last.items() if name != "id"},
            {**last, "id": 1},
            {**last, "version": last["version"] + 1},
            {**last, "version": 1, "event": None, "source": None, "target": "queued"},
            {**last, "version": 0},
            {**last, "run": 10**6},
            {**last, "version": last["version"] + 1, "event": "expire", "source": last["target"], "target": "expired"},
        ]
        for entry in tampered:
            columns = entry if prompt.is_sqlite else {k: v for k, v in entry.items() if k != "id"}
            for head in heads:
                sentence = prompt.refusal(*insert(columns, "runstate_history", head))
                assert "the history is written by the database alone" in (sentence or "accepted"), (head, entry)
                refused += 1
    assert before == prompt.everything()
    assert len(runs) * 8 * len(heads) == refused


def test_births_by_hand(store: Store, prompt: Prompt, clock: object) -> None:
    """A run is born queued, at version 1, with no stamp but its birth and no worker; all else is refused."""
    before = prompt.everything()
    wrong: dict[str, list[object]] = {
        "status": [*STATUSES[1:], "paused", None],
        "version": [0, 2, -1, None],
        "event": ["start", ""],
        "source": ["queued", ""],
        "changed_at_us": [None, -1, FIRST + 1_000_000, FIRST - 1, 253_402_300_800_000_000],
        "created_at": [None, 0, FIRST // 1_000_000 + 1, FIRST // 1_000_000 - 1],
        "expires_at": [None, 0, FIRST // 1_000_000, 253_402_300_800],
        "started_at": [FIRST // 1_000_000],
        "cancelled_at": [FIRST // 1_000_000],
        "failed_at": [FIRST // 1_000_000],
        "completed_at": [FIRST // 1_000_000],
        "required_action": ["{}", "null"],
        "last_error": ["{}"],
        "incomplete_details": ["{}"],
        "usage": ['{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}'],
        "worker": [0, 1],
        "attempt": [1, -1, None],
        "thread_policy": ["always", ""],
        "not_before_us": [FIRST + 5],  # it is ready, and waits for its time
        "detail": ["null", "[]", "x"],
        "id": ["", None],
        "thread_id": ["", None],
        "assistant_id": ["", None],
        "queue": [None],
        "priority": [None],
    }
    heads = ["INSERT", "INSERT OR REPLACE", "INSERT OR IGNORE", "INSERT OR FAIL"] if prompt.is_sqlite else ["INSERT"]
    refused = 0
    for column, some in wrong.items():
        for value in some:
            for head in heads:
                sentence = prompt.refusal(*insert(birth("run_x", **{column: value}), head=head))
                assert sentence is not None or "IGNORE" in head, (column, value)
                assert [] == prompt.rows("runstate_run"), (column, value, head)
                refused += 1
    assert before == prompt.everything()
    assert refused > (200 if prompt.is_sqlite else 50)
    prompt.run(*insert(birth("run_x")))  # and with nothing wrong, it is born
    assert [(1, None, None, "queued")] == [
        (entry.version, entry.event, entry.source, entry.target) for entry in store.history("run_x")
    ]


@pytest.mark.parametrize("status", STATUSES)
def test_a_copy_is_no_birth(store: Store, prompt: Prompt, clock: object, status: str) -> None:
    """A row that stands somewhere cannot be copied to another id: it would have no history to stand on."""
    row = prompt.one(bring_in_store(store, status, id="run_1").id)
    before = prompt.everything()
    copy = {name: value for name, value in row.items() if name != "seq"} | {"id": "run_2"}
    if status == "queued":
        prompt.run(*insert(copy))
        assert "queued" == store.get("run_2").status
    else:
        assert "a run is born queued" in (prompt.refusal(*insert(copy)) or "accepted")
        assert before == prompt.everything()
