"""`crash_test`: broken handlers are found, with a sentence about the mistake, and good handlers give no finding."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import inspect
import itertools
import pickle
import random
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from runstate import ManualClock, ToolCall
from runstate.store import Store, open_store
from runstate.testing import CrashFinding, CrashReport, CrashTestError, Probe, crash_test
from runstate.testing.crash import CrashTest
from runstate.worker import Context, Handler, Outcome, RunFailed, StepInterrupted

ROOT = Path(__file__).parents[2]

MakeHandler = Callable[[Probe], Handler]


def tried(make: MakeHandler, **given: Any) -> CrashReport:
    probe = Probe()
    with open_store("sqlite:///:memory:") as store:
        return crash_test(make(probe), store=store, probe=probe, raise_findings=False, **given)


def only(report: CrashReport, kind: str) -> CrashFinding:
    """Return the only finding of a report, which must be of this kind."""
    assert [kind] == [finding.kind for finding in report.findings], report
    return report.findings[0]


def ask(probe: Probe, ctx: Context, prompt: str) -> str:
    """Stand for a request to a model."""
    probe.effect("ask", prompt)
    ctx.add_usage(prompt_tokens=10, completion_tokens=3)
    return f"an answer to {prompt}"


# --- good handlers ----------------------------------------------------------------------------------------------------


def plain_steps(probe: Probe) -> Handler:
    def handler(ctx: Context) -> None:
        plan = ctx.step("plan", ask, probe, ctx, "a plan")
        for number in range(3):
            ctx.progress(f"part {number}")
            ctx.step("part", ask, probe, ctx, f"part {number} of {plan}", key=str(number))

    return handler


def async_steps(probe: Probe) -> Handler:
    async def page(ctx: Context, number: int) -> int:
        await asyncio.sleep(0.001 * (3 - number))
        probe.effect("page", number)
        ctx.add_usage(number, 1)
        await asyncio.sleep(0)
        return number

    async def handler(ctx: Context) -> None:
        pages = await asyncio.gather(*(ctx.step("page", page, ctx, n, key=str(n)) for n in range(3)))
        async with asyncio.TaskGroup() as group:
            for n in pages:
                group.create_task(ctx.step("note", asyncio.to_thread, probe.effect, "note", n, key=str(n)))
        await ctx.step("sum", lambda: sum(pages))

    return handler


def checkpoints(probe: Probe) -> Handler:
    def handler(ctx: Context) -> None:
        for page in range((ctx.checkpoint_value or 0) + 1, 4):
            ctx.progress(f"page {page}")
            probe.effect("read", page, repeatable=True)
            ctx.add_usage(prompt_tokens=100)
            ctx.checkpoint(page)

    return handler


def async_checkpoints(probe: Probe) -> Handler:
    async def handler(ctx: Context) -> None:
        for page in range((ctx.checkpoint_value or 0) + 1, 4):
            probe.effect("read", page, repeatable=True)
            await ctx.step("index", lambda page=page: probe.effect("index", page), key=str(page))
            await ctx.checkpoint(page)

    return handler


def tool_rounds(probe: Probe) -> Handler:
    def handler(ctx: Context) -> Outcome | None:
        plan = ctx.step("plan", ask, probe, ctx, "a plan")
        if not ctx.tool_outputs:
            return ctx.require_action([ctx.tool_call("weather", city=city) for city in ("Paris", "Rome")])
        for call_id, output in ctx.tool_outputs.items():
            ctx.step("use", ask, probe, ctx, f"{output} of {call_id} for {plan}", key=call_id)
        return ctx.complete()

    return handler


def two_tool_rounds(probe: Probe) -> Handler:
    async def later(ctx: Context, prompt: str) -> str:
        return ask(probe, ctx, prompt)

    async def handler(ctx: Context) -> Outcome | None:
        used = ctx.checkpoint_value or []
        for call_id, output in ctx.tool_outputs.items():
            if call_id not in used:
                await ctx.step("use", later, ctx, output, key=call_id)
                used = [*used, call_id]
                await ctx.checkpoint(used)
        return None if len(used) == 2 else ctx.require_action([ctx.tool_call("weather")])

    return handler


def once_or_fail(probe: Probe) -> Handler:
    def handler(ctx: Context) -> Outcome | None:
        try:
            ctx.step("charge", probe.effect, "charge card", once=True)
        except StepInterrupted:
            return ctx.fail("server_error", "a person must look")
        ctx.step("mail", probe.effect, "mail")
        return None

    return handler


def once_or_look_up(probe: Probe) -> Handler:
    async def handler(ctx: Context) -> None:
        try:
            await ctx.step("charge", probe.effect, "charge card", "order 1", once=True)
        except StepInterrupted:
            found = await ctx.step("look up", probe.count, "charge card", "order 1")
            if not found:
                await ctx.step("charge again", probe.effect, "charge card", "order 1", once=True)

    return handler


def once_uncaught(probe: Probe) -> Handler:
    return lambda ctx: ctx.step("charge", probe.effect, "charge card", once=True)


def token_limit(probe: Probe) -> Handler:
    def handler(ctx: Context) -> None:
        for number in range(9):
            ctx.step("ask", ask, probe, ctx, str(number), key=str(number))

    return handler


def failure(_: Probe) -> Handler:
    def handler(ctx: Context) -> None:
        ctx.step("look", int)
        raise RunFailed("invalid_prompt", f"run {ctx.run_id} has no prompt")

    return handler


def retries(probe: Probe) -> Handler:
    """A step that fails once, in each attempt."""

    def handler(ctx: Context) -> None:
        tries: list[int] = []

        def shaky() -> str:
            tries.append(1)
            if len(tries) == 1:
                raise ConnectionError
            probe.effect("mail")
            return "sent"

        for _ in range(2):
            try:
                ctx.step("mail", shaky)
            except ConnectionError:
                continue
            break

    return handler


def cleans_up(probe: Probe) -> Handler:
    async def handler(ctx: Context) -> None:
        try:
            await ctx.step("work", probe.effect, "work")
        finally:
            ctx.progress("cleaned up")

    return handler


def changing_results(probe: Probe) -> Handler:
    """A model that never answers the same, and an observation that is kept in the process."""
    seen: list[int] = []

    def handler(ctx: Context) -> None:
        seen.append(ctx.attempt)
        ctx.step("ask", lambda: [random.random(), time.time_ns(), ctx.run_id])
        ctx.step("use", probe.effect, "use", key=ctx.run_id)

    return handler


GOOD: list[MakeHandler] = [
    *(plain_steps, async_steps, checkpoints, async_checkpoints, tool_rounds, two_tool_rounds, once_or_fail),
    *(once_or_look_up, token_limit, failure, retries, cleans_up, changing_results),
]


@pytest.mark.parametrize("make", GOOD, ids=lambda make: make.__name__)
def test_a_good_handler_gives_no_finding(make: MakeHandler) -> None:
    given = {"max_prompt_tokens": 45} if make is token_limit else {}
    report = tried(make, tool_outputs={"weather": "sunny"}, **given)
    assert () == report.findings, report
    assert len(report.points) > 4
    assert not [note for note in report.notes if "not reached" in note]


# --- broken handlers --------------------------------------------------------------------------------------------------


def effect_outside(probe: Probe) -> Handler:
    def handler(ctx: Context) -> None:
        probe.effect("charge card")
        ctx.step("mail", probe.effect, "mail")

    return handler


def positions(probe: Probe) -> Handler:
    """The keys are a counter that goes on in the next attempt."""
    numbers = itertools.count()

    def handler(ctx: Context) -> None:
        for page in "abc":
            ctx.step("read", ask, probe, ctx, page, key=str(next(numbers)))

    return handler


def order_of_completion(probe: Probe) -> Handler:
    """The keys are the places at which the pages were read, and what is kept is read faster."""

    async def read(page: str) -> str:
        await asyncio.sleep(0.01 * "cba".index(page))
        return page

    async def handler(ctx: Context) -> None:
        reads = [asyncio.ensure_future(ctx.step("read", read, page, key=page)) for page in "abc"]
        for place, page in enumerate(asyncio.as_completed(reads)):
            await ctx.step("save", probe.effect, "save", await page, key=str(place))

    return handler


def queue_of_others(probe: Probe) -> Handler:
    """The keys are places in a list that gets shorter as the work is done."""

    def handler(ctx: Context) -> None:
        waiting = [page for page in "abc" if not probe.count("save", f"{page} of {ctx.run_id}")]
        for place, page in enumerate(waiting):
            ctx.step("save", lambda page=page: probe.effect("save", f"{page} of {ctx.run_id}"), key=str(place))

    return handler


def not_json(_: Probe) -> Handler:
    return lambda ctx: [ctx.step("find", lambda: {1, 2}), None][1]


def tuple_of_json(_: Probe) -> Handler:
    return lambda ctx: [ctx.step("find", lambda: (1, 2)), None][1]


def swallowed_interruption(probe: Probe) -> Handler:
    def handler(ctx: Context) -> None:
        with suppress(StepInterrupted):
            ctx.step("charge", probe.effect, "charge card", once=True)
        ctx.step("mail", probe.effect, "mail")

    return handler


def usage_outside(probe: Probe) -> Handler:
    def handler(ctx: Context) -> None:
        ctx.add_usage(prompt_tokens=7)
        ctx.step("ask", ask, probe, ctx, "why")

    return handler


def usage_lost(probe: Probe) -> Handler:
    """The tokens are added behind the step, and only where it was executed."""

    async def handler(ctx: Context) -> None:
        used: list[int] = []

        def answer() -> str:
            used.append(7)
            return "because"

        await ctx.step("ask", answer)
        for tokens in used:
            ctx.add_usage(prompt_tokens=tokens)

    return handler


def random_name(probe: Probe) -> Handler:
    return lambda ctx: ctx.step(f"ask {random.random()}", probe.effect, "ask")


def random_key(probe: Probe) -> Handler:
    async def handler(ctx: Context) -> None:
        await ctx.step("ask", probe.effect, "ask", key=str(random.random()), once=True)
        await ctx.step("mail", probe.effect, "mail")

    return handler


def time_in_key(probe: Probe) -> Handler:
    return lambda ctx: ctx.step("ask", probe.effect, "ask", key=str(int(time.time())))


SEEN: list[str] = []


def process_list(probe: Probe) -> Handler:
    """The second run in a process finds what the first one has left."""

    def handler(ctx: Context) -> None:
        for page in "abc":
            if page not in SEEN:
                SEEN.append(ctx.step("read", ask, probe, ctx, page, key=page) and page)

    return handler


LOADED: dict[str, list[str]] = {}


def process_dict(probe: Probe) -> Handler:
    """The next attempt has the list only if it is in the same process."""

    def handler(ctx: Context) -> None:
        ctx.step("load", lambda: LOADED.update({ctx.run_id: ["a", "b"]}))
        for page in LOADED.get(ctx.run_id, []):
            ctx.step("read", ask, probe, ctx, page, key=page)

    return handler


class Service:
    """A handler as an object, with an attribute that only its process has."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.plan: str | None = None

    def __call__(self, ctx: Context) -> None:
        ctx.step("plan", self.make_plan)
        ctx.step("use", self.probe.effect, "use", self.plan)

    def make_plan(self) -> None:
        self.plan = "a plan"


