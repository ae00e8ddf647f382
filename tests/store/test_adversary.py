"""An adversary with an SQL prompt: what takes several columns, several statements, or a trick of the dialect."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import Any

import pytest

from runstate import ManualClock, RunEvent, Usage
from runstate.errors import LeaseLost, ThreadBusy
from runstate.store import Store
from runstate.store._worker_types import Settle
from tests.store.support import (
    FIRST,
    LATER,
    Prompt,
    Refused,
    ask_store,
    birth,
    bring_in_store,
    by_hand,
    insert,
    names,
    update,
)
from tests.store.test_jumps import FREE, spoilt
from tests.support.lifecycle import LIVE, STAMPS, STATUSES, TABLE, TERMINAL

pytestmark = pytest.mark.slow  # plain SQL against every guard


def refused(prompt: Prompt, statement: str, given: Any = ()) -> str:
    """Return the sentence of a refusal; the database must be as it was before."""
    before = prompt.everything()
    sentence = prompt.refusal(statement, given)
    assert sentence is not None, f"accepted: {statement} {given}"
    assert before == prompt.everything()
    return sentence


# --- several columns --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", STATUSES)
def test_no_version_is_skipped_or_taken_back(store: Store, prompt: Prompt, clock: object, status: str) -> None:
    """A move that is right but for its version is refused; so is a version without a move."""
    run = bring_in_store(store, status)
    row = prompt.one(run.id)
    for event, target in {(event, target) for (source, event), target in TABLE.items() if source == status}:
        columns = by_hand(row, event, target)
        for step in (-1, 0, 2, 3, 100):
            refused(prompt, *update({**columns, "version": row["version"] + step}, run.id))
    for step in (-1, 1, 2, 100):
        refused(prompt, *update({"version": row["version"] + step}, run.id))
        refused(prompt, *update({"version": row["version"] + step, "changed_at_us": LATER}, run.id))


@pytest.mark.parametrize("status", [status for status in STATUSES if status != "queued"])
def test_no_move_is_taken_back(store: Store, prompt: Prompt, clock: object, status: str) -> None:
    """The row as it was before the last move cannot be put in its place, with its old version, its own, or the next."""
    run = bring_in_store(store, "queued", id="run_1")
    rows = [prompt.one(run.id)]
    from tests.support.lifecycle import WAYS

    for event in WAYS[status]:
        ask_store(store, run.id, event)
        rows.append(prompt.one(run.id))
    now = rows.pop()
    for earlier in rows:
        old = {name: value for name, value in earlier.items() if name not in ("seq", "id")}
        refused(prompt, *update(old, run.id))
        refused(prompt, *update({**old, "version": now["version"]}, run.id))
        refused(prompt, *update({**old, "version": now["version"] + 1, "changed_at_us": LATER}, run.id))


@pytest.mark.parametrize("status", STATUSES)
def test_no_stamp_without_a_transition(store: Store, prompt: Prompt, clock: object, status: str) -> None:
    """Stamps cannot be set, moved or cleared together, nor the deadline with them, while the version stays."""
    run = bring_in_store(store, status)
    row = prompt.one(run.id)
    for value in (None, FIRST // 1_000_000, FIRST // 1_000_000 + 1, LATER // 1_000_000):
        columns = dict.fromkeys(STAMPS, value)
        if any(row[stamp] != value for stamp in STAMPS):
            refused(prompt, *update(columns, run.id))
            refused(prompt, *update({**columns, "changed_at_us": LATER}, run.id))
        refused(prompt, *update({"expires_at": (row["expires_at"] or 0) + 600, "changed_at_us": LATER}, run.id))
        refused(prompt, *update({"created_at": row["created_at"] + 5, "expires_at": row["expires_at"]}, run.id))


@pytest.mark.parametrize(("source", "event"), sorted(TABLE))
def test_no_transition_without_its_bookkeeping(
    store: Store, prompt: Prompt, clock: object, source: str, event: str
) -> None:
    """A new status alone, or without its version, time, source, event, stamp or fields, is refused."""
    run = bring_in_store(store, source)
    columns = by_hand(prompt.one(run.id), event, TABLE[source, event])
    refused(prompt, *update({"status": columns["status"]}, run.id))
    for kept_back in (
        ("version",),
        ("event",),
        ("source",),
        ("event", "source"),
        ("version", "changed_at_us", "source", "event"),
        tuple(STAMPS),
        ("expires_at", "required_action", "last_error", "incomplete_details", "usage"),
    ):
        changing = {name for name in kept_back if columns[name] != prompt.one(run.id)[name]}
        if changing:
            refused(prompt, *update({name: value for name, value in columns.items() if name not in changing}, run.id))


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_nothing_wakes_the_dead(store: Store, prompt: Prompt, clock: object, status: str) -> None:
    """No UPDATE brings an ended run back to life, whatever else it sets."""
    run = bring_in_store(store, status)
    row = prompt.one(run.id)
    for target in sorted(LIVE):
        for event in ("start", "require_action", "submit_tool_outputs", "request_cancel"):
            columns = by_hand(row, event, target)
            refused(prompt, *update(columns, run.id))
            refused(prompt, *update({**columns, **dict.fromkeys(STAMPS), "version": row["version"]}, run.id))
            refused(prompt, *update({**columns, "version": 1, "event": None, "source": None}, run.id))


def test_runs_do_not_change_places(store: Store, prompt: Prompt, clock: object) -> None:
    """Two runs cannot swap ids, numbers, threads or keys."""
    one = store.create(**names(id="run_1", idempotency_key="key_1"))
    two = store.create(**names(id="run_2", thread_id="thread_2", idempotency_key="key_2"))
    for column, values in {
        "id": (one.id, two.id),
        "seq": (one.seq, two.seq),
        "thread_id": ("thread_1", "thread_2"),
        "idempotency_key": ("key_1", "key_2"),
    }.items():
        case = f"UPDATE runstate_run SET {column} = CASE {column} WHEN ? THEN ? ELSE ? END"
        if not prompt.is_sqlite:
            kind = "bigint" if column == "seq" else "text"
            case = case.replace("?", f"?::{kind}")
        refused(prompt, case, [values[0], values[1], values[0]])


# --- workers ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def held(store: Store, clock: object) -> Any:
    """A run that a worker with a good lease works on."""
    store.create(**names(id="run_1"))
    lease = store.open_lease("w1")
    (claim,) = store.claim(lease)
    return lease, claim.run


def test_no_take_over_of_a_live_lease(store: Store, prompt: Prompt, held: Any) -> None:
    """A run is not taken from a worker whose lease holds: not by another's token, nor by nobody's."""
    lease, run = held
    thief = store.open_lease("thief")
    for token in (thief.token, 1, -1, 2**62):
        sentence = refused(prompt, *update({"worker": token, "attempt": 2, "lost": 1}, run.id))
        assert "taken over only from a worker whose lease has been closed" in sentence
    for columns in (
        {"worker": None},
        {"worker": None, "attempt": 0},
        {"worker": None, "attempt": 2},
        {"worker": 0, "attempt": 2},
        {"worker": 0, "attempt": -1},
        {"worker": thief.token, "attempt": 0},
        {"worker": thief.token, "attempt": 2},
        {"worker": thief.token, "attempt": 2, "lost": 2},
        {"worker": thief.token, "attempt": 2, "lost": 1, "failed": 1},
        {"worker": 0, "lost": 1},
        {"lost": 1},
        {"failed": 1},
        {"worker": thief.token, "attempt": 1},
        {"worker": thief.token, "attempt": 3},
        {"attempt": 0},
        {"attempt": 2},
    ):
        refused(prompt, *update(columns, run.id))
    settled = store.settle(lease, [Settle(run, RunEvent.COMPLETE)])
    assert {} == settled.refused


def test_a_lapsed_worker_is_fenced_off(store: Store, prompt: Prompt, held: Any) -> None:
    """Once its lease is closed its runs can be taken over, with the attempt counted, and it cannot settle them."""
    lease, run = held
    store.close_lease(lease)
    other = store.open_lease("w2")
    refused(prompt, *update({"worker": other.token}, run.id))
    refused(prompt, *update({"worker": other.token, "attempt": 3, "lost": 1}, run.id))
    refused(prompt, *update({"worker": other.token, "attempt": 2}, run.id))
    assert 1 == prompt.changed(*update({"worker": other.token, "attempt": 2, "lost": 1}, run.id))
    settled = store.settle(lease, [Settle(run, RunEvent.COMPLETE)])
    assert isinstance(settled.refused[run.seq], LeaseLost)
    assert "in_progress" == store.get(run.id).status


def test_leases_are_kept(store: Store, prompt: Prompt, held: Any) -> None:
    """A closed lease stays closed, a token stays, and no lease goes while a run belongs to it; nobody's never goes."""
    lease, _ = held
    refused(prompt, "UPDATE runstate_worker_session SET token = 5 WHERE token = ?", [lease.token])
    refused(prompt, "DELETE FROM runstate_worker_session WHERE token = ?", [lease.token])
    refused(prompt, "DELETE FROM runstate_worker_session WHERE token = 0")
    refused(prompt, "UPDATE runstate_worker_session SET closed = 0 WHERE token = 0")
    store.close_lease(lease)
    refused(prompt, "UPDATE runstate_worker_session SET closed = 0 WHERE token = ?", [lease.token])
    refused(prompt, "DELETE FROM runstate_worker_session")
    columns = "(token, name, began_at_us, lease_until_us, closed)"
    again = f"INTO runstate_worker_session {columns} VALUES (?, 'x', 0, 9000000000000000, 0)"
    for head in ("INSERT", "INSERT OR REPLACE", "REPLACE") if prompt.is_sqlite else ("INSERT",):
        refused(prompt, f"{head} {again}", [lease.token])
    assert 0 == prompt.changed(f"INSERT {again} ON CONFLICT (token) DO NOTHING", [lease.token])
    idle = store.open_lease("idle")
    assert 1 == prompt.changed("DELETE FROM runstate_worker_session WHERE token = ?", [idle.token])


