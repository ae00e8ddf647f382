"""The statements that create runs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from runstate.lifecycle import INITIAL_STATUS
from runstate.store._sql.columns import COPIED_COLUMNS, CREATE_COLUMNS
from runstate.store._sql.events import Events

__all__ = ["Creates"]


class Creates(Events):
    """Create runs, and the configuration beside them."""

    @cached_property
    def create(self) -> Mapping[bool, str]:
        """Create many runs, with a configuration or without; returns id, seq and time of those that were created."""
        return {with_config: self._create(with_config) for with_config in (True, False)}

    def _create(self, with_config: bool) -> str:
        # What stands beside a run is written first: once the run is there, no client may add to it.
        beside = self.dialect.writes_in_one and with_config
        waits = "(SELECT count(*) FROM beside) IS NOT NULL" if beside else "true"
        return (
            f"WITH {self.table(CREATE_COLUMNS)}"
            + (f", beside AS ({self._config} RETURNING id)" if beside else "")
            + f" INSERT INTO runstate_run ({', '.join(COPIED_COLUMNS)},"
            " status, version, changed_at_us, created_at, expires_at, claimable_at_us, attempt)"
            f" SELECT {', '.join(f'v.{name}' for name in COPIED_COLUMNS)},"
            f" '{INITIAL_STATUS}', 1, t.now, t.now / 1000000, t.now / 1000000 + v.expires_in,"
            " CASE WHEN v.ready = 1 THEN t.now END, 0"
            f" FROM v, t WHERE {waits}{self.dialect.lookups.may_occupy('v')}"
            " ON CONFLICT DO NOTHING RETURNING id, seq, changed_at_us"
        )

    @cached_property
    def _config(self) -> str:
        return (
            "INSERT INTO runstate_run_config (id, config, trace_context)"
            f" SELECT v.id, {self.dialect.as_json('v.config')}, v.trace_context FROM v"
            " WHERE v.config IS NOT NULL AND NOT EXISTS (SELECT 1 FROM runstate_run AS r WHERE r.id = v.id)"
            " ON CONFLICT DO NOTHING"  # another client creates a run with this id, or has done so before
        )

    @cached_property
    def add_config(self) -> str:
        """SQLite's first half of `create`."""
        return f"WITH {self.table(CREATE_COLUMNS)} {self._config}"

    @cached_property
    def drop_config(self) -> str:
        """Take away the configuration of a run that was not created after all."""
        there = f"SELECT 1 FROM runstate_run WHERE id = {self.param('id', 'text')}"
        return f"DELETE FROM runstate_run_config WHERE id = {self.param('id', 'text')} AND NOT EXISTS ({there})"