def checkpoint_ignored(probe: Probe) -> Handler:
    def handler(ctx: Context) -> None:
        for page in range(3):
            probe.effect("read", page, repeatable=True)
            ctx.checkpoint(page)

    return handler


def checkpoint_too_early(probe: Probe) -> Handler:
    async def handler(ctx: Context) -> None:
        for page in range((ctx.checkpoint_value or 0) + 1, 3):
            await ctx.checkpoint(page)
            await ctx.step("index", lambda page=page: probe.effect("index", page), key=str(page))

    return handler


def round_counted_too_early(probe: Probe) -> Handler:
    """A death after the checkpoint, and before the outcome, leaves one round out."""

    async def later(ctx: Context, prompt: str) -> str:
        return ask(probe, ctx, prompt)

    async def handler(ctx: Context) -> Outcome | None:
        done = ctx.checkpoint_value or 0
        if ctx.tool_outputs:
            await ctx.step("use", later, ctx, f"use {done}", key=str(done))
        if done == 2:
            return None
        await ctx.checkpoint(done + 1)
        return ctx.require_action([ctx.tool_call("weather")])

    return handler


def other_end(_: Probe) -> Handler:
    def handler(ctx: Context) -> Outcome | None:
        ctx.step("work", int)
        return None if ctx.attempt == 1 else ctx.fail("server_error", "this is no first attempt")

    return handler


