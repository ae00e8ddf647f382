"""Assertions about runs that read like speech, and say what was found instead when they do not hold."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar, cast

from runstate.errors import IllegalTransition, InvalidRun
from runstate.lifecycle import LAW, Law, RunEvent, RunStatus
from runstate.plausible import judge_trace
from runstate.record import RunRecord
from runstate.recordings import inspect, snapshots
from runstate.store import Store
from runstate.stored import Entry, StoredRun
from runstate.testing.asking import ask, ask_stored
from runstate.testing.building import TrackedRun
from runstate.testing.notice import notice
from runstate.testing.records import fields_of, unlike_a_move, what_changed
from runstate.testing.telling import entries_of, shortfall, told_entry

__all__ = ["assert_history", "assert_moves", "assert_plausible", "assert_refused", "assert_stamps"]

RunT = TypeVar("RunT")
Refusals: TypeAlias = type[Exception] | tuple[type[Exception], ...]
_STAMPS: Final = ("started_at", "cancelled_at", "failed_at", "completed_at")
_MOST: Final = 20  # findings told of a recording


def assert_moves(
    run: RunT,
    event: RunEvent | str,
    to: RunStatus | str | None = None,
    *,
    store: Store | None = None,
    by: Callable[[], object] | None = None,
    law: Law = LAW,
    **given: Any,
) -> RunT:
    """Ask `event` of a run and assert that it moves as the law says; return the run as it stands then.

    It must come `to` where is said, else where the law says; write its own stamp and no other; gain and lose the fields
    that come and go; and keep everything else. A run of a class of your own is asked by its method of that name, a
    stored one by its `store`; `by` asks in another way. `given` are the event's arguments; what it needs and nobody
    gave has samples.

    >>> from runstate.testing import a_run
    >>> assert_moves(a_run("in_progress"), "complete", to="completed").completed_at is not None
    True
    """
    __tracebackhide__ = True
    event = RunEvent(event)
    before = fields_of(run)
    name = _name(before)
    refusals = _kinds(IllegalTransition)
    try:
        after = _asked(run, event, store, by, given)
    except refusals as refusal:
        problem = f"{name} did not {event}: it was refused in {before['status']}"
        # The law's own refusal says no more than what is told of every run.
        said = [] if isinstance(refusal, IllegalTransition) else [str(refusal)]
        raise shortfall(problem, run, said, asked=event, store=store) from None
    found = fields_of(after)
    wanted = RunStatus(law.target_of(event) if to is None else to)
    if found["status"] != wanted:
        problem = f"{name} did not {event} to {wanted}"
        came = f"{before['status']} -> {found['status']}" if found["status"] != before["status"] else "it did not move"
        raise shortfall(problem, after, [came], store=store)
    events = _events(before["status"], event, wanted, law)
    wrong = unlike_a_move(before, events, found, at=given.get("at"), law=law) if events else ()
    if wrong:
        raise shortfall(f"{name} came to {wanted}, but not as {event} does", after, wrong, store=store)
    if not events:
        problem = f"{name} came from {before['status']} to {wanted} by {event}, which the law has no row for"
        raise shortfall(problem, after, ["accepted"], store=store)
    return after


def assert_refused(
    run: object,
    event: RunEvent | str,
    allowed: Iterable[RunEvent | str] | None = None,
    *,
    store: Store | None = None,
    by: Callable[[], object] | None = None,
    refused: Refusals = IllegalTransition,
    **given: Any,
) -> Exception:
    """Ask `event` of a run and assert that it is refused and nothing changed; return the refusal.

    `allowed` are the events that the refusal must name as possible, in any order. `refused` is what a class of your
    own raises to say no.

    >>> from runstate.testing import a_run
    >>> refusal = assert_refused(a_run("completed"), "start", allowed=[])
    >>> print(str(refusal).partition("; ")[2])
    completed is terminal, nothing leaves it
    """
    __tracebackhide__ = True
    event = RunEvent(event)
    before = fields_of(run)
    name = _name(before)
    refusals = _kinds(refused)
    try:
        after = _asked(run, event, store, by, given)
    except refusals as refusal:
        _unchanged(run, before, event, store)
        if allowed is not None:
            _names(run, refusal, allowed, event, store)
        return refusal
    found = fields_of(after)
    came = [f"accepted: {found['status']}", *what_changed(before, found)]
    raise shortfall(f"{name} was not refused to {event} in {before['status']}", after, came, store=store)


def assert_stamps(run: object, *written: str, **times: int | None) -> None:
    """Assert which stamps a run has: just those `written`, or each of `times` as it is given (None: it has none).

    The four stamps are started_at, cancelled_at, failed_at and completed_at; as a time, any field of a run may be
    given: `assert_stamps(run, started_at=1_700_000_001, expires_at=None)`.

    >>> from runstate.testing import a_run
    >>> assert_stamps(a_run("completed"), "started_at", "completed_at")
    >>> assert_stamps(a_run("queued"), started_at=None, created_at=1_700_000_000)
    """
    __tracebackhide__ = True
    if not written and not times:
        raise TypeError("say which stamps: assert_stamps(run, 'started_at') or assert_stamps(run, started_at=...)")
    found = fields_of(run)
    unknown = [stamp for stamp in written if stamp not in _STAMPS] + [name for name in times if name not in found]
    if unknown:
        raise TypeError(f"a run has no stamp {', '.join(unknown)}; the stamps are {', '.join(_STAMPS)}")
    told = {name: _told(value) for name, value in found.items()}
    wrong = [f"{name} is {told[name]}, not {_told(time)}" for name, time in times.items() if found[name] != time]
    if written:
        wrong += [f"{stamp} is null" for stamp in written if found.get(stamp) is None]
        others = [stamp for stamp in _STAMPS if stamp not in (*written, *times)]
        wrong += [f"{stamp} is {told[stamp]}" for stamp in others if found.get(stamp) is not None]
    if wrong:
        raise shortfall(f"{_name(found)} has not the stamps it should have", run, wrong)


def assert_history(
    of: Store | TrackedRun | Sequence[Entry], expected: Iterable[str], *, run: StoredRun | str | None = None
) -> None:
    """Assert what happened to a run: the events asked since its birth, or the statuses it went through, in order.

    `of` is a run that `a_run` made, a store (with the `run`, unless it holds only one), or the entries themselves.

    >>> from runstate.testing import a_run
    >>> assert_history(a_run("completed"), ["start", "complete"])
    >>> assert_history(a_run("completed"), ["queued", "in_progress", "completed"])
    """
    __tracebackhide__ = True
    wanted = [str(word) for word in expected]
    entries = _entries(of, run)
    statuses = bool(wanted) and all(word in tuple(RunStatus) for word in wanted)
    if not statuses:
        wanted = [str(RunEvent(word)) for word in wanted]  # a word that is neither is a mistake of the test
    found = [str(entry.target) if statuses else str(entry.event) for entry in entries if statuses or entry.event]
    if found == wanted:
        return
    at = next((n for n, pair in enumerate(zip(found, wanted, strict=False)) if pair[0] != pair[1]), None)
    place = min(len(found), len(wanted)) if at is None else at
    lines = [f"run {entries[0].run_id if entries else '?'} has another history, from the {_nth(place + 1)} on"]
    lines += [f"  expected  {' -> '.join(wanted) or 'nothing'}", f"  found     {' -> '.join(found) or 'nothing'}"]
    lines += [f"  {'entries' if not n else '':<10}{told_entry(e, entries[0].at)}" for n, e in enumerate(entries)]
    raise AssertionError("\n".join(lines))


def assert_plausible(
    found: RunRecord | Mapping[str, object] | Iterable[RunRecord | Mapping[str, object]] | None = None,
    *,
    cassette: str | Path | None = None,
    law: Law = LAW,
) -> None:
    """Assert that a legal history could have left what was found: a record, or a trace of one run in order.

    With `cassette`, the path of a recording is judged: whatever `runstate check` reads, a VCR cassette or a HAR file
    among it.

    >>> from runstate.testing import a_run
    >>> assert_plausible(a_run("expired"))
    """
    __tracebackhide__ = True
    if (found is None) is (cassette is None):
        raise TypeError("give either a record or trace, or cassette=")
    if cassette is not None:
        with Path(cassette).open("rb") as file:
            report = inspect(snapshots(file), law)
        told = [str(complaint) for complaint in report.complaints if complaint.severity == "error"]
        if not report.snapshots and not told:
            told = ["no run in it"]
    else:
        single = isinstance(found, RunRecord | Mapping)
        trace = [cast("RunRecord", found)] if single else list(cast("Iterable[RunRecord]", found))
        try:
            told = [str(finding) for finding in judge_trace(trace, law).errors]
        except InvalidRun as error:
            told = [str(error)]
    if told:
        more = [f"... and {len(told) - _MOST} more"] if len(told) > _MOST else []
        lines = [f"no legal history could have left {_called(found, cassette)}", *told[:_MOST], *more]
        raise AssertionError("\n  ".join(lines))


# --- what they share --------------------------------------------------------------------------------------------------


def _asked(
    run: RunT, event: RunEvent, store: Store | None, by: Callable[[], object] | None, given: Mapping[str, Any]
) -> RunT:
    """Ask, and return the run as it stands then: a stored one is read anew."""
    notice(run, event)
    if by is not None:
        by()
    elif store is not None and isinstance(run, StoredRun):
        return cast("RunT", ask_stored(store, run, event, **given))
    else:
        ask(run, event, **given)
    return _now(run, store)


def _now(run: RunT, store: Store | None) -> RunT:
    return cast("RunT", store.get(run.id)) if store is not None and isinstance(run, StoredRun) else run


def _unchanged(run: object, before: Mapping[str, Any], event: RunEvent, store: Store | None) -> None:
    __tracebackhide__ = True
    after = _now(run, store)
    changes = what_changed(before, fields_of(after))
    if changes:
        raise shortfall(f"{_name(before)} was refused to {event}, and yet it changed", after, changes, store=store)


def _names(
    run: object, refusal: Exception, allowed: Iterable[RunEvent | str], event: RunEvent, store: Store | None
) -> None:
    __tracebackhide__ = True
    wanted = {RunEvent(one) for one in allowed}
    told = getattr(refusal, "allowed", None)
    named = set(LAW.allowed_events(fields_of(run)["status"])) if told is None else set(told)
    if named != wanted:
        facts = [f"allowed {_listed(named)}, not {_listed(wanted)}"]
        raise shortfall(f"{_name(fields_of(run))} was refused to {event}, but names others", run, facts, store=store)


def _events(source: str, event: RunEvent, target: RunStatus, law: Law) -> tuple[RunEvent, ...]:
    """Return what was asked in one request: a cancel passes cancelling and confirms where nobody is at work."""
    if law.find(RunStatus(source), event) is None:
        return ()
    onward = law.shortest_path(law.target_of(event), target)
    return () if onward is None else (event, *onward)


def _kinds(refused: Refusals) -> tuple[type[Exception], ...]:
    """Return what counts as a refusal: what was said, and what a machine of `transitions` says if anybody has one."""
    kinds = refused if isinstance(refused, tuple) else (refused,)
    module = sys.modules.get("transitions")
    return kinds if module is None else (*kinds, module.MachineError)


def _entries(of: Store | TrackedRun | Sequence[Entry], run: StoredRun | str | None) -> Sequence[Entry]:
    if isinstance(of, TrackedRun):
        return entries_of(of)
    if isinstance(of, Store):
        if run is None:
            page = of.list(limit=2)
            if len(page.data) != 1:
                raise TypeError(f"the store holds {'no run' if not page.data else 'several runs'}: say which, run=...")
            run = page.data[0]
        return list(of.history(run if isinstance(run, str) else run.id))
    if isinstance(cast("object", of), Sequence):
        return of
    raise TypeError(f"a {type(of).__name__} keeps no history: make the run with a_run, or give the store it is in")


def _name(fields: Mapping[str, Any]) -> str:
    return f"run {fields['id']}" if fields.get("id") else "the run"


def _called(found: object, cassette: str | Path | None) -> str:
    if cassette is not None:
        return str(cassette)
    return "this record" if isinstance(found, RunRecord | Mapping) else "this trace"


def _listed(events: Iterable[RunEvent]) -> str:
    return ", ".join(event for event in RunEvent if event in set(events)) or "nothing"


def _nth(place: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(place, f"{place}th")


def _told(value: object) -> str:
    return "null" if value is None else str(value)
