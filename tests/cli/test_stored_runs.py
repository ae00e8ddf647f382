"""The commands about stored runs and their database: what they say, what they change, how they end."""

from __future__ import annotations

import json
import os
import pty
import shlex
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from runstate import ManualClock, Run, RunStatus, ToolCall, Usage, use_clock
from runstate.cli import cli
from runstate.cli._durations import duration, moment
from runstate.cli.commands import runs_tending
from runstate.errors import RunNotFound
from runstate.store import Store, open_store
from runstate.store._sql.migrations import ddl
from runstate.store._sql.schema import POSTGRES, SQLITE
from runstate.traces import judge
from runstate.worker import Context, drive
from tests.cli.test_cli import on_a_terminal, process
from tests.support.cli_runner import CliRunner, Result
from tests.support.postgres import Server, postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url"]  # so that tests here can ask for them


@attrs.frozen
class Desk:
    """A store, and the command in front of it."""

    url: str
    store: Store

    def ask(self, *arguments: str | Path, stdin: str | bytes | None = None, **environment: str) -> Result:
        """Ask the command; it finds the store in its environment."""
        env = {"RUNSTATE_STORE": self.url, "NO_COLOR": None, **environment}
        return CliRunner().invoke(cli, [*map(str, arguments)], input=stdin, env=env, catch_exceptions=False)

    def said(self, *arguments: str, **how: Any) -> Any:
        """Ask for JSON, and return it."""
        done = self.ask(*arguments, "--json", **how)
        assert "" == done.stderr
        return json.loads(done.stdout)

    def create(self, **given: Any) -> str:
        """Create a run, and return its id."""
        return self.store.create(**{"thread_id": "thread_1", "assistant_id": "asst_1", "model": "gpt-4o", **given}).id

    def asking(self, *calls: str) -> str:
        """Create a run that waits for the outputs of calls."""
        run_id = self.create()
        self.store.start(run_id)
        self.store.require_action(run_id, [ToolCall(call, "weather", '{"city": "Paris"}') for call in calls])
        return run_id

    def ended(self) -> str:
        """Create a run that has ended."""
        run_id = self.create()
        self.store.start(run_id, actor="worker")
        self.store.complete(run_id, Usage(12, 30), actor="worker")
        return run_id


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """Where there is no store yet."""
    return f"sqlite:///{tmp_path / 'runs.db'}"


@pytest.fixture(params=["sqlite_url", "postgres_url"])
def desk(request: pytest.FixtureRequest) -> Iterator[Desk]:
    """A store in either dialect."""
    url = request.getfixturevalue(request.param)
    with open_store(url, migrate=True) as store:
        yield Desk(url, store)


@pytest.fixture
def on_sqlite(sqlite_url: str) -> Iterator[Desk]:
    """A store in SQLite, where the dialect plays no part."""
    with open_store(sqlite_url) as store:
        yield Desk(sqlite_url, store)


def lines(done: Result) -> list[list[str]]:
    return [line.split() for line in done.stdout.splitlines()]


# --- create, list, show, history --------------------------------------------------------------------------------------


def test_create_prints_the_id_and_nothing_else(desk: Desk) -> None:
    """So that a shell can take it; everything that was given is in the run."""
    given = ["--thread", "t", "--assistant", "a", "--model", "m", "--metadata", "user=ada", "--metadata", "x=1=2"]
    done = desk.ask("runs", "create", *given, "--queue", "slow", "--priority", "-3", "--actor", "me")
    assert (0, "") == (done.exit_code, done.stderr)
    run = desk.store.get(done.stdout.strip())
    assert ("t", "a", "m") == (run.thread_id, run.assistant_id, run.model)
    assert ({"user": "ada", "x": "1=2"}, "slow", -3, "me") == (run.metadata, run.queue, run.priority, run.actor)
    said = desk.said("runs", "create", *given)
    assert run.metadata == said["run"]["metadata"]
    assert "queued" == said["run"]["status"]


def test_create_asked_twice(desk: Desk) -> None:
    """With a key it is one run, whatever became of the first answer; a key that is empty makes none."""
    given = ["runs", "create", "--thread", "t", "--assistant", "a", "--model", "m", "--idempotency-key"]
    first, again, other = (desk.ask(*given, key).stdout for key in ("order-1", "order-1", "order-2"))
    assert first == again != other
    for empty in ("", " "):
        done = desk.ask(*given, empty)
        assert (2, "") == (done.exit_code, done.stdout)
        assert "idempotency_key: is " in done.stderr
    refused = desk.ask(*given, "order-1", "--queue", "slow")
    assert (1, "") == (refused.exit_code, refused.stdout)
    assert "belongs to run" in refused.stderr
    assert 2 == len(desk.store.list().data)


def test_list_has_every_filter_of_the_store(desk: Desk) -> None:
    """In columns for people, and as the API lists for programs."""
    first = desk.create(thread_id="other", queue="slow", metadata={"user": "ada"})
    second, third = desk.ended(), desk.create(metadata={"user": "ada", "plan": "free"})
    assert [third, second, first] == [line[0] for line in lines(desk.ask("runs", "list"))[1:]]

    def ids(*arguments: str) -> list[str]:
        return [item["run"]["id"] for item in desk.said("runs", "list", *arguments)["data"]]

    assert [first, second, third] == ids("--order", "asc")
    assert [first] == ids("--thread", "other") == ids("--queue", "slow")
    assert [third, first] == ids("--metadata", "user=ada")
    assert [third] == ids("--metadata", "user=ada", "--metadata", "plan=free")
    assert [second] == ids("--status", "completed", "--status", "failed")
    assert [] == ids("--older-than", "1h")
    assert [third, second, first] == ids("--younger-than", "1h") == ids("--older-than", "0s")
    assert [second, first] == ids("--after", third)
    assert [third] == ids("--before", second)
    page = desk.said("runs", "list", "--limit", "2")
    assert ("list", third, second, True) == tuple(page[name] for name in ("object", "first_id", "last_id", "has_more"))
    assert f"there are more: --after {second}\n" == desk.ask("runs", "list", "--limit", "2").stderr
    assert f"--before {second}\n" in desk.ask("runs", "list", "--limit", "1", "--before", first).stderr
    nothing = desk.ask("runs", "list", "--thread", "nobody")
    assert (0, "", "no such runs\n") == (nothing.exit_code, nothing.stdout, nothing.stderr)


def test_what_list_and_show_say_other_commands_read(desk: Desk) -> None:
    """A page or a run for programs is a recording that can be judged, and a run that can be drawn."""
    run_id = desk.ended()
    page = desk.ask("runs", "list", "--json").stdout
    assert 0 == desk.ask("check", "-", stdin=page).exit_code
    shown = desk.ask("runs", "show", run_id, "--json").stdout
    assert 0 == desk.ask("check", "-", stdin=shown).exit_code
    assert f"{run_id} is completed" in desk.ask("diagram", "--run", "-", stdin=shown).stdout


