"""What stands in no text that is stored: the password in every spelling, and the parts of a store's address."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final
from urllib.parse import quote, quote_plus

import pytest
from psycopg.conninfo import make_conninfo

from runstate._redaction import Password, redacted, without_passwords
from runstate.store import open_store
from runstate.store._postgres.connection import PostgresDatabase
from runstate.worker._failure import traceback_of
from tests.support.postgres import Server

PASSWORDS: Final = (
    *("hunter2", "12345678", "correct horse", "pass/word@1:2", 'it\'s "so"', "back\\slash", "mötley", "postgres"),
    *("password", "host", "a%b&c", "x.yz", "tail'", "\\'mix", "***x"),
)
TEXTS: Final[dict[str, Callable[[str], str]]] = {
    "bare": lambda password: f"no entry for {password} here",
    "inside a word": lambda password: f"x{password}y",
    "keywords": lambda password: make_conninfo(host="db", user="me", password=password, dbname="prod"),
    "a dict": lambda password: repr({"host": "db", "password": password}),
    "JSON": lambda password: json.dumps({"host": "db", "password": password}),
    "JSON in JSON": lambda password: json.dumps(json.dumps({"password": password})),
    "a source line": lambda password: f"    psycopg.connect({make_conninfo(host='db', password=password)!r})",
    "the environment": lambda password: f"PGPASSWORD={password} psql",
    "os.environ": lambda password: f'os.environ["PGPASSWORD"] = {password!r}',
    "an address": lambda password: f"postgresql://me:{quote(password, safe='')}@db/prod",
    "another address": lambda password: f"mysql://me:{quote(password)}@db/prod",
    "lower case": lambda password: f"at ftp://me:{quote(password, safe='').lower()}@db",
    "a form": lambda password: f"?user=me&password={quote_plus(password)}&x=1",
    "a raw address": lambda password: f"postgresql+psycopg://me:{password}@db/prod",
    "SQL": lambda password: f"ALTER ROLE me PASSWORD '{password}'",
}


def spellings(password: str) -> set[str]:
    """Return what must not be found afterwards."""
    return {password, quote(password), quote(password, safe=""), repr(password)[1:-1], json.dumps(password)[1:-1]}


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("password", PASSWORDS)
def test_a_password_stands_in_no_text(password: str, text: str) -> None:
    """However it is spelled there, and whatever it looks like: digits, a word of the address, quotes in it."""
    database = PostgresDatabase(f"postgresql://me:{quote(password, safe='')}@db:5433/prod")
    told = redacted(TEXTS[text](password), database.private)
    names = ("password", "PASSWORD=", "host", "***")  # under which it is given
    rest = told.lower()
    for name in names:
        rest = rest.replace(name.lower(), "")
    assert not [each for each in spellings(password) if each.lower() in rest], told
    assert "***" in told


@pytest.mark.parametrize("text", ["no password='z z' here", "PgPassword: z", "'PASSWORD': 'z'", 'x(password = "z")'])
def test_a_password_of_another_is_hidden_too(text: str) -> None:
    """A handler may quote an address that is not its store's: what is given as a password is one."""
    for told in (redacted(text, ()), without_passwords(text)):
        assert "z" not in told
        assert "***" in told


@pytest.mark.parametrize("password", ["a", "1", "pw"])
def test_a_short_password_leaves_the_words(password: str) -> None:
    """It is hidden where it can only be one: under its name, in quotes, in an address."""
    private = ("db", Password(password))
    assert f"{password} map 1 pwd a1" == redacted(f"{password} map 1 pwd a1", private)
    assert "ftp://me:***@x '***' password=***" == redacted(
        f"ftp://me:{password}@x '{password}' password={password}", private
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("host=db user=me dbname=prod port=5433", "host=*** user=*** dbname=*** port=***"),
        ("{'host': 'db', 'port': '5433', 'x': 5433}", "{'host': '***', 'port': '***', 'x': 5433}"),
        ('PGHOST=db DB_USER="me" hostaddr=10.0.0.1', 'PGHOST=*** DB_USER="***" hostaddr=***'),
        ("db:5433 refused", "***:*** refused"),
        ("the db of me in prod, mdb:1, hosts: db2", "the db of me in prod, mdb:1, hosts: db2"),
        ("host=dbx port=54331 ghost=db", "host=dbx port=54331 ghost=db"),
    ],
)
def test_parts_of_an_address_that_are_words(text: str, told: str) -> None:
    """A host may be `db`, as in a compose file: it is hidden where it is named as one, and stays a word elsewhere."""
    assert told == redacted(text, ("db", "10.0.0.1", "5433", "prod", "me"))


def test_a_long_text_takes_no_long_time() -> None:
    """A pattern that tried every way to read a text of passwords and quotes would not come back."""
    private = ("db", "5433", Password("it's"), Password("x'y\\"))
    for text in ("password='it's" * 2000, "password=\\" * 2000, "'it\\'s" * 5000, "postgresql://it's" * 3000):
        assert "it's" not in redacted(text, private)


def test_the_address_for_notifications_is_private_too(postgres_server: Server) -> None:
    """It is the server's own where the other leads to a pooler: a handler may quote either."""
    url = postgres_server.create_database()
    try:
        given = url + ("&" if "?" in url else "?")
        with open_store(url, migrate=True, listen_url=f"{given}password=listens-here") as store:
            assert "listens-here" in store.address_parts
            assert "***" == redacted("listens-here", store.address_parts)
    finally:
        postgres_server.drop_database(url)


def test_a_traceback_shows_no_password() -> None:
    """Neither in the text of the exception, nor in a line of the source."""
    private = PostgresDatabase("postgresql://me:hunter2@db/prod").private
    try:
        dsn = "host=db user=me password=hunter2 dbname=prod"
        raise ValueError(f"cannot parse {dsn}")
    except ValueError as error:
        told = traceback_of(error, private)
    assert "hunter2" not in told
    assert "host=*** user=*** password=*** dbname=***" in told
