"""Some worlds of `torture.simulation`, a bug found by each of some more, and seeds that found a real one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping

import pytest

from torture.bugs import BUGS, Change, planted
from torture.bugs import _changed as changed
from torture.simulation.__main__ import main
from torture.simulation.campaign import Tally, play, told

# Worlds that found a fault of the library's, by seed, and what it was: they are played for ever.
REGRESSIONS: Mapping[int, str] = {
    500472: "a cancel that was done, its answer lost, was refused for the end that had come meanwhile",
    500924: "the same, asked from a version",
    900327: "the same, after slow reconnects",
    10552: "an outcome of a former claim ended a run that its worker had claimed again",
}

FOUND_BY: Mapping[str, int] = {
    "no_fence": 6,
    "no_token": 6,
    "no_lease": 12,
    "no_version": 1,
    "knows_no_deadline": 263,
    "early_answer": 20,
    "sweep_ignores_leases": 4,
    "asks_all_again": 34,
    "forgets_it_asked": 34,
    "tells_the_second_error": 4,
    "drops_outcomes": 4,
    "begins_what_it_lost": 1579,
    "begins_what_it_holds": 1,
    "counts_no_attempt": 12,
    "releases_what_is_not_its_own": 1020,
    "keeps_late_steps": 290,
    "keeps_usage_later": 18,
}
"""A world that finds each bug of those that are to be seen here: no disk is simulated."""


def test_the_same_seed_is_the_same_run() -> None:
    """Trace, rows and answers are the same byte for byte; also of a world that was played between others."""
    (first,) = play([7], traced=True)
    _, second, third = play([6, 7, 8], traced=True)
    assert first == second
    assert first.digest != third.digest
    assert first.trace


def test_watching_changes_nothing() -> None:
    """A world is the same whether its trace is kept, every step of it is judged, or neither."""
    (plain,) = play([7])
    for other in (*play([7], traced=True), *play([7], watchful=True)):
        assert (plain.digest, plain.steps, plain.counts) == (other.digest, other.steps, other.counts)


@pytest.mark.slow
def test_worlds() -> None:
    """No acknowledged answer is lost, nothing is done twice, no history is illegal, no version is missing."""
    tally = Tally()
    for verdict in play([*REGRESSIONS, *range(1, 41)]):
        tally.add(verdict)
    assert [] == [(verdict.seed, verdict.found, REGRESSIONS.get(verdict.seed)) for verdict in tally.wrong]
    happened = ("answers lost", "crashes", "leases lapsed", "taken over", "late settles refused", "unknown", "refused")
    assert all(tally.counts[name] for name in happened), tally


@pytest.mark.slow
@pytest.mark.parametrize("bug", FOUND_BY)
def test_a_bug_is_found(bug: str) -> None:
    """A library with this bug does not get past the simulation; another Python may need another world for it."""
    seeds = [FOUND_BY[bug], *range(1, 200)]
    assert any(verdict.found for verdict in play(seeds, bug=bug))


def test_what_is_found_is_told() -> None:
    """The seed, what is wrong, the last steps before it, and the command that plays it again."""
    (verdict,) = play([FOUND_BY["no_version"]], bug="no_version")
    lines = told(verdict, "no_version").splitlines()
    assert lines[0] == f"seed {verdict.seed}, after {verdict.steps} steps:"
    assert lines[1].startswith("  doubles: ")
    assert any("write move[" in line for line in lines[3:-2])
    assert lines[1] in lines[-2]
    assert lines[-1] == f"again: python -m torture.simulation --seed {verdict.seed} --bug no_version --show"


def test_a_bug_must_have_a_place() -> None:
    """Text that is not there cannot be replaced; and after a block all is as it was."""
    for bug in BUGS.values():
        before = [vars(change.owner)[change.name] for change in bug.changes]
        name = next(name for name in BUGS if BUGS[name] is bug)
        with planted(name):
            after = [vars(change.owner)[change.name] for change in bug.changes]
            assert not any(one is other for one, other in zip(before, after, strict=True))
        assert before == [vars(change.owner)[change.name] for change in bug.changes]
    change = BUGS["no_fence"].changes[0]
    with pytest.raises(LookupError, match="_settling has 0 times"), changed(Change(*change[:2], "not there", "")):
        pass


def test_one_world_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    """One world is shown whole, and a bug found in it is told, with the exit status."""
    assert 0 == main(["--seed", "3", "--show"])
    shown = capsys.readouterr().out.splitlines()
    assert "p1   begins" in shown[0]
    assert shown[-1].startswith("0 losses, 0 doubles, 0 illegal, 0 gaps")
    assert 1 == main(["--seed", str(FOUND_BY["no_version"]), "--bug", "no_version"])
    assert "again: python -m torture.simulation" in capsys.readouterr().out


@pytest.mark.slow
def test_many_worlds_by_hand() -> None:
    """In two processes, counted as JSON."""
    command = [sys.executable, "-m", "torture.simulation", "--steps", "500", "--processes", "2", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (0, "") == (done.returncode, done.stderr)
    counts = json.loads(done.stdout)
    assert counts["steps"] > 500
    assert (0, 0, 0, 0, []) == tuple(counts[name] for name in ("losses", "doubles", "illegal", "gaps", "wrong"))
