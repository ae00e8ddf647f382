"""Power cuts under a store in SQLite: nothing is lost at FULL, and what loses is seen to lose."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import get_args

import pytest

if sys.platform != "linux":
    pytest.skip("power cuts need Linux: loop devices and ext4", allow_module_level=True)

from torture.disks import bench, why_not
from torture.powercuts.cuts import Kind, Plan, power_cuts
from torture.powercuts.disk import why_no_cache
from torture.powercuts.volatile import MANNERS, PIECE, Cache

ROOT = Path(__file__).parents[2]
LOSES_ALL = 1005
"""A seed whose first cut comes late, and leaves nothing of what was not flushed."""


@pytest.fixture(scope="module")
def disks() -> frozenset[Kind]:
    """The kinds of disks that can be mounted here."""
    if missing := why_not():
        pytest.skip(missing)
    return frozenset({"plain"}) if why_no_cache() else frozenset(get_args(Kind))


@pytest.mark.slow
@pytest.mark.parametrize(("disk", "cuts"), [("cached", 2), ("plain", 1)])
def test_full_loses_nothing(disk: Kind, cuts: int, disks: frozenset[Kind]) -> None:
    """What the library acknowledged is there after a cut."""
    if disk not in disks:
        pytest.skip(f"no disk can be {disk} here: {why_no_cache()}")
    verdict = power_cuts(cuts, Plan(seed=LOSES_ALL, disk=disk))
    assert [] == verdict.wrong
    assert (0, 0, 0, 0) == (verdict.lost, verdict.doubled, verdict.illegal, verdict.gaps)
    assert verdict.acknowledged > 0
    assert cuts == verdict.faults["power cut"]


@pytest.mark.slow
def test_a_disk_that_lies_is_found(disks: frozenset[Kind]) -> None:
    """A disk that answers flushes without doing them loses what was acknowledged, at FULL too."""
    if "cached" not in disks:
        pytest.skip(f"no disk can lie here: {why_no_cache()}")
    verdict = power_cuts(1, Plan(seed=LOSES_ALL, lying=True))
    assert verdict.acknowledged > 0
    assert verdict.acknowledged == verdict.lost


@pytest.mark.slow
@pytest.mark.parametrize("disk", get_args(Kind))
def test_no_fsync_is_found(disk: Kind, disks: frozenset[Kind]) -> None:
    """With `synchronous = OFF` acknowledged writes are lost, and the command line says so."""
    if disk not in disks:
        pytest.skip(f"no disk can be {disk} here: {why_no_cache()}")
    asked = ["--cuts", "1", "--seed", str(LOSES_ALL), "--synchronous", "OFF", "--disk", disk, "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "torture.powercuts", *asked], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert 1 == done.returncode, done.stderr
    verdict = json.loads(done.stdout)
    assert verdict["lost"] > 0
    assert verdict["wrong"][0].startswith("not there: ")


HOLD = """
import sys, time
from torture.disks import bench, mounted, new_image
with bench() as folder, mounted(new_image(folder / "image"), folder / "mounted"):
    print(folder, flush=True)
    time.sleep(600)
"""


def test_what_was_left_behind_is_unmounted(disks: frozenset[Kind]) -> None:
    """A bench whose process was killed is cleared by the next; one at which somebody is, is left alone."""
    holders = [
        subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)
    ]
    try:
        folders = [Path(holder.stdout.readline().strip()) for holder in holders if holder.stdout is not None]
        holders[0].kill()
        holders[0].wait()
        assert [True, True] == [(folder / "mounted").is_mount() for folder in folders]
        with bench():
            assert [False, True] == [folder.exists() for folder in folders]
            assert (folders[1] / "mounted").is_mount()
    finally:
        for holder in holders:
            holder.kill()
            holder.communicate()
        with bench():
            pass
    assert [False, False] == [folder.exists() for folder in folders]


# --- the cache --------------------------------------------------------------------------------------------------------

A, B, C = (letter * PIECE for letter in (b"a", b"b", b"c"))


def test_what_was_flushed_is_left() -> None:
    """Whatever chance takes of later writes, what was flushed stays."""
    for manner in MANNERS:
        for seed in range(20):
            cache = Cache(bytes(3 * PIECE))
            cache.write(0, A)
            cache.flush()
            cache.write(PIECE, B + C)
            assert A + B + C == cache.seen
            left, unflushed, kept = cache.cut(manner, Random(seed))
            pieces = [left[start : start + PIECE] for start in range(0, 3 * PIECE, PIECE)]
            assert pieces[0] == A
            assert 2 == unflushed
            assert kept == sum(any(piece) for piece in pieces[1:])


def test_what_each_manner_leaves() -> None:
    """None, the first ones, any, or all: each possibility comes up, and no other."""
    found: dict[str, set[str]] = {}
    for manner in MANNERS:
        for seed in range(60):
            cache = Cache(bytes(2 * PIECE))
            cache.write(0, A + B)
            left, _, _ = cache.cut(manner, Random(seed))
            found.setdefault(manner, set()).add(left[::PIECE].decode().replace("\0", "-"))
    assert {"--"} == found["nothing"]
    assert {"--", "a-", "ab"} == found["first"]
    assert {"--", "a-", "-b", "ab"} == found["some"]
    assert {"ab"} == found["all"]


def test_a_write_is_torn_between_pieces_only() -> None:
    """A write that begins inside a piece is taken apart where the next begins."""
    cache = Cache(bytes(2 * PIECE))
    cache.write(PIECE - 512, b"x" * 1024)
    assert 2 == cache.cut("nothing", Random(0))[1]
