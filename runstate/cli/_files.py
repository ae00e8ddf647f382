"""Files that a command is given to read: opened, or refused in a sentence, and read in bounded lines."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final, cast

import click

from runstate.run import codec

__all__ = ["FILE", "bounded_lines", "reading"]

FILE: Final = click.Path(exists=True, dir_okay=False, allow_dash=True)
"""An argument that names a file to read; - is stdin."""


@contextmanager
def reading(name: str) -> Generator[BinaryIO, None, None]:
    """Open a file to read, or stdin for -; one that cannot be read is a mistake in the asking."""
    try:
        with click.open_file(name, "rb") as file:
            yield cast("BinaryIO", file)
    except OSError as error:
        raise click.UsageError(f"cannot read {name}: {error.strerror}") from None


def bounded_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield a file's lines; of one past the reader's bound only as much as it takes to refuse it."""
    while line := file.readline(codec.MAX_BYTES + 2):
        yield line
        while line and not line.endswith(b"\n"):
            line = file.readline(codec.MAX_BYTES)
