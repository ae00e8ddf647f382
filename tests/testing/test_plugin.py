"""The pytest plugin as a user has it: real sessions of pytest, with its options, fixtures and marker."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from runstate import Run
from tests.support.lifecycle import TABLE

pytest_plugins = ["pytester"]

SUITE = """
    import pytest
    from runstate import IllegalTransition, Run

    def a_run():
        return Run.create(thread_id="t", assistant_id="a", model="m")

    def test_a_life():
        run = a_run()
        run.start()
        run.complete()
        with pytest.raises(IllegalTransition):
            run.start()

    def test_a_store(run_store):
        run = run_store.create(thread_id="t", assistant_id="a", model="m")
        run_store.request_cancel(run.id)
        with pytest.raises(IllegalTransition):
            run_store.fail(run.id, "server_error", "it broke")
"""
ASKED = {
    "test_suite.py::test_a_life": [
        ("in_progress-complete", True),
        ("queued-start", True),
        ("completed-start", False),
    ],
    "test_suite.py::test_a_store": [
        ("queued-request_cancel", True),
        ("cancelling-confirm_cancel", True),
        ("cancelled-fail", False),
    ],
}
"""What the suite asks, by test: each cell, and whether it is a move."""


@pytest.fixture(autouse=True)
def folder_of_its_own(pytester: pytest.Pytester) -> None:
    """Make the folder pytest's root: what lies above it is not the test's."""
    pytester.makeini("[pytest]")


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder with a small suite in it."""
    monkeypatch.setenv("COLUMNS", "80")
    pytester.makepyfile(test_suite=SUITE)
    return pytester


OTHERS = ("cacheprovider", "openai_responses", "respx", "anyio", "hypothesispytest", "pytest_cov")
ALONE = [f"-pno:{plugin}" for plugin in OTHERS]
"""Without other plugins that take long to load."""


def run(pytester: pytest.Pytester, *options: str) -> pytest.RunResult:
    """Run pytest as a process of its own."""
    return pytester.runpytest_subprocess(*ALONE, *options, timeout=120)


def quick(pytester: pytest.Pytester, *options: str) -> pytest.RunResult:
    """Run pytest here, in this process."""
    return pytester.runpytest_inprocess(*ALONE, "-pno:xdist", *options)


def report_of(pytester: pytest.Pytester, name: str = "runstate-cov.json") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((pytester.path / name).read_text(encoding="utf-8"))
    return found


# --- what it costs those who do not use it ----------------------------------------------------------------------------


def test_the_plugin_loads_nothing_of_the_library(pytester: pytest.Pytester) -> None:
    """A session that uses none of it has no module of runstate loaded but the plugin itself."""
    pytester.makepyfile("""
        import sys

        def test_nothing():
            loaded = [name for name in sys.modules if name.partition(".")[0] in ("runstate", "attrs", "transitions")]
            assert "_runstate_pytest" in sys.modules
            assert [] == loaded
    """)
    run(pytester).assert_outcomes(passed=1)


def test_nothing_is_watched_unasked(suite: pytest.Pytester) -> None:
    """Without the option there is no report, and the moves are the library's own."""
    before = dict(vars(Run))
    result = quick(suite)
    result.assert_outcomes(passed=2)
    assert "transition coverage" not in result.stdout.str()
    assert before == dict(vars(Run))


def test_watching_leaves_everything_as_it_was(suite: pytest.Pytester) -> None:
    """After a session that counted, `Run` has its own moves again."""
    before = dict(vars(Run))
    quick(suite, "--runstate-cov").assert_outcomes(passed=2)
    assert before == dict(vars(Run))


def test_without_the_plugin(suite: pytest.Pytester) -> None:
    """`-p no:runstate` takes fixtures and options away."""
    result = run(suite, "-p", "no:runstate")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["E *run_store*"])
    refused = run(suite, "-p", "no:runstate", "--runstate-cov")
    assert pytest.ExitCode.USAGE_ERROR == refused.ret


