"""The errors: small records with one sentence each, that survive a copy and a pickle."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

import runstate
import runstate.lifecycle.errors as lifecycle_errors
import runstate.run.errors as run_errors
import runstate.store.errors as store_errors
from runstate import (
    RUN_LIFECYCLE,
    DefinitionError,
    FieldError,
    IllegalTransition,
    InvalidRun,
    RunDecodeError,
    RunEvent,
    RunstateError,
    RunStatus,
    StoreUnavailable,
    TerminalStatus,
    ToolOutputsMismatch,
    errors,
)

ILLEGAL = RUN_LIFECYCLE.refusal("run_1", RunStatus.QUEUED, RunEvent.COMPLETE)
NO_WAY = RUN_LIFECYCLE.refusal("run_1", RunStatus.CANCELLING, RunEvent.START)
ENDED = RUN_LIFECYCLE.refusal("run_1", RunStatus.FAILED, RunEvent.START)
MISMATCH = ToolOutputsMismatch("run_1", ("a", "b"), ("a",))
FAULTS = (FieldError("usage.total_tokens", "is missing"), FieldError("", "not JSON"))

SENTENCES = [
    (
        ILLEGAL,
        (
            "run run_1 is queued and cannot complete; allowed there: start, request_cancel, fail, expire; "
            "shortest way: start -> complete"
        ),
    ),
    (
        NO_WAY,
        (
            "run run_1 is cancelling and cannot start; allowed there: confirm_cancel, complete, mark_incomplete, fail, "
            "expire; no way leads to start from there"
        ),
    ),
    (ENDED, "run run_1 is failed and cannot start; failed is terminal, nothing leaves it"),
    (
        MISMATCH,
        (
            "Expected tool outputs for call_ids ['a', 'b'], got ['a']; "
            "run run_1 stays requires_action until exactly these come in one request"
        ),
    ),
    (InvalidRun(FAULTS), "usage.total_tokens: is missing; not JSON"),
    (RunDecodeError(FAULTS[:1]), "not a run: usage.total_tokens: is missing"),
    (DefinitionError("start stands twice"), "start stands twice"),
]


@pytest.mark.parametrize(("error", "sentence"), SENTENCES, ids=[type(error).__name__ for error, _ in SENTENCES])
def test_sentence(error: RunstateError, sentence: str) -> None:
    """Each error says which run, where it stands, what was asked and what is possible."""
    assert sentence == str(error)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
@pytest.mark.parametrize(("error", "sentence"), SENTENCES, ids=[type(error).__name__ for error, _ in SENTENCES])
def test_copies(error: RunstateError, sentence: str, again: Callable[[Any], Any]) -> None:
    """A copied or pickled error is of the same class, with the same fields and sentence."""
    other = again(error)
    assert type(error) is type(other)
    assert sentence == str(other)
    fields = [name for name in dir(error) if not name.startswith("_") and name not in ("add_note", "with_traceback")]
    assert {name: getattr(error, name) for name in fields} == {name: getattr(other, name) for name in fields}


def test_every_error_can_be_imported_from_the_root() -> None:
    """All exceptions of every package, whether it lists them or not."""
    defined = {
        name
        for module in (lifecycle_errors, run_errors, store_errors)
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, BaseException) and value.__module__ == module.__name__
    }
    assert defined | {"FieldError"} == set(errors.__all__)
    assert set(errors.__all__) <= set(runstate.__all__)
    for name in errors.__all__:
        assert getattr(runstate, name) is getattr(errors, name)


def test_a_terminal_refusal_has_no_way() -> None:
    """A refusal by a terminal status allows nothing and knows no way."""
    assert isinstance(ENDED, TerminalStatus)
    assert ((), None) == (ENDED.allowed, ENDED.path)


def test_fields_of_a_mismatch() -> None:
    """A mismatch tells the ids that were expected and those that came."""
    assert ("run_1", ("a", "b"), ("a",)) == (MISMATCH.run_id, MISMATCH.expected, MISMATCH.got)


def test_fields_of_an_invalid_run() -> None:
    """An invalid run tells all its faults, whatever sequence they came in."""
    assert FAULTS == InvalidRun(list(FAULTS)).errors


def test_family() -> None:
    """Every error is a RunstateError; asking again helps after one of them alone; a bad value is also a ValueError."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert all(issubclass(kind, RunstateError) for kind in kinds)
    assert [StoreUnavailable] == [kind for kind in kinds if issubclass(kind, RunstateError) and kind.retryable]
    assert issubclass(TerminalStatus, IllegalTransition)
    assert issubclass(RunDecodeError, InvalidRun)
    assert issubclass(InvalidRun, ValueError)
