"""What the tests of the store share: an SQL prompt, and runs brought to every status, by methods and by hand.

As in `tests.support.lifecycle`, nothing is derived from the library: which columns a table has, and what a move writes
into them, stands here once more.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, cast
from urllib.parse import unquote

import psycopg
from psycopg.types.json import set_json_loads

from runstate.store import NewRun, Store, StoredRun, open_store
from runstate.store._engine.commands import InTransaction
from tests.support.lifecycle import CALL, GIVEN, HELD_IN, NOW, STAMPED_BY, STAMPS, USED, WAYS
from tests.support.postgres import wait_until

__all__ = [
    "FIRST",
    "LATER",
    "RUN_COLUMNS",
    "STORE_MOVES",
    "TABLES",
    "Prompt",
    "Refused",
    "ask_store",
    "at_once",
    "bring_in_store",
    "by_hand",
    "held_back",
    "names",
    "wait_for_a_lock",
]

_LIMIT_S: Final = 60.0
TABLES: Final = (
    *("runstate_run", "runstate_history", "runstate_run_config", "runstate_checkpoint", "runstate_attempt"),
    *("runstate_worker_session", "runstate_step", "runstate_event", "runstate_pause"),
)
RUN_COLUMNS: Final = (
    *("seq", "id", "thread_id", "assistant_id", "model", "status", "version", "event", "source", "changed_at_us"),
    *("actor", "detail", "created_at", "expires_at", "started_at", "cancelled_at", "failed_at", "completed_at"),
    *("required_action", "last_error", "incomplete_details", "usage", "queue", "priority", "not_before_us"),
    *("claimable_at_us", "thread_policy", "idempotency_key", "worker", "attempt", "lost", "failed", "repeats"),
)
FIRST: Final = NOW * 1_000_000
"""The time at which runs are born here, in microseconds."""
LATER: Final = FIRST + 60_000_000
"""A minute on, after all that was done to bring them where they are."""

Refused: Final = (sqlite3.Error, psycopg.Error)


class Prompt:
    """A connection of one's own, without the library: what somebody has who types SQL. Every statement is committed."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.is_sqlite = url.startswith("sqlite:")
        self._names: dict[str, list[str]] = {}
        self.connection: Any
        if self.is_sqlite:
            path = unquote(url.removeprefix("sqlite:///"))
            self.connection = sqlite3.connect(path, isolation_level=None, timeout=60, check_same_thread=False)
        else:
            self.connection = psycopg.connect(url, autocommit=True, options="-c statement_timeout=60s")
            set_json_loads(_as_text, self.connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.connection.close()

    def run(self, statement: str, given: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Execute a statement with `?` for its values; return its rows."""
        if not self.is_sqlite and given:
            statement = statement.replace("%", "%%").replace("?", "%s")
        found = self.connection.execute(statement, tuple(given)) if given else self.connection.execute(statement)
        return list(found.fetchall()) if found.description else []

    def changed(self, statement: str, given: Sequence[object] = ()) -> int:
        """Execute a statement; return how many rows it changed."""
        if not self.is_sqlite and given:
            statement = statement.replace("%", "%%").replace("?", "%s")
        count: int = self.connection.execute(statement, tuple(given)).rowcount
        return count

    def refusal(self, statement: str, given: Sequence[object] = ()) -> str | None:
        """Execute a statement; return the database's sentence if it refuses, None if it does not."""
        try:
            self.run(statement, given)
        except Refused as error:
            return str(error)
        return None

    def rows(self, table: str, where: str = "", given: Sequence[object] = ()) -> list[dict[str, Any]]:
        """Return rows by the names of their columns; JSON as the text it is."""
        names = self._names.setdefault(table, []) or self._learn(table)
        found = self.run(f"SELECT {', '.join(names)} FROM {table} {where}", given)
        return [dict(zip(names, row, strict=True)) for row in found]

    def _learn(self, table: str) -> list[str]:
        self._names[table] += [name for (name,) in self.run(self.column_names, [table])]
        return self._names[table]

    def one(self, run_id: str) -> dict[str, Any]:
        """Return the row of a run."""
        (row,) = self.rows("runstate_run", "WHERE id = ?", [run_id])
        return row

    def entries(self, run_id: str) -> list[dict[str, Any]]:
        """Return a run's entries, the birth first."""
        where = "WHERE run = (SELECT seq FROM runstate_run WHERE id = ?) ORDER BY version"
        return self.rows("runstate_history", where, [run_id])

    def everything(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return every row of every table, to see later that nothing has moved."""
        return {table: sorted(self.run(f"SELECT * FROM {table}"), key=repr) for table in TABLES}

    def everything_of(self, schema: str) -> dict[str, list[tuple[Any, ...]]]:
        """Return the same of a schema of PostgreSQL's, whichever the session looks in."""
        return {table: sorted(self.run(f"TABLE {schema}.{table}"), key=repr) for table in TABLES}

    @property
    def column_names(self) -> str:
        """The statement that names a table's columns."""
        if self.is_sqlite:
            return "SELECT name FROM pragma_table_info(?) ORDER BY cid"
        return (
            "SELECT attname FROM pg_attribute WHERE attrelid = ?::regclass AND attnum > 0 AND NOT attisdropped"
            " ORDER BY attnum"
        )

    @contextlib.contextmanager
    def undone(self) -> Iterator[None]:
        """Undo what is done inside the block."""
        self.connection.execute("BEGIN")
        try:
            yield
        finally:
            self.connection.execute("ROLLBACK")


def _as_text(data: str | bytes) -> str:
    return data.decode() if isinstance(data, bytes) else data


# --- runs, by the store's own methods ---------------------------------------------------------------------------------

StoreMove = Callable[..., StoredRun]

STORE_MOVES: Final[Mapping[str, StoreMove]] = {
    "start": lambda store, run_id, **given: store.start(run_id, **given),
    "require_action": lambda store, run_id, **given: store.require_action(run_id, [CALL], **given),
    "submit_tool_outputs": lambda store, run_id, **given: store.submit_tool_outputs(
        run_id, {"call_1": "sunny"}, **given
    ),
    "request_cancel": lambda store, run_id, **given: store.request_cancel(run_id, **given),
    "confirm_cancel": lambda store, run_id, **given: store.confirm_cancel(run_id, USED, **given),
    "complete": lambda store, run_id, **given: store.complete(run_id, USED, **given),
    "mark_incomplete": lambda store, run_id, **given: store.mark_incomplete(run_id, "max_prompt_tokens", USED, **given),
    "fail": lambda store, run_id, **given: store.fail(run_id, "server_error", "it broke", USED, **given),
    "expire": lambda store, run_id, **given: store.expire(run_id, USED, **given),
}
"""`MOVES` of `tests.support.lifecycle`, asked of a store. An asynchronous store returns what is to be awaited."""


def names(**other: Any) -> NewRun:
    """Return what a run is created with here, and what a test gives besides."""
    given: dict[str, Any] = {"thread_id": "thread_1", "assistant_id": "asst_1", "model": "gpt-4o", **other}
    return cast("NewRun", given)


def ask_store(store: Any, run_id: str, event: str, **given: Any) -> StoredRun:
    """Ask the event through the store's own typed method."""
    return STORE_MOVES[event](store, run_id, **given)


def bring_in_store(store: Store, status: str, *, actor: str | None = None, **other: Any) -> StoredRun:
    """Return a stored run that a legal history brought to the status."""
    run = store.create(**names(**other))
    for event in WAYS[status]:
        run = ask_store(store, run.id, event, actor=actor)
    assert status == run.status
    return run


# --- moves, by hand ---------------------------------------------------------------------------------------------------

_DETAILS: Final[Mapping[str, str]] = {
    "required_action": (
        '{"type":"submit_tool_outputs","submit_tool_outputs":{"tool_calls":[{"id":"call_1","type":"function",'
        '"function":{"name":"weather","arguments":"{}"}}]}}'
    ),
    "last_error": '{"code":"server_error","message":"it broke"}',
    "incomplete_details": '{"reason":"max_prompt_tokens"}',
    "usage": '{"prompt_tokens":12,"completion_tokens":30,"total_tokens":42}',
}
assert set(GIVEN) == set(_DETAILS)


def by_hand(row: Mapping[str, Any], event: str, target: str, at: int = LATER) -> dict[str, Any]:
    """Return what an UPDATE must set to move a run by hand, all of it right ("The stamps" in docs/lifecycle.md).

    Whether the move is legal is another question.
    """
    columns = {
        "status": target,
        "version": row["version"] + 1,
        "event": event,
        "source": row["status"],
        "changed_at_us": at,
    }
    columns |= {"actor": "hand", "detail": None}
    columns |= {stamp: at // 1_000_000 if STAMPED_BY.get(target) == stamp else row[stamp] for stamp in STAMPS}
    for field, statuses in HELD_IN.items():
        held = row[field] if row[field] is not None or field == "expires_at" else _DETAILS[field]
        columns[field] = held if target in statuses else None
    if columns["expires_at"] is None and target in HELD_IN["expires_at"]:
        columns["expires_at"] = row["created_at"] + 600  # of an ended run that is to live again
    at_work = row["status"] == "in_progress" and target == "cancelling"
    columns["worker"] = row["worker"] if at_work else None
    columns["attempt"] = 0 if target == "in_progress" else row["attempt"]
    return columns


def update(columns: Mapping[str, object], run_id: str, head: str = "UPDATE") -> tuple[str, list[object]]:
    """Return an UPDATE of a run that sets these columns, and its values."""
    sets = ", ".join(f"{name} = ?" for name in columns)
    return f"{head} runstate_run SET {sets} WHERE id = ?", [*columns.values(), run_id]


def insert(
    columns: Mapping[str, object], table: str = "runstate_run", head: str = "INSERT"
) -> tuple[str, list[object]]:
    """Return an INSERT of a row, and its values."""
    places = ", ".join("?" for _ in columns)
    return f"{head} INTO {table} ({', '.join(columns)}) VALUES ({places})", list(columns.values())


def birth(run_id: str, **other: object) -> dict[str, object]:
    """Return the row of a run that is born by hand, all of it right."""
    columns: dict[str, object] = {"id": run_id, "thread_id": "thread_9", "assistant_id": "asst_1", "model": "gpt-4o"}
    columns |= {"status": "queued", "version": 1, "changed_at_us": FIRST, "created_at": FIRST // 1_000_000}
    columns |= {"expires_at": FIRST // 1_000_000 + 600, "queue": "default", "priority": 0, "claimable_at_us": FIRST}
    return columns | {"attempt": 0} | other


def template(folder: Path) -> Path:
    """Return the file of an empty store, to be copied: faster than making it again for each test."""
    from runstate.store import open_store

    path = folder / "template.db"
    open_store(f"sqlite:///{path}").close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


def at_once(url: str, do: Callable[[Store], None], threads: int = 20, stores: int = 4) -> None:
    """Let many threads, over several stores at one URL, do the same thing at the same moment."""
    barrier = threading.Barrier(threads)

    def begin(own: Store) -> None:
        barrier.wait()
        do(own)

    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(open_store(url)) for _ in range(stores)]
        racing = [threading.Thread(target=begin, args=(opened[number % stores],)) for number in range(threads)]
        for thread in racing:
            thread.start()
        for thread in racing:
            thread.join()


def held_back(store: Store) -> Callable[[], None]:
    """Keep the committer busy until the returned function is called, so that what is asked meanwhile is one batch."""
    busy, go_on = threading.Event(), threading.Event()

    def hold(session: object) -> None:
        busy.set()
        assert go_on.wait(_LIMIT_S)

    thread = threading.Thread(target=lambda: store._transport.execute(InTransaction(hold)))
    thread.start()
    assert busy.wait(_LIMIT_S)

    def let_go() -> None:
        go_on.set()
        thread.join(_LIMIT_S)

    return let_go


def wait_for_a_lock(home: str) -> None:
    """Wait until a connection in the database waits for another."""
    waits = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with Prompt(home) as looking:
        wait_until(lambda: bool(looking.run(waits)), "a connection to wait for a lock")
