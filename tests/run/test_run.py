"""A run: all 81 questions, every legal path, every refusal, and what a new one looks like."""

from __future__ import annotations

import copy
import pickle
import random
from typing import Any

import pytest

from runstate import (
    NO_USAGE,
    IllegalTransition,
    IncompleteDetails,
    InvalidRun,
    LastError,
    ManualClock,
    RequiredAction,
    Run,
    RunEvent,
    TerminalStatus,
    ToolCall,
    ToolOutputsMismatch,
    TruncationStrategy,
    Usage,
    new_run_id,
)
from runstate.lifecycle import RUN_LIFECYCLE, TRANSITIONS, Transition
from runstate.traces import judge, judge_trace
from tests.support.lifecycle import (
    CALL,
    EVENTS,
    HELD_IN,
    KEYS,
    MOVES,
    NOW,
    PAIRS,
    STATUSES,
    TABLE,
    TERMINAL,
    USED,
    after,
    ask,
    bring,
    everything,
    legal_paths,
    new_run,
)

LEGAL = [pair for pair in PAIRS if pair in TABLE]
REFUSED = [pair for pair in PAIRS if pair not in TABLE]


# --- 81 questions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "event"), LEGAL)
def test_a_legal_move(status: str, event: str, clock: ManualClock) -> None:
    """Each of the nineteen moves writes what docs/lifecycle.md says, at the clock's time, and no other of the 27."""
    run = bring(status)
    before = run.to_dict()
    clock.now = NOW + 100.5
    ask(run, event)
    assert after(event, before, NOW + 100) == run.to_dict()
    assert TABLE[status, event] == run.status
    assert KEYS == tuple(run.to_dict())


@pytest.mark.parametrize(("status", "event"), LEGAL)
def test_a_move_takes_the_time_it_is_given(status: str, event: str) -> None:
    """`at=` is the time of the move, and the clock is not asked."""
    run = bring(status)
    before = run.to_dict()
    ask(run, event, NOW + 77)
    assert after(event, before, NOW + 77) == run.to_dict()


@pytest.mark.parametrize(("status", "event"), REFUSED)
def test_an_illegal_move(status: str, event: str) -> None:
    """Each of the 62 other pairs is refused by its own class, with all its fields, and nothing moves."""
    run = bring(status)
    record, slots = run.to_dict(), everything(run)
    with pytest.raises(IllegalTransition) as caught:
        ask(run, event)
    for error in (caught.value, copy.copy(caught.value), pickle.loads(pickle.dumps(caught.value))):
        assert (TerminalStatus if status in TERMINAL else IllegalTransition) is type(error)
        assert ("run_1", status, event) == (error.run_id, error.status, error.event)
        assert tuple(e for e in EVENTS if (status, e) in TABLE) == error.allowed
        assert RUN_LIFECYCLE.path_to_event(run.status, RunEvent(event)) == error.path
        assert str(caught.value) == str(error)
    assert record == run.to_dict()
    assert slots == everything(run)
    assert all(value is everything(run)[slot] for slot, value in slots.items())


@pytest.mark.parametrize(("status", "event"), REFUSED)
def test_the_way_a_refusal_teaches_can_be_gone(status: str, event: str) -> None:
    """Whoever follows the path of a refusal gets what was asked."""
    run = bring(status)
    with pytest.raises(IllegalTransition) as caught:
        ask(run, event)
    path = caught.value.path
    for step in path or ():
        ask(run, step)
    assert (status if path is None else RUN_LIFECYCLE.target_of(RunEvent(event))) == run.status


@pytest.mark.parametrize("row", TRANSITIONS, ids=lambda row: f"{row.event}-{row.source}")
def test_a_move_writes_what_its_row_says(row: Transition) -> None:
    """What `run/_run.py` writes by hand is its row's stamp and what its target holds or loses, no more, no less."""
    run = bring(row.source)
    before = everything(run)
    ask(run, row.event, NOW + 100)
    written = {slot.removeprefix("_") for slot, value in everything(run).items() if value is not before[slot]}
    is_present = RUN_LIFECYCLE.is_present
    changed = {
        field
        for field in HELD_IN
        if is_present(field, row.source) != is_present(field, row.target)  # type: ignore[arg-type]
    }
    assert {"status", *changed} | ({row.stamp} if row.stamp else set()) == written


