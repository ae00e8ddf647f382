"""Addresses that lead nowhere: one clear sentence each, without the password, and nothing is made or changed."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runstate.errors import InvalidRun, RunstateError, SchemaMismatch, StoreError, StoreUnavailable, StoreUrlError
from runstate.store import open_store
from runstate.store._api.url import database_at
from tests.store.support import names
from tests.support.postgres import Server

SECRET = "hunter2"
FORMS = "expected sqlite:///runs.db, sqlite:////absolute/path.db, sqlite:///:memory: or postgresql://user@host/database"


def refused(url: Any, **given: Any) -> StoreError:
    """Return the error of opening a store; its sentence is one line, and does not tell the password."""
    with pytest.raises(StoreError) as error:
        open_store(url, **given).close()
    sentence = str(error.value)
    assert "\n" not in sentence
    assert SECRET not in sentence
    assert SECRET not in repr(error.value)
    return error.value


@pytest.mark.parametrize(
    "url",
    [
        *(None, 5, b"sqlite:///x.db", ["sqlite:///x.db"], "", "runs.db", "/tmp/runs.db", "hunter2@host", "x" * 3000),
        *("sqlite:///a\nb", "sqlite:///\0", "mysql://me:hunter2@host/db", "http://host", "SQLITE:///x.db", ":", "://"),
        *("me:hunter2@host/db", "file:///x.db", "redis://:hunter2@host"),
    ],
    ids=lambda url: repr(url)[:30],
)
def test_no_address(url: Any) -> None:
    """What is no address, or of another kind, is told which there are."""
    error = refused(url)
    assert isinstance(error, StoreUrlError)
    assert isinstance(error, ValueError)
    assert FORMS in str(error)


@pytest.mark.parametrize(
    "url", ["sqlite:", "sqlite:x.db", "sqlite:/x.db", "sqlite://x.db", "sqlite:///", "sqlite://h/x"]
)
def test_three_slashes(url: str) -> None:
    """SQLite's addresses have three slashes, and a path behind them."""
    error = refused(url)
    assert isinstance(error, StoreUrlError)
    assert "has three slashes, four for an absolute path" in str(error)


@pytest.mark.parametrize("url", ["sqlite:///x.db?mode=ro", "sqlite:///x.db#a"])
def test_no_options(url: str) -> None:
    """They take no options: a question mark belongs to a path, and is written %3F there."""
    assert "takes no options" in str(refused(url))


def test_odd_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path may hold anything that a file name can; a relative one starts where the process stands."""
    monkeypatch.chdir(tmp_path)
    for number, (text, path) in enumerate(
        {
            "a b?c#d%é'\"&=.db": "a b%3Fc%23d%25é'\"&=.db",
            "plain.db": "plain.db",
            "ü.db": "%C3%BC.db",
            "mode=ro": "mode=ro",
        }.items()
    ):
        with open_store(f"sqlite:///{path}") as store:
            store.create(**names(id=f"run_{number}"))
        assert (tmp_path / text).is_file()
        with open_store(f"sqlite:///{path}") as store:
            assert [f"run_{number}"] == [run.id for run in store.list().data]
    assert {"a b?c#d%é'\"&=.db", "plain.db", "ü.db", "mode=ro"} == {path.name for path in tmp_path.iterdir()}


def test_no_such_folder(tmp_path: Path) -> None:
    """A folder that is missing, or a folder in the place of the file, is said to be so; nothing is made."""
    for path, why in (
        (tmp_path / "missing" / "runs.db", "no such folder, or no right to it"),
        (tmp_path, "it is a folder"),
    ):
        for migrate in (None, True, False):
            error = refused(f"sqlite:///{path}", migrate=migrate)
            assert isinstance(error, StoreUrlError)
            assert f"cannot open {path}: {why}" == str(error)
    assert [] == list(tmp_path.iterdir())


def test_no_file_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is not there, in a folder that is, is told as such where none shall be made; and none is."""
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "gone.db", "gone.db", "./gone.db"):
        error = refused(f"sqlite:///{path}", migrate=False)
        assert isinstance(error, StoreUrlError)
        assert f"cannot open {path}: there is no database of that name" == str(error)
    assert [] == list(tmp_path.iterdir())


