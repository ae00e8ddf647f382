"""The command `diagram`: the lifecycle as a diagram, and the position of a run in it."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import cast

import click

from runstate.cli._files import FILE, bounded_lines, open_input
from runstate.cli._output import has_colors, has_unicode, position_of, stdout_console
from runstate.diagram import FORMATS, Format, draw
from runstate.lifecycle import RUN_LIFECYCLE, documented
from runstate.lifecycle.errors import RunstateError
from runstate.run import Run
from runstate.traces import normalize_record, read_snapshots

__all__ = ["diagram"]


@click.command()
@click.option("--format", "-f", "format_name", type=click.Choice(FORMATS), help="The format; lanes by default.")
@click.option(
    "--run", "run_file", type=FILE, metavar="FILE", help="A file with a run to show in the diagram (- is stdin)."
)
@click.option(
    "--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="The file to write; stdout by default."
)
@click.option("--documented", "only_documented", is_flag=True, help="Only the transitions that the vendor documented.")
def diagram(format_name: str | None, run_file: str | None, output: Path | None, only_documented: bool) -> None:
    """Draw the lifecycle, or the position of a run in it (the last snapshot in FILE)."""
    lifecycle = documented() if only_documented else RUN_LIFECYCLE
    position = None if run_file is None else position_of(_last_run(run_file))
    chosen_format = cast("Format", format_name or ("lanes" if output or has_unicode() else "ascii"))
    if output is not None:
        try:
            output.write_text(draw(lifecycle, chosen_format, position) + "\n", encoding="utf-8")
        except OSError as error:
            raise click.UsageError(f"cannot write {output}: {error.strerror}") from None
        return
    console = stdout_console()
    width = console.width if console.is_terminal else None
    click.echo(draw(lifecycle, chosen_format, position, width, has_colors(console)))


def _last_run(name: str) -> Run:
    """Return the run of the last snapshot in a file. Raises `click.UsageError` if there is none."""
    with open_input(name) as file:
        found = deque(read_snapshots(bounded_lines(file)), maxlen=1)
    if not found:
        raise click.UsageError(f"{name}: no run in it")
    last = found[0]
    try:
        if last.record is None:
            raise click.UsageError(f"{name}:{last.place}: {'; '.join(map(str, last.errors))}")
        return Run.from_dict(normalize_record(last.record).record)
    except RunstateError as error:
        raise click.UsageError(f"{name}:{last.place}: {error}") from None
