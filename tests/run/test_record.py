"""A run as data: 27 attributes that can be read and not assigned, equal when all are equal."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import attrs
import pytest

from runstate import InvalidRun, LastError, Run, RunStatus, TruncationStrategy, Usage
from runstate.run.record import FIELDS, RunRecord
from runstate.run.snapshot import RunSnapshot
from runstate.store._types import StoredRun
from tests.support.lifecycle import KEYS, NOW, STATUSES, bring, everything, new_run

LEAST: dict[str, Any] = {
    "id": "run_1",
    "created_at": NOW,
    "thread_id": "t",
    "assistant_id": "a",
    "status": RunStatus.QUEUED,
}
OTHER: dict[str, Any] = {
    "id": "run_2",
    "created_at": NOW + 1,
    "thread_id": "t2",
    "assistant_id": "a2",
    "status": RunStatus.FAILED,
    "required_action": bring("requires_action").required_action,
    "last_error": LastError("server_error", "x"),
    "expires_at": 5,
    "started_at": 5,
    "cancelled_at": 5,
    "failed_at": 5,
    "completed_at": 5,
    "incomplete_details": bring("incomplete").incomplete_details,
    "model": "m",
    "instructions": "i",
    "tools": ({"type": "file_search"},),
    "metadata": {"a": "b"},
    "usage": Usage(1, 2),
    "max_prompt_tokens": 1,
    "max_completion_tokens": 1,
    "truncation_strategy": TruncationStrategy(),
    "tool_choice": "none",
    "parallel_tool_calls": False,
    "response_format": {"type": "text"},
    "temperature": 2,
    "top_p": 0,
}
WRONG: dict[str, Any] = {
    **dict.fromkeys(("id", "created_at", "thread_id", "assistant_id", "status")),
    **{key: {} for key in ("required_action", "last_error", "incomplete_details", "usage", "truncation_strategy")},
    **dict.fromkeys(("expires_at", "started_at", "cancelled_at", "failed_at", "completed_at"), 1.5),
    "model": 5,
    "instructions": 5,
    "tools": {},
    "metadata": [],
    "max_prompt_tokens": 0,
    "max_completion_tokens": 0,
    "tool_choice": "x",
    "parallel_tool_calls": 0,
    "response_format": "x",
    "temperature": 3,
    "top_p": 2,
}


def same(run: Run) -> list[Run]:
    makers: list[Callable[[Run], Run]] = [copy.copy, copy.deepcopy]
    makers += [lambda run, p=protocol: pickle.loads(pickle.dumps(run, p)) for protocol in range(2, 6)]  # type: ignore[misc]
    return [make(run) for make in makers]


@pytest.mark.parametrize("status", STATUSES)
def test_copies_are_equal_and_apart(status: str) -> None:
    """A copied or pickled run is equal in every slot, and moving one leaves the other."""
    run = bring(status)
    before = everything(run)
    for other in same(run):
        assert run == other
        assert run is not other
        assert Run is type(other)
        assert before == everything(other)
        if not other.is_terminal:
            other.fail("server_error", "x")
            assert run != other
    assert before == everything(run)


@pytest.mark.parametrize("key", KEYS)
def test_attributes_are_read_only(key: str) -> None:
    """None of the 27 attributes can be assigned or deleted, and nothing moves when one tries."""
    run = bring("requires_action")
    before = everything(run)
    with pytest.raises(AttributeError):
        setattr(run, key, None)
    with pytest.raises(AttributeError):
        delattr(run, key)
    assert before == everything(run)


def test_there_are_no_other_attributes() -> None:
    """A run has slots: a misspelled attribute is an error, not a new one."""
    run = new_run()
    with pytest.raises(AttributeError):
        run.statsu = "completed"  # type: ignore[attr-defined]
    assert not hasattr(run, "__dict__")


def test_all_27_are_there() -> None:
    """The attributes are the 27 of docs/lifecycle.md: the fields that vary, and `object`, which does not."""
    assert set(KEYS) == {*FIELDS, "object"}
    assert "thread.run" == new_run().object
    assert 27 == len(KEYS)


@pytest.mark.parametrize("field", list(FIELDS))
def test_every_attribute_counts_for_equality(field: str) -> None:
    """Two runs that differ in one attribute differ."""
    assert Run(**LEAST) == Run(**LEAST)
    assert Run(**LEAST) != Run(**{**LEAST, field: OTHER[field]})
    assert OTHER[field] == getattr(Run(**{**LEAST, field: OTHER[field]}), field)


def test_equality_is_of_runs() -> None:
    """A run differs from what is no run, and unknown keys count."""
    run = new_run()
    as_object: object = run.to_dict()
    assert run != as_object
    assert Run(**LEAST) != Run(**LEAST, extra={"a": 1})
    assert RunRecord(**LEAST) != Run(**LEAST)


def test_unhashable() -> None:
    """A run changes, so it cannot be a key."""
    with pytest.raises(TypeError):
        hash(new_run())


def test_repr() -> None:
    """A run says who it is, where it stands and when it came there."""
    run = bring("completed")
    assert f"<Run run_1 completed: created_at={NOW}, started_at={NOW + 1}, completed_at={NOW + 2}>" == repr(run)


def test_stamps() -> None:
    """The six times by name, in the order of the object."""
    names = ["created_at", "expires_at", "started_at", "cancelled_at", "failed_at", "completed_at"]
    assert list(zip(names, [NOW, None, NOW + 1, NOW + 3, None, None], strict=True)) == list(
        bring("cancelled").stamps().items()
    )


@pytest.mark.parametrize("field", list(FIELDS))
def test_the_constructor_checks_each(field: str) -> None:
    """A value that an attribute cannot have is refused, with the attribute's name as path."""
    with pytest.raises(InvalidRun) as caught:
        Run(**{**LEAST, field: WRONG[field]})
    assert [field] == [fault.path for fault in caught.value.errors]


