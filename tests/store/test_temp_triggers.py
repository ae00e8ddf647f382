"""SQLite: TEMP triggers of a connection, which SQLite runs before those of the store, cannot switch the guards off."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from runstate.errors import RunstateError
from runstate.store import Store, open_store
from tests.store.support import FIRST, LATER, TABLES, Prompt, birth, bring_in_store, by_hand, insert, names, update
from tests.store.test_jumps import LEADS_TO
from tests.support.lifecycle import LIVE, STATUSES, TABLE

UNRECORDED = "the last transition of the run has no entry in the history"
REPAIR = (
    "INSERT INTO runstate_history (run, version, event, source, target, at_us, actor, detail)"
    " SELECT seq, version, event, source, status, changed_at_us, actor, detail FROM runstate_run WHERE id = ?"
)


@pytest.fixture
def url(sqlite_template: Path, tmp_path: Path) -> str:
    shutil.copy(sqlite_template, tmp_path / "runs.db")
    return f"sqlite:///{tmp_path / 'runs.db'}"


@pytest.fixture
def store(url: str, clock: object) -> Iterator[Store]:
    with open_store(url) as store:
        yield store


@pytest.fixture(params=["once", "recursive"])
def prompt(url: str, request: pytest.FixtureRequest) -> Iterator[Prompt]:
    """An SQL prompt at the store, with either setting of `recursive_triggers`."""
    with Prompt(url) as prompt:
        prompt.run(f"PRAGMA recursive_triggers = {int(request.param == 'recursive')}")
        yield prompt


def add(prompt: Prompt, when: str, table: str, body: str = "SELECT raise(IGNORE)", only: str = "1") -> str:
    """Create a TEMP trigger; return the statement that drops it."""
    name = f"z{len(prompt.run('SELECT 1 FROM sqlite_temp_master'))}"
    prompt.run(f"CREATE TEMP TRIGGER {name} {when} ON main.{table} WHEN {only} BEGIN {body}; END")
    return f"DROP TRIGGER temp.{name}"


def everything_refused(prompt: Prompt, statement: str, given: Any = ()) -> None:
    """Execute a statement that must change nothing, whether it is refused or ignored."""
    before = prompt.everything()
    prompt.refusal(statement, given)
    assert before == prompt.everything(), (statement, given)


def moves(prompt: Prompt, run_id: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the target and the columns of every jump of a run, and whether it is legal."""
    row = prompt.one(run_id)
    for target in STATUSES:
        event = LEADS_TO[target]
        yield event, target, by_hand(row, event, target)


@pytest.mark.parametrize(
    "when", ["BEFORE UPDATE", "AFTER UPDATE", "AFTER UPDATE OF status", "BEFORE UPDATE OF version"]
)
def test_no_illegal_jump(store: Store, prompt: Prompt, when: str) -> None:
    """Of 81 jumps the 62 illegal ones change nothing, where a TEMP trigger ends the triggers of every update."""
    runs = {status: bring_in_store(store, status, id=f"run_{status}").id for status in STATUSES}
    add(prompt, when, "runstate_run")
    tried = 0
    for source, run_id in runs.items():
        for event, _, columns in moves(prompt, run_id):
            if (source, event) not in TABLE:
                everything_refused(prompt, *update(columns, run_id))
                everything_refused(prompt, *update({"status": columns["status"]}, run_id))
                tried += 1
    assert 62 == tried


@pytest.mark.parametrize("when", ["BEFORE UPDATE", "AFTER UPDATE", "BEFORE UPDATE OF worker", "AFTER UPDATE OF worker"])
def test_no_illegal_claim(store: Store, prompt: Prompt, when: str) -> None:
    """Nor is a run taken from a worker whose lease is open, or its attempt changed."""
    run = store.create(**names())
    store.claim(store.open_lease("w1"))
    thief = store.open_lease("thief")
    add(prompt, when, "runstate_run")
    thefts: list[dict[str, object]] = [{"worker": thief.token, "attempt": attempt} for attempt in (0, 1, 2)]
    thefts.append({"worker": thief.token, "attempt": 2, "lost": 1})
    changes: list[dict[str, object]] = [{"worker": None}, {"lost": 1}, {"attempt": 0}, {"attempt": 2}]
    changes += [{"claimable_at_us": LATER}, {"actor": "me"}, {"changed_at_us": LATER}, {"expires_at": LATER}]
    changes += [{"seq": 7}, {"id": "run_7"}]
    for columns in thefts + changes:
        everything_refused(prompt, *update(columns, run.id))


