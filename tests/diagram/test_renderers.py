"""The model and the other renderers: SVG, Mermaid, DOT, Markdown, and the README's blocks."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from runstate.diagram import FORMATS, Format, RunPosition, draw
from runstate.diagram.model import DiagramModel
from runstate.diagram.palette import DARK, LIGHT, RoleColors
from runstate.diagram.readme import main, refresh
from runstate.lifecycle import RUN_LIFECYCLE, TRANSITIONS, Basis, Lifecycle, RunEvent, RunStatus, Transition, documented

NOON = 1_699_963_200
AT_WORK = RunPosition(
    RunStatus.IN_PROGRESS, {"created_at": NOON, "started_at": NOON + 3, "expires_at": NOON + 600}, "run_1"
)
SVG = "{http://www.w3.org/2000/svg}"
LOOP = Lifecycle((Transition(RunEvent.FAIL, RunStatus.FAILED, RunStatus.FAILED, None, Basis.ALLOWED),))


def test_live_columns_come_first() -> None:
    """The columns stand in the order of a life: live, then terminal, each group as RunStatus has it."""
    assert list(RunStatus) == [column.status for column in DiagramModel.of(RUN_LIFECYCLE).columns]


def test_a_status_nobody_mentions_has_no_column() -> None:
    """A small law has few columns, unless the run stands where no row is."""
    assert [(RunStatus.FAILED,), (RunStatus.FAILED, RunStatus.EXPIRED)] == [
        tuple(column.status for column in DiagramModel.of(LOOP, position).columns)
        for position in (None, RunPosition(RunStatus.EXPIRED))
    ]


def test_sentences() -> None:
    """Each lane can be read aloud."""
    assert [
        "start: from queued to in_progress",
        "require_action: from in_progress to requires_action",
        "submit_tool_outputs: from requires_action to queued",
        "request_cancel: from queued, in_progress or requires_action to cancelling",
        "confirm_cancel: from cancelling to cancelled",
        "complete: from in_progress or cancelling to completed",
        "mark_incomplete: from in_progress or cancelling to incomplete",
        "fail: from queued, in_progress, requires_action or cancelling to failed",
        "expire: from queued, in_progress, requires_action or cancelling to expired",
    ] == [lane.sentence for lane in DiagramModel.of(RUN_LIFECYCLE).lanes]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("position", [None, AT_WORK])
def test_the_same_again(form: Format, position: RunPosition | None) -> None:
    """A picture depends on its arguments alone, also when the rows come in another order."""
    backwards = Lifecycle(TRANSITIONS[::-1])
    again = draw(backwards, form, position)
    if form == "table":  # its evidence keeps the order of the columns, too
        assert sorted(draw(RUN_LIFECYCLE, form, position)) == sorted(again)
    assert draw(RUN_LIFECYCLE, form, position) == again


def test_an_unknown_format_is_named() -> None:
    """The refusal names what was asked and what there is."""
    with pytest.raises(
        ValueError, match=r"'png' is no format; a picture can be drawn as lanes, ascii, svg, mermaid, dot, table"
    ):
        draw(format="png")  # type: ignore[arg-type]


@pytest.mark.parametrize("lifecycle", [RUN_LIFECYCLE, documented(), LOOP, Lifecycle(())])
@pytest.mark.parametrize("position", [None, AT_WORK])
def test_svg_is_well_formed(lifecycle: Lifecycle, position: RunPosition | None) -> None:
    """An SVG is XML with a title, a description, and a sentence a lane; nothing outside it is needed."""
    root = ElementTree.fromstring(draw(lifecycle, "svg", position))
    titles = [node.text for node in root.iter(f"{SVG}title")]
    assert (f"{SVG}svg", "img") == (root.tag, root.get("role"))
    assert [f"{SVG}title", f"{SVG}desc"] == [node.tag for node in root][:2]
    assert {lane.sentence for lane in DiagramModel.of(lifecycle).lanes} <= set(titles)
    assert ["http://www.w3.org/2000/svg"] == re.findall(r"https?://[^\"]+", draw(lifecycle, "svg", position))


def test_svg_of_a_run() -> None:
    """One box is solid, times stand under the names, and three lanes are dim."""
    svg = draw(RUN_LIFECYCLE, "svg", AT_WORK)
    assert ["in_progress"] == re.findall(r'class="status \w+ here"><title>(\w+):', svg)
    assert ["12:00:00", "12:00:03", "12:10:00"] == re.findall(r"\d\d:\d\d:\d\d", svg)
    assert ["start", "submit_tool_outputs", "confirm_cancel"] == re.findall(r' dim"><title>(\w+):', svg)
    assert 6 == len(re.findall(r' askable"><title>', svg))


@pytest.mark.parametrize(
    "name", ["</title><script>alert(1)</script>", "a&b\"'", "\x00\x1b\ud800\ufffe\u202e", "]]>", "x" * 500]
)
def test_hostile_names_stay_text(name: str) -> None:
    """Whatever a run is called, the SVG is well formed and has no more elements than another."""
    hostile = ElementTree.fromstring(draw(RUN_LIFECYCLE, "svg", RunPosition(RunStatus.QUEUED, run_id=name)))
    tame = ElementTree.fromstring(draw(RUN_LIFECYCLE, "svg", RunPosition(RunStatus.QUEUED)))
    assert [node.tag for node in tame.iter()] == [node.tag for node in hostile.iter()]


def _brightness(color: str) -> float:
    full = color if len(color) == 7 else "#" + "".join(c * 2 for c in color[1:])
    channels = [int(full[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    dark, light = sorted((_brightness(one), _brightness(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(
    ("paint", "paper"), [(p, "#fff") for p in LIGHT.values()] + [(p, "#0d1117") for p in DARK.values()]
)
def test_names_can_be_read(paint: RoleColors, paper: str) -> None:
    """Text on its box, and the paper's colour on a solid box, have a contrast above 4.5 : 1."""
    assert _contrast(paint.text, paint.fill) > 4.5
    assert _contrast(paper, paint.current_fill) > 4.5


