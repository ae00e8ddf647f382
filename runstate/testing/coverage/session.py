"""Transition coverage of one pytest session: watches in every process that runs tests, reports in one.

Loaded by the plugin where `--runstate-cov` is given, and not before.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest

from runstate.testing.coverage._collector import Watch
from runstate.testing.coverage._data import Exercised
from runstate.testing.coverage._lanes import covered_lanes
from runstate.testing.coverage._reports import as_html, as_json, as_text

__all__ = ["CoverageSession", "ReportOption"]

ReportOption: TypeAlias = tuple[str, str]
"""A kind of report (term, lanes, html, json) and the path of its file, "" for the terminal or the usual name."""

_FILES: Final = {"html": "runstate-cov.html", "json": "runstate-cov.json"}
_OUTPUT: Final = "runstate_cov"
_STARTS_A_PROCESS: Final = frozenset(
    {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.exec", "os.system"}
)


class CoverageSession:
    """The hooks of a session that counts; under pytest-xdist one in each worker, and one that gathers."""

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
        self.watch: Watch = Watch()
        self.workers: set[str] = set()
        self.elsewhere: set[str] = set()
        """The tests that started another process, in which nothing is seen."""
        self.failed: str = ""
        self._listening = False

    @property
    def is_worker(self) -> bool:
        """Whether another process gathers what this one counts."""
        return hasattr(self.config, "workerinput")

    # --- watching -------------------------------------------------------------------------------------------------

    def pytest_sessionstart(self) -> None:
        """Begin to watch."""
        self.watch.start()
        self._listening = True
        sys.addaudithook(self._hear)  # it cannot be taken back, so it is told when to listen

    def _hear(self, event: str, _: tuple[Any, ...]) -> None:
        if self._listening and event in _STARTS_A_PROCESS and self.watch.test:
            self.elsewhere.add(self.watch.test)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Let what is asked now be this test's, unless it is marked as one that does not count."""
        self.watch.test = item.nodeid if self.counts(item) else None
        try:
            return (yield)
        finally:
            self.watch.test = ""

    def pytest_unconfigure(self) -> None:
        """Stop watching, should the session have ended before it began."""
        self.watch.stop()

    # --- gathering ------------------------------------------------------------------------------------------------

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Remember a worker until it has told what it counted."""
        self.workers.add(node.gateway.id)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Take what a worker counted."""
        told = getattr(node, "workeroutput", {}).get(_OUTPUT)
        if told is None:
            return
        self.workers.discard(node.gateway.id)
        self.watch.exercised.add(Exercised.from_list(told["counts"]))
        self.elsewhere |= set(told["elsewhere"])

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Hand over what was counted, or write the reports and judge the total."""
        self._listening = False
        self.watch.stop()
        exercised = self.watch.exercised
        if self.is_worker:
            told = {"counts": exercised.to_list(), "elsewhere": sorted(self.elsewhere)}
            self.config.workeroutput[_OUTPUT] = told  # type: ignore[attr-defined]
            return
        if self.config.option.collectonly:
            return
        for kind, path in self.reports:
            if kind in _FILES:
                text = as_html(exercised, self._remarks()) if kind == "html" else as_json(exercised, self._remarks())
                self._file(kind, path).write_text(text, encoding="utf-8")
        total = exercised.tally()
        if total.percent < self.fail_under:
            self.failed = f"transition coverage of {self.fail_under:g} % was asked for, and {total} was reached"
            if session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _file(self, kind: str, path: str) -> Path:
        file = self.config.invocation_params.dir / (path or _FILES[kind])
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    def _remarks(self) -> list[str]:
        """Return what cannot be seen in the counts, in sentences."""
        remarks: list[str] = []
        if self.workers:
            remarks.append(
                f"what {', '.join(sorted(self.workers))} counted is missing: the worker ended without a word"
            )
        if self.elsewhere:
            some = sorted(self.elsewhere)
            more = f" and {len(some) - 3} more" if len(some) > 3 else ""
            started = f"{', '.join(some[:3])}{more} started other processes"
            remarks.append(f"{started}: what runs were asked there is not seen from here, and not counted")
        return remarks

    # --- telling --------------------------------------------------------------------------------------------------

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Write the reports that go to the terminal, and where the others went."""
        if self.is_worker or self.config.option.collectonly:
            return
        say = terminalreporter
        say.section("transition coverage", sep="-")
        exercised = self.watch.exercised
        for kind, path in self.reports:
            if kind == "term":
                say.line(as_text(exercised))
            elif kind == "lanes":
                width = shutil.get_terminal_size().columns
                ascii_only = "utf" not in (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
                say.line(covered_lanes(exercised, width=width, color=say.hasmarkup, ascii_only=ascii_only))
            else:
                say.line(f"{kind} report: {os.path.relpath(self._file(kind, path))}")
        for remark in self._remarks():
            say.line(f"note: {remark}", yellow=True)
        if self.failed:
            say.line(f"FAIL: {self.failed}", red=True, bold=True)
