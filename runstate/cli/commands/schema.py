"""The commands that keep a store's database: its DDL, its migrations, its examination."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import closing, contextmanager
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final

import click
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.text import Text

from runstate.cli._durations import duration
from runstate.cli._options import AS_JSON, STORE, database_of, told_in_sentences
from runstate.cli._output import emit_json, progress_bar, screen
from runstate.run.json_values import escape

if TYPE_CHECKING:
    from runstate.store._sql.connection import Database
    from runstate.store.doctor import Diagnosis
    from runstate.store.doctor import Progress as Heard

__all__ = ["ddl", "doctor", "migrate"]

_FINDINGS: Final = 1


@click.command()
@click.option(
    "--dialect", type=click.Choice(["sqlite", "postgres"]), default="postgres", show_default=True, help="Whose SQL."
)
def ddl(dialect: str) -> None:
    """Print the SQL that makes an empty database a store: tables, indexes, and the law as triggers."""
    from runstate.store._sql import migrations
    from runstate.store._sql.dialect import POSTGRES, SQLITE

    click.echo(migrations.ddl(SQLITE if dialect == "sqlite" else POSTGRES).rstrip())


@click.command()
@STORE
@click.option("--dry-run", is_flag=True, help="Say which steps are missing, and take none.")
@AS_JSON
def migrate(url: str, dry_run: bool, as_json: bool) -> None:
    """Bring a database to this version's schema: all missing steps, or none. Many may ask at once."""
    from runstate.store._sql import migrations

    with told_in_sentences(url), closing(_to_migrate(url, dry_run)) as database:
        steps = migrations.migrate(database, dry_run=dry_run)
    if as_json:
        taken = [{"number": step.number, "sentence": step.description} for step in steps]
        emit_json({"dry_run": dry_run, "schema": migrations.LATEST, "steps": taken})
        return
    for step in steps:
        click.echo(f"{'would take' if dry_run else 'took'} step {step.number}: {step.description}")
    if not steps:
        click.echo(f"nothing to do: the schema is {migrations.LATEST}")


def _to_migrate(url: str, dry_run: bool) -> Database:
    from runstate.store._api.url import database_at

    database = database_at(url)
    path = getattr(database, "path", None)
    if dry_run and isinstance(path, str) and not database.in_memory and not os.path.exists(path):  # noqa: PTH110
        return database_at("sqlite:///:memory:")  # as empty, and nothing comes to be
    return database_of(url) if database.in_memory else database


@click.command()
@STORE
@click.option(
    "--stuck-after",
    type=duration,
    default="1h",
    show_default=True,
    help="How long a live run may stand still.",
)
@click.option(
    "--old-snapshot",
    type=duration,
    default="10m",
    show_default=True,
    help="How long a transaction may stay open (PostgreSQL).",
)
@click.option("--quick-check", is_flag=True, help="Let SQLite read every page of its file, too.")
@click.option("--most", type=click.IntRange(1, 1000), default=10, show_default=True, help="Findings told of each kind.")
@AS_JSON
def doctor(url: str, stuck_after: float, old_snapshot: float, quick_check: bool, most: int, as_json: bool) -> None:
    """Examine a store: its guards, its runs and their histories, what nobody looks after, the database itself.

    It reads only, also while others work. Exit code 1 if anything was found.
    """
    from runstate.store.doctor import examine

    with told_in_sentences(url), _heard() as heard:
        diagnosis = examine(
            database_of(url),
            stuck_after_s=stuck_after,
            old_snapshot_s=old_snapshot,
            quick_check=quick_check,
            most=most,
            progress=heard,
        )
    if as_json:
        emit_json(_diagnosis(diagnosis))
    else:
        _print_diagnosis(diagnosis)
    sys.exit(_FINDINGS if diagnosis.findings else 0)


@contextmanager
def _heard() -> Generator[Heard, None, None]:
    """Show on stderr how far the examination is, if a person is looking."""
    with progress_bar(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()) as bar:
        shown = bar.add_task("runs", total=None)

        def heard(what: str, seen: int, all_there_is: int) -> None:
            bar.update(shown, description=what, completed=seen, total=all_there_is)

        yield heard


def _diagnosis(diagnosis: Diagnosis) -> dict[str, Any]:
    return {
        "store": diagnosis.shown,
        "schema": diagnosis.schema,
        "runs": diagnosis.runs,
        "entries": diagnosis.entries,
        "errors": len(diagnosis.errors),
        "warnings": len(diagnosis.warnings),
        "findings": [
            {
                "severity": finding.severity,
                "what": finding.what,
                "run": finding.run_id,
                "thing": finding.thing,
                "problem": finding.sentence,
                "remedy": finding.remedy,
            }
            for finding in diagnosis.findings
        ],
        "unseen": list(diagnosis.unseen),
    }


def _print_diagnosis(diagnosis: Diagnosis) -> None:
    console = screen()
    watched = console.is_terminal  # a pipe takes long lines, a person wants them folded

    def line(text: Text, indent: int = 0) -> None:
        console.print(Padding(text, (0, 0, 0, indent)) if watched else text, soft_wrap=not watched)

    findings = diagnosis.findings
    for finding, following in zip_longest(findings, findings[1:]):
        style = "bold red" if finding.severity == "error" else "bold yellow"
        remedy = escape(finding.remedy)
        told = Text.assemble((f"{finding.severity}: ", style), escape(finding.sentence))
        line(told if watched else Text.assemble(told, f" ({remedy})"))
        if watched and (following is None or following.remedy != finding.remedy):
            line(Text(remedy, style="dim"), 4)
    for unseen in diagnosis.unseen:
        line(Text(f"not seen: {escape(unseen)}", style="dim"))
    errors, warnings = _count(len(diagnosis.errors), "error"), _count(len(diagnosis.warnings), "warning")
    found = f"{errors}, {warnings}" if findings else "nothing is wrong"
    looked_at = f"runs: {diagnosis.runs}, entries: {diagnosis.entries}, schema: {diagnosis.schema}"
    line(Text(f"{escape(diagnosis.shown)}: {found} ({looked_at})", style="bold"))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
