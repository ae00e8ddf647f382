"""The command that judges recorded runs."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from rich.progress import BarColumn, DownloadColumn, TextColumn
from rich.text import Text

from runstate.cli._files import FILE, bounded_lines, reading
from runstate.cli._output import columns, emit_json, progress_bar, screen
from runstate.run.json_values import escape
from runstate.traces import Note, NoteKind, Notes, Report, StatusChange, check_snapshots, read_snapshots

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["check"]

_FINDINGS: Final = 1


@click.command()
@click.argument("files", nargs=-1, required=True, type=FILE, metavar="FILE...")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def check(files: tuple[str, ...], as_json: bool) -> None:
    """Judge whether a legal history could have left recorded runs.

    FILE holds JSON lines, JSON arrays or objects, a log with JSON in its lines, a capture of server-sent events, or
    recorded HTTP: cassettes of VCR (YAML or JSON), HAR, recordings of the Azure SDK, WireMock, nock, Postman and
    others, or what curl -i prints; - is stdin. What is passed over and what is not judged is counted under the table.

    Exit code 0 if every run in them can be, 1 if anything cannot be or be read or a file has no run in it, 2 if a file
    cannot be opened.
    """
    total = Report()
    reports: list[tuple[str, Report]] = []
    with progress_bar(TextColumn("{task.description}"), BarColumn(), DownloadColumn()) as bar:
        for name in files:
            with reading(name) as file:
                size = _size(name)
                watched = file if size is None else bar.wrap_file(file, total=size, description=Path(name).name)
                report = check_snapshots(read_snapshots(bounded_lines(watched)))
            reports.append((name, report))
            total.add(report)
    if as_json:
        found = [{"file": name, **_report(report), "notes": _notes(report)} for name, report in reports]
        emit_json({"files": found, "total": _report(total)})
    else:
        _print_reports(reports, total)
    sys.exit(_FINDINGS if total.errors else 0)


def _size(name: str) -> int | None:
    """Return how many bytes there are to read, None where nobody knows (stdin, a pipe)."""
    path = Path(name)
    return path.stat().st_size if path.is_file() else None


def _report(report: Report) -> dict[str, Any]:
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
            for change, n in _ordered(report.changes)
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


def _notes(report: Report) -> list[dict[str, Any]]:
    return [
        {"kind": note.kind, "text": note.text, "count": note.count, "first": str(note.first)}
        for note in _in_order(report.notes)
    ]


def _in_order(notes: Notes) -> list[Note]:
    """Return notes, what was not judged first, then by place."""
    kinds: tuple[NoteKind, ...] = ("not judged", "read", "passed over")
    return sorted(notes, key=lambda note: (kinds.index(note.kind), note.first.order, note.text))


def _ordered(changes: Counter[StatusChange]) -> list[tuple[StatusChange, int]]:
    """Return the seen changes of status, direct ones first, then by how often."""
    return sorted(changes.items(), key=lambda item: (len(item[0].events), -item[1], item[0].events))


def _print_reports(reports: list[tuple[str, Report]], total: Report) -> None:
    console = screen()
    for name, report in reports:
        for finding in report.findings:
            style = "red" if finding.severity == "error" else "yellow"
            console.print(Text(f"{escape(name)}:{finding}", style=style))
    rows = [_counts(report, escape(name)) for name, report in reports]
    if len(reports) > 1:
        rows.append(_counts(total, f"in all {len(reports)} files"))
    columns(("snapshots", "runs", "errors", "warnings", "file"), rows)
    _print_notes(console, reports)
    if total.changes:
        console.print()
        seen = _ordered(total.changes)
        cells = [(str(count), change.source, change.target, " -> ".join(change.events)) for change, count in seen]
        columns(("seen", "from", "to", "by (what polling skipped is inferred)"), cells)


def _print_notes(console: Console, reports: list[tuple[str, Report]]) -> None:
    """Print what was not judged, how other spellings were read, and what was passed over, by file."""
    noted = [(name, note) for name, report in reports for note in _in_order(report.notes)]
    if noted:
        console.print()
    for name, note in noted:
        style = "yellow" if note.kind == "not judged" else "dim"
        kind = "note" if note.kind == "read" else note.kind
        count = f" ({note.count} in the file, this is the first)" if note.count > 1 else ""
        said = f"{name}:{note.first}: {kind}: {note.text}{count}"
        console.print(Text(escape(said), style=style))


def _counts(report: Report, name: str) -> tuple[str, ...]:
    warnings = len(report.findings) - report.errors
    return (str(report.snapshots), str(len(report.run_ids)), str(report.errors), str(warnings), name)
