"""A few thousand odd inputs of the million (`torture.fuzz`), and each one that was once answered wrong."""

from __future__ import annotations

import io
import itertools
import json
import random
import time
from pathlib import Path
from typing import Any

import click
import pytest

from runstate import Run, RunDecodeError
from runstate.__main__ import main
from runstate.cli._files import bounded_lines
from runstate.cli._times import duration
from runstate.cli.errors import redact
from runstate.errors import StoreUrlError
from runstate.run.codec import MAX_BYTES
from runstate.store._api.url import database_at
from runstate.traces import Report, check_snapshots, read_snapshots
from tests.support.lifecycle import new_run
from torture.fuzz.addresses import behind
from torture.fuzz.growth import SHAPES, growth
from torture.fuzz.loop import TARGETS, fuzz
from torture.fuzz.telling import CONTROL, SECRET

SAMPLE = {"run": 2500, "check": 1200, "cassette": 600, "url": 5000, "cli": 250}


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_a_sample(target: str) -> None:
    """A run or the documented refusal, every time; something is read, and something is refused."""
    tally = fuzz(target, SAMPLE[target], seed=2026)
    slow = [crash for crash in tally.crashes if "took" in crash.told]  # no timing decides a test
    assert [] == [str(crash) for crash in tally.crashes if crash not in slow]
    assert SAMPLE[target] == tally.inputs == tally.read + tally.refused + len(slow)
    assert tally.read
    assert tally.refused


@pytest.mark.parametrize("name", TARGETS)
def test_an_input_comes_again_by_its_number(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed with a crash is all that it takes to have it again, whatever the time is by then."""

    def made() -> list[str]:
        return [repr(TARGETS[name].make(random.Random(f"{name}/1/{number}"))) for number in range(100)]

    first = made()
    hours = itertools.count(0, 3600)
    monkeypatch.setattr(time, "time", lambda: float(next(hours)))
    assert first == made()
    assert len({*first}) > 50, "and another number makes another"


def test_a_crash_is_told_with_what_gives_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Target, seed, number, what happened, and the input; a warning is a crash too."""

    def judge(given: Any) -> bool:
        raise UserWarning("that was odd")

    monkeypatch.setitem(TARGETS, "url", TARGETS["url"]._replace(judge=judge))
    tally = fuzz("url", 2, seed=5, first=7)
    assert [(5, 7), (5, 8)] == [(crash.seed, crash.number) for crash in tally.crashes]
    assert "UserWarning" in str(tally.crashes[0])
    assert str(tally.crashes[0]).endswith("--target url --seed 5 --number 7")


def test_growth_is_measured() -> None:
    """Each of the worst shapes is judged at doubling sizes, and has its line."""
    lines = list(growth(least=64, doublings=1))
    assert [*SHAPES] == [line[:24].strip() for line in lines]
    assert all(" x2: " in line for line in lines)


# --- what was found ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2/db",  # the port, for libpq
        "postgresql://h/db?port=hunter2",
        "host=h password=hunter2",
        "password=hunter2 host=::1",
        "postgresql://me:hunter2@host\u2100/db",
        "postgresql://me:hunter2@[::1]x/db",
        "postgresql://me:hunter2@[hunter2]/db",
        "postgresql:/me:hunter2@host/db",
        "postgresql:hunter2",
        "postgresql://me@host/db?password=a%zzhunter2",
        "postgresql://me@host/db?password=%00hunter2",
        "postgresql://me@host/db?password=hun&ter2=hunter2",
        "postgresql://me@host/db?hunter2",
        "postgresql://me@host/db?hunter2=1",
        "postgresql://host/me:hunter2@db",
        "hunter2",
        "hunter2:5432",
    ],
)
def test_no_password_is_quoted(url: str) -> None:
    """Neither by the sentence nor by what stands behind it: libpq and `urlsplit` quote what they cannot read."""
    with pytest.raises(StoreUrlError) as refused:
        database_at(url)
    for error in behind(refused.value):
        assert SECRET not in f"{error}{error!r}{error.args}"


@pytest.mark.parametrize("url", ["postgresql://h/db%ff", "postgresql://me:%ff@h/db", "postgresql://h/db?options=%ff"])
def test_an_address_that_is_no_utf_8(url: str) -> None:
    """It is refused in a sentence, where psycopg has a `UnicodeDecodeError`."""
    with pytest.raises(StoreUrlError, match="libpq cannot read it"):
        database_at(url)


@pytest.mark.parametrize("path", ["a%00b.db", "a%1b[2J.db", "a%0Ab.db", "a%FFb.db"])
def test_a_path_that_nobody_can_read(path: str) -> None:
    """It is refused: SQLite would open the file `a`, or the sentences about it would move the cursor."""
    with pytest.raises(StoreUrlError, match="an SQLite path is readable text"):
        database_at(f"sqlite:///{path}")


