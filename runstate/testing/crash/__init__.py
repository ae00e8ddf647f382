"""The crash kit: lets the worker of a handler die at every point, and compares the run with an undisturbed one.

    from runstate.testing import crash_test

    def test_a_death_changes_nothing():
        crash_test(answer, tool_outputs={"weather": "sunny"})

`crash_test` executes runs in a real store. Each death is an exception in the handler, after which its context refuses
everything; another attempt then takes the run over, as another worker would.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeAlias
from urllib.parse import quote

import attrs

from runstate.store import Store, open_store
from runstate.testing.crash._disturbed import findings_after_death, notes_after_death
from runstate.testing.crash._log import PlannedDeath, RunLog, WorkerDied
from runstate.testing.crash._memory import MemorySnapshot, ProcessMemory
from runstate.testing.crash._probe import Probe
from runstate.testing.crash._report import CrashFinding, CrashReport, CrashTestError
from runstate.testing.crash._runner import RunRunner, ToolOutputs
from runstate.testing.crash._undisturbed import Unstable, compare_runs, findings_of_undisturbed
from runstate.worker import Handler

__all__ = [
    "CrashFinding",
    "CrashReport",
    "CrashTest",
    "CrashTestError",
    "Probe",
    "ToolOutputs",
    "WorkerDied",
    "crash_test",
]

CrashTest: TypeAlias = Callable[..., CrashReport]
"""`crash_test`, with a store."""

_LOST_STEP: Final = frozenset({"unstable names", "step not found again", "result of another step"})
_EXPLAINED_BY: Final[Mapping[str, frozenset[str]]] = {
    "step not found again": frozenset({"unstable names"}),
    "kept step executed again": _LOST_STEP,
    "effect lost": frozenset({"result of another step"}),
    "other steps": _LOST_STEP | {"effect lost"},
}
"""Kinds of findings that are left out if one of the others was found, because they follow from it."""
_NAMES: Final = {"assistant_id": "asst_1", "model": "gpt-4o"}
_TIMESTAMP: Final = re.compile(r"\d{10}|\d\d:\d\d")
_SECOND_S: Final = 1.05


def crash_test(
    handler: Handler,
    *,
    store: Store | None = None,
    probe: Probe | None = None,
    tool_outputs: ToolOutputs | None = None,
    restart: Callable[[], object] | None = None,
    outside: Collection[object] = (),
    max_points: int = 300,
    timeout_s: float = 60.0,
    raise_findings: bool = True,
    **settings: Any,
) -> CrashReport:
    """Execute a handler with a death of its worker at every point. Raise `CrashTestError` if that changes anything.

    The handler is executed undisturbed first. Then it is executed once for each point of death: before and after the
    commit of each durable operation, and right after each effect that `probe` counts. After the death another attempt
    finishes the run. The end is compared with the undisturbed run: the status and its error, the tokens, the steps, and
    the effects.

    `store` is an open store; by default it is an SQLite file in a temporary directory. `tool_outputs` answers
    `require_action`: the outputs by the name of the function, or a function of the calls that returns the outputs by
    call id. `restart` is called before each run and after each death: it forgets what a process forgets. Variables
    that the handler itself uses are reset too, in a second pass, except the objects in `outside`, which stand for the
    outside world. At most `max_points` points are tried. `timeout_s` is for how many seconds one call of the handler
    may take. With `raise_findings=False` the report is only returned. `settings` are those of `store.create`.

    Raises `RuntimeError` if the runs cannot be executed: tool outputs are missing, or another worker claims them.
    """
    if max_points < 1:
        raise ValueError(f"max_points: expected at least 1, got {max_points}")
    memory = ProcessMemory(handler, outside)
    with _opened(store) as opened:
        runner = RunRunner(
            opened,
            handler,
            probe or Probe(),
            {**_NAMES, **settings},
            {} if tool_outputs is None else tool_outputs,
            timeout_s,
            restart or _nothing,
        )
        report = _CrashSession(runner, memory, max_points).execute()
    if raise_findings:
        report.raise_for_findings()
    return report


def _nothing() -> None:
    """Forget nothing."""


@contextmanager
def _opened(store: Store | None) -> Generator[Store, None, None]:
    if store is not None:
        yield store
        return
    with TemporaryDirectory(prefix="runstate_") as folder, open_store(_file_in(folder)) as opened:
        yield opened


def _file_in(folder: str) -> str:
    return f"sqlite:///{quote(str(Path(folder) / 'runs.db'))}"


class _CrashSession:
    """One call of `crash_test`."""

    def __init__(self, runner: RunRunner, memory: ProcessMemory, max_points: int) -> None:
        self._runner: Final = runner
        self._memory: Final = memory
        self._max_points: Final = max_points
        self._findings: dict[tuple[str, str], CrashFinding] = {}
        self._points: dict[tuple[str, str], set[str | None]] = {}
        """The points of death of each finding."""
        self._notes: dict[str, None] = {}

    def execute(self) -> CrashReport:
        """Execute all runs, and return the report."""
        at_start = self._memory.snapshot()
        usual = self._runner.execute()
        changed = self._memory.changed(at_start)
        if usual.hung is not None:
            self._add(findings_of_undisturbed(usual, usual))
            return self._report((), 0)
        second = self._runner.execute()
        unstable = compare_runs(usual, second)
        differs = unstable.outcome or unstable.effects or unstable.places or unstable.usage or unstable.results
        runner, in_new = self._runner, self._in_new_processes(at_start)
        if changed and differs:
            fresh = in_new.execute()
            if compare_runs(usual, fresh) == _STABLE:
                self._add([_of_memory(changed, None, "the second run in a process differs from the first one")])
                second, unstable, runner = fresh, _STABLE, in_new
        self._add(findings_of_undisturbed(usual, second))
        self._notes.update(dict.fromkeys(unstable.notes))
        points, untried = self._points_of(usual)
        before = self._memory.snapshot()
        tried = self._die_at(runner, points, usual, unstable)
        if changed and runner is not in_new:
            before = self._memory.snapshot()
            self._die_in_new_processes(in_new, points, usual, unstable, changed)
        self._memory.restore(before)
        return self._report(tuple(tried), untried)

    def _report(self, tried: tuple[str, ...], untried: int) -> CrashReport:
        kinds = {finding.kind for finding in self._findings.values()}
        findings = [each for each in self._findings.values() if not kinds & _EXPLAINED_BY.get(each.kind, frozenset())]
        return CrashReport(tried, tuple(findings), tuple(self._notes), untried)

    def _add(self, findings: Iterable[CrashFinding]) -> None:
        """Add findings. Of those about the same thing, the first one counts the points of the others."""
        for finding in findings:
            key = _key_of(finding)
            points = self._points.setdefault(key, set())
            points.add(finding.point)
            first = self._findings.setdefault(key, finding)
            self._findings[key] = attrs.evolve(first, points=len(points))

    def _points_of(self, usual: RunLog) -> tuple[list[PlannedDeath], int]:
        """Return the points of death, in the order of the run, and how many were left out."""
        points: list[tuple[int, int, PlannedDeath]] = []
        for operation in usual.operations:
            number = operation.number
            if operation.kind != "claim":  # before the claim nothing has happened
                points.append((number, 1, PlannedDeath("before", number)))
            points.append((number, 2, PlannedDeath("after", number)))
        for number, effect in enumerate(usual.effects):
            points.append((effect.at, 0, PlannedDeath("effect", number)))
        ordered = [point for *_, point in sorted(points, key=lambda each: each[:2])]
        most = self._max_points
        if len(ordered) <= most:
            return ordered, 0
        return [ordered[place * len(ordered) // most] for place in range(most)], len(ordered) - most

    def _in_new_processes(self, at_start: MemorySnapshot) -> RunRunner:
        """Return a runner that gives each attempt the memory of a new process."""

        def restart() -> None:
            self._runner.restart()
            self._memory.restore(at_start)

        return attrs.evolve(self._runner, restart=restart)

    def _die_at(self, runner: RunRunner, points: list[PlannedDeath], usual: RunLog, unstable: Unstable) -> list[str]:
        tried: list[str] = []
        has_timestamps = any(_TIMESTAMP.search(" ".join(place)) for place in usual.kept)
        for point in points:
            is_step = usual.operations[point.number].kind == "result" if point.when == "after" else False
            log = runner.execute(point, wait_s=_SECOND_S if has_timestamps and is_step else 0.0)
            has_timestamps = has_timestamps and not is_step
            if log.point is None:
                self._notes["some points of death were not reached: the operations differ from run to run"] = None
                continue
            tried.append(log.point)
            self._add(findings_after_death(log, usual, unstable))
            self._notes.update(dict.fromkeys(notes_after_death(log, usual)))
        return tried

    def _die_in_new_processes(
        self,
        runner: RunRunner,
        points: list[PlannedDeath],
        usual: RunLog,
        unstable: Unstable,
        changed: tuple[str, ...],
    ) -> None:
        """Let the worker die again at each point. What is found now, and was not before, depends on the memory."""
        for point in points:
            log = runner.execute(point)
            for finding in findings_after_death(log, usual, unstable) if log.point is not None else ():
                if _key_of(finding) not in self._findings:
                    self._add([_of_memory(changed, log.point, f"{finding.problem} It found: {finding.found}")])


def _key_of(finding: CrashFinding) -> tuple[str, str]:
    """Return what a finding is about: its kind, and its subject without a key."""
    return finding.kind, finding.subject.partition(" with the key ")[0]


def _of_memory(changed: tuple[str, ...], point: str | None, found: str) -> CrashFinding:
    names = ", ".join(changed)
    return CrashFinding(
        "memory of the process",
        names,
        f"The handler depends on what it keeps in the process: {names}.",
        point,
        "the handler needs only its context, because the next attempt is in another process",
        found,
        "keep it in a step or in a checkpoint. If it stands for the outside world in this test, name it in `outside`",
    )


_STABLE: Final = Unstable(False, False, False, False, frozenset(), frozenset())
