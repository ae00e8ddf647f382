"""Many worlds, one after the other, in as many processes as are asked for; and what came of all of them."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Final

import attrs

from torture.bugs import planted
from torture.simulation.database import forget_connections
from torture.simulation.replaced import replaced
from torture.simulation.world import Verdict, play_world

__all__ = ["Tally", "play", "play_many", "told"]

_LOT: Final = 25
_LAST: Final = 30  # lines of a trace that are shown
_MOST_TOLD: Final = 10
_MOST: Final = 3  # worlds that go wrong before it ends
TROUBLES: Final = ("faults of connections", "answers lost", "crashes", "leases lapsed", "late settles refused")
KINDS: Final = ("losses", "doubles", "illegal", "gaps", "leases", "deadlines", "attempts", "stuck", "faults")


@attrs.define
class Tally:
    """What came of some worlds."""

    counts: Counter[str] = attrs.field(factory=Counter)
    wrong: list[Verdict] = attrs.field(factory=list)
    seconds: float = 0.0

    def add(self, verdict: Verdict) -> None:
        """Count a world."""
        self.counts.update(verdict.counts)
        self.counts["worlds"] += 1
        if verdict.found:
            self.wrong.append(verdict)

    def merge(self, other: Tally) -> None:
        """Count other worlds, too."""
        self.counts.update(other.counts)
        self.wrong += other.wrong

    @property
    def steps(self) -> int:
        """How many steps they took."""
        return self.counts["steps"]

    def __str__(self) -> str:
        counts = self.counts
        pace = self.steps / self.seconds if self.seconds else 0
        names = ("runs", "entries", "acknowledged", "refused", "unavailable", "unknown", "handlers", "taken over")
        lines = (
            f"{counts['worlds']:,} worlds, {self.steps:,} steps in {self.seconds:.1f} s ({pace:,.0f} a second)",
            ", ".join(f"{counts[name]:,} {name}" for name in names),
            ", ".join(f"{counts[name]:,} {name}" for name in TROUBLES),
            ", ".join(f"{counts[name]:,} {name}" for name in KINDS),
        )
        return "\n".join(lines)


def play(
    seeds: Sequence[int], *, bug: str | None = None, traced: bool = False, watchful: bool = False
) -> Iterator[Verdict]:
    """Play the worlds of some seeds, with a bug in the library if one is named."""
    if bug is not None:
        forget_connections()
    with ExitStack() as undo:
        undo.enter_context(_apart_from_garbage())
        if bug is not None:  # first: the guards of the database are made with it
            undo.callback(forget_connections)
            undo.enter_context(planted(bug))
        undo.enter_context(replaced())
        for seed in seeds:
            yield play_world(seed, traced=traced, watchful=watchful)


def told(verdict: Verdict, bug: str | None = None) -> str:
    """Return what went wrong in a world: it is played once more, up to the step after which that was to be seen."""
    (again,) = play([verdict.seed], bug=bug, watchful=True)
    command = f"python -m torture.simulation --seed {verdict.seed}" + (f" --bug {bug}" if bug else "") + " --show"
    found = again.found or ["the simulation is at fault: played again, nothing was wrong"]
    return "\n".join(
        (
            f"seed {verdict.seed}, after {verdict.steps} steps:",
            *(f"  {each}" for each in verdict.found[:_MOST_TOLD]),
            f"first to be seen after {again.steps} steps, the last of which were:",
            *(again.trace[-_LAST:]),
            *(f"  {each}" for each in found[:_MOST_TOLD]),
            f"again: {command}",
        )
    )


def _lot(first: int, bug: str | None) -> Tally:
    tally = Tally()
    for verdict in play(range(first, first + _LOT), bug=bug):
        tally.add(verdict)
    return tally


def _begin(cpus: multiprocessing.SimpleQueue[int]) -> None:
    """Stay on one processor: two strands that take turns are slower on two."""
    cpu = cpus.get()
    if sys.platform == "linux":
        os.sched_setaffinity(0, {cpu})


@contextmanager
def _apart_from_garbage() -> Generator[None, None, None]:
    """Let what is there stay out of collections: each world is collected when it is over, and not before."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def play_many(first: int, steps: int, processes: int, bug: str | None = None) -> Tally:
    """Play worlds from a seed on until so many steps are taken, or a few of them went wrong."""
    total = Tally()
    began = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    cpus = context.SimpleQueue()
    available = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else [0]
    for place in range(processes):
        cpus.put(available[(os.getpid() + place) % len(available)])  # not all who simulate on the first
    with context.Pool(processes, _begin, (cpus,)) as pool:
        lots = count(first, _LOT)
        pending = deque(pool.apply_async(_lot, (next(lots), bug)) for _ in range(2 * processes))
        while total.steps < steps and len(total.wrong) < _MOST:
            total.merge(pending.popleft().get())
            pending.append(pool.apply_async(_lot, (next(lots), bug)))
    total.seconds = time.perf_counter() - began
    return total
