"""Runs as JSON: read tolerantly, with all faults at once; written strictly; nothing is lost on the way."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runstate import (
    IncompleteDetails,
    LastError,
    RequiredAction,
    Run,
    RunDecodeError,
    RunStatus,
    ToolCall,
    TruncationStrategy,
    Usage,
)
from runstate.run.codec import MAX_BYTES, REQUIRED_KEYS, missing_keys
from runstate.run.codec import MAX_DEPTH as MAX_TEXT_DEPTH
from runstate.run.json_values import MAX_DEPTH
from runstate.run.record import FIELDS
from tests.support.lifecycle import KEYS, NOW, Recorded, bring, everything, needs_traces, new_run, recorded_runs

RECORDED = recorded_runs()
SNAPSHOTS = [snapshot for run in RECORDED for snapshot in run.snapshots]
USERS_OWN = ("metadata", "tools", "tool_choice", "response_format")
NESTED = (
    *("submit_tool_outputs", "submit_tool_approval", "tool_calls"),
    *("prompt_tokens", "completion_tokens", "total_tokens", "last_messages"),
)

# The names in camelCase, by hand: what the JavaScript client writes.
CAMEL = {
    "created_at": "createdAt",
    "thread_id": "threadId",
    "assistant_id": "assistantId",
    "required_action": "requiredAction",
    "last_error": "lastError",
    "expires_at": "expiresAt",
    "started_at": "startedAt",
    "cancelled_at": "cancelledAt",
    "failed_at": "failedAt",
    "completed_at": "completedAt",
    "incomplete_details": "incompleteDetails",
    "max_prompt_tokens": "maxPromptTokens",
    "max_completion_tokens": "maxCompletionTokens",
    "truncation_strategy": "truncationStrategy",
    "tool_choice": "toolChoice",
    "parallel_tool_calls": "parallelToolCalls",
    "response_format": "responseFormat",
    "top_p": "topP",
    "submit_tool_outputs": "submitToolOutputs",
    "submit_tool_approval": "submitToolApproval",
    "tool_calls": "toolCalls",
    "prompt_tokens": "promptTokens",
    "completion_tokens": "completionTokens",
    "total_tokens": "totalTokens",
    "last_messages": "lastMessages",
}


def base(**other: object) -> dict[str, Any]:
    return {**bring("requires_action").to_dict(), **other}


def camelled(value: Any, depth: int = 0) -> Any:
    """Respell a recorded object as the JavaScript client would, by the names it knows; what is the user's stays."""
    if isinstance(value, dict):
        return {
            CAMEL.get(key, key): item if depth == 0 and key in USERS_OWN else camelled(item, depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [camelled(item, depth + 1) for item in value]
    return value


def faults(error: RunDecodeError) -> list[tuple[str, str]]:
    return [(fault.path, fault.message) for fault in error.errors]


def refused(data: Any) -> list[tuple[str, str]]:
    """Return the faults of a JSON object that is no run, the same by text and by dict."""
    with pytest.raises(RunDecodeError) as caught:
        Run.from_dict(data)
    return faults(caught.value)


def refused_text(text: str | bytes) -> list[tuple[str, str]]:
    with pytest.raises(RunDecodeError) as caught:
        Run.from_json(text)
    return faults(caught.value)


# --- recorded runs ----------------------------------------------------------------------------------------------------


@needs_traces
def test_every_recorded_object_survives() -> None:
    """All 559 recorded objects come back as they were, with null for the keys they lacked, and nothing else."""
    assert 559 == len(SNAPSHOTS)
    for snapshot in SNAPSHOTS:
        before = copy.deepcopy(snapshot)
        run = Run.from_dict(snapshot)
        written = run.to_dict()
        assert before == snapshot
        lacked = {key for key in KEYS if key not in snapshot}
        assert lacked == missing_keys(snapshot)
        assert {**dict.fromkeys(lacked), **filled(snapshot)} == written
        assert run == Run.from_json(run.to_json()) == Run.from_json(json.dumps(snapshot))


def filled(snapshot: dict[str, Any]) -> dict[str, Any]:
    """Add the one nested key that is written though a record may lack it."""
    strategy = snapshot.get("truncation_strategy")
    if strategy is None:
        return snapshot
    return {**snapshot, "truncation_strategy": {"last_messages": None, **strategy}}


@needs_traces
def test_every_recorded_object_in_camel_case() -> None:
    """Each recorded object spelled in camelCase is the same run, and is written in camelCase as it was read."""
    for snapshot in SNAPSHOTS:
        run = Run.from_dict(snapshot)
        spelled = camelled(snapshot)
        assert run == Run.from_dict(spelled)
        lacked = {CAMEL.get(key, key): None for key in KEYS if key not in snapshot}
        assert {**lacked, **camelled(filled(snapshot))} == run.to_dict("camel")


@needs_traces
def test_the_twelve_oldest_keys_are_those_that_all_have() -> None:
    """What must be there is what every recorded object has."""
    assert set(REQUIRED_KEYS) == set.intersection(*(set(snapshot) for snapshot in SNAPSHOTS)) & set(KEYS)
    assert 12 == len(REQUIRED_KEYS)


@needs_traces
def test_the_recorded_runs_are_all_there() -> None:
    """The recordings are those of docs/lifecycle.md: 112 runs, 82 of which were seen to change status."""
    changed = [run for run in RECORDED if len({snapshot["status"] for snapshot in run.snapshots}) > 1]
    assert (112, 82) == (len(RECORDED), len(changed))
    assert all(isinstance(run, Recorded) for run in RECORDED)


# --- round trips ------------------------------------------------------------------------------------------------------

names = st.text(min_size=1, max_size=8)
seconds = st.integers(0, 253_402_300_799)
words = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
known = {*KEYS, *NESTED, *CAMEL.values(), "function", "name", "arguments", "type", "id", "code", "message", "reason"}
unknown = st.dictionaries(
    st.one_of(words.filter(lambda key: key not in known), st.sampled_from(["file_ids", "reasoningEffort"])),
    json_values,
    max_size=2,
)
# Names that mean something elsewhere in the object are unknown keys too where they stand.
misplaced = st.dictionaries(st.sampled_from(["created_at", "createdAt", "expires_at", "tool_choice"]), json_values)
extras = unknown | misplaced
objects = st.builds(lambda kind, more: {**more, "type": kind}, names, st.dictionaries(words, json_values, max_size=2))
calls = st.builds(ToolCall, names, names, words, extra=extras)
actions = st.builds(
    RequiredAction,
    st.lists(calls, min_size=1, max_size=3, unique_by=lambda call: call.id),
    st.sampled_from(["submit_tool_outputs", "submit_tool_approval"]),
    extra=extras,
)
strategies = st.builds(TruncationStrategy, st.just("auto"), st.none() | st.integers(1, 9), extra=extras) | st.builds(
    TruncationStrategy, st.just("last_messages"), st.integers(1, 9), extra=extras
)
counts = st.integers(0, 2**63 - 1)
runs = st.builds(
    Run,
    id=names,
    created_at=seconds,
    thread_id=names,
    assistant_id=names,
    status=st.sampled_from(RunStatus),
    required_action=st.none() | actions,
    last_error=st.none() | st.builds(LastError, names, words, extra=extras),
    expires_at=st.none() | seconds,
    started_at=st.none() | seconds,
    cancelled_at=st.none() | seconds,
    failed_at=st.none() | seconds,
    completed_at=st.none() | seconds,
    incomplete_details=st.none() | st.builds(IncompleteDetails, names, extra=extras),
    model=st.none() | names,
    instructions=st.none() | st.text(max_size=20),
    tools=st.none() | st.lists(objects, max_size=2).map(tuple),
    metadata=st.none() | st.dictionaries(st.text(max_size=64), st.text(max_size=20), max_size=3),
    usage=st.none() | st.builds(Usage, counts, counts, counts, extra=extras),
    max_prompt_tokens=st.none() | st.integers(1, 10**9),
    max_completion_tokens=st.none() | st.integers(1, 10**9),
    truncation_strategy=st.none() | strategies,
    tool_choice=st.none()
    | st.sampled_from(["none", "auto", "required", {"type": "file_search"}])
    | names.map(lambda name: {"type": "function", "function": {"name": name, "created_at": 1}}),
    parallel_tool_calls=st.none() | st.booleans(),
    response_format=st.none() | st.just("auto") | objects,
    temperature=st.none() | st.floats(0, 2) | st.integers(0, 2),
    top_p=st.none() | st.floats(0, 1),
    extra=unknown,
)


@given(runs)
def test_round_trips(run: Run) -> None:
    """Any run, with unknown keys at every level, is the same after writing and reading, in either spelling."""
    slots = copy.deepcopy(everything(run))
    for spelling in ("snake", "camel"):
        written = run.to_dict(spelling)
        assert run == Run.from_dict(written)
        assert run == Run.from_json(run.to_json(spelling))
        assert run == Run.from_json(run.to_json(spelling).encode())
        assert written == Run.from_dict(written).to_dict(spelling)
        assert written == json.loads(run.to_json(spelling))
    assert set(KEYS) <= set(run.to_dict())
    assert {CAMEL.get(key, key) for key in KEYS} <= set(run.to_dict("camel"))
    assert slots == everything(run)


@pytest.mark.parametrize("kind", ["function", "custom"])
def test_tool_calls_of_other_types(kind: str) -> None:
    """A call whose type is not `function` is written as it was read, wherever its name stood."""
    nested = {"id": "c", "type": kind, "function": {"name": "f", "arguments": "{}", "strict": True}, "index": 0}
    written = Run.from_dict(base(required_action=action_of(nested))).to_dict()
    assert [nested] == written["required_action"]["submit_tool_outputs"]["tool_calls"]


def test_tool_calls_without_a_function() -> None:
    """A call of Azure's approval type has its name beside the id, and is written so."""
    call = {"id": "c", "type": "mcp", "name": "f", "arguments": "{}", "server_label": "s"}
    action = {"type": "submit_tool_approval", "submit_tool_approval": {"tool_calls": [call], "more": 1}, "again": 2}
    assert action == Run.from_dict(base(required_action=action)).to_dict()["required_action"]


def test_a_tool_call_may_lack_its_arguments() -> None:
    """A call without type and arguments is a function call with none."""
    run = Run.from_dict(base(required_action=action_of({"id": "c", "function": {"name": "f"}})))
    assert run.required_action is not None
    assert (ToolCall("c", "f", "{}", "function"),) == run.required_action.tool_calls


def test_both_inner_objects_are_kept() -> None:
    """The inner object that the type does not name is an unknown key like any other."""
    action = {**action_of({"id": "c", "type": "function", "function": {"name": "f", "arguments": ""}})}
    action["submit_tool_approval"] = {"tool_calls": [{"id": "d"}]}
    assert action == Run.from_dict(base(required_action=action)).to_dict()["required_action"]


def action_of(*calls: object) -> dict[str, Any]:
    return {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": list(calls)}}


def test_unknown_keys_are_given_back() -> None:
    """What a newer server adds, at the top or inside, is kept as it came."""
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "prompt_token_details": {"cached": 0}}
    data = base(status="completed", usage=usage, reasoning_effort=None, tool_resources={"code_interpreter": {}})
    run = Run.from_dict(data)
    assert {"reasoning_effort": None, "tool_resources": {"code_interpreter": {}}} == run.extra
    assert data == run.to_dict()
    assert list(data) == list(run.to_dict())


def test_what_was_written_does_not_change_the_run() -> None:
    """Whoever changes the dict that was written, at any depth, does not change the run."""
    run = new_run(tools=[{"type": "function", "function": {"parameters": {"a": [1]}}}], metadata={"a": "b"})
    before = run.to_dict()
    written = run.to_dict()
    written["tools"][0]["function"]["parameters"]["a"].append(2)
    written["metadata"]["a"] = "c"
    assert before == run.to_dict()


def test_what_was_read_does_not_change_the_run() -> None:
    """Whoever changes the dict that was read does not change the run's own objects."""
    data = base(metadata={"a": "b"}, tools=[{"type": "file_search"}])
    run = Run.from_dict(data)
    before = run.to_dict()
    data["metadata"]["a"] = "c"
    data["tools"].append({"type": "code_interpreter"})
    data["required_action"]["submit_tool_outputs"]["tool_calls"].clear()
    assert before == run.to_dict()


def test_text_is_one_line_of_ascii() -> None:
    """The text of a run has no line break and only ASCII, whatever the run says; a lone surrogate survives."""
    run = new_run(instructions="Grüße\n\ud800 \U0001f600", metadata={"ü": "\u2028"})
    assert run.to_json().isascii()
    assert 1 == len(run.to_json().splitlines())
    assert run == Run.from_json(run.to_json())


def test_spelling() -> None:
    """There are two spellings; any other is refused by name."""
    assert NOW == new_run().to_dict("camel")["createdAt"]
    with pytest.raises(ValueError, match=r"^expected the spelling 'snake' or 'camel', got 'kebab'$"):
        new_run().to_dict("kebab")  # type: ignore[arg-type]


# --- what is no run ---------------------------------------------------------------------------------------------------


def test_all_faults_at_once() -> None:
    """All that is wrong is told at once, each with its exact path."""
    data: dict[str, Any] = {
        "id": "",
        "object": "thread.message",
        "created_at": "2024-01-01",
        "thread_id": "t",
        "status": "paused",
        "required_action": action_of({"id": "c"}, {"function": {"name": ""}, "id": "d"}, 5),
        "last_error": {"message": 5},
        "expires_at": -1,
        "startedAt": 1.5,
        "cancelled_at": NOW * 1000,
        "failed_at": True,
        "usage": {"prompt_tokens": -1, "completion_tokens": 1, "total_tokens": None},
        "truncation_strategy": {"type": "auto", "last_messages": 0},
        "incomplete_details": "x",
        "metadata": {"a": 1},
        "tools": [{"type": "x"}, {}],
    }
    paths = {path for path, _ in refused(data)}
    calls = "required_action.submit_tool_outputs.tool_calls"
    expected = {"id", "object", "created_at", "assistant_id", "status", "expires_at", "started_at", "cancelled_at"}
    expected |= {"failed_at", "completed_at", f"{calls}[0].name", f"{calls}[1].name", f"{calls}[2]"}
    expected |= {"last_error.code", "usage.prompt_tokens", "usage.total_tokens", "truncation_strategy.last_messages"}
    expected |= {"incomplete_details", "metadata.a", "tools[1].type"}
    assert expected == paths
    assert refused(data) == refused_text(json.dumps(data))


NINE = "queued, in_progress, requires_action, cancelling, completed, incomplete, failed, cancelled, expired"
ONE_FAULT: list[tuple[dict[str, Any], str, str]] = [
    ({"status": "paused"}, "status", f"unknown status 'paused'; the nine are {NINE}"),
    ({"status": "QUEUED"}, "status", f"unknown status 'QUEUED'; the nine are {NINE}"),
    ({"status": None}, "status", f"unknown status of type NoneType; the nine are {NINE}"),
    ({"status": ["queued"]}, "status", f"unknown status of type list; the nine are {NINE}"),
    ({"object": "thread.runs"}, "object", "expected 'thread.run'"),
    ({"object": None}, "object", "expected 'thread.run'"),
    ({"created_at": -1}, "created_at", "expected Unix seconds, got -1, which is negative"),
    ({"created_at": "1"}, "created_at", "expected Unix seconds, an integer, got a string"),
    ({"created_at": 1.0}, "created_at", "expected Unix seconds, an integer, got a number"),
    ({"created_at": None}, "created_at", "expected Unix seconds, an integer, got null"),
    ({"createdAt": 5}, "createdAt", "stands twice, as created_at and createdAt"),
    ({"last_error": []}, "last_error", "expected an object, got an array"),
    ({"last_error": {"code": "x"}}, "last_error.message", "is missing"),
    ({"incomplete_details": {}}, "incomplete_details.reason", "is missing"),
    ({"usage": {"prompt_tokens": 1, "completion_tokens": 1}}, "usage.total_tokens", "is missing"),
    (
        {"usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2, "totalTokens": 2}},
        "usage.totalTokens",
        "stands twice, as total_tokens and totalTokens",
    ),
    ({"truncation_strategy": {}}, "truncation_strategy.type", "is missing"),
    ({"required_action": 5}, "required_action", "expected an object, got an integer"),
    (
        {"required_action": {"type": "other", "other": {}}},
        "required_action",
        "expected the type to name an object beside it, got 'other' beside []",
    ),
    (
        {"required_action": {"type": "submit_tool_outputs", "submit_tool_outputs": []}},
        "required_action.submit_tool_outputs",
        "expected an object, got an array",
    ),
    (
        {"required_action": {"type": "submit_tool_outputs", "submit_tool_outputs": {}}},
        "required_action.submit_tool_outputs.tool_calls",
        "expected an array, got null",
    ),
    (
        {"required_action": action_of()},
        "required_action.submit_tool_outputs.tool_calls",
        "is empty: there must be a call to wait for",
    ),
    (
        {"required_action": action_of({"id": "c", "function": 5})},
        "required_action.submit_tool_outputs.tool_calls[0].function",
        "expected an object, got an integer",
    ),
    (
        {"required_action": action_of({"id": "c", "name": "f"}, {"id": "c", "name": "f"})},
        "required_action.submit_tool_outputs.tool_calls[1].id",
        "stands twice: 'c'",
    ),
    ({"temperature": 10**400}, "temperature", ""),
    ({"metadata": {"a": "x" * 513}}, "metadata.a", "value too long: expected at most 512 characters, got 513"),
]


@pytest.mark.parametrize(("other", "path", "problem"), ONE_FAULT, ids=[f"{n}" for n in range(len(ONE_FAULT))])
def test_one_fault(other: dict[str, Any], path: str, problem: str) -> None:
    """A single wrong value is one fault with its path and what is wrong, by dict and by text, in either spelling."""
    data = {**bring("queued").to_dict(), **other}
    found = refused(data)
    assert [path] == [at for at, _ in found]
    assert problem in ("", found[0][1])
    assert found == refused_text(json.dumps(data))


def test_a_fault_of_a_camel_case_object() -> None:
    """Faults are named in snake_case, however the object was spelled."""
    assert [("started_at", "expected Unix seconds, an integer, got a string")] == refused(
        {**bring("queued").to_dict("camel"), "startedAt": "x"}
    )


@pytest.mark.parametrize("key", KEYS)
def test_a_key_that_is_absent(key: str) -> None:
    """Each of the twelve oldest keys must be there; any other may be absent and reads as null."""
    data = {name: value for name, value in bring("queued").to_dict().items() if name != key}
    if key in REQUIRED_KEYS:
        assert [(key, "is missing")] == refused(data)
    else:
        assert None is Run.from_dict(data).to_dict()[key]


@pytest.mark.parametrize("data", [None, 5, "x", [], [{}], True])
def test_what_is_no_object(data: Any) -> None:
    """What is no JSON object at all is refused as one fault."""
    assert 1 == len(refused(data))


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ({1: 2}, ("", "expected string keys, got a Python int")),
        ({None: 1}, ("", "expected string keys, got a Python NoneType")),
        ({"a": {5: 1}}, ("a", "expected string keys, got a Python int")),
        ({"a": {1, 2}}, ("a", "expected JSON, got a Python set")),
        ({"a": b"x"}, ("a", "expected JSON, got a Python bytes")),
    ],
)
def test_unknown_keys_that_json_cannot_spell(more: dict[Any, Any], fault: tuple[str, str]) -> None:
    """Unknown keys are kept only if they can be written again."""
    assert [fault] == refused({**base(), **more})


@pytest.mark.parametrize("text", ["[" * 100 + "]" * 100, '{"a":' * 100 + "1" + "}" * 100])
def test_text_that_is_too_deep(text: str) -> None:
    """A text goes deeper than a value may, since it holds runs that hold values, but not without end."""
    ((path, problem),) = refused_text(text)
    assert path.startswith(("[0][0][0]", "a.a.a"))
    assert f"nested deeper than {MAX_TEXT_DEPTH} levels" == problem


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000])
def test_text_that_opens_without_end(text: str) -> None:
    """However the interpreter's reader gives up on it, it is a fault."""
    assert [("", f"nested deeper than {MAX_TEXT_DEPTH} levels")] == refused_text(text)


