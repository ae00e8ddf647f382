"""What every trial of faults stands on: its verdict, databases of its own, processes that it may kill."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from multiprocessing import parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from threading import Thread
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias

import attrs

from runstate.store import open_store
from tests.support.judge import judge
from tests.support.postgres import Server

Dialect: TypeAlias = Literal["postgres", "sqlite"]

PATIENCE_S: Final = 60.0
"""Longer than anything may take that is waited for once."""


class GaveUp(Exception):
    """A trial did not come to its end in time."""


def wait_until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE_S, every: float = 0.02) -> None:
    """Wait for a condition, but not for ever."""
    end = monotonic() + seconds
    while not condition():
        if monotonic() > end:
            raise GaveUp(f"waited {seconds:g} seconds for {what}")
        sleep(every)


@attrs.define
class Verdict:
    """What a trial did, and what of it was found wrong."""

    trial: str
    trials: int = 0
    faults: Counter[str] = attrs.Factory(Counter)
    """What was done to the store or its users, by kind."""
    acknowledged: int = 0
    """How many writes somebody was told of."""
    lost: int = 0
    doubled: int = 0
    illegal: int = 0
    gaps: int = 0
    notes: dict[str, Any] = attrs.Factory(dict)
    wrong: list[str] = attrs.Factory(list)
    """A sentence for each thing that should not be."""
    seconds: float = 0.0

    @property
    def is_good(self) -> bool:
        """Whether nothing was found."""
        return not (self.lost or self.doubled or self.illegal or self.gaps or self.wrong)

    def judge(self, url: str, *, may_live: bool = False) -> None:
        """Judge all that a database holds by SQL, and take what is wrong with it into the account."""
        found = judge(url)
        self.gaps += found.gaps
        self.doubled += found.doubled
        self.illegal += found.illegal
        self.wrong += found.wrong
        self.count(runs=found.runs, entries=found.entries)
        if found.live and not may_live:
            self.lost += found.live
            self.wrong.append(f"{found.live} runs have not ended")

    def count(self, **counts: int) -> None:
        """Add to the notes."""
        for name, count in counts.items():
            self.notes[name] = self.notes.get(name, 0) + count

    def lose(self, what: str, some: object) -> None:
        """Note something acknowledged that is not there."""
        self.lost += 1
        self.wrong.append(f"{what}: {some}")

    def double(self, what: str, some: object) -> None:
        """Note something that was done twice."""
        self.doubled += 1
        self.wrong.append(f"{what}: {some}")

    def expect(self, holds: bool, sentence: str) -> None:
        """Note a sentence unless it holds."""
        if not holds:
            self.wrong.append(sentence)

    def __str__(self) -> str:
        faults = " + ".join(f"{count} {kind}" for kind, count in self.faults.items()) or "no fault"
        found = f"lost {self.lost}, doubled {self.doubled}, illegal {self.illegal}, gaps {self.gaps}"
        notes = ", ".join(f"{name} {_shown(value)}" for name, value in self.notes.items())
        head = f"{self.trial}: {self.trials} trials, {faults}, acknowledged {self.acknowledged}"
        return f"{head}, {found} ({notes}; {self.seconds:.0f} s)"


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{name}={_shown(inner)}" for name, inner in value.items()) or "none"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


# --- databases --------------------------------------------------------------------------------------------------------


class Ground:
    """A scratch folder, servers started when they are needed, and the chance that a seed gives."""

    def __init__(self, seed: int, quick: bool) -> None:
        self.seed: Final = seed
        self.quick: Final = quick
        """Whether it is only shown to work."""
        self._stack = ExitStack()
        self._servers: dict[bool, Server] = {}
        self._made = 0

    def __enter__(self) -> Self:
        kept = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="runstate-faults-"))
        self.scratch = Path(kept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def chance(self, trial: str) -> Random:
        """Return a source of chance that is the same for the same seed and trial."""
        return Random(f"{self.seed} {trial}")

    def server(self, *, fast: bool = True) -> Server:
        """Return a PostgreSQL of our own; a fast one does not wait for the disk."""
        if fast not in self._servers:
            self._servers[fast] = Server.start_new(fast=fast)
            self._stack.callback(self._servers[fast].stop)
        return self._servers[fast]

    def path(self, name: str) -> Path:
        """Return a path in the scratch folder that nobody else has."""
        self._made += 1
        return self.scratch / f"{self._made}-{name}"

    def store(self, dialect: Dialect, *, fast: bool = True) -> str:
        """Return the URL of a new, empty store."""
        url = self.server(fast=fast).create_database() if dialect == "postgres" else f"sqlite:///{self.path('runs.db')}"
        open_store(url, migrate=True).close()
        return url

    def drop(self, url: str) -> None:
        """Make room: nobody asks for this database any more."""
        if url.startswith("sqlite:///"):
            for path in self.scratch.glob(f"{Path(url).name}*"):
                path.unlink()
            return
        for server in self._servers.values():
            with suppress(Exception):  # it is another server's, or away
                server.drop_database(url)


# --- processes --------------------------------------------------------------------------------------------------------


def end_with_main() -> None:
    """Have this process end when the one that began it all is gone, and not only the server that forked it."""

    def wait() -> None:
        if (main := parent_process()) is not None:
            main.join()
            os._exit(1)

    Thread(target=wait, daemon=True).start()


class Crew:
    """Processes that may be killed at any time, and are when the block ends.

    They are forked by a server that has all modules loaded: a start takes milliseconds, so most of the time of two
    hundred kills is work.
    """

    def __init__(self) -> None:
        here, others = str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")
        if here not in others.split(os.pathsep):  # or that server would not find these modules
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (here, others)))
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["torture.trials.handler", "runstate.store._postgres.connection"])
        self.members: dict[str, BaseProcess] = {}
        """Those that live, by name."""
        self._born = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in list(self.members):
            self.kill(name)

    def start(self, work: Callable[..., None], *arguments: object, name: str = "w") -> str:
        """Start a process that does `work(its name, *arguments)`; return that name, which no other had."""
        self._born += 1
        unique = f"{name}{self._born}"
        process = self._context.Process(target=_begin, args=(work, unique, arguments), name=unique)
        process.start()
        self.members[unique] = process
        return unique

    def meeting(self, parties: int) -> Any:
        """Return a place where members wait until so many are there, to be handed to them at their start."""
        return self._context.Barrier(parties)

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a member."""
        pid = self.members[name].pid
        if pid is not None:
            os.kill(pid, number)

    def kill(self, name: str) -> None:
        """Kill a member at once; SIGTERM would let it finish what it has."""
        process = self.members.pop(name)
        process.kill()
        process.join(PATIENCE_S)
        process.close()

    def fallen(self) -> list[str]:
        """Return the members that ended by themselves, though nobody asked them to."""
        return [f"{name} ended with {one.exitcode}" for name, one in self.members.items() if one.exitcode is not None]


def _begin(work: Callable[..., None], name: str, arguments: tuple[object, ...]) -> None:
    end_with_main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that cleans up
    work(name, *arguments)