# --- all paths --------------------------------------------------------------------------------------------------------


def count_paths(longest: int) -> int:
    """Count the legal sequences of up to so many events by adding up, not by walking them."""
    standing = {"queued": 1}
    total = 1
    for _ in range(longest):
        ahead: dict[str, int] = {}
        for (source, _event), target in TABLE.items():
            ahead[target] = ahead.get(target, 0) + standing.get(source, 0)
        standing = ahead
        total += sum(standing.values())
    return total


def test_every_legal_path_up_to_eight_events(clock: ManualClock) -> None:
    """Every history of up to eight events leaves what docs/lifecycle.md says, step by step, and is judged plausible."""
    paths = list(legal_paths(8))
    assert count_paths(8) == len(paths) == len(set(paths))
    dice = random.Random(8)
    for path in paths:
        clock.now = NOW
        run = new_run(at=None)
        trace = [run.to_dict()]
        for event in path:
            clock.advance(1)
            ask(run, event)
            assert after(event, trace[-1], int(clock.now)) == run.to_dict()
            trace.append(run.to_dict())
        assert () == judge(trace[-1])
        assert () == judge_trace(trace).findings
        # Polling skips states, and sees some twice.
        polled = [snapshot for snapshot in trace for _ in range(dice.choice((0, 0, 1, 2)))]
        assert () == judge_trace(polled).findings


def test_there_are_as_many_paths_as_the_table_leaves() -> None:
    """The number of short histories, on paper: 1, then 4 more (start, cancel, fail, expire), then 11 (6 and 5)."""
    assert [1, 5, 16] == [count_paths(longest) for longest in range(3)]
    assert [1, 5, 16] == [len(list(legal_paths(longest))) for longest in range(3)]


def test_started_at_moves(clock: ManualClock) -> None:
    """started_at is stamped anew at every entry into in_progress and kept until then; the deadline never moves."""
    run = new_run(at=None)
    seen = []
    for event in ("start", "require_action", "submit_tool_outputs", "start", "request_cancel", "confirm_cancel"):
        clock.advance(10)
        ask(run, event)
        seen.append((run.started_at, run.expires_at))
    deadline = NOW + 600
    first, second = NOW + 10, NOW + 40
    assert [(first, deadline)] * 3 + [(second, deadline)] * 2 + [(second, None)] == seen


# --- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize(
    ("at", "problem"),
    [
        (-1, "expected Unix seconds, got -1, which is negative"),
        (1.5, "expected Unix seconds, an integer, got a number"),
        (True, "expected Unix seconds, an integer, got a boolean"),
        ("now", "expected Unix seconds, an integer, got a string"),
        (NOW * 1000, "expected Unix seconds, got 1800000000000, which is past the year 9999 (milliseconds?)"),
    ],
)
def test_a_time_that_is_none(event: str, at: Any, problem: str) -> None:
    """A move given no time of Unix seconds is refused with the reason, and nothing moves."""
    status = next(status for status in STATUSES if (status, event) in TABLE)
    run = bring(status)
    before = everything(run)
    with pytest.raises(InvalidRun) as caught:
        MOVES[event](run, at)
    assert [("at", problem)] == [(fault.path, fault.message) for fault in caught.value.errors]
    assert before == everything(run)


@pytest.mark.parametrize("at", [0, 253_402_300_799])
def test_the_first_and_last_second(at: int) -> None:
    """A run can be born, started and ended in the first second of 1970 and in the last of the year 9999."""
    run = Run.create(thread_id="t", assistant_id="a", model="m", expires_in_s=1, at=min(at, 253_402_300_798))
    run.start(at=at)
    run.complete(at=at)
    assert (at, at) == (run.started_at, run.completed_at)
    assert run == Run.from_json(run.to_json())


@pytest.mark.parametrize("event", ["confirm_cancel", "complete", "mark_incomplete", "fail", "expire"])
def test_no_usage_is_zeros(event: str) -> None:
    """A move into a terminal status without usage writes 0, 0, 0."""
    run = bring("cancelling")
    arguments: dict[str, tuple[Any, ...]] = {"mark_incomplete": ("max_prompt_tokens",), "fail": ("server_error", "x")}
    getattr(run, event)(*arguments.get(event, ()))
    assert Usage(0, 0, 0) == run.usage == NO_USAGE


