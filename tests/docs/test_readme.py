"""The README and the pages beside it say what is so: pictures are the law's, code runs, links lead somewhere."""

from __future__ import annotations

import gc
import inspect
import re
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

import runstate.store
import runstate.store.doctor
import runstate.worker
from runstate.diagram import draw
from runstate.diagram.readme import refresh
from runstate.traces import check_snapshots as report_on
from runstate.traces import read_snapshots
from runstate.worker import Context, Worker

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LIFECYCLE = (ROOT / "docs" / "lifecycle.md").read_text(encoding="utf-8")
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md")))
BLOCKS = [
    pytest.param(code, id=f"{page.name}-{place}", marks=() if page.name == "README.md" else pytest.mark.slow)
    for page in PAGES
    for place, code in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S))
]
LINKS = [
    pytest.param(page.parent / target, id=f"{page.name}-{target}")
    for page in (*PAGES, ROOT / "CONTRIBUTING.md")
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
]


def test_the_pictures_are_the_laws() -> None:
    """Drawing the table and the lanes again changes nothing: `make pictures` when this fails."""
    assert LIFECYCLE == refresh(LIFECYCLE)
    assert LIFECYCLE.count("<!-- runstate:") == 2


def test_the_drawn_file_is_the_laws() -> None:
    """The SVG beside the README is what the law draws: `make pictures` when this fails."""
    assert (ROOT / "docs" / "lanes.svg").read_text(encoding="utf-8") == draw(format="svg") + "\n"


def test_the_second_command_finds_nothing() -> None:
    """The recording that the README names is judged without a complaint."""
    with (ROOT / "examples" / "recorded.jsonl").open("rb") as file:
        report = report_on(read_snapshots(file))
    assert (8, []) == (len(report.run_ids), report.findings)


def test_a_stale_picture_is_noticed() -> None:
    """A row changed by hand would not survive."""
    assert refresh(LIFECYCLE.replace("`start` | `queued`", "`start` | `failed`")) == LIFECYCLE


@pytest.mark.parametrize("code", BLOCKS)
def test_the_code_runs_and_prints_what_it_says(
    code: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every block of Python runs by itself, and each `print(...)  # said` prints what the comment says."""
    monkeypatch.chdir(tmp_path)  # where stores are made
    exec(compile(code, "a page", "exec"), {"__name__": "readme"})
    gc.collect()  # a connection that the page does not close is reported here, and not in another test
    printed = capsys.readouterr().out.splitlines()
    said = [match[1] for match in re.finditer(r"^\s*print\(.*\)  # (.*)$", code, re.MULTILINE)]
    for line, expected in zip(printed, said, strict=True):
        if expected.startswith("27 keys"):
            continue  # about the value, not the value
        pattern = ".*".join(re.escape(part) for part in expected.split("..."))
        assert re.fullmatch(pattern, line), (expected, line)


@pytest.mark.parametrize("module", [runstate.store, runstate.worker, runstate.store.doctor], ids=lambda m: m.__name__)
def test_the_examples_in_docstrings_run(module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a package's docstring shows runs with the names of that package."""
    monkeypatch.chdir(tmp_path)
    shown = textwrap.dedent("\n".join(re.findall(r"^ {4}.*$|^$", inspect.getdoc(module) or "", re.MULTILINE)))
    with runstate.store.open_store("sqlite:///given.db") as store:
        given = {**vars(module), "store": store, "Worker": Impatient}
        exec(compile(shown, f"the docstring of {module.__name__}", "exec"), given)


class Impatient(Worker):
    """Works until there is nothing to do, where an example works until SIGTERM."""

    def run(self, *, until_idle: bool = True) -> None:
        super().run(until_idle=True)


def section(page: str, heading: str) -> str:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return text.partition(f"{heading}\n")[2].partition("\n#")[0]


def test_the_settings_are_the_workers() -> None:
    """The page for the worker has every setting with its default."""
    told = re.findall(r"^\| `(\w+)` \| (.*?) \|", section("worker.md", "## Settings"), re.MULTILINE)
    given = list(inspect.signature(Worker).parameters.values())[2:]
    none = {"name": "host and process", "stall_timeout_s": "four leases"}
    defaults = {
        each.name: none.get(each.name, "`None`") if each.default is None else f"`{each.default}`" for each in given
    }
    assert {name: default.replace("'", '"') for name, default in defaults.items()} == dict(told)


@pytest.mark.parametrize("what", ["attributes", "methods", "outcomes"])
def test_the_context_is_on_the_page(what: str) -> None:
    """The page for the worker names nothing that a handler's context lacks."""
    names = re.findall(r"^\| `ctx\.(\w+)", section("worker.md", f"### Context: {what}"), re.MULTILINE)
    assert names
    assert [name for name in names if not hasattr(Context, name)] == []


@pytest.mark.parametrize("target", LINKS)
def test_links_lead_to_files(target: Path) -> None:
    """A link to a file of this repository finds it."""
    assert target.exists()
