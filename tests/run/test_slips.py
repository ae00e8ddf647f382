"""What is tried by habit is answered with what to write instead."""

from __future__ import annotations

import pytest

from runstate.run import Run
from runstate.store import open_store
from runstate.testing import a_run
from runstate.worker import Worker


def test_a_move_by_another_name() -> None:
    run = a_run("in_progress")
    with pytest.raises(AttributeError, match=r"a run has no 'cancel': write run\.request_cancel\(\.\.\.\)"):
        run.cancel()  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match=r"a run has no 'wings'$"):
        run.wings  # type: ignore[attr-defined]  # noqa: B018
    assert not hasattr(run, "wings")
    assert "in_progress" == run.status


def test_a_run_is_no_mapping() -> None:
    run = Run.create(thread_id="t", assistant_id="a", model="m")
    with pytest.raises(TypeError, match=r"a run is no mapping: write run\.status, or run\.to_dict\(\)\['status'\]"):
        run["status"]  # type: ignore[index]
    with pytest.raises(TypeError, match="a run is no mapping"):
        dict(run)  # type: ignore[call-overload]


def test_a_worker_in_a_plain_with_and_a_store_that_saves() -> None:
    with open_store("sqlite:///:memory:") as store:
        with pytest.raises(TypeError, match="`async with worker:`"), Worker(store, lambda ctx: None):  # type: ignore[attr-defined]
            pass
        with pytest.raises(AttributeError, match="a store has no save: create"):
            store.save(a_run("queued"))  # type: ignore[attr-defined]
        with pytest.raises(AttributeError, match="'Store' object has no attribute 'wings'"):
            store.wings  # type: ignore[attr-defined]  # noqa: B018
