"""How commands reach the database: the committer, the executor, transports and notifiers."""
