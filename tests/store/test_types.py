"""What a type checker tells those who use a store: the twin has the same arguments, and answers to be awaited."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest

from tests.architecture.test_types import REPO, run_checker

# A line with `# wrong` must be reported, and no other.
SNIPPETS = """\
from datetime import UTC, datetime

from runstate import Run, RunStatus, ToolCall, Usage
from runstate.store import Claim, Entry, HeartbeatResult, Lease, NewRun, Page, Store, StoredRun, SweepResult, open_store

store: Store = open_store("sqlite:///runs.db", migrate=True, wait_s=1.0)
given: NewRun = {"thread_id": "t", "assistant_id": "a", "model": "m"}
run: StoredRun = store.create(thread_id="t", assistant_id="a", model="m", queue="fast", not_before=datetime.now(UTC))
runs: list[StoredRun] = store.create_many([given, {**given, "one_live_run_per_thread": "queue"}])
run = store.start(run.id, actor="web", expected_version=run.version)
run = store.require_action(run.id, [ToolCall("call_1", "weather")])
run = store.submit_tool_outputs(run.id, {"call_1": "sunny"})
run = store.request_cancel(run.id)
run = store.fail(run.id, "server_error", "it broke", Usage(1, 2), detail={"a": [1]})
page: Page = store.list(status=RunStatus.QUEUED, order="asc")
entries: tuple[Entry, ...] = store.history(run.id)
counts: dict[RunStatus, int] = store.counts()
lease: Lease = store.open_lease("w1")
claims: list[Claim] = store.claim(lease, 5, queues=["fast"])
beat: HeartbeatResult = store.heartbeat(lease)
swept: SweepResult = store.sweep(max_attempts=3)
pruned: int = store.prune(3600, dry_run=True)
started: int | None = run.started_at


async def later() -> None:
    one: StoredRun = await store.aio.create(thread_id="t", assistant_id="a", model="m")
    one = await store.aio.start(one.id, actor="web", expected_version=1)
    many: list[StoredRun] = await store.aio.create_many([given])
    some: list[Claim] = await store.aio.claim(lease, 5)
    told: tuple[Entry, ...] = await store.aio.entries(limit=5)
    status: RunStatus = (await store.aio.get(one.id)).status
    await store.aio.strat(one.id)  # wrong
    await store.aio.start(one.id, actro="web")  # wrong
    await store.aio.start(5)  # wrong
    await store.aio.fail(one.id, "oops", "x")  # wrong
    await store.aio.create(thread_id="t", assistant_id="a")  # wrong
    await store.aio.create(thread_id="t", assistant_id="a", model="m", queue=5)  # wrong
    await store.aio.list(order="up")  # wrong
    await store.aio.claim(5)  # wrong
    _ = store.aio.get(one.id).status  # wrong
    number: int = await store.aio.get(one.id)  # wrong
    _ = [many, some, told, status, number]


def inside(connection: object) -> None:
    with store.within(connection) as bound:
        mine: StoredRun = bound.create(thread_id="t", assistant_id="a", model="m")
        bound.start(mine.id)
        bound.close()  # wrong
        bound.start(mine)  # wrong


store.strat(run.id)  # wrong
store.start(run)  # wrong
store.start(run.id, expected_version="1")  # wrong
store.create(thread_id="t", assistant_id="a")  # wrong
store.create(thread_id="t", assistant_id="a", model="m", not_before="soon")  # wrong
store.create(thread_id="t", assistant_id="a", model="m", one_live_run_per_thread="always")  # wrong
store.create_many([{"thread_id": "t"}])  # wrong
store.fail(run.id, "oops", "x")  # wrong
store.mark_incomplete(run.id, "because")  # wrong
store.list(order="up")  # wrong
store.claim("w1")  # wrong
run.start()  # wrong
run.status = RunStatus.FAILED  # wrong
_ = run.statsu  # wrong
memory: Run = run  # wrong
"""

WRONG = {number for number, line in enumerate(SNIPPETS.splitlines(), start=1) if line.endswith("# wrong")}


@pytest.fixture
def snippets(tmp_path: Path) -> Path:
    path = tmp_path / "snippets.py"
    path.write_text(SNIPPETS, encoding="utf-8")
    return path


@pytest.mark.foreign
@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_mypy(snippets: Path, tmp_path: Path) -> None:
    """Mypy reports each wrong line and none of the right ones."""
    output = run_checker(
        *("mypy", "--strict", "--config-file", os.devnull, "--cache-dir", str(tmp_path / "cache")),
        *("--output", "json", "snippets.py"),
        cwd=tmp_path,
    )
    found = [json.loads(line) for line in output.splitlines()]
    assert WRONG == {each["line"] for each in found if each["severity"] == "error"}, output


@pytest.mark.foreign
@pytest.mark.skipif(importlib.util.find_spec("basedpyright") is None, reason="basedpyright is not installed")
def test_basedpyright(snippets: Path, tmp_path: Path) -> None:
    """basedpyright, which speaks in editors, reports each wrong line and none of the right ones."""
    settings = f'{{"typeCheckingMode": "standard", "extraPaths": ["{REPO.as_posix()}"], "pythonVersion": "3.11"}}'
    (tmp_path / "pyrightconfig.json").write_text(settings, encoding="utf-8")
    output = run_checker("basedpyright", "--outputjson", "snippets.py", cwd=tmp_path)
    found = json.loads(output)["generalDiagnostics"]
    assert WRONG == {each["range"]["start"]["line"] + 1 for each in found if each["severity"] == "error"}, output
