"""Whether the small tables by which PostgreSQL finds runs agree with the runs."""

from __future__ import annotations

from typing import Final

from runstate.run.validators import pluralize
from runstate.store._sql.connection import Connection
from runstate.store.doctor.diagnosis import Sheet

__all__ = ["examine_lookups"]

_REMEDY: Final = (
    "stop the workers, run `runstate ddl --rebuild | psql ...` as the owner of the tables, and find out which client"
    " turns triggers off"
)


def examine_lookups(session: Connection, sheet: Sheet) -> None:
    """Note each small table that lacks runs, or has rows of others."""
    for table, query in session.statements.dialect.lookups.misplaced.items():
        found = session.execute(f"SELECT count(DISTINCT run), min(run) FROM ({query}) AS wrong", {})
        ((count, first),) = found
        if count:
            sentence = (
                f"{table} does not agree with runstate_run in {pluralize(count, 'run')}, the first of which is number"
                f" {first}: such a run is not found when it is to be claimed, taken over or ended"
            )
            sheet.add("error", "lookup", sentence, _REMEDY, thing=table)
    lookups = session.statements.dialect.lookups
    wrong = sorted({status for (status,) in session.execute(lookups.miscounted, {})}) if lookups.miscounted else []
    if wrong:
        sentence = f"runstate_count has a wrong number of runs that are {' or '.join(wrong)}: `counts` returns it"
        sheet.add("error", "lookup", sentence, _REMEDY, thing="runstate_count")
