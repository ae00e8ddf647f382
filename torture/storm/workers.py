"""The workers of a storm: the real ones, whose handlers keep a side log, and who write down what they are told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from random import Random
from typing import Any, Final

from runstate.store import SettleAndClaimResult, Store
from runstate.store._engine.commands import Command, SettleAndClaim
from runstate.store._worker_types import Settle
from runstate.worker import Worker
from torture.storm.clients import Plot, taking_part
from torture.storm.told import Ear, Told, answer_of
from torture.trials.handler import Handling, SideLog, skew

MAX_ATTEMPTS: Final = 20
"""More than any run is begun: what fails for want of attempts would hide what was lost."""


def work(name: str, plot: Plot) -> None:
    """Be a worker until somebody kills this process."""
    chance = Random(f"{plot.seed} {name}")
    if plot.skew_s:
        skew(plot.skew_s)
    with taking_part(name, plot) as store:
        listen(store, Ear(plot.told, name), name)
        handling = Handling(SideLog(plot.side, name), 0.3)
        handler = handling.later if chance.random() < 0.8 else handling.now
        try:
            Worker(
                store,
                handler,
                concurrency=chance.choice((4, 16, 24)),
                name=name,
                lease_s=plot.lease_s,
                max_attempts=MAX_ATTEMPTS,
            ).run()
        except BaseException:
            logging.exception("the worker fell")
            raise


def listen(store: Store, ear: Ear, name: str) -> None:
    """Have what this store answers to a worker's turns written down."""
    submit = store._committer.submit

    def hear(settles: Sequence[Settle], answered: asyncio.Future[SettleAndClaimResult]) -> None:
        if answered.cancelled():
            return
        error = answered.exception()
        refused = answered.result().refused if error is None else {}
        told = []
        for settle in settles:
            run = settle.run
            answer = answer_of(error or refused.get(run.seq))
            told.append(Told("settle", answer, run.id, str(settle.event), name, run.version, run.attempt))
        ear.hear(told)

    def ask(command: Command[Any]) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = submit(command)
        if isinstance(command, SettleAndClaim) and command.settles:
            future.add_done_callback(partial(hear, command.settles))
        return future

    store._committer.submit = ask  # type: ignore[method-assign]
