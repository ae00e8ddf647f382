"""The simulation of other words does change them, and nothing that a caller may rely on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "foreign_words"
PROGRAM = """
import argparse, contextlib, json, sqlite3
import click, psycopg, yaml

def caught(kind, ask):
    try:
        ask()
    except kind as error:
        return error

no_json = caught(json.JSONDecodeError, lambda: json.loads("[1 2]"))
no_yaml = caught(yaml.MarkedYAMLError, lambda: yaml.safe_load("a: b: c"))
no_letter = caught(yaml.reader.ReaderError, lambda: yaml.safe_load("\\x01"))
with contextlib.closing(sqlite3.connect(":memory:")) as connection:
    no_table = caught(sqlite3.Error, lambda: connection.execute("SELECT * FROM missing"))
no_server = caught(psycopg.Error, lambda: psycopg.connect("postgresql://host:1:2/"))
no_option = caught(click.NoSuchOption, lambda: click.Command("it").main(["--missing"], standalone_mode=False))
print(json.dumps({
    "json": (no_json.msg, no_json.pos),
    "yaml": (no_yaml.problem, no_yaml.problem_mark.column),
    "yaml reader": (no_letter.reason, no_letter.character),
    "sqlite": (str(no_table), no_table.sqlite_errorname),
    "psycopg": (str(no_server), type(no_server).__name__),
    "click": (no_option.format_message(), no_option.option_name),
    "click help": (click.Command("it").get_help(click.Context(click.Command("it"))), ""),
    "argparse": (argparse.ArgumentParser("it").format_usage(), ""),
}))
"""


def said(**environment: str) -> dict[str, Any]:
    # Without coverage, whose own database would be told of in other words at its end.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env={**plain, **environment}, check=False
    )
    assert (0, "") == (done.returncode, done.stderr)
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


def test_every_library_says_something_else() -> None:
    """Their sentences are not what they were; places, names, codes and classes are."""
    plain, simulated = said(PYTHONPATH=""), said(PYTHONPATH=str(HERE))
    assert [] == [library for library in plain if plain[library][0] == simulated[library][0]]
    assert {library: kept for library, (_, kept) in plain.items()} == {
        library: kept for library, (_, kept) in simulated.items()
    }
