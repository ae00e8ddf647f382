"""Arguments of the form KEY=VALUE."""

from __future__ import annotations

from collections.abc import Sequence

import click

__all__ = ["as_mapping", "pair"]


def pair(text: str) -> tuple[str, str]:
    """Return key and value of KEY=VALUE; further = belong to the value. What is no pair is a mistake in the asking."""
    key, equals, held = text.partition("=")
    if not equals or not key:
        raise click.BadParameter(f"{text!r} is not KEY=VALUE")
    return key, held


def as_mapping(given: Sequence[tuple[str, str]], what: str) -> dict[str, str] | None:
    """Return pairs as a mapping, None for none. A key that comes twice is a mistake in the asking."""
    found: dict[str, str] = {}
    for key, held in given:
        if key in found:
            raise click.UsageError(f"{what}: {key!r} is given twice")
        found[key] = held
    return found or None
