"""Runs inside Celery: a message brings a run's id to a process, and the store decides whether that gets the run.

Celery delivers late, twice or never. Late or twice does no harm: `drive` claims the run in the store, and whoever comes
second finds nothing to do. What never arrived, or died with its process, the dispatcher sends again.

    python examples/with_celery.py

shows it with one worker process, in a temporary folder and without a broker. By hand, in this folder:

    export RUNSTATE_STORE=postgresql://user@host/database CELERY_BROKER_URL=redis://localhost
    celery -A with_celery worker
"""

import os
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

from celery import Celery

from runstate.store import Store, StoredRun, open_store
from runstate.worker import Context, Dispatcher, Outcome, drive

LEASE_S = 30.0  # so long after the death of a process its run waits for another


def settings() -> dict[str, object]:
    """Return Celery's settings: a broker by its URL, else messages that are files in a folder."""
    url = os.environ.get("CELERY_BROKER_URL", "filesystem://")
    if url != "filesystem://":
        return {"broker_url": url}
    folder = Path(os.environ.get("CELERY_FOLDER", "messages"))
    folder.mkdir(exist_ok=True)
    places = ("data_folder_in", "data_folder_out", "control_folder")
    return {"broker_url": url, "broker_transport_options": dict.fromkeys(places, str(folder))}


app = Celery("with_celery", set_as_current=False)
app.add_defaults(settings)  # asked for when they are needed


@cache
def store() -> Store:
    """Return the store of this process: opened after the fork, for it does not survive one."""
    return open_store(os.environ.get("RUNSTATE_STORE", "sqlite:///runs.db"))


def answer(ctx: Context) -> Outcome:
    """Work on one run. This is where your model is called."""
    if not ctx.tool_outputs:
        return ctx.require_action([ctx.tool_call("weather", city="Paris")])
    ctx.add_usage(prompt_tokens=40, completion_tokens=25)
    return ctx.complete()


@app.task  # type: ignore[untyped-decorator]  # Celery has no types
def drive_run(run_id: str) -> None:
    """Drive the run that a message brought, if it is still to be driven."""
    drive(store(), run_id, answer, lease_s=LEASE_S)


def ask(question: str) -> StoredRun:
    """Create a run, then send its id: the run is committed before any message can arrive."""
    run = store().create(thread_id="thread_1", assistant_id="asst_1", model="gpt-4o", instructions=question)
    drive_run.delay(run.id)
    return run


def submit(run_id: str, outputs: dict[str, str]) -> None:
    """Answer the calls that a run waits for, which queues it again: so it is sent again."""
    store().submit_tool_outputs(run_id, outputs)
    drive_run.delay(run_id)


def dispatch() -> None:
    """Send again what never arrived, and what its process died on. One process does this, for ever; more do no harm."""
    dispatcher = Dispatcher(store(), drive_run.delay, after_s=30)
    while True:
        dispatcher.look()
        time.sleep(5)


def start_worker() -> subprocess.Popen[bytes]:
    """Start a worker of Celery as a process."""
    options = ["--pool=solo", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    command = [sys.executable, "-m", "celery", "--app=with_celery", "worker", *options]
    return subprocess.Popen(command, cwd=Path(__file__).parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main() -> None:
    """Deliver one run three times, and another not at all."""
    first = ask("How is the weather?")
    drive_run.delay(first.id)
    drive_run.delay(first.id)
    lost = store().create(thread_id="thread_2", assistant_id="asst_1", model="gpt-4o")
    print(f"three messages for {first.id}, none for {lost.id}")

    dispatcher = Dispatcher(store(), drive_run.delay, after_s=3)
    worker = start_worker()
    try:
        for _ in range(300):  # half a minute at most
            live = [run for run in store().list().data if not run.is_terminal]
            if not live:
                break
            for run_id in dispatcher.look():
                print(f"  sent again: {run_id}")
            for run in live:
                if run.required_action is not None:
                    submit(run.id, dict.fromkeys(run.required_action.call_ids, "sunny"))
            if worker.poll() is not None:  # whoever reads a file while it is written dies; the dispatcher makes it good
                worker = start_worker()
            time.sleep(0.1)
    finally:
        worker.kill()  # as a crash would: no run depends on it
        worker.wait()
    for run in (first, lost):
        print(f"{run.id}: {', '.join(str(entry.target) for entry in store().history(run.id))}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        os.environ |= {"RUNSTATE_STORE": f"sqlite:///{place}/runs.db", "CELERY_FOLDER": f"{place}/messages"}
        main()
        store().close()
