"""What the processes of a fleet are given at their start, and how they open their store."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import attrs

from runstate.errors import OutcomeUnknown, StoreError
from runstate.store import Store, open_store
from torture.bugs import planted


@attrs.frozen
class Settings:
    """What the processes of a fleet are given at their start."""

    url: str
    replies: Path
    """The folder in which clients and workers write down the replies that they receive."""
    side: Path
    """The log of the handlers."""
    log: Path
    """Where warnings go."""
    seed: int
    lease_s: float = 1.5
    wait_s: float = 5.0
    skew_s: float = 0.0
    """How far this process's clock is off."""
    bug: str | None = None
    """The fault that is to be found."""
    concurrency: int | None = None
    """How many runs a worker has at once; drawn if None."""
    asynchronous: bool | None = None
    """Whether handlers are coroutines; drawn if None."""
    slow_s: float = 0.3
    """How long a slow handler takes."""


@contextmanager
def opened_store(name: str, settings: Settings) -> Iterator[Store]:
    """Open a process's store, with the bug in its engine if there is to be one; keep its warnings."""
    logging.basicConfig(filename=settings.log, level=logging.WARNING, format=f"%(asctime)s {name} %(message)s")
    with (
        nullcontext() if settings.bug is None else planted(settings.bug),
        opened(settings.url, settings.wait_s) as store,
    ):
        yield store


def opened(url: str, wait_s: float) -> Store:
    """Open a store, also where its database is away for the moment."""
    end = time.monotonic() + 60.0
    while True:
        try:
            return open_store(url, wait_s=wait_s)
        except StoreError as error:
            if time.monotonic() > end or not (error.retryable or isinstance(error, OutcomeUnknown)):
                raise
            time.sleep(0.05)