def test_leases_have_an_end(store: Store, prompt: Prompt, clock: object) -> None:
    """A token is not negative, and a lease ends when it began or later, before the year 10000."""
    lease = store.open_lease("w1")
    (session,) = prompt.rows("runstate_worker_session", "WHERE token = ?", [lease.token])
    began_at_us, lease_until_us = session["began_at_us"], session["lease_until_us"]
    year_10000 = 253_402_300_800_000_000
    for column, values in {
        "began_at_us": (-1, None, lease_until_us + 1, 2**63 - 1),
        "lease_until_us": (-1, 0, began_at_us - 1, year_10000, 2**63 - 1, None),
        "closed": (-1, 2, None),
    }.items():
        for value in values:
            refused(prompt, f"UPDATE runstate_worker_session SET {column} = ? WHERE token = ?", [value, lease.token])
    for values in (
        *((-1, 0, 9, 0), (-(2**63), 0, 9, 0), (-1, 0, 9, 1), (0, 0, 0, 1), (0, 0, 0, 0)),
        *((5, -1, 9, 0), (5, 9, 8, 0), (5, 0, year_10000, 0), (5, -9, -1, 0), (5, 2**62, 2**62 + 1, 1)),
    ):
        columns = dict(zip(("token", "began_at_us", "lease_until_us", "closed"), values, strict=True))
        refused(prompt, *insert({**columns, "name": "x"}, "runstate_worker_session"))
    for end in (began_at_us, year_10000 - 1):
        with prompt.undone():
            statement = "UPDATE runstate_worker_session SET lease_until_us = ? WHERE token = ?"
            assert 1 == prompt.changed(statement, [end, lease.token])
    assert store.heartbeat(lease).held


