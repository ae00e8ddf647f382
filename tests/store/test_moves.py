"""Moves through the store: races by version, what is repeated, what a refusal teaches, what the history keeps."""

from __future__ import annotations

import threading
from itertools import product
from typing import Any

import pytest

from runstate import (
    IllegalTransition,
    InvalidRun,
    ManualClock,
    RequiredAction,
    TerminalStatus,
    ToolCall,
    ToolOutputsMismatch,
    Usage,
)
from runstate.errors import RunNotFound, VersionConflict
from runstate.store import Store
from tests.store.support import Prompt, ask_store, bring_in_store, names
from tests.support.lifecycle import CALL, EVENTS, LIVE, STATUSES, TABLE, TERMINAL


def test_nobody_there(store: Store, prompt: Prompt, clock: ManualClock) -> None:
    """A move of a run that is none says so, as the real servers do."""
    store.create(**names(id="run_1"))
    before = prompt.everything()
    for event, version in product(EVENTS, (None, 1)):
        with pytest.raises(RunNotFound, match=r"No run found with id 'run_2'\.") as missing:
            ask_store(store, "run_2", event, expected_version=version)
        assert isinstance(missing.value, LookupError)
        assert "run_2" == missing.value.run_id
    assert before == prompt.everything()


@pytest.mark.parametrize("status", STATUSES)
def test_another_version(store: Store, prompt: Prompt, clock: ManualClock, status: str) -> None:
    """Who decided on another version is told so first, wherever the run stands, and the run is handed over."""
    run = bring_in_store(store, status, actor="first")
    before = prompt.everything()
    for event, version in product(EVENTS, {1, run.version + 1, 2**40} - {run.version}):
        with pytest.raises(VersionConflict) as conflict:
            ask_store(store, run.id, event, actor="second", expected_version=version)
        error = conflict.value
        assert (run, event, version) == (error.run, error.event, error.expected_version)
        assert f"is {status} at version {run.version}, not at {version}, so {event} was not applied" in str(error)
    assert before == prompt.everything()


def test_the_very_version(store: Store, clock: ManualClock) -> None:
    """At the version that was expected, the move is made."""
    for source, event in TABLE:
        run = bring_in_store(store, source)
        assert run.version < ask_store(store, run.id, event, expected_version=run.version).version


WRONG: list[tuple[str, tuple[Any, ...], dict[str, Any], str]] = [
    *(("start", (bad,), {}, "run_id: ") for bad in (5, None, "\0", "\ud800", b"run_1")),
    *(("start", ("run_1",), {"actor": bad}, "actor: ") for bad in (5, "\0", "\ud800")),
    *(("start", ("run_1",), {"expected_version": bad}, "expected_version: ") for bad in (0, -1, True, "1", 1.0, 2**63)),
    *(("complete", ("run_1", bad), {}, "usage: ") for bad in (5, "x")),
    *(("complete", ("run_1", bad), {}, "usage.prompt_tokens: ") for bad in ({"prompt": 1}, {"prompt_tokens": "1"})),
    *(("mark_incomplete", ("run_1", bad), {}, "reason: ") for bad in ("because", None, 5, ["max_prompt_tokens"])),
    *(("fail", ("run_1", bad, "x"), {}, "code: ") for bad in ("oops", None, 5, ["server_error"])),
    *(("fail", ("run_1", "server_error", bad), {}, "message: ") for bad in (None, 5)),
    *(("fail", ("run_1", "server_error", "x"), {"detail": bad}, "detail") for bad in ([1], "x", {1: 2}, {"a": {1}})),
    ("fail", ("run_1", "server_error", "x"), {"detail": {"a": "x" * 1_000_001}}, "detail: is too large"),
    *(("require_action", ("run_1", bad), {}, "tool_calls") for bad in ([], [5], 5, [CALL, CALL])),
    *(("submit_tool_outputs", ("run_1", bad), {}, "outputs") for bad in (5, {"call_1": 5}, [{"output": "x"}], "x")),
]


@pytest.mark.parametrize("status", ["queued", "in_progress", "requires_action"])
def test_what_cannot_be_asked(store: Store, prompt: Prompt, status: str) -> None:
    """Impossible arguments are refused with a sentence before the database is asked, and nothing moves."""
    bring_in_store(store, status, id="run_1")
    before = prompt.everything()
    for event, arguments, given, sentence in WRONG:
        with pytest.raises(InvalidRun) as refused:
            getattr(store, event)(*arguments, **given)
        assert sentence in str(refused.value), (event, arguments, given)
    assert before == prompt.everything()


# --- what a refusal teaches -------------------------------------------------------------------------------------------