def test_a_database_is_shown_in_visible_characters() -> None:
    """What its percents spell is escaped."""
    assert r"postgresql://h:5432/a\x1b[2Jb" == database_at("postgresql://h/a%1b[2Jb").display_url


def test_a_key_of_metadata_is_told_in_visible_characters() -> None:
    """The path of a fault holds no escape sequence."""
    record = {**new_run().to_dict(), "metadata": {"\x1b[2J": 5}}
    with pytest.raises(RunDecodeError, match=r"metadata\.\\x1b\[2J: expected a string"):
        Run.from_dict(record)


def ask(*words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what the command says to a mistake."""
    monkeypatch.setattr("sys.argv", ["runstate", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert 2 == ended.value.code
    told = capsys.readouterr()
    assert "" == told.out
    return told.err


@pytest.mark.parametrize("words", [["\x1b[2J"], ["table", "\x1b[2J"], ["table", "--\x1b[2J"], ["check", "\x1b[2J"]])
def test_the_command_line_is_told_in_visible_characters(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Click quotes unknown words as they came; the command does not send them to the terminal so."""
    told = ask(*words, monkeypatch=monkeypatch, capsys=capsys)
    assert r"\x1b[2J" in told
    assert not CONTROL.search(told)


@pytest.mark.parametrize("url", ["postgresql://me:hunter2@host/db", "postgresql://me@host/db?password=hunter2"])
def test_an_address_in_the_wrong_place(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is told without its password, as a word too many and as the id of a run."""
    store = f"sqlite:///{tmp_path / 'runs.db'}"
    monkeypatch.setattr("sys.argv", ["runstate", "migrate", "--store", store])
    with pytest.raises(SystemExit):
        main()
    capsys.readouterr()
    for words in (["table", url], ["runs", "show", url, "--store", store], ["runs", "cancel", url, "--store", store]):
        told = ask(*words, monkeypatch=monkeypatch, capsys=capsys)
        assert "***" in told
        assert SECRET not in told


@pytest.mark.parametrize("version", ["9" * 5000, "\u0661"])
def test_a_version_that_no_run_has(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused in a sentence: Python makes no number of more than 4,300 digits."""
    words = ["runs", "watch", "run_1", "--store", f"sqlite:///{tmp_path / 'runs.db'}", "--after", version]
    assert "of one run it is a version, a number" in ask(*words, monkeypatch=monkeypatch, capsys=capsys)


@pytest.mark.parametrize("text", ["9" * 120_000, "1s" * 60_000, "1." * 60_000])
def test_a_long_span_of_time(text: str) -> None:
    """It is refused at once: looking for units in so many digits took minutes."""
    with pytest.raises(click.BadParameter, match="is not a duration"):
        duration(text)


@pytest.mark.parametrize("text", [":a" * 100_000, "://" * 100_000, "a:@" * 100_000, "password=" * 50_000])
def test_a_long_word_is_masked(text: str) -> None:
    """What is told of it holds no more than it did, and is found in one go."""
    assert len(redact(text)) <= len(text)


# --- bounds -----------------------------------------------------------------------------------------------------------


def judged(text: bytes) -> Report:
    return check_snapshots(read_snapshots(bounded_lines(io.BytesIO(text))))


def test_many_directives_of_yaml_are_refused() -> None:
    """PyYAML compares each with all before it: a megabyte of them takes seconds, sixteen take half an hour."""
    text = b"---\n...\n" + b"".join(b"%%TAG !a%d! b\n" % number for number in range(200_000))
    (complaint,) = judged(text).findings
    assert complaint.message.endswith("expected at most 100 %TAG directives, got more")


def test_blank_lines_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A document that goes on in blank lines is refused at the reader's bound; the line of a fault is the file's."""
    (complaint,) = judged(b"{\n\n\n5}\n").findings
    assert "line 4 column 1" in complaint.message
    (complaint,) = judged(b"\n\ninteractions: [}\n").findings
    assert "line 3 column 16" in complaint.message
    monkeypatch.setattr("runstate.run.json_text.MAX_BYTES", 1000)
    (complaint,) = judged(b"{\n" + b"\n" * 998 + b"}\n").findings
    assert "expected at most 1000 bytes, got 1001" in complaint.message


def test_an_event_that_does_not_end() -> None:
    """Of its data only as much is kept as it takes to refuse it."""
    piece = b"data: " + b"x" * 1_000_000 + b"\n"
    found = list(
        read_snapshots(iter([*[piece] * 40, b"\n", b"data: " + json.dumps(new_run().to_dict()).encode(), b"\n"]))
    )
    assert [True, False] == [snapshot.record is None for snapshot in found]
    assert f"expected at most {MAX_BYTES} bytes, got 17000016" == found[0].errors[0].message
