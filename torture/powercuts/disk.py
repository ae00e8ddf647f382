"""Disks whose power can be cut: an ext4 image on a loop device, and what of it would be left.

A plain disk is a file. What reached it is there, what only the file system knew is gone; nothing is lost on the way.

A cached disk has a volatile write cache, as real ones do: what was written and not flushed may be gone, or there, in
any part and order (`torture.powercuts.volatile`).
"""

from __future__ import annotations

import signal
from contextlib import ExitStack, suppress
from multiprocessing import Pipe
from pathlib import Path
from random import Random
from typing import Final, Self

from torture.disks import NoDisk, bench, copied, do, mounted, mounts_below, new_image, unmount
from torture.ground import wait_until
from torture.powercuts.volatile import MANNERS, Cut, Order, serve
from torture.processes import Processes

_MOST_AFTER: Final = 40  # questions between the order to cut and the cut: a commit takes about five


def why_no_cache() -> str | None:
    """Return why no cached disk can be made here, though a plain one can; None where it can."""
    try:
        with bench() as folder, CachedDisk(new_image(folder / "tried"), folder):
            return None
    except NoDisk as error:
        return str(error)


class PlainDisk:
    """An image in a file."""

    def __init__(self, image: Path, bench: Path) -> None:
        self._image = image
        self.folder = bench / "disk"
        """Where it is mounted."""
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(mounted(self._image, self.folder))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def cut(self, users: Processes, notes: Path, remains: Path, chance: Random) -> Cut:
        """Copy what reached the file, while its users stand still; kill them."""
        noted = notes.stat().st_size
        _signal(users, signal.SIGSTOP)
        wait_until(lambda: _stand_still(users), "the users of the disk to stand still", every=0.001)
        copied(self._image, remains)
        # The kernel may write even so. What is the same twice was not written to between: it is of one moment.
        wait_until(lambda: _same_again(self._image, remains), "the disk to stand still")
        _signal(users, signal.SIGKILL)
        return Cut(noted, "a copy")


def _signal(users: Processes, number: int) -> None:
    for name in users.members:
        with suppress(ProcessLookupError):  # it fell, which is noted elsewhere
            users.signal(name, number)


def _stand_still(users: Processes) -> bool:
    threads = [path for one in users.members.values() for path in Path(f"/proc/{one.pid}/task").glob("*/stat")]
    try:
        return all(path.read_text(encoding="utf-8").rpartition(") ")[2][0] in "TZX" for path in threads)
    except (FileNotFoundError, ProcessLookupError):  # a thread has ended
        return False


def _same_again(image: Path, remains: Path) -> bool:
    if image.read_bytes() == remains.read_bytes():
        return True
    copied(image, remains)
    return False


class CachedDisk:
    """An image behind a volatile write cache. One that lies answers flushes without doing them."""

    def __init__(self, image: Path, bench: Path, *, lies: bool = False) -> None:
        self._image = image
        self._file = bench / "cached"
        self.folder = bench / "disk"
        """Where it is mounted."""
        self._lies = lies
        self._stack = ExitStack()
        self._processes = Processes()
        self._link, self._its_link = Pipe()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._file.touch()
            # Undone from below: the process is gone before anybody tries to write back what it will not take.
            stack.callback(unmount, self._file)
            stack.callback(self._unmount)
            self._name = self._processes.start(serve, self._image, self._file, self._its_link, self._lies, name="disk")
            self._its_link.close()
            try:
                trouble = self._link.recv()
            except EOFError:
                trouble = "the disk's process fell"
            if trouble:
                raise NoDisk(trouble)
            self.folder.mkdir(exist_ok=True)
            do("mount", "-t", "ext4", "-o", "loop", str(self._file), str(self.folder))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _unmount(self) -> None:
        if self._processes.members and mounts_below(self.folder):
            unmount(self.folder)  # in good order
        self._processes.__exit__(None, None, None)
        if mounts_below(self.folder):
            unmount(self.folder)
        self._link.close()

    def cut(self, users: Processes, notes: Path, remains: Path, chance: Random) -> Cut:
        """Let the disk answer nothing any more; kill its users; leave what its cache and chance left."""
        manner = chance.choice(MANNERS)
        try:
            self._link.send(Order(notes, chance.randrange(_MOST_AFTER), manner, chance.getrandbits(32), remains))
            cut: Cut = self._link.recv()
            _signal(users, signal.SIGKILL)  # they wait for the disk, and would hear of it once that is gone
        finally:
            self._processes.kill(self._name)  # or nobody who waits for it could end
        return cut
