"""The command `worker`, which claims runs from a store and calls a handler for each."""

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

from runstate.cli._logs import log_handler
from runstate.cli._options import listen_url_option, store_from_url, store_option
from runstate.cli._queues import empty_queue_hint
from runstate.cli._times import duration
from runstate.cli.errors import InvalidUsage
from runstate.run.json_values import escape
from runstate.store import Store
from runstate.store.errors import StoreError
from runstate.worker import Handler, RetryPolicy, Worker
from runstate.worker._arguments import check_handler

__all__ = ["worker"]


def _import_handler(spec: str) -> Handler:
    """Return the handler at `package.module:function`."""
    module_name, colon, name = spec.partition(":")
    if not colon or not module_name or not name:
        raise InvalidUsage(f"{escape(spec)}: expected a handler as MODULE:FUNCTION, such as my_app.answers:answer")
    if "/" in module_name or "\\" in module_name:
        raise _file_instead_of_module(spec, module_name, name)
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    try:
        found: object = import_module(module_name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and _names_a_file(error.name, module_name):
            raise _file_instead_of_module(spec, module_name, name) from None
        raise InvalidUsage(
            f"cannot import {escape(module_name)}: {type(error).__name__}: {escape(str(error))}"
        ) from None
    try:
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError:
        raise InvalidUsage(f"{escape(spec)}: {escape(module_name)} has no {escape(name)}") from None
    try:
        check_handler(found)
    except TypeError as error:
        raise InvalidUsage(f"{escape(spec)}: {escape(str(error))}") from None
    return cast("Handler", found)


def _names_a_file(missing: str | None, module_name: str) -> bool:
    """Return whether a missing module was given as `module.py`, or is the package of such a name."""
    package, _, last = module_name.rpartition(".")
    return last == "py" and missing in (package, module_name)


def _file_instead_of_module(spec: str, path: str, name: str) -> InvalidUsage:
    """Return the error for a handler whose module is given as a file; it says what to write instead."""
    parts = [part for part in path.removesuffix(".py").replace("\\", "/").split("/") if part.strip(".")]
    module_name = ".".join(parts[-1:] if path.startswith("/") else parts)
    return InvalidUsage(f"{escape(spec)}: expected a module, not its file: write {escape(f'{module_name}:{name}')}")


class _Terminated(BaseException):
    """SIGTERM arrived before the worker could handle it."""


@contextmanager
def _sigterm_raises() -> Generator[None, None, None]:
    """Let SIGTERM raise `_Terminated`, as Ctrl-C raises KeyboardInterrupt: a process may wait long for its store."""

    def stop(number: int, frame: object) -> NoReturn:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@click.command()
@click.argument("handler", metavar="MODULE:HANDLER")
@store_option
@listen_url_option
@click.option(
    "--concurrency", "-c", type=click.IntRange(1, 10_000), default=10, show_default=True, help="The most runs at once."
)
@click.option(
    "--queue",
    "-q",
    "queues",
    multiple=True,
    default=("default",),
    show_default=True,
    help="A queue to serve (repeatable); served in order.",
)
@click.option("--name", help="The name of the worker in histories; host and process by default.")
@click.option(
    "--lease",
    "lease_s",
    type=duration,
    default="30s",
    show_default=True,
    help="If the worker dies, its runs are taken over after this time.",
)
@click.option(
    "--max-attempts",
    type=click.IntRange(1, 1000),
    default=3,
    show_default=True,
    help="A run fails after so many workers died of it.",
)
@click.option(
    "--drain",
    "drain_s",
    type=duration,
    default="30s",
    show_default=True,
    help="The time for handlers to finish when stopped.",
)
@click.option(
    "--stall-timeout",
    "stall_timeout_s",
    type=duration,
    show_default="four leases",
    help="If the event loop is blocked, runs are taken over after this time.",
)
@click.option(
    "--keep-events",
    "events_kept_s",
    type=duration,
    default="1d",
    show_default=True,
    help="Events of runs that ended longer ago are deleted.",
)
@click.option("--until-idle", is_flag=True, help="End when there is nothing left to do.")
@click.option(
    "--retries",
    type=click.IntRange(0, 1000),
    default=0,
    show_default=True,
    help="A run whose handler raised is retried so many times.",
)
@click.option(
    "--retry-after",
    "retry_after_s",
    type=duration,
    default="1s",
    show_default=True,
    help="The time before the first retry; it doubles for each further one.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Lines of text, or a JSON object a line.",
)
@click.option("--verbose", "-v", is_flag=True, help="Log more.")
@click.option("--quiet", is_flag=True, help="Log warnings and errors alone.")
def worker(
    handler: str,
    url: str,
    listen_url: str | None,
    queues: tuple[str, ...],
    until_idle: bool,
    retries: int,
    retry_after_s: float,
    log_format: str,
    verbose: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Drive the runs of a store with HANDLER, until SIGTERM or Ctrl-C.

    HANDLER is a function of a run's context, plain or async. A first signal lets running handlers finish. A second one
    releases their runs for other workers and ends the process with 128 + the signal's number. If a handler blocks the
    event loop, or the database does not answer, the process ends too, and its runs wait until their lease expires. The
    worker waits for a database that is down, starting or full.
    """
    function = _import_handler(handler)
    if verbose and quiet:
        raise click.UsageError("give either --verbose or --quiet")
    console = Console(stderr=True, highlight=False, quiet=log_format == "json")
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    logging.basicConfig(level=logging.WARNING, handlers=[log_handler(console, log_format)])
    logging.getLogger("runstate").setLevel(level)
    running: Worker | None = None
    with ExitStack() as stack:
        try:
            with _sigterm_raises():  # once it runs, the worker handles signals itself
                store = stack.enter_context(store_from_url(url, listen_url, patience_s=float("inf")))
                running = _make_worker(
                    store,
                    function,
                    queues=queues,
                    **settings,
                    retry=RetryPolicy(max_attempts=retries + 1, backoff=retry_after_s) if retries else None,
                )
                _print_empty_queue_hint(store, queues, console)
                running.run(until_idle=until_idle)
        except _Terminated:
            if running is None:
                console.print("stopped before the store was available", soft_wrap=True)
            else:
                told = f"worker {escape(running.name)} was stopped before it began; 0 outcomes committed"
                console.print(told, soft_wrap=True)


def _make_worker(store: Store, handler: Handler, **settings: Any) -> Worker:
    try:
        return Worker(store, handler, **settings)
    except ValueError as error:
        raise InvalidUsage(escape(str(error))) from None


def _print_empty_queue_hint(store: Store, queues: tuple[str, ...], console: Console) -> None:
    """Print a hint if no run waits in the queues. A store that is unavailable is ignored: the worker waits for it."""
    with suppress(StoreError):
        if hint := empty_queue_hint(store, queues):
            console.print(hint, soft_wrap=True)