def test_a_lease_by_a_clock_that_went_back(store: Store, prompt: Prompt, clock: ManualClock) -> None:
    """A worker whose clock goes back by more than its lease keeps it."""
    lease = store.open_lease("w1", lease_s=10)
    clock.now -= 60
    assert store.heartbeat(lease).held
    (session,) = prompt.rows("runstate_worker_session", "WHERE token = ?", [lease.token])
    assert FIRST == session["began_at_us"] == session["lease_until_us"]


def test_no_negative_number_of_tokens(store: Store, prompt: Prompt, held: Any) -> None:
    """A checkpoint counts the tokens that were used, which are none or some."""
    lease, run = held
    assert store.save_checkpoint(lease, run, usage=Usage(1, 2, 3))
    for column in ("prompt_tokens", "completion_tokens"):
        for value in (-1, -(2**63), None):
            refused(prompt, f"UPDATE runstate_checkpoint SET {column} = ? WHERE run = ?", [value, run.seq])
        refused(prompt, *insert({"run": run.seq + 1, column: -5}, "runstate_checkpoint"))


# --- readiness --------------------------------------------------------------------------------------------------------


def test_what_gets_ready(store: Store, prompt: Prompt, clock: object) -> None:
    """A waiting run gets ready once, at its time or later; a ready one stays so, at the time it was."""
    run = store.create(**names(not_before=FIRST / 1e6 + 100))
    due = FIRST + 100_000_000
    for value in (0, FIRST, due - 1, -1):
        refused(prompt, *update({"claimable_at_us": value}, run.id))
    refused(prompt, *update({"claimable_at_us": due, "not_before_us": FIRST}, run.id))
    refused(prompt, *update({"claimable_at_us": due, "not_before_us": None}, run.id))
    columns = {**by_hand(prompt.one(run.id), "start", "in_progress"), "claimable_at_us": due}
    refused(prompt, *update(columns, run.id))  # not in the move itself
    refused(prompt, *update(by_hand(prompt.one(run.id), "start", "in_progress"), run.id))  # nor is it started unready
    assert 1 == prompt.changed(*update({"claimable_at_us": due + 5}, run.id))
    for other in (None, 0, due, due + 6):
        refused(prompt, *update({"claimable_at_us": other}, run.id))