def test_show_tells_how_far_it_is(desk: Desk) -> None:
    """The last thing that the run's handler said."""
    run_id = desk.store.create(thread_id="t", assistant_id="a", model="m").id
    assert desk.said("runs", "show", run_id)["progress"] is None

    def say(ctx: Context) -> None:
        ctx.progress("page 3 of 6")

    drive(desk.store, run_id, say)
    assert "page 3 of 6" == desk.said("runs", "show", run_id)["progress"]
    assert "page 3 of 6" in desk.ask("runs", "show", run_id).stdout


def test_show_tells_all_there_is(desk: Desk) -> None:
    """The lanes with the run in them, what it holds, and its history with times and how long it stood there."""
    run_id = desk.asking("call_1", "call_2")
    done = desk.ask("runs", "show", run_id)
    assert (0, "") == (done.exit_code, done.stderr)
    assert done.stdout.startswith(f"run {run_id} is requires_action")
    assert "call_1: weather({" in done.stdout
    assert "(in 9m 5" in done.stdout
    table = lines(done)[-4:]
    assert ["version", "at", "(UTC)", "event", "to", "for", "by"] == table[0]
    assert [["created", "queued"], ["start", "in_progress"], ["require_action", "requires_action"]] == [
        row[3:5] for row in table[1:]
    ]
    assert ["so", "far"] == table[3][-2:]
    said = desk.said("runs", "show", run_id)
    assert (3, desk.store.get(run_id).to_dict()) == (said["version"], said["run"])
    assert [1, 2, 3] == [entry["version"] for entry in said["history"]]
    assert () == judge(Run.from_dict(said["run"]))


@pytest.mark.parametrize(
    ("events", "told"),
    [
        (("start", "complete"), "usage      12 + 30 tokens"),
        (("start", "fail"), "error      server_error: it broke"),
        (("start", "mark_incomplete"), "incomplete max_prompt_tokens"),
    ],
)
def test_show_tells_how_it_ended(on_sqlite: Desk, events: tuple[str, ...], told: str) -> None:
    run_id, store = on_sqlite.create(), on_sqlite.store
    given: dict[str, tuple[Any, ...]] = {
        "complete": (Usage(12, 30),),
        "fail": ("server_error", "it broke"),
        "mark_incomplete": ("max_prompt_tokens",),
    }
    for event in events:
        getattr(store, event)(run_id, *given.get(event, ()))
    shown = on_sqlite.ask("runs", "show", run_id).stdout
    assert told.split() in [line.split() for line in shown.splitlines()]
    assert "expires" not in shown.split("\n\n")[1]


def test_show_tells_why_a_run_is_not_claimed(on_sqlite: Desk, clock: ManualClock) -> None:
    """One that waits behind another of its thread, and one whose deadline has passed."""
    for _ in range(2):
        run_id = on_sqlite.create(one_live_run_per_thread="queue")
    assert "behind its thread's live run" in on_sqlite.ask("runs", "show", run_id).stdout
    late = on_sqlite.create(expires_in_s=1)
    clock.advance(1.1)
    (expires,) = (line for line in on_sqlite.ask("runs", "show", late).stdout.splitlines() if line[:7] == "expires")
    assert expires.endswith(" ago)")


def test_show_is_of_one_moment(on_sqlite: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that moves on between two looks is shown with the history it had, and not one entry more or less."""
    run_id = on_sqlite.create()
    look = Store.history

    def moving(store: Store, run_id: str, **how: Any) -> Any:
        entries = look(store, run_id, **how)
        if len(entries) == 1:
            on_sqlite.store.start(run_id)
        else:
            on_sqlite.store.complete(run_id)
            entries = look(store, run_id, **how)
        return entries

    monkeypatch.setattr(Store, "history", moving)
    said = on_sqlite.said("runs", "show", run_id)
    assert (2, "in_progress") == (said["version"], said["run"]["status"])
    assert [1, 2] == [entry["version"] for entry in said["history"]]


def test_history_is_the_same_table_alone(desk: Desk) -> None:
    """Oldest first; for programs with everything that came with an entry."""
    run_id = desk.asking("call_1")
    rows = lines(desk.ask("runs", "history", run_id))
    assert ["created", "start", "require_action"] == [row[3] for row in rows[1:]]
    said = desk.said("runs", "history", run_id)
    assert run_id == said["run_id"]
    assert "call_1" == said["history"][2]["detail"]["required_action"]["submit_tool_outputs"]["tool_calls"][0]["id"]


# --- cancel, submit ---------------------------------------------------------------------------------------------------


def test_cancel_asks_each_run_and_tells_each_refusal(desk: Desk) -> None:
    """One that nobody works on is cancelled, another is cancelling, an ended one refuses: exit code 1."""
    queued, started, ended = desk.create(), desk.create(), desk.ended()
    desk.store.start(started)
    done = desk.ask("runs", "cancel", queued, started, queued, ended, "--actor", "ada")
    assert [f"{queued} is cancelled", f"{started} is cancelling"] == done.stdout.splitlines()
    assert f"run {ended} is completed (by complete, worker) and cannot request_cancel" in done.stderr
    assert 1 == done.exit_code
    assert "ada" == desk.store.get(started).actor
    assert 3 == len(desk.store.history(ended))
    assert 0 == desk.ask("runs", "cancel", started, "--actor", "ada").exit_code  # the same request again is no other
    both = desk.ask("runs", "cancel", ended, "run_nobody", "--json")
    assert (2, {"data": []}) == (both.exit_code, json.loads(both.stdout))
    assert "No run found with id 'run_nobody'." in both.stderr
    assert ["cancelled"] == [item["run"]["status"] for item in desk.said("runs", "cancel", desk.create())["data"]]


def test_submit_takes_outputs_in_four_forms(desk: Desk, tmp_path: Path) -> None:
    """As arguments, as an object, as the API's list, and as the body of its request; from a file or stdin."""
    listed = [{"tool_call_id": "call_1", "output": "a=b"}, {"tool_call_id": "call_2", "output": ""}]
    forms: list[object] = [{"call_1": "a=b", "call_2": ""}, listed, {"tool_outputs": listed}]
    expected = {"tool_outputs": {"call_1": "a=b", "call_2": ""}}
    file = tmp_path / "outputs.json"
    for place, form in enumerate(forms):
        run_id = desk.asking("call_1", "call_2")
        file.write_text(json.dumps(form))
        how = ("-", file.read_text()) if place else (str(file), None)
        done = desk.ask("runs", "submit", run_id, "--file", how[0], stdin=how[1])
        assert (0, f"{run_id} is queued\n") == (done.exit_code, done.stdout)
        assert expected == desk.store.history(run_id)[-1].detail
    run_id = desk.asking("call_1", "call_2")
    said = desk.said("runs", "submit", run_id, "call_1=a=b", "call_2=", "--actor", "ada")
    assert ("queued", "ada") == (said["run"]["status"], said["actor"])
    assert expected == desk.store.history(run_id)[-1].detail


def test_outputs_that_do_not_fit_are_refused(desk: Desk) -> None:
    """The law's refusals are exit code 1, and nothing has moved."""
    run_id, queued = desk.asking("call_1", "call_2"), desk.create()
    for asked, sentence in (
        ((run_id, "call_1=x"), "Expected tool outputs for call_ids ['call_1', 'call_2'], got ['call_1']"),
        ((queued, "call_1=x"), "cannot submit_tool_outputs; allowed there: start, request_cancel, fail, expire"),
    ):
        done = desk.ask("runs", "submit", *asked)
        assert (1, "") == (done.exit_code, done.stdout)
        assert sentence in done.stderr
    assert (3, 1) == (desk.store.get(run_id).version, desk.store.get(queued).version)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "not JSON"),
        (b"{broken", "not JSON at line 1"),
        (b'{"call_1": "a", "call_1": "b"}', "call_1: stands twice"),
        (b'{"call_1": 5}', "outputs.call_1: expected a string, got an integer"),
        (b'"text"', "expected an object {call id: output}, got a string"),
        (b"[{}]", "expected objects with tool_call_id and output"),
        (b"\xff\xfe", "byte 0 is not UTF-8"),
    ],
)
def test_a_file_that_holds_no_outputs(on_sqlite: Desk, content: bytes, sentence: str) -> None:
    run_id = on_sqlite.asking("call_1")
    done = on_sqlite.ask("runs", "submit", run_id, "-f", "-", stdin=content)
    assert (2, "") == (done.exit_code, done.stdout)
    assert sentence in done.stderr
    assert 3 == on_sqlite.store.get(run_id).version


