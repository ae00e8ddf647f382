"""A store behind a pooler that hands out another server connection for every transaction."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from typing import Any

import psycopg
import pytest

from runstate import IllegalTransition
from runstate.cli import cli
from runstate.errors import StoreError, StoreUnavailable, StoreUrlError
from runstate.store import Store, open_store
from runstate.store._postgres import connection as driver
from runstate.store._postgres.connection import PostgresDatabase
from runstate.store.doctor import examine
from runstate.testing.fixtures import temporary_store
from runstate.worker import Context, Worker
from tests.store.conftest import make_url
from tests.store.support import Prompt, ask_store, names, wait_for_a_lock
from tests.support.cli_runner import CliRunner
from tests.support.lifecycle import LIVE, WAYS
from tests.support.pgbouncer import TRACKS, PgBouncer, find_program, version_of
from tests.support.postgres import Server

pytestmark = pytest.mark.foreign

LIMIT = 20.0
SIZE = 2
"""Server connections of the pool."""
WAYS_TO_POOL: Mapping[str, Mapping[str, object]] = {
    "transactions": {},
    "transactions, options dropped": {"ignore_startup_parameters": "options"},
    "sessions": {"pool_mode": "session", "default_pool_size": 20},
    "transactions, statements tracked": {"max_prepared_statements": 100},
}
STATE = """
SELECT 'setting', name, setting, source FROM pg_settings WHERE NOT starts_with(name, 'plpgsql.')
UNION ALL SELECT 'statement', name, '', '' FROM pg_prepared_statements WHERE NOT from_sql
UNION ALL SELECT 'channel', c, '', '' FROM pg_listening_channels() AS c
UNION ALL SELECT 'cursor', name, '', '' FROM pg_cursors WHERE name <> ''
UNION ALL SELECT 'lock', locktype, mode, '' FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'
UNION ALL SELECT 'temporary', relname, '', '' FROM pg_class WHERE relnamespace = pg_my_temp_schema()
"""
"""All that a session may keep beyond the end of a transaction; PL/pgSQL, once used, shows settings of its own."""


@pytest.fixture
def direct(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty store, without the pooler."""
    yield from make_url("postgres", request)


@pytest.fixture
def pooled(direct: str) -> Iterator[str]:
    """The URL of the same through a pooler of transactions."""
    with PgBouncer(direct, size=SIZE) as pooler:
        yield pooler.url


@pytest.fixture(params=WAYS_TO_POOL)
def pooled_somehow(request: pytest.FixtureRequest, direct: str) -> Iterator[str]:
    """The same through each kind of pooler."""
    program = find_program()
    if "tracked" in request.param and (program is None or version_of(program) < TRACKS):
        pytest.skip("this PgBouncer keeps no track of statements")
    with PgBouncer(direct, size=SIZE, settings=WAYS_TO_POOL[request.param]) as pooler:
        yield pooler.url


def states(url: str) -> list[list[tuple[Any, ...]]]:
    """Return what each server connection of the pool keeps, as another client finds it."""
    with ExitStack() as stack:
        clients = [stack.enter_context(psycopg.connect(url, prepare_threshold=None)) for _ in range(SIZE)]
        return [sorted(client.execute(STATE).fetchall()) for client in clients]


# --- nothing is left behind -------------------------------------------------------------------------------------------


def test_a_second_client_finds_every_setting_as_it_was(pooled: str) -> None:
    """After moves, refusals, a sweep, an error, a migration and an examination, in every server connection."""
    before = states(pooled)
    with open_store(pooled, migrate=True, wait_s=0.3) as store:
        run = store.create(**names(metadata={"a": "b"}))
        assert before == states(pooled)
        store.start(run.id)
        with pytest.raises(IllegalTransition):
            store.start(run.id)
        assert before == states(pooled)
        store.create_many([names(one_live_run_per_thread="queue"), names()])
        store.request_cancel(run.id)
        store.confirm_cancel(run.id)
        lease = store.open_lease("w")
        store.claim(lease, 5, queues=["a", "default"])
        store.sweep()
        assert before == states(pooled)
        examine(store)
        assert before == states(pooled)
    assert before == states(pooled)


def test_a_second_client_after_a_lock_was_waited_for(pooled: str, direct: str) -> None:
    """The time to wait for a row is the store's, and the server's again when the transaction has failed."""
    before = states(pooled)
    with open_store(pooled, wait_s=0.3) as store, Prompt(direct) as other:
        run = store.create(**names())
        with other.undone():
            other.run("SELECT 1 FROM runstate_run FOR UPDATE")
            with pytest.raises(StoreUnavailable, match="another transaction has been writing for too long"):
                store.start(run.id)
        assert before == states(pooled)


