"""The documentation site builds without a warning, and everything that is public is on it, once."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import pytest

import runstate
from tests.docs.test_readme import ROOT

DOCS: Final = ROOT / "docs"
API: Final = {
    match[1]: page
    for page in sorted((DOCS / "reference" / "api").glob("*.md"))
    for match in re.finditer(r"automodule:: (\S+)", page.read_text(encoding="utf-8"))
}
QUESTIONS: Final = {
    "thread already active run": "faq",
    "stuck cancelling": "faq",
    "executed exactly once": "faq",
    "run stay queued": "faq",
    "retry failed run": "faq",
    "retry backoff": "how-to/retry-a-model-call",
    "rate limit": "how-to/retry-a-model-call",
    "grant role permission": "how-to/permissions",
    "kubernetes probe": "how-to/deploy",
    "pgbouncer transaction": "how-to/pgbouncer",
    "prune old runs": "how-to/retention",
    "sqlalchemy session": "how-to/sqlalchemy",
    "server sent events": "how-to/stream-to-clients",
}
"""What users ask for, and the page that answers. All words of a question must be on the page."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the built site."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "-q", "-b", "html"]
    # Under coverage the build takes nearly twice as long.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run([*command, DOCS, out], capture_output=True, text=True, timeout=300, check=False, env=env)
    assert 0 == done.returncode, done.stderr
    return out


def documented(site: Path) -> set[str]:
    """Return the names that have an entry on the site."""
    pages = (site / "reference" / "api").glob("*.html")
    return {name for page in pages for name in re.findall(r'<dt [^>]*id="(runstate\.[\w.]+)"', page.read_text())}


def search_index(site: Path) -> Any:
    text = (site / "searchindex.js").read_text(encoding="utf-8")
    return json.loads(text.removeprefix("Search.setIndex(").removesuffix(")"))


@pytest.mark.slow
@pytest.mark.parametrize("module", sorted(API))
def test_every_public_name_is_documented(module: str, site: Path) -> None:
    """At its package."""
    names = getattr(import_module(module), "__all__", ()) if not module.endswith("django") else ()
    assert [name for name in names if f"{module}.{name}" not in documented(site)] == []


@pytest.mark.slow
def test_the_methods_of_a_store_and_of_a_context_are_documented(site: Path) -> None:
    """Also those that they inherit; and not those that the worker alone calls."""
    found = documented(site)
    assert {f"runstate.store.Store.{name}" for name in ("create", "claim", "repeat", "pause", "within")} <= found
    assert {f"runstate.worker.Context.{name}" for name in ("complete", "retry", "step", "emit")} <= found
    assert "runstate.worker.Context.settle_error" not in found


def test_every_usual_name_has_one_home() -> None:
    """`from runstate import ...` has no name that is not on the page of a package."""
    homes = [import_module(module) for module in API if "." in module and "integrations" not in module]
    for name in runstate.__all__:
        assert 1 == sum(name in getattr(home, "__all__", ()) for home in homes), name


@pytest.mark.slow
@pytest.mark.parametrize(("question", "page"), QUESTIONS.items(), ids=QUESTIONS)
def test_a_question_of_a_user_finds_its_page_by_the_search(question: str, page: str, site: Path) -> None:
    """The index of the search has all the words at the page."""
    from snowballstemmer import stemmer  # type: ignore[import-untyped]

    index = search_index(site)
    number = index["docnames"].index(page)
    for word in stemmer("english").stemWords(question.lower().split()):
        places = [terms.get(word, []) for terms in (index["terms"], index["titleterms"])]
        pages = {place for each in places for place in (each if isinstance(each, list) else [each])}
        assert number in pages, word


@pytest.mark.slow
def test_the_search_lists_answers_first(site: Path) -> None:
    """Sphinx puts the scorer into language_data.js, which replaces that of searchtools.js. Its numbers are the same."""
    scorer = (DOCS / "_static" / "search_scorer.js").read_text(encoding="utf-8").strip()
    search = (site / "_static" / "searchtools.js").read_text(encoding="utf-8")
    assert scorer in (site / "_static" / "language_data.js").read_text(encoding="utf-8")
    assert "Scorer.score(item)" in search
    page = (site / "search.html").read_text(encoding="utf-8")
    assert page.index("/searchtools.js") < page.index("/language_data.js")
    number = re.compile(r"\b([A-Za-z]+|\d): (-?\d+),?")
    numbers = dict(number.findall(search.partition("var Scorer = {")[2].partition("\n  };")[0]))
    assert {"objNameMatch", "0", "1", "2", "title", "term"} <= numbers.keys()
    assert numbers == dict(number.findall(scorer[scorer.index("objNameMatch") :]))


@pytest.mark.slow
def test_every_page_is_in_the_navigation_and_in_llms_txt(site: Path) -> None:
    """A page that no list names would not be found."""
    sources = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.glob("**/*.md")}
    sources = {source for source in sources if not source.startswith("_build")}
    told = (site / "llms.txt").read_text(encoding="utf-8")
    assert [source for source in sorted(sources) if f"({source}.html)" not in told] == []
    first = (site / "index.html").read_text(encoding="utf-8")
    assert [source for source in sorted(sources - {"index"}) if f'href="{source}.html"' not in first] == []
