"""The processes over one store: how they are started, ended, and checked afterwards."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import attrs

from tests.support.judge import asking, listed
from tests.support.lifecycle import LIVE
from torture.fleet import clients
from torture.fleet.checks import (
    NOBODY,
    check_side_log,
    check_steps,
    check_take_overs,
    histories,
    retried_attempts,
)
from torture.fleet.clients import be
from torture.fleet.replies import read_replies
from torture.fleet.reply_checks import check_replies
from torture.fleet.settings import Settings
from torture.fleet.unwritable import UNWRITABLE
from torture.fleet.workers import work
from torture.ground import GaveUp, Ground, wait_until
from torture.processes import Processes
from torture.verdict import Verdict

CLIENTS: Final[Mapping[str, int]] = {"create": 1, "cancel": 1, "submit": 1}
"""How many clients of each role a trial has."""
CALM_S: Final = 180.0
"""In which all runs must have ended, when nothing is broken any more and no run is created."""
FIRST_CALM_S: Final = 15.0
"""After which it is looked whether something is wrong already: then the rest of the time would show nothing more."""
_REFUSED: Final = re.compile(
    r"(?P<worker>w(?:orker)?\d+) outcome of run \S+ was rejected:"
    r" run \S+ is (?P<status>\w+)(?: \(by \w+, (?P<winner>\w+)\))?"
)


def settings_at(ground: Ground, url: str, **others: Any) -> Settings:
    """Return the settings of a fleet whose logs are in the scratch folder."""
    replies = ground.path("replies")
    replies.mkdir()
    return Settings(url, replies, ground.path("side"), ground.path("log"), ground.seed, **others)


class Fleet:
    """Clients and workers over one store. `settings_of` draws what the next process is given."""

    def __init__(
        self, processes: Processes, settings: Settings, settings_of: Callable[[], Settings] | None = None
    ) -> None:
        self.processes: Final = processes
        self.settings: Final = settings
        self._settings_of: Final = settings_of or (lambda: settings)
        self.workers: set[str] = set()
        self.clients: dict[str, str] = {}
        """The role of each client, by its name."""

    def start(self, roles: Mapping[str, int] = CLIENTS, workers: int = 0) -> None:
        """Start so many clients of each role, and so many workers."""
        for role, count in roles.items():
            for _ in range(count):
                self.start_client(role)
        for _ in range(workers):
            self.start_worker()

    def start_client(self, role: str) -> str:
        """Start a client; return its name."""
        name = self.processes.start(be, self._settings_of(), getattr(clients, role), name=role)
        self.clients[name] = role
        return name

    def start_worker(self, **changes: Any) -> str:
        """Start a worker, with other settings if given; return its name."""
        name = self.processes.start(work, attrs.evolve(self._settings_of(), **changes), name="worker")
        self.workers.add(name)
        return name

    def kill(self, name: str) -> None:
        """Kill a client or a worker."""
        self.processes.kill(name)
        self.workers.discard(name)
        self.clients.pop(name, None)

    def dismiss(self, role: str) -> None:
        """Kill all clients of one role."""
        for name in [one for one, its in self.clients.items() if its == role]:
            self.kill(name)

    # --- what it does -------------------------------------------------------------------------------------------------

    def wait_until_all_work(self, url: str, since_us: int = 0) -> None:
        """Wait until each worker has begun or ended a run."""

        def do_all() -> bool:
            with asking(url) as ask:
                found = ask(f"SELECT DISTINCT actor FROM runstate_history WHERE at_us > {since_us}")
            return {actor for (actor,) in found} >= self.workers

        wait_until(do_all, "all workers to work")

    def finish(self, verdict: Verdict, url: str) -> None:
        """Create no more, wait until all runs have ended, and end all processes."""
        self.dismiss("create")

        def is_over() -> bool:
            with suppress(Exception), asking(url) as ask:
                left = f"status IN ({listed(LIVE)}) AND id NOT IN ({listed(UNWRITABLE)})"
                return not ask(f"SELECT 1 FROM runstate_run WHERE {left} LIMIT 1")
            return False

        try:
            try:
                wait_until(is_over, "all runs to end", FIRST_CALM_S, 0.1)
            except GaveUp:
                if verdict.wrong or any(reply.answer == "wrong" for reply in read_replies(self.settings.replies)):
                    raise
                wait_until(is_over, "all runs to end", CALM_S, 0.1)
        except GaveUp as error:
            verdict.wrong.append(str(error))
        verdict.wrong += self.processes.fallen()
        for name in [*self.clients, *sorted(self.workers)]:
            self.kill(name)

    def check(
        self,
        verdict: Verdict,
        url: str,
        died: Mapping[str, float] = NOBODY,
        outages: Sequence[tuple[float, float]] = (),
    ) -> None:
        """Check all that is written: the database by SQL, the replies, the log of the handlers, the leases."""
        settings = self.settings
        verdict.judge(url)
        found = histories(url)
        check_replies(verdict, settings.replies, settings.side, found, retried_attempts(url))
        check_side_log(verdict, settings.side, found)
        check_steps(verdict, url, settings.side)
        check_take_overs(verdict, url, settings.side, died, outages)
        check_warnings(verdict, settings.log)


def check_warnings(verdict: Verdict, log: Path) -> None:
    """Count the outcomes that workers were refused, by where the run stood, and note those that fell."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    refused = Counter[str]()
    for place, line in enumerate(lines):
        if "the worker fell" in line:
            verdict.wrong.append(f"a worker fell: {' / '.join(lines[place : place + 60])[-600:]}")
        if found := _REFUSED.search(line):
            refused[found["status"]] += 1
            own = found["winner"] == found["worker"]
            verdict.expect(not own, f"a worker was refused what it had done itself: {line}")
    verdict.notes["settles refused"] = refused


def sessions_at_work(url: str) -> Mapping[str, frozenset[int]]:
    """Return the sessions that hold runs, by their workers' names."""
    found: dict[str, frozenset[int]] = {}
    with asking(url) as ask:
        for name, token in ask(
            "SELECT DISTINCT w.name, w.token FROM runstate_run AS r"
            " JOIN runstate_worker_session AS w ON w.token = r.worker"
        ):
            found[name] = found.get(name, frozenset()) | {token}
    return found
