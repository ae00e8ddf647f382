"""An agent of Pydantic AI that survives its worker: no model request and no tool call that was kept is paid for again.

    pip install 'pydantic-ai-slim>=2.60'
    python examples/agent_with_pydantic_ai.py

A worker process runs an agent with several model requests and tool calls, and is killed with SIGKILL in the middle. A
second worker takes the run over and finishes it. The model is a function, so the example needs no network: with
`Agent("openai:gpt-5", ...)` instead, the rest of the program stays as it is.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

try:
    from pydantic_ai import Agent
    from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
    from pydantic_ai.models.function import AgentInfo, FunctionModel
    from pydantic_ai.usage import RequestUsage
except ImportError:
    print("This example needs pydantic-ai: pip install 'pydantic-ai-slim>=2.60'")
    sys.exit()

from runstate.integrations.pydantic_ai import RunstateDurability, run_agent
from runstate.store import Store, open_store
from runstate.worker import Context, Worker

LEASE_S = 2.0  # so long after the death of its worker the run waits for another
LIMIT_S = 50.0
FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
URL = f"sqlite:///{FOLDER}/runs.db"
CALLS = FOLDER / "calls"  # has a line for each call that is paid for
FIRST = FOLDER / "first"  # is there while the first worker is at work


def pay(call: str) -> None:
    """Note a call that costs money."""
    with CALLS.open("a") as file:
        file.write(f"{call}\n")


def model(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Answer as a model would: search twice at once, then compare what was found, then say it."""
    results = [part for message in messages for part in message.parts if isinstance(part, ToolReturnPart)]
    pay(f"model request {len(messages) // 2 + 1}")
    usage = RequestUsage(input_tokens=100, output_tokens=20)
    if not results:
        searches = [ToolCallPart("search", {"city": city}, f"call_{city}") for city in ("Paris", "Rome")]
        return ModelResponse(parts=searches, usage=usage)
    if len(results) == 2:
        compare_call = ToolCallPart("compare", {"found": [str(result.content) for result in results]}, "call_compare")
        return ModelResponse(parts=[compare_call], usage=usage)
    return ModelResponse(parts=[TextPart(str(results[-1].content))], usage=usage)


agent = Agent(FunctionModel(model), name="traveller", capabilities=[RunstateDurability()])


@agent.tool_plain
def search(city: str) -> str:
    """Search for a city."""
    pay(f"search {city}")
    return f"{city}: {len(city)} museums"


@agent.tool_plain
def compare(found: list[str]) -> str:
    """Compare what was found. The first worker is killed here."""
    pay("compare")
    if FIRST.exists():
        time.sleep(LIMIT_S)
    return f"The best of {' and '.join(found)} is the first."


async def answer(ctx: Context) -> None:
    """Handle a run: let the agent answer, and send the answer once."""
    result = await run_agent(ctx, agent, "Paris or Rome?")
    await ctx.step("send", pay, f"send {result.output!r}")


def start_worker() -> subprocess.Popen[bytes]:
    """Start a worker in a process of its own."""
    return subprocess.Popen([sys.executable, __file__, FOLDER])


def wait_for(call: str) -> None:
    """Wait until a call has begun."""
    end = time.monotonic() + LIMIT_S
    while call not in (CALLS.read_text().splitlines() if CALLS.exists() else []):
        if time.monotonic() > end:
            sys.exit(f"waited {LIMIT_S:g} seconds for {call!r}")
        time.sleep(0.05)


def play(store: Store) -> None:
    """Kill a worker in the middle of a run, and let another one finish it."""
    run = store.create(thread_id="thread_1", assistant_id="asst_1", model="gpt-5")
    FIRST.touch()
    first = start_worker()
    try:
        wait_for("compare")
    finally:
        first.kill()
        first.wait()
    FIRST.unlink()
    before = Counter(CALLS.read_text().splitlines())
    kept = store.steps(run.id)
    print(f"the first worker was killed after {before.total()} calls; {len(kept)} results are kept:")
    for step in kept:
        print(f"  {step.number}. {step.name}, {step.usage.total_tokens} tokens")
    if start_worker().wait(LIMIT_S):
        sys.exit("the second worker failed")

    after = Counter(CALLS.read_text().splitlines())
    print("all calls:")
    for call, times in after.items():
        print(f"  {call}: {times}")
    run = store.get(run.id)
    tokens = 0 if run.usage is None else run.usage.total_tokens
    print(f"{run.status} in attempt {run.attempt}, {tokens} tokens")
    assert run.status == "completed"
    assert len(kept) == before.total() - 1  # all but the call in which the worker died
    assert {call for call, times in after.items() if times > 1} == {"compare"}
    assert tokens == 3 * 120


def main() -> None:
    """Work on the runs of a folder, or show it all."""
    with open_store(URL) as store:
        if len(sys.argv) > 1:
            while not all(run.is_terminal for run in store.list()):
                Worker(store, answer, lease_s=LEASE_S).run(until_idle=True)
                time.sleep(0.1)  # the run of a dead worker is not claimable before its lease ends
        else:
            play(store)
            shutil.rmtree(FOLDER)


if __name__ == "__main__":
    main()
