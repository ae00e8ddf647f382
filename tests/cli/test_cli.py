"""The command: data on stdout, messages on stderr, and no traceback for bad input."""

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


def invoke(*arguments: str | Path, stdin: str | bytes | None = None) -> Result:
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
    lines = invoke("table").stdout.splitlines()
    assert [[row.event, row.source, row.target] for row in TRANSITIONS] == [line.split()[:3] for line in lines[1:]]


def test_the_table_as_json_has_every_row() -> None:
    """JSON has the nineteen transitions and the nine statuses, with the allowed events of each."""
    data = json.loads(invoke("table", "--json").stdout)
    assert LEGAL == {(row["event"], row["source"], row["target"]) for row in data["transitions"]}
    assert set(UNTIL_DEADLINE) == {row["event"] for row in data["transitions"] if row["until_deadline"]}
    for status in data["statuses"]:
        assert list(RUN_LIFECYCLE.allowed_events(RunStatus(status["status"]))) == status["allowed_events"]
        assert status["terminal"] is (status["allowed_events"] == [])


def test_the_documented_table_has_eleven_rows() -> None:
    """Only the transitions that the vendor documented."""
    assert 11 == len(json.loads(invoke("table", "--json", "--documented").stdout)["transitions"])


@pytest.mark.parametrize("form", FORMATS)
def test_a_diagram_in_every_format(form: Format, tmp_path: Path) -> None:
    """The output and the file that is written are the diagram."""
    expected = draw(RUN_LIFECYCLE, form) + "\n"
    assert expected == invoke("diagram", "--format", form).stdout
    path = tmp_path / "picture"
    result = invoke("diagram", "-f", form, "-o", path)
    assert ("", "") == (result.stdout, result.stderr)
    assert expected == path.read_text(encoding="utf-8")


def test_a_diagram_shows_where_a_run_stands(recording: Path) -> None:
    """The last snapshot of the file is drawn, and the diagram has all transitions."""
    shown = invoke("diagram", "--run", recording).stdout
    assert "run_1 is completed" in shown
    assert LEGAL == set(parse_lanes(shown))
    assert shown == invoke("diagram", "--run", "-", stdin=recording.read_bytes()).stdout


@pytest.mark.parametrize("event", RunEvent)
@pytest.mark.parametrize("status", RunStatus)
def test_explain_of_all_81_pairs(status: RunStatus, event: RunEvent) -> None:
    """As text and as JSON: legal or not, and the shortest way."""
    words = invoke("explain", status, event).stdout
    data = json.loads(invoke("explain", status, event, "--json").stdout)
    row = RUN_LIFECYCLE.find(status, event)
    assert data["legal"] is (row is not None)
    assert (f"{event} is legal there" if row else f"{event} is illegal there") in words
    assert data["until_deadline"] is (None if row is None else event in UNTIL_DEADLINE)
    assert (row is not None and event in UNTIL_DEADLINE) is ("legal there until the run's deadline" in words)
    path = RUN_LIFECYCLE.path_to_event(status, event)
    assert data["shortest_path"] == (None if path is None else list(path))
    if row is None and path is not None:
        assert f"Shortest way: {' -> '.join(path)}." in words


# --- check


def test_check_counts_snapshots_and_transitions(recording: Path) -> None:
    """Snapshots, runs and changes of status, in words and in JSON; exit code 0."""
    result = invoke("check", recording)
    assert 0 == result.exit_code
    assert ["3", "1", "0", "0", str(recording)] == result.stdout.splitlines()[1].split(maxsplit=4)
    data = json.loads(invoke("check", "--json", recording).stdout)
    assert (3, 1, 0, []) == tuple(data["total"][key] for key in ("snapshots", "runs", "errors", "findings"))
    assert [["start"], ["complete"]] == sorted((row["events"] for row in data["total"]["transitions"]), reverse=True)


def test_check_finds_an_impossible_run(recording: Path) -> None:
    """Exit code 1, and a line that names file, line, run and reason."""
    lines = recording.read_text().splitlines()
    broken = json.loads(lines[1]) | {"completed_at": 1_800_000_002}
    recording.write_text("\n".join([lines[0], json.dumps(broken), lines[2]]))
    result = invoke("check", recording)
    assert 1 == result.exit_code
    message = "completed_at is set, but no path from queued to in_progress stamps it"
    assert result.stdout.startswith(f"{recording}:2: error: run run_1: {message}")
    finding = json.loads(invoke("check", "--json", recording).stdout)["total"]["findings"][0]
    assert ("2", "error", "run_1", message) == tuple(finding[key] for key in ("place", "severity", "run", "message"))


def test_check_reads_stdin_and_many_files(recording: Path) -> None:
    """- is stdin; with many files there is a row for all, and the same run counts once."""
    result = invoke("check", recording, "-", stdin=recording.read_bytes())
    assert ["6", "1", "0", "0", "in", "all", "2", "files"] == result.stdout.splitlines()[3].split()


