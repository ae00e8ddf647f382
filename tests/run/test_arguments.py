"""Arguments in the API's own shapes: taken by runs in memory, by stores and by handlers alike, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runstate import InvalidRun, RequiredAction, Run, ToolCall, ToolOutputsMismatch, TruncationStrategy, Usage
from runstate.store import Store, open_store
from runstate.worker import Context, Outcome, Worker
from tests.store.support import names
from tests.support.lifecycle import GIVEN, bring, new_run

AS_IN_API: dict[str, Any] = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Paris"}'},
}
CALL = ToolCall("call_1", "weather", '{"city": "Paris"}')
OTHER = {**AS_IN_API, "id": "call_2"}
WHOLE: Any = GIVEN["required_action"]

CALLS: dict[str, Any] = {
    "values": [CALL],
    "one value": CALL,
    "an action": RequiredAction([CALL]),
    "objects": [AS_IN_API],
    "objects, once through": iter,  # made anew for each use
    "one object": AS_IN_API,
    "a tuple": (AS_IN_API,),
    "the whole required_action": WHOLE,
    "camelCase": {"type": "submit_tool_outputs", "submitToolOutputs": {"toolCalls": [AS_IN_API]}},
    "arguments as an object": [{**AS_IN_API, "function": {"name": "weather", "arguments": {"city": "Paris"}}}],
    "arguments as an object, in a value": ToolCall("call_1", "weather", {"city": "Paris"}),
    "the function beside the id": [{"id": "call_1", "name": "weather", "arguments": '{"city": "Paris"}'}],
}


def calls(how: str) -> Any:
    return iter([AS_IN_API]) if CALLS[how] is iter else CALLS[how]


def in_memory(given: Any) -> RequiredAction | None:
    run = bring("in_progress")
    run.require_action(given)
    return run.required_action


def stored(given: Any) -> RequiredAction | None:
    with open_store("sqlite:///:memory:") as store:
        run = store.create(**names())
        store.start(run.id)
        store.require_action(run.id, given)
        assert {"required_action": WHOLE} == store.history(run.id)[-1].detail
        return store.get(run.id).required_action


def by_a_handler(given: Any) -> RequiredAction | None:
    def answer(ctx: Context) -> Outcome:
        return ctx.require_action(given)

    with open_store("sqlite:///:memory:") as store:
        run = store.create(**names())
        Worker(store, answer).run(until_idle=True)
        run = store.get(run.id)
        if run.last_error is not None:
            raise AssertionError(run.last_error.message)
        return run.required_action


@pytest.mark.parametrize("how", CALLS)
@pytest.mark.parametrize("ask", [in_memory, stored, by_a_handler])
def test_calls_are_taken_as_people_have_them(how: str, ask: Callable[[Any], RequiredAction | None]) -> None:
    """Whichever form they come in, the run waits for the same call, and is written as the API has it."""
    action = ask(calls(how))
    assert action == RequiredAction([CALL])
    run = bring("in_progress")
    run.require_action(calls(how))
    assert run.to_dict()["required_action"] == WHOLE


def test_values_and_objects_may_stand_together() -> None:
    """Their order stays."""
    run = bring("in_progress")
    run.require_action([CALL, OTHER])
    assert run.required_action is not None
    assert run.required_action.call_ids == ("call_1", "call_2")


def test_unknown_keys_of_a_call_are_kept() -> None:
    """As everywhere: what a newer server adds comes back on writing."""
    run = bring("in_progress")
    run.require_action([{**AS_IN_API, "index": 0}])
    (call,) = run.to_dict()["required_action"]["submit_tool_outputs"]["tool_calls"]
    assert call == {**AS_IN_API, "index": 0}


BAD_CALLS: dict[str, tuple[Any, list[str]]] = {
    "nothing": ([], ["tool_calls: is empty: there must be a call to wait for"]),
    "null": (None, ["tool_calls: expected tool calls, got null"]),
    "a number": (5, ["tool_calls: expected tool calls, got an integer"]),
    "a name": ("weather", ["tool_calls: expected tool calls, got a string"]),
    "names": (["weather"], ["tool_calls[0]: expected a ToolCall, got a string"]),
    "no id": ([{"function": {"name": "weather"}}], ["tool_calls[0].id: is missing"]),
    "no name": (
        [AS_IN_API, {"id": "call_2", "function": {}}, {"id": 5, "name": "x"}],
        ["tool_calls[1].name: is missing", "tool_calls[2].id: expected a string, got an integer"],
    ),
    "twice": ([AS_IN_API, AS_IN_API], ["tool_calls[1].id: stands twice: 'call_1'"]),
    "an empty object": (
        {},
        ["required_action: expected the type to name an object beside it, got None beside []"],
    ),
    "an action without calls": (
        {"type": "submit_tool_outputs", "submit_tool_outputs": {}},
        ["required_action.submit_tool_outputs.tool_calls: expected an array, got null"],
    ),
    "no JSON": (
        [{**AS_IN_API, "function": {"name": "f", "arguments": {"at": datetime.now(UTC)}}}],
        ["tool_calls[0].arguments.at: expected JSON, got a Python datetime"],
    ),
}


@pytest.mark.parametrize("how", BAD_CALLS)
def test_calls_that_are_none_are_refused_by_their_place(how: str) -> None:
    """All faults are told with their paths, and neither a run nor a stored run has moved."""
    given, faults = BAD_CALLS[how]
    run = bring("in_progress")
    before = run.to_dict()
    with pytest.raises(InvalidRun) as refused:
        run.require_action(given)
    assert faults == [str(fault) for fault in refused.value.errors]
    assert not str(refused.value).startswith("not a run")
    assert before == run.to_dict()
    with open_store("sqlite:///:memory:") as store:
        kept = store.create(**names())
        kept = store.start(kept.id)
        with pytest.raises(InvalidRun) as refused:
            store.require_action(kept.id, given)
        assert faults == [str(fault) for fault in refused.value.errors]
        assert kept == store.get(kept.id)


def test_arguments_as_an_object_become_text() -> None:
    """A call keeps JSON text, as the API has it; what is no JSON is named."""
    assert ToolCall("c", "w", {"city": "Paris", "days": [1, None]}).arguments == '{"city": "Paris", "days": [1, null]}'
    assert ToolCall("c", "w", {}).arguments == "{}"
    assert ToolCall("c", "w", {"city": "Paris"}) == CALL.__class__("c", "w", '{"city": "Paris"}')
    wrong: list[tuple[Any, str]] = [
        ({"at": datetime.now(UTC)}, "arguments.at: expected JSON, got a Python datetime"),
        ({"x": float("nan")}, "arguments.x: nan is not a JSON number"),
        ({5: 1}, "arguments: expected string keys, got a Python int"),
        (["Paris"], "arguments: expected a string, got an array"),
        (None, "arguments: expected a string, got null"),
    ]
    for arguments, sentence in wrong:
        with pytest.raises(InvalidRun) as refused:
            ToolCall("c", "w", arguments)
        assert sentence == str(refused.value)


def test_recorded_arguments_stay_what_they_were() -> None:
    """The reader of records takes text alone: an object would come back as text, which is another record."""
    record = bring("requires_action").to_dict()
    record["required_action"]["submit_tool_outputs"]["tool_calls"][0]["function"]["arguments"] = {"city": "Paris"}
    with pytest.raises(InvalidRun, match=r"tool_calls\[0\]\.arguments: expected a string, got an object"):
        Run.from_dict(record)


# --- usage ----------------------------------------------------------------------------------------------------------

USAGES: dict[str, tuple[Any, Usage]] = {
    "a value": (Usage(12, 30), Usage(12, 30)),
    "as in the API": ({"prompt_tokens": 12, "completion_tokens": 30, "total_tokens": 42}, Usage(12, 30)),
    "without the total": ({"prompt_tokens": 12, "completion_tokens": 30}, Usage(12, 30)),
    "one count": ({"prompt_tokens": 12}, Usage(12, 0)),
    "camelCase": ({"promptTokens": 12, "completionTokens": 30, "totalTokens": 42}, Usage(12, 30)),
    "with more keys": (
        {
            "prompt_tokens": 12,
            "completion_tokens": 30,
            "total_tokens": 42,
            "prompt_token_details": {"cached_tokens": 3},
        },
        Usage(12, 30, extra={"prompt_token_details": {"cached_tokens": 3}}),
    ),
}


def cancelled(run: Run, usage: Any) -> None:
    run.request_cancel()
    run.confirm_cancel(usage)


ENDS: dict[str, Callable[[Run, Any], None]] = {
    "complete": lambda run, usage: run.complete(usage),
    "by name": lambda run, usage: run.complete(usage=usage),
    "mark_incomplete": lambda run, usage: run.mark_incomplete("max_prompt_tokens", usage),
    "fail": lambda run, usage: run.fail("server_error", "it broke", usage),
    "expire": lambda run, usage: run.expire(usage),
    "confirm_cancel": lambda run, usage: cancelled(run, usage),
}


@pytest.mark.parametrize("how", USAGES)
@pytest.mark.parametrize("end", ENDS)
def test_a_usage_is_taken_as_people_have_it(how: str, end: str) -> None:
    """Every move that ends a run takes the API's object, in memory and in a store."""
    given, usage = USAGES[how]
    run = bring("in_progress")
    ENDS[end](run, given)
    assert run.usage == usage
    assert bring("in_progress").over_budget(given) is None
    with open_store("sqlite:///:memory:") as store:
        kept = store.create(**names())
        store.claim(store.open_lease("w1"))  # while a worker has it, a cancel waits for its confirmation
        ask: Any = _Bound(store, kept.id)
        ENDS[end](ask, given)
        assert store.get(kept.id).usage == usage


