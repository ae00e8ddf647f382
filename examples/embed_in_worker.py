"""Embed runs in a worker of your own, with a database of your own: here sqlite3, with one row a run.

The run decides what is legal. The database decides who was first: a change is written only if nobody wrote since it was
read (`version`). Whoever was slower reads again and asks again, and then the table of transitions decides.

    python examples/embed_in_worker.py
"""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial

from runstate import IllegalTransition, Run, RunStatus, ToolCall, Usage

Move = Callable[[Run], None]


class Runs:
    """Runs in a table: id, status, version, and the run as JSON."""

    def __init__(self, path: str) -> None:
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("CREATE TABLE runs (id TEXT PRIMARY KEY, status TEXT, version INTEGER, run TEXT)")

    def add(self, run: Run) -> None:
        self.db.execute("INSERT INTO runs VALUES (?, ?, 1, ?)", (run.id, run.status, run.to_json()))

    def get(self, run_id: str) -> tuple[Run, int]:
        text, version = self.db.execute("SELECT run, version FROM runs WHERE id = ?", (run_id,)).fetchone()
        return Run.from_json(text), version

    def change(self, run_id: str, move: Move) -> Run:
        """Make a move: read, let the table decide, write if no other did. A refusal writes nothing."""
        while True:
            run, version = self.get(run_id)
            move(run)
            written = self.db.execute(
                "UPDATE runs SET status = ?, version = version + 1, run = ? WHERE id = ? AND version = ?",
                (run.status, run.to_json(), run_id, version),
            )
            if written.rowcount == 1:
                return run  # otherwise another program wrote meanwhile: read what it left, and ask the table again

    def live(self) -> list[Run]:
        rows = self.db.execute("SELECT run FROM runs ORDER BY id")
        return [run for run in (Run.from_json(text) for (text,) in rows) if not run.is_terminal]

    def close(self) -> None:
        self.db.close()


def cancel(run: Run) -> None:
    """Ask that a run be cancelled. If nobody is at work on it, nobody else would confirm, so that is done at once."""
    idle = run.status in (RunStatus.QUEUED, RunStatus.REQUIRES_ACTION)
    run.request_cancel()
    if idle:
        run.confirm_cancel()


def answer(run: Run, outputs: dict[str, str]) -> Move:
    """Do the work, and return the move that ends the run or asks for tools. This is where your model is called."""
    if run.instructions == "break":
        raise RuntimeError("the model is down")
    if not outputs:
        return partial(Run.require_action, calls=[ToolCall("call_1", "weather", '{"city": "Paris"}')])
    usage = Usage(prompt_tokens=40, completion_tokens=25)
    limit = run.over_budget(usage)
    if limit is not None:
        return partial(Run.mark_incomplete, reason=limit, usage=usage)
    return partial(Run.complete, usage=usage)


def work(runs: Runs, run_id: str, outputs: dict[str, str]) -> Run:
    """Drive one queued run until it ends or waits. Whatever happens, it is not left in progress."""
    run = runs.change(run_id, Run.start)
    try:
        move = answer(run, outputs)
    except Exception as error:
        move = partial(Run.fail, code="server_error", message=str(error))
    try:
        return runs.change(run_id, move)
    except IllegalTransition as refusal:  # somebody asked to cancel it while we worked, or its deadline came
        if refusal.status is RunStatus.CANCELLING:
            return runs.change(run_id, Run.confirm_cancel)
        return runs.get(run_id)[0]


def round_of_work(runs: Runs, outputs: dict[str, dict[str, str]]) -> None:
    """Expire what is due, and work on what is queued."""
    for run in runs.live():
        try:
            if run.is_due():
                runs.change(run.id, Run.expire)
            elif run.status is RunStatus.QUEUED:
                print(f"  {run.id}: {work(runs, run.id, outputs.get(run.id, {})).status}")
        except IllegalTransition as refusal:  # another worker was first
            print(f"  {refusal}")


def drive(runs: Runs) -> None:
    """Drive runs through a tool round, a failure, cancels and a limit."""
    for run_id, limit, instructions in (
        ("run_paris", None, None),
        ("run_short", 10, None),
        ("run_broken", None, "break"),
        ("run_unwanted", None, None),
    ):
        runs.add(
            Run.create(
                id=run_id,
                thread_id="thread_1",
                assistant_id="asst_1",
                model="gpt-4o",
                max_completion_tokens=limit,
                instructions=instructions,
            )
        )
    print("a cancel of a run that nobody is at work on")
    print(f"  run_unwanted: {runs.change('run_unwanted', cancel).status}")

    print("the first round: two ask for the weather, one breaks")
    round_of_work(runs, {})

    print("the user answers both calls, which queues the runs again")
    outputs = {"run_paris": {"call_1": "sunny"}, "run_short": {"call_1": "rainy"}}
    for run_id, given in outputs.items():
        runs.change(run_id, partial(Run.submit_tool_outputs, outputs=given))

    print("the second round: one completes, one is over its limit")
    round_of_work(runs, outputs)

    print("a cancel that comes too late is refused, and changes nothing")
    try:
        runs.change("run_paris", cancel)
    except IllegalTransition as refusal:
        print(f"  {refusal}")
    print(f"  {runs.get('run_paris')[0]!r}")


if __name__ == "__main__":
    with closing(Runs(":memory:")) as opened:
        drive(opened)
