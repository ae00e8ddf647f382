"""Assertions about runs. Their messages have what was found instead, what was allowed, and the history."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeGuard, TypeVar, cast, get_args

from runstate.lifecycle import RUN_LIFECYCLE, Lifecycle, RunEvent, RunStatus, Stamp
from runstate.lifecycle.errors import IllegalTransition
from runstate.run.errors import InvalidRun
from runstate.run.record import RunRecord
from runstate.run.validators import with_article
from runstate.store import Entry, Store, StoredRun
from runstate.testing._diff import diff_fields, move_violations, possible_paths, read_fields
from runstate.testing._failure import assertion_error, format_entry, format_events, format_name, format_value, ordinal
from runstate.testing._hook import report_event
from runstate.testing._send import (
    RefusalTypes,
    UsageError,
    other_refusal,
    refusal_types,
    require_sync,
    send_event,
    send_event_to_store,
    was_expired_by_request,
)
from runstate.testing.factories import TrackedRun
from runstate.traces import check_snapshots, judge_trace, read_snapshots

__all__ = ["assert_history", "assert_moves", "assert_plausible", "assert_refused", "assert_stamps"]

RunT = TypeVar("RunT")
_STAMPS: Final[tuple[str, ...]] = get_args(Stamp)
_MAX_FINDINGS: Final = 20  # findings in a message


def assert_moves(
    run: RunT,
    event: RunEvent | str,
    to: RunStatus | str | None = None,
    *,
    store: Store | None = None,
    by: Callable[[], object] | None = None,
    refused: RefusalTypes = IllegalTransition,
    lifecycle: Lifecycle = RUN_LIFECYCLE,
    **arguments: Any,
) -> RunT:
    """Send `event` to a run and assert that it moves according to the table. Return the run afterwards.

    The run must get to the status `to`, by default the target of the event. The move must write its own stamp and no
    other, set and clear the fields that depend on the status, and keep everything else. The event is sent by the method
    of that name, to a stored run by its `store`, or in another way by `by`. If runs are not changed in place, the
    result of the method is the run afterwards, if it is of the same class. `arguments` are those of the event; required
    ones that are missing are samples; `at` is also the time that must be stamped. `refused` are the exceptions by which
    a class of your own refuses an event.

    Raises `AssertionError` if the run does not move so, `TypeError` if the event cannot be sent in this way, and
    `ValueError` for an unknown event or status.

    >>> from runstate.testing import a_run
    >>> assert_moves(a_run("in_progress"), "complete", to="completed").completed_at is not None
    True
    """
    __tracebackhide__ = True
    event = RunEvent(event)
    target = _expected_target(event, to, lifecycle)
    before, source = _before(run, event, store)
    name = format_name(before)
    refusals = refusal_types(refused)
    try:
        after = _after(run, event, source, store, by, arguments)
    except UsageError:
        raise
    except refusals as refusal:
        problem = f"{name} did not {event}: it was refused in {source}"
        # The refusal of this library says no more than the rest of the message.
        message = [] if isinstance(refusal, IllegalTransition) else [str(refusal) or type(refusal).__name__]
        raise assertion_error(
            problem, _current(run, store), message, refused_in=source, event=event, store=store, lifecycle=lifecycle
        ) from None
    found = read_fields(after)
    paths = possible_paths(lifecycle, source, event)
    if to is None:  # a store may cancel a waiting run at once
        target = next((path for path in _targets(paths, lifecycle) if path == found["status"]), target)
    if found["status"] != target:
        problem = f"{name} did not come to {target} by {event}"
        found_status = f"{source} -> {found['status']}" if found["status"] != source else "it did not move"
        raise assertion_error(problem, after, [found_status], refused_in=source, store=store, lifecycle=lifecycle)
    path = next((path for path in paths if lifecycle.target_of(path[-1]) is target), None)
    if path is None:
        problem = f"{name} came from {source} to {target} by {event}, for which the table has no row"
        raise assertion_error(
            problem, after, diff_fields(before, found), refused_in=source, store=store, lifecycle=lifecycle
        )
    wrong = move_violations(before, path, found, at=arguments.get("at"), lifecycle=lifecycle)
    if wrong:
        problem = f"{name} came to {target}, but not as {event} does"
        raise assertion_error(problem, after, wrong, refused_in=source, store=store, lifecycle=lifecycle)
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
    **arguments: Any,
) -> Exception:
    """Send `event` to a run and assert that it is refused and that nothing changed; return the refusal.

    `allowed` are the events that the refusal must name as allowed, in any order; if it names none, they must be those
    of the table. `refused` are the exceptions by which a class of your own refuses an event. A request to a stored run
    after its deadline expires the run before it is refused; that change is accepted.

    Raises `AssertionError` if the event is not refused so, `TypeError` if it cannot be sent in this way, and
    `ValueError` for an unknown event.

    >>> from runstate.testing import a_run
    >>> refusal = assert_refused(a_run("completed"), "start", allowed=[])
    >>> print(str(refusal).partition("; ")[2])
    completed is terminal, nothing leaves it
    """
    __tracebackhide__ = True
    event = RunEvent(event)
    possible = None if allowed is None else {RunEvent(one) for one in _list_of_words(allowed, "allowed")}
    before, source = _before(run, event, store)
    name = format_name(before)
    refusals = refusal_types(refused)
    try:
        after = _after(run, event, source, store, by, arguments)
    except UsageError:
        raise
    except refusals as refusal:
        after_refusal = _current(run, store)
        changes = () if was_expired_by_request(refusal, source) else diff_fields(before, read_fields(after_refusal))
        if changes:
            problem = f"{name} was refused to {event}, and yet it changed"
            raise assertion_error(
                problem, after_refusal, changes, refused_in=source, store=store, lifecycle=lifecycle
            ) from None
        other = other_refusal(refusal, before, event)
        if other:
            raise assertion_error(
                f"{name} was not what was refused to {event}", after_refusal, [other], store=store, lifecycle=lifecycle
            ) from None
        difference = None if possible is None else _allowed_difference(refusal, possible, source, lifecycle)
        if difference is not None:
            problem = f"{name} was refused to {event}, but not as it should be"
            raise assertion_error(problem, after_refusal, [difference], store=store, lifecycle=lifecycle) from None
        return refusal
    except Exception as error:
        if refused is IllegalTransition and not isinstance(run, RunRecord):
            error.add_note(f"if that is how {with_article(type(run).__name__)} refuses: refused={type(error).__name__}")
        raise
    found = read_fields(after)
    found_changes = [f"accepted: {found['status']}", *diff_fields(before, found)]
    problem = f"{name} was not refused to {event} in {source}"
    raise assertion_error(problem, after, found_changes, refused_in=source, store=store, lifecycle=lifecycle)


def assert_stamps(run: object, *written: str, **times: int | None) -> None:
    """Assert which stamps a run has: exactly those `written`, or each of `times` with its value (None: not set).

    The four stamps are started_at, cancelled_at, failed_at and completed_at. As a time, any field of a run can be
    named: `assert_stamps(run, started_at=1_700_000_001, expires_at=None)`. Times are in Unix seconds.

    Raises `AssertionError` if the run has other stamps, and `TypeError` for a name that is not a stamp.

    >>> from runstate.testing import a_run
    >>> assert_stamps(a_run("completed"), "started_at", "completed_at")
    >>> assert_stamps(a_run("queued"), started_at=None, created_at=1_700_000_000)
    """
    __tracebackhide__ = True
    if not written and not times:
        raise TypeError("say which stamps: assert_stamps(run, 'started_at') or assert_stamps(run, started_at=...)")
    found = read_fields(run)
    known = {
        **dict.fromkeys((*_STAMPS, "created_at", "expires_at")),
        **found,
    }  # a stamp may be missing until it is written
    unknown = [stamp for stamp in written if stamp not in _STAMPS] + [name for name in times if name not in known]
    if unknown:
        raise TypeError(f"a run has no stamp {', '.join(unknown)}; the stamps are {', '.join(_STAMPS)}")
    wrong = [
        f"{name} is {format_value(known[name])}, not {format_value(at)}"
        for name, at in times.items()
        if known[name] != at
    ]
    if written:
        wrong += [f"{stamp} is null" for stamp in written if known[stamp] is None]
        others = [stamp for stamp in _STAMPS if stamp not in (*written, *times)]
        wrong += [
            f"{stamp} is {format_value(known[stamp])}, and was not to be written"
            for stamp in others
            if known[stamp] is not None
        ]
    if wrong:
        raise assertion_error(f"{format_name(found)} has not the stamps it should have", run, wrong)


def assert_history(
    of: Store | TrackedRun | Iterable[Entry], expected: Iterable[str], *, run: StoredRun | str | None = None
) -> None:
    """Assert the history of a run: its events since its creation, or its statuses, in order.

    `of` is a run that `a_run` made, a store (with the `run`, unless it has only one), or the entries themselves.

    Raises `AssertionError` for another history, and `TypeError` if `of` has no history.

    >>> from runstate.testing import a_run
    >>> assert_history(a_run("completed"), ["start", "complete"])
    >>> assert_history(a_run("completed"), ["queued", "in_progress", "completed"])
    """
    __tracebackhide__ = True
    wanted = _list_of_words(expected, "expected")
    entries = _entries(of, run)
    statuses = bool(wanted) and all(word in tuple(RunStatus) for word in wanted)
    if not statuses:
        wanted = [str(RunEvent(word)) for word in wanted]  # any other word is a mistake of the test
    found = [str(entry.target) if statuses else str(entry.event) for entry in entries if statuses or entry.event]
    if found == wanted:
        return
    at = next((n for n, pair in enumerate(zip(found, wanted, strict=False)) if pair[0] != pair[1]), None)
    place = min(len(found), len(wanted)) if at is None else at
    lines = [f"run {entries[0].run_id if entries else '?'} has another history, from the {ordinal(place + 1)} on"]
    lines += [f"  expected  {' -> '.join(wanted) or 'nothing'}", f"  found     {' -> '.join(found) or 'nothing'}"]
    lines += [f"  {'entries' if not n else '':<10}{format_entry(e, entries[0].at_us)}" for n, e in enumerate(entries)]
    raise AssertionError("\n".join(lines))


def assert_plausible(
    found: RunRecord | Mapping[str, object] | Iterable[RunRecord | Mapping[str, object]] | None = None,
    *,
    cassette: str | Path | None = None,
    lifecycle: Lifecycle = RUN_LIFECYCLE,
) -> None:
    """Assert that a legal history can have left what was found: a record, or a trace of one run in order.

    `cassette` is the path of a recording to check instead, in any format that `runstate check` reads, such as a VCR
    cassette or a HAR file. A trace or recording without any run fails.

    Raises `AssertionError` with the findings, and `TypeError` for values that are neither a record nor a trace.

    >>> from runstate.testing import a_run
    >>> assert_plausible(a_run("expired"))
    """
    __tracebackhide__ = True
    if (found is None) is (cassette is None):
        raise TypeError("give either a record or trace, or cassette=")
    if cassette is not None:
        with Path(cassette).open("rb") as file:
            report = check_snapshots(read_snapshots(file), lifecycle)
        messages = [str(finding) for finding in report.findings if finding.severity == "error"]
        count = report.snapshots
    else:
        trace = _trace(found)
        count = len(trace)
        try:
            messages = [str(finding) for finding in judge_trace(trace, lifecycle).errors]
        except InvalidRun as error:
            messages = [str(error)]
    if not count and not messages:
        messages = ["no run in it"]
    if messages:
        more = [f"... and {len(messages) - _MAX_FINDINGS} more"] if len(messages) > _MAX_FINDINGS else []
        what = "no run was found in" if not count else "no legal history could have left"
        lines = [f"{what} {_describe(found, cassette)}", *messages[:_MAX_FINDINGS], *more]
        raise AssertionError("\n  ".join(lines))


# --- shared helpers ---------------------------------------------------------------------------------------------------


def _list_of_words(words: Iterable[str], name: str) -> list[str]:
    """Return words as a list. Raises `TypeError` for a single string, which would be read as letters."""
    if isinstance(words, str):
        raise TypeError(f"{name}: expected a list, such as [{words!r}]")
    return [str(word) for word in words]


def _before(run: object, event: RunEvent, store: Store | None) -> tuple[dict[str, Any], RunStatus]:
    """Return the fields and the status of a run before the event. A stored run is read again.

    Raises `TypeError` if the run and the store do not belong together, `ValueError` for an unknown status.
    """
    if store is None and isinstance(run, StoredRun):
        raise TypeError(f"StoredRun has no method {event}(); a stored run is moved and read by its store: give store=")
    if store is not None and not isinstance(run, StoredRun):
        raise TypeError(f"{with_article(type(run).__name__)} is in no store: leave store= out")
    fields = read_fields(_current(run, store))
    return fields, RunStatus(fields["status"])


def _after(
    run: RunT,
    event: RunEvent,
    source: RunStatus,
    store: Store | None,
    by: Callable[[], object] | None,
    arguments: Mapping[str, Any],
) -> RunT:
    """Send the event and return the run afterwards. A stored run is read again."""
    if by is not None and arguments.keys() - {"at"}:
        raise UsageError(f"by= takes no arguments, and got {', '.join(arguments.keys() - {'at'})}")
    try:
        if by is None and store is not None and isinstance(run, StoredRun):
            return cast("RunT", send_event_to_store(store, run, event, **arguments))
        answer = send_event(run, event, **arguments) if by is None else require_sync(by(), "by=")
    except Exception as error:
        if not isinstance(error, UsageError):
            report_event(run, source, event)
        raise
    report_event(run, source, event)
    if store is None and _is_same_class(answer, run):
        return answer
    return _current(run, store)


def _is_same_class(answer: object, run: RunT) -> TypeGuard[RunT]:
    """Return whether a method's result is a run of the same class."""
    return type(answer) is type(run) and ("status" in answer if isinstance(answer, Mapping) else True)


