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

TRIALS = {  # kills, restarts and cuts are what a storm does
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
        [sys.executable, "-m", "tests.torture.trials", *TRIALS, "--quick", "--json"],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        cwd=ROOT,
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
