"""The cost of many workers for a PostgreSQL server: leases, idle polls, claims and connections.

A small machine cannot run a thousand worker processes. It can hold the rows of a hundred thousand, and measure what one
poll or one heartbeat costs among them. How many a second the server can execute is measured by its own pgbench, with
the statements of the library.
"""

from __future__ import annotations

import asyncio
import os
import re
import select
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from threading import Thread
from time import perf_counter
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from benchmarks.durable.runstate_store import NEW_RUN, no_op
from benchmarks.scale.measure import Results, time_each
from runstate.store import NewRun, Store, open_store
from runstate.store._sql.dialect import POSTGRES
from runstate.store._sql.statements import Statements
from runstate.worker import Worker

__all__ = ["measure_claims", "measure_connections", "measure_leases", "measure_notifications", "measure_pace"]

_STATEMENTS: Final = Statements(POSTGRES)
# The settings of the library's own connections.
_OFF: Final = ("seqscan", "bitmapscan", "hashjoin", "mergejoin")
_WRITES: Final = "-c plan_cache_mode=force_generic_plan -c jit=off" + "".join(f" -c enable_{way}=off" for way in _OFF)
_NOTIFIES: Final = "-c synchronous_commit=off"
_HOUR_US: Final = 3_600_000_000


def measure_leases(store: Store, url: str, results: Results, counts: Sequence[int]) -> None:
    """Measure what a worker calls all the time, with so many open or closed sessions."""
    for count in counts:
        for closed in (0, 1):
            column = f"{count:,} {'ended' if closed else 'open'}"
            _insert_sessions(url, count, closed)
            lease = store.open_lease("bench", lease_s=3600)
            results.add("is_anything_due, by sessions", column, time_each(store.is_anything_due, 50), "ms")
            results.add("sweep, by sessions", column, time_each(store.sweep, 20), "ms")
            results.add("heartbeat, by sessions", column, time_each(partial(store.heartbeat, lease), 100), "ms")
            store.close_lease(lease)


def _insert_sessions(url: str, count: int, closed: int) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DELETE FROM runstate_worker_session WHERE token <> 0")
        connection.execute(
            "INSERT INTO runstate_worker_session SELECT i, 'worker ' || i, 0,"
            f" (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + {_HOUR_US}, {closed}"
            f" FROM generate_series(1, {count}) AS i".encode()
        )
        connection.execute("VACUUM (ANALYZE) runstate_worker_session")


# -- pgbench ----------------------------------------------------------------------------------------------------------


def _script(statement: str, given: Mapping[str, str]) -> str:
    """Return a statement of the library for pgbench, each client a worker of its own."""
    values = {"now": "NULL", "worker": ":worker", **given}
    text = re.sub(r"%\((\w+)\)s", lambda found: values[found[1]], statement)
    return f"\\set worker :client_id + 1\n{text};\n"


def _pgbench(programs: Path, url: str, script: str, clients: int, seconds: int, settings: str) -> tuple[float, float]:
    """Return transactions a second, and the milliseconds of one."""
    with tempfile.TemporaryDirectory(prefix="runstate-") as folder:
        file = Path(folder, "script")
        file.write_text(script, encoding="utf-8")
        command: list[str | Path] = [programs / "pgbench", "-n", "-M", "prepared", "-f", file, "-T", str(seconds)]
        parts = conninfo_to_dict(url)
        command += ["-c", str(clients), "-j", "1", "-h", str(parts["host"]), "-U", "postgres", str(parts["dbname"])]
        environment = {**os.environ, "PGOPTIONS": settings}
        for _ in range(5):
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            rate = re.search(r"tps = ([\d.]+)", done.stdout)
            wait = re.search(r"latency average = ([\d.]+)", done.stdout)
            if rate is not None and wait is not None:  # none where the disk was blocked all the time
                return float(rate[1]), float(wait[1])
    raise AssertionError(done.stdout + done.stderr)


def measure_pace(programs: Path, url: str, results: Results, counts: Sequence[int], seconds: int) -> None:
    """Measure how many heartbeats, idle claims and polls a server executes a second, with so many open sessions."""
    beat = _script(_STATEMENTS.heartbeat, {"lease": "3600000000"})
    idle = _script(_STATEMENTS.claim, {"queue": "'empty'", "limit": "10", "actor": "'bench'"})
    look = _script(_STATEMENTS.anything_due, {})
    for count in counts:
        _insert_sessions(url, count, 0)
        for name, script, settings in (
            ("heartbeats", beat, _WRITES),
            ("idle claims", idle, _WRITES),
            ("looks", look, ""),
        ):
            laps = [_pgbench(programs, url, script, 10, seconds, settings)[0] for _ in range(3)]
            results.add(f"{name} of 10 connections", f"{count:,} open", laps, "a second")


