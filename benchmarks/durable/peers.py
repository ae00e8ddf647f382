"""The peers of the durable benchmark: task queues, each set up for throughput as its documentation advises.

The same is measured for all. `create`: the seconds until the library's own call has returned for the last run,
one call at a time, or by its call for many where it has one (100 each). `drain`: `count` no-op runs are waiting when
the worker processes start; the clock runs from the first call of a handler, in any process, until the last handler was
called *and* the library's own tables have no run left (polled every 4 ms, once all were called). So connecting,
checking the schema and the first fetch are not counted, and the last acknowledgement is. `start`: one idle worker, a
create every 20 ms, from before the call that creates until the first line of the handler.

None of them writes what the baselines write: their stamps, versions and histories are of their own kind (see each).
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Lock
from time import monotonic, perf_counter, sleep
from typing import Any, Final

from benchmarks.durable.contestant import Contestant, MeasurementFailed
from benchmarks.durable.processes import TIMEOUT_S, Reporter, WorkerProcesses
from benchmarks.postgres import empty_database, vacuum_tables

TASK: Final = "work"


def title(package: str) -> str:
    """Return the name and the version of a package; the name alone if it is not installed."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return package


def missing_package(*packages: str) -> str:
    """Return a sentence about the first of these packages that is not installed; empty if all are."""
    for package in packages:
        try:
            version(package)
        except PackageNotFoundError:
            return f"{package} is not installed"
    return ""