class _Bound:
    """The moves of a store for one run, by the same names."""

    def __init__(self, store: Store, run_id: str) -> None:
        self._store, self._run_id = store, run_id

    def __getattr__(self, name: str) -> Any:
        return partial(getattr(self._store, name), self._run_id)


BAD_USAGES: dict[str, tuple[Any, str]] = {
    "nothing": ({}, "usage: expected a Usage or an object with its counts, got an object"),
    "a number": (5, "usage: expected a Usage or an object with its counts, got an integer"),
    "misspelled": ({"promt_tokens": 5, "completion_tokens": 6}, "usage.prompt_tokens: is missing"),
    "of another API": (
        {"input_tokens": 5, "output_tokens": 6, "total_tokens": 11},
        "usage.prompt_tokens: is missing; usage.completion_tokens: is missing",
    ),
    "negative": ({"prompt_tokens": -1, "completion_tokens": 5}, "usage.prompt_tokens: expected at least 0, got -1"),
    "text": ({"prompt_tokens": "5"}, "usage.prompt_tokens: expected an integer, got a string"),
}


@pytest.mark.parametrize("how", BAD_USAGES)
def test_a_usage_that_is_none_is_refused(how: str) -> None:
    """A misspelled count is not taken for zero, and nothing moves."""
    given, sentence = BAD_USAGES[how]
    run = bring("in_progress")
    before = run.to_dict()
    with pytest.raises(InvalidRun) as refused:
        run.complete(given)
    assert sentence == str(refused.value)
    assert before == run.to_dict()
    with open_store("sqlite:///:memory:") as store:
        kept = store.create(**names())
        kept = store.start(kept.id)
        with pytest.raises(InvalidRun) as refused:
            store.complete(kept.id, given)
        assert sentence == str(refused.value)
        assert kept == store.get(kept.id)


