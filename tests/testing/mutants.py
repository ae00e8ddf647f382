"""Implementations of runs with one mistake each, and who catches them: the kit's assertions, its conformance kit.

    python -m tests.testing.mutants

`AgentRun` is what a user might write: nine methods over a literal table. Each mutant is that class with one thing
changed in its table, and is put to the kit as a user would: `assert_moves` over `moves()`, `assert_refused` over
`refusals()`, `assert_moves` along `walks()`, and `check_conformance`. After these come mutants of `Run` itself, made by
changing what `runstate.run._run` has looked up in the law, or what a move writes.

A mutant that is legal after all, or that the conformance kit lets pass on purpose, says why, and is not counted as
caught.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Final, NamedTuple

import attrs
import pytest

from runstate import IllegalTransition, ManualClock, Run, ToolOutputsMismatch, use_clock
from runstate.run import _run as run
from runstate.testing import a_run, assert_moves, assert_refused, assert_stamps, moves, refusals, walks
from runstate.testing.conformance import InMemoryAdapter, ObjectAdapter, check_conformance
from tests.support.lifecycle import HELD_IN, NOW, PAIRS, STAMPS, STATUSES, TABLE

# --- what a user might write ------------------------------------------------------------------------------------------


class Row(NamedTuple):
    event: str
    source: str
    target: str
    stamps: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    clears: tuple[str, ...] = ()
    does: str = "moves"


_USED: Final = ("usage",)
_CUT: Final = ("usage", "incomplete_details")
_FAILS: Final = ("usage", "last_error")
_ENDS: Final = ("expires_at",)
_WAITED: Final = ("expires_at", "required_action")

# fmt: off
ROWS: Final = (
    Row("start",               "queued",          "in_progress",     ("started_at",)),
    Row("require_action",      "in_progress",     "requires_action", (),                ("required_action",)),
    Row("submit_tool_outputs", "requires_action", "queued",          (),                (), ("required_action",)),
    Row("request_cancel",      "in_progress",     "cancelling"),
    Row("request_cancel",      "queued",          "cancelling"),
    Row("request_cancel",      "requires_action", "cancelling",      (),                (), ("required_action",)),
    Row("confirm_cancel",      "cancelling",      "cancelled",       ("cancelled_at",), _USED, _ENDS),
    Row("complete",            "in_progress",     "completed",       ("completed_at",), _USED, _ENDS),
    Row("complete",            "cancelling",      "completed",       ("completed_at",), _USED, _ENDS),
    Row("mark_incomplete",     "in_progress",     "incomplete",      ("completed_at",), _CUT, _ENDS),
    Row("mark_incomplete",     "cancelling",      "incomplete",      ("completed_at",), _CUT, _ENDS),
    Row("fail",                "in_progress",     "failed",          ("failed_at",),    _FAILS, _ENDS),
    Row("fail",                "queued",          "failed",          ("failed_at",),    _FAILS, _ENDS),
    Row("fail",                "requires_action", "failed",          ("failed_at",),    _FAILS, _WAITED),
    Row("fail",                "cancelling",      "failed",          ("failed_at",),    _FAILS, _ENDS),
    Row("expire",              "queued",          "expired",         ("completed_at",), _USED, _ENDS),
    Row("expire",              "in_progress",     "expired",         ("completed_at",), _USED, _ENDS),
    Row("expire",              "requires_action", "expired",         ("completed_at",), _USED, _WAITED),
    Row("expire",              "cancelling",      "expired",         ("completed_at",), _USED, _ENDS),
)
# fmt: on


class NotAllowed(Exception):
    """What it raises to say no."""


class AgentRun:
    """A run in a few lines."""

    def __init__(self, rows: Iterable[Row], clock: ManualClock, **born: object) -> None:
        self._rows, self._clock = {(row.source, row.event): row for row in rows}, clock
        self.status = "queued"
        self.created_at = int(clock.time())
        self.expires_at: int | None = self.created_at + 600
        self.started_at = self.cancelled_at = self.failed_at = self.completed_at = None
        self.required_action = self.last_error = self.incomplete_details = self.usage = None
        vars(self).update(born)

    def start(self, at: int | None = None) -> None:
        self._move("start", at)

    def require_action(self, calls: Iterable[Any], at: int | None = None) -> None:
        listed = [{"id": call.id, "type": "function"} for call in calls]
        action = {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": listed}}
        self._move("require_action", at, required_action=action)

    def submit_tool_outputs(self, outputs: Mapping[str, str], at: int | None = None) -> None:
        self._move("submit_tool_outputs", at)

    def request_cancel(self, at: int | None = None) -> None:
        self._move("request_cancel", at)

    def confirm_cancel(self, at: int | None = None) -> None:
        self._move("confirm_cancel", at)

    def complete(self, at: int | None = None) -> None:
        self._move("complete", at)

    def mark_incomplete(self, reason: str, at: int | None = None) -> None:
        self._move("mark_incomplete", at, incomplete_details={"reason": reason})

    def fail(self, code: str, message: str, at: int | None = None) -> None:
        self._move("fail", at, last_error={"code": code, "message": message})

    def expire(self, at: int | None = None) -> None:
        self._move("expire", at)

    def _move(self, event: str, at: int | None, **given: object) -> None:
        row = self._rows.get((self.status, event))
        if row is None:
            raise NotAllowed(f"{self.status} does not allow {event}")
        now = int(self._clock.time()) if at is None else at
        self.status = row.target
        for name in row.clears:
            setattr(self, name, None)
        for name in row.stamps:
            setattr(self, name, now)
        for name in row.sets:
            setattr(self, name, given.get(name, deepcopy(_VALUES.get(name, now + 600))))
        if row.does == "stamps once":
            self.started_at = vars(self).setdefault("_first", now)
        if row.does == "refuses":
            raise NotAllowed(f"{row.source} does not allow {event}")


_VALUES: Final[Mapping[str, Any]] = {
    "required_action": {"type": "submit_tool_outputs"},
    "last_error": {"code": "server_error", "message": "it broke"},
    "incomplete_details": {"reason": "max_prompt_tokens"},
    "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
}

# --- the suite that a user might write --------------------------------------------------------------------------------

_AT: Final = 1_700_000_500
_CLEAN: Final = {status: a_run(status, id="run_1").to_dict() for status in STATUSES}  # before anything is broken


@attrs.frozen
class Written:
    """An implementation, as its tests see it."""

    new: Callable[[ManualClock], Any]
    load: Callable[[Mapping[str, Any]], Any]
    """Make a run of a record."""
    refused: type[Exception]
    system: Callable[[], Any]
    """What the conformance kit checks."""


def test_moves(written: Written) -> None:
    for cell in moves():
        assert_moves(written.load(_CLEAN[cell.status]), cell.event, cell.target, refused=written.refused, at=_AT)


def test_refusals(written: Written) -> None:
    for cell in refusals():
        assert_refused(written.load(_CLEAN[cell.status]), cell.event, refused=written.refused, at=_AT)


def test_walks(written: Written) -> None:
    for walk in walks(max_events=6):
        clock = ManualClock(float(NOW))
        made = written.new(clock)
        nothing: dict[str, None] = dict.fromkeys(STAMPS)
        assert_stamps(made, created_at=NOW, expires_at=NOW + 600, **nothing)
        for step in walk.steps:
            clock.advance(60)
            at = int(clock.now)
            made = assert_moves(made, step.event, step.target, refused=written.refused, at=at)


def test_conformance(written: Written) -> None:
    report = check_conformance(written.system(), race_rounds=0)
    assert report.conforms, str(report)


SUITE: Final[Mapping[str, Callable[[Written], None]]] = {
    "moves": test_moves,
    "refusals": test_refusals,
    "walks": test_walks,
    "conformance": test_conformance,
}
for _test in SUITE.values():
    _test.__test__ = False  # type: ignore[attr-defined]  # pytest would take them for its own


ASSERTIONS: Final = ("moves", "refusals", "walks")


def caught_by(written: Written, parts: Iterable[str] = SUITE) -> Iterator[str]:
    """Yield which parts of the suite fail: by an assertion, or since a run looks at outputs that it should refuse.

    (Any other error is no catch, and comes out.)
    """
    for part in parts:
        try:
            SUITE[part](written)
        except (AssertionError, ToolOutputsMismatch):
            yield part


# --- mutants of the user's class --------------------------------------------------------------------------------------


@attrs.frozen
class Mutant:
    """An implementation with one mistake."""

    kind: str
    name: str
    rows: tuple[Row, ...] = ROWS
    born: Mapping[str, object] = attrs.field(factory=dict)
    legal: str = ""
    """Why it is no mistake after all."""

    @contextmanager
    def written(self) -> Iterator[Written]:
        """Write it."""
        clock = ManualClock(float(NOW))

        class ClockedAdapter(ObjectAdapter):
            def advance(self, seconds: int) -> None:
                clock.advance(seconds)

        yield Written(
            lambda clock: AgentRun(self.rows, clock, **deepcopy(dict(self.born))),
            lambda record: AgentRun(self.rows, ManualClock(float(NOW)), **deepcopy(dict(record))),
            NotAllowed,
            lambda: ClockedAdapter(lambda: AgentRun(self.rows, clock, **deepcopy(dict(self.born))), refused=NotAllowed),
        )


UNMUTATED: Final = Mutant("none", "as it should be", legal="it is the law")


def mutants() -> Iterator[Mutant]:
    """Yield every mutant of the user's class."""
    for place, row in enumerate(ROWS):
        yield Mutant("row removed", f"{row.source} -{row.event}-> {row.target}", (*ROWS[:place], *ROWS[place + 1 :]))
    for source, event in PAIRS:
        if (source, event) not in TABLE:
            yield from _of_an_illegal_pair(source, event)
    for place, row in enumerate(ROWS):
        for kind, name, changed in (*_redirected(row), *_of_the_stamps(row), *_of_the_fields(row)):
            rows = (*ROWS[:place], changed, *ROWS[place + 1 :])
            yield Mutant(kind, name, rows, legal=_AT_ONCE if _cancels_at_once(row, changed) else "")
    yield from _births()