@pytest.mark.parametrize("first", ["reject", "queue"])
def test_one_live_run_of_a_thread(store: Store, prompt: Prompt, clock: object, first: Any) -> None:
    """A second live run that is to be its thread's only one is refused, however it comes."""
    head = store.create(**names(id="run_1", one_live_run_per_thread=first))
    behind = store.create(**names(id="run_2", one_live_run_per_thread="queue"))
    assert (True, False) == (head.claimable, behind.claimable)
    heads = ["INSERT", "INSERT OR REPLACE", "INSERT OR FAIL", "INSERT OR ROLLBACK"] if prompt.is_sqlite else ["INSERT"]
    for policy in ("reject", "queue"):
        for text in heads:
            refused(prompt, *insert(birth("run_3", thread_id="thread_1", thread_policy=policy), head=text))
    heads = ["UPDATE", "UPDATE OR REPLACE", "UPDATE OR FAIL"] if prompt.is_sqlite else ["UPDATE"]
    for text in heads:
        refused(prompt, *update({"claimable_at_us": LATER}, behind.id, text))
        refused(prompt, *update({"thread_policy": None}, behind.id, text))
    with pytest.raises(ThreadBusy) as busy:
        store.create(**names(one_live_run_per_thread="reject"))
    assert (head.thread_id, head.id) == (busy.value.thread_id, busy.value.run_id)
    assert {head.id, behind.id} == {run.id for run in store.list().data}


# --- a statement that puts one row in the place of another ------------------------------------------------------------


@pytest.fixture
def three(store: Store, clock: object) -> list[str]:
    """A live run, an ended one, and the only live one of its thread under a key."""
    bring_in_store(store, "in_progress", id="run_1", metadata={"a": "b"})
    bring_in_store(store, "completed", id="run_2")
    store.create(**names(id="run_3", thread_id="thread_3", one_live_run_per_thread="reject", idempotency_key="key_3"))
    return ["run_1", "run_2", "run_3"]


def collisions(prompt: Prompt, three: list[str]) -> dict[str, dict[str, object]]:
    """Return births that something stands in the way of, by what that is."""
    return {
        "the id of a live run": birth(three[0]),
        "the id of an ended run": birth(three[1]),
        "the number of a live run": birth("run_9", seq=prompt.one(three[0])["seq"]),
        "the key": birth("run_9", idempotency_key="key_3"),
        "the thread": birth("run_9", thread_id="thread_3", thread_policy="reject"),
        "the thread, to wait for": birth("run_9", thread_id="thread_3", thread_policy="queue"),
        "both the id and the key": birth(three[0], idempotency_key="key_3"),
    }


