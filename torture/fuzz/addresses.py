"""Addresses of stores, made odd; and whether they were answered as they should be."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, Final

import psycopg

from runstate.errors import StoreUrlError
from runstate.store._api.url import database_at
from runstate.store._postgres.connection import PostgresDatabase
from torture.fuzz.mutation import some
from torture.fuzz.telling import SECRET, Broken, unsent

URLS: Final = (
    *("sqlite:///runs.db", "sqlite:////var/lib/runs.db", "sqlite:///:memory:", "sqlite:///a%20b%3F.db", "runs.db"),
    *("postgresql://me:hunter2@host/db", "postgres://me:hunter2@host:5432/db?sslmode=require", "postgresql:///db"),
    *("postgresql://me@host/db?password=hunter2", "postgresql://?host=/tmp&password=hunter2&dbname=db&user=me"),
    *("postgresql://me:hunter2@[::1]:5432/db", "postgresql://me:hunter2@a:1,b:2/db?target_session_attrs=any"),
    *("postgresql://me:%68unter2@host/db?options=-c%20geqo%3Doff", "postgresql://me:hunter2@/db?service=s&passfile=p"),
    *("host=h dbname=db user=me password=hunter2", "mysql://me:hunter2@host/db", "redis://:hunter2@host"),
)
BITS: Final = (
    *("@", ":", "/", "//", "?", "#", "%", "%zz", "%00", "%ff", "%2F", "%40", "%1b", "=", "&", "[", "]", "::", " "),
    "\\",
    *("?password=", "password=", "&password=", "sqlite:///", "postgresql://", "\u2100", "\N{FULLWIDTH COLON}"),
    "\u202e",
    *("\ud800", "\0", "\n", ",", "é", "99999", "-1", "host=", "port=", "dbname=", "sslpassword=", "x" * 2100, "'", '"'),
)


def make_url(rng: random.Random) -> Any:
    url = rng.choice(URLS)
    for _ in some(rng):
        url = splice(url, rng, BITS)
    return url if rng.random() < 0.98 else rng.choice((None, 5, url.encode(errors="replace"), [url], {}, object))


def splice(text: str, rng: random.Random, bits: Sequence[str]) -> str:
    """Return a text with a bit put in, in the place of something, or something gone, doubled or moved."""
    at = rng.randrange(len(text) + 1)
    end = min(len(text), at + rng.choice((1, 1, 2, 7)))
    change = rng.randrange(6)
    if change in (0, 1):
        return text[:at] + rng.choice(bits) + text[at:]
    if change == 2:
        return text[:at] + rng.choice(bits) + text[end:]
    if change == 3:
        return text[:at] + text[end:]
    if change == 4:
        return text[:at] + text[at:end] * 2 + text[end:]
    return text[at:] + text[:at]


def judge_url(given: Any) -> bool:
    """An address that shows no password, or `StoreUrlError` in a line; neither that nor what is behind it tells one."""
    try:
        database = database_at(given)
    except StoreUrlError as error:
        told = [f"{each}{each!r}{each.args!r}" for each in behind(error)]
        scheme = given.partition("://")[0] if isinstance(given, str) else ""
        if SECRET in "".join(told) and SECRET not in scheme:
            raise Broken(f"the password is told: {told}") from None
        unsent(told[0])
        if "\n" in str(error):
            raise Broken(f"more than a line: {error}") from None
        return False
    unsent(database.display_url)
    if isinstance(database, PostgresDatabase) and SECRET in f"{database.display_url}{database!r}":
        parts = psycopg.conninfo.conninfo_to_dict(database.url)
        if SECRET not in str(parts.get("host")) + str(parts.get("dbname")):  # it is a name now
            raise Broken(f"the password is shown: {database.display_url}")
    return True


def behind(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all that came before it."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [one.__cause__, one.__context__]