def test_a_handler_counts_a_whole_usage() -> None:
    """`add_usage` takes counts, a `Usage`, or the API's object, and adds them up."""

    def answer(ctx: Context) -> None:
        ctx.add_usage(1, 2)
        ctx.add_usage(Usage(10, 20))
        ctx.add_usage({"prompt_tokens": 100, "completion_tokens": 200, "total_tokens": 300})
        with pytest.raises(InvalidRun, match=r"^completion_tokens: are given twice"):
            ctx.add_usage(Usage(1, 1), 5)

    with open_store("sqlite:///:memory:") as store:
        run = store.create(**names())
        Worker(store, answer).run(until_idle=True)
        assert store.get(run.id).usage == Usage(111, 222)


# --- the outputs and the truncation strategy ------------------------------------------------------------------------

OUTPUTS: dict[str, Any] = {
    "by call": {"call_1": "sunny"},
    "a list": [{"tool_call_id": "call_1", "output": "sunny"}],
    "the whole body": {"tool_outputs": [{"tool_call_id": "call_1", "output": "sunny"}], "stream": False},
    "one output": {"tool_call_id": "call_1", "output": "sunny"},
}


@pytest.mark.parametrize("how", OUTPUTS)
def test_outputs_are_taken_as_people_have_them(how: str) -> None:
    """In memory and stored, the run is queued again, and the handler gets the outputs by call."""
    run = bring("requires_action")
    run.submit_tool_outputs(OUTPUTS[how])
    assert run.status == "queued"
    with open_store("sqlite:///:memory:") as store:
        kept = store.create(**names())
        store.start(kept.id)
        store.require_action(kept.id, CALL)
        store.submit_tool_outputs(kept.id, OUTPUTS[how])
        assert store.history(kept.id)[-1].detail == {"tool_outputs": {"call_1": "sunny"}}


