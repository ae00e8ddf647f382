"""What a type checker tells an editor: a typo is caught before it runs, and what is right passes."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]

# A line with `# wrong` must be reported, and no other.
SNIPPETS = """\
from runstate import LastError, Run, RunEvent, RunStatus, ToolCall, Usage, allowed_events, target_of

run = Run.create(thread_id="thread_1", assistant_id="asst_1", model="gpt-4o")
run.start()
run.start(at=5)
run.require_action([ToolCall("call_1", "weather")])
run.submit_tool_outputs({"call_1": "sunny"})
run.request_cancel()
run.confirm_cancel(Usage(1, 2), at=5)
run.complete(usage=Usage(1, 2))
run.mark_incomplete("max_prompt_tokens")
run.fail("server_error", "it broke")
run.expire()
status: RunStatus = run.status
ended: bool = run.is_terminal
stamp: int | None = run.started_at
error: LastError | None = run.last_error
events: tuple[RunEvent, ...] = allowed_events(run.status)
limit = run.over_budget()
if limit is not None:
    run.mark_incomplete(limit, run.usage)
again: Run = Run.from_json(run.to_json("camel"))


class MyRun(Run):
    pass


mine: MyRun = MyRun.from_dict(run.to_dict())

run.strat()  # wrong
run.start(5)  # wrong
run.mark_incomplete("because")  # wrong
run.mark_incomplete()  # wrong
run.fail("oops", "x")  # wrong
run.fail("server_error")  # wrong
run.complete(5)  # wrong
run.complete({"prompt_tokens": 5})
run.complete({5: 5})  # wrong
run.require_action({"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": []}})
run.require_action([{"id": "call_1", "function": {"name": "weather", "arguments": "{}"}}])
run.require_action(ToolCall("call_1", "weather", {"city": "Paris"}))
run.require_action(5)  # wrong
arguments: str = ToolCall("call_1", "weather", {"city": "Paris"}).arguments
run.submit_tool_outputs(["call_1"])  # wrong
run.submit_tool_outputs({"call_1": 5})  # wrong
run.require_action(["call_1"])  # wrong
run.status = RunStatus.FAILED  # wrong
run.started_at = 5  # wrong
_ = run.statsu  # wrong
_ = mine.started_at + 1  # wrong
Run.create(thread_id="t", assistant_id="a")  # wrong
Run.create(thread_id="t", assistant_id="a", model="m", tool_choice="some")  # wrong
Run.create("t", "a", "m")  # wrong
run.to_dict("kebab")  # wrong
run.metadata["a"] = "b"  # wrong
Usage(1, 2).total_tokens = 5  # wrong
target_of("start")  # wrong
_ = RunStatus.PAUSED  # wrong
"""

WRONG = {number for number, line in enumerate(SNIPPETS.splitlines(), start=1) if line.endswith("# wrong")}


@pytest.fixture
def snippets(tmp_path: Path) -> Path:
    path = tmp_path / "snippets.py"
    path.write_text(SNIPPETS, encoding="utf-8")
    return path


def run_checker(*arguments: str, cwd: Path) -> str:
    done = check(*arguments, cwd=cwd)
    assert done.stdout, done.stderr
    return done.stdout


def check(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        timeout=120,
        env={**os.environ, "MYPYPATH": str(REPO), "PYTHONPATH": str(REPO)},
    )


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
@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_what_the_readme_shows_is_typed(tmp_path: Path) -> None:
    """Whoever copies a block of the README into a project that checks strictly is told of nothing."""
    readme = (REPO / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert len(blocks) > 3
    named = [f"block_{place}.py" for place in range(len(blocks))]
    for name, block in zip(named, blocks, strict=True):
        is_test = "def test_" in block  # as people write tests: without annotations
        (tmp_path / name).write_text(block if not is_test else f"# mypy: allow-untyped-defs\n{block}", encoding="utf-8")
    done = check(
        *("mypy", "--strict", "--config-file", os.devnull, "--cache-dir", str(tmp_path / "cache"), *named), cwd=tmp_path
    )
    assert 0 == done.returncode, done.stdout + done.stderr


@pytest.mark.foreign
@pytest.mark.skipif(importlib.util.find_spec("basedpyright") is None, reason="basedpyright is not installed")
def test_basedpyright(snippets: Path, tmp_path: Path) -> None:
    """basedpyright, which speaks in editors, reports each wrong line and none of the right ones."""
    settings = f'{{"typeCheckingMode": "standard", "extraPaths": ["{REPO.as_posix()}"], "pythonVersion": "3.11"}}'
    (tmp_path / "pyrightconfig.json").write_text(settings, encoding="utf-8")
    output = run_checker("basedpyright", "--outputjson", "snippets.py", cwd=tmp_path)
    found = json.loads(output)["generalDiagnostics"]
    assert WRONG == {each["range"]["start"]["line"] + 1 for each in found if each["severity"] == "error"}, output
