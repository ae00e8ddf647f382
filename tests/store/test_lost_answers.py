"""A move that was made and whose answer was lost: who asked is never told that it was refused, whatever came after."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runstate import ToolCall
from runstate.errors import IllegalTransition, OutcomeUnknown, RunstateError, ToolOutputsMismatch
from runstate.store import Store, open_store
from runstate.store._sqlite.connection import SqliteConnection
from tests.store.support import names

FIRST = [ToolCall("call_1", "weather", "{}")]
SECOND = [ToolCall("call_2", "weather", "{}")]


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[tuple[Store, Store]]:
    """Two stores on one file, as two processes have them, and a run that is being worked on."""
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    with open_store(url) as store, open_store(url) as other:
        store.create(**names(id="run_1"))
        other.start("run_1")
        yield store, other


@contextmanager
def losing(monkeypatch: pytest.MonkeyPatch, after: Callable[[], object], *, done: bool = True) -> Iterator[None]:
    """Lose the next answer, done or not; before it is asked again, something else happens."""
    transaction, lost = SqliteConnection.transaction, list[bool]()

    class NotDone(Exception):
        pass

    @contextmanager
    def shaky(session: SqliteConnection) -> Iterator[None]:
        if lost:
            with transaction(session):
                yield
            return
        lost.append(True)
        try:
            with transaction(session):
                yield
                if not done:
                    raise NotDone
        except NotDone:
            pass
        after()
        raise OutcomeUnknown("the answer was lost")

    with monkeypatch.context() as patched:
        patched.setattr(SqliteConnection, "transaction", shaky)
        yield
    assert lost


@pytest.mark.parametrize("done", [True, False])
def test_a_repeat_whose_reply_was_lost(
    done: bool, stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked again, and there is one new run."""
    store, other = stores
    other.complete("run_1")
    with losing(monkeypatch, lambda: None, done=done):
        run = store.repeat("run_1")
    assert [run.id, "run_1"] == [each.id for each in store.list()]
    assert "run_1" == run.repeats


@pytest.mark.parametrize("version", [None, 2])
def test_a_cancel_whose_run_ended_meanwhile(
    version: int | None, stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cancel is in the history: whoever asked gets the run as it stands, and no refusal."""
    store, other = stores
    with losing(monkeypatch, lambda: other.complete("run_1", actor="worker")):
        run = store.request_cancel("run_1", actor="me", expected_version=version)
    assert ("completed", 4) == (run.status, run.version)
    assert [None, "start", "request_cancel", "complete"] == [entry.event for entry in store.history("run_1")]


@pytest.mark.parametrize("version", [None, 2])
def test_a_cancel_that_was_not_made(
    version: int | None, stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused for where the run stands now: nothing was changed."""
    store, other = stores
    with (
        losing(monkeypatch, lambda: other.complete("run_1", actor="worker"), done=False),
        pytest.raises(RunstateError) as refused,
    ):
        store.request_cancel("run_1", actor="me", expected_version=version)
    assert not isinstance(refused.value, OutcomeUnknown)
    assert [None, "start", "complete"] == [entry.event for entry in store.history("run_1")]


def test_a_cancel_by_somebody_else_is_not_ones_own(
    stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = stores

    def meanwhile() -> None:
        other.request_cancel("run_1", actor="them")
        other.complete("run_1")

    with losing(monkeypatch, meanwhile, done=False), pytest.raises(IllegalTransition):
        store.request_cancel("run_1", actor="me")


@pytest.mark.parametrize("version", [None, 3])
def test_outputs_whose_run_waits_again_meanwhile(
    version: int | None, stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were taken: whoever submitted them gets the run, which waits for others now."""
    store, other = stores
    other.require_action("run_1", FIRST)

    def meanwhile() -> None:
        other.start("run_1")
        other.require_action("run_1", SECOND)

    with losing(monkeypatch, meanwhile):
        run = store.submit_tool_outputs("run_1", {"call_1": "sunny"}, expected_version=version)
    assert ("requires_action", 6) == (run.status, run.version)
    assert 1 == sum(entry.event == "submit_tool_outputs" for entry in store.history("run_1"))


def test_outputs_that_were_not_taken(stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's were: these are refused, for they are not what the run waits for now."""
    store, other = stores
    other.require_action("run_1", FIRST)

    def meanwhile() -> None:
        other.submit_tool_outputs("run_1", {"call_1": "rainy"})
        other.start("run_1")
        other.require_action("run_1", SECOND)

    with losing(monkeypatch, meanwhile, done=False), pytest.raises(ToolOutputsMismatch):
        store.submit_tool_outputs("run_1", {"call_1": "sunny"})