def bare_except(probe: Probe) -> Handler:
    def handler(ctx: Context) -> None:
        try:
            ctx.step("work", probe.effect, "work")
        except:  # noqa: E722
            return

    return handler


def endless_retry(_: Probe) -> Handler:
    def handler(ctx: Context) -> None:
        while True:
            try:
                ctx.step("work", int)
            except BaseException:
                continue
            return

    return handler


def async_bare_except(probe: Probe) -> Handler:
    async def handler(ctx: Context) -> None:
        for name in ("a", "b"):
            try:
                await ctx.step(name, probe.effect, name)
            except BaseException:
                continue

    return handler


def again_after_outputs(probe: Probe) -> Handler:
    def handler(ctx: Context) -> Outcome | None:
        ctx.step("plan", ask, probe, ctx, "a plan", key=f"with {len(ctx.tool_outputs)} outputs")
        return None if ctx.tool_outputs else ctx.require_action([ctx.tool_call("weather")])

    return handler


def key_by_leg(probe: Probe) -> Handler:
    """The key begins at 0 in each leg, and the second leg gets the answer of the first."""

    def handler(ctx: Context) -> Outcome | None:
        prompt = "with outputs" if ctx.tool_outputs else "without outputs"
        ctx.step("ask", ask, probe, ctx, prompt, key="0")
        return None if ctx.tool_outputs else ctx.require_action([ctx.tool_call("weather")])

    return handler