def _current(run: RunT, store: Store | None) -> RunT:
    return cast("RunT", store.get(run.id)) if store is not None and isinstance(run, StoredRun) else run


def _targets(paths: Iterable[Sequence[RunEvent]], lifecycle: Lifecycle) -> tuple[RunStatus, ...]:
    return tuple(lifecycle.target_of(path[-1]) for path in paths)


def _expected_target(event: RunEvent, to: RunStatus | str | None, lifecycle: Lifecycle) -> RunStatus:
    """Return the expected target. Raises `ValueError` if the event never leads to `to`."""
    target = lifecycle.target_of(event)
    expected = target if to is None else RunStatus(to)
    if expected is not target and not any(
        expected in _targets(possible_paths(lifecycle, status, event), lifecycle) for status in RunStatus
    ):
        raise ValueError(f"{event} leads to {target}, and never to {expected}")
    return expected


def _allowed_difference(
    refusal: Exception, possible: set[RunEvent], source: RunStatus, lifecycle: Lifecycle
) -> str | None:
    """Return in words how the events that a refusal names differ from the expected ones; None if they do not."""
    allowed: object = getattr(refusal, "allowed", None)
    if not isinstance(allowed, Iterable):
        lawful = set(lifecycle.allowed_events(source))
        return None if lawful == possible else f"it names nothing, and the table allows {format_events(lawful)} there"
    named = {str(one) for one in cast("Iterable[object]", allowed)}
    return None if named == possible else f"it names {format_events(named)}, not {format_events(possible)}"


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
    """Return records as a list. Raises `TypeError` for values that are not records."""
    if isinstance(found, RunRecord | Mapping):
        return [cast("RunRecord", found)]
    if isinstance(found, str | bytes | Path):
        raise TypeError("a record or a trace of them is judged; of a file give its path as cassette=")
    if not isinstance(found, Iterable):
        raise TypeError(f"{with_article(type(found).__name__)} is no record; give a Run, or the object as JSON has it")
    return list(cast("Iterable[RunRecord]", found))


def _describe(found: object, cassette: str | Path | None) -> str:
    if cassette is not None:
        return str(cassette)
    return "this record" if isinstance(found, RunRecord | Mapping) else "this trace"