def test_outputs_that_come_too_late(desk: Desk) -> None:
    """Exit code 1, with when the run expired, which it did by this very request; its history says what was asked."""
    run_id = desk.asking("call_1")
    with use_clock(ManualClock(desk.store.get(run_id).created_at + 3600)):
        done = desk.ask("runs", "submit", run_id, "call_1=sunny", "--actor", "ada")
    assert (1, "") == (done.exit_code, done.stdout)
    refused = f"run {run_id} is expired (by expire, ada) and cannot submit_tool_outputs; the store expired it at 20"
    assert refused in done.stderr
    assert "because its deadline had passed" in done.stderr
    last = desk.said("runs", "history", run_id)["history"][-1]
    assert ("expire", "ada", "submit_tool_outputs") == (last["event"], last["actor"], last["detail"]["asked"])


# --- sweep, prune -----------------------------------------------------------------------------------------------------


def test_sweep_does_what_is_due(desk: Desk, clock: ManualClock) -> None:
    """First it says what it would do, and nothing has moved; then it does it, and then nothing is due."""
    late, fine = desk.create(expires_in_s=1), desk.create()
    lease = desk.store.open_lease("dead", lease_s=0.05)
    desk.create(queue="other")
    assert desk.store.claim(lease, queues=["other"])
    clock.advance(1.1)
    dry = desk.ask("runs", "sweep", "--dry-run")
    assert f"{late} would be expired\n" == dry.stdout
    assert "dry run: 1 expired, 1 lease closed, 1 waits to be taken over\n" == dry.stderr
    assert "queued" == desk.store.get(late).status
    said = desk.said("runs", "sweep", "--dry-run")
    assert ([late], 1, 1, False) == (said["expired"], said["expired_leases"], said["orphaned"], said["more"])
    done = desk.ask("runs", "sweep", "--actor", "cron")
    assert (0, f"{late} expired\n") == (done.exit_code, done.stdout)
    assert ("expired", "cron") == (desk.store.get(late).status, desk.store.get(late).actor)
    assert "queued" == desk.store.get(fine).status
    desk.store.sweep()
    assert "1 waits to be taken over\n" == desk.ask("runs", "sweep").stderr


def test_sweep_goes_on_until_nothing_is_due(
    on_sqlite: Desk, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are; a dry run looks at some, and says that there are more."""
    monkeypatch.setattr(runs_tending, "_AT_ONCE", 50)
    on_sqlite.store.create_many(
        {"thread_id": "t", "assistant_id": "a", "model": "m", "expires_in_s": 1} for _ in range(110)
    )
    clock.advance(1.1)
    assert on_sqlite.said("runs", "sweep", "--dry-run")["more"]
    assert "dry run: 50 expired, and more\n" == on_sqlite.ask("runs", "sweep", "--dry-run").stderr
    assert 110 == len(on_sqlite.said("runs", "sweep")["expired"])
    assert "nothing is due\n" == on_sqlite.ask("runs", "sweep").stderr


def test_prune_asks_first(desk: Desk) -> None:
    """Nobody there to ask is exit code 2, and nothing is deleted before somebody says so."""
    ended, live = desk.ended(), desk.create()
    assert (0, "no run has ended so long ago\n") == _ended(desk.ask("runs", "prune", "--older-than", "30d", "--yes"))
    assert (0, "1 run would be deleted\n") == _ended(desk.ask("runs", "prune", "--older-than", "0s", "--dry-run"))
    done = desk.ask("runs", "prune", "--older-than", "0s")
    assert (2, "") == _ended(done)
    assert "1 run would be deleted from" in done.stderr
    assert "say --yes, or --dry-run" in done.stderr
    assert desk.store.get(ended)
    said = desk.said("runs", "prune", "--older-than", "0s", "--yes")
    assert {"dry_run": False, "prunable": 1, "deleted": 1} == said
    with pytest.raises(RunNotFound):
        desk.store.get(ended)
    assert desk.store.get(live)


def _ended(done: Result) -> tuple[int, str]:
    return done.exit_code, done.stdout


def test_prune_deletes_in_batches(on_sqlite: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than one transaction's worth."""
    made = on_sqlite.store.create_many({"thread_id": "t", "assistant_id": "a", "model": "m"} for _ in range(120))
    monkeypatch.setattr(runs_tending, "_BATCH", 50)
    for run in made[:110]:
        on_sqlite.store.expire(run.id)
    assert "110 runs deleted\n" == on_sqlite.ask("runs", "prune", "--older-than", "0s", "--yes").stdout
    assert 10 == sum(on_sqlite.store.counts().values())


@pytest.mark.parametrize(("answer", "code", "left"), [("y", 0, 0), ("n", 1, 1), ("\x03", 130, 1)])
def test_prune_asks_a_person(on_sqlite: Desk, answer: str, code: int, left: int) -> None:
    """On a terminal it asks; yes, no and Ctrl-C are heard."""
    on_sqlite.ended()
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "runstate", "runs", "prune", "--older-than", "0s", "--store", on_sqlite.url]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as running:
        os.close(theirs)
        written = b""
        while b"Go on?" not in written:
            written += os.read(ours, 4096)
        if answer != "\x03":
            os.write(ours, f"{answer}\n".encode())
        for _ in range(120):
            if answer == "\x03" and running.poll() is None:  # again and again: readline may be deaf to the first
                running.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                running.wait(0.5)
                break
        assert code == running.poll()
    os.close(ours)
    assert left == sum(on_sqlite.store.counts().values())


