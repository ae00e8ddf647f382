"""Conducts a storm: begins it, does harm for so long, lets it end, and checks what is left."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from time import monotonic, sleep
from typing import Final

from tests.support.judge import asking
from torture.fleet.unwritable import check_unwritable
from torture.ground import GaveUp, Ground, wait_until
from torture.storm.harm import Harm, united
from torture.storm.stage import Stage
from torture.verdict import Verdict

LEASE_S: Final = 1.5
TAKEN_OVER_S: Final = 5.0
"""How long after a worker's death and its lease its runs may wait, 99 times of 100, while the store can be written."""
FIRST_S: Final = 30.0
"""In which a run is completed, when all has begun."""
EVERY_S: Final = (0.1, 1.0)
"""Between two harms."""

Progress = Callable[[float, Verdict], None]
"""Is told the seconds since the beginning."""


def storm(
    ground: Ground,
    where: str,
    minutes: float,
    *,
    bug: str | None = None,
    progress: Progress | None = None,
    pooler: bool = False,
) -> Verdict:
    """Hold a storm on `postgres` or `sqlite` of our own, or on the store at a URL; through a pooler if so asked."""
    verdict = Verdict("storm")
    began = monotonic()
    chance = Random(f"{ground.seed} harm")
    with Stage(ground, where, ground.seed, bug, LEASE_S, pooler=pooler) as stage:
        verdict.trial = f"storm/{'sqlite' if stage.is_sqlite else 'postgres'}{' through a pooler' if pooler else ''}"
        harm = Harm(stage, chance)
        stage.begin()
        if stage.missing:
            verdict.notes["not done"] = "; ".join(stage.missing)
        try:
            _wait_for_work(stage)
        except GaveUp as error:
            verdict.wrong.append(str(error))
            return verdict
        _do_harm(stage, harm, verdict, began, began + 60 * minutes, progress)
        harm.heal()
        stage.fleet.finish(verdict, stage.url)
        if stage.has_unwritable:
            check_unwritable(verdict, stage.url)
        _check(stage, harm, verdict)
    verdict.seconds = monotonic() - began
    return verdict


def _wait_for_work(stage: Stage) -> None:
    def is_under_way() -> bool:
        with asking(stage.url) as ask:
            return bool(ask("SELECT 1 FROM runstate_history WHERE event = 'complete' LIMIT 1"))

    wait_until(is_under_way, "the first run to be completed", FIRST_S)


def _do_harm(stage: Stage, harm: Harm, verdict: Verdict, began: float, until: float, progress: Progress | None) -> None:
    kinds = harm.kinds()
    weights = [weight for weight, _ in kinds.values()]
    shown_at = began
    while (now := monotonic()) < until and not verdict.wrong:
        sleep(harm.chance.uniform(*EVERY_S))
        harm.tick(monotonic())
        kind = harm.chance.choices([*kinds], weights)[0]
        if kinds[kind][1]():
            verdict.faults[kind] += 1
            verdict.trials += 1
        verdict.wrong += stage.fleet.processes.fallen()
        if progress is not None and now > shown_at + 5.0:
            shown_at = now
            progress(now - began, verdict)


def _check(stage: Stage, harm: Harm, verdict: Verdict) -> None:
    """Check all that is written, and how long runs waited to be taken over."""
    if not stage.is_sqlite:
        with asking(stage.url) as ask:
            verdict.notes["server"] = f"PostgreSQL {ask('SHOW server_version')[0][0]}"
    outages = united(harm.outages)
    if outages:
        verdict.notes["nobody could write, s"] = round(sum(until - since for since, until in outages), 1)
    if stage.skewed:
        verdict.faults["a worker's clock an hour off"] = stage.skewed
    stage.fleet.check(verdict, stage.url, harm.died, outages)
    spread = verdict.notes.get("take-over after the death, s")
    if spread is not None and spread["n"] >= 100:
        most = stage.settings.lease_s + TAKEN_OVER_S
        verdict.expect(
            spread["p99"] <= most, f"take-over after a death took {spread['p99']} s at p99, more than {most:g}"
        )
