"""The demonstration drives real workers, and its summary is what the history says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from runstate.demo.cluster import KINDS


@pytest.mark.slow
def test_the_demo_drives_every_kind_and_loses_none(tmp_path: Path) -> None:
    """Each kind of run ends as it must, the killed worker's runs are taken over, and nothing illegal happened."""
    kept = tmp_path / "run%20x.db"
    command = [sys.executable, "-m", "runstate", "demo", "--json", "--keep", str(kept)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    assert kept.exists()
    told = json.loads(done.stdout)
    ends = {
        "completed": KINDS["plain"] + KINDS["tools"] + KINDS["long"],
        "cancelled": KINDS["cancel"],
        "failed": KINDS["fail"],
        "incomplete": KINDS["limit"],
        "expired": KINDS["late"],
    }
    assert ends == told["statuses"]
    assert sum(KINDS.values()) == told["runs"]
    assert KINDS["tools"] == told["tool_rounds"]
    assert 0 < told["taken_over"]
    assert (0, 0) == (told["illegal"], told["implausible"])
    assert "worker-1 is killed" in done.stderr
