"""The commands about the database of a store: ddl, migrate, doctor."""

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

from runstate.cli._options import database_from_url, json_option, store_from_url, store_option
from runstate.cli._output import print_json, progress_bar, stdout_console
from runstate.cli._times import duration
from runstate.cli.errors import errors_as_exit_codes
from runstate.run.json_values import escape

if TYPE_CHECKING:
    from runstate.store._sql.connection import Database
    from runstate.store.doctor import Diagnosis, Progress

__all__ = ["ddl", "doctor", "migrate"]

_FINDINGS: Final = 1


@click.command()
@click.option(
    "--dialect", type=click.Choice(["sqlite", "postgres"]), default="postgres", show_default=True, help="The dialect."
)
@click.option("--rebuild", is_flag=True, help="Print what fills the small tables of PostgreSQL anew instead.")
def ddl(dialect: str, rebuild: bool) -> None:
    """Print the SQL that makes an empty database a store: tables, indexes, and triggers that guard the lifecycle."""
    from runstate.store._sql import migrations
    from runstate.store._sql.dialect import POSTGRES, SQLITE

    words = SQLITE if dialect == "sqlite" else POSTGRES
    click.echo((migrations.rebuild_sql(words) if rebuild else migrations.ddl(words)).rstrip())


@click.command()
@store_option
@click.option("--plan", is_flag=True, help="Print the SQL of the missing steps, and take none.")
@json_option
def migrate(url: str, plan: bool, as_json: bool) -> None:
    """Migrate a database to the schema of this version: all missing steps, or none.

    Concurrent calls are safe, also while workers work: they wait until the migration is committed.
    """
    from runstate.store._sql import migrations

    with errors_as_exit_codes(url), closing(_database_to_migrate(url, plan)) as database:
        taken = migrations.migrate(database, dry_run=plan)
    schema = migrations.format_version(migrations.LATEST)
    if as_json:
        steps = [
            {
                "component": step.component,
                "number": step.number,
                "description": step.description,
                "compatible_from": step.compatible_from,
            }
            for step in taken.steps
        ]
        statements = taken.script if plan else None
        print_json({"plan": plan, "schema": dict(migrations.LATEST), "steps": steps, "statements": statements})
    elif not taken.steps:
        click.echo(f"nothing to do: the schema is {schema}")
    elif plan:
        click.echo(taken.sql().rstrip())
    else:
        for step in taken.steps:
            click.echo(f"took step {step.component} {step.number}: {step.description}")


def _database_to_migrate(url: str, plan: bool) -> Database:
    from runstate.store._api.url import database_at

    database = database_at(url)
    path = getattr(database, "path", None)
    if plan and isinstance(path, str) and not database.in_memory and not os.path.exists(path):  # noqa: PTH110
        return database_at("sqlite:///:memory:")  # it has the same steps as a new file, and no file is created
    return database_from_url(url) if database.in_memory else database


@click.command()
@store_option
@click.option(
    "--stuck-after",
    type=duration,
    default="1h",
    show_default=True,
    help="How long a live run may stay in a status.",
)
@click.option(
    "--old-snapshot",
    type=duration,
    default="10m",
    show_default=True,
    help="How long a transaction may stay open (PostgreSQL).",
)
@click.option("--quick-check", is_flag=True, help="Also let SQLite read every page of its file.")
@click.option(
    "--most", type=click.IntRange(1, 1000), default=10, show_default=True, help="The most findings of each kind."
)
@click.option("--live", is_flag=True, help="Only ask whether the store answers; for a container's health check.")
@click.option("--worker", metavar="NAME", help="With --live: also ask whether this worker is at work.")
@json_option
def doctor(
    url: str,
    stuck_after: float,
    old_snapshot: float,
    quick_check: bool,
    most: int,
    live: bool,
    worker: str | None,
    as_json: bool,
) -> None:
    """Examine a store: its guards, runs and histories, stuck runs, and the database itself.

    It only reads, and can run while workers do. Exit code 1 if there are findings, or, with --live, if the worker is
    not at work; 3 if the store does not answer.
    """
    if worker is not None and not live:
        raise click.UsageError("--worker is for --live")
    if live:
        _check_live(url, worker, as_json)
        return
    from runstate.store.doctor import examine

    with errors_as_exit_codes(url), _progress_on_stderr() as progress:
        diagnosis = examine(
            database_from_url(url),
            stuck_after_s=stuck_after,
            old_snapshot_s=old_snapshot,
            quick_check=quick_check,
            most=most,
            progress=progress,
        )
    if as_json:
        print_json(_diagnosis_to_json(diagnosis))
    else:
        _print_diagnosis(diagnosis)
    sys.exit(_FINDINGS if diagnosis.findings else 0)


def _check_live(url: str, name: str | None, as_json: bool) -> None:
    """Print whether the store answers, and whether a worker of a name is at work. Exit with 1 if it is not."""
    with store_from_url(url) as store:
        found = [worker for worker in store.workers() if name in (None, worker.name)]
    is_live = name is None or bool(found)
    if as_json:
        print_json({"live": is_live, "workers": len(found), "runs": sum(worker.runs for worker in found)})
    elif name is None:
        click.echo(f"the store answers; {_plural(len(found), 'worker')} at work")
    else:
        click.echo(f"worker {escape(name)} is {'' if is_live else 'not '}at work")
    sys.exit(0 if is_live else _FINDINGS)


@contextmanager
def _progress_on_stderr() -> Generator[Progress, None, None]:
    """Yield a callback that shows the progress of the examination on stderr."""
    with progress_bar(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()) as bar:
        task = bar.add_task("runs", total=None)

        def show(what: str, seen: int, all_there_is: int) -> None:
            bar.update(task, description=what, completed=seen, total=all_there_is)

        yield show


def _diagnosis_to_json(diagnosis: Diagnosis) -> dict[str, Any]:
    return {
        "store": diagnosis.shown,
        "schema": dict(diagnosis.schema),
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
    console = stdout_console()
    folded = console.is_terminal  # long lines in a pipe, wrapped ones on a terminal

    def line(text: Text, indent: int = 0) -> None:
        console.print(Padding(text, (0, 0, 0, indent)) if folded else text, soft_wrap=not folded)

    findings = diagnosis.findings
    for finding, following in zip_longest(findings, findings[1:]):
        style = "bold red" if finding.severity == "error" else "bold yellow"
        remedy = escape(finding.remedy)
        problem = Text.assemble((f"{finding.severity}: ", style), escape(finding.sentence))
        line(problem if folded else Text.assemble(problem, f" ({remedy})"))
        if folded and (following is None or following.remedy != finding.remedy):
            line(Text(remedy, style="dim"), 4)
    for unseen in diagnosis.unseen:
        line(Text(f"not seen: {escape(unseen)}", style="dim"))
    errors, warnings = _plural(len(diagnosis.errors), "error"), _plural(len(diagnosis.warnings), "warning")
    found = f"{errors}, {warnings}" if findings else "nothing is wrong"
    schema = ", ".join(f"{component} {number}" for component, number in diagnosis.schema.items())
    counts = f"runs: {diagnosis.runs}, entries: {diagnosis.entries}, schema: {schema}"
    line(Text(f"{escape(diagnosis.shown)}: {found} ({counts})", style="bold"))


def _plural(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
