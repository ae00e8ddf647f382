"""What befalls an SQLite file: somebody else writes for long, the disk is full, or nobody may write to it."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from threading import Event, Thread
from time import monotonic, sleep
from typing import Any, Final

import attrs

from runstate.errors import RunstateError, StoreError, StoreUnavailable
from runstate.store import Store, open_store
from runstate.store._sqlite.connection import SqliteDatabase
from runstate.worker import Context, Worker
from tests.support.judge import asking
from torture.disks import bench, mounted, new_image, why_not
from torture.fleet.fleet import Fleet, settings_at
from torture.ground import Ground, wait_until
from torture.processes import Processes
from torture.verdict import Verdict

_DISK: Final = 48 * 1024 * 1024
_BALLAST: Final = 24 * 1024 * 1024
_PAGES: Final = 4000  # of 4096 bytes, where no small disk can be mounted
_LARGE: Final = "x" * 200_000


# --- busy -------------------------------------------------------------------------------------------------------------


def busy(ground: Ground, count: int) -> Verdict:
    """Let somebody else hold the right to write for a second, now and then, while runs are worked on."""
    verdict = Verdict("sqlite/busy", trials=count)
    chance = ground.chance("busy")
    url = ground.store("sqlite")
    path = url.removeprefix("sqlite:///")
    with Processes() as processes, open_store(url, wait_s=0.2) as impatient:
        fleet = Fleet(processes, settings_at(ground, url, lease_s=3.0, wait_s=10.0))
        fleet.start(workers=2)
        fleet.wait_until_all_work(url)
        for _ in range(count):
            sleep(chance.uniform(0.1, 0.8))
            with _writing(path):
                began = monotonic()
                error = _refusal(lambda: impatient.create(thread_id="t", assistant_id="a", model="m"))
                waited = monotonic() - began
                told = isinstance(error, StoreUnavailable) and "busy" in str(error) and waited < 1.0
                verdict.expect(told, f"who waits 0.2 s was told {error!r} after {waited:.1f} s")
                sleep(max(0.0, 1.0 - waited))
            verdict.faults["seconds of BEGIN IMMEDIATE"] += 1
            verdict.wrong += processes.fallen()
        fleet.finish(verdict, url)
    fleet.check(verdict, url)
    troubles = {told: count for told, count in verdict.notes["told"].items() if told.endswith(("away", "unknown"))}
    verdict.expect(not troubles, f"callers who wait 10 s met {troubles}")
    ground.drop(url)
    return verdict


@contextmanager
def _writing(path: str) -> Iterator[None]:
    other = sqlite3.connect(path, isolation_level=None, timeout=30)
    try:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")
    finally:
        other.close()


def _refusal(ask: Callable[[], object]) -> Exception | None:
    """Return what is raised, if anything is."""
    try:
        ask()
    except Exception as error:
        return error
    return None


# --- a full disk ------------------------------------------------------------------------------------------------------


@attrs.define
class Disk:
    """A place that can be full, and where room can be made."""

    path: Path
    make_room: Callable[[], None]
    kind: str


@contextmanager
def small_disk(ground: Ground, *, real: bool) -> Iterator[Disk]:
    """Mount a small disk of its own; where that is not wanted or possible, let SQLite believe that it is full."""
    if not real or why_not():
        place = ground.path("disk")
        place.mkdir()
        with _few_pages() as make_room:
            yield Disk(place / "runs.db", make_room, "max_page_count")
        return
    with bench() as folder, mounted(new_image(folder / "image", _DISK), folder / "disk") as place:
        ballast = place / "ballast"
        ballast.write_bytes(b"x" * _BALLAST)
        yield Disk(place / "runs.db", ballast.unlink, "a full disk")


@contextmanager
def _few_pages() -> Iterator[Callable[[], None]]:
    """Limit the pages of every database opened from now on."""
    prepare = SqliteDatabase._prepare
    opened: list[sqlite3.Connection] = []

    def limited(self: SqliteDatabase, connection: sqlite3.Connection) -> None:
        prepare(self, connection)
        connection.execute(f"PRAGMA max_page_count = {_PAGES}")
        opened.append(connection)

    def make_room() -> None:
        for connection in opened:
            with suppress(sqlite3.ProgrammingError):  # closed by now
                connection.execute(f"PRAGMA max_page_count = {100 * _PAGES}")

    SqliteDatabase._prepare = limited  # type: ignore[method-assign]
    try:
        yield make_room
    finally:
        SqliteDatabase._prepare = prepare  # type: ignore[method-assign]


@contextmanager
def working(store: Store, gate: Event) -> Iterator[None]:
    """Work on the runs of a store in a thread of this process; handlers wait at the gate."""

    async def handler(ctx: Context) -> None:
        while not gate.is_set():
            await asyncio.sleep(0.01)

    worker = Worker(store, handler, concurrency=10, lease_s=30.0, drain_s=1.0)
    thread = Thread(target=asyncio.run, args=(worker.work(),))
    thread.start()
    try:
        yield
    finally:
        gate.set()
        worker.stop()
        thread.join(30)


def full(ground: Ground, count: int) -> Verdict:
    """Fill the disk, work on, and make room again."""
    verdict = Verdict("sqlite/full", trials=count)
    for number in range(count):
        with small_disk(ground, real=number % 2 == 0) as disk:
            _fill(disk, verdict)
            verdict.faults[disk.kind] += 1
    return verdict


def _fill(disk: Disk, verdict: Verdict) -> None:
    url = f"sqlite:///{disk.path}"
    gate = Event()
    with open_store(url, wait_s=5.0) as store, working(store, gate):
        acknowledged = [store.create(thread_id="t", assistant_id="a", model="m").id for _ in range(10)]
        wait_until(lambda: store.counts().get("in_progress") == 10, "the worker to be at work")  # type: ignore[call-overload]
        refusals: Counter[str] = Counter()
        while refusals.total() < 20:
            try:
                run = store.create(thread_id="t", assistant_id="a", model="m", instructions=_LARGE)
            except StoreUnavailable as error:
                refusals[str(error).replace(str(disk.path), "...")] += 1
            else:
                acknowledged.append(run.id)
        verdict.notes["refusals"] = refusals
        verdict.expect(all("full" in told for told in refusals), f"a full disk was told as {dict(refusals)}")
        _check_nothing_half_made(verdict, url, acknowledged)
        verdict.expect(store.get(acknowledged[0]).id == acknowledged[0], "a run cannot be read from a full disk")
        gate.set()
        sleep(0.5)
        disk.make_room()
        acknowledged.append(store.create(thread_id="t", assistant_id="a", model="m").id)
        wait_until(lambda: store.counts().get("completed") == len(acknowledged), "the work to go on")  # type: ignore[call-overload]
        verdict.acknowledged += 2 * len(acknowledged)
        _check_nothing_half_made(verdict, url, acknowledged)
        verdict.judge(url)


def _check_nothing_half_made(verdict: Verdict, url: str, acknowledged: list[str]) -> None:
    with asking(url) as ask:
        there = {run_id for (run_id,) in ask("SELECT id FROM runstate_run")}
        ((beside,),) = ask("SELECT count(*) FROM runstate_run_config WHERE id NOT IN (SELECT id FROM runstate_run)")
        ((sound,),) = ask("PRAGMA integrity_check")
    for run_id in set(acknowledged) - there:
        verdict.lose("a created run is not there", run_id)
    for run_id in there - set(acknowledged):
        verdict.wrong.append(f"a refused run is there: {run_id}")
    verdict.expect(beside == 0, f"{beside} settings belong to no run")
    verdict.expect(sound == "ok", f"the file is broken: {sound}")


# --- not ours to write ------------------------------------------------------------------------------------------------

CASES: Final[Mapping[str, tuple[int, int]]] = {
    "read-only file": (0o444, 0o777),
    "read-only folder": (0o666, 0o555),
    "read-only file in a read-only folder": (0o444, 0o555),
    "unreadable file": (0o000, 0o777),
    "unreadable folder": (0o666, 0o000),
}
"""The rights to the file, and to its folder."""


def readonly(ground: Ground, count: int) -> Verdict:
    """Take the right to write away, and give it back."""
    verdict = Verdict("sqlite/readonly", trials=count)
    ground.scratch.chmod(0o755)
    chance = ground.chance("readonly")
    for number in range(count):
        case = [*CASES][number % len(CASES)]
        _try_without_right(ground, verdict, case, chance)
        verdict.faults[case] += 1
    return verdict


def _try_without_right(ground: Ground, verdict: Verdict, case: str, chance: Random) -> None:
    folder = ground.path("folder")
    folder.mkdir()
    path, result = folder / "runs.db", ground.path("told.json")
    url = f"sqlite:///{path}"
    with open_store(url) as store:
        known = [store.create(thread_id="t", assistant_id="a", model="m").id for _ in range(chance.randint(1, 9))]
    before = path.read_bytes()
    result.touch()
    result.chmod(0o666)
    rights_of_file, rights_of_folder = CASES[case]
    path.chmod(rights_of_file)
    folder.chmod(rights_of_folder)
    with Processes() as processes:
        processes.start(ask_without_right, url, known[0], result)
        wait_until(lambda: result.stat().st_size > 0, "the one without the right")
    folder.chmod(0o755)
    path.chmod(0o644)
    told: dict[str, list[str]] = json.loads(result.read_text(encoding="utf-8"))
    for asked, (kind, sentence) in told.items():
        good = kind in ("AccessDenied", "StoreUrlError", "StoreUnavailable", "SchemaMismatch") and str(path) in sentence
        verdict.expect(good or (asked == "read" and kind == "done"), f"{case}, {asked}: {kind}: {sentence}")
        verdict.notes.setdefault("told", Counter())[f"{asked}: {kind}"] += 1
    verdict.expect(path.read_bytes() == before, f"{case}: the file was changed")
    with open_store(url) as store:
        known.append(store.create(thread_id="t", assistant_id="a", model="m").id)
    verdict.acknowledged += len(known)
    _check_nothing_half_made(verdict, url, known)
    verdict.judge(url, may_live=True)


def ask_without_right(name: str, url: str, known: str, result: Path) -> None:
    """Ask a store to write and to read, as somebody who may not write there."""
    with open_store("sqlite:///:memory:") as loaded:  # what is imported late must be there before the rights go
        _refusal(lambda: loaded.get("nothing"))
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.setgroups([])
        os.setgid(nobody.pw_gid)
        os.setuid(nobody.pw_uid)
    told = {"write": _told(lambda: _create(url)), "read": _told(lambda: _read(url, known))}
    result.write_text(json.dumps(told), encoding="utf-8")


def _create(url: str) -> None:
    with open_store(url) as store:
        store.create(thread_id="t", assistant_id="a", model="m")


def _read(url: str, known: str) -> None:
    with open_store(url, migrate=False) as store:
        store.get(known)


def _told(ask: Callable[[], Any]) -> tuple[str, str]:
    try:
        ask()
    except (StoreError, RunstateError) as error:
        return type(error).__name__, str(error)
    except Exception as error:
        return f"not ours: {type(error).__name__}", str(error)
    return "done", ""
