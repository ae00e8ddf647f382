"""The command that draws the law, and where one run stands in it."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import cast

import click

from runstate.cli._files import FILE, bounded_lines, reading
from runstate.cli._output import has_colors, has_unicode, position_of, screen
from runstate.diagram import FORMATS, Format, draw
from runstate.lifecycle import RUN_LIFECYCLE, documented
from runstate.lifecycle.errors import RunstateError
from runstate.run import Run
from runstate.traces import normalize_record, read_snapshots

__all__ = ["diagram"]


@click.command()
@click.option("--format", "-f", "form", type=click.Choice(FORMATS), help="How to draw; lanes if not given.")
@click.option("--run", "run_file", type=FILE, metavar="FILE", help="A file with a run to show in it (- is stdin).")
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="Where to write, else stdout.")
@click.option("--documented", "only_documented", is_flag=True, help="Only the rows that the vendor documented.")
def diagram(form: str | None, run_file: str | None, output: Path | None, only_documented: bool) -> None:
    """Draw the law, or where one run stands in it (the last snapshot in FILE)."""
    law = documented() if only_documented else RUN_LIFECYCLE
    position = None if run_file is None else position_of(_last_run(run_file))
    chosen = cast("Format", form or ("lanes" if output or has_unicode() else "ascii"))
    if output is not None:
        try:
            output.write_text(draw(law, chosen, position) + "\n", encoding="utf-8")
        except OSError as error:
            raise click.UsageError(f"cannot write {output}: {error.strerror}") from None
        return
    console = screen()
    width = console.width if console.is_terminal else None
    click.echo(draw(law, chosen, position, width, has_colors(console)))


def _last_run(name: str) -> Run:
    """Return the run of a file's last snapshot. A file without one is a mistake in the asking."""
    with reading(name) as file:
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