@pytest.mark.parametrize("lifecycle", [RUN_LIFECYCLE, documented(), LOOP])
def test_mermaid_has_every_move_once(lifecycle: Lifecycle) -> None:
    """Mermaid has one arrow a row, and besides only birth and the ends."""
    drawn = re.findall(r"^ +(\w+) --> (\w+): (\w+)$", draw(lifecycle, "mermaid"), re.MULTILINE)
    assert sorted((row.source, row.target, row.event) for row in lifecycle.transitions) == sorted(drawn)


def test_mermaid_declares_the_statuses_in_order() -> None:
    """The statuses come first, in the order of a life, then birth; ends lead out."""
    text = draw(format="mermaid")
    lines = [line.strip() for line in text.splitlines()]
    assert ["stateDiagram-v2", "direction LR", "accTitle: Run lifecycle", *RunStatus, "[*] --> queued"] == lines[:13]
    assert 5 == text.count("--> [*]")
    assert "note" not in text


def test_mermaid_marks_the_run() -> None:
    """The status of the run has a class of its own."""
    assert "class in_progress active" in draw(RUN_LIFECYCLE, "mermaid", AT_WORK)
    assert "active" not in draw(RUN_LIFECYCLE, "mermaid")


EDGE = re.compile(r'^ +(\w+) -> (\w+) \[label="(\w+)".*?( ltail=cluster_live,.*)?\]$', re.MULTILINE)


def test_dot_has_every_move_once() -> None:
    """DOT has one arrow a row; what every live status can be asked leaves the box once."""
    edges = EDGE.findall(draw(format="dot"))
    single = sorted((source, target, event) for source, target, event, box in edges if not box)
    boxed = [(target, event) for _, target, event, box in edges if box]
    live = [status for status in RunStatus if not RUN_LIFECYCLE.is_terminal(status)]
    assert [("failed", "fail"), ("expired", "expire")] == boxed
    unfolded = single + [(source, target, event) for target, event in boxed for source in live]
    assert sorted((row.source, row.target, row.event) for row in TRANSITIONS) == sorted(unfolded)
    assert 13 == len(edges)


@pytest.mark.parametrize("lifecycle", [documented(), LOOP, Lifecycle(())])
def test_dot_without_the_rule_draws_plain_arrows(lifecycle: Lifecycle) -> None:
    """Where not every live status has the event, each move is an arrow of its own."""
    edges = EDGE.findall(draw(lifecycle, "dot"))
    assert sorted((row.source, row.target, row.event, "") for row in lifecycle.transitions) == sorted(edges)


def test_dot_marks_the_run() -> None:
    """The box of the run is solid."""
    assert 'in_progress [fillcolor="#1967d2"' in draw(RUN_LIFECYCLE, "dot", AT_WORK)


