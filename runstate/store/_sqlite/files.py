"""Which file a path leads to: a database that was deleted or replaced is another, whatever its name."""

from __future__ import annotations

import os
from typing import TypeAlias

__all__ = ["FileId", "file_id"]

FileId: TypeAlias = tuple[int, int]
"""Which file it is, whatever its path: of its device and there."""


def file_id(path: str) -> FileId | None:
    """Return which file is at a path; None if there is none, or one that cannot be looked at."""
    try:
        found = os.stat(path)  # noqa: PTH116  # before every transaction: a Path takes three times as long
    except OSError:
        return None
    return found.st_dev, found.st_ino