# --- watch ------------------------------------------------------------------------------------------------------------


def test_watch_follows_a_run_until_it_has_ended(desk: Desk) -> None:
    """From its birth, or from a version on; one line an entry, one object for programs."""
    run_id = desk.ended()
    shown = lines(desk.ask("runs", "watch", run_id))
    assert ["created:", "start:", "complete:"] == [line[3] for line in shown]
    assert ["in_progress", "->", "completed", "by", "worker"] == shown[2][4:]
    rest = desk.ask("runs", "watch", run_id, "--after", "2", "--json").stdout.splitlines()
    assert [("complete", 3)] == [(entry["event"], entry["version"]) for entry in map(json.loads, rest)]
    for mistake, sentence in (("x", "it is a version, a number"), ("9" * 30, "expected at most")):
        done = desk.ask("runs", "watch", run_id, "--after", mistake)
        assert 2 == done.exit_code
        assert sentence in done.stderr


@pytest.mark.parametrize("by", ["option", "variable"])
@pytest.mark.parametrize(
    "command", [["runs", "watch"], ["worker", "json:dumps", "--until-idle"]], ids=["watch", "worker"]
)
def test_an_address_to_listen_at(command: list[str], by: str, desk: Desk) -> None:
    """It is taken where something is waited for; one that can be none is refused, without its password."""
    run_id = desk.ended()
    whole = [*command, run_id] if "watch" in command else command
    nowhere = "postgresql://me:secret@/runs?port=x"
    for listen_url in (nowhere, desk.url):
        if by == "option":
            done = desk.ask(*whole, "--listen-url", listen_url)
        else:
            done = desk.ask(*whole, RUNSTATE_LISTEN_URL=listen_url)
        assert "secret" not in done.stdout + done.stderr
        if listen_url == nowhere or desk.url.startswith("sqlite:"):
            assert (2, "") == (done.exit_code, done.stdout), done.stderr
            (sentence,) = done.stderr.splitlines()
            assert "listen_url" in sentence
        else:
            assert 0 == done.exit_code, done.stderr


