"""What undisturbed runs of a handler show: mistakes that need no death, and what differs from run to run anyway."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

import attrs

from runstate.testing.crash._log import RunLog, StepCall, name_step
from runstate.testing.crash._report import CrashFinding

__all__ = ["Unstable", "compare_runs", "findings_of_steps", "findings_of_undisturbed", "name_effect"]

_JSON_ADVICE: Final = (
    "return JSON from the function of the step: dict with string keys, list, str, int, float, bool, None"
)


@attrs.frozen
class Unstable:
    """What differs between two undisturbed runs, and is therefore not compared after a death."""

    outcome: bool
    effects: bool
    usage: bool
    places: bool
    results: frozenset[tuple[str, str]]
    """The steps whose results differ."""
    arguments: frozenset[tuple[str, str]]
    """The steps whose arguments differ."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not compared, in words."""
        notes: list[str] = []
        if self.effects:
            notes.append("two undisturbed runs differ in their effects, which are not compared by their number")
        if self.usage:
            notes.append("two undisturbed runs differ in their tokens, which are not compared")
        if self.results:
            which = ", ".join(map(name_step, sorted(self.results)))
            notes.append(f"two undisturbed runs differ in the results of {which}, which are not compared")
        return tuple(notes)


def compare_runs(first: RunLog, second: RunLog) -> Unstable:
    """Return what differs between two undisturbed runs."""
    both = first.kept.keys() & second.kept.keys()
    one, other = _arguments(first), _arguments(second)
    return Unstable(
        outcome=first.outcome != second.outcome,
        effects=first.effect_counts() != second.effect_counts(),
        usage=first.usage != second.usage or any(first.kept[each].usage != second.kept[each].usage for each in both),
        places=first.kept.keys() != second.kept.keys(),
        results=frozenset(place for place in both if first.kept[place].result != second.kept[place].result),
        arguments=frozenset(place for place in one.keys() & other.keys() if one[place] != other[place]),
    )


def _arguments(log: RunLog) -> dict[tuple[str, str], str]:
    return {log.neutral_place(step.place): log.neutral(step.function) for call in log.calls for step in call.steps}


def findings_of_undisturbed(first: RunLog, second: RunLog) -> Iterator[CrashFinding]:
    """Yield the findings that two undisturbed runs show."""
    if first.hung is not None:
        yield CrashFinding(
            "does not end",
            "handler",
            "The handler does not end.",
            None,
            "the handler returns",
            first.hung,
            "give a larger timeout_s, or fake what it waits for",
        )
        return
    yield from findings_of_steps(first)
    yield from _repeated_in_legs(first)
    names = [Counter(name for name, _ in log.kept) for log in (first, second)]
    if first.outcome != second.outcome:
        yield CrashFinding(
            "runs differ",
            "outcome",
            "Two undisturbed runs with the same settings end differently.",
            None,
            f"both end as the first one, {first.outcome}",
            f"the second one ends {second.outcome}",
            "give the handler fakes that answer the same each time, and keep nothing in the process between runs",
        )
    elif names[0] != names[1]:
        yield CrashFinding(
            "unstable names",
            "steps",
            "The names of the steps differ from run to run, so a later attempt cannot find them.",
            None,
            f"the steps of the first run: {_counted(names[0])}",
            f"those of the second run: {_counted(names[1])}",
            "give steps fixed names and keys, without random numbers, times, or anything that only the process knows",
        )


def _counted(names: Counter[str]) -> str:
    return ", ".join(f"{name!r}{f' x {count}' if count > 1 else ''}" for name, count in sorted(names.items())) or "none"


def findings_of_steps(log: RunLog) -> Iterator[CrashFinding]:
    """Yield the findings about single steps: results that are not JSON, and results for other arguments."""
    executed: dict[tuple[str, str], StepCall] = {}
    for call in log.calls:
        for step in call.steps:
            which = name_step(log.neutral_place(step.place))
            if step.refusal is not None:
                is_result = step.is_executed
                yield CrashFinding(
                    "not JSON" if is_result else "refused step",
                    which,
                    f"The {'result of ' if is_result else ''}{which} is refused.",
                    log.point,
                    "a result that is JSON" if is_result else "a step that the library accepts",
                    step.refusal,
                    _JSON_ADVICE if is_result else "correct the step",
                )
            elif step.changed is not None:
                yield CrashFinding(
                    "changed by JSON",
                    which,
                    f"The result of {which} is not the one that a later attempt gets.",
                    log.point,
                    "the same value in each attempt",
                    f"the attempt that executes it gets {step.changed}",
                    _JSON_ADVICE,
                )
            if step.is_executed:
                executed[step.place] = step
            elif step.is_returned and step.place in executed:
                yield from _mixed_up(log, executed[step.place], step, executed)


def _mixed_up(
    log: RunLog, before: StepCall, now: StepCall, executed: dict[tuple[str, str], StepCall]
) -> Iterator[CrashFinding]:
    """Yield a finding if a kept result is returned for other arguments than those it was made for."""
    if before.function == now.function:
        others = {step.closure for step in executed.values() if step.place[0] == now.place[0]}
        if before.closure == now.closure or now.closure not in others:
            return  # what the function holds may differ without harm; what belongs to another step may not
    was, now_is = (_shown(step, before.function == now.function) for step in (before, now))
    which = name_step(log.neutral_place(now.place))
    yield CrashFinding(
        "result of another step",
        which,
        f"A later call of the handler gets the kept result of {which} for other work.",
        log.point,
        f"the result that was kept for {was}, or another key",
        f"the handler asked for {now_is}, and received the result of {was}",
        "make the key from what the step is about (an id, a page), and not from a position or a counter",
    )


def _shown(step: StepCall, with_closure: bool) -> str:
    return f"{step.function} with {step.closure}" if with_closure else step.function


def _repeated_in_legs(log: RunLog) -> Iterator[CrashFinding]:
    """Yield the effects with a key that happen before a tool round, and again after it."""
    legs: dict[tuple[str, str], set[int]] = {}
    for effect in log.effects:
        if effect.key and not effect.is_repeatable:
            legs.setdefault(log.effect_place(effect), set()).add(effect.call.leg)
    for place, found in legs.items():
        if len(found) < 2:
            continue
        steps = [effect.step.place for effect in log.effects if effect.step and log.effect_place(effect) == place]
        if any("<call " in log.neutral("".join(step)) for step in steps):
            continue  # each tool call has a step of its own
        inside = f", in {' and in '.join(name_step(log.neutral_place(step)) for step in steps)}" if steps else ""
        yield CrashFinding(
            "again after a tool round",
            name_effect(place),
            f"The effect {name_effect(place)} happens again in the call of the handler after the tool outputs.",
            None,
            "it happens once: the call after the outputs finds the kept step",
            f"it happens in {len(found)} calls of the handler{inside}",
            "execute it in a step that has the same name and key in each call of the handler",
        )


def name_effect(place: tuple[str, str]) -> str:
    """Return how messages name an effect."""
    return f"{place[0]!r} with the key {place[1]!r}" if place[1] else repr(place[0])
