"""The text of a handler's exception in `last_error` and in the history, without the address of the database.

Clients that read a run may be strangers. So the text of a store error, or of a driver that lost its connection, is
replaced, and the parts of the store's address are removed from every other text.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable, Iterator, Sequence
from textwrap import indent
from types import TracebackType
from typing import Final

from runstate._redaction import redacted
from runstate.run.validators import with_article
from runstate.store.availability import can_be_retried, is_outage
from runstate.store.errors import OutcomeUnknown, SchemaMismatch, StoreError, StoreUnavailable

__all__ = ["guarded", "met_outage", "redacted", "sentence_of", "traceback_of"]

_log: Final = logging.getLogger("runstate.worker")

_SENTENCES: Final[tuple[tuple[type[StoreError], str], ...]] = (
    (StoreUnavailable, "the store could not be used"),
    (OutcomeUnknown, "the reply of the store was lost"),
    (SchemaMismatch, "the database had no store of this version"),
    (StoreError, "the store refused the request"),
)
# The names of connection errors in drivers (PEP 249).
_OF_CONNECTIONS: Final = frozenset({"OperationalError", "InterfaceError"})
_CAUSE: Final = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT: Final = "\nDuring handling of the above exception, another exception occurred:\n\n"


def guarded(redact: Callable[[str], object]) -> Callable[[str], str]:
    """Return a function of a text that never raises and always returns a text, whatever a caller's `redact` does.

    The run must end, and a text that was not redacted must not be stored.
    """

    def call(text: str) -> str:
        try:
            told = redact(text)
        except Exception as error:
            _log.exception("`redact` raised, so a text is not stored")
            return f"the text was left out: redact raised {with_article(type(error).__name__)}"
        if isinstance(told, str):
            return told
        _log.error("`redact` returned %s, so a text is not stored", with_article(type(told).__name__))
        return f"the text was left out: redact returned {with_article(type(told).__name__)}"

    return call


def met_outage(error: BaseException, was_away: bool) -> bool:
    """Return whether an exception of a handler, or each exception of a group, is an outage of a store.

    `was_away` is whether the worker's own store was away meanwhile. If so, the errors of a server that is being
    restored count too.
    """
    leaves = [leaf for leaf in _leaves(error) if not isinstance(leaf, asyncio.CancelledError)]
    return bool(leaves) and all(can_be_retried(leaf) or (was_away and is_outage(leaf)) for leaf in leaves)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    members = _members(error)
    if not members:
        yield error
    for one in members:
        yield from _leaves(one)


def _members(error: BaseException) -> tuple[BaseException, ...]:
    """Return the exceptions of a group. Empty for other exceptions."""
    members: tuple[BaseException, ...] = getattr(error, "exceptions", ())
    return members if issubclass(type(error), BaseExceptionGroup) else ()


def sentence_of(error: BaseException, private: Sequence[str]) -> str:
    """Return the name and text of an exception, even if its `__str__` fails. `private` are the parts to remove."""
    name = type(error).__name__
    if (instead := _instead(error)) is not None:
        return f"{name}: {instead}"
    try:
        told = str(error)
    except Exception as worse:
        told = f"its text cannot be shown, for `str` raised {with_article(type(worse).__name__)}"
    return redacted(f"{name}: {told}" if told else name, private)


def _instead(error: BaseException) -> str | None:
    """Return the replacement for the text of an error that may contain an address; None for other errors."""
    for kind, sentence in _SENTENCES:
        if isinstance(error, kind):
            return sentence
    if any(kind.__name__ in _OF_CONNECTIONS for kind in type(error).__mro__):
        return "the database could not be used"
    return None


def traceback_of(error: BaseException, private: Sequence[str], *, skipped: int = 0) -> str:
    """Return the traceback of an exception and of its causes, without its first `skipped` frames."""
    trace = error.__traceback__
    for _ in range(skipped):
        trace = None if trace is None else trace.tb_next
    return redacted("".join(_chain(error, trace, set())), private)


def _chain(error: BaseException, trace: TracebackType | None, seen: set[int]) -> Iterator[str]:
    seen.add(id(error))
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None and id(before) not in seen:
        yield from _chain(before, before.__traceback__, seen)
        yield _CAUSE if error.__cause__ is not None else _CONTEXT
    if (instead := _instead(error)) is not None:
        yield from _frames(trace)
        yield f"{type(error).__module__}.{type(error).__qualname__}: {instead}\n"
    elif members := _members(error):
        yield from _frames(trace)
        yield f"{type(error).__qualname__}: {error}\n"
        for number, one in enumerate(members, 1):
            yield f"  ({number})\n"
            yield indent("".join(_chain(one, one.__traceback__, seen)), "    ")
    else:
        yield from traceback.format_exception(type(error), error, trace, chain=False)


def _frames(trace: TracebackType | None) -> Iterator[str]:
    if trace is not None:
        yield "Traceback (most recent call last):\n"
        yield from traceback.format_tb(trace)
