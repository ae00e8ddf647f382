"""Decoding of any file to lines of UTF-8: other encodings of Unicode, and the line ends of every system."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Final, TypeAlias, cast

from runstate.run.json_text import MAX_BYTES
from runstate.traces._unsupported import binary_format, decode_error

__all__ = ["NOT_BYTES", "NumberedLines", "iter_lines", "with_utf8_hint"]

NumberedLines: TypeAlias = Iterator[tuple[int, bytes]]
"""The lines of a file, each with its number, counted from 1."""

_MARKS: Final = (  # longer ones first: the mark of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_HEAD: Final = 64  # bytes
_ZEROS: Final = (b"\0\0\0x", "utf-32-be"), (b"x\0\0\0", "utf-32-le"), (b"\0x\0x", "utf-16-be"), (b"x\0x\0", "utf-16-le")
"""The places of zero bytes in the first characters, which are ASCII."""
_SAMPLE: Final = 1024  # bytes of a line
_CONTROL_CHARACTERS: Final = bytes({*range(0x20), 0x7F} - set(b"\b\t\n\v\f\r\x1b\x1e"))
"""Control characters that are not in text: all but white space, ANSI escapes and record separators."""
_MIN_CONTROL: Final = 3
_MAX_CONTROL_RATIO: Final = 0.04  # of all bytes: programs, archives and random bytes have more, a damaged log has fewer

NOT_BYTES: Final = "expected the lines of a file as bytes: open(path, 'rb')"


def iter_lines(chunks: Iterable[bytes]) -> NumberedLines:
    """Yield the numbered lines of a file in UTF-8.

    Raises `RunDecodeError` for a file that is not text, and `TypeError` for lines that are not bytes.
    """
    rest = iter(chunks)
    first = list(islice(rest, 4))  # a binary file may begin with line breaks
    if any(not isinstance(cast("object", line), bytes | bytearray) for line in first):
        raise TypeError(NOT_BYTES)
    head = b"".join(line[:_HEAD] for line in first)
    problem = binary_format(head)
    if problem is not None:
        raise decode_error(problem)
    encoding = _encoding(head)
    if encoding is None and (b"\0" in head[:4] or _is_binary(b"".join(line[:_SAMPLE] for line in first))):
        raise decode_error("this is a binary file: record it as JSON")
    every = chain(first, rest)
    yield from enumerate(
        _split_at_carriage_returns(every if encoding is None else _transcode(every, encoding)), start=1
    )


def with_utf8_hint(problem: str) -> str:
    """Return a problem, with a hint what to do if the problem is that the text is not UTF-8."""
    return f"{problem}: save it as UTF-8 (iconv -f LATIN1 -t UTF-8)" if problem.endswith("is not UTF-8") else problem


def _is_binary(sample: bytes) -> bool:
    """Return whether the first bytes of a file, without zero bytes of an encoding, are not text."""
    return len(sample) - len(sample.translate(None, _CONTROL_CHARACTERS)) > max(
        _MIN_CONTROL, _MAX_CONTROL_RATIO * len(sample)
    )


def _encoding(head: bytes) -> str | None:
    """Return the encoding by the first bytes; None for UTF-8 or an unknown one."""
    marked = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    if marked is not None:
        return marked
    start = bytes(0 if byte == 0 else ord("x") for byte in head[:4])
    return next((name for zeros, name in _ZEROS if start.startswith(zeros)), None)


def _transcode(chunks: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    """Yield the lines of a file in another encoding as UTF-8. Invalid bytes become U+FFFD."""
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    pending: list[str] = []
    size = 0
    for chunk in chunks:
        *whole, last = decoder.decode(chunk).removeprefix("\ufeff").split("\n")
        for line in whole:
            yield "".join([*pending, line, "\n"]).encode(errors="replace")
            pending, size = [], 0
        if size <= MAX_BYTES:  # of an endless line, enough for the reader to refuse it
            pending.append(last)
            size += len(last)
    yield "".join(pending).encode(errors="replace")


def _split_at_carriage_returns(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines, also of a file whose lines end with a carriage return alone."""
    for line in lines:
        if b"\r" in line and b"\r" in (stripped := line.rstrip(b"\r\n")):
            yield from stripped.split(b"\r")
        else:
            yield line
