"""The peers of the benchmark of durable steps, each used as its documentation describes steps.

None of them has a call that keeps several steps at once, and a batch would not be what is measured: a step is kept
before the next one begins. All keep the defaults of their workers and connections.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from importlib import import_module
from threading import Event
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from benchmarks.durable.peers import missing_package, title
from benchmarks.durable.processes import Reporter, WorkerProcesses
from benchmarks.durable.step_contestants import (
    STEP,
    HandlerKind,
    StepContestant,
    keep_steps,
    keep_steps_async,
    same_text,
)

QUEUE: Final = "bench"
TASK: Final = "turns"


class _Peer(StepContestant):
    """A peer on PostgreSQL, whose tables are counted by SQL."""

    completed_sql: str
    kept_sql: str

    def completed(self) -> int:
        return self._count(self.completed_sql)

    def kept(self, size: int) -> int:
        return self._count(self.kept_sql, size)

    def _count(self, query: str, *params: object) -> int:
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            row = connection.execute(query.encode(), params).fetchone()
        return int(row[0]) if row else 0


# -- absurd -----------------------------------------------------------------------------------------------------------


class _Absurd(_Peer):
    """absurd, with the schema that `absurdctl init` applies, and a queue with its default storage.

    A step is two statements: it looks for a checkpoint of its name, then writes its own and extends the claim.
    """

    missing = missing_package("absurd-sdk", "absurdctl")
    completed_sql = f"SELECT count(*) FROM absurd.t_{QUEUE} WHERE state = 'completed'"
    kept_sql = f"SELECT count(*) FROM absurd.c_{QUEUE} WHERE status = 'committed' AND octet_length(state::text) >= %s"
    _app: Any = None

    def prepare(self) -> None:
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(import_module("absurdctl").BUNDLED_SCHEMA_SQL.encode())
        self._app = import_module("absurd_sdk").Absurd(self.url, queue_name=QUEUE)
        self._app.create_queue(QUEUE)

    def worker(self) -> WorkerProcesses:
        return WorkerProcesses(absurd_worker if self.kind == "plain" else absurd_worker_async, self.url)

    def create(self, steps: int, size: int) -> None:
        self._app.spawn(TASK, {"steps": steps, "size": size}, queue=QUEUE)

    def close(self) -> None:
        if self._app is not None:
            self._app.close()


class AbsurdPlain(_Absurd):
    """The client `Absurd`, in the main thread of its worker."""

    name = f"{title('absurd-sdk')}, plain handler"
    about = "Absurd.start_worker, ctx.step; a look for the checkpoint and a write, each a statement, jsonb"
    kind = "plain"


class AbsurdAsync(_Absurd):
    """The client `AsyncAbsurd`."""

    name = f"{title('absurd-sdk')}, async handler"
    about = "the same with AsyncAbsurd"
    kind = "async"


def absurd_worker(reporter: Reporter, url: str) -> None:
    """Work until killed."""
    app = import_module("absurd_sdk").Absurd(url, queue_name=QUEUE)

    @app.register_task(TASK)  # type: ignore[untyped-decorator]
    def handler(params: Any, ctx: Any) -> None:
        keep_steps(reporter, params["steps"], params["size"], lambda _, text: ctx.step(STEP, lambda: text))

    reporter.wait_for_start()
    app.start_worker()


def absurd_worker_async(reporter: Reporter, url: str) -> None:
    """Work until killed."""

    async def work() -> None:
        app = import_module("absurd_sdk").AsyncAbsurd(url, queue_name=QUEUE)

        @app.register_task(TASK)  # type: ignore[untyped-decorator]
        async def handler(params: Any, ctx: Any) -> None:
            def keep(_: int, text: str) -> Awaitable[object]:
                async def turn() -> str:
                    return text

                step: Awaitable[object] = ctx.step(STEP, turn)
                return step

            await keep_steps_async(reporter, params["steps"], params["size"], keep)

        reporter.wait_for_start()
        await app.start_worker()

    asyncio.run(work())


# -- pgtask -----------------------------------------------------------------------------------------------------------


class PgTask(_Peer):
    """pgtask, whose client and worker are native code. Its handlers are always async."""

    name = f"{title('pgtask')}, async handler"
    about = "Worker with its defaults, task.step with an occurrence; native client, jsonb"
    missing = missing_package("pgtask")
    kind = "async"
    completed_sql = "SELECT count(*) FROM pgtask.tasks WHERE state = 'succeeded'"
    kept_sql = "SELECT count(*) FROM pgtask.checkpoints WHERE octet_length(value::text) >= %s"

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if not parts.hostname:  # its client expects a host, also where the parameter `host` names a socket's folder
            url = urlunsplit(parts._replace(netloc=f"{parts.netloc}localhost"))
        super().__init__(url)
        self._runner = asyncio.Runner()
        self._client: Any = None

    def prepare(self) -> None:
        self._runner.run(self._migrate())

    async def _migrate(self) -> None:
        self._client = await import_module("pgtask").Client.connect(self.url)
        await self._client.migrate()

    def worker(self) -> WorkerProcesses:
        return WorkerProcesses(pgtask_worker, self.url)

    def create(self, steps: int, size: int) -> None:
        self._runner.run(self._enqueue({"steps": steps, "size": size}))

    async def _enqueue(self, payload: dict[str, int]) -> None:
        await self._client.enqueue(import_module("pgtask").EnqueueRequest(TASK, payload, queue_name=QUEUE))

    def close(self) -> None:
        self._client = None
        self._runner.close()


def pgtask_worker(reporter: Reporter, url: str) -> None:
    """Work until killed."""
    pgtask = import_module("pgtask")
    tasks = pgtask.TaskRegistry(queue_name=QUEUE)

    @tasks.task(TASK)  # type: ignore[untyped-decorator]
    async def handler(task: Any, payload: Any) -> None:
        def keep(number: int, text: str) -> Awaitable[object]:
            async def turn() -> str:
                return text

            step: Awaitable[object] = task.step(STEP, turn, number)
            return step

        await keep_steps_async(reporter, payload["steps"], payload["size"], keep)

    async def work() -> None:
        reporter.wait_for_start()
        await pgtask.Worker(url, tasks).run()

    asyncio.run(work())


# -- DBOS -------------------------------------------------------------------------------------------------------------


class _Dbos(_Peer):
    """DBOS, a queue worker that a client enqueues to, with its default serializer and its default pool.

    A step is two transactions: one reads the status of the workflow and looks for the output of the step's number, the
    other one writes the output. A result is pickled, and kept as base64 text.
    """

    missing = missing_package("dbos")
    completed_sql = "SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS'"
    kept_sql = "SELECT count(*) FROM dbos.operation_outputs WHERE error IS NULL AND octet_length(output) >= %s"
    _client: Any = None

    def prepare(self) -> None:
        """Do nothing: the worker creates the tables when it is launched."""

    def worker(self) -> WorkerProcesses:
        return WorkerProcesses(dbos_worker, self.url, self.kind)

    def create(self, steps: int, size: int) -> None:
        if self._client is None:
            logging.getLogger("dbos").setLevel(logging.ERROR)
            self._client = import_module("dbos").DBOSClient(system_database_url=self.url)
        self._client.enqueue({"queue_name": QUEUE, "workflow_name": TASK}, steps, size)

    def close(self) -> None:
        if self._client is not None:
            self._client.destroy()


class DbosPlain(_Dbos):
    """A plain workflow with plain steps."""

    name = f"{title('dbos')}, plain handler"
    about = "a queue worker, @DBOS.step; a look for the output and a write, each a transaction; pickled, base64 text"
    kind = "plain"


class DbosAsync(_Dbos):
    """An async workflow with async steps."""

    name = f"{title('dbos')}, async handler"
    about = "the same, async workflow and steps; the statements in threads"
    kind = "async"


def dbos_worker(reporter: Reporter, url: str, kind: HandlerKind) -> None:
    """Work until killed."""
    dbos = import_module("dbos").DBOS
    dbos(config={"name": "bench", "system_database_url": url, "log_level": "ERROR"})

    if kind == "plain":
        turn = dbos.step(name=STEP)(same_text)

        @dbos.workflow(name=TASK)  # type: ignore[untyped-decorator]
        def handler(steps: int, size: int) -> None:
            keep_steps(reporter, steps, size, lambda _, text: turn(text))

    else:

        @dbos.step(name=STEP)  # type: ignore[untyped-decorator]
        async def turn_async(text: str) -> str:
            return text

        @dbos.workflow(name=TASK)  # type: ignore[untyped-decorator]
        async def handler_async(steps: int, size: int) -> None:
            await keep_steps_async(reporter, steps, size, lambda _, text: turn_async(text))

    dbos.launch()
    dbos.register_queue(QUEUE)
    reporter.wait_for_start()
    Event().wait()