def more_in_later_attempts(probe: Probe) -> Handler:
    def handler(ctx: Context) -> None:
        if ctx.attempt > 1:
            ctx.step("apologise", probe.effect, "mail")
        ctx.step("work", probe.effect, "work")

    return handler


def other_result(_: Probe) -> Handler:
    return lambda ctx: [ctx.step("look", lambda: ctx.attempt), None][1]


def other_usage(_: Probe) -> Handler:
    return lambda ctx: ctx.step("ask", lambda: ctx.add_usage(ctx.attempt))


def endless_wait(_: Probe) -> Handler:
    async def handler(ctx: Context) -> None:
        await ctx.step("work", int)
        if ctx.attempt > 1:
            await asyncio.sleep(3600)

    return handler


BROKEN: dict[MakeHandler, set[str]] = {
    effect_outside: {"effect outside a step: 'charge card'"},
    positions: {"step not found again: step 'read'"},
    order_of_completion: {"result of another step: step 'save'"},
    queue_of_others: {"result of another step: step 'save'"},
    tuple_of_json: {"changed by JSON: step 'find'"},
    not_json: {"not JSON: step 'find'"},
    swallowed_interruption: {"interruption ignored: step 'charge'"},
    usage_outside: {"usage counted again: usage"},
    usage_lost: {"usage lost: usage"},
    random_name: {"unstable names: steps"},
    random_key: {"step not found again: step 'ask'", "once executed twice: 'ask'"},
    time_in_key: {"step not found again: step 'ask'"},
    process_list: {"memory of the process: SEEN"},
    process_dict: {"memory of the process: LOADED"},
    Service: {"memory of the process: self.plan"},
    checkpoint_ignored: {"checkpoint ignored: 'read'"},
    checkpoint_too_early: {"effect lost: 'index'"},
    round_counted_too_early: {"effect lost: 'ask'"},
    other_end: {"other outcome: outcome"},
    bare_except: {"death caught: handler"},
    endless_retry: {"death caught: handler"},
    async_bare_except: {"death caught: handler"},
    again_after_outputs: {"again after a tool round: 'ask'"},
    key_by_leg: {"result of another step: step 'ask'"},
    more_in_later_attempts: {"other steps: step 'apologise'"},
    other_result: {"other result: step 'look'"},
    other_usage: {"other usage of a step: step 'ask'"},
    endless_wait: {"does not end: handler"},
}


