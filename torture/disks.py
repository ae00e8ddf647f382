"""Disks in files: made, mounted for a while, and unmounted again, also after who mounted them was killed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from time import sleep
from typing import Final

if sys.platform != "win32":
    import fcntl

__all__ = ["BLOCK", "NoDisk", "bench", "copied", "do", "mounted", "mounts_below", "new_image", "unmount", "why_not"]

BLOCK: Final = 4096
"""The bytes that a file system here writes at once."""
_PREFIX: Final = "runstate-disk-"


class NoDisk(Exception):
    """No disk can be mounted here, and why."""


def why_not() -> str | None:
    """Return why no disk can be mounted here; None where it can."""
    if sys.platform != "linux":
        return "mounting takes Linux: loop devices and ext4"
    if os.geteuid() != 0:
        return "mounting takes root"
    if missing := [tool for tool in ("mkfs.ext4", "mount", "umount", "cp") if shutil.which(tool) is None]:
        return f"mounting takes {', '.join(missing)}"
    try:
        with bench() as folder, mounted(new_image(folder / "tried"), folder / "mounted"):
            return None
    except NoDisk as error:
        return f"no disk can be mounted here: {error}"


def new_image(path: Path, size: int = 64 * 1024 * 1024) -> Path:
    """Make an image of so many bytes, with an empty file system."""
    with path.open("wb") as file:
        file.truncate(size)
    do("mkfs.ext4", "-q", "-F", "-m", "0", "-b", str(BLOCK), str(path))
    return path


def copied(image: Path, path: Path) -> Path:
    """Copy an image; its holes stay holes."""
    do("cp", "--sparse=always", str(image), str(path))
    return path


@contextmanager
def mounted(image: Path, folder: Path) -> Iterator[Path]:
    """Mount an image for a while: first its file system mends itself."""
    folder.mkdir(exist_ok=True)
    do("mount", "-t", "ext4", "-o", "loop", str(image), str(folder))
    try:
        yield folder
    finally:
        unmount(folder)


def unmount(path: Path) -> None:
    """Unmount what is mounted there; while somebody is still in it, again."""
    for patience in (0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0):
        sleep(patience)
        with suppress(NoDisk):
            do("umount", str(path))
        if not mounts_below(path):
            return
    do("umount", "--lazy", str(path))


def do(*words: str) -> None:
    """Run a program. Raises `NoDisk` with what it said if it failed."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise NoDisk(f"{words[0]}: {done.stderr.strip()}")


def mounts_below(folder: Path) -> list[Path]:
    """Return what is mounted at a path or below, the last mounted first."""
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    places = [Path(line.split()[4].replace("\\040", " ")) for line in lines]
    return [place for place in reversed(places) if place.is_relative_to(folder)]


@contextmanager
def bench() -> Iterator[Path]:
    """Make a folder to mount things in. It is emptied at the end; those that were killed before theirs, now."""
    where = Path(tempfile.gettempdir()).resolve()
    with ExitStack() as stack:
        with (where / f"{_PREFIX}turn").open("w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)  # or a bench that is just being made would look left behind
            for left in where.glob(f"{_PREFIX}*/"):
                _clear_left(left)
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=where))
            stack.callback(_clear, folder)
            held = stack.enter_context((folder / "held").open("w"))
            fcntl.flock(held, fcntl.LOCK_EX)
        yield folder


def _clear_left(folder: Path) -> None:
    """Clear a bench unless somebody is at it: whoever dies holds nothing any more."""
    with suppress(FileNotFoundError, BlockingIOError), (folder / "held").open("r") as held:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _clear(folder)


def _clear(folder: Path) -> None:
    for place in mounts_below(folder):
        unmount(place)
    shutil.rmtree(folder)
