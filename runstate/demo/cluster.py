"""The demonstration: a few hundred durable runs of all kinds, two worker processes, and a client.

Everything is real: the workers are processes of their own, one is killed while it has runs, and the summary is read
from the history.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Final

import attrs

from runstate.clock import monotonic, sleep
from runstate.lifecycle import RUN_LIFECYCLE, RunEvent, RunStatus
from runstate.lifecycle.errors import RunstateError
from runstate.store import Entry, NewRun, Store, StoredRun
from runstate.traces import judge
from runstate.worker import Context, Outcome, RunFailed

__all__ = ["KINDS", "DemoCluster", "DemoSummary", "answer", "summarize"]

KINDS: Final[Mapping[str, int]] = {
    "plain": 170,  # completes
    "tools": 60,  # requires a tool first
    "cancel": 30,  # is cancelled while it works
    "fail": 20,  # raises
    "limit": 20,  # uses more tokens than it may
    "long": 16,  # takes a while: the killed worker has these
    "late": 4,  # is never done before its deadline
}
"""How many runs of each kind there are."""

LEASE_S: Final = 2.0
CONCURRENCY: Final = 8
_DEADLINE_S: Final = 3
_LIMIT: Final = 64
_TIMEOUT_S: Final = 60.0


async def answer(ctx: Context) -> Outcome | None:
    """The handler: do what the metadata of the run says, with a pause for the work."""
    match ctx.run.metadata.get("kind"):
        case "tools" if not ctx.tool_outputs:
            await asyncio.sleep(0.02)
            ctx.add_usage(prompt_tokens=20)
            return ctx.require_action([ctx.tool_call("weather", city="Paris")])
        case "cancel":
            await asyncio.sleep(20)
        case "fail":
            await asyncio.sleep(0.02)
            raise RunFailed("rate_limit_exceeded", "The model is busy.")
        case "limit":
            ctx.add_usage(prompt_tokens=30)
            await asyncio.sleep(0.03)
            ctx.add_usage(completion_tokens=_LIMIT + 1)
        case "long":
            await asyncio.sleep(1.2)
        case "late":
            await asyncio.sleep(60)
        case _:
            await asyncio.sleep(0.03)
    ctx.add_usage(prompt_tokens=12, completion_tokens=30)
    return ctx.complete()


def demo_runs() -> list[NewRun]:
    """Return the runs to create, with the kinds mixed and the long ones first."""
    left = Counter(KINDS)
    order = ["long"] * left.pop("long")
    while left:
        for kind in list(left):
            order.append(kind)
            left[kind] -= 1
            if not left[kind]:
                del left[kind]
    return [
        {
            "thread_id": f"thread_{number % 40}",
            "assistant_id": "asst_demo",
            "model": "gpt-4o",
            "metadata": {"kind": kind},
            "max_completion_tokens": _LIMIT if kind == "limit" else None,
            "expires_in_s": _DEADLINE_S if kind == "late" else 600,
            "actor": "demo",
        }
        for number, kind in enumerate(order)
    ]


@attrs.define
class DemoCluster:
    """Two workers, and the client that submits outputs, cancels, and kills one of them."""

    store: Store
    url: str
    on_message: Callable[[str], None]
    """Is called with a sentence for each thing that happens."""
    workers: dict[str, subprocess.Popen[bytes]] = attrs.field(factory=dict[str, "subprocess.Popen[bytes]"])
    entries_by_actor: Counter[str] = attrs.field(factory=Counter[str])
    """How many entries each actor wrote."""
    kinds: dict[str, str] = attrs.field(factory=dict[str, str])
    killed: str | None = None

    def run(self) -> Iterator[Mapping[RunStatus, int]]:
        """Run until all runs have ended; yield the counts of runs by status several times a second.

        Raises `TimeoutError` if that takes more than a minute.
        """
        created = self.store.create_many(demo_runs())
        self.kinds = {run.id: run.metadata["kind"] for run in created}
        self.on_message(f"{len(created)} runs created in one commit")
        until = monotonic() + _TIMEOUT_S
        cursor = ""
        with self._workers("worker-1", "worker-2"):
            while True:
                entries = self.store.entries(cursor)
                for entry in entries:
                    cursor = entry.cursor
                    self._react(entry)
                counts = self.store.counts()
                yield counts
                if not entries and all(
                    RUN_LIFECYCLE.is_terminal(status) or not count for status, count in counts.items()
                ):
                    return
                self._kill_one()
                if monotonic() > until:
                    raise TimeoutError(f"not done after {_TIMEOUT_S:.0f} s: {dict(counts)}")
                if not entries:
                    sleep(0.02)

    def _react(self, entry: Entry) -> None:
        """Do what a client does after an entry: submit tool outputs, or cancel."""
        self.entries_by_actor[entry.actor or "?"] += 1
        try:
            if entry.target is RUN_LIFECYCLE.target_of(RunEvent.REQUIRE_ACTION):
                calls = (entry.detail or {})["required_action"]["submit_tool_outputs"]["tool_calls"]
                self.store.submit_tool_outputs(entry.run_id, {call["id"]: "sunny" for call in calls}, actor="client")
            elif entry.event is RunEvent.START and self.kinds.get(entry.run_id) == "cancel":
                self.store.request_cancel(entry.run_id, actor="client")
        except RunstateError as refused:
            self.on_message(str(refused))

    def _kill_one(self) -> None:
        """Kill the first worker once it works on long runs."""
        worker = self.workers.get("worker-1")
        if self.killed is None and worker is not None and self.entries_by_actor["worker-1"] >= CONCURRENCY:
            worker.kill()
            worker.wait()
            self.killed = "worker-1"
            self.on_message(f"worker-1 is killed; its runs are taken over when its lease of {LEASE_S:g} s is over")

    @contextmanager
    def _workers(self, *names: str) -> Generator[None, None, None]:
        program = [sys.executable, "-m", "runstate", "worker", "runstate.demo.cluster:answer"]
        program += ["--store", self.url, "--concurrency", str(CONCURRENCY), "--lease", f"{LEASE_S:g}s"]
        try:
            for name in names:
                self.workers[name] = subprocess.Popen(  # noqa: S603  # this very program
                    [*program, "--name", name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                self.on_message(f"{name} started, process {self.workers[name].pid}")
            yield
        finally:
            for worker in self.workers.values():
                worker.send_signal(signal.SIGTERM)
            for worker in self.workers.values():
                try:
                    worker.wait(timeout=5)
                except subprocess.TimeoutExpired:
                    worker.kill()
                    worker.wait()


@attrs.frozen
class DemoSummary:
    """A summary of the histories of all runs."""

    runs: int
    entries: int
    statuses: Mapping[str, int]
    tool_rounds: int
    taken_over: int
    by_actor: Mapping[str, int]
    """How many entries each wrote."""
    wait_ms: float
    """The median from the creation of a run to its first start."""
    illegal: int
    """Entries without a transition in the table, or that do not follow the one before."""
    implausible: int
    """Runs that no legal history can leave."""

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as JSON values."""
        return attrs.asdict(self)


