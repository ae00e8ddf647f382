"""The databases' own trouble: one sentence in the library's words, nothing half done, and on it goes afterwards."""

from __future__ import annotations

import asyncio
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runstate import ManualClock, RunEvent
from runstate.errors import OutcomeUnknown, SchemaMismatch, StoreError, StoreUnavailable
from runstate.store import Store, StoredRun, open_store
from runstate.store._engine.commands import Command, InTransaction
from runstate.store._engine.executor import execute_batch
from runstate.store._postgres.connection import PostgresConnection
from runstate.store._sql.connection import Connection
from runstate.store._sqlite.connection import SqliteConnection
from runstate.store._worker_types import Settle
from tests.store.support import TABLES, Prompt, names, wait_for_a_lock
from tests.support.postgres import LIMIT, Server, wait_until


def trouble(error: BaseException) -> str:
    """Return the sentence of an error of the store: one line, the driver's error behind it."""
    assert isinstance(error, StoreError)
    assert "\n" not in str(error)
    return str(error)


# --- SQLite -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'runs.db'}"


def test_another_writes_for_too_long(sqlite_url: str) -> None:
    """Who waits for the right to write longer than `wait_s` is told so, may ask again, and can read meanwhile."""
    with open_store(sqlite_url, wait_s=0.1) as store, Prompt(sqlite_url) as other:
        run = store.create(**names(id="run_1"))
        other.run("BEGIN IMMEDIATE")
        began = time.monotonic()
        with pytest.raises(StoreUnavailable) as busy:
            store.start("run_1")
        assert 0.1 <= time.monotonic() - began < LIMIT
        assert "is busy: another connection has been writing for too long" in trouble(busy.value)
        assert busy.value.retryable
        assert run == store.get("run_1")
        other.run("COMMIT")
        assert "in_progress" == store.start("run_1").status


