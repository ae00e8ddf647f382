"""Transition coverage of a pytest session: it collects in every process that runs tests, and reports in one.

The plugin loads this module only if an option turns coverage on.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest

from runstate.testing.coverage._collector import Collector
from runstate.testing.coverage._data import CoverageData
from runstate.testing.coverage._lanes import covered_lanes
from runstate.testing.coverage._reports import as_html, as_json, as_text

__all__ = ["CoverageSession", "ReportOption"]

ReportOption: TypeAlias = tuple[str, str]
"""A kind of report (term, lanes, html, json) and the path of its file; "" for the terminal or the default path."""

_FILES: Final = {"html": "runstate-cov.html", "json": "runstate-cov.json"}
_OUTPUT: Final = "runstate_cov"
_STARTS_A_PROCESS: Final = frozenset(
    {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.exec", "os.system"}
)


class CoverageSession:
    """The pytest hooks of a session with coverage; under pytest-xdist one in each worker, and one that gathers."""

    def __init__(
        self,
        config: pytest.Config,
        reports: list[ReportOption],
        fail_under: float,
        counts: Callable[[pytest.Item], bool],
    ) -> None:
        self.config = config
        self.counts = counts
        self.reports = reports
        self.fail_under = fail_under
        self.collector: Collector = Collector()
        self.workers: set[str] = set()
        self.tests_with_subprocesses: set[str] = set()
        """The tests that started another process, in which nothing is counted."""
        self.failed: str = ""
        self._listening = False

    @property
    def is_worker(self) -> bool:
        """Whether another process gathers the counts of this one."""
        return hasattr(self.config, "workerinput")

    # --- collecting -----------------------------------------------------------------------------------------------

    def pytest_sessionstart(self) -> None:
        """Start counting."""
        self.collector.start()
        self._listening = True
        sys.addaudithook(self._note_subprocess)  # a hook cannot be removed, so a flag turns it off

    def _note_subprocess(self, event: str, _: tuple[Any, ...]) -> None:
        if self._listening and event in _STARTS_A_PROCESS and self.collector.test:
            self.tests_with_subprocesses.add(self.collector.test)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Count events for this test, unless its marker says that it does not count."""
        self.collector.test = item.nodeid if self.counts(item) else None
        try:
            return (yield)
        finally:
            self.collector.test = ""

    def pytest_unconfigure(self) -> None:
        """Stop counting, also if the session ended before it began."""
        self.collector.stop()

    # --- gathering ------------------------------------------------------------------------------------------------

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Remember a worker until its counts arrive."""
        self.workers.add(node.gateway.id)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Add the counts of a worker."""
        output = getattr(node, "workeroutput", {}).get(_OUTPUT)
        if output is None:
            return
        self.workers.discard(node.gateway.id)
        self.collector.data.add(CoverageData.from_list(output["counts"]))
        self.tests_with_subprocesses |= set(output["tests_with_subprocesses"])

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Send the counts to the gathering process, or write the reports and check the total."""
        self._listening = False
        self.collector.stop()
        data = self.collector.data
        if self.is_worker:
            output = {"counts": data.to_list(), "tests_with_subprocesses": sorted(self.tests_with_subprocesses)}
            self.config.workeroutput[_OUTPUT] = output  # type: ignore[attr-defined]
            return
        if self.config.option.collectonly:
            return
        for kind, path in self.reports:
            if kind in _FILES:
                text = as_html(data, self._remarks()) if kind == "html" else as_json(data, self._remarks())
                self._file(kind, path).write_text(text, encoding="utf-8")
        total = data.tally()
        if total.percent < self.fail_under:
            self.failed = f"transition coverage of {self.fail_under:g} % was asked for, and {total} was reached"
            if session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _file(self, kind: str, path: str) -> Path:
        file = self.config.invocation_params.dir / (path or _FILES[kind])
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    def _remarks(self) -> list[str]:
        """Return notes on what the counts do not include."""
        remarks: list[str] = []
        if self.workers:
            remarks.append(
                f"what {', '.join(sorted(self.workers))} counted is missing: the worker ended without a word"
            )
        if self.tests_with_subprocesses:
            some = sorted(self.tests_with_subprocesses)
            more = f" and {len(some) - 3} more" if len(some) > 3 else ""
            started = f"{', '.join(some[:3])}{more} started other processes"
            remarks.append(f"{started}: what runs were asked there is not seen from here, and not counted")
        return remarks

    # --- reporting ------------------------------------------------------------------------------------------------

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Write the reports for the terminal, and the paths of the others."""
        if self.is_worker or self.config.option.collectonly:
            return
        say = terminalreporter
        say.section("transition coverage", sep="-")
        data = self.collector.data
        for kind, path in self.reports:
            if kind == "term":
                say.line(as_text(data))
            elif kind == "lanes":
                width = shutil.get_terminal_size().columns
                ascii_only = "utf" not in (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
                say.line(covered_lanes(data, width=width, color=say.hasmarkup, ascii_only=ascii_only))
            else:
                say.line(f"{kind} report: {os.path.relpath(self._file(kind, path))}")
        for remark in self._remarks():
            say.line(f"note: {remark}", yellow=True)
        if self.failed:
            say.line(f"FAIL: {self.failed}", red=True, bold=True)