# --- fixtures ---------------------------------------------------------------------------------------------------------


def test_fixtures(pytester: pytest.Pytester) -> None:
    """The clock stands still, the store is empty and real, and runs are made by the test's own clock."""
    pytester.makepyfile("""
        import time
        from runstate import Run
        from runstate.store import Store

        def test_clock(run_clock):
            assert 1_700_000_000 == run_clock.time()
            run = Run.create(thread_id="t", assistant_id="a", model="m")
            run_clock.advance(601)
            assert run.is_due()

        def test_clock_is_put_back():
            run = Run.create(thread_id="t", assistant_id="a", model="m")
            assert run.created_at >= 1_790_000_000

        def test_store(run_store):
            assert isinstance(run_store, Store)
            assert 0 == len(run_store.list().data)
            run_store.create(thread_id="t", assistant_id="a", model="m")

        def test_another_store(run_store):
            assert 0 == len(run_store.list().data)
            assert "<Store sqlite:///:memory:>" == repr(run_store)

        def test_runs(make_run):
            run = make_run("completed", metadata={"a": "b"})
            assert ("completed", {"a": "b"}) == (run.status, run.metadata)

        def test_runs_by_the_clock(make_run, run_clock, run_store):
            run = make_run("in_progress")
            assert run_clock.time() == run.started_at == 1_700_000_001
            stored = make_run("requires_action", store=run_store)
            assert "requires_action" == run_store.get(stored.id).status
            assert 1_700_000_002 == stored.started_at
    """)
    quick(pytester).assert_outcomes(passed=6)


def test_the_marker(pytester: pytest.Pytester) -> None:
    """`runstate(at=..., store=...)` says where the clock begins and which store is opened, also on a class."""
    pytester.makepyfile("""
        import pytest

        @pytest.mark.runstate(at=1_800_000_000, store="sqlite:///runs.db")
        class TestIt:
            def test_it(self, run_clock, run_store, tmp_path):
                assert 1_800_000_000 == run_clock.time()
                assert (tmp_path / "runs.db").exists()
    """)
    quick(pytester, "--strict-markers").assert_outcomes(passed=1)
    quick(pytester, "--markers").stdout.fnmatch_lines(["@pytest.mark.runstate(at=None, store=None, cov=True): *"])


def test_markers_of_a_class_and_of_a_test(pytester: pytest.Pytester) -> None:
    """What the marker of a test does not say, that of its class or module does."""
    pytester.makepyfile("""
        import pytest

        pytestmark = pytest.mark.runstate(at=1_800_000_000, cov=True)

        @pytest.mark.runstate(at=1_900_000_000)
        class TestIt:
            @pytest.mark.runstate(cov=False)
            def test_it(self, make_run):
                run = make_run("in_progress")
                assert 1_900_000_001 == run.started_at
                run.complete()

        def test_module(run_clock):
            assert 1_800_000_000 == run_clock.time()
    """)
    quick(pytester, "--runstate-cov-report=json").assert_outcomes(passed=2)
    assert {} == report_of(pytester)["tests"]


@pytest.mark.parametrize(
    ("marker", "said"),
    [
        ("att=1", "*::test_it: the marker runstate takes at=, store= and cov=, not att"),
        ("'sqlite:///x.db'", "*::test_it: the marker runstate takes at=, store= and cov=, not 'sqlite:///x.db'"),
        ("at='2024'", "*::test_it: the marker runstate takes at= in Unix seconds, not '2024'"),
    ],
)
def test_markers_that_are_none(pytester: pytest.Pytester, marker: str, said: str) -> None:
    """A marker that says what nobody understands is refused before any test runs."""
    pytester.makepyfile(f"import pytest\n\n@pytest.mark.runstate({marker})\ndef test_it():\n    pass\n")
    result = quick(pytester)
    assert pytest.ExitCode.USAGE_ERROR == result.ret
    result.stderr.fnmatch_lines([said])