def test_watch_waits_for_what_comes(desk: Desk) -> None:
    """An entry is there when it is committed, and Ctrl-C ends the watch of all runs with one word."""
    command = [sys.executable, "-m", "runstate", "runs", "watch", "--json", "--store", desk.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        stop = threading.Event()

        def keep_creating() -> None:
            while not stop.wait(0.1):
                desk.create()

        creating = threading.Thread(target=keep_creating)
        creating.start()
        try:
            entry = json.loads(running.stdout.readline())
        finally:
            stop.set()
            creating.join()
        assert ("queued", 1) == (entry["target"], entry["version"])
        running.send_signal(signal.SIGINT)
        assert 130 == running.wait(60)
        assert "runstate: interrupted" == running.stderr.read().strip()


def test_watch_of_all_runs_resumes(desk: Desk) -> None:
    """A cursor that an entry came with says where."""
    run_id = desk.ended()
    cursor = desk.said("runs", "history", run_id)["history"][0]["cursor"]
    command = [sys.executable, "-m", "runstate", "runs", "watch", "--after", cursor, "--store", desk.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert ["start:", "complete:"] == [running.stdout.readline().split()[3] for _ in range(2)]
        running.terminate()


# --- ddl, migrate, doctor ---------------------------------------------------------------------------------------------


def test_ddl_prints_what_a_migration_tool_needs(tmp_path: Path) -> None:
    """Without a store; an SQLite shell makes one of it."""
    done = CliRunner().invoke(cli, ["ddl", "--dialect", "sqlite"])
    assert (0, ddl(SQLITE).strip()) == (done.exit_code, done.stdout.strip())
    assert ddl(POSTGRES).strip() == CliRunner().invoke(cli, ["ddl"]).stdout.strip()
    path = tmp_path / "by_hand.db"
    connection = sqlite3.connect(path)
    connection.executescript(done.stdout)
    connection.close()
    with open_store(f"sqlite:///{path}", migrate=False) as store:
        desk = Desk(f"sqlite:///{path}", store)
        desk.create()
        assert 1 == len(lines(desk.ask("runs", "list"))) - 1


def test_migrate_takes_the_missing_steps(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """A dry run names them and makes nothing; taking them twice takes them once."""
    for url in (f"sqlite:///{tmp_path / 'new.db'}", request.getfixturevalue("postgres_url")):

        def ask(*arguments: str, url: str = url) -> Result:
            return CliRunner().invoke(cli, ["migrate", *arguments, "--store", url], catch_exceptions=False)

        dry = ask("--dry-run")
        assert (0, "would take step 1: tables and indexes") == (dry.exit_code, dry.stdout.splitlines()[0])
        assert not (tmp_path / "new.db").exists() or not url.startswith("sqlite")
        assert "runstate migrate" in CliRunner().invoke(cli, ["runs", "list", "--store", url]).stderr
        steps = json.loads(ask("--json").stdout)
        assert [1, 2] == [step["number"] for step in steps["steps"]][:2]
        assert f"nothing to do: the schema is {steps['schema']}\n" == ask().stdout
        assert 0 == CliRunner().invoke(cli, ["runs", "list", "--store", url]).exit_code


def test_doctor_says_what_is_wrong(desk: Desk) -> None:
    """Nothing found is exit code 0; each finding a line with what to do, and exit code 1."""
    run_id = desk.create()
    done = desk.ask("doctor", "--quick-check")
    assert (0, "") == (done.exit_code, done.stderr)
    assert "nothing is wrong (runs: 1, entries: 1, schema: " in done.stdout
    on = "" if desk.url.startswith("sqlite") else " ON runstate_run"
    _by_hand(desk.url, f"DROP TRIGGER runstate_guard_live{on}")
    done = desk.ask("doctor", "--stuck-after", "0s")
    assert 1 == done.exit_code
    error, warning, summary = done.stdout.splitlines()
    assert error.startswith("error: the guard runstate_guard_live on runstate_run is gone: ")
    assert "runstate ddl --dialect" in error
    assert warning.startswith(f"warning: run {run_id} has stood in queued for ")
    assert "1 error, 1 warning" in summary
    said = json.loads(desk.ask("doctor", "--json", "--stuck-after", "0s").stdout)
    assert (1, 1, 1, []) == tuple(said[name] for name in ("runs", "errors", "warnings", "unseen"))
    assert ["guard", "stuck"] == [finding["what"] for finding in said["findings"]]
    assert [None, run_id] == [finding["run"] for finding in said["findings"]]


def _by_hand(url: str, statement: str) -> None:
    if url.startswith("sqlite"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"))
        connection.execute(statement)
        connection.close()
    else:
        with psycopg.connect(url, autocommit=True) as server:
            server.execute(statement.encode())


def test_what_the_doctor_may_not_see_is_told(request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue("postgres_url")
    with open_store(url, migrate=True), psycopg.connect(url):
        asked = f"{url}&options={quote('-crole=pg_read_all_data')}"
        done = CliRunner().invoke(cli, ["doctor", "--store", asked])
    assert "not seen: what " in done.stdout


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("mysql://me:hunter2@host/db", "'mysql' is no dialect of a store"),
        ("runs.db", "'runs.db' is not an address"),
        ("sqlite:/runs.db", "three slashes"),
        ("sqlite:////no/such/folder/runs.db", "there is no database /no/such/folder/runs.db: `runstate migrate`"),
        ("sqlite:////tmp", "it is a folder"),
        ("sqlite:///:memory:", "gone when this command ends"),
        ("postgresql://me:hun%zzter2@127.0.0.1/db", "% is %25"),
        ("postgresql://127.0.0.1/db?password=hun%zzter2", "not a PostgreSQL address"),
        ("postgresql://me:hunter2@127.0.0.1:port/db", "its port is no number"),
        ("postgresql://me:hun/ter2@127.0.0.1/db", "/ is %2F"),
    ],
)
@pytest.mark.parametrize("command", [["runs", "list"], ["doctor"], ["runs", "sweep"]])
def test_a_store_that_is_not_there(url: str, sentence: str, command: list[str]) -> None:
    """Exit code 2 and one line, with no password in it."""
    done = CliRunner().invoke(cli, [*command, "--store", url], catch_exceptions=False)
    assert (2, "") == (done.exit_code, done.stdout)
    assert sentence in done.stderr
    assert 1 == len(done.stderr.splitlines())
    assert "ter2" not in done.stderr
    assert "zz" not in done.stderr


@pytest.mark.parametrize(
    "command", [["runs", "list"], ["runs", "sweep"], ["runs", "show", "run_1"], ["doctor"], ["migrate"]]
)
def test_a_store_that_is_away(command: list[str]) -> None:
    """Exit code 3 and one line: a script may ask again later. A command does not wait; a worker does."""
    url = "postgresql://me:hunter2@127.0.0.1:1/db"
    done = CliRunner().invoke(cli, [*command, "--store", url], catch_exceptions=False)
    assert (3, "") == (done.exit_code, done.stdout)
    assert "cannot connect to postgresql://127.0.0.1:1/db" in done.stderr
    assert 1 == len(done.stderr.splitlines())
    assert "hunter2" not in done.stderr


def test_files_that_are_no_store(tmp_path: Path) -> None:
    """Not a database, a database of others, a store of tomorrow; and a folder that a migration cannot write to."""
    text, other, newer = tmp_path / "text.db", tmp_path / "other.db", tmp_path / "newer.db"
    text.write_text("not a database " * 1000)
    _by_hand(f"sqlite:///{other}", "CREATE TABLE mine (x)")
    open_store(f"sqlite:///{newer}").close()
    connection = sqlite3.connect(newer, isolation_level=None)
    connection.execute("INSERT INTO runstate_migration VALUES (99, 'of tomorrow', 0)")
    connection.close()
    for path, sentence in (
        (text, "is not an SQLite database"),
        (other, "has no store in it"),
        (newer, "was made by a newer runstate"),
    ):
        done = CliRunner().invoke(cli, ["runs", "list", "--store", f"sqlite:///{path}"], catch_exceptions=False)
        assert (2, "") == (done.exit_code, done.stdout)
        assert sentence in done.stderr
    for command in (["migrate"], ["migrate", "--dry-run"]):
        for url, sentence in (
            (f"sqlite:///{text}", "is not an SQLite database"),
            (f"sqlite:///{newer}", "upgrade the library"),
            ("sqlite:///:memory:", "gone when this command ends"),
        ):
            done = CliRunner().invoke(cli, [*command, "--store", url], catch_exceptions=False)
            assert (2, "") == (done.exit_code, done.stdout)
            assert sentence in done.stderr
    done = CliRunner().invoke(cli, ["migrate", "--store", "sqlite:////no/such/folder/x.db"], catch_exceptions=False)
    assert 2 == done.exit_code
    assert "no such folder" in done.stderr


def test_a_role_without_rights(request: pytest.FixtureRequest) -> None:
    """What a role may not do is told with the database's own reason."""
    url = request.getfixturevalue("postgres_url")
    with open_store(url, migrate=True) as store:
        run_id = Desk(url, store).create()
    for options, code, sentence in (
        ("-crole=pg_monitor", 2, "no right to this"),
        ("-cdefault_transaction_read_only=on", 3, "read-only"),
    ):
        asked = f"{url}&options={quote(options)}"
        done = CliRunner().invoke(cli, ["runs", "cancel", run_id, "--store", asked], catch_exceptions=False)
        assert (code, "") == (done.exit_code, done.stdout)
        assert sentence in done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["runs", "show", "run_nobody"], "No run found with id 'run_nobody'."),
        (["runs", "history", "run_nobody"], "No run found with id 'run_nobody'."),
        (["runs", "watch", "run_nobody"], "No run found with id 'run_nobody'."),
        (["runs", "cancel", "run_nobody"], "No run found with id 'run_nobody'."),
        (["runs", "submit", "run_nobody", "call_1=x"], "No run found with id 'run_nobody'."),
        (["runs", "list", "--after", "run_nobody"], "No run found with id 'run_nobody'."),
        (["runs", "list", "--status", "paused"], "paused"),
        (["runs", "list", "--older-than", "90"], "'90' is no span of time: write 90s, 15m, 2h or 30d"),
        (["runs", "list", "--older-than", "-1h"], "is no span of time"),
        (["runs", "prune", "--older-than", "9999999d"], "longer than a thousand years"),
        (["runs", "prune"], "--older-than"),
        (["runs", "list", "--limit", "101"], "101"),
        (["runs", "list", "--metadata", "user"], "'user' is not KEY=VALUE"),
        (["runs", "list", "--metadata", "a=1", "--metadata", "a=2"], "'a' is given twice"),
        (["runs", "submit", "run_1"], "either as CALL_ID=OUTPUT or with --file"),
        (["runs", "submit", "run_1", "a=b", "-f", "-"], "either as CALL_ID=OUTPUT or with --file"),
        (["runs", "submit", "run_1", "a"], "'a' is not KEY=VALUE"),
        (["runs", "submit", "run_1", "a=b", "a=c"], "'a' is given twice"),
        (["runs", "submit", "run_1", "-f", "/no/such/file"], "/no/such/file"),
        (["runs", "create", "--thread", "t"], "--assistant"),
        (
            ["runs", "create", "--thread", "", "--assistant", "a", "--model", "m"],
            "thread_id: is empty",
        ),
        (
            ["runs", "create", "--thread", "t", "--assistant", "a", "--model", "m", "--metadata", f"k={'x' * 513}"],
            "metadata.k: value too long: expected at most 512 characters, got 513",
        ),
        (
            ["runs", "create", "--thread", "t", "--assistant", "a", "--model", "m", "--priority", f"{2**40}"],
            "priority: expected an integer of 32 bits",
        ),
        (["runs", "cancel", "run_\ud800"], "a lone surrogate"),
        (["runs", "cancel", "run_1", "--actor", "\0"], "holds a NUL character"),
        (["runs", "watch", "--after", "nonsense"], "expected a cursor"),
        (["runs", "shwo"], "shwo"),
        (["doctor", "--stuck-after", "soon"], "'soon' is no span of time"),
        (["ddl", "--dialect", "oracle"], "oracle"),
    ],
)
def test_a_mistake_in_the_asking_gets_a_sentence(on_sqlite: Desk, arguments: list[str], sentence: str) -> None:
    """Exit code 2, nothing on stdout, nothing changed."""
    done = on_sqlite.ask(*arguments)
    assert (2, "") == (done.exit_code, done.stdout)
    assert sentence in done.stderr
    assert 0 == sum(on_sqlite.store.counts().values())


