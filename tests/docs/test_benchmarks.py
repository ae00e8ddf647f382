"""The pages that show measurements are rendered from the stored results."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
RESULTS: Final = ROOT / "benchmarks" / "results"


def report(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.report", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_the_page_and_the_readme_are_not_stale() -> None:
    """BENCHMARKS.md, the chart and the README's tables are rendered from the results and not edited by hand."""
    done = report("--check")
    assert ("", 0) == (done.stdout.strip(), done.returncode), done.stderr


def test_an_unknown_measurement_is_a_sentence() -> None:
    done = report("speed")
    assert 2 == done.returncode
    assert "no such measurement: speed" in done.stderr


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_result_says_how_to_have_it_again(path: Path) -> None:
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert {"command", "taken", "machine", "seconds", "result"} == kept.keys()
    assert kept["command"].startswith("python ")