STORES = """
    def test_one(run_store, tmp_path):
        run_store.create(thread_id="t", assistant_id="a", model="m")
        print("the store is", run_store)

    def test_two(run_store):
        assert 0 == len(run_store.list().data)
"""


def test_a_file_of_each_tests_own(pytester: pytest.Pytester) -> None:
    """Of an SQLite file only the name is taken: a user's own file of that name is not touched."""
    pytester.makepyfile(STORES)
    (pytester.path / "mine.db").write_text("mine")
    result = quick(pytester, "--runstate-store", "sqlite:///mine.db", "-s")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*the store is <Store *test_one0/mine.db>"])
    assert "mine" == (pytester.path / "mine.db").read_text()


def test_an_address_that_is_empty(pytester: pytest.Pytester) -> None:
    """What an unset variable leaves is not taken for the usual store, nor for any other."""
    pytester.makepyfile(STORES)
    result = quick(pytester, "--runstate-store", "")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["*StoreUrlError: not the address of a store*"])


def test_a_schema_of_each_tests_own(pytester: pytest.Pytester, postgres_url: str) -> None:
    """In PostgreSQL each test has a schema, which is dropped afterwards; the rest of the database is not touched."""
    import psycopg

    look = b"SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'runstate%'"
    tables = b"SELECT count(*) FROM pg_tables WHERE tablename LIKE 'runstate%'"
    pytester.makepyfile(STORES)
    pytester.makeini(f"[pytest]\nrunstate_store = {postgres_url}")
    quick(pytester).assert_outcomes(passed=2)
    with psycopg.connect(postgres_url) as connection:
        assert [(0,)] == connection.execute(look).fetchall()
        assert [(0,)] == connection.execute(tables).fetchall()


@pytest.mark.parametrize(
    ("url", "inside"),
    [
        ("postgresql:///db", "postgresql:///db?options=-csearch_path%3Ds"),
        ("postgresql://me@host/db?host=/run", "postgresql://me@host/db?host=%2Frun&options=-csearch_path%3Ds"),
        ("postgresql://host/db?options=-cjit%3Doff", "postgresql://host/db?options=-cjit%3Doff%20-csearch_path%3Ds"),
    ],
)
def test_addresses_of_every_form_get_the_schema(url: str, inside: str) -> None:
    """An address without a host, with a socket, or with options of its own keeps them."""
    from psycopg.conninfo import conninfo_to_dict

    from runstate.testing.fixtures import _with_search_path

    assert inside == _with_search_path(url, "s")
    assert conninfo_to_dict(url).items() - {("options", "-cjit=off")} <= conninfo_to_dict(inside).items()


@pytest.mark.slow
def test_a_session_inside_a_session(pytester: pytest.Pytester) -> None:
    """What a test asks after it has run pytest itself still counts."""
    pytester.makepyfile("""
        pytest_plugins = ["pytester"]

        def test_inner(pytester):
            pytester.makeini("[pytest]")
            pytester.makepyfile("def test_it(run_store):\\n    pass")
            pytester.inline_run("--runstate-cov").assertoutcome(passed=1)

        def test_after(run_store, make_run):
            run_store.start(make_run(store=run_store).id)
            make_run().start()
    """)
    quick(pytester, "--runstate-cov-report=json").assert_outcomes(passed=2)
    assert 2 == next(cell for cell in report_of(pytester)["cells"] if cell["event"] == "start")["times"]


def test_an_address_that_is_none(pytester: pytest.Pytester) -> None:
    """A store that cannot be opened is told in a sentence."""
    pytester.makepyfile(STORES)
    result = quick(pytester, "--runstate-store", "mysql://here")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["E * 'mysql' names no kind of store: expected *"])


# --- transition coverage ----------------------------------------------------------------------------------------------


