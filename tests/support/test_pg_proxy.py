"""The proxy before PostgreSQL loses what it says: the answer to what was committed, and to nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import psycopg
import pytest

from tests.support.pg_proxy import Loss, Proxy
from tests.support.postgres import Server

WRITE = "INSERT INTO runstate_thing VALUES (1)"


@pytest.fixture
def proxy(postgres_server: Server) -> Iterator[Proxy]:
    """A proxy before a database with one table."""
    url = postgres_server.create_database()
    with psycopg.connect(url, autocommit=True) as direct:
        direct.execute("CREATE TABLE runstate_thing (number int UNIQUE)")
    with Proxy(url) as proxy:
        yield proxy
    postgres_server.drop_database(url)


def ask(connection: psycopg.Connection, *statements: str) -> bool:
    """Ask one after the other; return whether all were answered."""
    try:
        for statement in statements:
            connection.execute(statement)
    except psycopg.OperationalError:
        return False
    return True


@pytest.mark.parametrize(
    "statements",
    [[WRITE], ["BEGIN", WRITE, "COMMIT"], ["BEGIN", WRITE, "SAVEPOINT s", "ROLLBACK TO s", "COMMIT"]],
    ids=["alone", "in a transaction", "beside what is rolled back"],
)
def test_an_answer_to_what_was_committed_is_lost(statements: list[str], proxy: Proxy) -> None:
    """The connection breaks at the very end, and what was asked has happened."""
    with psycopg.connect(proxy.url, autocommit=True) as connection:
        proxy.lose_in_order("answer")
        assert ask(connection, *statements[:-1])
        assert not ask(connection, statements[-1])
    assert proxy.has_lost_all
    assert [WRITE.encode() in asked for asked in proxy.lost] == [True]
    with psycopg.connect(proxy.url) as connection:
        assert (1,) == connection.execute("SELECT count(*) FROM runstate_thing").fetchone()


def test_an_answer_to_what_was_undone_is_not(proxy: Proxy) -> None:
    """What only reads, what fails and what is rolled back is answered, though the answer to a write is to be lost."""
    with psycopg.connect(proxy.url, autocommit=True) as connection:
        connection.execute(WRITE)
        proxy.lose_in_order("answer")
        assert ask(connection, "SELECT 1", "BEGIN", WRITE.replace("1", "2"), "ROLLBACK")
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute(WRITE)
        assert ask(connection, "BEGIN", "SELECT 1", "COMMIT")
        assert ([], False) == (proxy.lost, proxy.has_lost_all)


@pytest.mark.parametrize(("loss", "statement"), [("request", WRITE), ("any request", "SELECT 1")])
def test_a_request_does_not_reach_the_server(loss: Loss, statement: str, proxy: Proxy) -> None:
    """The connection breaks, and nothing has happened; the next connection is refused if that is to be lost too."""
    with psycopg.connect(proxy.url, autocommit=True) as connection:
        proxy.lose_in_order(loss, "connection")
        assert not ask(connection, statement)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(proxy.url)
    assert (2, True) == (len(proxy.lost), proxy.has_lost_all)
    with psycopg.connect(proxy.url) as connection:
        assert (0,) == connection.execute("SELECT count(*) FROM runstate_thing").fetchone()


def test_any_answer_is_one_of_a_connection_that_is_set_up(proxy: Proxy) -> None:
    """No answer is lost while a client connects, nor one of a connection that waits for notifications."""
    proxy.lose_in_order("any answer")
    with psycopg.connect(proxy.url, autocommit=True) as notifier, psycopg.connect(proxy.url, autocommit=True) as other:
        assert ask(notifier, "LISTEN runstate", "SELECT 1")
        assert not ask(other, "SELECT 1")
        assert ask(notifier, "SELECT 1")


def test_a_part_of_the_connections_is_cut(proxy: Proxy) -> None:
    """At least one of them is, and all if no part is named."""
    connections = [psycopg.connect(proxy.url, autocommit=True) for _ in range(4)]
    assert 1 == proxy.cut(Random(1), 0.1)
    assert 3 == sum(ask(connection, "SELECT 1") for connection in connections)
    assert 3 == proxy.cut()
    assert not any(ask(connection, "SELECT 1") for connection in connections)
    for connection in connections:
        connection.close()
