"""What befalls a storm: every kind of harm, where it can be done, and how often."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from random import Random
from threading import Thread
from time import monotonic, sleep, time
from typing import Final, NamedTuple

import attrs
import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from tests.support.judge import asking
from tests.support.pg_proxy import Loss
from tests.support.postgres import OwnServer
from torture.storm.stage import Stage

STANDS_S: Final = (1.2, 3.0)
"""For how many leases a worker that is stopped stands still."""
OUTAGES_S: Final = (0.0, 0.5, 1.5, 4.0)
LOSSES: Final[tuple[tuple[Loss, ...], ...]] = (
    ("answer",),
    ("answer", "answer"),
    ("any answer",),
    ("answer", "any answer"),
    ("any request",),
)
SLOW_MS: Final = (50, 200, 600)
FULL_S: Final = (0.2, 1.5)
PATIENCE_S: Final = 60.0
"""How long who waits for the right to write may wait: whoever stands still with it goes on before."""


class Due(NamedTuple):
    """What is undone later, and when."""

    at: float
    undo: Callable[[], None]


@attrs.define
class Harm:
    """Does harm on a stage; what lasts for a while is undone by `tick`."""

    stage: Stage
    chance: Random
    died: dict[str, float] = attrs.Factory(dict)
    """When each killed worker died, in Unix seconds."""
    due: list[Due] = attrs.Factory(list)
    stopped: set[str] = attrs.Factory(set)
    outages: list[tuple[float, float]] = attrs.Factory(list)
    """From when to when nobody could write, in Unix seconds. Some overlap."""
    waiting: list[Thread] = attrs.Factory(list)

    def kinds(self) -> Mapping[str, tuple[int, Callable[[], bool]]]:
        """Return what can be done here: how often, and how. It tells whether it was done."""
        found: dict[str, tuple[int, Callable[[], bool]]] = {
            "kill -9 of a worker": (90, self.kill_worker),
            "kill -9 of a client": (12, self.kill_client),
            "SIGSTOP past the lease": (8, self.stop_worker),
        }
        if self.stage.is_sqlite:
            found["a second writer"] = (5, self.write_beside)
            if self.stage.disk is not None:
                found["disk full"] = (4, self.fill)
            if self.stage.slow is not None:
                found["slow fsync"] = (5, self.slow_down)
            return found
        found["connections ended by the server"] = (4, self.terminate)
        if self.stage.proxy is not None:
            found["connections cut"] = (5, self.cut)
            found["answers lost"] = (10, self.lose)
        if isinstance(self.stage.server, OwnServer):
            found["kill -9 of PostgreSQL"] = (5, self.restart)
            found["the primary turns read-only"] = (5, self.turn_read_only)
        return found

    def tick(self, now: float) -> None:
        """Undo what has lasted long enough."""
        for due in [one for one in self.due if one.at <= now]:
            self.due.remove(due)
            due.undo()

    def heal(self) -> None:
        """Undo everything."""
        self.tick(float("inf"))
        for thread in self.waiting:
            thread.join(PATIENCE_S)
        if self.stage.proxy is not None:
            self.stage.proxy.lose_in_order()

    def _later(self, seconds: float, undo: Callable[[], None]) -> None:
        self.due.append(Due(monotonic() + seconds, undo))

    # --- processes ------------------------------------------------------------------------------------------------

    def kill_worker(self) -> bool:
        """Kill a worker, one that is stopped too, and hire another."""
        name = self.chance.choice(sorted(self.stage.fleet.workers))
        self.stopped.discard(name)
        self.died[name] = time()
        self.stage.replace(name)
        return True

    def kill_client(self) -> bool:
        """Kill a client in the middle of whatever it asks; its successor has another name."""
        self.stage.replace(self.chance.choice(sorted(self.stage.fleet.clients)))
        return True

    def stop_worker(self) -> bool:
        """Let a worker stand still until its lease is over."""
        going = sorted(self.stage.fleet.workers - self.stopped)
        if len(going) < 2:
            return False
        name = self.chance.choice(going)
        self.stage.fleet.processes.signal(name, signal.SIGSTOP)
        self.stopped.add(name)

        def go_on() -> None:
            if name in self.stopped:
                self.stopped.discard(name)
                self.stage.fleet.processes.signal(name, signal.SIGCONT)

        self._later(self.chance.uniform(*STANDS_S) * self.stage.settings.lease_s, go_on)
        if self.stage.is_sqlite:
            self.waiting.append(Thread(target=self._wait_to_write, daemon=True))
            self.waiting[-1].start()
        return True

    def _wait_to_write(self) -> None:
        """Note an outage if nobody can write as long as somebody stands still, in the middle of a transaction."""
        began = time()
        with suppress(sqlite3.OperationalError), self._writing(PATIENCE_S) as since:
            if since > began + 0.2:
                self.outages.append((began, since))

    # --- PostgreSQL -----------------------------------------------------------------------------------------------

    def terminate(self) -> bool:
        """Have the server end some connections, or all."""
        return terminate(self.stage.url, self.chance) > 0

    def cut(self) -> bool:
        """Cut some of the connections that go through the proxy."""
        return self.stage.proxied.cut(self.chance, self.chance.choice((0.2, 0.5, 1.0))) > 0

    def lose(self) -> bool:
        """Lose the next answers on their way through the proxy."""
        self.stage.proxied.lose_in_order(*self.chance.choice(LOSSES))
        return True

    def restart(self) -> bool:
        """Kill every process of the server at once; start it again on what is left."""
        server = self.stage.server
        assert server is not None
        began = time()
        server.kill()
        sleep(self.chance.choice(OUTAGES_S))
        server.restart()
        self.stage.wait_for_the_way()
        self.outages.append((began, time()))
        return True

    def turn_read_only(self) -> bool:
        """Cut all connections, and let those that come next only read, for ever; later ones can write again.

        A pooler keeps the connections that can only read, and no client can close them there. What fails a primary over
        has the pooler connect again (RECONNECT), so they are closed here before later ones can write.
        """
        server = self.stage.server
        assert server is not None
        began, name = time(), str(conninfo_to_dict(self.stage.url)["dbname"])
        reading = sql.SQL("ALTER DATABASE {} {} default_transaction_read_only")
        end_all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
        with closing(psycopg.connect(server.address, autocommit=True)) as admin:
            admin.execute(sql.SQL("{} = on").format(reading.format(sql.Identifier(name), sql.SQL("SET"))))
            admin.execute(end_all, [name])
            sleep(self.chance.choice(OUTAGES_S))
            admin.execute(reading.format(sql.Identifier(name), sql.SQL("RESET")))
            if self.stage.is_pooled:
                admin.execute(end_all, [name])
        self.outages.append((began, time()))
        return True

    # --- SQLite ---------------------------------------------------------------------------------------------------

    def write_beside(self) -> bool:
        """Hold the right to write for a while, as somebody else who writes to the file."""
        try:
            with self._writing(5.0) as began:
                sleep(self.chance.uniform(0.2, 1.0))
        except sqlite3.OperationalError:
            return False
        self.outages.append((began, time()))
        return True

    @contextmanager
    def _writing(self, patience_s: float) -> Iterator[float]:
        """Have the right to write, and give the moment since when."""
        with closing(sqlite3.connect(self.stage.path, isolation_level=None, timeout=patience_s)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield time()
            other.execute("ROLLBACK")

    def fill(self) -> bool:
        """Fill the disk to its last byte, and make room again."""
        assert self.stage.disk is not None
        ballast = self.stage.disk / "ballast"
        size, began = os.statvfs(self.stage.disk), time()
        _write_all(ballast, size.f_bavail * size.f_frsize)
        sleep(self.chance.uniform(*FULL_S))
        ballast.unlink()
        self.outages.append((began, time()))
        return True

    def slow_down(self) -> bool:
        """Let every fsync of all processes take longer for a while."""
        assert self.stage.slow is not None
        slow = self.stage.slow
        slow.write_bytes(b"x" * self.chance.choice(SLOW_MS))
        self._later(self.chance.uniform(0.5, 2.0), lambda: slow.unlink(missing_ok=True))
        return True


def terminate(url: str, chance: Random) -> int:
    """Have the server end some or all connections to the database; return how many."""
    part = chance.choice((0.1, 0.5, 1.0))
    with asking(url) as ask:
        found = ask(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database()"
            f" AND pid <> pg_backend_pid() AND random() <= {part}"
        )
    return int(found[0][0])


def united(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return spans of time of which none overlap, and which cover the same moments."""
    found: list[tuple[float, float]] = []
    for since, until in sorted(spans):
        if found and since <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], until))
        else:
            found.append((since, until))
    return found


def _write_all(path: Path, size: int) -> None:
    """Write a file of so many bytes, or until the disk is full."""
    with path.open("wb") as file:
        with suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, max(1, size))
        block = b"x" * 65536
        with suppress(OSError):  # others write as well: the last bytes are taken one block after the other
            while True:
                os.write(file.fileno(), block)