def test_the_report_on_the_terminal(suite: pytest.Pytester) -> None:
    """The totals come apart for moves and refusals, then what was not asked, by status."""
    result = quick(suite, "--runstate-cov")
    result.assert_outcomes(passed=2)
    told = result.stdout.str().partition("transition coverage")[2].splitlines()[1:]
    assert ["moves      4 of 19, 21 %", "refusals   2 of 62, 3 %", "total      6 of 81, 7 %"] == told[:3]
    assert told[4] == "moves not asked:"
    assert "  queued           fail, expire" in told
    assert "  incomplete       all nine events" in told
    completed = "  completed        require_action, submit_tool_outputs, request_cancel, confirm_cancel, complete,"
    assert f"{completed} mark_incomplete, fail, expire" in told


def test_the_report_in_the_lanes(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every one of the 81 places shows whether it was asked; side by side where there is room, else as stairs."""
    monkeypatch.setenv("COLUMNS", "130")
    result = quick(suite, "--runstate-cov-report=lanes")
    result.stdout.fnmatch_lines(
        [
            "                     queued  in_progress  requires_action  cancelling  completed  *",
            "start                   ●────────▶·              ·              ·          ×  *",
            "complete                ·         ●──────────────·──────────────○─────────▶·  *",
            "fail                    ○╌╌╌╌╌╌╌╌╌○╌╌╌╌╌╌╌╌╌╌╌╌╌╌○╌╌╌*",
            "● move asked   ○ move not asked   × refusal asked   · refusal not asked",
        ]
    )
    monkeypatch.setenv("COLUMNS", "80")
    result = quick(suite, "--runstate-cov-report=lanes")
    result.stdout.fnmatch_lines(["                     ┌ queued", "start                ●────▶·     ·     ·     ×*"])
    drawn = result.stdout.str().partition("transition coverage")[2].splitlines()[1:-1]
    assert max(map(len, drawn)) <= 80


def test_the_report_as_json(suite: pytest.Pytester) -> None:
    """It holds the totals, each cell with how often and by which tests, and each test with its cells."""
    quick(suite, "--runstate-cov-report=json").assert_outcomes(passed=2)
    report = report_of(suite)
    assert {"covered": 4, "total": 19, "percent": 21.05} == report["moves"]
    assert {"covered": 2, "total": 62, "percent": 3.23} == report["refusals"]
    assert {"covered": 6, "total": 81, "percent": 7.41} == report["total"]
    assert 81 == len(report["cells"])
    for cell in report["cells"]:
        name = f"{cell['status']}-{cell['event']}"
        tests = sorted(test for test, asked in ASKED.items() if name in dict(asked))
        assert (len(tests), tests) == (cell["times"], cell["tests"]), name
        assert TABLE.get((cell["status"], cell["event"])) == cell["target"]
    for test, asked in ASKED.items():
        assert {name for name, moved in asked if moved} == set(report["tests"][test]["moves"])
        assert {name for name, moved in asked if not moved} == set(report["tests"][test]["refusals"])
    assert [] == report["remarks"]


def test_the_report_as_a_page(suite: pytest.Pytester) -> None:
    """One file, with every cell in it, that needs nothing else and escapes what tests are called."""
    suite.makepyfile(
        test_odd="""
        import pytest
        from runstate.testing import a_run, assert_refused

        @pytest.mark.parametrize("x", ["<b>&"])
        def test_odd(x):
            assert_refused(a_run("expired"), "start")
    """
    )
    result = quick(suite, "--runstate-cov-report=html:out/page.html", "--runstate-cov-report=term")
    result.stdout.fnmatch_lines(["html report: out/page.html"])
    page = (suite.path / "out" / "page.html").read_text(encoding="utf-8")
    assert 81 == page.count("<td class=")
    assert 4 == page.count('class="move asked')
    assert 3 == page.count('class="refusal asked')
    assert 15 == page.count('<span class="n">&nbsp;</span>')  # a ring around nothing would have no height
    assert '<span class="n"></span>' not in page
    assert "test_odd[&lt;b&gt;&amp;]" in page
    assert "<b>&]" not in page
    assert "http" not in page


def test_the_floor(suite: pytest.Pytester) -> None:
    """Below `--runstate-cov-fail-under` the session fails and says by how much; at it, it does not."""
    result = quick(suite, "--runstate-cov-fail-under=50")
    assert pytest.ExitCode.TESTS_FAILED == result.ret
    result.stdout.fnmatch_lines(["FAIL: transition coverage of 50 % was asked for, and 6 of 81, 7 % was reached"])
    assert pytest.ExitCode.OK == quick(suite, "--runstate-cov-fail-under=7.4").ret
    assert pytest.ExitCode.NO_TESTS_COLLECTED == quick(suite, "--runstate-cov-fail-under=50", "-k", "nothing").ret


def test_the_configuration_file(suite: pytest.Pytester) -> None:
    """What the options say may stand there; the command line goes before it."""
    asked = (
        "runstate_cov = true",
        "runstate_cov_fail_under = 90",
        "runstate_cov_report =",
        "    json:a.json",
        "    lanes",
    )
    suite.makeini("\n".join(("[pytest]", *asked)))
    result = quick(suite)
    assert pytest.ExitCode.TESTS_FAILED == result.ret
    result.stdout.fnmatch_lines(["json report: a.json", "*┌ queued", "FAIL: transition coverage of 90 %*"])
    result = quick(suite, "--runstate-cov-fail-under=1", "--runstate-cov-report=term")
    assert pytest.ExitCode.OK == result.ret
    assert "json report" not in result.stdout.str()


def test_a_floor_in_the_file_is_a_floor(suite: pytest.Pytester) -> None:
    """Who asks for a floor or a report asks for the counting, in the configuration file too."""
    suite.makeini("[pytest]\nrunstate_cov_fail_under = 90\n")
    assert pytest.ExitCode.TESTS_FAILED == quick(suite).ret
    suite.makeini("[pytest]\nrunstate_cov_report = json\n")
    assert pytest.ExitCode.OK == quick(suite).ret
    assert 6 == report_of(suite)["total"]["covered"]


def test_collecting_alone_counts_nothing(suite: pytest.Pytester) -> None:
    """Where no test runs, there is no report and no floor."""
    result = quick(suite, "--collect-only", "--runstate-cov-fail-under=50")
    assert pytest.ExitCode.OK == result.ret
    assert "transition coverage" not in result.stdout.str()


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--runstate-cov-report=pdf", "*'pdf' is none of term, lanes, html, json, html:PATH and json:PATH"),
        ("--runstate-cov-report=term:file", "*'term:file' is none of *"),
        ("--runstate-cov-fail-under=101", "*'101' is no percentage: give a number from 0 to 100"),
        ("--runstate-cov-fail-under=most", "*'most' is no percentage*"),
    ],
)
def test_options_that_are_none(suite: pytest.Pytester, option: str, sentence: str) -> None:
    """A mistyped option is refused before any test runs, in a sentence."""
    result = quick(suite, option)
    assert pytest.ExitCode.USAGE_ERROR == result.ret
    result.stderr.fnmatch_lines([sentence])


def test_a_configuration_that_is_none(suite: pytest.Pytester) -> None:
    """The same in the configuration file, which is named."""
    suite.makeini("[pytest]\nrunstate_cov = true\nrunstate_cov_report = pdf\n")
    result = quick(suite)
    assert pytest.ExitCode.USAGE_ERROR == result.ret
    result.stderr.fnmatch_lines(["*in the configuration file: 'pdf' is none of *"])


def test_a_test_that_does_not_count(pytester: pytest.Pytester) -> None:
    """What a test marked with `cov=False` asks is left out, and so is what `a_run` does to bring a run somewhere."""
    pytester.makepyfile("""
        import pytest
        from runstate.testing import a_run, assert_moves

        @pytest.mark.runstate(cov=False)
        def test_not_counted():
            assert_moves(a_run(), "start")

        def test_arranged(make_run, run_store):
            make_run("completed")
            make_run("cancelled", store=run_store)

        def test_counted():
            assert_moves(a_run("in_progress"), "complete")
    """)
    quick(pytester, "--runstate-cov-report=json").assert_outcomes(passed=3)
    assert ["test_a_test_that_does_not_count.py::test_counted"] == list(report_of(pytester)["tests"])
    assert 1 == report_of(pytester)["total"]["covered"]


def test_classes_of_the_users_own(pytester: pytest.Pytester) -> None:
    """What the kit's assertions ask of another class counts as well."""
    pytester.makepyfile("""
        from runstate.testing import assert_moves, assert_refused

        class Mine:
            status = "queued"

            def start(self):
                if self.status != "queued":
                    raise ValueError
                self.status = "in_progress"

        def test_mine():
            mine = assert_moves(Mine(), "start")
            assert_refused(mine, "start", refused=ValueError)
    """)
    quick(pytester, "--runstate-cov-report=json").assert_outcomes(passed=1)
    (asked,) = report_of(pytester)["tests"].values()
    assert {"moves": ["queued-start"], "refusals": ["in_progress-start"]} == asked


def test_setup_and_teardown(pytester: pytest.Pytester) -> None:
    """What a test's fixtures ask is the test's; what a fixture of the session asks in the end is no test's."""
    pytester.makepyfile("""
        import pytest
        from runstate import Run

        def a_run():
            return Run.create(thread_id="t", assistant_id="a", model="m")

        @pytest.fixture
        def started():
            run = a_run()
            run.start()
            yield run
            run.expire()

        def test_it(started):
            started.request_cancel()
    """)
    quick(pytester, "--runstate-cov-report=json").assert_outcomes(passed=1)
    ((_, asked),) = report_of(pytester)["tests"].items()
    assert ["queued-start", "in_progress-request_cancel", "cancelling-expire"] == asked["moves"]


# --- several processes ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_workers_count_together(suite: pytest.Pytester) -> None:
    """Under pytest-xdist the counts of all workers are one report, the same as without."""
    assert 0 == run(suite, "-n", "2", "--runstate-cov-report=json:two.json", "--runstate-cov-fail-under=7").ret
    assert 0 == run(suite, "-n", "0", "--runstate-cov-report=json:one.json").ret
    assert report_of(suite, "one.json") == report_of(suite, "two.json")
    result = run(suite, "-n", "2", "--runstate-cov-fail-under=8", "--runstate-cov-report=lanes")
    assert pytest.ExitCode.TESTS_FAILED == result.ret
    assert 1 == result.stdout.str().count("transition coverage of 8 % was asked for")
    assert 1 == result.stdout.str().count("┌ queued")


def test_a_worker_that_dies(suite: pytest.Pytester) -> None:
    """What a worker counted that ended without a word is missing, and that is said."""
    suite.makepyfile(test_dying="import os\n\ndef test_dying():\n    os._exit(3)\n")
    result = run(suite, "-n", "1", "--max-worker-restart=0", "--runstate-cov")
    result.stdout.fnmatch_lines(["note: what gw0 counted is missing: the worker ended without a word"])


@pytest.mark.slow
def test_files_of_one_name(pytester: pytest.Pytester) -> None:
    """With `--import-mode=importlib`, tests of one name in two folders are told apart."""
    for folder in ("a", "b"):
        (pytester.mkdir(folder) / "test_same.py").write_text(
            "from runstate.testing import a_run, assert_moves\n\ndef test_same():\n    assert_moves(a_run(), 'start')\n"
        )
    result = run(pytester, "--import-mode=importlib", "--runstate-cov-report=json", "-n", "2")
    result.assert_outcomes(passed=2)
    assert ["a/test_same.py::test_same", "b/test_same.py::test_same"] == list(report_of(pytester)["tests"])
    assert 2 == next(cell for cell in report_of(pytester)["cells"] if cell["event"] == "start")["times"]


ELSEWHERE = """
    import os
    import subprocess
    import sys

    CODE = "from runstate.testing import a_run; a_run().start()"

    def test_subprocess():
        subprocess.run([sys.executable, "-c", CODE], check=True)

    def test_system():
        assert 0 == os.system("true")

    def test_here():
        pass
"""


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["alone", "workers"])
def test_what_is_not_seen_is_said(pytester: pytest.Pytester, options: tuple[str, ...]) -> None:
    """What other processes do is invisible, and the tests that started some are named; other tests are not."""
    pytester.makepyfile(test_elsewhere=ELSEWHERE)
    result = run(pytester, "--runstate-cov", "--runstate-cov-report=json", *options)
    result.assert_outcomes(passed=3)
    remark = (
        "test_elsewhere.py::test_subprocess, test_elsewhere.py::test_system started other processes: what runs were"
        " asked there is not seen from here, and not counted"
    )
    result.stdout.fnmatch_lines([f"note: {remark}"])
    assert [remark] == report_of(pytester)["remarks"]
    assert 0 == report_of(pytester)["total"]["covered"]