def test_a_body_without_outputs_is_refused() -> None:
    """An empty list in it answers no call."""
    run = bring("requires_action")
    body: Any = {"tool_outputs": []}
    with pytest.raises(ToolOutputsMismatch):
        run.submit_tool_outputs(body)
    assert run.status == "requires_action"


@pytest.mark.parametrize("create", ["memory", "store"])
def test_a_truncation_strategy_is_taken_as_the_api_has_it(create: str) -> None:
    """As an object, in memory and stored; a wrong one is named with its path."""
    given: Mapping[str, object] = {"type": "last_messages", "last_messages": 3}
    with open_store("sqlite:///:memory:") as store:

        def made(strategy: Mapping[str, object]) -> Any:
            if create == "memory":
                return new_run(truncation_strategy=strategy)
            return store.get(store.create(**names(truncation_strategy=strategy)).id)

        assert made(given).truncation_strategy == TruncationStrategy("last_messages", 3)
        assert made(given).to_dict()["truncation_strategy"] == given
        with pytest.raises(InvalidRun, match=r"^truncation_strategy\.last_messages: expected at least 1, got 0$"):
            made({"type": "last_messages", "last_messages": 0})


def test_the_command_line_takes_the_whole_body(tmp_path: Path) -> None:
    """`runstate runs submit --file` reads the body that a client would have sent."""
    from runstate.cli import cli
    from tests.support.cli_runner import CliRunner

    url = f"sqlite:///{tmp_path}/runs.db"
    with open_store(url) as store:
        run = store.create(**names())
        store.start(run.id)
        store.require_action(run.id, AS_IN_API)
        body = tmp_path / "body.json"
        body.write_text(json.dumps(OUTPUTS["the whole body"]), encoding="utf-8")
        done = CliRunner().invoke(cli, ["runs", "submit", run.id, "--file", str(body), "--store", url])
        assert (done.exit_code, done.stdout) == (0, f"{run.id} is queued\n")
        assert store.get(run.id).status == "queued"