def test_no_store_at_all_is_a_mistake() -> None:
    """The message names the option and the variable."""
    done = CliRunner().invoke(cli, ["runs", "list"], env={"RUNSTATE_STORE": None})
    assert 2 == done.exit_code
    assert "--store" in done.stderr
    assert "RUNSTATE_STORE" in done.stderr


def test_a_password_is_nowhere(request: pytest.FixtureRequest) -> None:
    """Not in what a command says of its store, nor in its help."""
    url = request.getfixturevalue("postgres_url").replace("postgres@", "postgres:hunter2@")
    open_store(url, migrate=True).close()
    for command in (["doctor"], ["doctor", "--json"], ["runs", "prune", "--older-than", "0s"], ["runs", "list", "-h"]):
        done = CliRunner().invoke(cli, command, env={"RUNSTATE_STORE": url}, catch_exceptions=False)
        assert "hunter2" not in done.stdout + done.stderr


# --- terminals, pipes, missing libraries ------------------------------------------------------------------------------


def test_a_terminal_gets_colours_and_what_it_has_room_for(on_sqlite: Desk) -> None:
    """Statuses are coloured unless NO_COLOR says no; a narrow screen gets fewer columns and never a broken line."""
    run_id = on_sqlite.create(thread_id=f"thread_{'x' * 80}", queue="日本語" * 4)
    asked = ["runs", "list", "--store", on_sqlite.url]
    assert "\x1b[38;5;" in on_a_terminal(*asked)
    assert "\x1b[38;5;" not in on_a_terminal(*asked, NO_COLOR="1")
    for width in (40, 60, 120):
        shown = on_a_terminal(*asked, NO_COLOR="1", COLUMNS=str(width)).replace("\x1b[1m", "").replace("\x1b[0m", "")
        assert 2 == len(shown.splitlines())
        assert run_id in shown
        assert all(len(line) <= width for line in shown.splitlines())
    assert "x" * 80 in on_sqlite.ask("runs", "list").stdout
    waiting = on_sqlite.asking("call_1")
    shown = on_a_terminal(*asked, NO_COLOR="1", COLUMNS="40")
    assert f"{waiting}  requires_…" in shown
    for width in (30, 60):
        shown = on_a_terminal("runs", "show", run_id, "--store", on_sqlite.url, NO_COLOR="1", COLUMNS=str(width))
        assert "x" * 15 in shown


def test_what_strangers_wrote_is_told_and_not_obeyed(on_sqlite: Desk) -> None:
    """An escape sequence in a thread's name or an error is shown, never sent."""
    run_id = on_sqlite.create(thread_id="thread_\x1b[2J\n", queue="a\tb")
    on_sqlite.store.start(run_id, actor="worker\x1b[31m")
    on_sqlite.store.fail(run_id, "server_error", "line\nbreak\x07", actor="worker\x1b[31m")
    for command in (["list"], ["show", run_id], ["history", run_id], ["watch", run_id]):
        done = on_sqlite.ask("runs", *command)
        assert 0 == done.exit_code
        assert not {"\x1b", "\x07", "\t"} & set(done.stdout)
    assert r"thread_\x1b[2J\n" in on_sqlite.ask("runs", "list").stdout


@pytest.mark.parametrize("columns", ["20", "80"])
def test_a_pipe_gets_whole_lines(on_sqlite: Desk, columns: str) -> None:
    """Whatever COLUMNS says, a row is one line, and nothing of it is cut."""
    markup = "[bold]not bold[/bold] :smile: [/]"
    thread_id, message = f"{'x' * 400} {markup}", f"{'word ' * 2000}{markup}"
    run_id = on_sqlite.create(thread_id=thread_id, queue="日本語" * 100)
    on_sqlite.store.start(run_id, actor=markup)
    on_sqlite.store.fail(run_id, "server_error", message)
    listed, shown, told = (
        on_sqlite.ask("runs", *command, COLUMNS=columns).stdout
        for command in (["list"], ["show", run_id], ["history", run_id])
    )
    row = listed.splitlines()[1]
    assert 2 == len(listed.splitlines())
    assert row.startswith(f"{run_id}  failed  ")
    assert f"  {thread_id}  {'日本語' * 100}  gpt-4o" in row
    assert f"error      server_error: {message}" in shown.splitlines()
    assert f"thread     {thread_id}" in shown.splitlines()
    assert told.splitlines()[2].endswith(f"  {markup}")
    assert not [line for line in (listed + shown + told).splitlines() if line != line.rstrip()]