# --- counted independently --------------------------------------------------------------------------------------------

DRIVEN = """
    import sqlite3
    from contextlib import closing
    import pytest
    from runstate import IllegalTransition, RunEvent
    from runstate.errors import DeadlinePassed
    from runstate.store import Settle, open_store
    from runstate.worker import drive

    STORES = {stores}

    @pytest.fixture(params=range(len(STORES)))
    def store(request):
        with open_store(STORES[request.param], migrate=True) as store:
            yield store

    def made(store, **given):
        return store.create(thread_id="t", assistant_id="a", model="m", **given)

    def test_driven(store):
        runs = [made(store) for _ in range(7)]
        called = []

        def answer(ctx):
            called.append(ctx)
            if len(called) == 1:
                return ctx.require_action([ctx.tool_call("weather", city="Paris")])
            if len(called) == 2:
                raise RuntimeError("it broke")
            return ctx.complete()

        for run in runs:
            drive(store, run.id, answer)
        waiting = store.get(runs[0].id)
        store.submit_tool_outputs(waiting.id, {{waiting.required_action.call_ids[0]: "sunny"}})
        drive(store, waiting.id, answer)
        assert ["completed", "failed", *["completed"] * 5] == [store.get(run.id).status for run in runs]

    def test_by_hand(store):
        runs = [made(store) for _ in range(4)]
        for run in runs[1:]:
            store.start(run.id)
        store.request_cancel(runs[0].id, actor="a")
        store.request_cancel(runs[0].id, actor="a")  # recognised: nothing happens
        store.request_cancel(runs[1].id, actor="a")
        store.complete(runs[1].id)
        store.mark_incomplete(runs[2].id, "max_prompt_tokens")
        for run in runs[:3]:
            for _ in range(2):
                with pytest.raises(IllegalTransition):
                    store.start(run.id)

    def test_late(store):
        lease = store.open_lease("w1")
        run = made(store, queue="late")
        (claim,) = store.claim(lease, 1, queues=["late"])
        store.complete(run.id)
        refused = store.settle(lease, [Settle(claim.run, RunEvent.COMPLETE)]).refused
        assert 1 == len(refused)

    def test_swept(store, run_clock):
        run = made(store, expires_in_s=1, queue="swept")
        run_clock.advance(10)
        store.sweep()  # or that of a worker in the other process, by its own clock
        assert "expired" == store.get(run.id).status

    def test_rolled_back(store):
        if store.dialect != "sqlite":
            pytest.skip("one dialect shows it")
        opened = sqlite3.connect(STORES[0].removeprefix("sqlite:///"))
        with closing(opened) as connection, store.within(connection) as bound:
            bound.start(made(bound).id)
            connection.commit()

    def test_late_in_a_transaction(store, run_clock):
        if store.dialect != "sqlite":
            pytest.skip("one dialect shows it")
        opened = sqlite3.connect(STORES[0].removeprefix("sqlite:///"))
        with closing(opened) as connection, store.within(connection) as bound:
            run = made(bound, expires_in_s=1, queue="late_within")
            run_clock.advance(10)
            with pytest.raises(DeadlinePassed):
                bound.start(run.id)  # a move of the law that was not made
            bound.expire(run.id)
            connection.commit()
"""