def test_python_values_that_json_has_not() -> None:
    """A set, bytes, or a number that is none is refused with its path, also inside what is the user's own."""
    assert [("tools[0].x", "expected JSON, got a Python set")] == refused(base(tools=[{"type": "f", "x": {1}}]))
    assert [("more.a[1]", "nan is not a JSON number")] == refused(base(more={"a": [1, float("nan")]}))
    assert [("metadata key 5", "expected a string, got an integer")] == refused(base(metadata={5: "x"}))


HUGE = 10**5000


@pytest.mark.parametrize(
    "other",
    [
        {"created_at": HUGE},
        {"started_at": -HUGE},
        {"status": HUGE},
        {"temperature": HUGE},
        {"max_prompt_tokens": -HUGE},
        {"truncation_strategy": {"type": HUGE}},
        {"required_action": {"type": HUGE}},
        {"usage": {"prompt_tokens": -HUGE, "completion_tokens": 1, "total_tokens": 1}},
    ],
    ids=lambda other: next(iter(other)),
)
def test_huge_integers_from_python(other: dict[str, Any]) -> None:
    """An integer with more digits than Python prints is a fault like any other."""
    assert refused(base(**other))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not JSON at line 1 column 1: the text ends too early"),
        ("{", "not JSON at line 1 column 2: the text ends too early"),
        ('{\n"a": 1,}', "not JSON at line 2 column "),
        ("{} {}", "not JSON at line 1 column 4: unexpected '{'"),
        ("\ufeff{}", "not JSON at line 1 column 1: "),
        (b"\xef\xbb\xbf{}", "not JSON at line 1 column 1: "),
        (b'{"a": "\xff"}', "byte 7 is not UTF-8"),
        ("1" * 5000, "a number has too many digits"),
        ('"' + "x" * MAX_BYTES + '"', f"expected at most {MAX_BYTES} characters, got {MAX_BYTES + 2}"),
        (b'"' + b"x" * MAX_BYTES + b'"', f"expected at most {MAX_BYTES} bytes, got {MAX_BYTES + 2}"),
        ("[]", "expected an object, got an array"),
        ("null", "expected an object, got null"),
    ],
    ids=lambda value: None if len(value) > 40 else repr(value),
)
def test_text_that_is_no_run(text: str | bytes, problem: str) -> None:
    """Text that is not JSON, too long, too deep or no object is one fault that says where."""
    ((path, told),) = refused_text(text)
    assert "" == path
    assert told.startswith(problem)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": NaN}', ("a", "nan is not a JSON number")),
        ('{"a": [1, -Infinity]}', ("a[1]", "-inf is not a JSON number")),
        ('{"a": 1e999}', ("a", "inf is not a JSON number")),
        ('{"a": {"b": 1, "b": 2}}', ("a.b", "stands twice")),
        ('{"a": [{"b": 1, "b": 1}]}', ("a[0].b", "stands twice")),
    ],
)
def test_text_that_json_forbids(text: str, expected: tuple[str, str]) -> None:
    """NaN, Infinity and a key that stands twice are told with their path."""
    assert [expected] == refused_text(text)


