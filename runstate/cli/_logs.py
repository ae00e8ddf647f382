"""The log of a worker on stderr: colored on a terminal, plain lines elsewhere, or JSON."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from rich.logging import RichHandler

from runstate.run.json_values import escape

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["log_handler"]

_FIELDS: Final = ("run_id", "thread_id", "event", "seconds", "attempt")
"""What the records of a worker have besides a message."""


class _EscapingFormatter(logging.Formatter):
    """The message. Names in it come from clients, and may have line breaks and sequences that a terminal obeys."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        """Return the escaped message, in the format."""
        record.message = escape(record.message)
        return super().formatMessage(record)


class _LineFormatter(_EscapingFormatter):
    """One line a record: the time in UTC, the level, and the message; a traceback follows in further lines."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-8s %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802  # logging's name
        """Return the time of a record, in UTC with milliseconds."""
        at = datetime.fromtimestamp(record.created, UTC)
        return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _JsonFormatter(_LineFormatter):
    """A JSON object a record: `time`, `level`, `logger`, `message`, and what is known of the run."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the JSON of a record."""
        told: dict[str, object] = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        told |= {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str)


def log_handler(console: Console, log_format: str) -> logging.Handler:
    """Return the handler for a format, `text` or `json`. On a terminal, text is colored and wrapped."""
    if log_format == "text" and console.is_terminal:
        handler: logging.Handler = RichHandler(console=console, show_path=False, log_time_format="[%X]")
        handler.setFormatter(_EscapingFormatter("%(message)s"))
        return handler
    handler = logging.StreamHandler()
    handler.setFormatter(_LineFormatter() if log_format == "text" else _JsonFormatter())
    return handler