def history_of(url: str) -> Counter[tuple[str, str]]:
    """Count the moves in a store's history by plain SQL."""
    from tests.store.support import Prompt

    with Prompt(url) as prompt:
        rows = prompt.run("SELECT source, event FROM runstate_history WHERE event IS NOT NULL")
    return Counter((str(source), str(event)) for source, event in rows)


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["alone", "workers"])
def test_counts_are_those_of_the_history(
    pytester: pytest.Pytester, tmp_path: Path, postgres_url: str, options: tuple[str, ...]
) -> None:
    """Each move is counted as often as the histories have it: by hand, by workers, in a caller's own transaction."""
    stores = [f"sqlite:///{tmp_path / 'counted.db'}", postgres_url]
    pytester.makepyfile(test_driven=DRIVEN.format(stores=repr(stores)))
    result = run(pytester, "--runstate-cov-report=json", *options)
    assert 0 == result.ret, result.stdout.str()
    cells = report_of(pytester)["cells"]
    counted = {(cell["status"], cell["event"]): cell["times"] for cell in cells if cell["target"] and cell["times"]}
    assert history_of(stores[0]) + history_of(stores[1]) == counted
    refused = {(cell["status"], cell["event"]): cell["times"] for cell in cells if not cell["target"] and cell["times"]}
    twice = 2 * len(stores)
    assert {
        ("cancelled", "start"): twice,
        ("completed", "start"): twice,
        ("incomplete", "start"): twice,
        ("completed", "complete"): len(stores),
    } == refused


