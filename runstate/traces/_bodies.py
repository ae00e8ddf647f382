"""Recorded bodies to bytes: base64, hexadecimal, gzip and deflate, bounded."""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Sequence
from typing import Final, cast

import attrs

from runstate.run.json_text import MAX_BYTES
from runstate.traces._events import FIELDS_OF_SSE
from runstate.traces._refusals import refusal
from runstate.traces._yaml import Base64

__all__ = ["Decompressor", "Hex", "joined"]

_MAX_UNPACKED: Final = 4 * MAX_BYTES  # of all bodies of one file together
_PIECE: Final = 1024 * 1024
_GZIP: Final = b"\x1f\x8b"
_HEX: Final = re.compile(r"(?:[0-9a-fA-F]{2})+")
_COMPRESSED_HEX: Final = "1f8b"


class Hex(str):
    """Text that stands for bytes, two digits each."""

    __slots__ = ()


def joined(pieces: Sequence[str]) -> str:
    """Return a body that was recorded in pieces: lines of a stream, or chunks as nock and Polly.js write them."""
    if all(_HEX.fullmatch(piece) for piece in pieces) and pieces[0].lower().startswith(_COMPRESSED_HEX):
        return Hex("".join(pieces))
    if len(pieces) == 1 and pieces[0].startswith("H4sI"):  # gzip in base64
        return Base64(pieces[0])
    # Lines of a stream were recorded with their ends or without.
    return ("" if any(piece.endswith(("\n", "\r")) for piece in pieces) else "\n").join(pieces)


@attrs.define
class Decompressor:
    """Turns bodies into bytes. What those of one file unpack to is bounded: a few bytes can stand for gigabytes."""

    left: int = _MAX_UNPACKED

    def bytes_of(self, body: object, encoding: str) -> bytes:
        """Return the bytes of a body: text, `Base64`, `Hex` or a list of pieces. Raises `RunDecodeError`."""
        if isinstance(body, list):
            body = joined(cast("list[str]", body))
        text = body if isinstance(body, str) else ""
        if isinstance(text, Base64):
            # Polly.js writes an array of chunks as text.
            chunks = text[2:-2].split('","') if text.startswith('["') else [text]
            packed = b"".join(map(_from_base64, chunks))
        elif isinstance(text, Hex) or (text[:4].lower() == _COMPRESSED_HEX and _HEX.fullmatch(text)):
            packed = bytes.fromhex(text)
        else:
            # Text was unpacked before it was written, whatever the header says.
            return text.encode(errors="surrogatepass")
        return self._unpacked(packed, encoding.strip().lower())

    def _unpacked(self, packed: bytes, encoding: str) -> bytes:
        if packed.startswith(_GZIP):
            return self._inflated(packed, "gzip", 16 + zlib.MAX_WBITS)
        if not packed or encoding in ("", "identity") or _is_text(packed):
            return packed
        if encoding == "deflate":
            # Some send it with a header of its own, as the standard says, and some without.
            has_header = packed[0] & 0x0F == zlib.DEFLATED and int.from_bytes(packed[:2]) % 31 == 0
            return self._inflated(packed, encoding, zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)
        if encoding == "gzip":
            raise refusal("the body is not gzip, as its header says")
        told = f"the body is compressed with {encoding[:40]}"
        raise refusal(f"{told}: only gzip and deflate are read, so record it with Accept-Encoding: gzip")

    def _inflated(self, packed: bytes, encoding: str, how: int) -> bytes:
        reader = zlib.decompressobj(how)
        pieces: list[bytes] = []
        size = 0
        try:
            while packed and not reader.eof:
                pieces.append(reader.decompress(packed, _PIECE))
                packed = reader.unconsumed_tail
                size += len(pieces[-1])
                self.left -= len(pieces[-1])
                if size > MAX_BYTES:
                    raise refusal(f"the body unpacks from {encoding} to more than {MAX_BYTES} bytes")
                if self.left < 0:
                    raise refusal(f"the bodies of this file unpack to more than {_MAX_UNPACKED} bytes")
        except zlib.error:
            raise refusal(f"the body is broken {encoding}") from None
        if not reader.eof:
            raise refusal(f"the body is {encoding} that was cut off")
        return b"".join(pieces)


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise refusal("the body is not base64") from None


def _is_text(data: bytes) -> bool:
    """Tell whether bytes are what a run could stand in, and so were unpacked before they were written."""
    if not data.lstrip().startswith((b"{", b"[", *FIELDS_OF_SSE)):
        return False
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
