"""The statements about the steps of handlers."""

from __future__ import annotations

from functools import cached_property

from runstate.store._sql.attempts import Attempts

__all__ = ["STEP_COLUMNS", "Steps"]

STEP_COLUMNS = (
    *("name", "key", "number", "attempt", "prompt_tokens", "completion_tokens", "began_at_us", "ended_at_us"),
    "result",
)


class Steps(Attempts):
    """Keep and read steps."""

    @cached_property
    def save_step(self) -> str:
        """Keep a step of a run that a worker holds, or the mark of one; gives back nothing where it does not hold it.

        A mark gets its result by the second request. A step that has its result is not written again.
        """
        return f"WITH t AS (SELECT {self.now} AS now) {self._saving}"

    @cached_property
    def save_step_with_usage(self) -> str | None:
        """Do the same, and save the tokens that the run has used, in one statement. None where that takes two."""
        if not self.dialect.writes_in_one:
            return None
        return (
            f"WITH t AS (SELECT {self.now} AS now), step AS ({self._saving})"
            " INSERT INTO runstate_checkpoint (run, prompt_tokens, completion_tokens)"
            f" SELECT run, {self.param('total_prompt')}, {self.param('total_completion')} FROM step"
            f" {self.merge_checkpoint} RETURNING run"
        )

    @cached_property
    def _saving(self) -> str:
        # Until a step is committed no sweep closes the lease, or another worker would execute the step again; and
        # no client ends the run, or the tokens of the step would be missing in it.
        ended = f"CASE WHEN {self.param('result', 'text')} IS NOT NULL THEN t.now END"
        began = f"{self.dialect.greatest}(t.now - {self.param('took')}, 0)"
        columns = "run, name, key, number, version, attempt, result, prompt_tokens, completion_tokens"
        return (
            f"INSERT INTO runstate_step ({columns}, began_at_us, ended_at_us)"
            f" SELECT r.seq, {self.param('name', 'text')}, {self.param('key', 'text')}, {self.param('number')},"
            f" {self.param('version')}, {self.param('attempt')}, {self.dialect.as_json(self.param('result', 'text'))},"
            f" {self.param('prompt')}, {self.param('completion')}, {began}, {ended}"
            " FROM t, runstate_run AS r JOIN runstate_worker_session AS w ON w.token = r.worker"
            f" WHERE r.seq = {self.param('seq')} AND r.worker = {self.param('worker')}"
            f" AND {self.same_claim(self.param('version'), self.param('attempt'))}"
            f" AND w.closed = 0 AND w.lease_until_us > (SELECT now FROM t){self.dialect.hold_run_and_lease}"
            " ON CONFLICT (run, name, key) DO UPDATE SET result = excluded.result,"
            " version = excluded.version, attempt = excluded.attempt, prompt_tokens = excluded.prompt_tokens,"
            " completion_tokens = excluded.completion_tokens, ended_at_us = excluded.ended_at_us"
            " WHERE runstate_step.ended_at_us IS NULL AND excluded.ended_at_us IS NOT NULL RETURNING run"
        )

    @cached_property
    def steps(self) -> str:
        """The steps of a run, in the order in which they began to be kept, of `STEP_COLUMNS`."""
        columns = [self.dialect.as_text(f"s.{name}") if name == "result" else f"s.{name}" for name in STEP_COLUMNS]
        return (
            f"SELECT {', '.join(columns)} FROM runstate_step AS s WHERE s.run = {self.param('run')}"
            " ORDER BY s.number, s.began_at_us"
        )

    @cached_property
    def step_index(self) -> str:
        """Name, key and whether it has a result, of each step of a run."""
        return (
            f"SELECT s.name, s.key, s.ended_at_us IS NOT NULL FROM runstate_step AS s WHERE s.run = {self.param('run')}"
        )

    @cached_property
    def step_row(self) -> str:
        """The attempt and the result of a step."""
        return (
            f"SELECT s.attempt, {self.dialect.as_text('s.result')} FROM runstate_step AS s"
            f" WHERE s.run = {self.param('run')}"
            f" AND s.name = {self.param('name', 'text')} AND s.key = {self.param('key', 'text')}"
        )

    @cached_property
    def reset_lost(self) -> str:
        """Count the losses of a run that a worker holds anew, because it has made progress."""
        return (
            f"UPDATE runstate_run AS r SET lost = 0 WHERE r.seq = {self.param('seq')}"
            f" AND r.worker = {self.param('worker')} AND r.lost > 0"
            f" AND {self.same_claim(self.param('version'), self.param('attempt'))}"
        )
