"""A new version of the library, with a row more in its table, upgrades a store while both versions work on it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import pytest

from runstate.store import open_store
from tests.store.support import Prompt, names
from tests.support.judge import judge

ROOT = Path(__file__).parents[2]
LIMIT_S = 60.0
ROW = '    _row(COMPLETE,            REQUIRES_ACTION, COMPLETED,       "completed_at", _ALLOWED,    "new"),\n'
BEFORE = "    _row(COMPLETE,            CANCELLING,"
PROGRAM = """
import sys, json, asyncio, time
from runstate.errors import RunstateError
from runstate.lifecycle import RUN_LIFECYCLE
from runstate.store import open_store
from runstate.worker import Worker
role, url = sys.argv[1:]
async def answer(ctx):
    await asyncio.sleep(0.01)
    if ctx.run.assistant_id == "tools" and not ctx.tool_outputs:
        return ctx.require_action([ctx.tool_call("weather", city="Paris")])
def create(store):
    created = []
    try:
        while True:
            for n in range(5):
                created.append(store.create(thread_id="t", assistant_id="tools" if n == 0 else "plain", model="m").id)
                print(json.dumps(created[-1]), flush=True)
            time.sleep(0.02)
    finally:
        store.close()
def answer_tools(store):
    while True:
        for run in store.list(status="requires_action", limit=100).data:
            try:
                if RUN_LIFECYCLE.find("requires_action", "complete"):
                    store.complete(run.id, actor="new")
                    print(json.dumps(run.id), flush=True)
                else:
                    store.submit_tool_outputs(run.id, dict.fromkeys(run.required_action.call_ids, "sunny"), actor="old")
            except RunstateError as error:
                if not error.retryable and "illegal" in str(error):
                    raise
        time.sleep(0.02)
with open_store(url, wait_s=30) as store:
    if role == "worker":
        Worker(store, answer, concurrency=10, lease_s=5).run()
    else:
        {"create": create, "tools": answer_tools}[role](store)
"""


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'runs.db'}"
        return
    server = request.getfixturevalue("postgres_server")
    made = server.create_database()
    yield made
    server.drop_database(made)


def library(path: Path, *, newer: bool) -> Path:
    """Copy this library; a newer one has a row more, and the step that its command has written."""
    shutil.copytree(ROOT / "runstate", path / "runstate", ignore=shutil.ignore_patterns("__pycache__"))
    if newer:
        table = path / "runstate" / "lifecycle" / "_table.py"
        text = table.read_text(encoding="utf-8")
        assert 1 == text.count(BEFORE)
        table.write_text(text.replace(BEFORE, ROW + BEFORE), encoding="utf-8")
        written = run(path, "-m", "runstate.store._sql.migrations", "A run that waits for tools can be completed")
        assert ["postgres/run_0003_guards.sql", "sqlite/run_0003_guards.sql"] == sorted(written.split())
        assert "nothing to do" in run(path, "-m", "runstate.store._sql.migrations", "Once more")
    return path


def environment(path: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(path), "PYTHONSAFEPATH": "1"}


def run(path: Path, *arguments: str) -> str:
    """Run Python over a copy of the library; return what it prints."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment(path),
        cwd=path,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    return done.stdout


class Processes:
    """Processes over copies of the library, which end with the test."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self.started: list[tuple[str, subprocess.Popen[str], Path]] = []
        """The role of each, the process, and the file of its errors."""

    def start(self, path: Path, role: str, url: str) -> Path:
        """Start a process; return the file with its lines."""
        output = self._folder / f"{role}_{len(self.started)}.out"
        stream: IO[str] = self._stack.enter_context(output.open("w"))
        errors: IO[str] = self._stack.enter_context(output.with_suffix(".err").open("w"))
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, role, url],
            env=environment(path),
            cwd=path,
            stdout=stream,
            stderr=errors,
            text=True,
        )
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        self.started.append((role, process, output.with_suffix(".err")))
        return output

    def stop(self, role: str) -> None:
        """Kill the processes of a role, which must live until then."""
        for name, process, errors in self.started:
            if name == role:
                assert process.poll() is None, errors.read_text()
                process.kill()


def until(holds: object, what: str) -> None:
    end = time.monotonic() + LIMIT_S
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < end, what
        time.sleep(0.05)


def lines(*outputs: Path) -> Sequence[str]:
    found = [line for output in outputs for line in output.read_text().splitlines() if line.endswith('"')]
    return [json.loads(line) for line in found]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="processes are killed with signals")
def test_both_versions_work_while_the_step_is_taken(url: str, tmp_path: Path) -> None:
    """Nothing is lost, refused or done twice; the new move is refused before, and made afterwards."""
    old, new = library(tmp_path / "old", newer=False), library(tmp_path / "new", newer=True)
    run(old, "-m", "runstate", "migrate", "--store", url)
    with open_store(url) as store:
        waiting = store.create(**names(assistant_id="stays"))
        store.start(waiting.id)
    with ExitStack() as stack:
        processes = Processes(tmp_path, stack)
        created = [processes.start(old, "create", url)]
        for _ in range(2):
            processes.start(old, "worker", url)
        processes.start(old, "tools", url)
        with Prompt(url) as prompt:

            def count(sql: str) -> int:
                return int(prompt.run(sql)[0][0])

            completed = "SELECT count(*) FROM runstate_run WHERE status = 'completed'"
            by_tools = "SELECT count(*) FROM runstate_history WHERE source = 'requires_action' AND event = '{}'"
            until(lambda: count(by_tools.format("submit_tool_outputs")) > 3, "runs to be answered")
            plan = run(new, "-m", "runstate", "migrate", "--store", url, "--plan")
            assert "-- run_0003_guards: A run that waits for tools can be completed\n" in plan
            assert "runstate_moved" in plan
            assert 0 == count("SELECT count(*) FROM runstate_migration WHERE number = 3")
            assert "took step run 3" in run(new, "-m", "runstate", "migrate", "--store", url)
            before = count(completed)
            created.append(processes.start(new, "create", url))
            created.append(processes.start(old, "create", url))  # an older process that starts after the step
            processes.start(old, "worker", url)
            processes.start(new, "worker", url)
            processes.stop("tools")
            processes.started[:] = [one for one in processes.started if one[0] != "tools"]
            answered = processes.start(new, "tools", url)
            until(lambda: count(completed) > before + 100, "runs to be completed")
            until(lambda: count(by_tools.format("complete")) > 3, "the new move to be made")
            processes.stop("create")
            until(lambda: 0 == count("SELECT count(*) FROM runstate_run WHERE status <> 'completed'") - 1, "the rest")
            processes.stop("worker")
            processes.stop("tools")
            there = {run_id for (run_id,) in prompt.run("SELECT id FROM runstate_run")}
            made = {row[0] for row in prompt.run("SELECT id FROM runstate_run WHERE actor = 'new'")}
    assert set(lines(*created)) <= there
    assert set(lines(answered)) <= made
    found = judge(url)
    assert (0, 0, 1) == (found.gaps, found.doubled, found.live)
    unknown = [sentence for sentence in found.wrong if "complete from requires_action to completed" not in sentence]
    assert [] == unknown  # the judge knows the old table alone: it names every new move, and nothing else
    assert found.illegal == len(made)
    assert "nothing to do" in run(new, "-m", "runstate", "migrate", "--store", url)
    assert "nothing to do: the schema is run 2, event 2, queue 1, step 2" in run(
        old, "-m", "runstate", "migrate", "--store", url
    )
