"""docs/conformance.md says what the conformance kit says.

That its code runs at all is seen where all pages are (test_readme).
"""

from __future__ import annotations

import importlib.util
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import pytest

from runstate.testing.conformance import ConformanceReport

PAGE: Final = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text(encoding="utf-8")
SHOWN: Final = re.findall(
    r"^```python\n((?:(?!^```).)*?)^```\n\n[^`]*(?:`[^`\n]+`[^`]*)*^```text\n(.*?)^```", PAGE, re.M | re.S
)
QUOTED: Final = re.findall(r"`(\w+)/([\w/]+\.py):(\d+)`:\s+`([^`]+)`", PAGE)
LIBRARIES: Final = {"a2a": "a2a-sdk", "celery": "celery", "openai_responses": "openai-responses"}


@pytest.mark.parametrize(("code", "said"), SHOWN)
def test_the_output_on_the_page_is_the_outcome(code: str, said: str) -> None:
    """A block of text after a block of Python is what its judgement says."""
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(code, "docs/conformance.md", "exec"), names)
    assert isinstance(names["report"], ConformanceReport)
    assert said == f"{names['report']}\n"


def test_there_is_such_a_block() -> None:
    """The page shows an outcome, and quotes sources of each library."""
    assert 1 == len(SHOWN)
    assert {*LIBRARIES} == {package for package, *_ in QUOTED}


@pytest.mark.parametrize(("package", "path", "line", "text"), QUOTED)
def test_quoted_lines_are_there(package: str, path: str, line: str, text: str) -> None:
    """What is quoted from a source stands on that line of the version that the page tells of."""
    library = LIBRARIES[package]
    try:
        installed = version(library)
    except PackageNotFoundError:
        pytest.skip(f"{library} is not installed")
    if f"| {library} {installed}, " not in PAGE:
        pytest.skip(f"the page tells of another version than {library} {installed}")
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    source = Path(spec.submodule_search_locations[0], path).read_text(encoding="utf-8").splitlines()
    assert text in source[int(line) - 1]
