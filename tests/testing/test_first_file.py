"""The first test file of a user, in an empty folder: install, a passing run as in README, a failing one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("\n## Assert rules in tests\n")[2].partition("\n## ")[0]
(CODE,) = re.findall(r"^```python\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)
PAGE = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
(FAILING, TOLD) = re.findall(
    r"^```py\n(def test_an_answer_completes_its_run.*?)^```\n\n```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL
)[0]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python of its own with the wheel of this checkout, and what it depends on as it is here: no index is asked."""
    home = tmp_path_factory.mktemp("installed")
    built = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(home / "dist")]
    subprocess.run(built, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = (home / "dist").glob("*.whl")
    venv.create(home / "venv", with_pip=False)
    python = home / "venv" / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-index", "--no-deps"]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True, timeout=120)
    (packages,) = (home / "venv" / "lib").glob("python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_paths()["purelib"])
    return python


def pytest_in(folder: Path, python: Path, *options: str) -> str:
    """Run pytest in a folder; return what it printed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV", "PYTHON"))}
    # Whatever lies above a temporary directory, and plugins that a user does not have and that take long to load.
    others = ("openai_responses", "respx", "anyio", "hypothesispytest", "pytest_cov", "xdist")
    alone = ["-c", os.devnull, f"--rootdir={folder}", *(f"-pno:{plugin}" for plugin in others)]
    command = [str(python), "-m", "pytest", "-p", "no:cacheprovider", *alone, *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False, env=clean)
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_readmes_first_test_file(tmp_path: Path, python: Path) -> None:
    """Twelve lines; they pass, and are counted. Changed as docs/testing.md shows, one fails with its message."""
    assert len([line for line in CODE.splitlines() if line]) <= 12
    file = tmp_path / "test_answers.py"
    file.write_text(CODE)
    told = pytest_in(tmp_path, python, "--runstate-cov")
    assert "2 passed" in told
    assert "total      2 of 81, 2 %" in told

    passing = CODE.partition("\n\n\n")[2].partition("\n\n\n")[0] + "\n"
    file.write_text(CODE.replace(passing, FAILING))
    told = pytest_in(tmp_path, python)
    assert "1 failed, 1 passed" in told
    assert TOLD in told
    assert "E         complete             ·     ○╌╌╌╌╌╌╌╌╌╌╌○╌╌╌╌╌╌╌▷     ·     ·     ·     ·" in told
    assert str(ROOT) not in told  # what ran was what was installed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ('make_run("finished")', "unknown status 'finished'; the nine are queued, in_progress,"),
        ('assert_moves(make_run("queued"), "finish")', "unknown event 'finish'; the nine are start, require_action,"),
        ('assert_moves(make_run("queued", store=run_store), "start")', "StoredRun has no method start(); a stored run"),
    ],
)
def test_mistakes_of_a_first_day(tmp_path: Path, python: Path, wrong: str, said: str) -> None:
    """A mistyped word, or a store forgotten, is told in a sentence."""
    text = f"from runstate.testing import assert_moves\n\ndef test_it(make_run, run_store):\n    {wrong}\n"
    (tmp_path / "test_it.py").write_text(text)
    told = pytest_in(tmp_path, python)
    assert "1 failed" in told
    assert said in told
