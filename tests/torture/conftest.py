"""Stores for what means harm: the fixtures of the store's own tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.store.conftest import (
    any_store,
    any_url,
    postgres_broom,
    postgres_home,
    prompt,
    sqlite_template,
    store,
    store_url,
)

if TYPE_CHECKING:
    import pytest

__all__ = ["any_store", "any_url", "postgres_broom", "postgres_home", "prompt", "sqlite_template", "store", "store_url"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave torture to `make check`, short as it is there."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker("slow")
