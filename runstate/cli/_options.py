"""The store that a command is asked about: opened, or refused in a sentence; its errors as sentences and exit codes.

Exit code 1 says that the law, or the store in its name, refused what was asked; 2 that it was no thing to ask, or that
there is no such store; 3 that the store is away, busy, full or read-only for now, so that asking later can help.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final

import click

from runstate._redaction import without_passwords
from runstate.lifecycle.errors import IllegalTransition, RunstateError
from runstate.run.errors import ToolOutputsMismatch
from runstate.run.json_values import escape
from runstate.store.errors import KeyReused, LostRace, OutcomeUnknown, StoreError, StoreUnavailable, ThreadBusy

if TYPE_CHECKING:
    from runstate.store import Store
    from runstate.store._sql.connection import Database

__all__ = [
    "AS_JSON",
    "LISTEN",
    "STORE",
    "Away",
    "Mistaken",
    "Refused",
    "database_of",
    "masked",
    "opened",
    "told",
    "told_in_sentences",
]


class _OptionOrVariable(click.Option):
    """An option that errors name together with its variable, as those of click do from 8.2 on."""

    def get_error_hint(self, ctx: click.Context | None) -> str:
        return f"'{self.opts[0]}' (env var: '{self.envvar}')"


STORE: Final = click.option(
    "--store",
    "url",
    cls=_OptionOrVariable,
    metavar="URL",
    envvar="RUNSTATE_STORE",
    show_envvar=True,
    required=True,
    help="Where the runs are: sqlite:///runs.db or postgresql://user@host/database.",
)
"""Asks for a store. A password is better in the variable than on the command line, where others see it."""

LISTEN: Final = click.option(
    "--listen-url",
    cls=_OptionOrVariable,
    metavar="URL",
    envvar="RUNSTATE_LISTEN_URL",
    show_envvar=True,
    help="PostgreSQL's own address, for notifications, where --store leads through a pooler.",
)
"""Asks where to listen: LISTEN does not work through a pooler that pools transactions."""

_WAIT_S: Final = 10.0
"""For how many seconds a command waits for a database that is busy."""

AS_JSON: Final = click.option("--json", "as_json", is_flag=True, help="For programs.")

_SECRET: Final = re.compile(r"(?<=password=)[^&\s]+")
_WORD: Final = re.compile(r"\S+")
_REFUSALS: Final = (IllegalTransition, ToolOutputsMismatch, LostRace, ThreadBusy, KeyReused)


class Refused(click.ClickException):
    """What the law, or the store in its name, refuses: exit code 1."""

    exit_code = 1


class Mistaken(click.ClickException):
    """What cannot be asked, or of no store that is there: exit code 2."""

    exit_code = 2


class Away(click.ClickException):
    """What a store did not answer that is away for now: exit code 3."""

    exit_code = 3


def masked(text: str) -> str:
    """Return a text in which nothing is sent that a terminal obeys, nor the password of an address in a wrong place.

    >>> print(masked("no run postgresql://me:secret@host/db"))
    no run postgresql://me:***@host/db
    """
    return escape(without_passwords(_WORD.sub(_without_password, text)))


def _without_password(found: re.Match[str]) -> str:
    head, at, host = found[0].rpartition("@")
    scheme, slashes, person = head.partition("://") if "://" in head else ("", "", head)
    user, colon, _ = person.partition(":")
    return f"{scheme}{slashes}{user}:***@{host}" if at and colon else found[0]


def told(error: RunstateError, url: str = "") -> click.ClickException:
    """Return an error of the library as it is told: in one line, without what only the asker may know."""
    sentence = masked(str(error))
    for secret in _SECRET.findall(url):
        sentence = sentence.replace(secret, "***")
    if isinstance(error, StoreUnavailable | OutcomeUnknown):
        return Away(sentence)
    return Refused(sentence) if isinstance(error, _REFUSALS) else Mistaken(sentence)


@contextmanager
def told_in_sentences(url: str = "") -> Generator[None, None, None]:
    """Turn the library's errors into sentences and exit codes."""
    try:
        yield
    except RunstateError as error:
        raise told(error, url) from None


def database_of(url: str) -> Database:
    """Return the database at a URL, which is there. Raises `StoreError` where it cannot be."""
    from runstate.store._api.url import database_at

    database = database_at(url, _WAIT_S)
    if database.in_memory:
        raise StoreError("a database in memory is gone when this command ends: name a file, as in sqlite:///runs.db")
    path = getattr(database, "path", None)
    if isinstance(path, str) and not os.path.isfile(path):  # noqa: PTH113  # a Path raises where a folder cannot be looked into
        why = "it is a folder" if os.path.isdir(path) else "`runstate migrate` makes one"  # noqa: PTH112
        raise StoreError(f"there is no database {path}: {why}")
    return database


@contextmanager
def opened(url: str, listen_url: str | None = None, *, patience_s: float = 0.0) -> Generator[Store, None, None]:
    """Open the store at a URL, and listen at another if one is given; wait for so many seconds if it is away.

    The store is never made here: a mistyped path must not become an empty store.
    """
    from runstate.store._api.open import open_at

    with (
        told_in_sentences(f"{url} {listen_url}"),
        closing(database_of(url)) as database,
        open_at(database, migrate=False, wait_s=_WAIT_S, patience_s=patience_s, listen_url=listen_url) as store,
    ):
        yield store