class Loop:
    """An event loop that is kept between calls; uvloop if it is installed."""

    def __init__(self) -> None:
        factory: Callable[[], asyncio.AbstractEventLoop] | None = None
        with suppress(ImportError):
            factory = import_module("uvloop").new_event_loop
        self._runner = asyncio.Runner(loop_factory=factory)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run to the end; return the result."""
        return self._runner.run(work)

    def close(self) -> None:
        """Close the loop."""
        self._runner.close()


class _AsyncPeer(Contestant):
    """A peer on PostgreSQL whose calls are awaited."""

    dialect = "postgres"
    slots = (10, 100)

    def __init__(self, url: str) -> None:
        self._url = url
        self._loop = Loop()

    async def _create(self, first: int, count: int) -> None:
        raise NotImplementedError

    def create(self, count: int, in_flight: int) -> float:
        async def all_of_them() -> float:
            before = perf_counter()
            for first in range(0, count, in_flight):
                await self._create(first, min(in_flight, count - first))
            return perf_counter() - before

        seconds: float = self._loop.run(all_of_them())
        return seconds

    def _measure_drain(self, workers: WorkerProcesses, count: int, left: str, done: str) -> float:
        import psycopg

        with workers, psycopg.connect(self._url, autocommit=True) as connection:
            workers.start()
            seconds = workers.wait_until_done(count, lambda: connection.execute(left.encode()).fetchone() == (False,))
            if connection.execute(done.encode()).fetchone() != (count,):
                raise MeasurementFailed("not all were completed")
        return seconds

    def _measure_start(self, workers: WorkerProcesses, count: int, every: float) -> list[float]:
        async def one(index: int) -> float:
            now = monotonic()
            await self._create(index, 1)
            return now

        with workers:
            workers.start()
            sleep(1)  # it checks its schema and subscribes first
            created_at: list[float] = []
            for index in range(count):
                sleep(every)
                created_at.append(self._loop.run(one(index)))
            return [began - before for began, before in zip(workers.start_times(), created_at, strict=True)]

    def close(self) -> None:
        self._loop.close()


def _run_worker(work: Awaitable[None]) -> None:
    async def wrapped() -> None:
        await work

    Loop().run(wrapped())


# -- pgqueuer ---------------------------------------------------------------------------------------------------------


class PgQueuer(_AsyncPeer):
    """pgqueuer over asyncpg and uvloop, tables logged (`durable`, its default), `pgq autovac` applied.

    Its performance page: a pool of 5 to 20 connections for throughput (10 % here), a larger batch for short work. The
    batch is the number of slots, and nothing else limits the runs at once, in its favour: `max_concurrent_tasks` at the
    slots fetches batches of half of that, and drains 0.55 (10 slots) and 0.75 (100) as fast. Three log rows a run
    (queued, picked, successful); a completed run leaves the queue's table. Completions are written in batches, after
    0.1 s at the latest: tasks that returned since then run again if the worker dies.
    """

    name = title("pgqueuer")
    about = "asyncpg pool, uvloop, batch = slots, no other limit; 3 log rows; completions in batches within 0.1 s"
    missing = missing_package("pgqueuer", "asyncpg")

    _queries: Any = None
    _connection: Any = None

    def prepare(self) -> None:
        self._loop.run(self._install())

    async def _install(self) -> None:
        if self._connection is not None:
            await self._connection.close()
        empty_database(self._url)
        self._connection = await import_module("asyncpg").connect(self._url)
        driver = import_module("pgqueuer.db").AsyncpgDriver(self._connection)
        self._queries = import_module("pgqueuer.queries").Queries(driver)
        await self._queries.install()
        await self._queries.optimize_autovacuum()

    async def _create(self, first: int, count: int) -> None:
        if count == 1:
            await self._queries.enqueue(TASK, b"%d" % first)
        else:
            payloads = [b"%d" % index for index in range(first, first + count)]
            await self._queries.enqueue([TASK] * count, payloads, [0] * count)

    def vacuum(self) -> None:
        vacuum_tables(self._url, ("pgqueuer", "pgqueuer_log"))

    def drain(self, count: int, slots: int, processes: int) -> float:
        return self._measure_drain(
            WorkerProcesses(pgqueuer_drain, self._url, slots, processes=processes),
            count,
            "SELECT EXISTS (SELECT FROM pgqueuer)",
            "SELECT count(*) FROM pgqueuer_log WHERE status = 'successful'",
        )

    def start(self, count: int, every: float) -> list[float]:
        self.prepare()
        return self._measure_start(WorkerProcesses(pgqueuer_start, self._url, starts=count), count, every)

    def close(self) -> None:
        if self._connection is not None:
            self._loop.run(self._connection.close())
        super().close()


async def _pgqueuer_worker(reporter: Reporter, url: str, slots: int, handler: Callable[[Any], Awaitable[None]]) -> None:
    pool = await import_module("asyncpg").create_pool(url, min_size=5, max_size=20)
    pgq = import_module("pgqueuer").PgQueuer(import_module("pgqueuer.db").AsyncpgPoolDriver(pool))
    pgq.entrypoint(TASK)(handler)
    reporter.wait_for_start()
    await pgq.run(batch_size=slots)


def pgqueuer_drain(reporter: Reporter, url: str, slots: int) -> None:
    """Work until killed, and count the runs."""

    async def handler(job: Any) -> None:
        reporter.count_run()

    _run_worker(_pgqueuer_worker(reporter, url, slots, handler))


def pgqueuer_start(reporter: Reporter, url: str) -> None:
    """Work until killed, and record when each handler started."""

    async def handler(job: Any) -> None:
        reporter.record_start(int(job.payload))

    _run_worker(_pgqueuer_worker(reporter, url, 10, handler))


# -- procrastinate ----------------------------------------------------------------------------------------------------


class Procrastinate(_AsyncPeer):
    """procrastinate over psycopg's pool with its 4 connections: 10 are slower by a fifth and 20 by a third.

    Finished jobs stay, as is its default. Async tasks in one worker, `concurrency` = slots. It fetches each job alone
    and finishes each with a statement of its own, so there is no batch to set. Three event rows a job, by triggers
    (deferred, started, succeeded).
    """

    name = title("procrastinate")
    about = "psycopg pool, concurrency = slots, async task; each fetched and finished alone; 3 event rows"
    missing = missing_package("procrastinate")

    _app: Any = None
    _work: Any = None

    def prepare(self) -> None:
        self._loop.run(self._install())

    async def _install(self) -> None:
        if self._app is not None:
            await self._app.close_async()
        empty_database(self._url)
        self._app = _procrastinate_app(self._url)
        self._work = self._app.task(name=TASK)(_async_task)
        await self._app.open_async()
        await self._app.schema_manager.apply_schema_async()

    async def _create(self, first: int, count: int) -> None:
        if count == 1:
            await self._work.defer_async(index=first)
        else:
            await self._work.batch_defer_async(*({"index": index} for index in range(first, first + count)))

    def vacuum(self) -> None:
        vacuum_tables(self._url, ("procrastinate_jobs", "procrastinate_events"))

    def drain(self, count: int, slots: int, processes: int) -> float:
        return self._measure_drain(
            WorkerProcesses(procrastinate_drain, self._url, slots, processes=processes),
            count,
            "SELECT EXISTS (SELECT FROM procrastinate_jobs WHERE status IN ('todo', 'doing'))",
            "SELECT count(*) FROM procrastinate_events WHERE type = 'succeeded'",
        )

    def start(self, count: int, every: float) -> list[float]:
        self.prepare()
        return self._measure_start(WorkerProcesses(procrastinate_start, self._url, starts=count), count, every)

    def close(self) -> None:
        if self._app is not None:
            self._loop.run(self._app.close_async())
        super().close()


async def _async_task(index: int) -> None:
    """Do nothing, in the process that only defers."""


def _procrastinate_app(url: str) -> Any:
    module = import_module("procrastinate")
    return module.App(connector=module.PsycopgConnector(conninfo=url))


async def _procrastinate_worker(
    reporter: Reporter, url: str, slots: int, handler: Callable[[int], Awaitable[None]]
) -> None:
    logging.getLogger("procrastinate").setLevel(logging.ERROR)
    app = _procrastinate_app(url)
    app.task(name=TASK)(handler)
    async with app.open_async():
        reporter.wait_for_start()
        await app.run_worker_async(concurrency=slots, install_signal_handlers=False)


def procrastinate_drain(reporter: Reporter, url: str, slots: int) -> None:
    """Work until killed, and count the runs."""

    async def handler(index: int) -> None:
        reporter.count_run()

    _run_worker(_procrastinate_worker(reporter, url, slots, handler))


def procrastinate_start(reporter: Reporter, url: str) -> None:
    """Work until killed, and record when each handler started."""

    async def handler(index: int) -> None:
        reporter.record_start(index)

    _run_worker(_procrastinate_worker(reporter, url, 10, handler))


# -- huey -------------------------------------------------------------------------------------------------------------


class Huey(Contestant):
    """huey on SQLite (`SqliteHuey`, fsync=True, WAL its default), a consumer with as many threads as slots.

    It has no call for many. A task is deleted as it is fetched, before it runs, and a no-op leaves no result: an insert
    and a delete a run, no stamp, no version, no history, and the tasks of a worker that dies are lost. A drain ends
    when the last handler was called and the table is empty. Idle threads poll every 10 ms (its default goes from 0.1 to
    10 s).
    """

    name = title("huey")
    dialect = "sqlite"
    about = "SqliteHuey, fsync, threads = slots; fetching deletes, nothing is kept; no call for many"
    missing = missing_package("huey")
    creates_at_once = (1,)
    slots = (10, 100)

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="runstate-"))
        self._number = 0
        self._huey: Any = None
        self._work: Any = None

    @property
    def path(self) -> str:
        return str(self._folder / f"{self._number}.db")

    def prepare(self) -> None:
        if self._huey is not None:
            self._huey.storage.close()
            for path in self._folder.iterdir():
                path.unlink()
        self._number += 1
        self._huey = _huey_app(self.path)
        self._work = self._huey.task(name=TASK)(_task)

    def create(self, count: int, in_flight: int) -> float:
        work = self._work
        before = perf_counter()
        for index in range(count):
            work(index)
        return perf_counter() - before

    def drain(self, count: int, slots: int, processes: int) -> float:
        with WorkerProcesses(huey_drain, self.path, slots, processes=processes) as workers:
            workers.start()
            return workers.wait_until_done(count, lambda: not self._huey.pending_count())

    def start(self, count: int, every: float) -> list[float]:
        self.prepare()
        with WorkerProcesses(huey_start, self.path, starts=count) as workers:
            workers.start()
            sleep(0.5)
            created_at = []
            for index in range(count):
                sleep(every)
                created_at.append(monotonic())
                self._work(index)
            return [began - before for began, before in zip(workers.start_times(), created_at, strict=True)]

    def close(self) -> None:
        if self._huey is not None:
            self._huey.storage.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _task(index: int) -> None:
    """Do nothing, in the process that only creates."""


def _huey_app(path: str) -> Any:
    return import_module("huey").SqliteHuey("bench", filename=path, fsync=True, timeout=TIMEOUT_S)


def _huey_worker(reporter: Reporter, path: str, slots: int, handler: Callable[[int], None]) -> None:
    huey = _huey_app(path)
    huey.task(name=TASK)(handler)
    consumer = huey.create_consumer(
        workers=slots, worker_type="thread", periodic=False, initial_delay=0.01, backoff=1.01, max_delay=0.01
    )
    reporter.wait_for_start()
    consumer.run()


def huey_drain(reporter: Reporter, path: str, slots: int) -> None:
    """Work until killed, and count the runs under a lock, because `+=` is not atomic."""
    counting = Lock()

    def handler(index: int) -> None:
        with counting:
            reporter.count_run()

    _huey_worker(reporter, path, slots, handler)


def huey_start(reporter: Reporter, path: str) -> None:
    """Work until killed, and record when each handler started."""

    def handler(index: int) -> None:  # huey finds it by its module
        reporter.record_start(index)

    _huey_worker(reporter, path, 10, handler)


# -- celery -----------------------------------------------------------------------------------------------------------


class Celery(Contestant):
    """celery on a redis that appends and syncs every write, where `redis-server` and the package `redis` are at hand.

    Late acknowledgement, results ignored, a prefetch of 64 a slot (its page on optimizing: 64 or 128 for short tasks),
    no gossip, mingle or heartbeat; the pool of threads, for a hundred slots would be a hundred processes in its default
    pool. The broker keeps messages and nothing of a run: no stamp, no version, no history. Done is when no message is
    left, unacknowledged ones included. It has no call for many.
    """

    name = title("celery")
    dialect = "redis"
    about = "redis with appendfsync=always, threads = slots, acks_late, prefetch 64; nothing is kept; no call for many"
    missing = missing_package("celery", "redis") or ("" if shutil.which("redis-server") else "no redis-server here")
    creates_at_once = (1,)
    slots = (10, 100)

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="runstate-"))
        self._socket = str(self._folder / "redis.sock")
        options = ["--port", "0", "--unixsocket", self._socket, "--dir", str(self._folder)]
        options += ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        self._server = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        self._redis = import_module("redis").Redis(unix_socket_path=self._socket)
        end = monotonic() + 10
        while not Path(self._socket).exists():
            if monotonic() > end:
                self.close()
                raise MeasurementFailed("redis-server does not answer")
            sleep(0.05)
        self._work = _celery_app(self._socket).task(name=TASK)(_task)

    def prepare(self) -> None:
        self._redis.flushall()

    def create(self, count: int, in_flight: int) -> float:
        delay = self._work.delay
        before = perf_counter()
        for index in range(count):
            delay(index)
        return perf_counter() - before

    def drain(self, count: int, slots: int, processes: int) -> float:
        with WorkerProcesses(celery_drain, self._socket, slots, processes=processes) as workers:
            workers.start()
            return workers.wait_until_done(count, lambda: not self._redis.exists("celery", "unacked"))

    def start(self, count: int, every: float) -> list[float]:
        self.prepare()
        with WorkerProcesses(celery_start, self._socket, starts=count) as workers:
            workers.start()
            sleep(2)
            created_at = []
            for index in range(count):
                sleep(every)
                created_at.append(monotonic())
                self._work.delay(index)
            return [began - before for began, before in zip(workers.start_times(), created_at, strict=True)]

    def close(self) -> None:
        self._server.kill()
        self._server.wait(10)
        shutil.rmtree(self._folder, ignore_errors=True)


def _celery_app(socket: str) -> Any:
    app = import_module("celery").Celery("bench", broker=f"redis+socket://{socket}", set_as_current=False)
    app.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=True,
        worker_prefetch_multiplier=64,
        broker_connection_retry_on_startup=True,
        worker_hijack_root_logger=False,
    )
    return app


def _celery_worker(reporter: Reporter, socket: str, slots: int, handler: Callable[[int], None]) -> None:
    warnings.simplefilter("ignore")  # about running as root
    app = _celery_app(socket)
    app.task(name=TASK)(handler)
    reporter.wait_for_start()
    alone = {"without_gossip": True, "without_mingle": True, "without_heartbeat": True}
    app.Worker(pool="threads", concurrency=slots, loglevel="CRITICAL", quiet=True, **alone).start()


def celery_drain(reporter: Reporter, socket: str, slots: int) -> None:
    """Work until killed, and count the runs."""
    counting = Lock()

    def handler(index: int) -> None:
        with counting:
            reporter.count_run()

    _celery_worker(reporter, socket, slots, handler)


def celery_start(reporter: Reporter, socket: str) -> None:
    """Work until killed, and record when each handler started."""

    def handler(index: int) -> None:
        reporter.record_start(index)

    _celery_worker(reporter, socket, 10, handler)
