"""Every implementation of runs with one mistake is caught: by the assertions, and by the conformance kit alone.

All of them, with both, by `python -m tests.testing.mutants`; here the conformance kit, which takes longer, judges some
of each kind.
"""

from __future__ import annotations

import random
from collections import Counter
from itertools import groupby

import pytest

from runstate.testing.conformance import InMemoryAdapter, check_conformance
from tests.support.lifecycle import TABLE
from tests.testing.mutants import (
    ASSERTIONS,
    REAL,
    ROWS,
    UNMUTATED,
    Mutant,
    RealMutant,
    caught_by,
    mutants,
    real_mutants,
)

_OF_EACH_KIND = 2

EVERY: dict[str, list[Mutant | RealMutant]] = {}
for _mutant in mutants():
    EVERY.setdefault(_mutant.kind, []).append(_mutant)
for _real in real_mutants():
    EVERY.setdefault(f"Run: {_real.kind}", []).append(_real)


def test_the_table_is_the_law() -> None:
    """The mutants are made of the rows of docs/lifecycle.md."""
    assert TABLE == {(row.source, row.event): row.target for row in ROWS}


def test_nothing_is_found_in_what_is_right() -> None:
    """The unmutated class and `Run` pass the whole suite, the conformance kit too."""
    with UNMUTATED.written() as written:
        assert [] == list(caught_by(written))
    assert [] == list(caught_by(REAL))
    assert check_conformance(InMemoryAdapter(), race_rounds=0).conforms


def test_there_is_a_mutant_for_every_row() -> None:
    """19 rows removed, 62 added, each row redirected to each of the 8 other statuses."""
    counts = Counter({kind: len(found) for kind, found in EVERY.items()})
    assert (19, 62, 62 * 8, 19 * 8) == (
        counts["row removed"],
        counts["row added"],
        counts["row added, to another status"],
        counts["row redirected"],
    )
    assert (19, 62, 9 * 8) == (
        counts["Run: source removed"],
        counts["Run: source added"],
        counts["Run: target replaced"],
    )
    for kind, found in EVERY.items():
        assert len(found) == len({mutant.name for mutant in found}), kind


@pytest.mark.slow
@pytest.mark.parametrize("kind", EVERY)
def test_the_assertions_catch_each(kind: str) -> None:
    """Each mutant fails `moves()`, `refusals()` or `walks()` with the assertions."""
    missed = []
    for mutant in EVERY[kind]:
        with mutant.written() as written:
            if not mutant.legal and next(caught_by(written, ASSERTIONS), None) is None:
                missed.append(mutant.name)
    assert [] == missed


@pytest.mark.slow
@pytest.mark.parametrize("kind", EVERY)
def test_the_conformance_kit_catches_each(kind: str) -> None:
    """Each mutant is found by the conformance kit alone."""
    judged = [mutant for mutant in EVERY[kind] if not mutant.legal]
    missed = []
    for mutant in random.Random(kind).sample(judged, min(len(judged), _OF_EACH_KIND)):
        with mutant.written() as written:
            if "conformance" not in caught_by(written, ["conformance"]):
                missed.append(mutant.name)
    assert [] == missed


def test_what_is_no_mistake() -> None:
    """Four mutants are legal: two that change nothing, and a waiting run cancelled at once, which the kit allows."""
    legal = [mutant for found in EVERY.values() for mutant in found if mutant.legal]
    assert 4 == len(legal)
    for _, alike in groupby(legal, lambda mutant: mutant.legal):
        for mutant in alike:
            with mutant.written() as written:
                assert "conformance" not in caught_by(written, ["conformance"]), mutant.name