HELD = """
import sys
from runstate.store import open_store
with open_store(sys.argv[1], wait_s=60) as store:
    store.create(thread_id="t", assistant_id="a", model="m")
    store.request_cancel(sys.argv[2])
"""


def test_a_second_client_after_a_crash(pooled: str, direct: str) -> None:
    """A process is killed in the middle of its transaction."""
    before = states(pooled)
    with open_store(direct) as store, Prompt(direct) as other:
        run = store.create(**names())
        with other.undone():
            other.run("SELECT 1 FROM runstate_run FOR UPDATE")
            with subprocess.Popen([sys.executable, "-c", HELD, pooled, run.id]) as process:
                wait_for_a_lock(direct)
                os.kill(process.pid, signal.SIGKILL)
        assert before == states(pooled)


def test_a_worker_leaves_nothing(pooled: str) -> None:
    """Nor do its heartbeats, its claims and its notifications."""
    before = states(pooled)
    with open_store(pooled) as store:
        store.create_many([names() for _ in range(20)])
        Worker(store, _complete).run(until_idle=True)
    assert before == states(pooled)


def _complete(ctx: Context) -> Any:
    return ctx.complete()


# --- every statement is the one that was asked for --------------------------------------------------------------------


def _every_move_by_turns(stores: list[Store]) -> None:
    """Ask every move there is, each of another store, and see that it and nothing else was done."""
    for status, way in WAYS.items():
        run = stores[0].create(**names(metadata={"for": status}))
        for place, event in enumerate(way):
            moved = ask_store(stores[place % len(stores)], run.id, event, actor=f"{place}")
            history = stores[(place + 1) % len(stores)].history(run.id)
            assert (event, f"{place}") == (history[-1].event, history[-1].actor)
            assert moved.version == place + 2 == len(history)
        assert status == stores[-1].get(run.id).status


def test_moves_of_two_clients(pooled_somehow: str) -> None:
    """Two clients ask by turns; each transaction goes to another server connection than the one before."""
    with open_store(pooled_somehow) as first, open_store(pooled_somehow) as second:
        for _ in range(2):
            _every_move_by_turns([first, second])


