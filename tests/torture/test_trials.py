"""The trials of faults, each in a small size."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
LIMIT = 240.0  # far more than they take on a machine that is busy

TRIALS = {
    "answers": ("answers",),
    "sqlite": ("sqlite/busy", "sqlite/full", "sqlite/readonly"),
    "races": ("races",),
    "soak": ("soak/postgres", "soak/sqlite"),
    "steps-postgres": ("steps/postgres",),
    "steps-sqlite": ("steps/sqlite",),
    "stops": ("stops",),
    "clock": ("clock",),
}


def held(trial: str) -> Mapping[str, Mapping[str, Any]]:
    """Hold a trial in its small size; return what it says of each part."""
    done = subprocess.run(
        [sys.executable, "-m", "torture.trials", trial, "--quick", "--json"],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        cwd=ROOT,
    )
    assert done.stdout, done.stderr
    return {verdict["trial"]: verdict for verdict in json.loads(done.stdout)}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the trials stop and kill processes with signals")
@pytest.mark.parametrize("trial", TRIALS)
def test_nothing_is_lost_or_done_twice(trial: str) -> None:
    """Every trial that could be held did its harm, and found nothing."""
    verdicts = held(trial)
    missing = [verdict["notes"]["not held"] for verdict in verdicts.values() if "not held" in verdict["notes"]]
    assert missing or {*TRIALS[trial]} == verdicts.keys()
    for verdict in verdicts.values():
        if "not held" not in verdict["notes"]:
            judge(verdict)
    if missing:
        pytest.skip("; ".join(missing))


def judge(verdict: Mapping[str, Any]) -> None:
    assert [] == verdict["wrong"]
    found = {fault: verdict[fault] for fault in ("lost", "doubled", "illegal", "gaps")}
    assert dict.fromkeys(found, 0) == found
    assert verdict["acknowledged"] > 0
    assert verdict["trial"].startswith("soak") or sum(verdict["faults"].values()) >= verdict["trials"]