_NOTHING: Final = "it is refused, and there is nothing that it could change"
_AT_ONCE: Final = "no worker has a run that waits: docs/lifecycle.md confirms a cancel there in the same step"


def _cancels_at_once(row: Row, changed: Row) -> bool:
    arrives = changed.target == "cancelled" and changed.stamps == ("cancelled_at",)
    return row.event == "request_cancel" and row.source != "in_progress" and arrives


def _usual(event: str) -> Row:
    """Return a row of the event, for what it writes."""
    return next(row for row in ROWS if row.event == event)


def _of_an_illegal_pair(source: str, event: str) -> Iterator[Mutant]:
    usual = _usual(event)
    pair = f"{source} -{event}->"
    idle = source == usual.target and not usual.stamps
    yield Mutant("row added", f"{pair} {usual.target}", (*ROWS, usual._replace(source=source)))
    for target in STATUSES:
        if target != usual.target:
            row = usual._replace(source=source, target=target)
            yield Mutant("row added, to another status", f"{pair} {target}", (*ROWS, row))
    yield Mutant("accepted, with nothing done", f"{pair} {source}", (*ROWS, Row(event, source, source)))
    rows = (*ROWS, usual._replace(source=source, does="refuses"))
    legal = _NOTHING if idle and not usual.sets else ""
    yield Mutant("refused, and yet moved", f"{pair} {usual.target}", rows, legal=legal)
    for stamp in (*STAMPS, "created_at"):
        row = Row(event, source, source, (stamp,), does="refuses")
        yield Mutant("refused, and yet stamped", f"{pair} refused, {stamp}", (*ROWS, row))