@pytest.mark.slow
@pytest.mark.parametrize("make", BROKEN, ids=lambda make: make.__name__)
def test_a_broken_handler_is_found(make: MakeHandler) -> None:
    """The findings contain the mistake, each with a point of death, what was expected, what came, and what to do."""
    report = tried(make, tool_outputs={"weather": "sunny"}, timeout_s=2.0 if make is endless_wait else 60.0)
    found = {f"{finding.kind}: {finding.subject.partition(' with the key ')[0]}" for finding in report.findings}
    assert found == BROKEN[make], report


# --- the report -------------------------------------------------------------------------------------------------------


def test_the_message_says_what_to_do() -> None:
    """It is raised by default, and has the point of death, what was expected, what came, and the advice."""
    probe = Probe()
    with pytest.raises(CrashTestError) as raised:
        crash_test(effect_outside(probe), probe=probe)
    (finding,) = raised.value.report.findings
    assert "right after the effect 'charge card', outside any step" == finding.point
    assert str(raised.value).splitlines()[:8] == [
        "1 finding at 7 points of death",
        "",
        "1. The effect 'charge card' happens again after a death, outside any step.",
        "   death       right after the effect 'charge card', outside any step",
        "   expected    it happens once, as in the undisturbed run",
        "   found       it happened twice",
        "   what to do  execute it in a step, so that its result is kept",
        "   also at     4 other points of death",
    ]
    assert isinstance(raised.value, AssertionError)
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


