"""The command says what it knows on stdout, talks on stderr, and never answers bad input with a traceback."""

from __future__ import annotations

import errno
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from shlex import quote
from typing import Any

import click
import pytest

from runstate import RUN_LIFECYCLE, TRANSITIONS, Run, RunEvent, RunStatus, Usage
from runstate.__main__ import main
from runstate.cli import cli
from runstate.diagram import FORMATS, Format, draw
from tests.diagram.lanes_parser import parse_lanes
from tests.support.cli_runner import CliRunner, Result
from tests.support.lifecycle import UNTIL_DEADLINE

LEGAL = {(row.event, row.source, row.target) for row in TRANSITIONS}


def ask(*arguments: str | Path, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], input=stdin, catch_exceptions=False)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A file with three snapshots of a run that completed."""
    run = Run.create(id="run_1", thread_id="thread_1", assistant_id="asst_1", model="gpt-4o", at=1_800_000_000)
    trace = [run.to_json()]
    run.start(at=1_800_000_001)
    trace.append(run.to_json())
    run.complete(Usage(1, 2), at=1_800_000_003)
    path = tmp_path / "recording.jsonl"
    path.write_text("\n".join([*trace, run.to_json()]))
    return path


# --- table, diagram, explain


def test_the_table_has_every_row() -> None:
    """One line for each transition, under a header."""
    lines = ask("table").stdout.splitlines()
    assert [[row.event, row.source, row.target] for row in TRANSITIONS] == [line.split()[:3] for line in lines[1:]]


def test_the_table_for_programs_is_the_law() -> None:
    """JSON has the nineteen transitions and the nine statuses, with what may be asked there."""
    said = json.loads(ask("table", "--json").stdout)
    assert LEGAL == {(row["event"], row["source"], row["target"]) for row in said["transitions"]}
    assert set(UNTIL_DEADLINE) == {row["event"] for row in said["transitions"] if row["until_deadline"]}
    for status in said["statuses"]:
        assert list(RUN_LIFECYCLE.allowed_events(RunStatus(status["status"]))) == status["allowed_events"]
        assert status["terminal"] is (status["allowed_events"] == [])


def test_the_documented_table_has_eleven_rows() -> None:
    """Only what the vendor documented."""
    assert 11 == len(json.loads(ask("table", "--json", "--documented").stdout)["transitions"])


@pytest.mark.parametrize("form", FORMATS)
def test_a_diagram_in_every_format(form: Format, tmp_path: Path) -> None:
    """What is printed and what is written to a file is the picture."""
    expected = draw(RUN_LIFECYCLE, form) + "\n"
    assert expected == ask("diagram", "--format", form).stdout
    path = tmp_path / "picture"
    done = ask("diagram", "-f", form, "-o", path)
    assert ("", "") == (done.stdout, done.stderr)
    assert expected == path.read_text(encoding="utf-8")


def test_a_diagram_shows_where_a_run_stands(recording: Path) -> None:
    """The last snapshot of the file is drawn, and the picture still is the law."""
    shown = ask("diagram", "--run", recording).stdout
    assert "run_1 is completed" in shown
    assert LEGAL == set(parse_lanes(shown))
    assert shown == ask("diagram", "--run", "-", stdin=recording.read_bytes()).stdout


@pytest.mark.parametrize("event", RunEvent)
@pytest.mark.parametrize("status", RunStatus)
def test_explain_knows_all_81_pairs(status: RunStatus, event: RunEvent) -> None:
    """In words and in JSON: legal or not, and the shortest way."""
    words = ask("explain", status, event).stdout
    said = json.loads(ask("explain", status, event, "--json").stdout)
    row = RUN_LIFECYCLE.find(status, event)
    assert said["legal"] is (row is not None)
    assert (f"{event} is legal there" if row else f"{event} is illegal there") in words
    assert said["until_deadline"] is (None if row is None else event in UNTIL_DEADLINE)
    assert (row is not None and event in UNTIL_DEADLINE) is ("legal there until the run's deadline" in words)
    path = RUN_LIFECYCLE.path_to_event(status, event)
    assert said["shortest_path"] == (None if path is None else list(path))
    if row is None and path is not None:
        assert f"Shortest way: {' -> '.join(path)}." in words


# --- check


def test_check_counts_what_it_sees(recording: Path) -> None:
    """Snapshots, runs and changes of status, in words and in JSON; exit code 0."""
    done = ask("check", recording)
    assert 0 == done.exit_code
    assert ["3", "1", "0", "0", str(recording)] == done.stdout.splitlines()[1].split(maxsplit=4)
    said = json.loads(ask("check", "--json", recording).stdout)
    assert (3, 1, 0, []) == tuple(said["total"][key] for key in ("snapshots", "runs", "errors", "findings"))
    assert [["start"], ["complete"]] == sorted((row["events"] for row in said["total"]["transitions"]), reverse=True)


def test_check_finds_what_cannot_be(recording: Path) -> None:
    """Exit code 1, and a line that names file, line, run and reason."""
    lines = recording.read_text().splitlines()
    broken = json.loads(lines[1]) | {"completed_at": 1_800_000_002}
    recording.write_text("\n".join([lines[0], json.dumps(broken), lines[2]]))
    done = ask("check", recording)
    assert 1 == done.exit_code
    said = "completed_at is set, but no path from queued to in_progress stamps it"
    assert done.stdout.startswith(f"{recording}:2: error: run run_1: {said}")
    finding = json.loads(ask("check", "--json", recording).stdout)["total"]["findings"][0]
    assert ("2", "error", "run_1", said) == tuple(finding[key] for key in ("place", "severity", "run", "message"))


def test_check_reads_stdin_and_many_files(recording: Path) -> None:
    """- is stdin; with many files there is a row for all, and the same run counts once."""
    done = ask("check", recording, "-", stdin=recording.read_bytes())
    assert ["6", "1", "0", "0", "in", "all", "2", "files"] == done.stdout.splitlines()[3].split()


def test_a_line_past_the_bound_is_one_complaint(tmp_path: Path) -> None:
    """A line of 40 MB is refused as one, and the line after it is read as the third."""
    path = tmp_path / "huge.jsonl"
    path.write_bytes(b'{}\n{"a": "' + b"x" * 40_000_000 + b'"}\nnonsense\n')
    lines = [line for line in ask("check", path).stdout.splitlines() if "error:" in line]
    assert [f"{path}:2", f"{path}:3"] == [line.split(": error")[0] for line in lines[-2:]]
    assert "expected at most 16777216 bytes" in lines[-2]


# --- mistakes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["explain", "paused", "start"], "paused"),
        (["explain", "queued", "begin"], "begin"),
        (["diagram", "--format", "png"], "png"),
        (["diagram", "--output", "/no/such/folder/x.svg"], "cannot write /no/such/folder/x.svg"),
        (["diagram", "--run", "/no/such/file"], "/no/such/file"),
        (["check", "/no/such/file"], "/no/such/file"),
        (["check", "/"], "'/'"),
        (["check"], "FILE"),
        (["tabel"], "tabel"),
    ],
)
def test_a_mistake_in_the_asking_gets_a_sentence(arguments: list[str], said: str) -> None:
    """Exit code 2, nothing on stdout, a sentence on stderr: ours, or one of click's that names what is wrong."""
    done = ask(*arguments)
    assert (2, "") == (done.exit_code, done.stdout)
    assert said in done.stderr


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no run in it"),
        (b"{broken", "not JSON at line 1 column 2"),
        (b'{"id": "run_1", "status": "paused"}', "unknown status 'paused'"),
    ],
)
def test_a_diagram_of_no_run_gets_a_sentence(content: bytes, said: str, tmp_path: Path) -> None:
    """A file without a readable run is a mistake in the asking, told with its place."""
    path = tmp_path / "run.json"
    path.write_bytes(content)
    done = ask("diagram", "--run", path)
    assert (2, "") == (done.exit_code, done.stdout)
    assert said in done.stderr
    assert str(path) in done.stderr


