"""The tutorial, followed from its beginning to its end by one shell: its files, its commands, and what they print."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.docs.test_readme import ROOT

TUTORIAL: Final = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
FILES: Final = re.findall(r"^```{code-block} python\n:caption: (\S+)\n\n(.*?)^```", TUTORIAL, re.M | re.S)
CONSOLE: Final = re.findall(r"^```console\n(.*?)^```", TUTORIAL, re.M | re.S)
_END: Final = "--- the command has ended ---"


def commands() -> list[tuple[str, list[str]]]:
    """Return the commands of the tutorial, each with the lines that it prints."""
    found: list[tuple[str, list[str]]] = []
    for line in "".join(CONSOLE).splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


def agrees(shown: list[str], printed: list[str]) -> bool:
    """Return whether lines were printed as they are shown: `...` stands for anything, and blanks do not count."""
    pattern = r"\s*\n\s*".join(
        ".*".join(r"\s+".join(re.escape(word) for word in part.split()) for part in re.split(r"\s*\.\.\.\s*", line))
        for line in shown
        if line.strip()
    )
    return re.fullmatch(pattern, "\n".join(line for line in printed if line.strip()).strip(), re.DOTALL) is not None


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """Return what each command prints, in an empty folder with the files of the tutorial."""
    folder = tmp_path_factory.mktemp("tutorial")
    for name, text in FILES:
        (folder / name).write_text(text, encoding="utf-8")
    script = "\n".join(f"{command}\necho '{_END}'" for command, _ in commands())
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(folder), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert 0 == done.returncode, done.stdout
    return [part.splitlines() for part in done.stdout.split(f"{_END}\n")[:-1]]


@pytest.mark.slow
def test_each_command_prints_what_the_tutorial_shows(printed: list[list[str]]) -> None:
    """From `migrate` to the tests of the handler, with a worker that is killed on the way."""
    assert len(printed) == len(commands()) > 12
    for (command, shown), lines in zip(commands(), printed, strict=True):
        mine = [line for line in lines if "worker_1 has started" not in line and "Killed" not in line]
        assert agrees(shown, mine), "\n".join([command, *lines])


def test_a_difference_is_noticed() -> None:
    """What `...` stands for is free, and nothing else is."""
    assert agrees(["run ... is queued", "", "..."], ["run run_1  is queued", "more", "and more"])
    assert not agrees(["run ... is queued"], ["run run_1 is completed"])
    assert not agrees(["run_1"], ["run_1", "and more"])
