"""The worker: claims runs, calls the handler, commits what came of it, and takes over what others left.

One coroutine goes round: what is done is settled and what is free is claimed in one turn, one commit. While that is
under way other handlers finish, and go into the next. The lease is renewed by a thread (`pulse.py`).
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from runstate.clock import monotonic
from runstate.errors import IllegalTransition, RunstateError, StoreError
from runstate.lifecycle import RunEvent
from runstate.store.bell import Hint
from runstate.store.commands import Settle, Turn, Turned
from runstate.store.working import DEFAULT_MAX_ATTEMPTS, a_claim
from runstate.worker.handling import Handler
from runstate.worker.hands import CANCELLING, Hands, log

if TYPE_CHECKING:
    from runstate.store import Store

__all__ = ["Worker"]

_IDLE_S: Final = (0.02, 0.05, 0.1, 0.2, 0.5)  # between two looks for runs when no hint comes
_AWAY_S: Final = 0.2  # before asking a database again that went away


def _itself(turned: Turned) -> Turned:
    return turned


class Worker(Hands):
    """Drives the runs of a store.

    `handler` is called for every run, plain functions in threads, async ones as tasks, `concurrency` at a time.
    `queues` are served in this order. The lease is `lease_s` seconds: so long after a worker's death its runs wait to
    be taken over; they are begun `max_attempts` times in all. `drain_s` is how long a worker that is stopped waits for
    its handlers.

    `run()` works until SIGTERM or SIGINT; `async with worker:` works beside a program's own loop.
    """

    def __init__(
        self,
        store: Store,
        handler: Handler,
        *,
        concurrency: int = 10,
        queues: Sequence[str] = ("default",),
        name: str | None = None,
        lease_s: float = 30.0,
        max_attempts: int = DEFAULT_MAX_ATTEMPTS,
        drain_s: float = 30.0,
    ) -> None:
        super().__init__(
            store,
            handler,
            concurrency=concurrency,
            queues=queues,
            name=name,
            lease_s=lease_s,
            max_attempts=max_attempts,
        )
        self._drain_s = drain_s
        self._stop_at = float("inf")
        self._going: asyncio.Task[None] | None = None
        self._unsure = False
        self.settled: int = 0
        """How many outcomes were committed."""

    # --- for programs ---------------------------------------------------------------------------------------------

    def run(self, *, until_idle: bool = False) -> None:
        """Work until SIGTERM or SIGINT, or until there is nothing to do. Blocks."""
        asyncio.run(self._run(until_idle))

    async def _run(self, until_idle: bool) -> None:
        loop = asyncio.get_running_loop()
        with ExitStack() as undo:
            for number in (signal.SIGTERM, signal.SIGINT):
                with suppress(NotImplementedError, ValueError, RuntimeError):  # not the main thread, or not Unix
                    loop.add_signal_handler(number, self.stop)
                    undo.callback(loop.remove_signal_handler, number)
            await self.work(until_idle=until_idle)

    async def __aenter__(self) -> Self:
        await self._set_up()
        self._going = asyncio.create_task(self._work(until_idle=False))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._going is not None:
            await self._going

    def stop(self) -> None:
        """Claim no more, let the handlers finish for `drain_s` seconds, then release their runs. Again: at once."""
        now = monotonic()
        self._stop_at = now if self._stopping else now + self._drain_s
        self._stopping = True
        with suppress(AttributeError):  # stopped before it began
            self._woken.set()

    async def work(self, *, until_idle: bool = False) -> None:
        """Work until `stop`, or until there is nothing to do."""
        await self._set_up()
        await self._work(until_idle=until_idle)

    async def _set_up(self) -> None:
        self._woken = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._pool = ThreadPoolExecutor(self._concurrency, thread_name_prefix="runstate-handler")
        await self._take_lease()

    async def _work(self, *, until_idle: bool) -> None:
        chores = asyncio.create_task(self._do_chores())
        try:
            with self._store.bell.listening(self._hear):
                await self._go_round(until_idle)
        finally:
            chores.cancel()
            with suppress(asyncio.CancelledError):
                await chores
            await self._give_back()
            self._pool.shutdown(wait=False)

    # --- going round ----------------------------------------------------------------------------------------------

    def _hear(self, hint: Hint) -> None:
        """Listen to the bell, from any thread."""
        if hint & (Hint.QUEUED | Hint.CANCELLING):
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._take_hint, hint)

    def _take_hint(self, hint: Hint) -> None:
        if hint & Hint.QUEUED:
            self._hinted = True
            self._woken.set()
        if hint & Hint.CANCELLING and self._working:
            self._look_for_cancels()

    async def _go_round(self, until_idle: bool) -> None:
        looks = 0
        while True:
            if self._lost and not self._stopping:
                await self._take_new_lease()
            free = self._free()
            if self._done or (free and self._hinted):
                self._hinted = False
                claimed = await self._take_turn(free)
                if claimed:
                    looks = 0
                # A full hand is a sign of more; an empty one is not asked again until a hint, or a while.
                self._hinted = self._hinted or 0 < claimed == free
                continue
            if self._is_over(until_idle):
                return
            await self._rest(_IDLE_S[min(looks, len(_IDLE_S) - 1)])
            looks += 1

    def _free(self) -> int:
        return 0 if self._stopping else self._concurrency - len(self._working)

    def _is_over(self, until_idle: bool) -> bool:
        if self._stopping:
            return not self._working or monotonic() >= self._stop_at
        return until_idle and not self._working

    async def _rest(self, seconds: float) -> None:
        """Wait for a handler to finish, for a hint, or for a while."""
        self._woken.clear()
        left = max(0.0, self._stop_at - monotonic())
        again = self._loop.call_later(min(seconds, left), self._look_again)
        try:
            await self._woken.wait()
        finally:
            again.cancel()

    def _look_again(self) -> None:
        self._hinted = True
        self._woken.set()

    async def _take_turn(self, free: int) -> int:
        """Settle what is done and claim what is free, in one commit; return how many were claimed."""
        settles, self._done = self._done, []
        held = frozenset(self._working) if self._unsure else frozenset[int]()
        turn = Turn(
            self._lease.token,
            self.name,
            _itself,
            queues=self._queues if free else (),
            limit=free,
            settles=settles,
            held=held,
        )
        turn.unsure = self._unsure
        try:
            turned = await self._store.ask_later(turn)
        except StoreError as error:
            # As long as the lease holds nobody else ends these runs: keep the outcomes, and ask again.
            log.warning("%s; asking again", error)
            self._unsure = True
            self._done = [*settles, *self._done]
            self._hinted = True
            await asyncio.sleep(_AWAY_S)
            return 0
        self._unsure = False
        self.settled += len(settles) - len(turned.refused)
        if turned.refused:
            self._take_refusals(settles, turned.refused)
        for run, past in turned.claimed:
            self._start(a_claim(run, past))
        return len(turned.claimed)

    def _take_refusals(self, settles: Sequence[Settle], refused: Mapping[int, RunstateError]) -> None:
        for settle in settles:
            error = refused.get(settle.run.seq)
            if error is None:
                continue
            if isinstance(error, IllegalTransition) and error.status is CANCELLING:
                # Somebody asked to cancel in the meantime, and from there no tools can be asked for.
                self._done.append(Settle(settle.run, RunEvent.CONFIRM_CANCEL))
                continue
            log.warning("outcome not taken: %s", error)
