"""Runs inside Procrastinate, on one PostgreSQL: the run and its job come to be in one transaction.

So no run is without a job, and no job is for a run that is not there. A job may still die with its process, and
Procrastinate leaves it so; the dispatcher then defers another, and whichever comes first takes the run over.

    export RUNSTATE_STORE=postgresql://user@host/database
    python examples/with_procrastinate.py

makes the tables if they are not there, and shows it all. A worker for good, in this folder:

    procrastinate --app=with_procrastinate.app worker
"""

import os
import sys
import time
from functools import cache

import procrastinate
import psycopg

from runstate import RunStatus
from runstate.store import Store, StoredRun, open_store
from runstate.worker import Context, Dispatcher, Outcome, drive_async

if __name__ == "__main__":  # Procrastinate finds a task by its module, whose name must be the same for the worker
    import with_procrastinate

    with_procrastinate.main()
    sys.exit()

URL = os.environ.get("RUNSTATE_STORE", "")
LEASE_S = 30.0  # so long after the death of a process its run waits for another

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=URL))


@cache
def store() -> Store:
    """Return the store of this process."""
    return open_store(URL)


async def answer(ctx: Context) -> Outcome:
    """Work on one run. This is where your model is called."""
    ctx.add_usage(prompt_tokens=40, completion_tokens=25)
    return ctx.complete()


@app.task
async def drive_run(run_id: str) -> None:
    """Drive the run that a job brought, if it is still to be driven."""
    await drive_async(store(), run_id, answer, lease_s=LEASE_S)


def ask(db: psycopg.Connection, question: str) -> StoredRun:
    """Create a run and defer its job: both in the transaction of `db`, or neither."""
    with db.transaction(), store().within(db) as runs:
        run = runs.create(thread_id="thread_1", assistant_id="asst_1", model="gpt-4o", instructions=question)
        drive_run.configure(connection=db).defer(run_id=run.id)
        return run


def submit(db: psycopg.Connection, run_id: str, outputs: dict[str, str]) -> None:
    """Answer the calls that a run waits for, which queues it again: so there is another job."""
    with db.transaction(), store().within(db) as runs:
        runs.submit_tool_outputs(run_id, outputs)
        drive_run.configure(connection=db).defer(run_id=run_id)


def dispatch() -> None:
    """Defer again what died with its process. One process does this, for ever; more do no harm."""
    dispatcher = Dispatcher(store(), lambda run_id: drive_run.defer(run_id=run_id), after_s=30)
    with app.open():
        while True:
            dispatcher.look()
            time.sleep(5)


def main() -> None:
    """Roll one transaction back, commit another, and let a worker do what there is to do."""
    if not URL:
        sys.exit("RUNSTATE_STORE is not set: it names a PostgreSQL database, postgresql://user@host/database")
    open_store(URL, migrate=True).close()
    with app.open():
        if not app.check_connection():  # whether its tables are there
            app.schema_manager.apply_schema()
    with psycopg.connect(URL) as db:
        try:
            with db.transaction():
                unwanted = ask(db, "How is the weather?")
                raise ConnectionAbortedError("the user went away")
        except ConnectionAbortedError as error:
            print(f"{error}: {store().counts()[RunStatus.QUEUED]} runs are queued, {unwanted.id} is not there")
        run = ask(db, "And tomorrow?")
    app.run_worker(wait=False)  # as the command does, but only until there is nothing to do
    print(f"{run.id}: {', '.join(str(entry.target) for entry in store().history(run.id))}")
    store().close()