def nested(levels: int) -> dict[str, Any]:
    """Return an object whose deepest value lies so many levels below the object itself."""
    value: Any = 1
    for _ in range(levels - 1):
        value = [value]
    return base(deep=value)


def test_depth() -> None:
    """64 levels are read and written; the 65th is refused, by dict and by text."""
    run = Run.from_dict(nested(MAX_DEPTH))
    assert run == Run.from_json(run.to_json())
    told = [problem for _, problem in refused(nested(MAX_DEPTH + 1))]
    assert [f"nested deeper than {MAX_DEPTH} levels"] == told
    assert told == [problem for _, problem in refused_text(json.dumps(nested(MAX_DEPTH + 1)))]


def test_depth_without_end() -> None:
    """An object that contains itself is too deep, however often it does."""
    data = base()
    data["more"] = [data, data, data]
    found = refused(data)
    assert {f"nested deeper than {MAX_DEPTH} levels"} == {problem for _, problem in found}
    assert len(found) <= 100


def test_many_faults_are_cut() -> None:
    """An object with a million faults is refused with the first hundred."""
    assert 100 == len(refused(base(tools=[{}] * 10_000)))
    assert 100 == len(refused(base(more=[float("nan")] * 10_000)))


def test_text_as_large_as_allowed() -> None:
    """A run whose text is just 16 MiB is read."""
    text = new_run().to_json()
    padded = text[:-1] + ',"more":"' + "x" * (MAX_BYTES - len(text) - 10) + '"}'
    assert MAX_BYTES == len(padded)
    assert MAX_BYTES - len(text) - 10 == len(Run.from_json(padded).extra["more"])


