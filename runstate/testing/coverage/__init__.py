"""Transition coverage: which of the 81 cells a test suite has asked, moves apart from refusals, in total and by test.

Counted is what the code under test asked of a `Run` or a store in this process, and what the kit's assertions asked of
other classes. Moves made by `a_run` to set up a run are not counted.
"""

from runstate.testing.coverage._collector import Watch
from runstate.testing.coverage._data import Exercised, Tally

__all__ = ["Exercised", "Tally", "Watch"]
