"""Arguments of the form KEY=VALUE."""

from __future__ import annotations

from collections.abc import Sequence

import click

__all__ = ["as_mapping", "key_value"]


def key_value(text: str) -> tuple[str, str]:
    """Return the key and the value of KEY=VALUE; more = belong to the value. Raises `click.BadParameter`."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise click.BadParameter(f"{text!r} is not KEY=VALUE")
    return key, value


def as_mapping(pairs: Sequence[tuple[str, str]], option: str) -> dict[str, str] | None:
    """Return pairs as a mapping, or None if there are none. Raises `click.UsageError` if a key is given twice."""
    mapping: dict[str, str] = {}
    for key, value in pairs:
        if key in mapping:
            raise click.UsageError(f"{option}: {key!r} is given twice")
        mapping[key] = value
    return mapping or None
