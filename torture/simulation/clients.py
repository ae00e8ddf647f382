"""Who asks: clients that create, cancel, submit and move by hand; handlers; workers by hand; an engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from runstate.errors import OutcomeUnknown, RunstateError, StoreError
from runstate.lifecycle import RunEvent
from runstate.run.values import LastError, ToolCall, Usage
from runstate.store import Claim, Lease
from runstate.store._types import StoredRun
from runstate.store._worker_types import Settle
from runstate.worker import Context, Dispatcher, Outcome, RetryLater, RetryPolicy, StepInterrupted, Worker, drive_async
from torture.simulation.ledger import Ask
from torture.simulation.primitives import pause

if TYPE_CHECKING:
    from torture.simulation.process import Process
    from torture.simulation.world import World

__all__ = ["Client", "deliver", "dispatch", "keep_working", "work_by_hand"]

ENGINE: Final = "engine"
_USED: Final = '{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}'
_ONCE: Final = "once"
_STEPS: Final = ("first", _ONCE, "last")
"""The steps of a handler that has some, by name."""
_REPEATABLE: Final = ("request_cancel", "submit_tool_outputs")
_READS: Final = ("get", "list", "history", "is_anything_due", "sweep")


class Client:
    """Somebody who asks for this and that, and notes what it was told."""

    def __init__(self, process: Process, name: str, asks: int) -> None:
        self.process: Final = process
        self.world: Final[World] = process.world
        self.name: Final = name
        self._asks = asks

    def live(self) -> None:
        """Ask from a thread."""
        store = self.process.store

        async def call(method: str, given: Mapping[str, Any]) -> Any:
            return getattr(store, method)(**given)

        async def wait(seconds: float) -> None:
            pause(seconds)

        with suppress(StopIteration):
            self._live(call, wait).send(None)  # to its end: nothing in it is left to wait for

    async def live_later(self) -> None:
        """Ask from a coroutine."""
        store = self.process.store.aio
        await self._live(lambda method, given: getattr(store, method)(**given), asyncio.sleep)

    async def _live(
        self, call: Callable[[str, Mapping[str, Any]], Awaitable[Any]], wait: Callable[[float], Awaitable[None]]
    ) -> None:
        """Ask until there is nothing more to ask."""
        self.world.asking.append(self.process)
        for method, given in self._wishes():
            await wait(self.world.random() * self.world.haste_s)
            if method in _READS:
                with suppress(RunstateError):
                    self._see(await call(method, given))
                continue
            ask = self.world.ledger.ask(method, given, self.name)
            self._named(ask)
            while True:
                try:
                    ask.acknowledge(self._see(await call(method, ask.given)))
                except RunstateError as error:
                    ask.refuse(error)
                if not self._asks_again(ask):
                    break
                await wait(0.1)
            self.world.heard(self.process, ask)
        self.world.asking.remove(self.process)

    def _named(self, ask: Ask) -> None:
        """Give an ask an actor of its own."""
        ask.actor = f"{self.name}.{len(self.world.ledger.asks)}"
        if ask.method == "create_many":
            ask.given = {"runs": [{**one, "actor": ask.actor} for one in ask.given["runs"]]}
        else:
            ask.given = {**ask.given, "actor": ask.actor}

    def _asks_again(self, ask: Ask) -> bool:
        known = ask.method in _REPEATABLE or "idempotency_key" in ask.given or "id" in ask.given
        return ask.told == "unknown" and known and len(ask.tells) < 3 and self.world.random() < 0.6

    def _see(self, answer: Any) -> Any:
        """Remember runs as they were seen last: what to ask of them is decided on that."""
        for run in [answer] if isinstance(answer, StoredRun) else answer if isinstance(answer, list) else ():
            if isinstance(run, StoredRun):
                self.world.seen[run.id] = run
        return answer

    def _wishes(self) -> Any:
        """Yield methods of a store and what to give them."""
        for _ in range(self._asks):
            wish = None if self.world.calm else self._wish(self.world.random())
            if wish is not None:
                yield wish

    def _wish(self, chance: float) -> tuple[str, Mapping[str, Any]] | None:
        world = self.world
        if chance < 0.34 or not world.seen:
            return "create", self._new_run()
        if chance < 0.37:
            return "create_many", {"runs": [self._new_run(plain=True) for _ in range(2 + int(world.random() * 2))]}
        run = world.choose(*world.seen.values())
        if run.required_action is not None and chance < 0.8:
            # Outputs that nobody else gives: the same again would be taken for the same request.
            outputs = dict.fromkeys(run.required_action.call_ids, str(world.count()))
            return "submit_tool_outputs", {"run_id": run.id, "outputs": outputs, **self._from(run)}
        if chance < 0.55:
            return "request_cancel", {"run_id": run.id, **self._from(run)}
        if chance < 0.72:
            return "get", {"run_id": run.id}
        if chance < 0.76:
            return self._look(run)
        return self._by_hand(run)

    def _look(self, run: StoredRun) -> tuple[str, Mapping[str, Any]]:
        chance = self.world.random()
        if chance < 0.3:
            return "history", {"run_id": run.id}
        return ("list", {}) if chance < 0.6 else ("sweep", {"max_attempts": self.world.max_attempts})

    def _by_hand(self, run: StoredRun) -> tuple[str, Mapping[str, Any]] | None:
        world = self.world
        if run.is_terminal and world.random() < 0.8:
            return "get", {"run_id": world.choose(*world.seen)}
        event = world.choose(*RunEvent)
        given: dict[str, Any] = {"run_id": run.id, **self._from(run)}
        if event is RunEvent.REQUIRE_ACTION:
            given["calls"] = [ToolCall(f"call_{len(world.ledger.asks)}", "look", "{}")]
        elif event is RunEvent.FAIL:
            given |= {"code": "server_error", "message": "by hand"}
        elif event is RunEvent.MARK_INCOMPLETE:
            given["reason"] = "max_prompt_tokens"
        elif event is RunEvent.SUBMIT_TOOL_OUTPUTS:
            return None
        return str(event), given

    def _from(self, run: StoredRun) -> Mapping[str, Any]:
        return {"expected_version": run.version} if self.world.random() < 0.4 else {}

    def _new_run(self, plain: bool = False) -> dict[str, Any]:
        world = self.world
        thread = f"thread_{world.choose(1, 2, 3)}"
        given: dict[str, Any] = {"thread_id": thread, "assistant_id": "a", "model": "m"}
        given["expires_in_s"] = world.choose(1, 2, 4, 600, 600, 600)
        if plain:
            return given
        chance = world.random()
        if chance < 0.25:
            given["one_live_run_per_thread"] = world.choose("queue", "reject")
        if chance > 0.8:
            given["queue"] = ENGINE
        chance = world.random()
        if chance < 0.15:  # what others ask under this key, too
            key = world.choose(1, 2, 3)
            given |= {"idempotency_key": f"key_{key}", "thread_id": f"thread_{key}", "queue": "default"}
            given.pop("one_live_run_per_thread", None)
        elif chance < 0.3:
            given["id"] = f"run_{self.name}_{len(world.ledger.asks)}"
        if world.random() < 0.1:
            given["not_before"] = world.scheduler.now / 1_000_000 + world.random() * 2
        if world.random() < 0.1:
            given["priority"] = world.choose(-1, 1)
        return given


# --- work -------------------------------------------------------------------------------------------------------------


def _length(world: World) -> float:
    """Return how long a handler takes: mostly short, now and then longer than the lease."""
    if world.calm:
        return 0.01
    return world.random() * (world.lease_s * 1.6 if world.random() < 0.25 else 0.3)


def _returns(world: World, ctx: Context) -> Outcome | None:
    """Return, or raise, what a handler does in the end."""
    chance = world.random()
    if chance < 0.06:
        raise ValueError("a handler broke")
    if chance < 0.12:
        return ctx.fail("rate_limit_exceeded", "slow down")
    if chance < 0.18:
        return ctx.mark_incomplete("max_completion_tokens")
    if chance < 0.24 and not world.calm:
        return ctx.retry(after_s=world.choose(0.0, 0.1, 1.0), reason="not yet")
    if chance < 0.28 and not world.calm:
        raise RetryLater(world.choose(0.0, 0.3), "not yet")
    if chance < 0.42 and not ctx.tool_outputs and not world.calm:
        return ctx.require_action([ToolCall(f"call_{world.count()}", "look", "{}")])
    return ctx.complete() if chance < 0.7 else None


class _Handling:
    """The handlers of one worker."""

    def __init__(self, process: Process, name: str) -> None:
        self._process = process
        self._world: World = process.world
        self._name = name

    def _begin(self, ctx: Context) -> None:
        world = self._world
        if world.random() < 0.3:
            ctx.add_usage(1, 2)
        world.begun(self._process, ctx.run, ctx._lease.token, self._name, ctx.checkpoint_value)

    @contextmanager
    def _stepping(self, ctx: Context) -> Generator[None, None, None]:
        """Go on where a step was interrupted; note an outage, after which the worker calls the handler again."""
        try:
            yield
        except StepInterrupted:
            return
        except StoreError:
            self._world.ledger.called_again[ctx.run.seq, ctx.lease.token] += 1
            raise

    def _step(self, ctx: Context, name: str) -> int:
        """Be the function of a step."""
        self._world.ledger.execute_step(ctx.run, ctx.lease.token, name, self._name, once=name == _ONCE)
        ctx.add_usage(1, 0)
        return ctx.attempt

    async def _step_later(self, ctx: Context, name: str) -> int:
        """Be the function of a step that takes its time."""
        result = self._step(ctx, name)
        await asyncio.sleep(_length(self._world))
        return result

    def _emit(self, ctx: Context) -> None:
        """Emit an event now and then."""
        if self._world.random() < 0.5:
            value = self._world.count()
            ctx.emit(value)
            self._world.ledger.emit(ctx.run, ctx.lease.token, value)

    async def later(self, ctx: Context) -> Outcome | None:
        """An async handler."""
        world = self._world
        self._begin(ctx)
        for name in _STEPS if world.random() < 0.3 else ():
            self._emit(ctx)
            with self._stepping(ctx):
                await ctx.step(name, self._step_later, ctx, name, once=name == _ONCE)
                world.ledger.keep_step(ctx.run, ctx.lease.token, name)
        if world.random() < 0.2:
            value = world.count()
            try:
                await ctx.checkpoint(value)
                world.ledger.kept[ctx.run.seq] = value
            except StoreError:
                pass
        try:
            await asyncio.sleep(_length(world))
        except asyncio.CancelledError:
            if world.random() < 0.2:
                return ctx.complete()
            raise
        return _returns(world, ctx)

    def plain(self, ctx: Context) -> Outcome | None:
        """A plain handler."""
        world = self._world
        self._begin(ctx)
        for name in _STEPS if world.random() < 0.3 else ():
            self._emit(ctx)
            with self._stepping(ctx):
                ctx.step(name, self._step, ctx, name, once=name == _ONCE)
                world.ledger.keep_step(ctx.run, ctx.lease.token, name)
        left = _length(world)
        while left > 0:
            pause(min(left, 0.1))
            left -= 0.1
            if world.random() < 0.5 and ctx.cancelling:
                return None
        return _returns(world, ctx)


_RETRY: Final = RetryPolicy(max_attempts=2, backoff=0.2, jitter=0.0)


async def keep_working(process: Process, name: str, queues: tuple[str, ...]) -> None:
    """Work, and begin again where there was no store to begin with."""
    world = process.world
    handling = _Handling(process, name)
    while not world.is_closing:
        handler = handling.plain if world.random() < world.plain else handling.later
        worker = Worker(
            process.store,
            handler,
            concurrency=world.choose(1, 2, 4),
            queues=queues,
            name=name,
            lease_s=world.lease_s,
            max_attempts=world.max_attempts,
            drain_s=world.choose(0.0, 0.5, 3.0),
            retry=_RETRY,
        )
        world.workers.append((process, worker))
        try:
            await worker.work()
        except StoreError:
            await asyncio.sleep(0.2)


def work_by_hand(process: Process, name: str) -> None:
    """Work by a loop of one's own, which is careless of its lease."""
    world, store = process.world, process.store
    world.asking.append(process)
    while not world.calm:
        try:
            lease = store.open_lease(name, lease_s=world.lease_s)
        except StoreError:
            pause(0.3)
            continue
        for _ in range(3):
            try:
                _one_round(process, lease)
            except RunstateError:
                pause(0.1)
        if world.random() < 0.5:
            try:
                store.close_lease(lease)
            except StoreError:
                pause(0.1)
    world.asking.remove(process)


