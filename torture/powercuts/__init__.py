"""Power cuts under a store in SQLite (`python -m`)."""
