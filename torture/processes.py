"""Processes that may be killed at any time."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing import parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Self

from torture.ground import PATIENCE_S


def end_with_main() -> None:
    """Have this process end when the one that began it all is gone, and not only the server that forked it."""

    def wait() -> None:
        if (main := parent_process()) is not None:
            main.join()
            os._exit(1)

    Thread(target=wait, daemon=True).start()


class Processes:
    """Processes that may be killed at any time, and are when the block ends.

    They are forked by a server that has all modules loaded: a start takes milliseconds, so most of the time of two
    hundred kills is work.
    """

    def __init__(self) -> None:
        here, others = str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")
        if here not in others.split(os.pathsep):  # or that server would not find these modules
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (here, others)))
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(
            ["torture.processes", "torture.fleet.workers", "runstate.store._postgres.connection"]
        )
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
