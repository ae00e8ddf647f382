"""Bytes of any file to lines of UTF-8: encodings with a byte order mark or zero bytes, line ends of every system."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Final, TypeAlias, cast

from runstate.run.json_text import MAX_BYTES
from runstate.traces._refusals import in_bytes, refusal

__all__ = ["NOT_BYTES", "NumberedLines", "lines_of", "not_utf8"]

NumberedLines: TypeAlias = Iterator[tuple[int, bytes]]
"""The lines of a file, each with its number, counted from 1."""

_MARKS: Final = (  # the longer ones first: that of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_HEAD: Final = 64  # bytes
_ZEROS: Final = (b"\0\0\0x", "utf-32-be"), (b"x\0\0\0", "utf-32-le"), (b"\0x\0x", "utf-16-be"), (b"x\0x\0", "utf-16-le")
"""Where the first characters, which are ASCII, have their zero bytes."""
_SAMPLE: Final = 1024  # bytes of a line
_NO_TEXT: Final = bytes({*range(0x20), 0x7F} - set(b"\b\t\n\v\f\r\x1b\x1e"))
"""Control characters that text does not have: not white space, not what colours a log, nor what separates records."""
_MANY: Final = 3
_MOST_NO_TEXT: Final = 0.04  # of its bytes; programs, archives and random bytes have more, a damaged log has fewer

NOT_BYTES: Final = "expected the lines of a file as bytes: open(path, 'rb')"


def lines_of(chunks: Iterable[bytes]) -> NumberedLines:
    """Yield the numbered lines of a file in UTF-8.

    Raises `RunDecodeError` for a file that is not text, `TypeError` for lines that are no bytes.
    """
    rest = iter(chunks)
    first = list(islice(rest, 4))  # what is no text may begin with line breaks
    if any(not isinstance(cast("object", line), bytes | bytearray) for line in first):
        raise TypeError(NOT_BYTES)
    head = b"".join(line[:_HEAD] for line in first)
    said = in_bytes(head)
    if said is not None:
        raise refusal(said)
    encoding = _encoding(head)
    if encoding is None and (b"\0" in head[:4] or _is_binary(b"".join(line[:_SAMPLE] for line in first))):
        raise refusal("this is a binary file: record it as JSON")
    every = chain(first, rest)
    yield from enumerate(_split(every if encoding is None else _transcoded(every, encoding)), start=1)


def not_utf8(problem: str) -> str:
    """Return what to do about text that is not UTF-8, after what is wrong with it."""
    return f"{problem}: save it as UTF-8 (iconv -f LATIN1 -t UTF-8)" if problem.endswith("is not UTF-8") else problem


def _is_binary(sample: bytes) -> bool:
    """Tell whether the first bytes of a file, which has no encoding with zero bytes, are those of no text."""
    return len(sample) - len(sample.translate(None, _NO_TEXT)) > max(_MANY, _MOST_NO_TEXT * len(sample))


def _encoding(head: bytes) -> str | None:
    """Return the encoding that the first bytes tell of; None for UTF-8, or what is taken for it."""
    marked = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    if marked is not None:
        return marked
    start = bytes(0 if byte == 0 else ord("x") for byte in head[:4])
    return next((name for zeros, name in _ZEROS if start.startswith(zeros)), None)


def _transcoded(chunks: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    """Yield the lines of a file in another encoding as UTF-8. Bytes that are none of it become U+FFFD."""
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    begun: list[str] = []
    size = 0
    for chunk in chunks:
        *whole, last = decoder.decode(chunk).removeprefix("\ufeff").split("\n")
        for line in whole:
            yield "".join([*begun, line, "\n"]).encode(errors="replace")
            begun, size = [], 0
        if size <= MAX_BYTES:  # of a line that does not end, as much as it takes to refuse it
            begun.append(last)
            size += len(last)
    yield "".join(begun).encode(errors="replace")


def _split(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines, also of a file whose lines end with a carriage return alone."""
    for line in lines:
        if b"\r" in line and b"\r" in (stripped := line.rstrip(b"\r\n")):
            yield from stripped.split(b"\r")
        else:
            yield line
