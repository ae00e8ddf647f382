"""Every example runs as its reader would run it."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runstate import Run

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
# Those that need an engine have tests of their own.
PROGRAMS = [path for path in EXAMPLES if not path.name.startswith(("test_", "with_"))]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_a_program_runs_and_says_something(path: Path) -> None:
    """It ends well, prints, and has nothing to complain about."""
    done = run(str(path))
    assert (0, "") == (done.returncode, done.stderr)
    assert done.stdout.strip()


def test_the_worker_drives_its_runs_to_the_end() -> None:
    """Whatever happens to a run it ends: well, at its limit, broken, or cancelled while nobody was at work on it."""
    lines = run("examples/embed_in_worker.py").stdout.splitlines()
    ends = {"run_paris": "completed", "run_short": "incomplete", "run_broken": "failed", "run_unwanted": "cancelled"}
    assert all(f"  {name}: {status}" in lines for name, status in ends.items())
    assert "  run run_paris is completed and cannot request_cancel; completed is terminal, nothing leaves it" in lines


def test_durable_runs_are_followed_to_their_ends() -> None:
    """One goes through a tool round to its completion, the other is cancelled at work; both are kept."""
    told = run("examples/durable_worker.py").stdout
    completed, cancelled = told.split("a run that is cancelled at work")
    way = ["queued", "in_progress", "requires_action", "queued", "in_progress", "completed"]
    assert way == re.findall(r"^  \d+\. \w+: (\w+), asked by (?:web|worker_1)$", completed, re.MULTILINE)
    assert "completed, Usage(prompt_tokens=40, completion_tokens=25, total_tokens=65)" in completed
    way = ["queued", "in_progress", "cancelling", "cancelled"]
    assert way == re.findall(r"^  \d+\. \w+: (\w+), asked by (?:web|worker_1)$", cancelled, re.MULTILINE)
    assert "what is kept: {'completed': 1, 'cancelled': 1}" in cancelled


def test_a_rate_limit_and_a_failure_are_retried_and_no_step_is_paid_for_twice() -> None:
    """The first step is executed once. Only the failure is counted as one."""
    lines = run("examples/retry_model_call.py").stdout.splitlines()
    assert ["  1. retry: try again in 0.2 s", "  2. retry: ConnectionError: the model hung up"] == lines[-4:-2]
    assert 1 == lines[-2].count("make a plan")
    assert "completed in attempt 3, of which 1 had failed" == lines[-1]


def test_a_trace_shows_the_calls_of_two_workers_in_their_order() -> None:
    """One trace: the creation, the call before the tool round, the call that failed, and the retry."""
    lines = run("examples/trace_of_a_run.py").stdout.splitlines()
    assert "1 trace, 4 spans:" == lines[-5]
    drawn = [re.fullmatch(r"(\d) (.*?) +(\S+) +\| *=+ *\|(.*)", line) for line in lines[-4:]]
    assert [
        ("1", "POST /runs", "api", ""),
        ("2", "invoke_agent asst_1", "worker-1", "requires_action in 1"),
        ("3", "invoke_agent asst_1", "worker-2", "error ConnectionError in 1 after 2"),
        ("4", "invoke_agent asst_1", "worker-2", "success in 1 after 3"),
    ] == [(*one.groups()[:3], " ".join(one[4].split())) for one in drawn if one]
    lefts = [line.index("=") for line in lines[-4:]]
    assert sorted(set(lefts)) == lefts, "each begins after the one before"


@pytest.mark.slow
def test_an_agent_survives_its_worker() -> None:
    """Only the call in which the first worker was killed is repeated."""
    pytest.importorskip("pydantic_ai", reason="pydantic-ai is not installed")
    lines = run("examples/agent_with_pydantic_ai.py").stdout.splitlines()
    assert "the first worker was killed after 5 calls; 4 results are kept:" == lines[0]
    calls = dict(re.findall(r"^  (\D[^:]+?(?: \d)?)(?: '.*')?: (\d+)$", "\n".join(lines), re.MULTILINE))
    once = ("model request 1", "search Paris", "search Rome", "model request 2", "model request 3", "send")
    assert {**dict.fromkeys(once, "1"), "compare": "2"} == calls
    assert "completed in attempt 2, 360 tokens" == lines[-1]


def test_an_example_names_the_extra_that_it_needs() -> None:
    """Without Pydantic AI it says what to install, and is no error."""
    hidden = (
        "import runpy, sys; sys.modules['pydantic_ai'] = None; runpy.run_path('examples/agent_with_pydantic_ai.py')"
    )
    done = run("-c", hidden)
    assert (0, "") == (done.returncode, done.stderr)
    assert "This example needs pydantic-ai: pip install 'pydantic-ai-slim>=2.60'\n" == done.stdout


def test_a_transaction_takes_the_run_along() -> None:
    """What was committed is there; what was refused or rolled back left nothing, in neither table."""
    lines = run("examples/in_transaction.py").stdout.splitlines()
    kept = "['How is the weather?'], 1 run(s)"
    assert [f"  {kept}", f"  {kept}", f"  rolled back, it is queued: {kept}"] == lines[1::3]
    assert "already has an active run" in lines[3]
    assert "  inside, the run is cancelled" == lines[6]


def test_the_rules_pass_under_pytest() -> None:
    """The example for pytest has all 81 pairs, 34 walks and two tests more; all pass, and nothing is left unasked."""
    options = ("-q", "-p", "no:cacheprovider", "--runstate-cov", "--runstate-cov-fail-under=100")
    done = run("-m", "pytest", *options, "examples/test_rules.py")
    assert 0 == done.returncode, done.stdout
    assert {"passed": 117} == pytest.RunResult.parse_summary_nouns(done.stdout.splitlines())
    assert "total      81 of 81, 100 %" in done.stdout


def in_project(name: str, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a copy of a project."""
    if not folder.exists():
        shutil.copytree(ROOT / "examples" / name, folder, ignore=shutil.ignore_patterns("__pycache__", "*.db"))
    env = {**os.environ, "PYTHONPATH": f"{folder}:{ROOT}", "DATABASE_URL": f"sqlite+aiosqlite:///{folder / 'app.db'}"}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, capture_output=True, text=True, timeout=120, check=False, env=env
    )