NO_TIMES: tuple[Any, ...] = ("3", None, float("nan"), float("inf"), -1, -0.001, True, [], 7 * 24 * 3600 + 1)
NO_FLAGS: tuple[Any, ...] = ("yes", "", 0, 1, [])
SLIPS = [("wait_s", value) for value in NO_TIMES] + [("migrate", value) for value in NO_FLAGS]


@pytest.mark.parametrize("address", ["sqlite", "postgresql://me:hunter2@127.0.0.1:1/db"])
@pytest.mark.parametrize(("name", "value"), SLIPS, ids=repr)
def test_arguments_that_cannot_be(tmp_path: Path, address: str, name: str, value: Any) -> None:
    """They are named, before any database is asked, and nothing is made."""
    url = f"sqlite:///{tmp_path / 'runs.db'}" if address == "sqlite" else address
    with pytest.raises(InvalidRun, match=rf"^{name}: expected a (number|boolean)") as refusal:
        open_store(url, **{name: value})
    assert [name] == [fault.path for fault in refusal.value.errors]
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("wait_s", [0, 0.0, 0.5, 3, 7 * 24 * 3600])
@pytest.mark.parametrize("migrate", [None, True])
def test_arguments_that_can_be(tmp_path: Path, wait_s: float, migrate: bool | None) -> None:
    with open_store(f"sqlite:///{tmp_path / 'runs.db'}", wait_s=wait_s, migrate=migrate) as store:
        assert store.get(store.create(**names()).id).version == 1


@pytest.mark.parametrize("content", [b"not a database", b"x" * 5000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_no_database(tmp_path: Path, content: bytes) -> None:
    """A file that is something else stays as it is."""
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    error = refused(f"sqlite:///{path}")
    assert isinstance(error, StoreUrlError)
    assert f"{path} is not an SQLite database" == str(error)
    assert content == path.read_bytes()
    assert [path] == list(tmp_path.iterdir())


def test_a_file_that_is_missing_is_not_made_by_looking(tmp_path: Path) -> None:
    """Without `migrate` a store that is not there is not made."""
    error = refused(f"sqlite:///{tmp_path / 'runs.db'}", migrate=False)
    assert isinstance(error, StoreUrlError | SchemaMismatch)
    assert [] == list(tmp_path.iterdir())


def test_an_empty_file_is_an_empty_database(tmp_path: Path) -> None:
    """As SQLite has it: a store is made in it."""
    path = tmp_path / "runs.db"
    path.touch()
    with open_store(f"sqlite:///{path}") as store:
        assert store.create(**names()).claimable


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        *("postgresql:db", "postgresql://me:hunter2@[::1/db", "postgresql://me:hunter2@host/db?no_such_option=1"),
        "postgresql://me:hunter2@127.0.0.1:99999999/db",
        *(
            "postgresql://me:h@hunter2@host/db",
            "postgresql://me:/hunter2@host/db",
            "postgresql://me:hunter2%zz@host/db",
        ),
        *("postgresql://me:hunter2 @host/db", "postgresql://me:#hunter2@host/db", "postgresql://me:?hunter2@host/db"),
    ],
)
def test_no_address_of_a_server(url: str) -> None:
    """What libpq cannot read, or would read wrong, is refused without quoting it."""
    error = refused(url, wait_s=0.5)
    assert isinstance(error, StoreUrlError)
    assert not error.retryable


@pytest.mark.parametrize("port", ["0", "65536", "99999999", "5432,65536", "9" * 1000])
def test_no_such_port(port: str) -> None:
    """A port outside the range of ports is refused before libpq is asked."""
    error = refused(f"postgresql://me:hunter2@/db?host=127.0.0.1,127.0.0.2&port={port}")
    assert isinstance(error, StoreUrlError)
    assert "its port is no number from 1 to 65535" in str(error)


@pytest.mark.parametrize("port", ["1", "65535", "05432", "5432,5433", "5432,"])
def test_ports_that_can_be(port: str) -> None:
    assert f"postgresql://one,two:{port}/db" == database_at(f"postgresql:///db?host=one,two&port={port}").display_url