def test_who_was_faster(any_store: Store) -> None:
    """A refusal names what moved the run to where it stands, and who asked for that."""
    run = bring_in_store(any_store, "in_progress")
    any_store.complete(run.id, actor="worker w1")
    with pytest.raises(TerminalStatus) as refused:
        any_store.request_cancel(run.id, actor="web")
    assert f"run {run.id} is completed (by complete, worker w1) and cannot request_cancel;" in str(refused.value)
    other = any_store.create(**names())
    any_store.fail(other.id, "server_error", "x")
    with pytest.raises(TerminalStatus) as nameless:
        any_store.start(other.id)
    assert f"run {other.id} is failed (by fail) and cannot start;" in str(nameless.value)
    new = any_store.create(**names())
    with pytest.raises(IllegalTransition) as unmoved:
        any_store.complete(new.id)
    assert f"run {new.id} is queued and cannot complete; allowed there: start, request_cancel, fail, expire" in str(
        unmoved.value
    )


# --- repeated requests ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", sorted(LIVE - {"cancelling"}))
def test_a_cancel_repeated(store: Store, prompt: Prompt, clock: ManualClock, status: str) -> None:
    """The same request of the same actor again is answered with the run as it stands; another's is refused."""
    run = bring_in_store(store, status)
    first = store.request_cancel(run.id, actor="web", expected_version=run.version)
    assert ("cancelling" if status == "in_progress" else "cancelled") == first.status
    before = prompt.everything()
    assert first == store.request_cancel(run.id, actor="web")
    assert first == store.request_cancel(run.id, actor="web", expected_version=run.version)
    with pytest.raises(IllegalTransition):
        store.request_cancel(run.id, actor="other")
    with pytest.raises(IllegalTransition):
        store.request_cancel(run.id)
    with pytest.raises(VersionConflict):
        store.request_cancel(run.id, actor="web", expected_version=first.version + 1)
    assert before == prompt.everything()


@pytest.mark.slow
@pytest.mark.parametrize("event", ["complete", "mark_incomplete", "fail", "expire"])
def test_a_cancel_that_lost_is_not_repeated(store: Store, clock: ManualClock, event: str) -> None:
    """Where the end won the race, the same cancel again is told so."""
    run = bring_in_store(store, "in_progress")
    store.request_cancel(run.id, actor="web")
    ended = ask_store(store, run.id, event)
    with pytest.raises(TerminalStatus) as refused:
        store.request_cancel(run.id, actor="web")
    assert ended == refused.value.run


def test_outputs_repeated(store: Store, prompt: Prompt, clock: ManualClock) -> None:
    """The same outputs again are answered with the run as it stands, however far it has come; others are refused."""
    run = bring_in_store(store, "requires_action")
    queued = store.submit_tool_outputs(run.id, {"call_1": "sunny"}, expected_version=run.version)
    before = prompt.everything()
    assert queued == store.submit_tool_outputs(run.id, {"call_1": "sunny"})
    assert queued == store.submit_tool_outputs(run.id, [{"tool_call_id": "call_1", "output": "sunny"}])
    assert queued == store.submit_tool_outputs(run.id, {"call_1": "sunny"}, expected_version=run.version)
    others: list[dict[str, str]] = [{"call_1": "rainy"}, {"call_2": "sunny"}, {}, {"call_1": "sunny", "call_2": ""}]
    for other in others:
        with pytest.raises(IllegalTransition):
            store.submit_tool_outputs(run.id, other)
    with pytest.raises(VersionConflict):
        store.submit_tool_outputs(run.id, {"call_1": "sunny"}, expected_version=1)
    assert before == prompt.everything()
    started = store.start(run.id)
    assert started == store.submit_tool_outputs(run.id, {"call_1": "sunny"})
    store.require_action(run.id, [CALL])
    assert "queued" == store.submit_tool_outputs(run.id, {"call_1": "sunny"}).status  # a new round, the same words