def test_the_message_on_the_page() -> None:
    """What docs/testing.md shows is what the handler above it gives, and its table has every kind of finding."""
    page = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:python|text)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (place,) = (place for place, block in enumerate(blocks) if "raise_findings=False" in block)
    given: dict[str, Any] = {}
    exec(compile(blocks[place], "a page", "exec"), given)
    assert f"{given['report']}\n" == blocks[place + 1]
    told = page.partition("### What is found")[2].partition("### Options")[0]
    kinds = re.findall(r"`([a-z][A-Za-z ]+)`(?=[,| ])", "\n".join(re.findall(r"^\| `[^|]*\|", told, re.MULTILINE)))
    made = set[str]()
    for path in (ROOT / "runstate" / "testing" / "crash").glob("_*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            if isinstance(node, ast.Call) and called in ("CrashFinding", "_again"):
                values = (value for value in ast.walk(node.args[0 if called == "CrashFinding" else 2]))
                made |= {str(value.value) for value in values if isinstance(value, ast.Constant)}
    assert made == set(kinds)
    assert len(kinds) == len(set(kinds))


def test_the_options_on_the_page() -> None:
    """The table has every option, in the order of the signature."""
    page = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    told = page.partition("### Options")[2].partition("###")[0]
    options = [*inspect.signature(crash_test).parameters.values()][1:-1]
    assert [option.name for option in options] == re.findall(r"^\| `(\w+)` \|", told, re.MULTILINE)


def test_points_of_death() -> None:
    """Each operation has a point before and one after its commit, and each effect one; in words."""

    def handler(ctx: Context) -> Outcome | None:
        ctx.progress("half")
        ctx.checkpoint({"page": 1})
        ctx.step("charge", probe.effect, "charge card", key="k", once=True)
        return None if ctx.tool_outputs else ctx.require_action([ctx.tool_call("weather")])

    probe = Probe()
    report = crash_test(handler, probe=probe, tool_outputs={"weather": "sunny"})
    expected = ["after the claim of the run was committed, before the handler was called"]
    around = ["the progress 'half'", 'the checkpoint {"page":1}']
    mark = ["the mark of step 'charge' with the key 'k'"]
    for name in around + mark:
        expected += [f"before {name} was committed", f"after {name} was committed, before the handler went on"]
    expected.append("right after the effect 'charge card', inside step 'charge' with the key 'k'")
    result = "the result of step 'charge' with the key 'k'"
    expected += [f"before {result} was committed", f"after {result} was committed, before the handler went on"]
    reply = "before the worker received the reply"
    expected.append("before the outcome 'requires_action' was committed")
    expected.append(f"after the outcome 'requires_action' was committed, {reply}")
    expected.append("after the claim after tool round 1 was committed, before the handler was called")
    for name in around:
        expected += [f"before {name} was committed", f"after {name} was committed, before the handler went on"]
    expected.append("before the outcome 'completed' was committed")
    expected.append(f"after the outcome 'completed' was committed, {reply}")
    assert expected == [*report.points]


@pytest.mark.parametrize("most", [1, 4])
def test_at_most_so_many_points(most: int) -> None:
    report = tried(plain_steps, max_points=most)
    assert (most, ()) == (len(report.points), report.findings)
    assert report.untried > 0
    assert f"{report.untried} points of death were not tried: there are more than max_points={most}" in str(report)


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="max_points: expected at least 1, got 0"):
        crash_test(lambda ctx: None, max_points=0)
    with pytest.raises(RuntimeError, match=r"requires the tools weather: give their outputs as crash_test\(tool_out"):
        tried(tool_rounds)
    with pytest.raises(RuntimeError, match="the run has not ended"):
        tried(lambda _: lambda ctx: ctx.require_action([ctx.tool_call("again")]), tool_outputs={"again": ""})


def test_tool_outputs_by_a_function() -> None:
    """It gets the calls, and returns the outputs by their ids."""

    def answer(calls: Sequence[ToolCall]) -> dict[str, str]:
        return {call.id: f"sunny in {call.arguments}" for call in calls}

    def handler(ctx: Context) -> Outcome | None:
        if not ctx.tool_outputs:
            return ctx.require_action([ctx.tool_call("weather", city="Paris")])
        assert ['sunny in {"city": "Paris"}'] == [*ctx.tool_outputs.values()]
        return None

    report = tried(lambda _: handler, tool_outputs=answer)
    assert () == report.findings, report


def test_memory_that_stands_for_the_outside_world() -> None:
    """A list that the handler reads itself is taken for memory of its process, unless it is named."""
    bank: list[str] = []

    def make(probe: Probe) -> Handler:
        def charge(run_id: str) -> None:
            bank.append(run_id)
            probe.effect("charge card")

        def handler(ctx: Context) -> None:
            try:
                ctx.step("charge", charge, ctx.run_id, once=True)
            except StepInterrupted:
                if ctx.run_id not in bank:
                    ctx.step("charge again", charge, ctx.run_id, once=True)
                ctx.step("decided", int)

        return handler

    assert () == tried(make, outside=[bank]).findings
    assert "bank" == only(tried(make), "memory of the process").subject