# --- anything ---------------------------------------------------------------------------------------------------------

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**400), 253_402_300_800, -1])
    | st.floats()
    | st.text(max_size=10)
    | st.sampled_from([*RunStatus, "submit_tool_outputs", "function", "auto", "last_messages"])
    | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*known]) | st.text(max_size=5) | st.integers(), inner, max_size=6)
    ),
    max_leaves=20,
)


@pytest.mark.slow
@settings(max_examples=400)
@given(st.dictionaries(st.sampled_from([*KEYS, *CAMEL.values()]), anything, max_size=5))
@example({"temperature": 10**400})
def test_any_change_of_a_run_reads_or_is_refused(other: dict[str, Any]) -> None:
    """Whatever stands in the keys of a run, reading it returns a run that can be written, or raises RunDecodeError."""
    reads_or_refuses({**base(), **other})


@settings(max_examples=400)
@given(anything)
def test_anything_reads_or_is_refused(data: Any) -> None:
    """Whatever is read, the answer is a run or RunDecodeError."""
    reads_or_refuses(data)


def check_refusal(error: RunDecodeError) -> None:
    assert error.errors
    assert all(fault.message for fault in error.errors)
    assert len(str(error)) < 100_000


def reads_or_refuses(data: Any) -> None:
    try:
        run = Run.from_dict(data)
    except RunDecodeError as error:
        check_refusal(error)
    else:
        assert run == Run.from_dict(run.to_dict())
        assert run == Run.from_dict(run.to_dict("camel"))


