"""Whether the database can be used is known in one place: who tries when, who hears of it, and what the log says."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from runstate.errors import (
    AccessDenied,
    InvalidRun,
    OutcomeUnknown,
    RunNotFound,
    SchemaMismatch,
    StoreError,
    StoreUnavailable,
    StoreUrlError,
)
from runstate.store import availability as module
from runstate.store.availability import Availability, Retry, can_be_retried, is_outage
from runstate.store.backoff import Backoff

AWAY = StoreUnavailable("nobody answers")
LIMIT = 30.0


class Time:
    """The clock that nobody sets, set by a test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(module, "monotonic", time)
    return time


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "runstate.store"]


# --- backoff ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chance", [0.0, 0.3, 1.0])
def test_delays_grow_up_to_the_longest(chance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is between a half and the whole of twice the one before; after a reset the first one comes again."""
    monkeypatch.setattr("random.random", lambda: chance)
    backoff = Backoff(0.1, 5.0)
    wholes = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert [whole * (0.5 + chance / 2) for whole in wholes] == pytest.approx([backoff.next() for _ in wholes])
    backoff.reset()
    assert backoff.next() <= 0.1


def test_delays_differ_by_chance() -> None:
    """Processes that met the same outage do not come back in one crowd."""
    assert 50 == len({Backoff().next() for _ in range(50)})


# --- what counts as an outage -----------------------------------------------------------------------------------------


def test_which_errors_may_pass_by_themselves() -> None:
    """All that a server says while it is restored, renamed or replaced; no refusal of a request, no closed store."""
    kinds = (StoreUnavailable, OutcomeUnknown, StoreUrlError, SchemaMismatch, AccessDenied)
    assert all(is_outage(kind("x")) for kind in kinds)
    assert [True, True, False, False, False] == [can_be_retried(kind("x")) for kind in kinds]
    for error in (StoreError("the store is closed"), RunNotFound("run_1"), InvalidRun([]), OSError()):
        assert not is_outage(error)
        assert not can_be_retried(error)


# --- the log ----------------------------------------------------------------------------------------------------------


def test_one_line_when_it_begins_one_a_minute_one_when_it_is_over(time: Time, caplog: pytest.LogCaptureFixture) -> None:
    """However many parts ask however often."""
    availability = Availability()
    for second in range(150):
        time.now = 1000.0 + second
        for _ in range(20):
            availability.failed(AWAY)
            availability.report()
    time.now = 1150.0
    availability.succeeded()
    assert [
        "nobody answers; retrying",
        "the store has been away for 1m: nobody answers; retrying",
        "the store has been away for 2m: nobody answers; retrying",
        "the store is back after 2m 30s",
    ] == lines(caplog)
    assert availability.settled


def test_nothing_is_said_of_an_outage_that_nobody_waits_for(caplog: pytest.LogCaptureFixture) -> None:
    """A client is told by its errors, and its log stays empty."""
    caplog.set_level(logging.DEBUG)
    availability = Availability()
    for _ in range(3):
        availability.failed(AWAY)
        availability.succeeded()
    assert [] == lines(caplog)
    assert availability.settled


def test_a_database_that_comes_and_goes_does_not_fill_the_log(time: Time, caplog: pytest.LogCaptureFixture) -> None:
    """At most four lines a minute; when it has come to stay the log says so, as soon as it may."""
    availability = Availability()
    said: list[float] = []
    for half_second in range(600):
        time.now = 1000.0 + half_second / 2
        availability.failed(AWAY)
        availability.report()
        availability.succeeded()
        said += [time.now] * (len(lines(caplog)) - len(said))
    assert all(len([at for at in said if since <= at < since + 60]) <= 4 for since in said)
    assert 16 <= len(said) <= 20
    while not availability.settled:
        time.now += 0.5
        availability.succeeded()
    assert lines(caplog)[-1].startswith("the store is back after")
    assert time.now < 1400.0


# --- waiting ----------------------------------------------------------------------------------------------------------


def failed(availability: Availability, backoff: Backoff | None = None, error: Exception = AWAY) -> Retry:
    """Return what makes a request again that failed."""
    retry = Retry(availability, backoff)
    retry.failed(error)
    return retry


def test_what_has_not_failed_does_not_wait() -> None:
    retry = Retry(Availability())
    assert retry.wait()
    assert 0 == retry.due_in()
    assert asyncio.run(retry.wait_later())


def test_one_tries_at_a_time(time: Time) -> None:
    """When the time for a try has come it is the first one's, and the others wait for the next."""
    availability = Availability()
    retries = [failed(availability) for _ in range(10)]
    assert all(retry.due_in() > 0 for retry in retries)
    for _ in range(20):
        time.now += 5.0
        due = [retry.due_in() <= 0 for retry in retries]
        assert 1 == due.count(True)
        retries[due.index(True)].failed(AWAY)


def test_tries_grow_apart(time: Time) -> None:
    """From a tenth of a second to some seconds: in ten minutes there are not much more than a hundred."""
    availability = Availability()
    retry = failed(availability)
    tries: list[float] = []
    while time.now < 1600.0:
        time.now += 0.01
        if retry.due_in() <= 0:
            tries.append(time.now)
            retry.failed(AWAY)
    gaps = [after - before for before, after in itertools.pairwise(tries)]
    assert 3 <= len([at for at in tries if at < 1002.0])
    assert 110 < len(tries) < 260
    assert max(gaps) <= 5.1
    assert min(gaps[10:]) >= 2.4


KINDS = [AWAY, AccessDenied("no right to this"), StoreError("no such function")]


@pytest.mark.parametrize("error", KINDS, ids=lambda error: type(error).__name__)
def test_what_is_refused_for_itself_is_asked_at_its_own_rate(
    error: StoreError, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    """Others commit all the time, and end its wait once at most. The log does not say that the store is back."""
    availability = Availability()
    retry = failed(availability, error=error)
    tries = 0
    for _ in range(60_000):
        time.now += 0.01
        if not availability.settled:
            availability.succeeded()
        if retry.due_in() <= 0:
            tries += 1
            retry.failed(error)
            availability.report()
    assert 110 < tries < 260
    assert not [line for line in lines(caplog) if "is back" in line]
    assert (10 if is_outage(error) else 0) == len(lines(caplog)), "one a minute"
    retry.succeeded()
    assert availability.settled
    assert is_outage(error) == any(line.startswith("the store is back after") for line in lines(caplog)[-1:])


def test_the_end_of_an_outage_is_noticed_once_until_a_success(time: Time) -> None:
    """Also an outage that ended between an error and the wait for it."""
    availability = Availability()
    retry = failed(availability, Backoff(LIMIT, LIMIT))
    availability.succeeded()
    assert retry.wait()
    retry.failed(AWAY)
    availability.succeeded()
    assert retry.due_in() > 0
    retry.succeeded()
    retry.failed(AWAY)
    assert retry.due_in() > 0
    availability.succeeded()
    assert 0 == retry.due_in()


def test_a_part_that_takes_no_turn_says_nothing_of_the_database(time: Time) -> None:
    """Readers may be refused where writers are not. It waits for its own delay alone."""
    availability = Availability()
    retry = Retry(availability, Backoff(2.0, 2.0), takes_turns=False)
    retry.failed(AWAY)
    assert not availability.is_away
    assert not availability.was_away_since(0.0)
    availability.failed(AWAY)
    time.now += 2.0
    assert 0 == retry.due_in()
    assert 0 == availability.turn_in(), "it was left to another"


def test_a_refusal_is_no_outage(time: Time) -> None:
    availability = Availability()
    failed(availability, error=StoreError("no such function"))
    assert not availability.is_away
    assert not availability.was_away_since(0.0)


def test_a_wait_that_is_over_before_a_try_is_due() -> None:
    retry = failed(Availability(), Backoff(LIMIT, LIMIT))
    assert not retry.wait(0.01)
    assert not asyncio.run(retry.wait_later(0.01))


@pytest.mark.parametrize("end", [Availability.succeeded, Availability.wake], ids=["back", "woken"])
def test_a_success_ends_the_wait_of_all(end: Callable[[Availability], None]) -> None:
    """Of threads and of coroutines, also of those whose turn would have come much later."""
    availability = Availability()
    retries = [failed(availability, Backoff(10 * LIMIT, 10 * LIMIT)) for _ in range(10)]

    async def many() -> list[bool]:
        return await asyncio.wait_for(asyncio.gather(*(retry.wait_later() for retry in retries[5:])), LIMIT)

    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(retry.wait) for retry in retries[:5]]
        loop = pool.submit(asyncio.run, many())
        while len(availability._wakers) < 10:
            assert not loop.done()
            assert not any(each.done() for each in asked)
        end(availability)
        assert [True] * 5 == [each.result(LIMIT) for each in asked]
        assert [True] * 5 == loop.result(LIMIT)
    assert [] == availability._wakers


def test_an_attempt_that_is_made_until_it_goes_well(caplog: pytest.LogCaptureFixture) -> None:
    """Said once; what nobody can mend by asking again ends it at once."""
    availability = Availability()
    left = [AWAY, OutcomeUnknown("the answer was lost"), AWAY]

    def attempt() -> str:
        if left:
            raise left.pop()
        return "opened"

    assert "opened" == availability.wait_for(attempt, LIMIT)
    first, last = lines(caplog)
    assert "nobody answers; retrying" == first
    assert last.startswith("the store is back after")

    def wrong() -> None:
        left.append(AWAY)
        raise StoreUrlError("a wrong password")

    with pytest.raises(StoreUrlError, match="a wrong password"):
        availability.wait_for(wrong, LIMIT)
    assert [AWAY] == left


@pytest.mark.parametrize("error", [AWAY, OutcomeUnknown("nobody answers")])
def test_an_attempt_that_never_goes_well(error: StoreError) -> None:
    """After its time the last error comes, as one after which nothing was changed."""
    availability = Availability()

    def attempt() -> None:
        raise error

    with pytest.raises(StoreUnavailable, match="nobody answers") as away:
        availability.wait_for(attempt, 0.05)
    assert away.value.retryable


# --- sessions ---------------------------------------------------------------------------------------------------------


def test_sessions_of_before_are_known() -> None:
    """When one was lost, and again when the database is back: what was opened meanwhile may lead to the old server."""
    availability, heard = Availability(), list[int]()
    with availability.listening(lambda: heard.append(availability.epoch)):
        availability.failed(AWAY)
        availability.succeeded()
        assert [] == heard
        availability.failed(AWAY, session_lost=True)
        availability.succeeded()
    availability.failed(AWAY, session_lost=True)
    assert [1, 2] == heard
    assert 3 == availability.epoch