def test_a_mistyped_command_hears_what_sounds_like_it() -> None:
    """A command that nobody imported yet is suggested too, if this click suggests."""
    asked = click.Context(cli)
    eager = {name: command for name in cli.list_commands(asked) if (command := cli.get_command(asked, name))}
    plain = click.Group("cli", eager, context_settings=cli.context_settings)
    code = "from runstate.cli import cli; cli.main(['tabel'], 'cli')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert CliRunner().invoke(plain, ["tabel"]).stderr == done.stderr


# --- as a process: pipes, terminals, missing libraries


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runstate", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


def on_a_terminal(*arguments: str, **environment: str) -> str:
    """Run the command with its stdout and stderr on a terminal of 200 columns, and return all it wrote."""
    ours, theirs = pty.openpty()
    env: dict[str, Any] = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "200", **environment}
    command = [sys.executable, "-m", "runstate", *arguments]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs, env=env) as running:
        os.close(theirs)
        written = b""
        while chunk := _read(ours):
            written += chunk
        assert 0 == running.wait(60)
    os.close(ours)
    return written.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux says so when the other side has closed
        return b""


def test_a_terminal_gets_colours_unless_it_says_no() -> None:
    """Lanes are coloured on a terminal; NO_COLOR is heard, and a pipe gets none."""
    assert "\x1b[" in on_a_terminal("diagram")
    assert "\x1b[" not in on_a_terminal("diagram", NO_COLOR="1")
    assert "\x1b[" not in process("diagram").stdout