@pytest.mark.parametrize("event", ["confirm_cancel", "complete", "mark_incomplete", "fail", "expire"])
def test_usage_must_be_one(event: str) -> None:
    """What is neither a Usage nor the API's object is refused by name, and nothing moves."""
    run = bring("cancelling")
    before = everything(run)
    arguments: dict[str, tuple[Any, ...]] = {"mark_incomplete": ("max_prompt_tokens",), "fail": ("server_error", "x")}
    with pytest.raises(InvalidRun, match=r"^usage: expected a Usage or an object with its counts, got an array$"):
        getattr(run, event)(*arguments.get(event, ()), usage=[1])
    assert before == everything(run)


@pytest.mark.parametrize("reason", ["because", "", None, 5, [], {}])
def test_a_reason_that_is_none(reason: Any) -> None:
    """Only the two limits end a run as incomplete; anything else is refused, and nothing moves."""
    run = bring("in_progress")
    before = everything(run)
    with pytest.raises(InvalidRun) as caught:
        run.mark_incomplete(reason)
    assert ["reason"] == [fault.path for fault in caught.value.errors]
    assert "'max_completion_tokens' or 'max_prompt_tokens'" in str(caught.value)
    assert before == everything(run)


@pytest.mark.parametrize("code", ["oops", "", None, 5, [], {}])
def test_a_code_that_is_none(code: Any) -> None:
    """Only the three codes end a run as failed; anything else is refused, and nothing moves."""
    run = bring("in_progress")
    before = everything(run)
    with pytest.raises(InvalidRun) as caught:
        run.fail(code, "it broke")
    assert ["code"] == [fault.path for fault in caught.value.errors]
    assert "'invalid_prompt' or 'rate_limit_exceeded' or 'server_error'" in str(caught.value)
    assert before == everything(run)


def test_a_message_that_is_none() -> None:
    """A failure needs a message, and nothing moves without."""
    run = bring("in_progress")
    before = everything(run)
    with pytest.raises(InvalidRun, match=r"message: expected a string, got null"):
        run.fail("server_error", None)  # type: ignore[arg-type]
    assert before == everything(run)


@pytest.mark.parametrize("reason", ["max_completion_tokens", "max_prompt_tokens"])
def test_each_limit(reason: Any) -> None:
    """Either limit ends a run as incomplete, with its reason."""
    run = bring("in_progress")
    run.mark_incomplete(reason)
    assert IncompleteDetails(reason) == run.incomplete_details


@pytest.mark.parametrize("code", ["server_error", "rate_limit_exceeded", "invalid_prompt"])
def test_each_code(code: Any) -> None:
    """Each of the three codes ends a run as failed."""
    run = bring("in_progress")
    run.fail(code, "it broke")
    assert LastError(code, "it broke") == run.last_error


@pytest.mark.parametrize("calls", [[], None, 5, [5], [CALL, CALL], "ab"])
def test_calls_that_are_none(calls: Any) -> None:
    """A run cannot wait for nothing, for what is no call, or for two calls of one id; nothing moves."""
    run = bring("in_progress")
    before = everything(run)
    with pytest.raises(InvalidRun) as caught:
        run.require_action(calls)
    assert all(fault.path.startswith("tool_calls") for fault in caught.value.errors)
    assert before == everything(run)


def test_calls_in_any_form() -> None:
    """The calls may come as a RequiredAction, a list or a generator."""
    runs = [bring("in_progress") for _ in range(3)]
    runs[0].require_action(RequiredAction([CALL]))
    runs[1].require_action([CALL])
    runs[2].require_action(call for call in (CALL,))
    assert [RequiredAction((CALL,))] * 3 == [run.required_action for run in runs]


