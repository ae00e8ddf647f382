"""What it costs to watch many runs, and how late their moves are.

    python -m benchmarks.durable.watch [--watchers 1000] [--rate 50] [--dialect sqlite|postgres] [--quick] [--json]

One process has `--watchers` coroutines, which follow `store.aio.watch` of one run each. There are two parts:

- Idle: nothing happens for ten seconds.
- Moves: this process starts and completes every run, with `--rate` moves a second. The delay of a move is the time from
  the call to the watcher that gets the entry, on the clock of the machine, so it includes the commit.

The CPU time is that of a process during a part, divided by the length of the part. The server's is that of all its
processes. Every watcher checks that it gets every version once and in order. A wrong version ends the benchmark. No
other figure decides anything.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from time import monotonic, sleep, time
from typing import Any, Final

import attrs

from benchmarks.durable.contestant import MeasurementFailed
from benchmarks.durable.events import DELAYS, CpuClock, cpu_s, first_process
from benchmarks.durable.processes import Reporter, WorkerProcesses
from benchmarks.durable.runstate_store import NEW_RUN
from benchmarks.machine import machine
from benchmarks.postgres import Server, postgres
from runstate.store import NewRun, Store, open_store

SETTLE_S: Final = 5.0
"""The seconds that the watchers have to begin, before they are measured."""
PATIENCE_S: Final = 120.0
VERSIONS: Final = 3
"""The entries of a run that has ended."""


@attrs.frozen
class Load:
    """How many runs are watched, and how often one moves."""

    watchers: int
    rate: int


# -- the processes ----------------------------------------------------------------------------------------------------


def watch_runs(reporter: Reporter, url: str, folder: Path, run_ids: Sequence[str]) -> None:
    """Watch the runs until all have ended; the process of the watchers."""
    delays = array("d")

    async def watch(store: Store, run_id: str) -> None:
        last = 0
        async for entry in store.aio.watch(run_id):
            if entry.version != last + 1:
                raise MeasurementFailed(f"the watcher of {run_id} got version {entry.version} after {last}")
            last = entry.version
            if entry.actor is not None:
                delays.append(time() - float(entry.actor))
        if last != VERSIONS:
            raise MeasurementFailed(f"the watch of {run_id} ended at version {last}")

    async def watch_all() -> None:
        async with open_store(url) as store, asyncio.TaskGroup() as group:
            for run_id in run_ids:
                group.create_task(watch(store, run_id))

    reporter.wait_for_start()
    asyncio.run(watch_all())
    with (folder / "delays.part").open("wb") as file:
        delays.tofile(file)
    (folder / "delays.part").rename(folder / "delays")


# -- measuring --------------------------------------------------------------------------------------------------------


@attrs.frozen
class Clock:
    """Reads the CPU time of the watchers, and of the server if there is one."""

    watchers: int
    server: int | None

    def read(self) -> dict[str, float]:
        """Return the CPU seconds of each, so far."""
        if self.server is None:
            return {"watchers": cpu_s(self.watchers)}
        return CpuClock(self.server, {"watchers": self.watchers}).read()

    def share_during(self, work: Callable[[], object]) -> tuple[dict[str, float], float]:
        """Return the CPU seconds a second of each during a call, and the seconds that it took."""
        before, began = self.read(), monotonic()
        work()
        seconds = monotonic() - began
        return {name: (now - before[name]) / seconds for name, now in self.read().items()}, seconds


def move_runs(store: Store, run_ids: Sequence[str], rate: int) -> None:
    """Start every run, then complete every run. The name of the actor is the time of the call."""
    began = monotonic()
    for number, run_id in enumerate((*run_ids, *run_ids)):
        sleep(max(0.0, began + number / rate - monotonic()))
        move = store.start if number < len(run_ids) else store.complete
        move(run_id, actor=f"{time():.6f}")


def measure(url: str, load: Load, idle_s: float, server: int | None) -> dict[str, Any]:
    """Measure both parts in a new database."""
    wanted: list[NewRun] = [{**NEW_RUN, "thread_id": f"thread_{place}"} for place in range(load.watchers)]
    with tempfile.TemporaryDirectory(prefix="runstate-") as name, open_store(url, migrate=True) as store:
        folder = Path(name)
        run_ids = [run.id for run in store.create_many([{**run, "expires_in_s": 86_400} for run in wanted])]
        with WorkerProcesses(watch_runs, url, folder, run_ids) as watchers:
            clock = Clock(watchers.pids[0], server)
            watchers.start()
            sleep(SETTLE_S)
            idle, idle_took = clock.share_during(lambda: sleep(idle_s))
            last = run_ids.pop()  # its watcher ends the process
            busy, busy_took = clock.share_during(lambda: move_runs(store, run_ids, load.rate))
            move_runs(store, [last], load.rate)
            end = monotonic() + PATIENCE_S
            while not (folder / "delays").exists():
                if monotonic() > end or not (watchers.are_alive() or (folder / "delays").exists()):
                    raise MeasurementFailed("the watchers did not get all entries")
                sleep(0.02)
        delays = array("d")
        delays.frombytes((folder / "delays").read_bytes())
    return {
        "idle": {"seconds": idle_took, "cpu": idle},
        "moves": {
            "seconds": busy_took,
            "moves": len(delays),
            "cpu": busy,
            "delay": {
                "median_ms": median(delays) * 1000,
                "p99_ms": quantiles(delays, n=100)[98] * 1000,
                "most_ms": max(delays) * 1000,
            },
        },
    }


@contextmanager
def fresh_sqlite() -> Iterator[str]:
    """Yield the URL of a file that does not exist yet."""
    with tempfile.TemporaryDirectory(prefix="runstate-") as folder:
        yield f"sqlite:///{Path(folder) / 'runs.db'}"


# -- the command ------------------------------------------------------------------------------------------------------


def print_result(result: Mapping[str, Any]) -> None:
    """Print the figures."""
    print("; ".join(f"{name} {value}" for name, value in result["about"].items()), "\n")
    for dialect, figures in result["figures"].items():
        idle, moves = figures["idle"], figures["moves"]
        print(f"{dialect} idle   CPU seconds a second over {idle['seconds']:.1f} s: {_cpu_text(idle['cpu'])}")
        delay = ", ".join(f"{name} {moves['delay'][key]:.1f} ms" for name, key in DELAYS.items())
        print(f"{dialect} moves  {moves['moves']:,} in {moves['seconds']:.1f} s; delay: {delay}")
        print(f"{' ' * len(dialect)}        CPU seconds a second: {_cpu_text(moves['cpu'])}")


def _cpu_text(cpu: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {share:.3f}" for name, share in cpu.items())


def _end(number: int, frame: object) -> None:
    sys.exit("ended")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What it costs to watch many runs, and how late their moves are.")
    parser.add_argument("--watchers", type=int, default=1000, help="runs, with one watcher each (1000)")
    parser.add_argument("--rate", type=int, default=50, help="moves a second (50)")
    parser.add_argument("--dialect", choices=["sqlite", "postgres"])
    parser.add_argument("--quick", action="store_true", help="50 watchers, 1 second idle: a trial, not a result")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _end)
    load = Load(50 if options.quick else options.watchers, options.rate)
    idle_s = 1.0 if options.quick else 10.0
    about = {**machine(), "load": f"{load.watchers} watchers, {load.rate} moves a second"}
    figures: dict[str, Any] = {}
    if options.dialect != "postgres":
        with fresh_sqlite() as url:
            figures["sqlite"] = measure(url, load, idle_s, None)
    if options.dialect != "sqlite":
        with postgres() as server:
            about["postgresql"] = server.about()
            figures["postgres"] = _measure_postgres(server, load, idle_s)
    result = {"about": about, "load": attrs.asdict(load), "figures": figures}
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        print_result(result)


def _measure_postgres(server: Server, load: Load, idle_s: float) -> dict[str, Any]:
    with server.fresh_database() as url:
        return measure(url, load, idle_s, first_process(url))


if __name__ == "__main__":
    main()