@pytest.mark.slow
@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("arguments", [("table",), ("explain", "queued", "complete"), ("explain", "expired", "start")])
def test_words_are_whole_on_a_terminal(width: int, arguments: tuple[str, ...]) -> None:
    """Where a terminal is narrow, a line ends between words, and nothing that a pipe gets is left out."""
    shown = on_a_terminal(*arguments, COLUMNS=str(width), TERM="dumb")
    whole = process(*arguments).stdout
    lines = [line.rstrip() for line in shown.splitlines()]
    longest_word = max(map(len, whole.split()))
    if arguments != ("table",):
        assert " ".join(shown.split()) == " ".join(whole.split())
        assert max(map(len, lines)) <= max(width, longest_word)
    elif width >= 80:
        assert max(map(len, lines)) <= width
        assert sorted(shown.split()) == sorted(whole.split())
    for row in TRANSITIONS if arguments == ("table",) else ():
        assert f"{row.basis}: {row.evidence}" in " ".join(shown.split())


@pytest.mark.parametrize("json_too", [[], ["--json"]])
@pytest.mark.parametrize(("status", "event"), [("queued", "complete"), ("cancelling", "confirm_cancel")])
def test_explain_takes_either_order(status: str, event: str, json_too: list[str]) -> None:
    """No word is both a status and an event, so the order says nothing."""
    right = ask("explain", status, event, *json_too)
    assert right.stdout == ask("explain", event, status, *json_too).stdout
    assert right.stdout == ask("explain", *json_too, event.upper(), status.upper()).stdout
    assert right.exit_code == 0


@pytest.mark.parametrize("name", ["list", "show", "cancel", "history", "watch", "prune", "sweep", "create", "submit"])
def test_a_command_of_the_group_is_found(name: str) -> None:
    """Asked for without `runs`, it is named with it; every command of the group is."""
    done = CliRunner().invoke(cli, [name])
    assert done.exit_code == 2
    assert f"No such command '{name}'. Did you mean 'runs {name}'?" in done.stderr
    assert name in ask("runs", "--help").stdout


