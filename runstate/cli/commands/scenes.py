"""The command that plays the scenes of the demonstration."""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

import click
from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.text import Text

from runstate.cli._output import lanes, screen, standing_of
from runstate.demo.scenes import Frame, frames
from runstate.lifecycle import RunStatus
from runstate.run.validators import counted
from runstate.traces import check_snapshots, read_snapshots

__all__ = ["scenes"]

_PAUSE_S: Final = 0.9


@click.command()
@click.option("--quick", is_flag=True, help="Without pauses.")
@click.option(
    "--record",
    type=click.File("w", encoding="utf-8", lazy=False),
    help="Write every snapshot there, for `runstate check`.",
)
def scenes(quick: bool, record: Any) -> None:
    """Play scenes in memory, one run each: a tool round, a lost race, refusals, a deadline."""
    console = screen()
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
    picture = Text.from_ansi(lanes(console, standing_of(frame.run)))
    if live is not None:
        live.update(Group("", picture), refresh=True)
    elif all(status != before.record["status"] for before in played):
        console.print()
        console.print(picture)
        console.print()


def _summarize(console: Console, played: list[Frame]) -> None:
    """Say what was driven, and let the judge have the last word on it."""
    moved = [frame for frame in played if frame.refusal is None]
    total = check_snapshots(read_snapshots(json.dumps(frame.record).encode() for frame in moved))
    reached = {frame.record["status"] for frame in moved}
    console.print()
    counts = (len(total.run_ids), "run"), (len(moved), "snapshot"), (len(played) - len(moved), "refusal")
    console.print(", ".join(counted(number, noun) for number, noun in counts))
    console.print(
        f"{len(reached)} of {len(RunStatus)} statuses reached; the judge found {counted(total.errors, 'error')}"
    )
