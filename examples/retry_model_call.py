"""A model that is rate limited and sometimes breaks: the run waits and is called again, and what was paid is kept.

    python examples/retry_model_call.py

A rate limit is no failure: the handler returns `ctx.retry(after_s=...)` with what the provider asks for. A broken
answer is one: the policy of the worker retries it twice, with growing delays. The first call is a step, so it is paid
for once, however often the handler is called.
"""

import asyncio
import logging
import sys
import tempfile
from pathlib import Path

from runstate.store import open_store
from runstate.worker import Context, Outcome, RetryPolicy, Worker


class RateLimited(Exception):
    """What the client of a model raises when it is asked too often."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class Model:
    """Stands for a model: its second answer is a rate limit, its third is broken."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def ask(self, prompt: str) -> str:
        """Answer a prompt."""
        self.calls.append(prompt)
        await asyncio.sleep(0)
        if len(self.calls) == 2:
            raise RateLimited(0.2)
        if len(self.calls) == 3:
            raise ConnectionError("the model hung up")
        return f"an answer to {prompt!r}"


MODEL = Model()


async def ask_model(ctx: Context, prompt: str) -> str:
    """Call the model, and count its tokens."""
    answer = await MODEL.ask(prompt)
    ctx.add_usage(prompt_tokens=len(prompt), completion_tokens=len(answer))
    return answer


async def answer(ctx: Context) -> Outcome:
    """Plan, then write. Each call of the model is a step."""
    try:
        plan = await ctx.step("plan", ask_model, ctx, "make a plan")
        await ctx.step("text", ask_model, ctx, f"write {len(plan)} letters")
    except RateLimited as limit:
        return ctx.retry(after_s=limit.retry_after_s, reason=str(limit), code="rate_limit_exceeded")
    return ctx.complete()


async def main() -> None:
    """Drive one run to its end."""
    policy = RetryPolicy(max_attempts=3, backoff=0.1, retry_on=(ConnectionError, TimeoutError))
    with tempfile.TemporaryDirectory() as folder, open_store(Path(folder) / "runs.db") as store:
        run = await store.aio.create(thread_id="thread_1", assistant_id="asst_1", model="gpt-4o")
        async with Worker(store, answer, retry=policy):
            async for entry in store.aio.watch(run.id):
                print(f"  {entry.event or 'created'}: {entry.target}")
        print("attempts that ended without an outcome:")
        for attempt in store.attempts(run.id):
            print(f"  {attempt.attempt}. {attempt.result}: {(attempt.error or {})['message']}")
        print(f"calls of the model: {MODEL.calls}")
        done = store.get(run.id)
        print(f"{done.status} in attempt {done.attempt}, of which {done.failed} had failed")


logging.basicConfig(stream=sys.stdout, format="  %(levelname)s: %(message)s")
asyncio.run(main())
