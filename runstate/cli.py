"""The command `runstate`: the law, its pictures, recorded runs judged, and a demonstration.

Data goes to stdout, talk to stderr. Exit codes: 0 fine, 1 findings, 2 a mistake in the asking.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import click
from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.text import Text

from runstate import wire
from runstate.demo import Frame, frames
from runstate.diagram import FORMATS, Format, Standing, draw
from runstate.errors import RunstateError
from runstate.json_values import printable
from runstate.lifecycle import LAW, Law, RunEvent, RunStatus, documented
from runstate.plausible import Step
from runstate.recordings import Report, inspect, snapshots
from runstate.run import Run

__all__ = ["cli"]

_FINDINGS: Final = 1
_FILE: Final = click.Path(exists=True, dir_okay=False, allow_dash=True)
_PAUSE_S: Final = 0.9


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="runstate")
def cli() -> None:
    """The lifecycle of an Assistants API run: its law, its pictures, its recordings."""


def _screen() -> Console:
    """Return stdout as rich sees it: a terminal or not, with colours or not (NO_COLOR, TERM)."""
    return Console(highlight=False, soft_wrap=True)


def _colors(console: Console) -> bool:
    return console.is_terminal and console.color_system is not None and not console.no_color


def _unicode() -> bool:
    """Tell whether stdout can take the characters of the lanes."""
    try:
        "●─▶┊".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _lanes(console: Console, standing: Standing | None = None) -> str:
    """Return the lanes as they suit the terminal, or wide and plain for a pipe."""
    width = console.width if console.is_terminal else None
    return draw(LAW, "lanes" if _unicode() else "ascii", standing, width, _colors(console))


def _standing(run: Run) -> Standing:
    return Standing(run.status, run.stamps(), run.id)


def _emit_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2))


# --- table, diagram, explain ------------------------------------------------------------------------------------------


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--documented", "only_documented", is_flag=True, help="Only the rows that the vendor documented.")
def table(as_json: bool, only_documented: bool) -> None:
    """Print the law: every legal transition, with what it stamps and why it is legal."""
    law = documented() if only_documented else LAW
    if as_json:
        _emit_json({"statuses": _statuses(law), "transitions": _transitions(law)})
        return
    rows = law.transitions
    cells = [(row.event, row.source, row.target, row.stamp or "", f"{row.basis}: {row.evidence}") for row in rows]
    _columns(("event", "from", "to", "stamps", "because"), cells)


def _statuses(law: Law) -> list[dict[str, Any]]:
    return [
        {
            "status": status.value,
            "terminal": law.is_terminal(status),
            "allowed_events": [event.value for event in law.allowed_events(status)],
            "meaning": status.meaning,
        }
        for status in RunStatus
    ]


def _transitions(law: Law) -> list[dict[str, Any]]:
    return [
        {
            "event": row.event.value,
            "source": row.source.value,
            "target": row.target.value,
            "stamp": row.stamp,
            "basis": row.basis.value,
            "evidence": row.evidence,
        }
        for row in law.transitions
    ]


def _columns(header: tuple[str, ...], cells: Sequence[tuple[str, ...]]) -> None:
    """Print rows of cells aligned under their header."""
    rows = (header, *cells)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    console = _screen()
    for number, row in enumerate(rows):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        console.print(Text(line, style="bold" if number == 0 else ""))


@cli.command()
@click.option("--format", "-f", "form", type=click.Choice(FORMATS), help="How to draw; lanes if not given.")
@click.option("--run", "run_file", type=_FILE, metavar="FILE", help="A file with a run to show in it (- is stdin).")
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="Where to write, else stdout.")
@click.option("--documented", "only_documented", is_flag=True, help="Only the rows that the vendor documented.")
def diagram(form: str | None, run_file: str | None, output: Path | None, only_documented: bool) -> None:
    """Draw the law, or where one run stands in it (the last snapshot in FILE)."""
    law = documented() if only_documented else LAW
    standing = None if run_file is None else _standing(_last_run(run_file))
    chosen = cast("Format", form or ("lanes" if output or _unicode() else "ascii"))
    if output is not None:
        try:
            output.write_text(draw(law, chosen, standing) + "\n", encoding="utf-8")
        except OSError as error:
            raise click.UsageError(f"cannot write {output}: {error.strerror}") from None
        return
    console = _screen()
    width = console.width if console.is_terminal else None
    click.echo(draw(law, chosen, standing, width, _colors(console)))


def _last_run(name: str) -> Run:
    """Return the run of a file's last snapshot. A file without one is a mistake in the asking."""
    with _reading(name) as file:
        found = deque(snapshots(_bounded_lines(file)), maxlen=1)
    if not found:
        raise click.UsageError(f"{name}: no run in it")
    last = found[0]
    try:
        if last.record is None:
            raise click.UsageError(f"{name}:{last.place}: {'; '.join(map(str, last.faults))}")
        return Run.from_dict(last.record)
    except RunstateError as error:
        raise click.UsageError(f"{name}:{last.place}: {error}") from None


