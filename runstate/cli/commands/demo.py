"""The command that shows everything at work: two worker processes, a few hundred runs, one worker killed."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from runstate.cli._options import AS_JSON, Mistaken, told_in_sentences
from runstate.cli._output import emit_json, screen
from runstate.clock import monotonic
from runstate.demo.cluster import DemoCluster, DemoSummary, summarize
from runstate.lifecycle import RUN_LIFECYCLE, RunStatus
from runstate.store import open_store

__all__ = ["demo"]

_STYLES: Final[Mapping[RunStatus, str]] = {
    RunStatus.COMPLETED: "green",
    RunStatus.FAILED: "red",
    RunStatus.EXPIRED: "magenta",
    RunStatus.CANCELLED: "yellow",
    RunStatus.INCOMPLETE: "cyan",
}
_SHOWN: Final = 6  # of the last sentences
_EVERY_S: Final = 0.1


@click.command()
@click.option("--keep", type=click.Path(dir_okay=False, path_type=Path), help="Keep the runs in this new SQLite file.")
@AS_JSON
def demo(keep: Path | None, as_json: bool) -> None:
    """Drive a few hundred durable runs with two worker processes, and kill one of them.

    Tool rounds, cancels, failures, token limits, deadlines; the killed worker's runs are taken over. The summary is
    read back from the history.
    """
    if keep is not None and keep.exists():
        raise Mistaken(f"{keep} is there already: name a new file")
    with ExitStack() as stack:
        folder = keep.parent if keep is not None else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = folder / (keep.name if keep is not None else "demo.db")
        url = f"sqlite:///{quote(str(path.absolute()))}"
        stack.enter_context(told_in_sentences())
        store = stack.enter_context(open_store(url))
        console = Console(stderr=True, highlight=False) if as_json else screen()
        began = monotonic()
        said: deque[str] = deque(maxlen=_SHOWN)
        with _shown(console, said) as show:
            fleet = DemoCluster(store, url, lambda sentence: _say(console, said, sentence))
            try:
                for counts in fleet.run():
                    show(counts, fleet)
            except TimeoutError as error:
                raise Mistaken(str(error)) from None
        summary = summarize(store)
        if as_json:
            emit_json(summary.to_dict())
        else:
            _print(console, summary, monotonic() - began)
        if keep is not None:
            click.echo(f"kept: runstate runs list --store {url}", err=as_json)


def _say(console: Console, said: deque[str], sentence: str) -> None:
    said.append(sentence)
    if not console.is_terminal:
        console.print(sentence, soft_wrap=True)


class _Show:
    """Draws how many runs stand where, if a person is looking."""

    def __init__(self, live: Live | None, said: deque[str]) -> None:
        self._live = live
        self._said = said
        self._next_at = 0.0

    def __call__(self, counts: Mapping[RunStatus, int], fleet: DemoCluster) -> None:
        now = monotonic()
        if self._live is not None and now >= self._next_at:
            self._next_at = now + _EVERY_S
            self._live.update(Group("", _bars(counts), "", _workers(fleet), "", *self._said), refresh=True)


@contextmanager
def _shown(console: Console, said: deque[str]) -> Generator[_Show, None, None]:
    if not console.is_terminal:
        yield _Show(None, said)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield _Show(live, said)


def _bars(counts: Mapping[RunStatus, int]) -> Table:
    total = max(1, sum(counts.values()))
    grid = Table.grid(padding=(0, 1))
    for status, count in counts.items():
        style = _STYLES.get(status, "dim" if RUN_LIFECYCLE.is_terminal(status) else "blue")
        bar = "█" * round(40 * count / total) or ("▏" if count else "")
        grid.add_row(str(status), Text(f"{count:>4}"), Text(bar, style=style))
    return grid


def _workers(fleet: DemoCluster) -> Text:
    parts = [
        f"{name}: {'killed' if name == fleet.killed else 'at work'}, {fleet.entries_by_actor[name]} entries"
        for name in fleet.workers
    ]
    return Text(" · ".join(parts), style="bold")


def _print(console: Console, summary: DemoSummary, took_s: float) -> None:
    """Say what the history says."""
    statuses = ", ".join(f"{count} {status}" for status, count in sorted(summary.statuses.items()))
    actors = ", ".join(f"{name} {count}" for name, count in sorted(summary.by_actor.items()))
    console.print()
    console.print(f"{summary.runs} runs in {took_s:.1f} s: {statuses}", soft_wrap=True)
    console.print(
        f"{summary.tool_rounds} tool rounds, {summary.taken_over} runs taken over from the killed worker; "
        f"half of the runs had started after {summary.wait_ms:.0f} ms",
        soft_wrap=True,
    )
    console.print(f"{summary.entries} entries in the history, by {actors}", soft_wrap=True)
    verdict = f"{summary.illegal} illegal entries, {summary.implausible} implausible runs"
    console.print(Text(verdict, style="bold green" if not summary.illegal + summary.implausible else "bold red"))
