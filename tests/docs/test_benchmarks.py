"""The pages that show measurements are rendered from the stored results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.postgres import VARIABLE, postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url"]  # so that tests here can ask for them

ROOT: Final = Path(__file__).parents[2]
RESULTS: Final = ROOT / "benchmarks" / "results"


def report(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.report", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_the_page_and_the_readme_are_not_stale() -> None:
    """BENCHMARKS.md, the chart and the README's tables are rendered from the results and not edited by hand."""
    done = report("--check")
    assert ("", 0) == (done.stdout.strip(), done.returncode), done.stderr


@pytest.mark.slow
def test_the_steps_are_measured(tmp_path: Path, postgres_url: str) -> None:
    """At a tiny size, and with runstate alone, in each database."""
    command = [sys.executable, "-m", "benchmarks.durable.steps", "--case", "3x50"]
    done = subprocess.run(
        [*command, "--rounds", "1", "--without-peers", "--json"],
        cwd=ROOT,
        env={**os.environ, VARIABLE: postgres_url, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert 0 == done.returncode, done.stderr
    found = json.loads(done.stdout)
    assert "journal_mode=wal, synchronous=FULL" in found["about"]["sqlite file"]
    places = [(row["case"], row["dialect"], row["contestant"]) for row in found["figures"]]
    assert places == [
        ("3 steps of 50 B", dialect, f"runstate, {kind} handler")
        for dialect in ("postgres", "sqlite")
        for kind in ("plain", "async")
    ]
    for row in found["figures"]:
        assert ("", 1) == (row["trouble"], len(row["laps"])), done.stderr
        assert row["per_s"] > 0
        if row["dialect"] == "postgres":
            assert row["wal_bytes"] > row["steps"] * row["size"]
        else:
            assert row["wal_bytes"] is None
    assert [] == list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_output_events_are_measured(tmp_path: Path, postgres_url: str) -> None:
    """With few readers, on a server that is given: each reader has each event once, also after the kills."""
    command = [sys.executable, "-m", "benchmarks.durable.events", "--quick", "--json"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, VARIABLE: postgres_url, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert 0 == done.returncode, done.stderr
    result = json.loads(done.stdout)
    figures, load = result["figures"], result["load"]
    events = round(load["runs"] * load["rate"] * load["seconds"])
    assert (events, events * load["readers"]) == (figures["busy"]["events"], figures["busy"]["deliveries"])
    assert 0 < figures["busy"]["delay"]["median_ms"] <= figures["busy"]["delay"]["p99_ms"]
    assert {"readers", "worker", "server"} == figures["busy"]["cpu"].keys()
    assert figures["killed"]["events"] >= events
    assert not figures["killed"]["server_killed"]
    assert [] == list(tmp_path.iterdir())


@pytest.mark.slow
def test_watching_is_measured(tmp_path: Path, postgres_url: str) -> None:
    """With few watchers, on a server that is given: each watcher has each entry once."""
    command = [sys.executable, "-m", "benchmarks.durable.watch", "--quick", "--rate", "500", "--json"]
    environment = {**os.environ, VARIABLE: postgres_url, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert 0 == done.returncode, done.stderr
    result = json.loads(done.stdout)
    assert {"sqlite", "postgres"} == result["figures"].keys()
    for figures in result["figures"].values():
        assert 2 * result["load"]["watchers"] == figures["moves"]["moves"]
        assert 0 < figures["moves"]["delay"]["median_ms"] <= figures["moves"]["delay"]["p99_ms"]
    assert {"watchers", "server"} == result["figures"]["postgres"]["idle"]["cpu"].keys()
    assert [] == list(tmp_path.iterdir())


def test_a_wrong_case_is_a_sentence() -> None:
    command = [sys.executable, "-m", "benchmarks.durable.steps", "--case", "200"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert 2 == done.returncode
    assert "'200' is not STEPSxSIZE, such as 200x20000" in done.stderr


def test_an_unknown_measurement_is_a_sentence() -> None:
    done = report("speed")
    assert 2 == done.returncode
    assert "no such measurement: speed" in done.stderr


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_result_says_how_to_have_it_again(path: Path) -> None:
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert {"command", "taken", "machine", "seconds", "result"} == kept.keys()
    assert kept["command"].startswith("python ")
