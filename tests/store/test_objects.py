"""A store, its coroutines and its pages under the tools of Python: `with`, pickle, `len`, and names in messages."""

from __future__ import annotations

import asyncio
import copy
import inspect
import pickle
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runstate.errors import InvalidRun, SchemaMismatch, StoreError
from runstate.lifecycle import RunEvent
from runstate.store import AsyncStore, Page, Store, StoredRun, open_store
from runstate.store._api.async_store import AsyncMethods
from tests.store.support import names

# --- with, and other processes -------------------------------------------------------------------------------------


def test_async_with_opens_and_closes(any_url: str) -> None:
    """Inside the block coroutines ask the store; after it the store is closed, whatever the block raised."""
    opened: list[Store] = []

    async def work() -> None:
        async with open_store(any_url) as store:
            run = await store.aio.create(**names())
            assert run == await store.aio.get(run.id)
            opened.append(store)
            raise KeyError

    with pytest.raises(KeyError):
        asyncio.run(work())
    with pytest.raises(StoreError, match="is closed"):
        opened[0].counts()


def test_async_with_leaves_the_loop_free_while_it_closes(any_url: str) -> None:
    """What closing waits for may need the loop: it goes on meanwhile."""
    closing_in: list[int] = []

    async def work() -> None:
        async with open_store(any_url) as store:
            close = store.close

            def observed() -> None:
                closing_in.append(threading.get_ident())
                close()

            store.close = observed  # type: ignore[method-assign]

    asyncio.run(work())
    assert closing_in
    assert closing_in != [threading.get_ident()]


@pytest.mark.parametrize(
    "go",
    [pickle.dumps, copy.copy, copy.deepcopy, lambda store: pickle.dumps([store])],
    ids=["pickle", "copy", "deepcopy", "in"],
)
def test_a_store_stays_in_its_process(any_store: Store, go: Callable[[object], object]) -> None:
    """Neither a store nor its coroutines are copied; the sentence says what to hand over instead."""
    for store in (any_store, any_store.aio):
        with pytest.raises(TypeError, match=r"give that process the URL, and let it open_store\(url\)"):
            go(store)
    assert any_store.create(**names()).id  # it is as it was


def test_a_bound_store_stays_in_its_process(tmp_path: Path) -> None:
    """The same for one inside a transaction of the caller's own."""
    path = tmp_path / "runs.db"
    with (
        open_store(f"sqlite:///{path}") as store,
        closing(sqlite3.connect(path)) as own,
        store.within(own) as bound,
        pytest.raises(TypeError, match="let it open_store"),
    ):
        pickle.dumps(bound)


# --- names in messages ---------------------------------------------------------------------------------------------

METHODS = sorted(
    name
    for name in {**vars(AsyncMethods), **vars(AsyncStore)}
    if not name.startswith("_")
    and hasattr(Store, name)
    and name not in ("close", "events", "post_checkpoint", "watch", "within")
)


@pytest.mark.parametrize("name", METHODS)
def test_each_method_is_called_by_its_public_name(any_store: Store, name: str) -> None:
    """Python's own messages name `Store.create` and `AsyncStore.create`, and no class inside of them."""
    method, later = getattr(any_store, name), getattr(any_store.aio, name)
    assert f"Store.{name}" == method.__qualname__
    assert f"AsyncStore.{name}" == later.__qualname__ == getattr(AsyncStore, name).__qualname__
    assert name == later.__name__
    assert inspect.iscoroutinefunction(later)
    assert inspect.signature(method) == inspect.signature(later)
    assert inspect.getdoc(method) == inspect.getdoc(later)
    with pytest.raises(TypeError) as wrong:
        method(1, 2, 3, 4, 5, 6, 7, 8)
    assert str(wrong.value).startswith(f"Store.{name}() ")


def test_a_coroutine_that_nobody_awaits_is_called_by_its_name(any_store: Store) -> None:
    """What Python warns of names the method."""
    coroutine = any_store.aio.counts()
    assert "AsyncStore.counts" == coroutine.__qualname__  # type: ignore[attr-defined]
    coroutine.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("event", RunEvent)
def test_a_stored_run_says_who_moves_it(any_store: Store, event: RunEvent) -> None:
    """It has no moves of its own, and names the method of the store that has."""
    run = any_store.create(**names())
    with pytest.raises(AttributeError, match=rf"a stored run is moved by its store: store\.{event}\(run\.id, \.\.\.\)"):
        getattr(run, event)
    assert not hasattr(run, event)
    assert any_store.get(run.id) == run


