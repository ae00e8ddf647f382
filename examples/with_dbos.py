"""Runs inside DBOS, on SQLite: a workflow drives a run, and a run that waits for a retry is driven again.

DBOS executes a workflow that was interrupted once more, and may execute it in another process. That does no harm:
`drive` claims the run in the store, and a second execution finds nothing to do, or takes the run over.

    pip install dbos
    python examples/with_dbos.py

shows it in a temporary folder. DBOS keeps workflows in a database of its own, so a run and its workflow are not
committed together. The workflow has the id of the run: to enqueue it twice is to enqueue it once. After a tool round,
start a workflow with another id, such as f"{run.id}-{run.version}": DBOS executes each id once.
"""

import logging
import os
import sys
import tempfile
from functools import cache
from pathlib import Path

from dbos import DBOS, SetWorkflowID

from runstate.store import Store, open_store
from runstate.worker import Context, Outcome, RetryPolicy, drive

RETRY = RetryPolicy(max_attempts=3, backoff=0.2, jitter=0.0)


@cache
def store() -> Store:
    """Return the store of this process."""
    return open_store(os.environ.get("RUNSTATE_STORE", "sqlite:///runs.db"))


def answer(ctx: Context) -> Outcome:
    """Work on one run. Its first call of the model fails."""
    if ctx.run.failed == 0:
        raise TimeoutError("the model does not answer")
    ctx.add_usage(prompt_tokens=40, completion_tokens=25)
    return ctx.complete()


@DBOS.workflow()
def drive_run(run_id: str) -> str:
    """Drive a run until it rests. While it waits for a retry, the workflow sleeps, durably."""
    while True:
        drive(store(), run_id, answer, retry=RETRY)
        run = store().get(run_id)
        if run.is_terminal or run.required_action is not None:
            return str(run.status)
        DBOS.sleep(0.1)


def main(folder: Path) -> None:
    """Create a run, start its workflow twice, and show what came of it."""
    os.environ["RUNSTATE_STORE"] = f"sqlite:///{folder / 'runs.db'}"
    database = f"sqlite:///{folder / 'dbos.db'}"
    DBOS(config={"name": "runs", "system_database_url": database, "log_level": "ERROR"})
    DBOS.launch()
    run = store().create(thread_id="thread_1", assistant_id="asst_1", model="gpt-4o")
    for _ in range(2):  # the second one is the same workflow
        with SetWorkflowID(run.id):
            workflow = DBOS.start_workflow(drive_run, run.id)
        print(f"the workflow says: {workflow.get_result()}")
    done = store().get(run.id)
    print(f"{done.status} in attempt {done.attempt}; {done.failed} had failed")
    DBOS.destroy()
    store().close()


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stdout, level=logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