Changed = tuple[str, str, Row]


def _redirected(row: Row) -> Iterator[Changed]:
    ways = {other.target: other for other in reversed(ROWS)}
    for target in STATUSES:
        if target != row.target:
            name = f"{row.source} -{row.event}-> {target}"
            yield "row redirected", name, row._replace(target=target)
            gone = tuple(field for field in HELD_IN if target not in HELD_IN[field])
            there = ways[target]._replace(event=row.event, source=row.source, clears=gone)
            yield "row redirected, with all that is written there", name, there
    yield "moved, and yet refused", f"{row.source} -{row.event}-> {row.target}", row._replace(does="refuses")


def _of_the_stamps(row: Row) -> Iterator[Changed]:
    where = f"{row.source} -{row.event}->"
    for stamp in row.stamps:
        yield "stamp dropped", f"{where} without {stamp}", row._replace(stamps=())
    for stamp in STAMPS:
        if stamp not in row.stamps:
            if row.stamps:
                yield "stamp moved", f"{where} {stamp} for {row.stamps[0]}", row._replace(stamps=(stamp,))
            yield "stamp overwritten", f"{where} {stamp} too", row._replace(stamps=(*row.stamps, stamp))
            sets_null = row._replace(clears=(*row.clears, stamp))
            # A stamp that is null wherever the row may be asked cannot be lost by it.
            if stamp == "started_at" and row.event != "start":
                yield "stamp lost", f"{where} {stamp} null again", sets_null
    for name, changed in (
        ("created_at", row._replace(stamps=(*row.stamps, "created_at"))),
        ("expires_at", row._replace(sets=(*row.sets, "expires_at"))),
    ):
        yield f"{name} moved", f"{where} {name} too", changed
    if row.event == "start":
        yield "stamp not written anew", f"{where} started_at only once", row._replace(does="stamps once")