def measure_claims(
    store: Store, programs: Path, url: str, results: Results, clients: Sequence[int], seconds: int
) -> None:
    """Measure claims of so many workers at once at the head of one queue."""
    _insert_sessions(url, max(clients), 0)
    wanted: NewRun = {**NEW_RUN, "queue": "head", "expires_in_s": 86_400}
    for limit in (1, 10):
        script = _script(_STATEMENTS.claim, {"queue": "'head'", "limit": str(limit), "actor": "'bench'"})
        for count in clients:
            for _ in range(10):
                store.create_many([wanted] * 10_000)
            lasting = seconds if limit == 1 else min(seconds, 2)  # or the queue runs empty
            rate, wait = _pgbench(programs, url, script, count, lasting, _WRITES)
            assert store.list(status="queued", queue="head", limit=1).data, "the queue ran empty"
            results.add(f"claims of {limit}, a second", f"{count} workers", [rate], "claims/s")
            results.add(f"claims of {limit}, each", f"{count} workers", [wait], "ms")
            _truncate_runs(url)


def _truncate_runs(url: str) -> None:
    """Remove all runs, without the guards, so that the next measurement begins with empty tables."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        for table in ("runstate_run", "runstate_history", "runstate_run_config"):
            connection.execute(f"TRUNCATE {table}".encode())


# -- notifications
# ------------------------------------------------------------------------------------------------------------


def measure_notifications(programs: Path, url: str, results: Results, listeners: Sequence[int], seconds: int) -> None:
    """Measure the cost of a NOTIFY for its sender, and the time until the last of so many listeners has it."""
    script = "SELECT pg_notify('runstate', '3');\n"
    for count in listeners:
        column = f"{count} listen"
        with ExitStack() as stack:
            listening = [stack.enter_context(psycopg.connect(url, autocommit=True)) for _ in range(count)]
            for connection in listening:
                connection.execute("LISTEN runstate")
            if count:
                results.add("hint: until the last has it", column, _time_to_last_listener(url, listening), "ms")
            with _NotificationReader(listening):
                for senders in (1, 20):
                    rate, _ = _pgbench(programs, url, script, senders, seconds, _NOTIFIES)
                    results.add(f"hints of {senders} senders", column, [rate], "a second")


def _time_to_last_listener(url: str, listening: Sequence[psycopg.Connection[Any]]) -> list[float]:
    with psycopg.connect(url, autocommit=True) as sender:

        def once() -> None:
            sender.execute("SELECT pg_notify('runstate', '3')")
            waiting = {connection.fileno(): connection for connection in listening}
            while waiting:
                for handle in select.select(list(waiting), [], [], 5)[0]:
                    waiting[handle].pgconn.consume_input()
                    if waiting[handle].pgconn.notifies() is not None:
                        del waiting[handle]

        return time_each(once, 100)


class _NotificationReader:
    """Reads notifications in a thread, so that no sender waits for a listener."""

    def __init__(self, listening: Sequence[psycopg.Connection[Any]]) -> None:
        self._listening = {connection.fileno(): connection for connection in listening}
        self._stopped = False
        self._thread = Thread(target=self._read, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._thread.join()

    def _read(self) -> None:
        while not self._stopped:
            for handle in select.select(list(self._listening), [], [], 0.1)[0] if self._listening else ():
                connection = self._listening[handle]
                connection.pgconn.consume_input()
                while connection.pgconn.notifies() is not None:
                    pass
            time.sleep(0.005)


# -- connections ------------------------------------------------------------------------------------------------------


def measure_connections(url: str, results: Results) -> None:
    """Count the connections of one idle worker process, and measure what they cost the server."""

    async def idle(store: Store) -> None:
        async with Worker(store, no_op, concurrency=10):
            await asyncio.sleep(3)
            with psycopg.connect(url, autocommit=True) as asking:
                pids = [row[0] for row in asking.execute(_OTHERS).fetchall()]
                results.add("connections of an idle worker", "one", [len(pids)], "")
                results.add("memory of a connection at the server", "one", [_private_kb(pid) for pid in pids], "kB")
                before, ticks = perf_counter(), _ticks(pids)
                await asyncio.sleep(10)
                spent = (_ticks(pids) - ticks) / os.sysconf("SC_CLK_TCK") / (perf_counter() - before)
                results.add("a core of the server, for an idle worker", "one", [100 * spent], "%")

    with open_store(url) as store:
        asyncio.run(idle(store))


_OTHERS: Final = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    " AND backend_type = 'client backend'"
)


def _private_kb(pid: int) -> float:
    """Return the private memory of a process."""
    with suppress(OSError):
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
        return float(sum(int(kb) for kb in re.findall(r"^Private_\w+:\s+(\d+) kB", rollup, re.MULTILINE)))
    return 0.0


def _ticks(pids: Sequence[int]) -> int:
    stats = [Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split() for pid in pids]
    return sum(int(fields[11]) + int(fields[12]) for fields in stats)
