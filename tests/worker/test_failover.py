"""Workers and their clients in an outage: nothing is lost, nothing fails for it, and no run says where the store is."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from runstate.errors import AccessDenied, OutcomeUnknown, SchemaMismatch, StoreError, StoreUnavailable, StoreUrlError
from runstate.store import Store, open_store
from runstate.worker import Context, Outcome, Worker, drive
from runstate.worker._failure import met_outage, redacted, sentence_of, traceback_of
from tests.store.support import Prompt
from tests.support.judge import judge_by_sql
from tests.support.pg_proxy import Proxy
from tests.support.postgres import OwnServer, Server, wait_until
from tests.worker.support import KINDS, at_work, ended, error_of, events, finish, finished, last, limited, new, until

AWAY: Final = StoreUnavailable("cannot connect to postgresql://db.internal:6543/ledger: refused")
SECRET: Final = ("db.internal", "6543", "ledger", "auditor", "postgresql:")

pytestmark = pytest.mark.slow  # rehearses outages


@pytest.fixture
def home(postgres_server: Server) -> Iterator[str]:
    """The URL of a store of the test's own in PostgreSQL, judged when the test is over."""
    url = postgres_server.create_database()
    open_store(url, migrate=True).close()
    yield url
    assert () == judge_by_sql(url)
    postgres_server.drop_database(url)


# --- what a handler meets ---------------------------------------------------------------------------------------------


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings of the library so far. The lines about each run are INFO."""
    records = [record for record in caplog.records if record.name.startswith("runstate")]
    return [record.getMessage() for record in records if record.levelno >= logging.WARNING]


def raising(kind: str, errors: list[BaseException], calls: list[Any]) -> Any:
    """Return a handler that raises these, one a call, and completes when there are no more."""

    def plain(ctx: Context) -> None:
        calls.append((ctx.checkpoint_value, ctx.attempt))
        ctx.checkpoint(len(calls))
        if errors:
            raise errors.pop(0)

    async def later(ctx: Context) -> None:
        calls.append((ctx.checkpoint_value, ctx.attempt))
        await ctx.checkpoint(len(calls))
        if errors:
            raise errors.pop(0)

    return plain if kind == "plain" else later


@pytest.mark.parametrize("kind", KINDS)
def test_a_handler_that_met_an_outage_is_called_again(kind: str, store: Store) -> None:
    """With its last checkpoint, and no attempt is spent on it; in a group of exceptions as well."""
    group = BaseExceptionGroup("both", [AWAY, BaseExceptionGroup("x", [OutcomeUnknown("x"), asyncio.CancelledError()])])
    calls: list[Any] = []
    run = store.create(**new())
    finish(store, raising(kind, [AWAY, OutcomeUnknown("lost"), group, AWAY], calls), max_attempts=1)
    assert [(None, 1), (1, 1), (2, 1), (3, 1), (4, 1)] == calls
    assert [None, "start", "complete"] == events(store, run.id)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "error",
    [
        StoreUrlError("a wrong password"),
        SchemaMismatch("no store"),
        AccessDenied("no right"),
        StoreError("the store is closed"),
        BaseExceptionGroup("both", [AWAY, ValueError("mine")]),
        ConnectionError("of something else"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_handler_that_failed_by_itself_fails_its_run(kind: str, error: BaseException, store: Store) -> None:
    """What a wrong address or a closed store says is no outage, as long as the worker's own store was there."""
    calls: list[Any] = []
    run = store.create(**new())
    finish(store, raising(kind, [error], calls))
    assert "server_error" == error_of(store.get(run.id))["code"]
    assert 1 == len(calls)


def test_what_a_server_says_that_is_restored_is_an_outage() -> None:
    """If the worker's own store was away meanwhile."""
    for kind in (StoreUrlError, SchemaMismatch, AccessDenied):
        assert met_outage(kind("x"), was_away=True)
        assert not met_outage(kind("x"), was_away=False)
    assert not met_outage(StoreError("the store is closed"), was_away=True)
    assert not met_outage(asyncio.CancelledError(), was_away=True)
    assert not met_outage(ValueError(), was_away=True)


