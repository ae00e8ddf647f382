"""The commands about stored runs and their database: output, effects, exit codes."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
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
from rich.console import Console

from runstate import ManualClock, Run, RunStatus, ToolCall, Usage, use_clock
from runstate.cli import cli
from runstate.cli._logs import log_handler
from runstate.cli._times import duration, format_utc
from runstate.cli.commands import runs_maintain
from runstate.errors import RunNotFound
from runstate.store import Checkpoint, Store, open_store
from runstate.store._sql.dialect import POSTGRES, SQLITE
from runstate.store._sql.migrations import ddl
from runstate.traces import judge
from runstate.worker import Context, RetryPolicy, Worker, drive
from tests.cli.test_cli import run_on_terminal, run_process
from tests.store.support import names
from tests.support.cli_runner import CliRunner, Result
from tests.support.postgres import Server, postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url"]  # so that tests here can ask for them


@attrs.frozen
class StoreCli:
    """A store, and the command line on it."""

    url: str
    store: Store

    def invoke(self, *arguments: str | Path, stdin: str | bytes | None = None, **environment: str) -> Result:
        """Call the command with the store in its environment."""
        env = {"RUNSTATE_STORE": self.url, "NO_COLOR": None, **environment}
        return CliRunner().invoke(cli, [*map(str, arguments)], input=stdin, env=env, catch_exceptions=False)

    def invoke_json(self, *arguments: str, **options: Any) -> Any:
        """Call the command with --json; return the value."""
        result = self.invoke(*arguments, "--json", **options)
        assert "" == result.stderr
        return json.loads(result.stdout)

    def create(self, **given: Any) -> str:
        """Create a run, and return its id."""
        return self.store.create(**{"thread_id": "thread_1", "assistant_id": "asst_1", "model": "gpt-4o", **given}).id

    def waiting_for(self, *calls: str) -> str:
        """Create a run that waits for the outputs of tool calls."""
        run_id = self.create()
        self.store.start(run_id)
        self.store.require_action(run_id, [ToolCall(call, "weather", '{"city": "Paris"}') for call in calls])
        return run_id

    def completed(self) -> str:
        """Create a completed run."""
        run_id = self.create()
        self.store.start(run_id, actor="worker")
        self.store.complete(run_id, Usage(12, 30), actor="worker")
        return run_id


def emitted(store_cli: StoreCli, *values: Any) -> str:
    """Create a run under a lease, whose handler has emitted these values."""
    run_id = store_cli.create()
    lease = store_cli.store.open_lease("w1", lease_s=600)
    claim = store_cli.store.claim_id(lease, run_id)
    assert claim is not None
    emitter = store_cli.store.emitter(lease, claim.run)
    for value in values:
        emitter.emit(value)
    emitter.flush()
    return run_id


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a store that does not exist yet."""
    return f"sqlite:///{tmp_path / 'runs.db'}"


@pytest.fixture(params=["sqlite_url", pytest.param("postgres_url", marks=pytest.mark.slow)])
def store_cli(request: pytest.FixtureRequest) -> Iterator[StoreCli]:
    """A store in either dialect."""
    url = request.getfixturevalue(request.param)
    with open_store(url, migrate=True) as store:
        yield StoreCli(url, store)


@pytest.fixture
def sqlite_cli(sqlite_url: str) -> Iterator[StoreCli]:
    """A store in SQLite, for tests that do not depend on the dialect."""
    with open_store(sqlite_url) as store:
        yield StoreCli(sqlite_url, store)


def split_lines(result: Result) -> list[list[str]]:
    return [line.split() for line in result.stdout.splitlines()]


# --- create, list, show, history --------------------------------------------------------------------------------------


def test_create_prints_the_id_and_nothing_else(store_cli: StoreCli) -> None:
    """A shell can use the id. The run has all that was given."""
    arguments = ["--thread", "t", "--assistant", "a", "--model", "m", "--metadata", "user=ada", "--metadata", "x=1=2"]
    result = store_cli.invoke("runs", "create", *arguments, "--queue", "slow", "--priority", "-3", "--actor", "me")
    assert (0, "") == (result.exit_code, result.stderr)
    run = store_cli.store.get(result.stdout.strip())
    assert ("t", "a", "m") == (run.thread_id, run.assistant_id, run.model)
    assert ({"user": "ada", "x": "1=2"}, "slow", -3, "me") == (run.metadata, run.queue, run.priority, run.actor)
    data = store_cli.invoke_json("runs", "create", *arguments)
    assert run.metadata == data["run"]["metadata"]
    assert "queued" == data["run"]["status"]


def test_create_with_an_idempotency_key(store_cli: StoreCli) -> None:
    """The same key creates one run. An empty key is refused."""
    arguments = ["runs", "create", "--thread", "t", "--assistant", "a", "--model", "m", "--idempotency-key"]
    first, again, other = (store_cli.invoke(*arguments, key).stdout for key in ("order-1", "order-1", "order-2"))
    assert first == again != other
    for empty in ("", " "):
        result = store_cli.invoke(*arguments, empty)
        assert (2, "") == (result.exit_code, result.stdout)
        assert "idempotency_key: is " in result.stderr
    refused = store_cli.invoke(*arguments, "order-1", "--queue", "slow")
    assert (1, "") == (refused.exit_code, refused.stdout)
    assert "belongs to run" in refused.stderr
    assert 2 == len(store_cli.store.list().data)


def test_list_has_every_filter_of_the_store(store_cli: StoreCli) -> None:
    """As a table, and as JSON in the form of the API."""
    first = store_cli.create(thread_id="other", queue="slow", metadata={"user": "ada"})
    second, third = store_cli.completed(), store_cli.create(metadata={"user": "ada", "plan": "free"})
    assert [third, second, first] == [line[0] for line in split_lines(store_cli.invoke("runs", "list"))[1:]]

    def ids(*arguments: str) -> list[str]:
        return [item["run"]["id"] for item in store_cli.invoke_json("runs", "list", *arguments)["data"]]

    assert [first, second, third] == ids("--order", "asc")
    assert [first] == ids("--thread", "other") == ids("--queue", "slow")
    assert [third, first] == ids("--metadata", "user=ada")
    assert [third] == ids("--metadata", "user=ada", "--metadata", "plan=free")
    assert [second] == ids("--status", "completed", "--status", "failed")
    assert [] == ids("--older-than", "1h")
    assert [third, second, first] == ids("--younger-than", "1h") == ids("--older-than", "0s")
    assert [third, second, first] == ids("--changed-within", "1h") == ids("--unchanged-for", "0s")
    assert [second] == ids("--ended-within", "1h")
    assert [] == ids("--unchanged-for", "1h") == ids("--attempts-above", "0") == ids("--past-deadline")
    assert [second, first] == ids("--after", third)
    assert [third] == ids("--before", second)
    page = store_cli.invoke_json("runs", "list", "--limit", "2")
    assert ("list", third, second, True) == tuple(page[name] for name in ("object", "first_id", "last_id", "has_more"))
    assert f"there are more: --after {second}\n" == store_cli.invoke("runs", "list", "--limit", "2").stderr
    assert f"--before {second}\n" in store_cli.invoke("runs", "list", "--limit", "1", "--before", first).stderr
    nothing = store_cli.invoke("runs", "list", "--thread", "absent")
    assert (0, "", "no such runs\n") == (nothing.exit_code, nothing.stdout, nothing.stderr)


def test_other_commands_read_the_json_of_list_and_show(store_cli: StoreCli) -> None:
    """The JSON of a page or a run is a recording for `check` and `diagram`."""
    run_id = store_cli.completed()
    page = store_cli.invoke("runs", "list", "--json").stdout
    assert 0 == store_cli.invoke("check", "-", stdin=page).exit_code
    shown = store_cli.invoke("runs", "show", run_id, "--json").stdout
    assert 0 == store_cli.invoke("check", "-", stdin=shown).exit_code
    assert f"{run_id} is completed" in store_cli.invoke("diagram", "--run", "-", stdin=shown).stdout


def test_show_prints_the_progress(store_cli: StoreCli) -> None:
    """The last progress that the handler reported."""
    run_id = store_cli.store.create(thread_id="t", assistant_id="a", model="m").id
    assert store_cli.invoke_json("runs", "show", run_id)["progress"] is None

    def say(ctx: Context) -> None:
        ctx.progress("page 3 of 6")

    drive(store_cli.store, run_id, say)
    assert "page 3 of 6" == store_cli.invoke_json("runs", "show", run_id)["progress"]
    assert "page 3 of 6" in store_cli.invoke("runs", "show", run_id).stdout


