"""Which statements find runs, and their parameters: no run that is skipped is among them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from runstate.store._sql.connection import Connection, Params
from runstate.store._sql.statements import Statements

__all__ = ["picking"]

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


def picking(session: Connection, only: int | None = None) -> tuple[Statements, Params]:
    """Return the statements for claims and sweeps, and the parameters that they need besides their own.

    With `only`, they find no other run than this one. As long as no run is skipped, they are the usual statements.
    """
    if only is not None:
        return session.statements.only_one, {"only": only}
    skipped = session.skipped.seqs
    return (
        (session.statements.unskipped, {"skipped": json.dumps(skipped)}) if skipped else (session.statements, _NOTHING)
    )