@settings(max_examples=400)
@given(st.text() | st.binary())
def test_any_text_is_refused(text: str | bytes) -> None:
    """No text that chance writes is a run, and nothing but RunDecodeError comes of it."""
    with pytest.raises(RunDecodeError):
        Run.from_json(text)


@settings(max_examples=300)
@given(st.data())
def test_a_run_with_a_byte_changed(data: st.DataObject) -> None:
    """The text of a run with any of its bytes changed, cut or doubled reads as a run or is refused."""
    text = bytearray(bring("requires_action").to_json().encode())
    at = data.draw(st.integers(0, len(text) - 1))
    text[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        run = Run.from_json(bytes(text))
    except RunDecodeError as error:
        check_refusal(error)
    else:
        assert run == Run.from_json(run.to_json())


def test_unknown_keys_never_displace_known_ones() -> None:
    """What stands under the name of an inner object, and is none, gives way to it on writing."""
    calls = [ToolCall("call_1", "weather", extra={"function": 5})]
    run = Run.from_dict(base())
    run = Run(**{**attributes(run), "required_action": RequiredAction(calls, extra={"submit_tool_outputs": "x"})})
    written = run.to_dict()["required_action"]
    assert "call_1" == written["submit_tool_outputs"]["tool_calls"][0]["id"]
    assert {"name": "weather", "arguments": "{}"} == written["submit_tool_outputs"]["tool_calls"][0]["function"]


def attributes(run: Run) -> dict[str, Any]:
    return {field: getattr(run, field) for field in FIELDS}
