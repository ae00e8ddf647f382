"""The command `demo`: two worker processes drive a few hundred runs, and one of them is killed."""

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

from runstate.cli._options import json_option
from runstate.cli._output import print_json, stdout_console
from runstate.cli.errors import InvalidUsage, errors_as_exit_codes
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
_MAX_MESSAGES: Final = 6  # the latest ones
_REFRESH_S: Final = 0.1


@click.command()
@click.option("--keep", type=click.Path(dir_okay=False, path_type=Path), help="Keep the runs in this new SQLite file.")
@json_option
def demo(keep: Path | None, as_json: bool) -> None:
    """Drive a few hundred durable runs with two worker processes, and kill one of them.

    Tool rounds, cancels, failures, token limits, deadlines; the killed worker's runs are taken over. The summary is
    read back from the history.
    """
    if keep is not None and keep.exists():
        raise InvalidUsage(f"{keep} exists already: name a new file")
    with ExitStack() as stack:
        folder = keep.parent if keep is not None else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = folder / (keep.name if keep is not None else "demo.db")
        url = f"sqlite:///{quote(str(path.absolute()))}"
        stack.enter_context(errors_as_exit_codes())
        store = stack.enter_context(open_store(url))
        console = Console(stderr=True, highlight=False) if as_json else stdout_console()
        started_at = monotonic()
        messages: deque[str] = deque(maxlen=_MAX_MESSAGES)
        with _open_live_view(console, messages) as live_view:
            cluster = DemoCluster(store, url, lambda sentence: _add_message(console, messages, sentence))
            try:
                for counts in cluster.run():
                    live_view(counts, cluster)
            except TimeoutError as error:
                raise InvalidUsage(str(error)) from None
        summary = summarize(store)
        if as_json:
            print_json(summary.to_dict())
        else:
            _print_summary(console, summary, monotonic() - started_at)
        if keep is not None:
            click.echo(f"kept: runstate runs list --store {url}", err=as_json)


def _add_message(console: Console, messages: deque[str], message: str) -> None:
    messages.append(message)
    if not console.is_terminal:
        console.print(message, soft_wrap=True)


class _LiveView:
    """Shows how many runs have each status, if there is a terminal."""

    def __init__(self, live: Live | None, messages: deque[str]) -> None:
        self._live = live
        self._messages = messages
        self._next_at = 0.0

    def __call__(self, counts: Mapping[RunStatus, int], cluster: DemoCluster) -> None:
        now = monotonic()
        if self._live is not None and now >= self._next_at:
            self._next_at = now + _REFRESH_S
            self._live.update(Group("", _bars(counts), "", _workers(cluster), "", *self._messages), refresh=True)


@contextmanager
def _open_live_view(console: Console, messages: deque[str]) -> Generator[_LiveView, None, None]:
    if not console.is_terminal:
        yield _LiveView(None, messages)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield _LiveView(live, messages)


def _bars(counts: Mapping[RunStatus, int]) -> Table:
    total = max(1, sum(counts.values()))
    grid = Table.grid(padding=(0, 1))
    for status, count in counts.items():
        style = _STYLES.get(status, "dim" if RUN_LIFECYCLE.is_terminal(status) else "blue")
        bar = "█" * round(40 * count / total) or ("▏" if count else "")
        grid.add_row(str(status), Text(f"{count:>4}"), Text(bar, style=style))
    return grid


def _workers(cluster: DemoCluster) -> Text:
    parts = [
        f"{name}: {'killed' if name == cluster.killed else 'running'}, {cluster.entries_by_actor[name]} entries"
        for name in cluster.workers
    ]
    return Text(" · ".join(parts), style="bold")


def _print_summary(console: Console, summary: DemoSummary, took_s: float) -> None:
    """Print the summary of the history."""
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
