"""The machine that benchmarks measure on: what it is, and what a synced write costs."""

from __future__ import annotations

import os
import platform
import sqlite3
import tempfile
from contextlib import suppress
from pathlib import Path
from time import perf_counter


def fdatasync_us(folder: str, times: int = 200) -> float:
    """Return the microseconds to write and sync one page in this folder: the least that a commit takes."""
    handle, path = tempfile.mkstemp(dir=folder)
    sync = getattr(os, "fdatasync", os.fsync)
    try:
        os.write(handle, bytes(4 * 4096))
        sync(handle)
        before = perf_counter()
        for number in range(times):
            os.lseek(handle, number % 4 * 4096, os.SEEK_SET)
            os.write(handle, bytes(4096))
            sync(handle)
        return (perf_counter() - before) / times * 1e6
    finally:
        os.close(handle)
        Path(path).unlink()


def machine() -> dict[str, str]:
    """Return what every figure depends on."""
    cpu = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    return {
        "cpu": cpu,
        "cores": f"{os.cpu_count()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "sqlite": sqlite3.sqlite_version,
    }
