"""A session that is of no more use is given up for another: read-only, cut, forgotten by its server, its file gone."""

from __future__ import annotations

import ast
import asyncio
import logging
import os
import re
import secrets
import shutil
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from inspect import getattr_static, isclass
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

import runstate.store
from runstate import RunEvent, errors
from runstate.errors import (
    AccessDenied,
    RunstateError,
    SchemaMismatch,
    StoreError,
    StoreUnavailable,
    StoreUrlError,
)
from runstate.store import Checkpoint, Lease, Settle, Store, StoredRun, open_store
from runstate.store._engine.commands import InTransaction
from runstate.store._postgres.sqlstates import is_answer_lost, is_passing, is_wrong, trouble_of
from runstate.store._sql.connection import Trouble
from runstate.store._sql.dialect import POSTGRES, Dialect
from runstate.store._sql.migrations.steps import Migration
from tests.store.conftest import make_url
from tests.store.support import Prompt, held_back, names
from tests.support.postgres import Server, wait_until

pytestmark = pytest.mark.slow  # rehearses outages

LIMIT: Final = 20.0


@pytest.fixture
def home(postgres_server: Server) -> Iterator[str]:
    """The URL of a store of the test's own in PostgreSQL."""
    url = postgres_server.create_database()
    open_store(url, migrate=True).close()
    yield url
    postgres_server.drop_database(url)


def on_the_session(store: Store, statement: str) -> None:
    """Execute a statement on the session that the store writes by."""
    store._transport.execute(InTransaction(lambda session: session.execute_ddl(statement)))


def all_read_only(prompt: Prompt, is_on: bool) -> None:
    """Let every session that begins from now on only read, or write again."""
    name = prompt.run("SELECT current_database()")[0][0]
    prompt.run(f"ALTER DATABASE {name} SET default_transaction_read_only = {'on' if is_on else 'off'}")