@pytest.mark.parametrize(
    ("outputs", "got"),
    [
        ({}, ()),
        ({"a": "1"}, ("a",)),
        ({"a": "1", "b": "2", "c": "3"}, ("a", "b", "c")),
        ({"x": "1"}, ("x",)),
    ],
)
def test_outputs_for_other_calls(outputs: dict[str, str], got: tuple[str, ...]) -> None:
    """Outputs with an id too few, too many or unknown are refused as a whole, and nothing moves."""
    run = bring("in_progress")
    run.require_action([ToolCall("a", "x"), ToolCall("b", "y")])
    before = everything(run)
    with pytest.raises(ToolOutputsMismatch) as caught:
        run.submit_tool_outputs(outputs)
    assert ("run_1", ("a", "b"), got) == (caught.value.run_id, caught.value.expected, caught.value.got)
    assert before == everything(run)
    run.submit_tool_outputs({"b": "2", "a": "1"})
    assert "queued" == run.status


@pytest.mark.parametrize("outputs", [None, 5, ["call_1"], "call_1"])
def test_outputs_that_are_none(outputs: Any) -> None:
    """Outputs that are no mapping are refused as a value, and nothing moves."""
    run = bring("requires_action")
    before = everything(run)
    with pytest.raises(InvalidRun):
        run.submit_tool_outputs(outputs)
    assert before == everything(run)


def test_outputs_that_are_no_strings() -> None:
    """Each output is a string; every one that is not is told by its id, and nothing moves."""
    run = bring("in_progress")
    run.require_action([ToolCall("a", "x"), ToolCall("b", "y"), ToolCall("c", "z")])
    before = everything(run)
    with pytest.raises(InvalidRun) as caught:
        run.submit_tool_outputs({"a": 5, "b": "fine", "c": None})  # type: ignore[dict-item]
    expected = [("outputs.a", "expected a string, got an integer"), ("outputs.c", "expected a string, got null")]
    assert expected == [(fault.path, fault.message) for fault in caught.value.errors]
    assert before == everything(run)
    unhashable = [{"tool_call_id": ["a"], "output": "1"}]
    for wrong in (["a", "b", "c"], [{"tool_call_id": "a", "output": "1"}] * 2, [{"output": "1"}], unhashable):
        with pytest.raises(InvalidRun, match=r"^outputs: expected objects with tool_call_id and output, each id once$"):
            run.submit_tool_outputs(wrong)  # type: ignore[arg-type]
        assert before == everything(run)
    with pytest.raises(InvalidRun, match=r"^outputs: expected an object {call id: output}, got a string$"):
        run.submit_tool_outputs("a")  # type: ignore[arg-type]
    with pytest.raises(ToolOutputsMismatch):
        run.submit_tool_outputs({5: "a"})  # type: ignore[dict-item]
    assert before == everything(run)


def test_outputs_as_the_api_lists_them() -> None:
    """A list of tool_call_id and output is the same as the mapping of one to the other."""
    run = bring("requires_action")
    run.submit_tool_outputs([{"tool_call_id": "call_1", "output": "sunny"}])
    assert "queued" == run.status


def test_settings_that_go_too_deep() -> None:
    """However deep, a setting is refused by its path, and not by the interpreter's stack."""
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    settings: dict[str, Any] = {"tools": [{"type": "x", "y": deep}], "response_format": {"type": "x", "y": deep}}
    for setting, value in settings.items():
        with pytest.raises(InvalidRun, match="nested deeper than 64 levels"):
            new_run(**{setting: value})
        with pytest.raises(InvalidRun, match="nested deeper than 64 levels"):
            Run.from_dict({**new_run().to_dict(), setting: value})


def test_a_null_at_birth_is_the_default() -> None:
    """As in the API, a setting that is null is as if it had not been given."""
    settings = ("tools", "metadata", "truncation_strategy", "tool_choice", "parallel_tool_calls", "response_format")
    assert new_run() == new_run(**dict.fromkeys((*settings, "temperature", "top_p")))


def test_the_latest_deadline() -> None:
    """A deadline may lie in the last second of the year 9999, and not in the next."""
    last = 253_402_300_799
    assert last == new_run(expires_in_s=last - NOW).expires_at
    with pytest.raises(InvalidRun) as caught:
        new_run(expires_in_s=last - NOW + 1)
    problem = f"the deadline, {last - NOW + 1} s on, is past the year 9999"
    assert [("expires_in_s", problem)] == [(fault.path, fault.message) for fault in caught.value.errors]
    with pytest.raises(InvalidRun):
        new_run(at=last, expires_in_s=600)