def test_show_prints_lanes_fields_and_history(store_cli: StoreCli) -> None:
    """The lanes with the run in them, its fields, and its history with times and durations."""
    run_id = store_cli.waiting_for("call_1", "call_2")
    result = store_cli.invoke("runs", "show", run_id)
    assert (0, "") == (result.exit_code, result.stderr)
    assert result.stdout.startswith(f"run {run_id} is requires_action")
    assert "call_1: weather({" in result.stdout
    assert "(in 9m 5" in result.stdout
    table = split_lines(result)[-4:]
    assert ["version", "at", "(UTC)", "event", "to", "for", "by"] == table[0]
    assert [["created", "queued"], ["start", "in_progress"], ["require_action", "requires_action"]] == [
        row[3:5] for row in table[1:]
    ]
    assert ["so", "far"] == table[3][-2:]
    data = store_cli.invoke_json("runs", "show", run_id)
    assert (3, store_cli.store.get(run_id).to_dict()) == (data["version"], data["run"])
    assert [1, 2, 3] == [entry["version"] for entry in data["history"]]
    assert () == judge(Run.from_dict(data["run"]))


@pytest.mark.parametrize(
    ("events", "line"),
    [
        (("start", "complete"), "usage      12 + 30 tokens"),
        (("start", "fail"), "error      server_error: it broke"),
        (("start", "mark_incomplete"), "incomplete max_prompt_tokens"),
    ],
)
def test_show_prints_the_outcome(sqlite_cli: StoreCli, events: tuple[str, ...], line: str) -> None:
    run_id, store = sqlite_cli.create(), sqlite_cli.store
    arguments: dict[str, tuple[Any, ...]] = {
        "complete": (Usage(12, 30),),
        "fail": ("server_error", "it broke"),
        "mark_incomplete": ("max_prompt_tokens",),
    }
    for event in events:
        getattr(store, event)(run_id, *arguments.get(event, ()))
    shown = sqlite_cli.invoke("runs", "show", run_id).stdout
    assert line.split() in [each.split() for each in shown.splitlines()]
    assert "expires" not in shown.split("\n\n")[1]


def test_show_prints_why_a_run_is_not_claimed(sqlite_cli: StoreCli, clock: ManualClock) -> None:
    """A run that is blocked by another of its thread, and one whose deadline has passed."""
    for _ in range(2):
        run_id = sqlite_cli.create(one_live_run_per_thread="queue")
    assert "behind its thread's live run" in sqlite_cli.invoke("runs", "show", run_id).stdout
    late = sqlite_cli.create(expires_in_s=1)
    clock.advance(1.1)
    (expires,) = (line for line in sqlite_cli.invoke("runs", "show", late).stdout.splitlines() if line[:7] == "expires")
    assert expires.endswith(" ago)")