def test_many_wait_at_once(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asked together waits together: nobody stands in a row of others that each wait as long."""
    began: list[None] = []
    begin = SqliteConnection._begin

    def counting(session: SqliteConnection) -> None:
        began.append(None)
        begin(session)

    with open_store(sqlite_url, wait_s=0.1) as store, Prompt(sqlite_url) as other:
        other.run("BEGIN IMMEDIATE")
        monkeypatch.setattr(SqliteConnection, "_begin", counting)

        async def ask_all() -> list[StoredRun | BaseException]:
            asked = [store.aio.create(**names(id=f"run_{number}")) for number in range(20)]
            return await asyncio.gather(*asked, return_exceptions=True)

        assert all(isinstance(error, StoreUnavailable) for error in asyncio.run(ask_all()))
        assert len(began) <= 2, "the first may go alone"
        other.run("COMMIT")
        assert 20 == len(asyncio.run(ask_all()))
        assert 20 == len(store.list().data)


def test_another_writes_for_a_moment(sqlite_url: str) -> None:
    """Who waits not too long gets its turn."""
    with open_store(sqlite_url) as store, Prompt(sqlite_url) as other:
        other.run("BEGIN IMMEDIATE")
        timer = threading.Timer(0.1, lambda: other.run("COMMIT"))
        timer.start()
        assert store.create(**names()).claimable
        timer.join()


def test_a_full_disk(sqlite_url: str) -> None:
    """What does not fit is refused as a whole, and what fits again is taken."""
    with open_store(sqlite_url) as store:

        def limit(pages: int) -> None:
            store._transport.execute(
                InTransaction(lambda session: session.execute(f"PRAGMA max_page_count = {pages}", {}))
            )

        store.create(**names(id="run_1"))
        limit(1)  # as many as there are
        with pytest.raises(StoreUnavailable) as full:
            store.create_many([names(instructions="x" * 5000)] * 50)
        assert "the disk is full; nothing was changed" in trouble(full.value)
        assert ["run_1"] == [run.id for run in store.list().data]
        limit(10**6)
        assert 50 == len(store.create_many([names(instructions="x" * 5000)] * 50))


def test_the_tables_are_gone(sqlite_url: str) -> None:
    """A store that lost its tables says that there is none, to who writes and who reads."""
    with open_store(sqlite_url) as store, Prompt(sqlite_url) as other:
        for table in TABLES:
            other.run(f"DROP TABLE {table}")
        asking: list[Any] = [lambda: store.create(**names()), lambda: store.get("run_1"), store.sweep, store.counts]
        for ask in asking:
            with pytest.raises(SchemaMismatch, match="has no store of this version") as gone:
                ask()
            assert "`runstate migrate` makes one" in trouble(gone.value)


def test_a_column_is_gone(sqlite_url: str) -> None:
    """Nor is it a store without a column; a statement that SQLite refuses for another reason is no matter of that."""
    with open_store(sqlite_url) as store, Prompt(sqlite_url) as other:
        wrong: InTransaction[Any] = InTransaction(lambda session: session.execute("SELECT no_such_function()", {}))
        with pytest.raises(StoreError) as refused:
            store._transport.execute(wrong)
        assert type(refused.value) is StoreError
        other.run("ALTER TABLE runstate_run RENAME COLUMN required_action TO other")
        with pytest.raises(SchemaMismatch, match="has no store of this version"):
            store.get("run_1")
        with pytest.raises(SchemaMismatch, match="has no store of this version"):
            store._transport.execute(wrong)


def test_a_row_that_is_nonsense(sqlite_url: str) -> None:
    """A text that is no text, put there by hand, is a sentence too."""
    with open_store(sqlite_url) as store:
        store.create(**names(id="run_1"))
        with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as other:
            other.execute("DROP TRIGGER runstate_guard_update")
            other.execute("UPDATE runstate_run SET actor = CAST(x'ff' AS TEXT)")
            other.commit()
        with pytest.raises(StoreError) as unreadable:
            store.get("run_1")
        assert "actor" in trouble(unreadable.value)


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(postgres_server: Server) -> Iterator[str]:
    """The URL of a store of the test's own."""
    url = postgres_server.create_database()
    open_store(url, migrate=True).close()
    yield url
    postgres_server.drop_database(url)


def hang_up(prompt: Prompt) -> None:
    """Break every other connection to the database."""
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    # Again and again: one that is just being made is not among them yet.
    ended = f"SELECT pg_terminate_backend(pid) {others} AND state IS NOT NULL"
    wait_until(lambda: not prompt.run(ended), "the connections to be gone")


@pytest.fixture
def broken(home: str, clock: ManualClock) -> Iterator[tuple[Store, Prompt]]:
    """A store with a queued run, whose connections have all just been broken."""
    with open_store(home) as store, Prompt(home) as prompt:
        store.create(**names(id="run_1"))
        store.get("run_1")
        hang_up(prompt)
        yield store, prompt


def test_reading_on_after_a_break(broken: tuple[Store, Prompt]) -> None:
    """Who reads notices nothing: a read can be made again."""
    store, _ = broken
    assert "run_1" == store.get("run_1").id
    assert 1 == len(store.list().data)


def test_creating_on_after_a_break(broken: tuple[Store, Prompt]) -> None:
    """Nor does who creates: the run is recognised by its id, and is there once."""
    store, _ = broken
    run = store.create(**names(metadata={"a": "b"}, idempotency_key="key"))
    assert run == store.get(run.id)
    assert 2 == len(store.list().data)
    assert 1 == len(store.history(run.id))


def test_cancelling_on_after_a_break(broken: tuple[Store, Prompt]) -> None:
    """Nor who asks to cancel: the same request is recognised."""
    store, _ = broken
    assert "cancelled" == store.request_cancel("run_1", actor="web").status
    assert 3 == len(store.history("run_1"))


def test_moving_on_after_a_break(broken: tuple[Store, Prompt]) -> None:
    """Who moved cannot know whether it was done, and is told so; then the run says, and the store works."""
    store, _ = broken
    with pytest.raises(OutcomeUnknown) as unknown:
        store.start("run_1")
    assert "broke before the reply came" in trouble(unknown.value)
    assert not unknown.value.retryable
    assert "queued" == store.get("run_1").status
    assert "in_progress" == store.start("run_1").status


def test_claiming_on_after_a_break(broken: tuple[Store, Prompt]) -> None:
    """A claim of a certain run is made again, and so is its outcome; of a queue's runs its lease says what it has."""
    store, prompt = broken
    store.create_many([names(id="run_2"), names(id="run_3")])
    lease = store.open_lease("w1")
    hang_up(prompt)
    claim = store.claim_id(lease, "run_1")
    assert claim is not None
    hang_up(prompt)
    assert {} == store.settle(lease, [Settle(claim.run, RunEvent.COMPLETE)]).refused
    hang_up(prompt)
    with pytest.raises(OutcomeUnknown):
        store.claim(lease, 5)
    assert {} == store.owned(lease)
    assert ["run_2", "run_3"] == [claim.run.id for claim in store.claim(lease, 5)]
    assert [None, "start", "complete"] == [entry.event for entry in store.history("run_1")]


def test_who_waits_for_each_other(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL undoes one of two transactions that wait for each other; nobody hears of it, for it is done again."""
    tried = []

    def counting(session: Connection, batch: Sequence[Command[Any]]) -> None:
        tried.append(len(batch))
        execute_batch(session, batch)

    with open_store(home) as store, Prompt(home) as other:
        lease = store.open_lease("w1")
        store.create_many([names(id="run_1", thread_id="a"), names(id="run_2", thread_id="b")])
        claims = store.claim(lease, 2)
        other.run("BEGIN")
        other.run("SET LOCAL deadlock_timeout = '1min'")  # the store's transaction is undone, not this one
        other.run("SELECT 1 FROM runstate_run WHERE id = 'run_2' FOR UPDATE")
        monkeypatch.setattr("runstate.store._engine.committer.execute_batch", counting)
        with ThreadPoolExecutor(1) as pool:
            settled = pool.submit(store.settle, lease, [Settle(claim.run, RunEvent.COMPLETE) for claim in claims])
            wait_for_a_lock(home)
            other.run("SELECT 1 FROM runstate_run WHERE id = 'run_1' FOR UPDATE")  # until the other is undone
            other.run("COMMIT")
            assert {} == settled.result(LIMIT).refused
        assert len(tried) > 1 == max(tried)  # twice, if the other took what was let go of before we came again
        assert ["completed"] * 2 == [run.status for run in store.list().data]


def test_asked_again_before_the_server_has_done_it(home: str) -> None:
    """The connection broke, but not the transaction: it ends while the same is asked again, and is told as done."""
    with open_store(home) as store, closing(Prompt(home).connection) as own:
        lease = store.open_lease("w1")
        run = store.create(**names())
        (claim,) = store.claim(lease)
        own.execute("BEGIN")
        with store.within(own) as bound, ThreadPoolExecutor(1) as pool:
            bound.complete(run.id, actor=lease.actor)
            settles = [Settle(claim.run, RunEvent.COMPLETE)]
            asked = pool.submit(partial(store.settle_and_claim, lease, settles, reconcile=True))
            wait_for_a_lock(home)
            own.execute("COMMIT")
            assert {} == asked.result(LIMIT).refused
        assert [None, "start", "complete"] == [entry.event for entry in store.history(run.id)]


def test_within_a_broken_connection(home: str) -> None:
    """A caller's connection that broke is the caller's to mourn: one sentence, nothing asked again."""
    with open_store(home) as store, Prompt(home) as prompt, closing(Prompt(home).connection) as own:
        own.execute("BEGIN")
        hang_up(prompt)
        with store.within(own) as bound, pytest.raises(StoreError) as error:
            bound.create(**names())
        assert trouble(error.value)
        assert () == store.list().data


def test_a_host_that_vanishes_is_noticed(home: str) -> None:
    """About as soon as `wait_s` says; an address that names its own settings for it is left alone."""
    own = f"{home}{'&' if '?' in home else '?'}tcp_user_timeout=7000&keepalives_count=9"
    for url, silence_ms, count in ((home, "4000", "3"), (own, "7000", "9")):
        with open_store(url, wait_s=4.0) as store, closing(store._database.open()) as session:
            assert isinstance(session, PostgresConnection)
            given = session.connection.info.get_parameters()
        assert (silence_ms, count) == (given["tcp_user_timeout"], given["keepalives_count"])


def test_read_only(home: str) -> None:
    """A server that only reads, as a standby does, is said to."""
    reading = f"{home}{'&' if '?' in home else '?'}options=-cdefault_transaction_read_only%3Don"
    with open_store(home) as store:
        store.create(**names(id="run_1"))
    with open_store(reading) as store:
        assert "run_1" == store.get("run_1").id
        for ask in (lambda: store.start("run_1"), lambda: store.create(**names()), store.sweep):
            with pytest.raises(StoreError, match=r"cannot write to .*: it is read-only") as refused:
                ask()
            assert trouble(refused.value)


def test_no_right(home: str) -> None:
    """A person without rights to the tables is told that it has none."""
    person = f"runstate_{secrets.token_hex(4)}"
    with Prompt(home) as prompt:
        try:
            prompt.run(f"CREATE ROLE {person} LOGIN")
        except Exception as error:
            pytest.skip(f"no right to make a person here: {error}")
        try:
            url = re.sub(r"^(\w+://)([^@/?]*@)?", rf"\g<1>{person}@", home)
            with pytest.raises(StoreError, match=r"no right to this in .*: ") as refused:
                open_store(url).close()
            assert trouble(refused.value)
            prompt.run(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {person}")
            with open_store(url) as store:
                assert () == store.list().data
                with pytest.raises(StoreError, match=r"no right to this in .*: "):
                    store.create(**names())
        finally:
            prompt.run(f"DROP OWNED BY {person}")
            prompt.run(f"DROP ROLE {person}")


def test_the_schema_is_gone(home: str) -> None:
    """A store that lost its tables says that there is none."""
    with open_store(home) as store, Prompt(home) as prompt:
        prompt.run("DROP TABLE runstate_run CASCADE")
        asking: list[Any] = [lambda: store.create(**names()), lambda: store.get("run_1"), store.sweep, store.list]
        for ask in asking:
            with pytest.raises(SchemaMismatch, match="has no store of this version") as gone:
                ask()
            assert "`runstate migrate` makes one" in trouble(gone.value)
