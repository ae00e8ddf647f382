"""The one database of all simulated processes: SQLite's own in memory, behind connections that go wrong.

Everything the library asks is executed by its own session. Added is what can befall a connection: nothing happened and
it says so; it broke before, or after, and nobody knows; it stays broken. And witnesses: triggers that note, beside the
tables, every change of a run's worker, every entry, every lease that is closed, with the true time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from runstate.clock import time_us
from runstate.errors import OutcomeUnknown, StoreUnavailable
from runstate.store._notifier import LocalNotifier
from runstate.store._sql.connection import Params
from runstate.store._sql.dialect import SQLITE, Dialect
from runstate.store._sql.migrations import migrate
from runstate.store._sql.rows import Row
from runstate.store._sql.statements import Statements
from runstate.store._sqlite.connection import SqliteConnection, SqliteDatabase
from runstate.store.availability import Availability
from torture.simulation.scheduler import Crashed, Runnable, Strand

if TYPE_CHECKING:
    from torture.simulation.process import Process
    from torture.simulation.world import World

__all__ = ["Connected", "DatabaseHere", "SharedDatabase", "connect"]

_NOTE_STEP: Final = """\
    INSERT INTO step_kept SELECT NEW.run, NEW.name, NEW.attempt, r.attempt, w.name, w.lease_until_us, w.closed,
        moment(), NEW.ended_at_us, (SELECT coalesce(max(rowid), 0) FROM given)
        FROM main.runstate_run AS r LEFT JOIN main.runstate_worker_session AS w ON w.token = r.worker
        WHERE r.seq = NEW.run;"""
_WITNESSES: Final = f"""
CREATE TEMP TABLE entry (
    seq INTEGER, version INTEGER, event TEXT, actor TEXT, token INTEGER, name TEXT, lease_until_us INTEGER,
    closed INTEGER, deadline INTEGER, at INTEGER, written INTEGER, process TEXT);
CREATE TEMP TABLE given (
    seq INTEGER, version INTEGER, attempt INTEGER, before INTEGER, token INTEGER, name TEXT,
    lease_until_us INTEGER, closed INTEGER, before_name TEXT, before_closed INTEGER, at INTEGER, process TEXT,
    before_until INTEGER, due INTEGER, written INTEGER);
CREATE TEMP TABLE closing (token INTEGER, name TEXT, lease_until_us INTEGER, at INTEGER, process TEXT);
CREATE TEMP TRIGGER see_entry AFTER UPDATE OF version ON main.runstate_run BEGIN
    INSERT INTO entry SELECT NEW.seq, NEW.version, NEW.event, NEW.actor, OLD.worker, w.name, w.lease_until_us, w.closed,
        OLD.expires_at, moment(), NEW.changed_at_us, process()
        FROM (SELECT 1) LEFT JOIN main.runstate_worker_session AS w ON w.token = OLD.worker;
END;
CREATE TEMP TRIGGER see_given AFTER UPDATE OF worker ON main.runstate_run
    WHEN NEW.worker IS NOT OLD.worker AND (NEW.worker IS NOT NULL OR NEW.version = OLD.version) BEGIN
    INSERT INTO given SELECT NEW.seq, NEW.version, NEW.attempt, OLD.worker, NEW.worker, w.name, w.lease_until_us,
        w.closed, b.name, b.closed, began(), process(), b.lease_until_us, NEW.claimable_at_us, moment()
        FROM (SELECT 1)
        LEFT JOIN main.runstate_worker_session AS w ON w.token = NEW.worker
        LEFT JOIN main.runstate_worker_session AS b ON b.token = OLD.worker;
END;
CREATE TEMP TABLE step_kept (
    seq INTEGER, name TEXT, attempt INTEGER, run_attempt INTEGER, worker TEXT, lease_until_us INTEGER, closed INTEGER,
    at INTEGER, ended INTEGER, given INTEGER);
CREATE TEMP TRIGGER see_step AFTER INSERT ON main.runstate_step BEGIN
{_NOTE_STEP}
END;
CREATE TEMP TRIGGER see_step_end AFTER UPDATE ON main.runstate_step BEGIN
{_NOTE_STEP}
END;
CREATE TEMP TRIGGER see_closing AFTER UPDATE OF closed ON main.runstate_worker_session
    WHEN NEW.closed <> OLD.closed BEGIN
    INSERT INTO closing VALUES (NEW.token, NEW.name, OLD.lease_until_us, moment(), process());