def test_the_store_s_commands_in_a_pipe(on_sqlite: Desk) -> None:
    """Whoever reads one line gets one line, and no complaint."""
    for _ in range(50):
        on_sqlite.create()
    command = (
        f"{shlex.quote(sys.executable)} -m runstate runs list --limit 50 --store {shlex.quote(on_sqlite.url)} | head -1"
    )
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert "" == done.stderr
    assert done.stdout.startswith("id ")
    ascii_only = process("runs", "show", on_sqlite.create(), "--store", on_sqlite.url, PYTHONIOENCODING="ascii")
    assert (0, "") == (ascii_only.returncode, ascii_only.stderr)


def test_the_doctor_shows_a_person_how_far_it_is(on_sqlite: Desk) -> None:
    """On a terminal the findings are folded, and what to do is said once for those that share it."""
    for _ in range(3):
        on_sqlite.create()
    on_sqlite.store.create(thread_id="t", assistant_id="a", model="m", queue="other")
    on_sqlite.store.close()
    command = [sys.executable, "-m", "runstate", "doctor", "--stuck-after", "0s", "--store", on_sqlite.url]
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "60", "NO_COLOR": "1"}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env) as running:
        os.close(theirs)
        written = b""
        try:
            while chunk := os.read(ours, 65536):
                written += chunk
        except OSError:  # Linux says so when the other side has closed
            pass
        assert 1 == running.wait(60)
    os.close(ours)
    assert 4 == written.count(b"has stood in")
    assert 2 == written.count(b"let more workers")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (["--lease", "0s"], "lease_s: expected a number from 0.05 to 86400, got 0.0"),
        (["--lease", "2d"], "lease_s: expected a number from 0.05 to 86400, got 172800.0"),
        (["--name", ""], "name: is empty"),
    ],
)
def test_a_worker_that_cannot_be(wrong: list[str], told: str, on_sqlite: Desk) -> None:
    """A setting that is out of its range is told in a sentence, before anything is claimed."""
    done = process("worker", "builtins:repr", *wrong, "--until-idle", "--store", on_sqlite.url)
    assert (2, 1) == (done.returncode, done.stderr.count("\n"))
    assert told in done.stderr


def test_a_module_that_fails_to_be_imported(on_sqlite: Desk, tmp_path: Path) -> None:
    """It is told why, and not that the handler is missing."""
    (tmp_path / "wrong_app.py").write_text(
        "raise LookupError('of the module\\'s own')\n\n\ndef answer(ctx):\n    pass\n", encoding="utf-8"
    )
    done = process("worker", "wrong_app:answer", "--store", on_sqlite.url, PYTHONPATH=str(tmp_path))
    assert 2 == done.returncode
    assert "cannot import wrong_app: LookupError: of the module's own" in done.stderr


def test_the_table_does_not_wait_for_the_store() -> None:
    """A command loads what it needs, and the list of the commands about runs loads no database."""
    for arguments in (["runs", "--help"], ["table"], ["ddl", "--help"]):
        # What was there before is not the command's doing: a coverage tool looks in first.
        asked = f"from runstate.cli import cli; cli.main({arguments!r}, 'runstate', standalone_mode=False)"
        code = f"import sys; before = {{*sys.modules}}; {asked}; print(*({{*sys.modules}} - before))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        assert set() == {"sqlite3", "psycopg", "runstate.store._api"} & set(done.stdout.splitlines()[-1].split())


def test_without_psycopg_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['psycopg'] = None; from runstate.__main__ import main; main()"
    command = [sys.executable, "-c", code, "runs", "list", "--store", "postgresql://host/db"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (2, 1) == (done.returncode, len(done.stderr.splitlines()))
    assert "PostgreSQL needs psycopg: pip install 'runstate[postgres]'\n" in done.stderr


def test_moments_past_all_calendars() -> None:
    """What was written by hand is told as it is."""
    assert "" == moment(None)
    assert f"{10**20} us" == moment(10**20)
    assert "1970-01-01 00:00:01" == moment(1_999_999)


@pytest.mark.parametrize("text", ["", "h", "1", "1x", "1h ", "h1", "1 h", "١h", "1e3s", "--"])
def test_what_is_no_span_of_time(text: str) -> None:
    import click

    with pytest.raises(click.BadParameter):
        duration(text)


# --- names of queues ------------------------------------------------------------------------------------------------


def test_several_statuses_in_one_option(desk: Desk) -> None:
    """With commas, repeated, or both; a word that is no status is named."""
    queued, ended = desk.create(), desk.ended()
    for options in (
        ["--status", "queued,completed"],
        ["--status", "queued", "--status", "completed"],
        ["--status", "failed, queued", "--status", "completed"],
    ):
        found = [each["run"]["id"] for each in desk.said("runs", "list", *options)["data"]]
        assert found == [ended, queued]
    for wrong in ("completed,paused", "paused", "completed,", ""):
        done = desk.ask("runs", "list", "--status", wrong)
        assert (done.exit_code, done.stdout) == (2, "")
        for named in ("--status", wrong.rpartition(",")[2], *RunStatus):
            assert f"'{named}'" in done.stderr


def test_a_list_of_a_queue_that_nothing_waits_in(desk: Desk) -> None:
    """Where nothing is found, the queues in which runs wait are named; for programs nothing is."""
    assert desk.ask("runs", "list", "--queue", "mial").stderr == "no such runs\n"
    desk.create(queue="mail")
    desk.create(queue="mail")
    desk.create()
    done = desk.ask("runs", "list", "--queue", "mial")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == "no such runs; no run waits in the queue mial; runs wait in: default (1), mail (2)\n"
    assert desk.said("runs", "list", "--queue", "mial")["data"] == []
    assert desk.ask("runs", "list", "--queue", "mail", "--status", "failed").stderr == "no such runs\n"


def test_a_run_in_a_queue_that_is_much_like_another(desk: Desk) -> None:
    """It is created all the same, and stderr asks whether the other was meant."""
    desk.create(queue="mail")
    names = ["--thread", "thread_1", "--assistant", "asst_1", "--model", "gpt-4o"]
    done = desk.ask("runs", "create", *names, "--queue", "mial")
    assert (done.exit_code, done.stderr) == (0, "no other run waits in the queue mial; did you mean mail?\n")
    assert desk.store.get(done.stdout.strip()).queue == "mial"
    for queue in ("mail", "default", "something else"):
        assert desk.ask("runs", "create", *names, "--queue", queue).stderr == ""


def test_a_worker_of_a_queue_that_nothing_waits_in(desk: Desk, tmp_path: Path) -> None:
    """It works, and says at its start where runs wait; where one waits in a queue of its own it says nothing."""
    (tmp_path / "handlers.py").write_text("def answer(ctx): pass\n", encoding="utf-8")
    desk.create(queue="mail")
    environment = {"RUNSTATE_STORE": desk.url, "PYTHONPATH": str(tmp_path)}
    done = process("worker", "handlers:answer", "--until-idle", "--queue", "mial", **environment)
    assert done.returncode == 0
    assert "no run waits in the queue mial; runs wait in: mail (1)\n" in done.stderr
    done = process("worker", "handlers:answer", "--until-idle", "--queue", "mial", "--queue", "mail", **environment)
    assert "waits" not in done.stderr
    assert desk.store.counts()["completed"] == 1  # type: ignore[index]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("handlers.py:answer", "handlers:answer"),
        ("./handlers.py:answer", "handlers:answer"),
        ("../handlers.py:answer", "handlers:answer"),
        ("my_app/handlers.py:answer", "my_app.handlers:answer"),
        ("my_app/handlers:answer", "my_app.handlers:answer"),
        ("my_app\\handlers.py:answer", "my_app.handlers:answer"),
        ("/srv/my_app/handlers.py:answer", "handlers:answer"),
        ("there_is_none.py:Answers.answer", "there_is_none:Answers.answer"),
    ],
)
def test_a_handler_in_a_file(on_sqlite: Desk, tmp_path: Path, given: str, meant: str) -> None:
    """A file in the place of a module is told with what to write."""
    (tmp_path / "handlers.py").write_text("def answer(ctx): pass\n", encoding="utf-8")
    done = process("worker", given, RUNSTATE_STORE=on_sqlite.url, PYTHONPATH=str(tmp_path))
    assert (2, "") == (done.returncode, done.stdout)
    assert f"{given}: expected a module, not its file: write {meant}\n" in done.stderr