def test_a_line_that_is_too_long_is_one_finding(tmp_path: Path) -> None:
    """A line of 40 MB is refused as one, and the line after it is read as the third."""
    path = tmp_path / "huge.jsonl"
    path.write_bytes(b'{}\n{"a": "' + b"x" * 40_000_000 + b'"}\nnonsense\n')
    lines = [line for line in invoke("check", path).stdout.splitlines() if "error:" in line]
    assert [f"{path}:2", f"{path}:3"] == [line.split(": error")[0] for line in lines[-2:]]
    assert "expected at most 16777216 bytes" in lines[-2]


# --- invalid usage


@pytest.mark.parametrize(
    ("arguments", "message"),
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
def test_invalid_usage_gets_a_message(arguments: list[str], message: str) -> None:
    """Exit code 2, nothing on stdout, a message on stderr that names what is wrong."""
    result = invoke(*arguments)
    assert (2, "") == (result.exit_code, result.stdout)
    assert message in result.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no run in it"),
        (b"{broken", "not JSON at line 1 column 2"),
        (b'{"id": "run_1", "status": "paused"}', "unknown status 'paused'"),
    ],
)
def test_a_diagram_of_no_run_gets_a_message(content: bytes, message: str, tmp_path: Path) -> None:
    """A file without a readable run is invalid usage. The message has its location."""
    path = tmp_path / "run.json"
    path.write_bytes(content)
    result = invoke("diagram", "--run", path)
    assert (2, "") == (result.exit_code, result.stdout)
    assert message in result.stderr
    assert str(path) in result.stderr


def test_a_mistyped_command_gets_suggestions() -> None:
    """Commands that are not imported yet are suggested too, if this version of click suggests."""
    context = click.Context(cli)
    eager = {name: command for name in cli.list_commands(context) if (command := cli.get_command(context, name))}
    plain = click.Group("cli", eager, context_settings=cli.context_settings)
    code = "from runstate.cli import cli; cli.main(['tabel'], 'cli')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert CliRunner().invoke(plain, ["tabel"]).stderr == result.stderr


# --- as a process: pipes, terminals, missing libraries


def run_process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runstate", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


def run_on_terminal(*arguments: str, **environment: str) -> str:
    """Run the command on a terminal of 200 columns; return its output, stderr included."""
    master, slave = pty.openpty()
    env: dict[str, Any] = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "200", **environment}
    command = [sys.executable, "-m", "runstate", *arguments]
    with subprocess.Popen(command, stdout=slave, stderr=slave, stdin=slave, env=env) as running:
        os.close(slave)
        written = b""
        while chunk := _read(master):
            written += chunk
        assert 0 == running.wait(60)
    os.close(master)
    return written.decode()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # Linux says so when the other side has closed
        return b""


def test_a_terminal_gets_colors_unless_no_color_is_set() -> None:
    """Lanes have colors on a terminal, but not with NO_COLOR, and not in a pipe."""
    assert "\x1b[" in run_on_terminal("diagram")
    assert "\x1b[" not in run_on_terminal("diagram", NO_COLOR="1")
    assert "\x1b[" not in run_process("diagram").stdout


@pytest.mark.slow
@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("arguments", [("table",), ("explain", "queued", "complete"), ("explain", "expired", "start")])
def test_words_are_whole_on_a_terminal(width: int, arguments: tuple[str, ...]) -> None:
    """On a narrow terminal, lines are wrapped between words, and nothing is left out."""
    shown = run_on_terminal(*arguments, COLUMNS=str(width), TERM="dumb")
    whole = run_process(*arguments).stdout
    assert max(map(len, shown.splitlines())) <= width
    if arguments != ("table",):
        assert " ".join(shown.split()) == " ".join(whole.split())
    assert sorted(shown.split()) == sorted(whole.split())
    for row in TRANSITIONS if arguments == ("table",) else ():
        assert f"{row.basis}: {row.evidence}" in " ".join(shown.split())


@pytest.mark.parametrize("json_too", [[], ["--json"]])
@pytest.mark.parametrize(("status", "event"), [("queued", "complete"), ("cancelling", "confirm_cancel")])
def test_explain_takes_either_order(status: str, event: str, json_too: list[str]) -> None:
    """No word is both a status and an event, so the order is free."""
    right = invoke("explain", status, event, *json_too)
    assert right.stdout == invoke("explain", event, status, *json_too).stdout
    assert right.stdout == invoke("explain", *json_too, event.upper(), status.upper()).stdout
    assert right.exit_code == 0


@pytest.mark.parametrize("name", ["list", "show", "cancel", "history", "watch", "prune", "sweep", "create", "submit"])
def test_a_command_of_the_group_is_suggested(name: str) -> None:
    """Called without `runs`, the error suggests it. Every command of the group does."""
    result = CliRunner().invoke(cli, [name])
    assert result.exit_code == 2
    assert f"No such command '{name}'. Did you mean 'runs {name}'?" in result.stderr
    assert name in invoke("runs", "--help").stdout


