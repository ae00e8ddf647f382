"""Runs that survive: a store in a file, a handler with a tool round, a worker beside your own loop, and a cancel.

    python examples/durable_worker.py

Kill it at any moment and nothing is lost: every line it prints was committed before. The store is opened by a URL, so
`postgresql://user@host/database` instead of the file makes this a program for many machines.
"""

import asyncio
import tempfile

from runstate import RunStatus
from runstate.store import AsyncStore, Entry, open_store
from runstate.worker import Context, Outcome, Worker


async def answer(ctx: Context) -> Outcome:
    """Work on one run. This is where your model is called; a plain function does as well, and gets a thread."""
    if ctx.run.instructions == "ponder":
        await asyncio.sleep(3600)  # a cancel arrives here, as asyncio.CancelledError
    if not ctx.tool_outputs:
        return ctx.require_action([ctx.tool_call("weather", city="Paris")])  # called again when they are there
    ctx.add_usage(prompt_tokens=40, completion_tokens=25)  # past a limit of the run it ends as incomplete
    return ctx.complete()


def tell(entry: Entry) -> None:
    """Print one entry of a run's history."""
    print(f"  {entry.version}. {entry.event or 'born'}: {entry.target}, asked by {entry.actor}")


async def use_the_tools(runs: AsyncStore, run_id: str) -> None:
    """Answer the calls that a run waits for, all at once; it is queued again, and its handler gets the outputs."""
    action = (await runs.get(run_id)).required_action
    if action is not None:
        await runs.submit_tool_outputs(run_id, dict.fromkeys(action.call_ids, "sunny"), actor="web")


async def ask_for_the_weather(runs: AsyncStore) -> None:
    """Create a run, and follow it to its end."""
    run = await runs.create(thread_id="thread_1", assistant_id="asst_1", model="gpt-4o", actor="web")
    async for entry in runs.watch(run.id):
        tell(entry)
        if entry.target is RunStatus.REQUIRES_ACTION:
            await use_the_tools(runs, run.id)
    run = await runs.get(run.id)
    print(f"  {run.status}, {run.usage}")


async def change_your_mind(runs: AsyncStore) -> None:
    """Cancel a run while its handler is at work."""
    run = await runs.create(
        thread_id="thread_2", assistant_id="asst_1", model="gpt-4o", instructions="ponder", actor="web"
    )
    async for entry in runs.watch(run.id):
        tell(entry)
        if entry.target is RunStatus.IN_PROGRESS:
            await runs.request_cancel(run.id, actor="web")


async def main() -> None:
    """Drive two runs, one to its end and one to its cancel."""
    with tempfile.TemporaryDirectory() as folder, open_store(f"sqlite:///{folder}/runs.db") as store:
        async with Worker(store, answer, name="worker_1"):  # at the end it finishes what it has, and claims no more
            print("a run with a tool round")
            await ask_for_the_weather(store.aio)
            print("a run that is cancelled at work")
            await change_your_mind(store.aio)
        kept = {str(status): count for status, count in store.counts().items() if count}
        print(f"what is kept: {kept}")


if __name__ == "__main__":
    asyncio.run(main())