END;
"""
_EMPTY: Final = (
    *("DELETE FROM runstate_run", "DELETE FROM runstate_worker_session WHERE token <> 0"),
    *("DELETE FROM sqlite_sequence", "DELETE FROM entry", "DELETE FROM given", "DELETE FROM closing"),
    "DELETE FROM step_kept",
)


@cache
def template() -> bytes:
    database = SqliteDatabase(":memory:")
    migrate(database)
    return database.open().connection.serialize()


class Connected:
    """A connection that worlds use one after the other: what it has prepared it need not prepare again."""

    def __init__(self) -> None:
        self.connection: Final = sqlite3.connect(
            ":memory:", isolation_level=None, check_same_thread=False, cached_statements=1024
        )
        self.connection.deserialize(template())
        self.process: str = "nobody"
        self.began: int = 0
        """When the transaction began. A process may stand still inside it: what it looked at was so then."""
        self.connection.create_function("moment", 0, time_us)
        self.connection.create_function("began", 0, lambda: self.began)
        self.connection.create_function("process", 0, lambda: self.process)
        self.connection.execute("PRAGMA recursive_triggers = 0")
        self.connection.executescript(_WITNESSES)
        self.statements: Final = Statements(SQLITE)

    def empty(self) -> None:
        """Delete everything, which the guards allow where all has ended."""
        for statement in _EMPTY:
            self.connection.execute(statement)


_connected: list[Connected] = []


@contextmanager
def connect(fresh: bool = False) -> Generator[Connected, None, None]:
    """Lend a connection to an empty store. It is used again if all has ended on it."""
    connected = _connected.pop() if _connected and not fresh else Connected()
    yield connected
    try:
        connected.empty()
    except sqlite3.Error:
        connected.connection.close()
    else:
        _connected.append(connected)


def forget_connections() -> None:
    """Let no world use what another was connected by: the statements and the guards are others from now on."""
    template.cache_clear()
    while _connected:
        _connected.pop().connection.close()


class SharedDatabase:
    """Who writes, and who waits for it."""

    def __init__(self, world: World, connected: Connected) -> None:
        self.world: Final = world
        self.connected: Final = connected
        self.writer: Session | None = None
        """Who is in a transaction, or reads."""
        self.strand: Strand | None = None
        """In which of its threads."""
        self._waiting: list[Strand] = []
        self._readers: list[Runnable] = []

    def keeps_waiting(self, job: Runnable) -> bool:
        """Let a read that needs no strand wait while somebody writes."""
        if self.writer is None:
            return False
        self._readers.append(job)
        return True

    def take(self, session: Session, wait_s: float | None) -> None:
        """Wait for the right to write, or to read what is committed."""
        scheduler = self.world.scheduler
        while self.writer is not None:
            strand = scheduler.strand
            assert strand is not None
            if not strand.wait(self._waiting, wait_s):
                raise StoreUnavailable("the simulated database is busy")
        self.writer = session
        self.strand = scheduler.strand
        self.connected.process = session.process.name
        self.connected.began = time_us()

    def release(self) -> None:
        """Let the next one write."""
        self.writer = None
        self.world.scheduler.ready.extend(self._readers)
        self._readers.clear()
        if self._waiting:
            self._waiting[int(self.world.random() * len(self._waiting))].wake()


class DatabaseHere:
    """The database, as one process reaches it."""

    dialect: Dialect = SQLITE
    embedded: bool = True
    in_memory: bool = False

    def __init__(self, process: Process) -> None:
        self.process: Final = process
        self.display_url: str = "the simulated database"
        self.private: Sequence[str] = ()

    def open(self, *, reading: bool = False) -> Session:
        """Return a new connection, if one is to be had."""
        world = self.process.world
        strand = self.process.scheduler.strand
        if strand is not None and world.takes_long():  # and much may happen until there is one again
            strand.wait(None, world.random() * 0.3)
        world.step(self.process, "open")
        if world.is_away(self.process) or world.fault():
            world.told("no connection")
            raise StoreUnavailable("cannot connect to the simulated database")
        return Session(self.process)

    def wrap(self, connection: object) -> Session:
        """Refuse: a simulated process has no connections but the store's own."""
        raise NotImplementedError(f"no world has a connection of a caller's own: {connection!r}")

    def notifier(self, external_commits: Callable[[], int | None], availability: Availability) -> LocalNotifier:
        """Return what hears of the other processes late, or not at all."""
        return HintsBetween(self.process)

    def close(self) -> None:
        """Keep nothing."""


