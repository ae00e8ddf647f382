"""The command that works: claims runs from a store and calls a handler of the user's."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, cast

import click
from rich.console import Console
from rich.logging import RichHandler

from runstate.cli._durations import duration
from runstate.cli._options import LISTEN, STORE, Mistaken, opened
from runstate.cli._queues import empty_queues
from runstate.run.json_values import escape
from runstate.run.validators import pluralize
from runstate.store import Store
from runstate.store.errors import StoreError
from runstate.worker import Handler, Worker
from runstate.worker._arguments import check_handler

__all__ = ["worker"]


def _handler(place: str) -> Handler:
    """Return the handler at `package.module:function`."""
    module_name, colon, name = place.partition(":")
    if not colon or not module_name or not name:
        raise Mistaken(f"{escape(place)}: expected a handler as MODULE:FUNCTION, such as my_app.answers:answer")
    if "/" in module_name or "\\" in module_name:
        raise _no_module(place, module_name, name)
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    try:
        found: object = import_module(module_name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and _is_file_of(error.name, module_name):
            raise _no_module(place, module_name, name) from None
        raise Mistaken(f"cannot import {escape(module_name)}: {type(error).__name__}: {escape(str(error))}") from None
    try:
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError:
        raise Mistaken(f"{escape(place)}: {escape(module_name)} has no {escape(name)}") from None
    try:
        check_handler(found)
    except TypeError as error:
        raise Mistaken(f"{escape(place)}: {escape(str(error))}") from None
    return cast("Handler", found)


def _is_file_of(missing: str | None, module_name: str) -> bool:
    """Tell whether a module that is missing was given by the name of its file, or the package that it would be in."""
    package, _, last = module_name.rpartition(".")
    return last == "py" and missing in (package, module_name)


def _no_module(place: str, path: str, name: str) -> Mistaken:
    """Return the refusal of a handler whose module is given as a file, with what to write instead."""
    parts = [part for part in path.removesuffix(".py").replace("\\", "/").split("/") if part.strip(".")]
    meant = ".".join(parts[-1:] if path.startswith("/") else parts)
    return Mistaken(f"{escape(place)}: expected a module, not its file: write {escape(f'{meant}:{name}')}")


class _Stopped(BaseException):
    """SIGTERM came while a worker was not there yet to take it."""


@contextmanager
def _stopped_by_sigterm() -> Generator[None, None, None]:
    """Have SIGTERM raise `_Stopped`, as Ctrl-C raises KeyboardInterrupt: a process may wait long for its store."""

    def stop(number: int, frame: object) -> NoReturn:
        raise _Stopped

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@click.command()
@click.argument("handler", metavar="MODULE:HANDLER")
@STORE
@LISTEN
@click.option(
    "--concurrency", "-c", type=click.IntRange(1, 10_000), default=10, show_default=True, help="Runs at once."
)
@click.option(
    "--queue", "-q", "queues", multiple=True, default=("default",), show_default=True, help="Served in order."
)
@click.option("--name", help="Who it is, in histories; host and process if not given.")
@click.option(
    "--lease", "lease_s", type=duration, default="30s", show_default=True, help="Until its runs are taken over."
)
@click.option("--max-attempts", type=click.IntRange(1, 1000), default=3, show_default=True, help="Then a run fails.")
@click.option(
    "--drain", "drain_s", type=duration, default="30s", show_default=True, help="Time to finish when stopped."
)
@click.option(
    "--stall-timeout",
    "stall_timeout_s",
    type=duration,
    show_default="four leases",
    help="For a blocked event loop, until its runs are taken over.",
)
@click.option("--until-idle", is_flag=True, help="End when there is nothing to do.")
@click.option("--verbose", "-v", is_flag=True, help="Say more.")
def worker(
    handler: str,
    url: str,
    listen_url: str | None,
    concurrency: int,
    queues: tuple[str, ...],
    name: str | None,
    lease_s: float,
    max_attempts: int,
    drain_s: float,
    stall_timeout_s: float | None,
    until_idle: bool,
    verbose: bool,
) -> None:
    """Drive the runs of a store with HANDLER, until SIGTERM or Ctrl-C.

    HANDLER is a function of a run's context, plain or async. A first signal lets the runs under way finish, a second
    releases them at once for other workers and ends the process with 128 + the signal's number. Where a handler blocks
    the event loop, or the database does not answer, it ends all the same, and its runs wait for their lease. A database
    that is away, starting or full is waited for.
    """
    function = _handler(handler)
    console = Console(stderr=True, highlight=False)
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=console, show_path=False)],
    )
    hand: Worker | None = None
    with ExitStack() as stack:
        try:
            with _stopped_by_sigterm():  # while it works, it takes the signals itself
                store = stack.enter_context(opened(url, listen_url, patience_s=float("inf")))
                hand = _worker(
                    store,
                    function,
                    concurrency=concurrency,
                    queues=queues,
                    name=name,
                    lease_s=lease_s,
                    max_attempts=max_attempts,
                    drain_s=drain_s,
                    stall_timeout_s=stall_timeout_s,
                )
                shown = escape(store.database.display_url)
                console.print(f"worker {escape(hand.name)} is at work on {shown}", soft_wrap=True)
                _remark_empty_queues(store, queues, console)
                hand.run(until_idle=until_idle)
        except _Stopped:
            if hand is None:
                console.print("stopped before the store was there", soft_wrap=True)
        finally:
            if hand is not None:
                committed = pluralize(hand.settled, "outcome")
                console.print(f"worker {escape(hand.name)} has ended; {committed} committed", soft_wrap=True)


def _worker(store: Store, handler: Handler, **settings: Any) -> Worker:
    try:
        return Worker(store, handler, **settings)
    except ValueError as error:
        raise Mistaken(escape(str(error))) from None


def _remark_empty_queues(store: Store, queues: tuple[str, ...], console: Console) -> None:
    """Say which queues nothing waits in, if the store answers: the worker waits for it, and needs no remark."""
    with suppress(StoreError):
        if remark := empty_queues(store, queues):
            console.print(remark, soft_wrap=True)