def test_a_birth_replaces_nobody(prompt: Prompt, three: list[str]) -> None:
    """INSERT in all its forms leaves those who stand in the way, live or ended, as they were."""
    before = prompt.everything()
    heads = ("INSERT OR REPLACE", "REPLACE", "INSERT OR FAIL", "INSERT OR ROLLBACK", "INSERT OR ABORT")
    for what, columns in collisions(prompt, three).items():
        if not prompt.is_sqlite and "seq" in columns:
            statement, values = insert(columns)
            refused(prompt, statement.replace(" VALUES", " OVERRIDING SYSTEM VALUE VALUES"), values)
            continue
        for head in heads if prompt.is_sqlite else ():
            sentence = refused(prompt, *insert(columns, head=head))
            if "REPLACE" in head:
                assert "runstate: a run that is there is never replaced" in sentence, what
        refused(prompt, *insert(columns))
        if prompt.is_sqlite:
            assert 0 == prompt.changed(*insert(columns, head="INSERT OR IGNORE"))
        statement, values = insert(columns)
        if (
            not prompt.is_sqlite and columns.get("thread_policy") is not None
        ):  # the conflict is one of a trigger's insert
            refused(prompt, f"{statement} ON CONFLICT DO NOTHING", values)
        else:
            assert 0 == prompt.changed(f"{statement} ON CONFLICT DO NOTHING", values), what
    assert before == prompt.everything()


def test_an_upsert_is_an_update(prompt: Prompt, three: list[str]) -> None:
    """What ON CONFLICT DO UPDATE changes, the guards judge like any other change."""
    before = prompt.everything()
    for target in ("id", "idempotency_key"):
        for changes in (
            "status = 'failed'",
            "version = excluded.version, changed_at_us = excluded.changed_at_us + 1",
            "version = runstate_run.version + 1",
            "actor = 'me'",
            "status = 'completed', version = runstate_run.version + 1, event = 'complete', source = 'in_progress'",
            "thread_id = 'thread_9'",
            "expires_at = 253402300799",
        ):
            columns = birth("run_1", idempotency_key=None if target == "id" else "key_3")
            columns["id"] = "run_1" if target == "id" else "run_9"
            statement, values = insert(columns)
            where = " WHERE idempotency_key IS NOT NULL" if target == "idempotency_key" else ""
            refused(prompt, f"{statement} ON CONFLICT ({target}){where} DO UPDATE SET {changes}", values)
    assert before == prompt.everything()


def test_replacing_with_recursive_triggers(store_url: str, store: Store, three: list[str]) -> None:
    """SQLite's own switch for triggers changes nothing about it, nor does it keep a good move from being made."""
    with Prompt(store_url) as prompt:
        if not prompt.is_sqlite:
            pytest.skip("a switch of SQLite's")
        prompt.run("PRAGMA recursive_triggers = 1")
        for columns in collisions(prompt, three).values():
            refused(prompt, *insert(columns, head="REPLACE"))
        waiting = store.create(**names(id="run_8", thread_id="thread_3", one_live_run_per_thread="queue"))
        columns = by_hand(prompt.one("run_3"), "expire", "expired")
        prompt.run(*update(columns, "run_3"))
        assert store.get(waiting.id).claimable


def test_the_last_entry_is_not_written_again(prompt: Prompt, three: list[str]) -> None:
    """SQLite's OR REPLACE would give a copy of the last entry a new place among those of all runs."""
    for run_id in three:
        last = prompt.entries(run_id)[-1]
        copy = {name: value for name, value in last.items() if name != "id"}
        for columns in (last, copy, {**copy, "id": 10**9}):
            kept = columns if prompt.is_sqlite else {name: columns[name] for name in columns if name != "id"}
            for head in ("INSERT", "REPLACE", "INSERT OR REPLACE") if prompt.is_sqlite else ("INSERT",):
                refused(prompt, *insert(kept, "runstate_history", head))


