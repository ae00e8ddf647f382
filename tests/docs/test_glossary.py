"""The glossary names what is in the code, and nothing else."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

import runstate
from tests.support.source_names import identifiers

ROOT = Path(runstate.__file__).parent
PAGE = ROOT.parent / "docs" / "glossary.md"
ROWS = [
    line.strip("| ").split(" | ")
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith(("| term", "| ---"))
]
NAMES = [(row[0], name) for row in ROWS for name in re.findall(r"`([^`]+)`", row[2])]


@pytest.mark.parametrize(("term", "name"), NAMES, ids=[f"{term}: {name}" for term, name in NAMES])
def test_a_name_of_the_glossary_is_in_the_code(term: str, name: str) -> None:
    """Each name of the last column is defined in the library; a package can be imported, an option is of pytest's."""
    if name.startswith("runstate."):
        assert import_module(name).__doc__
    elif name.startswith("--"):
        assert name in (ROOT.parent / "_runstate_pytest.py").read_text(encoding="utf-8")
    else:
        assert name in identifiers(), term


def test_each_term_is_explained_once() -> None:
    """No term has two rows, and every row says what the term means and where it is in the code."""
    terms = [row[0] for row in ROWS]
    assert len(terms) == len(set(terms))
    assert all(len(row) == 3 and row[1].endswith(".") and "`" in row[2] for row in ROWS), ROWS
