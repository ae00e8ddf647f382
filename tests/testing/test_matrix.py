"""The cells and the walks: the same as the table copied out by hand has them, under names that pytest keeps."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from runstate import RUN_LIFECYCLE, RunStatus, documented
from runstate.testing import Cell, Walk, cells, moves, refusals, walks
from tests.support.lifecycle import EVENTS, PAIRS, ROWS, STATUSES, TABLE, legal_paths

_LONGEST = 6


def ending(path: tuple[str, ...]) -> str:
    status = "queued"
    for event in path:
        status = TABLE[status, event]
    return status


# --- cells ------------------------------------------------------------------------------------------------------------


def test_all_cells() -> None:
    """There are 81, in the order of the statuses and then of the events, each with where it leads or None."""
    assert PAIRS == tuple((cell.status, cell.event) for cell in cells())
    assert [TABLE.get(pair) for pair in PAIRS] == [cell.target for cell in cells()]


def test_moves_and_refusals_share_out_the_cells() -> None:
    """The 19 moves and the 62 refusals are all the cells, each in their order."""
    assert (19, 62) == (len(moves()), len(refusals()))
    assert [pair for pair in PAIRS if pair in TABLE] == [(cell.status, cell.event) for cell in moves()]
    assert [pair for pair in PAIRS if pair not in TABLE] == [(cell.status, cell.event) for cell in refusals()]
    assert set(cells()) == {*moves(), *refusals()}


def test_cells_of_a_part_of_the_law() -> None:
    """By the documented law 11 of the cells lead somewhere."""
    expected = {(source, event): target for event, source, target, basis in ROWS if basis == "documented"}
    assert expected == {(cell.status, cell.event): cell.target for cell in moves(documented())}
    assert 81 - len(expected) == len(refusals(documented()))
    assert 81 == len(cells(documented()))


@pytest.mark.parametrize("cell", cells())
def test_a_cell_speaks(cell: Cell) -> None:
    """As text it says what is asked where, and where that leads."""
    target = TABLE.get((cell.status, cell.event))
    told = f"{cell.status} refuses {cell.event}" if target is None else f"{cell.status} -> {cell.event} -> {target}"
    assert told == str(cell)
    assert f"{cell.status}-{cell.event}" == cell.__name__


def test_a_cell_is_a_value() -> None:
    """Equal cells are equal, hash alike, and come back from copies and pickles; none can be changed."""
    assert cells() == cells()
    assert 81 == len(set(cells()) | set(cells()))
    assert cells() == pickle.loads(pickle.dumps(cells())) == copy.deepcopy(cells())
    with pytest.raises(AttributeError):
        cells()[0].target = None  # type: ignore[misc]


# --- walks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("longest", range(_LONGEST + 1))
def test_all_walks(longest: int) -> None:
    """Up to a length they are all legal paths, each once, shorter ones first."""
    found = [walk.events for walk in walks(longest)]
    assert sorted(legal_paths(longest)) == sorted(found)
    assert len(set(found)) == len(found)
    assert sorted(map(len, found)) == [len(events) for events in found]


def test_six_events_are_the_usual() -> None:
    """Without a length walks have up to six events."""
    assert walks(6) == walks()


@pytest.mark.parametrize("walk", walks(_LONGEST))
def test_a_walk(walk: Walk) -> None:
    """It knows where it stands before and after each event, its steps as cells, and its end."""
    stood = tuple(ending(walk.events[:length]) for length in range(len(walk.events) + 1))
    assert stood == walk.statuses
    assert stood[-1] == walk.end
    assert set(walk.steps) <= set(moves())
    assert [*zip(stood, walk.events, stood[1:], strict=False)] == [(s.status, s.event, s.target) for s in walk.steps]
    assert ("-".join(walk.events) or "creation") == walk.__name__


def test_walks_go_everywhere() -> None:
    """Six events are enough for all 19 moves, all nine statuses, and a second round of tools."""
    steps = {(step.status, step.event) for walk in walks() for step in walk.steps}
    assert set(TABLE) == steps
    assert set(STATUSES) == {walk.end for walk in walks()}
    assert any(2 == walk.events.count(RUN_LIFECYCLE.events[0]) for walk in walks())


def test_walks_of_a_part_of_the_law() -> None:
    """By the documented law no walk cancels what waits."""
    found = walks(4, documented())
    assert {(step.status, step.event) for walk in found for step in walk.steps} <= {
        (source, event) for event, source, _, basis in ROWS if basis == "documented"
    }
    assert set(walks(4)) > set(found)


# --- what pytest calls them -------------------------------------------------------------------------------------------

_FILE = """
import pytest
from runstate.testing import cells, walks

@pytest.mark.parametrize("cell", cells())
def test_cells(cell): ...

@pytest.mark.parametrize("walk", walks(max_events=6))
def test_walks(walk): ...

@pytest.mark.parametrize("walk", walks(2))
@pytest.mark.parametrize("cell", cells()[:2])
def test_both(cell, walk): ...
"""


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What pytest collects from a file of a user's, by a process of its own."""
    home = tmp_path_factory.mktemp("user")
    (home / "test_user.py").write_text(_FILE, encoding="utf-8")
    (home / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    options = ["-q", "--collect-only", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(home)],
        capture_output=True,
        text=True,
        check=True,
        cwd=home,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""},
        timeout=120,
    )
    return [line.partition("::")[2] for line in done.stdout.splitlines() if "::" in line]


@pytest.mark.slow
def test_ids_of_cells(collected: list[str]) -> None:
    """A cell's id is its status and event: `test_cells[completed-fail]`."""
    expected = [f"test_cells[{status}-{event}]" for status in STATUSES for event in EVENTS]
    assert expected == [name for name in collected if name.startswith("test_cells")]


def test_ids_of_walks(collected: list[str]) -> None:
    """A walk's id is its events, of the empty one `creation`."""
    expected = {f"test_walks[{'-'.join(path) or 'creation'}]" for path in legal_paths(6)}
    found = [name for name in collected if name.startswith("test_walks")]
    assert expected == set(found)
    assert len(expected) == len(found)
    assert "test_walks[creation]" == found[0]


def test_ids_of_both(collected: list[str]) -> None:
    """Two at once stand one after the other."""
    assert "test_both[queued-start-request_cancel-confirm_cancel]" in collected


def test_a_status_is_a_member() -> None:
    """What a cell holds are members, which a `match` or an `is` can ask for."""
    assert cells()[0].status is RunStatus.QUEUED