def test_restart_is_called_for_each_process() -> None:
    """Before each run, and after each death: what it forgets is missed by a handler that relies on it."""
    cache: dict[str, str] = {}

    def read(ctx: Context) -> list[str]:
        return [cache[ctx.run_id]]

    def make(_: Probe) -> Handler:
        def handler(ctx: Context) -> None:
            ctx.step("load", lambda: cache.update({ctx.run_id: "text"}))
            read(ctx)

        return handler

    assert () == tried(make).findings
    finding = only(tried(make, restart=cache.clear), "other outcome")
    assert ("completed", "failed (server_error: KeyError: '<run>')") == (finding.expected, finding.found)


def test_the_memory_of_the_test_is_left_as_it_was() -> None:
    """Lists that the handler fills have all entries afterwards."""
    seen: list[int] = []

    def handler(ctx: Context) -> None:
        seen.append(ctx.attempt)
        ctx.step("work", int)

    report = crash_test(handler)
    assert {1, 2} == set(seen)
    assert len(seen) >= 2 * len(report.points)


def test_a_store_of_the_caller(store: Store) -> None:
    """Any open store will do; other runs in it are left alone."""
    other = store.create(thread_id="thread_1", assistant_id="asst_1", model="gpt-4o")
    report = crash_test(lambda ctx: ctx.step("work", lambda: None), store=store, thread_id="thread_2")
    assert 5 == len(report.points)
    assert "queued" == store.get(other.id).status
    assert {"completed", "queued"} == {run.status for run in store.list().data}


def test_the_fixture(crash_test: CrashTest, run_store: Store) -> None:
    """It uses the store of the fixture `run_store`."""
    report = crash_test(lambda ctx: ctx.step("work", lambda: None), model="gpt-5")
    assert 5 == len(report.points)
    assert {"gpt-5"} == {run.model for run in run_store.list().data}


def test_while_the_clock_stands_still(crash_test: CrashTest, run_clock: ManualClock) -> None:
    """A dead worker's lease is closed, and need not lapse."""
    probe = Probe()
    report = crash_test(async_steps(probe), probe=probe)
    assert () == report.findings, report
    assert 1_700_000_000 == run_clock.time()


def test_an_effect_that_does_not_happen_is_said_so() -> None:
    finding = only(tried(checkpoint_too_early), "effect lost")
    assert "it happens once, as in the undisturbed run" == finding.expected
    assert "it did not happen" == finding.found
    assert finding.point == "after the checkpoint 1 was committed, before the handler went on"


def test_what_is_allowed_is_noted() -> None:
    """A step whose result was not committed is executed again; a step that was marked may end the run."""
    notes = tried(plain_steps).notes
    assert "step 'plan' is executed again if the worker dies before its result is committed" in notes
    assert "after a death inside step 'charge', the run is failed" in tried(once_or_fail).notes
    assert [note for note in tried(changing_results).notes if "the results of step 'ask', which are not comp" in note]


def test_inside_an_event_loop() -> None:
    """An async test may call it, too."""

    async def test() -> CrashReport:
        probe = Probe()
        return crash_test(async_steps(probe), probe=probe)

    assert () == asyncio.run(test()).findings


# --- the examples -----------------------------------------------------------------------------------------------------


def handlers_of_examples() -> dict[str, Handler]:
    found: dict[str, Handler] = {}
    for path in sorted((ROOT / "examples").glob("*.py")):
        if "runstate.worker" not in path.read_text(encoding="utf-8"):
            continue
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except ImportError:  # of an engine that is not installed
            continue
        for name, value in vars(module).items():
            if inspect.isfunction(value) and "Context" in str(inspect.signature(value)):
                found[f"{path.stem}.{name}"] = value
    return found


EXAMPLES = handlers_of_examples()


def test_examples_are_found() -> None:
    assert "durable_worker.answer" in EXAMPLES


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_handler_of_an_example_gives_no_finding(name: str) -> None:
    report = tried(lambda _: EXAMPLES[name], tool_outputs={"weather": "sunny"})
    assert () == report.findings, report