@limited
async def test_a_slot_is_kept_for_a_run_that_is_called_again(store: Store) -> None:
    """No more handlers are at work than there are slots, and a run that is cancelled meanwhile is cancelled."""
    at_once, most, calls = 0, 0, dict[str, int]()

    async def answer(ctx: Context) -> None:
        nonlocal at_once, most
        calls[ctx.run_id] = calls.get(ctx.run_id, 0) + 1
        at_once += 1
        most = max(most, at_once)
        try:
            await asyncio.sleep(0.01)
        finally:
            at_once -= 1
        if calls[ctx.run_id] < 3:
            raise AWAY

    async with at_work(store, answer, concurrency=2):
        runs = [run.id for run in await store.aio.create_many([new() for _ in range(8)])]
        doomed = (await store.aio.create(**new(priority=9))).id
        await until(lambda: calls.get(doomed, 0) > 0, "its first call")
        await store.aio.request_cancel(doomed)
        assert "cancelled" == (await ended(store, doomed)).status
        for run_id in runs:
            assert "completed" == (await ended(store, run_id)).status
    assert [3] * 8 == [calls[run_id] for run_id in runs]
    assert most <= 2


@limited
async def test_a_worker_is_stopped_while_a_run_waits_to_be_called_again(store: Store) -> None:
    """It is given back at once, as a run is whose handler was stopped: the next worker goes on with it."""
    run, calls = store.create(**new()), list[str]()

    async def answer(ctx: Context) -> None:
        calls.append(ctx.run_id)
        raise AWAY

    async with at_work(store, answer, drain_s=0.0):
        await until(lambda: len(calls) > 1, "its second call")
    assert "in_progress" == store.get(run.id).status
    async with at_work(store, lambda ctx: None, name="w2"):
        await ended(store, run.id)
    assert ("complete", "w2", {"attempt": 2}) == (
        last(store, run.id).event,
        last(store, run.id).actor,
        last(store, run.id).detail,
    )


@pytest.mark.parametrize("kind", KINDS)
@limited
async def test_a_cancelled_handler_that_met_an_outage(kind: str, store: Store) -> None:
    """The cancel is confirmed: there is nothing to call it again for."""
    run, begun = store.create(**new()), asyncio.Event()
    loop = asyncio.get_running_loop()

    def plain(ctx: Context) -> None:
        loop.call_soon_threadsafe(begun.set)
        wait_until(lambda: ctx.cancelling, "the cancel")
        raise AWAY

    async def later(ctx: Context) -> None:
        begun.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(30)
        raise AWAY

    async with at_work(store, plain if kind == "plain" else later):
        await begun.wait()
        await store.aio.request_cancel(run.id)
        assert "cancelled" == (await ended(store, run.id)).status


def test_driving_a_run_that_met_an_outage(store: Store) -> None:
    """The engine is told, and its next delivery goes on with the run."""
    run, errors = store.create(**new()), [AWAY]
    calls: list[Any] = []
    handler = raising("async", [*errors], calls)
    with pytest.raises(StoreUnavailable):
        drive(store, run.id, handler, name="engine")
    assert "in_progress" == store.get(run.id).status
    driven = drive(store, run.id, handler, name="engine")
    assert driven is not None
    assert "completed" == driven.status
    assert [(None, 1), (1, 2)] == calls


# --- what stands in a run ---------------------------------------------------------------------------------------------

PRIVATE: Final = ("db.internal", "6543", "ledger", "auditor", "/srv/runs/app.db")
LIBPQ: Final = (
    'connection failed: connection to server at "db.internal" (10.1.2.3), port 6543 failed:'
    ' FATAL:  password authentication failed for user "auditor"'
)


def chained(error: BaseException, outer: BaseException, *, explicit: bool) -> BaseException:
    """Return an exception that was raised because of another, or while it was handled."""
    try:
        try:
            raise error
        except type(error) as cause:
            if explicit:
                raise outer from cause
            raise outer  # noqa: B904
    except type(outer) as caught:
        return caught


ERRORS: Final[dict[str, Callable[[], BaseException]]] = {
    "unavailable": lambda: StoreUnavailable(f"cannot connect to postgresql://db.internal:6543/ledger: {LIBPQ}"),
    "unknown": lambda: OutcomeUnknown("the connection to postgresql://db.internal:6543/ledger broke"),
    "url": lambda: StoreUrlError("cannot open /srv/runs/app.db: no such folder"),
    "schema": lambda: SchemaMismatch("postgresql://db.internal:6543/ledger has no store"),
    "access": lambda: AccessDenied("no right to this in postgresql://db.internal:6543/ledger"),
    "driver": lambda: psycopg.OperationalError(LIBPQ),
    "quoted": lambda: ValueError(f"gave up: {LIBPQ}"),
    "address": lambda: ValueError("gave up on postgresql+psycopg://auditor:hunter2@db.internal:6543/ledger?x=1"),
    "file": lambda: ValueError("gave up on /srv/runs/app.db, sqlite:////srv/runs/app.db"),
    "caused": lambda: chained(psycopg.OperationalError(LIBPQ), RuntimeError("mine"), explicit=True),
    "handled": lambda: chained(StoreUnavailable(LIBPQ), RuntimeError("mine"), explicit=False),
    "group": lambda: ExceptionGroup("many", [ValueError("mine"), psycopg.OperationalError(LIBPQ)]),
}


