"""Stores for what means harm: the fixtures of the store's own tests."""

from __future__ import annotations

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

__all__ = ["any_store", "any_url", "postgres_broom", "postgres_home", "prompt", "sqlite_template", "store", "store_url"]