def _one_round(process: Process, lease: Lease) -> None:
    world, store = process.world, process.store
    if world.random() < 0.5:
        claims = store.claim(lease, 2)
    else:
        store.sweep(max_attempts=world.max_attempts)
        claims = store.take_over(lease, 2, max_attempts=world.max_attempts)
    for claim in claims:
        world.begun(process, claim.run, lease.token, lease.actor, claim.checkpoint)
    for _ in range(3):
        pause(world.random() * world.lease_s * 0.6)
        if world.random() < 0.7:
            store.heartbeat(lease)
    if claims and world.random() < 0.5:
        released = claims[-1].run
        store.release(lease, released)
        if world.random() < 0.5:  # or else it is settled all the same, which is another's by then
            claims.pop()
        pause(world.random() * 0.3)
        if world.random() < 0.5:  # once more, as who was not sure; by now it may be another's
            store.release(lease, released)
    settles = [_outcome_of(world, claim) for claim in claims]
    if not settles:
        return
    world.ledger.settling(lease.token, settles)
    try:
        came = store.settle(lease, settles)
    except RunstateError as error:
        world.ledger.settled(lease.token, settles, error)
        if isinstance(error, OutcomeUnknown) or world.random() < 0.5:
            return
        world.ledger.settling(lease.token, settles)
        came = store.settle(lease, settles)
    world.ledger.settled(lease.token, settles, came)


