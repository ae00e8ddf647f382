"""What came of the inputs: crashes, each with how to have it again, and what may never be told."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

SECRET: Final = "hunter2"
SLOW_S: Final = 0.5  # of processor time, for an input of no length
SLOW_S_PER_BYTE: Final = 20e-6
CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal may obey. A tab and the end of a line are the program's own."""


class Crash(NamedTuple):
    """An input whose answer is none, and how to have it again."""

    target: str
    seed: int
    number: int
    told: str
    given: str

    def __str__(self) -> str:
        again = f"python -m torture.fuzz --target {self.target} --seed {self.seed} --number {self.number}"
        return f"{self.target} {self.number} of seed {self.seed}: {self.told}\n  input: {self.given}\n  again: {again}"


class Broken(AssertionError):
    """An answer that is none."""


class Tally:
    """What came of the inputs of one target."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.inputs = self.read = self.refused = 0
        self.crashes: list[Crash] = []
        self.took_s = 0.0

    def __str__(self) -> str:
        speed = self.inputs / self.took_s if self.took_s else 0.0
        return (
            f"{self.target:<9}{self.inputs:>9} inputs {self.read:>9} runs read {self.refused:>9} refused "
            f"{len(self.crashes):>5} crashes {speed:>8.0f} a second"
        )


def unsent(text: str) -> None:
    """Demand that a sentence holds nothing that a terminal obeys."""
    if found := CONTROL.search(text):
        raise Broken(f"{found[0]!r} is sent as it came: {text[max(0, found.start() - 60) : found.end() + 20]!r}")
