"""Agents of Pydantic AI in handlers: what was paid for is returned from the kept results, without a network."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("pydantic_ai", reason="pydantic-ai is not installed")

from pydantic_ai import Agent, ModelRetry, RunContext
from pydantic_ai.capabilities import AbstractCapability, durable_operation
from pydantic_ai.exceptions import ApprovalRequired, CallDeferred, UserError
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    PartStartEvent,
    SystemPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.tools import DeferredToolRequests
from pydantic_ai.toolsets import DynamicToolset, FunctionToolset
from pydantic_ai.usage import RequestUsage

from runstate import Usage
from runstate.integrations.pydantic_ai import RunstateDurability, handle_run, require_tools, run_agent, use_steps
from runstate.integrations.pydantic_ai._backend import KeptResultError, StepCodec, content_key
from runstate.store import Store, open_store
from runstate.worker import Context, Outcome, StepInterrupted
from tests.worker.support import at_work, ended, error_of, finish, finished, limited, new, until

if TYPE_CHECKING:
    from pydantic_ai.models import ModelRequestContext

TestModel.__test__ = False  # pytest takes it for a test

Handler = Callable[[Context], Awaitable[Outcome | None]]


@pytest.fixture
def store() -> Iterator[Store]:
    with open_store("sqlite:///:memory:") as opened:
        yield opened


class Died(BaseException):
    """The worker dies here."""


def dies(store: Store, run_id: str, handler: Handler) -> None:
    """Claim a run, call a handler that dies, and let the lease end, as of a worker that was killed."""

    async def call() -> None:
        await handler(ctx)

    lease = store.open_lease("dies")
    claim = store.claim_id(lease, run_id) or store.take_over(lease, run_id=run_id, max_attempts=99)[0]
    ctx = Context(store, lease, claim, 0.0, asynchronous=True)
    with pytest.raises(BaseException) as caught:
        asyncio.run(call())
    assert [Died] == sorted({type(leaf) for leaf in leaves(caught.value)}, key=str)
    store.close_lease(lease)
    store.sweep(max_attempts=99)


def leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from leaves(one)
    else:
        yield error


def names(store: Store, run_id: str) -> list[str]:
    return [step.name for step in store.steps(run_id)]


def outputs_in(messages: list[ModelMessage]) -> dict[str, Any]:
    """Return the results of tools in a conversation, by call id."""
    parts = (part for message in messages for part in message.parts)
    return {part.tool_call_id: part.content for part in parts if isinstance(part, ToolReturnPart)}


def clock() -> str:
    """A tool."""
    return "noon"


def response(*parts: TextPart | ToolCallPart) -> ModelResponse:
    return ModelResponse(parts=list(parts), usage=RequestUsage(input_tokens=10, output_tokens=1))


class Weather:
    """An agent that asks for the weather of a city, then of another, and answers; and what was called how often."""

    def __init__(self, die_before: int | None = None) -> None:
        self.calls: list[str] = []
        self.die_before = die_before
        self.agent: Agent[None, str] = Agent(
            FunctionModel(self.request, stream_function=self.stream),
            name="weather",
            capabilities=[RunstateDurability()],
        )
        self.agent.tool_plain(self.look_up)

    def _call(self, name: str) -> None:
        if len(self.calls) == self.die_before:
            raise Died
        self.calls.append(name)

    def request(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        done = outputs_in(messages)
        self._call(f"model {len(done)}")
        if len(done) == 2:
            return response(TextPart(" and ".join(map(str, done.values()))))
        city = ("Paris", "Rome")[len(done)]
        return response(ToolCallPart("look_up", {"city": city}, tool_call_id=f"call_{city}"))

    async def stream(
        self, messages: list[ModelMessage], info: AgentInfo
    ) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
        for number, part in enumerate(self.request(messages, info).parts):
            if isinstance(part, ToolCallPart):
                yield {number: DeltaToolCall(part.tool_name, part.args_as_json_str(), tool_call_id=part.tool_call_id)}
            elif isinstance(part, TextPart):
                yield part.content[: len(part.content) // 2]
                yield part.content[len(part.content) // 2 :]

    async def look_up(self, city: str) -> str:
        self._call(city)
        return f"sun in {city}"

    async def handler(self, ctx: Context) -> Outcome | None:
        result = await run_agent(ctx, self.agent, "How is the weather?")
        assert "sun in Paris and sun in Rome" == result.output
        return None


CALLS = ["model 0", "Paris", "model 1", "Rome", "model 2"]


@pytest.mark.parametrize("before", range(len(CALLS)))
def test_nothing_is_paid_for_twice(store: Store, before: int) -> None:
    """Whatever call the worker dies in, those before are not repeated, and their tokens are counted once."""
    weather = Weather(die_before=before)
    run = store.create(**new())
    dies(store, run.id, weather.handler)
    assert CALLS[:before] == weather.calls
    assert before == len(store.steps(run.id))
    weather.die_before = None
    finish(store, weather.handler)
    stored = store.get(run.id)
    assert ("completed", CALLS, Usage(30, 3)) == (stored.status, weather.calls, stored.usage)
    assert ["weather.model", "weather.tool.look_up"] * 2 + ["weather.model"] == names(store, run.id)
    assert ["call_Paris", "call_Rome"] == [step.key for step in store.steps(run.id)][1::2]
    assert [Usage(10, 1), Usage(0, 0)] * 2 + [Usage(10, 1)] == [step.usage for step in store.steps(run.id)]


def test_a_run_that_dies_after_the_agent_calls_nothing(store: Store) -> None:
    weather = Weather()

    async def handler(ctx: Context) -> Outcome | None:
        await weather.handler(ctx)
        if ctx.attempt == 1:
            raise Died
        return None

    run = store.create(**new())
    dies(store, run.id, handler)
    finish(store, handler)
    assert ("completed", CALLS) == (store.get(run.id).status, weather.calls)


def test_parallel_tools_do_not_depend_on_their_order(store: Store) -> None:
    """Each result is kept by the id of its call. Those that were kept before the death are not called again."""
    calls: list[str] = []
    order: list[str] = []

    def request(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        done = outputs_in(messages)
        if done:
            return response(TextPart(" ".join(f"{call}={done[call]}" for call in sorted(done))))
        return response(*(ToolCallPart("page", {"number": n}, tool_call_id=f"c{n}") for n in range(4)))

    agent = Agent(FunctionModel(request), name="reader", capabilities=[RunstateDurability()])

    @agent.tool_plain
    async def page(number: int) -> int:
        calls.append(f"c{number}")
        if first and number == 1:
            await until(lambda: kept() == {"c0", "c2", "c3"}, "the steps of the other tools")
            raise Died
        if first:
            await until(lambda: order == ["c3", "c2", "c0"][: ("c3", "c2", "c0").index(f"c{number}")], "its turn")
        order.append(f"c{number}")
        return number * number

    async def handler(ctx: Context) -> Outcome | None:
        result = await run_agent(ctx, agent, "read")
        assert "c0=0 c1=1 c2=4 c3=9" == result.output
        return None

    def kept() -> set[str]:
        return {step.key for step in store.steps(run.id) if step.name == "reader.tool.page"}

    first = True
    run = store.create(**new())
    dies(store, run.id, handler)
    assert ["c3", "c2", "c0"] == order
    first = False
    finish(store, handler)
    assert "completed" == store.get(run.id).status
    assert {"c0": 1, "c1": 2, "c2": 1, "c3": 1} == Counter(calls)


def test_a_token_limit_ends_the_run(store: Store) -> None:
    weather = Weather()
    run = finished(store, weather.handler, max_prompt_tokens=15)
    assert run.incomplete_details is not None
    assert ("incomplete", "max_prompt_tokens") == (run.status, run.incomplete_details.reason)
    assert CALLS[:3] == weather.calls
    assert Usage(20, 2) == run.usage


def test_an_exception_of_the_model_fails_the_run(store: Store) -> None:
    """Nothing is kept of the call that failed."""

    def request(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        if outputs_in(messages):
            raise ConnectionError("overloaded")
        return response(ToolCallPart("clock", {}, tool_call_id="c1"))

    agent = Agent(FunctionModel(request), name="a", capabilities=[RunstateDurability()])
    agent.tool_plain(clock)
    run = finished(store, lambda ctx: handle_run(ctx, agent, "hello"))
    assert {"code": "server_error", "message": "ConnectionError: overloaded"} == error_of(run)
    assert ["a.model", "a.tool.clock"] == names(store, run.id)


def test_a_request_that_failed_is_repeated_under_its_key(store: Store) -> None:
    """A handler that catches the exception and runs the agent again gets what was kept, and asks for the rest."""
    requests: list[int] = []

    def request(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        requests.append(len(messages))
        if len(requests) in (2, 3):
            raise ConnectionError("overloaded")
        return response(TextPart("done") if outputs_in(messages) else ToolCallPart("clock", {}, tool_call_id="c1"))

    agent = Agent(FunctionModel(request), name="a", capabilities=[RunstateDurability()])
    agent.tool_plain(clock)

    async def handler(ctx: Context) -> Outcome | None:
        with use_steps(ctx):
            result = await agent.run("hello")
            assert "done" == result.output
        return None

    run = store.create(**new())
    for _ in range(2):
        lease = store.open_lease("w")
        claim = store.claim_id(lease, run.id) or store.take_over(lease, run_id=run.id)[0]
        with pytest.raises(ConnectionError):
            asyncio.run(_call(handler, Context(store, lease, claim, 0.0, asynchronous=True)))
        store.close_lease(lease)
        store.sweep()
    finish(store, handler)
    assert ("completed", [1, 3, 3, 3]) == (store.get(run.id).status, requests)


def test_a_retry_in_the_same_call_has_the_same_key(store: Store) -> None:
    """The first try keeps nothing, so later calls find the result of the second one."""
    requests: list[int] = []

    def request(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        requests.append(len(messages))
        if len(requests) == 1:
            raise ConnectionError("overloaded")
        return response(TextPart("done"))

    agent = Agent(FunctionModel(request), name="a", capabilities=[RunstateDurability()])

    async def handler(ctx: Context) -> Outcome | None:
        with use_steps(ctx):
            try:
                await agent.run("hello")
            except ConnectionError:
                await agent.run("hello")
        if ctx.attempt == 1:
            raise Died
        return None

    run = store.create(**new())
    dies(store, run.id, handler)
    finish(store, handler)
    assert ("completed", [1, 1]) == (store.get(run.id).status, requests)


async def _call(handler: Handler, ctx: Context) -> None:
    await handler(ctx)


def test_a_retry_of_a_tool_is_kept(store: Store) -> None:
    """The model is told to try again; the call that asked for it is not repeated."""
    calls: list[int] = []

    def request(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        number = len(messages) // 2
        if number == 2:
            return response(TextPart("done"))
        return response(ToolCallPart("divide", {"by": number}, tool_call_id=f"c{number}"))

    agent = Agent(FunctionModel(request), name="a", capabilities=[RunstateDurability()])

    @agent.tool_plain
    def divide(by: int) -> float:
        calls.append(by)
        if not by:
            raise ModelRetry("not by zero")
        return 1 / by

    async def handler(ctx: Context) -> Outcome | None:
        await run_agent(ctx, agent, "hello")
        if ctx.attempt == 1:
            raise Died
        return None

    run = store.create(**new())
    dies(store, run.id, handler)
    finish(store, handler)
    assert ("completed", [0, 1]) == (store.get(run.id).status, calls)


# --- deferred tools ---------------------------------------------------------------------------------------------------


class Shop:
    """An agent with an external tool, used for several rounds with one and the same call id."""

    def __init__(self, rounds: int) -> None:
        self.requests = 0
        self.rounds = rounds
        self.agent: Agent[None, Any] = Agent(
            FunctionModel(self.request),
            name="shop",
            output_type=[str, DeferredToolRequests],
            capabilities=[RunstateDurability()],
        )

        @self.agent.tool_plain
        def stock(item: str) -> str:
            raise CallDeferred

    def request(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        self.requests += 1
        returns = [p.content for m in messages for p in m.parts if isinstance(p, ToolReturnPart)]
        if len(returns) == self.rounds:
            return response(TextPart(", ".join(map(str, returns))))
        return response(ToolCallPart("stock", {"item": f"item {len(returns)}"}, tool_call_id="call_0"))


@pytest.mark.parametrize("death", [False, True])
def test_a_deferred_tool_is_a_required_action(store: Store, death: bool) -> None:
    """Each round of outputs is used once, also when a model uses its call ids again, and also after a death."""
    shop = Shop(rounds=3)
    outputs: list[str] = []
    doomed = False

    async def handler(ctx: Context) -> Outcome | None:
        result = await run_agent(ctx, shop.agent, "what is there?")
        if doomed:
            raise Died
        if isinstance(result.output, DeferredToolRequests):
            return require_tools(ctx, result.output)
        outputs.append(result.output)
        return None

    run = finished(store, handler)
    for number in range(3):
        assert run.required_action is not None
        (call,) = run.required_action.tool_calls
        assert ("call_0", "stock", f'{{"item":"item {number}"}}') == (call.id, call.name, call.arguments)
        store.submit_tool_outputs(run.id, {"call_0": "none" if number < 2 else "two"})
        if death:
            doomed = True
            dies(store, run.id, handler)
            doomed = False
        finish(store, handler)
        run = store.get(run.id)
    assert ("completed", ["none, none, two"], 4) == (run.status, outputs, shop.requests)
    assert 3 == names(store, run.id).count("shop.tool_outputs")
    assert Usage(40, 4) == run.usage


def test_handle_run_requires_and_completes(store: Store) -> None:
    shop = Shop(rounds=1)
    run = finished(store, lambda ctx: handle_run(ctx, shop.agent, "what is there?"))
    assert "requires_action" == run.status
    store.submit_tool_outputs(run.id, {"call_0": "two"})
    finish(store, lambda ctx: handle_run(ctx, shop.agent, "what is there?"))
    assert ("completed", 2) == (store.get(run.id).status, shop.requests)


APPROVALS: dict[str, tuple[list[str], str]] = {
    "true": (["a"], "deleted a"),
    "false": ([], "The tool call was denied."),
    '{"approved": true}': (["a"], "deleted a"),
    '{"approved": true, "override_args": {"file": "b"}}': (["b"], "deleted b"),
    '{"approved": false, "message": "not today"}': ([], "not today"),
    '{"approved": false}': ([], "The tool call was denied."),
}


def deleting() -> tuple[Agent[None, Any], list[str]]:
    """Return an agent that deletes a file if it may, and the files that it deleted."""
    deleted: list[str] = []

    def request(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        done = outputs_in(messages)
        return response(TextPart(done["c1"]) if done else ToolCallPart("delete", {"file": "a"}, tool_call_id="c1"))

    agent: Agent[None, Any] = Agent(
        FunctionModel(request),
        name="a",
        output_type=[str, DeferredToolRequests],
        capabilities=[RunstateDurability()],
    )

    @agent.tool
    def delete(ctx: RunContext[None], file: str) -> str:
        if not ctx.tool_call_approved:
            raise ApprovalRequired
        deleted.append(file)
        return f"deleted {file}"

    return agent, deleted


@pytest.mark.parametrize("output", APPROVALS)
def test_an_approval(store: Store, output: str) -> None:
    """It is a required action, too. The tool is called once, and only if its call was approved."""
    agent, deleted = deleting()
    told: list[str] = []

    async def handler(ctx: Context) -> Outcome | None:
        result = await run_agent(ctx, agent, "clean up")
        if isinstance(result.output, DeferredToolRequests):
            return require_tools(ctx, result.output)
        told.append(result.output)
        if ctx.attempt == 1:
            raise Died
        return None

    run = store.create(**new())
    finish(store, handler)
    store.submit_tool_outputs(run.id, {"c1": output})
    dies(store, run.id, handler)
    finish(store, handler)
    files, answer = APPROVALS[output]
    assert ("completed", files, [answer] * 2) == (store.get(run.id).status, deleted, told)


@pytest.mark.parametrize(
    "output",
    ["yes", "1", "null", "", '{"approved": "true"}', '{"approved": true, "message": "x"}', '{"approved": 1}', "[true]"],
)
def test_an_output_that_is_no_approval(store: Store, output: str) -> None:
    """It fails the run. It is neither a yes nor a no."""
    agent, deleted = deleting()
    run = finished(store, lambda ctx: handle_run(ctx, agent, "clean up"))
    store.submit_tool_outputs(run.id, {"c1": output})
    finish(store, lambda ctx: handle_run(ctx, agent, "clean up"))
    error = error_of(store.get(run.id))
    assert "invalid_prompt" == error["code"]
    assert "the output for the approval of tool 'delete' is not an approval; expected true, false" in error["message"]
    assert [] == deleted


# --- agents in agents, and beside each other --------------------------------------------------------------------------


def test_agents_that_tools_run(store: Store) -> None:
    """Their requests are steps under the key of the tool's call, so parallel tools do not mix them up."""
    asked: list[str] = []
    dead = False

    def request(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        done = outputs_in(messages)
        if done:
            return response(TextPart(" ".join(f"{call}={done[call]}" for call in sorted(done))))
        return response(*(ToolCallPart("expert", {"n": n}, tool_call_id=f"c{n}") for n in range(3)))

    async def think(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        call = expert_call.get()
        await until(lambda: len(asked) == 2 - int(call[1]), "its turn")
        asked.append(call)
        return response(TextPart(call))

    expert_call: ContextVar[str] = ContextVar("expert_call")
    sub = Agent(FunctionModel(think), name="sub", capabilities=[RunstateDurability()])
    agent: Agent[None, str] = Agent(FunctionModel(request), name="main", capabilities=[RunstateDurability()])

    @agent.tool
    async def expert(ctx: RunContext[None], n: int) -> str:
        assert ctx.tool_call_id is not None
        expert_call.set(ctx.tool_call_id)
        result = await sub.run("think", usage=ctx.usage)  # the same words for all of them
        if n == 2 and not dead:
            await until(lambda: names(store, run.id).count("sub.model") == 3, "the steps of the other agents")
            raise Died
        return result.output

    async def handler(ctx: Context) -> Outcome | None:
        result = await run_agent(ctx, agent, "ask three")
        assert "c0=c0 c1=c1 c2=c2" == result.output
        return None

    run = store.create(**new())
    dies(store, run.id, handler)
    dead = True
    finish(store, handler)
    assert ("completed", ["c2", "c1", "c0"]) == (store.get(run.id).status, asked)
    kept = [step.key.partition("/")[0] for step in store.steps(run.id) if step.name == "sub.model"]
    assert ["c0", "c1", "c2"] == sorted(kept)
    assert Usage(50, 5) == store.get(run.id).usage


def test_agent_runs_beside_each_other(store: Store) -> None:
    """Their requests are found by what the model is sent, so their order does not matter."""
    asked: list[str] = []

    async def think(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        (part,) = messages[0].parts
        assert isinstance(part, UserPromptPart)
        word = str(part.content)
        await until(lambda: word == "b" or "b" in asked, "its turn")
        asked.append(word)
        return response(TextPart(f"answer {word}"))

    agent = Agent(FunctionModel(think), name="a", capabilities=[RunstateDurability()])

    async def handler(ctx: Context) -> Outcome | None:
        with use_steps(ctx):
            words = ("a", "b") if ctx.attempt == 1 else ("b", "a")
            results = await asyncio.gather(*(agent.run(word) for word in words))
            assert [f"answer {word}" for word in words] == [result.output for result in results]
        if ctx.attempt == 1:
            raise Died
        return None

    run = store.create(**new())
    dies(store, run.id, handler)
    finish(store, handler)
    assert ("completed", ["b", "a"]) == (store.get(run.id).status, asked)


def test_the_same_question_twice(store: Store) -> None:
    """In one block it gets two answers, which later calls get in the same order. Two blocks need keys."""
    asked: list[int] = []

    def think(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        asked.append(len(asked))
        return response(TextPart(f"answer {asked[-1]}"))

    agent = Agent(FunctionModel(think), name="a", capabilities=[RunstateDurability()])

    async def handler(ctx: Context) -> Outcome | None:
        with use_steps(ctx):
            found = [(await agent.run("why?")).output for _ in range(2)]
        found += [(await run_agent(ctx, agent, "why?", key=key)).output for key in ("k1", "k2")]
        assert [f"answer {n}" for n in range(4)] == found
        if ctx.attempt == 1:
            raise Died
        return None

    run = store.create(**new())
    dies(store, run.id, handler)
    finish(store, handler)
    assert ("completed", 4) == (store.get(run.id).status, len(asked))

    async def careless(ctx: Context) -> Outcome | None:
        await run_agent(ctx, agent, "why?")
        await run_agent(ctx, agent, "why?")
        return None

    run = finished(store, careless)
    assert "is executed twice in one call of the handler: give each its own name or key" in error_of(run)["message"]


class Notes(AbstractCapability[None]):
    """A capability that makes notes with an agent of its own before each request."""

    def __init__(self, agent: Agent[None, str]) -> None:
        self.id = "notes"
        self.agent = agent

    async def before_model_request(
        self, ctx: RunContext[None], request_context: ModelRequestContext
    ) -> ModelRequestContext:
        await self.note(ctx, "a word")
        return request_context

    @durable_operation("note")
    async def note(self, ctx: RunContext[None], word: str) -> str:
        return (await self.agent.run(word, usage=ctx.usage)).output


@pytest.mark.parametrize("durable", [False, True])
def test_an_operation_of_a_capability(store: Store, durable: bool) -> None:
    """It is a step. Its tokens are counted once, whether or not its own agent is durable."""
    asked: list[str] = []

    def note(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        asked.append("note")
        return response(TextPart("noted"))

    def request(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        asked.append("request")
        return response(TextPart("done"))

    noting: Agent[None, str] = Agent(
        FunctionModel(note), name="sub", capabilities=[RunstateDurability()] if durable else []
    )
    agent: Agent[None, str] = Agent(
        FunctionModel(request), name="main", capabilities=[Notes(noting), RunstateDurability()]
    )

    async def handler(ctx: Context) -> Outcome | None:
        await run_agent(ctx, agent, "hello")
        if ctx.attempt == 1:
            raise Died
        return None

    run = store.create(**new())
    dies(store, run.id, handler)
    assert (3 if durable else 2) == len(store.steps(run.id))
    finish(store, handler)
    stored = store.get(run.id)
    assert ("completed", ["note", "request"], Usage(20, 2)) == (stored.status, asked, stored.usage)


@limited
async def test_a_cancel_reaches_the_agent(store: Store) -> None:
    """What was kept stays, and the call that was cancelled is not kept."""
    waits = asyncio.Event()

    async def request(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        if outputs_in(messages):
            waits.set()
            await asyncio.Event().wait()
        return response(ToolCallPart("clock", {}, tool_call_id="c1"))

    agent = Agent(FunctionModel(request), name="a", capabilities=[RunstateDurability()])
    agent.tool_plain(clock)

    async def handler(ctx: Context) -> Outcome | None:
        return await handle_run(ctx, agent, "hello")

    run = store.create(**new())
    async with at_work(store, handler):
        await waits.wait()
        store.request_cancel(run.id)
        assert "cancelled" == (await ended(store, run.id)).status
    assert ["a.model", "a.tool.clock"] == names(store, run.id)


def test_other_toolsets(store: Store) -> None:
    """The tools of a dynamic toolset and of a toolset with an id are steps, too, and so is the discovery of tools."""
    calls: list[str] = []

    def request(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        if outputs_in(messages):
            return response(TextPart("done"))
        return response(*(ToolCallPart(name, {}, tool_call_id=f"call_{name}") for name in ("here", "there")))

    def here() -> str:
        calls.append("here")
        return "x"

    def there() -> str:
        calls.append("there")
        return "y"

    def make(ctx: RunContext[None]) -> FunctionToolset[None]:
        return FunctionToolset(tools=[there], id="made")

    agent: Agent[None, str] = Agent(
        FunctionModel(request),
        name="a",
        toolsets=[FunctionToolset(tools=[here], id="own"), DynamicToolset(make, id="dynamic")],
        capabilities=[RunstateDurability()],
    )

    async def handler(ctx: Context) -> Outcome | None:
        await run_agent(ctx, agent, "hello")
        if ctx.attempt == 1:
            raise Died
        return None

    run = store.create(**new())
    dies(store, run.id, handler)
    kept = Counter(names(store, run.id))
    assert (2, 1, 1) == (kept["a.model"], kept["a.tool.here"], kept["a.tool.there"])
    finish(store, handler)
    assert ("completed", {"here": 1, "there": 1}) == (store.get(run.id).status, Counter(calls))
    assert kept == Counter(names(store, run.id))


# --- settings ---------------------------------------------------------------------------------------------------------


def paying(metadata: dict[str, Any]) -> tuple[Agent[None, str], list[str]]:
    """Return an agent with a tool of these settings, which dies in its first call, and the calls."""
    calls: list[str] = []

    def request(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        return response(TextPart("done") if outputs_in(messages) else ToolCallPart("pay", {}, tool_call_id="c1"))

    agent = Agent(FunctionModel(request), name="a", capabilities=[RunstateDurability()])

    @agent.tool_plain(metadata=metadata)
    def pay() -> str:
        calls.append("paid")
        if len(calls) == 1:
            raise Died
        return "paid"

    return agent, calls


def test_a_tool_that_is_never_repeated(store: Store) -> None:
    """The next attempt gets `StepInterrupted`, and decides."""
    agent, calls = paying({"runstate": {"once": True}})

    async def handler(ctx: Context) -> Outcome | None:
        try:
            return await handle_run(ctx, agent, "pay")
        except StepInterrupted as error:
            return ctx.fail("server_error", f"look at {error.name} of {error.key}")

    run = store.create(**new())
    dies(store, run.id, handler)
    finish(store, handler)
    assert ("look at a.tool.pay of c1", ["paid"]) == (error_of(store.get(run.id))["message"], calls)


@pytest.mark.parametrize(("metadata", "steps"), [({}, 3), ({"runstate": {"once": False}}, 3), ({"runstate": False}, 2)])
def test_a_tool_that_may_be_repeated(store: Store, metadata: dict[str, Any], steps: int) -> None:
    agent, calls = paying(metadata)
    run = store.create(**new())
    dies(store, run.id, lambda ctx: handle_run(ctx, agent, "pay"))
    finish(store, lambda ctx: handle_run(ctx, agent, "pay"))
    assert ("completed", ["paid"] * 2) == (store.get(run.id).status, calls)
    assert steps == len(store.steps(run.id))


@pytest.mark.parametrize("wrong", [True, {"onec": True}, {"once": 1}, {"once": True, "retries": 3}, "once"])
def test_settings_that_do_not_exist(store: Store, wrong: Any) -> None:
    agent, calls = paying({"runstate": wrong})
    run = finished(store, lambda ctx: handle_run(ctx, agent, "pay"))
    assert "the metadata 'runstate' of tool 'pay' is " in error_of(run)["message"]
    assert [] == calls


def test_an_agent_without_the_capability(store: Store) -> None:
    agent = Agent(TestModel(), name="a")
    run = finished(store, lambda ctx: handle_run(ctx, agent, "hello"))
    assert "UserError: the agent has no RunstateDurability" in error_of(run)["message"]
    with pytest.raises(UserError, match="name"):
        Agent(TestModel(), capabilities=[RunstateDurability()])


def test_outside_of_a_handler_it_does_nothing() -> None:
    weather = Weather()
    for _ in range(2):
        assert "sun in Paris and sun in Rome" == asyncio.run(weather.agent.run("How is the weather?")).output
    assert CALLS * 2 == weather.calls


def test_a_long_key(store: Store) -> None:
    """It is replaced by a digest."""
    weather = Weather()

    async def handler(ctx: Context) -> Outcome | None:
        await run_agent(ctx, weather.agent, "How is the weather?", key="k" * 2000)
        return None

    run = finished(store, handler)
    assert "completed" == run.status
    assert {32} == {len(step.key) for step in store.steps(run.id)}


# --- streams ----------------------------------------------------------------------------------------------------------


def test_an_event_stream_handler_gets_each_event_once(store: Store) -> None:
    """The events of the model while its request is executed, those of tools in steps of their own."""
    events: list[str] = []

    async def request(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
        if outputs_in(messages):
            yield "do"
            yield "ne"
        else:
            yield {0: DeltaToolCall(name="clock", json_args="{}", tool_call_id="c1")}

    async def hear(ctx: RunContext[None], stream: Any) -> None:
        events.extend([event.event_kind async for event in stream])

    durability: RunstateDurability[None] = RunstateDurability(event_stream_handler=hear)
    agent = Agent(FunctionModel(stream_function=request), name="a", capabilities=[durability])
    agent.tool_plain(clock)

    async def handler(ctx: Context) -> Outcome | None:
        result = await run_agent(ctx, agent, "hello")
        assert "done" == result.output
        if ctx.attempt == 1:
            raise Died
        return None

    run = store.create(**new())
    dies(store, run.id, handler)
    heard = Counter(events)
    assert 2 == heard["part_start"]
    assert (1, 1) == (heard["function_tool_call"], heard["function_tool_result"])
    finish(store, handler)
    assert ("completed", heard) == (store.get(run.id).status, Counter(events))


def test_an_agent_that_is_iterated(store: Store) -> None:
    weather = Weather(die_before=3)

    async def handler(ctx: Context) -> Outcome | None:
        nodes = 0
        with use_steps(ctx):
            async with weather.agent.iter("How is the weather?") as agent_run:
                async for _ in agent_run:
                    nodes += 1
        assert agent_run.result is not None
        assert "sun in Paris and sun in Rome" == agent_run.result.output
        return None

    run = store.create(**new())
    dies(store, run.id, handler)
    weather.die_before = None
    finish(store, handler)
    assert ("completed", CALLS) == (store.get(run.id).status, weather.calls)


def test_the_events_of_an_agent_run(store: Store) -> None:
    """A response is delivered when its step has ended, and also if it was kept."""
    weather = Weather()
    texts: list[str] = []

    async def handler(ctx: Context) -> Outcome | None:
        with use_steps(ctx):
            async with weather.agent.run_stream_events("How is the weather?") as events:
                started = [event.part async for event in events if isinstance(event, PartStartEvent)]
                texts.extend(part.content for part in started if isinstance(part, TextPart))
        if ctx.attempt == 1:
            raise Died
        return None

    run = store.create(**new())
    dies(store, run.id, handler)
    finish(store, handler)
    assert ("completed", CALLS) == (store.get(run.id).status, weather.calls)
    assert ["sun in Paris and sun in Rome"] * 2 == texts


# --- parts ------------------------------------------------------------------------------------------------------------


def test_a_request_is_found_by_what_does_not_change() -> None:
    """Times, instructions and dynamic system prompts are no part of its key; words, tools and results are."""

    def key(prompt: str = "hello", system: str = "be brief", dynamic: str = "noon", **other: Any) -> str:
        parts: list[SystemPromptPart | UserPromptPart] = [
            SystemPromptPart(system),
            SystemPromptPart(dynamic, dynamic_ref="now"),
            UserPromptPart(prompt),
        ]
        return content_key([ModelRequest(parts=parts, **other), response(TextPart("hi"))])

    first = key()
    assert first == key(dynamic="one", instructions="it is one", run_id="r2", metadata={"x": 1})
    assert 3 == len({first, key(prompt="bye"), key(system="be long")})


def test_a_result_that_cannot_be_read() -> None:
    """It is not an error of validation: the agent would take it for wrong arguments, and call the tool again."""
    with pytest.raises(KeptResultError, match="the kept result of a step cannot be read"):
        StepCodec().load(ModelResponse, {"parts": 1})