def test_show_is_consistent(sqlite_cli: StoreCli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that changes between two reads is shown with exactly the history up to its version."""
    run_id = sqlite_cli.create()
    look = Store.history

    def history_and_move(store: Store, run_id: str, **options: Any) -> Any:
        entries = look(store, run_id, **options)
        if len(entries) == 1:
            sqlite_cli.store.start(run_id)
        else:
            sqlite_cli.store.complete(run_id)
            entries = look(store, run_id, **options)
        return entries

    monkeypatch.setattr(Store, "history", history_and_move)
    data = sqlite_cli.invoke_json("runs", "show", run_id)
    assert (2, "in_progress") == (data["version"], data["run"]["status"])
    assert [1, 2] == [entry["version"] for entry in data["history"]]


def test_history_is_the_same_table_alone(store_cli: StoreCli) -> None:
    """Oldest first; the JSON has the details of each entry."""
    run_id = store_cli.waiting_for("call_1")
    rows = split_lines(store_cli.invoke("runs", "history", run_id))
    assert ["created", "start", "require_action"] == [row[3] for row in rows[1:]]
    data = store_cli.invoke_json("runs", "history", run_id)
    assert run_id == data["run_id"]
    assert "call_1" == data["history"][2]["detail"]["required_action"]["submit_tool_outputs"]["tool_calls"][0]["id"]


# --- cancel, submit ---------------------------------------------------------------------------------------------------


def test_cancel_tries_each_run_and_prints_each_refusal(store_cli: StoreCli) -> None:
    """A run without a worker is cancelled, another is cancelling, an ended one is refused: exit code 1."""
    queued, started, ended = store_cli.create(), store_cli.create(), store_cli.completed()
    store_cli.store.start(started)
    result = store_cli.invoke("runs", "cancel", queued, started, queued, ended, "--actor", "ada")
    assert [f"{queued} is cancelled", f"{started} is cancelling"] == result.stdout.splitlines()
    assert f"run {ended} is completed (by complete, worker) and cannot request_cancel" in result.stderr
    assert 1 == result.exit_code
    assert "ada" == store_cli.store.get(started).actor
    assert 3 == len(store_cli.store.history(ended))
    assert (
        0 == store_cli.invoke("runs", "cancel", started, "--actor", "ada").exit_code
    )  # a repeated request is accepted
    both = store_cli.invoke("runs", "cancel", ended, "run_absent", "--json")
    assert (2, {"data": []}) == (both.exit_code, json.loads(both.stdout))
    assert "No run found with id 'run_absent'." in both.stderr
    assert ["cancelled"] == [
        item["run"]["status"] for item in store_cli.invoke_json("runs", "cancel", store_cli.create())["data"]
    ]


def test_submit_takes_outputs_in_four_forms(store_cli: StoreCli, tmp_path: Path) -> None:
    """As arguments, as an object, as the list of the API, and as the body of its request; from a file or stdin."""
    listed = [{"tool_call_id": "call_1", "output": "a=b"}, {"tool_call_id": "call_2", "output": ""}]
    forms: list[object] = [{"call_1": "a=b", "call_2": ""}, listed, {"tool_outputs": listed}]
    expected = {"tool_outputs": {"call_1": "a=b", "call_2": ""}}
    file = tmp_path / "outputs.json"
    for place, form in enumerate(forms):
        run_id = store_cli.waiting_for("call_1", "call_2")
        file.write_text(json.dumps(form))
        source = ("-", file.read_text()) if place else (str(file), None)
        result = store_cli.invoke("runs", "submit", run_id, "--file", source[0], stdin=source[1])
        assert (0, f"{run_id} is queued\n") == (result.exit_code, result.stdout)
        assert expected == store_cli.store.history(run_id)[-1].detail
    run_id = store_cli.waiting_for("call_1", "call_2")
    data = store_cli.invoke_json("runs", "submit", run_id, "call_1=a=b", "call_2=", "--actor", "ada")
    assert ("queued", "ada") == (data["run"]["status"], data["actor"])
    assert expected == store_cli.store.history(run_id)[-1].detail


def test_outputs_that_do_not_fit_are_refused(store_cli: StoreCli) -> None:
    """A refusal is exit code 1, and no run has changed."""
    run_id, queued = store_cli.waiting_for("call_1", "call_2"), store_cli.create()
    for arguments, sentence in (
        ((run_id, "call_1=x"), "Expected tool outputs for call_ids ['call_1', 'call_2'], got ['call_1']"),
        ((queued, "call_1=x"), "cannot submit_tool_outputs; allowed there: start, request_cancel, fail, expire"),
    ):
        result = store_cli.invoke("runs", "submit", *arguments)
        assert (1, "") == (result.exit_code, result.stdout)
        assert sentence in result.stderr
    assert (3, 1) == (store_cli.store.get(run_id).version, store_cli.store.get(queued).version)


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
def test_a_file_without_outputs(sqlite_cli: StoreCli, content: bytes, sentence: str) -> None:
    run_id = sqlite_cli.waiting_for("call_1")
    result = sqlite_cli.invoke("runs", "submit", run_id, "-f", "-", stdin=content)
    assert (2, "") == (result.exit_code, result.stdout)
    assert sentence in result.stderr
    assert 3 == sqlite_cli.store.get(run_id).version


def test_outputs_after_the_deadline(store_cli: StoreCli) -> None:
    """Exit code 1, and the time when the run expired, by this request. The history has the requested event."""
    run_id = store_cli.waiting_for("call_1")
    with use_clock(ManualClock(store_cli.store.get(run_id).created_at + 3600)):
        result = store_cli.invoke("runs", "submit", run_id, "call_1=sunny", "--actor", "ada")
    assert (1, "") == (result.exit_code, result.stdout)
    refused = f"run {run_id} is expired (by expire, ada) and cannot submit_tool_outputs; the store expired it at 20"
    assert refused in result.stderr
    assert "because its deadline had passed" in result.stderr
    last = store_cli.invoke_json("runs", "history", run_id)["history"][-1]
    assert ("expire", "ada", "submit_tool_outputs") == (last["event"], last["actor"], last["detail"]["asked"])


# --- sweep, prune -----------------------------------------------------------------------------------------------------


def test_sweep_does_what_is_due(store_cli: StoreCli, clock: ManualClock) -> None:
    """A dry run prints what would be done and changes nothing. After a sweep nothing is due."""
    late, fine = store_cli.create(expires_in_s=1), store_cli.create()
    lease = store_cli.store.open_lease("dead", lease_s=0.05)
    store_cli.create(queue="other")
    assert store_cli.store.claim(lease, queues=["other"])
    clock.advance(1.1)
    dry = store_cli.invoke("runs", "sweep", "--dry-run")
    assert f"{late} would be expired\n" == dry.stdout
    assert "dry run: 1 expired, 1 lease closed, 1 waits to be taken over\n" == dry.stderr
    assert "queued" == store_cli.store.get(late).status
    data = store_cli.invoke_json("runs", "sweep", "--dry-run")
    assert ([late], 1, 1, False) == (data["expired"], data["expired_leases"], data["orphaned"], data["more"])
    result = store_cli.invoke("runs", "sweep", "--actor", "cron")
    assert (0, f"{late} expired\n") == (result.exit_code, result.stdout)
    assert ("expired", "cron") == (store_cli.store.get(late).status, store_cli.store.get(late).actor)
    assert "queued" == store_cli.store.get(fine).status
    store_cli.store.sweep()
    assert "1 waits to be taken over\n" == store_cli.invoke("runs", "sweep").stderr


def test_sweep_goes_on_until_nothing_is_due(
    sqlite_cli: StoreCli, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many runs there are. A dry run looks at some, and prints that there are more."""
    monkeypatch.setattr(runs_maintain, "_SWEEP_LIMIT", 50)
    sqlite_cli.store.create_many(
        {"thread_id": "t", "assistant_id": "a", "model": "m", "expires_in_s": 1} for _ in range(110)
    )
    clock.advance(1.1)
    assert sqlite_cli.invoke_json("runs", "sweep", "--dry-run")["more"]
    assert "dry run: 50 expired, and more\n" == sqlite_cli.invoke("runs", "sweep", "--dry-run").stderr
    assert 110 == len(sqlite_cli.invoke_json("runs", "sweep")["expired"])
    assert "nothing is due\n" == sqlite_cli.invoke("runs", "sweep").stderr


def test_prune_asks_for_confirmation(store_cli: StoreCli) -> None:
    """Without a terminal and without --yes, it is exit code 2, and nothing is deleted."""
    ended, live = store_cli.completed(), store_cli.create()
    assert (0, "no run ended that long ago\n") == _outcome(
        store_cli.invoke("runs", "prune", "--older-than", "30d", "--yes")
    )
    assert (0, "1 run would be deleted\n") == _outcome(
        store_cli.invoke("runs", "prune", "--older-than", "0s", "--dry-run")
    )
    result = store_cli.invoke("runs", "prune", "--older-than", "0s")
    assert (2, "") == _outcome(result)
    assert "1 run would be deleted from" in result.stderr
    assert "say --yes, or --dry-run" in result.stderr
    assert store_cli.store.get(ended)
    data = store_cli.invoke_json("runs", "prune", "--older-than", "0s", "--yes")
    assert {"dry_run": False, "prunable": 1, "deleted": 1} == data
    with pytest.raises(RunNotFound):
        store_cli.store.get(ended)
    assert store_cli.store.get(live)


def _outcome(result: Result) -> tuple[int, str]:
    return result.exit_code, result.stdout


def test_prune_deletes_in_batches(sqlite_cli: StoreCli, monkeypatch: pytest.MonkeyPatch) -> None:
    """More runs than in one transaction."""
    made = sqlite_cli.store.create_many({"thread_id": "t", "assistant_id": "a", "model": "m"} for _ in range(120))
    monkeypatch.setattr(runs_maintain, "_PRUNE_LIMIT", 50)
    for run in made[:110]:
        sqlite_cli.store.expire(run.id)
    assert "110 runs deleted\n" == sqlite_cli.invoke("runs", "prune", "--older-than", "0s", "--yes").stdout
    assert 10 == sum(sqlite_cli.store.counts().values())


def test_prune_deletes_output_events(store_cli: StoreCli) -> None:
    """Of runs that have ended: the runs stay, or are pruned too. A run without events is not counted."""
    live, ended = emitted(store_cli, "a"), emitted(store_cli, "b", "c")
    store_cli.store.complete(ended)
    store_cli.completed()
    for age, count in (("30d", "0 runs"), ("0s", "1 run")):
        result = store_cli.invoke("runs", "prune", "--events-older-than", age, "--dry-run")
        assert (0, f"the output events of {count} would be deleted\n") == _outcome(result)
    result = store_cli.invoke("runs", "prune", "--events-older-than", "30d", "--yes")
    assert (0, "no run with output events ended that long ago\n") == _outcome(result)
    both = store_cli.invoke("runs", "prune", "--older-than", "0s", "--events-older-than", "0s", "--dry-run")
    assert (0, "2 runs would be deleted\nthe output events of 1 run would be deleted\n") == _outcome(both)
    refused = store_cli.invoke("runs", "prune", "--events-older-than", "0s")
    assert (2, "") == _outcome(refused)
    assert "the output events of 1 run would be deleted from" in refused.stderr
    assert "history" not in refused.stderr
    assert 2 == len(store_cli.store.events_page(ended))
    data = store_cli.invoke_json("runs", "prune", "--events-older-than", "0s", "--yes")
    assert {"dry_run": False, "events_prunable": 1, "events_deleted": 1} == data
    assert () == store_cli.store.events_page(ended)
    assert "completed" == store_cli.store.get(ended).status
    assert 1 == len(store_cli.store.events_page(live))
    data = store_cli.invoke_json("runs", "prune", "--older-than", "0s", "--events-older-than", "0s", "--yes")
    assert {"dry_run": False, "prunable": 2, "deleted": 2, "events_prunable": 0, "events_deleted": 0} == data


def test_output_events_are_pruned_in_batches(sqlite_cli: StoreCli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more runs than in one transaction."""
    monkeypatch.setattr(runs_maintain, "_PRUNE_LIMIT", 2)
    for _ in range(5):
        sqlite_cli.store.complete(emitted(sqlite_cli, "x"))
    result = sqlite_cli.invoke("runs", "prune", "--events-older-than", "0s", "--yes")
    assert "the output events of 5 runs deleted\n" == result.stdout
    assert 0 == sqlite_cli.store.prune_events(0, dry_run=True)


@pytest.mark.parametrize(("answer", "code", "left"), [("y", 0, 0), ("n", 1, 1), ("\x03", 130, 1)])
def test_prune_asks_on_a_terminal(sqlite_cli: StoreCli, answer: str, code: int, left: int) -> None:
    """The answers yes and no, and Ctrl-C."""
    sqlite_cli.completed()
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "runstate", "runs", "prune", "--older-than", "0s", "--store", sqlite_cli.url]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as running:
        os.close(theirs)
        written = b""
        while b"Go on?" not in written:
            written += os.read(ours, 4096)
        if answer != "\x03":
            os.write(ours, f"{answer}\n".encode())
        for _ in range(120):
            if answer == "\x03" and running.poll() is None:  # repeatedly, because readline may ignore the first
                running.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                running.wait(0.5)
                break
        assert code == running.poll()
    os.close(ours)
    assert left == sum(sqlite_cli.store.counts().values())


# --- watch ------------------------------------------------------------------------------------------------------------


def test_watch_follows_a_run_until_it_has_ended(store_cli: StoreCli) -> None:
    """From the first entry, or after a version; one line an entry, or one JSON object."""
    run_id = store_cli.completed()
    shown = split_lines(store_cli.invoke("runs", "watch", run_id))
    assert ["created:", "start:", "complete:"] == [line[3] for line in shown]
    assert ["in_progress", "->", "completed", "by", "worker"] == shown[2][4:]
    rest = store_cli.invoke("runs", "watch", run_id, "--after", "2", "--json").stdout.splitlines()
    assert [("complete", 3)] == [(entry["event"], entry["version"]) for entry in map(json.loads, rest)]
    for version, sentence in (("x", "it is a version, a number"), ("9" * 30, "expected at most")):
        result = store_cli.invoke("runs", "watch", run_id, "--after", version)
        assert 2 == result.exit_code
        assert sentence in result.stderr


@pytest.mark.parametrize("by", ["option", "variable"])
@pytest.mark.parametrize(
    "command",
    [["runs", "watch"], ["runs", "events"], ["worker", "json:dumps", "--until-idle"]],
    ids=["watch", "events", "worker"],
)
def test_the_listen_url(command: list[str], by: str, store_cli: StoreCli) -> None:
    """Commands that wait accept it. An invalid one is refused, without its password."""
    run_id = store_cli.completed()
    whole = [*command, run_id] if "runs" in command else command
    nowhere = "postgresql://me:secret@/runs?port=x"
    for listen_url in (nowhere, store_cli.url):
        if by == "option":
            result = store_cli.invoke(*whole, "--listen-url", listen_url)
        else:
            result = store_cli.invoke(*whole, RUNSTATE_LISTEN_URL=listen_url)
        assert "secret" not in result.stdout + result.stderr
        if listen_url == nowhere or store_cli.url.startswith("sqlite:"):
            assert (2, "") == (result.exit_code, result.stdout), result.stderr
            (sentence,) = result.stderr.splitlines()
            assert "listen_url" in sentence
        else:
            assert 0 == result.exit_code, result.stderr


def test_watch_waits_for_new_entries(store_cli: StoreCli) -> None:
    """An entry is printed when it is committed, and Ctrl-C ends the watch of all runs."""
    command = [sys.executable, "-m", "runstate", "runs", "watch", "--json", "--store", store_cli.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        stop = threading.Event()

        def keep_creating() -> None:
            while not stop.wait(0.1):
                store_cli.create()

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


def test_watch_of_all_runs_resumes(store_cli: StoreCli) -> None:
    """After the cursor of an entry."""
    run_id = store_cli.completed()
    cursor = store_cli.invoke_json("runs", "history", run_id)["history"][0]["cursor"]
    command = [sys.executable, "-m", "runstate", "runs", "watch", "--after", cursor, "--store", store_cli.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert ["start:", "complete:"] == [running.stdout.readline().split()[3] for _ in range(2)]
        running.terminate()


# --- events -----------------------------------------------------------------------------------------------------------


def test_events_are_printed_in_order(store_cli: StoreCli) -> None:
    """One line an event: the number, the time, the attempt and the data; or one JSON object."""
    values = ["one", {"text": "zwei \N{SUN WITH FACE}\x1b[2J\u202e"}, None, [1, 2.5]]
    run_id = emitted(store_cli, *values)
    store_cli.store.complete(run_id)
    shown = store_cli.invoke("runs", "events", run_id)
    lines = [line.split("  ") for line in shown.stdout.splitlines()]
    assert [["1", "attempt 1", '"one"'], ["3", "attempt 1", "null"]] == [[line[0], *line[2:]] for line in lines[::2]]
    assert '{"text": "zwei \N{SUN WITH FACE}\\u001b[2J\\u202e"}' == lines[1][3]
    assert "[1, 2.5]" == lines[3][3]
    found = [json.loads(line) for line in store_cli.invoke("runs", "events", run_id, "--json").stdout.splitlines()]
    assert [(number, 1, value) for number, value in enumerate(values, 1)] == [
        (event["number"], event["attempt"], event["data"]) for event in found
    ]
    assert lines[0][1] == format_utc(found[0]["at_us"], digits=3)
    for options in ([], ["--no-follow"]):
        after = store_cli.invoke("runs", "events", run_id, "--after", "3", *options).stdout.splitlines()
        assert [shown.stdout.splitlines()[3]] == after


def test_events_of_a_live_run_without_following(sqlite_cli: StoreCli) -> None:
    """Those that are there, from every page; nothing if there is none."""
    run_id = emitted(sqlite_cli, *range(5000))
    lines = sqlite_cli.invoke("runs", "events", run_id, "--no-follow").stdout.splitlines()
    assert [str(number) for number in range(1, 5001)] == [line.split()[0] for line in lines]
    assert "" == sqlite_cli.invoke("runs", "events", run_id, "--no-follow", "--after", "5000").stdout


def test_events_are_followed_until_the_run_has_ended(store_cli: StoreCli) -> None:
    """An event is in the pipe when it is durable, and the end of the run ends the command."""
    run_id = store_cli.create()
    lease = store_cli.store.open_lease("w1", lease_s=600)
    claim = store_cli.store.claim_id(lease, run_id)
    assert claim is not None
    emitter = store_cli.store.emitter(lease, claim.run)
    command = [sys.executable, "-m", "runstate", "runs", "events", run_id, "--json", "--store", store_cli.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        for number in range(1, 4):
            emitter.emit({"n": number})
            event = json.loads(running.stdout.readline())
            assert (number, {"n": number}) == (event["number"], event["data"])
        emitter.emit("last")
        emitter.flush()
        store_cli.store.complete(run_id)
        assert ["last"] == [json.loads(line)["data"] for line in running.stdout.read().splitlines()]
        assert (0, "") == (running.wait(60), running.stderr.read())


def test_events_end_by_an_interrupt_and_a_closed_pipe(sqlite_cli: StoreCli) -> None:
    run_id = emitted(sqlite_cli, *range(2000))
    command = [sys.executable, "-m", "runstate", "runs", "events", run_id, "--store", sqlite_cli.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert [str(number) for number in range(1, 2001)] == [running.stdout.readline().split()[0] for _ in range(2000)]
        running.send_signal(signal.SIGINT)
        assert 130 == running.wait(60)
        assert "runstate: interrupted" == running.stderr.read().strip()
    head = f"{shlex.join(command)} --no-follow | head -1"
    result = subprocess.run(head, shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert ("1", "") == (result.stdout.split()[0], result.stderr)


# --- ddl, migrate, doctor ---------------------------------------------------------------------------------------------


def test_ddl_makes_a_store(tmp_path: Path) -> None:
    """It needs no store, and SQLite can execute it."""
    result = CliRunner().invoke(cli, ["ddl", "--dialect", "sqlite"])
    assert (0, ddl(SQLITE).strip()) == (result.exit_code, result.stdout.strip())
    assert ddl(POSTGRES).strip() == CliRunner().invoke(cli, ["ddl"]).stdout.strip()
    path = tmp_path / "by_hand.db"
    connection = sqlite3.connect(path)
    connection.executescript(result.stdout)
    connection.close()
    with open_store(f"sqlite:///{path}", migrate=False) as store:
        store_cli = StoreCli(f"sqlite:///{path}", store)
        store_cli.create()
        assert 1 == len(split_lines(store_cli.invoke("runs", "list"))) - 1


def test_migrate_takes_the_missing_steps(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """A plan prints their SQL and changes nothing. The second migration has nothing to do."""
    for url in (f"sqlite:///{tmp_path / 'new.db'}", request.getfixturevalue("postgres_url")):

        def ask(*arguments: str, url: str = url) -> Result:
            return CliRunner().invoke(cli, ["migrate", *arguments, "--store", url], catch_exceptions=False)

        plan = ask("--plan")
        assert (0, "-- run_0001_tables: Tables, indexes and views") == (plan.exit_code, plan.stdout.splitlines()[0])
        assert "CREATE TABLE runstate_run (" in plan.stdout
        statements = json.loads(ask("--plan", "--json").stdout)["statements"]
        assert (True, "COMMIT") == (statements[0].startswith("BEGIN"), statements[-1])
        assert not (tmp_path / "new.db").exists() or not url.startswith("sqlite")
        assert "runstate migrate" in CliRunner().invoke(cli, ["runs", "list", "--store", url]).stderr
        steps = json.loads(ask("--json").stdout)
        assert [("run", 1), ("run", 2)] == [(step["component"], step["number"]) for step in steps["steps"]][:2]
        assert steps["statements"] is None
        assert "nothing to do: the schema is run 2, event 2, queue 1, step 2\n" == ask().stdout
        assert ({"run": 2, "event": 2, "queue": 1, "step": 2}, []) == (
            json.loads(ask("--json").stdout)["schema"],
            json.loads(ask("--json").stdout)["steps"],
        )
        assert 0 == CliRunner().invoke(cli, ["runs", "list", "--store", url]).exit_code


def test_doctor_prints_findings(store_cli: StoreCli) -> None:
    """Exit code 0 without findings. With findings: one line each, with the remedy, and exit code 1."""
    run_id = store_cli.create()
    result = store_cli.invoke("doctor", "--quick-check")
    assert (0, "") == (result.exit_code, result.stderr)
    assert "nothing is wrong (runs: 1, entries: 1, schema: " in result.stdout
    on = "" if store_cli.url.startswith("sqlite") else " ON runstate_run"
    _execute(store_cli.url, f"DROP TRIGGER runstate_guard_live{on}")
    result = store_cli.invoke("doctor", "--stuck-after", "0s")
    assert 1 == result.exit_code
    error, warning, summary = result.stdout.splitlines()
    assert error.startswith("error: the guard runstate_guard_live on runstate_run is gone: ")
    assert "runstate ddl --dialect" in error
    assert warning.startswith(f"warning: run {run_id} has been queued for ")
    assert "1 error, 1 warning" in summary
    data = json.loads(store_cli.invoke("doctor", "--json", "--stuck-after", "0s").stdout)
    assert (1, 1, 1, []) == tuple(data[name] for name in ("runs", "errors", "warnings", "unseen"))
    assert ["guard", "stuck"] == [finding["what"] for finding in data["findings"]]
    assert [None, run_id] == [finding["run"] for finding in data["findings"]]


def _execute(url: str, statement: str) -> None:
    if url.startswith("sqlite"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"))
        connection.execute(statement)
        connection.close()
    else:
        with psycopg.connect(url, autocommit=True) as server:
            server.execute(statement.encode())


def test_doctor_prints_what_it_may_not_read(request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue("postgres_url")
    with open_store(url, migrate=True), psycopg.connect(url):
        role_url = f"{url}&options={quote('-crole=pg_read_all_data')}"
        result = CliRunner().invoke(cli, ["doctor", "--store", role_url])
    assert "not seen: what " in result.stdout


# --- invalid usage
# ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("mysql://me:hunter2@host/db", "'mysql' names no kind of store"),
        ("runs.db", "'runs.db' is not an address"),
        ("sqlite:/runs.db", "three slashes"),
        (
            "sqlite:////no/such/folder/runs.db",
            "there is no database /no/such/folder/runs.db: there is no folder /no/such/folder",
        ),
        ("sqlite:////tmp", "it is a folder"),
        ("sqlite:///:memory:", "gone when this command ends"),
        ("postgresql://me:hun%zzter2@127.0.0.1/db", "% is %25"),
        ("postgresql://127.0.0.1/db?password=hun%zzter2", "not a PostgreSQL address"),
        ("postgresql://me:hunter2@127.0.0.1:port/db", "its port is no number"),
        ("postgresql://me:hun/ter2@127.0.0.1/db", "/ is %2F"),
    ],
)
@pytest.mark.parametrize("command", [["runs", "list"], ["doctor"], ["runs", "sweep"]])
def test_a_store_that_does_not_exist(url: str, sentence: str, command: list[str]) -> None:
    """Exit code 2 and one line, with no password in it."""
    result = CliRunner().invoke(cli, [*command, "--store", url], catch_exceptions=False)
    assert (2, "") == (result.exit_code, result.stdout)
    assert sentence in result.stderr
    assert 1 == len(result.stderr.splitlines())
    assert "ter2" not in result.stderr
    assert "zz" not in result.stderr


@pytest.mark.parametrize(
    "command", [["runs", "list"], ["runs", "sweep"], ["runs", "show", "run_1"], ["doctor"], ["migrate"]]
)
def test_a_store_that_is_unavailable(command: list[str]) -> None:
    """Exit code 3 and one line: a script can retry. A command does not wait; a worker does."""
    url = "postgresql://me:hunter2@127.0.0.1:1/db"
    result = CliRunner().invoke(cli, [*command, "--store", url], catch_exceptions=False)
    assert (3, "") == (result.exit_code, result.stdout)
    assert "cannot connect to postgresql://127.0.0.1:1/db" in result.stderr
    assert 1 == len(result.stderr.splitlines())
    assert "hunter2" not in result.stderr


def test_files_that_are_not_a_store(tmp_path: Path) -> None:
    """Not a database, another database, a store of a newer version, and a folder that does not exist."""
    text, other, newer = tmp_path / "text.db", tmp_path / "other.db", tmp_path / "newer.db"
    text.write_text("not a database " * 1000)
    _execute(f"sqlite:///{other}", "CREATE TABLE mine (x)")
    open_store(f"sqlite:///{newer}").close()
    connection = sqlite3.connect(newer, isolation_level=None)
    connection.execute("DROP TRIGGER runstate_migration_insert")
    connection.execute("INSERT INTO runstate_migration VALUES ('run', 99, 'of tomorrow', 99, 0)")
    connection.close()
    for path, sentence in (
        (text, "is not an SQLite database"),
        (other, "has no store in it"),
        (newer, "was made by a newer runstate"),
    ):
        result = CliRunner().invoke(cli, ["runs", "list", "--store", f"sqlite:///{path}"], catch_exceptions=False)
        assert (2, "") == (result.exit_code, result.stdout)
        assert sentence in result.stderr
    for command in (["migrate"], ["migrate", "--plan"]):
        for url, sentence in (
            (f"sqlite:///{text}", "is not an SQLite database"),
            (f"sqlite:///{newer}", "upgrade the library"),
            ("sqlite:///:memory:", "gone when this command ends"),
        ):
            result = CliRunner().invoke(cli, [*command, "--store", url], catch_exceptions=False)
            assert (2, "") == (result.exit_code, result.stdout)
            assert sentence in result.stderr
    result = CliRunner().invoke(cli, ["migrate", "--store", "sqlite:////no/such/folder/x.db"], catch_exceptions=False)
    assert 2 == result.exit_code
    assert "no such folder" in result.stderr


def test_a_role_without_rights(request: pytest.FixtureRequest) -> None:
    """The message has the reason of the database."""
    url = request.getfixturevalue("postgres_url")
    with open_store(url, migrate=True) as store:
        run_id = StoreCli(url, store).create()
    for options, code, sentence in (
        ("-crole=pg_monitor", 2, "no right to this"),
        ("-cdefault_transaction_read_only=on", 3, "read-only"),
    ):
        role_url = f"{url}&options={quote(options)}"
        result = CliRunner().invoke(cli, ["runs", "cancel", run_id, "--store", role_url], catch_exceptions=False)
        assert (code, "") == (result.exit_code, result.stdout)
        assert sentence in result.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["runs", "show", "run_absent"], "No run found with id 'run_absent'."),
        (["runs", "history", "run_absent"], "No run found with id 'run_absent'."),
        (["runs", "watch", "run_absent"], "No run found with id 'run_absent'."),
        (["runs", "cancel", "run_absent"], "No run found with id 'run_absent'."),
        (["runs", "submit", "run_absent", "call_1=x"], "No run found with id 'run_absent'."),
        (["runs", "list", "--after", "run_absent"], "No run found with id 'run_absent'."),
        (["runs", "list", "--status", "paused"], "paused"),
        (
            ["runs", "list", "--older-than", "90"],
            "'90' is not a duration: write 90s, 15m, 2h or 30d; did you mean 90s?",
        ),
        (["runs", "list", "--older-than", "-1h"], "is not a duration"),
        (["runs", "prune", "--older-than", "9999999d"], "longer than a thousand years"),
        (["runs", "prune"], "expected --older-than, --events-older-than or both"),
        (
            ["runs", "prune", "--events-older-than", "90"],
            "'90' is not a duration: write 90s, 15m, 2h or 30d; did you mean 90s?",
        ),
        (["runs", "events", "run_absent"], "No run found with id 'run_absent'."),
        (["runs", "events", "run_absent", "--no-follow"], "No run found with id 'run_absent'."),
        (["runs", "events", "run_1", "--after", "-1"], "--after"),
        (["runs", "events", "run_1", "--after", "x"], "--after"),
        (["runs", "events", "run_1", "--after", "9" * 30], "expected at most"),
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
        (["doctor", "--stuck-after", "soon"], "'soon' is not a duration"),
        (["ddl", "--dialect", "oracle"], "oracle"),
    ],
)
def test_invalid_usage_gets_a_message(sqlite_cli: StoreCli, arguments: list[str], sentence: str) -> None:
    """Exit code 2, nothing on stdout, nothing changed."""
    result = sqlite_cli.invoke(*arguments)
    assert (2, "") == (result.exit_code, result.stdout)
    assert sentence in result.stderr
    assert 0 == sum(sqlite_cli.store.counts().values())


def test_no_store_is_invalid_usage() -> None:
    """The message names the option and the variable."""
    result = CliRunner().invoke(cli, ["runs", "list"], env={"RUNSTATE_STORE": None})
    assert 2 == result.exit_code
    assert "--store" in result.stderr
    assert "RUNSTATE_STORE" in result.stderr


def test_no_password_is_printed(request: pytest.FixtureRequest) -> None:
    """Not in output about the store, nor in the help."""
    url = request.getfixturevalue("postgres_url").replace("postgres@", "postgres:hunter2@")
    open_store(url, migrate=True).close()
    for command in (["doctor"], ["doctor", "--json"], ["runs", "prune", "--older-than", "0s"], ["runs", "list", "-h"]):
        result = CliRunner().invoke(cli, command, env={"RUNSTATE_STORE": url}, catch_exceptions=False)
        assert "hunter2" not in result.stdout + result.stderr


# --- terminals, pipes, missing libraries ------------------------------------------------------------------------------


def test_a_terminal_gets_colors_and_the_columns_that_fit(sqlite_cli: StoreCli) -> None:
    """Statuses have colors, but not with NO_COLOR. A narrow terminal gets fewer columns, and no row is wrapped."""
    run_id = sqlite_cli.create(thread_id=f"thread_{'x' * 80}", queue="日本語" * 4)
    command = ["runs", "list", "--store", sqlite_cli.url]
    assert "\x1b[38;5;" in run_on_terminal(*command)
    assert "\x1b[38;5;" not in run_on_terminal(*command, NO_COLOR="1")
    for width in (40, 60, 120):
        shown = (
            run_on_terminal(*command, NO_COLOR="1", COLUMNS=str(width)).replace("\x1b[1m", "").replace("\x1b[0m", "")
        )
        assert 2 == len(shown.splitlines())
        assert run_id in shown
        assert all(len(line) <= width for line in shown.splitlines())
    assert "x" * 80 in sqlite_cli.invoke("runs", "list").stdout
    waiting = sqlite_cli.waiting_for("call_1")
    shown = run_on_terminal(*command, NO_COLOR="1", COLUMNS="40")
    assert f"{waiting}  requires_…" in shown
    for width in (30, 60):
        shown = run_on_terminal("runs", "show", run_id, "--store", sqlite_cli.url, NO_COLOR="1", COLUMNS=str(width))
        assert "x" * 15 in shown


def test_control_characters_in_stored_text_are_escaped(sqlite_cli: StoreCli) -> None:
    """Control characters in the id of a thread, an actor or an error are printed escaped."""
    run_id = sqlite_cli.create(thread_id="thread_\x1b[2J\n", queue="a\tb")
    sqlite_cli.store.start(run_id, actor="worker\x1b[31m")
    sqlite_cli.store.fail(run_id, "server_error", "line\nbreak\x07", actor="worker\x1b[31m")
    for command in (["list"], ["show", run_id], ["history", run_id], ["watch", run_id]):
        result = sqlite_cli.invoke("runs", *command)
        assert 0 == result.exit_code
        assert not {"\x1b", "\x07", "\t"} & set(result.stdout)
    assert r"thread_\x1b[2J\n" in sqlite_cli.invoke("runs", "list").stdout


@pytest.mark.parametrize("columns", ["20", "80"])
def test_a_pipe_gets_whole_lines(sqlite_cli: StoreCli, columns: str) -> None:
    """Whatever COLUMNS is, a row is one line, nothing is cut, and markup is not interpreted."""
    markup = "[bold]not bold[/bold] :smile: [/]"
    thread_id, message = f"{'x' * 400} {markup}", f"{'word ' * 2000}{markup}"
    run_id = sqlite_cli.create(thread_id=thread_id, queue="日本語" * 100)
    sqlite_cli.store.start(run_id, actor=markup)
    sqlite_cli.store.fail(run_id, "server_error", message)
    listed, shown, history = (
        sqlite_cli.invoke("runs", *command, COLUMNS=columns).stdout
        for command in (["list"], ["show", run_id], ["history", run_id])
    )
    row = listed.splitlines()[1]
    assert 2 == len(listed.splitlines())
    assert row.startswith(f"{run_id}  failed  ")
    assert f"  {thread_id}  {'日本語' * 100}  gpt-4o" in row
    assert f"error      server_error: {message}" in shown.splitlines()
    assert f"thread     {thread_id}" in shown.splitlines()
    assert history.splitlines()[2].endswith(f"  {markup}")
    assert not [line for line in (listed + shown + history).splitlines() if line != line.rstrip()]


def test_a_closed_pipe(sqlite_cli: StoreCli) -> None:
    """A reader of one line gets one line, and nothing on stderr."""
    for _ in range(50):
        sqlite_cli.create()
    python, url = shlex.quote(sys.executable), shlex.quote(sqlite_cli.url)
    command = f"{python} -m runstate runs list --limit 50 --store {url} | head -1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert "" == result.stderr
    assert result.stdout.startswith("id ")
    ascii_only = run_process("runs", "show", sqlite_cli.create(), "--store", sqlite_cli.url, PYTHONIOENCODING="ascii")
    assert (0, "") == (ascii_only.returncode, ascii_only.stderr)


def test_doctor_on_a_terminal(sqlite_cli: StoreCli) -> None:
    """Findings are wrapped, and a remedy is printed once for consecutive findings that share it."""
    for _ in range(3):
        sqlite_cli.create()
    sqlite_cli.store.create(thread_id="t", assistant_id="a", model="m", queue="other")
    sqlite_cli.store.close()
    command = [sys.executable, "-m", "runstate", "doctor", "--stuck-after", "0s", "--store", sqlite_cli.url]
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
    assert 4 == written.count(b"has been")
    assert 2 == written.count(b"let more workers")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lease", "0s"], "lease_s: expected a number from 0.05 to 86400, got 0.0"),
        (["--lease", "2d"], "lease_s: expected a number from 0.05 to 86400, got 172800.0"),
        (["--name", ""], "name: is empty"),
    ],
)
def test_a_worker_with_invalid_settings(options: list[str], message: str, sqlite_cli: StoreCli) -> None:
    """A setting out of its range is one message, before anything is claimed."""
    result = run_process("worker", "builtins:repr", *options, "--until-idle", "--store", sqlite_cli.url)
    assert (2, 1) == (result.returncode, result.stderr.count("\n"))
    assert message in result.stderr


def test_a_module_that_fails_to_be_imported(sqlite_cli: StoreCli, tmp_path: Path) -> None:
    """The message has the reason, and does not say that the handler is missing."""
    (tmp_path / "wrong_app.py").write_text(
        "raise LookupError('of the module\\'s own')\n\n\ndef answer(ctx):\n    pass\n", encoding="utf-8"
    )
    result = run_process("worker", "wrong_app:answer", "--store", sqlite_cli.url, PYTHONPATH=str(tmp_path))
    assert 2 == result.returncode
    assert "cannot import wrong_app: LookupError: of the module's own" in result.stderr


def test_commands_without_a_store_import_no_database() -> None:
    """Nor does the help of the commands about runs."""
    for arguments in (["runs", "--help"], ["table"], ["ddl", "--help"]):
        # Modules that were loaded before are not counted: a coverage tool is loaded first.
        program = f"from runstate.cli import cli; cli.main({arguments!r}, 'runstate', standalone_mode=False)"
        code = f"import sys; before = {{*sys.modules}}; {program}; print(*({{*sys.modules}} - before))"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        assert set() == {"sqlite3", "psycopg", "runstate.store._api"} & set(result.stdout.splitlines()[-1].split())


def test_without_psycopg() -> None:
    code = "import sys; sys.modules['psycopg'] = None; from runstate.__main__ import main; main()"
    command = [sys.executable, "-c", code, "runs", "list", "--store", "postgresql://host/db"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (2, 1) == (result.returncode, len(result.stderr.splitlines()))
    assert "PostgreSQL needs psycopg: pip install 'psycopg[binary]>=3.2.1'\n" in result.stderr


def test_times_outside_of_the_calendar() -> None:
    """They are printed in microseconds."""
    assert "" == format_utc(None)
    assert f"{10**20} us" == format_utc(10**20)
    assert "1970-01-01 00:00:01" == format_utc(1_999_999)


@pytest.mark.parametrize("text", ["", "h", "1", "1x", "1h ", "h1", "1 h", "١h", "1e3s", "--"])
def test_invalid_durations(text: str) -> None:
    import click

    with pytest.raises(click.BadParameter):
        duration(text)


# --- names of queues ------------------------------------------------------------------------------------------------


def test_several_statuses_in_one_option(store_cli: StoreCli) -> None:
    """With commas, repeated, or both. A word that is not a status is named in the error."""
    queued, ended = store_cli.create(), store_cli.completed()
    for options in (
        ["--status", "queued,completed"],
        ["--status", "queued", "--status", "completed"],
        ["--status", "failed, queued", "--status", "completed"],
    ):
        found = [each["run"]["id"] for each in store_cli.invoke_json("runs", "list", *options)["data"]]
        assert found == [ended, queued]
    for wrong in ("completed,paused", "paused", "completed,", ""):
        result = store_cli.invoke("runs", "list", "--status", wrong)
        assert (result.exit_code, result.stdout) == (2, "")
        for named in ("--status", wrong.rpartition(",")[2], *RunStatus):
            assert f"'{named}'" in result.stderr


def test_a_list_of_an_empty_queue(store_cli: StoreCli) -> None:
    """If nothing is found, a hint names the queues in which runs wait; not with --json."""
    assert store_cli.invoke("runs", "list", "--queue", "mial").stderr == "no such runs\n"
    store_cli.create(queue="mail")
    store_cli.create(queue="mail")
    store_cli.create()
    result = store_cli.invoke("runs", "list", "--queue", "mial")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "no such runs; no run waits in the queue mial; runs wait in: default (1), mail (2)\n"
    assert store_cli.invoke_json("runs", "list", "--queue", "mial")["data"] == []
    assert store_cli.invoke("runs", "list", "--queue", "mail", "--status", "failed").stderr == "no such runs\n"


def test_a_run_in_a_queue_with_a_similar_name(store_cli: StoreCli) -> None:
    """It is created, and a hint on stderr names the other queue."""
    store_cli.create(queue="mail")
    names = ["--thread", "thread_1", "--assistant", "asst_1", "--model", "gpt-4o"]
    result = store_cli.invoke("runs", "create", *names, "--queue", "mial")
    assert (result.exit_code, result.stderr) == (0, "no other run waits in the queue mial; did you mean mail?\n")
    assert store_cli.store.get(result.stdout.strip()).queue == "mial"
    for queue in ("mail", "default", "something else"):
        assert store_cli.invoke("runs", "create", *names, "--queue", queue).stderr == ""


@pytest.mark.slow
def test_a_worker_of_an_empty_queue(store_cli: StoreCli, tmp_path: Path) -> None:
    """It starts with a hint about queues in which runs wait, unless a run waits in one of its own."""
    (tmp_path / "handlers.py").write_text("def answer(ctx): pass\n", encoding="utf-8")
    store_cli.create(queue="mail")
    environment = {"RUNSTATE_STORE": store_cli.url, "PYTHONPATH": str(tmp_path)}
    result = run_process("worker", "handlers:answer", "--until-idle", "--queue", "mial", **environment)
    assert result.returncode == 0
    assert "no run waits in the queue mial; runs wait in: mail (1)\n" in result.stderr
    result = run_process(
        "worker", "handlers:answer", "--until-idle", "--queue", "mial", "--queue", "mail", **environment
    )
    assert "waits" not in result.stderr
    assert store_cli.store.counts()["completed"] == 1  # type: ignore[index]


@pytest.mark.parametrize(
    ("spec", "expected"),
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
def test_a_handler_in_a_file(sqlite_cli: StoreCli, tmp_path: Path, spec: str, expected: str) -> None:
    """The message says what to write instead of the file."""
    (tmp_path / "handlers.py").write_text("def answer(ctx): pass\n", encoding="utf-8")
    result = run_process("worker", spec, RUNSTATE_STORE=sqlite_cli.url, PYTHONPATH=str(tmp_path))
    assert (2, "") == (result.returncode, result.stdout)
    assert f"{spec}: expected a module, not its file: write {expected}\n" in result.stderr


def test_a_module_named_py(sqlite_cli: StoreCli, tmp_path: Path) -> None:
    """It is a module like any other."""
    (tmp_path / "handlers").mkdir()
    (tmp_path / "handlers" / "py.py").write_text("def answer(ctx): pass\n", encoding="utf-8")
    result = run_process(
        "worker", "handlers.py:answer", "--until-idle", RUNSTATE_STORE=sqlite_cli.url, PYTHONPATH=str(tmp_path)
    )
    assert 0 == result.returncode


def test_queues_of_a_store(store_cli: StoreCli) -> None:
    """The queues in which runs wait, sorted, each with the number of runs."""
    nothing: dict[str, int] = {}
    assert store_cli.store.queues() == nothing
    for queue in ("b", "a", "b"):
        store_cli.create(queue=queue)
    store_cli.completed()
    assert list(store_cli.store.queues().items()) == [("a", 1), ("b", 2)]


# --- a worker whose store is unavailable
# -------------------------------------------------------------------------------------


@contextmanager
def worker_of(url: str, folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command in a process that is killed at the end of the block."""
    (folder / "handlers.py").write_text("async def answer(ctx):\n    pass\n")
    command = [sys.executable, "-m", "runstate", "worker", "handlers:answer", "--store", url, *options]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, start_new_session=True) as running:
        try:
            yield running
        finally:
            running.kill()


def read_until(running: subprocess.Popen[str], words: str) -> str:
    """Return the stderr of a process up to a line with these words."""
    assert running.stderr is not None
    output = ""
    while words not in " ".join(output.split()):
        line = running.stderr.readline()
        assert line, output
        output += line
    return output


@pytest.fixture
def closed_store(postgres_server: Server, postgres_url: str) -> Iterator[tuple[str, Callable[[], object]]]:
    """The URL of a store that accepts no connection, with a run in it, and a function that opens it again."""
    name = str(conninfo_to_dict(postgres_url)["dbname"])
    with open_store(postgres_url, migrate=True) as store:
        StoreCli(postgres_url, store).create()
    with psycopg.connect(postgres_server.address, autocommit=True) as admin:

        def allow(is_on: str) -> None:
            admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {is_on}".encode())

        allow("false")
        yield postgres_url, lambda: allow("true")
        allow("true")


def test_a_worker_that_starts_while_its_store_is_unavailable(
    closed_store: tuple[str, Callable[[], object]], tmp_path: Path
) -> None:
    """It logs that once, and works as soon as the store is available."""
    url, allow = closed_store
    with worker_of(url, tmp_path, "--until-idle") as running:
        assert 1 == read_until(running, "retrying").count("cannot connect")
        assert running.poll() is None
        allow()
        output = read_until(running, "has ended; 1 outcome committed")
        assert 0 == running.wait(60)
    assert "cannot connect" not in output
    assert "the store is back after" in " ".join(output.split())
    with open_store(url) as store:
        assert "completed" == store.list().data[0].status


@pytest.mark.parametrize(("number", "code", "words"), [(signal.SIGTERM, 0, "stopped"), (signal.SIGINT, 130, "interr")])
def test_a_worker_that_is_stopped_while_its_store_is_unavailable(
    number: signal.Signals, code: int, words: str, closed_store: tuple[str, Callable[[], object]], tmp_path: Path
) -> None:
    """A signal ends it before it has a store."""
    with worker_of(closed_store[0], tmp_path) as running:
        read_until(running, "retrying")
        running.send_signal(number)
        read_until(running, words)
        assert code == running.wait(60)


WORKER_PROGRAM = """
import os, signal
from runstate.cli.commands import worker
from runstate.errors import StoreUnavailable

def empty_queue_hint(store, queues):
    {}

worker.empty_queue_hint = empty_queue_hint
worker.worker(["json:dumps", "--until-idle", "--store", "{}"])
"""


@pytest.mark.parametrize(
    ("act", "outcomes", "status"),
    [
        ("raise StoreUnavailable('full for now')", "1 outcome", "failed"),
        ("os.kill(os.getpid(), signal.SIGTERM)", "0 outcomes", "queued"),
    ],
    ids=["unavailable", "stopped"],
)
def test_a_worker_whose_hint_fails(act: str, outcomes: str, status: str, sqlite_cli: StoreCli) -> None:
    """A failed hint about its queues does not end it, and a signal meanwhile stops it like any other."""
    run = sqlite_cli.create()
    result = subprocess.run(
        [sys.executable, "-c", WORKER_PROGRAM.format(act, sqlite_cli.url)], capture_output=True, text=True, timeout=60
    )
    assert (0, f"{outcomes} committed") == (result.returncode, result.stderr.split("; ")[-1].strip()), result.stderr
    assert status == sqlite_cli.store.get(run).status


def test_a_worker_without_a_store(postgres_url: str, tmp_path: Path) -> None:
    """A database that does not exist, or has no store, ends it at once."""
    for url, sentence in (
        (postgres_url.replace("runstate_test", "no_such"), "does not exist"),
        (postgres_url, "has no store in it"),
    ):
        with worker_of(url, tmp_path) as running:
            output = read_until(running, sentence)
            assert 2 == running.wait(60)
        assert "retrying" not in output


def test_show_lists_the_steps_of_a_run(store_cli: StoreCli) -> None:
    """Each with its key, its duration and its tokens; a step that was begun and not kept is marked."""
    run_id = store_cli.create()
    lease = store_cli.store.open_lease("w1")
    claim = store_cli.store.claim_id(lease, run_id)
    assert claim is not None
    kept = {"number": 1, "result": Checkpoint({"x": 1}), "usage": Usage(12, 30), "took_s": 1.5}
    assert store_cli.store.save_step(lease, claim.run, "ask", "k1", **kept)  # type: ignore[arg-type]
    assert store_cli.store.save_step(lease, claim.run, "pay", number=2, result=None)
    lines = store_cli.invoke("runs", "show", run_id).stdout.splitlines()
    (asked,) = [line.split() for line in lines if line.startswith("ask")]
    (paid,) = [line for line in lines if line.startswith("pay")]
    assert "k1" == asked[1]
    assert ["12", "+", "30", "1"] == asked[-4:]
    assert "not ended" in paid
    data = json.loads(store_cli.invoke("runs", "show", run_id, "--json").stdout)
    first, second = data["steps"]
    assert ("ask", "k1", {"x": 1}, 42) == (first["name"], first["key"], first["result"], first["usage"]["total_tokens"])
    assert 1_500_000 == first["ended_at_us"] - first["began_at_us"]
    assert ("pay", "", None, None) == (second["name"], second["key"], second["result"], second["ended_at_us"])
    lines = store_cli.invoke("runs", "history", run_id).stdout.splitlines()
    assert [asked] == [line.split() for line in lines if line.startswith("ask")]
    assert data["steps"] == store_cli.invoke_json("runs", "history", run_id)["steps"]


def refused(store_cli: StoreCli, code: int, *arguments: str) -> Result:
    """Invoke a command that ends with an exit code."""
    result = store_cli.invoke(*arguments)
    assert code == result.exit_code, result.stderr
    return result


def test_the_beginning_of_an_id_stands_for_a_run(store_cli: StoreCli) -> None:
    """If it is that of several runs, they are told, and nothing is done. A short one is taken for a whole id."""
    for run_id in ("run_march1", "run_march2"):
        store_cli.store.create(**names(id=run_id))
    assert "run_march1" in store_cli.invoke("runs", "show", "run_march1").stdout
    result = refused(store_cli, 2, "runs", "cancel", "run_march")
    assert "run_march is the beginning of several ids: run_march1, run_march2" in result.stderr
    assert "queued" == store_cli.store.get("run_march1").status
    store_cli.store.create(**names(id="run_april"))
    assert "No run found with id 'run_apr'" in refused(store_cli, 2, "runs", "cancel", "run_apr").stderr
    assert "run_april is cancelled" in store_cli.invoke("runs", "cancel", "run_apri").stdout


def test_queues_are_paused_and_resumed_by_commands(store_cli: StoreCli) -> None:
    """And listed, with who, when and why."""
    store_cli.create()
    assert "default is paused" in store_cli.invoke("queues", "pause", "default", "--reason", "an outage").stdout
    assert "was paused already" in store_cli.invoke("queues", "pause", "default").stdout
    listed = store_cli.invoke("queues", "list").stdout
    assert "an outage" in listed
    assert "cli" in listed
    told = json.loads(store_cli.invoke("queues", "list", "--json").stdout)
    assert {"default": 1} == told["waiting"]
    assert "default is resumed" in store_cli.invoke("queues", "resume", "default").stdout
    assert "was not paused" in store_cli.invoke("queues", "resume", "default").stdout


def test_runs_are_counted_repeated_and_created_with_settings(store_cli: StoreCli) -> None:
    made = store_cli.invoke(
        *("runs", "create", "--thread=t", "--assistant=a", "--model=m", "--instructions=be brief", "--expires-in=1h"),
        *("--max-prompt-tokens=9", "--max-completion-tokens=8", "--temperature=0.5", "--delay=30s"),
    ).stdout.strip()
    run = store_cli.store.get(made)
    assert ("be brief", 9, 8, 0.5) == (
        run.instructions,
        run.max_prompt_tokens,
        run.max_completion_tokens,
        run.temperature,
    )
    assert run.expires_at == run.created_at + 3600
    assert not run.claimable
    assert 1 == json.loads(store_cli.invoke("runs", "counts", "--json").stdout)["queued"]
    assert "only an ended run can be repeated" in refused(store_cli, 1, "runs", "repeat", made).stderr
    store_cli.store.fail(made, "server_error", "boom")
    again = store_cli.invoke("runs", "repeat", made, "--queue=mail").stdout.strip()
    assert (made, "mail") == (store_cli.store.get(again).repeats, store_cli.store.get(again).queue)


def test_attempts_and_tracebacks_are_printed(store_cli: StoreCli) -> None:
    """By `show` and by `history`, for people and as JSON."""
    run_id = store_cli.create()

    def answer(ctx: Context) -> None:
        raise ValueError("the model broke")

    for policy in (RetryPolicy(backoff=0.0), None):
        while not store_cli.store.get(run_id).is_terminal and len(store_cli.store.attempts(run_id)) < 1:
            Worker(store_cli.store, answer, name="w1", retry=policy).run(until_idle=True)
    while not store_cli.store.get(run_id).is_terminal:
        Worker(store_cli.store, answer, name="w1").run(until_idle=True)
    for command in ("show", "history"):
        told = store_cli.invoke("runs", command, run_id).stdout
        assert "retry" in told
        assert 'raise ValueError("the model broke")' in told
        assert "attempt 1:" in told
        data = json.loads(store_cli.invoke("runs", command, run_id, "--json").stdout)
        assert "retry" == data["attempts"][0]["result"]


def test_a_health_check_asks_whether_the_store_answers_and_a_worker_is_at_work(store_cli: StoreCli) -> None:
    assert "the store answers; 0 workers at work" in store_cli.invoke("doctor", "--live").stdout
    assert "not at work" in refused(store_cli, 1, "doctor", "--live", "--worker", "w1").stdout
    lease = store_cli.store.open_lease("w1")
    assert "worker w1 is at work" in store_cli.invoke("doctor", "--live", "--worker", "w1").stdout
    assert "w1" in store_cli.invoke("workers").stdout
    assert 1 == len(json.loads(store_cli.invoke("workers", "--json").stdout)["workers"])
    store_cli.store.close_lease(lease)
    assert "no worker is at work" in store_cli.invoke("workers").stderr


def test_the_store_may_be_named_before_the_command(store_cli: StoreCli) -> None:
    run_id = store_cli.create()
    result = CliRunner().invoke(cli, ["--store", store_cli.url, "runs", "list"], env={"RUNSTATE_STORE": ""})
    assert 0 == result.exit_code, result.stderr
    assert run_id in result.stdout


def test_a_name_of_a_client_cannot_forge_a_line_of_the_log() -> None:
    """A thread may have any name: line breaks, and what a terminal obeys, are shown and not done."""
    forged = "a\nCRITICAL \x1b[31m"
    record = logging.LogRecord("runstate.worker", logging.INFO, "f.py", 1, "run of thread %s", (forged,), None)
    for log_format in ("text", "json"):
        line = log_handler(Console(file=io.StringIO()), log_format).format(record)
        assert 1 == len(line.splitlines())
        assert "\x1b" not in line
    terminal = log_handler(Console(file=io.StringIO(), force_terminal=True), "text").format(record)
    assert "\x1b" not in terminal


def test_all_ids_are_looked_up_before_the_first_cancel(store_cli: StoreCli) -> None:
    """The beginning of several ids, or an unknown id, changes nothing; a refusal does not stop the others."""
    for run_id in ("run_cancel1", "run_cancel2x", "run_cancel2y"):
        store_cli.store.create(**names(id=run_id))
    assert "run_cancel2" in refused(store_cli, 2, "runs", "cancel", "run_cancel1", "run_cancel2").stderr
    assert "queued" == store_cli.store.get("run_cancel1").status


@pytest.mark.slow
def test_a_worker_logs_lines_or_json(store_cli: StoreCli) -> None:
    """Off a terminal: the time in UTC, the level, the message. As JSON: an object a line, with the run."""
    for kind in ("text", "json"):
        run_id = store_cli.create()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "runstate", "worker", "tests.test_names:nothing", "--until-idle"),
                *("--log-format", kind, "--store", store_cli.url),
            ],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        line = next(line for line in done.stderr.splitlines() if run_id in line)
        if kind == "text":
            assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO     run ", line)
        else:
            told = json.loads(line)
            assert (run_id, "complete", 1) == (told["run_id"], told["event"], told["attempt"])
