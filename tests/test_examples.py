"""Every example runs as its reader would run it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("path", [path for path in EXAMPLES if not path.name.startswith("test_")], ids=lambda p: p.name)
def test_a_program_runs_and_says_something(path: Path) -> None:
    """It ends well, prints, and has nothing to complain about."""
    done = run(str(path))
    assert (0, "") == (done.returncode, done.stderr)
    assert done.stdout.strip()


def test_the_worker_drives_its_runs_to_the_end() -> None:
    """One run completes, one is cut at its limit, and the late cancel is refused."""
    lines = run("examples/embed_in_worker.py").stdout.splitlines()
    assert "  worked on run_paris: completed" in lines
    assert "  worked on run_short: incomplete" in lines
    assert "  run run_paris is completed and cannot request_cancel; completed is terminal, nothing leaves it" in lines


def test_the_rules_pass_under_pytest() -> None:
    """The example for pytest has all 81 pairs and one test of time, and all pass."""
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "examples/test_rules.py")
    assert 0 == done.returncode, done.stdout
    assert "82 passed" in done.stdout