def test_a_terminal_that_knows_no_unicode_gets_ascii() -> None:
    """Where stdout cannot take the lanes' characters, they are drawn in ASCII."""
    done = process("diagram", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (0, "") == (done.returncode, done.stderr)
    assert done.stdout.isascii()
    assert LEGAL == set(parse_lanes(done.stdout))


def test_what_stdout_cannot_spell_is_spelled_out(recording: Path) -> None:
    """Names in other scripts are no reason to fall."""
    foreign = recording.rename(recording.with_name("caf\xe9.jsonl"))
    # The locale decides how the name comes in: one that the machine lacks would be no UTF-8.
    checked = process("check", str(foreign), PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C.UTF-8")
    assert "" == checked.stderr
    assert "caf\\xe9.jsonl" in checked.stdout


def test_a_stdout_that_was_closed_is_no_trouble() -> None:
    """Who closes it wants to hear nothing, not even of a file that was left open."""
    command = f"{quote(sys.executable)} -W default::ResourceWarning -m runstate table >&-"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert (0, "") == (done.returncode, done.stderr)


MEANT = {
    "queued": "submit_tool_outputs",
    "in_progress": "start",
    "requires_action": "require_action",
    "cancelling": "request_cancel",
    "cancelled": "confirm_cancel",
    "failed": "fail",
    "completed": "complete",
    "incomplete": "mark_incomplete",
    "expired": "expire",
}
"""The event that leads to each status."""


@pytest.mark.parametrize(("status", "event"), MEANT.items(), ids=MEANT.keys())
def test_explain_tells_a_status_from_an_event(status: str, event: str) -> None:
    """A status in the place of the event, and the other way round, is told with what was meant."""
    for word in (status, status.upper()):
        done = CliRunner().invoke(cli, ["explain", "queued", word])
        assert (2, "") == (done.exit_code, done.stdout)
        assert f"{word} is a status; the event is {event}" in done.stderr
    done = CliRunner().invoke(cli, ["explain", event, "start"])
    assert (2, "") == (done.exit_code, done.stdout)
    assert f"{event} is an event; the status is {status}" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("arguments", [["table"], ["diagram"], ["explain", "queued", "start"]])
def test_a_full_disk_gets_a_sentence(arguments: list[str]) -> None:
    """What cannot be written is told in one sentence, with exit code 2."""
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "runstate", *arguments]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (2, f"runstate: cannot go on: {os.strerror(errno.ENOSPC)}\n") == (done.returncode, done.stderr)


def test_a_closed_pipe_is_no_trouble(recording: Path) -> None:
    """Whoever reads one line of it gets one line, and no complaint."""
    command = f"{quote(sys.executable)} -m runstate check {quote(str(recording))} | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert ("snapshots  runs  errors  warnings  file\n", "") == (done.stdout, done.stderr)


def test_a_hostile_recording_is_told_and_not_obeyed(tmp_path: Path) -> None:
    """An id with a lone surrogate or an escape sequence is shown, never sent."""
    path = tmp_path / "hostile.jsonl"
    path.write_text('{"id": "run_\\ud800\\u001b[2J", "status": "paused", "object": "thread.run"}')
    done = process("check", str(path))
    assert (1, "") == (done.returncode, done.stderr)
    assert r"run run_\ud800\x1b[2J: status: unknown status 'paused'" in done.stdout


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, click.Abort])
def test_an_interrupt_ends_it_quietly(
    interrupt: type[BaseException], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C gets one word, and the exit code that shells give it."""

    def interrupted(*_: Any, **__: Any) -> None:
        raise interrupt

    monkeypatch.setattr(cli, "main", interrupted)
    with pytest.raises(SystemExit) as ended:
        main()
    assert (130, "runstate: interrupted\n") == (ended.value.code, capsys.readouterr().err)


def test_a_command_imports_only_what_it_needs() -> None:
    """The table does not wait for the renderers, the judge or the demonstration."""
    # What was there before is not the command's doing: a coverage tool looks in first.
    asked = "from runstate.cli import cli; cli.main(['table'], standalone_mode=False)"
    code = f"import sys; before = {{*sys.modules}}; {asked}; print(*{{*sys.modules}} - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    own = {"runstate.cli", "runstate.cli.commands", "runstate.cli.commands.lifecycle", "runstate.cli._output"}
    assert own == {name for name in loaded if name.startswith("runstate.cli")}
    others = {"runstate.diagram", "runstate.traces", "runstate.demo.cluster", "rich.live", "rich.progress"}
    assert set() == loaded & {*others, "concurrent.futures", "asyncio", "sqlite3"}


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_its_libraries_it_says_what_to_install(missing: str) -> None:
    """The core installs without click and rich; the command then says so and exits with 2."""
    code = f"import sys; sys.modules['{missing}'] = None; from runstate.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (2, "") == (done.returncode, done.stdout)
    assert "runstate: the command needs click and rich: pip install 'runstate[cli]'\n" == done.stderr
