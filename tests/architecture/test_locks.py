"""The lock files pin what pyproject.toml asks for: every package by version and hash, and no address of an index."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# What each lock installs: groups of pyproject.toml, and extras of the library. Only `lock` leaves the library out.
CONTENTS: dict[str, tuple[list[str], list[str]]] = {
    "demo": (["build"], ["cli"]),
    "test": (["test"], ["cli", "postgres", "pydantic-ai"]),
    "dev": (["dev"], ["cli", "postgres", "pydantic-ai"]),
    "bench": (["bench"], ["cli", "postgres", "pydantic-ai"]),
    "mutation": (["mutation"], ["cli", "postgres", "pydantic-ai"]),
    "lowest": (["test"], ["cli", "postgres", "pydantic-ai"]),
    "lock": (["lock"], []),
}


def pins(lock: Path) -> dict[str, tuple[str, set[str]]]:
    """Return the version and the hashes of each package that a lock names."""
    found: dict[str, tuple[str, set[str]]] = {}
    for entry in re.split(r"\n(?=\S)", lock.read_text(encoding="utf-8")):
        if entry.startswith("#"):
            continue
        match = re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==(\S+)", entry)
        assert match is not None, f"{lock.name}: {entry.splitlines()[0]} is not pinned"
        found[canonicalize_name(match[1])] = (str(match[2]), set(re.findall(r"--hash=sha256:([0-9a-f]{64})", entry)))
    return found


def group(name: str) -> Iterator[Requirement]:
    """Yield the requirements of a dependency group, included groups too."""
    for entry in PROJECT["dependency-groups"][name]:
        if isinstance(entry, str):
            yield Requirement(entry)
        else:
            yield from group(entry["include-group"])


def asked_for(lock: Path) -> Iterator[Requirement]:
    """Yield every requirement of pyproject.toml that a lock is made for."""
    groups, extras = CONTENTS[lock.stem]
    for name in groups:
        yield from group(name)
    if lock.stem != "lock":
        yield from map(Requirement, PROJECT["project"]["dependencies"])
    for extra in extras:
        yield from map(Requirement, PROJECT["project"]["optional-dependencies"][extra])


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_has_what_is_asked_for(lock: Path) -> None:
    """Each bound of pyproject.toml is met by a pin: `make lock` when this fails."""
    pinned = pins(lock)
    for requirement in asked_for(lock):
        version, _ = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} is pinned to {version}"


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_pin_has_hashes_and_no_address(lock: Path) -> None:
    """A package is the same files wherever it comes from."""
    assert set() == {name for name, (_, hashes) in pins(lock).items() if not hashes}
    assert "://" not in lock.read_text(encoding="utf-8")
    assert not re.search(r"^\s*-(?!-hash)", lock.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("name", ["demo", "test", "bench", "mutation"])
def test_one_version_in_every_environment(name: str) -> None:
    """Installing one lock over another changes no version, so that one virtual environment serves them all."""
    everywhere = pins(ROOT / "requirements" / "dev.txt")
    for package, pin in pins(ROOT / "requirements" / f"{name}.txt").items():
        assert everywhere.get(package, pin) == pin


def test_the_lowest_versions_are_the_promised_ones() -> None:
    """The lock of `make test-lowest` pins what users install to the lower bound of pyproject.toml, and only that."""
    lowest, newest = pins(ROOT / "requirements" / "lowest.txt"), pins(ROOT / "requirements" / "test.txt")
    project = PROJECT["project"]
    promised = [*project["dependencies"], *chain.from_iterable(project["optional-dependencies"].values())]
    for requirement in map(Requirement, promised):
        (bound,) = requirement.specifier
        version = lowest[canonicalize_name(requirement.name)][0]
        assert bound.operator == ">="
        assert version == bound.version or version == f"{bound.version}.0"
    users = {canonicalize_name(Requirement(text).name) for text in promised}
    users |= {canonicalize_name(name) for name in ("psycopg-binary", "pydantic-graph")}  # of the same versions
    ours = ("opentelemetry-sdk", "opentelemetry-semantic-conventions")  # of the same versions as their API
    users |= {canonicalize_name(name) for name in ours}
    changed = {name for name in lowest if lowest[name] != newest.get(name)}
    gives_way = {
        "celery",
        "fastapi",
        "google-api-core",
    }  # their newest releases need a newer click or opentelemetry-api
    needed = {"deprecated", "importlib-metadata", "zipp"}  # by the lowest opentelemetry-api alone
    assert users | gives_way | needed >= changed


def test_every_lock_is_known() -> None:
    """A lock that nothing says the contents of would not be checked."""
    assert set(CONTENTS) == {lock.stem for lock in LOCKS}