def test_switching_checks_off(store: Store, prompt: Prompt, clock: object) -> None:
    """SQLite lets whoever asks ignore a table's checks, but no triggers: the law does not stand in checks."""
    if not prompt.is_sqlite:
        pytest.skip("a switch of SQLite's")
    prompt.run("PRAGMA ignore_check_constraints = 1")
    for source, event in sorted(TABLE):
        run_id = bring_in_store(store, source).id
        row = prompt.one(run_id)
        columns = by_hand(row, event, TABLE[source, event])
        before = prompt.everything()
        for place in row.keys() - FREE:
            for value in spoilt(columns, row, place):
                assert prompt.refusal(*update({**columns, place: value}, run_id)) is not None, (place, value)
        assert before == prompt.everything()
    for column, value in {"status": "paused", "usage": "{}", "expires_at": None, "detail": "null", "id": ""}.items():
        refused(prompt, *insert(birth("run_x", **{column: value})))


def test_a_connection_that_does_not_trust_the_schema(
    store: Store, store_url: str, prompt: Prompt, clock: object
) -> None:
    """`PRAGMA trusted_schema = 0`: all legal moves are accepted, unless SQLite distrusts its own JSON functions.

    Before 3.42 it lets no trigger and no CHECK call one then. Such a connection can neither write nor read the tables.
    """
    if not prompt.is_sqlite:
        pytest.skip("a switch of SQLite's")
    runs = {source: bring_in_store(store, source).id for source, _ in TABLE}
    with contextlib.closing(sqlite3.connect(":memory:")) as memory:
        memory.execute("CREATE TABLE other (value TEXT CHECK (json_valid(value)))")
        memory.execute("PRAGMA trusted_schema = 0")
        try:
            memory.execute("INSERT INTO other VALUES ('{}')")
        except sqlite3.DatabaseError:
            trusts_json = False
        else:
            trusts_json = True
    assert trusts_json or sqlite3.sqlite_version_info < (3, 42)
    for source, event in sorted(TABLE):
        statement, values = update(by_hand(prompt.one(runs[source]), event, TABLE[source, event]), runs[source])
        before = prompt.everything()
        with Prompt(store_url) as distrusting:
            distrusting.run("PRAGMA trusted_schema = 0")
            if trusts_json:
                with distrusting.undone():
                    assert 1 == distrusting.changed(statement, values)
            else:
                assert distrusting.refusal(statement, values) is not None
        assert before == prompt.everything()


# --- tricks of PostgreSQL ---------------------------------------------------------------------------------------------


@pytest.fixture
def postgres(prompt: Prompt) -> Prompt:
    if prompt.is_sqlite:
        pytest.skip("a trick that SQLite does not know")
    return prompt


def moved_right(prompt: Prompt, run_id: str) -> tuple[str, list[object]]:
    """Return an UPDATE that completes a run, all right, of the table by its full name."""
    statement, values = update(by_hand(prompt.one(run_id), "complete", "completed"), run_id)
    return statement.replace("runstate_run", "public.runstate_run"), values


def test_no_temporary_table_swallows_the_history(postgres: Prompt, store: Store, three: list[str]) -> None:
    """A table of the session's own with the history's name gets nothing: the entry goes where all see it."""
    statement, values = moved_right(postgres, "run_1")
    for name in ("history", "run", "worker_session", "run_config", "checkpoint"):
        postgres.run(f"CREATE TEMPORARY TABLE runstate_{name} (LIKE public.runstate_{name})")
    postgres.run(statement, values)
    assert [] == postgres.run("SELECT * FROM pg_temp.runstate_history")
    assert RunEvent.COMPLETE == store.history("run_1")[-1].event
    sentence = postgres.refusal("INSERT INTO public.runstate_run_config (id, config) VALUES ('run_3', '{}')")
    assert "what a run was created with never changes" in (sentence or "accepted")
    postgres.run("DELETE FROM public.runstate_run WHERE id = 'run_1'")
    assert [] == postgres.run("SELECT * FROM public.runstate_run_config")