def summarize(store: Store) -> DemoSummary:
    """Read all histories and return their summary."""
    entries: list[Entry] = []
    while more := store.entries(entries[-1].cursor if entries else "", limit=1000):
        entries += more
    by_run: dict[str, list[Entry]] = {}
    for entry in entries:
        by_run.setdefault(entry.run_id, []).append(entry)
    waits = sorted(history[1].at_us - history[0].at_us for history in by_run.values() if len(history) > 1)
    runs = list(_all_runs(store))
    return DemoSummary(
        runs=len(by_run),
        entries=len(entries),
        statuses=dict(Counter(str(history[-1].target) for history in by_run.values())),
        tool_rounds=sum(entry.event is RunEvent.SUBMIT_TOOL_OUTPUTS for entry in entries),
        taken_over=sum("attempt" in (history[-1].detail or {}) for history in by_run.values()),
        by_actor=dict(Counter(entry.actor or "?" for entry in entries)),
        wait_ms=waits[len(waits) // 2] / 1000 if waits else 0.0,
        illegal=sum(_illegal(history) for history in by_run.values()),
        implausible=sum(bool(judge(run.to_dict())) for run in runs),
    )


def _all_runs(store: Store) -> Iterator[StoredRun]:
    after: str | None = None
    while True:
        page = store.list(limit=100, order="asc", after=after)
        yield from page.data
        if not page.has_more:
            return
        after = page.last_id


def _illegal(history: Sequence[Entry]) -> int:
    """Count the entries of one run that do not follow from the one before by the table."""
    wrong = 0 if history[0].event is None and history[0].version == 1 else 1
    for before, entry in pairwise(history):
        row = None if entry.event is None or entry.source is None else RUN_LIFECYCLE.find(entry.source, entry.event)
        follows = entry.source is before.target and entry.version == before.version + 1 and entry.at_us >= before.at_us
        wrong += row is None or row.target is not entry.target or not follows
    return wrong
