"""Stores for the tests of the kit: the fixtures of the store's own tests."""

from __future__ import annotations

from tests.store.conftest import any_store, any_url, postgres_broom, postgres_home, sqlite_template, store, store_url

__all__ = ["any_store", "any_url", "postgres_broom", "postgres_home", "sqlite_template", "store", "store_url"]
