"""Whether the histories agree with what the handlers wrote down, and with the leases of their workers."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

from tests.support.judge import asking
from tests.support.lifecycle import TERMINAL
from torture.fleet.handler_log import Line, read_side_log
from torture.verdict import Verdict

_OUTCOMES: Final = frozenset({"complete", "fail", "mark_incomplete", "require_action"})
"""What only a handler can lead to, when a worker asks it."""


NOBODY: Final[Mapping[str, float]] = {}


class Entry(NamedTuple):
    """An entry of a history, and in which attempt its run stands now."""

    run_id: str
    version: int
    event: str | None
    target: str
    at: int
    actor: str | None
    attempt: int


class Ended(NamedTuple):
    """What a handler wrote down at its end: in which attempt of which start, and what it asked for."""

    version: int
    attempt: int
    worker: str
    event: str


def histories(url: str) -> Mapping[str, Sequence[Entry]]:
    """Return the history of each run, by id."""
    found: dict[str, list[Entry]] = defaultdict(list)
    with asking(url) as ask:
        for row in ask(
            "SELECT r.id, h.version, h.event, h.target, h.at_us, h.actor, r.attempt"
            " FROM runstate_history AS h JOIN runstate_run AS r ON r.seq = h.run ORDER BY h.run, h.version"
        ):
            found[row[0]].append(Entry(*row))
    return found


def retried_attempts(url: str) -> AbstractSet[tuple[str, int]]:
    """Return the runs and attempts that were retried."""
    with asking(url) as ask:
        return {tuple(row) for row in ask("SELECT run_id, attempt FROM runstate_attempts WHERE result = 'retry'")}


def check_side_log(verdict: Verdict, side: Path, found: Mapping[str, Sequence[Entry]]) -> int:
    """See that no attempt was begun twice, and that every outcome is of the handler that held the run last.

    Returns how many outcomes of handlers there are.
    """
    lines = list(read_side_log(side))
    begun: dict[tuple[str, int, int], Line] = {}
    ended: dict[str, set[Ended]] = defaultdict(set)
    for line in lines:
        place = (line.run_id, line.version, line.attempt)
        if line.what == "begun":
            if place in begun:
                verdict.double("an attempt was begun twice", f"{place} by {begun[place].worker} and {line.worker}")
            begun[place] = line
        elif line.what.startswith("ended-"):
            event = line.what.removeprefix("ended-")
            ended[line.run_id].add(Ended(line.version, line.attempt, line.worker, event))
    workers = {line.worker for line in lines}
    settled = 0
    for run_id, entries in found.items():
        for entry in entries:
            if entry.actor in workers and entry.event in _OUTCOMES:
                settled += 1
                _check_settle(verdict, entries, entry, ended[run_id])
    attempts = sum(line.attempt > 1 for line in begun.values())
    verdict.count(settled=settled, taken_over=attempts, cut=sum(line.what == "cut" for line in lines))
    return settled


def _check_settle(verdict: Verdict, entries: Sequence[Entry], entry: Entry, ended: set[Ended]) -> None:
    started = max(other.version for other in entries if other.event == "start" and other.version < entry.version)
    last = entry.target in TERMINAL  # else the run has been started again since, and its attempts counted anew
    agreed = any(
        (one.version, one.worker, one.event) == (started, entry.actor, entry.event)
        and (one.attempt == entry.attempt or not last)
        for one in ended
    )
    verdict.expect(
        agreed,
        f"no handler that held {entry.run_id} in its last attempt led to {entry.event} by {entry.actor}: {entry} after"
        f" {sorted(ended)}",
    )


def check_steps(verdict: Verdict, url: str, side: Path) -> None:
    """See that a step whose end a handler was told of is there with its tokens, and was never executed again.

    An event was emitted before each step that was executed: it is there if the step is.
    """
    kept: dict[tuple[str, str], Line] = {}
    executed: dict[tuple[str, str], set[int]] = defaultdict(set)
    for line in read_side_log(side):  # in the order in which the lines were written
        what, _, name = line.what.partition("-")
        if what == "called":
            executed[line.run_id, name].add(line.attempt)
            before = kept.get((line.run_id, name))
            # A worker that stood still past its lease may call the function late. It cannot keep the result.
            if before is not None and (line.version, line.attempt) >= (before.version, before.attempt):
                verdict.double(f"the step {name} was executed again after it was kept", line.run_id)
        elif what == "kept":
            kept.setdefault((line.run_id, name), line)
    with asking(url) as ask:
        steps = ask(
            "SELECT r.id, s.name, s.attempt, s.ended_at_us FROM runstate_step AS s JOIN runstate_run AS r"
            " ON r.seq = s.run WHERE s.ended_at_us IS NOT NULL ORDER BY s.run, s.ended_at_us, s.attempt"
        )
        emitted = ask("SELECT run_id, attempt, CAST(data AS text) FROM runstate_events")
        spent = ask(
            "SELECT r.id, CAST(r.usage AS text), count(*) FROM runstate_step AS s JOIN runstate_run AS r"
            " ON r.seq = s.run WHERE s.ended_at_us IS NOT NULL AND r.usage IS NOT NULL"
            " AND r.status <> 'incomplete' GROUP BY r.seq, r.id, CAST(r.usage AS text)"
        )
    spoken = {(run_id, attempt, text.strip('"')) for run_id, attempt, text in emitted}
    there = {(run_id, name): attempt for run_id, name, attempt, _ in steps}
    for run_id, name in sorted(kept.keys() - there.keys()):
        verdict.lose(f"the step {name} was kept, and is not there", run_id)
    for (run_id, name), attempt in there.items():
        if (run_id, attempt, name) not in spoken:
            verdict.lose(f"the event before the step {name} is not there", run_id)
    for run_id, usage, count in spent:
        used = json.loads(usage)["prompt_tokens"]
        if used < count:
            verdict.lose(f"{used} tokens are counted, and {count} steps that used one each are kept", run_id)
    for (before, _, earlier, _), (run_id, name, attempt, _) in pairwise(steps):
        if before == run_id and attempt < earlier:
            verdict.double(f"the step {name} of attempt {attempt} was kept after one of attempt {earlier}", run_id)
    verdict.acknowledged += len(kept)
    verdict.notes["steps"] = f"{len(kept)} kept, {sum(map(len, executed.values()))} executed"


def check_take_overs(
    verdict: Verdict,
    url: str,
    side: Path,
    died: Mapping[str, float] = NOBODY,
    outages: Sequence[tuple[float, float]] = (),
) -> None:
    """See that no run was taken over before the lease of the one who held it had ended.

    Notes how long after the lease, and after the death of the holder, if `died` says when it was killed; of the time
    since a death, only that in which the store could be written.
    """
    with asking(url) as ask:
        leases = ask("SELECT token, lease_until_us FROM runstate_worker_session")
        retried = ask("SELECT run_id, attempt, next_at_us FROM runstate_attempts WHERE result = 'retry'")
    until = {token: lease_until_us / 1e6 for token, lease_until_us in leases}
    due = {(run_id, attempt): next_at / 1e6 for run_id, attempt, next_at in retried}
    lines = {what: dict[tuple[str, int, int], Line]() for what in ("begun", "released")}
    after_due: list[float] = []
    for line in read_side_log(side):
        if line.what in lines:
            lines[line.what][line.run_id, line.version, line.attempt] = line
    begun = lines["begun"]
    after_lease: list[float] = []
    after_death: list[float] = []
    for (run_id, version, attempt), line in begun.items():
        before = begun.get((run_id, version, attempt - 1))
        if (run_id, attempt - 1) in due:
            after_due.append(line.at - due[run_id, attempt - 1])
            verdict.expect(after_due[-1] >= 0, f"{run_id} was retried {-after_due[-1]:.3f} s early by {line.worker}")
            continue
        if before is None or before.token not in until or (run_id, version, attempt - 1) in lines["released"]:
            continue  # the first, or the one before was killed between its claim and its handler, or released it
        late = line.at - until[before.token]
        after_lease.append(late)
        verdict.expect(
            late >= 0,
            f"{run_id} was taken over by {line.worker} {-late:.3f} s before the lease of {before.worker} ended",
        )
        if before.worker in died:
            since = died[before.worker]
            away = sum(max(0.0, min(line.at, end) - max(since, start)) for start, end in outages)
            after_death.append(line.at - since - away)
    verdict.notes["take-overs"] = len(after_lease)
    spreads = {"take-over after the lease, s": after_lease, "take-over after the death, s": after_death}
    for what, found in {**spreads, "retry after it was due, s": after_due}.items():
        if found:
            verdict.notes[what] = spread(found)


def spread(found: Sequence[float]) -> Mapping[str, float]:
    """Return how some figures are spread."""
    inner = sorted(found)
    return {
        "n": len(inner),
        "median": round(inner[len(inner) // 2], 2),
        "p99": round(inner[min(len(inner) - 1, int(len(inner) * 0.99))], 2),
        "max": round(inner[-1], 2),
    }