@cli.command()
@click.argument(
    "status", metavar="STATUS", type=click.Choice([status.value for status in RunStatus], case_sensitive=False)
)
@click.argument("event", metavar="EVENT", type=click.Choice([event.value for event in RunEvent], case_sensitive=False))
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def explain(status: str, event: str, as_json: bool) -> None:
    """Say whether EVENT may be asked of a run in STATUS, why, and the shortest way to it."""
    where, what = RunStatus(status), RunEvent(event)
    row = LAW.find(where, what)
    path = LAW.path_to_event(where, what)
    if as_json:
        answer: dict[str, Any] = {"status": status, "event": event, "legal": row is not None}
        answer["target"] = LAW.target_of(what).value
        answer["stamp"] = None if row is None else row.stamp
        answer["because"] = None if row is None else f"{row.basis}: {row.evidence}"
        answer["allowed_events"] = [allowed.value for allowed in LAW.allowed_events(where)]
        answer["shortest_path"] = None if path is None else [step.value for step in path]
        _emit_json(answer)
        return
    click.echo(f"{status}: {where.meaning}")
    if row is not None:
        stamp = f", stamping {row.stamp}" if row.stamp else ""
        click.echo(f"{event} is legal there and leads to {row.target}{stamp} ({row.basis}: {row.evidence}).")
    elif LAW.is_terminal(where):
        click.echo(f"{event} is illegal there: {status} is terminal, nothing leaves it.")
    else:
        click.echo(f"{event} is illegal there: no transition {event} leaves {status}.")
        click.echo(f"Allowed there: {', '.join(LAW.allowed_events(where))}.")
        click.echo(f"Shortest way: {' -> '.join(path)}." if path else f"No way leads to {event} from there.")


# --- check ------------------------------------------------------------------------------------------------------------


@contextmanager
def _reading(name: str) -> Generator[BinaryIO, None, None]:
    """Open a file to read, or stdin for -; one that cannot be read is a mistake in the asking."""
    try:
        with click.open_file(name, "rb") as file:
            yield cast("BinaryIO", file)
    except OSError as error:
        raise click.UsageError(f"cannot read {name}: {error.strerror}") from None


