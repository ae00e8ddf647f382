"""What a death of the worker has changed: a run with a death, compared with an undisturbed one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from runstate.run.values import NO_USAGE, Usage
from runstate.testing.crash._log import EffectRecord, HandlerCall, Operation, RunLog, StepCall, name_step
from runstate.testing.crash._report import CrashFinding
from runstate.testing.crash._undisturbed import Unstable, findings_of_steps, name_effect

__all__ = ["CAUSES", "findings_after_death", "notes_after_death"]

CAUSES: Final = frozenset({"step not found again", "result of another step", "death caught", "interruption ignored"})
"""Kinds of findings that explain others at the same point of death."""

_STEP_ADVICE: Final = "execute it in a step, so that its result is kept"


def findings_after_death(log: RunLog, usual: RunLog, unstable: Unstable) -> Iterator[CrashFinding]:
    """Yield the findings of a run with a death, compared with the undisturbed run `usual`."""
    causes = [*_of_the_death(log), *_not_found_again(log, usual), *_interruption_ignored(log, usual)]
    yield from causes
    steps = [each for each in findings_of_steps(log) if unstable_arguments(each, unstable)]
    yield from steps
    is_explained = any(each.kind in CAUSES for each in (*causes, *steps))
    yield from _repeated_effects(log, usual, unstable, is_explained)
    if is_explained or log.hung is not None:
        return
    yield from _other_outcome(log, usual, unstable)
    if not log.interrupted or usual.interrupted:
        for compare in (_missing_effects, _other_steps, _other_usage):
            found = tuple(compare(log, usual, unstable))
            yield from found
            if found:
                return  # the others follow from it


def unstable_arguments(finding: CrashFinding, unstable: Unstable) -> bool:
    """Return whether a finding stands: not if the arguments of its step differ from run to run anyway."""
    return finding.kind != "result of another step" or finding.subject not in map(name_step, unstable.arguments)


def notes_after_death(log: RunLog, usual: RunLog) -> Iterator[str]:
    """Yield what happened again and is allowed."""
    usual_counts = usual.effect_counts()
    for place, count in log.effect_counts().items():
        if count <= usual_counts.get(place, 0):
            continue
        pair = _pair(log, place)
        if pair is not None and pair[0].step is not None and pair[0].step.kept_at is None:
            which = name_step(log.neutral_place(pair[0].step.place))
            yield f"{which} is executed again if the worker dies before its result is committed"
    for place in log.interrupted:
        if place not in usual.interrupted:
            yield f"after a death inside {name_step(place)}, the run is {log.run.status}"


# --- the causes -------------------------------------------------------------------------------------------------------


def _of_the_death(log: RunLog) -> Iterator[CrashFinding]:
    if log.hung is not None:
        yield CrashFinding(
            "does not end",
            "handler",
            "The handler does not end after a death.",
            log.point,
            "the next attempt finishes the run",
            log.hung,
            "look for a wait or a loop that relies on the attempt before",
        )
    dead = log.dead_call
    if dead is not None and dead.has_swallowed:
        yield CrashFinding(
            "death caught",
            "handler",
            "The handler catches the death of its worker, and goes on.",
            log.point,
            "the handler ends with the exception that it received",
            "it returned, or used its context again",
            "catch `Exception`, not `BaseException` or everything; such a handler also catches its cancellation",
        )


def _not_found_again(log: RunLog, usual: RunLog) -> Iterator[CrashFinding]:
    """Yield the steps that were kept before the death, and that the next attempt did not ask for."""
    dead = log.dead_call
    if dead is None or dead.number + 1 >= len(log.calls) or len(log.kept) <= len(usual.kept):
        return
    following = log.calls[dead.number + 1]
    if following.leg != dead.leg:
        return
    asked = {step.place for step in following.steps}
    saved_at = max((each.number for each in _checkpoints(log, dead)), default=-1)
    for step in dead.steps:
        known_at = step.kept_at if step.kept_at is not None else step.marked_at
        is_known = step.is_returned or known_at is not None
        if not is_known or step.place in asked or (known_at is not None and known_at < saved_at):
            continue
        which = name_step(log.neutral_place(step.place))
        new = [name_step(log.neutral_place(each.place)) for each in following.steps if each.is_executed]
        yield CrashFinding(
            "step not found again",
            f"step {step.place[0]!r}",
            f"The next attempt does not find {which} again.",
            log.point,
            f"the next attempt asks for {which}, and gets the kept result",
            f"it executed {_listed(new)} instead",
            "give the step a name and a key that every attempt computes in the same way: no random number, no time,"
            " no counter that goes on",
        )
        return


def _listed(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more if names else "nothing"


def _checkpoints(log: RunLog, call: HandlerCall) -> list[Operation]:
    return [each for each in log.operations if each.kind == "checkpoint" and each.call is call and each.is_committed]


def _interruption_ignored(log: RunLog, usual: RunLog) -> Iterator[CrashFinding]:
    """Yield the steps that may have happened, if the run completed without a decision about them."""
    if log.status != "completed":
        return
    has_decided = log.kept.keys() - usual.kept.keys() or log.effect_counts().keys() - usual.effect_counts().keys()
    asked = {log.neutral_place(step.place) for call in log.calls for step in call.steps if step.is_interrupted}
    for place in log.interrupted:
        if place in asked and place not in usual.interrupted and not has_decided:
            yield CrashFinding(
                "interruption ignored",
                name_step(place),
                f"The handler ignores that {name_step(place)} was interrupted.",
                log.point,
                "the handler finds out what the step has done, in another step, or fails the run",
                "it caught `StepInterrupted`, and the run completed without a result of the step",
                "in `except StepInterrupted`, look the effect up in a step of its own, or return `ctx.fail(...)`",
            )


# --- the effects ------------------------------------------------------------------------------------------------------


def _pair(log: RunLog, place: tuple[str, str]) -> tuple[EffectRecord, EffectRecord] | None:
    """Return an effect before the death and the same one after it, or None."""
    dead = log.dead_call
    found = [effect for effect in log.effects if log.effect_place(effect) == place]
    before = [effect for effect in found if dead is not None and effect.call.number <= dead.number]
    after = [effect for effect in found if dead is not None and effect.call.number > dead.number]
    return (before[-1], after[0]) if before and after else None


def _repeated_effects(log: RunLog, usual: RunLog, unstable: Unstable, is_explained: bool) -> Iterator[CrashFinding]:
    usual_counts = usual.effect_counts()
    for place, count in log.effect_counts().items():
        most = usual_counts.get(place, 0)
        pair = _pair(log, place)
        if count <= most or (pair is None and (unstable.effects or most == 0)):
            continue
        if pair is None:
            yield _again(log, place, "effect more often", most, count, "", "look at what the next attempt does again")
            continue
        finding = _judge_pair(log, place, pair, most, count)
        if finding is not None and not (is_explained and finding.kind == "kept step executed again"):
            yield finding


def _judge_pair(
    log: RunLog, place: tuple[str, str], pair: tuple[EffectRecord, EffectRecord], most: int, count: int
) -> CrashFinding | None:
    """Return the finding about an effect that happened before and after the death, or None if that is allowed."""
    before, after = pair
    step = before.step
    if step is None or after.step is None:
        saved = any(each.number >= before.at for each in _checkpoints(log, before.call))
        if saved:
            told = ", although a checkpoint was saved after it"
            return _again(
                log,
                place,
                "checkpoint ignored",
                most,
                count,
                told,
                "begin with `ctx.checkpoint_value`, and skip the work that it covers",
            )
        if before.is_repeatable and after.is_repeatable:
            return None
        return _again(log, place, "effect outside a step", most, count, ", outside any step", _STEP_ADVICE)
    if step.once:
        told = f", in {name_step(log.neutral_place(step.place))}, which has once=True"
        return _again(log, place, "once executed twice", most, count, told, "give the step a fixed name and key")
    if step.kept_at is not None:
        told = f", although the result of {name_step(log.neutral_place(step.place))} was kept"
        return _again(log, place, "kept step executed again", most, count, told, "give the step a fixed name and key")
    return None


def _again(
    log: RunLog, place: tuple[str, str], kind: str, most: int, count: int, how: str, advice: str
) -> CrashFinding:
    return CrashFinding(
        kind,
        name_effect(place),
        f"The effect {name_effect(place)} happens again after a death{how}.",
        log.point,
        f"it {_happens(most)}, as in the undisturbed run",
        f"it {_happened(count)}",
        advice,
    )


def _happens(count: int) -> str:
    return f"happens {_times(count)}" if count else "does not happen"


def _happened(count: int) -> str:
    return f"happened {_times(count)}" if count else "did not happen"


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _missing_effects(log: RunLog, usual: RunLog, unstable: Unstable) -> Iterator[CrashFinding]:
    if unstable.effects or log.status != usual.status:
        return
    counts = log.effect_counts()
    for place, least in usual.effect_counts().items():
        if counts.get(place, 0) < least:
            yield CrashFinding(
                "effect lost",
                name_effect(place),
                f"The effect {name_effect(place)} does not happen if the worker dies.",
                log.point,
                f"it {_happens(least)}, as in the undisturbed run",
                f"it {_happened(counts.get(place, 0))}",
                "look for work that the next attempt takes for done",
            )


# --- what is left in the end ------------------------------------------------------------------------------------------


def _other_steps(log: RunLog, usual: RunLog, unstable: Unstable) -> Iterator[CrashFinding]:
    if log.status != usual.status:
        return
    if not unstable.places and log.kept.keys() != usual.kept.keys():
        lost = [name_step(place) for place in usual.kept if place not in log.kept]
        new = [name_step(place) for place in log.kept if place not in usual.kept]
        yield CrashFinding(
            "other steps",
            _listed(lost + new),
            "The run ends with other steps than without a death.",
            log.point,
            "the steps of the undisturbed run",
            f"missing: {_listed(lost)}; new: {_listed(new)}",
            "make each attempt execute the same steps: let nothing depend on the attempt or on the process",
        )
    for place, step in log.kept.items():
        before = usual.kept.get(place)
        if before is not None and before.result != step.result and place not in unstable.results:
            yield CrashFinding(
                "other result",
                name_step(place),
                f"The result of {name_step(place)} is another one than without a death.",
                log.point,
                _short(before.result),
                _short(step.result),
                "make the result depend on the arguments of the step and on kept results alone",
            )
        elif before is not None and before.usage != step.usage and not unstable.usage:
            yield CrashFinding(
                "other usage of a step",
                name_step(place),
                f"The tokens of {name_step(place)} are others than without a death.",
                log.point,
                _tokens(before.usage),
                _tokens(step.usage),
                "call `ctx.add_usage` inside the function of the step",
            )


def _short(text: str, most: int = 80) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


def _tokens(usage: Usage) -> str:
    return f"{usage.prompt_tokens} prompt and {usage.completion_tokens} completion tokens"


def _other_usage(log: RunLog, usual: RunLog, unstable: Unstable) -> Iterator[CrashFinding]:
    """Yield the finding about the tokens of the run. A step that is executed again may have used tokens twice."""
    if unstable.usage or log.status != usual.status:
        return
    low, found, high = usual.usage, log.usage, _most_usage(log, usual.usage)
    if found.prompt_tokens < low.prompt_tokens or found.completion_tokens < low.completion_tokens:
        yield CrashFinding(
            "usage lost",
            "usage",
            "Tokens are lost if the worker dies.",
            log.point,
            _tokens(low),
            _tokens(found),
            "call `ctx.add_usage` inside the function of the step that used the tokens: then they are kept with it",
        )
    elif found.prompt_tokens > high.prompt_tokens or found.completion_tokens > high.completion_tokens:
        yield CrashFinding(
            "usage counted again",
            "usage",
            "Tokens are counted again after a death.",
            log.point,
            _tokens(low),
            _tokens(found),
            "call `ctx.add_usage` inside the function of a step: then the next attempt does not count them again",
        )


def _most_usage(log: RunLog, usage: Usage) -> Usage:
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    for step in _lost_executions(log):
        prompt += step.usage.prompt_tokens
        completion += step.usage.completion_tokens
    return Usage(prompt, completion) if prompt or completion else NO_USAGE


def _lost_executions(log: RunLog) -> Iterator[StepCall]:
    """Yield the executions of steps whose results were not kept."""
    for call in log.calls:
        yield from (step for step in call.steps if step.is_executed and step.kept_at is None)


def _other_outcome(log: RunLog, usual: RunLog, unstable: Unstable) -> Iterator[CrashFinding]:
    if unstable.outcome or log.outcome == usual.outcome:
        return
    if log.interrupted and log.status == "failed":
        return  # the handler has decided so about a step that may have happened
    yield CrashFinding(
        "other outcome",
        "outcome",
        "The run ends differently if the worker dies.",
        log.point,
        usual.outcome,
        log.outcome,
        "make each attempt come to the same end: let nothing depend on the attempt or on the process",
    )
