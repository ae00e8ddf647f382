"""The power is cut under a load; what is left of the disk is mounted anew, and held against what anybody was told."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random
from time import monotonic, sleep
from typing import Final, Literal, TypeAlias

import attrs

from runstate import RunEvent
from runstate.errors import RunstateError
from runstate.store import Settle, open_store
from tests.support.judge import asking
from torture.disks import NoDisk, bench, copied, mounted, new_image
from torture.fleet.checks import Entry, histories
from torture.ground import PATIENCE_S, wait_until
from torture.powercuts.disk import CachedDisk, PlainDisk
from torture.powercuts.load import Note, Setting, Synchronous, calling, read_notes, settling, working
from torture.powercuts.volatile import Cut
from torture.processes import Processes
from torture.verdict import Verdict

Kind: TypeAlias = Literal["cached", "plain"]

_LIFE: Final = 5  # cuts a disk
_SOON_S: Final = 0.15  # while the store is made, or mends itself
_LATE_S: Final = 1.2
_SOON: Final = 0.2  # of all cuts


# --- the judgement ----------------------------------------------------------------------------------------------------


@attrs.define
class Life:
    """A disk from new until it is worn out, and all that was noted of it."""

    image: Path
    notes: list[Note] = attrs.Factory(list)
    cuts: int = 0


def judge_remains(verdict: Verdict, url: str, notes: Sequence[Note]) -> None:
    """Judge a store after a cut: by itself, by the law, and by what was noted."""
    path = Path(url.removeprefix("sqlite:///"))
    if path.exists():
        with asking(url) as ask:
            sound = ask("PRAGMA integrity_check")
        verdict.expect(sound == [("ok",)], f"the file is broken: {sound[:3]}")
    with open_store(url) as store:
        verdict.judge(url, may_live=True)
        hold_against(verdict, notes, histories(url))
        run = store.create(thread_id="t", assistant_id="a", model="m")
        lease = store.open_lease("after")
        claim = store.claim_id(lease, run.id)
        if claim is not None:
            store.settle(lease, [Settle(claim.run, RunEvent.COMPLETE)])
        status = store.get(run.id).status
        verdict.expect(status == "completed", f"the store does not go on working: a new run is {status}")
        store.sweep()


def hold_against(verdict: Verdict, notes: Iterable[Note], found: Mapping[str, Sequence[Entry]]) -> None:
    """See that everything noted is in a history, and that nobody was told of another's move as their own."""
    moves: Counter[tuple[str, int]] = Counter()
    lost = Counter[str]()
    examples = []
    for note in notes:
        moves[note.run_id, note.version] += note.how == "moved"
        if not any(_is_of(note, entry) for entry in found.get(note.run_id, ())):
            lost[note.how] += 1
            examples.append(" ".join(map(str, note)))
    verdict.lost += lost.total() - lost["seen"]
    verdict.count(**{f"lost_{how}": count for how, count in lost.items()})
    verdict.expect(not lost, f"not there: {dict(lost)}, as {'; '.join(examples[-3:])}")
    for place, times in moves.items():
        if times > 1:
            verdict.double(f"{times} callers were told of one move", place)


def _is_of(note: Note, entry: Entry) -> bool:
    same = entry.version >= note.version if note.how == "settled" else entry.version == note.version
    return same and entry.target == note.status


# --- the cuts ---------------------------------------------------------------------------------------------------------


@attrs.frozen
class Plan:
    """How the power is to be cut."""

    seed: int = 1
    synchronous: Synchronous = "FULL"
    disk: Kind = "cached"
    lying: bool = False


def keep_quiet(line: str) -> None:
    """Tell nobody."""


def power_cuts(cuts: int, plan: Plan, told: Callable[[str], object] = keep_quiet) -> Verdict:
    """Cut the power so many times; tell of each."""
    name = f"power cuts/{plan.synchronous}/{'lying' if plan.lying else plan.disk}"
    verdict = Verdict(name, trials=cuts)
    began = monotonic()
    with bench() as folder:
        life: Life | None = None
        for number in range(cuts):
            if life is None:
                life = Life(new_image(folder / "new"))
            before = verdict.acknowledged, verdict.lost, len(verdict.wrong)
            line = _cut_once(folder, life, plan, Random(f"{plan.seed} {number}"), verdict)
            acknowledged, lost, wrong = before
            told(f"cut {number}: {line}; told {verdict.acknowledged - acknowledged}, lost {verdict.lost - lost}")
            # What is broken stays broken, and what is lost, lost: it would be found again, and counted again.
            if life.cuts == _LIFE or len(verdict.wrong) > wrong:
                life = None
    verdict.seconds = monotonic() - began
    return verdict


def _cut_once(folder: Path, life: Life, plan: Plan, chance: Random, verdict: Verdict) -> str:
    notes = folder / "notes"
    notes.write_bytes(b"")
    after_s = chance.uniform(0, _SOON_S) if chance.random() < _SOON else chance.uniform(_SOON_S, _LATE_S)
    cut = _load_until_cut(folder, life.image, notes, plan, after_s, chance, verdict)
    fresh = read_notes(notes, cut.noted)
    life.notes += fresh
    life.cuts += 1
    verdict.faults["power cut"] += 1
    verdict.acknowledged += sum(note.how != "seen" for note in fresh)
    verdict.count(seen=sum(note.how == "seen" for note in fresh), unflushed=cut.unflushed, kept=cut.kept)
    verdict.count(cuts_with_unflushed=cut.unflushed > 0)
    lost = verdict.lost
    try:
        # A copy is judged, so that the next cut is made to a disk on which nobody has mended anything.
        with mounted(copied(life.image, folder / "judged"), folder / "left") as left:
            judge_remains(verdict, f"sqlite:///{left / 'runs.db'}", life.notes)
    except (NoDisk, RunstateError, sqlite3.Error, OSError) as error:
        verdict.wrong.append(f"what is left cannot be used: {type(error).__name__}: {error}")
        if verdict.lost == lost:
            verdict.lost += sum(note.how != "seen" for note in life.notes)
    age = f"disk of {life.cuts} cuts"
    return f"after {after_s:.2f} s, {age}, {cut.manner} left of {cut.unflushed} unflushed pieces ({cut.kept})"


def _load_until_cut(
    folder: Path, image: Path, notes: Path, plan: Plan, after_s: float, chance: Random, verdict: Verdict
) -> Cut:
    """Mount a disk, put load on it, cut its power; the image is then what is left."""
    remains = folder / "remains"
    with ExitStack() as stack:
        disk: CachedDisk | PlainDisk = (
            CachedDisk(image, folder, lies=plan.lying) if plan.disk == "cached" else PlainDisk(image, folder)
        )
        stack.enter_context(disk)
        processes = stack.enter_context(Processes())
        begin = processes.meeting(4)
        setting = Setting(f"sqlite:///{disk.folder / 'runs.db'}", notes, plan.synchronous, begin)
        for work in (calling, settling, working):
            processes.start(work, setting, name=work.__name__)
        begin.wait(PATIENCE_S)
        if after_s > _SOON_S:  # an early one may come before anybody is told anything
            wait_until(lambda: notes.stat().st_size > 0 or bool(processes.fallen()), "the first note")
        sleep(after_s)
        verdict.wrong += processes.fallen()
        cut = disk.cut(processes, notes, remains, chance)
    remains.replace(image)
    return cut