def test_an_encoding_without_unicode_gets_ascii() -> None:
    """If the encoding of stdout lacks the characters of the lanes, they are drawn in ASCII."""
    result = run_process("diagram", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (0, "") == (result.returncode, result.stderr)
    assert result.stdout.isascii()
    assert LEGAL == set(parse_lanes(result.stdout))


def test_characters_that_stdout_lacks_are_escaped(recording: Path) -> None:
    """Names in other scripts are no error."""
    foreign = recording.rename(recording.with_name("caf\xe9.jsonl"))
    # The locale decides how the name is decoded: with one that the machine lacks, it is not UTF-8.
    checked = run_process("check", str(foreign), PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C.UTF-8")
    assert "" == checked.stderr
    assert "caf\\xe9.jsonl" in checked.stdout


def test_a_closed_stdout_is_no_error() -> None:
    """Nothing is printed, not even a ResourceWarning."""
    command = f"{quote(sys.executable)} -W default::ResourceWarning -m runstate table >&-"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert (0, "") == (result.returncode, result.stderr)


EVENT_TO = {
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


@pytest.mark.parametrize(("status", "event"), EVENT_TO.items(), ids=EVENT_TO.keys())
def test_explain_names_the_kind_of_a_misplaced_word(status: str, event: str) -> None:
    """A status given as the event, or an event as the status, is named with what is expected."""
    for word in (status, status.upper()):
        result = CliRunner().invoke(cli, ["explain", "queued", word])
        assert (2, "") == (result.exit_code, result.stdout)
        assert f"{word} is a status; the event is {event}" in result.stderr
    result = CliRunner().invoke(cli, ["explain", event, "start"])
    assert (2, "") == (result.exit_code, result.stdout)
    assert f"{event} is an event; the status is {status}" in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("arguments", [["table"], ["diagram"], ["explain", "queued", "start"]])
def test_a_full_disk_gets_a_message(arguments: list[str]) -> None:
    """Output that cannot be written is one message and exit code 2."""
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "runstate", *arguments]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (2, f"runstate: cannot go on: {os.strerror(errno.ENOSPC)}\n") == (result.returncode, result.stderr)


def test_a_closed_pipe_is_no_error(recording: Path) -> None:
    """A reader of one line gets one line, and nothing on stderr."""
    command = f"{quote(sys.executable)} -m runstate check {quote(str(recording))} | head -1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert ("snapshots  runs  errors  warnings  file\n", "") == (result.stdout, result.stderr)


def test_control_characters_in_a_recording_are_escaped(tmp_path: Path) -> None:
    """A lone surrogate or an escape sequence in an id is printed escaped."""
    path = tmp_path / "hostile.jsonl"
    path.write_text('{"id": "run_\\ud800\\u001b[2J", "status": "paused", "object": "thread.run"}')
    result = run_process("check", str(path))
    assert (1, "") == (result.returncode, result.stderr)
    assert r"run run_\ud800\x1b[2J: status: unknown status 'paused'" in result.stdout


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, click.Abort])
def test_an_interrupt(
    interrupt: type[BaseException], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C prints one word, and has the exit code of shells."""

    def interrupted(*_: Any, **__: Any) -> None:
        raise interrupt

    monkeypatch.setattr(cli, "main", interrupted)
    with pytest.raises(SystemExit) as ended:
        main()
    assert (130, "runstate: interrupted\n") == (ended.value.code, capsys.readouterr().err)


def test_a_command_imports_only_what_it_needs() -> None:
    """The table does not import the renderers, the judge or the demonstration."""
    # Modules that were loaded before are not counted: a coverage tool is loaded first.
    program = "from runstate.cli import cli; cli.main(['table'], standalone_mode=False)"
    code = f"import sys; before = {{*sys.modules}}; {program}; print(*{{*sys.modules}} - before)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(result.stdout.splitlines()[-1].split())
    own = {"runstate.cli", "runstate.cli.commands", "runstate.cli.commands.lifecycle"}
    own |= {"runstate.cli._output", "runstate.cli._tables"}
    assert own == {name for name in loaded if name.startswith("runstate.cli")}
    others = {"runstate.diagram", "runstate.traces", "runstate.demo.cluster", "rich.live", "rich.progress"}
    assert set() == loaded & {*others, "concurrent.futures", "asyncio", "sqlite3"}


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_its_libraries(missing: str) -> None:
    """Without click or rich, the command says what to install, and exits with 2."""
    code = f"import sys; sys.modules['{missing}'] = None; from runstate.__main__ import main; main()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (2, "") == (result.returncode, result.stdout)
    assert "runstate: the command needs click and rich: pip install 'click>=8.1.2' 'rich>=13.7'\n" == result.stderr
