"""A short storm on each database, and that its witnesses see what they are to see."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from random import Random
from threading import Timer
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest

from runstate.store import open_store
from tests.store.support import names
from torture.__main__ import main
from torture.fleet.checks import Entry, check_side_log
from torture.fleet.handler_log import SideLog, read_side_log
from torture.fleet.replies import Reply, ReplyLog, read_replies
from torture.fleet.reply_checks import check_replies
from torture.storm.harm import Harm, united
from torture.storm.stage import Stage
from torture.verdict import Verdict

ROOT: Final = Path(__file__).parents[2]
LIMIT: Final = 240.0  # far more than it takes on a machine that is busy


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="storms stop and kill processes with signals")
@pytest.mark.parametrize("store", ["postgres", "sqlite"])
def test_a_short_storm_passes(store: str) -> None:
    """Harm is done, a thing or two is acknowledged, and every answer is borne out by the history."""
    command = [sys.executable, "-m", "torture", "--minutes", "0.1", "--quick", "--json", "--store", store]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, cwd=ROOT)
    if done.returncode == 2 and done.stderr.startswith("not held"):
        pytest.skip(done.stderr)
    assert done.stdout, done.stderr
    verdict = json.loads(done.stdout)
    assert [] == verdict["wrong"]
    assert {"lost": 0, "doubled": 0, "illegal": 0, "gaps": 0} == {
        fault: verdict[fault] for fault in ("lost", "doubled", "illegal", "gaps")
    }
    assert verdict["acknowledged"] > 100
    assert verdict["faults"]


# --- the witnesses ----------------------------------------------------------------------------------------------------


def entry(version: int, event: str | None, target: str, actor: str | None = None) -> Entry:
    return Entry("run_1", version, event, target, 10**15 + version, actor, 1)


HISTORY: Final = (
    entry(1, None, "queued"),
    entry(2, "start", "in_progress", "worker1"),
    entry(3, "request_cancel", "cancelling", "cancel1.1"),
    entry(4, "complete", "completed", "worker1"),
)
FOUND: Final[Mapping[str, Sequence[Entry]]] = {"run_1": HISTORY}
TRUE: Final = (
    Reply("create", "done", "run_1", "complete", "-"),
    Reply("key", "done", "run_1", "k1", "-"),
    Reply("move", "done", "run_1", "request_cancel", "cancel1.1", 2),
    Reply("move", "refused", "run_1", "fail", "operate1.1"),
    Reply("move", "unknown", "run_1", "expire", "operate1.2"),
    Reply("create", "away", "run_2", "complete", "-"),
    Reply("settle", "unknown", "run_1", "complete", "worker1", 2, 1),
    Reply("settle", "done", "run_1", "complete", "worker1", 2, 1),
)
FALSE: Final[Mapping[str, tuple[Reply, str]]] = {
    "an acknowledged create": (Reply("create", "done", "run_9", "complete", "-"), "lost"),
    "a refused create": (Reply("create", "refused", "run_1", "complete", "-"), "wrong"),
    "a create that was not taken": (Reply("create", "away", "run_1", "complete", "-"), "wrong"),
    "a run created by key": (Reply("key", "done", "run_9", "k2", "-"), "lost"),
    "a key that was refused": (Reply("key", "refused", "-", "k2", "-"), "wrong"),
    "an acknowledged move": (Reply("move", "done", "run_1", "fail", "operate1.3"), "lost"),
    "a move by somebody else": (Reply("move", "done", "run_1", "request_cancel", "cancel1.2"), "lost"),
    "a refused move": (Reply("move", "refused", "run_1", "request_cancel", "cancel1.1"), "wrong"),
    "a move from another version": (Reply("move", "unknown", "run_1", "request_cancel", "cancel1.1", 1), "doubled"),
    "an acknowledged outcome": (Reply("settle", "done", "run_1", "fail", "worker1", 2, 1), "lost"),
    "an outcome of another start": (Reply("settle", "done", "run_1", "complete", "worker1", 4, 1), "lost"),
    "a refused outcome": (Reply("settle", "refused", "run_1", "complete", "worker1", 2, 1), "wrong"),
    "what nobody may hear": (Reply("move", "wrong", "run_1", "complete", "operate1.4"), "lost"),
}


def heard(folder: Path, told: Sequence[Reply], found: Mapping[str, Sequence[Entry]] = FOUND) -> Verdict:
    """Return what the witnesses find."""
    (folder / "told").mkdir()
    for number, one in enumerate(told):
        ReplyLog(folder / "told", f"client{number}").write([one])
    verdict = Verdict("heard")
    check_replies(verdict, folder / "told", folder / "side", found)
    return verdict


def test_the_truth_is_believed(tmp_path: Path) -> None:
    SideLog(tmp_path / "side", "worker1").note("begun", "run_1", 2, 1)
    verdict = heard(tmp_path, TRUE)
    assert [] == verdict.wrong
    assert verdict.is_good
    assert 5 == verdict.acknowledged  # a create, a key, a move, a claim, an outcome


def test_a_line_that_is_not_whole_is_left_out(tmp_path: Path) -> None:
    """Who is killed while writing leaves a part of a line, here of each length, and others write on after it."""
    for log in ("side", "told"):
        for cut in range(1, 40):
            if log == "side":
                SideLog(tmp_path / log, "worker1").note("begun", "run_1", 2, cut)
            else:
                ReplyLog(tmp_path, f"{log}{cut}").write([TRUE[0]])
            path = tmp_path / (log if log == "side" else f"{log}{cut}")
            path.write_bytes(path.read_bytes()[:-cut])
    SideLog(tmp_path / "side", "worker1").note("begun", "run_1", 2, 99)
    assert [99] == [line.attempt for line in read_side_log(tmp_path / "side")][1:]
    (tmp_path / "side").unlink()
    assert 1 == len([*read_replies(tmp_path)])  # a line without its end is one all the same


@pytest.mark.parametrize("what", FALSE)
def test_an_answer_that_is_not_borne_out_is_found(what: str, tmp_path: Path) -> None:
    """Each is found by itself; the answers beside it are true, but for the one that it contradicts."""
    told, fault = FALSE[what]
    verdict = heard(tmp_path, [told])
    assert not verdict.is_good
    assert getattr(verdict, fault)


def test_times_in_which_nobody_could_write_count_once() -> None:
    """Whoever was taken over late is excused for each moment once, however many harms fell into it."""
    assert [] == united([])
    assert [(1.0, 4.0), (5.0, 6.0)] == united([(5.0, 6.0), (1.0, 3.0), (1.5, 2.0), (3.0, 4.0)])


def test_a_standstill_in_the_middle_of_a_transaction_is_an_outage(tmp_path: Path) -> None:
    """An SQLite file has one right to write: while it is held nobody can be taken over. A worker that idles has not."""
    harm = Harm(cast("Stage", SimpleNamespace(path=str(tmp_path / "runs.db"))), Random(1))
    with closing(sqlite3.connect(harm.stage.path, isolation_level=None, check_same_thread=False)) as holder:
        harm._wait_to_write()
        assert [] == harm.outages
        holder.execute("BEGIN IMMEDIATE")
        Timer(0.5, holder.execute, ["ROLLBACK"]).start()
        harm._wait_to_write()
        ((since, until),) = harm.outages
        assert 0.45 < until - since


def test_an_event_that_came_twice_is_found(tmp_path: Path) -> None:
    twice = {"run_1": (*HISTORY, entry(5, "request_cancel", "cancelling", "cancel1.1"))}
    assert 1 == heard(tmp_path, [TRUE[2]._replace(version=0)], twice).doubled


def test_a_key_that_made_two_runs_is_found(tmp_path: Path) -> None:
    both = {"run_1": HISTORY, "run_2": HISTORY}
    told = [Reply("key", "done", "run_1", "k1", "-"), Reply("key", "done", "run_2", "k1", "-")]
    assert 1 == heard(tmp_path, told, both).doubled


def test_a_claim_that_is_not_there_is_found(tmp_path: Path) -> None:
    SideLog(tmp_path / "side", "worker1").note("begun", "run_1", 3, 1)
    assert 1 == heard(tmp_path, []).lost


def side_log(folder: Path, *lines: tuple[Any, ...]) -> Verdict:
    for worker, *line in lines:
        SideLog(folder / "side", worker).note(*line)
    verdict = Verdict("side")
    check_side_log(verdict, folder / "side", FOUND)
    return verdict


BEGUN: Final = ("worker1", "begun", "run_1", 2, 1)
ENDED: Final = ("worker1", "ended-complete", "run_1", 2, 1)


def test_the_side_log_bears_out_an_outcome(tmp_path: Path) -> None:
    assert side_log(tmp_path, BEGUN, ENDED).is_good


@pytest.mark.parametrize(
    "lines",
    [
        (BEGUN,),
        (BEGUN, ("worker2", *ENDED[1:])),
        (BEGUN, ("worker1", "ended-fail", "run_1", 2, 1)),
        (BEGUN, ("worker1", "ended-complete", "run_1", 2, 2)),
        (BEGUN, BEGUN, ENDED),
    ],
    ids=["nobody ended it", "another ended it", "it ended otherwise", "in another attempt", "it was begun twice"],
)
def test_an_outcome_that_no_handler_led_to_is_found(lines: tuple[tuple[Any, ...], ...], tmp_path: Path) -> None:
    assert not side_log(tmp_path, *lines).is_good


@pytest.fixture(autouse=True)
def _terminated_as_before() -> Iterator[None]:
    """A storm tidies up when it is terminated; who holds one in its own process does as before afterwards."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


NOT_HELD: Final = {
    "mysql://me:hunter2@host/db": "mysql",
    "postgresql://me:hunter2@127.0.0.1:1/db": "cannot connect to postgresql://127.0.0.1:1/db",
    "sqlite:////nonexistent/folder/runs.db": "no such folder",
}


@pytest.mark.parametrize("url", NOT_HELD)
def test_a_store_that_cannot_be_had(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence without the password, and an exit status of its own."""
    assert 2 == main(["--store", url])
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("not held: ")
    assert NOT_HELD[url] in told
    assert "hunter2" not in told


def test_a_store_that_has_runs_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    with open_store(url) as store:
        run = store.create(**names())
        assert 2 == main(["--store", url])
        assert run == store.get(run.id)
    assert "has runs already" in capsys.readouterr().err


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "soon"])
def test_a_storm_of_no_time(minutes: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--minutes", minutes])
    assert f"expected a number above 0, got '{minutes}'" in capsys.readouterr().err
