"""Tokens: counted over everything a run goes through, and past a limit its end."""

from __future__ import annotations

from typing import Any

import pytest

from runstate import InvalidRun, Usage
from runstate.store import Checkpoint, Store
from runstate.worker import Context, Outcome, TokenLimitReached
from tests.worker.support import KINDS, error_of, events, finish, finished, left_behind, new, of_kind


def used(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


@pytest.mark.parametrize("kind", KINDS)
def test_usage_stands_in_the_record(kind: str, store: Store) -> None:
    """What a handler counts is summed up and stands in the run when it has ended, however it ended."""

    def answer(ctx: Context) -> Outcome | None:
        ctx.add_usage(prompt_tokens=3)
        ctx.add_usage(completion_tokens=4)
        ctx.add_usage(10, 20)
        ctx.add_usage()
        assert Usage(13, 24) == ctx.usage
        match ctx.run.metadata["end"]:
            case "completed":
                return None
            case "failed":
                raise ValueError("it broke")
            case _:
                return ctx.mark_incomplete("max_prompt_tokens")

    for end in ("completed", "failed", "incomplete"):
        run = finished(store, of_kind(kind, answer), metadata={"end": end})
        assert (end, used(13, 24)) == (run.status, run.to_dict()["usage"])


@pytest.mark.parametrize("kind", KINDS)
def test_usage_is_summed_over_tool_rounds(kind: str, store: Store) -> None:
    """A run that waited for its tools goes on counting where it was."""
    before: list[Usage] = []

    def answer(ctx: Context) -> Outcome | None:
        before.append(ctx.usage)
        ctx.add_usage(1, 10)
        return ctx.require_action([ctx.tool_call("weather")]) if len(before) < 3 else None

    run = finished(store, of_kind(kind, answer))
    for _ in range(2):
        assert run.usage is None
        assert run.required_action is not None
        store.submit_tool_outputs(run.id, dict.fromkeys(run.required_action.call_ids, "x"))
        finish(store, of_kind(kind, answer))
        run = store.get(run.id)
    assert [Usage(0, 0), Usage(1, 10), Usage(2, 20)] == before
    assert ("completed", used(3, 30)) == (run.status, run.to_dict()["usage"])


def test_usage_is_kept_while_a_run_waits_for_its_tools(store: Store) -> None:
    """Whoever ends a waiting run, its usage is in the record, though nobody who ends it knows of it."""

    def answer(ctx: Context) -> Outcome:
        ctx.add_usage(5, 6)
        return ctx.require_action([ctx.tool_call("weather")])

    run = finished(store, answer)
    assert used(5, 6) == store.request_cancel(run.id).to_dict()["usage"]


@pytest.mark.parametrize("kind", KINDS)
def test_usage_outlives_a_worker(kind: str, store: Store) -> None:
    """Who takes a run over counts on from what was kept with the last checkpoint; what came after it is lost."""
    run = store.create(**new())
    left_behind(store, checkpoint=Checkpoint(1), usage=Usage(100, 200))

    def answer(ctx: Context) -> None:
        assert Usage(100, 200) == ctx.usage
        ctx.add_usage(1, 2)

    finish(store, of_kind(kind, answer))
    assert used(101, 202) == store.get(run.id).to_dict()["usage"]


@pytest.mark.parametrize("kind", KINDS)
def test_past_a_limit_a_run_ends_incomplete(kind: str, store: Store) -> None:
    """A run may use its limit to the last token; past it, it ends as incomplete whatever the handler does."""

    def answer(ctx: Context) -> Outcome | None:
        ctx.add_usage(256, 300)  # to the last token
        with pytest.raises(TokenLimitReached) as caught:
            ctx.add_usage(0, 1) if ctx.run.metadata["of"] == "completion" else ctx.add_usage(1, 0)
        assert str(caught.value) == f"run {ctx.run_id} is past its {caught.value.reason}, and ends incomplete"
        match ctx.run.metadata["then"]:
            case "pass on":
                raise caught.value
            case "ask for tools":
                return ctx.require_action([ctx.tool_call("weather")])
            case "fail":
                raise ValueError("it broke")
            case _:
                return None

    limits = {"max_prompt_tokens": 256, "max_completion_tokens": 300}
    scenes = [(of, then) for of in ("prompt", "completion") for then in ("pass on", "ask for tools", "fail", "return")]
    runs = [store.create(**new(metadata={"of": of, "then": then}, **limits)).id for of, then in scenes]
    finish(store, of_kind(kind, answer))
    for run_id, (of, _) in zip(runs, scenes, strict=True):
        record = store.get(run_id).to_dict()
        assert ("incomplete", {"reason": f"max_{of}_tokens"}) == (record["status"], record["incomplete_details"])
        assert (557, None) == (record["usage"]["total_tokens"], record["last_error"])
        assert [None, "start", "mark_incomplete"] == events(store, run_id)


WRONG: tuple[tuple[Any, ...], ...] = (
    (-1, 0),
    (0, -1),
    (1.5, 0),
    ("1", 0),
    (True, 0),
    (None, 0),
    (0, 2**63),
    (2**64, 0),
)


@pytest.mark.parametrize("kind", KINDS)
def test_usage_that_cannot_be(kind: str, store: Store) -> None:
    """What is no number of tokens is refused and changes nothing; nor may a sum grow past what a database keeps."""

    def answer(ctx: Context) -> None:
        ctx.add_usage(7, 8)
        for prompt, completion in WRONG:
            with pytest.raises(InvalidRun):
                ctx.add_usage(prompt, completion)
        with pytest.raises(InvalidRun):
            ctx.add_usage(2**63 - 8, 2**63 - 8)
        assert Usage(7, 8) == ctx.usage

    run = finished(store, of_kind(kind, answer))
    assert ("completed", used(7, 8)) == (run.status, run.to_dict()["usage"])


def test_usage_that_cannot_be_fails_a_run_that_lets_it_pass(store: Store) -> None:
    """A handler that miscounts fails, and what it counted well stands."""

    def answer(ctx: Context) -> None:
        ctx.add_usage(7, 8)
        ctx.add_usage(-1)

    run = finished(store, answer)
    assert error_of(run)["message"].startswith("InvalidRun: ")
    assert used(7, 8) == run.to_dict()["usage"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_limit_that_the_handler_raises_itself(kind: str, store: Store) -> None:
    """Who counts tokens in its own way ends its run by the same error, and as incomplete."""

    def handler(ctx: Context) -> Outcome | None:
        raise TokenLimitReached(ctx.run_id, "max_completion_tokens")

    run = finished(store, of_kind(kind, handler))
    assert run.incomplete_details is not None
    assert ("incomplete", "max_completion_tokens") == (run.status, run.incomplete_details.reason)