def test_a_refused_word_is_shown() -> None:
    """The sentence tells what came, beside what is possible."""
    run = bring("in_progress")
    with pytest.raises(InvalidRun, match=r"got 'because'$"):
        run.mark_incomplete("because")  # type: ignore[arg-type]
    with pytest.raises(InvalidRun, match=r"got 'oops'$"):
        run.fail("oops", "it broke")  # type: ignore[arg-type]


def test_an_id_is_of_the_second_the_run_was_born() -> None:
    """Ids sort by the time that was given, not by the time of asking."""
    early = Run.create(thread_id="t", assistant_id="a", model="m", at=NOW)
    late = Run.create(thread_id="t", assistant_id="a", model="m", at=NOW + 1)
    assert new_run_id(NOW)[:14] == early.id[:14]
    assert early.id < late.id < new_run_id(NOW + 2)


def test_a_moment_that_is_given_is_the_one_asked_about(clock: ManualClock) -> None:
    """What the clock says does not matter then."""
    run = new_run()
    clock.now = NOW + 10_000
    assert 590 == run.seconds_left(NOW + 10)
    assert not run.is_due(NOW + 10)
    assert run.is_due()


def test_a_recorded_run_that_waits_for_nothing_known() -> None:
    """A record in requires_action without calls can be read; outputs for it match nothing, and nothing moves."""
    run = Run.from_dict({**bring("requires_action").to_dict(), "required_action": None})
    before = everything(run)
    with pytest.raises(ToolOutputsMismatch) as caught:
        run.submit_tool_outputs({"call_1": "sunny"})
    assert ((), ("call_1",)) == (caught.value.expected, caught.value.got)
    assert before == everything(run)


# --- birth ------------------------------------------------------------------------------------------------------------


def test_a_new_run() -> None:
    """A new run is queued, has its deadline in ten minutes, and null in all that a move will write."""
    run = Run.create(thread_id="thread_1", assistant_id="asst_1", model="gpt-4o", id="run_1", at=NOW)
    expected = dict.fromkeys(KEYS)
    expected |= {"id": "run_1", "object": "thread.run", "created_at": NOW, "expires_at": NOW + 600}
    expected |= {"thread_id": "thread_1", "assistant_id": "asst_1", "model": "gpt-4o", "status": "queued"}
    expected |= {"tools": [], "metadata": {}, "truncation_strategy": {"type": "auto", "last_messages": None}}
    expected |= {"tool_choice": "auto", "parallel_tool_calls": True, "response_format": "auto"}
    expected |= {"temperature": 1.0, "top_p": 1.0}
    assert expected == run.to_dict()
    assert () == judge(run)


def test_a_new_run_with_all_settings() -> None:
    """What is given at birth is what the run has."""
    given: dict[str, Any] = {
        "instructions": "Be brief.",
        "tools": [{"type": "function", "function": {"name": "weather"}}],
        "metadata": {"user": "7"},
        "max_prompt_tokens": 256,
        "max_completion_tokens": 16,
        "truncation_strategy": TruncationStrategy("last_messages", 3),
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "parallel_tool_calls": False,
        "response_format": {"type": "json_object"},
        "temperature": 0,
        "top_p": 0.5,
    }
    run = new_run(**given, expires_in_s=60)
    assert {**given, "tools": tuple(given["tools"])} == {setting: getattr(run, setting) for setting in given}
    assert NOW + 60 == run.expires_at
    assert run == Run.from_dict(run.to_dict())


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"thread_id": ""}, "thread_id"),
        ({"assistant_id": None}, "assistant_id"),
        ({"model": 4}, "model"),
        ({"id": ""}, "id"),
        ({"id": 7}, "id"),
        ({"instructions": 7}, "instructions"),
        ({"tools": [{}]}, "tools[0].type"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"max_prompt_tokens": 0}, "max_prompt_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"truncation_strategy": "auto"}, "truncation_strategy"),
        ({"tool_choice": "some"}, "tool_choice"),
        ({"response_format": "text"}, "response_format"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"expires_in_s": 0}, "expires_in_s"),
        ({"expires_in_s": True}, "expires_in_s"),
        ({"expires_in_s": 10**12}, "expires_in_s"),
    ],
)
def test_a_birth_that_cannot_be(given: dict[str, Any], path: str) -> None:
    """Each argument is checked, and the fault names it."""
    with pytest.raises(InvalidRun) as caught:
        new_run(**given)
    assert {path} == {fault.path for fault in caught.value.errors}


