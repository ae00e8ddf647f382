"""Change recorded runs one value at a time, and count what the judge catches.

    python -m tests.support.mutated_traces

Whether a changed trace could still happen is not asked of the judge but of a search over all legal histories, made
from the hand-written table in `tests.support.lifecycle`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from functools import cache
from typing import Any, Final, TypeAlias

import attrs

from runstate.traces import judge_trace
from tests.support.lifecycle import COMING_AND_GOING, HELD_IN, ROWS, SAMPLE, STAMPED_BY, STAMPS, STATUSES, recorded_runs

Snapshot: TypeAlias = dict[str, Any]

# --- the oracle -------------------------------------------------------------------------------------------------------

ANY: Final = "a value of its own"  # written on the way, and not observed yet

State: TypeAlias = tuple[str, tuple[str | None, ...]]
"""A status, and for each field that comes and goes: null, ANY, or the text of the value that was observed."""


def _next(state: State) -> Iterator[State]:
    status, values = state
    for _, source, target, _ in ROWS:
        if source == status:
            after = dict(zip(COMING_AND_GOING, values, strict=True))
            for field, statuses in HELD_IN.items():
                if target not in statuses:
                    after[field] = None
                elif status not in statuses:
                    after[field] = ANY
            if target in STAMPED_BY:
                after[STAMPED_BY[target]] = ANY
            after_it = target, tuple(after[field] for field in COMING_AND_GOING)
            yield _waiting(after_it)


def _waiting(state: State) -> State:
    """Return what may be of a run while it waits for its tools: some servers set the deadline anew then."""
    status, values = state
    if status != "requires_action":
        return state
    return status, tuple(ANY if field == "expires_at" else v for field, v in zip(COMING_AND_GOING, values, strict=True))


_BORN: Final[State] = "queued", tuple(ANY if field == "expires_at" else None for field in COMING_AND_GOING)


@cache
def _all_after(start: State) -> frozenset[State]:
    found = {start, _waiting(start)}
    waiting = list(found)
    while waiting:
        for state in _next(waiting.pop()):
            if state not in found:
                found.add(state)
                waiting.append(state)
    return frozenset(found)


def _observed(state: State, snapshot: Mapping[str, Any]) -> State | None:
    """Return what is known of the run after the snapshot; None if the snapshot cannot be of this state."""
    status, values = state
    if snapshot["status"] != status:
        return None
    known: list[str | None] = []
    for field, value in zip(COMING_AND_GOING, values, strict=True):
        if field not in snapshot:
            known.append(value)
            continue
        seen = None if snapshot[field] is None else repr(snapshot[field])
        if (seen is None) is not (value is None) or value not in (None, ANY, seen):
            return None
        known.append(seen)
    return status, tuple(known)


def is_legal(trace: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether some legal history could have been seen as this trace."""
    states = {_BORN}
    started: int | None = None
    deadline: int | None = None
    for snapshot in trace:
        ahead = {after for state in states for after in _all_after(state)}
        states = {known for state in ahead if (known := _observed(state, snapshot)) is not None}
        now = snapshot.get("started_at")
        if now is not None:
            if started is not None and now < started:
                return False  # a later start has a later time
            started = now
        due = snapshot.get("expires_at")
        if due is not None:
            if deadline is not None and due < deadline:
                return False  # a deadline never moves back
            deadline = due
        if snapshot.get("expires_at") is not None and snapshot["expires_at"] <= snapshot["created_at"]:
            return False
    return bool(states)


# --- the changes ------------------------------------------------------------------------------------------------------


@attrs.frozen
class Change:
    """One value of one snapshot changed."""

    kind: str
    trace: tuple[Snapshot, ...]
    told: str


def changes(trace: Sequence[Snapshot]) -> Iterator[Change]:
    """Yield the trace with every single change: another status, a field removed, set, left behind or moved."""
    for index, snapshot in enumerate(trace):
        for kind, field, value in _edits(trace, index):
            edited = (*trace[:index], {**snapshot, field: deepcopy(value)}, *trace[index + 1 :])
            yield Change(kind, edited, f"{snapshot['id']}[{index}].{field} = {value!r}")


def _edits(trace: Sequence[Snapshot], index: int) -> Iterator[tuple[str, str, Any]]:
    snapshot = trace[index]
    for status in STATUSES:
        if status != snapshot["status"]:
            yield "another status", "status", status
    for field in COMING_AND_GOING:
        value = snapshot.get(field)
        stamp = field in STAMPS or field == "expires_at"
        what = "stamp" if stamp else "field"
        if value is not None:
            yield f"{what} removed", field, None
            if stamp and index:
                yield "stamp moved", field, value + 1
                yield "stamp moved", field, value - 1
        else:
            time = snapshot["created_at"] + (600 if field == "expires_at" else 30)
            yield f"{what} set", field, time if stamp else SAMPLE[field]
        if index and trace[index - 1].get(field) is not None and trace[index - 1][field] != value:
            yield f"{what} left behind", field, trace[index - 1][field]


@attrs.define
class Count:
    """What came of the changes of one kind."""

    tried: int = 0
    caught: int = 0
    excused: int = 0
    """Told as a warning: the record is old, and old ones are known to do so."""
    legal: int = 0
    missed: int = 0


@attrs.define
class Report:
    """What came of all changes, by kind; and each change that the judge and the search disagree about."""

    counts: dict[str, Count] = attrs.field(factory=dict)
    missed: list[str] = attrs.field(factory=list)
    false_alarms: list[str] = attrs.field(factory=list)

    def total(self, what: str) -> int:
        return sum(getattr(count, what) for count in self.counts.values())

    @property
    def share(self) -> float:
        """The share of the impossible traces that were caught, as an error or as a warning."""
        impossible = self.total("tried") - self.total("legal")
        return 1.0 if not impossible else 1 - self.total("missed") / impossible


def count_changes(traces: Sequence[Sequence[Snapshot]], most_per_trace: int | None = None, seed: int = 1) -> Report:
    """Judge every change of every trace (or a sample, the same each time), and count."""
    dice = random.Random(seed)
    report = Report()
    for trace in traces:
        every = list(changes(trace))
        if most_per_trace is not None and len(every) > most_per_trace:
            every = dice.sample(every, most_per_trace)
        was = Counter((finding.index, finding.field, finding.message) for finding in judge_trace(trace).findings)
        for change in every:
            count = report.counts.setdefault(change.kind, Count())
            count.tried += 1
            verdict = judge_trace(change.trace)
            new = Counter((finding.index, finding.field, finding.message) for finding in verdict.findings) - was
            if is_legal(change.trace):
                count.legal += 1
                if verdict.errors:
                    report.false_alarms.append(f"{change.told}: {verdict.errors[0]}")
            elif verdict.errors:
                count.caught += 1
            elif new:
                count.excused += 1
            else:
                count.missed += 1
                report.missed.append(change.told)
    return report


def main() -> None:
    """Print the table by kind."""
    report = count_changes([run.snapshots for run in recorded_runs()])
    columns = ("tried", "caught", "excused", "legal", "missed")
    print(f"{'change':20}" + "".join(f"{column:>9}" for column in columns))
    for kind, count in sorted(report.counts.items()):
        print(f"{kind:20}" + "".join(f"{getattr(count, column):>9}" for column in columns))
    print(f"{'all':20}" + "".join(f"{report.total(column):>9}" for column in columns))
    print(f"caught {report.share:.2%} of what no legal history leaves; {len(report.false_alarms)} false alarms")
    for told in (*report.missed[:20], *report.false_alarms[:20]):
        print(" ", told)


if __name__ == "__main__":
    main()