def hang_up(prompt: Prompt) -> None:
    """Cut every other connection to the database."""
    prompt.run(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


class Scene:
    """A store with a claimed run, one that is queued, and one that waits to be taken over."""

    def __init__(self, store: Store) -> None:
        self.store = store
        dead = store.open_lease("dead")
        store.create(**names(id="run_left"))
        assert store.claim_id(dead, "run_left")
        store.close_lease(dead)
        self.lease: Lease = store.open_lease("w1")
        store.create(**names(id="run_claimed"))
        claim = store.claim_id(self.lease, "run_claimed")
        assert claim is not None
        self.claimed: StoredRun = claim.run
        store.create(**names(id="run_queued"))


WRITES: Final[dict[str, Callable[[Scene], Any]]] = {
    "create": lambda on: on.store.create(**names(id="run_new")).id == "run_new",
    "create_many": lambda on: len(on.store.create_many([names(), names()])) == 2,
    "start": lambda on: on.store.start("run_queued").status == "in_progress",
    "fail": lambda on: on.store.fail("run_queued", "server_error", "x").status == "failed",
    "request_cancel": lambda on: on.store.request_cancel("run_queued").status == "cancelled",
    "open_lease": lambda on: on.store.open_lease("w2").actor == "w2",
    "heartbeat": lambda on: on.store.heartbeat(on.lease).held,
    "claim": lambda on: [claim.run.id for claim in on.store.claim(on.lease)] == ["run_queued"],
    "claim_id": lambda on: on.store.claim_id(on.lease, "run_queued") is not None,
    "settle": lambda on: on.store.settle(on.lease, [Settle(on.claimed, RunEvent.COMPLETE)]).refused == {},
    "note": lambda on: on.store.save_checkpoint(on.lease, on.claimed, checkpoint=Checkpoint(1)),
    "release": lambda on: on.store.release(on.lease, on.claimed),
    "take_over": lambda on: [claim.run.id for claim in on.store.take_over(on.lease)] == ["run_left"],
    "sweep": lambda on: on.store.sweep().orphaned == 1,
    "close_lease": lambda on: closed(on),
    "prune": lambda on: on.store.prune(0) == 0,
    "async create": lambda on: asyncio.run(awaited(on.store.aio.create(**names(id="run_new")))).id == "run_new",
    "async heartbeat": lambda on: asyncio.run(awaited(on.store.aio.heartbeat(on.lease))).held,
}
"""Everything that writes, with whether it went well."""


def closed(on: Scene) -> bool:
    on.store.close_lease(on.lease)
    return True


async def awaited(asked: Any) -> Any:
    return await asked


@pytest.mark.parametrize("spoil", ["SET default_transaction_read_only = on", "DEALLOCATE ALL"])
@pytest.mark.parametrize("what", WRITES)
def test_a_session_that_cannot_write_any_more(what: str, spoil: str, request: pytest.FixtureRequest) -> None:
    """New sessions can: whoever asks gets the answer, and hears nothing of the one that could not."""
    for url in make_url("postgres", request):
        with open_store(url) as store:
            scene = Scene(store)
            on_the_session(store, spoil)
            assert WRITES[what](scene)
            assert not store.availability.is_away


@pytest.mark.parametrize("what", WRITES)
def test_a_database_that_only_reads(what: str, home: str) -> None:
    """As a standby does: it can help to ask again, nothing has moved, and afterwards the same store goes on."""
    with open_store(home) as store, Prompt(home) as prompt:
        scene = Scene(store)
        before = prompt.everything()
        all_read_only(prompt, True)
        try:
            on_the_session(store, "SET default_transaction_read_only = on")
            with pytest.raises(StoreUnavailable, match=r"cannot write to .*: it is read-only") as away:
                WRITES[what](scene)
            assert StoreUnavailable is type(away.value)
            assert away.value.retryable
            assert store.availability.is_away
            assert before == prompt.everything()
            assert "queued" == store.get("run_queued").status, "who reads can go on"
        finally:
            all_read_only(prompt, False)
        assert WRITES[what](scene)
        assert not store.availability.is_away


def test_a_store_is_opened_on_a_database_that_only_reads(home: str) -> None:
    """It can be read, and written to as soon as the database can be."""
    with Prompt(home) as prompt:
        all_read_only(prompt, True)
        with open_store(home) as store:
            assert () == store.list().data
            with pytest.raises(StoreUnavailable, match="it is read-only"):
                store.create(**names())
            all_read_only(prompt, False)
            assert store.create(**names()).claimable
            assert 1 == len(store.list().data)


def pids(prompt: Prompt, like: str = "%") -> set[int]:
    """Return the sessions of others, by what they did last."""
    found = prompt.run(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND query LIKE ?",
        [like],
    )
    return {pid for (pid,) in found}


def test_the_other_sessions_go_with_the_one_that_was_lost(home: str) -> None:
    """Those that read, and the one that listens, may lead to a server that is no more the one."""
    heard: list[object] = []
    with open_store(home) as store, Prompt(home) as prompt, store.subscribe(heard.append):
        store.create(**names())
        store.get(store.list().data[0].id)
        wait_until(lambda: bool(pids(prompt, "%pg_notify%") or pids(prompt, "LISTEN%")), "the one that listens")
        before = pids(prompt)
        assert 3 == len(before)
        on_the_session(store, "SET default_transaction_read_only = on")
        store.create(**names())
        assert 2 == len(store.list().data)
        wait_until(lambda: not before & pids(prompt), "the sessions of before to end")
        wait_until(lambda: len(pids(prompt)) == 3, "the new ones")
        wait_until(lambda: bool(pids(prompt, "%pg_notify%") or pids(prompt, "LISTEN%")), "the one that listens")
        heard.clear()
        with open_store(home) as other:
            other.create(**names())
            wait_until(lambda: bool(heard), "a hint from another process's store")


def test_a_read_has_no_unknown_outcome(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the connection breaks under it, and under its second try, it can be asked again: nothing was changed."""

    def look(session: Any) -> None:
        session.execute("SELECT pg_terminate_backend(pg_backend_pid())", {})

    with open_store(home) as store:
        for _ in range(2):  # on a new session, and on one that was used before
            with pytest.raises(StoreUnavailable, match="broke before the reply came") as broken:
                store._transport.read(look)
            assert broken.value.retryable
            store.list()
    looked: list[None] = []

    def breaks(session: Any, shown: str) -> None:
        looked.append(None)
        look(session)

    monkeypatch.setattr("runstate.store._api.open.require_latest", breaks)
    with pytest.raises(StoreUnavailable, match="broke before the reply came"):
        open_store(home, wait_s=0.0)
    assert 1 == len(looked)


def test_a_read_inside_a_transaction_that_breaks(home: str) -> None:
    with open_store(home) as store, Prompt(home) as prompt, closing(Prompt(home).connection) as own:
        own.execute("BEGIN")
        with store.within(own) as bound:
            assert () == bound.list().data
            hang_up(prompt)
            with pytest.raises(StoreUnavailable):
                bound.list()


# --- what a code means ------------------------------------------------------------------------------------------------

LOST, CONFLICT, ROW = Trouble.SESSION_LOST, Trouble.CONFLICT, Trouble.ROW_REFUSED
CODES: Final = {
    **dict.fromkeys(("25006", "57P01", "57P02", "57P03", "57P04", "57P05", "08006", "08P01", "53300"), LOST),
    **dict.fromkeys(("0A000", "25P03", "3D000", "XX000", "58030", "F0000"), LOST),
    **dict.fromkeys(("40001", "40P01", "23505", "26000", "42P05"), CONFLICT),
    **dict.fromkeys(("22P05", "22003", "23514", "23503", "P0001"), ROW),
    **dict.fromkeys(("55P03", "57014", "40003", "42P01", "42501", "54000"), None),
}


@pytest.mark.parametrize("code", CODES)
def test_what_a_code_means_for_the_session(code: str) -> None:
    """A session is kept only where the error was about what was asked; without a code it is given up."""
    assert CODES[code] is trouble_of(code)
    assert LOST is trouble_of(None)
    assert ROW is trouble_of("23505", "runstate_history_pkey")  # nobody else has just written the same entry
    assert CONFLICT is trouble_of("23505", "runstate_thread_pkey")


def test_what_a_code_means_for_what_was_asked() -> None:
    every = [*CODES, "28P01", "28000", "22023", "55000"]
    assert ["57P01", "57P02", "57P05", "08006", "08P01"] == [code for code in every if is_answer_lost(code)]
    passing = ["25006", "57P01", "57P02", "57P03", "57P04", "57P05", "53300", "58030", "57014"]
    assert passing == [code for code in every if is_passing(code)]
    wrong = {"42P01", "42P05", "42501", "3D000", "22P05", "22003", "28P01", "28000", "22023"}
    assert wrong == {code for code in every if is_wrong([code])}
    assert not is_answer_lost(None)
    assert not is_passing(None)
    assert not is_wrong([])
    assert not is_wrong(["28P01", "57P03"]), "of two hosts one may come back"


def serve(listener: socket.socket, answers: list[tuple[str, str]]) -> None:
    """Refuse every connection with a code and a message, the last of them for good."""
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        with client:
            (length,) = struct.unpack("!I", client.recv(4, socket.MSG_WAITALL))
            client.recv(length - 4, socket.MSG_WAITALL)
            code, told = answers[0]
            if len(answers) > 1:
                answers.pop(0)
            body = f"SVERHÄNGNISVOLL\0VFATAL\0C{code}\0M{told}\0\0".encode()
            client.sendall(b"E" + struct.pack("!I", len(body) + 4) + body)


@contextmanager
def refusing(*answers: tuple[str, str]) -> Iterator[str]:
    """Yield the address of a server that refuses, in German. It speaks just enough to say so."""
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=serve, args=(listener, [*answers]), daemon=True)
    thread.start()
    try:
        yield f"postgresql://me:hunter2@127.0.0.1:{listener.getsockname()[1]}/db?sslmode=disable&gssencmode=disable"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


GERMAN: Final = {
    "28P01": "Passwort-Authentifizierung für Benutzer »me« fehlgeschlagen",
    "28000": "kein pg_hba.conf-Eintrag für Host »127.0.0.1«, Benutzer »me«, Datenbank »db«",
    "3D000": "Datenbank »db« existiert nicht",
    "42501": "keine Berechtigung für Datenbank »db«",
    "53300": "tut mir leid, schon zu viele Verbindungen",
    "57P03": "das Datenbanksystem startet",
    "55000": "Datenbank »authentication failed« akzeptiert gegenwärtig keine Verbindungen",
}
FOR_GOOD: Final = {"28P01", "28000", "3D000", "42501"}


def codes_are_told() -> bool:
    """Tell whether the driver here can find out the code of a refusal."""
    return hasattr(os, "memfd_create") and psycopg.pq.version() >= 180000


@pytest.mark.skipif(not codes_are_told(), reason="this libpq does not tell the code of a refusal")
@pytest.mark.parametrize("code", GERMAN)
def test_a_server_of_another_language(code: str, caplog: pytest.LogCaptureFixture) -> None:
    """Its code decides whether it can help to ask again, and not its words, which are passed on."""
    with refusing((code, f"{GERMAN[code]} (Störung_{code})")) as url, pytest.raises(StoreError) as refused:
        open_store(url, wait_s=0.5).close()
    assert (StoreUrlError if code in FOR_GOOD else StoreUnavailable) is type(refused.value)
    assert f"Störung_{code}" in str(refused.value)
    assert "hunter2" not in str(refused.value)
    assert (0 if code in FOR_GOOD else 1) == len(caplog.records), "what is waited for is said, once"


@pytest.mark.skipif(not codes_are_told(), reason="this libpq does not tell the code of a refusal")
def test_a_server_that_starts_and_finds_the_password_wrong() -> None:
    """It is waited for until it can say so, and no longer."""
    answers = [(code, f"{GERMAN[code]} (Störung_{code})") for code in ("57P03", "57P03", "28P01")]
    with refusing(*answers) as url, pytest.raises(StoreUrlError, match="Störung_28P01"):
        open_store(url, wait_s=LIMIT)


def test_a_refusal_that_is_known_is_not_asked_for_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is coming back is asked once each time."""
    asked: list[str] = []

    def ask(address: str, patience_s: float) -> list[str]:
        asked.append(address)
        return ["53300"]

    monkeypatch.setattr("runstate.store._postgres.connection.refusal_codes", ask)
    with refusing(("53300", GERMAN["53300"])) as url, pytest.raises(StoreUnavailable):
        open_store(url, wait_s=0.5)
    assert 1 == len(asked)


# --- opening ----------------------------------------------------------------------------------------------------------


def closed_for_now(name: str, role: str) -> Iterator[tuple[str, str]]:
    """Yield ways in which a database takes no connection of a role for a while: how, and how it is undone."""
    yield f"ALTER DATABASE {name} ALLOW_CONNECTIONS false", f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"
    yield f"ALTER ROLE {role} CONNECTION LIMIT 0", f"ALTER ROLE {role} CONNECTION LIMIT -1"
    yield f"ALTER DATABASE {name} CONNECTION LIMIT 0", f"ALTER DATABASE {name} CONNECTION LIMIT -1"


@pytest.fixture
def role(home: str, postgres_server: Server) -> Iterator[tuple[Prompt, str, str]]:
    """A prompt at another database, a role that may do everything in the store, and its URL."""
    name = f"runstate_{secrets.token_hex(4)}"
    with Prompt(home) as inside:
        inside.run(f"CREATE ROLE {name} LOGIN")
        for kind in ("TABLES", "SEQUENCES"):
            inside.run(f"GRANT ALL ON ALL {kind} IN SCHEMA public TO {name}")
    with Prompt(postgres_server.address) as prompt:
        yield prompt, name, re.sub(r"^(\w+://)([^@/?]*@)?", rf"\g<1>{name}@", home)
    with Prompt(home) as inside:
        inside.run(f"DROP OWNED BY {name}")
        inside.run(f"DROP ROLE {name}")


def test_a_store_that_is_opened_while_it_is_away_or_full(
    role: tuple[Prompt, str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """It is opened as soon as it can be, and what is waited for is said once."""
    prompt, name, url = role
    for begin, end in closed_for_now(str(conninfo_to_dict(url)["dbname"]), name):
        caplog.clear()
        prompt.run(begin)
        try:
            with pytest.raises(StoreUnavailable):
                open_store(url, wait_s=0.0)
            with ThreadPoolExecutor(1) as pool:
                opening = pool.submit(open_store, url, wait_s=LIMIT)
                wait_until(lambda: "retrying" in caplog.text, "somebody to wait")
                assert not opening.done()
                prompt.run(end)
                with opening.result(LIMIT) as store:
                    assert store.create(**names()).claimable
        finally:
            prompt.run(end)
        assert 2 == len(caplog.records), caplog.text


def test_a_store_that_is_migrated_while_it_is_away(postgres_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """So is one that is to be made: the connection breaks in the middle of it, and it is made all the same."""
    statements, broken = Migration.statements, list[None]()

    def breaking(step: Migration, dialect: Dialect) -> list[str]:
        if not broken and dialect is POSTGRES:
            broken.append(None)
            return ["SELECT pg_terminate_backend(pg_backend_pid())"]
        return statements(step, dialect)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Migration, "statements", breaking)
        with open_store(postgres_url, migrate=True, wait_s=LIMIT) as store:
            assert store.create(**names()).claimable
    assert [None] == broken
    assert "retrying" in caplog.text


# --- SQLite -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "runs.db"
    open_store(f"sqlite:///{path}").close()
    return path


def remove(path: Path) -> None:
    for name in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        name.unlink(missing_ok=True)


def test_a_file_that_is_replaced(path: Path, tmp_path: Path) -> None:
    """By a restore or a clean-up: whoever writes or reads goes on in the new one, and not in what was deleted."""
    for number, replace in enumerate((True, False)):
        with open_store(f"sqlite:///{path}") as store:
            store.create(**names(id="run_old"))
            assert "run_old" == store.get("run_old").id
            other = tmp_path / f"other{number}.db"
            with open_store(f"sqlite:///{other}") as elsewhere:
                elsewhere.create(**names(id="run_new"))
            remove(path)
            if replace:
                other.rename(path)
            else:
                shutil.copy(other, path)
            assert ["run_new"] == [run.id for run in store.list().data]
            assert "in_progress" == store.start("run_new").status
            with open_store(f"sqlite:///{path}") as beside:
                assert "in_progress" == beside.get("run_new").status
                assert "run_1" == store.create(**names(id="run_1")).id
                assert 2 == len(beside.list().data)
        remove(path)
        open_store(f"sqlite:///{path}").close()


def test_a_file_that_is_deleted(path: Path) -> None:
    """No empty one is made in its place: it is away, and the store goes on when it is back."""
    url = f"sqlite:///{path}"
    with open_store(url) as store:
        store.create(**names(id="run_1"))
        kept = path.with_name("kept.db")
        with closing(Prompt(url).connection) as connection:
            connection.execute(f"VACUUM INTO '{kept}'")
        remove(path)
        asking: list[Callable[[], object]] = [store.sweep, lambda: store.get("run_1")]
        asking.append(lambda: store.create(**names(id="run_2")))
        for ask in asking:
            with pytest.raises(StoreUrlError, match="cannot open"):
                ask()
        assert not path.exists()
        kept.rename(path)
        assert "in_progress" == store.start("run_1").status
        assert "run_2" == store.create(**names(id="run_2")).id
        assert 2 == len(store.list().data)


def test_a_file_that_is_named_by_a_relative_path(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays the same wherever the process goes."""
    monkeypatch.chdir(path.parent)
    with open_store("sqlite:///runs.db") as store:
        store.create(**names(id="run_1"))
        monkeypatch.chdir("/")
        assert "in_progress" == store.start("run_1").status
        assert "in_progress" == store.get("run_1").status


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_file_that_may_not_be_written_any_more(path: Path) -> None:
    with open_store(f"sqlite:///{path}") as store:
        path.chmod(0o400)
        store._committer._disconnect()
        with pytest.raises(AccessDenied, match="it is read-only"):
            store.create(**names())
        path.chmod(0o600)
        assert store.create(**names()).claimable


# --- what callers may see ---------------------------------------------------------------------------------------------


def test_every_error_of_a_store_is_a_public_one() -> None:
    """No module of a store or a worker has an exception of its own that `runstate.errors` does not list.

    Of a worker's there are four, which its package lists; the doctor's own is caught where it is raised.
    """
    root = Path(runstate.store.__file__).parents[1]
    public = {name for name in errors.__all__ if isclass(getattr_static(errors, name))}
    found: set[str] = set()
    for path in [*(root / "store").rglob("*.py"), *(root / "worker").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
                if bases & (public | {"Exception", "BaseException"}):
                    found.add(node.name)
    assert {"TokenLimitReached", "RunFailed", "RetryLater", "StepInterrupted", "_Rollback"} == found - public


def test_a_busy_file_is_told_by_a_public_error(path: Path) -> None:
    url = f"sqlite:///{path}"
    with open_store(url, wait_s=0.05) as store, Prompt(url) as other:
        other.run("BEGIN IMMEDIATE")
        asking: list[Callable[[], object]] = [store.sweep, lambda: store.create(**names())]
        asking.append(lambda: asyncio.run(awaited(store.aio.sweep())))
        for ask in asking:
            with pytest.raises(StoreUnavailable) as busy:
                ask()
            assert StoreUnavailable is type(busy.value)


@pytest.mark.parametrize("code", ["serialization_failure", "deadlock_detected", "unique_violation"])
def test_a_conflict_that_does_not_end_is_told_by_a_public_error(code: str, home: str) -> None:
    """Tried again some times, then told; inside a caller's transaction at once; to who reads as well."""
    raising = f"$$BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END$$"
    with open_store(home) as store, Prompt(home) as other:
        other.run(f"CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS {raising}")
        other.run("CREATE TRIGGER fail BEFORE INSERT ON runstate_run FOR EACH ROW EXECUTE FUNCTION fail()")
        other.run(f"CREATE FUNCTION fail_too() RETURNS int LANGUAGE plpgsql AS {raising}")
        with closing(Prompt(home).connection) as own, store.within(own) as bound:
            own.execute("BEGIN")
            asking: list[Callable[[], object]] = [
                lambda: store.create(**names()),
                lambda: store.create_many([names(), names()]),
                lambda: asyncio.run(awaited(store.aio.create(**names()))),
                lambda: bound.create(**names()),
                lambda: store._transport.read(lambda session: session.execute("SELECT fail_too()", {})),
            ]
            for ask in asking:
                with pytest.raises(RunstateError) as told:
                    ask()
                assert StoreUnavailable is type(told.value)
                assert told.value.retryable
        assert () == store.list().data


def test_a_schema_that_is_gone_for_a_moment(home: str, caplog: pytest.LogCaptureFixture) -> None:
    """As in a restore: it is told as what it is, and the same store goes on when it is back."""
    caplog.set_level(logging.WARNING)
    with open_store(home) as store, Prompt(home) as prompt:
        store.create(**names(id="run_1"))
        prompt.run("ALTER TABLE runstate_run RENAME TO away")
        asking: list[Callable[[], object]] = [lambda: store.create(**names()), lambda: store.get("run_1")]
        for ask in asking:
            with pytest.raises(SchemaMismatch):
                ask()
        prompt.run("ALTER TABLE away RENAME TO runstate_run")
        assert "run_1" == store.get("run_1").id
        assert store.create(**names()).claimable
        assert not store.availability.is_away


def test_one_that_may_not_spoils_no_neighbour(home: str) -> None:
    """What is asked together, and refused for one of them, is asked again one by one."""
    with open_store(home) as store:
        for code in ("42501", "42P01", "XX000", "0A000"):
            raising = f"DO $$BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END$$"
            let_go = held_back(store)

            async def ask_both(let_go: Callable[[], None], statement: str) -> Any:
                wrong: asyncio.Future[None] = store._committer.submit(
                    InTransaction(lambda session: session.execute_ddl(statement))
                )
                right = asyncio.ensure_future(store.aio.create(**names()))
                await asyncio.sleep(0)
                let_go()
                return await asyncio.gather(wrong, right, return_exceptions=True)

            error, run = asyncio.run(ask_both(let_go, raising))
            assert isinstance(error, StoreError)
            assert isinstance(run, StoredRun), run
        assert 4 == len(store.list().data)