def test_all_faults_of_a_birth_at_once() -> None:
    """A caller learns all that is wrong in one refusal."""
    with pytest.raises(InvalidRun) as caught:
        new_run(thread_id="", model=None, temperature=float("nan"), metadata={"k": 5}, expires_in_s=-1)
    expected = ["thread_id", "model", "metadata.k", "temperature", "expires_in_s"]
    assert expected == [fault.path for fault in caught.value.errors]


@pytest.mark.parametrize("given", [{"parallel_tool_calls": 1}, {"temperature": True}, {"top_p": True}])
def test_a_boolean_is_no_number(given: dict[str, Any]) -> None:
    """1 equals True, but a run has a boolean where a boolean belongs, and a number where a number does."""
    with pytest.raises(InvalidRun) as caught:
        new_run(**given, instructions="Be brief.")
    assert list(given) == [fault.path for fault in caught.value.errors]
    with pytest.raises(InvalidRun) as alone:
        new_run(**given)
    assert caught.value.errors == alone.value.errors


def test_a_new_run_does_not_share_what_it_was_given() -> None:
    """Whoever changes the lists and dicts handed in does not change the run."""
    tools: list[dict[str, Any]] = [{"type": "file_search"}]
    metadata = {"a": "b"}
    run = new_run(tools=tools, metadata=metadata)
    tools.append({"type": "code_interpreter"})
    metadata["c"] = "d"
    assert ({"type": "file_search"},) == run.tools
    assert {"a": "b"} == run.metadata
    nothing: dict[str, str] = {}
    run, usage = new_run(metadata=nothing), Usage(1, 2, extra=nothing)
    nothing["a"] = "b"
    assert {} == run.metadata == usage.extra


# --- questions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", STATUSES)
def test_questions_about_the_status(status: str) -> None:
    """A run answers from the table what may be asked of it."""
    run = bring(status)
    assert (status in TERMINAL) is run.is_terminal
    assert tuple(event for event in EVENTS if (status, event) in TABLE) == run.allowed_events


@pytest.mark.parametrize("status", STATUSES)
def test_the_deadline(status: str, clock: ManualClock) -> None:
    """A live run is due from the second of its deadline on, an ended one never; asking changes nothing."""
    run = bring(status)
    before = everything(run)
    ended = status in TERMINAL
    for moment, left in ((NOW, 600), (NOW + 599.5, 0.5), (NOW + 600, 0), (NOW + 700, -100)):
        clock.now = moment
        assert (None if ended else left) == run.seconds_left() == run.seconds_left(moment)
        assert (not ended and left <= 0) is run.is_due() is run.is_due(moment)
    assert before == everything(run)


def test_over_budget() -> None:
    """A run may use its limits to the last token; past them the prompt's is told first."""
    run = new_run(max_prompt_tokens=10, max_completion_tokens=5)
    assert None is run.over_budget()
    assert None is run.over_budget(Usage(10, 5))
    assert "max_prompt_tokens" == run.over_budget(Usage(11, 6))
    assert "max_completion_tokens" == run.over_budget(Usage(10, 6))
    assert None is new_run().over_budget(Usage(10**9, 10**9))
    run.start()
    run.mark_incomplete("max_completion_tokens", Usage(1, 6))
    assert "max_completion_tokens" == run.over_budget()
    with pytest.raises(InvalidRun, match="usage: expected a Usage"):
        run.over_budget({})


def test_used_is_kept() -> None:
    """The usage handed to the last move is the run's."""
    run = bring("completed")
    assert USED == run.usage


def test_a_time_before_the_birth_is_taken_and_judged() -> None:
    """`at` is the caller's, and clocks of two machines differ: no move refuses it, the judge warns of it."""
    run = new_run(at=NOW)
    run.start(at=1)
    assert (NOW, 1) == (run.created_at, run.started_at)
    warned = [finding for finding in judge(run.to_dict()) if finding.field == "started_at"]
    assert ["warning"] == [finding.severity for finding in warned]