def test_no_search_path_swallows_the_history(postgres: Prompt, store: Store, three: list[str]) -> None:
    """Nor does a schema of the session's own, with tables and operators by the same names."""
    statement, values = moved_right(postgres, "run_1")
    postgres.run("CREATE SCHEMA evil")
    try:
        for name in ("history", "run", "worker_session", "run_config", "checkpoint"):
            postgres.run(f"CREATE TABLE evil.runstate_{name} (LIKE public.runstate_{name})")
        yes = "CREATE FUNCTION evil.yes(bigint, bigint) RETURNS boolean LANGUAGE sql AS 'SELECT true'"
        for make in (yes, "CREATE OPERATOR evil.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = evil.yes)"):
            postgres.run(make)
        postgres.run("SET search_path = evil, pg_catalog, public")
        before = postgres.everything_of("public")
        lies = [
            "version = version + 1",
            "status = 'failed'",
            "status = 'completed', version = version + 1",
            "worker = 7, attempt = 2",
        ]
        for lie in (*lies, "created_at = created_at + 1", "changed_at_us = changed_at_us + 1", "attempt = attempt + 1"):
            for run_id in three:
                sentence = postgres.refusal(f"UPDATE public.runstate_run SET {lie} WHERE id = '{run_id}'")
                assert sentence is not None, lie
        assert before == postgres.everything_of("public")
        postgres.run("SET search_path = evil")
        postgres.run(statement, values)
        assert [] == postgres.run("SELECT * FROM evil.runstate_history")
        assert RunEvent.COMPLETE == store.history("run_1")[-1].event
    finally:
        postgres.run("SET search_path = public")
        postgres.run("DROP SCHEMA evil CASCADE")


def test_an_operator_that_hides_its_path(postgres: Prompt, three: list[str]) -> None:
    """The functions of the triggers have a path of their own, so no operator of the session's is called."""
    before = postgres.everything_of("public")
    postgres.run("CREATE SCHEMA evil")
    try:
        hide = "PERFORM set_config('search_path', 'public', false); RETURN true;"
        for left, right in (("bigint", "bigint"), ("bigint", "integer"), ("text", "text")):
            name = f"evil.yes({left}, {right})"
            postgres.run(f"CREATE FUNCTION {name} RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN {hide} END $$")
            postgres.run(f"CREATE OPERATOR evil.= (LEFTARG = {left}, RIGHTARG = {right}, FUNCTION = evil.yes)")
        for path in ("public, evil, pg_catalog", "evil, PG_CATALOG, public"):
            postgres.run(f"SET search_path = {path}")
            sentence = postgres.refusal(
                "UPDATE public.runstate_run SET status = 'completed', event = 'complete', source = 'completed',"
                " version = version OPERATOR(pg_catalog.+) 1,"
                " completed_at = changed_at_us OPERATOR(pg_catalog./) 1000000"
            )
            assert "illegal transition" in (sentence or "accepted")
    finally:
        postgres.run("SET search_path = public")
        postgres.run("DROP SCHEMA evil CASCADE")
    assert before == postgres.everything_of("public")


def test_the_number_of_a_run_by_its_other_names(prompt: Prompt, three: list[str]) -> None:
    """SQLite knows the key of a table by three more names, and for those no trigger on its column is called."""
    if not prompt.is_sqlite:
        pytest.skip("its rows have one name each")
    before = prompt.everything()
    for name in ("seq", "rowid", "oid", "_rowid_"):
        sentence = prompt.refusal(f"UPDATE runstate_run SET {name} = {name} + 100")
        assert "what a run was created with never changes" in (sentence or "accepted"), name
    assert before == prompt.everything()


def test_a_path_that_names_the_catalog(postgres: Prompt, store: Store, three: list[str]) -> None:
    """PostgreSQL's own schema may stand in the path by name: the same is refused, and the same accepted."""
    statement, values = moved_right(postgres, "run_1")
    before = postgres.everything()
    for path in (
        *("public, pg_catalog", "pg_catalog, public", "pg_catalog_2, public, pg_catalog", '"pg_catalog"'),
        *("public, PG_CATALOG", "public, Pg_Catalog"),
    ):
        postgres.run(f"SET search_path = {path}")
        sentence = postgres.refusal("UPDATE public.runstate_run SET status = 'failed', version = version + 1")
        assert "runstate: illegal transition" in (sentence or "accepted")
    postgres.run("SET search_path = public")
    assert before == postgres.everything()
    postgres.run("SET search_path = pg_catalog, public")
    postgres.run(statement, values)
    postgres.run("SET search_path = public")
    assert "completed" == store.get("run_1").status
    assert "completed" == store.get("run_1").status


