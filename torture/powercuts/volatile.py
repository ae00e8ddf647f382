"""A disk with a volatile write cache: a process that answers for a file, and can be told to have no power any more.

It speaks the kernel's FUSE protocol to /dev/fuse, so no driver and no library is needed. A loop device on that file
brings each write and each flush of a file system here.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import struct
from collections.abc import Mapping
from enum import IntEnum
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Final, Literal, TypeAlias, get_args

import attrs

from torture.disks import BLOCK

Manner: TypeAlias = Literal["nothing", "first", "some", "all"]
"""What stays of writes that were not flushed: none, the first ones, each by chance, or all."""

MANNERS: Final[tuple[Manner, ...]] = get_args(Manner)
PIECE: Final = BLOCK
"""What is written whole or not at all; a larger write may be torn between pieces."""

_QUIET_MS: Final = 200  # a disk that is asked nothing for so long is cut where it is


@attrs.frozen
class Order:
    """How a cached disk is to be cut."""

    notes: Path
    """What its users are told is noted here."""
    after: int
    """How many questions it answers before."""
    manner: Manner
    seed: int
    remains: Path
    """Where what is left of it goes."""


@attrs.frozen
class Cut:
    """What a cut did."""

    noted: int
    """How much of the notes had been written when the power went."""
    manner: str
    unflushed: int = 0
    """How many pieces had been written since they were flushed last."""
    kept: int = 0
    """How many of those are left."""


class Cache:
    """What a device holds that may lose what was not flushed."""

    def __init__(self, content: bytes) -> None:
        self.seen: Final = bytearray(content)
        """What is read while there is power."""
        self._durable = bytearray(content)
        self._unflushed: list[tuple[int, bytes]] = []

    def write(self, offset: int, data: bytes) -> None:
        """Take a write, piece by piece."""
        self.seen[offset : offset + len(data)] = data
        while data:
            fits = PIECE - offset % PIECE
            self._unflushed.append((offset, data[:fits]))
            offset, data = offset + fits, data[fits:]

    def flush(self) -> None:
        """Make durable what was written."""
        self._keep(self._unflushed)
        self._unflushed = []

    def cut(self, manner: Manner, chance: Random) -> tuple[bytearray, int, int]:
        """Return what is left without power, and how many pieces were not flushed, and were kept."""
        written = self._unflushed
        match manner:
            case "nothing":
                kept = []
            case "first":
                kept = written[: chance.randint(0, len(written))]
            case "some":
                share = chance.random()
                kept = [piece for piece in written if chance.random() < share]
            case "all":
                kept = written
        self._keep(kept)
        return self._durable, len(written), len(kept)

    def _keep(self, pieces: list[tuple[int, bytes]]) -> None:
        for offset, data in pieces:
            self._durable[offset : offset + len(data)] = data


class Opcode(IntEnum):
    """What the kernel asks: as <linux/fuse.h> numbers it."""

    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    OPEN = 14
    READ = 15
    WRITE = 16
    RELEASE = 18
    FSYNC = 20
    FLUSH = 25
    INIT = 26
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42


_UNANSWERED: Final = frozenset({Opcode.FORGET, Opcode.INTERRUPT, Opcode.BATCH_FORGET})
_IN: Final = struct.Struct("<IIQQIIIHH")  # len opcode unique nodeid uid gid pid total_extlen padding
_OUT: Final = struct.Struct("<IiQ")  # len error unique
_RANGE: Final = struct.Struct("<QQI")  # fh offset size: how a READ and a WRITE begin
_DATA_AT: Final = _IN.size + 40  # of a WRITE
_MOST: Final = 1 << 20  # bytes a WRITE
# major minor max_readahead flags (BIG_WRITES, MAX_PAGES) max_background congestion_threshold max_write time_gran
# max_pages
_WELCOME: Final = struct.pack("<IIIIHHIIH34x", 7, 31, 1 << 17, 1 << 5 | 1 << 22, 16, 12, _MOST, 1, _MOST // PIECE)
_OPENED: Final = struct.pack("<QIi", 1, 1, 0)  # fh open_flags backing_id: DIRECT_IO, or the kernel would keep pages
_KNOWN: Final[Mapping[int, bytes]] = {
    Opcode.INIT: _WELCOME,
    Opcode.OPEN: _OPENED,
    Opcode.RELEASE: b"",
    Opcode.FLUSH: b"",
    Opcode.DESTROY: b"",
}


class Device:
    """Answers the kernel for one file, out of a cache."""

    def __init__(self, cache: Cache, file: Path, *, lies: bool) -> None:
        self._cache = cache
        self._lies = lies
        self._buffer = bytearray(_MOST + PIECE)
        self.fd: Final = os.open("/dev/fuse", os.O_RDWR)
        given = f"fd={self.fd},rootmode=100600,user_id=0,group_id=0"
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"runstate-power", os.fsencode(file), b"fuse", 0, given.encode()):
            raise OSError(ctypes.get_errno(), "no file can be answered for")

    def answer(self) -> None:
        """Answer what is asked next. Raises `OSError` once the file is unmounted."""
        try:
            os.readv(self.fd, [self._buffer])
        except (FileNotFoundError, InterruptedError):  # the question was taken back
            return
        _, opcode, unique, *_ = _IN.unpack_from(self._buffer)
        if opcode not in _UNANSWERED:
            body = self._body(opcode)
            error, body = (-errno.ENOSYS, b"") if body is None else (0, body)
            os.writev(self.fd, [_OUT.pack(_OUT.size + len(body), error, unique), body])

    def _body(self, opcode: int) -> bytes | None:
        """Do what is asked; None if it cannot be."""
        if opcode == Opcode.READ:
            _, offset, size = _RANGE.unpack_from(self._buffer, _IN.size)
            return bytes(self._cache.seen[offset : offset + size])
        if opcode == Opcode.WRITE:
            _, offset, size = _RANGE.unpack_from(self._buffer, _IN.size)
            self._cache.write(offset, bytes(self._buffer[_DATA_AT : _DATA_AT + size]))
            return struct.pack("<II", size, 0)
        if opcode == Opcode.FSYNC:
            if not self._lies:
                self._cache.flush()
            return b""
        if opcode in (Opcode.GETATTR, Opcode.SETATTR):
            size = len(self._cache.seen)
            # attr_valid ino size blocks; mode nlink blksize
            return struct.pack("<Q8xQQQ36xIIIIIII", 3600, 1, size, size // 512, 0o100600, 1, 0, 0, 0, PIECE, 0)
        return _KNOWN.get(opcode)


def serve(_: str, image: Path, file: Path, link: Connection, lies: bool) -> None:
    """Be a cached disk until it is cut, or unmounted."""
    cache = Cache(image.read_bytes())
    try:
        device = Device(cache, file, lies=lies)
    except OSError as error:
        link.send(str(error))
        return
    link.send("")
    order = _answer_until_ordered(device, link)
    if order is None:
        return
    noted = order.notes.stat().st_size  # nothing is answered any more: who is told later is told of what was durable
    left, unflushed, kept = cache.cut(order.manner, Random(order.seed))
    with order.remains.open("wb") as remains:
        remains.truncate(len(left))
        for offset in range(0, len(left), _MOST):
            if (block := left[offset : offset + _MOST]).strip(b"\0"):  # elsewhere there is a hole
                os.pwrite(remains.fileno(), block, offset)
    link.send(Cut(noted, order.manner, unflushed, kept))
    signal.pause()  # with all questions open, until somebody kills this process


def _answer_until_ordered(device: Device, link: Connection) -> Order | None:
    """Answer until an order has come and so many more answers were given; None if none can come any more."""
    order: Order | None = None
    more = 0
    both = select.poll()
    both.register(device.fd, select.POLLIN)
    both.register(link.fileno(), select.POLLIN)
    while order is None or more > 0:
        ready = [fd for fd, _ in both.poll(None if order is None else _QUIET_MS)]
        if not ready:
            break
        if link.fileno() in ready:
            try:
                order = link.recv()
            except EOFError:  # who would order is gone
                return None
            more = order.after
            both.unregister(link.fileno())
        elif device.fd in ready:
            try:
                device.answer()
            except OSError:
                return None
            more -= 1
    return order
