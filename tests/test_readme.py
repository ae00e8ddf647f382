"""The README says what is so: its pictures are the law's, its code runs, its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runstate.diagram import draw
from runstate.diagram.readme import refresh
from runstate.recordings import inspect, snapshots

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_pictures_are_the_laws() -> None:
    """Drawing the table and the lanes again changes nothing: `make pictures` when this fails."""
    assert README == refresh(README)
    assert README.count("<!-- runstate:") == 2


def test_the_page_for_the_life_of_a_run_is_the_laws() -> None:
    """Its tables are drawn from the rows too: `make pictures` when this fails."""
    page = (ROOT / "docs" / "lifecycle.md").read_text(encoding="utf-8")
    assert page == refresh(page)


def test_the_drawn_file_is_the_laws() -> None:
    """The SVG beside the README is what the law draws: `make pictures` when this fails."""
    assert (ROOT / "docs" / "lanes.svg").read_text(encoding="utf-8") == draw(format="svg") + "\n"


def test_the_second_command_finds_nothing() -> None:
    """The recording that the README names is judged without a complaint."""
    with (ROOT / "examples" / "recorded.jsonl").open("rb") as file:
        report = inspect(snapshots(file))
    assert (8, []) == (len(report.run_ids), report.complaints)


def test_a_stale_picture_is_noticed() -> None:
    """A row changed by hand would not survive."""
    assert refresh(README.replace("`start` | `queued`", "`start` | `failed`")) == README


@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_the_code_runs_and_prints_what_it_says(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every block of Python runs by itself, and each `print(...)  # said` prints what the comment says."""
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    printed = capsys.readouterr().out.splitlines()
    said = [match[1] for match in re.finditer(r"^\s*print\(.*\)  # (.*)$", code, re.MULTILINE)]
    for line, expected in zip(printed, said, strict=True):
        if expected.startswith("27 keys"):
            continue  # about the value, not the value
        pattern = ".*".join(re.escape(part) for part in expected.split("..."))
        assert re.fullmatch(pattern, line), (expected, line)


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#:]+)\)", README))
def test_its_links_lead_to_files(target: str) -> None:
    """A link to a file of this repository finds it."""
    assert (ROOT / target).exists()
