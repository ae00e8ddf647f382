"""Whether steps, events and tokens in the database agree with what the handlers logged."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import attrs

from tests.support.judge import Ask, asking
from torture.fleet.handler_log import Line, read_side_log
from torture.fleet.step_handler import POSITIONS, REPAIR, Note, is_once, note_of, place_of, tokens_of
from torture.verdict import Verdict

__all__ = ["check_runs_of_steps"]

Step: TypeAlias = tuple[str, int]
"""A run and a position."""
Claim: TypeAlias = tuple[int, int]
"""The version and the attempt of a claim."""

_POSITIONS: Final = {
    place_of(position): position for position in (*POSITIONS, *(REPAIR + position for position in POSITIONS))
}


class Execution(NamedTuple):
    """One call of the function of a step."""

    claim: Claim
    call: str
    emitted: int


class Kept(NamedTuple):
    """A step in the database. A mark has no result."""

    claim: Claim
    call: str | None
    tokens: tuple[int, int]


@attrs.define
class Logged:
    """What the handlers logged."""

    executions: dict[Step, list[Execution]] = attrs.Factory(lambda: defaultdict(list))
    told: dict[Step, str] = attrs.Factory(dict)
    """The call whose result a handler got."""
    told_first: dict[Step, Claim] = attrs.Factory(dict)
    """The first claim whose handler got the result."""
    interrupted: dict[Step, Claim] = attrs.Factory(dict)
    """The first claim whose handler got `StepInterrupted`."""
    over: dict[tuple[str, int], tuple[int, str, int]] = attrs.Factory(dict)
    """By run and version: the last attempt whose handler ended, its call, and how many events it had emitted."""
    outdated: int = 0
    """Executions of workers whose lease was lost, after another worker had kept the step."""


def check_runs_of_steps(verdict: Verdict, url: str, side: Path) -> None:
    """Check steps, events and tokens of all runs. All must have ended."""
    logged = _read(verdict, side)
    with asking(url) as ask:
        kept = _kept_steps(verdict, ask)
        events = _events(verdict, ask)
        runs = ask("SELECT id, status, assistant_id, CAST(usage AS TEXT), attempt FROM runstate_run ORDER BY seq")
        rounds = dict(
            ask(
                "SELECT r.id, count(*) FROM runstate_history AS h JOIN runstate_run AS r ON r.seq = h.run"
                " WHERE h.event = 'require_action' GROUP BY r.id"
            )
        )
    for run_id, status, _, _, attempt in runs:
        if status != "completed":
            claims = [there.claim for (run, _), there in kept.items() if run == run_id and there.call is not None]
            last = max(claims, default=(0, 0))
            verdict.wrong.append(f"{run_id} is {status} in attempt {attempt}; its last result is of {last}")
    runs = [row for row in runs if row[1] == "completed"]
    for run_id, _, plan, _, _ in runs:
        found, wanted = rounds.get(run_id, 0), int(plan == "tools")
        verdict.expect(found == wanted, f"{run_id} had {found} tool rounds, not {wanted}")
    _check_told(verdict, logged, kept)
    _check_kept(verdict, logged, kept)
    _check_complete(verdict, logged, kept, [row[0] for row in runs])
    _check_events(verdict, logged, kept, events, {row[0] for row in runs})
    _check_usage(verdict, logged, kept, runs)
    results = sum(step.call is not None for step in kept.values())
    executed = sum(map(len, logged.executions.values()))
    verdict.acknowledged += len(logged.told)
    verdict.notes["steps"] = {
        "kept": results,
        "executed": executed,
        "again": executed - len(logged.executions),
        "by lost leases": logged.outdated,
        "interrupted": len(logged.interrupted),
    }
    verdict.notes["events"] = sum(events.values())
    verdict.notes["most attempts"] = max((row[4] for row in runs), default=0)


# --- what there is ----------------------------------------------------------------------------------------------------


def _read(verdict: Verdict, side: Path) -> Logged:
    """Read the log in its order. A function must not be called after a handler got its result."""
    logged = Logged()
    for line in read_side_log(side):
        note = note_of(line)
        if note is None:
            continue
        claim = (line.version, line.attempt)
        if note.what == "over":
            before = logged.over.get((line.run_id, line.version), (0, "", 0))
            if line.attempt >= before[0]:
                logged.over[line.run_id, line.version] = (line.attempt, note.call, note.emitted)
            continue
        step = (line.run_id, note.position)
        if note.what == "called":
            _read_called(verdict, logged, line, note)
        elif note.what == "interrupted":
            logged.interrupted[step] = min(claim, logged.interrupted.get(step, claim))
            verdict.expect(is_once(note.position), f"a step without once=True was interrupted: {step}")
        else:
            first = logged.told.setdefault(step, note.result)
            logged.told_first[step] = min(claim, logged.told_first.get(step, claim))
            if first != note.result:
                verdict.double("a step had two results", f"{step}: of call {first} and of call {note.result}")
    return logged


def _read_called(verdict: Verdict, logged: Logged, line: Line, note: Note) -> None:
    step, claim = (line.run_id, note.position), (line.version, line.attempt)
    if is_once(note.position) and step in logged.executions:
        verdict.double("a step with once=True was executed twice", f"{step} by {line.worker}")
    if step in logged.interrupted and claim >= logged.interrupted[step]:
        verdict.double("an interrupted step was executed", f"{step} by {line.worker}")
    if step in logged.told_first:
        if claim >= logged.told_first[step]:
            verdict.double("a step was executed again after its result was returned", f"{step} by {line.worker}")
        else:
            logged.outdated += 1
    logged.executions[step].append(Execution(claim, note.call, note.emitted))


def _kept_steps(verdict: Verdict, ask: Ask) -> dict[Step, Kept]:
    kept: dict[Step, Kept] = {}
    for run_id, name, key, version, attempt, prompt, completion, text in ask(
        "SELECT r.id, s.name, s.key, s.version, s.attempt, s.prompt_tokens, s.completion_tokens,"
        " CAST(s.result AS TEXT) FROM runstate_step AS s JOIN runstate_run AS r ON r.seq = s.run"
    ):
        position = _POSITIONS[name, key]
        result: dict[str, Any] = {"call": None, "position": position} if text is None else json.loads(text)
        verdict.expect(result["position"] == position, f"{run_id} has the result {text} of step {position}")
        kept[run_id, position] = Kept((version, attempt), result["call"], (prompt, completion))
    return kept


def _events(verdict: Verdict, ask: Ask) -> dict[str, int]:
    """Return how many events of each call there are: each once, in order, without gaps."""
    found: dict[str, int] = {}
    run, next_number, last = "", 1, (0, 0)
    for run_id, number, count, version, attempt, text in ask(
        "SELECT r.id, e.number, e.count, e.version, e.attempt, CAST(e.data AS TEXT) FROM runstate_event AS e"
        " JOIN runstate_run AS r ON r.seq = e.run ORDER BY e.run, e.number"
    ):
        if run_id != run:
            run, next_number, last = run_id, 1, (0, 0)
        data = json.loads(text)
        if number > next_number:
            verdict.lose("events are missing", f"{run_id}, {next_number} to {number - 1}")
        elif number < next_number:
            verdict.double("events have the same number", f"{run_id}, {number}")
        verdict.expect(len(data) == count, f"{run_id} has {len(data)} events in a row of {count} at {number}")
        verdict.expect(last <= (version, attempt), f"{run_id} has event {number} of an attempt that was over")
        next_number, last = number + count, (version, attempt)
        for event in data:
            call, place = event["call"], event["place"]
            if place != found.get(call, 0):
                verdict.wrong.append(f"{run_id} has event {place} of call {call} after {found.get(call, 0)} of them")
            found[call] = place + 1
    return found


# --- the checks -------------------------------------------------------------------------------------------------------


def _check_told(verdict: Verdict, logged: Logged, kept: dict[Step, Kept]) -> None:
    """A handler that got a result: the step is there, with this result."""
    for step, call in logged.told.items():
        there = kept.get(step)
        if there is None or there.call is None:
            verdict.lose("a result was returned, and is not there", step)
        elif there.call != call:
            verdict.double("a step has another result than was returned", f"{step}: of {there.call}, not {call}")


def _check_kept(verdict: Verdict, logged: Logged, kept: dict[Step, Kept]) -> None:
    """A step in the database was executed by the claim that it names, and has its tokens."""
    for step, there in kept.items():
        position = step[1]
        if there.call is None:
            verdict.expect(is_once(position), f"a step without once=True has a mark: {step}")
            verdict.expect(step in logged.interrupted, f"a mark stayed, and no handler got StepInterrupted: {step}")
            continue
        by = [each for each in logged.executions.get(step, ()) if each.call == there.call]
        agreed = [each.claim for each in by] == [there.claim]
        verdict.expect(agreed, f"a step is of {there}, and was executed by {by}: {step}")
        verdict.expect(there.tokens == tokens_of(position), f"a step has the tokens {there.tokens}: {step}")
        verdict.expect(step not in logged.interrupted, f"an interrupted step has a result: {step}")


def _check_complete(verdict: Verdict, logged: Logged, kept: dict[Step, Kept], runs: Sequence[str]) -> None:
    """Every run has the results of all its steps, or of those executed instead."""

    def has_result(run_id: str, position: int) -> bool:
        there = kept.get((run_id, position))
        return there is not None and there.call is not None

    for run_id in runs:
        for position in POSITIONS:
            instead = REPAIR * ((run_id, position) in logged.interrupted)
            verdict.expect(has_result(run_id, position + instead), f"{run_id} has ended without step {position}")


def _check_events(
    verdict: Verdict, logged: Logged, kept: dict[Step, Kept], events: dict[str, int], completed: AbstractSet[str]
) -> None:
    """What a call emitted before a step was kept, before the mark of one, and before its outcome, is there."""
    wanted: dict[str, tuple[int, object]] = {}

    def want(call: str, emitted: int, why: object) -> None:
        if emitted > wanted.get(call, (0, ""))[0]:
            wanted[call] = emitted, why

    for step, executions in logged.executions.items():
        there = kept.get(step)
        for each in executions:
            if is_once(step[1]) or (there is not None and there.call == each.call):
                want(each.call, each.emitted, f"before step {step}")
    for run, (_, call, emitted) in logged.over.items():
        if run[0] not in completed:
            continue
        want(call, emitted, f"before the outcome of {run}")
    for call, (emitted, why) in wanted.items():
        if events.get(call, 0) < emitted:
            verdict.lose("events are missing", f"{emitted} emitted by call {call} {why}, {events.get(call, 0)} there")


def _check_usage(verdict: Verdict, logged: Logged, kept: dict[Step, Kept], runs: Sequence[tuple[Any, ...]]) -> None:
    """The tokens of a run are at least those of its kept steps, and at most those of all executed functions."""
    least: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    most: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for (run_id, _), there in kept.items():
        for place, tokens in enumerate(there.tokens):
            least[run_id][place] += tokens
    for (run_id, position), executions in logged.executions.items():
        for place, tokens in enumerate(tokens_of(position)):
            most[run_id][place] += tokens * len(executions)
    exact = 0
    for run_id, _, _, text, _ in runs:
        usage = json.loads(text or "{}")
        used = [usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)]
        exact += used == least[run_id]
        inside = all(low <= one <= high for low, one, high in zip(least[run_id], used, most[run_id], strict=True))
        verdict.expect(inside, f"{run_id} has used {used}, its steps {least[run_id]}, its functions {most[run_id]}")
    verdict.notes["usage"] = {"of kept steps alone": exact, "with lost steps": len(runs) - exact}
