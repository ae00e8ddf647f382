"""The settings of the documentation site: `make docs` builds it with Sphinx."""

from __future__ import annotations

import os
import re
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT: Final = Path(__file__).parents[1]

project = "runstate"
author = "the runstate contributors"
version = release = version_of("runstate")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_click", "sphinx_copybutton"]
exclude_patterns = ["_build"]
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "deflist"]
suppress_warnings = ["misc.highlighting_failure"]  # of PostgreSQL's $$ in SQL
nitpicky = False  # names of other libraries stand in docstrings too
html_theme = "furo"
html_title = "runstate"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_search_scorer = str(ROOT / "docs" / "_static" / "search_scorer.js")  # a name alone is taken in the current folder
html_show_sourcelink = False
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True

# Names in docstrings stand in single backquotes. They become links where the name is documented.
default_role = "py:obj"
autodoc_default_options = {
    "members": True,
    "exclude-members": "object",  # the field of a run, which a link would take for the type
    "inherited-members": "object, Exception, BaseException, Enum, StrEnum, IntEnum, int, str, tuple, Sequence, Mapping",
}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100

# Files of the repository that are pages of the site. A page of that name says where its text comes from.
PAGES_OF_FILES: Final = {
    "project/changelog": "CHANGELOG.md",
    "project/security": "SECURITY.md",
    "project/contributing": "CONTRIBUTING.md",
    "project/benchmarks": "BENCHMARKS.md",
}
MADE_BY_THE_LIBRARY: Final = frozenset(
    {"runstate.store.Store", "runstate.store.AsyncStore", "runstate.worker.Context", "runstate.worker.Outcome"}
)
_LINK: Final = re.compile(r"\]\((?!\w+:|#)([^)#\s]*)(#[^)\s]*)?\)")


def page_of(file: str) -> str | None:
    """Return the page of the site that shows a file of the repository; None if there is none.

    >>> page_of("SECURITY.md"), page_of("docs/worker.md"), page_of("examples/with_dbos.py"), page_of("LICENSE")
    ('project/security', 'worker', 'examples', None)
    """
    for page, name in PAGES_OF_FILES.items():
        if file == name:
            return page
    if file == "README.md":
        return "index"
    if file.startswith("docs/") and file.endswith(".md"):
        return file.removeprefix("docs/").removesuffix(".md")
    return "examples" if file.startswith("examples/") else None


def with_links_to_pages(text: str, folder: Path, page: str) -> str:
    """Return the text of a file in a folder of the repository, with its links leading to pages of the site."""
    here = Path(page).parent

    def lead(match: re.Match[str]) -> str:
        file = os.path.normpath(folder / match[1])
        target = page_of(file)
        if target is None and file.startswith("docs/"):  # a picture
            return f"]({os.path.relpath(file, 'docs' / here)})"
        if target is None:
            return "]"  # a file that is no page: its name stays, as text in brackets
        example = Path(file).parent if file.endswith("README.md") else Path(file)
        anchor = f"#{example.stem}" if target == "examples" else match[2] or ""
        return f"]({os.path.relpath(target, here)}.md{anchor})"

    return _LINK.sub(lead, text)


def _read(_: Sphinx, page: str, source: list[str]) -> None:
    """Put in the text of a file, and lead all links to pages."""
    file = PAGES_OF_FILES.get(page)
    text = source[0] if file is None else (ROOT / file).read_text(encoding="utf-8")
    source[0] = with_links_to_pages(text, "docs" / Path(page).parent if file is None else Path(), page)


def _mark_code(_: Sphinx, __: str, ___: str, ____: object, _____: object, lines: list[str]) -> None:
    """Mark the indented blocks of a docstring as code."""
    marked: list[str] = []
    is_code = False
    for line in lines:
        if line.strip():
            begins = line.startswith("    ") and not is_code and (not marked or not marked[-1].strip())
            before = next((other for other in reversed(marked) if other.strip()), "")
            if begins and not before.startswith("    ") and not before.startswith((":", "- ", "..")):
                marked += ["::", ""]
            is_code = line.startswith("    ")
        marked.append(line)
    lines[:] = marked


def _hide_signature(_: Sphinx, __: str, name: str, *more: object) -> tuple[str, str] | None:
    """Show no arguments of classes that callers do not make."""
    return ("", "") if name in MADE_BY_THE_LIBRARY else None


def _write_llms_txt(app: Sphinx, error: Exception | None) -> None:
    """Write llms.txt: a line for each page, with its title and its first sentence."""
    if error is not None or app.builder.format != "html":
        return
    lines = ["# runstate", "", "> The lifecycle of runs of the Assistants API, in memory, SQLite and PostgreSQL.", ""]
    for page in sorted(app.env.found_docs):
        text = app.env.get_doctree(page)
        first = next((one.astext() for one in text.findall(lambda node: node.tagname == "paragraph")), "")
        sentence = re.split(r"(?<=[.!?])\s", " ".join(first.split()))[0]
        lines.append(f"- [{app.env.titles[page].astext()}]({app.builder.get_target_uri(page)}): {sentence}")
    Path(app.outdir, "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Connect what this file adds to Sphinx."""
    app.connect("source-read", _read)
    app.connect("autodoc-process-docstring", _mark_code)
    app.connect("autodoc-process-signature", _hide_signature)
    app.connect("build-finished", _write_llms_txt)