def test_a_pooler_that_is_taken_for_the_server(pooled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found out by a statement that is not there, or there already; what was asked is done, once."""
    monkeypatch.setattr(driver, "is_pooled", lambda connection: False)
    monkeypatch.setattr(PostgresDatabase, "_connect_with", lambda database, settings: (database.connect(), True))
    before = states(pooled)
    with open_store(pooled) as first, open_store(pooled) as second:
        for _ in range(2):
            _every_move_by_turns([first, second])

    def settings(found: list[list[tuple[Any, ...]]]) -> list[list[tuple[Any, ...]]]:
        return [[row for row in rows if row[0] != "statement"] for rows in found]

    assert settings(before) == settings(states(pooled))


def test_many_at_once(pooled: str, direct: str) -> None:
    """A worker drains 200 runs through two server connections, while another client claims and settles some itself."""
    drained = threading.Event()
    mine: list[str] = []

    def claim() -> None:
        with open_store(pooled) as store:
            lease = store.open_lease("other")
            while not drained.is_set():
                for claimed in store.claim(lease, 3):
                    mine.append(claimed.run.id)
                    store.complete(claimed.run.id, actor="other")

    with open_store(pooled) as store:
        made = {run.id for run in store.create_many([names() for _ in range(200)])}
        other = threading.Thread(target=claim)
        other.start()
        try:
            worker = Worker(store, _complete, concurrency=10, name="worker")
            worker.run(until_idle=True)
        finally:
            drained.set()
            other.join(LIMIT)
    with open_store(direct) as store:
        assert {"completed": 200} == {status: count for status, count in store.counts().items() if count}
        ended_by = {run_id: store.history(run_id)[-1].actor for run_id in made}
    assert 200 == worker.settled + len(mine)
    assert set(mine) == {run_id for run_id, actor in ended_by.items() if actor == "other"}


def test_a_search_path_that_the_pooler_drops(direct: str) -> None:
    """Other tables are meant than those that would be found: refused, as is the same where `options` are refused."""
    wanted = "options=-csearch_path%3D%22elsewhere%22,%5C%20public"
    with PgBouncer(direct, settings={"ignore_startup_parameters": "options"}) as pooler, Prompt(direct) as prompt:
        for migrate in (False, True):
            with pytest.raises(StoreUrlError, match="drops the search_path"):
                open_store(f"{pooler.url}&{wanted}", migrate=migrate)
        name = prompt.run("SELECT current_database()")[0][0]
        prompt.run(f"ALTER DATABASE {name} SET search_path = elsewhere, public")
        try:
            with PgBouncer(direct, settings={"ignore_startup_parameters": "options"}) as again:
                open_store(f"{again.url}&{wanted}").close()
        finally:
            prompt.run(f"ALTER DATABASE {name} RESET search_path")
    with PgBouncer(direct) as pooler, pytest.raises(StoreError):
        open_store(f"{pooler.url}&{wanted}", wait_s=0.1)


def test_a_pool_of_one(direct: str) -> None:
    """A caller's transaction has the only server connection, and the store asks for no other in the meantime."""
    with PgBouncer(direct, size=1, settings={"query_wait_timeout": 5}) as pooler, open_store(pooler.url) as store:
        with closing(psycopg.connect(pooler.url)) as own:
            own.execute("SELECT 1")
            with store.within(own) as bound:
                run = bound.create(**names())
                bound.start(run.id)
            own.commit()
        assert "in_progress" == store.get(run.id).status


# --- its tables, made and examined ------------------------------------------------------------------------------------


def test_migrations_and_the_doctor(postgres_server: Server) -> None:
    """An empty database is made a store, which is found to be well, and taken for what it is by a direct client."""
    url = postgres_server.create_database()
    with PgBouncer(url) as pooler:
        said = CliRunner().invoke(cli, ["migrate", "--store", pooler.url])
        assert 0 == said.exit_code, said.output
        said = CliRunner().invoke(cli, ["doctor", "--store", pooler.url])
        assert 0 == said.exit_code, said.output
        with open_store(pooler.url) as store:
            assert not examine(store).findings
    with open_store(url) as store:
        assert not examine(store).findings
    postgres_server.drop_database(url)


# --- hints ------------------------------------------------------------------------------------------------------------


def test_a_cancel_is_heard_of_soon(pooled: str, caplog: pytest.LogCaptureFixture) -> None:
    """Long before the heartbeat that tells of it, which is two minutes away; and the log says once what is missing."""
    begun, cancelled = threading.Event(), threading.Event()

    async def handle(ctx: Context) -> Any:
        begun.set()
        try:
            await asyncio.sleep(LIMIT)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with caplog.at_level(logging.WARNING, "runstate"), open_store(pooled) as store, open_store(pooled) as other:
        worker = Worker(store, handle, lease_s=360)
        thread = threading.Thread(target=worker.run)
        thread.start()
        try:
            for _ in range(2):
                run = other.create(**names())
                assert begun.wait(LIMIT)
                other.request_cancel(run.id)
                assert cancelled.wait(LIMIT)
                begun.clear()
                cancelled.clear()
        finally:
            worker.stop()
            thread.join(LIMIT)
    assert 1 == sum("listen_url" in record.getMessage() for record in caplog.records)


def test_an_address_to_listen_at(pooled: str, direct: str, caplog: pytest.LogCaptureFixture) -> None:
    """With the server's own address beside the pooler's, notifications come, and nothing is asked for nor said."""
    heard = threading.Event()
    with (
        caplog.at_level(logging.WARNING, "runstate"),
        open_store(pooled, listen_url=direct) as store,
        open_store(pooled, listen_url=direct) as other,
        store.subscribe(lambda hint: heard.set()),
        Prompt(direct) as prompt,
    ):
        listening = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND query ~ '^LISTEN|pg_notify'"
        assert heard.wait(LIMIT)  # whatever was missed before
        assert prompt.run(listening)
        heard.clear()
        other.create(**names())
        assert heard.wait(LIMIT)
    assert [] == [record.getMessage() for record in caplog.records]


def test_who_only_asks_is_told_nothing(pooled: str, caplog: pytest.LogCaptureFixture) -> None:
    """A client that waits for no hint misses none."""
    with caplog.at_level(logging.WARNING, "runstate"), open_store(pooled) as store:
        store.create(**names())
    assert [] == [record.getMessage() for record in caplog.records]


def test_the_status_of_every_live_run_is_reached_again(pooled: str) -> None:
    """What is read through another connection than it was written by is what was written."""
    with open_store(pooled) as store:
        for status in LIVE:
            run = store.create(**names())
            for event in WAYS[status]:
                ask_store(store, run.id, event)
            assert status == store.get(run.id).status


def test_a_store_of_the_pytest_plugin(direct: str, request: pytest.FixtureRequest) -> None:
    """Where a pooler drops the schema that a test is given, the test is not let loose on another's tables."""
    with PgBouncer(direct, settings={"ignore_startup_parameters": "options"}) as pooler, Prompt(direct) as prompt:
        with (
            pytest.raises(StoreError, match="drops the `options` of the address"),
            temporary_store(pooler.url, request),
        ):
            pass
        assert [] == prompt.run("SELECT 1 FROM pg_namespace WHERE starts_with(nspname, 'runstate_test_')")
        assert [] == prompt.rows("runstate_run")