@pytest.mark.parametrize("what", ERRORS)
def test_no_address_is_told_of_an_error(what: str) -> None:
    """Not in its sentence, nor in its traceback; what is no address stays."""
    error = ERRORS[what]()
    try:
        raise error
    except type(error) as caught:
        told = [sentence_of(caught, PRIVATE), traceback_of(caught, PRIVATE)]
    for text in told:
        assert not [part for part in (*PRIVATE, "10.1.2.3", "hunter2") if part in text], text
        assert type(error).__name__ in text
    if "mine" in str(error):
        assert "mine" in told[0]
    if what in ("caused", "handled", "group"):
        assert "mine" in told[1]
        assert "test_failover.py" in told[1]


def test_words_of_a_language_stay() -> None:
    """A database may have the name of a word: only in quotes it is taken for a name; a port only as one."""
    private = ("app", "5432", "app", "localhost")
    for text in ("the app is at work", "5432 rows", "version 1.5432", "port 54321", "https://app.example/app"):
        assert text == redacted(text, private)
    assert '*** database "***" at port ***' == redacted(
        'postgresql://localhost/app database "app" at port 5432', private
    )
    assert "x" == redacted("x", ())


def test_no_address_gets_into_a_run(home: str) -> None:
    """Whatever its handler says: raised, chosen, or quoted from a driver; all rows of the database are searched."""
    given = conninfo_to_dict(home)
    names = {str(given[name]) for name in ("host", "dbname")}
    with open_store(home) as store:
        url = store.display_url
        quoted = f'connection to server on socket "{given["host"]}/.s.PGSQL.5432" failed: database "{given["dbname"]}"'

        def failing(ctx: Context) -> Outcome | None:
            match ctx.run.metadata["way"]:
                case "raise":
                    raise ValueError(f"{url} {quoted}")
                case "fail":
                    return ctx.fail("rate_limit_exceeded", f"{url} {quoted}")
                case "driver":
                    psycopg.connect(home.replace("runstate_test", "no_such"))
                case _:
                    raise RuntimeError("mine") from StoreUnavailable(url)
            return None

        for way in ("raise", "fail", "driver", "cause"):
            run = finished(store, failing, metadata={"way": way})
            error_of(run)
        with Prompt(home) as prompt:
            everything = str(prompt.everything())
        for name in (*names, url):
            assert name not in everything
        assert not re.search(r"no_such_\w+\" does", everything)
        assert "Traceback" in everything


# --- an outage under a worker -----------------------------------------------------------------------------------------


