"""The workers of a fleet: real ones, whose handlers keep a log, and who write down the replies that they receive."""

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
from runstate.worker import RetryPolicy, Worker
from runstate.worker import _batches as batches
from torture.fleet.handler import RETRY_S, Again, Handling
from torture.fleet.handler_log import SideLog, skew
from torture.fleet.replies import Reply, ReplyLog, answer_of
from torture.fleet.settings import Settings, opened_store

MAX_ATTEMPTS: Final = 20
"""More than any run is begun: what fails for want of attempts would hide what was lost."""


def work(name: str, settings: Settings) -> None:
    """Be a worker until somebody kills this process."""
    chance = Random(f"{settings.seed} {name}")
    if settings.skew_s:
        skew(settings.skew_s)
    with opened_store(name, settings) as store:
        listen(store, ReplyLog(settings.replies, name), name)
        handling = Handling(SideLog(settings.side, name), settings.slow_s)
        # Half of the workers have two requests under way, although they have few slots.
        vars(batches)["_LEAST_SLOTS"] = chance.choice((1, 1000))
        asynchronous = chance.random() < 0.8 if settings.asynchronous is None else settings.asynchronous
        try:
            Worker(
                store,
                handling.later if asynchronous else handling.now,
                concurrency=settings.concurrency or chance.choice((4, 16, 24)),
                name=name,
                lease_s=settings.lease_s,
                max_attempts=MAX_ATTEMPTS,
                retry=RetryPolicy(backoff=RETRY_S, jitter=0.0, retry_on=Again),
            ).run()
        except BaseException:
            logging.exception("the worker fell")
            raise


def listen(store: Store, log: ReplyLog, name: str) -> None:
    """Have what this store answers to a worker's turns written down."""
    submit = store._committer.submit

    def write(settles: Sequence[Settle], answered: asyncio.Future[SettleAndClaimResult]) -> None:
        if answered.cancelled():
            return
        error = answered.exception()
        refused = answered.result().refused if error is None else {}
        replies = []
        for settle in settles:
            run = settle.run
            answer = answer_of(error or refused.get(run.seq))
            event = str(settle.event) if settle.retry is None else "retry"
            replies.append(Reply("settle", answer, run.id, event, name, run.version, run.attempt))
        log.write(replies)

    def ask(command: Command[Any]) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = submit(command)
        if isinstance(command, SettleAndClaim) and command.settles:
            future.add_done_callback(partial(write, command.settles))
        return future

    store._committer.submit = ask  # type: ignore[method-assign]
