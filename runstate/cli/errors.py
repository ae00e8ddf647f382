"""Errors of the command line: how an error of the library becomes one line on stderr and an exit code.

Exit code 1: the table of transitions, or the store, refused the request. 2: the request is invalid, or there is no such
store. 3: the store is unavailable for now (down, busy, full or read-only); a later try can succeed.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import click

from runstate._redaction import without_passwords
from runstate.lifecycle.errors import IllegalTransition, RunstateError
from runstate.run.errors import ToolOutputsMismatch
from runstate.run.json_values import escape
from runstate.store.errors import (
    IdempotencyKeyReused,
    LostRace,
    OutcomeUnknown,
    RunIsLive,
    StoreUnavailable,
    ThreadBusy,
)

__all__ = ["InvalidUsage", "Refused", "Unavailable", "as_click_error", "errors_as_exit_codes", "redact"]

_PASSWORD_OF_URL: Final = re.compile(r"(?<=password=)[^&\s]+")
_WORD: Final = re.compile(r"\S+")
_REFUSALS: Final = (IllegalTransition, ToolOutputsMismatch, LostRace, ThreadBusy, IdempotencyKeyReused, RunIsLive)


class Refused(click.ClickException):
    """The table of transitions, or the store, refused the request. Exit code 1."""

    exit_code = 1


class InvalidUsage(click.ClickException):
    """The request is invalid, or there is no such store. Exit code 2, without click's usage line."""

    exit_code = 2


class Unavailable(click.ClickException):
    """The store is unavailable for now. Exit code 3."""

    exit_code = 3


def redact(text: str) -> str:
    """Return a text without passwords of URLs and without control characters that a terminal would obey.

    >>> print(redact("no run postgresql://me:secret@host/db"))
    no run postgresql://me:***@host/db
    """
    return escape(without_passwords(_WORD.sub(_hide_password, text)))


def _hide_password(match: re.Match[str]) -> str:
    head, at, host = match[0].rpartition("@")
    scheme, slashes, credentials = head.partition("://") if "://" in head else ("", "", head)
    user, colon, _ = credentials.partition(":")
    return f"{scheme}{slashes}{user}:***@{host}" if at and colon else match[0]


def as_click_error(error: RunstateError, url: str = "") -> click.ClickException:
    """Return click's error for an error of the library: one line, without the passwords of `url`."""
    message = redact(str(error))
    for secret in _PASSWORD_OF_URL.findall(url):
        message = message.replace(secret, "***")
    if isinstance(error, StoreUnavailable | OutcomeUnknown):
        return Unavailable(message)
    return Refused(message) if isinstance(error, _REFUSALS) else InvalidUsage(message)


@contextmanager
def errors_as_exit_codes(url: str = "") -> Generator[None, None, None]:
    """Raise the library's errors as click's, which have a one-line message and an exit code."""
    try:
        yield
    except RunstateError as error:
        raise as_click_error(error, url) from None
