"""Where a storm takes place: its store, its processes, and what stands between them and the store."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Final, Self

import attrs
import psycopg

from runstate.errors import StoreError
from runstate.store import open_store
from tests.support.pg_proxy import Proxy
from tests.support.pgbouncer import PgBouncer
from tests.support.postgres import Server
from torture.bugs import plant_functions
from torture.disks import bench, mounted, new_image, why_not
from torture.fleet.fleet import Fleet, settings_at
from torture.fleet.settings import Settings
from torture.fleet.unwritable import place_unwritable
from torture.ground import Ground, wait_until
from torture.processes import Processes

OWN: Final = ("postgres", "sqlite")
"""What stands for a store that a storm makes for itself."""
HOUR_S: Final = 3600.0
POOL: Final = 12
"""Server connections of a pooler, which some fifty clients share."""
DISK_BYTES: Final = 2**30

SLOW_FSYNC: Final = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
/* A file of N bytes at $RUNSTATE_SLOW_FSYNC makes every fsync take N milliseconds longer. */
static void wait_for_the_disk(void) {
    const char *path = getenv("RUNSTATE_SLOW_FSYNC");
    struct stat found;
    if (path && stat(path, &found) == 0) usleep(found.st_size * 1000);
}
int fsync(int file) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    wait_for_the_disk();
    return real(file);
}
int fdatasync(int file) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    wait_for_the_disk();
    return real(file);
}
"""


class NotHeld(Exception):
    """A storm cannot be held there, and why."""


class Cast:
    """How many of each kind of process there are."""

    POSTGRES: Final = {"create": 2, "cancel": 1, "submit": 1, "operate": 1, "sweep": 1, "insist": 2}
    SQLITE: Final = {"create": 1, "cancel": 1, "submit": 1, "operate": 1, "sweep": 1, "insist": 1}
    WORKERS: Final = {"postgres": 4, "sqlite": 3}


