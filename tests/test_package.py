"""The wheel and the sdist: what is in them, and whether they work in an environment that has nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LIMIT_S: Final = 300
_PROGRAM: Final = """
from runstate import Context, Worker, open_store

with open_store("sqlite:///runs.db") as store:
    run = store.create(thread_id="thread_1", assistant_id="asst_1", model="gpt-4o")
    Worker(store, lambda ctx: None).run(until_idle=True)
    print(store.get(run.id).status)
"""
_TEST: Final = """
from runstate.testing import assert_moves


def test_it_completes(make_run):
    assert_moves(make_run("in_progress"), "complete", to="completed")
"""


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert 0 == done.returncode, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a wheel and an sdist, built from a copy of the files of the repository."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    names = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "-m", "hatchling", "build", "-d", out, cwd=copy)
    return out


def wheel_files(folder: Path) -> set[str]:
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.mark.slow
def test_the_wheel_has_the_library_and_its_plugins_alone(built: Path) -> None:
    """Also the SQL of the migrations, and the mark that the library has types. No tests."""
    files = wheel_files(built)
    tops = {name.split("/")[0] for name in files}
    assert {"runstate", "_runstate_pytest.py", "_runstate_hypothesis.py"} == {
        top for top in tops if not top.endswith(".dist-info")
    }
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "runstate").rglob("*") if path.is_file()}
    package = {name for name in package if "__pycache__" not in name}
    assert package == {name for name in files if name.startswith("runstate/")}
    assert "runstate/py.typed" in files


@pytest.mark.slow
def test_the_sdist_builds_the_same_wheel(built: Path, tmp_path: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "again", cwd=folder)
    assert wheel_files(built) == wheel_files(tmp_path / "again")


@pytest.mark.slow
@pytest.mark.foreign
def test_the_wheel_works_in_an_empty_environment(built: Path, tmp_path: Path) -> None:
    """With what the lock of the demonstration has, and pytest: the first run, the command, and the plugin."""
    run(sys.executable, "-m", "venv", tmp_path / "env", cwd=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    install = (python, "-m", "pip", "install", "-q", "--no-deps")
    (wheel,) = built.glob("*.whl")
    tools = [f"{name}=={version(name)}" for name in ("pytest", "pluggy", "iniconfig", "packaging", "pygments")]
    run(*install, "--require-hashes", "-r", ROOT / "requirements" / "demo.txt", cwd=tmp_path)
    run(*install, wheel, *tools, cwd=tmp_path)
    work = tmp_path / "work"
    work.mkdir()
    assert "completed\n" == run(python, "-c", _PROGRAM, cwd=work)
    command = tmp_path / "env" / "bin" / "runstate"
    assert f"runstate, version {PROJECT['version']}\n" == run(command, "--version", cwd=work)
    assert "completed" in run(command, "--store", "sqlite:///runs.db", "runs", "list", cwd=work)
    (work / "test_it.py").write_text(_TEST, encoding="utf-8")
    assert "1 passed" in run(python, "-m", "pytest", "-q", "test_it.py", cwd=work)


def test_what_a_hint_installs_is_what_the_extra_installs() -> None:
    """An error that says `pip install` names packages of an index, with the bounds of pyproject.toml."""
    wanted = {requirement for extra in PROJECT["optional-dependencies"].values() for requirement in extra}
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "runstate").rglob("*.py")]
    hints = {name for text in sources for line in re.findall(r"pip install ('.*')", text) for name in line.split("'")}
    assert wanted - {"django>=4.2"} == {hint for hint in hints if hint.strip() and not hint.startswith('"')}


def test_no_page_installs_the_project_from_an_index() -> None:
    """It is on none. A package of its name there would be somebody else's."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    for page in pages:
        if "_build" not in page.parts:
            for installed in re.findall(r"pip install ([^`\n]*)", page.read_text(encoding="utf-8")):
                assert not re.search(r"(?<![\w/.-])runstate\b", installed), f"{page}: pip install {installed}"