def _of_the_fields(row: Row) -> Iterator[Changed]:
    where = f"{row.source} -{row.event}->"
    for field, statuses in HELD_IN.items():
        if field in row.sets:
            sets = tuple(name for name in row.sets if name != field)
            yield "field forgotten", f"{where} without {field}", row._replace(sets=sets)
        elif field in row.clears:
            clears = tuple(name for name in row.clears if name != field)
            yield "field kept too long", f"{where} {field} kept", row._replace(clears=clears)
        if row.target not in statuses and field != "expires_at":  # that one is "expires_at moved"
            yield "field set where it is null", f"{where} {field} too", row._replace(sets=(*row.sets, field))
        elif row.target in statuses and field not in row.sets:
            yield "field cleared too early", f"{where} {field} null", row._replace(clears=(*row.clears, field))


def _births() -> Iterator[Mutant]:
    wrong: list[tuple[str, object]] = [("status", status) for status in STATUSES if status != "queued"]
    wrong += [*dict.fromkeys(STAMPS, NOW).items(), *_VALUES.items(), ("expires_at", None)]
    for name, value in wrong:
        told = value if name == "status" else "null" if value is None else "set"
        yield Mutant("born wrong", f"{name} is {told} at creation", born={name: value})


# --- mutants of Run ---------------------------------------------------------------------------------------------------

_NAMES: Final = {
    "start": ("_MAY_START", "_STARTED"),
    "require_action": ("_MAY_REQUIRE", "_REQUIRED"),
    "submit_tool_outputs": ("_MAY_SUBMIT", "_SUBMITTED"),
    "request_cancel": ("_MAY_REQUEST", "_REQUESTED"),
    "confirm_cancel": ("_MAY_CONFIRM", "_CONFIRMED"),
    "complete": ("_MAY_COMPLETE", "_COMPLETED"),
    "mark_incomplete": ("_MAY_MARK_INCOMPLETE", "_INCOMPLETE"),
    "fail": ("_MAY_FAIL", "_FAILED"),
    "expire": ("_MAY_EXPIRE", "_EXPIRED"),
}
_SLOTS: Final = tuple(f"_{name}" for name in (*STAMPS, "created_at", *HELD_IN))


