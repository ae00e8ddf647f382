"""Faults to be put into the engine, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Final

BUGS: Final[Mapping[str, Callable[[], AbstractContextManager[None]]]] = {}