def test_a_module_named_py(on_sqlite: Desk, tmp_path: Path) -> None:
    """It is a module as any other."""
    (tmp_path / "handlers").mkdir()
    (tmp_path / "handlers" / "py.py").write_text("def answer(ctx): pass\n", encoding="utf-8")
    done = process(
        "worker", "handlers.py:answer", "--until-idle", RUNSTATE_STORE=on_sqlite.url, PYTHONPATH=str(tmp_path)
    )
    assert 0 == done.returncode


def test_the_store_tells_its_queues(desk: Desk) -> None:
    """Only those in which a run waits, in order, each with how many."""
    nothing: dict[str, int] = {}
    assert desk.store.queues() == nothing
    for queue in ("b", "a", "b"):
        desk.create(queue=queue)
    desk.ended()
    assert list(desk.store.queues().items()) == [("a", 1), ("b", 2)]


# --- a worker whose store is away -------------------------------------------------------------------------------------


@contextmanager
def worker_of(url: str, folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command in a process of its own, which ends with the block at the latest."""
    (folder / "hand.py").write_text("async def answer(ctx):\n    pass\n")
    command = [sys.executable, "-m", "runstate", "worker", "hand:answer", "--store", url, *options]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, start_new_session=True) as running:
        try:
            yield running
        finally:
            running.kill()


def hear(running: subprocess.Popen[str], words: str) -> str:
    """Return all that a process says up to a line with these words in it."""
    assert running.stderr is not None
    told = ""
    while words not in " ".join(told.split()):
        line = running.stderr.readline()
        assert line, told
        told += line
    return told


@pytest.fixture
def shut(postgres_server: Server, postgres_url: str) -> Iterator[tuple[str, Callable[[], object]]]:
    """The URL of a store that takes no connection, with a run in it, and what lets connections in again."""
    name = str(conninfo_to_dict(postgres_url)["dbname"])
    with open_store(postgres_url, migrate=True) as store:
        Desk(postgres_url, store).create()
    with psycopg.connect(postgres_server.address, autocommit=True) as admin:

        def allow(is_on: str) -> None:
            admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {is_on}".encode())

        allow("false")
        yield postgres_url, lambda: allow("true")
        allow("true")


def test_a_worker_that_begins_while_its_store_is_away(shut: tuple[str, Callable[[], object]], tmp_path: Path) -> None:
    """It says so once, and works as soon as the store is there."""
    url, allow = shut
    with worker_of(url, tmp_path, "--until-idle") as running:
        assert 1 == hear(running, "asking again").count("cannot connect")
        assert running.poll() is None
        allow()
        told = hear(running, "has ended; 1 outcome committed")
        assert 0 == running.wait(60)
    assert "cannot connect" not in told
    assert "the store is back after" in " ".join(told.split())
    with open_store(url) as store:
        assert "completed" == store.list().data[0].status


@pytest.mark.parametrize(("number", "code", "words"), [(signal.SIGTERM, 0, "stopped"), (signal.SIGINT, 130, "interr")])
def test_a_worker_that_is_stopped_while_its_store_is_away(
    number: signal.Signals, code: int, words: str, shut: tuple[str, Callable[[], object]], tmp_path: Path
) -> None:
    """A signal ends it although it is not a worker yet."""
    with worker_of(shut[0], tmp_path) as running:
        hear(running, "asking again")
        running.send_signal(number)
        hear(running, words)
        assert code == running.wait(60)


REMARK = """
import os, signal
from runstate.cli.commands import worker
from runstate.errors import StoreUnavailable

def empty_queues(store, queues):
    {}

worker.empty_queues = empty_queues
worker.worker(["json:dumps", "--until-idle", "--store", "{}"])
"""


@pytest.mark.parametrize(
    ("act", "outcomes", "status"),
    [
        ("raise StoreUnavailable('full for now')", "1 outcome", "failed"),
        ("os.kill(os.getpid(), signal.SIGTERM)", "0 outcomes", "queued"),
    ],
    ids=["away", "stopped"],
)
def test_a_worker_before_it_works(act: str, outcomes: str, status: str, on_sqlite: Desk) -> None:
    """A remark on its queues is no reason to end, and a signal that comes meanwhile stops it as any other."""
    run = on_sqlite.create()
    done = subprocess.run(
        [sys.executable, "-c", REMARK.format(act, on_sqlite.url)], capture_output=True, text=True, timeout=60
    )
    assert (0, f"{outcomes} committed") == (done.returncode, done.stderr.split("; ")[-1].strip()), done.stderr
    assert status == on_sqlite.store.get(run).status


def test_a_worker_whose_store_is_wrong(postgres_url: str, tmp_path: Path) -> None:
    """A database that is not there, or has no store, ends it at once."""
    for url, sentence in (
        (postgres_url.replace("runstate_test", "no_such"), "does not exist"),
        (postgres_url, "has no store in it"),
    ):
        with worker_of(url, tmp_path) as running:
            told = hear(running, sentence)
            assert 2 == running.wait(60)
        assert "asking again" not in told
