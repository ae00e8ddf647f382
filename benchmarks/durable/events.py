"""What it costs to follow the output events of runs, and how late they are.

    python -m benchmarks.durable.events [--runs 100] [--readers 10] [--rate 50] [--seconds 10] [--quick] [--json]

One worker process has `--runs` runs at once on PostgreSQL. Each handler emits `--rate` events a second for
`--seconds` seconds. The data of an event is the time and a text of 40 characters. Another process has `--readers`
coroutines for each run, which follow `store.aio.events`. There are three parts:

- Idle: the runs are created, no worker has them, and all readers wait.
- Busy: the worker starts. The delay of an event is the time from `ctx.emit` to the reader that gets it, on the clock of
  the machine. The CPU time is that of the process from the start of the worker until all readers have ended, divided by
  that time. The server's is that of all its processes.
- Killed: in the middle, the server, the worker and the readers are killed by SIGKILL. (Of the server these are all
  processes but the first, which then recovers from the WAL. A server that was given is not killed.) They start again,
  and each reader resumes after the last event that it had.

In each part, every reader checks that it gets every number once and in order, and its last one is compared with the
database. A wrong number ends the benchmark. No other figure decides anything.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import mmap
import os
import signal
import sys
import tempfile
from array import array
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median, quantiles
from time import monotonic, sleep, time
from typing import Any, Final

import attrs
import psycopg

from benchmarks.durable.contestant import MeasurementFailed
from benchmarks.durable.processes import Reporter, WorkerProcesses
from benchmarks.durable.runstate_store import NEW_RUN
from benchmarks.machine import machine
from benchmarks.postgres import Server, postgres
from runstate.store import NewRun, open_store
from runstate.store.errors import StoreError
from runstate.worker import Context, Worker

TEXT: Final = "The quick brown fox jumps over lazy dogs"
SETTLE_S: Final = 3.0
"""The seconds that the readers have to begin, before they are measured."""
LEASE_S: Final = 5.0
PATIENCE_S: Final = 300.0
"""The seconds that a part may take longer than its handlers."""


@attrs.frozen
class Load:
    """How many runs and readers there are, and what the handlers emit."""

    runs: int
    readers: int
    """Of each run."""
    rate: int
    """Events of each run a second."""
    seconds: float

    @property
    def events(self) -> int:
        """The events that a handler emits."""
        return round(self.rate * self.seconds)


# -- the processes ----------------------------------------------------------------------------------------------------


def emit_events(reporter: Reporter, url: str, load: Load) -> None:
    """Work until killed; the worker process."""

    async def handler(ctx: Context) -> None:
        began = monotonic()
        for number in range(load.events):
            await asyncio.sleep(began + number / load.rate - monotonic())
            ctx.emit({"at": time(), "text": TEXT})

    with open_store(url) as store:
        reporter.wait_for_start()
        Worker(store, handler, concurrency=load.runs, lease_s=LEASE_S, max_attempts=10).run()


@contextmanager
def kept_positions(folder: Path) -> Generator[memoryview[int], None, None]:
    """Yield the number of the last event of each reader, in a file that survives the process."""
    with (
        (folder / "positions").open("r+b") as file,
        mmap.mmap(file.fileno(), 0) as memory,
        memoryview(memory) as whole,
        whole.cast("q") as positions,
    ):
        yield positions


def follow_events(reporter: Reporter, url: str, folder: Path, run_ids: Sequence[str], readers: int) -> None:
    """Follow the runs until all have ended; the process of the readers."""
    delays = array("d")

    async def follow_all(positions: memoryview[int]) -> None:
        async def follow(run_id: str, place: int) -> None:
            last = positions[place]
            async for event in store.aio.events(run_id, after=last):
                if event.number != last + 1:
                    raise MeasurementFailed(f"a reader of {run_id} got event {event.number} after {last}")
                positions[place] = last = event.number
                delays.append(time() - event.data["at"])

        async with open_store(url) as store, asyncio.TaskGroup() as group:
            for place in range(len(run_ids) * readers):
                group.create_task(follow(run_ids[place // readers], place))

    reporter.wait_for_start()
    with kept_positions(folder) as positions:
        asyncio.run(follow_all(positions))
    with (folder / "delays.part").open("wb") as file:
        delays.tofile(file)
    (folder / "delays.part").rename(folder / "delays")


# -- the CPU time -----------------------------------------------------------------------------------------------------

TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str]:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    return ["Z", "0", *["0"] * 20]


def cpu_s(pid: int, *, with_children: bool = False) -> float:
    """Return the CPU seconds of a process, also those of its children that have ended."""
    return sum(map(int, _stat(pid)[11 : 15 if with_children else 13])) * TICK_S


def children(pid: int) -> list[int]:
    """Return the processes whose parent this is."""
    return [int(path.name) for path in Path("/proc").glob("[0-9]*") if _stat(int(path.name))[1] == str(pid)]


def first_process(url: str) -> int:
    """Return the process of the server that starts all others. Raises `MeasurementFailed` if it is not here."""
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT pg_backend_pid()").fetchone()
        parent = int(_stat(int(row[0]) if row else 0)[1])
    if parent <= 1:
        raise MeasurementFailed("the server is on another machine")
    return parent


@attrs.frozen
class CpuClock:
    """Reads the CPU time of processes and of a server."""

    server: int
    processes: Mapping[str, int]

    def read(self) -> dict[str, float]:
        """Return the CPU seconds of each, so far."""
        server = cpu_s(self.server, with_children=True) + sum(map(cpu_s, children(self.server)))
        return {**{name: cpu_s(pid) for name, pid in self.processes.items()}, "server": server}

    def share_since(self, before: Mapping[str, float], seconds: float) -> dict[str, float]:
        """Return the CPU seconds a second of each, since an earlier reading."""
        return {name: (now - before[name]) / seconds for name, now in self.read().items() if name in before}


# -- measuring --------------------------------------------------------------------------------------------------------


@attrs.define
class Bench:
    """One new database with its runs, and the folder with the positions of the readers."""

    url: str
    load: Load
    folder: Path
    run_ids: list[str] = attrs.field(factory=list)

    def prepare(self) -> None:
        """Create the tables, the runs and the positions."""
        load = self.load
        wanted: list[NewRun] = [{**NEW_RUN, "thread_id": f"thread_{place}"} for place in range(load.runs)]
        with open_store(self.url, migrate=True) as store:
            self.run_ids = [run.id for run in store.create_many([{**run, "expires_in_s": 86_400} for run in wanted])]
        (self.folder / "positions").write_bytes(bytes(8 * load.runs * load.readers))
        (self.folder / "delays").unlink(missing_ok=True)

    def readers(self) -> WorkerProcesses:
        """Return the process of the readers."""
        return WorkerProcesses(follow_events, self.url, self.folder, self.run_ids, self.load.readers)

    def worker(self) -> WorkerProcesses:
        """Return the worker process."""
        return WorkerProcesses(emit_events, self.url, self.load)

    def positions(self) -> list[int]:
        """Return the number of the last event of each reader."""
        with kept_positions(self.folder) as positions:
            return positions.tolist()

    def wait_until_read(self, *processes: WorkerProcesses) -> None:
        """Wait until all runs have ended and all readers have every event."""
        end = monotonic() + self.load.seconds + PATIENCE_S
        while not (self.folder / "delays").exists():
            if monotonic() > end:
                raise MeasurementFailed(f"not all was read: {sum(self.positions())} events")
            if not all(each.are_alive() for each in processes) and not (self.folder / "delays").exists():
                raise MeasurementFailed("a process ended early")
            sleep(0.02)

    def check(self) -> int:
        """Compare the last number of each reader with the database; return the events of all runs."""
        query = "SELECT run_id, max(number), count(*) FROM runstate_events GROUP BY run_id"
        with psycopg.connect(self.url) as connection:
            found = {run_id: (last, count) for run_id, last, count in connection.execute(query).fetchall()}
        for place, last in enumerate(self.positions()):
            run_id = self.run_ids[place // self.load.readers]
            if found.get(run_id) != (last, last):
                raise MeasurementFailed(f"a reader of {run_id} has {last} events; kept are {found.get(run_id)}")
        return sum(count for _, count in found.values())

    def delays(self) -> dict[str, float]:
        """Return the delays in milliseconds."""
        delays = array("d")
        delays.frombytes((self.folder / "delays").read_bytes())
        return {
            "median_ms": median(delays) * 1000,
            "p99_ms": quantiles(delays, n=100)[98] * 1000,
            "most_ms": max(delays) * 1000,
        }


def measure_idle_and_busy(bench: Bench, idle_s: float) -> dict[str, Any]:
    """Measure the readers while they wait, then with the worker."""
    bench.prepare()
    server = first_process(bench.url)
    with bench.readers() as readers, bench.worker() as worker:
        clock = CpuClock(server, {"readers": readers.pids[0], "worker": worker.pids[0]})
        readers.start()
        sleep(SETTLE_S)
        before, began = clock.read(), monotonic()
        sleep(idle_s)
        idle = clock.share_since(before, monotonic() - began)
        before, began = clock.read(), monotonic()
        worker.start()
        share: dict[str, float] = {}
        seconds = 0.0
        most = bench.load.events
        while not share:  # a process that has ended has no CPU time any more
            seconds = monotonic() - began
            if min(bench.positions()) >= most:
                share = clock.share_since(before, seconds)
            elif not readers.are_alive() or not worker.are_alive() or seconds > bench.load.seconds + PATIENCE_S:
                raise MeasurementFailed(f"not all was read: {sum(bench.positions())} events")
            else:
                sleep(0.05)
        bench.wait_until_read(worker)
    events = bench.check()
    if events != bench.load.runs * most:
        raise MeasurementFailed(f"{events} events are kept of {bench.load.runs * most}")
    return {
        "idle": {"seconds": idle_s, "cpu": {name: idle[name] for name in ("readers", "server")}},
        "busy": {
            "seconds": seconds,
            "events": events,
            "deliveries": events * bench.load.readers,
            "delay": bench.delays(),
            "cpu": share,
        },
    }


def measure_killed(bench: Bench, kills_server: bool) -> dict[str, Any]:
    """Kill everything in the middle, and let the readers resume."""
    bench.prepare()
    with bench.readers() as readers, bench.worker() as worker:
        readers.start()
        worker.start()
        end = monotonic() + bench.load.seconds + PATIENCE_S
        while max(bench.positions()) < bench.load.events // 2:
            if monotonic() > end or not readers.are_alive():
                raise MeasurementFailed(f"the middle was not reached: {sum(bench.positions())} events")
            sleep(0.01)
        if kills_server:
            for pid in children(first_process(bench.url)):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    middle = sum(bench.positions())
    _wait_for_server(bench.url)
    with bench.readers() as readers, bench.worker() as worker:
        readers.start()
        worker.start()
        bench.wait_until_read(worker)
    events = bench.check()
    least = bench.load.runs * bench.load.events
    if events < least:
        raise MeasurementFailed(f"{events} events are kept of at least {least}")
    return {"server_killed": kills_server, "delivered_before": middle, "events": events}


def _wait_for_server(url: str) -> None:
    end = monotonic() + PATIENCE_S
    while True:
        try:
            open_store(url, migrate=False).close()
        except StoreError:
            if monotonic() > end:
                raise
            sleep(0.1)
        else:
            return


def measure(server: Server, load: Load, idle_s: float) -> dict[str, Any]:
    """Measure all parts, each in a new database."""
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="runstate-") as folder:
        with server.fresh_database() as url:
            result |= measure_idle_and_busy(Bench(url, load, Path(folder)), idle_s)
        with server.fresh_database() as url:
            result["killed"] = measure_killed(Bench(url, load, Path(folder)), kills_server=server.origin != "given")
    return result


# -- the command ------------------------------------------------------------------------------------------------------


DELAYS: Final = {"median": "median_ms", "99 %": "p99_ms", "most": "most_ms"}


def _cpu_text(cpu: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {share:.3f}" for name, share in cpu.items())


def print_result(result: Mapping[str, Any]) -> None:
    """Print the figures."""
    print("; ".join(f"{name} {value}" for name, value in result["about"].items()), "\n")
    idle, busy, killed = (result["figures"][part] for part in ("idle", "busy", "killed"))
    delay = ", ".join(f"{name} {busy['delay'][key]:.0f} ms" for name, key in DELAYS.items())
    print(f"idle    CPU seconds a second over {idle['seconds']:.1f} s: {_cpu_text(idle['cpu'])}")
    print(f"busy    {busy['events']:,} events, {busy['deliveries']:,} deliveries in {busy['seconds']:.1f} s")
    print(f"        delay: {delay}")
    print(f"        CPU seconds a second: {_cpu_text(busy['cpu'])}")
    what = "server, worker and readers" if killed["server_killed"] else "worker and readers"
    print(f"killed  {what}, after {killed['delivered_before']:,} deliveries; then {killed['events']:,} events")
    print("each reader had each event once and in order, in all parts")


def _end(number: int, frame: object) -> None:
    sys.exit("ended")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What it costs to follow output events, and how late they are.")
    parser.add_argument("--runs", type=int, default=100, help="runs at once (100)")
    parser.add_argument("--readers", type=int, default=10, help="readers of each run (10)")
    parser.add_argument("--rate", type=int, default=50, help="events of a run a second (50)")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long a handler emits (10)")
    parser.add_argument("--quick", action="store_true", help="5 runs, 2 readers each, 1 second: a trial, not a result")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _end)
    load = Load(options.runs, options.readers, options.rate, options.seconds)
    if options.quick:
        load = Load(5, 2, options.rate, 1.0)
    about = {
        **machine(),
        "load": f"{load.runs} runs with {load.rate} events a second for {load.seconds:g} s,"
        f" {load.runs * load.readers} readers",
    }
    with postgres() as server:
        about["postgresql"] = server.about()
        figures = measure(server, load, 1.0 if options.quick else 10.0)
    result = {"about": about, "load": attrs.asdict(load), "figures": figures}
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        print_result(result)


if __name__ == "__main__":
    main()
