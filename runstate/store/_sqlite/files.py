"""The identity of a file: a database that was deleted or replaced is another file with the same path."""

from __future__ import annotations

import os
from typing import TypeAlias

__all__ = ["FileId", "file_id"]

FileId: TypeAlias = tuple[int, int]
"""The identity of a file, independent of its path: the device and the inode."""


def file_id(path: str) -> FileId | None:
    """Return the identity of the file at a path; None if there is none, or if it cannot be read."""
    try:
        found = os.stat(path)  # noqa: PTH116  # called before every transaction, and a Path takes three times as long
    except OSError:
        return None
    return found.st_dev, found.st_ino