class HintsBetween(LocalNotifier):
    """The notifier of a process: hints from the others come late, or not at all."""

    def __init__(self, process: Process) -> None:
        super().__init__()
        process.hear = self._notify_listeners

    @property
    def is_heard(self) -> bool:
        return bool(self._listeners)


class Session(SqliteConnection):
    """A connection that goes wrong as a server's does; what it executes, the library's own session executes."""

    def __init__(self, process: Process) -> None:
        database = process.world.database
        super().__init__(database.connected.connection, "the simulated database", process.world.wait_s, kept=True)
        self.statements = database.connected.statements  # type: ignore[misc]  # written once, for all connections
        self.process = process
        self._world = process.world
        self._shared = database
        self._broken = False

    @property
    def _writes(self) -> bool:
        return self._shared.writer is self

    def _break(self) -> OutcomeUnknown:
        self._broken = True
        self._world.told("broken")
        return OutcomeUnknown("the connection to the simulated database broke before the reply came")

    def _ask(self, statement: str, given: Params) -> sqlite3.Cursor:
        world = self._world
        if not self._writes:
            return self._look(statement, given)
        world.asks(self, statement)
        if self._broken:
            raise self._break()
        if world.fault():
            self._go_wrong(statement, given)
        cursor = super()._ask(statement, given)
        if world.is_slow():
            self._wait_within()
        return cursor

    def _go_wrong(self, statement: str, given: Params) -> None:
        """Do one of what can happen to a statement in a transaction: nothing of it stays."""
        world = self._world
        place = int(world.random() * 4)
        if place == 3 and world.may_crash():
            self.process.doom()
            raise Crashed
        if place == 2:
            raise self._break()
        if place == 1:
            super()._ask(statement, given)
        world.told("timed out" if place else "unavailable")
        raise StoreUnavailable("the simulated database: canceling statement due to statement timeout")

    def _look(self, statement: str, given: Params) -> sqlite3.Cursor:
        """Execute a statement that reads what is committed."""
        world, shared = self._world, self._shared
        if self.process.scheduler.strand is not None:
            self.process.scheduler.strand.pass_on()
        world.step(self.process, "read")
        shared.take(self, None)
        try:
            world.asks(self, statement)
            if self._broken or world.is_away(self.process):
                raise self._break()
            if world.fault():
                self._go_wrong(statement, given)
            return super()._ask(statement, given)
        finally:
            shared.release()

    def execute(self, statement: str, given: Params) -> Sequence[Row]:
        """Execute a statement; return its rows."""
        return self._ask(statement, given).fetchall()

    @contextmanager
    def transaction(self) -> Generator[None, None, None]:
        """Commit what happens inside together, or nothing of it, if the connection lets it."""
        if self._writes:  # inside another
            yield
            return
        world, scheduler = self._world, self.process.scheduler
        strand = scheduler.strand
        assert strand is not None
        strand.pass_on()
        world.step(self.process, "write")
        if self._broken or world.is_away(self.process):
            raise self._break()
        self._shared.take(self, world.wait_s)
        before = self.connection.total_changes
        try:
            with super().transaction():
                yield
        finally:
            self._shared.release()
            if self.connection.total_changes != before:  # others hear of it, though it may have been undone
                world.changed(self.process)
        if world.random() < 0.25:
            strand.pass_on()

    def _wait_within(self) -> None:
        strand = self.process.scheduler.strand
        assert strand is not None
        strand.pass_on()

    def _execute_control(self, statement: str) -> None:
        if statement != "COMMIT":
            super()._execute_control(statement)
            return
        world = self._world
        if world.is_slow():
            self._wait_within()
        if self._broken:
            raise self._break()
        if not world.fault():
            super()._execute_control(statement)
            world.told("committed")
            return
        place = int(world.random() * 5)
        if place == 0:
            world.told("not committed")
            raise StoreUnavailable("the simulated database: could not serialize access")
        if place >= 2:
            super()._execute_control(statement)
            world.told("committed, and the answer lost")
            world.befell["answers lost"] += 1
        if place == 4 and world.may_crash():
            self.process.doom()
            raise Crashed
        raise self._break()

    def close(self) -> None:
        """Let the connection go."""
        self._broken = True


def rows(connected: Connected, question: str, given: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Return what plain SQL finds."""
    return connected.connection.execute(question, given).fetchall()