def _outcome_of(world: World, claim: Claim) -> Settle:
    chance = world.random()
    if chance > 0.9:
        return Settle.retry_later(claim.run, LastError("server_error", "not yet"), after_s=world.choose(0.0, 0.5))
    if chance < 0.2:
        action = f'{{"type":"submit_tool_outputs","submit_tool_outputs":{{"tool_calls":[{{"id":"call_{world.count()}",'
        action += '"type":"function","function":{"name":"look","arguments":"{}"}}]}}'
        kept = f'{{"required_action":{action}}}'
        return Settle(claim.run, RunEvent.REQUIRE_ACTION, required_action=action, detail=kept, noted=Usage(1, 2))
    return Settle(claim.run, RunEvent.COMPLETE, _USED)


# --- an engine --------------------------------------------------------------------------------------------------------


def dispatch(process: Process) -> None:
    """Look for runs that were not delivered, and have them sent."""
    world = process.world
    dispatcher = Dispatcher(process.store, world.send, queue=ENGINE, after_s=0.5, max_attempts=world.max_attempts)
    while not world.is_closing:
        pause(0.2 + world.random() * 0.4)
        try:
            dispatcher.look()
        except StoreError:
            continue


async def deliver(process: Process, run_id: str) -> None:
    """Drive a run that an engine brought."""
    world = process.world
    name = f"{process.name}.d{world.count()}"
    handling = _Handling(process, name)
    try:
        await drive_async(
            process.store,
            run_id,
            handling.later,
            name=name,
            lease_s=world.lease_s,
            max_attempts=world.max_attempts,
            retry=_RETRY,
        )
    except RunstateError:
        return  # the engine sends it again
