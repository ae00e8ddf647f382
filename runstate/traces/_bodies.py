"""Decoding of recorded bodies: base64, hexadecimal, gzip and deflate, with a bound on the size."""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Sequence
from typing import Final, cast

import attrs

from runstate.run.json_text import MAX_BYTES
from runstate.traces._sse import FIELDS_OF_SSE
from runstate.traces._unsupported import decode_error
from runstate.traces._yaml import Base64

__all__ = ["Decompressor", "Hex", "join_pieces"]

_MAX_UNPACKED: Final = 4 * MAX_BYTES  # of all bodies of one file together
_PIECE: Final = 1024 * 1024
_GZIP: Final = b"\x1f\x8b"
_HEX: Final = re.compile(r"(?:[0-9a-fA-F]{2})+")
_COMPRESSED_HEX: Final = "1f8b"


class Hex(str):
    """Bytes as text in hexadecimal, two digits each."""

    __slots__ = ()


def join_pieces(pieces: Sequence[str]) -> str:
    """Return a body that was recorded in pieces: lines of a stream, or chunks of nock and Polly.js."""
    if all(_HEX.fullmatch(piece) for piece in pieces) and pieces[0].lower().startswith(_COMPRESSED_HEX):
        return Hex("".join(pieces))
    if len(pieces) == 1 and pieces[0].startswith("H4sI"):  # gzip in base64
        return Base64(pieces[0])
    # Lines of a stream may have been recorded with their line ends or without.
    return ("" if any(piece.endswith(("\n", "\r")) for piece in pieces) else "\n").join(pieces)


@attrs.define
class Decompressor:
    """Turns bodies into bytes, with a bound on the bytes of one file: a few bytes can unpack to gigabytes."""

    remaining: int = _MAX_UNPACKED

    def bytes_of(self, body: object, encoding: str) -> bytes:
        """Return the bytes of a body: text, `Base64`, `Hex` or a list of pieces. Raises `RunDecodeError`."""
        if isinstance(body, list):
            body = join_pieces(cast("list[str]", body))
        text = body if isinstance(body, str) else ""
        if isinstance(text, Base64):
            # Polly.js writes an array of chunks as text.
            chunks = text[2:-2].split('","') if text.startswith('["') else [text]
            packed = b"".join(map(_from_base64, chunks))
        elif isinstance(text, Hex) or (text[:4].lower() == _COMPRESSED_HEX and _HEX.fullmatch(text)):
            packed = bytes.fromhex(text)
        else:
            # Text was decompressed before it was written, whatever the header says.
            return text.encode(errors="surrogatepass")
        return self._decompress(packed, encoding.strip().lower())

    def _decompress(self, packed: bytes, encoding: str) -> bytes:
        if packed.startswith(_GZIP):
            return self._inflate(packed, "gzip", 16 + zlib.MAX_WBITS)
        if not packed or encoding in ("", "identity") or _is_text(packed):
            return packed
        if encoding == "deflate":
            # Some servers send it with the zlib header, as the standard says, and some without.
            has_header = packed[0] & 0x0F == zlib.DEFLATED and int.from_bytes(packed[:2]) % 31 == 0
            return self._inflate(packed, encoding, zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)
        if encoding == "gzip":
            raise decode_error("the body is not gzip, as its header says")
        problem = f"the body is compressed with {encoding[:40]}"
        raise decode_error(f"{problem}: only gzip and deflate are read, so record it with Accept-Encoding: gzip")

    def _inflate(self, packed: bytes, encoding: str, window_bits: int) -> bytes:
        reader = zlib.decompressobj(window_bits)
        pieces: list[bytes] = []
        size = 0
        try:
            while packed and not reader.eof:
                pieces.append(reader.decompress(packed, _PIECE))
                packed = reader.unconsumed_tail
                size += len(pieces[-1])
                self.remaining -= len(pieces[-1])
                if size > MAX_BYTES:
                    raise decode_error(f"the body unpacks from {encoding} to more than {MAX_BYTES} bytes")
                if self.remaining < 0:
                    raise decode_error(f"the bodies of this file unpack to more than {_MAX_UNPACKED} bytes")
        except zlib.error:
            raise decode_error(f"the body is broken {encoding}") from None
        if not reader.eof:
            raise decode_error(f"the body is {encoding} that was cut off")
        return b"".join(pieces)


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise decode_error("the body is not base64") from None


def _is_text(data: bytes) -> bool:
    """Return whether bytes are text that can hold a run, so that they were decompressed before they were written."""
    if not data.lstrip().startswith((b"{", b"[", *FIELDS_OF_SSE)):
        return False
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
