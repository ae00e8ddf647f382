"""Ids: no two alike, in no process."""

from __future__ import annotations

import os

import pytest

from runstate.run.ids import new_run_id


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_repeats_no_id() -> None:
    """Random bytes are kept in stock; a child must not use those of its parent."""
    new_run_id()  # there is a stock now
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, "".join(new_run_id(1)[4:] for _ in range(600)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    theirs = {told[place : place + 24] for place in range(0, len(told), 24)}
    ours = {new_run_id(1)[4:] for _ in range(600)}
    assert (600, 600, 1200) == (len(theirs), len(ours), len(theirs | ours))
