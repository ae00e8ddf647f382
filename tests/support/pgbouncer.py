"""A real PgBouncer for the tests: started here in front of a database, and gone with the process that asked.

It is reached through a socket in a directory that only its user can enter. A line of shell waits beside it until the
tests' end of a pipe closes, whatever closes it, then ends it and removes the directory.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.support.postgres import LIMIT, take_identity, wait_until

PLACES: Final = "/usr/sbin:/usr/local/sbin:/opt/homebrew/bin"
"""Where it is, beside the usual folders: it is a program for administrators."""
TRACKS: Final = (1, 21)
"""The first version that keeps track of prepared statements, if it is told to."""
PORT: Final = 6432

SHELL: Final = '"$1" -q "$2/pgbouncer.ini" & server=$!; read -r _; kill -KILL $server; wait $server; rm -rf "$2"'


def find_program() -> str | None:
    """Return the path of PgBouncer; None where it is not installed."""
    return shutil.which("pgbouncer") or shutil.which("pgbouncer", path=PLACES)


def version_of(program: str) -> tuple[int, ...]:
    """Return its version."""
    told = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=LIMIT, check=True).stdout
    found = re.search(r"(\d+)\.(\d+)", told)
    assert found is not None, told
    return tuple(map(int, found.groups()))


class PgBouncer:
    """A pooler in front of one database; `url` is the way through it. Transactions are pooled if nothing else is said.

    Each transaction gets the server connection that was used longest ago, so that nothing is met again by chance.
    """

    def __init__(self, url: str, *, size: int = 2, settings: Mapping[str, object] | None = None) -> None:
        program = find_program()
        if program is None:
            pytest.skip("PgBouncer is not installed here")
        self._program = program
        self.version: Final = version_of(program)
        self._upstream: Final = conninfo_to_dict(url)
        self._settings: Final = {
            "listen_addr": "",
            "listen_port": PORT,
            "auth_type": "any",
            "pool_mode": "transaction",
            "default_pool_size": size,
            "server_round_robin": 1,
            "max_client_conn": 1000,
            **(settings or {}),
        }

    def __enter__(self) -> Self:
        self.home = Path(tempfile.mkdtemp(prefix="runstate-pgb-"))
        identity = take_identity(self.home)
        given, log = self._upstream, self.home / "log"
        server = f"host={given['host']} port={given.get('port', 5432)} user={given.get('user', 'postgres')}"
        lines = [f"{name} = {value}" for name, value in self._settings.items()]
        lines += [f"unix_socket_dir = {self.home}", f"logfile = {log}"]
        text = "\n".join(("[databases]", f"* = {server}", "[pgbouncer]", *lines, ""))
        (self.home / "pgbouncer.ini").write_text(text, encoding="utf-8")
        (self.home / "pgbouncer.ini").chmod(0o644)
        user = quote(str(given.get("user", "postgres")))
        self.url = f"postgresql://{user}@/{given['dbname']}?host={quote(str(self.home))}&port={PORT}"
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", SHELL, "runstate-pgbouncer", self._program, self.home],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            **identity,
        )
        wait_until(self._answers, "PgBouncer to accept connections")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate(timeout=LIMIT)

    def _answers(self) -> bool:
        assert self._process.poll() is None, (self.home / "log").read_text(encoding="utf-8")
        try:
            psycopg.connect(self.url, connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True