@pytest.mark.parametrize(
    "outputs",
    [{}, {"call_1": "a"}, {"call_1": "a", "call_3": "c"}, {"call_1": "a", "call_2": "b", "call_3": "c"}, []],
)
def test_outputs_of_other_calls(store: Store, prompt: Prompt, clock: ManualClock, outputs: Any) -> None:
    """All outputs come in one request, for exactly the calls that the run waits for."""
    run = bring_in_store(store, "in_progress")
    store.require_action(run.id, [ToolCall("call_1", "f"), ToolCall("call_2", "g")])
    before = prompt.everything()
    with pytest.raises(ToolOutputsMismatch) as mismatch:
        store.submit_tool_outputs(run.id, outputs)
    assert ("call_1", "call_2") == mismatch.value.expected
    assert f"Expected tool outputs for call_ids ['call_1', 'call_2'], got {list(outputs)}" in str(mismatch.value)
    assert before == prompt.everything()
    assert "queued" == store.submit_tool_outputs(run.id, {"call_2": "b", "call_1": "a"}).status


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_what_the_history_keeps(any_store: Store, clock: ManualClock) -> None:
    """With each entry: who asked, and what came with it."""
    run = any_store.create(**names(actor="web"))
    any_store.start(run.id, actor="w1")
    action = RequiredAction([ToolCall("call_1", "f", '{"a": 1}')])
    any_store.require_action(run.id, action, actor="w1")
    any_store.submit_tool_outputs(run.id, [{"tool_call_id": "call_1", "output": "é"}], actor="web")
    any_store.start(run.id)
    any_store.fail(run.id, "rate_limit_exceeded", "slow", actor="w2", detail={"traceback": ["a", 1, None]})
    told = [(entry.event, entry.actor, entry.detail) for entry in any_store.history(run.id)]
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    required = {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": [call]}}
    expected: list[tuple[Any, Any, Any]] = [
        (None, "web", None),
        ("start", "w1", None),
        ("require_action", "w1", {"required_action": required}),
        ("submit_tool_outputs", "web", {"tool_outputs": {"call_1": "é"}}),
        ("start", None, None),
        ("fail", "w2", {"traceback": ["a", 1, None]}),
    ]
    assert expected == told
    assert () == any_store.history(run.id, after_version=6)
    assert told[2:] == [(e.event, e.actor, e.detail) for e in any_store.history(run.id, after_version=2)]


@pytest.mark.parametrize("event", ["fail", "expire", "complete", "mark_incomplete", "confirm_cancel"])
def test_usage_noted_is_kept(store: Store, clock: ManualClock, event: str) -> None:
    """Who ends a run without knowing what it used leaves what its worker noted; who knows better is believed."""
    for spent, expected in ((None, Usage(5, 7)), (Usage(6, 8), Usage(6, 8)), (Usage(), Usage())):
        run = store.create(**names())
        lease = store.open_lease("w1")
        (claim,) = store.claim(lease)
        assert store.save_checkpoint(lease, claim.run, usage=Usage(3, 7))
        assert store.save_checkpoint(lease, claim.run, usage=Usage(5, 2))  # the most of each that was ever told
        if event == "confirm_cancel":
            store.request_cancel(run.id)
        arguments: dict[str, tuple[Any, ...]] = {
            "fail": ("server_error", "x"),
            "mark_incomplete": ("max_prompt_tokens",),
        }
        ended = getattr(store, event)(run.id, *arguments.get(event, ()), spent)
        assert expected == ended.usage == store.get(run.id).usage


def test_usage_noted_survives_a_tool_round(store: Store, clock: ManualClock) -> None:
    """What a run used before it waited for its tools counts when it is cancelled, or expires, while it waits."""
    for end in ("request_cancel", "expire", "fail"):
        store.create(**names())
        lease = store.open_lease("w1")
        (claim,) = store.claim(lease)
        store.save_checkpoint(lease, claim.run, usage=Usage(5, 7))
        store.require_action(claim.run.id, [CALL])
        arguments = ("server_error", "x") if end == "fail" else ()
        assert Usage(5, 7) == getattr(store, end)(claim.run.id, *arguments).usage


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_nothing_used_is_zero(any_store: Store, clock: ManualClock, status: str) -> None:
    """Usage is null while a run lives and set when it has ended, 0, 0, 0 where nothing was used."""
    run = any_store.create(**names())
    assert any_store.get(run.id).usage is None
    way: dict[str, list[tuple[Any, ...]]] = {
        "completed": [("start",), ("complete",)],
        "incomplete": [("start",), ("mark_incomplete", "max_completion_tokens")],
        "failed": [("fail", "server_error", "x")],
        "cancelled": [("request_cancel",)],
        "expired": [("expire",)],
    }
    for event, *arguments in way[status]:
        assert any_store.get(run.id).usage is None
        run = getattr(any_store, event)(run.id, *arguments)
    assert (status, Usage()) == (run.status, run.usage)
    assert {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0} == any_store.get(run.id).to_dict()["usage"]


def test_usage_with_more_in_it(any_store: Store) -> None:
    """A usage keeps its total and the keys that newer servers add."""
    run = bring_in_store(any_store, "in_progress")
    spent = Usage(1, 2, 9, extra={"completion_tokens_details": {"reasoning_tokens": 1}})
    assert spent == any_store.complete(run.id, spent).usage == any_store.get(run.id).usage


# --- races ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", sorted(LIVE))
def test_one_winner(store: Store, clock: ManualClock, status: str) -> None:
    """Of many threads that ask different events of one run at once, some legal history comes out, without gaps."""
    run = bring_in_store(store, status)
    asked = [event for event in EVENTS for _ in range(3)]
    won: list[str] = []
    lost: list[str] = []
    barrier = threading.Barrier(len(asked))

    def ask(event: str, actor: str) -> None:
        barrier.wait()
        try:
            ask_store(store, run.id, event, actor=actor)
            won.append(event)
        except (IllegalTransition, ToolOutputsMismatch):
            lost.append(event)

    threads = [threading.Thread(target=ask, args=(event, f"{n}")) for n, event in enumerate(asked)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(asked) == sorted(won + lost)
    entries = store.history(run.id)
    assert [*range(1, store.get(run.id).version + 1)] == [entry.version for entry in entries]
    told = [entry.event for entry in entries][run.version :]
    assert len(told) >= len(won) >= 1
    assert set(won) <= set(told)
