"""The trials of faults, each in a small size; and that their judge sees what they are to find."""

from __future__ import annotations

import importlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from runstate.store import open_store

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
LIMIT = 240.0  # far more than they take on a machine that is busy

TRIALS = {
    "kills": ("kills/postgres", "kills/sqlite"),
    "restarts": ("restarts",),
    "cuts": ("cuts",),
    "answers": ("answers",),
    "sqlite": ("sqlite/busy", "sqlite/full", "sqlite/readonly"),
    "races": ("races",),
    "soak": ("soak/postgres", "soak/sqlite"),
    "stops": ("stops",),
    "clock": ("clock",),
}
HELD = [verdict for verdicts in TRIALS.values() for verdict in verdicts]


@pytest.fixture(scope="module")
def verdicts() -> Mapping[str, Mapping[str, Any]]:
    """What all trials say, in their small sizes."""
    if sys.platform == "win32":
        pytest.skip("the trials stop and kill processes with signals")
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "faults.py", "--quick", "--json"],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        cwd=BENCHMARKS.parent,
    )
    assert done.stdout, done.stderr
    return {verdict["trial"]: verdict for verdict in json.loads(done.stdout)}


@pytest.mark.parametrize("trial", HELD)
def test_nothing_is_lost_or_done_twice(trial: str, verdicts: Mapping[str, Mapping[str, Any]]) -> None:
    """Every trial that could be held did its harm, and found nothing."""
    name = trial if trial in verdicts else trial.split("/")[0]  # by its name, where it was not held
    verdict = verdicts[name]
    if "not held" in verdict["notes"]:
        pytest.skip(verdict["notes"]["not held"])
    assert [] == verdict["wrong"]
    found = {fault: verdict[fault] for fault in ("lost", "doubled", "illegal", "gaps")}
    assert dict.fromkeys(found, 0) == found
    assert verdict["acknowledged"] > 0
    assert trial.startswith("soak") or sum(verdict["faults"].values()) >= verdict["trials"]


# --- the judge --------------------------------------------------------------------------------------------------------


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """The judge of the trials, which stands among the benchmarks."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    judge: Callable[[str], Any] = importlib.import_module("judge").judge
    return judge


@pytest.fixture
def unguarded(tmp_path: Path) -> tuple[str, sqlite3.Connection]:
    """A file with four runs, from which the triggers are gone and the checks are off."""
    path = tmp_path / "runs.db"
    url = f"sqlite:///{path}"
    with open_store(url) as store:
        for number in range(1, 5):
            store.create(id=f"run_{number}", thread_id=f"thread_{number}", assistant_id="a", model="m")
        store.start("run_2")
        store.start("run_3")
        store.complete("run_3")
        store.request_cancel("run_4")
    connection = sqlite3.connect(path, isolation_level=None)
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute("PRAGMA ignore_check_constraints = 1")
    return url, connection


def run(number: int) -> str:
    return f"(SELECT seq FROM runstate_run WHERE id = 'run_{number}')"


def another(event: str, source: str, target: str) -> str:
    """Return the statement that adds an entry after the end of a run."""
    fields = "run, version, event, source, target, at"
    given = f"SELECT run, 4, '{event}', '{source}', '{target}', at FROM runstate_history"
    return f"INSERT INTO runstate_history ({fields}) {given} WHERE run = {run(3)} AND version = 3"


SHARED = "UPDATE runstate_run SET exclusive = 'reject', thread_id = 't' WHERE id IN ('run_1', 'run_2')"
TAMPERING = {
    "a version is missing": ("gaps", f"DELETE FROM runstate_history WHERE run = {run(3)} AND version = 2"),
    "a run has no history": ("gaps", f"DELETE FROM runstate_history WHERE run = {run(1)}"),
    "a history has no run": ("gaps", "DELETE FROM runstate_run WHERE id = 'run_1'"),
    "a run ended twice": ("doubled", another("complete", "in_progress", "completed")),
    "an entry follows the end": ("doubled", another("start", "queued", "in_progress")),
    "no row of the law": (
        "illegal",
        f"UPDATE runstate_history SET event = 'expire' WHERE run = {run(3)} AND version = 2",
    ),
    "the chain is broken": (
        "illegal",
        f"UPDATE runstate_history SET source = 'cancelling' WHERE run = {run(3)} AND version = 3",
    ),
    "the time goes back": (
        "illegal",
        f"UPDATE runstate_history SET at = at - 9000000 WHERE run = {run(3)} AND version = 3",
    ),
    "the last entry is not the row": ("illegal", "UPDATE runstate_run SET actor = 'me' WHERE id = 'run_2'"),
    "a thread has two live runs": ("illegal", f"DROP INDEX runstate_run_one_live; {SHARED}"),
    "created_at is not the birth": ("illegal", "UPDATE runstate_run SET created_at = 1 WHERE id = 'run_1'"),
    "started_at is not its entry's": ("illegal", "UPDATE runstate_run SET started_at = 1 WHERE id = 'run_2'"),
    "cancelled_at is not its entry's": ("illegal", "UPDATE runstate_run SET cancelled_at = NULL WHERE id = 'run_4'"),
    "failed_at is not its entry's": ("illegal", "UPDATE runstate_run SET failed_at = 1 WHERE id = 'run_1'"),
    "completed_at is not its entry's": ("illegal", "UPDATE runstate_run SET completed_at = 1 WHERE id = 'run_3'"),
    "expires_at comes or goes wrongly": ("illegal", "UPDATE runstate_run SET expires_at = 9 WHERE id = 'run_3'"),
    "usage comes or goes wrongly": ("illegal", "UPDATE runstate_run SET usage = NULL WHERE id = 'run_3'"),
}


def test_the_judge_passes_what_is_sound(unguarded: tuple[str, sqlite3.Connection], judge: Callable[[str], Any]) -> None:
    url, connection = unguarded
    connection.close()
    found = judge(url)
    assert {} == found.wrong
    assert (4, 9, 2) == (found.runs, found.entries, found.live)


@pytest.mark.parametrize("wrong", TAMPERING)
def test_the_judge_sees(wrong: str, unguarded: tuple[str, sqlite3.Connection], judge: Callable[[str], Any]) -> None:
    """Each check finds what was done behind the back of the guards, and counts it for what it is."""
    url, connection = unguarded
    fault, statements = TAMPERING[wrong]
    connection.executescript(statements)
    connection.close()
    found = judge(url)
    assert wrong in found.wrong
    assert getattr(found, fault) >= 1
