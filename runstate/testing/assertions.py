"""Assertions about runs that read like speech, and say what was found instead when they do not hold."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeGuard, TypeVar, cast, get_args

from runstate.lifecycle import RUN_LIFECYCLE, Lifecycle, RunEvent, RunStatus, Stamp
from runstate.lifecycle.errors import IllegalTransition, TerminalStatus
from runstate.run.errors import InvalidRun
from runstate.run.record import RunRecord
from runstate.run.validators import with_article
from runstate.store import Entry, Store, StoredRun
from runstate.testing._diff import fields_of, outcomes, unlike_a_move, what_changed
from runstate.testing._drive import Misuse, RefusalTypes, answered, ask, ask_stored
from runstate.testing._failure import shortfall, told_entry
from runstate.testing._hook import report_event
from runstate.testing.factories import TrackedRun
from runstate.traces import check_snapshots, judge_trace, read_snapshots

__all__ = ["assert_history", "assert_moves", "assert_plausible", "assert_refused", "assert_stamps"]

RunT = TypeVar("RunT")
_STAMPS: Final[tuple[str, ...]] = get_args(Stamp)
_MOST: Final = 20  # findings told of a recording


def assert_moves(
    run: RunT,
    event: RunEvent | str,
    to: RunStatus | str | None = None,
    *,
    store: Store | None = None,
    by: Callable[[], object] | None = None,
    refused: RefusalTypes = IllegalTransition,
    lifecycle: Lifecycle = RUN_LIFECYCLE,
    **given: Any,
) -> RunT:
    """Ask `event` of a run and assert that it moves as the law says; return the run as it stands then.

    It must come `to` where is said, else where the law says; write its own stamp and no other; gain and lose the fields
    that come and go; and keep everything else. A run of a class of your own is asked by its method of that name, a
    stored one by its `store`; `by` asks in another way. Where runs are not changed in place, what is returned is the
    run afterwards, if it is of the same class. `given` are the event's arguments; what it needs and nobody gave has
    samples; `at` is also the time that must be stamped. `refused` is what a class of your own raises to say no.

    >>> from runstate.testing import a_run
    >>> assert_moves(a_run("in_progress"), "complete", to="completed").completed_at is not None
    True
    """
    __tracebackhide__ = True
    event = RunEvent(event)
    wanted = _wanted(event, to, lifecycle)
    before, source = _standing(run, event, store)
    name = _name(before)
    refusals = _kinds(refused)
    try:
        after = _asked(run, event, source, store, by, given)
    except Misuse:
        raise
    except refusals as refusal:
        problem = f"{name} did not {event}: it was refused in {source}"
        # The law's own refusal says no more than what is told of every run.
        said = [] if isinstance(refusal, IllegalTransition) else [str(refusal) or type(refusal).__name__]
        raise shortfall(
            problem, _now(run, store), said, source=source, asked=event, store=store, lifecycle=lifecycle
        ) from None
    found = fields_of(after)
    ways = outcomes(lifecycle, source, event)
    if to is None:  # a store cancels at once what waits, and may
        wanted = next((way for way in _ends(ways, lifecycle) if way == found["status"]), wanted)
    if found["status"] != wanted:
        problem = f"{name} did not come to {wanted} by {event}"
        came = f"{source} -> {found['status']}" if found["status"] != source else "it did not move"
        raise shortfall(problem, after, [came], source=source, store=store, lifecycle=lifecycle)
    way = next((way for way in ways if lifecycle.target_of(way[-1]) is wanted), None)
    if way is None:
        problem = f"{name} came from {source} to {wanted} by {event}, which the law has no row for"
        raise shortfall(problem, after, what_changed(before, found), source=source, store=store, lifecycle=lifecycle)
    wrong = unlike_a_move(before, way, found, at=given.get("at"), lifecycle=lifecycle)
    if wrong:
        problem = f"{name} came to {wanted}, but not as {event} does"
        raise shortfall(problem, after, wrong, source=source, store=store, lifecycle=lifecycle)
    return after


def assert_refused(
    run: object,
    event: RunEvent | str,
    allowed: Iterable[RunEvent | str] | None = None,
    *,
    store: Store | None = None,
    by: Callable[[], object] | None = None,
    refused: RefusalTypes = IllegalTransition,
    lifecycle: Lifecycle = RUN_LIFECYCLE,
    **given: Any,
) -> Exception:
    """Ask `event` of a run and assert that it is refused and nothing changed; return the refusal.

    `allowed` are the events that the refusal must name as possible, in any order; where it names none, they must be
    those of the law. `refused` is what a class of your own raises to say no. A stored run that is asked after its
    deadline expires by that very request, which is no change against the rule.

    >>> from runstate.testing import a_run
    >>> refusal = assert_refused(a_run("completed"), "start", allowed=[])
    >>> print(str(refusal).partition("; ")[2])
    completed is terminal, nothing leaves it
    """
    __tracebackhide__ = True
    event = RunEvent(event)
    possible = None if allowed is None else {RunEvent(one) for one in _words(allowed, "allowed")}
    before, source = _standing(run, event, store)
    name = _name(before)
    refusals = _kinds(refused)
    try:
        after = _asked(run, event, source, store, by, given)
    except Misuse:
        raise
    except refusals as refusal:
        now = _now(run, store)
        changes = () if _expired_late(refusal, source) else what_changed(before, fields_of(now))
        if changes:
            problem = f"{name} was refused to {event}, and yet it changed"
            raise shortfall(problem, now, changes, source=source, store=store, lifecycle=lifecycle) from None
        other = _refused_another(refusal, before, event)
        if other:
            raise shortfall(
                f"{name} was not what was refused to {event}", now, [other], store=store, lifecycle=lifecycle
            ) from None
        wrong = None if possible is None else _misnamed(refusal, possible, source, lifecycle)
        if wrong is not None:
            problem = f"{name} was refused to {event}, but not as it should be"
            raise shortfall(problem, now, [wrong], store=store, lifecycle=lifecycle) from None
        return refusal
    except Exception as error:
        if refused is IllegalTransition and not isinstance(run, RunRecord):
            error.add_note(f"if that is how {with_article(type(run).__name__)} says no: refused={type(error).__name__}")
        raise
    found = fields_of(after)
    came = [f"accepted: {found['status']}", *what_changed(before, found)]
    problem = f"{name} was not refused to {event} in {source}"
    raise shortfall(problem, after, came, source=source, store=store, lifecycle=lifecycle)


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
    known = {**dict.fromkeys((*_STAMPS, "created_at", "expires_at")), **found}  # a stamp may be there only once written
    unknown = [stamp for stamp in written if stamp not in _STAMPS] + [name for name in times if name not in known]
    if unknown:
        raise TypeError(f"a run has no stamp {', '.join(unknown)}; the stamps are {', '.join(_STAMPS)}")
    wrong = [f"{name} is {_told(known[name])}, not {_told(at)}" for name, at in times.items() if known[name] != at]
    if written:
        wrong += [f"{stamp} is null" for stamp in written if known[stamp] is None]
        others = [stamp for stamp in _STAMPS if stamp not in (*written, *times)]
        wrong += [
            f"{stamp} is {_told(known[stamp])}, and was not to be written"
            for stamp in others
            if known[stamp] is not None
        ]
    if wrong:
        raise shortfall(f"{_name(found)} has not the stamps it should have", run, wrong)


def assert_history(
    of: Store | TrackedRun | Iterable[Entry], expected: Iterable[str], *, run: StoredRun | str | None = None
) -> None:
    """Assert what happened to a run: the events asked since its birth, or the statuses it went through, in order.

    `of` is a run that `a_run` made, a store (with the `run`, unless it holds only one), or the entries themselves.
    Raises `TypeError` for what keeps no history.

    >>> from runstate.testing import a_run
    >>> assert_history(a_run("completed"), ["start", "complete"])
    >>> assert_history(a_run("completed"), ["queued", "in_progress", "completed"])
    """
    __tracebackhide__ = True
    wanted = _words(expected, "expected")
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
    lines += [f"  {'entries' if not n else '':<10}{told_entry(e, entries[0].at_us)}" for n, e in enumerate(entries)]
    raise AssertionError("\n".join(lines))


def assert_plausible(
    found: RunRecord | Mapping[str, object] | Iterable[RunRecord | Mapping[str, object]] | None = None,
    *,
    cassette: str | Path | None = None,
    lifecycle: Lifecycle = RUN_LIFECYCLE,
) -> None:
    """Assert that a legal history could have left what was found: a record, or a trace of one run in order.

    With `cassette`, the path of a recording is judged: whatever `runstate check` reads, a VCR cassette or a HAR file
    among it. Nothing at all is not plausible: a test that found no run has tested none.

    >>> from runstate.testing import a_run
    >>> assert_plausible(a_run("expired"))
    """
    __tracebackhide__ = True
    if (found is None) is (cassette is None):
        raise TypeError("give either a record or trace, or cassette=")
    if cassette is not None:
        with Path(cassette).open("rb") as file:
            report = check_snapshots(read_snapshots(file), lifecycle)
        told = [str(finding) for finding in report.findings if finding.severity == "error"]
        count = report.snapshots
    else:
        trace = _trace(found)
        count = len(trace)
        try:
            told = [str(finding) for finding in judge_trace(trace, lifecycle).errors]
        except InvalidRun as error:
            told = [str(error)]
    if not count and not told:
        told = ["no run in it"]
    if told:
        more = [f"... and {len(told) - _MOST} more"] if len(told) > _MOST else []
        what = "no run was found in" if not count else "no legal history could have left"
        lines = [f"{what} {_called(found, cassette)}", *told[:_MOST], *more]
        raise AssertionError("\n  ".join(lines))


# --- what they share --------------------------------------------------------------------------------------------------


def _refused_another(refusal: Exception, before: Mapping[str, Any], event: RunEvent) -> str:
    """Return what was refused instead, where a refusal of this library names another event or another run."""
    if not isinstance(refusal, IllegalTransition):
        return ""
    same = refusal.event is event and before.get("id", refusal.run_id) == refusal.run_id
    return "" if same else str(refusal)


def _words(given: Iterable[str], name: str) -> list[str]:
    """Return words that were given as a list. Raises `TypeError` for one word alone, which would be read by letters."""
    if isinstance(given, str):
        raise TypeError(f"{name}: expected a list, such as [{given!r}]")
    return [str(word) for word in given]


def _standing(run: object, event: RunEvent, store: Store | None) -> tuple[dict[str, Any], RunStatus]:
    """Return a run before it is asked, and where it stands. A stored one may have moved on since it was read.

    Raises `TypeError` where the run and its store do not fit, `ValueError` for a status that is none of the nine.
    """
    if store is None and isinstance(run, StoredRun):
        raise TypeError(f"StoredRun has no method {event}(); a stored run is moved and read by its store: give store=")
    if store is not None and not isinstance(run, StoredRun):
        raise TypeError(f"{with_article(type(run).__name__)} is in no store: leave store= out")
    fields = fields_of(_now(run, store))
    return fields, RunStatus(fields["status"])


def _asked(
    run: RunT,
    event: RunEvent,
    source: RunStatus,
    store: Store | None,
    by: Callable[[], object] | None,
    given: Mapping[str, Any],
) -> RunT:
    """Ask, and return the run as it stands then: a stored one is read anew."""
    if by is not None and given.keys() - {"at"}:
        raise Misuse(f"by= asks by itself, and is given no {', '.join(given.keys() - {'at'})}")
    try:
        if by is None and store is not None and isinstance(run, StoredRun):
            return cast("RunT", ask_stored(store, run, event, **given))
        answer = ask(run, event, **given) if by is None else answered(by(), "what by= asks")
    except Exception as error:
        if not isinstance(error, Misuse):
            report_event(run, source, event)
        raise
    report_event(run, source, event)
    if store is None and _is_like(answer, run):
        return answer
    return _now(run, store)


def _is_like(answer: object, run: RunT) -> TypeGuard[RunT]:
    """Tell whether an answer is a run of the same class."""
    return type(answer) is type(run) and ("status" in answer if isinstance(answer, Mapping) else True)


def _now(run: RunT, store: Store | None) -> RunT:
    return cast("RunT", store.get(run.id)) if store is not None and isinstance(run, StoredRun) else run


def _ends(ways: Iterable[Sequence[RunEvent]], lifecycle: Lifecycle) -> tuple[RunStatus, ...]:
    return tuple(lifecycle.target_of(way[-1]) for way in ways)


def _wanted(event: RunEvent, to: RunStatus | str | None, lifecycle: Lifecycle) -> RunStatus:
    """Return where an event should lead. Raises `ValueError` if `to` is said, and it leads there from nowhere."""
    target = lifecycle.target_of(event)
    wanted = target if to is None else RunStatus(to)
    if wanted is not target and not any(
        wanted in _ends(outcomes(lifecycle, status, event), lifecycle) for status in RunStatus
    ):
        raise ValueError(f"{event} leads to {target}, and never to {wanted}")
    return wanted


def _misnamed(refusal: Exception, possible: set[RunEvent], source: RunStatus, lifecycle: Lifecycle) -> str | None:
    """Return what is wrong with the events that a refusal names as possible; None if nothing is."""
    told: object = getattr(refusal, "allowed", None)
    if not isinstance(told, Iterable):
        lawful = set(lifecycle.allowed_events(source))
        return None if lawful == possible else f"it names nothing, and the law allows {_listed(lawful)} there"
    named = {str(one) for one in cast("Iterable[object]", told)}
    return None if named == possible else f"it names {_listed(named)}, not {_listed(possible)}"


def _expired_late(refusal: Exception, source: RunStatus) -> bool:
    """Tell whether a store expired the run by the request that it then refused, as it does after the deadline."""
    run = refusal.run if isinstance(refusal, TerminalStatus) and refusal.event in RUN_LIFECYCLE.until_deadline else None
    return run is not None and (run.event, run.source) == (RunEvent.EXPIRE, source)


def _kinds(refused: RefusalTypes) -> tuple[type[Exception], ...]:
    """Return what counts as a refusal: what was said, and what a machine of `transitions` says if anybody has one."""
    kinds = refused if isinstance(refused, tuple) else (refused,)
    module = sys.modules.get("transitions")
    return kinds if module is None else (*kinds, module.MachineError)


def _entries(of: Store | TrackedRun | Iterable[Entry], run: StoredRun | str | None) -> Sequence[Entry]:
    if isinstance(of, Store):
        if run is None:
            page = of.list(limit=2)
            if len(page.data) != 1:
                raise TypeError(f"the store holds {'no run' if not page.data else 'several runs'}: say which, run=...")
            run = page.data[0]
        return of.history(run if isinstance(run, str) else run.id)
    if run is not None:
        raise TypeError("run= says which run of a store, and no store was given")
    entries = of.entries if isinstance(of, TrackedRun) else of
    if isinstance(cast("object", entries), Iterable) and not isinstance(entries, str | Mapping):
        found = tuple(entries)
        if found and all(isinstance(cast("object", entry), Entry) for entry in found):
            return found
    hint = "" if isinstance(of, StoredRun) else "make the run with a_run, or "
    raise TypeError(f"this {type(of).__name__} keeps no history: {hint}give the store it is in")


def _trace(found: object) -> list[RunRecord | Mapping[str, object]]:
    """Return what was found as a trace. Raises `TypeError` for what is neither a record nor several."""
    if isinstance(found, RunRecord | Mapping):
        return [cast("RunRecord", found)]
    if isinstance(found, str | bytes | Path):
        raise TypeError("a record or a trace of them is judged; of a file give its path as cassette=")
    if not isinstance(found, Iterable):
        raise TypeError(f"{with_article(type(found).__name__)} is no record; give a Run, or the object as JSON has it")
    return list(cast("Iterable[RunRecord]", found))


def _name(fields: Mapping[str, Any]) -> str:
    return f"run {fields['id']}" if fields.get("id") else "the run"


def _called(found: object, cassette: str | Path | None) -> str:
    if cassette is not None:
        return str(cassette)
    return "this record" if isinstance(found, RunRecord | Mapping) else "this trace"


def _listed(events: Collection[str]) -> str:
    return ", ".join(sorted(events, key=[*RunEvent, *events].index)) or "nothing"


def _nth(place: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(place, f"{place}th")


def _told(value: object) -> str:
    return "null" if value is None else str(value)
