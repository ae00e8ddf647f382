"""Options that several commands have, and the store or database that they name."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final

import click

from runstate.cli.errors import InvalidUsage, errors_as_exit_codes
from runstate.run.json_values import escape
from runstate.store.errors import StoreError

if TYPE_CHECKING:
    from runstate.store import Store
    from runstate.store._sql.connection import Database

__all__ = [
    "database_from_url",
    "json_option",
    "listen_url_option",
    "run_of",
    "store_from_url",
    "store_option",
]


class _EnvVarOption(click.Option):
    """An option whose errors name its environment variable too, as click does from 8.2 on.

    `runstate --store URL` before the command stands for the variable of every command.
    """

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """Return the value before the command, or that of the variable."""
        given = ctx.find_root().params.get("store_url") if self.name == "url" else None
        return given if isinstance(given, str) else super().resolve_envvar_value(ctx)

    def get_error_hint(self, ctx: click.Context | None) -> str:
        return f"'{self.opts[0]}' (env var: '{self.envvar}')"


store_option: Final = click.option(
    "--store",
    "url",
    cls=_EnvVarOption,
    metavar="URL",
    envvar="RUNSTATE_STORE",
    show_envvar=True,
    required=True,
    help="The store: sqlite:///runs.db or postgresql://user@host/database.",
)
"""The store. Put a password into the variable: other users of the machine can see the command line."""

listen_url_option: Final = click.option(
    "--listen-url",
    cls=_EnvVarOption,
    metavar="URL",
    envvar="RUNSTATE_LISTEN_URL",
    show_envvar=True,
    help="The URL of PostgreSQL itself, for notifications, if --store leads through a pooler.",
)
"""The address for notifications. LISTEN does not work through a pooler of transactions."""

_WAIT_S: Final = 10.0
"""For how many seconds a command waits for a busy database."""


def run_of(store: Store, given: str) -> str:
    """Return the id of a run from the id or the beginning of one, of eight characters or more.

    Raises a click error if several runs match. A shorter text would too often match a run that is not meant.
    """
    if len(given) < _LEAST_PREFIX:
        return given
    found = store.matching_ids(given, limit=_MOST_MATCHES + 1)
    if given in found or not found:
        return given
    if len(found) == 1:
        return found[0]
    shown = ", ".join(map(escape, found[:_MOST_MATCHES])) + (" ..." if len(found) > _MOST_MATCHES else "")
    raise InvalidUsage(f"{escape(given)} is the beginning of several ids: {shown}")


_MOST_MATCHES: Final = 5
_LEAST_PREFIX: Final = len("run_") + 4
json_option: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def _why_no_file(path: str) -> str:
    if os.path.isdir(path):  # noqa: PTH112
        return "it is a folder"
    folder = os.path.dirname(path)  # noqa: PTH120
    return f"there is no folder {folder}" if folder and not os.path.isdir(folder) else "`runstate migrate` makes one"  # noqa: PTH112


def database_from_url(url: str) -> Database:
    """Return the database at a URL. Raises `StoreError` if there is none, or if it is in memory."""
    from runstate.store._api.url import database_at

    database = database_at(url, _WAIT_S)
    if database.in_memory:
        raise StoreError("a database in memory is gone when this command ends: name a file, as in sqlite:///runs.db")
    path = getattr(database, "path", None)
    if isinstance(path, str) and not os.path.isfile(path):  # noqa: PTH113  # a Path raises if the folder is not readable
        raise StoreError(f"there is no database {path}: {_why_no_file(path)}")
    return database


@contextmanager
def store_from_url(url: str, listen_url: str | None = None, *, patience_s: float = 0.0) -> Generator[Store, None, None]:
    """Open the store at a URL, and close it at the end. `patience_s` is how long to wait for one that is unavailable.

    This never creates a store: a mistyped path must not become an empty store. Raises click errors with exit codes.
    """
    from runstate.store._api.open import open_at

    with (
        errors_as_exit_codes(f"{url} {listen_url}"),
        closing(database_from_url(url)) as database,
        open_at(database, migrate=False, wait_s=_WAIT_S, patience_s=patience_s, listen_url=listen_url) as store,
    ):
        yield store
