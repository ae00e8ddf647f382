"""Embed runs in a worker of your own, with a database of your own: here sqlite3, with one row a run.

The run decides what is legal. The database decides who was first: a change is written only if nobody wrote since it was
read (`version`), so a worker and a canceller can both try, and the slower one sees what the faster one left.

    python examples/embed_in_worker.py
"""

import json
import sqlite3
from collections.abc import Callable

from runstate import IllegalTransition, RequiredAction, Run, RunStatus, ToolCall, Usage


class LostRace(Exception):
    """Somebody else changed the run since it was read."""


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

    def change(self, run_id: str, move: Callable[[Run], None]) -> Run:
        """Make one move: read, let the law decide, write if nobody else did. A refusal writes nothing."""
        run, version = self.get(run_id)
        move(run)
        written = self.db.execute(
            "UPDATE runs SET status = ?, version = version + 1, run = ? WHERE id = ? AND version = ?",
            (run.status, run.to_json(), run_id, version),
        )
        if written.rowcount != 1:
            raise LostRace(run_id)
        return run

    def queued(self) -> list[str]:
        rows = self.db.execute("SELECT id FROM runs WHERE status = ? ORDER BY id", (RunStatus.QUEUED,))
        return [run_id for (run_id,) in rows]


def answer(run: Run, weather: dict[str, str]) -> Callable[[Run], None]:
    """Do the work of one run, and return the move that ends it or asks for tools."""
    if not weather:
        call = ToolCall("call_weather", "weather", json.dumps({"city": "Paris"}))
        return lambda run: run.require_action(RequiredAction([call]))
    usage = Usage(prompt_tokens=40, completion_tokens=25)
    if (limit := run.over_budget(usage)) is not None:
        return lambda run: run.mark_incomplete(limit, usage)
    return lambda run: run.complete(usage)


def work(runs: Runs, outputs: dict[str, dict[str, str]]) -> None:
    """Drive every queued run until it ends or waits."""
    for run_id in runs.queued():
        run = runs.change(run_id, Run.start)
        move = answer(run, outputs.get(run_id, {}))
        try:
            run = runs.change(run_id, move)
        except IllegalTransition as refused:  # somebody cancelled it meanwhile
            print(f"  {refused}")
            run = runs.change(run_id, Run.confirm_cancel)
        print(f"  worked on {run.id}: {run.status}")


def main() -> None:
    """Drive two runs through a tool round, and see a cancel come too late."""
    runs, outputs = Runs(":memory:"), dict[str, dict[str, str]]()
    for run_id, limit in (("run_paris", None), ("run_short", 10)):
        runs.add(
            Run.create(
                id=run_id, thread_id="thread_1", assistant_id="asst_1", model="gpt-4o", max_completion_tokens=limit
            )
        )

    print("the worker's first round: both ask for the weather")
    work(runs, outputs)

    print("the user answers both calls, which queues the runs again")
    for name in ("run_paris", "run_short"):
        outputs[name] = {"call_weather": "sunny"}
        runs.change(name, lambda run: run.submit_tool_outputs({"call_weather": "sunny"}))

    print("the worker's second round: one completes, one is over its limit")
    work(runs, outputs)

    print("a cancel that comes too late is refused, and changes nothing")
    try:
        runs.change("run_paris", Run.request_cancel)
    except IllegalTransition as refused:
        print(f"  {refused}")
    run, version = runs.get("run_paris")
    print(f"  {run!r}, version {version}")


if __name__ == "__main__":
    main()
