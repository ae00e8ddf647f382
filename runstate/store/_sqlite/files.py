"""The file of a database: its identity, which a file that replaced it does not have, and why it cannot be opened."""

from __future__ import annotations

import os
from typing import TypeAlias

__all__ = ["FileId", "file_id", "why_not_opened"]

FileId: TypeAlias = tuple[int, int]
"""The identity of a file, independent of its path: the device and the inode."""


def file_id(path: str) -> FileId | None:
    """Return the identity of the file at a path; None if there is none, or if it cannot be read."""
    try:
        found = os.stat(path)  # noqa: PTH116  # called before every transaction, and a Path takes three times as long
    except OSError:
        return None
    return found.st_dev, found.st_ino


def why_not_opened(path: str) -> str:
    """Return why SQLite could neither open the file at a path nor create it."""
    # os.path and not Path, which raises if a folder is not readable.
    if os.path.isdir(path):  # noqa: PTH112
        return "it is a folder"
    folder = os.path.dirname(path) or "."  # noqa: PTH120
    if os.path.exists(path) or not os.path.isdir(folder) or not os.access(folder, os.X_OK):  # noqa: PTH110, PTH112
        return "no such folder, or no right to it"
    right = "" if os.access(folder, os.W_OK) else ", and no right to make one in that folder"
    return f"there is no database of that name{right}"