# --- what create takes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"metdata": {}}, "got an unexpected keyword argument 'metdata'. Did you mean 'metadata'?"),
        ({"tread_id": "x"}, "got an unexpected keyword argument 'tread_id'. Did you mean 'thread_id'?"),
        ({"expires_at": 5}, "got an unexpected keyword argument 'expires_at'. Did you mean 'expires_in_s'?"),
        ({"at": 5}, "got an unexpected keyword argument 'at'"),
        ({"zzz": 5}, "got an unexpected keyword argument 'zzz'"),
    ],
)
def test_an_argument_that_create_does_not_take(any_store: Store, given: dict[str, Any], wrong: str) -> None:
    """It is named with the function that was called, its place among many, and the argument that was meant."""
    with pytest.raises(TypeError) as alone:
        any_store.create(**names(**given))
    assert str(alone.value) == f"Store.create() {wrong}"
    with pytest.raises(TypeError) as later:
        asyncio.run(_awaited(any_store, names(**given)))
    assert str(later.value) == f"Store.create() {wrong}"
    with pytest.raises(TypeError) as many:
        any_store.create_many([names(), names(), names(**given)])
    assert str(many.value) == f"Store.create_many() [2] {wrong}"
    assert () == any_store.list().data


async def _awaited(store: Store, given: Any) -> None:
    await store.aio.create(**given)


@pytest.mark.parametrize("missing", [("thread_id",), ("assistant_id", "model"), ("thread_id", "assistant_id", "model")])
def test_an_argument_that_create_needs(any_store: Store, missing: tuple[str, ...]) -> None:
    """All that are missing are named, among many with the place."""
    given: Any = {name: value for name, value in names().items() if name not in missing}
    with pytest.raises(TypeError) as alone:
        any_store.create(**given)
    assert str(alone.value).startswith(f"Store.create() missing {len(missing)} required keyword-only argument")
    assert all(name in str(alone.value) for name in missing)
    with pytest.raises(TypeError) as many:
        any_store.create_many([names(), given])
    assert str(many.value) == str(alone.value).replace("create()", "create_many() [1]")
    assert () == any_store.list().data


def test_a_fault_of_many_has_its_place(any_store: Store) -> None:
    """Which of the runs is wrong stands before what is wrong with it."""
    with pytest.raises(InvalidRun) as refused:
        any_store.create_many([names(), names(metadata={"a": 5}, priority="high")])
    assert ["[1].metadata.a"] == [fault.path for fault in refused.value.errors]
    with pytest.raises(InvalidRun, match=r"^\[0\]\.priority: "):
        any_store.create_many([names(priority="high")])
    assert () == any_store.list().data


# --- pages ---------------------------------------------------------------------------------------------------------


def test_a_page_is_a_sequence(any_store: Store) -> None:
    """Its runs are counted, gone through, indexed, sliced and found as in any sequence."""
    runs = any_store.create_many([names() for _ in range(5)])
    page = any_store.list(order="asc", limit=4)
    assert isinstance(page, Sequence)
    assert (len(page), list(page), page.data) == (4, runs[:4], tuple(runs[:4]))
    assert (page[0], page[-1], page[1:3], page[::-1]) == (runs[0], runs[3], tuple(runs[1:3]), tuple(runs[3::-1]))
    assert list(reversed(page)) == runs[3::-1]
    assert (runs[2] in page, runs[4] in page, page.index(runs[2]), page.count(runs[1])) == (True, False, 2, 1)
    first, *rest = page
    assert (first, rest) == (runs[0], runs[1:4])
    with pytest.raises(IndexError):
        page[4]
    assert page.has_more


def test_an_empty_page_is_an_empty_sequence(any_store: Store) -> None:
    """It has no run, and is false."""
    page = any_store.list()
    nothing: list[StoredRun] = []
    assert (len(page), list(page), bool(page)) == (0, nothing, False)
    assert page == Page((), has_more=False)


# --- within: whose database ----------------------------------------------------------------------------------------


def test_a_file_without_a_store_is_not_called_by_the_name_of_the_one_that_has_it(tmp_path: Path) -> None:
    """The database of the connection is to blame, and takes no run."""
    with open_store(f"sqlite:///{tmp_path}/runs.db") as store, closing(sqlite3.connect(tmp_path / "other.db")) as own:
        with store.within(own) as bound, pytest.raises(SchemaMismatch) as refused:
            bound.create(**names())
        assert str(refused.value).startswith("the database of the connection that was given has no store")
        assert () == store.list().data