WRONG: Mapping[str, Sequence[tuple[str, Sequence[object]]]] = {
    "runstate_run": [
        insert(birth("run_9", status="in_progress", version=2, started_at=FIRST // 1_000_000)),
        insert(birth("run_9", version=5)),
        ("UPDATE runstate_run SET status = 'completed'", []),
        ("UPDATE runstate_run SET version = version + 1", []),
        ("UPDATE runstate_run SET thread_id = 'thread_7'", []),
        ("DELETE FROM runstate_run WHERE id IN ('run_1', 'run_2')", []),
    ],
    "runstate_history": [
        ("INSERT INTO runstate_history (run, version, target, at_us) VALUES (1, 9, 'completed', 1)", []),
        ("INSERT INTO runstate_history (run, version, target, at_us) VALUES (1, 1, 'completed', 1)", []),
        ("INSERT OR REPLACE INTO runstate_history (run, version, target, at_us) VALUES (1, 1, 'failed', 1)", []),
        ("UPDATE runstate_history SET target = 'completed'", []),
        ("DELETE FROM runstate_history", []),
    ],
    "runstate_run_config": [
        ("INSERT INTO runstate_run_config VALUES ('run_2', '{}')", []),
        ("UPDATE runstate_run_config SET config = '{}'", []),
        ("DELETE FROM runstate_run_config", []),
    ],
    "runstate_worker_session": [
        ("UPDATE runstate_worker_session SET closed = 0 WHERE closed = 1", []),
        ("UPDATE runstate_worker_session SET token = token + 1", []),
        ("DELETE FROM runstate_worker_session WHERE token = 0 OR token IN (SELECT worker FROM runstate_run)", []),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("when", ["BEFORE", "AFTER"])
@pytest.mark.parametrize("what", ["INSERT", "UPDATE", "DELETE"])
@pytest.mark.parametrize("table", TABLES)
def test_every_guard_holds(store: Store, prompt: Prompt, when: str, what: str, table: str) -> None:
    """Whichever table a TEMP trigger is on, and whatever calls it: what is refused without it changes nothing."""
    store.create(**names(id="run_1", metadata={"a": "b"}))
    store.claim(store.open_lease("w1"))
    store.create(**names(id="run_2"))
    bring_in_store(store, "completed", id="run_3", metadata={"a": "b"})
    store.close_lease(store.open_lease("w2"))
    for statement, given in (wrong for some in WRONG.values() for wrong in some):
        with prompt.undone():
            assert prompt.refusal(statement, given) is not None, statement
    add(prompt, f"{when} {what}", table)
    for statement, given in (wrong for some in WRONG.values() for wrong in some):
        everything_refused(prompt, statement, given)


def test_no_instead_of_trigger(store: Store, prompt: Prompt) -> None:
    """SQLite creates INSTEAD OF triggers on views alone."""
    for what, table in product(("INSERT", "UPDATE", "DELETE"), TABLES):
        sentence = prompt.refusal(
            f"CREATE TEMP TRIGGER z INSTEAD OF {what} ON main.{table} BEGIN SELECT raise(IGNORE); END"
        )
        assert sentence is not None


# --- the entry --------------------------------------------------------------------------------------------------------

SUPPRESSING = [
    ("AFTER UPDATE", "runstate_run"),
    ("BEFORE INSERT", "runstate_history"),
    ("AFTER UPDATE OF version", "runstate_run"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("when", "table"), SUPPRESSING)
@pytest.mark.parametrize(("source", "event"), sorted(TABLE))
def test_no_second_move_without_an_entry(
    store: Store, prompt: Prompt, when: str, table: str, source: str, event: str
) -> None:
    """A suppressed entry is still in the row; nothing moves the run on before it is in the history, and no other is."""
    run = bring_in_store(store, source)
    drop = add(prompt, when, table)
    columns = by_hand(prompt.one(run.id), event, TABLE[source, event])
    prompt.run(*update(columns, run.id))
    assert columns["version"] == prompt.one(run.id)["version"] == len(prompt.entries(run.id)) + 1
    for is_dropped in (False, True):
        if is_dropped:
            prompt.run(drop)
        for next_event, target, further in moves(prompt, run.id):
            everything_refused(prompt, *update({**further, "changed_at_us": LATER + 1}, run.id))
            if is_dropped and (columns["status"], next_event) in TABLE:
                sentence = prompt.refusal(*update(by_hand(prompt.one(run.id), next_event, target), run.id))
                assert UNRECORDED in (sentence or "accepted")
    right = {"run": run.seq, "version": columns["version"], "event": event, "source": source}
    right |= {"target": columns["status"], "at_us": LATER, "actor": "hand", "detail": None}
    for column, value in {
        "version": 1,
        "event": "expire",
        "source": "completed",
        "target": "queued",
        "at_us": LATER - 1,
        "actor": "somebody",
        "detail": "{}",
    }.items():
        if right[column] != value:
            everything_refused(prompt, *insert({**right, column: value}, "runstate_history"))
    prompt.run(REPAIR, [run.id])
    everything_refused(prompt, REPAIR, [run.id])
    everything_refused(prompt, REPAIR.replace("INSERT", "INSERT OR REPLACE"), [run.id])
    assert [entry.version for entry in store.history(run.id)] == list(range(1, columns["version"] + 1))
    assert store.history(run.id)[-1].event == event
    if columns["status"] in LIVE:
        assert "expired" == store.expire(run.id).status


def test_a_birth_without_an_entry(store: Store, prompt: Prompt) -> None:
    """The same of a run whose first entry was suppressed."""
    for number, (when, table) in enumerate(
        [("AFTER INSERT", "runstate_run"), ("BEFORE INSERT", "runstate_history")], start=1
    ):
        drop = add(prompt, when, table)
        prompt.run(*insert(birth(f"run_{number}")))
        prompt.run(drop)
        with pytest.raises(RunstateError, match=UNRECORDED):
            store.start(f"run_{number}")
        prompt.run(REPAIR, [f"run_{number}"])
        assert "in_progress" == store.start(f"run_{number}").status


# --- triggers that write ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "table"),
    [
        *product(("BEFORE UPDATE", "AFTER UPDATE"), ("runstate_run",)),
        *product(("BEFORE INSERT", "AFTER INSERT"), ("runstate_history",)),
    ],
)
def test_no_update_inside_another(store: Store, prompt: Prompt, when: str, table: str) -> None:
    """SQLite enters no trigger while it is active; so no statement of a guard leads to a trigger of the connection."""
    one, two = store.create(**names(id="run_1")), bring_in_store(store, "completed", id="run_2")
    for wrong in (
        "status = 'failed'",
        "status = 'in_progress', event = 'start', source = 'queued', version = version + 1",
        "version = version + 1",
        "version = version + 7",
        "worker = 7, attempt = 2",
        "thread_id = 'thread_7'",
    ):
        row = "NEW.run" if table == "runstate_history" else "NEW.seq"
        drop = add(prompt, when, table, f"UPDATE runstate_run SET {wrong} WHERE seq = {two.seq}", f"{row} = {one.seq}")
        everything_refused(prompt, *update(by_hand(prompt.one(one.id), "start", "in_progress"), one.id))
        prompt.run(drop)
    assert "in_progress" == store.start(one.id).status


@pytest.mark.slow
@pytest.mark.parametrize(("source", "event"), sorted(TABLE))
def test_no_move_of_a_row_that_has_moved_meanwhile(store: Store, prompt: Prompt, source: str, event: str) -> None:
    """An update whose row a BEFORE trigger moves is refused, though OLD is still what the statement has found."""
    run = bring_in_store(store, source)
    row = prompt.one(run.id)
    wanted = by_hand(row, event, TABLE[source, event])
    add(prompt, "AFTER UPDATE", "runstate_run")
    for inner in sorted(inner for status, inner in TABLE if status == source):
        columns = by_hand(row, inner, TABLE[source, inner])
        values = ", ".join(f"{name} = {_literal(value)}" for name, value in columns.items())
        body = f"UPDATE runstate_run SET {values} WHERE seq = OLD.seq"
        drop = add(prompt, "BEFORE UPDATE", "runstate_run", body, "OLD.actor IS NOT 'hand' AND NEW.actor = 'outer'")
        for kept in ("status", "version", "event", "source", "changed_at_us", "actor"):
            outer = {name: value for name, value in wanted.items() if name != kept}
            everything_refused(prompt, *update({**outer, "actor": "outer"}, run.id))
        everything_refused(prompt, *update({**wanted, "actor": "outer"}, run.id))
        prompt.run(drop)


def _literal(value: object) -> str:
    return "NULL" if value is None else str(value) if isinstance(value, int) else "'" + str(value) + "'"


def test_no_release_of_a_run_that_has_ended_meanwhile(store: Store, prompt: Prompt) -> None:
    """Nor does a claim change where a BEFORE trigger ends the run, or releases it."""
    store.create(**names(id="run_1"))
    store.claim(store.open_lease("w1"))
    row = prompt.one("run_1")
    ended = by_hand(row, "complete", "completed")
    for columns in (ended, {"worker": 0, "attempt": 0}):
        values = ", ".join(f"{name} = {_literal(value)}" for name, value in columns.items())
        body = f"UPDATE runstate_run SET {values} WHERE seq = OLD.seq"
        drop = add(prompt, "BEFORE UPDATE", "runstate_run", body, "NEW.attempt = 0 AND OLD.attempt = 1")
        everything_refused(prompt, *update({"worker": 0, "attempt": 0}, "run_1"))
        prompt.run(drop)


def test_no_lease_is_opened_again(store: Store, prompt: Prompt) -> None:
    """A lease that a BEFORE trigger closes stays closed."""
    lease = store.open_lease("w1")
    body = "UPDATE runstate_worker_session SET closed = 1 WHERE token = OLD.token"
    add(prompt, "BEFORE UPDATE", "runstate_worker_session", body, "OLD.closed = 0 AND NEW.closed = 0")
    before = prompt.everything()
    sentence = prompt.refusal("UPDATE runstate_worker_session SET closed = 0 WHERE token = ?", [lease.token])
    assert "a lease that was closed stays closed" in (sentence or "accepted")
    assert before == prompt.everything()


# --- what remains -----------------------------------------------------------------------------------------------------


def test_what_a_temp_trigger_can_do(store: Store, prompt: Prompt) -> None:
    """What SECURITY.md says of them: it cancels writes of its connection, and those of the triggers that follow."""
    ended = bring_in_store(store, "completed", id="run_1", metadata={"a": "b"})
    drop = add(prompt, "AFTER DELETE", "runstate_run")
    prompt.run("DELETE FROM runstate_run WHERE id = 'run_1'")  # the run is gone, and what belonged to it is left
    assert 3 == len(prompt.rows("runstate_history", "WHERE run = ?", [ended.seq]))
    assert 1 == len(prompt.rows("runstate_run_config"))
    prompt.run(drop)
    store.create(**names(id="run_2"))
    store.start("run_2")
    replaced = insert(birth("run_2"), head="INSERT OR REPLACE")
    everything_refused(prompt, *replaced)
    add(prompt, "BEFORE INSERT", "runstate_worker_session")
    if prompt.run("PRAGMA recursive_triggers") == [(1,)]:  # SQLite then calls the triggers of what it replaces
        everything_refused(prompt, *replaced)
    else:
        prompt.run(*replaced)  # the row of a new run is in the place of the old one
        assert ("queued", 1) == (prompt.one("run_2")["status"], prompt.one("run_2")["version"])
