"""What every test program stands on: a scratch folder, databases of its own, and time limits."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from random import Random
from time import monotonic, sleep
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias

from runstate.store import open_store
from tests.support.postgres import Server

Dialect: TypeAlias = Literal["postgres", "sqlite"]

PATIENCE_S: Final = 60.0
"""Longer than anything may take that is waited for once."""


class GaveUp(Exception):
    """A trial did not come to its end in time."""


def wait_until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE_S, every: float = 0.02) -> None:
    """Wait for a condition, but not for ever."""
    end = monotonic() + seconds
    while not condition():
        if monotonic() > end:
            raise GaveUp(f"waited {seconds:g} seconds for {what}")
        sleep(every)


# --- databases --------------------------------------------------------------------------------------------------------


class Ground:
    """A scratch folder, servers started when they are needed, and the chance that a seed gives."""

    def __init__(self, seed: int, quick: bool) -> None:
        self.seed: Final = seed
        self.quick: Final = quick
        """Whether it is only shown to work."""
        self._stack = ExitStack()
        self._servers: dict[bool, Server] = {}
        self._made = 0

    def __enter__(self) -> Self:
        kept = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="runstate-faults-"))
        self.scratch = Path(kept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def chance(self, trial: str) -> Random:
        """Return a source of chance that is the same for the same seed and trial."""
        return Random(f"{self.seed} {trial}")

    def server(self, *, fast: bool = True) -> Server:
        """Return a PostgreSQL of our own; a fast one does not wait for the disk."""
        if fast not in self._servers:
            self._servers[fast] = Server.start_new(fast=fast)
            self._stack.callback(self._servers[fast].stop)
        return self._servers[fast]

    def path(self, name: str) -> Path:
        """Return a path in the scratch folder that nobody else has."""
        self._made += 1
        return self.scratch / f"{self._made}-{name}"

    def store(self, dialect: Dialect, *, fast: bool = True) -> str:
        """Return the URL of a new, empty store."""
        url = self.server(fast=fast).create_database() if dialect == "postgres" else f"sqlite:///{self.path('runs.db')}"
        open_store(url, migrate=True).close()
        return url

    def drop(self, url: str) -> None:
        """Make room: nobody asks for this database any more."""
        if url.startswith("sqlite:///"):
            for path in self.scratch.glob(f"{Path(url).name}*"):
                path.unlink()
            return
        for server in self._servers.values():
            with suppress(Exception):  # it is another server's, or away
                server.drop_database(url)
