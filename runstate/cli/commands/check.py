"""The command `check`, which judges recorded runs."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from rich.progress import BarColumn, DownloadColumn, TextColumn
from rich.text import Text

from runstate.cli._files import FILE, bounded_lines, open_input
from runstate.cli._options import json_option
from runstate.cli._output import print_json, progress_bar, stdout_console
from runstate.cli._tables import print_folded_table
from runstate.run.json_values import escape
from runstate.traces import Note, NoteKind, Notes, Report, StatusChange, check_snapshots, read_snapshots

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["check"]

_FINDINGS: Final = 1


@click.command()
@click.argument("files", nargs=-1, required=True, type=FILE, metavar="FILE...")
@json_option
def check(files: tuple[str, ...], as_json: bool) -> None:
    """Judge whether recorded runs can have a legal history.

    FILE holds JSON lines, JSON arrays or objects, a log with JSON in its lines, a capture of server-sent events, or
    recorded HTTP: cassettes of VCR (YAML or JSON), HAR, recordings of the Azure SDK, WireMock, nock, Postman and
    others, or what curl -i prints; - is stdin. Records that are passed over or not judged are counted under the table.

    Exit code 0 if all runs are possible, 1 if one is not, if something cannot be read or if a file has no run in it, 2
    if a file cannot be opened.
    """
    total = Report()
    reports: list[tuple[str, Report]] = []
    with progress_bar(TextColumn("{task.description}"), BarColumn(), DownloadColumn()) as bar:
        for name in files:
            with open_input(name) as file:
                size = _size(name)
                watched = file if size is None else bar.wrap_file(file, total=size, description=Path(name).name)
                report = check_snapshots(read_snapshots(bounded_lines(watched)))
            reports.append((name, report))
            total.add(report)
    if as_json:
        found = [{"file": name, **_report_to_json(report), "notes": _notes_to_json(report)} for name, report in reports]
        print_json({"files": found, "total": _report_to_json(total)})
    else:
        _print_reports(reports, total)
    sys.exit(_FINDINGS if total.errors else 0)


def _size(name: str) -> int | None:
    """Return the number of bytes to read, or None if it is not known (stdin, a pipe)."""
    path = Path(name)
    return path.stat().st_size if path.is_file() else None


def _report_to_json(report: Report) -> dict[str, Any]:
    return {
        "snapshots": report.snapshots,
        "runs": len(report.run_ids),
        "errors": report.errors,
        "passed_over": report.passed_over,
        "not_judged": report.not_judged,
        "transitions": [
            {
                "source": change.source.value,
                "target": change.target.value,
                "events": list(map(str, change.events)),
                "count": n,
            }
            for change, n in _sorted_changes(report.changes)
        ],
        "findings": [
            {
                "place": finding.place,
                "severity": finding.severity,
                "run": finding.run_id,
                "message": finding.message,
                "possible": finding.hint,
            }
            for finding in report.findings
        ],
    }


def _notes_to_json(report: Report) -> list[dict[str, Any]]:
    return [
        {"kind": note.kind, "text": note.text, "count": note.count, "first": str(note.first)}
        for note in _sorted_notes(report.notes)
    ]


def _sorted_notes(notes: Notes) -> list[Note]:
    """Return notes sorted by kind, those of what was not judged first, and by location."""
    kinds: tuple[NoteKind, ...] = ("not judged", "read", "passed over")
    return sorted(notes, key=lambda note: (kinds.index(note.kind), note.first.order, note.text))


def _sorted_changes(changes: Counter[StatusChange]) -> list[tuple[StatusChange, int]]:
    """Return the observed changes of status: direct ones first, the most frequent first."""
    return sorted(changes.items(), key=lambda item: (len(item[0].events), -item[1], item[0].events))


def _print_reports(reports: list[tuple[str, Report]], total: Report) -> None:
    console = stdout_console()
    for name, report in reports:
        for finding in report.findings:
            style = "red" if finding.severity == "error" else "yellow"
            console.print(Text(f"{escape(name)}:{finding}", style=style))
    rows = [_count_row(report, escape(name)) for name, report in reports]
    if len(reports) > 1:
        rows.append(_count_row(total, f"in all {len(reports)} files"))
    print_folded_table(("snapshots", "runs", "errors", "warnings", "file"), rows)
    _print_notes(console, reports)
    if total.changes:
        console.print()
        changes = _sorted_changes(total.changes)
        cells = [(str(count), change.source, change.target, " -> ".join(change.events)) for change, count in changes]
        print_folded_table(("seen", "from", "to", "by (what polling skipped is inferred)"), cells)


def _print_notes(console: Console, reports: list[tuple[str, Report]]) -> None:
    """Print, by file, what was not judged, how other spellings were read, and what was passed over."""
    notes = [(name, note) for name, report in reports for note in _sorted_notes(report.notes)]
    if notes:
        console.print()
    for name, note in notes:
        style = "yellow" if note.kind == "not judged" else "dim"
        kind = "note" if note.kind == "read" else note.kind
        count = f" ({note.count} in the file, this is the first)" if note.count > 1 else ""
        line = f"{name}:{note.first}: {kind}: {note.text}{count}"
        console.print(Text(escape(line), style=style))


def _count_row(report: Report, name: str) -> tuple[str, ...]:
    warnings = len(report.findings) - report.errors
    return (str(report.snapshots), str(len(report.run_ids)), str(report.errors), str(warnings), name)