def _bounded_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield a file's lines; of one past the reader's bound only as much as it takes to refuse it."""
    while line := file.readline(wire.MAX_BYTES + 2):
        yield line
        while line and not line.endswith(b"\n"):
            line = file.readline(wire.MAX_BYTES)


def _progress() -> Progress:
    """Return a bar that shows on stderr how far the reading is, if a person is looking."""
    talk = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    return Progress(*columns, console=talk, disable=not talk.is_terminal, transient=True)


@cli.command()
@click.argument("files", nargs=-1, required=True, type=_FILE, metavar="FILE...")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def check(files: tuple[str, ...], as_json: bool) -> None:
    """Judge whether a legal history could have left recorded runs.

    FILE holds JSON lines, a JSON array, one object, or a capture of server-sent events; - is stdin. Exit code 1 if
    anything in them cannot be.
    """
    total = Report()
    reports: list[tuple[str, Report]] = []
    with _progress() as bar:
        for name in files:
            with _reading(name) as file:
                size = _size(name)
                watched = file if size is None else bar.wrap_file(file, total=size, description=Path(name).name)
                report = inspect(snapshots(_bounded_lines(watched)))
            reports.append((name, report))
            total.add(report)
    if as_json:
        _emit_json({"files": [{"file": name, **_report(report)} for name, report in reports], "total": _report(total)})
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
        "transitions": [
            {
                "source": step.source.value,
                "target": step.target.value,
                "events": list(map(str, step.events)),
                "count": n,
            }
            for step, n in _ordered(report.steps)
        ],
        "findings": [
            {
                "place": complaint.place,
                "severity": complaint.severity,
                "run": complaint.run_id,
                "problem": complaint.problem,
                "possible": complaint.possible,
            }
            for complaint in report.complaints
        ],
    }


def _ordered(steps: Counter[Step]) -> list[tuple[Step, int]]:
    """Return the seen changes of status, direct ones first, then by how often."""
    return sorted(steps.items(), key=lambda item: (len(item[0].events), -item[1], item[0].events))


def _print_reports(reports: list[tuple[str, Report]], total: Report) -> None:
    console = _screen()
    for name, report in reports:
        for complaint in report.complaints:
            style = "red" if complaint.severity == "error" else "yellow"
            console.print(Text(f"{printable(name)}:{complaint}", style=style))
    rows = [_counts(report, printable(name)) for name, report in reports]
    if len(reports) > 1:
        rows.append(_counts(total, f"in all {len(reports)} files"))
    _columns(("snapshots", "runs", "errors", "warnings", "file"), rows)
    if total.steps:
        console.print()
        seen = _ordered(total.steps)
        cells = [(str(count), step.source, step.target, " -> ".join(step.events)) for step, count in seen]
        _columns(("seen", "from", "to", "by (what polling skipped is inferred)"), cells)


def _counts(report: Report, name: str) -> tuple[str, ...]:
    warnings = len(report.complaints) - report.errors
    return (str(report.snapshots), str(len(report.run_ids)), str(report.errors), str(warnings), name)


# --- demo -------------------------------------------------------------------------------------------------------------


@cli.command()
@click.option("--quick", is_flag=True, help="Without pauses.")
@click.option(
    "--record",
    type=click.File("w", encoding="utf-8", lazy=False),
    help="Write every snapshot there, for `runstate check`.",
)
def demo(quick: bool, record: Any) -> None:
    """Drive runs through every status: tool rounds, a lost race, refusals, a deadline."""
    console = _screen()
    watched = console.is_terminal and not quick
    played: list[Frame] = []
    with _live(console, watched) as live:
        for frame in frames():
            _show(console, live, frame, played)
            played.append(frame)
            if record is not None and frame.refusal is None:
                record.write(json.dumps(frame.record) + "\n")
            if watched:
                time.sleep(_PAUSE_S)
    _summarize(console, played)


@contextmanager
def _live(console: Console, watched: bool) -> Generator[Live | None, None, None]:
    """Hold the place on the screen where the lanes move; nothing where nobody watches."""
    if not watched:
        yield None
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield live


def _show(console: Console, live: Live | None, frame: Frame, played: list[Frame]) -> None:
    """Print what was asked and what came of it. The lanes move below, or are printed once for each status reached."""
    status = frame.record["status"]
    if not played or played[-1].scene != frame.scene:
        console.print()
        console.print(Text(frame.scene, style="bold"))
    came = (status, "bold green") if frame.refusal is None else ("refused", "bold red")
    console.print(Text.assemble(f"  {frame.asked:<42}", came))
    if frame.refusal is not None:
        watched = console.is_terminal  # a pipe takes long lines, a person wants them indented
        console.print(
            Padding(frame.refusal, (0, 0, 0, 4)) if watched else f"    {frame.refusal}", soft_wrap=not watched
        )
    lanes = Text.from_ansi(_lanes(console, _standing(frame.run)))
    if live is not None:
        live.update(Group("", lanes), refresh=True)
    elif all(status != before.record["status"] for before in played):
        console.print()
        console.print(lanes)
        console.print()


def _summarize(console: Console, played: list[Frame]) -> None:
    """Say what was driven, and let the judge have the last word on it."""
    moved = [frame for frame in played if frame.refusal is None]
    total = inspect(snapshots(json.dumps(frame.record).encode() for frame in moved))
    reached = {frame.record["status"] for frame in moved}
    console.print()
    console.print(f"{len(total.run_ids)} runs, {len(moved)} snapshots, {len(played) - len(moved)} refusals")
    console.print(f"{len(reached)} of {len(RunStatus)} statuses reached; the judge found {total.errors} errors")
