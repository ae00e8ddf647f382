"""Your rows and your runs in one transaction: both are kept, or neither.

    python examples/in_transaction.py

A message is stored and the run that answers it is queued. If anything fails between, there is no message without a run
and no run without its message; nothing has to be cleaned up. Here with sqlite3; a psycopg or a SQLAlchemy connection
to a PostgreSQL store goes the same way.
"""

import sqlite3
import tempfile
from contextlib import closing

from runstate.errors import ThreadBusy
from runstate.store import Store, StoredRun, open_store


def say(db: sqlite3.Connection, store: Store, thread_id: str, text: str) -> StoredRun:
    """Keep a message, and queue the run that answers it."""
    with db:  # sqlite3 commits when this block ends, and rolls back when it raises
        db.execute("INSERT INTO messages (thread_id, text) VALUES (?, ?)", (thread_id, text))
        with store.within(db) as runs:  # until the commit, ask `runs`: the store itself would wait for it
            return runs.create(
                thread_id=thread_id, assistant_id="asst_1", model="gpt-4o", one_live_run_per_thread="reject"
            )


def what_is_kept(db: sqlite3.Connection, store: Store) -> str:
    """Return the messages and the runs that are there."""
    texts = [text for (text,) in db.execute("SELECT text FROM messages")]
    return f"{texts}, {len(store.list().data)} run(s)"


def main() -> None:
    """Commit one transaction, and roll two back."""
    with (
        tempfile.TemporaryDirectory() as folder,
        open_store(f"sqlite:///{folder}/runs.db") as store,
        closing(sqlite3.connect(f"{folder}/runs.db")) as db,
    ):
        db.execute("CREATE TABLE messages (thread_id TEXT, text TEXT)")

        print("both are committed")
        run = say(db, store, "thread_1", "How is the weather?")
        print(f"  {what_is_kept(db, store)}")

        print("a refusal takes the message back, too")
        try:
            say(db, store, "thread_1", "And tomorrow?")
        except ThreadBusy as refusal:
            print(f"  {refusal}")
        print(f"  {what_is_kept(db, store)}")

        print("a move lives or dies with your rows as well")
        db.execute("DELETE FROM messages")
        with store.within(db) as runs:
            print(f"  inside, the run is {runs.request_cancel(run.id).status}")
        db.rollback()
        print(f"  rolled back, it is {store.get(run.id).status}: {what_is_kept(db, store)}")


if __name__ == "__main__":
    main()
