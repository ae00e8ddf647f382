"""Input files of commands."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final, cast

import click

from runstate.run import codec

__all__ = ["FILE", "bounded_lines", "open_input"]

FILE: Final = click.Path(exists=True, dir_okay=False, allow_dash=True)
"""The type of an argument that names a file to read; - is stdin."""


@contextmanager
def open_input(name: str) -> Generator[BinaryIO, None, None]:
    """Open a file to read, or stdin for -. Raises `click.UsageError` if it cannot be read."""
    try:
        with click.open_file(name, "rb") as file:
            yield cast("BinaryIO", file)
    except OSError as error:
        raise click.UsageError(f"cannot read {name}: {error.strerror}") from None


def bounded_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file. A line that is too long for the reader is cut, but still too long."""
    while line := file.readline(codec.MAX_BYTES + 2):
        yield line
        while line and not line.endswith(b"\n"):
            line = file.readline(codec.MAX_BYTES)
