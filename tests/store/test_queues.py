"""A queue is paused and resumed: claims see it at once, and who did it, when and why is kept."""

from __future__ import annotations

import pytest

from runstate import ManualClock, use_clock
from runstate.errors import InvalidRun
from runstate.run.values import LastError
from runstate.store import Settle, Store, open_store
from tests.store.support import names


def test_no_run_of_a_paused_queue_is_claimed_until_it_is_resumed(store: Store) -> None:
    lease = store.open_lease()
    mail, other = store.create(**names(queue="mail")), store.create(**names(queue="other"))
    assert store.pause("mail", reason="the provider is down", actor="ada")
    assert [other.id] == [claim.run.id for claim in store.claim(lease, 9, queues=["mail", "other"])]
    assert store.claim_id(lease, mail.id) is None
    assert store.resume("mail", actor="bob")
    assert [mail.id] == [claim.run.id for claim in store.claim(lease, 9, queues=["mail", "other"])]


def test_retries_and_runs_of_dead_workers_wait_too(store: Store) -> None:
    dead, lease = store.open_lease("dead"), store.open_lease("alive")
    retried, orphan = store.create(**names()), store.create(**names())
    first, second = store.claim(dead, 2)
    error = LastError("server_error", "not yet")
    store.settle(dead, [Settle.retry_later(first.run, error, after_s=0)])
    store.close_lease(dead)
    store.pause()
    assert [] == store.take_over(lease, 9)
    assert [] == [*store.take_over(lease, run_id=retried.id), *store.take_over(lease, run_id=orphan.id)]
    store.resume()
    assert [retried.id, orphan.id] == [claim.run.id for claim in store.take_over(lease, 9)]
    assert second.run.id == orphan.id


def test_a_handler_that_is_at_work_settles_and_a_deadline_counts(store: Store) -> None:
    lease = store.open_lease()
    at_work, due = store.create(**names()), store.create(**names(expires_in_s=1))
    (claim, *_) = store.claim(lease)
    store.pause()
    assert {} == store.settle(lease, [Settle.retry_later(claim.run, LastError("server_error", ""), after_s=0)]).refused
    assert "cancelled" == store.request_cancel(at_work.id).status
    assert "queued" == store.get(due.id).status


def test_what_waits_in_a_paused_queue_is_not_due(store: Store) -> None:
    """Else every idle worker would sweep in vain, and a dispatcher would send the ids again and again."""
    lease = store.open_lease()
    retried, queued = store.create(**names()), store.create(**names())
    (claim,) = store.claim(lease)
    error = LastError("server_error", "not yet")
    assert {} == store.settle(lease, [Settle.retry_later(claim.run, error, after_s=0)]).refused
    assert store.is_anything_due()
    assert [retried.id, queued.id] == store.overdue(after_s=0.0)
    store.pause()
    assert not store.is_anything_due()
    assert 0 == store.sweep().retries
    assert [] == store.overdue(after_s=0.0)
    store.resume()
    assert 1 == store.sweep().retries


def test_retries_of_a_later_queue_wait_for_an_earlier_one(store: Store) -> None:
    """A worker empties the first of its queues before the next; a paused one has nothing to wait for."""
    lease = store.open_lease()
    store.create(**names(queue="second", id="run_retry"))
    (claim,) = store.claim(lease, queues=["second"])
    error = LastError("server_error", "not yet")
    assert {} == store.settle(lease, [Settle.retry_later(claim.run, error, after_s=0)]).refused
    store.create(**names(queue="first"))
    assert [] == store.take_over(lease, queues=["first", "second"])
    store.pause("first")
    assert ["run_retry"] == [claim.run.id for claim in store.take_over(lease, queues=["first", "second"])]


def test_a_queue_is_paused_twice_within_a_tick_of_the_clock(store: Store) -> None:
    with use_clock(ManualClock(1_800_000_000)):
        for _ in range(3):
            assert store.pause()
            assert store.resume()
        assert store.pause()
    assert 4 == len({pause.paused_at_us for pause in store.pauses(ended=True)})


def test_what_is_kept_of_pauses(store: Store) -> None:
    assert store.pause("mail", reason="an outage", actor="ada")
    assert not store.pause("mail", reason="once more", actor="eve")
    assert store.pause("b")
    (later, earlier) = store.pauses()
    assert ("b", None, None) == (later.queue, later.paused_by, later.reason)
    assert ("mail", "ada", "an outage", None) == (
        earlier.queue,
        earlier.paused_by,
        earlier.reason,
        earlier.resumed_at_us,
    )
    assert store.resume("mail", actor="bob")
    assert not store.resume("mail")
    assert ["b"] == [pause.queue for pause in store.pauses()]
    ended = store.pauses(ended=True)[-1]
    assert ("mail", "ada", "bob") == (ended.queue, ended.paused_by, ended.resumed_by)
    assert ended.resumed_at_us is not None
    assert ended.paused_at_us <= ended.resumed_at_us
    assert store.pause("mail")  # a second pause is another row
    assert 3 == len(store.pauses(ended=True))


def test_another_process_sees_the_pause_at_once(store: Store, store_url: str) -> None:
    store.create(**names())
    store.pause()
    with open_store(store_url) as other:
        lease = other.open_lease()
        assert [] == other.claim(lease)
        assert other.resume()
        assert 1 == len(other.claim(lease))


@pytest.mark.parametrize(
    "given",
    [{"queue": ""}, {"queue": 3}, {"reason": 3}, {"reason": "a\0b"}, {"reason": "x" * 1001}, {"actor": ""}],
    ids=str,
)
def test_wrong_arguments_are_told_and_nothing_is_paused(given: dict[str, object], store: Store) -> None:
    with pytest.raises(InvalidRun):
        store.pause(**given)  # type: ignore[arg-type]
    assert () == store.pauses()