def test_a_trigger_of_ones_own_is_no_way_in(postgres: Prompt, three: list[str]) -> None:
    """What is done from inside another trigger is judged as well."""
    before = postgres.everything()
    for statement in (
        "DELETE FROM runstate_history WHERE version = 1",
        "DELETE FROM runstate_history",
        "UPDATE runstate_history SET actor = 'me'",
        "UPDATE runstate_run SET status = 'failed'",
        "DELETE FROM runstate_run",
        "UPDATE runstate_run_config SET config = '{}'",
        "DELETE FROM runstate_run_config",
        "TRUNCATE runstate_history",
    ):
        postgres.run("CREATE TEMPORARY TABLE mine (id int)")
        body = f"BEGIN {statement}; RETURN NULL; END"
        postgres.run(f"CREATE FUNCTION pg_temp.mine() RETURNS trigger LANGUAGE plpgsql AS $${body}$$")
        postgres.run("CREATE TRIGGER mine AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION pg_temp.mine()")
        assert "runstate: " in (postgres.refusal("INSERT INTO mine VALUES (1)") or "accepted"), statement
        postgres.run("DROP TABLE mine; DROP FUNCTION pg_temp.mine()")
    assert before == postgres.everything()


def test_copy_and_merge_are_judged_too(postgres: Prompt, three: list[str]) -> None:
    """COPY into the tables and MERGE with them go through the same guards."""
    before = postgres.everything()
    columns = "run, version, event, source, target, at_us"

    def copy_into(table: str, columns: str, values: tuple[object, ...]) -> None:
        with postgres.connection.cursor().copy(f"COPY {table} ({columns}) FROM STDIN") as copy:
            copy.write_row(values)

    with pytest.raises(Refused, match="the history is written by the database alone"):
        copy_into("runstate_history", columns, (1, 9, "expire", "queued", "expired", LATER))
    row = birth("run_9", status="in_progress", version=2, started_at=FIRST // 1_000_000)
    with pytest.raises(Refused, match="a run is born queued"):
        copy_into("runstate_run", ", ".join(row), tuple(row.values()))
    merge = (
        "MERGE INTO runstate_run AS r USING (VALUES ('run_1')) AS v (id) ON r.id = v.id"
        " WHEN MATCHED THEN UPDATE SET status = 'queued'"
    )
    for change in (merge, merge.replace("UPDATE SET status = 'queued'", "DELETE")):
        assert "runstate: " in (postgres.refusal(change) or "accepted")
    assert before == postgres.everything()


def test_ctes_are_judged_too(postgres: Prompt, three: list[str]) -> None:
    """A writing CTE, two moves of one row in a statement, and a refusal among many rows change nothing."""
    before = postgres.everything()
    for statement in (
        "WITH gone AS (DELETE FROM runstate_history RETURNING *) SELECT count(*) FROM gone",
        "WITH gone AS (DELETE FROM runstate_run RETURNING *) SELECT count(*) FROM gone",
        "WITH moved AS (UPDATE runstate_run SET status = 'failed' RETURNING *) SELECT count(*) FROM moved",
        "UPDATE runstate_run SET version = version + 1, changed_at_us = changed_at_us + 1",
    ):
        assert "runstate: " in (postgres.refusal(statement) or "accepted")
    assert before == postgres.everything()


def test_a_refusal_says_which_run(postgres: Prompt, three: list[str]) -> None:
    """People read the run and the move in PostgreSQL's detail; programs a check_violation with the guard's name."""
    import psycopg

    with pytest.raises(psycopg.errors.CheckViolation) as refusal:
        postgres.run("UPDATE runstate_run SET status = 'completed', version = version + 1 WHERE id = 'run_3'")
    detail = refusal.value.diag
    assert "run run_3: nothing from queued to completed" == detail.message_detail
    assert (detail.constraint_name or "").startswith("runstate_")