# --- what a failure looks like ----------------------------------------------------------------------------------------


def test_a_failure_points_at_the_test(pytester: pytest.Pytester) -> None:
    """A failing assertion shows the line of the test and the reasons, and no line of the kit."""
    pytester.makepyfile("""
        from runstate.testing import assert_moves

        def test_it(make_run):
            assert_moves(make_run("requires_action", id="run_1"), "complete", to="completed")
    """)
    result = quick(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            '>       assert_moves(make_run("requires_action", id="run_1"), "complete", to="completed")',
            "E       AssertionError: run run_1 did not complete: it was refused in requires_action",
            "E         allowed    submit_tool_outputs, request_cancel, fail, expire",
            "E         way there  submit_tool_outputs -> start -> complete",
            "E         history    created -> queued (+0ms)",
            "E                    start -> in_progress (+1.000s)",
            "E                    require_action -> requires_action (+2.000s)",
            "E         run run_1 is requires_action, expires 22:23:20 UTC",
            "E         submit_tool_outputs  ◀───────────●     ·   ┊   ·     ·     ·     ·     ·",
            "E         complete             ·     ○╌╌╌╌╌╌╌╌╌╌╌○╌╌╌╌╌╌╌▷     ·     ·     ·     ·",
        ]
    )
    assert "asserting.py" not in result.stdout.str()
    assert "IllegalTransition" not in result.stdout.str()


def test_it_is_there_where_runstate_is_installed() -> None:
    """The entry point is what pip installs, and the module is part of the wheel."""
    code = "from importlib.metadata import entry_points; print(entry_points(group='pytest11')['runstate'].value)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "_runstate_pytest" == told.stdout.strip()