def allow(admin: Prompt, name: str, is_on: bool) -> None:
    """Take every connection to a database away and let nobody in, or let them in again."""
    admin.run(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {'true' if is_on else 'false'}")
    if not is_on:
        admin.run("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = ?", [name])


@pytest.mark.parametrize("is_renamed", [False, True], ids=["shut", "renamed"])
@limited
async def test_a_checkpoint_waits_as_its_worker_does(
    is_renamed: bool, postgres_server: Server, home: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Plain and async, while the database is shut, or has another name: nothing fails, and the log has two lines."""
    caplog.set_level(logging.INFO)
    begun, calls = set[str](), list[str]()
    name = str(conninfo_to_dict(home)["dbname"])
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def later(ctx: Context) -> None:
        calls.append(ctx.run_id)
        begun.add(ctx.run_id)
        await gate.wait()
        await ctx.checkpoint({"page": 1})

    def plain(ctx: Context) -> None:
        calls.append(ctx.run_id)
        begun.add(ctx.run_id)
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(30)
        ctx.checkpoint({"page": 1})
        ctx.progress("page 1")

    with open_store(home, wait_s=0.5) as store, Prompt(postgres_server.address) as admin, Prompt(home) as inside:
        ways = ("plain", "async")
        runs = [store.create(**new(queue=queue)).id for queue in ways for _ in range(5)]
        inside.close()
        async with at_work(store, plain, queues=("plain",)), at_work(store, later, queues=("async",), name="w2"):
            await until(lambda: len(begun) == 10, "the handlers")
            await asyncio.to_thread(allow, admin, name, False)
            if is_renamed:
                admin.run(f"ALTER DATABASE {name} RENAME TO {name}_away")
            try:
                gate.set()
                await until(lambda: "retrying" in caplog.text, "the outage to be noticed")
                await asyncio.sleep(0.5)
            finally:
                if is_renamed:
                    admin.run(f"ALTER DATABASE {name}_away RENAME TO {name}")
                await asyncio.to_thread(allow, admin, name, True)
            for run_id in runs:
                assert "completed" == (await ended_somehow(store, run_id)).status
        assert sorted(runs) == sorted(calls)
        told = warnings(caplog)
        assert 2 == len(told), told
        assert told[1].startswith("the store is back after")


@limited
async def test_a_worker_that_begins_on_a_server_that_only_reads(home: str, caplog: pytest.LogCaptureFixture) -> None:
    """It waits until the server can write, and says so once."""
    name = str(conninfo_to_dict(home)["dbname"])
    with Prompt(home) as prompt:
        with open_store(home) as store:
            run = store.create(**new())
        prompt.run(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        with open_store(home) as store:
            worker = Worker(store, lambda ctx: None)
            working = asyncio.create_task(worker.work())
            await until(lambda: "it is read-only; retrying" in caplog.text, "it to wait")
            assert not working.done()
            prompt.run(f"ALTER DATABASE {name} RESET default_transaction_read_only")
            assert "completed" == (await ended(store, run.id)).status
            worker.stop()
            await asyncio.wait_for(working, 20.0)
    assert 2 == len(caplog.records), caplog.text


async def ended_somehow(store: Store, run_id: str) -> Any:
    """Wait for the end of a run as a client does that knows of outages."""
    while True:
        with suppress(StoreError):
            return await ended(store, run_id)
        await asyncio.sleep(0.05)


async def play(stores: dict[str, Store], fail_over: Callable[[], None], count: int = 40) -> None:
    """Have two workers and a client at work, fail over in the middle, and see every run to its end."""
    left, done = set[str](), dict[str, int]()

    async def answer(ctx: Context) -> Outcome | None:
        if not ctx.tool_outputs:
            await ctx.checkpoint({"step": 1})
            await asyncio.sleep(0.05)
            return ctx.require_action([ctx.tool_call("weather")])
        assert {"step": 1} == ctx.checkpoint_value
        ctx.progress("nearly there")
        await asyncio.sleep(0.05)
        done[ctx.run_id] = done.get(ctx.run_id, 0) + 1
        return None

    async def create(store: Store) -> None:
        for number in range(count):
            key = f"key-{number}"
            while True:
                with suppress(StoreError):
                    left.add((await store.aio.create(**new(idempotency_key=key))).id)
                    break
                await asyncio.sleep(0.05)

    async def submit(store: Store) -> None:
        while len(done) < count or left:
            for run_id in sorted(left):
                with suppress(StoreError):
                    run = await store.aio.get(run_id)
                    if run.is_terminal:
                        assert "completed" == run.status, run.last_error
                        left.discard(run_id)
                    elif run.required_action is not None:
                        await store.aio.submit_tool_outputs(run_id, dict.fromkeys(run.required_action.call_ids, "x"))
            await asyncio.sleep(0.02)

    async with (
        at_work(stores["w1"], answer, concurrency=8),
        at_work(stores["w2"], answer, concurrency=8, name="w2"),
        asyncio.TaskGroup() as clients,
    ):
        creating = clients.create_task(create(stores["client"]))
        clients.create_task(submit(stores["client"]))
        await until(lambda: len(done) >= count // 8, "the first to be done")
        await asyncio.to_thread(fail_over)
        await creating
    assert count == len(done)


def all_is_well(store: Store, count: int) -> None:
    """Every run has the history of one life, and nothing in it tells of an outage."""
    life = [None, "start", "require_action", "submit_tool_outputs", "start", "complete"]
    runs = store.list(limit=100).data
    assert count == len(runs)
    for run in runs:
        assert life == events(store, run.id)


@limited
async def test_the_primary_turns_read_only_and_another_takes_over(postgres_server: Server, home: str) -> None:
    """At the same address, while the connections to the old one stay: each is given up when it cannot write."""
    name = str(conninfo_to_dict(home)["dbname"])
    with ExitStack() as undo:
        stores = {who: undo.enter_context(open_store(home, wait_s=0.5)) for who in ("w1", "w2", "client")}
        admin = undo.enter_context(Prompt(postgres_server.address))

        def fail_over() -> None:
            admin.run(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
            admin.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = ?", [name])
            # Until each has a session again that can only read, and will for ever.
            wait_until(lambda: all(stores[who].availability.is_away for who in ("w1", "w2")), "the outage")
            admin.run(f"ALTER DATABASE {name} RESET default_transaction_read_only")

        await play(stores, fail_over)
        all_is_well(stores["client"], 40)


@limited
async def test_a_standby_is_promoted(tmp_path: Path) -> None:
    """A primary dies and its standby takes over at the same address, behind a proxy; at first it only reads."""
    server = Server.start_new(fast=False)
    if not isinstance(server, OwnServer):
        pytest.skip("needs a server of the tests' own")
    with ExitStack() as undo:
        undo.callback(server.stop)
        url = server.create_database()
        open_store(url, migrate=True).close()
        standby = undo.enter_context(server.standby())
        proxy = undo.enter_context(Proxy(url))
        stores = {who: undo.enter_context(open_store(proxy.url, wait_s=1.0)) for who in ("w1", "w2", "client")}

        def fail_over() -> None:
            server.kill()
            proxy.turn_to(standby.url(str(conninfo_to_dict(url)["dbname"])))
            proxy.cut()
            wait_until(lambda: all(stores[who].availability.is_away for who in ("w1", "w2")), "the outage")
            standby.promote()

        await play(stores, fail_over)
        all_is_well(stores["client"], 40)
        await asyncio.to_thread(server.restart)


def several(*urls: str) -> str:
    """Return the URL of one database on several hosts."""
    given = [conninfo_to_dict(url) for url in urls]
    hosts = ",".join(quote(str(each["host"]), safe="") for each in given)
    ports = ",".join(str(each.get("port", 5432)) for each in given)
    return f"postgresql://{given[0]['user']}@/{given[0]['dbname']}?host={hosts}&port={ports}"


@pytest.mark.parametrize("asks", ["", "&target_session_attrs=read-write", "&target_session_attrs=primary"])
def test_an_address_of_several_hosts(asks: str) -> None:
    """The one that is the primary is found, in whichever order they are named, and the new one when it is another."""
    server = Server.start_new(fast=True)
    if not isinstance(server, OwnServer):
        pytest.skip("needs a server of the tests' own")
    with ExitStack() as undo:
        undo.callback(server.stop)
        url = server.create_database()
        open_store(url, migrate=True).close()
        standby = undo.enter_context(server.standby())
        address = several(standby.url(str(conninfo_to_dict(url)["dbname"])), url) + asks
        store = undo.enter_context(open_store(address, wait_s=20.0))
        run = store.create(**new())
        assert "queued" == store.get(run.id).status
        server.kill()
        with pytest.raises(StoreError):
            store.create(**new(id="run_lost"))
        assert store.availability.is_away
        standby.promote()
        assert "in_progress" == store.start(run.id).status
        assert "in_progress" == store.get(run.id).status
        assert 1 == len(store.list().data)
        server.restart()


@pytest.mark.parametrize("lease_s", [2.0, 30.0])
def test_the_log_of_a_worker_in_an_outage_of_a_minute(
    lease_s: float, postgres_server: Server, home: str, caplog: pytest.LogCaptureFixture
) -> None:
    """At most five lines of all its parts: at the beginning, of runs that are let go, after a minute, at the end."""
    caplog.set_level(logging.INFO)
    name = str(conninfo_to_dict(home)["dbname"])

    async def answer(ctx: Context) -> None:
        await asyncio.sleep(0.2)
        await ctx.checkpoint(1)
        await asyncio.sleep(0.2)

    async def scene(store: Store, admin: Prompt) -> None:
        await store.aio.create_many([new() for _ in range(200)])
        async with at_work(store, answer, concurrency=20, lease_s=lease_s, max_attempts=100):
            await asyncio.sleep(1.0)
            await asyncio.to_thread(allow, admin, name, False)
            await asyncio.sleep(60.0)
            away = warnings(caplog)
            await asyncio.to_thread(allow, admin, name, True)
            while (await counts(store))["completed"] < 200:
                await asyncio.sleep(0.1)
        assert 1 <= len(away) <= 4, away
        assert [] == [run for run in store.list(limit=100).data if run.last_error is not None]

    with open_store(home, wait_s=1.0) as store, Prompt(postgres_server.address) as admin:
        asyncio.run(asyncio.wait_for(scene(store, admin), 110.0))
    told = warnings(caplog)
    assert len(told) <= 5, told
    assert any(line.startswith("the store is back after") for line in told)


async def counts(store: Store) -> dict[str, int]:
    """Return how many runs stand in each status, as soon as the store says."""
    while True:
        with suppress(StoreError):
            return {str(status): count for status, count in (await store.aio.counts()).items()}
        await asyncio.sleep(0.1)
