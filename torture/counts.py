"""How often, or how long, a person may ask a harness to do something."""

from __future__ import annotations

from argparse import ArgumentTypeError

__all__ = ["at_least_one", "more_than_none"]


def at_least_one(text: str) -> int:
    """Read a count for `argparse`."""
    if not text.isdecimal() or not text.isascii() or int(text) < 1:
        raise ArgumentTypeError(f"expected a whole number of 1 or more, got {text!r}")
    return int(text)


def more_than_none(text: str) -> float:
    """Read a time for `argparse`."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0.0 < found < float("inf"):
        raise ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return found