def test_the_constructor_tells_all_faults_at_once() -> None:
    """All 26 attributes wrong are 26 faults."""
    with pytest.raises(InvalidRun) as caught:
        Run(**WRONG)
    assert list(FIELDS) == [fault.path for fault in caught.value.errors]


@pytest.mark.parametrize("extra", [5, None, [], {5: 5}])
def test_the_constructor_checks_the_unknown_keys(extra: Any) -> None:
    """Unknown keys are an object with keys of strings."""
    with pytest.raises(InvalidRun):
        Run(**LEAST, extra=extra)


def test_what_old_records_lack_reads_well() -> None:
    """Where an old record has no tools or metadata a reader finds empty ones; writing gives null back."""
    run = Run(**LEAST)
    assert ((), {}) == (run.tools, run.metadata)
    assert (None, None) == (run.to_dict()["tools"], run.to_dict()["metadata"])


def test_views_are_read_only() -> None:
    """What a run hands out is a copy or cannot be changed, so only a move changes a run."""
    run = Run(**LEAST, metadata={"a": "b"}, tools=({"type": "x"},), extra={"c": 1})
    before = copy.deepcopy(run)
    with pytest.raises(TypeError):
        run.metadata["a"] = "c"  # type: ignore[index]
    run.extra["c"] = 2  # type: ignore[index]
    run.tools[0].pop("type")  # type: ignore[attr-defined]
    assert tuple is type(run.tools)
    assert before == run


def test_tools_in_a_list_are_the_same_tools() -> None:
    """Whatever sequence the tools came in, the run has a tuple, and reads back equal."""
    run = Run(**LEAST, tools=[{"type": "file_search"}])  # type: ignore[arg-type]
    assert ({"type": "file_search"},) == run.tools
    assert run == Run.from_dict(run.to_dict())


def test_a_record_does_not_share_what_it_was_given() -> None:
    """Whoever changes the dict handed in does not change the run."""
    metadata = {"a": "b"}
    run = Run(**LEAST, metadata=metadata)
    metadata["a"] = "c"
    assert {"a": "b"} == run.metadata


def test_a_run_can_be_referred_to_weakly() -> None:
    """A cache of runs by weak reference lets go of a run that nobody else holds."""
    run = new_run()
    cache = weakref.WeakValueDictionary({"run_1": run})
    assert cache["run_1"] is run
    del run
    gc.collect()
    assert "run_1" not in cache


@pytest.mark.parametrize("kind", [Run, StoredRun])
def test_evolve_forges_no_status(kind: type[RunSnapshot]) -> None:
    """`attrs.evolve` would give a run a status that no move led to; it takes a run for no class of attrs."""
    run = kind.from_dict(new_run().to_dict())
    before = run.to_dict()
    with pytest.raises((TypeError, ValueError)):
        attrs.evolve(run, status=RunStatus.COMPLETED)  # type: ignore[misc]
    assert before == run.to_dict()
    with pytest.raises(TypeError):
        replace(run, status=RunStatus.COMPLETED)  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("given", "attributes", "wrong"),
    [
        ((), {"thread_id": "thread_1"}, "lacks id, created_at, assistant_id, status"),
        ((), {}, "lacks id, created_at, thread_id, assistant_id, status"),
        ((), new_run().to_dict(), "has no attribute object to give"),
        ((), {**LEAST, "metdata": {}}, "has no attribute metdata to give"),
        (("thread_1",), {}, "takes its attributes by name"),
    ],
)
def test_the_constructor_says_how_a_run_is_made(given: Any, attributes: Any, wrong: str) -> None:
    """Who meant a new run, or had a record, is told the method for that, and no private class is named."""
    with pytest.raises(TypeError) as caught:
        Run(*given, **attributes)
    told = str(caught.value)
    assert wrong in told
    assert "Run.create(...) makes a new run, Run.from_dict(...) reads one" in told
    assert "RunRecord" not in told