class Stage:
    """A store and the processes around it. Leaving the block ends them all."""

    def __init__(
        self, ground: Ground, where: str, seed: int, bug: str | None, lease_s: float, *, pooler: bool = False
    ) -> None:
        self._stack = ExitStack()
        self._ground = ground
        self._where = where
        self._bug = bug
        self._lease_s = lease_s
        self.is_pooled: Final = pooler
        self.seed: Final = seed
        self.chance: Final = Random(f"{seed} stage")
        self.server: Server | None = None
        self.proxy: Proxy | None = None
        self.disk: Path | None = None
        """A small disk that may be filled, and nobody else's."""
        self.slow: Path | None = None
        """Where a file of N bytes makes every fsync take N milliseconds longer."""
        self.missing: list[str] = []
        """What harm cannot be done here, and why."""
        self.has_unwritable = False
        """Whether there are two runs that nothing can move."""
        self.skewed = 0
        """How many workers have begun with a wrong clock."""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.url = self._open(stack)
            self.is_sqlite = self.url.startswith("sqlite:")
            url = self._pooled(stack) if self.is_pooled else self.url
            if self._bug is not None:
                plant_functions(self.url, self._bug)
            self.settings = settings_at(self._ground, url, lease_s=self._lease_s, bug=self._bug)
            if not self.is_sqlite:
                self.proxy = stack.enter_context(Proxy(self.settings.url))
            self.fleet = Fleet(stack.enter_context(Processes()), self.settings, self._settings_of)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def path(self) -> str:
        """The path of the SQLite file."""
        return self.url.removeprefix("sqlite:///")

    @property
    def proxied(self) -> Proxy:
        """The proxy, which there is."""
        assert self.proxy is not None
        return self.proxy

    # --- the store ------------------------------------------------------------------------------------------------

    def _open(self, stack: ExitStack) -> str:
        if self._where == "postgres":
            self.server = self._ground.server(fast=self._ground.quick)
            url = self._ground.store("postgres", fast=self._ground.quick)
            stack.callback(self._ground.drop, url)
            return url
        if self._where == "sqlite":
            self.disk = stack.enter_context(small_disk(self.missing))
            self.slow = slow_fsync(self._ground, stack, self.missing)
            url = f"sqlite:///{(self.disk or self._ground.path('storm')) / 'runs.db'}"
            if self.disk is None:
                Path(url.removeprefix("sqlite:///")).parent.mkdir()
            open_store(url).close()
            return url
        self.missing.append("the server and the disk are somebody else's: not killed, not filled")
        try:
            with open_store(self._where, migrate=True) as store:
                is_empty = not store.list(limit=1).data
        except StoreError as error:
            raise NotHeld(str(error)) from None
        if not is_empty:
            raise NotHeld("the store has runs already, and a storm would end them: give it one of its own")
        return self._where

    def _pooled(self, stack: ExitStack) -> str:
        """Return the URL by which all processes reach the store: fewer server connections than clients stand behind."""
        if self.is_sqlite:
            raise NotHeld("a pooler stands before PostgreSQL: --store postgres, or a URL of one")
        return stack.enter_context(PgBouncer(self.url, size=POOL, settings={"server_login_retry": 0.2})).url

    def wait_for_the_way(self) -> None:
        """Wait until the store answers by the way that the processes take: a pooler tries again after a while only."""

        def answers() -> bool:
            with (
                suppress(psycopg.OperationalError),
                psycopg.connect(self.settings.url, connect_timeout=5) as connection,
            ):
                connection.execute("SELECT 1")
                return True
            return False

        wait_until(answers, "the store to answer again")

    # --- the processes --------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Place the runs that nothing can move, and start everybody."""
        try:
            place_unwritable(self.url)
        except psycopg.errors.InsufficientPrivilege:
            self.missing.append("no run is made unwritable: the role is no superuser's")
        else:
            self.has_unwritable = True
        self.fleet.start(Cast.SQLITE if self.is_sqlite else Cast.POSTGRES)
        for _ in range(Cast.WORKERS["sqlite" if self.is_sqlite else "postgres"]):
            self.hire()

    def hire(self) -> None:
        """Start a worker; the clock of every seventh is an hour off, unless all are on the one machine of a file."""
        drawn = self.chance.random()
        skew_s = 0.0 if self.is_sqlite or drawn > 0.14 else HOUR_S if drawn < 0.07 else -HOUR_S
        self.skewed += skew_s != 0.0
        self.fleet.start_worker(skew_s=skew_s)

    def _settings_of(self) -> Settings:
        """Return the settings of a process that reaches the store through the proxy, or not."""
        if self.proxy is not None and self.chance.random() < 0.35:
            return attrs.evolve(self.settings, url=self.proxy.url)
        return self.settings

    def replace(self, name: str) -> None:
        """Kill a process, and start another of its kind."""
        role = self.fleet.clients.get(name)
        self.fleet.kill(name)
        if role is None:
            self.hire()
        else:
            self.fleet.start_client(role)


# --- what only some machines allow ------------------------------------------------------------------------------------


@contextmanager
def small_disk(missing: list[str]) -> Iterator[Path | None]:
    """Mount a disk of its own, so that it can be filled; None, and a word, where that is not allowed."""
    if reason := why_not():
        missing.append(f"no disk is filled: {reason}")
        yield None
        return
    with bench() as folder, mounted(new_image(folder / "image", DISK_BYTES), folder / "disk") as place:
        yield place


def slow_fsync(ground: Ground, stack: ExitStack, missing: list[str]) -> Path | None:
    """Put a slow fsync before the real one in every process that starts from now on, if a compiler is there."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    source, library, path = ground.path("slow.c"), ground.path("slow.so"), ground.path("slow")
    source.write_text(SLOW_FSYNC, encoding="utf-8")
    build = [str(compiler), "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    if compiler is None or subprocess.run(build, capture_output=True, timeout=60, check=False).returncode:
        missing.append("no fsync is slowed down: there is no C compiler")
        return None
    before = {name: os.environ.get(name) for name in ("LD_PRELOAD", "RUNSTATE_SLOW_FSYNC")}
    os.environ.update(LD_PRELOAD=str(library), RUNSTATE_SLOW_FSYNC=str(path))

    def put_back() -> None:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

    stack.callback(put_back)
    return path
