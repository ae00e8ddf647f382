"""What is at work on the disk: processes that create, cancel, claim and settle, and note what they are told.

The notes are in a file that is not on that disk. Each is written the moment it is told.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from threading import Thread
from time import monotonic, sleep
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import attrs

from runstate import RunEvent
from runstate.errors import IllegalTransition
from runstate.store import NewRun, Settle, Store, StoredRun, open_store
from runstate.store._sqlite.connection import SqliteDatabase
from runstate.worker import Context, Outcome, Worker
from torture.ground import PATIENCE_S

Synchronous: TypeAlias = Literal["FULL", "NORMAL", "OFF"]

_CALLERS: Final = 3  # threads that create
_LEASE_S: Final = 3.0
_AT_ONCE: Final = 8
_REQUIRED: Final = json.dumps(
    {
        "type": "submit_tool_outputs",
        "submit_tool_outputs": {
            "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]
        },
    }
)
_ERROR: Final = json.dumps({"code": "server_error", "message": "asked to fail"})


@attrs.frozen
class Setting:
    """What the processes of the load are told."""

    url: str
    notes: Path
    synchronous: Synchronous
    begin: Any
    """Where they wait for each other."""


class Note(NamedTuple):
    """What somebody was told, or saw: that a run came to a status, at a version."""

    how: str
    """`moved`: by this caller and no other; `settled`: at this version or a later one; `begun`; `seen`."""
    run_id: str
    version: int
    status: str


class Notes:
    """The file for notes. A note is one write: whoever is killed leaves whole lines."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND)

    def take(self, how: str, run_id: str, version: int, status: str) -> None:
        """Write a note down."""
        os.write(self._file, f"{how} {run_id} {version} {status}\n".encode())

    def moved(self, run: StoredRun) -> None:
        """Write down where a run stands whose move was acknowledged."""
        self.take("moved", run.id, run.version, run.status)


def read_notes(path: Path, size: int) -> list[Note]:
    """Return the notes in the first bytes of a file."""
    whole, _, _ = path.read_bytes()[:size].rpartition(b"\n")  # the last line may be under way
    found = (line.split() for line in whole.decode().splitlines())
    return [Note(how, run_id, int(version), status) for how, run_id, version, status in found]


def _weaken(synchronous: Synchronous) -> None:
    """Have this process write as it should not."""
    prepare = SqliteDatabase._prepare

    def weaker(self: SqliteDatabase, connection: sqlite3.Connection) -> None:
        prepare(self, connection)
        connection.execute(f"PRAGMA synchronous = {synchronous}")

    SqliteDatabase._prepare = weaker  # type: ignore[method-assign]


def _opened(setting: Setting) -> Store:
    if setting.synchronous != "FULL":
        _weaken(setting.synchronous)
    setting.begin.wait(PATIENCE_S)
    return open_store(setting.url)


def _fatal(work: Callable[..., None], *given: object) -> None:
    """Let a thread's error end its process: it is a finding."""
    try:
        work(*given)
    except BaseException:
        logging.exception("a thread fell")
        os._exit(3)


def calling(name: str, setting: Setting) -> None:
    """Create runs, cancel some, and answer what they ask."""
    notes = Notes(setting.notes)
    with _opened(setting) as store:
        callers = [Thread(target=_fatal, args=(_create, store, notes, Random(number))) for number in range(_CALLERS)]
        callers.append(Thread(target=_fatal, args=(_submit, store, notes)))
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()


def _create(store: Store, notes: Notes, chance: Random) -> None:
    while True:
        wanted = chance.choice((1, 1, 1, 1, 8))
        new: NewRun = {"thread_id": "thread_1", "assistant_id": "asst_1", "model": "gpt-4o"}
        made = [store.create(**new)] if wanted == 1 else store.create_many([new] * wanted)
        for run in made:
            notes.moved(run)
        if chance.random() < 0.2:
            with suppress(IllegalTransition):  # it has ended
                notes.moved(store.request_cancel(made[0].id, actor="canceller"))
        sleep(chance.random() * 0.01)  # one writes at a time: let the others


def _submit(store: Store, notes: Notes) -> None:
    while True:
        for run in store.list(status="requires_action", limit=20).data:
            outputs = {} if run.required_action is None else dict.fromkeys(run.required_action.call_ids, "sunny")
            with suppress(IllegalTransition):  # it was cancelled
                notes.moved(store.submit_tool_outputs(run.id, outputs, actor="submitter"))
        sleep(0.02)


def settling(name: str, setting: Setting) -> None:
    """Claim runs and settle them, as a loop of one's own does."""
    notes, chance = Notes(setting.notes), Random(name)
    with _opened(setting) as store:
        lease = store.open_lease(name, lease_s=_LEASE_S)
        renew_at = monotonic()
        while True:
            if monotonic() > renew_at:
                renew_at = monotonic() + _LEASE_S / 3
                store.heartbeat(lease)
            claimed = [claim.run for claim in store.claim(lease, chance.randint(1, _AT_ONCE))]
            for run in claimed:
                notes.moved(run)
            outcomes = [_outcome(run, chance) for run in claimed]
            refused = store.settle(lease, [settle for settle, _ in outcomes]).refused
            for settle, status in outcomes:
                if settle.run.seq not in refused:
                    notes.take("settled", settle.run.id, settle.run.version + 1, status)
            sleep(chance.random() * 0.004)


def _outcome(run: StoredRun, chance: Random) -> tuple[Settle, str]:
    drawn = chance.random()
    if drawn < 0.1:
        return Settle(run, RunEvent.FAIL, last_error=_ERROR), "failed"
    if drawn < 0.3:
        return Settle(run, RunEvent.REQUIRE_ACTION, required_action=_REQUIRED), "requires_action"
    return Settle(run, RunEvent.COMPLETE), "completed"


def working(name: str, setting: Setting) -> None:
    """Be a worker, and watch what all do."""
    notes = Notes(setting.notes)

    def handler(ctx: Context) -> Outcome | None:
        notes.take("begun", ctx.run.id, ctx.run.version, ctx.run.status)
        if ctx.run.seq % 5 == 0 and not ctx.tool_outputs:
            return ctx.require_action([ctx.tool_call("weather", city="Paris")])
        ctx.add_usage(prompt_tokens=12, completion_tokens=30)
        return None

    with _opened(setting) as store:
        Thread(target=_fatal, args=(_watch, store, notes), daemon=True).start()
        Worker(store, handler, concurrency=_AT_ONCE, name=name, lease_s=_LEASE_S).run()


def _watch(store: Store, notes: Notes) -> None:
    for entry in store.watch():
        notes.take("seen", entry.run_id, entry.version, entry.target)