@pytest.mark.slow
def test_the_service_with_fastapi_passes_its_tests(tmp_path: Path) -> None:
    """Its question and its run are one transaction, its tables come from Alembic, its handler is tested by itself."""
    done = in_project("fastapi_project", tmp_path / "service", "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert 0 == done.returncode, done.stdout
    assert {"passed": 3} == {
        name: count
        for name, count in pytest.RunResult.parse_summary_nouns(done.stdout.splitlines()).items()
        if name != "warnings"
    }


@pytest.mark.slow
def test_the_shop_with_django_does_what_its_page_says(tmp_path: Path) -> None:
    """Its commands, and its tests."""
    shop = tmp_path / "shop"
    told = [
        in_project("django_project", shop, "manage.py", *command)
        for command in (["migrate"], ["order", "a red bicycle"], ["work", "--until-idle"], ["orders"], ["test"])
    ]
    assert [0] * 5 == [done.returncode for done in told], [done.stderr for done in told]
    assert "order 1\n" == told[1].stdout
    assert "1: a red bicycle: completed, a red bicycle, wrapped\n" == told[3].stdout
    assert "Ran 3 tests" in told[4].stderr
    assert 0 == in_project("django_project", shop, "manage.py", "makemigrations", "--check").returncode


@pytest.fixture
def runs_of_a_worker() -> Iterator[tuple[Any, Any]]:
    """The example for a worker of one's own as a module, and its table with a queued run."""
    worker = load_worker()
    with closing(worker.Runs(":memory:")) as runs:
        runs.add(Run.create(id="run_1", thread_id="thread_1", assistant_id="asst_1", model="gpt-4o"))
        yield worker, runs


def load_worker() -> Any:
    spec = importlib.util.spec_from_file_location("embed_in_worker", ROOT / "examples" / "embed_in_worker.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("meanwhile", "end"), [(Run.request_cancel, "completed"), (Run.expire, "expired"), (None, "completed")]
)
def test_the_worker_survives_what_happens_while_it_works(
    meanwhile: Callable[[Run], None] | None, end: str, runs_of_a_worker: tuple[Any, Any]
) -> None:
    """A cancel that comes before the end loses the race, a deadline wins it; neither leaves the run live."""
    worker, runs = runs_of_a_worker
    answer = worker.answer

    def slow_answer(run: Run, outputs: dict[str, str]) -> Any:
        if meanwhile is not None:
            runs.change("run_1", meanwhile)
        return answer(run, {"call_1": "sunny"})

    worker.answer = slow_answer
    assert end == worker.work(runs, "run_1", {}).status


def test_the_worker_confirms_a_cancel_that_comes_while_it_asks_for_tools(runs_of_a_worker: tuple[Any, Any]) -> None:
    """It cannot wait for outputs any more, so it confirms."""
    worker, runs = runs_of_a_worker
    answer = worker.answer

    def slow_answer(run: Run, outputs: dict[str, str]) -> Any:
        runs.change("run_1", worker.cancel)
        return answer(run, outputs)

    worker.answer = slow_answer
    assert "cancelled" == worker.work(runs, "run_1", {}).status
