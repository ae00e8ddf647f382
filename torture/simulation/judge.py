"""Judge a world that has come to rest: by plain SQL, by what everybody was told, by what the witnesses noted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from tests.support.judge import judge_through
from tests.support.lifecycle import LIVE
from torture.simulation.database import rows
from torture.simulation.ledger import RETRY, Ask, not_done

if TYPE_CHECKING:
    from torture.simulation.world import World

__all__ = ["judge"]

_MOVES: Final = frozenset(
    (
        *("start", "require_action", "submit_tool_outputs", "request_cancel", "confirm_cancel"),
        *("complete", "mark_incomplete", "fail", "expire"),
    )
)
# What the witnesses may not have seen: a sentence, and the query that finds it.
_WITNESSED: Final = (
    (
        "doubles: run number {}, version {}: {} was settled by {}, and belonged to {}",
        (
            "SELECT seq, version, event, actor, coalesce(name, 'nobody') FROM entry"
            " WHERE actor IN (SELECT name FROM runstate_worker_session) AND event <> 'start' AND name IS NOT actor"
        ),
    ),
    (
        "doubles: run number {}, version {}: {} was settled by {} after its lease, {} us late",
        (
            "SELECT seq, version, event, actor, at - lease_until_us FROM entry"
            " WHERE name = actor AND event <> 'start' AND (lease_until_us <= at OR closed = 1)"
        ),
    ),
    (
        "leases: run number {}, version {}: taken from {} by {}, whose lease was not over",
        (
            "SELECT seq, version, before_name, name FROM given WHERE before IS NOT NULL AND before <> 0 AND token <> 0"
            " AND before_closed = 0"
        ),
    ),
    (
        "leases: run number {}, version {}: given to {} without a lease",
        "SELECT seq, version, name FROM given WHERE token <> 0 AND (closed IS NOT 0 OR lease_until_us <= at)",
    ),
    (
        "leases: the lease of {} was closed by {}, {} us before its end",
        (
            "SELECT name, process, lease_until_us - at FROM closing"
            " WHERE lease_until_us > at AND substr(name, 1, instr(name, '.') - 1) <> process"
        ),
    ),
    (
        "leases: run number {}, version {}: released by {}, held by {}",
        (
            "SELECT seq, version, process, before_name FROM given"
            " WHERE token = 0 AND before <> 0 AND substr(before_name, 1, instr(before_name, '.') - 1) <> process"
        ),
    ),
    (
        "leases: run number {}, version {}: {} by the sweep, but its worker's lease was not over",
        (
            "SELECT seq, version, event FROM entry"
            " WHERE actor = 'sweep' AND event <> 'expire' AND token IS NOT NULL AND closed = 0"
        ),
    ),
    (
        "attempts: run number {}: attempt {} was given to {}, {} us before its retry was due",
        (
            "SELECT seq, attempt, name, due - written FROM given"
            " WHERE before IS NULL AND attempt > 1 AND token <> 0 AND due > written"
        ),
    ),
    (
        "leases: run number {}, version {}: {} let it wait for a retry without a lease",
        (
            "SELECT seq, version, before_name FROM given"
            " WHERE token IS NULL AND (before_closed = 1 OR before_until <= at)"
        ),
    ),
    (
        "doubles: run number {}: the step {} of attempt {} was kept in attempt {}",
        "SELECT seq, name, attempt, run_attempt FROM step_kept WHERE attempt <> run_attempt",
    ),
    (
        "doubles: run number {}: the step {} of {} was kept after its lease, {} us late",
        (
            "SELECT seq, name, coalesce(worker, 'nobody'), at - lease_until_us FROM step_kept"
            " WHERE closed IS NOT 0 OR lease_until_us <= at"
        ),
    ),
    (
        "losses: run {} has used {} tokens, and its steps {}",
        (
            "SELECT r.id, json_extract(r.usage, '$.prompt_tokens') AS used, sum(s.prompt_tokens) AS spent"
            " FROM runstate_run AS r JOIN runstate_step AS s ON s.run = r.seq"
            " WHERE r.usage IS NOT NULL AND r.actor NOT GLOB '*.h' GROUP BY r.seq HAVING used < spent"
        ),
    ),
    (
        "deadlines: run number {}, version {}: expired by the sweep {} us early",
        (
            "SELECT seq, version, deadline * 1000000 - at FROM entry"
            " WHERE actor = 'sweep' AND event = 'expire' AND deadline * 1000000 > at"
        ),
    ),
    (
        "deadlines: run number {}, version {}: {} was granted {} us late",
        (
            "SELECT seq, version, event, written - deadline * 1000000 FROM entry"
            " WHERE event IN ('start', 'submit_tool_outputs') AND deadline * 1000000 <= written"
        ),
    ),
)


def judge(world: World, *, resting: bool) -> tuple[list[str], Counter[str]]:
    """Return everything that is wrong, each with its kind before a colon, and how often each kind is."""
    connected = world.connected
    law = judge_through(lambda query: rows(connected, query))
    found = [
        *(sentence.format(*row) for sentence, query in _WITNESSED for row in rows(connected, f"{query} LIMIT 20")),
        *world.ledger.findings,
        *_creates(world),
        *_moves(world),
        *_settles(world),
        *_handlers(world),
        *_steps(world),
        *(_rest(world) if resting else ()),
        *(f"faults: {told}" for told in world.scheduler.faults),
    ]
    counts = Counter(told.partition(":")[0] for told in found)
    counts.update(gaps=law.gaps, doubles=law.doubled, illegal=law.illegal)
    return [*(f"law: {told}" for told in law.wrong), *found], counts


def _creates(world: World) -> Iterator[str]:
    """Yield what is wrong with births: an acknowledged one is there, a refused one is not, none is there twice."""
    born = Counter(actor for (actor,) in rows(world.connected, "SELECT actor FROM runstate_history WHERE version = 1"))
    ids = {run_id for (run_id,) in rows(world.connected, "SELECT id FROM runstate_run")}
    for ask in world.ledger.asks:
        if ask.method not in ("create", "create_many"):
            continue
        wanted = len(ask.given.get("runs", "1"))
        if ask.told == "acknowledged":
            for run in ask.runs:
                if run.id not in ids:
                    yield f"losses: {ask.actor} was told that {run.id} was created, and there is no such run"
        if not_done(ask.tells) and born[ask.actor]:
            yield f"doubles: {ask.actor} was refused ({ask.error}), and its run was created"
        if born[ask.actor] > wanted:
            yield f"doubles: {ask.actor} created {born[ask.actor]} runs for {wanted}"


def _moves(world: World) -> Iterator[str]:
    """Yield what is wrong with moves asked by hand: acknowledged, it is in the history once; refused, it is not."""
    question = (
        "SELECT r.id, h.event, h.actor, h.version FROM runstate_history AS h JOIN runstate_run AS r ON r.seq = h.run"
    )
    made: dict[tuple[str, str, str], list[int]] = {}
    for run_id, event, actor, version in rows(world.connected, question):
        made.setdefault((run_id, event, actor), []).append(version)
    for ask in world.ledger.asks:
        if ask.method in _MOVES:
            yield from _move(ask, made.get((ask.run_id or "", ask.method, ask.actor), []))


def _move(ask: Ask, versions: list[int]) -> Iterator[str]:
    what = f"{ask.actor} asked {ask.run_id} to {ask.method}"
    if len(versions) > 1:
        yield f"doubles: {what} once, and it was done {len(versions)} times"
    if "acknowledged" in ask.tells and not versions:
        yield f"losses: {what}, which was acknowledged, and is not in the history"
    if len(ask.tells) == 1 and not_done(ask.tells) and versions:
        yield f"doubles: {what}, which was refused ({ask.error}), and is in the history"
    expected = ask.given.get("expected_version")
    if expected is not None and versions and versions[0] != expected + 1:
        yield f"doubles: {what} from version {expected}, and it was done from {versions[0] - 1}"


def _settles(world: World) -> Iterator[str]:
    """Yield what is wrong with workers' outcomes: acknowledged, it is in the history once; refused, it is not."""
    settled: dict[tuple[int, int, str], list[int]] = {}
    starts: dict[int, list[int]] = {}
    question = "SELECT seq, version, event, token, actor = name FROM entry"
    for seq, version, event, token, is_its_own in rows(world.connected, question):
        if is_its_own:  # and not moved by hand meanwhile
            settled.setdefault((seq, token, event), []).append(version)
        if event == "start":
            starts.setdefault(seq, []).append(version)
    retried = set(rows(world.connected, "SELECT run, attempt FROM runstate_attempt WHERE result = 'retry'"))
    for outcome, tells in world.ledger.outcomes.items():
        if outcome.event.startswith(RETRY):
            attempt = int(outcome.event.removeprefix(RETRY))
            # Instead of waiting, it was cancelled as a client had asked, or failed because of its deadline.
            instead = any(settled.get((outcome.seq, outcome.token, event)) for event in ("confirm_cancel", "fail"))
            if "acknowledged" in tells and (outcome.seq, attempt) not in retried and not instead:
                yield f"losses: run number {outcome.seq}: the {outcome.event} was acknowledged, and is not there"
            continue
        nexts = [version for version in starts.get(outcome.seq, []) if version > outcome.version]
        before = min(nexts, default=1 << 62)
        found = settled.get((outcome.seq, outcome.token, outcome.event), [])
        count = sum(outcome.version < version < before for version in found)
        what = f"run number {outcome.seq}, claimed at {outcome.version}: its worker's {outcome.event}"
        if "acknowledged" in tells and count != 1:
            yield f"losses: {what} was acknowledged, and is {count} times in the history"
        if not_done(tells) and count:
            yield f"doubles: {what} was refused ({', '.join(tells)}), and is in the history"


