"""The runner of commands, alike in every release of click: standard error stands by itself."""

from __future__ import annotations

import inspect
from typing import Any

import click.testing
from click.testing import Result

__all__ = ["CliRunner", "Result"]

_OLDER: dict[str, Any] = (
    {"mix_stderr": False} if "mix_stderr" in inspect.signature(click.testing.CliRunner).parameters else {}
)


class CliRunner(click.testing.CliRunner):
    """Runs commands in this process."""

    def __init__(self) -> None:
        super().__init__(**_OLDER)