def test_the_table() -> None:
    """The table tells each row once, in words; rows that share event and basis share a line."""
    lines = draw(format="table").splitlines()
    assert "| event | from | to | until | stamp | basis |" == lines[0]
    assert (
        "| `start` | `queued` | `in_progress` | the deadline | `started_at` | documented: seen 141 times |" == lines[2]
    )
    assert (
        "| `request_cancel` | `queued`, `requires_action` | `cancelling` |  |  | allowed: clients do it |" == lines[6]
    )
    assert ["start", "submit_tool_outputs"] == [line.split("`")[1] for line in lines if "| the deadline |" in line]
    told = [
        (event, source, target)
        for event, sources, target in re.findall(
            r"^\| `(\w+)` \| ([^|]+) \| `(\w+)` \|", "\n".join(lines[:16]), re.MULTILINE
        )
        for source in re.findall(r"\w+", sources)
    ]
    assert sorted((row.event, row.source, row.target) for row in TRANSITIONS) == sorted(told)


def test_the_table_of_statuses() -> None:
    """Each status says what it means, and whether it is live; a run is marked and its times told."""
    plain, marked = (
        draw(RUN_LIFECYCLE, "table", position).partition("\n\n")[2].splitlines() for position in (None, AT_WORK)
    )
    assert [f"| `{status}` | {status.meaning} " for status in RunStatus] == [
        "|".join(line.split("|")[:3]) for line in plain[2:]
    ]
    assert f"| **`in_progress`** ◀ | {RunStatus.IN_PROGRESS.meaning} | live | 12:00:03 |" == marked[3]


def test_evidence_cannot_break_the_table() -> None:
    """A bar or a line end in the evidence stays inside its cell; without evidence the basis stands alone."""
    rows = [
        Transition(RunEvent.FAIL, RunStatus.QUEUED, RunStatus.FAILED, None, Basis.ALLOWED, evidence)
        for evidence in ("a|b\nc", "")
    ]
    assert [
        r"| `fail` | `queued` | `failed` |  |  | allowed: a\|b c |",
        "| `fail` | `queued` | `failed` |  |  | allowed |",
    ] == [draw(Lifecycle((row,)), "table").splitlines()[2] for row in rows]


README = """\
# A title

<!-- runstate:table -->
<!-- /runstate:table -->
between
<!-- runstate:lanes -->
anything
<!-- /runstate:lanes -->
<!-- runstate:mermaid -->
<!-- /runstate:mermaid -->
the end
"""


def test_refresh_writes_the_blocks_and_nothing_else() -> None:
    """Each block holds its picture, the text around is as it was, and a second time changes nothing."""
    fresh = refresh(README)
    assert f"<!-- runstate:table -->\n{draw(format='table')}\n<!-- /runstate:table -->\nbetween" in fresh
    assert f"<!-- runstate:lanes -->\n```text\n{draw(width=88)}\n```\n<!-- /runstate:lanes -->" in fresh
    assert f"```mermaid\n{draw(format='mermaid')}\n```\n<!-- /runstate:mermaid -->\nthe end\n" in fresh
    assert fresh == refresh(fresh)
    assert "no block" == refresh("no block")


def test_refresh_refuses_half_a_block() -> None:
    """A block without an end, or with a name that no picture has, is named."""
    with pytest.raises(ValueError, match="has no <!-- /runstate:table --> after it"):
        refresh("<!-- runstate:table -->\n")
    with pytest.raises(ValueError, match="no picture is called 'cat'; there are table, lanes, mermaid"):
        refresh("<!-- runstate:cat -->\n<!-- /runstate:cat -->\n")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command rewrites a stale file; with --check it leaves it alone and answers 1."""
    readme = tmp_path / "README.md"
    readme.write_text(README, encoding="utf-8")
    assert 1 == main(["--check", str(readme)])
    assert README == readme.read_text(encoding="utf-8")
    assert "is stale; to refresh it: python -m runstate.diagram.readme" in capsys.readouterr().err
    assert 0 == main([str(readme)])
    assert refresh(README) == readme.read_text(encoding="utf-8")
    assert 0 == main(["--check", str(readme)])
    assert 0 == main([str(readme)])
    assert 2 == main(["--check"])
    assert "usage" in capsys.readouterr().err


def test_the_command_as_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m runstate.diagram.readme` hands the answer to the shell."""
    readme = tmp_path / "README.md"
    readme.write_text(README, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["readme", "--check", str(readme)])
    monkeypatch.delitem(sys.modules, "runstate.diagram.readme")
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("runstate.diagram.readme", run_name="__main__")
    assert 1 == ended.value.code


@pytest.mark.parametrize(
    ("given", "said"), [("mermaid", r"got str: write draw\(format='mermaid'\)"), ("run", "got str$"), (7, "got int$")]
)
def test_what_is_no_lifecycle(given: Any, said: str) -> None:
    """A format in the place of the lifecycle is noticed."""
    with pytest.raises(TypeError, match=f"lifecycle: expected a Lifecycle, {said}"):
        draw(given)