def _handlers(world: World) -> Iterator[str]:
    """Yield handlers that were called without the run being given to their worker; each time it is, one is."""
    given = Counter(rows(world.connected, "SELECT seq, token FROM given WHERE token <> 0"))
    for key, count in Counter((began.seq, began.token) for began in world.ledger.began).items():
        if count - world.ledger.called_again[key] > given[key]:
            yield f"doubles: run number {key[0]} was given {given[key]} times, and {count} handlers were called"
    progress = "SELECT count(*) FROM step_kept AS k WHERE k.seq = g.seq AND k.given < g.rowid AND k.ended IS NOT NULL"
    taken = (  # a step that is kept counts the losses anew
        f"SELECT seq, count(*) FROM given AS g WHERE token <> 0 AND before <> 0 GROUP BY seq, version, ({progress})"
    )
    for seq, lost in rows(world.connected, taken):
        if lost >= world.max_attempts:
            yield f"attempts: run number {seq} was given again after {lost} losses, of {world.max_attempts}"


def _steps(world: World) -> Iterator[str]:
    """Yield steps that a handler was told are kept, and are not there; and events that were emitted before them."""
    there = set(rows(world.connected, "SELECT run, name FROM runstate_step WHERE ended_at_us IS NOT NULL"))
    question = "SELECT e.run, d.value FROM runstate_event AS e, json_each(e.data) AS d"
    events = set(rows(world.connected, question))
    for (seq, name), emitted in world.ledger.steps.items():
        if (seq, name) not in there:
            yield f"losses: run number {seq}: the step {name} was kept, and is not there"
        for value in emitted:
            if (seq, value) not in events:
                yield f"losses: run number {seq}: the event {value}, emitted before {name} was kept, is not there"


def _rest(world: World) -> Iterator[str]:
    live = ", ".join(f"'{status}'" for status in sorted(LIVE))
    for run_id, status in rows(world.connected, f"SELECT id, status FROM runstate_run WHERE status IN ({live})"):
        yield f"stuck: run {run_id} is {status} when all has come to rest"
