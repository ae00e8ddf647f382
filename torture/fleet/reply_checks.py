"""Whether the history bears out what every client was told: each answer is held against it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from torture.fleet.checks import Entry
from torture.fleet.handler_log import read_side_log
from torture.fleet.replies import Answer, Reply, read_replies
from torture.verdict import Verdict

Histories: TypeAlias = Mapping[str, Sequence[Entry]]
Asked: TypeAlias = tuple[str, str, str]
"""A request for a move: the run, the event, and the actor that nobody else is."""
Brought: TypeAlias = tuple[str, str, str, int, int]
"""What a worker brought: the run, the event, the worker, the version it was started at, and the attempt."""


def check_replies(
    verdict: Verdict, folder: Path, side: Path, found: Histories, retried: Collection[tuple[str, int]] = ()
) -> None:
    """Hold all that clients were told against the histories, and against the runs and attempts that were `retried`."""
    creates: dict[str, list[Answer]] = defaultdict(list)
    plans: dict[str, str] = {}
    keys: dict[str, set[str]] = defaultdict(set)
    moves: dict[Asked, list[Reply]] = defaultdict(list)
    settles: dict[Brought, list[Answer]] = defaultdict(list)
    answers = Counter[str]()
    for told in read_replies(folder):
        answers[f"{told.kind} {told.answer}"] += 1
        if told.answer == "wrong":
            verdict.lose("a client heard what may not be", told)
        if told.kind == "create":
            creates[told.run_id].append(told.answer)
            plans[told.run_id] = told.what
        elif told.kind == "key":
            if told.answer == "done":
                keys[told.what].add(told.run_id)
            elif told.answer == "refused":
                verdict.expect(False, f"a create was refused for its own key: {told}")
        elif told.kind == "move":
            moves[told.run_id, told.what, told.actor].append(told)
        else:
            settles[told.run_id, told.what, told.actor, told.version, told.attempt].append(told.answer)
    _check_creates(verdict, creates, found)
    _check_keys(verdict, keys, found)
    _check_tool_rounds(verdict, plans, found)
    _check_moves(verdict, moves, found)
    _check_retries(verdict, settles, found, retried)
    _check_settles(verdict, {key: each for key, each in settles.items() if key[1] != "retry"}, side, found)
    verdict.notes["told"] = answers


def _agree(verdict: Verdict, what: str, some: object, answers: Sequence[Answer], times: int) -> None:
    """See that something is there as often as its client's answers say: once, not at all, or nobody knows."""
    if times > 1:
        verdict.double(f"{what} was done {times} times", some)
    elif "done" in answers:
        if times < 1:
            verdict.lose(f"{what} was acknowledged, and is not there", some)
    elif "unknown" not in answers or answers[-1] == "refused":
        verdict.expect(times == 0, f"{what} was refused, and is there: {some} ({', '.join(answers)})")


def _check_creates(verdict: Verdict, creates: Mapping[str, Sequence[Answer]], found: Histories) -> None:
    for run_id, answers in creates.items():
        births = sum(entry.version == 1 for entry in found.get(run_id, ()))
        verdict.acknowledged += "done" in answers
        _agree(verdict, "a create", run_id, answers, births)


def _check_keys(verdict: Verdict, keys: Mapping[str, Iterable[str]], found: Histories) -> None:
    for key, runs in keys.items():
        there = [run_id for run_id in runs if run_id in found]
        verdict.acknowledged += 1
        if len(there) > 1:
            verdict.double("one key was answered with several runs", f"{key}: {', '.join(there)}")
        for run_id in set(runs) - {*there}:
            verdict.lose("a run created by key is not there", run_id)


def _check_tool_rounds(verdict: Verdict, plans: Mapping[str, str], found: Histories) -> None:
    for run_id, plan in plans.items():
        rounds = sum(entry.event == "require_action" for entry in found.get(run_id, ()))
        if rounds > (plan == "tools"):
            verdict.double(f"{rounds} tool rounds of a run with the plan {plan}", run_id)


def _check_moves(verdict: Verdict, moves: Mapping[Asked, Sequence[Reply]], found: Histories) -> None:
    for (run_id, event, actor), asked in moves.items():
        there = [entry for entry in found.get(run_id, ()) if entry.actor == actor and entry.event == event]
        answers = [told.answer for told in asked]
        verdict.acknowledged += "done" in answers
        _agree(verdict, event, f"{run_id} by {actor}", answers, len(there))
        expected = {told.version + 1 for told in asked if told.version}
        for entry in there:
            if expected and entry.version not in expected:
                verdict.double(f"{event} was done from another version than it was asked from", entry)


def _check_retries(
    verdict: Verdict,
    settles: Mapping[Brought, Sequence[Answer]],
    found: Histories,
    retried: Collection[tuple[str, int]],
) -> None:
    """See that a retry that was acknowledged is recorded, or that the run was cancelled instead by its worker."""
    for (run_id, event, worker, version, attempt), answers in settles.items():
        if event != "retry" or "done" not in answers:
            continue
        verdict.acknowledged += 1
        entries = found.get(run_id, ())
        instead = any(
            entry.version > version and entry.event == "confirm_cancel" and entry.actor == worker for entry in entries
        )
        if (run_id, attempt) not in retried and not instead:
            verdict.lose("a retry was acknowledged, and is not there", f"{run_id}, attempt {attempt}, by {worker}")


def _check_settles(verdict: Verdict, settles: Mapping[Brought, Sequence[Answer]], side: Path, found: Histories) -> None:
    latest: dict[tuple[str, int, str], int] = defaultdict(int)
    started = 0
    for line in read_side_log(side):
        if line.what != "begun":
            continue
        place = (line.run_id, line.version, line.worker)
        latest[place] = max(latest[place], line.attempt)
        started += line.attempt == 1
        entries = found.get(line.run_id, ())
        there = any(entry.version == line.version and entry.event == "start" for entry in entries)
        if not there:
            verdict.lose("a claim was acknowledged, and is not there", line)
    for (run_id, event, worker, version, attempt), answers in settles.items():
        again = latest[run_id, version, worker] > attempt  # it took the run over from itself: which attempt it was
        if again and "done" not in answers:  # nobody can tell
            continue
        if again:
            verdict.double(f"the outcome {event} of attempt {attempt} was accepted after the next began", run_id)
        times = _times_settled(found.get(run_id, ()), event, worker, version)
        verdict.acknowledged += "done" in answers
        _agree(verdict, f"the outcome {event}", f"{run_id} by {worker} from version {version}", answers, times)
    verdict.acknowledged += started


def _times_settled(entries: Sequence[Entry], event: str, worker: str, version: int) -> int:
    """Return how often a worker's event stands between this start and the next."""
    times = 0
    for entry in entries:
        if entry.version <= version:
            continue
        if entry.event == "start":
            break
        times += entry.event == event and entry.actor == worker
    return times