def test_no_such_host() -> None:
    """A name that nobody knows, and a port that is no number, which is not quoted: it may be the password."""
    error = refused("postgresql://me:hunter2@no.such.host.invalid/db", wait_s=0.5)
    assert "cannot connect to postgresql://no.such.host.invalid" in str(error)
    for url in ("postgresql://me:x@127.0.0.1:hunter2/db", "postgresql://me:hunter2/db"):
        assert "its port is no number" in str(refused(url, wait_s=0.5))


@pytest.mark.parametrize("password", ["p@ss", "a/b", "100%", "a b", "x:y", "#?&=+", "é"])
def test_a_password_is_written_in_percents(password: str) -> None:
    """Any password can be written so that it is read right, and the address that people see is without it."""
    from urllib.parse import quote

    database = database_at(f"postgresql://me:{quote(password, safe='')}@host:5/db")
    assert "postgresql://host:5/db" == database.display_url


def test_nobody_listens() -> None:
    """A port where nobody listens, a socket that is not there: it can help to ask again."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        error = refused(f"postgresql://me:hunter2@127.0.0.1:{port}/db", wait_s=0.5)
    assert isinstance(error, StoreUnavailable)
    assert error.retryable
    head, colon, reason = str(error).partition("/db: ")
    assert (f"cannot connect to postgresql://127.0.0.1:{port}", "/db: ") == (head, colon)
    assert reason.strip() == reason != ""  # the first line of what libpq says, and not the hint below it
    error = refused("postgresql://me:hunter2@/db?host=/no/such/folder", wait_s=0.5)
    assert isinstance(error, StoreUnavailable)


def test_no_such_database(postgres_server: Server) -> None:
    """A database or a person that the server does not know will not be there next time either."""
    error = refused(postgres_server.url("no_such_database"))
    assert isinstance(error, StoreUrlError)
    head, _, reason = str(error).partition("/no_such_database: ")
    assert head.startswith("cannot connect to postgresql://")
    assert "no_such_database" in reason


@pytest.fixture
def stern_server() -> Iterator[str]:
    """The address of a server that wants a password and finds every one wrong. It speaks just enough to say so."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                length, code = struct.unpack("!II", client.recv(8, socket.MSG_WAITALL))
                client.recv(length - 8, socket.MSG_WAITALL)
                if code == 80877103:  # asks for TLS
                    client.sendall(b"N")
                    (length,) = struct.unpack("!I", client.recv(4, socket.MSG_WAITALL))
                    client.recv(length - 4, socket.MSG_WAITALL)
                client.sendall(b"R" + struct.pack("!II", 8, 3))  # in clear text, please
                client.recv(1024)
                told = b'SFATAL\0C28P01\0Mpassword authentication failed for user "me"\0\0'
                client.sendall(b"E" + struct.pack("!I", len(told) + 4) + told)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(60)


def test_a_wrong_password(stern_server: str) -> None:
    """What the server says about it is passed on, without the password."""
    error = refused(f"postgresql://me:hunter2@{stern_server}/db", wait_s=0.5)
    assert isinstance(error, StoreUrlError)
    head, _, reason = str(error).partition("/db: ")
    assert f"cannot connect to postgresql://{stern_server}" == head
    assert '"me"' in reason


@pytest.mark.slow  # libpq waits for whole seconds
def test_a_server_that_hangs_up() -> None:
    """A server that goes away in the middle of it, or is none: one sentence."""
    listener = socket.create_server(("127.0.0.1", 0))

    def hang_up() -> None:
        for word in (b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"):
            client, _ = listener.accept()
            with client:
                client.recv(8)
                client.sendall(word)

    thread = threading.Thread(target=hang_up, daemon=True)
    thread.start()
    for _ in range(2):
        error = refused(f"postgresql://me:hunter2@127.0.0.1:{listener.getsockname()[1]}/db?sslmode=disable", wait_s=0.5)
        assert isinstance(error, RunstateError)
        assert "cannot connect to postgresql://127.0.0.1:" in str(error)
    listener.close()
    thread.join(60)


def test_what_people_see(store_url: str, postgres_server: Server) -> None:
    """A store shows where it is, without who and with what word."""
    with open_store(store_url) as store:
        shown = repr(store)
    assert shown.startswith("<Store sqlite:///" if store_url.startswith("sqlite") else "<Store postgresql://")
    assert "@" not in shown
