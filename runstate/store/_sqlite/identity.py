"""The file in which an SQLite connection finds the tables of a store: its own, or an attached one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Final

from runstate.store._sql.connection import Connection
from runstate.store._sql.identity import StoreIdentity
from runstate.store._sqlite.files import file_id
from runstate.store.errors import StoreUrlError

__all__ = ["identity_of"]

_NO_DEVICE: Final = -1
_numbers: Final = count()  # databases without a file are all different


def identity_of(session: Connection) -> StoreIdentity:
    """Return in which file a connection finds the tables of a store."""
    attached = session.execute("PRAGMA database_list", {})
    for _, name, path in sorted(attached, key=_looked_in_first):
        quoted = '"' + name.replace('"', '""') + '"'
        schema = "sqlite_temp_master" if name == "temp" else f"{quoted}.sqlite_master"
        if session.execute(f"SELECT 1 FROM {schema} WHERE name = 'runstate_run'", {}):
            return StoreIdentity(_file_at(path) if path else (_NO_DEVICE, next(_numbers)), path or "no file")
    return StoreIdentity((), "nowhere")


def _file_at(path: str) -> tuple[int, int]:
    file = file_id(path)
    if file is None:
        raise StoreUrlError(f"cannot open {path}: the file was deleted or renamed")
    return file


def _looked_in_first(attached: Sequence[object]) -> tuple[bool, object]:
    return attached[1] != "temp", attached[0]
