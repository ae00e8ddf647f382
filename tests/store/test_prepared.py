"""Statements executed straight through libpq: what goes in and out, and what happens when the server falls silent."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import quote

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from runstate.store import open_store
from runstate.store._postgres.prepared import Prepared
from tests.store.support import wait_for_a_lock
from tests.support.postgres import LIMIT, wait_until

READY_FOR_QUERY = 6  # bytes: the last message of every answer
SLOWLY = "an answer that comes in two parts"


def relay(listening: socket.socket, way: socket.socket, thread: socket.socket) -> None:
    """Hand on what two sides say; of the answer that is to come slowly, keep the last message back.

    Not before a thread of the process that asked has answered, too, the last message is sent.
    """
    client, _ = listening.accept()
    while True:
        ready, _, _ = select.select([client, way], [], [])
        for source in ready:
            chunk = source.recv(65536)
            if not chunk:
                return
            if source is way and SLOWLY.encode() in chunk:
                client.sendall(chunk[:-READY_FOR_QUERY])
                thread.sendall(b"?")
                if not select.select([thread], [], [], LIMIT)[0]:
                    return
                chunk = chunk[-READY_FOR_QUERY:]
            (client if source is way else way).sendall(chunk)


@contextmanager
def slowly(url: str, thread: socket.socket) -> Iterator[str]:
    """Yield a way to a server that leads through another process, which asks whoever is at the end of a socket."""
    given = conninfo_to_dict(url)
    folder, port = str(given.get("host", "127.0.0.1")), int(str(given.get("port", 5432)))
    if folder.startswith("/"):
        way = socket.socket(socket.AF_UNIX)
        way.connect(f"{folder}/.s.PGSQL.{port}")
    else:
        way = socket.create_connection((folder, port))
    with way, socket.create_server(("127.0.0.1", 0)) as listening:
        child = os.fork()
        if child == 0:
            with suppress(OSError):
                relay(listening, way, thread)
            os._exit(0)
        user, own = quote(str(given.get("user", "postgres"))), listening.getsockname()[1]
        yield f"postgresql://{user}@127.0.0.1:{own}/{given['dbname']}?sslmode=disable&gssencmode=disable"
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_other_threads_run_while_an_answer_is_not_all_there(postgres_url: str) -> None:
    """For the end of an answer libpq waits with the whole interpreter, if it is asked too early."""
    ours, theirs = socket.socketpair()

    def answer() -> None:
        assert b"?" == ours.recv(1)
        ours.sendall(b"!")

    with ours, theirs, slowly(postgres_url, theirs) as url, psycopg.connect(url, autocommit=True) as connection:
        answering = threading.Thread(target=answer, daemon=True)
        answering.start()
        assert [(SLOWLY,)] == list(Prepared(connection)(f"SELECT '{SLOWLY}'", {})), "the thread did not run"
        answering.join(LIMIT)
        assert not answering.is_alive()


@pytest.mark.parametrize(
    "values",
    [
        [
            "",
            "NULL",
            "null",
            None,
            "{}",
            '"',
            "\\",
            '\\"',
            "a,b",
            " a ",
            "\n\t",
            "\N{SUN WITH FACE}",
            "'",
            "%(x)s",
            "$1",
        ],
        ["same", "same", "same"],
        [None, None],
        [],
    ],
)
def test_any_text_arrives_in_an_array(values: list[str | None], postgres_url: str) -> None:
    """As it was handed over, and back."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        run = Prepared(connection)
        found = run("SELECT unnest(%(values)s::text[])", {"values": values})
        assert values == [row[0] for row in found]
        counted = run("SELECT cardinality(%(values)s::text[])", {"values": values})
        assert [(len(values),)] == list(counted)


def test_a_refusal_leaves_the_connection_of_use(postgres_url: str) -> None:
    """An error comes out as psycopg's own kind, with the server's code, and the next statement works."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        run = Prepared(connection)
        for _ in range(2):
            with pytest.raises(psycopg.errors.DivisionByZero):
                run("SELECT 1 / %(value)s::bigint", {"value": 0})
            assert [(1,)] == list(run("SELECT 1 / %(value)s::bigint", {"value": 1}))
        with pytest.raises(psycopg.errors.UndefinedTable):
            run("SELECT * FROM nowhere", {})
        assert [] == list(run("SET enable_seqscan = on", {}))


IN_THE_MIDDLE = """
import sys
import psycopg
from runstate.store._postgres.prepared import Prepared
with psycopg.connect(sys.argv[1], autocommit=True) as connection:
    run = Prepared(connection)
    try:
        run("SELECT pg_sleep(600)", {})
    except KeyboardInterrupt:
        print("interrupted")
    try:
        run("SELECT 1", {})
    except psycopg.OperationalError:
        print("of no more use")
"""
OF_A_STORE = """
import sys
from runstate.store import open_store
with open_store(sys.argv[1]) as store:
    try:
        store.start(sys.argv[2])
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    sys.stdin.readline()
    print(store.get(sys.argv[2]).status, store.start(sys.argv[2]).status)
"""


def beside(script: str, *arguments: str) -> subprocess.Popen[str]:
    """Run a script in a process of its own, which an interrupt may meet anywhere."""
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_an_interrupt_in_the_middle(postgres_url: str) -> None:
    """Ctrl-C is heard while the server works, which gives up; the connection, whose answer nobody takes, is closed."""
    # Not by the query, which is shown as soon as it is prepared: a server ignores a cancel that comes before the work.
    at_work = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
    with psycopg.connect(postgres_url, autocommit=True) as other:

        def works() -> bool:
            return bool(other.execute(at_work).fetchall())

        with beside(IN_THE_MIDDLE, postgres_url) as process:
            wait_until(works, "the server to be at it")
            process.send_signal(signal.SIGINT)
            told, _ = process.communicate(timeout=LIMIT)
        assert "interrupted\nof no more use\n" == told
        wait_until(lambda: not works(), "the server to give up")


def test_a_connection_that_is_cut(postgres_url: str) -> None:
    """By the server: an OperationalError, and the connection knows that it is broken."""
    with (
        psycopg.connect(postgres_url, autocommit=True) as connection,
        psycopg.connect(postgres_url, autocommit=True) as other,
    ):
        run = Prepared(connection)
        run("SELECT 1", {})
        other.execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
        with pytest.raises(psycopg.OperationalError):
            run("SELECT 1", {})
        assert connection.broken


def test_a_store_after_an_interrupt(postgres_url: str) -> None:
    """What was interrupted is not done, and the next thing asked of the store is."""
    with open_store(postgres_url, migrate=True) as store, psycopg.connect(postgres_url) as other:
        run = store.create(thread_id="t", assistant_id="a", model="m")
        other.execute("SELECT 1 FROM runstate_run FOR UPDATE")
        with beside(OF_A_STORE, postgres_url, run.id) as process:
            assert process.stdout is not None
            wait_for_a_lock(postgres_url)
            process.send_signal(signal.SIGINT)
            assert "interrupted\n" == process.stdout.readline()
            other.rollback()
            told, _ = process.communicate("\n", timeout=LIMIT)
        assert "queued in_progress\n" == told