@attrs.frozen
class RealMutant:
    """`Run` with one thing of its module or class replaced."""

    kind: str
    name: str
    owner: object
    attribute: str
    value: object
    legal: str = ""

    @contextmanager
    def written(self) -> Iterator[Written]:
        """Put it in place."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.owner, self.attribute, self.value)
            yield REAL


def _new_run(clock: ManualClock) -> Run:
    return Run.create(thread_id="thread_1", assistant_id="asst_1", model="gpt-4o", id="run_1", at=int(clock.time()))


REAL: Final = Written(_new_run, Run.from_dict, IllegalTransition, InMemoryAdapter)


def real_mutants() -> Iterator[RealMutant]:
    """Yield every mutant of `Run`: its sources and targets, and each move with a slot written or not written."""
    for event, (may, target) in _NAMES.items():
        sources: frozenset[str] = getattr(run, may)
        for status in STATUSES:
            if status in sources:
                yield RealMutant("source removed", f"{may} without {status}", run, may, sources - {status})
            else:
                yield RealMutant("source added", f"{may} with {status}", run, may, sources | {status})
        right = getattr(run, target)
        for status in type(right):
            if status != right:
                yield RealMutant("target replaced", f"{target} is {status}", run, target, status)
        for slot in _SLOTS:
            for kind, write in (("slot left as it was", _restoring), ("slot written", _writing)):
                if _shows(event, slot, kind):
                    name = f"{event}: {slot}"
                    yield RealMutant(kind, name, Run, event, write(getattr(Run, event), slot))


def _shows(event: str, slot: str, kind: str) -> bool:
    """Tell whether anybody could see the difference."""
    rows = [row for row in ROWS if row.event == event]
    name = slot.removeprefix("_")
    written = any(name in (*row.stamps, *row.sets, *row.clears) for row in rows)
    return written if kind == "slot left as it was" else name not in (*rows[0].stamps, *rows[0].sets)


def _restoring(move: Callable[..., None], slot: str) -> Callable[..., None]:
    def mutated(self: Run, *args: Any, **given: Any) -> None:
        before = getattr(self, slot)
        move(self, *args, **given)
        setattr(self, slot, before)

    mutated.__wrapped__ = move  # type: ignore[attr-defined]  # for its signature
    return mutated


def _writing(move: Callable[..., None], slot: str) -> Callable[..., None]:
    sample = a_run("failed") if slot != "_incomplete_details" else a_run("incomplete")
    source = a_run("requires_action") if slot == "_required_action" else sample
    value = NOW + 777 if slot.endswith("_at") else getattr(source, slot)

    def mutated(self: Run, *args: Any, **given: Any) -> None:
        move(self, *args, **given)
        setattr(self, slot, value)

    mutated.__wrapped__ = move  # type: ignore[attr-defined]
    return mutated


# --- the count --------------------------------------------------------------------------------------------------------


@attrs.define
class Count:
    """What came of the mutants of one kind."""

    all: int = 0
    legal: int = 0
    by_assertions: int = 0
    by_conformance: int = 0
    by_both: int = 0
    missed: int = 0

    def add(self, mutant: Mutant | RealMutant, found: tuple[str, ...]) -> None:
        """Count one, by who caught it."""
        self.all += 1
        if mutant.legal:
            self.legal += 1
            return
        asserted = bool({*found} & {*ASSERTIONS})
        tried = "conformance" in found
        self.by_assertions += asserted
        self.by_conformance += tried
        self.by_both += asserted and tried
        self.missed += not (asserted and tried)


def main() -> None:
    """Print each mutant with who caught it, then the totals by kind."""
    counts: dict[str, Count] = {}
    every: list[tuple[str, Mutant | RealMutant]] = [(mutant.kind, mutant) for mutant in (UNMUTATED, *mutants())]
    every += [(f"Run: {mutant.kind}", mutant) for mutant in real_mutants()]
    for kind, mutant in every:
        with mutant.written() as written:
            found = tuple(caught_by(written))
        counts.setdefault(kind, Count()).add(mutant, found)
        why = f"  (legal: {mutant.legal})" if mutant.legal else ""
        print(f"{kind:48}{mutant.name:64}{', '.join(found) or 'nobody'}{why}", flush=True)
    columns = tuple(field.name for field in attrs.fields(Count))
    print(f"\n{'':48}" + "".join(f"{column:>15}" for column in columns))
    for kind, count in (*counts.items(), ("all", _total(counts.values()))):
        print(f"{kind:48}" + "".join(f"{getattr(count, column):>15}" for column in columns))


def _total(counts: Iterable[Count]) -> Count:
    rows = [attrs.astuple(count) for count in counts]
    return Count(*(sum(column) for column in zip(*rows, strict=True)))


if __name__ == "__main__":
    with use_clock(ManualClock(float(NOW))):
        main()
